//! `layers`: the stack beneath a container, an image, or a snapshot of another engine's.

use std::collections::HashMap;
use std::path::PathBuf;

use mount::overlay::Overlay;
use serde::Serialize;
use store::{ContainerError, Fault, Holder, ImageLayer, Kind, SnapshotError, StackDir};

use crate::Engine;
use crate::find::{FindImageError, familiar};
use crate::run::Details;
use crate::snapshots::{ShowError, own_name};

/// What a stack belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StackKind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A snapshot of another engine's.
    Snapshot,
}

impl StackKind {
    /// `container`, `image` or `snapshot`.
    pub fn word(self) -> &'static str {
        match self {
            StackKind::Container => "container",
            StackKind::Image => "image",
            StackKind::Snapshot => "snapshot",
        }
    }
}

/// The stack of a container, an image or a snapshot.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Stack {
    /// What it belongs to.
    pub kind: StackKind,
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// The image of a container.
    pub image: Option<String>,
    /// What a container's process sees.
    pub merged: Option<Merged>,
    /// The directory that takes the writes of a container, or of an active snapshot.
    pub writable: Option<Writable>,
    /// Read-only directories, topmost first.
    pub layers: Vec<Layer>,
    /// The directory beneath a container's layers that holds what is mounted upon (`/proc`, `/etc/hosts`), the same for all.
    pub mount_points: Option<PathBuf>,
}

/// The merged view.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Merged {
    /// Where it is mounted while the container runs.
    pub path: PathBuf,
    /// Whether it is mounted now.
    pub mounted: bool,
}

/// A writable directory.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Writable {
    /// The upper directory.
    pub path: PathBuf,
    /// Bytes on disk.
    pub bytes: u64,
    /// Files, directories and all else, without the directory itself.
    pub inodes: u64,
}

/// A read-only directory.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Layer {
    /// The directory.
    pub path: PathBuf,
    /// Digest of the layer's tar; none for a directory that is no image's layer.
    pub diff_id: Option<String>,
    /// Bytes of the layer's blob, as the registry has it.
    pub blob_size: Option<u64>,
    /// Bytes on disk.
    pub bytes: Option<u64>,
    /// Files, directories and all else.
    pub inodes: Option<u64>,
    /// The build step that made it.
    pub created_by: Option<String>,
    /// Key of the snapshot beneath a snapshot that it belongs to.
    pub key: Option<String>,
    /// Others that use it: images and containers, by name.
    pub shared_with: Vec<String>,
}

