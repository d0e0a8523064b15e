//! What helps when an image cannot be brought into the store.

use std::fmt::Display;
use std::io::ErrorKind;

use engine::errors::{Fault, ImageError, IngestError, InstallError, UnpackError};
use engine::import::{self, ImportError};
use engine::load::{LoadError, LoadProblem};
use engine::login::{AuthError, RegistryError};
use engine::pull::{self, PullError, ReferenceError};

use super::{Explain, FREE_SPACE};

impl Explain for ImageError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            ImageError::Fault(fault) => Some(fault),
            _ => None,
        }
    }
}

impl Explain for InstallError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            InstallError::Fault(fault) | InstallError::Ingest(IngestError::Fault(fault)) => Some(fault),
            InstallError::Blob(error) => error.fault(),
            InstallError::Image(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            InstallError::Full { .. } => Some(FREE_SPACE.to_owned()),
            InstallError::Unpack { source, .. } => Some(unpack_hint(source).to_owned()),
            InstallError::DiffId { .. } | InstallError::Digest { .. } | InstallError::Size { .. } => {
                Some("the image is damaged, or not what it says it is: fetch or save it again".to_owned())
            }
            InstallError::Blob(error) => error.hint(),
            InstallError::Ingest(IngestError::InUse { container, .. }) => Some(format!(
                "stop it, so that the layer can be replaced: strata stop {container}"
            )),
            _ => None,
        }
    }
}

fn is_no_archive(error: &InstallError) -> bool {
    matches!(error, InstallError::Unpack { source, .. }
        if matches!(source, UnpackError::Archive(_)) && source.limit().is_none())
}

fn unpack_hint(error: &UnpackError) -> &'static str {
    if let Some(limit) = error.limit() {
        return limit_hint(limit);
    }
    match error {
        UnpackError::Archive(_) => "the layer is damaged: fetch or save the image again",
        UnpackError::Refused { .. } => {
            "nothing of it was kept; who made the image must build it again without that entry"
        }
        UnpackError::Make { source, .. } if source.kind() == ErrorKind::InvalidFilename => {
            "file systems of Linux take names of 255 bytes, and paths of 4095; who made the image must build it again without that entry"
        }
        UnpackError::Make { doing, .. } if doing.contains("attribute") => {
            "the store's file system does not take that attribute: another may (xfs takes larger ones than ext4), or who made the image must build it again without"
        }
        UnpackError::Make { source, doing, .. }
            if source.kind() == ErrorKind::InvalidInput && doing.contains("owner") =>
        {
            "an ordinary user has the owners that /etc/subuid and /etc/subgid give; more of them there make it possible"
        }
        UnpackError::Make { .. } | UnpackError::Record(_) => {
            "see that the disk of the store is sound, and that its file system has what layers need (dmesg may tell more)"
        }
        UnpackError::Memory { .. } => {
            "two million directories are as many as a layer can have: build the image again with fewer"
        }
        _ => "see that this machine has processes and memory left",
    }
}

/// How a limit of layers is raised; by its name among them.
pub(super) fn limit_hint(limit: &str) -> &'static str {
    match limit {
        "entries" => {
            "nothing of it was kept; if the image is to be trusted, raise layer_entries under [limits] in the configuration"
        }
        "ratio" => {
            "nothing of it was kept; if the image is to be trusted, raise inflate_ratio under [limits] in the configuration"
        }
        _ => {
            "nothing of it was kept; if the image is to be trusted, raise layer_bytes under [limits] in the configuration"
        }
    }
}

pub(super) const NAMES: &str = "names look like debian, debian:12 or ghcr.io/owner/name:tag";

impl Explain for ReferenceError {
    fn hint(&self) -> Option<String> {
        Some(NAMES.to_owned())
    }
}

impl Explain for RegistryError {
    fn hint(&self) -> Option<String> {
        match self {
            RegistryError::Auth(error) => error.hint(),
            other => other.advice(),
        }
    }
}

