//! `strata commit`, `strata export`, `strata image squash`, `strata diff` of any two. Needs root.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Image, Layer, Strata, busybox, empty, refused};
use serde_json::Value;

/// Runs a script in a container that stays.
fn leave(strata: &Strata, flags: &[&str], name: &str, script: &str) {
    strata.ok([&["run", "--name", name], flags, &["busybox", "sh", "-c", script]].concat());
}

fn inspect(strata: &Strata, image: &str) -> Value {
    let text = strata.ok(["image", "inspect", image]);
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}

fn layers(strata: &Strata, name: &str) -> Vec<String> {
    let stack: Value = serde_json::from_str(&strata.ok(["layers", "--format", "json", name])).unwrap();
    let layers = stack["Layers"].as_array().unwrap();
    layers
        .iter()
        .map(|layer| layer["DiffId"].as_str().unwrap().to_owned())
        .collect()
}

const SCRIPT: &str = "echo new > /new; rm /bin/true; mkdir -p /d/e; chmod 700 /root; \
    mv /home /moved; echo more >> /etc/passwd; ln /new /d/link";

/// What [`SCRIPT`] did, told by a container of the image.
const LOOK: &str = "cat /new /d/link; ls /bin/true /home 2>&1 | wc -l; stat -c %a /root; ls -d /moved/user; \
    tail -n 1 /etc/passwd; stat -c %h /new; find / -xdev -maxdepth 1 | sort | tr '\\n' ' '";

#[test]
fn what_a_container_changed_by_both_drivers() {
    let strata = busybox();
    let mut shown = Vec::new();
    for driver in ["kernel", "fuse"] {
        let flags = ["--driver", driver];
        let image = format!("by-{driver}");
        leave(&strata, &flags, driver, SCRIPT);
        let id = strata.ok([
            "commit",
            "-m",
            "said",
            "-a",
            "me",
            "-c",
            "CMD [\"cat\", \"/new\"]",
            driver,
            &image,
        ]);
        assert!(id.starts_with("sha256:"), "{id}");
        assert_eq!(strata.ok(["run", "--rm", &image]), "new\n");
        shown.push(strata.ok(["run", "--rm", &image, "sh", "-c", LOOK]));
        // Again: the same bytes, which are there already.
        strata.ok(["commit", driver, "again"]);
        assert_eq!(layers(&strata, &image), layers(&strata, "again"));
        // Mount points are not the container's doing, and no blob was made.
        let diff = strata.ok(["diff", driver]);
        assert!(
            diff.contains("A /new") && !diff.contains("/proc") && !diff.contains("hosts"),
            "{diff}"
        );
        strata.ok(["rm", driver]);
    }
    assert_eq!(
        shown[0],
        "new\nnew\n2\n700\n/moved/user\nmore\n2\n/ /bin /d /dev /etc /moved /new /proc /root /sys /tmp /usr /var "
    );
    assert_eq!(shown[0], shown[1]);
    let told = inspect(&strata, "by-kernel");
    assert_eq!(told["RootFS"]["Layers"].as_array().unwrap().len(), 2, "{told}");
    strata.ok(["rmi", "by-kernel", "by-fuse", "again"]);
    assert_eq!(
        strata.ok(["run", "--rm", "busybox", "ls", "/bin/true"]),
        "/bin/true\n"
    );
}

#[test]
fn it_is_run_as_the_container_was() {
    let strata = busybox();
    let words = [
        "run",
        "--name",
        "cc",
        "-e",
        "A=x y",
        "-w",
        "/tmp",
        "-u",
        "1000",
        "--label",
        "k=v",
        "busybox",
        "sh",
        "-c",
        "pwd; id -u; echo $A",
    ];
    let said = strata.ok(words);
    assert_eq!(said, "/tmp\n1000\nx y\n");
    strata.ok(["commit", "cc", "same"]);
    assert_eq!(strata.ok(["run", "--rm", "same"]), said);
    let told = inspect(&strata, "same");
    assert_eq!(told["Config"]["Labels"]["k"], "v", "{told}");
    strata.ok(["commit", "-c", "USER 0", "--change", "ENV A=z", "cc", "other"]);
    assert_eq!(strata.ok(["run", "--rm", "other"]), "/tmp\n0\nz\n");
    refused(&strata.end(["commit", "-c", "RUN x", "cc", "bad"]), &["RUN x"]);
    refused(&strata.end(["commit", "nosuch", "bad"]), &["nosuch"]);
    refused(&strata.end(["commit", "cc", "Bad Name"]), &["Bad Name"]);
    strata.ok(["run", "--name", "host", "host", "true"]);
    refused(&strata.end(["commit", "host", "bad"]), &["host", "no image"]);
    assert_eq!(strata.ok(["images", "-q", "bad"]), "");
    strata.ok(["rm", "cc", "host"]);
}

