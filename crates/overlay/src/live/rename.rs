//! Renaming and exchanging.
//!
//! Both are one `renameat2(2)` in the upper layer, after everything that can be prepared was: copy-up, redirects and
//! opaque marks, which change nothing that the view shows. Where a lower layer has the old name, the same call
//! leaves a whiteout there.
//!
//! Where no such call is to be had (whiteouts of the attribute kind) and something is replaced, there are two steps,
//! and a crash between them leaves what rename(2) allows: a file under both names; of directories, the old one in its
//! place, and the empty one that it was to replace gone. What moves is never lost.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, RwLockWriteGuard};

use rustix::fs::{self, AtFlags, Mode, RenameFlags};
use rustix::io::Errno;
use sys::Dir;

use super::copy_up::Want;
use super::list::Listing;
use super::node::{Body, DirState, FileState, Name, Node, Real, Via, lock, write};
use super::place::{Entry, UpperDir};
use super::remove::{NotYet, removed};
use super::work::is_whiteout;
use super::{NodeId, Overlay, RedirectDir, Result, errno, xattrs};
use crate::WhiteoutKind;
use crate::redirect::{self, Redirect};
use crate::whiteout::Opaque;
use crate::xattr::REDIRECT;

/// The directories concerned, which may be one, their locks held.
struct Both<'a> {
    old: RwLockWriteGuard<'a, Option<Listing>>,
    new: Option<RwLockWriteGuard<'a, Option<Listing>>>,
}

/// The state of something that moves, held from before the move until it says where the thing is now: who looks at it
/// meanwhile would find by its old name a whiteout, or something else.
enum Held<'a> {
    File(MutexGuard<'a, FileState>),
    Dir(MutexGuard<'a, DirState>),
}

/// Holds the states of two nodes: files before directories, files in the order of their numbers.
fn hold<'a>(node: &'a Node, other: Option<&'a Arc<Node>>) -> (Held<'a>, Option<Held<'a>>) {
    let one = |node: &'a Node| match &node.body {
        Body::File(body) => Held::File(lock(&body.state)),
        Body::Dir(dir) => Held::Dir(lock(&dir.state)),
    };
    match other {
        Some(other) if (other.is_dir(), other.id) < (node.is_dir(), node.id) => {
            let other = one(other);
            (one(node), Some(other))
        }
        other => (one(node), other.map(|other| one(other))),
    }
}

impl Held<'_> {
    /// Notes where it is now.
    fn moved(&mut self, old: &End<'_>, new: &End<'_>) {
        let named = Name {
            parent: new.parent.clone(),
            name: Arc::from(new.name),
        };
        match self {
            Held::Dir(state) => state.name = Some(named),
            Held::File(state) => {
                let known = state
                    .names
                    .iter_mut()
                    .find(|known| Arc::ptr_eq(&known.parent, old.parent) && *known.name == *old.name);
                match known {
                    Some(known) => *known = named,
                    None => state.names.push(named),
                }
            }
        }
    }
}

impl<'a> Both<'a> {
    fn lock(old: &'a Arc<Node>, new: &'a Arc<Node>) -> Result<Both<'a>> {
        if Arc::ptr_eq(old, new) {
            return Ok(Both {
                old: write(&old.dir()?.listing),
                new: None,
            });
        }
        // A directory before what is beneath it; else by number.
        let new_first = is_above(new, old)? || !is_above(old, new)? && new.id < old.id;
        if new_first {
            let new = write(&new.dir()?.listing);
            return Ok(Both {
                old: write(&old.dir()?.listing),
                new: Some(new),
            });
        }
        let old = write(&old.dir()?.listing);
        Ok(Both {
            old,
            new: Some(write(&new.dir()?.listing)),
        })
    }

    fn target(&mut self) -> &mut Option<Listing> {
        match &mut self.new {
            Some(new) => new,
            None => &mut self.old,
        }
    }
}

