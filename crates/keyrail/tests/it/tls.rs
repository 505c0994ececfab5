//! TLS from end to end, and plain HTTP for this machine alone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use keyrail_testkit::Server;

use crate::place::Place;

const KEY: &str = "acme/prod/crm/customer-pii";

/// A certificate for this machine, signed by itself, and its key, as PEM files.
fn certificate(place: &Place, name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (place.file(&format!("{name}.pem")), place.file(&format!("{name}.key")));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (cert.display().to_string(), key.display().to_string())
}

fn serve(place: &Place, cert: &str, key: &str) -> Server {
    let dir = place.data_dir();
    let dir = dir.to_str().unwrap();
    place.serve_with(place.command(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--tls-cert",
        cert,
        "--tls-key",
        key,
        "--data-dir",
        dir,
    ]))
}

#[test]
fn a_server_with_a_certificate_of_its_own_is_trusted_by_name() {
    let place = Place::new();
    let token = place.with_key();
    let (cert, key) = certificate(&place, "server");
    let (other, _) = certificate(&place, "other");
    std::fs::write(place.file("token"), &token).unwrap();
    let server = serve(&place, &cert, &key);
    let url = server.url().to_owned();
    assert!(url.starts_with("https://"), "{url}");
    let token_file = place.file("token").display().to_string();
    let call = |ca: Option<&str>, line: &str, stdin: &[u8]| {
        let mut args = vec!["--server", &url, "--token-file", &token_file];
        args.extend(ca.into_iter().flat_map(|ca| ["--ca-cert", ca]));
        args.extend(line.split(' '));
        place.run_with(&args, stdin)
    };
    let sealed = call(Some(&cert), &format!("encrypt {KEY} --context row=1"), b"over TLS");
    assert_eq!(sealed.code, 0, "{}", sealed.stderr);
    assert_eq!(call(Some(&cert), &format!("decrypt {KEY} --context row=1"), &sealed.stdout).stdout, b"over TLS");
    for (untrusted, what) in [(None, "no certificate named"), (Some(other.as_str()), "another one")] {
        let refused = call(untrusted, "key list", b"");
        assert_eq!(refused.code, 6, "{what}: {}", refused.stderr);
        assert!(
            refused.stderr.contains("error: ") && refused.stderr.contains("--ca-cert"),
            "{what}: {}",
            refused.stderr
        );
    }
    assert_eq!(call(Some("/nothing/there.pem"), "key list", b"").code, 2);
    assert_eq!(call(Some(&token_file), "key list", b"").code, 2, "a file without a certificate");

    // Plain HTTP gets no answer here, and neither does a version before 1.2.
    let address = url.trim_start_matches("https://");
    assert!(!told(address, b"GET /v1/health/live HTTP/1.1\r\nhost: x\r\n\r\n").starts_with(b"HTTP/"));
    let alert = told(address, &hello_of_tls_1_1());
    assert_eq!(alert.first(), Some(&21), "an alert: {alert:?}");
    // handshake_failure or protocol_version (RFC 8446, section 6): both end the handshake.
    assert!(matches!(alert.get(5..7), Some([2, 40 | 70])), "a fatal one: {alert:?}");
    for (version, want) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
        let said = Command::new("openssl")
            .args(["s_client", "-connect", address, version, "-brief"])
            .output()
            .expect("openssl is installed");
        let said = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(said.contains(want), "{version}: {said}");
    }
    server.into_child().stop(Duration::from_secs(30)).unwrap();
}

