//! [`Stack`]: what a path is in layers laid one over another, and what a merged directory lists.
//!
//! The rules, which are the kernel's: only directories merge; the topmost thing that is no directory wins and ends
//! the merge; a whiteout hides what is below it; an opaque directory ends the merge with itself; a redirect says
//! under which name the layers below continue. Metadata of a merged directory is its topmost part's.
//!
//! The stack is only read, and it must not change while it is. A [`Merged`] directory holds no descriptor, so any
//! number may be kept; [`Stack::open`] opens one for looking into.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Stat};
use sys::Dir;

use crate::metacopy::Metacopy;
use crate::redirect::Redirect;
use crate::whiteout::{self, Opaque};
use crate::xattr::{METACOPY, Prefix, REDIRECT};

/// Layers, topmost first; `D` is how they are held: `&Dir`, or `Dir` for a stack that owns them.
#[derive(Debug, Clone)]
pub struct Stack<D> {
    layers: Vec<D>,
    prefix: Prefix,
    /// Whether redirects are followed. Else they answer `EPERM`.
    redirects: bool,
    /// Whether whiteouts of the named kind are read too.
    named: bool,
}

/// A place in one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Index of the layer, 0 being the topmost.
    pub layer: usize,
    /// Path from the layer's root, without a leading `/`; empty for the root itself.
    pub path: PathBuf,
}

/// A directory of the merged view.
#[derive(Debug, Clone)]
pub struct Merged {
    /// Status of the topmost part, which is what the merged view shows.
    pub stat: Stat,
    /// The directories it consists of, topmost first; at least one.
    pub parts: Vec<Place>,
}

/// What the merged view has under a name.
#[derive(Debug, Clone)]
pub enum Found {
    /// A directory.
    Dir(Merged),
    /// Anything else, which is in one layer alone.
    File {
        /// Its status; a metadata-only file's size is right, its blocks are not.
        stat: Stat,
        /// Where it is.
        place: Place,
    },
}

impl Found {
    /// The status that the merged view shows (inode and device numbers are the layer's).
    pub fn stat(&self) -> &Stat {
        match self {
            Found::Dir(merged) => &merged.stat,
            Found::File { stat, .. } => stat,
        }
    }

    /// Where its metadata lies: the file itself, or the topmost part of a directory.
    pub fn place(&self) -> &Place {
        match self {
            Found::Dir(merged) => &merged.parts[0],
            Found::File { place, .. } => place,
        }
    }
}

/// A merged directory, opened for looking into it: by [`Stack::child`] and [`Stack::names`] of the stack that opened
/// it.
#[derive(Debug)]
pub struct OpenMerged {
    pub(crate) parts: Vec<OpenPart>,
}

#[derive(Debug)]
pub(crate) struct OpenPart {
    /// `None` where too many are open already; then it is opened when it is asked.
    pub(crate) dir: Option<Dir>,
    pub(crate) place: Place,
}

/// Of a merged directory so many parts are kept open. An image may have hundreds of layers, and a process may open
/// few files.
pub(crate) const KEPT_OPEN: usize = 64;

/// What one directory of one layer has under a name.
pub(crate) enum Single {
    Missing,
    Whiteout,
    File(Stat),
    Dir(Stat, Dir, Opaque, Option<Redirect>),
}

impl<D: Borrow<Dir>> Stack<D> {
    /// A stack of `layers`, topmost first, written with `prefix`.
    pub fn new(layers: impl IntoIterator<Item = D>, prefix: Prefix) -> Stack<D> {
        Stack {
            layers: layers.into_iter().collect(),
            prefix,
            redirects: prefix == Prefix::Trusted,
            named: false,
        }
    }

    /// The same stack, following redirects or refusing them with an error of kind `PermissionDenied`. Without this
    /// they are followed but in layers of the user prefix, whose writer could point them at what their readers may not
    /// see: as in the kernel.
    pub fn with_redirects(mut self, follow: bool) -> Stack<D> {
        self.redirects = follow;
        self
    }

    /// The same stack, reading whiteouts of the named kind (`.wh.NAME`) too, or not.
    pub fn with_named_whiteouts(mut self, read: bool) -> Stack<D> {
        self.named = read;
        self
    }

