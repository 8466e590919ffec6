//! `strftime` in the C locale, on a time given rather than taken.

use minijinja::{Error, ErrorKind};
use std::fmt::Write;

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

struct Civil {
    year: i64,
    /// 1–12.
    month: usize,
    /// 1–31.
    day: i64,
    /// 1–366.
    day_of_year: i64,
    /// 0 is Sunday.
    weekday: usize,
    hour: i64,
    minute: i64,
    second: i64,
}

/// The proleptic Gregorian date of a count of seconds since 1970-01-01 00:00.
fn civil(seconds: i64) -> Civil {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    // 400 years have 146,097 days. From 1970 on, at most 400 steps remain.
    let (mut year, mut left) = (1970 + 400 * days.div_euclid(146_097), days.rem_euclid(146_097));
    while left >= 365 + i64::from(leap(year)) {
        left -= 365 + i64::from(leap(year));
        year += 1;
    }
    let day_of_year = left + 1;
    let mut month = 0;
    for length in [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    Civil {
        year,
        month: month + 1,
        day: left + 1,
        day_of_year,
        // 1970-01-01 was a Thursday.
        weekday: usize::try_from((days + 4).rem_euclid(7)).unwrap_or(0),
        hour: second / 3600,
        minute: second / 60 % 60,
        second: second % 60,
    }
}

/// Formats `now`, seconds since 1970-01-01 00:00, as Python's `datetime.strftime` does.
pub(super) fn strftime(now: i64, format: &str) -> Result<String, Error> {
    const FORMAT_BYTES_MAX: usize = 256;
    if format.len() > FORMAT_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidOperation, "strftime_now: the format is too long"));
    }
    // Any year of the calendar that Python knows; outside, its datetime would not exist.
    if !(-62_135_596_800..253_402_300_800).contains(&now) {
        return Err(Error::new(ErrorKind::InvalidOperation, "strftime_now: the time is outside the years 1 to 9999"));
    }
    let civil = civil(now);
    let mut text = String::new();
    write_time(&mut text, &civil, format)?;
    Ok(text)
}

fn write_time(text: &mut String, civil: &Civil, format: &str) -> Result<(), Error> {
    let mut rest = format.chars();
    while let Some(character) = rest.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let mut code = rest.next();
        // glibc's flag for numbers without padding.
        let bare = code == Some('-');
        if bare {
            code = rest.next();
        }
        let (number, width, pad) = match code {
            Some('Y') => (civil.year, 1, '0'),
            Some('y') => (civil.year % 100, 2, '0'),
            Some('m') => (civil.month as i64, 2, '0'),
            Some('d') => (civil.day, 2, '0'),
            Some('e') => (civil.day, 2, ' '),
            Some('j') => (civil.day_of_year, 3, '0'),
            Some('H') => (civil.hour, 2, '0'),
            Some('I') => ((civil.hour + 11) % 12 + 1, 2, '0'),
            Some('M') => (civil.minute, 2, '0'),
            Some('S') => (civil.second, 2, '0'),
            Some('w') => (civil.weekday as i64, 1, '0'),
            Some('u') => ((civil.weekday as i64 + 6) % 7 + 1, 1, '0'),
            Some(code) => {
                write_name(text, civil, code)?;
                continue;
            }
            None => {
                text.push('%');
                continue;
            }
        };
        let width = if bare { 1 } else { width };
        if pad == '0' {
            write!(text, "{number:0width$}")?;
        } else {
            write!(text, "{number:width$}")?;
        }
    }
    Ok(())
}

fn write_name(text: &mut String, civil: &Civil, code: char) -> Result<(), Error> {
    let (day, month) = (DAYS[civil.weekday], MONTHS[civil.month - 1]);
    match code {
        'A' => text.push_str(day),
        'a' => text.push_str(&day[..3]),
        'B' => text.push_str(month),
        'b' | 'h' => text.push_str(&month[..3]),
        'p' => text.push_str(if civil.hour < 12 { "AM" } else { "PM" }),
        'F' => write_time(text, civil, "%Y-%m-%d")?,
        'T' | 'X' => write_time(text, civil, "%H:%M:%S")?,
        'R' => write_time(text, civil, "%H:%M")?,
        'D' | 'x' => write_time(text, civil, "%m/%d/%y")?,
        'c' => write_time(text, civil, "%a %b %e %H:%M:%S %Y")?,
        // A time without a zone has no name of one.
        'Z' | 'z' => {}
        '%' => text.push('%'),
        code => {
            text.push('%');
            text.push(code);
        }
    }
    Ok(())
}
