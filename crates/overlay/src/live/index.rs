//! The index: one entry for each hard-linked lower file that was copied up, so that all its names stay one file.
//!
//! `index/<hex of the origin value>` in the work directory is a link of the upper file. A name that is still only in
//! a lower layer finds its file there. The attribute `nlink` of the upper file says how many links the view has.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, Stat};
use sys::Dir;

use super::node::Indexed;
use super::place::Entry;
use super::{Overlay, Result, errno, xattrs};
use crate::Prefix;
use crate::stack::{OpenMerged, Place};
use crate::xattr::{NLINK, ORIGIN};

/// An index entry that belongs to a file that was looked up.
pub(super) struct FoundIndexed {
    pub(super) indexed: Indexed,
    /// A layer on the lower file's file system.
    pub(super) layer: usize,
    /// Device and inode of the lower file.
    pub(super) lower: (u64, u64),
    /// Device and inode of the upper file.
    pub(super) entry: (u64, u64),
}

/// Name of the entry for an `origin` value.
pub(super) fn entry_name(origin: &[u8]) -> OsString {
    origin
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>()
        .into()
}

/// The link count that a value of `nlink` tells, `{U|L}{+|-}N`: relative to the upper file's or the lower file's own.
fn parse_nlink(value: &[u8], upper: i64, lower: i64) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let base = match text.as_bytes().first()? {
        b'U' => upper,
        b'L' => lower,
        _ => return None,
    };
    let count = base + text[1..].parse::<i64>().ok()?;
    (count >= 1).then_some(count)
}

/// Whether a value of `nlink` says that a file whose only link is its entry has no name in the view.
fn is_orphan(value: &[u8]) -> bool {
    value.starts_with(b"U-")
        && parse_nlink(value, 1, 0).is_none()
        && parse_nlink(value, i64::MAX, 0).is_some()
}

impl Overlay {
    /// The entry of an upper file that has several links, if it was copied up through the index.
    pub(super) fn indexed_upper(
        &self,
        open: &OpenMerged,
        name: &OsStr,
        stat: &Stat,
    ) -> Result<Option<FoundIndexed>> {
        let Some(dir) = &open.parts[0].dir else {
            return Ok(None);
        };
        let origin = xattrs::get(&Entry::At(dir, name), &self.options.prefix.name(ORIGIN))?;
        let Some(origin) = origin.filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let Some((layer, lower)) = self.decode_origin(&origin)? else {
            return Ok(None);
        };
        let found = self.index_entry(&entry_name(&origin), layer, &lower)?;
        Ok(found.filter(|found| found.entry == (stat.st_dev, stat.st_ino)))
    }

    /// The entry of a lower file that has several links, if one of them was copied up.
    pub(super) fn indexed_lower(&self, place: &Place) -> Result<Option<FoundIndexed>> {
        let (dir, name) = self.stack.parent_of(place).map_err(errno)?;
        let file = Entry::At(&dir, &name).pin()?;
        let origin = self.encode_origin(place.layer, file.as_fd());
        if origin.is_empty() {
            return Ok(None);
        }
        let lower = rustix::fs::fstat(&file)?;
        self.index_entry(&entry_name(&origin), place.layer, &lower)
    }

    fn index_entry(&self, entry: &OsStr, layer: usize, lower: &Stat) -> Result<Option<FoundIndexed>> {
        let index = self.work()?.index()?;
        let Some(stat) = index.try_stat(entry).map_err(errno)? else {
            return Ok(None);
        };
        let nlink = xattrs::get(&Entry::At(index, entry), &self.options.prefix.name(NLINK))?;
        let lower_nlink = lower.st_nlink as i64;
        let nlink = nlink
            .and_then(|value| parse_nlink(&value, stat.st_nlink as i64, lower_nlink))
            .unwrap_or(stat.st_nlink as i64);
        Ok(Some(FoundIndexed {
            indexed: Indexed {
                entry: entry.into(),
                nlink,
                lower_nlink,
            },
            layer,
            lower: (lower.st_dev, lower.st_ino),
            entry: (stat.st_dev, stat.st_ino),
        }))
    }

    /// Before the upper file gets or loses a link that the view does not: states the count relative to the lower
    /// file, whose links stay.
    pub(super) fn nlink_by_lower(&self, indexed: &Indexed) -> Result<()> {
        let difference = indexed.nlink - indexed.lower_nlink;
        self.write_nlink(indexed, format!("L{difference:+}"))
    }

    /// Before the upper file gets or loses a link with the view, and after one that the view does not see: states the
    /// count relative to the upper file, with which it will change at once.
    pub(super) fn nlink_by_upper(&self, indexed: &Indexed) -> Result<()> {
        let stat = self.work()?.index()?.stat(&*indexed.entry).map_err(errno)?;
        let difference = indexed.nlink - stat.st_nlink as i64;
        self.write_nlink(indexed, format!("U{difference:+}"))
    }

    fn write_nlink(&self, indexed: &Indexed, value: String) -> Result<()> {
        let index = self.work()?.index()?;
        let attribute = self.options.prefix.name(NLINK);
        xattrs::set(&Entry::At(index, &indexed.entry), &attribute, value.as_bytes())
    }

    /// The file lost its last name in the view: its entry goes.
    pub(super) fn remove_entry(&self, indexed: &Indexed) -> Result<()> {
        match self.work()?.index()?.unlink(&*indexed.entry) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(errno(error)),
            _ => Ok(()),
        }
    }

    /// Opens the upper file of an entry, for linking it elsewhere.
    pub(super) fn link_from_index(&self, indexed: &Indexed, to: &Dir, name: &OsStr) -> Result<()> {
        let index = self.work()?.index()?;
        rustix::fs::linkat(index, &*indexed.entry, to, name, AtFlags::empty())
    }
}

/// What `nlink` says of a file that has all the links of its lower file.
pub(super) const ALL_LINKS: &[u8] = b"L+0";

/// Opens or makes the index directory, and removes from it what a crash left: temporaries, and files that lost their
/// last name in the view.
pub(super) fn prepare(work: &Dir, prefix: Prefix) -> std::io::Result<Dir> {
    match work.mkdir("index", Mode::RWXU) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    let dir = work.open_dir("index")?;
    for entry in dir.entries()? {
        // What is not a hex name is a temporary of a copy-up.
        let hex = entry.name.as_encoded_bytes().iter().all(u8::is_ascii_hexdigit);
        if !hex {
            dir.remove_tree(&entry.name)?;
        } else if entry.file_type.0 != FileType::Directory && dir.stat(&entry.name)?.st_nlink == 1 {
            let nlink = dir.get_xattr(&entry.name, prefix.name(NLINK))?;
            if nlink.is_some_and(|value| is_orphan(&value)) {
                dir.unlink(&entry.name)?;
            }
        }
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_counts() {
        assert_eq!(parse_nlink(b"U+1", 2, 9), Some(3));
        assert_eq!(parse_nlink(b"L-1", 2, 9), Some(8));
        assert_eq!(parse_nlink(b"U-2", 2, 9), None);
        for bad in [&b""[..], b"X+1", b"U", b"U+x", b"\xff"] {
            assert_eq!(parse_nlink(bad, 2, 9), None);
        }
        assert!(is_orphan(b"U-1") && !is_orphan(b"U+0") && !is_orphan(b"L-1") && !is_orphan(b"U-x"));
        assert_eq!(entry_name(&[0, 0xfb, 0x1d]), "00fb1d");
    }
}
