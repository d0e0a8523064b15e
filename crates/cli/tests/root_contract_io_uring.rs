//! The contract of an overlay on our own driver over io_uring. Turns the kernel's switch on for the moment of each mount.

use testkit::contract::{self, Drivers};

macro_rules! tests {
    ($($subject:ident { $($case:ident)* })*) => {
        $(mod $subject {
            $(#[test]
            fn $case() {
                super::case(
                    concat!(stringify!($subject), "::", stringify!($case)),
                    testkit::contract::$subject::$case,
                );
            })*
        })*
    };
}

testkit::for_each_contract_case!(tests);

fn case(name: &str, case: contract::Case) {
    contract::run(
        name,
        case,
        &Drivers::fuse_over_io_uring(env!("CARGO_BIN_EXE_strata")),
    );
}
