//! Data of files: what the page cache does not hold, and what is not passed through.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use overlay::live::SetAttr;
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::Shared;
use super::handles::Handle;
use super::worker::{Answer, Out};
use crate::abi::request::CopyIn;
use crate::session::MAX_WRITE;

type Done = Result<(), Errno>;

/// What is copied within a file system at once at most. Whole blocks, for those that share them.
const COPY: usize = 32 << 20;

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl Shared {
    fn handle(&self, fh: u64) -> Result<Arc<Handle>, Errno> {
        self.handles.get(fh).ok_or(Errno::BADF)
    }

    /// The file behind a handle, or behind the node where files are not opened.
    fn file(&self, node: u64, fh: u64) -> Result<Arc<File>, Errno> {
        if fh == 0 {
            return self.unopened.get(&self.overlay, node);
        }
        self.handle(fh)?.file.file(&self.overlay)
    }

    pub(super) fn read(&self, node: u64, fh: u64, offset: u64, size: u32, out: &mut Out) -> Answer {
        let file = match self.file(node, fh) {
            Ok(file) => file,
            Err(errno) => return Answer::Reply(Err(errno)),
        };
        let most = (size as usize).min(MAX_WRITE).min(out.data.len());
        let buffer = out.data.get_mut(..most).unwrap_or_default();
        let mut done = 0;
        // Fewer bytes than asked for mean the end of the file to the kernel.
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + done as u64) {
                // A regular file gives less at its end alone.
                Ok(count) if count < rest.len() => {
                    done += count;
                    break;
                }
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) if done > 0 => break,
                Err(error) => return Answer::Reply(Err(errno(&error))),
            }
        }
        Answer::Data(done)
    }

    pub(super) fn write(
        &self,
        node: u64,
        fh: u64,
        offset: u64,
        data: &[u8],
        kill: bool,
        out: &mut Out,
    ) -> Done {
        let handle = self.handle(fh)?;
        if kill {
            let change = SetAttr {
                kill_suidgid: true,
                ..SetAttr::default()
            };
            self.overlay.setattr(node, &change, Some(&handle.file))?;
        }
        let file = handle.file.file(&self.overlay)?;
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            match file.write_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) if done > 0 => break,
                Err(error) => return Err(errno(&error)),
            }
        }
        out.reply.u32(done as u32);
        out.reply.u32(0);
        Ok(())
    }

    pub(super) fn lseek(&self, node: u64, fh: u64, offset: u64, whence: u32, out: &mut Out) -> Done {
        const SEEK_DATA: u32 = 3;
        const SEEK_HOLE: u32 = 4;
        let file = self.file(node, fh)?;
        // The file's own position means nothing: every read and write says where.
        let from = match whence {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        out.reply.u64(rustix::fs::seek(&*file, from)?);
        Ok(())
    }

    pub(super) fn fallocate(&self, fh: u64, offset: u64, length: u64, mode: u32) -> Done {
        let handle = self.handle(fh)?;
        let mode = FallocateFlags::from_bits_retain(mode);
        self.overlay.may_allocate(&handle.file, mode)?;
        rustix::fs::fallocate(&*handle.file.file(&self.overlay)?, mode, offset, length)
    }

    pub(super) fn copy_file_range(&self, node: u64, copy: &CopyIn, out: &mut Out) -> Done {
        let from = self.file(node, copy.fh_in)?;
        let to = self.handle(copy.fh_out)?.file.file(&self.overlay)?;
        let most = if copy.wide {
            copy.length
        } else {
            copy.length.min(u64::from(u32::MAX))
        };
        // A longer copy goes on with the next request: between the two its caller can be killed.
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(COPY);
        let (mut at, mut onto) = (copy.offset_in, copy.offset_out);
        let count = rustix::fs::copy_file_range(&*from, Some(&mut at), &*to, Some(&mut onto), most)?;
        if copy.wide {
            out.reply.u64(count as u64);
        } else {
            out.reply.u32(count as u32);
            out.reply.u32(0);
        }
        Ok(())
    }

    pub(super) fn fsync(&self, fh: u64, data_only: bool) -> Done {
        match fh {
            // Never opened, hence never written.
            0 => Ok(()),
            _ => self.overlay.fsync(&self.handle(fh)?.file, data_only),
        }
    }
}
