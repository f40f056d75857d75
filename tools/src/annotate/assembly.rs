//! Annotated disassembly, which GNU objdump makes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::columns::margin;
use super::model::{Model, Symbol};
use super::source::symbol_total;
use super::{AnnotateError, Sink};
use crate::report::reaches;

/// Longest line of objdump's that is taken as one, bytes; a symbol's name is its longest part.
const MAX_LINE: u64 = 1 << 16;
/// What is shown of objdump's messages, bytes.
const MAX_MESSAGE: u64 = 4096;

/// How to disassemble.
#[derive(Debug, Clone, Default)]
pub struct AssemblyOptions {
    /// Source lines between the instructions.
    pub source: bool,
    /// Names as in the source.
    pub demangle: bool,
    /// More arguments for objdump.
    pub objdump_params: Vec<OsString>,
    /// Only symbols with this percentage of the samples in some class.
    pub threshold: f64,
}

/// Splits what the user wants passed on: at blanks, and at commas that a new option follows.
pub fn split_params(text: &str) -> Vec<OsString> {
    text.replace(",-", " -")
        .split_whitespace()
        .map(OsString::from)
        .collect()
}

/// The symbols of an image to show, most samples first.
fn selected(model: &Model, image: usize, threshold: f64) -> Vec<&Symbol> {
    let mut symbols: Vec<_> = model
        .symbols
        .iter()
        .filter(|symbol| {
            symbol.known
                && symbol.image == image
                && reaches(&symbol.counts, &model.total, threshold)
        })
        .collect();
    // By address where the first class does not decide.
    symbols.sort_by(|a, b| {
        (b.counts.first(), a.start, &a.name).cmp(&(a.counts.first(), b.start, &b.name))
    });
    symbols
}

/// Writes the disassembly of all symbols, image by image, each image behind `heading`. Warnings go to `tell`.
pub fn to_sink(
    model: &Model,
    options: &AssemblyOptions,
    heading: &str,
    sink: &mut Sink<impl Write>,
    tell: &mut dyn FnMut(&str),
) -> Result<(), AnnotateError> {
    for (number, image) in model.images.iter().enumerate() {
        let symbols = selected(model, number, options.threshold);
        if symbols.is_empty() {
            continue;
        }
        sink.write(heading.as_bytes())?;
        for symbol in symbols {
            disassemble(model, symbol, image, options, sink, tell)?;
        }
    }
    Ok(())
}

fn disassemble(
    model: &Model,
    symbol: &Symbol,
    image: &Path,
    options: &AssemblyOptions,
    sink: &mut Sink<impl Write>,
    tell: &mut dyn FnMut(&str),
) -> Result<(), AnnotateError> {
    let mut child =
        command(symbol, image, options)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => AnnotateError::NoObjdump,
                _ => AnnotateError::Objdump(error),
            })?;
    let messages = child.stderr.take();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut messages) = messages {
            // What comes behind is read, so that objdump goes on, and forgotten.
            let _ = (&mut messages).take(MAX_MESSAGE).read_to_end(&mut text);
            let _ = io::copy(&mut messages, &mut io::sink());
        }
        text
    });
    let result = match child.stdout.take() {
        Some(output) => annotate(model, symbol, &mut BufReader::new(output), sink),
        None => Ok(()),
    };
    if result.is_err() {
        // Nobody reads its output any more.
        let _ = child.kill();
    }
    let status = child.wait().map_err(AnnotateError::Objdump)?;
    let messages = reader.join().unwrap_or_default();
    result?;
    if !status.success() || !messages.is_empty() {
        let text = String::from_utf8_lossy(&messages);
        let text = text.trim();
        tell(&format!(
            "opannotate (warning): objdump on {}: {}",
            crate::names::printable(image.as_os_str().as_encoded_bytes()),
            if text.is_empty() {
                status.to_string()
            } else {
                crate::names::printable(text.as_bytes())
            }
        ));
    }
    Ok(())
}

