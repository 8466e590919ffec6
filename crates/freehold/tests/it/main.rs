//! The built program, as users meet it: its commands, its errors, and its server, on a tiny model and without a network.

mod commands;
mod convert;
mod errors;
mod interrupted;
mod program;
mod quantize;
mod serve;
