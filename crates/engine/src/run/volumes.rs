//! The volumes of a container: which it is to have when it is made, and how they are mounted each time it starts.

use std::io;
use std::path::{Path, PathBuf};

use image::config::Execution;
use runtime::options::mounts::MountOption;
use runtime::options::volumes::{VolumeOption, VolumesFrom};
use rustix::fs::{Mode, OFlags};
use rustix::rand::{GetRandomFlags, getrandom};
use store::{ContainerError, NewVolume, VolumeError};
use sys::Dir;
use sys::ids::Ids;

use super::{Details, Plan, Request};
use crate::Engine;
use crate::cp::CopyError;
use crate::volumes::{OptionsError, check_options, source};

/// Why a container does not get its volumes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumesError {
    /// The container of `--volumes-from`.
    #[error("--volumes-from {name}: {source}")]
    From {
        /// Its name.
        name: String,
        /// Why not.
        source: ContainerError,
    },
    /// What a volume is to be made with.
    #[error("volume {name}: {source}")]
    Options {
        /// The volume.
        name: String,
        /// What is wrong with it.
        source: OptionsError,
    },
    /// The image asks for one in the place of what the kernel shows.
    #[error("the image asks for a volume at {}, in the place of what the kernel shows there", _0.display())]
    ImageOverKernels(PathBuf),
    /// The user asks for one there.
    #[error("a volume at {} would lie in the place of what the kernel shows there", _0.display())]
    OverKernels(PathBuf),
    /// The volume itself.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A name for one that was given none.
    #[error("reading random bytes: {0}")]
    Random(io::Error),
    /// The image's content at its place cannot be read.
    #[error("filling volume {name} with what the image has in {}: {source}", path.display())]
    Look {
        /// The volume.
        name: String,
        /// The place in the container.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The image's content could not be copied.
    #[error("filling volume {name} with what the image has in {}: {source}", path.display())]
    Fill {
        /// The volume.
        name: String,
        /// The place in the container.
        path: PathBuf,
        /// Why not.
        source: Box<CopyError>,
    },
}

impl Engine {
    /// The plan of a container that is to be made, with all its volumes, each of which has a name: those of other
    /// containers whose places are free, and then those that its image asks for.
    pub(super) fn with_volumes(
        &self,
        request: &Request,
        image: Option<&Execution>,
    ) -> Result<Plan, VolumesError> {
        let mut plan = Plan {
            image: image.cloned(),
            ..request.plan.clone()
        };
        for from in &request.volumes_from {
            self.take_over(from, &mut plan)?;
        }
        let wanted = image.map(|image| places(&image.volumes)).unwrap_or_default();
        if let Some(volume) = plan.container.volumes.iter().find(|it| in_proc(&it.destination)) {
            return Err(VolumesError::OverKernels(volume.destination.clone()));
        }
        for place in wanted {
            if is_free(&plan, &place) {
                if is_the_kernels(&place) {
                    return Err(VolumesError::ImageOverKernels(place));
                }
                plan.container.volumes.push(VolumeOption::anonymous(place));
            }
        }
        for volume in &mut plan.container.volumes {
            if volume.name.is_none() {
                volume.name = Some(made_up_name().map_err(VolumesError::Random)?);
                volume.anonymous = true;
            }
            check_options(&volume.made_with).map_err(|source| VolumesError::Options {
                name: volume.name.clone().unwrap_or_default(),
                source,
            })?;
        }
        Ok(plan)
    }

    /// What another container has mounted.
    fn take_over(&self, from: &VolumesFrom, plan: &mut Plan) -> Result<(), VolumesError> {
        let row = self.store.find_container(self.ns(), &from.container);
        let row = row.map_err(|source| VolumesError::From {
            name: from.container.clone(),
            source,
        })?;
        let Some(other) = Details::of(&row).plan else {
            return Ok(());
        };
        let access = |options: &mut Vec<String>| match from.read_only {
            Some(true) => {
                options.retain(|word| !["rw", "ro", "rro"].contains(&word.as_str()));
                options.extend(["ro", "rro"].map(str::to_owned));
            }
            Some(false) => options.retain(|word| !["ro", "rro"].contains(&word.as_str())),
            None => {}
        };
        for mut volume in other.container.volumes {
            if is_free(plan, &volume.destination) {
                access(&mut volume.options);
                plan.container.volumes.push(volume);
            }
        }
        for mut mount in other.container.mounts {
            let bound = matches!(mount.kind, runtime::options::mounts::MountKind::Bind { .. });
            if bound && is_free(plan, &mount.destination) {
                access(&mut mount.options);
                plan.container.mounts.push(mount);
            }
        }
        Ok(())
    }

