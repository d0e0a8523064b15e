//! The work directory: where everything that is to appear in the upper directory is made first.
//!
//! `work/` inside it is emptied when an overlay is made; `work/incompat/` says that a kernel or a server must not
//! touch it without knowing more; `index/` stays. Whoever serves the overlay holds a lock on it, and one on the upper
//! directory: two servers that write to one would know nothing of each other, whatever work directories they have.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sys::Dir;
use sys::handle::{FileHandle, fs_uuid};

use super::node::{read, write};
use super::options::{OpenError, Options, Sync};
use super::{Result, errno, index};
use crate::handle::Handle;
use crate::xattr::{ORIGIN, UPPER};
use crate::{Format, WhiteoutKind};

/// The work directory of a writable overlay.
#[derive(Debug)]
pub(super) struct Work {
    /// `work/` in the work directory.
    dir: Dir,
    /// `index/` in it, when hard links are indexed.
    index: Option<Dir>,
    /// Whether attributes can be kept in the upper directory.
    attributes: bool,
    /// Hold the locks: of the upper directory, of the work directory.
    _locks: [Dir; 2],
    format: Format,
    next: AtomicU64,
    /// How often a whiteout was made that the others are links of. Held for reading while it is linked to, and for writing
    /// while it is replaced.
    shared: RwLock<u64>,
}

/// Name of the whiteout that others are links of.
const WHITEOUT: &str = "#whiteout";

impl Work {
    pub(super) fn prepare(
        upper: &Dir,
        work: Dir,
        lower: &Dir,
        options: &Options,
    ) -> std::result::Result<Work, OpenError> {
        let io = |what| move |source| OpenError::Io { what, source };
        let of = |dir: &Dir| {
            dir.metadata()
                .map_err(io("the upper or work directory cannot be read"))
        };
        if of(upper)?.st_dev != of(&work)?.st_dev {
            return Err(OpenError::WorkElsewhere);
        }
        let own = upper
            .open_dir(".")
            .map_err(io("the upper directory cannot be read"))?;
        for (what, dir) in [("upper", &own), ("work", &work)] {
            let exclusive = FlockOperation::NonBlockingLockExclusive;
            let locked = sys::fd::lock_within(dir, exclusive, PATIENCE)
                .map_err(io("the upper or work directory cannot be locked"))?;
            if !locked {
                return Err(OpenError::InUse(what));
            }
        }
        let preparing = io("the work directory cannot be prepared");
        let dir = clean(&work).map_err(preparing)?;
        if let Some(mark) = incompatible(&dir).map_err(preparing)? {
            return Err(match mark.as_os_str() == "volatile" {
                true => OpenError::Volatile,
                false => OpenError::Incompatible(mark),
            });
        }
        if options.sync == Sync::Volatile {
            let marking = || {
                let incompat = dir.mkdir_all("incompat/volatile", Mode::RWXU)?;
                incompat.create_new("dirty", Mode::RUSR | Mode::WUSR).map(drop)
            };
            marking().map_err(io("the upper directory cannot be marked volatile"))?;
        }
        let unsupported = |what| move |source| OpenError::Unsupported { what, source };
        swaps(&dir).map_err(unsupported("swap two names (renameat2 with RENAME_EXCHANGE)"))?;
        let attributes =
            keeps_attributes(&dir, options).map_err(unsupported("keep the overlay's attributes"))?;
        let mut format = options.format();
        format.whiteouts = possible(&dir, format.whiteouts).map_err(preparing)?;
        if !attributes && format.whiteouts == WhiteoutKind::Attribute {
            return Err(unsupported("hold whiteouts of either kind")(
                Errno::OPNOTSUPP.into(),
            ));
        }
        let index = match options.index && attributes {
            false => None,
            true => Some(prepare_index(upper, &work, lower, options)?),
        };
        Ok(Work {
            dir,
            index,
            attributes,
            _locks: [own, work],
            format,
            next: AtomicU64::new(0),
            shared: RwLock::new(0),
        })
    }

