//! `floor_unpack DIRECTORY [--sync] BLOB…`: the least that unpacking the layers of an image can cost.
//!
//! For each blob (a gzip of a tar) the work that cannot be left out: it is read, inflated, hashed twice (as a blob,
//! and as a tar), and its directories and files are made in `DIRECTORY/N`. One thread reads, inflates and hashes what
//! it reads, one hashes the tar, one makes files; layers are done beside each other, as many as there are processors.
//! No owner, mode or time is set, nothing is recorded, no name is looked at twice, and nothing is durable unless
//! `--sync` says so. `cargo xtask bench unpack` measures it beside the real ones.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

const PIECE: usize = 128 << 10;
/// Pieces of one layer that may be on their way.
const PIECES: usize = 16;
const BLOCK: usize = 512;

fn main() -> ExitCode {
    let mut args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let sync = args.iter().position(|arg| arg.as_os_str() == "--sync");
    let sync = sync.map(|at| args.remove(at)).is_some();
    let Some((into, blobs)) = args.split_first() else {
        eprintln!("floor_unpack DIRECTORY [--sync] BLOB…");
        return ExitCode::FAILURE;
    };
    match all(into, blobs, sync) {
        Ok(digests) => {
            for (blob, tar) in digests {
                println!("{blob} {tar}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("floor_unpack: {error}");
            ExitCode::FAILURE
        }
    }
}

fn all(into: &Path, blobs: &[PathBuf], sync: bool) -> io::Result<Vec<(String, String)>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<io::Result<(usize, String, String)>>> = Mutex::default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(blobs.len()) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let Some(blob) = blobs.get(number) else { return };
                    let place = into.join(number.to_string());
                    let layer = layer(blob, &place).map(|(blob, tar)| (number, blob, tar));
                    done.lock().expect("no thread panics").push(layer);
                }
            });
        }
    });
    let done = done.into_inner().expect("no thread panics");
    let mut digests = done.into_iter().collect::<io::Result<Vec<_>>>()?;
    digests.sort();
    if sync {
        rustix::fs::syncfs(File::open(into)?)?;
    }
    Ok(digests.into_iter().map(|(_, blob, tar)| (blob, tar)).collect())
}

/// One layer; answers both digests.
fn layer(blob: &Path, into: &Path) -> io::Result<(String, String)> {
    fs::create_dir_all(into)?;
    let (pool, free) = channel();
    let (to_hash, hash) = channel::<Arc<Piece>>();
    let (to_files, files) = channel::<Arc<Piece>>();
    for _ in 0..PIECES {
        let _ = pool.send(vec![0; PIECE]);
    }
    std::thread::scope(|scope| {
        let tar = scope.spawn(move || {
            let mut hasher = Sha256::new();
            for piece in hash {
                hasher.update(piece.bytes());
            }
            hex(hasher)
        });
        let made = scope.spawn(move || unpack(Pieces::new(files), into));
        let hashed = Hashed {
            from: File::open(blob)?,
            hasher: Sha256::new(),
        };
        let mut input = flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(PIECE, hashed));
        while let Ok(mut data) = free.recv() {
            let mut len = 0;
            while len < PIECE {
                match input.read(&mut data[len..])? {
                    0 => break,
                    more => len += more,
                }
            }
            let piece = Arc::new(Piece {
                data,
                len,
                pool: pool.clone(),
            });
            if len == 0 || to_files.send(piece.clone()).is_err() {
                break;
            }
            let _ = to_hash.send(piece);
        }
        drop((to_files, to_hash));
        made.join().expect("it does not panic")?;
        let tar = tar.join().expect("it does not panic");
        Ok((hex(input.into_inner().into_inner().hasher), tar))
    })
}

fn hex(hasher: Sha256) -> String {
    hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Hashes what is read.
struct Hashed {
    from: File,
    hasher: Sha256,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.from.read(buffer)?;
        self.hasher.update(&buffer[..len]);
        Ok(len)
    }
}

/// A piece of the tar, whose buffer goes back to the pool.
struct Piece {
    data: Vec<u8>,
    len: usize,
    pool: Sender<Vec<u8>>,
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        &self.data[..self.len]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let _ = self.pool.send(std::mem::take(&mut self.data));
    }
}

/// The tar as the thread that makes files reads it.
struct Pieces {
    from: Receiver<Arc<Piece>>,
    current: Option<Arc<Piece>>,
    used: usize,
}

impl Pieces {
    fn new(from: Receiver<Arc<Piece>>) -> Pieces {
        Pieces {
            from,
            current: None,
            used: 0,
        }
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.as_ref().is_none_or(|piece| self.used == piece.len) {
            self.current = None;
            self.used = 0;
            self.current = self.from.recv().ok();
        }
        Ok(self
            .current
            .as_ref()
            .map_or(&[], |piece| &piece.bytes()[self.used..]))
    }

    fn consume(&mut self, len: usize) {
        self.used += len;
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(buffer)?;
        self.consume(len);
        Ok(len)
    }
}

/// Makes the directories and files of a tar whose long names are GNU's; other entries are left out.
fn unpack(mut tar: Pieces, into: &Path) -> io::Result<()> {
    let mut long = None;
    let mut header = [0; BLOCK];
    loop {
        if tar.read_exact(&mut header).is_err() || header == [0; BLOCK] {
            io::copy(&mut tar, &mut io::sink())?;
            return Ok(());
        }
        let size = octal(&header[124..136]);
        let name = match long.take() {
            Some(name) => name,
            None => text(&header[..100]),
        };
        match header[156] {
            b'L' => {
                let mut bytes = vec![0; size as usize];
                tar.read_exact(&mut bytes)?;
                long = Some(text(&bytes));
            }
            b'5' => fs::create_dir_all(into.join(&name))?,
            b'0' => {
                let mut file = File::create_new(into.join(&name))?;
                let mut left = size as usize;
                while left > 0 {
                    let piece = tar.fill_buf()?;
                    let len = piece.len().min(left);
                    if len == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    file.write_all(&piece[..len])?;
                    tar.consume(len);
                    left -= len;
                }
            }
            _ => {}
        }
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        tar.read_exact(&mut header[..padding as usize])?;
    }
}

fn octal(field: &[u8]) -> u64 {
    let digits = field.iter().filter(|byte| byte.is_ascii_digit());
    digits.fold(0, |value, digit| value * 8 + u64::from(digit - b'0'))
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}
