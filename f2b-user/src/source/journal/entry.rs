//! One entry of the journal, and the line that it becomes.

use std::borrow::Cow;

use anyhow::Result;

use super::{
    disk::{Journal, Location},
    matching::{Held, Takers},
};
use crate::filter::python::repr;

/// The fields of one entry that matter, in buffers that are used again for the next one.
#[derive(Debug, Default)]
pub(super) struct Entry {
    hostname: String,
    identifier: String,
    comm: String,
    syslog_pid: String,
    pid: String,
    /// When the sender sent it, in microseconds since 1970.
    sent: String,
    /// Of the kernel's own messages: microseconds since the boot.
    monotonic: String,
    message: String,
    /// What of it jails ask for.
    held: Held,
}

/// What becomes of bytes that are no UTF-8.
pub(super) type Decode = dyn Fn(&[u8]) -> String;

pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Entry {
    /// The fields that are read.
    pub(super) const FIELDS: [&str; 8] = [
        "_HOSTNAME",
        "SYSLOG_IDENTIFIER",
        "_COMM",
        "SYSLOG_PID",
        "_PID",
        "_SOURCE_REALTIME_TIMESTAMP",
        "_SOURCE_MONOTONIC_TIMESTAMP",
        "MESSAGE",
    ];

    /// Reads the journal's current entry, which is at `location`, each field once.
    ///
    /// # Errors
    /// It is damaged.
    pub(super) fn read(
        &mut self,
        journal: &mut Journal,
        location: &Location,
        takers: &Takers,
        decode: &Decode,
    ) -> Result<()> {
        for buffer in [
            &mut self.hostname,
            &mut self.identifier,
            &mut self.comm,
            &mut self.syslog_pid,
            &mut self.pid,
            &mut self.sent,
            &mut self.monotonic,
            &mut self.message,
        ] {
            buffer.clear();
        }
        takers.clear(&mut self.held);
        journal.fields(|name, value| {
            self.take(name, value, decode);
            takers.note(name, value, &mut self.held);
        })?;
        if self.is_kernels() && self.monotonic.is_empty() {
            self.monotonic = location.monotonic.to_string();
        }
        Ok(())
    }

    fn take(&mut self, name: &[u8], value: &[u8], decode: &Decode) {
        let buffer = match name {
            b"_HOSTNAME" => &mut self.hostname,
            b"SYSLOG_IDENTIFIER" => &mut self.identifier,
            b"_COMM" => &mut self.comm,
            b"SYSLOG_PID" => &mut self.syslog_pid,
            b"_PID" => &mut self.pid,
            b"_SOURCE_REALTIME_TIMESTAMP" => &mut self.sent,
            b"_SOURCE_MONOTONIC_TIMESTAMP" => &mut self.monotonic,
            b"MESSAGE" => &mut self.message,
            _ => return,
        };
        // A message in several parts is one; of other fields the last one counts.
        if name != b"MESSAGE" {
            buffer.clear();
        } else if !buffer.is_empty() {
            buffer.push(' ');
        }
        match str::from_utf8(value) {
            Ok(text) => buffer.push_str(text),
            Err(_) => buffer.push_str(&decode(value)),
        }
    }

    /// Microseconds since 1970, as fail2ban dates an entry: by the time at which it was sent if that is known, else by
    /// that at which it came.
    pub(super) fn micros(&self, location: &Location) -> u64 {
        self.sent.parse().unwrap_or(location.realtime)
    }

    fn identifier(&self) -> &str {
        if self.identifier.is_empty() { &self.comm } else { &self.identifier }
    }

    fn is_kernels(&self) -> bool {
        self.identifier() == "kernel" && self.process().is_none()
    }

    /// The number of the process. The sender may say what it likes: fail2ban takes what Python reads as a number.
    fn process(&self) -> Option<Cow<'_, str>> {
        let given = [&self.syslog_pid, &self.pid].into_iter().filter(|text| !text.is_empty());
        let mut read = given.map(|text| (text, python_integer(text, false)));
        let (text, number) = read.find(|(_, number)| number.as_deref() != Some("0"))?;
        let number = number.or_else(|| python_integer(text, true));
        Some(number.unwrap_or_else(|| format!("b{}", repr(text)).into()))
    }

    /// `HOST IDENT[PID]: MESSAGE`, as fail2ban renders an entry (`FilterSystemd.formatJournalEntry` in
    /// `server/filtersystemd.py`). What is absent leaves no trace, and a line end in the message becomes `\n`.
    pub(super) fn text(&self) -> String {
        let mut text = String::with_capacity(self.hostname.len() + self.message.len() + 64);
        if !self.hostname.is_empty() {
            text.push_str(&self.hostname);
            text.push(' ');
        }
        let identifier = self.identifier();
        if self.is_kernels() {
            let micros: f64 = self.monotonic.parse().unwrap_or_default();
            text.push_str(&format!("kernel: [{:12.6}] ", micros / 1e6));
        } else if !identifier.is_empty() {
            text.push_str(identifier);
            if let Some(process) = self.process() {
                text.push('[');
                text.push_str(&process);
                text.push(']');
            }
            text.push_str(": ");
        }
        text.push_str(&self.message);
        if text.contains('\n') { text.replace('\n', "\\n") } else { text }
    }

    /// What of it jails ask for, noted by [`read`](Self::read).
    pub(super) fn held(&self) -> &Held {
        &self.held
    }
}

