//! Flags of inodes, as chattr(1) sets them.
//!
//! The upper directory's file system must have them: the temporary directory's, or the case fails.

use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;
use sys::inode_flags::{self, Extended, IFlags};

use super::{Drivers, Scene, Tree};
use crate::disk::Disk;
use crate::files::{self as f, Answer, refused};

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// `FS_IOC_GETFLAGS`, without what the file system itself says by them (extents, inline data…).
fn get(path: impl AsRef<std::path::Path>) -> Answer<IFlags> {
    let file = f::open(path, OFlags::RDONLY, 0)?;
    let flags = inode_flags::get(&file).map_err(errno)?;
    Ok(flags & (IFlags::APPEND | IFlags::IMMUTABLE | IFlags::SYNC | IFlags::NOATIME | IFlags::NODUMP))
}

/// `FS_IOC_SETFLAGS`: adds some, takes away the others that [`get`] tells.
fn set(path: impl AsRef<std::path::Path>, flags: IFlags) -> Answer<()> {
    let file = f::open(path, OFlags::RDONLY, 0)?;
    let kept = inode_flags::get(&file)
        .map_err(errno)?
        .difference(IFlags::APPEND | IFlags::IMMUTABLE | IFlags::SYNC | IFlags::NOATIME | IFlags::NODUMP);
    inode_flags::set(&file, kept | flags).map_err(errno)
}

fn scene(t: Tree) -> Tree {
    t.dir("d", 0o755)
        .file("d/f", "text")
        .file("f", "text")
        .file("g", "")
}

/// Those that protect nothing are the real file's.
pub fn attributes_of_an_upper_file(d: &Drivers) {
    let mut s = Scene::mounted(d, scene);
    f::write(s.at("new"), "x").unwrap();
    assert_eq!(get(s.at("new")), Ok(IFlags::empty()));
    set(s.at("new"), IFlags::NODUMP | IFlags::NOATIME).unwrap();
    assert_eq!(get(s.at("new")), Ok(IFlags::NODUMP | IFlags::NOATIME));
    assert_eq!(get(s.upper("new")), Ok(IFlags::NODUMP | IFlags::NOATIME));
    set(s.at("d"), IFlags::NODUMP).unwrap();
    assert_eq!(get(s.at("d")), Ok(IFlags::NODUMP));
    s.remount_by_other();
    assert_eq!(get(s.at("new")), Ok(IFlags::NODUMP | IFlags::NOATIME));
}

/// A file that can only be appended to keeps its name, its attributes and what is in it; the upper file itself is not
/// protected, its attribute says that it shall be.
pub fn append_only(d: &Drivers) {
    let mut s = Scene::mounted(d, scene);
    set(s.at("f"), IFlags::APPEND).unwrap();
    for by_other in [false, true] {
        assert_eq!(
            get(s.at("f")),
            Ok(IFlags::APPEND),
            "by the other driver: {by_other}"
        );
        f::append(s.at("f"), " more").unwrap();
        refused(f::open_write(s.at("f")), Errno::PERM);
        let truncated = OFlags::WRONLY | OFlags::APPEND | OFlags::TRUNC;
        refused(f::open(s.at("f"), truncated, 0), Errno::PERM);
        refused(f::chmod(s.at("f"), 0o600), Errno::PERM);
        refused(f::set_xattr(s.at("f"), "user.x", "1"), Errno::PERM);
        refused(f::unlink(s.at("f")), Errno::PERM);
        refused(f::rename(s.at("f"), s.at("h")), Errno::PERM);
        refused(f::rename(s.at("g"), s.at("f")), Errno::PERM);
        refused(f::link(s.at("f"), s.at("h")), Errno::PERM);
        refused(f::set_times(s.at("f"), (1, 0), (1, 0)), Errno::PERM);
        f::touch(s.at("f")).unwrap();
        if !by_other {
            assert_eq!(get(s.upper("f")), Ok(IFlags::empty()));
            assert_eq!(f::get_xattr(s.upper("f"), &super::own("protattr")).unwrap(), b"a");
            s.remount_by_other();
        }
    }
    s.remount();
    set(s.at("f"), IFlags::empty()).unwrap();
    refused(f::get_xattr(s.upper("f"), &super::own("protattr")), Errno::NODATA);
    assert_eq!(f::read(s.at("f")).unwrap(), b"text more more");
    f::unlink(s.at("f")).unwrap();
}

/// An immutable file stays as it is.
pub fn immutable(d: &Drivers) {
    let mut s = Scene::mounted(d, scene);
    let open = f::open_write(s.at("f")).unwrap();
    set(s.at("f"), IFlags::IMMUTABLE).unwrap();
    refused(fallocate(&open, FallocateFlags::KEEP_SIZE, 0, 100), Errno::PERM);
    drop(open);
    for by_other in [false, true] {
        assert_eq!(
            get(s.at("f")),
            Ok(IFlags::IMMUTABLE),
            "by the other driver: {by_other}"
        );
        refused(f::append(s.at("f"), "x"), Errno::PERM);
        refused(f::truncate(s.at("f"), 0), Errno::PERM);
        refused(f::chown(s.at("f"), Some(1), None), Errno::PERM);
        refused(f::touch(s.at("f")), Errno::PERM);
        refused(f::remove_xattr(s.at("f"), "user.x"), Errno::PERM);
        refused(f::unlink(s.at("f")), Errno::PERM);
        refused(f::link(s.at("f"), s.at("h")), Errno::PERM);
        refused(
            f::rename_with(s.at("g"), s.at("f"), rustix::fs::RenameFlags::EXCHANGE),
            Errno::PERM,
        );
        assert_eq!(f::read(s.at("f")).unwrap(), b"text");
        if !by_other {
            assert_eq!(f::get_xattr(s.upper("f"), &super::own("protattr")).unwrap(), b"i");
            s.remount_by_other();
        }
    }
    set(s.at("f"), IFlags::empty()).unwrap();
}

