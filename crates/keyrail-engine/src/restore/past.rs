//! What the log tells of the time after a backup.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use keyrail_audit::{Checkpoint, JournalPlace, Reader, Remembered, VerifierKey, verify, verify_with_journal};
use keyrail_core::access::Action;
use keyrail_core::id::TokenId;
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::{KeyVersionName, VersionNumber};
use keyrail_core::record::{Outcome, Record};
use keyrail_core::system::SettingName;
use keyrail_core::usage::{UsageCount, UsageKey};
use keyrail_crypto::envelope::Kid;
use keyrail_crypto::mac::MacKey;

use crate::bootstrap::file_failed;
use crate::error::EngineError;
use crate::paths::Paths;
use crate::restore::switch::formers;
use crate::usage::tally_body;

/// Where the log of the lost time is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FormerLog {
    /// In the data directory, if a log is there.
    Beside,
    /// Nowhere: what was revoked since the backup is not revoked again.
    Gone,
    /// In this directory, as `audit export` made it.
    Exported(PathBuf),
}

/// What happened after a backup, as far as the log tells.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Records in the log, if there is one.
    pub(super) size: Option<u64>,
    /// The newest generation of the rows that it tells of.
    pub(super) generation: u64,
    /// Tokens that were revoked.
    pub(super) tokens: Vec<TokenId>,
    /// Recovery roots that were taken away.
    pub(super) slots: Vec<[u8; 16]>,
    /// Whether acting without a token was switched off last.
    pub(super) local_operator_off: bool,
    /// Whether the root key was declared exposed.
    pub(super) root_exposed: bool,
    /// The last state of each version that a change touched.
    pub(super) states: BTreeMap<Kid, VersionState>,
    /// Every version that a record names, with the name of its key.
    pub(super) versions: BTreeMap<Kid, Named>,
    /// Changes by their action.
    pub(super) changes: BTreeMap<&'static str, u64>,
    /// Uses that the rows of the backup do not count.
    pub(super) usage: BTreeMap<UsageKey, UsageCount>,
}

/// A version as the log names it.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) key: String,
    pub(super) version: VersionNumber,
    /// Items that were made or opened under it.
    pub(super) uses: u64,
}

/// The head that the log must go on from.
pub(super) struct From<'a> {
    pub(super) origin: &'a str,
    pub(super) key: &'a VerifierKey,
    /// The signer's key, without a name.
    pub(super) public_key: &'a [u8; 32],
    pub(super) head: Remembered,
    /// Records before this one are counted in the rows.
    pub(super) counted: u64,
    pub(super) guard: &'a MacKey,
}

/// Reads the log from the backup on, after it was verified as one that goes on from the backup's head. A store that was
/// restored before has logs of its own, by the same signer: these are read, too.
///
/// # Errors
/// [`EngineError::FormerLog`] when a log is there and does not verify, or only others are.
pub(super) fn read(place: &FormerLog, data_dir: &Path, from: &From<'_>) -> Result<Past, EngineError> {
    let mut past = Past::default();
    match place {
        FormerLog::Gone => {}
        FormerLog::Exported(dir) => past.read_former(dir, None, from)?,
        FormerLog::Beside => {
            let found = beside(data_dir)?;
            let (former, later): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, origin)| origin == from.origin);
            if former.is_empty() && !later.is_empty() {
                return Err(refused(format!("`{}` is not in the data directory", from.origin)));
            }
            for (dir, _) in former {
                // One that was moved aside was published before.
                let journal = Some(Paths::new(data_dir)).filter(|paths| paths.audit() == dir);
                past.read_former(&dir, journal.map(|paths| paths.journal()), from)?;
            }
            for (dir, origin) in later {
                past.read_later(&dir, &origin, from)?;
            }
        }
    }
    Ok(past)
}

fn refused(problem: String) -> EngineError {
    EngineError::FormerLog { problem }
}

/// The logs in a data directory, with their names: those of former stores first, in the order of time.
fn beside(data_dir: &Path) -> Result<Vec<(PathBuf, String)>, EngineError> {
    let mut stores = formers(data_dir)?;
    stores.push(data_dir.to_owned());
    let mut found = Vec::new();
    let mut headless = None;
    for store in stores {
        let dir = Paths::new(&store).audit();
        let path = dir.join("checkpoint");
        let note = match std::fs::read_to_string(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                // Where a store was, a log was: without its head nothing tells what is missing.
                if is_store(&store) {
                    headless = Some((path, store == data_dir));
                }
                continue;
            }
            note => note.map_err(|source| file_failed("read", &path, source))?,
        };
        let head = Checkpoint::parse_unverified(&note).map_err(|error| refused(error.to_string()))?;
        found.push((dir, head.origin));
    }
    match headless {
        // A former store may be without one: what came after it tells of that.
        Some((path, present)) if present || found.is_empty() => {
            Err(refused(format!("`{}` is missing", path.display())))
        }
        _ => Ok(found),
    }
}

