//! XML reports, read by a parser that did not write them.

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::events::Event;

/// An element with its attributes, text and children.
#[derive(Debug, Default)]
pub struct Element {
    name: String,
    pub attributes: Vec<(String, String)>,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Reads a document; the element returned is around it.
    pub fn parse(text: &str) -> Self {
        let mut reader = Reader::from_str(text);
        let mut open = vec![Self::default()];
        loop {
            let event = reader.read_event().unwrap();
            match &event {
                Event::Start(start) | Event::Empty(start) => {
                    let attributes = start.attributes().map(|attribute| {
                        let attribute = attribute.unwrap();
                        let value = quick_xml::escape::unescape(&attribute.value).unwrap();
                        (attribute.key.as_ref().to_owned(), value.into_owned())
                    });
                    open.push(Self {
                        name: start.name().as_ref().to_owned(),
                        attributes: attributes.collect(),
                        ..Self::default()
                    });
                }
                Event::Text(text) => {
                    open.last_mut().unwrap().text.push_str(text.trim());
                }
                Event::Eof => break,
                _ => {}
            }
            if matches!(event, Event::End(_) | Event::Empty(_)) {
                let done = open.pop().unwrap();
                open.last_mut().unwrap().children.push(done);
            }
        }
        assert_eq!(open.len(), 1, "an element does not end");
        open.remove(0)
    }

    /// The value of an attribute that must be there.
    pub fn attribute(&self, name: &str) -> &str {
        let found = self.attributes.iter().find(|(key, _)| key == name);
        &found.unwrap_or_else(|| panic!("{name} of {self:?}")).1
    }

    /// The children of this name.
    pub fn all(&self, name: &str) -> Vec<&Self> {
        let children = self.children.iter();
        children.filter(|child| child.name == name).collect()
    }

    /// The only child of this name.
    pub fn one(&self, name: &str) -> &Self {
        match self.all(name)[..] {
            [one] => one,
            ref other => panic!("{} of {name} in {self:?}", other.len()),
        }
    }

    /// All elements of this name below, whatever is between.
    pub fn below(&self, name: &str) -> Vec<&Self> {
        let mut found = Vec::new();
        for child in &self.children {
            if child.name == name {
                found.push(child);
            }
            found.extend(child.below(name));
        }
        found
    }

    /// The names in the symbol table by id.
    pub fn symbol_names(&self) -> BTreeMap<String, String> {
        let symbols = self.one("symboltable").all("symboldata");
        let attribute = |symbol: &Self, name| symbol.attribute(name).to_owned();
        symbols
            .iter()
            .map(|symbol| (attribute(symbol, "id"), attribute(symbol, "name")))
            .collect()
    }

    /// The text in it.
    #[allow(dead_code, reason = "not every test needs it")]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the only `count` says.
    pub fn count(&self) -> u64 {
        self.one("count").text.parse().unwrap()
    }
}
