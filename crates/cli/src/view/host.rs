//! A host with its guests, as the lines of a screen of any size.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use whimbrel_control::api::{self, GuestState, Outcome};

use super::follow::{Follow, Frame};
use super::guests;
use super::moving;
use super::paint::{Line, Tone};
use super::units;
use crate::remote::{Context, look_of};

/// Sentences that are kept.
const EVENTS_MAX: usize = 200;
/// Below so many rows, and with fewer guests than would fill a third of them, there are no events.
const ROWS_FOR_EVENTS: usize = 16;
const EVENTS_SHOWN_MIN: usize = 3;

/// What an agent has said at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) host: api::Host,
    /// Those that have gone are not among them.
    pub(crate) guests: Vec<api::Guest>,
    /// Of the guests that move, and those that have ended since it was last asked.
    pub(crate) migrations: Vec<api::MigrationStatus>,
}

/// One migration that is followed.
#[derive(Debug, Default)]
struct Followed {
    follow: Follow,
    frame: Frame,
    guest: String,
    /// Bytes that were to go by its last line of a log.
    told_pending: Option<u64>,
}

/// What is known of a host.
#[derive(Debug)]
pub(crate) struct HostView {
    address: String,
    seen: Option<Seen>,
    moving: BTreeMap<String, Followed>,
    /// Sentences, oldest first.
    events: VecDeque<String>,
    /// How many events there have been.
    told: usize,
    chosen: usize,
    /// Why the agent is not heard.
    trouble: Option<String>,
}

