//! The path of a sample file below its session: which program, which image, which event.
//!
//! ```text
//! APP/{dep}/IMAGE/[{cg}/CALLEE/]EVENT.COUNT.UNITMASK.TGID.TID.CPU
//! ```

use std::fmt;

/// One of APP, IMAGE and CALLEE.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ImageName {
    /// `{root}` and an absolute path. Bytes, beginning with `/` unless the producer wrote none.
    Root(Vec<u8>),
    /// `{kern}/` and a name without a slash.
    Kern(Vec<u8>),
    /// `{anon:NAME}/TGID.0xSTART.0xEND`.
    Anon {
        /// NAME, without braces.
        name: Vec<u8>,
        /// `TGID.0xSTART.0xEND`; the end is the last address.
        range: AnonRange,
    },
}

/// The three parts of the directory that names an anonymous region, as text: a reader does not check them further.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnonRange {
    /// Thread group id.
    pub tgid: Vec<u8>,
    /// First address, with `0x`.
    pub start: Vec<u8>,
    /// Last address, with `0x`.
    pub end: Vec<u8>,
}

impl ImageName {
    /// The name of an anonymous region from `start` up to but excluding `end`.
    pub fn anon(name: &[u8], tgid: u32, start: u64, end: u64) -> Self {
        Self::Anon {
            name: name.to_vec(),
            range: AnonRange {
                tgid: tgid.to_string().into_bytes(),
                start: format!("{start:#x}").into_bytes(),
                end: format!("{:#x}", end.wrapping_sub(1)).into_bytes(),
            },
        }
    }

    /// Appends the name in its path form, with a trailing slash.
    fn write(&self, path: &mut Vec<u8>) {
        match self {
            Self::Root(name) => {
                path.extend_from_slice(b"{root}");
                path.extend_from_slice(name);
            }
            Self::Kern(name) => {
                path.extend_from_slice(b"{kern}/");
                path.extend_from_slice(name);
            }
            Self::Anon { name, range } => {
                path.extend_from_slice(b"{anon:");
                path.extend_from_slice(name);
                path.extend_from_slice(b"}/");
                path.extend_from_slice(&[&range.tgid[..], &range.start, &range.end].join(&b'.'));
            }
        }
        path.push(b'/');
    }

    /// Reads a name from the components of a path.
    fn parse(parts: &[&[u8]]) -> Result<Self, SamplePathError> {
        let (first, rest) = parts.split_first().ok_or(SamplePathError::NoImage)?;
        if let Some(beginning) = first.strip_prefix(b"{root}") {
            if beginning.is_empty() && rest.is_empty() {
                return Err(SamplePathError::NoImage);
            }
            return Ok(Self::Root([&[beginning], rest].concat().join(&b'/')));
        }
        if let Some(beginning) = first.strip_prefix(b"{kern}") {
            // Written as a component of its own, it would divide the path.
            if [&b"{dep}"[..], b"{cg}"].contains(&beginning) {
                return Err(SamplePathError::NoImage);
            }
            let name = [&[beginning], rest].concat().join(&b'/');
            let name = name.strip_prefix(b"/").unwrap_or(&name);
            if name.is_empty() {
                return Err(SamplePathError::NoImage);
            }
            return Ok(Self::Kern(name.to_vec()));
        }
        if let Some(name) = first
            .strip_prefix(b"{anon:")
            .and_then(|name| name.strip_suffix(b"}"))
        {
            let [range] = rest else {
                return Err(SamplePathError::AnonRange);
            };
            let parts: Vec<&[u8]> = range.split(|byte| *byte == b'.').collect();
            let [tgid, start, end] = parts[..] else {
                return Err(SamplePathError::AnonRange);
            };
            let range = AnonRange {
                tgid: tgid.to_vec(),
                start: start.to_vec(),
                end: end.to_vec(),
            };
            return Ok(Self::Anon {
                name: name.to_vec(),
                range,
            });
        }
        Err(SamplePathError::NoImage)
    }
}

