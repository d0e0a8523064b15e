//! What confines a container unasked where the machine has it, beside what every machine has: AppArmor's default profile,
//! SELinux' labels.
//!
//! Start reading at [`Engine::confinement`].

mod apparmor;
mod selinux;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use mount::Mount;
use runtime::bundle::Bundle;
use runtime::options::mounts::MountOption;
use runtime::options::namespaces::NamespaceOption;
use runtime::spec::{Confinement, Labels};
use store::Fault;

use self::selinux::{Label, Policy};
use crate::Engine;
use crate::run::{Details, Plan};

/// Why a container cannot be confined as it is to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfineError {
    /// The program that compiles AppArmor's policy does not run.
    #[error("AppArmor's default profile: {}: {source}", program.display())]
    Program {
        /// `apparmor_parser`.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It, or the kernel, does not take the profile.
    #[error("AppArmor's default profile: {}: {says}", program.display())]
    Profile {
        /// `apparmor_parser`.
        program: PathBuf,
        /// What it says.
        says: String,
    },
    /// What SELinux' policy has for containers cannot be read.
    #[error("SELinux: {}: {source}", path.display())]
    Policy {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is mounted cannot be given a label.
    #[error("SELinux: labelling {}: {source}", path.display())]
    Label {
        /// Where it lies on the machine.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is to be given a label of containers is the machine's.
    #[error("SELinux: relabelling {} would take it from the machine's own programs", _0.display())]
    Machines(PathBuf),
    /// A level of its own.
    #[error("SELinux: reading random bytes: {0}")]
    Random(io::Error),
    /// Those of other containers.
    #[error(transparent)]
    Store(#[from] Fault),
}

/// What `info` tells of AppArmor where the kernel has it.
pub(crate) fn apparmor_tells() -> &'static str {
    apparmor::tells()
}

impl Engine {
    /// What confines a container of this plan beyond what it says itself.
    ///
    /// # Errors
    /// [`ConfineError`]: the machine has it, and it cannot be had.
    pub(crate) fn confinement(&self, plan: &Plan) -> Result<Confinement, ConfineError> {
        let options = &plan.container;
        let apparmor = match (&options.apparmor, options.privileged) {
            (None, false) => apparmor::default_profile()?,
            _ => None,
        };
        let labels = match &plan.labels {
            // It was made when the machine had no SELinux, or will have it no more.
            None => self.choose_labels(plan)?,
            kept => kept.clone().filter(|_| selinux::is_wanted(options)),
        };
        if labels.is_some()
            && let Some(policy) = Policy::read()?
        {
            selinux::label_layers(&self.store.layers_dir(), &policy)?;
        }
        Ok(Confinement { apparmor, labels })
    }

    /// The SELinux labels of a container that is made; none where it has none.
    ///
    /// # Errors
    /// [`ConfineError`]: the policy, or the store.
    pub(crate) fn choose_labels(&self, plan: &Plan) -> Result<Option<Labels>, ConfineError> {
        let options = &plan.container;
        if !selinux::is_wanted(options) {
            return Ok(None);
        }
        let Some(policy) = Policy::read()? else {
            return Ok(None);
        };
        // Who shares another's processes or memory is on the other's level.
        let joined = [&options.pid, &options.ipc]
            .into_iter()
            .find_map(|how| match how {
                NamespaceOption::Container(name) => self.level_of(name),
                _ => None,
            });
        let level = match joined.or_else(|| options.label.level.clone()) {
            Some(level) => Some(level),
            None => policy.free_level(&self.levels()?)?,
        };
        Ok(Some(policy.labels(&options.label, level)))
    }

    fn level_of(&self, name: &str) -> Option<String> {
        let row = self.store.find_container(self.ns(), name).ok()?;
        let spec = Bundle::open(&self.bundle_of(&row)).ok()?.spec().ok()?;
        let label = spec.process().as_ref()?.selinux_label().clone()?;
        Label::parse(&label)?.level().map(str::to_owned)
    }

    /// Those of all containers.
    fn levels(&self) -> Result<HashSet<String>, Fault> {
        let mut levels = HashSet::new();
        for ns in self.store.namespaces()? {
            let rows = self.store.containers(&ns)?;
            let labels = rows.iter().filter_map(|row| Details::of(row).plan?.labels);
            levels.extend(
                labels.filter_map(|labels| Label::parse(&labels.process)?.level().map(str::to_owned)),
            );
        }
        Ok(levels)
    }
}

/// What a root is mounted by, with the label of its container. Where it is no overlay, it is one directory of the
/// container's own, which gets the label.
pub(crate) fn labelled(mount: &Mount, labels: Option<&Labels>) -> Result<Mount, ConfineError> {
    let Some(labels) = labels else {
        return Ok(mount.clone());
    };
    if mount.kind == "bind" {
        selinux::label_tree(Path::new(&mount.source), &labels.files)?;
    }
    Ok(mount.labelled(&labels.files))
}

/// Labels the files of a bundle that are bound into the container.
pub(crate) fn label_files(labels: &Labels, files: &[(PathBuf, PathBuf)]) -> Result<(), ConfineError> {
    for (path, _) in files {
        let label = || selinux::label_file(File::open(path)?.as_fd(), &labels.files);
        label().map_err(|source| ConfineError::Label {
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Labels what is mounted of the machine's: volumes that have no label of containers yet, and what asks for it.
pub(crate) fn label_sources(
    labels: &Labels,
    volumes: &[MountOption],
    mounts: &[MountOption],
) -> Result<(), ConfineError> {
    selinux::label_sources(labels, volumes, mounts)
}
