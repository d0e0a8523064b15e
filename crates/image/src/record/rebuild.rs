//! A layer's directory and its record become the layer's tar again.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use store::{Digest, Hasher};
use sys::Dir;
use twox_hash::XxHash3_128;

use super::read::{Item, Items, damaged, items_at, open};
use super::{FileData, HEAD, PIECE, RecordError, open_quietly};

/// What is rebuilt, on its way out: the whole is hashed for the diff ID, each file for its own digest.
struct Output<W> {
    out: W,
    whole: Hasher,
    file: XxHash3_128,
}

impl<W: Write> Output<W> {
    fn raw(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        self.whole.update(bytes);
        self.out.write_all(bytes).map_err(RecordError::Write)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        self.file.write(bytes);
        self.raw(bytes)
    }

    fn end_of_file(&mut self, file: &FileData) -> Result<(), RecordError> {
        let hasher = std::mem::replace(&mut self.file, XxHash3_128::new());
        match hasher.finish_128() == file.digest {
            true => Ok(()),
            false => Err(RecordError::Changed {
                path: file.path.clone(),
            }),
        }
    }
}

/// Reads the tar of a layer back: from the layer's directory `fs` and its `record` into `out`. Returns the SHA-256
/// of what was written, which is the layer's diff ID; the data of every file is compared with its digest on the
/// way, so that a changed file is named.
pub fn rebuild(fs: &Dir, record: &File, out: impl Write) -> Result<Digest, RecordError> {
    run(fs, record, out, &mut Err)
}

/// Writes the tar of a layer without the data of its files: headers, padding, and whatever else its record holds.
///
/// # Errors
/// The record is damaged, or `out` cannot be written.
pub fn headers(record: &File, mut out: impl Write) -> Result<(), RecordError> {
    each(record, &mut |step| match step {
        Step::Raw(bytes) => out.write_all(bytes).map_err(RecordError::Write),
        Step::File(..) => Ok(()),
    })?;
    out.flush().map_err(RecordError::Write)
}

/// Reads every file of a layer and compares it with its record: what is wrong with which, and the diff ID that the
/// layer gives when nothing is.
///
/// # Errors
/// The record itself is damaged.
pub fn check(fs: &Dir, record: &File) -> Result<Result<Digest, Vec<RecordError>>, RecordError> {
    let mut wrong = Vec::new();
    let diff_id = run(fs, record, io::sink(), &mut |error| {
        wrong.push(error);
        Ok(())
    })?;
    Ok(if wrong.is_empty() { Ok(diff_id) } else { Err(wrong) })
}

/// Looks at every file of a layer without reading it: which are gone, no files, or of another size than in the record.
///
/// # Errors
/// The record itself is damaged.
pub fn glance(fs: &Dir, record: &File) -> Result<Vec<RecordError>, RecordError> {
    let mut wrong = Vec::new();
    // Files of one directory mostly follow each other.
    let mut last: Option<(PathBuf, Dir)> = None;
    each(record, &mut |item| {
        let Step::File(file, None) = item else {
            return Ok(());
        };
        let path = || file.path.clone();
        let parent = file.path.parent().unwrap_or(Path::new(""));
        let mut look = || -> io::Result<bool> {
            if last.as_ref().is_none_or(|(at, _)| at != parent) {
                last = Some((parent.to_owned(), fs.open_dir(parent)?));
            }
            let (Some((_, dir)), Some(name)) = (&last, file.path.file_name()) else {
                return Ok(false);
            };
            let stat = dir.stat(name)?;
            let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            Ok(regular && u64::try_from(stat.st_size) == Ok(file.size))
        };
        match look() {
            Ok(true) => {}
            Ok(false) => wrong.push(RecordError::Changed { path: path() }),
            Err(source) => wrong.push(RecordError::File { path: path(), source }),
        }
        Ok(())
    })?;
    Ok(wrong)
}

/// Calls `what` for each file of a layer that lies in its directory and is not empty.
///
/// # Errors
/// The record is damaged.
pub fn files(record: &File, what: &mut dyn FnMut(&FileData)) -> Result<(), RecordError> {
    each(record, &mut |step| {
        if let Step::File(file, None) = step {
            what(file);
        }
        Ok(())
    })
}

