//! An entry becomes a thing in the layer.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use overlay::{Stack, whiteout};
use rustix::fs::{FileType, Stat};
use store::Usage;
use sys::Dir;
use twox_hash::XxHash3_128;

use super::dirs::{self, Dirs, Id, ROOT, os};
use super::meta::{Meta, first_mode};
use super::name::{Special, clean, special, split};
use super::pipeline::Stream;
use super::{Below, Form, Limits, UnpackError, failed, refused};
use crate::record::{self, FileData};
use crate::tar::{Entry, Kind, Reader};

/// A layer while it is unpacked.
pub(super) struct Unpacking<'a, W: Write> {
    pub(super) form: Form,
    ask_below: &'a Below<'a>,
    below: OnceCell<Stack<Arc<Dir>>>,
    limits: &'a Limits,
    /// The stream has no data of files, which become holes.
    hollow: bool,
    reader: Reader<Stream>,
    record: record::Writer<W>,
    pub(super) dirs: Dirs,
    /// Where the last entry went: the parent's path as the archive wrote it, and what it came to.
    last_parent: Option<(Vec<u8>, Id)>,
    /// Names whose data no entry of that name brought.
    pub(super) unlisted: HashMap<(Id, Box<[u8]>), Unlisted>,
    pub(super) usage: Usage,
    pub(super) depends_on_below: bool,
    entries: u64,
    /// Bytes of memory that grow with the layer.
    remembered: usize,
}

/// How a file came to a name that no entry with data has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unlisted {
    /// By a hard link: the record has its data under another name.
    Linked,
    /// From a layer below, because a hard link needed it.
    CopiedUp,
}

/// What became of the layer.
pub(super) struct Made {
    pub(super) usage: Usage,
    pub(super) depends_on_below: bool,
    pub(super) root_listed: bool,
}

/// What stood in the way of an entry and was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Displaced {
    Whiteout,
    Other,
}

impl<'a, W: Write> Unpacking<'a, W> {
    pub(super) fn new(
        stream: Stream,
        into: &Dir,
        form: Form,
        ask_below: &'a Below<'a>,
        record: W,
        limits: &'a Limits,
        hollow: bool,
    ) -> Result<Self, UnpackError> {
        Ok(Unpacking {
            form,
            ask_below,
            below: OnceCell::new(),
            limits,
            hollow,
            reader: Reader::new(stream, limits.header),
            record: record::Writer::new(record).map_err(UnpackError::Record)?,
            dirs: Dirs::new(into).map_err(failed(b"/", "opening the layer's directory"))?,
            last_parent: None,
            unlisted: HashMap::new(),
            usage: Usage::default(),
            depends_on_below: false,
            entries: 0,
            remembered: 0,
        })
    }

    /// The layers below; the first call waits until they are complete.
    pub(super) fn below(&self) -> io::Result<&Stack<Arc<Dir>>> {
        if let Some(below) = self.below.get() {
            return Ok(below);
        }
        let layers = (self.ask_below)()?;
        Ok(self
            .below
            .get_or_init(|| Stack::new(layers, self.form.overlay.prefix)))
    }

    /// Unpacks the whole stream.
    pub(super) fn run(mut self) -> Result<Made, UnpackError> {
        while let Some(entry) = self.reader.next()? {
            self.flush_raw()?;
            self.entries += 1;
            self.check_limits(&entry.name)?;
            self.entry(&entry)?;
        }
        self.flush_raw()?;
        while self.reader.trailer()? {
            self.flush_raw()?;
            self.check_limits(b"what follows the end of the archive")?;
        }
        self.finish()?;
        self.record.finish().map_err(UnpackError::Record)?;
        Ok(Made {
            usage: self.usage,
            depends_on_below: self.depends_on_below,
            root_listed: self.dirs.nodes[ROOT as usize].listed,
        })
    }

    fn check_limits(&self, name: &[u8]) -> Result<(), UnpackError> {
        let checks = [
            (self.entries, self.limits.entries, "entries"),
            (self.reader.position(), self.limits.bytes, "bytes"),
        ];
        for (have, limit, what) in checks {
            if have > limit {
                let name = crate::tar::shown(name);
                return Err(UnpackError::TooLarge { name, what, limit });
            }
        }
        Ok(())
    }

    fn flush_raw(&mut self) -> Result<(), UnpackError> {
        self.record.raw(self.reader.raw()).map_err(UnpackError::Record)?;
        self.reader.raw().clear();
        Ok(())
    }

