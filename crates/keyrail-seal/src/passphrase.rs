//! A passphrase as root of trust, stretched by Argon2id.

use std::path::Path;

use keyrail_crypto::passphrase::{Argon2Params, PASSPHRASE_LEN_MAX, derive};
use keyrail_crypto::random;
use keyrail_crypto::secret::{RootKey, Wraps};
use zeroize::Zeroizing;

use crate::slot::wrap_context;
use crate::{PipeWait, RootKind, RootOfTrust, RootSlot, SealError, SlotParameters, private};

const WHAT: &str = "passphrase of 1 to 1024 bytes";

/// A carriage return and a newline.
const NEWLINE_LEN_MAX: usize = 2;

/// A passphrase in memory; wiped when dropped.
pub struct Passphrase {
    text: Zeroizing<Vec<u8>>,
    params: Argon2Params,
}

impl Passphrase {
    /// The passphrase in a file or pipe; one newline at its end does not belong to it.
    ///
    /// # Errors
    /// [`SealError::File`], also when nobody writes to a pipe in time, [`SealError::Permissions`] when others may read the file, [`SealError::Malformed`] for
    /// an empty or overlong one.
    pub fn from_file(path: &Path, wait: PipeWait) -> Result<Self, SealError> {
        let mut content = Zeroizing::new(vec![0; PASSPHRASE_LEN_MAX + NEWLINE_LEN_MAX + 1]);
        let content = private::read(path, private::Kind::FileOrPipe(wait), &mut content, WHAT)?;
        let line = content.strip_suffix(b"\n").unwrap_or(content);
        let line = if line.len() < content.len() { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
        if line.is_empty() || line.len() > PASSPHRASE_LEN_MAX {
            return Err(SealError::Malformed { path: path.to_owned(), what: WHAT });
        }
        Ok(Self { text: Zeroizing::new(line.to_vec()), params: Argon2Params::DEFAULT })
    }

    /// The same passphrase with other parameters for new slots.
    #[must_use]
    pub fn with_params(self, params: Argon2Params) -> Self {
        Self { params, ..self }
    }
}

impl RootOfTrust for Passphrase {
    fn kind(&self) -> RootKind {
        RootKind::Passphrase
    }

    fn describe(&self) -> String {
        "passphrase".to_owned()
    }

    fn protect(&self, root: &RootKey) -> Result<RootSlot, SealError> {
        let (id, salt) = (random::array()?, random::array()?);
        let wrapped = derive(&self.text, &salt, self.params)?.wrap(root, &wrap_context(&id))?;
        Ok(RootSlot {
            id,
            parameters: SlotParameters::Passphrase { params: self.params, salt },
            wrapped,
            links: Vec::new(),
        })
    }

    fn open(&self, slot: &RootSlot) -> Result<RootKey, SealError> {
        let SlotParameters::Passphrase { params, salt } = slot.parameters else {
            return Err(SealError::OtherKind { found: slot.kind().as_str(), given: self.kind().as_str() });
        };
        // With a passphrase there is no fingerprint (it would help to guess), so a damaged slot looks like a wrong one.
        derive(&self.text, &salt, params)?
            .unwrap_key(&slot.wrapped, &wrap_context(&slot.id))
            .map_err(|_| SealError::WrongSecret)
    }
}
