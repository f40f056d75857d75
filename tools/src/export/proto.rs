//! The messages of pprof's `profile.proto` (package `perftools.profiles`), as far as they are written. Field numbers and types
//! are those of the schema; `tests/interop` decodes what is made with them by the schema itself.

use prost::Message;

/// A profile.
#[derive(Clone, PartialEq, Message)]
pub struct Profile {
    /// What each value of a sample means.
    #[prost(message, repeated, tag = "1")]
    pub sample_type: Vec<ValueType>,
    /// The samples.
    #[prost(message, repeated, tag = "2")]
    pub sample: Vec<Sample>,
    /// The images; the first is that of the main program.
    #[prost(message, repeated, tag = "3")]
    pub mapping: Vec<Mapping>,
    /// The places in images.
    #[prost(message, repeated, tag = "4")]
    pub location: Vec<Location>,
    /// The functions.
    #[prost(message, repeated, tag = "5")]
    pub function: Vec<Function>,
    /// All text; the first is empty.
    #[prost(string, repeated, tag = "6")]
    pub string_table: Vec<String>,
    /// Remarks for people, text indices.
    #[prost(int64, repeated, tag = "13")]
    pub comment: Vec<i64>,
    /// Sample type that is shown first, a text index.
    #[prost(int64, tag = "14")]
    pub default_sample_type: i64,
}

/// Meaning and unit of a number, text indices.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ValueType {
    /// Meaning.
    #[prost(int64, tag = "1")]
    pub r#type: i64,
    /// Unit.
    #[prost(int64, tag = "2")]
    pub unit: i64,
}

/// Counts of a stack.
#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    /// Locations, innermost first.
    #[prost(uint64, repeated, tag = "1")]
    pub location_id: Vec<u64>,
    /// One for each sample type.
    #[prost(int64, repeated, tag = "2")]
    pub value: Vec<i64>,
    /// Labels.
    #[prost(message, repeated, tag = "3")]
    pub label: Vec<Label>,
}

/// A label: text or number. All but `num` are text indices.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Label {
    /// Name.
    #[prost(int64, tag = "1")]
    pub key: i64,
    /// Value if it is text.
    #[prost(int64, tag = "2")]
    pub str: i64,
    /// Value if it is a number.
    #[prost(int64, tag = "3")]
    pub num: i64,
}

/// An image.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Mapping {
    /// Not 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Lowest address.
    #[prost(uint64, tag = "2")]
    pub memory_start: u64,
    /// Address behind the highest.
    #[prost(uint64, tag = "3")]
    pub memory_limit: u64,
    /// Path, a text index.
    #[prost(int64, tag = "5")]
    pub filename: i64,
    /// Locations have functions.
    #[prost(bool, tag = "7")]
    pub has_functions: bool,
    /// Functions have files.
    #[prost(bool, tag = "8")]
    pub has_filenames: bool,
    /// Locations have lines.
    #[prost(bool, tag = "9")]
    pub has_line_numbers: bool,
}

/// A place in an image.
#[derive(Clone, PartialEq, Message)]
pub struct Location {
    /// Not 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Image.
    #[prost(uint64, tag = "2")]
    pub mapping_id: u64,
    /// Address.
    #[prost(uint64, tag = "3")]
    pub address: u64,
    /// Function and line; more than one where functions are inlined.
    #[prost(message, repeated, tag = "4")]
    pub line: Vec<Line>,
}

/// A line of a function.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Line {
    /// The function.
    #[prost(uint64, tag = "1")]
    pub function_id: u64,
    /// Number; 0 when it is not known.
    #[prost(int64, tag = "2")]
    pub line: i64,
}

/// A function. Names are text indices.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Function {
    /// Not 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Name for people.
    #[prost(int64, tag = "2")]
    pub name: i64,
    /// Name in the symbol table.
    #[prost(int64, tag = "3")]
    pub system_name: i64,
    /// Source file.
    #[prost(int64, tag = "4")]
    pub filename: i64,
}
