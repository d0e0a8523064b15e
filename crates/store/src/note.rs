//! [`Note`]: a line about what another run may go on with. It is kept as a download is that broke off: under a name that is made
//! of what it is about, with a lock, for as long as a collection leaves such things alone.

use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;

use crate::error::Fault;
use crate::{Ingest, IngestError, Lease, Store};

/// Bytes that a note may have.
const MOST: usize = 16 << 10;

/// See the module. Empty, it goes when it is dropped.
pub struct Note(Ingest);

impl Store {
    /// The note about something; `None` while somebody else has it.
    pub fn note(&self, lease: &Lease, about: &str) -> Result<Option<Note>, Fault> {
        let mut ingest = match self.ingest(lease, about, None) {
            Err(IngestError::Busy(_)) => return Ok(None),
            Err(IngestError::Fault(fault)) => return Err(fault),
            Err(IngestError::Mismatch { .. } | IngestError::InUse { .. }) => return Ok(None),
            Ok(ingest) => ingest,
        };
        ingest.once = ingest.offset() == 0;
        Ok(Some(Note(ingest)))
    }
}

impl Note {
    /// What was last written; empty where that was not written whole.
    pub fn text(&self) -> io::Result<String> {
        let mut buffer = vec![0; MOST];
        let len = self.0.file.read_at(&mut buffer, 0)?;
        let text = buffer[..len].strip_suffix(b"\n").unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// Puts one line in place of what is there.
    pub fn write(&mut self, text: &str) -> io::Result<()> {
        let ingest = &mut self.0;
        ingest.file.set_len(0)?;
        ingest.file.rewind()?;
        ingest.once = text.is_empty() || text.len() >= MOST;
        if !ingest.once {
            ingest.file.write_all(format!("{text}\n").as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_note_stays_until_it_is_empty_or_old() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let lease = store.lease("test").unwrap();
        let left = || store.layout.ingest().unwrap().entries().unwrap().len();
        let note = || store.note(&lease, "an upload").unwrap();
        let mut first = note().unwrap();
        assert_eq!(first.text().unwrap(), "");
        assert!(note().is_none());
        first.write("a long address").unwrap();
        first.write("an address").unwrap();
        drop(first);
        store.collect().unwrap();
        let mut second = note().unwrap();
        assert_eq!(second.text().unwrap(), "an address");
        second.write("").unwrap();
        drop(second);
        assert_eq!(left(), 0);
        // One that was not written whole says nothing, and nobody's goes in the end.
        let third = note().unwrap();
        third.0.file.write_all_at(b"half an addr", 0).unwrap();
        assert_eq!(third.text().unwrap(), "");
        let mut other = store.note(&lease, "another").unwrap().unwrap();
        other.write("address").unwrap();
        drop((third, other));
        store.collect_older_than(Duration::ZERO).unwrap();
        assert_eq!(left(), 0);
    }
}
