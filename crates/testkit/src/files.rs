//! System calls on paths, with the bare errno when they fail: what a test of a file system asks and expects.
//!
//! The standard library hides what such a test wants to see (flags, errnos, nanoseconds, `d_off`). Nothing here
//! follows a link in the last component unless its name says so.

use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{
    self, AtFlags, CWD, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;

/// What a call answers.
pub type Answer<T> = Result<T, Errno>;

/// Opens; close-on-exec.
pub fn open(path: impl AsRef<Path>, flags: OFlags, mode: u32) -> Answer<OwnedFd> {
    fs::open(path.as_ref(), flags | OFlags::CLOEXEC, Mode::from_raw_mode(mode))
}

/// Opens for reading.
pub fn open_read(path: impl AsRef<Path>) -> Answer<OwnedFd> {
    open(path, OFlags::RDONLY, 0)
}

/// Opens an existing file for reading and writing.
pub fn open_write(path: impl AsRef<Path>) -> Answer<OwnedFd> {
    open(path, OFlags::RDWR, 0)
}

/// Writes a program that can be run at once. Another process writes it: of a descriptor that this one has open a child that
/// another thread starts has a copy until it executes, and meanwhile the kernel refuses to run the file (ETXTBSY).
pub fn script(path: impl AsRef<Path>, text: &str) {
    let mut child = std::process::Command::new("/bin/sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path.as_ref())
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut input = child.stdin.take().expect("it was asked for");
    std::io::Write::write_all(&mut input, text.as_bytes()).expect("it reads");
    drop(input);
    let path = path.as_ref().display();
    assert!(child.wait().expect("our child").success(), "{path}");
}

/// The whole content.
pub fn read(path: impl AsRef<Path>) -> Answer<Vec<u8>> {
    let file = open(path, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
    read_all(&file)
}

/// The whole content of an open file, from its beginning; the offset stays.
pub fn read_all(file: impl AsFd) -> Answer<Vec<u8>> {
    let mut content = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match rustix::io::pread(&file, &mut buffer[..], content.len() as u64)? {
            0 => return Ok(content),
            length => content.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Makes a file (0644) or truncates it, and writes `content`.
pub fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Answer<()> {
    let file = open(
        path,
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK,
        0o644,
    )?;
    write_all(&file, content.as_ref(), 0)
}

/// Writes all of `content` at `offset`.
pub fn write_all(file: impl AsFd, mut content: &[u8], mut offset: u64) -> Answer<()> {
    while !content.is_empty() {
        let written = rustix::io::pwrite(&file, content, offset)?;
        content = &content[written..];
        offset += written as u64;
    }
    Ok(())
}

/// Adds to the end of an existing file.
pub fn append(path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Answer<()> {
    let file = open(path, OFlags::WRONLY | OFlags::APPEND, 0)?;
    rustix::io::write(&file, content.as_ref()).map(drop)
}

/// `mkdir(2)`.
pub fn mkdir(path: impl AsRef<Path>, mode: u32) -> Answer<()> {
    fs::mkdir(path.as_ref(), Mode::from_raw_mode(mode))
}

/// `rmdir(2)`.
pub fn rmdir(path: impl AsRef<Path>) -> Answer<()> {
    fs::rmdir(path.as_ref())
}

/// `unlink(2)`.
pub fn unlink(path: impl AsRef<Path>) -> Answer<()> {
    fs::unlink(path.as_ref())
}

/// `rename(2)`.
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Answer<()> {
    fs::rename(from.as_ref(), to.as_ref())
}

/// `renameat2(2)`.
pub fn rename_with(from: impl AsRef<Path>, to: impl AsRef<Path>, flags: RenameFlags) -> Answer<()> {
    fs::renameat_with(CWD, from.as_ref(), CWD, to.as_ref(), flags)
}

/// `link(2)`.
pub fn link(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Answer<()> {
    fs::link(from.as_ref(), to.as_ref())
}

/// Gives a name to a file opened with `O_TMPFILE`, by way of `/proc` as open(2) says.
pub fn link_open(file: impl AsFd, to: impl AsRef<Path>) -> Answer<()> {
    use std::os::fd::AsRawFd;
    let from = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    fs::linkat(CWD, from, CWD, to.as_ref(), AtFlags::SYMLINK_FOLLOW)
}

/// `symlink(2)`.
pub fn symlink(target: impl AsRef<Path>, path: impl AsRef<Path>) -> Answer<()> {
    fs::symlink(target.as_ref(), path.as_ref())
}

/// Target of a link.
pub fn read_link(path: impl AsRef<Path>) -> Answer<OsString> {
    let target = fs::readlinkat(CWD, path.as_ref(), Vec::new())?;
    Ok(OsString::from_vec(target.into_bytes()))
}

/// `mknod(2)`.
pub fn mknod(path: impl AsRef<Path>, kind: FileType, mode: u32, device: (u32, u32)) -> Answer<()> {
    let device = fs::makedev(device.0, device.1);
    fs::mknodat(CWD, path.as_ref(), kind, Mode::from_raw_mode(mode), device)
}

/// `lstat(2)`.
pub fn lstat(path: impl AsRef<Path>) -> Answer<Stat> {
    fs::lstat(path.as_ref())
}

/// Whether something has the name.
pub fn exists(path: impl AsRef<Path>) -> bool {
    lstat(path).is_ok()
}

/// Permission bits with set-uid, set-gid and sticky.
pub fn mode(path: impl AsRef<Path>) -> Answer<u32> {
    Ok(lstat(path)?.st_mode & 0o7777)
}

/// Kind of file.
pub fn kind(path: impl AsRef<Path>) -> Answer<FileType> {
    Ok(FileType::from_raw_mode(lstat(path)?.st_mode))
}

/// `chmod(2)`, which follows links.
pub fn chmod(path: impl AsRef<Path>, mode: u32) -> Answer<()> {
    fs::chmod(path.as_ref(), Mode::from_raw_mode(mode))
}

/// `lchown(2)`; `None` leaves what is.
pub fn chown(path: impl AsRef<Path>, owner: Option<u32>, group: Option<u32>) -> Answer<()> {
    let (owner, group) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
    fs::chownat(CWD, path.as_ref(), owner, group, AtFlags::SYMLINK_NOFOLLOW)
}

/// `truncate(2)`, which follows links.
pub fn truncate(path: impl AsRef<Path>, size: u64) -> Answer<()> {
    // rustix has no truncate by path; the difference (no descriptor) is for the kernel only.
    fs::ftruncate(open(path, OFlags::WRONLY | OFlags::NONBLOCK, 0)?, size)
}

/// Sets both times, seconds and nanoseconds.
pub fn set_times(path: impl AsRef<Path>, accessed: (i64, i64), modified: (i64, i64)) -> Answer<()> {
    let time = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(accessed),
        last_modification: time(modified),
    };
    fs::utimensat(CWD, path.as_ref(), &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Sets both times to now.
pub fn touch(path: impl AsRef<Path>) -> Answer<()> {
    set_times(path, (0, fs::UTIME_NOW), (0, fs::UTIME_NOW))
}

/// Modification time of a `Stat`, seconds and nanoseconds.
pub fn modified(stat: &Stat) -> (i64, i64) {
    (stat.st_mtime, stat.st_mtime_nsec as i64)
}

/// Access time of a `Stat`, seconds and nanoseconds.
pub fn accessed(stat: &Stat) -> (i64, i64) {
    (stat.st_atime, stat.st_atime_nsec as i64)
}

/// Change time of a `Stat`, seconds and nanoseconds.
pub fn changed(stat: &Stat) -> (i64, i64) {
    (stat.st_ctime, stat.st_ctime_nsec as i64)
}

/// Value of an attribute.
pub fn get_xattr(path: impl AsRef<Path>, name: &str) -> Answer<Vec<u8>> {
    let mut value = vec![0; 64 * 1024];
    let length = fs::lgetxattr(path.as_ref(), name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}

/// Sets an attribute, made or replaced.
pub fn set_xattr(path: impl AsRef<Path>, name: &str, value: impl AsRef<[u8]>) -> Answer<()> {
    fs::lsetxattr(path.as_ref(), name, value.as_ref(), XattrFlags::empty())
}

/// Removes an attribute.
pub fn remove_xattr(path: impl AsRef<Path>, name: &str) -> Answer<()> {
    fs::lremovexattr(path.as_ref(), name)
}

/// Names of attributes, sorted.
pub fn list_xattrs(path: impl AsRef<Path>) -> Answer<Vec<String>> {
    let mut list = vec![0; 64 * 1024];
    let length = fs::llistxattr(path.as_ref(), &mut list[..])?;
    Ok(split_names(&list[..length]))
}

/// Names of attributes of an open file, sorted.
pub fn list_open_xattrs(file: impl AsFd) -> Answer<Vec<String>> {
    let mut list = vec![0; 64 * 1024];
    let length = fs::flistxattr(file, &mut list[..])?;
    Ok(split_names(&list[..length]))
}

fn split_names(list: &[u8]) -> Vec<String> {
    let mut names: Vec<String> = list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    names.sort();
    names
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// The name.
    pub name: OsString,
    /// `d_ino`.
    pub ino: u64,
    /// `d_type`, as the format bits of a mode.
    pub kind: u32,
    /// `d_off`: where the next entry begins, for `lseek`.
    pub next: u64,
}

/// Reads what is left of an open directory, `buffer` bytes at a time, `.` and `..` included.
pub fn list_open(dir: impl AsFd, buffer: usize) -> Answer<Vec<Listed>> {
    let mut listed = Vec::new();
    while let Some(mut some) = list_some(&dir, buffer)? {
        listed.append(&mut some);
    }
    Ok(listed)
}

/// One `getdents64(2)`; `None` at the end.
pub fn list_some(dir: impl AsFd, buffer: usize) -> Answer<Option<Vec<Listed>>> {
    let mut space = vec![MaybeUninit::uninit(); buffer];
    let mut raw = RawDir::new(dir, &mut space[..]);
    let mut listed = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry?;
        listed.push(Listed {
            name: OsString::from_vec(entry.file_name().to_bytes().to_vec()),
            ino: entry.ino(),
            kind: entry.file_type().as_raw_mode(),
            next: entry.next_entry_cookie(),
        });
        if raw.is_buffer_empty() {
            return Ok(Some(listed));
        }
    }
    Ok(None)
}

/// A listing without `.` and `..`, sorted by name.
pub fn list(path: impl AsRef<Path>) -> Answer<Vec<Listed>> {
    let dir = open(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?;
    let mut listed = list_open(dir, 32 * 1024)?;
    listed.retain(|entry| !matches!(entry.name.as_bytes(), b"." | b".."));
    listed.sort();
    Ok(listed)
}

/// Names in a directory, sorted.
pub fn names(path: impl AsRef<Path>) -> Answer<Vec<String>> {
    let listed = list(path)?.into_iter();
    Ok(listed
        .map(|entry| entry.name.to_string_lossy().into_owned())
        .collect())
}

/// Runs `act` as another user, in a thread of its own: without any capability, with `groups` as supplementary groups.
///
/// On Linux these identities belong to threads, so the rest of the program stays what it is.
pub fn as_user<T: Send>(user: u32, group: u32, groups: &[u32], act: impl FnOnce() -> T + Send) -> T {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let change = move || {
        use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        set_thread_groups(&groups).expect("root may choose groups");
        set_thread_res_gid(group, group, group).expect("root may choose a group");
        set_thread_res_uid(user, user, user).expect("root may choose a user");
        act()
    };
    std::thread::scope(|scope| match scope.spawn(change).join() {
        Ok(answer) => answer,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// What a call must answer when it fails.
#[track_caller]
pub fn refused<T>(answer: Answer<T>, errno: Errno) {
    match answer {
        Ok(_) => panic!("it succeeded; expected was {errno:?}"),
        Err(found) => assert_eq!(found, errno),
    }
}
