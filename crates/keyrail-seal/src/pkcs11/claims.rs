//! What a token says of itself and of the key: claims, which nothing here proves.

use cryptoki::object::{Attribute, AttributeType, ObjectHandle};

use super::error::TokenError;
use super::token::Token;
use crate::Claim;

/// The attributes that tell where the key came from, whether it ever left, and what it may do.
const ATTRIBUTES: [(&str, AttributeType); 17] = [
    ("key.id", AttributeType::Id),
    ("key.local", AttributeType::Local),
    ("key.always-sensitive", AttributeType::AlwaysSensitive),
    ("key.never-extractable", AttributeType::NeverExtractable),
    ("key.sensitive", AttributeType::Sensitive),
    ("key.extractable", AttributeType::Extractable),
    ("key.private", AttributeType::Private),
    ("key.modifiable", AttributeType::Modifiable),
    ("key.key-gen-mechanism", AttributeType::KeyGenMechanism),
    ("key.allowed-mechanisms", AttributeType::AllowedMechanisms),
    ("key.encrypt", AttributeType::Encrypt),
    ("key.decrypt", AttributeType::Decrypt),
    ("key.wrap", AttributeType::Wrap),
    ("key.unwrap", AttributeType::Unwrap),
    ("key.sign", AttributeType::Sign),
    ("key.derive", AttributeType::Derive),
    ("key.wrap-with-trusted", AttributeType::WrapWithTrusted),
];

/// How long a value may be, in bytes: tokens say what they like.
const VALUE_LEN_MAX: usize = 256;

/// Said where the token tells nothing.
const UNTOLD: &str = "not told";

/// Everything that the token claims.
pub(super) fn claims(token: &Token, key: ObjectHandle, label: &str) -> Result<Vec<Claim>, TokenError> {
    let (library, info) = (token.library()?, &token.info);
    let mut claims = vec![
        claim("module.manufacturer", library.manufacturer_id()),
        claim("module.description", library.library_description()),
        claim("module.version", &library.library_version().to_string()),
        claim("token.label", info.label()),
        claim("token.manufacturer", info.manufacturer_id()),
        claim("token.model", info.model()),
        claim("token.serial", info.serial_number()),
        claim("token.hardware", &info.hardware_version().to_string()),
        claim("token.firmware", &info.firmware_version().to_string()),
        claim("token.flags", &flags(token)),
        claim("key.label", label),
    ];
    for (name, attribute) in ATTRIBUTES {
        let told = token.attribute(key, attribute)?.and_then(|told| value_of(&told));
        claims.push(claim(name, told.as_deref().unwrap_or(UNTOLD)));
    }
    Ok(claims)
}

/// One claim, without what could play with the screen of whoever reads it.
fn claim(name: &'static str, value: &str) -> Claim {
    let mut value: String = value.chars().filter(|c| !c.is_control()).collect();
    value.truncate(value.floor_char_boundary(VALUE_LEN_MAX));
    Claim { name, value }
}

fn flags(token: &Token) -> String {
    let info = &token.info;
    let flags = [
        (info.rng(), "rng"),
        (info.write_protected(), "write-protected"),
        (info.login_required(), "login-required"),
        (info.user_pin_initialized(), "user-pin-initialized"),
        (info.protected_authentication_path(), "protected-authentication-path"),
        (info.token_initialized(), "token-initialized"),
        (info.user_pin_count_low(), "user-pin-count-low"),
        (info.user_pin_final_try(), "user-pin-final-try"),
        (info.user_pin_locked(), "user-pin-locked"),
        (info.so_pin_count_low(), "so-pin-count-low"),
        (info.so_pin_final_try(), "so-pin-final-try"),
        (info.so_pin_locked(), "so-pin-locked"),
        (info.error_state(), "error-state"),
    ];
    let set: Vec<_> = flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
    set.join(", ")
}

fn value_of(attribute: &Attribute) -> Option<String> {
    match attribute {
        Attribute::Local(yes)
        | Attribute::AlwaysSensitive(yes)
        | Attribute::NeverExtractable(yes)
        | Attribute::Sensitive(yes)
        | Attribute::Extractable(yes)
        | Attribute::Private(yes)
        | Attribute::Modifiable(yes)
        | Attribute::Encrypt(yes)
        | Attribute::Decrypt(yes)
        | Attribute::Wrap(yes)
        | Attribute::Unwrap(yes)
        | Attribute::Sign(yes)
        | Attribute::Derive(yes)
        | Attribute::WrapWithTrusted(yes) => Some(yes.to_string()),
        Attribute::Id(id) => Some(id.iter().map(|byte| format!("{byte:02x}")).collect()),
        Attribute::KeyGenMechanism(mechanism) => Some(mechanism.to_string()),
        Attribute::AllowedMechanisms(list) if !list.is_empty() => {
            Some(list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
        _ => None,
    }
}
