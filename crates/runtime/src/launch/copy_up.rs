//! `tmpcopyup`: what lies in the directory that a tmpfs is mounted over is copied into it first.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timestamps};
use sys::Dir;

/// Deeper trees are refused with `ELOOP`: what an image lays out must not exhaust our stack.
const MAX_DEPTH: usize = 256;

/// Copies the tree in the directory `from` into the empty directory `to`: files, directories, links and special
/// files with owner, mode, modification time and extended attributes. Hard links become copies.
pub(super) fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let open = |fd| -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Dir::from_fd(rustix::fs::openat(fd, ".", flags, Mode::empty())?)
    };
    let (from, to) = (open(from)?, open(to)?);
    copy_contents(&from, &to, 0)?;
    let status = from.metadata()?;
    rustix::fs::fchown(&to, owner(&status).0, owner(&status).1)?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(status.st_mode & 0o7777))?;
    rustix::fs::futimens(&to, &times(&status))?;
    Ok(())
}

fn copy_contents(from: &Dir, to: &Dir, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(rustix::io::Errno::LOOP.into());
    }
    for entry in from.entries()? {
        let name = entry.name.as_os_str();
        let status = from.stat(name)?;
        let mode = Mode::from_raw_mode(status.st_mode & 0o7777);
        let kind = FileType::from_raw_mode(status.st_mode);
        match kind {
            FileType::Directory => {
                to.mkdir(name, Mode::RWXU)?;
                copy_contents(&from.open_dir(name)?, &to.open_dir(name)?, depth + 1)?;
            }
            FileType::Symlink => to.symlink(from.read_link(name)?, name)?,
            FileType::RegularFile => {
                let mut source = from.open_file(name, OFlags::RDONLY, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let mut copy = to.open_file(name, flags, Mode::RUSR | Mode::WUSR)?;
                io::copy(&mut source, &mut copy)?;
            }
            special => to.mknod(name, special, mode, status.st_rdev)?,
        }
        to.set_owner(name, status.st_uid, status.st_gid)?;
        if kind != FileType::Symlink {
            to.set_mode(name, mode)?;
        }
        for attribute in from.list_xattrs(name)? {
            // A tmpfs keeps fewer kinds of attribute than a disk does; those it refuses are lost, as with cp.
            let kept =
                attribute.as_bytes().starts_with(b"user.") || attribute.as_bytes().starts_with(b"security.");
            if kept && let Some(value) = from.get_xattr(name, &attribute)? {
                match to.set_xattr(name, &attribute, &value) {
                    Err(error)
                        if error.raw_os_error() != Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) =>
                    {
                        return Err(error);
                    }
                    _ => {}
                }
            }
        }
        rustix::fs::utimensat(to.as_fd(), name, &times(&status), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn owner(status: &rustix::fs::Stat) -> (Option<rustix::fs::Uid>, Option<rustix::fs::Gid>) {
    (
        Some(rustix::fs::Uid::from_raw(status.st_uid)),
        Some(rustix::fs::Gid::from_raw(status.st_gid)),
    )
}

fn times(status: &rustix::fs::Stat) -> Timestamps {
    let at = |seconds, nanoseconds| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    };
    Timestamps {
        last_access: at(status.st_atime, status.st_atime_nsec),
        last_modification: at(status.st_mtime, status.st_mtime_nsec),
    }
}
