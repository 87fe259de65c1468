//! How many fetches of one thing may be under way at once.
//!
//! One, at first: most answers come soon and are for everybody. The longer there is none, the likelier
//! it is that this one fetch is what is wrong, and not the origin. So after a wait some of
//! those who wait begin fetches beside it, after three waits twice as many, after seven twice as
//! many again, and so on up to a bound; everybody takes the first answer that may be shared. A fetch that fails lets others take
//! its place at once, and twice as many of them.

use std::time::Duration;

use tokio::time::Instant;

/// Fetches of one thing at once.
pub(super) const WIDTH_MAX: u32 = 16;
/// Fetches beside the first one after the first wait; after each further one twice as many in all.
const FIRST_STEP: u32 = 2;
/// Waits that make the width grow: with them the bound is reached.
const STEPS_MAX: u32 = 4;

/// The fetches of one thing and those that may yet begin.
#[derive(Debug)]
pub(super) struct Turns {
    began: Instant,
    /// Fetches under way, with the first one.
    running: u32,
    /// How many of them there may be for what has failed, without those for the time that has passed.
    width: u32,
}

impl Turns {
    /// For a fetch that begins now, beside which there may be as many as make up `width`.
    pub(super) fn new(width: u32) -> Self {
        Self { began: Instant::now(), running: 1, width: width.clamp(1, WIDTH_MAX) }
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Takes a turn to begin one more fetch, if there is one for those who wait for so long.
    pub(super) fn take(&mut self, wait: Duration, now: Instant) -> bool {
        let grown = if wait.is_zero() { WIDTH_MAX } else { self.grown(wait, now) };
        if self.running >= (self.width + grown).min(WIDTH_MAX) {
            return false;
        }
        self.running += 1;
        true
    }

    /// When time alone gives more turns, if it ever does.
    pub(super) fn next(&self, wait: Duration, now: Instant) -> Option<Instant> {
        if wait.is_zero() {
            return None;
        }
        let steps = self.steps(wait, now);
        (steps < STEPS_MAX).then(|| self.began + wait * ((1 << (steps + 1)) - 1))
    }

    /// A fetch has ended. If it failed, twice as many may take its place.
    pub(super) fn end(&mut self, has_failed: bool) {
        self.running = self.running.saturating_sub(1);
        if has_failed {
            self.width = (self.width * 2).min(WIDTH_MAX);
        }
    }

    /// How many more there may be for the time that has passed.
    fn grown(&self, wait: Duration, now: Instant) -> u32 {
        match self.steps(wait, now) {
            0 => 0,
            steps => FIRST_STEP << (steps - 1),
        }
    }

    /// Steps that the width has grown by: the first after one wait, each after twice the time of
    /// the one before.
    fn steps(&self, wait: Duration, now: Instant) -> u32 {
        let passed = now.saturating_duration_since(self.began);
        (0..STEPS_MAX).find(|step| passed < wait * ((1 << (step + 1)) - 1)).unwrap_or(STEPS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(100);

    /// How many turns there are after so many waits, where each is taken at once.
    fn taken(turns: &mut Turns, waits: u32) -> u32 {
        let now = turns.began() + WAIT * waits;
        (0..).take_while(|_| turns.take(WAIT, now)).count() as u32
    }

    #[test]
    fn the_longer_there_is_no_answer_the_more_fetches_begin_up_to_a_bound() {
        let mut turns = Turns::new(1);
        let new: Vec<u32> = (0..20).map(|waits| taken(&mut turns, waits)).collect();
        assert_eq!(new[..8], [0, 2, 0, 2, 0, 0, 0, 4]);
        assert_eq!(new.iter().sum::<u32>(), WIDTH_MAX - 1);
    }

    #[test]
    fn the_next_turn_is_when_the_width_grows() {
        let mut turns = Turns::new(1);
        let mut now = turns.began();
        for expected in [2, 2, 4] {
            now = turns.next(WAIT, now).expect("there is one");
            assert!(!turns.take(WAIT, now - Duration::from_millis(1)));
            let count = (0..).take_while(|_| turns.take(WAIT, now)).count();
            assert_eq!(count, expected);
        }
        now = turns.next(WAIT, now).expect("there is one");
        assert_eq!(turns.next(WAIT, now), None);
    }

    #[test]
    fn two_take_the_place_of_one_that_failed_and_one_that_of_one_that_ended() {
        let mut turns = Turns::new(2);
        assert_eq!(taken(&mut turns, 0), 1);
        turns.end(false);
        assert_eq!(taken(&mut turns, 0), 1);
        turns.end(true);
        assert_eq!(taken(&mut turns, 0), 3);
        for _ in 0..40 {
            turns.end(true);
            taken(&mut turns, 0);
        }
        assert_eq!(turns.running, WIDTH_MAX);
    }

    #[test]
    fn where_nobody_is_to_wait_only_the_bound_counts() {
        let mut turns = Turns::new(1);
        let now = turns.began();
        let count = (0..).take_while(|_| turns.take(Duration::ZERO, now)).count();
        assert_eq!((count as u32, turns.next(Duration::ZERO, now)), (WIDTH_MAX - 1, None));
    }
}
