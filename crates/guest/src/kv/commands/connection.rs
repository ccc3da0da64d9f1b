//! What a client says about itself and its connection.

use super::super::number;
use super::super::reply::Refusal;
use super::{Call, Outcome};

/// The version of Redis whose words are spoken here.
pub(super) const REDIS_VERSION: &str = "7.0.15";

pub(super) fn ping(call: &mut Call<'_>) -> Outcome {
    match &call.arguments[1..] {
        [] => call.reply.simple("PONG"),
        [said] => call.reply.bulk(said),
        _ => return Err(Refusal::wrong_number("ping")),
    }
    Ok(())
}

pub(super) fn echo(call: &mut Call<'_>) -> Outcome {
    call.reply.bulk(call.arguments[1]);
    Ok(())
}

pub(super) fn quit(call: &mut Call<'_>) -> Outcome {
    call.client.leaving = true;
    call.reply.ok();
    Ok(())
}

/// Nobody needs a password here.
pub(super) fn auth(call: &mut Call<'_>) -> Outcome {
    match &call.arguments[1..] {
        [_] => Err(Refusal::err(
            "AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        )),
        [user, _] => {
            known_user(user)?;
            call.reply.ok();
            Ok(())
        }
        _ => Err(Refusal::Syntax),
    }
}

/// A browser that a web page has sent here with commands in the body of its request: nothing that
/// it says is carried out.
pub(super) fn web_page(call: &mut Call<'_>) -> Outcome {
    call.client.leaving = true;
    Ok(())
}

/// There is one user, who gets in with any password.
fn known_user(user: &[u8]) -> Outcome {
    let words = "WRONGPASS invalid username-password pair or user is disabled.";
    if user == b"default" { Ok(()) } else { Err(Refusal::Words(words.to_owned())) }
}

/// There is one database.
pub(super) fn select(call: &mut Call<'_>) -> Outcome {
    let asked = call.integer(1)?;
    if i32::try_from(asked).is_err() {
        let (least, most) = (i32::MIN, i32::MAX);
        let words = format!("value is out of range, value must between {least} and {most}");
        return Err(Refusal::err(&words));
    }
    if asked != 0 {
        return Err(Refusal::err("DB index is out of range"));
    }
    call.reply.ok();
    Ok(())
}

pub(super) fn hello(call: &mut Call<'_>) -> Outcome {
    let mut third = call.client.third;
    if let Some(version) = call.arguments.get(1) {
        third = match number::parse(version) {
            Some(2) => false,
            Some(3) => true,
            Some(_) => return Err(Refusal::Words("NOPROTO unsupported protocol version".into())),
            None => {
                let words = "Protocol version is not an integer or out of range";
                return Err(Refusal::err(words));
            }
        };
    }
    let name = hello_options(call.arguments.get(2..).unwrap_or_default())?;
    if let Some(name) = name {
        call.client.name = name.to_vec();
    }
    call.client.third = third;
    call.reply.third = third;
    call.reply.map(7);
    for (field, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        call.reply.bulk(field.as_bytes());
        call.reply.bulk(value.as_bytes());
    }
    for (field, value) in [("proto", if third { 3 } else { 2 }), ("id", call.client.id)] {
        call.reply.bulk(field.as_bytes());
        call.reply.count(value);
    }
    for (field, value) in [("mode", "standalone"), ("role", "master")] {
        call.reply.bulk(field.as_bytes());
        call.reply.bulk(value.as_bytes());
    }
    call.reply.bulk(b"modules");
    call.reply.array(0);
    Ok(())
}

/// The name that the options of a HELLO give.
fn hello_options<'a>(mut words: &[&'a [u8]]) -> Result<Option<&'a [u8]>, Refusal> {
    let mut named = None;
    loop {
        words = match words {
            [] => return Ok(named),
            [auth, user, _, rest @ ..] if auth.eq_ignore_ascii_case(b"auth") => {
                known_user(user)?;
                rest
            }
            [set, name, rest @ ..] if set.eq_ignore_ascii_case(b"setname") => {
                named = Some(checked_name(name)?);
                rest
            }
            [other, ..] => {
                let other = String::from_utf8_lossy(other);
                return Err(Refusal::err(&format!("Syntax error in HELLO option '{other}'")));
            }
        };
    }
}

pub(super) fn checked_name(name: &[u8]) -> Result<&[u8], Refusal> {
    let words = "Client names cannot contain spaces, newlines or special characters.";
    let plain = name.iter().all(|byte| (b'!'..=b'~').contains(byte));
    if plain { Ok(name) } else { Err(Refusal::err(words)) }
}

pub(super) fn no_subcommand(given: &[u8], command: &str) -> Refusal {
    let given = String::from_utf8_lossy(&given[..given.len().min(128)]);
    Refusal::err(&format!("unknown subcommand '{given}'. Try {command} HELP."))
}
