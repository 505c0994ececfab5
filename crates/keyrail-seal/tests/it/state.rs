//! The states in words.

use keyrail_seal::SealState;

#[test]
fn every_state_has_a_word_a_sentence_and_advice_of_its_own() {
    let states = [
        SealState::Uninitialized,
        SealState::Sealed,
        SealState::Unsealing,
        SealState::Unsealed,
        SealState::WrongSecret,
        SealState::RootUnavailable,
        SealState::RootLocked,
    ];
    let words: Vec<_> = states.iter().map(|state| state.as_str()).collect();
    let expected =
        ["uninitialized", "sealed", "unsealing", "unsealed", "wrong-secret", "root-unavailable", "root-locked"];
    assert_eq!(words, expected);
    let hints: std::collections::BTreeSet<_> = states.iter().map(|state| state.hint()).collect();
    assert_eq!(hints.len(), states.len());
    for state in states {
        assert_eq!(state.to_string(), state.as_str());
    }
}
