//! What is said before there is a log, and a command's own output: on stderr.

use std::io::{self, Write};

use crate::lines::Lines;

/// Who writes it: a command that waits for its reader, or by way of the thread that writes the log,
/// which waits for nobody.
#[derive(Debug, Clone)]
pub enum Console {
    Direct,
    Queued(Lines),
}

impl Console {
    pub fn report(&self, text: &str) {
        match self {
            // Nobody is left to tell when stderr is closed.
            Self::Direct => drop(io::stderr().write_all(text.as_bytes())),
            // Line by line: what is longer than the queue is cut, not lost as a whole.
            Self::Queued(lines) => text.split_inclusive('\n').for_each(|line| {
                let _ = lines.push(line.as_bytes().to_vec());
            }),
        }
    }
}
