//! `prune`: removes what is not in use, and tells what and how much; or only tells.
//!
//! What is chosen, and what its removal gives back, is reckoned from the store's figures ([`store::Disk`]) before
//! anything is removed; nothing that is taken into use meanwhile is lost by it, since a container keeps what it was made
//! from.

mod needs;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use image::progress::{Event, Progress};
use jiff::Timestamp;
use serde::Serialize;
use store::{Collected, Digest, Disk, Fault, GRACE, ImageError, SnapshotError, VolumeError};

use crate::Engine;
use crate::find::familiar;
use crate::mounted::Mounted;
use crate::rm::RmError;
use crate::rm::hold_bundles;
use crate::state::State;
use needs::Needs;

/// Which images are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneImages {
    /// Those without a name that no container was made from.
    Nameless,
    /// All that no container was made from.
    Unused,
    /// Of those that no container was made from, the least recently used, until the images of the store take at most
    /// so many bytes on disk.
    Above(u64),
}

/// Which volumes that no container uses are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneVolumes {
    /// Those that were given no name.
    Anonymous,
    /// All.
    Unused,
}

/// A condition on labels: all must hold of what is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelFilter {
    /// The label.
    pub key: String,
    /// Its value; any when none is given.
    pub value: Option<String>,
    /// Whether what has the label stays.
    pub not: bool,
}

/// What is removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Containers that do not run.
    pub containers: bool,
    /// Images.
    pub images: Option<PruneImages>,
    /// Blobs of layers that directory and record give back: each is rebuilt, and compared with its diff ID, before.
    pub blobs: bool,
    /// Snapshots of the namespace that neither an image nor a container holds and that are not mounted.
    pub snapshots: bool,
    /// Of snapshots these alone, by key and when each was changed last; all where there is no such list.
    pub only: Option<HashMap<String, Timestamp>>,
    /// Volumes.
    pub volumes: Option<PruneVolumes>,
    /// Networks that no container is to be in.
    pub networks: bool,
    /// What interrupted operations left for another try.
    pub unfinished: bool,
    /// Only what was last used before: containers, snapshots and networks made, images used or named.
    pub until: Option<Timestamp>,
    /// Only containers, networks and images, snapshots among them, whose labels fit.
    pub labels: Vec<LabelFilter>,
    /// Names of images that stay, canonical or as people write them.
    pub spared: HashSet<String>,
    /// Nothing is removed.
    pub dry_run: bool,
}

/// What was removed, or would be. Bytes are bytes on disk.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Pruned {
    /// Containers, by name.
    pub containers: Vec<Gone>,
    /// Images, in the order in which they go.
    pub images: Vec<Gone>,
    /// Snapshots, by key.
    pub snapshots: Vec<Gone>,
    /// Volumes, by name.
    pub volumes: Vec<Gone>,
    /// Networks, by name.
    pub networks: Vec<Gone>,
    /// Blobs of layers that stay, by digest.
    pub blobs: Vec<Gone>,
    /// Bytes of what nothing needed any more.
    pub left_over: u64,
    /// The sum.
    pub bytes: u64,
    /// Whether it was only told.
    pub dry_run: bool,
    /// What could not be removed, and why.
    pub failed: Vec<String>,
}

/// One thing that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Gone {
    /// Its id: of a snapshot its key, of a blob its digest.
    pub id: String,
    /// Its names.
    pub names: Vec<String>,
    /// What it gives back.
    pub bytes: u64,
}

