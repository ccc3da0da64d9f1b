//! How this program's processes log: lines for people, or objects for programs. Every line that
//! belongs to a migration stands within a span `migration`, which carries its `id`.

use std::fmt;
use std::io;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What a line of a log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object a line: `timestamp`, `level`, `target`, `message`, fields, and `span`.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("`{other}` is no format of a log: text or json")),
        }
    }
}

/// Sends all that this process traces to `writer`. What finds no room there is not said elsewhere:
/// the standard error may be the same full disk, and a failure to write there is a panic.
///
/// # Errors
/// This process has a log already.
pub fn start_log<W>(format: LogFormat, writer: W) -> io::Result<()>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_max_level(LevelFilter::INFO);
    match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).try_init(),
    }
    .map_err(io::Error::other)
}

/// The span of one migration.
pub(crate) fn migration_span(id: &str) -> tracing::Span {
    tracing::info_span!("migration", id)
}
