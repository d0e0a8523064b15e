//! Open files: a descriptor of the real file, which follows a copy-up that is made after it was opened.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use rustix::fs::{self, FileType, OFlags};
use rustix::io::Errno;

use super::copy_up::Want;
use super::node::{Body, FileBody, FileState, Node, Real, lock};
use super::{NodeId, Overlay, RedirectDir, Result, Sync};
use crate::metacopy::Metacopy;
use crate::stack::{Merged, Place};
use crate::xattr::METACOPY;
use crate::{Prefix, stack::Stack};

/// A regular file that a program has open.
#[derive(Debug)]
pub struct OpenFile {
    node: Arc<Node>,
    flags: OFlags,
    real: Mutex<RealFile>,
}

#[derive(Debug)]
struct RealFile {
    /// `None` until it is needed, of a file that was opened before: what the kernel has in its cache is not read.
    file: Option<Arc<File>>,
    upper: bool,
}

/// What the real file is opened with, of what the program asked: the front end sees to appending, to direct and to
/// synchronous writes.
fn real_flags(flags: OFlags) -> OFlags {
    (flags & OFlags::RWMODE) | OFlags::NONBLOCK | OFlags::NOCTTY
}

fn writes(flags: OFlags) -> bool {
    flags & OFlags::RWMODE != OFlags::RDONLY
}

impl OpenFile {
    pub(super) fn new(node: Arc<Node>, flags: OFlags, file: File, upper: bool) -> OpenFile {
        OpenFile {
            node,
            flags,
            real: Mutex::new(RealFile {
                file: Some(Arc::new(file)),
                upper,
            }),
        }
    }

    /// One whose real file, in a lower layer, is opened when it is needed.
    fn put_off(node: Arc<Node>, flags: OFlags) -> OpenFile {
        OpenFile {
            node,
            flags,
            real: Mutex::new(RealFile {
                file: None,
                upper: false,
            }),
        }
    }

    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The node it was opened of.
    pub fn node_id(&self) -> NodeId {
        self.node.id
    }

    /// How it was opened.
    pub fn flags(&self) -> OFlags {
        self.flags
    }

    /// Whether it can be written through.
    pub fn is_writable(&self) -> bool {
        writes(self.flags)
    }

    /// Whether the real file is the upper layer's, and so will be for good.
    pub fn is_upper(&self) -> bool {
        lock(&self.real).upper
    }

    /// The real file as of now: after a copy-up the copy, whenever this was opened.
    pub fn file(&self, overlay: &Overlay) -> Result<Arc<File>> {
        let mut real = lock(&self.real);
        if let Some(file) = &real.file
            && (real.upper || !self.node.file()?.upper_data.load(Ordering::Acquire))
        {
            return Ok(file.clone());
        }
        let (file, upper) = overlay.open_real(&self.node, self.flags)?;
        let file = Arc::new(file);
        *real = RealFile {
            file: Some(file.clone()),
            upper,
        };
        Ok(file)
    }
}

impl Overlay {
    /// Opens a regular file as `flags` say; for writing it is copied up first, and `O_TRUNC` empties it. `kill`: set-id
    /// bits and capabilities go with the truncation.
    pub fn open(&self, node: NodeId, flags: OFlags, kill: bool) -> Result<OpenFile> {
        let node = self.nodes.get(node)?;
        let body = node.file()?;
        if body.kind != FileType::RegularFile {
            return Err(Errno::NXIO);
        }
        let truncates = flags.contains(OFlags::TRUNC);
        if writes(flags) || truncates {
            self.work()?;
            self.writable(&node, flags)?;
            self.copy_up(
                &node,
                match truncates {
                    true => Want::Data { up_to: 0 },
                    false => Want::ALL,
                },
            )?;
        }
        let put_off = !writes(flags) && !truncates && body.opened.load(Ordering::Relaxed);
        if put_off && !body.upper_data.load(Ordering::Acquire) {
            return Ok(OpenFile::put_off(node, flags));
        }
        let (file, upper) = self.open_real(&node, flags)?;
        if !upper {
            body.opened.store(true, Ordering::Relaxed);
        }
        let open = OpenFile::new(node, flags, file, upper);
        if truncates {
            match writes(flags) {
                true => fs::ftruncate(&*open.file(self)?, 0)?,
                false => {
                    let file =
                        self.entry(open.node(), |entry| entry.open(OFlags::WRONLY | OFlags::NONBLOCK))?;
                    fs::ftruncate(&file, 0)?;
                }
            }
            if kill {
                self.kill_suidgid(&open)?;
            }
        }
        Ok(open)
    }

