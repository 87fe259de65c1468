//! Which bytes stand for a file.
//!
//! `site.css.br` and `site.css.gz` beside `site.css` are its compressed forms, unless they are
//! older than it. Every validator is that of the file that is sent, so a rebuilt sibling is a new
//! version even when the plain file is not.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::content_type;
use super::encoding::SIBLINGS;
use super::resolve::{Entry, Root};
use super::version::Source;
use crate::compress::Coding;
use crate::compress::negotiate::Accepted;

/// A file as it is to be sent.
#[derive(Debug)]
pub(super) struct Representation {
    pub(super) source: Source,
    pub(super) coding: Option<Coding>,
    /// Another client may get another form.
    pub(super) varies: bool,
    pub(super) content_type: &'static str,
}

impl Representation {
    /// Chooses among a file and its siblings. `accepted` is `None` where only the plain form will
    /// do. A sibling that cannot be opened is as good as none.
    pub(super) fn choose(
        root: &Root,
        plain: &Entry,
        names: &Path,
        accepted: Option<&Accepted>,
    ) -> io::Result<Self> {
        let siblings =
            SIBLINGS.map(|(coding, extension)| (coding, sibling(root, plain, names, extension)));
        let varies = siblings.iter().any(|(_, sibling)| sibling.is_some());
        let content_type = content_type::of(names);

        for wanted in accepted.into_iter().flat_map(Accepted::preferred) {
            for (coding, sibling) in &siblings {
                if *coding == wanted
                    && let Some(entry) = sibling
                    && let Ok(source) = entry.open()
                {
                    return Ok(Self { source, coding: Some(wanted), varies, content_type });
                }
            }
        }
        Ok(Self { source: plain.open()?, coding: None, varies, content_type })
    }
}

fn sibling(root: &Root, plain: &Entry, names: &Path, extension: &str) -> Option<Entry> {
    let mut name = OsString::from(names);
    name.push(".");
    name.push(extension);
    root.file(&PathBuf::from(name)).filter(|sibling| !sibling.version.is_older_than(plain.version))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use http::{HeaderMap, HeaderValue, header};

    use super::super::resolve::{Located, Wanted};
    use super::super::testing::TempDir;
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn choose(dir: &TempDir, accept_encoding: Option<&'static str>) -> Representation {
        let root = Root::open(dir.path()).expect("the folder exists");
        let wanted = Wanted::parse("/site.css").expect("is a path");
        let Ok(Located::File { entry, names }) = root.locate(&wanted) else {
            unreachable!("the test wrote the file")
        };
        let accepted = accept_encoding.map(|field| {
            let field = HeaderValue::from_static(field);
            Accepted::of(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, field)]))
        });
        Representation::choose(&root, &entry, &names, accepted.as_ref()).expect("opens")
    }

    #[test]
    fn a_sibling_is_chosen_by_what_the_client_prefers() {
        let dir = TempDir::new();
        dir.write_at("site.css", "plain", at(100));
        dir.write_at("site.css.br", "b", at(100));
        dir.write_at("site.css.gz", "gz", at(200));
        for (accepted, coding, bytes) in [
            (Some("br, gzip"), Some(Coding::Brotli), 1),
            (Some("gzip, br;q=0.5"), Some(Coding::Gzip), 2),
            (Some("deflate"), None, 5),
            (None, None, 5),
        ] {
            let chosen = choose(&dir, accepted);
            assert_eq!((chosen.coding, chosen.source.bytes()), (coding, bytes), "{accepted:?}");
            assert!(chosen.varies);
            assert_eq!(chosen.content_type, "text/css; charset=utf-8");
        }
    }

    #[test]
    fn the_second_choice_is_taken_where_the_first_is_not_there() {
        let dir = TempDir::new();
        dir.write_at("site.css", "plain", at(100));
        dir.write_at("site.css.gz", "gz", at(100));
        assert_eq!(choose(&dir, Some("br, gzip")).coding, Some(Coding::Gzip));
    }

    #[test]
    fn a_sibling_older_than_the_file_does_not_exist() {
        let dir = TempDir::new();
        dir.write_at("site.css", "plain", at(100));
        dir.write_at("site.css.br", "b", at(99));
        let chosen = choose(&dir, Some("br"));
        assert_eq!((chosen.coding, chosen.varies), (None, false));
    }

    #[test]
    fn a_sibling_that_is_a_folder_or_outside_the_root_does_not_exist() {
        let dir = TempDir::new();
        dir.write_at("site.css", "plain", at(100));
        dir.write("site.css.gz/a", "");
        std::os::unix::fs::symlink("/proc/version", dir.path().join("site.css.br")).expect("links");
        let chosen = choose(&dir, Some("br, gzip"));
        assert_eq!((chosen.coding, chosen.varies), (None, false));
    }
}
