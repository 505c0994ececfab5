//! What stops things works on a full disk.

use super::*;

const TOKENS: usize = 12;

/// Revoking, suspending and sealing find the room that is kept for them, many times, while everything else is refused.
#[test]
fn what_keeps_safe_works_on_a_full_disk() {
    let world = World::new();
    // By other processes: what these wrote leaves no room behind that the server could use.
    let make = || world.place.run("token create --role app --app acme/prod/crm --json").json();
    let tokens: Vec<Value> = (0..TOKENS).map(|_| make()).collect();
    let server = world.serve();
    let http = world.owner(&server);
    assert_eq!(code(&encrypt(&http)), "done");
    world.disk.fails("wcr / full").unwrap();
    until("the disk is full", || if code(&encrypt(&http)) == "done" { Err("done".to_owned()) } else { Ok(()) });
    for token in &tokens {
        let caller = Http::new(server.url(), token["token"].as_str());
        let id = token["id"].as_str().unwrap();
        let said = http.send(Method::DELETE, &format!("/v1/tokens/{id}"), &[], &Value::Null);
        assert_eq!(said.status, 200, "{}", said.text);
        assert_eq!(encrypt(&caller).status, 401);
        // What is no stop goes on being refused: the room is not theirs.
        assert!(["store_failed", "audit_unavailable"].contains(&code(&rotate(&http)).as_str()));
        assert_eq!(code(&encrypt(&http)), "audit_unavailable");
    }
    let said = http.send(Method::POST, &format!("{KEY}/versions/1/suspend"), &[], &json!({}));
    assert_eq!(said.status, 200, "{}", said.text);
    let said = http.send(Method::POST, "/v1/system/seal", &[], &json!({}));
    let seal = http.send(Method::GET, "/v1/health/seal", &[], &Value::Null);
    assert_eq!((seal.status, said.status), (503, 200), "{} {}", seal.text, said.text);
    drop(http);
    server.into_child().kill().unwrap();
    // With room again, everything is as it was said to be.
    world.disk.works().unwrap();
    let server = world.serve();
    let http = world.owner(&server);
    for token in &tokens {
        assert_eq!(encrypt(&Http::new(server.url(), token["token"].as_str())).status, 401);
    }
    assert_eq!(http.get(KEY)["versions"][0]["state"], "suspended");
    let records = http.get("/v1/audit/records?limit=1000")["records"].as_array().unwrap().clone();
    let done = |action: &str| {
        records.iter().filter(|record| record["action"] == action && record["outcome"] == "done").count()
    };
    assert_eq!((done("token.revoke"), done("key.suspend"), done("system.seal")), (TOKENS, 1, 1));
    drop(http);
    server.into_child().stop(LIMIT).unwrap();
    assert_eq!(world.place.run("verify").code, 0);
}
