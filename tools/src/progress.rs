//! How far reading has got, for whoever waits at a terminal.
//!
//! The library counts, a thread of the tool shows: a line on standard error if that is a terminal and the work takes more
//! than a second. The line is gone before anything else is written.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::cli::run;

/// What the tools that read a session do.
pub const READING: &str = "Reading sample files";
/// Work that ends before is not worth a line.
const PATIENCE: Duration = Duration::from_secs(1);
/// From one line to the next.
const INTERVAL: Duration = Duration::from_millis(200);
/// Back to the beginning of the line, and what is there is cleared.
const CLEAR: &str = "\r\x1b[K";

/// How much there is to do and how much of it is done. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    done: AtomicUsize,
    all: AtomicUsize,
}

impl Progress {
    /// There is so much more to do.
    pub fn expect(&self, more: usize) {
        self.0.all.fetch_add(more, Ordering::Relaxed);
    }

    /// So much more is done.
    pub fn advance(&self, more: usize) {
        self.0.done.fetch_add(more, Ordering::Relaxed);
    }

    /// How much is done, and how much there is to do.
    pub fn counts(&self) -> (usize, usize) {
        let load = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (load(&self.0.done), load(&self.0.all))
    }

    fn line(&self, doing: &str) -> String {
        // What is done was expected before; other processors may see it later.
        match self.counts() {
            (done, 0) => format!("{doing}: {done}"),
            (done, all) => format!("{doing}: {done} of {}", all.max(done)),
        }
    }
}

/// Shows progress until it is dropped or [ended](Display::end).
#[derive(Debug)]
pub struct Display {
    line: Arc<Mutex<Line>>,
    ticker: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

/// Whether the line is on the terminal.
#[derive(Debug, Default)]
struct Line {
    is_shown: bool,
}

impl Line {
    fn show(&mut self, text: &str) {
        // Nobody is there to be told when this fails.
        let _ = write!(io::stderr(), "{CLEAR}{text}");
        self.is_shown = true;
    }

    fn clear(&mut self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "{CLEAR}");
            self.is_shown = false;
        }
    }
}

impl Display {
    /// Shows `progress` on standard error behind the words `doing`, if that is a terminal which can clear a line.
    pub fn start(doing: &'static str, progress: &Progress) -> Self {
        let line = Arc::new(Mutex::new(Line::default()));
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let is_wanted = io::stderr().is_terminal() && !is_dumb;
        let ticker = is_wanted
            .then(|| ticker(doing, progress.clone(), Arc::clone(&line)))
            .flatten();
        Self {
            line,
            ticker: Mutex::new(ticker),
        }
    }

    /// Tells the user something, above the line.
    pub fn tell(&self, text: &str) {
        let mut line = lock(&self.line);
        line.clear();
        run::tell(text);
    }

    /// Shows nothing more, and clears what is shown.
    pub fn end(&self) {
        let ticker = lock(&self.ticker).take();
        if let Some((stop, thread)) = ticker {
            drop(stop);
            // It has no way to fail, and nobody would miss it.
            let _ = thread.join();
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.end();
    }
}

/// What panicked while it held the lock has left a whole value.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread that shows the line now and then, until its sender is dropped. `None` when there can be no more threads: the
/// work goes on unseen.
fn ticker(
    doing: &'static str,
    progress: Progress,
    line: Arc<Mutex<Line>>,
) -> Option<(Sender<()>, JoinHandle<()>)> {
    let (sender, stop) = channel::<()>();
    let tick = move || {
        let mut wait = PATIENCE;
        while stop.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            lock(&line).show(&progress.line(doing));
            wait = INTERVAL;
        }
        lock(&line).clear();
    };
    let thread = thread::Builder::new()
        .name("progress".to_owned())
        .spawn(tick);
    Some((sender, thread.ok()?))
}

/// A reader whose bytes are counted.
#[derive(Debug)]
pub struct Counted<R> {
    /// Where the bytes are from.
    pub reader: R,
    /// What counts them.
    pub progress: Progress,
}

impl<R: io::Read> io::Read for Counted<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(bytes)?;
        self.progress.advance(count);
        Ok(count)
    }
}

/// A writer that ends the display before it writes.
#[derive(Debug)]
pub struct After<'a, W> {
    /// Where the bytes go.
    pub writer: W,
    /// What is ended.
    pub display: &'a Display,
}

impl<W: io::Write> io::Write for After<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.display.end();
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_count_together() {
        let progress = Progress::default();
        let other = progress.clone();
        progress.expect(3);
        other.expect(2);
        other.advance(4);
        assert_eq!(progress.line("reading"), "reading: 4 of 5");
    }

    #[test]
    fn more_than_all_is_never_shown() {
        let progress = Progress::default();
        progress.advance(2);
        assert_eq!(progress.line("reading"), "reading: 2");
        progress.expect(1);
        assert_eq!(progress.line("reading"), "reading: 2 of 2");
    }
}
