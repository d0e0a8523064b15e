//! The program under another's name: `fuse-overlayfs [-f] [-d] [-o OPTIONS]… MOUNTPOINT`, as podman and buildah call
//! their `mount_program`.
//!
//! Its options are those of that program's manual; the ones it does not have are refused. Three things are as with it
//! and not as with `strata mount`: the mount table shows `fuse.fuse-overlayfs`, an upper directory that was once mounted
//! `volatile` is taken again, and files named `.wh.NAME` and `.wh..wh..opq` in layers are whiteouts.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use crate::failure::Failure;
use crate::overlay::{self, Asked};

const USAGE: &str = "\
usage: fuse-overlayfs [-f] [-d] [-o OPTIONS]... MOUNTPOINT

    -f               stay in the foreground
    -d, --debug      as -f
    -h, --help       print this
    -V, --version    print the version
    -o lowerdir=A:B,upperdir=DIR,workdir=DIR,uidmapping=L:V:N,gidmapping=L:V:N,squash_to_root,squash_to_uid=N,
       squash_to_gid=N,static_nlink,noacl,noxattrs=1,xino=auto,timeout=SECONDS,threaded=0|1,fsync=0|1,volatile,
       allow_other,allow_root,default_permissions,ro,suid,dev,exec,...
";

#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    options: Vec<String>,
    target: Option<PathBuf>,
    foreground: bool,
    say: Option<&'static str>,
}

/// The program, with its arguments; gives its exit code.
pub(crate) fn main(words: impl Iterator<Item = OsString>) -> u8 {
    match read(words).and_then(|call| run(&call)) {
        Ok(()) => 0,
        Err(failure) => failure.code(1).report(),
    }
}

fn run(call: &Call) -> Result<(), Failure> {
    if let Some(text) = call.say {
        let _ = std::io::stdout().write_all(text.as_bytes());
        return Ok(());
    }
    let target = call
        .target
        .as_ref()
        .ok_or_else(|| Failure::user("no mount point is named"))?;
    let asked = Asked::read(&call.options, "fuse-overlayfs")?;
    let target = overlay::mount_point(target)?;
    asked.refuse_in_use()?;
    if let Some((_, work)) = &asked.overlay.writable {
        fuse::layers::forgive_volatile(work)
            .map_err(|error| Failure::user(format!("work directory {}: {error}", work.display())))?;
    }
    overlay::serve(&asked, &target, crate::DROP_IN, call.foreground, |_| ())
}

fn read(words: impl Iterator<Item = OsString>) -> Result<Call, Failure> {
    let mut call = Call::default();
    let mut words = words.map(|word| {
        word.into_string()
            .map_err(|word| Failure::user(format!("{} is not UTF-8", word.display())))
    });
    while let Some(word) = words.next().transpose()? {
        match word.as_str() {
            "-f" => call.foreground = true,
            "-d" | "--debug" => call.foreground = true,
            "-s" => call.options.push("threaded=0".into()),
            "-h" | "--help" => call.say = Some(USAGE),
            "-V" | "--version" => {
                call.say = Some(concat!(
                    "fuse-overlayfs: strata ",
                    env!("CARGO_PKG_VERSION"),
                    "\n"
                ))
            }
            "-o" => {
                let value = words.next().transpose()?;
                call.options
                    .push(value.ok_or_else(|| Failure::user("-o needs a value"))?);
            }
            word if word.starts_with("-o") => call.options.push(word[2..].to_owned()),
            word if word.starts_with('-') => return Err(Failure::user(format!("unknown flag {word}"))),
            _ if call.target.is_none() => call.target = Some(word.into()),
            _ => return Err(Failure::user(format!("one mount point is enough: {word}"))),
        }
    }
    Ok(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &[&str]) -> Result<Call, String> {
        read(words.iter().map(OsString::from)).map_err(|failure| failure.to_string())
    }

    #[test]
    fn as_podman_calls_it() {
        let got = call(&["-o", "lowerdir=/a:/b,upperdir=/u,workdir=/w,volatile", "/merged"]).unwrap();
        assert_eq!(got.target.as_deref(), Some("/merged".as_ref()));
        let asked = Asked::read(&got.options, "fuse-overlayfs").unwrap();
        assert_eq!(asked.overlay.lower.len(), 2);
        assert!(asked.overlay.writable.is_some());
    }

    #[test]
    fn flags_of_its_own() {
        assert!(call(&["-f", "-olowerdir=/a", "/m"]).unwrap().foreground);
        assert_eq!(call(&["-s", "/m"]).unwrap().options, ["threaded=0"]);
        assert!(call(&["--version"]).unwrap().say.is_some());
        assert!(call(&["-x", "/m"]).unwrap_err().contains("-x"));
        assert!(call(&["/m", "/n"]).unwrap_err().contains("/n"));
        let refused = Asked::read(&["lowerdir=/a,plugins=x".into()], "x").unwrap_err();
        assert!(refused.to_string().contains("plugins=x"));
    }
}
