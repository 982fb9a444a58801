//! Any bytes at all for what is done to a request's and an answer's headers. Never opens a socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth_edge::fuzz::headers(bytes));
