//! `open(2)` and its flags.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat, ftruncate};
use rustix::io::{Errno, pread, read, write};

use super::{Drivers, Scene};
use crate::files::{self as f, refused};

const CREATE: OFlags = OFlags::RDWR.union(OFlags::CREATE);

/// `O_EXCL` refuses what is there in any layer, links too, and takes a name that was removed.
pub fn exclusive_creation(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.file("lower", "").file("gone", "old").link_to("link", "nowhere")
    });
    let exclusive = CREATE | OFlags::EXCL;
    refused(f::open(s.at("lower"), exclusive, 0o644), Errno::EXIST);
    refused(f::open(s.at("link"), exclusive, 0o644), Errno::EXIST);
    f::unlink(s.at("gone")).unwrap();
    let file = f::open(s.at("gone"), exclusive, 0o604).unwrap();
    assert_eq!(f::read_all(&file).unwrap(), b"");
    assert_eq!(f::mode(s.at("gone")), Ok(0o604));
}

/// `O_CREAT` on what is there opens it; through a link that leads nowhere it makes the target.
pub fn creation_of_what_is_there(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.file("lower", "old")
            .mode("lower", 0o600)
            .link_to("link", "made")
    });
    let file = f::open(s.at("lower"), CREATE, 0o777).unwrap();
    assert_eq!(f::read_all(&file).unwrap(), b"old");
    assert_eq!(f::mode(s.at("lower")), Ok(0o600));
    f::open(s.at("link"), CREATE, 0o644).unwrap();
    assert_eq!(f::kind(s.at("made")), Ok(FileType::RegularFile));
}

/// The mode that is asked for loses the bits of the umask.
pub fn the_umask_applies(d: &Drivers) {
    let s = Scene::mounted(d, |t| t);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    f::open(s.at("f"), CREATE, 0o666).unwrap();
    f::mkdir(s.at("d"), 0o777).unwrap();
    f::mknod(s.at("p"), FileType::Fifo, 0o666, (0, 0)).unwrap();
    assert_eq!(f::mode(s.at("f")), Ok(0o640));
    assert_eq!(f::mode(s.at("d")), Ok(0o750));
    assert_eq!(f::mode(s.at("p")), Ok(0o640));
}

/// `O_NOFOLLOW` refuses a link, `O_PATH` with it opens the link itself, `O_DIRECTORY` refuses a file.
pub fn what_is_followed(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "x").link_to("link", "f"));
    refused(
        f::open(s.at("link"), OFlags::RDONLY | OFlags::NOFOLLOW, 0),
        Errno::LOOP,
    );
    let link = f::open(s.at("link"), OFlags::PATH | OFlags::NOFOLLOW, 0).unwrap();
    assert_eq!(
        FileType::from_raw_mode(fstat(&link).unwrap().st_mode),
        FileType::Symlink
    );
    let target = rustix::fs::readlinkat(&link, "", Vec::new()).unwrap();
    assert_eq!(target.to_bytes(), b"f");
    refused(
        f::open(s.at("f"), OFlags::RDONLY | OFlags::DIRECTORY, 0),
        Errno::NOTDIR,
    );
    refused(
        f::open(s.at("link"), OFlags::RDONLY | OFlags::DIRECTORY, 0),
        Errno::NOTDIR,
    );
}

/// A descriptor opened with `O_PATH` reads nothing, but names the file for others.
pub fn path_descriptors(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "text").dir("d", 0o755).file("d/in", "inside"));
    let path = f::open(s.at("f"), OFlags::PATH, 0).unwrap();
    let mut buffer = [0; 4];
    refused(read(&path, &mut buffer[..]), Errno::BADF);
    f::append(s.at("f"), "+").unwrap();
    assert_eq!(fstat(&path).unwrap().st_size, 5);
    let dir = f::open(s.at("d"), OFlags::PATH | OFlags::DIRECTORY, 0).unwrap();
    let file = rustix::fs::openat(&dir, "in", OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    assert_eq!(f::read_all(&file).unwrap(), b"inside");
    rustix::fs::chmodat(
        &dir,
        "in",
        rustix::fs::Mode::from_raw_mode(0o600),
        AtFlags::empty(),
    )
    .unwrap();
    assert_eq!(f::mode(s.at("d/in")), Ok(0o600));
}

