//! `events`: what happens to the containers, images, volumes and networks of the namespace.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use runtime::control::MountedVolume;
pub use runtime::events::Event;
use runtime::events::Log;
use runtime::options::volumes::VolumeOption;
use store::Container;

use crate::Engine;
use crate::find::familiar;

/// Which events are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventsOptions {
    /// None of before: what is kept of earlier ones is told from here on. Without it, only what comes.
    pub since: Option<Timestamp>,
    /// None of later; if that is past already, nothing is waited for.
    pub until: Option<Timestamp>,
}

impl Engine {
    /// Tells events, in the order in which they were written down, until `each` answers false or their time is over.
    ///
    /// # Errors
    /// The state directory cannot be read or watched; what `each` answers.
    pub fn events(
        &self,
        options: EventsOptions,
        mut each: impl FnMut(&Event) -> std::io::Result<bool>,
    ) -> std::io::Result<()> {
        let mut follower = self.event_log().follow(options.since.is_some())?;
        loop {
            for event in follower.read()? {
                let time = i128::from(event.time);
                let wanted = options.since.is_none_or(|since| time >= since.as_nanosecond())
                    && options.until.is_none_or(|until| time <= until.as_nanosecond());
                if wanted && !each(&event)? {
                    return Ok(());
                }
            }
            let left = options.until.map(|until| {
                Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO)
            });
            if left == Some(Duration::ZERO) {
                return Ok(());
            }
            follower.wait(left.map(|left| left.min(LOOK_AGAIN)))?;
        }
    }

    fn event_log(&self) -> Log {
        Log::new(&self.setup.state, &self.setup.namespace)
    }

    /// Writes down that something was done to an image or a volume.
    pub(crate) fn note(&self, kind: &str, action: &str, name: &str) {
        let attributes = BTreeMap::from([("name".to_owned(), name.to_owned())]);
        self.event_log()
            .append(&[Event::now(kind, action, name, attributes)]);
    }

    /// Writes down one that is told nowhere else.
    pub(crate) fn note_event(&self, event: Event) {
        self.event_log().append(&[event]);
    }

    /// Writes down that something was done to a container.
    pub(crate) fn note_container(&self, row: &Container, action: &str, more: &[(&str, &str)]) {
        let mut attributes = about(&row.name, row.image.as_deref(), &row.labels);
        attributes.extend(
            more.iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        self.event_log()
            .append(&[Event::now("container", action, &row.id, attributes)]);
    }
}

/// How often to look whether it is late enough: the clock may be set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Bytes of labels, and of volumes, that go with an event; where there are more, none do.
const LABELS: usize = 4096;

/// The volumes of which it is told that they are mounted; none where their names and places are longer than what goes
/// with an event.
pub(crate) fn mounted(volumes: &[VolumeOption]) -> Vec<MountedVolume> {
    let mounted = volumes.iter().map(|volume| MountedVolume {
        name: volume.name.clone().unwrap_or_default(),
        destination: volume.destination.display().to_string(),
        read_only: volume.read_only(),
    });
    let mounted: Vec<_> = mounted.collect();
    let size: usize = mounted
        .iter()
        .map(|one| one.name.len() + one.destination.len())
        .sum();
    match size > LABELS {
        true => Vec::new(),
        false => mounted,
    }
}

/// What goes with each event of a container.
pub(crate) fn about(
    name: &str,
    image: Option<&str>,
    labels: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let size: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    let mut about = if size > LABELS {
        BTreeMap::new()
    } else {
        labels.clone()
    };
    about.insert("name".to_owned(), name.to_owned());
    if let Some(image) = image {
        about.insert("image".to_owned(), familiar(image));
    }
    about
}