    /// The kind of whiteout that is written.
    pub(super) fn whiteouts(&self) -> WhiteoutKind {
        self.format.whiteouts
    }

    /// Whether attributes can be kept in the upper directory.
    pub(super) fn keeps_attributes(&self) -> bool {
        self.attributes
    }

    /// Where temporaries are made.
    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The index directory.
    pub(super) fn index(&self) -> Result<&Dir> {
        self.index.as_ref().ok_or(Errno::IO)
    }

    /// A name that nothing in `work/` has.
    pub(super) fn fresh(&self) -> String {
        format!("#{:x}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes a whiteout under a name that does not exist, at once. All of them are links of one, as long as it can
    /// have more. For the attribute kind `to` must be marked before ([`Overlay::mark_whiteouts`]).
    ///
    /// [`Overlay::mark_whiteouts`]: super::Overlay::mark_whiteouts
    pub(super) fn whiteout(&self, to: &Dir, name: &OsStr) -> Result<()> {
        loop {
            let shared = read(&self.shared);
            let turn = *shared;
            if turn > 0 {
                match fs::linkat(&self.dir, WHITEOUT, to, name, AtFlags::empty()) {
                    // As many links as an inode takes: the next one begins a new inode.
                    Err(Errno::MLINK) => {}
                    // A file system without links.
                    Err(Errno::PERM | Errno::OPNOTSUPP) => return self.make_whiteout(to, name),
                    other => return other,
                }
            }
            drop(shared);
            let mut shared = write(&self.shared);
            // Unless another has made it meanwhile: one that is replaced cannot be linked to any more.
            if *shared == turn {
                self.make_whiteout(&self.dir, OsStr::new(WHITEOUT))?;
                *shared += 1;
            }
        }
    }

    /// Makes a whiteout that is not shared; in `work/` in the place of another.
    fn make_whiteout(&self, to: &Dir, name: &OsStr) -> Result<()> {
        // Under another name first: one of the attribute kind is a plain file until it has its attribute.
        let temp = self.fresh();
        let made = crate::whiteout::make(&self.dir, OsStr::new(&temp), self.format)
            .and_then(|()| self.dir.rename(&temp, to, name));
        made.map_err(|error| {
            self.discard(&temp);
            errno(error)
        })
    }

    /// Removes a temporary, and everything in it. What cannot be removed now is removed by the next overlay.
    pub(super) fn discard(&self, name: &str) {
        let _ = self.dir.remove_tree(name);
    }
}

/// How long somebody else's lock is waited for: a server ends a moment after umount(8) has taken its mount away.
const PATIENCE: Duration = Duration::from_millis(500);

/// Whether the upper file system has attributes of the overlay's kind. The kernel's overlay does without on a local one, and
/// so do we.
fn keeps_attributes(dir: &Dir, options: &Options) -> io::Result<bool> {
    let name = options.prefix.name("check");
    match sys::xattr::set(dir.as_fd(), &name, b"y") {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) && !is_remote(dir)? => Ok(false),
        Err(error) => Err(error),
        Ok(()) => {
            // Left behind it would only be a curiosity.
            let _ = fs::fremovexattr(dir, &*name);
            Ok(true)
        }
    }
}

/// Fails where two names cannot be swapped in one step, as on NFS: a whiteout takes the place of a directory so, and a new
/// directory that of a whiteout. In two steps a crash between them would show what lies below.
fn swaps(dir: &Dir) -> io::Result<()> {
    let names = ["#check", "#checked"];
    for name in names {
        dir.mkdir(name, Mode::empty())?;
    }
    let swapped = dir.exchange(names[0], dir, names[1]);
    for name in names {
        dir.rmdir(name)?;
    }
    swapped
}

/// Whether a file system is one that another machine, or another process, may change at any time.
fn is_remote(dir: &Dir) -> io::Result<bool> {
    const FUSE: u64 = 0x6573_5546;
    const NFS: u64 = 0x6969;
    const SMB2: u64 = 0xfe53_4d42;
    const CIFS: u64 = 0xff53_4d42;
    const CEPH: u64 = 0x00c3_6400;
    const V9FS: u64 = 0x0102_1997;
    const AFS: u64 = 0x5346_414f;
    let kind = fs::fstatfs(dir)?.f_type as u64;
    Ok([FUSE, NFS, SMB2, CIFS, CEPH, V9FS, AFS].contains(&kind))
}

/// The kind of whiteout that is asked for, or the attribute kind where devices cannot be made: an unprivileged user may
/// make the device 0/0 since Linux 5.8, but not on every file system.
fn possible(dir: &Dir, wanted: WhiteoutKind) -> io::Result<WhiteoutKind> {
    const NAME: &str = "#check";
    if wanted == WhiteoutKind::Attribute {
        return Ok(wanted);
    }
    match dir.mknod(NAME, FileType::CharacterDevice, Mode::empty(), 0) {
        Ok(()) => dir.unlink(NAME).map(|()| wanted),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL) => {
                Ok(WhiteoutKind::Attribute)
            }
            _ => Err(error),
        },
    }
}

