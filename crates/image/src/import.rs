//! `import`: a root file system's tar becomes an image of one layer.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use store::{Descriptor, Digest, Fault, Hasher, Ingest, IngestError, Lease, Store};

use crate::change::{self, ChangeError};
use crate::compose::{compose, now};
use crate::compression::{Compression, Ratio, decoder, is_inflated};
use crate::config::{Execution, History, ImageConfig, RootFs};
use crate::install::{InstallError, Installed, leased};
use crate::manifest::Layer;
use crate::media;
use crate::platform::Platform;
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::registry::{Client, RegistryError};
use crate::unpack::Limits;

const PIECE: usize = 128 << 10;

/// Why a root file system could not be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A directory, where a tar is wanted.
    #[error("{} is a directory; import its tar: tar -C {} -c . | strata import - NAME", path.display(), path.display())]
    Directory {
        /// Which.
        path: PathBuf,
    },
    /// It broke off, or is compressed in a way that is not known.
    #[error("cannot read {from}: {source}")]
    Read {
        /// Where it comes from.
        from: String,
        /// The system's or the decoder's words.
        source: io::Error,
    },
    /// It has more bytes than a layer may have.
    #[error("{from} has more than {limit} bytes")]
    TooLarge {
        /// Where it comes from.
        from: String,
        /// How many are taken, inflated.
        limit: u64,
    },
    /// There is nothing in it.
    #[error("{from} is empty")]
    Empty {
        /// Where it comes from.
        from: String,
    },
    /// The address did not give it.
    #[error(transparent)]
    Download(#[from] RegistryError),
    /// An instruction of `--change`.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// It could not be brought into the store.
    #[error("{from}: {source}")]
    Install {
        /// Where it comes from.
        from: String,
        /// What went wrong.
        source: Box<InstallError>,
    },
}

impl ImportError {
    /// Which of the [`Limits`] was met, where one was.
    pub fn limit(&self) -> Option<&'static str> {
        match self {
            Self::TooLarge { .. } => Some("bytes"),
            Self::Read { source, .. } if is_inflated(source) => Some("ratio"),
            _ => None,
        }
    }

    fn install(from: &str, source: impl Into<InstallError>) -> Self {
        Self::Install {
            from: from.to_owned(),
            source: Box::new(source.into()),
        }
    }
}

/// Where the tar comes from; it may be compressed.
pub enum Source<'a> {
    /// A file.
    Path(&'a Path),
    /// A stream, read to its end.
    Stream(&'a mut dyn Read),
    /// An `http` or `https` address.
    Url(&'a Client, &'a str),
}

/// What the image is to be.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Its name; with none it is found by its ID.
    pub name: Option<Reference>,
    /// Instructions for its configuration, as a Dockerfile has them.
    pub changes: Vec<String>,
    /// A remark for its history.
    pub message: Option<String>,
    /// What its programs are built for; this machine when not given.
    pub platform: Option<Platform>,
    /// What the layer may do to us.
    pub limits: Limits,
}

/// Imports a root file system.
///
/// # Errors
/// [`ImportError`].
pub fn import(
    store: &Store,
    ns: &str,
    source: Source<'_>,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<Installed, ImportError> {
    let from = match &source {
        Source::Path(path) => path.display().to_string(),
        Source::Stream(_) => "the stream".to_owned(),
        Source::Url(_, url) => (*url).to_owned(),
    };
    let fault = |e: Fault| ImportError::install(&from, e);
    leased(store, &format!("import {from}"), fault, |lease| {
        beneath(store, lease, ns, source, &from, options, progress)
    })
}