impl Engine {
    /// Removes what is not in use.
    ///
    /// # Errors
    /// Disk or database; what could not be removed for other reasons is told in the answer.
    pub fn prune(&self, options: &PruneOptions, progress: &dyn Progress) -> Result<Pruned, Fault> {
        let disk = self.store.disk()?;
        let mut told = Pruned {
            dry_run: options.dry_run,
            ..Pruned::default()
        };
        let gone = match options.containers {
            true => self.prune_containers(options, &disk, &mut told, progress)?,
            false => HashSet::new(),
        };
        let mut needs = Needs::new(&disk, self.users(&gone)?);
        let idle = needs.idle() + disk.unowned;
        if let Some(which) = options.images {
            self.prune_images(which, options, &gone, &mut needs, &mut told)?;
        }
        if options.snapshots {
            self.prune_snapshots(options, &disk, &mut told)?;
        }
        if let Some(which) = options.volumes {
            self.prune_volumes(which, options, &gone, &disk, &mut told)?;
        }
        if options.networks {
            self.prune_idle_networks(options, &gone, &mut told);
        }
        if options.blobs {
            self.prune_blobs(options, &disk, &needs, &mut told, progress)?;
        }
        if options.dry_run {
            told.left_over = if options.unfinished { idle } else { 0 };
        } else {
            let grace = if options.unfinished { Duration::ZERO } else { GRACE };
            self.sweep()?;
            runtime::cgroup::sweep(runtime::cgroup::FORGOTTEN);
            let collected = self.store.collect_telling(grace, &mut |done| {
                step(progress, "removing layers and blobs", done, None)
            })?;
            told.left_over = match collected == Collected::default() {
                true => 0,
                false => {
                    let after = self.store.disk()?;
                    let left = Needs::new(&after, self.users(&HashSet::new())?).idle() + after.unowned;
                    idle.saturating_sub(left)
                }
            };
        }
        let parts = [
            &told.containers,
            &told.images,
            &told.snapshots,
            &told.volumes,
            &told.blobs,
        ];
        told.bytes = parts
            .iter()
            .flat_map(|part| part.iter())
            .map(|gone| gone.bytes)
            .sum::<u64>()
            + told.left_over;
        Ok(told)
    }

    /// Removes containers that do not run; the ids of those that went.
    fn prune_containers(
        &self,
        options: &PruneOptions,
        disk: &Disk,
        told: &mut Pruned,
        progress: &dyn Progress,
    ) -> Result<HashSet<String>, Fault> {
        // One that is just being started looks lost; while a directory of bundles is held, none of it is.
        let mut held = HashMap::new();
        let mut quiet = |bundles: &Path| {
            let hold = held.entry(bundles.to_owned());
            hold.or_insert_with(|| hold_bundles(bundles)).is_some() || !bundles.exists()
        };
        let mut idle = |row: &store::Container| match self.state(row) {
            State::Running { .. } | State::Paused { .. } | State::Restarting { .. } => false,
            State::Exited { .. } => true,
            State::Created | State::Lost => quiet(&self.bundles_of(row)),
        };
        let rows = self.store.containers(self.ns())?;
        let fit = |row: &&store::Container| {
            options.until.is_none_or(|until| row.created < until)
                && fits(&options.labels, |key| row.labels.get(key).map(String::as_str))
        };
        let mut gone = HashSet::new();
        for row in rows.iter().filter(fit).filter(|row| idle(row)) {
            if !options.dry_run
                && let Err(error) = self.remove_idle(&row.id, row.ephemeral)
            {
                // Somebody has started it since.
                if matches!(error, RmError::Running { .. } | RmError::Restarting(_)) {
                    continue;
                }
                told.failed.push(format!("container {}: {error}", row.name));
                continue;
            }
            let own = disk
                .snapshots
                .iter()
                .find(|it| it.ns == row.ns && it.key == row.id);
            gone.insert(row.id.clone());
            step(progress, "removing containers", gone.len() as u64, None);
            told.containers.push(Gone {
                id: row.id.clone(),
                names: vec![row.name.clone()],
                bytes: own.map_or(0, |own| own.usage.bytes + own.overhead),
            });
        }
        told.containers.sort_by(|a, b| a.names.cmp(&b.names));
        Ok(gone)
    }

    fn prune_idle_networks(&self, options: &PruneOptions, gone: &HashSet<String>, told: &mut Pruned) {
        let removed = self.prune_networks(gone, options.dry_run, |network| {
            options.until.is_none_or(|until| network.created < until)
                && fits(&options.labels, |key| network.labels.get(key).map(String::as_str))
        });
        match removed {
            Ok(networks) => told.networks.extend(networks.into_iter().map(|network| Gone {
                id: network.id,
                names: vec![network.name],
                bytes: 0,
            })),
            Err(error) => told.failed.push(format!("networks: {error}")),
        }
    }

    /// How many names and containers lead to each manifest, without the containers `gone`.
    fn users(&self, gone: &HashSet<String>) -> Result<HashMap<Digest, u64>, Fault> {
        let mut users = HashMap::new();
        let mut add = |manifest: Digest| *users.entry(manifest).or_default() += 1;
        for ns in self.store.namespaces()? {
            let images = self.store.images(&ns)?;
            images.iter().for_each(|image| add(image.manifest.digest));
            let containers = self.store.containers(&ns)?;
            let stay = containers
                .iter()
                .filter(|row| !(ns == self.ns() && gone.contains(&row.id)));
            stay.filter_map(|row| row.manifest).for_each(&mut add);
        }
        Ok(users)
    }

