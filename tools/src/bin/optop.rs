//! `optop`: the functions that a running virtual machine spends its time in.

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use oprofile_control::{Client, ClientError};
use oprofile_tools::classes::Merge;
use oprofile_tools::cli::colour;
use oprofile_tools::cli::next_step;
use oprofile_tools::cli::optop::Arguments;
use oprofile_tools::cli::run;
use oprofile_tools::control;
use oprofile_tools::demangle::Demangle;
use oprofile_tools::error::ToolError;
use oprofile_tools::export::model::ModelFull;
use oprofile_tools::export::read::{Options, ReadError, read};
use oprofile_tools::looks::{self, Looks};
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
    /// The VM.
    #[error("optop error: {}", control::told(.0))]
    Vm(#[from] ClientError),
    /// The thread that looks at it.
    #[error("optop error: Cannot look at the VM: {0}")]
    Looks(io::Error),
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
    let interval = Duration::from_secs_f64(arguments.interval);
    let mut session_dir = arguments.session_dir.clone();
    let mut looks = None;
    if let Some(socket) = &arguments.socket {
        let mut client = Client::connect(socket)?;
        if session_dir.is_none() {
            session_dir = written_session(&mut client)?;
        }
        looks = Some(Looks::start(client, interval).map_err(Error::Looks)?);
    }
    let looks = looks.as_ref();
    let places = Places::find(session_dir.as_deref(), arguments.root.as_deref(), &spec)
        .with_image_paths(&arguments.image_path)?;
    let mut source = Source {
        places,
        spec,
        seen: None,
        trouble: None,
    };
    let mut state = State::new(arguments.sort, &arguments.filter);
    if arguments.once {
        if let Some(looks) = looks {
            // Two, for rates.
            for event in looks.iter().take(2) {
                take_in(&mut state, event)?;
                if state.vm_ended.is_some() {
                    break;
                }
            }
        }
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
        full_screen(&mut state, &mut source, looks, interval).map_err(Error::Terminal)
    } else {
        lines(&mut state, &mut source, looks, arguments, interval)
    }
}

/// The session that the VM writes, if it can be found from here: the VMM may have named it from another directory.
fn written_session(client: &mut Client) -> Result<Option<PathBuf>, ClientError> {
    let session = client.status()?.session;
    Ok(session.filter(|path| path.is_absolute() && path.is_dir()))
}

/// Takes note of what the VM says. The error is of one that has never said anything.
fn take_in(state: &mut State, event: looks::Event) -> Result<(), ClientError> {
    match event {
        looks::Event::Looked(look) => state.update(Message::Look(look)),
        looks::Event::Ended(error) if state.vm.is_none() => return Err(error),
        looks::Event::Ended(ClientError::Closed) => {
            state.update(Message::VmEnded("The VM has ended".to_owned()));
        }
        looks::Event::Ended(error) => state.update(Message::VmEnded(control::told(&error))),
        // Not asked for.
        looks::Event::Interrupted => {}
    }
    Ok(())
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

/// Prints whenever something is new, until the VM, a signal or a closed pipe ends the program.
fn lines(
    state: &mut State,
    source: &mut Source,
    looks: Option<&Looks>,
    arguments: &Arguments,
    interval: Duration,
) -> Result<(), Error> {
    let mut is_new = false;
    loop {
        match source.poll() {
            Some(Message::Trouble(why)) => {
                let _ = writeln!(io::stderr(), "{why}");
            }
            Some(message) => {
                state.update(message);
                is_new = true;
            }
            None => {}
        }
        if is_new {
            print(state, arguments).map_err(Error::Output)?;
            if !arguments.json {
                println_blank().map_err(Error::Output)?;
            }
        }
        if state.vm_ended.is_some() {
            return Ok(());
        }
        is_new = false;
        match looks {
            Some(looks) => {
                if let Some(event) = looks.next_within(interval) {
                    take_in(state, event)?;
                    is_new = true;
                }
            }
            None => std::thread::sleep(interval),
        }
    }
}

fn println_blank() -> io::Result<()> {
    writeln!(io::stdout())
}

/// Draws until the user has enough.
fn full_screen(
    state: &mut State,
    source: &mut Source,
    looks: Option<&Looks>,
    interval: Duration,
) -> io::Result<()> {
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
                while let Some(event) = looks.and_then(|looks| looks.next_within(Duration::ZERO)) {
                    if let Err(error) = take_in(state, event) {
                        state.update(Message::VmEnded(control::told(&error)));
                    }
                }
                next = Instant::now() + interval;
            }
            state.page = view::page(state, terminal.size()?);
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
