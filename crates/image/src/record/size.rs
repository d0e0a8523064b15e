//! How long the tar is that a record gives.

use std::fs::File;

use super::read::{Item, items_at, open};
use super::{HEAD, RecordError};

/// Bytes of the tar that [`super::rebuild`] would write. Only the record is read.
pub fn size(record: &File) -> Result<u64, RecordError> {
    open(record)?;
    let mut items = items_at(record, HEAD as u64)?;
    let mut size = 0u64;
    loop {
        size = size.saturating_add(match items.item()? {
            Item::End => return Ok(size),
            Item::Raw(bytes) => bytes.len() as u64,
            Item::File(file) => file.runs().iter().map(|run| run.len).sum(),
            Item::Displaced => {
                while !items.run()?.1.is_empty() {}
                0
            }
        });
    }
}
