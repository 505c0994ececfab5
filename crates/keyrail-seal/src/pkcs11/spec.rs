//! `pkcs11:MODULE?token=…&object=…&pin-file=…`: which key on which token, and where the PIN is.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::RootSpecError;

/// How long a token's label may be, in bytes (PKCS #11 3.1, `CK_TOKEN_INFO`).
pub(crate) const TOKEN_LABEL_LEN_MAX: usize = 32;

/// How long the label of a key may be, in bytes.
pub(crate) const OBJECT_LABEL_LEN_MAX: usize = 64;

/// What stands for itself in the text of a spec.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A key on a token of an HSM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pkcs11Spec {
    /// The library that speaks to the HSM.
    pub module: PathBuf,
    /// The label of the token.
    pub token: String,
    /// The label of the key.
    pub object: String,
    /// The file that holds the user PIN.
    pub pin_file: PathBuf,
}

impl Pkcs11Spec {
    /// Reads what follows `pkcs11:`; values are percent-encoded as in RFC 7512.
    pub(crate) fn parse(text: &str) -> Result<Self, RootSpecError> {
        let (module, query) = text.split_once('?').unwrap_or((text, ""));
        let mut values: [Option<Vec<u8>>; PARAMETERS.len()] = Default::default();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let place = PARAMETERS.iter().position(|known| *known == name);
            let slot = place.and_then(|place| values.get_mut(place));
            let slot = slot.ok_or_else(|| RootSpecError::Unknown { name: name.to_owned() })?;
            if slot.replace(decode(value)?).is_some() {
                return Err(RootSpecError::Doubled { name: name.to_owned() });
            }
        }
        let [token, object, pin_file] = values;
        Ok(Self {
            module: path(decode(module)?, "MODULE")?,
            token: label(token, "token", TOKEN_LABEL_LEN_MAX)?,
            object: label(object, "object", OBJECT_LABEL_LEN_MAX)?,
            pin_file: path(pin_file.unwrap_or_default(), "pin-file")?,
        })
    }
}

const PARAMETERS: [&str; 3] = ["token", "object", "pin-file"];

fn decode(text: &str) -> Result<Vec<u8>, RootSpecError> {
    let whole =
        |part: &str| part.as_bytes().first_chunk::<2>().is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    if !text.split('%').skip(1).all(whole) {
        return Err(RootSpecError::Encoding);
    }
    Ok(percent_decode_str(text).collect())
}

fn path(bytes: Vec<u8>, name: &'static str) -> Result<PathBuf, RootSpecError> {
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(RootSpecError::Missing { name });
    }
    Ok(std::ffi::OsString::from_vec(bytes).into())
}

fn label(bytes: Option<Vec<u8>>, name: &'static str, len_max: usize) -> Result<String, RootSpecError> {
    let text = String::from_utf8(bytes.unwrap_or_default()).map_err(|_| RootSpecError::Encoding)?;
    // Tokens pad their labels with blanks: one at the end would never be found.
    if text.is_empty() || text.len() > len_max || text.ends_with(' ') || text.contains(char::is_control) {
        return Err(RootSpecError::Missing { name });
    }
    Ok(text)
}

impl fmt::Display for Pkcs11Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encode = |bytes| percent_encode(bytes, PLAIN);
        let of_path = |path: &Path| <Path as AsRef<OsStr>>::as_ref(path).as_bytes().to_vec();
        let (module, pin_file) = (of_path(&self.module), of_path(&self.pin_file));
        write!(f, "{}?token={}", encode(&module), encode(self.token.as_bytes()))?;
        write!(f, "&object={}&pin-file={}", encode(self.object.as_bytes()), encode(&pin_file))
    }
}
