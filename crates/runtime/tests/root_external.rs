//! `--runtime`: the same bundle run by runc and crun through the same supervisor.

mod common;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use runtime::state::{self, Status};
use serde_json::json;

/// A runtime to test with. crun 1.8 refuses a machine that has cgroup2 beside v1: there it is run where the former is
/// not to be seen.
fn runtimes(dir: &Path) -> Vec<PathBuf> {
    let find = |name: &str| {
        ["/usr/bin", "/usr/sbin", "/usr/local/bin"]
            .into_iter()
            .map(|dir| Path::new(dir).join(name))
            .find(|path| path.exists())
            .unwrap_or_else(|| panic!("these tests need Debian's package {name}"))
    };
    let (runc, crun) = (find("runc"), find("crun"));
    if !Path::new("/sys/fs/cgroup/unified").exists() {
        return vec![runc, crun];
    }
    let wrapper = dir.join("crun");
    let script = format!(
        "#!/bin/sh\nexec unshare --mount --propagation slave sh -c \
         'umount /sys/fs/cgroup/unified; exec \"$0\" \"$@\"' {} \"$@\"\n",
        crun.display()
    );
    write(&wrapper, &script);
    std::fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755)).unwrap();
    vec![runc, wrapper]
}

fn for_each(test: impl Fn(&mut dyn FnMut(&str) -> Box)) {
    let temp = tempfile::tempdir().unwrap();
    for runtime in runtimes(temp.path()) {
        test(&mut |script| {
            let mut container = Box::script(script);
            // crun 1.8 knows no newer one.
            container.spec["ociVersion"] = json!("1.0.2");
            container.runtime = Some(runtime.clone());
            container
        });
    }
}

#[test]
fn the_same_bundle_runs() {
    for_each(|make| {
        let container = make("echo out; echo err >&2; echo $$; hostname; exit 9");
        let outcome = container.run();
        assert_eq!(
            (outcome.stdout.as_str(), outcome.stderr.as_str()),
            ("out\n1\nbox\n", "err\n")
        );
        assert_eq!((outcome.exit.code, outcome.exit.signal), (9, None), "{outcome:?}");
        assert!(outcome.exit.warnings.is_empty(), "{outcome:?}");
        assert_eq!(
            state::read(&container.bundle).unwrap(),
            Status::Exited(outcome.exit)
        );
        // Its own record of the container is gone.
        let left = container
            .bundle
            .path()
            .join("runtime")
            .join(container.bundle.id());
        assert!(!left.exists());
    });
}

#[test]
fn signals_and_state() {
    for_each(|make| {
        let container = make("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done");
        let (stdout, out) = pipe();
        let mut running = container.start([&null(), &out, &null()]).unwrap();
        let mut text = [0; 6];
        File::from(stdout).read_exact(&mut text).unwrap();
        assert!(
            matches!(state::read(&container.bundle).unwrap(), Status::Running { pid, .. } if pid == running.pid())
        );
        running.kill(libc::SIGTERM).unwrap();
        assert_eq!(running.wait().unwrap().code, 3);
        running.finish().unwrap();
    });
}

#[test]
fn a_terminal() {
    for_each(|make| {
        let container = make("tty; stty size; test -t 0 && echo yes").with(|spec| {
            spec["process"]["terminal"] = json!(true);
        });
        let mut running = container.start_quiet().unwrap();
        let console = running.console().unwrap().try_clone_to_owned().unwrap();
        let mut text = String::new();
        // A terminal whose other end is closed answers EIO.
        let _ = File::from(console).read_to_string(&mut text);
        assert!(
            text.contains("/dev/pts/0\r\n24 80\r\nyes\r\n")
                || text.contains("/dev/console\r\n24 80\r\nyes\r\n"),
            "{text}"
        );
        assert_eq!(running.wait().unwrap().code, 0);
        running.finish().unwrap();
    });
}

#[test]
fn why_it_did_not_start() {
    for_each(|make| {
        for (args, code) in [(json!(["nothing"]), 127), (json!(["/etc/passwd"]), 126)] {
            let container = make("").with(|spec| spec["process"]["args"] = args.clone());
            // It says why on the container's standard error; that is not said again.
            let (stderr, err) = pipe();
            let error = container.start([&null(), &null(), &err]).unwrap_err();
            drop(err);
            let mut said = String::new();
            File::from(stderr).read_to_string(&mut said).unwrap();
            let reason = if code == 127 { "not found" } else { "denied" };
            assert_eq!(error.exit_code(), code, "{args}: {error}");
            assert!(said.contains(reason), "{said}");
            let error = error.to_string();
            assert!(
                error.contains("create failed") && !error.contains(reason),
                "{error}"
            );
            // With a terminal nobody else says it.
            let container = container.with(|spec| spec["process"]["terminal"] = json!(true));
            let error = container.start_quiet().unwrap_err();
            assert_eq!(error.exit_code(), code, "{args}: {error}");
            assert!(error.to_string().contains(reason), "{error}");
            let left = container
                .bundle
                .path()
                .join("runtime")
                .join(container.bundle.id());
            assert!(!left.exists());
        }
        let container = make("").with(|spec| spec["annotations"] = json!({"strata.init": "true"}));
        let error = container.try_run().unwrap_err();
        assert!(error.to_string().contains("--init"), "{error}");
    });
    let mut container = Box::new();
    container.runtime = Some("/no/such/runtime".into());
    let error = container.try_run().unwrap_err();
    assert_eq!(error.exit_code(), 125);
    assert!(error.to_string().contains("/no/such/runtime"), "{error}");
    assert!(Command::new("true").status().unwrap().success());
}
