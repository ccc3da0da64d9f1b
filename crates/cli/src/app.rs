//! From the words of the command line to the exit status.

use std::cell::Cell;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use whimbrel_agent::guest_process;

use crate::agent::{agent, interrupted};
use crate::args::{Cli, Command};
use crate::doctor::doctor;
use crate::exit::{Ending, Exit, Stop};
use crate::view::state::Account;
use crate::{bench, demo, json, out, remote, trust};

/// Carries out a command line.
pub(crate) fn main(words: Vec<OsString>) -> ExitCode {
    // A command line that cannot be read may still say that a program reads the answer.
    let json = words.iter().any(|word| word == "--json");
    let ended = match Cli::try_parse_from(words) {
        Ok(Cli { command: Command::GuestProcess { args } }) => return guest_process::main(args),
        Ok(cli) => carry_out(cli.command),
        Err(error) => return misread(&error, json),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(stop) => {
            complain(&stop, json);
            stop.exit.into()
        }
    }
}

fn carry_out(command: Command) -> Ending {
    match command {
        Command::Run(args) => asked("; a guest that was started goes on", remote::run(args)),
        Command::List(args) => asked("", remote::list(args)),
        Command::Status(args) => asked("", remote::status(args)),
        Command::Watch(args) => {
            let goes_on = Cell::new("");
            until_interrupted(&goes_on, remote::watch(args, &goes_on))
        }
        Command::Migrate(args) => asked(MIGRATION_GOES_ON, remote::migrate(args)),
        Command::Report(args) => asked("", remote::report(args)),
        Command::Cancel(args) => asked("", remote::cancel(args)),
        Command::Limit(args) => asked("", remote::limit(args)),
        Command::Resolve(args) => asked("", remote::resolve(args)),
        Command::Release(args) => asked("", remote::release(args)),
        Command::Dump(args) => asked("; nothing is written", remote::dump(args)),
        Command::Stop(args) => asked("", remote::stop(args)),
        Command::Probe(args) => asked("", remote::probe(args)),
        Command::Identity(args) => trust::identity(args),
        Command::Pair(args) => asked("; nothing is paired", trust::pair(args)),
        Command::Unpair(args) => trust::unpair(args),
        Command::Pki(command) => trust::pki(command),
        Command::Ticket(args) => trust::ticket(args),
        Command::Demo(args) => run(demo::demo(args)),
        Command::Agent(args) => run(agent(args)),
        Command::Bench(args) => run(bench::bench(args)),
        Command::Doctor(args) => asked("", doctor(args)),
        Command::GuestProcess { .. } => Err(Stop::usage("an agent starts guest processes")),
    }
}

/// What somebody is told who does not wait any longer for a migration to begin.
pub(crate) const NOTHING_MOVES: &str = "; no migration had begun";

/// What somebody is told who stops following a migration.
pub(crate) const MIGRATION_GOES_ON: &str =
    "; a migration that has begun goes on: `whimbrel watch` follows it, `whimbrel cancel` ends it";

/// What somebody is told who stops watching a host.
pub(crate) const ALL_GO_ON: &str = "; migrations go on";

/// Runs a command that leaves nothing behind but `what_goes_on`, until it is done or interrupted.
fn asked(what_goes_on: &'static str, command: impl Future<Output = Ending>) -> Ending {
    until_interrupted(&Cell::new(what_goes_on), command)
}

/// The same of a command that changes `what_goes_on` as it does its work.
fn until_interrupted(
    what_goes_on: &Cell<&'static str>,
    command: impl Future<Output = Ending>,
) -> Ending {
    run(async {
        tokio::select! {
            ended = command => ended,
            () = interrupted() => Err(Stop::interrupted(what_goes_on.get())),
        }
    })
}

/// Runs a command that looks after its own end.
fn run(command: impl Future<Output = Ending>) -> Ending {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|why| Stop::failed(format!("no runtime: {why}")))?;
    runtime.block_on(command)
}

/// Help and version are no errors; everything else is one of usage.
fn misread(error: &clap::Error, json: bool) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return Exit::Done.into();
    }
    if json {
        out::line(json::object(&Account::failed(first_line(&error.to_string()))));
    }
    Exit::Usage.into()
}

/// The sentence itself: a log or a hint may follow it on standard error.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").trim_end_matches(':').to_owned()
}

fn complain(stop: &Stop, json: bool) {
    out::complain(stop);
    if json {
        out::line(json::object(&Account::failed(first_line(&stop.why))));
    }
}
