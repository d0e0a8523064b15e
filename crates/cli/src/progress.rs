//! Progress of a pull, a load, a push and the like: a line per layer that is redrawn on a terminal, plain lines elsewhere.
//!
//! A layer's bar has two parts, since fetching and unpacking go on at once: `█` is unpacked, `▒` fetched.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::progress::{Digest, Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use crate::render::{id, plain, size};

/// Characters of a layer's bar.
const WIDTH: usize = 30;

/// What is done before a layer is unpacked, and what it is called: before, meanwhile, and when it is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    ahead: &'static str,
    doing: &'static str,
    done: Option<&'static str>,
}

/// Blobs come from a registry.
pub(crate) const FETCH: Work = Work {
    ahead: "to fetch",
    doing: "fetching",
    done: Some("fetched"),
};

/// They come from an archive.
pub(crate) const READ: Work = Work {
    ahead: "to read",
    doing: "reading",
    done: Some("read"),
};

/// They are written to an archive.
pub(crate) const SAVE: Work = Work {
    ahead: "to save",
    doing: "saving",
    done: Some("saved"),
};

/// They are sent to a registry.
pub(crate) const PUSH: Work = Work {
    ahead: "to push",
    doing: "pushing",
    done: Some("pushed"),
};

/// The only one is there by the time it is told of.
pub(crate) const UNPACK: Work = Work {
    ahead: "to unpack",
    doing: "unpacking",
    done: None,
};

/// The progress that fits standard error and the user's wish.
pub(crate) fn choose(quiet: bool, work: Work) -> Box<dyn Progress> {
    if quiet {
        Box::new(Silent)
    } else if std::io::stderr().is_terminal() {
        Box::new(Bars::new(work))
    } else {
        Box::new(Lines::new(work))
    }
}

/// Says nothing.
struct Silent;

impl Progress for Silent {
    fn event(&self, _: &Event<'_>) {}
}

/// How far one layer is, in bytes of its blob.
#[derive(Debug, Default)]
struct Layer {
    size: AtomicU64,
    fetched: AtomicU64,
    unpacked: AtomicU64,
}

impl Layer {
    /// The bar and the figures after it.
    fn draw(&self, work: Work) -> String {
        let size = self.size.load(Relaxed);
        let fetched = self.fetched.load(Relaxed).min(size);
        let unpacked = self.unpacked.load(Relaxed).min(fetched);
        let part = |bytes: u64| {
            (u128::from(bytes) * WIDTH as u128)
                .checked_div(size.into())
                .unwrap_or(0) as usize
        };
        let (full, half) = (part(unpacked), part(fetched));
        let mut text = String::new();
        text.extend(std::iter::repeat_n('█', full));
        text.extend(std::iter::repeat_n('▒', half - full));
        text.extend(std::iter::repeat_n('░', WIDTH - half));
        let what = if fetched < size { work.doing } else { UNPACK.doing };
        let done = if fetched < size { fetched } else { unpacked };
        // Writing to a string cannot fail.
        let _ = write!(text, " {what} {}/{}", size::human(done), size::human(size));
        text
    }
}

/// A line per layer on a terminal, redrawn a few times a second.
struct Bars {
    work: Work,
    all: MultiProgress,
    /// What is read before its layers are known, or is done to what has none.
    reading: Mutex<Option<ProgressBar>>,
    layers: Mutex<HashMap<String, (Arc<Layer>, ProgressBar)>>,
}

impl Bars {
    fn new(work: Work) -> Bars {
        Bars {
            work,
            all: MultiProgress::new(),
            reading: Mutex::default(),
            layers: Mutex::default(),
        }
    }

    fn reading(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one line of work that has no layers, or none yet.
    fn show(&self, what: &str, message: String) {
        let mut reading = self.reading();
        let bar = reading.get_or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new_spinner());
            bar.set_style(plain("{prefix:.bold} {msg}"));
            bar
        });
        if bar.prefix() != what {
            bar.set_prefix(what.to_owned());
        }
        bar.set_message(message);
    }

    fn with(&self, digest: &Digest, then: impl FnOnce(&Layer, &ProgressBar)) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((layer, bar)) = layers.get(&digest.to_string()) {
            then(layer, bar);
        }
    }

    fn say(&self, text: &str) {
        let _ = self.all.println(plain::plain(text));
    }
}

