//! Identities of the tests: one authority certifies every agent that listens beyond this host, and
//! the person at the desk.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use whimbrel_control::Access;
use whimbrel_control::identity::{Authority, IdentityFolder, Trust, Wanted, server_config};

/// What certificates of agents name, and what policies call them.
const AGENT: &str = "agent";
/// The person at the desk.
const DESK: &str = "desk";
const DAY: Duration = Duration::from_secs(86_400);

/// The authority, and the desk.
pub struct Realm {
    folder: PathBuf,
    desk: Arc<Trust>,
}

/// The one of these tests. It is kept beside the programs under test.
pub fn realm() -> &'static Realm {
    static REALM: OnceLock<Realm> = OnceLock::new();
    REALM.get_or_init(Realm::open)
}

impl Realm {
    fn open() -> Self {
        let test = std::env::current_exe().expect("a test is a program");
        let folder = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST").join("realm");
        fs::create_dir_all(&folder).expect("a folder");
        let lock = fs::File::create(folder.join("lock")).expect("a file");
        lock.lock().expect("other tests let go of it");
        let authority = Authority::at(folder.join("pki"));
        let desk = IdentityFolder::at(folder.join("home/whimbrel/identity"));
        if !desk.certificate().exists() {
            // What another test has left half done.
            let _ = fs::remove_dir_all(folder.join("pki"));
            let _ = fs::remove_dir_all(folder.join("home"));
            authority.init("tests", DAY * 3650).expect("an authority");
            let wanted = Wanted { name: DESK, hosts: &[], lifetime: DAY * 3650 };
            authority.issue(&wanted, &desk).expect("an identity");
        }
        Self { folder, desk: Trust::open(desk).expect("it was just made") }
    }

    /// Where the desk keeps what is its own.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// How the desk calls agents.
    #[must_use]
    pub fn access(&self) -> Access {
        Access::beyond(Arc::clone(&self.desk))
    }

    /// Makes an agent whose folder this is one of the realm: it answers at these addresses, moves
    /// guests to and from all others, and does what the desk says.
    ///
    /// # Panics
    /// If that cannot be written down.
    pub fn admit(&self, data: &Path, hosts: &[IpAddr]) {
        self.certify(AGENT, &data.join("identity"), hosts);
        let policy = format!("send = ['{AGENT}']\nreceive = ['{AGENT}']\nmanage = ['{DESK}']\n");
        fs::write(data.join("policy.toml"), policy).expect("a file");
    }

    /// An identity of this name in a folder of its own.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn certify(&self, name: &str, folder: &Path, hosts: &[IpAddr]) {
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        let wanted = Wanted { name, hosts: &hosts, lifetime: DAY };
        let authority = Authority::at(self.folder.join("pki"));
        authority.issue(&wanted, &IdentityFolder::at(folder)).expect("an identity");
    }
}

/// Files of an agent that have to do with identities.
pub const FILES: [&str; 8] = [
    "identity",
    "identity/identity.key",
    "identity/identity.pem",
    "identity/authority.pem",
    "identity/revoked.pem",
    "identity/lock",
    "policy.toml",
    "tickets",
];

/// Callers that have proved who they are to this identity, or anybody where there is none.
pub fn callers(listener: TcpListener, own: Option<Arc<Trust>>) -> ReceiverStream<io::Result<Call>> {
    let acceptor = own.map(|own| TlsAcceptor::from(Arc::new(server_config(&own))));
    let (inside, waiting) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, inside) = (acceptor.clone(), inside.clone());
            tokio::spawn(async move {
                let call = match acceptor {
                    None => Call(Box::new(tcp)),
                    Some(acceptor) => match acceptor.accept(tcp).await {
                        Ok(stream) => Call(Box::new(stream)),
                        Err(_) => return,
                    },
                };
                // Nobody serves any more.
                let _ = inside.send(Ok(call)).await;
            });
        }
    });
    ReceiverStream::new(waiting)
}

/// One call.
pub struct Call(Box<dyn Io>);

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl Io for TcpStream {}
impl Io for TlsStream<TcpStream> {}

impl Connected for Call {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Call {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Call {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
