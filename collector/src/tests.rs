//! The collector over real sockets, TLS and files.

mod cases;
mod crash;
mod foreign;
mod hostile;
mod sealing;
mod world;
