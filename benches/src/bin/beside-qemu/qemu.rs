//! QEMU with a guest that is nothing but a loop, over its debugger's and its monitor's protocol.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

/// Longer than anything takes that goes well.
const PATIENCE: Duration = Duration::from_secs(120);

/// Fills memory from 2 MiB to 1 GiB with random words, says so, and then writes a random word into
/// random pages of the 256 MiB from 256 MiB on, one each so many ticks, counting.
///
/// It runs without privileges and never leaves them, as a host may have to interpret what a system
/// does before it has set itself up.
#[rustfmt::skip]
const PROGRAM: &[u8] = &[
    0x48, 0xbb, 0x15, 0x7c, 0x4a, 0x7f, 0xb9, 0x79, 0x37, 0x9e, //       mov rbx, 0x9e3779b97f4a7c15
    0x41, 0xbf, 0x00, 0x10, 0x01, 0x00,             //       mov r15d, WORDS
    0xbf, 0x00, 0x00, 0x20, 0x00,                   //       mov edi, 2 MiB
    0xbe, 0x00, 0x00, 0x00, 0x40,                   //       mov esi, 1 GiB
    0xe8, 0x5b, 0x00, 0x00, 0x00,                   // fill: call random
    0x48, 0x89, 0x1f,                               //       mov [rdi], rbx
    0x48, 0x83, 0xc7, 0x08,                         //       add rdi, 8
    0x48, 0x39, 0xf7,                               //       cmp rdi, rsi
    0x72, 0xef,                                     //       jb fill
    0x49, 0xc7, 0x47, 0x10, 0x01, 0x00, 0x00, 0x00, //       mov qword [r15 + 16], 1
    0x0f, 0x31,                                     //       rdtsc
    0x48, 0xc1, 0xe2, 0x20,                         //       shl rdx, 32
    0x48, 0x09, 0xc2,                               //       or rdx, rax
    0x49, 0x89, 0xd0,                               //       mov r8, rdx
    0xe8, 0x36, 0x00, 0x00, 0x00,                   // work: call random
    0x48, 0x89, 0xd9,                               //       mov rcx, rbx
    0x48, 0xc1, 0xe9, 0x18,                         //       shr rcx, 24
    0x81, 0xe1, 0xff, 0xff, 0x00, 0x00,             //       and ecx, 65535
    0xc1, 0xe1, 0x0c,                               //       shl ecx, 12
    0x48, 0x89, 0x99, 0x00, 0x00, 0x00, 0x10,       //       mov [rcx + 256 MiB], rbx
    0x49, 0xff, 0x07,                               //       inc qword [r15]
    0x4d, 0x8b, 0x4f, 0x08,                         //       mov r9, [r15 + 8]
    0x4d, 0x85, 0xc9,                               //       test r9, r9
    0x74, 0xd8,                                     //       jz work
    0x4d, 0x01, 0xc8,                               //       add r8, r9
    0x0f, 0x31,                                     // wait: rdtsc
    0x48, 0xc1, 0xe2, 0x20,                         //       shl rdx, 32
    0x48, 0x09, 0xc2,                               //       or rdx, rax
    0x4c, 0x39, 0xc2,                               //       cmp rdx, r8
    0x72, 0xf2,                                     //       jb wait
    0xeb, 0xc5,                                     //       jmp work
    0x48, 0x89, 0xd9,                               // random: xorshift of 13, 7, 17
    0x48, 0xc1, 0xe1, 0x0d,
    0x48, 0x31, 0xcb,
    0x48, 0x89, 0xd9,
    0x48, 0xc1, 0xe9, 0x07,
    0x48, 0x31, 0xcb,
    0x48, 0x89, 0xd9,
    0x48, 0xc1, 0xe1, 0x11,
    0x48, 0x31, 0xcb,
    0xc3,
];
/// Where things are in the guest's memory: descriptors at zero, where they are after a reset.
const TABLES: [u64; 3] = [0x2000, 0x3000, 0x4000];
const STACK: u64 = 0x9000;
const CODE: u64 = 0x1_0000;
/// What was counted, ticks between two writes, and whether memory is filled.
const WORDS: u64 = 0x1_1000;
const MEMORY: &str = "1G";
/// The downtime that QEMU may take, in ms. It takes most of what is allowed; with less than this,
/// moves take longer.
const LIMIT_MS: u64 = 30;

