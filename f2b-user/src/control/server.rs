//! The answering side: takes connections, hands requests to the agent's event loop, writes its answers.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::unistd::geteuid;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::{debug, warn};

use super::{Answer, Request};

/// Longest request: `unban` with a hundred thousand addresses.
const MAX_REQUEST: u64 = 8 * 1024 * 1024;
/// How long a client may take to send its request and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request on its way to the agent, and the way back.
pub type Call = (Request, oneshot::Sender<Answer>);

/// The control socket. Its file goes with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Its directory, if it was made for it.
    made_dir: Option<PathBuf>,
}

impl ControlSocket {
    /// Binds the socket for the agent's own user alone.
    ///
    /// # Errors
    /// Something listens there already, or what is there is no socket.
    pub fn bind(path: &Path) -> Result<Self> {
        make_way(path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty() && !dir.exists());
        let listen = || -> io::Result<UnixListener> {
            if let Some(dir) = dir {
                fs::create_dir_all(dir)?;
            }
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = listen().map_err(|error| {
            anyhow!("cannot listen at {} ({error}); choose another place with --socket", path.display())
        })?;
        Ok(Self { listener, path: path.to_owned(), made_dir: dir.map(Path::to_owned) })
    }

    /// Serves clients, each on its own task, until the agent ends.
    pub async fn serve(&self, calls: mpsc::Sender<Call>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(serve_one(stream, calls.clone()));
                }
                Err(error) => {
                    warn!("The control socket cannot take a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            debug!("The control socket {} is gone already: {error}", self.path.display());
        }
        if let Some(dir) = &self.made_dir
            && let Err(error) = fs::remove_dir(dir)
        {
            debug!("{} stays: {error}", dir.display());
        }
    }
}

/// Removes the socket of an agent that died; leaves anything else alone.
fn make_way(path: &Path) -> Result<()> {
    let shown = path.display();
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        bail!("{shown} exists and is no socket; choose another place with --socket");
    }
    match StdUnixStream::connect(path) {
        Ok(_) => bail!(
            "an agent is already listening at {shown}; stop it first, or give this one another --socket"
        ),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("removing the old socket {shown}"))
        }
        Err(error) => Err(error).with_context(|| format!("looking at the socket {shown}")),
    }
}

async fn serve_one(stream: UnixStream, calls: mpsc::Sender<Call>) {
    if let Err(error) = answer_all(stream, calls).await {
        debug!("A control connection failed: {error:#}");
    }
}

async fn answer_all(stream: UnixStream, calls: mpsc::Sender<Call>) -> Result<()> {
    // The file's mode keeps others out already; a socket that somebody passed on does not get past this.
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != geteuid().as_raw() {
        bail!("user {peer} is not root");
    }
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        let mut limited = (&mut reader).take(MAX_REQUEST);
        if timeout(PATIENCE, limited.read_line(&mut line)).await?? == 0 {
            return Ok(());
        }
        let answer = match serde_json::from_str(&line) {
            Ok(request) => {
                let (reply, answer) = oneshot::channel();
                calls.send((request, reply)).await?;
                answer.await?
            }
            Err(error) => {
                Answer::Error { message: format!("this is no request that the agent knows: {error}") }
            }
        };
        let mut frame = serde_json::to_vec(&answer)?;
        frame.push(b'\n');
        timeout(PATIENCE, writer.write_all(&frame)).await??;
    }
}
