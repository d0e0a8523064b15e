//! `strata run --driver fuse`: a container whose root file system a process of ours serves.

mod common;

use std::process::Command;

use common::{Image, Layer, Strata, busybox, said};
use testkit::layer::EntryType;

const FUSE: &[&str] = &["--driver", "fuse"];

#[test]
fn a_container_on_it() {
    let strata = busybox();
    let script = "grep ' / ' /proc/mounts | cut -d' ' -f3; echo new > /new; mv /etc /moved; cat /new; ls / | grep -c moved";
    assert_eq!(said(&strata, FUSE, script), "fuse.strata\nnew\n1\n");
    let ended = common::sh(&strata, FUSE, "exit 7");
    assert_eq!(ended.code, 7);
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}

#[test]
fn set_id_bits_and_devices_count_on_it() {
    let strata = busybox();
    let script = "mknod /null c 1 3; echo x > /null; cat /null; stat -c '%t %T' /null; \
         cp /bin/busybox /suid; chmod 4755 /suid; stat -c %a /suid; \
         grep ' / ' /proc/mounts | cut -d' ' -f4 | grep -c -E 'nosuid|nodev'";
    let ended = common::sh(&strata, &["--driver=fuse", "--cap-add=MKNOD"], script);
    assert_eq!(ended.out, "1 3\n4755\n0\n", "{ended:?}");
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}

#[test]
fn what_it_changed_is_seen_and_taken_away() {
    let strata = busybox();
    let script = "echo x > /new; rm /bin/true";
    let words = [
        "run",
        "--driver=fuse",
        "--name",
        "one",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    strata.ok(words);
    let diff = strata.ok(["diff", "one"]);
    assert!(diff.contains("A /new") && diff.contains("D /bin/true"), "{diff}");
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()), "its root is unmounted");
    strata.ok(["rm", "one"]);
}

/// What a script cannot do: say whose rights a program has, and write through a map.
const PROGRAM: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int count, char **words) {
    if (count < 3) {
        printf("%d %d\n", getuid(), geteuid());
        return 0;
    }
    int how = strcmp(words[1], "shared") ? MAP_PRIVATE : MAP_SHARED;
    int file = open(words[2], O_RDWR);
    char *map = mmap(0, 4096, PROT_READ | PROT_WRITE, how, file, 0);
    if (map == MAP_FAILED) {
        perror(words[2]);
        return 1;
    }
    memcpy(map, "map", 3);
    char there[4] = "";
    pread(file, there, 3, 0);
    printf("%.3s %s\n", map, there);
    if (pwrite(file, "new", 3, 0) != 3)
        return 1;
    printf("%.3s\n", map);
    return 0;
}
"#;

/// An image with the program, as itself and with set-user-id root, with devices, and with a file.
fn with_program() -> Strata {
    let dir = tempfile::tempdir().unwrap();
    let [source, program] = ["program.c", "program"].map(|name| dir.path().join(name));
    std::fs::write(&source, PROGRAM).unwrap();
    let compiled = Command::new("cc")
        .args(["-static", "-o"])
        .args([&program, &source])
        .status();
    assert!(compiled.unwrap().success());
    let program = std::fs::read(program).unwrap();
    let layer = Layer::new()
        .file("bin/program", 0o755, &program)
        .entry_with(EntryType::Regular, "bin/as-root", program, |header| {
            header.set_mode(0o4755);
        })
        .char_device("zero", 1, 5)
        .file("text", 0o644, "old");
    let strata = Strata::new(env!("CARGO_BIN_EXE_strata"));
    strata.load(&Image::busybox().layer(layer).name("docker.io/library/program:1"));
    strata
}

#[test]
fn programs_run_with_the_rights_that_their_files_give() {
    let strata = with_program();
    let script = "cp /bin/as-root /copy; chmod 4755 /copy; touch /ready; sleep 1000";
    strata.ok([
        "run",
        "-d",
        "--name=box",
        "--driver=fuse",
        "program:1",
        "sh",
        "-c",
        script,
    ]);
    let exec = |words: &[&str]| strata.end([&["exec", "-u", "user", "box"], words].concat());
    while exec(&["test", "-e", "/ready"]).code != 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(exec(&["program"]).out, "1000 1000\n");
    assert_eq!(exec(&["as-root"]).out, "1000 0\n", "a file of a layer");
    assert_eq!(
        exec(&["/copy"]).out,
        "1000 0\n",
        "a file of the writable directory"
    );
    assert_eq!(exec(&["sh", "-c", "echo x > /copy"]).code, 1);
    strata.ok(["rm", "-f", "box"]);
    let words = [
        "--driver=fuse",
        "-u=user",
        "--security-opt=no-new-privileges",
        "program:1",
    ];
    let ended = strata.ok([&["run", "--rm"], &words[..], &["as-root"]].concat());
    assert_eq!(ended, "1000 1000\n");
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}

#[test]
fn maps_and_devices_of_a_layer() {
    let strata = with_program();
    // A private map shows what is written to the file only while its page is not its own.
    let script = "program private /text; cat /text; echo; echo old > /text; program shared /text; cat /text; \
         echo more > /more; program shared /more; cat /more; head -c 3 /zero | od -An -tx1";
    let ended = strata.ok(["run", "--rm", "--driver=fuse", "program:1", "sh", "-c", script]);
    let expected = "map old\nmap\nnew\nmap map\nnew\nnew\nmap map\nnew\nnewe\n 00 00 00\n";
    assert_eq!(ended, expected);
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}
