//! POSIX access control lists.

use rustix::io::Errno;

use super::{Drivers, Scene};
use crate::files::{self as f, refused};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const NOBODY: u32 = u32::MAX;

/// Tags of entries, as `linux/posix_acl.h` numbers them.
const OWNER: u16 = 1;
const USER: u16 = 2;
const GROUP_OF_FILE: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;

/// The value that the attribute has: version 2, then tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn for_user_1000(owner: u16, user: u16, mask: u16) -> Vec<u8> {
    acl(&[
        (OWNER, owner, NOBODY),
        (USER, user, 1000),
        (GROUP_OF_FILE, 0, NOBODY),
        (MASK, mask, NOBODY),
        (OTHER, 0, NOBODY),
    ])
}

/// An access list is obeyed, shows in the mode, and is copied up.
pub fn an_access_list_is_obeyed(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.file("f", "text").xattr("f", ACCESS, for_user_1000(6, 4, 4))
    });
    assert_eq!(f::mode(s.at("f")), Ok(0o640));
    assert_eq!(
        f::as_user(1000, 1000, &[], || f::read(s.at("f"))).unwrap(),
        b"text"
    );
    refused(f::as_user(1001, 1001, &[], || f::read(s.at("f"))), Errno::ACCESS);
    refused(
        f::as_user(1000, 1000, &[], || f::append(s.at("f"), "x")),
        Errno::ACCESS,
    );
    f::append(s.at("f"), "+").unwrap();
    assert_eq!(f::get_xattr(s.at("f"), ACCESS).unwrap(), for_user_1000(6, 4, 4));
    assert_eq!(
        f::as_user(1000, 1000, &[], || f::read(s.at("f"))).unwrap(),
        b"text+"
    );
    s.same_after_remounts();
    refused(f::as_user(1001, 1001, &[], || f::read(s.at("f"))), Errno::ACCESS);
}

/// Setting a list changes the mode, and changing the mode changes the list's mask.
pub fn mode_and_list_follow_each_other(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "").file("g", ""));
    f::set_xattr(s.at("f"), ACCESS, for_user_1000(7, 6, 6)).unwrap();
    assert_eq!(f::mode(s.at("f")), Ok(0o760));
    f::chmod(s.at("f"), 0o640).unwrap();
    assert_eq!(f::get_xattr(s.at("f"), ACCESS).unwrap(), for_user_1000(6, 6, 4));
    refused(
        f::as_user(1000, 1000, &[], || f::append(s.at("f"), "x")),
        Errno::ACCESS,
    );
    let plain = acl(&[(OWNER, 6, NOBODY), (GROUP_OF_FILE, 4, NOBODY), (OTHER, 4, NOBODY)]);
    f::set_xattr(s.at("g"), ACCESS, plain).unwrap();
    // A list that says no more than the mode does is none.
    refused(f::get_xattr(s.at("g"), ACCESS), Errno::NODATA);
    f::remove_xattr(s.at("f"), ACCESS).unwrap();
    assert_eq!(f::list_xattrs(s.at("f")).unwrap(), [""; 0]);
}

/// What is made in a directory with a default list inherits it, and the umask is not asked; a directory inherits the
/// default list itself too.
pub fn default_lists_are_inherited(d: &Drivers) {
    let default = for_user_1000(7, 6, 7);
    let mut s = Scene::mounted(d, |t| t.dir("d", 0o755).xattr("d", DEFAULT, &default));
    f::write(s.at("d/f"), "").unwrap();
    f::mkdir(s.at("d/e"), 0o777).unwrap();
    f::mknod(s.at("d/p"), rustix::fs::FileType::Fifo, 0o666, (0, 0)).unwrap();
    // 0644 was asked for: the mask loses what the group may not.
    assert_eq!(f::get_xattr(s.at("d/f"), ACCESS).unwrap(), for_user_1000(6, 6, 4));
    assert_eq!(f::mode(s.at("d/f")), Ok(0o640));
    assert_eq!(f::get_xattr(s.at("d/e"), ACCESS).unwrap(), default);
    assert_eq!(f::get_xattr(s.at("d/e"), DEFAULT).unwrap(), default);
    assert_eq!(f::mode(s.at("d/e")), Ok(0o770));
    assert_eq!(f::get_xattr(s.at("d/p"), ACCESS).unwrap(), for_user_1000(6, 6, 6));
    f::symlink("f", s.at("d/l")).unwrap();
    s.same_after_remounts();
}

