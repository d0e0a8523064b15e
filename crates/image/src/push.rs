//! `push`: an image of the store into a registry.
//!
//! Layers go beside each other, each in the cheapest way there is: the repository has it; another repository of the
//! registry has it; the store keeps its blob; or its tar is written again from the unpacked layer and compressed anew.
//! Only the last may change a digest, and with it the manifest's: that is told.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use store::{BlobError, Descriptor, Digest, Fault, Image, ImageLayer, IngestError, Lease, Note, Store};
use zstd::zstd_safe::CParameter;

use crate::layer_tar::{self, LayerTarError};
use crate::media;
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::registry::{Client, Kept, RegistryError, Uploaded};
use crate::save::Incomplete;
use crate::stored::{Stored, StoredError};
use crate::whole::Whole;

/// Why an image could not be pushed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] StoredError),
    /// The index is not kept whole.
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
    /// A layer is not in the store whole.
    #[error(transparent)]
    Layer(#[from] LayerTarError),
    /// A blob cannot be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A layer could not be compressed.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The registry does not take it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Disk or database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What a layer is compressed with whose blob the store does not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// gzip, which everybody reads; 1 to 9.
    Gzip(u32),
    /// zstd; 1 to 22.
    Zstd(i32),
}

/// What the highest levels of zstd (20 to 22) would take 700 MiB for, as base-2 logarithms: the window in bytes, and the
/// entries of two tables. With those of level 19 they take 100, and whoever unpacks such layers can do so beside others.
const BOUNDS: [CParameter; 3] = [
    CParameter::WindowLog(23),
    CParameter::ChainLog(24),
    CParameter::HashLog(22),
];

impl Compress {
    /// Whether it takes so much memory, 50 MiB or more, that layers take turns.
    fn takes_much(self) -> bool {
        matches!(self, Compress::Zstd(10..))
    }

    fn bounds(self) -> &'static [CParameter] {
        match self {
            Compress::Zstd(20..) => &BOUNDS,
            _ => &[],
        }
    }
}

impl Default for Compress {
    fn default() -> Self {
        Compress::Gzip(6)
    }
}

/// How an image is pushed.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// Most layers sent at once.
    pub parallel: usize,
    /// For layers whose blob the store does not keep.
    pub compress: Compress,
    /// What the name leads to is pushed, with the builds for other platforms; all of that must be in the store.
    pub all_platforms: bool,
    /// Paths of repositories of the same registry that have a blob, as far as is known.
    pub mounts: HashMap<Digest, Vec<String>>,
}

/// What was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The manifest.
    pub manifest: Descriptor,
    /// How many layers were there, were mounted, were sent.
    pub there: usize,
    /// Taken from another repository by the registry itself.
    pub mounted: usize,
    /// Sent.
    pub sent: usize,
}

/// Pushes an image under a name.
///
/// # Errors
/// [`PushError`]; what has arrived is there the next time.
pub fn push(
    store: &Store,
    client: &Client,
    image: &Image,
    to: &Reference,
    options: &PushOptions,
    progress: &dyn Progress,
) -> Result<Pushed, PushError> {
    let lease = store.lease(&format!("push {}", to.canonical()))?;
    let push = Push {
        store,
        client,
        lease: &lease,
        to,
        options,
        compressing: Mutex::default(),
        compressed: Mutex::default(),
        progress,
    };
    let pushed = push.run(image);
    let compressed = push
        .compressed
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let released = store.release(lease);
    if !compressed.is_empty() {
        // It is compressed to the same bytes another time, and nothing names it unless the manifest has the same digest.
        // What is not freed now the next collection frees.
        let _ = store.drop_blobs(&compressed).and_then(|_| store.collect());
    }
    let pushed = pushed.and_then(|pushed| Ok(released.map(|()| pushed)?))?;
    let name = to.canonical();
    let id = &image.id;
    progress.event(&Event::ImageDone { name: &name, id });
    Ok(pushed)
}

