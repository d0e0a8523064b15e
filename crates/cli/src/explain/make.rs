//! What helps when an image cannot be made of what is there, or sent elsewhere.

use engine::commit::{self, CaptureError, CommitError};
use engine::cp::CopyError;
use engine::errors::{Fault, Incomplete, LayerTarError, StoredError};
use engine::export::ExportError;
use engine::manifest::ManifestError;
use engine::push::{self, PushError};
use engine::save::{self, SaveError};
use engine::squash::{self, SquashError};

use super::image::{NAMES, limit_hint};
use super::{Explain, FREE_SPACE};

const NO_DIGEST: &str = "give a name and a tag";

impl Explain for StoredError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            StoredError::Blob(error) => error.fault(),
            StoredError::Fault(fault) => Some(fault),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            StoredError::Blob(error) => error.hint(),
            StoredError::Fault(_) => None,
            _ => Some("pull or load the image again".to_owned()),
        }
    }
}

impl Explain for CaptureError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            CaptureError::Fault(fault) => Some(fault),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            CaptureError::Full(_) => FREE_SPACE,
            CaptureError::Pack(_) => {
                "nothing was kept; leave --pause=false out if it was given, else remove or rename what is named, and try again"
            }
            CaptureError::Unpack(error) => return error.limit().map(|limit| limit_hint(limit).to_owned()),
            CaptureError::Begin(_) => "see that this machine has processes and files left",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl Explain for CommitError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            CommitError::Container(error) => error.fault(),
            CommitError::Base(error) => error.fault(),
            CommitError::Diff(error) => error.fault(),
            CommitError::Commit { source, .. } => match &**source {
                commit::Refusal::Base(error) => error.fault(),
                commit::Refusal::Layer(error) => error.fault(),
                commit::Refusal::Install(error) => error.fault(),
                _ => None,
            },
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            CommitError::Container(error) => return error.hint(),
            CommitError::Base(error) => return error.hint(),
            CommitError::Diff(error) => return error.hint(),
            CommitError::Reference(_) => NAMES,
            CommitError::Digest(_) => NO_DIGEST,
            CommitError::NoImage(_) => {
                "strata diff shows what it changed; strata export gives all that it shows, as a tar"
            }
            CommitError::TooManyLayers { .. } => {
                "strata image squash makes one layer of an image's; run that"
            }
            CommitError::Change(_) => "strata commit --help lists what --change takes",
            CommitError::Pause { .. } => "--pause=false lets it go on meanwhile",
            CommitError::Commit { source, .. } => match &**source {
                commit::Refusal::Base(error) => return error.hint(),
                commit::Refusal::Layer(error) => return error.hint(),
                commit::Refusal::Install(error) => return error.hint(),
                _ => return None,
            },
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl Explain for SquashError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            SquashError::Find(error) => error.fault(),
            SquashError::Squash { source, .. } => match &**source {
                squash::Refusal::Image(error) => error.fault(),
                squash::Refusal::Damaged(error) => error.fault(),
                squash::Refusal::Layer(error) => error.fault(),
                squash::Refusal::Install(error) => error.fault(),
                _ => None,
            },
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            SquashError::Find(error) => error.hint(),
            SquashError::Reference(_) => Some(NAMES.to_owned()),
            SquashError::Digest(_) => Some(NO_DIGEST.to_owned()),
            SquashError::Squash { source, .. } => match &**source {
                squash::Refusal::Image(error) => error.hint(),
                squash::Refusal::Damaged(error) => error.hint(),
                squash::Refusal::Layer(error) => error.hint(),
                squash::Refusal::Install(error) => error.hint(),
                _ => None,
            },
            _ => None,
        }
    }
}

const DAMAGED: &str =
    "the store is damaged there: strata fsck --deep --repair mends what it can and says what it cannot";
const WHERE: &str =
    "see that the place is there, can be written, and has space; a layout directory must be empty";

impl Explain for LayerTarError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            LayerTarError::Blob(error) => error.fault(),
            LayerTarError::Fault(fault) => Some(fault),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            LayerTarError::Write { .. } => Some(WHERE.to_owned()),
            LayerTarError::Fault(_) => None,
            LayerTarError::Blob(error) => error.hint(),
            _ => Some(DAMAGED.to_owned()),
        }
    }
}

