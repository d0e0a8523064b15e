//! Making things: files, directories, links, and files without a name.
//!
//! What is made where the upper directory has nothing is made in place, in its maker's name, so that the file system
//! itself sees to owner, group, mode and default ACL. What replaces a whiteout is made in the work directory first.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use smallvec::SmallVec;
use sys::Dir;
use sys::creds::Maker;

use super::copy_up::Want;
use super::list::Listing;
use super::lookup::{dir_body, file_body};
use super::node::{Body, FileBody, FileState, Name, Node, Real, Via, lock, write};
use super::place::{Entry, UpperDir};
use super::work::{is_whiteout, link_unnamed};
use super::{Caller, Found, NodeId, OpenFile, Overlay, Result, errno, xattrs};
use crate::stack::Found as Looked;

/// The default ACL of a directory.
const DEFAULT_ACL: &str = "system.posix_acl_default";

impl Overlay {
    /// In the name of `caller`; in our own where owners are kept in an attribute.
    fn maker(&self, caller: Caller) -> Result<Option<Maker>> {
        if self.kept_owners().is_some() {
            return Ok(None);
        }
        let ids = &self.options.ids;
        let uid = ids.uid_to_layer(caller.uid).ok_or(Errno::OVERFLOW)?;
        let gid = ids.gid_to_layer(caller.gid).ok_or(Errno::OVERFLOW)?;
        let group = caller.group.and_then(|group| ids.gid_to_layer(group));
        Maker::assume(uid, gid, group, caller.umask)
            .map(Some)
            .map_err(errno)
    }

    /// Makes something under a name that the view does not have. `make` makes it in a directory under a name, and may
    /// be called twice.
    fn make<R>(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        is_dir: bool,
        make: impl Fn(&Dir, &OsStr) -> Result<R>,
    ) -> Result<(UpperDir, R)> {
        self.work()?;
        self.check_new(name)?;
        let dir = parent.dir()?;
        self.alive(dir)?;
        self.mutable(parent)?;
        if self.known_ino(dir, name).is_some() {
            return Err(Errno::EXIST);
        }
        self.copy_up(parent, Want::Metadata)?;
        // With a single part the file system finds out by itself.
        if self.opened(parent)?.parts.len() > 1 && self.look(parent, name)?.is_some() {
            return Err(Errno::EXIST);
        }
        let upper = self.upper_dir(parent)?;
        match make(&upper, name) {
            Err(Errno::EXIST) if is_whiteout(&upper, name, self.options.format())? == Some(true) => {
                let made = self.replace_whiteout(&upper, parent, name, is_dir, make)?;
                Ok((upper, made))
            }
            other => other.map(|made| (upper, made)),
        }
    }

    fn replace_whiteout<R>(
        &self,
        upper: &Dir,
        parent: &Arc<Node>,
        name: &OsStr,
        is_dir: bool,
        make: impl Fn(&Dir, &OsStr) -> Result<R>,
    ) -> Result<R> {
        let work = self.work()?;
        let (stage, temp) = (work.fresh(), work.fresh());
        let place = || {
            let made = match self.stage(upper, &stage)? {
                None => make(work.dir(), OsStr::new(&temp))?,
                Some(dir) => {
                    let made = make(&dir, OsStr::new(&temp))?;
                    dir.rename(&temp, work.dir(), &temp).map_err(errno)?;
                    made
                }
            };
            if is_dir {
                let dir = work.dir().open_dir(&temp).map_err(errno)?;
                self.hide_below(&dir, parent, name)?;
                work.dir().exchange(&temp, upper, name).map_err(errno)?;
            } else {
                work.dir().rename(&temp, upper, name).map_err(errno)?;
            }
            Ok(made)
        };
        let placed = place();
        if is_dir || placed.is_err() {
            work.discard(&temp);
        }
        work.discard(&stage);
        placed
    }

