//! Catalogue, grants, bundles and the certificate authority.
