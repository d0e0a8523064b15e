//! What lies in the upper and work directories, and what a mount refuses or cleans.

use rustix::fs::FileType;
use rustix::io::Errno;

use super::{Driver, Drivers, Scene};
use crate::files::{self as f, refused};

/// A whiteout is a device 0/0, also where a whole directory was removed, and is found as one by the other driver.
pub fn whiteouts_are_devices(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.file("f", "")
            .link_to("l", "x")
            .dir("d", 0o755)
            .dir("d/e", 0o755)
            .file("d/e/g", "")
    });
    f::unlink(s.at("f")).unwrap();
    f::unlink(s.at("l")).unwrap();
    f::unlink(s.at("d/e/g")).unwrap();
    f::rmdir(s.at("d/e")).unwrap();
    for name in ["f", "l", "d/e"] {
        let stat = f::lstat(s.upper(name)).unwrap();
        assert_eq!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::CharacterDevice,
            "{name}"
        );
        assert_eq!(stat.st_rdev, 0, "{name}");
    }
    assert_eq!(f::names(s.upper("d")).unwrap(), ["e"]);
    s.same_after_remounts();
}

/// A directory made over something deleted is opaque; one made where nothing was is not.
pub fn directories_over_deleted_things_are_opaque(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.dir("d", 0o755).file("d/x", "").file("f", ""));
    f::unlink(s.at("d/x")).unwrap();
    f::rmdir(s.at("d")).unwrap();
    f::mkdir(s.at("d"), 0o755).unwrap();
    f::mkdir(s.at("new"), 0o755).unwrap();
    f::mkdir(s.at("d/sub"), 0o755).unwrap();
    assert!(s.is_opaque("d"));
    assert!(!s.is_opaque("new"));
    f::write(s.at("d/x"), "").unwrap();
    f::unlink(s.at("d/x")).unwrap();
    assert_eq!(
        f::names(s.upper("d")).unwrap(),
        ["sub"],
        "an opaque directory needs no whiteouts"
    );
    s.same_after_remounts();
}

/// A copied-up thing names its origin, and its directory is marked to hold such.
pub fn copied_up_things_name_their_origin(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.dir("d", 0o755).file("d/f", "x"));
    f::append(s.at("d/f"), "y").unwrap();
    let origin = f::get_xattr(s.upper("d/f"), &super::own("origin")).unwrap();
    assert_eq!(
        (origin[0], origin[1], usize::from(origin[2])),
        (0, 0xfb, origin.len())
    );
    assert!(f::get_xattr(s.upper("d"), &super::own("origin")).is_ok());
    assert_eq!(f::get_xattr(s.upper("d"), &super::own("impure")).unwrap(), b"y");
    assert_eq!(f::get_xattr(s.upper(""), &super::own("impure")).unwrap(), b"y");
    f::write(s.at("new"), "").unwrap();
    refused(f::get_xattr(s.upper("new"), &super::own("origin")), Errno::NODATA);
}

/// Nothing is left in the work directory when all is done.
pub fn the_work_directory_is_left_empty(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.file("a", "x").file("b", "y").dir("d", 0o755).file("d/x", "")
    });
    f::append(s.at("a"), "x").unwrap();
    f::unlink(s.at("b")).unwrap();
    f::rename(s.at("a"), s.at("b")).unwrap();
    f::unlink(s.at("d/x")).unwrap();
    f::rmdir(s.at("d")).unwrap();
    f::mkdir(s.at("d"), 0o755).unwrap();
    s.unmount();
    let left = f::names(s.work("work")).unwrap();
    // The kernel keeps one whiteout to link from while it is mounted, and removes it at the next mount.
    assert!(
        left.iter()
            .all(|name| name.starts_with('#') && is_whiteout(&s, name)),
        "{left:?}"
    );
}

fn is_whiteout(s: &Scene, name: &str) -> bool {
    f::lstat(s.work("work").join(name)).is_ok_and(|stat| stat.st_rdev == 0)
}

