//! The line editor, on a thread of its own, and a printer that writes above the line being typed.
//!
//! Below the prompt stands one line of status, drawn as rustyline's hint: the hint keeps a row for it, and the highlighter
//! puts there what is true at the moment of drawing. When a line is entered rustyline takes the hint away, so nothing of it
//! stays in the scrollback.

use std::borrow::Cow;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc as blocking;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::{Hint, Hinter};
use rustyline::history::DefaultHistory;
use rustyline::{ColorMode, CompletionType, Config, Context, Editor, ExternalPrinter, Helper, Validator};
use tokio::sync::mpsc;

use super::commands::{COMMANDS, send_options};
use crate::cli::input::Input;
use crate::cli::term;
use crate::wire::text;

/// Lines kept between runs.
const HISTORY_LINES: usize = 1_000;

/// The longest line worth keeping; a pasted page is not.
const HISTORY_LINE_MAX_BYTES: usize = 2_000;

/// Lines that wait to be printed. A terminal that is stopped (Ctrl-S) must not make the program grow.
const QUEUED_LINES: usize = 4_096;

/// Draws the prompt and the status anew: one row up and down again is nothing on the screen, and rustyline repaints.
const REPAINT: &str = "\x1b[A";

/// What the editor's thread shows.
#[derive(Debug, Default)]
struct Shown {
    labels: Vec<String>,
    status: String,
}

/// What happens between two typed lines: the first is answered, the next is asked for.
struct Turn {
    answer: Vec<String>,
    prompt: String,
}

/// The editor, seen from the event loop.
pub struct Prompter {
    shown: Arc<Mutex<Shown>>,
    turns: blocking::Sender<Turn>,
    printer: Printer,
}

/// Prints lines above the prompt.
#[derive(Clone)]
pub struct Printer {
    lines: blocking::SyncSender<String>,
    dropped: Arc<AtomicUsize>,
}

/// Whether typed lines are kept between runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// In the user's data folder, readable for nobody else.
    Kept,
    /// Not at all.
    Forgotten,
}

/// Starts the editor. It asks for a line each time [`Prompter::prompt`] is called.
pub fn start(history: History) -> anyhow::Result<(Prompter, mpsc::Receiver<Input>)> {
    let config = Config::builder()
        .max_history_size(HISTORY_LINES)?
        .history_ignore_dups(true)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        // The status is drawn by the highlighter, which rustyline calls only with colours; ours come from `Palette`.
        .color_mode(ColorMode::Forced)
        .build();
    let shown = Arc::new(Mutex::new(Shown::default()));
    let mut editor: Editor<Assistant, DefaultHistory> = Editor::with_config(config)?;
    editor.set_helper(Some(Assistant { shown: shown.clone(), paths: FilenameCompleter::new() }));
    let printer = Printer::start(editor.create_external_printer().ok());
    let (turns, asked) = blocking::channel();
    let (lines, typed) = mpsc::channel(1);
    let file = match history {
        History::Kept => history_file(),
        History::Forgotten => None,
    };
    thread::spawn(move || edit(editor, &asked, &lines, file.as_ref()));
    Ok((Prompter { shown, turns, printer }, typed))
}

impl Prompter {
    /// Prints the answer to the last line and asks for the next.
    pub fn prompt(&self, answer: Vec<String>, prompt: String) {
        // The editor's thread ends only with the input, after which nothing is asked.
        let _ = self.turns.send(Turn { answer, prompt });
    }

    /// Where lines are printed.
    pub fn printer(&self) -> &Printer {
        &self.printer
    }

    /// Who can be completed.
    pub fn set_labels(&self, labels: Vec<String>) {
        lock(&self.shown).labels = labels;
    }

    /// What stands below the prompt; drawn at once if it is new.
    pub fn set_status(&self, status: String) {
        let mut shown = lock(&self.shown);
        if shown.status != status {
            shown.status = status;
            drop(shown);
            self.printer.print(REPAINT.to_owned());
        }
    }
}

