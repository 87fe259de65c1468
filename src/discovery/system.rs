//! What the system says of names: `/etc/resolv.conf` and `/etc/hosts`.

use std::fs::File;
use std::io::Read;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";
/// Of each file, in bytes; what is beyond is not read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The files as they are, equal as long as they say the same.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct System {
    pub(super) resolv_conf: Vec<u8>,
    pub(super) hosts: Vec<u8>,
}

impl System {
    /// A file that cannot be read is an empty one. Blocks.
    pub(super) fn read() -> Self {
        Self { resolv_conf: content(RESOLV_CONF), hosts: content(HOSTS) }
    }
}

fn content(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    if let Err(error) = read {
        tracing::debug!(path, %error, "cannot be read");
        return Vec::new();
    }
    bytes
}
