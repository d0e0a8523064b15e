//! `rename(2)` of files, its flags, and which error comes first.

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::{Drivers, Scene};
use crate::files::{self as f, refused};

/// A lower file under a new name: the old one is a whiteout, the new one has all that the file had.
pub fn a_lower_file(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.dir("d", 0o755)
            .file("f", "text")
            .mode("f", 0o640)
            .owner("f", 3, 4)
            .xattr("f", "user.a", "1")
            .times("f", 100, 200)
    });
    f::rename(s.at("f"), s.at("d/g")).unwrap();
    refused(f::lstat(s.at("f")), Errno::NOENT);
    assert!(s.is_whiteout("f"));
    let stat = f::lstat(s.at("d/g")).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid, stat.st_mode & 0o7777), (3, 4, 0o640));
    assert_eq!(f::modified(&stat), (200, 222));
    assert_eq!(f::get_xattr(s.at("d/g"), "user.a").unwrap(), b"1");
    assert_eq!(f::read(s.at("d/g")).unwrap(), b"text");
    s.same_after_remounts();
}

/// A file that only the upper layer has leaves nothing behind.
pub fn an_upper_file(d: &Drivers) {
    let s = Scene::mounted(d, |t| t);
    f::write(s.at("f"), "text").unwrap();
    f::rename(s.at("f"), s.at("g")).unwrap();
    assert_eq!(f::names(s.upper("")).unwrap(), ["g"]);
    assert_eq!(f::read(s.at("g")).unwrap(), b"text");
}

/// Every pair of layers, file over file: the target is replaced at once, by the same file.
pub fn over_another_file(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.file("l1", "l1")
            .file("l2", "l2")
            .file("l3", "l3")
            .file("l4", "l4")
    });
    f::write(s.at("u1"), "u1").unwrap();
    f::write(s.at("u2"), "u2").unwrap();
    f::write(s.at("u3"), "u3").unwrap();
    for (from, to) in [("l1", "l2"), ("u1", "u2"), ("l3", "u3"), ("u2", "l4")] {
        let content = f::read(s.at(from)).unwrap();
        let number = f::lstat(s.at(from)).unwrap().st_ino;
        f::rename(s.at(from), s.at(to)).unwrap();
        assert_eq!(f::read(s.at(to)).unwrap(), content);
        assert_eq!(f::lstat(s.at(to)).unwrap().st_ino, number);
        refused(f::lstat(s.at(from)), Errno::NOENT);
    }
    assert_eq!(f::names(s.at("")).unwrap(), ["l2", "l4", "u3"]);
    s.same_after_remounts();
}

/// To where something was removed: the whiteout gives way.
pub fn to_a_removed_name(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.file("a", "a").file("b", "b").dir("e", 0o755));
    f::unlink(s.at("b")).unwrap();
    f::rmdir(s.at("e")).unwrap();
    f::rename(s.at("a"), s.at("b")).unwrap();
    f::rename(s.at("b"), s.at("e")).unwrap();
    assert_eq!(f::names(s.at("")).unwrap(), ["e"]);
    assert!(s.is_whiteout("a") && s.is_whiteout("b"));
    s.same_after_remounts();
}

/// Links, fifos and devices are renamed as themselves.
pub fn other_kinds(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.link_to("link", "to")
            .node("fifo", rustix::fs::FileType::Fifo, (0, 0))
            .node("null", rustix::fs::FileType::CharacterDevice, (1, 3))
            .file("x", "")
    });
    for name in ["link", "fifo", "null"] {
        let before = f::kind(s.at(name));
        f::rename(s.at(name), s.at("x")).unwrap();
        assert_eq!(f::kind(s.at("x")), before);
    }
    s.same_after_remounts();
}

/// Two names of one file: a rename of one over the other does nothing.
pub fn over_the_same_file(d: &Drivers) {
    let s = Scene::mounted(d, |t| t);
    f::write(s.at("a"), "text").unwrap();
    f::link(s.at("a"), s.at("b")).unwrap();
    f::rename(s.at("a"), s.at("b")).unwrap();
    f::rename(s.at("a"), s.at("a")).unwrap();
    assert_eq!(f::names(s.at("")).unwrap(), ["a", "b"]);
}

/// `RENAME_NOREPLACE` refuses any target that is shown, and takes one that is not.
pub fn noreplace(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.file("a", "a").file("b", "b").file("gone", "").dir("d", 0o755)
    });
    f::unlink(s.at("gone")).unwrap();
    for target in ["b", "d", "a"] {
        refused(
            f::rename_with(s.at("a"), s.at(target), RenameFlags::NOREPLACE),
            Errno::EXIST,
        );
    }
    f::rename_with(s.at("a"), s.at("gone"), RenameFlags::NOREPLACE).unwrap();
    f::rename_with(s.at("gone"), s.at("new"), RenameFlags::NOREPLACE).unwrap();
    assert_eq!(f::read(s.at("new")).unwrap(), b"a");
}

/// `RENAME_EXCHANGE` swaps two things of any layers and kinds.
pub fn exchange(d: &Drivers) {
    let mut s = Scene::mounted_with(d, "redirect_dir=on", |t| {
        t.file("l1", "l1")
            .file("l2", "l2")
            .link_to("link", "x")
            .dir("d", 0o755)
            .file("d/in", "")
    });
    f::write(s.at("u"), "u").unwrap();
    let exchange = |one: &str, two: &str| f::rename_with(s.at(one), s.at(two), RenameFlags::EXCHANGE);
    exchange("l1", "l2").unwrap();
    assert_eq!(f::read(s.at("l1")).unwrap(), b"l2");
    exchange("l1", "u").unwrap();
    assert_eq!(f::read(s.at("u")).unwrap(), b"l2");
    exchange("link", "u").unwrap();
    assert_eq!(f::read_link(s.at("u")).unwrap(), "x");
    exchange("d", "u").unwrap();
    assert_eq!(f::names(s.at("u")).unwrap(), ["in"]);
    assert_eq!(f::read_link(s.at("d")).unwrap(), "x");
    refused(exchange("d", "nothing"), Errno::NOENT);
    refused(exchange("nothing", "d"), Errno::NOENT);
    s.same_after_remounts();
}

