//! The measuring itself.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinHandle;
use whimbrel_tests::program::Agent;
use whimbrel_tests::redis::{Connection, Reply};

/// Clients at a time; each has one command on its way.
const CLIENTS: u32 = 4;
/// Keys that are there, and the bytes of each value: 200 MiB.
const KEYS: u32 = 51_200;
const VALUE: usize = 4096;
/// How long clients are watched before and after the move.
const WATCHED: Duration = Duration::from_secs(2);

/// When a command was said, and how long its reply took.
type Taken = (Instant, Duration);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
pub(super) async fn main() -> Result<(), Box<dyn Error>> {
    let (here, there) = (Agent::start().await, Agent::start().await);
    here.guest("store", &["--guest", "kv", "--memory", "1GiB"]).await;
    let status = here.status("store").await;
    let address = status["service_address"].as_str().ok_or("a store has clients")?.to_owned();
    fill(&address).await;
    let enough = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(work(address.clone(), number, Arc::clone(&enough))))
        .collect();
    tokio::time::sleep(WATCHED).await;
    let began = Instant::now();
    let moved = here.ask(&["migrate", "store", &there.address, "--json"]).await.ended(0).json();
    let ended = Instant::now();
    tokio::time::sleep(WATCHED).await;
    enough.store(true, Ordering::Relaxed);
    let taken = all(clients).await?;
    let figures = Figures { taken, began, ended, moved };
    print!("{}", figures.table());
    if let Some(path) = std::env::args().nth(1) {
        std::fs::write(path, figures.svg())?;
    }
    Ok(())
}

/// Values that do not shrink to nothing.
fn value(mut seed: u32) -> Vec<u8> {
    let bytes = (0..VALUE).map(|_| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    });
    bytes.collect()
}

async fn fill(address: &str) {
    let mut client = Connection::to(address).await;
    for key in 0..KEYS {
        set(&mut client, key, &value(key)).await;
    }
}

async fn set(client: &mut Connection, key: u32, value: &[u8]) {
    let reply = client.command(&[b"SET", format!("key:{key}").as_bytes(), value]).await;
    assert_eq!(reply, Reply::Line('+', "OK".to_owned()));
}

/// Writes one key after the other until it is enough.
async fn work(address: String, number: u32, enough: Arc<AtomicBool>) -> Vec<Taken> {
    let mut client = Connection::to(&address).await;
    let (value, mut taken, mut key) = (value(number), Vec::new(), number);
    while !enough.load(Ordering::Relaxed) {
        key = key.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let said = Instant::now();
        set(&mut client, key % KEYS, &value).await;
        taken.push((said, said.elapsed()));
    }
    taken
}

async fn all(clients: Vec<JoinHandle<Vec<Taken>>>) -> Result<Vec<Taken>, Box<dyn Error>> {
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await?);
    }
    all.sort();
    Ok(all)
}

/// What was seen of one move.
struct Figures {
    taken: Vec<Taken>,
    began: Instant,
    ended: Instant,
    moved: Value,
}

impl Figures {
    fn ms(&self, field: &str) -> f64 {
        self.moved[field].as_f64().unwrap_or(f64::NAN) / 1e3
    }

    fn table(&self) -> String {
        let mut table = format!(
            "{CLIENTS} clients, {KEYS} values of {VALUE} bytes; ms\n\
             {:8} {:>8} {:>8} {:>8} {:>8} {:>9}\n",
            "", "replies", "median", "99 %", "99.9 %", "longest"
        );
        let (began, ended) = (self.began, self.ended);
        let before = |said: Instant, ends: Instant| ends < began && said < began;
        let after = |said: Instant, _: Instant| said > ended;
        self.row(&mut table, "before", &before);
        self.row(&mut table, "during", &|said, ends| !before(said, ends) && !after(said, ends));
        self.row(&mut table, "after", &after);
        let _ = writeln!(
            table,
            "the guest saw a gap of {:.2} ms; downtime {:.2} ms; moved in {:.2} s",
            self.ms("blackout_us"),
            self.ms("downtime_us"),
            (ended - began).as_secs_f64(),
        );
        table
    }

    fn row(&self, table: &mut String, name: &str, of: &dyn Fn(Instant, Instant) -> bool) {
        let part = self.taken.iter().filter(|(said, took)| of(*said, *said + *took));
        let mut part: Vec<_> = part.map(|(_, took)| took.as_secs_f64() * 1e3).collect();
        part.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let last = part.len().saturating_sub(1) as f64;
            part.get((last * share).round() as usize).copied().unwrap_or(f64::NAN)
        };
        let (median, high, higher, most) = (at(0.5), at(0.99), at(0.999), at(1.0));
        let count = part.len();
        let _ =
            writeln!(table, "{name:8} {count:8} {median:8.3} {high:8.3} {higher:8.3} {most:9.3}");
    }
}

