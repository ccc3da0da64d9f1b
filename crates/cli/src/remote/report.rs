//! `report`: what a migration came to, as a file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use whimbrel_agent::{instant, report_html};
use whimbrel_control::{Client, api};

use crate::args::ReportArgs;
use crate::exit::{Ending, Exit, Stop};
use crate::view::paint::{Line, Tone};
use crate::view::screen::say_all;
use crate::view::units;

/// Writes the report of a migration, or lists the migrations that there are.
pub(crate) async fn report(args: ReportArgs) -> Ending {
    let mut client = args.target.connect().await?;
    let Some(migration) = args.migration else { return list(&mut client).await };
    let status = client.get_migration(api::GetMigrationRequest { migration }).await?;
    if status.outcome() == api::Outcome::Unspecified {
        let why = format!("the migration of {} has not ended yet", status.guest_name);
        return Err(Stop::new(Exit::Refused, why + ": `whimbrel watch` follows it"));
    }
    let page = report_html(&status, &args.target.agent.to_string());
    let path = args.output.unwrap_or_else(|| default_path(&status.migration_id));
    if path == Path::new("-") {
        crate::out::line(page.trim_end());
        return Ok(Exit::Done);
    }
    let written = std::fs::write(&path, page);
    written.map_err(|why| Stop::failed(format!("{} cannot be written: {why}", path.display())))?;
    crate::out::line(path.display());
    Ok(Exit::Done)
}

/// An agent that is not to be trusted with names of files gives an id that is no uuid.
fn default_path(id: &str) -> PathBuf {
    let plain: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    format!("whimbrel-{plain}.html").into()
}

async fn list(client: &mut Client) -> Ending {
    let ended = client.list_migrations(api::ListMigrationsRequest::default()).await?.migrations;
    if ended.is_empty() {
        say_all(&[Line::plain(format!("no migrations have ended at {}", client.address()))]);
    } else {
        say_all(&table(&ended));
    }
    Ok(Exit::Done)
}

fn table(ended: &[api::MigrationStatus]) -> Vec<Line> {
    let widest = ended.iter().map(|ended| ended.guest_name.chars().count()).max().unwrap_or(0);
    let guest = 71;
    let outcome = guest + widest.max(5) + 2;
    let columns = [38, 59, guest, outcome, outcome + 11];
    let row = |cells: [&str; 6], tone| {
        let [id, rest @ ..] = cells;
        let cells = rest.into_iter().zip(columns).enumerate();
        cells.fold(Line::plain(id), |line, (at, (cell, column))| {
            line.to(column).put(if at == 3 { tone } else { Tone::Plain }, cell)
        })
    };
    let head = ["MIGRATION", "BEGAN (UTC)", "TOOK", "GUEST", "OUTCOME", "PEER AND DOWNTIME"];
    let mut lines = vec![row(head, Tone::Plain)];
    for ended in ended {
        let (word, tone) = match ended.outcome() {
            api::Outcome::Completed => ("completed", Tone::Good),
            api::Outcome::Aborted => ("aborted", Tone::Warn),
            api::Outcome::InDoubt => ("in doubt", Tone::Bad),
            api::Outcome::Unspecified => ("unknown", Tone::Warn),
        };
        let (began, took) = when(ended);
        let id = &ended.migration_id;
        lines.push(row([id, &began, &took, &ended.guest_name, word, &peer(ended)], tone));
    }
    lines
}

/// When a migration began, and how long it took; nothing of what is not known.
fn when(ended: &api::MigrationStatus) -> (String, String) {
    let report_ms = ended.report.as_ref().map(|report| report.total_ms);
    let took_ms = report_ms.unwrap_or(ended.elapsed_us / 1000);
    let began = match ended.ended_at_ms.saturating_sub(took_ms) {
        0 => String::new(),
        ms => instant(ms).trim_end_matches(" UTC").to_owned(),
    };
    let took = match took_ms {
        0 => String::new(),
        ms => units::time(Duration::from_millis(ms)),
    };
    (began, took)
}

fn peer(ended: &api::MigrationStatus) -> String {
    let way = match ended.direction() {
        api::Direction::In => "from",
        api::Direction::Out | api::Direction::Unspecified => "to",
    };
    let downtime = ended.report.as_ref().map_or(0, |report| report.downtime_us);
    match downtime {
        0 => format!("{way} {}", ended.peer),
        us => format!("{way} {}, {}", ended.peer, units::time(Duration::from_micros(us))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_that_ended_are_a_table() {
        let one = api::MigrationStatus {
            migration_id: "0c5e9e4c-58ee-4c0b-9f1a-6a5d1f2b7c11".into(),
            guest_name: "web".into(),
            peer: "b:7117".into(),
            outcome: api::Outcome::Completed.into(),
            ended_at_ms: 1_795_712_709_000,
            report: Some(api::MigrationReport {
                downtime_us: 4_000,
                total_ms: 2_500,
                ..Default::default()
            }),
            ..Default::default()
        };
        let failed = api::MigrationStatus {
            outcome: api::Outcome::Aborted.into(),
            direction: api::Direction::In.into(),
            report: None,
            ended_at_ms: 0,
            ..one.clone()
        };
        let text: String = table(&[one, failed]).iter().map(|l| l.render(false) + "\n").collect();
        let expected = "\
MIGRATION                             BEGAN (UTC)          TOOK        \
GUEST  OUTCOME    PEER AND DOWNTIME
0c5e9e4c-58ee-4c0b-9f1a-6a5d1f2b7c11  2026-11-26 17:05:06  2.5 s       \
web    completed  to b:7117, 4 ms
0c5e9e4c-58ee-4c0b-9f1a-6a5d1f2b7c11                                   \
web    aborted    from b:7117
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_name_of_the_file_is_a_name() {
        assert_eq!(default_path("../x/1-a"), Path::new("whimbrel-x1-a.html"));
    }
}
