#![allow(clippy::unwrap_used, reason = "tests fail loudly")]

use std::collections::BTreeSet;

use keyrail_audit::{AppendError, LogError};
use keyrail_core::campaign::{CampaignError, CampaignEvent, CampaignState};
use keyrail_core::key::KeyError;
use keyrail_core::label::DemandError;
use keyrail_core::lifecycle::{LifecycleError, VersionEvent, VersionState};
use keyrail_core::name::VersionNumber;
use keyrail_core::retirement::Obstacle;
use keyrail_core::time::Timestamp;
use keyrail_crypto::CryptoError;
use keyrail_data::AssetError;
use keyrail_seal::{SealError, SealState, ShareProblem};
use keyrail_store::StoreError;

use super::*;

/// At least one error of every code of anchors.
fn anchor_errors() -> [EngineError; 4] {
    use EngineError as E;
    [
        E::AnchorAhead { found: 812, remembered: 900, place: "`/mnt/other/anchor`".to_owned() },
        E::AnchorFork { size: 900, place: "`https://witness.example` (witness.example/w1)".to_owned() },
        E::AnchorOther { place: "`/mnt/other/anchor`".to_owned(), problem: "it is not of this log".to_owned() },
        E::AnchorUnavailable { place: "`/mnt/other/anchor`".to_owned(), problem: "it is not there".to_owned() },
    ]
}

/// At least one error of every other code.
fn engine_errors() -> Vec<EngineError> {
    use EngineError as E;
    let version = VersionNumber::new(3).unwrap();
    let name = || "customer-pii".parse().unwrap();
    let at = Timestamp::from_millis(0);
    let outside = Obstacle::OutsideUse {
        principal: "token:0123".to_owned(),
        action: keyrail_core::access::Action::DataEncrypt,
        count: 7,
        last_at: at,
    };
    let left = Obstacle::ValuesLeft { asset: "people".parse().unwrap(), left: 12, damaged: 2 };
    let file = || std::io::Error::from(std::io::ErrorKind::NotFound);
    vec![
        E::AlreadyInitialized,
        E::AuditUnavailable(AppendError::Indeterminate),
        E::BadContext,
        E::Bug { what: "an answer that is no JSON" },
        E::Campaign(CampaignError { state: CampaignState::Completed, event: CampaignEvent::Pause }),
        E::Changed { expected: 2, found: 3 },
        E::ClockJumped { at },
        E::Contended,
        E::Crypto(CryptoError::System { what: "randomness" }),
        E::Demand(DemandError { demand: "write_window_seconds", value: 9, min: 1, max: 5 }),
        E::DestroyWaiting { seconds_left: 60 },
        E::Exists { what: "domain", name: "acme".to_owned() },
        E::File { action: "lock", path: "/data/lock".to_owned(), source: file() },
        E::IdempotencyConflict { same: true },
        E::IdempotencyConflict { same: false },
        E::InUse,
        E::Indeterminate,
        E::Invalid { problem: "`plaintext` is not base64".to_owned(), hint: "standard base64 with padding" },
        E::Key(KeyError::Disabled { name: name() }),
        E::Key(KeyError::Lifecycle(LifecycleError { state: VersionState::Active, event: VersionEvent::Retire })),
        E::Key(KeyError::NoSuchVersion { version }),
        E::Key(KeyError::ReplacementNeeded { version }),
        E::Key(KeyError::TooManyVersions { max: 1_000 }),
        E::Log(LogError::Closed),
        E::LogOlder { found: 5, remembered: 9 },
        E::LogWithoutStore,
        E::FormerLog { problem: "its head is missing".to_owned() },
        E::RollbackNotAccepted { found: 5, accepted: Some(9) },
        E::StateOlder { found: 5, logged: 9 },
        E::StateUnrecorded { generation: 9 },
        E::NotCiphertext,
        E::NotFound { what: "key", name: "acme/prod/crm/nothing".to_owned() },
        E::NotInitialized,
        E::OtherKey,
        E::Refused { reason: "the role does not include the action" },
        E::DestroyBlocked { obstacles: vec![left.clone()] },
        E::RetireBlocked { obstacles: vec![left, outside] },
        E::Sealed { state: SealState::Sealed },
        E::Sealed { state: SealState::WrongSecret },
        E::Sealed { state: SealState::RootUnavailable },
        E::ShuttingDown,
        E::StillCounting,
        E::Store(StoreError::ReadOnly),
        E::Store(StoreError::RowSeal { table: "key", id: "07".to_owned() }),
        E::NoLease,
        E::StoreStuck { seconds: 12 },
        E::TooLarge { what: "the batch", unit: "items", len: 10_001, max: 10_000 },
        E::TooMany { what: "labels", max: 256 },
        E::TooManyFailures,
        E::Unauthenticated,
        E::Unopenable,
        E::VersionUnusable { version, state: VersionState::Retired },
        E::VersionUnusable { version, state: VersionState::Suspended },
        E::VersionUnusable { version, state: VersionState::Destroyed },
        E::WriteWindowOpen { seconds_left: 60 },
    ]
}