fn lock(shown: &Mutex<Shown>) -> MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Printer {
    fn start(external: Option<impl ExternalPrinter + Send + 'static>) -> Self {
        let (lines, queued) = blocking::sync_channel::<String>(QUEUED_LINES);
        let dropped = Arc::new(AtomicUsize::new(0));
        let lost = dropped.clone();
        thread::spawn(move || {
            let mut external = external;
            while let Ok(line) = queued.recv() {
                print(external.as_mut(), line);
                match lost.swap(0, Ordering::Relaxed) {
                    0 => {}
                    count => print(
                        external.as_mut(),
                        format!("[… {count} lines came faster than they could be shown]"),
                    ),
                }
            }
        });
        Self { lines, dropped }
    }

    /// Prints one line, or several with line breaks between them.
    pub fn print(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Where the terminal takes no editing (`TERM=dumb`), lines are just written.
fn print(external: Option<&mut impl ExternalPrinter>, line: String) {
    match external {
        Some(external) => drop(external.print(line + "\n")),
        None if line == REPAINT => {}
        None => drop(term::print_line(&line)),
    }
}

fn edit(
    mut editor: Editor<Assistant, DefaultHistory>,
    asked: &blocking::Receiver<Turn>,
    lines: &mpsc::Sender<Input>,
    history: Option<&PathBuf>,
) {
    if let Some(file) = history {
        // A history that is not there or can't be read is an empty one.
        let _ = editor.load_history(file);
    }
    while let Ok(Turn { answer, prompt }) = asked.recv() {
        // No line is being typed now, so these can go straight out, in front of the next prompt.
        answer.iter().for_each(|line| drop(term::print_line(line)));
        let input = match editor.readline(&prompt) {
            Ok(line) => {
                remember(&mut editor, &line, history);
                Input::Line(line)
            }
            Err(ReadlineError::Interrupted) => Input::Interrupt,
            Err(_) => Input::End,
        };
        let more = matches!(input, Input::Line(_));
        if lines.blocking_send(input).is_err() || !more {
            return;
        }
    }
}

/// Keeps a line for later, at once: the next may be the last. Invites are secrets and are not kept.
fn remember(editor: &mut Editor<Assistant, DefaultHistory>, line: &str, history: Option<&PathBuf>) {
    let secret = line.contains("ws://") || line.contains("wss://");
    if secret || line.len() > HISTORY_LINE_MAX_BYTES || line.trim().is_empty() {
        return;
    }
    let added = editor.add_history_entry(line).unwrap_or(false);
    if let (true, Some(file)) = (added, history) {
        let _ = editor.append_history(file);
    }
}

/// `history` in the user's data folder, which is made if need be. rustyline makes the file readable for its owner only.
fn history_file() -> Option<PathBuf> {
    let dirs = directories::ProjectDirs::from("", "", "swarm")?;
    let folder = dirs.state_dir().unwrap_or_else(|| dirs.data_local_dir());
    fs::create_dir_all(folder).ok()?;
    Some(folder.join("history"))
}

/// What helps the typist.
#[derive(Helper, Validator)]
struct Assistant {
    shown: Arc<Mutex<Shown>>,
    paths: FilenameCompleter,
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        match completing(line, pos) {
            Completing::Command => Ok((0, commands(&line[..pos]))),
            Completing::Name { start, form } => Ok((start, self.names(&line[start..pos], form))),
            Completing::Option { start } => Ok((start, options(&line[start..pos]))),
            Completing::Path => {
                let (start, mut paths) = self.paths.complete_path(line, pos)?;
                // A terminal would be shown them as they are, in the list and in the line.
                paths.retain(|path| text::whole_line(&path.replacement) == path.replacement);
                Ok((start, paths))
            }
        }
    }
}

/// What is being typed.
#[derive(Debug, PartialEq, Eq)]
enum Completing {
    Command,
    Name { start: usize, form: Form },
    Option { start: usize },
    Path,
}

/// How a name is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// At the beginning of what is said to it.
    Address,
    /// As it is.
    Plain,
    /// As one word of a command.
    Word,
}

fn completing(line: &str, pos: usize) -> Completing {
    let typed = &line[..pos];
    let word = typed.rfind(' ').map_or(0, |space| space + 1);
    let argument = |command: &str| typed.strip_prefix(command).map(|rest| typed.len() - rest.len());
    if typed.starts_with('/') && word == 0 {
        return Completing::Command;
    }
    if let Some(start) = ["/msg ", "/ignore ", "/unignore "].into_iter().find_map(argument) {
        // Names may have spaces, so everything behind the command may be one; behind a name comes the text.
        return Completing::Name { start, form: Form::Plain };
    }
    if let Some(start) = argument("/send ") {
        return sending(&typed[start..], word, &typed[word..]);
    }
    let form = if word == 0 { Form::Address } else { Form::Plain };
    Completing::Name { start: word + usize::from(typed[word..].starts_with('@')), form }
}

/// What of `/send` is being typed: `last` is its last word and begins at `start`.
fn sending(arguments: &str, start: usize, last: &str) -> Completing {
    let before = arguments[..arguments.len() - last.len()].trim_end();
    if last.starts_with('@') && before.is_empty() {
        Completing::Name { start: start + 1, form: Form::Word }
    } else if before.ends_with("--to") {
        Completing::Name { start, form: Form::Word }
    } else if last.starts_with('-') {
        Completing::Option { start }
    } else {
        Completing::Path
    }
}

