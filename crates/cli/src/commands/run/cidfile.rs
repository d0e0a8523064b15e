//! `--cidfile`: a container's id in a file, for scripts.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The file that is to hold the id. Dropped before it does, it goes again: it would be in the way of the next try.
pub(crate) struct Cidfile {
    path: PathBuf,
    file: File,
    written: bool,
}

impl Cidfile {
    /// Makes it: one that exists is somebody else's.
    pub(crate) fn make(path: &Path) -> Result<Cidfile, Failure> {
        let file = File::create_new(path).map_err(|e| {
            Failure::user(format!("--cidfile {}: {e}", path.display()))
                .hint("name a file that does not exist, in a directory that does")
        })?;
        Ok(Cidfile {
            path: path.to_owned(),
            file,
            written: false,
        })
    }

    /// Writes the id into it.
    pub(crate) fn write(mut self, id: &str) -> Result<(), Failure> {
        let written = self.file.write_all(id.as_bytes());
        self.written = written.is_ok();
        written.map_err(|e| {
            Failure::user(format!("--cidfile {}: {e}", self.path.display()))
                .hint("the container was removed again: make room and try once more")
        })
    }
}

impl Drop for Cidfile {
    fn drop(&mut self) {
        if !self.written {
            let _ = fs::remove_file(&self.path);
        }
    }
}
