//! The journal: frames in any order, with right MACs, cut off anywhere.

use std::sync::OnceLock;

use keyrail_audit::fuzz;
use keyrail_crypto::mac::MacKey;
use keyrail_crypto::secret::StoreKey;

use crate::log_files::{encode, record};
use crate::take;

/// Journals as the log writes them; the last two bytes tell where the copy is cut.
pub fn seeds() -> Vec<Vec<u8>> {
    let frame = |kind: u8, first: u8, payload: &[u8]| {
        [&[kind, first][..], &(payload.len() as u16).to_be_bytes(), payload].concat()
    };
    let edge = frame(1, 0, &[0; 9]);
    let records = |first, numbers: &[u8]| {
        frame(2, first, &numbers.iter().flat_map(|number| encode(&record(*number))).collect::<Vec<_>>())
    };
    let journals = [
        edge.clone(),
        [edge.clone(), records(0, &[1, 2])].concat(),
        [edge.clone(), records(0, &[1]), records(1, &[2, 3]), frame(3, 3, &[])].concat(),
        [edge, frame(3, 0, &[]), records(0, &[4])].concat(),
    ];
    journals.iter().map(|journal| [journal, &[0_u8, 77][..]].concat()).collect()
}

/// A journal that is cut off is torn, never altered, and holds a part of its records.
pub fn check(data: &[u8]) -> bool {
    let Some((mut rest, cut)) = data.split_last_chunk::<2>() else { return false };
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (head, len) = (take(&mut rest, 2), take(&mut rest, 2));
        let (&[kind, first], &[high, low]) = (head, len) else { break };
        frames.push((kind, u64::from(first), take(&mut rest, usize::from(u16::from_be_bytes([high, low])))));
    }
    let journal = fuzz::journal(&frames, 1, key());
    let Ok(Some((records, torn))) = fuzz::replay(&journal, 1, key()) else { return false };
    assert_eq!(torn, 0, "a whole journal is torn");
    let len = usize::from(u16::from_be_bytes(*cut)) % (journal.len() + 1);
    let part = fuzz::replay(&journal[..len], 1, key()).expect("a journal that was cut off is not altered");
    if let Some((part, _)) = part {
        assert!(records.starts_with(&part), "records that were not written");
    }
    assert!(!matches!(fuzz::replay(&journal, 2, key()), Ok(Some(_))), "a journal of another place was taken");
    true
}

fn key() -> &'static MacKey {
    static KEY: OnceLock<MacKey> = OnceLock::new();
    KEY.get_or_init(|| StoreKey::generate().and_then(|key| key.mac_key("fuzz")).expect("a key"))
}
