//! Three threads and a few buffers: one reads (and so inflates), one hashes, one makes files.
//!
//! Buffers go round: from the pool to the reader, from there to both others at once, and back to the pool when the
//! last of the two has dropped it. Their number bounds the memory, whatever the layer's size.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use store::{Digest, Hasher};

/// Size of a buffer in bytes: a multiple of tar's block, so that no header is torn; small enough that all of them
/// stay in the processor's cache, large enough that waking a thread costs nothing.
const SIZE: usize = 128 * 1024;
/// How many buffers there are. The slowest thread can fall this far behind.
const COUNT: usize = 16;

/// A filled buffer, on loan from the pool.
struct Chunk {
    data: Vec<u8>,
    pool: Sender<Vec<u8>>,
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // Nobody waits for it any more when reading has ended.
        let _ = self.pool.send(std::mem::take(&mut self.data));
    }
}

/// The stream as the thread that makes files sees it.
pub(super) struct Stream {
    chunks: Receiver<io::Result<Arc<Chunk>>>,
    current: Option<Arc<Chunk>>,
    used: usize,
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let spent = self
            .current
            .as_ref()
            .is_none_or(|chunk| self.used == chunk.data.len());
        if spent {
            self.current = None;
            self.used = 0;
            // A closed channel is the end of the stream.
            if let Ok(chunk) = self.chunks.recv() {
                self.current = Some(chunk?);
            }
        }
        Ok(self
            .current
            .as_ref()
            .map_or(&[], |chunk| &chunk.data[self.used..]))
    }

    fn consume(&mut self, len: usize) {
        self.used += len;
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(buffer)?;
        self.consume(len);
        Ok(len)
    }
}

/// Runs `consume` on a thread of its own, with everything that `input` gives, while this thread reads and another
/// hashes. Returns what `consume` did, and the digest of all bytes. Reading ends early when `consume` does.
pub(super) fn run<T: Send>(
    mut input: impl Read,
    progress: &dyn Fn(u64),
    consume: impl FnOnce(Stream) -> T + Send,
) -> io::Result<(T, Digest)> {
    let (pool, free) = channel();
    let (to_hash, hash) = channel::<Arc<Chunk>>();
    let (to_files, files) = channel();
    for _ in 0..COUNT {
        let _ = pool.send(Vec::new());
    }
    let stream = Stream {
        chunks: files,
        current: None,
        used: 0,
    };
    std::thread::scope(|scope| {
        let named = |name: &str| std::thread::Builder::new().name(name.into());
        let hashing = named("layer-hash").spawn_scoped(scope, move || {
            let mut hasher = Hasher::new();
            for chunk in hash {
                hasher.update(&chunk.data);
            }
            hasher.finish()
        })?;
        let making = named("layer-files").spawn_scoped(scope, move || consume(stream))?;
        let mut total = 0;
        while let Ok(mut data) = free.recv() {
            data.resize(SIZE, 0);
            let (len, failed) = fill(&mut input, &mut data);
            data.truncate(len);
            let chunk = Arc::new(Chunk {
                data,
                pool: pool.clone(),
            });
            // What came before an error is still passed on: it tells where the error struck.
            if len > 0 {
                if to_files.send(Ok(chunk.clone())).is_err() {
                    break;
                }
                let _ = to_hash.send(chunk);
                total += len as u64;
                progress(total);
            }
            if let Some(error) = failed {
                let _ = to_files.send(Err(error));
                break;
            }
            if len < SIZE {
                break;
            }
        }
        drop((to_files, to_hash));
        let made = making
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let digest = hashing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((made, digest))
    })
}

/// Fills the buffer; fewer bytes only at the end of the stream, or before the error that is returned with them.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_and_is_hashed() {
        for len in [0, 1, SIZE - 1, SIZE, SIZE + 1, SIZE * COUNT * 3 + 5] {
            let data: Vec<u8> = (0..len).map(|at| (at / 7) as u8).collect();
            let last = std::cell::Cell::new(0);
            let consume = |mut stream: Stream| {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                all
            };
            let (all, digest) = run(&data[..], &|total| last.set(total), consume).unwrap();
            assert!(all == data);
            assert_eq!(digest, Digest::of(&data));
            assert_eq!(last.get(), len as u64);
        }
    }

    #[test]
    fn an_error_of_the_input_arrives() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let len = buffer.len().min(self.0);
                self.0 -= len;
                if len == 0 {
                    Err(io::Error::other("gone"))
                } else {
                    Ok(len)
                }
            }
        }
        let consume = |mut stream: Stream| io::copy(&mut stream, &mut io::sink()).unwrap_err().to_string();
        assert_eq!(run(Broken(SIZE * 5), &|_| {}, consume).unwrap().0, "gone");
    }

    #[test]
    fn reading_ends_when_nobody_wants_more() {
        let (taken, _) = run(io::repeat(0), &|_| {}, |mut stream: Stream| {
            stream.fill_buf().unwrap().len()
        })
        .unwrap();
        assert_eq!(taken, SIZE);
    }
}
