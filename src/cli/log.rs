//! Logs for developers, on stderr. While a line editor owns the terminal they pass through it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::args::Cli;
use crate::wire::text;

/// Takes whole lines of log, without the line break.
pub type LineSink = Arc<dyn Fn(String) + Send + Sync>;

static SINK: Mutex<Option<LineSink>> = Mutex::new(None);

/// The most that may be logged of a library, whatever is asked for: beyond it they write out secrets.
fn cap(target: &str) -> Level {
    // The upgrade with its `Authorization`, and every message.
    if target.starts_with("tungstenite") || target.starts_with("tokio_tungstenite") {
        return Level::DEBUG;
    }
    // ICE passwords.
    if target.starts_with("rtc") || target.starts_with("webrtc") {
        return Level::INFO;
    }
    Level::TRACE
}

/// Starts logging: `-v` and above, or whatever `SWARM_LOG` filters (`tracing`'s directives).
pub fn init(cli: &Cli) {
    let directives = match cli.verbose {
        0 => cli.command.default_log(),
        1 => "fast_rtc_swarm=info",
        2 => "fast_rtc_swarm=debug",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("SWARM_LOG").unwrap_or_else(|_| EnvFilter::new(directives));
    let capped = filter_fn(|metadata| *metadata.level() <= cap(metadata.target()));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Stderr).with_ansi(false);
    lines.finish().with(capped).init();
}

/// Sends lines of log to `sink` from now on; `None`: to stderr.
pub fn redirect(sink: Option<LineSink>) {
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = sink;
}

struct Stderr;

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter(Vec::new())
    }
}

/// Collects one event, which `tracing` writes in one or more parts and then drops. Fields repeat what others said as it is.
struct LineWriter(Vec<u8>);

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        let line = shown(&self.0);
        let sink = SINK.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match sink {
            Some(sink) => sink(line),
            // A log that can't be written is no reason to stop.
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }
}

fn shown(event: &[u8]) -> String {
    text::line(String::from_utf8_lossy(event).trim_end(), text::LINE_MAX_CHARS).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_that_no_terminal_obeys() {
        let event = b"DEBUG not accepted error=\x1b]52;c;aGk=\x07\r\nada joined \xff\n";
        assert_eq!(
            shown(event),
            "DEBUG not accepted error=\u{241b}]52;c;aGk=\u{2407}\u{240d}\u{240a}ada joined \u{fffd}"
        );
        assert!(shown("long ".repeat(10_000).as_bytes()).chars().count() <= text::LINE_MAX_CHARS);
    }
}
