//! Making and opening a log that several nodes keep in one database.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel, sync_channel};
use std::time::Duration;

use keyrail_core::id::NodeId;
use keyrail_crypto::mac::MacKey;
use keyrail_crypto::random;
use parking_lot::Mutex;

use super::{Evidence, Handle, Head, Keys, KnownElsewhere, Limits, Log, Shared, verifier_key};
use crate::committer::{Committer, PATIENCE};
use crate::database::{LogStore, StoredHead, Turn};
use crate::error::LogError;
use crate::files::failed;
use crate::note::{Checkpoint, VerifierKey};
use crate::steward::{Answer, Ask, Steward};

/// A log in a database, and how it behaves.
#[derive(Clone, Debug)]
pub struct RowsOptions {
    /// The log's name; stands in every checkpoint.
    pub origin: String,
    /// What may wait, and how long.
    pub limits: Limits,
    /// How long records wait for a database that does not take them, before they and whoever comes are refused.
    pub patience: Duration,
    /// The head that the store remembers: a log that is older or another one is not opened.
    pub remembered: Option<Head>,
    /// What anchors remember: a log that does not come through these heads is not opened.
    pub anchored: Vec<KnownElsewhere>,
}

impl RowsOptions {
    /// The usual limits.
    pub fn new(origin: String) -> Self {
        Self { origin, limits: Limits::default(), patience: PATIENCE, remembered: None, anchored: Vec::new() }
    }
}

impl Log {
    /// Makes an empty log in a database.
    ///
    /// # Errors
    /// [`LogError::Database`], also if there is one already.
    pub fn create_rows(origin: &str, keys: &Keys, store: &mut dyn LogStore) -> Result<VerifierKey, LogError> {
        let key = verifier_key(origin, &keys.seed)?;
        let head = StoredHead::empty(&keys.journal);
        let checkpoint = Checkpoint { origin: origin.to_owned(), size: 0, root: head.peaks.root() };
        let note = checkpoint.sign(&keys.seed, &key)?;
        store.create(&head, &note).map_err(LogError::database("make"))?;
        Ok(key)
    }

    /// Opens a log in a database, which other nodes may have open, too: one connection to it writes, the other one reads
    /// and publishes.
    ///
    /// # Errors
    /// [`LogError::HeadAltered`], [`LogError::RecordsAltered`]; [`LogError::Mismatch`] when the signed head is not the
    /// log's; [`LogError::Older`] and [`LogError::Fork`] against what is remembered; [`LogError::Database`].
    pub fn open_rows(
        options: &RowsOptions,
        keys: Keys,
        writer: Box<dyn LogStore>,
        reader: Box<dyn LogStore>,
    ) -> Result<Self, LogError> {
        let (log, head, mac) = Self::look_at(options, keys, reader, true)?;
        let node = NodeId::from_bytes(random::array()?);
        let Evidence::Rows(asks, _) = &log.0.evidence else { return Err(LogError::Closed) };
        let committer = Committer {
            shared: log.0.shared.clone(),
            store: writer,
            mac,
            node,
            number: 0,
            head: Some(head),
            steward: asks.clone(),
            patience: options.patience,
        };
        *log.0.thread.lock() = Some(start("audit-log", move || committer.run())?);
        Ok(log)
    }

    /// Opens a log in a database to look at it: nothing is written, and nothing published.
    ///
    /// # Errors
    /// As [`Log::open_rows`].
    pub fn watch_rows(options: &RowsOptions, keys: Keys, reader: Box<dyn LogStore>) -> Result<Self, LogError> {
        let (log, ..) = Self::look_at(options, keys, reader, false)?;
        log.0.shared.refuse();
        Ok(log)
    }

