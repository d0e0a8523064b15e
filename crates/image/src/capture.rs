//! [`capture`]: what is being packed becomes a verified layer of the store in the same pass.
//!
//! The archive is written to no disk: the packer and the unpacker run beside each other, a pipe between them. What the
//! layer then holds is what the archive says, its diff ID is the archive's, and with its record it gives the archive
//! back whenever somebody wants it.

use std::io::{self, BufWriter, Read, Write};

use store::{Descriptor, Digest, Fault, LayerMeta, Lease, NewLayer, Store};
use sys::Dir;

use crate::install::InstallError;
use crate::media;
use crate::pack::PackError;
use crate::progress::{Event, Progress};
use crate::unpack::{Form, Limits, UnpackError, Unpacked, complete, unpack_as};

/// Bytes that the pipe holds: as much as the kernel gives anybody.
const PIPE: usize = 1 << 20;

/// Why no layer came of what was packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// It could not be packed.
    #[error("{}", crate::text::whole(.0))]
    Pack(PackError),
    /// It could not be written as a layer.
    #[error("the new layer cannot be written: {}", crate::text::whole(.0))]
    Unpack(UnpackError),
    /// The disk is full.
    #[error("no space left on the disk for the new layer: {}", crate::text::whole(.0))]
    Full(UnpackError),
    /// There is no pipe, or no thread.
    #[error("packing cannot begin: {0}")]
    Begin(#[source] io::Error),
    /// Disk or database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A layer that is complete, and not yet visible.
pub(crate) struct Captured {
    new: NewLayer,
    unpacked: Unpacked,
    /// Bytes of the archive.
    size: u64,
}

impl Captured {
    /// How a manifest names it: the bare archive, which the store can always write.
    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: media::OCI_LAYER.to_owned(),
            digest: self.unpacked.diff_id,
            size: self.size,
        }
    }

    /// Makes it durable and visible, on top of the chain `below`.
    pub(crate) fn commit(
        self,
        store: &Store,
        lease: &Lease,
        below: Option<&Digest>,
    ) -> Result<(), InstallError> {
        let Captured { new, unpacked, .. } = self;
        let meta = LayerMeta {
            diff_id: unpacked.diff_id,
            chain_id: Digest::chain(below, &unpacked.diff_id),
            depends_on_below: unpacked.depends_on_below,
            root_listed: unpacked.root_listed,
            usage: unpacked.usage,
        };
        store.commit_layers(lease, vec![(new, meta)])?;
        Ok(())
    }
}

/// Makes a layer, over the layers `below` (topmost first), of the archive that `pack` writes. `what` names it to
/// whoever watches.
pub(crate) fn capture(
    store: &Store,
    lease: &Lease,
    below: &[Dir],
    limits: &Limits,
    what: &str,
    progress: &dyn Progress,
    pack: impl FnOnce(&mut dyn Write) -> Result<(), PackError> + Send,
) -> Result<Captured, CaptureError> {
    let new = store.new_layer(lease)?;
    let record = new.record()?;
    let (from, to) = io::pipe().map_err(CaptureError::Begin)?;
    // A smaller one is slower, and no worse.
    let _ = rustix::pipe::fcntl_setpipe_size(&to, PIPE);
    let (packed, unpacked, size) = std::thread::scope(|scope| {
        let packer = scope.spawn(move || pack(&mut BufWriter::with_capacity(PIPE / 4, to)));
        let mut from = Counted { from, bytes: 0 };
        let told = |bytes| progress.event(&Event::Read { what, bytes });
        let unpacked = unpack_as(
            Form::of(store),
            &mut from,
            new.fs(),
            &complete(below),
            record,
            limits,
            &told,
        );
        let size = from.bytes;
        // Whoever still writes is told so.
        drop(from);
        let packed = packer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (packed, unpacked, size)
    });
    match (packed, unpacked) {
        (Ok(()), Ok(unpacked)) => Ok(Captured { new, unpacked, size }),
        // An archive that breaks off is the packer's failure, one that nobody reads on the unpacker's.
        (Err(PackError::Write(_)), Err(error)) | (Ok(()), Err(error)) => Err(match error.is_full() {
            true => CaptureError::Full(error),
            false => CaptureError::Unpack(error),
        }),
        (Err(error), _) => Err(CaptureError::Pack(error)),
    }
}

/// Counts what is read.
struct Counted<R> {
    from: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}
