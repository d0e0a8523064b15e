//! Inode numbers: one for each thing, the same for as long as it lives.

use std::collections::BTreeSet;

use super::{Drivers, Scene};
use crate::disk::Disk;
use crate::files as f;

fn number(s: &Scene, name: &str) -> (u64, u64) {
    let stat = f::lstat(s.at(name)).unwrap();
    (stat.st_dev, stat.st_ino)
}

/// A copy-up leaves the number and the device as they were, and so does a remount.
pub fn a_copy_up_leaves_them(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.file("f", "x").dir("d", 0o755).file("d/g", "").link_to("l", "x")
    });
    let all = |s: &Scene| ["f", "d", "d/g", "l"].map(|name| number(s, name));
    let before = all(&s);
    let open = f::open_read(s.at("f")).unwrap();
    f::append(s.at("f"), "y").unwrap();
    f::chmod(s.at("d"), 0o700).unwrap();
    f::chown(s.at("l"), Some(1), None).unwrap();
    f::write(s.at("d/new"), "").unwrap();
    assert_eq!(all(&s), before);
    let stat = rustix::fs::fstat(&open).unwrap();
    assert_eq!((stat.st_dev, stat.st_ino), before[0]);
    drop(open);
    let numbers = |s: &Scene| all(s).map(|(_, number)| number);
    let before = numbers(&s);
    s.remount();
    assert_eq!(numbers(&s), before);
    s.remount_by_other();
    assert_eq!(numbers(&s), before);
}

/// With all layers on one file system everything has the mount's device, and a number of its own.
pub fn one_device(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| t.file("a", "").dir("d", 0o755).file("d/b", ""))
        .lower(|t| t.file("c", "").dir("d", 0o755).file("d/e", ""))
        .mount();
    f::write(s.at("new"), "").unwrap();
    f::mkdir(s.at("d/sub"), 0o755).unwrap();
    let device = number(&s, "").0;
    let names = ["", "a", "c", "d", "d/b", "d/e", "new", "d/sub"];
    let all: BTreeSet<_> = names.iter().map(|name| number(&s, name)).collect();
    assert_eq!(all.len(), names.len());
    assert!(all.iter().all(|(dev, _)| *dev == device));
}

/// With layers on several file systems (`xino=on`) the device is still one, and nothing shares a number.
pub fn several_file_systems(d: &Drivers) {
    let disk = Disk::tmpfs("size=4m");
    let mut s = Scene::new(d)
        .lower_in(&disk.path(), |t| {
            (0..20).fold(t, |t, n| t.file(&format!("tmpfs{n}"), ""))
        })
        .lower(|t| (0..20).fold(t, |t, n| t.file(&format!("disk{n}"), "")))
        .option("xino=on")
        .mount();
    let names: Vec<String> = ["tmpfs", "disk"]
        .iter()
        .flat_map(|kind| (0..20).map(move |n| format!("{kind}{n}")))
        .collect();
    let all = |s: &Scene| names.iter().map(|name| number(s, name)).collect::<Vec<_>>();
    let before = all(&s);
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 40);
    assert!(before.iter().all(|(device, _)| *device == number(&s, "").0));
    for name in &names {
        f::chmod(s.at(name), 0o600).unwrap();
    }
    assert_eq!(all(&s), before);
    let inos = |s: &Scene| all(s).into_iter().map(|(_, number)| number).collect::<Vec<_>>();
    let before = inos(&s);
    s.remount();
    assert_eq!(inos(&s), before);
}

/// What `readdir` says is what `lstat` says, before and after a copy-up, and after a remount.
pub fn readdir_agrees(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.dir("d", 0o755)
            .file("d/a", "")
            .file("d/b", "")
            .dir("d/c", 0o755)
    });
    for round in 0..3 {
        for entry in f::list(s.at("d")).unwrap() {
            let path = s.at("d").join(&entry.name);
            assert_eq!(
                entry.ino,
                f::lstat(&path).unwrap().st_ino,
                "{:?}, round {round}",
                entry.name
            );
        }
        f::append(s.at("d/a"), "x").unwrap();
        f::chmod(s.at("d/c"), 0o700).unwrap();
        if round == 1 {
            s.remount();
        }
    }
}

/// A thing made at the name of one that was removed is another; a rename keeps the number.
pub fn new_things_are_others(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "").file("g", ""));
    let (old, moved) = (number(&s, "f"), number(&s, "g"));
    let open = f::open_read(s.at("f")).unwrap();
    f::unlink(s.at("f")).unwrap();
    f::write(s.at("f"), "").unwrap();
    assert_ne!(number(&s, "f"), old);
    f::rename(s.at("g"), s.at("f")).unwrap();
    assert_eq!(number(&s, "f"), moved);
    drop(open);
}
