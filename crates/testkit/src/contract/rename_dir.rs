//! Renames of directories that lower layers have a part in.

use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Drivers, Scene, Tree};
use crate::files::{self as f, refused};

fn tree(t: Tree) -> Tree {
    t.dir("a", 0o751)
        .file("a/f", "f")
        .dir("a/b", 0o755)
        .file("a/b/g", "g")
        .dir("other", 0o755)
}

fn redirect(s: &Scene, path: &str) -> f::Answer<String> {
    f::get_xattr(s.upper(path), &super::own("redirect")).map(|value| String::from_utf8(value).unwrap())
}

/// With redirects off, a directory that a lower layer has cannot be renamed; one of the upper layer alone can.
pub fn without_redirects(d: &Drivers) {
    let mut s = Scene::mounted_with(d, "redirect_dir=off", tree);
    refused(f::rename(s.at("a"), s.at("x")), Errno::XDEV);
    refused(f::rename(s.at("a/b"), s.at("x")), Errno::XDEV);
    f::write(s.at("a/new"), "").unwrap();
    refused(f::rename(s.at("a"), s.at("x")), Errno::XDEV);
    f::mkdir(s.at("own"), 0o755).unwrap();
    f::write(s.at("own/x"), "").unwrap();
    f::rename(s.at("own"), s.at("a/moved")).unwrap();
    assert_eq!(f::names(s.at("a/moved")).unwrap(), ["x"]);
    s.same_after_remounts();
}

/// With redirects on it can: everything beneath is found under the new name, before and after a remount.
pub fn with_redirects(d: &Drivers) {
    let mut s = Scene::mounted_with(d, "redirect_dir=on", tree);
    f::rename(s.at("a"), s.at("x")).unwrap();
    refused(f::lstat(s.at("a")), Errno::NOENT);
    assert!(s.is_whiteout("a"));
    assert_eq!(redirect(&s, "x").unwrap(), "a");
    assert_eq!(f::mode(s.at("x")), Ok(0o751));
    assert_eq!(f::names(s.at("x")).unwrap(), ["b", "f"]);
    assert_eq!(f::read(s.at("x/b/g")).unwrap(), b"g");
    s.same_after_remounts();
    f::append(s.at("x/b/g"), "+").unwrap();
    f::unlink(s.at("x/f")).unwrap();
    assert_eq!(f::names(s.at("x")).unwrap(), ["b"]);
    s.same_after_remounts();
}

/// Into another directory the redirect names the whole path.
pub fn into_another_directory(d: &Drivers) {
    let mut s = Scene::mounted_with(d, "redirect_dir=on", tree);
    f::rename(s.at("a/b"), s.at("other/c")).unwrap();
    assert_eq!(redirect(&s, "other/c").unwrap(), "/a/b");
    assert_eq!(f::read(s.at("other/c/g")).unwrap(), b"g");
    assert_eq!(f::names(s.at("a")).unwrap(), ["f"]);
    s.same_after_remounts();
}

/// Moved directories are moved again, and back, and their parents after them.
pub fn again_and_back(d: &Drivers) {
    let mut s = Scene::mounted_with(d, "redirect_dir=on", tree);
    f::rename(s.at("a/b"), s.at("b")).unwrap();
    f::rename(s.at("a"), s.at("x")).unwrap();
    f::rename(s.at("b"), s.at("x/y")).unwrap();
    assert_eq!(f::read(s.at("x/y/g")).unwrap(), b"g");
    s.same_after_remounts();
    f::rename(s.at("x/y"), s.at("x/b")).unwrap();
    f::rename(s.at("x"), s.at("a")).unwrap();
    assert_eq!(f::read(s.at("a/b/g")).unwrap(), b"g");
    assert_eq!(f::names(s.at("")).unwrap(), ["a", "other"]);
    s.same_after_remounts();
}

/// A directory made where one was moved away is new, and empty.
pub fn the_old_name_is_free(d: &Drivers) {
    let mut s = Scene::mounted_with(d, "redirect_dir=on", tree);
    f::rename(s.at("a"), s.at("x")).unwrap();
    f::mkdir(s.at("a"), 0o700).unwrap();
    assert_eq!(f::names(s.at("a")).unwrap(), [""; 0]);
    f::write(s.at("a/f"), "new").unwrap();
    assert_eq!(f::read(s.at("x/f")).unwrap(), b"f");
    s.same_after_remounts();
}

