//! The supervisor that starts again what a machine's init would.
//!
//! Never starts a cell's database or member: bringing those back is Berth's own work, and is what is tested.

use super::super::{say, world::World};
use std::path::Path;
use std::time::Duration;

/// How soon init starts again what ended.
const RESTART_AFTER: Duration = Duration::from_millis(200);

/// Starts `serve` and `edge` again whenever they end, until it is dropped with the future. On a full disk nothing
/// can be started; init tries again.
pub async fn supervise(world: &World) -> std::convert::Infallible {
    let mut failed = 0_u32;
    loop {
        tokio::time::sleep(RESTART_AFTER).await;
        for name in ["serve", "edge"] {
            if runs(&world.dir.join(format!("run/program.{name}"))) {
                continue;
            }
            match world.start_again(name).await {
                Ok(_) => failed = 0,
                Err(failure) => {
                    failed += 1;
                    if failed.is_power_of_two() {
                        say(format!("`berth {name}` could not be started again: {}", failure.screen().trim()));
                    }
                }
            }
        }
    }
}

/// Whether the process of a record is alive, by its number and the moment it started.
pub fn runs(record: &Path) -> bool {
    let alive = || {
        let text = std::fs::read_to_string(record).ok()?;
        let mut words = text.split_whitespace();
        let (pid, start) = (words.next()?, words.next()?);
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
        Some(*fields.get(19)? == start && !matches!(*fields.first()?, "Z" | "X"))
    };
    alive().unwrap_or(false)
}
