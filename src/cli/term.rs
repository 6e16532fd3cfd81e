//! The terminal: lines to stdout and stderr, colour, and getting the terminal back as it was.

use std::io::{self, IsTerminal, Write};
use std::ops::RangeInclusive;

use unicode_width::UnicodeWidthChar;

/// Asks for the character in front of it to be drawn as an emoji, two columns wide. Not every terminal does.
const EMOJI: char = '\u{fe0f}';

/// Letters of which two make a flag. A terminal may draw one that is alone as wide as a flag.
const FLAGS: RangeInclusive<char> = '\u{1f1e6}'..='\u{1f1ff}';

/// Writes one line to stdout.
pub fn print_line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes one line to stderr. If even that fails there is nobody left to tell.
pub fn eprint_line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The columns of the terminal on stderr, if that is one.
pub fn stderr_columns() -> Option<usize> {
    terminal_size::terminal_size_of(io::stderr()).map(|(width, _)| usize::from(width.0))
}

/// Whether somebody types at the program and reads what it prints.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The most columns that a text takes on a terminal; escape sequences must not be in it.
pub fn width(text: &str) -> usize {
    cells(text).map(|(_, columns)| columns).sum()
}

/// Each character and the most columns that it takes. Terminals differ in what they draw as one sign: here each counts for
/// itself.
pub fn cells(text: &str) -> impl Iterator<Item = (char, usize)> {
    let mut chars = text.chars().peekable();
    std::iter::from_fn(move || {
        let c = chars.next()?;
        let columns = c.width().unwrap_or(1);
        let is_wide = chars.peek() == Some(&EMOJI) || FLAGS.contains(&c);
        Some((c, if is_wide { columns.max(2) } else { columns }))
    })
}

/// A text padded with spaces to `columns`.
pub fn pad(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// Colours, or none: with `NO_COLOR` (<https://no-color.org>), `TERM=dumb`, or where nobody sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Palette {
    coloured: bool,
}

/// What a text is, for [`Palette::paint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// Time stamps, hints, what matters little.
    Dim,
    /// What stands out.
    Bold,
    /// Good news.
    Good,
    /// A warning.
    Warn,
    /// Bad news.
    Bad,
    /// One of six colours, by anything that stays the same for a peer.
    Peer(u8),
}

impl Palette {
    /// No colours.
    pub const PLAIN: Self = Self { coloured: false };

    /// Colours.
    pub const COLOURED: Self = Self { coloured: true };

    /// What suits this output.
    pub fn of(stream: &impl IsTerminal) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { coloured: stream.is_terminal() && !refused }
    }

    /// The text in its colour.
    pub fn paint(self, ink: Ink, text: &str) -> String {
        if !self.coloured || text.is_empty() {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Dim => 2,
            Ink::Bold => 1,
            Ink::Good => 32,
            Ink::Warn => 33,
            Ink::Bad => 31,
            Ink::Peer(which) => [36, 35, 34, 32, 33, 96][usize::from(which) % 6],
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// The terminal's settings as they were. A line editor that waits for a key when the program ends would leave the terminal
/// raw.
pub struct SavedTerminal {
    #[cfg(unix)]
    settings: Option<nix::sys::termios::Termios>,
}

impl SavedTerminal {
    /// Remembers the settings of the terminal on stdin, if there is one.
    pub fn save() -> Self {
        Self {
            #[cfg(unix)]
            settings: nix::sys::termios::tcgetattr(io::stdin()).ok(),
        }
    }

    /// Puts them back.
    pub fn restore(&self) {
        #[cfg(unix)]
        if let Some(settings) = &self.settings {
            use nix::sys::termios::{SetArg, tcsetattr};
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, settings);
        }
        // What rustyline and indicatif may have left behind: a prompt and what is below it, bracketed paste, no cursor.
        if is_interactive() {
            let _ = write!(io::stdout(), "\r\x1b[J\x1b[?2004l\x1b[?25h").and_then(|()| io::stdout().flush());
        }
    }
}

/// Puts the terminal back when it is dropped.
pub struct RestoredAtEnd(pub SavedTerminal);

impl Drop for RestoredAtEnd {
    fn drop(&mut self) {
        self.0.restore();
    }
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr;

    use super::*;

    #[test]
    fn colours_are_there_only_where_they_are_wanted() {
        assert_eq!(Palette::PLAIN.paint(Ink::Bad, "no"), "no");
        assert_eq!(Palette::COLOURED.paint(Ink::Bad, "no"), "\x1b[31mno\x1b[0m");
    }

    #[test]
    fn no_terminal_draws_a_text_wider_than_it_is_counted() {
        let chars = ('\u{20}'..'\u{20000}').chain('\u{e0000}'..'\u{e0200}');
        let marks =
            ["", "\u{fe0e}", "\u{fe0f}", "\u{fe0f}\u{20e3}", "\u{338}", "\u{200d}💻", "\u{1f3fd}", "א"];
        for text in chars.flat_map(|c| marks.map(|mark| format!("{c}{mark}"))) {
            assert!(width(&text) >= text.width(), "{text:?}");
        }
        assert_eq!(width("\u{1f1e6}x"), 3);
        assert_eq!(["abc", "你", "❤", "❤\u{fe0f}", "1\u{fe0f}\u{20e3}", "é"].map(width), [3, 2, 1, 2, 2, 1]);
    }

    #[test]
    fn padding_counts_columns() {
        assert_eq!(pad("你好", 6), "你好  ");
        assert_eq!(pad("longer", 3), "longer");
    }
}
