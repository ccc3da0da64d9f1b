//! One control connection: a task that reads it, a task that writes it, messages in between.

use std::time::Duration;

use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use whimbrel_protocol::batch::{CONTROL_MAGIC, MAGIC_SIZE};
use whimbrel_protocol::{CONTROL_FRAME_MAX, Message};
use whimbrel_transport::{
    Caller, ControlReceiver, ControlSender, LaneSecret, Path, Purpose, Stream, connect,
    control_over, greet,
};

use crate::lanes::LaneOptions;

/// Bytes of the first frame of a connection: a `Hello` has about 60.
const HELLO_FRAME_MAX: usize = 1 << 10;

/// How long the peer of an ended migration may take to close its side.
const FAREWELL: Duration = Duration::from_secs(2);

type Sender = ControlSender<WriteHalf<Stream>>;
type Receiver = ControlReceiver<ReadHalf<Stream>>;

/// A control connection on which both sides have said that they are Whimbrel.
pub(crate) struct Connection {
    sender: Sender,
    receiver: Receiver,
    secret: Option<LaneSecret>,
}

impl Connection {
    /// Calls a destination (wire.md C1).
    pub(crate) async fn call(
        path: &Path,
        options: &LaneOptions,
        within: Duration,
    ) -> Result<Self, String> {
        let carrier = (&options.carrier, Purpose::Control);
        let connected = connect(path, &options.tuning, carrier, within).await;
        let mut stream = connected.map_err(|error| error.to_string())?;
        let mut answer = [0; MAGIC_SIZE];
        let greeted = greet(&mut stream, &CONTROL_MAGIC, &mut answer, within).await;
        greeted.map_err(|error| error.to_string())?;
        // wire.md C2: whoever this is, it is not Whimbrel.
        if answer != CONTROL_MAGIC {
            return Err(format!("{} does not speak Whimbrel's control protocol", path.remote));
        }
        Self::over(stream, options)
    }

    /// Answers a source that came through the door.
    pub(crate) async fn answer(mut caller: Caller, options: &LaneOptions) -> Result<Self, String> {
        let answered = caller.answer(&CONTROL_MAGIC, options.open_timeout).await;
        answered.map_err(|error| error.to_string())?;
        let mut connection = Self::over(caller.stream, options)?;
        // Until it has shown a token, nobody makes this side hold more than a greeting.
        connection.receiver.limit(HELLO_FRAME_MAX);
        Ok(connection)
    }

    fn over(stream: Stream, options: &LaneOptions) -> Result<Self, String> {
        let secret = match options.carrier.signs_lanes() {
            true => stream.lane_secret().map_err(|error| error.to_string())?,
            false => None,
        };
        let (sender, receiver) = control_over(stream, CONTROL_FRAME_MAX, options.stall_timeout);
        Ok(Self { sender, receiver, secret })
    }

    /// What lanes in clear are signed with, where they are.
    pub(crate) fn secret(&self) -> Option<LaneSecret> {
        self.secret.clone()
    }

    /// The next message.
    pub(crate) async fn hear(&mut self) -> Result<Message, String> {
        hear(&mut self.receiver).await
    }

    /// Says one thing and hangs up.
    pub(crate) async fn dismiss(mut self, message: &Message) {
        // Whoever is hung up on anyway may miss why.
        if self.sender.send(&message.encode()).await.is_ok() {
            let _ = self.sender.finish().await;
        }
    }
}

async fn hear(receiver: &mut Receiver) -> Result<Message, String> {
    let frame = receiver.receive().await.map_err(|error| error.to_string())?;
    Message::decode(&frame).map_err(|error| error.to_string())
}

/// Control messages that may wait for a peer which does not read. A machine has at most a few
/// under way, so that a full outbox says that the link is as good as lost.
const OUTBOX: usize = 64;

/// The connection with this number; an older one's last words are told apart by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkNumber(pub(crate) u64);

/// What a link tells its driver.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    Said(LinkNumber, Message),
    Lost(LinkNumber, String),
}

/// A control connection in use. Dropping it stops reading at once, and what was sent last may be
/// lost with what was not read; [`Link::close`] sees that it arrives.
#[derive(Debug)]
pub(crate) struct Link {
    number: LinkNumber,
    outbox: Option<mpsc::Sender<Vec<Message>>>,
    reader: JoinHandle<()>,
}

impl Link {
    /// Starts both tasks. Everything the peer says becomes an event.
    pub(crate) fn start<E: From<LinkEvent> + Send + 'static>(
        number: LinkNumber,
        connection: Connection,
        events: mpsc::Sender<E>,
    ) -> Self {
        let Connection { sender, mut receiver, .. } = connection;
        receiver.limit(CONTROL_FRAME_MAX);
        let (outbox, waiting) = mpsc::channel(OUTBOX);
        tokio::spawn(write(number, sender, waiting, events.clone()));
        let reader = tokio::spawn(read(number, receiver, events));
        Self { number, outbox: Some(outbox), reader }
    }

    pub(crate) const fn number(&self) -> LinkNumber {
        self.number
    }

    /// Sends `messages` one after the other, or returns why the link is as good as lost.
    pub(crate) fn send(&self, messages: Vec<Message>) -> Result<(), String> {
        let outbox = self.outbox.as_ref().expect("open until it is closed");
        outbox.try_send(messages).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => "the peer does not read what it is told".into(),
            mpsc::error::TrySendError::Closed(_) => "the connection was closed".into(),
        })
    }
}

impl Link {
    /// Says goodbye: what was sent is written, and then the peer is read to its end, unheard. A
    /// socket that is closed with something unread in it takes back what it sent last. Takes
    /// [`FAREWELL`] at most.
    pub(crate) async fn close(mut self) {
        self.outbox = None;
        let _ = tokio::time::timeout(FAREWELL, &mut self.reader).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn write<E: From<LinkEvent>>(
    number: LinkNumber,
    mut sender: Sender,
    mut outbox: mpsc::Receiver<Vec<Message>>,
    events: mpsc::Sender<E>,
) {
    while let Some(messages) = outbox.recv().await {
        for message in messages {
            if let Err(error) = sender.send(&message.encode()).await {
                let _ = events.send(LinkEvent::Lost(number, error.to_string()).into()).await;
                return;
            }
        }
    }
    // Nobody waits for this: the peer sees the end of the connection either way.
    let _ = sender.finish().await;
}

async fn read<E: From<LinkEvent>>(
    number: LinkNumber,
    mut receiver: Receiver,
    events: mpsc::Sender<E>,
) {
    loop {
        let (event, over) = match hear(&mut receiver).await {
            Ok(message) => (LinkEvent::Said(number, message), false),
            Err(why) => (LinkEvent::Lost(number, why), true),
        };
        // A driver that is busy makes the peer wait, not this queue grow; one that has ended hears
        // nothing any more, and yet the peer is read to its end.
        let _ = events.send(event.into()).await;
        if over {
            return;
        }
    }
}
