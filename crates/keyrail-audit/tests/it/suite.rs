//! What a log in a database must do, whichever database it is: the same tests for all of them.

use std::sync::Arc;

use keyrail_audit::{
    AppendError, Checkpoint, Log, LogError, LogStore, Record, Remembered, Report, RowsOptions, VerifierKey, verify_rows,
};
use keyrail_core::fence::Epoch;

use crate::support::KeptKeys;

pub(crate) const ORIGIN: &str = "keyrail.test/rows";

/// A database with room for one log.
pub(crate) trait Database: Send + Sync {
    /// Another connection.
    fn store(&self) -> Box<dyn LogStore>;

    /// Does what a change of state does: raises the shared epoch from this one.
    fn raise_epoch(&self, from: Epoch);
}

/// A log in a database, and its keys.
pub(crate) struct Rows<D> {
    pub(crate) database: D,
    pub(crate) kept: KeptKeys,
}

impl<D: Database> Rows<D> {
    pub(crate) fn create(database: D) -> Self {
        let kept = KeptKeys::generate();
        Log::create_rows(ORIGIN, &kept.keys(), database.store().as_mut()).unwrap();
        Self { database, kept }
    }

    pub(crate) fn options() -> RowsOptions {
        let mut options = RowsOptions::new(ORIGIN.to_owned());
        options.limits.publish_interval = std::time::Duration::from_millis(20);
        options
    }

    /// Another node.
    pub(crate) fn node(&self) -> Log {
        self.node_with(&Self::options()).unwrap()
    }

    pub(crate) fn node_with(&self, options: &RowsOptions) -> Result<Log, LogError> {
        Log::open_rows(options, self.kept.keys(), self.database.store(), self.database.store())
    }

    /// What verification of every row says, against heads that are remembered.
    pub(crate) fn verify(&self, remembered: &[Remembered]) -> Result<Report, LogError> {
        let keys = self.kept.keys();
        let key = VerifierKey::new(ORIGIN, keys.seed.public_key().unwrap()).unwrap();
        verify_rows(self.database.store().as_mut(), &keys.journal, &key, remembered)
    }

    /// Every record, as a node reads them that has just come.
    pub(crate) fn records(&self) -> Vec<Record> {
        all(&self.node())
    }
}

/// Every record that a node knows of.
pub(crate) fn all(log: &Log) -> Vec<Record> {
    let mut records = Vec::new();
    while (records.len() as u64) < log.size() {
        let more = log.read(records.len() as u64, 1_000).unwrap();
        assert!(!more.is_empty() && more.len() <= 1_000);
        records.extend(more);
    }
    records
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Appends `count` records from each of `nodes`, `width` at a time; gives what each was answered.
pub(crate) fn crowd(
    nodes: &[Log],
    width: usize,
    count: usize,
    epoch: Epoch,
) -> Vec<(Vec<u8>, Result<u64, AppendError>)> {
    runtime().block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for (name, node) in nodes.iter().enumerate() {
            for task in 0..width {
                let node = node.clone();
                running.spawn(async move {
                    let mut answered = Vec::new();
                    for number in (0..count).filter(|number| number % width == task) {
                        let body = format!("{name}/{number}").into_bytes();
                        let answer = node.append(body.clone(), epoch).await;
                        answered.push((body, answer.map(|position| position.index)));
                    }
                    answered
                });
            }
        }
        running.join_all().await.into_iter().flatten().collect()
    })
}

/// Everything acknowledged stands once, at its place, and nothing else does but what may.
pub(crate) fn require_once(records: &[Record], answered: &[(Vec<u8>, Result<u64, AppendError>)]) {
    let mut found = std::collections::BTreeMap::new();
    for (index, record) in records.iter().enumerate() {
        assert_eq!(found.insert(record.body.clone(), index as u64), None, "a record stands twice");
    }
    for (body, answer) in answered {
        let place = found.remove(body);
        let text = String::from_utf8_lossy(body);
        match answer {
            Ok(index) => assert_eq!(place, Some(*index), "{text} is not at its place"),
            Err(AppendError::Indeterminate) => {}
            Err(error) => assert_eq!(place, None, "{text} was refused ({error}) and is there"),
        }
    }
    assert_eq!(found.len(), 0, "records that nobody appended");
}

