//! Any bytes at all for where a WebSocket frame ends. Never opens a socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth_edge::fuzz::frames(bytes));
