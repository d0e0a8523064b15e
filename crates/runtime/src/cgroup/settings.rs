//! Limits of the OCI spec as files of a cgroup and what is written to them: pure, for both versions.

mod v1;
mod v2;

use oci_spec::runtime::LinuxResources;

/// One value to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// What the user asked for, for messages.
    pub(super) limit: &'static str,
    pub(super) file: String,
    pub(super) value: String,
    /// File and value to use where the kernel lacks the file.
    pub(super) instead: Option<(String, String)>,
}

/// A limit that this version of cgroups cannot hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unsupported {
    pub(super) limit: &'static str,
    pub(super) because: &'static str,
}

type Result = std::result::Result<Vec<Setting>, Unsupported>;

/// A list of settings being made.
#[derive(Default)]
struct Settings(Vec<Setting>);

impl Settings {
    fn add(&mut self, limit: &'static str, file: impl Into<String>, value: impl ToString) -> &mut Setting {
        self.0.push(Setting {
            limit,
            file: file.into(),
            value: value.to_string(),
            instead: None,
        });
        let last = self.0.len() - 1;
        &mut self.0[last]
    }
}

/// What was asked for; zero, and less, is the spec's word for no limit.
fn positive<T: PartialOrd + Default>(value: Option<T>) -> Option<T> {
    value.filter(|value| *value > T::default())
}

/// The controllers whose files and values are the same in both versions.
fn in_both(controller: &str, resources: &LinuxResources, settings: &mut Settings) {
    match controller {
        "cpuset" => {
            let cpu = resources.cpu().as_ref();
            let lists = [
                ("cpuset.cpus", cpu.and_then(|cpu| cpu.cpus().as_deref())),
                ("cpuset.mems", cpu.and_then(|cpu| cpu.mems().as_deref())),
            ];
            for (file, list) in lists {
                if let Some(list) = list.filter(|list| !list.is_empty()) {
                    settings.add("the CPU set", file, list);
                }
            }
        }
        "pids" => {
            if let Some(limit) = positive(resources.pids().map(|pids| pids.limit())) {
                settings.add("the process limit", "pids.max", limit);
            }
        }
        "rdma" => {
            let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
            devices.sort_by_key(|(name, _)| name.as_str());
            for (name, limits) in devices {
                let number = |value: Option<u32>| value.map_or("max".to_owned(), |value| value.to_string());
                let (handles, objects) = (number(limits.hca_handles()), number(limits.hca_objects()));
                let value = format!("{name} hca_handle={handles} hca_object={objects}");
                settings.add("the RDMA limit", "rdma.max", value);
            }
        }
        _ => {}
    }
}

/// Limits of huge pages, in files whose names end so.
fn huge_pages(resources: &LinuxResources, end: &str, settings: &mut Settings) {
    for limit in resources.hugepage_limits().iter().flatten() {
        let (size, limit) = (limit.page_size(), limit.limit());
        let file = format!("hugetlb.{size}.{end}");
        settings.add("the huge page limit", &file, limit);
        // What is reserved too, before a page of it is touched (runtime spec, "Huge page limits"), where the kernel counts it.
        let reserved = format!("hugetlb.{size}.rsvd.{end}");
        settings.add("the huge page limit", reserved, limit).instead = Some((file, limit.to_string()));
    }
}

/// Controllers by the name they have in both versions, or in v2 where they differ; beside each the v1 name.
const CONTROLLERS: [(&str, &str); 9] = [
    ("memory", "memory"),
    ("cpu", "cpu"),
    ("cpuset", "cpuset"),
    ("pids", "pids"),
    ("io", "blkio"),
    ("hugetlb", "hugetlb"),
    ("rdma", "rdma"),
    ("net_cls", "net_cls"),
    ("net_prio", "net_prio"),
];

/// What the limits need: for every controller that one asks for, its name in v2 and in v1, and the settings there.
pub(super) fn needed(resources: &LinuxResources) -> Vec<Needed<'_>> {
    let mut needed: Vec<Needed<'_>> = CONTROLLERS
        .iter()
        .map(|(unified, legacy)| Needed {
            unified,
            legacy: Some(legacy),
            resources,
        })
        .filter(|needed| {
            // Either version having something to say, or to refuse, is a limit asked for.
            let says = |settings: Result| settings.map_or(true, |list| !list.is_empty());
            says(needed.v1()) || says(needed.v2())
        })
        .collect();
    for key in resources.unified().iter().flatten().map(|(key, _)| key) {
        let controller = key.split('.').next().unwrap_or(key);
        match needed.iter_mut().find(|n| n.unified == controller) {
            // Its words are of v2 alone.
            Some(known) => known.legacy = None,
            None => needed.push(Needed {
                unified: controller,
                legacy: None,
                resources,
            }),
        }
    }
    needed
}

/// One controller that is needed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needed<'a> {
    pub(super) unified: &'a str,
    /// `None` where only v2 will do.
    pub(super) legacy: Option<&'static str>,
    resources: &'a LinuxResources,
}

