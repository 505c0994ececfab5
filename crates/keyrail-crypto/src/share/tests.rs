#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

use super::*;

fn policy(text: &str) -> SharePolicy {
    text.parse().unwrap()
}

fn refs(shares: &[Share]) -> Vec<&Share> {
    shares.iter().collect()
}

#[test]
fn any_that_are_enough_open_and_fewer_do_not() {
    for (threshold, total) in [(2, 2), (2, 3), (3, 5), (5, 5), (8, 10), (16, 16)] {
        let dealt = deal(SharePolicy::new(threshold, total).unwrap()).unwrap();
        assert_eq!(dealt.shares.iter().map(Share::index).collect::<Vec<_>>(), (1..=total).collect::<Vec<_>>());
        let all = refs(&dealt.shares);
        let mut choices = Choices::new(usize::from(threshold), all.len());
        let mut count = 0;
        while let Some(choice) = choices.next() {
            let mut chosen: Vec<_> = choice.iter().map(|at| all[*at]).collect();
            assert!(combine(&dealt.set, &chosen).unwrap().ct_eq(&dealt.key));
            chosen.reverse();
            assert!(combine(&dealt.set, &chosen).unwrap().ct_eq(&dealt.key), "in any order");
            let few = combine(&dealt.set, &chosen[1..]).err().unwrap();
            assert_eq!(few, CombineError::TooFew { given: usize::from(threshold) - 1, threshold });
            // Nor would they if nobody counted them: what they come to is another key.
            let guessed = interpolate(&chosen[1..], 0).unwrap();
            assert_ne!(fingerprint(&guessed).unwrap(), dealt.set.fingerprint);
            count += 1;
        }
        let binomial = (1..=u64::from(threshold)).fold(1, |all, k| all * (u64::from(total - threshold) + k) / k);
        assert_eq!(count, binomial, "{threshold}/{total}");
        assert!(combine(&dealt.set, &all).unwrap().ct_eq(&dealt.key), "all of them");
    }
}

#[test]
fn two_sets_have_nothing_in_common() {
    let (one, two) = (deal(policy("3/5")).unwrap(), deal(policy("3/5")).unwrap());
    assert_ne!((one.set.id, one.set.fingerprint), (two.set.id, two.set.fingerprint));
    assert!(!one.key.ct_eq(&two.key));
    assert!(one.shares.iter().zip(&two.shares).all(|(one, two)| !one.value.ct_eq(&two.value)));
}

#[test]
fn a_bad_share_is_named() {
    let (dealt, other) = (deal(policy("3/5")).unwrap(), deal(policy("3/5")).unwrap());
    let all = refs(&dealt.shares);
    let said = |shares: &[&Share]| combine(&dealt.set, shares).err();
    assert_eq!(said(&[all[0], all[1], &other.shares[2]]), Some(CombineError::OtherSet { at: 2 }));
    assert_eq!(said(&[all[0], all[4], all[0], all[2]]), Some(CombineError::Twice { at: 2 }));
    assert_eq!(said(&[]), Some(CombineError::TooFew { given: 0, threshold: 3 }));
    let forged =
        |index| Share { set: dealt.set.id, policy: dealt.set.policy, index, value: Secret32::generate().unwrap() };
    for at in 0..5 {
        let bad = forged(at + 1);
        let mut given = all.clone();
        given[usize::from(at)] = &bad;
        let named = Some(CombineError::DoesNotFit { at: usize::from(at) });
        assert_eq!(said(&given), named, "of five");
        let four: Vec<_> = (0..4).map(|step| given[(usize::from(at) + step) % 5]).collect();
        assert_eq!(said(&four), Some(CombineError::DoesNotFit { at: 0 }), "of four");
        assert_eq!(said(&four[..3]), Some(CombineError::NotThese), "of three it cannot be told");
    }
    let [one, two] = [forged(1), forged(2)];
    assert_eq!(said(&[&one, &two, all[2], all[3], all[4]]), Some(CombineError::DoesNotFit { at: 0 }));
    assert_eq!(said(&[&one, &two, all[2], all[3]]), Some(CombineError::NotThese));
    let lying = Share { policy: policy("2/5"), ..forged(2) };
    assert_eq!(said(&[all[0], &lying, all[2], all[3]]), Some(CombineError::DoesNotFit { at: 1 }));
}

#[test]
fn a_text_is_read_back_and_no_changed_sign_passes() {
    let dealt = deal(policy("3/5")).unwrap();
    for share in &dealt.shares {
        let text = share.danger_text().unwrap();
        assert_eq!((text.len(), text.capacity()), (SHARE_TEXT_LEN, SHARE_TEXT_LEN));
        let careless = [text.to_uppercase(), text.replace('-', ""), text.replace('-', " "), format!(" {}\n", *text)];
        let misread = text[5..].replace('0', "o").replace('1', "l");
        for form in careless.into_iter().chain([format!("krs1.{misread}")]) {
            let read = Share::parse(&form).unwrap();
            assert!(read.value.ct_eq(&share.value));
            assert_eq!((read.set, read.policy, read.index), (share.set, share.policy, share.index));
        }
        for at in 5..text.len() {
            let mut altered = text.as_bytes().to_vec();
            if altered[at] == b'-' {
                continue;
            }
            altered[at] = if altered[at] == b'7' { b'8' } else { b'7' };
            let altered = String::from_utf8(altered).unwrap();
            assert_eq!(Share::parse(&altered).err(), Some(ShareError::Checksum), "{at}");
            assert_eq!(Share::parse(&text[..at]).err(), Some(ShareError::Malformed), "{at}");
        }
    }
}

#[test]
fn what_is_no_share_is_refused() {
    let dealt = deal(policy("2/2")).unwrap();
    let text = dealt.shares[0].danger_text().unwrap();
    let more = format!("{}0", *text);
    for other in
        ["", "krs1.", "kr1.abc", "krs1", &text[1..], &more, &text.replace('.', ":"), &text.replace("krs1", "krs2")]
    {
        assert_eq!(Share::parse(other).err(), Some(ShareError::Malformed));
    }
    // Whole, and of no kind that there is.
    for (at, value) in [(0, 2), (17, 1), (17, 17), (18, 1), (18, 17), (19, 0), (19, 3)] {
        let mut bytes = dealt.shares[0].to_bytes().unwrap();
        bytes[at] = value;
        let (body, checksum) = bytes.split_at_mut(52);
        checksum.copy_from_slice(&Sha256::new().with(b"keyrail/share/checksum/v1").with(body).finish()[..8]);
        assert_eq!(Share::from_bytes(&bytes).err(), Some(ShareError::Unknown), "{at} {value}");
    }
}

#[test]
fn policies_are_read() {
    for text in ["2/2", "2/3", "3/5", "16/16"] {
        let policy = policy(text);
        assert_eq!(format!("{}/{}", policy.threshold(), policy.total()), text);
    }
    for text in ["", "3", "/", "1/1", "1/3", "0/3", "4/3", "2/17", "17/17", "+3/5", "03/5", "3/5 ", "3/5/7", "-3/5"] {
        assert!(text.parse::<SharePolicy>().is_err(), "{text}");
    }
}
