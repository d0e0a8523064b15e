//! OCI `LinuxSeccomp` → [`sys::seccomp::Program`].

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompFilterFlag as Flag, LinuxSyscall,
};
use sys::seccomp::{Flags, Program};

use super::abi::{self, Abi};
use super::condition::Condition;
use super::numbers::ROWS;
use super::ret;
use super::tree::{self, Decision};

/// Why a filter cannot be made of a `LinuxSeccomp`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// A rule compares an argument that no system call has.
    #[error("seccomp rule for {call}: argument {index} does not exist, the last is 5")]
    NoSuchArgument {
        /// The first name in the rule.
        call: String,
        /// The index in the rule.
        index: usize,
    },
    /// An error number with an action that returns none.
    #[error("seccomp rule for {call}: {action} takes no errnoRet")]
    ErrnoWithoutUse {
        /// The first name in the rule, or "the default action".
        call: String,
        /// The action, in the spec's words.
        action: String,
    },
    /// An error number that the kernel cannot return.
    #[error("seccomp rule for {call}: errnoRet {errno} is above 4095")]
    ErrnoTooLarge {
        /// The first name in the rule, or "the default action".
        call: String,
        /// The number.
        errno: u32,
    },
    /// Notification as the default action, which the kernel would also ask for the process's own start.
    #[error("seccomp: SCMP_ACT_NOTIFY cannot be the default action")]
    NotifyByDefault,
    /// More rules than a filter can hold.
    #[error("seccomp: {0}")]
    TooLong(std::io::Error),
    /// strata was built for a machine whose system calls it does not know.
    #[error("seccomp filters are known for x86_64 and aarch64 only; use --security-opt seccomp=unconfined")]
    UnknownMachine,
}

/// Compiles a filter for this machine. The module's page says what it means.
///
/// Names that the kernel's headers did not have when strata was built are skipped, as the peers skip what their
/// library does not know: the default action answers those calls. Architectures that this machine cannot enter are
/// skipped too; the machine's own is always among them.
///
/// # Errors
/// See [`CompileError`]: rules that cannot mean anything.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Program, CompileError> {
    compile_for(Abi::native().ok_or(CompileError::UnknownMachine)?, seccomp)
}

/// Compiles a filter for a machine whose own ABI is `native`.
///
/// # Errors
/// As [`compile`].
pub fn compile_for(native: Abi, seccomp: &LinuxSeccomp) -> Result<Program, CompileError> {
    let default_action = seccomp.default_action();
    if default_action == Action::ScmpActNotify {
        return Err(CompileError::NotifyByDefault);
    }
    let default = value(default_action, seccomp.default_errno_ret(), || {
        "the default action".to_owned()
    })?;

    // By row of the table, because a call has the same rules in every ABI.
    let mut decisions: Vec<Option<Decision>> = Vec::new();
    decisions.resize_with(ROWS.len(), || None);
    for rule in seccomp.syscalls().iter().flatten() {
        add(&mut decisions, rule, default)?;
    }

    let listed =
        |abi: &Abi| *abi == native || seccomp.architectures().iter().flatten().any(|a| *a == abi.arch());
    let abis: Vec<Abi> = native.reachable().iter().copied().filter(listed).collect();
    let code = tree::program(&abis, default, |abi| {
        let decided = decisions.iter().enumerate();
        decided
            .filter_map(|(row, decision)| Some((abi.number(row)?, decision.as_ref()?)))
            .collect()
    });
    Program::new(code).map_err(CompileError::TooLong)
}

/// The flags that a `LinuxSeccomp` asks for. Without any, `SPEC_ALLOW`, as runc has it; with a rule that notifies,
/// `NEW_LISTENER`, and whoever installs the filter must then serve `listenerPath`.
pub fn flags(seccomp: &LinuxSeccomp) -> Flags {
    let mut flags = match seccomp.flags() {
        None => Flags::SPEC_ALLOW,
        Some(list) => list
            .iter()
            .map(|flag| match flag {
                Flag::SeccompFilterFlagLog => Flags::LOG,
                Flag::SeccompFilterFlagTsync => Flags::TSYNC,
                Flag::SeccompFilterFlagSpecAllow => Flags::SPEC_ALLOW,
                Flag::SeccompFilterFlagWaitKillableRecv => Flags::WAIT_KILLABLE_RECV,
            })
            .collect(),
    };
    let mut rules = seccomp.syscalls().iter().flatten();
    if !rules.any(|rule| rule.action() == Action::ScmpActNotify) {
        // Of how a listener's answer is waited for: the kernel refuses it where there is none.
        flags -= Flags::WAIT_KILLABLE_RECV;
    } else {
        flags |= Flags::NEW_LISTENER;
        // Whoever gives the listener away is a thread that must stay without the filter; there is no other.
        flags -= Flags::TSYNC;
    }
    flags
}

/// Adds one rule to the calls it names.
fn add(decisions: &mut [Option<Decision>], rule: &LinuxSyscall, default: u32) -> Result<(), CompileError> {
    let call = || rule.names().first().cloned().unwrap_or_default();
    let action = value(rule.action(), rule.errno_ret(), call)?;
    let mut conditions = Vec::new();
    let mut again = false;
    for arg in rule.args().iter().flatten() {
        let condition = Condition::new(arg).ok_or_else(|| CompileError::NoSuchArgument {
            call: call(),
            index: arg.index(),
        })?;
        again |= conditions
            .iter()
            .any(|known: &Condition| known.index == condition.index);
        conditions.push(condition);
    }
    if action == default {
        return Ok(());
    }
    for row in rule.names().iter().filter_map(|name| abi::row(name)) {
        let decision = decisions[row].get_or_insert_with(|| Decision {
            rules: Vec::new(),
            otherwise: None,
        });
        if conditions.is_empty() {
            decision.otherwise.get_or_insert(action);
        } else if again {
            decision
                .rules
                .extend(conditions.iter().map(|one| (vec![*one], action)));
        } else {
            decision.rules.push((conditions.clone(), action));
        }
    }
    Ok(())
}

/// The `SECCOMP_RET_*` value of an action.
fn value(action: Action, errno: Option<u32>, call: impl Fn() -> String) -> Result<u32, CompileError> {
    const EPERM: u32 = 1;
    let plain = match action {
        Action::ScmpActErrno | Action::ScmpActTrace => {
            let base = if action == Action::ScmpActErrno {
                ret::ERRNO
            } else {
                ret::TRACE
            };
            return match errno.unwrap_or(EPERM) {
                errno if errno > 4095 => Err(CompileError::ErrnoTooLarge { call: call(), errno }),
                errno => Ok(base | errno),
            };
        }
        Action::ScmpActKill | Action::ScmpActKillThread => ret::KILL_THREAD,
        Action::ScmpActKillProcess => ret::KILL_PROCESS,
        Action::ScmpActTrap => ret::TRAP,
        Action::ScmpActNotify => ret::USER_NOTIF,
        Action::ScmpActLog => ret::LOG,
        Action::ScmpActAllow => ret::ALLOW,
    };
    match errno {
        // Profiles made from Go structures write the zero that was there.
        None | Some(0) => Ok(plain),
        Some(_) => Err(CompileError::ErrnoWithoutUse {
            call: call(),
            action: action.to_string(),
        }),
    }
}
