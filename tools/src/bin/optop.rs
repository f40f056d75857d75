//! `optop`: the functions that a running virtual machine spends its time in.

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use oprofile_tools::classes::Merge;
use oprofile_tools::cli::colour;
use oprofile_tools::cli::next_step;
use oprofile_tools::cli::optop::Arguments;
use oprofile_tools::cli::run;
use oprofile_tools::demangle::Demangle;
use oprofile_tools::error::ToolError;
use oprofile_tools::export::model::ModelFull;
use oprofile_tools::export::read::{Options, ReadError, read};
use oprofile_tools::names::printable;
use oprofile_tools::session::Places;
use oprofile_tools::spec::Specification;
use oprofile_tools::top::snapshot::{Snapshot, read_account};
use oprofile_tools::top::state::{Key, Message, State};
use oprofile_tools::top::watch::Fingerprint;
use oprofile_tools::top::{plain, view};

/// Why the program ended.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The session.
    #[error("{}", .0.told_by("optop"))]
    Session(#[from] ToolError),
    /// The size of the profile.
    #[error("optop error: {0}")]
    Full(ModelFull),
    /// The terminal.
    #[error("optop error: Cannot use the terminal: {0}")]
    Terminal(io::Error),
    /// The output.
    #[error("optop error: Cannot write: {0}")]
    Output(io::Error),
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Session(error) => Self::Session(error),
            ReadError::Full(error) => Self::Full(error),
        }
    }
}

fn main() -> ExitCode {
    let arguments = match run::arguments() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    match watch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough closes the pipe; that is no error.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => run::failed(&error.to_string()),
    }
}

fn watch(arguments: &Arguments) -> Result<(), Error> {
    let spec = Specification::parse(&arguments.specification)?;
    let places = Places::find(
        arguments.session_dir.as_deref(),
        arguments.root.as_deref(),
        &spec,
    )
    .with_image_paths(&arguments.image_path)?;
    let mut source = Source {
        places,
        spec,
        seen: None,
        trouble: None,
    };
    let mut state = State::new(arguments.sort, &arguments.filter);
    let interval = Duration::from_secs_f64(arguments.interval);
    if arguments.once {
        let snapshot = source.read().inspect_err(|error| {
            if let ReadError::Session(error) = error
                && let Some(step) = next_step::for_session(error, &[&source.places])
            {
                run::tell(&step);
            }
        })?;
        state.update(Message::Snapshot(Box::new(snapshot)));
        return print(&state, arguments).map_err(Error::Output);
    }
    let term = std::env::var("TERM").ok();
    if !arguments.json
        && io::stdout().is_terminal()
        && io::stdin().is_terminal()
        && can_move_cursor(term.as_deref())
    {
        full_screen(&mut state, &mut source, interval).map_err(Error::Terminal)
    } else {
        lines(&mut state, &mut source, arguments, interval)
    }
}

/// Whether a terminal of this kind understands what we need: a second screen, and positions set by ANSI's codes.
fn can_move_cursor(term: Option<&str>) -> bool {
    !matches!(
        term,
        None | Some("" | "dumb" | "unknown" | "vt52" | "vt100" | "vt102")
    )
}

/// A session that is looked at again and again.
struct Source {
    places: Places,
    spec: Specification,
    seen: Option<Fingerprint>,
    trouble: Option<String>,
}

impl Source {
    fn read(&self) -> Result<Snapshot, ReadError> {
        let options = Options {
            merge: Merge {
                tid: true,
                tgid: true,
                unit_mask: true,
                ..Merge::default()
            },
            demangle: Demangle::Normal,
            flat: true,
            ..Options::default()
        };
        // The account first: it is written last, so samples may be newer than it, never older.
        let account = read_account(&self.places.session_dir);
        let found = read(&self.places, &self.spec, &options)?;
        Ok(Snapshot::new(&found.profile, account))
    }

    /// What is new, if anything is.
    fn poll(&mut self) -> Option<Message> {
        let result = Fingerprint::of(&self.places)
            .map_err(ReadError::from)
            .and_then(|now| {
                if self.seen == Some(now) {
                    return Ok(None);
                }
                let snapshot = self.read()?;
                self.seen = Some(now);
                Ok(Some(snapshot))
            });
        match result {
            Ok(None) => None,
            Ok(Some(snapshot)) => {
                self.trouble = None;
                Some(Message::Snapshot(Box::new(snapshot)))
            }
            Err(error) => {
                let why = trouble(&error);
                if self.trouble.as_ref() == Some(&why) {
                    return None;
                }
                // What comes back afterwards is new, be it as it was.
                self.seen = None;
                self.trouble = Some(why.clone());
                Some(Message::Trouble(why))
            }
        }
    }
}

/// What is wrong and what to do about it, in a line.
fn trouble(error: &ReadError) -> String {
    match error {
        ReadError::Session(ToolError::NoSamples) => {
            "no samples yet: does the guest's driver run, and is this the session that its VMM writes?"
                .to_owned()
        }
        ReadError::Session(error) => printable(error.chain().replace('\n', " ").as_bytes()),
        ReadError::Full(error) => error.to_string(),
    }
}

fn limit(arguments: &Arguments) -> usize {
    match arguments.lines {
        0 => usize::MAX,
        lines => lines,
    }
}

fn print(state: &State, arguments: &Arguments) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    if arguments.json {
        plain::write_json(state, limit(arguments), &mut out)?;
    } else {
        plain::write(state, limit(arguments), &mut out)?;
    }
    out.flush()
}

/// Prints whenever something is new, until a signal or a closed pipe ends the program.
fn lines(
    state: &mut State,
    source: &mut Source,
    arguments: &Arguments,
    interval: Duration,
) -> Result<(), Error> {
    loop {
        match source.poll() {
            Some(Message::Trouble(why)) => {
                let _ = writeln!(io::stderr(), "{why}");
            }
            Some(message) => {
                state.update(message);
                print(state, arguments).map_err(Error::Output)?;
                if !arguments.json {
                    println_blank().map_err(Error::Output)?;
                }
            }
            None => {}
        }
        std::thread::sleep(interval);
    }
}

fn println_blank() -> io::Result<()> {
    writeln!(io::stdout())
}

/// Draws until the user has enough.
fn full_screen(state: &mut State, source: &mut Source, interval: Duration) -> io::Result<()> {
    let colour = colour::is_wanted();
    // Also sets a panic hook that gives the terminal back.
    let mut terminal = ratatui::try_init()?;
    let result = (|| {
        let mut next = Instant::now();
        while !state.quit {
            if Instant::now() >= next {
                if let Some(message) = source.poll() {
                    state.update(message);
                }
                next = Instant::now() + interval;
            }
            state.page = view::page(state, terminal.size()?.height);
            terminal.draw(|frame| view::draw(frame, state, colour))?;
            if event::poll(next.saturating_duration_since(Instant::now()))?
                && let Some(key) = key(&event::read()?)
            {
                state.update(Message::Key(key));
            }
        }
        Ok(())
    })();
    ratatui::try_restore()?;
    result
}

fn key(event: &Event) -> Option<Key> {
    let Event::Key(KeyEvent {
        code,
        modifiers,
        kind: KeyEventKind::Press | KeyEventKind::Repeat,
        ..
    }) = event
    else {
        return None;
    };
    if modifiers.contains(KeyModifiers::CONTROL) {
        return matches!(code, KeyCode::Char('c')).then_some(Key::Interrupt);
    }
    Some(match code {
        KeyCode::Char(character) => Key::Char(*character),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => return None,
    })
}
