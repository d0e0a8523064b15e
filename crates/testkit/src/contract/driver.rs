//! Who makes an overlay real: the kernel, or the program's own server.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mount::Mount;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

/// One way to mount an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// The kernel's overlayfs: the reference.
    Kernel,
    /// `strata mount --driver fuse`, by the program at this path.
    Fuse(PathBuf),
    /// The same, served over io_uring: the kernel's switch is on for the moment of each mount.
    FuseOverIoUring(PathBuf),
}

/// The driver that a case looks at, and the one that a tree is handed to in between.
#[derive(Debug, Clone)]
pub struct Drivers {
    /// What is judged.
    pub judged: Driver,
    /// What must see the same trees.
    pub other: Driver,
}

/// What an overlay is made of.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// Lower directories, topmost first.
    pub lower: Vec<PathBuf>,
    /// Upper and work directory.
    pub writable: Option<(PathBuf, PathBuf)>,
    /// Further options, as mount(8) takes them.
    pub options: Vec<String>,
}

/// Why there is no mount.
#[derive(Debug)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Drivers {
    /// The kernel's overlay alone, remounted by itself.
    pub fn kernel_alone() -> Drivers {
        Drivers {
            judged: Driver::Kernel,
            other: Driver::Kernel,
        }
    }

    /// The kernel's overlay, whose trees the program's server must see alike.
    pub fn kernel(program: impl Into<PathBuf>) -> Drivers {
        Drivers {
            judged: Driver::Kernel,
            other: Driver::Fuse(program.into()),
        }
    }

    /// The program's server, whose trees the kernel must see alike.
    pub fn fuse(program: impl Into<PathBuf>) -> Drivers {
        Drivers {
            judged: Driver::Fuse(program.into()),
            other: Driver::Kernel,
        }
    }
}

impl Drivers {
    /// As [`Drivers::fuse`], over io_uring.
    pub fn fuse_over_io_uring(program: impl Into<PathBuf>) -> Drivers {
        Drivers {
            judged: Driver::FuseOverIoUring(program.into()),
            other: Driver::Kernel,
        }
    }
}

/// Runs `act` while the kernel's switch for FUSE over io_uring is on.
pub fn with_io_uring<T>(act: impl FnOnce() -> T) -> T {
    let _switch = Switch::on();
    act()
}

/// The kernel's switch for FUSE over io_uring, on until this is dropped. It concerns mounts made meanwhile, anybody's;
/// two that turn it on wait for each other.
struct Switch {
    file: File,
    before: String,
}

impl Switch {
    const PATH: &str = "/sys/module/fuse/parameters/enable_uring";

    fn on() -> Switch {
        let open = || {
            let file = File::options().read(true).write(true).open(Switch::PATH)?;
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
            let before = std::fs::read_to_string(Switch::PATH)?;
            std::fs::write(Switch::PATH, "Y")?;
            std::io::Result::Ok(Switch { file, before })
        };
        open().unwrap_or_else(|error| {
            panic!(
                "FUSE over io_uring needs Linux 6.14 and {}: {error}",
                Switch::PATH
            )
        })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = std::fs::write(Switch::PATH, self.before.trim());
        let _ = rustix::fs::flock(&self.file, rustix::fs::FlockOperation::Unlock);
    }
}

impl Driver {
    /// Whether it is the program's server.
    pub fn is_fuse(&self) -> bool {
        !matches!(self, Driver::Kernel)
    }

    /// Mounts at the directory `at`.
    pub fn mount(&self, layers: &Layers, at: &Path) -> Result<(), Refused> {
        let lower: Vec<&Path> = layers.lower.iter().map(PathBuf::as_path).collect();
        let writable = layers
            .writable
            .as_ref()
            .map(|(upper, work)| (upper.as_path(), work.as_path()));
        let options: Vec<&str> = layers.options.iter().map(String::as_str).collect();
        let value = Mount::overlay(&lower, writable, &options);
        match self {
            Driver::Kernel => mount::attach(&value, at).map_err(|error| Refused(format!("{error}"))),
            Driver::Fuse(program) => {
                let mut command = Command::new(program);
                command.args(["mount", "--driver", "fuse", "-o", &value.options.join(",")]);
                run(command.arg(at)).map(drop)
            }
            Driver::FuseOverIoUring(program) => {
                let mut command = Command::new(program);
                command.args(["mount", "-v", "--driver", "fuse", "-o", &value.options.join(",")]);
                let switch = Switch::on();
                let said = run(command.arg(at));
                drop(switch);
                let said = said?;
                assert!(said.contains("over io_uring"), "another way was taken: {said}");
                Ok(())
            }
        }
    }

    /// Unmounts what lies at `at`. A program that another test starts holds our descriptors for a moment (from fork to
    /// exec), so "busy" is believed only when it lasts.
    pub fn unmount(&self, at: &Path) -> Result<(), Refused> {
        let patience = Instant::now() + Duration::from_secs(5);
        loop {
            let ended = match self {
                Driver::Kernel => rustix::mount::unmount(at, UnmountFlags::NOFOLLOW)
                    .map_err(|errno| (errno == Errno::BUSY, Refused(format!("umount: {errno}")))),
                Driver::Fuse(program) | Driver::FuseOverIoUring(program) => {
                    let ended = run(Command::new(program).arg("umount").arg(at));
                    ended
                        .map(drop)
                        .map_err(|error| (error.0.to_lowercase().contains("busy"), error))
                }
            };
            match ended {
                Ok(()) => return Ok(()),
                Err((true, _)) if Instant::now() < patience => std::thread::sleep(Duration::from_millis(20)),
                Err((_, error)) => return Err(error),
            }
        }
    }
}

/// Runs the program; what it said on its standard error.
fn run(command: &mut Command) -> Result<String, Refused> {
    // To a file, not a pipe: a server that stays in the background may hold it open.
    let said = tempfile::NamedTempFile::new().expect("a temporary file");
    let errors = said.reopen().expect("a temporary file");
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .status()
        .expect("the program starts");
    let said = std::fs::read_to_string(said.path()).unwrap_or_default();
    if status.success() {
        return Ok(said);
    }
    let words: Vec<OsString> = command.get_args().map(OsString::from).collect();
    Err(Refused(format!("strata {words:?}: {status}: {said}")))
}
