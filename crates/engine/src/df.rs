//! `df`: what images, layers, containers and volumes of all namespaces take on disk, what they share, and what could be freed.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use serde::Serialize;
use store::{Digest, Disk, Fault, Kind};

use crate::Engine;
use crate::find::familiar;

/// Sums of one kind of thing. Bytes are bytes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Sum {
    /// How many there are.
    pub count: u64,
    /// How many are in use: images and layers that containers were made from, containers that run.
    pub active: u64,
    /// What they take together, each thing once.
    pub bytes: u64,
    /// Of that, what several images need.
    pub shared: u64,
    /// Of that, what one needs.
    pub unique: u64,
    /// What removing those that are not in use gives back.
    pub freeable: u64,
}

/// What lies in the store.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DiskUse {
    /// Images: their layers and blobs.
    pub images: Sum,
    /// Layers of images.
    pub layers: Sum,
    /// Blobs of images.
    pub blobs: Sum,
    /// What containers wrote.
    pub containers: Sum,
    /// Volumes.
    pub volumes: Sum,
    /// Snapshots that neither an image nor a container holds.
    pub snapshots: Sum,
    /// Bytes of layers, blobs and directories that nothing needs: left by what was interrupted or removed, or on their
    /// way in.
    pub left_over: u64,
    /// Bytes of the database and of all else that the store needs itself.
    pub own: u64,
    /// Everything: what `du` says.
    pub total: u64,
    /// Of that, what could be freed.
    pub freeable: u64,
    /// Bytes counted above that are not taken in truth: equal files of several layers are on the same blocks.
    pub saved_by_dedup: u64,
    /// Each image, layer and container, when they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
}

/// What each thing takes.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Details {
    /// Images, by name; one that has several is told once.
    pub images: Vec<ImageUse>,
    /// Layers, the largest first.
    pub layers: Vec<LayerUse>,
    /// Containers, by name.
    pub containers: Vec<ContainerUse>,
    /// Volumes, by name.
    pub volumes: Vec<VolumeUse>,
}

/// What one image takes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageUse {
    /// Its names.
    pub names: Vec<String>,
    /// Its id.
    pub id: String,
    /// Bytes of its layers and blobs.
    pub bytes: u64,
    /// Of that, what other images need too.
    pub shared: u64,
    /// Of that, what no other image needs.
    pub unique: u64,
    /// What removing it gives back; nothing while containers use it.
    pub freeable: u64,
    /// How many containers were made from it.
    pub containers: u64,
    /// When a container was last made from it, or it came.
    pub used: Timestamp,
}

/// What one layer takes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct LayerUse {
    /// Digest of its tar.
    pub diff_id: String,
    /// Its directory is `snapshots/<number>`.
    pub number: u64,
    /// Bytes on disk, its record included.
    pub bytes: u64,
    /// Bytes that reading its files gives.
    pub apparent: u64,
    /// Files, directories and all else.
    pub inodes: u64,
    /// How many images need it.
    pub images: u64,
    /// What removing the images that no container uses gives back.
    pub freeable: u64,
}

/// What one container takes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerUse {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Its image.
    pub image: Option<String>,
    /// `created`, `running`, `exited` or `lost`.
    pub state: &'static str,
    /// Bytes of what it wrote.
    pub bytes: u64,
    /// Files, directories and all else.
    pub inodes: u64,
    /// What removing it gives back; nothing while it runs.
    pub freeable: u64,
}

/// What one volume takes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeUse {
    /// Its name.
    pub name: String,
    /// How many containers use it.
    pub containers: u64,
    /// Bytes of what is in it.
    pub bytes: u64,
    /// Files, directories and all else.
    pub inodes: u64,
    /// What removing it gives back; nothing while containers use it.
    pub freeable: u64,
}

/// A layer or a blob, and who needs it.
struct Thing {
    bytes: u64,
    /// Manifests.
    users: u64,
    /// Manifests that containers were made from.
    active: u64,
    /// A container or a snapshot stands on it, whatever becomes of images.
    held: bool,
}

impl Thing {
    fn freeable(&self) -> u64 {
        match self.active == 0 && !self.held {
            true => self.bytes,
            false => 0,
        }
    }
}

