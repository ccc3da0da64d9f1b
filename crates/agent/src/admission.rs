//! What a host takes: a guest is refused before anything is made for it.

use std::sync::Arc;

use tonic::Status;
use whimbrel_control::api::Direction;
use whimbrel_engine::page::ByteCount;

use crate::guests::Guest;
use crate::options::Limits;

/// The longest name of a guest, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 64;

/// What the host has of memory, and what of it is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// The most that may be promised.
    pub(crate) limit: ByteCount,
    /// What living guests were promised.
    pub(crate) promised: ByteCount,
    /// What a newcomer may ask for.
    pub(crate) free: ByteCount,
}

/// The account of memory with these guests, on a host that has `available` bytes left.
pub(crate) fn memory(limits: &Limits, available: ByteCount, living: &[Arc<Guest>]) -> Memory {
    let promised: u64 = living.iter().map(|guest| guest.memory().0).sum();
    // Promised and not yet used: the host still counts it as available.
    let unused = |guest: &Arc<Guest>| {
        let resident = guest.identity().map_or(ByteCount::ZERO, |process| process.resident());
        guest.memory().0.saturating_sub(resident.0)
    };
    let unused: u64 = living.iter().map(unused).sum();
    let backed = available.0.saturating_sub(unused);
    let backed = if limits.overcommit { u64::MAX } else { backed };
    let limit = limits.memory.map_or(backed.saturating_add(promised), |limit| limit.0);
    let free = backed.min(limit.saturating_sub(promised));
    Memory { limit: ByteCount(limit), promised: ByteCount(promised), free: ByteCount(free) }
}

/// Whether `newcomer` may join the `living`.
pub(crate) fn check(
    limits: &Limits,
    available: ByteCount,
    newcomer: &Guest,
    living: &[Arc<Guest>],
) -> Result<(), Status> {
    let name = &newcomer.config.name;
    if let Some(there) = living.iter().find(|guest| guest.uuid == newcomer.uuid) {
        let uuid = newcomer.uuid;
        let why = match there.running_migration() {
            Some(earlier) if earlier.direction == Direction::In => format!(
                "an earlier attempt to bring `{name}` here is not over: it waits for a lost link, \
                 and ends by itself or by `whimbrel cancel {name}` here; try again then"
            ),
            _ => format!("a guest with the identity {uuid} is here already"),
        };
        return Err(Status::already_exists(why));
    }
    check_name(name)?;
    if living.iter().any(|guest| guest.config.name == *name) {
        let why = format!("a guest called `{name}` is here already; choose another name");
        return Err(Status::already_exists(why));
    }
    let most = limits.guests;
    if living.len() as u64 >= u64::from(most) {
        let why = format!("this host holds its limit of {most} guests; stop or move one first");
        return Err(Status::resource_exhausted(why));
    }
    let Memory { limit, promised, free } = memory(limits, available, living);
    if newcomer.memory() > free {
        let why = format!(
            "this host has no room for {} of memory: {} are free ({} of {} are promised); choose \
             another host, or give the guest less",
            newcomer.memory(),
            free,
            promised,
            limit
        );
        return Err(Status::resource_exhausted(why));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), Status> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
        let why = format!(
            "`{}` is not a guest's name: it has 1 to {NAME_BYTES_MAX} letters, digits, and - _ .",
            name.chars().take(NAME_BYTES_MAX).collect::<String>().escape_debug()
        );
        return Err(Status::invalid_argument(why));
    }
    Ok(())
}

/// Whether another migration may begin in this direction.
pub(crate) fn check_migrations(
    limits: &Limits,
    direction: Direction,
    guests: &[Arc<Guest>],
) -> Result<(), Status> {
    let most = limits.migrations;
    if migrations(direction, guests) >= most {
        let way = if direction == Direction::In { "to" } else { "from" };
        let why = format!(
            "{most} guests are moving {way} this host already, which is its limit; wait for one"
        );
        return Err(Status::resource_exhausted(why));
    }
    Ok(())
}

