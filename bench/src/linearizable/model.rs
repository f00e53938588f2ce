//! The operations on one key, as a search over their orders wants them.
//!
//! Values become numbers: in a history of counters the numbers themselves, otherwise an index.
//! A key is a register that holds a value or nothing; what each operation needs to find and what it
//! leaves is [`Deed::step`].
//!
//! Invariants:
//!
//! * Operations are in the order of their calls.
//! * Operations that tell nothing and change nothing are left out.

use std::collections::HashMap;

use crate::history;

/// What a key holds: [`NOTHING`], an index into [`KeyHistory::names`], or a number.
pub type Content = i64;

/// The key is absent.
pub const NOTHING: Content = i64::MIN;

/// The key holds what nobody ever speaks of.
pub const UNNAMED: Content = i64::MIN + 1;

/// When an operation of unknown outcome ends: never.
pub const NEVER: u64 = u64::MAX;

/// What one operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Found this, changed nothing.
    Find(Content),
    /// Did not find this, changed nothing.
    Miss(Content),
    /// Left this.
    Leave(Content),
    /// Found something and left nothing.
    Remove,
    /// Found the first and left the second.
    Replace(Content, Content),
    /// Added a number; the sum if it is known.
    Add(i64, Option<i64>),
}

impl Deed {
    /// What is there afterwards if `content` was there before; `None` if this cannot have been done
    /// then.
    pub fn step(self, content: Content) -> Option<Content> {
        match self {
            Deed::Find(found) => (found == content).then_some(content),
            Deed::Miss(missed) => (missed != content).then_some(content),
            Deed::Leave(left) => Some(left),
            Deed::Remove => (content != NOTHING).then_some(NOTHING),
            Deed::Replace(found, left) => (found == content).then_some(left),
            Deed::Add(by, sum) => {
                let before = if content == NOTHING { 0 } else { content };
                let after = before.checked_add(by)?;
                sum.is_none_or(|sum| sum == after).then_some(after)
            }
        }
    }

    /// What must be there for it; `None` if that is not one certain content.
    pub fn needs(self) -> Option<Content> {
        match self {
            Deed::Find(found) | Deed::Replace(found, _) => Some(found),
            Deed::Miss(_) | Deed::Leave(_) | Deed::Remove | Deed::Add(..) => None,
        }
    }

    /// What it leaves if it changes something; `None` if it does not, or that depends.
    pub fn leaves(self) -> Option<Content> {
        match self {
            Deed::Leave(left) | Deed::Replace(_, left) => Some(left),
            Deed::Remove => Some(NOTHING),
            Deed::Find(_) | Deed::Miss(_) | Deed::Add(..) => None,
        }
    }

    /// True if it leaves what it finds.
    pub fn changes_nothing(self) -> bool {
        matches!(self, Deed::Find(_) | Deed::Miss(_))
    }

    /// True if it depends on more than whether one certain content is there.
    pub fn is_sensitive(self) -> bool {
        matches!(self, Deed::Miss(_) | Deed::Remove | Deed::Add(..))
    }
}

/// One operation on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it was called.
    pub call: u64,
    /// When it had returned; [`NEVER`]: it may take effect at any time after its call, or not at
    /// all.
    pub ret: u64,
    /// What it did, or would do.
    pub deed: Deed,
    /// By whom.
    pub client: u64,
    /// Which line of the file.
    pub line: usize,
}

impl Call {
    /// True if it must have taken effect.
    pub fn is_certain(&self) -> bool {
        self.ret != NEVER
    }

    /// True if it had ended before `other` began.
    pub fn precedes(&self, other: &Call) -> bool {
        self.ret < other.call
    }
}

/// What a key holds before its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initially {
    /// Nothing.
    Absent,
    /// Nobody knows; it was at least none of the values that the history writes.
    Any,
}

/// All operations on one key.
#[derive(Clone, Debug)]
pub struct KeyHistory {
    /// The key.
    pub key: String,
    /// The operations in the order of their calls.
    pub calls: Vec<Call>,
    /// What it holds at first.
    pub initial: Content,
    /// The values by their numbers; empty if contents are the numbers themselves.
    pub names: Vec<String>,
    /// True if something is added.
    pub is_counter: bool,
}

/// A value of a counter that is no number.
#[derive(Debug)]
pub struct NoNumber {
    /// In which line.
    pub line: usize,
    /// What it is.
    pub value: String,
}

