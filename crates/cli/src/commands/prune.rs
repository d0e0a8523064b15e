//! `strata prune`, and `prune` of containers, images, volumes and networks under their nouns: removes what is not in use.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use engine::prune::{Gone, LabelFilter, PruneImages, PruneOptions, PruneVolumes, Pruned};
use jiff::{Span, SpanRelativeTo, Timestamp};

use snapshotter::forgotten::{Kept, forgotten, is_containerds, is_old};

use super::fsck::CONTAINERD;
use super::{Context, Outcome, print};
use crate::failure::{EXIT, Failure};
use crate::progress;
use crate::render::plain::plain;
use crate::render::size::human;
use crate::render::{self, Format, size};

/// Remove what is not in use: containers that do not run, images that nothing uses, idle networks, what was left over
///
/// Without a KIND, containers, images and networks. Blobs are those of layers that stay: the layer's directory gives the same tar
/// back, but for its compression, when it is needed. Snapshots are those that other engines made, and that the containerd of this
/// machine does not know: it is asked, and with --all not. What changed within the last minute stays then.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// What to remove
    #[arg(value_name = "KIND")]
    kinds: Vec<Kind>,
    /// All images that no container was made from, all volumes that none uses, not only those without a name, and all
    /// snapshots that are not mounted, not only those that containerd does not know
    #[arg(short, long)]
    all: bool,
    /// The socket of the containerd that is asked which snapshots it knows; containerd's or k3s' unless it is given
    #[arg(long, value_name = "SOCKET")]
    containerd: Option<PathBuf>,
    /// What that containerd calls strata
    #[arg(long, value_name = "NAME", default_value = "strata")]
    snapshotter: String,
    /// Volumes that no container uses too
    #[arg(long)]
    volumes: bool,
    #[command(flatten)]
    how: How,
}

/// Remove volumes that no container uses and that were given no name
#[derive(Debug, Args)]
pub(crate) struct PruneVolumesArgs {
    /// Those with a name too
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    how: How,
}

/// Remove containers that do not run
#[derive(Debug, Args)]
pub(crate) struct PruneContainersArgs {
    #[command(flatten)]
    how: How,
}

/// Remove images without a name that no container was made from
#[derive(Debug, Args)]
pub(crate) struct PruneImagesArgs {
    /// All images that no container was made from
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    how: How,
}

/// Remove networks that no container is to be in
#[derive(Debug, Args)]
pub(crate) struct PruneNetworksArgs {
    #[command(flatten)]
    how: How,
}

/// What can be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Containers that do not run
    Containers,
    /// Images that no container was made from
    Images,
    /// Blobs of layers that can be given back without
    Blobs,
    /// Snapshots that other engines made, are not mounted, and containerd does not know
    Snapshots,
    /// Volumes that no container uses
    Volumes,
    /// Networks that no container is to be in
    Networks,
}

#[derive(Debug, Args)]
struct How {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only tell what would be removed, and how much it would free
    #[arg(long)]
    dry_run: bool,
    /// Only what fits: label=KEY[=VALUE], label!=KEY[=VALUE], until=TIME
    #[arg(long, value_name = "FILTER")]
    filter: Vec<Filter>,
    /// Only what was last used before: a time (2026-01-31T12:00:00Z), a day, or how long ago (24h, 7d)
    #[arg(long, value_name = "TIME", value_parser = until)]
    until: Option<Timestamp>,
    /// Remove images that no container was made from, the least recently used first, until those of the store take at
    /// most so much
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    keep_bytes: Option<u64>,
    /// Form of the output
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Filter {
    Label(LabelFilter),
    Until(Timestamp),
    Dangling(bool),
    /// As docker has it for volumes: those with a name too.
    All(bool),
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Filter, String> {
        let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
        let label = |not: bool| {
            let (key, value) = match value.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (value, None),
            };
            Filter::Label(LabelFilter {
                key: key.to_owned(),
                value,
                not,
            })
        };
        match key {
            "label" => Ok(label(false)),
            "label!" => Ok(label(true)),
            "until" => until(value).map(Filter::Until),
            "dangling" => value
                .parse()
                .map(Filter::Dangling)
                .map_err(|_| "dangling is true or false".to_owned()),
            "all" => runtime::options::boolean(value)
                .map(Filter::All)
                .ok_or("all is true or false".to_owned()),
            _ => Err("there are label, label!, until, dangling of images and all of volumes".to_owned()),
        }
    }
}

