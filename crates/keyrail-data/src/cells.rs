//! What is protected and how: the same for every database.

use std::collections::BTreeMap;

use keyrail_crypto::CryptoError;
use keyrail_crypto::digest::sha256;
use keyrail_crypto::envelope::{self, Context, KeyRef, Kid};
use keyrail_crypto::secret::Plaintext;

use crate::adapter::{AssetSpec, CellSpec, Row};
use crate::error::AssetError;
use crate::json::{self, Member};
use crate::value::{Binding, Class, Sql};

/// What is known of the version that a value is under.
pub enum Known<'a> {
    /// It is one of the asset's key, and may open.
    Usable(KeyRef<'a>),
    /// It is one of the asset's key, and opens nothing now.
    Unusable,
    /// It was one of the asset's key, and is destroyed: what is under it never opens again.
    Destroyed,
    /// It belongs to another key of ours: the value does not open here, and is no plaintext either.
    Elsewhere,
    /// It is none of ours: the value is somebody's plaintext.
    Foreign,
}

/// The versions of an asset's key.
pub trait Keys: Sync {
    /// Looks a version up.
    ///
    /// # Errors
    /// [`AssetError::Before`] when the store cannot be asked.
    fn known(&self, kid: &Kid) -> Result<Known<'_>, AssetError>;

    /// The version's number, for telling older ones from newer ones.
    fn number(&self, kid: &Kid) -> u32;
}

/// Where values are to go.
#[derive(Clone, Copy)]
pub enum Goal<'a> {
    /// Under this version.
    Under(KeyRef<'a>),
    /// Back to plaintext.
    Plaintext,
}

/// What a cell holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CellState {
    /// No value.
    Null,
    /// A value that nobody protected.
    Plaintext,
    /// A value under a version.
    Protected(Kid),
    /// A value under a version that opens nothing now; whether it would open is not known.
    Closed(Kid),
    /// A value that carries one of our versions and does not open here, or never again: its version is destroyed.
    Damaged(Kid),
    /// A column with a JSON path that holds no JSON.
    NotJson,
}

/// A cell that was looked at.
#[derive(Clone, Debug)]
pub struct CellReport {
    /// The cell's place in [`AssetSpec::cells`].
    pub cell: usize,
    /// What it holds.
    pub state: CellState,
    /// SHA-256 of the bytes of a cell that does not open, to know them again.
    pub fingerprint: Option<[u8; 32]>,
}

/// A row that was worked on.
#[derive(Clone, Debug)]
pub struct Worked {
    /// Each cell, as it was found.
    pub cells: Vec<CellReport>,
    /// New values by column, where something changes.
    pub changes: Vec<(usize, Sql)>,
    /// Cells that change.
    pub moved: u64,
    /// Cells that change and were plaintext.
    pub encrypted: u64,
    /// Cells that change, by the version that opened them.
    pub opened: BTreeMap<Kid, u64>,
    /// Bytes of plaintext that went through.
    pub bytes: u64,
}

/// A value within its cell, taken out of its container.
enum Content {
    Null,
    NotJson { fingerprint: [u8; 32] },
    Plain { class: Class, bytes: Vec<u8> },
    Sealed { kid: Kid, envelope: Vec<u8> },
}

/// Where a value lies.
#[derive(Clone, Copy)]
enum Container<'a> {
    /// A whole column.
    Column,
    /// A member of a column's JSON.
    Json(&'a json::JsonPath),
}

/// Looks at every cell of a row, opening what is protected.
pub(crate) fn look(spec: &AssetSpec, row: &Row, keys: &dyn Keys) -> Result<Vec<CellReport>, AssetError> {
    let columns = spec.columns();
    let mut reports = Vec::with_capacity(spec.cells.len());
    for (index, cell) in spec.cells.iter().enumerate() {
        let value = columns.iter().position(|name| *name == cell.column).and_then(|at| row.values.get(at));
        let content = content_of(value.unwrap_or(&Sql::Null), container(cell), keys)?;
        let state = match &content {
            Content::Null => CellState::Null,
            Content::NotJson { .. } => CellState::NotJson,
            Content::Plain { .. } => CellState::Plaintext,
            Content::Sealed { kid, envelope } => {
                match open(keys, kid, envelope, &binding(spec, cell, row), container(cell))? {
                    Opened::Yes(..) => CellState::Protected(*kid),
                    Opened::Closed => CellState::Closed(*kid),
                    Opened::Damaged => CellState::Damaged(*kid),
                }
            }
        };
        reports.push(report(index, state, &content));
    }
    Ok(reports)
}

