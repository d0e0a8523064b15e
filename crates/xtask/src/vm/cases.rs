//! Which test programs run in the virtual machine.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::build::{self, TestProgram};
use crate::test::filter;

/// One test program to run in the machine.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) test: TestProgram,
    /// Handed to the program: only tests whose name contains it.
    pub(crate) filter: String,
    pub(crate) limit: Duration,
}

/// What is to run, and what else must lie on the disk for it.
#[derive(Debug, Default)]
pub(crate) struct Cases {
    pub(crate) list: Vec<Case>,
    /// Programs that the cases start.
    pub(crate) programs: Vec<PathBuf>,
}

/// Programs of the ordinary tests that run here a second time, on the older kernel. Everything they need must be
/// in the machine: busybox and our own programs, no other Debian package.
const TWICE: &[&str] = &[];

/// Emulation is slow, and a case that hangs must not cost the whole run.
const LIMIT: Duration = Duration::from_secs(240);

/// Test targets named `vm_*` run only here: their package says `test = false` for them. Builds all of them.
pub(crate) fn chosen(only: Option<&str>) -> Result<Cases> {
    let mut built = build::tests(&["--workspace", "--test", "vm_*"])?;
    if !TWICE.is_empty() {
        let all = build::tests(&["--workspace"])?;
        built.tests.extend(
            all.tests
                .into_iter()
                .filter(|test| TWICE.contains(&test.name.as_str())),
        );
        built.programs.extend(all.programs);
    }
    built.programs.sort();
    built.programs.dedup();
    let mut list = Vec::new();
    for test in built.tests {
        let Some(filter) = filter(&test, only).map(str::to_owned) else {
            continue;
        };
        list.push(Case {
            test,
            filter,
            limit: LIMIT,
        });
    }
    Ok(Cases {
        list,
        programs: built.programs,
    })
}
