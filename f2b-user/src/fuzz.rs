//! What the fuzz targets call (`fuzz/`, `tests/fuzz.rs`): each function takes any bytes, and panics if something does
//! not hold that must hold for all of them. Nothing outside of this process is read.
//!
//! Compiling the templates of dates takes a thousand times as long as reading a line. So a log whose lines have dates
//! goes on from one input to the next ([`Running`]); what breaks it then is all of its lines, and they are shown.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, Write as _},
    os::fd::AsRawFd as _,
    panic,
    sync::{LazyLock, Once},
};

use jiff::tz::TimeZone;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::{
    config::{self, Resolved},
    filter::{self, Context, Failure, Filter, FilterSettings},
    formula::{Formula, Names, Number},
    source::journal::{
        Files, JournalMatch, Location,
        disk::{Journal, Start},
    },
};

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// The targets by their name.
pub const TARGETS: [(&str, Target); 6] = [
    ("config", config),
    ("date", date),
    ("expression", expression),
    ("filter", filter),
    ("formula", formula),
    ("journal", journal),
];

/// 2023-11-14 22:13:20 UTC.
const NOW: f64 = 1_700_000_000.0;

/// Between the parts of an input: a form feed, so that the corpus can be read.
const PART: char = '\x0c';

/// The files of the `config` target, in the order of its input. `jail.conf` comes last, so that most inputs lie over
/// the built-in tree.
const FILES: [&str; 10] = [
    "/jail.local",
    "/filter.d/x.conf",
    "/action.d/x.conf",
    "/jail.d/a.conf",
    "/jail.d/b.local",
    "/filter.d/x.local",
    "/filter.d/sshd.local",
    "/fail2ban.local",
    "/paths.conf",
    "/jail.conf",
];

/// A configuration: the texts of [`FILES`]. What is read is complete, and says where each
/// expression stands.
pub fn config(data: &[u8]) {
    let texts = data.split(|byte| char::from(*byte) == PART);
    let files = FILES.iter().zip(texts).filter(|(_, text)| !text.is_empty());
    let files: BTreeMap<_, _> = files.map(|(name, text)| (name.into(), text.to_vec())).collect();
    let resolved = match Resolved::in_memory(files) {
        Ok(resolved) => resolved,
        Err(error) => return assert!(!format!("{error:#}").is_empty()),
    };
    for jail in &resolved.jails {
        assert!(jail.findtime.is_finite() && jail.bantime.is_finite(), "{jail:?}");
        for expression in jail.failregex.iter().chain(&jail.ignoreregex) {
            assert!(!expression.text.contains('\n'), "{expression:?}");
        }
    }
}

/// A `datepattern` and the lines of a log; or only the lines, and the default patterns.
pub fn date(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (datepattern, log) = text.split_once(PART).unwrap_or(("", &text));
    Running::go_on(datepattern, log, || {
        let settings = FilterSettings {
            failregex: vec!["(?s)^<F-ID>.*</F-ID>$".into()],
            datepattern: datepattern.into(),
            ..FilterSettings::default()
        };
        Filter::new(&settings).ok()
    });
}

/// Expressions, one a line, and the lines of a log.
pub fn expression(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (expressions, log) = text.split_once(PART).unwrap_or((&text, "192.0.2.1"));
    let expressions: Vec<_> = expressions.lines().map(str::to_owned).collect();
    filter::check_expressions(&expressions, &format!("{log}\n"));
    for maxlines in ["1", "3"] {
        let failregex = expressions.iter().map(|expression| format!("{expression}<HOST>")).collect();
        let settings = FilterSettings { failregex, maxlines: maxlines.into(), ..FilterSettings::default() };
        if let Ok(filter) = Filter::new(&settings) {
            read_journal(&filter, log);
        }
    }
}

