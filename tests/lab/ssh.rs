//! The sshd of a lab, its attackers and its honest user.

use std::{fs, net::IpAddr, path::PathBuf, process::Output, time::Duration};

use super::{Lab, Process, Program, net::server_for, wait_until};

const CLIENT: &str = "
Port 2222
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
IdentitiesOnly yes
LogLevel ERROR
ConnectTimeout 5
";

/// Without PAM a failure takes milliseconds instead of two seconds.
const SERVER: &str = "
Port 2222
AddressFamily any
UsePAM no
UseDNS no
StrictModes no
PasswordAuthentication yes
PermitRootLogin yes
LogLevel INFO
MaxAuthTries 100
MaxStartups 500
";

impl Lab {
    /// Starts sshd in `ssh.service`, or starts it anew, with `settings` before its usual ones: sshd takes the
    /// first.
    pub fn start_sshd(&self, settings: &str) {
        let config = self.dir().join("sshd_config");
        let host = self.key("host_key").display().to_string();
        let user = self.key("user_key").display().to_string();
        let keys = format!("HostKey {host}\nAuthorizedKeysFile {user}.pub\n");
        fs::write(&config, [settings, SERVER, &keys].concat()).expect("the lab's directory is writable");
        fs::write(self.dir().join("ssh_config"), CLIENT).expect("the lab's directory is writable");

        let mut running = self.sshd.lock().expect("no test panics here");
        drop(running.take());
        let sshd = self.server("/usr/sbin/sshd").arg("-D").arg("-f").arg(config).unit("ssh.service").start();
        wait_until(Duration::from_secs(10), "sshd listens", || {
            listens(&sshd, "tcp") && listens(&sshd, "tcp6")
        });
        *running = Some(sshd);
    }

    /// Tries `times` wrong passwords for `user` in one connection from `from`; the exit status is 255, or 124 if
    /// that took longer than 20 seconds, as when the attacker gets banned on the way.
    ///
    /// sshd logs exactly `times` "Failed password", and for an unknown user one "Invalid user" before them.
    pub fn ssh_fail(&self, from: IpAddr, user: &str, times: u32) -> Output {
        self.ssh(from, user)
            .args(["-o", "PreferredAuthentications=password"])
            .args(["-o", &format!("NumberOfPasswordPrompts={times}")])
            // The program is given the prompt, so that is the password which echo tries.
            .env("SSH_ASKPASS", "/bin/echo")
            .env("SSH_ASKPASS_REQUIRE", "force")
            .arg(server_for(from).to_string())
            .output()
    }

    /// Whether root can log in from `from` with a key.
    pub fn ssh_ok(&self, from: IpAddr) -> bool {
        let login = self.ssh(from, "root").args(["-i", "user_key", "-o", "BatchMode=yes"]);
        login.arg(server_for(from).to_string()).arg("true").output().status.success()
    }

    fn ssh(&self, from: IpAddr, user: &str) -> Program {
        // A client that is banned once it is connected would wait for an answer for ever.
        let ssh = self.attacker("timeout").args(["20", "ssh", "-F", "ssh_config"]);
        ssh.args(["-b", &from.to_string(), "-l", user])
    }

    fn key(&self, name: &str) -> PathBuf {
        let path = self.dir().join(name);
        if !path.exists() {
            let made = self.server("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", name]).output();
            assert!(made.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&made.stderr));
        }
        path
    }
}

/// Whether port 2222 is listened on. To connect and see would leave a trace in the journal.
fn listens(sshd: &Process, table: &str) -> bool {
    let sockets = fs::read_to_string(format!("/proc/{}/net/{table}", sshd.pid())).unwrap_or_default();
    sockets.lines().any(|socket| socket.contains(":08AE ") && socket.contains(":0000 0A "))
}
