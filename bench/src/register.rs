//! What one client did to one key, and which values may be read from it afterwards.
//!
//! A [`Register`] is a key with one writer, which has at most one write under way. Each write has
//! its own value, so that a value that is read names the write that it came from.
//!
//! A write whose outcome is unknown may take effect at any later time, even after a later write was
//! acknowledged. So that the judge can be strict nevertheless, a register is not written any more
//! after such an outcome: its writer takes a fresh key. Then exactly these may be read:
//!
//! * the last acknowledged write, or nothing if there was none;
//! * the write in doubt, if there is one; once it was read, nothing else.
//!
//! Every other value breaks a promise. This is linearizability of a single-writer register that is
//! read by its writer, or by anyone after the writer came to rest.

use bytes::Bytes;

/// Room for the name and the sequence within a value.
pub const VALUE_BYTES_MIN: usize = 64;

/// A key, its writer's name for it, and what was done to it.
#[derive(Clone, Debug)]
pub struct Register {
    key: Bytes,
    name: String,
    value_bytes: usize,
    /// The sequence of the last write that was begun; 0: none.
    begun: u64,
    /// The sequence of the last acknowledged write; 0: none.
    acknowledged: u64,
    /// The sequence of the write of which nobody knows.
    in_doubt: Option<u64>,
}

/// A value was read that no correct store would give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The key is gone although a write to it was acknowledged.
    #[error("{name}: nothing was read, but write {acknowledged} was acknowledged")]
    Missing {
        /// The register.
        name: String,
        /// The last acknowledged write.
        acknowledged: u64,
    },
    /// An older write was read, or one that was refused: the last acknowledged one is lost, or the
    /// read is stale, or a refusal was none.
    #[error(
        "{name}: write {read} was read, but {acknowledged} is the last acknowledged of {begun}{}",
        in_doubt.map(|sequence| format!(", with {sequence} in doubt")).unwrap_or_default()
    )]
    Other {
        /// The register.
        name: String,
        /// The write that was read.
        read: u64,
        /// The last acknowledged write; 0: none.
        acknowledged: u64,
        /// The last write that was begun.
        begun: u64,
        /// The write in doubt.
        in_doubt: Option<u64>,
    },
    /// The value is of no write to this register.
    #[error("{name}: the value is of no write to it: {excerpt}")]
    Foreign {
        /// The register.
        name: String,
        /// How the value begins.
        excerpt: String,
    },
}

impl Register {
    /// A key that nobody has written yet. `name` must differ from all others; values have
    /// `value_bytes`.
    ///
    /// # Panics
    ///
    /// If a value of that size has no room for the name.
    pub fn new(key: Bytes, name: String, value_bytes: usize) -> Register {
        assert!(name.len() + 32 <= value_bytes, "values of {value_bytes} bytes cannot name {name}");
        Register { key, name, value_bytes, begun: 0, acknowledged: 0, in_doubt: None }
    }

    /// The key.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// True while nothing is in doubt: it may be written, and has exactly one right value.
    pub fn is_certain(&self) -> bool {
        self.in_doubt.is_none()
    }

    /// Begins the next write: its sequence and its value.
    ///
    /// # Panics
    ///
    /// If a write is in doubt: what follows could not be judged.
    pub fn begin(&mut self) -> (u64, Vec<u8>) {
        assert!(self.is_certain(), "{}: written after a write in doubt", self.name);
        self.begun += 1;
        (self.begun, self.value(self.begun))
    }

    /// Write `sequence`, the last begun, was acknowledged.
    pub fn acknowledge(&mut self, sequence: u64) {
        assert_eq!(sequence, self.begun, "{}: one write at a time", self.name);
        self.acknowledged = sequence;
    }

    /// Nobody knows what became of write `sequence`, the last begun.
    ///
    /// A refused write needs no call: its value may never be read.
    pub fn doubt(&mut self, sequence: u64) {
        assert_eq!(sequence, self.begun, "{}: one write at a time", self.name);
        self.in_doubt = Some(sequence);
    }

    /// Judges a value that was read after the last write ended. A write in doubt whose value is
    /// read has happened from then on.
    ///
    /// # Errors
    ///
    /// [`Violation`] if no correct store would have given that value.
    pub fn observe(&mut self, value: Option<&[u8]>) -> Result<(), Violation> {
        let (name, acknowledged) = (self.name.clone(), self.acknowledged);
        let Some(value) = value else {
            return match acknowledged {
                0 => Ok(()),
                _ => Err(Violation::Missing { name, acknowledged }),
            };
        };
        let read = self.sequence_of(value).ok_or_else(|| Violation::Foreign {
            name: name.clone(),
            excerpt: value[..value.len().min(48)].escape_ascii().to_string(),
        })?;
        if read == acknowledged {
            return Ok(());
        }
        if self.in_doubt == Some(read) {
            self.acknowledged = read;
            self.in_doubt = None;
            return Ok(());
        }
        let (begun, in_doubt) = (self.begun, self.in_doubt);
        Err(Violation::Other { name, read, acknowledged, begun, in_doubt })
    }

