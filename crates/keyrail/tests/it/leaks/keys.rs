//! The keys of a store, opened by their specification with code of its own.

use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use keyrail_testkit::postgres::Database;
use rusqlite::{Connection, OpenFlags};

struct Len;

impl KeyType for Len {
    fn len(&self) -> usize {
        32
    }
}

/// Opens a wrapped key by `spec/wrapped-key.md`, with code of its own.
fn unwrap(
    kek: &[u8; 32],
    purpose: &str,
    wrapped: &[u8],
    table: &str,
    id: &[u8],
    version: u32,
    generation: u64,
) -> [u8; 32] {
    let (salt, body) = wrapped[1..].split_at(32);
    let mut key = [0; 32];
    let info: [&[u8]; 2] = [b"keyrail/wrap/v1/", purpose.as_bytes()];
    Salt::new(HKDF_SHA256, salt).extract(kek).expand(&info, Len).unwrap().fill(&mut key).unwrap();
    let mut aad = Vec::new();
    for part in [purpose.as_bytes(), table.as_bytes(), id, &version.to_be_bytes(), &generation.to_be_bytes()] {
        aad.extend_from_slice(&(part.len() as u64).to_be_bytes());
        aad.extend_from_slice(part);
    }
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let mut body = body.to_vec();
    let opened = cipher
        .open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::from(aad), &mut body)
        .expect("the wrapped key opens");
    opened.try_into().unwrap()
}

/// Gives the slot key for the head of a slot: what comes before the wrapped key.
pub(super) type SlotKeyOf = Box<dyn Fn(&[u8]) -> [u8; 32]>;

/// The slot key that a key file holds.
pub(super) fn of_key_file(data_dir: &Path) -> SlotKeyOf {
    let file = std::fs::read(data_dir.join("root.key")).unwrap();
    let slot_key: [u8; 32] = file["keyrail root key v1\n".len()..][..32].try_into().unwrap();
    Box::new(move |_| slot_key)
}

