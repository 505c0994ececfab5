//! A C2SP witness: it signs a head only if that goes on from the one that it signed before.

use std::path::PathBuf;

use keyrail_audit::{Checkpoint, Cosignature, Tiles, WitnessKey, add_checkpoint, known_size};
use keyrail_core::time::Timestamp;
use parking_lot::Mutex;

use super::{DialWitness, LogSite, Untold};
use crate::ports::{WitnessPort, WitnessReply};

/// How often the size that a witness knows is learnt from its answer before it is given up.
const CONFLICTS_MAX: usize = 3;

pub(super) struct Witness {
    url: String,
    key: WitnessKey,
    dial: Option<DialWitness>,
    way: Mutex<Option<Box<dyn WitnessPort>>>,
    /// The newest checkpoint with the witness's signature.
    cosigned: PathBuf,
    known: Mutex<Option<u64>>,
}

impl Witness {
    pub(super) fn new(url: &str, key: &WitnessKey, dial: Option<DialWitness>, site: &LogSite) -> Self {
        let cosigned = site.cosigned_dir.join(hex::encode(key.id()));
        let (url, key) = (url.to_owned(), key.clone());
        let known = Mutex::new(Self::cosigned_size(&cosigned, &key, site));
        Self { url, key, dial, way: Mutex::default(), cosigned, known }
    }

    /// The size of the checkpoint in the file, if the witness signed it.
    fn cosigned_size(path: &std::path::Path, key: &WitnessKey, site: &LogSite) -> Option<u64> {
        let note = std::fs::read_to_string(path).ok()?;
        let head = Checkpoint::verify_cosigned(&note, &site.key).ok()?;
        key.find(&note, note.split_once("\n\n")?.1).ok()?;
        Some(head.size)
    }

    /// How many records it signed for, as far as the data directory shows.
    pub(super) fn remembered(&self) -> Option<u64> {
        *self.known.lock()
    }

    /// Shows it a head; gives when it signed.
    pub(super) fn tell(&self, site: &LogSite, note: &str, head: &Checkpoint) -> Result<Timestamp, Untold> {
        // What the data directory shows may be of another time than what the witness knows: then its answer counts.
        let mut old = self.remembered().filter(|known| *known <= head.size).unwrap_or(0);
        for _ in 0..CONFLICTS_MAX {
            let tiles = Tiles::new(&site.audit_dir, head.size);
            let proof = tiles.consistency(old).map_err(|error| Untold::Failed(super::told(&error)))?;
            let reply = self.send(add_checkpoint(old, &proof, note))?;
            match reply.status {
                200 => return self.take_in(note, head, &reply),
                409 => {
                    let known = known_size(&reply.body).ok_or_else(|| self.odd(&reply))?;
                    if known > head.size {
                        return Err(Untold::Ahead { found: head.size, remembered: known });
                    }
                    // The size was right, so the records are not.
                    if known == old {
                        return Err(Untold::Fork { size: known });
                    }
                    old = known;
                }
                422 => return Err(Untold::Fork { size: old }),
                404 => return Err(Untold::Failed(format!("it does not know this log: give it the key {}", site.key))),
                403 => return Err(Untold::Failed(format!("it trusts another key for this log than {}", site.key))),
                _ => return Err(self.odd(&reply)),
            }
        }
        Err(Untold::Failed("the size that it knows keeps changing: is the log kept twice?".to_owned()))
    }

    fn take_in(&self, note: &str, head: &Checkpoint, reply: &WitnessReply) -> Result<Timestamp, Untold> {
        let wrong = |error| Untold::Failed(format!("its answer is no signature of {}: {error}", self.key.name()));
        let Cosignature { seconds, line } = self.key.find(note, &reply.body).map_err(wrong)?;
        *self.known.lock() = Some(head.size);
        let written = keyrail_audit::write_whole(&self.cosigned, format!("{note}{line}").as_bytes());
        written.map_err(|error| Untold::Failed(super::told(&error)))?;
        Ok(Timestamp::from_millis(i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX)))
    }

    fn send(&self, body: String) -> Result<WitnessReply, Untold> {
        let mut way = self.way.lock();
        let port = match &mut *way {
            Some(port) => port,
            none => {
                let dial =
                    self.dial.as_ref().ok_or_else(|| Untold::Failed("no way leads there from here".to_owned()))?;
                none.insert(dial(&self.url).map_err(Untold::Failed)?)
            }
        };
        port.post("/add-checkpoint", body).map_err(Untold::Failed)
    }

    fn odd(&self, reply: &WitnessReply) -> Untold {
        Untold::Failed(format!("it answers {} to a checkpoint", reply.status))
    }
}
