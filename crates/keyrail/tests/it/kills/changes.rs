//! Changes of keys, labels and tokens, and what must be there once they were acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Method;
use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::world::KEY;
use crate::client::{Http, Said};

/// How far the first version of a spare key is: its state, and how many versions the key has then.
const STAGES: [(&str, usize); 5] =
    [("nothing", 0), ("active", 1), ("deactivated", 2), ("retired", 2), ("destroyed", 2)];

/// A change that was asked for.
#[derive(Clone, Debug)]
enum Change {
    Rotate,
    /// A spare key is made, rotated, and its first version retired and destroyed, one stage at a time.
    Advance(String),
    MakeToken,
    Revoke(String),
    SetLabel,
}

struct Token {
    text: String,
    revoked: bool,
}

pub(super) struct Changes {
    random: SmallRng,
    /// Versions of the key with the data.
    pub(super) versions: usize,
    /// Spare keys with their stages.
    spare: BTreeMap<String, usize>,
    /// Tokens by their ids.
    tokens: BTreeMap<String, Token>,
    /// The last deadline that the label was given.
    deadline: u64,
    /// Acknowledged since the last look at the log.
    pub(super) requests: Vec<String>,
    /// The one change whose answer never came: it was made or not.
    unanswered: Option<Change>,
    counts: BTreeMap<&'static str, usize>,
    begun: Arc<AtomicUsize>,
    answered: usize,
}

impl Changes {
    pub(super) fn new(random: SmallRng) -> Self {
        Self {
            random,
            versions: 1,
            spare: BTreeMap::new(),
            tokens: BTreeMap::new(),
            deadline: 1,
            requests: Vec::new(),
            unanswered: None,
            counts: BTreeMap::new(),
            begun: Arc::default(),
            answered: 0,
        }
    }

    /// Labels that the changes need: nobody waits for a retirement or a destruction.
    pub(super) fn prepare(http: &Http) {
        let swift = json!({ "write_window_seconds": 0, "destroy_wait_seconds": 0 });
        for (name, body) in [("swift", swift), ("counted", json!({ "campaign_deadline_seconds": 1 }))] {
            let said = http.send(Method::PATCH, &format!("/v1/labels/{name}"), &[], &body);
            assert_eq!(said.status, 200, "{}", said.text);
        }
    }

