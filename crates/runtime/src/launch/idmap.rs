//! Bind mounts with an id mapping of their own (`uidMappings`, `gidMappings`, `idmap`, `ridmap`): what lies on disk as
//! one owner's is seen, and written, as another's. mount_setattr(2), `MOUNT_ATTR_IDMAP`.
//!
//! The kernel takes the mapping from a user namespace, and gives it only to who has every right on the file system.
//! So this is done by the supervisor, before the fork: the container's process may be in a user namespace by then.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, Mount, Spec};
use sys::caps::Set;
use sys::ids::{Ids, Map, Range};
use sys::mount::SetAttr;

use super::fault::{During, Fault, Result};
use super::options;
use super::sysctl::Proc;
use crate::rootless;

type Maps<'s> = [Option<&'s Vec<LinuxIdMapping>>; 2];

/// Detached and mapped copies of what the mounts of a spec bind: one for each mount, `None` for those without a
/// mapping.
pub(super) fn prepare(spec: &Spec, bundle: &Path) -> Result<Vec<Option<OwnedFd>>> {
    let linux = spec.linux().as_ref();
    let containers = [
        linux.and_then(|linux| linux.uid_mappings().as_ref()),
        linux.and_then(|linux| linux.gid_mappings().as_ref()),
    ];
    let mounts = spec.mounts().iter().flatten();
    mounts
        .map(|mount| prepare_one(mount, containers, bundle))
        .collect()
}

fn prepare_one(mount: &Mount, containers: Maps<'_>, bundle: &Path) -> Result<Option<OwnedFd>> {
    let shown = mount.destination().display().to_string();
    let options = options::parse(mount.options().as_deref().unwrap_or_default());
    let own = [mount.uid_mappings().as_ref(), mount.gid_mappings().as_ref()];
    let asked = own.iter().any(Option::is_some);
    if !asked && options.id_mapped.is_none() {
        return Ok(None);
    }
    let wrong = |what: &str| Err(Fault::new(format!("mount {shown}: {what}")));
    let Some(source) = mount.source() else {
        return wrong("a bind mount without a source");
    };
    let recursive = match (options.bind, mount.typ().as_deref()) {
        (Some(recursive), _) => recursive,
        (None, Some("bind")) => false,
        _ => return wrong("only bind mounts can have an id mapping"),
    };
    let maps = if asked { own } else { containers };
    if maps.iter().any(|maps| maps.is_none_or(Vec::is_empty)) {
        return wrong("an id mapping needs both uidMappings and gidMappings");
    }
    let doing = || format!("mount {shown}: mapping the ids of {}", source.display());
    let tree = sys::mount::clone_tree_at(bundle.join(source), recursive)
        .during(|| format!("mount source {}", source.display()))?;
    let namespace = namespace(maps)?;
    let change = SetAttr {
        idmap: Some(namespace.as_fd()),
        ..SetAttr::default()
    };
    sys::mount::set_attr(tree.as_fd(), options.id_mapped.unwrap_or(false), change).during(doing)?;
    Ok(Some(tree))
}

/// Whether the calling process may give a user namespace whatever ids it likes: an ordinary user's may not.
pub(super) fn may_map() -> Result<bool> {
    let own = sys::caps::current().during(|| "looking at oneself".into())?;
    let has = |name| Set::named(name).is_some_and(|right| own.effective.contains(right));
    Ok(has("SETUID") && has("SETGID"))
}

fn ids(maps: Maps<'_>) -> Ids {
    let [users, groups] = maps.map(|map| Map(map.into_iter().flatten().map(range).collect()));
    Ids { users, groups }
}

/// A user namespace that nobody lives in.
fn namespace(maps: Maps<'_>) -> Result<OwnedFd> {
    let made = ids(maps).namespace();
    made.during(|| "making a user namespace for an id mapping".into())
}

fn range(map: &LinuxIdMapping) -> Range {
    Range {
        inside: map.container_id(),
        outside: map.host_id(),
        count: map.size(),
    }
}

/// Gives the user namespace of a process its mappings: users, then groups.
pub(super) fn write_maps(pid: i32, maps: Maps<'_>) -> Result<()> {
    if maps.iter().any(Option::is_some) && !may_map()? {
        return rootless::give(&ids(maps), pid).map_err(|error| Fault::new(error.to_string()));
    }
    let proc = Proc::open()?;
    for (file, mappings) in ["uid_map", "gid_map"].into_iter().zip(maps) {
        let line =
            |map: &LinuxIdMapping| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size());
        let text: String = mappings.into_iter().flatten().map(line).collect();
        if !text.is_empty() {
            proc.write(&format!("{pid}/{file}"), &text)
                .during(|| format!("writing {file} {:?}", text.trim_end()))?;
        }
    }
    Ok(())
}
