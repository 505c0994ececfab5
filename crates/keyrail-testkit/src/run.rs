//! The scale and the seed of a run.

use rand::SeedableRng;

/// The generator of tests. Its sequence is fixed by the seed alone.
pub type Rng = rand::rngs::StdRng;

/// A generator for the test of this name: the same sequence at every run, another for another name.
#[must_use]
pub fn seeded(test: &str) -> Rng {
    let mut seed = [0_u8; 32];
    for (place, byte) in test.bytes().enumerate() {
        if let Some(cell) = seed.get_mut(place % 32) {
            *cell = cell.wrapping_mul(31).wrapping_add(byte);
        }
    }
    Rng::from_seed(seed)
}

/// The figure of a big test: `full` under `KEYRAIL_TEST_SCALE=full`, otherwise a twentieth of it, and at least one.
#[must_use]
pub fn scale(full: usize) -> usize {
    scaled(full, std::env::var("KEYRAIL_TEST_SCALE").ok().as_deref())
}

fn scaled(full: usize, asked: Option<&str>) -> usize {
    if asked == Some("full") { full } else { (full / ORDINARY_DIVISOR).max(1) }
}

const ORDINARY_DIVISOR: usize = 20;

#[cfg(test)]
mod tests {
    use super::{scaled, seeded};
    use rand::RngExt;

    #[test]
    fn the_ordinary_scale_is_a_twentieth_and_never_nothing() {
        assert_eq!(scaled(200_000, None), 10_000);
        assert_eq!(scaled(300, Some("twentieth")), 15);
        assert_eq!(scaled(3, None), 1);
        assert_eq!(scaled(300, Some("full")), 300);
    }

    #[test]
    fn a_seed_repeats_and_differs_by_name() {
        let draw = |name| seeded(name).random::<u64>();
        assert_eq!(draw("kill"), draw("kill"));
        assert_ne!(draw("kill"), draw("leak"));
    }
}
