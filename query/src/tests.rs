//! The whole crate against books that these tests write themselves, through the writers' own crates.

mod damage;
mod shop;
mod sql;
mod wire;
