//! What others wrote, made fit for a terminal.
//!
//! A terminal obeys what it is shown: escape sequences move the cursor, set the title or write the clipboard, bidi
//! controls reorder what stands around them, zero-width characters hide in names, and a few thousand combining marks
//! cover the screen. So nothing that a peer or a server sent is shown except through [`line()`], [`lines`] or [`Name`]:
//!
//! ```text
//! C0 and DEL        their picture        ESC [ 31 m  ->  ␛[31m
//! other harmful     one � for a run      a U+202E b  ->  a�b
//! mark after mark   four, then one �
//! joiners           kept inside emoji and between the letters of scripts that need them
//! over the limit    cut, with …
//! ```
//!
//! The same text twice made safe is the text once made safe.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_width::UnicodeWidthChar;

use super::limits::NAME_MAX_CHARS;

/// The longest line of a message that a terminal is shown, in characters: about ten rows of text.
pub const LINE_MAX_CHARS: usize = 2_000;

/// The most lines of one message that a terminal is shown: a page or two of pasted text.
pub const LINES_MAX: usize = 100;

/// Marks without width on one base character. Burmese and Hebrew need three, Tibetan four.
const MARKS_MAX: usize = 4;

const REPLACEMENT: char = '\u{fffd}';
const DOTTED_CIRCLE: char = '\u{25cc}';
const JOINERS: [char; 2] = ['\u{200c}', '\u{200d}'];

/// One safe line of at most `max_chars` characters (at least one). Line breaks are shown, not obeyed.
pub fn line(text: &str, max_chars: usize) -> Cow<'_, str> {
    if text.len() <= max_chars && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(Cleaner::new(max_chars.max(1)).clean(text))
}

/// One safe line, however long. For output that programs read and people may look at.
pub fn whole_line(text: &str) -> Cow<'_, str> {
    line(text, usize::MAX)
}

/// The lines of a message as somebody wrote it, not yet safe: `\n`, `\r\n`, and at least one.
pub fn split_lines(message: &str) -> impl Iterator<Item = &str> {
    let message = message.strip_suffix('\n').unwrap_or(message);
    message.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line))
}

/// A message for a terminal: at most [`LINES_MAX`] safe lines of at most [`LINE_MAX_CHARS`] characters, and a last one
/// that says how much was left out.
pub fn lines(message: &str) -> Vec<String> {
    let mut shown: Vec<String> = Vec::new();
    let mut hidden_lines = 0usize;
    let mut hidden_chars = 0usize;
    for text in split_lines(message) {
        if shown.len() < LINES_MAX {
            shown.push(line(text, LINE_MAX_CHARS).into_owned());
            hidden_chars += text.chars().count().saturating_sub(LINE_MAX_CHARS);
        } else {
            hidden_lines += 1;
            hidden_chars += text.chars().count();
        }
    }
    match (hidden_lines, hidden_chars) {
        (0, 0) => {}
        (0, chars) => shown.push(format!("[… {chars} more characters]")),
        (lines, chars) => shown.push(format!("[… {lines} more lines, {chars} characters]")),
    }
    shown
}

/// Whether a terminal could obey the character, or nobody could see it.
///
/// Controls (C0, DEL, C1), separators of lines and paragraphs, and what Unicode calls default ignorable
/// (DerivedCoreProperties: bidi controls, zero-width characters, fillers, tags) but for the two presentation selectors.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c as u32,
            0x00AD | 0x034F | 0x061C | 0x115F..=0x1160 | 0x17B4..=0x17B5 | 0x180B..=0x180F
            | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F | 0x3164
            | 0xFE00..=0xFE0D | 0xFEFF | 0xFFA0 | 0xFFF0..=0xFFFB
            | 0x1BCA0..=0x1BCA3 | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF)
}

/// Whether the character is drawn on the one before it.
fn is_mark(c: char) -> bool {
    is_combining_mark(c) || c.width() == Some(0)
}

/// Scripts in which a joiner changes how letters are written: Arabic to Sinhala.
fn is_joined_script(c: char) -> bool {
    (0x0600..=0x0DFF).contains(&(c as u32)) && !is_harmful(c)
}

/// What emoji sequences are made of; generous, since all of these can be seen.
fn is_pictographic(c: char) -> bool {
    matches!(c as u32, 0x2190..=0x21FF | 0x2300..=0x23FF | 0x2600..=0x27BF | 0x2B00..=0x2BFF | 0x1F000..=0x1FAFF)
}

