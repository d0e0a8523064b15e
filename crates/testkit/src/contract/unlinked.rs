//! What is open lives on without a name.

use rustix::fs::{
    Mode, OFlags, XattrFlags, fchmod, fchown, fgetxattr, fsetxattr, fstat, ftruncate, mkdirat, openat,
};
use rustix::io::Errno;

use super::{Drivers, Scene, exceptions};
use crate::files::{self as f, refused};

fn xattr(file: &std::os::fd::OwnedFd, name: &str) -> f::Answer<Vec<u8>> {
    let mut value = vec![0; 100];
    let length = fgetxattr(file, name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}

/// A file of the upper layer: everything still works on the descriptor.
pub fn an_upper_file(d: &Drivers) {
    let s = Scene::mounted(d, |t| t);
    f::write(s.at("f"), "text").unwrap();
    f::set_xattr(s.at("f"), "user.a", "1").unwrap();
    let file = f::open_write(s.at("f")).unwrap();
    f::unlink(s.at("f")).unwrap();
    assert_eq!(f::read_all(&file).unwrap(), b"text");
    f::write_all(&file, b" more", 4).unwrap();
    assert_eq!(f::read_all(&file).unwrap(), b"text more");
    fchmod(&file, Mode::from_raw_mode(0o600)).unwrap();
    fchown(&file, Some(rustix::fs::Uid::from_raw(5)), None).unwrap();
    ftruncate(&file, 2).unwrap();
    assert_eq!(xattr(&file, "user.a").unwrap(), b"1");
    fsetxattr(&file, "user.b", b"2", XattrFlags::empty()).unwrap();
    assert_eq!(f::list_open_xattrs(&file).unwrap(), ["user.a", "user.b"]);
    let stat = fstat(&file).unwrap();
    assert_eq!(
        (stat.st_nlink, stat.st_size, stat.st_mode & 0o777, stat.st_uid),
        (0, 2, 0o600, 5)
    );
}

/// A file of a lower layer that was opened for writing, and so copied up, before it was unlinked.
pub fn a_copied_up_file(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "text").xattr("f", "user.a", "1"));
    let file = f::open_write(s.at("f")).unwrap();
    f::unlink(s.at("f")).unwrap();
    f::write_all(&file, b" more", 4).unwrap();
    assert_eq!(f::read_all(&file).unwrap(), b"text more");
    fchmod(&file, Mode::from_raw_mode(0o600)).unwrap();
    assert_eq!(xattr(&file, "user.a").unwrap(), b"1");
    let stat = fstat(&file).unwrap();
    assert_eq!((stat.st_nlink, stat.st_size, stat.st_mode & 0o777), (0, 9, 0o600));
}

/// A file of a lower layer, open for reading: it can be read and asked about; a file made anew at its name is another.
pub fn a_lower_file(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.file("f", "text").xattr("f", "user.a", "1").mode("f", 0o604)
    });
    let file = f::open_read(s.at("f")).unwrap();
    let number = fstat(&file).unwrap().st_ino;
    f::unlink(s.at("f")).unwrap();
    f::write(s.at("f"), "another").unwrap();
    assert_eq!(f::read_all(&file).unwrap(), b"text");
    assert_eq!(xattr(&file, "user.a").unwrap(), b"1");
    assert_eq!(f::list_open_xattrs(&file).unwrap(), ["user.a"]);
    let stat = fstat(&file).unwrap();
    assert_eq!(
        (stat.st_ino, stat.st_size, stat.st_mode & 0o777),
        (number, 4, 0o604)
    );
    assert_eq!(stat.st_nlink, links_of_unlinked_lower(&s));
}

fn links_of_unlinked_lower(s: &Scene) -> u64 {
    if exceptions::LINKS_OF_AN_UNLINKED_LOWER_FILE.applies(s) {
        0
    } else {
        1
    }
}

/// Attributes of an unlinked lower file cannot be changed on the kernel's overlay, which would copy it up to where the
/// whiteout is. On ours they can: it is copied up without a name.
pub fn changing_a_lower_file(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.file("f", "text").xattr("f", "user.a", "1"));
    let file = f::open_read(s.at("f")).unwrap();
    f::unlink(s.at("f")).unwrap();
    let changed = fchmod(&file, Mode::from_raw_mode(0o600));
    if exceptions::CHANGING_AN_UNLINKED_LOWER_FILE.applies(&s) {
        changed.unwrap();
        fsetxattr(&file, "user.b", b"2", XattrFlags::empty()).unwrap();
        let stat = fstat(&file).unwrap();
        assert_eq!((stat.st_nlink, stat.st_size, stat.st_mode & 0o777), (0, 4, 0o600));
        assert_eq!(f::list_open_xattrs(&file).unwrap(), ["user.a", "user.b"]);
    } else {
        refused(changed, Errno::EXIST);
    }
    assert_eq!(f::read_all(&file).unwrap(), b"text");
    drop(file);
    refused(f::lstat(s.at("f")), Errno::NOENT);
    s.unmount();
    assert_eq!(f::names(s.upper("")).unwrap(), ["f"]);
    assert!(s.is_whiteout("f"));
}

