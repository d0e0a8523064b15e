//! Listing a directory, with cookies that mean the same whoever asks and whenever.
//!
//! A cookie is made of the name's hash, and entries are listed in the order of their cookies: going on after one
//! needs no state that belongs to a reader. A listing in progress is kept with the directory and follows its
//! changes, so that a reader of many pieces does not read the layers again for each.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::BuildHasher;
use std::os::fd::AsFd;
use std::sync::Arc;

use foldhash::fast::RandomState;
use rustix::fs::{FileType, Stat};

use super::node::{Body, Node, lock, read, write};
use super::{NodeId, Overlay, Result, errno};
use crate::stack::OpenMerged;
use crate::whiteout::{self, Opaque};

/// An entry of a listing.
#[derive(Debug)]
pub struct DirEntry<'a> {
    /// Its name.
    pub name: &'a OsStr,
    /// What `st_ino` of it shows.
    pub ino: u64,
    /// Its kind.
    pub file_type: FileType,
    /// The cookie after which the next entry comes.
    pub next: u64,
    /// How many entries the directory has.
    pub among: usize,
    /// Number of the topmost layer that has it: [`Overlay::lookup_listed`] need not look above.
    pub(super) layer: usize,
    /// Its status, where that was [read ahead](Overlay::read_ahead).
    pub(super) stat: Option<&'a Stat>,
}

/// The entries of a directory with their cookies, in the order of these.
#[derive(Debug, Default)]
pub(super) struct Listing {
    entries: Vec<(u64, Listed)>,
    /// Statuses that were read ahead.
    statuses: Arc<[Stat]>,
}

/// Some entries of a listing, and how many it has in all.
#[derive(Debug)]
struct Piece {
    entries: Vec<(u64, Listed)>,
    statuses: Arc<[Stat]>,
    among: usize,
}

#[derive(Debug, Clone)]
struct Listed {
    name: Arc<OsStr>,
    ino: u64,
    file_type: FileType,
    layer: u32,
    /// Which of the statuses that were read ahead is its.
    status: Option<u32>,
}

/// The cookies of `.` and `..`; all others are greater.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// So many entries are taken out of a listing at once.
const PIECE: usize = 256;

/// So many listings are kept for readers that have not come to their end.
const KEPT: usize = 64;

impl Listing {
    /// Of entries, each of another name, in any order. Of two names with one cookie the second takes the next that is
    /// free.
    fn of(mut entries: Vec<(u64, Listed)>) -> Listing {
        entries.sort_unstable_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
        let mut free = 0;
        for (cookie, _) in &mut entries {
            *cookie = free.max(*cookie);
            free = *cookie + 1;
        }
        Listing {
            entries,
            statuses: Arc::default(),
        }
    }

    /// Where the entries begin whose cookies are not less.
    fn at(&self, cookie: u64) -> usize {
        self.entries.partition_point(|(known, _)| *known < cookie)
    }

    /// Where a name is, or else where it goes, with the cookie that it then has.
    fn find(&self, mut cookie: u64, name: &OsStr) -> std::result::Result<usize, (usize, u64)> {
        let mut at = self.at(cookie);
        while let Some((known, entry)) = self.entries.get(at)
            && *known == cookie
        {
            if &*entry.name == name {
                return Ok(at);
            }
            (at, cookie) = (at + 1, cookie + 1);
        }
        Err((at, cookie))
    }

