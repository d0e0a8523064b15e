//! Hard links, across copy-up and remount.

use rustix::fs::OFlags;

use super::{Drivers, Scene, Tree};
use crate::files as f;

/// Three names of one lower file, in two directories.
fn three_names(t: Tree) -> Tree {
    t.dir("d", 0o755)
        .file("a", "text")
        .hard_link("b", "a")
        .hard_link("d/c", "a")
        .xattr("a", "user.x", "1")
}

const NAMES: [&str; 3] = ["a", "b", "d/c"];

fn same(s: &Scene, links: u64, content: &[u8]) {
    let number = f::lstat(s.at("a")).unwrap().st_ino;
    for name in NAMES {
        let stat = f::lstat(s.at(name)).unwrap();
        assert_eq!((stat.st_ino, stat.st_nlink), (number, links), "{name}");
        assert_eq!(f::read(s.at(name)).unwrap(), content, "{name}");
    }
}

/// With an index all names stay one file: a change through one is seen through all, and after a remount too.
pub fn with_an_index_they_stay_one_file(d: &Drivers) {
    let mut s = Scene::mounted_with(d, "index=on", three_names);
    same(&s, 3, b"text");
    f::append(s.at("b"), "+").unwrap();
    same(&s, 3, b"text+");
    f::chmod(s.at("d/c"), 0o600).unwrap();
    assert_eq!(f::mode(s.at("a")), Ok(0o600));
    f::set_xattr(s.at("a"), "user.y", "2").unwrap();
    assert_eq!(f::list_xattrs(s.at("b")).unwrap(), ["user.x", "user.y"]);
    for _ in 0..2 {
        s.remount();
        same(&s, 3, b"text+");
    }
    f::append(s.at("d/c"), "+").unwrap();
    same(&s, 3, b"text++");
    s.remount_by_other();
    same(&s, 3, b"text++");
    f::append(s.at("a"), "+").unwrap();
    same(&s, 3, b"text+++");
    s.remount();
    same(&s, 3, b"text+++");
}

/// The number of links counts names made and removed, through copy-up and remount.
pub fn links_are_counted(d: &Drivers) {
    let mut s = Scene::mounted_with(d, "index=on", three_names);
    let links = |s: &Scene, name: &str| f::lstat(s.at(name)).unwrap().st_nlink;
    f::unlink(s.at("b")).unwrap();
    assert_eq!(links(&s, "a"), 2);
    f::link(s.at("d/c"), s.at("e")).unwrap();
    assert_eq!(links(&s, "a"), 3);
    s.remount();
    assert_eq!((links(&s, "a"), links(&s, "e"), links(&s, "d/c")), (3, 3, 3));
    f::append(s.at("a"), "+").unwrap();
    assert_eq!(f::read(s.at("e")).unwrap(), b"text+");
    assert_eq!(links(&s, "d/c"), 3);
    s.remount_by_other();
    assert_eq!((links(&s, "a"), links(&s, "e"), links(&s, "d/c")), (3, 3, 3));
    f::unlink(s.at("a")).unwrap();
    f::unlink(s.at("e")).unwrap();
    assert_eq!(links(&s, "d/c"), 1);
    s.remount();
    assert_eq!(links(&s, "d/c"), 1);
    assert_eq!(f::read(s.at("d/c")).unwrap(), b"text+");
    f::unlink(s.at("d/c")).unwrap();
    s.unmount();
    // Nothing of the file is kept once it has no name.
    for index in f::names(s.work("index")).unwrap() {
        let entry = s.work("index").join(&index);
        assert_ne!(f::kind(&entry), Ok(rustix::fs::FileType::RegularFile), "{index}");
    }
}

/// Without an index a copy-up breaks the link: the name that was written to is a file of its own.
pub fn without_an_index_a_copy_up_breaks_them(d: &Drivers) {
    let mut s = Scene::mounted_with(d, "index=off", three_names);
    f::append(s.at("b"), "+").unwrap();
    assert_eq!(f::read(s.at("b")).unwrap(), b"text+");
    assert_eq!(f::read(s.at("a")).unwrap(), b"text");
    assert_eq!(f::read(s.at("d/c")).unwrap(), b"text");
    s.same_after_remounts();
}

/// A name made by `link` of a lower file is one file with it, with an index or without.
pub fn a_new_name_of_a_lower_file(d: &Drivers) {
    for option in ["index=on", "index=off"] {
        let mut s = Scene::mounted_with(d, option, |t| t.file("a", "text"));
        f::link(s.at("a"), s.at("b")).unwrap();
        f::append(s.at("b"), "+").unwrap();
        for _ in 0..2 {
            assert_eq!(f::read(s.at("a")).unwrap(), b"text+");
            let (one, two) = (f::lstat(s.at("a")).unwrap(), f::lstat(s.at("b")).unwrap());
            assert_eq!(
                (one.st_ino, one.st_nlink, two.st_nlink),
                (two.st_ino, 2, 2),
                "{option}"
            );
            s.remount_by_other();
        }
    }
}

/// Names of one file are renamed, one over another file, and one over the other (which does nothing).
pub fn renames_among_names(d: &Drivers) {
    let mut s = Scene::mounted_with(d, "index=on", |t| three_names(t).file("x", "x"));
    f::rename(s.at("a"), s.at("x")).unwrap();
    f::rename(s.at("x"), s.at("b")).unwrap();
    assert_eq!(f::names(s.at("")).unwrap(), ["b", "d", "x"]);
    let numbers = ["x", "b", "d/c"].map(|name| f::lstat(s.at(name)).unwrap().st_ino);
    assert!(numbers.iter().all(|number| *number == numbers[0]));
    f::append(s.at("x"), "+").unwrap();
    assert_eq!(f::read(s.at("d/c")).unwrap(), b"text+");
    s.same_after_remounts();
}

/// A descriptor of one name sees what is written through another, copied up in between.
pub fn descriptors_of_two_names(d: &Drivers) {
    let s = Scene::mounted_with(d, "index=on", three_names);
    let reader = f::open_read(s.at("a")).unwrap();
    let writer = f::open(s.at("d/c"), OFlags::WRONLY, 0).unwrap();
    f::write_all(&writer, b"TEXT", 0).unwrap();
    assert_eq!(f::read_all(&reader).unwrap(), b"TEXT");
    f::unlink(s.at("a")).unwrap();
    f::write_all(&writer, b"more", 4).unwrap();
    assert_eq!(f::read_all(&reader).unwrap(), b"TEXTmore");
}

/// Names that several layers give to one file below are kept by a layer of links: links within one upper layer.
pub fn links_within_the_upper_layer(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.dir("d", 0o755));
    f::write(s.at("a"), "text").unwrap();
    f::link(s.at("a"), s.at("b")).unwrap();
    f::link(s.at("b"), s.at("d/c")).unwrap();
    for _ in 0..2 {
        f::append(s.at("d/c"), "").unwrap();
        same(&s, 3, b"text");
        s.remount_by_other();
    }
}