/// Whether `upper` is `node` or one of the directories that `node` is in.
fn is_above(upper: &Arc<Node>, node: &Arc<Node>) -> Result<bool> {
    let mut at = node.clone();
    loop {
        if Arc::ptr_eq(upper, &at) {
            return Ok(true);
        }
        let parent = lock(&at.dir()?.state)
            .name
            .as_ref()
            .map(|name| name.parent.clone());
        match parent {
            Some(parent) => at = parent,
            None => return Ok(false),
        }
    }
}

/// One end of a rename.
struct End<'a> {
    parent: &'a Arc<Node>,
    name: &'a OsStr,
}

impl Overlay {
    /// Renames, or exchanges two names with [`RenameFlags::EXCHANGE`]. `EXDEV` for a directory that a lower layer
    /// has, unless redirects are on; `EINVAL` for other flags than that and [`RenameFlags::NOREPLACE`], as the
    /// kernel's.
    pub fn rename(
        &self,
        parent: NodeId,
        name: &OsStr,
        new_parent: NodeId,
        new_name: &OsStr,
        flags: RenameFlags,
    ) -> Result<()> {
        self.work()?;
        self.check(name)?;
        self.check_new(new_name)?;
        let exchange = flags == RenameFlags::EXCHANGE;
        if !flags.is_empty() && !exchange && flags != RenameFlags::NOREPLACE {
            return Err(Errno::INVAL);
        }
        let old_parent = self.nodes.get(parent)?;
        let new_parent = self.nodes.get(new_parent)?;
        let old = End {
            parent: &old_parent,
            name,
        };
        let new = End {
            parent: &new_parent,
            name: new_name,
        };
        let same_dir = Arc::ptr_eq(old.parent, new.parent);
        let _still = (!same_dir).then(|| lock(&self.renames));
        loop {
            let mut both = Both::lock(old.parent, new.parent)?;
            self.alive(old.parent.dir()?)?;
            self.alive(new.parent.dir()?)?;
            let node = self.child_held(old.parent, name)?.ok_or(Errno::NOENT)?;
            let target = self.child_held(new.parent, new_name)?;
            match &target {
                Some(_) if flags == RenameFlags::NOREPLACE => return Err(Errno::EXIST),
                None if exchange => return Err(Errno::NOENT),
                _ => {}
            }
            self.unprotected(old.parent)?;
            self.mutable(new.parent)?;
            self.unprotected(&node)?;
            if let Some(target) = &target {
                self.unprotected(new.parent)?;
                self.unprotected(target)?;
            }
            if node.is_dir() && is_above(&node, new.parent)? {
                return Err(Errno::INVAL);
            }
            if let Some(target) = &target
                && target.is_dir()
                && is_above(target, old.parent)?
            {
                return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
            }
            match &target {
                Some(target) if Arc::ptr_eq(target, &node) => return Ok(()),
                Some(target) if !exchange => match (node.is_dir(), target.is_dir()) {
                    (true, false) => return Err(Errno::NOTDIR),
                    (false, true) => return Err(Errno::ISDIR),
                    _ => {}
                },
                _ => {}
            }
            // What must be copied up first: what moves, and what is counted.
            let moves = [Some(&node), target.as_ref().filter(|_| exchange)];
            let mut again = None;
            for moving in moves.into_iter().flatten() {
                self.can_move(moving)?;
                let not_yet = self.not_ready(moving, true)?;
                again = again.or(not_yet.map(|not_yet| (moving, not_yet)));
            }
            if let Some(target) = target.as_ref().filter(|_| !exchange) {
                let not_yet = self.not_ready(target, false)?;
                again = again.or(not_yet.map(|not_yet| (target, not_yet)));
            }
            if let Some((node, not_yet)) = again {
                drop(both);
                self.make_ready(node, not_yet)?;
                continue;
            }
            if node.is_dir() {
                self.copy_up(&node, Want::Metadata)?;
            }
            if let Some(target) = target.as_ref().filter(|target| exchange && target.is_dir()) {
                self.copy_up(target, Want::Metadata)?;
            }
            self.copy_up(old.parent, Want::Metadata)?;
            self.copy_up(new.parent, Want::Metadata)?;
            match &target {
                Some(target) if exchange => self.exchange(&old, &node, &new, target)?,
                target => self.replace(&old, &node, &new, target.as_deref())?,
            }
            let (from, to) = (old.parent.dir()?, new.parent.dir()?);
            let back = target.as_deref().filter(|_| exchange);
            self.moved(&node, (from, name), (to, new_name), back);
            self.list_removed(&mut both.old, name);
            self.list_removed(both.target(), new_name);
            self.list_added(both.target(), new_name, &node);
            if let Some(target) = back {
                self.list_added(&mut both.old, name, target);
            }
            return Ok(());
        }
    }

