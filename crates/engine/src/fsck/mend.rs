//! Mending what the store and its layers lack.

use std::io::BufReader;

use image::compression::{Ratio, decoder};
use image::reference::Reference;
use image::refetch::{Role, refetch};
use image::registry::Client;
use image::verify;
use store::{Descriptor, Digest, Fault, Holder, ImageLayer, Layer, Lease, NewLayer, VolumeError, Wrong};

use super::{Finding, FsckOptions};
use crate::Engine;
use crate::find::familiar;

/// What mending takes.
pub(super) struct Mender<'a> {
    pub(super) engine: &'a Engine,
    pub(super) options: &'a FsckOptions,
    pub(super) client: Option<Client>,
    pub(super) lease: Option<Lease>,
}

/// A blob of an image.
struct Wanted {
    image: Holder,
    blob: Descriptor,
    role: Role,
}

impl Mender<'_> {
    /// Whether layers are compared with what their tars say.
    pub(super) fn compares(&self) -> bool {
        self.options.deep && self.lease.is_some()
    }

    /// A directory of the store for what goes again, if layers are compared.
    pub(super) fn scratch(&self) -> Option<Result<NewLayer, Fault>> {
        let lease = self.lease.as_ref().filter(|_| self.options.deep)?;
        Some(self.engine.store.new_layer(lease))
    }

    /// What the store found, told, and mended where that was asked for.
    pub(super) fn wrong(&self, wrong: Wrong) -> Result<Finding, Fault> {
        let repair = self.options.repair;
        let mut found;
        match wrong {
            Wrong::Database(line) => {
                found = Finding::new("database", "metadata.db", line);
                if repair {
                    found.left = Some("keep a copy; what it names can be loaded into a new store".to_owned());
                }
            }
            Wrong::BlobMissing(digest) => {
                found = Finding::new("blob", digest.to_string(), "its file is gone");
                self.blob(&digest, &mut found)?;
            }
            Wrong::BlobUnknown(digest) => {
                found = Finding::new(
                    "blob",
                    digest.to_string(),
                    "an image needs it, and it is not there",
                );
                self.blob(&digest, &mut found)?;
            }
            Wrong::BlobDamaged { digest, how } => {
                found = Finding::new("blob", digest.to_string(), how);
                self.blob(&digest, &mut found)?;
            }
            Wrong::LayerMissing { layer, part } => {
                found = Finding::new("layer", layer.diff_id.to_string(), format!("{part}: not there"));
                if repair {
                    self.layer(&layer, &mut found)?;
                }
            }
            Wrong::SnapshotMissing { ns, key, ephemeral } => {
                found = Finding::new("snapshot", format!("{ns}/{key}"), "its directory is not there");
                if repair {
                    self.snapshot(&ns, &key, ephemeral, &mut found)?;
                }
            }
            Wrong::VolumeMissing { ns, name, ephemeral } => {
                found = Finding::new("volume", format!("{ns}/{name}"), "its directory is not there");
                if repair {
                    self.volume(&ns, &name, ephemeral, &mut found)?;
                }
            }
            Wrong::Orphan(path) => found = Finding::new("orphan", path, "nobody owns it"),
            Wrong::Foreign(path) => {
                found = Finding::new("foreign", path, "strata makes no such thing there");
                if repair {
                    found.left = Some("it is not strata's to remove".to_owned());
                }
            }
            _ => found = Finding::new("store", "", "something that this version does not know"),
        }
        Ok(found)
    }

    /// Fetches a blob again, or forgets it where nobody needs it for itself.
    fn blob(&self, digest: &Digest, found: &mut Finding) -> Result<(), Fault> {
        if !self.options.repair {
            return Ok(());
        }
        let wanted = self.wanted(digest)?;
        self.engine.store.forget_blob(digest)?;
        if wanted.iter().all(|wanted| wanted.1) {
            let again = if wanted.is_empty() {
                "nothing needs it"
            } else {
                "its layer gives it back"
            };
            found.mended = Some(format!("removed: {again}"));
            return Ok(());
        }
        let mut why = self.cannot_fetch();
        for (wanted, _) in wanted.iter().filter(|wanted| !wanted.1) {
            match self.fetch(wanted) {
                Ok(from) => {
                    found.mended = Some(format!("fetched again from {from}"));
                    return Ok(());
                }
                Err(error) => why = error,
            }
        }
        let images: Vec<&Holder> = wanted.iter().map(|(wanted, _)| &wanted.image).collect();
        self.give_up(&images, why, found)
    }

    /// The images that need a blob, and whether only as the packed form of a layer.
    fn wanted(&self, digest: &Digest) -> Result<Vec<(Wanted, bool)>, Fault> {
        let store = &self.engine.store;
        let mut all = Vec::new();
        for image in store.needing(Some(digest), None)? {
            let Some(row) = store.find_image(&image.ns, &image.name)? else {
                continue;
            };
            let documents = [&row.target, &row.manifest];
            let (blob, role, layer) =
                if let Some(blob) = documents.into_iter().find(|it| it.digest == *digest) {
                    (blob.clone(), Role::Document, false)
                } else if row.config.digest == *digest {
                    (row.config.clone(), Role::Content, false)
                } else if let Some(layer) = (store.manifest_layers(&row.manifest.digest)?.into_iter())
                    .find(|layer| layer.blob.digest == *digest)
                {
                    (layer.blob, Role::Content, true)
                } else {
                    continue;
                };
            all.push((Wanted { image, blob, role }, layer));
        }
        Ok(all)
    }

    fn cannot_fetch(&self) -> String {
        match self.client {
            Some(_) => "no image names a registry that has it".to_owned(),
            None => "nothing is fetched".to_owned(),
        }
    }

    /// Fetches a blob from its image's registry, which is told.
    fn fetch(&self, wanted: &Wanted) -> Result<String, String> {
        let (Some(client), Some(lease)) = (&self.client, &self.lease) else {
            return Err(self.cannot_fetch());
        };
        let Holder { ns, name } = &wanted.image;
        let row = self
            .engine
            .store
            .find_image(ns, name)
            .map_err(|error| error.to_string())?;
        if row.is_some_and(|row| !row.pulled) {
            return Err(format!(
                "{} was not pulled, so no registry is asked for it",
                familiar(name)
            ));
        }
        let reference = Reference::parse(name).map_err(|error| error.to_string())?;
        refetch(
            &self.engine.store,
            lease,
            client,
            &reference,
            &wanted.blob,
            wanted.role,
        )
        .map(|()| reference.domain().to_owned())
        .map_err(|error| error.to_string())
    }

    /// Puts a sound directory in the place of a layer's.
    pub(super) fn layer(&self, layer: &Layer, found: &mut Finding) -> Result<(), Fault> {
        let store = &self.engine.store;
        let n = layer.n;
        let Some(lease) = &self.lease else { return Ok(()) };
        if let Some(container) = store.running_on(n)? {
            found.left = Some(in_use(&container));
            return Ok(());
        }
        let below = match layer.depends_on_below {
            true => store.layers_below(n)?.unwrap_or_default(),
            false => Vec::new(),
        };
        let (limits, diff_id) = (&self.engine.setup.limits, layer.diff_id);
        if let Ok(again) = verify::again(store, lease, n, &diff_id, &below, limits) {
            return self.replace(
                n,
                again,
                "unpacked anew from its own files and record".to_owned(),
                found,
            );
        }
        let images = store.needing(None, Some(n))?;
        let mut blobs: Vec<(Holder, ImageLayer)> = Vec::new();
        for image in &images {
            if let Some(row) = store.find_image(&image.ns, &image.name)? {
                let layers = store.manifest_layers(&row.manifest.digest)?.into_iter();
                blobs.extend(
                    layers
                        .filter(|layer| layer.layer_n == n)
                        .map(|layer| (image.clone(), layer)),
                );
            }
        }
        if blobs.is_empty() {
            found.left = Some("no image has it: strata prune removes it".to_owned());
            return Ok(());
        }
        let mut why = self.cannot_fetch();
        for fetch in [false, true] {
            for (image, layer) in &blobs {
                let mut how = "unpacked anew from its blob".to_owned();
                if fetch {
                    let wanted = Wanted {
                        image: image.clone(),
                        blob: layer.blob.clone(),
                        role: Role::Content,
                    };
                    match self.fetch(&wanted) {
                        Ok(from) => how = format!("fetched again from {from} and unpacked"),
                        Err(error) => {
                            why = error;
                            continue;
                        }
                    }
                }
                let Ok(blob) = store.open_blob(&layer.blob.digest) else {
                    continue;
                };
                let tar = decoder(BufReader::with_capacity(128 << 10, blob));
                let tar = tar.with_ratio(Ratio::new(limits.ratio));
                match verify::anew(store, lease, tar, &diff_id, &below, limits) {
                    Ok(new) => return self.replace(n, new, how, found),
                    Err(error) => why = format!("its blob cannot be unpacked: {error}"),
                }
            }
        }
        let images: Vec<&Holder> = images.iter().collect();
        self.give_up(&images, why, found)
    }

    fn replace(&self, n: u64, new: NewLayer, how: String, found: &mut Finding) -> Result<(), Fault> {
        match self.engine.store.replace_layer(n, new)? {
            // It was started meanwhile.
            Some(container) => found.left = Some(in_use(&container)),
            None => found.mended = Some(how),
        }
        Ok(())
    }

    /// A snapshot whose directory is gone: what was written in it is lost.
    fn snapshot(&self, ns: &str, key: &str, ephemeral: bool, found: &mut Finding) -> Result<(), Fault> {
        if !ephemeral && !self.options.remove {
            found.left = Some("what was written in it is lost; --remove removes it".to_owned());
            return Ok(());
        }
        let store = &self.engine.store;
        let removed = match store.remove_container_with(ns, key, ephemeral) {
            Err(store::ContainerError::NotFound(_)) => {
                store.remove(ns, key).map_err(|error| error.to_string())
            }
            other => other.map(drop).map_err(|error| error.to_string()),
        };
        match removed {
            Ok(()) => found.mended = Some("removed".to_owned()),
            Err(error) => found.left = Some(error),
        }
        Ok(())
    }

    /// A volume whose directory is gone: what was in it is lost.
    fn volume(&self, ns: &str, name: &str, ephemeral: bool, found: &mut Finding) -> Result<(), Fault> {
        if !ephemeral && !self.options.remove {
            found.left = Some("what was in it is lost; --remove removes it".to_owned());
            return Ok(());
        }
        match self.engine.store.remove_volume(ns, name) {
            Ok(()) | Err(VolumeError::NotFound(_)) => found.mended = Some("removed".to_owned()),
            Err(VolumeError::Fault(fault)) => return Err(fault),
            Err(error) => found.left = Some(error.to_string()),
        }
        Ok(())
    }

    /// What cannot be mended is removed, if that was asked for and no container needs it.
    fn give_up(&self, images: &[&Holder], why: String, found: &mut Finding) -> Result<(), Fault> {
        let names: Vec<String> = images.iter().map(|image| familiar(&image.name)).collect();
        let names = names.join(", ");
        if !self.options.remove {
            found.left = Some(format!("{why}; a pull or load of {names} brings it again"));
            return Ok(());
        }
        for image in images {
            let row = self.engine.store.find_image(&image.ns, &image.name)?;
            let Some(row) = row else { continue };
            let used = self.engine.store.containers_of(&image.ns, &row.manifest.digest)?;
            if let Some(container) = used.first() {
                found.left = Some(format!("{why}; container {} uses it", container.name));
                return Ok(());
            }
            match self.engine.store.remove_image(&image.ns, &image.name) {
                Ok(_) | Err(store::ImageError::NotFound(_)) => {}
                Err(store::ImageError::Fault(fault)) => return Err(fault),
                Err(error) => {
                    found.left = Some(error.to_string());
                    return Ok(());
                }
            }
        }
        found.mended = Some(format!("removed {names}: {why}"));
        Ok(())
    }
}

fn in_use(container: &str) -> String {
    format!("container {container} is running on it: stop that first")
}
