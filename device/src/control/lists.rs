//! Lists that come in several requests: modules and symbols.

use oprofile_wire::control::{flag, status};

use super::{Records, Refusal};
use crate::kernel::{Kernel, MAX_MODULES, MAX_SYMBOL_NAME_BYTES, MAX_SYMBOLS, Module, Symbol};

const TOO_MANY: Refusal = Refusal::new(status::LIMIT_EXCEEDED, 0);
const NO_FIRST_PART: Refusal = Refusal::new(status::BAD_STATE, 0);

/// Symbols of one image on their way.
#[derive(Debug)]
struct PendingSymbols {
    image_base: u64,
    list: Vec<Symbol>,
    /// What the device may still take: symbols, and bytes of their names.
    room: (usize, usize),
}

/// The parts that came so far. A refused part forgets the list that it belongs to.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    modules: Option<Vec<Module>>,
    symbols: Option<PendingSymbols>,
}

impl Lists {
    /// Takes a part of the module list; `Ok(true)` when it was the last and the list is in force.
    pub fn modules(
        &mut self,
        kernel: &mut Kernel,
        flags: u32,
        mut entries: Records<'_>,
    ) -> Result<bool, Refusal> {
        let pending = self.modules.take();
        let mut list = match flags & flag::FIRST != 0 {
            true => Vec::new(),
            false => pending.ok_or(NO_FIRST_PART)?,
        };
        while !entries.is_empty() {
            let malformed = entries.malformed();
            let named = entries.take_module()?;
            let (base, size) = (named.entry.base.get(), named.entry.size.get());
            if base == 0 || size == 0 || base.checked_add(size).is_none() {
                return Err(malformed);
            }
            if list.len() >= MAX_MODULES {
                return Err(TOO_MANY);
            }
            list.push(Module::new(named.name.to_vec(), base, size));
        }
        if flags & flag::LAST == 0 {
            self.modules = Some(list);
            return Ok(false);
        }
        kernel.set_modules(list);
        Ok(true)
    }

