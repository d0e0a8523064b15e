//! How the program is linked.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    if !is("CARGO_CFG_TARGET_OS", "linux") || !is("CARGO_CFG_TARGET_ENV", "gnu") {
        return;
    }
    // What unwinding needs becomes part of the program: a library to be loaded is a tenth of a millisecond of every start.
    // The compiler asks for the shared one by its name, and finds this in its place.
    let dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let script = "INPUT(-lgcc_eh -lgcc)\n";
    fs::write(dir.join("libgcc_s.so"), script).expect("its directory is there");
    println!("cargo:rustc-link-search=native={}", dir.display());
}
