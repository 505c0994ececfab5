//! Exports: whole, brought up, broken off at every step, and into places that are something else's.

use rustix::io::Errno;

use super::*;
use crate::files::Step;
use crate::files::faults::{Fault, Faults, Plan};
use crate::support::{self, TestLog};
use crate::verify::verify;
use crate::{Log, LogOptions, Reader};

fn export_to(test: &TestLog, dir: &Path) -> Result<Exported, LogError> {
    let note = std::fs::read_to_string(test.audit().join(CHECKPOINT)).unwrap();
    let reader = Reader::open(&test.audit()).unwrap();
    export(dir, &note, &test.key, &mut |first, count| reader.read(first, count))
}

/// Every file below a directory, with its bytes.
fn files_in(dir: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut paths = Vec::new();
    walk(dir, Path::new(""), &mut |path, found| {
        assert_ne!(found, Found::EmptyDir, "{path:?}");
        paths.extend((found == Found::File).then(|| path.to_owned()));
    })
    .unwrap();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(dir.join(path)).unwrap())).collect()
}

#[test]
fn an_export_is_the_same_files_however_often_it_is_brought_up() {
    let test = TestLog::create();
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("a/log");
    let mut total = 0;
    for count in [0, 1, 2, 254, 300, 0, 700, 66_000] {
        test.fill(count);
        let exported = export_to(&test, &dir).unwrap();
        assert_eq!(exported, Exported { size: total + count as u64, added: count as u64 });
        total += count as u64;
        assert_eq!(verify(&dir, &test.key, &[]).unwrap().records, total);
        assert!(files_in(&dir) == files_in(&test.audit()), "at {total} records");
    }
}

/// Whatever step fails, the next export ends it; what was signed before stays whole until then.
#[test]
fn an_export_that_was_broken_off_is_ended_by_the_next() {
    let test = TestLog::of(300);
    let place = tempfile::tempdir().unwrap();
    let former = place.path().join("former");
    export_to(&test, &former).unwrap();
    let mut broken = 0;
    for is_brought_up in [false, true] {
        let longer = test.copied();
        longer.fill(300);
        for kind in [Step::Write, Step::Rename, Step::SyncFileSystem, Step::Remove, Step::MakeDir] {
            for fault in [Fault::NotStored, Fault::HalfStored, Fault::StoredButFailed] {
                let mut skip = 0;
                loop {
                    let dir = place.path().join("now");
                    let _gone = std::fs::remove_dir_all(&dir);
                    if is_brought_up {
                        support::copy_dir(&former, &dir);
                    }
                    let faults = Faults::plan(place.path(), Plan { kind, fault, skip, count: 1, error: Errno::IO });
                    let exported = export_to(&longer, &dir);
                    let hit = faults.hit();
                    drop(faults);
                    // A step in a directory that is not there yet fails anyhow, and is done again.
                    assert!(exported.is_ok() || hit > 0, "{kind:?} {fault:?} after {skip}: {exported:?}");
                    broken += usize::from(exported.is_err());
                    export_to(&longer, &dir).unwrap();
                    assert_eq!(verify(&dir, &longer.key, &[]).unwrap().records, 600);
                    assert!(files_in(&dir) == files_in(&longer.audit()), "{kind:?} {fault:?} after {skip}");
                    if hit == 0 {
                        break;
                    }
                    skip += 1;
                }
            }
        }
    }
    assert!(broken > 50, "{broken}");
}

#[test]
fn an_export_goes_into_no_other_place() {
    let test = TestLog::of(300);
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("log");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("letter"), "somebody's").unwrap();
    assert!(matches!(export_to(&test, &dir), Err(LogError::Occupied { path }) if path == dir.join("letter")));
    std::fs::remove_file(dir.join("letter")).unwrap();
    export_to(&test, &dir).unwrap();
    // Another log, and one that forked.
    assert!(matches!(export_to(&TestLog::of(500), &dir), Err(LogError::Checkpoint(_))));
    let (one, other) = (test.copied(), test.copied());
    one.fill(10);
    other.fill(20);
    export_to(&one, &dir).unwrap();
    assert!(matches!(export_to(&other, &dir), Err(LogError::Mismatch)));
    // A log that is shorter than what was exported of it.
    assert!(matches!(export_to(&test, &dir), Err(LogError::Older { found: 300, remembered: 310 })));
    // An export that somebody changed is told before anything is added to it.
    let again = place.path().join("again");
    export_to(&test, &again).unwrap();
    std::fs::write(again.join("tile/0/001.p/44"), [0; 44 * 32]).unwrap();
    one.fill(10);
    assert!(matches!(export_to(&one, &again), Err(LogError::Mismatch)));
}

/// Beside a writer that publishes all the time.
#[test]
fn a_log_that_grows_meanwhile_is_exported_as_it_was_signed() {
    let test = TestLog::create();
    let mut options: LogOptions = test.options();
    options.limits.publish_interval = std::time::Duration::from_millis(1);
    let log: Log = test.open_with(options).unwrap().0;
    let place = tempfile::tempdir().unwrap();
    let writer = {
        let log = log.clone();
        std::thread::spawn(move || (0..20).for_each(|_| support::append(&log, 500)))
    };
    let dir = place.path().join("log");
    let mut exports = 0;
    while !writer.is_finished() || exports == 0 {
        export_to(&test, &dir).unwrap();
        verify(&dir, &test.key, &[]).unwrap();
        exports += 1;
    }
    writer.join().unwrap();
    log.close().unwrap();
    assert_eq!(export_to(&test, &dir).unwrap().size, 10_000);
    assert!(files_in(&dir) == files_in(&test.audit()));
}
