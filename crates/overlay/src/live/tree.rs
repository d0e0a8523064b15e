//! The tree of what is known: which node a name leads to, and when a node is let go.
//!
//! A front end counts its references to a node; what is beneath a directory keeps the directory. A node that nobody
//! keeps is let go: all its names and keys go in one moment, in which nobody can find it and refer to it again. That
//! is what [`Tree`] is for, a lock that is held for that moment and never across a system call.
//!
//! A name is entered while its directory's lock is held, so that what was looked up still holds, and only if nothing
//! was taken away since the lookup began ([`Known::version`]): a node that was made, changed, and let go meanwhile
//! would leave no other trace.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::Deref;
use std::sync::Arc;

use rustix::io::Errno;
use smallvec::SmallVec;

use super::node::{Body, DirBody, FileState, Known, Name, Node, lock, read, write};
use super::{NodeId, Overlay, ROOT, Result};

/// Device and inode of a real file.
pub(super) type Key = (u64, u64);

/// What the lock guards, besides the names that directories know.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Files with several names, by the keys of their real files.
    pub(super) links: HashMap<Key, Arc<Node>>,
}

/// A node that is not let go meanwhile. To be given up with no state locked that letting go would lock.
pub(super) struct Held<'a> {
    overlay: &'a Overlay,
    node: Arc<Node>,
}

impl Deref for Held<'_> {
    type Target = Arc<Node>;

    fn deref(&self) -> &Arc<Node> {
        &self.node
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.overlay.give_back(&self.node, 1);
    }
}

