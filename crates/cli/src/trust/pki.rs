//! `pki`: a private authority.

use std::time::Duration;

use whimbrel_control::identity::{Authority, IdentityFolder, Wanted};

use crate::args::trust::{InitArgs, IssueArgs, Pki, RevokeArgs};
use crate::exit::{Ending, Exit};
use crate::out;
use crate::view::units;

/// Works on the files of an authority.
pub(crate) fn pki(command: Pki) -> Ending {
    match command {
        Pki::Init(args) => init(args),
        Pki::Issue(args) => issue(args),
        Pki::Revoke(args) => revoke(args),
    }
}

fn init(args: InitArgs) -> Ending {
    Authority::at(&args.authority).init(&args.name, days(args.days))?;
    let path = args.authority.display();
    out::line(format!("the authority {} is in {path}: keep its key to yourself", args.name));
    Ok(Exit::Done)
}

fn issue(args: IssueArgs) -> Ending {
    let wanted = Wanted { name: &args.name, hosts: &args.hosts, lifetime: days(args.days) };
    let made = Authority::at(&args.authority).issue(&wanted, &IdentityFolder::at(&args.out))?;
    let (path, print) = (args.out.display(), made.fingerprint);
    out::line(format!("{} is certified for {} days: {print}", args.name, args.days));
    // An agent answers somewhere, a person does not.
    out::line(match args.hosts.is_empty() {
        true => format!(
            "for a person: bring {path} to their desk, as ~/.config/whimbrel/identity or where \
             --identity (WHIMBREL_IDENTITY) says, and remove it here; an agent needs --host"
        ),
        false => {
            format!("bring {path} to its host, as DATA/identity of its agent, and remove it here")
        }
    });
    Ok(Exit::Done)
}

fn revoke(args: RevokeArgs) -> Ending {
    let count = Authority::at(&args.authority).revoke(&args.which)?;
    let list = args.authority.join("revoked.pem");
    let taken = units::counted(count as u64, "certificate");
    out::line(format!("taken back of {}: {taken}", args.which));
    out::line(format!("bring {} to DATA/identity of every agent", list.display()));
    Ok(Exit::Done)
}

fn days(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 86_400)
}
