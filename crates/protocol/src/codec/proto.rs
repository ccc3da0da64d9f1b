//! The structs that prost generates from `session.proto`: unchecked, and seen by the codec only.
#![allow(missing_docs, unreachable_pub, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/whimbrel.session.v1.rs"));