struct Push<'a> {
    store: &'a Store,
    client: &'a Client,
    lease: &'a Lease,
    to: &'a Reference,
    options: &'a PushOptions,
    /// Held by who compresses with much memory.
    compressing: Mutex<()>,
    /// Blobs that were compressed for this push.
    compressed: Mutex<Vec<Digest>>,
    progress: &'a dyn Progress,
}

/// How a layer is listed in the registry, and how it came there.
type Placed = (Descriptor, Uploaded);

impl Push<'_> {
    /// All that is done while the lease is held.
    fn run(&self, image: &Image) -> Result<Pushed, PushError> {
        for digest in [&image.manifest.digest, &image.config.digest] {
            self.store.hold_blob(self.lease, digest)?;
        }
        let stored = Stored::open(self.store, &image.manifest.digest)?;
        match self.options.all_platforms {
            true => self.all(
                &image.target,
                &crate::save::all_of(self.store, self.lease, image)?,
            ),
            false => self.image(&stored),
        }
    }

    fn image(&self, stored: &Stored) -> Result<Pushed, PushError> {
        let shown = self.to.familiar();
        self.progress.event(&Event::Resolved {
            name: &shown,
            manifest: &stored.descriptor.digest,
            layers: stored.layers.len(),
        });
        // One after the other of those that are there twice; layers kept elsewhere are not pushed.
        let mut layers: Vec<&ImageLayer> = Vec::new();
        for layer in &stored.layers {
            let elsewhere = media::layer(&layer.blob.media_type) == media::Layer::Foreign;
            if !elsewhere && !layers.iter().any(|known| known.blob.digest == layer.blob.digest) {
                layers.push(layer);
            }
        }
        for layer in &layers {
            let (digest, size) = (&layer.blob.digest, layer.blob.size);
            let shared = false;
            self.progress.event(&Event::LayerFound { digest, size, shared });
        }
        let placed = self.layers(&layers)?;
        let config = &stored.manifest.config;
        if !self.client.has_blob(self.to, &config.digest, self.progress)? {
            let bytes = stored.config_bytes.clone();
            let open = |offset| -> io::Result<Box<dyn Read>> {
                let mut from = io::Cursor::new(bytes.clone());
                from.set_position(offset);
                Ok(Box::new(from))
            };
            self.client.upload(self.to, config, &open, &(), self.progress)?;
        }
        let (media_type, bytes) = self.manifest(stored, &placed);
        let document = (media_type.as_str(), bytes.as_slice());
        self.client.put_manifest(self.to, document, true, self.progress)?;
        let manifest = Descriptor {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            media_type,
        };
        Ok(pushed(manifest, &placed))
    }

    /// Everything that an index leads to: blobs, manifests by their digests, and under the name the index itself.
    fn all(&self, target: &Descriptor, whole: &Whole) -> Result<Pushed, PushError> {
        let shown = self.to.familiar();
        self.progress.event(&Event::Resolved {
            name: &shown,
            manifest: &target.digest,
            layers: whole.blobs.len(),
        });
        // As layers that are what their blobs are: all of these are there.
        let layers: Vec<ImageLayer> = whole
            .blobs
            .iter()
            .map(|blob| ImageLayer {
                blob: blob.clone(),
                diff_id: blob.digest,
                chain_id: blob.digest,
                layer_n: 0,
                created_by: None,
            })
            .collect();
        for layer in &layers {
            let (digest, size) = (&layer.blob.digest, layer.blob.size);
            let shared = false;
            self.progress.event(&Event::LayerFound { digest, size, shared });
        }
        let placed = self.layers(&layers.iter().collect::<Vec<_>>())?;
        for (document, bytes) in &whole.documents {
            let tagged = document.digest == target.digest;
            let body = (document.media_type.as_str(), bytes.as_slice());
            self.client.put_manifest(self.to, body, tagged, self.progress)?;
        }
        Ok(pushed(target.clone(), &placed))
    }

    /// The manifest as it is pushed: its own bytes, unless a layer has another digest now.
    fn manifest(&self, stored: &Stored, placed: &HashMap<Digest, Placed>) -> (String, Vec<u8>) {
        let media_type = stored.descriptor.media_type.clone();
        let mut document: Value = serde_json::from_slice(&stored.bytes).unwrap_or_default();
        let mut changed = false;
        for (position, layer) in stored.layers.iter().enumerate() {
            let Some((blob, _)) = placed.get(&layer.blob.digest) else {
                continue;
            };
            if blob.digest != layer.blob.digest {
                changed = true;
                let listed = &mut document["layers"][position];
                listed["mediaType"] = blob.media_type.as_str().into();
                listed["digest"] = blob.digest.to_string().into();
                listed["size"] = blob.size.into();
            }
        }
        if !changed {
            return (media_type, stored.bytes.clone());
        }
        let bytes = serde_json::to_vec(&document).unwrap_or_default();
        let text = format!(
            "layers were compressed anew: the digest in the registry is {}, not {}",
            Digest::of(&bytes),
            stored.descriptor.digest
        );
        self.progress.event(&Event::Note { text: &text });
        (media_type, bytes)
    }

    /// Brings all layers into the repository, several at once. The first failure ends it.
    fn layers(&self, layers: &[&ImageLayer]) -> Result<HashMap<Digest, Placed>, PushError> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Ok(HashMap::new()));
        let lock = || done.lock().unwrap_or_else(PoisonError::into_inner);
        std::thread::scope(|scope| {
            for _ in 0..self.options.parallel.clamp(1, layers.len().max(1)) {
                scope.spawn(|| {
                    while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if lock().is_err() {
                            return;
                        }
                        let placed = self.layer(layer);
                        match (&mut *lock(), placed) {
                            (Ok(all), Ok(placed)) => drop(all.insert(layer.blob.digest, placed)),
                            (Err(_), _) => return,
                            (first @ Ok(_), Err(error)) => {
                                *first = Err(error);
                                // Uploads that go on elsewhere are of no use any more.
                                self.client.abort();
                            }
                        }
                    }
                });
            }
        });
        done.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings one layer into the repository.
    fn layer(&self, layer: &ImageLayer) -> Result<Placed, PushError> {
        let blob = &layer.blob;
        if let Some(how) = self.without_sending(&blob.digest)? {
            self.progress.event(&Event::LayerThere { digest: &blob.digest });
            return Ok((blob.clone(), how));
        }
        let kept = self.store.hold_blob(self.lease, &blob.digest)?.is_some();
        let blob = match kept {
            true => blob.clone(),
            false => {
                let compressed = self.compressed(layer)?;
                if let Some(how) = self.without_sending(&compressed.digest)? {
                    self.progress.event(&Event::LayerThere { digest: &blob.digest });
                    return Ok((compressed, how));
                }
                compressed
            }
        };
        let open = |offset| -> io::Result<Box<dyn Read>> {
            let mut file = self.store.open_blob(&blob.digest).map_err(io::Error::other)?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(Box::new(file))
        };
        let told = Renamed {
            layer,
            sent: &blob,
            progress: self.progress,
        };
        let place = Place::of(self, &blob)?;
        let how = self.client.upload(self.to, &blob, &open, &place, &told)?;
        let (digest, bytes) = (&layer.blob.digest, layer.blob.size);
        match how {
            Uploaded::Sent => self.progress.event(&Event::Sent { digest, bytes }),
            Uploaded::There | Uploaded::Mounted => self.progress.event(&Event::LayerThere { digest }),
        }
        Ok((blob, how))
    }

    fn without_sending(&self, digest: &Digest) -> Result<Option<Uploaded>, PushError> {
        if self.client.has_blob(self.to, digest, self.progress)? {
            return Ok(Some(Uploaded::There));
        }
        for from in self.options.mounts.get(digest).into_iter().flatten() {
            if from != self.to.path() && self.client.mount(self.to, digest, from, self.progress)? {
                return Ok(Some(Uploaded::Mounted));
            }
        }
        Ok(None)
    }

    /// A layer's tar, written again and compressed: a blob of the store until the lease ends.
    fn compressed(&self, layer: &ImageLayer) -> Result<Descriptor, PushError> {
        let ingest = self
            .store
            .ingest_once(self.lease, &format!("compress {}", layer.diff_id), None)?;
        let compress = self.options.compress;
        let lock = || self.compressing.lock().unwrap_or_else(PoisonError::into_inner);
        let _turn = compress.takes_much().then(lock);
        let base = media::uncompressed(&layer.blob.media_type);
        let docker = base.starts_with("application/vnd.docker.");
        let (ingest, suffix) = match compress {
            Compress::Gzip(level) => {
                let mut encoder = flate2::write::GzEncoder::new(ingest, flate2::Compression::new(level));
                layer_tar::write(self.store, self.lease, layer, &mut encoder)?;
                (encoder.finish(), if docker { ".gzip" } else { "+gzip" })
            }
            Compress::Zstd(level) => {
                let mut encoder = zstd::stream::write::Encoder::new(ingest, level).map_err(in_memory)?;
                for bound in compress.bounds() {
                    encoder.set_parameter(*bound).map_err(in_memory)?;
                }
                layer_tar::write(self.store, self.lease, layer, &mut encoder)?;
                (encoder.finish(), if docker { ".zstd" } else { "+zstd" })
            }
        };
        let mut ingest = ingest.map_err(in_memory)?;
        ingest.flush().map_err(in_memory)?;
        let size = ingest.offset();
        let digest = self.store.commit_blob(ingest, self.lease)?;
        let mut compressed = self.compressed.lock().unwrap_or_else(PoisonError::into_inner);
        compressed.push(digest);
        Ok(Descriptor {
            media_type: format!("{base}{suffix}"),
            digest,
            size,
        })
    }
}

