//! Slots: the root key, wrapped by one root of trust, with what that root needs to open it again.

use keyrail_crypto::passphrase::{Argon2Params, SALT_LEN};
use keyrail_crypto::random;
use keyrail_crypto::secret::{RootKey, SlotKey, Wraps};
use keyrail_crypto::share::{SharePolicy, ShareSet};
use keyrail_crypto::wrap::{WRAPPED_LEN, WrapContext, WrappedKey};

use crate::{RootOfTrust, SealError, TokenKey};

/// The kinds of roots of trust.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RootKind {
    /// A file with a random key.
    KeyFile,
    /// A passphrase.
    Passphrase,
    /// A key on a token of an HSM.
    Pkcs11,
    /// Shares of several people.
    Shamir,
}

impl RootKind {
    /// The word for people and programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeyFile => "keyfile",
            Self::Passphrase => "passphrase",
            Self::Pkcs11 => "pkcs11",
            Self::Shamir => "shamir",
        }
    }
}

/// What a root needs besides its secret. None of it is secret.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SlotParameters {
    /// The fingerprint of the key file: tells a wrong file from a damaged slot.
    KeyFile {
        /// SHA-256 under a domain of its own, cut to 16 bytes.
        fingerprint: [u8; 16],
    },
    /// How the passphrase was stretched.
    Passphrase {
        /// Argon2id parameters.
        params: Argon2Params,
        /// Salt.
        salt: [u8; SALT_LEN],
    },
    /// Which key on which token.
    Pkcs11(TokenKey),
    /// Which shares open it.
    Shamir(ShareSet),
}

/// The root key, wrapped by one root of trust.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RootSlot {
    /// Immutable id.
    pub id: [u8; 16],
    /// What the root needs.
    pub parameters: SlotParameters,
    /// The wrapped root key.
    pub wrapped: WrappedKey,
    /// The root keys that came after it, each wrapped under the one before: what a rotation leaves for shares that
    /// stayed away.
    pub links: Vec<WrappedKey>,
}

/// How many rotations shares may miss before new ones have to be dealt.
pub const ROOT_LINKS_MAX: usize = 8;

const FORMAT: u8 = 1;
/// The same, followed by the number of links and by them.
const FORMAT_LINKED: u8 = 2;
const TAG_KEY_FILE: u8 = 1;
const TAG_PASSPHRASE: u8 = 2;
const TAG_PKCS11: u8 = 3;
const TAG_SHAMIR: u8 = 4;

impl RootSlot {
    /// The kind of root that made it.
    pub const fn kind(&self) -> RootKind {
        match self.parameters {
            SlotParameters::KeyFile { .. } => RootKind::KeyFile,
            SlotParameters::Passphrase { .. } => RootKind::Passphrase,
            SlotParameters::Pkcs11(_) => RootKind::Pkcs11,
            SlotParameters::Shamir(_) => RootKind::Shamir,
        }
    }

