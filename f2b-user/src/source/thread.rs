//! A thread that reads a source.

use std::{
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
    thread: Option<JoinHandle<()>>,
}

/// Tells a thread whether it shall stop.
#[derive(Clone, Debug)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn is_asked_for(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Thread {
    /// # Errors
    /// There is no room for a thread.
    pub(super) fn start(name: &str, run: impl FnOnce(Stop) + Send + 'static) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Stop(Arc::clone(&stop));
        let thread = thread::Builder::new().name(name.into()).spawn(move || run(asked));
        Ok(Self { stop, thread: Some(thread.with_context(|| format!("starting the reader of {name}"))?) })
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
