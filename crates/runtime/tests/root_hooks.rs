//! Hooks: where and when each runs, and what comes of one that fails.

mod common;

use std::path::PathBuf;

use common::*;
use serde_json::json;

#[test]
fn hooks_run_where_and_when_they_should() {
    let container = Box::script("cat /tmp/inside");
    let log = container.temp.path().join("log");
    let rootfs = container.bundle.rootfs();
    let bundle = rootfs.parent().unwrap().to_owned();
    let note = |word: &str| {
        let script = format!(
            "read -r line; [ . -ef {} ] && echo {word} >>{}; echo \"$line\" >{}.{word}",
            bundle.display(),
            log.display(),
            log.display()
        );
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    let container = container.with(|spec| {
        spec["annotations"] = json!({"colour": "blue"});
        let mounts = "grep -c mqueue /proc/self/mountinfo";
        let inside = format!(
            "{mounts} >{}/tmp/inside; ls /proc | grep -cx self >>{0}/tmp/inside",
            rootfs.display()
        );
        spec["hooks"] = json!({
            "prestart": note("prestart"), "createRuntime": note("createRuntime"),
            "createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", inside]}],
            "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "/bin/echo started >>/tmp/inside"]}],
            "poststart": note("poststart"), "poststop": note("poststop"),
        });
    });
    // In the container's mount namespace before the root is changed, then in the container.
    assert_eq!(container.output(), "1\n1\nstarted\n");
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(text, "prestart\ncreateRuntime\npoststart\npoststop\n");
    let state = |word: &str| -> serde_json::Value {
        let path = PathBuf::from(format!("{}.{word}", log.display()));
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let created = state("createRuntime");
    assert_eq!(
        (&created["status"], &created["id"]),
        (&json!("creating"), &json!(container.bundle.id()))
    );
    assert_eq!(created["annotations"]["colour"], "blue");
    assert!(created["pid"].as_i64().unwrap() > 1);
    assert_eq!(state("poststart")["status"], "running");
    assert_eq!(state("poststop")["status"], "stopped");
}

#[test]
fn a_hook_that_fails_stops_the_start() {
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let error = Box::new()
            .with(|spec| {
                spec["hooks"] =
                    json!({kind: [{"path": "/bin/sh", "args": ["sh", "-c", "echo no luck >&2; exit 4"]}]});
            })
            .try_run()
            .unwrap_err();
        assert_eq!(error.exit_code(), 125);
        let text = error.to_string();
        assert!(
            text.contains(kind) && text.contains("exit code 4") && text.contains("no luck"),
            "{text}"
        );
    }
    let outcome = Box::new()
        .with(|spec| spec["hooks"] = json!({"poststop": [{"path": "/no/such/hook"}]}))
        .run();
    assert_eq!(outcome.exit.code, 0);
}

#[test]
fn a_hook_is_named_by_its_whole_path() {
    let error = Box::new()
        .with(|spec| spec["hooks"] = json!({"createRuntime": [{"path": "true"}]}))
        .try_run()
        .unwrap_err();
    assert!(error.to_string().contains("its path must be absolute"), "{error}");
}
