//! What a slot keeps of the key on a token.

/// How long each name in a slot may be, in bytes.
pub(crate) const NAME_LEN_MAX: usize = 64;

/// A key on a token, as the token names it. What opens a slot is the key itself, on whatever token it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenKey {
    /// The serial number of the token.
    pub serial: String,
    /// The label of the token.
    pub token: String,
    /// The label of the key.
    pub object: String,
    /// The id of the key (`CKA_ID`), which tells it from others with the same label.
    pub key_id: Vec<u8>,
    /// A value that this key alone computes, cut to 16 bytes: tells another key from a damaged slot.
    pub fingerprint: [u8; 16],
}

impl TokenKey {
    /// Each name after its length in one byte, then the fingerprint.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for name in [self.serial.as_bytes(), self.token.as_bytes(), self.object.as_bytes(), &self.key_id] {
            let name = name.get(..NAME_LEN_MAX).unwrap_or(name);
            out.push(u8::try_from(name.len()).unwrap_or_default());
            out.extend_from_slice(name);
        }
        out.extend_from_slice(&self.fingerprint);
    }

    /// Reads what [`TokenKey::write`] wrote, and gives the rest; `None` for anything but the exact form.
    pub(crate) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (serial, rest) = text(bytes)?;
        let (token, rest) = text(rest)?;
        let (object, rest) = text(rest)?;
        let (key_id, rest) = name(rest)?;
        let (fingerprint, rest) = rest.split_first_chunk::<16>()?;
        Some((Self { serial, token, object, key_id: key_id.to_vec(), fingerprint: *fingerprint }, rest))
    }
}

fn name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    let len = usize::from(*len);
    if len > NAME_LEN_MAX { None } else { rest.split_at_checked(len) }
}

fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (name, rest) = name(bytes)?;
    let name = std::str::from_utf8(name).ok().filter(|name| !name.contains(char::is_control))?;
    Some((name.to_owned(), rest))
}
