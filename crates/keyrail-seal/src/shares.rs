//! Recovery shares as root of trust: a slot key that several people hold parts of. Shares are given when they are
//! needed, and kept nowhere.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use keyrail_crypto::age::Recipient;
use keyrail_crypto::secret::{RootKey, SlotKey, Wraps};
use keyrail_crypto::share::{self, CombineError, Share, ShareError, SharePolicy, ShareSet};
use keyrail_crypto::{CryptoError, random};
use zeroize::Zeroizing;

use crate::slot::wrap_context;
use crate::{PipeWait, RootKind, RootOfTrust, RootSlot, SealError, SlotParameters, private};

/// The most bytes of a file with shares.
const SHARE_FILE_LEN_MAX: usize = 16 * 1024;

/// How many shares are looked at, wrong ones included.
const SHARES_GIVEN_MAX: usize = 64;

/// The name that stands for standard input.
const STDIN: &str = "-";

/// What is wrong with one share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ShareProblem {
    /// It was copied wrong.
    Checksum,
    /// The others open the store, and this one does not belong to them.
    DoesNotFit,
    /// It is an age file, and has to be decrypted by its holder first.
    Encrypted,
    /// It is none, or a part of it is missing.
    Malformed,
    /// It belongs to another set.
    OtherSet,
    /// It is given twice.
    Twice,
    /// A newer program made it.
    Unknown,
    /// Its set opened the store once, and does no more: the root key that it opens was exposed.
    Void,
}

impl fmt::Display for ShareProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checksum => "its checksum is wrong",
            Self::DoesNotFit => "it does not fit the others",
            Self::Encrypted => "it is still encrypted",
            Self::Malformed => "it is not a whole share",
            Self::OtherSet => "it belongs to another set of shares",
            Self::Twice => "it is given twice",
            Self::Unknown => "it is of an unknown kind",
            Self::Void => "its set of shares is void since the root key was exposed",
        })
    }
}

impl ShareProblem {
    pub(crate) const fn hint(self) -> &'static str {
        match self {
            Self::Checksum | Self::Malformed => {
                "compare it with what its holder was given: krs1. and 16 groups of 6 signs"
            }
            Self::DoesNotFit => "leave it out, and ask its holder for the one that was handed out",
            Self::Encrypted => "its holder decrypts it: age --decrypt --identity FILE share.age",
            Self::OtherSet => "`keyrail root status` tells the id of the set; ask for the shares of that one",
            Self::Twice => "give each share once",
            Self::Unknown => "use the release of Keyrail that made it",
            Self::Void => "`keyrail root status` tells which sets open the store; ask for the shares of one of them",
        }
    }

    const fn of(error: ShareError) -> Self {
        match error {
            ShareError::Checksum => Self::Checksum,
            ShareError::Unknown => Self::Unknown,
            _ => Self::Malformed,
        }
    }
}

/// A share as it was given, and where. Wiped when it is dropped.
pub struct ShareText {
    /// Where it comes from, for people.
    pub from: String,
    /// The text.
    pub text: Zeroizing<String>,
}

/// The shares in these files, one in each line; `-` is standard input. Lines that are empty or begin with `#` are none.
///
/// # Errors
/// [`SealError::File`]; [`SealError::Permissions`] when others may read a file; [`SealError::Malformed`] for one without
/// a share, or with too much in it; [`SealError::Share`] for one that is encrypted.
pub fn read_shares(paths: &[PathBuf]) -> Result<Vec<ShareText>, SealError> {
    let mut found = Vec::new();
    for path in paths {
        match path.to_str() {
            Some(STDIN) => read_file(Path::new("/dev/stdin"), private::Kind::Handed, &mut found)?,
            _ => read_file(path, private::Kind::FileOrPipe(PipeWait::Forever), &mut found)?,
        }
    }
    Ok(found)
}