// --- the plot --------------------------------------------------------------------------------

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 44.0;
/// The axis of times: powers of ten of milliseconds.
const DECADES: std::ops::RangeInclusive<i32> = -2..=3;

impl Figures {
    /// Where a moment is across the plot.
    fn across(&self, at: Instant) -> f64 {
        let first = self.began - WATCHED;
        let whole = (self.ended + WATCHED).duration_since(first).as_secs_f64();
        let share = at.saturating_duration_since(first).as_secs_f64() / whole;
        LEFT + (WIDTH - LEFT - RIGHT) * share.min(1.0)
    }

    /// Dots where commands were said, as high as their replies took.
    fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        let (from, to) = (self.across(self.began), self.across(self.ended));
        let _ = writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\" \
             fill=\"#e8f0fe\"/>",
            to - from,
            HEIGHT - TOP - BOTTOM,
        );
        word(&mut svg, (LEFT, 14.0), "start", "Replies to clients of a store that moves, in ms");
        let drawn =
            "all of the slowest hundredth; of the others the least, the median and the most";
        word(&mut svg, (WIDTH - RIGHT, 30.0), "end", drawn);
        word(&mut svg, (from + 4.0, TOP - 6.0), "start", "it moves");
        for power in DECADES {
            let (y, said) = (up(10_f64.powi(power)), format!("{}", 10_f64.powi(power)));
            rule(&mut svg, y, "#ddd", "0");
            word(&mut svg, (LEFT - 6.0, y + 4.0), "end", &said);
        }
        self.seconds(&mut svg);
        svg.push_str("<path stroke=\"black\" stroke-width=\"1.5\" d=\"");
        for (said, took) in self.shown() {
            let (x, y) = (self.across(said), up(took.as_secs_f64() * 1e3));
            let _ = write!(svg, "M{x:.1} {y:.1}h1.5");
        }
        svg.push_str("\"/>\n");
        let blackout = self.ms("blackout_us");
        rule(&mut svg, up(blackout), "#d62728", "5 3");
        let name = format!("the gap that the guest saw: {blackout:.1} ms");
        word(&mut svg, (WIDTH - RIGHT, up(blackout) - 5.0), "end", &name);
        svg.push_str("</svg>\n");
        svg
    }

    fn seconds(&self, svg: &mut String) {
        let whole = (self.ended - self.began + WATCHED).as_secs();
        for second in 0..=whole {
            let x = self.across(self.began + Duration::from_secs(second));
            word(svg, (x, HEIGHT - BOTTOM + 16.0), "middle", &second.to_string());
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        word(svg, (middle, HEIGHT - 8.0), "middle", "seconds since the migration began");
    }

    /// The slowest hundredth, and of what else was said in the width of a dot the quickest, the
    /// median and the slowest.
    fn shown(&self) -> Vec<Taken> {
        let mut times: Vec<_> = self.taken.iter().map(|(_, took)| *took).collect();
        times.sort();
        let usual = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
        let (mut shown, rest): (Vec<_>, Vec<_>) =
            self.taken.iter().copied().partition(|(_, took)| *took > usual);
        let mut columns: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for taken in rest {
            let column = (self.across(taken.0) / 1.5) as i64;
            columns.entry(column).or_default().push(taken);
        }
        for mut column in columns.into_values() {
            column.sort_by_key(|(_, took)| *took);
            let mut kept = [0, column.len() / 2, column.len() - 1].map(|at| column[at]).to_vec();
            kept.dedup();
            shown.extend(kept);
        }
        shown
    }
}

/// How high so many milliseconds are.
fn up(ms: f64) -> f64 {
    let (low, high) = (f64::from(*DECADES.start()), f64::from(*DECADES.end()));
    let share = (ms.max(1e-9).log10().clamp(low, high) - low) / (high - low);
    HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share
}

fn rule(svg: &mut String, y: f64, colour: &str, dashes: &str) {
    let right = WIDTH - RIGHT;
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"{colour}\" \
         stroke-dasharray=\"{dashes}\"/>"
    );
}

fn word(svg: &mut String, (x, y): (f64, f64), anchor: &str, said: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{said}</text>");
}
