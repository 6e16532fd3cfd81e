//! Names of files as strangers may give them: relative, portable, and the same file on every system.

use std::fmt;

use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::text;

/// The longest path, in bytes. `PATH_MAX` is 4096 on Linux and the folder it goes into needs room, too.
pub const PATH_MAX_BYTES: usize = 1024;

/// The longest component, in bytes: `NAME_MAX` of the common file systems.
pub const COMPONENT_MAX_BYTES: usize = 255;

/// The deepest path, in components.
pub const DEPTH_MAX: usize = 64;

/// What our own part folders begin with; no transfer may bring such a name.
pub const PART_PREFIX: &str = ".swarm-";

/// A relative path of one or more plain names, separated by `/`, that means the same file on every system and
/// can't leave the folder it is put into (as long as no component on disk is a link, which is checked where it is opened).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SafePath(Box<str>);

/// Why a path is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing, or nothing between two separators.
    #[error("a path has no empty names")]
    Empty,
    /// Longer than [`PATH_MAX_BYTES`].
    #[error("a path has at most {PATH_MAX_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// A component longer than [`COMPONENT_MAX_BYTES`].
    #[error("a name has at most {COMPONENT_MAX_BYTES} bytes, one has {0}")]
    NameTooLong(usize),
    /// Deeper than [`DEPTH_MAX`].
    #[error("a path has at most {DEPTH_MAX} names, this one has {0}")]
    TooDeep(usize),
    /// Begins at a root.
    #[error("a path must be relative")]
    Absolute,
    /// `.` or `..`.
    #[error("a path has no `.` and no `..`")]
    Traversal,
    /// A backslash, which separates names on Windows.
    #[error("a path has no backslash")]
    Backslash,
    /// Begins with a drive letter.
    #[error("a path names no drive")]
    Drive,
    /// A control character, a line separator, or one that turns the direction of text.
    #[error("a path has no control characters, this one has U+{0:04X}")]
    Control(u32),
    /// A device of Windows.
    #[error("{0} is the name of a device on some systems")]
    Device(String),
    /// Ends with a dot or a space, which Windows drops.
    #[error("a name does not end with a dot or a space")]
    Trailing,
    /// Not in Unicode's normalisation form C: another spelling of a name that looks the same.
    #[error("a path must be in Unicode normalisation form C")]
    NotNormalised,
    /// Looks like one of our part folders.
    #[error("names that begin with {PART_PREFIX} are kept for parts of transfers")]
    Part,
}

impl SafePath {
    /// Parses a path as it came from outside.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.len() > PATH_MAX_BYTES {
            return Err(PathError::TooLong(text.len()));
        }
        if text.starts_with('/') {
            return Err(PathError::Absolute);
        }
        if let Some(c) = text.chars().find(|c| is_control(*c)) {
            return Err(PathError::Control(c as u32));
        }
        if text.contains('\\') {
            return Err(PathError::Backslash);
        }
        if !is_nfc(text) {
            return Err(PathError::NotNormalised);
        }
        let depth = text.split('/').count();
        if depth > DEPTH_MAX {
            return Err(PathError::TooDeep(depth));
        }
        text.split('/').try_for_each(check_name)?;
        Ok(Self(text.into()))
    }

    /// Parses a path of this machine, brought into normalisation form C first.
    pub fn normalise(text: &str) -> Result<Self, PathError> {
        Self::parse(&text.nfc().collect::<String>())
    }

    /// The path as text, separated by `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names, from the outermost.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The outermost name.
    pub fn first(&self) -> &str {
        self.components().next().expect("a path has a name")
    }

    /// The innermost name.
    pub fn last(&self) -> &str {
        self.components().next_back().expect("a path has a name")
    }

    /// The path of the folder around it, if that has a name.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// What two paths have in common that a file system which ignores case takes for the same file.
    pub fn folded(&self) -> String {
        fold(&self.0)
    }
}

/// Case-folded text: upper case first, so that `ß` and `SS` meet.
pub(crate) fn fold(text: &str) -> String {
    case_folded(text.chars()).nfc().collect()
}

