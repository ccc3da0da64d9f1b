//! Runs worlds from the command line, prints what breaks a law, and makes it small.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::process::ExitCode;

use whimbrel_sim::{Broken, Case, Sights};

const HELP: &str = "\
Runs the protocol's machines in simulated worlds, each made from a seed.

  sim [--seeds A..B]      worlds of these seeds; 0..1000 if none are named
  sim --long              the seeds 0..200000
  sim --seed N            one world
        --broken NAME     with this law broken
        --trace           prints everything that happens
        --shrink          makes the world smaller for as long as it breaks the same law
  sim --museum            breaks each law in turn: how many seeds it takes to be found out

It ends with status 1 if a law was broken that was not to be broken, with 2 if it was not
understood.
";

/// What was asked for.
#[derive(Debug, Default)]
struct Asked {
    seeds: Option<Range<u64>>,
    broken: Option<Broken>,
    trace: bool,
    shrink: bool,
    museum: bool,
    help: bool,
}

fn main() -> ExitCode {
    let mut out = io::stdout().lock();
    let done = match parse(std::env::args().skip(1)) {
        Ok(asked) => run(&asked, &mut out),
        Err(why) => writeln!(out, "{why}\n\n{HELP}").map(|()| ExitCode::from(2)),
    };
    done.unwrap_or(ExitCode::from(2))
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--seed" => {
                let seed = number(&value()?)?;
                asked.seeds = Some(seed..seed + 1);
            }
            "--seeds" => asked.seeds = Some(range(&value()?)?),
            "--long" => asked.seeds = Some(0..200_000),
            "--broken" => {
                let name = value()?;
                let known = || format!("{name} is none of {:?}", Broken::ALL);
                asked.broken = Some(Broken::named(&name).ok_or_else(known)?);
            }
            "--trace" => asked.trace = true,
            "--shrink" => asked.shrink = true,
            "--museum" => asked.museum = true,
            "--help" => asked.help = true,
            _ => return Err(format!("{word:?} is not understood")),
        }
    }
    Ok(asked)
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or(format!("{text:?} is not like 0..1000"))?;
    Ok(number(first)?..number(end)?)
}

fn run(asked: &Asked, out: &mut impl Write) -> io::Result<ExitCode> {
    if asked.help {
        return out.write_all(HELP.as_bytes()).map(|()| ExitCode::SUCCESS);
    }
    if asked.museum {
        return museum(out);
    }
    let seeds = asked.seeds.clone().unwrap_or(0..1000);
    if seeds.end - seeds.start == 1 {
        return one(asked, seeds.start, out);
    }
    many(asked, seeds, out)
}

/// One world, looked at closely.
fn one(asked: &Asked, seed: u64, out: &mut impl Write) -> io::Result<ExitCode> {
    let mut case = Case::new(seed, asked.broken);
    if asked.shrink {
        match case.shrink() {
            Some(shrunk) => {
                let runs = shrunk.runs;
                writeln!(out, "{:?} became {:?}, {runs} worlds", case.size(), shrunk.case.size())?;
                case = shrunk.case;
            }
            None => writeln!(out, "no law is broken: there is nothing to shrink")?,
        }
    }
    write!(out, "{case}")?;
    let mut world = case.world();
    if asked.trace || asked.shrink {
        world.keep_trace();
    }
    let ended = world.run();
    for line in world.trace() {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "steps: {}, sights: {:?}", world.counts().0, world.sights())?;
    Ok(match ended {
        Ok(ending) => {
            writeln!(out, "seed {seed}: {ending:?}")?;
            ExitCode::SUCCESS
        }
        Err(breach) => {
            writeln!(out, "seed {seed}: BROKEN: {breach}")?;
            ExitCode::FAILURE
        }
    })
}

/// Many worlds, counted.
fn many(asked: &Asked, seeds: Range<u64>, out: &mut impl Write) -> io::Result<ExitCode> {
    let (mut endings, mut sights) = (BTreeMap::new(), Sights::new());
    let (mut steps, mut broken) = (0, 0_u64);
    for seed in seeds.clone() {
        let mut world = Case::new(seed, asked.broken).world();
        match world.run() {
            Ok(ending) => *endings.entry(ending).or_insert(0_u64) += 1,
            Err(breach) => {
                broken += 1;
                writeln!(out, "seed {seed}: {breach}")?;
                writeln!(
                    out,
                    "  see it small: cargo run -p whimbrel-sim -- --seed {seed} --shrink"
                )?;
            }
        }
        steps += world.counts().0;
        for (sight, count) in world.sights() {
            *sights.entry(*sight).or_insert(0) += count;
        }
    }
    writeln!(out, "seeds {seeds:?}: {steps} steps, {broken} broken, {endings:?}")?;
    writeln!(out, "{sights:?}")?;
    Ok(if broken > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Each broken law, and how soon it is found out.
fn museum(out: &mut impl Write) -> io::Result<ExitCode> {
    let mut missed = false;
    for broken in Broken::ALL {
        let tries = 0..10_000;
        let found = tries
            .into_iter()
            .find_map(|seed| Some((seed + 1, Case::new(seed, Some(*broken)).run().err()?)));
        match found {
            Some((seeds, breach)) => writeln!(out, "{broken}: {seeds} seeds: {breach}")?,
            None => {
                missed = true;
                writeln!(out, "{broken}: NOT FOUND")?;
            }
        }
    }
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
