//! Looks over a frame before prost does: its size, its one message, the number of fields.
//!
//! A repeated field of two bytes becomes a struct of fifty; this is what bounds that.

use alloc::format;

use super::DecodeError;
use crate::limits::{CONTROL_FIELDS_MAX, CONTROL_FRAME_MAX};

/// Top-level fields from this number on are additions that a reader may not know.
const FIRST_ADDITION: u32 = 100;

/// The field number of the frame's message (wire.md C4, C5).
pub(super) fn scan(body: &[u8]) -> Result<u32, DecodeError> {
    if body.len() > CONTROL_FRAME_MAX {
        return Err(oversized("bytes", body.len(), CONTROL_FRAME_MAX));
    }
    let mut kind = 0;
    let (mut rest, mut fields) = (body, 0);
    while !rest.is_empty() {
        let (tag, content) = field(&mut rest)?;
        count(&mut fields)?;
        if tag >= FIRST_ADDITION {
            continue;
        }
        if kind != 0 {
            return Err(malformed(format!("it holds the messages {kind} and {tag}")));
        }
        kind = tag;
        let Some(mut content) = content else {
            return Err(malformed(format!("message {tag} is a plain number")));
        };
        while !content.is_empty() {
            field(&mut content)?;
            count(&mut fields)?;
        }
    }
    if kind == 0 { Err(DecodeError::Unknown(0)) } else { Ok(kind) }
}

fn count(fields: &mut usize) -> Result<(), DecodeError> {
    *fields += 1;
    if *fields > CONTROL_FIELDS_MAX {
        Err(oversized("fields", *fields, CONTROL_FIELDS_MAX))
    } else {
        Ok(())
    }
}

/// Takes one field off `rest`: its number, and its bytes if it has a length.
fn field<'a>(rest: &mut &'a [u8]) -> Result<(u32, Option<&'a [u8]>), DecodeError> {
    let key = varint(rest)?;
    let tag = u32::try_from(key >> 3).map_err(|_| malformed(format!("field key {key}")))?;
    let content = match key & 7 {
        0 => varint(rest).map(|_| None),
        1 => take(rest, 8).map(|_| None),
        2 => varint(rest).and_then(|len| take(rest, len)).map(Some),
        5 => take(rest, 4).map(|_| None),
        other => Err(malformed(format!("field {tag} has the wire type {other}"))),
    };
    content.map(|content| (tag, content))
}

fn varint(rest: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first().ok_or(DecodeError::Truncated)?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(malformed("a number has more than ten bytes".into()))
}

fn take<'a>(rest: &mut &'a [u8], len: u64) -> Result<&'a [u8], DecodeError> {
    let len = usize::try_from(len).map_err(|_| DecodeError::Truncated)?;
    let (head, tail) = rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
    *rest = tail;
    Ok(head)
}

const fn oversized(what: &'static str, found: usize, most: usize) -> DecodeError {
    DecodeError::Oversized { what, found, most }
}

const fn malformed(why: alloc::string::String) -> DecodeError {
    DecodeError::Malformed(why)
}
