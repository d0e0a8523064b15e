//! Maps of sparse files: where the data that follows a header belongs.

use super::header::{GNU_EXTENDED, GNU_SPARSE, number};
use super::{BLOCK, Segment};

/// Reads the offset-length pairs of an old GNU header or extension block, up to the first empty one.
fn pairs(fields: &[u8], map: &mut Vec<Segment>) -> Result<(), String> {
    for pair in fields.as_chunks::<24>().0 {
        if pair[0] == 0 {
            break;
        }
        let value = |field: &[u8]| number(field).and_then(|value| u64::try_from(value).ok());
        let (offset, len) = value(&pair[..12])
            .zip(value(&pair[12..]))
            .ok_or("malformed sparse map")?;
        map.push(Segment { offset, len });
    }
    Ok(())
}

/// Takes the map of an old GNU header block; says whether extension blocks follow.
pub(super) fn old_header(block: &[u8; BLOCK], map: &mut Vec<Segment>) -> Result<bool, String> {
    pairs(&block[GNU_SPARSE], map)?;
    Ok(block[GNU_EXTENDED] != 0)
}

/// Takes the map of an extension block; says whether another follows.
pub(super) fn old_extension(block: &[u8; BLOCK], map: &mut Vec<Segment>) -> Result<bool, String> {
    pairs(&block[..504], map)?;
    Ok(block[504] != 0)
}

/// Reads a PAX 1.0 map, which stands before the data as lines of decimal numbers: how many segments, then offset
/// and length of each.
#[derive(Debug, Default)]
pub(super) struct Lines {
    count: Option<u64>,
    offset: Option<u64>,
    value: u64,
    digits: u32,
    pub(super) map: Vec<Segment>,
}

impl Lines {
    /// Takes one block; says whether the map is complete. The rest of the last block is padding.
    pub(super) fn block(&mut self, block: &[u8; BLOCK]) -> Result<bool, String> {
        for byte in block {
            match byte {
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    let value = self
                        .value
                        .checked_mul(10)
                        .and_then(|value| value.checked_add(digit));
                    self.value = value.ok_or("malformed sparse map")?;
                    self.digits += 1;
                }
                b'\n' if self.digits > 0 => {
                    self.number();
                    if self.count == Some(self.map.len() as u64) {
                        return Ok(true);
                    }
                }
                _ => return Err("malformed sparse map".into()),
            }
        }
        Ok(false)
    }

    fn number(&mut self) {
        let value = std::mem::take(&mut self.value);
        self.digits = 0;
        match (self.count, self.offset.take()) {
            (None, _) => self.count = Some(value),
            (Some(_), None) => self.offset = Some(value),
            (Some(_), Some(offset)) => self.map.push(Segment { offset, len: value }),
        }
    }
}

/// Checks a map against the file's size and the bytes of data that the archive holds for it, and drops empty
/// segments.
pub(super) fn check(mut map: Vec<Segment>, size: u64, data: u64) -> Result<Vec<Segment>, String> {
    let (mut end, mut sum) = (0u64, 0u64);
    for segment in &map {
        if segment.offset < end {
            return Err("sparse map whose segments overlap or are out of order".into());
        }
        end = segment.offset.saturating_add(segment.len);
        if end > size {
            return Err("sparse map that exceeds the file's size".into());
        }
        sum += segment.len;
    }
    if sum != data {
        return Err(format!("sparse map of {sum} bytes for {data} bytes of data"));
    }
    map.retain(|segment| segment.len > 0);
    Ok(map)
}
