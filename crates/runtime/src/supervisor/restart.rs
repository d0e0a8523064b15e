//! Whether a container that has ended is started again, and when.

use std::time::Duration;

use crate::control::Restart;

/// The first pause; each one after a short life is twice as long, as docker has it.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);

/// Who lived so long has earned the first pause again.
const HEALTHY: Duration = Duration::from_secs(10);

/// What is known over all starts of a container.
#[derive(Debug)]
pub(super) struct Restarts {
    policy: Restart,
    /// How often it was started again.
    pub(super) count: u32,
    pause: Duration,
}

impl Restarts {
    pub(super) fn new(policy: Restart) -> Restarts {
        Restarts {
            policy,
            count: 0,
            pause: SHORTEST,
        }
    }

    /// Goes on by another policy.
    pub(super) fn set_policy(&mut self, policy: Restart) {
        self.policy = policy;
    }

    /// The container ended with `code` after it had lived for `life`: how long to wait before it is started again, or
    /// `None` where it is not.
    pub(super) fn after(&mut self, code: u8, life: Duration) -> Option<Duration> {
        let again = match self.policy {
            Restart::No => false,
            Restart::Always | Restart::UnlessStopped => true,
            Restart::OnFailure { most } => code != 0 && most.is_none_or(|most| self.count < most),
        };
        if !again {
            return None;
        }
        if life >= HEALTHY {
            self.pause = SHORTEST;
        }
        let pause = self.pause;
        self.pause = LONGEST.min(pause * 2);
        self.count += 1;
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_grow_and_are_earned_back() {
        let mut restarts = Restarts::new(Restart::Always);
        let pauses: Vec<u128> = (0..12)
            .map(|_| restarts.after(0, SHORT).unwrap().as_millis())
            .collect();
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[10..], [60_000, 60_000]);
        assert_eq!(restarts.after(1, HEALTHY), Some(SHORTEST));
        assert_eq!(restarts.count, 13);
    }

    #[test]
    fn failures_are_counted_and_success_ends_it() {
        let mut restarts = Restarts::new(Restart::OnFailure { most: Some(2) });
        assert!(restarts.after(1, SHORT).is_some() && restarts.after(1, SHORT).is_some());
        assert_eq!(restarts.after(1, SHORT), None);
        let mut restarts = Restarts::new(Restart::OnFailure { most: None });
        assert!(restarts.after(3, SHORT).is_some());
        assert_eq!(restarts.after(0, SHORT), None);
        assert_eq!(Restarts::new(Restart::No).after(1, SHORT), None);
    }
}
