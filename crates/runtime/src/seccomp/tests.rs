//! The compiled program against a naive reading of the rules, on an interpreter of classic BPF.

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Op, LinuxSyscall,
};
use proptest::prelude::*;
use sys::seccomp::{Instruction, Program};

use super::abi::{X32_BIT, row};
use super::numbers::ROWS;
use super::*;

/// `struct seccomp_data`, without the instruction pointer.
#[derive(Debug, Clone, Copy)]
struct Call {
    number: u32,
    arch: u32,
    args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16..64 => {
                let arg = self.args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) {
                    arg as u32
                } else {
                    (arg >> 32) as u32
                }
            }
            _ => panic!("load at {offset}"),
        }
    }
}

/// Runs a program as the kernel would, and tells whether anything but number and architecture was looked at.
fn run(program: &[Instruction], call: &Call) -> (u32, bool) {
    let (mut at, mut accumulator, mut looked) = (0, 0u32, false);
    loop {
        let Instruction {
            code,
            jump_true,
            jump_false,
            k,
        } = program[at];
        at += 1;
        let holds = match code {
            0x20 => {
                assert_eq!(k % 4, 0, "unaligned load");
                looked |= k > 4;
                accumulator = call.word(k);
                continue;
            }
            0x54 => {
                accumulator &= k;
                continue;
            }
            0x05 => {
                at += k as usize;
                continue;
            }
            0x06 => return (k, looked),
            0x15 => accumulator == k,
            0x25 => accumulator > k,
            0x35 => accumulator >= k,
            other => panic!("instruction {other:#x}"),
        };
        at += usize::from(if holds { jump_true } else { jump_false });
    }
}

fn action_value(action: Action, errno: Option<u32>) -> u32 {
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => 0,
        Action::ScmpActKillProcess => 0x8000_0000,
        Action::ScmpActTrap => 0x0003_0000,
        Action::ScmpActErrno => 0x0005_0000 | errno.unwrap_or(1),
        Action::ScmpActNotify => 0x7fc0_0000,
        Action::ScmpActTrace => 0x7ff0_0000 | errno.unwrap_or(1),
        Action::ScmpActLog => 0x7ffc_0000,
        Action::ScmpActAllow => 0x7fff_0000,
    }
}

fn holds(arg: &LinuxSeccompArg, args: &[u64; 6], wide: bool) -> bool {
    let actual = if wide {
        args[arg.index()]
    } else {
        args[arg.index()] & 0xffff_ffff
    };
    let (value, second) = (arg.value(), arg.value_two().unwrap_or(0));
    match arg.op() {
        Op::ScmpCmpNe => actual != value,
        Op::ScmpCmpLt => actual < value,
        Op::ScmpCmpLe => actual <= value,
        Op::ScmpCmpEq => actual == value,
        Op::ScmpCmpGe => actual >= value,
        Op::ScmpCmpGt => actual > value,
        Op::ScmpCmpMaskedEq => actual & value == second & value,
    }
}

/// What the module's page says, read aloud.
fn judge(seccomp: &LinuxSeccomp, abis: &[Abi], call: &Call) -> u32 {
    let default = action_value(seccomp.default_action(), seccomp.default_errno_ret());
    let x32 = call.number >= X32_BIT && call.number != u32::MAX;
    let entered = abis.iter().find(|abi| {
        abi.audit_arch() == call.arch
            && (abi.arch() != Arch::ScmpArchX86_64 || !x32)
            && (**abi != Abi::X32 || x32)
    });
    let Some(abi) = entered else { return 0x8000_0000 };
    let names = |rule: &LinuxSyscall| {
        rule.names()
            .iter()
            .any(|name| row(name).and_then(|row| abi.number(row)) == Some(call.number))
    };
    let rules: Vec<(&LinuxSyscall, u32)> = seccomp
        .syscalls()
        .iter()
        .flatten()
        .filter(|rule| names(rule))
        .map(|rule| (rule, action_value(rule.action(), rule.errno_ret())))
        .filter(|(_, action)| *action != default)
        .collect();
    let args = |rule: &LinuxSyscall| rule.args().clone().unwrap_or_default();
    if let Some((_, action)) = rules.iter().find(|(rule, _)| args(rule).is_empty()) {
        return *action;
    }
    for (rule, action) in rules {
        let args = args(rule);
        let indices: HashSet<usize> = args.iter().map(|arg| arg.index()).collect();
        let mut each = args.iter().map(|arg| holds(arg, &call.args, abi.wide()));
        if if indices.len() == args.len() {
            each.all(|h| h)
        } else {
            each.any(|h| h)
        } {
            return action;
        }
    }
    default
}

