//! What the host says of itself.

use std::io;

use windows_sys::Wdk::System::SystemInformation::{
    NtQuerySystemInformation, SystemTimeOfDayInformation,
};
use windows_sys::Wdk::System::SystemServices::RtlGetVersion;
use windows_sys::Win32::System::SystemInformation::{
    GlobalMemoryStatusEx, MEMORYSTATUSEX, OSVERSIONINFOW,
};

use crate::checked;

/// Memory of the host, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What processes could be given without anything being written to the page file.
    pub free: u64,
    /// What the system can still promise, page file included.
    pub promisable: u64,
}

/// The memory of the host now.
///
/// # Errors
/// What the system says.
pub fn memory() -> io::Result<Memory> {
    let size = size_of::<MEMORYSTATUSEX>() as u32;
    let mut found = MEMORYSTATUSEX { dwLength: size, ..Default::default() };
    // SAFETY: the structure says how large it is.
    checked(unsafe { GlobalMemoryStatusEx(&mut found) })?;
    Ok(Memory { free: found.ullAvailPhys, promisable: found.ullAvailPageFile })
}

/// The version of the system: major, minor and build.
///
/// # Errors
/// What the system says.
pub fn version() -> io::Result<(u32, u32, u32)> {
    let size = size_of::<OSVERSIONINFOW>() as u32;
    let mut found = OSVERSIONINFOW { dwOSVersionInfoSize: size, ..Default::default() };
    // SAFETY: the structure says how large it is.
    agreed(unsafe { RtlGetVersion(&mut found) })?;
    Ok((found.dwMajorVersion, found.dwMinorVersion, found.dwBuildNumber))
}

/// `SYSTEM_TIMEOFDAY_INFORMATION`, of which windows-sys names no field.
#[repr(C)]
#[derive(Default)]
struct TimeOfDay {
    boot: i64,
    now: i64,
    zone_bias: i64,
    zone: u32,
    reserved: u32,
    /// By how much the boot time was moved because somebody set the clock.
    boot_bias: u64,
    sleep_bias: u64,
}

/// When the system started, in units of 100 ns since 1601 by the clock as it was set then. It is
/// the same as long as the system runs.
///
/// # Errors
/// What the system says.
pub fn boot_time() -> io::Result<u64> {
    let mut found = TimeOfDay::default();
    let size = size_of::<TimeOfDay>() as u32;
    let into = (&raw mut found).cast();
    let mut told = 0;
    // SAFETY: the system writes no more than the size it is told.
    agreed(unsafe { NtQuerySystemInformation(SystemTimeOfDayInformation, into, size, &mut told) })?;
    Ok((found.boot as u64).wrapping_sub(found.boot_bias))
}

fn agreed(status: i32) -> io::Result<()> {
    let failed = || io::Error::other(format!("the system answers with status {status:#x}"));
    if status == 0 { Ok(()) } else { Err(failed()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_says_something() {
        assert!(version().unwrap().0 >= 6);
        let memory = memory().unwrap();
        assert!(memory.free > 1 << 20 && memory.promisable > 1 << 20, "{memory:?}");
        assert_ne!(boot_time().unwrap(), 0);
        assert_eq!(boot_time().unwrap(), boot_time().unwrap());
    }
}
