//! Finding a name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, RwLock};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use smallvec::smallvec;

use super::node::{Body, DirBody, DirState, FileBody, FileState, Name, Node, Real, Via, lock, read};
use super::place::Entry;
use super::tree::{Held, Key};
use super::{DirEntry, Found, NodeId, Overlay, Result, errno};
use crate::stack::{Found as Looked, OpenMerged, Place};
use crate::xattr::IMPURE;

impl Overlay {
    /// Looks `name` up in a directory. The front end holds one more reference to what is found.
    pub fn lookup(&self, parent: NodeId, name: &OsStr) -> Result<Found> {
        self.check(name)?;
        let parent = self.nodes.get(parent)?;
        let (node, stat) = self.child(&parent, name, 0)?.ok_or(Errno::NOENT)?;
        self.found(node, stat)
    }

    /// As [`Overlay::lookup`], of an entry that a listing showed. What is above its layer had no such name then. The upper
    /// layer may have it by now, and is looked into; lower ones do not change.
    pub fn lookup_listed(&self, parent: NodeId, entry: &DirEntry<'_>) -> Result<Found> {
        self.check(entry.name)?;
        let parent = self.nodes.get(parent)?;
        let (node, stat) = match self.child_ahead(&parent, entry)? {
            Some(found) => found,
            None => self
                .child(&parent, entry.name, entry.layer)?
                .ok_or(Errno::NOENT)?,
        };
        self.found(node, stat)
    }

    /// Node and status of something that the front end holds a reference to. `stat`: of the real file, just read.
    pub(super) fn found(&self, node: Arc<Node>, stat: Option<Stat>) -> Result<Found> {
        match self.attr_from(&node, stat) {
            Ok(attr) => Ok(Found { node: node.id, attr }),
            Err(errno) => {
                self.forget(node.id, 1);
                Err(errno)
            }
        }
    }

    /// The node under `name`, made when it was not known, with one more reference; and the status of its real file,
    /// when that was read. No lower layer above `layer` has the name.
    fn child(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        layer: usize,
    ) -> Result<Option<(Arc<Node>, Option<Stat>)>> {
        let dir = parent.dir()?;
        if let (Some(node), _) = self.find(dir, name) {
            return Ok(Some((node, None)));
        }
        // Nobody changes the directory while it is looked at.
        let _listing = read(&dir.listing);
        self.child_in(parent, name, layer)
    }

    /// As [`Overlay::child`], where the directory's lock is held.
    fn child_in(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        layer: usize,
    ) -> Result<Option<(Arc<Node>, Option<Stat>)>> {
        loop {
            let (known, version) = self.find(parent.dir()?, name);
            if let Some(node) = known {
                return Ok(Some((node, None)));
            }
            let Some((open, looked)) = self.look_from(parent, name, layer)? else {
                return Ok(None);
            };
            let entered = self.adopt(parent, name, version, &open, looked)?;
            if entered.is_some() {
                return Ok(entered);
            }
        }
    }

