//! Colours on a terminal, and that `NO_COLOR` and `CLICOLOR=0` take them away from every tool.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use oprofile_session::sample_file::{Header, encode};
use portable_pty::{CommandBuilder, PtySize, native_pty_system};

/// What takes colours away.
const WITHOUT: [(&str, &str); 2] = [("NO_COLOR", "1"), ("CLICOLOR", "0")];

/// Runs a tool on a terminal until `is_enough` of its output, then types `q`. Returns what any cell of the screen, at any
/// time, had.
fn styles_of(
    tool: &str,
    arguments: &[&str],
    environment: Option<(&str, &str)>,
    is_enough: impl Fn(&vt100::Screen) -> bool,
) -> Styles {
    let (rows, cols) = (200, 160);
    let size = PtySize {
        rows,
        cols,
        ..PtySize::default()
    };
    let pty = native_pty_system().openpty(size).unwrap();
    let directory = Path::new(env!("CARGO_BIN_EXE_optop")).parent().unwrap();
    let mut command = CommandBuilder::new(directory.join(tool));
    command.args(arguments);
    command.env("TERM", "xterm-256color");
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    if let Some((name, value)) = environment {
        command.env(name, value);
    }
    let mut child = pty.slave.spawn_command(command).unwrap();
    drop(pty.slave);
    let mut reader = pty.master.try_clone_reader().unwrap();
    let mut keys = pty.master.take_writer().unwrap();
    let mut parser = vt100::Parser::new(rows, cols, 0);
    let mut styles = Styles::default();
    let mut bytes = [0; 4096];
    let mut is_asked_to_end = false;
    // An error is how the end of a pseudo-terminal looks.
    while let Ok(length @ 1..) = reader.read(&mut bytes) {
        parser.process(&bytes[..length]);
        styles.see(parser.screen());
        if !is_asked_to_end && is_enough(parser.screen()) {
            is_asked_to_end = true;
            keys.write_all(b"q").unwrap();
        }
    }
    assert!(child.wait().unwrap().success(), "{tool}");
    assert!(is_asked_to_end, "{tool}: {}", parser.screen().contents());
    styles
}

/// What was seen in the cells of a screen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Styles {
    colour: bool,
    bold: bool,
}

impl Styles {
    fn see(&mut self, screen: &vt100::Screen) {
        let (rows, cols) = screen.size();
        for cell in (0..rows).flat_map(|row| (0..cols).filter_map(move |col| screen.cell(row, col)))
        {
            let plain = vt100::Color::Default;
            self.colour |= cell.fgcolor() != plain || cell.bgcolor() != plain;
            self.bold |= cell.bold() || cell.underline();
        }
    }
}

#[test]
fn help_of_every_tool_is_plain_when_that_is_wanted() {
    for command in oprofile_tools::cli::commands() {
        let tool = command.get_name();
        let styles = |environment| {
            styles_of(tool, &["--help"], environment, |screen| {
                screen.contents().contains("Examples:")
            })
        };
        assert_ne!(styles(None), Styles::default(), "{tool}");
        for variable in WITHOUT {
            let without = styles(Some(variable));
            assert_eq!(without, Styles::default(), "{tool} {variable:?}");
        }
    }
}

#[test]
fn live_table_has_no_colour_when_that_is_wanted() {
    let session = tempfile::tempdir().unwrap();
    let directory = session
        .path()
        .join("samples/current/{root}/srv/first/{dep}/{root}/srv/first");
    fs::create_dir_all(&directory).unwrap();
    let bytes = encode(&Header::timer(0, 0, 0), [(16, 70)].into_iter());
    fs::write(directory.join("TIMER.0.0.all.all.0"), bytes).unwrap();
    let session = format!("--session-dir={}", session.path().display());
    let has_colour = |environment| {
        let is_enough = |screen: &vt100::Screen| screen.contents().contains("[first]");
        styles_of("optop", &[&session], environment, is_enough).colour
    };
    assert!(has_colour(None));
    for variable in WITHOUT {
        assert!(!has_colour(Some(variable)), "{variable:?}");
    }
}
