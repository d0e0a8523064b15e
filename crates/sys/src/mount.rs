//! The mount API of Linux 5.2 and later (`fsopen`, `fsconfig`, `fsmount`, `open_tree`, `move_mount`,
//! `mount_setattr`), with the kernel's own words in the error.
//!
//! Everything here works on descriptors: a mount is built **detached**, changed while nobody sees it, and
//! attached where a descriptor points. [`legacy`] holds mount(2), for kernels and file systems that need it.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, FsPickFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

pub use rustix::mount::MountAttrFlags;

/// Why the kernel would not make a mount: the errno, and what it wrote to the context's log.
#[derive(Debug)]
pub struct ConfigError {
    /// The step that failed, such as `lowerdir+=/a/b` or `create`.
    pub step: String,
    /// The kernel's errno.
    pub errno: io::Error,
    /// Lines of the context's message log, such as `overlay: too many lower directories, limit is 500`.
    pub messages: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.errno)?;
        if !self.messages.is_empty() {
            write!(f, " (kernel: {})", self.messages.join("; "))?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.errno)
    }
}

/// A file system being configured: the descriptor of `fsopen(2)`.
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
}

impl FsContext {
    /// Begins a mount of the file system type `name`. `ENODEV` where the kernel lacks it, `ENOSYS` before 5.2.
    pub fn open(name: &str) -> Result<FsContext, ConfigError> {
        match rustix::mount::fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(fd) => Ok(FsContext { fd }),
            Err(errno) => {
                let step = format!("fsopen {name}");
                Err(ConfigError {
                    step,
                    errno: errno.into(),
                    messages: Vec::new(),
                })
            }
        }
    }

    /// Begins to change the file system that `fd` (an `O_PATH` descriptor will do) lies on: fspick(2).
    pub fn of(fd: BorrowedFd<'_>) -> Result<FsContext, ConfigError> {
        let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
        match rustix::mount::fspick(fd, "", flags) {
            Ok(fd) => Ok(FsContext { fd }),
            Err(errno) => Err(ConfigError {
                step: "fspick".into(),
                errno: errno.into(),
                messages: Vec::new(),
            }),
        }
    }

    /// Makes the changes to a file system that is there already.
    pub fn reconfigure(self) -> Result<(), ConfigError> {
        let result = rustix::mount::fsconfig_reconfigure(&self.fd);
        self.check(|| "reconfigure".into(), result)
    }

    fn check(
        &self,
        step: impl FnOnce() -> String,
        result: rustix::io::Result<()>,
    ) -> Result<(), ConfigError> {
        result.map_err(|errno| ConfigError {
            step: step(),
            errno: errno.into(),
            messages: self.messages(),
        })
    }

    /// Sets `key=value`.
    pub fn set(&self, key: &str, value: impl AsRef<OsStr>) -> Result<(), ConfigError> {
        let value = value.as_ref();
        let result = rustix::mount::fsconfig_set_string(&self.fd, key, value);
        self.check(|| format!("{key}={}", value.display()), result)
    }

    /// Sets the option `key`, which takes no value.
    pub fn flag(&self, key: &str) -> Result<(), ConfigError> {
        self.check(|| key.to_owned(), rustix::mount::fsconfig_set_flag(&self.fd, key))
    }

    /// Sets `key` to an open file; overlayfs takes its layers so since 6.13.
    pub fn set_fd(&self, key: &str, value: BorrowedFd<'_>) -> Result<(), ConfigError> {
        self.check(
            || format!("{key}=fd"),
            rustix::mount::fsconfig_set_fd(&self.fd, key, value),
        )
    }

    /// Makes the superblock and a detached mount of it with the attributes `attrs`.
    pub fn mount(self, attrs: MountAttrFlags) -> Result<OwnedFd, ConfigError> {
        self.check(|| "create".into(), rustix::mount::fsconfig_create(&self.fd))?;
        rustix::mount::fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attrs).map_err(|errno| ConfigError {
            step: "fsmount".into(),
            errno: errno.into(),
            messages: self.messages(),
        })
    }

    /// Takes what the kernel has logged to the context, without its one-letter severity.
    fn messages(&self) -> Vec<String> {
        let mut messages = Vec::new();
        let mut buffer = [0u8; 4096];
        // ENODATA ends the log; whatever else goes wrong must not hide the error we are reporting.
        while let Ok(length) = rustix::io::read(&self.fd, &mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            let text = text.trim_end();
            messages.push(text.get(2..).unwrap_or(text).to_owned());
            if length == 0 {
                break;
            }
        }
        messages
    }
}

/// A detached copy of the mount that `path` (beneath `dir`; empty for `dir` itself) lies on, rooted at `path`.
/// With `recursive`, the mounts beneath it come along.
pub fn clone_tree(dir: BorrowedFd<'_>, path: impl AsRef<Path>, recursive: bool) -> io::Result<OwnedFd> {
    let path = path.as_ref();
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(dir, path, flags)?)
}