/// The last component: six parts, kept as text because they serve as grouping keys only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SampleSpec {
    /// Event name, without `.` and `/`.
    pub event: String,
    /// Sampling period.
    pub count: String,
    /// Unit mask, decimal.
    pub unit_mask: String,
    /// Thread group id or `all`.
    pub tgid: String,
    /// Thread id or `all`.
    pub tid: String,
    /// Processor or `all`.
    pub cpu: String,
}

impl SampleSpec {
    /// Reads the last component of a path; `None` unless it has exactly six non-empty parts.
    pub fn parse(component: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(component).ok()?;
        let mut parts = text.split('.');
        let mut next = || {
            parts
                .next()
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
        };
        let spec = Self {
            event: next()?,
            count: next()?,
            unit_mask: next()?,
            tgid: next()?,
            tid: next()?,
            cpu: next()?,
        };
        parts.next().is_none().then_some(spec)
    }
}

impl fmt::Display for SampleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            event,
            count,
            unit_mask,
            tgid,
            tid,
            cpu,
        } = self;
        write!(f, "{event}.{count}.{unit_mask}.{tgid}.{tid}.{cpu}")
    }
}

/// The whole path below the session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SamplePath {
    /// The program the samples are shown under.
    pub app: ImageName,
    /// The binary the keys belong to; in a call-graph file the caller.
    pub image: ImageName,
    /// The callee, in a call-graph file.
    pub callee: Option<ImageName>,
    /// The last component.
    pub spec: SampleSpec,
}

/// Why a path is not one of a sample file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SamplePathError {
    /// The last component is not `EVENT.COUNT.UNITMASK.TGID.TID.CPU`.
    #[error("Bad name of a sample file: EVENT.COUNT.UNITMASK.TGID.TID.CPU expected")]
    Spec,
    /// APP, IMAGE or CALLEE is missing.
    #[error("Bad name of a sample file: {{root}} or {{kern}} and a path expected")]
    NoImage,
    /// There is no `{dep}` component.
    #[error("Bad name of a sample file: {{dep}} expected")]
    NoDependency,
    /// The directory below `{anon:NAME}` has not three parts.
    #[error("parse_filename() pid.addr.addr name expected")]
    AnonRange,
}

