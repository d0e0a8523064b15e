//! Runs one operation in a process of its own, and kills that process right before one chosen system call.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// Tells the process that is traced which operation it is to do, and where.
pub(crate) const OPERATION: &str = "STRATA_CRASH_OPERATION";

/// A name that is opened, in vain, when the operation begins: what the process did before is its own business.
pub(crate) const BEGIN: &str = "/the-operation-begins-here";

/// Every call by which a server changes something on disk, or makes it durable. `?`: not known to every strace.
const CHANGES: &str = "openat,openat2,mkdir,mkdirat,mknod,mknodat,symlink,symlinkat,link,linkat,rename,renameat,\
    renameat2,unlink,unlinkat,rmdir,setxattr,lsetxattr,fsetxattr,?setxattrat,removexattr,lremovexattr,\
    fremovexattr,?removexattrat,chown,lchown,fchown,fchownat,chmod,fchmod,fchmodat,?fchmodat2,utimensat,truncate,\
    ftruncate,fallocate,copy_file_range,pwrite64,pwritev,pwritev2,sendfile,ioctl,fsync,fdatasync,sync_file_range,\
    syncfs";

/// A moment of an operation: right before the `nth` call of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    call: String,
    nth: usize,
    /// The call, as strace shows it.
    pub(crate) line: String,
}

fn strace(operation: &str, place: &Path) -> Command {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-e", "signal=none"])
        .env(OPERATION, format!("{operation} {}", place.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command.arg("-o").arg(place.join("trace"));
    command.args(["-e", &format!("trace={CHANGES}")]);
    command
}

/// Runs this program's `test` alone, which does the operation.
fn finish(mut command: Command, test: &str) -> ExitStatus {
    let program = std::env::current_exe().expect("a process has a program");
    command
        .arg(program)
        .args(["--exact", test, "--nocapture", "--test-threads=1"]);
    let output = command.output().expect("strace is installed (Debian: strace)");
    let said = String::from_utf8_lossy(&output.stderr);
    let quiet = output.status.success() || output.status.signal() == Some(9);
    assert!(quiet, "{:?} {:?}: {said}", command, output.status);
    output.status
}

/// Does the operation to its end; every moment at which it can be cut short.
pub(crate) fn moments(test: &str, operation: &str, place: &Path) -> Vec<Moment> {
    let status = finish(strace(operation, place), test);
    assert!(status.success(), "{operation}: {status:?}");
    let trace = std::fs::read_to_string(place.join("trace")).expect("strace writes it");
    let mut counts = HashMap::new();
    let mut begun = None;
    let mut moments = Vec::new();
    for line in trace.lines() {
        let (thread, line) = line.trim_start().split_once(' ').expect("-f shows the thread");
        let line = line.trim_start();
        let Some((call, arguments)) = line.split_once('(') else {
            continue;
        };
        if call.starts_with('<') {
            continue;
        }
        let nth: &mut usize = counts.entry((thread.to_owned(), call.to_owned())).or_default();
        *nth += 1;
        if arguments.contains(BEGIN) {
            begun = Some(thread.to_owned());
            continue;
        }
        let changes = match call {
            "openat" | "openat2" => arguments.contains("O_CREAT") || arguments.contains("O_TMPFILE"),
            "ioctl" => arguments.contains("FICLONE") || arguments.contains("_SETFLAGS"),
            _ => true,
        };
        if begun.as_deref() == Some(thread) && changes {
            moments.push(Moment {
                call: call.to_owned(),
                nth: *nth,
                line: line.to_owned(),
            });
        }
    }
    assert!(begun.is_some(), "{operation}: never began:\n{trace}");
    moments
}

/// Does the operation up to a moment, at which the process is killed: the call is not made.
pub(crate) fn kill_at(test: &str, operation: &str, place: &Path, moment: &Moment) {
    let mut command = strace(operation, place);
    let inject = format!("inject={}:signal=SIGKILL:when={}", moment.call, moment.nth);
    command.args(["-e", &inject]);
    let status = finish(command, test);
    assert_eq!(status.signal(), Some(9), "{operation}: lived through {moment:?}");
}
