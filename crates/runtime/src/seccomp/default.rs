//! The filter of a container that asks for nothing else: strata's own list, no weaker than docker's and podman's.
//!
//! The default action is `ENOSYS`, so that a program that tries a call newer than the list falls back to an older
//! one, as on an older kernel. Calls that are known and withheld answer `EPERM`.
//!
//! What differs from the peers, always towards less:
//! - `socket` takes the families of a list, in which `AF_VSOCK` (to the hypervisor) and `AF_ALG` (the kernel's
//!   cryptography, a large surface that OpenSSL and others do without) are not.
//! - `socketcall`, the old i386 door whose arguments a filter cannot see, makes no sockets: otherwise any 64-bit
//!   program could go round the list by `int 0x80`. C libraries have not needed it since Linux 4.3.
//! - `vmsplice` and io_uring are withheld, and `io_pgetevents`, which podman withholds and docker does not.

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Op, LinuxSyscall,
};

const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSYS: u32 = 38;

/// Calls that every container may make, by subject.
const ALLOWED: &[&str] = &[
    // Opening, reading and writing.
    "close close_range copy_file_range creat dup dup2 dup3 fallocate fcntl fcntl64 fdatasync flock fsync ftruncate
     ftruncate64 _llseek lseek open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead
     readv sendfile sendfile64 splice sync sync_file_range syncfs tee truncate truncate64 write writev fadvise64
     fadvise64_64 cachestat ioctl name_to_handle_at",
    // Names and metadata.
    "access chdir chmod chown chown32 faccessat faccessat2 fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat
     fstat fstat64 fstatat64 fstatfs fstatfs64 futimesat getcwd getdents getdents64 lchown lchown32 link linkat
     listmount lstat lstat64 mkdir mkdirat mknod mknodat newfstatat readlink readlinkat rename renameat renameat2
     rmdir stat stat64 statfs statfs64 statmount statx symlink symlinkat umask unlink unlinkat utime utimensat
     utimensat_time64 utimes",
    // Extended attributes.
    "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr
     lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat",
    // Waiting for descriptors, watching files.
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
     eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch _newselect pipe pipe2 poll
     ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4 timerfd_create timerfd_gettime
     timerfd_gettime64 timerfd_settime timerfd_settime64",
    // Asynchronous input and output of the old kind.
    "io_cancel io_destroy io_getevents io_setup io_submit",
    // Memory.
    "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2
     mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages",
    // Processes and threads.
    "execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
     get_robust_list get_thread_area getcpu getpgid getpgrp getpid getppid getpriority getrlimit getrusage getsid
     gettid ioprio_get ioprio_set kill pause pidfd_open pidfd_send_signal prctl prlimit64 process_mrelease rseq
     sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
     sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
     sched_setparam sched_setscheduler sched_yield set_robust_list set_thread_area set_tid_address setpgid
     setpriority setrlimit setsid tgkill tkill ugetrlimit uprobe uretprobe vfork wait4 waitid waitpid",
    // Tracing one's own: since Linux 4.8 a tracer cannot get round a filter.
    "process_vm_readv process_vm_writev ptrace",
    // Users, groups, rights, and giving some up.
    "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32
     getresuid getresuid32 getuid getuid32 landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp
     setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid
     setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32",
    // Signals.
    "alarm restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
     rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn",
    // Time. Reading a clock's adjustment needs adjtimex; setting it needs CAP_SYS_TIME, which the kernel asks for.
    "adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
     clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete
     timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 times",
    // System V and POSIX communication.
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
     mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget",
    // Sockets that exist; `socket` itself stands below.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64
     recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketpair",
    // The machine.
    "getrandom sysinfo uname",
    // One architecture's own.
    "arch_prctl modify_ldt arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
];

