//! The log's files: paths of tiles, bodies, entry bundles, the right edge. The first byte chooses.

use std::path::Path;

use keyrail_audit::{Record, fuzz, parse_bodies, parse_entries, parse_frame};

/// One of each.
pub fn seeds() -> Vec<Vec<u8>> {
    let records: Vec<u8> = (1..4).flat_map(|number| encode(&record(number))).collect();
    let entries: Vec<u8> = (1..4).flat_map(|number| [&[0, 32], &record(number).entry()[..]].concat()).collect();
    let edge = [&3_u64.to_be_bytes()[..], &[1, 0, 3], &[9; 96], &records].concat();
    let chosen: [(u8, &[u8]); 8] = [
        (0, b"tile/0/000"),
        (0, b"tile/1/x001/x234/067"),
        (0, b"tile/entries/273.p/112"),
        (0, b"body/x001/005.p/1"),
        (1, &records),
        (2, &entries),
        (3, &edge),
        (3, &[0; 9]),
    ];
    chosen.iter().map(|(choice, bytes)| [&[*choice], *bytes].concat()).collect()
}

/// What is accepted is written again byte for byte.
pub fn check(data: &[u8]) -> bool {
    let Some((choice, bytes)) = data.split_first() else { return false };
    let _ = parse_frame(bytes);
    match choice % 4 {
        0 => std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| Some((text, fuzz::tile_path(Path::new(text))?)))
            .is_some_and(|(text, path)| {
                assert_eq!(path, Path::new(text));
                true
            }),
        1 => parse_bodies(bytes).is_some_and(|records| {
            assert_eq!(records.iter().flat_map(encode).collect::<Vec<u8>>(), bytes);
            true
        }),
        2 => parse_entries(bytes).is_some_and(|entries| {
            assert_eq!(entries.iter().flat_map(|entry| [&[0, 32], &entry[..]].concat()).collect::<Vec<u8>>(), bytes);
            true
        }),
        _ => fuzz::right_edge(bytes).is_some_and(|again| {
            assert_eq!(again, bytes);
            true
        }),
    }
}

/// Length, salt, body.
pub fn encode(record: &Record) -> Vec<u8> {
    [&(record.body.len() as u32).to_be_bytes()[..], &record.salt, &record.body].concat()
}

/// A record.
pub fn record(number: u8) -> Record {
    Record { salt: [number; 16], body: vec![b'b'; usize::from(number)] }
}