    fn prune_images(
        &self,
        which: PruneImages,
        options: &PruneOptions,
        gone: &HashSet<String>,
        needs: &mut Needs<'_>,
        told: &mut Pruned,
    ) -> Result<(), Fault> {
        let mut used = HashSet::new();
        for ns in self.store.namespaces()? {
            let rows = self.store.containers(&ns)?;
            let stay = rows
                .iter()
                .filter(|row| !(ns == self.ns() && gone.contains(&row.id)));
            used.extend(stay.filter_map(|row| row.manifest));
        }
        // All names of an image go, or none.
        let mut images: HashMap<Digest, Vec<store::Image>> = HashMap::new();
        for image in self.store.images(self.ns())? {
            images.entry(image.manifest.digest).or_default().push(image);
        }
        let mut images: Vec<(Digest, Vec<store::Image>)> = images.into_iter().collect();
        let last_used = |names: &[store::Image]| names.iter().map(|image| image.used).max();
        let spared = |name: &str| options.spared.contains(name) || options.spared.contains(&familiar(name));
        images.retain(|(manifest, names)| {
            let nameless = || names.iter().all(|image| image.name == image.id.to_string());
            !used.contains(manifest)
                && !names.iter().any(|image| spared(&image.name))
                && (which != PruneImages::Nameless || nameless())
                && options
                    .until
                    .is_none_or(|until| last_used(names).is_some_and(|used| used < until))
                && self.labels_fit(options, &names[0])
        });
        images.sort_by_key(|(manifest, names)| (last_used(names), *manifest));
        for (manifest, names) in images {
            if let PruneImages::Above(bytes) = which
                && needs.total <= bytes
            {
                break;
            }
            let mut removed = Vec::new();
            for image in &names {
                let done = match options.dry_run {
                    true => Ok(()),
                    false => self.store.remove_image(self.ns(), &image.name).map(drop),
                };
                match done {
                    Ok(()) => removed.push(familiar(&image.name)),
                    // Somebody else was faster.
                    Err(ImageError::NotFound(_)) => {}
                    Err(ImageError::Fault(fault)) => return Err(fault),
                    Err(error) => told
                        .failed
                        .push(format!("image {}: {error}", familiar(&image.name))),
                }
            }
            let bytes = needs.release(&manifest, names.len() as u64);
            told.images.push(Gone {
                id: names[0].id.to_string(),
                names: removed,
                bytes,
            });
        }
        Ok(())
    }

    fn labels_fit(&self, options: &PruneOptions, image: &store::Image) -> bool {
        if options.labels.is_empty() {
            return true;
        }
        let labels = self.labels_of(image);
        fits(&options.labels, |key| labels.get(key).map(String::as_str))
    }

    /// Removes snapshots of clients, those that stand on others first.
    fn prune_snapshots(&self, options: &PruneOptions, disk: &Disk, told: &mut Pruned) -> Result<(), Fault> {
        let mut held: HashSet<String> = HashSet::new();
        held.extend(self.store.containers(self.ns())?.into_iter().map(|row| row.id));
        for image in self.store.images(self.ns())? {
            let layers = self.store.manifest_layers(&image.manifest.digest)?;
            held.extend(layers.iter().map(|layer| layer.chain_id.to_string()));
        }
        let mut rows = Vec::new();
        self.store.walk(self.ns(), |info| {
            rows.push(info);
            Ok::<_, Fault>(())
        })?;
        // Afterwards: what was made and mounted meanwhile is seen.
        let mounted = Mounted::now();
        let own = |key: &str| {
            disk.snapshots
                .iter()
                .find(|it| it.ns == self.ns() && it.key == key)
        };
        let goes = |info: &store::Info| {
            !held.contains(&info.key)
                && options
                    .only
                    .as_ref()
                    .is_none_or(|only| only.get(&info.key) == Some(&info.updated))
                && options.until.is_none_or(|until| info.updated < until)
                && fits(&options.labels, |key| info.labels.get(key).map(String::as_str))
                && !mounted.has(&self.store, self.ns(), info)
        };
        // Until nothing more can go: what a snapshot stands on goes after it.
        loop {
            let parents: HashSet<String> = rows.iter().filter_map(|info| info.parent.clone()).collect();
            let (free, stay): (Vec<_>, Vec<_>) = rows
                .into_iter()
                .partition(|info| !parents.contains(&info.key) && goes(info));
            rows = stay;
            if free.is_empty() {
                return Ok(());
            }
            for info in free {
                let done = match options.dry_run {
                    true => Ok(()),
                    false => self.store.remove_unchanged(self.ns(), &info.key, info.updated),
                };
                match done {
                    Ok(()) => told.snapshots.push(Gone {
                        bytes: own(&info.key).map_or(0, |own| own.usage.bytes + own.overhead),
                        id: info.key,
                        names: Vec::new(),
                    }),
                    Err(SnapshotError::NotFound(_)) => {}
                    Err(SnapshotError::Fault(fault)) => return Err(fault),
                    Err(error) => told.failed.push(error.to_string()),
                }
            }
        }
    }

