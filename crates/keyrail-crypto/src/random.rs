//! Randomness from aws-lc's generator, which the operating system seeds.

use std::cell::RefCell;

use crate::CryptoError;

/// Fills `out` with random bytes.
///
/// # Errors
/// [`CryptoError::System`] when the operating system gives none.
pub fn fill(out: &mut [u8]) -> Result<(), CryptoError> {
    aws_lc_rs::rand::fill(out).map_err(|_| CryptoError::System { what: "randomness" })
}

/// `N` random bytes, for salts, nonces and ids; secrets are made in place instead.
///
/// # Errors
/// [`CryptoError::System`] when the operating system gives none.
pub fn array<const N: usize>() -> Result<[u8; N], CryptoError> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// Random bytes that a thread has fetched and not given out yet.
struct Pool {
    bytes: [u8; POOL_LEN],
    used: usize,
}

/// How many bytes a thread fetches at a time.
const POOL_LEN: usize = 1024;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; POOL_LEN], used: POOL_LEN }) };
}

/// `N` random bytes, at most 1,024, from a stock of this thread: for ids and salts alone, of which every request
/// needs several and which everybody may see. What will be given out later lies in ordinary memory until then, so that
/// nothing that has to stay secret, and no nonce, comes from here.
///
/// # Errors
/// [`CryptoError::System`] when the operating system gives none.
pub fn pooled<const N: usize>() -> Result<[u8; N], CryptoError> {
    const { assert!(N <= POOL_LEN) };
    POOL.with_borrow_mut(|pool| {
        if pool.bytes.len() - pool.used < N {
            fill(&mut pool.bytes)?;
            pool.used = 0;
        }
        let mut out = [0; N];
        out.iter_mut().zip(pool.bytes.iter_mut().skip(pool.used)).for_each(|(to, from)| {
            // Each byte is given out once.
            *to = std::mem::take(from);
        });
        pool.used += N;
        Ok(out)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn nothing_is_given_out_twice_by_any_thread() {
        let some = || (0..1_000).map(|_| pooled::<16>().unwrap()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(some)).collect();
        let all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).chain(some()).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 5_000);
        // Ones and zeros are about as many, so that no part of a stock stays empty.
        let ones: u32 = all.iter().flatten().map(|byte| byte.count_ones()).sum();
        assert!((310_000..330_000).contains(&ones), "{ones}");
        assert_ne!(pooled::<1024>().unwrap(), pooled::<1024>().unwrap());
    }
}
