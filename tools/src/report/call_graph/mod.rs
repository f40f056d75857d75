//! Who calls whom.

mod arcs;
