//! `opread`: the event stream of a VM as text.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use oprofile_control::message::Command;
use oprofile_control::{Client, ClientError};
use oprofile_tools::cli::opread::Arguments;
use oprofile_tools::cli::{next_step, run};
use oprofile_tools::control;
use oprofile_tools::event_text::{self, Names};

/// Largest file of words: the largest event buffer, 1 GiB.
const MAX_FILE_BYTES: u64 = 1 << 30;

type Failed = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Arguments = match run::arguments() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let done = match (&arguments.socket, &arguments.file) {
        (_, Some(file)) => decode(file, arguments.raw),
        (Some(socket), None) => follow(socket, &arguments),
        (None, None) => Err("Either --socket or --file is needed".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read it has seen enough.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            let client = error.downcast_ref::<ClientError>();
            if let Some(step) = client.and_then(next_step::for_vm) {
                eprintln!("{step}");
            }
            run::failed(&format!("opread: {}", control::told(&*error)))
        }
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn decode(path: &Path, raw: bool) -> Result<(), Failed> {
    let mut bytes = Vec::new();
    let limit = MAX_FILE_BYTES + 1;
    if path == Path::new("-") {
        io::stdin().take(limit).read_to_end(&mut bytes)?;
    } else {
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        file.take(limit).read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err("The file is longer than any event buffer, 1 GiB".into());
    }
    let (words, rest) = bytes.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    print(&words, raw, &mut Names::new(|_| None))?;
    if !rest.is_empty() {
        eprintln!("opread: The last {} bytes are no whole word", rest.len());
    }
    Ok(())
}

fn follow(socket: &Path, arguments: &Arguments) -> Result<(), Failed> {
    let mut other = Client::connect(socket)?;
    let mut events = Client::connect(socket)?.events()?;
    if !arguments.no_start {
        other.ask(Command::Start)?;
    }
    if let Some(hint) = control::hint(&other.status()?) {
        eprintln!("{hint}");
    }
    let mut names = Names::new(|cookie| match other.cookie(cookie) {
        Ok(answer) => Some(answer),
        // The VM has ended; the rest of the stream is still to come.
        Err(ClientError::Closed) => None,
        Err(error) => {
            eprintln!("opread: {}", control::told(&error));
            None
        }
    });
    let mut left = arguments.reads;
    while left != Some(0) {
        let Some(words) = events.next_read()? else {
            eprintln!(
                "opread: This is the end of the stream: the VM has ended or serves it no more"
            );
            break;
        };
        print(&words, arguments.raw, &mut names)?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn print<F: FnMut(u64) -> Option<oprofile_control::CookieAnswer>>(
    words: &[u64],
    raw: bool,
    names: &mut Names<F>,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if raw {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        out.write_all(&bytes)?;
    } else {
        let mut text = String::new();
        event_text::append(&mut text, words, names);
        out.write_all(text.as_bytes())?;
    }
    out.flush()
}
