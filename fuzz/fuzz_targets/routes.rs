//! Any bytes at all for what the control plane says of routes. Never opens a socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth_edge::fuzz::routes(bytes));
