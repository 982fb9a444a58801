//! Any bytes at all for what a client's connection is watched for. Never opens a socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth_edge::fuzz::framing(bytes));
