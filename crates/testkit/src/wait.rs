//! Waiting for a condition, ports and seeds. Never a fixed pause: too short on a slow day, too long on all others.

use rand::{SeedableRng, rngs::StdRng};
use std::{
    fmt::Debug,
    future::Future,
    time::{Duration, Instant},
};

/// Asks again and again until the answer satisfies, and returns it. After 30 s fails the test with the last answer.
pub async fn wait_until<T, F>(what: &str, ask: impl FnMut() -> F, good: impl Fn(&T) -> bool) -> T
where
    T: Debug,
    F: Future<Output = T>,
{
    wait_within(Duration::from_secs(30), what, ask, good).await
}

/// The same for what takes longer on a slow day, such as everything that a server starts anew.
pub async fn wait_within<T, F>(limit: Duration, what: &str, mut ask: impl FnMut() -> F, good: impl Fn(&T) -> bool) -> T
where
    T: Debug,
    F: Future<Output = T>,
{
    let until = Instant::now() + limit;
    loop {
        let answer = ask().await;
        if good(&answer) {
            return answer;
        }
        assert!(Instant::now() < until, "waited {limit:?} for: {what}; last seen: {answer:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A loopback port that nobody listened on a moment ago.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Randomness that repeats. Print the seed where the test can fail.
pub fn seeded(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}