fn options(typed: &str) -> Vec<Pair> {
    let fitting = send_options().into_iter().filter(|option| option.name.starts_with(typed));
    fitting.map(|option| Pair { replacement: format!("{} ", option.name), display: option.name }).collect()
}

fn commands(typed: &str) -> Vec<Pair> {
    let known = COMMANDS.iter().filter(|(name, _, _)| name.starts_with(typed));
    known
        .map(|(name, arguments, _)| {
            let space = if arguments.is_empty() { "" } else { " " };
            Pair { display: (*name).to_owned(), replacement: format!("{name}{space}") }
        })
        .collect()
}

impl Assistant {
    fn names(&self, typed: &str, form: Form) -> Vec<Pair> {
        let typed = typed.to_lowercase();
        let labels = lock(&self.shown).labels.clone();
        let fitting =
            labels.into_iter().filter(|label| !typed.is_empty() && label.to_lowercase().starts_with(&typed));
        fitting
            .map(|label| {
                let replacement = match form {
                    Form::Address => format!("{label}: "),
                    Form::Plain => format!("{label} "),
                    Form::Word => format!("{} ", label.replace(' ', "\\ ")),
                };
                Pair { replacement, display: label }
            })
            .collect()
    }
}

/// The row of the status. What it shows is decided when it is drawn.
struct StatusRow;

impl Hint for StatusRow {
    fn display(&self) -> &str {
        "\n "
    }

    fn completion(&self) -> Option<&str> {
        None
    }
}

impl Hinter for Assistant {
    type Hint = StatusRow;

    fn hint(&self, _line: &str, _pos: usize, _: &Context<'_>) -> Option<StatusRow> {
        Some(StatusRow)
    }
}

impl Highlighter for Assistant {
    fn highlight_hint<'h>(&self, _: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\n{}", lock(&self.shown).status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assistant(labels: &[&str]) -> Assistant {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let shown = Shown { labels, status: "2 here".into() };
        Assistant { shown: Arc::new(Mutex::new(shown)), paths: FilenameCompleter::new() }
    }

    fn replacements(line: &str) -> (usize, Vec<String>) {
        let assistant = assistant(&["ada", "Ada Lovelace", "bob"]);
        let history = DefaultHistory::new();
        let (start, pairs) =
            assistant.complete(line, line.len(), &Context::new(&history)).expect("no I/O in it");
        (start, pairs.into_iter().map(|pair| pair.replacement).collect())
    }

    #[test]
    fn commands_and_names_are_completed() {
        assert_eq!(replacements("/pe"), (0, vec!["/peers".into()]));
        assert_eq!(replacements("/ms"), (0, vec!["/msg ".into()]));
        assert_eq!(replacements("/msg ad"), (5, vec!["ada ".into(), "Ada Lovelace ".into()]));
        assert_eq!(replacements("/msg ada l"), (5, vec!["Ada Lovelace ".into()]));
        assert_eq!(replacements("bo"), (0, vec!["bob: ".into()]));
        assert_eq!(replacements("hi @bo"), (4, vec!["bob ".into()]));
        assert_eq!(replacements("/send @bo"), (7, vec!["bob ".into()]));
        assert_eq!(replacements("/send x --to bo"), (13, vec!["bob ".into()]));
        assert_eq!(replacements("/send --to Ada"), (11, vec!["ada ".into(), "Ada\\ Lovelace ".into()]));
        assert_eq!(replacements("/send x --ex"), (8, vec!["--exclude ".into()]));
        assert_eq!(replacements("hi "), (3, vec![]));
    }

    #[test]
    fn paths_are_completed_behind_send() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("my film.mkv"), "").expect("written");
        let typed = format!("/send {}/my", folder.path().display());
        let (start, paths) = replacements(&typed);
        assert_eq!(start, 6);
        assert_eq!(paths, [format!("{}/my\\ film.mkv", folder.path().display())]);
    }

    #[test]
    fn a_name_that_a_terminal_would_obey_is_not_completed() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a\x1b]0;x\x07", "a\u{202e}gnp", "a\u{9b}2J", "añ👩\u{200d}💻.png"] {
            fs::write(folder.path().join(name), "").expect("written");
        }
        let (_, paths) = replacements(&format!("/send {}/a", folder.path().display()));
        assert_eq!(paths, [format!("{}/añ👩\u{200d}💻.png", folder.path().display())]);
    }

    #[test]
    fn the_status_is_drawn_as_it_is_now() {
        let assistant = assistant(&[]);
        lock(&assistant.shown).status = "3 here".into();
        assert_eq!(assistant.highlight_hint("\n "), "\n3 here");
    }
}
