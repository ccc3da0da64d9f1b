//! How a page travels.

/// What one batch says about the pages of a run. Every page that is taken from the ledger gets
/// exactly one disposition; `unchanged` ones are not on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Every byte is 0 and the destination holds something else: no payload.
    Zero,
    /// The 4096 bytes themselves.
    Raw,
    /// The destination is known to hold this very content: not sent.
    Unchanged,
}
