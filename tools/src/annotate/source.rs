//! Annotated source files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::columns::{columns, margin};
use super::model::{FileProfile, Model, add, by_file};
use super::paths::{SourcePaths, contained};
use super::{AnnotateError, Sink};
use crate::glob;
use crate::names::printable;
use crate::profile::Counts;
use crate::report::reaches;

/// Largest source file that is annotated, bytes. Generated sources have some tens of megabytes.
const MAX_SOURCE: u64 = 256 << 20;

/// Which source files are wanted, and where they are.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// Where sources are looked for.
    pub paths: SourcePaths,
    /// Only files that match one of these patterns, if there is any.
    pub include_files: Vec<Vec<u8>>,
    /// Not files that match one of these.
    pub exclude_files: Vec<Vec<u8>>,
    /// Only files with this percentage of the samples in some class.
    pub threshold: f64,
}

impl SourceOptions {
    fn wants(&self, name: &[u8]) -> bool {
        // A pattern without a directory is one of the name alone.
        let base = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
        let hit = |patterns: &[Vec<u8>]| {
            patterns
                .iter()
                .any(|pattern| glob::matches(pattern, name) || glob::matches(pattern, base))
        };
        !hit(&self.exclude_files) && (self.include_files.is_empty() || hit(&self.include_files))
    }
}

/// The files to show, most samples first.
fn selected<'a>(
    model: &Model,
    files: &'a BTreeMap<usize, FileProfile>,
    options: &SourceOptions,
) -> Vec<(usize, &'a FileProfile)> {
    let mut files: Vec<_> = files
        .iter()
        .map(|(number, file)| (*number, file))
        .filter(|(number, file)| {
            let name = model.files.get(*number).map_or(&b""[..], Vec::as_slice);
            options.wants(name) && reaches(&file.counts, &model.total, options.threshold)
        })
        .collect();
    let sum = |file: &FileProfile| {
        file.counts
            .iter()
            .fold(0u64, |sum, count| sum.saturating_add(*count))
    };
    files.sort_by(|(a, x), (b, y)| {
        sum(y)
            .cmp(&sum(x))
            .then_with(|| model.files.get(*a).cmp(&model.files.get(*b)))
    });
    files
}

/// Writes all files, one behind the other. Warnings go to `tell`.
pub fn to_sink(
    model: &Model,
    options: &SourceOptions,
    sink: &mut Sink<impl Write>,
    tell: &mut dyn FnMut(&str),
) -> Result<(), AnnotateError> {
    let files = by_file(model);
    for (number, file) in selected(model, &files, options) {
        let annotated = Annotated::new(model, number, file, &options.paths);
        sink.write(annotated.heading().as_bytes())?;
        annotated.write_lines(sink, tell)?;
    }
    Ok(())
}

/// Writes each file below `directory`, by its path, with `trailer` at its end. Warnings go to `tell`. A file that cannot
/// be written, for its name may be any, does not keep the others from it.
pub fn to_directory(
    model: &Model,
    options: &SourceOptions,
    directory: &Path,
    trailer: &str,
    tell: &mut dyn FnMut(&str),
) -> Result<(), AnnotateError> {
    create_dir_all(directory)?;
    let files = by_file(model);
    let mut missing = 0;
    for (number, file) in selected(model, &files, options) {
        let annotated = Annotated::new(model, number, file, &options.paths);
        if let Err(error) = annotated.write_file(directory, trailer, tell) {
            missing += 1;
            tell(&format!(
                "opannotate (warning): {}",
                printable(error.chain().as_bytes())
            ));
        }
    }
    match missing {
        0 => Ok(()),
        files => Err(AnnotateError::Incomplete { files }),
    }
}

fn create_dir_all(path: &Path) -> Result<(), AnnotateError> {
    fs::create_dir_all(path).map_err(|source| AnnotateError::File {
        path: path.to_owned(),
        source,
    })
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

/// One file with its part of the profile.
struct Annotated<'a> {
    model: &'a Model,
    file: &'a FileProfile,
    name: Vec<u8>,
    path: PathBuf,
}

