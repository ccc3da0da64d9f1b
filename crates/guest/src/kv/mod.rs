//! A key-value store that real Redis clients use, and that moves with all they have said.
//!
//! ```text
//!   relay ──► port ──► doorway ──► executor: Machine ─► Session ─► commands ─► Store
//!                        │                        └───────┬───────────┘
//!                 pause, throttle            Heap ─► Arena ─► guest memory
//! ```
//!
//! Everything the store is lies in guest memory: keys, values, their ends, and of each connection
//! what was received and not carried out, and what was replied and not delivered. It is laid out in
//! little-endian words and offsets, so that it means the same on another host. Beside it there is
//! one thread, the vCPU, which a pause parks between two commands; what it keeps of its own can be
//! made again from memory. So the state that moves beside memory says no more than its version.
//!
//! It does **not** hold sockets: relays do, wherever they are (see [`port`](Outlet)).

mod arena;
mod buffer;
mod chain;
mod check;
mod commands;
mod connections;
mod dict;
mod doorway;
mod glob;
mod guest;
mod head;
mod heap;
mod list;
mod machine;
mod monitor;
mod number;
mod port;
mod reply;
mod request;
mod session;
mod store;
mod turns;

pub use check::KvCheck;
pub use guest::{KIND, KvError, KvFactory, KvGuest, KvMonitorSlot, MEMORY_MIN, STATE_VERSION};
pub use monitor::{KvCheckError, KvMonitor, KvReport};
pub use port::{
    Attach, ConnectionId, FromGuest, KEPT_MIN, Outlet, Overrun, PIECE_MAX, Position, RelayId, Said,
    ToGuest, WINDOW,
};
pub use turns::Turns;
