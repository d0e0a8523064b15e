//! Finding a name, and forgetting it again.

use std::collections::hash_map::Entry as Slot;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, RwLock};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use smallvec::smallvec;

use super::node::{
    Body, Children, DirBody, DirState, FileBody, FileState, Name, Node, Real, Via, lock, read, write,
};
use super::place::Entry;
use super::{Found, NodeId, Overlay, ROOT, Result, errno};
use crate::stack::{Found as Looked, OpenMerged, Place};
use crate::xattr::IMPURE;

impl Overlay {
    /// Looks `name` up in a directory. The front end holds one more reference to what is found.
    pub fn lookup(&self, parent: NodeId, name: &OsStr) -> Result<Found> {
        self.lookup_listed(parent, name, 0)
    }

    /// As [`Overlay::lookup`], of a name that a listing showed, with the layer that it told of it. What is above that
    /// layer had no such name then. The upper layer may have it by now, and is looked into; lower ones do not change.
    pub fn lookup_listed(&self, parent: NodeId, name: &OsStr, layer: usize) -> Result<Found> {
        self.check(name)?;
        let parent = self.nodes.get(parent)?;
        let (node, stat) = self.child(&parent, name, layer)?.ok_or(Errno::NOENT)?;
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

    /// The front end gives `count` references back. A node without any is forgotten.
    pub fn forget(&self, node: NodeId, count: u64) {
        if node == ROOT {
            return;
        }
        if let Ok(node) = self.nodes.get(node)
            && node.release(count) == 0
        {
            self.drop_node(node);
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
        let refer = |node: &Arc<Node>| {
            node.refer();
            node.clone()
        };
        loop {
            let version = {
                let children = read(&dir.children);
                if let Some(node) = children.nodes.get(name) {
                    return Ok(Some((refer(node), None)));
                }
                children.version
            };
            let looked = self.look_from(parent, name, layer)?;
            let mut children = write(&dir.children);
            if let Some(node) = children.nodes.get(name) {
                return Ok(Some((refer(node), None)));
            }
            if children.version != version {
                continue;
            }
            return Ok(match looked {
                None => None,
                Some((open, looked)) => {
                    let (node, stat) = self.adopt(parent, &mut children, name, &open, looked)?;
                    Some((node, stat))
                }
            });
        }
    }

    /// As [`Overlay::child`], where the directory's children are held.
    pub(super) fn child_in(
        &self,
        parent: &Arc<Node>,
        children: &mut Children,
        name: &OsStr,
    ) -> Result<Option<Arc<Node>>> {
        if let Some(node) = children.nodes.get(name) {
            return Ok(Some(node.clone()));
        }
        match self.look(parent, name)? {
            None => Ok(None),
            Some((open, looked)) => {
                let (node, _) = self.adopt(parent, children, name, &open, looked)?;
                // Nobody drops it while the directory's children are held.
                node.release(1);
                Ok(Some(node))
            }
        }
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

    /// Makes the node of something that was looked up, or finds the node of another of its names. With a reference,
    /// so that it is not forgotten by the one who just gives back the last. A new node comes with the status that was
    /// read of it; nobody can have changed it since.
    fn adopt(
        &self,
        parent: &Arc<Node>,
        children: &mut Children,
        name: &OsStr,
        open: &OpenMerged,
        looked: Looked,
    ) -> Result<(Arc<Node>, Option<Stat>)> {
        let named = Name {
            parent: parent.clone(),
            name: Arc::from(name),
        };
        let mut ino = self.ino_of(parent, name, open, &looked)?;
        let status = match &looked {
            Looked::Dir(merged) => merged.stat,
            Looked::File { stat, .. } => *stat,
        };
        let node = match looked {
            Looked::Dir(mut merged) => {
                let upper = self.is_upper(merged.parts[0].layer);
                if upper {
                    merged.parts.remove(0);
                }
                self.nodes
                    .insert(ino, dir_body(Some(named.clone()), upper, merged.parts))
            }
            Looked::File { stat, place } => {
                let kind = FileType::from_raw_mode(stat.st_mode);
                let mut upper = self.is_upper(place.layer);
                if stat.st_nlink < 2 || !(upper || self.options.index) {
                    let real = if upper {
                        Real::BY_NAME
                    } else {
                        lower_real(open, place, name)
                    };
                    self.nodes
                        .insert(ino, file_body(kind, upper, named.clone(), real))
                } else {
                    // Looked up and entered under one lock, the index too: two names of one file must not become two
                    // nodes, and one that was copied up meanwhile must not be taken for a lower one.
                    let mut links = lock(&self.links);
                    let indexed = match self.options.index && self.is_writable() {
                        false => None,
                        true if upper => self.indexed_upper(open, name, &stat)?,
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
                    match keys.iter().find_map(|key| links.get(key).cloned()) {
                        Some(known) => {
                            lock(&known.file()?.state).names.push(named.clone());
                            known.refer();
                            children.nodes.insert(named.name, known.clone());
                            return Ok((known, None));
                        }
                        None => {
                            let node = self
                                .nodes
                                .insert(ino, file_body(kind, upper, named.clone(), real));
                            links.extend(keys.iter().map(|key| (*key, node.clone())));
                            lock(&node.file()?.state).keys = keys;
                            node
                        }
                    }
                }
            }
        };
        node.refer();
        children.nodes.insert(named.name, node.clone());
        Ok((node, Some(status)))
    }

    /// Enters something new under a name.
    pub(super) fn enter(
        &self,
        parent: &Arc<Node>,
        children: &mut Children,
        name: &OsStr,
        stat: &Stat,
        body: impl FnOnce(Name) -> Body,
    ) -> Arc<Node> {
        let named = Name {
            parent: parent.clone(),
            name: Arc::from(name),
        };
        let node = self
            .nodes
            .insert(self.devices.ino(0, stat.st_ino), body(named.clone()));
        self.list_added(children, name, &node);
        children.version += 1;
        children.nodes.insert(named.name, node.clone());
        node
    }

    /// Lets a node go that nobody holds a reference to.
    pub(super) fn settle(&self, node: Arc<Node>) {
        if !node.is_referred() {
            self.drop_node(node);
        }
    }

    fn drop_node(&self, node: Arc<Node>) {
        let mut parents = Vec::new();
        // One name after the other; a rename may move it meanwhile.
        while let Some(name) = self.a_name(&node) {
            let Ok(dir) = name.parent.dir() else { return };
            let mut children = write(&dir.children);
            if !self.is_idle(&node) {
                return;
            }
            if let Slot::Occupied(slot) = children.nodes.entry(name.name.clone())
                && Arc::ptr_eq(slot.get(), &node)
            {
                slot.remove();
                // Who looked before and enters it again must look again.
                children.version += 1;
                node.lose_name(&name);
                parents.push(name.parent.clone());
            }
        }
        if let Body::File(file) = &node.body {
            // No new reference through the table, once the keys are gone.
            let mut links = lock(&self.links);
            let mut state = lock(&file.state);
            // Through the table another of its names may have found it since its last was taken.
            if node.is_referred() || !state.names.is_empty() {
                return;
            }
            for key in state.keys.drain(..) {
                links.remove(&key);
            }
        } else if !self.is_idle(&node) {
            return;
        }
        self.nodes.remove(node.id);
        for parent in parents {
            self.settle(parent);
        }
    }

    /// A name by which a node may still be found.
    fn a_name(&self, node: &Arc<Node>) -> Option<Name> {
        if !self.is_idle(node) {
            return None;
        }
        match &node.body {
            Body::Dir(dir) => lock(&dir.state).name.clone(),
            Body::File(file) => lock(&file.state).names.first().cloned(),
        }
    }

    /// Whether nobody needs a node: no front end, and no node beneath it, which reaches its file through it.
    fn is_idle(&self, node: &Arc<Node>) -> bool {
        node.id != ROOT
            && !node.is_referred()
            && match &node.body {
                Body::Dir(dir) => read(&dir.children).nodes.is_empty(),
                Body::File(_) => true,
            }
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
        children: RwLock::default(),
    }))
}

pub(super) fn file_body(kind: FileType, upper: bool, name: Name, real: Real) -> Body {
    Body::File(FileBody {
        kind,
        upper_data: AtomicBool::new(upper),
        incapable: AtomicBool::new(false),
        state: Mutex::new(FileState {
            names: smallvec![name],
            real,
            keys: Vec::new(),
            copying: None,
        }),
    })
}

/// A lower file is reached through its parent's part, unless a redirect led past it.
fn lower_real(open: &OpenMerged, place: Place, name: &OsStr) -> Real {
    let beside = |part: &crate::stack::OpenPart| {
        part.place.layer == place.layer && place.path == part.place.path.join(name)
    };
    let path = (!open.parts.iter().any(beside)).then(|| place.path.clone().into_boxed_path());
    Real::Lower {
        layer: place.layer,
        path,
    }
}
