//! `filework WORK ARG…`: one piece of work on a file system, timed from inside, for `cargo xtask bench fuse`.
//!
//! Prints nanoseconds, how many things it met and how many bytes, so that who compares two file systems can also see
//! that both did the work. It is a program of its own because it is built as users' programs are, optimised.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use rustix::fs::{AtFlags, CWD, FileType, Stat};
use rustix::io::Errno;
use sys::map::{Map, Sharing};

/// How many things, how many bytes.
type Done = (u64, u64);

/// Several works of one kind at once end with the first error.
type Outcome = io::Result<Done>;

const PAGE: usize = 4096;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    match work(&words) {
        Ok((nanoseconds, (count, bytes))) => {
            println!("{nanoseconds} {count} {bytes}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("filework {}: {error}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn work(words: &[&str]) -> io::Result<(u128, Done)> {
    let number = |word: &str| word.parse::<usize>().map_err(io::Error::other);
    Ok(match words {
        ["walk", dir] => timed(|| walk(Path::new(dir), true))?,
        ["list", dir] => timed(|| walk(Path::new(dir), false))?,
        ["remove", dir] => timed(|| fs::remove_dir_all(dir).map(|()| (1, 0)))?,
        ["stat", dir, list] => with_list(dir, list, |paths| timed(|| stat(paths)))?,
        ["missing", dir, list] => with_list(dir, list, |paths| timed(|| missing(paths)))?,
        ["read", dir, list, clients] => {
            let clients = number(clients)?;
            with_list(dir, list, |paths| timed(|| read_all(paths, clients)))?
        }
        ["sequential", file, block] => {
            let block = number(block)?;
            timed(|| sequential(file, block))?
        }
        ["map", file] => timed(|| map(file))?,
        ["write", file, size, block] => {
            let (size, block) = (number(size)?, number(block)?);
            timed(|| write(file, size, block))?
        }
        ["change", file] => timed(|| change(file))?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    })
}

fn timed(work: impl FnOnce() -> Outcome) -> io::Result<(u128, Done)> {
    let started = Instant::now();
    let done = work()?;
    Ok((started.elapsed().as_nanos(), done))
}

/// Paths beneath `dir`, one a line of `list`, read before the clock starts.
fn with_list<R>(dir: &str, list: &str, work: impl FnOnce(&[String]) -> io::Result<R>) -> io::Result<R> {
    let text = fs::read_to_string(list)?;
    let paths: Vec<String> = text.lines().map(|line| format!("{dir}/{line}")).collect();
    work(&paths)
}

/// Everything beneath a directory; its bytes when each entry is looked at.
fn walk(dir: &Path, stats: bool) -> Outcome {
    let (mut count, mut bytes) = (0, 0);
    let at = File::open(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        count += 1;
        let is_dir = if stats {
            let status = rustix::fs::statat(&at, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(status.st_mode) == FileType::RegularFile {
                bytes += status.st_size as u64;
            }
            FileType::from_raw_mode(status.st_mode) == FileType::Directory
        } else {
            entry.file_type()?.is_dir()
        };
        if is_dir {
            let (inner, inner_bytes) = walk(&entry.path(), stats)?;
            count += inner;
            bytes += inner_bytes;
        }
    }
    Ok((count, bytes))
}

/// As most programs ask: without the time of birth, which `std::fs` asks for too and which FUSE has a request for.
fn lstat(path: &str) -> Result<Stat, Errno> {
    rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
}

fn stat(paths: &[String]) -> Outcome {
    let mut bytes = 0;
    for path in paths {
        bytes += lstat(path)?.st_size as u64;
    }
    Ok((paths.len() as u64, bytes))
}

/// Names that are not there, beside those that are.
fn missing(paths: &[String]) -> Outcome {
    for path in paths {
        match lstat(&format!("{path}~")) {
            Err(Errno::NOENT) => {}
            _ => return Err(io::Error::other(format!("{path}~ is there"))),
        }
    }
    Ok((paths.len() as u64, 0))
}

fn read_all(paths: &[String], clients: usize) -> Outcome {
    let share = paths.len().div_ceil(clients.max(1)).max(1);
    let read = |paths: &[String]| -> io::Result<u64> {
        let mut buffer = vec![0; 64 << 10];
        let mut bytes = 0;
        for path in paths {
            let mut file = File::open(path)?;
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    count => bytes += count as u64,
                }
            }
        }
        Ok(bytes)
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = paths
            .chunks(share)
            .map(|paths| scope.spawn(move || read(paths)))
            .collect();
        let mut bytes = 0;
        for client in clients {
            bytes += client
                .join()
                .map_err(|_| io::Error::other("a client panicked"))??;
        }
        Ok((paths.len() as u64, bytes))
    })
}

fn sequential(path: &str, block: usize) -> Outcome {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; block];
    let (mut count, mut bytes) = (0, 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((count, bytes)),
            read => {
                count += 1;
                bytes += read as u64;
            }
        }
    }
}

/// Touches every page. The count is the sum of their first bytes.
fn map(path: &str) -> Outcome {
    let file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let map = Map::new(file.as_fd(), length, Sharing::Shared, false)?;
    let sum = (0..length)
        .step_by(PAGE)
        .map(|at| map.read(at, 1).first().copied().map_or(0, u64::from))
        .sum();
    Ok((sum, length as u64))
}

fn write(path: &str, size: usize, block: usize) -> Outcome {
    let data = vec![7; block];
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let mut count = 0;
    for _ in 0..size / block {
        file.write_all(&data)?;
        count += 1;
    }
    Ok((count, (count as usize * block) as u64))
}

/// Changes the first byte, for which an overlay copies the whole file up.
fn change(path: &str) -> Outcome {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    file.write_all_at(b"!", 0)?;
    Ok((1, file.metadata()?.len()))
}