/// Two lower directories change places.
pub fn exchanged(d: &Drivers) {
    let mut s = Scene::mounted_with(d, "redirect_dir=on", |t| tree(t).file("other/o", "o"));
    f::rename_with(s.at("a"), s.at("other"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(f::names(s.at("other")).unwrap(), ["b", "f"]);
    assert_eq!(f::names(s.at("a")).unwrap(), ["o"]);
    s.same_after_remounts();
    f::rename_with(s.at("other/b"), s.at("a/o"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(f::read(s.at("other/b")).unwrap(), b"o");
    assert_eq!(f::read(s.at("a/o/g")).unwrap(), b"g");
    s.same_after_remounts();
}

/// The parts of a moved directory may lie in several layers.
pub fn merged_from_several_layers(d: &Drivers) {
    let mut s = Scene::new(d)
        .lower(tree)
        .lower(|t| {
            t.dir("a", 0o700)
                .file("a/second", "2")
                .whiteout("a/f")
                .dir("a/b", 0o755)
                .opaque("a/b")
        })
        .option("redirect_dir=on")
        .mount();
    f::write(s.at("a/third"), "3").unwrap();
    f::rename(s.at("a"), s.at("other/moved")).unwrap();
    assert_eq!(f::names(s.at("other/moved")).unwrap(), ["b", "second", "third"]);
    assert_eq!(f::names(s.at("other/moved/b")).unwrap(), [""; 0]);
    s.same_after_remounts();
}

/// A directory that is open, or someone's working directory, goes on under its new name.
pub fn while_it_is_open(d: &Drivers) {
    let s = Scene::mounted_with(d, "redirect_dir=on", tree);
    let dir = f::open(s.at("a"), OFlags::RDONLY | OFlags::DIRECTORY, 0).unwrap();
    rustix::process::chdir(s.at("a/b")).unwrap();
    f::rename(s.at("a"), s.at("x")).unwrap();
    assert_eq!(f::read("g").unwrap(), b"g");
    f::write("here", "here").unwrap();
    assert_eq!(f::read(s.at("x/b/here")).unwrap(), b"here");
    assert_eq!(
        rustix::process::getcwd(Vec::new()).unwrap().to_str().unwrap(),
        s.at("x/b").to_str().unwrap()
    );
    let file = rustix::fs::openat(&dir, "f", OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    assert_eq!(f::read_all(&file).unwrap(), b"f");
    rustix::process::chdir("/").unwrap();
}

/// A redirect that would be longer than 256 bytes is not made: the rename answers `EXDEV`.
pub fn a_redirect_that_is_too_long(d: &Drivers) {
    let deep = ["n".repeat(90), "o".repeat(90), "p".repeat(90)];
    let s = Scene::mounted_with(d, "redirect_dir=on", |t| {
        (1..=3).fold(t, |t, depth| t.dir(&deep[..depth].join("/"), 0o755))
    });
    let path = deep.join("/");
    refused(f::rename(s.at(&path), s.at("moved")), Errno::XDEV);
    // In the same directory one name is enough.
    f::rename(s.at(&path), s.at(format!("{}/{}/q", deep[0], deep[1]))).unwrap();
}

/// A moved directory keeps its number, and those of what is in it.
pub fn numbers_stay(d: &Drivers) {
    let s = Scene::mounted_with(d, "redirect_dir=on", tree);
    let number = |path: &str| f::lstat(s.at(path)).unwrap().st_ino;
    let before = [number("a"), number("a/f"), number("a/b"), number("a/b/g")];
    f::rename(s.at("a"), s.at("other/x")).unwrap();
    let after = [
        number("other/x"),
        number("other/x/f"),
        number("other/x/b"),
        number("other/x/b/g"),
    ];
    assert_eq!(before, after);
}

/// A directory of the upper layer alone takes its whiteouts along, and needs no redirect.
pub fn of_the_upper_layer_alone(d: &Drivers) {
    let mut s = Scene::mounted_with(d, "redirect_dir=on", tree);
    f::mkdir(s.at("own"), 0o755).unwrap();
    f::rename(s.at("a/f"), s.at("own/f")).unwrap();
    f::rename(s.at("own"), s.at("other/own")).unwrap();
    refused(redirect(&s, "other/own"), Errno::NODATA);
    assert!(!f::exists(s.upper("own")));
    s.same_after_remounts();
}
