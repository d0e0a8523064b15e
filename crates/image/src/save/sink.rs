//! Where the files of what is saved go.

use std::io::{self, Write};

use rustix::fs::Mode;
use sys::Dir;

use super::SaveError;
use crate::tar::writer::{END, data_padding, write_header};
use crate::tar::{Entry, Kind};

/// Writes the content of a file.
pub(super) type Content<'a> = &'a mut dyn FnMut(&mut dyn Write) -> Result<(), SaveError>;

/// Takes files, one after the other.
pub(super) trait Sink {
    /// Writes a file of so many bytes.
    fn file(&mut self, name: &str, size: u64, content: Content<'_>) -> Result<(), SaveError>;

    /// There are no more.
    fn end(&mut self) -> io::Result<()>;
}

/// A tar of regular files. It depends on their names and content alone.
pub(super) struct TarSink<'a> {
    out: &'a mut dyn Write,
}

impl<'a> TarSink<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        TarSink { out }
    }
}

impl Sink for TarSink<'_> {
    fn file(&mut self, name: &str, size: u64, content: Content<'_>) -> Result<(), SaveError> {
        let mut entry = Entry::new(name, Kind::File);
        (entry.mode, entry.size) = (0o644, size);
        let mut header = Vec::new();
        write_header(&entry, &mut header);
        self.out.write_all(&header).map_err(SaveError::Write)?;
        let mut sized = Sized {
            out: &mut *self.out,
            left: size,
        };
        content(&mut sized)?;
        sized.complete()?;
        self.out.write_all(data_padding(size)).map_err(SaveError::Write)
    }

    fn end(&mut self) -> io::Result<()> {
        self.out.write_all(&END)?;
        self.out.flush()
    }
}

/// Files in a directory.
pub(super) struct DirSink<'a> {
    dir: &'a Dir,
}

impl<'a> DirSink<'a> {
    pub(super) fn new(dir: &'a Dir) -> Self {
        DirSink { dir }
    }
}

impl Sink for DirSink<'_> {
    fn file(&mut self, name: &str, size: u64, content: Content<'_>) -> Result<(), SaveError> {
        let (parent, file) = name.rsplit_once('/').unwrap_or(("", name));
        let opened = self
            .dir
            .mkdir_all(parent, Mode::from_raw_mode(0o755))
            .and_then(|dir| dir.create_new(file, Mode::from_raw_mode(0o644)));
        let mut out = io::BufWriter::with_capacity(256 << 10, opened.map_err(SaveError::Write)?);
        let mut sized = Sized {
            out: &mut out,
            left: size,
        };
        content(&mut sized)?;
        sized.complete()?;
        out.flush().map_err(SaveError::Write)
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sees that a file gets as many bytes as were announced.
struct Sized<'a> {
    out: &'a mut dyn Write,
    left: u64,
}

impl Sized<'_> {
    fn complete(&self) -> Result<(), SaveError> {
        match self.left {
            0 => Ok(()),
            _ => Err(SaveError::Write(io::Error::other(
                "a file of it has another size than it should",
            ))),
        }
    }
}

impl Write for Sized<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.left = self
            .left
            .checked_sub(written as u64)
            .ok_or_else(|| io::Error::other("a file of it is larger than it should be"))?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
