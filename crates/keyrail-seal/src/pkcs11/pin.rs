//! The PIN: read from a private file, tried once, and not again before another one is in the file or on the token.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use cryptoki::types::RawAuthPin;
use keyrail_crypto::digest::Sha256;
use keyrail_crypto::random;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::error::TokenError;
use super::spec::Pkcs11Spec;
use crate::SealError;
use crate::private;

/// How long a PIN may be, in bytes.
const PIN_LEN_MAX: usize = 255;

const WHAT: &str = "PIN of 1 to 255 bytes on one line";

/// How many refused PINs are remembered for a token, and for how many tokens. They are named by owners only, so that no more
/// than a few ever are.
const REFUSED_MAX: usize = 64;

/// A PIN in memory; wiped when dropped.
pub(super) struct Pin {
    text: Zeroizing<Vec<u8>>,
    path: PathBuf,
    /// Tells the same PIN again, whatever file it is in and however often that is written.
    digest: [u8; 32],
}

/// Which token; several processes' worth of tries would lock it, so each process tries a PIN once.
type Place = (PathBuf, String);

/// What a token was given, and what it said.
#[derive(Default)]
struct Tried {
    /// What it refused, the latest first.
    refused: VecDeque<[u8; 32]>,
    /// What it was given and said nothing of that can be understood: it may have counted it as wrong.
    doubtful: Option<[u8; 32]>,
    /// Whether it tells that it has counted a wrong PIN.
    counts: bool,
}

static TRIED: LazyLock<Mutex<HashMap<Place, Tried>>> = LazyLock::new(Default::default);

impl Pin {
    /// The PIN in a file; one newline at its end does not belong to it.
    pub(super) fn read(path: &Path) -> Result<Self, SealError> {
        let mut content = Zeroizing::new([0; PIN_LEN_MAX + 3]);
        let content = private::read(path, private::Kind::PlainFile, content.as_mut_slice(), WHAT)?;
        let line = content.strip_suffix(b"\n").unwrap_or(content);
        let line = if line.len() < content.len() { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
        if line.is_empty() || line.len() > PIN_LEN_MAX || line.contains(&b'\n') {
            return Err(SealError::Malformed { path: path.to_owned(), what: WHAT });
        }
        let digest = Sha256::new().with(secret_of_process()?).with(line).finish();
        Ok(Self { text: Zeroizing::new(line.to_vec()), path: path.to_owned(), digest })
    }

    /// The PIN in the form that the library takes, which wipes it.
    pub(super) fn to_raw(&self) -> RawAuthPin {
        RawAuthPin::new(Box::new(self.text.to_vec()))
    }

    /// Where it was read from.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it may be given to the token, which says whether it has counted a wrong one since it took one last. A token
    /// that counts and has none counted took the right one since, or was given another one: then a refused one may be it.
    ///
    /// # Errors
    /// [`TokenError::PinRefused`], [`TokenError::PinDoubtful`].
    pub(super) fn require_untried(&self, spec: &Pkcs11Spec, has_counted: bool) -> Result<(), TokenError> {
        let mut all = TRIED.lock();
        let Some(tried) = all.get_mut(&place(spec)) else { return Ok(()) };
        if tried.counts && !has_counted {
            tried.refused.clear();
        }
        if tried.refused.contains(&self.digest) {
            return Err(TokenError::PinRefused { path: self.path.clone() });
        }
        if has_counted && tried.doubtful == Some(self.digest) {
            return Err(TokenError::PinDoubtful { path: self.path.clone() });
        }
        Ok(())
    }

    /// Remembers that the token is given this PIN now: its answer may never come.
    pub(super) fn given(&self, spec: &Pkcs11Spec) {
        let (mut all, place) = (TRIED.lock(), place(spec));
        if all.len() >= REFUSED_MAX && !all.contains_key(&place) {
            let other = all.keys().next().cloned();
            other.map(|other| all.remove(&other));
        }
        all.entry(place).or_default().doubtful = Some(self.digest);
    }

    /// Remembers that the token refused this PIN, and whether it tells that it counted it.
    pub(super) fn refused(&self, spec: &Pkcs11Spec, counts: bool) {
        let mut all = TRIED.lock();
        let tried = all.entry(place(spec)).or_default();
        (tried.doubtful, tried.counts) = (None, counts);
        tried.refused.truncate(REFUSED_MAX - 1);
        tried.refused.push_front(self.digest);
    }

    /// Forgets that this PIN was given: the token answered without looking at it.
    pub(super) fn not_looked_at(&self, spec: &Pkcs11Spec) {
        if let Some(tried) = TRIED.lock().get_mut(&place(spec)) {
            tried.doubtful = tried.doubtful.filter(|doubtful| *doubtful != self.digest);
        }
    }

    /// Forgets all: the token took a PIN, and counts anew.
    pub(super) fn taken(spec: &Pkcs11Spec) {
        TRIED.lock().remove(&place(spec));
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
