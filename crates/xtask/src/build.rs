//! Asks cargo to build test programs and to say where it put them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A program that cargo built from the tests of one target.
#[derive(Debug, Clone)]
pub(crate) struct TestProgram {
    /// `strata-mount::root_overlay`, or `strata-mount` for the unit tests of the crate's library.
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    /// The directory that cargo would start it in: its package's.
    pub(crate) package_dir: PathBuf,
}

/// What one call of cargo built.
#[derive(Debug, Default)]
pub(crate) struct Built {
    pub(crate) tests: Vec<TestProgram>,
    /// Programs that tests start, `strata` among them.
    pub(crate) programs: Vec<PathBuf>,
}

/// `cargo test --no-run ARGS`. Compiler messages go to standard error as usual.
pub(crate) fn tests(args: &[&str]) -> Result<Built> {
    let output = cargo()
        .args(["test", "--no-run", "--message-format=json-render-diagnostics"])
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo test --no-run")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let mut built = Built::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let Some(executable) = message["executable"].as_str().map(PathBuf::from) else {
            continue;
        };
        if message["profile"]["test"] == Value::Bool(true) {
            let manifest = Path::new(
                message["manifest_path"]
                    .as_str()
                    .context("cargo names no manifest")?,
            );
            let package_dir = manifest
                .parent()
                .context("a manifest lies in a directory")?
                .to_owned();
            built.tests.push(TestProgram {
                name: test_name(&message, &package_dir),
                executable,
                package_dir,
            });
        } else {
            built.programs.push(executable);
        }
    }
    // Small pieces first: what is wrong with a crate shows before what is wrong with the whole.
    built
        .tests
        .sort_by_key(|test| (order(&test.package_dir), test.name.clone()));
    Ok(built)
}

/// The cargo that started us, so that a toolchain chosen for us is kept.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}

/// The root of the workspace that this program was built from.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("/"))
}

/// Where cargo puts what it builds; our own disks and logs go there too.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

fn test_name(message: &Value, package_dir: &Path) -> String {
    let package = package_dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    match message["target"]["kind"][0].as_str() {
        Some("test") => format!("{package}::{}", message["target"]["name"].as_str().unwrap_or("?")),
        _ => package,
    }
}

fn order(package_dir: &Path) -> usize {
    let package = package_dir.file_name().unwrap_or_default();
    [
        "sys", "overlay", "mount", "store", "image", "runtime", "testkit", "engine", "xtask", "cli",
    ]
    .iter()
    .position(|name| package == *name)
    .unwrap_or(usize::MAX)
}
