//! What is wrong with unpacked layers.
//!
//! A layer is looked at in two ways that know nothing of each other: what its files hold, and what they are like. So the looks at
//! all layers go on beside each other, on all processors. What takes directories over from the layers below it, or much
//! memory, is held back until those are mended, and then takes its turn.

use image::unpack::UnpackError;
use image::verify::{self, AgainError, Damage};
use store::{Fault, Layer, beside};

use super::mend::Mender;
use super::{Finding, FsckOptions};
use crate::Engine;

/// Differences of a layer that are told.
const TOLD: usize = 20;

/// Bytes of memory ([`image::unpack::Limits`]) that a look may take beside others.
const MEMORY: usize = 8 << 20;

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
    /// To be asked for once more when the layers below are known to be sound, beside nothing else.
    Later,
}

impl Engine {
    /// Looks at all `layers`; those that are damaged are mended.
    pub(super) fn check_layers(
        &self,
        layers: &[Layer],
        mender: &Mender<'_>,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Fault> {
        let ways: &[Look] = match mender.compares() {
            true => &[Look::Content, Look::Attributes],
            false => &[Look::Content],
        };
        let looks: Vec<(&Layer, Look)> = (layers.iter())
            .flat_map(|layer| ways.iter().map(move |look| (layer, *look)))
            .collect();
        let mut found = beside(&looks, |(layer, look)| match look {
            Look::Content => self.content(layer, mender.options),
            Look::Attributes if layer.depends_on_below => Ok(Found::Later),
            Look::Attributes => self.attributes(layer, mender, MEMORY),
        })
        .into_iter();
        let mut later = Vec::new();
        for layer in layers {
            let of_layer: Vec<_> = found.by_ref().take(ways.len()).collect();
            // Removed meanwhile, it is nobody's concern.
            if !self.is_there(layer)? {
                continue;
            }
            for found in of_layer {
                match found? {
                    Found::Nothing => continue,
                    Found::Later => later.push(layer),
                    Found::Wrong(what, damage) => {
                        findings.push(tell(layer, mender, what, &damage)?);
                        // What its attributes would be like is nothing to go by then.
                        break;
                    }
                }
            }
        }
        for layer in later {
            let found = self.attributes(layer, mender, self.setup.limits.memory);
            if self.is_there(layer)?
                && let Found::Wrong(what, damage) = found?
            {
                findings.push(tell(layer, mender, what, &damage)?);
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

    /// What everything in a layer is like.
    fn attributes(&self, layer: &Layer, mender: &Mender<'_>, memory: usize) -> Result<Found, Fault> {
        let Some(lease) = &mender.lease else {
            return Ok(Found::Nothing);
        };
        let Some(below) = self.store.layers_below(layer.n)? else {
            return Ok(Found::Nothing);
        };
        let below = if layer.depends_on_below { below } else { Vec::new() };
        let all = &self.setup.limits;
        let mut limits = all.clone();
        limits.memory = memory.min(all.memory);
        let damage = |what: String| {
            vec![Damage {
                path: Default::default(),
                what,
            }]
        };
        Ok(
            match verify::outline(&self.store, lease, layer.n, &below, &limits, TOLD) {
                Ok(differ) => Found::of("its attributes are not as its tar says", differ),
                Err(AgainError::Unpack(UnpackError::Memory { .. })) if limits.memory < all.memory => {
                    Found::Later
                }
                Err(error) if error.is_full() => Found::Wrong(
                    "its attributes could not be compared",
                    damage("there is no space to unpack it once more".to_owned()),
                ),
                Err(error) => Found::Wrong("it cannot be unpacked once more", damage(error.to_string())),
            },
        )
    }
}

impl Found {
    fn of(what: &'static str, damage: Vec<Damage>) -> Found {
        match damage.is_empty() {
            true => Found::Nothing,
            false => Found::Wrong(what, damage),
        }
    }
}

/// What is wrong with a layer as a finding, mended where that was asked for.
fn tell(layer: &Layer, mender: &Mender<'_>, what: &str, damage: &[Damage]) -> Result<Finding, Fault> {
    let mut found = Finding::new("layer", layer.diff_id.to_string(), what);
    found.details = damage.iter().take(TOLD).map(detail).collect();
    if mender.options.repair {
        mender.layer(layer, &mut found)?;
    }
    Ok(found)
}

fn detail(damage: &Damage) -> String {
    match damage.path.as_os_str().is_empty() {
        true => damage.what.clone(),
        false => format!("/{}: {}", damage.path.display(), damage.what),
    }
}
