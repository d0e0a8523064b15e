//! The end of a container: what is recorded, told, and taken away.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use super::begin::Left;
use super::events::Told;
use super::serve::{End, Serving};
use crate::bundle::{self, Bundle};
use crate::launch::{Fault, hooks};
use crate::state::{self, Exit};

/// Records the end, tells it to those who wait, and takes away what the container leaves. `again` says how long until it
/// is started again. Returns whether the one who asked for the container was told.
pub(super) fn conclude(
    bundle: &Bundle,
    left: Left,
    serving: &mut Serving<'_>,
    end: End,
    again: Option<Duration>,
    told_of: &Told,
) -> bool {
    // What it left running must not outlive it: after its end is told, its mounts are taken off.
    let oom = left.cgroups.oom_killed();
    let mut warnings: Vec<String> = left.cgroups.kill().into_iter().collect();
    serving.end_execs();
    let mut exit = Exit {
        code: end.code,
        signal: end.signal,
        at: state::now(),
        oom,
        warnings: warnings.clone(),
        again: again.map(at),
    };
    let recorded = record(bundle, &exit);
    // Nobody is left who could print: what was printed is passed on before the end is told.
    serving.finish_streams();
    told_of.ended(&exit);
    let told = serving.tell(&exit);
    if again.is_none() {
        // Nobody can ask any more.
        let _ = bundle.dir().unlink(bundle::CONTROL);
    }

    if let Some(external) = left.external {
        warnings.extend(external.delete());
    }
    warnings.extend(left.cgroups.end());
    if let Some((spec, hooks)) = left
        .spec
        .as_ref()
        .and_then(|spec| Some((spec, spec.hooks().as_ref()?)))
    {
        let state = hooks::HookState::new(spec, bundle.id(), bundle.path(), "stopped", None);
        warnings.extend(hooks::run_all(
            "poststop",
            hooks.poststop().as_deref().unwrap_or_default(),
            &state,
        ));
    }
    if recorded && warnings.len() > exit.warnings.len() {
        exit.warnings = warnings;
        record(bundle, &exit);
    }
    told
}

/// Records that a container could not be started again, and tells it where it is not tried another time. Returns
/// whether the one who asked for the container was told.
pub(super) fn record_failure(
    bundle: &Bundle,
    serving: &mut Serving<'_>,
    fault: &Fault,
    again: Option<Duration>,
) -> bool {
    let exit = Exit {
        code: fault.code,
        signal: None,
        at: state::now(),
        oom: false,
        warnings: vec![format!("it could not be started again: {fault}")],
        again: again.map(at),
    };
    record(bundle, &exit);
    again.is_none() && bow_out(bundle, serving, &exit)
}

/// Records and tells that a container which was to be started again is not. Returns whether the one who asked for the
/// container was told.
pub(super) fn not_again(bundle: &Bundle, serving: &mut Serving<'_>) -> bool {
    match state::load_exit(bundle) {
        Ok(Some(exit)) => {
            let exit = Exit { again: None, ..exit };
            record(bundle, &exit);
            bow_out(bundle, serving, &exit)
        }
        _ => false,
    }
}

/// The last words.
fn bow_out(bundle: &Bundle, serving: &mut Serving<'_>, exit: &Exit) -> bool {
    let told = serving.tell(exit);
    // Nobody can ask any more.
    let _ = bundle.dir().unlink(bundle::CONTROL);
    told
}

fn record(bundle: &Bundle, exit: &Exit) -> bool {
    bundle.write_json(bundle::EXIT, exit).is_ok()
}

/// The time after a pause, in nanoseconds since 1970.
fn at(pause: Duration) -> u64 {
    state::now().saturating_add(u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX))
}

/// Becomes the command that removes the container, since nobody else is there to do it.
pub(super) fn clean_up(command: &[OsString]) {
    let [program, args @ ..] = command else {
        return;
    };
    // Returns only when it failed, and then there is nobody to tell: the next one who lists containers finds it.
    let _ = Command::new(program).args(args).exec();
}
