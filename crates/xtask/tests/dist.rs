//! What is packaged beside the program: completions and pages (`xtask dist`) say of every command what the command line's
//! definition says, and the unit is one that systemd takes.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A page's text as it is read: without the typesetting.
fn page(path: &Path) -> String {
    let source = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    source
        .replace("\\-", "-")
        .replace("\\*(Aq", "'")
        .replace("\\fB", "")
        .replace("\\fI", "")
        .replace("\\fR", "")
}

#[test]
fn completions_and_pages_know_every_command_and_flag() {
    let temp = tempfile::tempdir().unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["dist", "--out"])
        .arg(temp.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let told = String::from_utf8(made.stdout).unwrap();

    let completions: Vec<(&str, String)> = ["strata.bash", "_strata", "strata.fish"]
        .into_iter()
        .map(|name| {
            let path = temp.path().join("completions").join(name);
            assert!(told.contains(path.to_str().unwrap()), "{told}");
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    let pages = temp.path().join("man/man1");
    let whole = page(&pages.join("strata.1"));

    let mut definition = strata_cli::command();
    definition.build();
    let commands: Vec<_> = definition
        .get_subcommands()
        // `help` is another way to ask for what the pages hold.
        .filter(|c| !c.is_hide_set() && c.get_name() != "help")
        .collect();
    assert!(commands.len() > 15);
    for command in commands {
        let name = command.get_name();
        let path = pages.join(format!("strata-{name}.1"));
        assert!(told.contains(path.to_str().unwrap()), "{told}");
        let own = page(&path);
        assert!(
            whole.contains(&format!("strata-{name}(1)")),
            "strata.1 lacks {name}"
        );
        let about = command.get_about().unwrap().to_string();
        assert!(own.contains(&about), "{name}: {about}");
        for (shell, text) in &completions {
            assert!(
                text.contains(&format!(" {name}")) || text.contains(&format!("'{name}:")),
                "{shell} lacks {name}"
            );
        }
        for flag in command
            .get_arguments()
            .filter(|arg| !arg.is_hide_set() && !arg.is_global_set())
        {
            let Some(long) = flag.get_long() else { continue };
            assert!(
                own.contains(&format!("--{long}")),
                "{name}: the page lacks --{long}"
            );
            for (shell, text) in &completions {
                let fish = format!("-l {long}");
                assert!(
                    text.contains(&format!("--{long}")) || text.contains(&fish),
                    "{shell}: {name} --{long}"
                );
            }
        }
    }
    // Roles that the program starts itself in are nobody's to complete.
    for (shell, text) in &completions {
        for role in ["supervise", "reap"] {
            let offered = text
                .split(|c: char| !c.is_ascii_alphanumeric())
                .any(|word| word == role);
            assert!(!offered, "{shell} offers {role}");
        }
    }
    assert_eq!(
        fs::read_dir(&pages).unwrap().count(),
        told.lines().count() - completions.len(),
        "every page is told, and no other is there"
    );
}

#[test]
fn systemd_has_nothing_to_say_of_the_units() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist");
    let unit = dist.join("strata.service");
    let verified = |unit: &Path| {
        let verified = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(unit)
            .output()
            .unwrap();
        (
            verified.status.success(),
            String::from_utf8(verified.stderr).unwrap(),
        )
    };
    for unit in fs::read_dir(dist).unwrap() {
        let unit = unit.unwrap().path();
        assert_eq!(verified(&unit), (true, String::new()), "{}", unit.display());
    }
    // It says what is wrong where something is.
    let temp = tempfile::tempdir().unwrap();
    let wrong = temp.path().join("strata.service");
    let text = fs::read_to_string(&unit).unwrap();
    fs::write(&wrong, text.replace("KillMode=", "KilMode=")).unwrap();
    let (_, said) = verified(&wrong);
    assert!(said.contains("KilMode"), "{said}");
}
