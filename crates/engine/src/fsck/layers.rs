//! What is wrong with unpacked layers.
//!
//! A layer is looked at in two ways that know nothing of each other: what its files hold, and what they are like. So the looks at
//! all layers go on beside each other, on all processors. What takes directories over from the layers below it, or much
//! memory, is held back until those are mended, and then takes its turn.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use image::progress::{Event, Progress};
use image::verify::{self, AgainError, Damage};
use store::{Fault, Flaw, Layer, NewLayer, beside};

use super::mend::Mender;
use super::{Finding, FsckOptions};
use crate::Engine;

/// Differences of a layer that are told.
const TOLD: usize = 20;

/// Bytes of memory ([`image::unpack::Limits`]) that a look may take beside others.
const MEMORY: usize = 8 << 20;

const ATTRIBUTES: &str = "its attributes are not as its tar says";

/// A way to look at a layer.
#[derive(Clone, Copy)]
enum Look {
    Content,
    Attributes,
}

/// What is wrong with a layer.
enum Found {
    Nothing,
    /// This, and where.
    Wrong(&'static str, Vec<Damage>),
    /// To be looked at once more when the layers below are known to be sound, beside nothing else.
    Later,
}

impl Engine {
    /// Looks at all `layers`; those that are damaged are mended.
    pub(super) fn check_layers(
        &self,
        layers: &[Layer],
        mender: &Mender<'_>,
        progress: &dyn Progress,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Fault> {
        let ways: &[Look] = match mender.compares() {
            true => &[Look::Content, Look::Attributes],
            false => &[Look::Content],
        };
        let looks: Vec<(&Layer, Look)> = (layers.iter())
            .flat_map(|layer| ways.iter().map(move |look| (layer, *look)))
            .collect();
        // One for all of them, removed in the end: ext4 is slow to give out inodes that were just freed.
        let scratch = mender.scratch();
        let done = AtomicU64::new(0);
        let mut found = beside(&looks, |(layer, look)| {
            let found = match (look, &scratch) {
                (Look::Content, _) => self.content(layer, mender.options),
                (Look::Attributes, Some(Ok(scratch))) if !layer.depends_on_below => {
                    let differ = self.outline(layer, scratch, MEMORY);
                    Ok(differ.map_or(Found::Later, Found::attributes))
                }
                (Look::Attributes, _) => Ok(Found::Later),
            };
            // A layer that is looked at twice is done with the second.
            let (done, ways) = (done.fetch_add(1, Relaxed) + 1, ways.len() as u64);
            progress.event(&Event::Step {
                what: "checking layers",
                done: done / ways,
                of: Some(layers.len() as u64),
            });
            found
        })
        .into_iter();
        drop(scratch);
        let mut later = Vec::new();
        for layer in layers {
            let of_layer: Vec<_> = found.by_ref().take(ways.len()).collect();
            // Removed meanwhile, it is nobody's concern.
            if !self.is_there(layer)? {
                continue;
            }
            let mut sound = true;
            for found in of_layer {
                match found? {
                    Found::Nothing => continue,
                    Found::Later => later.push(layer),
                    Found::Wrong(what, damage) => {
                        findings.push(tell(layer, mender, what, &damage)?);
                        // What its attributes would be like is nothing to go by then.
                        sound = false;
                        break;
                    }
                }
            }
            if sound && self.store.flaw(layer.n)? == Some(Flaw::Marked) {
                match mender.compares() {
                    true => self.store.mark(layer.n, false)?,
                    false => findings.push(tell(layer, mender, "an earlier check found it damaged", &[])?),
                }
            }
        }
        for layer in later {
            let memory = self.setup.limits.memory;
            let differ = match mender.scratch() {
                Some(Ok(scratch)) => self.outline(layer, &scratch, memory),
                Some(Err(fault)) => Err(fault.into()),
                None => Ok(Vec::new()),
            };
            if !self.is_there(layer)? {
                continue;
            }
            match differ {
                Ok(damage) if damage.is_empty() => {}
                Ok(damage) => findings.push(tell(layer, mender, ATTRIBUTES, &damage)?),
                Err(error) if error.is_full() => {
                    let mut found = finding(layer, "its attributes could not be compared");
                    found.details = vec!["there is no space to unpack it once more".to_owned()];
                    findings.push(found);
                }
                Err(error) => {
                    let why = Damage {
                        path: Default::default(),
                        what: error.to_string(),
                    };
                    findings.push(tell(layer, mender, "it cannot be unpacked once more", &[why])?);
                }
            }
        }
        Ok(())
    }

    fn is_there(&self, layer: &Layer) -> Result<bool, Fault> {
        let now = self.store.layer(layer.n)?;
        Ok(now.is_some_and(|now| now.created == layer.created))
    }

    /// What a layer's files hold.
    fn content(&self, layer: &Layer, options: &FsckOptions) -> Result<Found, Fault> {
        let (fs, record) = (self.store.layer_dir(layer.n)?, self.store.layer_record(layer.n)?);
        let mut damage = verify::glance(&fs, &record);
        if damage.is_empty() {
            damage = match options.deep {
                true => verify::check(&fs, &record, &layer.diff_id),
                false => verify::count(&fs, &layer.usage).map_err(|source| Fault::Io {
                    what: "walking",
                    path: self.store.layer_path(layer.n),
                    source,
                })?,
            };
        }
        Ok(Found::of("its files are not as its record says", damage))
    }

    /// How a layer differs from what it would be like if it were unpacked now.
    fn outline(&self, layer: &Layer, scratch: &NewLayer, memory: usize) -> Result<Vec<Damage>, AgainError> {
        let Some(below) = self.store.layers_below(layer.n)? else {
            return Ok(Vec::new());
        };
        let below = if layer.depends_on_below { below } else { Vec::new() };
        let mut limits = self.setup.limits.clone();
        limits.memory = limits.memory.min(memory);
        let into = scratch.subdirectory(&layer.n.to_string())?;
        verify::outline(&self.store, layer.n, &into, &below, &limits, TOLD)
    }
}

impl Found {
    fn of(what: &'static str, damage: Vec<Damage>) -> Found {
        match damage.is_empty() {
            true => Found::Nothing,
            false => Found::Wrong(what, damage),
        }
    }

    fn attributes(differ: Vec<Damage>) -> Found {
        Found::of(ATTRIBUTES, differ)
    }
}

fn finding(layer: &Layer, what: &str) -> Finding {
    Finding::new("layer", layer.diff_id.to_string(), what)
}

/// What is wrong with a layer as a finding, mended where that was asked for. What stays damaged is marked, so that the next
/// image that comes in with it replaces it.
fn tell(layer: &Layer, mender: &Mender<'_>, what: &str, damage: &[Damage]) -> Result<Finding, Fault> {
    let mut found = finding(layer, what);
    found.details = damage.iter().take(TOLD).map(detail).collect();
    if mender.options.repair {
        mender.layer(layer, &mut found)?;
    }
    if found.mended.is_none() {
        match mender.engine.store.mark(layer.n, true) {
            Err(Fault::ReadOnly(_) | Fault::Full(..)) | Ok(()) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(found)
}

fn detail(damage: &Damage) -> String {
    match damage.path.as_os_str().is_empty() {
        true => damage.what.clone(),
        false => format!("/{}: {}", damage.path.display(), damage.what),
    }
}