fn read_file(path: &Path, kind: private::Kind, found: &mut Vec<ShareText>) -> Result<(), SealError> {
    let from = path.display();
    let malformed = || SealError::Malformed { path: path.to_owned(), what: "file of recovery shares" };
    let mut content = Zeroizing::new(vec![0; SHARE_FILE_LEN_MAX + 1]);
    let content = private::read(path, kind, &mut content, "file of recovery shares")?;
    if content.len() > SHARE_FILE_LEN_MAX {
        return Err(malformed());
    }
    if content.starts_with(b"-----BEGIN AGE") || content.starts_with(b"age-encryption.org/") {
        return Err(SealError::Share { share: format!("`{from}`"), problem: ShareProblem::Encrypted });
    }
    let text = std::str::from_utf8(content).map_err(|_| malformed())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let before = found.len();
    for (number, line) in lines {
        let from = format!("`{from}`, line {}", number + 1);
        found.push(ShareText { from, text: Zeroizing::new(line.trim().to_owned()) });
    }
    if found.len() == before || found.len() > SHARES_GIVEN_MAX { Err(malformed()) } else { Ok(()) }
}

/// The files of a directory that may hold shares, by their names: those that end in `.txt`.
///
/// # Errors
/// [`SealError::File`]; [`SealError::Malformed`] when there are none.
pub fn share_files(dir: &Path) -> Result<Vec<PathBuf>, SealError> {
    let failed = |source| SealError::File { action: "read", path: dir.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|end| end == "txt") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() || paths.len() > SHARES_GIVEN_MAX {
        return Err(SealError::Malformed { path: dir.to_owned(), what: "directory of recovery shares (share-N.txt)" });
    }
    Ok(paths)
}

/// Shares that were given, as root of trust.
pub struct Shares {
    shares: Vec<(String, Share)>,
}

impl Shares {
    /// Reads the texts.
    ///
    /// # Errors
    /// [`SealError::Share`] for the first that is none; [`SealError::TooManyShares`].
    pub fn new(texts: &[ShareText]) -> Result<Self, SealError> {
        let read = |text: &ShareText| {
            let share = Share::parse(&text.text).map_err(|error| match error {
                ShareError::Crypto(error) => SealError::Crypto(error),
                other => SealError::Share { share: text.from.clone(), problem: ShareProblem::of(other) },
            })?;
            Ok((format!("share {} ({})", share.index(), text.from), share))
        };
        if texts.len() > SHARES_GIVEN_MAX {
            return Err(SealError::TooManyShares { given: texts.len(), max: SHARES_GIVEN_MAX });
        }
        let shares = texts.iter().map(read).collect::<Result<_, SealError>>()?;
        Ok(Self { shares })
    }

    /// The slot key, for the slot that the shares are of.
    fn slot_key(&self, slot: &RootSlot) -> Result<SlotKey, SealError> {
        let SlotParameters::Shamir(set) = slot.parameters else {
            return Err(SealError::OtherKind { found: slot.kind().as_str(), given: RootKind::Shamir.as_str() });
        };
        // More of another set: another slot may be theirs.
        let of = |id| self.shares.iter().filter(|(_, share)| share.set() == id).count();
        if self.shares.iter().any(|(_, share)| of(share.set()) > of(set.id)) {
            return Err(SealError::WrongSecret);
        }
        let shares: Vec<&Share> = self.shares.iter().map(|(_, share)| share).collect();
        share::combine(&set, &shares).map_err(|error| self.named(error, &set))
    }

    fn named(&self, error: CombineError, set: &ShareSet) -> SealError {
        let (at, problem) = match error {
            CombineError::OtherSet { at } => (at, ShareProblem::OtherSet),
            CombineError::Twice { at } => (at, ShareProblem::Twice),
            CombineError::DoesNotFit { at } => (at, ShareProblem::DoesNotFit),
            CombineError::TooFew { given, threshold } => return SealError::TooFewShares { given, threshold },
            CombineError::Crypto(error) => return SealError::Crypto(error),
            _ => return SealError::SharesDoNotOpen { given: self.shares.len(), threshold: set.policy.threshold() },
        };
        let share = self.shares.get(at).map(|(name, _)| name.clone()).unwrap_or_default();
        SealError::Share { share, problem }
    }
}

