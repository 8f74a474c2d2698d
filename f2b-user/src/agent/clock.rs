//! What the agent does when somebody sets the wall clock.
//!
//! Bans end when the wall clock says so, as fail2ban's do. The kernel's own clock knows nothing of that, so it is told
//! the ends anew.

use std::time::{Instant, SystemTime};

use tracing::warn;

use super::{Agent, SAME_END};
use crate::xdp::BanMap;

/// The wall clock beside one that nobody sets.
#[derive(Debug)]
pub(super) struct Clock {
    wall: SystemTime,
    steady: Instant,
}

impl Clock {
    pub(super) fn new(wall: SystemTime, steady: Instant) -> Self {
        Self { wall, steady }
    }

    /// Whether the wall clock was set since it was asked last, or since the machine slept.
    pub(super) fn was_set(&mut self, wall: SystemTime, steady: Instant) -> bool {
        let expected = self.wall + steady.saturating_duration_since(self.steady);
        let off = expected.duration_since(wall).unwrap_or_else(|later| later.duration());
        let was_set = off > SAME_END;
        if was_set {
            *self = Self::new(wall, steady);
        }
        was_set
    }
}

impl<M: BanMap> Agent<M> {
    /// Goes by a wall clock that was set: to `now`, back or forward.
    pub fn clock_was_set(&mut self, now: SystemTime) {
        warn!(bans = self.bans.len(), "The clock was set; bans end when it says so");
        self.expire(now);
        // What a clock that was wrong has dated later than now would hide what happens next.
        self.history.not_after(now);
        self.sweep(now);
        let all = self.bans.subjects().into_iter().map(|subject| (subject, self.bans.steps(subject)));
        self.carry_out(all.collect(), now, "The kernel ends the ban by the clock as it was");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_goes_on_was_not_set() {
        let (wall, steady) = (SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000), Instant::now());
        let seconds = Duration::from_secs;
        let mut clock = Clock::new(wall, steady);
        assert!(!clock.was_set(wall + seconds(3600), steady + seconds(3600)));
        assert!(clock.was_set(wall, steady + seconds(3601)), "back");
        assert!(!clock.was_set(wall + seconds(1), steady + seconds(3602)));
        assert!(clock.was_set(wall + seconds(9), steady + seconds(3603)), "forward");
        assert!(!clock.was_set(wall + seconds(10), steady + seconds(3604)));
    }
}
