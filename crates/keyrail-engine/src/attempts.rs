//! Attempts to open the store: each may cost the computing of a passphrase before it is known who asks.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use parking_lot::Mutex;

use crate::error::EngineError;

/// How many attempts from one address may fail within [`ATTEMPTS_SECONDS`], until its callers are told to wait.
const FAILED_ATTEMPTS_MAX: u64 = 5;

/// How many attempts from all addresses may fail within [`ATTEMPTS_SECONDS`].
const FAILED_ATTEMPTS_TOTAL_MAX: u64 = 20;

/// How long failed attempts are counted together, in seconds.
const ATTEMPTS_SECONDS: u64 = 10;

/// Counts attempts that failed, or have not ended, on the machine's own clock.
#[derive(Default)]
pub(crate) struct Attempts(Mutex<Counting>);

#[derive(Default)]
struct Counting {
    since_millis: u64,
    total: u64,
    /// No more addresses than attempts: [`FAILED_ATTEMPTS_TOTAL_MAX`].
    by_peer: HashMap<Option<IpAddr>, u64>,
}

impl Attempts {
    /// Counts an attempt from an address (`address:port`), if there is room for one more.
    ///
    /// # Errors
    /// [`EngineError::TooManyFailures`].
    pub(crate) fn begin(&self, from: Option<&str>, now_millis: u64) -> Result<(), EngineError> {
        let mut counting = self.0.lock();
        if now_millis.saturating_sub(counting.since_millis) >= ATTEMPTS_SECONDS * 1_000 {
            *counting = Counting { since_millis: now_millis, ..Counting::default() };
        }
        let peer = from.and_then(peer_of);
        let failed = counting.by_peer.get(&peer).copied().unwrap_or_default();
        if failed >= FAILED_ATTEMPTS_MAX || counting.total >= FAILED_ATTEMPTS_TOTAL_MAX {
            return Err(EngineError::TooManyFailures);
        }
        counting.by_peer.insert(peer, failed + 1);
        counting.total += 1;
        Ok(())
    }

    /// One succeeded: whoever opens the store begins with a clean count.
    pub(crate) fn forget(&self) {
        *self.0.lock() = Counting::default();
    }
}

/// The address without its port. Of IPv6 the first 64 bits: whoever has one such network has all its addresses.
fn peer_of(from: &str) -> Option<IpAddr> {
    let address = from.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| from.parse()).ok()?;
    Some(match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(attempts: &Attempts, from: &str, now_millis: u64) -> usize {
        (0..30).filter(|_| attempts.begin(Some(from), now_millis).is_ok()).count()
    }

    #[test]
    fn one_address_does_not_keep_another_out() {
        let attempts = Attempts::default();
        assert_eq!(tries(&attempts, "192.0.2.7:1000", 20_000), 5);
        assert_eq!(tries(&attempts, "192.0.2.7:1001", 20_000), 0, "another port is the same address");
        assert_eq!(tries(&attempts, "[::ffff:192.0.2.7]:1", 20_000), 0, "as is its form in IPv6");
        assert_eq!(tries(&attempts, "192.0.2.8:1000", 20_000), 5);
        assert_eq!(tries(&attempts, "192.0.2.7:1000", 29_999), 0);
        assert_eq!(tries(&attempts, "192.0.2.7:1000", 30_000), 5);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let attempts = Attempts::default();
        assert_eq!(tries(&attempts, "[2001:db8:1:2::3]:1000", 20_000), 5);
        assert_eq!(tries(&attempts, "[2001:db8:1:2:ffff::9]:1000", 20_000), 0);
        assert_eq!(tries(&attempts, "[2001:db8:1:3::3]:1000", 20_000), 5);
    }

    #[test]
    fn all_addresses_together_have_a_limit_and_success_forgets() {
        let attempts = Attempts::default();
        let done: usize = (0..9).map(|host| tries(&attempts, &format!("192.0.2.{host}:1"), 20_000)).sum();
        assert_eq!(done, 20);
        attempts.forget();
        assert_eq!(tries(&attempts, "192.0.2.1:1", 20_001), 5);
        assert_eq!((0..30).filter(|_| attempts.begin(None, 20_002).is_ok()).count(), 5, "no address is one, too");
    }
}
