//! Anchors: places outside the store that remember the head of the log, so that a rollback of everything is seen.
//!
//! They are named by whoever starts the process, and never by what lies in the data directory: who can put back an older
//! directory would put back an older list of anchors with it.

mod keeper;
mod spec;
mod witness;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use keyrail_audit::{
    AnchorFile, Anchored, Checkpoint, Head, HeadWatch, KnownElsewhere, LogError, NoteReader, VerifierKey,
};
use keyrail_core::time::{Clock, Timestamp};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::parallel::blocking;
use crate::ports::WitnessPort;
pub(crate) use keeper::Keepers;
pub use spec::{AnchorSpec, AnchorSpecError};
use witness::Witness;

/// How long an anchor may take to answer, in seconds: at the start, and at the end.
pub const ANCHOR_WAIT_SECONDS_MAX: u64 = 10;

/// How often the newest head is put into an anchor file, in milliseconds.
pub const ANCHOR_FILE_INTERVAL_MILLIS: u64 = 1_000;

/// How often a witness is asked to sign the newest head, in milliseconds.
pub const ANCHOR_WITNESS_INTERVAL_MILLIS: u64 = 5_000;

/// After how long behind the log an anchor counts as failing, in seconds.
pub const ANCHOR_LAG_SECONDS_MAX: u64 = 30;

/// How long the next attempt waits after so many that failed, in seconds at most.
const ANCHOR_BACKOFF_SECONDS_MAX: u64 = 60;

/// How often an anchor file is looked at when the log stands still, in seconds.
const ANCHOR_LOOK_SECONDS: u64 = 10;

/// Makes the way to a witness at a URL.
pub type DialWitness = Arc<dyn Fn(&str) -> Result<Box<dyn WitnessPort>, String> + Send + Sync>;

/// The anchors of a process.
#[derive(Clone, Default)]
pub struct Anchors {
    /// Where they are.
    pub specs: Vec<AnchorSpec>,
    /// Whether a store is not opened, and not ready, while one of them cannot be used.
    pub required: bool,
    /// How witnesses are reached; without it they cannot be.
    pub dial: Option<DialWitness>,
}

/// An anchor, for whoever asks how it is.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct AnchorView {
    /// `file` or `witness`.
    pub kind: String,
    /// Where it is.
    pub place: String,
    /// How many records it remembers; absent if that is not known.
    pub size: Option<u64>,
    /// How many records the log has beyond these.
    pub behind: Option<u64>,
    /// When it was last told.
    pub remembered_at: Option<Timestamp>,
    /// What is wrong with it, if something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The anchors of an opened store.
pub(crate) struct AnchorSet {
    anchors: Vec<Arc<Anchor>>,
    required: bool,
}

/// One anchor, and how it is.
pub(crate) struct Anchor {
    spec: AnchorSpec,
    place: Place,
    state: Mutex<AnchorState>,
    clock: Arc<dyn Clock>,
}

enum Place {
    File(AnchorFile),
    Witness(Witness),
}

#[derive(Default)]
struct AnchorState {
    size: Option<u64>,
    remembered_at: Option<Timestamp>,
    problem: Option<String>,
    behind_since: Option<Instant>,
}

/// What of a log an anchor is told of.
#[derive(Clone)]
pub(crate) struct LogSite {
    pub(crate) audit_dir: PathBuf,
    pub(crate) cosigned_dir: PathBuf,
    pub(crate) key: VerifierKey,
    /// What reads the signed head of a log that is in no files.
    pub(crate) rows: Option<NoteReader>,
}

impl LogSite {
    /// The newest signed head: the note, and what it says.
    fn checkpoint(&self) -> Result<(String, Checkpoint), String> {
        let note = match &self.rows {
            Some(rows) => rows.read().map_err(|error| told(&error)),
            None => std::fs::read_to_string(self.audit_dir.join("checkpoint")).map_err(|error| error.to_string()),
        };
        let note = note.map_err(|error| format!("the log's checkpoint: {error}"))?;
        let head = Checkpoint::verify(&note, &self.key).map_err(|error| format!("the log's checkpoint: {error}"))?;
        Ok((note, head))
    }
}

/// Why an anchor was not told.
#[derive(Debug)]
enum Untold {
    /// It remembers more records than the log has.
    Ahead { found: u64, remembered: u64 },
    /// It remembers other records.
    Fork { size: u64 },
    /// It cannot be used now.
    Failed(String),
}

