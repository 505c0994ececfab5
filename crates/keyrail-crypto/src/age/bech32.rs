//! Bech32 (BIP 173) without its limit of length, as age writes keys.

const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";

const CHECKSUM_LEN: usize = 6;

/// Longer texts are no recipients; in characters.
const TEXT_LEN_MAX: usize = 4096;

/// The part before the last `1`, and the bytes behind it.
pub(super) fn decode(text: &str) -> Option<(String, Vec<u8>)> {
    if text.len() > TEXT_LEN_MAX || !text.bytes().all(|byte| matches!(byte, 33..=126)) {
        return None;
    }
    let (upper, lower) = (text.bytes().any(|b| b.is_ascii_uppercase()), text.bytes().any(|b| b.is_ascii_lowercase()));
    if upper && lower {
        return None;
    }
    let text = text.to_ascii_lowercase();
    let (kind, data) = text.rsplit_once('1').filter(|(kind, _)| !kind.is_empty())?;
    let value = |sign| ALPHABET.iter().position(|known| *known == sign).and_then(|value| u8::try_from(value).ok());
    let values = data.bytes().map(value).collect::<Option<Vec<_>>>()?;
    let head = kind.bytes().map(|byte| byte >> 5).chain([0]).chain(kind.bytes().map(|byte| byte & 31));
    if checksum(head.chain(values.iter().copied())) != 1 {
        return None;
    }
    let values = values.get(..values.len().checked_sub(CHECKSUM_LEN)?)?;
    Some((kind.to_owned(), bytes_of(values)?))
}

fn checksum(values: impl Iterator<Item = u8>) -> u32 {
    const GENERATORS: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    values.fold(1, |sum, value| {
        let top = sum >> 25;
        let next = ((sum & 0x01ff_ffff) << 5) ^ u32::from(value);
        let terms = GENERATORS.into_iter().enumerate().filter(|(bit, _)| (top >> bit) & 1 == 1);
        terms.fold(next, |next, (_, generator)| next ^ generator)
    })
}

/// Five bits each become whole bytes; what is left over is less than a value, and zero.
fn bytes_of(values: &[u8]) -> Option<Vec<u8>> {
    let (mut bytes, mut held, mut bits) = (Vec::with_capacity(values.len() * 5 / 8), 0_u32, 0);
    for value in values {
        held = (held << 5) | u32::from(*value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((held >> bits) & 0xff).ok()?);
        }
        held &= 0xfff;
    }
    (bits < 5 && held & ((1 << bits) - 1) == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::*;

    /// The valid and invalid ones of BIP 173, but for its limit of 90 characters.
    #[test]
    fn the_texts_of_the_standard() {
        for text in [
            "A12UEL5L",
            "a12uel5l",
            "an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio1tt5tgs",
            "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw",
            "split1checkupstagehandshakeupstreamerranterredcaperred2y9e3w",
        ] {
            let values = text.to_ascii_lowercase();
            let (kind, data) = values.rsplit_once('1').unwrap();
            // What is no whole number of bytes is refused; the checksum of these is right all the same.
            let whole = (data.len() - CHECKSUM_LEN) * 5 % 8 < 5;
            assert!(decode(text).is_none_or(|(found, _)| found == kind) && (whole || decode(text).is_none()), "{text}");
        }
        assert_eq!(decode("A12UEL5L").unwrap(), ("a".to_owned(), Vec::new()));
        let (_, bytes) = decode("abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw").unwrap();
        assert_eq!(hex::encode(bytes), "00443214c74254b635cf84653a56d7c675be77df");
        for text in [
            "pzry9x0s0muk",
            "1pzry9x0s0muk",
            "x1b4n0q5v",
            "li1dgmt3",
            "A1G7SGD8",
            "10a06t8",
            "1qzzfhee",
            "",
            "a12uel5m",
            "A12uEL5L",
        ] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