    /// The node under a name of a directory whose lock is held.
    pub(super) fn child_held(&self, parent: &Arc<Node>, name: &OsStr) -> Result<Option<Held<'_>>> {
        let found = self.child_in(parent, name, 0)?;
        Ok(found.map(|(node, _)| self.held(node)))
    }

    /// What the layers have under a name.
    pub(super) fn look(&self, parent: &Arc<Node>, name: &OsStr) -> Result<Option<(Arc<OpenMerged>, Looked)>> {
        self.look_from(parent, name, 0)
    }

    /// As [`Overlay::look`], of a name that no lower layer above `layer` has.
    fn look_from(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        layer: usize,
    ) -> Result<Option<(Arc<OpenMerged>, Looked)>> {
        let open = self.opened(parent)?;
        let may = |part: usize| part >= layer || self.is_upper(part);
        let looked = self.stack.child_among(&open, name, may).map_err(errno)?;
        Ok(looked.map(|looked| (open, looked)))
    }

    /// What `st_ino` shows for something that was looked up.
    pub(super) fn ino_of(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        open: &OpenMerged,
        looked: &Looked,
    ) -> Result<u64> {
        match looked {
            Looked::Dir(merged) => {
                let first = &merged.parts[0];
                match merged.parts.get(1) {
                    Some(below) if self.is_upper(first.layer) => {
                        let stat = self.stack.open_place(below).and_then(|dir| dir.metadata());
                        Ok(self.devices.ino(below.layer, stat.map_err(errno)?.st_ino))
                    }
                    _ => Ok(self.devices.ino(first.layer, merged.stat.st_ino)),
                }
            }
            Looked::File { stat, place } if self.is_upper(place.layer) => {
                if !self.is_impure(parent)? {
                    return Ok(self.devices.ino(0, stat.st_ino));
                }
                match &open.parts[0].dir {
                    Some(dir) => Ok(self.upper_ino(&Entry::At(dir, name), stat)),
                    None => Err(Errno::IO),
                }
            }
            Looked::File { stat, place } => Ok(self.devices.ino(place.layer, stat.st_ino)),
        }
    }

    /// Whether the upper part of a directory may hold what was copied up.
    pub(super) fn is_impure(&self, dir: &Arc<Node>) -> Result<bool> {
        let mut state = lock(&dir.dir()?.state);
        if !state.upper {
            return Ok(false);
        }
        if let Some(known) = state.impure {
            return Ok(known);
        }
        let upper = self.upper_dir_in(dir, &mut state)?;
        let mark = self
            .options
            .prefix
            .get(std::os::fd::AsFd::as_fd(&*upper), IMPURE)
            .map_err(errno)?;
        let impure = mark.as_deref() == Some(b"y");
        state.impure = Some(impure);
        Ok(impure)
    }

    /// Makes the node of something that was looked up, or finds the node of another of its names. With a reference; none
    /// if it must be looked up again. A new node comes with the status that was read of it; nobody can have changed it
    /// since.
    fn adopt(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        version: u64,
        open: &OpenMerged,
        looked: Looked,
    ) -> Result<Option<(Arc<Node>, Option<Stat>)>> {
        let named = Name {
            parent: parent.clone(),
            name: Arc::from(name),
        };
        let ino = self.ino_of(parent, name, open, &looked)?;
        let (stat, entered) = match looked {
            Looked::Dir(mut merged) => {
                let upper = self.is_upper(merged.parts[0].layer);
                if upper {
                    merged.parts.remove(0);
                }
                let body = |named| dir_body(Some(named), upper, merged.parts);
                (merged.stat, self.enter_found(&named, version, ino, &[], body)?)
            }
            Looked::File { stat, place } => {
                let upper = self.is_upper(place.layer);
                if stat.st_nlink > 1 && (upper || self.options.index) {
                    return self.adopt_linked(&named, version, ino, open, stat, place);
                }
                let kind = FileType::from_raw_mode(stat.st_mode);
                let real = match upper {
                    true => Real::BY_NAME,
                    false => lower_real(open, place, name),
                };
                let body = |named| file_body(kind, upper, named, real, Vec::new());
                (stat, self.enter_found(&named, version, ino, &[], body)?)
            }
        };
        Ok(entered.map(|(node, new)| (node, new.then_some(stat))))
    }

    /// As [`Overlay::adopt`], of a file with several names. Looked up and entered under one lock, the index too: two
    /// names of one file must not become two nodes, and one that was copied up meanwhile must not be taken for a lower
    /// one.
    fn adopt_linked(
        &self,
        named: &Name,
        version: u64,
        mut ino: u64,
        open: &OpenMerged,
        stat: Stat,
        place: Place,
    ) -> Result<Option<(Arc<Node>, Option<Stat>)>> {
        let _linking = lock(&self.linking);
        let mut upper = self.is_upper(place.layer);
        let indexed = match self.options.index && self.is_writable() {
            false => None,
            true if upper => self.indexed_upper(open, &named.name, &stat)?,
            true => self.indexed_lower(&place)?,
        };
        let mut keys = vec![(stat.st_dev, stat.st_ino)];
        let real = match indexed {
            Some(found) => {
                upper = true;
                ino = self.devices.ino(found.layer, found.lower.1);
                keys = vec![found.lower, found.entry];
                Real::Upper {
                    via: Via::Index(Box::new(found.indexed)),
                    data: None,
                }
            }
            None if upper => Real::BY_NAME,
            // Not by a name: its names may be in several layers, and come and go.
            None => Real::Lower {
                layer: place.layer,
                path: Some(place.path.into_boxed_path()),
            },
        };
        if let Some(node) = self.enter_linked(named, version, &keys)? {
            return Ok(Some((node, None)));
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let body = |named| file_body(kind, upper, named, real, keys.clone());
        let entered = self.enter_found(named, version, ino, &keys, body)?;
        Ok(entered.map(|(node, new)| (node, new.then_some(stat))))
    }
}

pub(super) fn dir_body(name: Option<Name>, upper: bool, lower: Vec<Place>) -> Body {
    Body::Dir(Box::new(DirBody {
        state: Mutex::new(DirState {
            name,
            upper,
            lower: lower.into(),
            impure: None,
            open: None,
            removed: false,
        }),
        listing: RwLock::default(),
        protection: Default::default(),
        known: RwLock::default(),
    }))
}

pub(super) fn file_body(kind: FileType, upper: bool, name: Name, real: Real, keys: Vec<Key>) -> Body {
    Body::File(FileBody {
        kind,
        upper_data: AtomicBool::new(upper),
        incapable: AtomicBool::new(false),
        protection: Default::default(),
        opened: AtomicBool::new(false),
        state: Mutex::new(FileState {
            names: smallvec![name],
            real,
            keys,
            copying: None,
        }),
    })
}

/// A lower file is reached through its parent's part, unless a redirect led past it.
fn lower_real(open: &OpenMerged, place: Place, name: &OsStr) -> Real {
    let beside = |part: &crate::stack::OpenPart| {
        let dir = part.place.path.as_os_str().as_bytes();
        let rest = place.path.as_os_str().as_bytes().strip_prefix(dir);
        let rest = match dir.is_empty() {
            true => rest,
            false => rest.and_then(|rest| rest.strip_prefix(b"/")),
        };
        part.place.layer == place.layer && rest == Some(name.as_bytes())
    };
    let path = (!open.parts.iter().any(beside)).then(|| place.path.into_boxed_path());
    Real::Lower {
        layer: place.layer,
        path,
    }
}
