use super::*;
use crate::ports::WitnessReply;
use crate::testing::FixedClock;

const KEY: &str = "witness.example/w1+00000000+BA==";

#[test]
fn an_anchor_is_written_in_one_way() {
    let file: AnchorSpec = "file:/mnt/other/anchor".parse().unwrap();
    assert_eq!((file.kind(), file.to_string().as_str()), ("file", "file:/mnt/other/anchor"));
    for wrong in [
        "",
        "file",
        "file:",
        "/mnt/anchor",
        "witness:",
        "witness:https://w.example",
        &format!("witness:https://w.example#{KEY}"),
    ] {
        assert!(wrong.parse::<AnchorSpec>().is_err(), "{wrong}");
    }
}

/// A witness that answers what a test says, to a log that is made by hand.
struct Scripted(Mutex<Vec<WitnessReply>>, Arc<Mutex<Vec<String>>>);

impl WitnessPort for Scripted {
    fn post(&self, path: &str, body: String) -> Result<WitnessReply, String> {
        assert_eq!(path, "/add-checkpoint");
        self.1.lock().push(body.lines().next().unwrap_or_default().to_owned());
        let mut left = self.0.lock();
        if left.is_empty() { Err("no answer".to_owned()) } else { Ok(left.remove(0)) }
    }
}

/// What becomes of a head of so many records before a witness with these answers, and the sizes that it was asked about.
fn before(replies: &[(u16, &str)]) -> (Result<(), String>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let seed = keyrail_crypto::secret::SigningSeed::generate().unwrap();
    let key = VerifierKey::new("log.example", seed.public_key().unwrap()).unwrap();
    let log_keys = keyrail_audit::Keys {
        seed,
        journal: keyrail_crypto::secret::StoreKey::generate().unwrap().mac_key("x").unwrap(),
    };
    let (audit, journal) = (dir.path().join("audit"), dir.path().join("journal"));
    let options = keyrail_audit::LogOptions::new(audit.clone(), journal, "log.example".to_owned());
    keyrail_audit::Log::create(&options, &log_keys).unwrap();
    let (log, _) = keyrail_audit::Log::open(options, log_keys).unwrap();
    log.set_epoch(keyrail_core::fence::Epoch(1));
    for body in [b"a".to_vec(), b"b".to_vec(), b"c".to_vec()] {
        log.append_blocking(body, keyrail_core::fence::Epoch(1)).unwrap();
    }
    log.close().unwrap();
    let other = keyrail_crypto::secret::SigningSeed::generate().unwrap();
    let witness_key = witness_key("witness.example/w1", &other.public_key().unwrap());
    let site = LogSite { audit_dir: audit, cosigned_dir: dir.path().join("cosigned"), key, rows: None };
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let replies: Vec<_> =
        replies.iter().map(|(status, body)| WitnessReply { status: *status, body: (*body).to_owned() }).collect();
    let seen = asked.clone();
    let dial: DialWitness = Arc::new(move |_| Ok(Box::new(Scripted(Mutex::new(replies.clone()), seen.clone()))));
    let spec: AnchorSpec = format!("witness:https://w.example/#{witness_key}").parse().unwrap();
    let anchors = Anchors { specs: vec![spec], required: true, dial: Some(dial) };
    let clock: Arc<dyn Clock> = Arc::new(FixedClock);
    let set = AnchorSet::new(&anchors, &site, &clock);
    let told = set.confirm(&site).map_err(|error| format!("{}: {error}", error.code()));
    let asked = asked.lock().clone();
    (told, asked)
}

/// A public key of a witness as it is written.
fn witness_key(name: &str, key: &[u8; 32]) -> String {
    use base64::Engine as _;
    let typed: Vec<u8> = [4].into_iter().chain(*key).collect();
    let digest = keyrail_crypto::digest::Sha256::new().with(name.as_bytes()).with(b"\n").with(&typed).finish();
    format!("{name}+{}+{}", hex::encode(&digest[..4]), base64::engine::general_purpose::STANDARD.encode(typed))
}

#[test]
fn what_a_witness_answers_decides_what_is_said_of_the_log() {
    /// Answers, what is said of the log, and the sizes that the witness was asked about.
    type Row = (&'static [(u16, &'static str)], &'static str, &'static [&'static str]);
    let rows: &[Row] = &[
        (&[(409, "9\n")], "anchor_ahead: the log has 3 records", &["old 0"]),
        (&[(409, "2\n"), (422, "")], "anchor_fork: the log is not the one of 2 records", &["old 0", "old 2"]),
        // The size was right, and so the records differ.
        (&[(409, "3\n"), (409, "3\n")], "anchor_fork: the log is not the one of 3 records", &["old 0", "old 3"]),
        // One that says another size each time is asked so often and no more.
        (&[(409, "1\n"), (409, "2\n"), (409, "1\n")], "anchor_unavailable", &["old 0", "old 1", "old 2"]),
        (&[(409, "many\n")], "anchor_unavailable", &["old 0"]),
        (&[(404, "")], "anchor_unavailable", &["old 0"]),
        (&[(403, "")], "anchor_unavailable", &["old 0"]),
        (&[(429, "")], "anchor_unavailable", &["old 0"]),
        (&[(503, "")], "anchor_unavailable", &["old 0"]),
        (&[(200, "")], "anchor_unavailable", &["old 0"]),
        (&[(200, "\u{2014} witness.example/w1 AAAA\n")], "anchor_unavailable", &["old 0"]),
        (&[], "anchor_unavailable", &["old 0"]),
    ];
    for (replies, wanted, sizes) in rows {
        let (told, asked) = before(replies);
        let told = told.unwrap_err();
        assert!(told.starts_with(wanted), "{replies:?}: {told}");
        assert_eq!(asked, *sizes, "{replies:?}");
    }
}