impl HostView {
    /// Nothing is known yet.
    pub(crate) fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            seen: None,
            moving: BTreeMap::new(),
            events: VecDeque::new(),
            told: 0,
            chosen: 0,
            trouble: None,
        }
    }

    /// Takes what the agent said, or why it is not heard.
    pub(crate) fn take(&mut self, seen: Result<Seen, String>) {
        match seen {
            Ok(seen) => {
                if self.trouble.take().is_some() {
                    self.tell(format!("{} answers again", self.address));
                }
                self.compare(&seen);
                let told = |id: &str| seen.migrations.iter().any(|one| one.migration_id == id);
                self.moving.retain(|id, _| told(id));
                seen.migrations.iter().for_each(|status| self.follow(status));
                self.chosen = self.chosen.min(seen.guests.len().saturating_sub(1));
                self.seen = Some(seen);
            }
            Err(why) => {
                if self.trouble.is_none() {
                    self.tell(why.clone());
                }
                self.trouble = Some(why);
            }
        }
    }

    /// Chooses the guest below or above.
    pub(crate) fn choose(&mut self, below: bool) {
        let last = self.guests().len().saturating_sub(1);
        self.chosen = match below {
            true => (self.chosen + 1).min(last),
            false => self.chosen.saturating_sub(1),
        };
    }

    /// Sentences from number `from` on that are still there, and the number of the next one.
    pub(crate) fn news(&self, from: usize) -> (impl Iterator<Item = &str>, usize) {
        let gone = self.told - self.events.len();
        (self.events.iter().skip(from.saturating_sub(gone)).map(String::as_str), self.told)
    }

    /// A line for each guest that moves.
    pub(crate) fn progress(&mut self) -> impl Iterator<Item = String> {
        self.moving.values_mut().map(|one| {
            let before = one.told_pending.replace(one.frame.look.pending());
            format!("{}  {}", one.guest, moving::line(&one.frame, before))
        })
    }

    fn guests(&self) -> &[api::Guest] {
        self.seen.as_ref().map_or(&[], |seen| &seen.guests)
    }

    fn tell(&mut self, sentence: String) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(sentence);
        self.told += 1;
    }

    /// Guests that came, went, or changed their state.
    fn compare(&mut self, seen: &Seen) {
        let before = self.seen.take();
        let first = before.is_none();
        let before = before.unwrap_or_default().guests;
        for guest in &seen.guests {
            let (word, _) = guests::state(guest.state());
            match before.iter().find(|known| known.uuid == guest.uuid) {
                None if first => {}
                None => self.tell(format!("{} is here: {word}", guest.name)),
                Some(known) if known.state() == guest.state() => {}
                Some(_) if guest.state_reason.is_empty() => {
                    self.tell(format!("{}: {word}", guest.name));
                }
                Some(_) => self.tell(format!("{}: {word}, {}", guest.name, guest.state_reason)),
            }
        }
        for gone in before.iter().filter(|known| !seen.guests.iter().any(|g| g.uuid == known.uuid))
        {
            self.tell(format!("{} is no longer here", gone.name));
        }
    }

    fn follow(&mut self, status: &api::MigrationStatus) {
        let id = &status.migration_id;
        if status.outcome() != Outcome::Unspecified {
            self.moving.remove(id);
            self.tell(ended(status));
            return;
        }
        let context = Context { here: self.address.clone(), downtime_limit: None };
        let one = self.moving.entry(id.clone()).or_default();
        one.guest.clone_from(&status.guest_name);
        one.frame = one.follow.take(look_of(status, &context));
        let news = one.frame.news.iter();
        let said = |(at, said): &(Duration, String)| {
            format!("{}, {}: {said}", one.guest, units::clock(*at))
        };
        let news: Vec<_> = news.map(said).collect();
        news.into_iter().for_each(|sentence| self.tell(sentence));
    }

    fn frame_of(&self, guest: &api::Guest) -> Option<&Frame> {
        self.moving.get(&guest.migration_id).map(|one| &one.frame)
    }

    // --- lines ---------------------------------------------------------------------------------

    /// The whole screen, at most `rows` lines of at most `columns`.
    pub(crate) fn lines(&self, columns: usize, rows: usize) -> Vec<Line> {
        let mut lines = vec![self.head(), Line::default()];
        lines.extend(self.table(columns, rows / 3));
        lines.push(Line::default());
        let body = rows.saturating_sub(lines.len() + 1);
        let for_events = match self.events.len().min(EVENTS_SHOWN_MIN) {
            some if some > 0 && rows >= ROWS_FOR_EVENTS => some + 1,
            _ => 0,
        };
        lines.extend(self.detail(columns, body.saturating_sub(for_events)));
        let left = rows.saturating_sub(lines.len() + 1);
        lines.extend(self.last_events(left));
        lines.truncate(rows.saturating_sub(1));
        lines.resize(rows.saturating_sub(1), Line::default());
        lines.push(self.foot());
        lines.into_iter().map(|line| line.cut(columns)).collect()
    }

    fn head(&self) -> Line {
        let line =
            Line::default().put(Tone::Strong, "whimbrel ").put(Tone::Plain, self.address.clone());
        let Some(Seen { host, .. }) = &self.seen else {
            return line.put(Tone::Faint, "  not heard yet");
        };
        let memory = (units::bytes(host.memory_free_bytes), units::bytes(host.memory_limit_bytes));
        line.put(Tone::Faint, format!("  {} free of {}", memory.0, memory.1)).put(
            Tone::Faint,
            format!("  moving {} out, {} in", host.migrations_out, host.migrations_in),
        )
    }

    /// The guests around the chosen one.
    fn table(&self, columns: usize, most: usize) -> Vec<Line> {
        let all = self.guests();
        if all.is_empty() {
            return vec![Line::default().put(Tone::Faint, "  no guests here")];
        }
        let most = most.max(1);
        let first = (self.chosen + 1).saturating_sub(most);
        let name = all.iter().map(|guest| guest.name.chars().count()).max().unwrap_or(0);
        // A long name leaves room for what there is to say.
        let name = name.clamp(4, (columns / 3).max(4));
        let shown = all.iter().enumerate().skip(first).take(most);
        shown.map(|(at, guest)| self.row(guest, at == self.chosen, name)).collect()
    }

    fn row(&self, guest: &api::Guest, chosen: bool, width: usize) -> Line {
        let (word, tone) = guests::state(guest.state());
        let name = Line::plain(guest.name.clone()).cut(width);
        let mark = if chosen { "▸ " } else { "  " };
        let (strong, state) = (if chosen { Tone::Strong } else { Tone::Plain }, 2 + width + 2);
        Line::default()
            .put(Tone::Strong, mark)
            .put(strong, name.render(false))
            .to(state)
            .put(tone, word)
            .to(state + 11)
            .put(Tone::Plain, units::bytes(guest.memory_bytes))
            .to(state + 21)
            .put(Tone::Faint, guest.kind.clone())
            .to(state + 29)
            .put(Tone::Plain, self.remark(guest))
    }

    fn remark(&self, guest: &api::Guest) -> String {
        if let Some(frame) = self.frame_of(guest) {
            let look = &frame.look;
            let percent = (look.fresh() * 100.0).floor();
            let left = units::bytes(look.pending());
            let way = match look.source == self.address {
                true => format!("→ {}", look.destination),
                false => format!("← {}", look.source),
            };
            // What goes backwards says why, also in the row of a guest that is not chosen.
            let back = frame.setback.as_ref().map_or(String::new(), |why| format!(" ↺ {why}"));
            return format!("{percent:.0} %, {left} to go {way}{back}");
        }
        match (&guest.kv, &guest.stress, guest.state()) {
            (Some(kv), _, GuestState::Running) => {
                let clients = units::counted(kv.clients, "client");
                format!("{}, {clients}", units::counted(kv.keys, "key"))
            }
            (_, Some(stress), GuestState::Running) => {
                let rate = stress.operations_per_s * super::state::PAGE_BYTES;
                format!("writes {}", units::rate(rate))
            }
            _ => guest.state_reason.clone(),
        }
    }

    /// All about the chosen guest.
    fn detail(&self, columns: usize, rows: usize) -> Vec<Line> {
        let Some(guest) = self.guests().get(self.chosen) else { return Vec::new() };
        let mut lines = match self.frame_of(guest) {
            // It leaves a row for a cursor, which there is none of here.
            Some(frame) => moving::block(frame, columns, rows + 1),
            None => guests::status(guest),
        };
        lines.truncate(rows);
        lines
    }

    fn last_events(&self, rows: usize) -> Vec<Line> {
        if rows < 2 || self.events.is_empty() {
            return Vec::new();
        }
        let hidden = self.events.len().saturating_sub(rows - 1);
        let shown = self.events.iter().skip(hidden);
        let shown = shown.map(|said| Line::plain("  ").put(Tone::Faint, said.clone()));
        std::iter::once(Line::default()).chain(shown).collect()
    }

    fn foot(&self) -> Line {
        match &self.trouble {
            Some(why) => Line::default().put(Tone::Bad, format!("! {why}")),
            None => Line::default().put(Tone::Faint, "q leaves, ↑ and ↓ choose a guest"),
        }
    }
}

