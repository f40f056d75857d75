//! The guest's kernel as its driver describes it: range, symbols, modules that are or were loaded.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Most modules in the list; a distribution kernel with everything loaded has some hundreds.
pub const MAX_MODULES: usize = 4_096;

/// Most unloaded modules that are remembered, for samples that were taken in them. The oldest go first.
pub const MAX_FORMER_MODULES: usize = 1_024;

/// Most symbols of all images together; a large Linux kernel with its modules has about 250,000.
pub const MAX_SYMBOLS: usize = 1_048_576;

/// Most bytes of symbol names of all images together.
pub const MAX_SYMBOL_NAME_BYTES: usize = 64 * 1024 * 1024;

/// A function of the kernel or a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// GVA.
    pub address: u64,
    /// Bytes; 0 when unknown.
    pub size: u32,
    /// Name, any bytes, at most [`oprofile_wire::control::MAX_NAME_BYTES`].
    pub name: Box<[u8]>,
}

/// A kernel module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Name, any bytes.
    pub name: Vec<u8>,
    /// GVA of its first byte.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// It is in the guest's current list.
    pub loaded: bool,
    /// Its functions, by address.
    pub symbols: Arc<[Symbol]>,
    /// Bytes of their names: summed up once, for a guest may ask for the sum as often as it likes.
    symbol_bytes: usize,
}

/// Tells one loading of a module from another.
type Identity = (u64, u64, Vec<u8>);

impl Module {
    /// A loaded module of which no symbols are known.
    pub(crate) fn new(name: Vec<u8>, base: u64, size: u64) -> Self {
        Self {
            name,
            base,
            size,
            loaded: true,
            symbols: Arc::new([]),
            symbol_bytes: 0,
        }
    }

    fn identity(&self) -> Identity {
        (self.base, self.size, self.name.clone())
    }

    /// Whether it holds `address`.
    #[must_use]
    pub const fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.base) < self.size
    }
}

/// What is known of the kernel. A snapshot: later changes make another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Release name, any bytes.
    pub release: Vec<u8>,
    /// GVA of the first byte of the image.
    pub start: u64,
    /// GVA behind its last byte.
    pub end: u64,
    /// Functions of the image, by address.
    pub symbols: Arc<[Symbol]>,
    /// Modules that are loaded, by address, then those that were, the latest unloaded first.
    pub modules: Vec<Module>,
    /// Bytes of the names of the image's symbols.
    symbol_bytes: usize,
}

impl Kernel {
    pub(crate) fn new(release: Vec<u8>, start: u64, end: u64) -> Self {
        Self {
            release,
            start,
            end,
            symbols: Arc::new([]),
            modules: Vec::new(),
            symbol_bytes: 0,
        }
    }

    /// The module that holds `address`: the loaded one, else the one that was unloaded last.
    #[must_use]
    pub fn module_at(&self, address: u64) -> Option<&Module> {
        self.modules.iter().find(|module| module.contains(address))
    }

    /// Replaces the list of loaded modules. Those that stay keep their symbols; those that go are remembered.
    pub(crate) fn set_modules(&mut self, mut list: Vec<Module>) {
        list.sort_by_key(|module| module.base);
        let (gone, former): (Vec<_>, Vec<_>) =
            self.modules.drain(..).partition(|module| module.loaded);
        // By identity, since two long lists must not be compared pair by pair.
        let mut gone: BTreeMap<Identity, Module> = gone
            .into_iter()
            .map(|module| (module.identity(), module))
            .collect();
        for module in &mut list {
            module.loaded = true;
            if let Some(known) = gone.remove(&module.identity()) {
                module.symbols = known.symbols;
                module.symbol_bytes = known.symbol_bytes;
            }
        }
        let gone = gone.into_values().map(|mut module| {
            module.loaded = false;
            module
        });
        self.modules = list;
        self.modules
            .extend(gone.chain(former).take(MAX_FORMER_MODULES));
    }

    /// Replaces the symbols of the image at `base`, 0 for the kernel itself; false when there is none.
    pub(crate) fn set_symbols(&mut self, base: u64, mut symbols: Vec<Symbol>) -> bool {
        symbols.sort_by_key(|symbol| symbol.address);
        let (list, bytes) = if base == 0 {
            (&mut self.symbols, &mut self.symbol_bytes)
        } else {
            let loaded = |module: &&mut Module| module.loaded && module.base == base;
            match self.modules.iter_mut().find(loaded) {
                Some(module) => (&mut module.symbols, &mut module.symbol_bytes),
                None => return false,
            }
        };
        *bytes = symbols.iter().map(|symbol| symbol.name.len()).sum();
        *list = symbols.into();
        true
    }

