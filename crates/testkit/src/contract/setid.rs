//! Set-uid, set-gid and sticky bits: when they go, and what they do.

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;

use super::xattrs::CAPABILITY;
use super::{Drivers, Scene, Tree, exceptions};
use crate::files::{self as f, refused};

/// Files with set-id bits that anybody may write.
fn files(t: Tree) -> Tree {
    ["write", "truncate", "open", "fallocate", "map", "chown"]
        .iter()
        .fold(t.dir("d", 0o777), |t, name| {
            t.file(&format!("d/{name}"), "some text")
                .owner(&format!("d/{name}"), 1000, 1000)
                .mode(&format!("d/{name}"), 0o6777)
        })
}

/// A write or a change of size by somebody without privilege takes set-uid and set-gid away.
pub fn an_unprivileged_write_clears_them(d: &Drivers) {
    for user in [1000, 2000] {
        let s = Scene::mounted(d, files);
        f::as_user(user, user, &[], || {
            f::append(s.at("d/write"), "x").unwrap();
            f::truncate(s.at("d/truncate"), 2).unwrap();
            f::open(s.at("d/open"), OFlags::WRONLY | OFlags::TRUNC, 0).unwrap();
            let file = f::open_write(s.at("d/fallocate")).unwrap();
            fallocate(&file, FallocateFlags::empty(), 0, 100).unwrap();
        });
        for name in ["write", "truncate", "open", "fallocate"] {
            assert_eq!(f::mode(s.at(format!("d/{name}"))), Ok(0o777), "{name} by {user}");
        }
    }
}

/// Root's writes leave them (`CAP_FSETID`).
pub fn a_privileged_write_leaves_them(d: &Drivers) {
    let s = Scene::mounted(d, files);
    f::append(s.at("d/write"), "x").unwrap();
    f::truncate(s.at("d/truncate"), 2).unwrap();
    f::open(s.at("d/open"), OFlags::WRONLY | OFlags::TRUNC, 0).unwrap();
    for name in ["write", "truncate", "open"] {
        assert_eq!(f::mode(s.at(format!("d/{name}"))), Ok(0o6777), "{name}");
    }
}

/// Opening and reading leave them; a copy-up does too.
pub fn a_copy_up_leaves_them(d: &Drivers) {
    let mut s = Scene::mounted(d, files);
    f::as_user(1000, 1000, &[], || {
        drop(f::open_write(s.at("d/write")).unwrap());
        f::set_times(s.at("d/open"), (1, 0), (2, 0)).unwrap();
    });
    assert_eq!(f::mode(s.upper("d/write")), Ok(0o6777));
    assert_eq!(f::mode(s.at("d/write")), Ok(0o6777));
    assert_eq!(f::mode(s.at("d/open")), Ok(0o6777));
    s.same_after_remounts();
}

/// Every later write counts, not only the first after an open.
pub fn every_write_counts(d: &Drivers) {
    let s = Scene::mounted(d, files);
    let file = f::as_user(1000, 1000, &[], || f::open_write(s.at("d/write")).unwrap());
    for _ in 0..3 {
        f::chmod(s.at("d/write"), 0o6777).unwrap();
        f::as_user(1000, 1000, &[], || f::write_all(&file, b"again", 0).unwrap());
        assert_eq!(f::mode(s.at("d/write")), Ok(0o777));
    }
}

/// Set-gid without execution by the group meant mandatory locking once, and stays.
pub fn setgid_without_group_execution(d: &Drivers) {
    let s = Scene::mounted(d, |t| files(t).mode("d/write", 0o2767));
    f::as_user(1000, 1000, &[], || f::append(s.at("d/write"), "x").unwrap());
    assert_eq!(f::mode(s.at("d/write")), Ok(0o2767));
}

/// It goes when who writes is not in the file's group.
pub fn setgid_written_by_a_stranger(d: &Drivers) {
    let s = Scene::mounted(d, |t| files(t).owner("d/write", 0, 0).mode("d/write", 0o2766));
    f::as_user(1000, 1000, &[], || f::append(s.at("d/write"), "x").unwrap());
    let excepted = exceptions::A_STRANGERS_WRITE_LEAVES_SETGID.applies(&s);
    assert_eq!(
        f::mode(s.at("d/write")),
        Ok(if excepted { 0o2766 } else { 0o766 })
    );
}

