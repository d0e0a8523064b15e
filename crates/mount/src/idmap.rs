//! Overlays of id-mapped layers: what lies on disk as one owner's is seen, and written, as another's.
//!
//! The kernel maps a mount and not a file system, so each layer gets a mount of its own with the mapping. In a mount
//! namespace that a thread has for itself these lie over the layers, under their own names, and there the overlay is
//! built. The kernel's overlay keeps its own copies of them; nobody sees them anywhere, and nothing is to be taken away.
//!
//! The upper and the work directory are mapped as the layers are: on disk everything belongs to the ids of the container,
//! whatever they are outside, and what is committed, compared or exported needs no translation. Linux 5.19.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::MountPropagationFlags;
use sys::creds::Maker;
use sys::ids::Ids;
use sys::mount::SetAttr;
use sys::process::namespaces;

use crate::overlay::Overlay;

/// The mapping among the options of a mount, in the order of `uidmap=` and `gidmap=`; they are taken out.
pub(crate) fn take(options: &mut Vec<String>) -> Option<Result<Ids, String>> {
    let mut maps = [None, None];
    options.retain(|option| {
        for (place, key) in ["uidmap=", "gidmap="].into_iter().enumerate() {
            if let Some(value) = option.strip_prefix(key) {
                maps[place] = Some(value.to_owned());
                return false;
            }
        }
        true
    });
    let [users, groups] = maps;
    if users.is_none() && groups.is_none() {
        return None;
    }
    let text = format!("{}/{}", users.unwrap_or_default(), groups.unwrap_or_default());
    Some(text.parse().map_err(|_| format!("uidmap and gidmap {text:?}")))
}

/// A detached copy of the mount that `path` lies on, mapped.
pub(crate) fn mapped(path: &Path, recursive: bool, namespace: &OwnedFd) -> io::Result<OwnedFd> {
    let tree = sys::mount::clone_tree_at(path, recursive)?;
    let change = SetAttr {
        idmap: Some(namespace.as_fd()),
        ..SetAttr::default()
    };
    sys::mount::set_attr(tree.as_fd(), recursive, change)?;
    Ok(tree)
}

/// Has `build` build an overlay where its layers' names lead to mapped ones. What it makes on disk belongs to the root of
/// the mapping.
pub(crate) fn over<T: Send>(
    overlay: &Overlay,
    ids: &Ids,
    build: impl FnOnce() -> T + Send,
) -> Result<T, (PathBuf, io::Error)> {
    let namespace = ids
        .namespace()
        .map_err(|error| (PathBuf::from("a user namespace"), error))?;
    let there = || {
        let apart = || -> io::Result<()> {
            sys::process::unshare(namespaces::MOUNT)?;
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            Ok(rustix::mount::mount_change("/", private)?)
        };
        apart().map_err(|error| (PathBuf::from("/"), error))?;
        for path in places(overlay) {
            let cover = || sys::mount::attach_at(mapped(path, false, &namespace)?.as_fd(), path);
            cover().map_err(|error| (path.to_owned(), error))?;
        }
        let root = (ids.users.outside(0), ids.groups.outside(0));
        let (Some(uid), Some(gid)) = root else {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "the mapping has no root");
            return Err((PathBuf::from("/"), error));
        };
        // The overlay works as whoever mounted it, and the mapped directories know no other root.
        let _maker = Maker::assume(uid, gid, None, 0).map_err(|error| (PathBuf::from("/"), error))?;
        Ok(build())
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(there);
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What is mapped: each layer, and the directory that upper and work directory share, since these must be on one mount.
fn places(overlay: &Overlay) -> Vec<&Path> {
    let layers = overlay.lower.iter().chain(&overlay.data).map(PathBuf::as_path);
    let own = overlay
        .writable
        .iter()
        .flat_map(|(upper, work)| match (upper.parent(), work.parent()) {
            (Some(parent), Some(other)) if parent == other => vec![parent],
            _ => vec![upper.as_path(), work.as_path()],
        });
    layers.chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_among_options() {
        let list = |words: &[&str]| -> Vec<String> { words.iter().map(ToString::to_string).collect() };
        let mut options = list(&["uidmap=0:5:1,1:9:2", "gidmap=0:6:3", "index=off"]);
        let ids = take(&mut options).unwrap().unwrap();
        assert_eq!(ids.to_string(), "0:5:1,1:9:2/0:6:3");
        assert_eq!(options, ["index=off"]);
        assert!(take(&mut options).is_none());
        assert!(take(&mut list(&["uidmap=0:5:1"])).unwrap().is_err());
    }

    #[test]
    fn upper_and_work_are_on_one_mount() {
        let overlay = Overlay {
            lower: vec!["/s/1/fs".into()],
            writable: Some(("/s/2/fs".into(), "/s/2/work".into())),
            ..Overlay::default()
        };
        assert_eq!(places(&overlay), [Path::new("/s/1/fs"), Path::new("/s/2")]);
    }
}