impl Explain for AuthError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            AuthError::Helper { .. } => {
                "install that program, or take it out of credHelpers and credsStore in the credentials"
            }
            AuthError::Empty => "give them with -u USER and --password-stdin, or on a terminal",
            AuthError::Registry { .. } => "strata login docker.io is the one of short names",
            _ => "REGISTRY_AUTH_FILE names another file",
        };
        Some(hint.to_owned())
    }
}

fn take_anyway(built: &impl Display) -> String {
    format!("take it anyway with --platform {built}")
}

pub(super) const PLATFORMS: &str = "the machine's own is the default; strata info tells it";
const CHOOSE_PLATFORM: &str = "choose another build with --platform os/architecture";

impl Explain for PullError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            PullError::Pull(pull::Refusal::Install { source, .. }) => source.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            PullError::Reference(error) => return error.hint(),
            PullError::Platform(_) => PLATFORMS.to_owned(),
            PullError::Pull(refusal) => match refusal {
                pull::Refusal::Install { source, .. } => return source.hint(),
                pull::Refusal::Registry(error) => return error.hint(),
                pull::Refusal::NoPlatform { .. } => CHOOSE_PLATFORM.to_owned(),
                pull::Refusal::OtherPlatform { built, .. } => take_anyway(built),
                _ => "what was pushed there is no image that can be run; push it again".to_owned(),
            },
            _ => return None,
        })
    }
}

impl Explain for LoadError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            LoadError::Load(refusal) => match &*refusal.problem {
                LoadProblem::Install { source, .. } => source.fault(),
                _ => None,
            },
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let LoadError::Load(refusal) = self else {
            return Some(PLATFORMS.to_owned());
        };
        Some(match &*refusal.problem {
            LoadProblem::Open { .. } => "name an archive or an OCI layout, or give the archive on standard input".to_owned(),
            LoadProblem::NotTar => {
                "load takes what docker save, podman save, skopeo and buildah write".to_owned()
            }
            LoadProblem::Unknown { .. } => {
                "load takes what docker save and the like write; a root file system is brought in by strata import"
                    .to_owned()
            }
            LoadProblem::NoPlatform { .. } => CHOOSE_PLATFORM.to_owned(),
            LoadProblem::OtherPlatform { built, .. } => take_anyway(built),
            LoadProblem::SideBySide { .. } => "load it without --all-platforms, or one by --platform".to_owned(),
            LoadProblem::Sparse { .. } => "pack it without --sparse".to_owned(),
            LoadProblem::Install { source, .. } => return source.hint(),
            problem if problem.is_inflated() => limit_hint("ratio").to_owned(),
            problem if problem.to_string().contains("decompress it first") => {
                "gzip and zstd are read as they are; decompress others before: xz -dc FILE | strata load".to_owned()
            }
            problem if problem.to_string().contains("skopeo's dir: form") => {
                "skopeo copy dir:DIRECTORY oci-archive:FILE makes an archive of it".to_owned()
            }
            LoadProblem::Manifest { source, .. } if source.advice().is_some() => return source.advice().map(str::to_owned),
            _ => "the archive is damaged or not complete: save it again".to_owned(),
        })
    }
}

impl Explain for ImportError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            ImportError::Import(import::Refusal::Install { source, .. }) => source.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            ImportError::Reference(error) => return error.hint(),
            ImportError::Platform(_) => PLATFORMS.to_owned(),
            ImportError::Import(refusal) if refusal.limit().is_some() => {
                return refusal.limit().map(|limit| limit_hint(limit).to_owned());
            }
            ImportError::Import(refusal) => match refusal {
                import::Refusal::Install { source, .. } if is_no_archive(source) => {
                    "it is damaged, or no tar of a root file system".to_owned()
                }
                import::Refusal::Install { source, .. } => return source.hint(),
                import::Refusal::Download(error) => return error.hint(),
                import::Refusal::Change(_) => "strata import --help lists what --change takes".to_owned(),
                import::Refusal::Directory { .. } => return None,
                _ => "import takes the tar of a root file system, plain or compressed by gzip or zstd"
                    .to_owned(),
            },
            _ => return None,
        })
    }
}
