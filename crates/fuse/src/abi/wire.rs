//! Numbers and names out of a request's bytes.
//!
//! Everything on the wire is in the machine's own byte order and padded to 64 bits. A reader that runs out of bytes
//! says so; nothing here can panic, whatever the bytes are.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A request that does not follow the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Fewer bytes than the operation takes, or than its header says.
    #[error("the request is cut off")]
    Short,
    /// A name without its end, empty, or with a slash in it.
    #[error("the request holds a name that is none")]
    Name,
}

/// What is left of a request's body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `count` bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(DecodeError::Short)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_ne_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_ne_bytes)
    }

    /// Passes over `count` bytes: padding, and fields that mean nothing here.
    pub(super) fn skip(&mut self, count: usize) -> Result<(), DecodeError> {
        self.bytes(count).map(|_| ())
    }

    /// A string up to its NUL.
    pub(super) fn string(&mut self) -> Result<&'a OsStr, DecodeError> {
        let end = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(DecodeError::Name)?;
        let string = OsStr::from_bytes(self.0.get(..end).ok_or(DecodeError::Name)?);
        self.skip(end + 1)?;
        Ok(string)
    }

    /// A string that names one thing in a directory.
    pub(super) fn name(&mut self) -> Result<&'a OsStr, DecodeError> {
        let name = self.string()?;
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.contains(&b'/') || bytes == b"." || bytes == b".." {
            return Err(DecodeError::Name);
        }
        Ok(name)
    }
}