#[test]
fn one_that_runs_stands_still_and_goes_on() {
    let strata = busybox();
    let script = "i=0; while :; do i=$((i+1)); echo $i > /a; echo $i > /b; done";
    let mut running = strata
        .command(["run", "--name", "busy", "busybox", "sh", "-c", script])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while !strata.end(["diff", "busy"]).out.contains("A /b") {
        assert!(Instant::now() < end, "it does not come up");
        std::thread::sleep(Duration::from_millis(50));
    }
    strata.ok(["commit", "busy", "still"]);
    let text = strata.ok(["run", "--rm", "still", "sh", "-c", "cat /a /b"]);
    let counts: Vec<i64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    // Both were written at one moment, give or take the one that was being written.
    let close = counts.len() < 2 || (counts[0] - counts[1]).abs() <= 1;
    assert!(close, "{text:?}");
    // One that moves may change a file while it is read, and is told so.
    let end = Instant::now() + Duration::from_secs(20);
    let moving = loop {
        let moving = strata.end(["commit", "--pause=false", "busy", "moving"]);
        if moving.code == 0 {
            break moving;
        }
        refused(&moving, &["busy", "it changed while it was read"]);
        assert!(Instant::now() < end, "it is never caught between two changes");
    };
    assert!(moving.out.starts_with("sha256:"));
    // It goes on.
    let now = || strata.ok(["diff", "busy", "still"]);
    assert!(now().contains("C /a"), "{}", now());
    strata.ok(["rm", "-f", "busy"]);
    running.wait().unwrap();
}

