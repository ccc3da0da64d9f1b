//! `check-demo GUEST_RAM_MIB < account.json`: exit status 0 if the account of `demo --json` is
//! that of a completed and verified migration. Does not run the demo.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;

use whimbrel_tests::demo;

fn main() -> ExitCode {
    let size = std::env::args().nth(1).and_then(|size| size.parse::<u64>().ok());
    let (Some(mib), Ok(account)) = (size, io::read_to_string(io::stdin())) else {
        eprintln!("usage: check-demo GUEST_RAM_MIB < account.json");
        return ExitCode::from(2);
    };
    let faults = demo::faults(&account, mib << 20);
    faults.iter().for_each(|fault| eprintln!("{fault}"));
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
