//! `strata run` as users start it: streams, exit codes, and the flags of the process. Needs root.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::{Ended, Image, Layer, busybox, empty, refused, said, sh};
use serde_json::json;

#[test]
fn prints_and_is_gone() {
    let strata = busybox();
    assert_eq!(said(&strata, &[], "echo $((6 * 7))"), "42\n");
    assert_eq!(strata.ok(["ps", "-a", "-q"]), "");
    let left: Vec<_> = std::fs::read_dir(strata.state().join("default"))
        .into_iter()
        .flatten()
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}

#[test]
fn streams_are_kept_apart_and_input_arrives() {
    let strata = busybox();
    let ended = sh(&strata, &[], "echo out; echo err >&2");
    assert_eq!(
        ended,
        Ended {
            code: 0,
            out: "out\n".into(),
            err: "err\n".into()
        }
    );
    let mut child = strata
        .command(["run", "--rm", "-i", "busybox", "tr", "a-z", "A-Z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"shout\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"SHOUT\n");
    // Without -i there is no input, whatever strata's own is.
    let mut child = strata
        .command(["run", "--rm", "busybox", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(b"unheard\n");
    assert_eq!(child.wait_with_output().unwrap().stdout, b"");
}

#[test]
fn a_large_stream_passes_whole() {
    let strata = busybox();
    let ended = said(
        &strata,
        &[],
        "dd if=/dev/zero bs=1M count=16 2>/dev/null | tr '\\0' x",
    );
    assert!(ended.len() == 16 << 20 && ended.bytes().all(|byte| byte == b'x'));
}

#[test]
fn exit_codes() {
    let strata = busybox();
    assert_eq!(sh(&strata, &[], "exit 7").code, 7);
    // Process 1 of a pid namespace cannot kill itself; beneath an init it can.
    assert_eq!(sh(&strata, &["--init"], "kill -KILL $$").code, 137);
    assert_eq!(sh(&strata, &["--init"], "kill -TERM $$").code, 143);
    let cannot = strata.end(["run", "--rm", "busybox", "/etc/passwd"]);
    assert_eq!(cannot.code, 126, "{cannot:?}");
    assert!(cannot.err.contains("/etc/passwd"), "{cannot:?}");
    let directory = strata.end(["run", "--rm", "busybox", "/etc"]);
    assert_eq!(directory.code, 126, "{directory:?}");
    for missing in ["no-such-command", "/no/such/command"] {
        let ended = strata.end(["run", "--rm", "busybox", missing]);
        assert_eq!(ended.code, 127, "{ended:?}");
        assert!(
            ended.err.contains(missing) && ended.err.lines().count() <= 2,
            "{ended:?}"
        );
    }
    assert_eq!(
        strata.ok(["ps", "-a", "-q"]),
        "",
        "a start that failed leaves no container with --rm"
    );
}

#[test]
fn strata_fails_with_125() {
    let strata = busybox();
    refused(
        &strata.end(["run", "--rm", "--pull", "never", "no-such-image", "true"]),
        &["no-such-image"],
    );
    refused(
        &strata.end(["run", "--rm", "-u", "nobody-here", "busybox", "true"]),
        &["nobody-here"],
    );
    refused(
        &strata.end(["run", "--rm", "--group-add", "no-group", "busybox", "true"]),
        &["no-group"],
    );
    refused(
        &strata.end(["run", "--rm", "-v", "rela/tive:/x", "busybox", "true"]),
        &["rela/tive"],
    );
    refused(
        &strata.end([
            "run",
            "--rm",
            "-v",
            "/no/such/source:/x:ro,bogus",
            "busybox",
            "true",
        ]),
        &["bogus"],
    );
    refused(
        &strata.end(["run", "--rm", "--cap-add", "CAP_FLY", "busybox", "true"]),
        &["CAP_FLY"],
    );
    refused(
        &strata.end(["run", "--rm", "--ulimit", "moons=3", "busybox", "true"]),
        &["moons"],
    );
    refused(
        &strata.end(["run", "--rm", "--memory", "lots", "busybox", "true"]),
        &["lots"],
    );
    refused(
        &strata.end(["run", "--rm", "--env-file", "/no/such/file", "busybox", "true"]),
        &["/no/such/file"],
    );
    refused(
        &strata.end(["run", "--rm", "Not A Name", "true"]),
        &["Not A Name"],
    );
    assert_eq!(strata.end(["run", "--no-such-flag", "busybox"]).code, 125);
    assert_eq!(strata.end(["no-such-command"]).code, 125);
    assert_eq!(
        strata.ok(["ps", "-a", "-q"]),
        "",
        "what was refused left no container"
    );
}

#[test]
fn a_name_is_taken_once() {
    let strata = busybox();
    strata.ok(["run", "--name", "only", "busybox", "true"]);
    refused(
        &strata.end(["run", "--name", "only", "busybox", "true"]),
        &["only"],
    );
    refused(
        &strata.end(["run", "--name", "bad name", "busybox", "true"]),
        &["bad name"],
    );
    strata.ok([
        "--namespace",
        "other",
        "load",
        "-q",
        "-i",
        busybox_archive(&strata).as_str(),
    ]);
    strata.ok(["--namespace", "other", "run", "--name", "only", "busybox", "true"]);
    strata.ok(["rm", "only"]);
    strata.ok(["run", "--name", "only", "busybox", "true"]);
    refused(&strata.end(["rm", "never-was"]), &["never-was"]);
    strata.ok(["rm", "-f", "never-was"]);
}

fn busybox_archive(strata: &common::Strata) -> String {
    let path = strata.dir().join("again.tar");
    Image::busybox().write_docker_archive(&path);
    path.to_str().unwrap().to_owned()
}

#[test]
fn environment() {
    let strata = busybox();
    let file = strata.dir().join("variables");
    std::fs::write(
        &file,
        "# a comment\nFROM_FILE=one two\nBOTH=file\nTAKEN\nABSENT\n",
    )
    .unwrap();
    let mut command = strata.command([
        "run",
        "--rm",
        "-e",
        "BOTH=flag",
        "-e",
        "EMPTY=",
        "-e",
        "OWN",
        "--env-file",
    ]);
    let output = command
        .arg(&file)
        .args(["busybox", "env"])
        .env("OWN", "mine")
        .env("TAKEN", "here")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    for line in [
        "FROM_FILE=one two",
        "BOTH=flag",
        "EMPTY=",
        "OWN=mine",
        "TAKEN=here",
        "HOME=/root",
    ] {
        assert!(lines.contains(&line), "{line} in {lines:?}");
    }
    assert!(
        lines.iter().any(|line| line.starts_with("PATH="))
            && lines.iter().any(|line| line.starts_with("HOSTNAME="))
    );
    assert!(
        !text.contains("ABSENT") && !text.contains("STRATA_ROOT"),
        "{text}"
    );
}

#[test]
fn working_directory() {
    let strata = busybox();
    assert_eq!(said(&strata, &["-w", "/etc"], "pwd"), "/etc\n");
    assert_eq!(
        said(&strata, &["-w", "/made/for/it"], "pwd; ls -A | wc -l"),
        "/made/for/it\n0\n"
    );
    refused(&sh(&strata, &["-w", "relative"], "pwd"), &["relative"]);
    assert_ne!(sh(&strata, &["-w", "/etc/passwd"], "pwd").code, 0);
}

#[test]
fn users_and_groups() {
    let strata = busybox();
    let who = "echo $(id -u) $(id -g) $(id -G) $HOME";
    assert_eq!(said(&strata, &[], who), "0 0 0 /root\n");
    assert_eq!(
        said(&strata, &["-u", "user"], who),
        "1000 1000 1000 2000 /home/user\n"
    );
    assert_eq!(
        said(&strata, &["-u", "1000"], who),
        "1000 1000 1000 2000 /home/user\n"
    );
    assert_eq!(
        said(&strata, &["-u", "user:extra"], who),
        "1000 2000 2000 /home/user\n"
    );
    assert_eq!(said(&strata, &["-u", "4321:8765"], who), "4321 8765 8765 /\n");
    assert_eq!(
        said(&strata, &["--group-add", "extra", "--group-add", "777"], "id -G"),
        "0 777 2000\n"
    );
    let denied = sh(&strata, &["-u", "user"], "cat /root/secret; echo x >/etc/passwd");
    assert!(
        denied.code != 0 && denied.err.contains("ermission denied"),
        "{denied:?}"
    );
}

#[test]
fn what_the_image_says() {
    let strata = empty();
    let image = Image::new("docker.io/library/app:1")
        .layer(Layer::busybox())
        .config("Entrypoint", json!(["/bin/echo", "entry"]))
        .config("Cmd", json!(["one", "two"]))
        .config("Env", json!(["PATH=/bin", "FROM=image"]))
        .config("User", json!("user"))
        .config("WorkingDir", json!("/home/user"))
        .config("StopSignal", json!("SIGUSR1"));
    strata.load(&image);
    assert_eq!(strata.ok(["run", "--rm", "app:1"]), "entry one two\n");
    assert_eq!(strata.ok(["run", "--rm", "app:1", "three"]), "entry three\n");
    assert_eq!(
        strata.ok(["run", "--rm", "--entrypoint", "/bin/pwd", "app:1"]),
        "/home/user\n"
    );
    let script = "echo $FROM $(id -u) $(pwd)";
    let ended = strata.ok(["run", "--rm", "--entrypoint", "sh", "app:1", "-c", script]);
    assert_eq!(ended, "image 1000 /home/user\n");
    let over = [
        "run",
        "--rm",
        "-e",
        "FROM=flag",
        "-u",
        "0",
        "-w",
        "/",
        "--entrypoint",
        "sh",
        "app:1",
        "-c",
        script,
    ];
    assert_eq!(strata.ok(over), "flag 0 /\n");
    // An image that names no command needs one.
    strata.load(
        &Image::new("docker.io/library/bare:1")
            .layer(Layer::busybox())
            .config("Cmd", json!(null)),
    );
    refused(&strata.end(["run", "--rm", "bare:1"]), &["no command"]);
}

#[test]
fn an_image_for_another_platform() {
    let strata = empty();
    let archive = strata.dir().join("other.tar");
    // From a registry that nobody serves.
    let name = "127.0.0.1:1/other:1";
    Image::new(name)
        .layer(Layer::busybox())
        .architecture("s390x")
        .write_oci_archive(&archive);
    let path = archive.to_str().unwrap();
    strata.ok(["load", "-q", "--platform", "linux/s390x", "-i", path]);
    let id = strata.ok(["images", "-q"]);
    let both = ["127.0.0.1:1/other:1", "linux/s390x", "not for linux/"];
    for image in [name, id.trim()] {
        let ended = strata.end(["run", "--rm", image, "true"]);
        refused(&ended, &both);
        assert!(ended.err.contains("--platform linux/s390x"), "{ended:?}");
    }
    refused(
        &strata.end(["run", "--rm", "--pull", "never", name, "true"]),
        &both,
    );
    // The one that is there is not taken for another that was asked for.
    strata.load(&Image::busybox().name("127.0.0.1:1/own:1"));
    let ended = strata.end([
        "run",
        "--rm",
        "--platform",
        "linux/s390x",
        "127.0.0.1:1/own:1",
        "true",
    ]);
    refused(&ended, &["127.0.0.1:1/own:1", "not for linux/s390x", "pulling"]);
    let ended = strata.end(["run", "--rm", "--platform", "linux/s390x", name, "true"]);
    assert_eq!(
        ended.code, 0,
        "its busybox is this machine's all the same: {ended:?}"
    );
}

#[test]
fn directories_that_the_image_wants() {
    let strata = empty();
    let image = Image::new("docker.io/library/db:1")
        .layer(
            Layer::busybox()
                .dir("srv", 0o750)
                .file("srv/there", 0o644, "data")
                .symlink("var/way", "/elsewhere"),
        )
        .config(
            "Volumes",
            json!({"/srv": {}, "/var/lib/db": {}, "/var/way": {}, "/": {}}),
        )
        .config("Cmd", json!(["sh"]));
    strata.load(&image);
    let script = "cat /srv/there; touch /var/lib/db/x /var/way/y /srv/z && ls -d /elsewhere; touch /new 2>/dev/null || echo kept";
    let run = |flags: &[&str]| strata.ok([&["run"], flags, &["db:1", "sh", "-c", script]].concat());
    assert_eq!(run(&["--rm"]), "data/elsewhere\n");
    assert_eq!(run(&["--rm", "--read-only"]), "data/elsewhere\nkept\n");
    // What only they needed is no change of the container's.
    let image = Image::busybox().name("docker.io/library/plain:1");
    strata.load(&image.config("Volumes", json!({"/var/lib/db": {}})));
    strata.ok(["run", "--name", "idle", "plain:1", "true"]);
    assert_eq!(strata.ok(["diff", "idle"]), "");
    strata.ok(["rm", "idle"]);
}

#[test]
fn how_it_ended_is_known_when_the_state_is_gone() {
    let strata = busybox();
    let name = |name| ["run", "--name", name, "busybox", "sh", "-c"];
    assert_eq!(strata.end([&name("seen")[..], &["exit 3"]].concat()).code, 3);
    // One whose command was killed: whoever sees its end next writes it down.
    let mut command = strata.command([&name("left")[..], &["echo on; sleep 0.5; exit 4"]].concat());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 3]).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let begin = std::time::Instant::now();
    while strata.in_use() != (Vec::new(), Vec::new()) {
        assert!(begin.elapsed().as_secs() < 10, "{:?}", strata.in_use());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::fs::remove_dir_all(strata.state()).unwrap();
    let told = strata.ok(["ps", "-a"]);
    assert!(
        told.contains("Exited (3)") && told.contains("Exited (4)"),
        "{told}"
    );
    let inspected = strata.ok(["inspect", "left"]);
    assert!(inspected.contains("\"ExitCode\": 4"), "{inspected}");
    strata.ok(["rm", "seen", "left"]);
}

#[test]
fn a_root_directory_instead_of_an_image() {
    let strata = busybox();
    let root = strata.dir().join("rootfs");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let path = root.to_str().unwrap();
    let words = [
        "run",
        "--rm",
        "--rootfs",
        path,
        "/bin/busybox",
        "sh",
        "-c",
        "echo in >/made; /bin/busybox cat /made",
    ];
    assert_eq!(strata.ok(words), "in\n");
    let names: Vec<_> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(
        names,
        ["bin"],
        "the directory is a lower layer, and nothing is written to it"
    );
    refused(
        &strata.end(["run", "--rm", "--rootfs", "/no/such/dir", "sh"]),
        &["/no/such/dir"],
    );
}

#[test]
fn a_container_stays_until_it_is_removed() {
    let strata = busybox();
    let ended = strata.end([
        "run",
        "--name",
        "stays",
        "--label",
        "a=b",
        "busybox",
        "sh",
        "-c",
        "echo x >/new; exit 3",
    ]);
    assert_eq!(ended.code, 3, "{ended:?}");
    assert_eq!(strata.ok(["ps", "-q"]), "");
    let listed: serde_json::Value =
        serde_json::from_str(&strata.ok(["ps", "-a", "--format", "json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert!(strata.ok(["ps", "-a"]).contains("Exited (3)"));
    assert_eq!(strata.ok(["diff", "stays"]), "A /new\n");
    let inspected = strata.ok(["inspect", "stays"]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert!(inspected.to_string().contains(r#""a":"b""#), "{inspected:#}");
    strata.ok(["rm", "stays"]);
    assert_eq!(strata.ok(["ps", "-a", "-q"]), "");
}

#[test]
fn signals_are_forwarded() {
    let strata = busybox();
    let script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = strata
        .command(["run", "--rm", "busybox", "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    line.clear();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(
        (line.as_str(), child.wait().unwrap().code()),
        ("caught\n", Some(9))
    );
}

/// What is ignored stays so across exec: one who does not care for its children must not keep strata from hearing of
/// the container's end.
#[test]
fn one_who_ignores_its_children_gets_the_exit_code() {
    let strata = busybox();
    let run = strata.command(["run", "--rm", "busybox", "sh", "-c", "exit 6"]);
    let mut ignoring = Command::new("timeout");
    ignoring.args(["60", "env", "--ignore-signal=CHLD"]);
    ignoring.arg(run.get_program()).args(run.get_args());
    let environment = run
        .get_envs()
        .filter_map(|(name, value)| value.map(|value| (name, value)));
    ignoring.envs(environment);
    assert_eq!(ignoring.status().unwrap().code(), Some(6));
}