    /// A directory in the work directory from which what is made inherits as from `upper`: its group and default ACL.
    /// `None` when there is nothing to inherit.
    fn stage(&self, upper: &Dir, name: &str) -> Result<Option<Dir>> {
        if self.kept_owners().is_some() {
            return Ok(None);
        }
        let stat = upper.metadata().map_err(errno)?;
        let acl = xattrs::get(&Entry::Fd(upper.as_fd()), DEFAULT_ACL)?;
        if stat.st_mode & 0o2000 == 0 && acl.is_none() {
            return Ok(None);
        }
        let work = self.work()?;
        work.dir().mkdir_masked(name, Mode::RWXU).map_err(errno)?;
        let dir = work.dir().open_dir(name).map_err(errno)?;
        let entry = Entry::Fd(dir.as_fd());
        super::attr::chown(&entry, None, Some(stat.st_gid))?;
        super::attr::chmod(&entry, stat.st_mode & 0o7777 | 0o700)?;
        if let Some(acl) = acl {
            xattrs::set(&entry, DEFAULT_ACL, &acl)?;
        }
        Ok(Some(dir))
    }

    /// Enters what was made, with a reference for the front end.
    fn made(
        &self,
        parent: &Arc<Node>,
        listing: &mut Option<Listing>,
        name: &OsStr,
        stat: Stat,
    ) -> Result<Arc<Node>> {
        let named = Name {
            parent: parent.clone(),
            name: Arc::from(name),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut ino = self.devices.ino(0, stat.st_ino);
        let mut lower = Vec::new();
        if kind == FileType::Directory
            && !self.keeps_attributes()
            && let Some((open, looked)) = self.look(parent, name)?
        {
            // It merges with what its whiteouts hide.
            ino = self.ino_of(parent, name, &open, &looked)?;
            if let Looked::Dir(merged) = looked {
                lower.extend(merged.parts.into_iter().skip(1));
            }
        }
        let node = self.enter_made(&named, ino, |named| match kind {
            FileType::Directory => dir_body(Some(named), true, lower),
            kind => file_body(kind, true, named, Real::BY_NAME, Vec::new()),
        })?;
        if let Body::File(file) = &node.body {
            file.incapable.store(true, Ordering::Relaxed);
        }
        node.protection().none();
        self.list_added(listing, name, &node);
        Ok(node)
    }

    fn make_entry(
        &self,
        parent: NodeId,
        name: &OsStr,
        is_dir: bool,
        mode: Mode,
        caller: Caller,
        make: impl Fn(&Dir, &OsStr) -> Result<()>,
    ) -> Result<Found> {
        let parent = self.nodes.get(parent)?;
        let mut listing = write(&parent.dir()?.listing);
        let (upper, ()) = self.make(&parent, name, is_dir, |dir, name| {
            let _maker = self.maker(caller)?;
            make(dir, name)
        })?;
        if self.kept_owners().is_some() {
            self.owner_of_new(&parent, &Entry::At(&upper, name), mode.as_raw_mode(), caller)?;
        }
        let stat = upper.stat(name).map_err(errno)?;
        let node = self.made(&parent, &mut listing, name, stat)?;
        drop(listing);
        self.found(node, Some(stat))
    }

    /// Makes a regular file, device, fifo or socket; `mode` has its type. The overlay's own whiteout cannot be made
    /// through it (`EPERM`).
    pub fn mknod(&self, parent: NodeId, name: &OsStr, mode: u32, rdev: u64, caller: Caller) -> Result<Found> {
        let kind = FileType::from_raw_mode(mode);
        if kind == FileType::CharacterDevice && rdev == 0 {
            return Err(Errno::PERM);
        }
        let mode = Mode::from_raw_mode(mode & 0o7777);
        self.make_entry(parent, name, false, mode, caller, |dir, name| {
            fs::mknodat(dir, name, kind, mode, rdev)
        })
    }

    /// Makes a directory.
    pub fn mkdir(&self, parent: NodeId, name: &OsStr, mode: u32, caller: Caller) -> Result<Found> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        self.make_entry(parent, name, true, mode, caller, |dir, name| {
            fs::mkdirat(dir, name, mode)
        })
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, parent: NodeId, name: &OsStr, target: &OsStr, caller: Caller) -> Result<Found> {
        let mode = Mode::from_raw_mode(0o777);
        let caller = Caller { umask: 0, ..caller };
        self.make_entry(parent, name, false, mode, caller, |dir, name| {
            fs::symlinkat(target, dir, name)
        })
    }