    /// Takes a part of an image's symbols: `count` of them, and nothing behind.
    pub fn symbols(
        &mut self,
        kernel: &mut Kernel,
        flags: u32,
        (image_base, count): (u64, u32),
        mut entries: Records<'_>,
    ) -> Result<(), Refusal> {
        let malformed = entries.malformed();
        let pending = self.symbols.take();
        let mut pending = if flags & flag::FIRST != 0 {
            if !kernel.has_image(image_base) {
                return Err(malformed);
            }
            let (symbols, names) = kernel.symbol_volume(image_base);
            PendingSymbols {
                image_base,
                list: Vec::new(),
                room: (
                    MAX_SYMBOLS.saturating_sub(symbols),
                    MAX_SYMBOL_NAME_BYTES.saturating_sub(names),
                ),
            }
        } else {
            pending.ok_or(NO_FIRST_PART)?
        };
        if pending.image_base != image_base {
            return Err(malformed);
        }
        for _ in 0..count {
            let named = entries.take_symbol()?;
            let (symbols, names) = pending.room;
            pending.room = symbols
                .checked_sub(1)
                .zip(names.checked_sub(named.name.len()))
                .ok_or(TOO_MANY)?;
            pending.list.push(Symbol {
                address: named.entry.address.get(),
                size: named.entry.size.get(),
                name: named.name.into(),
            });
        }
        if !entries.is_empty() {
            return Err(entries.malformed());
        }
        if flags & flag::LAST == 0 {
            self.symbols = Some(pending);
            return Ok(());
        }
        match kernel.set_symbols(image_base, pending.list) {
            true => Ok(()),
            // A module list in between took the image away.
            false => Err(malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oprofile_wire::control::{ModuleEntry, SymbolEntry};
    use zerocopy::IntoBytes;

    fn kernel() -> Kernel {
        Kernel::new(b"1".to_vec(), 0x100, 0x200)
    }

    fn modules(list: &[(u64, u64, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (base, size, name) in list {
            let entry = ModuleEntry {
                base: (*base).into(),
                size: (*size).into(),
                name_bytes: u16::try_from(name.len()).unwrap().into(),
                reserved: [0; 6],
            };
            bytes.extend_from_slice(entry.as_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes
    }

    fn symbols(list: &[(u64, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (address, name) in list {
            let entry = SymbolEntry {
                address: (*address).into(),
                size: 1.into(),
                reserved: 0.into(),
                name_bytes: u16::try_from(name.len()).unwrap().into(),
            };
            bytes.extend_from_slice(entry.as_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes
    }

    const BOTH: u32 = flag::FIRST | flag::LAST;

    #[test]
    fn a_list_takes_effect_with_its_last_part() {
        let (mut kernel, mut lists) = (kernel(), Lists::default());
        let first = modules(&[(0x1000, 1, "a")]);
        let last = modules(&[(0x2000, 1, "b")]);
        let part = lists.modules(&mut kernel, flag::FIRST, Records::new(&first));
        assert_eq!(part, Ok(false));
        assert!(kernel.modules.is_empty());
        let part = lists.modules(&mut kernel, flag::LAST, Records::new(&last));
        assert_eq!(part, Ok(true));
        assert_eq!(kernel.modules.len(), 2);
    }

    #[test]
    fn a_part_without_a_first_one_is_refused() {
        let (mut kernel, mut lists) = (kernel(), Lists::default());
        let part = lists.modules(&mut kernel, flag::LAST, Records::new(&[]));
        assert_eq!(part, Err(NO_FIRST_PART));
        let part = lists.symbols(&mut kernel, flag::LAST, (0, 0), Records::new(&[]));
        assert_eq!(part, Err(NO_FIRST_PART));
    }

    #[test]
    fn a_module_that_wraps_is_refused_and_the_old_list_stays() {
        let (mut kernel, mut lists) = (kernel(), Lists::default());
        let good = modules(&[(0x1000, 1, "a")]);
        assert_eq!(
            lists.modules(&mut kernel, BOTH, Records::new(&good)),
            Ok(true)
        );
        for bad in [(0, 1, "x"), (1, 0, "x"), (u64::MAX, 2, "x")] {
            let bytes = modules(&[bad]);
            let refused = lists.modules(&mut kernel, BOTH, Records::new(&bytes));
            assert_eq!(refused.unwrap_err().status, status::MALFORMED);
        }
        assert_eq!(kernel.modules.len(), 1);
    }

    #[test]
    fn more_modules_than_kept_are_refused() {
        let (mut kernel, mut lists) = (kernel(), Lists::default());
        let list = vec![(0x1000, 1, "m"); MAX_MODULES + 1];
        let bytes = modules(&list);
        let refused = lists.modules(&mut kernel, BOTH, Records::new(&bytes));
        assert_eq!(refused, Err(TOO_MANY));
    }

    #[test]
    fn symbols_come_in_parts_with_any_bytes_as_names() {
        let (mut kernel, mut lists) = (kernel(), Lists::default());
        let first = symbols(&[(0x110, "b\0\n")]);
        let last = symbols(&[(0x100, "")]);
        let part = lists.symbols(&mut kernel, flag::FIRST, (0, 1), Records::new(&first));
        assert_eq!(part, Ok(()));
        let part = lists.symbols(&mut kernel, flag::LAST, (0, 1), Records::new(&last));
        assert_eq!(part, Ok(()));
        assert_eq!(kernel.symbols.len(), 2);
        assert_eq!(&*kernel.symbols[1].name, b"b\0\n");
    }

    #[test]
    fn symbols_of_no_image_or_another_than_begun_are_refused() {
        let (mut kernel, mut lists) = (kernel(), Lists::default());
        let refused = lists.symbols(&mut kernel, BOTH, (0x5000, 0), Records::new(&[]));
        assert_eq!(refused.unwrap_err().status, status::MALFORMED);
        let first = lists.symbols(&mut kernel, flag::FIRST, (0, 0), Records::new(&[]));
        assert_eq!(first, Ok(()));
        let refused = lists.symbols(&mut kernel, flag::LAST, (0x5000, 0), Records::new(&[]));
        assert_eq!(refused.unwrap_err().status, status::MALFORMED);
    }

    #[test]
    fn a_symbol_count_that_is_not_there_is_refused() {
        let (mut kernel, mut lists) = (kernel(), Lists::default());
        let bytes = symbols(&[(0x100, "f")]);
        for count in [0, 2, u32::MAX] {
            let refused = lists.symbols(&mut kernel, BOTH, (0, count), Records::new(&bytes));
            assert_eq!(refused.unwrap_err().status, status::MALFORMED);
        }
    }
}
