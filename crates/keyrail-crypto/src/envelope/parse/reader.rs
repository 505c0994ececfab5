//! Reading bytes from the front, and whether a CBOR item has definite lengths throughout.

/// How deep items may lie in each other. A COSE_Encrypt with its recipient and their headers needs seven.
const DEPTH_MAX: usize = 16;

/// What is left to read.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn literal(&mut self, expected: &[u8]) -> Option<()> {
        (self.take(expected.len())? == expected).then_some(())
    }

    /// The length of a byte string, in its shortest form only.
    pub(super) fn bytes_head(&mut self) -> Option<usize> {
        match (self.0.first()? & 0x1f, self.head()?) {
            (info, (BYTES, len)) if info == shortest_info(len) => usize::try_from(len).ok(),
            _ => None,
        }
    }

    /// Major type and argument of an item (RFC 8949, section 3); an indefinite length is `None`.
    fn head(&mut self) -> Option<(u8, u64)> {
        let first = self.byte()?;
        let len = match first & 0x1f {
            small @ 0..=23 => return Some((first >> 5, small.into())),
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            _ => return None,
        };
        let argument = self.take(len)?.iter().fold(0, |argument, byte| argument << 8 | u64::from(*byte));
        Some((first >> 5, argument))
    }
}

const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;

/// The low bits of the first byte when an argument is written as short as it can be.
fn shortest_info(argument: u64) -> u8 {
    match argument {
        0..=23 => argument as u8,
        24..=0xff => 24,
        0x100..=0xffff => 25,
        0x1_0000..=0xffff_ffff => 26,
        _ => 27,
    }
}

/// Whether the bytes are one CBOR item, complete, with nothing behind it, with definite lengths throughout and no
/// deeper than [`DEPTH_MAX`]. The library that decodes it then meets no surprise.
pub(super) fn is_definite(bytes: &[u8]) -> bool {
    let mut rest = Reader(bytes);
    // How many items are still to come on each level.
    let mut open = vec![1_u64];
    while let Some(to_come) = open.last_mut() {
        if *to_come == 0 {
            open.pop();
            continue;
        }
        *to_come -= 1;
        let Some((major, argument)) = rest.head() else { return false };
        let inner = match major {
            BYTES | TEXT => match usize::try_from(argument).ok().and_then(|len| rest.take(len)) {
                Some(_) => continue,
                None => return false,
            },
            ARRAY => argument,
            MAP => argument.saturating_mul(2),
            TAG => 1,
            _ => continue,
        };
        if open.len() > DEPTH_MAX {
            return false;
        }
        open.push(inner);
    }
    rest.0.is_empty()
}
