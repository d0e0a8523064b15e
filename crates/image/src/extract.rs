//! [`extract`]: a tar into a directory as it is, no layer: files come beside those that are there.
//!
//! What lies in the directory may be somebody's who wants to be written elsewhere: nothing is reached but beneath the
//! directory's descriptor, and no link on the way is followed.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, BufRead, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Timespec, Timestamps};
use sys::Dir;
use sys::ids::Ids;

use crate::tar::{Entry, Kind, Reader, TarError, Time};

/// Why a tar could not be extracted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtractError {
    /// It is none, or a damaged one.
    #[error("the tar cannot be read: {}", crate::text::whole(.0))]
    Archive(TarError),
    /// A name that leads out of the directory, or to nothing.
    #[error("{}: this name leads out of where it is to be extracted", path.display())]
    Name {
        /// The name.
        path: PathBuf,
    },
    /// A directory is to be where something else is.
    #[error("{}: a directory cannot replace what is no directory", path.display())]
    NoDirectory {
        /// The path, from the directory that it is extracted into.
        path: PathBuf,
    },
    /// Something else is to be where a directory is.
    #[error("{}: a file cannot replace a directory", path.display())]
    Directory {
        /// The path, from the directory that it is extracted into.
        path: PathBuf,
    },
    /// The way to it leads over a symbolic link.
    #[error("{}: a symbolic link is on the way", path.display())]
    Link {
        /// The path, from the directory that it is extracted into.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Make {
        /// The path, from the directory that it is extracted into.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Who owns what is extracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Whoever the tar says.
    AsPacked,
    /// This user and group.
    Fixed(u32, u32),
}

/// The longest headers that are read, in bytes.
const HEADERS: usize = 1 << 20;

/// Extracts a tar into a directory; the directory's own attributes stay as they are. What is there under the same name
/// is replaced, but a directory only by one. Attributes beyond mode, owner and time are kept as far as users can set
/// them, with `security.capability`. Owners are those of a user namespace with these `ids`, where some are given.
///
/// # Errors
/// [`ExtractError`]; what was extracted before stays.
pub fn extract(tar: impl BufRead, into: &Dir, owner: Owner, ids: Option<&Ids>) -> Result<u64, ExtractError> {
    let mut reader = Reader::new(tar, HEADERS);
    let mut extraction = Extraction {
        into,
        owner,
        ids,
        directories: Vec::new(),
        bytes: 0,
    };
    while let Some(entry) = reader.next().map_err(ExtractError::Archive)? {
        reader.raw().clear();
        extraction.entry(&entry, &mut reader)?;
    }
    while reader.trailer().map_err(ExtractError::Archive)? {
        reader.raw().clear();
    }
    // What was made in a directory changed its time.
    for (path, time) in extraction.directories.into_iter().rev() {
        let at = place(&path)?;
        let parent = into.open_dir(&at.0).map_err(made(&path))?;
        parent.set_times(&at.1, &times(time)).map_err(made(&path))?;
    }
    Ok(extraction.bytes)
}

struct Extraction<'a> {
    into: &'a Dir,
    owner: Owner,
    ids: Option<&'a Ids>,
    /// Directories with their times, in the order of the tar.
    directories: Vec<(PathBuf, Time)>,
    bytes: u64,
}

