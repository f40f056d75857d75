//! XML reports as trees: identifiers are replaced by what they stand for, siblings have no order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use roxmltree::{Document, Node};

/// A document as it is compared.
#[derive(Debug, PartialEq, Eq)]
pub struct Canon {
    /// Every element, its children behind it and sorted.
    pub lines: Vec<String>,
    /// Name and address of all symbols. Another may list more: the original has one entry for all that share a name.
    pub symbols: BTreeSet<(String, u64)>,
}

/// Reads a document.
///
/// # Errors
/// When it is not well-formed.
pub fn canon(text: &str) -> Result<Canon, roxmltree::Error> {
    let document = Document::parse(text)?;
    let entries = document
        .descendants()
        .filter(|node| node.has_tag_name("symboldata"));
    // Of entries with one identifier the last one counts.
    let by_id: HashMap<Option<&str>, Node<'_, '_>> =
        entries.map(|node| (node.attribute("id"), node)).collect();
    let symbols = by_id.values().map(|node| {
        let address = node.attribute("startingaddr").unwrap_or("0");
        (
            node.attribute("name").unwrap_or_default().to_owned(),
            u64::from_str_radix(address.trim_start_matches("0x"), 16).unwrap_or_default(),
        )
    });
    let symbols = symbols.collect();
    let names = by_id
        .iter()
        .filter_map(|(&id, node)| Some((id?, node.attribute("name").unwrap_or_default())))
        .collect();
    Ok(Canon {
        lines: element(document.root_element(), &names, true),
        symbols,
    })
}

/// Stands for a symbol that is nowhere described.
const UNKNOWN: &str = "?";

fn element(node: Node<'_, '_>, names: &HashMap<&str, &str>, is_root: bool) -> Vec<String> {
    let name_of = |id: &str| (*names.get(id).unwrap_or(&UNKNOWN)).to_owned();
    let mut attributes: BTreeMap<String, String> = node
        .attributes()
        .map(|attribute| {
            let space = attribute.namespace().map(|space| format!("{{{space}}}"));
            (
                space.unwrap_or_default() + attribute.name(),
                attribute.value().to_owned(),
            )
        })
        .collect();
    if is_root {
        attributes.remove("title");
    }
    match node.tag_name().name() {
        "symbol" => {
            if let Some(id) = attributes.remove("idref") {
                attributes.insert("sym".to_owned(), name_of(&id));
            }
        }
        "symboldata" => {
            attributes.remove("id");
            attributes.remove("startingaddr");
        }
        "symboldetails" => {
            let id = attributes.remove("id").unwrap_or_default();
            attributes.insert("sym".to_owned(), name_of(&id));
        }
        "detaildata" | "bytes" => {
            attributes.remove("id");
        }
        _ => {}
    }
    let number = |name| {
        attributes
            .get(name)
            .and_then(|text| text.parse::<i64>().ok())
    };
    if let (Some(low), Some(high)) = (number("detaillo"), number("detailhi")) {
        attributes.remove("detaillo");
        attributes.remove("detailhi");
        let count = high.saturating_sub(low).saturating_add(1);
        attributes.insert("details".to_owned(), count.to_string());
    }
    let mut head = format!("<{}", node.tag_name().name());
    for (name, value) in &attributes {
        let value: Vec<&str> = value.split_whitespace().collect();
        head.push_str(&format!(" {name}={:?}", value.join(" ")));
    }
    head.push('>');
    head.push_str(node.text().unwrap_or_default().trim());
    let children = node.children().filter(Node::is_element);
    let mut children: Vec<Vec<String>> =
        children.map(|child| element(child, names, false)).collect();
    children.sort_unstable();
    let mut lines = vec![head];
    lines.extend(
        children
            .into_iter()
            .flatten()
            .map(|line| format!(" {line}")),
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, other: &str) -> bool {
        canon(one).unwrap().lines == canon(other).unwrap().lines
    }

    #[test]
    fn siblings_have_no_order_and_the_title_does_not_count() {
        assert!(same(
            "<a title='x'><b n='1'/><b n='2'/></a>",
            "<a><b n='2'/><b n='1'/></a>"
        ));
        assert!(!same(
            "<a><b n='1'/><b n='2'/></a>",
            "<a><b n='2'/><b n='2'/></a>"
        ));
        assert!(!same("<a><b>1</b></a>", "<a><b>2</b></a>"));
    }

    #[test]
    fn symbols_are_told_by_name() {
        let document = |id: u32, name: &str| {
            format!(
                "<a><symbol idref='{id}'/><t><symboldata id='{id}' name='{name}' startingaddr='1f'/></t></a>"
            )
        };
        assert!(same(&document(0, "f"), &document(7, "f")));
        assert!(!same(&document(0, "f"), &document(0, "g")));
        let symbols = canon(&document(0, "f")).unwrap().symbols;
        assert_eq!(symbols, BTreeSet::from([("f".to_owned(), 0x1f)]));
    }

    #[test]
    fn ranges_of_details_are_told_by_length() {
        assert!(same(
            "<a detaillo='0' detailhi='3'/>",
            "<a detaillo='5' detailhi='8'/>"
        ));
        assert!(!same(
            "<a detaillo='0' detailhi='3'/>",
            "<a detaillo='5' detailhi='9'/>"
        ));
    }

    #[test]
    fn what_is_not_well_formed_is_an_error() {
        assert!(canon("<a><b></a>").is_err());
    }
}
