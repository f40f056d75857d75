//! From the names of linkers to the names of languages.

use cpp_demangle::{DemangleOptions, Symbol};

/// How names are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Demangle {
    /// As in the symbol table.
    None,
    /// As in the source.
    #[default]
    Normal,
    /// As in the source, with the standard library's longest names abbreviated.
    Smart,
}

/// Longest name that is demangled. Demanglers may be exponential; longer names are shown as they are.
const MAX_MANGLED: usize = 4096;
/// Longest result; a mangled name may expand without measure.
const MAX_DEMANGLED: usize = 16 * 1024;

/// `name` as it is to be shown.
pub fn demangle(name: &str, how: Demangle) -> String {
    if how == Demangle::None || name.len() > MAX_MANGLED {
        return name.to_owned();
    }
    rust(name)
        .or_else(|| cpp(name))
        .filter(|shown| shown.len() <= MAX_DEMANGLED)
        .unwrap_or_else(|| name.to_owned())
}

fn rust(name: &str) -> Option<String> {
    let symbol = rustc_demangle::try_demangle(name).ok()?;
    // Without the hash. Limited while it is written: a back reference may multiply a name.
    let mut shown = Limited(String::new());
    std::fmt::write(&mut shown, format_args!("{symbol:#}")).ok()?;
    Some(shown.0)
}

fn cpp(name: &str) -> Option<String> {
    if !name.starts_with("_Z") {
        return None;
    }
    let symbol = Symbol::new(name).ok()?;
    let mut shown = Limited(String::new());
    symbol
        .structured_demangle(&mut shown, &DemangleOptions::new())
        .ok()?;
    Some(as_gnu(shown.0))
}

/// Says what the crate says in the words of GNU's demangler, which are the ones that users search for.
fn as_gnu(shown: String) -> String {
    let shown = shown.replace("std::nullptr_t", "decltype(nullptr)");
    let Some(special) = shown
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix(")}"))
    else {
        return shown;
    };
    for (ours, gnu) in [
        ("vtable(", "vtable for "),
        ("vtt(", "VTT for "),
        ("typeinfo(", "typeinfo for "),
    ] {
        if let Some(of) = special.strip_prefix(ours) {
            return format!("{gnu}{of}");
        }
    }
    if let Some((offset, of)) = special
        .strip_prefix("virtual override thunk({")
        .and_then(|rest| rest.split_once("}, "))
    {
        let kind = if offset.starts_with("virtual") {
            "virtual"
        } else {
            "non-virtual"
        };
        return format!("{kind} thunk to {of}");
    }
    shown
}

/// Text that refuses to grow beyond [`MAX_DEMANGLED`].
struct Limited(String);

impl std::fmt::Write for Limited {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        if self.0.len() + text.len() > MAX_DEMANGLED {
            return Err(std::fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rust_and_cpp_names_are_shown_as_in_the_source() {
        for (mangled, shown) in [
            (
                "_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE",
                "core::fmt::Write::write_fmt",
            ),
            ("_RNvC7mycrate3foo", "mycrate::foo"),
            ("_RNvMs_C7mycrateNtB4_5Thing3run", "<mycrate::Thing>::run"),
            ("_Z3foov", "foo()"),
            ("_Z3foov.constprop.1", "foo() [clone .constprop.1]"),
            (
                "_ZNSt6vectorIiSaIiEE9push_backERKi",
                "std::vector<int, std::allocator<int> >::push_back(int const&)",
            ),
            ("_ZTV4Base", "vtable for Base"),
            ("_ZThn8_N4Both2goEv", "non-virtual thunk to Both::go()"),
            ("_ZTv0_n24_N4Both2goEv", "virtual thunk to Both::go()"),
            ("_ZTI4Base", "typeinfo for Base"),
            ("_ZTS4Base", "typeinfo name for Base"),
            ("_ZTT4Base", "VTT for Base"),
            ("_Z1fDn", "f(decltype(nullptr))"),
            ("_ZBROKEN", "_ZBROKEN"),
            ("_Z", "_Z"),
            ("main.c", "main.c"),
        ] {
            assert_eq!(demangle(mangled, Demangle::Normal), shown);
            assert_eq!(demangle(mangled, Demangle::None), mangled);
        }
    }

    proptest! {
        #[test]
        fn any_name_has_a_bounded_answer(name in "(_Z|_R|_ZN)?[A-Z0-9a-z_.$]{0,80}") {
            prop_assert!(demangle(&name, Demangle::Normal).len() <= MAX_DEMANGLED);
        }
    }
}
