//! Names, and extended attributes.

use std::ffi::OsStr;

use overlay::live::{Found, ROOT, RenameFlags};
use rustix::io::Errno;
use sys::inode_flags::{Extended, IFlags};

use super::asker::{Asker, LINUX_IMMUTABLE, SYS_ADMIN};
use super::worker::Out;
use super::{SERVER_ATTRIBUTE, Shared};
use crate::abi::Request;

/// `FS_IOC_GETFLAGS`, `FS_IOC_SETFLAGS`, `FS_IOC_FSGETXATTR`, `FS_IOC_FSSETXATTR`.
const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
const GET_EXTENDED: u32 = 0x801c_581f;
const SET_EXTENDED: u32 = 0x401c_5820;

type Done = Result<(), Errno>;

impl Shared {
    /// Answers with a node, of which the kernel then holds a reference.
    pub(super) fn entry(&self, found: Result<Found, Errno>, out: &mut Out) -> Done {
        let found = found?;
        out.granted.nodes.push(found.node);
        out.reply
            .entry(found.node, &found.attr, self.timeouts(found.node));
        Ok(())
    }

    pub(super) fn lookup(&self, parent: u64, name: &OsStr, out: &mut Out) -> Done {
        match self.overlay.lookup(parent, name) {
            Err(Errno::NOENT) => {
                out.reply.no_entry(self.timeouts);
                Ok(())
            }
            found => self.entry(found, out),
        }
    }

    pub(super) fn rename(
        &self,
        parent: u64,
        name: &OsStr,
        new_parent: u64,
        new_name: &OsStr,
        flags: u32,
    ) -> Done {
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        self.overlay.rename(parent, name, new_parent, new_name, flags)
    }

    /// The kernel asks for access lists as for any attribute where it does not look after them itself.
    fn xattrs(&self, name: &OsStr) -> Done {
        match self.no_xattrs || self.no_acl && is_acl(name.as_encoded_bytes()) {
            true => Err(Errno::OPNOTSUPP),
            false => Ok(()),
        }
    }

    pub(super) fn setxattr(&self, node: u64, name: &OsStr, value: &[u8], flags: u32, kill: bool) -> Done {
        self.xattrs(name)?;
        let flags = rustix::fs::XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        self.overlay.setxattr(node, name, value, flags, kill)
    }

    pub(super) fn getxattr(&self, node: u64, name: &OsStr, size: u32, out: &mut Out) -> Done {
        if node == ROOT && name == SERVER_ATTRIBUTE && !self.identity.is_empty() {
            return answer_sized(&self.identity, size, out);
        }
        self.xattrs(name)?;
        answer_sized(&self.overlay.getxattr(node, name)?, size, out)
    }

    /// Names of `trusted.` attributes are for those with `CAP_SYS_ADMIN`. The kernel's client leaves them in.
    pub(super) fn listxattr(&self, node: u64, pid: u32, size: u32, out: &mut Out) -> Done {
        self.xattrs(OsStr::new(""))?;
        let mut names = self.overlay.listxattr(node, true)?;
        let trusted = |name: &[u8]| name.starts_with(b"trusted.");
        if names.split(|byte| *byte == 0).any(trusted)
            && !Asker::of(pid).is_some_and(|asker| asker.can(SYS_ADMIN))
        {
            names = self.overlay.listxattr(node, false)?;
        }
        if self.no_acl {
            let shown = names
                .split_inclusive(|byte| *byte == 0)
                .filter(|name| !is_acl(name));
            names = shown.flatten().copied().collect();
        }
        answer_sized(&names, size, out)
    }

    /// Flags of inodes. The kernel has looked whether the caller may set them, since Linux 5.13; we look too.
    pub(super) fn ioctl(
        &self,
        request: &Request<'_>,
        command: u32,
        data: &[u8],
        room: u32,
        out: &mut Out,
    ) -> Done {
        let node = request.node;
        let mut answer = |bytes: &[u8]| {
            let most = bytes.len().min(room as usize);
            out.reply.ioctl(bytes.get(..most).unwrap_or_default());
            Ok(())
        };
        match command {
            GET_FLAGS => answer(&self.overlay.flags(node)?.bits().to_ne_bytes()),
            GET_EXTENDED => answer(&self.overlay.extended_flags(node)?.to_bytes()),
            SET_FLAGS => {
                let flags = data.first_chunk().ok_or(Errno::INVAL)?;
                let flags = IFlags::from_bits_retain(u32::from_ne_bytes(*flags));
                let change =
                    (flags ^ self.overlay.flags(node)?).intersects(IFlags::APPEND | IFlags::IMMUTABLE);
                self.may_set_flags(request, change)?;
                self.overlay.set_flags(node, flags)?;
                answer(&[])
            }
            SET_EXTENDED => {
                let extended = Extended::from_bytes(data.first_chunk().ok_or(Errno::INVAL)?);
                let change = extended.flags ^ self.overlay.extended_flags(node)?.flags;
                self.may_set_flags(request, change & (Extended::APPEND | Extended::IMMUTABLE) != 0)?;
                self.overlay.set_extended_flags(node, &extended)?;
                answer(&[])
            }
            _ => Err(Errno::NOTTY),
        }
    }

    fn may_set_flags(&self, request: &Request<'_>, protection: bool) -> Done {
        let owner = self.overlay.getattr(request.node, None)?.st_uid;
        let may = Asker::of(request.pid)
            .is_some_and(|asker| asker.is_owner(owner) && (!protection || asker.can(LINUX_IMMUTABLE)));
        if may { Ok(()) } else { Err(Errno::PERM) }
    }

    pub(super) fn removexattr(&self, node: u64, name: &OsStr) -> Done {
        self.xattrs(name)?;
        self.overlay.removexattr(node, name)
    }
}

fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

/// Answers with `value`, or with its length if that is what is asked.
fn answer_sized(value: &[u8], size: u32, out: &mut Out) -> Done {
    if size == 0 {
        out.reply
            .u32(u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?);
        out.reply.u32(0);
    } else if value.len() <= size as usize {
        out.reply.bytes(value);
    } else {
        return Err(Errno::RANGE);
    }
    Ok(())
}
