//! The proxy end to end, in process: real sockets, real certificates, a real application, and the
//! spool read back from disk.

#[cfg(test)]
mod app;
#[cfg(test)]
mod books;
#[cfg(test)]
mod ca;
#[cfg(test)]
mod calls;
#[cfg(test)]
mod client;
#[cfg(test)]
mod control;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod handshakes;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod issuer;
#[cfg(test)]
mod process;
#[cfg(test)]
mod pulling;
#[cfg(test)]
mod rotating;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod tokens;
#[cfg(test)]
mod world;
