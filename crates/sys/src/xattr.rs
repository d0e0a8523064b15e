//! Extended attributes of an entry of a directory, without following a link.
//!
//! `setxattrat(2)` and its siblings are newer (6.13) than the kernels strata runs on. `/proc/self/fd/N/name` says
//! the same in every kernel: the descriptor pins the directory, `name` is one component, and the `l` calls do not
//! follow it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{self, XattrFlags};
use rustix::io::Errno;

/// The largest value the kernel stores (`XATTR_SIZE_MAX`) and the longest list it returns (`XATTR_LIST_MAX`),
/// in bytes.
pub const MAX_SIZE: usize = 64 * 1024;

/// `/proc/self/fd/N`, or `/proc/self/fd/N/name`.
pub(crate) fn proc_path(fd: BorrowedFd<'_>, name: Option<&str>) -> String {
    match name {
        None => format!("/proc/self/fd/{}", fd.as_raw_fd()),
        Some(name) => format!("/proc/self/fd/{}/{name}", fd.as_raw_fd()),
    }
}

/// A path of the very file behind `fd`, also where the descriptor is `O_PATH` or of the wrong mode. It needs `/proc`.
pub fn path_of(fd: BorrowedFd<'_>) -> OsString {
    proc_path(fd, None).into()
}

/// A path of the entry `name` of the directory `dir`, for calls that take no descriptor. `name` must be one component.
pub fn path_at(dir: BorrowedFd<'_>, name: &OsStr) -> OsString {
    let mut path = proc_path(dir, None).into_bytes();
    path.push(b'/');
    path.extend_from_slice(name.as_bytes());
    OsString::from_vec(path)
}

/// Calls `read` with a growing buffer until the value fits.
fn sized(mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < MAX_SIZE => buffer.resize(MAX_SIZE, 0),
            Err(error) => return Err(error),
        }
    }
}

fn split(list: Vec<u8>) -> Vec<OsString> {
    list.split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect()
}

/// `ENODATA` and `EOPNOTSUPP` both say that there is no such attribute.
fn absent(result: rustix::io::Result<Vec<u8>>) -> io::Result<Option<Vec<u8>>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn list_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Vec<OsString>> {
    let path = path_at(dir, name);
    let list = absent(sized(|buffer| fs::llistxattr(path.as_os_str(), buffer)))?;
    Ok(split(list.unwrap_or_default()))
}

pub(crate) fn get_at(dir: BorrowedFd<'_>, name: &OsStr, attr: &OsStr) -> io::Result<Option<Vec<u8>>> {
    let path = path_at(dir, name);
    absent(sized(|buffer| fs::lgetxattr(path.as_os_str(), attr, buffer)))
}

pub(crate) fn set_at(dir: BorrowedFd<'_>, name: &OsStr, attr: &OsStr, value: &[u8]) -> io::Result<()> {
    Ok(fs::lsetxattr(
        path_at(dir, name).as_os_str(),
        attr,
        value,
        XattrFlags::empty(),
    )?)
}

pub(crate) fn remove_at(dir: BorrowedFd<'_>, name: &OsStr, attr: &OsStr) -> io::Result<()> {
    match fs::lremovexattr(path_at(dir, name).as_os_str(), attr) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Names of the attributes of an open file (not an `O_PATH` descriptor).
pub fn list(fd: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    Ok(split(
        absent(sized(|buffer| fs::flistxattr(fd, buffer)))?.unwrap_or_default(),
    ))
}

/// Value of an attribute of an open file (not an `O_PATH` descriptor); `None` where there is none.
pub fn get(fd: BorrowedFd<'_>, attr: impl AsRef<OsStr>) -> io::Result<Option<Vec<u8>>> {
    absent(sized(|buffer| fs::fgetxattr(fd, attr.as_ref(), buffer)))
}

/// Sets an attribute of an open file (not an `O_PATH` descriptor), made or replaced.
pub fn set(fd: BorrowedFd<'_>, attr: impl AsRef<OsStr>, value: &[u8]) -> io::Result<()> {
    Ok(fs::fsetxattr(fd, attr.as_ref(), value, XattrFlags::empty())?)
}