/// A refused certificate is told with what is wrong about it, and what to do.
#[test]
fn a_refused_certificate_is_told_with_its_fault() {
    let place = Place::new();
    let token = place.with_key();
    std::fs::write(place.file("token"), &token).unwrap();
    let dated = |names: &[&str], from: i32, until: i32, file: &str| {
        let mut params =
            rcgen::CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(until, 1, 1));
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        std::fs::write(place.file(&format!("{file}.pem")), cert.pem()).unwrap();
        std::fs::write(place.file(&format!("{file}.key")), key.serialize_pem()).unwrap();
    };
    dated(&["127.0.0.1"], 2001, 2002, "old");
    dated(&["127.0.0.1"], 2500, 2501, "early");
    dated(&["keys.example"], 2001, 2500, "named");
    dated(&["127.0.0.1"], 2001, 2500, "strange");
    let cases = [
        ("old", Some("old.pem"), "expired", "new certificate"),
        ("early", Some("early.pem"), "not valid yet", "clock"),
        ("named", Some("named.pem"), "another name", "name of the certificate"),
        ("strange", None, "nobody who is trusted here", "--ca-cert"),
    ];
    for (file, ca, fault, hint) in cases {
        let path = |end: &str| place.file(&format!("{file}.{end}")).display().to_string();
        let server = serve(&place, &path("pem"), &path("key"));
        let mut args = vec!["--server", server.url(), "--token-file", "token", "key", "list"];
        args.extend(ca.into_iter().flat_map(|ca| ["--ca-cert", ca]));
        let refused = place.run_with(&args, b"");
        assert_eq!(refused.code, 6, "{file}: {}", refused.stderr);
        let lines: Vec<_> = refused.stderr.lines().collect();
        assert!(lines[0].starts_with("error: the certificate of `https://") && lines[0].contains(fault), "{lines:?}");
        assert!(lines[1].starts_with("hint: ") && lines[1].contains(hint), "{lines:?}");
        args.push("--json");
        let said: serde_json::Value = serde_json::from_str(&place.run_with(&args, b"").stderr).unwrap();
        assert_eq!(said["error"]["code"], "certificate_refused");
        server.into_child().stop(Duration::from_secs(30)).unwrap();
    }
}

/// What a server says to these bytes until it closes.
fn told(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut said = Vec::new();
    let _reset = stream.read_to_end(&mut said);
    said
}

/// A client hello that knows no more than TLS 1.1 (RFC 4346, section 7.4.1.2).
fn hello_of_tls_1_1() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.push(0);
    // Two suites that TLS 1.1 has: RSA and ECDHE-RSA with AES-128-CBC and SHA.
    hello.extend([0, 4, 0x00, 0x2f, 0xc0, 0x13, 1, 0]);
    let mut handshake = vec![1, 0];
    handshake.extend(u16::try_from(hello.len()).unwrap().to_be_bytes());
    handshake.extend(hello);
    let mut record = vec![22, 3, 1];
    record.extend(u16::try_from(handshake.len()).unwrap().to_be_bytes());
    record.extend(handshake);
    record
}

#[test]
fn plain_http_is_for_this_machine_alone() {
    let place = Place::new();
    place.with_key();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let refused = place.run(&format!("serve --listen {address}"));
        assert_eq!(refused.code, 2, "{address}: {}", refused.stderr);
        assert!(refused.stderr.contains("plain HTTP is for loopback only"), "{}", refused.stderr);
        assert!(refused.stderr.contains("hint: name a certificate"), "{}", refused.stderr);
    }
    // Nor does the client send its token there.
    let refused = place.run_with(&["--server", "http://192.0.2.1:8440", "key", "list"], b"");
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("plain HTTP to another machine"), "{}", refused.stderr);

    let (cert, key) = certificate(&place, "server");
    let (other, _) = certificate(&place, "other");
    for (cert, key, code) in [("/nothing.pem", key.as_str(), 6), (&other, &key, 6), (&key, &cert, 6)] {
        let refused = place.run(&format!("serve --listen 127.0.0.1:0 --tls-cert {cert} --tls-key {key}"));
        assert_eq!(refused.code, code, "{cert}: {}", refused.stderr);
        assert!(refused.stderr.contains("hint: "), "{}", refused.stderr);
    }
    assert_eq!(place.run(&format!("serve --tls-cert {cert}")).code, 2, "a certificate without its key");
}
