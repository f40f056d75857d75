//! Reports for programs to read.

mod document;
mod text;
mod writer;