impl Engine {
    /// What everything takes, in all namespaces; with `details`, each thing by itself.
    ///
    /// # Errors
    /// Disk or database.
    pub fn df(&self, details: bool) -> Result<DiskUse, Fault> {
        let disk = self.store.disk()?;
        let (mut images, mut containers) = (Vec::new(), Vec::new());
        for ns in self.store.namespaces()? {
            images.extend(self.store.images(&ns)?);
            containers.extend(self.store.containers(&ns)?);
        }
        let mut made: HashMap<Digest, u64> = HashMap::new();
        for manifest in containers.iter().filter_map(|container| container.manifest) {
            *made.entry(manifest).or_default() += 1;
        }
        let beneath: HashSet<u64> = disk.beneath.iter().copied().collect();
        let mut layers: BTreeMap<u64, Thing> = BTreeMap::new();
        for layer in &disk.layers {
            let held = beneath.contains(&layer.n);
            layers.insert(layer.n, Thing::new(layer.usage.bytes + layer.overhead, held));
        }
        let mut blobs: HashMap<Digest, Thing> = HashMap::new();
        for blob in &disk.blobs {
            blobs.insert(blob.digest, Thing::new(blob.bytes, false));
        }
        for manifest in &disk.manifests {
            let active = made.contains_key(&manifest.digest);
            for n in &manifest.layers {
                if let Some(layer) = layers.get_mut(n) {
                    layer.used(active);
                }
            }
            for digest in &manifest.blobs {
                if let Some(blob) = blobs.get_mut(digest) {
                    blob.used(active);
                }
            }
        }
        let mut told = DiskUse {
            own: disk.own,
            left_over: disk.unowned,
            saved_by_dedup: disk.cloned,
            layers: sum(layers.values()),
            blobs: sum(blobs.values()),
            ..DiskUse::default()
        };
        let idle = |thing: &&Thing| thing.users == 0 && !thing.held;
        let left = layers.values().chain(blobs.values()).filter(idle);
        told.left_over += left.map(|thing| thing.bytes).sum::<u64>();
        let (a, b) = (told.layers, told.blobs);
        told.images = Sum {
            count: disk.manifests.len() as u64,
            active: disk
                .manifests
                .iter()
                .filter(|m| made.contains_key(&m.digest))
                .count() as u64,
            bytes: a.bytes + b.bytes,
            shared: a.shared + b.shared,
            unique: a.unique + b.unique,
            freeable: a.freeable + b.freeable,
        };
        let of_containers = self.containers_use(&disk, &containers, &mut told);
        let of_volumes = volumes_use(&disk, &mut told.volumes);
        told.total = told.images.bytes
            + told.containers.bytes
            + told.volumes.bytes
            + told.snapshots.bytes
            + told.left_over
            + told.own;
        told.freeable =
            told.images.freeable + told.containers.freeable + told.volumes.freeable + told.left_over;
        if details {
            told.details = Some(Details {
                images: images_use(&disk, &images, &made, &layers, &blobs),
                layers: layers_use(&disk, &layers),
                containers: of_containers,
                volumes: of_volumes,
            });
        }
        Ok(told)
    }

    /// What containers wrote, and what the snapshots of others take.
    fn containers_use(
        &self,
        disk: &Disk,
        rows: &[store::Container],
        told: &mut DiskUse,
    ) -> Vec<ContainerUse> {
        let by_key: HashMap<(&str, &str), &store::Container> =
            rows.iter().map(|row| ((&*row.ns, &*row.id), row)).collect();
        let mut uses = Vec::new();
        for snapshot in &disk.snapshots {
            let bytes = snapshot.usage.bytes + snapshot.overhead;
            let Some(row) = by_key.get(&(&*snapshot.ns, &*snapshot.key)) else {
                told.snapshots.count += 1;
                told.snapshots.active += u64::from(snapshot.kind != Kind::Committed);
                told.snapshots.bytes += bytes;
                told.snapshots.unique += bytes;
                continue;
            };
            let state = self.state(row);
            let freeable = if state.is_up() { 0 } else { bytes };
            told.containers.bytes += bytes;
            told.containers.unique += bytes;
            told.containers.freeable += freeable;
            told.containers.active += u64::from(state.is_up());
            uses.push(ContainerUse {
                name: row.name.clone(),
                id: row.id.clone(),
                image: row.image.as_deref().map(familiar),
                state: state.word(),
                bytes,
                inodes: snapshot.usage.inodes,
                freeable,
            });
        }
        told.containers.count = rows.len() as u64;
        uses.sort_by(|a, b| a.name.cmp(&b.name));
        uses
    }
}

