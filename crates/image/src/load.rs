//! `load`: images from archives and layouts into the store.
//!
//! Three forms, told apart by what is in them: an OCI image layout (`index.json`), as a directory or as a tar;
//! `docker save`'s archive of old (`manifest.json`); and its newer one, which is both. The tar may be compressed,
//! and may be a stream. Names in it are kept.

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Mutex;

use store::{Digest, Fault, Lease, Store};

use crate::archive::Archive;
use crate::compression::is_inflated;
use crate::config::ConfigError;
use crate::install::{InstallError, Installed, leased};
use crate::manifest::{MAX_MANIFEST, ManifestError};
use crate::platform::{Platform, Wanted};
use crate::progress::Progress;
use crate::reference::ReferenceError;
use crate::tar::TarError;
use crate::unpack::Limits;
use crate::{load_docker, load_oci};

/// An archive that could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("cannot load {from}: {problem}")]
pub struct LoadError {
    /// The path, or `the stream`.
    pub from: String,
    /// Why.
    #[source]
    pub problem: Box<LoadProblem>,
}

/// Why an archive could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadProblem {
    /// The file or directory cannot be opened.
    #[error("{source}")]
    Open {
        /// The system's words.
        source: io::Error,
    },
    /// It is no tar, or a damaged one.
    #[error(
        "it is no archive of images, or a damaged one: {}",
        crate::text::whole(source)
    )]
    Archive {
        /// What is wrong with it.
        source: TarError,
    },
    /// It begins with what is no tar.
    #[error("it is no archive of images: it does not begin as a tar does, compressed or not")]
    NotTar,
    /// It is a tar or a directory of something else.
    #[error(
        "it holds no images: neither index.json (an OCI layout) nor manifest.json (docker save) is in it, but {}",
        some(.found)
    )]
    Unknown {
        /// What is in it instead.
        found: Vec<String>,
    },
    /// It holds a list of images, and the list is empty.
    #[error("it holds no image")]
    Empty,
    /// A file in it cannot be read.
    #[error("cannot read {name:?} in it: {source}")]
    Read {
        /// Which file.
        name: String,
        /// The system's words.
        source: io::Error,
    },
    /// A file in it is larger than its kind can be.
    #[error("{name:?} in it has {size} bytes, at most {max} are read")]
    TooLarge {
        /// Which file.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// What is read at most, in bytes.
        max: u64,
    },
    /// It has too many files.
    #[error("it has more than {max} files")]
    TooMany {
        /// How many are read.
        max: usize,
    },
    /// A file with holes, which no tool writes into such an archive.
    #[error("{name:?} in it is a sparse file")]
    Sparse {
        /// Which file.
        name: String,
    },
    /// A file is not in it that should be.
    #[error("{image} needs {name:?}, which is not in it")]
    Missing {
        /// Which image.
        image: String,
        /// Which file.
        name: String,
    },
    /// A file has another digest than its name or the manifest says.
    #[error("{name:?} in it is damaged: its content has the digest {got}")]
    Digest {
        /// Which file.
        name: String,
        /// What it has.
        got: Digest,
    },
    /// A manifest or index in it cannot be used.
    #[error("{name:?} in it cannot be used: {source}")]
    Manifest {
        /// Which file.
        name: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// A configuration in it cannot be used.
    #[error("{image} cannot be used: {source}")]
    Config {
        /// Which image.
        image: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// `manifest.json` is not what it should be.
    #[error("manifest.json in it is not valid: {reason}")]
    DockerManifest {
        /// The parser's words.
        reason: String,
    },
    /// A name in it is none.
    #[error("a name in it is none: {source}")]
    Name {
        /// What is wrong with it.
        #[from]
        source: ReferenceError,
    },
    /// There is no build for the platform.
    #[error("{image} is not built for {wanted}{}", crate::pull::offered(.offers))]
    NoPlatform {
        /// Which image.
        image: String,
        /// What was wanted.
        wanted: String,
        /// What there is.
        offers: Vec<String>,
    },
    /// All platforms were asked for, and no index holds them together.
    #[error(
        "{image}: the layout lists its builds beside each other, without an index that could be kept whole"
    )]
    SideBySide {
        /// Which image.
        image: String,
    },
    /// The only build is for another platform.
    #[error("{image} is built for {built}, not for {wanted}")]
    OtherPlatform {
        /// Which image.
        image: String,
        /// What it is built for.
        built: Platform,
        /// What was wanted.
        wanted: String,
    },
    /// It could not be brought into the store.
    #[error("{name}: {source}")]
    Install {
        /// The image, or the file of the archive.
        name: String,
        /// What went wrong.
        source: Box<InstallError>,
    },
}

