//! What the fields of a date mean: fail2ban's `%` fields as expressions, and the fields found → a time. The rules are
//! those of `server/strptime.py`, which extends Python's own `strptime`.

use jiff::{
    ToSpan as _, civil,
    civil::{Date, DateTime, Weekday},
    tz::TimeZone,
};

use crate::filter::expression::{Captured, plain_digits};

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// The expression of a `%` field. `this_year` bounds `%ExY`: years from 2000 to three from now.
pub(super) fn field(name: &str, this_year: i16) -> Option<String> {
    let named = |group: &str, expression: &str| format!("(?P<{group}>{expression})");
    let abbreviations = |names: &[&str]| names.iter().map(|name| &name[..3]).collect::<Vec<_>>().join("|");
    let hour = r"[01]?\d|2[0-3]";
    let minute = r"[0-5]?\d";
    let second = r"[0-5]?\d|6[01]";
    let week = r"5[0-3]|[0-4]\d|\d";
    let zone = "[A-Z](?:[A-Z]{2,4})?";
    let offset = r"[+-][01]\d(?::?\d{2})?";
    // Python's own, for the fields that fail2ban does not define anew.
    let (python_day, python_month) = (r"3[01]|[12]\d|0[1-9]|[1-9]| [1-9]", "1[0-2]|0[1-9]|[1-9]");
    let (python_time, python_year) =
        (r"(?P<H>2[0-3]|[01]\d|\d):(?P<M>[0-5]\d|\d):(?P<S>6[01]|[0-5]\d|\d)", r"\d\d\d\d");
    Some(match name {
        "%" => "%".into(),
        "a" => named("a", &abbreviations(&DAYS)),
        "A" => named("A", &DAYS.join("|")),
        "b" => named("b", &abbreviations(&MONTHS)),
        "B" => named("B", &MONTHS.join("|")),
        "d" => named("d", r"[12]\d|[0 ]?[1-9]|3[01]"),
        "Exd" => named("d", r"[12]\d|0[1-9]|3[01]"),
        "f" => named("f", "[0-9]{1,6}"),
        "G" => named("G", r"\d{4}"),
        "H" => named("H", hour),
        "ExH" => named("H", r"[01]\d|2[0-3]"),
        "I" => named("I", "1[0-2]|0[1-9]|[1-9]"),
        "j" => named("j", r"36[0-6]|3[0-5]\d|[12]\d\d|0[1-9]\d|00[1-9]|[1-9]\d|0[1-9]|[1-9]"),
        "k" => format!(" ?{}", named("H", r"[0-2]?\d")),
        "Exk" => format!(" ?{}", named("H", hour)),
        "l" => format!(" ?{}", named("I", r"1?\d")),
        "Exl" => format!(" ?{}", named("I", r"1[0-2]|\d")),
        "m" => named("m", "0?[1-9]|1[0-2]"),
        "Exm" => named("m", "0[1-9]|1[0-2]"),
        "M" => named("M", minute),
        "ExM" => named("M", r"[0-5]\d"),
        "p" => named("p", "am|pm"),
        "S" => named("S", second),
        "ExS" => named("S", r"[0-5]\d|6[01]"),
        "u" => named("u", "[1-7]"),
        "U" => named("U", week),
        "V" => named("V", r"5[0-3]|0[1-9]|[1-4]\d|\d"),
        "w" => named("w", "[0-6]"),
        "W" => named("W", week),
        "y" | "Exy" => named("y", r"\d\d"),
        "Y" => named("Y", python_year),
        "ExY" => named("Y", &format!(r"20[0-{}]\d", ((this_year + 3) / 10 % 10).max(2))),
        "z" => named("z", &format!("Z|UTC|GMT|{offset}")),
        "Exz" => named("z", &format!("(?:{zone})?{offset}|{zone}")),
        "Z" => named("Z", "Z|[A-Z]{3,5}"),
        "ExZ" => named("Z", zone),
        "c" => format!(
            r"{}\s+{}\s+{}\s+{python_time}\s+{}",
            named("a", &abbreviations(&DAYS)),
            named("b", &abbreviations(&MONTHS)),
            named("d", python_day),
            named("Y", python_year),
        ),
        "x" => format!(r"{}/{}/{}", named("m", python_month), named("d", python_day), named("y", r"\d\d")),
        "X" => python_time.into(),
        _ => return None,
    })
}

/// A date that was found and is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::filter) enum NoTime {
    /// A day that does not exist, an unknown zone: fail2ban goes on as if the line had no date.
    Invalid,
    /// fail2ban fails with an error that makes it drop the line.
    LineIsLost,
}

/// The fields of a date.
#[derive(Default)]
struct Fields {
    year: Option<i16>,
    month: Option<i8>,
    day: Option<i8>,
    hour: i8,
    minute: i8,
    second: i8,
    /// From Monday.
    weekday: Option<i32>,
    day_of_year: Option<i32>,
    /// And whether weeks start on Monday.
    week: Option<(i32, bool)>,
    offset_minutes: Option<i32>,
}