/// All that is done while the lease is held.
fn beneath(
    store: &Store,
    lease: &Lease,
    ns: &str,
    source: Source<'_>,
    from: &str,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<Installed, ImportError> {
    // What is wrong with the instructions is said before anything is read.
    let mut execution = Execution::default();
    for instruction in &options.changes {
        change::apply(&mut execution, instruction)?;
    }
    let failed = |source: InstallError| ImportError::install(from, source);
    let mut ingest = store
        .ingest_once(lease, "import", None)
        .map_err(|e| failed(e.into()))?;
    let (diff_id, media_type) = match source {
        Source::Stream(stream) => copy(stream, &mut ingest, from, &options.limits, progress)?,
        Source::Url(client, url) => {
            let mut answer = client.download(url, progress)?;
            copy(&mut answer, &mut ingest, from, &options.limits, progress)?
        }
        Source::Path(path) if path.is_dir() => {
            return Err(ImportError::Directory {
                path: path.to_owned(),
            });
        }
        Source::Path(path) => {
            let open = File::open(path).map_err(|source| ImportError::Open {
                path: path.to_owned(),
                source,
            });
            copy(&mut open?, &mut ingest, from, &options.limits, progress)?
        }
    };
    let size = ingest.offset();
    let digest = store
        .commit_blob(ingest, lease)
        .map_err(|e: IngestError| failed(e.into()))?;

    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let now = now();
    let config = ImageConfig {
        created: Some(now.clone()),
        author: None,
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        config: execution,
        rootfs: RootFs {
            kind: "layers".into(),
            diff_ids: vec![diff_id.to_string()],
        },
        history: vec![History {
            created: Some(now),
            created_by: format!("strata import {from}"),
            comment: options.message.clone().unwrap_or_default(),
            ..History::default()
        }],
    };
    let blob = Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
    };
    let layer = Layer {
        blob,
        urls: Vec::new(),
    };
    let image = (config, vec![layer], true);
    compose(
        store,
        lease,
        ns,
        options.name.as_ref(),
        image,
        &options.limits,
        progress,
    )
    .map_err(failed)
}

/// Copies the tar as it is into a blob, and hashes what is in it on the way: the layer's diff ID.
fn copy(
    from: &mut dyn Read,
    to: &mut Ingest,
    name: &str,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<(Digest, &'static str), ImportError> {
    let full = RefCell::new(None);
    let failed = |source| match full.take() {
        Some(fault) => ImportError::install(name, InstallError::Fault(fault)),
        None => ImportError::Read {
            from: name.to_owned(),
            source,
        },
    };
    let tee = Tee {
        from,
        to,
        full: &full,
        name,
        bytes: 0,
        progress,
    };
    let content = decoder(BufReader::with_capacity(PIECE, tee));
    let mut content = content.with_ratio(Ratio::new(limits.ratio));
    let media_type = match content.compression().map_err(failed)? {
        Compression::None => media::OCI_LAYER,
        Compression::Gzip => media::OCI_LAYER_GZIP,
        Compression::Zstd => media::OCI_LAYER_ZSTD,
    };
    let mut hasher = Hasher::new();
    let mut piece = vec![0; PIECE];
    let mut size = 0;
    loop {
        match content.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&piece[..read]);
                size += read as u64;
                if size > limits.bytes {
                    return Err(ImportError::TooLarge {
                        from: name.to_owned(),
                        limit: limits.bytes,
                    });
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
    match size {
        0 => Err(ImportError::Empty {
            from: name.to_owned(),
        }),
        _ => Ok((hasher.finish(), media_type)),
    }
}

/// Writes into the blob whatever is read.
struct Tee<'a> {
    from: &'a mut dyn Read,
    to: &'a mut Ingest,
    /// Why nothing more could be written.
    full: &'a RefCell<Option<Fault>>,
    name: &'a str,
    bytes: u64,
    progress: &'a dyn Progress,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.to.write_all(&buffer[..read]).map_err(|error| {
            let kind = error.kind();
            self.full.replace(Some(self.to.write_fault(error)));
            kind
        })?;
        self.bytes += read as u64;
        self.progress.event(&Event::Read {
            what: self.name,
            bytes: self.bytes,
        });
        Ok(read)
    }
}
