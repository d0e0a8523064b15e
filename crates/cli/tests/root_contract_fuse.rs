//! The contract of an overlay on our own driver, whose trees the kernel's must see alike.

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
    contract::run(name, case, &Drivers::fuse(env!("CARGO_BIN_EXE_strata")));
}
