//! Who asks: what a request does not say of its caller, read from `/proc`.
//!
//! The protocol tells a thread's number; its user only where something is made, for mounts may be id-mapped. The
//! caller waits for our answer, so it is there.

/// `CAP_FOWNER`.
pub(super) const FOWNER: u64 = 1 << 3;
/// `CAP_LINUX_IMMUTABLE`.
pub(super) const LINUX_IMMUTABLE: u64 = 1 << 9;
/// `CAP_SYS_ADMIN`.
pub(super) const SYS_ADMIN: u64 = 1 << 21;

/// A thread, as this process's user namespace sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asker {
    /// File system user id.
    user: u32,
    /// Effective capabilities; none for a thread of another user namespace.
    capabilities: u64,
}

impl Asker {
    /// The thread of this number; `None` for one that cannot be seen from here.
    pub(super) fn of(pid: u32) -> Option<Asker> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let mut asker = Asker::read(&status)?;
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
        if namespace(&pid.to_string()).is_none_or(|theirs| Some(theirs) != namespace("self")) {
            asker.capabilities = 0;
        }
        Some(asker)
    }

    /// Whether the thread of this number is about to end by a signal. The kernel gives each thread of a process that
    /// a signal ends a `SIGKILL` of its own.
    pub(super) fn was_killed(pid: u32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| has_kill_pending(&status))
    }

    /// Of `/proc/PID/status`.
    fn read(status: &str) -> Option<Asker> {
        let field = |name| status.lines().find_map(|line: &str| line.strip_prefix(name));
        Some(Asker {
            // Real, effective, saved, and that for file systems.
            user: field("Uid:")?.split_ascii_whitespace().nth(3)?.parse().ok()?,
            capabilities: u64::from_str_radix(field("CapEff:")?.trim(), 16).ok()?,
        })
    }

    pub(super) fn can(self, capability: u64) -> bool {
        self.capabilities & capability != 0
    }

    /// Whether it may do what a file's owner may.
    pub(super) fn is_owner(self, owner: u32) -> bool {
        self.user == owner || self.can(FOWNER)
    }
}

fn has_kill_pending(status: &str) -> bool {
    const KILL: u64 = 1 << (9 - 1);
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    pending
        .and_then(|pending| u64::from_str_radix(pending.trim(), 16).ok())
        .is_some_and(|pending| pending & KILL != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_status() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t1000\nCapPrm:\t00000000ffffffff\nCapEff:\t0000000000200008\n";
        let asker = Asker::read(status).unwrap();
        assert!(asker.is_owner(1000) && asker.can(SYS_ADMIN) && !asker.can(LINUX_IMMUTABLE));
        let stranger = Asker {
            capabilities: 0,
            ..asker
        };
        assert!(stranger.is_owner(1000) && !stranger.is_owner(1) && !stranger.can(SYS_ADMIN));
        assert_eq!(Asker::read("Uid:\t1\n"), None);
        assert!(Asker::of(std::process::id()).is_some() && Asker::of(0).is_none());
    }

    #[test]
    fn a_pending_kill() {
        assert!(has_kill_pending(
            "SigQ:\t1/2\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"
        ));
        assert!(!has_kill_pending(
            "SigPnd:\t0000000000004000\nShdPnd:\t0000000000000100\n"
        ));
        assert!(!has_kill_pending("") && !Asker::was_killed(std::process::id()));
    }
}
