//! A key on a token of SoftHSM2, imported where its value must be known.

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::RawAuthPin;
use keyrail_crypto::secret::RootKey;
use keyrail_seal::{RootOfTrust, RootSlot, RootSpec, SealError, TokenError};
use keyrail_testkit::softhsm::{PIN, SoftHsm, TOKEN, in_child};
use serde_json::Value;

use crate::place::{Place, protected_by, require_silent, word};
use crate::vectors::{bytes, from_the_root_of, vectors};

/// The spec of a key, whose PIN file is made.
fn spec(place: &Place, object: &str, pin: &str) -> RootSpec {
    let pin = place.write("pin", pin.as_bytes(), 0o600);
    let module = SoftHsm::module().unwrap();
    let text = format!("pkcs11:{}?token=keyrail%20test&object={object}&pin-file={}", module.display(), pin.display());
    text.parse().unwrap()
}

/// Puts a key of a known value onto the token.
fn import(object: &str, key: &[u8]) {
    let module = Pkcs11::new(SoftHsm::module().unwrap()).unwrap();
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slots = module.get_slots_with_token().unwrap();
    let slot = slots.into_iter().find(|slot| module.get_token_info(*slot).unwrap().label() == TOKEN).unwrap();
    let session = module.open_rw_session(slot).unwrap();
    session.login_with_raw(UserType::User, &RawAuthPin::new(Box::new(PIN.into()))).unwrap();
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Label(object.into()),
        Attribute::Value(key.to_vec()),
        Attribute::Token(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
    ];
    session.create_object(&template).unwrap();
    drop(session);
    module.finalize().unwrap();
}

fn open(row: &Value, place: &Place, object: &str) -> Result<RootKey, SealError> {
    spec(place, object, PIN).resolve()?.open(&RootSlot::from_bytes(&bytes(row, "slot"))?)
}

/// The vectors of slots that a key on a token opens; the key of each is imported.
#[test]
fn slots_of_a_token_open_and_fail_as_their_vectors_say() {
    let hsm = SoftHsm::new().unwrap();
    let name = "pkcs11::slots_of_a_token_open_and_fail_as_their_vectors_say";
    if !in_child(name, |command| hsm.equip(command)).unwrap() {
        return;
    }
    let (vectors, place) = (vectors(), Place::new());
    let of_tokens = |list: &str| -> Vec<Value> {
        let rows = vectors[list].as_array().unwrap().iter().filter(|row| row["kind"] == "pkcs11");
        rows.cloned().collect()
    };
    let (valid, failing) = (of_tokens("valid"), of_tokens("failing"));
    assert_eq!((valid.len(), failing.len()), (1, 11));
    for (number, row) in valid.iter().enumerate() {
        let object = format!("valid{number}");
        import(&object, &bytes(row, "token_key"));
        from_the_root_of(row, &open(row, &place, &object).unwrap());
    }
    for row in &failing {
        let object = row["id"].as_str().unwrap();
        import(object, &bytes(row, "token_key"));
        let error = open(row, &place, object).err().unwrap_or_else(|| panic!("{object} opened"));
        assert_eq!(word(&error), row["failure"], "{object}");
        require_silent(&error, PIN.as_bytes());
    }
    // What was imported may have been anywhere before: it opens, and protects nothing new.
    let imported = spec(&place, "valid0", PIN).resolve().unwrap();
    let refused = imported.protect(&RootKey::generate().unwrap()).unwrap_err();
    assert!(matches!(refused, SealError::Token(TokenError::KeyWeak { .. })), "{refused}");
}

#[test]
fn a_key_is_made_where_there_is_none_and_opens_what_it_protected() {
    let hsm = SoftHsm::new().unwrap();
    let name = "pkcs11::a_key_is_made_where_there_is_none_and_opens_what_it_protected";
    if !in_child(name, |command| hsm.equip(command)).unwrap() {
        return;
    }
    let place = Place::new();
    let RootSpec::Pkcs11(named) = spec(&place, "root", PIN) else { panic!("another kind") };
    let root = keyrail_seal::Pkcs11Root::new(named);
    assert_eq!(word(&root.protect(&RootKey::generate().unwrap()).unwrap_err()), "key-missing");
    for _ in 0..2 {
        root.make_key_if_absent().unwrap();
    }
    let (key, slot) = protected_by(&root);
    assert!(root.open(&slot).unwrap().ct_eq(&key));
    let (_, other) = protected_by(&root);
    assert_eq!(slot.parameters, other.parameters);
    assert_ne!((slot.id, &slot.wrapped), (other.id, &other.wrapped));
    let keyrail_seal::SlotParameters::Pkcs11(kept) = &slot.parameters else { panic!("another kind") };
    assert_eq!((kept.token.as_str(), kept.object.as_str(), kept.key_id.len()), (TOKEN, "root", 16));
    assert_eq!(kept.serial.len(), 16);
    // Keys of one name that is not the one of the slot are others, and no reason to stop there.
    for _ in 0..2 {
        import("twin", &[7; 32]);
    }
    let others = spec(&place, "twin", PIN).resolve().unwrap().open(&slot).err().unwrap();
    assert!(word(&others) == "other-key" && others.is_of_another(), "{others}");
    // A wrong PIN is told, and remembered until the file changes.
    let wrong = spec(&place, "root", "000000-wrong").resolve().unwrap();
    for _ in 0..2 {
        let error = wrong.open(&slot).err().unwrap();
        assert_eq!(word(&error), "pin-refused");
        require_silent(&error, b"000000-wrong");
    }
    assert!(spec(&place, "root", PIN).resolve().unwrap().open(&slot).unwrap().ct_eq(&key));
}

