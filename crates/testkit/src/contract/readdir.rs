//! Listings of merged directories.

use std::collections::BTreeSet;

use rustix::fs::{FileType, OFlags, SeekFrom, seek};
use rustix::io::Errno;

use super::{Drivers, Scene, Tree};
use crate::files::{self as f, Listed, refused};

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

fn many(t: Tree, dir: &str, range: std::ops::Range<u32>) -> Tree {
    range.fold(t.dir(dir, 0o755), |t, number| {
        t.file(&format!("{dir}/a-rather-long-name-for-a-file-{number:04}"), "")
    })
}

fn three_layers(d: &Drivers) -> Scene {
    Scene::new(d)
        .lower(|t| many(t, "d", 0..150))
        .lower(|t| many(t, "d", 100..250).whiteout("d/a-rather-long-name-for-a-file-0007"))
        .with_upper(|t| many(t, "d", 200..300))
        .mount()
}

fn plain(listed: &[Listed]) -> Vec<&Listed> {
    listed
        .iter()
        .filter(|entry| entry.name != "." && entry.name != "..")
        .collect()
}

/// Every name once, wherever it comes from; whiteouts are not shown; small buffers lose nothing.
pub fn each_name_once(d: &Drivers) {
    let s = three_layers(d);
    for buffer in [512, 4096, 1 << 16] {
        let dir = f::open(s.at("d"), DIR, 0).unwrap();
        let listed = f::list_open(&dir, buffer).unwrap();
        let names: BTreeSet<_> = listed.iter().map(|entry| &entry.name).collect();
        assert_eq!(listed.len(), names.len(), "a name came twice");
        assert_eq!(plain(&listed).len(), 299);
    }
}

/// `d_type` and `d_ino` are what `lstat` says, for things of every layer; so are those of `.` and `..`.
pub fn numbers_and_kinds_are_those_of_lstat(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| {
            t.dir("d", 0o755)
                .file("d/f", "")
                .dir("d/sub", 0o755)
                .link_to("d/link", "x")
                .node("d/fifo", FileType::Fifo, (0, 0))
                .dir("d/merged", 0o755)
                .file("d/up", "1")
        })
        .lower(|t| t.dir("d", 0o755).dir("d/merged", 0o755).file("d/two", ""))
        .mount();
    f::append(s.at("d/up"), "copied").unwrap();
    f::write(s.at("d/new"), "").unwrap();
    f::mkdir(s.at("d/newdir"), 0o755).unwrap();
    let dir = f::open(s.at("d"), DIR, 0).unwrap();
    let listed = f::list_open(&dir, 4096).unwrap();
    assert_eq!(listed.len(), 11);
    for entry in listed {
        let stat = f::lstat(s.at("d").join(&entry.name)).unwrap();
        assert_eq!(entry.ino, stat.st_ino, "{:?}", entry.name);
        assert_eq!(
            entry.kind,
            FileType::from_raw_mode(stat.st_mode).as_raw_mode(),
            "{:?}",
            entry.name
        );
    }
}

/// `seekdir` to what `telldir` gave goes on behind that entry, from any place and in any order.
pub fn seekdir_returns_to_where_telldir_was(d: &Drivers) {
    let s = three_layers(d);
    let dir = f::open(s.at("d"), DIR, 0).unwrap();
    let all = f::list_open(&dir, 4096).unwrap();
    for place in [0, 1, 150, 299, 7, 298, 300] {
        seek(&dir, SeekFrom::Start(all[place].next)).unwrap();
        let rest = f::list_open(&dir, 700).unwrap();
        assert_eq!(rest, all[place + 1..], "after entry {place}");
    }
}

/// The same in a directory of one layer only, which the kernel lists without merging.
pub fn seekdir_in_a_directory_of_one_layer(d: &Drivers) {
    let s = Scene::mounted(d, |t| many(t, "lower", 0..200));
    f::mkdir(s.at("upper"), 0o755).unwrap();
    for number in 0..200 {
        f::write(s.at(format!("upper/some-name-or-other-{number}")), "").unwrap();
    }
    for name in ["lower", "upper"] {
        let dir = f::open(s.at(name), DIR, 0).unwrap();
        let all = f::list_open(&dir, 4096).unwrap();
        assert_eq!(all.len(), 202);
        for place in [0, 100, 42, 200] {
            seek(&dir, SeekFrom::Start(all[place].next)).unwrap();
            assert_eq!(
                f::list_open(&dir, 700).unwrap(),
                all[place + 1..],
                "{name} after {place}"
            );
        }
    }
}

