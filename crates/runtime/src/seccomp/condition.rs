//! One comparison of one argument, and the instructions that make it.

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator as Op};
use sys::seccomp::Instruction;

// linux/bpf_common.h
pub(super) const LOAD_ABSOLUTE: u16 = 0x20;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER: u16 = 0x25;
pub(super) const JUMP_GREATER_EQUAL: u16 = 0x35;
pub(super) const AND: u16 = 0x54;
pub(super) const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
pub(super) const OFFSET_NUMBER: u32 = 0;
pub(super) const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

pub(super) const fn instruction(code: u16, k: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        k,
    }
}

/// A comparison, its `MASKED_EQ` value already masked as libseccomp does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) index: u8,
    pub(super) op: Comparison,
    pub(super) value: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Comparison {
    NotEqual,
    Less,
    LessEqual,
    Equal,
    GreaterEqual,
    Greater,
    MaskedEqual { mask: u64 },
}

impl Condition {
    /// `None` when the index is past the sixth argument.
    pub(super) fn new(arg: &LinuxSeccompArg) -> Option<Condition> {
        let index = u8::try_from(arg.index()).ok().filter(|index| *index < 6)?;
        let (op, value) = match arg.op() {
            Op::ScmpCmpNe => (Comparison::NotEqual, arg.value()),
            Op::ScmpCmpLt => (Comparison::Less, arg.value()),
            Op::ScmpCmpLe => (Comparison::LessEqual, arg.value()),
            Op::ScmpCmpEq => (Comparison::Equal, arg.value()),
            Op::ScmpCmpGe => (Comparison::GreaterEqual, arg.value()),
            Op::ScmpCmpGt => (Comparison::Greater, arg.value()),
            Op::ScmpCmpMaskedEq => {
                let mask = arg.value();
                (
                    Comparison::MaskedEqual { mask },
                    arg.value_two().unwrap_or(0) & mask,
                )
            }
        };
        Some(Condition { index, op, value })
    }

    /// Instructions that fall through when the condition holds; those that jump with [`FAIL`] do so when it does not.
    /// `wide` as in `Abi::wide`: with narrow arguments the high half is nought.
    pub(super) fn code(&self, wide: bool, code: &mut Vec<Instruction>) {
        let (high, low) = ((self.value >> 32) as u32, self.value as u32);
        let at = OFFSET_ARGS + 8 * u32::from(self.index);
        // Little-endian, which both machines are.
        let load_low = instruction(LOAD_ABSOLUTE, at, 0, 0);
        let load_high = instruction(LOAD_ABSOLUTE, at + 4, 0, 0);
        let always_false = instruction(JUMP, FAIL_ALWAYS, 0, 0);

        // The high half first: it decides, or it is equal and the low half decides.
        match self.op {
            Comparison::MaskedEqual { mask } => {
                let (mask_high, mask_low) = ((mask >> 32) as u32, mask as u32);
                if wide && mask_high != 0 {
                    code.extend([
                        load_high,
                        instruction(AND, mask_high, 0, 0),
                        instruction(JUMP_EQUAL, high, 0, FAIL),
                    ]);
                } else if high != 0 {
                    return code.push(always_false);
                }
                code.extend([
                    load_low,
                    instruction(AND, mask_low, 0, 0),
                    instruction(JUMP_EQUAL, low, 0, FAIL),
                ]);
                return;
            }
            _ if wide => match self.op {
                Comparison::Equal => code.extend([load_high, instruction(JUMP_EQUAL, high, 0, FAIL)]),
                // Unequal already: over the two instructions of the low half.
                Comparison::NotEqual => code.extend([load_high, instruction(JUMP_EQUAL, high, 0, 2)]),
                Comparison::Greater | Comparison::GreaterEqual => code.extend([
                    load_high,
                    instruction(JUMP_GREATER, high, 3, 0),
                    instruction(JUMP_EQUAL, high, 0, FAIL),
                ]),
                Comparison::Less | Comparison::LessEqual => code.extend([
                    load_high,
                    instruction(JUMP_GREATER, high, FAIL, 0),
                    instruction(JUMP_EQUAL, high, 0, 2),
                ]),
                Comparison::MaskedEqual { .. } => {}
            },
            _ if high != 0 => match self.op {
                Comparison::Equal | Comparison::Greater | Comparison::GreaterEqual => {
                    return code.push(always_false);
                }
                _ => return,
            },
            _ => {}
        }
        code.push(load_low);
        code.push(match self.op {
            Comparison::NotEqual => instruction(JUMP_EQUAL, low, FAIL, 0),
            Comparison::Greater => instruction(JUMP_GREATER, low, 0, FAIL),
            Comparison::GreaterEqual => instruction(JUMP_GREATER_EQUAL, low, 0, FAIL),
            Comparison::Less => instruction(JUMP_GREATER_EQUAL, low, FAIL, 0),
            Comparison::LessEqual => instruction(JUMP_GREATER, low, FAIL, 0),
            Comparison::Equal | Comparison::MaskedEqual { .. } => instruction(JUMP_EQUAL, low, 0, FAIL),
        });
    }
}

