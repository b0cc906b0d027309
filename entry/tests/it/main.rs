//! The canonical bytes, held against committed vectors and against themselves.

#[cfg(test)]
mod cases;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod vectors;
