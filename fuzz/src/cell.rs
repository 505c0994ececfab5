//! Cells of foreign tables: what they hold, and that they come back as they were. Also cursors and row identities.

use keyrail_core::asset::IdentityKind;
use keyrail_core::id::{AssetId, ColumnId};
use keyrail_crypto::envelope::{self, KeyRef, Kid};
use keyrail_crypto::secret::DataKey;
use keyrail_crypto::suite::Suite;
use keyrail_data::AssetError;
use keyrail_data::adapter::{AssetSpec, CellSpec, Row};
use keyrail_data::cells::{CellState, Goal, Keys, Known};
use keyrail_data::fuzz;
use keyrail_data::value::{Binding, Class, RowIdentity, Sql};

/// Cells of every class, plain and protected, in columns and in JSON.
pub fn seeds() -> Vec<Vec<u8>> {
    let key = vec![Sql::Integer(7), Sql::Text(b"x".to_vec())];
    let identity = RowIdentity::of(&key);
    let spec = spec(false);
    let cell = spec.cells.first().map_or(ColumnId::from_bytes([2; 16]), |cell| cell.id);
    let binding = Binding { asset: &spec.asset, column: &cell, row: Some(&identity) };
    let sealed = crate::envelope::seal(Suite::A256Gcm, &binding.context(Class::Same).expect("a context"), b"Ada");
    let text = envelope::to_text(&sealed);
    let cells = [
        (0, Sql::Null),
        (0, Sql::Integer(-7)),
        (0, Sql::Real(0.1)),
        (0, Sql::Text("Zoë".into())),
        (0, Sql::Text(vec![0xff])),
        (0, Sql::Text(text.clone().into_bytes())),
        (0, Sql::Blob(sealed)),
        (1, Sql::Text(br#"{"a":{"b":"x"},"c":1}"#.to_vec())),
        (1, Sql::Text(br#"{"a":{"b": [1, 2]}}"#.to_vec())),
        (1, Sql::Text(format!(r#"{{"a":{{"b":"{text}"}}}}"#).into_bytes())),
    ];
    let row = |(mode, value)| {
        let values: Vec<_> = key.iter().cloned().chain([value]).collect();
        [&[mode], fuzz::cursor_bytes(&values).as_slice()].concat()
    };
    cells.into_iter().map(row).collect()
}

/// Cursors and identities are one to one; a value that is protected and unprotected is the value it was.
pub fn check(data: &[u8]) -> bool {
    let Some((mode, bytes)) = data.split_first() else { return false };
    let Some(mut values) = fuzz::cursor(bytes) else { return false };
    assert_eq!(fuzz::cursor_bytes(&values), bytes, "a second spelling of a cursor");
    let (left, right) = values.split_at(values.len() / 2);
    let same = fuzz::cursor_bytes(left) == fuzz::cursor_bytes(right);
    assert_eq!(RowIdentity::of(left) == RowIdentity::of(right), same, "two rows look alike");
    // A database stores no NaN, and what has a type of its own tells rows apart and is no cell.
    let is_cell = |value: &Sql| match value {
        Sql::Real(number) => !number.is_nan(),
        Sql::Typed(..) => false,
        _ => true,
    };
    let Some(value) = values.pop().filter(is_cell) else { return false };
    let spec = spec(mode % 2 == 1);
    let row = Row { identity: Some(RowIdentity::of(&values)), key: values, values: vec![value], guard: Vec::new() };
    round_trip(&spec, row)
}

fn round_trip(spec: &AssetSpec, row: Row) -> bool {
    let key = crate::envelope::key();
    let keys = OneKey(&key);
    match state(spec, &row, &keys) {
        CellState::Plaintext => {}
        CellState::Null => return true,
        CellState::Protected(kid) => {
            assert_eq!(kid, crate::envelope::KID);
            return true;
        }
        _ => return false,
    }
    let protected = changed(spec, &row, &keys, Goal::Under(keys.usable()));
    assert_eq!(state(spec, &protected, &keys), CellState::Protected(crate::envelope::KID));
    let back = changed(spec, &protected, &keys, Goal::Plaintext);
    assert_eq!(fuzz::cursor_bytes(&back.values), fuzz::cursor_bytes(&row.values), "the value is another one");
    true
}

fn state(spec: &AssetSpec, row: &Row, keys: &OneKey<'_>) -> CellState {
    let reports = fuzz::look(spec, row, keys).expect("a row can be looked at");
    reports.first().expect("there is one cell").state
}

fn changed(spec: &AssetSpec, row: &Row, keys: &OneKey<'_>, goal: Goal<'_>) -> Row {
    let worked = fuzz::work(spec, row, keys, goal).expect("a row can be worked on");
    let (_, value) = worked.changes.into_iter().next().expect("the value moves");
    Row { values: vec![value], ..row.clone() }
}

fn spec(json: bool) -> AssetSpec {
    let json_path = json.then(|| "$.a.b".parse().expect("a path"));
    AssetSpec {
        asset: AssetId::from_bytes([1; 16]),
        url: "sqlite:x".to_owned(),
        schema: None,
        table: "people".to_owned(),
        identity: IdentityKind::PrimaryKey,
        identity_columns: Vec::new(),
        cells: vec![CellSpec { id: ColumnId::from_bytes([2; 16]), column: "c".to_owned(), json_path }],
    }
}

struct OneKey<'a>(&'a DataKey);

impl OneKey<'_> {
    fn usable(&self) -> KeyRef<'_> {
        KeyRef { kid: &crate::envelope::KID, key_id: &[9; 16], key: self.0, suite: Suite::A256Gcm }
    }
}

impl Keys for OneKey<'_> {
    fn known(&self, kid: &Kid) -> Result<Known<'_>, AssetError> {
        Ok(if *kid == crate::envelope::KID { Known::Usable(self.usable()) } else { Known::Foreign })
    }

    fn number(&self, _: &Kid) -> u32 {
        1
    }
}
