//! Flags that an inode carries, as chattr(1) sets them, and the project that it belongs to: ioctl_iflags(2),
//! ioctl_xfs_fsgetxattr(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

pub use rustix::fs::IFlags;
use rustix::ioctl::opcode;

/// The flags of an open file or directory; `ENOTTY` or `EOPNOTSUPP` where its file system has none.
pub fn get(fd: impl AsFd) -> io::Result<IFlags> {
    Ok(rustix::fs::ioctl_getflags(fd)?)
}

/// Sets them, all at once.
pub fn set(fd: impl AsFd, flags: IFlags) -> io::Result<()> {
    Ok(rustix::fs::ioctl_setflags(fd, flags)?)
}

/// `struct fsxattr` of `<linux/fs.h>`: the flags in another order, and what goes with them.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extended {
    /// `FS_XFLAG_*`.
    pub flags: u32,
    /// Extent size hint, in bytes.
    pub extent_size: u32,
    /// Extents that there are; only read.
    pub extents: u32,
    /// Project id; 0 is nobody's.
    pub project: u32,
    /// Extent size hint for copying on write, in bytes.
    pub copy_extent_size: u32,
    padding: [u8; 8],
}

const _: () = assert!(size_of::<Extended>() == Extended::SIZE);

impl Extended {
    /// `FS_XFLAG_IMMUTABLE`.
    pub const IMMUTABLE: u32 = 0x8;
    /// `FS_XFLAG_APPEND`.
    pub const APPEND: u32 = 0x10;
    /// `FS_XFLAG_PROJINHERIT`: what is made in the directory gets its project.
    pub const PROJECT_INHERIT: u32 = 0x200;
    /// Bytes that it takes.
    pub const SIZE: usize = 28;

    /// Those of an open file or directory.
    pub fn get(fd: BorrowedFd<'_>) -> io::Result<Extended> {
        let mut found = Extended::default();
        let request = opcode::read::<Extended>(b'X', 31);
        // SAFETY: FS_IOC_FSGETXATTR writes one `fsxattr`, which `found` is laid out as and lives across the call.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &raw mut found) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(found)
    }

    /// Gives them to an open file or directory.
    pub fn set(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let request = opcode::write::<Extended>(b'X', 32);
        // SAFETY: FS_IOC_FSSETXATTR reads one `fsxattr`, which `self` is laid out as and lives across the call.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &raw const *self) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// From its bytes, in the machine's order.
    pub fn from_bytes(bytes: &[u8; Extended::SIZE]) -> Extended {
        let word = |at: usize| {
            bytes[at..]
                .first_chunk()
                .map_or(0, |word| u32::from_ne_bytes(*word))
        };
        Extended {
            flags: word(0),
            extent_size: word(4),
            extents: word(8),
            project: word(12),
            copy_extent_size: word(16),
            padding: [0; 8],
        }
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; Extended::SIZE] {
        let words = [
            self.flags,
            self.extent_size,
            self.extents,
            self.project,
            self.copy_extent_size,
        ];
        let mut bytes = [0; Extended::SIZE];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_kernels_headers() {
        assert_eq!(opcode::read::<Extended>(b'X', 31), 0x801c_581f);
        assert_eq!(opcode::write::<Extended>(b'X', 32), 0x401c_5820);
    }

    #[test]
    fn bytes_and_back() {
        let extended = Extended {
            flags: Extended::APPEND,
            project: 7,
            copy_extent_size: 4096,
            ..Extended::default()
        };
        assert_eq!(Extended::from_bytes(&extended.to_bytes()), extended);
        assert_eq!(extended.to_bytes()[12..16], 7u32.to_ne_bytes());
    }
}
