//! What stays beneath a directory, and what does not follow links.

use super::*;

fn scratch() -> (tempfile::TempDir, Dir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open_ambient(temp.path()).unwrap();
    (temp, dir)
}

#[test]
fn names_that_are_paths_are_refused() {
    let (_temp, dir) = scratch();
    for name in ["", ".", "..", "a/b", "/", "a\0b"] {
        let error = dir.mkdir(name, Mode::RWXU).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
    }
}

#[test]
fn opens_stay_beneath() {
    let (temp, dir) = scratch();
    std::os::unix::fs::symlink("/etc", temp.path().join("out")).unwrap();
    dir.mkdir("in", Mode::RWXU).unwrap();
    assert!(dir.open_dir("../").is_err());
    assert!(dir.open_dir("/etc").is_err());
    assert!(dir.open_dir("in/../..").is_err());
    assert_eq!(dir.open_dir("out").unwrap_err().raw_os_error(), Some(libc::ELOOP));
    assert!(dir.mkdir_all("../x", Mode::RWXU).is_err());
    // As a root of its own, the absolute link starts here, where there is no etc.
    let error = dir.open_in_root("out", OFlags::PATH, Mode::empty()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    dir.mkdir("etc", Mode::RWXU).unwrap();
    dir.open_in_root("out/../../etc", OFlags::PATH, Mode::empty())
        .unwrap();
}

#[test]
fn mode_is_exact_and_links_are_not_followed() {
    let (temp, dir) = scratch();
    dir.mkdir("d", Mode::from_raw_mode(0o1777)).unwrap();
    assert_eq!(dir.stat("d").unwrap().st_mode & 0o7777, 0o1777);
    std::fs::write(temp.path().join("f"), "").unwrap();
    dir.symlink("f", "l").unwrap();
    assert_eq!(
        dir.set_mode("l", Mode::RWXU).unwrap_err().raw_os_error(),
        Some(libc::ELOOP)
    );
    dir.set_mode("f", Mode::from_raw_mode(0o4711)).unwrap();
    assert_eq!(dir.stat("f").unwrap().st_mode & 0o7777, 0o4711);
    dir.set_xattr("f", "user.a", b"1").unwrap();
    assert_eq!(dir.get_xattr("f", "user.a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(dir.get_xattr("l", "user.a").unwrap(), None);
    assert_eq!(dir.list_xattrs("f").unwrap(), ["user.a"]);
    dir.remove_xattr("f", "user.a").unwrap();
    dir.remove_xattr("f", "user.a").unwrap();
    assert_eq!(dir.get_xattr("f", "user.a").unwrap(), None);
}

#[test]
fn a_tree_deeper_than_any_limit_is_removed_and_links_are_not_entered() {
    let (temp, dir) = scratch();
    dir.mkdir("keep", Mode::RWXU).unwrap();
    dir.open_dir("keep").unwrap().mkdir("me", Mode::RWXU).unwrap();
    dir.mkdir("tree", Mode::RWXU).unwrap();
    let mut at = dir.open_dir("tree").unwrap();
    for depth in 0..400 {
        at.symlink(temp.path().join("keep"), "link").unwrap();
        at.mkdir("d", Mode::RWXU).unwrap();
        at.mkdir(format!("e{depth}"), Mode::RWXU).unwrap();
        at = at.open_dir("d").unwrap();
    }
    drop(at);
    let deep = format!("tree/{}", "d//////////".repeat(400));
    assert!(dir.open_dir(&deep).is_ok());
    assert!(dir.open_dir("tree/d/".repeat(2000)).is_err());
    dir.remove_tree("tree").unwrap();
    dir.remove_tree("tree").unwrap();
    assert!(dir.try_stat("tree").unwrap().is_none());
    assert!(dir.open_dir("keep/me").is_ok());
}

/// Beneath the depth at which directories are moved up there is one of the name that the next would get.
#[test]
fn a_tree_that_foresees_how_it_is_removed() {
    let (_temp, dir) = scratch();
    let mut at = dir.try_clone().unwrap();
    for _ in 0..Dir::REMOVAL_DEPTH + 1 {
        at.mkdir("d", Mode::RWXU).unwrap();
        at = at.open_dir("d").unwrap();
    }
    let deep = at.mkdir_all("c/moved", Mode::RWXU).unwrap();
    let ino = deep.metadata().unwrap().st_ino;
    for index in 0..2 {
        at.mkdir(format!(".removing-{ino}-{index}-0"), Mode::RWXU)
            .unwrap();
    }
    dir.remove_tree("d").unwrap();
    assert!(dir.try_stat("d").unwrap().is_none());
}

/// Needs root, and a file system that has such flags (not tmpfs before Linux 6.6).
#[test]
fn root_removes_what_is_immutable_all_the_same() {
    let (_temp, dir) = scratch();
    let inner = dir.mkdir_all("tree/inner", Mode::RWXU).unwrap();
    let file = inner.create_new("file", Mode::RWXU).unwrap();
    inode_flags::set(&file, IFlags::IMMUTABLE).unwrap();
    inode_flags::set(&inner.fd, IFlags::APPEND).unwrap();
    dir.remove_tree("tree").unwrap();
    assert!(dir.try_stat("tree").unwrap().is_none());
}