/// `O_TRUNC` empties a lower file's copy; its owner, mode and attributes stay.
pub fn truncation_on_open(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.file("f", vec![7; 100_000])
            .owner("f", 5, 6)
            .mode("f", 0o640)
            .xattr("f", "user.a", "1")
            .file("readonly", "text")
    });
    let file = f::open(s.at("f"), OFlags::WRONLY | OFlags::TRUNC, 0).unwrap();
    let stat = fstat(&file).unwrap();
    assert_eq!(
        (stat.st_size, stat.st_uid, stat.st_gid, stat.st_mode & 0o7777),
        (0, 5, 6, 0o640)
    );
    assert_eq!(f::get_xattr(s.at("f"), "user.a").unwrap(), b"1");
    // Linux truncates for a reader too, if it may write.
    let reader = f::open(s.at("readonly"), OFlags::RDONLY | OFlags::TRUNC, 0).unwrap();
    assert_eq!(fstat(&reader).unwrap().st_size, 0);
    drop((file, reader));
    s.same_after_remounts();
}

/// `O_APPEND` writes at the end, wherever that is by then; the flag can be set and taken away later.
pub fn appending(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "start"));
    let one = f::open(s.at("f"), OFlags::WRONLY | OFlags::APPEND, 0).unwrap();
    let two = f::open(s.at("f"), OFlags::WRONLY | OFlags::APPEND, 0).unwrap();
    for (file, text) in [(&one, "-1"), (&two, "-2"), (&one, "-3")] {
        write(file, text.as_bytes()).unwrap();
    }
    assert_eq!(f::read(s.at("f")).unwrap(), b"start-1-2-3");
    let third = f::open_write(s.at("f")).unwrap();
    fcntl_setfl(&third, OFlags::APPEND).unwrap();
    assert!(fcntl_getfl(&third).unwrap().contains(OFlags::APPEND));
    write(&third, b"-4").unwrap();
    fcntl_setfl(&third, OFlags::empty()).unwrap();
    rustix::fs::seek(&third, rustix::fs::SeekFrom::Start(0)).unwrap();
    write(&third, b"S").unwrap();
    assert_eq!(f::read(s.at("f")).unwrap(), b"Start-1-2-3-4");
}

/// Writers that append at once lose nothing of each other's.
pub fn many_append_at_once(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", ""));
    std::thread::scope(|scope| {
        for writer in 0..4u8 {
            let path = s.at("f");
            scope.spawn(move || {
                let file = f::open(path, OFlags::WRONLY | OFlags::APPEND, 0).unwrap();
                for _ in 0..100 {
                    assert_eq!(write(&file, &[b'a' + writer; 10]).unwrap(), 10);
                }
            });
        }
    });
    let content = f::read(s.at("f")).unwrap();
    assert_eq!(content.len(), 4000);
    assert!(
        content
            .chunks(10)
            .all(|part| part.iter().all(|byte| *byte == part[0]))
    );
}

fn temporary(s: &Scene, dir: &str, extra: OFlags) -> OwnedFd {
    f::open(s.at(dir), OFlags::RDWR | OFlags::TMPFILE | extra, 0o640).unwrap()
}

/// `O_TMPFILE` makes a file without a name in any directory, which a link can give it later.
pub fn a_file_without_a_name(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.dir("lower", 0o755).file("lower/x", ""));
    for (dir, name) in [("", "named"), ("lower", "lower/named")] {
        let file = temporary(&s, dir, OFlags::empty());
        f::write_all(&file, b"content", 0).unwrap();
        rustix::fs::fsetxattr(&file, "user.a", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        let stat = fstat(&file).unwrap();
        assert_eq!(
            (stat.st_nlink, stat.st_size, stat.st_mode & 0o7777),
            (0, 7, 0o640)
        );
        assert!(
            f::names(s.at(dir))
                .unwrap()
                .iter()
                .all(|name| !name.starts_with('#'))
        );
        f::link_open(&file, s.at(name)).unwrap();
        assert_eq!(fstat(&file).unwrap().st_nlink, 1);
        assert_eq!(f::lstat(s.at(name)).unwrap().st_ino, fstat(&file).unwrap().st_ino);
        f::write_all(&file, b"C", 0).unwrap();
        assert_eq!(f::read(s.at(name)).unwrap(), b"Content");
    }
    s.same_after_remounts();
}

/// With `O_EXCL` it never gets a name; without one it leaves nothing.
pub fn a_file_that_never_gets_a_name(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.file("f", ""));
    let file = temporary(&s, "", OFlags::EXCL);
    refused(f::link_open(&file, s.at("named")), Errno::NOENT);
    refused(
        f::link_open(temporary(&s, "", OFlags::empty()), s.at("f")),
        Errno::EXIST,
    );
    drop(file);
    s.unmount();
    assert_eq!(f::names(s.upper("")).unwrap(), [""; 0]);
    s.remount_unmounted();
    refused(
        f::open(s.at("f"), OFlags::RDWR | OFlags::TMPFILE, 0o600),
        Errno::NOTDIR,
    );
    refused(
        f::open(s.at(""), OFlags::RDONLY | OFlags::TMPFILE, 0o600),
        Errno::INVAL,
    );
}