impl RootOfTrust for Shares {
    fn kind(&self) -> RootKind {
        RootKind::Shamir
    }

    fn describe(&self) -> String {
        format!("{} recovery shares", self.shares.len())
    }

    /// New shares are dealt instead: [`deal`].
    fn protect(&self, _: &RootKey) -> Result<RootSlot, SealError> {
        Err(SealError::SharesAreDealt)
    }

    fn open(&self, slot: &RootSlot) -> Result<RootKey, SealError> {
        let key = self.slot_key(slot)?;
        key.unwrap_key(&slot.wrapped, &wrap_context(&slot.id)).map_err(|_| SealError::SlotDamaged)
    }

    fn refuse_void(&self, slot: &RootSlot) -> Result<(), SealError> {
        let SlotParameters::Shamir(set) = slot.parameters else { return Ok(()) };
        match self.shares.iter().find(|(_, share)| share.set() == set.id) {
            Some((share, _)) => Err(SealError::Share { share: share.clone(), problem: ShareProblem::Void }),
            None => Ok(()),
        }
    }

    fn renew(&self, slot: &RootSlot, root: &RootKey) -> Result<RootSlot, SealError> {
        let (key, id) = (self.slot_key(slot)?, random::array()?);
        let wrapped = key.wrap(root, &wrap_context(&id))?;
        Ok(RootSlot { id, parameters: slot.parameters.clone(), wrapped, links: Vec::new() })
    }
}

/// What a recovery root is to be: `shamir:3/5`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecoverySpec(pub SharePolicy);

/// A text names no recovery root.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a recovery root is shamir:T/N: N shares, 16 at most, any T of which open, at least 2")]
pub struct RecoverySpecError;

impl FromStr for RecoverySpec {
    type Err = RecoverySpecError;

    fn from_str(text: &str) -> Result<Self, RecoverySpecError> {
        let policy = text.strip_prefix("shamir:").and_then(|policy| policy.parse().ok());
        policy.map(Self).ok_or(RecoverySpecError)
    }
}

impl fmt::Display for RecoverySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shamir:{}/{}", self.0.threshold(), self.0.total())
    }
}

/// A share as it is handed out.
pub struct DealtShare {
    /// Its number, from 1.
    pub index: u8,
    /// Whose it is: whoever can decrypt it.
    pub recipient: Option<Recipient>,
    /// Its text, or an armored age file if there is a recipient. Wiped when it is dropped.
    pub text: Zeroizing<String>,
}

/// A new recovery root: its slot, and its shares, for each recipient in turn one if there are recipients.
///
/// # Errors
/// [`SealError::Recipients`] when there are some, and not one for each share; [`SealError::Crypto`].
pub fn deal(
    spec: RecoverySpec,
    recipients: &[Recipient],
    root: &RootKey,
) -> Result<(RootSlot, Vec<DealtShare>), SealError> {
    let RecoverySpec(policy) = spec;
    if !recipients.is_empty() && recipients.len() != usize::from(policy.total()) {
        return Err(SealError::Recipients { given: recipients.len(), total: policy.total() });
    }
    let (dealt, id) = (share::deal(policy)?, random::array()?);
    let wrapped = dealt.key.wrap(root, &wrap_context(&id))?;
    let slot = RootSlot { id, parameters: SlotParameters::Shamir(dealt.set), wrapped, links: Vec::new() };
    let mut recipients = recipients.iter();
    let shares = dealt.shares.iter().map(|share| hand_out(share, recipients.next()));
    Ok((slot, shares.collect::<Result<_, _>>()?))
}

fn hand_out(share: &Share, recipient: Option<&Recipient>) -> Result<DealtShare, CryptoError> {
    let text = share.danger_text()?;
    let text = match recipient {
        Some(recipient) => {
            let mut line = Zeroizing::new(String::with_capacity(text.len() + 1));
            line.push_str(&text);
            line.push('\n');
            Zeroizing::new(recipient.encrypt(line.as_bytes())?)
        }
        None => text,
    };
    Ok(DealtShare { index: share.index(), recipient: recipient.cloned(), text })
}
