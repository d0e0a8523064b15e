//! What is asked for and cannot be had: one clear line with the name it concerns, and what to do instead. Needs root.

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use common::{Ended, Image, Layer, Strata, busybox, empty, refused};

/// `strata run --rm FLAGS busybox true` is refused with `words`, and the hint holds `hint`.
#[track_caller]
fn run_is_refused(strata: &Strata, flags: &[&str], words: &[&str], hint: &str) {
    let ended = strata.end([&["run", "--rm"], flags, &["busybox", "true"]].concat());
    refused(&ended, words);
    assert!(ended.err.contains(hint), "{hint:?} is not in {ended:#?}");
}

#[test]
fn limits_that_nothing_can_run_within() {
    let strata = busybox();
    run_is_refused(&strata, &["-m", "5m"], &["--memory", "5m"], "at least 6m");
    assert_eq!(strata.end(["run", "--rm", "-m", "6m", "busybox", "true"]).code, 0);
    run_is_refused(
        &strata,
        &["--cpus", "100000"],
        &["--cpus", "the range is from 0.01 to"],
        "",
    );
}

#[test]
fn what_is_named_and_is_not_there() {
    let strata = busybox();
    run_is_refused(
        &strata,
        &["--mount", "type=bind,src=/no/such,dst=/x"],
        &["--mount", "/no/such"],
        "--volume makes",
    );
    run_is_refused(
        &strata,
        &["--device", "/dev/no-such"],
        &["--device", "/dev/no-such"],
        "ls -l /dev",
    );
    run_is_refused(
        &strata,
        &["-v", "/proc/no/such:/x"],
        &["--volume", "/proc/no/such"],
        "of this machine",
    );
    for path in ["/no/such", "/etc/passwd"] {
        let ended = strata.end(["run", "--rm", "--rootfs", path, "true"]);
        refused(&ended, &["--rootfs", path]);
    }
    let ended = strata.end(["--state", "/etc/passwd", "run", "--rm", "busybox", "true"]);
    refused(&ended, &["state directory", "/etc/passwd"]);
    assert!(ended.err.contains("--state"), "{ended:?}");
    for path in ["/proc/no-such", "/etc/passwd"] {
        let ended = strata.end(["--root", path, "ps"]);
        refused(&ended, &["store", path]);
        assert!(ended.err.contains("--root"), "{ended:?}");
    }
}

#[test]
fn a_directory_over_a_file_and_a_file_over_a_directory() {
    let strata = busybox();
    for (flags, words) in [
        (["-v", "/tmp:/etc/passwd"], ["/etc/passwd", "/tmp is a directory"]),
        (["-v", "/etc/passwd:/bin"], ["/bin", "/etc/passwd is a file"]),
        (
            ["--tmpfs", "/etc/passwd"],
            ["/etc/passwd", "a tmpfs is a directory"],
        ),
    ] {
        run_is_refused(&strata, &flags, &words, "");
    }
}