fn case_folded(text: impl Iterator<Item = char>) -> impl Iterator<Item = char> {
    text.flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

/// Whether a character shows. Some file systems pass over what does not when they look for a name.
fn is_seen(c: char) -> bool {
    !text::is_harmful(c) && !matches!(c, '\u{fe0e}' | '\u{fe0f}')
}

fn check_name(name: &str) -> Result<(), PathError> {
    if name.is_empty() {
        return Err(PathError::Empty);
    }
    if name == "." || name == ".." {
        return Err(PathError::Traversal);
    }
    if name.len() > COMPONENT_MAX_BYTES {
        return Err(PathError::NameTooLong(name.len()));
    }
    if matches!(name.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic()) {
        return Err(PathError::Drive);
    }
    if name.ends_with(['.', ' ']) {
        return Err(PathError::Trailing);
    }
    if is_device(name) {
        return Err(PathError::Device(name.to_owned()));
    }
    if case_folded(name.chars().filter(|c| is_seen(*c))).take(PART_PREFIX.len()).eq(PART_PREFIX.chars()) {
        return Err(PathError::Part);
    }
    Ok(())
}

/// C0, C1, the line separators, and the marks that reorder what follows (UAX #9 §2). Joiners stay: emoji and several
/// scripts need them.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The reserved names of Windows ("Naming Files, Paths, and Namespaces"), with any extension.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end();
    let stem = stem.to_ascii_uppercase();
    if matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") {
        return true;
    }
    let Some(number) = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT")) else {
        return false;
    };
    matches!(number, "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "¹" | "²" | "³")
}

impl fmt::Display for SafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> PathError {
        SafePath::parse(text).expect_err(text)
    }

    #[test]
    fn names_in_any_script_are_taken() {
        for text in
            ["a", "a/b c.txt", "Ünïcode/ファイル.txt", "שלום", "👩‍💻.png", "12:30.log", "…", ".hidden", "a..b"]
        {
            assert_eq!(SafePath::parse(text).expect(text).as_str(), text);
        }
    }

    #[test]
    fn hostile_names_are_refused_with_the_reason() {
        assert_eq!(refused(""), PathError::Empty);
        assert_eq!(refused("a//b"), PathError::Empty);
        assert_eq!(refused("a/"), PathError::Empty);
        assert_eq!(refused("/etc/passwd"), PathError::Absolute);
        assert_eq!(refused("../x"), PathError::Traversal);
        assert_eq!(refused("a/../../x"), PathError::Traversal);
        assert_eq!(refused("./x"), PathError::Traversal);
        assert_eq!(refused("a\\b"), PathError::Backslash);
        assert_eq!(refused("C:x"), PathError::Drive);
        assert_eq!(refused("a/c:/x"), PathError::Drive);
        assert_eq!(refused("a\u{1b}[2J"), PathError::Control(0x1b));
        assert_eq!(refused("a\0b"), PathError::Control(0));
        assert_eq!(refused("a\u{202e}gpj.exe"), PathError::Control(0x202e));
        assert_eq!(refused("a/con"), PathError::Device("con".into()));
        assert_eq!(refused("LPT1.txt"), PathError::Device("LPT1.txt".into()));
        assert_eq!(refused("nul .txt"), PathError::Device("nul .txt".into()));
        assert_eq!(refused("a./b"), PathError::Trailing);
        assert_eq!(refused("a "), PathError::Trailing);
        assert_eq!(refused("e\u{301}"), PathError::NotNormalised);
        for part in [".Swarm-0123/x", ".ſwarm-0123/x", "a/.sw\u{200d}arm-0123", "\u{ad}.swarm\u{fe0f}-0123"]
        {
            assert_eq!(refused(part), PathError::Part);
        }
        assert_eq!(refused(&"x".repeat(256)), PathError::NameTooLong(256));
        assert_eq!(refused(&"x/".repeat(600)), PathError::TooLong(1200));
        assert_eq!(refused(&["a"; 65].join("/")), PathError::TooDeep(65));
    }

    #[test]
    fn our_own_names_are_normalised() {
        assert_eq!(SafePath::normalise("e\u{301}").expect("a name").as_str(), "é");
    }

    #[test]
    fn case_twins_fold_to_the_same() {
        assert_eq!(
            SafePath::parse("Straße").map(|p| p.folded()),
            SafePath::parse("STRASSE").map(|p| p.folded())
        );
    }
}