impl<'a> Annotated<'a> {
    fn new(model: &'a Model, number: usize, file: &'a FileProfile, paths: &SourcePaths) -> Self {
        let name = model.files.get(number).cloned().unwrap_or_default();
        let path = paths.locate(&name);
        Self {
            model,
            file,
            name,
            path,
        }
    }

    /// The comment with the file's total, and what no line can be blamed for.
    fn heading(&self) -> String {
        let mut text = format!(
            "/* \n * Total samples for file : \"{}\"\n * \n * {}\n */\n\n",
            printable(&self.name),
            columns(&self.file.counts, &self.model.total)
        );
        if let Some(counts) = self.file.lines.get(&0) {
            text.push_str("<credited to line zero> ");
            text.push_str(&margin(Some(counts), &self.model.total));
        }
        text.push('\n');
        text
    }

    /// Writes the file of its own.
    fn write_file(
        &self,
        directory: &Path,
        trailer: &str,
        tell: &mut dyn FnMut(&str),
    ) -> Result<(), AnnotateError> {
        let path = directory.join(contained(&self.path));
        let failed = |source| AnnotateError::File {
            path: path.clone(),
            source,
        };
        if path == directory {
            return Err(failed(io::ErrorKind::InvalidFilename.into()));
        }
        if same_file(&path, &self.path) {
            return Err(AnnotateError::OverSource { path });
        }
        if let Some(parent) = path.parent() {
            create_dir_all(parent)?;
        }
        let output = BufWriter::new(File::create(&path).map_err(failed)?);
        let mut sink = Sink::file(output);
        self.write_lines(&mut sink, tell)?;
        sink.write(self.heading().as_bytes())?;
        sink.write(trailer.as_bytes())?;
        sink.finish().map_err(failed)
    }

    fn write_lines(
        &self,
        sink: &mut Sink<impl Write>,
        tell: &mut dyn FnMut(&str),
    ) -> Result<(), AnnotateError> {
        let source = match open(&self.path) {
            Ok(source) => source,
            Err(error) => {
                tell(&format!(
                    "opannotate (warning): unable to open for reading: {}{}",
                    printable(&self.name),
                    // Everybody knows the common case.
                    if error.kind() == io::ErrorKind::NotFound {
                        String::new()
                    } else {
                        format!(" ({error})")
                    }
                ));
                return self.write_symbols(sink);
            }
        };
        let mut source = BufReader::new(source.take(MAX_SOURCE));
        let mut line = Vec::new();
        let mut number = 0u32;
        loop {
            line.clear();
            match source.read_until(b'\n', &mut line) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => {
                    tell(&format!(
                        "opannotate (warning): unable to read all of {}: {error}",
                        printable(&self.name)
                    ));
                    return Ok(());
                }
            }
            number = number.saturating_add(1);
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            let margin = margin(self.file.lines.get(&number), &self.model.total);
            sink.write(margin.as_bytes())?;
            sink.write_foreign(&line)?;
            sink.write(self.symbols_of_line(number).as_bytes())?;
            sink.write(b"\n")?;
        }
    }

    /// The totals of symbols that begin in a line, as a comment behind it.
    fn symbols_of_line(&self, line: u32) -> String {
        let symbols: Vec<_> = self
            .file
            .symbols
            .get(&line)
            .into_iter()
            .flatten()
            .filter_map(|number| self.model.symbols.get(*number))
            .collect();
        match symbols[..] {
            [] => String::new(),
            [symbol] => symbol_total(&symbol.name, &symbol.counts, &self.model.total),
            _ => {
                let mut text = String::from(" /* ");
                let mut sum = vec![0; self.model.classes];
                for symbol in symbols {
                    add(&mut sum, &symbol.counts);
                    let columns = columns(&symbol.counts, &self.model.total);
                    // Infallible for a String.
                    let _ = write!(text, "{} {columns}, ", symbol.name);
                }
                let _ = write!(text, "total: {} */", columns(&sum, &self.model.total));
                text
            }
        }
    }

    /// What is known when the file cannot be read: the totals of its symbols, by line.
    fn write_symbols(&self, sink: &mut Sink<impl Write>) -> Result<(), AnnotateError> {
        for number in self.file.symbols.values().flatten() {
            if let Some(symbol) = self.model.symbols.get(*number) {
                let text = symbol_total(&symbol.name, &symbol.counts, &self.model.total);
                sink.write(text.as_bytes())?;
                sink.write(b"\n")?;
            }
        }
        Ok(())
    }
}