pub(crate) fn two_nodes_make_one_dense_sequence<D: Database>(database: D, count: usize) {
    let rows = Rows::create(database);
    let nodes = [rows.node(), rows.node()];
    let answered = crowd(&nodes, 50, count, Epoch(0));
    assert!(answered.iter().all(|(_, answer)| answer.is_ok()));
    for node in &nodes {
        // What the other node wrote last is seen at the latest when everything is published.
        let head = runtime().block_on(node.publish()).unwrap();
        assert_eq!((head.size, node.size(), node.published()), (2 * count as u64, head.size, head));
        require_once(&all(node), &answered);
        let note = node.checkpoint().unwrap();
        let signed = Checkpoint::verify(&note, node.verifier_key()).unwrap();
        assert_eq!((signed.size, signed.root), (head.size, head.root));
        assert_eq!(node.health().failure, None);
    }
    let heads: Vec<_> = nodes.iter().map(|node| node.close().unwrap()).collect();
    assert_eq!(heads[0], heads[1]);
    // Who remembers that head opens the log, and who remembers another one does not.
    let remembering = |size, root| {
        let remembered = Some(keyrail_audit::Head { size, root });
        rows.node_with(&RowsOptions { remembered, ..Rows::<D>::options() }).map(|log| log.size())
    };
    assert_eq!(remembering(heads[0].size, heads[0].root).unwrap(), heads[0].size);
    assert!(matches!(remembering(heads[0].size, [7; 32]), Err(LogError::Fork { .. })));
    assert!(matches!(remembering(heads[0].size + 1, [7; 32]), Err(LogError::Older { .. })));
    require_once(&rows.records(), &answered);
    let report = rows.verify(&[Remembered { size: heads[0].size, root: heads[0].root }]).unwrap();
    assert_eq!((report.records, report.root), (heads[0].size, heads[0].root));
    let verify = |size, root| rows.verify(&[Remembered { size, root }]);
    assert!(matches!(verify(heads[0].size, [7; 32]), Err(LogError::Fork { .. })));
    assert!(matches!(verify(heads[0].size + 1, [7; 32]), Err(LogError::Older { .. })));
    exported_files_are_the_logs(&rows, &heads[0]);
}

/// The same records as files: whoever verifies those needs no database.
fn exported_files_are_the_logs<D: Database>(rows: &Rows<D>, head: &keyrail_audit::Head) {
    let node = rows.node();
    let dir = tempfile::tempdir().unwrap();
    let (note, key) = (node.checkpoint().unwrap(), node.verifier_key().clone());
    let done = keyrail_audit::export(dir.path(), &note, &key, &mut |first, count| node.read(first, count)).unwrap();
    assert_eq!((done.size, done.added), (head.size, head.size));
    let report = keyrail_audit::verify(dir.path(), &key, &[]).unwrap();
    assert_eq!((report.records, report.root), (head.size, head.root));
}

/// After the epoch was raised no node appends what was decided before, and each learns of it.
pub(crate) fn no_node_appends_under_an_older_epoch<D: Database>(database: D) {
    let rows = Rows::create(database);
    let nodes = [rows.node(), rows.node()];
    assert!(crowd(&nodes, 4, 40, Epoch(0)).iter().all(|(_, answer)| answer.is_ok()));
    rows.database.raise_epoch(Epoch(0));
    for node in &nodes {
        assert_eq!(node.append_blocking(b"late".to_vec(), Epoch(0)), Err(AppendError::Fenced));
        assert_eq!(node.epoch(), Epoch(1));
        node.append_blocking(b"new".to_vec(), Epoch(1)).unwrap();
    }
    assert_eq!(rows.records().len(), 82);
    // An epoch that the database does not know is none: nothing is appended, and the health tells why.
    let mut options = Rows::<D>::options();
    options.patience = std::time::Duration::from_secs(1);
    let node = rows.node_with(&options).unwrap();
    assert_eq!(node.epoch(), Epoch(1));
    let failure = failure_during(&node, || {
        assert_eq!(node.append_blocking(b"early".to_vec(), Epoch(2)), Err(AppendError::Unavailable));
    });
    assert!(failure.is_some_and(|failure| failure.contains("epoch")));
    node.append_reserved_blocking_until_admitted(b"new".to_vec(), Epoch(1));
    assert_eq!(rows.records().len(), 83);
}