/// A `bantime.formula`. One that is in order has a result or a reason, the same both times, and never is too large.
pub fn formula(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(formula) = Formula::new(&text) else { return };
    for (time, count) in [(600, 1), (0, 0), (i64::MAX, 1_000_000)] {
        let names = Names { time: time.into(), count: count.into(), factor: Number::Float(1.5) };
        let evaluate = || formula.evaluate(Some(&names), &mut || 0.5).map(|number| number.to_string());
        let result = evaluate();
        assert_eq!(result, evaluate());
        assert!(result.map_or(1, |text| text.len()) < 2600, "{text}");
    }
}

/// The number of a filter from `0`, `j` for a journal, and the log's lines.
pub fn filter(data: &[u8]) {
    let [number, kind, log @ ..] = data else { return };
    let number = usize::from(number.wrapping_sub(b'0')) % FILTERS.len();
    let log = String::from_utf8_lossy(log);
    match kind {
        b'j' => read_journal(&FILTERS[number], &log),
        _ => Running::go_on(&number.to_string(), &log, || Some(FILTERS[number].clone())),
    }
}

/// A file of the journal. Whatever is in it, it comes to an end, read one by one and by the lists that the file has.
pub fn journal(data: &[u8]) {
    let file = memfd_create("journal", MFdFlags::empty()).expect("there is memory");
    let mut file = File::from(file);
    file.write_all(data).expect("there is memory");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let files = Files::new([("journalfiles", path.as_str())]).expect("it is one");
    let mut journal = Journal::open(&files).expect("no folder is read");
    journal.values("_SYSTEMD_UNIT");
    let wanted = JournalMatch::parse("_SYSTEMD_UNIT=ssh.service _COMM=sshd + _PID=7").expect("it is one");
    for wanted in [None, Some(&wanted)] {
        journal.read_from(Start::Time(1), wanted, &["MESSAGE", "_HOSTNAME"], 1024);
        // An entry takes eight bytes of its list at least.
        for _ in 0..data.len() {
            match journal.next_entry() {
                Ok(None) => break,
                Ok(Some(location)) => {
                    let cursor = location.to_string();
                    assert_eq!(cursor.parse::<Location>().expect("it is a cursor"), location);
                    drop(journal.fields(|name, _| assert!(!name.contains(&b'='))));
                }
                Err(damage) => assert!(!damage.to_string().is_empty()),
            }
        }
        assert!(matches!(journal.next_entry(), Ok(None)), "there are more entries than bytes");
    }
}

/// Takes the lines of a journal, which need no dates, through a filter: twice, and they find the same.
fn read_journal(filter: &Filter, log: &str) {
    let pass = || {
        let mut context = filter.context(TimeZone::UTC, NOW);
        let find = |line| filter.failures(&mut context, line, Some(NOW), NOW);
        log.split('\n').flat_map(find).collect::<Vec<_>>()
    };
    let found = pass();
    assert_eq!(found, pass());
    check(&found, log);
}

fn check(found: &[Failure], log: &str) {
    let lines = log.split('\n').count() as u64;
    for failure in found {
        assert!((1..=lines).contains(&failure.line) && failure.time.is_finite(), "{failure:?}");
    }
}

/// A filter at work on a log that does not end with an input.
struct Running {
    filter: Filter,
    context: Context,
    /// All of it so far: as one input, it does the same.
    log: Option<String>,
}

/// The longest log, in bytes, before another begins.
const MAX_LOG: usize = 65_536;
/// How many filters are kept: the fuzzer makes up any number of date patterns.
const MAX_RUNNING: usize = 64;

thread_local! {
    static RUNNING: RefCell<HashMap<String, Running>> = RefCell::default();
    /// The log that is being read, for the case that it breaks something.
    static READING: Cell<String> = Cell::default();
}

impl Running {
    /// Takes more lines through the filter with this key; `make` makes it.
    fn go_on(key: &str, lines: &str, make: impl FnOnce() -> Option<Filter>) {
        show_what_breaks();
        let running = RUNNING.with_borrow_mut(|all| all.remove(key));
        let running = running.or_else(|| Some(Self::new(make()?)));
        let Some(mut running) = running else { return };
        if running.log.as_ref().map_or(0, String::len) + lines.len() > MAX_LOG {
            running = Self::new(running.filter);
        }
        running.read(lines);
        RUNNING.with_borrow_mut(|all| {
            if all.len() >= MAX_RUNNING {
                all.clear();
            }
            all.insert(key.to_owned(), running);
        });
    }

