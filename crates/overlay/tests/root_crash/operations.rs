//! The operations, by path, as a program calls them.

use std::ffi::OsStr;

use overlay::live::{Caller, NodeId, Overlay, ROOT, SetAttr};
use rustix::fs::{OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;

pub(crate) type Done = Result<(), Errno>;

pub(crate) fn node(overlay: &Overlay, path: &str) -> Result<NodeId, Errno> {
    let mut at = ROOT;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at = overlay.lookup(at, OsStr::new(name))?.node;
    }
    Ok(at)
}

pub(crate) fn parent<'p>(overlay: &Overlay, path: &'p str) -> Result<(NodeId, &'p OsStr), Errno> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    Ok((node(overlay, parent)?, OsStr::new(name)))
}

pub(crate) fn open(overlay: &Overlay, path: &str, flags: OFlags) -> Done {
    overlay.open(node(overlay, path)?, flags, false).map(drop)
}

pub(crate) fn chmod(overlay: &Overlay, path: &str) -> Done {
    let set = SetAttr {
        mode: Some(0o604),
        ..SetAttr::default()
    };
    overlay.setattr(node(overlay, path)?, &set, None).map(drop)
}

pub(crate) fn truncate(overlay: &Overlay, path: &str, size: u64) -> Done {
    let set = SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    overlay.setattr(node(overlay, path)?, &set, None).map(drop)
}

pub(crate) fn set(overlay: &Overlay, path: &str) -> Done {
    let name = OsStr::new("trusted.more");
    overlay.setxattr(node(overlay, path)?, name, b"value", XattrFlags::empty(), false)
}

pub(crate) fn unlink(overlay: &Overlay, path: &str) -> Done {
    let (parent, name) = parent(overlay, path)?;
    overlay.unlink(parent, name)
}

pub(crate) fn rmdir(overlay: &Overlay, path: &str) -> Done {
    let (parent, name) = parent(overlay, path)?;
    overlay.rmdir(parent, name)
}

pub(crate) fn rename_with(overlay: &Overlay, old: &str, new: &str, flags: RenameFlags) -> Done {
    let (from, name) = parent(overlay, old)?;
    let (to, new_name) = parent(overlay, new)?;
    overlay.rename(from, name, to, new_name, flags)
}

pub(crate) fn rename(overlay: &Overlay, old: &str, new: &str) -> Done {
    rename_with(overlay, old, new, RenameFlags::empty())
}

pub(crate) fn exchange(overlay: &Overlay, old: &str, new: &str) -> Done {
    rename_with(overlay, old, new, RenameFlags::EXCHANGE)
}

pub(crate) fn link(overlay: &Overlay, old: &str, new: &str) -> Done {
    let (to, new_name) = parent(overlay, new)?;
    overlay.link(node(overlay, old)?, to, new_name).map(drop)
}

pub(crate) const MAKER: Caller = Caller {
    uid: 1234,
    gid: 1235,
    group: None,
    umask: 0o027,
};

pub(crate) fn create(overlay: &Overlay, path: &str) -> Done {
    let (parent, name) = parent(overlay, path)?;
    overlay
        .create(parent, name, OFlags::WRONLY, 0o664, MAKER)
        .map(drop)
}

pub(crate) fn mkdir(overlay: &Overlay, path: &str) -> Done {
    let (parent, name) = parent(overlay, path)?;
    overlay.mkdir(parent, name, 0o777, MAKER).map(drop)
}

pub(crate) fn symlink(overlay: &Overlay, path: &str) -> Done {
    let (parent, name) = parent(overlay, path)?;
    overlay
        .symlink(parent, name, OsStr::new("where"), MAKER)
        .map(drop)
}

pub(crate) fn mknod(overlay: &Overlay, path: &str) -> Done {
    let (parent, name) = parent(overlay, path)?;
    overlay.mknod(parent, name, 0o010664, 0, MAKER).map(drop)
}