/// The store of a data directory.
pub(super) fn in_file(data_dir: &Path) -> Connection {
    Connection::open_with_flags(data_dir.join("store.sqlite"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

/// The tables with keys of a store in PostgreSQL.
const TABLES: [(&str, &str); 4] = [
    ("root_slot", "slot"),
    ("root_secret", "id, wrapped, wrap_generation, purpose"),
    ("master_key_version", "id, wrapped, version, wrap_generation, state"),
    ("data_key_version", "kid, wrapped, version, wrap_generation, wrapped_by"),
];

/// The same tables of a store in PostgreSQL: a copy in memory.
pub(super) fn in_database(database: &Database<'_>) -> Connection {
    let copy = Connection::open_in_memory().unwrap();
    for (table, columns) in TABLES {
        copy.execute_batch(&format!("CREATE TABLE {table} ({columns})")).unwrap();
        let literals: Vec<_> = columns
            .split(", ")
            .map(|column| match column {
                "version" | "wrap_generation" => format!("{column}::text"),
                "purpose" | "state" => format!("quote_literal({column})"),
                _ => format!("coalesce('x''' || encode({column}, 'hex') || '''', 'NULL')"),
            })
            .collect();
        let select = format!("SELECT concat_ws(',', {}) FROM keyrail.{table}", literals.join(", "));
        for row in database.sql(&select).unwrap().lines() {
            copy.execute_batch(&format!("INSERT INTO {table} VALUES ({row})")).unwrap();
        }
    }
    copy
}

/// Every row of every table of a store in PostgreSQL, as text.
pub(super) fn rows_in_database(database: &Database<'_>) -> String {
    let tables = database.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'keyrail' ORDER BY 1").unwrap();
    let rows = tables.lines().map(|table| database.sql(&format!("SELECT t::text FROM keyrail.{table} t")).unwrap());
    rows.collect::<Vec<_>>().join("\n")
}

/// Every key of a store that is not destroyed, by its name.
pub(super) fn keys_of(store: &Connection, slot_key_of: &SlotKeyOf) -> Vec<(String, [u8; 32])> {
    let slot: Vec<u8> = store.query_row("SELECT slot FROM root_slot", [], |row| row.get(0)).unwrap();
    let (head, wrapped) = slot.split_at(slot.len() - 81);
    let slot_key = slot_key_of(head);
    let root = unwrap(&slot_key, "RootKey", wrapped, "root_slot", &slot[1..17], 1, 1);
    let mut keys = vec![("slot key".to_owned(), slot_key), ("root key".to_owned(), root)];
    let rows = |sql: &str| -> Vec<(Vec<u8>, Vec<u8>, u32, i64, String)> {
        let mut statement = store.prepare(sql).unwrap();
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
            .unwrap();
        rows.map(Result::unwrap).collect()
    };
    for (id, wrapped, version, generation, purpose) in
        rows("SELECT id, wrapped, 1, wrap_generation, purpose FROM root_secret")
    {
        let kind = if purpose == "store" { "StoreKey" } else { "SigningSeed" };
        keys.push((purpose, unwrap(&root, kind, &wrapped, "root_secret", &id, version, generation as u64)));
    }
    let mut masters = Vec::new();
    for (id, wrapped, version, generation, _) in
        rows("SELECT id, wrapped, version, wrap_generation, state FROM master_key_version WHERE wrapped IS NOT NULL")
    {
        let key = unwrap(&root, "MasterKey", &wrapped, "master_key_version", &id, version, generation as u64);
        keys.push((format!("master key version {version}"), key));
        masters.push((id, key));
    }
    for (id, wrapped, version, generation, by) in rows(
        "SELECT kid, wrapped, version, wrap_generation, hex(wrapped_by) FROM data_key_version WHERE wrapped IS NOT NULL",
    ) {
        let master = masters
            .iter()
            .find(|(master, _)| {
                by.to_lowercase() == master.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            })
            .unwrap();
        keys.push((
            format!("data key version {}", hex::encode(&id)),
            unwrap(&master.1, "DataKey", &wrapped, "data_key_version", &id, version, generation as u64),
        ));
    }
    keys
}

/// The rows and the manifest in a backup, opened by `spec/backup.md` with code of its own.
pub(super) fn content_of_backup(file: &[u8], slot_key_of: &SlotKeyOf) -> Vec<u8> {
    assert_eq!(&file[..9], b"keyrail\x16\x01");
    let (salt, slots) = (&file[9..41], file[41]);
    assert_eq!(slots, 1);
    let slot_len = usize::from(u16::from_be_bytes([file[42], file[43]]));
    let (header, mut rest) = file.split_at(44 + slot_len);
    let slot = &header[44..];
    let (head, wrapped) = slot.split_at(slot_len - 81);
    let root = unwrap(&slot_key_of(head), "RootKey", wrapped, "root_slot", &slot[1..17], 1, 1);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, header);
    let info: [&[u8]; 2] = [b"keyrail/backup/v1/", digest.as_ref()];
    let mut key = [0; 32];
    Salt::new(HKDF_SHA256, salt).extract(&root).expand(&info, Len).unwrap().fill(&mut key).unwrap();
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let (mut content, mut last) = (Vec::new(), false);
    while !last {
        let (number, len) = (&rest[..4], u32::from_be_bytes(rest[4..8].try_into().unwrap()));
        last = len >> 31 == 1;
        let nonce: [u8; 12] = [&[0; 7], number, &[u8::from(last)]].concat().try_into().unwrap();
        let (part, behind) = rest[8..].split_at((len & 0x7fff_ffff) as usize);
        let mut part = part.to_vec();
        let opened = cipher.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut part).unwrap();
        content.extend_from_slice(opened);
        rest = behind;
    }
    assert!(rest.is_empty());
    content
}