fn root_errors() -> Vec<EngineError> {
    use EngineError as E;
    let file = std::io::Error::from(std::io::ErrorKind::NotFound);
    vec![
        E::Root(SealError::WrongSecret),
        E::Root(SealError::File { action: "read", path: "/key".into(), source: file }),
        E::Root(SealError::Permissions { path: "/key".into(), mode: 0o644 }),
        E::Root(SealError::SlotDamaged),
        E::RootSlot { id: "00112233445566778899aabbccddeeff".to_owned() },
        E::RootBusy,
        E::RootPlace { root: "pkcs11:/usr/lib/other.so?token=t&object=o&pin-file=/pin".to_owned() },
        E::Shares(SealError::Share { share: "share 2 (number 4)".to_owned(), problem: ShareProblem::DoesNotFit }),
        E::Shares(SealError::SharesDoNotOpen { given: 3, threshold: 3 }),
        E::Shares(SealError::TooFewShares { given: 2, threshold: 3 }),
        E::Shares(SealError::TooManyShares { given: 65, max: 64 }),
    ]
}

/// Errors of assets that hold no error of the database.
fn asset_errors() -> Vec<AssetError> {
    use AssetError as A;
    let row = || "i7".to_owned();
    vec![
        A::Url { url: "oracle:".to_owned() },
        A::NoFile { path: "/srv/app/data.sqlite".to_owned() },
        A::Absent { what: "column", name: "email".to_owned() },
        A::Unfit { problem: "column `email` has the index `by_email`".to_owned(), hint: "drop it".to_owned() },
        A::Changed { problem: "column `email` is gone".to_owned() },
        A::Moved,
        A::Altered { row: row() },
        A::JsonPath { path: "a.b".to_owned() },
        A::TooLong { row: row(), max: 1_000 },
        A::NotVerified { row: row() },
        A::Unopened { row: row() },
    ]
}

fn refusals() -> [RequestRefusal; 7] {
    use RequestRefusal as R;
    [R::BodyTooSlow, R::Busy, R::HeadersTooLarge, R::Method, R::Path, R::Query, R::MediaType]
}

fn problems() -> Vec<Problem> {
    let engine = anchor_errors().into_iter().chain(engine_errors()).chain(root_errors());
    let engine = engine.map(|error| Problem::of(&error));
    let asset = asset_errors().into_iter().map(|error| Problem::of(&error.into_engine("people")));
    engine.chain(asset).chain(refusals().map(Problem::request)).collect()
}