/// Empties `work/`, but for what says that it must not be.
fn clean(work: &Dir) -> io::Result<Dir> {
    match work.mkdir("work", Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    let dir = work.open_dir("work")?;
    for entry in dir.entries()? {
        if entry.name != "incompat" {
            dir.remove_tree(&entry.name)?;
        }
    }
    Ok(dir)
}

/// The first mark in `incompat/`.
fn incompatible(dir: &Dir) -> io::Result<Option<std::ffi::OsString>> {
    match dir.open_dir("incompat") {
        Ok(incompat) => Ok(incompat.entries()?.into_iter().next().map(|entry| entry.name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the index, and ties it to its upper and lower directory, as the kernel does with `index=on`.
fn prepare_index(
    upper: &Dir,
    work: &Dir,
    lower: &Dir,
    options: &Options,
) -> std::result::Result<Dir, OpenError> {
    let dir = index::prepare(work, options.prefix).map_err(|source| OpenError::Io {
        what: "the index cannot be prepared",
        source,
    })?;
    let tie = |on: &Dir, attribute, to: &Dir, is_upper| -> io::Result<()> {
        let handle = FileHandle::of(to.as_fd())?;
        let value = Handle {
            upper: is_upper,
            fid_type: handle.kind as u8,
            uuid: fs_uuid(to.as_fd()).unwrap_or_default(),
            fid: handle.bytes,
        }
        .encode();
        match options.prefix.get(on.as_fd(), attribute)? {
            None => options.prefix.set(on.as_fd(), attribute, &value),
            Some(known) if known == value => Ok(()),
            Some(_) => Err(io::Error::from(Errno::STALE)),
        }
    };
    tie(upper, ORIGIN, lower, false)
        .and_then(|()| tie(&dir, UPPER, upper, true))
        .map_err(|source| OpenError::Unsupported {
            what: "keep an index of hard links for these layers (index=off does without)",
            source,
        })?;
    Ok(dir)
}

/// A temporary file without a name in a directory; `None` where the file system has none.
pub(super) fn unnamed(dir: &Dir, flags: OFlags, mode: Mode) -> Result<Option<std::fs::File>> {
    match fs::openat(dir, ".", flags | OFlags::TMPFILE | OFlags::CLOEXEC, mode) {
        Ok(fd) => Ok(Some(std::fs::File::from(fd))),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives a file without a name its first.
pub(super) fn link_unnamed(file: impl AsFd, to: &Dir, name: &OsStr) -> Result<()> {
    let path = sys::xattr::path_of(file.as_fd());
    fs::linkat(fs::CWD, path.as_os_str(), to, name, AtFlags::SYMLINK_FOLLOW)
}

/// Whether an entry that may be missing is a whiteout.
pub(super) fn is_whiteout(dir: &Dir, name: &OsStr, format: Format) -> Result<Option<bool>> {
    match dir.try_stat(name).map_err(errno)? {
        None => Ok(None),
        Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(Some(false)),
        Some(stat) => crate::whiteout::is_whiteout(dir, name, &stat, format.prefix)
            .map(Some)
            .map_err(errno),
    }
}
