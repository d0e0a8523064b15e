//! [`Told`]: a stream that tells how far it is.

use std::io::{self, Read, Write};

use image::progress::{Event, Progress};

/// Bytes after which it is told.
const STEP: u64 = 1 << 20;

/// What is read from, or written to, it tells.
pub(crate) struct Told<'a, T> {
    stream: T,
    what: &'a str,
    bytes: u64,
    progress: &'a dyn Progress,
}

impl<'a, T> Told<'a, T> {
    /// Tells of `stream` by the name `what`.
    pub(crate) fn new(stream: T, what: &'a str, progress: &'a dyn Progress) -> Told<'a, T> {
        Told {
            stream,
            what,
            bytes: 0,
            progress,
        }
    }

    fn count(&mut self, count: usize) -> usize {
        let before = self.bytes;
        self.bytes += count as u64;
        if before / STEP != self.bytes / STEP {
            let (what, bytes) = (self.what, self.bytes);
            self.progress.event(&Event::Read { what, bytes });
        }
        count
    }
}

impl<T: Write> Write for Told<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes).map(|count| self.count(count))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl<T: Read> Read for Told<'_, T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.read(bytes).map(|count| self.count(count))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<(String, u64)>>);

    impl Progress for Kept {
        fn event(&self, event: &Event<'_>) {
            if let Event::Read { what, bytes } = event {
                self.0.lock().unwrap().push(((*what).to_owned(), *bytes));
            }
        }
    }

    #[test]
    fn a_step_at_a_time() {
        let kept = Kept::default();
        let mut out = Told::new(Vec::new(), "out", &kept);
        for _ in 0..5 {
            out.write_all(&[7; 700_000]).unwrap();
        }
        let mut back = Vec::new();
        let from = &out.stream[..];
        Told::new(from, "from", &kept).read_to_end(&mut back).unwrap();
        assert_eq!(back, out.stream);
        let told = kept.0.into_inner().unwrap();
        let of = |what: &str| told.iter().filter(|(name, _)| name == what).count();
        assert_eq!((of("out"), of("from")), (3, 3));
        assert_eq!(told[0], ("out".to_owned(), 1_400_000));
    }
}
