//! Numbers as Redis computes with them: the 80-bit extended format of x87, in integers.
//!
//! Redis adds `long double`s and prints 17 digits after the point. On x86-64 that is a sign, an
//! exponent and 64 bits of mantissa, rounded to the nearest, ties to even. The processor's own
//! arithmetic would differ between machines, and replicas must agree; so the format is spelled out
//! here, bit for bit, and exact in every step between.
//!
//! Different from Redis: hexadecimal numbers are not accepted, and numbers next to zero (below
//! 2^-16382), which print as 0 anyway, keep all their bits.
//!
//! What is absent: anything but sums.

use super::natural::Natural;

/// Longer text is no number, as in Redis.
const TEXT_BYTES_MAX: usize = 5 * 1024;

/// A finite number is less than 2 to this.
const EXPONENT_MAX: i64 = 16384;

/// A number other than 0 is at least 2 to this, or rounds to it.
const EXPONENT_MIN: i64 = -16446;

/// Decimal exponents beyond this, either way, are out of any range.
const DECIMAL_EXPONENT_MAX: i64 = 12_000;

const DIGITS_AFTER_POINT: u32 = 17;

/// A number, or an infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Float {
    negative: bool,
    magnitude: Magnitude,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Magnitude {
    Zero,
    /// `mantissa * 2 ^ exponent`; the highest bit of the mantissa is set.
    Finite {
        mantissa: u64,
        exponent: i64,
    },
    Infinite,
    NotANumber,
}

impl Float {
    /// Zero.
    pub const ZERO: Float = Float { negative: false, magnitude: Magnitude::Zero };

    /// Reads decimal text: digits with an optional sign, point and exponent, or an infinity.
    /// `None` for everything else, and for numbers that are too large or too near to zero.
    pub fn parse(text: &[u8]) -> Option<Float> {
        if text.len() >= TEXT_BYTES_MAX {
            return None;
        }
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if text.eq_ignore_ascii_case(b"inf") || text.eq_ignore_ascii_case(b"infinity") {
            return Some(Float { negative, magnitude: Magnitude::Infinite });
        }
        let (digits, exponent) = parse_decimal(text)?;
        match magnitude_of(digits, exponent)? {
            Magnitude::Infinite => None,
            magnitude => Some(Float { negative, magnitude }),
        }
    }

    /// The sum, rounded once.
    pub fn add(&self, other: &Float) -> Float {
        let infinite = Magnitude::Infinite;
        match (self.magnitude, other.magnitude) {
            (Magnitude::NotANumber, _) | (_, Magnitude::Zero) => *self,
            (_, Magnitude::NotANumber) | (Magnitude::Zero, _) => *other,
            (Magnitude::Infinite, Magnitude::Infinite) if self.negative != other.negative => {
                Float { negative: false, magnitude: Magnitude::NotANumber }
            }
            (Magnitude::Infinite, _) => Float { negative: self.negative, magnitude: infinite },
            (_, Magnitude::Infinite) => Float { negative: other.negative, magnitude: infinite },
            (
                Magnitude::Finite { mantissa, exponent },
                Magnitude::Finite { mantissa: other_mantissa, exponent: other_exponent },
            ) => {
                let (here, there) = ((exponent, mantissa), (other_exponent, other_mantissa));
                if here >= there {
                    add_smaller(self.negative, here, there, self.negative == other.negative)
                } else {
                    add_smaller(other.negative, there, here, self.negative == other.negative)
                }
            }
        }
    }

