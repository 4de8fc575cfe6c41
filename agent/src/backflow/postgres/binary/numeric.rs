//! PostgreSQL's binary form of a numeric.

/// Signs of a numeric.
const NEGATIVE: u16 = 0x4000;

/// A numeric: its digits to the base 10,000, the weight of the first, sign and scale.
pub(super) fn encode(value: i128, scale: u32) -> Vec<u8> {
    let mut rest = value.unsigned_abs();
    let mut digits: Vec<u16> = Vec::new();
    // The lowest group of the fraction may have fewer than four digits of its own.
    let own = scale % 4;
    if own > 0 {
        let cut = 10u128.pow(own);
        digits.push((rest % cut) as u16 * 10u16.pow(4 - own));
        rest /= cut;
    }
    while rest > 0 {
        digits.push((rest % 10_000) as u16);
        rest /= 10_000;
    }
    let fraction_groups = scale.div_ceil(4) as i16;
    let weight = digits.len() as i16 - fraction_groups - 1;
    digits.reverse();
    let empty = digits.iter().all(|digit| *digit == 0);
    if empty {
        digits.clear();
    }
    let mut out = Vec::with_capacity(8 + digits.len() * 2);
    out.extend((digits.len() as i16).to_be_bytes());
    out.extend(if empty { 0i16 } else { weight }.to_be_bytes());
    out.extend(if value < 0 { NEGATIVE } else { 0 }.to_be_bytes());
    out.extend((scale as u16).to_be_bytes());
    digits.iter().for_each(|digit| out.extend(digit.to_be_bytes()));
    out
}

pub(super) fn decode(bytes: &[u8], scale: u32) -> Option<i128> {
    let (head, digits) = bytes.split_first_chunk::<8>()?;
    let word = |at: usize| Some(u16::from_be_bytes([*head.get(at)?, *head.get(at + 1)?]));
    let weight = i32::from(word(2)? as i16);
    let negative = match word(4)? {
        0 => false,
        NEGATIVE => true,
        // NaN and the infinities.
        _ => return None,
    };
    let mut value = 0i128;
    for (at, digit) in (0i32..).zip(digits.chunks_exact(2)) {
        let digit = i128::from(u16::from_be_bytes([*digit.first()?, *digit.get(1)?]));
        let exponent = 4 * (weight - at) + scale as i32;
        let part = match u32::try_from(exponent) {
            Ok(_) | Err(_) if digit == 0 => 0,
            Ok(exponent) => digit.checked_mul(10i128.checked_pow(exponent)?)?,
            Err(_) => {
                let cut = 10i128.checked_pow(exponent.unsigned_abs())?;
                if digit % cut != 0 {
                    return None;
                }
                digit / cut
            }
        };
        value = value.checked_add(part)?;
    }
    Some(if negative { -value } else { value })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numerics_are_those_of_the_database() {
        // As `select numeric_send(…)` prints them.
        for (value, scale, hex) in [
            (0i128, 2, "0000000000000002"),
            (1, 2, "0001ffff000000020064"),
            (1234567, 2, "000300010000000200010929_1a2c"),
            (-15, 1, "00020000400000010001_1388"),
            (10000, 0, "0002000100000000_00010000"),
        ] {
            let expected = lingqu_protocol::digest::from_hex(&hex.replace('_', "")).unwrap();
            let got = encode(value, scale);
            assert_eq!(decode(&got, scale), Some(value));
            assert_eq!(got, expected, "{value} {scale}");
        }
        let largest = 10i128.pow(38) - 1;
        for scale in 0..=38 {
            for value in [largest, -largest, 1, -1] {
                assert_eq!(decode(&encode(value, scale), scale), Some(value), "{value} {scale}");
            }
        }
    }
}
