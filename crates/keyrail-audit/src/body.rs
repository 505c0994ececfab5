//! Records: a salted body, and the entry that commits to it. The log proves entries; a body can be dropped
//! later without losing the proof.

use keyrail_crypto::digest::Sha256;

use crate::tree::{Hash, TILE_WIDTH};

/// Length of a record's salt, in bytes.
pub(crate) const SALT_LEN: usize = 16;

/// The longest body of a record, in bytes.
pub(crate) const BODY_LEN_MAX: usize = 1024 * 1024;

/// Keeps the commitment apart from every other use of the hash.
const COMMITMENT_DOMAIN: &[u8] = b"keyrail/audit/entry/v1\0";

/// A record as it lies in a body file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Hides the body from who knows only the entry.
    pub salt: [u8; SALT_LEN],
    /// What was logged.
    pub body: Vec<u8>,
}

impl Record {
    /// The log entry: SHA-256 of the salted body.
    pub fn entry(&self) -> Hash {
        Sha256::new().with(COMMITMENT_DOMAIN).with(&self.salt).with(&self.body).finish()
    }

    /// Length, salt, body.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.body.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&self.body);
    }

    pub(crate) fn encoded_len(&self) -> usize {
        4 + SALT_LEN + self.body.len()
    }
}

/// Reads records that lie one behind the other, at most `max`; `None` if the bytes do not end with a record.
pub(crate) fn parse_records(mut bytes: &[u8], max: usize) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (salt, rest) = rest.split_first_chunk::<SALT_LEN>()?;
        let len = usize::try_from(u32::from_be_bytes(*len)).ok().filter(|len| *len <= BODY_LEN_MAX)?;
        let (body, rest) = rest.split_at_checked(len)?;
        if records.len() >= max {
            return None;
        }
        records.push(Record { salt: *salt, body: body.to_vec() });
        bytes = rest;
    }
    Some(records)
}

/// Reads a body file: up to 256 records.
pub fn parse_bodies(bytes: &[u8]) -> Option<Vec<Record>> {
    parse_records(bytes, TILE_WIDTH)
}

/// One entry as it lies in an entry bundle: a length of two bytes, and the hash.
pub(crate) fn encode_entry(entry: &Hash, out: &mut Vec<u8>) {
    out.extend_from_slice(&(entry.len() as u16).to_be_bytes());
    out.extend_from_slice(entry);
}

/// Length of one entry in an entry bundle, in bytes.
pub(crate) const ENTRY_LEN: usize = 34;

/// Reads an entry bundle of ours: up to 256 entries of 32 bytes.
pub fn parse_entries(bytes: &[u8]) -> Option<Vec<Hash>> {
    if !bytes.len().is_multiple_of(ENTRY_LEN) || bytes.len() > ENTRY_LEN * TILE_WIDTH {
        return None;
    }
    let entry = |chunk: &[u8]| chunk.strip_prefix(&[0, 32])?.try_into().ok();
    bytes.chunks_exact(ENTRY_LEN).map(entry).collect()
}
