//! Whiteouts and opaque directories: how a layer says that something below it is gone.
//!
//! A whiteout is a character device 0/0 (the usual kind), or an empty regular file with the attribute `whiteout`
//! in a directory whose attribute `opaque` is `x` (for those who cannot make device nodes; the kernel reads this
//! kind since 6.7 and never writes it).
//!
//! A third kind is read only where that is asked for: files whose names say it, `.wh.NAME` and `.wh..wh..opq`, as layers
//! have them in archives. `fuse-overlayfs` reads them, and podman unpacks them for it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Mode, Stat};
use sys::Dir;

use crate::Format;
use crate::xattr::{OPAQUE, Prefix, WHITEOUT};

/// Which kind of whiteout is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WhiteoutKind {
    /// Character device 0/0.
    #[default]
    Device,
    /// Empty regular file with an attribute, its parent marked.
    Attribute,
}

/// What the attribute `opaque` says about a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Opaque {
    /// It merges with what is below.
    #[default]
    No,
    /// `y`: it hides what is below.
    Yes,
    /// `x`: it merges, and may hold whiteouts of the attribute kind.
    Whiteouts,
}

impl Opaque {
    /// Reads the mark of an open directory. Values that the kernel does not know count as none.
    pub fn read(dir: BorrowedFd<'_>, prefix: Prefix) -> io::Result<Opaque> {
        Ok(match prefix.get(dir, OPAQUE)?.as_deref() {
            Some(b"y") => Opaque::Yes,
            Some(b"x") => Opaque::Whiteouts,
            _ => Opaque::No,
        })
    }

    /// Marks an open directory; [`Opaque::No`] writes nothing.
    pub fn write(self, dir: BorrowedFd<'_>, prefix: Prefix) -> io::Result<()> {
        match self {
            Opaque::No => Ok(()),
            Opaque::Yes => prefix.set(dir, OPAQUE, b"y"),
            Opaque::Whiteouts => prefix.set(dir, OPAQUE, b"x"),
        }
    }
}

/// Whether a status is that of a whiteout of the device kind.
pub fn is_device(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether the entry `name` of `dir` with status `stat` is a whiteout of either kind. As in the kernel's lookup, the
/// attribute kind counts whether or not its directory is marked; the mark only tells a listing where to look.
pub fn is_whiteout(dir: &Dir, name: &OsStr, stat: &Stat, prefix: Prefix) -> io::Result<bool> {
    if is_device(stat) {
        return Ok(true);
    }
    let candidate = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size == 0;
    Ok(candidate && dir.get_xattr(name, prefix.name(WHITEOUT))?.is_some())
}

/// What the names of whiteouts of the named kind begin with.
const NAMED: &str = ".wh.";

/// The name that makes a directory opaque, of the named kind.
const NAMED_OPAQUE: &str = ".wh..wh..opq";

/// Of a name of the named kind: what it hides; empty for one that hides no name of its own.
pub fn named(name: &OsStr) -> Option<&OsStr> {
    let hidden = name.as_bytes().strip_prefix(NAMED.as_bytes())?;
    Some(OsStr::from_bytes(match hidden.starts_with(NAMED.as_bytes()) {
        true => b"",
        false => hidden,
    }))
}

/// Whether `dir` has a whiteout of the named kind for `name`.
pub fn has_named(dir: &Dir, name: &OsStr) -> io::Result<bool> {
    let mut whiteout = OsString::from(NAMED);
    whiteout.push(name);
    exists(dir, &whiteout)
}

/// Whether an open directory is opaque by a name in it.
pub fn is_opaque_by_name(dir: &Dir) -> io::Result<bool> {
    exists(dir, OsStr::new(NAMED_OPAQUE))
}

fn exists(dir: &Dir, name: &OsStr) -> io::Result<bool> {
    match dir.try_stat(name) {
        Ok(stat) => Ok(stat.is_some()),
        Err(error) if error.kind() == io::ErrorKind::InvalidFilename => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the whiteout `name` in `dir`, which must not have such an entry. For the attribute kind the directory is
/// marked too, unless it is opaque, where a whiteout has nothing to hide.
pub fn make(dir: &Dir, name: &OsStr, format: Format) -> io::Result<()> {
    match format.whiteouts {
        WhiteoutKind::Device => dir.mknod(name, FileType::CharacterDevice, Mode::empty(), 0),
        WhiteoutKind::Attribute => {
            dir.mknod(name, FileType::RegularFile, Mode::RUSR | Mode::WUSR, 0)?;
            dir.set_xattr(name, format.prefix.name(WHITEOUT), b"y")?;
            match Opaque::read(dir.as_fd(), format.prefix)? {
                Opaque::No => Opaque::Whiteouts.write(dir.as_fd(), format.prefix),
                Opaque::Yes | Opaque::Whiteouts => Ok(()),
            }
        }
    }
}
