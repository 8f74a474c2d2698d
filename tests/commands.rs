//! Actions beside the real fail2ban: for the same tickets, every stock one that is no firewall's runs the same commands
//! with the same variables, and `smtp.py` sends the same mails.

mod reference;

use std::{
    cell::RefCell,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    rc::Rc,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use f2b::{
    action::{Actions, CommandAction, End, Execute, Info, JailInfo, Script},
    config::{ActionKind, ActionSettings, Config, Family},
    store::Merged,
    ticket::{Length, Ticket},
};
use reference::{copy, fail2ban};
use serde_json::{Value, json};
use tokio::runtime;

const COMMANDS: &str = include_str!("reference/commands.py");
const NOW: f64 = 1_700_000_000.25;

/// An action with everything that stock ones lack.
const EVERYTHING: &str = r#"
[Definition]
actionstart = start <name> <actname> <family> <ip> <time> <failures> <bantime><br><jail.found> [<table>] <raw-ticket> <F-USER>
actionstop = stop <table> <timeout>
actionflush = flush <table>
actionreload = reload <actname>
actionban = ban "<ip>" <family> "<ip-rev>" <fid> <failures> <time> <bantime> <bancount> '<matches>' <ipmatches> <ipjailmatches>
            <ipfailures> <ipjailfailures> <restored> "<raw-ticket>" <F-USER> <F-PORT> <F-ID> <F-NOTHING> <f-user> <br>|<sp>|
            <name> <table> <jail.banned> <jail.banned_total> <jail.found> <jail.found_total> <<what>-rev> <unknown> <a b> <ip-host>
actionprolong = prolong <ip> <bantime> <F-MATCHES> <F-FAILURES>
actionreban = again <table> <ip>
actionunban = unban <table> <fid> <F-USER>
table = <prefix>-<name>
what = ip
[Init]
prefix = f2b
timeout = 90
[Init?family=inet6]
prefix = f2b6
"#;

/// Records instead of running.
#[derive(Clone, Default)]
struct Recorder(Rc<RefCell<Vec<Value>>>);

impl Execute for Recorder {
    async fn execute(&self, script: &Script, time: Duration) -> bool {
        let mut command = vec![json!(time.as_secs_f64()), json!(script.text)];
        command.extend(script.arguments.iter().map(|argument| json!(argument)));
        let mut steps = self.0.borrow_mut();
        steps.last_mut().and_then(Value::as_array_mut).expect("a step has begun").push(command.into());
        true
    }
}

impl Recorder {
    fn step(&self, name: &str) {
        self.0.borrow_mut().push(json!([name]));
    }
}

fn tickets() -> Vec<Value> {
    let ticket = |ip: &str, fields: Value, matches: &[&str]| {
        json!({
            "fid": ip, "ip": ip, "time": NOW - 100.5, "bantime": 3600, "bancount": 2, "failures": 5,
            "matches": matches, "fields": fields, "restored": false,
        })
    };
    let lines = [
        "Nov 14 22:11:40 host sshd[42]: Failed password for root from 192.0.2.7 port 22 ssh2",
        "Nov 14 22:11:41 host sshd[43]: Invalid user $(reboot) `id` \\ \"x\" 'y' from 192.0.2.7; <ip> é ☃ \u{1b}[1m\t*",
    ];
    let mut sparse = ticket("198.51.100.9", json!({}), &[]);
    sparse["time"] = json!(1_700_000_000.0);
    sparse["bantime"] = json!(-1);
    sparse["restored"] = json!(true);
    let mut session = ticket("192.0.2.8", json!({"user": "-x y"}), &["plain"]);
    session["fid"] = json!("session $1 of 'x'");
    vec![
        ticket("192.0.2.7", json!({"user": "root", "fport": "4242"}), &lines[..1]),
        ticket("192.0.2.7", json!({"user": "a; touch /tmp/x\n$(id)", "fport": "1"}), &lines),
        ticket("2001:db8::7", json!({"user": "<F-PORT><ip>"}), &lines),
        sparse,
        session,
        ticket("192.0.2.0/24", json!({}), &[]),
        ticket("127.0.0.1", json!({}), &["one", "two"]),
    ]
}

fn info(written: &Value) -> Info {
    let text = |name: &str| written[name].as_str().expect("a text").to_owned();
    let count = |name: &str| u32::try_from(written[name].as_u64().expect("a number")).expect("small");
    let time = Duration::from_secs_f64(written["time"].as_f64().expect("a time"));
    let bantime = written["bantime"].as_f64().expect("a number");
    let fields = written["fields"].as_object().expect("an object").iter();
    let ticket = Ticket {
        jail: "test".into(),
        subject: text("ip").parse().expect("an address"),
        fid: text("fid"),
        time: SystemTime::UNIX_EPOCH + time,
        bantime: if bantime < 0.0 { Length::Forever } else { Length::For(bantime) },
        bancount: count("bancount"),
        failures: count("failures"),
        matches: written["matches"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|line| line.as_str().expect("text").into())
            .collect(),
        fields: fields.map(|(name, value)| (name.clone(), value.as_str().expect("text").into())).collect(),
        restored: written["restored"] == true,
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(NOW);
    Info { now, ..Info::of(ticket, jail_info()) }
}

fn jail_info() -> JailInfo {
    JailInfo { name: "test".into(), bantime: Some(Duration::from_secs(600)), ..JailInfo::default() }
}

/// The same steps as in `reference/commands.py`.
async fn play(action: &ActionSettings, tickets: &[Value]) -> Value {
    let ActionKind::Command(settings) = &action.kind else { panic!("{action:?}") };
    let recorder = Recorder::default();
    let run = CommandAction::new("test", &action.name, settings.clone(), recorder.clone());
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(NOW);
    let whole = Info::without_ban(jail_info(), Family::Any, now);
    let good = |result: Result<(), String>| result.expect("it is recorded");
    recorder.step("start");
    good(run.start(&whole).await);
    for written in tickets {
        let info = info(written);
        recorder.step("ban");
        good(run.ban(&info, false).await);
        recorder.step("prolong");
        good(run.prolong(&info).await);
        recorder.step("reban");
        good(run.ban(&info, true).await);
        recorder.step("unban");
        good(run.unban(&info).await);
    }
    recorder.step("reload");
    good(run.reload(&whole).await);
    recorder.step("flush");
    good(run.flush(&whole).await);
    recorder.step("stop");
    good(run.stop(&whole).await);
    Value::Array(recorder.0.take())
}

#[test]
fn stock_actions_run_the_commands_that_fail2ban_runs() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    copy(&fail2ban().config(), dir.path());
    let actions = dir.path().join("action.d");
    fs::write(actions.join("everything.conf"), EVERYTHING).expect("it is writable");
    let mut names: Vec<_> = fs::read_dir(&actions)
        .expect("it is there")
        .filter_map(|file| {
            let name = file.expect("readable").file_name().into_string().expect("text");
            // Those that are only included by others have no action of their own.
            name.strip_suffix(".conf").filter(|name| !name.ends_with("-common")).map(str::to_owned)
        })
        .collect();
    names.sort();
    let given = names.iter().map(|name| match name.as_str() {
        "everything" => {
            format!("{name}[prefix=given, actname=all]\n  {name}[name=%(__name__)s-x, what=\"<prefix>\"]")
        }
        "complain" | "xarf-login-attack" | "sendmail-whois-lines" => {
            format!("{name}[logpath=/var/log/x.log, debug=1, sender=me]")
        }
        _ => format!("{name}[dest=\"admin@example.org, x@example.org\", port=\"80,443\"]"),
    });
    let action = given.collect::<Vec<_>>().join("\n  ");
    let jail = format!(
        "[DEFAULT]\n[sshd]\nenabled = false\n[test]\nenabled = true\nfilter = sshd\nbantime = 600\nbackend = polling\nlogpath = /dev/null\naction = {action}\n"
    );
    fs::write(dir.path().join("jail.local"), jail).expect("it is writable");
    fs::write(dir.path().join("jail.d/defaults-debian.conf"), "").expect("it is writable");

    let tickets = tickets();
    let file = dir.path().join("tickets.json");
    fs::write(&file, serde_json::to_string(&tickets).expect("it is JSON")).expect("it is writable");
    let output = fail2ban().python(COMMANDS, &[dir.path(), &file]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let config = Config::load(Some(dir.path())).expect("it is read");
    let ours = &config.jails.first().unwrap_or_else(|| panic!("{:?}", config.warnings)).actions;

    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut commands, mut differences) = (0, Vec::new());
    for action in ours {
        let (ours, theirs) = (runtime.block_on(play(action, &tickets)), &theirs[&action.name]);
        let (ours, theirs) =
            (ours.as_array().expect("a list"), theirs.as_array().expect("fail2ban has the action"));
        assert_eq!(ours.len(), theirs.len(), "{}", action.name);
        for (ours, theirs) in ours.iter().zip(theirs) {
            commands += ours.as_array().map_or(0, |step| step.len() - 1);
            if !is_same(ours, theirs) {
                differences.push(format!("{}\n  fail2ban: {theirs}\n  f2b:      {ours}", action.name));
            }
        }
    }
    println!("{} actions, {} tickets: {commands} commands", ours.len(), tickets.len());
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
    assert!(ours.len() >= 30 && commands > 500, "{} actions, {commands} commands", ours.len());
}

/// Whole numbers are numbers, with or without a point.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        _ => a == b,
    }
}

