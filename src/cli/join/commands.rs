//! What is typed at the prompt, parsed.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::cli::args::SourceArgs;
use crate::cli::values::Resolution;
use crate::wire::text::{self, Name, NameError};

/// The commands, as `/help` and the completion show them: name, arguments, meaning.
pub const COMMANDS: [(&str, &str, &str); 15] = [
    ("/peers", "", "who is here, and how each is connected"),
    ("/msg", "NAME TEXT", "say something to one peer only"),
    ("/me", "TEXT", "say what you do"),
    ("/nick", "NAME", "take another name"),
    ("/send", "[@NAME] [OPTION…] PATH…", "offer files and folders to everyone, or to one peer"),
    ("/accept", "[N|all]", "take what is offered"),
    ("/reject", "[N]", "decline an offer, or stop a transfer"),
    ("/resolve", "[N] rename|skip|overwrite", "say what to do with files in the way (--on-conflict ask)"),
    ("/transfers", "", "all transfers and how far they are"),
    ("/ignore", "NAME", "hear nothing more from a peer"),
    ("/unignore", "NAME", "listen to it again"),
    ("/invite", "", "print the invite to this room"),
    ("/code", "", "make a one-time code that lets one person in"),
    ("/help", "", "this list"),
    ("/quit", "", "leave the room"),
];

/// `/send` as typed.
#[derive(Debug, PartialEq, Eq, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_version_flag = true)]
pub struct Sending {
    /// What of it, and to whom.
    #[command(flatten)]
    pub source: SourceArgs,
    /// What.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
}

/// An option of `/send`, for its help and its completion.
#[derive(Debug, PartialEq, Eq)]
pub struct SendOption {
    /// With its dashes.
    pub name: String,
    /// What stands behind it; nothing for a switch.
    pub argument: String,
    /// One sentence.
    pub meaning: String,
}

/// The options of `/send`, which are those of `swarm send`.
pub fn send_options() -> Vec<SendOption> {
    let described = |option: &clap::Arg| {
        let argument = option.get_value_names().filter(|_| option.get_action().takes_values());
        Some(SendOption {
            name: format!("--{}", option.get_long()?),
            argument: argument.map(|names| names.join(" ")).unwrap_or_default(),
            meaning: option.get_help().map(ToString::to_string).unwrap_or_default(),
        })
    };
    Sending::command().get_arguments().filter_map(described).collect()
}