/// A moment, a day, seconds since 1970, or how long ago.
fn until(text: &str) -> Result<Timestamp, String> {
    let now = Timestamp::now();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Timestamp::from_second(seconds).map_err(|error| error.to_string());
    }
    if let Ok(day) = text.parse::<jiff::civil::Date>() {
        let start = day
            .to_zoned(jiff::tz::TimeZone::UTC)
            .map_err(|error| error.to_string())?;
        return Ok(start.timestamp());
    }
    let span: Span = text
        .parse()
        .map_err(|_| "write a time, a day such as 2026-01-31, or how long ago: 24h, 7d")?;
    let ago = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|error| error.to_string())?;
    now.checked_sub(ago).map_err(|error| error.to_string())
}

pub(crate) fn run(context: &Context, args: PruneArgs) -> Outcome {
    let has = |kind: Kind| args.kinds.contains(&kind);
    let none = args.kinds.is_empty();
    let images = (none || has(Kind::Images)).then_some(args.all);
    let only = match has(Kind::Snapshots) && !args.all {
        true => Some(forgotten_here(context, &args)?),
        false => None,
    };
    let options = PruneOptions {
        only,
        containers: none || has(Kind::Containers),
        blobs: has(Kind::Blobs),
        snapshots: has(Kind::Snapshots),
        volumes: (args.volumes || has(Kind::Volumes)).then(|| which_volumes(args.all)),
        networks: none || has(Kind::Networks),
        unfinished: none,
        ..PruneOptions::default()
    };
    prune(context, &args.how, images, options)
}

/// The namespace's snapshots that nobody knows, by key and when each was changed last. What comes after this is none of them.
fn forgotten_here(context: &Context, args: &PruneArgs) -> Result<HashMap<String, Timestamp>, Failure> {
    let now = Timestamp::now();
    let kept = context.engine()?.snapshots(false)?.into_iter().map(|found| Kept {
        ns: found.namespace,
        key: found.key,
        created: found.created,
        updated: found.updated,
    });
    // What has no key of containerd's is not asked for, and nobody knows it.
    let (containerds, others): (Vec<Kept>, Vec<Kept>) =
        kept.partition(|one| is_containerds(&one.ns, &one.key));
    let others = others.into_iter().filter(|one| is_old(one.updated, now));
    let mut gone: HashMap<String, Timestamp> = others.map(|one| (one.key, one.updated)).collect();
    if !containerds.is_empty() {
        let forgotten = ask(args, containerds, now)?;
        gone.extend(forgotten.into_iter().map(|one| (one.key, one.updated)));
    }
    Ok(gone)
}

/// Asks the containerd that is named, or the first that is there of those that are known by their places.
fn ask(args: &PruneArgs, kept: Vec<Kept>, now: Timestamp) -> Result<Vec<Kept>, Failure> {
    let sockets = match &args.containerd {
        Some(socket) => vec![socket.as_path()],
        None => vec![Path::new(CONTAINERD), Path::new(K3S)],
    };
    let mut nobody = None;
    for socket in sockets {
        match forgotten(socket, &args.snapshotter, kept.clone(), now) {
            Err(error) if error.is_nobody() => nobody = nobody.or(Some(error)),
            Ok(forgotten) => return Ok(forgotten),
            // By another name it may know all of them.
            Err(error) if error.is_unknown() => {
                return Err(Failure::user(error).hint(format!(
                    "it has no snapshotter {:?}: --snapshotter NAME is what it calls strata, and --all takes what is not mounted, whoever knows it",
                    args.snapshotter
                )));
            }
            Err(error) => return Err(Failure::user(error).hint(UNASKED)),
        }
    }
    // It may be just starting anew, or listen elsewhere.
    nobody.map_or(Ok(Vec::new()), |error| Err(Failure::user(error).hint(UNASKED)))
}

