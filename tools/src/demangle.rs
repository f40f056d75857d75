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
    java(name)
        .or_else(|| rust(name))
        .or_else(|| {
            cpp(name).map(|shown| {
                if how == Demangle::Smart {
                    smart(shown)
                } else {
                    shown
                }
            })
        })
        .filter(|shown| shown.len() <= MAX_DEMANGLED)
        .unwrap_or_else(|| name.to_owned())
}

/// Whether any demangler would look at a name beyond its beginning.
pub fn may_be_mangled(name: &str) -> bool {
    // `_Z`, `_R`, what other systems make of them (`__R`, `R`, `ZN`), and Java's `L`. C has many names that begin with `_`.
    let name = name.as_bytes();
    let start = name.iter().take_while(|byte| **byte == b'_').count();
    match name.get(start) {
        Some(b'R' | b'Z') => start <= 2,
        Some(b'L') => start == 0,
        _ => false,
    }
}

fn rust(name: &str) -> Option<String> {
    let symbol = rustc_demangle::try_demangle(name).ok()?;
    // Without the hash. Limited while it is written: a back reference may multiply a name.
    let mut shown = Limited(String::new());
    std::fmt::write(&mut shown, format_args!("{symbol:#}")).ok()?;
    Some(shown.0)
}

/// A method as Java's just-in-time compiler names it: `Lcom/demo/Main;hot(I)V`.
fn java(name: &str) -> Option<String> {
    let (class, rest) = name.strip_prefix('L')?.split_once(';')?;
    let (method, rest) = rest.split_once('(')?;
    let (arguments, result) = rest.split_once(')')?;
    let mut shown = Vec::new();
    let mut left = arguments;
    while !left.is_empty() {
        let (argument, rest) = java_type(left)?;
        shown.push(argument);
        left = rest;
    }
    let (result, "") = java_type(result)? else {
        return None;
    };
    Some(format!(
        "{result} {}.{method}({})",
        class.replace('/', "."),
        shown.join(", ")
    ))
}

/// One type of a signature, and what follows it.
fn java_type(signature: &str) -> Option<(String, &str)> {
    let element = signature.trim_start_matches('[');
    let dimensions = signature.len() - element.len();
    let (name, rest) = match element.strip_prefix('L') {
        Some(class) => {
            let (class, rest) = class.split_once(';')?;
            (class.replace('/', "."), rest)
        }
        None => {
            let name = match element.chars().next()? {
                'B' => "byte",
                'C' => "char",
                'D' => "double",
                'F' => "float",
                'I' => "int",
                'J' => "long",
                'S' => "short",
                'V' => "void",
                'Z' => "boolean",
                _ => return None,
            };
            (name.to_owned(), &element[1..])
        }
    };
    Some((name + &"[]".repeat(dimensions), rest))
}

/// Leaves out what the names of the standard library say again and again.
fn smart(shown: String) -> String {
    let mut shown = shown
        .replace("(anonymous namespace)::", "")
        .replace("std::__cxx11::", "")
        .replace("std::", "");
    for default in [
        ", allocator<",
        ", char_traits<",
        ", less<",
        ", equal_to<",
        ", hash<",
    ] {
        let mut from = 0;
        while let Some(start) = shown[from..].find(default).map(|at| from + at) {
            match template_end(&shown, start + default.len()) {
                Some(end) => {
                    // With the blank between it and the next closing bracket.
                    let blank = usize::from(shown[end..].starts_with(" >"));
                    shown.replace_range(start..end + blank, "");
                    from = start;
                }
                None => from = start + default.len(),
            }
        }
    }
    while shown.contains("> >") {
        shown = shown.replace("> >", ">>");
    }
    for (long, short) in [
        ("basic_string<char>", "string"),
        ("basic_string<wchar_t>", "wstring"),
        ("basic_ostream<char>", "ostream"),
        ("basic_istream<char>", "istream"),
        ("basic_iostream<char>", "iostream"),
        ("basic_ios<char>", "ios"),
        ("basic_ostringstream<char>", "ostringstream"),
        ("basic_istringstream<char>", "istringstream"),
        ("basic_stringstream<char>", "stringstream"),
        ("basic_ofstream<char>", "ofstream"),
        ("basic_ifstream<char>", "ifstream"),
        ("basic_fstream<char>", "fstream"),
    ] {
        shown = shown.replace(long, short);
    }
    shown
}

/// The end of the template arguments whose first begins at `start`.
fn template_end(shown: &str, start: usize) -> Option<usize> {
    let mut depth = 1u32;
    for (index, byte) in shown.bytes().enumerate().skip(start) {
        match byte {
            b'<' => depth += 1,
            b'>' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(index + 1);
        }
    }
    None
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

    #[test]
    fn methods_of_compiled_java_are_shown_as_in_the_source() {
        for (mangled, shown) in [
            ("Lcom/demo/Main;hot(I)V", "void com.demo.Main.hot(int)"),
            (
                "LMap;put([JLjava/lang/Object;)[[Z",
                "boolean[][] Map.put(long[], java.lang.Object)",
            ),
            ("L;", "L;"),
            ("Loop.run", "Loop.run"),
            ("La;b(Q)V", "La;b(Q)V"),
            ("La;b(I)Vx", "La;b(I)Vx"),
        ] {
            assert_eq!(demangle(mangled, Demangle::Normal), shown);
        }
    }

    #[test]
    fn smart_names_lack_what_is_always_the_same() {
        for (mangled, shown) in [
            (
                "_ZNSt6vectorIiSaIiEE9push_backERKi",
                "vector<int>::push_back(int const&)",
            ),
            (
                "_ZStlsISt11char_traitsIcEERSt13basic_ostreamIcT_ES5_PKc",
                "ostream& operator<< <char_traits<char>>(ostream&, char const*)",
            ),
            ("_ZN12_GLOBAL__N_15Local3runEi", "Local::run(int)"),
            (
                "_ZNSt3mapISsiSt4lessISsESaISt4pairIKSsiEEE6insertERKS4_",
                "map<string, int>::insert(pair<string const, int> const&)",
            ),
        ] {
            assert_eq!(demangle(mangled, Demangle::Smart), shown);
        }
    }

    proptest! {
        #[test]
        fn any_name_has_a_bounded_answer(name in "(_Z|_R|_ZN)?[A-Z0-9a-z_.$]{0,80}") {
            prop_assert!(demangle(&name, Demangle::Normal).len() <= MAX_DEMANGLED);
            prop_assert!(demangle(&name, Demangle::Smart).len() <= MAX_DEMANGLED);
        }

        #[test]
        fn name_that_begins_like_none_of_the_mangled_is_shown_as_it_is(name in "[A-Za-z0-9_.$@ -]{0,40}") {
            if !may_be_mangled(&name) {
                prop_assert_eq!(demangle(&name, Demangle::Normal), name);
            }
        }
    }
}
