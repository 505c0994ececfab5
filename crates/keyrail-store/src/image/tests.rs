use keyrail_core::label::default_labels;
use keyrail_core::time::Timestamp;
use keyrail_crypto::secret::StoreKey;

use super::*;
use crate::RowSealer;
use crate::change::Change;
use crate::driver::OpenMode;
use crate::sqlite::SqliteStore;

struct Made {
    dir: tempfile::TempDir,
    key: StoreKey,
}

impl Made {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), key: StoreKey::generate().unwrap() }
    }

    fn state(&self, name: &str) -> State {
        let store = SqliteStore::open(&self.dir.path().join(name), OpenMode::Create).unwrap();
        State::new(Arc::new(store), RowSealer::new(&self.key).unwrap())
    }

    async fn filled(&self, name: &str) -> State {
        let state = self.state(name);
        let mut change = Change::new();
        default_labels(Timestamp::from_millis(0)).unwrap().iter().for_each(|label| {
            change.insert(label);
        });
        state.commit(change.unrecorded("rows of a test")).await.unwrap();
        state
    }
}

async fn image(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    state
        .write_image(|part| -> Result<(), StoreError> {
            bytes.extend_from_slice(part);
            Ok(())
        })
        .await
        .unwrap();
    bytes
}

async fn load(state: &State, bytes: &[u8], step: usize) -> Result<RowCounts, ImageError> {
    let mut loader = ImageLoader::new(state.store().clone());
    for part in bytes.chunks(step) {
        loader.take(part).await?;
    }
    loader.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_back_is_what_was_written() {
    let made = Made::new();
    let from = made.filled("from").await;
    let bytes = image(&from).await;
    for (number, step) in [1, 7, 64 * 1024].into_iter().enumerate() {
        let to = made.state(&format!("to-{number}"));
        let counts = load(&to, &bytes, step).await.unwrap();
        to.require_whole().await.unwrap();
        assert_eq!(to.map_state().await.unwrap(), from.map_state().await.unwrap());
        let mut wanted = from.row_counts().await.unwrap();
        wanted.retain(|_, count| *count > 0);
        assert_eq!(counts, wanted);
        assert_eq!(image(&to).await, bytes);
    }
    let mut check = ImageCheck::default();
    check.take(&bytes).unwrap();
    check.finish().unwrap();
}

/// Cut off anywhere, with more behind, and with anything else in any place: an error, or rows whose seals tell it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_image_is_refused() {
    let made = Made::new();
    let bytes = image(&made.filled("from").await).await;
    let checked = |bytes: &[u8]| {
        let mut check = ImageCheck::default();
        check.take(bytes)?;
        check.finish().map(drop)
    };
    checked(&bytes).unwrap();
    for len in 0..bytes.len() {
        assert!(checked(&bytes[..len]).is_err(), "cut off at {len}");
    }
    assert!(checked(&[&bytes[..], &[END]].concat()).is_err());
    assert!(checked(&[&bytes[..], &bytes[..]].concat()).is_err());
    for place in (0..bytes.len()).step_by(101) {
        let mut altered = bytes.clone();
        altered[place] ^= 1;
        let to = made.state(&format!("to-{place}"));
        let loaded = load(&to, &altered, 4_096).await;
        assert!(loaded.is_err() || to.require_whole().await.is_err(), "altered at {place}");
    }
}

/// A release before a column was added: it is empty. One after: it is told.
#[test]
fn columns_are_found_by_their_names() {
    let slot = TABLES.into_iter().find(|table| table.name == "root_slot").unwrap();
    let item = |columns: &[&str]| {
        let mut item = Vec::new();
        put_bytes(&mut item, b"root_slot");
        columns.iter().for_each(|column| put_bytes(&mut item, column.as_bytes()));
        let mut out = Vec::new();
        put_item(&mut out, TABLE, |out| out.extend_from_slice(&item));
        put_item(&mut out, ROW, |out| (0..=columns.len()).for_each(|at| put_value(out, &Value::Integer(at as i64))));
        out
    };
    let read = |columns: &[&str]| {
        let mut decoder = Decoder::default();
        decoder.feed(&item(columns));
        decoder.next_row().map(|row| row.unwrap().1)
    };
    let kept: Vec<_> = slot.columns.iter().copied().filter(|column| !slot.added.contains(column)).collect();
    let mut wanted: Vec<_> = (0..kept.len()).map(|at| Value::Integer(at as i64)).collect();
    wanted.extend(slot.added.iter().map(|_| Value::Null));
    wanted.push(Value::Integer(kept.len() as i64));
    assert_eq!(read(&kept).unwrap(), wanted);
    assert!(matches!(read(&kept[1..]), Err(ImageError::Malformed { .. })));
    let later = [&kept[..], &["later"]].concat();
    assert!(matches!(read(&later), Err(ImageError::Newer { what: "column", .. })));
}
