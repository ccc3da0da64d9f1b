//! A strict reader of Prometheus' text format: what it takes, every scraper takes.

use std::collections::{BTreeMap, BTreeSet};

/// All samples of a page, by name and labels as they were written.
pub type Samples = BTreeMap<String, f64>;

/// Reads a page.
///
/// # Errors
/// What breaks the format, or what is not as the field names things: a family without HELP or
/// TYPE, or two of one name, a sample outside of its family or twice, a counter without `_total`,
/// a histogram whose buckets do not add up.
pub fn read(page: &str) -> Result<Samples, String> {
    let mut reader = Reader::default();
    for line in page.lines() {
        reader.line(line).map_err(|why| format!("{why}: {line}"))?;
    }
    if !page.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    reader.check_histograms()?;
    Ok(reader.samples)
}

#[derive(Default)]
struct Reader {
    samples: Samples,
    families: BTreeSet<String>,
    helped: Option<String>,
    /// Name and type of the family that is being read.
    family: Option<(String, String)>,
    histograms: Vec<String>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), &'static str> {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').ok_or("a HELP without a text")?;
            if text.trim().is_empty() || !is_name(name) {
                return Err("a HELP that says nothing");
            }
            self.helped = Some(name.to_owned());
            return Ok(());
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            return self.kind(kind);
        }
        self.sample(line)
    }

    fn kind(&mut self, text: &str) -> Result<(), &'static str> {
        let (name, kind) = text.split_once(' ').ok_or("a TYPE without a type")?;
        if self.helped.take().as_deref() != Some(name) {
            return Err("a TYPE without its HELP before");
        }
        if !self.families.insert(name.to_owned()) {
            return Err("a family twice");
        }
        match kind {
            "counter" if !name.ends_with("_total") => return Err("a counter without _total"),
            "gauge" if name.ends_with("_total") => return Err("a gauge with _total"),
            "histogram" => self.histograms.push(name.to_owned()),
            "counter" | "gauge" => {}
            _ => return Err("an unknown type"),
        }
        self.family = Some((name.to_owned(), kind.to_owned()));
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<(), &'static str> {
        let (series, value) = line.rsplit_once(' ').ok_or("no value")?;
        let value: f64 = value.parse().map_err(|_| "a value that is no number")?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').ok_or("labels without end")?),
            None => (series, ""),
        };
        check_labels(labels)?;
        let (family, kind) = self.family.as_ref().ok_or("a sample without a family")?;
        let suffix = name.strip_prefix(family.as_str()).ok_or("a sample of another family")?;
        let suffixes: &[&str] =
            if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        if !suffixes.contains(&suffix) {
            return Err("a sample of another name");
        }
        match self.samples.insert(series.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err("a sample twice"),
        }
    }

    fn check_histograms(&self) -> Result<(), String> {
        for name in &self.histograms {
            let buckets = self.samples.iter().filter_map(|(series, value)| {
                let labels = series.strip_prefix(&format!("{name}_bucket{{"))?;
                let (others, end) = labels.split_once("le=\"")?;
                let end = end.trim_end_matches(['"', '}']);
                let end = if end == "+Inf" { f64::INFINITY } else { end.parse().ok()? };
                Some((others.trim_end_matches(',').to_owned(), end, *value))
            });
            let mut series: BTreeMap<_, Vec<_>> = BTreeMap::new();
            buckets.for_each(|(labels, end, count)| {
                series.entry(labels).or_default().push((end, count))
            });
            for (labels, mut buckets) in series {
                buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
                let all = self.samples.get(&format!("{name}_count{{{labels}}}")).copied();
                let grows = buckets.is_sorted_by(|one, next| one.1 <= next.1);
                let last = buckets.last().copied();
                if !grows
                    || last.map(|(_, count)| count) != all
                    || last.map(|l| l.0) != Some(f64::INFINITY)
                {
                    return Err(format!("the buckets of {name} {labels} do not add up"));
                }
            }
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(plain)
}

fn check_labels(mut labels: &str) -> Result<(), &'static str> {
    while !labels.is_empty() {
        let (name, rest) = labels.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name) {
            return Err("a label's name");
        }
        let mut escaped = false;
        let end = rest.char_indices().find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let (end, _) = end.ok_or("a label's value without end")?;
        labels = rest[end + 1..].trim_start_matches(',');
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::read;

    const GOOD: &str = "# HELP a_total What.\n# TYPE a_total counter\na_total{x=\"1\"} 2\n";

    #[test]
    fn a_good_page_is_read() {
        assert_eq!(read(GOOD).expect("good")["a_total{x=\"1\"}"], 2.0);
        let histogram = "# HELP h What.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\n\
                         h_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count{} 2\n";
        read(histogram).expect("good");
    }

    #[test]
    fn what_a_scraper_refuses_is_refused() {
        for (from, to) in [
            ("# HELP a_total What.\n", ""),
            (" counter", " gauge"),
            (" counter", " thing"),
            ("a_total{x=\"1\"} 2", "b_total 2"),
            ("} 2", "} two"),
            ("\"1\"", "\"1"),
            ("} 2\n", "} 2"),
            ("} 2\n", "} 2\na_total{x=\"1\"} 2\n"),
        ] {
            assert!(read(&GOOD.replace(from, to)).is_err(), "{from} as {to}");
        }
        let shrinks = "# HELP h W\n# TYPE h histogram\nh_bucket{le=\"1\"} 3\n\
                       h_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count{} 2\n";
        assert!(read(shrinks).expect_err("bad").contains("add up"));
    }
}