    /// Makes a regular file and opens it.
    pub fn create(
        &self,
        parent: NodeId,
        name: &OsStr,
        flags: OFlags,
        mode: u32,
        caller: Caller,
    ) -> Result<(Found, OpenFile)> {
        let parent = self.nodes.get(parent)?;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let real =
            (flags & OFlags::RWMODE) | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut listing = write(&parent.dir()?.listing);
        let (upper, file) = self.make(&parent, name, false, |dir, name| {
            let _maker = self.maker(caller)?;
            fs::openat(dir, name, real, mode)
        })?;
        if self.kept_owners().is_some() {
            self.owner_of_new(&parent, &Entry::At(&upper, name), mode.as_raw_mode(), caller)?;
        }
        let stat = fs::fstat(&file)?;
        let node = self.made(&parent, &mut listing, name, stat)?;
        drop(listing);
        let open = OpenFile::new(node.clone(), flags, File::from(file), true);
        Ok((self.found(node, Some(stat))?, open))
    }

    /// Makes a regular file without a name, which a [`Overlay::link`] may give one (not with `O_EXCL`).
    pub fn tmpfile(
        &self,
        parent: NodeId,
        flags: OFlags,
        mode: u32,
        caller: Caller,
    ) -> Result<(Found, OpenFile)> {
        self.work()?;
        let parent = self.nodes.get(parent)?;
        self.mutable(&parent)?;
        self.copy_up(&parent, Want::Metadata)?;
        let upper = self.upper_dir(&parent)?;
        let real = (flags & (OFlags::RWMODE | OFlags::EXCL)) | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = {
            let _maker = self.maker(caller)?;
            fs::openat(&*upper, ".", real, Mode::from_raw_mode(mode & 0o7777))?
        };
        let anchor = Entry::Fd(file.as_fd()).pin_again()?;
        if self.kept_owners().is_some() {
            self.owner_of_new(&parent, &Entry::Fd(file.as_fd()), mode & 0o7777, caller)?;
        }
        let stat = fs::fstat(&file)?;
        let body = Body::File(FileBody {
            kind: FileType::RegularFile,
            upper_data: AtomicBool::new(true),
            incapable: AtomicBool::new(true),
            protection: Default::default(),
            opened: AtomicBool::new(false),
            state: Mutex::new(FileState {
                names: SmallVec::new(),
                real: Real::Upper {
                    via: Via::Anchor(anchor),
                    data: None,
                },
                keys: Vec::new(),
                copying: None,
            }),
        });
        let node = self.nodes.insert(self.devices.ino(0, stat.st_ino), body);
        node.refer();
        let open = OpenFile::new(node.clone(), flags, File::from(file), true);
        Ok((self.found(node, Some(stat))?, open))
    }

    /// Gives a file another name.
    pub fn link(&self, node: NodeId, new_parent: NodeId, new_name: &OsStr) -> Result<Found> {
        self.work()?;
        let node = self.nodes.get(node)?;
        let parent = self.nodes.get(new_parent)?;
        let body = node.file().map_err(|_| Errno::PERM)?;
        self.unprotected(&node)?;
        // A metadata-only file would need a redirect for its new name; its data is brought instead.
        self.copy_up(&node, Want::ALL)?;
        let mut listing = write(&parent.dir()?.listing);
        let mut state = lock(&body.state);
        if let Real::Upper {
            via: Via::Index(indexed),
            ..
        } = &state.real
        {
            self.nlink_by_upper(indexed)?;
        }
        self.copy_up(&parent, Want::Metadata)?;
        let stat = self.entry_in(&state, |entry| entry.stat())?;
        if node.ino != self.devices.ino(0, stat.st_ino) {
            self.mark_impure(&parent)?;
        }
        self.make(&parent, new_name, false, |dir, name| {
            self.entry_in(&state, |entry| match &entry {
                Entry::At(from, old) => fs::linkat(*from, *old, dir, name, AtFlags::empty()),
                Entry::Fd(fd) => link_unnamed(fd, dir, name),
            })
        })?;
        let nameless = state.names.is_empty();
        if let Real::Upper { via, .. } = &mut state.real {
            match via {
                Via::Index(indexed) => indexed.nlink += 1,
                Via::Anchor(_) if nameless => *via = Via::Name,
                Via::Anchor(_) | Via::Name => {}
            }
        }
        let named = Name {
            parent: parent.clone(),
            name: Arc::from(new_name),
        };
        self.enter_link(&node, &mut state, named, (stat.st_dev, stat.st_ino))?;
        drop(state);
        self.list_added(&mut listing, new_name, &node);
        drop(listing);
        self.found(node, None)
    }
}