/// Rewinding reads the directory again: what came and went meanwhile is seen.
pub fn rewinding_reads_again(d: &Drivers) {
    let s = three_layers(d);
    let dir = f::open(s.at("d"), DIR, 0).unwrap();
    assert_eq!(f::list_open(&dir, 4096).unwrap().len(), 301);
    f::write(s.at("d/new"), "").unwrap();
    f::unlink(s.at("d/a-rather-long-name-for-a-file-0000")).unwrap();
    f::unlink(s.at("d/a-rather-long-name-for-a-file-0299")).unwrap();
    seek(&dir, SeekFrom::Start(0)).unwrap();
    let again = f::list_open(&dir, 4096).unwrap();
    assert_eq!(again.len(), 300);
    assert!(again.iter().any(|entry| entry.name == "new"));
}

/// Removing what was listed while the listing goes on (as `rm -r` does) reaches everything.
pub fn removing_while_listing_reaches_everything(d: &Drivers) {
    let s = three_layers(d);
    let dir = f::open(s.at("d"), DIR, 0).unwrap();
    while let Some(some) = f::list_some(&dir, 1024).unwrap() {
        for entry in plain(&some) {
            f::unlink(s.at("d").join(&entry.name)).unwrap();
        }
    }
    f::rmdir(s.at("d")).unwrap();
    assert!(!f::exists(s.at("d")));
}

/// Names that are there all the while are listed once, however many others are made and removed meanwhile.
pub fn a_listing_during_changes_keeps_what_stays(d: &Drivers) {
    let s = three_layers(d);
    let dir = f::open(s.at("d"), DIR, 0).unwrap();
    let mut seen = Vec::new();
    let mut number = 0;
    while let Some(some) = f::list_some(&dir, 2048).unwrap() {
        seen.extend(some.into_iter().map(|entry| entry.name));
        for _ in 0..5 {
            f::write(s.at(format!("d/came-{number}")), "").unwrap();
            number += 1;
        }
        let _ = f::unlink(s.at(format!("d/came-{}", number / 2)));
    }
    let stayed: Vec<_> = seen
        .iter()
        .filter(|name| name.to_string_lossy().starts_with("a-rather"))
        .collect();
    let once: BTreeSet<_> = stayed.iter().collect();
    assert_eq!((stayed.len(), once.len()), (299, 299));
}

/// A directory opened while it was in a lower layer alone shows, rewound, what was made in it since.
pub fn a_directory_opened_before_its_copy_up(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.dir("d", 0o755).file("d/lower", ""));
    let dir = f::open(s.at("d"), DIR, 0).unwrap();
    assert_eq!(f::list_open(&dir, 4096).unwrap().len(), 3);
    f::write(s.at("d/new"), "").unwrap();
    seek(&dir, SeekFrom::Start(0)).unwrap();
    let listed = f::list_open(&dir, 4096).unwrap();
    let names: BTreeSet<_> = plain(&listed)
        .into_iter()
        .map(|entry| entry.name.clone())
        .collect();
    assert_eq!(names, BTreeSet::from(["lower".into(), "new".into()]));
}

/// A removed directory that is still open lists nothing, not even itself.
pub fn a_removed_directory_lists_nothing(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.dir("lower", 0o755));
    f::mkdir(s.at("upper"), 0o755).unwrap();
    for name in ["lower", "upper"] {
        let dir = f::open(s.at(name), DIR, 0).unwrap();
        f::rmdir(s.at(name)).unwrap();
        refused(f::list_open(&dir, 4096), Errno::NOENT);
    }
}

/// A file cannot be listed, and a directory not be read.
pub fn files_are_not_directories(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "x").dir("d", 0o755));
    let file = f::open_read(s.at("f")).unwrap();
    refused(f::list_open(&file, 4096), Errno::NOTDIR);
    refused(f::read(s.at("d")), Errno::ISDIR);
}

/// The listing of a directory in an upper layer shows nothing of the overlay's own bookkeeping.
pub fn nothing_of_the_overlays_own_is_listed(d: &Drivers) {
    let mut s = Scene::new(d)
        .lower(|t| {
            t.dir("d", 0o755)
                .file("d/a", "")
                .file("d/b", "")
                .dir("d/c", 0o755)
        })
        .option("index=on")
        .mount();
    f::unlink(s.at("d/a")).unwrap();
    f::rmdir(s.at("d/c")).unwrap();
    f::append(s.at("d/b"), "x").unwrap();
    for _ in 0..2 {
        assert_eq!(f::names(s.at("")).unwrap(), ["d"]);
        assert_eq!(f::names(s.at("d")).unwrap(), ["b"]);
        s.remount();
    }
}
