//! The agent without the command line around it: the daemon and its guest processes, for the tests
//! of this crate. People use `whimbrel agent`.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use whimbrel_agent::{Agent, AgentOptions, PortRange, guest_process};
use whimbrel_engine::page::ByteCount;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|first| first == guest_process::COMMAND).is_some() {
        return guest_process::main(arguments);
    }
    let arguments: Option<Vec<_>> = arguments.map(|argument| argument.into_string().ok()).collect();
    match arguments.ok_or_else(|| "an argument is not UTF-8".into()).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<String>) -> Result<(), Box<dyn Error>> {
    let options = parse(arguments)?;
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .log_internal_errors(false)
        .init();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(
        async {
            let agent = Agent::bind(options).await?;
            writeln!(io::stdout(), "{}", agent.address())?;
            agent.serve(std::future::pending()).await?;
            Ok(())
        },
    )
}

/// `KEY=VALUE` each; the folder and the address are not optional.
fn parse(arguments: Vec<String>) -> Result<AgentOptions, Box<dyn Error>> {
    let mut options = AgentOptions::new("", ([127, 0, 0, 1], 0).into());
    for argument in arguments {
        let (key, value) = argument.split_once('=').ok_or("arguments are KEY=VALUE")?;
        match key {
            "data" => options.data = value.into(),
            "listen" => options.listen = value.parse()?,
            "tls" => options.tls = value.parse()?,
            "die_with_parent" => options.die_with_parent = value.parse()?,
            "port" => options.ports = PortRange { first: value.parse()?, last: value.parse()? },
            "guests" => options.limits.guests = value.parse()?,
            "migrations" => options.limits.migrations = value.parse()?,
            "memory" => options.limits.memory = Some(ByteCount(value.parse()?)),
            "remembered" => options.limits.remembered = value.parse()?,
            _ => {
                let name = key.strip_suffix("_ms").map(|name| name.replace('_', "-"));
                let deadline =
                    name.and_then(|name| options.deadlines.named(&name).map(|it| it as _));
                let deadline: &mut Duration =
                    deadline.ok_or_else(|| format!("no argument is called {key}"))?;
                *deadline = Duration::from_millis(value.parse()?);
            }
        }
    }
    Ok(options)
}
