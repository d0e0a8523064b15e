//! Names for containers that were given none: an adjective and a rock, `quiet_basalt`.

#[rustfmt::skip]
const ADJECTIVES: [&str; 64] = [
    "able", "agile", "amber", "ample", "bold", "brave", "bright", "brisk", "calm", "candid", "clear", "clever",
    "cosmic", "crisp", "curious", "daring", "deep", "eager", "early", "fair", "fleet", "fond", "frank", "fresh",
    "gentle", "glad", "golden", "grand", "happy", "hardy", "honest", "humble", "jolly", "keen", "kind", "lively",
    "loyal", "lucid", "lucky", "mellow", "merry", "mighty", "neat", "nimble", "noble", "patient", "plain", "polite",
    "proud", "quick", "quiet", "rapid", "ready", "serene", "sharp", "silver", "steady", "stout", "sunny", "swift",
    "tidy", "vivid", "warm", "wise",
];

#[rustfmt::skip]
const ROCKS: [&str; 64] = [
    "agate", "amphibolite", "andesite", "anorthosite", "arkose", "augite", "azurite", "basalt", "beryl", "breccia",
    "calcite", "chalk", "chert", "clay", "coal", "cobalt", "conglomerate", "coral", "dacite", "diabase", "diorite",
    "dolomite", "dunite", "eclogite", "feldspar", "flint", "fluorite", "gabbro", "galena", "garnet", "geode",
    "gneiss", "granite", "graphite", "gypsum", "halite", "hematite", "hornfels", "jade", "jasper", "kaolin", "lapis",
    "lignite", "limestone", "loess", "magnetite", "malachite", "marble", "marl", "mica", "mudstone", "obsidian",
    "olivine", "onyx", "opal", "peridotite", "porphyry", "pumice", "quartz", "rhyolite", "sandstone", "schist",
    "slate", "tuff",
];

/// The name that 16 random bits choose; `attempt` above 0 adds a number, so that a few attempts always find a free
/// one.
pub(crate) fn name(random: u16, attempt: u32) -> String {
    let adjective = ADJECTIVES[usize::from(random) % ADJECTIVES.len()];
    let rock = ROCKS[usize::from(random) / ADJECTIVES.len() % ROCKS.len()];
    match attempt {
        0 => format!("{adjective}_{rock}"),
        n => format!("{adjective}_{rock}{n}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_and_many() {
        let names: std::collections::BTreeSet<String> = (0..4096).map(|n| name(n, 0)).collect();
        assert_eq!(names.len(), 4096);
        assert!(
            names
                .iter()
                .all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        );
        assert!(name(7, 3).ends_with('3'));
    }
}
