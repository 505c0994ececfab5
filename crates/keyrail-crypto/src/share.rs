//! Recovery shares: a slot key, split by Shamir's scheme over GF(256) so that any few of many open it. The form of a
//! share is in `spec/recovery-share.md`.

mod field;
mod text;

#[cfg(test)]
mod tests;

use std::str::FromStr;

use crate::digest::Sha256;
use crate::secret::{AsSecret, SECRET_LEN, Secret32, SlotKey};
use crate::{CryptoError, random};

pub use text::{SHARE_TEXT_LEN, ShareError};

/// The most shares of one set; so many can be tried in every choice of them when one of them is bad.
pub const SHARES_MAX: u8 = 16;

/// The fewest shares that open a set: one alone would be a copy of the key.
pub const THRESHOLD_MIN: u8 = 2;

/// How many shares there are, and how many of them open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SharePolicy {
    threshold: u8,
    total: u8,
}

impl SharePolicy {
    /// Any `threshold` of `total` shares; `None` outside of what is possible.
    pub const fn new(threshold: u8, total: u8) -> Option<Self> {
        if THRESHOLD_MIN <= threshold && threshold <= total && total <= SHARES_MAX {
            Some(Self { threshold, total })
        } else {
            None
        }
    }

    /// How many shares open.
    pub const fn threshold(self) -> u8 {
        self.threshold
    }

    /// How many shares there are.
    pub const fn total(self) -> u8 {
        self.total
    }
}

/// A text is no policy such as `3/5`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("it takes 2 to 16 shares, of which 2 or more open: like 3/5")]
pub struct SharePolicyError;

impl FromStr for SharePolicy {
    type Err = SharePolicyError;

    fn from_str(text: &str) -> Result<Self, SharePolicyError> {
        let (threshold, total) = text.split_once('/').ok_or(SharePolicyError)?;
        let number = |text: &str| text.parse().ok().filter(|number: &u8| number.to_string() == text);
        let policy = number(threshold).zip(number(total)).and_then(|(threshold, total)| Self::new(threshold, total));
        policy.ok_or(SharePolicyError)
    }
}

/// What a slot knows of its shares. None of it is secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ShareSet {
    /// The id of the set, which each of its shares carries.
    pub id: [u8; 16],
    /// How many shares there are, and how many of them open.
    pub policy: SharePolicy,
    /// SHA-256 of the split key under a domain of its own, cut to 16 bytes: tells whether the shares gave that key.
    pub fingerprint: [u8; 16],
}

/// One share of a set. Any `threshold - 1` of them tell nothing of the key.
pub struct Share {
    set: [u8; 16],
    policy: SharePolicy,
    index: u8,
    value: Secret32,
}

impl Share {
    /// Its number in the set, from 1.
    pub const fn index(&self) -> u8 {
        self.index
    }

    /// The set that it belongs to, as it says itself.
    pub const fn set(&self) -> [u8; 16] {
        self.set
    }

    /// How many shares there are, as it says itself.
    pub const fn policy(&self) -> SharePolicy {
        self.policy
    }
}

/// A slot key and the shares that it was split into.
pub struct Dealt {
    /// The key.
    pub key: SlotKey,
    /// What the slot has to know of the shares.
    pub set: ShareSet,
    /// The shares, by their index.
    pub shares: Vec<Share>,
}

/// Makes a random slot key and splits it.
///
/// # Errors
/// [`CryptoError::System`] when the operating system gives no randomness or no memory.
pub fn deal(policy: SharePolicy) -> Result<Dealt, CryptoError> {
    let (key, id) = (SlotKey::generate()?, random::array()?);
    // The key is the constant term of a polynomial; the others are random, and gone when this returns.
    let others = (1..policy.threshold).map(|_| Secret32::generate()).collect::<Result<Vec<_>, _>>()?;
    let shares = (1..=policy.total)
        .map(|index| Ok(Share { set: id, policy, index, value: evaluate(key.secret(), &others, index)? }))
        .collect::<Result<_, CryptoError>>()?;
    let set = ShareSet { id, policy, fingerprint: fingerprint(key.secret())? };
    Ok(Dealt { key, set, shares })
}

/// Why shares do not give the key of a set. Shares are named by their place in the list, from 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CombineError {
    /// This one is of another set.
    OtherSet {
        /// Its place.
        at: usize,
    },
    /// A share with its index came before.
    Twice {
        /// Its place.
        at: usize,
    },
    /// The others open the set, and this one does not belong to them.
    DoesNotFit {
        /// Its place.
        at: usize,
    },
    /// There are too few of them.
    TooFew {
        /// How many there are.
        given: usize,
        /// How many it takes.
        threshold: u8,
    },
    /// They do not give the key, and which of them are wrong cannot be told.
    NotThese,
    /// The ciphers failed.
    Crypto(CryptoError),
}