/// As [`clone_tree`] for a trusted path.
pub fn clone_tree_at(path: impl AsRef<Path>, recursive: bool) -> io::Result<OwnedFd> {
    clone_tree(CWD, path, recursive)
}

/// A detached copy of the mount that the directory `path` lies on in another process's mount namespace (its
/// `/proc/<pid>/ns/mnt`), rooted at `path`. No link is followed on the way: who lives in that namespace may have made
/// any of it.
///
/// The kernel copies mounts of the caller's own namespace only, so a thread goes there for it, and ends.
pub fn clone_tree_in(namespace: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let there = || -> io::Result<OwnedFd> {
        crate::process::unshare_directories()?;
        crate::process::setns(namespace, crate::process::namespaces::MOUNT)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let found = rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve)?;
        clone_tree(found.as_fd(), "", false)
    };
    std::thread::scope(|scope| {
        scope
            .spawn(there)
            .join()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

/// Attaches the detached mount `mount` onto what `target` refers to (an `O_PATH` descriptor will do).
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, "", target, "", flags)?)
}

/// As [`attach`] for a trusted path.
pub fn attach_at(mount: BorrowedFd<'_>, target: impl AsRef<Path>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, "", CWD, target.as_ref(), flags)?)
}

/// What `mount_setattr(2)` changes.
#[derive(Debug, Default, Clone, Copy)]
pub struct SetAttr<'fd> {
    /// Attributes to turn on.
    pub set: u64,
    /// Attributes to turn off. A new access-time mode needs `MOUNT_ATTR__ATIME` here.
    pub clear: u64,
    /// New propagation: `libc::MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`; 0 leaves it.
    pub propagation: u64,
    /// The user namespace whose id mapping the mount takes; implies `MOUNT_ATTR_IDMAP`.
    pub idmap: Option<BorrowedFd<'fd>>,
}

#[repr(C)]
struct RawMountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// Changes attributes of the mount `mount`, of the whole tree below it with `recursive`. Linux 5.12.
pub fn set_attr(mount: BorrowedFd<'_>, recursive: bool, change: SetAttr<'_>) -> io::Result<()> {
    let mut raw = RawMountAttr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    if let Some(fd) = change.idmap {
        raw.attr_set |= MOUNT_ATTR_IDMAP;
        raw.userns_fd = fd.as_raw_fd() as u64;
    }
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a static empty string, `raw` lives across the call and its size is given with it; the
    // kernel only reads both. The descriptors are borrowed, so they are open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const raw,
            size_of::<RawMountAttr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Detaches the mount at `target` and everything on it: it leaves the tree at once and ends with its last user.
/// What is no mount point answers `EINVAL`.
pub fn detach_at(target: impl AsRef<Path>) -> io::Result<()> {
    Ok(rustix::mount::unmount(
        target.as_ref(),
        UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
    )?)
}

/// A connected `O_PATH` descriptor of `path`, for [`attach`]; no trailing link is followed.
pub fn target(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path.as_ref(), flags, Mode::empty())?)
}

/// Identity of the mount a descriptor lies on (`STATX_MNT_ID`), to compare with another's.
pub fn mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    use rustix::fs::{AtFlags, StatxFlags};
    let status = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    if StatxFlags::from_bits_retain(status.stx_mask).contains(StatxFlags::MNT_ID) {
        Ok(status.stx_mnt_id)
    } else {
        Err(Errno::OPNOTSUPP.into())
    }
}

/// mount(2), for what the new API does not carry on older kernels.
pub mod legacy {
    use super::*;
    use std::ffi::CString;

    /// `mount(source, target, kind, flags, data)`. The kernel cuts `data` at one page: more than 4,095 bytes
    /// are refused here with `E2BIG` instead of being misread.
    pub fn mount(
        source: &OsStr,
        target: &Path,
        kind: &str,
        flags: rustix::mount::MountFlags,
        data: &OsStr,
    ) -> io::Result<()> {
        use std::os::unix::ffi::OsStrExt;
        if data.len() > 4095 {
            return Err(Errno::TOOBIG.into());
        }
        let data = CString::new(data.as_bytes()).map_err(|_| Errno::INVAL)?;
        Ok(rustix::mount::mount(
            source,
            target,
            kind,
            flags,
            data.as_c_str(),
        )?)
    }

    /// As [`mount`], with relative paths in `data` starting at `base`. `target` must be absolute.
    ///
    /// The working directory belongs to the whole process, so a thread of its own takes a private one for the
    /// call; nothing else in the process notices.
    pub fn mount_from(
        base: &Path,
        source: &OsStr,
        target: &Path,
        kind: &str,
        flags: rustix::mount::MountFlags,
        data: &OsStr,
    ) -> io::Result<()> {
        let base = crate::Dir::open_ambient(base)?;
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                // SAFETY: CLONE_FS only gives this thread, which ends here, a working directory, root and
                // umask of its own; no descriptor, memory or credential is unshared.
                unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?;
                rustix::process::fchdir(&base)?;
                mount(source, target, kind, flags, data)
            });
            worker
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
        })
    }
}
