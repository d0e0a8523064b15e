//! Who makes an overlay real: the kernel, or the program's own server.

use std::ffi::OsString;
use std::fmt;
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

impl Driver {
    /// Whether it is the program's server.
    pub fn is_fuse(&self) -> bool {
        matches!(self, Driver::Fuse(_))
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
                run(command.arg(at))
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
                Driver::Fuse(program) => {
                    let ended = run(Command::new(program).arg("umount").arg(at));
                    ended.map_err(|error| (error.0.to_lowercase().contains("busy"), error))
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

fn run(command: &mut Command) -> Result<(), Refused> {
    // To a file, not a pipe: a server that stays in the background may hold it open.
    let said = tempfile::NamedTempFile::new().expect("a temporary file");
    let errors = said.reopen().expect("a temporary file");
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .status()
        .expect("the program starts");
    if status.success() {
        return Ok(());
    }
    let words: Vec<OsString> = command.get_args().map(OsString::from).collect();
    let said = std::fs::read_to_string(said.path()).unwrap_or_default();
    Err(Refused(format!("strata {words:?}: {status}: {said}")))
}
