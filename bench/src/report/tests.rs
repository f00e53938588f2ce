//! Pages of made-up documents of every kind.

use super::*;
use crate::result::{Kind, RunResult, sample};

/// A document of every kind, with awkward texts.
fn documents() -> Vec<Document> {
    let document = |kind, results| Document { kind, results, ..sample::document() };
    let mut failing = sample::result();
    failing.name = "<script>alert('&')</script>".to_owned();
    let mut empty = sample::result();
    (empty.series, empty.percentiles, empty.operations) = Default::default();
    empty.cost = Default::default();
    vec![
        document(Kind::Run, vec![sample::result()]),
        document(Kind::Run, sample::rounds(5, 1.0, 1)),
        document(Kind::Run, vec![empty]),
        document(Kind::Run, Vec::new()),
        document(Kind::Failover, vec![failing]),
        document(Kind::Sweep, sample::sweep()),
        document(Kind::Scale, sample::scale()),
        document(Kind::Peers, sample::peers()),
    ]
}

/// Checks that every tag is closed, that attributes are quoted and that no `&` or `<` stands alone.
fn assert_well_formed(text: &str) {
    let mut open: Vec<String> = Vec::new();
    let mut rest = text.strip_prefix("<!doctype html>").expect("a doctype");
    while let Some(start) = rest.find('<') {
        assert_entities(&rest[..start]);
        rest = &rest[start + 1..];
        let end = rest.find('>').expect("a tag has an end");
        let tag = &rest[..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "{tag} before …{:.80}", rest);
            continue;
        }
        let name = tag.split([' ', '/']).next().expect("split gives one").to_owned();
        assert!(!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric()), "<{tag}>");
        assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}>");
        for (number, part) in tag.trim_end_matches('/').split('"').enumerate() {
            assert_entities(part);
            assert!(number % 2 == 1 || !part.contains('&'), "<{tag}>");
        }
        if name == "style" {
            // Its content is no markup.
            rest = &rest[rest.find("</style>").expect("the style ends")..];
        }
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
}

fn assert_entities(text: &str) {
    for part in text.split('&').skip(1) {
        let name = part.split(';').next().unwrap_or_default();
        assert!(["amp", "lt", "gt", "quot", "#39"].contains(&name), "&{part:.20}");
    }
}

#[test]
fn pages_of_all_kinds_are_well_formed_and_need_nothing_else() {
    for document in documents() {
        let page = html(&document);
        assert_well_formed(&page);
        let links = page.replace("http://www.w3.org/2000/svg", "");
        for outside in ["http:", "https:", "<script", "<link", "@import", "url(", "src=", "NaN"] {
            assert!(!links.contains(outside), "{outside} in the page of {:?}", document.kind);
        }
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("name=\"viewport\""));
        let (wide, narrow) =
            (page.matches("<div class=\"wide\">"), page.matches("class=\"narrow\""));
        assert_eq!(wide.count(), narrow.count());
        assert!(!table(&document).is_empty());
    }
}

#[test]
fn each_kind_has_its_pictures() {
    let titles = |document: &Document| -> Vec<String> {
        pictures::pictures(document).into_iter().map(|picture| picture.title).collect()
    };
    let begins = |titles: &[String], starts: &[&str]| {
        assert_eq!(titles.len(), starts.len(), "{titles:?}");
        for (title, start) in titles.iter().zip(starts) {
            assert!(title.starts_with(start), "{title} does not start with {start}");
        }
    };
    let documents = documents();
    let run = [
        "Latency of operations by percentile, ms",
        "Throughput over time, operations/s",
        "99th percentile over time, ms",
    ];
    begins(&titles(&documents[0]), &run);
    begins(&titles(&documents[2]), &[]);
    begins(&titles(&documents[5])[..1], &["Latency against throughput"]);
    begins(
        &titles(&documents[6]),
        &[
            "Throughput over shards",
            "CPU time over shards",
            "Throughput over clients",
            "CPU time over clients",
        ],
    );
    let peers = titles(&documents[7]);
    begins(&peers[..2], &["Throughput, operations/s (longer", "CPU time of all servers, µs"]);
}

#[test]
fn the_page_tells_the_verdict_the_machine_and_the_settings() {
    let page = html(&documents()[0]);
    for part in [
        "<div class=\"much\">40,900/s</div>",
        "<div class=\"what\">get p99</div><div class=\"much\">6.40 ms</div>",
        "<div class=\"what\">server CPU per operation</div><div class=\"much\">17.9 µs</div>",
        "<div class=\"tile bad\"><div class=\"what\">unknown outcomes</div><div class=\"much\">3</div>",
        "Example CPU &lt;5&gt;, virtual, 2 cores, 24 GiB",
        "p50 85.0 µs, p99 147 µs (512 samples)",
        "<dt>clients</dt><dd>64</dd>",
        "<dt>in flight on each</dt><dd>4</dd>",
        "fdatasync before each acknowledgement",
        ">leader killed</text>",
        "install the Debian package nats-server",
        "longest write gap",
        "<code>flotilla-bench run --workload a</code>",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn everything_is_written_beside_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let document = sample::document();
    let latencies = Latencies::new();
    let histograms = [("ycsb a/get".to_owned(), &latencies)];
    let files = write(&directory.path().join("out"), &document, &histograms).unwrap();
    let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["result.json", "report.html", "ycsb-a-get.hgrm"]);
    assert!(files.iter().all(|file| file.metadata().unwrap().len() > 100));
    assert_eq!(Document::read(&files[0]).unwrap(), document);
}

/// Writes the pages of the made-up documents where `FLOTILLA_BENCH_PAGES` says, to look at them.
#[test]
fn pages_can_be_looked_at() {
    let Some(directory) = std::env::var_os("FLOTILLA_BENCH_PAGES") else { return };
    for (number, document) in documents().iter().enumerate() {
        let name = format!("{number}-{:?}", document.kind).to_lowercase();
        write(&Path::new(&directory).join(name), document, &[]).unwrap();
    }
}

#[test]
fn a_round_more_does_not_make_a_second_measurement() {
    let results: Vec<RunResult> = sample::rounds(3, 1.0, 7);
    let document = Document { results, ..sample::document() };
    assert!(table_of_width(&document, 160).contains("ycsb-a (3 rounds)"));
    assert!(html(&document).contains("median of 3 rounds"));
}
