use std::ffi::OsString;
use std::path::PathBuf;

use super::COMMAND;
use crate::log::LogFormat;

/// What an agent tells a guest process on its command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) folder: PathBuf,
    pub(super) die_with_parent: bool,
    pub(super) log: LogFormat,
}

impl Arguments {
    pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut arguments = arguments.into_iter();
        let mut folder = None;
        let mut die_with_parent = false;
        let mut log = LogFormat::default();
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                Some("--folder") => folder = arguments.next().map(PathBuf::from),
                Some("--die-with-parent") => die_with_parent = true,
                Some("--log") => {
                    let format = arguments.next().and_then(|format| format.into_string().ok());
                    log = format.unwrap_or_default().parse()?;
                }
                _ => return Err(format!("{COMMAND} knows no argument {argument:?}")),
            }
        }
        let folder = folder.ok_or_else(|| {
            format!("{COMMAND} needs --folder: an agent starts it; to start a guest, ask the agent")
        })?;
        Ok(Self { folder, die_with_parent, log })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments, String> {
        Arguments::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn a_folder_is_needed_and_nothing_else_is_known() {
        let folder = PathBuf::from("/x");
        let parsed = parse(&["--folder", "/x"]);
        let plain = Arguments { folder, die_with_parent: false, log: LogFormat::Text };
        assert_eq!(parsed.as_ref(), Ok(&plain));
        let parsed = parse(&["--die-with-parent", "--folder", "/x", "--log", "json"]);
        assert_eq!(parsed, Ok(Arguments { die_with_parent: true, log: LogFormat::Json, ..plain }));
        assert!(parse(&["--folder", "/x", "--log", "xml"]).unwrap_err().contains("text or json"));
        assert!(parse(&[]).unwrap_err().contains("ask the agent"));
        assert!(parse(&["--folder"]).is_err());
        assert!(parse(&["--folder", "/x", "-v"]).unwrap_err().contains("-v"));
    }
}
