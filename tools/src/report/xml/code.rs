//! The code of symbols, for the table of bytes.

use std::collections::HashMap;
use std::fs::File;

use object::{Object as _, ObjectSection as _, ReadCache};

use super::document::SymbolData;
use crate::image::Found;
use crate::profile::{ImageId, Selection};
use crate::symbols::CodeSymbol;

/// Longest code of a symbol that is written: the largest functions of generated code have some 100 KiB.
const MAX_CODE: u64 = 1 << 20;
/// Longest code of all symbols: a report is to be read by somebody.
const MAX_ALL: u64 = 64 << 20;

/// Reads the code of symbols. `images` has the image of each. Symbols of images that are gone, that have none or too much
/// stay without; a warning says so when it is too much.
pub(super) fn add(
    selection: &Selection,
    images: &[ImageId],
    symbols: &mut [SymbolData],
) -> Option<String> {
    let mut by_image: HashMap<ImageId, Vec<usize>> = HashMap::new();
    for (id, image) in images.iter().enumerate() {
        by_image.entry(*image).or_default().push(id);
    }
    let mut by_image: Vec<_> = by_image.into_iter().collect();
    by_image.sort_unstable();
    let mut left = MAX_ALL;
    let mut without = 0u64;
    for (image, ids) in by_image {
        let Found::File(path) = selection.found(image) else {
            continue;
        };
        let Some(table) = selection.read_symbols(image).table else {
            continue;
        };
        let Ok(file) = File::open(path) else {
            continue;
        };
        let cache = ReadCache::new(file);
        let Ok(file) = object::File::parse(&cache) else {
            continue;
        };
        // Sections of a module all start at 0; the first symbol of an address is as good as another.
        let mut by_address: HashMap<u64, &CodeSymbol> = HashMap::new();
        for symbol in table.symbols() {
            by_address.entry(symbol.address).or_insert(symbol);
        }
        for id in ids {
            let Some(data) = symbols.get_mut(id) else {
                continue;
            };
            let Some(symbol) = by_address.get(&data.address) else {
                continue;
            };
            let length = symbol.end.saturating_sub(symbol.start);
            if length > MAX_CODE.min(left) {
                without += 1;
                continue;
            }
            data.code = code(&file, symbol, selection.images[image].jit).unwrap_or_default();
            left -= length;
        }
    }
    (without != 0).then(|| {
        format!("warning: the code of {without} symbols is left out because it is too long.")
    })
}

/// The bytes of a symbol, none where the file has none, as in a file of symbols only.
fn code<'data, R: object::ReadRef<'data>>(
    file: &object::File<'data, R>,
    symbol: &CodeSymbol,
    by_address: bool,
) -> Option<Vec<u8>> {
    file.sections().find_map(|section| {
        // Positions are addresses in what a just-in-time compiler left, else offsets in the file.
        let (start, size) = if by_address {
            (section.address(), section.size())
        } else {
            section.file_range()?
        };
        let offset = symbol
            .start
            .checked_sub(start)
            .filter(|offset| *offset < size)?;
        let length = symbol
            .end
            .min(start.saturating_add(size))
            .checked_sub(symbol.start)?;
        section
            .data_range(section.address().checked_add(offset)?, length)
            .ok()?
            .map(<[u8]>::to_vec)
    })
}