/// A line, as it is meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed<'a> {
    /// Nothing.
    Nothing,
    /// To be said to everyone.
    Say(&'a str),
    /// `/msg`: name and text, not yet told apart, since names may have spaces.
    Direct(&'a str),
    /// `/nick`.
    Rename(Name),
    /// `/peers`.
    Peers,
    /// `/send`.
    Send(Sending),
    /// `/accept`: which; nothing means the only one.
    Accept(&'a str),
    /// `/reject`: which; nothing means the only one.
    Reject(&'a str),
    /// `/resolve`.
    Resolve {
        /// Which; nothing means the only one.
        which: &'a str,
        /// What to do with the files.
        how: Resolution,
    },
    /// `/transfers`.
    Transfers,
    /// `/ignore`.
    Ignore(&'a str),
    /// `/unignore`.
    Unignore(&'a str),
    /// `/invite`.
    Invite,
    /// `/code`.
    Code,
    /// `/help`.
    Help,
    /// `/quit`.
    Quit,
}

/// Why a line makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypedError {
    /// Not a command.
    #[error("there is no {0}; /help shows what there is (a line that begins with / is sent with //)")]
    Unknown(String),
    /// Something is missing behind it.
    #[error("usage: {0} {1}")]
    Usage(&'static str, &'static str),
    /// Not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not options and paths.
    #[error("/send: {0}")]
    Options(String),
    /// A quotation mark without its other half.
    #[error("a quotation mark is missing")]
    Quote,
}

/// Parses a line.
pub fn parse(line: &str) -> Result<Typed<'_>, TypedError> {
    if line.trim().is_empty() {
        return Ok(Typed::Nothing);
    }
    if line.starts_with("//") {
        return Ok(Typed::Say(&line[1..]));
    }
    if !line.starts_with('/') {
        return Ok(Typed::Say(line));
    }
    let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    match command {
        // As on IRC and in other chats, an action is a line that begins so; each face shows it in its own way.
        "/me" => needed("/me", rest).map(|_| Typed::Say(line)),
        "/msg" => needed("/msg", rest).map(Typed::Direct),
        "/nick" => Ok(Typed::Rename(needed("/nick", rest)?.parse()?)),
        "/peers" => Ok(Typed::Peers),
        "/send" => send(needed("/send", rest)?),
        "/accept" => Ok(Typed::Accept(rest)),
        "/reject" => Ok(Typed::Reject(rest)),
        "/resolve" => resolve(rest),
        "/transfers" => Ok(Typed::Transfers),
        "/ignore" => needed("/ignore", rest).map(Typed::Ignore),
        "/unignore" => needed("/unignore", rest).map(Typed::Unignore),
        "/invite" => Ok(Typed::Invite),
        "/code" => Ok(Typed::Code),
        "/help" => Ok(Typed::Help),
        "/quit" => Ok(Typed::Quit),
        unknown => Err(TypedError::Unknown(text::line(unknown, 40).into_owned())),
    }
}

fn needed<'a>(command: &'static str, rest: &'a str) -> Result<&'a str, TypedError> {
    if rest.is_empty() { Err(usage(command)) } else { Ok(rest) }
}

fn usage(command: &'static str) -> TypedError {
    let usage = COMMANDS.iter().find(|(name, _, _)| *name == command).map_or("", |(_, usage, _)| usage);
    TypedError::Usage(command, usage)
}

fn resolve(rest: &str) -> Result<Typed<'_>, TypedError> {
    let (which, how) = rest.rsplit_once(char::is_whitespace).unwrap_or(("", rest));
    let how = how.parse().map_err(|_| usage("/resolve"))?;
    Ok(Typed::Resolve { which, how })
}

fn send(rest: &str) -> Result<Typed<'static>, TypedError> {
    let mut words = split_words(rest)?;
    if let Some(name) = words.first().and_then(|first| first.strip_prefix('@')) {
        words.splice(..1, ["--to".to_owned(), name.to_owned()]);
    }
    let mut sending = Sending::try_parse_from(words).map_err(|error| {
        let is_short = error.kind() == ErrorKind::MissingRequiredArgument;
        if is_short { usage("/send") } else { TypedError::Options(first_line(&error)) }
    })?;
    sending.paths.iter_mut().for_each(expand_home);
    Ok(Typed::Send(sending))
}

/// What clap says, without the advice that is meant for a shell.
fn first_line(error: &clap::Error) -> String {
    let all = error.to_string();
    let first = all.lines().next().unwrap_or_default();
    text::line(first.strip_prefix("error: ").unwrap_or(first), 200).into_owned()
}

/// Words as in a shell: apart by spaces, kept together by quotation marks or backslashes.
fn split_words(text: &str) -> Result<Vec<String>, TypedError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(TypedError::Quote);
    }
    words.extend(word);
    Ok(words)
}