    /// `EXDEV` for a directory that would need a redirect which may not be written.
    fn can_move(&self, node: &Node) -> Result<()> {
        match &node.body {
            Body::Dir(dir)
                if self.options.redirect_dir != RedirectDir::On && !lock(&dir.state).lower.is_empty() =>
            {
                Err(Errno::XDEV)
            }
            _ => Ok(()),
        }
    }

    /// Whether a file is being copied up, or must be because it moves.
    fn not_ready(&self, node: &Node, moves: bool) -> Result<Option<NotYet>> {
        let Body::File(body) = &node.body else {
            return Ok(None);
        };
        let state = lock(&body.state);
        if let Some(not_yet) = self.removable(&state) {
            return Ok(Some(not_yet));
        }
        // A metadata-only file would need a redirect; its data is brought instead.
        let below = moves
            && match &state.real {
                Real::Lower { .. } | Real::Upper { data: Some(_), .. } => true,
                // Nobody has looked at its data yet.
                Real::Upper { data: None, .. } => self.is_metadata_only(body, &state)?,
            };
        Ok(below.then_some(NotYet::Lower))
    }

    fn replace(
        &self,
        old: &End<'_>,
        node: &Arc<Node>,
        new: &End<'_>,
        target: Option<&Arc<Node>>,
    ) -> Result<()> {
        let (from, to) = (self.upper_dir(old.parent)?, self.upper_dir(new.parent)?);
        let covers = self.is_below(old.parent, old.name)?;
        self.prepare_move(old, node, new)?;
        let slot = || is_whiteout(&to, new.name, self.options.format());
        // Its lock before any state.
        let mut listing = match target.map(|target| &target.body) {
            Some(Body::Dir(dir)) => Some(write(&dir.listing)),
            _ => None,
        };
        let (mut held, lost) = hold(node, target.filter(|target| !target.is_dir()));
        match target {
            None => {
                self.move_over(old, new, &from, &to, node.is_dir(), covers, slot()?)?;
            }
            Some(target) => match &target.body {
                Body::File(_) => {
                    if let Some(Held::File(mut state)) = lost {
                        let left = self.before_loss(&state, new.parent, new.name)?;
                        self.move_over(old, new, &from, &to, node.is_dir(), covers, slot()?)?;
                        self.after_loss(&mut state, new.parent, new.name, left)?;
                    }
                }
                Body::Dir(dir) => {
                    let Some(listing) = &mut listing else {
                        return Err(Errno::IO);
                    };
                    if !self.is_empty(target, listing)? {
                        return Err(Errno::NOTEMPTY);
                    }
                    let opened = self.opened(target)?;
                    match self.move_over(old, new, &from, &to, true, covers, slot()?) {
                        // The view is empty: there are only whiteouts in it.
                        Err(Errno::NOTEMPTY | Errno::EXIST) => {
                            self.clear(&opened.parts[0].dir, &to, new.name)?;
                            self.move_over(old, new, &from, &to, true, covers, slot()?)?;
                        }
                        other => other?,
                    }
                    removed(dir, listing);
                }
            },
        }
        held.moved(old, new);
        Ok(())
    }

