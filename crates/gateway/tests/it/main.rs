//! The gateway over loopback TCP.

mod answers;
mod client;
mod doors;
mod keys;
mod lifetime;
mod requests;
mod scripted;
