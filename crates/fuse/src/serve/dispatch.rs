//! From a request to the overlay's call and back.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use overlay::live::{Caller, Found, OpenFile, SetAttr, SetTime};
use rustix::fs::{OFlags, Timespec};
use rustix::io::Errno;

use super::Shared;
use super::asker::Asker;
use super::backing::Through;
use super::handles::Handle;
use super::worker::{Answer, Granted, Out};
use crate::abi::reply::{Reply, Timeouts};
use crate::abi::request::{SetAttrIn, Time};
use crate::abi::{OpenReply, Operation, Request, SetAttrValid};

type Done = Result<(), Errno>;

impl Shared {
    /// Does what is asked. The reply's body is in `out`.
    pub(super) fn dispatch(&self, device: BorrowedFd<'_>, request: &Request<'_>, out: &mut Out) -> Answer {
        let node = request.node;
        match request.operation {
            Operation::Lookup { name } => self.lookup(node, name, out).into(),
            Operation::Forget { count } => {
                self.forget(device, node, count);
                Answer::Silent
            }
            Operation::BatchForget(forgets) => {
                forgets.for_each(|(node, count)| self.forget(device, node, count));
                Answer::Silent
            }
            Operation::GetAttr { fh } => self.getattr(node, fh, out).into(),
            Operation::StatX { fh, .. } => self.statx(node, fh, out).into(),
            Operation::SetAttr(change) => self.setattr(request, &change, out).into(),
            Operation::ReadLink => self
                .overlay
                .readlink(node)
                .map(|target| out.reply.bytes(&target))
                .into(),
            Operation::Symlink { name, target } => {
                let found = self.overlay.symlink(node, name, target, caller(request, 0));
                self.entry(found, out).into()
            }
            Operation::MkNod {
                name,
                mode,
                rdev,
                umask,
            } => {
                let rdev = u64::from(rdev);
                let found = self.overlay.mknod(node, name, mode, rdev, caller(request, umask));
                self.entry(found, out).into()
            }
            Operation::MkDir { name, mode, umask } => {
                let found = self.overlay.mkdir(node, name, mode, caller(request, umask));
                self.entry(found, out).into()
            }
            Operation::Unlink { name } => self.overlay.unlink(node, name).into(),
            Operation::RmDir { name } => self.overlay.rmdir(node, name).into(),
            Operation::Rename {
                name,
                new_parent,
                new_name,
                flags,
            } => self.rename(node, name, new_parent, new_name, flags).into(),
            Operation::Link { target, new_name } => {
                self.entry(self.overlay.link(target, node, new_name), out).into()
            }
            Operation::Open { flags, kill } => self.open(device, node, flags, kill, out).into(),
            Operation::Create {
                name,
                flags,
                mode,
                umask,
                ..
            } => {
                let caller = caller(request, umask);
                let made = self
                    .overlay
                    .create(node, name, OFlags::from_bits_retain(flags), mode, caller);
                self.created(device, made, out).into()
            }
            Operation::TmpFile { flags, mode, umask } => {
                let caller = caller(request, umask);
                let made = self
                    .overlay
                    .tmpfile(node, OFlags::from_bits_retain(flags), mode, caller);
                self.created(device, made, out).into()
            }
            Operation::Release { fh } => {
                self.release(device, fh);
                Answer::Reply(Ok(()))
            }
            Operation::Read { fh, offset, size } => self.read(node, fh, offset, size, out),
            Operation::Write {
                fh,
                offset,
                data,
                kill,
            } => self.write(node, fh, offset, data, kill, out).into(),
            Operation::LSeek { fh, offset, whence } => self.lseek(node, fh, offset, whence, out).into(),
            Operation::Fallocate {
                fh,
                offset,
                length,
                mode,
            } => self.fallocate(fh, offset, length, mode).into(),
            Operation::CopyFileRange(copy) => self.copy_file_range(node, &copy, out).into(),
            Operation::FSync { fh, data_only } => self.fsync(fh, data_only).into(),
            Operation::FSyncDir => self.overlay.fsync_dir(node).into(),
            Operation::SyncFs => self.overlay.syncfs().into(),
            Operation::StatFs => self.overlay.statfs().map(|stat| out.reply.statfs(&stat)).into(),
            Operation::ReadDir { offset, size } => self.readdir(node, offset, size, out).into(),
            Operation::ReadDirPlus { offset, size } => self.readdir_plus(node, offset, size, out).into(),
            Operation::SetXattr {
                name,
                value,
                flags,
                kill_sgid,
            } => self.setxattr(node, name, value, flags, kill_sgid).into(),
            Operation::GetXattr { name, size } => self.getxattr(node, name, size, out).into(),
            Operation::ListXattr { size } => self.listxattr(node, request.pid, size, out).into(),
            Operation::RemoveXattr { name } => self.removexattr(node, name).into(),
            Operation::ReleaseDir | Operation::Destroy => Answer::Reply(Ok(())),
            Operation::Ioctl { command, data, room } => self.ioctl(request, command, data, room, out).into(),
            // ENOSYS is final: directories need no open, closing needs no word, the kernel checks access itself, and
            // no request takes so long that it is worth interrupting.
            Operation::OpenDir | Operation::Flush | Operation::Access | Operation::Interrupt { .. } => {
                Answer::Reply(Err(Errno::NOSYS))
            }
            Operation::Init(_) | Operation::Other => Answer::Reply(Err(Errno::NOSYS)),
        }
    }

