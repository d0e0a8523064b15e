//! What helps when a container cannot be run.

use std::io::ErrorKind;

use engine::confine::ConfineError;
use engine::errors::Fault;
use engine::exec::ExecError;
use engine::run::{BaseError, RunError, SpecError, UsersError};
use mount::MountError;
use runtime::bundle::BundleError;
use runtime::control::Concern;
use runtime::{ExecError as Unstarted, StartError, spec};

use rustix::io::Errno;

use super::Explain;
use super::image::PLATFORMS;
use super::lifecycle::stuck;

impl Explain for BaseError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            BaseError::Store(fault) => Some(fault),
            BaseError::Pull(error) => error.fault(),
            BaseError::Find(error) => error.fault(),
            BaseError::Blob { source, .. } => source.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            BaseError::Missing(name) => {
                format!("pull it with strata pull {name}, or load it with strata load")
            }
            BaseError::OtherPlatform { built, .. } => {
                format!("take the one that is there with --platform {built}")
            }
            BaseError::Platform(_) => PLATFORMS.to_owned(),
            BaseError::Config { .. } => "the image cannot be run here; have it built again".to_owned(),
            BaseError::HostView => "run an image, or name a directory with --rootfs".to_owned(),
            BaseError::Directory { .. } => "name a directory that holds a root file system".to_owned(),
            BaseError::Find(error) => return error.hint(),
            BaseError::Pull(error) => {
                let hint = error.hint()?;
                match hint.contains("--plain-http") {
                    // Which `run` does not have.
                    true => "if it speaks plain http: strata pull --plain-http, or list it as plain_http in the configuration".to_owned(),
                    false => hint,
                }
            }
            BaseError::Blob { source, .. } => return source.hint(),
            _ => return None,
        })
    }
}

impl Explain for RunError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            RunError::Container(error) => error.fault(),
            RunError::Base(error) => error.fault(),
            RunError::Volumes(error) => error.fault(),
            RunError::Network(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            RunError::Container(error) => return error.hint(),
            RunError::Base(error) => return error.hint(),
            RunError::Volumes(error) => return error.hint(),
            RunError::Network(error) => return error.hint(),
            RunError::Users(error) => return Some(users_hint(error).to_owned()),
            RunError::Confine(error) => match **error {
                ConfineError::Program { .. } | ConfineError::Profile { .. } => {
                    "--security-opt apparmor=unconfined does without"
                }
                ConfineError::Machines(_) => {
                    "leave z and Z out and give it --security-opt label=disable, or mount a directory beneath it"
                }
                _ => "--security-opt label=disable does without",
            },
            RunError::State { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                "it belongs to another user: name one of this user's (--root, --state), or be root"
            }
            RunError::Start(StartError::Helper { source, .. })
                if source.raw_os_error() == Some(Errno::PERM.raw_os_error()) =>
            {
                PRIVILEGES
            }
            RunError::Start(StartError::Helper { source, .. })
                if source.kind() == ErrorKind::PermissionDenied =>
            {
                "it belongs to another user: name one of this user's (--root, --state), or be root"
            }
            RunError::State { .. } => {
                "the state lies where --state says, or STRATA_STATE, or the configuration file: name a directory there"
            }
            RunError::MissingLayer { .. } => super::REPAIR,
            RunError::Host(_) => {
                "it needs mknod(2), and a store on a file system that may lie above in an overlay (not on an overlay itself): --root names another"
            }
            RunError::Mount(MountError::TooManyLayers(_) | MountError::OptionsTooLong { .. }) => {
                "strata image squash makes one layer of an image's"
            }
            RunError::Mount(MountError::InUse(_)) => {
                "findmnt -t overlay,fuse.strata shows which: unmount that first"
            }
            RunError::Mount(MountError::Refused { .. }) => {
                "the store's file system cannot be mounted so (is it an overlay itself?): --driver fuse does without, --root names another"
            }
            RunError::Attend { .. } => {
                "somebody killed its supervisor: what runs goes on, strata ps shows it, strata rm -f ends it"
            }
            RunError::Start(StartError::Supervisor { .. }) => "nothing of it is left: run it again",
            RunError::Bundle(BundleError::Newer { .. }) => "use the strata that wrote it, or a newer one",
            RunError::Bundle(BundleError::Io { .. }) => {
                "the state lies where --state says, or STRATA_STATE, or the configuration file: see that it can be written"
            }
            RunError::Remove { .. } => "remove it with strata rm -f",
            RunError::Paused(_) => "strata unpause lets it go on",
            RunError::Running(_) => "strata attach shows what it prints, strata restart starts it anew",
            RunError::NoPlan(_) => "remove it with strata rm, and run it anew",
            RunError::LeftOver { .. } => "see what uses it: strata info, findmnt",
            RunError::Spec(error) => return Some(spec_hint(error)),
            RunError::Start(StartError::Setup { concern, .. }) => setup_hint(*concern),
            RunError::Start(StartError::CannotRun(message))
                if message.ends_with("capabilities that the container lacks") =>
            {
                "getcap tells which they are, --cap-add gives them to the container"
            }
            RunError::Start(StartError::CannotRun(_)) => {
                "see that it is executable, for this machine, and that its interpreter is in the image"
            }
            RunError::Start(StartError::NotFound(_)) => NOT_FOUND,
            _ => return None,
        };
        Some(hint.to_owned())
    }

    fn code(&self) -> Option<u8> {
        match self {
            RunError::Start(error) => Some(error.exit_code()),
            _ => None,
        }
    }
}