/// What the health told while something was done.
pub(crate) fn failure_during(log: &Log, work: impl FnOnce()) -> Option<String> {
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut failure = None;
            while failure.is_none() && !over.load(std::sync::atomic::Ordering::Relaxed) {
                failure = log.health().failure;
                std::thread::yield_now();
            }
            failure
        });
        work();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        watching.join().unwrap()
    })
}

/// Who was first told of a new epoch by the head that it held has nothing to append, and lets go of it: the others append
/// within their patience, and the epoch is raised again.
pub(crate) fn who_was_fenced_holds_up_nobody<D: Database>(database: D) {
    let rows = Rows::create(database);
    let nodes = [rows.node(), rows.node()];
    for node in &nodes {
        node.append_blocking(b"before".to_vec(), Epoch(0)).unwrap();
    }
    rows.database.raise_epoch(Epoch(0));
    assert_eq!(nodes[0].append_blocking(b"late".to_vec(), Epoch(0)), Err(AppendError::Fenced));
    nodes[1].append_blocking(b"new".to_vec(), Epoch(1)).unwrap();
    assert_eq!(nodes[0].append_blocking(b"late".to_vec(), Epoch(0)), Err(AppendError::Fenced));
    rows.database.raise_epoch(Epoch(1));
    nodes[1].append_blocking(b"newer".to_vec(), Epoch(2)).unwrap();
    assert_eq!(rows.records().len(), 4);
}

/// Appends until the log takes records again.
pub(crate) trait Admitted {
    fn append_reserved_blocking_until_admitted(&self, body: Vec<u8>, epoch: Epoch);
}

impl Admitted for Log {
    fn append_reserved_blocking_until_admitted(&self, body: Vec<u8>, epoch: Epoch) {
        let since = std::time::Instant::now();
        while self.append_blocking(body.clone(), epoch) == Err(AppendError::Unavailable) {
            assert!(since.elapsed().as_secs() < 60, "it is refused for ever: {:?}", self.health());
            std::thread::yield_now();
        }
    }
}

/// Changes of state beside appends: whatever stands after the raise was decided after it.
pub(crate) fn epochs_are_in_their_order<D: Database + 'static>(database: D, raises: u64) {
    let rows = Arc::new(Rows::create(database));
    let nodes = [rows.node(), rows.node()];
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|name| {
            let (node, stop) = (nodes[name % 2].clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let epoch = node.epoch();
                    match node.append_blocking(epoch.0.to_be_bytes().to_vec(), epoch) {
                        Ok(_) | Err(AppendError::Fenced) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    let mut sizes = Vec::new();
    for epoch in 0..raises {
        nodes[0].append_blocking(epoch.to_be_bytes().to_vec(), Epoch(epoch)).unwrap();
        rows.database.raise_epoch(Epoch(epoch));
        // From here on nothing of before comes.
        sizes.push(rows.node().size());
        while nodes[0].epoch() == Epoch(epoch) {
            let _fenced = nodes[0].append_blocking(epoch.to_be_bytes().to_vec(), Epoch(epoch)).unwrap_err();
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let epochs: Vec<u64> =
        rows.records().iter().map(|record| u64::from_be_bytes(record.body[..].try_into().unwrap())).collect();
    assert!(epochs.is_sorted(), "a record of an older epoch stands behind a newer one");
    for (epoch, size) in sizes.into_iter().enumerate() {
        let later = &epochs[usize::try_from(size).unwrap()..];
        assert!(later.iter().all(|found| *found > epoch as u64), "after the raise from {epoch}");
    }
}
