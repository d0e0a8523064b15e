//! Lower directories are never written, whatever a client does. Each scene compares them at its end, so that these cases
//! need only do their worst.

use std::os::fd::AsFd;

use rustix::fs::{
    FallocateFlags, FileType, Mode, OFlags, XattrFlags, copy_file_range, fallocate, fchmod, fsetxattr,
    ftruncate,
};
use rustix::io::Errno;
use sys::map::{Map, Sharing};

use super::{Drivers, Scene, Tree};
use crate::files::{self as f, refused};

const BIG: usize = 1 << 20;

/// Files of a size that is read in one go, and of one where other ways are taken.
fn files(t: Tree) -> Tree {
    t.file("small", vec![b'l'; 3000])
        .file("big", vec![b'l'; BIG])
        .dir("d", 0o755)
        .file("d/f", "l")
        .link_to("l", "small")
}

const FILES: [&str; 2] = ["small", "big"];

/// Every call that changes a file, on a descriptor that was open for reading and on a new one.
pub fn every_kind_of_write(d: &Drivers) {
    for name in FILES {
        let s = Scene::mounted(d, files);
        let reader = f::open_read(s.at(name)).unwrap();
        f::read_all(&reader).unwrap();
        refused(rustix::io::pwrite(&reader, b"x", 0), Errno::BADF);
        refused(fallocate(&reader, FallocateFlags::empty(), 0, 10), Errno::BADF);
        refused(ftruncate(&reader, 0), Errno::INVAL);
        let _ = fchmod(&reader, Mode::from_raw_mode(0o600));
        let _ = fsetxattr(&reader, "user.a", b"1", XattrFlags::empty());
        let writer = f::open_write(s.at(name)).unwrap();
        f::write_all(&writer, b"write", 0).unwrap();
        fallocate(
            &writer,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            0,
            4096,
        )
        .unwrap();
        copy_file_range(&reader, Some(&mut 2000), &writer, Some(&mut 0), 100).unwrap();
        ftruncate(&writer, 5).unwrap();
        f::open(s.at(name), OFlags::RDONLY | OFlags::TRUNC, 0).unwrap();
        assert_eq!(f::read_all(&reader).unwrap(), b"");
    }
}

/// Shared maps, made before and after the copy-up, by readers and writers.
pub fn shared_maps(d: &Drivers) {
    for name in FILES {
        let s = Scene::mounted(d, files);
        let reader = f::open_read(s.at(name)).unwrap();
        let mut early = Map::new(reader.as_fd(), 3000, Sharing::Shared, false).unwrap();
        assert_eq!(early.read(0, 2), b"ll");
        assert!(early.make_writable().is_err());
        let writer = f::open_write(s.at(name)).unwrap();
        let mut map = Map::new(writer.as_fd(), 3000, Sharing::Shared, true).unwrap();
        map.write(0, b"mapped");
        map.sync().unwrap();
        assert!(early.make_writable().is_err());
        assert_eq!(&f::read(s.at(name)).unwrap()[..6], b"mapped");
    }
}

/// Attributes, names and whole directories.
pub fn attributes_and_names(d: &Drivers) {
    let s = Scene::mounted_with(d, "redirect_dir=on", files);
    f::chmod(s.at("d/f"), 0o777).unwrap();
    f::chown(s.at("small"), Some(1), Some(1)).unwrap();
    f::chown(s.at("l"), Some(1), Some(1)).unwrap();
    f::set_times(s.at("big"), (1, 1), (1, 1)).unwrap();
    f::set_xattr(s.at("d"), "user.a", "1").unwrap();
    f::link(s.at("small"), s.at("d/linked")).unwrap();
    f::rename(s.at("d"), s.at("e")).unwrap();
    f::append(s.at("e/f"), "x").unwrap();
    f::unlink(s.at("e/f")).unwrap();
    f::unlink(s.at("e/linked")).unwrap();
    f::rmdir(s.at("e")).unwrap();
    f::unlink(s.at("l")).unwrap();
    f::rename(s.at("small"), s.at("big")).unwrap();
    f::write(s.at("big"), "gone").unwrap();
}