impl Explain for ExecError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            ExecError::Container(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            ExecError::Container(error) => return error.hint(),
            ExecError::NotRunning { .. } => "strata ps lists those that run",
            ExecError::Paused(name) => return Some(format!("let it go on first: strata unpause {name}")),
            ExecError::User(runtime::user::UserError::NotMapped { .. }) => NOT_MAPPED,
            ExecError::User(_) => {
                "names are looked up in the container's own /etc/passwd and /etc/group; numbers need no entry there"
            }
            ExecError::Exec { name, source } => match source {
                Unstarted::NoSupervisor(_) => {
                    return Some(format!(
                        "its supervisor was killed, or it has just ended; strata rm -f {name} removes what is left"
                    ));
                }
                Unstarted::Stuck(_) => return Some(stuck(name)),
                Unstarted::Start(StartError::CannotRun(_)) => {
                    "see that it is executable, for this machine, and that its interpreter is in the container"
                }
                Unstarted::Start(StartError::NotFound(_)) => NOT_FOUND,
                Unstarted::Start(StartError::Supervisor { .. }) => {
                    "a container that an older strata started is to be started again first"
                }
                Unstarted::Start(StartError::Setup { concern, .. }) => match concern {
                    Concern::Directory => "-w names a directory that is in the container",
                    Concern::RuntimeWords => {
                        "run it without --runtime to have strata exec, or use that runtime's own"
                    }
                    concern => setup_hint(*concern),
                },
                _ => return None,
            },
            _ => return None,
        };
        Some(hint.to_owned())
    }

    fn code(&self) -> Option<u8> {
        match self {
            ExecError::Exec {
                source: Unstarted::Start(error),
                ..
            } => Some(error.exit_code()),
            _ => None,
        }
    }
}

const PRIVILEGES: &str = "root here lacks rights that containers need (CAP_SYS_ADMIN and others): in a container, that one needs --privileged";

const NOT_MAPPED: &str = "a container has as many ids as --userns gives it; an ordinary user's has those that /etc/subuid and /etc/subgid give to the user, and otherwise one";

const NOT_FOUND: &str =
    "it is looked for in the container's root: a path as it is, a plain name by the PATH of its environment";

fn users_hint(error: &UsersError) -> &'static str {
    match error {
        UsersError::Nothing => {
            "put a line containers:FIRST:COUNT into both, of ids that nobody has, or userns_ids into the configuration"
        }
        UsersError::Exhausted(_) => {
            "auto:size= asks for fewer; strata ps -a lists containers, which keep theirs until they are removed"
        }
        UsersError::HostView => "leave --userns out, or run an image",
        UsersError::Driver => "--driver kernel does",
        UsersError::Unprivileged => "leave it out: its root is this user already",
        _ => "see that the state directory can be written: strata info",
    }
}

