//! Names of every length and content.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::{Drivers, Scene};
use crate::files::{self as f, refused};

/// Names of up to 255 bytes; one more is too long, for every call.
pub fn long_names(d: &Drivers) {
    let (longest, too_long) = ("n".repeat(255), "n".repeat(256));
    let mut s = Scene::mounted(d, |t| t.file(&"l".repeat(255), "lower"));
    f::write(s.at(&longest), "upper").unwrap();
    f::append(s.at("l".repeat(255)), "+").unwrap();
    let errno = Errno::NAMETOOLONG;
    refused(f::lstat(s.at(&too_long)), errno);
    refused(f::write(s.at(&too_long), ""), errno);
    refused(f::mkdir(s.at(&too_long), 0o755), errno);
    refused(f::symlink("x", s.at(&too_long)), errno);
    refused(f::link(s.at(&longest), s.at(&too_long)), errno);
    refused(f::rename(s.at(&longest), s.at(&too_long)), errno);
    refused(f::unlink(s.at(&too_long)), errno);
    f::rename(s.at(&longest), s.at("m".repeat(255))).unwrap();
    f::unlink(s.at("l".repeat(255))).unwrap();
    assert!(s.is_whiteout("l".repeat(255)));
    s.same_after_remounts();
}

/// Any bytes but `/` and 0.
pub fn odd_bytes(d: &Drivers) {
    let all: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let names: Vec<&OsStr> = [
        &all[..127],
        &all[127..],
        b" ",
        b"\n",
        b"...",
        b"-rf",
        b"\xff\xfe",
        b"a:b,c\\d",
        b"\"",
    ]
    .into_iter()
    .map(OsStr::from_bytes)
    .collect();
    let mut s = Scene::mounted(d, |t| {
        for name in &names {
            f::write(t.at(name), name.as_bytes()).unwrap()
        }
        t
    });
    f::mkdir(s.at("moved"), 0o755).unwrap();
    for name in &names {
        assert_eq!(f::read(s.at(name)).unwrap(), name.as_bytes());
        f::append(s.at(name), "+").unwrap();
        f::rename(s.at(name), s.at("moved").join(name)).unwrap();
    }
    let listed: Vec<_> = f::list(s.at("moved"))
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(listed, sorted);
    s.same_after_remounts();
}

/// Names that the overlay itself gives a meaning elsewhere are ordinary here.
pub fn names_that_mean_something_elsewhere(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.file(".wh.f", "")
            .file(".wh..wh..opq", "")
            .file("f", "")
            .file("#1", "")
            .dir("work", 0o755)
            .dir("index", 0o755)
    });
    assert_eq!(
        f::names(s.at("")).unwrap(),
        ["#1", ".wh..wh..opq", ".wh.f", "f", "index", "work"]
    );
    f::append(s.at(".wh.f"), "x").unwrap();
    f::unlink(s.at(".wh..wh..opq")).unwrap();
    f::write(s.at(".wh.g"), "").unwrap();
    f::rename(s.at("#1"), s.at("#2")).unwrap();
    f::rmdir(s.at("work")).unwrap();
    s.same_after_remounts();
}

/// A path as deep as a path can be, each directory copied up on the way to the file.
pub fn deep_paths(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        (1..=120)
            .fold(t, |t, depth| t.dir(&"deeper/".repeat(depth), 0o755))
            .file(&format!("{}f", "deeper/".repeat(120)), "x")
    });
    let path = "deeper/".repeat(120);
    f::append(s.at(format!("{path}f")), "y").unwrap();
    f::write(s.at(format!("{path}new")), "").unwrap();
    assert_eq!(f::read(s.upper(format!("{path}f"))).unwrap(), b"xy");
    assert_eq!(f::names(s.at(&path)).unwrap(), ["f", "new"]);
    s.same_after_remounts();
    refused(f::lstat(s.at("x/".repeat(2100))), Errno::NAMETOOLONG);
}

/// A directory of thousands of names, most of them below, some removed and some new.
pub fn many_names(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        (0..3000).fold(t.dir("d", 0o755), |t, n| t.file(&format!("d/{n}"), ""))
    });
    for n in (0..3000).step_by(10) {
        f::unlink(s.at(format!("d/{n}"))).unwrap();
    }
    for n in 3000..3500 {
        f::write(s.at(format!("d/{n}")), "").unwrap();
    }
    assert_eq!(f::names(s.at("d")).unwrap().len(), 3200);
    s.remount_by_other();
    assert_eq!(f::names(s.at("d")).unwrap().len(), 3200);
}

/// Trailing slashes mean a directory.
pub fn trailing_slashes(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "").dir("d", 0o755).link_to("l", "d"));
    refused(f::lstat(s.at("f/")), Errno::NOTDIR);
    assert_eq!(f::kind(s.at("l/")), Ok(rustix::fs::FileType::Directory));
    f::mkdir(s.at("new/"), 0o755).unwrap();
    refused(f::unlink(s.at("f/")), Errno::NOTDIR);
    refused(f::write(s.at("g/"), ""), Errno::ISDIR);
    f::rmdir(s.at("new/")).unwrap();
}

/// Many layers, as many as an image may well have.
pub fn many_layers(d: &Drivers) {
    let mut s = (0..60).fold(Scene::new(d), |s, n| {
        s.lower(move |t| {
            let t = t
                .dir("d", 0o755)
                .file(&format!("d/{n}"), "")
                .file("top", n.to_string());
            if n >= 30 {
                t.whiteout(&format!("d/{}", n - 30))
            } else {
                t
            }
        })
    });
    s.try_mount().unwrap();
    assert_eq!(f::read(s.at("top")).unwrap(), b"59");
    let mut names: Vec<String> = (30..60).map(|n| n.to_string()).collect();
    names.sort();
    assert_eq!(f::names(s.at("d")).unwrap(), names);
}