/// The numbers of registers in the debugger's protocol.
mod register {
    pub(super) const RSP: u64 = 7;
    pub(super) const RIP: u64 = 16;
    pub(super) const FLAGS: u64 = 17;
    pub(super) const CS: u64 = 18;
    pub(super) const SS: u64 = 19;
    pub(super) const CR0: u64 = 27;
    pub(super) const CR3: u64 = 29;
    pub(super) const CR4: u64 = 30;
    pub(super) const EFER: u64 = 32;
}

/// A process that ends with its owner.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running QEMU.
pub(crate) struct Qemu {
    process: Owned,
    monitor: BufReader<TcpStream>,
}

/// A QEMU with these options besides; it calls back for its monitor.
fn start(more: &[&str]) -> anyhow::Result<Qemu> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-machine", "pc,accel=kvm", "-cpu", "host", "-m", MEMORY, "-nodefaults"]);
    command.args(["-display", "none", "-qmp", &format!("tcp:{}", listener.local_addr()?)]);
    let child = command.args(more).stdin(Stdio::null()).spawn();
    let mut process = Owned(child.context("no QEMU is here: apt-get install qemu-system-x86")?);
    let monitor = BufReader::new(called(&listener, &mut process)?);
    let mut qemu = Qemu { process, monitor };
    let _ = qemu.line()?;
    qemu.ask("qmp_capabilities", json!({}))?;
    let multifd = json!({ "capabilities": [{ "capability": "multifd", "state": true }] });
    qemu.ask("migrate-set-capabilities", multifd)?;
    Ok(qemu)
}

