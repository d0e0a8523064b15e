//! `strata run -t`: a terminal of the container's own, driven from one of ours. Needs root.

mod common;

use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use common::busybox;
use common::screen::on_terminal;
use sys::pty;

#[test]
fn a_shell_on_a_terminal() {
    let strata = busybox();
    let mut screen = on_terminal(&strata, &["run", "--rm", "-it", "busybox", "sh"], 33, 77);
    screen.until("# ");
    screen.type_in("tty; stty size; echo term=$TERM; ls -l /dev/console | cut -c1\n");
    screen.until("/dev/pts/0");
    screen.until("33 77");
    screen.until("term=xterm");
    // A window that changes its size tells those inside.
    screen.type_in("sh -c 'trap \"echo changed to \\$(stty size); exit\" WINCH; echo trapped; while :; do sleep 0.1; done'\n");
    screen.until("trapped\r\n");
    pty::set_size(screen.master.as_fd(), 40, 100).unwrap();
    screen.until("changed to 40 100");
    // Ctrl-C interrupts what runs inside, not strata.
    screen.type_in("sleep 1000; echo code=$?\n");
    std::thread::sleep(Duration::from_millis(300));
    screen.master.write_all(&[3]).unwrap();
    screen.type_in("echo code=$?\n");
    screen.until("code=130");
    screen.type_in("exit 4\n");
    assert_eq!(screen.code(), Some(4));
}

#[test]
fn our_own_terminal_is_as_it_was() {
    let strata = busybox();
    let mut screen = on_terminal(
        &strata,
        &[
            "run",
            "--rm",
            "-it",
            "--init",
            "busybox",
            "sh",
            "-c",
            "stty raw; stty -a; kill -KILL $$",
        ],
        24,
        80,
    );
    screen.until("speed");
    assert_eq!(screen.code(), Some(137));
    let modes = rustix::termios::tcgetattr(&screen.master).unwrap();
    assert!(
        modes
            .local_modes
            .contains(rustix::termios::LocalModes::ECHO | rustix::termios::LocalModes::ICANON)
    );
}

#[test]
fn a_terminal_without_one_of_ours() {
    let strata = busybox();
    // As docker does: output of a terminal, wherever it goes; input that is no terminal is refused with -i.
    let output = strata
        .command(["run", "--rm", "-t", "busybox", "sh", "-c", "tty; echo two"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/dev/pts/0\r\ntwo\r\n");
}
