//! fail2ban's `smtp.py`: mails about a jail's start and stop, and about each ban.

use std::time::Duration;

use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{Mailbox, Mailboxes, header::ContentType},
    transport::smtp::authentication::Credentials,
};
use tracing::{debug, error};

use super::{host, info::Info};
use crate::config::SmtpSettings;

/// How long a mail server may take for one mail.
const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 25;

/// The action at work.
#[derive(Debug)]
pub(super) struct Smtp {
    settings: SmtpSettings,
}

/// One mail.
#[derive(Debug, Eq, PartialEq)]
struct Mail {
    subject: String,
    body: String,
}

impl Smtp {
    pub(super) fn new(settings: SmtpSettings) -> Self {
        Self { settings }
    }

    pub(super) fn settings(&self) -> &SmtpSettings {
        &self.settings
    }

    pub(super) async fn start(&self, info: &Info) -> Result<(), String> {
        self.send(about_jail(&info.jail.name, "started", "has been started successfully")).await
    }

    pub(super) async fn stop(&self, info: &Info) -> Result<(), String> {
        self.send(about_jail(&info.jail.name, "stopped", "has been stopped")).await
    }

    pub(super) async fn ban(&self, info: &Info) -> Result<(), String> {
        self.send(self.about_ban(info)).await
    }

    fn about_ban(&self, info: &Info) -> Mail {
        let value = |tag: &str| info.value(tag).unwrap_or_default();
        let (ip, jail) = (value("ip"), &info.jail.name);
        let mut body = format!(
            "Hi,\n\nThe IP {ip} has just been banned for {} seconds\nby Fail2Ban after {} attempts against {jail}.\n",
            value("bantime"),
            value("failures")
        );
        if let Some(matches) = &self.settings.matches {
            let title = match matches.as_str() {
                "matches" => "Matches for this ban".to_owned(),
                "ipmatches" => format!("Matches for {ip}"),
                _ => format!("Matches for {ip} for jail {jail}"),
            };
            body.push_str(&format!("\n{title}:\n{}\n", value(matches)));
        }
        body.push_str("\nRegards,\nFail2Ban");
        Mail { subject: format!("[Fail2Ban] {jail}: banned {ip} from {}", host::own().short), body }
    }

    async fn send(&self, mail: Mail) -> Result<(), String> {
        let host = &self.settings.host;
        let sent = self.try_to_send(&mail).await.map_err(|error| format!("{error:#}"));
        match &sent {
            Ok(()) => debug!(target: "fail2ban.smtp", "Email '{}' successfully sent", mail.subject),
            Err(reason) => {
                error!(target: "fail2ban.smtp", host, "Error sending mail to '{}': {reason}", self.settings.dest);
            }
        }
        sent
    }

    async fn try_to_send(&self, mail: &Mail) -> anyhow::Result<()> {
        let SmtpSettings { host, user, password, sendername, sender, dest, .. } = &self.settings;
        let receivers = dest.split(',').map(str::trim).filter(|receiver| !receiver.is_empty());
        let receivers: Mailboxes =
            receivers.map(|to| Ok(Mailbox::new(None, address(to)?))).collect::<anyhow::Result<_>>()?;
        let message = Message::builder()
            .subject(mail.subject.clone())
            .from(Mailbox::new(Some(sendername.clone()), address(sender)?))
            .mailbox(lettre::message::header::To::from(receivers))
            .header(ContentType::TEXT_PLAIN)
            .body(mail.body.clone())?;
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() => (host, port.parse().unwrap_or(PORT)),
            _ => (host.as_str(), PORT),
        };
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host).port(port);
        transport = transport.timeout(Some(PATIENCE));
        if let (Some(user), Some(password)) = (user, password) {
            transport = transport.credentials(Credentials::new(user.clone(), password.clone()));
        }
        transport.build().send(message).await?;
        Ok(())
    }
}

/// An address; one without a domain (`root`) is the mail server's own.
fn address(text: &str) -> anyhow::Result<Address> {
    let qualified = if text.contains('@') { text.to_owned() } else { format!("{text}@localhost") };
    qualified.parse().map_err(|error| anyhow::anyhow!("{text} is no mail address: {error}"))
}

fn about_jail(jail: &str, event: &str, what: &str) -> Mail {
    Mail {
        subject: format!("[Fail2Ban] {jail}: {event} on {}", host::own().short),
        body: format!("Hi,\n\nThe jail {jail} {what}.\n\nRegards,\nFail2Ban"),
    }
}
