//! Directories into tars: a layer's directory in overlay format ([`pack`]), a container's upper directory above the
//! layers below it ([`pack_changes`]), what layers show when they are merged ([`pack_merged`]).
//!
//! The archive depends on the tree alone: names in byte order, no user names, no times but the files' own. Holes of
//! sparse files are kept. The root directory is listed, first, as `./`. Sockets are left out, since tar has none, and so
//! is what vanishes while it is packed.
//!
//! - `tree`: one directory as it is, whiteouts turned back into `.wh.` names.
//! - `merged`: the merged look at a stack of layers.
//! - `entry`: something of a mounted file system, as it is seen ([`pack_entry`]).

mod entry;
mod merged;
mod tree;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use overlay::{Prefix, Stack};
use rustix::fs::{FileType, Stat};
use sys::Dir;
use sys::ids::{Ids, Map};

use crate::record::next_run;
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
/// Whoever has no id in a user namespace is this one in it: the kernel's own choice.
const NOBODY: u32 = 65_534;
/// Of the directories on the way to the current one so many are kept open.
const KEPT_OPEN: usize = 64;

pub use self::entry::{What, pack_entry};

/// Packs `fs`, a layer of a privileged overlay; see [`pack_as`].
pub fn pack(fs: &Dir, out: impl Write) -> Result<(), PackError> {
    pack_as(Prefix::Trusted, fs, out)
}

/// Packs the directory `fs`, whose overlay attributes have the given prefix, into `out`.
///
/// The overlay's own attributes are left out and escaped ones unescaped. A redirect or a metadata-only file is an error:
/// it cannot be told from `fs` alone what it shows.
pub fn pack_as(prefix: Prefix, fs: &Dir, out: impl Write) -> Result<(), PackError> {
    Packer::new(prefix, None, true, out).all(|packer| packer.tree(fs))
}

/// Packs `upper`, the writable directory of an overlay over `lowers_top_first`, as a layer that changes these layers as
/// `upper` does. Only `upper` is read, but for what it takes from below: a renamed directory becomes an opaque one that
/// holds everything, a metadata-only file is given its data.
///
/// `leave_out` is asked with each path, relative to the root; what it names is left out with all that is in it.
pub fn pack_changes(
    prefix: Prefix,
    upper: &Dir,
    lowers_top_first: &[Dir],
    leave_out: &dyn Fn(&Path) -> bool,
    out: impl Write,
) -> Result<(), PackError> {
    let whole = Stack::new(std::iter::once(upper).chain(lowers_top_first), prefix);
    let mut packer = Packer::new(prefix, Some(whole), true, out);
    packer.leave_out = leave_out;
    packer.all(|packer| packer.tree(upper))
}

/// What an archive of merged layers is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergedAs {
    /// A layer: it cannot hold a name that means a whiteout.
    Layer,
    /// A root file system, as it is.
    Files,
}

/// Packs what `layers_top_first` show when they are merged.
pub fn pack_merged(
    prefix: Prefix,
    layers_top_first: &[Dir],
    what: MergedAs,
    out: impl Write,
) -> Result<(), PackError> {
    let whole = Stack::new(layers_top_first, prefix);
    let root = whole.root().map_err(read(Path::new("")))?;
    Packer::new(prefix, Some(whole), what == MergedAs::Layer, out).all(|packer| match &root {
        Some(root) => packer.merged_root(root),
        None => Ok(()),
    })
}

struct Packer<'a, W> {
    prefix: Prefix,
    /// All layers, to look at what a directory takes from those below it.
    whole: Option<Stack<&'a Dir>>,
    leave_out: &'a dyn Fn(&Path) -> bool,
    /// The archive is a layer.
    layer: bool,
    /// What is packed is in overlay format.
    overlay: bool,
    out: W,
    header: Vec<u8>,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Whose view is packed, where that is a user namespace's: owners are as they are in it.
    ids: Option<&'a Ids>,
}

/// Where a file's data is, beside its status.
struct Data {
    file: File,
    /// 512 bytes each, taken on disk.
    blocks: u64,
}

impl<'a, W: Write> Packer<'a, W> {
    fn new(prefix: Prefix, whole: Option<Stack<&'a Dir>>, layer: bool, out: W) -> Self {
        Packer {
            prefix,
            whole,
            leave_out: &|_| false,
            layer,
            overlay: true,
            out,
            header: Vec::new(),
            links: HashMap::new(),
            ids: None,
        }
    }

