//! The log of a guest process: a file that does not grow without end.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::log::{LogFormat, start_log};
use crate::os;

/// When the log has this many bytes it begins anew.
const SIZE_MAX: u64 = 4 << 20;

/// Sends all that this process traces to the file at `path`.
pub(super) fn start(path: &Path, format: LogFormat) -> io::Result<()> {
    start_log(format, Mutex::new(Log::open(path, SIZE_MAX)?))
}

struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    size_max: u64,
}

impl Log {
    fn open(path: &Path, size_max: u64) -> io::Result<Self> {
        let file = os::append_private(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, size_max })
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.size + line.len() as u64 > self.size_max {
            // A file that is open to be added to can be cut on some systems only.
            OpenOptions::new().write(true).open(&self.path)?.set_len(0)?;
            self.size = 0;
        }
        let written = self.file.write(line)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for _ in 0..2 {
            let mut log = Log::open(&path, 20).unwrap();
            for line in ["first line\n", "second\n", "third\n"] {
                log.write_all(line.as_bytes()).unwrap();
            }
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second\nthird\n");
    }
}
