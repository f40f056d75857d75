//! The document as text.

use std::io::{self, Write};

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};

use super::document::{Call, Class, Detail, Document, Module, Program, Setup, Symbol, SymbolData};
use super::text::xml_text;
use crate::profile::Counts;

/// Version of OProfile's schema.
const SCHEMA_VERSION: &str = "3.1";

/// Writes the document. Errors are those of `out`.
pub(super) fn write(document: &Document, out: impl Write) -> io::Result<()> {
    let mut printer = Printer {
        // One element a line, not indented: reports can be long.
        writer: Writer::new_with_indent(out, b' ', 0),
        classes: document.classes.len(),
        digits: digits(document),
    };
    printer.document(document)?;
    printer.writer.into_inner().write_all(b"\n")
}

/// Digits of addresses: all are written alike.
fn digits(document: &Document) -> usize {
    let high = |address: u64| address > u64::from(u32::MAX);
    let any = document.symbols.iter().any(|symbol| {
        high(symbol.address) || symbol.details.iter().any(|detail| high(detail.address))
    });
    if any { 16 } else { 8 }
}

struct Printer<W: Write> {
    writer: Writer<W>,
    classes: usize,
    digits: usize,
}

impl<W: Write> Printer<W> {
    fn open(&mut self, start: BytesStart<'_>) -> io::Result<()> {
        self.writer.write_event(Event::Start(start))
    }

    fn close(&mut self, name: &str) -> io::Result<()> {
        self.writer.write_event(Event::End(BytesEnd::new(name)))
    }

    fn empty(&mut self, element: BytesStart<'_>) -> io::Result<()> {
        self.writer.write_event(Event::Empty(element))
    }

    fn text(&mut self, start: BytesStart<'_>, text: &str) -> io::Result<()> {
        let end = start.to_end().into_owned();
        self.open(start)?;
        self.writer.write_event(Event::Text(BytesText::new(text)))?;
        self.writer.write_event(Event::End(end))
    }

    fn document(&mut self, document: &Document) -> io::Result<()> {
        self.writer
            .write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
        let mut profile = BytesStart::new("profile");
        push(&mut profile, "schemaversion", SCHEMA_VERSION);
        push(&mut profile, "cputype", &document.cpu_type);
        if let Some(processor) = &document.processor {
            push(&mut profile, "processor", processor);
        }
        if let Some(cpus) = document.separated_cpus {
            push(&mut profile, "separatedcpus", &cpus.to_string());
        }
        push(&mut profile, "mhz", &format!("{:.2}", document.mhz));
        push_name(&mut profile, "title", &document.title);
        self.open(profile)?;
        let mut options = BytesStart::new("options");
        for (name, value) in &document.options {
            push_name(&mut options, name, value);
        }
        self.empty(options)?;
        self.setup(&document.setup)?;
        self.class_list(&document.classes)?;
        for program in &document.programs {
            self.program(program)?;
        }
        self.symbol_table(&document.symbols)?;
        if document.details {
            self.detail_table(&document.symbols)?;
            self.byte_table(&document.symbols)?;
        }
        self.close("profile")
    }

    fn setup(&mut self, setup: &[Setup]) -> io::Result<()> {
        self.open(BytesStart::new("setup"))?;
        for (id, setup) in setup.iter().enumerate() {
            match setup {
                Setup::Timer { count } => {
                    let mut element = BytesStart::new("timersetup");
                    push_name(&mut element, "rtcinterrupts", count.as_bytes());
                    self.empty(element)?;
                }
                Setup::Event {
                    name,
                    unit_mask,
                    count,
                } => {
                    let mut element = BytesStart::new("eventsetup");
                    push(&mut element, "id", &id.to_string());
                    push_name(&mut element, "eventname", name.as_bytes());
                    push_name(&mut element, "unitmask", unit_mask.as_bytes());
                    push_name(&mut element, "setupcount", count.as_bytes());
                    self.empty(element)?;
                }
            }
        }
        self.close("setup")
    }

    fn class_list(&mut self, classes: &[Class]) -> io::Result<()> {
        if classes.is_empty() {
            return Ok(());
        }
        self.open(BytesStart::new("classes"))?;
        for (index, class) in classes.iter().enumerate() {
            let mut element = BytesStart::new("class");
            push(&mut element, "name", &class_name(index));
            if let Some(event) = class.event {
                push(&mut element, "event", &event.to_string());
            }
            if let Some(mask) = &class.mask {
                push_name(&mut element, "mask", mask.as_bytes());
            }
            if let Some(cpu) = &class.cpu {
                push_name(&mut element, "cpu", cpu.as_bytes());
            }
            self.empty(element)?;
        }
        self.close("classes")
    }