    /// Decimal text with as many digits after the point as are not zero, 17 at most. `None` for
    /// an infinity and for what is no number.
    pub fn to_text(&self) -> Option<String> {
        let mut text = match self.magnitude {
            Magnitude::Infinite | Magnitude::NotANumber => return None,
            Magnitude::Zero => return Some("0".to_owned()),
            Magnitude::Finite { mantissa, exponent } if exponent >= 0 => {
                whole_text(mantissa, exponent as u64)
            }
            Magnitude::Finite { mantissa, exponent } => {
                // 64 and 57 bits: the product fits.
                let scale = 10u128.pow(DIGITS_AFTER_POINT);
                let scaled = round_shift(u128::from(mantissa) * scale, exponent.unsigned_abs());
                if scaled == 0 {
                    return Some("0".to_owned());
                }
                let width = DIGITS_AFTER_POINT as usize;
                let text = format!("{}.{:0width$}", scaled / scale, scaled % scale);
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            }
        };
        if self.negative {
            text.insert(0, '-');
        }
        Some(text)
    }
}

/// The sum of two numbers, as (exponent, mantissa), the larger one first; the sum has its sign.
fn add_smaller(negative: bool, larger: (i64, u64), smaller: (i64, u64), same_sign: bool) -> Float {
    // The larger one has 63 bits of room below it, and one above it for the carry.
    let wide = u128::from(larger.1) << 63;
    let distance = larger.0.abs_diff(smaller.0);
    let (other, lost) = shift_right(u128::from(smaller.1) << 63, distance);
    let wide = match same_sign {
        true => wide + other,
        // What was cut off would have made the difference a little less.
        false => wide - other - u128::from(lost),
    };
    if wide == 0 {
        return Float::ZERO;
    }
    Float { negative, magnitude: rounded(wide, larger.0 - 63, lost) }
}

/// Shifts to the right; true if a bit was lost that was set.
fn shift_right(wide: u128, bits: u64) -> (u128, bool) {
    if bits >= 128 {
        return (0, wide != 0);
    }
    (wide >> bits, wide & ((1 << bits) - 1) != 0)
}

/// `wide * 2 ^ exponent`, and a little more if bits below were lost, with 64 bits of mantissa.
fn rounded(wide: u128, exponent: i64, lost: bool) -> Magnitude {
    let bits = 128 - i64::from(wide.leading_zeros());
    let (mantissa, exponent) = if bits <= 64 {
        ((wide as u64) << (64 - bits), exponent - (64 - bits))
    } else {
        let cut = bits - 64;
        let (kept, rest) = ((wide >> cut) as u64, wide & ((1 << cut) - 1));
        let half = 1 << (cut - 1);
        let up = rest > half || rest == half && (lost || kept & 1 == 1);
        match kept.checked_add(u64::from(up)) {
            Some(kept) => (kept, exponent + cut),
            None => (1 << 63, exponent + cut + 1),
        }
    };
    match exponent + 64 {
        top if top > EXPONENT_MAX => Magnitude::Infinite,
        top if top <= EXPONENT_MIN => Magnitude::Zero,
        _ => Magnitude::Finite { mantissa, exponent },
    }
}

/// `value / 2 ^ bits`, rounded to the nearest, ties to even.
fn round_shift(value: u128, bits: u64) -> u128 {
    // The product of a mantissa and the scale has at most 121 bits.
    if bits >= 128 {
        return 0;
    }
    let (kept, rest) = (value >> bits, value & ((1 << bits) - 1));
    let twice = rest << 1 >> bits;
    let exactly_half = bits > 0 && rest == 1 << (bits - 1);
    kept + u128::from(twice == 1 && (!exactly_half || kept & 1 == 1))
}

/// The digits of a decimal number and the power of ten that they count in.
fn parse_decimal(text: &[u8]) -> Option<(Natural, i64)> {
    let mark = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (number, exponent) = match mark {
        Some(at) => (&text[..at], parse_exponent(&text[at + 1..])?),
        None => (text, 0),
    };
    let mut digits = Natural::new(0);
    let (mut chunk, mut scale) = (0, 1);
    let (mut count, mut after_point) = (0, None);
    for byte in number {
        match byte {
            b'0'..=b'9' => {
                (chunk, scale) = (chunk * 10 + u32::from(byte - b'0'), scale * 10);
                if scale == 1_000_000_000 {
                    digits.multiply_add(scale, chunk);
                    (chunk, scale) = (0, 1);
                }
                count += 1;
                after_point = after_point.map(|digits: i64| digits + 1);
            }
            b'.' if after_point.is_none() => after_point = Some(0),
            _ => return None,
        }
    }
    digits.multiply_add(scale, chunk);
    (count > 0).then(|| (digits, exponent - after_point.unwrap_or(0)))
}

