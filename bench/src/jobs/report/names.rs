//! Names of functions as linkers have them, each once.

/// The language that a library is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Names like those of Python's interpreter.
    C,
    /// Mangled names, a third of them with the standard library's templates.
    Cpp,
}

const OBJECTS: [&str; 30] = [
    "list", "dict", "unicode", "long", "type", "tuple", "set", "bytes", "gc", "import", "ceval",
    "compile", "ast", "symtable", "marshal", "codecs", "frame", "code", "gen", "coro", "method",
    "descr", "object", "thread", "time", "sys", "errors", "args", "member", "math",
];

const VERBS: [&str; 30] = [
    "new",
    "dealloc",
    "traverse",
    "clear",
    "richcompare",
    "repr",
    "hash",
    "length",
    "subscript",
    "assign_item",
    "slice",
    "contains",
    "iterate",
    "next",
    "append",
    "extend",
    "insert",
    "pop",
    "remove",
    "index",
    "count",
    "sort",
    "reverse",
    "copy",
    "update",
    "resize",
    "concatenate",
    "repeat",
    "format",
    "join",
];

/// What tells the functions of one object and verb apart.
const FORMS: [(&str, &str, &str); 6] = [
    ("", "", "v"),
    ("", "_impl", "i"),
    ("_Py_", "_locked", "PKcm"),
    (
        "",
        "_with_error",
        "RKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
    ),
    ("Py_", "", "RSt6vectorIiSaIiEEb"),
    ("py", "_slow_path", "RKN4core7ContextEPNS_6WriterEj"),
];

/// Most names there are.
pub const MOST: usize = OBJECTS.len() * VERBS.len() * FORMS.len();

/// The name of a function, by a number below [`MOST`].
pub fn name(language: Language, number: usize) -> String {
    let (prefix, suffix, arguments) = FORMS[number % FORMS.len()];
    let verb = VERBS[number / FORMS.len() % VERBS.len()];
    let object = OBJECTS[number / FORMS.len() / VERBS.len() % OBJECTS.len()];
    match language {
        Language::C => format!("{prefix}{object}_{verb}{suffix}"),
        Language::Cpp => {
            let part = |part: &str| format!("{}{part}", part.len());
            let [object, verb] = [object, verb].map(part);
            format!("_ZN4core{object}{verb}E{arguments}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_functions_have_one_name() {
        for language in [Language::C, Language::Cpp] {
            let names: HashSet<String> = (0..MOST).map(|number| name(language, number)).collect();
            assert_eq!(names.len(), MOST);
        }
    }
}