    fn forget(&self, device: BorrowedFd<'_>, node: u64, count: u64) {
        self.backings.forget(device, node);
        self.overlay.forget(node, count);
    }

    /// Nobody received the answer: what it handed out goes back.
    pub(super) fn take_back(&self, device: BorrowedFd<'_>, granted: &Granted) {
        if let Some(fh) = granted.handle {
            self.release(device, fh);
        }
        for node in &granted.nodes {
            self.forget(device, *node, 1);
        }
    }

    fn getattr(&self, node: u64, fh: Option<u64>, out: &mut Out) -> Done {
        let handle = fh.and_then(|fh| self.handles.get(fh));
        let stat = self
            .overlay
            .getattr(node, handle.as_ref().map(|handle| &handle.file))?;
        out.reply.attr_out(&stat, self.timeouts(node).attr);
        Ok(())
    }

    fn statx(&self, node: u64, fh: Option<u64>, out: &mut Out) -> Done {
        let handle = fh.and_then(|fh| self.handles.get(fh));
        let stat = self
            .overlay
            .getattr(node, handle.as_ref().map(|handle| &handle.file))?;
        let birth = self.overlay.birth_time(node)?;
        out.reply.statx_out(&stat, birth, self.timeouts(node).attr);
        Ok(())
    }

    fn setattr(&self, request: &Request<'_>, change: &SetAttrIn, out: &mut Out) -> Done {
        let node = request.node;
        let writer = self.handles.writer(node);
        let handle = match change.valid.contains(SetAttrValid::FH) {
            true => self.handles.get(change.fh),
            false => writer.clone(),
        };
        let file = handle.as_ref().map(|handle| &handle.file);
        let mut changes = changes(change);
        if !change.valid.intersects(ANYTHING) {
            // A write asks so for set-id bits to be cleared, and a chown(-1, -1) asks for nothing
            // else. Which of the two it was is only known of a file that nobody writes to.
            match writer {
                Some(_) => changes.kill_suidgid = true,
                None => {
                    let asker = || Asker::of(request.pid);
                    let may = |owner| asker().is_some_and(|asker| asker.is_owner(owner));
                    self.overlay.chown_nothing(node, may)?;
                }
            }
        }
        let stat = self.overlay.setattr(node, &changes, file)?;
        out.reply.attr_out(&stat, self.timeouts(node).attr);
        Ok(())
    }

    fn open(&self, device: BorrowedFd<'_>, node: u64, flags: u32, kill: bool, out: &mut Out) -> Done {
        if self.no_open {
            return Err(Errno::NOSYS);
        }
        let file = self.overlay.open(node, OFlags::from_bits_retain(flags), kill)?;
        let (fh, flags, through) = self.admit(device, file);
        if through.is_some_and(|through| through.first_writer) {
            // It fails where the kernel believes nothing of the node.
            let _ = rustix::io::write(device, &Reply::forget_attributes(node));
        }
        out.granted.handle = Some(fh);
        out.reply.open(fh, flags, through.map_or(0, |through| through.id));
        Ok(())
    }

    fn created(&self, device: BorrowedFd<'_>, made: Result<(Found, OpenFile), Errno>, out: &mut Out) -> Done {
        let (found, file) = made?;
        let (fh, flags, through) = self.admit(device, file);
        // Nobody has mapped what is still empty, and whatever makes it longer has the kernel ask again; without belief
        // it would ask at once, to check permissions.
        let timeouts = match found.attr.st_size {
            0 => self.timeouts,
            _ => self.timeouts(found.node),
        };
        out.granted.nodes.push(found.node);
        out.reply.entry(found.node, &found.attr, timeouts);
        out.granted.handle = Some(fh);
        out.reply.open(fh, flags, through.map_or(0, |through| through.id));
        Ok(())
    }