/// Why a stack could not be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayersError {
    /// Neither a container nor an image, nor a snapshot.
    #[error("there is no container, no image and no snapshot {0:?}")]
    NotFound(String),
    /// The beginning of several snapshots' keys.
    #[error(transparent)]
    Name(ShowError),
    /// A container's name that fits several.
    #[error(transparent)]
    Container(ContainerError),
    /// An image's name that is none, or fits several.
    #[error(transparent)]
    Image(FindImageError),
    /// Its layers.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl Engine {
    /// The stack beneath a container, or else beneath an image, or else beneath a snapshot of another engine's.
    ///
    /// # Errors
    /// See [`LayersError`].
    pub fn layers(&self, name: &str) -> Result<Stack, LayersError> {
        match self.store.find_container(self.ns(), name) {
            Ok(row) => return self.container_stack(row),
            Err(ContainerError::NotFound(_)) => {}
            Err(error) => return Err(LayersError::Container(error)),
        }
        match self.find_image(name) {
            Ok(image) => self.image_stack(&image),
            Err(FindImageError::NotFound(_)) => match self.snapshot_key(name) {
                Ok(key) => self.snapshot_stack(&key),
                Err(ShowError::NotFound { name, .. }) => Err(LayersError::NotFound(name)),
                Err(error) => Err(LayersError::Name(error)),
            },
            Err(error) => Err(LayersError::Image(error)),
        }
    }

    fn snapshot_stack(&self, key: &str) -> Result<Stack, LayersError> {
        // Directories that nobody verified have names here alone, by which whoever made them knows them.
        let mut below: HashMap<u64, String> = HashMap::new();
        let top = self.store.stat(self.ns(), key)?;
        let mut next = top.parent.clone();
        if top.kind == Kind::Committed {
            next = Some(key.to_owned());
        }
        while let Some(key) = next {
            let info = self.store.stat(self.ns(), &key)?;
            if let Some(n) = info.n {
                below.insert(n, key);
            }
            next = info.parent;
        }
        let own = Holder {
            ns: self.ns().to_owned(),
            name: key.to_owned(),
        };
        let stack = self.store.stack(self.ns(), key)?;
        let mut layers = Vec::new();
        for dir in &stack.lowers {
            let mut layer = self.layer(dir, &[], &own, StackKind::Snapshot)?;
            layer.key = dir.n.and_then(|n| below.get(&n).cloned());
            if let (None, Some(key)) = (layer.bytes, &layer.key) {
                let usage = self.store.usage(self.ns(), key)?;
                (layer.bytes, layer.inodes) = (Some(usage.bytes), Some(usage.inodes));
            }
            layers.push(layer);
        }
        let writable = match (top.kind, top.n) {
            (Kind::Active, Some(n)) => {
                let usage = self.store.usage(self.ns(), key)?;
                Some(Writable {
                    path: self.store.layer_path(n),
                    bytes: usage.bytes,
                    inodes: usage.inodes,
                })
            }
            _ => None,
        };
        Ok(Stack {
            kind: StackKind::Snapshot,
            name: own_name(key).to_owned(),
            id: key.to_owned(),
            image: None,
            merged: None,
            writable,
            layers,
            mount_points: None,
        })
    }

    fn container_stack(&self, row: store::Container) -> Result<Stack, LayersError> {
        let stack = self.store.stack(self.ns(), &row.id)?;
        let steps = match &row.manifest {
            Some(manifest) => self.store.manifest_layers(manifest)?,
            None => Vec::new(),
        };
        let own = Holder {
            ns: row.ns.clone(),
            name: row.name.clone(),
        };
        let layers = stack
            .lowers
            .iter()
            .map(|dir| self.layer(dir, &steps, &own, StackKind::Container));
        let path = self.store.upper_path(self.ns(), &row.id)?;
        let usage = self.store.usage(self.ns(), &row.id)?;
        let rootfs = self.bundle_of(&row).join("rootfs");
        let mounts = self.store.root_mounts(self.ns(), &row.id)?;
        let lowest = mounts.first().map(|mount| Overlay::parse(&mount.options));
        let lowest = lowest.and_then(|overlay| overlay.lower.last().cloned());
        let mount_points = lowest.filter(|lowest| stack.lowers.iter().all(|dir| dir.path != *lowest));
        Ok(Stack {
            kind: StackKind::Container,
            layers: layers.collect::<Result<_, _>>()?,
            mount_points,
            image: Some(
                row.image
                    .as_deref()
                    .map_or_else(|| Details::of(&row).source, familiar),
            ),
            merged: Some(Merged {
                mounted: matches!(mount::table::at(&rootfs), Ok(Some(_))),
                path: rootfs,
            }),
            writable: Some(Writable {
                path,
                bytes: usage.bytes,
                inodes: usage.inodes,
            }),
            name: row.name,
            id: row.id,
        })
    }

    fn image_stack(&self, image: &store::Image) -> Result<Stack, LayersError> {
        let lowers = match &image.top_chain {
            Some(chain) => self.store.stack(self.ns(), &chain.to_string())?.lowers,
            None => Vec::new(),
        };
        let steps = self.store.manifest_layers(&image.manifest.digest)?;
        let own = Holder {
            ns: image.ns.clone(),
            name: image.name.clone(),
        };
        let layers = lowers
            .iter()
            .map(|dir| self.layer(dir, &steps, &own, StackKind::Image));
        Ok(Stack {
            kind: StackKind::Image,
            name: familiar(&image.name),
            id: image.id.to_string(),
            image: None,
            merged: None,
            writable: None,
            layers: layers.collect::<Result<_, _>>()?,
            mount_points: None,
        })
    }

    /// One directory, with the build step that made it and everyone who uses it but `own`.
    fn layer(
        &self,
        dir: &StackDir,
        steps: &[ImageLayer],
        own: &Holder,
        kind: StackKind,
    ) -> Result<Layer, Fault> {
        let step = steps.iter().find(|step| Some(step.layer_n) == dir.n);
        let mut sharers = dir
            .n
            .map(|n| self.store.sharers(n))
            .transpose()?
            .unwrap_or_default();
        match kind {
            StackKind::Container => sharers.containers.retain(|holder| holder != own),
            StackKind::Image => sharers.images.retain(|holder| holder != own),
            StackKind::Snapshot => {}
        }
        let named = |holder: &Holder, name: String| match holder.ns == own.ns {
            true => name,
            false => format!("{name} ({})", holder.ns),
        };
        let images = sharers
            .images
            .iter()
            .map(|holder| named(holder, familiar(&holder.name)));
        let containers = sharers
            .containers
            .iter()
            .map(|holder| named(holder, holder.name.clone()));
        Ok(Layer {
            path: dir.path.clone(),
            diff_id: dir.layer.as_ref().map(|layer| layer.diff_id.to_string()),
            blob_size: step.map(|step| step.blob.size),
            bytes: dir.layer.as_ref().map(|layer| layer.usage.bytes),
            inodes: dir.layer.as_ref().map(|layer| layer.usage.inodes),
            created_by: step.and_then(|step| step.created_by.clone()),
            key: None,
            shared_with: images.chain(containers).collect(),
        })
    }
}
