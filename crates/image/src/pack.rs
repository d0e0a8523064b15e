//! [`pack`]: a directory in overlay format into a layer's tar, whiteouts turned back into `.wh.` names.
//!
//! The archive depends on the tree alone: names in byte order, no user names, no times but the files' own. Holes of
//! sparse files are kept. The root directory is listed, first, as `./`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use overlay::{Opaque, Prefix, whiteout, xattr};
use rustix::fs::{FileType, Stat};
use sys::Dir;

use crate::record::{next_run, open_quietly};
use crate::tar::writer::{END, data_padding, write_header};
use crate::tar::{Entry, Kind, Segment, Time};

/// Why a directory cannot be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// Something in the directory cannot be read.
    #[error("{}: reading it failed", path.display())]
    Read {
        /// Path in the directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file became shorter or longer while it was read.
    #[error("{}: it changed while it was read", path.display())]
    Changed {
        /// Path in the directory.
        path: PathBuf,
    },
    /// A name that would mean something else in a layer.
    #[error("{}: a layer cannot hold a file of this name, it would be a whiteout", path.display())]
    Name {
        /// Path in the directory.
        path: PathBuf,
    },
    /// A directory whose entries have longer paths than a layer may hold.
    #[error("{}: what is in it has a longer path than a layer can hold", path.display())]
    TooDeep {
        /// Path in the directory.
        path: PathBuf,
    },
    /// A renamed directory or a file without data: what it shows lies in the layers below.
    #[error("{}: its {attribute} attribute points into the layers below", path.display())]
    NeedsBelow {
        /// Path in the directory.
        path: PathBuf,
        /// `redirect` or `metacopy`.
        attribute: &'static str,
    },
    /// The archive cannot be written.
    #[error("writing the layer failed")]
    Write(#[source] io::Error),
}

/// The longest path, in bytes (`PATH_MAX`): no program can name more at once, and no unpacker takes more.
const MAX_PATH: usize = 4096;
/// Size of a block of tar, in bytes.
const BLOCK: u64 = crate::tar::BLOCK as u64;
/// More runs than this are not worth a map: the file is written with its zeros. Readers hold a map in memory, and
/// refuse one that is too long.
const MAX_SEGMENTS: usize = 10_000;
/// Of the directories on the way to the current one so many are kept open.
const KEPT_OPEN: usize = 64;

/// Packs `fs`, a layer or a container's upper directory of a privileged overlay; see [`pack_as`].
pub fn pack(fs: &Dir, out: impl Write) -> Result<(), PackError> {
    pack_as(Prefix::Trusted, fs, out)
}

/// Packs the directory `fs`, whose overlay attributes have the given prefix, into `out`.
///
/// The overlay's own attributes are left out and escaped ones unescaped; sockets are left out, since tar has none. A
/// redirect or a metadata-only file is an error: it cannot be told from `fs` alone what it shows.
pub fn pack_as(prefix: Prefix, fs: &Dir, out: impl Write) -> Result<(), PackError> {
    let mut packer = Packer {
        prefix,
        out,
        header: Vec::new(),
        links: HashMap::new(),
    };
    packer.tree(fs)?;
    packer.write(&END)?;
    packer.out.flush().map_err(PackError::Write)
}

struct Packer<W> {
    prefix: Prefix,
    out: W,
    header: Vec<u8>,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// A directory that is being packed.
struct Level {
    dir: Option<Dir>,
    path: PathBuf,
    /// What is left of it, in reverse order.
    names: Vec<OsString>,
}

impl<W: Write> Packer<W> {
    fn tree(&mut self, fs: &Dir) -> Result<(), PackError> {
        let root = PathBuf::new();
        let stat = fs.metadata().map_err(read(&root))?;
        let attributes = sys::xattr::list(fs.as_fd()).map_err(read(&root))?;
        let mut entry = self.entry(&root, &stat, Kind::Directory, attributes, |name| {
            sys::xattr::get(fs.as_fd(), name)
        })?;
        entry.name = b"./".to_vec();
        self.head(&entry)?;
        let mut levels = vec![self.level(fs.try_clone().map_err(read(&root))?, root)?];
        while let Some(depth) = levels.len().checked_sub(1) {
            let level = &mut levels[depth];
            let Some(name) = level.names.pop() else {
                levels.pop();
                continue;
            };
            let path = level.path.join(&name);
            if path.as_os_str().len() > MAX_PATH {
                return Err(PackError::TooDeep {
                    path: level.path.clone(),
                });
            }
            if level.dir.is_none() {
                level.dir = Some(fs.open_dir(&level.path).map_err(read(&level.path))?);
            }
            let Some(dir) = &level.dir else { continue };
            let stat = dir.stat(&name).map_err(read(&path))?;
            if self.one(dir, &name, &path, &stat)? {
                let child = dir.open_dir(&name).map_err(read(&path))?;
                levels.push(self.level(child, path)?);
                if let Some(far) = levels.len().checked_sub(KEPT_OPEN + 1) {
                    levels[far].dir = None;
                }
            }
        }
        Ok(())
    }

    fn level(&self, dir: Dir, path: PathBuf) -> Result<Level, PackError> {
        let mut names: Vec<OsString> = dir
            .entries()
            .map_err(read(&path))?
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Level {
            dir: Some(dir),
            path,
            names,
        })
    }

    /// Packs one thing; says whether it is a directory to go into.
    fn one(&mut self, dir: &Dir, name: &OsStr, path: &Path, stat: &Stat) -> Result<bool, PackError> {
        if name.as_bytes().starts_with(b".wh.") {
            return Err(PackError::Name {
                path: path.to_owned(),
            });
        }
        if whiteout::is_whiteout(dir, name, stat, self.prefix).map_err(read(path))? {
            let parent = path
                .parent()
                .map(|parent| parent.as_os_str().as_bytes())
                .unwrap_or_default();
            self.mark(parent, &[b".wh.", name.as_bytes()].concat())?;
            return Ok(false);
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            _ => return Ok(false),
        };
        let path_bytes = path.as_os_str().as_bytes();
        if kind != Kind::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                let mut entry = Entry::new(path_bytes, Kind::HardLink);
                entry.link.clone_from(first);
                (entry.mode, entry.uid, entry.gid) = (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
                entry.mtime = mtime(stat);
                self.head(&entry)?;
                return Ok(false);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path_bytes.to_vec());
        }
        let attributes = dir.list_xattrs(name).map_err(read(path))?;
        let value = |attribute: &OsStr| dir.get_xattr(name, attribute);
        let mut entry = self.entry(path, stat, kind, attributes, value)?;
        match kind {
            Kind::File => {
                let file = open_quietly(dir, name.as_ref()).map_err(read(path))?;
                return self.file(&mut entry, &file, stat, path).map(|()| false);
            }
            Kind::Symlink => entry.link = dir.read_link(name).map_err(read(path))?.as_bytes().to_vec(),
            _ => {}
        }
        self.head(&entry)?;
        if kind != Kind::Directory {
            return Ok(false);
        }
        let opened = dir.open_dir(name).map_err(read(path))?;
        if Opaque::read(opened.as_fd(), self.prefix).map_err(read(path))? == Opaque::Yes {
            self.mark(path_bytes, b".wh..wh..opq")?;
        }
        Ok(true)
    }

    /// The entry of a thing, without what is particular to its kind.
    fn entry(
        &self,
        path: &Path,
        stat: &Stat,
        kind: Kind,
        attributes: Vec<OsString>,
        value: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>,
    ) -> Result<Entry, PackError> {
        let mut entry = Entry::new(path.as_os_str().as_bytes(), kind);
        if kind == Kind::Directory {
            entry.name.push(b'/');
        }
        (entry.mode, entry.uid, entry.gid) = (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
        entry.mtime = mtime(stat);
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            entry.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        }
        for attribute in attributes {
            for needs in [xattr::REDIRECT, xattr::METACOPY] {
                if attribute == *self.prefix.name(needs) {
                    let path = path.to_owned();
                    return Err(PackError::NeedsBelow {
                        path,
                        attribute: needs,
                    });
                }
            }
            let Some(shown) = self.prefix.to_view(&attribute) else {
                continue;
            };
            if let Some(value) = value(&attribute).map_err(read(path))? {
                entry.xattrs.push((shown.as_bytes().to_vec(), value));
            }
        }
        entry.xattrs.sort();
        Ok(entry)
    }

    /// An empty file with a meaning.
    fn mark(&mut self, parent: &[u8], name: &[u8]) -> Result<(), PackError> {
        let path = match parent {
            [] => name.to_vec(),
            parent => [parent, b"/", name].concat(),
        };
        self.head(&Entry::new(path, Kind::File))
    }

    fn head(&mut self, entry: &Entry) -> Result<(), PackError> {
        self.header.clear();
        write_header(entry, &mut self.header);
        self.out.write_all(&self.header).map_err(PackError::Write)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), PackError> {
        self.out.write_all(bytes).map_err(PackError::Write)
    }

    fn file(&mut self, entry: &mut Entry, file: &File, stat: &Stat, path: &Path) -> Result<(), PackError> {
        entry.size = u64::try_from(stat.st_size).unwrap_or(0);
        let on_disk = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if on_disk < entry.size {
            entry.segments = runs(file, entry.size).map_err(read(path))?;
        }
        self.head(entry)?;
        let whole = [Segment {
            offset: 0,
            len: entry.size,
        }];
        let mut buffer = vec![0; 128 * 1024];
        for segment in entry.segments.as_deref().unwrap_or(&whole) {
            let mut at = segment.offset;
            let end = segment.offset + segment.len;
            while at < end {
                let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
                match file.read_at(&mut buffer[..want], at).map_err(read(path))? {
                    0 => {
                        return Err(PackError::Changed {
                            path: path.to_owned(),
                        });
                    }
                    len => {
                        self.write(&buffer[..len])?;
                        at += len as u64;
                    }
                }
            }
        }
        self.write(data_padding(entry.data_len()))
    }
}

/// The runs of data, in whole blocks of tar, of a file of `size` bytes; `None` where that is all of it.
fn runs(file: &File, size: u64) -> io::Result<Option<Vec<Segment>>> {
    let mut segments = Vec::new();
    let mut at = 0;
    while let Some((begin, end)) = next_run(file, at)? {
        // GNU tar takes each run to begin with a block of its own, others take it to follow the one before: with whole
        // blocks they agree. File systems have none smaller.
        let begin = begin - begin % BLOCK;
        let end = end.next_multiple_of(BLOCK).min(size);
        if begin >= end {
            break;
        }
        segments.push(Segment {
            offset: begin,
            len: end - begin,
        });
        if segments.len() > MAX_SEGMENTS {
            return Ok(None);
        }
        at = end;
    }
    let whole = Segment { offset: 0, len: size };
    Ok((segments != [whole]).then_some(segments))
}

fn mtime(stat: &Stat) -> Time {
    Time {
        secs: stat.st_mtime,
        nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    }
}

fn read(path: &Path) -> impl FnOnce(io::Error) -> PackError {
    let path = path.to_owned();
    move |source| PackError::Read { path, source }
}
