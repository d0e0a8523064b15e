//! Volumes as `-v` and `--mount` ask for them: by a name, or without one. Where they are kept is not known here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::mounts::{MountKind, MountOption};
use super::{Flag, Result};

/// One volume that the user asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeOption {
    /// Its name; `None` for one that is made for this container alone.
    pub name: Option<String>,
    /// It was given no name, but one was made up for it.
    pub anonymous: bool,
    /// Where it goes: absolute, without `.` and `..`.
    pub destination: PathBuf,
    /// Options of its bind mount, as those of a [`MountOption`].
    pub options: Vec<String>,
    /// SELinux relabelling was asked for. A volume that has no label of containers yet gets one unasked.
    pub relabel: bool,
    /// With the label of this container alone.
    pub private_label: bool,
    /// As long as nothing was in it, it takes what the image has at that place.
    pub copy: bool,
    /// Labels, if it is made for this.
    pub labels: BTreeMap<String, String>,
    /// What it is made with (`volume-opt`), if it is made for this.
    pub made_with: BTreeMap<String, String>,
}

impl VolumeOption {
    /// An anonymous one, as images ask for them.
    pub fn anonymous(destination: PathBuf) -> VolumeOption {
        VolumeOption {
            destination,
            options: ["rbind", "rprivate"].map(str::to_owned).to_vec(),
            copy: true,
            ..VolumeOption::default()
        }
    }

    /// Its mount, of a directory of the host. What one container leaves in a volume gives the next, or this machine's
    /// users, neither somebody's rights nor a device, unless that was asked for.
    pub fn bind(&self, source: PathBuf) -> MountOption {
        let mut options = self.options.clone();
        for (asked, withheld) in [("suid", "nosuid"), ("dev", "nodev")] {
            if !options.iter().any(|word| word == asked || word == withheld) {
                options.push(withheld.to_owned());
            }
        }
        MountOption {
            destination: self.destination.clone(),
            kind: MountKind::Bind { source },
            options,
            relabel: self.relabel,
            private_label: self.private_label,
        }
    }

    /// Whether it is mounted read-only.
    pub fn read_only(&self) -> bool {
        is_read_only(&self.options)
    }
}

/// Whether a mount's options make it read-only.
pub fn is_read_only(options: &[String]) -> bool {
    options.iter().any(|word| word == "ro" || word == "rro")
}

/// What `--volumes-from` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumesFrom {
    /// The container whose volumes and binds are taken over.
    pub container: String,
    /// Whether they are read-only here; as they are there where it is `None`.
    pub read_only: Option<bool>,
}

const FROM_FORM: &str = "write CONTAINER, CONTAINER:ro or CONTAINER:rw";
const NAME_FORM: &str =
    "letters, digits, _, . and -, the first a letter or a digit; a directory is given as /PATH or ./PATH";

/// Parses `--volumes-from`: `CONTAINER[:ro|:rw]`.
///
/// # Errors
/// Anything that is not of the form.
pub fn volumes_from(value: &str) -> Result<VolumesFrom> {
    let flag = Flag::new("--volumes-from", value, FROM_FORM);
    let (container, words) = value.split_once(':').unwrap_or((value, ""));
    if container.is_empty() {
        return Err(flag.wrong("no container is named"));
    }
    let mut read_only = None;
    for word in words.split(',').filter(|word| !word.is_empty()) {
        read_only = match word {
            "ro" => Some(true),
            "rw" => Some(false),
            // What containers share has a label that they share.
            "z" => read_only,
            _ => return Err(flag.wrong(format!("{word:?} is neither ro nor rw"))),
        };
    }
    Ok(VolumesFrom {
        container: container.to_owned(),
        read_only,
    })
}

/// A volume's name; the store has the last word.
pub(super) fn name(flag: &Flag<'_>, text: &str) -> Result<String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let first = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    match first && text.bytes().all(inner) && text.len() <= 255 {
        true => Ok(text.to_owned()),
        false => Err(flag.instead(format!("{text:?} is no path and no name of a volume"), NAME_FORM)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_and_devices_are_asked_for() {
        let bound = |words: &[&str]| {
            let options = words.iter().map(|word| (*word).to_owned()).collect();
            let volume = VolumeOption {
                options,
                ..VolumeOption::default()
            };
            volume.bind(PathBuf::new()).options.join(" ")
        };
        assert_eq!(bound(&["rbind"]), "rbind nosuid nodev");
        assert_eq!(bound(&["suid", "exec"]), "suid exec nodev");
        assert_eq!(bound(&["dev", "nosuid"]), "dev nosuid");
    }

    #[test]
    fn volumes_of_others() {
        for (value, container, read_only) in [
            ("db", "db", None),
            ("db:ro", "db", Some(true)),
            ("db:z,rw", "db", Some(false)),
        ] {
            let container = container.to_owned();
            assert_eq!(volumes_from(value).unwrap(), VolumesFrom { container, read_only });
        }
        assert!(volumes_from(":ro").is_err());
        assert!(volumes_from("db:nocopy").is_err());
    }
}