/// The time that the fields found tell, in seconds since 1970. `now` is local; most dates need not know it.
pub(super) fn time(found: &Captured<'_>, zone: &TimeZone, now: impl Fn() -> DateTime) -> Result<f64, NoTime> {
    let fields = fields(found)?;
    let assume_year = fields.year.is_none();
    let year = fields.year.unwrap_or_else(|| now().year());
    let (mut date_year, mut month, mut day) = (year, fields.month, fields.day);
    if month.is_none() || day.is_none() {
        let by_week = fields.week.zip(fields.weekday);
        let by_week = by_week.map(|((week, monday), weekday)| day_of_week(year, week, weekday, monday));
        if let Some(day_of_year) = fields.day_of_year.or(by_week.transpose()?) {
            let first = Date::new(year, 1, 1).map_err(invalid)?;
            let date = first.checked_add((day_of_year - 1).days()).map_err(invalid)?;
            (date_year, month, day) = (date.year(), Some(date.month()), Some(date.day()));
        }
    }
    let assume_today = month.is_none() && day.is_none();
    if assume_today {
        (month, day) = (Some(now().month()), Some(now().day()));
    }
    let (month, day) = month.zip(day).ok_or(NoTime::LineIsLost)?;
    if date_year < 1 {
        // Python's first year.
        return Err(NoTime::Invalid);
    }
    // jiff turns second 60 into 59 when it parses, but not here: as in Python, it does not exist.
    let mut date = DateTime::new(date_year, month, day, fields.hour, fields.minute, fields.second, 0)
        .map_err(invalid)?;
    if let Some(minutes) = fields.offset_minutes {
        date = date.checked_sub(minutes.minutes()).map_err(invalid)?;
    }
    if assume_today && date > now() {
        // Just after midnight: it was yesterday.
        date = date.checked_sub(1.day()).map_err(invalid)?;
    }
    if assume_year && date > now() && date > now().checked_add(1.day()).map_err(invalid)? {
        let last_year = Date::new(date_year - 1, month, day).map_err(invalid)?;
        date = last_year.to_datetime(date.time());
    }
    let zone = if fields.offset_minutes.is_some() { &TimeZone::UTC } else { zone };
    let timestamp = zone.to_timestamp(date).map_err(invalid)?;
    Ok(timestamp.as_second() as f64)
}

fn invalid(_: jiff::Error) -> NoTime {
    NoTime::Invalid
}

