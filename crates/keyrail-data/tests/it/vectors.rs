//! The vectors of `spec/asset-value.md`, which another implementation made.

use keyrail_core::asset::IdentityKind;
use keyrail_core::id::{AssetId, ColumnId};
use keyrail_crypto::envelope::{self, KeyRef, Kid};
use keyrail_crypto::secret::DataKey;
use keyrail_crypto::suite::Suite;
use keyrail_data::AssetError;
use keyrail_data::adapter::{AssetSpec, CellSpec, Row};
use keyrail_data::cells::{Keys, Known, opened};
use keyrail_data::value::{Binding, Class, RowIdentity, Sql};
use serde_json::Value;

const FILE: &str = include_str!("../../../../testdata/vectors/asset-value.json");

struct OneKey {
    kid: Kid,
    key_id: [u8; 16],
    key: DataKey,
}

impl OneKey {
    fn of(vectors: &Value) -> Self {
        let key = &vectors["key"];
        let bytes = hex::decode(text(&key["key"])).unwrap().try_into().unwrap();
        Self {
            kid: Kid::from_bytes(array(&key["kid"])),
            key_id: array(&key["key_id"]),
            key: DataKey::danger_import(&bytes).unwrap(),
        }
    }

    fn key_ref(&self) -> KeyRef<'_> {
        KeyRef { kid: &self.kid, key_id: &self.key_id, key: &self.key, suite: Suite::A256Gcm }
    }
}

impl Keys for OneKey {
    fn known(&self, kid: &Kid) -> Result<Known<'_>, AssetError> {
        Ok(if *kid == self.kid { Known::Usable(self.key_ref()) } else { Known::Foreign })
    }

    fn number(&self, _: &Kid) -> u32 {
        1
    }
}

fn vectors() -> Value {
    serde_json::from_str(FILE).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    hex::decode(text(value)).unwrap().try_into().unwrap()
}

fn sql(described: &Value) -> Sql {
    let hex = described.get("hex").map(|hex| hex::decode(text(hex)).unwrap());
    let value = || text(&described["value"]);
    match text(&described["class"]) {
        "null" => Sql::Null,
        "integer" => Sql::Integer(value().parse().unwrap()),
        "real" => Sql::Real(value().parse().unwrap()),
        "text" => Sql::Text(hex.unwrap_or_else(|| value().as_bytes().to_vec())),
        "blob" => Sql::Blob(hex.unwrap()),
        other => panic!("class {other}"),
    }
}

fn class(cell: &Value) -> Class {
    match cell["context"].get("keyrail.class").map(text) {
        None => Class::Same,
        Some("integer") => Class::Integer,
        Some("real") => Class::Real,
        Some("json") => Class::Json,
        Some(other) => panic!("class {other}"),
    }
}

/// The cell as a row of an asset, in a document if it is a member of one.
fn row(cell: &Value) -> (AssetSpec, Row) {
    let json = cell.get("json_member").is_some();
    let json_path = json.then(|| "$.m".parse().unwrap());
    let column = CellSpec { id: text(&cell["column"]).parse::<ColumnId>().unwrap(), column: "c".to_owned(), json_path };
    let identity = cell["row"].as_str().map(RowIdentity::from_text);
    let spec = AssetSpec {
        asset: text(&cell["asset"]).parse::<AssetId>().unwrap(),
        url: String::new(),
        schema: None,
        table: String::new(),
        identity: if identity.is_some() { IdentityKind::PrimaryKey } else { IdentityKind::None },
        identity_columns: Vec::new(),
        cells: vec![column],
    };
    let stored = match (cell.get("stored_hex"), json) {
        (Some(hex), _) => Sql::Blob(hex::decode(text(hex)).unwrap()),
        (None, false) => Sql::Text(text(&cell["stored"]).into()),
        (None, true) => Sql::Text(format!("{{\"m\": {}}}", cell["stored"]).into_bytes()),
    };
    (spec, Row { key: vec![Sql::Integer(1)], guard: Vec::new(), identity, values: vec![stored] })
}

#[test]
fn rows_have_the_identity_that_the_vectors_say() {
    let vectors = vectors();
    let rows = vectors["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 20);
    for row in rows {
        let values: Vec<_> = row["values"].as_array().unwrap().iter().map(sql).collect();
        assert_eq!(RowIdentity::of(&values).as_str(), text(&row["row"]), "{}", row["id"]);
    }
}

#[test]
fn cells_are_made_and_opened_as_the_vectors_say() {
    let vectors = vectors();
    let key = OneKey::of(&vectors);
    let cells = vectors["valid"].as_array().unwrap();
    assert_eq!(cells.len(), 11);
    for cell in cells {
        let (spec, row) = row(cell);
        let binding = Binding { asset: &spec.asset, column: &spec.cells[0].id, row: row.identity.as_ref() };
        let context = binding.context(class(cell)).unwrap();
        let pairs: serde_json::Map<String, Value> =
            context.iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        assert_eq!(&Value::from(pairs), &cell["context"], "{}", cell["id"]);
        let plaintext = hex::decode(text(&cell["plaintext"])).unwrap();
        let made = envelope::danger_seal_deterministic(
            &key.key_ref(),
            &context,
            &plaintext,
            &array(&cell["salt"]),
            &array(&cell["iv"]),
        )
        .unwrap();
        match cell.get("stored_hex") {
            Some(hex) => assert_eq!(hex::encode(&made), text(hex), "{}", cell["id"]),
            None => assert_eq!(envelope::to_text(&made), text(&cell["stored"]), "{}", cell["id"]),
        }
        let want = &cell["opens_to"];
        let want = match (text(&want["class"]), cell.get("json_member").is_some()) {
            ("json", _) => Sql::Text(format!("{{\"m\": {}}}", text(&want["value"])).into_bytes()),
            (_, true) => Sql::Text(format!("{{\"m\": {}}}", want["value"]).into_bytes()),
            _ => sql(want),
        };
        assert_eq!(opened(&spec, &row, &key).unwrap(), [want], "{}", cell["id"]);
    }
}

#[test]
fn cells_that_were_moved_or_altered_do_not_open() {
    let vectors = vectors();
    let key = OneKey::of(&vectors);
    let cells = vectors["failing"].as_array().unwrap();
    assert_eq!(cells.len(), 9);
    for cell in cells {
        let (spec, row) = row(cell);
        let refused = opened(&spec, &row, &key);
        assert!(matches!(refused, Err(AssetError::Unopened { .. })), "{}: {refused:?}", cell["id"]);
    }
}

#[test]
fn the_specification_shows_the_worked_example_of_the_vectors() {
    let spec = include_str!("../../../../spec/asset-value.md");
    let squeezed: String = spec.split_whitespace().collect();
    let vectors = vectors();
    let example = &vectors["valid"][0];
    for name in ["key", "kid", "key_id"] {
        assert!(squeezed.contains(text(&vectors["key"][name])), "{name}");
    }
    for name in ["asset", "column", "plaintext", "salt", "iv", "stored"] {
        assert!(squeezed.contains(text(&example[name])), "{name}");
    }
    let ids = ["rows", "valid", "failing"].map(|list| vectors[list].as_array().unwrap().len());
    for cell in ["valid", "failing"].iter().flat_map(|list| vectors[*list].as_array().unwrap()) {
        let id = text(&cell["id"]);
        assert!(id == "row-of-two-columns" || spec.contains(&format!("`{id}`")), "{id} belongs to no sentence");
    }
    assert_eq!(ids, [20, 11, 9]);
}
