//! The system call ABIs that a machine can enter, and the numbers of calls in each.

use oci_spec::runtime::Arch;

use super::numbers::ROWS;

/// One way into the kernel: it has its own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Abi {
    /// 64-bit x86.
    X86_64,
    /// 64-bit x86 with 32-bit pointers; the same entry, bit 30 of the number set.
    X32,
    /// 32-bit x86, which a 64-bit program enters too by `int 0x80`.
    I386,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM.
    Arm,
}

/// Bit 30 marks an x32 call.
pub(super) const X32_BIT: u32 = 0x4000_0000;

impl Abi {
    /// The ABI this program was built for, or `None` on a machine whose calls strata does not know.
    pub const fn native() -> Option<Abi> {
        if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
            Some(Abi::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Abi::Aarch64)
        } else {
            None
        }
    }

    /// All that a program on a machine of this one's kernel can enter, this one first.
    pub fn reachable(self) -> &'static [Abi] {
        match self {
            Abi::X86_64 | Abi::X32 => &[Abi::X86_64, Abi::X32, Abi::I386],
            Abi::I386 => &[Abi::I386],
            Abi::Aarch64 => &[Abi::Aarch64, Abi::Arm],
            Abi::Arm => &[Abi::Arm],
        }
    }

    /// The OCI runtime spec's name of it.
    pub fn arch(self) -> Arch {
        match self {
            Abi::X86_64 => Arch::ScmpArchX86_64,
            Abi::X32 => Arch::ScmpArchX32,
            Abi::I386 => Arch::ScmpArchX86,
            Abi::Aarch64 => Arch::ScmpArchAarch64,
            Abi::Arm => Arch::ScmpArchArm,
        }
    }

    /// Go's name of the machine, which profiles use in `includes` and `excludes`.
    pub(super) fn goarch(self) -> &'static str {
        match self {
            Abi::X86_64 | Abi::X32 => "amd64",
            Abi::I386 => "386",
            Abi::Aarch64 => "arm64",
            Abi::Arm => "arm",
        }
    }

    /// `AUDIT_ARCH_*`, which the kernel puts beside the number (linux/audit.h).
    pub(super) fn audit_arch(self) -> u32 {
        match self {
            Abi::X86_64 | Abi::X32 => 0xc000_003e,
            Abi::I386 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
        }
    }

    /// Whether an argument is a whole register of 64 bits.
    pub(super) fn wide(self) -> bool {
        matches!(self, Abi::X86_64 | Abi::Aarch64)
    }

    /// The number of the call in row `row`, as the kernel gives it to a filter.
    pub(super) fn number(self, row: usize) -> Option<u32> {
        let number = ROWS[row].1[self as usize];
        let bit = if self == Abi::X32 { X32_BIT } else { 0 };
        u32::try_from(number).ok().map(|n| n | bit)
    }
}

/// The row of a call by its name.
pub(super) fn row(name: &str) -> Option<usize> {
    // The one call that has two names.
    let name = if name == "arm_sync_file_range" {
        "sync_file_range2"
    } else {
        name
    };
    ROWS.binary_search_by(|(known, _)| (*known).cmp(name)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(abi: Abi, name: &str) -> Option<u32> {
        abi.number(row(name)?)
    }

    #[test]
    fn rows_are_sorted_and_numbers_are_once() {
        assert!(ROWS.is_sorted_by(|a, b| a.0 < b.0));
        for abi in [Abi::X86_64, Abi::X32, Abi::I386, Abi::Aarch64, Abi::Arm] {
            let mut numbers: Vec<u32> = (0..ROWS.len()).filter_map(|row| abi.number(row)).collect();
            numbers.sort_unstable();
            assert!(numbers.is_sorted_by(|a, b| a < b), "{abi:?}");
        }
    }

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(number(Abi::X86_64, "execve"), Some(59));
        assert_eq!(number(Abi::X32, "execve"), Some(X32_BIT | 520));
        assert_eq!(number(Abi::X32, "read"), Some(X32_BIT));
        assert_eq!(number(Abi::I386, "execve"), Some(11));
        assert_eq!(number(Abi::I386, "socketcall"), Some(102));
        assert_eq!(number(Abi::Aarch64, "execve"), Some(221));
        assert_eq!(number(Abi::Aarch64, "open"), None);
        assert_eq!(number(Abi::Arm, "set_tls"), Some(0xf_0005));
        assert_eq!(number(Abi::X86_64, "set_tls"), None);
        for abi in [Abi::X86_64, Abi::I386, Abi::Aarch64, Abi::Arm] {
            assert_eq!(number(abi, "clone3"), Some(435));
        }
        assert_eq!(row("no_such_call"), None);
    }

    /// The C library's constants come from other headers than the table.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn numbers_agree_with_the_c_library() {
        fn check(name: &str, value: libc::c_long) {
            let name = name.strip_prefix("SYS_").unwrap();
            assert_eq!(number(Abi::X86_64, name), Some(value as u32), "{name}");
        }
        macro_rules! all { ($($name:ident)*) => { $(check(stringify!($name), libc::$name);)* } }
        all!(SYS_read SYS_rt_sigreturn SYS_socket SYS_clone SYS_personality SYS_arch_prctl SYS_mount SYS_ptrace
            SYS_set_mempolicy SYS_openat SYS_unshare SYS_setns SYS_seccomp SYS_bpf SYS_userfaultfd SYS_statx
            SYS_io_uring_setup SYS_fsopen SYS_close_range SYS_openat2 SYS_memfd_secret SYS_futex_waitv
            SYS_fchmodat2 SYS_mseal);
    }
}
