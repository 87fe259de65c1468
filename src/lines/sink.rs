//! A target of lines, open: a file, a pipe, a standard stream.
//!
//! A write may end within a line, on a full disk for one. What is left of that line is kept and
//! written before all else, so that it is whole and the next one begins where a line begins.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Where lines go, open.
#[derive(Debug)]
pub struct Sink {
    /// `None` where nobody wants them.
    file: Option<File>,
    /// Its name, for one that has a name.
    path: Option<PathBuf>,
    /// Held for a write, where others write to the same stream.
    whole: Option<&'static Mutex<()>>,
    torn: Option<Torn>,
}

/// The program log goes there, and the access log may.
static STDERR: Mutex<()> = Mutex::new(());

/// The rest of a line that was begun.
#[derive(Debug)]
struct Torn {
    rest: Vec<u8>,
    /// How long the file was with what there is of it, in bytes.
    file_bytes: u64,
}

/// What became of lines that were to be written.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) error: Option<io::Error>,
    /// Lines that are lost.
    pub(super) dropped: u64,
}

/// How many lines there are.
pub(super) fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

impl Sink {
    /// Takes lines and keeps nothing.
    pub fn off() -> Self {
        Self { file: None, path: None, whole: None, torn: None }
    }

    pub fn stdout() -> io::Result<Self> {
        Self::stream(io::stdout())
    }

    pub fn stderr() -> io::Result<Self> {
        Ok(Self { whole: Some(&STDERR), ..Self::stream(io::stderr())? })
    }

    fn stream(stream: impl AsFd) -> io::Result<Self> {
        let file = File::from(stream.as_fd().try_clone_to_owned()?);
        Ok(Self { file: Some(file), ..Self::off() })
    }

    /// Opens a file to append to, and makes one that is missing. May block.
    pub fn open(path: &Path) -> io::Result<Self> {
        // A pipe that nobody reads fails here, instead of making us wait for a reader.
        let flags = libc::O_NONBLOCK;
        let mut file =
            OpenOptions::new().create(true).append(true).custom_flags(flags).open(path)?;
        // From here on it may block the thread that writes, and nobody else.
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        if ends_within_a_line(path, &file) {
            // Fails on a full disk; then the next line is the one that suffers.
            let _ = file.write_all(b"\n");
        }
        Ok(Self { file: Some(file), path: Some(path.to_owned()), ..Self::off() })
    }

    /// Writes whole lines, behind the rest of one that was begun.
    pub(super) fn write(&mut self, lines: &[u8]) -> Outcome {
        let Some(file) = &mut self.file else { return Outcome::default() };
        let _whole = self.whole.map(|it| it.lock().unwrap_or_else(PoisonError::into_inner));
        let mut dropped = 0;
        if let Some(mut torn) = self.torn.take() {
            match finish(file, &mut torn) {
                Ok(is_whole) => dropped += u64::from(!is_whole),
                Err(error) => {
                    dropped += count(lines);
                    match is_gone(&error) {
                        true => dropped += 1,
                        false => self.torn = Some(torn),
                    }
                    return Outcome { error: Some(error), dropped };
                }
            }
        }
        let mut written = 0;
        let Err(error) = write_all(file, lines, &mut written) else {
            return Outcome { error: None, dropped };
        };
        let (done, left) = lines.split_at(written);
        dropped += count(left);
        if !done.is_empty() && !done.ends_with(b"\n") && !is_gone(&error) {
            let end = memchr::memchr(b'\n', left).map_or(left.len(), |end| end + 1);
            let file_bytes = file.metadata().map_or(0, |file| file.len());
            self.torn = Some(Torn { rest: left[..end].to_vec(), file_bytes });
            dropped -= count(&left[..end]);
        }
        Outcome { error: Some(error), dropped }
    }

    /// Ends a line that was begun, if the file is not in use by whoever comes next; how many lines
    /// that leaves cut off.
    pub(super) fn leave(mut self) -> u64 {
        let (Some(file), Some(mut torn)) = (&mut self.file, self.torn.take()) else { return 0 };
        let named = self.path.as_deref().and_then(|path| path.metadata().ok());
        let is_named = named
            .zip(file.metadata().ok())
            .is_some_and(|(named, ours)| (named.dev(), named.ino()) == (ours.dev(), ours.ino()));
        // Whoever opens the same file ends the line at its opening.
        let is_whole = !is_named && finish(file, &mut torn).unwrap_or(false);
        u64::from(!is_whole)
    }
}

