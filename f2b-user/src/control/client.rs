//! The asking side.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

use anyhow::{Context as _, Result, bail};

use super::{Answer, MAX_FRAME, Request};

/// Asks the agent that listens at `socket`.
///
/// # Errors
/// No agent there, or its answer is an error: then with the agent's own sentence.
pub fn ask(socket: &Path, request: &Request) -> Result<Answer> {
    let mut stream = connect(socket)?;
    let mut frame = serde_json::to_vec(request)?;
    frame.push(b'\n');
    stream.write_all(&frame).context("writing to the agent")?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_FRAME)).read_line(&mut line).context("reading the agent's answer")?;
    if line.is_empty() {
        bail!("the agent at {} closed the connection without an answer; see its log", socket.display());
    }
    match serde_json::from_str(&line)
        .context("the agent's answer makes no sense; is it another version of f2b?")?
    {
        Answer::Error { message } => bail!(message),
        answer => Ok(answer),
    }
}

/// Whether an agent listens at `socket`.
pub fn is_there(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

fn connect(socket: &Path) -> Result<UnixStream> {
    UnixStream::connect(socket).map_err(|error| {
        let path = socket.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                anyhow::anyhow!("no agent is running (nothing listens at {path}); start one with `f2b run`")
            }
            io::ErrorKind::PermissionDenied => {
                anyhow::anyhow!("only root may talk to the agent at {path}; try again with sudo")
            }
            _ => anyhow::Error::new(error).context(format!("connecting to {path}")),
        }
    })
}
