//! Which test programs run in the virtual machine.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build::{self, TestProgram};
use crate::test::filter;

/// One test program to run in the machine.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) test: TestProgram,
    /// Handed to the program: which of its tests to run. No argument has a space in it.
    pub(crate) arguments: Vec<String>,
    pub(crate) limit: Duration,
}

/// What is to run, and what else must lie on the disk for it.
#[derive(Debug, Default)]
pub(crate) struct Cases {
    pub(crate) list: Vec<Case>,
    /// Programs that the cases start.
    pub(crate) programs: Vec<PathBuf>,
}

/// A program of the ordinary tests that runs here a second time, on the older kernel. Everything it needs must be
/// in the machine: busybox and our own programs, no other Debian package.
struct Twice {
    name: &'static str,
    /// Tests that show what only a newer kernel can do.
    without: &'static [&'static str],
}

const TWICE: &[Twice] = &[
    Twice {
        name: "mount::root_kernel",
        // mount(2) answers with a number, and Linux 6.1 has no other words for an overlay.
        without: &["the_kernels_words_reach_the_error"],
    },
    // Here with every controller in the one hierarchy.
    Twice {
        name: "runtime::root_cgroup",
        without: &[],
    },
    Twice {
        name: "store::root_contract",
        without: &[],
    },
    Twice {
        name: "sys",
        without: &[],
    },
    Twice {
        name: "runtime::root_isolation",
        without: &[],
    },
    Twice {
        name: "runtime::root_mounts",
        without: &[],
    },
    Twice {
        name: "runtime::root_remount",
        without: &[],
    },
    // Here without passthrough, io_uring and STATX.
    Twice {
        name: "cli::root_contract_fuse",
        without: &[
            // Perl, mkfs.ext4 and filefrag are not in the machine.
            "locks::",
            "full::a_full_disk",
            "size::reflinks",
            // FUSE tells them since Linux 6.6.
            "attributes::birth_times",
            // The kernel's overlay shows escaped names since Linux 6.7.
            "xattrs::escapes_come_from_below",
            "xattrs::private_names_are_hidden_and_escaped",
        ],
    },
    Twice {
        name: "cli::root_differential_fuse",
        without: &["io_uring"],
    },
    Twice {
        name: "cli::root_mount_options",
        // Debian's unshare and mount(8) are not in the machine, nor what came with Linux 6.5 and 6.6.
        without: &[
            "data_only_lower_directories",
            "mount_8_mounts_and_remounts",
            "a_user_is_told_of_userxattr",
            "options_of_the_kernel_s_overlay_alone",
        ],
    },
    Twice {
        name: "runtime::root_defaults",
        // Debian's unshare and umount are not in the machine.
        without: &["without_cgroups_the_root_has_no_devices"],
    },
];

/// What Debian has, and the cases start beside busybox and our own programs. Their packages are in `packages.rs`.
const DEBIANS: &[&str] = &[
    "/usr/sbin/apparmor_parser",
    "/usr/bin/crun",
    "/usr/sbin/mkfs.vfat",
    "/usr/sbin/mkfs.xfs",
    "/usr/bin/secilc",
    "/usr/bin/chattr",
    "/usr/bin/lsattr",
];

/// The program for the machine with SELinux.
const LABELLED: &str = "vm_selinux";

/// Emulation is slow, and a case that hangs must not cost the whole run.
pub(super) const LIMIT: Duration = Duration::from_secs(900);

/// What runs in the machines, and the program that their users type.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// Test targets named `vm_*`, which run only here: their package says `test = false` for them.
    pub(crate) alone: Cases,
    /// Of those the ones that need a kernel with SELinux, which excludes AppArmor.
    pub(crate) labelled: Cases,
    /// Those that run a second time.
    pub(crate) twice: Cases,
    /// Our own program.
    pub(crate) strata: PathBuf,
    /// This one, as it was built last: what runs may have been replaced by it.
    pub(crate) xtask: PathBuf,
}

/// Builds all of it, and chooses what `only` names.
pub(crate) fn chosen(only: Option<&str>) -> Result<Chosen> {
    let alone = build::tests(&["--workspace", "--test", "vm_*"])?;
    let all = build::tests(&["--workspace"])?;
    let mut programs: Vec<PathBuf> = alone.programs.into_iter().chain(all.programs).collect();
    programs.sort();
    programs.dedup();
    let of_name = |name: &str| {
        let found = programs.iter().find(|program| program.ends_with(name)).cloned();
        found.with_context(|| format!("no test starts the program {name}"))
    };
    let (strata, xtask) = (of_name("strata")?, of_name("xtask")?);
    programs.extend(DEBIANS.iter().map(PathBuf::from));
    let (labelled, alone): (Vec<_>, Vec<_>) = alone
        .tests
        .into_iter()
        .partition(|test| test.name.ends_with(LABELLED));
    let list = |tests: Vec<TestProgram>| Cases {
        list: tests.into_iter().filter_map(|test| case(test, only)).collect(),
        programs: programs.clone(),
    };
    Ok(Chosen {
        alone: list(alone),
        labelled: list(labelled),
        twice: Cases {
            list: all
                .tests
                .into_iter()
                .filter(|test| twice(test).is_some())
                .filter_map(|test| case(test, only))
                .collect(),
            programs: programs.clone(),
        },
        strata,
        xtask,
    })
}

fn case(test: TestProgram, only: Option<&str>) -> Option<Case> {
    let filter = filter(&test, only)?;
    let without = twice(&test).map(|twice| twice.without).unwrap_or_default();
    let mut arguments: Vec<String> = without
        .iter()
        .flat_map(|name| ["--skip".into(), (*name).into()])
        .collect();
    arguments.extend((!filter.is_empty()).then(|| filter.to_owned()));
    Some(Case {
        test,
        arguments,
        limit: LIMIT,
    })
}

fn twice(test: &TestProgram) -> Option<&'static Twice> {
    TWICE.iter().find(|twice| twice.name == test.name)
}