fn spec_hint(error: &SpecError) -> String {
    let hint = match error {
        SpecError::Joined { .. } => "strata ps -a lists all containers",
        SpecError::NotRunning { .. } => "strata ps lists those that run",
        SpecError::NoGateway => "give the address itself, or --network bridge",
        SpecError::User(runtime::user::UserError::NotMapped { .. }) => NOT_MAPPED,
        SpecError::User(_) => {
            "names are looked up in the image's own /etc/passwd and /etc/group; numbers need no entry there"
        }
        SpecError::Build(error) => match error {
            spec::SpecError::NoCommand(_) => "give one at the end of the line",
            spec::SpecError::Device(_) => {
                "name a device of this machine, as ls -l /dev shows them, or a directory that holds some"
            }
            spec::SpecError::Seccomp { .. } => {
                "give a profile as docker and podman take it (JSON), or unconfined"
            }
            spec::SpecError::CapabilityMissing(_) => "leave it out, or run strata with it",
            spec::SpecError::Conflict { .. } => "leave one of them out",
            spec::SpecError::MountTwice(_) => {
                "-v, --mount and --tmpfs name places in the container; each is taken once"
            }
            spec::SpecError::UnknownMachine => "--security-opt seccomp=unconfined runs it without a filter",
            spec::SpecError::Devices(_) => "see that /dev is mounted and can be read",
            spec::SpecError::Limit {
                flag: "--memory-swap",
                ..
            } => "give both, as --memory 512m --memory-swap 1g; -1 is as much swap as there is",
            spec::SpecError::Limit { .. } => "strata info tells what this machine has",
            spec::SpecError::Sysctl { .. } => {
                "a container has net.* (with a network of its own), fs.mqueue.*, and kernel.msg*, kernel.sem, kernel.shm* and kernel.domainname of its own"
            }
            _ => "strata run --help lists the flags and what they take",
        },
        _ => "strata run --help lists the flags and what they take",
    };
    hint.to_owned()
}

/// What may help where the container could not be made, by what of it is concerned.
pub(super) fn setup_hint(concern: Concern) -> &'static str {
    match concern {
        Concern::Mount => {
            "-v, --mount and --tmpfs say what is mounted where; both must be files, or both directories"
        }
        Concern::Device => {
            "--device names devices of this machine; of a directory, all that are in it are given"
        }
        Concern::Rlimit => {
            "a hard limit above strata's own needs CAP_SYS_RESOURCE; nofile is at most what sysctl fs.nr_open says"
        }
        Concern::Sysctl => "see that this kernel has it, and takes the value: ls /proc/sys",
        Concern::Directory => "-w names a directory of the container; one that is missing is made",
        Concern::Apparmor => {
            "--security-opt apparmor= takes a profile that this kernel has loaded, or unconfined"
        }
        Concern::Seccomp => "--security-opt seccomp= takes another profile, or unconfined",
        Concern::Namespace => {
            "strata info tells what this machine has; --network, --pid, --ipc and --uts choose"
        }
        Concern::Cgroup => {
            "strata info tells which control groups and limits this machine has; leave out the others. An ordinary user has them where systemd gives some: systemd-run --user --scope strata run …"
        }
        Concern::Hook => "the hooks are the bundle's: see what they print by themselves",
        Concern::RuntimeProgram => "--runtime names the program of an OCI runtime, such as crun or runc",
        Concern::RuntimeWords => {
            "its own words stand above; crun 1.8 runs on no machine with cgroup v1 and v2 side by side: runc does, and strata itself"
        }
        Concern::Root => {
            "/proc and /sys are mounted in plain directories alone: have the image built again with one there"
        }
        Concern::Interrupted => "nothing of it is left; run it again",
        _ => "strata run --help tells what each flag needs; strata info tells what this machine has",
    }
}
