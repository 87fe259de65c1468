//! The shares of a route's pools, exact over all workers: one cursor over a smooth weighted
//! sequence, which goes on where it was after a reload.

use std::sync::Arc;

use super::sequence::{self, Cursor};

/// Which of several pools a request goes to.
#[derive(Debug)]
pub struct Split {
    sequence: Box<[u16]>,
    cursor: Arc<Cursor>,
}

impl Split {
    /// Of `weights`, at least one of them above 0.
    pub fn new(weights: impl Iterator<Item = u32> + Clone, previous: Option<&Self>) -> Self {
        Self {
            sequence: sequence::smooth(weights),
            cursor: previous.map(|split| split.cursor.clone()).unwrap_or_default(),
        }
    }

    /// The index of the weight whose turn it is.
    pub fn next(&self) -> usize {
        match self.sequence.len() {
            0 => 0,
            length => usize::from(self.sequence[self.cursor.next(length)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_of_the_weights_is_exact_and_a_reload_goes_on() {
        let split = Split::new([9, 1].into_iter(), None);
        let taken: Vec<_> = (0..100).map(|_| split.next()).collect();
        assert!(taken.windows(10).all(|window| window.iter().sum::<usize>() == 1));
        split.next();
        let after = Split::new([9, 1].into_iter(), Some(&split));
        let taken = [taken[..1].to_vec(), (0..9).map(|_| after.next()).collect()].concat();
        assert_eq!(taken.iter().sum::<usize>(), 1);
    }
}
