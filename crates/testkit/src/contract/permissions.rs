//! What a user without privilege may do: what the shown owner, group and mode allow.

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Drivers, Scene};
use crate::files::{self as f, refused};

fn user<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    f::as_user(1000, 1000, &[3000], act)
}

/// Owner, group and others each have their own bits, and the first that fits decides.
pub fn which_bits_count(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.file("owner", "")
            .owner("owner", 1000, 1)
            .mode("owner", 0o477)
            .file("group", "")
            .owner("group", 1, 1000)
            .mode("group", 0o747)
            .file("supplementary", "")
            .owner("supplementary", 1, 3000)
            .mode("supplementary", 0o040)
            .file("other", "")
            .mode("other", 0o774)
    });
    for name in ["owner", "group", "supplementary", "other"] {
        user(|| {
            f::read(s.at(name)).unwrap_or_else(|errno| panic!("{name}: {errno}"));
            refused(f::append(s.at(name), "x"), Errno::ACCESS);
        });
    }
    assert!(!f::exists(s.upper("owner")), "a refused open copies nothing up");
}

/// Making and removing names takes the right to write the directory, not the file.
pub fn directories_decide_about_names(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.dir("closed", 0o755)
            .file("closed/f", "")
            .mode("closed/f", 0o666)
            .dir("open", 0o777)
            .file("open/f", "")
            .mode("open/f", 0)
    });
    user(|| {
        refused(f::unlink(s.at("closed/f")), Errno::ACCESS);
        refused(f::write(s.at("closed/x"), ""), Errno::ACCESS);
        refused(f::mkdir(s.at("closed/x"), 0o755), Errno::ACCESS);
        refused(f::symlink("x", s.at("closed/x")), Errno::ACCESS);
        refused(f::rename(s.at("closed/f"), s.at("closed/g")), Errno::ACCESS);
        refused(f::rename(s.at("open/f"), s.at("closed/g")), Errno::ACCESS);
        f::append(s.at("closed/f"), "x").unwrap();
        f::rename(s.at("open/f"), s.at("open/g")).unwrap();
        f::unlink(s.at("open/g")).unwrap();
        f::write(s.at("open/x"), "").unwrap();
    });
    let stat = f::lstat(s.at("open/x")).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid), (1000, 1000));
    assert_eq!(f::lstat(s.upper("open/x")).unwrap().st_uid, 1000);
}

/// A directory without the right to search hides what is in it; without the right to read it is only not listed.
pub fn searching_and_reading_directories(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.dir("s", 0o711)
            .file("s/f", "x")
            .dir("r", 0o744)
            .file("r/f", "x")
    });
    user(|| {
        assert_eq!(f::read(s.at("s/f")).unwrap(), b"x");
        refused(f::names(s.at("s")), Errno::ACCESS);
        assert_eq!(f::names(s.at("r")).unwrap(), ["f"]);
        refused(f::lstat(s.at("r/f")), Errno::ACCESS);
    });
}

/// A user copies up what root owns, by writing to it where that is allowed; owner and parents stay root's.
pub fn a_copy_up_by_a_user(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.dir("p", 0o700)
            .owner("p", 1000, 1000)
            .dir("p/q", 0o755)
            .file("p/q/f", "root's")
            .mode("p/q/f", 0o622)
            .xattr("p/q/f", "trusted.t", "1")
    });
    user(|| f::append(s.at("p/q/f"), "+").unwrap());
    let owner = |path: &str| {
        f::lstat(s.upper(path))
            .map(|stat| (stat.st_uid, stat.st_gid))
            .unwrap()
    };
    assert_eq!(
        (owner("p"), owner("p/q"), owner("p/q/f")),
        ((1000, 1000), (0, 0), (0, 0))
    );
    assert_eq!(f::get_xattr(s.at("p/q/f"), "trusted.t").unwrap(), b"1");
    assert_eq!(f::read(s.at("p/q/f")).unwrap(), b"root's+");
    s.same_after_remounts();
}