/// How a migration ended, in one sentence.
fn ended(status: &api::MigrationStatus) -> String {
    let (guest, peer) = (&status.guest_name, &status.peer);
    let report = status.report.as_ref();
    let still = report.map(|report| Duration::from_micros(report.downtime_us));
    let still = still.filter(|still| !still.is_zero());
    let still = still
        .map_or_else(String::new, |still| format!("; it stood still for {}", units::time(still)));
    match (status.outcome(), status.direction()) {
        (Outcome::Completed, api::Direction::In) => format!("{guest} has come from {peer}{still}"),
        (Outcome::Completed, _) => format!("{guest} has moved to {peer}{still}"),
        (Outcome::InDoubt, _) => format!("{guest} is in doubt: {}", status.reason),
        (_, api::Direction::In) => format!("{guest} has not come: {}", status.reason),
        _ => format!("{guest} was not moved: {}", status.reason),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::view::terminal::draw;

    fn guest(name: &str, state: GuestState) -> api::Guest {
        api::Guest {
            uuid: format!("uuid of {name}"),
            name: name.into(),
            kind: "stress".into(),
            state: state.into(),
            memory_bytes: 1 << 30,
            migration_id: format!("m-{name}"),
            stress: Some(api::StressReport {
                filled: true,
                operations_per_s: 256,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn round(round: u32, dirty_after: u64) -> api::Round {
        let (pages, bytes, duration_us) = (262_144, 1 << 30, 1_200_000);
        api::Round { round, pages, bytes, duration_us, dirty_after }
    }

    fn status(pending: u64, outcome: Outcome) -> api::MigrationStatus {
        api::MigrationStatus {
            migration_id: "m-web".into(),
            guest_name: "web".into(),
            direction: api::Direction::Out.into(),
            peer: "host-b:7117".into(),
            phase: "pre-copy".into(),
            elapsed_us: 2_500_000,
            pages_total: 262_144,
            pages_pending: pending,
            bandwidth_bytes_per_s: Some(900 << 20),
            dirty_rate_bytes_per_s: Some(400 << 20),
            downtime_forecast_us: Some(21_000),
            downtime_limit_us: Some(300_000),
            rounds: vec![round(0, 65_536), round(1, 0)],
            lanes: vec![api::Lane { lane: 0, bytes: 7, pages: 1, open: true }],
            events: vec![api::Event { elapsed_us: 1_900_000, sentence: "lane 1 was lost".into() }],
            outcome: outcome.into(),
            ..Default::default()
        }
    }

    fn seen(guests: &[api::Guest], migrations: &[api::MigrationStatus]) -> Seen {
        let host = api::Host {
            memory_free_bytes: 12 << 30,
            memory_limit_bytes: 16 << 30,
            migrations_out: migrations.len() as u32,
            ..Default::default()
        };
        Seen { host, guests: guests.to_vec(), migrations: migrations.to_vec() }
    }

    fn moving(pending: u64) -> Seen {
        let guests = [guest("db", GuestState::Running), guest("web", GuestState::Migrating)];
        seen(&guests, &[status(pending, Outcome::Unspecified)])
    }

    /// What is to be seen on a terminal of that size.
    fn screen(view: &HostView, columns: u16, rows: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("a terminal");
        terminal.draw(|frame| draw(frame, view, false)).expect("drawn");
        let buffer = terminal.backend().buffer().clone();
        let row = |y| (0..columns).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..rows).map(|y| row(y).trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn a_moving_guest_fills_80_by_24() {
        let mut view = HostView::new("host-a:7117");
        view.take(Ok(moving(40_000)));
        view.choose(true);
        view.take(Ok(moving(65_536)));
        let text = screen(&view, 80, 24);
        for part in [
            "whimbrel host-a:7117  12 GiB free of 16 GiB  moving 1 out, 0 in",
            "  db    running",
            "▸ web   migrating  1 GiB     stress  75 %, 256 MiB to go → host-b:7117",
            "pre-copy, round 1",
            "400 MiB/s, at full speed",
            "lane 0",
            "21 ms of 300 ms allowed",
            "↺ ",
            "dirty after",
            "web, 1.9 s: lane 1 was lost",
            "q leaves",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert_eq!(text.lines().count(), 24);
        // A table has rows.
        let below = text.lines().skip_while(|line| !line.contains("dirty after")).nth(1);
        assert!(below.is_some_and(|row| row.contains("65,536")), "{text}");
        view.choose(false);
        let text = screen(&view, 80, 24);
        assert!(text.contains("256 MiB to go → host-b:7117 ↺"), "not chosen:\n{text}");
    }

    #[test]
    fn lines_for_a_log_say_why_there_is_more_to_send_than_before() {
        let mut view = HostView::new("host-a:7117");
        let mut line = |pending| {
            view.take(Ok(moving(pending)));
            view.progress().collect::<String>()
        };
        assert!(!line(65_536).contains('↺'));
        assert!(!line(40_000).contains('↺'));
        let why = "↺ 156 MiB go again: rewritten by the guest, or not acknowledged";
        let back = line(80_000);
        assert!(back.ends_with(why), "{back}");
        assert!(!line(80_000).contains('↺'));
    }

    #[test]
    fn any_size_is_drawn_and_the_chosen_guest_is_seen() {
        let mut view = HostView::new("host-a:7117");
        let names: Vec<_> = (0..30).map(|n| format!("guest-{n:02}-{}", "x".repeat(30))).collect();
        let guests: Vec<_> = names.iter().map(|name| guest(name, GuestState::Running)).collect();
        view.take(Ok(seen(&guests, &[])));
        (0..40).for_each(|_| view.choose(true));
        for (columns, rows) in [(80, 24), (40, 12), (20, 5), (200, 60), (1, 1), (80, 3)] {
            let text = screen(&view, columns, rows);
            assert_eq!(text.lines().count(), usize::from(rows));
            if rows >= 5 && columns >= 20 {
                assert!(text.contains("▸ guest"), "{columns}x{rows}\n{text}");
            }
        }
        assert!(screen(&view, 80, 24).contains("▸ guest-29"));
        (0..40).for_each(|_| view.choose(false));
        assert!(screen(&view, 80, 24).contains("▸ guest-00"));
    }

    #[test]
    fn what_happens_is_told_as_sentences_once() {
        let mut view = HostView::new("a:1");
        view.take(Ok(moving(5)));
        view.take(Ok(moving(5)));
        let mut done = status(0, Outcome::Completed);
        done.report = Some(api::MigrationReport { downtime_us: 5_000, ..Default::default() });
        view.take(Ok(seen(&[guest("db", GuestState::Failed)], &[done.clone()])));
        view.take(Err("a:1 does not answer".into()));
        view.take(Err("a:1 does not answer".into()));
        view.take(Ok(seen(&[guest("db", GuestState::Failed)], &[])));
        let (news, next) = view.news(0);
        let expected = [
            "web, 1.9 s: lane 1 was lost",
            "db: failed",
            "web is no longer here",
            "web has moved to host-b:7117; it stood still for 5 ms",
            "a:1 does not answer",
            "a:1 answers again",
        ];
        assert_eq!(news.collect::<Vec<_>>(), expected);
        assert_eq!(view.news(next).0.count(), 0);
    }

    #[test]
    fn colours_are_put_on_only_where_they_are_wanted() {
        let mut view = HostView::new("a:1");
        view.take(Ok(moving(5)));
        for colour in [false, true] {
            let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal");
            terminal.draw(|frame| draw(frame, &view, colour)).expect("drawn");
            let cells = terminal.backend().buffer().content();
            let coloured = cells.iter().any(|cell| cell.fg != ratatui::style::Color::Reset);
            assert_eq!(coloured, colour);
        }
    }
}