/// Whether there is a store, or anything of a log.
fn is_store(dir: &Path) -> bool {
    let paths = Paths::new(dir);
    let holds_any = |dir: PathBuf| std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    paths.store().exists() || holds_any(paths.audit()) || holds_any(paths.journal())
}

impl Past {
    /// The log that the backup is of.
    fn read_former(&mut self, dir: &Path, journal: Option<PathBuf>, from: &From<'_>) -> Result<(), EngineError> {
        let heads = [from.head];
        let verified = match &journal {
            Some(journal) => {
                verify_with_journal(dir, &JournalPlace { dir: journal, key: Some(from.guard) }, from.key, &heads)
            }
            None => verify(dir, from.key, &heads),
        };
        verified.map_err(|failure| refused(failure.to_string()))?;
        let reader = Reader::open(dir)?;
        self.size = self.size.max(Some(reader.size()));
        each(&reader, from.head.size.min(from.counted), |index, body| {
            if index >= from.counted {
                tally_body(body, &mut self.usage);
            }
            if index >= from.head.size {
                self.note(&record_of(index, body)?);
            }
            Ok(())
        })
    }

    /// The log of a time after an earlier restore.
    fn read_later(&mut self, dir: &Path, origin: &str, from: &From<'_>) -> Result<(), EngineError> {
        let key = VerifierKey::new(origin, *from.public_key).map_err(|error| refused(error.to_string()))?;
        verify(dir, &key, &[]).map_err(|failure| refused(failure.to_string()))?;
        each(&Reader::open(dir)?, 0, |index, body| {
            self.note(&record_of(index, body)?);
            Ok(())
        })
    }
}

fn record_of(index: u64, body: &[u8]) -> Result<Record, EngineError> {
    serde_json::from_slice(body).map_err(|_| refused(format!("record {index} is not readable")))
}

fn each(
    reader: &Reader,
    first: u64,
    mut take: impl FnMut(u64, &[u8]) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let mut next = first;
    while next < reader.size() {
        let bodies = reader.read(next, RECORDS_READ)?;
        if bodies.is_empty() {
            return Err(refused("it is shorter than its size".to_owned()));
        }
        for body in &bodies {
            take(next, &body.body)?;
            next += 1;
        }
    }
    Ok(())
}

const EXPOSED_AGAIN: &str = "the root key was declared exposed after the backup, and is in use again, with the shares of \
                             then: run `keyrail root exposed` again before anything else";

/// How many records are read at a time.
const RECORDS_READ: usize = 256;

impl Past {
    /// What a restore cannot do again: it takes the root of trust, and the owner.
    pub(super) fn to_do(&self) -> Vec<String> {
        if self.root_exposed { vec![EXPOSED_AGAIN.to_owned()] } else { Vec::new() }
    }

    fn note(&mut self, record: &Record) {
        self.generation = self.generation.max(record.state.map_or(0, |state| state.generation));
        if record.outcome != Outcome::Done {
            return;
        }
        if record.state.is_some() {
            *self.changes.entry(record.action.as_str()).or_default() += 1;
        }
        let key = record.resource.as_deref().unwrap_or_default().split('@').next().unwrap_or_default();
        for used in &record.versions {
            let named = Named { key: key.to_owned(), version: used.version, uses: 0 };
            let named = self.versions.entry(used.kid).or_insert(named);
            if record.state.is_none() {
                named.uses += used.count;
            }
        }
        for detail in record.detail.iter().filter(|detail| detail.name == "state") {
            let Some((version, state)) = stated(&detail.value) else { continue };
            for used in record.versions.iter().filter(|used| used.version == version) {
                self.states.insert(used.kid, state);
            }
        }
        let resource = record.resource.as_deref().unwrap_or_default();
        match record.action {
            Action::TokenRevoke => self.tokens.extend(resource.parse::<TokenId>().ok()),
            Action::RootExposed => self.root_exposed = true,
            Action::RootRemove => {
                let mut slot = [0; 16];
                if hex::decode_to_slice(resource, &mut slot).is_ok() {
                    self.slots.push(slot);
                }
            }
            Action::SystemUpdate if resource == SettingName::LocalOperator.as_str() => {
                let off = |detail: &&keyrail_core::record::Detail| detail.name == "value";
                self.local_operator_off = record.detail.iter().find(off).is_some_and(|detail| detail.value == "off");
            }
            _ => {}
        }
    }
}

/// The version and the state of `acme/prod/crm/pii@2 is suspended`.
fn stated(text: &str) -> Option<(VersionNumber, VersionState)> {
    let (name, state) = text.rsplit_once(" is ")?;
    let name: KeyVersionName = name.parse().ok()?;
    Some((name.version, state.parse().ok()?))
}
