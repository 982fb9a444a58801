//! Any bytes at all for which cookies are believed. Never opens a socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth_edge::fuzz::cookie(bytes));
