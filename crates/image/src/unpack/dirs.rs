//! The directories of a layer: what is to be set on them when all else is done, and a few kept open.
//!
//! Owner, mode, attributes and times of a directory are set last. Times, because whatever is made in a directory
//! changes them; the set-group-id bit and default ACLs, because whatever is made in it would inherit from them.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use sys::Dir;

use super::meta::Meta;

/// A directory of the layer; [`ROOT`] is the layer's root.
pub(super) type Id = u32;
pub(super) const ROOT: Id = 0;

/// How many directories are kept open. A walk in any sensible order comes back to few.
const OPEN: usize = 16;

/// One directory.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) parent: Id,
    pub(super) name: Rc<[u8]>,
    /// What the layer says; `None` while it holds things in it without listing it.
    pub(super) meta: Option<Box<Meta>>,
    /// The layers below do not show through.
    pub(super) opaque: bool,
    /// The layers below have no such directory as far as this layer is concerned: a whiteout says so.
    pub(super) whited_out: bool,
    /// Whiteouts were made in it.
    pub(super) whiteouts: bool,
    /// Something else has taken its place.
    pub(super) gone: bool,
}

/// All directories of the layer, by number; a parent has a smaller number than its children.
pub(super) struct Dirs {
    pub(super) nodes: Vec<Node>,
    index: HashMap<(Id, Rc<[u8]>), Id>,
    open: Vec<(Id, Rc<Dir>)>,
}

impl Dirs {
    /// Begins with the layer's root.
    pub(super) fn new(root: &Dir) -> io::Result<Dirs> {
        let mut dirs = Dirs {
            nodes: Vec::new(),
            index: HashMap::new(),
            open: Vec::new(),
        };
        dirs.push(ROOT, Rc::from(&b""[..]));
        dirs.open.push((ROOT, Rc::new(root.try_clone()?)));
        Ok(dirs)
    }

    fn push(&mut self, parent: Id, name: Rc<[u8]>) -> Id {
        let id = self.nodes.len() as Id;
        self.nodes.push(Node {
            parent,
            name,
            meta: None,
            opaque: false,
            whited_out: false,
            whiteouts: false,
            gone: false,
        });
        id
    }

    /// The directory `name` in `parent`, if the layer has one.
    pub(super) fn child(&self, parent: Id, name: &[u8]) -> Option<Id> {
        self.index.get(&(parent, Rc::from(name))).copied()
    }

    /// Notes a directory that was just made.
    pub(super) fn add(&mut self, parent: Id, name: &[u8]) -> Id {
        let name: Rc<[u8]> = Rc::from(name);
        let id = self.push(parent, name.clone());
        self.index.insert((parent, name), id);
        id
    }

    /// Forgets a directory that something else takes the place of, and with it everything in it.
    pub(super) fn remove(&mut self, id: Id) {
        let key = (
            self.nodes[id as usize].parent,
            self.nodes[id as usize].name.clone(),
        );
        self.index.remove(&key);
        self.nodes[id as usize].gone = true;
        // Whatever was open beneath it is not worth finding out.
        self.open.truncate(1);
    }

    /// Path from the layer's root; empty for the root.
    pub(super) fn path(&self, id: Id) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT {
            let node = &self.nodes[at as usize];
            names.push(&*node.name);
            at = node.parent;
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
            Some(parent) => parent.open_dir(os(&self.nodes[id as usize].name))?,
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
