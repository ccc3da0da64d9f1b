//! The museum: defects of real migration stacks, put back in. `docs/museum.md` is its table.
//!
//! Most defects are broken laws of the simulator, which finds them out from seeds. Those that are
//! not about the simulated part are changes of the source, kept here: `cargo run -p
//! whimbrel-tests --bin museum` makes each one in a copy of the workspace and shows that a test
//! fails.

/// A defect as a change of one place in the source, and the test that must fail with it.
#[derive(Clone, Copy, Debug)]
pub struct Mutation {
    /// As the table names it.
    pub name: &'static str,
    /// The file, from the root of the workspace.
    pub file: &'static str,
    /// What is there, once.
    pub from: &'static str,
    /// What is put there.
    pub to: &'static str,
    /// What cargo is told to test.
    pub test: &'static [&'static str],
}

/// All of them.
pub const MUTATIONS: [Mutation; 5] = [
    Mutation {
        name: "dropped-guest",
        file: "crates/engine/src/outgoing/mod.rs",
        from: "        Self { outcome, guest: Some(guest), hung: None",
        to: "        drop(guest);
        Self { outcome, guest: None, hung: None",
        test: &["-p", "whimbrel-engine", "--lib", "a_source_without_a_thread_gives_the_guest_back"],
    },
    Mutation {
        name: "unbounded-batch",
        file: "crates/protocol/src/batch/decode.rs",
        from: "        bounded(\"bytes of payload\", payload.0, 0, self.payload_max.0)?;\n",
        to: "",
        test: &["-p", "whimbrel-protocol", "--lib", "lengths_are_bounded"],
    },
    Mutation {
        name: "stale-estimate",
        file: "crates/protocol/src/source/copy.rs",
        from: "        if core.both_announced() && matches!(self.stage, Stage::Waiting(_)) {
            self.stage",
        to: "        if core.both_announced() && matches!(self.stage, Stage::Waiting(_)) {
            return self.quiesce(core);
        }
        if core.both_announced() && matches!(self.stage, Stage::Waiting(_)) {
            self.stage",
        test: &["-p", "whimbrel-protocol", "--test", "forecasting", "after_a_wait_it_is_decided"],
    },
    Mutation {
        name: "state-not-counted",
        file: "crates/protocol/src/convergence.rs",
        from: "sending(self.state)",
        to: "sending(ByteCount::ZERO)",
        test: &["-p", "whimbrel-protocol", "--lib", "convergence::"],
    },
    Mutation {
        name: "two-trackers",
        file: "crates/memory/src/tracked.rs",
        from: "            return Err(MemoryError::AlreadyTracked(other));\n",
        to: "            let _: TrackerKind = other;\n",
        test: &["-p", "whimbrel-memory", "--test", "conformance", "one_owner_at_a_time"],
    },
];

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhibit {
    /// M1, M2, …
    pub number: u32,
    /// Laws of the simulator that are broken to put it back.
    pub broken: Vec<String>,
    /// Changes of the source that put it back.
    pub mutations: Vec<String>,
    /// Laws of the simulator that find them out.
    pub laws: Vec<String>,
    /// Paths that the row names.
    pub paths: Vec<String>,
    /// Whether it says that the defect cannot exist.
    pub impossible: bool,
    /// Worlds it may take at most, for each broken law.
    pub seeds_max: Vec<u64>,
}

/// Reads the rows of `docs/museum.md`.
#[must_use]
pub fn read(table: &str) -> Vec<Exhibit> {
    table.lines().filter_map(read_row).collect()
}

fn read_row(line: &str) -> Option<Exhibit> {
    let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
    let number = cells.first()?.strip_prefix('M')?.parse().ok()?;
    let quoted = |cell: &str| -> Vec<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let put_back = cells.get(3).copied().unwrap_or_default();
    let names = quoted(put_back);
    let (broken, rest): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| name.starts_with(char::is_uppercase));
    let (paths, mutations): (Vec<_>, Vec<_>) =
        rest.into_iter().partition(|name| name.contains('/'));
    let found_out = quoted(cells.get(4).copied().unwrap_or_default());
    let (more, laws): (Vec<_>, Vec<_>) = found_out.into_iter().partition(|it| it.contains('/'));
    let paths = paths.into_iter().chain(more).collect();
    let bounds = cells.get(5).copied().unwrap_or_default().split('≤').skip(1);
    let number_of = |text: &str| text.trim().split([')', ',']).next()?.trim().parse().ok();
    Some(Exhibit {
        number,
        broken,
        mutations,
        laws,
        paths,
        impossible: put_back.starts_with("cannot exist"),
        seeds_max: bounds.filter_map(number_of).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let table = "| # | x |\n|---|---|\n\
            | M7 | a | b | `Overtake`, `late-ack` in `crates/x.rs` \
            | `OneCopy` in `tests/y.rs` | 3 (≤ 60) |\n\
            | M8 | a | b | cannot exist: why | | |\n";
        let rows = read(table);
        assert_eq!((rows.len(), rows[0].number), (2, 7));
        assert_eq!((rows[0].broken.join(" "), rows[0].seeds_max[0]), ("Overtake".to_owned(), 60));
        assert_eq!((rows[0].mutations.join(" "), rows[0].paths.len()), ("late-ack".to_owned(), 2));
        assert_eq!(rows[0].laws, ["OneCopy"]);
        assert!(rows[1].impossible && !rows[0].impossible);
    }
}
