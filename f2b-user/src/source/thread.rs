//! A thread that reads a source.

use std::{
    io::{PipeReader, PipeWriter, pipe},
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};

/// A running thread. Dropping it asks it to stop.
#[derive(Debug)]
pub(super) struct Thread {
    stop: Arc<AtomicBool>,
    /// Closed, it wakes the thread.
    _waker: PipeWriter,
    thread: Option<JoinHandle<()>>,
}

/// Tells a thread whether it shall stop.
#[derive(Debug)]
pub(super) struct Stop {
    is_asked_for: Arc<AtomicBool>,
    waker: PipeReader,
}

impl Stop {
    pub(super) fn is_asked_for(&self) -> bool {
        self.is_asked_for.load(Ordering::Relaxed)
    }
}

/// Something can be read from it, its end, as soon as the thread shall stop.
impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

impl Thread {
    /// # Errors
    /// There is no room for a thread.
    pub(super) fn start(name: &str, run: impl FnOnce(Stop) + Send + 'static) -> Result<Self> {
        let starting = || format!("starting the reader of {name}");
        let stop = Arc::new(AtomicBool::new(false));
        let (waker, _waker) = pipe().with_context(starting)?;
        let asked = Stop { is_asked_for: Arc::clone(&stop), waker };
        let thread = thread::Builder::new().name(name.into()).spawn(move || run(asked));
        Ok(Self { stop, _waker, thread: Some(thread.with_context(starting)?) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The thread may wait for room in the channel, which the agent that drops us no longer makes: it must not be
        // joined. It ends by itself when the channel closes or at its next look.
        drop(self.thread.take());
    }
}
