//! `pair`: two keys are compared by a person, as with SSH.

use std::io::{self, BufRead, IsTerminal};

use whimbrel_control::identity::{Fingerprint, Paired, PairedFile, is_name};
use whimbrel_control::{AgentAddress, observe};

use crate::args::trust::{PairArgs, UnpairArgs};
use crate::exit::{Ending, Exit, Stop};
use crate::out;

/// Adds the key of another identity to those that are trusted.
pub(crate) async fn pair(args: PairArgs) -> Ending {
    let folder = args.whose.folder()?;
    folder.ensure()?;
    let name = name(&args)?;
    let fingerprint = match &args.address {
        Some(address) => compared(address, args.fingerprint).await?,
        None => args.fingerprint.ok_or_else(|| Stop::usage("--fingerprint is missing"))?,
    };
    let hosts = args.address.iter().map(|address| address.host().to_owned()).collect();
    let new = Paired { fingerprint, name: name.clone(), hosts };
    PairedFile::read(&folder)?.add(new)?;
    let own = folder.own()?.fingerprint;
    out::line(format!("{name} is trusted by its key {fingerprint}"));
    out::line(format!("for it to trust this one: whimbrel pair … --fingerprint {own}"));
    out::line(format!("what it may do here stands in the policy, as send = [\"{name}\"]"));
    Ok(Exit::Done)
}

fn name(args: &PairArgs) -> Result<String, Stop> {
    let host = args.address.as_ref().map(|address| address.host().to_owned());
    let name = args.name.clone().or(host).unwrap_or_default();
    match is_name(&name) {
        true => Ok(name),
        false => Err(Stop::usage(format!("`{name}` is no name to pair with: give --name"))),
    }
}

/// The key that answers, if it is the right one by what was given or by a person's word.
async fn compared(address: &AgentAddress, given: Option<Fingerprint>) -> Result<Fingerprint, Stop> {
    let seen = observe(address).await?;
    match given {
        Some(given) if given == seen => Ok(seen),
        Some(given) => Err(Stop::new(
            Exit::Refused,
            format!(
                "{address} shows the key {seen}, not {given}: it is another host, or somebody \
                 stands in between"
            ),
        )),
        None if !io::stdin().is_terminal() => Err(Stop::usage(
            "nobody is there to compare the keys: give --fingerprint, as `whimbrel identity` \
             prints it on that host",
        )),
        None => {
            let yes = asked(address, seen, &mut io::stdin().lock());
            let no = || Stop::new(Exit::Refused, "the keys were not compared; nothing is paired");
            yes.then_some(seen).ok_or_else(no)
        }
    }
}

/// Whether a person says that it is the right key.
fn asked(address: &AgentAddress, seen: Fingerprint, answer: &mut impl BufRead) -> bool {
    eprintln!("{address} shows the key\n\n  {seen}\n");
    eprint!("Does `whimbrel identity --identity DATA/identity` print the same there? (yes/no) ");
    let mut line = String::new();
    answer.read_line(&mut line).is_ok() && line.trim().eq_ignore_ascii_case("yes")
}

/// Forgets a key.
pub(crate) fn unpair(args: UnpairArgs) -> Ending {
    let folder = args.whose.folder()?;
    match PairedFile::read(&folder)?.remove(&args.which)? {
        true => out::line(format!("{} is not trusted any more", args.which)),
        false => {
            let which = args.which;
            return Err(Stop::new(Exit::Refused, format!("nobody is paired as `{which}`")));
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        let address = "host-b".parse().expect("an address");
        let says = |line: &str| asked(&address, Fingerprint::of(b"b"), &mut line.as_bytes());
        assert!(says("yes\n") && says(" YES "));
        for other in ["", "\n", "y\n", "no\n", "yes please\n"] {
            assert!(!says(other), "{other}");
        }
    }
}
