//! What opens the store: looking at it, proving it, changing it.

use axum::extract::State;
use axum::routing::{get, post};
use keyrail_crypto::age::Recipient;
use keyrail_engine::anchor::AnchorView;
use keyrail_engine::exposure::{Answered as AnsweredExposure, Exposure};
use keyrail_engine::ops::root::{DealRecovery, NewRecovery, RehearseRoot, RootView, ShareSetView, ShowRoot, SlotView};
use keyrail_engine::root_key::RotatedRoot;
use keyrail_engine::{EngineError, RootSource};
use keyrail_seal::{DealtShare, RootSpec, ShareText};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::api::{About, Api, Nothing};
use crate::call::Call;
use crate::routes::{Answered, Json, Shared, answer, run};

pub(super) fn routes(api: Api<Shared>) -> Api<Shared> {
    api.route::<Nothing, RootStatus>(About::get("/v1/system/root", "showRoot", "What opens the store"), get(root))
        .route::<RootGiven, SlotView>(
            About::post("/v1/system/root/rehearse", "rehearseRoot", "Proves that a root opens the store"),
            post(rehearse),
        )
        .route::<Migration, SlotView>(
            About::post(
                "/v1/system/root/migrate",
                "migrateRoot",
                "Moves the store to another root, while it is in use",
            ),
            post(migrate),
        )
        .route::<NewRecoveryRequest, NewRecoveryAnswer>(
            About::post("/v1/system/root/deal", "dealShares", "Makes a recovery root; its shares are shown once")
                .once(),
            post(deal),
        )
        .route::<Renewal, RotatedRoot>(
            About::post(
                "/v1/system/root/rotate",
                "rotateRoot",
                "Puts the store under another root key, while it is in use",
            ),
            post(rotate),
        )
        .route::<ExposureRequest, ExposureAnswer>(
            About::post(
                "/v1/system/root/exposed",
                "answerExposure",
                "Answers an exposure of the root key: everything under it is replaced",
            )
            .once(),
            post(exposed),
        )
        .route::<SlotNamed, SlotView>(
            About::post("/v1/system/root/remove", "removeRoot", "Takes a recovery root away").once(),
            post(remove),
        )
}

/// What opens the store, whether it is open, and whether a rollback of it could be detected.
#[derive(Serialize, ToSchema)]
struct RootStatus {
    /// Whether the store is open, and if not, why.
    seal: &'static str,
    /// Where the root of trust is.
    root: Option<String>,
    /// Whether places outside the store remember the head of its log: `none`, `ok`, or `failing`.
    anchor: &'static str,
    /// These places.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    anchors: Vec<AnchorView>,
    /// What is not seen without an anchor, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
    /// The ways to open it; known while it is open.
    slots: Vec<SlotView>,
}

/// A store and a log that were put back together have good seals and signatures.
const WITHOUT_ANCHOR: &str = "without an anchor, a rollback of the whole store together with its log cannot be detected; \
    name one with --anchor, or keep checkpoints elsewhere: `keyrail audit checkpoint`";

/// What an anchor that fails does not remember can be rolled back unseen.
const FAILING_ANCHOR: &str = "what is newer than an anchor remembers can be rolled back unseen until it works again";

async fn root(State(service): State<Shared>, call: Call) -> Answered<RootStatus> {
    let engine = service.engine();
    let shown = run(&service, &call, ShowRoot).await?;
    let root = engine.configured_root().ok().map(|root| root.to_string());
    let seal = engine.seal_state().as_str();
    let anchors = engine.unsealed().map(|open| open.anchors()).unwrap_or_default();
    let (anchor, hint) = match anchors.iter().any(|anchor| anchor.problem.is_some()) {
        _ if anchors.is_empty() => ("none", Some(WITHOUT_ANCHOR)),
        true => ("failing", Some(FAILING_ANCHOR)),
        false => ("ok", None),
    };
    Ok(shown.map(|RootView { slots }| RootStatus { seal, root, anchor, anchors, hint, slots }))
}

