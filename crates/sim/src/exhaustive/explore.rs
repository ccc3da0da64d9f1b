//! The search: every state that can be reached, once.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

/// No path of an honest model is as long: one that is does not end.
const DEPTH_MAX: usize = 5_000;

/// What is searched.
pub trait Model: Clone {
    /// One thing that happens.
    type Step: Copy + fmt::Debug;

    /// A number that two states share only if whatever can follow from them is the same.
    fn digest(&self) -> u64;

    /// What may happen next while nothing goes wrong. The first one is what happens where nobody
    /// chooses.
    fn steps(&self) -> Vec<Self::Step>;

    /// What may go wrong next.
    fn faults(&self) -> Vec<Self::Step>;

    /// Lets it happen.
    fn take(&mut self, step: Self::Step);

    /// What must hold in every state.
    ///
    /// # Errors
    /// The law that is broken.
    fn check(&self) -> Result<(), String>;

    /// What kind of end this is, where nothing more happens.
    ///
    /// # Errors
    /// Why it must not end so.
    fn end(&self) -> Result<&'static str, String>;
}

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Different states.
    pub states: u64,
    /// Steps between them.
    pub steps: u64,
    /// The most steps from the beginning to a state, as the search went.
    pub depth: usize,
    /// States in which nothing more happens, by kind.
    pub ends: BTreeMap<&'static str, u64>,
    /// The first breach of each law that was broken.
    pub broke: Vec<Broke>,
}

/// A law that was broken, and the way there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broke {
    /// The law.
    pub what: String,
    /// The steps that led to it.
    pub steps: Vec<String>,
}

impl fmt::Display for Broke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, after these steps:", self.what)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step}"))
    }
}

/// Looks at everything that can follow from `start`, but for what follows a breach.
///
/// From every state at least the way on which nobody chooses comes to an end: what can go round in
/// circles for ever is a breach.
pub fn explore<M: Model>(start: M) -> Census {
    search(start, |_| false)
}

/// The first breach of a law, named by how it begins, in what can follow from `start`.
pub fn find_breach<M: Model>(start: M, law: &str) -> Option<Broke> {
    let is_of_it = |broke: &Broke| broke.what.starts_with(law);
    search(start, is_of_it).broke.into_iter().find(is_of_it)
}

fn search<M: Model>(start: M, enough: impl Fn(&Broke) -> bool) -> Census {
    let mut search = Search::default();
    let digest = start.digest();
    search.seen.insert(digest);
    search.enter(start, digest);
    while let Some(frame) = search.path.last_mut()
        && !search.census.broke.last().is_some_and(&enough)
    {
        let Some(step) = frame.untried.pop() else {
            search.path.pop();
            continue;
        };
        // The last step needs no copy of the state.
        let state = if frame.untried.is_empty() { frame.state.take() } else { frame.state.clone() };
        let mut next = state.expect("a state is kept as long as there are steps from it");
        frame.taken = Some(step);
        frame.tried += 1;
        next.take(step);
        search.arrive(next);
    }
    search.census
}

/// States are digests already.
#[derive(Clone, Copy, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only digests are keys");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

struct Frame<M: Model> {
    /// None when the last step was taken.
    state: Option<M>,
    digest: u64,
    /// What is still to be tried, the next one last.
    untried: Vec<M::Step>,
    taken: Option<M::Step>,
    tried: usize,
    /// Whether nothing more happens here by itself.
    ends: bool,
}

struct Search<M: Model> {
    seen: HashSet<u64, BuildHasherDefault<AsIs>>,
    path: Vec<Frame<M>>,
    census: Census,
}

impl<M: Model> Default for Search<M> {
    fn default() -> Self {
        Self { seen: HashSet::default(), path: Vec::new(), census: Census::default() }
    }
}

impl<M: Model> Search<M> {
    fn arrive(&mut self, next: M) {
        self.census.steps += 1;
        let digest = next.digest();
        if self.seen.insert(digest) {
            self.enter(next, digest);
        } else if self.by_itself_since(digest) {
            self.broke("it goes round in circles".into());
        }
    }

    /// Whether the path came from that state to its end without a choice.
    fn by_itself_since(&self, digest: u64) -> bool {
        let chosen = |frame: &&Frame<M>| frame.ends || frame.tried > 1;
        let mut by_itself = self.path.iter().rev().take_while(|frame| !chosen(frame));
        by_itself.any(|frame| frame.digest == digest)
    }

    fn enter(&mut self, state: M, digest: u64) {
        self.census.states += 1;
        self.census.depth = self.census.depth.max(self.path.len());
        if let Err(what) = state.check() {
            return self.broke(what);
        }
        if self.path.len() > DEPTH_MAX {
            return self.broke("it does not end".into());
        }
        let steps = state.steps();
        let ends = steps.is_empty();
        if ends {
            match state.end() {
                Ok(kind) => *self.census.ends.entry(kind).or_insert(0) += 1,
                Err(what) => return self.broke(what),
            }
        }
        let mut untried = state.faults();
        untried.extend(steps.into_iter().rev());
        let state = Some(state);
        self.path.push(Frame { state, digest, untried, taken: None, tried: 0, ends });
    }

    fn broke(&mut self, what: String) {
        if self.census.broke.iter().any(|known| known.what == what) {
            return;
        }
        let taken = self.path.iter().filter_map(|frame| frame.taken);
        let steps = taken.map(|step| format!("{step:?}")).collect();
        self.census.broke.push(Broke { what, steps });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter that may go up by one or two, and once back to the beginning.
    #[derive(Clone, Debug)]
    struct Stairs {
        at: u64,
        top: u64,
        slips: u32,
        rolls: bool,
    }

    impl Model for Stairs {
        type Step = u64;

        fn digest(&self) -> u64 {
            self.at << 8 | u64::from(self.slips)
        }

        fn steps(&self) -> Vec<u64> {
            let up = [self.at + 1, self.at + 2].into_iter().filter(|at| *at <= self.top);
            let back = (self.rolls && self.at == self.top).then_some(1);
            up.chain(back).collect()
        }

        fn faults(&self) -> Vec<u64> {
            (self.slips > 0).then_some(0).into_iter().collect()
        }

        fn take(&mut self, step: u64) {
            self.slips -= u32::from(step == 0);
            self.at = step;
        }

        fn check(&self) -> Result<(), String> {
            if self.at == 13 { Err("thirteen".into()) } else { Ok(()) }
        }

        fn end(&self) -> Result<&'static str, String> {
            Ok("the top")
        }
    }

    fn stairs(top: u64, rolls: bool) -> Stairs {
        Stairs { at: 0, top, slips: 1, rolls }
    }

    #[test]
    fn every_state_is_seen_once() {
        let census = explore(stairs(10, false));
        assert_eq!(census.broke, []);
        assert_eq!(census.states, 22);
        assert_eq!(census.steps, 2 * 19 + 11);
        assert_eq!(census.ends, BTreeMap::from([("the top", 2)]));
    }

    #[test]
    fn a_breach_comes_with_the_way_to_it() {
        let broke = explore(stairs(20, false)).broke.remove(0);
        assert_eq!(broke.what, "thirteen");
        assert_eq!(broke.steps.last().map(String::as_str), Some("13"));
    }

    #[test]
    fn what_never_ends_by_itself_is_a_breach() {
        let broke = explore(stairs(5, true)).broke.remove(0);
        assert_eq!(broke.what, "it goes round in circles");
    }
}
