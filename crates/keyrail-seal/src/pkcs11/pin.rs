//! The PIN: read from a private file, tried once, and not again until the file has changed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use cryptoki::types::RawAuthPin;
use keyrail_crypto::digest::Sha256;
use keyrail_crypto::random;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::spec::Pkcs11Spec;
use crate::SealError;
use crate::private::{self, Stamp};

/// How long a PIN may be, in bytes.
const PIN_LEN_MAX: usize = 255;

const WHAT: &str = "PIN of 1 to 255 bytes on one line";

/// How many refused PINs are remembered. Tokens are named by owners only, so that no more than a few ever are.
const REFUSED_MAX: usize = 64;

/// A PIN in memory; wiped when dropped.
pub(super) struct Pin {
    text: Zeroizing<Vec<u8>>,
    path: PathBuf,
    /// Tells the same PIN in the same file again.
    identity: Identity,
}

#[derive(Clone, Eq, PartialEq)]
struct Identity {
    digest: [u8; 32],
    stamp: Stamp,
}

/// Which token; several processes' worth of tries would lock it, so each process tries a PIN once.
type Place = (PathBuf, String);

static REFUSED: LazyLock<Mutex<HashMap<Place, Identity>>> = LazyLock::new(Default::default);

impl Pin {
    /// The PIN in a file; one newline at its end does not belong to it.
    pub(super) fn read(path: &Path) -> Result<Self, SealError> {
        let mut content = Zeroizing::new([0; PIN_LEN_MAX + 3]);
        let (content, stamp) = private::read_stamped(path, private::Kind::PlainFile, content.as_mut_slice(), WHAT)?;
        let line = content.strip_suffix(b"\n").unwrap_or(content);
        let line = if line.len() < content.len() { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
        if line.is_empty() || line.len() > PIN_LEN_MAX || line.contains(&b'\n') {
            return Err(SealError::Malformed { path: path.to_owned(), what: WHAT });
        }
        let digest = Sha256::new().with(secret_of_process()?).with(line).finish();
        Ok(Self { text: Zeroizing::new(line.to_vec()), path: path.to_owned(), identity: Identity { digest, stamp } })
    }

    /// The PIN in the form that the library takes, which wipes it.
    pub(super) fn to_raw(&self) -> RawAuthPin {
        RawAuthPin::new(Box::new(self.text.to_vec()))
    }

    /// Where it was read from.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the token refused this PIN before, and the file is the same.
    pub(super) fn was_refused(&self, spec: &Pkcs11Spec) -> bool {
        REFUSED.lock().get(&place(spec)) == Some(&self.identity)
    }

    /// Remembers that the token refused this PIN.
    pub(super) fn refused(&self, spec: &Pkcs11Spec) {
        let mut refused = REFUSED.lock();
        let other = refused.keys().next().filter(|_| refused.len() >= REFUSED_MAX).cloned();
        other.map(|other| refused.remove(&other));
        refused.insert(place(spec), self.identity.clone());
    }

    /// Forgets it: the token took the PIN.
    pub(super) fn taken(spec: &Pkcs11Spec) {
        REFUSED.lock().remove(&place(spec));
    }
}

fn place(spec: &Pkcs11Spec) -> Place {
    (spec.module.clone(), spec.token.clone())
}

/// Goes into each digest, so that a digest in memory is no way to find a PIN of few digits.
fn secret_of_process() -> Result<&'static [u8], SealError> {
    static SECRET: std::sync::OnceLock<[u8; 32]> = std::sync::OnceLock::new();
    if let Some(secret) = SECRET.get() {
        return Ok(secret);
    }
    let fresh = random::array()?;
    Ok(SECRET.get_or_init(|| fresh))
}