/// One pass over a line.
struct Cleaner {
    out: String,
    max_chars: usize,
    chars: usize,
    marks: usize,
    /// The last character written, and the last one that is no mark.
    previous: Option<char>,
    base: Option<char>,
}

impl Cleaner {
    fn new(max_chars: usize) -> Self {
        Self { out: String::new(), max_chars, chars: 0, marks: 0, previous: None, base: None }
    }

    fn clean(mut self, text: &str) -> String {
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            let next = rest.peek().copied();
            if !self.take(c, next) {
                self.cut();
                break;
            }
        }
        self.out
    }

    /// Writes what stands for `c`. `false` when there is no room for it.
    fn take(&mut self, c: char, next: Option<char>) -> bool {
        if c == '\t' {
            return (0..4).all(|_| self.push(' '));
        }
        if let Some(picture) = control_picture(c) {
            return self.push(picture);
        }
        if JOINERS.contains(&c) && self.joins(c, next) {
            return self.push(c);
        }
        if is_harmful(c) {
            return self.replace();
        }
        if !is_mark(c) {
            return self.push(c);
        }
        // A � takes no marks, so that a flood of them is one run.
        if self.marks >= MARKS_MAX || self.previous == Some(REPLACEMENT) {
            return self.replace();
        }
        if self.base.is_none() && !self.push(DOTTED_CIRCLE) {
            return false;
        }
        self.push_mark(c)
    }

    /// Whether a joiner here is writing and not hiding.
    fn joins(&self, joiner: char, next: Option<char>) -> bool {
        let (Some(previous), Some(base), Some(next)) = (self.previous, self.base, next) else {
            return false;
        };
        let letters = is_joined_script(previous) && is_joined_script(next) && !is_mark(next);
        let emoji = joiner == '\u{200d}' && is_pictographic(base) && is_pictographic(next);
        (letters || emoji) && !JOINERS.contains(&previous)
    }

    /// One � for a run of harmful characters or of marks too many.
    fn replace(&mut self) -> bool {
        let in_run = self.previous == Some(REPLACEMENT);
        in_run || self.push(REPLACEMENT)
    }

    fn push(&mut self, c: char) -> bool {
        if self.chars == self.max_chars {
            return false;
        }
        self.out.push(c);
        self.chars += 1;
        self.previous = Some(c);
        if !JOINERS.contains(&c) {
            self.base = Some(c);
            self.marks = 0;
        }
        true
    }

    fn push_mark(&mut self, c: char) -> bool {
        let (base, marks) = (self.base, self.marks);
        let pushed = self.push(c);
        self.base = base;
        self.marks = marks + usize::from(c.width() == Some(0));
        pushed
    }

    /// Makes room for the … that says that something is missing.
    fn cut(&mut self) {
        self.out.pop();
        while self.out.ends_with(JOINERS) {
            self.out.pop();
        }
        self.out.push('…');
    }
}

/// U+2400 and following: the pictures of the C0 controls and DEL.
fn control_picture(c: char) -> Option<char> {
    match c as u32 {
        code @ 0..=0x1F => char::from_u32(0x2400 + code),
        0x7F => Some('\u{2421}'),
        _ => None,
    }
}

/// A nickname: 1 to [`NAME_MAX_CHARS`] visible characters, no space at its ends and none doubled, and none of `<>#`, which
/// the faces set around names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a text is no nickname.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing visible is left of it.
    #[error("a name needs at least one visible character")]
    Empty,
    /// Longer than [`NAME_MAX_CHARS`].
    #[error("a name has at most {NAME_MAX_CHARS} characters, this one has {0}")]
    TooLong(usize),
    /// Control, bidi and invisible characters and `<`, `>`, `#` can't be in a name.
    #[error("a name can't contain {}", describe(*.0))]
    Character(char),
}

fn describe(c: char) -> String {
    if is_harmful(c) { format!("the invisible character U+{:04X}", c as u32) } else { format!("'{c}'") }
}