    fn program(&mut self, program: &Program) -> io::Result<()> {
        let Some(thread) = &program.thread else {
            self.open(named("binary", &program.name))?;
            self.sum(program.own.iter())?;
            for symbol in &program.own {
                self.symbol(symbol, false)?;
            }
            for module in &program.modules {
                self.module(module)?;
            }
            return self.close("binary");
        };
        let symbols = || {
            let modules = program.modules.iter().flat_map(|module| &module.symbols);
            program.own.iter().chain(modules)
        };
        let mut process = BytesStart::new("process");
        push_name(&mut process, "pid", thread.tgid.as_bytes());
        push_name(&mut process, "name", &program.name);
        self.open(process)?;
        self.sum(symbols())?;
        let mut element = BytesStart::new("thread");
        push_name(&mut element, "tid", thread.tid.as_bytes());
        self.open(element)?;
        self.sum(symbols())?;
        for symbol in &program.own {
            self.symbol(symbol, false)?;
        }
        for module in &program.modules {
            self.module(module)?;
        }
        self.close("thread")?;
        self.close("process")
    }

    fn module(&mut self, module: &Module) -> io::Result<()> {
        self.open(named("module", &module.name))?;
        self.sum(module.symbols.iter())?;
        for symbol in &module.symbols {
            self.symbol(symbol, true)?;
        }
        self.close("module")
    }

    /// The neighbours of a symbol name their image when the symbol is one of a module.
    fn symbol(&mut self, symbol: &Symbol, in_module: bool) -> io::Result<()> {
        let mut element = reference(symbol.id);
        if let Some((first, last)) = symbol.details {
            push(&mut element, "detaillo", &first.to_string());
            push(&mut element, "detailhi", &last.to_string());
        }
        self.open(element)?;
        if let Some(calls) = &symbol.calls {
            self.calls("callers", &calls.callers, in_module)?;
            self.calls("callees", &calls.callees, in_module)?;
        }
        self.counts(&symbol.counts)?;
        self.close("symbol")
    }

    fn calls(&mut self, side: &str, calls: &[Call], in_module: bool) -> io::Result<()> {
        self.open(BytesStart::new(side))?;
        for call in calls {
            if in_module {
                self.open(named("module", &call.image))?;
            }
            let mut element = reference(call.id);
            if call.is_self {
                push(&mut element, "self", "true");
            }
            self.open(element)?;
            self.counts(&call.counts)?;
            self.close("symbol")?;
            if in_module {
                self.close("module")?;
            }
        }
        self.close(side)
    }

    fn sum<'a>(&mut self, symbols: impl Iterator<Item = &'a Symbol>) -> io::Result<()> {
        let mut total = Counts::new();
        for symbol in symbols {
            total.resize(total.len().max(symbol.counts.len()), 0);
            for (sum, count) in total.iter_mut().zip(&symbol.counts) {
                *sum = sum.saturating_add(*count);
            }
        }
        self.counts(&total)
    }

    /// One element a class that has samples; without classes there is one element, of whatever value unless nothing was summed.
    fn counts(&mut self, counts: &Counts) -> io::Result<()> {
        for (class, count) in counts.iter().enumerate() {
            if self.classes == 0 {
                self.text(BytesStart::new("count"), &count.to_string())?;
            } else if *count != 0 {
                let mut element = BytesStart::new("count");
                push(&mut element, "class", &class_name(class));
                self.text(element, &count.to_string())?;
            }
        }
        Ok(())
    }

    fn symbol_table(&mut self, symbols: &[SymbolData]) -> io::Result<()> {
        self.open(BytesStart::new("symboltable"))?;
        for (id, symbol) in symbols.iter().enumerate() {
            let mut element = BytesStart::new("symboldata");
            push(&mut element, "id", &id.to_string());
            push_name(&mut element, "name", &symbol.name);
            push_line(&mut element, symbol.line.as_ref());
            push(&mut element, "startingaddr", &self.address(symbol.address));
            self.empty(element)?;
        }
        self.close("symboltable")
    }

    fn detail_table(&mut self, symbols: &[SymbolData]) -> io::Result<()> {
        self.open(BytesStart::new("detailtable"))?;
        for (id, symbol) in symbols.iter().enumerate() {
            let mut element = BytesStart::new("symboldetails");
            push(&mut element, "id", &id.to_string());
            self.open(element)?;
            for (index, detail) in symbol.details.iter().enumerate() {
                self.detail(index, detail)?;
            }
            self.close("symboldetails")?;
        }
        self.close("detailtable")
    }

    fn detail(&mut self, index: usize, detail: &Detail) -> io::Result<()> {
        let mut element = BytesStart::new("detaildata");
        push(&mut element, "id", &index.to_string());
        push_line(&mut element, detail.line.as_ref());
        push(&mut element, "vmaoffset", &self.address(detail.address));
        self.open(element)?;
        let mut count = BytesStart::new("count");
        // OProfile writes the attribute here even without classes.
        let class = if self.classes == 0 {
            String::new()
        } else {
            class_name(detail.class)
        };
        push(&mut count, "class", &class);
        self.text(count, &detail.count.to_string())?;
        self.close("detaildata")
    }

    fn byte_table(&mut self, symbols: &[SymbolData]) -> io::Result<()> {
        self.open(BytesStart::new("bytestable"))?;
        for (id, symbol) in symbols.iter().enumerate() {
            if symbol.code.is_empty() {
                continue;
            }
            let mut element = BytesStart::new("bytes");
            push(&mut element, "id", &id.to_string());
            self.text(element, &hexadecimal(&symbol.code))?;
        }
        self.close("bytestable")
    }

    fn address(&self, address: u64) -> String {
        let digits = self.digits;
        format!("{address:0digits$x}")
    }
}

