//! The built-in jails and the journals of the distributions that people run: each jail sees the entries of its service,
//! whatever the unit is called there, finds the failure in them, and sees nothing else.
//!
//! The journals are real files with the fields that journald would have recorded, written by systemd-journal-remote and
//! read by the agent's own reader, at the place where journald has its files.

mod lab;
mod samples;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    time::{Duration, Instant, SystemTime},
};

use f2b::{
    config::{Config, JailSettings, LogSource},
    source::{
        Batch,
        journal::{Position, Reader},
    },
};
use jiff::tz::TimeZone;
use tokio::sync::mpsc::{self, error::TryRecvError};

use self::{
    lab::{Host, Lab},
    samples::{NOW, all_jails, built_in},
};

/// How long the reader has nothing new before the journal counts as read.
const QUIET: Duration = Duration::from_millis(300);

/// An entry, and the jail that must see it; none for what is no jail's business.
struct Entry {
    jail: Option<&'static str>,
    unit: &'static str,
    slice: &'static str,
    comm: &'static str,
    uid: u32,
    ident: &'static str,
    message: &'static str,
}

const SYSTEM: &str = "system.slice";

const fn entry(
    jail: &'static str,
    unit: &'static str,
    comm: &'static str,
    ident: &'static str,
    message: &'static str,
) -> Entry {
    Entry { jail: Some(jail), unit, slice: SYSTEM, comm, uid: 0, ident, message }
}

/// An instance of a template, which has a slice of its own.
const fn instance(slice: &'static str, entry: Entry) -> Entry {
    Entry { slice, ..entry }
}

const SSHD: &str = "Failed password for root from 192.0.2.1 port 40001 ssh2";
const POSTFIX: &str = "warning: unknown[192.0.2.1]: SASL LOGIN authentication failed: UGFzc3dvcmQ6";
const DOVECOT: &str = "imap-login: Disconnected: Connection closed (auth failed, 1 attempts in 2 secs): \
                       user=<bob>, method=PLAIN, rip=192.0.2.1, lip=198.51.100.1, TLS, session=<abc>";
const PURE_FTPD: &str = "(?@192.0.2.1) [WARNING] Authentication failed for user [bob]";
const VSFTPD: &str = "pam_unix(vsftpd:auth): authentication failure; logname= uid=0 euid=0 tty=ftp ruser=bob \
                      rhost=192.0.2.1  user=bob";
const MARIADB: &str = "2026-11-24  6:00:01 42 [Warning] Access denied for user 'root'@'192.0.2.1' \
                       (using password: YES)";
const MYSQL: &str = "2026-11-24T06:00:01.123456Z 42 [Note] [MY-010926] [Server] Access denied for user \
                     'root'@'192.0.2.1' (using password: YES)";
const POSTGRESQL: &str = "2026-11-24 06:00:01.123 UTC [101] postgres@db 192.0.2.1 FATAL:  password \
                          authentication failed for user \"postgres\"";
const APACHE: &str = "[auth_basic:error] [pid 101:tid 102] [client 192.0.2.1:40001] AH01617: user bob: \
                      authentication failure for \"/\": Password Mismatch";
const PROXMOX: &str =
    "authentication failure; rhost=::ffff:192.0.2.1 user=root@pam msg=Authentication failure";
const VAULTWARDEN: &str = "[2026-11-24 06:00:01.123][vaultwarden::api::identity][ERROR] Username or password \
                           is incorrect. Try again. IP: 192.0.2.1. Username: bob@example.com.";
const OPENVPN: &str = "192.0.2.1:40001 TLS Auth Error: Auth Username/Password verification failed for peer";

const DEBIAN_12: &[Entry] = &[
    entry("sshd", "ssh.service", "sshd", "sshd", SSHD),
    instance(
        "system-postfix.slice",
        entry("postfix", "postfix@-.service", "smtpd", "postfix/submission/smtpd", POSTFIX),
    ),
    entry("dovecot", "dovecot.service", "log", "dovecot", DOVECOT),
    entry("pure-ftpd", "pure-ftpd-mysql.service", "pure-ftpd-mysql", "pure-ftpd", PURE_FTPD),
    entry("vsftpd", "vsftpd.service", "vsftpd", "vsftpd", VSFTPD),
    entry("mysqld-auth", "mariadb.service", "mariadbd", "mariadbd", MARIADB),
    instance(
        "system-postgresql.slice",
        entry("postgresql", "postgresql@15-main.service", "postgres", "postgres", POSTGRESQL),
    ),
    entry("apache-auth", "apache2.service", "apache2", "apache2", APACHE),
    entry("proxmox", "pvedaemon.service", "pvedaemon worke", "pvedaemon", PROXMOX),
    entry("vaultwarden", "vaultwarden.service", "vaultwarden", "vaultwarden", VAULTWARDEN),
    instance(
        "system-openvpn\\x2dserver.slice",
        entry("openvpn", "openvpn-server@office.service", "openvpn", "openvpn", OPENVPN),
    ),
];

