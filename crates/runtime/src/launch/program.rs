//! The container's program: where it is looked for, and why it could not be run.

use std::ffi::{CString, OsStr};
use std::io;

use oci_spec::runtime::Process;
use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;
use sys::process::CStrings;

use super::fault::{CANNOT_RUN, During, Fault, IntoText, NOT_FOUND, Result};

/// Searched where the process has no PATH: what the peers give a container.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program with its arguments and environment, ready to be executed.
#[derive(Debug)]
pub(super) struct Program {
    name: String,
    /// Where the program may be, best first.
    candidates: Vec<CString>,
    args: CStrings,
    env: CStrings,
}

impl Program {
    /// Reads it from the spec.
    pub(super) fn of(process: &Process) -> Result<Program> {
        let args = process.args().as_deref().unwrap_or_default();
        let Some(name) = args.first() else {
            return Err(Fault::new("no program to run: process.args is empty"));
        };
        let env = process.env().as_deref().unwrap_or_default();
        let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
        let nul = || "a NUL character in the program's arguments or environment".to_owned();
        let candidates = candidates(name, path.unwrap_or(DEFAULT_PATH));
        Ok(Program {
            name: name.clone(),
            candidates: CStrings::new(candidates).during(nul)?.into_vec(),
            args: CStrings::new(args.iter().map(String::as_str)).during(nul)?,
            env: CStrings::new(env.iter().map(String::as_str)).during(nul)?,
        })
    }

    /// Executes it; returns only when that failed.
    pub(super) fn execute(&self) -> Fault {
        let mut denied = None;
        for candidate in &self.candidates {
            let error = sys::process::exec(candidate, &self.args, &self.env);
            match Errno::from_io_error(&error) {
                Some(Errno::NOENT) if exists(candidate) => {
                    let text = format!("{}: its interpreter or loader is not in the container", self.name);
                    return fault(NOT_FOUND, text);
                }
                Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP) => {}
                // As execvp(3) does: what may not be run does not hide what may, further on.
                Some(Errno::ACCESS) => denied = Some(error),
                _ => return fault(CANNOT_RUN, format!("{}: {}", self.name, explain(error))),
            }
        }
        match denied {
            Some(error) => fault(CANNOT_RUN, format!("{}: {}", self.name, explain(error))),
            None if self.name.contains('/') => fault(NOT_FOUND, format!("{}: no such file", self.name)),
            None => fault(
                NOT_FOUND,
                format!("{}: not found in the container's PATH", self.name),
            ),
        }
    }
}

fn fault(code: u8, text: String) -> Fault {
    Fault { code, text }
}

fn explain(error: io::Error) -> String {
    match Errno::from_io_error(&error) {
        Some(Errno::NOEXEC) => "not a program for this machine (exec format error)".into(),
        Some(Errno::ACCESS) => "cannot be executed: permission denied".into(),
        _ => format!("cannot be executed: {}", error.into_text()),
    }
}

fn exists(path: &CString) -> bool {
    rustix::fs::accessat(CWD, path.as_c_str(), Access::EXISTS, AtFlags::empty()).is_ok()
}

/// The places where `name` may be: itself if it has a slash, else in the directories of `path`.
fn candidates(name: &str, path: &str) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    if name.is_empty() {
        return Vec::new();
    }
    path.split(':')
        .map(|directory| match directory {
            "" => format!("./{name}"),
            directory => format!("{directory}/{name}"),
        })
        .collect()
}

/// Goes to the working directory and makes sure that it is one of the container's: a descriptor of the host's that
/// leaked into /proc would lead outside (CVE-2024-21626).
pub(super) fn enter_directory(path: &OsStr) -> Result<()> {
    let doing = || format!("working directory {}", path.display());
    rustix::process::chdir(path).during(doing)?;
    let is = rustix::process::getcwd(Vec::new());
    match is {
        Ok(is) if is.to_bytes().starts_with(b"/") => Ok(()),
        _ => Err(Fault::new(format!("{}: lies outside the container", doing()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(args: &[&str], env: &[&str]) -> Result<Program> {
        let process =
            serde_json::json!({ "args": args, "env": env, "cwd": "/", "user": {"uid": 0, "gid": 0} });
        Program::of(&serde_json::from_value(process).unwrap())
    }

    #[test]
    fn where_it_is_looked_for() {
        assert_eq!(candidates("sh", "/a::/b"), ["/a/sh", "./sh", "/b/sh"]);
        assert_eq!(candidates("./sh", "/a"), ["./sh"]);
        let default = program(&["sh"], &[]).unwrap();
        assert_eq!(default.candidates.len(), 6);
        assert!(program(&[], &[]).is_err());
        assert!(program(&["a\0b"], &[]).is_err());
    }

    #[test]
    fn why_it_does_not_run() {
        let temp = tempfile::tempdir().unwrap();
        let make = |name: &str, text: &str, mode: u32| {
            let path = temp.path().join(name);
            std::fs::File::create(&path)
                .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
                .unwrap();
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&path, permissions).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let run = |name: &str| {
            program(&[name], &[&format!("PATH={}", temp.path().display())])
                .unwrap()
                .execute()
        };
        assert_eq!(run("nothing").code, NOT_FOUND);
        assert_eq!(run("/nothing/here").code, NOT_FOUND);
        assert_eq!(run(&make("plain", "x", 0o644)).code, CANNOT_RUN);
        assert_eq!(run("plain").code, CANNOT_RUN);
        assert_eq!(run(&make("garbage", "\u{1}garbage", 0o755)).code, CANNOT_RUN);
        let orphan = run(&make("orphan", "#!/no/such/interpreter\n", 0o755));
        assert_eq!(orphan.code, NOT_FOUND);
        assert!(orphan.text.contains("interpreter"), "{orphan}");
        assert_eq!(run(temp.path().to_str().unwrap()).code, CANNOT_RUN);
    }
}
