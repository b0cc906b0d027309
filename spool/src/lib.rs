//! The writer's side: lanes, spool, statements, delivery.
