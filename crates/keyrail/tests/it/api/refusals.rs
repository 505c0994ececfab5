//! Requests that are wrong as such: each is refused with a problem, and the server goes on.

use http::Method;
use serde_json::{Value, json};

use super::{Api, KEY};
use crate::client::{Said, raw};

fn post(api: &Api, path: &str, headers: &str, body: &[u8]) -> Said {
    raw(api.url(), &format!("POST {path} HTTP/1.1\r\nauthorization: Bearer {}{headers}", api.token), body)
}

#[test]
fn wrong_requests_are_problems_with_codes() {
    let api = Api::new();
    let json = "\r\ncontent-type: application/json";
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_in_field = format!("{{\"items\":{deep}}}");
    let encrypt = format!("{KEY}/encrypt");
    let (rotate, version_0) = (format!("{KEY}/rotate"), format!("{KEY}/versions/0/retire"));
    let cases: Vec<(&str, &str, &str, &[u8], u16, &str)> = vec![
        ("malformed", &encrypt, json, b"{\"items\":[", 400, "invalid"),
        ("not JSON", &encrypt, json, b"items=1", 400, "invalid"),
        ("trailing bytes", &encrypt, json, b"{\"items\":[]} x", 400, "invalid"),
        ("a wrong type", &encrypt, json, b"{\"items\":{}}", 400, "invalid"),
        ("a wrong type in an item", &encrypt, json, b"{\"items\":[{\"plaintext\":5}]}", 400, "invalid"),
        (
            "a wrong type in a context",
            &encrypt,
            json,
            b"{\"items\":[{\"plaintext\":\"\",\"context\":{\"a\":1}}]}",
            400,
            "invalid",
        ),
        ("an unknown field", &encrypt, json, b"{\"items\":[],\"more\":1}", 400, "invalid"),
        (
            "an unknown field in an item",
            &encrypt,
            json,
            b"{\"items\":[{\"plaintext\":\"\",\"aad\":\"\"}]}",
            400,
            "invalid",
        ),
        ("no items", &encrypt, json, b"{}", 400, "invalid"),
        ("no body", &encrypt, json, b"", 400, "invalid"),
        ("the same field twice", &encrypt, json, b"{\"items\":[],\"items\":[]}", 400, "invalid"),
        ("UTF-8 that is none", &encrypt, json, b"{\"items\":[{\"plaintext\":\"\xff\xfe\"}]}", 400, "invalid"),
        ("too deep", &encrypt, json, deep.as_bytes(), 400, "invalid"),
        ("too deep in a field", &encrypt, json, deep_in_field.as_bytes(), 400, "invalid"),
        (
            "another media type",
            &encrypt,
            "\r\ncontent-type: text/xml",
            b"{\"items\":[]}",
            415,
            "unsupported_media_type",
        ),
        (
            "another encoding of the body",
            &encrypt,
            "\r\ncontent-type: application/json\r\ncontent-encoding: gzip",
            b"\x1f\x8b\x08",
            400,
            "invalid",
        ),
        ("a name that is none", "/v1/keys/acme/prod/crm/UPPER/encrypt", json, b"{\"items\":[]}", 400, "invalid"),
        (
            "UTF-8 that is none in the path",
            "/v1/keys/acme/prod/crm/%ff/encrypt",
            json,
            b"{\"items\":[]}",
            400,
            "invalid",
        ),
        (
            "an escaped slash in the path",
            "/v1/keys/acme/prod/crm/a%2Fb/encrypt",
            json,
            b"{\"items\":[]}",
            400,
            "invalid",
        ),
        ("a version that is none", &version_0, json, b"", 400, "invalid"),
        ("an id that is none", "/v1/campaigns/xyz/pause", json, b"", 400, "invalid"),
        ("no such path", "/v1/nothing", json, b"", 404, "no_such_path"),
        ("no such path above", "/", json, b"", 404, "no_such_path"),
        ("a slash too many", "/v1/domains/", json, b"{\"name\":\"x\"}", 404, "no_such_path"),
        ("a wrong method", "/v1/audit/records", json, b"", 405, "method_not_allowed"),
        (
            "a label that is none",
            "/v1/keys",
            json,
            b"{\"name\":\"acme/prod/crm/x\",\"label\":\"nothing\"}",
            404,
            "not_found",
        ),
        ("an ETag that is none", &rotate, "\r\nif-match: 1", b"", 400, "invalid"),
        ("two idempotency keys", &rotate, "\r\nidempotency-key: a\r\nidempotency-key: b", b"", 400, "invalid"),
        ("an empty idempotency key", &rotate, "\r\nidempotency-key:", b"", 400, "invalid"),
    ];
    for (name, path, headers, body, status, code) in cases {
        let said = post(&api, path, headers, body);
        assert_eq!((said.status, said.code().as_str()), (status, code), "{name}: {}", said.text);
        assert!(said.json()["hint"].is_string(), "{name}: {}", said.text);
        assert_eq!(said.json()["request_id"], said.request_id.as_str(), "{name}");
    }
    // Said by name, not by value.
    let unknown = post(&api, &encrypt, json, b"{\"items\":[{\"plaintext\":\"c2VjcmV0\",\"aad\":\"c2VjcmV0\"}]}");
    assert!(unknown.text.contains("unknown field `aad`") && !unknown.text.contains("c2VjcmV0"), "{}", unknown.text);
    let wrong = post(&api, &encrypt, json, b"{\"items\":[\"c2VjcmV0\"]}");
    assert!(wrong.text.contains("line 1, column") && !wrong.text.contains("c2VjcmV0"), "{}", wrong.text);

    // A body that nothing was said of, or what tools say by themselves, is taken as JSON.
    for headers in
        ["", "\r\ncontent-type: application/x-www-form-urlencoded", "\r\ncontent-type: application/json; charset=utf-8"]
    {
        assert_eq!(post(&api, &encrypt, headers, b"{\"items\":[]}").status, 200, "{headers}");
    }
    assert_eq!(post(&api, "/v1/audit/records", "", b"").header("allow"), "GET,HEAD");
    assert_eq!(post(&api, "/v1/keys", "", b"{}").header("cache-control"), "no-store");
    api.http.get("/v1/health/ready");
}

