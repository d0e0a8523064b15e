//! Copy-up: a file or directory of a lower layer gets a part in the upper one, without a moment at which the view
//! shows anything but the old or the new.
//!
//! The order is the kernel's: parents first and marked impure, a temporary in the work directory, data, attributes,
//! origin, owner, mode and times, and at last its name. A file's data is copied while nothing is locked: others wait
//! at its gate only if they would change the same file.

mod data;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{self, FallocateFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sys::Dir;

use super::attr::{chmod, chown, set_times, times_of};
use super::node::{Body, FileBody, FileState, Gate, Indexed, Node, Real, Via, lock};
use super::place::{Entry, UpperDir};
use super::xattrs::{self, ACLS};
use super::{Overlay, Result, Sync, errno, index, work};
use crate::stack::Place;
use crate::stat_override::Override;
use crate::xattr::{IMPURE, METACOPY, NLINK, ORIGIN};
use data::{Way, copy_data};

/// What a change needs of a file in the upper layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Its metadata.
    Metadata,
    /// Its data, up to a size in bytes beyond which it will be cut off.
    Data { up_to: u64 },
}

impl Want {
    /// All its data.
    pub(super) const ALL: Want = Want::Data { up_to: u64::MAX };
}

/// A file of more bytes takes long to copy, and to make durable.
const LONG: i64 = 1 << 20;

/// What is about to get its name.
enum Temporary {
    /// A regular file that has none yet.
    Unnamed(File),
    /// An entry of the work directory.
    Named(String),
}

/// The times of a directory, put back after an entry was made in it that the view does not see come.
pub(super) struct KeptTimes<'a> {
    dir: &'a Dir,
    stat: Stat,
}

impl KeptTimes<'_> {
    pub(super) fn of(dir: &Dir) -> Result<KeptTimes<'_>> {
        let stat = dir.metadata().map_err(errno)?;
        Ok(KeptTimes { dir, stat })
    }

    pub(super) fn restore(self) -> Result<()> {
        set_times(&Entry::Fd(self.dir.as_fd()), &times_of(&self.stat))
    }
}

impl Overlay {
    /// Sees to it that a node has a part in the upper layer.
    pub(super) fn copy_up(&self, node: &Arc<Node>, want: Want) -> Result<()> {
        self.work()?;
        match &node.body {
            Body::Dir(_) => self.copy_up_dir(node),
            Body::File(body) => self.copy_up_file(node, body, want),
        }
    }

    fn copy_up_dir(&self, node: &Arc<Node>) -> Result<()> {
        let dir = node.dir()?;
        let parent = {
            let state = lock(&dir.state);
            if state.upper {
                return Ok(());
            }
            // A directory that was removed is not brought back.
            state.name.as_ref().ok_or(Errno::NOENT)?.parent.clone()
        };
        self.copy_up_dir(&parent)?;
        let mut state = lock(&dir.state);
        if state.upper {
            return Ok(());
        }
        let name = state.name.clone().ok_or(Errno::NOENT)?;
        let open = self.opened_in(node, &mut state)?;
        let source = open.parts[0].dir.as_ref().ok_or(Errno::IO)?;
        let work = self.work()?;
        let temp = work.fresh();
        let make = || {
            work.dir().mkdir_masked(&temp, Mode::RWXU).map_err(errno)?;
            let new = work.dir().open_dir(&temp).map_err(errno)?;
            let layer = open.parts[0].place.layer;
            let (from, to) = (Entry::Fd(source.as_fd()), Entry::Fd(new.as_fd()));
            self.copy_attributes(layer, Some(layer), &from, &to)?;
            self.copy_flags(source, &new)?;
            if self.options.sync == Sync::Strict {
                fs::fsync(&new)?;
            }
            let (upper, times) = self.publishing(&name.parent)?;
            work.dir().rename(&temp, &upper, &*name.name).map_err(errno)?;
            set_times(&Entry::Fd(upper.as_fd()), &times)
        };
        make().inspect_err(|_| work.discard(&temp))?;
        state.upper = true;
        state.open = None;
        state.impure = Some(false);
        drop(state);
        self.touched(node);
        self.touched(&parent);
        Ok(())
    }

