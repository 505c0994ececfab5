//! The journal after a crash or a stranger's hand: what was not finished is cut off, what was altered is named.

use std::path::Path;

use keyrail_audit::LogError;
use keyrail_core::fence::Epoch;

use crate::support::{TestLog, append, body};

/// A log that was killed with three frames of records behind the edge; gives where each frame begins, and the end.
fn killed() -> (TestLog, Vec<usize>) {
    let test = TestLog::create();
    let (log, _) = test.open();
    for index in 0..3 {
        log.append_blocking(body(index), Epoch(0)).unwrap();
    }
    let killed = test.copied();
    drop(log);
    // The first frames are the edge, and the mark that a log just made is clean.
    let places = killed.frames().split_off(2);
    assert_eq!(places.len(), 4);
    (killed, places)
}

fn journal(log: &TestLog) -> std::path::PathBuf {
    log.journal_files().remove(0)
}

fn opens_with(log: &TestLog, records: u64, torn_len: u64, what: &str) {
    let (log_open, recovered) = log.open_with(log.options()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!((log_open.size(), recovered.torn_len), (records, torn_len), "{what}");
    // It goes on where it ended.
    append(&log_open, 2);
    let crashed = log.copied();
    log_open.close().unwrap();
    assert_eq!(log.verify().unwrap().records, records + 2, "{what}");
    assert_eq!(crashed.open().0.size(), records + 2, "{what}");
}

#[test]
fn a_last_frame_that_was_not_finished_is_cut_off_wherever_it_ends() {
    let (killed, places) = killed();
    let (last, end) = (places[2], places[3]);
    opens_with(&killed.copied(), 3, 0, "whole");
    let whole = std::fs::read(journal(&killed)).unwrap();
    assert!(whole.len() > end && whole[end..].iter().all(|byte| *byte == 0), "room was made ahead");
    // Zeros are not told from room that was made.
    let torn_len = |until: usize| {
        let torn = &whole[last..until];
        torn.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
    };
    for cut in last..end {
        let torn = killed.copied();
        std::fs::File::options().write(true).open(journal(&torn)).unwrap().set_len(cut as u64).unwrap();
        opens_with(&torn, 2, torn_len(cut), &format!("cut at {cut}"));
        // The file system had made room, and the bytes had not arrived.
        let holed = killed.copied();
        let file = std::fs::File::options().write(true).open(journal(&holed)).unwrap();
        file.set_len(cut as u64).and_then(|()| file.set_len(whole.len() as u64)).unwrap();
        opens_with(&holed, 2, torn_len(cut), &format!("zeros from {cut}"));
    }
}

/// A power cut keeps some sectors of the frame that was being written, and none before it.
#[test]
fn a_last_frame_of_which_some_sectors_were_kept_is_cut_off() {
    let test = TestLog::create();
    let (log, _) = test.open();
    append(&log, 2);
    log.append_blocking(vec![b'x'; 6_000], Epoch(0)).unwrap();
    let killed = test.copied();
    drop(log);
    let whole = std::fs::read(journal(&killed)).unwrap();
    let frames = killed.frames();
    let (last, end) = (frames[frames.len() - 2], frames[frames.len() - 1]);
    let sectors: Vec<_> = (last / 512..end.div_ceil(512)).map(|sector| sector * 512).collect();
    assert!(sectors.len() > 10);
    for kept in 0..1_u32 << sectors.len().min(6) {
        let torn = killed.copied();
        let mut content = whole.clone();
        // The first sectors and the last one: the others are all alike.
        let lost = sectors.iter().enumerate().filter(|(index, _)| kept >> index.min(&5) & 1 == 0);
        lost.for_each(|(_, sector)| content[(*sector).max(last)..(sector + 512).min(whole.len())].fill(0));
        std::fs::write(journal(&torn), &content).unwrap();
        let records = if content == whole { 3 } else { 2 };
        let (log, recovered) = torn.open_with(torn.options()).unwrap_or_else(|error| panic!("{kept:b}: {error}"));
        assert_eq!((log.size(), recovered.torn_len > 0), (records, records == 2 && kept != 0), "{kept:b}");
        append(&log, 5);
        log.close().unwrap();
        assert_eq!(torn.verify().unwrap().records, records + 5, "{kept:b}");
        assert_eq!(torn.open().0.size(), records + 5, "{kept:b}");
    }
}

#[test]
fn an_altered_frame_before_the_last_is_refused_and_named() {
    let (killed, places) = killed();
    let whole = std::fs::read(journal(&killed)).unwrap();
    let refused = |place: usize, content: &[u8]| {
        std::fs::write(journal(&killed), content).unwrap();
        match killed.open_with(killed.options()) {
            Err(LogError::JournalAltered { path, offset }) => {
                assert_eq!(path, journal(&killed));
                let offset = usize::try_from(offset).unwrap();
                assert!(offset <= place, "byte {place} is before {offset}");
                let next = places.iter().find(|begin| **begin > offset).unwrap();
                assert!(place < *next, "byte {place} is behind the frame at {offset}");
            }
            Err(error) => panic!("byte {place}: {error}"),
            Ok(_) => panic!("byte {place} does not count"),
        }
    };
    for place in 0..places[2] {
        let mut content = whole.clone();
        content[place] ^= 0x55;
        refused(place, &content);
    }
    // The head of the last frame has a guard of its own: its length cannot be made to look torn.
    for place in places[2]..places[2] + 13 {
        let mut content = whole.clone();
        content[place] ^= 0x55;
        refused(place, &content);
    }
    // A frame left out, a frame twice, two frames exchanged.
    let frame = |index: usize| &whole[places[index]..places[index + 1]];
    let start = &whole[..places[0]];
    refused(places[0], &[start, frame(1), frame(2)].concat());
    refused(places[1], &[start, frame(0), frame(0), frame(1)].concat());
    refused(places[0], &[start, frame(1), frame(0), frame(2)].concat());
    std::fs::write(journal(&killed), &whole).unwrap();
    opens_with(&killed, 3, 0, "whole again");
}

#[test]
fn a_journal_of_another_log_or_number_is_refused() {
    let (killed, _) = killed();
    let (other, _) = self::killed();
    std::fs::copy(journal(&other), journal(&killed)).unwrap();
    assert!(matches!(killed.open_with(killed.options()), Err(LogError::JournalAltered { .. })));
    let (renamed, _) = self::killed();
    std::fs::rename(journal(&renamed), renamed.journal().join("journal-00000000000000000002")).unwrap();
    assert!(matches!(renamed.open_with(renamed.options()), Err(LogError::JournalAltered { .. })));
    std::fs::remove_file(journal(&renamed)).unwrap();
    assert!(matches!(renamed.open_with(renamed.options()), Err(LogError::NoJournal { .. })));
}

/// The journal and everything else that is no evidence lies outside the evidence.
#[test]
fn nothing_but_evidence_lies_in_the_audit_directory() {
    let test = TestLog::create();
    let (log, _) = test.open();
    append(&log, 600);
    let mut found = Vec::new();
    let mut dirs = vec![test.audit()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    // Everything lies in the journal still; the checkpoint is that of the empty log.
    assert_eq!(found, [test.audit().join(Path::new("checkpoint"))]);
    log.close().unwrap();
    assert_eq!(test.verify().unwrap().records, 600);
}
