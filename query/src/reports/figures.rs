//! Reports that are figures with a target.

use crate::views::frame::Frame;
use crate::views::mesh::{mesh_availability, rotation_success};
use crate::views::overhead::overhead_with_proxies;

/// The view `mesh_availability`.
pub(super) fn e46(frame: &Frame) -> String {
    mesh_availability(frame)
}

/// The view `latency_overhead`, and each proxy by itself.
pub(super) fn e47(frame: &Frame) -> String {
    overhead_with_proxies(frame.window(), frame.now)
}

/// The view `rotation_success`.
pub(super) fn e48(frame: &Frame) -> String {
    rotation_success(frame)
}