fn done_style() -> ProgressStyle {
    plain("{prefix:.dim} {msg}")
}

/// A style of a template that is known to be sound.
fn plain(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Drop for Bars {
    fn drop(&mut self) {
        // What had no image at its end, for whatever reason.
        if let Some(bar) = self.reading().take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Bars {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Resolved { name, layers, .. } => self.say(&format!("{name}: {}", count(*layers))),
            Event::Read { what, bytes } => self.show(what, format!("reading {}", size::human(*bytes))),
            Event::Step { what, done, of } => self.show(what, steps(*done, *of)),
            Event::LayerFound { digest, size, shared } => {
                if let Some(bar) = self.reading().take() {
                    bar.finish_and_clear();
                }
                let bar = self.all.add(ProgressBar::new_spinner());
                bar.set_prefix(id(&digest.to_string(), false).to_owned());
                let layer = Arc::new(Layer::default());
                layer.size.store(*size, Relaxed);
                if *shared {
                    bar.set_style(done_style());
                    bar.finish_with_message("already here");
                } else {
                    let (drawn, work) = (Arc::clone(&layer), self.work);
                    bar.set_style(plain("{prefix:.bold} {layer}").with_key(
                        "layer",
                        move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
                            let _ = out.write_str(&drawn.draw(work));
                        },
                    ));
                    bar.enable_steady_tick(Duration::from_millis(100));
                }
                let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
                layers.insert(digest.to_string(), (layer, bar));
            }
            Event::Fetched { digest, bytes } => {
                self.with(digest, |layer, _| layer.fetched.store(*bytes, Relaxed))
            }
            Event::Unpacked { digest, bytes } => {
                self.with(digest, |layer, _| layer.unpacked.store(*bytes, Relaxed))
            }
            Event::Sent { digest, bytes } => self.with(digest, |layer, bar| {
                layer.fetched.store(*bytes, Relaxed);
                layer.unpacked.store(*bytes, Relaxed);
                let size = layer.size.load(Relaxed);
                if *bytes >= size {
                    bar.set_style(done_style());
                    let done = self.work.done.unwrap_or_default();
                    bar.finish_with_message(format!("{done} {}", size::human(size)));
                }
            }),
            Event::LayerThere { digest } => self.with(digest, |_, bar| {
                bar.set_style(done_style());
                bar.finish_with_message("already there");
            }),
            Event::LayerDone { digest } => self.with(digest, |layer, bar| {
                bar.set_style(done_style());
                bar.finish_with_message(format!("done {}", size::human(layer.size.load(Relaxed))));
            }),
            Event::ImageDone { .. } => {
                if let Some(bar) = self.reading().take() {
                    bar.finish_and_clear();
                }
            }
            Event::Retrying { what, reason, after } => self.say(&retrying(what, reason, *after)),
            Event::Note { text } => self.say(text),
            _ => {}
        }
    }
}

/// Plain lines, for a log: a layer when it is found, when it is fetched and when it is unpacked.
struct Lines {
    work: Work,
    sizes: Mutex<HashMap<String, u64>>,
}

impl Lines {
    fn new(work: Work) -> Lines {
        Lines {
            work,
            sizes: Mutex::default(),
        }
    }

    fn line(&self, text: &str) {
        // A log that cannot be written is no reason to give up the work.
        let _ = writeln!(std::io::stderr(), "{}", plain::plain(text));
    }

