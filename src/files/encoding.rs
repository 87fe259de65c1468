//! In which codings a file may lie beside its plain form, and what it is called then. Compressing on
//! the way is deliberately absent.

use crate::compress::Coding;

/// The codings of siblings, with the last extension of their files.
pub(super) const SIBLINGS: [(Coding, &str); 2] = [(Coding::Brotli, "br"), (Coding::Gzip, "gz")];

/// How the tag of a coded form ends.
pub(super) fn extension(coding: Coding) -> &'static str {
    let sibling = SIBLINGS.iter().find(|(known, _)| *known == coding);
    sibling.map_or(coding.as_str(), |(_, extension)| extension)
}
