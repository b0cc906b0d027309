//! The crate as its users meet it: real files, and TLS to a small receiver that checks for itself.

mod appending;
mod delivering;
mod joining;
mod probing;
mod receiver;
mod recovering;
mod refusing;
mod rotating;
mod stating;
mod world;
