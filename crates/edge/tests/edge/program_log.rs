//! What the edges of this process write into the program's own log, all of them into one.

use std::{
    io,
    sync::{Mutex, Once},
};
use tracing_subscriber::EnvFilter;

static WRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static KEPT: Once = Once::new();

struct Page;

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        WRITTEN.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on every line is kept: those that the program writes where nobody says otherwise, and of the edge all.
pub fn keep() {
    KEPT.call_once(|| {
        let filter = EnvFilter::new("info,berth_edge=trace");
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(|| Page).init();
    });
}

pub fn written() -> String {
    String::from_utf8_lossy(&WRITTEN.lock().unwrap()).into_owned()
}
