//! Who may call what: every route of the document against callers who may not.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use super::{Api, KEY};
use crate::client::Http;

/// Whose a route's resource is, which decides what a stranger is told.
#[derive(Clone, Copy, PartialEq)]
enum Whose {
    /// Anybody may call it.
    Nobody,
    /// Of the whole service: a token of another app is refused.
    Service,
    /// Of the whole service, and told to tokens that are confined to an app and read.
    ServiceReadByAll,
    /// Of the app `crm`: to a token of another app it is not there.
    App,
}

struct Row {
    route: &'static str,
    path: String,
    body: Value,
    whose: Whose,
    /// A role that lacks the action; empty where every role has it.
    lacking: &'static str,
}

fn row(route: &'static str, path: impl Into<String>, body: Value, whose: Whose, lacking: &'static str) -> Row {
    Row { route, path: path.into(), body, whose, lacking }
}

/// One row for each route, with paths and bodies of things that are there.
fn rows(api: &Api) -> Vec<Row> {
    use Whose::{App, Nobody, Service, ServiceReadByAll};
    let asset = api.asset("people");
    let campaign = api.http.post(&format!("/v1/assets/{asset}/protect"), &json!({}));
    api.finished(&campaign);
    let campaign = format!("/v1/campaigns/{}", campaign["id"].as_str().unwrap());
    let asset = format!("/v1/assets/{asset}");
    let token = api.http.post("/v1/tokens", &json!({ "role": "app", "app": "acme/prod/crm" }));
    let version = |verb: &str| format!("{KEY}/versions/1/{verb}");
    let none = || Value::Null;
    let items = || json!({ "items": [] });
    vec![
        row("GET /v1/health/live", "/v1/health/live", none(), Nobody, ""),
        row("GET /v1/health/ready", "/v1/health/ready", none(), Nobody, ""),
        row("GET /v1/health/seal", "/v1/health/seal", none(), Nobody, ""),
        row("GET /v1/health/audit", "/v1/health/audit", none(), Nobody, ""),
        row("GET /v1/openapi.json", "/v1/openapi.json", none(), Nobody, ""),
        row("GET /v1/metrics", "/v1/metrics", none(), ServiceReadByAll, "app"),
        row("GET /v1/system/root", "/v1/system/root", none(), ServiceReadByAll, "app"),
        row("POST /v1/system/root/evidence", "/v1/system/root/evidence", none(), Service, "app"),
        row(
            "POST /v1/system/root/deal",
            "/v1/system/root/deal",
            json!({ "recovery": "shamir:2/3" }),
            Service,
            "operator",
        ),
        row(
            "POST /v1/system/root/migrate",
            "/v1/system/root/migrate",
            json!({ "to": "keyfile:f" }),
            Service,
            "operator",
        ),
        row("POST /v1/system/root/rotate", "/v1/system/root/rotate", json!({}), Service, "operator"),
        row("POST /v1/system/root/exposed", "/v1/system/root/exposed", json!({}), Service, "operator"),
        row("POST /v1/system/root/rehearse", "/v1/system/root/rehearse", json!({}), Service, "app"),
        row(
            "POST /v1/system/root/remove",
            "/v1/system/root/remove",
            json!({ "slot": "00".repeat(16) }),
            Service,
            "operator",
        ),
        row("POST /v1/system/backup", "/v1/system/backup", json!({ "dir": "/nowhere/at/all" }), Service, "app"),
        row("POST /v1/system/verify", "/v1/system/verify", none(), Service, "app"),
        row("POST /v1/system/seal", "/v1/system/seal", none(), Service, "auditor"),
        row("POST /v1/system/unseal", "/v1/system/unseal", none(), Nobody, ""),
        row(
            "PUT /v1/system/settings/local-operator",
            "/v1/system/settings/local-operator",
            json!({ "allowed": true }),
            Service,
            "operator",
        ),
        row("GET /v1/domains", "/v1/domains", none(), Service, "app"),
        row("POST /v1/domains", "/v1/domains", json!({ "name": "other" }), Service, "auditor"),
        row("GET /v1/apps", "/v1/apps", none(), Service, "app"),
        row("POST /v1/apps", "/v1/apps", json!({ "path": "acme/prod/crm" }), App, "auditor"),
        row("GET /v1/labels", "/v1/labels", none(), ServiceReadByAll, "app"),
        row("PATCH /v1/labels/{name}", "/v1/labels/confidential", json!({}), Service, "operator"),
        row("GET /v1/tokens", "/v1/tokens", none(), Service, "app"),
        row("POST /v1/tokens", "/v1/tokens", json!({ "role": "app", "app": "acme/prod/crm" }), App, "operator"),
        row("DELETE /v1/tokens/{id}", format!("/v1/tokens/{}", token["id"].as_str().unwrap()), none(), App, "auditor"),
        row("GET /v1/masters/{domain}/{environment}", "/v1/masters/acme/prod", none(), ServiceReadByAll, "app"),
        row(
            "POST /v1/masters/{domain}/{environment}/rotate",
            "/v1/masters/acme/prod/rotate",
            none(),
            Service,
            "auditor",
        ),
        row("GET /v1/keys", "/v1/keys?app=acme/prod/crm", none(), App, ""),
        row("POST /v1/keys", "/v1/keys", json!({ "name": "acme/prod/crm/new", "label": "internal" }), App, "auditor"),
        row("GET /v1/keys/{domain}/{environment}/{app}/{name}", KEY, none(), App, ""),
        row(
            "POST /v1/keys/{domain}/{environment}/{app}/{name}/rotate",
            format!("{KEY}/rotate"),
            none(),
            App,
            "auditor",
        ),
        row(
            "POST /v1/keys/{domain}/{environment}/{app}/{name}/relabel",
            format!("{KEY}/relabel"),
            json!({ "label": "internal" }),
            App,
            "auditor",
        ),
        row(
            "POST /v1/keys/{domain}/{environment}/{app}/{name}/encrypt",
            format!("{KEY}/encrypt"),
            items(),
            App,
            "operator",
        ),
        row(
            "POST /v1/keys/{domain}/{environment}/{app}/{name}/decrypt",
            format!("{KEY}/decrypt"),
            items(),
            App,
            "operator",
        ),
        row(
            "POST /v1/keys/{domain}/{environment}/{app}/{name}/reencrypt",
            format!("{KEY}/reencrypt"),
            items(),
            App,
            "auditor",
        ),
        row(
            "POST /v1/keys/{domain}/{environment}/{app}/{name}/data-key",
            format!("{KEY}/data-key"),
            none(),
            App,
            "operator",
        ),
        row(
            "GET /v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/evidence",
            version("evidence"),
            none(),
            App,
            "auditor",
        ),
        row(
            "POST /v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/retire",
            version("retire"),
            none(),
            App,
            "auditor",
        ),
        row(
            "POST /v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/destroy",
            version("destroy"),
            none(),
            App,
            "auditor",
        ),
        row(
            "POST /v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/export",
            version("export"),
            none(),
            App,
            "operator",
        ),
        row(
            "POST /v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/suspend",
            version("suspend"),
            none(),
            App,
            "app",
        ),
        row(
            "POST /v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/resume",
            version("resume"),
            none(),
            App,
            "app",
        ),
        row(
            "POST /v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/compromise",
            version("compromise"),
            none(),
            App,
            "auditor",
        ),
        row(
            "POST /v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/reinstate",
            version("reinstate"),
            none(),
            App,
            "auditor",
        ),
        row("GET /v1/assets", "/v1/assets", none(), Service, "app"),
        row(
            "POST /v1/assets",
            "/v1/assets",
            json!({ "name": "more", "url": "sqlite:/nothing", "table": "t", "columns": [], "key": "acme/prod/crm/customer-pii" }),
            App,
            "auditor",
        ),
        row("GET /v1/assets/{name}", asset.clone(), none(), App, "app"),
        row("PATCH /v1/assets/{name}", asset.clone(), json!({}), App, "auditor"),
        row("POST /v1/assets/{name}/census", format!("{asset}/census"), none(), App, "auditor"),
        row("POST /v1/assets/{name}/plan", format!("{asset}/plan"), none(), App, "auditor"),
        row(
            "POST /v1/assets/{name}/accept-damaged",
            format!("{asset}/accept-damaged"),
            json!({ "row": "i1", "reason": "r" }),
            App,
            "auditor",
        ),
        row("POST /v1/assets/{name}/protect", format!("{asset}/protect"), none(), App, "auditor"),
        row("POST /v1/assets/{name}/unprotect", format!("{asset}/unprotect"), none(), App, "operator"),
        row("POST /v1/assets/{name}/campaigns", format!("{asset}/campaigns"), none(), App, "auditor"),
        row("GET /v1/campaigns", "/v1/campaigns", none(), Service, "app"),
        row("GET /v1/campaigns/{id}", campaign.clone(), none(), App, "app"),
        row("POST /v1/campaigns/{id}/pause", format!("{campaign}/pause"), none(), App, "auditor"),
        row("POST /v1/campaigns/{id}/resume", format!("{campaign}/resume"), none(), App, "auditor"),
        row("POST /v1/campaigns/{id}/rollback", format!("{campaign}/rollback"), none(), App, "auditor"),
        row("GET /v1/audit/records", "/v1/audit/records", none(), Service, "app"),
        row("GET /v1/audit/checkpoint", "/v1/audit/checkpoint", none(), Service, "app"),
    ]
}