impl Name {
    /// What remains of a name that a peer sent once everything that is not allowed in one is taken out; `None` if nothing
    /// does.
    pub fn from_remote(text: &str) -> Option<Self> {
        // Of what a peer sends, a name's worth is read, whatever its length.
        let visible = text.chars().take(16 * NAME_MAX_CHARS).filter(|c| c.is_whitespace() || is_allowed(*c));
        let joined = join_words(&visible.collect::<String>());
        let shown = line(&joined, NAME_MAX_CHARS).into_owned();
        let shown = shown.trim();
        (!shown.is_empty()).then(|| Self(shown.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the name looks like: two names that a hasty reader could take for each other have the same one. Case, width,
    /// spaces and marks do not count, nor which of Latin, Greek and Cyrillic a letter comes from.
    pub fn skeleton(&self) -> String {
        let letters = self.0.nfkd().filter(|c| !is_mark(*c) && !c.is_whitespace());
        letters.flat_map(char::to_lowercase).map(lookalike).collect()
    }
}

impl FromStr for Name {
    type Err = NameError;

    /// Parses a name as its owner typed it.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = join_words(text);
        if let Some(c) = text.chars().find(|c| !is_allowed(*c) && *c != ' ') {
            return Err(NameError::Character(c));
        }
        let chars = text.chars().count();
        if chars > NAME_MAX_CHARS {
            return Err(NameError::TooLong(chars));
        }
        Self::from_remote(&text).ok_or(NameError::Empty)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

fn is_allowed(c: char) -> bool {
    !is_harmful(c) && !c.is_whitespace() && !matches!(c, '<' | '>' | '#' | '\u{2800}')
}

fn join_words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The Latin letter or digit that a lower-case letter is easily taken for (a small part of UTS #39, confusables).
fn lookalike(c: char) -> char {
    match c {
        'а' | 'α' => 'a',
        'в' | 'β' => 'b',
        'с' | 'ϲ' => 'c',
        'ԁ' => 'd',
        'е' | 'ε' => 'e',
        'һ' | 'н' => 'h',
        'і' | 'ι' | 'l' | '1' | '|' | 'ı' => 'i',
        'ј' => 'j',
        'к' | 'κ' => 'k',
        'м' | 'μ' => 'm',
        'ո' | 'η' => 'n',
        'о' | 'ο' | '0' | 'σ' => 'o',
        'р' | 'ρ' => 'p',
        'ԛ' => 'q',
        'г' => 'r',
        'ѕ' | '5' => 's',
        'т' | 'τ' => 't',
        'υ' | 'ս' => 'u',
        'ν' | 'ѵ' => 'v',
        'ԝ' | 'ω' => 'w',
        'х' | 'χ' => 'x',
        'у' | 'γ' => 'y',
        'ᴢ' => 'z',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_text_is_left_alone() {
        for text in ["hello, world", "naïve café", "שלום", "你好", "e\u{301}", "می‌خواهم", "👩‍💻 and ❤️‍🔥", ""]
        {
            assert_eq!(whole_line(text), text);
        }
    }

    #[test]
    fn escape_sequences_become_visible() {
        assert_eq!(whole_line("\x1b[31mred\x1b]0;title\x07"), "␛[31mred␛]0;title␇");
        assert_eq!(whole_line("\u{9b}31m\u{9d}52;c;"), "�31m�52;c;");
        assert_eq!(whole_line("a\rb\nc\x7f"), "a␍b␊c␡");
    }

    #[test]
    fn bidi_and_zero_width_characters_become_one_replacement() {
        assert_eq!(whole_line("exe.\u{202e}gnp"), "exe.�gnp");
        assert_eq!(whole_line("a\u{200b}\u{2066}\u{feff}\u{200d}b"), "a�b");
        assert_eq!(whole_line("pay\u{200d}pal"), "pay�pal");
    }

    #[test]
    fn a_flood_of_combining_marks_is_cut() {
        let zalgo = format!("z{}algo", "\u{336}".repeat(10_000));
        assert_eq!(whole_line(&zalgo), format!("z{}�algo", "\u{336}".repeat(4)));
        assert_eq!(whole_line("\u{301}a"), "◌\u{301}a");
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        assert_eq!(line("abcdef", 4), "abc…");
        assert_eq!(line("abcd", 4), "abcd");
        assert_eq!(line("\t\t", 6), "     …");
    }

    #[test]
    fn a_message_keeps_its_lines() {
        assert_eq!(lines("one\r\ntwo\n\nthree\n"), ["one", "two", "", "three"]);
        assert_eq!(lines(""), [""]);
    }

    #[test]
    fn two_mebibytes_are_shown_as_a_page() {
        let one_line = "x".repeat(2 << 20);
        let shown = lines(&one_line);
        assert_eq!(shown[0].chars().count(), LINE_MAX_CHARS);
        assert_eq!(shown[1], format!("[… {} more characters]", (2 << 20) - LINE_MAX_CHARS));

        let many_lines = "y\n".repeat(1 << 20);
        let shown = lines(&many_lines);
        assert_eq!(shown.len(), LINES_MAX + 1);
        let hidden = (1 << 20) - LINES_MAX;
        assert_eq!(shown[LINES_MAX], format!("[… {hidden} more lines, {hidden} characters]"));
    }

    #[test]
    fn a_name_as_typed_is_parsed_or_refused() {
        assert_eq!(
            "  Ada   Lovelace ".parse::<Name>().map(|name| name.to_string()),
            Ok("Ada Lovelace".into())
        );
        assert_eq!("  ".parse::<Name>(), Err(NameError::Empty));
        assert_eq!("a\u{202e}".parse::<Name>(), Err(NameError::Character('\u{202e}')));
        assert_eq!("<ada>".parse::<Name>(), Err(NameError::Character('<')));
        assert_eq!("n".repeat(33).parse::<Name>(), Err(NameError::TooLong(33)));
        let error = "a\u{202e}".parse::<Name>().expect_err("bidi");
        assert_eq!(error.to_string(), "a name can't contain the invisible character U+202E");
    }

    #[test]
    fn a_name_that_a_peer_sent_is_stripped() {
        let remote = |text: &str| Name::from_remote(text).map(|name| name.to_string());
        assert_eq!(remote("\x1b[1mada\u{200b}#7"), Some("[1mada7".into()));
        assert_eq!(remote("\u{202e}\u{200b} \u{2800}"), None);
        assert_eq!(remote(&"a ".repeat(1000)).map(|name| name.chars().count()), Some(NAME_MAX_CHARS));
    }

    #[test]
    fn names_that_look_alike_have_one_skeleton() {
        let skeleton = |text: &str| text.parse::<Name>().expect("a name").skeleton();
        for twin in ["ada", "ADA", "аdа", "a da", "ａｄａ", "ádà", "Αda"] {
            assert_eq!(skeleton(twin), skeleton("Ada"), "{twin}");
        }
        assert_ne!(skeleton("ada"), skeleton("adam"));
    }

    fn nasty_text() -> impl Strategy<Value = String> {
        let nasty = prop::sample::select(vec![
            '\x1b',
            '\n',
            '\r',
            '\t',
            '\x7f',
            '\u{85}',
            '\u{9b}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{202e}',
            '\u{2066}',
            '\u{feff}',
            '\u{301}',
            '\u{336}',
            '\u{fe0f}',
            '\u{94d}',
            'क',
            'م',
            '👩',
            '💻',
            '❤',
            ' ',
            'a',
            '\u{e0067}',
            '\u{1160}',
            '\u{1161}',
            '\u{fffd}',
            '…',
            '<',
            '#',
            '\u{2028}',
        ]);
        let any = prop_oneof![4 => nasty, 1 => any::<char>()];
        prop::collection::vec(any, 0..60).prop_map(String::from_iter)
    }

    /// Joiners apart, which are checked by their neighbours.
    fn is_safe(text: &str) -> bool {
        text.chars().all(|c| !is_harmful(c) || JOINERS.contains(&c))
            && !text.starts_with(JOINERS)
            && !text.ends_with(JOINERS)
    }

    proptest! {
        #[test]
        fn a_line_is_safe_bounded_and_stays_as_it_is(text in nasty_text(), max in 1usize..50) {
            let shown = line(&text, max).into_owned();
            prop_assert!(is_safe(&shown), "{shown:?}");
            prop_assert!(shown.chars().count() <= max);
            prop_assert_eq!(line(&shown, max), shown.as_str());
        }

        #[test]
        fn a_name_is_safe_bounded_and_stays_as_it_is(text in nasty_text()) {
            if let Some(name) = Name::from_remote(&text) {
                prop_assert!(is_safe(name.as_str()));
                prop_assert!((1..=NAME_MAX_CHARS).contains(&name.as_str().chars().count()));
                prop_assert_eq!(Name::from_remote(name.as_str()), Some(name.clone()));
                prop_assert_eq!(name.as_str().parse::<Name>(), Ok(name));
            }
        }
    }
}
