//! The Huffman code of HPACK (RFC 7541 §5.2, appendix B).
//!
//! The code is canonical: the lengths of all codes say what they are.

/// A string that is no Huffman code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoCode;

const SYMBOLS: usize = 257;
const CODE_BITS_MAX: usize = 30;
/// Symbols with codes up to this length are looked up at once.
const SHORT_BITS: usize = 8;
const END_OF_STRING: u16 = 256;

/// The length of the code of each symbol, in bits; the last is the end of a string.
const BITS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

struct Code {
    /// Symbols by their codes.
    symbols: [u16; SYMBOLS],
    /// Of each length: the first code, how many there are, and where their symbols begin.
    first: [u32; CODE_BITS_MAX + 1],
    count: [u32; CODE_BITS_MAX + 1],
    begin: [usize; CODE_BITS_MAX + 1],
    /// By the next eight bits: the symbol and the length of its code, 0 if that is longer.
    short: [(u8, u8); 1 << SHORT_BITS],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code = Code {
        symbols: [0; SYMBOLS],
        first: [0; CODE_BITS_MAX + 1],
        count: [0; CODE_BITS_MAX + 1],
        begin: [0; CODE_BITS_MAX + 1],
        short: [(0, 0); 1 << SHORT_BITS],
    };
    let (mut next, mut known, mut bits) = (0_u32, 0, 1);
    while bits <= CODE_BITS_MAX {
        code.first[bits] = next;
        code.begin[bits] = known;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if BITS[symbol] as usize == bits {
                code.symbols[known] = symbol as u16;
                if bits <= SHORT_BITS {
                    let spare = SHORT_BITS - bits;
                    let mut filler = 0;
                    while filler < 1 << spare {
                        code.short[((next as usize) << spare) | filler] =
                            (symbol as u8, bits as u8);
                        filler += 1;
                    }
                }
                known += 1;
                next += 1;
                code.count[bits] += 1;
            }
            symbol += 1;
        }
        next <<= 1;
        bits += 1;
    }
    code
}

/// Appends what `bytes` stand for.
pub(super) fn decode(bytes: &[u8], text: &mut Vec<u8>) -> Result<(), NoCode> {
    // The last `left` bits of `window` are to be decoded.
    let (mut window, mut left) = (0_u64, 0_usize);
    for byte in bytes {
        window = window << 8 | u64::from(*byte);
        left += 8;
        while left >= SHORT_BITS {
            let (symbol, bits) = CODE.short[(window >> (left - SHORT_BITS)) as usize & 0xff];
            if bits > 0 {
                text.push(symbol);
                left -= usize::from(bits);
                continue;
            }
            let Some((symbol, bits)) = long(window, left) else { break };
            if symbol == END_OF_STRING {
                return Err(NoCode);
            }
            text.push(symbol as u8);
            left -= bits;
        }
        if left >= CODE_BITS_MAX {
            return Err(NoCode);
        }
    }
    if left >= SHORT_BITS {
        return Err(NoCode);
    }
    // The rest is filled up with ones.
    let mut rest = (window << (SHORT_BITS - left)) as u8 | (0xff_u16 >> left) as u8;
    while left > 0 {
        let (symbol, bits) = CODE.short[usize::from(rest)];
        if bits == 0 || usize::from(bits) > left {
            break;
        }
        text.push(symbol);
        left -= usize::from(bits);
        rest = rest << bits | ((1_u16 << bits) - 1) as u8;
    }
    if rest == 0xff { Ok(()) } else { Err(NoCode) }
}

/// The symbol of a code of more than eight bits, if that is complete.
fn long(window: u64, left: usize) -> Option<(u16, usize)> {
    (SHORT_BITS + 1..=left.min(CODE_BITS_MAX)).find_map(|bits| {
        let code = (window >> (left - bits)) as u32 & ((1 << bits) - 1);
        let index = code.checked_sub(CODE.first[bits]).filter(|index| *index < CODE.count[bits])?;
        Some((CODE.symbols[CODE.begin[bits] + index as usize], bits))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Result<Vec<u8>, NoCode> {
        let mut text = Vec::new();
        decode(bytes, &mut text).map(|()| text)
    }

    /// As an encoder does it.
    fn encoded(text: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for byte in text {
            let length = usize::from(BITS[usize::from(*byte)]);
            let symbols = &CODE.symbols[CODE.begin[length]..];
            let index = symbols.iter().position(|it| *it == u16::from(*byte)).expect("a code");
            bits.push_str(&format!("{:0length$b}", CODE.first[length] as usize + index));
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let byte = |at: usize| u8::from_str_radix(&bits[at..at + 8], 2).expect("bits");
        (0..bits.len()).step_by(8).map(byte).collect()
    }

    #[test]
    fn the_examples_of_the_rfc_are_understood() {
        // RFC 7541 C.4.1, C.4.2, C.6.1.
        let host = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&host).expect("a code"), b"www.example.com");
        assert_eq!(decoded(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).expect("a code"), b"no-cache");
        assert_eq!(decoded(&[0x64, 0x02]).expect("a code"), b"302");
        assert_eq!(decoded(&[]).expect("a code"), b"");
    }

    #[test]
    fn every_byte_comes_back() {
        for byte in 0..=255_u8 {
            for count in 1..=9 {
                let text = vec![byte; count];
                assert_eq!(decoded(&encoded(&text)).expect("a code"), text);
            }
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&encoded(&all)).expect("a code"), all);
    }

    #[test]
    fn wrong_padding_and_the_end_symbol_are_refused() {
        // '0' is 00000: what is left must be ones, and fewer than eight.
        assert_eq!(decoded(&[0b0000_0111]).expect("a code"), b"0");
        assert_eq!(decoded(&[0b0000_0110]), Err(NoCode));
        assert_eq!(decoded(&[0b0000_0111, 0xff]), Err(NoCode));
        assert_eq!(decoded(&[0xff; 4]), Err(NoCode));
        assert_eq!(decoded(&[0xff; 40]), Err(NoCode));
    }
}