/// A change of neither owner nor group is refused to who does not own a file with set-id bits.
pub fn chown_of_nothing(d: &Drivers) {
    let s = Scene::mounted(d, |t| files(t).owner("d/chown", 0, 0).mode("d/chown", 0o4755));
    let of_nothing = |user: u32, name: &str| f::as_user(user, user, &[], || f::chown(s.at(name), None, None));
    refused(of_nothing(1000, "d/chown"), Errno::PERM);
    assert_eq!(f::mode(s.at("d/chown")), Ok(0o4755));
    // Its owner and root may, and lose them; where there are none nothing is to be refused.
    of_nothing(1000, "d/open").unwrap();
    assert_eq!(f::mode(s.at("d/open")), Ok(0o777));
    of_nothing(2000, "d/open").unwrap();
    f::chown(s.at("d/truncate"), None, None).unwrap();
    assert_eq!(f::mode(s.at("d/truncate")), Ok(0o777));
    let writer = f::open_write(s.at("d/chown")).unwrap();
    let answer = of_nothing(1000, "d/chown");
    if exceptions::CHOWN_OF_NOTHING.applies(&s) {
        answer.unwrap();
    } else {
        refused(answer, Errno::PERM);
        assert_eq!(f::mode(s.at("d/chown")), Ok(0o4755));
    }
    drop(writer);
}

/// A change of owner or group takes them, from root as well; of a directory it does not.
pub fn chown_clears_them(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        files(t)
            .xattr("d/chown", "security.capability", CAPABILITY)
            .dir("dir", 0o755)
            .mode("dir", 0o6755)
    });
    f::chown(s.at("d/chown"), Some(5), Some(6)).unwrap();
    assert_eq!(f::mode(s.at("d/chown")), Ok(0o777));
    refused(
        f::get_xattr(s.at("d/chown"), "security.capability"),
        Errno::NODATA,
    );
    f::chown(s.at("d/open"), None, Some(1000)).unwrap();
    assert_eq!(f::mode(s.at("d/open")), Ok(0o777));
    f::chown(s.at("dir"), Some(5), Some(6)).unwrap();
    assert_eq!(f::mode(s.at("dir")), Ok(0o6755));
}

/// What is made in a set-gid directory has its group, and directories the bit as well.
pub fn setgid_directories(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.dir("d", 0o777).owner("d", 0, 50).mode("d", 0o2777));
    f::as_user(1000, 1000, &[], || {
        f::write(s.at("d/f"), "").unwrap();
        f::mkdir(s.at("d/e"), 0o755).unwrap();
        f::symlink("x", s.at("d/l")).unwrap();
        f::write(s.at("d/e/g"), "").unwrap();
    });
    for name in ["f", "e", "l", "e/g"] {
        let stat = f::lstat(s.at(format!("d/{name}"))).unwrap();
        assert_eq!((stat.st_uid, stat.st_gid), (1000, 50), "{name}");
    }
    assert_eq!(f::mode(s.at("d/e")), Ok(0o2755));
    s.same_after_remounts();
}

/// Who is not in the group cannot give a file its set-gid bit, in a set-gid directory either.
pub fn setgid_for_strangers(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.dir("d", 0o777).owner("d", 0, 50).mode("d", 0o2777));
    f::as_user(1000, 1000, &[], || {
        f::open(s.at("d/f"), OFlags::WRONLY | OFlags::CREATE, 0o2755).unwrap();
        f::write(s.at("d/g"), "").unwrap();
        f::chmod(s.at("d/g"), 0o2755).unwrap();
    });
    f::as_user(1000, 1000, &[50], || {
        f::write(s.at("d/h"), "").unwrap();
        f::chmod(s.at("d/h"), 0o2755).unwrap();
    });
    // Its own supplementary groups count where something is made, too.
    f::as_user(1000, 1000, &[50], || {
        f::open(s.at("d/i"), OFlags::WRONLY | OFlags::CREATE, 0o2755).unwrap();
    });
    assert_eq!(f::mode(s.at("d/i")), Ok(0o2755));
    assert_eq!(f::mode(s.at("d/f")), Ok(0o755));
    assert_eq!(f::mode(s.at("d/g")), Ok(0o755));
    assert_eq!(f::mode(s.at("d/h")), Ok(0o2755));
}

/// In a sticky directory only the owner of the thing or of the directory takes a name away.
pub fn sticky_directories(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.dir("d", 0o777)
            .mode("d", 0o1777)
            .file("d/mine", "")
            .owner("d/mine", 1000, 1000)
            .file("d/roots", "")
            .file("d/roots2", "")
    });
    f::as_user(1000, 1000, &[], || {
        refused(f::unlink(s.at("d/roots")), Errno::PERM);
        refused(f::rename(s.at("d/roots"), s.at("d/x")), Errno::PERM);
        refused(f::rename(s.at("d/mine"), s.at("d/roots")), Errno::PERM);
        f::rename(s.at("d/mine"), s.at("d/mine2")).unwrap();
        f::unlink(s.at("d/mine2")).unwrap();
    });
    f::unlink(s.at("d/roots")).unwrap();
}
