//! [`ContainerOptions`]: everything a user can ask of one container, as one plain value.

use std::path::PathBuf;

use oci_spec::runtime::PosixRlimit;
use serde::{Deserialize, Serialize};

use super::devices::DeviceOption;
use super::health::HealthOptions;
use super::mounts::MountOption;
use super::namespaces::NamespaceOption;
use super::security::{CapabilityOption, LabelOption};
use super::userns::UserNamespace;
use super::volumes::VolumeOption;

/// What a user asks of a container, beyond what its image says. `Default` is what `strata run IMAGE` asks: nothing.
///
/// Made by a command line from the parsers beside it, or by a program directly; `spec::build` makes the OCI spec of
/// it and of the image's configuration. It is also what a store keeps of a container, to make the spec anew at each
/// start: fields may be added, and are read as their default from what was kept before.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerOptions {
    /// The command and its arguments; empty for the image's.
    pub command: Vec<String>,
    /// Instead of the image's entrypoint, whose command is then not used either; an empty list clears both.
    pub entrypoint: Option<Vec<String>>,
    /// Variables over the image's; `None` takes one out.
    pub env: Vec<(String, Option<String>)>,
    /// Working directory in the container; the image's, or `/`.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`, by name or number; the image's, or root.
    pub user: Option<String>,
    /// Further groups, by name or number.
    pub group_add: Vec<String>,
    /// Host name. Without one the container has none of its own to set.
    pub hostname: Option<String>,
    /// The process gets a terminal.
    pub tty: bool,
    /// An init process that reaps orphans and forwards signals is process 1.
    pub init: bool,
    /// Mounts, in the user's order.
    pub mounts: Vec<MountOption>,
    /// Volumes, in the user's order.
    pub volumes: Vec<VolumeOption>,
    /// Devices of the host.
    pub devices: Vec<DeviceOption>,
    /// The root is read-only.
    pub read_only: bool,
    /// Capabilities over the default.
    pub cap_add: Vec<CapabilityOption>,
    /// Capabilities under the default.
    pub cap_drop: Vec<CapabilityOption>,
    /// Every right that the caller has: capabilities, devices, no filter, nothing hidden.
    pub privileged: bool,
    /// Set-user-ID programs and file capabilities give nothing.
    pub no_new_privileges: bool,
    /// Which system call filter.
    pub seccomp: SeccompChoice,
    /// AppArmor profile, of a privileged container too, or `unconfined`. Unasked it is [`crate::spec::Confinement`]'s.
    pub apparmor: Option<String>,
    /// What is asked of its SELinux labels.
    pub label: LabelOptions,
    /// Paths to hide beyond the default ones.
    pub mask: Vec<String>,
    /// Paths not to hide and not to make read-only, as the user gave them.
    pub unmask: Unmask,
    /// Kernel parameters of the container's namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Resource limits of the process; a later one of the same kind wins.
    pub ulimits: Vec<PosixRlimit>,
    /// Size of `/dev/shm` in bytes; 64 MiB.
    pub shm_size: Option<u64>,
    /// Bytes on disk that the container's writable directory may take; any number. The store keeps the limit, and the
    /// default filter sees that nobody inside leaves it.
    pub storage_size: Option<u64>,
    /// Limits of the container's cgroup.
    pub resources: ResourceOptions,
    /// The cgroup that the container's is made in (see `cgroup` for where it is otherwise).
    pub cgroup_parent: Option<String>,
    /// Network namespace; private is loopback alone.
    pub network: NamespaceOption,
    /// Process namespace.
    pub pid: NamespaceOption,
    /// IPC namespace.
    pub ipc: NamespaceOption,
    /// Host name namespace.
    pub uts: NamespaceOption,
    /// User namespace.
    pub users: UserNamespace,
    /// Annotations, into the spec as they are.
    pub annotations: Vec<(String, String)>,
    /// How its health is asked for.
    pub health: HealthOptions,
    /// The signal that asks the process to end; the image's, or SIGTERM.
    pub stop_signal: Option<i32>,
    /// Permissions that files which the process makes do not get; 022.
    pub umask: Option<u32>,
    /// How gladly the kernel ends the process where memory is short, -1000 (never) to 1000; strata's own.
    pub oom_score_adj: Option<i32>,
}

