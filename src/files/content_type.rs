//! The media type of a file, from its name alone.
//!
//! A closed table of what web sites serve. Text carries `charset=utf-8`; formats that declare
//! their own encoding (JSON, XML, SVG) carry none. Deliberately absent: looking into the content,
//! and a table that the machine provides, which would make two replicas answer differently.

use std::path::Path;

const UNKNOWN: &str = "application/octet-stream";

/// The value of `Content-Type` for a file of this name.
pub fn of(name: &Path) -> &'static str {
    let Some(extension) = name.extension().and_then(|extension| extension.to_str()) else {
        return UNKNOWN;
    };
    match extension.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "txt" | "text" | "log" => "text/plain; charset=utf-8",
        "md" | "markdown" => "text/markdown; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "tsv" => "text/tab-separated-values; charset=utf-8",
        "vtt" => "text/vtt; charset=utf-8",
        "ics" => "text/calendar; charset=utf-8",
        "vcf" => "text/vcard; charset=utf-8",

        "json" | "map" => "application/json",
        "jsonld" => "application/ld+json",
        "geojson" => "application/geo+json",
        "webmanifest" => "application/manifest+json",
        "yaml" | "yml" => "application/yaml",
        "xml" | "xsl" | "xsd" => "application/xml",
        "xhtml" => "application/xhtml+xml",
        "rss" => "application/rss+xml",
        "atom" => "application/atom+xml",
        "wasm" => "application/wasm",

        "svg" => "image/svg+xml",
        "png" => "image/png",
        "apng" => "image/apng",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "heic" => "image/heic",
        "jxl" => "image/jxl",
        "bmp" => "image/bmp",
        "tif" | "tiff" => "image/tiff",
        "ico" => "image/x-icon",

        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        "eot" => "application/vnd.ms-fontobject",

        "mp3" => "audio/mpeg",
        "m4a" => "audio/mp4",
        "aac" => "audio/aac",
        "oga" | "ogg" | "opus" => "audio/ogg",
        "wav" => "audio/wav",
        "flac" => "audio/flac",
        "weba" => "audio/webm",

        "mp4" | "m4v" => "video/mp4",
        "webm" => "video/webm",
        "ogv" => "video/ogg",
        "mov" => "video/quicktime",
        "mkv" => "video/x-matroska",
        "ts" => "video/mp2t",
        "m3u8" => "application/vnd.apple.mpegurl",
        "mpd" => "application/dash+xml",

        "pdf" => "application/pdf",
        "rtf" => "application/rtf",
        "epub" => "application/epub+zip",
        "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "xlsx" => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "pptx" => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        "bz2" => "application/x-bzip2",
        "xz" => "application/x-xz",
        "zst" => "application/zstd",
        "tar" => "application/x-tar",
        "7z" => "application/x-7z-compressed",
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_says_that_it_is_utf_8_and_json_does_not() {
        assert_eq!(of(Path::new("a/index.html")), "text/html; charset=utf-8");
        assert_eq!(of(Path::new("app.mjs")), "text/javascript; charset=utf-8");
        assert_eq!(of(Path::new("data.json")), "application/json");
    }

    #[test]
    fn the_case_of_an_extension_does_not_matter() {
        assert_eq!(of(Path::new("PHOTO.JPG")), "image/jpeg");
    }

    #[test]
    fn only_the_last_extension_counts() {
        assert_eq!(of(Path::new("site.css.gz")), "application/gzip");
    }

    #[test]
    fn a_name_without_a_known_extension_is_a_stream_of_octets() {
        assert_eq!(of(Path::new("LICENSE")), UNKNOWN);
        assert_eq!(of(Path::new("a.unheard-of")), UNKNOWN);
        assert_eq!(of(Path::new("css")), UNKNOWN);
    }
}
