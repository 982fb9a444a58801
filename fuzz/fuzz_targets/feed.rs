//! Any bytes at all as what control says to an edge. Never opens a socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth_edge::fuzz::feed(bytes));
