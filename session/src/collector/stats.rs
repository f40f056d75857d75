//! What has become of each sample.

/// Counters of a collector. Each decoded sample is in exactly one of the counters from `kernel` to `saturated`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CollectorStats {
    /// Reads of the event buffer.
    pub reads: u64,
    /// Samples decoded; frames of call chains are not samples.
    pub samples: u64,
    /// Filed in the kernel or a module.
    pub kernel: u64,
    /// Filed in a file.
    pub file: u64,
    /// Filed in an anonymous region.
    pub anonymous: u64,
    /// Lost: no record before it in the same read said in which mode, or on which vCPU, it was taken.
    pub no_context: u64,
    /// Lost: the event number is not one of the session's.
    pub unknown_event: u64,
    /// Lost: no kernel image holds the address.
    pub no_kernel_image: u64,
    /// Lost: no cookie came before it in the same read.
    pub no_cookie: u64,
    /// Lost: nobody knows its cookie.
    pub unknown_cookie: u64,
    /// Lost: in anonymous memory, in no known region.
    pub no_region: u64,
    /// Lost: in an anonymous region of a task that has no program.
    pub no_program: u64,
    /// Lost: a limit on images, files or addresses was reached.
    pub over_capacity: u64,
    /// Lost: the counter of its address is at its 32-bit maximum.
    pub saturated: u64,
    /// Frames of call chains decoded.
    pub frames: u64,
    /// Caller-callee pairs counted.
    pub arcs: u64,
    /// Frames that could not be attributed; the chain is cut there.
    pub frames_cut: u64,
    /// Records cut by the end of a read.
    pub truncated_records: u64,
    /// Records of unknown code, skipped.
    pub unknown_records: u64,
    /// Data records of instruction-based sampling, skipped.
    pub data_records: u64,
    /// Modules loaded.
    pub modules_loaded: u64,
    /// Kernels and modules taken in without their symbols, because a session keeps only so many.
    pub images_without_symbols: u64,
}

impl CollectorStats {
    /// Samples that are in the session.
    pub fn accepted(&self) -> u64 {
        self.kernel + self.file + self.anonymous
    }

    /// Samples that were decoded and are not in the session.
    pub fn lost(&self) -> u64 {
        self.no_context
            + self.unknown_event
            + self.no_kernel_image
            + self.no_cookie
            + self.unknown_cookie
            + self.no_region
            + self.no_program
            + self.over_capacity
            + self.saturated
    }

    /// Whether each sample ended in exactly one counter.
    pub fn adds_up(&self) -> bool {
        self.samples == self.accepted() + self.lost()
    }

    /// All counters by name.
    pub fn pairs(&self) -> [(&'static str, u64); 22] {
        [
            ("collector_reads", self.reads),
            ("collector_samples", self.samples),
            ("collector_kernel", self.kernel),
            ("collector_file", self.file),
            ("collector_anonymous", self.anonymous),
            ("collector_no_context", self.no_context),
            ("collector_unknown_event", self.unknown_event),
            ("collector_no_kernel_image", self.no_kernel_image),
            ("collector_no_cookie", self.no_cookie),
            ("collector_unknown_cookie", self.unknown_cookie),
            ("collector_no_region", self.no_region),
            ("collector_no_program", self.no_program),
            ("collector_over_capacity", self.over_capacity),
            ("collector_saturated", self.saturated),
            ("collector_frames", self.frames),
            ("collector_arcs", self.arcs),
            ("collector_frames_cut", self.frames_cut),
            ("collector_truncated_records", self.truncated_records),
            ("collector_unknown_records", self.unknown_records),
            ("collector_data_records", self.data_records),
            ("collector_modules_loaded", self.modules_loaded),
            (
                "collector_images_without_symbols",
                self.images_without_symbols,
            ),
        ]
    }
}

/// What the device counted, in its order.
///
/// Names with a meaning to the collector, all of them in samples: `received` (all), `no_mapping`, `no_mm`, `raced` and `throttled`
/// (found in no image), `ignored`, `lost_in_guest`, `invalid_in_guest`, `lost_overflow` and `malformed` (lost before the
/// event buffer). Other counters are only passed on to `account.txt`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account(Vec<(String, u64)>);

impl Account {
    /// Adds a counter behind the others.
    pub fn push(&mut self, name: impl Into<String>, value: u64) {
        self.0.push((name.into(), value));
    }

    /// The value of a counter.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| *value)
    }

    /// The counters in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// Sum of the counters of these names.
    pub(super) fn sum(&self, names: &[&str]) -> u64 {
        self.iter()
            .filter(|(name, _)| names.contains(name))
            .fold(0, |sum, (_, value)| sum.saturating_add(value))
    }
}

impl<S: Into<String>> FromIterator<(S, u64)> for Account {
    fn from_iter<I: IntoIterator<Item = (S, u64)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value))
                .collect(),
        )
    }
}
