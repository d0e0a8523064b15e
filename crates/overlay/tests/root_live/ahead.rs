//! What is read ahead of a listing holds until somebody changes the directory.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;

use overlay::live::{NodeId, Options, Overlay, ROOT, SetAttr};
use rustix::fs::Mode;

use crate::layers::{NAMES, Random, overlay_at};

/// Reads a random directory ahead, which stays so until somebody lists it.
pub(crate) fn somewhere(random: &mut Random, overlay: &Overlay) {
    let mut held = Vec::new();
    let mut at = ROOT;
    for _ in 0..random.below(4) {
        if let Ok(found) = overlay.lookup(at, OsStr::new(random.pick(&NAMES))) {
            at = found.node;
            held.push(at);
        }
    }
    let _ = overlay.read_ahead(at);
    for node in held {
        overlay.forget(node, 1);
    }
}

/// Names of a directory with the permission bits that a listing brings along.
fn listed(overlay: &Overlay, dir: NodeId) -> Vec<(OsString, u32)> {
    let mut all = Vec::new();
    let mut nodes = Vec::new();
    overlay
        .list(dir, 0, &mut |entry| {
            if entry.name != "." && entry.name != ".." {
                let found = overlay.lookup_listed(dir, entry).unwrap();
                nodes.push(found.node);
                all.push((entry.name.to_owned(), found.attr.st_mode & 0o777));
            }
            true
        })
        .unwrap();
    for node in nodes {
        overlay.forget(node, 1);
    }
    all.sort();
    all
}

#[test]
fn what_was_read_ahead_holds_while_nobody_changes_the_directory() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["lower", "lower/dir", "upper", "work"] {
        fs::create_dir(temp.path().join(name)).unwrap();
    }
    let lower = temp.path().join("lower");
    let chmod = |name: &str, mode| {
        fs::set_permissions(lower.join("dir").join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in ["a", "b", "gone"] {
        fs::write(lower.join("dir").join(name), "").unwrap();
        chmod(name, 0o600);
    }
    let overlay = overlay_at(temp.path(), std::slice::from_ref(&lower), Options::default());
    let dir = overlay.lookup(ROOT, OsStr::new("dir")).unwrap().node;
    let names = |entries: &[(&str, u32)]| -> Vec<_> {
        let entries = entries.iter();
        entries
            .map(|(name, mode)| (OsString::from(name), *mode))
            .collect()
    };

    // Nobody may change a layer. Here it is how one sees that it was not looked at again.
    overlay.read_ahead(dir).unwrap();
    chmod("a", 0o640);
    assert_eq!(
        listed(&overlay, dir),
        names(&[("a", 0o600), ("b", 0o600), ("gone", 0o600)])
    );
    chmod("a", 0o600);

    // A file changes, is forgotten, and is found again as it is now; others come and go.
    overlay.read_ahead(dir).unwrap();
    let set = SetAttr {
        mode: Some(0o644),
        ..SetAttr::default()
    };
    let a = overlay.lookup(dir, OsStr::new("a")).unwrap().node;
    overlay.setattr(a, &set, None).unwrap();
    overlay.forget(a, 1);
    overlay.unlink(dir, OsStr::new("gone")).unwrap();
    let mode = Mode::RWXU.as_raw_mode();
    let made = overlay.mkdir(dir, OsStr::new("made"), mode, Default::default());
    overlay.forget(made.unwrap().node, 1);
    let now = names(&[("a", 0o644), ("b", 0o600), ("made", 0o700)]);
    assert_eq!(listed(&overlay, dir), now);
    // It has a part in the upper layer now, and is read when it is asked for.
    overlay.read_ahead(dir).unwrap();
    chmod("b", 0o640);
    assert_eq!(
        listed(&overlay, dir),
        names(&[("a", 0o644), ("b", 0o640), ("made", 0o700)])
    );
}
