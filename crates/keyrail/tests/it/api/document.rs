//! The OpenAPI document: what is served, what is printed, and what another program makes of it.

use std::process::Command;

use http::Method;
use serde_json::Value;

use super::Api;
use super::access::routes;

#[test]
fn the_document_is_one_and_describes_every_route() {
    let api = Api::new();
    let said = api.http.send(Method::GET, "/v1/openapi.json", &[], &Value::Null);
    let served = said.json();
    assert_eq!(said.header("content-type"), "application/json");
    assert_eq!(served, api.place.run("openapi").json(), "what is served is what is printed");
    assert_eq!(served["openapi"], "3.1.0");
    for route in routes(&served) {
        let (method, path) = route.split_once(' ').unwrap();
        let operation = &served["paths"][path][method.to_lowercase()];
        let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{route}"));
        assert!(!id.is_empty() && !operation["summary"].as_str().unwrap().is_empty(), "{route}");
        assert!(operation["responses"]["200"].is_object() && operation["responses"]["default"].is_object(), "{route}");
        // Each one is routed: a stranger's call is told something else than that there is no such path.
        let real = path.replace("{version}", "1").replace("{id}", &"0".repeat(32)).replace(['{', '}'], "");
        let said = api.with_token("nothing").send(method.parse().unwrap(), &real, &[], &serde_json::json!({}));
        assert_ne!(said.status, 405, "{route}");
        assert!(!said.text.contains("no_such_path"), "{route}: {}", said.text);
        // What is a change takes an idempotency key; what has an ETag, If-Match too.
        let headers: Vec<_> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|row| row["in"] == "header")
            .map(|row| row["name"].as_str().unwrap())
            .collect();
        let reads = ["GET"].contains(&method)
            || [
                "encrypt",
                "decrypt",
                "reencrypt",
                "makeDataKey",
                "censusAsset",
                "planCampaign",
                "exportVersion",
                "makeBackup",
                "migrateRoot",
                "rehearseRoot",
                "rotateRoot",
                "seal",
                "unseal",
                "verifyStore",
                "takeEvidence",
            ]
            .contains(&id);
        assert_eq!(headers.contains(&"Idempotency-Key"), !reads, "{route}");
    }
}

/// The name or kind of a schema.
fn kind(schema: &Value) -> String {
    if schema.is_null() {
        return "nothing".to_owned();
    }
    if let Some(name) = schema["$ref"].as_str() {
        return name.rsplit('/').next().unwrap().to_owned();
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        if let Some(of) = schema[choice].as_array() {
            return of.iter().map(kind).collect::<Vec<_>>().join(if choice == "allOf" { " & " } else { " | " });
        }
    }
    match &schema["type"] {
        Value::String(word) if word == "array" => format!("[{}]", kind(&schema["items"])),
        Value::String(word) if word == "object" && schema["properties"].is_object() => {
            format!("{{ {} }}", fields(schema))
        }
        Value::String(word) => word.clone(),
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | "),
        _ => "anything".to_owned(),
    }
}

/// The fields of an object; those that need not be there end with `?`.
fn fields(schema: &Value) -> String {
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let fields = schema["properties"].as_object().into_iter().flatten();
    let shown = fields.map(|(name, of)| {
        let mark = if required.contains(&name.as_str()) { "" } else { "?" };
        format!("{name}{mark}: {}", kind(of))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// The document in few lines: each route with what it takes and gives, each type with its fields.
#[test]
fn routes_and_types_are_those_of_the_golden_file() {
    let document = crate::place::Place::new().run("openapi").json();
    let mut lines = String::new();
    for route in routes(&document) {
        let (method, path) = route.split_once(' ').unwrap();
        let operation = &document["paths"][path][method.to_lowercase()];
        let names = |place: &str| -> Vec<&str> {
            let all = operation["parameters"].as_array().into_iter().flatten();
            all.filter(|row| row["in"] == place).filter_map(|row| row["name"].as_str()).collect()
        };
        let body = kind(&operation["requestBody"]["content"]["application/json"]["schema"]);
        let answer = kind(&operation["responses"]["200"]["content"]["application/json"]["schema"]);
        let open = if operation["security"].is_array() { " (no token)" } else { "" };
        lines.push_str(&format!(
            "{method} {path}{open}\n    query {:?}, headers {:?}\n    {body} -> {answer}\n",
            names("query"),
            names("header")
        ));
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        lines.push_str(&format!("{name}: {}\n", kind(schema)));
    }
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/api/document.golden");
    if std::env::var_os("KEYRAIL_BLESS").is_some() {
        std::fs::write(golden, &lines).unwrap();
    }
    assert_eq!(lines, std::fs::read_to_string(golden).unwrap(), "KEYRAIL_BLESS=1 writes the file anew");
}

#[test]
fn the_document_is_valid_by_another_programs_judgement() {
    let api = Api::new();
    let file = api.place.file("openapi.json");
    std::fs::write(&file, api.place.ok("openapi").stdout).unwrap();
    let judged = judge(&file);
    assert!(
        judged.status.success(),
        "{}{}",
        String::from_utf8_lossy(&judged.stdout),
        String::from_utf8_lossy(&judged.stderr)
    );
    // A fault that is planted is found.
    let mut broken: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    broken["paths"]["/v1/keys"]["get"]["responses"] = serde_json::json!([]);
    std::fs::write(&file, broken.to_string()).unwrap();
    assert!(!judge(&file).status.success(), "a broken document passes");
}

/// `openapi-spec-validator`, from the packages of the tests.
fn judge(file: &std::path::Path) -> std::process::Output {
    let python = std::env::var_os("KEYRAIL_PYTHON").unwrap_or_else(|| "python3".into());
    let judged = Command::new(python).args(["-m", "openapi_spec_validator"]).arg(file).output();
    judged.expect("a Python with the package openapi-spec-validator (`cargo xtask test` makes one)")
}
