//! Whole-system scenarios: everything is in the test target `it`.