impl Extraction<'_> {
    fn entry(&mut self, entry: &Entry, data: &mut Reader<impl BufRead>) -> Result<(), ExtractError> {
        let path = clean(&entry.name)?;
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let (parent, name) = place(&path)?;
        let dir = self.directory(&parent, &path)?;
        let there = dir.try_stat(&name).map_err(made(&path))?;
        let is_dir = there.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        match (entry.kind, is_dir, there.is_some()) {
            (Kind::Directory, false, true) => return Err(ExtractError::NoDirectory { path }),
            (Kind::Directory, true, _) => {}
            (_, true, _) => return Err(ExtractError::Directory { path }),
            (Kind::File, _, _) => {
                let file = replace(&dir, &name).map_err(made(&path))?;
                self.data(&file, entry, data, &path)?;
                return self.finish_file(&file, &dir, &name, entry).map_err(made(&path));
            }
            (_, _, true) => dir.unlink(&name).map_err(made(&path))?,
            _ => {}
        }
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let special = |kind| dir.mknod(&name, kind, Mode::from_raw_mode(0o600), device);
        match entry.kind {
            Kind::Directory if is_dir => Ok(()),
            Kind::Directory => dir.mkdir(&name, Mode::from_raw_mode(0o700)),
            Kind::Symlink => dir.symlink(OsStr::from_bytes(&entry.link), &name),
            Kind::CharDevice => special(FileType::CharacterDevice),
            Kind::BlockDevice => special(FileType::BlockDevice),
            Kind::Fifo => special(FileType::Fifo),
            Kind::HardLink | Kind::File => {
                let target = clean(&entry.link)?;
                let (from, first) = place(&target)?;
                let from = self.directory(&from, &target)?;
                return dir.link(&from, &first, &name).map_err(made(&path));
            }
        }
        .map_err(made(&path))?;
        self.finish(&dir, &name, entry).map_err(made(&path))?;
        if entry.kind == Kind::Directory {
            self.directories.push((path, entry.mtime));
        }
        Ok(())
    }

    /// The directory on the way to something, made where nothing is.
    fn directory(&self, parent: &Path, path: &Path) -> Result<Dir, ExtractError> {
        let opened = match self.into.open_dir(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.into.mkdir_all(parent, Mode::from_raw_mode(0o755))
            }
            other => other,
        };
        opened.map_err(|source| match rustix::io::Errno::from_io_error(&source) {
            Some(rustix::io::Errno::LOOP) => ExtractError::Link {
                path: path.to_owned(),
            },
            Some(rustix::io::Errno::NOTDIR) => ExtractError::NoDirectory {
                path: parent.to_owned(),
            },
            _ => ExtractError::Make {
                path: path.to_owned(),
                source,
            },
        })
    }

    fn data(
        &mut self,
        mut file: &File,
        entry: &Entry,
        data: &mut Reader<impl BufRead>,
        path: &Path,
    ) -> Result<(), ExtractError> {
        let segments = entry.segments.as_deref();
        let mut runs = segments.into_iter().flatten();
        // Where the next byte goes, and how many follow it before the next hole.
        let (mut at, mut left) = (0, 0);
        loop {
            let piece = data.data().map_err(ExtractError::Archive)?;
            if piece.is_empty() {
                break;
            }
            let count = match segments {
                None => {
                    file.write_all(piece).map_err(made(path))?;
                    piece.len()
                }
                Some(_) => {
                    if left == 0 {
                        // Empty runs are passed by; there is no data beyond the last one.
                        let Some(run) = runs.next() else { break };
                        (at, left) = (run.offset, run.len);
                    }
                    let count = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    if count == 0 {
                        continue;
                    }
                    file.write_all_at(&piece[..count], at).map_err(made(path))?;
                    at += count as u64;
                    left -= count as u64;
                    count
                }
            };
            self.bytes += count as u64;
            data.consume(count);
        }
        match segments {
            None => Ok(()),
            Some(_) => file.set_len(entry.size).map_err(made(path)),
        }
    }

    fn owner(&self, entry: &Entry) -> io::Result<(u32, u32)> {
        let (uid, gid) = match self.owner {
            Owner::AsPacked => (entry.uid, entry.gid),
            Owner::Fixed(uid, gid) => (uid, gid),
        };
        let Some(ids) = self.ids else {
            return Ok((uid, gid));
        };
        let outside = ids.users.outside(uid).zip(ids.groups.outside(gid));
        outside.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Owner, mode, attributes and times of a file that is open.
    fn finish_file(&self, file: &File, dir: &Dir, name: &OsStr, entry: &Entry) -> io::Result<()> {
        let (uid, gid) = self.owner(entry)?;
        std::os::unix::fs::fchown(file, Some(uid), Some(gid))?;
        file.set_permissions(Permissions::from_mode(entry.mode & 0o7777))?;
        attributes(dir, name, entry)?;
        Ok(rustix::fs::futimens(file, &times(entry.mtime))?)
    }

    /// The same of anything else.
    fn finish(&self, dir: &Dir, name: &OsStr, entry: &Entry) -> io::Result<()> {
        let (uid, gid) = self.owner(entry)?;
        dir.set_owner(name, uid, gid)?;
        if entry.kind != Kind::Symlink {
            dir.set_mode(name, Mode::from_raw_mode(entry.mode & 0o7777))?;
            attributes(dir, name, entry)?;
        }
        dir.set_times(name, &times(entry.mtime))
    }
}

/// A new file in place of whatever file is there; what cannot be taken away, since something is mounted at it, is written
/// over.
fn replace(dir: &Dir, name: &OsStr) -> io::Result<File> {
    match dir.unlink(name) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = dir.open_file(name, flags, Mode::empty())?;
            return match file.metadata()?.is_file() {
                true => Ok(file),
                false => Err(io::ErrorKind::ResourceBusy.into()),
            };
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    dir.create_new(name, Mode::from_raw_mode(0o600))
}

fn attributes(dir: &Dir, name: &OsStr, entry: &Entry) -> io::Result<()> {
    for (attribute, value) in &entry.xattrs {
        if attribute.starts_with(b"user.") || attribute == b"security.capability" {
            match dir.set_xattr(name, OsStr::from_bytes(attribute), value) {
                // Not every file system has them, and no file is worse without.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// A name as a path beneath the directory: empty for the directory itself.
fn clean(name: &[u8]) -> Result<PathBuf, ExtractError> {
    let path = Path::new(OsStr::from_bytes(name));
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            _ => {
                return Err(ExtractError::Name {
                    path: path.to_owned(),
                });
            }
        }
    }
    Ok(clean)
}

/// The directory of a path, and its name in it.
fn place(path: &Path) -> Result<(PathBuf, OsString), ExtractError> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent.to_owned(), name.to_owned())),
        _ => Err(ExtractError::Name {
            path: path.to_owned(),
        }),
    }
}

fn times(time: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: time.secs,
        tv_nsec: time.nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn made(path: &Path) -> impl FnOnce(io::Error) -> ExtractError {
    let path = path.to_owned();
    move |source| ExtractError::Make { path, source }
}
