//! Workloads that have a name, and the text that names one.

use std::path::Path;

use anyhow::Context;

use super::{Distribution, Workload};
use crate::keys::KeyFormat;
use crate::target::OperationKind::{Get, Insert, Put, ReadModifyWrite, Scan};

/// Keys of YCSB's ten fields of a hundred bytes.
const YCSB_VALUE_BYTES: usize = 1_000;

/// Keys when nobody says how many.
const KEYS: u64 = 100_000;

/// Rows of YCSB's scans at most.
const SCAN_ROWS_MAX: u32 = 100;

/// Names that are known, for messages.
const NAMES: &str = "a, b, c, d, e, f, put, get, scan, or a file in YCSB's form";

impl Workload {
    /// The workload called `text`: one of YCSB's, a plain one, or a file of properties as YCSB has
    /// them.
    ///
    /// # Errors
    ///
    /// If there is no such name and no such file, or the file is not understood, in words.
    pub fn named(text: &str) -> anyhow::Result<Workload> {
        let zipfian = Distribution::Zipfian;
        let (mix, distribution, value_bytes) = match text {
            "a" => (vec![(Get, 0.5), (Put, 0.5)], zipfian, YCSB_VALUE_BYTES),
            "b" => (vec![(Get, 0.95), (Put, 0.05)], zipfian, YCSB_VALUE_BYTES),
            "c" => (vec![(Get, 1.0)], zipfian, YCSB_VALUE_BYTES),
            "d" => (vec![(Get, 0.95), (Insert, 0.05)], Distribution::Latest, YCSB_VALUE_BYTES),
            "e" => (vec![(Scan, 0.95), (Insert, 0.05)], zipfian, YCSB_VALUE_BYTES),
            "f" => (vec![(Get, 0.5), (ReadModifyWrite, 0.5)], zipfian, YCSB_VALUE_BYTES),
            "put" => (vec![(Put, 1.0)], Distribution::Uniform, YCSB_VALUE_BYTES),
            "get" => (vec![(Get, 1.0)], Distribution::Uniform, YCSB_VALUE_BYTES),
            "scan" => (vec![(Scan, 1.0)], Distribution::Uniform, YCSB_VALUE_BYTES),
            file => {
                let path = Path::new(file);
                let text = std::fs::read_to_string(path).with_context(|| {
                    format!("`{file}` is no workload ({NAMES}), and cannot be read as a file")
                })?;
                let name =
                    path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into());
                return Workload::from_properties(&name, &text).with_context(|| file.to_owned());
            }
        };
        Ok(Workload {
            name: text.to_owned(),
            mix,
            keys: KEYS,
            value_bytes,
            distribution,
            scan_rows_max: SCAN_ROWS_MAX,
            key_format: KeyFormat::Spread,
        })
    }
}