/// What `smtp.py` mails about a start, a ban, and a stop.
const SMTP: &str = r#"
import logging, sys
sys.path.insert(0, sys.argv[1] + "/action.d")
import smtp
from fail2ban.server.jail import Jail
from fail2ban.server.ticket import BanTicket
logging.disable(logging.CRITICAL)
jail = Jail("test", "polling", None)
jail.actions.setBanTime(3600)
with open(sys.argv[2]) as file:
    host = file.read()
action = smtp.Action(jail, "smtp", host=host, dest="admin@example.org, x@example.org", sender="f2b@example.org", matches="matches")
ticket = BanTicket("192.0.2.7", 1699999899.75, matches=["one", "two <ip>"])
ticket.setAttempt(5)
action.start()
action.ban(jail.actions._getActionInfo(ticket))
action.unban(jail.actions._getActionInfo(ticket))
action.stop()
"#;

/// A mail: who is told the server as sender and receivers, and the text.
type Mail = (Vec<String>, String);

/// A mail server that takes `count` mails.
fn mail_server(count: usize) -> (String, JoinHandle<Vec<Mail>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let host = listener.local_addr().expect("it is bound").to_string();
    (
        host,
        thread::spawn(move || {
            (0..count).map(|_| take_mail(listener.accept().expect("a client").0)).collect()
        }),
    )
}