    /// The line of an event that is worth one.
    fn words(&self, event: &Event<'_>) -> Option<String> {
        let short = |digest: &Digest| id(&digest.to_string(), false).to_owned();
        match event {
            Event::Resolved { name, layers, .. } => Some(format!("{name}: {}", count(*layers))),
            Event::LayerFound {
                digest, shared: true, ..
            } => Some(format!("{}: already here", short(digest))),
            Event::LayerFound { digest, size, .. } => {
                let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
                sizes.insert(digest.to_string(), *size);
                Some(format!(
                    "{}: {} {}",
                    short(digest),
                    size::human(*size),
                    self.work.ahead
                ))
            }
            Event::Fetched { digest, bytes } | Event::Sent { digest, bytes } => {
                let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
                // Once: the last piece of a blob may be told more than once.
                let whole = sizes.get(&digest.to_string()).is_some_and(|size| bytes >= size);
                let done = self.work.done.filter(|_| whole)?;
                sizes.remove(&digest.to_string());
                Some(format!("{}: {done}", short(digest)))
            }
            Event::LayerThere { digest } => Some(format!("{}: already there", short(digest))),
            Event::LayerDone { digest } => Some(format!("{}: unpacked", short(digest))),
            Event::Retrying { what, reason, after } => Some(retrying(what, reason, *after)),
            Event::Note { text } => Some((*text).to_owned()),
            _ => None,
        }
    }
}

impl Progress for Lines {
    fn event(&self, event: &Event<'_>) {
        if let Some(words) = self.words(event) {
            self.line(&words);
        }
    }
}

fn count(layers: usize) -> String {
    if layers == 1 {
        "1 layer".to_owned()
    } else {
        format!("{layers} layers")
    }
}

fn steps(done: u64, of: Option<u64>) -> String {
    match of {
        Some(of) => format!("{done} of {of}"),
        None => done.to_string(),
    }
}

fn retrying(what: &str, reason: &str, after: Duration) -> String {
    format!("{what}: {reason}; again in {} s", after.as_secs_f32().ceil())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        format!("sha256:{}", "ab".repeat(32)).parse().unwrap()
    }

    #[test]
    fn a_bar_shows_both_halves_of_the_work() {
        let layer = Layer::default();
        layer.size.store(3000, Relaxed);
        layer.fetched.store(2000, Relaxed);
        layer.unpacked.store(1000, Relaxed);
        let bar = ["█".repeat(10), "▒".repeat(10), "░".repeat(10)].concat();
        assert_eq!(layer.draw(FETCH), format!("{bar} fetching 2kB/3kB"));
        layer.fetched.store(9000, Relaxed);
        assert!(layer.draw(FETCH).ends_with("unpacking 1kB/3kB"));
        assert!(Layer::default().draw(READ).starts_with('░'));
    }

    #[test]
    fn a_log_has_a_line_per_step_and_no_figures_that_move() {
        let lines = Lines::new(FETCH);
        let digest = digest();
        let said = |event| lines.words(&event);
        assert_eq!(
            said(Event::LayerFound {
                digest: &digest,
                size: 10,
                shared: false
            })
            .as_deref(),
            Some("abababababab: 10B to fetch")
        );
        assert_eq!(
            said(Event::Fetched {
                digest: &digest,
                bytes: 5
            }),
            None
        );
        assert_eq!(
            said(Event::Fetched {
                digest: &digest,
                bytes: 10
            })
            .as_deref(),
            Some("abababababab: fetched")
        );
        assert_eq!(
            said(Event::Fetched {
                digest: &digest,
                bytes: 10
            }),
            None
        );
        assert_eq!(
            said(Event::LayerDone { digest: &digest }).as_deref(),
            Some("abababababab: unpacked")
        );
        // Nothing is fetched from an archive, nor from a file that is there already.
        for (work, expected) in [
            (
                READ,
                ["abababababab: 10B to read", "abababababab: read"].as_slice(),
            ),
            (UNPACK, &["abababababab: 10B to unpack"]),
        ] {
            let lines = Lines::new(work);
            let (size, shared) = (10, false);
            let found = Event::LayerFound {
                digest: &digest,
                size,
                shared,
            };
            let arrived = Event::Fetched {
                digest: &digest,
                bytes: size,
            };
            let said: Vec<_> = [found, arrived]
                .iter()
                .filter_map(|event| lines.words(event))
                .collect();
            assert_eq!(said, expected);
        }
    }
}
