//! `export`: what a container's root file system shows, as a tar.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use image::pack::{MergedAs, PackError, pack_merged};
use image::progress::Progress;
use store::ContainerError;
use sys::Dir;

use crate::Engine;
use crate::diff::DiffError;
use crate::outfile::OutFile;
use crate::save::Destination;
use crate::told::Told;

/// Why a container could not be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// No such container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Its directories.
    #[error(transparent)]
    Layers(#[from] DiffError),
    /// The file cannot be made.
    #[error("cannot write {}: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Everything else.
    #[error("container {name}: {source}")]
    Pack {
        /// The container.
        name: String,
        /// What went wrong.
        source: PackError,
    },
}

impl Engine {
    /// Writes what a container's root file system shows, running or not, without what is mounted in it.
    ///
    /// # Errors
    /// See [`ExportError`].
    pub fn export(
        &self,
        name: &str,
        to: Destination<'_>,
        progress: &dyn Progress,
    ) -> Result<(), ExportError> {
        let row = self.store.find_container(self.ns(), name)?;
        let side = self.container_side(&row)?;
        let foreign = self.store.stack(self.ns(), &row.id).map_err(DiffError::from)?;
        let foreign: Vec<PathBuf> = foreign
            .lowers
            .into_iter()
            .filter(|lower| lower.n.is_none())
            .map(|lower| lower.path)
            .collect();
        let mut layers: Vec<Dir> = Vec::with_capacity(side.layers.len());
        for (path, dir) in side.layers {
            // An overlay shows of a directory of the machine what lies on its file system, and no mounts beneath it.
            layers.push(match foreign.contains(&path) {
                false => dir,
                true => sys::mount::clone_tree_at(&path, false)
                    .and_then(|tree| Dir::from_fd(tree)?.open_dir(""))
                    .map_err(|source| DiffError::Open { path, source })?,
            });
        }
        let prefix = self.prefix();
        let pack = |out: &mut dyn Write| {
            let mut out = Told::new(out, &row.name, progress);
            pack_merged(prefix, &layers, MergedAs::Files, &mut out).map_err(|source| ExportError::Pack {
                name: row.name.clone(),
                source,
            })
        };
        match to {
            Destination::Stream(stream) => pack(&mut BufWriter::with_capacity(1 << 20, stream)),
            Destination::Path(path) => {
                let failed = |source| ExportError::Open {
                    path: path.to_owned(),
                    source,
                };
                let mut file = OutFile::create(path).map_err(failed)?;
                pack(&mut file)?;
                file.finish().map_err(failed)
            }
        }
    }
}
