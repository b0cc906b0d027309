//! The whole crate against books that these tests write themselves, through the writers' own crates.

mod access;
mod damage;
mod estate;
mod figures;
mod flow;
mod logging;
mod probing;
mod reports;
mod shop;
mod sql;
mod wire;
