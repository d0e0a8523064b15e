//! Capabilities of the calling thread: `capget(2)`, `capset(2)`, and the bounding and ambient sets of `prctl(2)`.
//!
//! A launcher applies a container's [`Sets`] in three steps, because `setuid(2)` stands in the middle:
//! [`drop_bounding`] while it still has `CAP_SETPCAP`; [`keep_through_setuid`], then the ids; [`set`] last.
//! None of these allocates, so they may be called between `fork` and `exec`.

use std::io;

/// Names by number, as in linux/capability.h, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities, one bit each by the kernel's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Set(pub u64);

impl Set {
    /// No capability.
    pub const EMPTY: Set = Set(0);

    /// The capability of this name, without `CAP_`, in upper case; `None` where there is none.
    pub fn named(name: &str) -> Option<Set> {
        NAMES
            .iter()
            .position(|known| *known == name)
            .map(|number| Set(1 << number))
    }

    /// Whether all of `other` are in this set.
    pub const fn contains(self, other: Set) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those in either.
    #[must_use]
    pub const fn union(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    /// Those in both.
    #[must_use]
    pub const fn intersection(self, other: Set) -> Set {
        Set(self.0 & other.0)
    }

    /// Those in this one and not in `other`.
    #[must_use]
    pub const fn without(self, other: Set) -> Set {
        Set(self.0 & !other.0)
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names, with `CAP_`, lowest number first; one that has no name here is `CAP_<number>`.
    pub fn names(self) -> impl Iterator<Item = String> {
        (0..64)
            .filter(move |number| self.0 & (1 << number) != 0)
            .map(|number| match NAMES.get(number) {
                Some(name) => format!("CAP_{name}"),
                None => format!("CAP_{number}"),
            })
    }
}

/// The five sets of a thread (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sets {
    /// What can ever be gained.
    pub bounding: Set,
    /// What is checked.
    pub effective: Set,
    /// What survives into an executed file that inherits.
    pub inheritable: Set,
    /// What may be made effective.
    pub permitted: Set,
    /// What survives `execve` without privileges in the file.
    pub ambient: Set,
}

impl Sets {
    /// These sets without what `own`, the caller's, cannot give or this kernel does not have, and beside them what
    /// was taken out: the OCI runtime spec has a runtime warn of it and go on. Each set is also made to obey the
    /// kernel's rules (effective within permitted, ambient within permitted and inheritable).
    pub fn within(&self, own: &Sets) -> (Sets, Set) {
        let bounding = self.bounding.intersection(own.bounding);
        let permitted = self.permitted.intersection(own.permitted);
        let inheritable = self
            .inheritable
            .intersection(own.permitted.union(own.inheritable))
            .intersection(own.bounding);
        let sets = Sets {
            bounding,
            effective: self.effective.intersection(permitted),
            inheritable,
            permitted,
            ambient: self.ambient.intersection(permitted).intersection(inheritable),
        };
        let lost = [
            self.bounding.without(sets.bounding),
            self.effective.without(sets.effective),
            self.inheritable.without(sets.inheritable),
            self.permitted.without(sets.permitted),
            self.ambient.without(sets.ambient),
        ];
        (sets, lost.into_iter().fold(Set::EMPTY, Set::union))
    }
}

const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// One half of 32 capabilities; version 3 has two.
#[repr(C)]
#[derive(Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The sets of the calling thread. Capabilities that this kernel does not have are in none.
///
/// # Errors
/// The kernel's, none of which is expected.
pub fn current() -> io::Result<Sets> {
    current_among(Set(u64::MAX))
}

/// The same, but for the bounding and ambient sets of these alone: each takes a call for each capability.
///
/// # Errors
/// As [`current`].
pub fn current_among(wanted: Set) -> io::Result<Sets> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut halves = [Half::default(), Half::default()];
    // SAFETY: version 3 has the kernel write exactly two halves behind the pointer, which is what is there.
    if unsafe { libc::syscall(libc::SYS_capget, &header, halves.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let whole = |pick: fn(&Half) -> u32| Set(u64::from(pick(&halves[0])) | u64::from(pick(&halves[1])) << 32);
    let mut sets = Sets {
        effective: whole(|h| h.effective),
        permitted: whole(|h| h.permitted),
        inheritable: whole(|h| h.inheritable),
        ..Sets::default()
    };
    for number in (0..64).filter(|number| wanted.0 & (1 << number) != 0) {
        match prctl(libc::PR_CAPBSET_READ, number, 0) {
            Ok(answer) => sets.bounding.0 |= (answer as u64) << number,
            // The first number that the kernel does not have ends the list.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
        // Only what is inheritable can be ambient.
        if sets.inheritable.0 & (1 << number) != 0 {
            let ambient = prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_IS_SET as u64, number)?;
            sets.ambient.0 |= (ambient as u64) << number;
        }
    }
    Ok(sets)
}

/// Those of `set` that this kernel has.
pub fn of_kernel(set: Set) -> Set {
    let known = |number: &u64| prctl(libc::PR_CAPBSET_READ, *number, 0).is_ok();
    let wanted = (0..64).filter(|number| set.0 & (1 << number) != 0);
    Set(wanted.filter(known).fold(0, |all, number| all | 1 << number))
}

/// Takes everything that is not in `keep` out of the calling thread's bounding set, capabilities that are newer than
/// this program included. Needs `CAP_SETPCAP` unless there is nothing to take out.
///
/// # Errors
/// `EPERM` without the right.
pub fn drop_bounding(keep: Set) -> io::Result<()> {
    for number in (0..64).filter(|number| keep.0 & (1 << number) == 0) {
        match prctl(libc::PR_CAPBSET_DROP, number, 0) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => match prctl(libc::PR_CAPBSET_READ, number, 0) {
                // Without the right, what is not there need not go.
                Ok(0) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

/// Whether the permitted set survives the next change from user 0 to another (`PR_SET_KEEPCAPS`; `execve` clears it).
///
/// # Errors
/// `EPERM` where a secure bit forbids it.
pub fn keep_through_setuid(keep: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(keep), 0).map(drop)
}

/// Sets the permitted, effective, inheritable and ambient sets of the calling thread.
///
/// # Errors
/// `EPERM` for a capability that the thread does not have (see [`Sets::within`]).
pub fn set(sets: &Sets) -> io::Result<()> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let half = |shift: u32| Half {
        effective: (sets.effective.0 >> shift) as u32,
        permitted: (sets.permitted.0 >> shift) as u32,
        inheritable: (sets.inheritable.0 >> shift) as u32,
    };
    let halves = [half(0), half(32)];
    // SAFETY: version 3 has the kernel read exactly two halves behind the pointer, which is what is there.
    if unsafe { libc::syscall(libc::SYS_capset, &header, halves.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)?;
    for number in (0..64).filter(|number| sets.ambient.0 & (1 << number) != 0) {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, number)?;
    }
    Ok(())
}

fn prctl(option: libc::c_int, second: u64, third: u64) -> io::Result<libc::c_int> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used in this file take integers only; the kernel touches no memory of ours.
    let answer = unsafe {
        libc::prctl(
            option,
            second as libc::c_ulong,
            third as libc::c_ulong,
            zero,
            zero,
        )
    };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels_numbers() {
        assert_eq!(Set::named("CHOWN"), Some(Set(1)));
        assert_eq!(Set::named("SYS_ADMIN"), Some(Set(1 << 21)));
        assert_eq!(Set::named("CHECKPOINT_RESTORE"), Some(Set(1 << 40)));
        assert_eq!(Set::named("CAP_CHOWN"), None);
        let mixed = Set(1 << 1 | 1 << 63);
        assert_eq!(mixed.names().collect::<Vec<_>>(), ["CAP_DAC_OVERRIDE", "CAP_63"]);
    }

    #[test]
    fn what_cannot_be_given_is_told() {
        let own = Sets {
            bounding: Set(0b0111),
            permitted: Set(0b0011),
            ..Sets::default()
        };
        let asked = Set(0b1111);
        let wanted = Sets {
            bounding: asked,
            effective: asked,
            inheritable: Set(0b1),
            permitted: asked,
            ambient: Set(0b11),
        };
        let (given, lost) = wanted.within(&own);
        assert_eq!(given.bounding, Set(0b0111));
        assert_eq!(given.permitted, Set(0b0011));
        assert_eq!(given.effective, Set(0b0011));
        assert_eq!(given.inheritable, Set(0b1));
        assert_eq!(given.ambient, Set(0b1));
        assert_eq!(lost, Set(0b1110));
    }

    #[test]
    fn the_current_sets_agree_with_proc() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = |name: &str| {
            let text = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
            Set(u64::from_str_radix(text.trim(), 16).unwrap())
        };
        let sets = current().unwrap();
        assert_eq!(sets.bounding, line("CapBnd:"));
        assert_eq!(sets.effective, line("CapEff:"));
        assert_eq!(sets.permitted, line("CapPrm:"));
        assert_eq!(sets.inheritable, line("CapInh:"));
        assert_eq!(sets.ambient, line("CapAmb:"));
        let some = Set(0b101);
        let among = current_among(some).unwrap();
        assert_eq!(among.bounding, sets.bounding.intersection(some));
        assert_eq!(among.permitted, sets.permitted);
        assert_eq!(of_kernel(Set(1 << 63 | 1)), Set(1));
    }
}

#[cfg(test)]
mod root_tests {
    use super::*;

    #[test]
    fn sets_are_applied() {
        // Capabilities belong to the thread, so a thread of its own can lose them.
        let kept = Set::named("CHOWN").unwrap().union(Set::named("KILL").unwrap());
        let chown = Set::named("CHOWN").unwrap();
        let applied = std::thread::spawn(move || {
            drop_bounding(kept).expect("dropping from the bounding set needs root");
            let sets = Sets {
                bounding: kept,
                permitted: kept,
                effective: kept,
                inheritable: chown,
                ambient: chown,
            };
            set(&sets).unwrap();
            (sets, current().unwrap())
        });
        let (wanted, got) = applied.join().unwrap();
        assert_eq!(wanted, got);
    }
}
