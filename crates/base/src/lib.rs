//! What every other crate of Freehold stands on: digests, tensor encodings, counter-based random numbers, units.
//!
//! No I/O, no async, no global state. Anything here is a pure function of its arguments.

pub mod digest;
pub mod dtype;
pub mod random;
pub mod units;

pub use digest::{Digest, Hasher};
pub use dtype::Dtype;
