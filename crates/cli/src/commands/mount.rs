//! `strata mount`, and the same as a helper of mount(8).

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use ::mount::MountError;
use fuse::Transport;

use super::{Context, Outcome};
use crate::failure::Failure;
use crate::overlay::{self, Asked};

/// Mount an overlay of directories
#[derive(Debug, Args)]
#[command(after_help = "\
Options are those of mount(8) for overlay: lowerdir=TOP:…:BOTTOM (a colon or comma in a path is written \\: or \\,),
upperdir=DIR, workdir=DIR, redirect_dir=on|follow|nofollow|off, index=on|off, metacopy=on|off, xino=…, userxattr,
volatile, fsync=volatile|auto|strict, and ro, nosuid, nodev, noexec, nosymfollow, noatime. nfs_export=on, verity=on|require,
uuid=on|off, sync, dirsync, lazytime and override_creds are the kernel's overlay's alone. Without upperdir the mount is
read-only. remount gives a mount that is there other attributes: -o remount,ro.

Example:  strata mount -o lowerdir=/layers/2:/layers/1,upperdir=/up,workdir=/work /mnt")]
pub(crate) struct MountArgs {
    /// Options, separated by commas; may be repeated
    #[arg(short, long = "options", value_name = "OPTIONS")]
    options: Vec<String>,
    /// Who serves it: the kernel, a process of strata's own, or the kernel where it can
    #[arg(long, value_name = "DRIVER", default_value = "auto")]
    driver: Driver,
    /// Stay in the foreground and serve; takes the fuse driver
    #[arg(short, long)]
    foreground: bool,
    /// Say which driver was taken, and why
    #[arg(short, long)]
    verbose: bool,
    /// Directory to mount at
    #[arg(value_name = "MOUNTPOINT")]
    target: PathBuf,
}

/// Who serves a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Driver {
    /// The kernel's where it works, else our own
    Auto,
    /// The kernel's overlayfs
    Kernel,
    /// Our own, in user space
    Fuse,
}

impl From<Driver> for engine::Driver {
    fn from(driver: Driver) -> engine::Driver {
        match driver {
            Driver::Auto => engine::Driver::Auto,
            Driver::Kernel => engine::Driver::Kernel,
            Driver::Fuse => engine::Driver::Fuse,
        }
    }
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: MountArgs) -> Outcome {
    if let Some(words) = overlay::remount_words(&args.options) {
        return overlay::remount(&args.target, &words, true);
    }
    let asked = Asked::read(&args.options, "overlay")?;
    let wanted = Wanted {
        driver: args.driver,
        foreground: args.foreground,
        verbose: args.verbose || context.verbose,
    };
    mount(&asked, &args.target, wanted)
}

#[derive(Clone, Copy)]
struct Wanted {
    driver: Driver,
    foreground: bool,
    verbose: bool,
}

fn mount(asked: &Asked, target: &std::path::Path, wanted: Wanted) -> Outcome {
    let target = overlay::mount_point(target)?;
    asked.refuse_in_use()?;
    let told = |driver: &str, reason: &str| {
        if wanted.verbose {
            let _ = writeln!(std::io::stderr(), "mounted with {driver} ({reason})");
        }
    };
    let kernel_only = &asked.options.kernel_only;
    let reason = match (wanted.driver, &asked.options.fuse_only) {
        (Driver::Fuse, _) => "as asked".to_owned(),
        // The kernel would mount it, and remember nothing in attributes.
        (Driver::Auto, _) if asked.overlay.writable.is_some() && asked.options.lacks_userxattr() => {
            return Err(asked.refused("nothing can be written without attributes of the overlay's own"));
        }
        (Driver::Auto, _) if wanted.foreground => "to stay in the foreground".to_owned(),
        (Driver::Auto, Some(word)) => format!("the kernel's overlay has no {word}"),
        (Driver::Kernel, _) if wanted.foreground => {
            return Err(Failure::user(
                "--foreground needs --driver fuse: the kernel serves without a process",
            ));
        }
        (Driver::Kernel, Some(word)) => {
            return Err(Failure::user(format!("the kernel's overlay has no {word}"))
                .hint("leave it out, or use --driver fuse"));
        }
        (Driver::Auto | Driver::Kernel, None) => match ::mount::attach(&asked.for_kernel(), &target) {
            Ok(()) => {
                let reason = match (wanted.driver, kernel_only) {
                    (Driver::Kernel, _) => "as asked".to_owned(),
                    (_, Some(word)) => format!("nothing else has {word}"),
                    (_, None) => "it takes these layers and options".to_owned(),
                };
                told("the kernel's overlay", &reason);
                return Ok(0);
            }
            Err(error @ MountError::InUse(_)) => return Err(overlay::in_use(error)),
            Err(error) if wanted.driver == Driver::Kernel || kernel_only.is_some() => {
                return Err(asked.refused(error));
            }
            Err(error) => format!("the kernel's overlay refused: {error}"),
        },
    };
    overlay::serve(asked, &target, "strata", wanted.foreground, |transport| {
        let fuse = match transport {
            Transport::Device => "FUSE",
            Transport::IoUring => "FUSE over io_uring",
        };
        told(fuse, &reason);
    })?;
    Ok(0)
}

