//! The rule for a container whose writable directory has a limited size: nothing inside gives files to another
//! project.
//!
//! A project quota counts what carries the project's id, and whoever owns a file may change its id, or may keep a
//! directory from passing its own on: FS_IOC_FSSETXATTR and FS_IOC_SETFLAGS of ioctl(2), which go through an overlay.
//! Only in a user namespace does the kernel refuse both.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Op, LinuxSyscall,
};

const EPERM: u32 = 1;

/// The two commands by type and number, the low sixteen bits: what size they claim differs between ABIs, and the
/// upper half of the argument is none of the command.
const COMMANDS: [u64; 2] = [(b'X' as u64) << 8 | 0x20, (b'f' as u64) << 8 | 2];

/// Takes the two commands out of what a profile allows. Where it does not allow ioctl(2) as a whole, nothing changes.
pub(crate) fn keep_project(seccomp: &mut LinuxSeccomp) {
    let mut rules = seccomp.syscalls().clone().unwrap_or_default();
    let mut allowed = false;
    for rule in &mut rules {
        let whole = rule.args().as_ref().is_none_or(Vec::is_empty);
        if whole && rule.action() == Action::ScmpActAllow {
            let mut names = rule.names().clone();
            names.retain(|name| name != "ioctl");
            allowed |= names.len() < rule.names().len();
            rule.set_names(names);
        }
    }
    if allowed {
        rules.extend(all_but_commands());
        seccomp.set_syscalls(Some(rules));
    }
}

/// No filter says "all but", and libseccomp wants no two rules with different actions to overlap. So a command is let
/// through by any bit in which it differs from the one of the two that it could still be.
fn all_but_commands() -> Vec<LinuxSyscall> {
    let apart = 1 << (COMMANDS[0] ^ COMMANDS[1]).trailing_zeros();
    let mut rules = Vec::new();
    for command in COMMANDS {
        rules.push(ioctl(Action::ScmpActErrno, 0xffff, command));
        for bit in (0..16).map(|at| 1 << at).filter(|bit| *bit != apart) {
            rules.push(ioctl(Action::ScmpActAllow, apart | bit, command ^ bit));
        }
    }
    rules
}

/// A rule for commands whose bits in `mask` are those of `value`.
fn ioctl(action: Action, mask: u64, value: u64) -> LinuxSyscall {
    let arg = LinuxSeccompArgBuilder::default()
        .index(1usize)
        .op(Op::ScmpCmpMaskedEq)
        .value(mask)
        .value_two(value & mask);
    // Every field has a default: there is nothing to be missing.
    let arg: LinuxSeccompArg = arg.build().unwrap_or_default();
    let mut rule = LinuxSyscall::default();
    rule.set_names(vec!["ioctl".to_owned()])
        .set_action(action)
        .set_errno_ret((action == Action::ScmpActErrno).then_some(EPERM))
        .set_args(Some(vec![arg]));
    rule
}
