//! Any bytes at all as the letter between two processes of an edge. Never opens a socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth_edge::fuzz::letter(bytes));