    fn new(filter: Filter) -> Self {
        let context = filter.context(TimeZone::UTC, NOW);
        Self { filter, context, log: None }
    }

    fn read(&mut self, lines: &str) {
        let log = match &self.log {
            Some(earlier) => format!("{earlier}\n{lines}"),
            None => lines.to_owned(),
        };
        READING.set(log.clone());
        let find = |line| self.filter.failures(&mut self.context, line, None, NOW);
        let found: Vec<_> = lines.split('\n').flat_map(find).collect();
        check(&found, &log);
        READING.take();
        self.log = Some(log);
    }
}

/// Before a panic ends the process, shows the whole log.
fn show_what_breaks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let log = READING.try_with(Cell::take).unwrap_or_default();
            if !log.is_empty() {
                drop(writeln!(io::stderr(), "The log with its earlier inputs, as a Rust string: {log:?}"));
            }
            next(info);
        }));
    });
}

/// Some filters that use what the built-in ones do not, and those in their modes.
static FILTERS: LazyLock<Vec<Filter>> = LazyLock::new(|| {
    let all = OWN.map(own).into_iter().chain(config::built_in_filters());
    all.map(|settings| Filter::new(&settings).expect("it is in order")).collect()
});

/// `prefregex`, `failregex`, `ignoreregex`, `maxlines`.
type Texts = (&'static str, &'static [&'static str], &'static str, &'static str);

fn own((prefregex, failregex, ignoreregex, maxlines): Texts) -> FilterSettings {
    FilterSettings {
        prefregex: prefregex.into(),
        failregex: failregex.iter().map(|&text| text.into()).collect(),
        ignoreregex: Some(ignoreregex)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
            .into_iter()
            .collect(),
        maxlines: maxlines.into(),
        ..FilterSettings::default()
    }
}

const OWN: [Texts; 4] = [
    // What a line tells about a connection holds for the lines after it.
    (
        "^<F-MLFID>c\\d+</F-MLFID>: <F-CONTENT>.+</F-CONTENT>$",
        &[
            "^<F-NOFAIL>from</F-NOFAIL> <HOST>$",
            "^refused <F-USER>\\S*</F-USER>$",
            "^wait<F-MLFPENDING></F-MLFPENDING>",
            "^<F-MLFGAINED>in</F-MLFGAINED> <F-USER>\\S*</F-USER>",
            "^<F-MLFFORGET>closed</F-MLFFORGET>(?: by <ADDR>)?",
        ],
        "trusted",
        "",
    ),
    // Several lines are one failure.
    ("", &["^begin (?P<id>\\w+) <HOST>$<SKIPLINES>^end (?P=id)$", "^(a+)+b$<SKIPLINES>^<HOST>"], "", "5"),
    // What only the exact form can decide.
    (
        "",
        &[
            "^(?P<q>[\"'])?(?!root)(?P<user>\\w+)(?(q)(?P=q)) from <HOST>(?<!\\.0)$",
            "(\\w+) \\1 (?>x*)<SUBNET>",
            "^(?:(?:\\S+ )*\\S+)* (?=<)<F-ID>.+</F-ID>>",
        ],
        "(.)\\1{4}",
        "",
    ),
    // Groups that are put together.
    (
        "",
        &[
            "^<F-ALT_USER_1>\\w+</F-ALT_USER_1>|<F-ALT_USER_2>\\d+</F-ALT_USER_2> <F-TUPLE_X_1>.</F-TUPLE_X_1><F-TUPLE_X_2>.?</F-TUPLE_X_2> <IP6>/<CIDR>",
            "<DNS> <F-PORT/>",
        ],
        "",
        "2",
    ),
];
