//! Any bytes at all as what a member or a hook answers to control. Never opens a socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth_control::fuzz::answer(bytes));
