//! Writing: what a stream brought becomes entries, in one write. A disk that is full loses lines, never the container,
//! and never half an entry; how many were lost is the next thing written.

use std::fs::File;
use std::io::{self, Write};

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};
use sys::Dir;

use super::{FILE, LONGEST, Limits, Stream, name};

/// Bytes of an entry before its text, and its end.
const HEAD: u64 = "2016-10-06T00:17:09.669794202Z stdout F \n".len() as u64;

/// The log of one container, for the one process that writes it.
#[derive(Debug)]
pub struct Writer {
    dir: Dir,
    file: File,
    /// Bytes in the file.
    length: u64,
    limits: Limits,
    /// Entries that could not be written, and why the last of them could not.
    lost: Option<(u64, String)>,
}

impl Writer {
    /// Goes on with the log in `dir`, or begins one.
    pub fn open(dir: Dir, limits: Limits) -> io::Result<Writer> {
        let (file, length) = open(&dir)?;
        Ok(Writer {
            dir,
            file,
            length,
            limits,
            lost: None,
        })
    }

    /// Writes down what a stream brought just now.
    pub fn add(&mut self, stream: Stream, bytes: &[u8]) {
        let now = Timestamp::now();
        let mut text = Vec::with_capacity(bytes.len() + 128);
        let mut count = 0;
        if let Some((lost, why)) = &self.lost {
            let told = format!("strata: {lost} entries of this log could not be written: {why}");
            entry(&mut text, now, Stream::Err, told.as_bytes(), true);
        }
        for (piece, whole) in pieces(bytes) {
            let room = self.limits.size.saturating_sub(self.length);
            if (text.len() + piece.len()) as u64 + HEAD > room && !text.is_empty() {
                self.write(&mut text, &mut count);
            }
            entry(&mut text, now, stream, piece, whole);
            count += 1;
        }
        self.write(&mut text, &mut count);
    }

    /// Writes `count` entries in one go, or counts them among those that are lost.
    fn write(&mut self, text: &mut Vec<u8>, count: &mut u64) {
        match self.try_write(text) {
            Ok(()) => self.lost = None,
            Err(error) => {
                let before = self.lost.as_ref().map_or(0, |(lost, _)| *lost);
                self.lost = Some((before + *count, error.to_string()));
            }
        }
        text.clear();
        *count = 0;
    }

    fn try_write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.length > 0 && self.length + text.len() as u64 > self.limits.size {
            self.rotate()?;
        }
        let written = self.file.write_all(text);
        match written {
            Ok(()) => self.length += text.len() as u64,
            // What did arrive of it is no entry.
            Err(_) => self.file.set_len(self.length)?,
        }
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        let oldest = self.limits.files.saturating_sub(1);
        if oldest == 0 {
            self.file.set_len(0)?;
            self.length = 0;
            return Ok(());
        }
        // Where the last try came so far and no farther, the others have moved already.
        let moved = self.dir.try_stat(FILE)?.is_none();
        for age in (0..oldest).rev().filter(|_| !moved) {
            match self.dir.rename(name(age), &self.dir, name(age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        (self.file, self.length) = open(&self.dir)?;
        Ok(())
    }
}

fn open(dir: &Dir) -> io::Result<(File, u64)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW;
    let file = dir.open_file(FILE, flags, Mode::from_raw_mode(0o640))?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// The lines of `bytes`, long ones in several pieces; and whether the program's line ends with the piece.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    bytes.split_inclusive(|byte| *byte == b'\n').flat_map(|line| {
        let (line, ends) = match line.strip_suffix(b"\n") {
            Some(line) => (line, true),
            None => (line, false),
        };
        let last = line.len().saturating_sub(1) / LONGEST;
        // An empty line is one piece too.
        (0..=last).map(move |number| {
            let piece = &line[number * LONGEST..line.len().min((number + 1) * LONGEST)];
            (piece, ends && number == last)
        })
    })
}

fn entry(text: &mut Vec<u8>, now: Timestamp, stream: Stream, piece: &[u8], whole: bool) {
    let whole = if whole { 'F' } else { 'P' };
    // Writing to a vector cannot fail.
    let _ = write!(text, "{now:.9} {} {whole} ", stream.word());
    text.extend_from_slice(piece);
    text.push(b'\n');
}