/// How many guests are moving in this direction.
pub(crate) fn migrations(direction: Direction, guests: &[Arc<Guest>]) -> u32 {
    let moving = guests.iter().filter_map(|guest| guest.running_migration());
    moving.filter(|migration| migration.direction == direction).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::GuestFolder;
    use crate::guests::{Life, Migration};
    use crate::process_api::GuestFile;
    use whimbrel_control::api::{MigrationStatus, Outcome};
    use whimbrel_engine::protocol::GuestUuid;

    const GIB: u64 = 1 << 30;

    fn guest(uuid: u128, name: &str, memory_bytes: u64) -> Guest {
        let config = GuestFile { name: name.to_owned(), memory_bytes, ..Default::default() };
        Guest::new(GuestUuid(uuid), config, GuestFolder::at("/nowhere".into()), Life::Starting)
    }

    fn refusal(limits: &Limits, newcomer: &Guest, living: &[Arc<Guest>]) -> (tonic::Code, String) {
        let status = check(limits, ByteCount(4 * GIB), newcomer, living).unwrap_err();
        (status.code(), status.message().to_owned())
    }

    #[test]
    fn memory_is_promised_once() {
        let limits = Limits::default();
        let living = [Arc::new(guest(1, "a", 3 * GIB))];
        check(&limits, ByteCount(4 * GIB), &guest(2, "b", GIB), &living).unwrap();
        let (code, why) = refusal(&limits, &guest(2, "b", GIB + 4096), &living);
        assert_eq!(code, tonic::Code::ResourceExhausted);
        assert!(why.contains("no room"), "{why}");
        let limits = Limits { memory: Some(ByteCount(2 * GIB)), ..limits };
        check(&limits, ByteCount(4 * GIB), &guest(2, "b", 2 * GIB), &[]).unwrap();
        refusal(&limits, &guest(2, "b", 2 * GIB + 4096), &[]);
    }

    #[test]
    fn a_host_that_overcommits_keeps_only_to_its_limit() {
        let limits = Limits { overcommit: true, ..Limits::default() };
        check(&limits, ByteCount(GIB), &guest(1, "a", 256 * GIB), &[]).unwrap();
        let limits = Limits { memory: Some(ByteCount(255 * GIB)), ..limits };
        refusal(&limits, &guest(1, "a", 256 * GIB), &[]);
    }

    #[test]
    fn names_identities_and_numbers_are_limited() {
        let limits = Limits { guests: 1, ..Limits::default() };
        let living = [Arc::new(guest(1, "a", 0))];
        assert_eq!(refusal(&limits, &guest(1, "b", 0), &living).0, tonic::Code::AlreadyExists);
        assert_eq!(refusal(&limits, &guest(2, "a", 0), &living).0, tonic::Code::AlreadyExists);
        let (code, why) = refusal(&limits, &guest(2, "b", 0), &living);
        assert_eq!(code, tonic::Code::ResourceExhausted);
        assert!(why.contains("limit of 1 guests"), "{why}");
        for name in ["", "a b", "a\n", "../x", &"n".repeat(65)] {
            assert_eq!(refusal(&limits, &guest(3, name, 0), &[]).0, tonic::Code::InvalidArgument);
        }
    }

    #[test]
    fn a_retry_before_the_earlier_attempt_is_over_is_told_to_wait() {
        let there = Arc::new(guest(1, "a", 0));
        let mut status = MigrationStatus::default();
        status.set_direction(Direction::In);
        there.set_migration(Migration::new(status));
        let (code, why) = refusal(&Limits::default(), &guest(1, "a", 0), &[there]);
        assert_eq!(code, tonic::Code::AlreadyExists);
        assert!(why.contains("`whimbrel cancel a`") && why.contains("try again"), "{why}");
    }

    #[test]
    fn migrations_are_counted_each_way_while_they_run() {
        let limits = Limits { migrations: 1, ..Limits::default() };
        let mover = Arc::new(guest(1, "a", 0));
        let mut status = MigrationStatus::default();
        status.set_direction(Direction::In);
        let migration = Migration::new(status);
        mover.set_migration(Arc::clone(&migration));
        let guests = [mover];
        let status = check_migrations(&limits, Direction::In, &guests).unwrap_err();
        assert!(status.message().contains("limit"), "{status}");
        check_migrations(&limits, Direction::Out, &guests).unwrap();
        migration.publish(|status| status.set_outcome(Outcome::Completed));
        check_migrations(&limits, Direction::In, &guests).unwrap();
    }
}
