//! Whole-system scenarios over the real binaries, real sockets and real tools.

#[cfg(test)]
mod alerts;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod boundaries;
#[cfg(test)]
mod conform;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod debian;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod governed;
#[cfg(test)]
mod live;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod panels;
#[cfg(test)]
mod prometheus;
#[cfg(test)]
mod python;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod retain;
#[cfg(test)]
mod rollups;
#[cfg(test)]
mod sealed;
#[cfg(test)]
mod seed;
#[cfg(test)]
mod shape;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod world;