    fn value(&self, sequence: u64) -> Vec<u8> {
        let mut value = format!("{} write {sequence} ", self.name).into_bytes();
        // Different from write to write, so that a value mixed of two is noticed.
        let fill = b'a' + (sequence % 26) as u8;
        value.resize(self.value_bytes, fill);
        value
    }

    /// The write that a value is of, if every byte of it is as written.
    fn sequence_of(&self, value: &[u8]) -> Option<u64> {
        let text = value.strip_prefix(self.name.as_bytes())?.strip_prefix(b" write ")?;
        let digits = text.split(|byte| *byte == b' ').next()?;
        let sequence: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        (sequence > 0 && sequence <= self.begun && self.value(sequence) == value)
            .then_some(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register() -> Register {
        Register::new(Bytes::from_static(b"k"), "w1k1".to_owned(), VALUE_BYTES_MIN)
    }

    fn acknowledged(register: &mut Register) -> Vec<u8> {
        let (sequence, value) = register.begin();
        register.acknowledge(sequence);
        value
    }

    fn refused(register: &mut Register) -> Vec<u8> {
        register.begin().1
    }

    fn doubted(register: &mut Register) -> Vec<u8> {
        let (sequence, value) = register.begin();
        register.doubt(sequence);
        value
    }

    #[test]
    fn the_last_acknowledged_write_is_right() {
        let mut register = register();
        assert_eq!(register.observe(None), Ok(()));
        acknowledged(&mut register);
        let second = acknowledged(&mut register);
        assert_eq!(register.observe(Some(&second)), Ok(()));
    }

    #[test]
    fn planted_losses_are_found() {
        let mut register = register();
        let first = acknowledged(&mut register);
        assert!(matches!(register.observe(None), Err(Violation::Missing { acknowledged: 1, .. })));
        acknowledged(&mut register);
        let verdict = register.observe(Some(&first));
        assert!(matches!(verdict, Err(Violation::Other { read: 1, acknowledged: 2, .. })));
        assert!(verdict.unwrap_err().to_string().contains("2 is the last acknowledged"));
    }

    #[test]
    fn a_loss_is_no_less_a_loss_with_a_write_in_doubt() {
        let mut register = register();
        let first = acknowledged(&mut register);
        acknowledged(&mut register);
        doubted(&mut register);
        assert!(register.observe(None).is_err());
        assert!(register.observe(Some(&first)).is_err());
    }

    #[test]
    fn a_write_in_doubt_may_be_there_or_not_but_not_come_and_go() {
        let mut register = register();
        let first = acknowledged(&mut register);
        let second = doubted(&mut register);
        assert_eq!(register.observe(Some(&first)), Ok(()));
        assert_eq!(register.observe(Some(&first)), Ok(()));
        assert_eq!(register.observe(Some(&second)), Ok(()));
        assert!(register.observe(Some(&first)).is_err(), "it was read, so it happened");
        assert_eq!(register.observe(Some(&second)), Ok(()));
    }

    #[test]
    fn a_refused_write_must_never_be_read() {
        let mut register = register();
        let first = acknowledged(&mut register);
        let second = refused(&mut register);
        assert!(register.observe(Some(&second)).is_err());
        assert_eq!(register.observe(Some(&first)), Ok(()));
        acknowledged(&mut register);
        assert!(register.observe(Some(&second)).is_err());
    }

    #[test]
    fn values_of_others_and_mixed_ones_are_foreign() {
        let mut one = register();
        let value = acknowledged(&mut one);
        let mut mixed = value.clone();
        *mixed.last_mut().unwrap() ^= 1;
        let mut other = Register::new(Bytes::new(), "w1k2".to_owned(), VALUE_BYTES_MIN);
        acknowledged(&mut other);
        assert!(matches!(other.observe(Some(&value)), Err(Violation::Foreign { .. })));
        assert!(matches!(one.observe(Some(&mixed)), Err(Violation::Foreign { .. })));
        let short = &value[..value.len() - 1];
        assert!(matches!(one.observe(Some(short)), Err(Violation::Foreign { .. })));
        assert!(matches!(one.observe(Some(b"")), Err(Violation::Foreign { .. })));
    }

    #[test]
    #[should_panic(expected = "in doubt")]
    fn nothing_is_written_after_a_doubt() {
        let mut register = register();
        doubted(&mut register);
        register.begin();
    }
}
