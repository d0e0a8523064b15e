//! A cgroup below the container's, which the container made, or an engine.

use std::path::{Component, Path, PathBuf};

use super::node::Node;
use super::{Cgroup, CgroupError, Hierarchies, failed};

/// Where a process of the container's is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// The controller of v1 in whose hierarchy; in all of them where none is named.
    pub controller: Option<String>,
    /// Below the container's cgroup, which `/` is.
    pub path: PathBuf,
}

impl Cgroup {
    /// The same, but for the places below it that are named; those exist.
    ///
    /// # Errors
    /// One is not there, leads out of the container's cgroup, or is of a controller in whose hierarchy that is not.
    pub fn below(mut self, places: &[Below]) -> Result<Cgroup, CgroupError> {
        let hierarchies = Hierarchies::find()
            .map_err(|source| failed("find", Path::new("/proc/self/mountinfo"), source))?;
        for place in places {
            match &place.controller {
                None => {
                    for node in self.unified.iter_mut().chain(&mut self.v1) {
                        *node = node.below(&place.path)?;
                    }
                }
                Some(controller) => {
                    let mount = hierarchies
                        .v1(controller)
                        .map_err(|source| failed("find", &place.path, source))?;
                    let is_in =
                        |node: &&mut Node| mount.as_ref().is_some_and(|mount| node.path.starts_with(mount));
                    let node = self.v1.iter_mut().find(is_in).ok_or_else(|| CgroupError::Path {
                        path: place.path.clone(),
                        problem: "it is of an unknown controller: the container has no cgroup of v1 for that",
                    })?;
                    *node = node.below(&place.path)?;
                }
            }
        }
        Ok(self)
    }
}

impl Node {
    fn below(&self, path: &Path) -> Result<Node, CgroupError> {
        let mut names = PathBuf::new();
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => names.push(name),
                _ => {
                    return Err(CgroupError::Path {
                        path: path.to_owned(),
                        problem: "it is not a sub cgroup path: it leads upwards",
                    });
                }
            }
        }
        let path = self.path.join(&names);
        let dir = match names.as_os_str().is_empty() {
            true => self.dir.try_clone(),
            false => self.dir.open_dir(&names),
        };
        let dir = dir.map_err(|source| failed("open", &path, source))?;
        Ok(Node { dir, path })
    }
}