fn expand_home(path: &mut PathBuf) {
    if let Ok(rest) = path.strip_prefix("~")
        && let Some(dirs) = directories::BaseDirs::new()
    {
        *path = dirs.home_dir().join(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::transfer::SourceOptions;

    #[test]
    fn a_line_is_said_unless_it_begins_with_a_slash() {
        assert_eq!(parse("hello /quit"), Ok(Typed::Say("hello /quit")));
        assert_eq!(parse("//quit is a command"), Ok(Typed::Say("/quit is a command")));
        assert_eq!(parse("/me waves"), Ok(Typed::Say("/me waves")));
        assert_eq!(parse("@fast hello"), Ok(Typed::Say("@fast hello")));
        assert_eq!(parse("   "), Ok(Typed::Nothing));
    }

    #[test]
    fn commands_are_parsed() {
        assert_eq!(parse("/msg Ada Lovelace hi"), Ok(Typed::Direct("Ada Lovelace hi")));
        assert_eq!(parse("/accept"), Ok(Typed::Accept("")));
        assert_eq!(parse("/accept 3 "), Ok(Typed::Accept("3")));
        assert_eq!(parse("/nick ada"), Ok(Typed::Rename("ada".parse().expect("a name"))));
        assert_eq!(parse("/quit"), Ok(Typed::Quit));
    }

    #[test]
    fn every_command_of_the_list_is_known() {
        for (name, _, _) in COMMANDS {
            assert!(!matches!(parse(&format!("{name} x")), Err(TypedError::Unknown(_))), "{name}");
        }
    }

    #[test]
    fn files_may_have_spaces_in_their_names() {
        let send = |to: &[&str], paths: &[&str]| {
            let to = to.iter().map(|name| (*name).to_owned()).collect();
            let source = SourceArgs { to, ..SourceArgs::default() };
            Ok(Typed::Send(Sending { source, paths: paths.iter().map(PathBuf::from).collect() }))
        };
        assert_eq!(parse(r#"/send a\ b "c d" e'f g'"#), send(&[], &["a b", "c d", "ef g"]));
        assert_eq!(parse("/send '@Ada Lovelace' x"), send(&["Ada Lovelace"], &["x"]));
        assert_eq!(parse("/send --to ada x --to 'b o b' y"), send(&["ada", "b o b"], &["x", "y"]));
        assert_eq!(parse("/send -- --to"), send(&[], &["--to"]));
        assert_eq!(parse("/send \"x"), Err(TypedError::Quote));
        assert_eq!(parse("/send @ada"), Err(usage("/send")));
    }

    #[test]
    fn send_takes_the_options_of_the_command_line() {
        let Ok(Typed::Send(sending)) = parse("/send photos --exclude '*.tmp' --exclude raw/ --follow") else {
            panic!("no /send")
        };
        let (exclude, follow_links) = (vec!["*.tmp".to_owned(), "raw/".to_owned()], true);
        assert_eq!(sending.source.options(), SourceOptions { follow_links, exclude, gitignore: false });
        let options = send_options();
        let names: Vec<&str> = options.iter().map(|option| option.name.as_str()).collect();
        assert_eq!(names, ["--to", "--follow", "--exclude", "--gitignore"]);
        for SendOption { name, argument, meaning } in &options {
            let line = format!("/send {name} {argument} x");
            assert!(matches!(parse(&line), Ok(Typed::Send(_))), "{line}");
            assert!(!meaning.is_empty(), "{name}");
        }
        let message = parse("/send --fly x").expect_err("no such option").to_string();
        assert_eq!(message, "/send: unexpected argument '--fly' found");
    }

    #[test]
    fn files_in_the_way_are_spoken_of_in_one_word() {
        assert_eq!(parse("/resolve skip"), Ok(Typed::Resolve { which: "", how: Resolution::Skip }));
        assert_eq!(parse("/resolve 3 o"), Ok(Typed::Resolve { which: "3", how: Resolution::Overwrite }));
        assert_eq!(parse("/resolve 3"), Err(usage("/resolve")));
        assert_eq!(parse("/resolve"), Err(usage("/resolve")));
    }

    #[test]
    fn what_makes_no_sense_says_what_would() {
        let message = |line| parse(line).expect_err("no sense").to_string();
        assert_eq!(message("/msg"), "usage: /msg NAME TEXT");
        assert_eq!(message("/nick a\u{202e}"), "a name can't contain the invisible character U+202E");
        assert!(message("/\x1b[2J").starts_with("there is no /␛[2J;"));
    }
}