/// The comment with the total of one symbol.
pub(super) fn symbol_total(name: &str, counts: &Counts, total: &Counts) -> String {
    format!(" /* {name} total: {} */", columns(counts, total))
}

/// Opens a source file. Its name is not trusted, so it may be a pipe that never ends, or a device.
fn open(path: &Path) -> io::Result<File> {
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > MAX_SOURCE {
        return Err(io::Error::other(format!(
            "larger than {} MiB",
            MAX_SOURCE >> 20
        )));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::super::model::{Place, Sample, Symbol};
    use super::*;

    fn symbol(
        name: &str,
        place: Option<Place>,
        samples: &[(u64, u64, u32)],
        file: usize,
    ) -> Symbol {
        Symbol {
            name: name.to_owned(),
            image: 0,
            known: true,
            start: samples[0].0,
            end: samples[0].0 + 100,
            counts: vec![samples.iter().map(|(_, count, _)| count).sum()],
            place,
            samples: samples
                .iter()
                .map(|(address, count, line)| Sample {
                    address: *address,
                    counts: vec![*count],
                    place: Some(Place { file, line: *line }),
                })
                .collect(),
        }
    }

    fn model(directory: &Path) -> Model {
        let mut model = Model::new(1);
        model.images.push("/bin/a".into());
        let path = directory.join("a.c");
        fs::write(&path, "int f()\n{\n\treturn 1;\n}\nstruct S {};\n").unwrap();
        let a = model.file(path.as_os_str().as_bytes());
        let gone = model.file(b"/nowhere/b.c");
        let at = |file, line| Some(Place { file, line });
        model.push(symbol("f", at(a, 2), &[(0x10, 5, 2), (0x14, 1, 3)], a));
        model.push(symbol("S::~S()", at(a, 5), &[(0x20, 1, 5)], a));
        model.push(symbol("S::S()", at(a, 5), &[(0x30, 2, 5)], a));
        model.push(symbol("g", at(gone, 7), &[(0x50, 10, 7)], gone));
        model.push(symbol(
            "e",
            at(gone, 3),
            &[(0x90, 1, 3), (0x92, 4, 0)],
            gone,
        ));
        model
    }

    fn shown(model: &Model, options: &SourceOptions) -> (String, Vec<String>) {
        let mut bytes = Vec::new();
        let mut warnings = Vec::new();
        to_sink(model, options, &mut Sink::file(&mut bytes), &mut |line| {
            warnings.push(line.to_owned());
        })
        .unwrap();
        (String::from_utf8(bytes).unwrap(), warnings)
    }

    #[test]
    fn lines_and_functions_carry_their_samples() {
        let directory = tempfile::tempdir().unwrap();
        let (text, warnings) = shown(&model(directory.path()), &SourceOptions::default());
        let expected = format!(
            "/* \n * Total samples for file : \"/nowhere/b.c\"\n * \n *     15 62.5000\n */\n\n\
             <credited to line zero>      4 16.6667 :\n \
             /* e total:      5 20.8333 */\n \
             /* g total:     10 41.6667 */\n\
             /* \n * Total samples for file : \"{}/a.c\"\n * \n *      9 37.5000\n */\n\n\n               \
             :int f()\n     \
             5 20.8333 :{{ /* f total:      6 25.0000 */\n     \
             1  4.1667 :\treturn 1;\n               \
             :}}\n     \
             3 12.5000 :struct S {{}}; /* S::~S()      1  4.1667, S::S()      2  8.3333, total:      3 12.5000 */\n",
            directory.path().display()
        );
        assert_eq!(text, expected);
        assert_eq!(
            warnings,
            ["opannotate (warning): unable to open for reading: /nowhere/b.c"]
        );
    }

    #[test]
    fn files_are_chosen_by_name_and_share() {
        let directory = tempfile::tempdir().unwrap();
        let model = model(directory.path());
        for (options, a, b) in [
            (
                SourceOptions {
                    include_files: vec![b"*a.c".to_vec()],
                    ..SourceOptions::default()
                },
                true,
                false,
            ),
            (
                SourceOptions {
                    exclude_files: vec![b"a.?".to_vec()],
                    ..SourceOptions::default()
                },
                false,
                true,
            ),
            (
                SourceOptions {
                    threshold: 40.0,
                    ..SourceOptions::default()
                },
                false,
                true,
            ),
        ] {
            let (text, _) = shown(&model, &options);
            assert_eq!((text.contains("int f"), text.contains("/nowhere")), (a, b));
        }
    }

    #[test]
    fn files_are_written_only_below_the_output_directory() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        let mut model = model(&top);
        for name in ["../../up.c", "/x/../../../top.c", "/"] {
            let file = model.file(name.as_bytes());
            model.push(symbol(
                "h",
                Some(Place { file, line: 1 }),
                &[(1, 1, 1)],
                file,
            ));
        }
        let output = top.join("deep/er/out");
        let mut warnings = Vec::new();
        let result = to_directory(
            &model,
            &SourceOptions::default(),
            &output,
            "the end\n",
            &mut |line| warnings.push(line.to_owned()),
        );
        // A directory's name is no name for a file; all others are written.
        assert!(matches!(
            result,
            Err(AnnotateError::Incomplete { files: 1 })
        ));
        assert!(warnings.iter().any(|line| line.contains("Cannot use")));
        let mut found = Vec::new();
        let mut pending = vec![top.clone()];
        while let Some(next) = pending.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    pending.push(path);
                } else if !path.starts_with(&output) {
                    found.push(path);
                }
            }
        }
        assert_eq!(found, [top.join("a.c")]);
        let text = fs::read_to_string(output.join(contained(&top.join("a.c")))).unwrap();
        assert!(text.starts_with("               :int f()\n"), "{text}");
        assert!(text.ends_with(" */\n\n\nthe end\n"), "{text}");
        assert!(output.join("top.c").is_file());
    }

    #[test]
    fn source_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let model = model(directory.path());
        let options = SourceOptions {
            include_files: vec![b"a.c".to_vec()],
            ..SourceOptions::default()
        };
        let mut warnings = Vec::new();
        let result = to_directory(&model, &options, Path::new("/"), "", &mut |line| {
            warnings.push(line.to_owned());
        });
        assert!(matches!(
            result,
            Err(AnnotateError::Incomplete { files: 1 })
        ));
        assert!(warnings[0].contains("is the source itself"));
        let source = fs::read_to_string(directory.path().join("a.c")).unwrap();
        assert!(source.starts_with("int f"));
    }

    #[test]
    fn what_is_not_a_file_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        for path in [pipe.as_path(), Path::new("/dev/zero"), directory.path()] {
            assert!(open(path).is_err(), "{}", path.display());
        }
        let long = directory.path().join("long");
        File::create(&long)
            .unwrap()
            .set_len(MAX_SOURCE + 1)
            .unwrap();
        assert!(open(&long).is_err());
    }
}