    /// Data that no file takes stays in the record.
    fn data_to_record(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        loop {
            let piece = self.reader.data()?;
            if piece.is_empty() {
                return Ok(());
            }
            self.record.raw(piece).map_err(UnpackError::Record)?;
            let len = piece.len();
            self.reader.consume(len);
            self.check_limits(&entry.name)?;
        }
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let refuse = |what| refused(&entry.name, what);
        let path = clean(&entry.name, self.limits.name).map_err(refuse)?;
        match special(&path).map_err(refuse)? {
            Special::None => {}
            Special::Skip => return self.data_to_record(entry),
            Special::Whiteout(hidden) => {
                self.whiteout(entry, split(&path).0, hidden)?;
                return self.data_to_record(entry);
            }
            Special::Opaque => {
                let parent = self.parent(split(&path).0, &entry.name)?;
                self.dirs.nodes[parent as usize].opaque = true;
                return self.data_to_record(entry);
            }
        }
        if path.is_empty() {
            if entry.kind != Kind::Directory {
                return Err(refuse("the layer's root must be a directory"));
            }
            self.list(ROOT, entry)?;
            return self.data_to_record(entry);
        }
        let (parent, name) = split(&path);
        let parent = self.parent(parent, &entry.name)?;
        match entry.kind {
            Kind::File => return self.file(entry, parent, name),
            Kind::Directory => self.directory(entry, parent, name)?,
            Kind::HardLink => self.hard_link(entry, parent, name)?,
            Kind::Symlink | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.special_file(entry, parent, name)?
            }
        }
        self.data_to_record(entry)
    }

    /// The open directory `id`, on behalf of the entry `name`.
    pub(super) fn dir(&mut self, id: Id, name: &[u8]) -> Result<Rc<Dir>, UnpackError> {
        self.dirs.dir(id).map_err(failed(name, "opening its directory"))
    }

    /// The directory that the clean path `parent` leads to, made where it is missing.
    pub(super) fn parent(&mut self, parent: &[u8], entry: &[u8]) -> Result<Id, UnpackError> {
        if let Some((path, id)) = &self.last_parent
            && path == parent
        {
            return Ok(*id);
        }
        let id = self.make_way(parent, entry)?;
        self.last_parent = Some((parent.to_vec(), id));
        Ok(id)
    }

    fn file(&mut self, entry: &Entry, parent: Id, name: &[u8]) -> Result<(), UnpackError> {
        let dir = self.dir(parent, &entry.name)?;
        let mode = first_mode(entry.mode);
        let make = || dir.create_new(os(name), mode);
        let file = match make() {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                self.displace(&dir, parent, name, &entry.name)?;
                make()
            }
            other => other,
        };
        let file = file.map_err(failed(&entry.name, "making the file"))?;
        let digest = self.write_data(entry, &file)?;
        let meta = Meta::of_entry(entry, self.form);
        let stat = meta
            .set_on(&file)
            .map_err(|(doing, error)| failed(&entry.name, doing)(error))?;
        self.count(&stat);
        let path = self.dirs.path_of(parent, name);
        let data = FileData {
            path: PathBuf::from(os(&path)),
            size: entry.size,
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            segments: entry.segments.clone(),
            digest,
        };
        self.record.file(&data).map_err(UnpackError::Record)
    }

    /// Writes the entry's data where it belongs and returns its digest.
    fn write_data(&mut self, entry: &Entry, file: &File) -> Result<u128, UnpackError> {
        let write = |error| failed(&entry.name, "writing the file")(error);
        if self.hollow {
            self.reader.left_out();
            file.set_len(entry.size).map_err(write)?;
            return Ok(0);
        }
        if let Some(segments) = &entry.segments {
            file.set_len(entry.size).map_err(write)?;
            let mut hasher = XxHash3_128::new();
            for segment in segments {
                let mut at = segment.offset;
                let end = segment.offset + segment.len;
                while at < end {
                    let piece = self.reader.data()?;
                    let len = piece.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
                    hasher.write(&piece[..len]);
                    file.write_all_at(&piece[..len], at).map_err(write)?;
                    self.reader.consume(len);
                    at += len as u64;
                    self.check_limits(&entry.name)?;
                }
            }
            return Ok(hasher.finish_128());
        }
        let piece = self.reader.data()?;
        if piece.len() as u64 == entry.size {
            // Most files lie in one buffer.
            let digest = XxHash3_128::oneshot(piece);
            if !piece.is_empty() {
                (&*file).write_all(piece).map_err(write)?;
            }
            let len = piece.len();
            self.reader.consume(len);
            return Ok(digest);
        }
        let mut hasher = XxHash3_128::new();
        loop {
            let piece = self.reader.data()?;
            if piece.is_empty() {
                return Ok(hasher.finish_128());
            }
            hasher.write(piece);
            (&*file).write_all(piece).map_err(write)?;
            let len = piece.len();
            self.reader.consume(len);
            self.check_limits(&entry.name)?;
        }
    }

    fn directory(&mut self, entry: &Entry, parent: Id, name: &[u8]) -> Result<(), UnpackError> {
        let id = match self.dirs.child(parent, name) {
            Some(id) => id,
            None => self.make_directory(parent, name, entry.mode, &entry.name)?,
        };
        self.list(id, entry)
    }

    /// Notes what an entry says of a directory.
    fn list(&mut self, id: Id, entry: &Entry) -> Result<(), UnpackError> {
        let meta = Meta::of_entry(entry, self.form);
        let rare = meta.xattrs.iter().map(|(name, value)| name.len() + value.len());
        let rare = rare.sum::<usize>() + 64 * meta.xattrs.len();
        let times = if meta.atime == meta.mtime { 0 } else { 80 };
        self.remember(rare + times, &entry.name)?;
        self.dirs.list(id, meta);
        Ok(())
    }

    /// Counts memory that the layer takes until it is complete.
    pub(super) fn remember(&mut self, bytes: usize, name: &[u8]) -> Result<(), UnpackError> {
        self.remembered += bytes;
        match self.remembered <= self.limits.memory {
            true => Ok(()),
            false => Err(UnpackError::Memory {
                name: crate::tar::shown(name),
            }),
        }
    }

    /// Makes a directory that the layer does not have yet, in place of whatever else is there.
    pub(super) fn make_directory(
        &mut self,
        parent: Id,
        name: &[u8],
        mode: u32,
        entry: &[u8],
    ) -> Result<Id, UnpackError> {
        // Through symbolic links a short name leads far; nobody could name what is there.
        if self.dirs.path_of(parent, name).len() > self.limits.name {
            return Err(refused(entry, "it leads to a path that is too long"));
        }
        self.remember(dirs::COST + name.len(), entry)?;
        let dir = self.dir(parent, entry)?;
        let make = || dir.mkdir_masked(os(name), first_mode(mode));
        let mut displaced = None;
        let made = match make() {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                displaced = Some(self.displace(&dir, parent, name, entry)?);
                make()
            }
            other => other,
        };
        made.map_err(failed(entry, "making the directory"))?;
        let id = self.dirs.add(parent, name);
        if displaced == Some(Displaced::Whiteout) {
            let node = &mut self.dirs.nodes[id as usize];
            (node.opaque, node.whited_out) = (true, true);
        }
        Ok(id)
    }

    /// Symbolic links, devices and pipes.
    fn special_file(&mut self, entry: &Entry, parent: Id, name: &[u8]) -> Result<(), UnpackError> {
        let dir = self.dir(parent, &entry.name)?;
        let mode = first_mode(entry.mode);
        let device = |file_type| {
            let (major, minor) = entry.device;
            // The kernel's numbers have 12 and 20 bits; more would be cut off, down to a whiteout's 0/0.
            if major >= 1 << 12 || minor >= 1 << 20 {
                return Err(refused(
                    &entry.name,
                    format!("device number {major}/{minor} is out of range"),
                ));
            }
            if file_type == FileType::CharacterDevice && (major, minor) == (0, 0) {
                return Err(refused(&entry.name, "a character device 0/0 would be a whiteout"));
            }
            Ok((file_type, rustix::fs::makedev(major, minor)))
        };
        let what = match entry.kind {
            Kind::Symlink if entry.link.is_empty() => {
                return Err(refused(&entry.name, "a symbolic link to nothing"));
            }
            Kind::Symlink => None,
            Kind::CharDevice => Some(device(FileType::CharacterDevice)?),
            Kind::BlockDevice => Some(device(FileType::BlockDevice)?),
            _ => Some((FileType::Fifo, 0)),
        };
        let is_device = matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice);
        let left_out = is_device && !self.form.makes_devices();
        // A whiteout is one.
        let what = if left_out {
            Some((FileType::CharacterDevice, 0))
        } else {
            what
        };
        let make = || match what {
            None => dir.symlink(os(&entry.link), os(name)),
            Some((file_type, number)) => dir.mknod(os(name), file_type, mode, number),
        };
        let doing = match what {
            None => "making the symbolic link",
            Some(_) => "making the special file",
        };
        let made = match make() {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                self.displace(&dir, parent, name, &entry.name)?;
                make()
            }
            other => other,
        };
        made.map_err(failed(&entry.name, doing))?;
        if left_out {
            self.dirs.nodes[parent as usize].whiteouts = true;
            self.usage.inodes += 1;
            return Ok(());
        }
        let meta = Meta::of_entry(entry, self.form);
        let stat = meta
            .set_at(&dir, name)
            .map_err(|(doing, error)| failed(&entry.name, doing)(error))?;
        self.count(&stat);
        Ok(())
    }

    /// `.wh.NAME`.
    fn whiteout(&mut self, entry: &Entry, parent: &[u8], hidden: &[u8]) -> Result<(), UnpackError> {
        let parent = self.parent(parent, &entry.name)?;
        if let Some(id) = self.dirs.child(parent, hidden) {
            let node = &mut self.dirs.nodes[id as usize];
            (node.opaque, node.whited_out) = (true, true);
            return Ok(());
        }
        let dir = self.dir(parent, &entry.name)?;
        match whiteout::make(&dir, os(hidden), self.form.overlay) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                // What the layer itself has there stays, unless it was only copied up from below.
                if self.unlisted.get(&(parent, hidden.into())) != Some(&Unlisted::CopiedUp) {
                    return Ok(());
                }
                self.displace(&dir, parent, hidden, &entry.name)?;
                let made = whiteout::make(&dir, os(hidden), self.form.overlay);
                made.map_err(failed(&entry.name, "making the whiteout"))?;
            }
            other => other.map_err(failed(&entry.name, "making the whiteout"))?,
        }
        self.dirs.nodes[parent as usize].whiteouts = true;
        self.usage.inodes += 1;
        Ok(())
    }

    /// Adds a new inode to the usage.
    pub(super) fn count(&mut self, stat: &Stat) {
        self.usage += cost(stat);
    }

    /// Takes away what stands where an entry is to be made. Data that entries brought stays in the record.
    pub(super) fn displace(
        &mut self,
        dir: &Dir,
        parent: Id,
        name: &[u8],
        entry: &[u8],
    ) -> Result<Displaced, UnpackError> {
        let replacing = |error| failed(entry, "replacing what was there")(error);
        self.last_parent = None;
        if let Some(id) = self.dirs.child(parent, name) {
            self.displace_tree(id, entry)?;
            dir.remove_tree(os(name)).map_err(replacing)?;
            return Ok(Displaced::Other);
        }
        let stat = dir.stat(os(name)).map_err(replacing)?;
        let whiteout =
            whiteout::is_whiteout(dir, os(name), &stat, self.form.overlay.prefix).map_err(replacing)?;
        let mut links = HashMap::new();
        self.displace_name(dir, parent, name, &stat, &mut links, entry)?;
        dir.unlink(os(name)).map_err(replacing)?;
        Ok(if whiteout {
            Displaced::Whiteout
        } else {
            Displaced::Other
        })
    }

    /// Notes that everything in the directory `top` goes away.
    fn displace_tree(&mut self, top: Id, entry: &[u8]) -> Result<(), UnpackError> {
        let replacing = |error| failed(entry, "replacing what was there")(error);
        let mut links = HashMap::new();
        let mut todo = vec![top];
        while let Some(id) = todo.pop() {
            let dir = self.dir(id, entry)?;
            for found in dir.entries().map_err(replacing)? {
                use std::os::unix::ffi::OsStrExt;
                let name = found.name.as_bytes();
                match self.dirs.child(id, name) {
                    Some(child) => todo.push(child),
                    None => {
                        let stat = dir.stat(&found.name).map_err(replacing)?;
                        self.displace_name(&dir, id, name, &stat, &mut links, entry)?;
                    }
                }
            }
        }
        self.dirs.remove(top);
        Ok(())
    }

    /// Notes that one name, not a directory's, goes away. `links` counts the names of each inode that go with it.
    fn displace_name(
        &mut self,
        dir: &Dir,
        parent: Id,
        name: &[u8],
        stat: &Stat,
        links: &mut HashMap<u64, u64>,
        entry: &[u8],
    ) -> Result<(), UnpackError> {
        let listed = self.unlisted.remove(&(parent, name.into())).is_none();
        if listed && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size > 0 {
            use rustix::fs::{Mode, OFlags};
            let file = dir.open_file(os(name), OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty());
            let file = file.map_err(failed(entry, "reading what was there"))?;
            let path = PathBuf::from(os(&self.dirs.path_of(parent, name)));
            // The record's index is written last.
            self.remember(path.as_os_str().len() + 32, entry)?;
            self.record.displaced(&path, &file).map_err(UnpackError::Record)?;
        }
        let going = links.entry(stat.st_ino).or_insert(0);
        *going += 1;
        // Its type differs between architectures.
        #[allow(clippy::useless_conversion)]
        let all = u64::from(stat.st_nlink);
        if *going == all {
            let cost = cost(stat);
            self.usage.bytes -= cost.bytes.min(self.usage.bytes);
            self.usage.apparent -= cost.apparent.min(self.usage.apparent);
            self.usage.inodes -= 1;
        }
        Ok(())
    }
}

/// What one inode costs.
pub(super) fn cost(stat: &Stat) -> Usage {
    let sized = matches!(
        FileType::from_raw_mode(stat.st_mode),
        FileType::RegularFile | FileType::Symlink
    );
    let apparent = if sized {
        u64::try_from(stat.st_size).unwrap_or(0)
    } else {
        0
    };
    Usage {
        bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
        apparent,
        inodes: 1,
    }
}
