//! The device, the mount, and what INIT agrees on.
//!
//! The mount is made with `fsopen("fuse")`, which needs no helper program, and stays detached until the server
//! answers: nobody can meet a file system that does not. Kernels without the new mount API get it by mount(2).
//!
//! Where the kernel offers it in INIT, which it does while its switch `enable_uring` is on, requests travel through
//! io_uring ([`rings`]); the device stays for INIT, FORGET, INTERRUPT and notifications.

pub(crate) mod rings;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::MountFlags;
use sys::mount::{ConfigError, FsContext, MountAttrFlags};

use crate::abi::reply::{InitOut, Reply};
use crate::abi::{DecodeError, InitFlags, MAJOR, MINOR, OLDEST_MINOR, Operation, Request};

/// Pages of the largest request: 1 MiB of data.
pub const MAX_PAGES: u16 = 256;
/// Bytes of the largest read or write.
pub const MAX_WRITE: usize = 1 << 20;

/// KiB that the kernel reads ahead. More gains little, and reads more than is wanted around the pages of a map.
const READ_AHEAD_KIB: u32 = 512;

/// How the file system is mounted.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// What the mount table names as its source.
    pub source: OsString,
    /// Type behind `fuse.`.
    pub subtype: String,
    /// Attributes of the mount: `nosuid`, `noexec`, `noatime`…
    pub attributes: MountAttrFlags,
    /// Whether the file system itself is read-only.
    pub read_only: bool,
    /// Whether others than the mounting user may use it.
    pub allow_other: bool,
    /// Whether the kernel checks permissions.
    pub default_permissions: bool,
    /// SELinux labels, by the option that says each.
    pub labels: Vec<(String, String)>,
}

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// `/dev/fuse` cannot be opened: no such device, or no permission.
    #[error("opening /dev/fuse: {0}")]
    Device(#[source] io::Error),
    /// The kernel refused the mount.
    #[error("mounting a FUSE file system: {0}")]
    Mount(#[source] ConfigError),
    /// It could not be put where it belongs.
    #[error("mounting at {}: {source}", target.display())]
    Attach {
        /// The mount point.
        target: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel's first request did not come, or could not be answered.
    #[error("greeting the kernel: {0}")]
    Greeting(#[source] io::Error),
    /// The kernel's first request is not of the protocol.
    #[error("greeting the kernel: {0}")]
    Malformed(#[from] DecodeError),
    /// The kernel is too old, or of another kind.
    #[error(
        "the kernel speaks FUSE {major}.{minor}; {MAJOR}.{OLDEST_MINOR} and later are served (Linux 5.4)"
    )]
    Version {
        /// Its major version.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
}

/// What the server can do and wants.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    /// Whether data may be passed through to backing files.
    pub passthrough: bool,
    /// Whether backing files may lie on a stacked file system.
    pub stacked: bool,
    /// Whether OPEN is answered with ENOSYS.
    pub no_open: bool,
    /// Whether the kernel checks permissions, and with them POSIX ACLs.
    pub default_permissions: bool,
    /// Whether ACLs are left out although the kernel checks permissions.
    pub no_acl: bool,
    /// Pairs of threads for requests through io_uring at most; 0 is a single thread.
    pub pairs: usize,
}

/// A mounted file system whose requests nobody reads yet.
#[derive(Debug)]
pub struct Session {
    device: OwnedFd,
    /// The detached mount, until it is attached.
    mount: Option<OwnedFd>,
    agreed: InitFlags,
    /// For requests through io_uring; none where that is not agreed on.
    rings: Vec<rings::Seat>,
}

impl Session {
    /// Mounts, detached (by mount(2) at `target` where the kernel has no other way), and agrees with the kernel on
    /// what both can do.
    pub fn mount(options: &MountOptions, wishes: Wishes, target: &Path) -> Result<Session, SessionError> {
        let device = sys::fuse::open_device().map_err(SessionError::Device)?;
        let mount = match mount_detached(&device, options) {
            Ok(mount) => Some(mount),
            Err(error) if Errno::from_io_error(&error.errno) == Some(Errno::NOSYS) => {
                mount2(&device, options, target)?;
                None
            }
            Err(error) => return Err(SessionError::Mount(error)),
        };
        let (agreed, rings) = greet(device.as_fd(), wishes)?;
        Ok(Session {
            device,
            mount,
            agreed,
            rings,
        })
    }

    /// Puts the mount where `target` is, once requests are answered. Gives the file system's device number.
    pub fn attach(&mut self, target: &Path) -> Result<u64, SessionError> {
        let failed = |source| SessionError::Attach {
            target: target.to_path_buf(),
            source,
        };
        let place = match self.mount.take() {
            Some(mount) => {
                let place = sys::mount::target(target).map_err(failed)?;
                sys::mount::attach(mount.as_fd(), place.as_fd()).map_err(failed)?;
                mount
            }
            None => sys::mount::target(target).map_err(failed)?,
        };
        let status = rustix::fs::fstat(&place).map_err(|errno| failed(errno.into()))?;
        read_ahead(status.st_dev);
        Ok(status.st_dev)
    }

    /// The connection's first descriptor.
    pub fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// What both sides can do.
    pub fn agreed(&self) -> InitFlags {
        self.agreed
    }

    /// The rings, for those who use them.
    pub(crate) fn take_rings(&mut self) -> Vec<rings::Seat> {
        std::mem::take(&mut self.rings)
    }
}

/// Has the kernel read further ahead than its 128 KiB: a large file that is read for the first time takes a quarter of
/// the requests. INIT can only lower it; whoever may not write the setting does without.
fn read_ahead(device: u64) {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let _ = std::fs::write(
        format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"),
        READ_AHEAD_KIB.to_string(),
    );
}

fn mount_detached(device: &OwnedFd, options: &MountOptions) -> Result<OwnedFd, ConfigError> {
    let context = FsContext::open("fuse")?;
    context.set("source", &options.source)?;
    context.set("subtype", &options.subtype)?;
    context.set("fd", device.as_raw_fd().to_string())?;
    for (key, value) in root_options() {
        context.set(key, value)?;
    }
    for flag in flags(options) {
        context.flag(flag)?;
    }
    if options.read_only {
        context.flag("ro")?;
    }
    for (key, label) in &options.labels {
        context.set(key, label)?;
    }
    context.mount(options.attributes)
}

/// Options that describe the root and the user who mounts.
fn root_options() -> [(&'static str, String); 3] {
    [
        ("rootmode", "40000".to_owned()),
        ("user_id", rustix::process::getuid().as_raw().to_string()),
        ("group_id", rustix::process::getgid().as_raw().to_string()),
    ]
}

fn flags(options: &MountOptions) -> impl Iterator<Item = &'static str> {
    let chosen = [
        ("allow_other", options.allow_other),
        ("default_permissions", options.default_permissions),
    ];
    chosen
        .into_iter()
        .filter(|(_, chosen)| *chosen)
        .map(|(flag, _)| flag)
}

fn mount2(device: &OwnedFd, options: &MountOptions, target: &Path) -> Result<(), SessionError> {
    let mut data = format!("fd={}", device.as_raw_fd());
    for (key, value) in root_options() {
        data.push_str(&format!(",{key}={value}"));
    }
    for flag in flags(options) {
        data.push(',');
        data.push_str(flag);
    }
    let kind = format!("fuse.{}", options.subtype);
    let table = [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
        (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
        (MountAttrFlags::MOUNT_ATTR_NOATIME, MountFlags::NOATIME),
        (MountAttrFlags::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
        (MountAttrFlags::MOUNT_ATTR_STRICTATIME, MountFlags::STRICTATIME),
        (MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
    ];
    let mut mount_flags = MountFlags::empty();
    mount_flags.set(MountFlags::RDONLY, options.read_only);
    for (attribute, flag) in table {
        mount_flags.set(
            flag,
            mount_flags.contains(flag) || options.attributes.contains(attribute),
        );
    }
    sys::mount::legacy::mount(&options.source, target, &kind, mount_flags, data.as_ref()).map_err(|source| {
        SessionError::Attach {
            target: target.to_path_buf(),
            source,
        }
    })
}

/// Answers INIT, which the kernel sends first and alone.
fn greet(device: BorrowedFd<'_>, wishes: Wishes) -> Result<(InitFlags, Vec<rings::Seat>), SessionError> {
    // The kernel refuses a read into less than the largest request that was agreed on, or 8 KiB.
    let mut buffer = vec![0u8; 1 << 16];
    let length = loop {
        match rustix::io::read(device, &mut buffer) {
            Ok(length) => break length,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(SessionError::Greeting(errno.into())),
        }
    };
    let bytes = buffer.get(..length).unwrap_or_default();
    let request = Request::decode(bytes, false)?;
    let mut reply = Reply::default();
    reply.clear();
    let Operation::Init(init) = request.operation else {
        return Err(SessionError::Greeting(Errno::PROTO.into()));
    };
    let mut seats = Vec::new();
    let (result, agreed) = if init.major != MAJOR || init.minor < OLDEST_MINOR {
        (
            Err(SessionError::Version {
                major: init.major,
                minor: init.minor,
            }),
            InitFlags::empty(),
        )
    } else {
        let mut agreed = wanted(wishes) & InitFlags::from_bits_retain(init.flags);
        if agreed.contains(InitFlags::OVER_IO_URING) {
            // Made before it is promised: the kernel lets nobody ask anything until all are there. Who may not have them
            // does without.
            match rings::make(device, wishes.pairs) {
                Ok(made) => seats = made,
                Err(_) => agreed.remove(InitFlags::OVER_IO_URING),
            }
        }
        reply.init(&InitOut {
            minor: init.minor.min(MINOR),
            max_readahead: init.max_readahead,
            flags: agreed,
            max_background: 64,
            max_write: MAX_WRITE as u32,
            max_pages: MAX_PAGES,
            max_stack_depth: match agreed.contains(InitFlags::PASSTHROUGH) {
                true => 1 + u32::from(wishes.stacked),
                false => 0,
            },
        });
        (Ok(()), agreed)
    };
    let status = if result.is_ok() { Ok(()) } else { Err(Errno::PROTO) };
    let bytes = reply.finish(request.unique, status, 0);
    rustix::io::write(device, bytes).map_err(|errno| SessionError::Greeting(errno.into()))?;
    result.map(|()| (agreed, seats))
}

fn wanted(wishes: Wishes) -> InitFlags {
    let mut flags = InitFlags::ASYNC_READ
        | InitFlags::ATOMIC_O_TRUNC
        | InitFlags::BIG_WRITES
        | InitFlags::DONT_MASK
        | InitFlags::DO_READDIRPLUS
        | InitFlags::ASYNC_DIO
        | InitFlags::PARALLEL_DIROPS
        | InitFlags::ABORT_ERROR
        | InitFlags::MAX_PAGES
        | InitFlags::CACHE_SYMLINKS
        | InitFlags::NO_OPENDIR_SUPPORT
        | InitFlags::EXPLICIT_INVAL_DATA
        | InitFlags::HANDLE_KILLPRIV_V2
        | InitFlags::SETXATTR_EXT
        | InitFlags::INIT_EXT
        | InitFlags::CREATE_SUPP_GROUP
        | InitFlags::OVER_IO_URING
        | InitFlags::NO_EXPORT_SUPPORT;
    flags.set(InitFlags::PASSTHROUGH, wishes.passthrough);
    flags.set(InitFlags::NO_OPEN_SUPPORT, wishes.no_open);
    flags.set(InitFlags::POSIX_ACL, wishes.default_permissions && !wishes.no_acl);
    flags.set(InitFlags::ALLOW_IDMAP, wishes.default_permissions);
    flags
}