fn command(symbol: &Symbol, image: &Path, options: &AssemblyOptions) -> Command {
    let mut command = Command::new("objdump");
    command.args(["-d", "--no-show-raw-insn"]);
    if options.source {
        command.arg("-S");
    }
    if options.demangle {
        command.arg("-C");
    }
    command
        .arg(format!("--start-address={:#x}", symbol.start))
        .arg(format!("--stop-address={:#x}", symbol.end))
        .args(&options.objdump_params)
        // The name of an image is not ours; it is no option whatever it begins with.
        .args([OsStr::new("--"), image.as_os_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Puts samples beside the lines of objdump's.
fn annotate(
    model: &Model,
    symbol: &Symbol,
    input: &mut impl io::BufRead,
    sink: &mut Sink<impl Write>,
) -> Result<(), AnnotateError> {
    let samples: BTreeMap<u64, _> = symbol
        .samples
        .iter()
        .map(|sample| (sample.address, &sample.counts))
        .collect();
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        match Line::parse(&line) {
            Line::Symbol(address) if address == symbol.start => {
                sink.write_foreign(&line)?;
                let total = symbol_total(&symbol.name, &symbol.counts, &model.total);
                sink.write(total.as_bytes())?;
            }
            Line::Instruction(address) => {
                let counts = samples.get(&address).copied();
                sink.write(margin(counts, &model.total).as_bytes())?;
                sink.write_foreign(&line)?;
            }
            Line::Symbol(_) | Line::Other => {
                sink.write(margin(None, &model.total).as_bytes())?;
                sink.write_foreign(&line)?;
            }
        }
        sink.write(b"\n")?;
    }
}

/// What a line of objdump's is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// `0000000000001303 <calc_odd>:`
    Symbol(u64),
    /// `    1303:  mov    $0x0,%eax`
    Instruction(u64),
    Other,
}

impl Line {
    fn parse(line: &[u8]) -> Self {
        if line.ends_with(b">:")
            && let Some((address, rest)) = hex(line)
            && rest.starts_with(b" <")
        {
            return Self::Symbol(address);
        }
        match hex(line.trim_ascii_start()) {
            Some((address, [b':', b'\t', ..])) => Self::Instruction(address),
            _ => Self::Other,
        }
    }
}

/// The number in base 16 at the beginning of `text`, and what follows.
fn hex(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let (number, rest) = text.split_at(digits);
    let number = u64::from_str_radix(std::str::from_utf8(number).ok()?, 16).ok()?;
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::super::model::Sample;
    use super::*;
    use proptest::prelude::*;

    fn model() -> Model {
        let mut model = Model::new(1);
        model.images.push("/bin/a".into());
        for (name, start, count) in [("calc_odd", 0x1303, 3), ("main", 0x1100, 1)] {
            model.push(Symbol {
                name: name.to_owned(),
                image: 0,
                known: true,
                start,
                end: start + 0x20,
                counts: vec![count],
                place: None,
                samples: vec![Sample {
                    address: start + 5,
                    counts: vec![count],
                    place: None,
                }],
            });
        }
        model
    }

    fn annotated(input: &[u8]) -> String {
        let model = model();
        let mut bytes = Vec::new();
        annotate(
            &model,
            &model.symbols[0],
            &mut &input[..],
            &mut Sink::file(&mut bytes),
        )
        .unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn samples_stand_beside_their_instructions() {
        let text = annotated(
            b"\nDisassembly of section .text:\n\n0000000000001303 <calc_odd>:\n    1303:\tmov    $0x0,%eax\n    1308:\ttest   %edi,%edi\n",
        );
        assert_eq!(
            text,
            "               :\n               :Disassembly of section .text:\n               :\n\
             0000000000001303 <calc_odd>: /* calc_odd total:      3 75.0000 */\n               \
             :    1303:\tmov    $0x0,%eax\n     3 75.0000 :    1308:\ttest   %edi,%edi\n"
        );
    }

    #[test]
    fn lines_are_told_apart() {
        for (line, kind) in [
            (
                &b"ffffffff81001062 <f>:"[..],
                Line::Symbol(0xffff_ffff_8100_1062),
            ),
            (
                b"ffffffff81001062:\tret",
                Line::Instruction(0xffff_ffff_8100_1062),
            ),
            (b"  12:\tnop", Line::Instruction(0x12)),
            (b"  12: nop", Line::Other),
            (b"dead: <b>:", Line::Other),
            (b"fffffffffffffffff <f>:", Line::Other),
            (b"", Line::Other),
            (b"Disassembly of section .text:", Line::Other),
        ] {
            assert_eq!(Line::parse(line), kind, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn symbols_come_most_samples_first_and_not_below_the_threshold() {
        let model = model();
        let names = |threshold| {
            selected(&model, 0, threshold)
                .iter()
                .map(|symbol| symbol.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(0.0), ["calc_odd", "main"]);
        assert_eq!(names(26.0), ["calc_odd"]);
        assert!(selected(&model, 1, 0.0).is_empty());
    }

    #[test]
    fn parameters_are_split_where_options_begin() {
        assert_eq!(
            split_params("-M intel,addr64,-l  --wide"),
            ["-M", "intel,addr64", "-l", "--wide"]
        );
    }

    #[test]
    fn image_is_never_an_option() {
        let model = model();
        let command = command(
            &model.symbols[0],
            Path::new("--help"),
            &AssemblyOptions::default(),
        );
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(arguments[arguments.len() - 2..], ["--", "--help"]);
        assert!(arguments.contains(&OsStr::new("--start-address=0x1303")));
        assert!(arguments.contains(&OsStr::new("--stop-address=0x1323")));
    }

    proptest! {
        #[test]
        fn no_line_is_lost(lines in prop::collection::vec("[0-9a-f]{0,18}( <[a-z]{1,3}>:|:\t[a-z]*|)", 0..20)) {
            let input = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
            let text = annotated(input.as_bytes());
            prop_assert_eq!(text.lines().count(), lines.len());
            for (line, shown) in lines.iter().zip(text.lines()) {
                prop_assert!(shown.contains(line.as_str()));
            }
        }
    }
}
