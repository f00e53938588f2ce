//! Natural numbers of any size, as far as decimal text and binary numbers need them to meet.

use std::cmp::Ordering;

/// A natural number: 32-bit digits from the least, none of the highest ones zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Natural {
    digits: Vec<u32>,
}

impl Natural {
    pub(super) fn new(value: u64) -> Natural {
        let mut number = Natural { digits: vec![value as u32, (value >> 32) as u32] };
        number.trim();
        number
    }

    pub(super) fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    /// How many bits the number has; 0 for 0.
    pub(super) fn bits(&self) -> u64 {
        let Some(last) = self.digits.last() else { return 0 };
        self.digits.len() as u64 * 32 - u64::from(last.leading_zeros())
    }

    /// Becomes `self * factor + summand`.
    pub(super) fn multiply_add(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for digit in &mut self.digits {
            let product = u64::from(*digit) * u64::from(factor) + carry;
            *digit = product as u32;
            carry = product >> 32;
        }
        self.digits.push(carry as u32);
        self.trim();
    }

    /// Becomes `self * 10 ^ exponent`.
    pub(super) fn multiply_by_power_of_ten(&mut self, exponent: u32) {
        for _ in 0..exponent / 9 {
            self.multiply_add(1_000_000_000, 0);
        }
        self.multiply_add(10u32.pow(exponent % 9), 0);
    }

    /// Divides by `divisor` and returns the remainder.
    pub(super) fn divide(&mut self, divisor: u32) -> u32 {
        let mut remainder = 0;
        for digit in self.digits.iter_mut().rev() {
            let dividend = remainder << 32 | u64::from(*digit);
            *digit = (dividend / u64::from(divisor)) as u32;
            remainder = dividend % u64::from(divisor);
        }
        self.trim();
        remainder as u32
    }

    /// Becomes `self * 2 ^ bits`.
    pub(super) fn shift_left(&mut self, bits: u64) {
        if self.is_zero() {
            return;
        }
        self.multiply_add(1 << (bits % 32), 0);
        self.digits.splice(0..0, std::iter::repeat_n(0, (bits / 32) as usize));
    }

    /// Becomes `self / 2`, rounded down.
    fn halve(&mut self) {
        let mut carry = 0;
        for digit in self.digits.iter_mut().rev() {
            let next = *digit << 31;
            *digit = *digit >> 1 | carry;
            carry = next;
        }
        self.trim();
    }

    /// Becomes `self - other`, which must not be larger.
    fn subtract(&mut self, other: &Natural) {
        let mut borrow = 0;
        for (at, digit) in self.digits.iter_mut().enumerate() {
            let taken = i64::from(other.digits.get(at).copied().unwrap_or(0)) + borrow;
            let difference = i64::from(*digit) - taken;
            *digit = difference as u32;
            borrow = i64::from(difference < 0);
        }
        debug_assert_eq!(borrow, 0, "naturals do not go below zero");
        self.trim();
    }

    /// The quotient, which must fit 128 bits, and whether something remains.
    pub(super) fn divide_by(mut self, divisor: &Natural) -> (u128, bool) {
        let steps = (self.bits() + 1).saturating_sub(divisor.bits());
        debug_assert!(steps <= 128, "the quotient fits");
        let mut divisor = divisor.clone();
        divisor.shift_left(steps);
        let mut quotient = 0;
        for _ in 0..steps {
            divisor.halve();
            quotient <<= 1;
            if self.compare(&divisor) != Ordering::Less {
                self.subtract(&divisor);
                quotient |= 1;
            }
        }
        (quotient, !self.is_zero())
    }

    /// The highest 128 bits, how many lower ones were left out, and whether one of those was set.
    pub(super) fn highest(&self) -> (u128, u64, bool) {
        let skipped = self.digits.len().saturating_sub(4);
        let top = self.digits[skipped..].iter().rev().fold(0, |top, d| top << 32 | u128::from(*d));
        (top, skipped as u64 * 32, self.digits[..skipped].iter().any(|digit| *digit != 0))
    }

    fn compare(&self, other: &Natural) -> Ordering {
        let by_length = self.digits.len().cmp(&other.digits.len());
        by_length.then_with(|| self.digits.iter().rev().cmp(other.digits.iter().rev()))
    }

    fn trim(&mut self) {
        while self.digits.last() == Some(&0) {
            self.digits.pop();
        }
    }
}