impl Overlay {
    /// Takes over a reference to a node.
    pub(super) fn held(&self, node: Arc<Node>) -> Held<'_> {
        Held { overlay: self, node }
    }

    /// The node that is known under a name, with one more reference; and what a lookup needs to enter one.
    pub(super) fn find(&self, dir: &DirBody, name: &OsStr) -> (Option<Arc<Node>>, u64) {
        let _tree = read(&self.tree);
        let known = read(&dir.known);
        let node = known.nodes.get(name).inspect(|node| node.refer());
        (node.cloned(), known.version)
    }

    /// The number that a known node shows.
    pub(super) fn known_ino(&self, dir: &DirBody, name: &OsStr) -> Option<u64> {
        let _tree = read(&self.tree);
        read(&dir.known).nodes.get(name).map(|node| node.ino)
    }

    /// Enters a node that was just looked up, made by `body`, unless another is known by now under the name (which is
    /// given then) or under one of `keys`, or something was taken away since `version` (none is given then). With a
    /// reference.
    pub(super) fn enter_found(
        &self,
        named: &Name,
        version: u64,
        ino: u64,
        keys: &[Key],
        body: impl FnOnce(Name) -> Body,
    ) -> Result<Option<(Arc<Node>, bool)>> {
        let mut tree = write(&self.tree);
        let mut known = write(&named.parent.dir()?.known);
        if let Some(node) = known.nodes.get(&named.name) {
            node.refer();
            return Ok(Some((node.clone(), false)));
        }
        if known.version != version || keys.iter().any(|key| tree.links.contains_key(key)) {
            return Ok(None);
        }
        let node = self.nodes.insert(ino, body(named.clone()));
        node.refer();
        tree.links.extend(keys.iter().map(|key| (*key, node.clone())));
        known.nodes.insert(named.name.clone(), node.clone());
        Ok(Some((node, true)))
    }

    /// The node that one of `keys` leads to gets another name that was just looked up. With a reference; `None` if no
    /// key leads anywhere, or something was taken away since `version`.
    pub(super) fn enter_linked(&self, named: &Name, version: u64, keys: &[Key]) -> Result<Option<Arc<Node>>> {
        let linked = |tree: &Tree| keys.iter().find_map(|key| tree.links.get(key).cloned());
        let Some(node) = linked(&read(&self.tree)) else {
            return Ok(None);
        };
        let mut state = lock(&node.file()?.state);
        let tree = write(&self.tree);
        let mut known = write(&named.parent.dir()?.known);
        let still = linked(&tree).is_some_and(|still| Arc::ptr_eq(&still, &node));
        if !still || known.version != version || known.nodes.contains_key(&named.name) {
            return Ok(None);
        }
        state.names.push(named.clone());
        node.refer();
        known.nodes.insert(named.name.clone(), node.clone());
        drop((known, tree, state));
        Ok(Some(node))
    }

    /// Enters something that was just made. With a reference.
    pub(super) fn enter_made(
        &self,
        named: &Name,
        ino: u64,
        body: impl FnOnce(Name) -> Body,
    ) -> Result<Arc<Node>> {
        let _tree = write(&self.tree);
        let mut known = write(&named.parent.dir()?.known);
        let node = self.nodes.insert(ino, body(named.clone()));
        node.refer();
        known.nodes.insert(named.name.clone(), node.clone());
        known.version += 1;
        Ok(node)
    }

    /// A file, its state held, has one more name and leads there by one more key. With a reference.
    pub(super) fn enter_link(
        &self,
        node: &Arc<Node>,
        state: &mut FileState,
        named: Name,
        key: Key,
    ) -> Result<()> {
        let mut tree = write(&self.tree);
        let mut known = write(&named.parent.dir()?.known);
        known.nodes.insert(named.name.clone(), node.clone());
        known.version += 1;
        drop(known);
        state.names.push(named);
        add_key(&mut tree, node, state, key);
        node.refer();
        Ok(())
    }

    /// A file, its state held, leads there by one more key.
    pub(super) fn enter_key(&self, node: &Arc<Node>, state: &mut FileState, key: Key) {
        add_key(&mut write(&self.tree), node, state, key);
    }

    /// `ENOENT` for a directory that was removed: nothing is made in it, moved into it, or found in it.
    pub(super) fn alive(&self, dir: &DirBody) -> Result<()> {
        match lock(&dir.state).removed {
            true => Err(Errno::NOENT),
            false => Ok(()),
        }
    }

    /// A name is gone.
    pub(super) fn leave(&self, dir: &DirBody, name: &OsStr) {
        let _tree = write(&self.tree);
        let mut known = write(&dir.known);
        known.nodes.remove(name);
        known.version += 1;
    }

    /// A node has moved from one name to another, where another one may have been; with `other`, that one has taken its
    /// place.
    pub(super) fn moved(
        &self,
        node: &Arc<Node>,
        (from, name): (&DirBody, &OsStr),
        (to, new_name): (&DirBody, &OsStr),
        other: Option<&Arc<Node>>,
    ) {
        let put = |dir: &DirBody, name: &OsStr, node: Option<&Arc<Node>>| {
            let mut known = write(&dir.known);
            known.version += 1;
            match node {
                Some(node) => known.nodes.insert(Arc::from(name), node.clone()),
                None => known.nodes.remove(name),
            };
        };
        let _tree = write(&self.tree);
        put(from, name, other);
        put(to, new_name, Some(node));
    }

    /// The front end gives `count` references back; it uses the node in no call any more. A node without any is let
    /// go.
    pub fn forget(&self, node: NodeId, count: u64) {
        if let Ok(node) = self.nodes.get(node) {
            self.give_back(&node, count);
        }
    }

    pub(super) fn give_back(&self, node: &Arc<Node>, count: u64) {
        if node.id == ROOT || node.release(count) > 0 {
            return;
        }
        let mut idle: SmallVec<[Arc<Node>; 2]> = SmallVec::new();
        idle.push(node.clone());
        while let Some(node) = idle.pop() {
            for name in self.let_go(&node) {
                idle.push(name.parent);
            }
        }
    }

    /// Lets a node go that nobody keeps; the names that it had.
    fn let_go(&self, node: &Arc<Node>) -> SmallVec<[Name; 1]> {
        let mut names = SmallVec::new();
        if node.id == ROOT || node.is_referred() {
            return names;
        }
        match &node.body {
            Body::File(file) => {
                let mut state = lock(&file.state);
                let mut tree = write(&self.tree);
                if node.is_referred() {
                    return names;
                }
                for key in state.keys.drain(..) {
                    if tree.links.get(&key).is_some_and(|known| Arc::ptr_eq(known, node)) {
                        tree.links.remove(&key);
                    }
                }
                names = std::mem::take(&mut state.names);
                self.nodes.remove(node.id);
                names.iter().for_each(|name| lose(name, node));
            }
            Body::Dir(dir) => {
                let mut state = lock(&dir.state);
                let _tree = write(&self.tree);
                if node.is_referred() || !read(&dir.known).nodes.is_empty() {
                    return names;
                }
                // Nothing leads here: nobody may find it as the root, which has no name either.
                state.removed = true;
                names.extend(state.name.take());
                self.nodes.remove(node.id);
                names.iter().for_each(|name| lose(name, node));
            }
        }
        names
    }
}

fn add_key(tree: &mut Tree, node: &Arc<Node>, state: &mut FileState, key: Key) {
    let before = tree.links.insert(key, node.clone());
    if !before.is_some_and(|known| Arc::ptr_eq(&known, node)) {
        state.keys.push(key);
    }
}

/// A directory knows a node by a name no longer.
fn lose(name: &Name, node: &Arc<Node>) {
    let Ok(dir) = name.parent.dir() else { return };
    let mut known = write(&dir.known);
    let Known { nodes, version } = &mut *known;
    if nodes
        .get(&name.name)
        .is_some_and(|known| Arc::ptr_eq(known, node))
    {
        nodes.remove(&name.name);
        *version += 1;
    }
}
