//! Documents as files.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Document, Kind, RunResult, SCHEMA, Skipped};

/// The name under which commands store a document in their `--out` directory.
pub const RESULT_FILE: &str = "result.json";

/// Why a document could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not a document.
    #[error("{}: not a result of flotilla-bench: {source}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Another version of the harness wrote it.
    #[error(
        "{}: written with schema {found}, and this program reads schema {SCHEMA}: measure again, or \
         use the program that wrote it", path.display()
    )]
    Schema {
        /// Which file.
        path: PathBuf,
        /// Its schema; `none` where it does not say.
        found: String,
    },
}

impl Document {
    /// A document of this program, with the command line of this process.
    pub fn new(kind: Kind, results: Vec<RunResult>, skipped: Vec<Skipped>) -> Document {
        let mut arguments: Vec<String> = std::env::args().collect();
        if let Some(program) = arguments.first_mut() {
            let name = Path::new(program.as_str()).file_name();
            *program = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        }
        Document { schema: SCHEMA, kind, command: arguments.join(" "), results, skipped }
    }

    /// Reads a document; of a directory, the [`RESULT_FILE`] in it.
    ///
    /// # Errors
    ///
    /// If there is none, it is of another schema, or it is not a document at all.
    pub fn read(path: &Path) -> Result<Document, ReadError> {
        let path = match path.is_dir() {
            true => path.join(RESULT_FILE),
            false => path.to_owned(),
        };
        match fs::read(&path) {
            Ok(bytes) => Document::parse(&path, &bytes),
            Err(source) => Err(ReadError::Io { path, source }),
        }
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Document, ReadError> {
        let format = |source| ReadError::Format { path: path.to_owned(), source };
        let value: Value = serde_json::from_slice(bytes).map_err(format)?;
        // Of every part, so that results that were copied together by hand are refused too.
        let parts = value.get("results").and_then(Value::as_array).into_iter().flatten();
        for part in std::iter::once(&value).chain(parts) {
            let schema = part.get("schema").unwrap_or(&Value::Null);
            if schema.as_u64() != Some(u64::from(SCHEMA)) {
                let found = if schema.is_null() { "none".to_owned() } else { schema.to_string() };
                return Err(ReadError::Schema { path: path.to_owned(), found });
            }
        }
        serde_json::from_value(value).map_err(format)
    }

    /// Writes the document as [`RESULT_FILE`] into a directory, which is made if there is none.
    ///
    /// # Errors
    ///
    /// If the file system refuses.
    pub fn write(&self, directory: &Path) -> Result<PathBuf, ReadError> {
        let path = directory.join(RESULT_FILE);
        let io = |source| ReadError::Io { path: path.clone(), source };
        let text = serde_json::to_string_pretty(self).expect("a document has only names as keys");
        fs::create_dir_all(directory).map_err(io)?;
        fs::write(&path, text + "\n").map_err(io)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::sample::document;

    #[test]
    fn what_was_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let written = document();
        let path = written.write(&directory.path().join("new")).unwrap();
        assert_eq!(Document::read(&path).unwrap(), written);
        assert_eq!(Document::read(path.parent().unwrap()).unwrap(), written);
    }

    #[test]
    fn other_schemas_and_other_files_are_refused_with_words() {
        let parse = |text: &str| {
            Document::parse(Path::new("a.json"), text.as_bytes()).unwrap_err().to_string()
        };
        for (text, words) in [
            (r#"{"schema": 2, "kind": "new"}"#, "schema 2, and this program reads schema 1"),
            (r#"{"results": []}"#, "schema none"),
            (r#"{"schema": 1, "results": [{"schema": 7}]}"#, "schema 7"),
            (r#"{"schema": 1, "kind": "walk", "results": []}"#, "unknown variant `walk`"),
            ("[1, 2", "not a result of flotilla-bench"),
        ] {
            let error = parse(text);
            assert!(error.contains(words) && error.contains("a.json"), "{text}: {error}");
        }
        let missing = Document::read(Path::new("missing.json")).unwrap_err().to_string();
        assert!(missing.contains("missing.json"), "{missing}");
    }

    #[test]
    fn what_was_added_within_the_schema_may_be_missing() {
        let mut value = serde_json::to_value(document()).unwrap();
        value.as_object_mut().unwrap().remove("skipped");
        for result in value["results"].as_array_mut().unwrap() {
            for field in ["events", "percentiles", "figures", "notes", "round"] {
                result.as_object_mut().unwrap().remove(field);
            }
        }
        let read = Document::parse(Path::new("a"), value.to_string().as_bytes()).unwrap();
        assert_eq!(read.results[0].round, 1);
    }
}
