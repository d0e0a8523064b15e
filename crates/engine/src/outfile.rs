//! [`OutFile`]: a file of the user's that is written whole or not at all.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use sys::Dir;

/// A file on its way, beside the name that it will have. Dropped before [`OutFile::finish`], it is gone.
pub(crate) struct OutFile {
    dir: Dir,
    name: OsString,
    /// The name it has until then; none for a device or a pipe, which is written to as it is.
    temporary: Option<OsString>,
    out: BufWriter<File>,
}

impl OutFile {
    /// Begins to write the file `path`.
    pub(crate) fn create(path: &Path) -> io::Result<OutFile> {
        let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let dir = Dir::open_ambient(parent)?;
        let kind = match std::fs::metadata(path) {
            Ok(data) if data.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(data) => Some(data.file_type()),
            Err(_) => None,
        };
        let regular = kind.is_none_or(|kind| kind.is_file());
        let (temporary, file) = match regular {
            false => (None, File::options().write(true).open(path)?),
            true => {
                let temporary = OsString::from(format!(
                    ".{}.strata-{}",
                    name.to_string_lossy(),
                    std::process::id()
                ));
                // Of a run that was killed and had the same number.
                let _ = dir.unlink(&temporary);
                let file = dir.create_new(&temporary, Mode::from_raw_mode(0o666))?;
                (Some(temporary), file)
            }
        };
        Ok(OutFile {
            dir,
            name,
            temporary,
            out: BufWriter::with_capacity(1 << 20, file),
        })
    }

    /// Gives the file its name.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.flush()?;
        if let Some(temporary) = &self.temporary {
            self.dir.rename(temporary, &self.dir, &self.name)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Write for OutFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for OutFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = self.dir.unlink(temporary);
        }
    }
}

/// An empty directory for something to be written into, made where nothing is there.
pub(crate) fn empty_dir(path: &Path) -> io::Result<Dir> {
    let name = path.file_name();
    let dir = match (Dir::open_ambient(path), name) {
        (Err(error), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = Dir::open_ambient(parent.unwrap_or(Path::new(".")))?;
            parent.mkdir_masked(name, Mode::from_raw_mode(0o777))?;
            parent.open_dir(name)?
        }
        (opened, _) => opened?,
    };
    match dir.entries()?.is_empty() {
        true => Ok(dir),
        false => Err(io::ErrorKind::DirectoryNotEmpty.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_or_not_at_all() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        let mut out = OutFile::create(&path).unwrap();
        out.write_all(b"begun").unwrap();
        drop(out);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
        std::fs::write(&path, "before").unwrap();
        let mut out = OutFile::create(&path).unwrap();
        out.write_all(b"after").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before");
        out.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
        assert!(OutFile::create(temp.path()).is_err());
        let mut null = OutFile::create(Path::new("/dev/null")).unwrap();
        null.write_all(b"x").unwrap();
        null.finish().unwrap();
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("new");
        empty_dir(&path).unwrap();
        empty_dir(&path).unwrap();
        assert_eq!(
            empty_dir(temp.path()).unwrap_err().kind(),
            io::ErrorKind::DirectoryNotEmpty
        );
    }
}
