//! Who may do what: actions, the built-in roles, and the decision.
//!
//! A later release replaces what decides; the shape of the question (principal, action, resource) and of
//! the answer stays.

use std::fmt::Write as _;

use crate::id::{ID_LEN, TokenId};
use crate::name::AppPath;
use crate::text::text_enum;
use crate::time::Timestamp;

text_enum! {
    /// Everything that can be asked of Keyrail, one action per operation. Also the operation's name in the log.
    Action, "action" {
        /// Register an app.
        AppCreate = "app.create",
        /// List apps.
        AppList = "app.list",
        /// Take a damaged cell out of the count.
        AssetAcceptDamaged = "asset.accept-damaged",
        /// Register an asset.
        AssetAdd = "asset.add",
        /// Count what an asset holds.
        AssetCensus = "asset.census",
        /// Encrypt an asset in place.
        AssetProtect = "asset.protect",
        /// Look at an asset, or list assets.
        AssetRead = "asset.read",
        /// Decrypt an asset in place.
        AssetUnprotect = "asset.unprotect",
        /// Tell where a renamed table or column is now.
        AssetUpdate = "asset.update",
        /// Read the log.
        AuditRead = "audit.read",
        /// Pause or resume a campaign, or change its rate.
        CampaignControl = "campaign.control",
        /// Look at campaigns.
        CampaignRead = "campaign.read",
        /// Turn a campaign around.
        CampaignRollback = "campaign.rollback",
        /// Start a campaign, or a dry run.
        CampaignStart = "campaign.start",
        /// Make a data key for a caller who encrypts by himself.
        DataDataKey = "data.data-key",
        /// Decrypt.
        DataDecrypt = "data.decrypt",
        /// Encrypt.
        DataEncrypt = "data.encrypt",
        /// Put a ciphertext under the newest version.
        DataReencrypt = "data.reencrypt",
        /// Make a domain.
        DomainCreate = "domain.create",
        /// List domains.
        DomainList = "domain.list",
        /// Declare a key version exposed.
        KeyCompromise = "key.compromise",
        /// Make a data key.
        KeyCreate = "key.create",
        /// Start or finish the destruction of a key version.
        KeyDestroy = "key.destroy",
        /// Take the key material of a version out.
        KeyExport = "key.export",
        /// Look at keys.
        KeyRead = "key.read",
        /// Bring a retired version back.
        KeyReinstate = "key.reinstate",
        /// Give a key another label.
        KeyRelabel = "key.relabel",
        /// Resume a suspended version.
        KeyResume = "key.resume",
        /// Retire a version.
        KeyRetire = "key.retire",
        /// Make a new version.
        KeyRotate = "key.rotate",
        /// Suspend a version.
        KeySuspend = "key.suspend",
        /// Look at labels.
        LabelRead = "label.read",
        /// Make or change a label.
        LabelSet = "label.set",
        /// Look at master keys.
        MasterRead = "master.read",
        /// Make a new master key version.
        MasterRotate = "master.rotate",
        /// Make a recovery root, with new shares.
        RootDeal = "root.deal",
        /// Ask the root of trust what it says of itself.
        RootEvidence = "root.evidence",
        /// Answer an exposure of the root key: another one, and everything under it is exposed.
        RootExposed = "root.exposed",
        /// Move the store to another root of trust.
        RootMigrate = "root.migrate",
        /// Prove that a root opens the store.
        RootRehearse = "root.rehearse",
        /// Take a way to open the store away.
        RootRemove = "root.remove",
        /// Make another root key.
        RootRotate = "root.rotate",
        /// Finish a move to another root that was interrupted. Only in the log.
        RootSettle = "root.settle",
        /// Make a backup.
        SystemBackup = "system.backup",
        /// Make a store. Only in the log.
        SystemInit = "system.init",
        /// Put the store back from a backup.
        SystemRestore = "system.restore",
        /// Put data key versions under the newest master key version. Only in the log.
        SystemRewrap = "system.rewrap",
        /// Look at the root and the health of the service.
        SystemRead = "system.read",
        /// Forget the root key.
        SystemSeal = "system.seal",
        /// Tell what the rows of the store come to. Only in the log.
        SystemState = "system.state",
        /// Open the store with its root of trust.
        SystemUnseal = "system.unseal",
        /// Change a setting.
        SystemUpdate = "system.update",
        /// Check every row and the log.
        SystemVerify = "system.verify",
        /// Make a token.
        TokenCreate = "token.create",
        /// List tokens.
        TokenRead = "token.read",
        /// Revoke a token.
        TokenRevoke = "token.revoke",
    }
}