    /// Removes volumes that no container uses, those `gone` left out.
    fn prune_volumes(
        &self,
        which: PruneVolumes,
        options: &PruneOptions,
        gone: &HashSet<String>,
        disk: &Disk,
        told: &mut Pruned,
    ) -> Result<(), Fault> {
        for volume in self.store.volumes(self.ns())? {
            let goes = volume.users.iter().all(|id| gone.contains(id))
                && (which == PruneVolumes::Unused || volume.anonymous)
                && options.until.is_none_or(|until| volume.created < until)
                && fits(&options.labels, |key| volume.labels.get(key).map(String::as_str));
            if !goes {
                continue;
            }
            let done = match options.dry_run {
                true => Ok(()),
                false => self.remove_volume(&volume.name),
            };
            match done {
                Ok(()) => {
                    let own = disk.volumes.iter().find(|it| it.n == volume.n);
                    told.volumes.push(Gone {
                        bytes: own.map_or(0, |own| own.usage.bytes + own.overhead),
                        names: vec![volume.name.clone()],
                        id: volume.name,
                    });
                }
                // Somebody else was faster, or has taken it into use.
                Err(VolumeError::NotFound(_) | VolumeError::InUse { .. }) => {}
                Err(VolumeError::Fault(fault)) => return Err(fault),
                Err(error) => told.failed.push(error.to_string()),
            }
        }
        Ok(())
    }

    /// Drops blobs of layers that stay, once they are seen to be given back.
    fn prune_blobs(
        &self,
        options: &PruneOptions,
        disk: &Disk,
        needs: &Needs<'_>,
        told: &mut Pruned,
        progress: &dyn Progress,
    ) -> Result<(), Fault> {
        let bytes: HashMap<Digest, u64> = disk.blobs.iter().map(|blob| (blob.digest, blob.bytes)).collect();
        let spare = self.store.spare_blobs()?;
        for (done, layer) in (0..).zip(&spare) {
            step(progress, "checking layers", done, Some(spare.len() as u64));
            let digest = layer.blob.digest;
            if !needs.needs_blob(&digest) {
                continue;
            }
            let gone = Gone {
                id: digest.to_string(),
                names: Vec::new(),
                bytes: bytes.get(&digest).copied().unwrap_or(0),
            };
            if options.dry_run {
                told.blobs.push(gone);
                continue;
            }
            let (fs, record) = (
                self.store.layer_dir(layer.layer_n),
                self.store.layer_record(layer.layer_n),
            );
            let rebuilt = match (fs, record) {
                (Ok(fs), Ok(record)) => {
                    image::record::rebuild(&fs, &record, std::io::sink()).map_err(|error| error.to_string())
                }
                (Err(fault), _) | (_, Err(fault)) => Err(fault.to_string()),
            };
            match rebuilt {
                Ok(diff_id) if diff_id == layer.diff_id => {
                    // One at a time: what is needed for the next is given back by the one before.
                    if self.store.drop_blobs(&[digest])?.blobs > 0 {
                        told.blobs.push(gone);
                    }
                }
                Ok(diff_id) => told.failed.push(format!(
                    "blob {digest} stays: its layer {} gives {diff_id}",
                    layer.diff_id
                )),
                Err(why) => told.failed.push(format!("blob {digest} stays: {why}")),
            }
        }
        Ok(())
    }
}

fn step(progress: &dyn Progress, what: &str, done: u64, of: Option<u64>) {
    progress.event(&Event::Step { what, done, of });
}

/// Whether what has these labels is removed.
fn fits<'a>(filters: &[LabelFilter], label: impl Fn(&str) -> Option<&'a str>) -> bool {
    filters.iter().all(|filter| {
        let has = label(&filter.key)
            .is_some_and(|value| filter.value.as_deref().is_none_or(|wanted| wanted == value));
        has != filter.not
    })
}