/// Moves every cell of a row to the goal; nothing is written yet.
pub(crate) fn work(spec: &AssetSpec, row: &Row, keys: &dyn Keys, goal: Goal<'_>) -> Result<Worked, AssetError> {
    let columns = spec.columns();
    let mut values: Vec<Sql> = row.values.clone();
    let cells = Vec::with_capacity(spec.cells.len());
    let mut worked = Worked { cells, changes: Vec::new(), moved: 0, encrypted: 0, opened: BTreeMap::new(), bytes: 0 };
    for (index, cell) in spec.cells.iter().enumerate() {
        let Some(at) = columns.iter().position(|name| *name == cell.column) else { continue };
        let Some(value) = values.get_mut(at) else { continue };
        let content = content_of(value, container(cell), keys)?;
        let (state, next) = step(spec, cell, row, keys, goal, &content)?;
        worked.cells.push(report(index, state, &content));
        if let Some((class, sealed_or_plain, bytes)) = next {
            *value = put(value, container(cell), class, sealed_or_plain)
                .ok_or_else(|| AssetError::NotVerified { row: row_name(row) })?;
            worked.moved += 1;
            match state {
                CellState::Protected(kid) => *worked.opened.entry(kid).or_default() += 1,
                _ => worked.encrypted += 1,
            }
            worked.bytes += bytes as u64;
        }
    }
    for (at, (old, new)) in row.values.iter().zip(values).enumerate() {
        if *old != new {
            worked.changes.push((at, new));
        }
    }
    Ok(worked)
}

/// The values of a row with every protected value opened; nothing is written.
///
/// # Errors
/// [`AssetError::Unopened`] if a protected value does not open.
pub fn opened(spec: &AssetSpec, row: &Row, keys: &dyn Keys) -> Result<Vec<Sql>, AssetError> {
    let worked = work(spec, row, keys, Goal::Plaintext)?;
    if worked.cells.iter().any(|cell| matches!(cell.state, CellState::Damaged(_) | CellState::Closed(_))) {
        return Err(AssetError::Unopened { row: row_name(row) });
    }
    let mut values = row.values.clone();
    for (at, new) in worked.changes {
        if let Some(value) = values.get_mut(at) {
            *value = new;
        }
    }
    Ok(values)
}

/// A cell's next content: its class, the bytes, and how many bytes of plaintext went through.
type Next = Option<(Class, Put, usize)>;

enum Put {
    Sealed(Vec<u8>),
    Plain(Plaintext),
}

fn step(
    spec: &AssetSpec,
    cell: &CellSpec,
    row: &Row,
    keys: &dyn Keys,
    goal: Goal<'_>,
    content: &Content,
) -> Result<(CellState, Next), AssetError> {
    let binding = binding(spec, cell, row);
    match (content, goal) {
        (Content::Null, _) => Ok((CellState::Null, None)),
        (Content::NotJson { .. }, _) => Ok((CellState::NotJson, None)),
        (Content::Plain { .. }, Goal::Plaintext) => Ok((CellState::Plaintext, None)),
        (Content::Plain { class, bytes }, Goal::Under(key)) => {
            let sealed = seal(&key, &binding, *class, bytes, row)?;
            Ok((CellState::Plaintext, Some((*class, Put::Sealed(sealed), bytes.len()))))
        }
        (Content::Sealed { kid, .. }, Goal::Under(key)) if kid == key.kid => Ok((CellState::Protected(*kid), None)),
        (Content::Sealed { kid, envelope }, goal) => match open(keys, kid, envelope, &binding, container(cell))? {
            Opened::Closed => Ok((CellState::Closed(*kid), None)),
            Opened::Damaged => Ok((CellState::Damaged(*kid), None)),
            Opened::Yes(class, plaintext) => {
                let len = plaintext.len();
                let put = match goal {
                    Goal::Under(key) => Put::Sealed(seal(&key, &binding, class, plaintext.as_bytes(), row)?),
                    Goal::Plaintext => Put::Plain(plaintext),
                };
                Ok((CellState::Protected(*kid), Some((class, put, len))))
            }
        },
    }
}

/// How many characters a protected text has at most, for a plaintext of this many bytes.
pub(crate) const fn sealed_text_len(plaintext_len: usize) -> usize {
    /// Header, salt, IV, tag, and the longest head of the ciphertext; a test holds it against the envelope.
    const OVERHEAD_LEN: usize = 106;
    envelope::TEXT_PREFIX.len() + (plaintext_len + OVERHEAD_LEN).saturating_mul(4).div_ceil(3)
}

