//! Files and directories of a mounted file system, as programs see them.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;

use overlay::Prefix;
use sys::Dir;
use sys::ids::Ids;

use super::tree::Level;
use super::{PackError, Packer, Thing, read};
use crate::tar::Kind;

/// What is packed of a mounted file system.
#[derive(Debug)]
pub enum What<'a> {
    /// An entry of a directory that is no directory itself; a symbolic link as one.
    Entry(&'a Dir, &'a OsStr),
    /// A directory, with everything in it.
    Dir(&'a Dir),
}

/// Packs something as `called`; with a directory called `.` what is in it is named from there. Nothing means a whiteout
/// here. Of file systems that hold no files but show the kernel's state (`proc`, `sysfs` and the like) the directory alone
/// is packed that they are mounted at. With `ids` it is packed as it is seen in a user namespace with these ids.
pub fn pack_entry(
    what: &What<'_>,
    called: &OsStr,
    ids: Option<&Ids>,
    out: impl Write,
) -> Result<(), PackError> {
    let mut packer = Packer::new(Prefix::Trusted, None, false, out);
    packer.overlay = false;
    packer.ids = ids;
    let path = PathBuf::from(called);
    packer.all(|packer| match what {
        What::Entry(parent, name) => packer.one(parent, name, &path).map(drop),
        What::Dir(dir) => {
            let stat = dir.metadata().map_err(read(&path))?;
            let thing = Thing::of_dir(dir).map_err(read(&path))?;
            packer.head(&packer.entry(&path, &stat, Kind::Directory, thing.attributes))?;
            let below = if called == "." {
                PathBuf::new()
            } else {
                path.clone()
            };
            let top = dir.try_clone().map_err(read(&path))?;
            packer.walk(dir, Level::new(top, below, PathBuf::new())?)
        }
    })
}

/// Whether a directory shows what is no file.
pub(super) fn is_pseudo(dir: &Dir) -> bool {
    const PSEUDO: [u64; 6] = [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270, 0x1cd1, 0x1980_0202];
    rustix::fs::fstatfs(dir).is_ok_and(|status| PSEUDO.contains(&(status.f_type as u64)))
}
