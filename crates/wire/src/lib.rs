//! What Berth says over the wire: public requests and answers, and the stream that edges follow.
//!
//! The only types we promise to others: they change compatibly. No behaviour here, and no secret.

pub mod edge;