    /// The stored form: format, id, kind, parameters, wrapped key.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = head(&self.id, &self.parameters);
        out.extend_from_slice(self.wrapped.as_bytes());
        if let (false, Ok(count)) = (self.links.is_empty(), u8::try_from(self.links.len())) {
            out.splice(..1, [FORMAT_LINKED]);
            out.push(count);
            self.links.iter().for_each(|link| out.extend_from_slice(link.as_bytes()));
        }
        out
    }

    /// The root key that the store works with, opened with the root of trust of this slot.
    ///
    /// # Errors
    /// As [`RootOfTrust::open`].
    pub fn open_with(&self, root: &dyn RootOfTrust) -> Result<RootKey, SealError> {
        let mut key = root.open(self)?;
        for (number, link) in (1..).zip(&self.links) {
            key = key.unwrap_key(link, &link_context(&self.id, number)).map_err(|_| SealError::SlotDamaged)?;
        }
        Ok(key)
    }

    /// The slot after the root key was rotated without its root of trust: the next root key under the present one.
    ///
    /// # Errors
    /// [`SealError::Crypto`]; [`SealError::LinksFull`] when it missed [`ROOT_LINKS_MAX`] rotations already.
    pub fn linked(&self, present: &RootKey, next: &RootKey) -> Result<Self, SealError> {
        if self.links.len() >= ROOT_LINKS_MAX {
            return Err(SealError::LinksFull { links: self.links.len() });
        }
        let number = u32::try_from(self.links.len() + 1).unwrap_or(u32::MAX);
        let link = present.wrap(next, &link_context(&self.id, number))?;
        let mut slot = self.clone();
        slot.links.push(link);
        Ok(slot)
    }

    /// What stays of a slot that is void: it tells whose it was, and opens nothing, also not a root key of former times.
    ///
    /// # Errors
    /// [`SealError::Crypto`].
    pub fn voided(&self) -> Result<Self, SealError> {
        let id = random::array()?;
        // Two keys that nobody has.
        let wrapped = SlotKey::generate()?.wrap(&RootKey::generate()?, &wrap_context(&id))?;
        Ok(Self { id, parameters: self.parameters.clone(), wrapped, links: Vec::new() })
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`SealError::SlotDamaged`] for anything but the exact form with acceptable parameters.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        Self::parse(bytes).ok_or(SealError::SlotDamaged)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (&format @ (FORMAT | FORMAT_LINKED), rest) = bytes.split_first()? else { return None };
        let (id, rest) = rest.split_first_chunk::<16>()?;
        let (tag, rest) = rest.split_first()?;
        let (parameters, wrapped) = match *tag {
            TAG_KEY_FILE => {
                let (fingerprint, wrapped) = rest.split_first_chunk::<16>()?;
                (SlotParameters::KeyFile { fingerprint: *fingerprint }, wrapped)
            }
            TAG_PASSPHRASE => {
                let (memory_kib, rest) = rest.split_first_chunk::<4>()?;
                let (passes, rest) = rest.split_first_chunk::<4>()?;
                let (lanes, rest) = rest.split_first_chunk::<4>()?;
                let (salt, wrapped) = rest.split_first_chunk::<SALT_LEN>()?;
                let [memory_kib, passes, lanes] = [memory_kib, passes, lanes].map(|bytes| u32::from_be_bytes(*bytes));
                let params = Argon2Params { memory_kib, passes, lanes };
                // A store that was tampered with must not make us derive weakly, or for hours.
                if !params.in_range() {
                    return None;
                }
                (SlotParameters::Passphrase { params, salt: *salt }, wrapped)
            }
            TAG_PKCS11 => {
                let (key, wrapped) = TokenKey::read(rest)?;
                (SlotParameters::Pkcs11(key), wrapped)
            }
            TAG_SHAMIR => {
                let (id, rest) = rest.split_first_chunk::<16>()?;
                let ([threshold, total], rest) = rest.split_first_chunk::<2>()?;
                let (fingerprint, wrapped) = rest.split_first_chunk::<16>()?;
                let policy = SharePolicy::new(*threshold, *total)?;
                (SlotParameters::Shamir(ShareSet { id: *id, policy, fingerprint: *fingerprint }), wrapped)
            }
            _ => return None,
        };
        let (wrapped, links) = match format {
            FORMAT_LINKED => {
                let (wrapped, links) = wrapped.split_at_checked(WRAPPED_LEN)?;
                (wrapped, read_links(links)?)
            }
            _ => (wrapped, Vec::new()),
        };
        let wrapped = WrappedKey::from_bytes(wrapped).ok().filter(|wrapped| wrapped.as_bytes().len() == WRAPPED_LEN)?;
        Some(Self { id: *id, parameters, wrapped, links })
    }
}

/// The links of a slot that has some.
fn read_links(bytes: &[u8]) -> Option<Vec<WrappedKey>> {
    let (count, rest) = bytes.split_first()?;
    let (chunks, rest) = rest.as_chunks::<WRAPPED_LEN>();
    let fits = rest.is_empty() && chunks.len() == usize::from(*count) && (1..=ROOT_LINKS_MAX).contains(&chunks.len());
    let links = chunks.iter().map(|link| WrappedKey::from_bytes(link).ok());
    if fits { links.collect() } else { None }
}

/// The stored form up to the wrapped key.
pub(crate) fn head(id: &[u8; 16], parameters: &SlotParameters) -> Vec<u8> {
    let mut out = vec![FORMAT];
    out.extend_from_slice(id);
    match parameters {
        SlotParameters::KeyFile { fingerprint } => {
            out.push(TAG_KEY_FILE);
            out.extend_from_slice(fingerprint);
        }
        SlotParameters::Passphrase { params, salt } => {
            out.push(TAG_PASSPHRASE);
            for number in [params.memory_kib, params.passes, params.lanes] {
                out.extend_from_slice(&number.to_be_bytes());
            }
            out.extend_from_slice(salt);
        }
        SlotParameters::Pkcs11(key) => {
            out.push(TAG_PKCS11);
            key.write(&mut out);
        }
        SlotParameters::Shamir(set) => {
            out.push(TAG_SHAMIR);
            out.extend_from_slice(&set.id);
            out.extend_from_slice(&[set.policy.threshold(), set.policy.total()]);
            out.extend_from_slice(&set.fingerprint);
        }
    }
    out
}

/// What a link is bound to: its slot and its place.
fn link_context(id: &[u8; 16], number: u32) -> WrapContext<'_> {
    WrapContext { table: "root_link", id, version: number, generation: 1 }
}

/// What the root key's wrapping is bound to: the slot.
pub(crate) fn wrap_context(id: &[u8; 16]) -> WrapContext<'_> {
    WrapContext { table: "root_slot", id, version: 1, generation: 1 }
}