/// QEMU calls back, or ends and says why on its standard error.
fn called(listener: &TcpListener, process: &mut Owned) -> anyhow::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let began = Instant::now();
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        ensure!(process.0.try_wait()?.is_none(), "QEMU has ended: is /dev/kvm there?");
        ensure!(began.elapsed() < PATIENCE, "QEMU does not call back");
        std::thread::sleep(Duration::from_millis(1));
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Qemu {
    /// One that has filled its memory, and writes a page each so many ticks of its clock, or as
    /// fast as it can.
    pub(crate) fn at_work(ticks: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let debugger = format!("socket,id=debugger,host=127.0.0.1,port={port}");
        let mut qemu = start(&["-S", "-chardev", &debugger, "-gdb", "chardev:debugger"])?;
        let mut debugger = Debugger(called(&listener, &mut qemu.process)?);
        debugger.load(ticks)?;
        let began = Instant::now();
        while qemu.word(WORDS + 16)? == 0 {
            ensure!(began.elapsed() < PATIENCE, "the guest does not get its memory filled");
        }
        Ok(qemu)
    }

    /// One that waits for a guest, and where; with options besides.
    pub(crate) fn expecting(lanes: u16, more: &[&str]) -> anyhow::Result<(Self, String)> {
        let mut qemu = start(&[&["-incoming", "defer"], more].concat())?;
        qemu.ask("migrate-set-parameters", json!({ "multifd-channels": lanes }))?;
        qemu.ask("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" }))?;
        let told = qemu.ask("query-migrate", json!({}))?;
        let port = told["socket-address"][0]["port"].as_str().context("it listens")?.to_owned();
        Ok((qemu, format!("tcp:127.0.0.1:{port}")))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Page writes so far.
    pub(crate) fn writes(&mut self) -> anyhow::Result<u64> {
        self.word(WORDS)
    }

    /// Moves the guest, over several connections and as fast as it goes; QEMU's account of it.
    pub(crate) fn migrate(&mut self, to: &str, lanes: u16) -> anyhow::Result<Value> {
        let parameters = json!({
            "multifd-channels": lanes,
            "max-bandwidth": 1_u64 << 40,
            "downtime-limit": LIMIT_MS,
        });
        self.ask("migrate-set-parameters", parameters)?;
        self.ask("migrate", json!({ "uri": to }))?;
        let began = Instant::now();
        loop {
            let told = self.ask("query-migrate", json!({}))?;
            match told["status"].as_str() {
                Some("completed") => return Ok(told),
                Some("failed" | "cancelled") | None => anyhow::bail!("QEMU says {told}"),
                _ => ensure!(began.elapsed() < PATIENCE, "it does not end: {told}"),
            }
            // QEMU answers in the thread that the migration wants, too.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A word of the guest's memory.
    fn word(&mut self, at: u64) -> anyhow::Result<u64> {
        let line = format!("xp /1gx {at:#x}");
        let said = self.ask("human-monitor-command", json!({ "command-line": line }))?;
        let said = said.as_str().context("a text")?;
        let word = said.rsplit("0x").next().context("a number")?.trim();
        u64::from_str_radix(word, 16).with_context(|| format!("a number in {said:?}"))
    }

    fn ask(&mut self, command: &str, arguments: Value) -> anyhow::Result<Value> {
        let order = json!({ "execute": command, "arguments": arguments });
        self.monitor.get_mut().write_all(format!("{order}\n").as_bytes())?;
        loop {
            let mut said = self.line()?;
            if let Some(refused) = said.get("error") {
                anyhow::bail!("QEMU refuses {order}: {refused}");
            }
            // What it says between is what happens by itself.
            if let Some(told) = said.get_mut("return") {
                return Ok(told.take());
            }
        }
    }

    fn line(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        ensure!(self.monitor.read_line(&mut line)? > 0, "QEMU has ended");
        Ok(serde_json::from_str(&line)?)
    }
}

/// The protocol of GDB, with which the guest's memory and registers are set.
struct Debugger(TcpStream);

impl Debugger {
    /// Puts the program there, and lets it run in 64-bit mode, where each address is its own.
    fn load(&mut self, ticks: u64) -> anyhow::Result<()> {
        // Registers are set for those only who have asked which there are.
        self.ask("qXfer:features:read:target.xml:0,ff")?;
        // What the processor has is read here, so that it is written back when it goes on.
        self.ask("g")?;
        // Code and data without privileges; tables with a page for each 2 MiB.
        self.write(8, &[0x00af_fb00_0000_ffff, 0x00cf_f300_0000_ffff])?;
        self.write(TABLES[0], &[TABLES[1] | 7])?;
        self.write(TABLES[1], &[TABLES[2] | 7])?;
        let pages: Vec<_> = (0..512).map(|page| page << 21 | 0x87).collect();
        // A packet takes 4 KiB of text.
        for (at, pages) in (TABLES[2]..).step_by(1024).zip(pages.chunks(128)) {
            self.write(at, pages)?;
        }
        let words = PROGRAM.chunks(8).map(|bytes| {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(word)
        });
        self.write(CODE, &words.collect::<Vec<_>>())?;
        self.write(WORDS + 8, &[ticks])?;
        let set = [
            (register::CR4, 0x20),
            (register::CR3, TABLES[0]),
            (register::EFER, 0x500),
            (register::CR0, 0x8000_0011),
        ];
        for (register, value) in set {
            self.set(register, &value.to_le_bytes())?;
        }
        self.set(register::CS, &0xb_u32.to_le_bytes())?;
        for register in register::SS..register::SS + 5 {
            self.set(register, &0x13_u32.to_le_bytes())?;
        }
        self.set(register::FLAGS, &2_u32.to_le_bytes())?;
        self.set(register::RSP, &STACK.to_le_bytes())?;
        self.set(register::RIP, &CODE.to_le_bytes())?;
        // Lets go of the processor, which goes on.
        ensure!(self.ask("D")? == "OK", "the guest does not begin");
        Ok(())
    }

    fn set(&mut self, register: u64, value: &[u8]) -> anyhow::Result<()> {
        let said = self.ask(&format!("P{register:x}={}", hex(value)))?;
        ensure!(said == "OK", "register {register} is not set: {said}");
        Ok(())
    }

    fn write(&mut self, at: u64, words: &[u64]) -> anyhow::Result<()> {
        let bytes: Vec<_> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let said = self.ask(&format!("M{at:x},{:x}:{}", bytes.len(), hex(&bytes)))?;
        ensure!(said == "OK", "memory at {at:#x} is not written: {said}");
        Ok(())
    }

    fn ask(&mut self, words: &str) -> anyhow::Result<String> {
        let sum = words.bytes().fold(0_u8, u8::wrapping_add);
        write!(self.0, "${words}#{sum:02x}")?;
        while self.byte()? != b'$' {}
        let mut said = String::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => said.push(byte.into()),
            }
        }
        // The sum of it, which nothing disturbs between two processes of one host.
        self.0.read_exact(&mut [0; 2])?;
        self.0.write_all(b"+")?;
        Ok(said)
    }

    fn byte(&mut self) -> anyhow::Result<u8> {
        let mut byte = [0];
        self.0.read_exact(&mut byte)?;
        Ok(byte[0])
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Text takes all that is written.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