impl Thing {
    fn new(bytes: u64, held: bool) -> Thing {
        Thing {
            bytes,
            users: 0,
            active: 0,
            held,
        }
    }

    fn used(&mut self, active: bool) {
        self.users += 1;
        self.active += u64::from(active);
    }
}

/// The sums of what images need.
fn sum<'a>(things: impl Iterator<Item = &'a Thing>) -> Sum {
    let mut sum = Sum::default();
    for thing in things.filter(|thing| thing.users > 0 || thing.held) {
        sum.count += 1;
        sum.active += u64::from(thing.active > 0 || thing.held);
        sum.bytes += thing.bytes;
        match thing.users > 1 {
            true => sum.shared += thing.bytes,
            false => sum.unique += thing.bytes,
        }
        sum.freeable += thing.freeable();
    }
    sum
}

fn images_use(
    disk: &Disk,
    images: &[store::Image],
    made: &HashMap<Digest, u64>,
    layers: &BTreeMap<u64, Thing>,
    blobs: &HashMap<Digest, Thing>,
) -> Vec<ImageUse> {
    let mut named: BTreeMap<Digest, Vec<&store::Image>> = BTreeMap::new();
    for image in images {
        named.entry(image.manifest.digest).or_default().push(image);
    }
    let mut uses = Vec::new();
    for manifest in &disk.manifests {
        let Some(names) = named.get(&manifest.digest) else {
            continue;
        };
        let things = manifest.layers.iter().filter_map(|n| layers.get(n));
        let things = things.chain(manifest.blobs.iter().filter_map(|digest| blobs.get(digest)));
        let (mut bytes, mut unique, mut freeable) = (0, 0, 0);
        for thing in things {
            bytes += thing.bytes;
            if thing.users == 1 {
                unique += thing.bytes;
                freeable += thing.freeable();
            }
        }
        let here = |image: &&store::Image| familiar(&image.name);
        uses.push(ImageUse {
            names: names.iter().map(here).collect(),
            id: names[0].id.to_string(),
            bytes,
            shared: bytes - unique,
            unique,
            freeable,
            containers: made.get(&manifest.digest).copied().unwrap_or(0),
            used: names.iter().map(|image| image.used).max().unwrap_or_default(),
        });
    }
    uses.sort_by(|a, b| a.names.cmp(&b.names));
    uses
}

fn volumes_use(disk: &Disk, sum: &mut Sum) -> Vec<VolumeUse> {
    let mut uses = Vec::new();
    for volume in &disk.volumes {
        let bytes = volume.usage.bytes + volume.overhead;
        let freeable = if volume.users > 0 { 0 } else { bytes };
        sum.count += 1;
        sum.active += u64::from(volume.users > 0);
        sum.bytes += bytes;
        sum.unique += bytes;
        sum.freeable += freeable;
        uses.push(VolumeUse {
            name: volume.name.clone(),
            containers: volume.users,
            bytes,
            inodes: volume.usage.inodes,
            freeable,
        });
    }
    uses.sort_by(|a, b| a.name.cmp(&b.name));
    uses
}

fn layers_use(disk: &Disk, layers: &BTreeMap<u64, Thing>) -> Vec<LayerUse> {
    let mut uses: Vec<_> = disk
        .layers
        .iter()
        .map(|layer| {
            let thing = layers.get(&layer.n);
            LayerUse {
                diff_id: layer.diff_id.to_string(),
                number: layer.n,
                bytes: layer.usage.bytes + layer.overhead,
                apparent: layer.usage.apparent,
                inodes: layer.usage.inodes,
                images: thing.map_or(0, |thing| thing.users),
                freeable: thing.map_or(0, Thing::freeable),
            }
        })
        .collect();
    uses.sort_by_key(|layer| (std::cmp::Reverse(layer.bytes), layer.number));
    uses
}