#[test]
fn one_whose_commit_is_killed_goes_on() {
    let strata = busybox();
    let script = "dd if=/dev/zero of=/big bs=1M count=300 2>/dev/null; touch /ready; sleep 1000";
    strata.ok(["run", "-d", "--name", "busy", "busybox", "sh", "-c", script]);
    let wait_for = |what: &str, reached: &dyn Fn() -> bool| {
        let end = Instant::now() + Duration::from_secs(20);
        while !reached() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let is = |state: &str| {
        let told: Value = serde_json::from_str(&strata.ok(["inspect", "busy"])).unwrap();
        told[0]["State"]["Status"] == state
    };
    wait_for("it is not ready", &|| {
        strata.end(["diff", "busy"]).out.contains("A /ready")
    });
    let mut command = strata.command(["commit", "busy", "one"]);
    let mut killed = command.stdout(Stdio::null()).spawn().unwrap();
    wait_for("it is not paused", &|| is("paused"));
    killed.kill().unwrap();
    killed.wait().unwrap();
    wait_for("it stays as it was", &|| is("running"));
    assert_eq!(strata.ok(["images", "-q", "one"]), "");
    strata.ok(["rm", "-f", "busy"]);
}

#[test]
fn exported_and_imported_again() {
    let strata = busybox();
    leave(&strata, &[], "cc", SCRIPT);
    let tar = strata.dir().join("root.tar");
    strata.ok(["export", "-o", tar.to_str().unwrap(), "cc"]);
    let stream = strata.command(["export", "cc"]).output().unwrap();
    assert!(stream.status.success() && stream.stdout == std::fs::read(&tar).unwrap());
    strata.ok(["import", "-q", tar.to_str().unwrap(), "imported"]);
    let shown = strata.ok(["run", "--rm", "imported", "sh", "-c", LOOK]);
    assert!(
        shown.starts_with("new\nnew\n2\n700\n/moved/user\nmore\n2\n"),
        "{shown}"
    );
    // GNU tar sees the same names.
    let listed = Command::new("tar").arg("-tf").arg(&tar).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for name in ["new", "d/link", "moved/user/", "bin/sh"] {
        assert!(listed.lines().any(|line| line == name), "{name}: {listed}");
    }
    assert!(
        !listed.contains("bin/true\n") && !listed.contains(".wh."),
        "{listed}"
    );
    refused(
        &strata.end(["export", "-o", "/nosuch/file", "cc"]),
        &["/nosuch/file"],
    );
    strata.ok(["rm", "cc"]);
}

#[test]
fn layers_made_one() {
    let strata = empty();
    let image = Image::busybox()
        .name("three:1")
        .layer(
            Layer::new()
                .dir("d", 0o755)
                .file("d/hidden", 0o644, "x".repeat(100_000))
                .file("f", 0o644, "one"),
        )
        .layer(Layer::new().whiteout("d/hidden").file("f", 0o644, "two"));
    strata.load(&image);
    let id = strata.ok(["image", "squash", "-m", "why", "three:1", "one"]);
    assert_eq!(layers(&strata, "one").len(), 1);
    assert_eq!(strata.ok(["diff", "one", "three:1"]), "", "both show the same");
    assert_eq!(
        strata.ok(["run", "--rm", "one", "sh", "-c", "cat /f; ls /d"]),
        "two"
    );
    strata.ok(["rmi", "three:1"]);
    assert_eq!(strata.ok(["run", "--rm", id.trim(), "cat", "/f"]), "two");
    refused(&strata.end(["image", "squash", "nosuch"]), &["nosuch"]);
}

#[test]
fn any_two_are_compared() {
    let strata = empty();
    let top = Layer::new()
        .dir("etc", 0o755)
        .file("etc/new", 0o644, "new")
        .whiteout("bin/true");
    strata.load(&Image::busybox());
    strata.load(&Image::busybox().name("child:1").layer(top));
    assert_eq!(
        strata.ok(["diff", "child:1"]),
        "C /bin\nD /bin/true\nC /etc\nA /etc/new\n"
    );
    assert_eq!(
        strata.ok(["diff", "child:1", "busybox"]),
        strata.ok(["diff", "child:1"])
    );
    assert_eq!(
        strata.ok(["diff", "busybox", "child:1"]),
        "C /bin\nA /bin/true\nC /etc\nD /etc/new\n"
    );
    strata.ok(["run", "--name", "cc", "child:1", "rm", "/etc/new"]);
    assert_eq!(strata.ok(["diff", "cc"]), "C /etc\nD /etc/new\n");
    assert_eq!(strata.ok(["diff", "cc", "busybox"]), "C /bin\nD /bin/true\n");
    assert_eq!(strata.ok(["diff", "busybox", "cc"]), "C /bin\nA /bin/true\n");
    // A layer by its diff ID: the directory alone.
    let own = &layers(&strata, "child:1")[0];
    let alone = strata.ok(["diff", own]);
    assert!(alone.contains("A /etc/new\n"), "{alone}");
    let short = &own["sha256:".len()..][..12];
    assert_eq!(strata.ok(["diff", short]), alone);
    let json: Value = serde_json::from_str(&strata.ok(["diff", "--format", "json", "cc"])).unwrap();
    assert_eq!(json[1]["Kind"], "D");
    refused(&strata.end(["diff", "nosuch"]), &["nosuch"]);
    refused(&strata.end(["diff", "cc", "nosuch"]), &["nosuch"]);
    strata.ok(["rm", "cc"]);
    // A pipe that closes early is no failure.
    let mut head = strata
        .command(["diff", "busybox", short])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(head.stdout.take());
    head.wait().unwrap();
    std::io::stdout().flush().unwrap();
}

/// What strata made to mount on is not the container's doing, wherever links lead it.
#[test]
fn mount_points_behind_links_are_no_change() {
    let strata = busybox();
    let layer = Layer::busybox()
        .symlink("data", "srv/../srv/deep")
        .dir("srv", 0o755)
        .symlink("etc/resolv.conf", "../run/resolve/stub.conf");
    strata.load(&Image::new("linked").layer(layer));
    let share = strata.dir().join("share");
    std::fs::create_dir(&share).unwrap();
    let volume = format!("{}:/data", share.display());
    strata.ok([
        "run",
        "--name",
        "one",
        "-v",
        &volume,
        "linked",
        "touch",
        "/data/there",
        "/mine",
    ]);
    assert!(share.join("there").exists());
    assert_eq!(strata.ok(["diff", "one"]), "A /mine\n");
    strata.ok(["commit", "one", "after"]);
    let found = strata.ok([
        "run",
        "--rm",
        "--dns",
        "192.0.2.1",
        "after",
        "sh",
        "-c",
        "ls -d /srv/deep /mine 2>&1; true",
    ]);
    assert_eq!(found, "ls: /srv/deep: No such file or directory\n/mine\n");
}

/// A new digest vouches for what it is of: what is not as it was unpacked gets none.
#[test]
fn a_damaged_layer_is_not_squashed() {
    let strata = busybox();
    let file = strata.root().join("snapshots/1/fs/etc/passwd");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("root", "toor")).unwrap();
    let ended = strata.end(["image", "squash", "busybox", "laundered"]);
    refused(&ended, &["etc/passwd"]);
    assert!(!strata.ok(["images"]).contains("laundered"));
    std::fs::write(&file, text).unwrap();
    strata.ok(["image", "squash", "busybox", "one"]);
}
