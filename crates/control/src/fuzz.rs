//! What must hold for any bytes at all, for the parser of what members and hooks answer. Built by `cargo fuzz` alone, with
//! `--cfg fuzzing`; `scripts/soak fuzz` runs it.
//!
//! Never opens a connection.

use crate::ask::{Came, came, read};

/// An answer that is taken for whole stays that answer, whatever comes after it; and one that is none stays none.
pub fn answer(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let (all, cut) = (read(bytes), usize::from(*cut).min(bytes.len()));
    if let Some(answer) = &all {
        assert!(answer.status < 1000 && bytes.ends_with(&answer.body));
    }
    for end in (cut..bytes.len()).step_by(cut.max(1)) {
        let (part, came_then) = (read(&bytes[..end]), came(&bytes[..end]));
        if let (Some(part), Some(all)) = (&part, &all) {
            assert!(part.status == all.status && all.body.starts_with(&part.body));
        }
        if came_then == Came::Whole {
            assert!(came(bytes) == Came::Whole && part.is_some() == all.is_some());
        }
        if came_then == Came::Unsaid {
            assert_eq!(came(bytes), Came::Unsaid);
        }
    }
}
