//! What a person runs on the host: opreport and its family.
