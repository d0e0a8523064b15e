//! The shape of a program: one branch for the ABI, then a bisection over ranges of numbers.
//!
//! Neighbouring numbers with the same decision are one range, so that a profile that allows most calls has few. A
//! leaf is one return, or the comparisons of a call whose arguments matter. Until a leaf that compares arguments,
//! only the number and the architecture are loaded and only constants returned: that is what lets the kernel find
//! out once, when the filter is installed, which calls are always allowed, and never run the filter for those
//! (`seccomp_cache_prepare`, since 5.11).

use sys::seccomp::Instruction;

use super::abi::{Abi, X32_BIT};
use super::condition::{
    self, JUMP, JUMP_EQUAL, JUMP_GREATER_EQUAL, LOAD_ABSOLUTE, OFFSET_ARCH, OFFSET_NUMBER, RETURN, Rule,
    instruction,
};
use super::ret;

/// What the rules say of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    /// Conditions and `SECCOMP_RET_*` value; the first whose conditions all hold decides.
    pub(super) rules: Vec<Rule>,
    /// A rule without conditions decides alone, wherever it stood.
    pub(super) otherwise: Option<u32>,
}

/// What happens to the numbers from here to the next range's.
struct Range<'a> {
    from: u32,
    decision: Verdict<'a>,
    wide: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Verdict<'a> {
    Return(u32),
    Judge(&'a [Rule]),
}

/// The whole program. `calls` gives the decisions of an ABI by number in any order.
pub(super) fn program<'a>(
    abis: &[Abi],
    default: u32,
    calls: impl Fn(Abi) -> Vec<(u32, &'a Decision)>,
) -> Vec<Instruction> {
    let mut code = vec![instruction(LOAD_ABSOLUTE, OFFSET_ARCH, 0, 0)];
    // x32 is the same architecture to the kernel as x86_64; its numbers lie above.
    for abi in abis.iter().filter(|abi| **abi != Abi::X32) {
        let mut ranges = Ranges {
            list: vec![],
            default,
        };
        ranges.add(calls(*abi), abi.wide());
        if *abi == Abi::X86_64 {
            if abis.contains(&Abi::X32) {
                ranges.add(calls(Abi::X32), Abi::X32.wide());
            } else {
                ranges.push(X32_BIT, Verdict::Return(ret::KILL_PROCESS), true);
                // A tracer that cancels a call sets its number to -1.
                ranges.push(u32::MAX, Verdict::Return(default), true);
            }
        }
        let body = bisect(&ranges.list, default);
        // Another architecture skips the body, which may be longer than a conditional jump reaches.
        code.push(instruction(JUMP_EQUAL, abi.audit_arch(), 1, 0));
        code.push(instruction(JUMP, body.len() as u32 + 1, 0, 0));
        code.push(instruction(LOAD_ABSOLUTE, OFFSET_NUMBER, 0, 0));
        code.extend(body);
    }
    code.push(instruction(RETURN, ret::KILL_PROCESS, 0, 0));
    code
}

struct Ranges<'a> {
    list: Vec<Range<'a>>,
    default: u32,
}

impl<'a> Ranges<'a> {
    fn add(&mut self, mut calls: Vec<(u32, &'a Decision)>, wide: bool) {
        calls.sort_unstable_by_key(|(number, _)| *number);
        // From nought, or from behind the last call of the ABI below.
        let mut next = self.list.last().map_or(0, |_| X32_BIT);
        for (number, decision) in calls {
            if number > next {
                self.push(next, Verdict::Return(self.default), wide);
            }
            self.push(
                number,
                decision
                    .otherwise
                    .map_or(Verdict::Judge(&decision.rules), Verdict::Return),
                wide,
            );
            next = number + 1;
        }
        self.push(next, Verdict::Return(self.default), wide);
    }

    /// Ends the last range at `from`, unless what follows is the same.
    fn push(&mut self, from: u32, decision: Verdict<'a>, wide: bool) {
        match self.list.last() {
            Some(last) if last.decision == decision && matches!(decision, Verdict::Return(_)) => {}
            _ => self.list.push(Range { from, decision, wide }),
        }
    }
}

/// Code for these ranges, which all paths leave by a return.
fn bisect(ranges: &[Range<'_>], default: u32) -> Vec<Instruction> {
    if let [range] = ranges {
        return leaf(range, default);
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let (low, high) = (bisect(below, default), bisect(above, default));
    let mut code = Vec::with_capacity(low.len() + high.len() + 2);
    match u8::try_from(low.len()) {
        Ok(over) => code.push(instruction(JUMP_GREATER_EQUAL, above[0].from, over, 0)),
        Err(_) => code.extend([
            instruction(JUMP_GREATER_EQUAL, above[0].from, 0, 1),
            instruction(JUMP, low.len() as u32, 0, 0),
        ]),
    }
    code.extend(low);
    code.extend(high);
    code
}

fn leaf(range: &Range<'_>, default: u32) -> Vec<Instruction> {
    let mut rules = match range.decision {
        Verdict::Return(value) => return vec![instruction(RETURN, value, 0, 0)],
        Verdict::Judge(rules) => rules,
    };
    let mut code = Vec::new();
    while let [(conditions, action), rest @ ..] = rules {
        let choices = condition::choices(rules, range.wide);
        if choices.len() > 1 {
            condition::choose(choices, range.wide, &mut code);
            rules = &rules[choices.len()..];
            continue;
        }
        let mut rule = Vec::new();
        for condition in conditions {
            condition.code(range.wide, &mut rule);
        }
        rule.push(instruction(RETURN, *action, 0, 0));
        condition::resolve(&mut rule);
        code.extend(rule);
        rules = rest;
    }
    code.push(instruction(RETURN, default, 0, 0));
    code
}
