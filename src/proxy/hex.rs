//! Numbers as lower-case hexadecimal digits.

const DIGITS: [u8; 16] = *b"0123456789abcdef";

/// Fills `text` with the highest digits of `number`, as many as there is room for.
pub(super) fn digits(text: &mut [u8], number: u64) {
    for (index, digit) in text.iter_mut().take(16).enumerate() {
        *digit = DIGITS[(number >> (60 - 4 * index)) as usize & 15];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_standard_library() {
        let mut text = [0; 16];
        digits(&mut text, 0x0123_4567_89ab_cdef);
        assert_eq!(&text, format!("{:016x}", 0x0123_4567_89ab_cdef_u64).as_bytes());
    }
}