impl Action {
    /// Whether it stops something that should not go on. Room is kept for it, and no limit of comfort refuses it.
    pub const fn keeps_safe(self) -> bool {
        matches!(
            self,
            Self::KeyCompromise | Self::KeySuspend | Self::RootExposed | Self::SystemSeal | Self::TokenRevoke
        )
    }
}

text_enum! {
    /// The built-in roles.
    Role, "role" {
        /// May do everything.
        Owner = "owner",
        /// Runs keys, assets and campaigns; opens no data, exports no key, makes no token.
        Operator = "operator",
        /// Encrypts and decrypts for one app.
        App = "app",
        /// Reads everything that is not data, and the log.
        Auditor = "auditor",
    }
}

text_enum! {
    /// What kind of caller a principal is.
    PrincipalKind, "kind of principal" {
        /// Showed a token.
        Token = "token",
        /// Holds the data directory and opened its root: no server in between.
        LocalOperator = "local-operator",
        /// Keyrail's own background work.
        System = "system",
    }
}

/// Who asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Principal {
    /// What kind of caller it is.
    pub kind: PrincipalKind,
    /// The token it showed.
    pub token: Option<TokenId>,
    /// Its role.
    pub role: Role,
    /// The app it is confined to, if it is.
    pub app: Option<AppPath>,
    /// When its credential ends.
    pub expires_at: Option<Timestamp>,
}

impl Principal {
    /// Whoever holds the data directory and could open its root.
    pub const fn local_operator() -> Self {
        Self { kind: PrincipalKind::LocalOperator, token: None, role: Role::Owner, app: None, expires_at: None }
    }

    /// Keyrail's own background work.
    pub const fn system() -> Self {
        Self { kind: PrincipalKind::System, token: None, role: Role::Operator, app: None, expires_at: None }
    }

    /// The name under which the principal stands in the log and in lists of use: `token:<id>`, `local-operator`, `system`.
    pub fn label(&self) -> String {
        match self.token {
            Some(token) => token_label(token),
            None => self.kind.to_string(),
        }
    }
}

/// The label of whoever shows a token: [`Principal::label`].
pub fn token_label(token: TokenId) -> String {
    // Every record has one in it: room for all of it at once.
    let mut label = String::with_capacity(PrincipalKind::Token.as_str().len() + 1 + 2 * ID_LEN);
    let _memory_takes_it = write!(label, "{}:{token}", PrincipalKind::Token.as_str());
    label
}

/// What the action is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Resource<'a> {
    /// Something of the whole service.
    Service,
    /// Something that belongs to one app.
    App(&'a AppPath),
    /// Something that is not there, or that belongs to no app: whoever is confined to one sees no difference.
    Elsewhere,
}

/// The answer of the policy step, with the rule that gave it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// Allowed.
    Allow {
        /// Which rule allowed it, for the log.
        reason: &'static str,
    },
    /// Refused, and the caller may know that the thing exists.
    Refuse {
        /// Which rule refused it, for the log and the caller.
        reason: &'static str,
    },
    /// Refused to somebody who may not know whether the thing exists: answered as absent.
    Hide {
        /// Which rule refused it, for the log only.
        reason: &'static str,
    },
}

/// Decides by the built-in roles. Absence of a rule is refusal.
///
/// The role is asked first: a caller whose role does not include the action gets the same answer whether the thing
/// is absent, his or another's.
pub fn decide(principal: &Principal, action: Action, resource: Resource<'_>) -> Decision {
    if !allows(principal.role, action) {
        return Decision::Refuse { reason: "the role does not include the action" };
    }
    let allow = Decision::Allow { reason: principal.role.as_str() };
    match (&principal.app, resource) {
        (None, _) => allow,
        (Some(own), Resource::App(app)) if app == own => allow,
        (Some(_), Resource::App(_)) => Decision::Hide { reason: "the token belongs to another app" },
        (Some(_), Resource::Elsewhere) => Decision::Hide { reason: "nothing of the token's app" },
        (Some(_), Resource::Service) if principal.role != Role::App && reads_service(action) => allow,
        (Some(_), Resource::Service) => Decision::Refuse { reason: "the token is confined to one app" },
    }
}