/// All of these, then this `SECCOMP_RET_*` value.
pub(super) type Rule = (Vec<Condition>, u32);

/// The rules at the beginning of `rules` that each ask whether the same argument equals one value, no high half
/// differing: the argument need be loaded but once for them.
pub(super) fn choices(rules: &[Rule], wide: bool) -> &[Rule] {
    let one = |rule: &Rule| match rule.0.as_slice() {
        [
            Condition {
                index,
                op: Comparison::Equal,
                value,
            },
        ] if wide || value >> 32 == 0 => Some((*index, value >> 32)),
        _ => None,
    };
    let Some(first) = rules.first().and_then(one) else {
        return &[];
    };
    // A conditional jump over all of them must reach.
    let more = rules
        .iter()
        .take(100)
        .take_while(|rule| one(rule) == Some(first))
        .count();
    &rules[..more]
}

/// Code for [`choices`]: falls through when none holds.
pub(super) fn choose(rules: &[Rule], wide: bool, code: &mut Vec<Instruction>) {
    let Some(Condition { index, value, .. }) = rules.first().and_then(|(conditions, _)| conditions.first())
    else {
        return;
    };
    let at = OFFSET_ARGS + 8 * u32::from(*index);
    if wide {
        let over = 2 * rules.len() as u8 + 1;
        code.push(instruction(LOAD_ABSOLUTE, at + 4, 0, 0));
        code.push(instruction(JUMP_EQUAL, (value >> 32) as u32, 0, over));
    }
    code.push(instruction(LOAD_ABSOLUTE, at, 0, 0));
    for (conditions, action) in rules {
        for condition in conditions {
            code.push(instruction(JUMP_EQUAL, condition.value as u32, 0, 1));
            code.push(instruction(RETURN, *action, 0, 0));
        }
    }
}

/// Stands in a jump for "to where this rule fails", until [`resolve`] knows how far that is.
const FAIL: u8 = u8::MAX;
const FAIL_ALWAYS: u32 = u32::MAX;

/// Replaces every [`FAIL`] by the distance to the end of `code`. A rule has at most six conditions of six instructions.
pub(super) fn resolve(code: &mut [Instruction]) {
    let end = code.len();
    for (at, instruction) in code.iter_mut().enumerate() {
        let distance = end - at - 1;
        if instruction.code == JUMP && instruction.k == FAIL_ALWAYS {
            instruction.k = distance as u32;
        } else if instruction.code & 0x07 == JUMP {
            debug_assert!(distance < usize::from(FAIL));
            for jump in [&mut instruction.jump_true, &mut instruction.jump_false] {
                if *jump == FAIL {
                    *jump = distance as u8;
                }
            }
        }
    }
}