    /// How many changes were begun so far, also while another thread makes them.
    pub(super) fn begun(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.begun)
    }

    pub(super) const fn answered(&self) -> usize {
        self.answered
    }

    pub(super) fn told(&self) -> String {
        format!("{:?}", self.counts)
    }

    fn choose(&mut self) -> Change {
        match self.random.random_range(0..6) {
            0 => Change::Rotate,
            1 => Change::SetLabel,
            2 => match self.tokens.iter().rfind(|(_, token)| !token.revoked) {
                Some((id, _)) if self.random.random_range(0..2) == 0 => Change::Revoke(id.clone()),
                _ => Change::MakeToken,
            },
            _ => match self.spare.iter().find(|(_, stage)| **stage + 1 < STAGES.len()) {
                Some((name, _)) => Change::Advance(name.clone()),
                None => Change::Advance(format!("acme/prod/crm/spare-{}", self.spare.len())),
            },
        }
    }

    /// Makes a change; `false` if no answer came.
    pub(super) fn make_one(&mut self, http: &Http) -> bool {
        let change = self.choose();
        self.make(http, change)
    }

    pub(super) fn rotate(&mut self, http: &Http) {
        assert!(self.make(http, Change::Rotate));
    }

    fn make(&mut self, http: &Http, change: Change) -> bool {
        let post = |path: String, body| (Method::POST, path, body);
        let (method, path, body) = match &change {
            Change::Rotate => post(format!("{KEY}/rotate"), Value::Null),
            Change::Advance(name) => match self.stage(name) {
                0 => post("/v1/keys".to_owned(), json!({ "name": name, "label": "swift" })),
                1 => post(format!("/v1/keys/{name}/rotate"), Value::Null),
                2 => post(format!("/v1/keys/{name}/versions/1/retire"), json!({})),
                _ => post(format!("/v1/keys/{name}/versions/1/destroy"), json!({})),
            },
            Change::MakeToken => post("/v1/tokens".to_owned(), json!({ "role": "auditor" })),
            Change::Revoke(id) => (Method::DELETE, format!("/v1/tokens/{id}"), Value::Null),
            Change::SetLabel => {
                let body = json!({ "campaign_deadline_seconds": self.deadline + 1 });
                (Method::PATCH, "/v1/labels/counted".to_owned(), body)
            }
        };
        self.begun.fetch_add(1, Ordering::SeqCst);
        let Some(said) = http.try_send(method, &path, &[], &body) else {
            self.unanswered = Some(change);
            return false;
        };
        assert_eq!(said.status, 200, "{path}: {}", said.text);
        self.answered += 1;
        self.acknowledge(change, &said);
        self.requests.push(said.request_id);
        true
    }

    fn stage(&self, name: &str) -> usize {
        self.spare.get(name).copied().unwrap_or_default()
    }

    fn acknowledge(&mut self, change: Change, said: &Said) {
        let kind = match change {
            Change::Rotate => {
                self.versions = said.json()["versions"].as_array().unwrap().len();
                "rotate"
            }
            Change::Advance(name) => {
                let stage = self.stage(&name) + 1;
                self.spare.insert(name, stage);
                ["", "create", "rotate", "retire", "destroy"][stage]
            }
            Change::MakeToken => {
                let (made, text) = (said.json(), |value: &Value| value.as_str().unwrap().to_owned());
                self.tokens.insert(text(&made["id"]), Token { text: text(&made["token"]), revoked: false });
                "token"
            }
            Change::Revoke(id) => {
                self.tokens.get_mut(&id).unwrap().revoked = true;
                "revoke"
            }
            Change::SetLabel => {
                self.deadline += 1;
                "label"
            }
        };
        *self.counts.entry(kind).or_default() += 1;
    }

    /// Everything acknowledged is there, and nothing else but the change whose answer never came.
    pub(super) fn check(&mut self, http: &Http, url: &str) {
        let unanswered = self.unanswered.take();
        let found = http.get(KEY);
        let versions = found["versions"].as_array().unwrap();
        let more = usize::from(matches!(unanswered, Some(Change::Rotate)));
        let expected = self.versions..=self.versions + more;
        assert!(expected.contains(&versions.len()), "{} versions, not {expected:?}", versions.len());
        assert_eq!(versions.iter().filter(|row| row["state"] == "active").count(), 1);
        self.versions = versions.len();
        self.check_label(http, matches!(unanswered, Some(Change::SetLabel)));
        let touched = match &unanswered {
            Some(Change::Advance(name)) => Some(name.clone()),
            _ => None,
        };
        // Those that are destroyed are looked at with the newest ones only: there are many.
        let newest = self.spare.keys().rev().take(4).cloned().chain(touched.clone());
        let names: Vec<String> =
            self.spare.iter().filter(|(_, stage)| **stage < 4).map(|(name, _)| name.clone()).chain(newest).collect();
        for name in names {
            let stage = self.stage(&name);
            let expected = stage..=stage + usize::from(touched.as_ref() == Some(&name));
            let found = stage_of(http, &name);
            assert!(expected.contains(&found), "{name}: {:?}, not {:?}", STAGES[found], STAGES[stage]);
            if found > 0 {
                self.spare.insert(name, found);
            }
        }
        for (id, token) in self.tokens.iter_mut().rev().take(12) {
            let status = Http::new(url, Some(&token.text)).send(Method::GET, KEY, &[], &Value::Null).status;
            let asked = matches!(&unanswered, Some(Change::Revoke(asked)) if asked == id);
            assert!(status == if token.revoked { 401 } else { 200 } || (asked && status == 401), "token: {status}");
            token.revoked = status == 401;
        }
    }

    fn check_label(&mut self, http: &Http, may_be_next: bool) {
        let labels = http.get("/v1/labels");
        let label = labels["labels"].as_array().unwrap().iter().find(|row| row["name"] == "counted").unwrap();
        let found = label.pointer("/demands/campaign_deadline_seconds").unwrap_or(&label["campaign_deadline_seconds"]);
        let expected = self.deadline..=self.deadline + u64::from(may_be_next);
        let found = found.as_u64().unwrap();
        assert!(expected.contains(&found), "the label says {found}, not {expected:?}");
        self.deadline = found;
    }
}

fn stage_of(http: &Http, name: &str) -> usize {
    let said = http.send(Method::GET, &format!("/v1/keys/{name}"), &[], &Value::Null);
    if said.status == 404 {
        return 0;
    }
    let found = said.json();
    let versions = found["versions"].as_array().unwrap();
    let state = versions[0]["state"].as_str().unwrap();
    let found = STAGES.iter().position(|stage| *stage == (state, versions.len()));
    found.unwrap_or_else(|| panic!("{name}: {} versions, the first {state}", versions.len()))
}
