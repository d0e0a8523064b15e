//! A lower file that was opened before is opened again only when it is read: then it is what it has become.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use overlay::live::{OpenFile, Options, Overlay, ROOT};
use rustix::fs::OFlags;

use crate::layers::overlay_at;

/// How many descriptors of this process are open on a file.
fn descriptors(file: &Path) -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap();
    let links = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link == file).count()
}

fn content(file: &OpenFile, overlay: &Overlay) -> String {
    let mut buffer = [0; 16];
    let count = file.file(overlay).unwrap().read_at(&mut buffer, 0).unwrap();
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

#[test]
fn a_lower_file_that_is_opened_again_costs_nothing_and_follows_what_happens_to_it() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["lower", "upper", "work"] {
        fs::create_dir(temp.path().join(name)).unwrap();
    }
    let lower = temp.path().join("lower").canonicalize().unwrap();
    for name in ["changed", "removed"] {
        fs::write(lower.join(name), "lower").unwrap();
    }
    let overlay = overlay_at(temp.path(), std::slice::from_ref(&lower), Options::default());
    let [changed, removed] =
        ["changed", "removed"].map(|name| overlay.lookup(ROOT, OsStr::new(name)).unwrap().node);
    let open = |node, flags| overlay.open(node, flags, false).unwrap();

    let first = open(changed, OFlags::RDONLY);
    assert_eq!(descriptors(&lower.join("changed")), 1);
    let [read, unread] = [(); 2].map(|()| open(changed, OFlags::RDONLY));
    assert_eq!(descriptors(&lower.join("changed")), 1);
    assert_eq!(content(&read, &overlay), "lower");
    assert_eq!(descriptors(&lower.join("changed")), 2);

    let written = open(changed, OFlags::WRONLY);
    written.file(&overlay).unwrap().write_at(b"upper", 0).unwrap();
    for file in [&first, &read, &unread] {
        assert_eq!(content(file, &overlay), "upper");
    }
    assert_eq!(fs::read(lower.join("changed")).unwrap(), b"lower");

    let _first = open(removed, OFlags::RDONLY);
    let unread = open(removed, OFlags::RDONLY);
    overlay.unlink(ROOT, OsStr::new("removed")).unwrap();
    assert_eq!(content(&unread, &overlay), "lower");
}
