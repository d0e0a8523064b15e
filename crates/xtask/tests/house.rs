//! The house rules that a test can check. ARCHITECTURE.md says why each holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which of our own crates each may import. Its tests may import any: the mount driver is overlay's reference.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("strata-sys", &[]),
    ("strata-overlay", &["strata-sys"]),
    ("strata-fuse", &["strata-sys", "strata-overlay"]),
    ("strata-mount", &["strata-sys"]),
    ("strata-store", &["strata-sys", "strata-mount"]),
    ("strata-image", &["strata-sys", "strata-overlay", "strata-store"]),
    ("strata-runtime", &["strata-sys", "strata-mount"]),
    ("strata-network", &["strata-sys", "strata-runtime"]),
    (
        "strata-engine",
        &[
            "strata-sys",
            "strata-overlay",
            "strata-mount",
            "strata-store",
            "strata-image",
            "strata-runtime",
            "strata-network",
        ],
    ),
    ("strata-grpc", &[]),
    (
        "strata-snapshotter",
        &["strata-sys", "strata-mount", "strata-store", "strata-grpc"],
    ),
    (
        "strata",
        &[
            "strata-sys",
            "strata-engine",
            "strata-fuse",
            "strata-mount",
            "strata-runtime",
            "strata-snapshotter",
        ],
    ),
];

/// May import anything: nothing that users install imports them.
const TOOLS: &[&str] = &["strata-testkit", "xtask"];

/// A file past this is two subjects.
const LINES: usize = 600;

#[test]
fn crates_import_only_what_lies_below_them() {
    let rules: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let ours: BTreeSet<_> = rules.keys().copied().chain(TOOLS.iter().copied()).collect();
    let mut broken = Vec::new();
    for package in metadata()["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if TOOLS.contains(&name) {
            continue;
        }
        let Some(allowed) = rules.get(name) else {
            broken.push(format!("{name}: not in the table of this test"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let imported = dependency["name"].as_str().unwrap();
            let for_tests = dependency["kind"] == "dev";
            if ours.contains(imported) && !allowed.contains(&imported) && !for_tests {
                broken.push(format!("{name} imports {imported}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn only_sys_may_hold_unsafe_code() {
    let mut broken = Vec::new();
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(
        workspace.contains("unsafe_code = \"forbid\""),
        "the workspace's lints forbid unsafe code"
    );
    for krate in crates() {
        let manifest = fs::read_to_string(krate.join("Cargo.toml")).unwrap();
        let forbidden =
            manifest.contains("[lints]\nworkspace = true") || manifest.contains("unsafe_code = \"forbid\"");
        if !krate.ends_with("sys") && !forbidden {
            broken.push(krate);
        }
    }
    assert!(broken.is_empty(), "unsafe code is not forbidden in {broken:?}");
}

#[test]
fn the_map_knows_every_crate() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let name = |krate: &PathBuf| krate.file_name().unwrap().to_string_lossy().into_owned();
    let missing: Vec<_> = crates()
        .iter()
        .map(name)
        .filter(|name| !map.contains(&format!("| `{name}` |")))
        .collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md has no row for {missing:?}");
}

#[test]
fn every_file_is_of_one_subject() {
    let mut broken = Vec::new();
    each_text(|path, text| {
        // Tests come in lists, beside the code or in files of their own, and are not counted.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().count();
        let is_code = path.extension().is_some_and(|extension| extension == "rs");
        if is_code && path.components().any(|part| part.as_os_str() == "src") && lines > LINES {
            broken.push(format!("{} has {lines} lines", path.display()));
        }
    });
    assert!(broken.is_empty(), "more than {LINES} lines: {broken:#?}");
}

#[test]
fn what_runs_is_a_test_not_an_example() {
    let mut broken = Vec::new();
    each_text(|path, text| {
        let fences = text.lines().enumerate().filter_map(|(number, line)| {
            let line = line.trim_start();
            let words = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))?;
            Some((number + 1, words.trim_start().strip_prefix("```")?))
        });
        // Every other one opens. Cargo would take most of a minute to look for those that could run.
        let opened = fences.step_by(2).filter(|(_, kind)| *kind != "text");
        broken.extend(opened.map(|(number, _)| format!("{}:{number}", path.display())));
    });
    assert!(
        broken.is_empty(),
        "an example that nothing runs; ```text opens a figure: {broken:#?}"
    );
}

#[test]
fn nothing_is_left_for_later_or_passed_over() {
    // Put together here, so that this file does not hold them.
    let words = [
        concat!("#[ign", "ore"),
        concat!("tod", "o!("),
        concat!("unimple", "mented!("),
    ];
    let mut broken = Vec::new();
    each_text(|path, text| {
        if path.extension().is_some_and(|extension| extension == "rs") {
            let found = words
                .iter()
                .filter(|word| text.lines().any(|line| line.trim_start().starts_with(**word)));
            broken.extend(found.map(|word| format!("{}: {word}", path.display())));
        }
    });
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn no_file_names_the_machine_it_was_written_on() {
    // Where this checkout lies, where cargo builds, and who builds: true of one machine only.
    let root = root();
    let mut private = Vec::new();
    // A directory right beneath the root (/src) has a name that means something everywhere.
    let deep = |path: &&Path| path.components().count() > 2;
    private.extend(
        [Some(root), root.parent()]
            .into_iter()
            .flatten()
            .filter(deep)
            .map(|path| path.display().to_string()),
    );
    private.extend(
        std::env::var("CARGO_TARGET_DIR")
            .ok()
            .filter(|dir| dir.starts_with('/')),
    );
    private.extend(std::env::var("CARGO_HOME").ok());
    let mut broken = Vec::new();
    each_text(|path, text| {
        for word in private.iter().filter(|word| text.contains(*word)) {
            broken.push(format!("{}: {word}", path.display()));
        }
    });
    assert!(broken.is_empty(), "{broken:#?}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

fn crates() -> Vec<PathBuf> {
    fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every text file of the project, as a path relative to its root. No git is needed: a bare machine may have none.
fn each_text(mut look: impl FnMut(&Path, &str)) {
    let mut dirs = vec![root().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let name = entry.file_name();
            if kind.is_dir() && name != ".git" && name != "target" {
                dirs.push(path);
            } else if kind.is_file()
                && name != ".git"
                && let Ok(text) = fs::read_to_string(&path)
            {
                look(path.strip_prefix(root()).unwrap(), &text);
            }
        }
    }
}