const DEBIAN_13: &[Entry] = &[
    entry("sshd", "ssh.service", "sshd-session", "sshd-session", SSHD),
    // The process was gone before journald asked for its unit and name.
    entry("sshd", "", "", "sshd", SSHD),
    entry("postfix", "postfix.service", "smtpd", "postfix/smtpd", POSTFIX),
    instance(
        "system-postgresql.slice",
        entry("postgresql", "postgresql@17-main.service", "postgres", "postgres", POSTGRESQL),
    ),
];

const UBUNTU: &[Entry] = &[
    // With a socket that accepts, each connection has its unit.
    instance(
        "system-ssh.slice",
        entry("sshd", "ssh@7-198.51.100.1:22-192.0.2.1:40001.service", "sshd-session", "sshd-session", SSHD),
    ),
    instance(
        "system-postfix.slice",
        entry("postfix", "postfix@-.service", "smtpd", "postfix/smtpd", POSTFIX),
    ),
    entry("dovecot", "dovecot.service", "log", "dovecot", DOVECOT),
    entry("pure-ftpd", "pure-ftpd.service", "pure-ftpd", "pure-ftpd", PURE_FTPD),
    entry("mysqld-auth", "mysql.service", "mysqld", "mysqld", MYSQL),
    instance(
        "system-postgresql.slice",
        entry("postgresql", "postgresql@16-main.service", "postgres", "postgres", POSTGRESQL),
    ),
    entry("apache-auth", "apache2.service", "apache2", "apache2", APACHE),
    instance(
        "system-openvpn.slice",
        entry("openvpn", "openvpn@server.service", "openvpn", "ovpn-server", OPENVPN),
    ),
];

const FEDORA: &[Entry] = &[
    entry("sshd", "sshd.service", "sshd-session", "sshd-session", SSHD),
    entry("postfix", "postfix.service", "smtpd", "postfix/smtpd", POSTFIX),
    entry("dovecot", "dovecot.service", "log", "dovecot", DOVECOT),
    entry("pure-ftpd", "pure-ftpd.service", "pure-ftpd", "pure-ftpd", PURE_FTPD),
    entry("vsftpd", "vsftpd.service", "vsftpd", "vsftpd", VSFTPD),
    entry("mysqld-auth", "mysqld.service", "mysqld", "mysqld", MYSQL),
    entry("postgresql", "postgresql.service", "postgres", "postgres", POSTGRESQL),
    entry("apache-auth", "httpd.service", "httpd", "httpd", APACHE),
    entry("vaultwarden", "vaultwarden.service", "vaultwarden", "vaultwarden", VAULTWARDEN),
];

const ARCH: &[Entry] = &[
    instance(
        "system-sshd.slice",
        entry(
            "sshd",
            "sshd@3-[2001:db8::1]:22-[2001:db8::7]:40001.service",
            "sshd-session",
            "sshd-session",
            SSHD,
        ),
    ),
    entry("sshd", "sshd.service", "sshd-session", "sshd-session", SSHD),
    entry("postfix", "postfix.service", "smtpd", "postfix/smtpd", POSTFIX),
    entry("dovecot", "dovecot.service", "log", "dovecot", DOVECOT),
    entry("mysqld-auth", "mariadb.service", "mariadbd", "mariadbd", MARIADB),
    entry("postgresql", "postgresql.service", "postgres", "postgres", POSTGRESQL),
    entry("apache-auth", "httpd.service", "httpd", "httpd", APACHE),
    entry("vaultwarden", "vaultwarden.service", "vaultwarden", "vaultwarden", VAULTWARDEN),
];

/// Entries that no jail may see: among them those of users who call their program sshd.
const OTHERS: &[Entry] = &[
    Entry {
        jail: None,
        unit: "user@1000.service",
        slice: "user-1000.slice",
        comm: "sshd",
        uid: 1000,
        ident: "sshd",
        message: SSHD,
    },
    Entry {
        jail: None,
        ..entry("", "cron.service", "cron", "cron", "pam_unix(cron:session): session opened")
    },
    Entry { jail: None, ..entry("", "sshd-keygen.service", "ssh-keygen", "ssh-keygen", SSHD) },
    Entry { jail: None, ..entry("", "postfix-exporter.service", "exporter", "postfix/smtpd", POSTFIX) },
];

/// Jails that see what another jail's service logs, on purpose.
const SHARED: &[(&str, &[&str])] =
    &[("postfix", &["postfix-sasl", "postfix-rbl"]), ("apache-auth", &["apache-noscript"])];

#[test]
fn each_jail_sees_its_service_on_every_distribution() {
    let lab = Lab::network_only();
    for (distribution, entries) in [
        ("Debian 12", DEBIAN_12),
        ("Debian 13", DEBIAN_13),
        ("Ubuntu", UBUNTU),
        ("Fedora", FEDORA),
        ("Arch", ARCH),
    ] {
        let expected: BTreeSet<_> = entries.iter().flat_map(expected).collect();
        write_journal(&lab, entries.iter().chain(OTHERS));
        // Where there are no log files: a jail that finds its own would read them.
        let seen = lab.inside(Host::Server, || read(&jails(&lab)));
        assert_eq!(seen, expected, "{distribution}");
        println!("{distribution}: {} entries, each seen by its jail", entries.len());
    }
}

