//! Names, and extended attributes.

use std::ffi::OsStr;

use overlay::live::{Found, ROOT, RenameFlags};
use rustix::io::Errno;

use super::worker::Out;
use super::{SERVER_ATTRIBUTE, Shared};

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

    fn xattrs(&self) -> Done {
        match self.no_xattrs {
            true => Err(Errno::OPNOTSUPP),
            false => Ok(()),
        }
    }

    pub(super) fn setxattr(&self, node: u64, name: &OsStr, value: &[u8], flags: u32, kill: bool) -> Done {
        self.xattrs()?;
        let flags = rustix::fs::XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        self.overlay.setxattr(node, name, value, flags, kill)
    }

    pub(super) fn getxattr(&self, node: u64, name: &OsStr, size: u32, out: &mut Out) -> Done {
        if node == ROOT && name == SERVER_ATTRIBUTE && !self.identity.is_empty() {
            return answer_sized(&self.identity, size, out);
        }
        self.xattrs()?;
        answer_sized(&self.overlay.getxattr(node, name)?, size, out)
    }

    /// Names of `trusted.` attributes are for those with `CAP_SYS_ADMIN`. The kernel's client leaves them in.
    pub(super) fn listxattr(&self, node: u64, pid: u32, size: u32, out: &mut Out) -> Done {
        self.xattrs()?;
        let mut names = self.overlay.listxattr(node, true)?;
        let trusted = |name: &[u8]| name.starts_with(b"trusted.");
        if names.split(|byte| *byte == 0).any(trusted) && !is_admin(pid) {
            names = self.overlay.listxattr(node, false)?;
        }
        answer_sized(&names, size, out)
    }

    pub(super) fn removexattr(&self, node: u64, name: &OsStr) -> Done {
        self.xattrs()?;
        self.overlay.removexattr(node, name)
    }
}

/// Whether a thread has `CAP_SYS_ADMIN` in this process's user namespace. It waits for our answer, so it is there.
fn is_admin(pid: u32) -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let read = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        let has = u64::from_str_radix(effective.trim(), 16).ok()? & CAP_SYS_ADMIN != 0;
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/user")).ok()?;
        Some(has && theirs == std::fs::read_link("/proc/self/ns/user").ok()?)
    };
    read().unwrap_or(false)
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