/// An exchange of a directory with what lies in it is refused.
pub fn exchange_with_what_is_beneath(d: &Drivers) {
    let s = Scene::mounted_with(d, "redirect_dir=on", |t| {
        t.dir("d", 0o755).dir("d/e", 0o755).file("d/e/f", "")
    });
    let exchange = |one: &str, two: &str| f::rename_with(s.at(one), s.at(two), RenameFlags::EXCHANGE);
    refused(exchange("d", "d/e"), Errno::INVAL);
    refused(exchange("d/e/f", "d"), Errno::INVAL);
}

/// `RENAME_WHITEOUT` is for those who build on an upper directory; the kernel's overlay refuses it, as it refuses flags
/// that it does not know or that exclude each other.
pub fn whiteout_and_unknown_flags(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("a", "a").file("b", "b"));
    refused(
        f::rename_with(s.at("a"), s.at("c"), RenameFlags::WHITEOUT),
        Errno::INVAL,
    );
    let both = RenameFlags::EXCHANGE | RenameFlags::NOREPLACE;
    refused(f::rename_with(s.at("a"), s.at("b"), both), Errno::INVAL);
    let unknown = RenameFlags::from_bits_retain(1 << 20);
    refused(f::rename_with(s.at("a"), s.at("c"), unknown), Errno::INVAL);
    assert_eq!(f::read(s.at("a")).unwrap(), b"a");
}

/// Kinds that do not fit, in the order in which Linux looks.
pub fn which_error_comes_first(d: &Drivers) {
    let s = Scene::mounted_with(d, "redirect_dir=on", |t| {
        t.file("file", "")
            .dir("empty", 0o755)
            .dir("full", 0o755)
            .file("full/x", "")
            .dir("dir", 0o755)
            .dir("dir/sub", 0o755)
    });
    f::mkdir(s.at("upper"), 0o755).unwrap();
    f::write(s.at("upper/x"), "").unwrap();
    for (from, to, errno) in [
        ("file", "empty", Errno::ISDIR),
        ("file", "full", Errno::ISDIR),
        ("empty", "file", Errno::NOTDIR),
        ("empty", "full", Errno::NOTEMPTY),
        ("empty", "upper", Errno::NOTEMPTY),
        ("upper", "full", Errno::NOTEMPTY),
        ("dir", "dir/sub/x", Errno::INVAL),
        ("dir", "dir/x", Errno::INVAL),
        ("dir/sub", "dir", Errno::NOTEMPTY),
        ("nothing", "x", Errno::NOENT),
        ("nothing", "file", Errno::NOENT),
        ("file", "n/x", Errno::NOENT),
        ("file/x", "y", Errno::NOTDIR),
        ("file", "file/x", Errno::NOTDIR),
        ("", "x", Errno::XDEV),
        ("file", "", Errno::XDEV),
        ("dir/.", "x", Errno::BUSY),
        ("file", "dir/..", Errno::BUSY),
        ("file", "new/", Errno::NOTDIR),
    ] {
        let answer = f::rename(s.at(from), s.at(to));
        assert_eq!(answer, Err(errno), "{from} to {to}");
    }
}

/// A directory takes the place of an empty one, also of one that is empty only because everything in it was removed.
pub fn over_an_empty_directory(d: &Drivers) {
    let mut s = Scene::mounted_with(d, "redirect_dir=on", |t| {
        t.dir("a", 0o755)
            .file("a/in", "")
            .dir("empty", 0o755)
            .dir("emptied", 0o755)
            .file("emptied/x", "")
    });
    f::mkdir(s.at("b"), 0o755).unwrap();
    f::write(s.at("b/in"), "").unwrap();
    f::unlink(s.at("emptied/x")).unwrap();
    f::rename(s.at("a"), s.at("empty")).unwrap();
    f::rename(s.at("b"), s.at("emptied")).unwrap();
    assert_eq!(f::names(s.at("")).unwrap(), ["emptied", "empty"]);
    assert_eq!(f::names(s.at("empty")).unwrap(), ["in"]);
    assert_eq!(f::names(s.at("emptied")).unwrap(), ["in"]);
    s.same_after_remounts();
}

/// An open descriptor goes with the file to its new name.
pub fn open_descriptors_go_along(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "lower"));
    let reader = f::open_read(s.at("f")).unwrap();
    f::rename(s.at("f"), s.at("g")).unwrap();
    f::append(s.at("g"), "+").unwrap();
    assert_eq!(f::read_all(&reader).unwrap(), b"lower+");
    f::write(s.at("f"), "another").unwrap();
    assert_eq!(f::read_all(&reader).unwrap(), b"lower+");
}

/// Renames set the change time of the file, and both directories' times.
pub fn the_times(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.dir("a", 0o755)
            .dir("b", 0o755)
            .file("a/f", "")
            .times("a", 1, 2)
            .times("b", 1, 2)
    });
    f::rename(s.at("a/f"), s.at("b/f")).unwrap();
    for dir in ["a", "b"] {
        assert!(f::lstat(s.at(dir)).unwrap().st_mtime > 1_000_000_000, "{dir}");
    }
}
