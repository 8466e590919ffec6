//! What every other crate of Freehold stands on: digests, counter-based random numbers, units.
//!
//! No I/O, no async, no global state. Anything here is a pure function of its arguments.

pub mod digest;
pub mod random;
pub mod units;

pub use digest::{Digest, Hasher};