/// Where the containerd of k3s is.
const K3S: &str = "/run/k3s/containerd/containerd.sock";

const UNASKED: &str = "--containerd SOCKET names the one that these snapshots are of; --all takes what is not mounted, whether containerd knows it or not";

pub(crate) fn containers(context: &Context, args: PruneContainersArgs) -> Outcome {
    let options = PruneOptions {
        containers: true,
        ..PruneOptions::default()
    };
    prune(context, &args.how, None, options)
}

pub(crate) fn volumes(context: &Context, args: PruneVolumesArgs) -> Outcome {
    let options = PruneOptions {
        volumes: Some(which_volumes(args.all)),
        ..PruneOptions::default()
    };
    prune(context, &args.how, None, options)
}

pub(crate) fn networks(context: &Context, args: PruneNetworksArgs) -> Outcome {
    let of_others = |filter: &Filter| matches!(filter, Filter::Dangling(_) | Filter::All(_));
    if args.how.filter.iter().any(of_others) {
        return Err(
            Failure::user("--filter: dangling is of images, and all of volumes")
                .hint("there are label, label! and until"),
        );
    }
    let options = PruneOptions {
        networks: true,
        ..PruneOptions::default()
    };
    prune(context, &args.how, None, options)
}

fn which_volumes(all: bool) -> PruneVolumes {
    match all {
        true => PruneVolumes::Unused,
        false => PruneVolumes::Anonymous,
    }
}

pub(crate) fn images(context: &Context, args: PruneImagesArgs) -> Outcome {
    prune(context, &args.how, Some(args.all), PruneOptions::default())
}

/// `images`: whether all, or only those without a name; none at all.
fn prune(context: &Context, how: &How, images: Option<bool>, mut options: PruneOptions) -> Outcome {
    let mut all = images;
    options.until = how.until;
    for filter in &how.filter {
        match filter {
            Filter::Label(label) => options.labels.push(label.clone()),
            Filter::Until(time) => {
                options.until = Some(options.until.map_or(*time, |until| until.min(*time)))
            }
            Filter::Dangling(only) => all = all.map(|all| all || !only),
            Filter::All(every) => {
                options.volumes = options
                    .volumes
                    .map(|which| if *every { PruneVolumes::Unused } else { which })
            }
        }
    }
    options.images = match (all, how.keep_bytes) {
        (None, Some(_)) => {
            return Err(
                Failure::user("--keep-bytes limits images, and none are to be removed")
                    .hint("add images to the kinds: strata prune images --keep-bytes SIZE"),
            );
        }
        (None, None) => None,
        (Some(_), Some(bytes)) => Some(PruneImages::Above(bytes)),
        (Some(true), None) => Some(PruneImages::Unused),
        (Some(false), None) => Some(PruneImages::Nameless),
    };
    options.dry_run = how.dry_run;
    if !how.force && !how.dry_run {
        confirm(&options)?;
    }
    let progress = progress::choose(false, progress::READ);
    let pruned = context.engine()?.prune(&options, &*progress)?;
    drop(progress);
    print(|out| match how.format {
        Format::Json => render::json(out, &pruned),
        Format::Table => write(out, &pruned),
    })?;
    let code = pruned
        .failed
        .iter()
        .map(|why| Failure::user(why).report())
        .next_back();
    Ok(code.map_or(0, |_| EXIT))
}

