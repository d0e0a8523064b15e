//! Making and removing names.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::{Drivers, Scene};
use crate::files::{self as f, refused};

/// What is made appears in the upper directory, as itself, and in no other place.
pub fn what_is_made_is_in_the_upper_directory(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.dir("d", 0o755));
    f::write(s.at("d/file"), "content").unwrap();
    f::mkdir(s.at("d/dir"), 0o751).unwrap();
    f::symlink("target", s.at("d/link")).unwrap();
    f::mknod(s.at("d/fifo"), FileType::Fifo, 0o640, (0, 0)).unwrap();
    assert_eq!(f::read(s.upper("d/file")).unwrap(), b"content");
    assert_eq!(f::mode(s.upper("d/dir")), Ok(0o751));
    assert_eq!(f::read_link(s.upper("d/link")).unwrap(), "target");
    assert_eq!(f::kind(s.upper("d/fifo")), Ok(FileType::Fifo));
    s.same_after_remounts();
}

/// A name that is there, in whatever layer and of whatever kind, is not made again.
pub fn what_is_there_is_not_made_again(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "").dir("d", 0o755).link_to("l", "nowhere"));
    for name in ["f", "d", "l", ""] {
        refused(f::mkdir(s.at(name), 0o755), Errno::EXIST);
        refused(f::symlink("x", s.at(name)), Errno::EXIST);
        refused(f::mknod(s.at(name), FileType::Fifo, 0o644, (0, 0)), Errno::EXIST);
        refused(f::link(s.at("f"), s.at(name)), Errno::EXIST);
    }
    refused(f::mkdir(s.at("f/x"), 0o755), Errno::NOTDIR);
    refused(f::mkdir(s.at("n/x"), 0o755), Errno::NOENT);
}

/// Anything can be made where something was removed, and a directory made there starts empty.
pub fn a_removed_name_is_made_again(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        ["a", "b", "c", "e", "g"]
            .iter()
            .fold(t, |t, name| {
                t.dir(name, 0o755).file(&format!("{name}/old"), "old")
            })
            .file("f", "old")
    });
    for name in ["a", "b", "c", "e", "g"] {
        f::unlink(s.at(format!("{name}/old"))).unwrap();
        f::rmdir(s.at(name)).unwrap();
    }
    f::unlink(s.at("f")).unwrap();
    f::write(s.at("a"), "a file").unwrap();
    f::mkdir(s.at("b"), 0o700).unwrap();
    f::symlink("b", s.at("c")).unwrap();
    f::mknod(s.at("e"), FileType::Fifo, 0o600, (0, 0)).unwrap();
    f::link(s.at("a"), s.at("g")).unwrap();
    f::mkdir(s.at("f"), 0o711).unwrap();
    assert_eq!(f::names(s.at("b")).unwrap(), [""; 0]);
    assert_eq!(f::mode(s.at("f")), Ok(0o711));
    assert_eq!(f::lstat(s.at("g")).unwrap().st_nlink, 2);
    s.same_after_remounts();
}

/// `unlink` of what a lower layer has leaves a whiteout; of what only the upper has, nothing.
pub fn unlink_leaves_a_whiteout_where_one_is_needed(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.file("lower", "").file("copied", "").link_to("link", "x"));
    f::write(s.at("upper"), "").unwrap();
    f::append(s.at("copied"), "x").unwrap();
    for name in ["lower", "copied", "link", "upper"] {
        f::unlink(s.at(name)).unwrap();
        refused(f::lstat(s.at(name)), Errno::NOENT);
        refused(f::unlink(s.at(name)), Errno::NOENT);
        assert_eq!(s.is_whiteout(name), name != "upper", "{name}");
    }
    assert!(!f::exists(s.upper("upper")));
    s.same_after_remounts();
}

