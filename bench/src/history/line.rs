//! One operation as one line of JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One line of a history; the module says what the fields mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The name of the operation.
    pub f: String,
    /// The key.
    pub k: String,
    /// What was written, or added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<Value>,
    /// What a `cas` expected: null for an absent key.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub old: Option<Value>,
    /// What was answered: null for nothing read.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub r: Option<Value>,
    /// The client.
    pub c: u64,
    /// Nanoseconds, before the request was handed over.
    pub call: u64,
    /// Nanoseconds, after the answer was taken or the client gave up.
    pub ret: u64,
    /// 1: nobody knows whether it had an effect.
    pub unk: u8,
}

/// Tells `null` from a field that is not there.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

/// What one operation did, without when and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Read this; `None`: there was nothing.
    Get(Option<String>),
    /// Wrote this.
    Put(String),
    /// Removed whatever there was; `Some`: whether there was something.
    Delete(Option<bool>),
    /// Replaced the first by the second if it was there.
    CompareAndSwap {
        /// `None`: nothing must be there.
        old: Option<String>,
        /// What is there afterwards.
        new: String,
        /// Whether it did; `None`: unknown.
        swapped: Option<bool>,
    },
    /// Read, and wrote `new` at once.
    ReadModifyWrite {
        /// What was read; the outer `None`: unknown.
        read: Option<Option<String>>,
        /// What is there afterwards.
        new: String,
    },
    /// Added a number to a number, where nothing counts as 0.
    Add {
        /// What was added.
        by: i64,
        /// The sum; `None`: unknown.
        sum: Option<i64>,
    },
    /// Not about one key.
    Other,
}

/// Why a line is none of a history.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Not JSON, a field is missing, of the wrong type, or unknown.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// `f` is none of the names.
    #[error("f is {0:?}; known are get, put, del, cas, rmw, incr, scan and batch")]
    Operation(String),
    /// `unk` is neither 0 nor 1.
    #[error("unk is {0}; it must be 0 or 1")]
    Unknown(u8),
    /// It ended before it began.
    #[error("ret {ret} is before call {call}")]
    Time {
        /// When it began.
        call: u64,
        /// When it ended.
        ret: u64,
    },
    /// A field that this operation needs is missing or of another type.
    #[error("{operation} needs {field} to be {wanted}")]
    Field {
        /// The name of the operation.
        operation: String,
        /// The field.
        field: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
}

impl Line {
    /// Reads one line.
    ///
    /// # Errors
    ///
    /// [`LineError`] if it is not one.
    pub fn parse(text: &str) -> Result<Line, LineError> {
        let line: Line = serde_json::from_str(text)?;
        if line.unk > 1 {
            return Err(LineError::Unknown(line.unk));
        }
        if line.ret < line.call {
            return Err(LineError::Time { call: line.call, ret: line.ret });
        }
        Ok(line)
    }

    /// True if nobody knows whether it had an effect.
    pub fn is_unknown(&self) -> bool {
        self.unk == 1
    }

    /// What it did.
    ///
    /// # Errors
    ///
    /// [`LineError`] if the fields are not those of the operation.
    pub fn deed(&self) -> Result<Deed, LineError> {
        let known = !self.is_unknown();
        Ok(match self.f.as_str() {
            "get" if !known => Deed::Other,
            "get" => Deed::Get(self.read()?),
            "put" => Deed::Put(self.written()?),
            "del" => Deed::Delete(match &self.r {
                None | Some(Value::Null) => None,
                Some(Value::Bool(found)) if known => Some(*found),
                Some(_) if !known => None,
                Some(_) => return Err(self.field("r", "true, false or absent")),
            }),
            "cas" => Deed::CompareAndSwap {
                old: match &self.old {
                    Some(old) => {
                        text_or_null(old).ok_or_else(|| self.field("old", "a string or null"))?
                    }
                    None => return Err(self.field("old", "a string or null")),
                },
                new: self.written()?,
                swapped: match &self.r {
                    _ if !known => None,
                    Some(Value::Bool(swapped)) => Some(*swapped),
                    _ => return Err(self.field("r", "true or false")),
                },
            },
            "rmw" => Deed::ReadModifyWrite {
                read: if known { Some(self.read()?) } else { None },
                new: self.written()?,
            },
            "incr" => Deed::Add {
                by: number(self.v.as_ref()).ok_or_else(|| self.field("v", "a whole number"))?,
                sum: match known {
                    false => None,
                    true => Some(
                        number(self.r.as_ref()).ok_or_else(|| self.field("r", "a whole number"))?,
                    ),
                },
            },
            "scan" | "batch" => Deed::Other,
            other => return Err(LineError::Operation(other.to_owned())),
        })
    }

