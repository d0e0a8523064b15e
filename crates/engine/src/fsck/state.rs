//! What runs, held against what is mounted and what has a row.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use store::Fault;

use super::{Finding, FsckOptions};
use crate::Engine;
use crate::rm::{detach, hold_bundles, is_id};
use crate::run::Details;

impl Engine {
    /// Checks run directories, mounts and containers of every namespace.
    pub(super) fn check_state(
        &self,
        options: &FsckOptions,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Fault> {
        let mut namespaces: HashSet<String> = self.store.namespaces()?.into_iter().collect();
        let entries = std::fs::read_dir(self.state_dir())
            .into_iter()
            .flatten()
            .flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        // No namespace begins with a dot: what does is of all of them.
        namespaces.extend(names.filter(|name| !name.starts_with('.')));
        let mut namespaces: Vec<String> = namespaces.into_iter().collect();
        namespaces.sort();
        for namespace in namespaces {
            if namespace == self.ns() {
                self.check_namespace(options, findings)?;
                continue;
            }
            let setup = crate::Setup {
                namespace,
                ..self.setup.clone()
            };
            if let Ok(store) = self.store.reopen() {
                Engine { store, setup }.check_namespace(options, findings)?;
            }
        }
        Ok(())
    }

    fn check_namespace(&self, options: &FsckOptions, findings: &mut Vec<Finding>) -> Result<(), Fault> {
        let path = self.bundles();
        // While a container is being started it has no row yet, or no process; while this is held, none is.
        let Some(bundles) = hold_bundles(&path) else {
            return Ok(());
        };
        let rows = self.store.containers(self.ns())?;
        let mounts = mount::table::read().unwrap_or_default();
        let mended = |done: Result<(), String>, how: &str, found: &mut Finding| match done {
            Ok(()) => found.mended = Some(how.to_owned()),
            Err(error) => found.left = Some(error),
        };
        // Of those that commands with another state directory look after, nothing lies here.
        for row in rows.iter().filter(|row| self.bundles_of(row) == path) {
            let running = self.state(row).is_up();
            let rootfs = self.bundle_of(row).join("rootfs");
            let mounted = mounts.iter().any(|mount| mount.target == rootfs);
            if running && mounted && is_dead(&rootfs) {
                let mut found = Finding::new("mount", rootfs.display().to_string(), "its server is gone");
                if options.repair {
                    found.left = Some(format!("remove the container: strata rm -f {}", row.name));
                }
                findings.push(found);
            } else if running && options.deep && self.holds_networks(&row.id) {
                if let Err(error) = self.check_networks(&row.id) {
                    let mut found = Finding::new("network", row.name.clone(), &error);
                    if options.repair {
                        found.left = Some(format!("make it anew: strata restart {}", row.name));
                    }
                    findings.push(found);
                }
            } else if !running && row.ephemeral && Details::of(row).started.is_some() {
                let what = "it was to go with its process, which is gone";
                let mut found = Finding::new("container", row.name.clone(), what);
                if options.repair {
                    mended(
                        self.remove(&row.id, true).map_err(|error| error.to_string()),
                        "removed",
                        &mut found,
                    );
                }
                findings.push(found);
            } else if !running && self.holds_networks(&row.id) && Details::of(row).started.is_some() {
                let what = "its container does not run, and its addresses and ports were not given back";
                let mut found = Finding::new("network", row.name.clone(), what);
                if options.repair {
                    let done = self.detach_ended(&row.id).map_err(|error| error.to_string());
                    mended(done, "given back", &mut found);
                }
                findings.push(found);
            } else if !running && mounted {
                let what = "it is mounted, and its container does not run";
                let mut found = Finding::new("mount", rootfs.display().to_string(), what);
                if options.repair {
                    let done = detach(&self.bundle_of(row)).map_err(|error| error.to_string());
                    mended(done, "unmounted", &mut found);
                }
                findings.push(found);
            }
        }
        let entries = bundles.entries().unwrap_or_default();
        let known = |name: &str| rows.iter().any(|row| row.id == name);
        let names = entries.iter().filter_map(|entry| entry.name.to_str());
        for id in names.filter(|name| is_id(name) && !known(name)) {
            let bundle = self.bundle_path(id);
            let mut found = Finding::new(
                "run directory",
                bundle.display().to_string(),
                "it is no container's",
            );
            if options.repair {
                mended(
                    self.remove(id, true).map_err(|error| error.to_string()),
                    "removed",
                    &mut found,
                );
            }
            findings.push(found);
        }
        // Mounts whose run directory is no container's, or not there any more.
        let stray: Vec<PathBuf> = mounts
            .iter()
            .rev()
            .filter(|mount| {
                let within = mount.target.strip_prefix(&path).ok();
                let first = within.and_then(|rest| rest.components().next());
                first.is_some_and(|id| id.as_os_str().to_str().is_none_or(|id| !known(id)))
            })
            .map(|mount| mount.target.clone())
            .collect();
        for target in stray {
            // Gone with its run directory just now.
            if !matches!(mount::table::at(&target), Ok(Some(_))) {
                continue;
            }
            let mut found = Finding::new("mount", target.display().to_string(), "it is no container's");
            if options.repair {
                mended(
                    mount::detach(&target)
                        .map(drop)
                        .map_err(|error| error.to_string()),
                    "unmounted",
                    &mut found,
                );
            }
            findings.push(found);
        }
        Ok(())
    }
}

/// Whether a mount answers that its server is gone.
fn is_dead(path: &Path) -> bool {
    path.metadata()
        .is_err_and(|error| error.kind() == ErrorKind::NotConnected)
}
