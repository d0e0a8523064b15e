//! The lists that every container begins with, as docker 29 and podman 5 have them.

use oci_spec::runtime::Capability;

/// Where programs are looked for when neither image nor user says.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Podman's, which are docker's without `AUDIT_WRITE`, `MKNOD` and `NET_RAW`.
pub(super) const CAPABILITIES: [Capability; 11] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// As many processes and threads as podman lets a container have.
pub(super) const PROCESSES: i64 = 2048;

/// Hidden: they show the host, or let a container work on it. Both peers' lists together.
pub(crate) const MASKED: [&str; 14] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// Read-only.
pub(crate) const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Mounts, in order: destination, type, source, options. `/dev/shm` gets its size besides.
pub(super) const MOUNTS: [(&str, &str, &str, &str); 7] = [
    ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    (
        "/dev",
        "tmpfs",
        "tmpfs",
        "nosuid,noexec,strictatime,mode=755,size=65536k",
    ),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
    ),
    ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777"),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    (
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        "nosuid,noexec,nodev,relatime,ro",
    ),
];

/// Size of `/dev/shm` in bytes.
pub(super) const SHM_SIZE: u64 = 64 << 20;

/// Device rules after "nothing": `type major:minor rights`. Any node may be made, none of those opened.
pub(super) const DEVICES: [(char, Option<i64>, Option<i64>, &str); 12] = [
    ('b', None, None, "m"),
    ('c', None, None, "m"),
    // null, zero, full, random, urandom, tty, console
    ('c', Some(1), Some(3), "rwm"),
    ('c', Some(1), Some(5), "rwm"),
    ('c', Some(1), Some(7), "rwm"),
    ('c', Some(1), Some(8), "rwm"),
    ('c', Some(1), Some(9), "rwm"),
    ('c', Some(5), Some(0), "rwm"),
    ('c', Some(5), Some(1), "rwm"),
    // ptmx and the terminals made with it
    ('c', Some(5), Some(2), "rwm"),
    ('c', Some(136), None, "rwm"),
    ('c', Some(137), None, "rwm"),
];

/// A kernel parameter of a network namespace of the container's own: low ports need no capability there.
pub(super) const LOW_PORTS: (&str, &str) = ("net.ipv4.ip_unprivileged_port_start", "0");

/// Another one: which groups may `ping`.
pub(super) const PING_GROUPS: &str = "net.ipv4.ping_group_range";

/// The last group that it takes.
pub(super) const LAST_GROUP: u32 = i32::MAX as u32;

/// Kernel parameters of an IPC namespace (ipc_namespaces(7)); those below `fs.mqueue.` too.
pub(crate) const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];
