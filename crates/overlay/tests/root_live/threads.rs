//! Several threads at one overlay.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mount::Mount;
use overlay::Format;
use overlay::live::{Caller, NodeId, Options, Overlay, ROOT};
use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;
use sys::Dir;

use crate::layers::{NAMES, Random, attach, fill, overlay_at};
use crate::seeds;
use crate::seen::{difference, seen, shown};

/// Does one random thing, as one of several threads that do; what it answered.
fn poke(random: &mut Random, overlay: &Overlay) -> Result<(), Errno> {
    let held = std::cell::RefCell::new(Vec::new());
    let find = |random: &mut Random| -> Result<(NodeId, &'static str), Errno> {
        let mut at = ROOT;
        for _ in 0..random.below(3) {
            at = overlay.lookup(at, OsStr::new(random.pick(&NAMES)))?.node;
            held.borrow_mut().push(at);
        }
        Ok((at, random.pick(&NAMES)))
    };
    let keep = |found: overlay::live::Found| held.borrow_mut().push(found.node);
    let caller = Caller::default();
    let mut act = || -> Result<(), Errno> {
        let (dir, name) = find(random)?;
        let name = OsStr::new(name);
        match random.below(10) {
            0 => overlay
                .create(dir, name, OFlags::WRONLY, 0o644, caller)
                .map(|(found, _)| keep(found)),
            1 => overlay.mkdir(dir, name, 0o755, caller).map(keep),
            2 => overlay.unlink(dir, name),
            3 => overlay.rmdir(dir, name),
            4 | 5 => {
                let (to, new_name) = find(random)?;
                let flags = random.pick(&[RenameFlags::empty(), RenameFlags::EXCHANGE]);
                overlay.rename(dir, name, to, OsStr::new(new_name), flags)
            }
            6 => {
                let found = overlay.lookup(dir, name)?;
                keep(found);
                let file = overlay.open(found.node, OFlags::RDWR, false)?;
                file.file(overlay)?
                    .write_all_at(b"some", random.below(9))
                    .map_err(|_| Errno::IO)
            }
            7 => {
                let found = overlay.lookup(dir, name)?;
                keep(found);
                let (to, new_name) = find(random)?;
                overlay.link(found.node, to, OsStr::new(new_name)).map(keep)
            }
            8 => overlay.read_ahead(dir),
            _ => overlay.list(dir, 0, &mut |entry| {
                if entry.name != "."
                    && entry.name != ".."
                    && let Ok(found) = overlay.lookup_listed(dir, entry)
                {
                    keep(found);
                }
                true
            }),
        }
    };
    let result = act();
    for node in held.into_inner() {
        overlay.forget(node, 1);
    }
    result
}

#[test]
fn threads_that_change_the_same_directories_leave_one_sound_tree() {
    for seed in seeds(8) {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(at(name)).unwrap();
        }
        fill(
            &mut Random(seed),
            &Dir::open_ambient(at("lower")).unwrap(),
            3,
            true,
            Format::TRUSTED,
        );
        let open = || {
            let options = Options {
                index: true,
                ..Options::default()
            };
            overlay_at(temp.path(), &[at("lower")], options)
        };
        let overlay = open();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let overlay = &overlay;
                scope.spawn(move || {
                    let random = &mut Random(seed * 1000 + thread);
                    for _ in 0..400 {
                        let result = poke(random, overlay);
                        let defect = matches!(result, Err(Errno::IO | Errno::STALE | Errno::XDEV));
                        assert!(!defect, "seed {seed}: {result:?}");
                    }
                });
            }
        });
        let (mut ours, mut again, mut theirs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        assert_eq!(overlay.known(), 1, "seed {seed}: every reference was given back");
        shown(&overlay, ROOT, Path::new(""), &mut ours);
        drop(overlay);
        let other = open();
        shown(&other, ROOT, Path::new(""), &mut again);
        drop(other);
        difference(seed, &[], "ours", &ours, "the next server's", &again);
        let (upper, work, merged) = (at("upper"), at("work"), at("merged"));
        let value = Mount::overlay(
            &[&at("lower")],
            Some((&upper, &work)),
            &["redirect_dir=on", "index=on"],
        );
        attach(&value, &merged);
        seen(&merged, &merged, &mut theirs);
        mount::detach(&merged).unwrap();
        difference(seed, &[], "ours", &ours, "the kernel's", &theirs);
    }
}

/// The whiteout that all others are links of is made once, however many need the first: one that was replaced could not
/// be linked to, and a file that is there would be called missing.
#[test]
fn the_first_whiteouts_of_several_threads() {
    const THREADS: usize = 4;
    for round in 0..60 {
        let temp = tempfile::tempdir().unwrap();
        for name in ["lower", "upper", "work"] {
            fs::create_dir(temp.path().join(name)).unwrap();
        }
        let lower = temp.path().join("lower");
        for thread in 0..THREADS {
            fs::create_dir(lower.join(thread.to_string())).unwrap();
            fs::write(lower.join(format!("{thread}/gone")), "").unwrap();
        }
        let overlay = overlay_at(temp.path(), &[lower], Options::default());
        let dirs: Vec<NodeId> = (0..THREADS)
            .map(|thread| {
                overlay
                    .lookup(ROOT, OsStr::new(&thread.to_string()))
                    .unwrap()
                    .node
            })
            .collect();
        let start = std::sync::Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for dir in &dirs {
                let (overlay, start) = (&overlay, &start);
                scope.spawn(move || {
                    start.wait();
                    let answer = overlay.unlink(*dir, OsStr::new("gone"));
                    assert_eq!(answer, Ok(()), "round {round}");
                });
            }
        });
    }
}