impl Explain for SaveError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            SaveError::Find(error) => error.fault(),
            SaveError::Save(refusal) => match refusal {
                save::Refusal::Image { source, .. } => source.fault(),
                save::Refusal::Blob(error) => error.fault(),
                save::Refusal::Incomplete(error) => error.fault(),
                save::Refusal::Layer(error) => error.fault(),
                save::Refusal::Fault(fault) => Some(fault),
                _ => None,
            },
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            SaveError::Find(error) => error.hint(),
            SaveError::Open { .. } => Some(WHERE.to_owned()),
            SaveError::Save(refusal) => match refusal {
                save::Refusal::Image { source, .. } => source.hint(),
                save::Refusal::Blob(error) => error.hint(),
                save::Refusal::Incomplete(error) => error.hint(),
                save::Refusal::Layer(error) => error.hint(),
                save::Refusal::Write(_) => Some(WHERE.to_owned()),
                save::Refusal::Fault(_) => None,
                _ => Some(DAMAGED.to_owned()),
            },
            _ => None,
        }
    }
}

impl Explain for ExportError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            ExportError::Container(error) => error.fault(),
            ExportError::Layers(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ExportError::Container(error) => error.hint(),
            ExportError::Layers(error) => error.hint(),
            ExportError::Open { .. } => Some(WHERE.to_owned()),
            ExportError::Pack { .. } => {
                Some("a container that runs may change what is being read: try again".to_owned())
            }
            _ => None,
        }
    }
}

impl Explain for PushError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            PushError::Find(error) => error.fault(),
            PushError::Store(fault) => Some(fault),
            PushError::Push { source, .. } => match &**source {
                push::Refusal::Image(error) => error.fault(),
                push::Refusal::Incomplete(error) => error.fault(),
                push::Refusal::Layer(error) => error.fault(),
                push::Refusal::Blob(error) => error.fault(),
                push::Refusal::Fault(fault) => Some(fault),
                _ => None,
            },
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            PushError::Reference(error) => error.hint(),
            PushError::Find(error) => error.hint(),
            PushError::Destination(_) => {
                Some("write HOST/PATH:TAG; strata save writes archives and layouts".to_owned())
            }
            PushError::NoName(_) => Some("give a name behind it, or give it one with strata tag".to_owned()),
            PushError::Push { source, .. } => match &**source {
                push::Refusal::Image(error) => error.hint(),
                push::Refusal::Incomplete(error) => error.hint(),
                push::Refusal::Layer(error) => error.hint(),
                push::Refusal::Blob(error) => error.hint(),
                push::Refusal::Registry(error) => error.hint(),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Explain for CopyError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            CopyError::Container(error) => error.fault(),
            CopyError::Snapshot(error) => error.fault(),
            CopyError::Store(fault) => Some(fault),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            CopyError::Container(error) => return error.hint(),
            CopyError::Snapshot(error) => return error.hint(),
            CopyError::Missing { .. } => "the directory that something is copied into must be there",
            CopyError::NoDirectory { .. } => "a path that ends with / or /. is a directory's",
            CopyError::ToFile { .. } => "name a directory, or remove the file first",
            CopyError::InUse(_) => "try again when that has ended",
            CopyError::Streams => "write CONTAINER:PATH for one side",
            CopyError::Read(_) | CopyError::Write(_) => {
                "what was copied before that is there; remove or rename what is in the way, and try again"
            }
            CopyError::Path { .. } => "see that the path is right, as seen from where it lies",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl Explain for ManifestError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            ManifestError::Find(error) => error.fault(),
            ManifestError::Blob(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ManifestError::Reference(error) => error.hint(),
            ManifestError::Find(error) => error.hint(),
            ManifestError::Blob(error) => error.hint(),
            ManifestError::Registry(error) => error.hint(),
            _ => None,
        }
    }
}

impl Explain for Incomplete {
    fn fault(&self) -> Option<&Fault> {
        match self {
            Incomplete::Blob(error) => error.fault(),
            Incomplete::Fault(fault) => Some(fault),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Incomplete::Missing { .. } => Some("pull it with --all-platforms".to_owned()),
            Incomplete::Blob(error) => error.hint(),
            _ => None,
        }
    }
}