/// What a crash left in the work directory is gone after the next mount, directories with content included.
pub fn leftovers_are_cleaned_at_mount(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.file("f", "x"));
    s.unmount();
    f::write(s.work("work/#12"), "half a copy").unwrap();
    f::mkdir(s.work("work/#ab"), 0o700).unwrap();
    f::write(s.work("work/#ab/file"), "").unwrap();
    f::mknod(s.work("work/#c"), FileType::CharacterDevice, 0, (0, 0)).unwrap();
    s.remount_unmounted();
    assert_eq!(f::names(s.work("work")).unwrap(), [""; 0]);
    f::append(s.at("f"), "y").unwrap();
    assert_eq!(f::read(s.at("f")).unwrap(), b"xy");
}

/// Upper and work directory that are in use are refused (the kernel refuses them with an index only).
pub fn an_upper_in_use_is_refused(d: &Drivers) {
    let s = Scene::mounted_with(d, "index=on", |t| t.file("f", "x"));
    f::mkdir(s.beside("second"), 0o755).unwrap();
    for driver in [&d.judged, &d.other] {
        let again = driver.mount(&s.layers(), &s.beside("second"));
        if again.is_ok() {
            driver.unmount(&s.beside("second")).unwrap();
        }
        assert!(again.is_err(), "{driver:?}");
    }
    // By other names.
    f::symlink(s.upper(""), s.beside("link")).unwrap();
    f::symlink(s.work(""), s.beside("worklink")).unwrap();
    let mut layers = s.layers();
    layers.writable = Some((s.beside("link"), s.beside("worklink")));
    for driver in [&d.judged, &d.other] {
        let again = driver.mount(&layers, &s.beside("second"));
        if again.is_ok() {
            driver.unmount(&s.beside("second")).unwrap();
        }
        assert!(again.is_err(), "{driver:?}");
    }
    // With another work directory.
    f::mkdir(s.beside("otherwork"), 0o755).unwrap();
    layers.writable = Some((s.upper(""), s.beside("otherwork")));
    for driver in [&d.judged, &d.other] {
        let again = driver.mount(&layers, &s.beside("second"));
        if again.is_ok() {
            driver.unmount(&s.beside("second")).unwrap();
        }
        assert!(again.is_err(), "{driver:?}");
    }
    assert_eq!(f::read(s.at("f")).unwrap(), b"x");
}

/// Layers that do not exist, a work directory on another file system, an upper inside the work directory.
pub fn nonsense_is_refused(d: &Drivers) {
    let mut s = Scene::new(d).lower(|t| t.file("f", ""));
    let good = s.layers();
    let try_with = |change: &dyn Fn(&mut super::Layers)| {
        let mut layers = good.clone();
        change(&mut layers);
        d.judged.mount(&layers, &s.at(""))
    };
    let (upper, work) = good.writable.clone().unwrap();
    assert!(try_with(&|layers| layers.lower[0].push("missing")).is_err());
    assert!(try_with(&|layers| layers.writable = Some((upper.join("missing"), work.clone()))).is_err());
    assert!(try_with(&|layers| layers.writable = Some((upper.clone(), upper.clone()))).is_err());
    assert!(try_with(&|layers| layers.writable = Some((upper.clone(), "/dev/shm".into()))).is_err());
    assert!(try_with(&|layers| layers.options.push("no_such_option=1".into())).is_err());
    assert!(try_with(&|layers| layers.options.push("redirect_dir=perhaps".into())).is_err());
    s.try_mount().unwrap();
    assert_eq!(f::names(s.at("")).unwrap(), ["f"]);
}