/// Every route of the document, as `GET /v1/keys`.
pub(super) fn routes(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, item)| {
        item.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    operations.collect()
}

fn ask(http: &Http, row: &Row) -> (u16, String) {
    let method: Method = row.route.split(' ').next().unwrap().parse().unwrap();
    let said = http.send(method, &row.path, &[], &row.body);
    let code = if said.status < 400 { String::new() } else { said.code() };
    (said.status, code)
}

/// Whether the route encrypts or decrypts: the role `app` includes that, the role `operator` does not.
fn is_data(route: &str) -> bool {
    ["/encrypt", "/decrypt", "/reencrypt", "/data-key"].iter().any(|end| route.ends_with(end))
}

/// Whether the role `app` includes what the route asks for.
fn app_may(route: &str) -> bool {
    is_data(route) || ["GET /v1/keys", "GET /v1/keys/{domain}/{environment}/{app}/{name}"].contains(&route)
}

#[test]
fn every_route_refuses_whom_it_should() {
    let api = Api::new();
    let rows = rows(&api);
    let listed: BTreeSet<String> = rows.iter().map(|row| row.route.to_owned()).collect();
    let documented = routes(&api.http.get("/v1/openapi.json"));
    let untested: Vec<_> = documented.difference(&listed).collect();
    // The golden list of routes without a test of this kind: none.
    assert_eq!(untested, Vec::<&String>::new());
    assert_eq!(listed.difference(&documented).collect::<Vec<_>>(), Vec::<&String>::new());

    let nobody = Http::new(api.url(), None);
    // Of a server of its own: an address with a hundred failures a second is told to wait.
    let other = Api::new();
    let bad = other.with_token("krt_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let lacking = |role: &str| api.with_token(&api.token_for(role, (role == "app").then_some("acme/prod/crm")));
    let (app, auditor, operator) = (lacking("app"), lacking("auditor"), lacking("operator"));
    let foreign_app = api.with_token(&api.token_for("app", Some("acme/prod/shop")));
    let foreign_operator = api.with_token(&api.token_for("operator", Some("acme/prod/shop")));
    let unauthenticated = (401, "unauthenticated".to_owned());
    let refused = (403, "refused".to_owned());
    let absent = (404, "not_found".to_owned());
    for row in &rows {
        let name = row.route;
        if row.whose == Whose::Nobody {
            assert_eq!(ask(&nobody, row).0, 200, "{name}: nobody");
            continue;
        }
        assert_eq!(ask(&nobody, row), unauthenticated, "{name}: no token");
        assert_eq!(ask(&bad, row), unauthenticated, "{name}: a token that is none");
        match row.lacking {
            "app" => assert_eq!(ask(&app, row), refused, "{name}: app"),
            "auditor" => assert_eq!(ask(&auditor, row), refused, "{name}: auditor"),
            "operator" => assert_eq!(ask(&operator, row), refused, "{name}: operator"),
            _ => {}
        }
        let (as_app, as_operator) = (ask(&foreign_app, row), ask(&foreign_operator, row));
        match row.whose {
            Whose::App => {
                // What the role never includes is refused alike, whether the thing is there or not.
                let of_app = if app_may(name) { &absent } else { &refused };
                let of_operator = if row.lacking == "operator" || is_data(name) { &refused } else { &absent };
                assert_eq!(&as_app, of_app, "{name}: app of another app");
                assert_eq!(&as_operator, of_operator, "{name}: operator of another app");
            }
            Whose::Service => {
                assert_eq!(as_app, refused, "{name}: app of another app");
                assert_eq!(as_operator, refused, "{name}: operator of another app");
            }
            Whose::ServiceReadByAll => {
                assert_eq!(as_app, refused, "{name}: app of another app");
                assert_eq!(as_operator.0, 200, "{name}: operator of another app");
            }
            Whose::Nobody => {}
        }
    }
    // Nothing of all that was done.
    let key = api.http.get(KEY);
    assert_eq!((key["versions"].as_array().unwrap().len(), &key["versions"][0]["state"]), (1, &json!("active")));
    assert_eq!(api.http.get("/v1/health/ready")["ready"], true);
}

/// The route is an operator's, a looser label is not: it would cut the waiting time of a destruction short.
#[test]
fn an_operator_tightens_labels_of_keys_and_an_owner_loosens_them() {
    let api = Api::new();
    let operator = api.with_token(&api.token_for("operator", None));
    let relabel = |who: &Http, label: &str| {
        let said = who.send(Method::POST, &format!("{KEY}/relabel"), &[], &json!({ "label": label }));
        (said.status, if said.status == 200 { said.json()["label"].as_str().unwrap().to_owned() } else { said.code() })
    };
    let refused = (403, "refused".to_owned());
    assert_eq!(relabel(&operator, "public"), refused);
    assert_eq!(relabel(&operator, "restricted"), (200, "restricted".to_owned()));
    assert_eq!(relabel(&operator, "confidential"), refused, "there is no way back for who tightened");
    assert_eq!(relabel(&api.http, "confidential"), (200, "confidential".to_owned()));
    let records = api.http.get("/v1/audit/records?limit=100");
    let told = records["records"].as_array().unwrap().iter().filter(|row| row["action"] == "key.relabel");
    let told: Vec<_> = told.map(|row| (row["outcome"].as_str().unwrap(), row["code"].as_str())).collect();
    let refused = ("refused", Some("refused"));
    assert_eq!(told, [("done", None), refused, ("done", None), refused], "newest first");
}

#[test]
fn what_is_absent_and_what_is_another_apps_look_alike() {
    let api = Api::new();
    api.asset("people");
    let theirs = api.http.post("/v1/tokens", &json!({ "role": "app", "app": "acme/prod/crm" }));
    let owners =
        api.http.get("/v1/tokens")["tokens"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
    let absent_id = "0123456789abcdef0123456789abcdef";
    for role in ["app", "operator", "auditor", "owner"] {
        let stranger = api.with_token(&api.token_for(role, Some("acme/prod/shop")));
        let told = |method: Method, path: &str| {
            let said = stranger.send(method, path, &[], &Value::Null);
            // The name is the caller's own; the rest must not differ.
            let mut problem = said.json();
            problem["title"] = Value::Null;
            problem["request_id"] = Value::Null;
            (said.status, problem)
        };
        let pairs = [
            (Method::GET, KEY.to_owned(), "/v1/keys/acme/prod/crm/nothing".to_owned()),
            (Method::POST, format!("{KEY}/rotate"), "/v1/keys/acme/prod/crm/nothing/rotate".to_owned()),
            (Method::GET, "/v1/assets/people".to_owned(), "/v1/assets/nothing".to_owned()),
            (Method::POST, "/v1/assets/people/protect".to_owned(), "/v1/assets/nothing/protect".to_owned()),
            (
                Method::DELETE,
                format!("/v1/tokens/{}", theirs["id"].as_str().unwrap()),
                format!("/v1/tokens/{absent_id}"),
            ),
            (Method::DELETE, format!("/v1/tokens/{owners}"), format!("/v1/tokens/{absent_id}")),
        ];
        for (method, there, absent) in pairs {
            let (theirs, nothing) = (told(method.clone(), &there), told(method, &absent));
            assert!([403, 404].contains(&theirs.0), "{role}: {there}");
            assert!(role != "owner" || theirs.0 == 404, "{role}: {there}");
            assert_eq!(theirs, nothing, "{role}: {there}");
        }
    }
    // The owner's own token still works.
    api.http.get("/v1/labels");
}

#[test]
fn a_token_ends_when_it_is_revoked_or_expired() {
    let api = Api::new();
    let made = api.http.post("/v1/tokens", &json!({ "role": "auditor", "ttl_seconds": 3600 }));
    let auditor = api.with_token(made["token"].as_str().unwrap());
    auditor.get("/v1/labels");
    let revoked =
        api.http.send(Method::DELETE, &format!("/v1/tokens/{}", made["id"].as_str().unwrap()), &[], &Value::Null);
    assert!(revoked.json()["revoked_at"].is_string());
    assert_eq!(auditor.send(Method::GET, "/v1/labels", &[], &Value::Null).status, 401);
    let brief = api.http.post("/v1/tokens", &json!({ "role": "auditor", "ttl_seconds": 1 }));
    let brief = api.with_token(brief["token"].as_str().unwrap());
    let ended = (0..100).any(|_| {
        std::thread::park_timeout(std::time::Duration::from_millis(50));
        brief.send(Method::GET, "/v1/labels", &[], &Value::Null).status == 401
    });
    assert!(ended, "a token of one second still works");
}

#[test]
fn a_flood_of_bad_tokens_is_slowed_down_and_counted() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let api = Api::new();
    let (slowed, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let (url, until) = (api.url(), std::time::Instant::now() + std::time::Duration::from_secs(30));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let bad = Http::new(url, Some("krt_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"));
                while !slowed.load(Ordering::Relaxed) && std::time::Instant::now() < until {
                    let said = bad.send(Method::GET, "/v1/labels", &[], &Value::Null);
                    sent.fetch_add(1, Ordering::Relaxed);
                    match said.status {
                        401 => {}
                        429 => {
                            assert_eq!((said.code().as_str(), said.header("retry-after")), ("too_many_failures", "1"));
                            slowed.store(true, Ordering::Relaxed);
                        }
                        other => panic!("{other}: {}", said.text),
                    }
                }
            });
        }
    });
    assert!(slowed.load(Ordering::Relaxed), "{} bad tokens, none slowed down", sent.load(Ordering::Relaxed));
    // Who has a token is served all the while, and the log has counts, not lines.
    api.http.get("/v1/labels");
    let Api { place, server, .. } = api;
    server.into_child().stop(std::time::Duration::from_secs(30)).unwrap();
    let records = place.run("audit show --limit 1000 --json").json();
    let records = records["records"].as_array().unwrap();
    let counted: u64 =
        records.iter().filter(|row| row["kind"] == "aggregate").filter_map(|row| row["items"].as_u64()).sum();
    assert_eq!(counted, sent.load(Ordering::Relaxed));
    assert!(records.iter().filter(|row| row["kind"] == "aggregate").count() <= 5);
}
