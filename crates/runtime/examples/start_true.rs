//! How long it takes to start `/bin/true` in a busybox root with everything a container has by default, and to see it
//! end. As root: `cargo run --release -p strata-runtime --example start_true [-- COUNT [RUNTIME]]`.
//!
//! With RUNTIME, the path of runc or crun, the same bundle is run by that through the same supervisor.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use runtime::bundle::Bundle;
use runtime::control::Restart;
use runtime::{Helper, StartRequest, Streams};
use serde_json::json;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|role| role == "supervisor") {
        return runtime::supervisor::main(&args[1..]);
    }
    let count = args
        .first()
        .and_then(|text| text.to_str()?.parse().ok())
        .unwrap_or(50);
    match measure(count, args.get(1).map(PathBuf::from)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("start_true: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(count: usize, runtime: Option<PathBuf>) -> Result<(), Box<dyn std::error::Error>> {
    let helper = Helper {
        program: std::env::current_exe()?,
        args: vec!["supervisor".into()],
    };
    let temp = tempfile::tempdir()?;
    let root = temp.path().join("root");
    for dir in ["bin", "etc", "proc", "sys", "dev"] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .create(root.join(dir))?;
    }
    let busybox = root.join("bin/busybox");
    std::io::copy(&mut File::open("/bin/busybox")?, &mut File::create(&busybox)?)?;
    std::fs::set_permissions(&busybox, PermissionsExt::from_mode(0o755))?;
    symlink("busybox", root.join("bin/true"))?;
    let null = File::options().read(true).write(true).open("/dev/null")?;

    let mut started = Vec::new();
    let mut ended = Vec::new();
    let mut gone = Vec::new();
    for number in 0..count {
        let bundle = Bundle::create(temp.path(), &format!("bench-{}-{number}", std::process::id()))?;
        bundle.write_spec(&spec(&root)?)?;
        let begin = Instant::now();
        let mut running = runtime::start(&StartRequest {
            keep: &[],
            helper: &helper,
            bundle: bundle.path(),
            streams: Streams::Given([null.as_fd(); 3]),
            restart: Restart::No,
            size: None,
            runtime: runtime.as_deref(),
            cleanup: Vec::new(),
            about: Default::default(),
            health: false,
            pidfile: None,
            attention: None,
        })?;
        started.push(begin.elapsed());
        let exit = running.wait()?;
        ended.push(begin.elapsed());
        running.finish()?;
        gone.push(begin.elapsed());
        if exit.code != 0 {
            return Err(format!("exit code {}", exit.code).into());
        }
        bundle.remove()?;
    }
    print("program executed", &mut started);
    print("end told", &mut ended);
    print("supervisor gone", &mut gone);
    Ok(())
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    println!(
        "{what:18} min {:6.2}  median {:6.2}  p90 {:6.2} ms",
        at(0.0),
        at(0.5),
        at(0.9)
    );
}

fn spec(root: &Path) -> serde_json::Result<oci_spec::runtime::Spec> {
    let caps = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_KILL",
        "CAP_SETGID",
        "CAP_SETUID",
    ];
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    serde_json::from_value(json!({
        "ociVersion": "1.2.0",
        "root": {"path": root},
        "hostname": "box",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "env": ["PATH=/bin"], "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        },
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"},
                {"type": "cgroup"},
            ],
            "seccomp": runtime::seccomp::default_profile(&Default::default()),
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                "/sys/devices/virtual/powercap",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }))
}
