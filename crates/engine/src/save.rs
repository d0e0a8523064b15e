//! `save`: images into an archive or a layout directory.

use std::io::Write;
use std::path::{Path, PathBuf};

use image::progress::Progress;
use image::reference::Reference;
use image::save::{Target, Wanted};

pub use image::save::{Format, SaveError as Refusal};

use crate::Engine;
use crate::find::FindImageError;
use crate::outfile::{OutFile, empty_dir};

/// Where what is saved or exported goes.
pub enum Destination<'a> {
    /// A file, written whole or not at all; for [`Format::OciDir`] a directory that is not there, or empty.
    Path(&'a Path),
    /// A stream.
    Stream(&'a mut dyn Write),
}

/// Why images could not be saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// There is no such image.
    #[error(transparent)]
    Find(#[from] FindImageError),
    /// The file or directory cannot be made.
    #[error("cannot write {}: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Everything else.
    #[error(transparent)]
    Save(#[from] Refusal),
}

impl Engine {
    /// Writes images into one archive. Each has there the names that it is asked for by; one that is asked for by its id
    /// has none. With `all_platforms`, an image is saved with what its index has for others than this machine's, all of
    /// which must be in the store.
    ///
    /// # Errors
    /// See [`SaveError`].
    pub fn save(
        &self,
        names: &[String],
        (format, all_platforms): (Format, bool),
        to: Destination<'_>,
        progress: &dyn Progress,
    ) -> Result<(), SaveError> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for name in names {
            let image = self.find_image(name)?;
            let by_name = Reference::parse(name).is_ok_and(|reference| {
                let found = self.image_by_reference(&reference);
                found.is_ok_and(|found| found.is_some_and(|found| found.name == image.name))
            });
            let called = by_name.then(|| image.name.clone());
            let same = wanted
                .iter_mut()
                .find(|known| known.image.manifest.digest == image.manifest.digest);
            match (same, called) {
                (Some(known), Some(called)) if !known.names.contains(&called) => known.names.push(called),
                (Some(_), _) => {}
                (None, called) => wanted.push(Wanted {
                    image,
                    names: called.into_iter().collect(),
                    all_platforms,
                }),
            }
        }
        let save = |target: Target<'_>| image::save::save(&self.store, &wanted, format, target, progress);
        match to {
            Destination::Stream(stream) => Ok(save(Target::Stream(stream))?),
            Destination::Path(path) => {
                let failed = |source| SaveError::Open {
                    path: path.to_owned(),
                    source,
                };
                if format == Format::OciDir {
                    return Ok(save(Target::Dir(&empty_dir(path).map_err(failed)?))?);
                }
                let mut file = OutFile::create(path).map_err(failed)?;
                save(Target::Stream(&mut file))?;
                file.finish().map_err(failed)
            }
        }
    }
}
