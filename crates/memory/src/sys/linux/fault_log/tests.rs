use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread;

use whimbrel_page::{ByteCount, Layout, PageIndex, RegionId};

use super::super::own_process;
use super::super::tests::skipped;
use super::*;
use crate::{Backing, GuestMemory};

const R: RegionId = RegionId(0);

/// Runs `test` in a process in which nobody else has faults.
fn alone(name: &str, test: impl FnOnce(FaultLog, GuestMemory)) {
    if own_process::passes(name) {
        return;
    }
    let mut log = match FaultLog::open() {
        Ok(log) => log,
        Err(why) => return skipped(&format_args!("page faults cannot be logged: {why}")),
    };
    let layout = Layout::single(ByteCount(64 << 20)).expect("valid");
    let memory = GuestMemory::allocate(&layout, Backing::Private).expect("address space");
    assert!(!log.take(|_| ()).expect("read"), "it knows nothing before it is restarted");
    begin(&mut log);
    test(log, memory);
}

/// Begins anew until it is complete: on a busy host somebody may not be seen asleep at once.
fn begin(log: &mut FaultLog) {
    loop {
        log.restart().expect("restarted");
        if log.take(|_| ()).expect("read") {
            return;
        }
        thread::yield_now();
    }
}

fn write(memory: &GuestMemory, page: u64) {
    memory.store_u64(R, PageIndex(page).offset(), page).expect("in range");
}

/// Which pages of the memory the log names, and whether it is complete.
fn look(log: &mut FaultLog, memory: &GuestMemory) -> (Vec<u64>, bool) {
    let within = memory.regions().next().expect("one").1.addresses();
    let mut pages = Vec::with_capacity(BUFFER_PAGES * PAGE_SIZE);
    let complete = log.take(|address| {
        if within.contains(&address) {
            pages.push(((address - within.start) / PAGE_SIZE) as u64);
        }
    });
    pages.sort_unstable();
    (pages, complete.expect("read"))
}

#[test]
fn every_fault_is_in_it() {
    alone("fault_log::tests::every_fault_is_in_it", |mut log, memory| {
        for round in 0..100 {
            let pages = [3 * round, 3 * round + 1, 10_000 + round];
            pages.into_iter().for_each(|page| write(&memory, page));
            assert_eq!(look(&mut log, &memory), (pages.to_vec(), true));
            assert_eq!(look(&mut log, &memory), (Vec::new(), true));
        }
    });
}

/// Known to the log or not, alive or not.
#[test]
fn who_is_not_attached_to_makes_it_incomplete() {
    alone("fault_log::tests::who_is_not_attached_to_makes_it_incomplete", |mut log, memory| {
        let (orders, todo) = mpsc::channel();
        let (tell, done) = mpsc::channel();
        let other = memory.clone();
        let thread = thread::spawn(move || {
            for page in todo {
                write(&other, page);
                tell.send(()).expect("somebody waits");
            }
        });
        let order = |page| {
            orders.send(page).expect("it lives");
            done.recv().expect("done");
        };
        order(7);
        assert!(!look(&mut log, &memory).1, "the thread came after the restart");
        begin(&mut log);
        // The channels' own memory is known after this.
        order(8);
        assert_eq!(look(&mut log, &memory), (vec![8], true));
        order(9);
        drop(orders);
        thread.join().expect("ended");
        assert_eq!(look(&mut log, &memory), (vec![9], true), "of a thread that has ended");
        let before = log.threads.len();
        while log.threads.len() == before {
            log.restart().expect("restarted");
        }
    });
}

#[test]
fn what_has_no_room_makes_it_incomplete() {
    alone("fault_log::tests::what_has_no_room_makes_it_incomplete", |mut log, memory| {
        let room = (BUFFER_PAGES * PAGE_SIZE / (2 * WORD)) as u64;
        (0..room + 1).for_each(|page| write(&memory, page));
        let (pages, complete) = look(&mut log, &memory);
        assert!(!complete && pages.len() < room as usize + 1, "{}", pages.len());
        begin(&mut log);
        write(&memory, 2 * room);
        assert_eq!(look(&mut log, &memory), (vec![2 * room], true));
    });
}

/// The kernel populates what it is asked for, and counts faults that perf is not told of.
#[test]
fn what_is_done_on_behalf_of_somebody_makes_it_incomplete() {
    let name = "fault_log::tests::what_is_done_on_behalf_of_somebody_makes_it_incomplete";
    alone(name, |mut log, memory| {
        let at = memory.regions().next().expect("one").1.addresses().start;
        let at = std::ptr::with_exposed_provenance_mut(at);
        // SAFETY: the range is mapped, and its content stays as it is.
        let outcome = unsafe { libc::madvise(at, 4 * PAGE_SIZE, libc::MADV_POPULATE_WRITE) };
        checked(outcome.into()).expect("Linux 5.14");
        assert!(!look(&mut log, &memory).1);
    });
}

/// What it has counted may not be in its log yet.
#[test]
fn it_is_not_believed_while_somebody_cannot_be_seen_asleep() {
    let name = "fault_log::tests::it_is_not_believed_while_somebody_cannot_be_seen_asleep";
    alone(name, |mut log, memory| {
        let (over, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let busy = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
            while rounds.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            log.restart().expect("restarted");
            let (_, believed) = look(&mut log, &memory);
            over.store(true, Ordering::Relaxed);
            busy.join().expect("it ends");
            assert!(!believed);
        });
        begin(&mut log);
        write(&memory, 1);
        assert_eq!(look(&mut log, &memory), (vec![1], true));
    });
}

#[test]
fn only_own_threads_are_attached_to() {
    alone("fault_log::tests::only_own_threads_are_attached_to", |log, _| {
        let mut own = tasks().expect("listed");
        own.sort_unstable();
        assert!(log.threads.keys().eq(&own));
        assert_eq!(is_running(1).expect("looked for"), None, "another process's");
    });
}