/// Calls that come with a capability, and answer `EPERM` without it.
const BY_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules
         lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr perf_event_open quotactl
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "ioperm iopl"),
    (
        Capability::SysTime,
        "clock_settime clock_settime64 settimeofday stime",
    ),
    (Capability::SysTtyConfig, "vhangup"),
    (
        Capability::SysNice,
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Calls that no capability brings: not isolated per container, or too large a surface.
const WITHHELD: &str = "add_key io_pgetevents io_pgetevents_time64 io_uring_enter io_uring_register io_uring_setup kexec_file_load kexec_load keyctl
     migrate_pages move_pages nfsservctl pivot_root request_key swapoff swapon sysfs _sysctl uselib userfaultfd ustat
     vm86 vm86old vmsplice";

/// Personalities that change nothing but appearances: Linux, 32-bit Linux, each with a 2.6 version, and the question
/// which it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Turns address randomisation off, as debuggers and `setarch -R` try to.
const ADDR_NO_RANDOMIZE: u64 = 0x4_0000;

/// Every `CLONE_NEW*` that a clone's flags can hold: cgroup, UTS, IPC, user, PID, network, mount.
const NAMESPACES: [u64; 7] = [
    0x0200_0000,
    0x0400_0000,
    0x0800_0000,
    0x1000_0000,
    0x2000_0000,
    0x4000_0000,
    0x0002_0000,
];

const AF_NETLINK: u64 = 16;
const NETLINK_AUDIT: u64 = 9;
/// Families of sockets (linux/socket.h) that every container may have: below the first number, and these. Left out are
/// 38 (`AF_ALG`) and 40 (`AF_VSOCK`), and those that no kernel of this decade has. A rule on the family alone must not have another
/// action than to allow: libseccomp, under `--runtime`, would find them in conflict for i386's `socketcall`.
const FAMILIES_BELOW: u64 = 12;
const FAMILIES: [u64; 20] = [
    15, 17, 21, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44, 45,
];

/// `SYS_SOCKET` of socketcall(2).
const SOCKETCALL_SOCKET: u64 = 1;

/// The default filter for a container that may ever gain `capabilities` (its bounding set).
pub fn default_profile(capabilities: &HashSet<Capability>) -> LinuxSeccomp {
    let has = |capability: &Capability| capabilities.contains(capability);
    let words = |text: &'static str| text.split_ascii_whitespace();
    let mut rules = Vec::new();

    let granted: HashSet<&str> = BY_CAPABILITY
        .iter()
        .filter(|(capability, _)| has(capability))
        .flat_map(|(_, calls)| words(calls))
        .collect();
    let refused = |call: &&str| !granted.contains(call);
    let mut allowed: Vec<&str> = ALLOWED.iter().flat_map(|calls| words(calls)).collect();
    allowed.extend(
        BY_CAPABILITY
            .iter()
            .filter(|(capability, _)| has(capability))
            .flat_map(|(_, calls)| words(calls)),
    );
    let mut withheld: Vec<&str> = words(WITHHELD).collect();
    withheld.extend(
        BY_CAPABILITY
            .iter()
            .flat_map(|(_, calls)| words(calls))
            .filter(refused),
    );

    if has(&Capability::SysAdmin) {
        allowed.extend(["clone", "clone3"]);
    } else {
        // New namespaces are for the administrator. The flags of clone3 lie in memory, out of a filter's sight, so
        // the C library is made to use clone.
        let none = NAMESPACES.iter().fold(0, |all, flag| all | flag);
        rules.push(rule(
            &["clone"],
            Action::ScmpActAllow,
            None,
            &[arg(0, Op::ScmpCmpMaskedEq, none, 0)],
        ));
        for flag in NAMESPACES {
            let set = arg(0, Op::ScmpCmpMaskedEq, flag, flag);
            rules.push(rule(&["clone"], Action::ScmpActErrno, Some(EPERM), &[set]));
        }
        rules.push(rule(&["clone3"], Action::ScmpActErrno, Some(ENOSYS), &[]));
    }
    allowed.sort_unstable();
    allowed.dedup();
    withheld.sort_unstable();
    withheld.dedup();
    rules.insert(0, rule(&allowed, Action::ScmpActAllow, None, &[]));
    rules.insert(1, rule(&withheld, Action::ScmpActErrno, Some(EPERM), &[]));

    let equal = |index, value| arg(index, Op::ScmpCmpEq, value, 0);
    for persona in PERSONALITIES {
        rules.push(rule(
            &["personality"],
            Action::ScmpActAllow,
            None,
            &[equal(0, persona)],
        ));
    }
    rules.push(rule(
        &["personality"],
        Action::ScmpActErrno,
        Some(EPERM),
        &[equal(0, ADDR_NO_RANDOMIZE)],
    ));

    rules.push(rule(
        &["socket"],
        Action::ScmpActAllow,
        None,
        &[arg(0, Op::ScmpCmpLt, FAMILIES_BELOW, 0)],
    ));
    for family in FAMILIES {
        rules.push(rule(&["socket"], Action::ScmpActAllow, None, &[equal(0, family)]));
    }
    if has(&Capability::AuditWrite) {
        rules.push(rule(
            &["socket"],
            Action::ScmpActAllow,
            None,
            &[equal(0, AF_NETLINK)],
        ));
    } else {
        // Programs that log to the audit system (sudo, sshd) go on where there is none, and fail where they may not.
        let audit = equal(2, NETLINK_AUDIT);
        let other = arg(2, Op::ScmpCmpNe, NETLINK_AUDIT, 0);
        rules.push(rule(
            &["socket"],
            Action::ScmpActErrno,
            Some(EINVAL),
            &[equal(0, AF_NETLINK), audit],
        ));
        rules.push(rule(
            &["socket"],
            Action::ScmpActAllow,
            None,
            &[equal(0, AF_NETLINK), other],
        ));
    }
    let existing = arg(0, Op::ScmpCmpNe, SOCKETCALL_SOCKET, 0);
    rules.push(rule(&["socketcall"], Action::ScmpActAllow, None, &[existing]));

    let architectures = match cfg!(target_arch = "aarch64") {
        true => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        false => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
    };
    let mut seccomp = LinuxSeccomp::default();
    seccomp
        .set_default_action(Action::ScmpActErrno)
        .set_default_errno_ret(Some(ENOSYS))
        .set_architectures(Some(architectures))
        .set_syscalls(Some(rules));
    seccomp
}

fn rule(names: &[&str], action: Action, errno: Option<u32>, args: &[LinuxSeccompArg]) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect());
    rule.set_action(action).set_errno_ret(errno);
    if !args.is_empty() {
        rule.set_args(Some(args.to_vec()));
    }
    rule
}

fn arg(index: usize, op: Op, value: u64, second: u64) -> LinuxSeccompArg {
    let arg = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    let arg = if op == Op::ScmpCmpMaskedEq {
        arg.value_two(second)
    } else {
        arg
    };
    // Every field has a default: there is nothing to be missing.
    arg.build().unwrap_or_default()
}
