//! Files with a secret in each line, in base64 or hexadecimal.

use base64::Engine as _;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The lines that count, with their numbers from 1: no empty ones, and none that begin with `#`.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let numbered = lines.enumerate().map(|(index, line)| (index + 1, line));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#"))
}

/// What a line stands for. Of two readings hexadecimal is meant: nobody's random bytes have only
/// such letters in base64.
pub(super) fn bytes(line: &[u8]) -> Option<Vec<u8>> {
    if line.len().is_multiple_of(2) && line.iter().all(u8::is_ascii_hexdigit) {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
        return line.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect();
    }
    BASE64.decode(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_writings_are_read() {
        for (line, expected) in [
            (&b"c2VjcmV0"[..], Some(&b"secret"[..])),
            (b"736563726574", Some(b"secret")),
            (b"736563726574 ", None),
            (b"7A7a", Some(b"zz")),
            (b"YQ==", Some(b"a")),
            (b"YQ", Some(b"a")),
            (b"Y", None),
            (b"c2Vj cmV0", None),
        ] {
            assert_eq!(bytes(line).as_deref(), expected, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn comments_and_empty_lines_do_not_count() {
        let found: Vec<_> = lines(b"# first\r\n\n  one \r\n#two\nthree").collect();
        assert_eq!(found, [(3, &b"one"[..]), (5, b"three")]);
    }
}