/// As mount(8) calls a helper: `SOURCE TARGET [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`.
pub(crate) fn helper(words: impl Iterator<Item = OsString>) -> u8 {
    // Exit codes of mount(8): 1 for a wrong call, 32 for a mount that failed.
    match called(words)
        .map_err(|failure| failure.code(1))
        .and_then(|call| call.run().map_err(|f| f.code(32)))
    {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    source: String,
    target: PathBuf,
    options: Vec<String>,
    fake: bool,
    verbose: bool,
}

impl Call {
    fn run(&self) -> Outcome {
        if let Some(words) = overlay::remount_words(&self.options) {
            if self.fake {
                return Ok(0);
            }
            // mount(8) has put the present attributes among them already, where it is to keep them.
            return overlay::remount(&self.target, &words, false);
        }
        let asked = Asked::read(&self.options, &self.source)?;
        if self.fake {
            overlay::mount_point(&self.target)?;
            return Ok(0);
        }
        let wanted = Wanted {
            driver: Driver::Fuse,
            foreground: false,
            verbose: self.verbose,
        };
        mount(&asked, &self.target, wanted)
    }
}

fn called(words: impl Iterator<Item = OsString>) -> Result<Call, Failure> {
    let mut call = Call::default();
    let mut operands = Vec::new();
    let mut words = words.map(|word| {
        word.into_string()
            .map_err(|word| Failure::user(format!("{} is not UTF-8", word.display())))
    });
    while let Some(word) = words.next().transpose()? {
        let Some(flags) = word.strip_prefix('-').filter(|flags| !flags.is_empty()) else {
            operands.push(word);
            continue;
        };
        for (at, flag) in flags.char_indices() {
            match flag {
                'f' => call.fake = true,
                'v' => call.verbose = true,
                // No mount table is kept, and nothing is passed over.
                'n' | 's' => {}
                'o' | 't' | 'N' => {
                    let rest = flags
                        .get(at + 1..)
                        .filter(|rest| !rest.is_empty())
                        .map(str::to_owned);
                    let value = match rest {
                        Some(rest) => Some(rest),
                        None => words.next().transpose()?,
                    };
                    let value = value.ok_or_else(|| Failure::user(format!("-{flag} needs a value")))?;
                    match flag {
                        'o' => call.options.push(value),
                        'N' => return Err(Failure::user("-N: other mount namespaces are not supported")),
                        _ => {}
                    }
                    break;
                }
                _ => return Err(Failure::user(format!("unknown flag -{flag}"))),
            }
        }
    }
    let [source, target] = <[String; 2]>::try_from(operands)
        .map_err(|_| Failure::user("a source and a mount point are needed"))?;
    Ok(Call {
        source,
        target: target.into(),
        ..call
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &[&str]) -> Result<Call, String> {
        called(words.iter().map(OsString::from)).map_err(|failure| failure.to_string())
    }

    #[test]
    fn as_mount_calls_its_helpers() {
        let got = call(&["none", "/mnt", "-nv", "-o", "rw,lowerdir=/a", "-t", "fuse.strata"]).unwrap();
        let wanted = Call {
            source: "none".into(),
            target: "/mnt".into(),
            options: vec!["rw,lowerdir=/a".into()],
            verbose: true,
            fake: false,
        };
        assert_eq!(got, wanted);
        assert_eq!(
            call(&["a", "b", "-olowerdir=/a"]).unwrap().options,
            ["lowerdir=/a"]
        );
        assert!(call(&["a"]).is_err());
        assert!(call(&["a", "b", "-o"]).is_err());
        assert!(call(&["a", "b", "-z"]).unwrap_err().contains("-z"));
    }
}
