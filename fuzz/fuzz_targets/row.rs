//! Any bytes at all for what a Postgres server answers. Never opens a socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth_mover::fuzz::row(bytes));
