use keyrail_crypto::envelope::Kid;
use keyrail_crypto::suite::Suite;

use super::*;
use crate::id::{DataKeyId, MasterVersionId};
use crate::time::BootId;
use crate::usage::Usage;

fn version(state: VersionState, fenced_at: Option<i64>) -> DataKeyVersion {
    DataKeyVersion {
        kid: Kid::from_bytes([1; 16]),
        key: DataKeyId::from_bytes([2; 16]),
        version: VersionNumber::FIRST,
        state,
        suite: Suite::default(),
        wrapped: Some(vec![0]),
        wrapped_by: MasterVersionId::from_bytes([3; 16]),
        wrap_generation: 1,
        created_at: Timestamp::from_millis(0),
        activated_at: Some(Timestamp::from_millis(0)),
        state_changed_at: Timestamp::from_millis(7_000),
        fenced_at: fenced_at.map(Timestamp::from_millis),
        fenced_window_seconds: None,
        destroy: None,
        generation: 1,
    }
}

fn asset(left: u64, damaged: u64, campaign_open: bool) -> AssetEvidence {
    let open_campaign = campaign_open.then(|| (CampaignId::from_bytes([7; 16]), CampaignState::Paused));
    AssetEvidence { asset: "people".parse().unwrap(), census: Ok(AssetCount { left, damaged }), open_campaign }
}

fn uncounted() -> AssetEvidence {
    AssetEvidence { census: Err(CensusFailure), ..asset(0, 0, false) }
}

fn used(principal: &str, action: Action) -> OutsideUse {
    let count = UsageCount::once(3, Timestamp::from_millis(5_000));
    OutsideUse { principal: principal.to_owned(), action, count }
}

/// What an obstacle is, without its figures.
fn word(obstacle: &Obstacle) -> &'static str {
    match obstacle {
        Obstacle::ValuesLeft { damaged: 0, .. } => "values",
        Obstacle::ValuesLeft { .. } => "damaged values",
        Obstacle::CampaignOpen { .. } => "campaign",
        Obstacle::NotCounted { .. } => "not counted",
        Obstacle::OutsideUse { .. } => "use",
        Obstacle::WrongState { .. } => "state",
    }
}

#[test]
fn what_stands_in_the_way_of_retirement() {
    use VersionState as S;
    let token = "token:00000000000000000000000000000001";
    let encrypted = used(token, Action::DataEncrypt);
    let exported = used("local-operator", Action::KeyExport);
    type Row<'a> = (&'a str, S, Vec<AssetEvidence>, Vec<OutsideUse>, Vec<&'a str>, Vec<&'a str>);
    let rows: Vec<Row<'_>> = vec![
        ("nothing", S::Deactivated, vec![], vec![], vec![], vec![]),
        ("a clean asset", S::Deactivated, vec![asset(0, 0, false)], vec![], vec![], vec![]),
        ("values left", S::Deactivated, vec![asset(2, 0, false)], vec![], vec![], vec!["values"]),
        ("damaged ones left", S::Deactivated, vec![asset(2, 1, true)], vec![], vec![], vec!["damaged values"]),
        ("an open campaign", S::Deactivated, vec![asset(0, 0, true)], vec![], vec![], vec!["campaign"]),
        ("absence proves nothing", S::Deactivated, vec![uncounted()], vec![], vec![], vec!["not counted"]),
        (
            "one asset of two",
            S::Deactivated,
            vec![asset(0, 0, false), asset(1, 0, false)],
            vec![],
            vec![],
            vec!["values"],
        ),
        ("use outside", S::Deactivated, vec![], vec![encrypted.clone()], vec![], vec!["use"]),
        ("use that is answered for", S::Deactivated, vec![], vec![encrypted.clone()], vec![token], vec![]),
        ("another's name", S::Deactivated, vec![], vec![encrypted.clone()], vec!["local-operator"], vec!["use"]),
        ("each by name", S::Deactivated, vec![], vec![encrypted.clone(), exported.clone()], vec![token], vec!["use"]),
        (
            "both at once",
            S::Deactivated,
            vec![asset(1, 0, false)],
            vec![exported.clone()],
            vec![],
            vec!["values", "use"],
        ),
        (
            "no name answers for values",
            S::Deactivated,
            vec![asset(1, 0, false)],
            vec![],
            vec!["people"],
            vec!["values"],
        ),
        ("pre-active", S::PreActive, vec![], vec![], vec![], vec!["state"]),
        ("active", S::Active, vec![], vec![], vec![], vec!["state"]),
        ("suspended", S::Suspended, vec![], vec![], vec![], vec!["state"]),
        ("retired", S::Retired, vec![], vec![], vec![], vec!["state"]),
        ("compromised", S::Compromised, vec![], vec![], vec![], vec!["state"]),
        ("destroyed", S::Destroyed, vec![], vec![], vec![], vec!["state"]),
    ];
    for (name, state, assets, outside, acknowledged, want) in rows {
        let acknowledged: Vec<_> = acknowledged.into_iter().map(str::to_owned).collect();
        let found = obstacles(&version(state, Some(0)), &assets, &outside, &acknowledged);
        assert_eq!(found.iter().map(word).collect::<Vec<_>>(), want, "{name}");
        assert!(found.iter().all(|obstacle| !obstacle.hint().is_empty()), "{name}");
    }
}

