//! Why a call of ours failed.

use std::error::Error as Source;
use std::fmt;

/// How far a call had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The URL cannot be called.
    Url,
    /// The name has no address.
    Resolve,
    Connect,
    Tls,
    /// The request may have been seen and acted on.
    Answer,
}

/// A call that has no answer. Its text holds the host, but neither the path nor what was sent:
/// either can be a secret.
#[derive(Debug)]
pub struct Error {
    step: Step,
    cause: Cause,
    /// The other side, once it is known.
    authority: String,
}

#[derive(Debug)]
enum Cause {
    Timeout,
    TooLarge { max: usize },
    Url(&'static str),
    Other(Box<dyn Source + Send + Sync>),
}

impl Error {
    pub(super) fn new(step: Step, error: impl Into<Box<dyn Source + Send + Sync>>) -> Self {
        Self::of_cause(step, Cause::Other(error.into()))
    }

    pub(super) fn url(why: &'static str) -> Self {
        Self::of_cause(Step::Url, Cause::Url(why))
    }

    pub(super) fn timeout(step: Step) -> Self {
        Self::of_cause(step, Cause::Timeout)
    }

    pub(super) fn too_large(max: usize) -> Self {
        Self::of_cause(Step::Answer, Cause::TooLarge { max })
    }

    fn of_cause(step: Step, cause: Cause) -> Self {
        Self { step, cause, authority: String::new() }
    }

    pub(super) fn of(self, authority: &str) -> Self {
        Self { authority: authority.to_owned(), ..self }
    }

    pub fn step(&self) -> Step {
        self.step
    }

    /// Whether time ran out.
    pub fn is_timeout(&self) -> bool {
        matches!(self.cause, Cause::Timeout)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = &self.authority;
        match self.step {
            Step::Url => write!(f, "the URL cannot be called")?,
            Step::Resolve => write!(f, "the name of {to} cannot be resolved")?,
            Step::Connect => write!(f, "cannot connect to {to}")?,
            Step::Tls => write!(f, "no TLS with {to}")?,
            Step::Answer => write!(f, "no answer from {to}")?,
        }
        match &self.cause {
            Cause::Timeout => write!(f, ": time ran out"),
            Cause::TooLarge { max } => write!(f, ": its body is larger than {max} bytes"),
            Cause::Url(why) => write!(f, ": {why}"),
            Cause::Other(error) => {
                write!(f, ": {error}")?;
                let mut source = error.source();
                while let Some(error) = source {
                    write!(f, ": {error}")?;
                    source = error.source();
                }
                Ok(())
            }
        }
    }
}

impl Source for Error {}