fn class_name(index: usize) -> String {
    format!("c{index}")
}

fn reference(id: usize) -> BytesStart<'static> {
    let mut element = BytesStart::new("symbol");
    push(&mut element, "idref", &id.to_string());
    element
}

fn named<'a>(element: &'a str, name: &[u8]) -> BytesStart<'a> {
    let mut element = BytesStart::new(element);
    push_name(&mut element, "name", name);
    element
}

/// An attribute whose value is ours.
fn push(element: &mut BytesStart<'_>, name: &str, value: &str) {
    element.push_attribute((name, value));
}

/// An attribute whose value is from outside.
fn push_name(element: &mut BytesStart<'_>, name: &str, value: &[u8]) {
    element.push_attribute((name, xml_text(value).as_str()));
}

fn push_line(element: &mut BytesStart<'_>, line: Option<&(Vec<u8>, u32)>) {
    if let Some((file, line)) = line {
        push_name(element, "file", file);
        push(element, "line", &line.to_string());
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        // Four bits are always an index.
        .filter_map(|digit| DIGITS.get(usize::from(digit)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::xml::document::{Calls, Thread};
    use proptest::prelude::*;
    use quick_xml::{Reader, XmlVersion};

    fn text(document: &Document) -> String {
        let mut out = Vec::new();
        write(document, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// Every start tag with its attributes, unescaped, as a reader of XML sees them.
    fn elements(text: &str) -> Vec<(String, Vec<(String, String)>)> {
        let mut reader = Reader::from_str(text);
        let mut found = Vec::new();
        loop {
            match reader.read_event().unwrap() {
                Event::Eof => return found,
                Event::Start(element) | Event::Empty(element) => {
                    let attributes = element
                        .attributes()
                        .map(|attribute| {
                            let attribute = attribute.unwrap();
                            let value = attribute
                                .normalized_value(XmlVersion::Explicit1_0)
                                .unwrap()
                                .into_owned();
                            (attribute.key.as_ref().to_owned(), value)
                        })
                        .collect();
                    let name = element.name().as_ref().to_owned();
                    found.push((name, attributes));
                }
                _ => {}
            }
        }
    }

    fn symbol(id: usize, counts: &[u64]) -> Symbol {
        Symbol {
            id,
            counts: counts.to_vec(),
            ..Symbol::default()
        }
    }

    #[test]
    fn program_counts_its_own_symbols_and_modules_theirs() {
        let document = Document {
            cpu_type: "timer".into(),
            setup: vec![Setup::Timer { count: "0".into() }],
            programs: vec![Program {
                name: b"/a".to_vec(),
                own: vec![symbol(0, &[3]), symbol(1, &[4])],
                modules: vec![Module {
                    name: b"/lib".to_vec(),
                    symbols: vec![symbol(2, &[5])],
                }],
                ..Program::default()
            }],
            ..Document::default()
        };
        let text = text(&document);
        assert!(
            text.contains("<binary name=\"/a\">\n<count>7</count>\n<symbol idref=\"0\">\n<count>3</count>\n</symbol>"),
            "{text}"
        );
        assert!(
            text.contains("<module name=\"/lib\">\n<count>5</count>\n<symbol idref=\"2\">"),
            "{text}"
        );
        assert!(!text.contains("<classes"), "{text}");
    }

    #[test]
    fn program_without_samples_of_its_own_has_no_count() {
        let document = Document {
            programs: vec![Program {
                modules: vec![Module {
                    name: b"/no-vmlinux".to_vec(),
                    symbols: vec![symbol(0, &[5])],
                }],
                ..Program::default()
            }],
            ..Document::default()
        };
        let text = text(&document);
        assert!(text.contains("<binary name=\"\">\n<module"), "{text}");
    }

    #[test]
    fn classes_without_samples_are_left_out() {
        let class = |cpu: &str| Class {
            cpu: Some(cpu.into()),
            ..Class::default()
        };
        let document = Document {
            separated_cpus: Some(2),
            classes: vec![class("0"), class("7")],
            programs: vec![Program {
                own: vec![symbol(0, &[0, 9])],
                ..Program::default()
            }],
            ..Document::default()
        };
        let text = text(&document);
        assert!(text.contains("<class name=\"c1\" cpu=\"7\"/>"), "{text}");
        assert!(
            text.contains("<symbol idref=\"0\">\n<count class=\"c1\">9</count>\n</symbol>"),
            "{text}"
        );
    }

    #[test]
    fn threads_are_elements() {
        let document = Document {
            programs: vec![Program {
                name: b"/a".to_vec(),
                thread: Some(Thread {
                    tgid: "10".into(),
                    tid: "11".into(),
                }),
                modules: vec![
                    Module {
                        name: b"/a".to_vec(),
                        symbols: vec![symbol(0, &[3])],
                    },
                    Module {
                        name: b"/b".to_vec(),
                        symbols: vec![symbol(1, &[4])],
                    },
                ],
                ..Program::default()
            }],
            ..Document::default()
        };
        let text = text(&document);
        assert!(
            text.contains("<process pid=\"10\" name=\"/a\">\n<count>7</count>\n<thread tid=\"11\">\n<count>7</count>\n<module name=\"/a\">"),
            "{text}"
        );
    }

    #[test]
    fn neighbours_name_their_image_below_a_module_only() {
        let calls = Calls {
            callers: vec![Call {
                id: 1,
                image: b"/a".to_vec(),
                is_self: false,
                counts: vec![2],
            }],
            callees: vec![Call {
                id: 0,
                image: b"/lib".to_vec(),
                is_self: true,
                counts: vec![3],
            }],
        };
        let symbol = Symbol {
            calls: Some(calls),
            ..symbol(0, &[3])
        };
        let document = Document {
            programs: vec![Program {
                own: vec![symbol.clone()],
                modules: vec![Module {
                    name: b"/lib".to_vec(),
                    symbols: vec![symbol],
                }],
                ..Program::default()
            }],
            ..Document::default()
        };
        let text = text(&document);
        assert!(
            text.contains(
                "<callers>\n<symbol idref=\"1\">\n<count>2</count>\n</symbol>\n</callers>"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "<module name=\"/lib\">\n<symbol idref=\"0\" self=\"true\">\n<count>3</count>"
            ),
            "{text}"
        );
    }

    #[test]
    fn addresses_are_as_wide_as_the_widest() {
        let mut document = Document {
            details: true,
            symbols: vec![SymbolData {
                name: b"f<int>".to_vec(),
                address: 0x11c4,
                details: vec![Detail {
                    address: 0x11c5,
                    line: Some((b"a.c".to_vec(), 7)),
                    class: 0,
                    count: 9,
                }],
                code: vec![0x0f, 0xa5],
                ..SymbolData::default()
            }],
            ..Document::default()
        };
        let narrow = text(&document);
        assert!(
            narrow.contains("name=\"f&lt;int&gt;\" startingaddr=\"000011c4\""),
            "{narrow}"
        );
        assert!(
            narrow.contains("<detaildata id=\"0\" file=\"a.c\" line=\"7\" vmaoffset=\"000011c5\">\n<count class=\"\">9</count>"),
            "{narrow}"
        );
        assert!(narrow.contains("<bytes id=\"0\">0FA5</bytes>"), "{narrow}");
        document.symbols[0].details[0].address = 0xffff_ffff_8100_0000;
        assert!(text(&document).contains("startingaddr=\"00000000000011c4\""));
    }

    proptest! {
        /// A reader of XML gets back what `xml_text` makes of a name, whatever its bytes.
        #[test]
        fn any_name_is_read_back(name in proptest::collection::vec(any::<u8>(), 0..30), title in ".{0,30}") {
            let document = Document {
                title: title.into_bytes(),
                options: vec![("session", name.clone())],
                programs: vec![Program { name: name.clone(), ..Program::default() }],
                symbols: vec![SymbolData { name: name.clone(), ..SymbolData::default() }],
                ..Document::default()
            };
            let elements = elements(&text(&document));
            let wanted = xml_text(&name);
            for (element, attribute) in [("options", "session"), ("binary", "name"), ("symboldata", "name")] {
                let (_, attributes) = elements.iter().find(|(name, _)| name == element).unwrap();
                let (_, value) = attributes.iter().find(|(name, _)| name == attribute).unwrap();
                prop_assert_eq!(value, &wanted);
            }
        }
    }
}
