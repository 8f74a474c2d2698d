//! Events of `tracing` → records of fail2ban's log.

use std::{borrow::Cow, fmt, fmt::Write as _, time::SystemTime};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    subscriber::Interest,
};
use tracing_subscriber::{
    layer::{Context, Layer},
    registry::LookupSpan,
};

use super::{Level, event::FAIL2BAN, format::Record, sink::Sink};

/// Hands what is severe enough to the sink.
struct Fail2banLayer {
    level: Level,
    sink: Sink,
}

/// The layer with its filter.
pub(super) fn layer<S>(level: Level, sink: Sink) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    Fail2banLayer { level, sink }.with_filter(MinimumLevel(level))
}

/// Lets through what is at least as severe.
struct MinimumLevel(Level);

impl<S> tracing_subscriber::layer::Filter<S> for MinimumLevel {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        Level::of(metadata) >= self.0
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if Level::of(metadata) >= self.0 { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.tracing())
    }
}

impl<S: Subscriber> Layer<S> for Fail2banLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let level = Level::of(metadata);
        if level < self.level {
            return;
        }
        let mut found = Found::default();
        event.record(&mut found);
        let (message, fields) = found.finish();
        self.sink.log(Record {
            time: SystemTime::now(),
            level,
            logger: logger(metadata.target()),
            message,
            fields,
        });
    }
}

/// The part of fail2ban that logs: ours, by the last part of its path (`helpers.py`, `getLogger`).
fn logger(target: &'static str) -> Cow<'static, str> {
    if target.starts_with("fail2ban") {
        return target.into();
    }
    format!("fail2ban.{}", target.rsplit("::").next().unwrap_or_default()).into()
}

/// The fields of an event.
#[derive(Default)]
struct Found {
    /// As fail2ban says it, if it does.
    fail2ban: Option<String>,
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Found {
    fn add(&mut self, field: &Field, value: String) {
        match field.name() {
            FAIL2BAN => self.fail2ban = Some(value),
            "message" => self.message = value,
            name => self.fields.push((name, value)),
        }
    }

    /// The message, and all fields. What fail2ban has no words for is put as fail2ban puts things: the jail in brackets
    /// in front. One line, whatever comes from logs and commands: what follows a line end could pass for another record.
    fn finish(self) -> (String, Vec<(&'static str, String)>) {
        let message = self.fail2ban.unwrap_or_else(|| {
            let mut text = String::new();
            let jail = self.fields.iter().find(|(name, _)| *name == "jail").map(|(_, jail)| jail);
            let others = self.fields.iter().filter(|(name, _)| *name != "jail");
            // Writing to a string cannot fail.
            jail.map_or(Ok(()), |jail| write!(text, "[{jail}] ")).unwrap_or_default();
            text.push_str(&self.message);
            for (n, (name, value)) in others.enumerate() {
                write!(text, "{} {name}={value}", if n == 0 { ":" } else { "," }).unwrap_or_default();
            }
            text
        });
        (one_line(message), self.fields)
    }
}

impl Visit for Found {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

/// With control characters written as escapes.
fn one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let escaped = text.chars().map(|c| match c {
        c if c.is_control() => Cow::Owned(c.escape_default().to_string()),
        c => Cow::Owned(c.to_string()),
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(fail2ban: Option<&str>, fields: &[(&'static str, &str)]) -> String {
        let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Found { fail2ban: fail2ban.map(str::to_owned), message: "Stored".into(), fields }.finish().0
    }

    #[test]
    fn what_fail2ban_has_no_words_for_has_its_fields_behind_it() {
        assert_eq!(found(None, &[]), "Stored");
        assert_eq!(
            found(None, &[("ip", "192.0.2.7"), ("jail", "sshd"), ("n", "2")]),
            "[sshd] Stored: ip=192.0.2.7, n=2"
        );
        assert_eq!(found(Some("[sshd] Ban 192.0.2.7"), &[("jail", "sshd")]), "[sshd] Ban 192.0.2.7");
    }

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        let forged = "x\n2026-01-01 00:00:00,000 fail2ban.actions [1]: NOTICE [sshd] Ban 192.0.2.9\r";
        let line = found(None, &[("user", forged)]);
        assert!(!line.contains(['\n', '\r']) && line.contains("x\\n2026"), "{line}");
    }

    #[test]
    fn parts_of_ours_are_named_as_parts_of_fail2ban() {
        assert_eq!(logger("fail2ban.actions"), "fail2ban.actions");
        assert_eq!(logger("f2b::source::journal"), "fail2ban.journal");
    }
}
