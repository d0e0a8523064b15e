//! Random numbers that come again with their seed: a failure that a seed found can be looked at.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014): a few lines, and good enough to choose what to do next.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number that nobody chose, to begin with; print it.
    pub fn seed() -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Random(now.map_or(0, |now| now.as_nanos() as u64) ^ u64::from(std::process::id())).number()
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// One of several.
    pub fn choose<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len() as u64) as usize]
    }

    /// A time up to `most`; short ones are as likely as long ones are, whatever the scale.
    pub fn duration(&mut self, most: Duration) -> Duration {
        let micros = most.as_micros() as u64 + 1;
        let scale = 1 << self.below(u64::from(micros.ilog2()) + 1);
        Duration::from_micros(scale + self.below(scale)).min(most)
    }
}
