//! Walks: who lists one directory after the other, in the order in which they were named, is read ahead for.
//!
//! Client and server take turns in a walk, and most of the server's part is reading directories and the status of what
//! is in them. Another thread does that for the next few directories, while the client is at what it was given.
//!
//! Which directories are expected, and in which order: those that the last listing named, then those beside it. Whoever lists
//! something else ends the walk.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use overlay::live::{NodeId, Overlay};

/// How many directories are read ahead.
const WINDOW: usize = 8;
/// How many are expected at most; those that would come last are left out.
const EXPECTED: usize = 4096;
/// Directories listed in order make a walk.
const WALK: usize = 2;

#[derive(Debug, Clone, Copy)]
struct Expected {
    node: NodeId,
    /// The directory whose listing named it.
    parent: NodeId,
    read: bool,
}

#[derive(Debug, Default)]
struct Plan {
    /// The next one is last.
    expected: Vec<Expected>,
    /// How many were listed in order.
    in_order: usize,
    /// Whether the reader sleeps.
    idle: bool,
    ended: bool,
}

/// What a walk will come to.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    plan: Mutex<Plan>,
    /// The reader waits here.
    more: Condvar,
}

impl Plan {
    /// A directory is listed: whatever was expected before it was passed over.
    fn listed(&mut self, node: NodeId) {
        let mut ahead = self.expected.iter().rev().take(WINDOW);
        match ahead.position(|expected| expected.node == node) {
            Some(passed) => {
                self.in_order += 1;
                self.expected.truncate(self.expected.len() - passed - 1);
            }
            None => {
                self.in_order = 0;
                self.expected.clear();
            }
        }
    }

    /// A piece of the listing of `parent` named these directories: after those of the pieces before.
    fn expect(&mut self, parent: NodeId, nodes: &[NodeId]) {
        let of = |expected: &Expected| expected.parent == parent;
        let at = self.expected.iter().position(of).unwrap_or(self.expected.len());
        let expected = |node: &NodeId| Expected {
            node: *node,
            parent,
            read: false,
        };
        self.expected.splice(at..at, nodes.iter().rev().map(expected));
        let excess = self.expected.len().saturating_sub(EXPECTED);
        self.expected.drain(..excess);
    }

    /// What is to be read ahead: not the very next directory, which will be asked for while it is read.
    fn window(&mut self) -> impl Iterator<Item = &mut Expected> {
        let walks = self.in_order >= WALK;
        let window = self.expected.iter_mut().rev().skip(1);
        window.take(if walks { WINDOW } else { 0 })
    }

    /// What is to be read next.
    fn next(&mut self) -> Option<NodeId> {
        let next = self.window().find(|expected| !expected.read)?;
        // Whatever comes of it.
        next.read = true;
        Some(next.node)
    }

    /// Whether it is worth waking the reader: not for each directory.
    fn is_short(&mut self) -> bool {
        self.idle && self.window().filter(|expected| !expected.read).count() > WINDOW / 2
    }
}

impl Ahead {
    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A directory is about to be listed from its beginning.
    pub(super) fn listed(&self, node: NodeId) {
        self.lock().listed(node);
    }

    /// The listing of `parent` named these directories.
    pub(super) fn expect(&self, parent: NodeId, nodes: &[NodeId]) {
        let mut plan = self.lock();
        if !nodes.is_empty() {
            plan.expect(parent, nodes);
        }
        if plan.is_short() {
            drop(plan);
            self.more.notify_one();
        }
    }

    /// The connection is at its end, and so is the reader.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.more.notify_all();
    }

    /// Reads ahead until the connection ends.
    pub(super) fn run(&self, overlay: &Overlay) {
        let mut plan = self.lock();
        while !plan.ended {
            let Some(node) = plan.next() else {
                plan.idle = true;
                plan = self.more.wait(plan).unwrap_or_else(PoisonError::into_inner);
                plan.idle = false;
                continue;
            };
            drop(plan);
            // Whoever lists it meets the error.
            let _ = overlay.read_ahead(node);
            plan = self.lock();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(plan: &Plan) -> Vec<NodeId> {
        plan.expected.iter().rev().map(|expected| expected.node).collect()
    }

    #[test]
    fn a_walk_is_followed_into_directories_and_back() {
        let mut plan = Plan::default();
        plan.listed(1);
        plan.expect(1, &[10, 20]);
        plan.listed(10);
        // In two pieces.
        plan.expect(10, &[11, 12]);
        plan.expect(10, &[13]);
        assert_eq!(expected(&plan), [11, 12, 13, 20]);
        assert_eq!(plan.next(), None, "one is no walk yet");
        plan.listed(11);
        assert_eq!(
            [plan.next(), plan.next(), plan.next()],
            [Some(13), Some(20), None]
        );
        // 12 is passed over.
        plan.listed(13);
        plan.expect(13, &[14, 15]);
        assert_eq!((expected(&plan), plan.next()), (vec![14, 15, 20], Some(15)));
    }

    #[test]
    fn whoever_lists_something_else_does_not_walk() {
        let mut plan = Plan::default();
        plan.listed(1);
        plan.expect(1, &[10, 20, 30]);
        plan.listed(10);
        plan.listed(20);
        plan.listed(77);
        assert_eq!((plan.next(), expected(&plan)), (None, vec![]));
    }

    #[test]
    fn no_more_is_read_than_will_soon_be_asked_for() {
        let mut plan = Plan::default();
        plan.listed(1);
        let many: Vec<NodeId> = (10..10_000).collect();
        plan.expect(1, &many);
        assert_eq!(expected(&plan), many[..EXPECTED]);
        plan.listed(10);
        plan.listed(11);
        let read = std::iter::from_fn(|| plan.next()).count();
        assert_eq!(read, WINDOW);
        plan.idle = true;
        plan.listed(12);
        assert!(!plan.is_short());
        plan.listed(18);
        assert!(plan.is_short());
    }
}
