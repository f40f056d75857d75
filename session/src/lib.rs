//! OProfile session directories: sample files, event-stream decoder and the collector that joins them.
