//! Retirement: what stands in its way, as a pure function of the evidence.

use crate::access::Action;
use crate::campaign::CampaignState;
use crate::fence::Drift;
use crate::id::CampaignId;
use crate::key::DataKeyVersion;
use crate::lifecycle::VersionState;
use crate::name::{Name, VersionNumber};
use crate::time::{BootTime, Observation, Timestamp};
use crate::usage::{UsageCount, UsageKey, UsagePlace};

/// What the census of one asset says of the version that is to go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AssetEvidence {
    /// The asset.
    pub asset: Name,
    /// Cells under the version, or why they could not be counted.
    pub census: Result<AssetCount, CensusFailure>,
    /// A campaign on the asset that is not finished, and how far it is.
    pub open_campaign: Option<(CampaignId, CampaignState)>,
}

/// Cells of one asset.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AssetCount {
    /// Cells under the version.
    pub left: u64,
    /// Of those, cells that do not open and were not accepted.
    pub damaged: u64,
}

/// The asset could not be counted; its absence proves nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CensusFailure;

/// Use of the version by a caller of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OutsideUse {
    /// Who.
    pub principal: String,
    /// What.
    pub action: Action,
    /// How often, and when last.
    pub count: UsageCount,
}

/// Something that stands in the way of retirement.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Obstacle {
    /// The asset still holds values under the version.
    #[error("asset `{asset}` holds {left} values under this version, {damaged} of them damaged")]
    ValuesLeft {
        /// The asset.
        asset: Name,
        /// Cells under the version.
        left: u64,
        /// Of those, damaged and not accepted.
        damaged: u64,
    },
    /// A campaign on the asset is not finished.
    #[error("a campaign on asset `{asset}` is {state} and not finished")]
    CampaignOpen {
        /// The asset.
        asset: Name,
        /// The campaign.
        id: CampaignId,
        /// How far it is.
        state: CampaignState,
    },
    /// The asset could not be counted.
    #[error("asset `{asset}` could not be counted")]
    NotCounted {
        /// The asset.
        asset: Name,
    },
    /// Somebody used the version outside every registered asset.
    #[error("`{principal}` used this version outside every asset: {action}, {count} times, last at {last_at}")]
    OutsideUse {
        /// Who.
        principal: String,
        /// What.
        action: Action,
        /// How often.
        count: u64,
        /// When last.
        last_at: Timestamp,
    },
    /// The version's state does not allow it.
    #[error("key version {version} is {state}, and only a deactivated one is retired")]
    WrongState {
        /// The version.
        version: VersionNumber,
        /// Its state.
        state: VersionState,
    },
}

impl Obstacle {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::ValuesLeft { asset, damaged: 0, .. } => format!("run `keyrail campaign start {asset}`"),
            Self::ValuesLeft { asset, .. } => {
                format!(
                    "run `keyrail campaign start {asset}`, and look at the damaged ones with `keyrail asset census {asset}`"
                )
            }
            Self::CampaignOpen { id, state: CampaignState::Running, .. } => {
                format!("let it finish: `keyrail campaign status {id}` tells how far it is")
            }
            Self::CampaignOpen { id, .. } => format!("let it go on: `keyrail campaign resume {id}`"),
            Self::NotCounted { asset } => format!("make it reachable and run `keyrail asset census {asset}`"),
            Self::OutsideUse { principal, .. } => {
                format!(
                    "let that caller re-encrypt what it holds, or accept the loss by name: --acknowledge {principal}"
                )
            }
            Self::WrongState { state: VersionState::Active, .. } => {
                "rotate the key first: `keyrail key rotate`".to_owned()
            }
            Self::WrongState { .. } => "`keyrail key show` tells the state of each version".to_owned(),
        }
    }
}

/// Lists what stands in the way of retiring `version`; empty means that nothing does.
///
/// `acknowledged` are the principals whose use outside assets somebody answered for by name.
pub fn obstacles(
    version: &DataKeyVersion,
    assets: &[AssetEvidence],
    outside: &[OutsideUse],
    acknowledged: &[String],
) -> Vec<Obstacle> {
    if version.state != VersionState::Deactivated {
        return vec![Obstacle::WrongState { version: version.version, state: version.state }];
    }
    let in_assets = assets.iter().filter_map(asset_obstacle);
    let unanswered = outside.iter().filter(|usage| !acknowledged.contains(&usage.principal));
    in_assets.chain(unanswered.map(outside_obstacle)).collect()
}

/// Lists what stands in the way of destroying `version`, whose data is lost with it; empty means that nothing does.
///
/// Whoever used a retired version outside assets was answered for when it was retired, and it opened nothing since. A
/// version that never was retired, because it is compromised, asks for the same acknowledgement now.
pub fn destroy_obstacles(
    version: &DataKeyVersion,
    assets: &[AssetEvidence],
    outside: &[OutsideUse],
    acknowledged: &[String],
) -> Vec<Obstacle> {
    let in_assets = assets.iter().filter_map(asset_obstacle);
    let asks = version.state == VersionState::Compromised;
    let unanswered = outside.iter().filter(|usage| asks && !acknowledged.contains(&usage.principal));
    in_assets.chain(unanswered.map(outside_obstacle)).collect()
}