/// What a record says next.
enum Step<'a> {
    /// These bytes.
    Raw(&'a [u8]),
    /// The data of a file, which lies in `fs`, or displaced at this place in the record.
    File(&'a FileData, Option<u64>),
}

/// Goes through a record. Empty files are not looked for.
fn each(record: &File, what: &mut dyn FnMut(Step<'_>) -> Result<(), RecordError>) -> Result<(), RecordError> {
    let mut displaced = open(record)?;
    // By path, and in the order in which they were displaced.
    displaced.sort_by(|a, b| (&a.path, a.before).cmp(&(&b.path, b.before)));
    let mut items = items_at(record, HEAD as u64)?;
    let mut files = 0u64;
    loop {
        match items.item()? {
            Item::End => return Ok(()),
            Item::Raw(bytes) => what(Step::Raw(&bytes))?,
            Item::Displaced => while !items.run()?.1.is_empty() {},
            Item::File(file) => {
                let first = displaced.partition_point(|it| (&it.path, it.before) <= (&file.path, files));
                files += 1;
                if file.size > 0 {
                    let place = displaced.get(first).filter(|it| it.path == file.path);
                    what(Step::File(&file, place.map(|it| it.offset)))?;
                }
            }
        }
    }
}

/// Rebuilds a tar; what is wrong with a file is `told`, which says whether to go on.
fn run(
    fs: &Dir,
    record: &File,
    out: impl Write,
    told: &mut dyn FnMut(RecordError) -> Result<(), RecordError>,
) -> Result<Digest, RecordError> {
    let mut out = Output {
        out,
        whole: Hasher::new(),
        file: XxHash3_128::new(),
    };
    each(record, &mut |step| {
        let (file, copied) = match step {
            Step::Raw(bytes) => return out.raw(bytes),
            Step::File(file, None) => (file, copy_file(fs, file, &mut out)),
            Step::File(file, Some(at)) => (file, copy_displaced(items_at(record, at)?, file, &mut out)),
        };
        match copied.and_then(|()| out.end_of_file(file)) {
            Err(error @ (RecordError::File { .. } | RecordError::Changed { .. })) => {
                out.file = XxHash3_128::new();
                told(error)
            }
            other => other,
        }
    })?;
    out.out.flush().map_err(RecordError::Write)?;
    Ok(out.whole.finish())
}

fn copy_file<W: Write>(fs: &Dir, data: &FileData, out: &mut Output<W>) -> Result<(), RecordError> {
    let failed = |source| RecordError::File {
        path: data.path.clone(),
        source,
    };
    let changed = || RecordError::Changed {
        path: data.path.clone(),
    };
    let file = open_quietly(fs, &data.path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() || meta.len() != data.size {
        return Err(changed());
    }
    let mut buffer = vec![0; PIECE.min(usize::try_from(data.size).unwrap_or(PIECE))];
    for run in data.runs() {
        let mut at = run.offset;
        let end = run.offset.saturating_add(run.len);
        while at < end {
            let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            match file.read_at(&mut buffer[..want], at).map_err(failed)? {
                0 => return Err(changed()),
                len => {
                    out.data(&buffer[..len])?;
                    at += len as u64;
                }
            }
        }
    }
    Ok(())
}

fn copy_displaced<R: Read, W: Write>(
    mut items: Items<R>,
    data: &FileData,
    out: &mut Output<W>,
) -> Result<(), RecordError> {
    let Item::Displaced = items.item()? else {
        return damaged("its index points at something else");
    };
    let mut run = items.run()?;
    for wanted in data.runs() {
        let mut at = wanted.offset;
        let end = wanted.offset.saturating_add(wanted.len);
        while at < end {
            let run_end = run.0.saturating_add(run.1.len() as u64);
            if run.1.is_empty() || run.0 > at {
                // A hole, up to the next run or for good.
                let until = if run.1.is_empty() { end } else { end.min(run.0) };
                let zeros = usize::try_from(until - at).unwrap_or(PIECE).min(PIECE);
                out.data(&vec![0; zeros])?;
                at += zeros as u64;
            } else if run_end <= at {
                run = items.run()?;
            } else {
                let from = (at - run.0) as usize;
                let to = (end.min(run_end) - run.0) as usize;
                out.data(&run.1[from..to])?;
                at = end.min(run_end);
            }
        }
    }
    Ok(())
}
