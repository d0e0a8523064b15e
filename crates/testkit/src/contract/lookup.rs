//! Which of several layers a name is found in.

use rustix::fs::FileType;
use rustix::io::Errno;

use super::{Drivers, Scene};
use crate::files::{self as f, refused};

/// A file in a higher layer hides the one below, with all its attributes.
pub fn the_topmost_file_wins(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| t.file("a", "bottom").file("b", "bottom").file("c", "bottom"))
        .lower(|t| t.file("a", "middle").file("b", "middle").mode("b", 0o600))
        .with_upper(|t| t.file("a", "upper"))
        .mount();
    assert_eq!(f::read(s.at("a")).unwrap(), b"upper");
    assert_eq!(f::read(s.at("b")).unwrap(), b"middle");
    assert_eq!(f::mode(s.at("b")), Ok(0o600));
    assert_eq!(f::read(s.at("c")).unwrap(), b"bottom");
}

/// Directories of the same name merge, at every depth; the topmost gives mode, owner, times and attributes.
pub fn directories_merge(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| {
            t.dir("d", 0o700)
                .dir("d/e", 0o711)
                .file("d/e/bottom", "1")
                .file("d/x", "1")
        })
        .lower(|t| {
            t.dir("d", 0o751)
                .owner("d", 5, 6)
                .dir("d/e", 0o755)
                .file("d/e/top", "2")
                .xattr("d", "user.tag", "top")
                .times("d", 100, 200)
        })
        .mount();
    assert_eq!(f::names(s.at("d")).unwrap(), ["e", "x"]);
    assert_eq!(f::names(s.at("d/e")).unwrap(), ["bottom", "top"]);
    let stat = f::lstat(s.at("d")).unwrap();
    assert_eq!((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid), (0o751, 5, 6));
    assert_eq!(f::modified(&stat), (200, 222));
    assert_eq!(f::get_xattr(s.at("d"), "user.tag").unwrap(), b"top");
}

/// A file between two directories ends the merge: what lies below it is hidden for ever.
pub fn a_file_ends_the_merge(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| {
            t.dir("d", 0o755)
                .file("d/hidden", "")
                .dir("f", 0o755)
                .file("f/hidden", "")
        })
        .lower(|t| t.file("d", "a file").file("f", "a file"))
        .lower(|t| t.dir("d", 0o755).file("d/shown", ""))
        .mount();
    assert_eq!(f::names(s.at("d")).unwrap(), ["shown"]);
    refused(f::lstat(s.at("d/hidden")), Errno::NOENT);
    assert_eq!(f::read(s.at("f")).unwrap(), b"a file");
    refused(f::lstat(s.at("f/hidden")), Errno::NOTDIR);
}

/// A whiteout hides the name in the layers below it, not in those above.
pub fn a_whiteout_hides_what_is_below(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| t.file("a", "1").file("b", "1").dir("d", 0o755).file("d/x", "1"))
        .lower(|t| t.whiteout("a").whiteout("b").whiteout("d"))
        .lower(|t| t.file("b", "3").dir("d", 0o755).file("d/y", "3"))
        .mount();
    refused(f::lstat(s.at("a")), Errno::NOENT);
    refused(f::open_read(s.at("a")), Errno::NOENT);
    refused(f::unlink(s.at("a")), Errno::NOENT);
    refused(f::read_link(s.at("a")), Errno::NOENT);
    assert_eq!(f::read(s.at("b")).unwrap(), b"3");
    assert_eq!(f::names(s.at("d")).unwrap(), ["y"]);
    assert_eq!(f::names(s.at("")).unwrap(), ["b", "d"]);
}

/// An opaque directory hides the directories of its name below.
pub fn an_opaque_directory_hides_what_is_below(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| {
            t.dir("d", 0o755)
                .file("d/below", "")
                .dir("d/e", 0o755)
                .file("d/e/below", "")
        })
        .lower(|t| t.dir("d", 0o755).opaque("d").file("d/here", "").dir("d/e", 0o755))
        .mount();
    assert_eq!(f::names(s.at("d")).unwrap(), ["e", "here"]);
    assert_eq!(f::names(s.at("d/e")).unwrap(), [""; 0]);
    refused(f::lstat(s.at("d/below")), Errno::NOENT);
}

/// `opaque` on the root of a layer means nothing.
pub fn an_opaque_root_hides_nothing(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| t.file("below", ""))
        .lower(|t| t.opaque("").file("above", ""))
        .mount();
    assert_eq!(f::names(s.at("")).unwrap(), ["above", "below"]);
}

/// Whiteouts of the attribute kind, which need no device: an empty file marked so, in a directory marked `x`.
pub fn whiteouts_of_the_attribute_kind(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| t.dir("d", 0o755).file("d/gone", "1").file("d/kept", "1"))
        .lower(|t| {
            t.dir("d", 0o755)
                .xattr("d", &super::own("opaque"), "x")
                .file("d/gone", "")
                .xattr("d/gone", &super::own("whiteout"), "")
        })
        .mount();
    assert_eq!(f::names(s.at("d")).unwrap(), ["kept"]);
    refused(f::lstat(s.at("d/gone")), Errno::NOENT);
    f::write(s.at("d/gone"), "again").unwrap();
    assert_eq!(f::read(s.at("d/gone")).unwrap(), b"again");
}