/// What Python's `int` makes of a text, in decimal digits; with prefixes (`0x`) only where they are `prefixed`.
fn python_integer(text: &str, prefixed: bool) -> Option<Cow<'_, str>> {
    if !prefixed
        && matches!(text.as_bytes(), [b'1'..=b'9', digits @ ..] if digits.iter().all(u8::is_ascii_digit))
    {
        // As it is, like nearly every one.
        return Some(text.into());
    }
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let radix = match digits.get(..2).map(str::to_lowercase).as_deref() {
        Some("0x") => 16,
        Some("0o") => 8,
        Some("0b") => 2,
        _ => 10,
    };
    let digits = if radix == 10 { digits } else { &digits[2..] };
    let is_number = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_digit(radix));
    if prefixed != (radix != 10) || !digits.split('_').all(is_number) {
        return None;
    }
    let number = u128::from_str_radix(&digits.replace('_', ""), radix).ok()?;
    Some(if number == 0 { "0".into() } else { format!("{sign}{number}").into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_the_number_that_python_reads() {
        let process = |syslog_pid: &str| {
            let entry = Entry { syslog_pid: syslog_pid.into(), pid: "42".into(), ..Entry::default() };
            entry.process().unwrap().into_owned()
        };
        for (text, expected) in [
            ("7", "7"),
            ("007", "7"),
            (" +1_0 ", "10"),
            ("-5", "-5"),
            ("0x1f", "31"),
            ("0B11", "3"),
            ("", "42"),
            ("0", "42"),
            ("-0", "42"),
            ("1__0", "b'1__0'"),
            ("0x", "b'0x'"),
        ] {
            assert_eq!(process(text), expected, "{text:?}");
        }
        assert_eq!(Entry::default().process(), None);
    }

    #[test]
    fn an_entry_is_rendered_as_fail2ban_renders_it() {
        let mut entry = Entry {
            hostname: "vm".into(),
            comm: "sshd".into(),
            pid: "42".into(),
            message: "Failed password\n".into(),
            ..Entry::default()
        };
        assert_eq!(entry.text(), "vm sshd[42]: Failed password\\n");
        entry.identifier = "sshd-session".into();
        entry.syslog_pid = "7".into();
        assert_eq!(entry.text(), "vm sshd-session[7]: Failed password\\n");
        let kernel = Entry {
            hostname: "vm".into(),
            identifier: "kernel".into(),
            monotonic: "62345678".into(),
            message: "IN=eth0".into(),
            ..Entry::default()
        };
        assert_eq!(kernel.text(), "vm kernel: [   62.345678] IN=eth0");
        assert_eq!(Entry { message: "a\nb".into(), ..Entry::default() }.text(), "a\\nb");
    }
}