    /// Replaces an empty directory that holds whiteouts by one that holds none. `EXDEV` where no attribute can say that
    /// nothing below is to show in it.
    fn clear(&self, dir: &Option<Dir>, parent: &UpperDir, name: &OsStr) -> Result<()> {
        if !self.keeps_attributes() {
            return Err(Errno::XDEV);
        }
        let work = self.work()?;
        let temp = work.fresh();
        let source = dir.as_ref().ok_or(Errno::IO)?;
        let swap = || {
            work.dir().mkdir_masked(&temp, Mode::RWXU).map_err(errno)?;
            let fresh = work.dir().open_dir(&temp).map_err(errno)?;
            self.copy_attributes(0, None, &Entry::Fd(source.as_fd()), &Entry::Fd(fresh.as_fd()))?;
            Opaque::Yes
                .write(fresh.as_fd(), self.options.prefix)
                .map_err(errno)?;
            work.dir().exchange(&temp, parent, name).map_err(errno)
        };
        let swapped = swap();
        work.discard(&temp);
        swapped
    }

    /// The rename itself. `covers`: the old name must be covered by a whiteout. `slot`: what the upper directory has
    /// under the new name, a whiteout or something else.
    #[allow(clippy::too_many_arguments)]
    fn move_over(
        &self,
        old: &End<'_>,
        new: &End<'_>,
        from: &Dir,
        to: &Dir,
        is_dir: bool,
        covers: bool,
        slot: Option<bool>,
    ) -> Result<()> {
        let rename = |flags| fs::renameat_with(from, old.name, to, new.name, flags);
        if covers {
            self.mark_whiteouts(from)?;
        }
        if slot == Some(true) && (is_dir || covers) {
            // The whiteout that stood in its way goes to its old place: to cover it, or to be removed.
            rename(RenameFlags::EXCHANGE)?;
            return match covers {
                true => Ok(()),
                false => from.unlink(old.name).map_err(errno),
            };
        }
        if !covers {
            return rename(RenameFlags::empty());
        }
        if self.options.whiteouts == WhiteoutKind::Device {
            match rename(RenameFlags::WHITEOUT) {
                // A file system that cannot: EINVAL.
                Err(Errno::INVAL) => {}
                other => return other,
            }
        }
        let work = self.work()?;
        if slot.is_none() && (is_dir || !self.is_below(new.parent, new.name)?) {
            // A whiteout where nothing is changes nothing, and an empty directory of a lower layer may go first; then
            // both change places at once.
            self.mark_whiteouts(to)?;
            work.whiteout(to, new.name)?;
            return rename(RenameFlags::EXCHANGE).inspect_err(|_| drop(to.unlink(new.name)));
        }
        let temp = work.fresh();
        if is_dir {
            // The directory that is replaced, which is empty, goes first; the whiteout in its place then goes where
            // it is needed.
            self.mark_whiteouts(to)?;
            work.whiteout(work.dir(), OsStr::new(&temp))?;
            let replaced = fs::renameat_with(work.dir(), &temp, to, new.name, RenameFlags::EXCHANGE);
            let renamed = replaced.and_then(|()| {
                rename(RenameFlags::EXCHANGE).inspect_err(|_| drop(work.dir().exchange(&temp, to, new.name)))
            });
            work.discard(&temp);
            return renamed;
        }
        // For a moment both names lead to it, as rename(2) says.
        let cover = work.fresh();
        work.whiteout(work.dir(), OsStr::new(&cover))?;
        let renamed = fs::linkat(from, old.name, work.dir(), &temp, AtFlags::empty()).and_then(|()| {
            let both = work.dir().rename(&temp, to, new.name);
            both.inspect_err(|_| work.discard(&temp)).map_err(errno)?;
            work.dir().rename(&cover, from, old.name).map_err(errno)
        });
        renamed.inspect_err(|_| work.discard(&cover))
    }

    fn exchange(&self, old: &End<'_>, node: &Arc<Node>, new: &End<'_>, target: &Arc<Node>) -> Result<()> {
        let (from, to) = (self.upper_dir(old.parent)?, self.upper_dir(new.parent)?);
        self.prepare_move(old, node, new)?;
        self.prepare_move(new, target, old)?;
        let (mut held, other) = hold(node, Some(target));
        fs::renameat_with(&*from, old.name, &*to, new.name, RenameFlags::EXCHANGE)?;
        held.moved(old, new);
        if let Some(mut other) = other {
            other.moved(new, old);
        }
        Ok(())
    }