/// A user removes and makes again: whiteouts and opaque directories are the overlay's business, not the user's.
pub fn removing_and_making_by_a_user(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.dir("d", 0o755)
            .owner("d", 1000, 1000)
            .file("d/f", "")
            .dir("d/e", 0o755)
            .owner("d/e", 1000, 1000)
            .file("d/e/x", "")
    });
    user(|| {
        f::unlink(s.at("d/f")).unwrap();
        f::unlink(s.at("d/e/x")).unwrap();
        f::rmdir(s.at("d/e")).unwrap();
        f::mkdir(s.at("d/e"), 0o700).unwrap();
        f::write(s.at("d/f"), "mine").unwrap();
        assert_eq!(f::names(s.at("d/e")).unwrap(), [""; 0]);
    });
    assert_eq!(f::lstat(s.at("d/f")).unwrap().st_uid, 1000);
    assert_eq!(f::lstat(s.at("d/e")).unwrap().st_uid, 1000);
    s.same_after_remounts();
}

/// Mode, owner and times are the owner's to change, within limits.
pub fn attributes_are_the_owners(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.file("mine", "")
            .owner("mine", 1000, 1000)
            .file("roots", "")
            .mode("roots", 0o666)
    });
    user(|| {
        f::chmod(s.at("mine"), 0o600).unwrap();
        refused(f::chmod(s.at("roots"), 0o600), Errno::PERM);
        refused(f::chown(s.at("mine"), Some(0), None), Errno::PERM);
        f::chown(s.at("mine"), None, Some(3000)).unwrap();
        refused(f::chown(s.at("mine"), None, Some(4000)), Errno::PERM);
        f::set_times(s.at("mine"), (1, 0), (2, 0)).unwrap();
        refused(f::set_times(s.at("roots"), (1, 0), (2, 0)), Errno::PERM);
        let times = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec {
                tv_sec: 0,
                tv_nsec: rustix::fs::UTIME_NOW as _,
            },
            last_modification: rustix::fs::Timespec {
                tv_sec: 0,
                tv_nsec: rustix::fs::UTIME_NOW as _,
            },
        };
        // Who may write may say that it is now.
        rustix::fs::utimensat(
            rustix::fs::CWD,
            s.at("roots"),
            &times,
            rustix::fs::AtFlags::empty(),
        )
        .unwrap();
    });
}

/// Devices are root's to make; `O_NOATIME` is the owner's.
pub fn what_takes_privilege(d: &Drivers) {
    use rustix::fs::FileType;
    let s = Scene::mounted(d, |t| t.dir("d", 0o777).file("d/f", "").mode("d/f", 0o644));
    user(|| {
        refused(
            f::mknod(s.at("d/c"), FileType::CharacterDevice, 0o666, (1, 3)),
            Errno::PERM,
        );
        f::mknod(s.at("d/p"), FileType::Fifo, 0o666, (0, 0)).unwrap();
        refused(
            f::open(s.at("d/f"), OFlags::RDONLY | OFlags::NOATIME, 0),
            Errno::PERM,
        );
    });
    f::open(s.at("d/f"), OFlags::RDONLY | OFlags::NOATIME, 0).unwrap();
}

/// A descriptor keeps the rights it was opened with, whatever becomes of the mode, through a copy-up too.
pub fn rights_are_looked_at_on_open(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "text").mode("f", 0o666));
    let (reader, writer) = user(|| {
        (
            f::open_read(s.at("f")).unwrap(),
            f::open_write(s.at("f")).unwrap(),
        )
    });
    f::chmod(s.at("f"), 0).unwrap();
    user(|| {
        assert_eq!(f::read_all(&reader).unwrap(), b"text");
        f::write_all(&writer, b"TEXT", 0).unwrap();
        refused(f::open_read(s.at("f")), Errno::ACCESS);
    });
}