/// A file that another was renamed over is unlinked too.
pub fn a_file_renamed_over(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("lower", "lower").file("new", "new"));
    f::write(s.at("upper"), "upper").unwrap();
    for name in ["lower", "upper"] {
        let file = f::open_read(s.at(name)).unwrap();
        f::write(s.at("new"), "new").unwrap();
        f::rename(s.at("new"), s.at(name)).unwrap();
        assert_eq!(f::read_all(&file).unwrap(), name.as_bytes());
        let left = if name == "lower" {
            links_of_unlinked_lower(&s)
        } else {
            0
        };
        assert_eq!(fstat(&file).unwrap().st_nlink, left, "{name}");
        assert_eq!(f::read(s.at(name)).unwrap(), b"new");
    }
}

/// One name of two goes: the descriptor and the other name are still one file.
pub fn one_name_of_two(d: &Drivers) {
    let s = Scene::mounted(d, |t| t);
    f::write(s.at("a"), "text").unwrap();
    f::link(s.at("a"), s.at("b")).unwrap();
    let file = f::open_write(s.at("a")).unwrap();
    f::unlink(s.at("a")).unwrap();
    assert_eq!(fstat(&file).unwrap().st_nlink, 1);
    f::write_all(&file, b"TEXT", 0).unwrap();
    assert_eq!(f::read(s.at("b")).unwrap(), b"TEXT");
}

/// What has lost its last name gets none again.
pub fn no_name_again(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("lower", ""));
    f::write(s.at("upper"), "").unwrap();
    for name in ["lower", "upper"] {
        let file = f::open_read(s.at(name)).unwrap();
        f::unlink(s.at(name)).unwrap();
        refused(f::link_open(&file, s.at("again")), Errno::NOENT);
    }
}

/// A directory removed while it is open: it can be asked about, and nothing can be made or found in it.
pub fn a_directory(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.dir("lower", 0o755).dir("merged", 0o755));
    f::mkdir(s.at("upper"), 0o755).unwrap();
    f::write(s.at("merged/x"), "").unwrap();
    f::unlink(s.at("merged/x")).unwrap();
    for name in ["lower", "merged", "upper"] {
        let dir = f::open(s.at(name), OFlags::RDONLY | OFlags::DIRECTORY, 0).unwrap();
        f::rmdir(s.at(name)).unwrap();
        f::mkdir(s.at(name), 0o700).unwrap();
        f::write(s.at(name).join("there"), "").unwrap();
        assert_eq!(fstat(&dir).unwrap().st_mode & 0o777, 0o755, "{name}");
        let make = OFlags::WRONLY | OFlags::CREATE;
        refused(openat(&dir, "x", make, Mode::RWXU), Errno::NOENT);
        refused(openat(&dir, "there", OFlags::RDONLY, Mode::empty()), Errno::NOENT);
        refused(mkdirat(&dir, "x", Mode::RWXU), Errno::NOENT);
        refused(f::list_open(&dir, 4096), Errno::NOENT);
    }
}

/// The working directory may be removed; it then has no path.
pub fn the_working_directory(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.dir("lower", 0o755));
    rustix::process::chdir(s.at("lower")).unwrap();
    f::rmdir(s.at("lower")).unwrap();
    refused(rustix::process::getcwd(Vec::new()), Errno::NOENT);
    refused(f::lstat("x"), Errno::NOENT);
    refused(f::write("x", ""), Errno::NOENT);
    rustix::process::chdir("/").unwrap();
}

/// Truncated to nothing and written anew, a file that nobody can name is still one file for its two descriptors.
pub fn two_descriptors(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "old"));
    let reader = f::open_read(s.at("f")).unwrap();
    let writer = f::open_write(s.at("f")).unwrap();
    f::unlink(s.at("f")).unwrap();
    ftruncate(&writer, 0).unwrap();
    f::write_all(&writer, b"brand new", 0).unwrap();
    assert_eq!(f::read_all(&reader).unwrap(), b"brand new");
    assert_eq!(fstat(&reader).unwrap().st_ino, fstat(&writer).unwrap().st_ino);
}
