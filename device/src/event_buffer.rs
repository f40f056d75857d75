//! The event buffer: escape-coded words on their way to the one reader.
