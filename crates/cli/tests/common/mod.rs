//! What the end-to-end tests share. Each test has a store of its own, so that they run side by side.

#![allow(dead_code, unreachable_pub, unused_imports)] // each test program uses some of it

pub mod networks;
pub mod ordinary;
pub mod screen;
pub mod userns;

pub use testkit::{Compression, Ended, Image, Layer, Strata};

/// A store with nothing in it.
pub fn empty() -> Strata {
    Strata::new(env!("CARGO_BIN_EXE_strata"))
}

/// A store with the image `busybox`.
pub fn busybox() -> Strata {
    Strata::with_busybox(env!("CARGO_BIN_EXE_strata"))
}

/// `strata run --rm FLAGS busybox sh -c SCRIPT`.
pub fn sh(strata: &Strata, flags: &[&str], script: &str) -> Ended {
    strata.end([&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat())
}

/// The same, when it must succeed: what the script printed.
#[track_caller]
pub fn said(strata: &Strata, flags: &[&str], script: &str) -> String {
    let ended = sh(strata, flags, script);
    assert!(ended.code == 0, "{flags:?} {script:?} ended with {ended:#?}");
    ended.out
}

/// What `events` tells of the past that all of `filters` let through, a line each.
#[track_caller]
pub fn happened(strata: &Strata, filters: &[&str]) -> String {
    let filters = filters.iter().flat_map(|filter| ["--filter", *filter]);
    let asked = ["events", "--since", "1h", "--until", "0s"];
    strata.ok(asked.into_iter().chain(filters))
}

/// A failure of strata's own, as every one must be: exit code 125, nothing on standard output, one line that says
/// what is wrong and names all of `words`, and one that says what helps.
#[track_caller]
pub fn refused(ended: &Ended, words: &[&str]) {
    assert_eq!((ended.code, ended.out.as_str()), (125, ""), "{ended:#?}");
    let lines: Vec<_> = ended.err.lines().collect();
    let clear =
        matches!(lines[..], [error, hint] if error.starts_with("error: ") && hint.starts_with("hint: "));
    assert!(clear, "one line and a hint: {ended:#?}");
    for word in words {
        assert!(lines[0].contains(word), "{word:?} is not in {:?}", lines[0]);
    }
}

/// A program that prints whose process it is and with whose rights it runs. Busybox gives up at once what a set-id bit
/// gives it.
pub fn who() -> Vec<u8> {
    compiled(
        "#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf(\"%d %d\\n\", getuid(), geteuid()); return 0; }\n",
    )
}

/// A program of C that needs nothing beside it.
pub fn compiled(text: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("source.c"), dir.path().join("program"));
    std::fs::write(&source, text).unwrap();
    let built = std::process::Command::new("cc")
        .args(["-O1", "-static", "-o"])
        .args([&program, &source])
        .status();
    assert!(built.expect("a C compiler (package gcc)").success());
    std::fs::read(program).unwrap()
}
