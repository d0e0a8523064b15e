//! From the engine's errors to a sentence, a hint and an exit code.
//!
//! An error's own words name what it concerns; here is decided whose fault it is and what may help.

use std::fmt::Display;
use std::io::ErrorKind;

use engine::OpenError;
use engine::diff::DiffError;
use engine::errors::{
    BlobError, ContainerError, Fault, ImageError, IngestError, InstallError, SnapshotError, UnpackError,
};
use engine::images::ImagesError;
use engine::import::{self, ImportError};
use engine::info::InfoError;
use engine::inspect::InspectError;
use engine::layers::LayersError;
use engine::load::{LoadError, LoadProblem};
use engine::login::{AuthError, RegistryError};
use engine::ps::PsError;
use engine::pull::{self, PullError, ReferenceError};
use engine::rm::RmError;
use engine::rmi::RmiError;
use engine::run::{BaseError, RunError, SpecError};
use engine::tag::{FindImageError, TagError};
use runtime::{StartError, spec};

use crate::failure::Failure;

/// What can be said about an error beyond its words.
pub(crate) trait Explain: Display {
    /// Trouble of the disk or the database behind it.
    fn fault(&self) -> Option<&Fault> {
        None
    }

    /// What may help.
    fn hint(&self) -> Option<String> {
        None
    }

    /// The exit code, where it is not strata's own.
    fn code(&self) -> Option<u8> {
        None
    }
}

impl<E: Explain> From<E> for Failure {
    fn from(error: E) -> Failure {
        let damaged = matches!(
            error.fault(),
            Some(Fault::Corrupt { .. } | Fault::Database { .. })
        );
        let mut failure = if damaged {
            Failure::internal(&error)
        } else {
            Failure::user(&error)
        };
        if let Some(hint) = error.hint().or_else(|| error.fault().and_then(fault_hint)) {
            failure = failure.hint(hint);
        }
        match error.code() {
            Some(code) => failure.code(code),
            None => failure,
        }
    }
}

const FREE_SPACE: &str = "free some space, or use another --root";

fn fault_hint(fault: &Fault) -> Option<String> {
    let hint = match fault {
        Fault::Full(_) => FREE_SPACE,
        Fault::ReadOnly(_) => "name a directory that can be written with --root",
        Fault::Busy(_) => "another strata has been writing for long; try again",
        Fault::Corrupt { .. } | Fault::Database { .. } => {
            "keep a copy of the store, and report what happened to it"
        }
        Fault::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => "strata runs as root",
        _ => return None,
    };
    Some(hint.to_owned())
}

impl Explain for Fault {
    fn fault(&self) -> Option<&Fault> {
        Some(self)
    }
}

impl Explain for OpenError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            OpenError::Fault(fault) => Some(fault),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            OpenError::Newer { .. } | OpenError::UnknownFeatures { .. } => {
                "use the strata that wrote it, or a newer one"
            }
            OpenError::NotAStore { .. } => {
                "name an empty directory, or one that is not there yet, with --root"
            }
            OpenError::NotUtf8(_) => "name another directory with --root",
            OpenError::Fault(Fault::Io { source, .. }) if source.kind() != ErrorKind::PermissionDenied => {
                "the store is where --root says, or STRATA_ROOT, or the configuration file: name a directory there"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl Explain for ContainerError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            ContainerError::Fault(fault) | ContainerError::Snapshot(SnapshotError::Fault(fault)) => {
                Some(fault)
            }
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            ContainerError::NameInUse { name, .. } => {
                format!("choose another name, or remove that container: strata rm {name}")
            }
            ContainerError::NotFound(_) => "strata ps -a lists all containers".to_owned(),
            ContainerError::Ambiguous { .. } => "give more digits of the id".to_owned(),
            ContainerError::ManifestGone(_) => "it was removed meanwhile; run again".to_owned(),
            ContainerError::Snapshot(error) => return error.hint(),
            _ => return None,
        })
    }
}

impl Explain for SnapshotError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            SnapshotError::Fault(fault) => Some(fault),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        matches!(self, SnapshotError::NoQuota(_)).then(|| {
            "ext4 (made with -O quota,project) and xfs have them where they are mounted with the option prjquota"
                .to_owned()
        })
    }
}

impl Explain for BlobError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            BlobError::Fault(fault) => Some(fault),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        matches!(self, BlobError::Damaged { .. } | BlobError::NotFound(_))
            .then(|| "pull or load the image again".to_owned())
    }
}

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
            _ => None,
        }
    }
}