impl SamplePath {
    /// The path, relative to the session.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut path = Vec::new();
        self.app.write(&mut path);
        path.extend_from_slice(b"{dep}/");
        self.image.write(&mut path);
        if let Some(callee) = &self.callee {
            path.extend_from_slice(b"{cg}/");
            callee.write(&mut path);
        }
        path.extend_from_slice(self.spec.to_string().as_bytes());
        path
    }

    /// Reads a path that is relative to the session.
    pub fn parse(path: &[u8]) -> Result<Self, SamplePathError> {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let (last, names) = parts.split_last().ok_or(SamplePathError::Spec)?;
        let spec = SampleSpec::parse(last).ok_or(SamplePathError::Spec)?;
        let dependency = names
            .iter()
            .position(|part| *part == b"{dep}")
            .ok_or(SamplePathError::NoDependency)?;
        let (app, image) = (&names[..dependency], &names[dependency + 1..]);
        let (image, callee) = match image.iter().position(|part| *part == b"{cg}") {
            Some(arc) => (&image[..arc], Some(ImageName::parse(&image[arc + 1..])?)),
            None => (image, None),
        };
        Ok(Self {
            app: ImageName::parse(app)?,
            image: ImageName::parse(image)?,
            callee,
            spec,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec() -> SampleSpec {
        SampleSpec::parse(b"TIMER.0.0.all.all.3").unwrap()
    }

    fn parse(path: &str) -> Result<SamplePath, SamplePathError> {
        SamplePath::parse(path.as_bytes())
    }

    #[test]
    fn kernel_name_that_would_divide_the_path_is_refused() {
        for marker in ["{dep}", "{cg}"] {
            let path = format!("{{kern}}{marker}/{{dep}}/{{root}}/a/TIMER.0.0.all.all.0");
            let refused = SamplePath::parse(path.as_bytes());
            assert_eq!(refused, Err(SamplePathError::NoImage), "{path}");
        }
    }

    #[test]
    fn paths_of_the_real_tools_are_read_and_written_back() {
        for path in [
            "{root}/srv/w/demo/{dep}/{root}/srv/w/demo/CPU_CLK_UNHALTED.1000000.0.all.all.all",
            "{root}/srv/w/demo/{dep}/{root}/srv/w/demo/{cg}/{root}/srv/w/libfoo.so/CPU_CLK_UNHALTED.1000000.0.all.all.all",
            "{root}/srv/w/demo/{dep}/{kern}/mymod/TIMER.0.0.100.101.0",
            "{kern}/mymod/{dep}/{kern}/mymod/TIMER.0.0.all.all.all",
            "{root}/srv/demo/{dep}/{anon:[vdso]}/22496.0x7fb0ebedb000.0x7fb0ebedcfff/E.1.0.all.all.all",
        ] {
            assert_eq!(parse(path).unwrap().to_bytes(), path.as_bytes(), "{path}");
        }
    }

    #[test]
    fn anonymous_region_is_written_with_its_last_address() {
        let image = ImageName::anon(b"anon", 7, 0x1000, 0x3000);
        let path = SamplePath {
            app: ImageName::Root(b"/bin/a".to_vec()),
            image,
            callee: None,
            spec: spec(),
        };
        assert_eq!(
            path.to_bytes(),
            b"{root}/bin/a/{dep}/{anon:anon}/7.0x1000.0x2fff/TIMER.0.0.all.all.3"
        );
    }

    #[test]
    fn bad_names_are_refused_with_their_reason() {
        let tail = "TIMER.0.0.all.all.all";
        assert_eq!(
            parse("{root}/a/{dep}/{root}/a/TIMER.0.0.all.all"),
            Err(SamplePathError::Spec)
        );
        assert_eq!(
            parse("{root}/a/{dep}/{root}/a/TIMER.0.0.all.all.all.all"),
            Err(SamplePathError::Spec)
        );
        assert_eq!(
            parse("{root}/a/{dep}/{root}/a/TIMER..0.all.all.all"),
            Err(SamplePathError::Spec)
        );
        assert_eq!(
            parse(&format!("{{root}}/a/{tail}")),
            Err(SamplePathError::NoDependency)
        );
        assert_eq!(
            parse(&format!("{{root}}/a/{{dep}}/{tail}")),
            Err(SamplePathError::NoImage)
        );
        assert_eq!(
            parse(&format!("{{root}}/a/{{dep}}/x/{tail}")),
            Err(SamplePathError::NoImage)
        );
        assert_eq!(
            parse(&format!("{{root}}/a/{{dep}}/{{anon:x}}/1.2/{tail}")),
            Err(SamplePathError::AnonRange)
        );
        assert_eq!(
            parse(&format!("{{root}}/a/{{dep}}/{{anon:x}}/{tail}")),
            Err(SamplePathError::AnonRange)
        );
    }

    proptest! {
        #[test]
        fn any_path_is_read_or_refused(path in "(\\{root\\}|\\{kern\\}|\\{dep\\}|\\{cg\\}|\\{anon:a\\}|/|[a.0-9]){0,20}") {
            let _ = parse(&path);
        }

        #[test]
        fn what_is_written_is_read_back(app in "(/[a-z. ]{1,6}){1,4}", image in "(/[a-z. ]{1,6}){1,4}", callee in prop::option::of("[a-z]{1,9}")) {
            let path = SamplePath {
                app: ImageName::Root(app.into_bytes()),
                image: ImageName::Root(image.into_bytes()),
                callee: callee.map(|name| ImageName::Kern(name.into_bytes())),
                spec: spec(),
            };
            prop_assert_eq!(SamplePath::parse(&path.to_bytes()), Ok(path));
        }
    }
}
