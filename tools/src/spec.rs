//! The profile specification: which session, which samples.

use std::path::PathBuf;

use oprofile_session::sample_path::SampleSpec;

use crate::error::ToolError;
use crate::glob;
use crate::names::printable;

/// What the words on the command line select. Empty lists select everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Specification {
    /// `archive:DIR`.
    pub archive: Option<PathBuf>,
    /// `session:`; `current` when empty.
    pub sessions: Vec<String>,
    /// `session-exclude:`.
    pub sessions_excluded: Vec<String>,
    images: Vec<String>,
    images_excluded: Vec<String>,
    library_images: Vec<String>,
    /// Paths given without a tag: program or library.
    either: Vec<String>,
    events: Vec<String>,
    counts: Vec<String>,
    unit_masks: Vec<String>,
    tgids: Vec<String>,
    tids: Vec<String>,
    cpus: Vec<String>,
}

impl Specification {
    /// Reads the words. A word without a known tag is the path of a program or library, made absolute.
    pub fn parse(words: &[String]) -> Result<Self, ToolError> {
        let mut parsed = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for word in words {
            let (tag, values) = match word.split_once(':') {
                Some((tag, values)) => (tag, values),
                None => ("", &word[..]),
            };
            let list = match tag {
                "archive" => {
                    if parsed.archive.replace(PathBuf::from(values)).is_some() {
                        return Err(ToolError::Specification(
                            "only one archive: can be specified".to_owned(),
                        ));
                    }
                    continue;
                }
                "session" => &mut parsed.sessions,
                "session-exclude" => &mut parsed.sessions_excluded,
                "image" => &mut parsed.images,
                "image-exclude" => &mut parsed.images_excluded,
                "lib-image" => &mut parsed.library_images,
                "event" => &mut parsed.events,
                "count" => &mut parsed.counts,
                "unit-mask" => &mut parsed.unit_masks,
                "tgid" => &mut parsed.tgids,
                "tid" => &mut parsed.tids,
                "cpu" => &mut parsed.cpus,
                _ => {
                    parsed.either.push(absolute(word));
                    continue;
                }
            };
            // The same tag twice selects nothing in OProfile.
            if seen.contains(&tag) {
                return Err(ToolError::TooStrict);
            }
            seen.push(tag);
            list.extend(
                values
                    .split(',')
                    .filter(|value| !value.is_empty())
                    .map(str::to_owned),
            );
        }
        Ok(parsed)
    }

    /// Whether the last component of a sample file's path is selected.
    pub fn selects(&self, spec: &SampleSpec) -> bool {
        let one_of = |list: &[String], value: &str| {
            list.is_empty() || list.iter().any(|wanted| wanted == value || wanted == "all")
        };
        one_of(&self.events, &spec.event)
            && one_of(&self.counts, &spec.count)
            && one_of(&self.unit_masks, &spec.unit_mask)
            && one_of(&self.tgids, &spec.tgid)
            && one_of(&self.tids, &spec.tid)
            && one_of(&self.cpus, &spec.cpu)
    }

    /// Whether samples of `image` below `app` are selected.
    ///
    /// Patterns are compared with the path found on this machine and with the one recorded.
    pub fn selects_images(&self, app: &ImagePaths, image: &ImagePaths) -> bool {
        let any = |list: &[String], paths: &ImagePaths| {
            list.iter().any(|pattern| {
                [&paths.found, &paths.recorded]
                    .iter()
                    .any(|path| glob::matches(pattern.as_bytes(), path))
            })
        };
        if any(&self.images_excluded, app) || any(&self.images_excluded, image) {
            return false;
        }
        (self.images.is_empty() || any(&self.images, app))
            && (self.library_images.is_empty() || any(&self.library_images, image))
            && (self.either.is_empty() || any(&self.either, app) || any(&self.either, image))
    }

    /// Whether images are selected by name at all.
    pub fn names_images(&self) -> bool {
        [
            &self.images,
            &self.images_excluded,
            &self.library_images,
            &self.either,
        ]
        .iter()
        .any(|list| !list.is_empty())
    }
}

/// One profile, or two that are to be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profiles {
    /// The words of one specification, or two empty ones.
    One(Box<Specification>),
    /// `{ before } { after }`.
    Two(Box<[Specification; 2]>),
}

