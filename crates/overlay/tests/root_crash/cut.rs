//! Operations cut short before each of their system calls, and what must hold then.

use std::path::Path;

use overlay::Format;
use overlay::live::Overlay;

use super::operations::Done;
use super::place::{self, Place};
use super::tracer;
use super::view::{self, View, difference};

/// An operation.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// What is done before, and not interrupted.
    pub(crate) before: Option<fn(&Overlay) -> Done>,
    pub(crate) operation: fn(&Overlay) -> Done,
    pub(crate) metacopy: bool,
    /// It needs the index, which goes with the prefix `trusted.` here.
    pub(crate) indexed: bool,
    /// It renames a directory of the lower layer: with the user prefix the kernel cannot follow.
    pub(crate) redirects: bool,
    /// What else a crash may show, made of what was before: where whiteouts are of the attribute kind, and where data
    /// is brought to a file that has only its metadata in the upper layer.
    pub(crate) between: Option<fn(&mut View)>,
}

pub(crate) const CASE: Case = Case {
    name: "",
    before: None,
    operation: |_| Ok(()),
    metacopy: false,
    indexed: false,
    redirects: false,
    between: None,
};

/// Of files with several links.
pub(crate) const fn indexed(name: &'static str, operation: fn(&Overlay) -> Done) -> Case {
    Case {
        name,
        operation,
        indexed: true,
        ..CASE
    }
}
pub(crate) const fn case(name: &'static str, operation: fn(&Overlay) -> Done) -> Case {
    Case {
        name,
        operation,
        ..CASE
    }
}

pub(crate) fn formats(case: &Case) -> Vec<(&'static str, Format)> {
    match case.metacopy || case.indexed {
        true => vec![("trusted", Format::TRUSTED)],
        false => vec![("trusted", Format::TRUSTED), ("user", Format::USER)],
    }
}

/// Cuts every case short everywhere, in memory.
pub(crate) fn cut_short(test: &str, cases: &[Case]) {
    if !is_told(cases) {
        cut_short_in(Path::new("/dev/shm"), test, cases);
    }
}

/// In the process that is to be killed, does the one that it is told.
pub(crate) fn is_told(cases: &[Case]) -> bool {
    if let Ok(told) = std::env::var(tracer::OPERATION) {
        let (name, place) = told.split_once(' ').expect("an operation and a place");
        let (format, name) = name.split_once(':').expect("a format and a case");
        let case = cases
            .iter()
            .find(|case| case.name == name)
            .expect("a case of this test");
        let all = formats(case);
        let (_, format) = all.iter().find(|known| known.0 == format).expect("a format");
        // Seen by who traces.
        let _ = std::fs::File::open(tracer::BEGIN);
        let overlay = place::open(Path::new(place), *format, case.metacopy);
        (case.operation)(&overlay).expect("the operation succeeds");
        return true;
    }
    false
}

/// Cuts every case short everywhere, with the layers in `base`; the calls of each.
pub(crate) fn cut_short_in(base: &Path, test: &str, cases: &[Case]) -> Vec<String> {
    let mut calls = Vec::new();
    let only = std::env::var("STRATA_CRASH_ONLY").unwrap_or_default();
    let mut wrong = Vec::new();
    for case in cases {
        for (name, format) in formats(case) {
            let operation = format!("{name}:{}", case.name);
            if operation.contains(&only) {
                calls.extend(cut_case(base, test, &operation, case, format, &mut wrong));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    calls
}

pub(crate) fn prepared(base: &Path, case: &Case, format: Format) -> Place {
    let place = Place::new(base, format, case.metacopy);
    if let Some(before) = case.before {
        before(&place.open()).expect("what is done before");
    }
    place
}

pub(crate) fn cut_case(
    base: &Path,
    test: &str,
    operation: &str,
    case: &Case,
    format: Format,
    wrong: &mut Vec<String>,
) -> Vec<String> {
    let kernel_follows = format == Format::TRUSTED || !case.redirects;
    let place = prepared(base, case, format);
    let lower = place.lower();
    let old = view::ours(&place.open());
    let moments = tracer::moments(test, operation, place.path());
    let new = view::ours(&place.open());
    let mut between = old.clone();
    if (format == Format::USER || case.metacopy)
        && let Some(change) = case.between
    {
        change(&mut between);
    }
    let mut say = |moment: &str, what: String| wrong.push(format!("{operation}, before {moment}: {what}"));
    if kernel_follows {
        let kernel = place.kernel();
        if kernel != new {
            say(
                "-",
                format!(
                    "the kernel sees the end otherwise:\n{}",
                    difference(&new, &kernel)
                ),
            );
        }
    }
    assert!(!moments.is_empty(), "{operation} changes nothing");
    for moment in &moments {
        for kernel_first in [true, false] {
            if kernel_first && !kernel_follows {
                continue;
            }
            let place = prepared(base, case, format);
            tracer::kill_at(test, operation, place.path(), moment);
            let mut views = Vec::new();
            if kernel_first {
                views.push(("the kernel", place.kernel()));
            }
            let again = place.open();
            if !place.work().iter().all(|path| path.starts_with("index")) {
                say(&moment.line, format!("left in work: {:?}", place.work()));
            }
            let index = place.work();
            views.push(("ours", view::ours(&again)));
            drop(again);
            if !kernel_first && kernel_follows {
                views.push(("the kernel, after ours", place.kernel()));
                if place.work() != index {
                    say(
                        &moment.line,
                        format!("the kernel cleans more: {:?} of {index:?}", place.work()),
                    );
                }
            }
            let (mut is_new, mut is_between) = (false, false);
            for (who, view) in &views {
                (is_new, is_between) = (*view == new, *view == between && between != old);
                if *view != old && *view != new && *view != between {
                    let what = format!(
                        "{who} shows neither old nor new; than old:\n{}than new:\n{}",
                        difference(&old, view),
                        difference(&new, view)
                    );
                    say(&moment.line, what);
                }
                if *view != views[0].1 {
                    let what = difference(&views[0].1, view);
                    say(&moment.line, format!("{who} and {} differ:\n{what}", views[0].0));
                }
            }
            // With two names for one file rename(2) has nothing to do, and a time is not brought back.
            if !is_new && (!is_between || case.redirects) {
                let overlay = place.open();
                if let Err(errno) = (case.operation)(&overlay) {
                    say(&moment.line, format!("cannot be done again: {errno}"));
                }
                let view = view::ours(&overlay);
                if view != new {
                    say(
                        &moment.line,
                        format!("done again, it is\n{}", difference(&new, &view)),
                    );
                }
            }
            if place.lower() != lower {
                say(&moment.line, "the lower layer changed".to_owned());
            }
        }
    }
    moments.into_iter().map(|moment| moment.line).collect()
}