/// A default list is for directories; a list must be well formed; only the owner sets one.
pub fn what_is_refused(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "").dir("d", 0o755));
    refused(
        f::set_xattr(s.at("f"), DEFAULT, for_user_1000(7, 7, 7)),
        Errno::ACCESS,
    );
    refused(f::set_xattr(s.at("f"), ACCESS, "nonsense"), Errno::OPNOTSUPP);
    refused(
        f::set_xattr(s.at("f"), ACCESS, acl(&[(OWNER, 6, NOBODY)])),
        Errno::INVAL,
    );
    let by_user = || f::set_xattr(s.at("d"), ACCESS, for_user_1000(7, 7, 7));
    refused(f::as_user(1000, 1000, &[], by_user), Errno::PERM);
}

/// What lies in the upper layer has an access list of its mode at least: it can be taken away, and again. What lies below is
/// not copied up for that.
pub fn lists_that_are_not_there(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        let list = for_user_1000(6, 4, 4);
        t.file("low", "")
            .file("listed", "")
            .xattr("listed", ACCESS, list)
            .dir("d", 0o755)
    });
    f::write(s.at("new"), "").unwrap();
    f::mkdir(s.at("made"), 0o755).unwrap();
    // An empty one takes the list away; before Linux 6.2 every file system said EINVAL.
    let empty = f::set_xattr(s.upper("made"), ACCESS, "");
    assert!(matches!(empty, Ok(()) | Err(Errno::INVAL)), "{empty:?}");
    for (name, list) in [
        ("new", ACCESS),
        ("made", ACCESS),
        ("made", DEFAULT),
        ("listed", ACCESS),
    ] {
        for _ in 0..2 {
            assert_eq!(f::remove_xattr(s.at(name), list), Ok(()), "{name}, {list}");
            assert_eq!(f::set_xattr(s.at(name), list, ""), empty, "{name}, {list}");
        }
    }
    assert_eq!(f::mode(s.at("listed")), Ok(0o640));
    refused(f::get_xattr(s.at("listed"), ACCESS), Errno::NODATA);
    for (name, list) in [("low", ACCESS), ("d", ACCESS), ("d", DEFAULT)] {
        refused(f::remove_xattr(s.at(name), list), Errno::NODATA);
        refused(f::lstat(s.upper(name)), Errno::NOENT);
    }
}

/// Groups that are named count for those who are in them, by supplementary groups too.
pub fn named_groups(d: &Drivers) {
    let list = acl(&[
        (OWNER, 6, NOBODY),
        (GROUP_OF_FILE, 0, NOBODY),
        (GROUP, 4, 2000),
        (MASK, 7, NOBODY),
        (OTHER, 0, NOBODY),
    ]);
    let s = Scene::mounted(d, |t| t.file("f", "text").xattr("f", ACCESS, &list));
    assert_eq!(
        f::as_user(1000, 1000, &[5, 2000], || f::read(s.at("f"))).unwrap(),
        b"text"
    );
    assert_eq!(
        f::as_user(1000, 2000, &[], || f::read(s.at("f"))).unwrap(),
        b"text"
    );
    refused(f::as_user(1000, 1000, &[5], || f::read(s.at("f"))), Errno::ACCESS);
}

/// A default list and set-gid together, on a directory of the lower layer.
pub fn default_list_in_a_setgid_directory(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.dir("d", 0o755)
            .owner("d", 0, 77)
            .mode("d", 0o2775)
            .xattr("d", DEFAULT, for_user_1000(7, 6, 7))
    });
    f::mkdir(s.at("d/e"), 0o755).unwrap();
    f::write(s.at("d/f"), "").unwrap();
    assert_eq!(f::mode(s.at("d/e")), Ok(0o2750));
    assert_eq!(f::lstat(s.at("d/f")).unwrap().st_gid, 77);
    assert_eq!(f::get_xattr(s.at("d/f"), ACCESS).unwrap(), for_user_1000(6, 6, 4));
}
