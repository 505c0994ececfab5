//! Witnesses: what is sent to one and what its answer says, as C2SP tlog-witness and tlog-cosignature have it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyrail_crypto::sign;

use crate::note::{NoteError, key_hash, key_name, split, split_key};
use crate::tree::Hash;

/// The signature type of Ed25519 cosignatures.
const COSIGNATURE_V1: u8 = 0x04;

/// The longest answer that is looked at, in bytes.
pub const COSIGNATURES_LEN_MAX: usize = 16 * 1024;

/// The public key of a witness, with its name: `<name>+<hash>+<base64>`, as it is given out by who runs it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WitnessKey {
    name: String,
    key: [u8; sign::PUBLIC_KEY_LEN],
}

impl WitnessKey {
    /// The witness's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first four bytes of SHA-256(name, newline, type, key).
    pub fn id(&self) -> [u8; 4] {
        key_hash(&self.name, COSIGNATURE_V1, &self.key)
    }

    /// The cosignature of this witness among the lines of its answer, or of a checkpoint that holds some; those of others
    /// are passed over. `note` is the checkpoint that was sent, with or without signatures.
    ///
    /// # Errors
    /// [`NoteError::Form`] for lines of another form; [`NoteError::OtherKey`] when none is of this witness;
    /// [`NoteError::Signature`] when one is and does not verify.
    pub fn find(&self, note: &str, lines: &str) -> Result<Cosignature, NoteError> {
        let (body, _) = split(note)?;
        if lines.len() > COSIGNATURES_LEN_MAX || !lines.ends_with('\n') {
            return Err(NoteError::Form);
        }
        for line in lines.lines() {
            let rest = line.strip_prefix("\u{2014} ").ok_or(NoteError::Form)?;
            let (name, encoded) = rest.split_once(' ').ok_or(NoteError::Form)?;
            let signed = STANDARD.decode(encoded).map_err(|_| NoteError::Form)?;
            let (id, signed) = signed.split_first_chunk::<4>().ok_or(NoteError::Form)?;
            if name != self.name || *id != self.id() {
                continue;
            }
            let (seconds, signature) = signed.split_first_chunk::<8>().ok_or(NoteError::Form)?;
            let seconds = u64::from_be_bytes(*seconds);
            let message = format!("cosignature/v1\ntime {seconds}\n{body}");
            if seconds > i64::MAX as u64 || !sign::verify(&self.key, message.as_bytes(), signature) {
                return Err(NoteError::Signature);
            }
            return Ok(Cosignature { seconds, line: format!("{line}\n") });
        }
        Err(NoteError::OtherKey)
    }
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let typed: Vec<u8> = [COSIGNATURE_V1].into_iter().chain(self.key).collect();
        write!(f, "{}+{:08x}+{}", self.name, u32::from_be_bytes(self.id()), STANDARD.encode(typed))
    }
}

impl FromStr for WitnessKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, hash, key) = split_key(text, COSIGNATURE_V1)?;
        let key = Self { name: key_name(name)?, key };
        if format!("{:08x}", u32::from_be_bytes(key.id())) == hash { Ok(key) } else { Err(NoteError::Key) }
    }
}

/// What a witness says: that by then it knew no longer log of this origin than the one of the checkpoint.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cosignature {
    /// When it was made, in seconds since 1970.
    pub seconds: u64,
    /// The signature line, with its end; appended to the checkpoint it makes the cosigned one.
    pub line: String,
}

/// The body of an `add-checkpoint` request: the size that the witness knows, the proof from there, the checkpoint.
pub fn add_checkpoint(old: u64, proof: &[Hash], note: &str) -> String {
    let mut body = format!("old {old}\n");
    for hash in proof {
        body.push_str(&STANDARD.encode(hash));
        body.push('\n');
    }
    body.push('\n');
    body.push_str(note);
    body
}

/// The size in the answer of a witness that knows another one than the request says (409).
pub fn known_size(answer: &str) -> Option<u64> {
    let digits = answer.strip_suffix('\n').unwrap_or(answer);
    digits.parse().ok().filter(|size: &u64| size.to_string() == digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::Checkpoint;

    /// The example of tlog-cosignature.
    const BODY: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
    const LINE: &str = "\u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";

    /// The example of tlog-witness.
    #[test]
    fn a_request_is_the_one_of_the_specification() {
        let hashes = [
            "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=",
            "jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=",
            "5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=",
            "/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=",
        ];
        let proof: Vec<Hash> = hashes.iter().map(|hash| STANDARD.decode(hash).unwrap().try_into().unwrap()).collect();
        let wanted = format!("old 20852014\n{}\n\n{BODY}\nsignatures\n", hashes.join("\n"));
        assert_eq!(add_checkpoint(20_852_014, &proof, &format!("{BODY}\nsignatures\n")), wanted);
        assert_eq!(add_checkpoint(0, &[], "note"), "old 0\n\nnote");
    }

    #[test]
    fn a_conflict_tells_a_size_in_one_spelling() {
        assert_eq!(known_size("20852014\n"), Some(20_852_014));
        assert_eq!(known_size("0\n"), Some(0));
        for wrong in ["", "\n", "-1\n", "01\n", "1 \n", "+1\n", "1\n\n", "18446744073709551616\n", "many"] {
            assert_eq!(known_size(wrong), None, "{wrong:?}");
        }
    }

    /// A witness of our own making, since the specification gives no private key; that ours is read by others is shown
    /// with a witness that is not ours.
    #[test]
    fn a_cosignature_counts_for_its_checkpoint_its_time_and_its_witness_alone() {
        let seed = keyrail_crypto::secret::SigningSeed::generate().unwrap();
        let witness = WitnessKey { name: "witness.example/w1".to_owned(), key: seed.public_key().unwrap() };
        let line = |seconds: u64, body: &str, id: [u8; 4]| {
            let signature = seed.sign(format!("cosignature/v1\ntime {seconds}\n{body}").as_bytes()).unwrap();
            let signed = [id.as_slice(), &seconds.to_be_bytes(), &signature].concat();
            format!("\u{2014} witness.example/w1 {}\n", STANDARD.encode(signed))
        };
        let note = format!("{BODY}\n\u{2014} example.com/behind-the-sofa AAAA\n");
        let good = line(1_679_315_147, BODY, witness.id());
        let found = witness.find(&note, &format!("{LINE}{good}")).unwrap();
        assert_eq!((found.seconds, found.line.as_str()), (1_679_315_147, good.as_str()));
        assert_eq!(witness.find(&note, LINE), Err(NoteError::OtherKey));
        assert_eq!(witness.find(&note, &line(1, BODY, [0; 4])), Err(NoteError::OtherKey));
        let other = BODY.replace("20852163", "20852164");
        assert_eq!(witness.find(&note, &line(1, &other, witness.id())), Err(NoteError::Signature));
        assert_eq!(witness.find(&format!("{other}\nx\n"), &good), Err(NoteError::Signature));
        assert_eq!(witness.find(&note, &line(1 << 63, BODY, witness.id())), Err(NoteError::Signature));
        for malformed in ["", "x\n", good.trim_end(), "\u{2014} witness.example/w1 !\n", "\u{2014} w AAAA"] {
            assert_eq!(witness.find(&note, malformed), Err(NoteError::Form), "{malformed:?}");
        }
        assert_eq!(witness.to_string().parse(), Ok(witness.clone()));
        assert_eq!(witness.to_string().replace("w1+", "w2+").parse::<WitnessKey>(), Err(NoteError::Key));
        assert_eq!(Checkpoint::parse_unverified(&note).unwrap().size, 20_852_163);
    }
}
