//! The collector: turns the event buffer into an OProfile session directory.
//!
//! ```text
//! DIR/lock                            held while a collector writes here
//! DIR/abi                             data layout, for opimport and oparchive
//! DIR/account.txt                     every counter, `name value` per line
//! DIR/samples/operf.log               statistics in OProfile's words
//! DIR/samples/current/{root}/…        sample files
//! DIR/samples/current/stats/…         lost samples, where opreport looks for them
//! DIR/samples/current/stats/files     which files of the guest the names stand for, see [`file_list`]
//! DIR/samples/previous/               what `current` was when this session began
//! DIR/root/                           guest tree: sampled files, symbol files of kernel and modules
//! DIR/root/var/lib/oprofile           link to DIR, so that `archive:DIR/root` works
//! DIR/previous-root/                  the guest tree that belongs to `previous`
//! DIR/samples/NAME/                   a session that was kept under a name
//! DIR/NAME-root/                      the guest tree as it was then
//! DIR/partial/                        files being written; a finished one is moved to its place
//! ```

mod attribution;
mod copies;
mod directory;
mod images;
mod kernel_images;
mod log;
mod region_symbols;
mod stats;
mod store;

use std::path::{Path, PathBuf};

use crate::file_list;
use crate::guest::{GuestFiles, GuestNames};
use attribution::State;
use directory::SessionDirectory;
use images::Images;
use store::Store;

pub use copies::{Archive, Missing};
pub(crate) use directory::ABI;
pub use stats::{Account, CollectorStats};

/// Under which program the samples of a library or of the kernel are filed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Separation {
    /// Each image under itself.
    None,
    /// Libraries under the program that runs them, kernel code under itself.
    #[default]
    Library,
    /// Libraries and kernel code under the program that runs them.
    Kernel,
}

/// What a collector needs to know beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorOptions {
    /// Event name in the sample files' names; letters, digits, `_`, `-` and `:`.
    pub event: String,
    /// Sampling period as written in header and file name; 0 for a timer.
    pub count: u32,
    /// Unit mask, 0 for a timer.
    pub unit_mask: u32,
    /// See [`Separation`].
    pub separation: Separation,
    /// One sample file for each vCPU instead of one for all.
    pub per_cpu: bool,
}

impl Default for CollectorOptions {
    fn default() -> Self {
        Self {
            event: "TIMER".to_owned(),
            count: 0,
            unit_mask: 0,
            separation: Separation::default(),
            per_cpu: true,
        }
    }
}

/// Why a session cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// The event name cannot stand in a file name of OProfile's.
    #[error("Event name {0:?} is not usable: it may hold letters, digits, '_', '-' and ':' only")]
    EventName(String),
    /// The session directory has so long a path that sample files below it could not be opened.
    #[error("Session directory {path} has too long a path ({limit} bytes are the limit)")]
    PathTooLong {
        /// The directory.
        path: PathBuf,
        /// Longest path in bytes.
        limit: usize,
    },
    /// Somebody else writes to the session directory.
    #[error(
        "Session directory {path} is in use by another profile; choose another one or end that profile"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// `DIR/root` exists and has not been made by a collector.
    #[error("{path} exists and belongs to no session; choose another session directory")]
    ForeignRoot {
        /// The directory in the way.
        path: PathBuf,
    },
    /// The session directory cannot be set up.
    #[error("Cannot write to session directory {path}")]
    Directory {
        /// What could not be made.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file of the session cannot be written. Its old content is intact, the data are kept for the next flush.
    #[error("Cannot write {path}; the samples are kept in memory, make room and flush again")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A session cannot be kept under that name.
    #[error(
        "A session cannot be kept as {0:?}: a name has 1 to 64 letters, digits, '_', '-' and '.', begins with none of the last \
         two, and is neither \"current\" nor \"previous\""
    )]
    Name(String),
    /// A session of that name is there.
    #[error("There is a session {0:?} already; choose another name")]
    NameTaken(String),
    /// The way of filing cannot change any more.
    #[error("Samples have been filed already; save or reset the session first")]
    Filed,
    /// The symbols of a kernel image do not fit into an ELF file.
    #[error("Cannot make the symbol file of {image}")]
    Symbols {
        /// The image.
        image: String,
        /// Why not.
        #[source]
        source: object::write::Error,
    },
}

/// Consumes the event buffer and writes the session directory.
///
/// Counts are kept in memory and written by [`Collector::flush`], each file as a whole.
///
/// ```
/// use std::sync::Arc;
/// use oprofile_session::{Account, Collector, CollectorOptions, CookieTarget, GuestNames, KernelImage};
///
/// /// Knows one file.
/// struct Names;
///
/// impl GuestNames for Names {
///     fn cookie(&self, cookie: u64) -> Option<CookieTarget> {
///         (cookie == 1).then(|| CookieTarget::File { path: b"/bin/work".to_vec(), deleted: false })
///     }
///     fn kernel_image(&self, _address: u64) -> Option<Arc<KernelImage>> {
///         None
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// const ESCAPE: u64 = u64::MAX;
/// let mut collector = Collector::create(dir, CollectorOptions::default())?;
/// // vCPU 0, user mode, the file with cookie 1, one sample at offset 0x1234.
/// collector.consume(&[ESCAPE, 2, 0, ESCAPE, 5, ESCAPE, 3, 1, 0x1234, 0], &mut Names);
/// // `()`: no guest file is at hand.
/// let stats = collector.finish(&(), &Account::default()).map_err(|(_, error)| error)?;
/// assert_eq!((stats.file, stats.lost()), (1, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Collector {
    options: CollectorOptions,
    directory: SessionDirectory,
    images: Images,
    store: Store,
    stats: CollectorStats,
    /// The list of files as it was written last into this session.
    listed: Vec<u8>,
}

