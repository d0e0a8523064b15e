//! Owner, mode, extended attributes and times of one directory for another.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid};

use crate::{Dir, xattr};

/// Gives `to` the owner, mode, times and attributes of `from`; of the extended ones those whose names `wanted` takes.
/// One that the file system of `to` does not know is left out. Makes no call where nothing is to change.
///
/// # Errors
/// The errno of the first call that failed.
pub fn copy(from: &Dir, to: &Dir, wanted: impl Fn(&OsStr) -> bool) -> io::Result<()> {
    let (is, has) = (from.metadata()?, to.metadata()?);
    let owner = (is.st_uid, is.st_gid) != (has.st_uid, has.st_gid);
    if owner {
        let (uid, gid) = (Uid::from_raw(is.st_uid), Gid::from_raw(is.st_gid));
        rustix::fs::fchown(to, Some(uid), Some(gid))?;
    }
    // After the owner, whose change takes set-id bits away.
    if owner || is.st_mode != has.st_mode {
        rustix::fs::fchmod(to, Mode::from_raw_mode(is.st_mode & 0o7777))?;
    }
    for name in xattr::list(from.as_fd())? {
        if !wanted(&name) {
            continue;
        }
        if let Some(value) = xattr::get(from.as_fd(), &name)? {
            match xattr::set(to.as_fd(), &name, &value) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                other => other?,
            }
        }
    }
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: is.st_atime,
            tv_nsec: is.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: is.st_mtime,
            tv_nsec: is.st_mtime_nsec as _,
        },
    };
    Ok(rustix::fs::futimens(to, &times)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied() {
        let temp = tempfile::tempdir().unwrap();
        let base = Dir::open_ambient(temp.path()).unwrap();
        let make = |name: &str, mode| {
            base.mkdir(name, Mode::from_raw_mode(mode)).unwrap();
            base.open_dir(name).unwrap()
        };
        let (from, to) = (make("from", 0o1751), make("to", 0o755));
        xattr::set(from.as_fd(), "user.kept", b"1").unwrap();
        xattr::set(from.as_fd(), "user.not", b"2").unwrap();
        let time = |nanoseconds| Timespec {
            tv_sec: 1_000_000_000,
            tv_nsec: nanoseconds,
        };
        let times = Timestamps {
            last_access: time(1),
            last_modification: time(2),
        };
        rustix::fs::futimens(&from, &times).unwrap();
        copy(&from, &to, |name| name != "user.not").unwrap();
        let stat = to.metadata().unwrap();
        assert_eq!(stat.st_mode & 0o7777, 0o1751);
        assert_eq!(
            (stat.st_mtime, stat.st_mtime_nsec, stat.st_atime_nsec),
            (1_000_000_000, 2, 1)
        );
        assert_eq!(xattr::list(to.as_fd()).unwrap(), ["user.kept"]);
    }
}
