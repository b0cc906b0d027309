//! Reports that are figures with a target.

use crate::views::frame::Frame;
use crate::views::mesh::{mesh_availability, rotation_success};

/// The view `mesh_availability`.
pub(super) fn e46(frame: &Frame) -> String {
    mesh_availability(frame)
}

/// The view `rotation_success`.
pub(super) fn e48(frame: &Frame) -> String {
    rotation_success(frame)
}