fn any_action() -> impl Strategy<Value = (Action, Option<u32>)> {
    prop_oneof![
        3 => Just((Action::ScmpActAllow, None)),
        2 => (1u32..200).prop_map(|errno| (Action::ScmpActErrno, Some(errno))),
        1 => Just((Action::ScmpActErrno, None)),
        1 => Just((Action::ScmpActKillProcess, None)),
        1 => Just((Action::ScmpActKill, None)),
        1 => Just((Action::ScmpActTrap, None)),
        1 => Just((Action::ScmpActLog, None)),
        1 => (1u32..200).prop_map(|errno| (Action::ScmpActTrace, Some(errno))),
    ]
}

/// Values near each other and near the edges of the halves, so that comparisons meet their borders.
fn any_value() -> impl Strategy<Value = u64> {
    let half = || prop_oneof![0u64..4, Just(0x7fff_ffff), 0xffff_fffeu64..=0xffff_ffff];
    prop_oneof![2 => half(), 2 => (half(), half()).prop_map(|(high, low)| high << 32 | low), 1 => any::<u64>()]
}

fn any_arg() -> impl Strategy<Value = LinuxSeccompArg> {
    let op = prop_oneof![
        Just(Op::ScmpCmpNe),
        Just(Op::ScmpCmpLt),
        Just(Op::ScmpCmpLe),
        Just(Op::ScmpCmpEq),
        Just(Op::ScmpCmpGe),
        Just(Op::ScmpCmpGt),
        Just(Op::ScmpCmpMaskedEq)
    ];
    (0usize..3, op, any_value(), prop::option::of(any_value())).prop_map(|(index, op, value, second)| {
        let arg = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
        second
            .into_iter()
            .fold(arg, |arg, second| arg.value_two(second))
            .build()
            .unwrap()
    })
}

fn any_rule() -> impl Strategy<Value = LinuxSyscall> {
    // A few names meet often; the others fill the ranges.
    let few = prop_oneof![
        Just("read"),
        Just("clone"),
        Just("socket"),
        Just("no_such_call"),
        Just("sync_file_range2")
    ];
    let all = (0..ROWS.len()).prop_map(|row| ROWS[row].0);
    let name = prop_oneof![1 => few.prop_map(str::to_owned), 2 => all.prop_map(str::to_owned)];
    let args = prop_oneof![1 => Just(vec![]), 2 => prop::collection::vec(any_arg(), 0..4)];
    (prop::collection::vec(name, 1..30), any_action(), args).prop_map(|(names, (action, errno), args)| {
        let mut rule = LinuxSyscall::default();
        rule.set_names(names).set_action(action).set_errno_ret(errno);
        rule.set_args(Some(args));
        rule
    })
}

fn any_seccomp() -> impl Strategy<Value = LinuxSeccomp> {
    let arch = prop_oneof![
        Just(Arch::ScmpArchX86_64),
        Just(Arch::ScmpArchX86),
        Just(Arch::ScmpArchX32),
        Just(Arch::ScmpArchAarch64),
        Just(Arch::ScmpArchArm),
        Just(Arch::ScmpArchS390x)
    ];
    (
        any_action(),
        prop::collection::vec(arch, 0..4),
        prop::collection::vec(any_rule(), 0..12),
    )
        .prop_map(|((action, errno), architectures, rules)| {
            let mut seccomp = LinuxSeccomp::default();
            seccomp.set_default_action(action).set_default_errno_ret(errno);
            seccomp
                .set_architectures(Some(architectures))
                .set_syscalls(Some(rules));
            seccomp
        })
}