    /// Sees to it that what moves means the same in its new place.
    fn prepare_move(&self, old: &End<'_>, node: &Arc<Node>, new: &End<'_>) -> Result<()> {
        let same_dir = Arc::ptr_eq(old.parent, new.parent);
        match &node.body {
            Body::Dir(dir) => {
                let merged = !lock(&dir.state).lower.is_empty();
                let upper = self.upper_dir(node)?;
                if merged {
                    self.redirect(node, &upper, same_dir)?;
                } else if !self.keeps_attributes() {
                    // As the kernel's overlay; it asks less closely.
                    if self.is_below(new.parent, new.name)? {
                        return Err(Errno::XDEV);
                    }
                } else if self.opened(new.parent)?.parts.len() > 1 {
                    Opaque::Yes
                        .write(upper.as_fd(), self.options.prefix)
                        .map_err(errno)?;
                }
            }
            Body::File(body) => self.ensure_named(&lock(&body.state), old.parent, old.name)?,
        }
        if !same_dir && (node.is_dir() || self.has_origin(node)?) {
            self.mark_impure(new.parent)?;
        }
        Ok(())
    }

    fn has_origin(&self, node: &Arc<Node>) -> Result<bool> {
        let stat = self.entry(node, |entry| entry.stat())?;
        Ok(node.ino != self.devices.ino(0, stat.st_ino))
    }

    /// A name of an indexed file may be in lower layers alone: then the upper layer gets it too.
    pub(super) fn ensure_named(&self, state: &FileState, parent: &Arc<Node>, name: &OsStr) -> Result<()> {
        let Real::Upper {
            via: Via::Index(indexed),
            ..
        } = &state.real
        else {
            return Ok(());
        };
        let upper = self.upper_dir(parent)?;
        if is_whiteout(&upper, name, self.options.format())?.is_some() {
            return Ok(());
        }
        self.mark_impure(parent)?;
        self.nlink_by_lower(indexed)?;
        self.link_from_index(indexed, &upper, name)?;
        self.nlink_by_upper(indexed)
    }

    /// States on a directory that is about to move where its lower parts are.
    fn redirect(&self, node: &Arc<Node>, upper: &UpperDir, same_dir: bool) -> Result<()> {
        let attribute = self.options.prefix.name(REDIRECT);
        let entry = Entry::Fd(upper.as_fd());
        let known = xattrs::get(&entry, &attribute)?;
        let known = known.as_deref().and_then(Redirect::parse);
        let value = match known {
            Some(Redirect::FromRoot(_)) => return Ok(()),
            Some(Redirect::Sibling(_)) if same_dir => return Ok(()),
            None if same_dir && let Some(name) = lock(&node.dir()?.state).name.clone() => {
                name.name.as_bytes().to_vec()
            }
            _ => {
                let mut value = b"/".to_vec();
                value.extend(self.lower_path(node)?.as_os_str().as_bytes());
                value
            }
        };
        if value.len() > redirect::MAX {
            return Err(Errno::XDEV);
        }
        xattrs::set(&entry, &attribute, &value)
    }

    /// The path under which the lower layers alone would show a directory.
    fn lower_path(&self, node: &Arc<Node>) -> Result<PathBuf> {
        let mut components: Vec<OsString> = Vec::new();
        let mut at = node.clone();
        loop {
            let (name, upper) = {
                let state = lock(&at.dir()?.state);
                (state.name.clone(), state.upper)
            };
            let Some(name) = name else { break };
            let redirect = match upper {
                false => None,
                true => {
                    let upper = self.upper_dir(&at)?;
                    xattrs::get(&Entry::Fd(upper.as_fd()), &self.options.prefix.name(REDIRECT))?
                }
            };
            match redirect.as_deref().and_then(Redirect::parse) {
                Some(Redirect::FromRoot(path)) => {
                    components.extend(path.iter().rev().map(OsStr::to_owned));
                    break;
                }
                Some(Redirect::Sibling(renamed)) => components.push(renamed),
                None => components.push(name.name.to_os_string()),
            }
            at = name.parent;
        }
        Ok(components.iter().rev().collect())
    }
}
