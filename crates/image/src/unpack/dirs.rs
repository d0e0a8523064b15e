//! The directories of a layer: what is to be set on them when all else is done, and a few kept open.
//!
//! Owner, mode, attributes and times of a directory are set last. Times, because whatever is made in a directory
//! changes them; the set-group-id bit and default ACLs, because whatever is made in it would inherit from them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::rc::Rc;

use sys::Dir;

use super::meta::Meta;
use crate::tar::Time;

/// A directory of the layer; [`ROOT`] is the layer's root.
pub(super) type Id = u32;
pub(super) const ROOT: Id = 0;

/// How many directories are kept open. A walk in any sensible order comes back to few.
const OPEN: usize = 16;

/// Bytes of memory that a directory takes, besides its name: its [`Node`], and its place in the index, which may be half
/// empty.
pub(super) const COST: usize = size_of::<Node>() + 2 * size_of::<Id>();

/// One directory. There may be millions: see [`COST`].
#[derive(Debug)]
pub(super) struct Node {
    pub(super) parent: Id,
    /// Where its name is among all names.
    name: u32,
    /// Bytes of the name.
    len: u8,
    /// The layers below do not show through.
    pub(super) opaque: bool,
    /// The layers below have no such directory as far as this layer is concerned: a whiteout says so.
    pub(super) whited_out: bool,
    /// Whiteouts were made in it.
    pub(super) whiteouts: bool,
    /// Something else has taken its place.
    pub(super) gone: bool,
    /// The layer says what it is like; not so while it holds things in it without listing it.
    pub(super) listed: bool,
    mode: u16,
    uid: u32,
    gid: u32,
    nanos: u32,
    secs: i64,
}

/// What few directories have besides.
struct Rare {
    atime: Time,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// All directories of the layer, by number; a parent has a smaller number than its children.
pub(super) struct Dirs {
    pub(super) nodes: Vec<Node>,
    names: Vec<u8>,
    rare: HashMap<Id, Rare>,
    index: Index,
    open: Vec<(Id, Rc<Dir>)>,
}

impl Dirs {
    /// Begins with the layer's root.
    pub(super) fn new(root: &Dir) -> io::Result<Dirs> {
        let mut dirs = Dirs {
            nodes: Vec::new(),
            names: Vec::new(),
            rare: HashMap::new(),
            index: Index::default(),
            open: Vec::new(),
        };
        dirs.push(ROOT, b"");
        dirs.open.push((ROOT, Rc::new(root.try_clone()?)));
        Ok(dirs)
    }

    fn push(&mut self, parent: Id, name: &[u8]) -> Id {
        let id = self.nodes.len() as Id;
        // The caller sees to it that all of them take far less memory than these numbers can count.
        self.nodes.push(Node {
            parent,
            name: self.names.len() as u32,
            len: name.len() as u8,
            opaque: false,
            whited_out: false,
            whiteouts: false,
            gone: false,
            listed: false,
            mode: 0,
            uid: 0,
            gid: 0,
            nanos: 0,
            secs: 0,
        });
        self.names.extend_from_slice(name);
        id
    }

    /// Its name in its parent.
    pub(super) fn name(&self, id: Id) -> &[u8] {
        let node = &self.nodes[id as usize];
        &self.names[node.name as usize..][..usize::from(node.len)]
    }

    /// Notes what the layer says of it.
    pub(super) fn list(&mut self, id: Id, meta: Meta) {
        let node = &mut self.nodes[id as usize];
        node.listed = true;
        // Twelve bits.
        node.mode = meta.mode as u16;
        (node.uid, node.gid) = (meta.uid, meta.gid);
        (node.secs, node.nanos) = (meta.mtime.secs, meta.mtime.nanos);
        if meta.atime != meta.mtime || !meta.xattrs.is_empty() {
            let (atime, xattrs) = (meta.atime, meta.xattrs);
            self.rare.insert(id, Rare { atime, xattrs });
        } else {
            self.rare.remove(&id);
        }
    }

    /// What the layer says of it, if it does; what is rare is given away.
    pub(super) fn take_meta(&mut self, id: Id) -> Option<Meta> {
        let rare = self.rare.remove(&id);
        let node = &self.nodes[id as usize];
        let mtime = Time {
            secs: node.secs,
            nanos: node.nanos,
        };
        let rare = rare.unwrap_or(Rare {
            atime: mtime,
            xattrs: Vec::new(),
        });
        node.listed.then_some(Meta {
            mode: node.mode.into(),
            uid: node.uid,
            gid: node.gid,
            mtime,
            atime: rare.atime,
            xattrs: rare.xattrs,
        })
    }

    /// The directory `name` in `parent`, if the layer has one.
    pub(super) fn child(&self, parent: Id, name: &[u8]) -> Option<Id> {
        let is = |id: Id| {
            let node = &self.nodes[id as usize];
            node.parent == parent && !node.gone && self.name(id) == name
        };
        self.index.find(parent, name, is)
    }

    /// Notes a directory that was just made.
    pub(super) fn add(&mut self, parent: Id, name: &[u8]) -> Id {
        let id = self.push(parent, name);
        let key = |id: Id| {
            let node = &self.nodes[id as usize];
            (
                node.parent,
                &self.names[node.name as usize..][..usize::from(node.len)],
            )
        };
        self.index.insert(id, key);
        id
    }

    /// Forgets a directory that something else takes the place of, and with it everything in it.
    pub(super) fn remove(&mut self, id: Id) {
        self.nodes[id as usize].gone = true;
        // Whatever was open beneath it is not worth finding out.
        self.open.truncate(1);
    }

