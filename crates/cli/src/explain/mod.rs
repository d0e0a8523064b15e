//! From the engine's errors to a sentence, a hint and an exit code.
//!
//! An error's own words name what it concerns; here is decided whose fault it is and what may help.

use std::fmt::Display;
use std::io::ErrorKind;

use engine::OpenError;
use engine::dedup::DedupError;
use engine::diff::DiffError;
use engine::errors::{BlobError, ContainerError, Fault, SnapshotError, VolumeError};
use engine::history::HistoryError;
use engine::images::ImagesError;
use engine::info::InfoError;
use engine::inspect::InspectError;
use engine::layers::LayersError;
use engine::ps::PsError;
use engine::rm::RmError;
use engine::rmi::RmiError;
use engine::run::VolumesError;
use engine::snapshots::ShowError;
use engine::tag::{FindImageError, TagError};
use engine::volumes::CreateVolumeError;
use runtime::bundle::BundleError;
use snapshotter::forgotten::AskError;
use snapshotter::socket::SocketError;

use crate::failure::Failure;

mod image;
mod lifecycle;
mod make;
mod network;
mod rootless;
mod run;

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

/// Of a layer that is gone.
const REPAIR: &str = "strata fsck --repair unpacks it again, from its blob or its registry, and so does a pull or load of the image";
const FREE_SPACE: &str =
    "free some space (strata prune -a does, of what is not in use), or use another --root";

fn fault_hint(fault: &Fault) -> Option<String> {
    let hint = match fault {
        Fault::Full(..) => FREE_SPACE,
        Fault::ReadOnly(_) => "name a directory that can be written with --root",
        Fault::Busy(_) => "another strata has been writing for long; try again",
        Fault::Corrupt { .. } | Fault::Database { .. } => {
            "keep a copy of the store, and report what happened to it"
        }
        Fault::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            "it belongs to another user: name one of this user's (--root, --state), or be root"
        }
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
            OpenError::Served(_) => {
                "stop the other one; a second containerd needs a store and a socket of its own (--root, --address)"
            }
            OpenError::NotUtf8(_) => "name another directory with --root",
            OpenError::OtherIds { .. } => {
                "use it as the user who made it, with the ids that /etc/subuid and /etc/subgid gave then; or name another with --root"
            }
            OpenError::Fault(Fault::Io { source, .. }) if source.kind() != ErrorKind::PermissionDenied => {
                "the store is where --root says, or STRATA_ROOT, or the configuration file: name a directory there"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl Explain for VolumeError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            VolumeError::Fault(fault) => Some(fault),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            VolumeError::NotFound(_) => "strata volume ls lists them",
            VolumeError::Invalid(_) => "letters, digits, _, . and -, the first a letter or a digit",
            VolumeError::InUse { .. } => "remove the containers first: strata rm -v",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl Explain for CreateVolumeError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            CreateVolumeError::Volume(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            CreateVolumeError::Volume(error) => error.hint(),
            CreateVolumeError::Options(_) => Some(VOLUME_OPTIONS.to_owned()),
            CreateVolumeError::Other(name) => Some(format!("strata volume inspect {name} tells which")),
            _ => None,
        }
    }
}

/// What a volume can be made with.
const VOLUME_OPTIONS: &str = "a volume is a directory of the store, or one of this machine: --opt type=none --opt o=bind --opt device=DIRECTORY";

