//! `optop`: the functions that a running virtual machine spends its time in.

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{ArgAction, Parser};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use oprofile_tools::classes::Merge;
use oprofile_tools::cli::run;
use oprofile_tools::demangle::Demangle;
use oprofile_tools::error::ToolError;
use oprofile_tools::export::model::ModelFull;
use oprofile_tools::export::read::{Options, ReadError, read};
use oprofile_tools::names::printable;
use oprofile_tools::session::Places;
use oprofile_tools::spec::Specification;
use oprofile_tools::top::snapshot::{Snapshot, read_account};
use oprofile_tools::top::state::{Key, Message, SortKey, State};
use oprofile_tools::top::watch::Fingerprint;
use oprofile_tools::top::{plain, view};

/// Show the functions that a running virtual machine spends its time in.
#[derive(Debug, Parser)]
#[command(
    name = "optop",
    version,
    disable_help_flag = true,
    disable_version_flag = true
)]
#[command(after_help = "\
Keys: q quit, p pause, / filter, Esc no filter, s sort, r reverse, h help, arrows and page keys scroll.

Examples:
  optop --session-dir /run/vm1/profile
  optop --once --lines 5                 the five hottest functions, for a script
  optop --json | jq .functions[0]        a document whenever the session has changed

The profile specification is that of opreport. Terminals that cannot move their cursor (TERM=dumb, vt100) and pipes get
plain lines.")]
struct Arguments {
    /// Print once and end
    #[arg(long)]
    once: bool,
    /// Print JSON, a document a line
    #[arg(long)]
    json: bool,
    /// Seconds between looks at the session
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    interval: f64,
    /// Rows to print where there is no screen to fill; 0 for all
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    lines: usize,
    /// What to sort by
    #[arg(short, long, value_enum, default_value_t)]
    sort: SortKey,
    /// Show only rows with this in function, image or program
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Look for missing images below these directories, too
    #[arg(short = 'p', long, value_name = "DIR,...", value_delimiter = ',')]
    image_path: Vec<PathBuf>,
    /// Directory that holds 'samples'; default is ./oprofile_data, else /var/lib/oprofile
    #[arg(long, value_name = "DIR")]
    session_dir: Option<PathBuf>,
    /// Directory that stands for the root of the profiled machine
    #[arg(short = 'R', long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Show this help
    #[arg(short = '?', short_alias = 'h', long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Show the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
    /// Profile specification, see opreport
    #[arg(value_name = "SPECIFICATION")]
    specification: Vec<String>,
}

/// Why the program ended.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The session.
    #[error("{}", .0.chain())]
    Session(#[from] ToolError),
    /// The size of what is in it.
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
            ReadError::Full(full) => Self::Full(full),
        }
    }
}

fn main() -> ExitCode {
    let arguments = match run::arguments(|_: &Arguments| false) {
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
        let snapshot = source.read()?;
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
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
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

fn interval(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.05..=3600.0).contains(seconds))
        .ok_or_else(|| "0.05 to 3600 seconds".to_owned())
}