/// Whether a file that is named and regular has something behind its last end of line.
fn ends_within_a_line(path: &Path, file: &File) -> bool {
    let is_filled = file.metadata().is_ok_and(|file| file.is_file() && file.len() > 0);
    // What may only be written to cannot be looked at.
    let last = || -> io::Result<u8> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok(last[0])
    };
    is_filled && last().is_ok_and(|last| last != b'\n')
}

/// Writes what is left of a line. If others have written to the file or cut it, the line cannot be
/// whole any more; then it is only ended, which `false` tells.
fn finish(file: &mut File, torn: &mut Torn) -> io::Result<bool> {
    let file_bytes = file.metadata()?.len();
    if file_bytes != torn.file_bytes {
        let end: &[u8] = if file_bytes == 0 { b"" } else { b"\n" };
        return write_all(file, end, &mut 0).map(|()| false);
    }
    let mut written = 0;
    let result = write_all(file, &torn.rest, &mut written);
    torn.rest.drain(..written);
    torn.file_bytes = file.metadata().map_or(0, |file| file.len());
    result.map(|()| true)
}

/// Whether nobody is there who has read the beginning of a line.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Writes all of `bytes` and counts in `written` how many it were, whatever the end.
fn write_all(file: &mut File, bytes: &[u8], written: &mut usize) -> io::Result<()> {
    while *written < bytes.len() {
        match file.write(&bytes[*written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => *written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A standard stream may have been made non-blocking by others that share it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(file, PollFlags::OUT)], -1)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("headwater-sink-{}-{name}", std::process::id()))
    }

    fn torn(file: &File, rest: &str) -> Option<Torn> {
        Some(Torn { rest: rest.into(), file_bytes: file.metadata().expect("a file").len() })
    }

    fn begun(name: &str) -> (PathBuf, Sink) {
        let path = temporary(name);
        let mut sink = Sink::open(&path).expect("the folder is writable");
        let file = sink.file.as_mut().expect("a file");
        file.write_all(b"whole\nbeg").expect("there is room");
        sink.torn = torn(sink.file.as_ref().expect("a file"), "un\n");
        (path, sink)
    }

    fn content(path: &Path) -> String {
        std::fs::read_to_string(path).expect("a file")
    }

    #[test]
    fn a_line_that_a_full_disk_has_torn_is_finished_before_the_next_one() {
        let (path, mut sink) = begun("torn");
        assert_eq!(sink.write(b"next\n").dropped, 0);
        assert_eq!(content(&path), "whole\nbegun\nnext\n");
        let _ = std::fs::remove_file(path);
    }

    #[test]
    fn a_torn_line_of_a_file_that_was_truncated_is_lost_and_swallows_nothing() {
        let (path, mut sink) = begun("truncated");
        File::options().write(true).truncate(true).open(&path).expect("a file");
        assert_eq!(sink.write(b"next\n").dropped, 1);
        assert_eq!(content(&path), "next\n");
        let _ = std::fs::remove_file(path);
    }

    #[test]
    fn a_torn_line_is_finished_in_the_file_that_was_moved_away_and_ended_in_one_that_stays() {
        let (path, sink) = begun("moved");
        let moved = temporary("moved.1");
        std::fs::rename(&path, &moved).expect("the file is there");
        assert_eq!(sink.leave(), 0);
        assert_eq!(content(&moved), "whole\nbegun\n");
        let (path, sink) = begun("stays");
        let mut again = Sink::open(&path).expect("the folder is writable");
        assert_eq!(sink.leave(), 1);
        assert_eq!(again.write(b"next\n").dropped, 0);
        assert_eq!(content(&path), "whole\nbeg\nnext\n");
        let _ = (std::fs::remove_file(path), std::fs::remove_file(moved));
    }

    #[test]
    fn what_is_left_of_a_write_is_the_rest_of_its_line_and_lines_that_are_lost() {
        let (reader, writer) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let mut sink =
            Sink { file: Some(File::from(std::os::fd::OwnedFd::from(writer))), ..Sink::off() };
        drop(reader);
        let outcome = sink.write(b"one\ntwo\n");
        assert_eq!(outcome.dropped, 2);
        assert!(outcome.error.is_some_and(|error| is_gone(&error)) && sink.torn.is_none());
    }
}
