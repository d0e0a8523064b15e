//! The container's program: where it is looked for, and why it could not be run.

use std::ffi::{CStr, CString, OsStr};
use std::io;

use oci_spec::runtime::Process;
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use sys::process::CStrings;

use super::fault::{About, CANNOT_RUN, During, Fault, IntoText, NOT_FOUND, Result};
use crate::control::Concern;

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

    /// Whether it is there and may be executed, as far as that can be told without doing it.
    pub(super) fn look(&self) -> Result<()> {
        let mut denied = None;
        for candidate in &self.candidates {
            match rustix::fs::accessat(CWD, candidate.as_c_str(), Access::EXEC_OK, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => {}
                Err(error) => denied = Some(error),
            }
        }
        Err(self.missing(denied.map(io::Error::from)))
    }

    /// Executes it; returns only when that failed.
    pub(super) fn execute(&self) -> Fault {
        let mut denied = None;
        for candidate in &self.candidates {
            let error = sys::process::exec(candidate, &self.args, &self.env);
            match Errno::from_io_error(&error) {
                Some(Errno::NOENT) if exists(candidate) => {
                    return fault(NOT_FOUND, format!("{}: {}", self.name, what_it_needs(candidate)));
                }
                Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => {}
                // As execvp(3) does: what may not be run does not hide what may, further on.
                Some(Errno::ACCESS | Errno::LOOP) => denied = Some(error),
                // execve(2): a program that is to have them does not look whether it has.
                Some(Errno::PERM) if asks_for_capabilities(candidate) => {
                    let text = "cannot be executed: its file asks for capabilities that the container lacks";
                    return fault(CANNOT_RUN, format!("{}: {text}", self.name));
                }
                _ => return fault(CANNOT_RUN, format!("{}: {}", self.name, explain(error))),
            }
        }
        self.missing(denied)
    }

    /// It is in none of the places; in one is something that may not be run.
    fn missing(&self, denied: Option<io::Error>) -> Fault {
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
    Fault {
        code,
        ..Fault::new(text)
    }
}

fn explain(error: io::Error) -> String {
    match Errno::from_io_error(&error) {
        Some(Errno::NOEXEC) => "not a program for this machine (exec format error)".into(),
        Some(Errno::ACCESS) => "cannot be executed: permission denied".into(),
        _ => format!("cannot be executed: {}", error.into_text()),
    }
}

fn asks_for_capabilities(program: &CStr) -> bool {
    rustix::fs::getxattr(program, c"security.capability", &mut [0; 64]).is_ok()
}

fn exists(path: &CStr) -> bool {
    rustix::fs::accessat(CWD, path, Access::EXISTS, AtFlags::empty()).is_ok()
}

