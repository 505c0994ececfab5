//! Authorization: the only place where [`Authorized`] is made.

use keyrail_core::access::{Action, Decision, Principal, Resource, decide};
use keyrail_core::time::Timestamp;

use crate::error::EngineError;
use crate::pipeline::{Further, Operation, Scope, Target};
use crate::unsealed::Unsealed;

/// An operation that policy allowed to this principal. The act step takes it as an argument, and only the policy step
/// makes it: its fields are private to that module, so nobody else can.
///
/// ```compile_fail,E0451
/// fn forge(principal: keyrail_core::access::Principal) -> keyrail_engine::Authorized<()> {
///     keyrail_engine::Authorized { op: (), principal, reason: "because" }
/// }
/// ```
pub struct Authorized<Op> {
    op: Op,
    principal: Principal,
    reason: &'static str,
}

impl<Op> Authorized<Op> {
    /// The operation.
    pub fn op(&self) -> &Op {
        &self.op
    }

    /// Who was allowed.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The operation, for another attempt.
    pub(crate) fn into_op(self) -> Op {
        self.op
    }

    /// The rule that allowed it.
    pub(crate) fn reason(&self) -> &'static str {
        self.reason
    }
}

/// What a decision depends on, besides the generation of the state.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct DecisionKey {
    principal: Option<keyrail_core::id::TokenId>,
    action: Action,
    scope: Scope,
}

/// Refused, with what the caller is told and what the log is told.
pub(crate) struct Refusal {
    pub(crate) error: EngineError,
    pub(crate) reason: &'static str,
}

pub(crate) fn authorize<Op: Operation>(
    open: &Unsealed,
    op: Op,
    principal: Principal,
    target: Target,
    further: Option<Further>,
    now: Timestamp,
) -> Result<Authorized<Op>, Refusal> {
    let Target { what, name, scope } = target;
    let mut asked = DecisionKey { principal: principal.token, action: Op::ACTION, scope };
    let decision = cached_decision(open, &principal, &asked, now);
    // Whoever may not do the one is not told about the other.
    if matches!(decision, Decision::Allow { .. })
        && let Some(Further { action, because }) = further
    {
        asked.action = action;
        if !matches!(cached_decision(open, &principal, &asked, now), Decision::Allow { .. }) {
            return Err(Refusal { error: EngineError::Refused { reason: because }, reason: because });
        }
    }
    match decision {
        Decision::Allow { reason } => Ok(Authorized { op, principal, reason }),
        Decision::Refuse { reason } => Err(Refusal { error: EngineError::Refused { reason }, reason }),
        Decision::Hide { reason } => {
            let error = EngineError::NotFound { what, name: name.unwrap_or_default() };
            Err(Refusal { error, reason })
        }
    }
}

/// Whether a principal may do something of the whole service; for what is no operation.
pub(crate) fn may(principal: &Principal, action: Action) -> Result<(), Refusal> {
    match decide(principal, action, Resource::Service) {
        Decision::Allow { .. } => Ok(()),
        Decision::Refuse { reason } | Decision::Hide { reason } => {
            Err(Refusal { error: EngineError::Refused { reason }, reason })
        }
    }
}

fn cached_decision(open: &Unsealed, principal: &Principal, asked: &DecisionKey, now: Timestamp) -> Decision {
    let resource = match &asked.scope {
        Scope::Service => Resource::Service,
        Scope::App(app) => Resource::App(app),
        Scope::Elsewhere => Resource::Elsewhere,
    };
    if principal.token.is_none() {
        return decide(principal, asked.action, resource);
    }
    let generation = open.generation();
    if let Some(decision) = open.decisions.get(generation, now, asked) {
        return decision;
    }
    let decision = decide(principal, asked.action, resource);
    let good_until = principal.expires_at.unwrap_or(now).min(now.plus_seconds(DECISION_CACHE_SECONDS));
    open.decisions.put(generation, asked.clone(), decision, good_until);
    decision
}

/// How long a decision may be believed without a change of state, in seconds.
const DECISION_CACHE_SECONDS: u64 = 60;
