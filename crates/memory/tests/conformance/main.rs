//! One suite over every tracker and every kind of memory.

mod cases;
mod harvests;
mod lifecycle;
mod racing;

use cases::Case;

/// Makes a module for each kind of memory, with a test for each check of the suite.
macro_rules! suite {
    ($($memory:ident: $tracker:ident $backing:ident $huge:ident $writers:ident;)*) => {$(
        mod $memory {
            use whimbrel_memory::{Backing, HugePages, TrackerKind, Writers};
            const CASE: super::Case = super::Case {
                kind: TrackerKind::$tracker,
                backing: Backing::$backing,
                huge: HugePages::$huge,
                writers: Writers::$writers,
            };
            suite!(@checks
                super::harvests: what_was_written_is_found_once,
                super::harvests: memory_is_armed_however_it_was_populated,
                super::harvests: what_is_populated_later_is_found,
                super::harvests: a_full_region_is_found,
                super::harvests: alternating_pages_are_found,
                super::harvests: a_read_is_no_write_of_what_is_armed,
                super::harvests: kernel_writes_are_found,
                super::harvests: discards_are_found,
                super::harvests: regions_do_not_mix,
                super::harvests: a_paused_harvest_finds_all_and_loses_nothing,
                super::lifecycle: arms_again_after_disarming,
                super::lifecycle: dropping_disarms,
                super::lifecycle: one_owner_at_a_time,
                super::lifecycle: calls_out_of_order_are_refused,
                super::lifecycle: memories_do_not_mix,
                super::racing: racing_writers_lose_nothing,
                super::racing: racing_discards_lose_nothing,
                super::racing: arming_again_and_again_under_writers,
                super::racing: what_sockets_bring_is_not_lost,
            );
        }
    )*};
    (@checks $($group:path: $check:ident,)*) => {$(
        #[test]
        fn $check() {
            use $group as group;
            CASE.run(stringify!($check), group::$check);
        }
    )*};
}

suite! {
    userfaultfd_private: Userfaultfd Private HostDefault Anyone;
    userfaultfd_shared: Userfaultfd Shared HostDefault Anyone;
    userfaultfd_transparent: Userfaultfd Private Transparent Anyone;
    userfaultfd_reserved: Userfaultfd Private Reserved Anyone;
    userfaultfd_shared_reserved: Userfaultfd Shared Reserved Anyone;
    userfaultfd_own_private: Userfaultfd Private HostDefault OwnThreads;
    userfaultfd_own_shared: Userfaultfd Shared HostDefault OwnThreads;
    userfaultfd_own_transparent: Userfaultfd Private Transparent OwnThreads;
    userfaultfd_own_reserved: Userfaultfd Private Reserved OwnThreads;
    userfaultfd_own_shared_reserved: Userfaultfd Shared Reserved OwnThreads;
    mprotect_private: Mprotect Private HostDefault Anyone;
    mprotect_shared: Mprotect Shared HostDefault Anyone;
    mprotect_transparent: Mprotect Private Transparent Anyone;
    mprotect_reserved: Mprotect Private Reserved Anyone;
    mprotect_shared_reserved: Mprotect Shared Reserved Anyone;
    write_watch_private: WriteWatch Private HostDefault Anyone;
    write_watch_transparent: WriteWatch Private Transparent Anyone;
    model_private: Model Private HostDefault Anyone;
    model_shared: Model Shared HostDefault Anyone;
}
