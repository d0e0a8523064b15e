//! Syncing, and what is said about the file system.

use rustix::fs::{OFlags, fdatasync, fstatfs, fstatvfs, fsync, statvfs, syncfs};
use rustix::io::Errno;

use super::{Driver, Drivers, Scene};
use crate::files::{self as f, refused};

/// Files of both layers and directories can be synced, by any descriptor.
pub fn everything_can_be_synced(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("lower", "x").dir("d", 0o755).dir("d/e", 0o755));
    f::write(s.at("upper"), "x").unwrap();
    f::write(s.at("d/f"), "").unwrap();
    for name in ["lower", "upper", "d", "d/e", ""] {
        let file = f::open_read(s.at(name)).unwrap();
        fsync(&file).unwrap_or_else(|errno| panic!("{name}: {errno}"));
        fdatasync(&file).unwrap_or_else(|errno| panic!("{name}: {errno}"));
        syncfs(&file).unwrap_or_else(|errno| panic!("{name}: {errno}"));
    }
    let writer = f::open(s.at("lower"), OFlags::WRONLY, 0).unwrap();
    f::write_all(&writer, b"written", 0).unwrap();
    fsync(&writer).unwrap();
    assert_eq!(f::read(s.upper("lower")).unwrap(), b"written");
    let path = f::open(s.at("lower"), OFlags::PATH, 0).unwrap();
    refused(fsync(&path), Errno::BADF);
}

/// `volatile` syncs nothing, says it did, and leaves a mark that the next mount refuses, by either driver, until
/// somebody removes it.
pub fn volatile(d: &Drivers) {
    let mut s = Scene::mounted_with(d, "volatile", |t| t.file("f", "x"));
    f::append(s.at("f"), "y").unwrap();
    fsync(f::open_read(s.at("f")).unwrap()).unwrap();
    s.unmount();
    let mark = s.work("work/incompat/volatile");
    assert!(f::exists(&mark));
    for driver in [&d.judged, &d.other] {
        assert!(driver.mount(&s.layers(), &s.at("")).is_err(), "{driver:?}");
    }
    std::fs::remove_dir_all(&mark).unwrap();
    s.remount_unmounted();
    assert_eq!(f::read(s.at("f")).unwrap(), b"xy");
}

/// `statfs` tells the size of the upper's file system, and names of up to 255 bytes.
pub fn statfs(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", ""));
    let real = statvfs(s.upper("")).unwrap();
    let file = f::open_read(s.at("f")).unwrap();
    let dir = f::open_read(s.at("")).unwrap();
    for shown in [
        statvfs(s.at("")).unwrap(),
        fstatvfs(&file).unwrap(),
        fstatvfs(&dir).unwrap(),
    ] {
        assert_eq!(
            (shown.f_blocks * shown.f_frsize, shown.f_namemax),
            (real.f_blocks * real.f_frsize, 255)
        );
        assert_eq!(shown.f_files, real.f_files);
    }
    let fstype = fstatfs(&file).unwrap().f_type as u64;
    match s.judged() {
        Driver::Kernel => assert_eq!(fstype, 0x794c_7630),
        Driver::Fuse(_) | Driver::FuseOverIoUring(_) => assert_eq!(fstype, 0x6573_5546),
    }
}
