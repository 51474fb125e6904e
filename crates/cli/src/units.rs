//! Figures for people: counts, bytes and times, printed and parsed.

use std::time::{Duration, SystemTime};

/// A count with its thousands set apart: `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in binary units with three significant digits: `1.50 GiB`.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if value < 1024 {
        return format!("{value} B");
    }
    let mut scaled = value as f64 / 1024.0;
    let mut unit = 0;
    // 999.5 would print as "1000": it belongs to the next unit.
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{} {}", three_digits(scaled), UNITS[unit])
}

/// A time span with three significant digits: `850 µs`, `12.3 ms`, `4.20 s`, `3 min 05 s`.
pub fn duration(value: Duration) -> String {
    let micros = value.as_secs_f64() * 1e6;
    if micros < 999.5 {
        format!("{micros:.0} µs")
    } else if micros < 999.5e3 {
        format!("{} ms", three_digits(micros / 1e3))
    } else if value.as_secs() < 60 {
        format!("{} s", three_digits(micros / 1e6))
    } else {
        format!("{} min {:02} s", value.as_secs() / 60, value.as_secs() % 60)
    }
}

fn three_digits(value: f64) -> String {
    let places = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.places$}")
}

/// Reads `500ms`, `5s`, `2m`, `1h`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds_per_unit = match unit.trim() {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(format!("{text:?} is no time span; write 500ms, 5s, 2m, 1h or 7d")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no time span; write 500ms, 5s, 2m, 1h or 7d"))?;
    Duration::try_from_secs_f64(number * seconds_per_unit)
        .map_err(|_| format!("{text:?} is too long"))
}

/// Reads a moment since 1970 as in RFC 3339: `2026-12-24T18:00:00Z`, `2026-12-24T19:00:00.5+01:00`.
pub fn parse_moment(text: &str) -> Result<SystemTime, String> {
    moment(text).ok_or_else(|| {
        format!("{text:?} is no moment; write 2026-12-24T18:00:00Z or 2026-12-24T19:00:00+01:00")
    })
}

fn moment(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_once(['T', 't'])?;
    let (time, zone) = rest.split_at(rest.find(['Z', 'z', '+', '-'])?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of = [31, 28 + u64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month = usize::try_from(month).ok().and_then(|month| month.checked_sub(1))?;
    let days_in_month = *days_of.get(month)?;
    if !(1..=days_in_month).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let before = year.checked_sub(1)?;
    let leaps = before / 4 - before / 100 + before / 400;
    // Those before 1970 were 719,162.
    let days = before * 365 + leaps + days_of[..month].iter().sum::<u64>() + day - 1;
    let seconds = days.checked_sub(719_162)? * 86_400 + hour * 3_600 + minute * 60 + second;
    let seconds = match zone.split_at(1) {
        ("Z" | "z", "") => seconds,
        (sign, ahead) => {
            let [hours, minutes] = numbers(ahead, ':', [2, 2])?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            let ahead = hours * 3_600 + minutes * 60;
            if sign == "+" { seconds.checked_sub(ahead)? } else { seconds + ahead }
        }
    };
    let digits = fraction.bytes().all(|byte| byte.is_ascii_digit()) && !fraction.is_empty();
    let fraction: f64 = digits.then(|| format!("0.{fraction}"))?.parse().ok()?;
    let since = Duration::from_secs(seconds) + Duration::from_secs_f64(fraction);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// Numbers of so many digits each.
fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.split(between);
    let mut found = [0; N];
    for (found, digits) in found.iter_mut().zip(digits) {
        let part = parts.next()?;
        let is_number = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
        *found = is_number.then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(found)
}

/// Reads `4096`, `64KiB`, `10MiB`, `2GiB`; also `k`, `m`, `g` (binary).
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("{text:?} is no size; write 4096, 64KiB, 10MiB or 2GiB")),
    };
    let number: u64 =
        number.parse().map_err(|_| format!("{text:?} is no size; write 4096, 64KiB or 10MiB"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

/// Reads the size of a message's body: large enough for what `demo` and `bench` write into it, small enough for the
/// limits that a cluster has unless set.
pub fn parse_body_size(text: &str) -> Result<u64, String> {
    let size = parse_bytes(text)?;
    match size {
        16..=524_288 => Ok(size),
        _ => Err("from 16 bytes to 512 KiB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_their_thousands_set_apart() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
    }

    #[test]
    fn bytes_keep_three_digits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.00 KiB");
        assert_eq!(bytes(1536 * 1024 * 1024), "1.50 GiB");
        assert_eq!(bytes(1023 * 1024), "1.00 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn durations_choose_their_unit() {
        assert_eq!(duration(Duration::from_micros(850)), "850 µs");
        assert_eq!(duration(Duration::from_micros(12_340)), "12.3 ms");
        assert_eq!(duration(Duration::from_millis(4_200)), "4.20 s");
        assert_eq!(duration(Duration::from_secs(185)), "3 min 05 s");
    }

    #[test]
    fn time_spans_are_read_with_and_without_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "5 parsecs", "-1s", "1.2.3"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn moments_are_read_in_any_zone_and_only_where_there_is_one() {
        let at = |text: &str| {
            let since = parse_moment(text)?.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            Ok::<_, String>(since.as_millis())
        };
        assert_eq!(at("1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(at("2000-02-29T12:34:56Z"), Ok(951_827_696_000));
        assert_eq!(at("2026-12-24T18:00:00Z"), Ok(1_798_135_200_000));
        assert_eq!(at("2026-12-24T19:00:00.25+01:00"), Ok(1_798_135_200_250));
        assert_eq!(at("2026-12-24T12:30:00-05:30"), Ok(1_798_135_200_000));
        for wrong in [
            "",
            "2h",
            "2026-12-24",
            "2026-12-24T18:00:00",
            "2026-12-24 18:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-12-24T24:00:00Z",
            "2026-12-24T18:00Z",
            "2026-12-24T18:00:00.Z",
            "2026-12-24T18:00:00ZZ",
            "2026-12-24T18:00:00+1",
            "1969-12-31T23:59:59Z",
            "+026-12-24T18:00:00Z",
        ] {
            assert!(parse_moment(wrong).is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn sizes_are_read_in_binary_units() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("64KiB"), Ok(65_536));
        assert_eq!(parse_bytes("10m"), Ok(10 << 20));
        for wrong in ["", "KiB", "1.5MiB", "99999999999TiB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong:?} was accepted");
        }
    }
}
