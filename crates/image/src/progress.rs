//! What a pull, a load, a push, a check and the like tell while they work: values, for whoever wants to draw bars or print lines.

use std::time::Duration;

use store::Digest;

/// Receives what happens, from several threads at once, often: an implementation draws at its own pace and never
/// blocks for long.
pub trait Progress: Sync {
    /// Something happened.
    fn event(&self, event: &Event<'_>);
}

/// One thing that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The image is known: what follows concerns its layers.
    Resolved {
        /// The image's name, familiar form, or where it comes from when it has none.
        name: &'a str,
        /// Digest of the manifest for the platform.
        manifest: &'a Digest,
        /// Number of layers.
        layers: usize,
    },
    /// A layer, bottom first; all of them are told before the first is fetched.
    LayerFound {
        /// Digest of the layer's blob: the layer's name in the events that follow.
        digest: &'a Digest,
        /// Bytes of the blob.
        size: u64,
        /// Already in the store, unpacked: nothing follows for it.
        shared: bool,
    },
    /// So much of a blob has arrived.
    Fetched {
        /// Which blob.
        digest: &'a Digest,
        /// Bytes so far; the blob's size when it was in the store.
        bytes: u64,
    },
    /// So much of a layer has been written to where it goes: an archive, a registry.
    Sent {
        /// Which layer.
        digest: &'a Digest,
        /// Bytes so far, of the size that was told of the layer; that size when it is complete.
        bytes: u64,
    },
    /// A layer need not be sent: it is there already.
    LayerThere {
        /// Which layer.
        digest: &'a Digest,
    },
    /// So much of a file or stream has been read, before it is known what is in it.
    Read {
        /// Where it comes from.
        what: &'a str,
        /// Bytes so far.
        bytes: u64,
    },
    /// So many things of a kind are done, of work that has no bytes to count.
    Step {
        /// What is done, and the kind of things: `checking layers`.
        what: &'a str,
        /// How many are done.
        done: u64,
        /// Of how many, where that is known.
        of: Option<u64>,
    },
    /// A request failed and is made again.
    Retrying {
        /// Host and what is asked of it.
        what: &'a str,
        /// Why.
        reason: &'a str,
        /// How long until then.
        after: Duration,
    },
    /// So much of a layer has been unpacked.
    Unpacked {
        /// Which layer.
        digest: &'a Digest,
        /// Bytes of the compressed blob that were read so far.
        bytes: u64,
    },
    /// A layer is unpacked and verified (and will be visible with the image).
    LayerDone {
        /// Which layer.
        digest: &'a Digest,
    },
    /// The image is in the store for good.
    ImageDone {
        /// Its name.
        name: &'a str,
        /// Its ID: the digest of its configuration.
        id: &'a Digest,
    },
    /// Something a person should know, which is no error.
    Note {
        /// One sentence.
        text: &'a str,
    },
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: &Event<'_>) {}
}