/// One operation as it stands in the file.
#[derive(Clone, Debug)]
pub struct Told {
    /// When it was called.
    pub call: u64,
    /// When its client stopped waiting.
    pub ret: u64,
    /// Whether nobody knows if it took effect.
    pub unknown: bool,
    /// By whom.
    pub client: u64,
    /// Which line of the file.
    pub line: usize,
    /// What it did.
    pub deed: history::Deed,
}

impl KeyHistory {
    /// Makes it of what was told of `key`.
    ///
    /// # Errors
    ///
    /// [`NoNumber`] if something is added to a key that holds what is no number elsewhere.
    pub fn new(key: String, told: &[Told], initially: Initially) -> Result<KeyHistory, NoNumber> {
        let is_counter = told.iter().any(|told| matches!(told.deed, history::Deed::Add { .. }));
        let mut values = Values { is_counter, numbers: HashMap::new(), names: Vec::new() };
        let mut calls = Vec::with_capacity(told.len());
        for told in told {
            let deed = match values.deed(&told.deed) {
                Ok(Some(deed)) => deed,
                Ok(None) => continue,
                Err(value) => return Err(NoNumber { line: told.line, value }),
            };
            let ret = if told.unknown { NEVER } else { told.ret };
            let Told { call, client, line, .. } = *told;
            calls.push(Call { call, ret, deed, client, line });
        }
        calls.sort_by_key(|call| (call.call, call.ret, call.line));
        let names = values.names;
        let mut history = KeyHistory { key, calls, initial: NOTHING, names, is_counter };
        if initially == Initially::Any {
            history.initial = history.guess_initial();
        }
        Ok(history)
    }

    /// What was found but never left by any operation must have been there at first.
    fn guess_initial(&self) -> Content {
        let left = |content| self.calls.iter().any(|call| call.deed.leaves() == Some(content));
        let needed = self.calls.iter().filter_map(|call| call.deed.needs());
        let mut unexplained = needed.filter(|content| !left(*content));
        unexplained.next().unwrap_or(UNNAMED)
    }

    /// `content` as the file has it.
    pub fn name(&self, content: Content) -> String {
        match content {
            NOTHING => "nothing".to_owned(),
            UNNAMED => "something else".to_owned(),
            number if self.is_counter => number.to_string(),
            index => format!("{:?}", self.names[index as usize]),
        }
    }

    /// The same key with other calls.
    pub fn with(&self, calls: Vec<Call>) -> KeyHistory {
        KeyHistory { calls, ..self.clone() }
    }
}

/// Numbers for the values of one key.
struct Values {
    is_counter: bool,
    numbers: HashMap<String, Content>,
    names: Vec<String>,
}

impl Values {
    /// `Ok(None)` for what tells nothing and changes nothing.
    fn deed(&mut self, deed: &history::Deed) -> Result<Option<Deed>, String> {
        use history::Deed as Told;
        Ok(Some(match deed {
            Told::Get(read) => Deed::Find(self.content(read.as_ref())?),
            Told::Put(value) => Deed::Leave(self.content(Some(value))?),
            Told::Delete(None) => Deed::Leave(NOTHING),
            Told::Delete(Some(true)) => Deed::Remove,
            Told::Delete(Some(false)) => Deed::Find(NOTHING),
            Told::CompareAndSwap { old, new, swapped } => {
                let (old, new) = (self.content(old.as_ref())?, self.content(Some(new))?);
                match swapped {
                    // In doubt: if it does not find the old value, nobody sees the difference.
                    Some(true) | None => Deed::Replace(old, new),
                    Some(false) => Deed::Miss(old),
                }
            }
            Told::ReadModifyWrite { read: Some(read), new } => {
                Deed::Replace(self.content(read.as_ref())?, self.content(Some(new))?)
            }
            Told::ReadModifyWrite { read: None, new } => Deed::Leave(self.content(Some(new))?),
            Told::Add { by, sum } => Deed::Add(*by, *sum),
            Told::Other => return Ok(None),
        }))
    }

    fn content(&mut self, value: Option<&String>) -> Result<Content, String> {
        let Some(value) = value else { return Ok(NOTHING) };
        if self.is_counter {
            // The two smallest numbers stand for other things here; no counter gets there.
            let number = value.parse().ok().filter(|number: &i64| *number > UNNAMED);
            return number.ok_or_else(|| value.clone());
        }
        if let Some(number) = self.numbers.get(value) {
            return Ok(*number);
        }
        let number = self.names.len() as Content;
        self.names.push(value.clone());
        self.numbers.insert(value.clone(), number);
        Ok(number)
    }
}
