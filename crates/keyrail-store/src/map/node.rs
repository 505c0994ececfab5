//! Nodes of the map, as bytes.

/// The most entries of a node. So many, of the usual length, fill one page of SQLite.
pub(crate) const NODE_ENTRIES_MAX: usize = 64;

/// The most bytes of an entry's key.
pub(crate) const KEY_LEN_MAX: usize = 1_024;

/// The version of the encoding, the first byte of each node.
const FORMAT: u8 = 1;

/// Length of a seal, in bytes.
pub(crate) const SEAL_LEN: usize = 32;

/// What a row, or a node, is pinned by.
pub(crate) type Seal = [u8; SEAL_LEN];

/// Where a node is, and the seal that it must have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Pointer {
    pub(crate) id: u64,
    pub(crate) seal: Seal,
}

/// One entry: of a leaf, a row's place and its seal; of a branch, a child with the least key that belongs into it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: Box<[u8]>,
    /// The child's id; 0 in a leaf.
    pub(crate) child: u64,
    pub(crate) seal: Seal,
}

impl Entry {
    pub(crate) fn pointer(&self) -> Pointer {
        Pointer { id: self.child, seal: self.seal }
    }
}

/// A node: its entries in ascending order of their keys. Level 0 is a leaf.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Node {
    pub(crate) level: u8,
    pub(crate) entries: Vec<Entry>,
}

/// Bytes that are no node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NotANode;

impl Node {
    pub(crate) fn empty() -> Self {
        Self { level: 0, entries: Vec::new() }
    }

    /// Where a key is in a leaf, or where it would be.
    pub(crate) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.key.as_ref().cmp(key))
    }

    /// Which child of a branch a key belongs into. What is before the first one belongs into the first one.
    pub(crate) fn child_of(&self, key: &[u8]) -> usize {
        self.search(key).unwrap_or_else(|place| place.saturating_sub(1))
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![FORMAT, self.level];
        out.extend(u16::try_from(self.entries.len()).unwrap_or(u16::MAX).to_be_bytes());
        for entry in &self.entries {
            out.extend(u16::try_from(entry.key.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend_from_slice(&entry.key);
            if self.level > 0 {
                out.extend(entry.child.to_be_bytes());
            }
            out.extend_from_slice(&entry.seal);
        }
        out
    }

    /// Reads exactly what [`Node::to_bytes`] writes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, NotANode> {
        let mut rest = bytes;
        let [format, level] = take(&mut rest)?;
        let count = usize::from(u16::from_be_bytes(take(&mut rest)?));
        if format != FORMAT || count > NODE_ENTRIES_MAX || (count == 0 && level > 0) {
            return Err(NotANode);
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(count);
        for _ in 0..count {
            let len = usize::from(u16::from_be_bytes(take(&mut rest)?));
            let (key, after) = rest.split_at_checked(len).filter(|_| len <= KEY_LEN_MAX).ok_or(NotANode)?;
            rest = after;
            let child = if level > 0 { u64::from_be_bytes(take(&mut rest)?) } else { 0 };
            if entries.last().is_some_and(|last| last.key.as_ref() >= key) {
                return Err(NotANode);
            }
            entries.push(Entry { key: key.into(), child, seal: take(&mut rest)? });
        }
        if rest.is_empty() { Ok(Self { level, entries }) } else { Err(NotANode) }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], NotANode> {
    let (first, after) = rest.split_first_chunk::<N>().ok_or(NotANode)?;
    *rest = after;
    Ok(*first)
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;
    use crate::driver::Value;
    use crate::map::place::place_of;
    use crate::row::TABLES;

    fn vectors() -> Json {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/vectors/state-map.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn bytes(json: &Json) -> Vec<u8> {
        hex::decode(json.as_str().unwrap()).unwrap()
    }

    #[test]
    fn nodes_are_those_that_others_made() {
        let vectors = vectors();
        let list = |name: &str| vectors[name].as_array().unwrap().clone();
        for vector in list("valid").iter().chain(&list("nodes")) {
            let bytes = bytes(&vector["bytes"]);
            assert_eq!(Node::from_bytes(&bytes).unwrap().to_bytes(), bytes, "{}", vector["id"]);
        }
        for vector in list("failing") {
            assert_eq!(Node::from_bytes(&bytes(&vector["bytes"])), Err(NotANode), "{}", vector["id"]);
        }
        assert!(list("failing").len() > 7);
    }

    #[test]
    fn places_are_those_that_others_made() {
        for vector in vectors()["places"].as_array().unwrap() {
            let table = TABLES.into_iter().find(|table| table.name == vector["table"]).unwrap();
            // A text of hex digits is an id, in these vectors.
            let value = |json: &Json| match json.as_i64() {
                Some(number) => Value::Integer(number),
                None => match hex::decode(json.as_str().unwrap()).ok().filter(|bytes| bytes.len() == 16) {
                    Some(id) => Value::Blob(id),
                    None => Value::Text(json.as_str().unwrap().to_owned()),
                },
            };
            let key: Vec<Value> = vector["key"].as_array().unwrap().iter().map(value).collect();
            assert_eq!(hex::encode(place_of(table).unwrap().row(&key)), vector["place"].as_str().unwrap());
        }
    }
}