    /// The mounts of a container's volumes, each of which takes what `root` has at its place if nothing was ever in it.
    pub(crate) fn mount_volumes(&self, plan: &Plan, root: &Dir) -> Result<Vec<MountOption>, VolumesError> {
        if let Some(place) = images_over_kernels(plan) {
            return Err(VolumesError::ImageOverKernels(place.to_owned()));
        }
        let volumes = plan.container.volumes.iter();
        volumes
            .map(|wanted| {
                let name = wanted.name.as_deref().unwrap_or_default();
                let volume = self.store.find_volume(self.ns(), name)?;
                let ids = plan.container.users.ids();
                if wanted.copy && !volume.settled && volume.options.is_empty() {
                    self.fill(name, root, &wanted.destination, ids.as_ref())?;
                }
                let source = source(&volume).map_err(|source| VolumesError::Options {
                    name: name.to_owned(),
                    source,
                })?;
                let mut bound = wanted.bind(source);
                if ids.is_some() {
                    // What lies in it belongs to the ids that containers have, whatever these are outside.
                    bound.options.push("idmap".to_owned());
                }
                Ok(bound)
            })
            .collect()
    }

    fn fill(&self, name: &str, root: &Dir, place: &Path, ids: Option<&Ids>) -> Result<(), VolumesError> {
        let looked = |source| VolumesError::Look {
            name: name.to_owned(),
            path: place.to_owned(),
            source,
        };
        let beneath = place.strip_prefix("/").unwrap_or(place);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let from = match root.open_in_root(beneath, flags, Mode::empty()) {
            // Then there is nothing to take, or nothing to mount a directory on, which is told when that is tried.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(());
            }
            other => other.and_then(Dir::from_fd).map_err(looked)?,
        };
        let Some(filling) = self.store.fill_volume(self.ns(), name)? else {
            return Ok(());
        };
        crate::cp::copy_whole(&from, filling.place(), ids).map_err(|source| VolumesError::Fill {
            name: name.to_owned(),
            path: place.to_owned(),
            source: Box::new(source),
        })?;
        Ok(filling.finish()?)
    }
}

/// The volumes of a plan as the store makes them where they are missing.
pub(super) fn wanted(plan: &Plan) -> Vec<NewVolume> {
    let volumes = plan.container.volumes.iter();
    volumes
        .map(|volume| NewVolume {
            name: volume.name.clone().unwrap_or_default(),
            anonymous: volume.anonymous,
            labels: volume.labels.clone(),
            options: volume.made_with.clone(),
        })
        .collect()
}

/// Whether nothing of the user's is mounted at a place.
fn is_free(plan: &Plan, place: &Path) -> bool {
    let (mounts, volumes) = (&plan.container.mounts, &plan.container.volumes);
    !mounts.iter().any(|mount| mount.destination == place)
        && !volumes.iter().any(|volume| volume.destination == place)
}

/// Whether a place is /proc or lies in it: files of a volume's there would pass for the kernel's. The runtime refuses
/// whatever leads there by a link, and whatever else is mounted there; a volume would have been made and filled by then.
fn in_proc(place: &Path) -> bool {
    place.starts_with("/proc")
}

/// Whether a place is one where the kernel shows files.
fn is_the_kernels(place: &Path) -> bool {
    in_proc(place) || [Path::new("/dev"), Path::new("/sys")].contains(&place)
}

/// Where a container that was made before this was refused has a volume of its image's in such a place.
fn images_over_kernels(plan: &Plan) -> Option<&Path> {
    let mut volumes = plan.container.volumes.iter();
    let bad = volumes.find(|volume| volume.anonymous && is_the_kernels(&volume.destination))?;
    let wanted = plan.image.as_ref().map(|image| places(&image.volumes))?;
    wanted.contains(&bad.destination).then_some(&*bad.destination)
}

/// A name for a volume that was given none: 64 hexadecimal digits, as docker has it.
pub(crate) fn made_up_name() -> io::Result<String> {
    let mut random = [0; 32];
    getrandom(&mut random, GetRandomFlags::empty())?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The image's `VOLUME`s as clean paths; what cannot be a place for one is passed over, as the peers do.
fn places(words: &[String]) -> Vec<PathBuf> {
    use std::path::Component;
    let mut paths: Vec<PathBuf> = words
        .iter()
        .map(|word| {
            let mut path = PathBuf::from("/");
            for part in Path::new(word).components() {
                match part {
                    Component::Normal(name) => path.push(name),
                    Component::ParentDir => drop(path.pop()),
                    _ => {}
                }
            }
            path
        })
        .filter(|path| path.parent().is_some())
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_program_let_an_image_have() {
        let plan = |image: &[&str], volume: &str, anonymous| {
            let mut plan = Plan {
                image: Some(Execution {
                    volumes: image.iter().map(ToString::to_string).collect(),
                    ..Execution::default()
                }),
                ..Plan::default()
            };
            let volume = VolumeOption {
                anonymous,
                ..VolumeOption::anonymous(volume.into())
            };
            plan.container.volumes = vec![VolumeOption::anonymous("/data".into()), volume];
            plan
        };
        for place in ["/dev", "/sys", "/proc", "/proc/sys"] {
            let refused = plan(&["/data", place], place, true);
            assert_eq!(images_over_kernels(&refused), Some(Path::new(place)));
            // The user's own.
            assert_eq!(images_over_kernels(&plan(&["/data"], place, true)), None);
            assert_eq!(images_over_kernels(&plan(&["/data", place], place, false)), None);
        }
        assert_eq!(images_over_kernels(&plan(&["/sys/fs"], "/sys/fs", true)), None);
    }
}