impl Needed<'_> {
    /// What to write on v1.
    pub(super) fn v1(&self) -> Result {
        self.legacy
            .map_or(Ok(vec![]), |controller| v1::settings(controller, self.resources))
    }

    /// What to write on v2, the `unified` map's last.
    pub(super) fn v2(&self) -> Result {
        v2::settings(self.unified, self.resources)
    }

    /// What the user asked for, for messages.
    pub(super) fn limit(&self) -> &'static str {
        let first = |settings: Result| match settings {
            Ok(list) => list.first().map(|setting| setting.limit),
            Err(unsupported) => Some(unsupported.limit),
        };
        first(self.v2()).or_else(|| first(self.v1())).unwrap_or("a limit")
    }
}

/// Weight of cgroup v2 (1 to 10,000) for shares of v1 (2 to 262,144): runc's since 1.3.2, which maps the ends to the
/// ends and the ordinary 1,024 to the ordinary 100.
pub(super) fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = logarithm(shares);
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            // The ordinary one must come out as 100, not as 101 by a rounding error.
            (power_of_ten(exponent) - 1e-9).ceil() as u64
        }
    }
}

/// To the base of 2. By series, as is the power: nothing else of the program needs the C library's mathematics, and whoever
/// starts it waits until that is loaded.
fn logarithm(number: u64) -> f64 {
    let whole = number.max(1).ilog2();
    let rest = number as f64 / (1_u64 << whole) as f64;
    // ln(rest) = 2 artanh((rest - 1) / (rest + 1)), where rest is from 1 to 2.
    let step = (rest - 1.0) / (rest + 1.0);
    let mut term = step;
    let mut sum = 0.0;
    for odd in (1..60).step_by(2) {
        sum += term / f64::from(odd);
        term *= step * step;
    }
    f64::from(whole) + 2.0 * sum * std::f64::consts::LOG2_E
}

/// 10 to this.
fn power_of_ten(exponent: f64) -> f64 {
    let whole = exponent as i32;
    let rest = (exponent - f64::from(whole)) * std::f64::consts::LN_10;
    let mut term = 1.0;
    let mut sum = 1.0;
    for next in 1..60 {
        term *= rest / f64::from(next);
        sum += term;
    }
    (0..whole).fold(sum, |power, _| power * 10.0)
}

/// Weight of the io controller (1 to 10,000) for one of blkio (10 to 1,000), linearly, as runc does.
pub(super) fn io_weight(blkio: u16) -> u64 {
    1 + (u64::from(blkio.clamp(10, 1000)) - 10) * 9_999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights() {
        for (shares, weight) in [
            (2, 1),
            (10, 4),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (262_144, 10_000),
            (1 << 40, 10_000),
        ] {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
        let all: Vec<u64> = (2..300_000).map(cpu_weight).collect();
        assert!(all.is_sorted());
        for shares in 3..262_144_u64 {
            let log = (shares as f64).log2();
            assert!((logarithm(shares) - log).abs() < 1e-12, "{shares}");
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            let power = 10_f64.powf(exponent);
            assert!((power_of_ten(exponent) / power - 1.0).abs() < 1e-12, "{shares}");
        }
        for (blkio, weight) in [(10, 1), (500, 4950), (1000, 10_000)] {
            assert_eq!(io_weight(blkio), weight, "{blkio}");
        }
    }

    #[test]
    fn controllers_are_asked_for_by_limits_alone() {
        let names = |json: &str| {
            let resources: LinuxResources = serde_json::from_str(json).unwrap();
            needed(&resources)
                .iter()
                .map(|n| (n.unified.to_owned(), n.legacy))
                .collect::<Vec<_>>()
        };
        assert_eq!(names("{}"), []);
        assert_eq!(
            names(r#"{"memory": {"limit": -1, "swap": -1}, "pids": {"limit": 0}, "cpu": {"shares": 0}}"#),
            []
        );
        assert_eq!(names(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#), []);
        assert_eq!(
            names(r#"{"pids": {"limit": 5}}"#),
            [("pids".to_owned(), Some("pids"))]
        );
        assert_eq!(
            names(r#"{"blockIO": {"weight": 100}}"#),
            [("io".to_owned(), Some("blkio"))]
        );
        assert_eq!(
            names(r#"{"cpu": {"quota": 5000, "cpus": "0"}}"#),
            [
                ("cpu".to_owned(), Some("cpu")),
                ("cpuset".to_owned(), Some("cpuset"))
            ]
        );
        assert_eq!(
            names(r#"{"memory": {"limit": 5}, "unified": {"memory.high": "4"}}"#),
            [("memory".to_owned(), None)]
        );
        assert_eq!(
            names(r#"{"unified": {"cgroup.max.depth": "4"}}"#),
            [("cgroup".to_owned(), None)]
        );
    }
}