impl From<CryptoError> for CombineError {
    fn from(error: CryptoError) -> Self {
        Self::Crypto(error)
    }
}

/// The key of a set, from its shares. All of those that are given must be right: one that is not is named, as far as
/// the others suffice to tell.
///
/// # Errors
/// [`CombineError`].
pub fn combine(set: &ShareSet, shares: &[&Share]) -> Result<SlotKey, CombineError> {
    for (at, share) in shares.iter().enumerate() {
        if share.set != set.id {
            return Err(CombineError::OtherSet { at });
        }
        if share.policy != set.policy {
            return Err(CombineError::DoesNotFit { at });
        }
        if shares.iter().take(at).any(|before| before.index == share.index) {
            return Err(CombineError::Twice { at });
        }
    }
    let threshold = usize::from(set.policy.threshold);
    if shares.len() < threshold {
        return Err(CombineError::TooFew { given: shares.len(), threshold: set.policy.threshold });
    }
    // With no more than 16 shares these are 12,870 choices at most.
    let mut choices = Choices::new(threshold, shares.len());
    while let Some(choice) = choices.next() {
        let chosen: Vec<&Share> = choice.iter().filter_map(|at| shares.get(*at).copied()).collect();
        let key = interpolate(&chosen, 0)?;
        if fingerprint(&key)? == set.fingerprint {
            return match stranger(shares, &chosen)? {
                Some(at) => Err(CombineError::DoesNotFit { at }),
                None => Ok(SlotKey::from_secret(key)),
            };
        }
    }
    Err(CombineError::NotThese)
}

/// The first share that does not lie on the polynomial of the chosen ones.
fn stranger(shares: &[&Share], chosen: &[&Share]) -> Result<Option<usize>, CryptoError> {
    for (at, share) in shares.iter().enumerate() {
        if !interpolate(chosen, share.index)?.ct_eq(&share.value) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// The polynomial with this constant term and these further coefficients, at `x`: byte by byte, by Horner's rule.
fn evaluate(constant: &Secret32, others: &[Secret32], x: u8) -> Result<Secret32, CryptoError> {
    Secret32::init_with(|out| {
        for term in others.iter().rev().chain([constant]) {
            for (sum, byte) in out.iter_mut().zip(term.expose_secret()) {
                *sum = field::mul(*sum, x) ^ byte;
            }
        }
        Ok(())
    })
}

/// The polynomial through these shares, at `x`: byte by byte, by Lagrange's formula. What depends on indices alone is
/// no secret.
fn interpolate(shares: &[&Share], x: u8) -> Result<Secret32, CryptoError> {
    let mut weights = [0; SHARES_MAX as usize];
    for (weight, share) in weights.iter_mut().zip(shares) {
        let others = shares.iter().filter(|other| other.index != share.index);
        *weight = others.fold(1, |product, other| {
            let quotient = field::mul(x ^ other.index, field::inverse(share.index ^ other.index));
            field::mul(product, quotient)
        });
    }
    Secret32::init_with(|out| {
        for (weight, share) in weights.iter().zip(shares) {
            for (sum, byte) in out.iter_mut().zip(share.value.expose_secret()) {
                *sum ^= field::mul(*byte, *weight);
            }
        }
        Ok(())
    })
}

fn fingerprint(key: &Secret32) -> Result<[u8; 16], CryptoError> {
    let digest = Sha256::new().with(b"keyrail/recovery/fingerprint/v1").with(key.expose_secret()).finish();
    digest.first_chunk().copied().ok_or(CryptoError::Library)
}

/// Every choice of `few` places out of `many`, the first ones first.
struct Choices {
    next: Option<Vec<usize>>,
    many: usize,
}

impl Choices {
    fn new(few: usize, many: usize) -> Self {
        Self { next: (few <= many).then(|| (0..few).collect()), many }
    }

    fn next(&mut self) -> Option<Vec<usize>> {
        let choice = self.next.take()?;
        let mut after = choice.clone();
        let few = after.len();
        // The last place that can still move up does, and those after it follow close.
        if let Some(at) = (0..few).rev().find(|at| after.get(*at).is_some_and(|place| *place < self.many - few + at)) {
            let from = after.get(at).copied().unwrap_or_default() + 1;
            after.iter_mut().skip(at).enumerate().for_each(|(step, place)| *place = from + step);
            self.next = Some(after);
        }
        Some(choice)
    }
}

/// Length of a share's value, in bytes.
const VALUE_LEN: usize = SECRET_LEN;
