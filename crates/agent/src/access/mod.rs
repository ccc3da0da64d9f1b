//! Who may do what here.
//!
//! ```text
//!  connect ─► entrance: TLS, limits ─► Caller ─► Gate: the method's right ─► method: its part
//!                                        └─► Trust: who it is   └─► policy      └─► ticket
//! ```

mod caller;
mod entrance;
mod gate;
mod guard;
mod metered;
mod parties;
mod policy;
mod rooms;
mod spent;
mod warrant;

pub(crate) use caller::{Authenticated, Caller};
pub(crate) use entrance::entrance;
pub(crate) use gate::Gate;
pub(crate) use guard::Guard;
pub(crate) use policy::Action;
pub use policy::{PolicyError, named_in_policy};
pub(crate) use warrant::{Warrant, within_a_ticket};