    fn insert(&mut self, cookie: u64, entry: Listed) {
        match self.find(cookie, &entry.name) {
            Ok(at) => self.entries[at].1 = entry,
            Err((at, cookie)) => self.entries.insert(at, (cookie, entry)),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Has `read` read the status of each entry, of its name, kind and layer.
    pub(super) fn read_statuses(&mut self, read: impl Fn(&OsStr, FileType, usize) -> Option<Stat>) {
        let mut statuses = Vec::with_capacity(self.entries.len());
        for (_, entry) in &mut self.entries {
            if let Some(stat) = read(&entry.name, entry.file_type, entry.layer as usize) {
                entry.status = Some(statuses.len() as u32);
                statuses.push(stat);
            }
        }
        self.statuses = statuses.into();
    }

    fn remove(&mut self, cookie: u64, name: &OsStr) {
        if let Ok(at) = self.find(cookie, name) {
            self.entries.remove(at);
        }
    }
}

impl Overlay {
    /// Hands `each` the entries of a directory that come after the cookie `offset` (0: all), until it answers
    /// `false`, which means that this entry had no room.
    pub fn list(&self, node: NodeId, offset: u64, each: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let node = self.nodes.get(node)?;
        let dir = node.dir()?;
        let mut dot = |name: &str, ino, next| {
            each(&DirEntry {
                name: OsStr::new(name),
                ino,
                file_type: FileType::Directory,
                next,
                among: 0,
                layer: 0,
                stat: None,
            })
        };
        if offset < DOT && !dot(".", node.ino, DOT) {
            return Ok(());
        }
        if offset < DOT_DOT {
            let parent = lock(&dir.state).name.as_ref().map(|name| name.parent.ino);
            if !dot("..", parent.unwrap_or(node.ino), DOT_DOT) {
                return Ok(());
            }
        }
        let mut after = offset.max(DOT_DOT);
        loop {
            let piece = self.piece(&node, after)?;
            for (cookie, entry) in &piece.entries {
                let shown = DirEntry {
                    name: &entry.name,
                    ino: entry.ino,
                    file_type: entry.file_type,
                    next: *cookie,
                    among: piece.among,
                    layer: entry.layer as usize,
                    stat: entry.status.and_then(|at| piece.statuses.get(at as usize)),
                };
                if !each(&shown) {
                    return Ok(());
                }
                after = *cookie;
            }
            if piece.entries.len() < PIECE {
                return Ok(());
            }
        }
    }

    /// The next entries after a cookie. Nothing is locked while they are handed out: the reader may look them up.
    fn piece(&self, node: &Arc<Node>, after: u64) -> Result<Piece> {
        let dir = node.dir()?;
        let take = |listing: &Listing| -> Piece {
            let rest = &listing.entries[listing.at(after + 1)..];
            Piece {
                entries: rest[..rest.len().min(PIECE)].to_vec(),
                statuses: listing.statuses.clone(),
                among: listing.entries.len(),
            }
        };
        let known = read(&dir.listing).as_ref().map(take);
        if let Some(piece) = known {
            if piece.entries.is_empty() {
                // The reader is at the end.
                *write(&dir.listing) = None;
            }
            return Ok(piece);
        }
        let mut listing = write(&dir.listing);
        if let Some(listing) = &*listing {
            return Ok(take(listing));
        }
        let fresh = self.read_listing(node)?;
        let piece = take(&fresh);
        if piece.entries.is_empty() {
            return Ok(piece);
        }
        *listing = Some(fresh);
        drop(listing);
        self.note_listing(node.id);
        Ok(piece)
    }

    /// Drops the listing that was left longest, when there are too many.
    pub(super) fn note_listing(&self, node: NodeId) {
        let mut listed = lock(&self.listed);
        listed.retain(|known| *known != node);
        listed.push_back(node);
        let oldest = if listed.len() > KEPT {
            listed.pop_front()
        } else {
            None
        };
        drop(listed);
        if let Some(node) = oldest.and_then(|oldest| self.nodes.get(oldest).ok())
            && let Body::Dir(dir) = &node.body
        {
            *write(&dir.listing) = None;
        }
    }

    fn cookie(&self, name: &OsStr) -> u64 {
        (self.hasher.hash_one(name) >> 1).max(DOT_DOT + 1)
    }

    /// An entry was made.
    pub(super) fn list_added(&self, listing: &mut Option<Listing>, name: &OsStr, node: &Node) {
        if let Some(listing) = listing {
            let entry = Listed {
                name: name.into(),
                ino: node.ino,
                file_type: node.file_type(),
                layer: 0,
                status: None,
            };
            listing.insert(self.cookie(name), entry);
        }
    }

    /// An entry was removed.
    pub(super) fn list_removed(&self, listing: &mut Option<Listing>, name: &OsStr) {
        if let Some(listing) = listing {
            listing.remove(self.cookie(name), name);
        }
    }

    /// Reads the layers: upper names first, each name once, whiteouts taken away.
    pub(super) fn read_listing(&self, node: &Arc<Node>) -> Result<Listing> {
        let known = node.dir()?;
        let open = self.opened(node)?;
        let impure = self.is_impure(node)?;
        let merged = open.parts.len() > 1;
        // What is entered meanwhile has the number that its layer gives it.
        let any_known = !read(&known.known).nodes.is_empty();
        let mut entries = Vec::new();
        // With a single part no name comes twice.
        let mut seen: HashSet<Arc<OsStr>, RandomState> = HashSet::default();
        for part in &open.parts {
            let upper = self.is_upper(part.place.layer);
            let read = |dir: &sys::Dir| {
                let mark = Opaque::read(dir.as_fd(), self.options.prefix)?;
                let mut below = Vec::new();
                for entry in dir.entries()? {
                    if let Some(name) = whiteout::named(&entry.name).filter(|_| self.options.named_whiteouts)
                    {
                        below.push(name.into());
                        continue;
                    }
                    if seen.contains(entry.name.as_os_str()) {
                        continue;
                    }
                    let name: Arc<OsStr> = entry.name.as_os_str().into();
                    if merged {
                        seen.insert(name.clone());
                    }
                    let mut file_type = entry.file_type.0;
                    let doubtful = match file_type {
                        FileType::CharacterDevice | FileType::Unknown => true,
                        FileType::RegularFile => mark == Opaque::Whiteouts,
                        _ => false,
                    };
                    if doubtful {
                        let stat = dir.stat(&entry.name)?;
                        if whiteout::is_whiteout(dir, &entry.name, &stat, self.options.prefix)? {
                            continue;
                        }
                        file_type = FileType::from_raw_mode(stat.st_mode);
                    }
                    // What was copied up shows the number of what it was copied from.
                    let copied = upper && (impure || merged && file_type == FileType::Directory);
                    let ino = match any_known.then(|| self.known_ino(known, &name)).flatten() {
                        Some(ino) => ino,
                        None if copied => self.listed_ino(node, &name, &open)?.unwrap_or(entry.ino),
                        None => self.devices.ino(part.place.layer, entry.ino),
                    };
                    let listed = Listed {
                        name: name.clone(),
                        ino,
                        file_type,
                        layer: part.place.layer as u32,
                        status: None,
                    };
                    entries.push((self.cookie(&name), listed));
                }
                seen.extend(below);
                Ok(())
            };
            self.stack.with(part, read).map_err(errno)?;
        }
        Ok(Listing::of(entries))
    }

    fn listed_ino(&self, node: &Arc<Node>, name: &OsStr, open: &OpenMerged) -> std::io::Result<Option<u64>> {
        match self.stack.child(open, name)? {
            None => Ok(None),
            Some(looked) => Ok(Some(self.ino_of(node, name, open, &looked)?)),
        }
    }

    /// Whether the view shows nothing in a directory.
    pub(super) fn is_empty(&self, node: &Arc<Node>, listing: &Option<Listing>) -> Result<bool> {
        match listing {
            Some(listing) => Ok(listing.entries.is_empty()),
            None => Ok(self.read_listing(node)?.entries.is_empty()),
        }
    }
}

impl Node {
    pub(super) fn file_type(&self) -> FileType {
        match &self.body {
            Body::Dir(_) => FileType::Directory,
            Body::File(file) => file.kind,
        }
    }
}