/// The jails that see the entry, with its message.
fn expected(entry: &Entry) -> Vec<(String, String)> {
    let jail = entry.jail.expect("it is some jail's");
    let shared = SHARED.iter().find(|(name, _)| *name == jail).map_or(&[][..], |(_, others)| others);
    let jails = [jail].into_iter().chain(shared.iter().copied());
    jails.map(|jail| (jail.to_owned(), format!("host {}[42]: {}", entry.ident, entry.message))).collect()
}

/// Every built-in jail, enabled.
fn jails(lab: &Lab) -> Vec<JailSettings> {
    let (all, count) = all_jails(&built_in());
    let config = lab.dir().join("config");
    fs::create_dir_all(&config).expect("the lab's directory is writable");
    fs::write(config.join("jail.local"), all).expect("the lab's directory is writable");
    let config = Config::load(Some(&config)).expect("the built-in tree can be read");
    assert_eq!(config.jails.len(), count, "{:?}", config.warnings);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    config.jails
}

/// Makes `entries` all that the lab's journal holds.
fn write_journal<'a>(lab: &Lab, entries: impl Iterator<Item = &'a Entry>) {
    let mut export = String::new();
    for (number, entry) in entries.enumerate() {
        let Entry { unit, slice, comm, uid, ident, message, .. } = entry;
        write!(
            export,
            "__REALTIME_TIMESTAMP={}\n__MONOTONIC_TIMESTAMP={number}\n_BOOT_ID={:032x}\n_HOSTNAME=host\n\
             _SYSTEMD_UNIT={unit}\n_SYSTEMD_SLICE={slice}\n_COMM={comm}\n_UID={uid}\n_PID={}\n\
             SYSLOG_IDENTIFIER={ident}\nMESSAGE={message}\n\n",
            (NOW as u64) * 1_000_000 + number as u64,
            7,
            // So that the others' lines are told from those that a jail must see.
            if entry.jail.is_some() { 42 } else { 66 }
        )
        .expect("a string takes all");
    }
    let input = lab.dir().join("export");
    fs::write(&input, export).expect("the lab's directory is writable");
    let machine = fs::read_to_string("/etc/machine-id").expect("the machine has an id");
    let folder = format!("/var/log/journal/{}", machine.trim());
    lab.inside(Host::Server, || {
        fs::create_dir_all(&folder).expect("the lab's /var/log is writable");
        for file in fs::read_dir(&folder).expect("it was just made") {
            fs::remove_file(file.expect("it is readable").path()).expect("it is the lab's");
        }
    });
    let journal = format!("{folder}/system.journal");
    let remote = lab.server("/lib/systemd/systemd-journal-remote");
    let output = remote.arg("-o").arg(journal).arg(input).output();
    assert!(output.status.success(), "systemd-journal-remote: {}", String::from_utf8_lossy(&output.stderr));
}

/// What the jails see in the journal, each line once; it must be a failure to the jail that it belongs to.
fn read(jails: &[JailSettings]) -> BTreeSet<(String, String)> {
    let matches = |jail: &JailSettings| match &jail.source {
        LogSource::Journal { matches, files } => Some((files.clone(), (jail.name.clone(), matches.clone()))),
        LogSource::Files { .. } => None,
    };
    let (files, wanted): (Vec<_>, Vec<_>) = jails.iter().filter_map(matches).unzip();
    let files = files.into_iter().next().expect("they read the machine's journal");
    let (sender, mut batches) = mpsc::channel(16);
    let reader =
        Reader::start(files, wanted, Position::Since(SystemTime::UNIX_EPOCH), sender).expect("it starts");
    let mut seen = BTreeSet::new();
    let mut last = Instant::now();
    while last.elapsed() < QUIET || seen.is_empty() && last.elapsed() < 40 * QUIET {
        match batches.try_recv() {
            Ok(Batch { lines, .. }) => {
                last = Instant::now();
                seen.extend(lines.into_iter().map(|line| (line.jail.to_string(), line.text)));
            }
            Err(TryRecvError::Empty) => std::thread::sleep(QUIET / 10),
            Err(TryRecvError::Disconnected) => panic!("the reader has ended"),
        }
    }
    drop(reader);
    for (name, text) in &seen {
        let jail = jails.iter().find(|jail| jail.name == *name).expect("it is one of them");
        let mut context = jail.filter.context(TimeZone::UTC, NOW);
        let failures = jail.filter.failures(&mut context, text, Some(NOW), NOW);
        let is_shared = SHARED.iter().any(|(_, others)| others.contains(&name.as_str()));
        assert!(!failures.is_empty() || is_shared, "{name} finds nothing in {text:?}");
    }
    seen
}
