//! The wire, with real clients.