impl Explain for VolumesError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            VolumesError::Volume(error) => error.fault(),
            VolumesError::From { source, .. } => source.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            VolumesError::Volume(error) => error.hint(),
            VolumesError::From { .. } => Some("strata ps -a lists all containers".to_owned()),
            VolumesError::Options { .. } => Some(VOLUME_OPTIONS.to_owned()),
            VolumesError::ImageOverKernels(place) => Some(format!(
                "an image that means well names no such place; with -v {0}:{0} it gets this machine's",
                place.display()
            )),
            VolumesError::OverKernels(place) => {
                Some(format!("-v {0}:{0} binds this machine's", place.display()))
            }
            _ => None,
        }
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
            _ => image::NAMES,
        };
        Some(hint.to_owned())
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
            RmError::Restarting(name) => format!("stop and remove it with strata rm -f {name}"),
            RmError::Unrecorded(name) => format!("end them and remove it with strata rm -f {name}"),
            RmError::Elsewhere { name, state } => {
                format!(
                    "kill and remove it with strata --state {} rm -f {name}",
                    state.display()
                )
            }
            RmError::Running { name, .. } => format!("kill and remove it with strata rm -f {name}"),
            RmError::Container(error) => return error.hint(),
            RmError::Network(error) => return network::sandbox(error),
            RmError::Bundle(BundleError::Newer { .. }) => "remove it with the strata that runs it".to_owned(),
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
            TagError::Reference(error) => error.hint(),
            TagError::Digest(_) => Some("give a name and a tag".to_owned()),
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
            DiffError::Image(error) => error.fault(),
            DiffError::Snapshot(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            DiffError::NotFound(_) => Some(
                "strata ps -a lists containers, strata images images, strata layers the layers of either"
                    .to_owned(),
            ),
            DiffError::Ambiguous { .. } => Some("give more digits of the digest".to_owned()),
            DiffError::Container(error) => error.hint(),
            DiffError::Image(error) => error.hint(),
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
            LayersError::Name(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            LayersError::NotFound(_) => Some(WHAT_THERE_IS.to_owned()),
            LayersError::Container(error) => error.hint(),
            LayersError::Image(error) => error.hint(),
            LayersError::Name(error) => error.hint(),
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
            InspectError::Network(error) => error.fault(),
            InspectError::Volume(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            InspectError::NotFound(_) => Some(WHAT_THERE_IS.to_owned()),
            InspectError::Container(error) => error.hint(),
            InspectError::Image(error) => error.hint(),
            InspectError::Blob(error) => error.hint(),
            InspectError::Network(error) => error.hint(),
            InspectError::Volume(error) => error.hint(),
            _ => None,
        }
    }
}

impl Explain for AskError {
    fn hint(&self) -> Option<String> {
        let hint = "--containerd=SOCKET names its socket, --snapshotter what its configuration calls strata";
        Some(hint.to_owned())
    }
}

impl Explain for ShowError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            ShowError::Store(fault) => Some(fault),
            ShowError::Snapshot(error) => error.fault(),
            ShowError::Diff(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ShowError::NotFound { .. } => Some("strata snapshot ls --all-namespaces lists them".to_owned()),
            ShowError::Ambiguous { .. } => {
                Some("strata snapshot ls lists them; write more of the key".to_owned())
            }
            _ => None,
        }
    }
}

impl Explain for SocketError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            SocketError::Served(_) => {
                "stop the other one; a second containerd needs a socket and a store of its own (--address, --root)"
            }
            SocketError::InTheWay(_) => "remove it, or name another socket with --address",
            SocketError::NoPath(_) => "name a socket with --address, such as /run/strata/snapshotter.sock",
            SocketError::Passed(_) => "a unit passes one: dist/strata-snapshotter.socket is such",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl Explain for DedupError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            DedupError::Store(fault) => Some(fault),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            DedupError::Unsupported(_) => "xfs and btrfs can: put the store on one with --root",
            DedupError::Record { .. } => "strata fsck --repair mends it",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl Explain for HistoryError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            HistoryError::Store(fault) => Some(fault),
            HistoryError::Image(error) => error.fault(),
            HistoryError::Blob(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            HistoryError::Image(error) => error.hint(),
            HistoryError::Blob(error) => error.hint(),
            _ => None,
        }
    }
}

const WHAT_THERE_IS: &str =
    "strata ps -a lists the containers, strata images the images, strata snapshot ls what containerd keeps";

#[cfg(test)]
mod tests {
    use engine::run::RunError;

    use super::*;

    #[test]
    fn trouble_of_the_disk_is_found_however_deep_it_lies() {
        let error = RunError::Container(ContainerError::Fault(Fault::Full("/s".into(), "space")));
        let failure = Failure::from(error);
        assert_eq!(failure.to_string(), "no space left on the disk for /s");
        assert_eq!(failure.advice(), Some(FREE_SPACE));
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
    fn a_directory_in_use_is_not_blamed_on_its_file_system() {
        let failure = Failure::from(RunError::Mount(mount::MountError::InUse("/up".into())));
        assert!(
            failure.advice().is_some_and(|hint| hint.contains("findmnt")),
            "{failure:?}"
        );
        let full = std::io::Error::from(ErrorKind::StorageFull);
        let unpacked = |doing: &str| engine::errors::UnpackError::Make {
            name: "f".into(),
            doing: doing.into(),
            source: std::io::Error::from(full.kind()),
        };
        assert!(unpacked("writing the file").is_full());
        // What does not fit into a block of ext4 is refused by the same number.
        assert!(!unpacked("setting the attribute \"user.big\"").is_full());
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