    /// The upper part of a directory that is about to get something copied up, marked, and its times.
    fn publishing(&self, parent: &Arc<Node>) -> Result<(UpperDir, rustix::fs::Timestamps)> {
        self.mark_impure(parent)?;
        let upper = self.upper_dir(parent)?;
        let times = times_of(&upper.metadata().map_err(errno)?);
        Ok((upper, times))
    }

    /// Notes in a directory that it may hold what was copied up.
    pub(super) fn mark_impure(&self, dir: &Arc<Node>) -> Result<()> {
        if !self.keeps_attributes() || self.is_impure(dir)? {
            return Ok(());
        }
        let upper = self.upper_dir(dir)?;
        let kept = KeptTimes::of(&upper)?;
        self.options
            .prefix
            .set(upper.as_fd(), IMPURE, b"y")
            .map_err(errno)?;
        kept.restore()?;
        lock(&dir.dir()?.state).impure = Some(true);
        Ok(())
    }

    fn copy_up_file(&self, node: &Arc<Node>, body: &FileBody, want: Want) -> Result<()> {
        loop {
            let mut state = self.settled(body)?;
            if let Real::Upper { .. } = &state.real {
                if want == Want::Metadata || body.kind != FileType::RegularFile {
                    return Ok(());
                }
                return self.complete(body, state);
            }
            // Its parents first: nothing is published before its parent.
            if let Some(name) = state.names.first()
                && let parent = name.parent.clone()
                && !lock(&parent.dir()?.state).upper
            {
                drop(state);
                self.copy_up_dir(&parent)?;
                continue;
            }
            let layer = match &state.real {
                Real::Lower { layer, .. } => *layer,
                Real::Upper { .. } => continue,
            };
            let regular = body.kind == FileType::RegularFile;
            let source = self.entry_in(&state, |entry| match regular {
                true => entry.open(OFlags::RDONLY | OFlags::NONBLOCK).map(OwnedFd::from),
                false => entry.pin(),
            })?;
            // The data of a metadata-only file is in a layer further down.
            let data = match regular {
                true => self.lower_data(body, &state, &source)?,
                false => None,
            };
            let gate = Arc::new(Gate::default());
            state.copying = Some(gate.clone());
            drop(state);
            let copied = self.copy(body, layer, source, data, want);
            let mut state = lock(&body.state);
            let published = copied.and_then(|copy| self.publish(&mut state, copy));
            // Its upper inode is another key of a file with several names.
            if let Ok(Some(key)) = &published {
                self.enter_key(node, &mut state, *key);
            }
            if published.is_ok() && !matches!(state.real, Real::Upper { data: Some(_), .. }) {
                body.upper_data.store(true, Ordering::Release);
            }
            state.copying = None;
            drop(state);
            gate.open();
            return published.map(drop);
        }
    }

    /// Where the data of a lower file is, when it is not in itself.
    fn lower_data(&self, body: &FileBody, state: &FileState, source: &OwnedFd) -> Result<Option<Place>> {
        let file = File::from(source.try_clone().map_err(errno)?);
        self.data_below(body, state, &file)
    }