impl Collector {
    /// Starts a session in `dir`, which is made if it does not exist. What is there becomes the previous session.
    ///
    /// # Errors
    /// When `dir` cannot be written, is in use, or the options cannot be expressed in file names.
    pub fn create(dir: &Path, options: CollectorOptions) -> Result<Self, CollectorError> {
        let usable = |byte: u8| byte.is_ascii_alphanumeric() || b"_-:".contains(&byte);
        if options.event.is_empty()
            || options.event.len() > 64
            || !options.event.bytes().all(usable)
        {
            return Err(CollectorError::EventName(options.event));
        }
        let directory = SessionDirectory::create(dir)?;
        let images = Images::new(directory.started());
        Ok(Self {
            options,
            directory,
            images,
            store: Store::default(),
            stats: CollectorStats::default(),
            listed: Vec::new(),
        })
    }

    /// Takes in the words of one read of the event buffer. Decoding starts afresh with each call.
    pub fn consume(&mut self, words: &[u64], names: &mut dyn GuestNames) {
        State::new(
            &self.options,
            &mut self.images,
            &mut self.store,
            &mut self.stats,
        )
        .run(words, names);
        self.stats.images_without_symbols = self.images.without_symbols();
    }

    /// Writes everything that changed since the last flush.
    ///
    /// `account` is what the device counted; it goes to `account.txt` and into the statistics.
    ///
    /// # Errors
    /// At the first file that cannot be written. No file is ever left half written, and what is not written yet is
    /// written by the next flush.
    pub fn flush(
        &mut self,
        files: &dyn GuestFiles,
        account: &Account,
    ) -> Result<(), CollectorError> {
        self.images.write_guest_tree(&mut self.directory, files)?;
        self.write_list(files)?;
        self.store
            .write(&mut self.directory, &self.images, &self.options, files)?;
        log::write(&mut self.directory, &self.stats, account)
    }

    /// Writes which files the names stand for, if anything is known of them and has not been written.
    fn write_list(&mut self, files: &dyn GuestFiles) -> Result<(), CollectorError> {
        let records = self.images.file_records(files);
        let list = file_list::encode(&records);
        if !records.is_empty() && list != self.listed {
            self.directory.place_in_session(file_list::PLACE, &list)?;
            self.listed = list;
        }
        Ok(())
    }

    /// Which of the sampled files are in the guest tree, as of the last flush.
    pub fn archive(&self) -> Archive {
        self.images.archive()
    }

    /// Flushes and ends the session.
    ///
    /// # Errors
    /// As [`Collector::flush`]; the collector is given back so that it can be tried again.
    pub fn finish(
        mut self,
        files: &dyn GuestFiles,
        account: &Account,
    ) -> Result<CollectorStats, (Box<Self>, CollectorError)> {
        match self.flush(files, account) {
            Ok(()) => {
                self.directory.close();
                Ok(self.stats)
            }
            Err(error) => Err((Box::new(self), error)),
        }
    }

    /// Forgets what has been counted, and removes the sample files. Images stay known.
    ///
    /// # Errors
    /// When a file cannot be removed. Nothing is counted any more even then; what is left is removed by the next attempt.
    pub fn reset(&mut self) -> Result<(), CollectorError> {
        self.begin_anew();
        self.directory.empty_current()
    }

    /// Flushes, keeps the session as `name`, and begins another one.
    ///
    /// # Errors
    /// When the name cannot be had or a file not be written; the session goes on then.
    pub fn save(
        &mut self,
        name: &str,
        files: &dyn GuestFiles,
        account: &Account,
    ) -> Result<(), CollectorError> {
        self.directory.check_name(name)?;
        self.flush(files, account)?;
        self.directory.keep_current(name)?;
        self.begin_anew();
        Ok(())
    }

    fn begin_anew(&mut self) {
        self.store = Store::default();
        self.listed = Vec::new();
        self.stats = CollectorStats {
            images_without_symbols: self.images.without_symbols(),
            ..CollectorStats::default()
        };
    }

    /// Files samples in another way from now on. A session is filed in one way: report tools would take files of two ways
    /// for different profiles.
    ///
    /// # Errors
    /// [`CollectorError::Filed`] unless the session is empty.
    pub fn separate(
        &mut self,
        separation: Separation,
        per_cpu: bool,
    ) -> Result<(), CollectorError> {
        let same = (self.options.separation, self.options.per_cpu) == (separation, per_cpu);
        if !same && !self.store.is_empty() {
            return Err(CollectorError::Filed);
        }
        self.options.separation = separation;
        self.options.per_cpu = per_cpu;
        Ok(())
    }

    /// What has become of the samples so far.
    pub fn stats(&self) -> &CollectorStats {
        &self.stats
    }
}

#[cfg(test)]
mod tests;
