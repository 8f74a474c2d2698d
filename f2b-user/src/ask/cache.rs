//! Answers that hold for a while (`Utils.Cache` in `server/utils.py`). No clock.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::{Duration, SystemTime},
};

/// Answers by their questions. The oldest make room for the newest.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    max_count: usize,
    max_time: Duration,
    answers: HashMap<K, (V, SystemTime)>,
    /// The oldest first; some may be gone, or renewed.
    order: VecDeque<(K, SystemTime)>,
}

impl<K: Clone + Eq + Hash, V> Cache<K, V> {
    pub(super) fn new(max_count: usize, max_time: Duration) -> Self {
        Self { max_count, max_time, answers: HashMap::new(), order: VecDeque::new() }
    }

    /// The answer, if it holds at `now`.
    pub(super) fn get(&self, question: &K, now: SystemTime) -> Option<&V> {
        let (answer, until) = self.answers.get(question)?;
        // A clock that was set back must not make it hold for ever.
        let left = until.duration_since(now).ok().filter(|left| !left.is_zero())?;
        (left <= self.max_time).then_some(answer)
    }

    /// Keeps an answer.
    pub(super) fn set(&mut self, question: K, answer: V, now: SystemTime) {
        let Some(until) = now.checked_add(self.max_time).filter(|_| self.max_count > 0) else { return };
        self.order.push_back((question.clone(), until));
        self.answers.insert(question, (answer, until));
        while self.answers.len() > self.max_count || self.order.len() > 2 * self.max_count {
            let Some((oldest, until)) = self.order.pop_front() else { break };
            if self.answers.get(&oldest).is_some_and(|(_, renewed)| *renewed == until) {
                self.answers.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_hold_for_their_time_and_the_oldest_go_first() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut cache = Cache::new(2, Duration::from_secs(10));
        cache.set("a", 1, at(100));
        assert_eq!((cache.get(&"a", at(109)), cache.get(&"a", at(110))), (Some(&1), None));
        assert_eq!(cache.get(&"a", at(50)), None, "the clock was set back");
        cache.set("b", 2, at(101));
        cache.set("c", 3, at(102));
        assert_eq!((cache.get(&"a", at(103)), cache.get(&"c", at(103))), (None, Some(&3)));
        for n in 0..100 {
            cache.set("c", n, at(103 + n));
        }
        assert!(cache.order.len() <= 4);
        assert_eq!(cache.get(&"c", at(203)), Some(&99));
        let mut none = Cache::new(0, Duration::from_secs(10));
        none.set("a", 1, at(0));
        assert_eq!(none.get(&"a", at(1)), None);
    }
}
