//! From an accepted connection to its one request.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::gate::Guest;
use super::pending::Place;

/// The longest head of a request: a URL with a room, a token and an `init`, and whatever cookies and headers browsers and
/// proxies add.
const HEAD_MAX_BYTES: usize = 32 * 1024;

/// How long the socket of whoever is turned away stays open to say so.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(100);

/// Said to whom there is no place for, or who has to give it up.
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nconnection: close\r\n\
retry-after: 5\r\ncontent-length: 49\r\n\r\ntoo many connections are waiting; try again soon\n";

/// Said to who asks for nothing.
const LATE: &str = "HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\nconnection: close\r\n\
content-length: 30\r\n\r\nthe request took far too long\n";

/// What answers the request of one guest.
pub(super) struct Front {
    router: TowerToHyperService<axum::Router>,
    guest: Guest,
    is_asked: AtomicBool,
}

impl Front {
    pub(super) fn new(router: axum::Router, guest: Guest) -> Self {
        Self { router: TowerToHyperService::new(router), guest, is_asked: AtomicBool::new(false) }
    }
}

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = axum::response::Response;
    type Error = Infallible;
    type Future = <TowerToHyperService<axum::Router> as hyper::service::Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.is_asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(self.guest.clone());
        self.router.call(request)
    }
}

/// Serves a connection until it has its answer. It may take `patience` for the TLS handshake, and again for the rest.
pub(super) async fn serve(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    front: Front,
    patience: Duration,
    mut place: Place,
) {
    if let Err(error) = stream.set_nodelay(true) {
        return tracing::debug!(%error, "a connection was gone at once");
    }
    let Some(tls) = tls else { return serve_http(stream, front, patience, place).await };
    let accepted = tokio::select! {
        accepted = timeout(patience, tls.accept(stream)) => accepted,
        () = place.turned_away() => return tracing::debug!("turned away before the TLS handshake"),
    };
    match accepted {
        Ok(Ok(stream)) => serve_http(stream, front, patience, place).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// An upgrade, or one probe. The place is free again as soon as the connection is a WebSocket.
async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    front: Front,
    patience: Duration,
    mut place: Place,
) {
    let mut http = http1::Builder::new();
    // The clock is ours: it covers the answer, too.
    http.max_buf_size(HEAD_MAX_BYTES).header_read_timeout(None);
    let mut connection = http.serve_connection(TokioIo::new(stream), front).with_upgrades();
    let refusal = tokio::select! {
        served = &mut connection => {
            if let Err(error) = served {
                tracing::debug!(%error, "a request failed");
            }
            return;
        }
        () = sleep(patience) => LATE,
        () = place.turned_away() => BUSY,
    };
    tracing::debug!("a connection that asked for nothing is closed");
    if let Some(http1::Parts { io, service, .. }) = connection.into_parts()
        && !service.is_asked.load(Ordering::Relaxed)
    {
        say(io.into_inner(), refusal).await;
    }
}

/// To a client that was told nothing yet, so that there is room for it in the socket's buffer.
async fn say(mut stream: impl AsyncWrite + Unpin, refusal: &str) {
    let said = async {
        stream.write_all(refusal.as_bytes()).await?;
        stream.shutdown().await
    };
    // Whoever does not hear it sees the connection close.
    let _ = timeout(REFUSAL_TIMEOUT, said).await;
}

/// Says that there is no place. Over TLS nothing can be said before the handshake, which is what there is no place for.
pub(super) fn refuse(stream: TcpStream, over_tls: bool) {
    use std::io::Write as _;
    tracing::debug!("refused one of too many connections from one address");
    // Not through the runtime, which does not know yet that the socket is writable.
    if let (false, Ok(mut stream)) = (over_tls, stream.into_std()) {
        // Whoever does not hear it sees the connection close.
        let _ = stream.write(BUSY.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_as_long_as_they_say() {
        for refusal in [BUSY, LATE] {
            let (head, body) = refusal.split_once("\r\n\r\n").expect("a head and a body");
            let len_bytes = head.split_once("content-length: ").expect("a length").1;
            let len_bytes = len_bytes.split("\r\n").next().expect("a first part");
            assert_eq!(len_bytes.parse(), Ok(body.len()), "{refusal}");
        }
    }
}