fn unpack_hint(error: &UnpackError) -> &'static str {
    match error {
        UnpackError::Archive(_) => "the layer is damaged: fetch or save the image again",
        UnpackError::Refused { .. } => {
            "nothing of it was kept; who made the image must build it again without that entry"
        }
        UnpackError::TooLarge { .. } => {
            "if the image is to be trusted, raise layer_bytes or layer_entries under [limits] in the configuration"
        }
        UnpackError::Make { .. } | UnpackError::Record(_) => {
            "see that the disk of the store is sound, and that its file system has what layers need (dmesg may tell more)"
        }
        _ => "see that this machine has processes and memory left",
    }
}

impl Explain for FindImageError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            FindImageError::Store(fault) => Some(fault),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            FindImageError::NotFound(_) => "strata images lists those there are",
            FindImageError::Ambiguous { .. } => "give more digits of the id",
            FindImageError::Store(_) => return None,
            _ => NAMES,
        };
        Some(hint.to_owned())
    }
}

const NAMES: &str = "names look like debian, debian:12 or ghcr.io/owner/name:tag";

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

const PLATFORMS: &str = "the machine's own is the default; strata info tells it";
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
            LoadProblem::Sparse { .. } => "pack it without --sparse".to_owned(),
            LoadProblem::Install { source, .. } => return source.hint(),
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
            ImportError::Import(refusal) => match refusal {
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

impl Explain for BaseError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            BaseError::Store(fault) => Some(fault),
            BaseError::Pull(error) => error.fault(),
            BaseError::Find(error) => error.fault(),
            BaseError::Blob { source, .. } => source.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            BaseError::Missing(name) => {
                format!("pull it with strata pull {name}, or load it with strata load")
            }
            BaseError::OtherPlatform { built, .. } => {
                format!("take the one that is there with --platform {built}")
            }
            BaseError::Platform(_) => PLATFORMS.to_owned(),
            BaseError::Config { .. } => "the image cannot be run here; have it built again".to_owned(),
            BaseError::Directory { .. } => "name a directory that holds a root file system".to_owned(),
            BaseError::Find(error) => return error.hint(),
            BaseError::Pull(error) => return error.hint(),
            BaseError::Blob { source, .. } => return source.hint(),
            _ => return None,
        })
    }
}

impl Explain for RunError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            RunError::Container(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            RunError::Container(error) => return error.hint(),
            RunError::State { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                "strata runs as root"
            }
            RunError::Start(StartError::Helper { source, .. })
                if source.kind() == ErrorKind::PermissionDenied =>
            {
                "strata runs as root"
            }
            RunError::State { .. } => {
                "the state lies where --state says, or STRATA_STATE, or the configuration file: name a directory there"
            }
            RunError::Remove { .. } => "remove it with strata rm -f",
            RunError::Spec(error) => return Some(spec_hint(error)),
            RunError::Start(StartError::Setup(words)) => setup_hint(words),
            RunError::Start(StartError::CannotRun(_)) => {
                "see that it is executable, for this machine, and that its interpreter is in the image"
            }
            RunError::Start(StartError::NotFound(_)) => {
                "it is looked for in the container's root: a path as it is, a plain name by the PATH of its environment"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    fn code(&self) -> Option<u8> {
        match self {
            RunError::Start(error) => Some(error.exit_code()),
            _ => None,
        }
    }
}

fn spec_hint(error: &SpecError) -> String {
    let hint = match error {
        SpecError::Joined { .. } => "strata ps -a lists all containers",
        SpecError::NotRunning { .. } => "strata ps lists those that run",
        SpecError::User(_) => {
            "names are looked up in the image's own /etc/passwd and /etc/group; numbers need no entry there"
        }
        SpecError::Build(error) => match error {
            spec::SpecError::NoCommand(_) => "give one at the end of the line",
            spec::SpecError::Device(_) => {
                "name a device of this machine, as ls -l /dev shows them, or a directory that holds some"
            }
            spec::SpecError::Seccomp { .. } => {
                "give a profile as docker and podman take it (JSON), or unconfined"
            }
            spec::SpecError::CapabilityMissing(_) => "leave it out, or run strata with it",
            spec::SpecError::Sysctl { .. } => {
                "a container has net.* (with a network of its own), fs.mqueue.*, and kernel.msg*, kernel.sem, kernel.shm* and kernel.domainname of its own"
            }
            _ => "strata run --help lists the flags and what they take",
        },
        _ => "strata run --help lists the flags and what they take",
    };
    hint.to_owned()
}

/// What the launcher says comes through a socket: its first words tell what it concerns.
fn setup_hint(words: &str) -> &'static str {
    let concerns = |what: &str| words.starts_with(what);
    if concerns("mount ") {
        "-v, --mount and --tmpfs say what is mounted where; both must be files, or both directories"
    } else if concerns("AppArmor") {
        "--security-opt apparmor= takes a profile that this kernel has loaded, or unconfined"
    } else if words.contains(" create: ") {
        "--runtime names the program of an OCI runtime, such as crun or runc"
    } else {
        "strata run --help tells what each flag needs; strata info tells what this machine has"
    }
}