#[repr(align(4096))]
struct Page([u8; 4096]);

/// `O_DIRECT` reads and writes whole blocks, of lower and of upper files, coherent with other descriptors.
pub fn direct_io(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", vec![1; 8192]));
    let mut page = Page([0; 4096]);
    let reader = f::open(s.at("f"), OFlags::RDONLY | OFlags::DIRECT, 0).unwrap();
    assert_eq!(pread(&reader, &mut page.0[..], 4096).unwrap(), 4096);
    assert_eq!(page.0, [1; 4096]);
    let writer = f::open(s.at("f"), OFlags::RDWR | OFlags::DIRECT, 0).unwrap();
    page.0.fill(2);
    assert_eq!(rustix::io::pwrite(&writer, &page.0, 4096).unwrap(), 4096);
    let content = f::read(s.at("f")).unwrap();
    assert!(content[..4096].iter().all(|byte| *byte == 1) && content[4096..].iter().all(|byte| *byte == 2));
    f::write_all(f::open_write(s.at("f")).unwrap(), &[3; 4096], 0).unwrap();
    assert_eq!(pread(&writer, &mut page.0[..], 0).unwrap(), 4096);
    assert_eq!(page.0, [3; 4096]);
}

/// Directories are not opened for writing, nor made by `O_CREAT`.
pub fn directories_are_not_written(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.dir("d", 0o755));
    refused(f::open(s.at("d"), OFlags::WRONLY, 0), Errno::ISDIR);
    refused(f::open(s.at("d"), OFlags::RDWR, 0), Errno::ISDIR);
    refused(
        f::open(s.at("d"), OFlags::RDONLY | OFlags::CREATE, 0o644),
        Errno::ISDIR,
    );
    refused(f::open(s.at("x/y"), CREATE, 0o644), Errno::NOENT);
}

/// What a descriptor was not opened for it does not do.
pub fn a_descriptor_does_what_it_was_opened_for(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "x"));
    let reader = f::open_read(s.at("f")).unwrap();
    let writer = f::open(s.at("f"), OFlags::WRONLY, 0).unwrap();
    let mut buffer = [0];
    refused(write(&reader, b"y"), Errno::BADF);
    refused(read(&writer, &mut buffer[..]), Errno::BADF);
    refused(ftruncate(&reader, 0), Errno::INVAL);
}

/// Opening for reading copies nothing up; opening for writing does, and keeps everything.
pub fn opening_for_writing_copies_up(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.dir("a", 0o751)
            .dir("a/b", 0o711)
            .file("a/b/f", "text")
            .mode("a/b/f", 0o604)
            .owner("a/b", 3, 4)
            .xattr("a/b", "user.dir", "1")
            .times("a/b/f", 1000, 2000)
    });
    drop(f::open_read(s.at("a/b/f")).unwrap());
    assert!(!f::exists(s.upper("a")));
    drop(f::open_write(s.at("a/b/f")).unwrap());
    let stat = f::lstat(s.at("a/b/f")).unwrap();
    assert_eq!(
        (f::modified(&stat), f::accessed(&stat)),
        ((2000, 222), (1000, 111))
    );
    assert_eq!(f::read(s.upper("a/b/f")).unwrap(), b"text");
    assert_eq!(f::mode(s.upper("a")), Ok(0o751));
    let stat = f::lstat(s.upper("a/b")).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid, stat.st_mode & 0o7777), (3, 4, 0o711));
    assert_eq!(f::get_xattr(s.upper("a/b"), "user.dir").unwrap(), b"1");
}

/// A file is opened by its handle's path in `/proc` too, for more than it was opened for.
pub fn reopening_by_proc(d: &Drivers) {
    use std::os::fd::AsRawFd;
    let s = Scene::mounted(d, |t| t.file("f", "x"));
    let reader = f::open_read(s.at("f")).unwrap();
    let again = format!("/proc/self/fd/{}", reader.as_raw_fd());
    let writer = rustix::fs::openat(CWD, again, OFlags::WRONLY, rustix::fs::Mode::empty()).unwrap();
    f::write_all(&writer, b"yz", 0).unwrap();
    assert_eq!(f::read(s.at("f")).unwrap(), b"yz");
    assert_eq!(f::read_all(&reader).unwrap(), b"yz");
}
