//! A client's connection.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_io_timeout::TimeoutStream;

use crate::clients::ClientState;
use crate::response::FOR_ALL;

/// A client may stop reading its answer for this long.
const STALL_LIMIT: Duration = Duration::from_secs(5);

/// Adds what every answer has to those that hyper gives by itself, to requests that it cannot
/// read.
pub(crate) struct Stream {
    tcp: Pin<Box<TimeoutStream<TcpStream>>>,
    state: Rc<ClientState>,
}

impl Stream {
    pub(crate) fn new(tcp: TcpStream, state: Rc<ClientState>) -> Stream {
        let mut tcp = TimeoutStream::new(tcp);
        tcp.set_write_timeout(Some(STALL_LIMIT));
        Stream { tcp: Box::pin(tcp), state }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.tcp.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.state.has_request() {
            return self.tcp.as_mut().poll_write(cx, buf);
        }
        // It is short, and the first that is written: the system has room for all of it.
        ready!(self.tcp.as_mut().poll_write(cx, &with_headers(buf)))?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.as_mut().poll_shutdown(cx)
    }
}

/// The headers come after the first line of the answer.
fn with_headers(answer: &[u8]) -> Vec<u8> {
    let first_line = answer.windows(2).position(|end| end == b"\r\n").map_or(0, |end| end + 2);
    let (first_line, rest) = answer.split_at(first_line);
    let headers: String =
        FOR_ALL.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    [first_line, headers.as_bytes(), rest].concat()
}