/// Asks, as docker does.
fn confirm(options: &PruneOptions) -> Result<(), Failure> {
    let images = options.images.map(|which| match which {
        PruneImages::Nameless => "images without a name that no container was made from".to_owned(),
        PruneImages::Unused => "all images that no container was made from".to_owned(),
        PruneImages::Above(bytes) => format!(
            "images, the least recently used first, until they take {}",
            human(bytes)
        ),
    });
    let kinds = [
        options
            .containers
            .then(|| "containers that do not run".to_owned()),
        images,
        options
            .blobs
            .then(|| "blobs of layers that can be given back without".to_owned()),
        options.snapshots.then(|| match &options.only {
            None => {
                "all snapshots of other engines that are not mounted, whether containerd knows them or not"
                    .to_owned()
            }
            Some(only) => format!("snapshots that containerd does not know ({})", only.len()),
        }),
        options.volumes.map(|which| match which {
            PruneVolumes::Anonymous => "volumes without a name that no container uses".to_owned(),
            PruneVolumes::Unused => "all volumes that no container uses".to_owned(),
        }),
        options
            .networks
            .then(|| "all networks that no container is to be in".to_owned()),
        options
            .unfinished
            .then(|| "what interrupted operations left".to_owned()),
    ];
    let mut err = io::stderr().lock();
    let mut ask = || -> io::Result<bool> {
        writeln!(err, "This removes:")?;
        kinds
            .iter()
            .flatten()
            .try_for_each(|kind| writeln!(err, "  - {kind}"))?;
        write!(err, "Go on? [y/N] ")?;
        err.flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    };
    match ask() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::user("nothing was removed")
            .hint("answer y, or write --force to go on without being asked")),
        Err(error) => {
            Err(Failure::user(format!("cannot ask: {error}")).hint("--force goes on without asking"))
        }
    }
}

fn write(out: &mut dyn Write, pruned: &Pruned) -> io::Result<()> {
    let name = |gone: &Gone| match gone.names.is_empty() {
        true => gone.id.clone(),
        false => gone.names.join(", "),
    };
    for (what, gone) in [
        ("Container", &pruned.containers),
        ("Image", &pruned.images),
        ("Snapshot", &pruned.snapshots),
        ("Volume", &pruned.volumes),
        ("Blob", &pruned.blobs),
    ] {
        for one in gone {
            writeln!(out, "{what} {}: {}", plain(&name(one)), human(one.bytes))?;
        }
    }
    for network in &pruned.networks {
        writeln!(out, "Network {}", name(network))?;
    }
    if pruned.left_over > 0 {
        writeln!(out, "Left over: {}", human(pruned.left_over))?;
    }
    let freed = if pruned.dry_run { "Would free" } else { "Freed" };
    writeln!(out, "{freed} {}", human(pruned.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_moments_days_or_spans() {
        let near = |text: &str, seconds: i64| {
            let ago = Timestamp::now().duration_since(until(text).unwrap()).as_secs();
            assert!((ago - seconds).abs() < 5, "{text}: {ago}");
        };
        near("24h", 86_400);
        near("7d", 7 * 86_400);
        near("1h30m", 5400);
        assert_eq!(
            until("2024-01-02T03:04:05Z").unwrap().to_string(),
            "2024-01-02T03:04:05Z"
        );
        assert_eq!(until("2024-01-02").unwrap().to_string(), "2024-01-02T00:00:00Z");
        assert_eq!(until("0").unwrap(), Timestamp::UNIX_EPOCH);
        assert!(until("soon").is_err());
    }

    #[test]
    fn filters_as_docker_has_them() {
        let label = |key: &str, value: Option<&str>, not| {
            Filter::Label(LabelFilter {
                key: key.into(),
                value: value.map(str::to_owned),
                not,
            })
        };
        assert_eq!("label=a".parse(), Ok(label("a", None, false)));
        assert_eq!("label!=a=b=c".parse(), Ok(label("a", Some("b=c"), true)));
        assert!(matches!("until=24h".parse(), Ok(Filter::Until(_))));
        assert!("colour=red".parse::<Filter>().is_err());
        assert!("label".parse::<Filter>().is_err());
    }
}