/// A file is unlinked, a directory is not, and the other way round.
pub fn the_right_call_for_the_kind(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "").dir("d", 0o755).link_to("l", "d"));
    refused(f::unlink(s.at("d")), Errno::ISDIR);
    refused(f::rmdir(s.at("f")), Errno::NOTDIR);
    refused(f::rmdir(s.at("l")), Errno::NOTDIR);
    refused(f::rmdir(s.at("nothing")), Errno::NOENT);
    refused(f::rmdir(s.at("d/.")), Errno::INVAL);
    refused(f::rmdir(s.at("d/..")), Errno::NOTEMPTY);
    refused(f::rmdir(s.at("")), Errno::BUSY);
}

/// A merged directory is removed when nothing is shown in it any more, whatever whiteouts it holds.
pub fn rmdir_counts_what_is_shown(d: &Drivers) {
    let mut s = Scene::new(d)
        .lower(|t| {
            t.dir("d", 0o755)
                .file("d/a", "")
                .file("d/b", "")
                .dir("d/c", 0o755)
        })
        .lower(|t| t.dir("d", 0o755).whiteout("d/a"))
        .mount();
    refused(f::rmdir(s.at("d")), Errno::NOTEMPTY);
    f::unlink(s.at("d/b")).unwrap();
    refused(f::rmdir(s.at("d")), Errno::NOTEMPTY);
    f::rmdir(s.at("d/c")).unwrap();
    f::rmdir(s.at("d")).unwrap();
    assert!(s.is_whiteout("d"));
    refused(f::lstat(s.at("d")), Errno::NOENT);
    s.same_after_remounts();
}

/// A device works through the mount.
pub fn a_device_works(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.node("zero", FileType::CharacterDevice, (1, 5)));
    f::mknod(s.at("null"), FileType::CharacterDevice, 0o666, (1, 3)).unwrap();
    let zero = f::open_write(s.at("zero")).unwrap();
    let mut bytes = [1; 10];
    assert_eq!(rustix::io::read(&zero, &mut bytes[..]), Ok(10));
    assert_eq!(bytes, [0; 10]);
    let null = f::open_write(s.at("null")).unwrap();
    assert_eq!(rustix::io::write(&null, &bytes), Ok(10));
    assert_eq!(rustix::io::read(&null, &mut bytes[..]), Ok(0));
}

/// The device that is a whiteout cannot be made through the mount.
pub fn a_whiteout_cannot_be_made(d: &Drivers) {
    let s = Scene::mounted(d, |t| t);
    refused(
        f::mknod(s.at("w"), FileType::CharacterDevice, 0o644, (0, 0)),
        Errno::PERM,
    );
    refused(f::lstat(s.at("w")), Errno::NOENT);
    f::mknod(s.at("b"), FileType::BlockDevice, 0o644, (0, 0)).unwrap();
}

/// A fifo carries bytes from one opener to the other, a lower one without being copied up.
pub fn a_fifo_works(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.node("fifo", FileType::Fifo, (0, 0)));
    // First: a reader's descriptor may live on for a moment in what another test's thread has forked.
    refused(
        f::open(s.at("fifo"), OFlags::WRONLY | OFlags::NONBLOCK, 0),
        Errno::NXIO,
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let writer = f::open(s.at("fifo"), OFlags::WRONLY, 0).unwrap();
            rustix::io::write(&writer, b"through the fifo").unwrap();
        });
        let reader = f::open_read(s.at("fifo")).unwrap();
        let mut bytes = Vec::new();
        std::fs::File::from(reader).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"through the fifo");
    });
}

/// A socket is bound in the mount, found there, and gone when unlinked.
pub fn a_socket_works(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.dir("run", 0o755));
    let listener = UnixListener::bind(s.at("run/socket")).unwrap();
    assert_eq!(f::kind(s.at("run/socket")), Ok(FileType::Socket));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut connection, _) = listener.accept().unwrap();
            connection.write_all(b"hello").unwrap();
        });
        let mut text = String::new();
        UnixStream::connect(s.at("run/socket"))
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "hello");
    });
    f::unlink(s.at("run/socket")).unwrap();
    assert!(UnixStream::connect(s.at("run/socket")).is_err());
}

