//! Receives, checks, journals and seals what writers send.