#[test]
fn a_filter_that_lets_nothing_be_run() {
    let strata = busybox();
    let file = strata.dir().join("filter.json");
    std::fs::write(&file, r#"{"defaultAction": "SCMP_ACT_ERRNO"}"#).unwrap();
    let flag = format!("seccomp={}", file.display());
    run_is_refused(
        &strata,
        &["--security-opt", &flag],
        &["seccomp", "execve"],
        "unconfined",
    );
}

#[test]
fn a_profile_that_the_machine_lacks() {
    let flags = ["--security-opt", "apparmor=no-such"];
    run_is_refused(&busybox(), &flags, &["AppArmor profile \"no-such\""], "");
}

#[test]
fn a_program_and_what_it_needs() {
    let strata = empty();
    let layer = Layer::busybox()
        .file("bin/script", 0o755, "#!/no/such/interpreter -x\n")
        .symlink("bin/loop", "loop");
    strata.load(&Image::new("docker.io/library/odd:1").layer(layer));
    for (program, code, says) in [
        ("script", 127, "interpreter \"/no/such/interpreter\""),
        ("/bin/script", 127, "interpreter \"/no/such/interpreter\""),
        ("/bin/loop", 126, "symbolic links"),
        ("loop", 126, "symbolic links"),
    ] {
        let ended = strata.end(["run", "--rm", "odd:1", program]);
        assert_eq!((ended.code, ended.err.contains(says)), (code, true), "{ended:?}");
    }
    let ended = strata.end(["run", "--rm", "--entrypoint", "", "odd:1"]);
    refused(&ended, &["no command", "--entrypoint"]);
    let ended = strata.ok(["run", "--rm", "--entrypoint", "", "odd:1", "echo", "hi"]);
    assert_eq!(ended, "hi\n");
}

/// `security.capability` of a program that is to have `CAP_SYS_ADMIN`, and not to look whether it has: revision 2
/// (linux/capability.h), effective.
const SYS_ADMIN: [u8; 20] = [1, 0, 0, 2, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn a_program_whose_file_asks_for_capabilities_that_the_container_lacks() {
    let strata = empty();
    let layer = Layer::busybox()
        .dir("admin", 0o755)
        .pax("SCHILY.xattr.security.capability", &SYS_ADMIN)
        .file("admin/true", 0o755, std::fs::read("/bin/busybox").unwrap());
    strata.load(&Image::new("docker.io/library/odd:1").layer(layer));
    let ended = strata.end(["run", "--rm", "odd:1", "/admin/true"]);
    assert_eq!(ended.code, 126, "{ended:?}");
    assert!(
        ended.err.contains("capabilities that the container lacks"),
        "{ended:?}"
    );
    assert!(ended.err.contains("--cap-add"), "{ended:?}");
    strata.ok(["run", "--rm", "--cap-add", "SYS_ADMIN", "odd:1", "/admin/true"]);
}

#[test]
fn an_image_whose_proc_leads_elsewhere() {
    let strata = empty();
    let layer = Layer::busybox().symlink("proc", "tmp");
    strata.load(&Image::new("docker.io/library/odd:1").layer(layer));
    let ended = strata.end(["run", "--rm", "odd:1", "true"]);
    refused(&ended, &["/proc", "symbolic link"]);
    assert!(ended.err.contains("image built again"), "{ended:?}");
}

#[test]
fn a_file_of_variables_is_named_with_its_line() {
    let strata = busybox();
    let file = strata.dir().join("variables");
    std::fs::write(&file, "A=1\nB C=2\n").unwrap();
    let file = file.to_str().unwrap();
    run_is_refused(
        &strata,
        &["--env-file", file],
        &[file, "line 2", "\"B C\""],
        "NAME=VALUE",
    );
}

#[test]
fn what_the_caller_lacks() {
    let strata = busybox();
    let after = |script: &str, words: &[&str]| {
        let command = strata.command(words);
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", &format!("{script}; exec \"$0\" \"$@\"")])
            .arg(command.get_program())
            .args(command.get_args())
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .current_dir(strata.dir());
        Ended::from(shell.output().unwrap())
    };
    let run = ["run", "--rm", "--network", "none"];
    let ended = after("ulimit -n 10", &[&run[..], &["busybox", "true"]].concat());
    refused(&ended, &["Too many open files"]);
    assert!(ended.err.contains("ulimit -n"), "{ended:?}");
    let gone = "mkdir -p gone; cd gone; rmdir ../gone";
    let ended = after(gone, &[&run[..], &["busybox", "pwd"]].concat());
    assert_eq!((ended.out.as_str(), ended.code), ("/\n", 0), "{ended:?}");
    let ended = after(gone, &[&run[..], &["-v", "./x:/x", "busybox", "pwd"]].concat());
    refused(&ended, &["the working directory"]);
}