    /// Whether the current module list has one at `base`.
    pub(crate) fn has_image(&self, base: u64) -> bool {
        base == 0
            || self
                .modules
                .iter()
                .any(|module| module.loaded && module.base == base)
    }

    /// Symbols and bytes of their names, of every image but the one at `except`, which is about to be replaced.
    pub(crate) fn symbol_volume(&self, except: u64) -> (usize, usize) {
        let kernel = (except != 0).then_some((self.symbols.len(), self.symbol_bytes));
        let modules = self.modules.iter();
        let kept = modules.filter(|module| !module.loaded || module.base != except);
        let lists = kept.map(|module| (module.symbols.len(), module.symbol_bytes));
        lists
            .chain(kernel)
            .fold((0, 0), |sum, list| (sum.0 + list.0, sum.1 + list.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str, base: u64) -> Module {
        Module::new(name.into(), base, 0x1000)
    }

    fn symbol(address: u64) -> Symbol {
        Symbol {
            address,
            size: 4,
            name: b"f"[..].into(),
        }
    }

    fn kernel() -> Kernel {
        Kernel::new(b"1".to_vec(), 0x100, 0x200)
    }

    #[test]
    fn an_unloaded_module_is_remembered_with_its_symbols() {
        let mut kernel = kernel();
        kernel.set_modules(vec![module("b", 0x9000), module("a", 0x5000)]);
        assert!(kernel.set_symbols(0x5000, vec![symbol(0x5004), symbol(0x5000)]));
        kernel.set_modules(vec![module("b", 0x9000)]);
        let former = kernel.module_at(0x5004).unwrap();
        assert!(!former.loaded);
        assert_eq!(former.symbols[..], [symbol(0x5000), symbol(0x5004)]);
        assert!(!kernel.has_image(0x5000));
    }

    #[test]
    fn a_module_at_a_former_ones_address_comes_first() {
        let mut kernel = kernel();
        kernel.set_modules(vec![module("old", 0x5000)]);
        kernel.set_modules(vec![module("new", 0x5000)]);
        assert_eq!(kernel.module_at(0x5fff).unwrap().name, b"new");
        assert_eq!(kernel.modules.len(), 2);
    }

    #[test]
    fn a_module_that_stays_keeps_its_symbols() {
        let mut kernel = kernel();
        kernel.set_modules(vec![module("a", 0x5000)]);
        assert!(kernel.set_symbols(0x5000, vec![symbol(0x5000)]));
        kernel.set_modules(vec![module("b", 0x4000), module("a", 0x5000)]);
        assert_eq!(kernel.module_at(0x5000).unwrap().symbols.len(), 1);
        assert_eq!(kernel.symbol_volume(0), (1, 1));
        assert_eq!(kernel.symbol_volume(0x5000), (0, 0));
    }

    #[test]
    fn volume_follows_every_change_of_the_lists() {
        let mut kernel = kernel();
        kernel.set_modules(vec![module("a", 0x5000), module("b", 0x9000)]);
        assert!(kernel.set_symbols(0, vec![symbol(0x100)]));
        assert!(kernel.set_symbols(0x5000, vec![symbol(0x5000), symbol(0x5004)]));
        assert_eq!(kernel.symbol_volume(0x9000), (3, 3));
        // Unloaded, and remembered.
        kernel.set_modules(vec![module("b", 0x9000)]);
        assert_eq!(kernel.symbol_volume(0x5000), (3, 3));
        assert!(kernel.set_symbols(0, vec![]));
        assert_eq!(kernel.symbol_volume(0x9000), (2, 2));
    }

    #[test]
    fn a_module_that_is_listed_twice_is_remembered_once() {
        let mut kernel = kernel();
        kernel.set_modules(vec![module("a", 0x5000), module("a", 0x5000)]);
        assert_eq!(kernel.modules.len(), 2);
        kernel.set_modules(vec![]);
        assert_eq!(kernel.modules.len(), 1);
    }

    #[test]
    fn former_modules_are_bounded() {
        let mut kernel = kernel();
        for base in 1..=MAX_FORMER_MODULES as u64 + 2 {
            kernel.set_modules(vec![module("m", base << 12)]);
        }
        assert_eq!(kernel.modules.len(), MAX_FORMER_MODULES + 1);
        assert!(kernel.module_at(0x1000).is_none());
    }

    #[test]
    fn symbols_of_no_image_are_refused() {
        assert!(!kernel().set_symbols(0x5000, vec![symbol(0x5000)]));
    }
}
