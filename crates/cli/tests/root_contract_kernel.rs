//! The contract of an overlay on the kernel's driver: it is the reference, so a case that fails here is a wrong case.

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
    contract::run(name, case, &Drivers::kernel_alone());
}