impl AnchorSet {
    pub(crate) fn new(anchors: &Anchors, site: &LogSite, clock: &Arc<dyn Clock>) -> Self {
        let anchor = |spec: &AnchorSpec| {
            let place = match spec {
                AnchorSpec::File(path) => Place::File(AnchorFile::new(path.clone())),
                AnchorSpec::Witness { url, key } => Place::Witness(Witness::new(url, key, anchors.dial.clone(), site)),
            };
            Arc::new(Anchor { spec: spec.clone(), place, state: Mutex::default(), clock: clock.clone() })
        };
        let set = anchors.specs.iter().map(anchor).collect();
        Self { anchors: set, required: anchors.required }
    }

    /// What the anchor files remember. One that cannot be read is noted, or refused where anchors are required; one that
    /// remembers another log is refused.
    pub(crate) fn known(&self, site: &LogSite) -> Result<Vec<KnownElsewhere>, EngineError> {
        let mut known = Vec::new();
        for anchor in &self.anchors {
            let Place::File(file) = &anchor.place else { continue };
            match blocking(|| read_in_time(file, &site.key)) {
                Ok(Some(Anchored { checkpoint, written })) => {
                    let since = written.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
                    let at =
                        since.map(|since| Timestamp::from_millis(since.as_millis().try_into().unwrap_or(i64::MAX)));
                    anchor.state.lock().size = Some(checkpoint.size);
                    anchor.state.lock().remembered_at = at;
                    let head = Head { size: checkpoint.size, root: checkpoint.root };
                    known.push(KnownElsewhere { head, place: anchor.spec.place() });
                }
                Ok(None) => self.unusable(anchor, ABSENT.to_owned())?,
                Err(LogError::Checkpoint(error)) => {
                    let (place, problem) = (anchor.spec.place(), error.to_string());
                    return Err(EngineError::AnchorOther { place, problem });
                }
                Err(error) => self.unusable(anchor, told(&error))?,
            }
        }
        Ok(known)
    }

    /// Shows the log to the witnesses, which sign it if it goes on from what they know.
    pub(crate) fn confirm(&self, site: &LogSite) -> Result<(), EngineError> {
        for anchor in self.anchors.iter().filter(|anchor| matches!(anchor.place, Place::Witness(_))) {
            let place = anchor.spec.place();
            if site.rows.is_some() {
                self.unusable(anchor, "a witness is shown files of the log, and this log is in a database".to_owned())?;
                continue;
            }
            match blocking(|| anchor.tell(site)) {
                Ok(()) => {}
                Err(Untold::Ahead { found, remembered }) => {
                    return Err(EngineError::AnchorAhead { found, remembered, place });
                }
                Err(Untold::Fork { size }) => return Err(EngineError::AnchorFork { size, place }),
                Err(Untold::Failed(problem)) => self.unusable(anchor, problem)?,
            }
        }
        Ok(())
    }

    /// Begins to tell the anchors of each new head.
    pub(crate) fn keep(&self, site: &LogSite, watch: &HeadWatch) -> Keepers {
        Keepers::start(&self.anchors, site, watch)
    }

    fn unusable(&self, anchor: &Anchor, problem: String) -> Result<(), EngineError> {
        if self.required {
            return Err(EngineError::AnchorUnavailable { place: anchor.spec.place(), problem });
        }
        anchor.note(Some(problem));
        Ok(())
    }

    /// Compares what the anchors remember with the size of a log that is only read.
    pub(crate) fn look(&self, site: &LogSite, size: u64) {
        for anchor in &self.anchors {
            let problem = match &anchor.place {
                Place::Witness(witness) => {
                    anchor.state.lock().size = witness.remembered();
                    None
                }
                Place::File(file) => match blocking(|| read_in_time(file, &site.key)) {
                    Ok(Some(found)) => anchor.take_in(&found, size).err(),
                    Ok(None) => Some(ABSENT.to_owned()),
                    Err(error) => Some(told(&error)),
                },
            };
            // Whoever looks is shown it, and needs no warning beside.
            anchor.state.lock().problem = problem;
        }
    }

    /// How each of them is, beside a log of so many published records.
    pub(crate) fn views(&self, size: u64) -> Vec<AnchorView> {
        self.anchors.iter().map(|anchor| anchor.view(size)).collect()
    }

    /// What is wrong with one of them.
    pub(crate) fn problem(&self, size: u64) -> Option<String> {
        let failing = self.views(size).into_iter().find_map(|view| Some((view.place, view.problem?)));
        failing.map(|(place, problem)| format!("the anchor at {place}: {problem}"))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    pub(crate) fn required(&self) -> bool {
        self.required
    }

    /// By how many seconds the one that is furthest behind lags.
    pub(crate) fn lag_seconds(&self) -> u64 {
        let lags = self.anchors.iter().filter_map(|anchor| anchor.state.lock().behind_since);
        lags.map(|since| since.elapsed().as_secs()).max().unwrap_or(0)
    }
}

impl Anchor {
    /// Puts the newest head where the anchor is, after a look at what it remembers.
    fn tell(&self, site: &LogSite) -> Result<(), Untold> {
        let (note, head) = site.checkpoint().map_err(Untold::Failed)?;
        let at = match &self.place {
            Place::File(file) => self.tell_file(file, site, &note, &head).map(|()| self.clock.now()),
            Place::Witness(witness) => witness.tell(site, &note, &head),
        }?;
        let mut state = self.state.lock();
        (state.size, state.remembered_at, state.behind_since) = (Some(head.size), Some(at), None);
        drop(state);
        self.note(None);
        Ok(())
    }