/// A decimal exponent; one that is out of any range is cut to one that still is.
fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let exponent = digits.iter().fold(0, |exponent: i64, digit| {
        (exponent * 10 + i64::from(digit - b'0')).min(2 * DECIMAL_EXPONENT_MAX)
    });
    Some(if negative { -exponent } else { exponent })
}

/// `digits * 10 ^ exponent`, rounded. `None` when it is too near to zero, but not zero.
fn magnitude_of(mut digits: Natural, exponent: i64) -> Option<Magnitude> {
    if digits.is_zero() {
        return Some(Magnitude::Zero);
    }
    if exponent > DECIMAL_EXPONENT_MAX {
        return Some(Magnitude::Infinite);
    }
    if exponent < -DECIMAL_EXPONENT_MAX {
        return None;
    }
    let power = exponent.unsigned_abs() as u32;
    let magnitude = if exponent >= 0 {
        digits.multiply_by_power_of_ten(power);
        let (top, skipped, lost) = digits.highest();
        rounded(top, skipped as i64, lost)
    } else {
        let mut divisor = Natural::new(1);
        divisor.multiply_by_power_of_ten(power);
        // Scaled so that the quotient has 66 to 67 bits: enough to round, and it fits.
        let scale = 66 + divisor.bits() as i64 - digits.bits() as i64;
        if scale >= 0 {
            digits.shift_left(scale as u64);
        } else {
            divisor.shift_left(scale.unsigned_abs());
        }
        let (quotient, lost) = digits.divide_by(&divisor);
        rounded(quotient, -scale, lost)
    };
    (magnitude != Magnitude::Zero).then_some(magnitude)
}

