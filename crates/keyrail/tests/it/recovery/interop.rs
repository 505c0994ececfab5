//! Share files and other people's age: what Keyrail hands out is opened with code that is not ours, and put together by it;
//! what another age encrypted is told from a share.

use std::os::unix::fs::PermissionsExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{KEY, refused};
use crate::interop::answer;
use crate::place::Place;

const SCRIPT: &str = "recovery.py";

/// Writes a file of its owner; gives its name.
fn put(place: &Place, name: &str, content: &[u8]) -> String {
    let path = place.file(name);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// A share for the holder of an X25519 key and one for the holder of a post-quantum key.
#[test]
fn another_age_opens_the_files_and_other_code_puts_the_shares_together() {
    let holders = answer(SCRIPT, &json!({ "make": true }));
    let of = |name: &str| holders.as_array().unwrap().iter().map(|holder| holder[name].clone()).collect::<Vec<_>>();
    let (place, recipients) = (Place::new(), of("recipient"));
    let dir = place.file("shares");
    let [first, second] = [0, 1].map(|number| recipients[number].as_str().unwrap());
    assert!(first.starts_with("age1") && second.starts_with("age1pq1"), "{recipients:?}");
    let line = format!("init --json --recovery shamir:2/2 --share-recipient {first} --share-recipient {second}");
    let made = place.run(&format!("{line} --shares-dir {}", dir.display())).json();
    assert!(!made.to_string().contains("krs1."), "what is encrypted is not told");
    for line in ["domain create acme", "app create acme/prod/crm", &format!("key create {KEY} --label confidential")] {
        place.ok(line);
    }
    let files: Vec<_> =
        [1, 2].iter().map(|number| std::fs::read_to_string(dir.join(format!("share-{number}.age"))).unwrap()).collect();
    // One for each holder: the other's key opens nothing.
    let opened = answer(SCRIPT, &json!({ "identities": of("identity"), "files": files }));
    let set = &made["recovery"]["set"];
    for (index, head) in opened["heads"].as_array().unwrap().iter().enumerate() {
        let want = json!({ "format": 1, "set": set["set"], "threshold": 2, "total": 2, "index": index + 1 });
        assert_eq!(*head, want);
    }
    let store = rusqlite::Connection::open(place.data_dir().join("store.sqlite")).unwrap();
    let sql = "SELECT slot FROM root_slot WHERE role = 'recovery'";
    let slot: Vec<u8> = store.query_row(sql, [], |row| row.get(0)).unwrap();
    // Behind format, id, kind, set, threshold and total: `spec/root-slot.md`.
    assert_eq!(opened["fingerprint"], json!(hex::encode(&slot[36..52])), "the secret that the shares make");
    let texts: Vec<&str> = opened["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let written: Vec<_> =
        texts.iter().enumerate().map(|(number, text)| put(&place, &format!("{number}.txt"), text.as_bytes())).collect();
    place.ok(&format!("root rehearse --root shamir:{}", written.join(",")));

    // A holder keeps it in a file that his own age made. Keyrail tells it from a share, and takes what he decrypts.
    let again = answer(SCRIPT, &json!({ "text": texts[0], "recipient": first }));
    for (number, form) in again.as_array().unwrap().iter().enumerate() {
        let form = STANDARD.decode(form.as_str().unwrap()).unwrap();
        let file = put(&place, &format!("again-{number}"), &form);
        let ran = place.run(&format!("root rehearse --root shamir:{file},{}", written[1]));
        refused(&ran, &format!("`{file}`: it is still encrypted"));
    }
    let armored = String::from_utf8(STANDARD.decode(again[0].as_str().unwrap()).unwrap()).unwrap();
    let both = json!({ "identities": of("identity"), "files": [armored, files[1]] });
    let decrypted: Value = answer(SCRIPT, &both);
    let first = put(&place, "decrypted", decrypted["texts"][0].as_str().unwrap().as_bytes());
    place.ok(&format!("root rehearse --root shamir:{first},{}", written[1]));
}