/// Nothing but a running campaign goes on by itself.
#[test]
fn an_open_campaign_is_named_with_what_takes_it_on() {
    let id = CampaignId::from_bytes([7; 16]);
    for &state in CampaignState::ALL {
        let hint = Obstacle::CampaignOpen { asset: "people".parse().unwrap(), id, state }.hint();
        let verb = if state == CampaignState::Running { "status" } else { "resume" };
        assert!(hint.contains(&format!("`keyrail campaign {verb} {id}`")), "{state}: {hint}");
    }
}

#[test]
fn what_stands_in_the_way_of_destruction() {
    use VersionState as S;
    let encrypted = used("local-operator", Action::DataEncrypt);
    let rows = [
        ("retired, use was answered for", S::Retired, vec![], vec![encrypted.clone()], vec![], vec![]),
        ("retired, values arrived later", S::Retired, vec![asset(1, 0, false)], vec![], vec![], vec!["values"]),
        ("retired, not counted", S::Retired, vec![uncounted()], vec![], vec![], vec!["not counted"]),
        ("compromised, use outside", S::Compromised, vec![], vec![encrypted.clone()], vec![], vec!["use"]),
        ("compromised, answered for", S::Compromised, vec![], vec![encrypted], vec!["local-operator"], vec![]),
        ("compromised, values left", S::Compromised, vec![asset(5, 0, false)], vec![], vec![], vec!["values"]),
    ];
    for (name, state, assets, outside, acknowledged, want) in rows {
        let acknowledged: Vec<_> = acknowledged.into_iter().map(str::to_owned).collect();
        let found = destroy_obstacles(&version(state, Some(0)), &assets, &outside, &acknowledged);
        assert_eq!(found.iter().map(word).collect::<Vec<_>>(), want, "{name}");
    }
}

#[test]
fn only_use_that_no_asset_accounts_for_is_outside() {
    let row = |place, principal: &str| Usage {
        key: crate::usage::UsageKey {
            kid: Kid::from_bytes([1; 16]),
            principal: principal.to_owned(),
            action: Action::DataDecrypt,
            place,
        },
        count: UsageCount::once(2, Timestamp::from_millis(9)),
        generation: 1,
    };
    let rows = [row(UsagePlace::Asset, "system"), row(UsagePlace::Outside, "local-operator")];
    let outside = outside_use(rows.iter().map(|row| (&row.key, &row.count)));
    assert_eq!(outside.len(), 1);
    assert_eq!((outside[0].principal.as_str(), outside[0].count.count), ("local-operator", 2));
}