    fn look_at(
        options: &RowsOptions,
        keys: Keys,
        mut reader: Box<dyn LogStore>,
        writes: bool,
    ) -> Result<(Self, StoredHead, Arc<MacKey>), LogError> {
        let key = verifier_key(&options.origin, &keys.seed)?;
        let mac = Arc::new(keys.journal);
        let (asks, asked) = channel();
        let (tell, opened) = sync_channel(1);
        let (seed, limits) = (keys.seed, options.limits);
        let (remembered, anchored) = (options.remembered, options.anchored.clone());
        let (its_mac, its_key) = (mac.clone(), key.clone());
        // The database is asked on the threads that use it later: who opens a log may be in an async runtime.
        let work = move || {
            let checked = checked_head(reader.as_mut(), &its_mac, &its_key, remembered).and_then(|(signed, head)| {
                require_anchored(reader.as_mut(), &its_mac, &head, &anchored)?;
                Ok((signed, head))
            });
            let (signed, head) = match checked {
                Ok(heads) => heads,
                Err(error) => return drop(tell.send(Err(error))),
            };
            let shared = Arc::new(Shared::new(limits, signed));
            shared.grown_to(head.peaks.size());
            shared.raise_epoch(head.epoch);
            if tell.send(Ok((shared.clone(), head))).is_ok() {
                let publish_interval = limits.publish_interval;
                let (store, mac, key) = (reader, its_mac, its_key);
                let steward = Steward { shared, store, mac, seed, key, publish_interval, writes, note: None };
                steward.run(&asked);
            }
        };
        start("audit-publish", work)?;
        let (shared, head) = opened.recv().map_err(|_| LogError::Closed)??;
        if writes && shared.unpublished_len() > 0 {
            // Who wrote it last ended before he published it.
            asks.send(Ask::Due).map_err(|_| LogError::Closed)?;
        }
        let evidence = Evidence::Rows(asks, mac.clone());
        let log = Self(Arc::new(Handle { shared, key, thread: Mutex::default(), evidence }));
        Ok((log, head, mac))
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>, LogError> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map_err(failed("start a thread for", name.as_ref()))
}

/// The signed head, and the head, which must come through the signed one and the one that is remembered.
fn checked_head(
    store: &mut dyn LogStore,
    mac: &MacKey,
    key: &VerifierKey,
    remembered: Option<Head>,
) -> Result<(Head, StoredHead), LogError> {
    // The head last: others append meanwhile.
    let note = store.checkpoint().map_err(LogError::database("read"))?;
    let signed = Checkpoint::verify(&note, key).map_err(LogError::Checkpoint)?;
    let head = store.head(Turn::Look).map_err(LogError::database("read"))?.checked(mac)?;
    let found = head.peaks.size();
    if signed.size > found {
        return Err(LogError::Mismatch);
    }
    if let Some(remembered) = remembered.filter(|remembered| remembered.size > found) {
        return Err(LogError::Older { found, remembered: remembered.size });
    }
    if root_at(store, signed.size, mac)? != Some(signed.root) {
        return Err(LogError::Mismatch);
    }
    match remembered {
        Some(Head { size, root }) if root_at(store, size, mac)? != Some(root) => Err(LogError::Fork { size }),
        _ => Ok((Head { size: signed.size, root: signed.root }, head)),
    }
}

/// The log must come through what anchors remember.
fn require_anchored(
    store: &mut dyn LogStore,
    mac: &MacKey,
    head: &StoredHead,
    anchored: &[KnownElsewhere],
) -> Result<(), LogError> {
    for KnownElsewhere { head: known, place } in anchored {
        let (found, place) = (head.peaks.size(), || place.clone());
        if known.size > found {
            return Err(LogError::BehindAnchor { found, remembered: known.size, place: place() });
        }
        if root_at(store, known.size, mac)? != Some(known.root) {
            return Err(LogError::AnchorFork { size: known.size, place: place() });
        }
    }
    Ok(())
}

/// The root at a size at which a batch ends, as every size does that was ever a head.
fn root_at(store: &mut dyn LogStore, size: u64, mac: &MacKey) -> Result<Option<crate::tree::Hash>, LogError> {
    let Some(last) = size.checked_sub(1) else { return Ok(Some(crate::peaks::Peaks::default().root())) };
    let batch = store.read(last, 1).map_err(LogError::database("read"))?.into_iter().next();
    let batch = batch.filter(|batch| (batch.first..batch.end()).contains(&last));
    let batch = batch.ok_or(LogError::RecordsMissing { first: last })?;
    batch.checked(mac)?;
    Ok((batch.end() == size).then_some(batch.root))
}

/// Asks the steward and waits for its answer, no longer than `limit`.
pub(super) fn ask<T>(
    asks: &std::sync::mpsc::Sender<Ask>,
    limit: Duration,
    ask: impl FnOnce(Answer<T>) -> Ask,
) -> Result<T, LogError> {
    let (answer, answered): (Answer<T>, Receiver<_>) = sync_channel(1);
    asks.send(ask(answer)).map_err(|_| LogError::Closed)?;
    answered.recv_timeout(limit).map_err(|error| match error {
        RecvTimeoutError::Timeout => LogError::NoAnswer { seconds: limit.as_secs() },
        RecvTimeoutError::Disconnected => LogError::Closed,
    })?
}