/// Calls of every kind: numbers that the rules name, their neighbours, and far ones; values the rules compare with.
fn calls(seccomp: &LinuxSeccomp, values: &[u64]) -> Vec<Call> {
    let mut numbers: Vec<u32> = vec![
        0,
        1,
        500,
        0x3fff_ffff,
        X32_BIT,
        X32_BIT | 600,
        0x8000_0000,
        u32::MAX,
    ];
    for rule in seccomp.syscalls().iter().flatten() {
        for row in rule.names().iter().filter_map(|name| row(name)) {
            for abi in [Abi::X86_64, Abi::X32, Abi::I386, Abi::Aarch64, Abi::Arm] {
                numbers.extend(
                    abi.number(row)
                        .into_iter()
                        .flat_map(|n| [n.wrapping_sub(1), n, n + 1]),
                );
            }
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    let mut picks = values.iter().copied().cycle();
    let mut next = || std::array::from_fn(|_| picks.next().unwrap_or(0));
    let arches = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0];
    let mut calls = Vec::new();
    for number in numbers {
        for arch in arches {
            for _ in 0..2 {
                calls.push(Call {
                    number,
                    arch,
                    args: next(),
                });
            }
        }
    }
    calls
}

/// The values that a filter compares with, and those next to them.
fn interesting(seccomp: &LinuxSeccomp) -> Vec<u64> {
    let rules = seccomp.syscalls().iter().flatten();
    let args = rules.flat_map(|rule| rule.args().iter().flatten());
    let mut values: Vec<u64> = args
        .flat_map(|arg| [Some(arg.value()), arg.value_two()])
        .flatten()
        .flat_map(|v| {
            [
                v,
                v.wrapping_sub(1),
                v.wrapping_add(1),
                v ^ 1 << 32,
                v & 0xffff_ffff,
            ]
        })
        .collect();
    values.push(0);
    // An odd number of them, so that going round puts each in every place.
    if values.len().is_multiple_of(2) {
        values.push(7);
    }
    values
}

fn compiled(native: Abi, seccomp: &LinuxSeccomp) -> (Program, Vec<Abi>) {
    let listed =
        |abi: &&Abi| **abi == native || seccomp.architectures().iter().flatten().any(|a| *a == abi.arch());
    let abis = native.reachable().iter().filter(listed).copied().collect();
    (compile_for(native, seccomp).unwrap(), abis)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_program_does_what_the_rules_say(seccomp in any_seccomp()) {
        let values = interesting(&seccomp);
        for native in [Abi::X86_64, Abi::Aarch64] {
            let (program, abis) = compiled(native, &seccomp);
            for call in calls(&seccomp, &values) {
                let (got, _) = run(program.instructions(), &call);
                prop_assert_eq!(got, judge(&seccomp, &abis, &call), "{:?} on {:?}", call, native);
            }
        }
    }
}

fn capabilities(list: &[Capability]) -> HashSet<Capability> {
    list.iter().copied().collect()
}

fn answer(program: &Program, abi: Abi, name: &str, args: [u64; 6]) -> u32 {
    let number = row(name)
        .and_then(|row| abi.number(row))
        .unwrap_or_else(|| panic!("{name} on {abi:?}"));
    run(
        program.instructions(),
        &Call {
            number,
            arch: abi.audit_arch(),
            args,
        },
    )
    .0
}

const ALLOW: u32 = 0x7fff_0000;
const fn errno(number: u32) -> u32 {
    0x0005_0000 | number
}

#[test]
fn the_default_profile_is_read_as_written() {
    for caps in [
        vec![],
        vec![
            Capability::SysAdmin,
            Capability::AuditWrite,
            Capability::SysChroot,
        ],
    ] {
        let seccomp = default_profile(&capabilities(&caps));
        let values = interesting(&seccomp);
        let (program, abis) = compiled(Abi::X86_64, &seccomp);
        for call in calls(&seccomp, &values) {
            assert_eq!(
                run(program.instructions(), &call).0,
                judge(&seccomp, &abis, &call),
                "{call:?}"
            );
        }
    }
}

#[test]
fn the_default_profile_knows_every_name_it_uses() {
    for rule in default_profile(&capabilities(&[])).syscalls().iter().flatten() {
        for name in rule.names() {
            assert!(row(name).is_some(), "{name}");
        }
    }
}

#[test]
fn the_default_profile_withholds_what_it_should() {
    let plain = compile_for(Abi::X86_64, &default_profile(&capabilities(&[]))).unwrap();
    let none = [0; 6];
    for abi in [Abi::X86_64, Abi::X32, Abi::I386] {
        for name in [
            "mount",
            "unshare",
            "setns",
            "bpf",
            "io_uring_setup",
            "keyctl",
            "kexec_load",
            "chroot",
            "reboot",
        ] {
            assert_eq!(answer(&plain, abi, name, none), errno(1), "{name} on {abi:?}");
        }
        for name in [
            "read",
            "execve",
            "ptrace",
            "openat2",
            "fchmodat2",
            "clone",
            "personality",
        ] {
            assert_eq!(answer(&plain, abi, name, none), ALLOW, "{name} on {abi:?}");
        }
        assert_eq!(answer(&plain, abi, "clone3", none), errno(38));
        assert_eq!(answer(&plain, abi, "file_getattr", none), errno(38));
        for (family, expected) in [
            (1, ALLOW),
            (2, ALLOW),
            (10, ALLOW),
            (17, ALLOW),
            (38, errno(38)),
            (40, errno(38)),
            (12, errno(38)),
            (46, errno(38)),
        ] {
            assert_eq!(
                answer(&plain, abi, "socket", [family, 0, 0, 0, 0, 0]),
                expected,
                "family {family} on {abi:?}"
            );
        }
        assert_eq!(answer(&plain, abi, "socket", [16, 3, 9, 0, 0, 0]), errno(22));
        assert_eq!(answer(&plain, abi, "socket", [16, 3, 0, 0, 0, 0]), ALLOW);
        for flag in [0x0002_0000u64, 0x1000_0000, 0x4000_0000, 0x7e02_0000] {
            assert_eq!(
                answer(&plain, abi, "clone", [flag | 17, 0, 0, 0, 0, 0]),
                errno(1),
                "{flag:#x} on {abi:?}"
            );
        }
        assert_eq!(
            answer(&plain, abi, "personality", [0x4_0000, 0, 0, 0, 0, 0]),
            errno(1)
        );
    }
    // The kernel looks at the low half of these arguments; high bits must not open a door.
    assert_ne!(
        answer(&plain, Abi::X86_64, "socket", [1 << 32 | 40, 0, 0, 0, 0, 0]),
        ALLOW
    );
    assert_ne!(
        answer(
            &plain,
            Abi::X86_64,
            "clone",
            [1 << 32 | 0x1000_0000, 0, 0, 0, 0, 0]
        ),
        ALLOW
    );
    assert_eq!(
        answer(&plain, Abi::I386, "socketcall", [1, 0, 0, 0, 0, 0]),
        errno(38)
    );
    assert_eq!(answer(&plain, Abi::I386, "socketcall", [3, 0, 0, 0, 0, 0]), ALLOW);
    // Neither arm nor a made-up architecture can be entered here.
    let foreign = Call {
        number: 0,
        arch: Abi::Arm.audit_arch(),
        args: none,
    };
    assert_eq!(run(plain.instructions(), &foreign).0, 0x8000_0000);

    let admin = compile_for(
        Abi::X86_64,
        &default_profile(&capabilities(&[Capability::SysAdmin])),
    )
    .unwrap();
    for name in ["mount", "unshare", "setns", "bpf", "clone3"] {
        assert_eq!(answer(&admin, Abi::X86_64, name, none), ALLOW, "{name}");
    }
    assert_eq!(
        answer(&admin, Abi::X86_64, "clone", [0x1000_0000, 0, 0, 0, 0, 0]),
        ALLOW
    );
    for name in ["io_uring_setup", "chroot", "keyctl", "pivot_root"] {
        assert_eq!(answer(&admin, Abi::X86_64, name, none), errno(1), "{name}");
    }
    let perf = compile_for(
        Abi::X86_64,
        &default_profile(&capabilities(&[Capability::Perfmon])),
    )
    .unwrap();
    assert_eq!(answer(&perf, Abi::X86_64, "perf_event_open", none), ALLOW);
    assert_eq!(answer(&perf, Abi::X86_64, "bpf", none), errno(1));
}

/// The kernel runs the program once per number when it is installed and remembers those that are allowed without a
/// look at the arguments; that works only while nothing else is loaded on the way.
#[test]
fn a_kept_project_takes_two_commands_away() {
    let mut profile = default_profile(&capabilities(&[]));
    keep_project(&mut profile);
    let program = compile_for(Abi::X86_64, &profile).unwrap();
    let allowed = |abi, command: u64| {
        let answer = answer(&program, abi, "ioctl", [3, command, 0, 0, 0, 0]);
        assert!(answer == ALLOW || answer == errno(1), "{answer:#x}");
        answer == ALLOW
    };
    // FS_IOC_FSSETXATTR, FS_IOC_SETFLAGS and its narrow form; what the kernel does not look at hides none of them.
    for command in [0x401c_5820, 0x4008_6602, 0x4004_6602] {
        assert!(!allowed(Abi::X86_64, command), "{command:#x}");
        assert!(!allowed(Abi::X86_64, command | 1 << 32), "{command:#x}");
        assert!(!allowed(Abi::I386, command), "{command:#x}");
        for bit in 0..16 {
            assert!(allowed(Abi::X86_64, command ^ 1 << bit), "{command:#x} {bit}");
        }
    }
    // TCGETS, FIONREAD, FS_IOC_GETFLAGS, FS_IOC_FSGETXATTR, FICLONE.
    for command in [0x5401, 0x541b, 0x8008_6601, 0x801c_581f, 0x4004_9409] {
        assert!(allowed(Abi::X86_64, command), "{command:#x}");
    }
}

#[test]
fn allowed_calls_are_decided_by_number_alone() {
    let program = compile(&default_profile(&capabilities(&[]))).unwrap();
    for name in [
        "read",
        "write",
        "openat",
        "futex",
        "epoll_wait",
        "mmap",
        "sendmsg",
        "close",
    ] {
        let number = row(name).and_then(|row| Abi::X86_64.number(row)).unwrap();
        let (action, looked) = run(
            program.instructions(),
            &Call {
                number,
                arch: Abi::X86_64.audit_arch(),
                args: [0; 6],
            },
        );
        assert_eq!((action, looked), (ALLOW, false), "{name}");
    }
    assert!(
        program.instructions().len() < 1024,
        "{} instructions",
        program.instructions().len()
    );
}

#[test]
fn rules_that_cannot_mean_anything_are_refused() {
    let with = |rule: &str, default: &str| {
        let text = format!(r#"{{"defaultAction": "{default}", "syscalls": [{rule}]}}"#);
        compile_for(Abi::X86_64, &serde_json::from_str(&text).unwrap())
    };
    for (rule, default, says) in [
        (
            r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}"#,
            "SCMP_ACT_ERRNO",
            "argument 6",
        ),
        (
            r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 5}"#,
            "SCMP_ACT_ERRNO",
            "read: SCMP_ACT_ALLOW takes no errnoRet",
        ),
        (
            r#"{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000}"#,
            "SCMP_ACT_ALLOW",
            "5000",
        ),
        (
            r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW"}"#,
            "SCMP_ACT_NOTIFY",
            "default",
        ),
    ] {
        let error = with(rule, default).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let notify = r#"{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}"#;
    let text = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{notify}]}}"#);
    let seccomp: LinuxSeccomp = serde_json::from_str(&text).unwrap();
    assert!(flags(&seccomp).contains(sys::seccomp::Flags::NEW_LISTENER));
    // The kernel takes it with a listener alone.
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#;
    let alone: LinuxSeccomp = serde_json::from_str(text).unwrap();
    assert!(flags(&alone).is_empty());
    assert_eq!(
        answer(
            &compile_for(Abi::X86_64, &seccomp).unwrap(),
            Abi::X86_64,
            "mkdir",
            [0; 6]
        ),
        0x7fc0_0000
    );
}