#[test]
fn the_write_window_counts_from_the_fence_and_anew_when_the_clock_was_set() {
    let rows = [
        ("right after the fence", 100_000, None, 60_600),
        ("half of it", 130_000, None, 30_600),
        ("what is left is for slow clocks", 160_000, None, 600),
        ("to the millisecond", 160_599, None, 1),
        ("over", 160_600, None, 0),
        ("long over", 999_000_000, None, 0),
        ("the clock went back", 50_000, None, 60_600),
        ("set forward over the end", 500_000, Some(500_000), 60_600),
        ("and a while later", 560_600, Some(500_000), 0),
        ("set back before the fence", 41_000, Some(40_000), 59_600),
        ("a fence after the clock was set", 130_000, Some(90_000), 30_600),
    ];
    let window = WriteWindow { fenced_at: Timestamp::from_millis(100_000), fenced_boot: None, seconds: 60 };
    for (name, now, set_at, want) in rows {
        let set_at = set_at.map(Timestamp::from_millis);
        assert_eq!(window.left_millis(seen(now, 0), set_at, Drift::STATED), want, "{name}");
    }
}

fn seen(wall: i64, uptime_millis: u64) -> Observation {
    Observation { boot: BootId([1; 16]), wall: Timestamp::from_millis(wall), uptime_millis }
}

/// A step that is too small to be seen closes no window, as long as this start of the machine knows of the fence.
#[test]
fn a_small_step_of_the_wall_clock_does_not_shorten_a_window() {
    let fenced_boot = Some(seen(0, 7_000).boot_time());
    let window = WriteWindow { fenced_at: Timestamp::from_millis(100_000), fenced_boot, seconds: 60 };
    let rows = [
        ("both clocks agree", seen(130_000, 37_000), 30_600),
        ("stepped forward", seen(134_000, 37_000), 30_600),
        ("stepped back", seen(126_000, 37_000), 34_600),
        ("another start", Observation { boot: BootId([2; 16]), ..seen(130_000, 900_000) }, 30_600),
        ("an earlier moment", seen(130_000, 6_000), 30_600),
    ];
    for (name, now, want) in rows {
        assert_eq!(window.left_millis(now, None, Drift::STATED), want, "{name}");
    }
}

#[test]
fn nobody_may_store_later_than_the_window_is_waited_out() {
    let window = WriteWindow { fenced_at: Timestamp::from_millis(0), fenced_boot: None, seconds: 60 };
    assert!(WriteWindow::may_store(60, 59_999) && !WriteWindow::may_store(60, 60_000));
    // The caller's clock shows the least that it can: it goes slower by all of the drift.
    let closes = window.left_millis(seen(0, 0), None, Drift::STATED);
    let shown = closes * 1000 / (1000 + Drift::STATED.per_mille);
    assert!(!WriteWindow::may_store(60, shown));
    assert!(!WriteWindow::may_store(0, 0));
}

/// Whenever the window closes: what a retirement rests on is counted after that, and once.
#[test]
fn the_steps_of_a_retirement() {
    let wait = Step::Wait { millis_left: 5 };
    let rows: [(&str, &[u64], &[Step]); 4] = [
        ("a closed window", &[0, 0], &[Step::Count, Step::Retire]),
        ("an open one", &[5, 5, 5, 0, 0], &[Step::Look, wait, wait, Step::Count, Step::Retire]),
        ("it closes during the look", &[5, 0, 0], &[Step::Look, Step::Count, Step::Retire]),
        ("it began anew during the count", &[0, 5], &[Step::Count, Step::Retire]),
    ];
    for (name, left, want) in rows {
        let mut progress = Progress::default();
        let mut steps = Vec::new();
        for left in left {
            let step = progress.next(*left);
            progress = progress.after(step);
            steps.push(step);
        }
        assert_eq!(steps, want, "{name}");
    }
}