    fn tell_file(&self, file: &AnchorFile, site: &LogSite, note: &str, head: &Checkpoint) -> Result<(), Untold> {
        let failed = |error: LogError| Untold::Failed(told(&error));
        let found = file.read(&site.key).map_err(failed)?;
        let known = found.ok_or_else(|| Untold::Failed(ABSENT.to_owned()))?.checkpoint;
        if known.size > head.size {
            return Err(Untold::Ahead { found: head.size, remembered: known.size });
        }
        if known.size == head.size && known.root != head.root {
            return Err(Untold::Fork { size: head.size });
        }
        if known == *head { Ok(()) } else { file.update(note).map_err(failed) }
    }

    fn take_in(&self, found: &Anchored, size: u64) -> Result<(), String> {
        let remembered = found.checkpoint.size;
        let since = found.written.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let at = since.map(|since| Timestamp::from_millis(since.as_millis().try_into().unwrap_or(i64::MAX)));
        let mut state = self.state.lock();
        (state.size, state.remembered_at) = (Some(remembered), at);
        if remembered > size { Err(Untold::Ahead { found: size, remembered }.to_string()) } else { Ok(()) }
    }

    /// Notes what is wrong, and says so once when it changes.
    fn note(&self, problem: Option<String>) {
        let former = std::mem::replace(&mut self.state.lock().problem, problem.clone());
        let place = self.spec.place();
        match problem {
            Some(problem) if former.as_ref() != Some(&problem) => {
                tracing::warn!(anchor = %place, %problem, "the anchor at {place} does not remember the newest head: {problem}");
            }
            None if former.is_some() => {
                tracing::warn!(anchor = %place, "the anchor at {place} remembers the newest head again");
            }
            _ => {}
        }
    }

    /// Notes whether the log has records that the anchor does not know.
    fn note_lag(&self, size: u64) {
        let mut state = self.state.lock();
        let behind = state.size.is_none_or(|known| known < size);
        state.behind_since = if behind { state.behind_since.or_else(|| Some(Instant::now())) } else { None };
    }

    fn view(&self, size: u64) -> AnchorView {
        let state = self.state.lock();
        let lag = state.behind_since.map(|since| since.elapsed().as_secs());
        let late = lag.filter(|lag| *lag > ANCHOR_LAG_SECONDS_MAX).map(|lag| format!("behind for {lag} seconds"));
        AnchorView {
            kind: self.spec.kind().to_owned(),
            place: self.spec.place(),
            size: state.size,
            behind: state.size.map(|known| size.saturating_sub(known)),
            remembered_at: state.remembered_at,
            problem: state.problem.clone().or(late),
        }
    }
}

impl std::fmt::Display for Untold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ahead { found, remembered } => {
                write!(f, "the log has {found} records, and it remembers {remembered}: an older copy was put back")
            }
            Self::Fork { size } => write!(f, "it remembers another log of {size} records"),
            Self::Failed(problem) => f.write_str(problem),
        }
    }
}

/// Reads an anchor file; a volume that hangs does not hang the start.
fn read_in_time(file: &AnchorFile, key: &VerifierKey) -> Result<Option<Anchored>, LogError> {
    let (tell, told) = mpsc::channel();
    let (read, key) = (file.clone(), key.clone());
    let reader = std::thread::Builder::new().name("anchor-read".to_owned()).spawn(move || {
        // Whoever asked may be gone by then.
        let _late = tell.send(read.read(&key));
    });
    let failed =
        |kind: std::io::ErrorKind| LogError::File { action: "read", path: file.path().to_owned(), source: kind.into() };
    reader.map_err(|error| failed(error.kind()))?;
    let limit = Duration::from_secs(ANCHOR_WAIT_SECONDS_MAX);
    told.recv_timeout(limit).unwrap_or_else(|_| Err(failed(std::io::ErrorKind::TimedOut)))
}

/// An error with its cause, in one line.
fn told(error: &LogError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

/// Why a file that is not there is not made.
const ABSENT: &str =
    "it is not there: mount its volume, or make it with `keyrail anchor create` if there never was one";

#[cfg(test)]
mod tests;
