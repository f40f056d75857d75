//! Runs golden scenarios of the OProfile pipeline against this implementation.