/// The digits of `mantissa * 2 ^ exponent`.
fn whole_text(mantissa: u64, exponent: u64) -> String {
    const CHUNK: u32 = 1_000_000_000;
    let mut number = Natural::new(mantissa);
    number.shift_left(exponent);
    let mut chunks = Vec::new();
    while !number.is_zero() {
        chunks.push(number.divide(CHUNK));
    }
    let mut text = String::new();
    for (at, chunk) in chunks.iter().rev().enumerate() {
        text += &if at == 0 { chunk.to_string() } else { format!("{chunk:09}") };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::Float;

    fn sum(first: &str, second: &str) -> Option<String> {
        let (first, second) = (Float::parse(first.as_bytes())?, Float::parse(second.as_bytes())?);
        first.add(&second).to_text()
    }

    /// Answers of a Redis 7.0.15 on x86-64.
    #[test]
    fn sums_are_those_of_redis() {
        for (first, second, expected) in [
            ("+92.07", "663769.0001", "663861.07009999999996808"),
            ("+6443878786.", "573.54135579e-9", "6443878786.00000057369470596"),
            ("7787", "723.63473201e-6", "7787.00072363473200987"),
            ("-549e-3458", "+78.48", "78.48"),
            ("-8871.00432465169", "-11915.4188083355926824225116214653", "-20786.423132987282683"),
            ("+6790299085.0002", "0.8610666529520523", "6790299085.86126665305346251"),
            ("+517.0973713263488", "5.00001", "522.09738132634880003"),
            ("+3444819.0002", "+15745798.5", "19190617.50020000000040454"),
            ("-440.0000", "+0.00006", "-439.99994"),
            ("18556733.9", "-4484976325.0006", "-4466419591.10060000000521541"),
            ("-993875845.09", "+794.11214270e-3", "-993875844.2958878573263064"),
            ("+1674251.0008", "1.0850787589389642", "1674252.0858787589389749"),
            ("2034375184936178198.640405574613073166", "6.0005", "2034375184936178204.625"),
            ("-5.3", "1231767.0002", "1231761.70019999999999527"),
            ("526.69501641e-34", "822516716567827.35380468142", "822516716567827.35382080078125"),
            ("-28417.04", "76", "-28341.03999999999999915"),
            ("1.9e-4951", "+6597153.86343322852663818009013787", "6597153.86343322852644633"),
            ("-989247372789748245.363522040556530571198", "9673.2", "-989247372789738572.1875"),
            ("18446744073709551616", "+6.9", "18446744073709551622"),
            ("-0.00006", "-578361799614012816928", "-578361799614012816928"),
            ("649e-2653", "-3054017", "-3054017"),
            ("956.40411311e-40", "+71.56629788e10", "715662978800"),
            ("79229549102000312848867", "4771992.002", "79229549102000317628416"),
            ("+4198072.09", "-85.64690441e38", "-8564690440999999999809310171464141373440"),
            ("-6.77546980e-29", "636.58941666e18", "636589416660000000000"),
            ("+514", "+297.29088484e-36", "514"),
            ("-0", "4.9e-18", "0"),
            ("261.2719856793116", ".5", "261.7719856793116"),
            ("18446744073709551615", "77582057747410832082", "96028801821120383696"),
            ("9223372036854775807", "-4482090783593666", "9218889946071182141"),
            ("77031737461.5", "18446744073709551615", "18446744150741289076"),
            ("0e99999", "-47536755507.00005", "-47536755507.00005000084638596"),
            ("776e-2411", "2.5e-17", "0.00000000000000002"),
            ("18446744073709551615", "238.27881729494", "18446744073709551854"),
            ("18446744073709551616", "-6799630.241279670", "18446744073702751986"),
            ("+8987229", "4.9e-18", "8987229"),
            ("+178.6987182e-3", "5e-18", "0.17869871820000001"),
            ("33", "5.", "38"),
        ] {
            assert_eq!(sum(first, second).as_deref(), Some(expected), "{first} + {second}");
            assert_eq!(sum(second, first).as_deref(), Some(expected), "{second} + {first}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "",
            " 1",
            "1 ",
            "+",
            "-",
            ".",
            "1e",
            "1e+",
            "e5",
            "--1",
            "1.2.3",
            "0x",
            "infi",
            "nan",
            "1e5000",
            "1e-5000",
            "1e99999999999999999999",
            "1.8e-4951",
            "1.18973149535723176509e+4932",
        ] {
            assert_eq!(Float::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Float::parse(&[b'1'; 5 * 1024]), None, "longer than Redis takes");
        for text in ["1.18973149535723176502e+4932", "0e99999", "-0.0e-999999", "3.6e-4951"] {
            assert!(Float::parse(text.as_bytes()).is_some(), "{text:?}");
        }
    }

    #[test]
    fn infinities_have_no_text() {
        for (first, second) in [("inf", "1"), ("-Infinity", "inf"), ("1.1e4932", "1.1e4932")] {
            assert_eq!(sum(first, second), None, "{first} + {second}");
        }
    }

    /// Signs, cancellation, carries, and digits that the smaller number loses.
    #[test]
    fn sums_round_once() {
        for (first, second, expected) in [
            ("1", "-1", "0"),
            ("-0", "-0", "0"),
            ("18446744073709551615", "1", "18446744073709551616"),
            ("18446744073709551616", "1", "18446744073709551616"),
            ("18446744073709551616", "3", "18446744073709551620"),
            ("36893488147419103232", "-1", "36893488147419103232"),
            ("36893488147419103232", "-1.5", "36893488147419103230"),
            ("0.1", "0.2", "0.3"),
            ("1e-30", "-1e-30", "0"),
            ("-1e-30", "0", "0"),
        ] {
            assert_eq!(sum(first, second).as_deref(), Some(expected), "{first} + {second}");
        }
    }
}