fn fields(found: &Captured<'_>) -> Result<Fields, NoTime> {
    let mut fields = Fields::default();
    for (name, value) in found.named() {
        let Some(value) = value else { continue };
        let value = &*plain_digits(value);
        let number = || value.trim().parse::<i16>().map_err(|_too_large| NoTime::Invalid);
        let small = || match *value.as_bytes() {
            [ones @ b'0'..=b'9'] => Ok((ones - b'0') as i8),
            [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Ok((10 * (tens - b'0') + ones - b'0') as i8),
            _ => value.trim().parse::<i8>().map_err(|_too_large| NoTime::Invalid),
        };
        let position = |names: &[&str], length: usize| {
            let is = |name: &&str| name[..length.min(name.len())].eq_ignore_ascii_case(value);
            names.iter().position(is).ok_or(NoTime::Invalid)
        };
        match name.text() {
            "y" => {
                let year = number()?;
                fields.year = Some(if year <= 2000 { year + 2000 } else { year });
            }
            "Y" => fields.year = Some(number()?),
            "m" => fields.month = Some(small()?),
            "B" => fields.month = Some(position(&MONTHS, usize::MAX)? as i8 + 1),
            "b" => fields.month = Some(position(&MONTHS, 3)? as i8 + 1),
            "d" => fields.day = Some(small()?),
            "H" => fields.hour = small()?,
            "I" => fields.hour = hour_of_half(small()?, found)?,
            "M" => fields.minute = small()?,
            "S" => fields.second = small()?,
            "A" => fields.weekday = Some(position(&DAYS, usize::MAX)? as i32),
            "a" => fields.weekday = Some(position(&DAYS, 3)? as i32),
            "w" => fields.weekday = Some((i32::from(number()?) + 6) % 7),
            "j" => fields.day_of_year = Some(i32::from(number()?)),
            "U" | "W" => fields.week = Some((i32::from(number()?), name.text() == "W")),
            "z" | "Z" => fields.offset_minutes = Some(offset(value)?),
            _ => {}
        }
    }
    Ok(fields)
}

/// The hour of `%I` with the `%p` beside it. Without one it is before noon.
fn hour_of_half(hour: i8, found: &Captured<'_>) -> Result<i8, NoTime> {
    let half = found.named().find(|(name, _)| name.text() == "p").map(|(_, half)| half);
    // A `%p` that may be absent and is: fail2ban trips over it.
    let half = half.map(|half| half.ok_or(NoTime::LineIsLost)).transpose()?.unwrap_or("am");
    Ok(match half.to_lowercase().as_str() {
        "pm" if hour != 12 => hour + 12,
        "am" if hour == 12 => 0,
        _ => hour,
    })
}

/// The day of the year that a week and a weekday name.
fn day_of_week(year: i16, week: i32, weekday: i32, starts_on_monday: bool) -> Result<i32, NoTime> {
    let first = civil::Date::new(year, 1, 1).map_err(invalid)?.weekday();
    let shift = i32::from(!starts_on_monday);
    let first = (i32::from(first.since(Weekday::Monday)) + shift) % 7;
    let weekday = (weekday + shift) % 7;
    if week == 0 {
        return Ok(1 + weekday - first);
    }
    Ok(1 + (7 - first) % 7 + 7 * (week - 1) + weekday)
}

/// Minutes east of Greenwich. A zone's name has one fixed offset, as fail2ban reads it.
fn offset(zone: &str) -> Result<i32, NoTime> {
    let at = zone.find(['+', '-']).unwrap_or(zone.len());
    let (name, offset) = zone.split_at(at);
    let is_name =
        name.is_empty() || matches!(name.len(), 1 | 3..=5) && name.chars().all(|c| c.is_ascii_uppercase());
    if !is_name {
        return Err(NoTime::Invalid);
    }
    let minutes = if name.is_empty() { 0 } else { zone_offset(name).ok_or(NoTime::LineIsLost)? };
    let digits: String = offset.chars().filter(char::is_ascii_digit).collect();
    let part = |range: std::ops::Range<usize>| digits.get(range).and_then(|part| part.parse::<i32>().ok());
    let given = match (part(0..2), part(2..4)) {
        (Some(hours), more) => hours * 60 + more.unwrap_or(0),
        (None, _) => 0,
    };
    Ok(minutes + if offset.starts_with('-') { -given } else { given })
}

/// As [`offset`], for a text that is not known to be a zone (`validateTimeZone`).
pub(in crate::filter) fn zone(text: &str) -> Result<i32, NoTime> {
    let at = text.find(['+', '-']).unwrap_or(text.len());
    let digits: String = text[at..].chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    if !["", "00", "0000", "00:00"].contains(&digits.get(1..).unwrap_or_default()) {
        return Err(NoTime::Invalid);
    }
    offset(text)
}

/// The zones that fail2ban knows, by their offset in minutes.
const ZONES: [(i32, &str); 38] = [
    (-720, "Y"),
    (-660, "X NUT SST"),
    (-600, "W CKT HAST HST TAHT TKT"),
    (-540, "V AKST GAMT GIT HADT HNY"),
    (-480, "U AKDT CIST HAY HNP PST PT"),
    (-420, "T HAP HNR MST PDT"),
    (-360, "S CST EAST GALT HAR HNC MDT"),
    (-300, "R CDT COT EASST ECT EST ET HAC HNE PET"),
    (-240, "Q AST BOT CLT COST EDT FKT GYT HAE HNA PYT"),
    (-180, "P ADT ART BRT CLST FKST GFT HAA PMST PYST SRT UYT WGT"),
    (-120, "O BRST FNT PMDT UYST WGST"),
    (-60, "N AZOT CVT EGT"),
    (0, "Z EGST GMT UTC WET WT"),
    (60, "A CET DFT WAT WEDT WEST"),
    (120, "B CAT CEDT CEST EET SAST WAST"),
    (180, "C EAT EEDT EEST IDT MSK"),
    (240, "D AMT AZT GET GST KUYT MSD MUT RET SAMT SCT"),
    (300, "E AMST AQTT AZST HMT MAWT MVT PKT TFT TJT TMT UZT YEKT"),
    (360, "F ALMT BIOT BTT IOT KGT NOVT OMST YEKST"),
    (420, "G CXT DAVT HOVT ICT KRAT NOVST OMSST THA WIB"),
    (480, "H ACT AWST BDT BNT CAST HKT IRKT KRAST MYT PHT SGT ULAT WITA WST"),
    (540, "I AWDT IRKST JST KST PWT TLT WDT WIT YAKT"),
    (600, "K AEST ChST PGT VLAT YAKST YAPT"),
    (660, "L AEDT LHDT MAGT NCT PONT SBT VLAST VUT"),
    (720, "M ANAST ANAT FJT GILT MAGST MHT NZST PETST PETT TVT WFT"),
    (780, "FJST NZDT"),
    (690, "NFT"),
    (630, "ACDT LHST"),
    (570, "ACST"),
    (390, "CCT MMT"),
    (345, "NPT"),
    (330, "SLT"),
    (270, "AFT IRDT"),
    (210, "IRST"),
    (-150, "HAT NDT"),
    (-210, "HNT NST NT"),
    (-270, "HLV VET"),
    (-570, "MART MIT"),
];

fn zone_offset(name: &str) -> Option<i32> {
    let mut zones = ZONES.iter();
    zones.find(|(_, names)| names.split(' ').any(|known| known == name)).map(|(minutes, _)| *minutes)
}
