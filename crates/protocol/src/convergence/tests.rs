use super::*;

const PAGES: PageCount = PageCount(262_144);

/// A forecast, and the lanes whose rounds it hears of.
struct Rounds {
    forecast: Forecast,
    throughput: Throughput,
    harvest: Duration,
}

fn rounds(policy: Policy, downtime_ms: u64) -> Rounds {
    let downtime_max = Duration::from_millis(downtime_ms);
    let forecast = Forecast::new(Convergence { downtime_max, policy }, PAGES);
    Rounds { forecast, throughput: Throughput::default(), harvest: ms(1) }
}

fn pages(mib: u64) -> PageCount {
    PageCount::covering(ByteCount::mib(mib))
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a downtime has beside its pages, by the rounds below.
const FIXED: Duration = Duration::from_micros(1600);

impl Rounds {
    /// A round in which so much landed in so long, and that leaves `dirty` MiB, all of it new.
    fn lasting(&mut self, mib: u64, took: Duration, dirty: u64) -> Decision {
        self.throughput.landed += ByteCount::mib(mib);
        self.throughput.busy += took;
        let (throughput, open) = (self.throughput, Some(took.max(ms(1))));
        let (written, dirty) = (pages(dirty), pages(dirty));
        let (harvest, errand) = (self.harvest, Duration::from_micros(100));
        self.forecast.decide(Round { throughput, open, written, dirty, harvest, errand })
    }

    /// As [`Rounds::lasting`], at 1000 MiB/s.
    fn round(&mut self, mib: u64, dirty: u64) -> Decision {
        self.lasting(mib, ms(mib), dirty)
    }

    fn downtime(&self, mib: u64) -> Option<Duration> {
        self.forecast.downtime(pages(mib))
    }
}

#[test]
fn an_idle_guest_switches_after_the_first_round() {
    assert_eq!(rounds(Policy::Wait, 300).round(1024, 0), Decision::Switch);
}

#[test]
fn rounds_go_on_while_they_shrink_even_within_the_limit() {
    let mut rounds = rounds(Policy::GiveUp, 300);
    assert_eq!(rounds.round(1024, 256), Decision::Another);
    assert_eq!(rounds.round(256, 100), Decision::Another);
    assert_eq!(rounds.round(100, 40), Decision::Another);
    assert_eq!(rounds.round(40, 35), Decision::Switch, "the floor is reached");
}

#[test]
fn a_guest_that_does_not_shrink_meets_the_policy() {
    let stall = |policy| {
        let mut rounds = rounds(policy, 30);
        (0..5).map(|_| rounds.round(256, 256)).collect::<Vec<_>>()
    };
    assert_eq!(stall(Policy::Wait).last(), Some(&Decision::Another));
    assert_eq!(stall(Policy::SwitchOver).last(), Some(&Decision::Switch));
    assert!(matches!(stall(Policy::GiveUp).last(), Some(Decision::GiveUp(why))
        if why.contains("1000 MiB/s") && why.contains("30 ms are allowed")));
    let throttled = stall(Policy::Throttle { most: 30 });
    assert_eq!(throttled[2], Decision::Throttle(20));
    assert_eq!(throttled[4], Decision::Throttle(30));
}

#[test]
fn a_throttle_at_its_limit_gives_up_with_numbers() {
    let mut rounds = rounds(Policy::Throttle { most: 50 }, 100);
    let decisions = (0..20).map(|_| rounds.round(256, 256));
    let last = decisions.last();
    assert!(matches!(last, Some(Decision::GiveUp(why)) if why.contains("throttled by 50 %")));
}

/// Nothing is written, and the state alone takes longer than is allowed: no round and no throttle
/// changes that.
#[test]
fn an_idle_guest_with_too_large_a_state_is_not_paused() {
    let policies = [
        (Policy::Wait, false),
        (Policy::GiveUp, false),
        (Policy::Throttle { most: 99 }, false),
        (Policy::SwitchOver, true),
    ];
    for (policy, switches) in policies {
        let mut rounds = rounds(policy, 300);
        rounds.forecast.state_size(ByteCount::mib(16));
        // 16 MiB/s
        let first = rounds.lasting(64, ms(4000), 0);
        if switches {
            assert_eq!(first, Decision::Switch, "{policy:?}");
            continue;
        }
        // One look may be unlucky.
        assert_eq!(first, Decision::Another, "{policy:?}");
        let Decision::GiveUp(why) = rounds.round(0, 0) else { panic!("{policy:?}") };
        for part in [
            "16 MiB of state",
            "carry 16 MiB/s",
            "would be 1001 ms (1000 ms for the state, 1 ms for the last harvest",
            "300 ms are allowed",
            "allow more downtime, lift a limit or use more lanes, or have it switch over anyway",
        ] {
            assert!(why.contains(part), "{part:?} in {why:?}");
        }
    }
}

#[test]
fn a_throttle_that_cannot_help_is_not_tried() {
    let mut rounds = rounds(Policy::Throttle { most: 99 }, 300);
    rounds.forecast.state_size(ByteCount::mib(16));
    let decisions = (0..4).map(|_| rounds.lasting(64, ms(4000), 64)).collect::<Vec<_>>();
    let throttles = |decision: &Decision| matches!(decision, Decision::Throttle(_));
    assert!(!decisions.iter().any(throttles), "{decisions:?}");
    assert!(matches!(decisions.last(), Some(Decision::GiveUp(_))), "{decisions:?}");
}

/// What came in between a harvest once is not what every pause would take.
#[test]
fn one_slow_harvest_is_no_reason_to_give_up() {
    let after = |slow: &[usize]| {
        let mut rounds = rounds(Policy::Throttle { most: 99 }, 300);
        let decided = (0..3).map(|round| {
            rounds.harvest = if slow.contains(&round) { ms(1000) } else { ms(1) };
            rounds.round(512, 512)
        });
        decided.last().expect("three rounds")
    };
    assert_eq!(after(&[2]), Decision::Throttle(20));
    let both = after(&[1, 2]);
    assert!(matches!(&both, Decision::GiveUp(why) if why.contains("1000 ms for the last harvest")));
}

/// A guest that was never touched sends a few bytes, by which no link is known.
#[test]
fn what_carried_next_to_nothing_is_no_reason_to_give_up() {
    let mut rounds = rounds(Policy::Wait, 300);
    rounds.forecast.state_size(ByteCount::mib(16));
    rounds.throughput.landed = ByteCount(5000);
    assert_eq!(rounds.lasting(0, ms(3), 0), Decision::Switch);
}

#[test]
fn the_downtime_counts_everything_that_happens_while_paused() {
    let mut rounds = rounds(Policy::Wait, 300);
    rounds.round(1000, 100);
    let pages_only = rounds.downtime(100);
    assert_eq!(pages_only, Some(ms(100) + FIXED));
    rounds.forecast.round_trip(ms(20));
    rounds.forecast.state_size(ByteCount::mib(10));
    let more = rounds.downtime(100);
    let grown = more.zip(pages_only).map(|(more, pages)| more - pages);
    assert!(grown >= Some(ms(49)), "2 round trips and the state: {grown:?}");
    rounds.forecast.digests_here(ByteCount::mib(1000), ms(70));
    rounds.forecast.digests_there(ByteCount::mib(10), ms(1));
    let grown = rounds.downtime(100).zip(more).map(|(verified, more)| verified - more);
    assert!(grown >= Some(ms(169)) && grown < Some(ms(171)), "both digests: {grown:?}");
}

#[test]
fn a_verification_that_takes_too_long_by_itself_is_hopeless() {
    let mut forecast = rounds(Policy::Throttle { most: 99 }, 300).forecast;
    forecast.digests_here(ByteCount::mib(8192), ms(140));
    assert_eq!(forecast.hopeless(), None);
    forecast.digests_there(ByteCount::mib(1), ms(1));
    let why = forecast.hopeless().unwrap_or_default();
    assert!(why.contains("8192 MiB") && why.contains("2380 ms, and 300 ms"), "{why}");
    forecast.settings.policy = Policy::SwitchOver;
    assert_eq!(forecast.hopeless(), None, "that policy takes what it gets");
}

#[test]
fn the_last_pages_go_as_fast_as_the_fastest_of_the_last_rounds() {
    let mut rounds = rounds(Policy::Wait, 300);
    // The first round fills fresh memory and is no measure of what comes after it.
    rounds.lasting(1000, ms(2000), 100);
    assert_eq!(rounds.downtime(100), Some(ms(200) + FIXED));
    for took in [125, 50, 100] {
        rounds.lasting(100, ms(took), 100);
    }
    assert_eq!(rounds.downtime(100), Some(ms(50) + FIXED));
    for _ in 0..2 {
        rounds.lasting(100, ms(100), 100);
    }
    assert_eq!(rounds.downtime(100), Some(ms(100) + FIXED), "three are looked at");
}

/// A round is over when its pages are in the kernel's buffers. That they got there at once says
/// nothing.
#[test]
fn what_was_sent_and_not_acknowledged_is_no_bandwidth() {
    let mut rounds = rounds(Policy::Wait, 300);
    rounds.lasting(100, ms(1000), 100);
    let known = rounds.downtime(100);
    assert_eq!(known, Some(ms(1000) + FIXED));
    // 64 MiB were put into buffers in a millisecond, and 3 MiB have landed by then.
    rounds.throughput.under_way = ByteCount::mib(61);
    rounds.lasting(3, ms(1), 64);
    assert_eq!(rounds.downtime(100), known, "too little has landed");
    // In the next one most of what lands is of the round before.
    rounds.throughput.under_way = ByteCount::ZERO;
    rounds.lasting(61, ms(2), 8);
    assert_eq!(rounds.downtime(100), known, "it was nearly there when this began");
    rounds.lasting(50, ms(400), 8);
    assert_eq!(rounds.downtime(100), Some(ms(800) + FIXED));
}

#[test]
fn small_rounds_measure_a_link_together_until_one_is_large() {
    let mut rounds = rounds(Policy::Wait, 300);
    rounds.lasting(1, ms(100), 3);
    assert_eq!(rounds.downtime(1), Some(ms(100) + FIXED));
    rounds.lasting(3, ms(60), 3);
    assert_eq!(rounds.downtime(1), Some(ms(40) + FIXED), "4 MiB in 160 ms");
    rounds.lasting(3, ms(3), 3);
    assert_eq!(rounds.downtime(1), Some(ms(40) + FIXED), "too small by itself");
}

#[test]
fn what_is_written_until_the_pause_is_counted() {
    let mut rounds = rounds(Policy::Wait, 300);
    rounds.round(1000, 100);
    rounds.round(100, 50);
    assert_eq!(rounds.forecast.downtime_after(Duration::ZERO), Some(ms(50) + FIXED));
    // 50 MiB in 100 ms were written, at 1000 MiB/s they are sent.
    assert_eq!(rounds.forecast.downtime_after(ms(20)), Some(ms(60) + FIXED));
}

/// What was left over by earlier rounds was not written in this one, and where nobody knows for
/// how long the guest could write, the rate of before is the best there is.
#[test]
fn a_backlog_is_not_written_in_a_moment() {
    let mut rounds = rounds(Policy::Wait, 300);
    assert_eq!(rounds.forecast.dirty_rate(), None, "unknown is not 0");
    rounds.round(1000, 100);
    assert_eq!(rounds.forecast.dirty_rate(), Some(ByteCount::mib(100)));
    let look = |open, written, throughput| Round {
        throughput,
        open,
        written: pages(written),
        dirty: pages(500),
        harvest: ms(1),
        errand: Duration::ZERO,
    };
    rounds.forecast.decide(look(None, 400, rounds.throughput));
    assert_eq!(rounds.forecast.dirty_rate(), Some(ByteCount::mib(100)));
    rounds.forecast.decide(look(Some(ms(500)), 25, rounds.throughput));
    assert_eq!(rounds.forecast.dirty_rate(), Some(ByteCount::mib(50)));
}

#[test]
fn a_rehearsal_in_quiet_counts_for_more_than_a_round() {
    let mut rounds = rounds(Policy::Wait, 300);
    rounds.round(1000, 100);
    assert!(rounds.forecast.has_time_to_rehearse(), "in 1 ms next to nothing is written");
    rounds.forecast.rehearsed(ms(20), ms(1), pages(100));
    assert!(!rounds.forecast.has_time_to_rehearse(), "2 MiB would be");
    let us = Duration::from_micros;
    rounds.forecast.rehearsed(us(500), us(20), PageCount::ZERO);
    assert_eq!(rounds.downtime(0), Some(us(580)));
    rounds.forecast.errand_in_quiet(us(70));
    assert_eq!(rounds.downtime(0), Some(us(780)), "it is slower in quiet");
    rounds.forecast.errand_in_quiet(ms(50));
    assert_eq!(rounds.downtime(0), Some(us(1620)), "a host that stood still is not quiet");
    rounds.forecast.errand_in_quiet(us(20));
    let sent = |forecast: &Forecast| forecast.parts(pages(1)).expect("known")[3];
    assert_eq!(sent(&rounds.forecast), us(620), "and a lane is woken at either end");
}

/// The guest would be expected, and allowed, to stand still for minutes.
#[test]
fn a_host_that_stood_still_once_is_not_expected_to_each_time() {
    let mut rounds = rounds(Policy::SwitchOver, 300);
    rounds.round(1000, 100);
    rounds.forecast.errand = None;
    rounds.forecast.rehearsed(ms(1), ms(16_000), PageCount::ZERO);
    assert_eq!(rounds.downtime(0), Some(ms(1) + ERRAND_MAX * ERRANDS));
}

#[test]
fn a_round_trip_is_the_quickest_until_it_is_slower_for_good() {
    let mut forecast = rounds(Policy::Wait, 300).forecast;
    [10, 8, 100].into_iter().for_each(|measured| forecast.round_trip(ms(measured)));
    assert_eq!(forecast.round_trip, Some(ms(10)));
    (0..20).for_each(|_| forecast.round_trip(ms(100)));
    assert_eq!(forecast.round_trip, Some(ms(100)));
}