impl Profiles {
    /// Reads the words; braces are words of their own.
    pub fn parse(words: &[String]) -> Result<Self, ToolError> {
        if !words.iter().any(|word| word == "{" || word == "}") {
            return Specification::parse(words).map(|spec| Self::One(Box::new(spec)));
        }
        let invalid = || {
            let mut message = "invalid profile specification ".to_owned();
            for word in words {
                message.push_str(&printable(word.as_bytes()));
                message.push(' ');
            }
            ToolError::Specification(message)
        };
        let mut groups: Vec<&[String]> = Vec::new();
        let mut left = words;
        while let Some((first, rest)) = left.split_first() {
            let end = rest
                .iter()
                .position(|word| word == "}")
                .ok_or_else(invalid)?;
            let group = &rest[..end];
            if first != "{" || group.iter().any(|word| word == "{") {
                return Err(invalid());
            }
            groups.push(group);
            left = &rest[end + 1..];
        }
        match groups[..] {
            [[], []] => Ok(Self::One(Box::default())),
            // An empty first group has no meaning in OProfile either.
            [before, after] if !before.is_empty() => Ok(Self::Two(Box::new([
                Specification::parse(before)?,
                Specification::parse(after)?,
            ]))),
            _ => Err(invalid()),
        }
    }
}

/// The two paths of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePaths {
    /// In the profiled machine.
    pub recorded: Vec<u8>,
    /// On this machine; as recorded when it is not there.
    pub found: Vec<u8>,
}

fn absolute(word: &str) -> String {
    match std::path::absolute(word) {
        Ok(path) => path.to_string_lossy().into_owned(),
        Err(_) => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Specification, ToolError> {
        Specification::parse(
            &words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    fn sample(text: &str) -> SampleSpec {
        SampleSpec::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn tags_select_by_exact_value() {
        let spec = parse(&["cpu:0,2", "event:TIMER"]).unwrap();
        assert!(spec.selects(&sample("TIMER.0.0.all.all.2")));
        assert!(!spec.selects(&sample("TIMER.0.0.all.all.20")));
        assert!(!spec.selects(&sample("OTHER.0.0.all.all.0")));
        assert!(
            parse(&["event:all"])
                .unwrap()
                .selects(&sample("OTHER.0.0.all.all.0"))
        );
    }

    fn at(path: &str) -> ImagePaths {
        ImagePaths {
            recorded: path.into(),
            found: format!("/prefix{path}").into(),
        }
    }

    #[test]
    fn images_are_selected_by_pattern() {
        let spec = parse(&["image:*calc", "image-exclude:*/libx*"]).unwrap();
        assert!(spec.selects_images(&at("/bin/calc"), &at("/lib/liby.so")));
        assert!(!spec.selects_images(&at("/bin/calc"), &at("/lib/libx.so")));
        assert!(!spec.selects_images(&at("/bin/plain"), &at("/bin/calc")));
        let bare = parse(&["/lib/liby.so"]).unwrap();
        assert!(
            bare.selects_images(&at("/bin/calc"), &at("/lib/liby.so"))
                && !bare.selects_images(&at("/bin/calc"), &at("/bin/calc"))
        );
    }

    fn profiles(text: &str) -> Result<Profiles, ToolError> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        Profiles::parse(&words)
    }

    #[test]
    fn two_specifications_stand_in_braces() {
        assert!(matches!(profiles("{ } { }"), Ok(Profiles::One(_))));
        assert!(matches!(
            profiles("{ session:a } { }"),
            Ok(Profiles::Two(..))
        ));
        for bad in [
            "{ a",
            "{ a }",
            "} {",
            "{ } { a }",
            "a { } { }",
            "{ a } { b } { c }",
            "{ { } }",
        ] {
            assert_eq!(
                profiles(bad).unwrap_err().to_string(),
                format!("invalid profile specification {bad} ")
            );
        }
    }

    #[test]
    fn impossible_words_are_refused() {
        assert!(matches!(
            parse(&["image:a", "image:b"]),
            Err(ToolError::TooStrict)
        ));
        assert!(matches!(
            parse(&["archive:a", "archive:b"]),
            Err(ToolError::Specification(_))
        ));
    }
}