/// Which file a program that is there lacks, as far as its own first bytes tell.
fn what_it_needs(program: &CStr) -> String {
    let mut start = [0; 4096];
    let file = rustix::fs::open(program, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let length = file
        .and_then(|file| rustix::io::read(&file, &mut start))
        .unwrap_or(0);
    let absent = |(what, path): &(&str, Vec<u8>)| {
        let there = CString::new(path.as_slice()).is_ok_and(|path| exists(&path));
        (!there).then(|| format!("its {what} \"{}\" is not in the container", path.escape_ascii()))
    };
    let needed = interpreter(&start[..length]);
    needed
        .as_ref()
        .and_then(absent)
        .unwrap_or_else(|| "its interpreter or loader is not in the container".to_owned())
}

/// What the kernel starts to run a file that begins so: a script's interpreter (execve(2), "Interpreter scripts"), or
/// the loader that a program names (elf(5), PT_INTERP), where the latter lies within these bytes.
fn interpreter(start: &[u8]) -> Option<(&'static str, Vec<u8>)> {
    if let Some(line) = start.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii_start();
        let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t' | 0));
        return Some(("interpreter", line[..end.unwrap_or(line.len())].to_vec()));
    }
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = start.get(at..at.checked_add(bytes)?)?;
        let little = |number: usize, byte: &u8| number << 8 | usize::from(*byte);
        Some(match start.get(5)? {
            1 => field.iter().rev().fold(0, little),
            _ => field.iter().fold(0, little),
        })
    };
    // Offsets in the two classes of the file's header and of a program header.
    let (table, size, count, offset, length, word) = match start.strip_prefix(b"\x7fELF")?.first()? {
        1 => (28, 42, 44, 4, 16, 4),
        2 => (32, 54, 56, 8, 32, 8),
        _ => return None,
    };
    let (table, size, count) = (number(table, word)?, number(size, 2)?, number(count, 2)?);
    const PT_INTERP: usize = 3;
    let headers = (0..count).map_while(|n| table.checked_add(size.checked_mul(n)?));
    let header = headers
        .take_while(|at| *at < start.len())
        .find(|at| number(*at, 4) == Some(PT_INTERP))?;
    let (offset, length) = (number(header + offset, word)?, number(header + length, word)?);
    let path = start.get(offset..offset.checked_add(length)?)?;
    Some(("loader", path.split(|byte| *byte == 0).next()?.to_vec()))
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
    rustix::process::chdir(path)
        .during(doing)
        .about(Concern::Directory)?;
    let is = rustix::process::getcwd(Vec::new());
    match is {
        Ok(is) if is.to_bytes().starts_with(b"/") => Ok(()),
        _ => Err(Fault::new(format!("{}: lies outside the container", doing())).about(Concern::Directory)),
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
    fn the_loader_that_a_program_names() {
        let header = |class: u8, order: u8, fields: &[(usize, usize, usize)]| {
            let mut file = b"\x7fELF".to_vec();
            file.extend([class, order]);
            file.resize(256, 0);
            for (at, bytes, value) in fields {
                for place in 0..*bytes {
                    let shift = if order == 1 { place } else { bytes - 1 - place };
                    file[at + place] = (value >> (8 * shift)) as u8;
                }
            }
            file[200..208].copy_from_slice(b"/ld.so\0x");
            file
        };
        let wide = [
            (32, 8, 64),
            (54, 2, 56),
            (56, 2, 2),
            (120, 4, 3),
            (128, 8, 200),
            (152, 8, 7),
        ];
        let narrow = [
            (28, 4, 52),
            (42, 2, 32),
            (44, 2, 1),
            (52, 4, 3),
            (56, 4, 200),
            (68, 4, 7),
        ];
        let expected = Some(("loader", b"/ld.so".to_vec()));
        assert_eq!(interpreter(&header(2, 1, &wide)), expected);
        assert_eq!(interpreter(&header(2, 2, &wide)), expected);
        assert_eq!(interpreter(&header(1, 1, &narrow)), expected);
        // Whatever the numbers say: nothing, and no panic.
        for (at, bytes, _) in wide {
            let mut fields = wide.to_vec();
            fields.push((at, bytes, usize::MAX >> (64 - 8 * bytes)));
            let found = interpreter(&header(2, 1, &fields));
            assert!(found.is_none() || found == expected, "{at}: {found:?}");
        }
        for cut in 0..64 {
            assert_eq!(interpreter(&header(2, 1, &wide)[..cut]), None);
        }
        let own = std::fs::read("/proc/self/exe").unwrap();
        let (what, path) = interpreter(&own[..4096]).unwrap();
        assert_eq!((what, path.starts_with(b"/lib")), ("loader", true));
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
        let orphan = run(&make("orphan", "#! /no/such/interpreter -x\n", 0o755));
        assert_eq!(orphan.code, NOT_FOUND);
        assert!(
            orphan
                .text
                .ends_with("its interpreter \"/no/such/interpreter\" is not in the container"),
            "{orphan}"
        );
        // A file that was edited elsewhere: its interpreter ends with the carriage return.
        let edited = run(&make("edited", "#!/bin/sh\r\n", 0o755));
        assert!(edited.text.contains(r#""/bin/sh\r" is not"#), "{edited}");
        // The interpreter is there, and what that needs is not.
        let second = run(&make(
            "second",
            &format!("#!{}\n", temp.path().join("orphan").display()),
            0o755,
        ));
        assert_eq!(
            (second.code, second.text.contains("interpreter or loader")),
            (NOT_FOUND, true)
        );
        std::os::unix::fs::symlink("loop", temp.path().join("loop")).unwrap();
        for name in ["loop", temp.path().join("loop").to_str().unwrap()] {
            let loops = run(name);
            assert_eq!(loops.code, CANNOT_RUN);
            assert!(loops.text.contains("symbolic links"), "{loops}");
        }
        assert_eq!(run(temp.path().to_str().unwrap()).code, CANNOT_RUN);
    }
}