/// What a user asks of a container's SELinux labels; `None` is as the machine's policy has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelOptions {
    /// It has none.
    pub disable: bool,
    /// User of processes and files.
    pub user: Option<String>,
    /// Role of processes.
    pub role: Option<String>,
    /// Type of processes.
    pub kind: Option<String>,
    /// Type of files.
    pub file_kind: Option<String>,
    /// Level of processes and files.
    pub level: Option<String>,
}

impl LabelOptions {
    /// Adds one.
    pub fn ask(&mut self, asked: LabelOption) {
        match asked {
            LabelOption::Disable => self.disable = true,
            LabelOption::User(name) => self.user = Some(name),
            LabelOption::Role(name) => self.role = Some(name),
            LabelOption::Type(name) => self.kind = Some(name),
            LabelOption::FileType(name) => self.file_kind = Some(name),
            LabelOption::Level(level) => self.level = Some(level),
        }
    }

    /// What was asked, as `--security-opt` takes it.
    pub fn words(&self) -> Vec<String> {
        let part =
            |key: &str, value: &Option<String>| value.as_ref().map(|value| format!("label={key}:{value}"));
        let disable = self.disable.then(|| "label=disable".to_owned());
        let parts = [
            part("user", &self.user),
            part("role", &self.role),
            part("type", &self.kind),
            part("filetype", &self.file_kind),
            part("level", &self.level),
        ];
        disable.into_iter().chain(parts.into_iter().flatten()).collect()
    }
}

/// Limits of a container's cgroup; `None`, and what is not above zero, is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceOptions {
    /// Memory in bytes.
    pub memory: Option<i64>,
    /// Memory and swap together in bytes, `-1` for as much swap as there is. Without it, twice the memory, as docker
    /// has it, where the kernel counts swap.
    pub memory_swap: Option<i64>,
    /// Memory below which the kernel reclaims last, in bytes.
    pub memory_reservation: Option<i64>,
    /// CPU time in microseconds per period.
    pub cpu_quota: Option<i64>,
    /// That period in microseconds; `limits::CPU_PERIOD`.
    pub cpu_period: Option<u64>,
    /// Relative share of CPU time; 1024 is the ordinary one.
    pub cpu_shares: Option<u64>,
    /// CPUs to run on, as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to allocate from, as `0,1`.
    pub cpuset_mems: Option<String>,
    /// Number of tasks.
    pub pids_limit: Option<i64>,
    /// Relative share of block I/O, 10 to 1000.
    pub blkio_weight: Option<u16>,
}

impl ResourceOptions {
    /// These, but for what `over` asks for.
    pub fn overlaid(self, over: &ResourceOptions) -> ResourceOptions {
        let over = over.clone();
        ResourceOptions {
            memory: over.memory.or(self.memory),
            memory_swap: over.memory_swap.or(self.memory_swap),
            memory_reservation: over.memory_reservation.or(self.memory_reservation),
            cpu_quota: over.cpu_quota.or(self.cpu_quota),
            cpu_period: over.cpu_period.or(self.cpu_period),
            cpu_shares: over.cpu_shares.or(self.cpu_shares),
            cpuset_cpus: over.cpuset_cpus.or(self.cpuset_cpus),
            cpuset_mems: over.cpuset_mems.or(self.cpuset_mems),
            pids_limit: over.pids_limit.or(self.pids_limit),
            blkio_weight: over.blkio_weight.or(self.blkio_weight),
        }
    }
}

/// Which system call filter a container has.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub enum SeccompChoice {
    /// strata's default one; none for a privileged container.
    #[default]
    Default,
    /// strata's default one, for a privileged container too.
    Always,
    /// None.
    Unconfined,
    /// The text of a profile in docker's format, and where it came from for messages.
    Profile {
        /// Where the text came from.
        path: PathBuf,
        /// JSON.
        text: String,
    },
}

/// Which of the hidden and read-only paths are left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unmask {
    /// None.
    #[default]
    Nothing,
    /// Those at or below these paths.
    Paths(Vec<String>),
    /// All.
    Everything,
}
