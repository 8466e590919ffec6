//! Wire types of every protocol that the gateway speaks, and nothing else: no validation beyond types, no defaults that
//! mean something, no I/O. What a value may be is decided where it is used.

pub mod openai;
