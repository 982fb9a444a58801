//! Any bytes at all as the addresses of Redis. Never opens a socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth_edge::fuzz::addresses(bytes));