impl Explain for RmError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            RmError::Container(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            RmError::NotFound(_) => "strata ps -a lists all containers".to_owned(),
            RmError::Running { name, .. } => format!("kill and remove it with strata rm -f {name}"),
            RmError::Container(error) => return error.hint(),
            _ => return None,
        })
    }
}

impl Explain for RmiError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            RmiError::Store(error) => error.fault(),
            RmiError::Find(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            RmiError::NotFound(_) => "strata images lists those there are",
            RmiError::SeveralNames { .. } => "remove it by one of its names, or all of them with -f",
            RmiError::InUse { .. } => {
                "remove them first, or take only the name away with -f: they go on as they are"
            }
            RmiError::Find(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl Explain for TagError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            TagError::Find(error) => error.fault(),
            TagError::Store(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            TagError::Find(error) => error.hint(),
            _ => None,
        }
    }
}

impl Explain for ImagesError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            ImagesError::Store(fault) => Some(fault),
            _ => None,
        }
    }
}

impl Explain for PsError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            PsError::Store(fault) => Some(fault),
            _ => None,
        }
    }
}

impl Explain for InfoError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            InfoError::Store(fault) => Some(fault),
            InfoError::Ps(error) => error.fault(),
            _ => None,
        }
    }
}

impl Explain for DiffError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            DiffError::Store(fault) => Some(fault),
            DiffError::Container(error) => error.fault(),
            DiffError::Snapshot(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            DiffError::Container(error) => error.hint(),
            _ => None,
        }
    }
}

impl Explain for LayersError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            LayersError::Store(fault) => Some(fault),
            LayersError::Container(error) => error.fault(),
            LayersError::Image(error) => error.fault(),
            LayersError::Snapshot(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            LayersError::NotFound(_) => Some(WHAT_THERE_IS.to_owned()),
            LayersError::Container(error) => error.hint(),
            LayersError::Image(error) => error.hint(),
            _ => None,
        }
    }
}

impl Explain for InspectError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            InspectError::Store(fault) => Some(fault),
            InspectError::Container(error) => error.fault(),
            InspectError::Image(error) => error.fault(),
            InspectError::Snapshot(error) => error.fault(),
            InspectError::Blob(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            InspectError::NotFound(_) => Some(WHAT_THERE_IS.to_owned()),
            InspectError::Container(error) => error.hint(),
            InspectError::Image(error) => error.hint(),
            InspectError::Blob(error) => error.hint(),
            _ => None,
        }
    }
}

const WHAT_THERE_IS: &str = "strata ps -a lists the containers, strata images the images";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_of_the_disk_is_found_however_deep_it_lies() {
        let error = RunError::Container(ContainerError::Fault(Fault::Full("/s".into())));
        let failure = Failure::from(error);
        assert_eq!(failure.to_string(), "no space left on the disk for /s");
        assert_eq!(failure.advice(), Some("free some space, or use another --root"));
    }

    #[test]
    fn directories_that_cannot_be_made_say_which_flag_names_them() {
        let io = || std::io::Error::from(ErrorKind::NotADirectory);
        let root = OpenError::Fault(Fault::Io {
            what: "opening",
            path: "/etc/passwd".into(),
            source: io(),
        });
        let state = RunError::State {
            what: "opening",
            path: "/etc/passwd/default".into(),
            source: io(),
        };
        for (failure, flag) in [(Failure::from(root), "--root"), (Failure::from(state), "--state")] {
            assert!(failure.to_string().contains("/etc/passwd"), "{failure}");
            assert!(
                failure.advice().is_some_and(|hint| hint.contains(flag)),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn a_name_in_use_says_what_to_do() {
        let error = ContainerError::NameInUse {
            name: "web".into(),
            id: "ab".repeat(32),
        };
        let failure = Failure::from(RunError::from(error));
        assert!(failure.to_string().contains("\"web\""), "{failure}");
        assert!(
            failure
                .advice()
                .is_some_and(|hint| hint.contains("strata rm web"))
        );
    }
}
