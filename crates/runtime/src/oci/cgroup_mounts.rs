//! What is mounted beneath a mount of type `cgroup`, on a machine with cgroup v1.
//!
//! Such a mount shows the cgroup2 ([`crate::launch::CgroupView`]), in which no directory can be made for a mount. Where an
//! engine wants one there (podman's `--systemd` binds `/sys/fs/cgroup/systemd`), the container gets what runc shows: a tmpfs
//! with a directory for each hierarchy, and in that its own cgroup.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};

use crate::cgroup::{CgroupPaths, Hierarchies};

/// The spec with these mounts in the place of that one; `None` where it stays as it is.
pub(super) fn laid_out(spec: &Spec, cgroups: &CgroupPaths) -> Option<Spec> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let at = mounts.iter().position(shows_cgroups)?;
    let above = place(&mounts[at]);
    let beneath = |mount: &Mount| place(mount) != above && place(mount).starts_with(&above);
    if cgroups.v1.is_empty() || !mounts[at..].iter().any(beneath) {
        return None;
    }
    let options = mounts[at].options().as_deref().unwrap_or_default();
    let read_only = options.iter().any(|option| option == "ro");
    let mut changed = mounts[..at].to_vec();
    changed.push(mount(above.clone(), "tmpfs", "tmpfs".into(), &["mode=755"]));
    let known = Hierarchies::find()
        .and_then(|found| found.all_v1())
        .unwrap_or_default();
    for path in &cgroups.v1 {
        let Some(name) = known
            .iter()
            .find(|mount| path.starts_with(mount))
            .and_then(|mount| mount.file_name())
        else {
            continue;
        };
        // Of those that are mounted together each is looked for by its name too.
        let name = name.to_string_lossy();
        let mut names: Vec<&str> = std::iter::once(&*name).chain(name.split(',')).collect();
        names.dedup();
        for name in names {
            let mode = if read_only { "ro" } else { "rw" };
            changed.push(mount(above.join(name), "bind", path.clone(), &["bind", mode]));
        }
    }
    if let Some(path) = &cgroups.unified {
        let mode = if read_only { "ro" } else { "rw" };
        changed.push(mount(
            above.join("unified"),
            "bind",
            path.clone(),
            &["bind", mode],
        ));
    }
    changed.extend_from_slice(&mounts[at + 1..]);
    if read_only {
        changed.push(mount(above, "tmpfs", "tmpfs".into(), &["remount", "bind", "ro"]));
    }
    let mut spec = spec.clone();
    spec.set_mounts(Some(changed));
    Some(spec)
}

fn shows_cgroups(mount: &Mount) -> bool {
    let options = mount.options().as_deref().unwrap_or_default();
    mount.typ().as_deref() == Some("cgroup")
        && !options.iter().any(|option| option == "bind" || option == "rbind")
}

fn place(mount: &Mount) -> PathBuf {
    Path::new("/").join(mount.destination())
}

/// One in which nothing is executed and no device opened.
fn mount(destination: PathBuf, kind: &str, source: PathBuf, options: &[&str]) -> Mount {
    let options = ["nosuid", "nodev", "noexec"].iter().chain(options);
    let mut mount = Mount::default();
    mount
        .set_destination(destination)
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source))
        .set_options(Some(options.map(ToString::to_string).collect()));
    mount
}