/// The role × action matrix.
fn allows(role: Role, action: Action) -> bool {
    use Action as A;
    match role {
        Role::Owner => !matches!(action, A::RootSettle | A::SystemInit | A::SystemRewrap | A::SystemState),
        Role::App => matches!(action, A::DataEncrypt | A::DataDecrypt | A::DataReencrypt | A::DataDataKey | A::KeyRead),
        Role::Auditor => reads(action) || action == A::RootEvidence,
        Role::Operator => reads(action) || operates(action),
    }
}

fn reads(action: Action) -> bool {
    use Action as A;
    reads_service(action)
        || matches!(
            action,
            A::AppList
                | A::AssetRead
                | A::CampaignRead
                | A::DomainList
                | A::KeyRead
                | A::AuditRead
                | A::SystemVerify
                | A::TokenRead
        )
}

fn reads_service(action: Action) -> bool {
    matches!(action, Action::LabelRead | Action::MasterRead | Action::SystemRead)
}

fn operates(action: Action) -> bool {
    use Action as A;
    matches!(
        action,
        A::AppCreate
            | A::AssetAcceptDamaged
            | A::AssetAdd
            | A::AssetCensus
            | A::AssetProtect
            | A::AssetUpdate
            | A::CampaignControl
            | A::CampaignRollback
            | A::CampaignStart
            | A::DomainCreate
            | A::KeyCompromise
            | A::KeyCreate
            | A::KeyDestroy
            | A::KeyReinstate
            | A::KeyRelabel
            | A::KeyResume
            | A::KeyRetire
            | A::KeyRotate
            | A::KeySuspend
            | A::MasterRotate
            | A::RootSettle
            | A::SystemBackup
            | A::SystemRewrap
            | A::SystemSeal
            | A::SystemUnseal
            | A::TokenRevoke
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(role: Role, app: Option<&str>) -> Principal {
        Principal {
            kind: PrincipalKind::Token,
            token: None,
            role,
            app: app.map(|app| app.parse().unwrap()),
            expires_at: None,
        }
    }

    fn allowed(principal: &Principal, action: Action, resource: Resource<'_>) -> bool {
        matches!(decide(principal, action, resource), Decision::Allow { .. })
    }

    /// The matrix as a reader sees it; a change of a role shows up here.
    #[test]
    fn the_matrix_of_roles_and_actions() {
        let mut lines = String::new();
        for &action in Action::ALL {
            let roles = Role::ALL.iter().filter(|role| allowed(&principal(**role, None), action, Resource::Service));
            let roles: Vec<_> = roles.map(|role| role.as_str()).collect();
            lines.push_str(&format!("{action}: {}\n", roles.join(" ")));
        }
        assert_eq!(lines, include_str!("access/matrix.golden"));
    }

    #[test]
    fn an_app_token_sees_its_own_app_only() {
        let (own, other) = ("acme/prod/crm".parse().unwrap(), "acme/prod/shop".parse().unwrap());
        let app = principal(Role::App, Some("acme/prod/crm"));
        assert!(allowed(&app, Action::DataDecrypt, Resource::App(&own)));
        assert!(matches!(decide(&app, Action::DataDecrypt, Resource::App(&other)), Decision::Hide { .. }));
        // What is not there and what is another's look alike.
        assert!(matches!(decide(&app, Action::DataDecrypt, Resource::Elsewhere), Decision::Hide { .. }));
        assert!(matches!(decide(&app, Action::SystemRead, Resource::Service), Decision::Refuse { .. }));
    }

    #[test]
    fn nobody_below_owner_opens_data_and_manages_keys() {
        for role in [Role::Operator, Role::App, Role::Auditor] {
            let who = principal(role, None);
            let manages = allowed(&who, Action::KeyRotate, Resource::Service);
            let opens = [Action::DataDecrypt, Action::KeyExport, Action::AssetUnprotect];
            assert!(!(manages && opens.iter().any(|&action| allowed(&who, action, Resource::Service))), "{role}");
        }
    }

    /// For whoever is confined to an app the answer never tells a thing of another app from one that is not there.
    #[test]
    fn another_apps_thing_and_none_at_all_are_answered_alike() {
        let other = "acme/prod/shop".parse().unwrap();
        for &role in Role::ALL {
            let who = principal(role, Some("acme/prod/crm"));
            for &action in Action::ALL {
                let [another, absent] =
                    [Resource::App(&other), Resource::Elsewhere].map(|resource| decide(&who, action, resource));
                assert!(!matches!(another, Decision::Allow { .. }), "{role} {action}");
                let same = std::mem::discriminant(&another) == std::mem::discriminant(&absent);
                assert!(same, "{role} {action}: {another:?} and {absent:?}");
            }
        }
    }
}