fn some(found: &[String]) -> String {
    match found {
        [] => "nothing".into(),
        found => {
            let shown: Vec<String> = found.iter().take(5).map(|name| format!("{name:?}")).collect();
            shown.join(", ") + if found.len() > 5 { ", …" } else { "" }
        }
    }
}

impl LoadProblem {
    /// Whether it inflates to more than [`Limits::ratio`] allows.
    pub fn is_inflated(&self) -> bool {
        matches!(self, LoadProblem::Archive { source: TarError::Read { source, .. } } if is_inflated(source))
    }

    pub(crate) fn install(name: impl Into<String>, source: impl Into<InstallError>) -> Self {
        Self::Install {
            name: name.into(),
            source: Box::new(source.into()),
        }
    }

    pub(crate) fn fault(source: Fault) -> Self {
        Self::install("the store", source)
    }
}

/// What is loaded.
pub enum Source<'a> {
    /// A file, or a directory with an OCI layout.
    Path(&'a Path),
    /// A stream, read to its end.
    Stream(&'a mut dyn Read),
}

/// How it is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// For which platform, of an image that is there for several.
    pub platform: Wanted,
    /// Keeps what an index has for other platforms too, not unpacked.
    pub all_platforms: bool,
    /// Most blobs copied at once.
    pub parallel: usize,
    /// What a layer may do to us.
    pub limits: Limits,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            platform: Wanted::Host,
            all_platforms: false,
            parallel: 2,
            limits: Limits::default(),
        }
    }
}

/// What an archive's form needs to know.
pub(crate) struct Load<'a> {
    pub(crate) store: &'a Store,
    pub(crate) lease: &'a store::Lease,
    pub(crate) ns: &'a str,
    pub(crate) archive: &'a Archive<'a>,
    /// Name of the file or directory without what follows the first dot, where it can be a repository: for images
    /// that have a tag and no name.
    pub(crate) stem: Option<String>,
    pub(crate) options: &'a LoadOptions,
    /// Blobs of layers that were in the store before, which were read here and are what they say.
    pub(crate) verified: Mutex<HashSet<Digest>>,
    pub(crate) progress: &'a dyn Progress,
}

/// Loads every image of an archive or a layout.
///
/// # Errors
/// [`LoadProblem`]; images before the one that failed are there, with their names. Nothing else is.
pub fn load(
    store: &Store,
    ns: &str,
    source: Source<'_>,
    options: &LoadOptions,
    progress: &dyn Progress,
) -> Result<Vec<Installed>, LoadError> {
    let from = match &source {
        Source::Path(path) => path.display().to_string(),
        Source::Stream(_) => "the stream".to_owned(),
    };
    all(store, ns, source, &from, options, progress).map_err(|problem| LoadError {
        from,
        problem: Box::new(problem),
    })
}

fn all(
    store: &Store,
    ns: &str,
    source: Source<'_>,
    from: &str,
    options: &LoadOptions,
    progress: &dyn Progress,
) -> Result<Vec<Installed>, LoadProblem> {
    leased(store, &format!("load {from}"), LoadProblem::fault, |lease| {
        beneath(store, lease, ns, source, options, progress)
    })
}

/// All that is done while the lease is held.
fn beneath(
    store: &Store,
    lease: &Lease,
    ns: &str,
    source: Source<'_>,
    options: &LoadOptions,
    progress: &dyn Progress,
) -> Result<Vec<Installed>, LoadProblem> {
    let limits = &options.limits;
    let (archive, stem) = match source {
        Source::Path(path) if path.is_dir() => (Archive::directory(path)?, stem(path)),
        Source::Path(path) => (Archive::file(path, store, lease, limits)?, stem(path)),
        Source::Stream(stream) => (Archive::stream(stream, store, lease, limits)?, None),
    };
    let load = Load {
        store,
        lease,
        ns,
        archive: &archive,
        stem,
        options,
        verified: Mutex::default(),
        progress,
    };
    let loaded = match (
        archive.bytes("index.json", MAX_MANIFEST)?,
        archive.open("manifest.json")?,
    ) {
        (Some(index), _) => load_oci::load(&load, &index)?,
        (None, Some(_)) => load_docker::load(&load)?,
        (None, None) => {
            return Err(LoadProblem::Unknown {
                found: archive.names(),
            });
        }
    };
    match loaded.is_empty() {
        true => Err(LoadProblem::Empty),
        false => Ok(loaded),
    }
}

fn stem(path: &Path) -> Option<String> {
    let name = match path.file_name() {
        Some(name) => name.to_owned(),
        // `.` and `dir/..` have names too, once they are resolved.
        None => std::fs::canonicalize(path).ok()?.file_name()?.to_owned(),
    };
    let name = name.to_string_lossy().to_lowercase();
    let stem = name.split('.').next().unwrap_or_default();
    crate::reference::is_path_component(stem).then(|| stem.to_owned())
}
