//! A connection that may say only so much before it has proved who it is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP connection, and how many bytes of it are still read; `None`: all.
#[derive(Debug)]
pub(super) struct Metered {
    pub(super) tcp: TcpStream,
    left: Option<usize>,
}

impl Metered {
    pub(super) fn new(tcp: TcpStream, most: usize) -> Self {
        Self { tcp, left: Some(most) }
    }

    /// It has proved who it is.
    pub(super) fn unlimited(&mut self) {
        self.left = None;
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(read).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "it says too much for a handshake")
            })?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn so_much_is_read_and_no_more_until_it_is_known_who_speaks() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let mut metered = Metered::new(tcp, 100);
        caller.write_all(&[7; 101]).await.unwrap();
        metered.read_exact(&mut [0; 100]).await.unwrap();
        let refused = metered.read_u8().await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        metered.unlimited();
        caller.write_all(&[7; 200]).await.unwrap();
        metered.read_exact(&mut [0; 200]).await.unwrap();
    }
}