#[test]
fn a_file_that_is_no_private_pin_is_refused_before_the_token_is_asked() {
    let place = Place::new();
    let slot = bytes(&vectors()["valid"][3], "slot");
    for (content, mode, expected) in [
        (&b""[..], 0o600, "malformed"),
        (b"\n", 0o600, "malformed"),
        (b"two\nlines\n", 0o600, "malformed"),
        (&[b'1'; 256], 0o600, "malformed"),
        (b"1234\n", 0o640, "permissions"),
        (b"1234\n", 0o604, "permissions"),
    ] {
        let pin = place.write("pin", content, mode);
        let spec: RootSpec = format!("pkcs11:/nowhere.so?token=t&object=o&pin-file={}", pin.display()).parse().unwrap();
        let error = spec.resolve().unwrap().open(&RootSlot::from_bytes(&slot).unwrap()).err().unwrap();
        assert_eq!(word(&error), expected);
        crate::place::set_mode(&pin, 0o600);
    }
    place.write("pin", b"1234\n", 0o600);
    let spec: RootSpec =
        format!("pkcs11:/nowhere.so?token=t&object=o&pin-file={}", place.path("pin").display()).parse().unwrap();
    let error = spec.resolve().unwrap().open(&RootSlot::from_bytes(&slot).unwrap()).err().unwrap();
    assert_eq!(word(&error), "module-missing");
}

#[test]
fn a_key_on_a_token_is_named_by_three_parameters() {
    let rows = [
        ("pkcs11:/m.so?token=t&object=o&pin-file=/p", None),
        ("pkcs11:/m.so?token=t&object=o&pin-file=/p&pin-value=1", Some("there is no parameter `pin-value`")),
        ("pkcs11:/m.so?token=t&object=o&token=u&pin-file=/p", Some("the parameter `token` is named twice")),
        ("pkcs11:/m.so?token=t&pin-file=/p", Some("the parameter `object` is missing")),
        ("pkcs11:/m.so?token=t&object=o", Some("the parameter `pin-file` is missing")),
        ("pkcs11:/m.so", Some("the parameter `token` is missing")),
        ("pkcs11:?token=t&object=o&pin-file=/p", Some("the parameter `MODULE` is missing")),
        ("pkcs11:/m.so?token=t%2&object=o&pin-file=/p", Some("a value is not percent-encoded")),
        ("pkcs11:/m.so?token=%ff&object=o&pin-file=/p", Some("a value is not percent-encoded")),
        ("pkcs11:/m.so?token=a%0a&object=o&pin-file=/p", Some("the parameter `token` is missing or")),
        ("pkcs11:/m.so?token=123456789012345678901234567890123&object=o&pin-file=/p", Some("the parameter `token`")),
        ("pkcs11:/m%00.so?token=t&object=o&pin-file=/p", Some("the parameter `MODULE` is missing or")),
    ];
    for (text, expected) in rows {
        let parsed = text.parse::<RootSpec>();
        match expected {
            None => assert_eq!(parsed.unwrap().to_string(), text),
            Some(expected) => {
                let said = parsed.map(|spec| spec.to_string()).unwrap_err().to_string();
                assert!(said.starts_with(expected), "{text}: {said}");
            }
        }
    }
    let odd = "pkcs11:/a%3Fb%26c%25d%ff?pin-file=/p%3D&object=%C3%BC%26&token=a%20b";
    let spec: RootSpec = odd.parse().unwrap();
    assert_eq!(spec.to_string(), "pkcs11:/a%3Fb%26c%25d%FF?token=a%20b&object=%C3%BC%26&pin-file=/p%3D");
    assert_eq!(spec.to_string().parse::<RootSpec>().unwrap(), spec);
}