/// Nothing comes into an immutable directory, and nothing goes.
pub fn an_immutable_directory(d: &Drivers) {
    let s = Scene::mounted(d, scene);
    set(s.at("d"), IFlags::IMMUTABLE).unwrap();
    refused(f::write(s.at("d/new"), ""), Errno::PERM);
    refused(f::mkdir(s.at("d/new"), 0o755), Errno::PERM);
    refused(
        f::open(s.at("d"), OFlags::RDWR | OFlags::TMPFILE, 0o600),
        Errno::PERM,
    );
    refused(f::link(s.at("f"), s.at("d/new")), Errno::PERM);
    refused(f::rename(s.at("f"), s.at("d/new")), Errno::PERM);
    refused(f::unlink(s.at("d/f")), Errno::PERM);
    refused(f::rename(s.at("d/f"), s.at("new")), Errno::PERM);
    refused(f::chmod(s.at("d"), 0o700), Errno::PERM);
    // What is in it is not.
    f::append(s.at("d/f"), "x").unwrap();
    set(s.at("d"), IFlags::empty()).unwrap();
    f::unlink(s.at("d/f")).unwrap();
}

/// Things come into an append-only directory, and stay.
pub fn an_append_only_directory(d: &Drivers) {
    let s = Scene::mounted(d, scene);
    set(s.at("d"), IFlags::APPEND).unwrap();
    f::write(s.at("d/new"), "x").unwrap();
    f::rename(s.at("f"), s.at("d/came")).unwrap();
    refused(f::unlink(s.at("d/new")), Errno::PERM);
    refused(f::rename(s.at("d/f"), s.at("d/g")), Errno::PERM);
    refused(f::rename(s.at("g"), s.at("d/f")), Errno::PERM);
    set(s.at("d"), IFlags::empty()).unwrap();
}

/// A lower file that is protected is so in the view; `A` goes along with a copy-up, and others do not.
pub fn of_a_lower_file(d: &Drivers) {
    // Goes with its protected file, which could not be removed.
    let disk = Disk::tmpfs("mode=755");
    let s = Scene::new(d).lower_in(&disk.path(), scene);
    set(s.lower_at(0, "g"), IFlags::NOATIME | IFlags::NODUMP).unwrap();
    set(s.lower_at(0, "f"), IFlags::APPEND).unwrap();
    let s = s.mount();
    assert_eq!(get(s.at("f")), Ok(IFlags::APPEND));
    refused(f::unlink(s.at("f")), Errno::PERM);
    refused(f::open_write(s.at("f")), Errno::PERM);
    f::append(s.at("f"), " more").unwrap();
    assert_eq!(f::get_xattr(s.upper("f"), &super::own("protattr")).unwrap(), b"a");
    assert_eq!(get(s.at("f")), Ok(IFlags::APPEND));
    f::append(s.at("g"), "x").unwrap();
    assert_eq!(get(s.at("g")), Ok(IFlags::NOATIME));
    set(s.at("f"), IFlags::empty()).unwrap();
    f::unlink(s.at("f")).unwrap();
}

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`.
pub fn in_the_longer_form(d: &Drivers) {
    let s = Scene::mounted(d, scene);
    let file = f::open(s.at("f"), OFlags::RDONLY, 0).unwrap();
    let mut extended = Extended::get(file.as_fd()).unwrap();
    assert_eq!(extended.flags & (Extended::APPEND | Extended::IMMUTABLE), 0);
    extended.flags |= Extended::APPEND;
    extended.set(file.as_fd()).unwrap();
    let shown = Extended::get(file.as_fd()).unwrap();
    assert_eq!(
        (shown.flags & Extended::APPEND, shown.project),
        (Extended::APPEND, extended.project)
    );
    assert_eq!(get(s.at("f")), Ok(IFlags::APPEND));
    refused(f::unlink(s.at("f")), Errno::PERM);
    extended.flags &= !Extended::APPEND;
    extended.set(file.as_fd()).unwrap();
    f::unlink(s.at("f")).unwrap();
}

/// The owner may set those that protect nothing; for the others it takes a capability.
pub fn who_may_set_them(d: &Drivers) {
    let s = Scene::mounted(d, |t| scene(t).owner("f", 1000, 1000).mode("f", 0o666));
    f::as_user(1000, 1000, &[], || {
        set(s.at("f"), IFlags::NODUMP).unwrap();
        refused(set(s.at("f"), IFlags::IMMUTABLE), Errno::PERM);
    });
    f::as_user(2000, 2000, &[], || {
        refused(set(s.at("f"), IFlags::empty()), Errno::PERM)
    });
    assert_eq!(get(s.at("f")), Ok(IFlags::NODUMP));
}
