//! What the root of trust says of itself: claims of a token, not attestation.

use std::sync::Arc;

use keyrail_core::access::Action;
use keyrail_core::record::{Detail, Record};
use keyrail_core::time::Timestamp;
use keyrail_seal::{Claim, Pkcs11Root, RootOfTrust, RootSpec};
use serde::{Deserialize, Serialize};

use crate::authorize::Authorized;
use crate::error::EngineError;
use crate::parallel::blocking;
use crate::pipeline::{Acted, Context, Operation, Target};
use crate::unsealed::Unsealed;

/// What the detail of a record that keeps a claim begins with.
const CLAIM: &str = "claim ";

/// Names one key among others, whatever token it is on.
const FINGERPRINT: &str = "key.fingerprint";

const ABOUT: &str = "claims of the token and its module, not attestation: nothing here proves them";

/// Asks the root of trust what it says of itself, and compares that with what it said when the store was made.
#[derive(Clone, Copy, Debug)]
pub struct TakeEvidence;

/// What the root of trust said of itself.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Evidence {
    /// How far to believe it.
    pub about: String,
    /// Where the root of trust is.
    pub root: String,
    /// When it was asked.
    pub taken_at: Timestamp,
    /// When the same key was asked for the record of making the store, if it was.
    pub kept_at: Option<Timestamp>,
    /// How many claims were others then.
    pub differences: usize,
    /// The claims; a key file and a passphrase make none.
    pub claims: Vec<ClaimView>,
}

/// One claim.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct ClaimView {
    /// What it is about.
    pub name: String,
    /// What the token says.
    pub value: String,
    /// What it said when the store was made, if that was something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

impl Operation for TakeEvidence {
    const ACTION: Action = Action::RootEvidence;
    type Loaded = ();
    type Answer = Evidence;

    async fn load(&self, _: &Arc<Unsealed>) -> Result<(), EngineError> {
        Ok(())
    }

    fn target(&self, (): &()) -> Target {
        Target::service("root", None)
    }

    // Only who may ask makes Keyrail log in to a token.
    async fn act(_: &Authorized<Self>, (): (), cx: &Context<'_>) -> Result<Acted<Evidence>, EngineError> {
        let root = cx.open.configured_root()?;
        // Files say nothing of themselves, and are not read for it.
        let claims = match &root {
            RootSpec::Pkcs11(spec) => {
                let _turn = cx.open.root_turn().await?;
                blocking(|| Pkcs11Root::new(spec.clone()).claims())?
            }
            _ => Vec::new(),
        };
        let kept = kept(cx.open, &claims)?;
        let details = details_of(&claims);
        let claims: Vec<_> = claims.into_iter().map(|claim| compared(claim, kept.as_ref())).collect();
        let differences = claims.iter().filter(|claim| claim.before.is_some()).count();
        let kept_at = kept.map(|record| record.time);
        let (about, root) = (ABOUT.to_owned(), root.to_string());
        let answer = Evidence { about, root, taken_at: cx.now, kept_at, differences, claims };
        let acted = Acted::new(answer).detail("differences", differences);
        Ok(details.into_iter().fold(acted, |acted, claim| acted.detail(&claim.name, claim.value)))
    }
}

/// The claims as a record keeps them.
pub(crate) fn details_of(claims: &[Claim]) -> Vec<Detail> {
    let detail = |claim: &Claim| Detail { name: format!("{CLAIM}{}", claim.name), value: claim.value.clone() };
    claims.iter().map(detail).collect()
}

/// The record of making the store, if it keeps claims of the same key: it is the first of the log.
fn kept(open: &Unsealed, claims: &[Claim]) -> Result<Option<Record>, EngineError> {
    let Some(present) = claims.iter().find(|claim| claim.name == FINGERPRINT) else { return Ok(None) };
    let first = open.log().read_bundle(0, 1)?.into_iter().next();
    let record = first.and_then(|body| serde_json::from_slice::<Record>(&body.body).ok());
    Ok(record.filter(|record| before(record, FINGERPRINT) == Some(present.value.as_str())))
}

fn before<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    let kept = record.detail.iter().find(|detail| detail.name.strip_prefix(CLAIM) == Some(name));
    kept.map(|detail| detail.value.as_str())
}

fn compared(claim: Claim, kept: Option<&Record>) -> ClaimView {
    let before = kept.map(|record| before(record, claim.name).unwrap_or("not told"));
    let before = before.filter(|before| *before != claim.value).map(str::to_owned);
    ClaimView { name: claim.name.to_owned(), value: claim.value, before }
}