/// A lower directory that is another layer too, or lies in one; an upper directory may lie in a lower one.
pub fn layers_that_overlap_are_refused(d: &Drivers) {
    let mut s = Scene::new(d)
        .lower(|t| t.file("f", "").dir("in", 0o755))
        .with_upper(|t| t.dir("in", 0o755));
    let good = s.layers();
    let (upper, work) = good.writable.clone().unwrap();
    let low = good.lower[0].clone();
    f::mkdir(work.join("in"), 0o755).unwrap();
    f::symlink(&upper, s.beside("link")).unwrap();
    let try_with = |lower: &[&std::path::Path], upper: &std::path::Path| {
        let mut layers = good.clone();
        layers.lower = lower.iter().map(|path| path.to_path_buf()).collect();
        layers.writable = Some((upper.to_path_buf(), work.clone()));
        d.judged.mount(&layers, &s.at(""))
    };
    assert!(try_with(&[&upper], &upper).is_err());
    assert!(try_with(&[&s.beside("link"), &low], &upper).is_err());
    assert!(try_with(&[&upper.join("in")], &upper).is_err());
    assert!(try_with(&[&work], &upper).is_err());
    assert!(try_with(&[&low, &low], &upper).is_err());
    assert!(try_with(&[&low.join("in"), &low], &upper).is_err());
    try_with(&[&low], &low.join("in")).unwrap();
    d.judged.unmount(&s.at("")).unwrap();
    f::rmdir(work.join("in")).unwrap();
    s.try_mount().unwrap();
    assert_eq!(f::names(s.at("")).unwrap(), ["f", "in"]);
}

/// Without an upper directory nothing can be changed: `EROFS`, for everything.
pub fn without_an_upper_directory(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| t.file("f", "x").dir("d", 0o755))
        .lower(|t| t.file("g", "y"))
        .read_only()
        .mount();
    assert_eq!(f::names(s.at("")).unwrap(), ["d", "f", "g"]);
    let rofs = Errno::ROFS;
    refused(f::open_write(s.at("f")), rofs);
    refused(f::write(s.at("new"), ""), rofs);
    refused(f::mkdir(s.at("new"), 0o755), rofs);
    refused(f::symlink("x", s.at("new")), rofs);
    refused(f::mknod(s.at("new"), FileType::Fifo, 0o644, (0, 0)), rofs);
    refused(f::unlink(s.at("f")), rofs);
    refused(f::rmdir(s.at("d")), rofs);
    refused(f::rename(s.at("f"), s.at("h")), rofs);
    refused(f::link(s.at("f"), s.at("h")), rofs);
    refused(f::chmod(s.at("f"), 0o600), rofs);
    refused(f::chown(s.at("f"), Some(1), None), rofs);
    refused(f::truncate(s.at("f"), 0), rofs);
    refused(f::set_xattr(s.at("f"), "user.a", ""), rofs);
    refused(f::set_times(s.at("f"), (1, 0), (1, 0)), rofs);
    assert_eq!(f::read(s.at("f")).unwrap(), b"x");
}

/// With `ro` nothing can be changed either, and nothing is.
pub fn mounted_read_only(d: &Drivers) {
    let s = Scene::mounted_with(d, "ro", |t| t.file("f", "x"));
    refused(f::write(s.at("new"), ""), Errno::ROFS);
    refused(f::append(s.at("f"), ""), Errno::ROFS);
    assert_eq!(f::names(s.upper("")).unwrap(), [""; 0]);
}

/// The mount says in mountinfo what it is made of.
pub fn mountinfo_names_the_layers(d: &Drivers) {
    let s = Scene::mounted(d, |t| t);
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let at = s.at("").to_str().unwrap().to_owned();
    let line = table
        .lines()
        .find(|line| line.split(' ').nth(4) == Some(&at))
        .unwrap();
    if *s.judged() == Driver::Kernel {
        assert!(line.contains(" - overlay "), "{line}");
        for path in [s.upper(""), s.work(""), s.lower_at(0, "")] {
            assert!(line.contains(path.to_str().unwrap()), "{line}");
        }
    } else {
        assert!(line.contains(" - fuse"), "{line}");
    }
}

/// Attributes `nosuid`, `nodev` and `noexec` of the mount hold.
pub fn attributes_of_the_mount(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| {
            t.node("zero", FileType::CharacterDevice, (1, 5))
                .file("script", "#!/bin/sh\n")
                .mode("script", 0o755)
        })
        .option("nodev")
        .option("noexec")
        .mount();
    refused(f::open_read(s.at("zero")), Errno::ACCESS);
    let started = std::process::Command::new(s.at("script")).status();
    assert_eq!(started.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
}
