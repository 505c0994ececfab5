//! The search for secrets: raw, hexadecimal and base64, in bytes, files and directories.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use aho_corasick::{AhoCorasick, Match};
use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

/// The shortest secret that can be searched for, in bytes: a shorter one is found everywhere by chance.
pub const NEEDLE_LEN_MIN: usize = 8;

/// How a secret was written where it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encoding {
    /// As it is.
    Raw,
    /// Hexadecimal, lower case.
    HexLower,
    /// Hexadecimal, upper case.
    HexUpper,
    /// Base64 with `+` and `/`, at any alignment, padded or not.
    Base64,
    /// Base64 with `-` and `_`, at any alignment, padded or not.
    Base64Url,
}

/// A place where a secret was found. It names the secret and never holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The name under which the secret was added.
    pub name: String,
    /// How it was written.
    pub encoding: Encoding,
    /// The byte where it begins.
    pub offset: u64,
    /// The file, if a file was searched.
    pub file: Option<PathBuf>,
}

/// A set of secrets to search for. All are searched for in one pass.
pub struct Search {
    automaton: AhoCorasick,
    meanings: Vec<(String, Encoding)>,
    pattern_len_max: usize,
}

impl Search {
    /// A search for these secrets, each with the name that a hit will bear.
    ///
    /// # Errors
    /// A secret is shorter than [`NEEDLE_LEN_MIN`], or there is none.
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> anyhow::Result<Self> {
        let (mut patterns, mut meanings) = (Vec::new(), Vec::new());
        for (name, secret) in secrets {
            if secret.len() < NEEDLE_LEN_MIN {
                bail!("`{name}` has {} bytes, a search needs {NEEDLE_LEN_MIN}", secret.len());
            }
            for (encoding, pattern) in patterns_of(secret) {
                patterns.push(pattern);
                meanings.push((name.to_owned(), encoding));
            }
        }
        let pattern_len_max = patterns.iter().map(Vec::len).max().context("there is nothing to search for")?;
        Ok(Self { automaton: AhoCorasick::new(patterns)?, meanings, pattern_len_max })
    }

    /// All hits in `bytes`.
    #[must_use]
    pub fn in_bytes(&self, bytes: &[u8]) -> Vec<Hit> {
        self.matches(bytes).filter_map(|found| self.hit(&found, 0)).collect()
    }

    /// All hits in a file of any size, which is read in pieces.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn in_file(&self, path: &Path) -> anyhow::Result<Vec<Hit>> {
        let mut file = File::open(path).with_context(|| format!("`{}` cannot be opened", path.display()))?;
        let mut hits = self.in_reader(&mut file).with_context(|| format!("`{}` cannot be read", path.display()))?;
        for hit in &mut hits {
            hit.file = Some(path.to_path_buf());
        }
        Ok(hits)
    }

    /// All hits in every file under a directory.
    ///
    /// # Errors
    /// A file or directory cannot be read.
    pub fn under(&self, dir: &Path) -> anyhow::Result<Vec<Hit>> {
        let mut hits = Vec::new();
        let listed = std::fs::read_dir(dir).with_context(|| format!("`{}` cannot be listed", dir.display()))?;
        for entry in listed {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                hits.extend(self.under(&entry.path())?);
            } else if kind.is_file() {
                hits.extend(self.in_file(&entry.path())?);
            }
        }
        Ok(hits)
    }

    /// Pieces overlap by the longest pattern less one byte, so that none hides on a border; a hit that ends in the
    /// overlap was reported with the piece before.
    fn in_reader(&self, source: &mut impl Read) -> anyhow::Result<Vec<Hit>> {
        let (mut hits, mut window, mut base) = (Vec::new(), Vec::new(), 0_u64);
        loop {
            let kept = window.len();
            let read = source.by_ref().take(PIECE_LEN).read_to_end(&mut window)?;
            if read == 0 {
                return Ok(hits);
            }
            let fresh = self.matches(&window).filter(|found| found.end() > kept);
            hits.extend(fresh.filter_map(|found| self.hit(&found, base)));
            let dropped = window.len().saturating_sub(self.pattern_len_max - 1);
            window.drain(..dropped);
            base += dropped as u64;
        }
    }

    fn matches<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = Match> + 'a {
        self.automaton.find_overlapping_iter(bytes)
    }

    fn hit(&self, found: &Match, base: u64) -> Option<Hit> {
        let (name, encoding) = self.meanings.get(found.pattern().as_usize())?;
        let offset = base + found.start() as u64;
        Some(Hit { name: name.clone(), encoding: *encoding, offset, file: None })
    }
}

/// The ways in which `secret` could be written, for planting: a search must find each of them, else it proves
/// nothing. Base64 comes padded and not, alone and in the middle of something longer.
#[must_use]
pub fn planted_forms(secret: &[u8]) -> Vec<(Encoding, Vec<u8>)> {
    let mut forms = vec![
        (Encoding::Raw, secret.to_vec()),
        (Encoding::HexLower, hex::encode(secret).into_bytes()),
        (Encoding::HexUpper, hex::encode_upper(secret).into_bytes()),
    ];
    for before in 0..GROUP_LEN {
        let mut long = b"\x07\x8f\xee".get(..before).unwrap_or_default().to_vec();
        long.extend_from_slice(secret);
        forms.push((Encoding::Base64, STANDARD.encode(&long).into_bytes()));
        forms.push((Encoding::Base64, STANDARD_NO_PAD.encode(&long).into_bytes()));
        forms.push((Encoding::Base64Url, URL_SAFE.encode(&long).into_bytes()));
        forms.push((Encoding::Base64Url, URL_SAFE_NO_PAD.encode(&long).into_bytes()));
    }
    forms
}

fn patterns_of(secret: &[u8]) -> Vec<(Encoding, Vec<u8>)> {
    let mut patterns = vec![
        (Encoding::Raw, secret.to_vec()),
        (Encoding::HexLower, hex::encode(secret).into_bytes()),
        (Encoding::HexUpper, hex::encode_upper(secret).into_bytes()),
    ];
    for before in 0..GROUP_LEN {
        patterns.push((Encoding::Base64, core_of(secret, before, &STANDARD_NO_PAD)));
        patterns.push((Encoding::Base64Url, core_of(secret, before, &URL_SAFE_NO_PAD)));
    }
    patterns
}

/// The characters that the secret alone decides when `before` bytes stand before it in its group of three: the
/// same whatever comes before and after, so padding does not matter.
fn core_of(secret: &[u8], before: usize, engine: &impl base64::Engine) -> Vec<u8> {
    let mut padded = vec![0; before];
    padded.extend_from_slice(secret);
    let text = engine.encode(&padded).into_bytes();
    let first = (before * 8).div_ceil(BITS_PER_CHAR);
    let end = padded.len() * 8 / BITS_PER_CHAR;
    text.get(first..end).unwrap_or_default().to_vec()
}

/// Bytes in one group of base64.
const GROUP_LEN: usize = 3;
const BITS_PER_CHAR: usize = 6;
/// How much of a file is read at a time, in bytes.
const PIECE_LEN: u64 = 8 * 1024 * 1024;