    fn owner(&self, stat: &Stat) -> (u32, u32) {
        let inside = |map: &Map, id| map.inside(id).unwrap_or(NOBODY);
        match self.ids {
            Some(ids) => (inside(&ids.users, stat.st_uid), inside(&ids.groups, stat.st_gid)),
            None => (stat.st_uid, stat.st_gid),
        }
    }

    /// The whole archive with its end.
    fn all(mut self, pack: impl FnOnce(&mut Self) -> Result<(), PackError>) -> Result<(), PackError> {
        pack(&mut self)?;
        self.write(&END)?;
        self.out.flush().map_err(PackError::Write)
    }

    /// Whether a path is passed over; an error for a name that would mean something else in a layer.
    fn passes_over(&self, path: &Path) -> Result<bool, PackError> {
        if (self.leave_out)(path) {
            return Ok(true);
        }
        let marks = path
            .file_name()
            .is_some_and(|name| name.as_bytes().starts_with(b".wh."));
        match self.layer && marks {
            true => Err(PackError::Name {
                path: path.to_owned(),
            }),
            false => Ok(false),
        }
    }

    /// Writes a further name of a file that is in the archive already, and answers true; else notes this one.
    fn linked(&mut self, path: &Path, stat: &Stat) -> Result<bool, PackError> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let path = path.as_os_str().as_bytes();
        let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) else {
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
            return Ok(false);
        };
        let mut entry = Entry::new(path, Kind::HardLink);
        entry.link.clone_from(first);
        entry.mode = stat.st_mode & 0o7777;
        (entry.uid, entry.gid) = self.owner(stat);
        entry.mtime = mtime(stat);
        self.head(&entry).map(|()| true)
    }

    /// The entry of a thing, without what is particular to its kind. `attributes` are those of its layer.
    fn entry(&self, path: &Path, stat: &Stat, kind: Kind, attributes: Vec<(OsString, Vec<u8>)>) -> Entry {
        let mut entry = Entry::new(path.as_os_str().as_bytes(), kind);
        if kind == Kind::Directory {
            entry.name.push(b'/');
        }
        if path.as_os_str().is_empty() || path == Path::new(".") {
            entry.name = b"./".to_vec();
        }
        entry.mode = stat.st_mode & 0o7777;
        (entry.uid, entry.gid) = self.owner(stat);
        entry.mtime = mtime(stat);
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            entry.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        }
        let shown = attributes
            .into_iter()
            .filter_map(|(name, value)| Some((self.prefix.to_view(&name)?.as_bytes().to_vec(), value)));
        entry.xattrs = shown.collect();
        entry.xattrs.sort();
        entry
    }

    /// An empty file with a meaning.
    fn mark(&mut self, parent: &Path, name: &[u8]) -> Result<(), PackError> {
        let path = match parent.as_os_str().as_bytes() {
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

    /// A regular file: its header and its data.
    fn file(&mut self, entry: &mut Entry, size: u64, data: &Data, path: &Path) -> Result<(), PackError> {
        entry.size = size;
        let file = &data.file;
        if data.blocks * 512 < entry.size {
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

/// What kind of entry a thing is; `None` for a socket.
fn kind_of(stat: &Stat) -> Option<Kind> {
    Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        _ => return None,
    })
}

/// What a thing of a directory has, beside its status.
struct Thing {
    attributes: Vec<(OsString, Vec<u8>)>,
    /// Of a symbolic link.
    target: OsString,
}

impl Thing {
    fn of(dir: &Dir, name: &OsStr, kind: Kind) -> io::Result<Thing> {
        let mut attributes = Vec::new();
        for attribute in dir.list_xattrs(name)? {
            if let Some(value) = dir.get_xattr(name, &attribute)? {
                attributes.push((attribute, value));
            }
        }
        let target = match kind {
            Kind::Symlink => dir.read_link(name)?,
            _ => OsString::new(),
        };
        Ok(Thing { attributes, target })
    }

    /// Of a directory that is open.
    fn of_dir(dir: &Dir) -> io::Result<Thing> {
        let mut attributes = Vec::new();
        for attribute in sys::xattr::list(dir.as_fd())? {
            if let Some(value) = sys::xattr::get(dir.as_fd(), &attribute)? {
                attributes.push((attribute, value));
            }
        }
        let target = OsString::new();
        Ok(Thing { attributes, target })
    }

    fn attribute(&self, name: &str) -> Option<&[u8]> {
        let found = self.attributes.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_slice())
    }
}

/// `None` for what is gone by now: the directory is in use.
fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
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
