//! Making files in another's name: the file system ids and the creation mask of one thread, for one call.
//!
//! A file made this way has its owner, its group (of a set-group-id directory), its default ACL and its mode from
//! the file system itself, at once; no moment shows it half made.

use std::cell::Cell;
use std::io;

use rustix::fs::{Gid, Mode};
use rustix::thread::set_thread_groups;

use crate::umask;

thread_local! {
    /// Whether this thread has a mask of its own and keeps its capabilities when its file system ids change.
    static PREPARED: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, what the thread makes belongs to the ids it was made with. The thread's effective ids come back
/// when it is dropped.
#[derive(Debug)]
pub struct Maker {
    ids: bool,
    /// The thread's own supplementary groups, while it has another.
    groups: Option<Vec<Gid>>,
    mask: bool,
    /// The state belongs to the thread: not `Send`.
    _thread: std::marker::PhantomData<*const ()>,
}

/// `SECBIT_NO_SETUID_FIXUP`: capabilities stay as they are when ids change.
const NO_FIXUP: libc::c_ulong = 1 << 2;

fn prepare() -> io::Result<()> {
    if PREPARED.get() {
        return Ok(());
    }
    umask::clear_for_thread()?;
    // SAFETY: prctl with integers; the securebits are the calling thread's alone.
    let bits = unsafe { libc::prctl(libc::PR_GET_SECUREBITS) };
    if bits >= 0 {
        // Where this is refused there are no capabilities to lose either.
        // SAFETY: as above.
        unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits as libc::c_ulong | NO_FIXUP, 0, 0, 0) };
    }
    PREPARED.set(true);
    Ok(())
}

fn set_ids(uid: u32, gid: u32) -> (u32, u32) {
    // The system calls and not libc's functions, which would tell every thread of the process.
    // SAFETY: integers in, integers out; the ids concern only how this thread's file system calls are judged.
    unsafe {
        let gid = libc::syscall(libc::SYS_setfsgid, gid);
        let uid = libc::syscall(libc::SYS_setfsuid, uid);
        (uid as u32, gid as u32)
    }
}

impl Maker {
    /// Takes the ids and the mask. The first call of a thread also gives it a mask and a working directory of its
    /// own ([`umask::clear_for_thread`]). An id that the user namespace does not map is refused with `EINVAL`. A
    /// supplementary group is taken where this is permitted.
    pub fn assume(uid: u32, gid: u32, group: Option<u32>, mask: u32) -> io::Result<Maker> {
        prepare()?;
        let mut maker = Maker {
            ids: false,
            groups: None,
            mask: false,
            _thread: std::marker::PhantomData,
        };
        if (uid, gid)
            != (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            )
        {
            set_ids(uid, gid);
            maker.ids = true;
            // The calls do not say whether they worked; asking with an impossible id does.
            if set_ids(u32::MAX, u32::MAX) != (uid, gid) {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
        }
        if let Some(group) = group
            && let Ok(own) = rustix::process::getgroups()
            && set_thread_groups(&[Gid::from_raw(group)]).is_ok()
        {
            maker.groups = Some(own);
        }
        if mask != 0 {
            rustix::process::umask(Mode::from_raw_mode(mask));
            maker.mask = true;
        }
        Ok(maker)
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        if self.ids {
            set_ids(
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            );
        }
        if let Some(own) = &self.groups {
            // It was permitted a moment ago.
            let _ = set_thread_groups(own);
        }
        if self.mask {
            rustix::process::umask(Mode::empty());
        }
    }
}
