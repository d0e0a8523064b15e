//! `linux.memoryPolicy` (OCI runtime spec 1.3, "Memory policy"): from which NUMA nodes the container takes its memory.

use oci_spec::runtime::{
    Linux, LinuxMemoryPolicy, MemoryPolicyFlagType as Flag, MemoryPolicyModeType as Mode,
};

use super::fault::{During, Fault, Result};

/// As many nodes as any kernel can be built for (`CONFIG_NODES_SHIFT`).
const MOST_NODES: u32 = 1 << 10;

/// Refuses a policy that means nothing.
pub(super) fn check(linux: &Linux) -> Result<()> {
    linux
        .memory_policy()
        .iter()
        .try_for_each(|policy| read(policy).map(drop))
}

/// Gives the calling process the policy, which whatever it executes and forks keeps.
pub(super) fn apply(linux: Option<&Linux>) -> Result<()> {
    let Some(policy) = linux.and_then(|linux| linux.memory_policy().as_ref()) else {
        return Ok(());
    };
    let (mode, nodes) = read(policy)?;
    sys::process::set_memory_policy(mode, &nodes).during(|| {
        let nodes = policy.nodes().as_deref().unwrap_or_default();
        format!("linux.memoryPolicy {} {nodes:?}", policy.mode())
    })
}

/// Mode and flags as the numbers of linux/mempolicy.h, and the nodes as bits.
fn read(policy: &LinuxMemoryPolicy) -> Result<(i32, Vec<u64>)> {
    let mode = match policy.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0, |all, flag| {
        all | match flag {
            Flag::MpolFNumaBalancing => 1 << 13,
            Flag::MpolFRelativeNodes => 1 << 14,
            Flag::MpolFStaticNodes => 1 << 15,
        }
    });
    let text = policy.nodes().as_deref().unwrap_or_default();
    let nodes = nodes(text).ok_or_else(|| {
        Fault::new(format!(
            "linux.memoryPolicy.nodes {text:?}: numbers and ranges, as 0-3,5, below {MOST_NODES}"
        ))
    })?;
    Ok((mode | flags, nodes))
}

/// `0-3,5` as bits.
fn nodes(text: &str) -> Option<Vec<u64>> {
    let mut bits: Vec<u64> = Vec::new();
    for part in text
        .trim()
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MOST_NODES {
            return None;
        }
        for node in first..=last {
            let word = (node / 64) as usize;
            bits.resize(bits.len().max(word + 1), 0);
            bits[word] |= 1 << (node % 64);
        }
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<(i32, Vec<u64>)> {
        read(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn modes_flags_and_nodes() {
        for (text, mode, nodes) in [
            (r#"{"mode":"MPOL_DEFAULT"}"#, 0, vec![]),
            (r#"{"mode":"MPOL_BIND","nodes":"0-3,5"}"#, 2, vec![0b10_1111]),
            (r#"{"mode":"MPOL_INTERLEAVE","nodes":"1, 64"}"#, 3, vec![2, 1]),
            (
                r#"{"mode":"MPOL_PREFERRED_MANY","nodes":"0","flags":["MPOL_F_STATIC_NODES"]}"#,
                5 | 1 << 15,
                vec![1],
            ),
            (
                r#"{"mode":"MPOL_BIND","nodes":"0","flags":["MPOL_F_NUMA_BALANCING","MPOL_F_RELATIVE_NODES"]}"#,
                2 | 1 << 13 | 1 << 14,
                vec![1],
            ),
        ] {
            assert_eq!(policy(text).unwrap(), (mode, nodes), "{text}");
        }
        for nodes in ["x", "3-1", "0-", "1024", "-1"] {
            let fault = policy(&format!(r#"{{"mode":"MPOL_BIND","nodes":"{nodes}"}}"#)).unwrap_err();
            assert!(fault.text.contains("memoryPolicy.nodes"), "{fault}");
        }
    }
}
