//! `volume create`, `ls`, `inspect`, `rm`: directories with a name that outlive the containers which use them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use store::{Fault, NewVolume, VolumeError};

use crate::Engine;
use crate::run::made_up_name;

/// A volume, in docker's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Always `local`.
    pub driver: &'static str,
    /// Where its content lies.
    pub mountpoint: PathBuf,
    /// When it was made.
    pub created_at: Timestamp,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Always `local`: it is this store's.
    pub scope: &'static str,
    /// What it was made with.
    pub options: BTreeMap<String, String>,
    /// It was made for one container, and given no name.
    pub anonymous: bool,
    /// Ids of the containers that use it.
    pub containers: Vec<String>,
}

impl From<store::Volume> for Volume {
    fn from(volume: store::Volume) -> Volume {
        let mountpoint = source(&volume).unwrap_or_else(|_| volume.path.clone());
        Volume {
            mountpoint,
            name: volume.name,
            driver: "local",
            created_at: volume.created,
            labels: volume.labels,
            scope: "local",
            options: volume.options,
            anonymous: volume.anonymous,
            containers: volume.users,
        }
    }
}

/// Why a volume cannot be made with these options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// An option that means nothing here.
    #[error("there is no option {0:?}")]
    Unknown(String),
    /// A value that means nothing here.
    #[error("{key}={value:?} is not supported")]
    Value {
        /// The option.
        key: String,
        /// Its value.
        value: String,
    },
    /// It says that it is a directory of the machine, and not which.
    #[error("o=bind needs device=DIRECTORY, an absolute path")]
    Device,
    /// The directory of the machine is not there.
    #[error("{}: {why}", path.display())]
    Missing {
        /// Which.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
}

/// Why a volume was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateVolumeError {
    /// What it is to be made with.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// There is one of that name that was made with something else.
    #[error("there is a volume {0:?} already, made with other options")]
    Other(String),
    /// The name, or the store.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// No name could be made up.
    #[error("reading random bytes: {0}")]
    Random(#[from] std::io::Error),
}

impl Engine {
    /// Makes a volume, by a name that is made up if there is none. One that is there already is answered if it was made
    /// with the same options.
    ///
    /// # Errors
    /// See [`CreateVolumeError`].
    pub fn create_volume(
        &self,
        name: Option<&str>,
        labels: &BTreeMap<String, String>,
        options: &BTreeMap<String, String>,
    ) -> Result<Volume, CreateVolumeError> {
        check_options(options)?;
        let new = NewVolume {
            name: match name {
                Some(name) => name.to_owned(),
                None => made_up_name()?,
            },
            // As docker has it: what nobody gave a name goes with `volume prune`.
            anonymous: name.is_none(),
            labels: labels.clone(),
            options: options.clone(),
        };
        let made = match self.store.create_volume(self.ns(), &new) {
            Err(VolumeError::Exists(name)) => {
                let there = self.store.find_volume(self.ns(), &name)?;
                if there.options != *options {
                    return Err(CreateVolumeError::Other(name));
                }
                there
            }
            other => {
                let made = other?;
                self.note("volume", "create", &made.name);
                made
            }
        };
        Ok(made.into())
    }

    /// The volumes, by name.
    ///
    /// # Errors
    /// The store.
    pub fn volumes(&self) -> Result<Vec<Volume>, Fault> {
        Ok(self
            .store
            .volumes(self.ns())?
            .into_iter()
            .map(Volume::from)
            .collect())
    }

    /// The volume of that name.
    ///
    /// # Errors
    /// There is none; the store.
    pub fn volume(&self, name: &str) -> Result<Volume, VolumeError> {
        Ok(self.store.find_volume(self.ns(), name)?.into())
    }

    /// Removes a volume that no container uses.
    ///
    /// # Errors
    /// There is none; one that is used; the store.
    pub fn remove_volume(&self, name: &str) -> Result<(), VolumeError> {
        self.store.remove_volume(self.ns(), name)?;
        self.note("volume", "destroy", name);
        Ok(())
    }
}

/// Whether a volume can be made with these options: none, or those that docker's `local` driver takes for a directory of
/// the machine (`type=none`, `o=bind`, `device=DIRECTORY`).
pub(crate) fn check_options(options: &BTreeMap<String, String>) -> Result<(), OptionsError> {
    for (key, value) in options {
        let fits = match key.as_str() {
            "type" => value == "none" || value == "bind",
            "o" => value == "bind" || value == "rbind",
            "device" => true,
            _ => return Err(OptionsError::Unknown(key.clone())),
        };
        if !fits {
            return Err(OptionsError::Value {
                key: key.clone(),
                value: value.clone(),
            });
        }
    }
    match (options.is_empty(), options.get("o"), options.get("device")) {
        (true, _, _) => Ok(()),
        (false, Some(_), Some(device)) if Path::new(device).is_absolute() => Ok(()),
        _ => Err(OptionsError::Device),
    }
}

/// The directory that is mounted for a volume.
pub(crate) fn source(volume: &store::Volume) -> Result<PathBuf, OptionsError> {
    let Some(device) = volume.options.get("device") else {
        return Ok(volume.path.clone());
    };
    let path = PathBuf::from(device);
    match std::fs::metadata(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(OptionsError::Missing {
            path,
            why: error.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_work_and_others() {
        let check = |words: &[(&str, &str)]| {
            let own = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
            check_options(&words.iter().map(own).collect())
        };
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(
            check(&[("type", "none"), ("o", "bind"), ("device", "/srv")]),
            Ok(())
        );
        assert_eq!(check(&[("o", "bind")]), Err(OptionsError::Device));
        assert_eq!(
            check(&[("o", "bind"), ("device", "srv")]),
            Err(OptionsError::Device)
        );
        assert_eq!(
            check(&[("size", "1g")]),
            Err(OptionsError::Unknown("size".into()))
        );
        assert!(matches!(
            check(&[("type", "nfs")]),
            Err(OptionsError::Value { .. })
        ));
    }
}
