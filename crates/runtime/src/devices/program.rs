//! The rules as a program for the kernel's `BPF_PROG_TYPE_CGROUP_DEVICE`.
//!
//! The kernel gives the kind, the numbers and the rights wanted together, and takes 1 for yes. The program goes
//! through the rules from the last to the first. One that fits the device and refuses a right still wanted ends it;
//! one that allows some takes those off what is wanted, and nothing left is yes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use sys::bpf::Instruction;

use super::{ALL, Kind, Rule, Rules};

// linux/bpf_common.h, linux/bpf.h
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn op(code: u8, register: u8, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: register,
        offset: 0,
        immediate,
    }
}

fn load(register: u8, offset: i16) -> Instruction {
    Instruction {
        code: LOAD_WORD,
        registers: CONTEXT << 4 | register,
        offset,
        immediate: 0,
    }
}

/// Rules whose program the kernel has: to hand it over is the dear part of refusing devices, and needs no cgroup.
#[derive(Debug)]
pub struct Loaded {
    rules: Rules,
    program: OwnedFd,
}

impl Loaded {
    /// Hands the program of these rules to the kernel.
    ///
    /// # Errors
    /// Those of [`sys::bpf::load_device_program`].
    pub fn new(rules: Rules) -> io::Result<Loaded> {
        let program = sys::bpf::load_device_program(&rules.program())?;
        Ok(Loaded { rules, program })
    }

    /// What it refuses and allows.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Lets it decide for a cgroup2 directory.
    ///
    /// # Errors
    /// Those of [`sys::bpf::attach_device_program`].
    pub fn attach(&self, cgroup: impl AsFd) -> io::Result<()> {
        sys::bpf::attach_device_program(cgroup, &self.program)
    }
}

impl Rules {
    /// The program; it needs no cgroup of a certain kind and no map.
    pub fn program(&self) -> Vec<Instruction> {
        // struct bpf_cgroup_dev_ctx { u32 access_type /* rights << 16 | kind */, major, minor; }
        let mut code = vec![
            load(KIND, 0),
            Instruction {
                code: MOVE_REGISTER,
                registers: KIND << 4 | WANTED,
                offset: 0,
                immediate: 0,
            },
            op(AND, KIND, 0xffff),
            op(SHIFT_RIGHT, WANTED, 16),
            load(MAJOR, 4),
            load(MINOR, 8),
        ];
        for rule in self.list.iter().rev() {
            code.extend(one(rule));
            if rule.kind.is_none() && rule.access == ALL {
                // Nothing gets past it, and the verifier refuses what cannot be reached.
                return code;
            }
        }
        code.extend([op(MOVE, ANSWER, 0), op(EXIT, 0, 0)]);
        code
    }
}

