//! Ctrl-C and its relatives: the first asks to leave in order, the second ends the program.

use std::sync::Arc;

use tokio::sync::Notify;

/// The exit code of a program that an interrupt ended, as shells count it: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;

/// Requests to leave.
#[derive(Debug, Clone)]
pub struct Signals {
    first: Arc<Notify>,
}

impl Signals {
    /// Listens for SIGINT, SIGTERM and SIGHUP from now on. `restore` is called before a second one ends the program.
    pub fn listen(restore: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let first = Arc::new(Notify::new());
        let notify = first.clone();
        let mut arrivals = arrivals()?;
        tokio::spawn(async move {
            arrivals.next().await;
            notify.notify_one();
            arrivals.next().await;
            restore();
            std::process::exit(INTERRUPTED);
        });
        Ok(Self { first })
    }

    /// Never a signal.
    #[cfg(test)]
    pub fn none() -> Self {
        Self { first: Arc::new(Notify::new()) }
    }

    /// Waits for the first.
    pub async fn next(&self) {
        self.first.notified().await;
    }
}

#[cfg(unix)]
struct Arrivals([tokio::signal::unix::Signal; 3]);

#[cfg(unix)]
fn arrivals() -> std::io::Result<Arrivals> {
    use tokio::signal::unix::{SignalKind, signal};
    Ok(Arrivals([
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    ]))
}

#[cfg(unix)]
impl Arrivals {
    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Arrivals;

#[cfg(not(unix))]
fn arrivals() -> std::io::Result<Arrivals> {
    Ok(Arrivals)
}

#[cfg(not(unix))]
impl Arrivals {
    async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
