//! The process of one guest: it holds the memory, the vCPU threads and the engine.
//!
//! ```text
//!  agent ──start, process file──► main ──► serve ──► Worker: Empty ─► Here ⇄ Moving ─► Gone
//!                                                          └─► Arriving ─► Here    └─► InDoubt
//! ```
//!
//! It outlives its agent, and it decides nothing about ownership that the engine or the record
//! does not say. It does not find other guests, admit anything, or talk to people.

mod arguments;
mod expected;
mod log;
mod map;
mod moving;
mod peer;
mod port;
mod service;
mod traffic;
mod worker;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::folder::GuestFolder;
use crate::os::ProcessIdentity;
use crate::process_api::ProcessFile;
use crate::process_api::process_server::ProcessServer;
use arguments::Arguments;
pub(crate) use service::TOKEN_KEY;
use service::{ProcessService, Token};
use worker::Worker;

/// What the command line calls this.
pub const COMMAND: &str = "guest-process";

/// What a guest process says on its standard output once it can be found; everything else that it
/// says there in its place is why it cannot.
pub(crate) const READY: &str = "ready";

/// How long a process waits to be told what it is for.
const TOLD_WITHIN: Duration = Duration::from_secs(30);
/// How long a process whose guest has gone keeps its account for an agent that is away.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// How long calls may take to end when the process does.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);
/// Threads for calls and for the engine's control connection; lanes and vCPUs have their own.
const CALL_THREADS: usize = 2;
/// Bytes of one relay that the guest has not heard yet,
const RELAY_WINDOW: u32 = 1 << 20;
/// and of everybody who comes through one agent: relays that have to wait keep no call waiting.
const LINK_WINDOW: u32 = 64 << 20;

/// The whole of a guest process. `arguments` are those after [`COMMAND`].
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let ended = Arguments::parse(arguments).and_then(|arguments| run(&arguments));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // Whoever started the process reads this, or has gone.
            let _ = writeln!(io::stdout(), "{why}");
            tracing::error!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let folder = GuestFolder::at(arguments.folder.clone());
    log::start(&folder.log(), arguments.log)
        .map_err(|error| format!("no log can be written: {error}"))?;
    if arguments.die_with_parent {
        die_at_end_of_input().map_err(|error| format!("no thread can be started: {error}"))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CALL_THREADS)
        .enable_all()
        .build()
        .map_err(|error| format!("no threads can be started: {error}"))?;
    let ended = runtime.block_on(serve(folder)).map_err(|error| error.to_string());
    // A guest that is still here ends with its process, whatever it is doing.
    runtime.shutdown_background();
    ended
}

/// However the parent dies, the other end of our standard input is closed.
fn die_at_end_of_input() -> io::Result<()> {
    let wait = || {
        let mut input = io::stdin().lock();
        let mut byte = [0];
        while !matches!(input.read(&mut byte), Ok(0) | Err(_)) {}
        tracing::info!("the parent has gone");
        std::process::exit(0);
    };
    std::thread::Builder::new().name("lifeline".to_owned()).spawn(wait).map(drop)
}

async fn serve(folder: GuestFolder) -> io::Result<()> {
    let config = folder.read_config()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let token = Token::random()?;
    let own = ProcessIdentity::own()?;
    folder.write_process(&ProcessFile {
        pid: own.pid,
        started: own.started,
        boot_id: own.boot.0.to_vec(),
        port: listener.local_addr()?.port().into(),
        token: token.shown(),
    })?;
    tracing::info!(guest = %config.uuid, name = %config.name, pid = own.pid, "guest process");
    let worker = Arc::new(Worker::new(folder, config)?);
    worker.expect_work();
    let service = ProcessService::new(Arc::clone(&worker));
    let service = ProcessServer::with_interceptor(service, token);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let end = Arc::clone(&worker);
    let server = Server::builder()
        .initial_stream_window_size(RELAY_WINDOW)
        .initial_connection_window_size(LINK_WINDOW)
        .serve_with_incoming_shutdown(service, incoming, async move { end.ended().await });
    io::stdout().write_all(format!("{READY}\n").as_bytes())?;
    tokio::select! {
        served = server => served.map_err(io::Error::other)?,
        () = close_late(&worker) => {}
    }
    tracing::info!("the guest process ends");
    Ok(())
}

/// A client that holds its connection open does not hold up the end.
async fn close_late(worker: &Worker) {
    worker.ended().await;
    tokio::time::sleep(CLOSED_WITHIN).await;
}
