//! The contract of an overlay where an unprivileged user mounts it: in a user namespace of his own, with `userxattr`. The
//! kernel's overlay passes the cases there first, then ours.
//!
//! Each test starts this program again inside, where it goes through the cases.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use testkit::contract::{self, Case, Drivers, user_namespace};

/// Ids of the namespace.
const COUNT: u32 = 65_536;

/// Tells the test that it is inside, and where the program is.
const INSIDE: &str = "STRATA_TEST_INSIDE";

/// Cases that run at once.
const THREADS: usize = 3;

macro_rules! cases {
    ($($subject:ident { $($case:ident)* })*) => {
        &[$($((
            concat!(stringify!($subject), "::", stringify!($case)),
            contract::$subject::$case,
        )),*),*]
    };
}

const CASES: &[(&str, Case)] = testkit::for_each_contract_case!(cases);

/// What a case that does not hold says.
fn attempt(name: &str, case: Case, drivers: &Drivers) -> Result<(), String> {
    let run = || contract::run(name, case, drivers);
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()))
            .unwrap_or_else(|| "a panic".into())
    })
}

/// Goes through the cases that a user namespace has room for; what fails, and how many there were.
fn go_through(drivers: &Drivers, wanted: impl Fn(&str) -> bool) -> (Vec<(&'static str, String)>, usize) {
    let left = Mutex::new(CASES.iter().filter(|(name, _)| wanted(name)).collect::<Vec<_>>());
    let count = left.lock().unwrap().len();
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let Some((name, case)) = left.lock().unwrap().pop() else {
                        break;
                    };
                    if let Err(said) = attempt(name, *case, drivers) {
                        failed.lock().unwrap().push((*name, said));
                    }
                }
            });
        }
    });
    (failed.into_inner().unwrap(), count)
}

/// Has this very test run inside, or is inside: then `judge` does, with the program.
fn inside(test: &str, judge: impl FnOnce(&str)) {
    if let Ok(strata) = std::env::var(INSIDE) {
        user_namespace::enter();
        judge(&strata);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let reachable = common::userns::Reachable::new();
    let program = reachable.copy(std::env::current_exe().unwrap());
    let strata = reachable.copy(env!("CARGO_BIN_EXE_strata"));
    let words = [program.to_str().unwrap(), "--exact", test, "--nocapture"];
    let environment = [
        (INSIDE, strata.to_str().unwrap()),
        ("TMPDIR", dir.path().to_str().unwrap()),
    ];
    let ended = common::userns::run(COUNT, dir.path(), &words, &environment);
    assert_eq!(ended.code, 0, "{ended:#?}");
}

fn all_hold(drivers: &Drivers) {
    let (failed, count) = go_through(drivers, |name| !user_namespace::is_left_out(name));
    assert!(
        failed.is_empty(),
        "{} of {count} cases fail: {failed:#?}",
        failed.len()
    );
    assert!(count > 150, "only {count} cases");
}

#[test]
fn the_kernels_overlay() {
    inside("the_kernels_overlay", |_| all_hold(&Drivers::kernel_alone()));
}

/// Nothing is left out that the kernel's overlay does there.
#[test]
fn what_is_left_out_is_not_to_be_had() {
    inside("what_is_left_out_is_not_to_be_had", |_| {
        let (failed, count) = go_through(&Drivers::kernel_alone(), user_namespace::is_left_out);
        let left_out: Vec<_> = user_namespace::LEFT_OUT
            .iter()
            .flat_map(|(_, cases)| *cases)
            .collect();
        let holds: Vec<_> = left_out
            .iter()
            .filter(|name| !failed.iter().any(|(failed, _)| failed == **name))
            .collect();
        assert!(holds.is_empty(), "these hold, or are no cases: {holds:#?}");
        assert_eq!(count, left_out.len());
    });
}

#[test]
fn ours() {
    inside("ours", |strata| all_hold(&Drivers::fuse(strata)));
}