#[test]
fn words_and_forms_that_are_not_known() {
    let strata = busybox();
    let word = OsStr::from_bytes(b"caf\xe9");
    let words = ["run", "--rm", "busybox", "echo"].map(OsStr::new);
    let ended = strata.end(words.into_iter().chain([word]));
    refused(&ended, &["caf\\xe9", "UTF-8"]);
    strata.ok(["run", "--name", "one", "-l", "a=b", "busybox", "true"]);
    let told = strata.ok([
        "ps",
        "-a",
        "--format",
        "{{.Names}} {{.Image}} {{.State}} {{.Labels}}",
    ]);
    assert_eq!(told, "one busybox:latest exited a=b\n");
    let told = strata.ok(["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert_eq!(told, "busybox:latest\n");
    let ended = strata.end(["ps", "--format", "{{.Colour}}"]);
    refused(&ended, &["--format", "Colour"]);
    assert!(ended.err.contains("Names"), "{ended:?}");
    let told = strata.ok([
        "inspect",
        "-f",
        "{{.State.ExitCode}} {{json .Config.Labels}}",
        "one",
    ]);
    assert_eq!(told, "0 {\"a\":\"b\"}\n");
    let ended = strata.end(["inspect", "--format", "{{.Nosuch}}", "one"]);
    assert!(ended.code == 125 && ended.err.contains("\"Nosuch\""), "{ended:?}");
    let ended = strata.end(["inspect", "--format", "{{printf .Id}}", "one"]);
    refused(&ended, &["--format", "printf"]);
    strata.ok(["rm", "one"]);
}

#[test]
fn a_completion_script_that_cannot_be_written() {
    let strata = empty();
    let mut command = strata.command(["completion", "bash"]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: cannot write the output"));
}

#[test]
fn an_image_called_host_is_told_apart_from_the_machine() {
    let strata = busybox();
    let ended = strata.end(["tag", "busybox", "host"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, ""), "{ended:?}");
    assert!(
        ended.err.starts_with("note: ") && ended.err.contains("host:latest"),
        "{ended:?}"
    );
    let of_image = strata.ok([
        "run",
        "--rm",
        "host:latest",
        "sh",
        "-c",
        "test -e /var/lib/dpkg || echo image",
    ]);
    assert_eq!(of_image, "image\n");
    assert_eq!(strata.end(["tag", "busybox", "hosts"]).err, "");
}

#[test]
fn what_docker_or_podman_would_have_taken_gets_a_way_out() {
    let strata = busybox();
    for (flags, words, hint) in [
        (&["-v", "da/ta:/x"][..], &["\"da/ta\" is no path"][..], "./PATH"),
        (&["-v", "~/data:/x"], &["\"~/data\""], "$HOME"),
        (&["-v", "/tmp:/x:U"], &["owner"], "--user"),
        (&["--mount", "src=/a,dst=/x"], &["\"/a\" is a path"], "type=bind"),
        (
            &["--mount", "type=volume,src=a,dst=/x,volume-subpath=b"],
            &["volume-subpath"],
            "whole volume",
        ),
        (&["-p", "80:80"], &["--publish", "none"], "--network bridge"),
        (&["--link", "a:b"], &["'--link'"], "--network NAME"),
        (&["--detach-keys", "ctrl-"], &["--detach-keys"], "ctrl-x,a"),
        (&["--gpus", "all"], &["--gpus"], "--device"),
        (&["--timeout", "5"], &["--timeout"], "timeout(1)"),
        (&["--no-hosts"], &["--no-hosts"], "/etc/hosts:ro"),
        (&["--pull", "often"], &["often"], "newer"),
        (
            &["--log-driver", "none", "--log-opt", "max-size=1k"],
            &["--log-opt"],
            "k8s-file",
        ),
        (&["--add-host", "a;b:1.2.3.4"], &["a;b"], "once for each"),
        (&["--ipc", "none"], &["--ipc"], "private"),
        (
            &["-v", "/tmp:/x", "--tmpfs", "/x"],
            &["two mounts", "/x"],
            "taken once",
        ),
        (
            &["-m", "20m", "--memory-swap", "10m"],
            &["--memory-swap"],
            "-1 is",
        ),
        (
            &["--cap-add", "chown", "--cap-drop", "CHOWN"],
            &["CHOWN"],
            "leave one",
        ),
        (&["--security-opt", "label=nested"], &["label"], "label=disable"),
    ] {
        run_is_refused(&strata, flags, words, hint);
    }
    for (line, words, hint) in [
        (&["build", "."][..], &["build"][..], "strata commit"),
        (&["load", "-"], &["'-'"], "standard input"),
        (&["tag", "busybox", "UPPER"], &["UPPER"], "names look like"),
    ] {
        let ended = strata.end(line);
        refused(&ended, words);
        assert!(ended.err.contains(hint), "{hint:?} is not in {ended:#?}");
    }
}

#[test]
fn what_the_launcher_refuses_gets_the_hint_of_what_it_concerns() {
    let strata = busybox();
    for (flags, words, hint) in [
        (
            &["--sysctl", "net.ipv4.no_such=1"][..],
            &["net.ipv4.no_such"][..],
            "/proc/sys",
        ),
        (
            &["-w", "/etc/passwd"],
            &["working directory /etc/passwd"],
            "-w names",
        ),
        (
            &["--ulimit", "nofile=99999999999"],
            &["RLIMIT_NOFILE"],
            "fs.nr_open",
        ),
        (&["-v", "/tmp:/etc/passwd"], &["/etc/passwd"], "both directories"),
        (&["--runtime", "/no/such"], &["/no/such"], "--runtime names"),
        (&["--runtime", "/bin/false"], &["/bin/false"], "its own words"),
    ] {
        run_is_refused(&strata, flags, words, hint);
    }
    // So few descriptors that none is left for making the container.
    let seen = strata.ok([
        "run",
        "--rm",
        "--ulimit",
        "nofile=1:2",
        "busybox",
        "sh",
        "-c",
        "ulimit -n; ulimit -Hn",
    ]);
    assert_eq!(seen, "1\n2\n");
    strata.ok(["run", "--rm", "--init", "--ulimit", "nofile=3", "busybox", "true"]);
}