/// Where the upload of a blob goes on, as a note in the store; nothing while somebody else sends the same.
struct Place(RefCell<Option<Note>>);

impl Place {
    fn of(push: &Push<'_>, blob: &Descriptor) -> Result<Place, Fault> {
        let repository = format!("{}/{}", push.to.domain(), push.to.path());
        let about = format!("upload {} to {repository}", blob.digest);
        let note = match push.client.in_pieces(blob.size) {
            true => push.store.note(push.lease, &about)?,
            false => None,
        };
        Ok(Place(RefCell::new(note)))
    }
}

impl Kept for Place {
    fn place(&self) -> Option<String> {
        let note = self.0.borrow();
        note.as_ref()?.text().ok().filter(|text| !text.is_empty())
    }

    fn keep(&self, place: Option<&str>) {
        if let Some(note) = self.0.borrow_mut().as_mut() {
            // What cannot be kept is sent again.
            let _ = note.write(place.unwrap_or_default());
        }
    }
}

fn pushed(manifest: Descriptor, placed: &HashMap<Digest, Placed>) -> Pushed {
    let count = |how| placed.values().filter(|(_, placed)| *placed == how).count();
    Pushed {
        manifest,
        there: count(Uploaded::There),
        mounted: count(Uploaded::Mounted),
        sent: count(Uploaded::Sent),
    }
}

fn in_memory(source: io::Error) -> PushError {
    PushError::Fault(Fault::Io {
        what: "compressing a layer into",
        path: "content/ingest".into(),
        source,
    })
}

/// Tells of a layer by the name and size that were told before, though another blob is sent for it.
struct Renamed<'a> {
    layer: &'a ImageLayer,
    sent: &'a Descriptor,
    progress: &'a dyn Progress,
}

impl Progress for Renamed<'_> {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Sent { bytes, .. } => {
                let whole = u128::from(self.sent.size.max(1));
                let part = u128::from(*bytes) * u128::from(self.layer.blob.size) / whole;
                self.progress.event(&Event::Sent {
                    digest: &self.layer.blob.digest,
                    // Complete is told at the end.
                    bytes: u64::try_from(part)
                        .unwrap_or(0)
                        .min(self.layer.blob.size.saturating_sub(1)),
                });
            }
            other => self.progress.event(other),
        }
    }
}