/// What is refused before it is an operation is counted under who asked, and the counts are in the log.
#[test]
fn refusals_before_an_operation_are_counted_in_the_log() {
    let api = Api::new();
    let json = "\r\ncontent-type: application/json";
    let encrypt = format!("{KEY}/encrypt");
    let items = vec!["{\"plaintext\":\"\"}"; 10_001].join(",");
    let too_many = format!("{{\"items\":[{items}]}}");
    let too_long = vec![b' '; 1024 * 1024 + 1];
    let cases: [(&str, &str, &str, &[u8], u16); 6] = [
        ("invalid", &encrypt, json, b"{\"items\":[", 400),
        ("invalid", &encrypt, "\r\nif-match: 1", b"{\"items\":[]}", 400),
        ("too_large", &encrypt, json, too_many.as_bytes(), 413),
        ("too_large", "/v1/domains", json, &too_long, 413),
        ("unsupported_media_type", &encrypt, "\r\ncontent-type: text/xml", b"{}", 415),
        ("no_such_path", "/v1/nothing", json, b"", 404),
    ];
    for (code, path, headers, body, status) in cases {
        assert_eq!(post(&api, path, headers, body).status, status, "{code}");
    }
    // An operation that is refused has its own record, and one that is done, too: neither is counted.
    assert_eq!(post(&api, "/v1/domains", json, b"{\"name\":\"acme\"}").status, 409);
    assert_eq!(post(&api, &encrypt, json, b"{\"items\":[]}").status, 200);
    // Nobody's are counted as nobody's.
    assert_eq!(raw(api.url(), "POST /v1/nothing HTTP/1.1", b"").status, 404);
    let Api { place, server, .. } = api;
    server.into_child().stop(std::time::Duration::from_secs(30)).unwrap();
    let records = place.run("audit show --limit 1000 --json").json();
    let mut counted = std::collections::BTreeMap::new();
    for row in records["records"].as_array().unwrap().iter().filter(|row| row["kind"] == "aggregate") {
        let whose = row["principal"].as_str().unwrap().split(':').next().unwrap().to_owned();
        assert_eq!(whose == "token", row["session"].is_string(), "{row}");
        let code = row["code"].as_str().unwrap().to_owned();
        *counted.entry((whose, code)).or_insert(0) += row["items"].as_u64().unwrap();
    }
    let expected = [
        ("anonymous", "unauthenticated", 1),
        ("token", "invalid", 2),
        ("token", "no_such_path", 1),
        ("token", "too_large", 2),
        ("token", "unsupported_media_type", 1),
    ];
    let expected = expected.map(|(whose, code, count)| ((whose.to_owned(), code.to_owned()), count));
    assert_eq!(counted.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn queries_and_pages_keep_their_bounds() {
    let api = Api::new();
    let lists = ["domains", "apps", "labels", "tokens", "assets", "campaigns", "keys"];
    for list in lists.iter().map(|name| format!("/v1/{name}")).chain(["/v1/audit/records".to_owned()]) {
        for wrong in ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "page=2", "limit=1&limit=2"] {
            let path = format!("{list}?{wrong}");
            assert_eq!(api.refused(Method::GET, &path, &Value::Null), (400, "invalid".to_owned()), "{path}");
        }
        api.http.get(&format!("{list}?limit=1000"));
    }
    assert_eq!(api.refused(Method::GET, "/v1/keys?after=nothing", &Value::Null).0, 400);
}

#[test]
fn bodies_and_heads_have_limits() {
    let api = Api::new();
    let json = "\r\ncontent-type: application/json";
    let long = vec![b' '; 1024 * 1024 + 1];
    let said = post(&api, "/v1/domains", json, &long);
    assert_eq!((said.status, said.code().as_str()), (413, "too_large"), "{}", said.text);
    // The length that is told is enough: the body need not be sent.
    let head = format!(
        "POST {KEY}/encrypt HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 99999999999\r\nconnection: close\r\n\r\n",
        api.token
    );
    let said = raw_head(api.url(), &head);
    assert_eq!((said.status, said.code().as_str()), (413, "too_large"), "{}", said.text);
    // A long body of somebody without a token is not read at all.
    let head =
        format!("POST {KEY}/encrypt HTTP/1.1\r\nhost: x\r\ncontent-length: 60000000\r\nconnection: close\r\n\r\n");
    let said = raw_head(api.url(), &head);
    assert_eq!((said.status, said.code().as_str()), (401, "unauthenticated"), "{}", said.text);

    let many: String = (0..80).map(|index| format!("\r\nx-{index}: v")).collect();
    let said = post(&api, "/v1/domains", &many, b"");
    assert_eq!((said.status, said.code().as_str()), (431, "headers_too_large"), "{}", said.text);
    let long = format!("\r\nx-long: {}", "v".repeat(40 * 1024));
    let said = post(&api, "/v1/domains", &long, b"");
    assert_eq!((said.status, said.code().as_str()), (431, "headers_too_large"), "{}", said.text);
    // Far beyond, the connection ends; the server does not.
    let far: String = (0..1_000).map(|index| format!("\r\nx-{index}: v")).collect();
    assert_eq!(post(&api, "/v1/domains", &far, b"").status, 431);
    api.http.get("/v1/health/ready");
    let said = api.http.send(Method::POST, "/v1/domains", &[], &json!({ "name": "x".repeat(64) }));
    assert_eq!(said.status, 400, "{}", said.text);
}

/// Sends a head, and no body.
fn raw_head(url: &str, head: &str) -> Said {
    crate::client::exchange(url, head.as_bytes())
}