    /// Path from the layer's root; empty for the root.
    pub(super) fn path(&self, id: Id) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT {
            names.push(self.name(at));
            at = self.nodes[at as usize].parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Path of the entry `name` in `parent`.
    pub(super) fn path_of(&self, parent: Id, name: &[u8]) -> Vec<u8> {
        let mut path = self.path(parent);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// Whether a whiteout or an opaque mark of this layer hides what the layers below have in `id`.
    pub(super) fn hides_below(&self, id: Id) -> bool {
        let mut at = id;
        loop {
            let node = &self.nodes[at as usize];
            if node.opaque {
                return true;
            }
            if at == ROOT {
                return false;
            }
            at = node.parent;
        }
    }

    /// Opens a directory, or finds it open.
    pub(super) fn dir(&mut self, id: Id) -> io::Result<Rc<Dir>> {
        if let Some(at) = self.open.iter().position(|(open, _)| *open == id) {
            // The most recent one last; the root stays first and is never closed.
            if at > 0 {
                self.open[at..].rotate_left(1);
            }
            let found = if at > 0 {
                self.open.last()
            } else {
                self.open.first()
            };
            if let Some((_, dir)) = found {
                return Ok(dir.clone());
            }
        }
        let parent = self.nodes[id as usize].parent;
        let near = self
            .open
            .iter()
            .find(|(open, _)| *open == parent)
            .map(|(_, dir)| dir.clone());
        let dir = match near {
            Some(parent) => parent.open_dir(os(self.name(id)))?,
            None => {
                let path = self.path(id);
                self.open[0].1.open_dir(os(&path))?
            }
        };
        let dir = Rc::new(dir);
        if self.open.len() == OPEN {
            self.open.remove(1);
        }
        self.open.push((id, dir.clone()));
        Ok(dir)
    }
}

/// Bytes as the system's own kind of name.
pub(super) fn os(bytes: &[u8]) -> &std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes)
}

/// Finds a directory by its parent and its name: a table of numbers, each at the first free place from where its hash
/// leads.
#[derive(Default)]
struct Index {
    /// A power of two of them, at most three quarters full; the root, which is nobody's child, marks a free one.
    slots: Vec<Id>,
    used: usize,
    state: RandomState,
}

impl Index {
    /// The places to look at, one after the other.
    fn places(&self, parent: Id, name: &[u8]) -> impl Iterator<Item = usize> + use<> {
        let (hash, mask) = (
            self.state.hash_one((parent, name)),
            self.slots.len().wrapping_sub(1),
        );
        (0..self.slots.len()).map(move |step| (hash as usize).wrapping_add(step) & mask)
    }

    fn find(&self, parent: Id, name: &[u8], is: impl Fn(Id) -> bool) -> Option<Id> {
        let ids = self.places(parent, name).map(|place| self.slots[place]);
        ids.take_while(|id| *id != ROOT).find(|id| is(*id))
    }

    fn insert<'a>(&mut self, id: Id, key: impl Fn(Id) -> (Id, &'a [u8])) {
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            let larger = vec![ROOT; (self.slots.len() * 2).max(64)];
            let old = std::mem::replace(&mut self.slots, larger);
            for id in old.into_iter().filter(|id| *id != ROOT) {
                self.put(id, key(id));
            }
        }
        self.put(id, key(id));
        self.used += 1;
    }

    fn put(&mut self, id: Id, (parent, name): (Id, &[u8])) {
        let free = self.places(parent, name).find(|place| self.slots[*place] == ROOT);
        if let Some(free) = free {
            self.slots[free] = id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs() -> (tempfile::TempDir, Dirs) {
        let temp = tempfile::tempdir().unwrap();
        let root = Dir::open_ambient(temp.path()).unwrap();
        (temp, Dirs::new(&root).unwrap())
    }

    #[test]
    fn thousands_are_found_by_name_and_those_that_are_gone_are_not() {
        let (_temp, mut dirs) = dirs();
        let mut parents = vec![ROOT];
        for n in 0..5000u32 {
            let parent = parents[n as usize / 3];
            parents.push(dirs.add(parent, n.to_string().as_bytes()));
        }
        for n in 0..5000u32 {
            let (parent, name) = (parents[n as usize / 3], n.to_string());
            let id = parents[n as usize + 1];
            assert_eq!(dirs.child(parent, name.as_bytes()), Some(id));
            assert_eq!(dirs.name(id), name.as_bytes());
            assert_eq!(dirs.child(id, name.as_bytes()), None);
        }
        dirs.remove(parents[1]);
        assert_eq!(dirs.child(ROOT, b"0"), None);
        let again = dirs.add(ROOT, b"0");
        assert_eq!(dirs.child(ROOT, b"0"), Some(again));
        // What lay in the one that is gone is not in the new one.
        assert_eq!(dirs.child(again, b"3"), None);
    }

    #[test]
    fn what_the_layer_says_is_kept_whole() {
        let (_temp, mut dirs) = dirs();
        let time = |secs, nanos| Time { secs, nanos };
        let plain = Meta {
            mode: 0o7751,
            uid: u32::MAX - 1,
            gid: 7,
            mtime: time(-5, 999_999_999),
            atime: time(-5, 999_999_999),
            xattrs: Vec::new(),
        };
        let rare = Meta {
            atime: time(1 << 40, 1),
            xattrs: vec![(b"user.x".to_vec(), b"y".to_vec())],
            ..plain.clone()
        };
        let id = dirs.add(ROOT, b"d");
        assert_eq!(dirs.take_meta(id), None);
        for meta in [&rare, &plain, &rare] {
            dirs.list(id, meta.clone());
        }
        assert_eq!(dirs.take_meta(id), Some(rare));
        dirs.list(id, plain.clone());
        assert_eq!(dirs.take_meta(id), Some(plain));
    }
}