/// A directory redirected to another name of its parent merges with that one below, and not with its own.
pub fn a_relative_redirect_is_followed(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| {
            t.dir("old", 0o755)
                .file("old/moved", "")
                .dir("new", 0o755)
                .file("new/hidden", "")
        })
        .lower(|t| {
            t.dir("new", 0o755)
                .xattr("new", &super::own("redirect"), "old")
                .file("new/top", "")
                .whiteout("old")
        })
        .option("redirect_dir=follow")
        .mount();
    assert_eq!(f::names(s.at("new")).unwrap(), ["moved", "top"]);
    assert_eq!(f::names(s.at("")).unwrap(), ["new"]);
}

/// A directory redirected to a path from the root merges with that one in every layer below.
pub fn an_absolute_redirect_is_followed(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| t.dir("a", 0o755).dir("a/b", 0o755).file("a/b/one", ""))
        .lower(|t| t.dir("a", 0o755).dir("a/b", 0o755).file("a/b/two", ""))
        .lower(|t| {
            t.dir("c", 0o755)
                .dir("c/d", 0o755)
                .xattr("c/d", &super::own("redirect"), "/a/b")
        })
        .option("redirect_dir=follow")
        .mount();
    assert_eq!(f::names(s.at("c/d")).unwrap(), ["one", "two"]);
}

/// With `redirect_dir=nofollow` a redirect is not followed: the directory cannot be entered.
pub fn a_redirect_not_to_be_followed(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| t.dir("old", 0o755).file("old/moved", ""))
        .lower(|t| t.dir("new", 0o755).xattr("new", &super::own("redirect"), "old"))
        .option("redirect_dir=nofollow")
        .mount();
    refused(f::lstat(s.at("new")), Errno::PERM);
}

/// What a path runs through must be a directory, in the merged view.
pub fn a_path_through_a_file(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "").dir("d", 0o755).link_to("loop", "loop"));
    refused(f::lstat(s.at("f/x")), Errno::NOTDIR);
    refused(f::lstat(s.at("d/x/y")), Errno::NOENT);
    refused(f::open_read(s.at("loop")), Errno::LOOP);
    assert!(f::exists(s.at("d/../f")));
}

/// Links are resolved in the merged view: a link in one layer may lead to a file of another.
pub fn links_lead_through_the_merged_view(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| t.link_to("link", "d/target").link_to("up", "d"))
        .lower(|t| t.dir("d", 0o755).file("d/target", "found"))
        .mount();
    assert_eq!(f::read(s.at("link")).unwrap(), b"found");
    assert_eq!(f::read(s.at("up/target")).unwrap(), b"found");
    assert_eq!(f::read_link(s.at("link")).unwrap(), "d/target");
}

/// A name that was looked up in vain is found once it is made, and lost again once removed.
pub fn a_name_comes_and_goes(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("lower", "1"));
    for round in 0..3 {
        refused(f::lstat(s.at("new")), Errno::NOENT);
        f::write(s.at("new"), "x").unwrap();
        assert!(f::exists(s.at("new")));
        f::unlink(s.at("new")).unwrap();
        refused(f::lstat(s.at("new")), Errno::NOENT);
        if round == 0 {
            f::unlink(s.at("lower")).unwrap();
        }
        refused(f::lstat(s.at("lower")), Errno::NOENT);
    }
}

/// A file of which the upper layer holds the metadata alone has its data from below (`metacopy=on`), for both drivers.
pub fn metadata_alone_is_copied_up(d: &Drivers) {
    let mut s = Scene::mounted_with(d, "metacopy=on", |t| {
        t.file("f", "data").xattr("f", "user.a", "1")
    });
    f::chmod(s.at("f"), 0o640).unwrap();
    assert!(f::get_xattr(s.upper("f"), &super::own("metacopy")).is_ok());
    assert_eq!(f::read(s.at("f")).unwrap(), b"data");
    assert_eq!(f::list_xattrs(s.at("f")).unwrap(), ["user.a"]);
    s.same_after_remounts();
    f::append(s.at("f"), "+").unwrap();
    assert_eq!(f::read(s.at("f")).unwrap(), b"data+");
    assert_eq!(f::read(s.upper("f")).unwrap(), b"data+");
    refused(f::get_xattr(s.upper("f"), &super::own("metacopy")), Errno::NODATA);
    s.same_after_remounts();
}

/// Every kind of file is found for what it is.
pub fn every_kind_is_shown(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.file("file", "")
            .dir("dir", 0o755)
            .link_to("link", "nowhere")
            .node("fifo", FileType::Fifo, (0, 0))
            .node("socket", FileType::Socket, (0, 0))
            .node("null", FileType::CharacterDevice, (1, 3))
            .node("disk", FileType::BlockDevice, (7, 99))
    });
    for (name, kind) in [
        ("file", FileType::RegularFile),
        ("dir", FileType::Directory),
        ("link", FileType::Symlink),
        ("fifo", FileType::Fifo),
        ("socket", FileType::Socket),
        ("null", FileType::CharacterDevice),
        ("disk", FileType::BlockDevice),
    ] {
        assert_eq!(f::kind(s.at(name)), Ok(kind), "{name}");
    }
    assert_eq!(
        f::lstat(s.at("disk")).unwrap().st_rdev,
        rustix::fs::makedev(7, 99)
    );
}

/// The root of the mount has the attributes of the upper directory, and its number is that of no other thing.
pub fn the_root_is_the_upper_directory(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| t.mode("", 0o711).file("f", ""))
        .with_upper(|t| t.mode("", 0o750).owner("", 7, 8))
        .mount();
    let stat = f::lstat(s.at("")).unwrap();
    assert_eq!((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid), (0o750, 7, 8));
    assert_ne!(stat.st_ino, f::lstat(s.at("f")).unwrap().st_ino);
}