/// Recovery shares; none if the root is meant that is written down.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SharesGiven {
    /// The shares, `krs1.…`; each is wiped when the request ends.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    shares: Vec<Zeroizing<String>>,
}

impl SharesGiven {
    pub(super) fn into_source(self) -> RootSource {
        if self.shares.is_empty() { RootSource::Configured } else { RootSource::Shares(numbered(self.shares)) }
    }
}

/// What a share is called that came without a file.
fn numbered(shares: Vec<Zeroizing<String>>) -> Vec<ShareText> {
    let named = |(number, text)| ShareText { from: format!("number {number}"), text };
    (1..).zip(shares).map(named).collect()
}

/// A root of trust: shares, or one on the server's machine; without both the one that is written down.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RootGiven {
    /// A root of trust on the machine of the server.
    #[serde(default)]
    root: Option<String>,
    /// Recovery shares, `krs1.…`.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    shares: Vec<Zeroizing<String>>,
}

impl RootGiven {
    fn into_source(self) -> Result<RootSource, EngineError> {
        match self.root {
            Some(_) if !self.shares.is_empty() => Err(EngineError::Invalid {
                problem: "`root` and `shares` exclude each other".to_owned(),
                hint: "send the one that is meant",
            }),
            Some(root) => match root_spec(&root)? {
                spec if spec.is_recovery() => Err(EngineError::Invalid {
                    problem: "files of shares are read where their holders are, and not by the server".to_owned(),
                    hint: "send the texts of the shares in `shares`",
                }),
                spec => Ok(RootSource::Spec(spec)),
            },
            None => Ok(SharesGiven { shares: self.shares }.into_source()),
        }
    }
}

/// How long the name of a root of trust may be, in bytes: three paths and two labels.
const ROOT_LEN_MAX: usize = 16 * 1024;

fn root_spec(text: &str) -> Result<RootSpec, EngineError> {
    if text.len() > ROOT_LEN_MAX {
        return Err(EngineError::TooLarge { what: "a root", unit: "bytes", len: text.len(), max: ROOT_LEN_MAX });
    }
    text.parse().map_err(|error: keyrail_seal::RootSpecError| EngineError::Invalid {
        problem: error.to_string(),
        hint: "like keyfile:/media/usb/root.key",
    })
}

async fn rehearse(State(service): State<Shared>, call: Call, Json(body): Json<RootGiven>) -> Answered<SlotView> {
    let root = body.into_source().map_err(|error| call.fail(error))?;
    let places = service.engine().root_places();
    run(&service, &call, RehearseRoot { root, places }).await
}

/// Where to move the store.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Migration {
    /// The root of trust that opens the store from now on, on the machine of the server; a key file is made if it is not
    /// there.
    to: String,
}

async fn migrate(State(service): State<Shared>, call: Call, Json(body): Json<Migration>) -> Answered<SlotView> {
    let to = root_spec(&body.to).map_err(|error| call.fail(error))?;
    let moved = service.engine().migrate_root(&call.caller(), to).await.map_err(|error| call.fail(error))?;
    Ok(answer(&call, moved))
}

/// A new recovery root.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRecoveryRequest {
    /// `shamir:T/N`: N shares, any T of which open the store.
    recovery: String,
    /// Whom the shares are encrypted to, one for each: `age1…` or, post-quantum, `age1pq1…`; none to have them as they
    /// are.
    #[serde(default)]
    recipients: Vec<String>,
}

impl NewRecoveryRequest {
    fn parsed(self) -> Result<DealRecovery, EngineError> {
        let invalid = |problem: String| EngineError::Invalid { problem, hint: "like shamir:3/5 and age1…" };
        let spec =
            self.recovery.parse().map_err(|error: keyrail_seal::RecoverySpecError| invalid(error.to_string()))?;
        let recipients = self.recipients.iter().map(|text| text.parse::<Recipient>());
        let recipients = recipients.collect::<Result<_, _>>().map_err(|error| invalid(error.to_string()))?;
        Ok(DealRecovery { spec, recipients })
    }
}

