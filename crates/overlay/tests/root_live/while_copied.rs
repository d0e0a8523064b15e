//! What can be done while a large file is copied up: everything but what needs that very copy.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use overlay::live::{Caller, NodeId, Options, Overlay, ROOT, SetAttr};
use rustix::fs::{OFlags, RenameFlags};

use crate::layers::overlay_at;

/// Bytes. A copy takes about a tenth of a second, of which the rest takes a hundredth.
const LARGE: usize = 256 << 20;

/// How a file is copied up: by a thread that does this.
type Way = fn(&Overlay, NodeId);

const WAYS: [(&str, Way); 5] = [
    ("open", |overlay, node| {
        overlay.open(node, OFlags::RDWR, false).unwrap();
    }),
    ("chmod", |overlay, node| {
        let set = SetAttr {
            mode: Some(0o600),
            ..SetAttr::default()
        };
        overlay.setattr(node, &set, None).unwrap();
    }),
    ("rename", |overlay, _| {
        let (from, to) = (OsStr::new("large"), OsStr::new("renamed"));
        overlay
            .rename(ROOT, from, ROOT, to, RenameFlags::empty())
            .unwrap();
    }),
    ("rename of another over it", |overlay, _| {
        let (from, to) = (OsStr::new("large"), OsStr::new("taken"));
        overlay
            .rename(ROOT, from, ROOT, to, RenameFlags::empty())
            .unwrap();
    }),
    ("link", |overlay, node| {
        let found = overlay.link(node, ROOT, OsStr::new("linked")).unwrap();
        overlay.forget(found.node, 1);
    }),
];

/// Everything here is about the directory that holds the file, or the file itself as it was.
fn others(overlay: &Overlay, large: NodeId) {
    let caller = Caller::default();
    let name = OsStr::new;
    let flags = RenameFlags::empty();
    for round in 0..20 {
        let (made, _) = overlay
            .create(ROOT, name("new"), OFlags::WRONLY, 0o644, caller)
            .unwrap();
        overlay
            .rename(ROOT, name("new"), ROOT, name("newer"), flags)
            .unwrap();
        let dir = overlay.mkdir(ROOT, name("made"), 0o755, caller).unwrap();
        let linked = overlay.link(made.node, dir.node, name("again")).unwrap();
        overlay.unlink(dir.node, name("again")).unwrap();
        overlay.rmdir(ROOT, name("made")).unwrap();
        overlay.unlink(ROOT, name("newer")).unwrap();
        let small = overlay.lookup(ROOT, name("small")).unwrap();
        let file = overlay.open(small.node, OFlags::RDWR, false).unwrap();
        file.file(overlay).unwrap().write_all_at(b"x", round).unwrap();
        let mut names = 0;
        let mut count = |_: &overlay::live::DirEntry<'_>| {
            names += 1;
            true
        };
        overlay.list(ROOT, 0, &mut count).unwrap();
        assert!(names >= 4, "{names} names");
        assert_eq!(overlay.getattr(large, None).unwrap().st_size, LARGE as i64);
        let file = overlay.open(large, OFlags::RDONLY, false).unwrap();
        let mut bytes = [0; 4];
        file.file(overlay).unwrap().read_exact_at(&mut bytes, 4).unwrap();
        assert_eq!(&bytes, b"####");
        for node in [made.node, dir.node, linked.node, small.node] {
            overlay.forget(node, 1);
        }
    }
}

/// Bytes of the file without a name that is being made in the work directory.
fn being_copied(work: &Path) -> u64 {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let unnamed = descriptors.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(work)));
    let files = unnamed
        .filter_map(|fd| fs::metadata(fd.path()).ok())
        .filter(|meta| meta.is_file());
    files.map(|meta| meta.len()).sum()
}

#[test]
fn other_names_and_the_file_as_it_was_are_usable_while_it_is_copied_up() {
    let temp = tempfile::tempdir().unwrap();
    // Of another file system, so that the blocks cannot be shared: in memory, where they are read at once.
    let lower = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::write(lower.path().join("large"), vec![b'#'; LARGE]).unwrap();
    for name in ["small", "taken"] {
        fs::write(lower.path().join(name), "small").unwrap();
    }
    for (what, way) in WAYS {
        // A disk that is busy may hold the others up until a copy is done. Whoever had to wait for it would do so each time.
        let beside = (0..5).any(|_| beside_the_copy(temp.path(), lower.path(), what, way));
        assert!(beside, "{what}: the others had to wait for the copy");
    }
}

/// Copies the large file up in one of the ways, uses the others meanwhile, and tells whether it was not copied by then.
fn beside_the_copy(temp: &Path, lower: &Path, what: &str, way: Way) -> bool {
    for name in ["upper", "work"] {
        let _ = fs::remove_dir_all(temp.join(name));
        fs::create_dir(temp.join(name)).unwrap();
    }
    let options = Options {
        index: true,
        ..Options::default()
    };
    let overlay = overlay_at(temp, &[lower.to_owned()], options);
    let large = overlay.lookup(ROOT, OsStr::new("large")).unwrap().node;
    let copied = AtomicBool::new(false);
    let beside = std::thread::scope(|scope| {
        scope.spawn(|| {
            way(&overlay, large);
            copied.store(true, Ordering::SeqCst);
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        while being_copied(&temp.join("work")) == 0 {
            if copied.load(Ordering::SeqCst) {
                return false;
            }
            assert!(Instant::now() < deadline, "{what}: nothing is copied");
        }
        others(&overlay, large);
        !copied.load(Ordering::SeqCst)
    });
    let size = overlay.getattr(large, None).unwrap().st_size;
    assert_eq!(size, LARGE as i64, "{what}");
    beside
}
