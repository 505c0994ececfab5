//! Ciphertexts go between the binary and code that is not ours: the COSE library `cwt` of Python, and thirty lines over
//! HKDF, AES-GCM and a CBOR reader.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::place::Place;

const KEYS: [(&str, &str); 2] = [("acme/prod/crm/with-aes", "confidential"), ("acme/prod/crm/with-chacha", "swift")];

/// An interpreter that has the packages; the run fails without one.
fn python() -> PathBuf {
    if let Some(python) = std::env::var_os("KEYRAIL_PYTHON") {
        return python.into();
    }
    let has = Command::new("python3").args(["-c", "import cbor2, cryptography, cwt"]).output();
    let has = has.is_ok_and(|output| output.status.success());
    assert!(
        has,
        "KEYRAIL_PYTHON is not set and python3 lacks cwt: run `cargo xtask test test`, or install xtask/python-requirements.txt"
    );
    "python3".into()
}

pub(crate) fn script(name: &str) -> Command {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/interop");
    let mut command = Command::new(python());
    // No compiled files are left in the repository.
    command.arg(dir.join(name)).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// What a script answers.
pub(crate) fn answer(name: &str, asked: &Value) -> Value {
    let mut child = script(name).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(asked.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What `exchange.py` answers.
fn exchange(asked: &Value) -> Value {
    answer("exchange.py", asked)
}

/// Plaintexts with their contexts.
fn items() -> Vec<(Vec<u8>, Value)> {
    vec![
        (b"Zo\xc3\xab <zoe@example.org>".to_vec(), json!({"table": "people", "row": "7"})),
        (Vec::new(), json!({})),
        (b"no context".to_vec(), json!({})),
        ((0..=255).cycle().take(70_001).collect(), json!({"имя": "Ὀδυσσεύς", "k": "", "longer key": "=x="})),
    ]
}

fn context_args(context: &Value) -> Vec<String> {
    let pairs = context.as_object().unwrap().iter();
    pairs.flat_map(|(key, value)| ["--context".to_owned(), format!("{key}={}", value.as_str().unwrap())]).collect()
}

/// Runs a verb of the binary on a key with a context; gives what it wrote.
fn with_context(place: &Place, verb: &str, key: &str, context: &Value, stdin: &[u8]) -> Vec<u8> {
    let dir = place.data_dir();
    let mut args: Vec<String> = ["--data-dir", dir.to_str().unwrap(), verb, key].map(str::to_owned).to_vec();
    args.extend(context_args(context));
    let ran = place.run_with(&args.iter().map(String::as_str).collect::<Vec<_>>(), stdin);
    assert_eq!(ran.code, 0, "{verb} {key}: {}", ran.stderr);
    ran.stdout
}

fn place_with_keys() -> Place {
    let place = Place::new();
    place.ok("init");
    place.ok("domain create acme");
    place.ok("app create acme/prod/crm");
    place.ok("label set swift --suite ChaCha20-Poly1305");
    for (key, label) in KEYS {
        place.ok(&format!("key create {key} --label {label}"));
    }
    place
}

#[test]
fn cwt_opens_what_the_binary_encrypts_and_the_binary_what_cwt_makes() {
    let place = place_with_keys();
    for (key, _) in KEYS {
        let ours = |(plaintext, context): &(Vec<u8>, Value)| {
            let line = with_context(&place, "encrypt", key, context, plaintext);
            json!({"text": String::from_utf8(line).unwrap().trim_end(), "context": context})
        };
        let open: Vec<_> = items().iter().map(ours).collect();
        let make: Vec<_> = items()
            .iter()
            .map(|(plaintext, context)| json!({"plaintext": STANDARD.encode(plaintext), "context": context}))
            .collect();
        let export = place.run(&format!("key export {key}@1 --json")).json();
        let answer = exchange(&json!({"export": export, "open": open, "make": make}));
        for (index, (plaintext, context)) in items().iter().enumerate() {
            let opened = &answer["opened"][index];
            assert_eq!(opened["hand"], STANDARD.encode(plaintext), "{key} by hand");
            assert_eq!(opened["cwt"], STANDARD.encode(plaintext), "{key} by cwt");
            let made = answer["made"][index].as_str().unwrap();
            assert_eq!(&with_context(&place, "decrypt", key, context, made.as_bytes()), plaintext, "{key}");
            // What others made is moved like our own.
            place.ok(&format!("key rotate {key}"));
            let moved = with_context(&place, "reencrypt", key, context, made.as_bytes());
            assert_eq!(&with_context(&place, "decrypt", key, context, &moved), plaintext, "{key}");
        }
    }
}

#[test]
fn what_cwt_makes_under_another_key_or_context_does_not_open() {
    let place = place_with_keys();
    let [(key, _), (other, _)] = KEYS;
    let export = |name: &str| place.run(&format!("key export {name}@1 --json")).json();
    let make = json!([{"plaintext": STANDARD.encode("data"), "context": {"row": "7"}}]);
    let made = |export: &Value| {
        let answer = exchange(&json!({"export": export, "open": [], "make": make}));
        answer["made"][0].as_str().unwrap().to_owned()
    };
    let sound = made(&export(key));
    assert_eq!(place.run_in(&format!("decrypt {key} --context row=7"), sound.as_bytes()).stdout, b"data");
    let mut forged = export(key);
    forged["key"] = export(other)["key"].clone();
    let mut misbound = export(key);
    misbound["key_id"] = export(other)["key_id"].clone();
    let refused = [
        place.run_in(&format!("decrypt {key} --context row=8"), sound.as_bytes()),
        place.run_in(&format!("decrypt {key} --context row=7"), made(&forged).as_bytes()),
        place.run_in(&format!("decrypt {key} --context row=7"), made(&misbound).as_bytes()),
    ];
    for ran in &refused {
        assert_eq!((ran.code, &ran.stderr, ran.stdout.len()), (5, &refused[0].stderr, 0), "one error for all");
    }
}

/// Only who may export gets the key, and it is on record.
#[test]
fn an_export_is_authorized_and_recorded() {
    let place = place_with_keys();
    let [(key, _), _] = KEYS;
    for role in ["auditor", "app --app acme/prod/crm"] {
        let token = place.run(&format!("token create --role {role} --json")).json();
        std::fs::write(place.file("token"), token["token"].as_str().unwrap()).unwrap();
        let line = format!("key export {key}@1 --json --token-file {}", place.file("token").display());
        let refused = place.run(&line);
        assert_eq!((refused.code, refused.stdout.len()), (3, 0), "{role}: {}", refused.stderr);
    }
    place.run(&format!("key export {key}@1 --json")).json();
    let shown = place.run("audit show --limit 100 --json").json();
    let exports: Vec<_> =
        shown["records"].as_array().unwrap().iter().filter(|record| record["action"] == "key.export").collect();
    assert_eq!(exports.len(), 3, "{exports:#?}");
}

/// Every byte of `testdata/vectors` comes from code that is not ours, and is still what that code makes.
#[test]
fn the_vectors_are_what_other_code_makes() {
    let output = script("make_vectors.py").arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