    fn written(&self) -> Result<String, LineError> {
        match &self.v {
            Some(Value::String(text)) => Ok(text.clone()),
            _ => Err(self.field("v", "a string")),
        }
    }

    fn read(&self) -> Result<Option<String>, LineError> {
        let read = self.r.as_ref().and_then(text_or_null);
        read.ok_or_else(|| self.field("r", "a string or null"))
    }

    fn field(&self, field: &'static str, wanted: &'static str) -> LineError {
        LineError::Field { operation: self.f.clone(), field, wanted }
    }
}

fn text_or_null(value: &Value) -> Option<Option<String>> {
    match value {
        Value::Null => Some(None),
        Value::String(text) => Some(Some(text.clone())),
        _ => None,
    }
}

/// A number, written as one or as text.
fn number(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::String(text) => text.parse().ok(),
        value => value.as_i64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deed(text: &str) -> Result<Deed, String> {
        let line = Line::parse(text).map_err(|error| error.to_string())?;
        line.deed().map_err(|error| error.to_string())
    }

    fn with(fields: &str) -> Result<Deed, String> {
        deed(&format!("{{{fields},\"k\":\"a\",\"c\":1,\"call\":5,\"ret\":9,\"unk\":0}}"))
    }

    #[test]
    fn each_operation_is_read() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(with(r#""f":"get","r":"x""#), Ok(Deed::Get(text("x"))));
        assert_eq!(with(r#""f":"get","r":null"#), Ok(Deed::Get(None)));
        assert_eq!(with(r#""f":"put","v":"x""#), Ok(Deed::Put("x".to_owned())));
        assert_eq!(with(r#""f":"del""#), Ok(Deed::Delete(None)));
        assert_eq!(with(r#""f":"del","r":true"#), Ok(Deed::Delete(Some(true))));
        let cas = |old, swapped| Deed::CompareAndSwap { old, new: "y".to_owned(), swapped };
        assert_eq!(with(r#""f":"cas","old":"x","v":"y","r":true"#), Ok(cas(text("x"), Some(true))));
        assert_eq!(with(r#""f":"cas","old":null,"v":"y","r":false"#), Ok(cas(None, Some(false))));
        let rmw = Deed::ReadModifyWrite { read: Some(None), new: "y".to_owned() };
        assert_eq!(with(r#""f":"rmw","v":"y","r":null"#), Ok(rmw));
        assert_eq!(with(r#""f":"incr","v":1,"r":"7""#), Ok(Deed::Add { by: 1, sum: Some(7) }));
        assert_eq!(with(r#""f":"scan""#), Ok(Deed::Other));
    }

    #[test]
    fn what_is_no_line_says_why() {
        let says = |result: Result<Deed, String>, words: &str| {
            let error = result.unwrap_err();
            assert!(error.contains(words), "{error}");
        };
        says(deed("nonsense"), "expected");
        says(deed(r#"{"f":"get"}"#), "missing field");
        says(with(r#""f":"get","w":1,"r":null"#), "unknown field `w`");
        says(with(r#""f":"set","v":"x""#), "known are get");
        says(with(r#""f":"get""#), "get needs r to be a string or null");
        says(with(r#""f":"put""#), "put needs v");
        says(with(r#""f":"cas","v":"y","r":true"#), "cas needs old");
        says(with(r#""f":"cas","old":"x","v":"y""#), "cas needs r");
        says(with(r#""f":"incr","v":"x","r":1"#), "incr needs v");
        says(deed(r#"{"f":"get","k":"a","r":null,"c":1,"call":5,"ret":4,"unk":0}"#), "before");
        says(deed(r#"{"f":"get","k":"a","r":null,"c":1,"call":5,"ret":6,"unk":2}"#), "0 or 1");
    }
}