    /// The real file that holds the data of a node, and whether that is in the upper layer.
    pub(super) fn open_real(&self, node: &Arc<Node>, flags: OFlags) -> Result<(File, bool)> {
        let body = node.file()?;
        let mut state = lock(&body.state);
        if let Real::Upper {
            data: Some(place), ..
        } = &state.real
        {
            return Ok((self.open_place(place)?, false));
        }
        let file = self.entry_in(&state, |entry| entry.open(real_flags(flags)))?;
        let upper = matches!(state.real, Real::Upper { .. });
        if let Some(place) = self.data_below(body, &state, &file)? {
            let file = self.open_place(&place)?;
            if let Real::Upper { data, .. } = &mut state.real {
                *data = Some(Box::new(place));
                body.upper_data.store(false, Ordering::Release);
            }
            return Ok((file, false));
        }
        Ok((file, upper))
    }

    pub(super) fn open_place(&self, place: &Place) -> Result<File> {
        let (dir, name) = self.stack.parent_of(place).map_err(super::errno)?;
        super::place::Entry::At(&dir, &name).open(OFlags::RDONLY | OFlags::NONBLOCK)
    }

    /// Where the data of a metadata-only file is; `None` for one that holds its own.
    pub(super) fn data_below(
        &self,
        body: &FileBody,
        state: &FileState,
        file: &File,
    ) -> Result<Option<Place>> {
        let last = self.stack.layers().len() - 1;
        let lowest = matches!(&state.real, Real::Lower { layer, .. } if *layer == last);
        if body.kind != FileType::RegularFile || self.options.prefix == Prefix::User || lowest {
            return Ok(None);
        }
        let mark = self
            .options
            .prefix
            .get(file.as_fd(), METACOPY)
            .map_err(super::errno)?;
        if mark.as_deref().and_then(Metacopy::parse).is_none() {
            return match mark {
                None => Ok(None),
                Some(_) => Err(Errno::IO),
            };
        }
        let name = state.names.first().ok_or(Errno::IO)?;
        let parts = lock(&name.parent.dir()?.state).lower.to_vec();
        let place = match &state.real {
            Real::Lower { .. } => self.lower_place(state)?,
            // The upper file says with a redirect where its data is, or it is under its own name.
            Real::Upper { .. } => return self.upper_data_below(state, parts).map(Some),
        };
        let stat = self.stack.layers()[0].metadata().map_err(super::errno)?;
        let parent = Merged { stat, parts };
        let found = self.stack.data_place(&parent, &name.name, &place);
        found.map(Some).map_err(super::errno)
    }

    /// Where the data of a metadata-only file of the upper layer is.
    fn upper_data_below(&self, state: &FileState, parts: Vec<Place>) -> Result<Place> {
        let name = state.names.first().ok_or(Errno::IO)?;
        let redirect = self.entry_in(state, |entry| {
            super::xattrs::get(&entry, &self.options.prefix.name(crate::xattr::REDIRECT))
        })?;
        let lower = Stack::new(&self.stack.layers()[1..], self.options.prefix)
            .with_redirects(self.options.redirect_dir != RedirectDir::NoFollow);
        let shift = |mut place: Place, up: bool| {
            place.layer = if up { place.layer + 1 } else { place.layer - 1 };
            place
        };
        let stat = self.stack.layers()[0].metadata().map_err(super::errno)?;
        let parent = Merged {
            stat,
            parts: parts.into_iter().map(|place| shift(place, false)).collect(),
        };
        let below = lower.data_below(&parent, &name.name, redirect.as_deref());
        Ok(shift(below.map_err(super::errno)?, true))
    }

    /// Makes a file durable; a volatile overlay does not.
    pub fn fsync(&self, file: &OpenFile, data_only: bool) -> Result<()> {
        if self.options.sync == Sync::Volatile || !self.is_writable() {
            return Ok(());
        }
        let file = file.file(self)?;
        let _long = self.long();
        match data_only {
            true => fs::fdatasync(&*file),
            false => fs::fsync(&*file),
        }
    }

    /// Makes the entries of a directory durable.
    pub fn fsync_dir(&self, node: NodeId) -> Result<()> {
        let node = self.nodes.get(node)?;
        let upper = match &node.body {
            Body::Dir(dir) => lock(&dir.state).upper,
            Body::File(_) => return Err(Errno::NOTDIR),
        };
        if self.options.sync == Sync::Volatile || !upper {
            return Ok(());
        }
        let upper = self.upper_dir(&node)?;
        let _long = self.long();
        fs::fsync(&*upper)
    }
}
