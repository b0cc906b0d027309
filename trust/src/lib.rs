//! SPIFFE ids, SVIDs, mutual TLS, bundles and the compiled allow-list.
