//! `opcontrol`: controls the profiling of a VM that runs.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use oprofile_control::message::{Command, Separation};
use oprofile_control::status::Reader;
use oprofile_control::{Client, ClientError, Status};
use oprofile_tools::cli::opcontrol::{Arguments, Settings, without_meaning};
use oprofile_tools::cli::{next_step, run};
use oprofile_tools::control::watch::{End, follow};
use oprofile_tools::control::{self, Quiet};
use oprofile_tools::looks::Looks;

/// From one line of --watch to the next.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    if let Some(why) = without_meaning::refusal(std::env::args_os()) {
        return run::failed(&format!("opcontrol: {why}"));
    }
    let arguments = match run::arguments() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    match control(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Quiet>() => ExitCode::SUCCESS,
        Err(error) => {
            let client = error.downcast_ref::<ClientError>();
            if let Some(step) = client.and_then(next_step::for_vm) {
                eprintln!("{step}");
            }
            run::failed(&format!("opcontrol: {}", control::told(&*error)))
        }
    }
}

type Failed = Box<dyn std::error::Error>;

fn control(arguments: Arguments) -> Result<(), Failed> {
    let separation = control::separation(&arguments.settings.separate)?;
    if let Some(event) = &arguments.settings.event {
        control::check_event(event)?;
    }
    let mut client = Client::connect(&arguments.socket)?;
    let set = apply(&mut client, &arguments.settings, separation)?;
    let commands = arguments.command;
    if commands.watch {
        return watch(client);
    }
    let json = arguments.json;
    if commands.start {
        client.ask(Command::Start)?;
        let status = client.status()?;
        say("Profiler running.")?;
        hint(&status)
    } else if commands.stop || commands.shutdown {
        let answer = client.ask(Command::Stop)?;
        say("Stopping profiling.")?;
        if commands.shutdown {
            client.ask(Command::Dump)?;
        }
        if client.status()?.said_hello && answer["quiesced"] == false {
            eprintln!("The guest has not handed in its last samples yet; --dump takes them later.");
        }
        Ok(())
    } else if commands.dump {
        client.ask(Command::Dump)?;
        hint(&client.status()?)
    } else if commands.init {
        // The device answers, so it is there.
        Ok(client.status().map(drop)?)
    } else if commands.start_daemon {
        match client.status()?.reader {
            Reader::None => Err(control::NO_READER.into()),
            Reader::Collector | Reader::Client => Ok(()),
        }
    } else if commands.reset {
        Ok(client.ask(Command::Reset).map(drop)?)
    } else if let Some(name) = commands.save {
        Ok(client.ask(Command::Save { name }).map(drop)?)
    } else if commands.list_files {
        let list = client.ask(Command::List)?;
        for file in list.as_array().into_iter().flatten() {
            let mode = file["mode"].as_u64().unwrap_or(0);
            say(&format!(
                "{mode:04o} {}",
                file["path"].as_str().unwrap_or("")
            ))?;
        }
        Ok(())
    } else if let Some(path) = commands.read {
        let text = client.read(&path)?;
        say(text.trim_end_matches('\n'))
    } else if let Some(write) = commands.write {
        let (path, text) = write.split_once('=').ok_or("--write takes FILE=TEXT")?;
        Ok(client.write(path, text)?)
    } else if set && !commands.status {
        Ok(())
    } else {
        let status = client.status()?;
        match json {
            true => say(&serde_json::to_string_pretty(&status)?)?,
            false => say(control::status_text(&status).trim_end_matches('\n'))?,
        }
        hint(&status)
    }
}

/// Applies the settings; whether there were any.
fn apply(
    client: &mut Client,
    settings: &Settings,
    separation: Option<(Separation, bool)>,
) -> Result<bool, ClientError> {
    let mut any = settings.event.is_some() || settings.setup || settings.no_vmlinux;
    let files = [
        ("backtrace_depth", settings.callgraph.map(u64::from)),
        ("buffer_size", settings.buffer_size),
        ("buffer_watershed", settings.buffer_watershed),
        ("cpu_buffer_size", settings.cpu_buffer_size),
    ];
    for (path, value) in files {
        if let Some(value) = value {
            client.write(path, &value.to_string())?;
            any = true;
        }
    }
    if let Some(hz) = settings.hz {
        client.ask(Command::Rate { hz })?;
        any = true;
    }
    if let Some((separation, per_cpu)) = separation {
        client.ask(Command::Separate {
            separation,
            per_cpu,
        })?;
        any = true;
    }
    Ok(any)
}

fn watch(client: Client) -> Result<(), Failed> {
    let looks = Looks::start(client, WATCH_PERIOD)?.with_interrupts()?;
    match follow(looks.iter(), say)? {
        End::Interrupted => Ok(()),
        // Nothing went wrong: there is no more to watch.
        End::Vm(error @ ClientError::Closed) => {
            eprintln!("{}", control::told(&error));
            Ok(())
        }
        End::Vm(error) => Err(error.into()),
    }
}

fn hint(status: &Status) -> Result<(), Failed> {
    if let Some(hint) = control::hint(status) {
        eprintln!("{hint}");
    }
    Ok(())
}

fn say(text: &str) -> Result<(), Failed> {
    match writeln!(io::stdout(), "{text}") {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Quiet.into()),
        other => Ok(other?),
    }
}
