//! Loopback ports for nodes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the range that the system gives to outgoing connections: a port out of that range could be taken,
/// while its node is down, by the very connection attempts to it.
const FIRST: u32 = 19_000;
const COUNT: u32 = 12_000;

/// Ports given out by this process: a node that is down keeps its port.
static GIVEN: AtomicU32 = AtomicU32::new(0);

/// A loopback address that nothing listens at, and that this process has not given out before.
///
/// # Panics
/// When every port is taken.
#[must_use]
pub fn free() -> SocketAddr {
    // Test processes that run side by side begin at different places.
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let next = start.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + next % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free loopback port from {FIRST} on");
}