fn report(cell: usize, state: CellState, content: &Content) -> CellReport {
    let fingerprint = match (state, content) {
        (CellState::Damaged(_) | CellState::Closed(_), Content::Sealed { envelope, .. }) => Some(sha256(envelope)),
        (CellState::NotJson, Content::NotJson { fingerprint }) => Some(*fingerprint),
        _ => None,
    };
    CellReport { cell, state, fingerprint }
}

pub(crate) fn row_name(row: &Row) -> String {
    row.identity.as_ref().map_or_else(|| crate::value::RowIdentity::of(&row.key).to_string(), ToString::to_string)
}

fn container(cell: &CellSpec) -> Container<'_> {
    cell.json_path.as_ref().map_or(Container::Column, Container::Json)
}

fn binding<'a>(spec: &'a AssetSpec, cell: &'a CellSpec, row: &'a Row) -> Binding<'a> {
    Binding { asset: &spec.asset, column: &cell.id, row: row.identity.as_ref() }
}

/// Seals a value and opens it again, so that nothing is written that does not open.
fn seal(
    key: &KeyRef<'_>,
    binding: &Binding<'_>,
    class: Class,
    plaintext: &[u8],
    row: &Row,
) -> Result<Vec<u8>, AssetError> {
    let context = context(binding, class)?;
    let sealed = envelope::seal(key, &context, plaintext).map_err(|error| match error {
        CryptoError::PlaintextTooLong { max, .. } => AssetError::TooLong { row: row_name(row), max },
        other => other.into(),
    })?;
    match envelope::open(key, &context, &sealed) {
        Ok(opened) if opened.as_bytes() == plaintext => Ok(sealed),
        _ => Err(AssetError::NotVerified { row: row_name(row) }),
    }
}

fn context(binding: &Binding<'_>, class: Class) -> Result<Context, AssetError> {
    binding.context(class).map_err(|_| AssetError::Crypto(CryptoError::Library))
}

enum Opened {
    Yes(Class, Plaintext),
    Closed,
    Damaged,
}

