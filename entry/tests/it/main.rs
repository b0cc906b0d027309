//! The canonical bytes, held against committed vectors and against themselves.

mod cases;
mod properties;
mod vectors;
