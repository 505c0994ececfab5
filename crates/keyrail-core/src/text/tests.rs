//! The words of every public enum, as they stand in stores, logs, answers and scripts: a change shows up here.

use std::fmt::Debug;
use std::fmt::Write as _;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Checks that every form of a word is the same, and lists the words.
fn words<T>(lines: &mut String, name: &str, all: &[T])
where
    T: Copy + Debug + Eq + ToString + FromStr + Serialize + DeserializeOwned,
    <T as FromStr>::Err: Debug + ToString,
{
    let texts: Vec<_> = all.iter().map(ToString::to_string).collect();
    writeln!(lines, "{name}: {}", texts.join(" ")).unwrap();
    for (word, text) in all.iter().zip(&texts) {
        assert_eq!(text.parse::<T>().unwrap(), *word);
        assert_eq!(serde_json::to_string(word).unwrap(), format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<T>(&format!("\"{text}\"")).unwrap(), *word);
        for wrong in [text.to_uppercase(), format!("{text} "), String::new()] {
            assert!(wrong.parse::<T>().is_err(), "{name} `{wrong}`");
        }
    }
    let long = "x".repeat(500);
    let error = long.parse::<T>().unwrap_err().to_string();
    assert!(texts.iter().all(|text| error.contains(text)) && !error.contains(&long), "{error}");
}

macro_rules! golden {
    ($($type:ty),+ $(,)?) => {{
        let mut lines = String::new();
        $(words(&mut lines, stringify!($type).rsplit("::").next().unwrap_or_default().trim(), <$type>::ALL);)+
        lines
    }};
}

#[test]
fn the_words_of_every_public_enum() {
    let lines = golden!(
        crate::access::Action,
        crate::access::PrincipalKind,
        crate::access::Role,
        crate::asset::AssetState,
        crate::asset::IdentityKind,
        crate::campaign::CampaignEvent,
        crate::campaign::CampaignKind,
        crate::campaign::CampaignState,
        crate::key::DestroyHalt,
        crate::key::KeyStatus,
        crate::lifecycle::VersionEvent,
        crate::lifecycle::VersionState,
        crate::record::Outcome,
        crate::record::RecordDecision,
        crate::record::RecordKind,
        crate::rotation::RotationReason,
        crate::system::RootSecretPurpose,
        crate::system::SettingName,
        crate::system::SlotRole,
        crate::usage::UsagePlace,
    );
    assert_eq!(lines, include_str!("words.golden"));
}

/// A new enum has to be listed above.
#[test]
fn no_enum_is_left_out() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let mut declared = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(path).unwrap();
            declared += text.lines().filter(|line| line.trim().ends_with("text_enum! {")).count();
        }
    }
    assert_eq!(declared, include_str!("words.golden").lines().count());
}