/// A new recovery root. Its shares are shown once.
#[derive(Serialize, ToSchema)]
struct NewRecoveryAnswer {
    /// The id of its slot, in hex.
    slot: String,
    /// Which shares open it.
    set: Option<ShareSetView>,
    /// The shares. They are kept nowhere.
    shares: Vec<ShareAnswer>,
}

/// A share, shown once.
#[derive(Serialize, ToSchema)]
struct ShareAnswer {
    /// Its number.
    index: u8,
    /// Whom it is encrypted to.
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient: Option<String>,
    /// The share, `krs1.…`, or an armored age file that holds it.
    #[serde(serialize_with = "secret_text")]
    #[schema(value_type = String)]
    share: Zeroizing<String>,
}

impl From<NewRecovery> for NewRecoveryAnswer {
    fn from(NewRecovery { slot, shares }: NewRecovery) -> Self {
        Self { slot: slot.id, set: slot.shares, shares: shares.into_iter().map(ShareAnswer::from).collect() }
    }
}

fn secret_text<S: Serializer>(text: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl From<DealtShare> for ShareAnswer {
    fn from(share: DealtShare) -> Self {
        Self { index: share.index, recipient: share.recipient.map(|to| to.to_string()), share: share.text }
    }
}

async fn deal(
    State(service): State<Shared>,
    call: Call,
    Json(body): Json<NewRecoveryRequest>,
) -> Answered<NewRecoveryAnswer> {
    let asked = body.parsed().map_err(|error| call.fail(error))?;
    let made = run(&service, &call, asked).await?;
    Ok(made.map(NewRecoveryAnswer::from))
}

/// A way to open the store.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SlotNamed {
    /// Its id, in hex.
    slot: String,
}

async fn remove(State(service): State<Shared>, call: Call, Json(body): Json<SlotNamed>) -> Answered<SlotView> {
    let removed = service.engine().remove_root(&call.caller(), body.slot).await.map_err(|error| call.fail(error))?;
    Ok(answer(&call, removed))
}

/// Shares of a recovery root, which opens the store directly after the rotation, too; without them it does so through the
/// former root key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Renewal {
    /// The shares, `krs1.…`; each is wiped when the request ends.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    shares: Vec<Zeroizing<String>>,
}

async fn rotate(State(service): State<Shared>, call: Call, Json(body): Json<Renewal>) -> Answered<RotatedRoot> {
    let renew = (!body.shares.is_empty()).then(|| RootSource::Shares(numbered(body.shares)));
    let rotated = service.engine().rotate_root(&call.caller(), renew).await.map_err(|error| call.fail(error))?;
    Ok(answer(&call, rotated))
}

/// An exposure of the root key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ExposureRequest {
    /// What happened, in one line, for the log.
    #[serde(default)]
    reason: Option<String>,
    /// `shamir:T/N`: the recovery root that takes the place of those that are void.
    #[serde(default)]
    recovery: Option<String>,
    /// Whom its shares are encrypted to.
    #[serde(default)]
    recipients: Vec<String>,
}

/// What was done about an exposure of the root key, and what is to be done.
#[derive(Serialize, ToSchema)]
struct ExposureAnswer {
    #[serde(flatten)]
    answered: AnsweredExposure,
    /// The new recovery root. Its shares are shown once.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<NewRecoveryAnswer>,
}

async fn exposed(
    State(service): State<Shared>,
    call: Call,
    Json(body): Json<ExposureRequest>,
) -> Answered<ExposureAnswer> {
    let ExposureRequest { reason, recovery, recipients } = body;
    let recovery = recovery.map(|recovery| NewRecoveryRequest { recovery, recipients }.parsed()).transpose();
    let exposure = Exposure { reason, recovery: recovery.map_err(|error| call.fail(error))? };
    let answered = service.engine().answer_exposure(&call.caller(), exposure).await;
    let (answered, recovery) = answered.map_err(|error| call.fail(error))?;
    Ok(answer(&call, ExposureAnswer { answered, recovery: recovery.map(NewRecoveryAnswer::from) }))
}