/// What programs and people are told, in one table: a change of a code, a status or a text shows up here.
#[test]
fn every_error_with_its_code_status_text_and_hint() {
    let mut lines: Vec<_> = problems()
        .iter()
        .map(|problem| {
            let hint = problem.hint.as_deref().unwrap_or("NO HINT");
            format!(
                "{} {} {}\n    error: {}\n    hint: {hint}\n",
                problem.code, problem.status, problem.fault, problem.title
            )
        })
        .collect();
    lines.sort();
    let found = lines.concat();
    if std::env::var_os("KEYRAIL_BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/problem/problems.golden"), &found).unwrap();
    }
    assert_eq!(found, include_str!("problems.golden"), "KEYRAIL_BLESS=1 writes the table anew");
}

/// Who waits need not read the sentence.
#[test]
fn what_lasts_a_known_time_tells_it_as_a_number() {
    for problem in problems() {
        let body = serde_json::to_value(&problem).unwrap();
        let want = ["destroy_waiting", "write_window_open"].contains(&problem.code.as_str()).then_some(60);
        assert_eq!(body.get("seconds_left").and_then(serde_json::Value::as_u64), want, "{}", problem.code);
        assert_eq!(body.get("seconds_left").is_some(), want.is_some(), "{}", problem.code);
    }
}

#[test]
fn no_code_is_left_out() {
    let shown: BTreeSet<String> = problems().into_iter().map(|problem| problem.code).collect();
    let listed = |source: &str| -> BTreeSet<String> {
        let codes = source.split("pub fn code(&self)").nth(1).unwrap().split("pub fn fault").next().unwrap().to_owned();
        codes.split("=> \"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    };
    let engine = listed(include_str!("../../../keyrail-engine/src/error.rs"));
    assert!(engine.len() > 35, "{engine:?}");
    assert_eq!(engine.difference(&shown).collect::<Vec<_>>(), Vec::<&String>::new());
    // Those of assets that are left out hold an error of the database, which only a database can make.
    let of_database = [
        "asset_open",
        "asset_unreachable",
        "asset_login",
        "asset_denied",
        "asset_unfinished",
        "asset_busy",
        "asset_full",
        "asset_read_only",
        "asset_damaged",
        "asset_constraint",
        "asset_failed",
    ];
    let asset = listed(include_str!("../../../keyrail-data/src/error.rs"));
    let left: Vec<_> =
        asset.difference(&shown).map(String::as_str).filter(|code| !of_database.contains(code)).collect();
    assert_eq!(left, Vec::<&str>::new());
}

/// Who looks a code up in the documentation finds it, with the exit code that the command line ends with.
#[test]
fn the_documentation_lists_every_code() {
    let page = include_str!("../../../../docs/operate/errors.md");
    let exits =
        [("caller", "2"), ("refused", "3"), ("absent", "4"), ("stored-data", "5"), ("dependency", "6"), ("bug", "70")];
    for problem in problems() {
        let start = format!("| `{}` | ", problem.code);
        let row = page.lines().find_map(|line| line.strip_prefix(&start));
        let listed = row.unwrap_or_else(|| panic!("`{}` has no row", problem.code)).split('|').next().unwrap();
        let (_, exit) = exits.iter().find(|(fault, _)| *fault == problem.fault).unwrap();
        assert!(listed.split(',').any(|code| code.trim() == *exit), "`{}` ends with {exit}", problem.code);
    }
}

/// The style of all messages: a sentence in lower case without a full stop, advice apart from it.
#[test]
fn every_error_is_worded_alike() {
    for problem in problems() {
        let hint = problem.hint.clone().unwrap_or_default();
        for text in [&problem.title, &hint] {
            assert!(!text.is_empty(), "{}", problem.code);
            let first = text.chars().next().unwrap();
            assert!(!first.is_uppercase(), "{}: {text}", problem.code);
            // A hint may end with the beginning of every ciphertext.
            assert!(!text.ends_with('.') || text.ends_with("kr1."), "{}: {text}", problem.code);
            assert!(!text.contains('\n') && !text.contains('\''), "{}: {text}", problem.code);
        }
    }
}