/// The uses of a version that no asset accounts for.
pub fn outside_use<'a>(usage: impl IntoIterator<Item = (&'a UsageKey, &'a UsageCount)>) -> Vec<OutsideUse> {
    let outside = usage.into_iter().filter(|(key, _)| key.place == UsagePlace::Outside);
    outside
        .map(|(key, count)| OutsideUse { principal: key.principal.clone(), action: key.action, count: *count })
        .collect()
}

/// The time in which a caller may still store a ciphertext that it asked for before its version was fenced.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct WriteWindow {
    /// When the version was fenced: it encrypts nothing since.
    pub fenced_at: Timestamp,
    /// The same on the machine's own clock, as long as that is known.
    pub fenced_boot: Option<BootTime>,
    /// How long callers were told that they have, in seconds.
    pub seconds: u64,
}

impl WriteWindow {
    /// Whether a caller may still store a ciphertext so long after it sent its request, on its own clock. Counted from
    /// the answer it would come too late: an answer may be under way for any time.
    pub const fn may_store(seconds: u64, passed_millis: u64) -> bool {
        passed_millis < seconds.saturating_mul(1000)
    }

    /// How long it stays open, in milliseconds: until the last caller that may store has done so, however slow its clock is.
    ///
    /// `clock_set_at` is when somebody was last seen to set the wall clock: how long ago an earlier fence was is not
    /// known then, and its window counts from there. A smaller step of the wall clock is not seen; the machine's own clock
    /// makes up for it, as long as it knows when the fence was.
    pub fn left_millis(self, now: Observation, clock_set_at: Option<Timestamp>, drift: Drift) -> u64 {
        let counts_from = match clock_set_at {
            // A fence that seems to lie ahead was made before the clock was set back.
            Some(set_at) if self.fenced_at < set_at || self.fenced_at > now.wall => set_at,
            _ => self.fenced_at,
        };
        let waits = drift.waited_millis(self.seconds.saturating_mul(1000));
        let by_wall = now.wall.as_millis().saturating_sub(counts_from.as_millis());
        let by_boot = self.fenced_boot.and_then(|fenced| now.boot_time().millis_since(fenced));
        let passed = u64::try_from(by_wall).unwrap_or(0).min(by_boot.unwrap_or(u64::MAX));
        waits.saturating_sub(passed)
    }
}

/// How far a retirement is.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Progress {
    /// Nothing was counted.
    #[default]
    Begun,
    /// Nothing was in the way while the write window was open. That proves nothing, and spares a wait that would end in a
    /// refusal.
    Looked,
    /// Nothing was in the way when the window was closed.
    Counted,
}

/// What comes next in a retirement.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Step {
    /// Look what is in the way; what is refused now need not be waited for.
    Look,
    /// Wait until the window is closed.
    Wait {
        /// Until then, in milliseconds.
        millis_left: u64,
    },
    /// Count what the retirement rests on.
    Count,
    /// Retire.
    Retire,
}

impl Progress {
    /// What comes next, with a write window that stays open for so many milliseconds.
    pub const fn next(self, window_left_millis: u64) -> Step {
        match (self, window_left_millis) {
            (Self::Counted, _) => Step::Retire,
            (Self::Begun | Self::Looked, 0) => Step::Count,
            (Self::Begun, _) => Step::Look,
            (Self::Looked, millis_left) => Step::Wait { millis_left },
        }
    }

    /// How far it is after a step that found nothing in the way.
    #[must_use]
    pub const fn after(self, step: Step) -> Self {
        match step {
            Step::Look => Self::Looked,
            Step::Count => Self::Counted,
            Step::Wait { .. } | Step::Retire => self,
        }
    }
}

fn asset_obstacle(evidence: &AssetEvidence) -> Option<Obstacle> {
    let asset = evidence.asset.clone();
    match evidence.census {
        Err(CensusFailure) => Some(Obstacle::NotCounted { asset }),
        Ok(AssetCount { left, damaged }) if left > 0 => Some(Obstacle::ValuesLeft { asset, left, damaged }),
        Ok(_) => evidence.open_campaign.map(|(id, state)| Obstacle::CampaignOpen { asset, id, state }),
    }
}

fn outside_obstacle(usage: &OutsideUse) -> Obstacle {
    Obstacle::OutsideUse {
        principal: usage.principal.clone(),
        action: usage.action,
        count: usage.count.count,
        last_at: usage.count.last_at,
    }
}

/// How many principals one request may acknowledge.
pub const ACKNOWLEDGED_MAX: usize = 256;

/// The longest name of a principal that may be acknowledged, in bytes.
pub const ACKNOWLEDGED_LEN_MAX: usize = 128;

#[cfg(test)]
mod tests;