/// Descriptors opened before the copy-up, opened again through `/proc` for writing.
pub fn old_descriptors_opened_again(d: &Drivers) {
    use std::os::fd::AsRawFd;
    for name in FILES {
        let s = Scene::mounted(d, files);
        let readers: Vec<_> = (0..3).map(|_| f::open_read(s.at(name)).unwrap()).collect();
        let path = f::open(s.at(name), OFlags::PATH, 0).unwrap();
        for fd in readers.iter().map(AsRawFd::as_raw_fd).chain([path.as_raw_fd()]) {
            let file = rustix::fs::open(format!("/proc/self/fd/{fd}"), OFlags::RDWR, Mode::empty()).unwrap();
            f::write_all(&file, b"again", 0).unwrap();
        }
        assert_eq!(&f::read_all(&readers[0]).unwrap()[..5], b"again");
    }
}

/// Opening for reading and for writing race, with reads, writes, maps and unlinks in between.
pub fn racing_opens(d: &Drivers) {
    for round in 0..8 {
        let name = FILES[round % 2];
        let s = Scene::mounted(d, files);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        if let Ok(file) = f::open_read(s.at(name)) {
                            let content = f::read_all(&file).unwrap();
                            assert!(
                                content.iter().all(|byte| matches!(byte, b'l' | b'w' | b'm')),
                                "{name}"
                            );
                            let map = Map::new(file.as_fd(), 3000, Sharing::Shared, false).unwrap();
                            drop(map);
                        }
                    }
                });
                scope.spawn(|| {
                    for at in 0..20 {
                        if let Ok(file) = f::open_write(s.at(name)) {
                            f::write_all(&file, b"w", at).unwrap();
                            let mut map = Map::new(file.as_fd(), 3000, Sharing::Shared, true).unwrap();
                            map.write(100 + at as usize, b"m");
                        }
                    }
                });
            }
            if round >= 4 {
                scope.spawn(|| f::unlink(s.at(name)).unwrap());
            }
        });
    }
}

/// Many copy up the same file and the same directories at once: one wins, all see the same.
pub fn racing_copy_ups(d: &Drivers) {
    for _ in 0..4 {
        let s = Scene::mounted(d, |t| {
            t.dir("a", 0o755)
                .dir("a/b", 0o755)
                .dir("a/b/c", 0o755)
                .file("a/b/c/f", vec![b'l'; BIG])
                .file("a/b/g", "l")
        });
        std::thread::scope(|scope| {
            for thread in 0..6u64 {
                let s = &s;
                scope.spawn(move || {
                    let file = f::open_write(s.at("a/b/c/f")).unwrap();
                    f::write_all(&file, &[b'0' + thread as u8], thread).unwrap();
                    f::write(s.at(format!("a/b/new{thread}")), "").unwrap();
                    f::chmod(s.at("a/b/g"), 0o600 + thread as u32).unwrap();
                });
            }
        });
        assert_eq!(&f::read(s.at("a/b/c/f")).unwrap()[..8], b"012345ll");
        assert_eq!(f::names(s.at("a/b")).unwrap().len(), 8);
    }
}

/// Links out of the mount, in a lower layer, lead through it for whoever follows them: the overlay itself follows none.
pub fn links_that_lead_out(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.dir("d", 0o755)
            .link_to("d/out", "../../lower0")
            .link_to("etc", "/etc")
    });
    f::chown(s.at("d/out"), Some(1), None).unwrap();
    f::rename(s.at("d/out"), s.at("d/in")).unwrap();
    assert_eq!(f::read_link(s.upper("d/in")).unwrap(), "../../lower0");
    assert_eq!(f::kind(s.upper("d/in")), Ok(FileType::Symlink));
    f::unlink(s.at("etc")).unwrap();
    assert!(s.is_whiteout("etc"));
}