    /// Makes the copy, without a name. With the place of its data when that is left where it is.
    fn copy(
        &self,
        body: &FileBody,
        layer: usize,
        source: OwnedFd,
        data: Option<Place>,
        want: Want,
    ) -> Result<Copy> {
        let work = self.work()?;
        let from = Entry::Fd(source.as_fd());
        let stat = from.stat()?;
        // Without an index the copy is another file than the other names lead to, with a number of its own.
        let lies = layer;
        let layer = Some(layer).filter(|_| stat.st_nlink == 1 || work.index().is_ok());
        let origin = layer.map_or_else(Vec::new, |layer| self.encode_origin(layer, source.as_fd()));
        if body.kind != FileType::RegularFile {
            let temp = work.fresh();
            let make = || {
                let dir = work.dir();
                match body.kind {
                    FileType::Symlink => {
                        let target = from.read_link()?;
                        let target: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&target);
                        dir.symlink(target, &temp).map_err(errno)?;
                    }
                    kind => dir
                        .mknod(&temp, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)
                        .map_err(errno)?,
                }
                self.copy_attributes(lies, layer, &from, &Entry::At(dir, temp.as_ref()))
            };
            make().inspect_err(|_| work.discard(&temp))?;
            return Ok(Copy {
                temporary: Temporary::Named(temp),
                origin,
                lower: stat,
                data: None,
            });
        }
        let flags = OFlags::RDWR;
        let mode = Mode::RUSR | Mode::WUSR;
        let (file, temporary) = match work::unnamed(work.dir(), flags, mode)? {
            Some(file) => (file.try_clone().map_err(errno)?, Temporary::Unnamed(file)),
            None => {
                let temp = work.fresh();
                let file = work
                    .dir()
                    .open_file(&temp, flags | OFlags::CREATE | OFlags::EXCL, mode);
                (file.map_err(errno)?, Temporary::Named(temp))
            }
        };
        let left = want == Want::Metadata && self.options.metacopy && stat.st_size > 0;
        let _long = (!left && stat.st_size > LONG).then(|| self.long());
        let given_up = || self.given_up();
        let make = || {
            let size = stat.st_size as u64;
            if left {
                fs::ftruncate(&file, size)?;
            } else if let Want::Data { up_to: 0 } = want {
                // All of it is about to go.
            } else {
                let up_to = match want {
                    Want::Data { up_to } => size.min(up_to),
                    Want::Metadata => size,
                };
                let way = self.way(&stat, &given_up);
                match &data {
                    Some(place) => copy_data(&self.open_place(place)?, &file, up_to, &way)?,
                    None => copy_data(&source, &file, up_to, &way)?,
                }
            }
            let to = Entry::Fd(file.as_fd());
            self.copy_attributes(lies, layer, &from, &to)?;
            self.copy_flags(&source, &file)?;
            if let Want::Data { up_to } = want
                && up_to < size
            {
                // With its name it will be the file that was cut, not the old one.
                let mut times = times_of(&stat);
                times.last_modification.tv_nsec = fs::UTIME_NOW as _;
                set_times(&to, &times)?;
            }
            if left {
                xattrs::set(&to, &self.options.prefix.name(METACOPY), b"")?;
            }
            match self.options.sync {
                Sync::Volatile => Ok(()),
                Sync::Auto if left || size == 0 => Ok(()),
                Sync::Auto | Sync::Strict => fs::fsync(&file),
            }
        };
        if let Err(error) = make() {
            if let Temporary::Named(temp) = &temporary {
                work.discard(temp);
            }
            return Err(error);
        }
        Ok(Copy {
            temporary,
            origin,
            lower: stat,
            data: left.then_some(data),
        })
    }

    fn way<'a>(&self, stat: &Stat, given_up: &'a dyn Fn() -> bool) -> Way<'a> {
        Way {
            block: stat.st_blksize as u64,
            durable: self.options.sync != Sync::Volatile,
            given_up,
        }
    }

    /// Gives the copy its name. Device and inode of the upper file, when other names lead to it.
    fn publish(&self, state: &mut FileState, copy: Copy) -> Result<Option<(u64, u64)>> {
        let work = self.work()?;
        // Where the data stayed, from here on: at the place that the lower file was at.
        let data = match &copy.data {
            None => None,
            Some(Some(place)) => Some(Box::new(place.clone())),
            Some(None) => Some(Box::new(self.lower_place(state)?)),
        };
        let indexed = work.index().is_ok() && copy.lower.st_nlink > 1 && !copy.origin.is_empty();
        let indexed = indexed && self.count_links(&copy)?;
        let place = |to: &Dir, name: &std::ffi::OsStr| match &copy.temporary {
            Temporary::Unnamed(file) => work::link_unnamed(file, to, name),
            Temporary::Named(temp) => work.dir().rename_noreplace(temp, to, name).map_err(errno),
        };
        let Some(name) = state.names.first().cloned() else {
            // It lost its last name before: only who has it open will see it.
            let anchor = match copy.temporary {
                Temporary::Unnamed(file) => Entry::Fd(file.as_fd()).pin()?,
                Temporary::Named(temp) => {
                    let anchor = Entry::At(work.dir(), temp.as_ref()).pin()?;
                    work.discard(&temp);
                    anchor
                }
            };
            state.real = Real::Upper {
                via: Via::Anchor(anchor),
                data,
            };
            return Ok(None);
        };
        let mut key = None;
        let mut publish = || -> Result<Via> {
            let (upper, times) = self.publishing(&name.parent)?;
            let via = if indexed {
                let entry = index::entry_name(&copy.origin);
                place(work.index()?, &entry)?;
                let indexed = Indexed {
                    entry: entry.into(),
                    nlink: copy.lower.st_nlink as i64,
                    lower_nlink: copy.lower.st_nlink as i64,
                };
                let linked = self.link_from_index(&indexed, &upper, &name.name);
                if linked.is_err() {
                    // Another attempt must find it free.
                    let _ = self.remove_entry(&indexed);
                }
                linked?;
                self.nlink_by_upper(&indexed)?;
                let stat = work.index()?.stat(&*indexed.entry).map_err(errno)?;
                key = Some((stat.st_dev, stat.st_ino));
                Via::Index(Box::new(indexed))
            } else {
                place(&upper, &name.name)?;
                Via::Name
            };
            set_times(&Entry::Fd(upper.as_fd()), &times)?;
            if self.options.sync == Sync::Strict {
                fs::fsync(&*upper)?;
            }
            self.touched(&name.parent);
            Ok(via)
        };
        let via = publish().inspect_err(|_| {
            if let Temporary::Named(temp) = &copy.temporary {
                work.discard(temp);
            }
        })?;
        state.real = Real::Upper { via, data };
        Ok(key)
    }

    /// Whether an upper file says that its data is below.
    pub(super) fn is_metadata_only(&self, body: &FileBody, state: &FileState) -> Result<bool> {
        if body.kind != FileType::RegularFile || self.options.prefix == crate::Prefix::User {
            return Ok(false);
        }
        let attribute = self.options.prefix.name(METACOPY);
        let mark = self.entry_in(state, |entry| xattrs::get(&entry, &attribute))?;
        Ok(mark.is_some())
    }

    /// States on a copy that is about to enter the index that it has as many links as the lower file. `false` where
    /// that cannot be stated: only regular files take attributes of the prefix `user.`.
    fn count_links(&self, copy: &Copy) -> Result<bool> {
        let entry = match &copy.temporary {
            Temporary::Unnamed(file) => Entry::Fd(file.as_fd()),
            Temporary::Named(temp) => Entry::At(self.work()?.dir(), temp.as_ref()),
        };
        match xattrs::set(&entry, &self.options.prefix.name(NLINK), index::ALL_LINKS) {
            Err(Errno::PERM) if self.options.prefix == crate::Prefix::User => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Brings the data of a metadata-only upper file into it: all of it, even if some is about to be cut off. Half of
    /// it would be neither the old file nor the new one. A crash in the middle leaves the old content, and, as with the
    /// kernel's driver, the time of the crash as that of its last change.
    fn complete(&self, body: &FileBody, mut state: std::sync::MutexGuard<'_, FileState>) -> Result<()> {
        let Real::Upper { data, .. } = &state.real else {
            return Ok(());
        };
        let place = match data {
            Some(place) => (**place).clone(),
            None => {
                // It may be one that an earlier server, or the kernel's driver, left so. Blocks of its own say nothing:
                // that server may have died while it brought the data.
                if !self.is_metadata_only(body, &state)? {
                    return Ok(());
                }
                let file = self.entry_in(&state, |entry| entry.open(OFlags::RDONLY | OFlags::NONBLOCK))?;
                match self.data_below(body, &state, &file)? {
                    Some(place) => place,
                    None => return Ok(()),
                }
            }
        };
        let gate = Arc::new(Gate::default());
        let upper = self.entry_in(&state, |entry| entry.open(OFlags::RDWR | OFlags::NONBLOCK))?;
        state.copying = Some(gate.clone());
        drop(state);
        let fill = || {
            let stat = fs::fstat(&upper)?;
            let _long = (stat.st_size > LONG).then(|| self.long());
            let given_up = || self.given_up();
            let way = self.way(&stat, &given_up);
            let copied = copy_data(self.open_place(&place)?, &upper, stat.st_size as u64, &way);
            if copied.is_ok() && way.durable {
                fs::fsync(&upper)?;
            }
            if copied.is_err() {
                // What had room is read by nobody.
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let _ = fs::fallocate(&upper, flags, 0, stat.st_size as u64);
            }
            // Whether it was copied or not, nobody has changed it.
            set_times(&Entry::Fd(upper.as_fd()), &times_of(&stat))?;
            copied?;
            let prefix = self.options.prefix;
            match fs::fremovexattr(&upper, prefix.name(METACOPY)) {
                Ok(()) | Err(Errno::NODATA) => Ok(()),
                Err(error) => Err(error),
            }
        };
        let filled = fill();
        let mut state = lock(&body.state);
        if filled.is_ok() {
            if let Real::Upper { data, .. } = &mut state.real {
                *data = None;
            }
            body.upper_data.store(true, Ordering::Release);
        }
        state.copying = None;
        drop(state);
        gate.open();
        filled
    }

    /// Owner, attributes, origin, mode and times, in an order in which none takes another away: a change of owner
    /// clears capabilities and set-id bits, and setting an ACL changes the mode. `lies`: the layer of `from`; `layer`
    /// too, when `from` is to be the origin.
    pub(super) fn copy_attributes(
        &self,
        lies: usize,
        layer: Option<usize>,
        from: &Entry<'_>,
        to: &Entry<'_>,
    ) -> Result<()> {
        let mut stat = from.stat()?;
        self.with_owner_in(lies, from, &mut stat)?;
        let own = to.stat()?;
        let kept = self.kept_owners().is_some();
        if !kept && (own.st_uid, own.st_gid) != (stat.st_uid, stat.st_gid) {
            chown(to, Some(stat.st_uid), Some(stat.st_gid))?;
        }
        for name in xattrs::list_raw(from)? {
            if self.is_private(&name) || kept && name.as_encoded_bytes().starts_with(ACLS) {
                continue;
            }
            let value = match xattrs::get_raw(from, &name) {
                Err(Errno::NODATA) => continue,
                other => other?,
            };
            match xattrs::set_raw(to, &name, &value, fs::XattrFlags::empty()) {
                Err(Errno::OPNOTSUPP) if !must_copy(&name) => {}
                other => other?,
            }
        }
        if let Some(layer) = layer.filter(|_| self.keeps_attributes()) {
            let origin = match from {
                Entry::Fd(fd) => self.encode_origin(layer, *fd),
                Entry::At(..) => self.encode_origin(layer, from.pin()?.as_fd()),
            };
            match xattrs::set(to, &self.options.prefix.name(ORIGIN), &origin) {
                // Only regular files and directories take attributes of the prefix `user.`.
                Err(Errno::PERM) if self.options.prefix == crate::Prefix::User => {}
                other => other?,
            }
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kept {
            self.write_owner(to, kind, Override::of(&stat))?;
        } else if kind != FileType::Symlink {
            chmod(to, stat.st_mode & 0o7777)?;
        }
        set_times(to, &times_of(&stat))
    }
}

/// A copy that has no name yet.
struct Copy {
    temporary: Temporary,
    /// The value of its `origin`.
    origin: Vec<u8>,
    /// Status of what was copied.
    lower: Stat,
    /// `Some` when its data was left below; with the place when that is not the lower file itself.
    data: Option<Option<Place>>,
}

/// Attributes that a file must not be without: access rules and security labels.
fn must_copy(name: &std::ffi::OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(ACLS) || name.starts_with(b"security.")
}