    /// Whether whiteouts of the named kind are read.
    pub fn named_whiteouts(&self) -> bool {
        self.named
    }

    /// The layers, topmost first.
    pub fn layers(&self) -> &[D] {
        &self.layers
    }

    /// What the overlay's own attributes begin with.
    pub fn prefix(&self) -> Prefix {
        self.prefix
    }

    fn layer(&self, index: usize) -> &Dir {
        self.layers[index].borrow()
    }

    /// The root of the merged view; `None` for a stack without layers. As in the kernel the roots of all layers
    /// merge, whatever marks they carry.
    pub fn root(&self) -> io::Result<Option<Merged>> {
        let Some(top) = self.layers.first() else {
            return Ok(None);
        };
        let parts = (0..self.layers.len()).map(|layer| Place {
            layer,
            path: PathBuf::new(),
        });
        Ok(Some(Merged {
            stat: top.borrow().metadata()?,
            parts: parts.collect(),
        }))
    }

    /// Looks up `path` (relative, of plain components) from the root. Symbolic links are found, never followed:
    /// below one there is nothing.
    pub fn lookup(&self, path: &Path) -> io::Result<Option<Found>> {
        let Some(root) = self.root()? else {
            return Ok(None);
        };
        let mut found = Found::Dir(root);
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::CurDir => continue,
                _ => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
            };
            let Found::Dir(merged) = &found else {
                return Ok(None);
            };
            match self.child(&self.open(merged)?, name)? {
                Some(child) => found = child,
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    /// Opens a merged directory for looking into it.
    pub fn open(&self, merged: &Merged) -> io::Result<OpenMerged> {
        let open = |(index, place): (usize, &Place)| {
            let kept = index < KEPT_OPEN;
            Ok(OpenPart {
                dir: kept.then(|| self.open_place(place)).transpose()?,
                place: place.clone(),
            })
        };
        let parts = merged
            .parts
            .iter()
            .enumerate()
            .map(open)
            .collect::<io::Result<_>>()?;
        Ok(OpenMerged { parts })
    }

    /// Opens the directory at `place` in its layer.
    pub fn open_place(&self, place: &Place) -> io::Result<Dir> {
        self.layer(place.layer).open_dir(&place.path)
    }

    /// Where the data of a regular file lies: in itself, or for a metadata-only file in a layer below. An error of
    /// kind `NotFound` says that the data is missing, which the kernel answers with EIO.
    ///
    /// Layers of the prefix `user.` hold no metadata-only files: the kernel ignores the attribute there.
    pub fn data_place(&self, parent: &Merged, name: &OsStr, file: &Place) -> io::Result<Place> {
        let mut place = file.clone();
        let mut name = name.to_owned();
        let mut parent = parent.clone();
        loop {
            let Some(redirect) = self.metadata_only(&place)? else {
                return Ok(place);
            };
            let below = place.layer + 1;
            let next = match redirect {
                Some(Redirect::FromRoot(path)) => {
                    let lower = Stack::new(
                        self.layers[below.min(self.layers.len())..]
                            .iter()
                            .map(Borrow::borrow),
                        self.prefix,
                    );
                    lower.lookup(&path)?.map(|found| raise(found, below))
                }
                other => {
                    if let Some(Redirect::Sibling(renamed)) = other {
                        name = renamed;
                    }
                    parent.parts.retain(|part| part.layer >= below);
                    self.child(&self.open(&parent)?, &name)?
                }
            };
            match next {
                Some(Found::File { place: lower, stat })
                    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile =>
                {
                    place = lower;
                }
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::NotFound,
                        "the data of a metadata-only file is missing",
                    ));
                }
            }
        }
    }

    /// Where the data of a metadata-only file lies that is above this stack, in the directory that merges with
    /// `parent` here, under `name` or where `redirect` says.
    pub(crate) fn data_below(
        &self,
        parent: &Merged,
        name: &OsStr,
        redirect: Option<&[u8]>,
    ) -> io::Result<Place> {
        let (found, name) = match redirect.and_then(Redirect::parse) {
            Some(Redirect::FromRoot(path)) => (self.lookup(&path)?, name.to_owned()),
            Some(Redirect::Sibling(renamed)) => (self.child(&self.open(parent)?, &renamed)?, renamed),
            None => (self.child(&self.open(parent)?, name)?, name.to_owned()),
        };
        match found {
            Some(Found::File { place, stat })
                if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile =>
            {
                self.data_place(parent, &name, &place)
            }
            _ => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the data of a metadata-only file is missing",
            )),
        }
    }

    /// `Some` with its redirect when the regular file at `place` holds no data of its own.
    fn metadata_only(&self, place: &Place) -> io::Result<Option<Option<Redirect>>> {
        if self.prefix == Prefix::User {
            return Ok(None);
        }
        let (dir, name) = self.parent_of(place)?;
        let Some(value) = dir.get_xattr(&name, self.prefix.name(METACOPY))? else {
            return Ok(None);
        };
        if Metacopy::parse(&value).is_none() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "malformed metacopy attribute",
            ));
        }
        let redirect = dir.get_xattr(&name, self.prefix.name(REDIRECT))?;
        Ok(Some(redirect.as_deref().and_then(Redirect::parse)))
    }

    /// The directory that holds `place` in its layer, opened, and the last component of its path.
    pub fn parent_of(&self, place: &Place) -> io::Result<(Dir, OsString)> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let name = place.path.file_name().ok_or_else(invalid)?;
        let parent = place.path.parent().unwrap_or(Path::new(""));
        Ok((self.layer(place.layer).open_dir(parent)?, name.to_owned()))
    }

    pub(crate) fn single(&self, dir: &Dir, name: &OsStr) -> io::Result<Single> {
        if self.named && whiteout::named(name).is_some() {
            return Ok(Single::Missing);
        }
        let stat = match dir.try_stat(name) {
            Ok(Some(stat)) => stat,
            Ok(None) if self.named && whiteout::has_named(dir, name)? => return Ok(Single::Whiteout),
            Ok(None) => return Ok(Single::Missing),
            // A name longer than this layer's file system allows is simply not there.
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => return Ok(Single::Missing),
            Err(error) => return Err(error),
        };
        if whiteout::is_whiteout(dir, name, &stat, self.prefix)? {
            return Ok(Single::Whiteout);
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(Single::File(stat));
        }
        let child = dir.open_dir(name)?;
        let mut mark = Opaque::read(child.as_fd(), self.prefix)?;
        if self.named && (whiteout::has_named(dir, name)? || whiteout::is_opaque_by_name(&child)?) {
            mark = Opaque::Yes;
        }
        let redirect = match mark {
            Opaque::Yes => None,
            _ => self
                .prefix
                .get(child.as_fd(), REDIRECT)?
                .as_deref()
                .and_then(Redirect::parse),
        };
        Ok(Single::Dir(stat, child, mark, redirect))
    }

    /// Continues a merge at `path` from the root in every layer from `first` down: what an absolute redirect asks.
    fn merge_from_root(&self, mut path: PathBuf, first: usize, parts: &mut Vec<Place>) -> io::Result<()> {
        for layer in first..self.layers.len() {
            let components: Vec<OsString> = path.iter().map(OsStr::to_owned).collect();
            let mut at = self.layer(layer).try_clone()?;
            let mut last_layer = false;
            for (depth, name) in components.iter().enumerate() {
                let last = depth + 1 == components.len();
                let (child, child_mark, redirect) = match self.single(&at, name)? {
                    Single::Missing => break,
                    Single::Whiteout | Single::File(_) => return Ok(()),
                    Single::Dir(_, child, mark, redirect) => (child, mark, redirect),
                };
                if last {
                    parts.push(Place {
                        layer,
                        path: components.iter().collect(),
                    });
                }
                last_layer |= child_mark == Opaque::Yes;
                // A redirect on the way, or at its end, says how the layers below this one continue.
                let rest = &components[depth + 1..];
                match redirect {
                    None => {}
                    Some(Redirect::FromRoot(to)) => {
                        path = to.iter().chain(rest.iter().map(OsString::as_os_str)).collect();
                        last_layer = false;
                    }
                    Some(Redirect::Sibling(to)) => {
                        let before = components[..depth].iter();
                        path = before.chain([&to]).chain(rest).collect();
                    }
                }
                at = child;
            }
            if last_layer {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Shifts the layers of what was found in the lower part of a stack.
fn raise(mut found: Found, by: usize) -> Found {
    match &mut found {
        Found::Dir(merged) => merged.parts.iter_mut().for_each(|part| part.layer += by),
        Found::File { place, .. } => place.layer += by,
    }
    found
}

impl<D: Borrow<Dir>> Stack<D> {
    /// Has `look` look into a part.
    pub(crate) fn with<R>(&self, part: &OpenPart, look: impl FnOnce(&Dir) -> io::Result<R>) -> io::Result<R> {
        match &part.dir {
            Some(dir) => look(dir),
            None => look(&self.open_place(&part.place)?),
        }
    }

    /// What the merged view has under `name`, a single component.
    pub fn child(&self, dir: &OpenMerged, name: &OsStr) -> io::Result<Option<Found>> {
        self.child_among(dir, name, |_| true)
    }

    /// As [`Stack::child`], for one who knows that the parts of some layers have nothing under the name: only those
    /// that `may` are looked into.
    pub(crate) fn child_among(
        &self,
        dir: &OpenMerged,
        name: &OsStr,
        may: impl Fn(usize) -> bool,
    ) -> io::Result<Option<Found>> {
        let mut name = Cow::Borrowed(name);
        let mut merged: Option<Merged> = None;
        for (index, part) in dir.parts.iter().enumerate() {
            if merged.is_none() && !may(part.place.layer) {
                continue;
            }
            let place = || Place {
                layer: part.place.layer,
                path: part.place.path.join(&name),
            };
            let (stat, mark, redirect) = match self.with(part, |dir| self.single(dir, &name))? {
                Single::Missing => continue,
                Single::Whiteout => break,
                Single::File(stat) if merged.is_none() => {
                    let place = place();
                    return Ok(Some(Found::File { stat, place }));
                }
                Single::File(_) => break,
                Single::Dir(stat, _, mark, redirect) => (stat, mark, redirect),
            };
            let (place, layer) = (place(), part.place.layer);
            let merged = merged.get_or_insert(Merged {
                stat,
                parts: Vec::new(),
            });
            merged.parts.push(place);
            if mark == Opaque::Yes {
                break;
            }
            match redirect {
                None => {}
                Some(_) if !self.redirects => {
                    if index + 1 == dir.parts.len() {
                        break;
                    }
                    return Err(io::Error::new(
                        io::ErrorKind::PermissionDenied,
                        "a redirect that may not be followed",
                    ));
                }
                Some(Redirect::Sibling(renamed)) => name = Cow::Owned(renamed),
                Some(Redirect::FromRoot(path)) => {
                    self.merge_from_root(path, layer + 1, &mut merged.parts)?;
                    break;
                }
            }
        }
        Ok(merged.map(Found::Dir))
    }

    /// Every name that the merged view lists, in byte order, whiteouts taken away. As in the kernel, whiteouts of
    /// the attribute kind in a directory without its mark are listed, and then not found by [`Stack::child`].
    pub fn names(&self, dir: &OpenMerged) -> io::Result<Vec<OsString>> {
        let mut shown = BTreeSet::new();
        let mut hidden = BTreeSet::new();
        for part in &dir.parts {
            self.with(part, |dir| {
                let mark = Opaque::read(dir.as_fd(), self.prefix)?;
                let mut below = Vec::new();
                for entry in dir.entries()? {
                    if let Some(name) = whiteout::named(&entry.name).filter(|_| self.named) {
                        below.push(name.to_owned());
                        continue;
                    }
                    if shown.contains(&entry.name) || hidden.contains(&entry.name) {
                        continue;
                    }
                    // Only what can be a whiteout is worth a look.
                    let candidate = match entry.file_type.0 {
                        FileType::CharacterDevice | FileType::Unknown => true,
                        FileType::RegularFile => mark == Opaque::Whiteouts,
                        _ => false,
                    };
                    let gone = candidate && {
                        let stat = dir.stat(&entry.name)?;
                        whiteout::is_whiteout(dir, &entry.name, &stat, self.prefix)?
                    };
                    if gone {
                        hidden.insert(entry.name);
                    } else {
                        shown.insert(entry.name);
                    }
                }
                hidden.extend(below);
                Ok(())
            })?;
        }
        Ok(shown.into_iter().collect())
    }
}