fn open(
    keys: &dyn Keys,
    kid: &Kid,
    sealed: &[u8],
    binding: &Binding<'_>,
    container: Container<'_>,
) -> Result<Opened, AssetError> {
    let key = match keys.known(kid)? {
        Known::Usable(key) => key,
        Known::Unusable | Known::Foreign => return Ok(Opened::Closed),
        Known::Destroyed | Known::Elsewhere => return Ok(Opened::Damaged),
    };
    // The class is part of the context, and the cell does not tell it: the usual one is tried first.
    let classes: &[Class] = match container {
        Container::Column => &[Class::Same, Class::Integer, Class::Real],
        Container::Json(_) => &[Class::Same, Class::Json],
    };
    for class in classes {
        match envelope::open(&key, &context(binding, *class)?, sealed) {
            Ok(plaintext) => return Ok(Opened::Yes(*class, plaintext)),
            Err(CryptoError::Unopenable) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Ok(Opened::Damaged)
}

fn content_of(value: &Sql, container: Container<'_>, keys: &dyn Keys) -> Result<Content, AssetError> {
    match container {
        Container::Column => column_content(value, keys),
        Container::Json(path) => json_content(value, path, keys),
    }
}

fn column_content(value: &Sql, keys: &dyn Keys) -> Result<Content, AssetError> {
    Ok(match value {
        Sql::Null => Content::Null,
        Sql::Integer(number) => Content::Plain { class: Class::Integer, bytes: number.to_string().into_bytes() },
        Sql::Real(number) => Content::Plain { class: Class::Real, bytes: format!("{number:?}").into_bytes() },
        Sql::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text_content(text, keys)?,
            Err(_) => Content::Plain { class: Class::Same, bytes: bytes.clone() },
        },
        Sql::Blob(bytes) => match envelope::parse(bytes) {
            Ok(header) if is_ours(keys, &header.kid)? => Content::Sealed { kid: header.kid, envelope: bytes.clone() },
            _ => Content::Plain { class: Class::Same, bytes: bytes.clone() },
        },
        // No adapter lets a column of such a type be protected.
        Sql::Typed(_, text) => Content::Plain { class: Class::Same, bytes: text.clone().into_bytes() },
    })
}

/// A text is protected if it parses as a whole and carries one of our versions; every other is plaintext.
fn text_content(text: &str, keys: &dyn Keys) -> Result<Content, AssetError> {
    if text.starts_with(envelope::TEXT_PREFIX)
        && let Ok(envelope) = envelope::from_text(text)
        && let Ok(header) = envelope::parse(&envelope)
        && is_ours(keys, &header.kid)?
    {
        return Ok(Content::Sealed { kid: header.kid, envelope });
    }
    Ok(Content::Plain { class: Class::Same, bytes: text.as_bytes().to_vec() })
}

fn is_ours(keys: &dyn Keys, kid: &Kid) -> Result<bool, AssetError> {
    Ok(!matches!(keys.known(kid)?, Known::Foreign))
}

fn json_content(value: &Sql, path: &json::JsonPath, keys: &dyn Keys) -> Result<Content, AssetError> {
    let document = match value {
        Sql::Null => return Ok(Content::Null),
        Sql::Text(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    };
    let found = document.map_or(Member::NotJson, |document| json::find(document, path));
    let raw = match found {
        Member::Null => return Ok(Content::Null),
        Member::NotJson => None,
        Member::At(range) => document.and_then(|document| document.get(range)),
    };
    let Some(raw) = raw else { return Ok(Content::NotJson { fingerprint: stored_sha256(value) }) };
    match serde_json::from_str::<String>(raw) {
        // A string that was written in another way than ours is kept as it was written.
        Ok(text) if json_string(&text).is_some_and(|usual| usual == raw) => text_content(&text, keys),
        _ => Ok(Content::Plain { class: Class::Json, bytes: raw.as_bytes().to_vec() }),
    }
}

/// SHA-256 of a stored value, its class included.
fn stored_sha256(value: &Sql) -> [u8; 32] {
    let bytes = match value {
        Sql::Null => Vec::new(),
        Sql::Integer(number) => number.to_be_bytes().to_vec(),
        Sql::Real(number) => number.to_bits().to_be_bytes().to_vec(),
        Sql::Text(bytes) | Sql::Blob(bytes) => bytes.clone(),
        Sql::Typed(_, text) => text.clone().into_bytes(),
    };
    sha256(&[value.class().as_bytes(), &[0], &bytes].concat())
}

fn json_string(text: &str) -> Option<String> {
    serde_json::to_string(text).ok()
}

/// The value with a cell's next content in its place.
fn put(value: &Sql, container: Container<'_>, class: Class, content: Put) -> Option<Sql> {
    match container {
        Container::Column => Some(match content {
            Put::Sealed(sealed) if matches!(value, Sql::Blob(_)) => Sql::Blob(sealed),
            Put::Sealed(sealed) => Sql::Text(envelope::to_text(&sealed).into_bytes()),
            Put::Plain(plaintext) => plain_value(value, class, &plaintext)?,
        }),
        Container::Json(path) => {
            let Sql::Text(document) = value else { return None };
            let document = std::str::from_utf8(document).ok()?;
            let Member::At(range) = json::find(document, path) else { return None };
            let member = match content {
                Put::Sealed(sealed) => json_string(&envelope::to_text(&sealed))?,
                Put::Plain(plaintext) => {
                    let text = std::str::from_utf8(plaintext.as_bytes()).ok()?;
                    if class == Class::Json { text.to_owned() } else { json_string(text)? }
                }
            };
            json::replace(document, range, &member).map(|text| Sql::Text(text.into_bytes()))
        }
    }
}

fn plain_value(cell: &Sql, class: Class, plaintext: &Plaintext) -> Option<Sql> {
    let text = || std::str::from_utf8(plaintext.as_bytes()).ok();
    Some(match class {
        Class::Integer => Sql::Integer(text()?.parse().ok()?),
        Class::Real => Sql::Real(text()?.parse().ok()?),
        Class::Same | Class::Json if matches!(cell, Sql::Blob(_)) => Sql::Blob(plaintext.as_bytes().to_vec()),
        Class::Same | Class::Json => Sql::Text(plaintext.as_bytes().to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use keyrail_crypto::secret::DataKey;
    use keyrail_crypto::suite::Suite;

    use super::*;

    #[test]
    fn the_length_of_a_protected_text_is_known_beforehand() {
        let (kid, key) = (Kid::from_bytes([7; 16]), DataKey::generate().unwrap());
        for suite in [Suite::A256Gcm, Suite::ChaCha20Poly1305] {
            let key = KeyRef { kid: &kid, key_id: &[9; 16], key: &key, suite };
            for len in [0, 1, 2, 3, 7, 8, 100, 255, 256, 5_000, 70_000] {
                let sealed = envelope::seal_text(&key, &Context::empty(), &vec![0; len]).unwrap();
                let most = sealed_text_len(len);
                assert!(sealed.len() <= most && most <= sealed.len() + 10, "{len}: {} {most}", sealed.len());
            }
        }
    }
}
