//! Any bytes at all as the path by which a limit is chosen. Never opens a socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth_edge::fuzz::limits(bytes));
