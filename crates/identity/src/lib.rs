//! Who is who between hosts: keys, certificates, whom to trust, and TLS that is bound to them.
//!
//! ```text
//!  folder: key, certificate, authority, revoked, peers ─► Trust ─┬─► who calls, who answers
//!  Authority: issue, revoke ─► folders of others                 └─► TLS settings, signatures
//! ```
//!
//! An [`IdentityFolder`] holds one identity and those it trusts: by an authority that certifies
//! names, or by pairing, one key at a time. [`Trust`] follows the folder as its files change. It
//! does **not** open sockets, know guests, or decide what anybody may do.
#![forbid(unsafe_code)]

mod authority;
mod certificate;
mod error;
mod fingerprint;
mod folder;
mod os;
mod paired;
mod rules;
mod tls;
mod trust;

pub use authority::{Authority, Wanted};
pub use certificate::Certificate;
pub use error::IdentityError;
pub use fingerprint::{BadFingerprint, Fingerprint};
pub use folder::IdentityFolder;
pub use os::{Exposure, sync_name, writable_by_others, write_secret};
pub use paired::{Paired, PairedFile, is_name};
pub use rules::{Rules, Signed, Who};
pub use rustls;
pub use tls::{
    Doubt, client_config, explain, explain_end, explain_text, observing_config, server_config,
};
pub use trust::Trust;