/// Link targets of any content and length up to a page, from either layer.
pub fn targets_of_links(d: &Drivers) {
    let long = "x/".repeat(2047);
    let s = Scene::mounted(d, |t| t.link_to("lower", &long));
    f::symlink(&long, s.at("upper")).unwrap();
    f::symlink("\u{7f}a b\n\\:,", s.at("odd")).unwrap();
    for name in ["lower", "upper"] {
        assert_eq!(f::read_link(s.at(name)).unwrap(), *long);
        assert_eq!(f::lstat(s.at(name)).unwrap().st_size, 4094);
    }
    assert_eq!(f::read_link(s.at("odd")).unwrap(), "\u{7f}a b\n\\:,");
    refused(f::symlink("", s.at("empty")), Errno::NOENT);
    refused(f::read_link(s.at("")), Errno::INVAL);
}

/// A second name of a file, whichever layer it was in; a link to a link is a link; directories have one name.
pub fn a_second_name(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.file("f", "text").dir("d", 0o755).link_to("l", "f"));
    f::link(s.at("f"), s.at("d/second")).unwrap();
    let (one, two) = (f::lstat(s.at("f")).unwrap(), f::lstat(s.at("d/second")).unwrap());
    assert_eq!((one.st_ino, one.st_nlink, two.st_nlink), (two.st_ino, 2, 2));
    f::append(s.at("d/second"), "+").unwrap();
    assert_eq!(f::read(s.at("f")).unwrap(), b"text+");
    f::link(s.at("l"), s.at("m")).unwrap();
    assert_eq!(f::read_link(s.at("m")).unwrap(), "f");
    refused(f::link(s.at("d"), s.at("e")), Errno::PERM);
    refused(f::link(s.at("f"), s.at("n/x")), Errno::NOENT);
    refused(f::link(s.at("nothing"), s.at("x")), Errno::NOENT);
    f::unlink(s.at("f")).unwrap();
    assert_eq!(f::lstat(s.at("d/second")).unwrap().st_nlink, 1);
    s.same_after_remounts();
}

/// A link to a file outside, or from there, crosses a mount.
pub fn links_do_not_cross_mounts(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", ""));
    f::write(s.beside("outside"), "").unwrap();
    refused(f::link(s.at("f"), s.beside("x")), Errno::XDEV);
    refused(f::link(s.beside("outside"), s.at("x")), Errno::XDEV);
    refused(f::rename(s.at("f"), s.beside("x")), Errno::XDEV);
    refused(f::link(s.upper(""), s.at("x")), Errno::XDEV);
}

/// Making and removing names sets the times of the directory; looking does not.
pub fn the_directorys_times(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.dir("d", 0o755)
            .file("d/f", "")
            .dir("d/e", 0o755)
            .times("d", 100, 200)
    });
    let old = || f::set_times(s.at("d"), (100, 0), (200, 0)).unwrap();
    let is_new = || f::lstat(s.at("d")).unwrap().st_mtime > 1_000_000_000;
    f::names(s.at("d")).unwrap();
    assert!(!is_new());
    let acts: [&dyn Fn(); 6] = [
        &|| f::write(s.at("d/new"), "").unwrap(),
        &|| f::unlink(s.at("d/f")).unwrap(),
        &|| f::rmdir(s.at("d/e")).unwrap(),
        &|| f::mkdir(s.at("d/e"), 0o755).unwrap(),
        &|| f::rename(s.at("d/new"), s.at("d/newer")).unwrap(),
        &|| f::link(s.at("d/newer"), s.at("d/linked")).unwrap(),
    ];
    for (number, act) in acts.iter().enumerate() {
        old();
        act();
        assert!(is_new(), "act {number}");
    }
    old();
    f::append(s.at("d/newer"), "x").unwrap();
    assert!(!is_new());
}