    /// Gives the open file a number, and chooses how its data travels.
    fn admit(&self, device: BorrowedFd<'_>, file: OpenFile) -> (u64, OpenReply, Option<Through>) {
        let upper = || match file.is_upper() {
            true => file.file(&self.overlay).ok(),
            false => None,
        };
        let through = self
            .backings
            .open(device, file.node_id(), file.is_writable(), upper);
        // The page cache is always right: whatever changes a file comes through it. The kernel refuses a backing file
        // together with a kept cache.
        let flags = match through {
            Some(_) => OpenReply::PASSTHROUGH,
            None => OpenReply::KEEP_CACHE,
        } | OpenReply::NOFLUSH;
        let passthrough = through.is_some();
        (self.handles.insert(Handle { file, passthrough }), flags, through)
    }

    /// How long the kernel may believe what it is told of a node.
    pub(super) fn timeouts(&self, node: u64) -> Timeouts {
        match self.backings.is_written(node) {
            true => Timeouts {
                attr: Duration::ZERO,
                ..self.timeouts
            },
            false => self.timeouts,
        }
    }

    fn release(&self, device: BorrowedFd<'_>, fh: u64) {
        if let Some(handle) = self.handles.remove(fh) {
            let (node, writes) = (handle.file.node_id(), handle.file.is_writable());
            self.backings.close(device, node, handle.passthrough, writes);
        }
    }
}

/// What a SETATTR can ask for by itself.
const ANYTHING: SetAttrValid = SetAttrValid::MODE
    .union(SetAttrValid::UID)
    .union(SetAttrValid::GID)
    .union(SetAttrValid::SIZE)
    .union(SetAttrValid::ATIME)
    .union(SetAttrValid::MTIME)
    .union(SetAttrValid::ATIME_NOW)
    .union(SetAttrValid::MTIME_NOW);

fn caller(request: &Request<'_>, umask: u32) -> Caller {
    Caller {
        uid: request.uid,
        gid: request.gid,
        group: request.group,
        umask,
    }
}

fn changes(change: &SetAttrIn) -> SetAttr {
    let has = |flag| change.valid.contains(flag);
    let time = |set, now, time: Time| match (has(now), has(set)) {
        (true, _) => Some(SetTime::Now),
        (false, true) => Some(SetTime::At(Timespec {
            tv_sec: time.seconds as _,
            tv_nsec: time.nanoseconds as _,
        })),
        (false, false) => None,
    };
    SetAttr {
        mode: has(SetAttrValid::MODE).then_some(change.mode),
        uid: has(SetAttrValid::UID).then_some(change.uid),
        gid: has(SetAttrValid::GID).then_some(change.gid),
        size: has(SetAttrValid::SIZE).then_some(change.size),
        atime: time(SetAttrValid::ATIME, SetAttrValid::ATIME_NOW, change.atime),
        mtime: time(SetAttrValid::MTIME, SetAttrValid::MTIME_NOW, change.mtime),
        kill_suidgid: has(SetAttrValid::KILL_SUIDGID),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(valid: SetAttrValid) -> SetAttrIn {
        let time = Time {
            seconds: 5,
            nanoseconds: 6,
        };
        SetAttrIn {
            valid,
            fh: 0,
            size: 1,
            atime: time,
            mtime: time,
            mode: 0o644,
            uid: 1,
            gid: 2,
        }
    }

    #[test]
    fn set_id_bits_go_when_that_is_asked() {
        assert!(!ANYTHING.intersects(SetAttrValid::FH | SetAttrValid::KILL_SUIDGID));
        assert!(!changes(&request(SetAttrValid::MODE)).kill_suidgid);
        assert!(changes(&request(SetAttrValid::UID | SetAttrValid::KILL_SUIDGID)).kill_suidgid);
    }

    #[test]
    fn now_goes_before_a_time() {
        let both = changes(&request(
            SetAttrValid::ATIME | SetAttrValid::ATIME_NOW | SetAttrValid::MTIME,
        ));
        assert!(matches!(both.atime, Some(SetTime::Now)));
        assert!(matches!(both.mtime, Some(SetTime::At(time)) if time.tv_sec == 5 && time.tv_nsec == 6));
    }
}
