//! Any bytes at all for how a host is read. Never opens a socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth_edge::fuzz::host(bytes));