fn one(rule: &Rule) -> Vec<Instruction> {
    let kind = rule.kind.map(|kind| match kind {
        Kind::Block => 1,
        Kind::Character => 2,
    });
    let fits = [(KIND, kind), (MAJOR, rule.major), (MINOR, rule.minor)];
    // A 32-bit number is compared sign-extended; no device number is that large.
    let mut code: Vec<Instruction> = fits
        .into_iter()
        .filter_map(|(register, value)| Some(op(JUMP_NOT_EQUAL, register, value? as i32)))
        .collect();
    let access = i32::from(rule.access);
    match (rule.allow, rule.access == ALL) {
        (_, true) => {}
        (true, false) => code.extend([op(AND, WANTED, !access), op(JUMP_NOT_EQUAL, WANTED, 0)]),
        (false, false) => code.extend([
            Instruction {
                code: MOVE_REGISTER,
                registers: WANTED << 4 | ANSWER,
                offset: 0,
                immediate: 0,
            },
            op(AND, ANSWER, access),
            op(JUMP_EQUAL, ANSWER, 0),
        ]),
    }
    code.extend([op(MOVE, ANSWER, i32::from(rule.allow)), op(EXIT, 0, 0)]);
    // Every jump of a rule leads behind it.
    let end = code.len();
    for (at, instruction) in code.iter_mut().enumerate() {
        if matches!(instruction.code, JUMP_EQUAL | JUMP_NOT_EQUAL) {
            instruction.offset = (end - at - 1) as i16;
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::super::tests::rules;
    use super::super::{MAKE, READ, WRITE};
    use super::*;
    use proptest::prelude::*;

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], kind: u32, access: u8, major: u32, minor: u32) -> bool {
        let context = [u32::from(access) << 16 | kind, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0usize;
        loop {
            let Instruction {
                code,
                registers: both,
                offset,
                immediate,
            } = program[at];
            let (destination, source) = (usize::from(both & 15), usize::from(both >> 4));
            at += 1;
            let value = immediate as i64 as u64;
            match code {
                LOAD_WORD => registers[destination] = u64::from(context[offset as usize / 4]),
                MOVE => registers[destination] = value,
                MOVE_REGISTER => registers[destination] = registers[source],
                AND => registers[destination] &= value,
                SHIFT_RIGHT => registers[destination] >>= value,
                JUMP_EQUAL if registers[destination] == value => at += offset as usize,
                JUMP_NOT_EQUAL if registers[destination] != value => at += offset as usize,
                JUMP_EQUAL | JUMP_NOT_EQUAL => {}
                EXIT => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    /// For every right wanted, the last rule that speaks of it and of the device.
    fn judge(rules: &Rules, kind: Kind, access: u8, major: u32, minor: u32) -> bool {
        [MAKE, READ, WRITE]
            .into_iter()
            .filter(|right| access & right != 0)
            .all(|right| {
                let speaks = |rule: &&Rule| {
                    rule.kind.is_none_or(|k| k == kind)
                        && rule.major.is_none_or(|m| m == major)
                        && rule.minor.is_none_or(|m| m == minor)
                        && rule.access & right != 0
                };
                rules
                    .list
                    .iter()
                    .rev()
                    .find(speaks)
                    .is_some_and(|rule| rule.allow)
            })
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let kind = prop_oneof![Just(None), Just(Some(Kind::Block)), Just(Some(Kind::Character))];
        let number = || prop::option::of(0u32..3);
        (any::<bool>(), kind, number(), number(), 1u8..=ALL).prop_map(
            |(allow, kind, major, minor, access)| {
                let (major, minor) = if kind.is_none() {
                    (None, None)
                } else {
                    (major, minor)
                };
                Rule {
                    allow,
                    kind,
                    major,
                    minor,
                    access,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn a_program_does_what_the_rules_say(list in prop::collection::vec(any_rule(), 0..8)) {
            let rules = Rules { list };
            let program = rules.program();
            for (kind, number) in [(Kind::Block, 1), (Kind::Character, 2)] {
                for (major, minor, access) in (0..4).flat_map(|a| (0..4).flat_map(move |b| (1..=ALL).map(move |c| (a, b, c)))) {
                    let got = run(&program, number, access, major, minor);
                    prop_assert_eq!(got, judge(&rules, kind, access, major, minor), "{:?} {}:{} {}", kind, major, minor, access);
                }
            }
        }
    }

    #[test]
    fn a_later_rule_wins_right_by_right() {
        let program =
            rules("deny a *:* rwm; allow b *:* m; allow c 1:3 r; allow c 1:3 w; deny c 1:5 w").program();
        assert!(
            run(&program, 2, READ | WRITE, 1, 3),
            "two rules give one both rights"
        );
        assert!(!run(&program, 2, READ | WRITE | MAKE, 1, 3));
        assert!(run(&program, 1, MAKE, 8, 0));
        assert!(!run(&program, 1, READ, 8, 0));
        assert!(!run(&program, 2, READ, 1, 5));
    }
}

#[cfg(test)]
mod root_tests {
    use super::super::tests::rules;

    #[test]
    fn the_verifier_takes_the_programs() {
        for text in [
            "deny a *:* rwm",
            "deny a *:* rwm; allow b *:* m; allow c 1:3 rwm; deny c 136:* w",
            "allow c 1:3 r",
            "allow c 1:3 rwm; allow a *:* rwm",
            "deny a *:* w",
            "deny a *:* rwm; allow c 4294967295:4294967295 rw",
        ] {
            let program = rules(text).program();
            if let Err(error) = sys::bpf::load_device_program(&program) {
                panic!("{text}: {error} (loading a device program needs root)");
            }
        }
    }
}
