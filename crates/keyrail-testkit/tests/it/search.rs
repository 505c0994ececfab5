//! The search finds what is planted, in every encoding, at every place, and nothing else.

use keyrail_testkit::{Encoding, NEEDLE_LEN_MIN, Search, TempDir, planted_forms, seeded};
use proptest::prelude::*;

fn search_for(secret: &[u8]) -> Search {
    Search::new([("planted", secret)]).unwrap()
}

/// A standard and a URL-safe text are one and the same unless one of the four special characters occurs.
fn alike(encoding: Encoding) -> Vec<Encoding> {
    match encoding {
        Encoding::Base64 | Encoding::Base64Url => vec![Encoding::Base64, Encoding::Base64Url],
        other => vec![other],
    }
}

proptest! {
    #[test]
    fn every_form_is_found_wherever_it_stands(
        secret in prop::collection::vec(any::<u8>(), NEEDLE_LEN_MIN..80),
        before in prop::collection::vec(any::<u8>(), 0..50),
        after in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let search = search_for(&secret);
        for (encoding, form) in planted_forms(&secret) {
            let hits = search.in_bytes(&[before.as_slice(), &form, &after].concat());
            prop_assert!(hits.iter().any(|hit| alike(encoding).contains(&hit.encoding)), "{encoding:?}");
        }
    }

    #[test]
    fn base64_of_something_longer_is_found(
        secret in prop::collection::vec(any::<u8>(), NEEDLE_LEN_MIN..40),
        before in prop::collection::vec(any::<u8>(), 0..9),
        after in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        use base64::Engine as _;
        let whole = [before, secret.clone(), after].concat();
        let text = base64::engine::general_purpose::STANDARD.encode(whole);
        prop_assert!(!search_for(&secret).in_bytes(text.as_bytes()).is_empty());
    }
}

#[test]
fn noise_gives_no_hit() {
    let mut noise = vec![0; 4 << 20];
    seeded("noise").fill_bytes(&mut noise);
    assert!(search_for(b"a secret of the test").in_bytes(&noise).is_empty());
}

#[test]
fn a_hit_on_the_border_of_two_pieces_is_found_once() {
    let (dir, secret) = (TempDir::new().unwrap(), b"a secret on the border");
    let piece = 8 << 20;
    for start in [piece - secret.len(), piece - 5, piece - 1, piece, 2 * piece - 7, 0] {
        let mut bytes = vec![b'.'; 2 * piece + 100];
        bytes[start..start + secret.len()].copy_from_slice(secret);
        let path = dir.join("file");
        std::fs::write(&path, bytes).unwrap();
        let hits = search_for(secret).in_file(&path).unwrap();
        assert_eq!(hits.len(), 1, "at {start}");
        assert_eq!((hits[0].offset, hits[0].encoding), (start as u64, Encoding::Raw));
    }
}

#[test]
fn a_directory_is_searched_to_its_depths() {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir_all(dir.join("a/b")).unwrap();
    std::fs::write(dir.join("a/b/log"), hex::encode("a secret of the test")).unwrap();
    std::fs::write(dir.join("clean"), "nothing here").unwrap();
    let hits = search_for(b"a secret of the test").under(dir.path()).unwrap();
    assert_eq!(hits.len(), 1);
    assert_eq!(hits[0].file.as_deref(), Some(dir.join("a/b/log").as_path()));
}

#[test]
fn a_needle_too_short_to_mean_anything_is_refused() {
    assert!(Search::new([("short", b"1234567".as_slice())]).is_err());
    assert!(Search::new([]).is_err());
}