fn take_mail(mut client: TcpStream) -> Mail {
    let reader = BufReader::new(client.try_clone().expect("a socket can be cloned"));
    let mut say = |text: &str| client.write_all(text.as_bytes()).expect("the client listens");
    let (mut envelope, mut text, mut is_text) = (Vec::new(), String::new(), false);
    say("220 mail\r\n");
    for line in reader.lines() {
        let line = line.expect("the client speaks");
        if is_text {
            if line == "." {
                is_text = false;
                say("250 taken\r\n");
            } else {
                text.push_str(&format!("{line}\n"));
            }
            continue;
        }
        match line.split([' ', ':']).next().unwrap_or_default().to_uppercase().as_str() {
            "QUIT" => {
                say("221 bye\r\n");
                break;
            }
            "DATA" => {
                is_text = true;
                say("354 go on\r\n");
            }
            command => {
                if ["MAIL", "RCPT"].contains(&command) {
                    // Without what a client may add.
                    envelope.push(line.split('>').next().unwrap_or_default().to_uppercase());
                }
                say("250 fine\r\n");
            }
        }
    }
    (envelope, text)
}

/// What a reader sees: subject, sender, receivers, and the text.
fn shown((envelope, text): &Mail) -> (Vec<String>, Vec<String>, String) {
    let (head, body) = text.split_once("\n\n").expect("a head and a body");
    let head = head.replace("\n ", " ").replace(['"'], "");
    let wanted = |line: &&str| ["Subject:", "From:", "To:"].iter().any(|name| line.starts_with(name));
    let mut head: Vec<_> = head.lines().filter(wanted).map(str::to_owned).collect();
    head.sort();
    (envelope.clone(), head, body.trim_end().to_owned())
}

#[test]
fn smtp_sends_the_mails_that_fail2ban_sends() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (host, server) = mail_server(3);
    let file = dir.path().join("host");
    fs::write(&file, host).expect("it is writable");
    let output = fail2ban().python(SMTP, &[&fail2ban().config(), &file]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs = server.join().expect("the server ends");

    let (host, server) = mail_server(3);
    copy(&fail2ban().config(), dir.path());
    let action = format!(
        "smtp.py[host=\"{host}\", dest=\"admin@example.org, x@example.org\", sender=\"f2b@example.org\", matches=matches]\n  badips.py[key=1]"
    );
    let jail = format!("[sshd]\nenabled = true\nbackend = polling\nlogpath = /dev/null\naction = {action}\n");
    fs::write(dir.path().join("jail.local"), jail).expect("it is writable");
    let config = Config::load(Some(dir.path())).expect("it is read");
    let badips = config.warnings.iter().find(|warning| warning.contains("badips"));
    assert!(badips.is_some_and(|warning| warning.contains("only smtp.py is known")), "{:?}", config.warnings);
    let settings = &config.jails.first().expect("the jail goes on").actions;
    let mut ticket = Ticket::by_hand(
        "test",
        "192.0.2.7".parse().expect("an address"),
        SystemTime::now(),
        Length::For(3600.0),
    );
    (ticket.failures, ticket.matches) = (5, vec!["one".into(), "two <ip>".into()]);
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut actions = Actions::start(Arc::new(|_, _| Ok(Merged::default()))).expect("a thread");
        actions.jail(jail_info(), settings, Vec::new);
        actions.ban(Info::of(ticket.clone(), jail_info()));
        actions.unban(End::Single, Info::of(ticket, jail_info()));
        actions.stop().await;
    });
    let ours = server.join().expect("the server ends");
    assert_eq!(ours.iter().map(shown).collect::<Vec<_>>(), theirs.iter().map(shown).collect::<Vec<_>>());
}
