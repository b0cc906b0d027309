//! The mutual-TLS proxy that keeps the books of one workload.

fn main() {}
