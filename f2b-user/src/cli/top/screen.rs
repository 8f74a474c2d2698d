//! `f2b top` on a terminal: the text in its place, until a key or a signal ends it.

use std::{
    io::{self, Write as _},
    iter,
};

use anyhow::{Context as _, Result};
use crossterm::{
    cursor::{Hide, MoveTo, Show},
    event::{Event, EventStream, KeyCode, KeyEventKind, KeyModifiers},
    execute, queue,
    style::{Attribute, Print, SetAttribute},
    terminal::{
        BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
        LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
    },
};
use futures_util::StreamExt as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::Receiver,
};

use super::{
    rates::Rates,
    view::{self, Line},
};

const HELP: &str = "f2b top: q ends it";

/// The terminal, taken over. Dropping this gives it back as it was.
struct Screen;

impl Screen {
    fn take() -> Result<Self> {
        enable_raw_mode().context("taking over the terminal")?;
        let screen = Self;
        execute!(io::stdout(), EnterAlternateScreen, Hide).context("taking over the terminal")?;
        Ok(screen)
    }

    /// Shows as much of `lines` as fits.
    fn show(lines: &[Line]) -> io::Result<()> {
        let (width, height) = size()?;
        let mut out = io::stdout().lock();
        queue!(out, BeginSynchronizedUpdate)?;
        for (row, Line { is_heading, text }) in (0..height).zip(lines) {
            // Names must not move the cursor, whoever gave them.
            let text: String = text.chars().filter(|c| !c.is_control()).take(width.into()).collect();
            let weight = if *is_heading { Attribute::Bold } else { Attribute::Reset };
            queue!(out, MoveTo(0, row), Clear(ClearType::CurrentLine), SetAttribute(weight), Print(text))?;
            queue!(out, SetAttribute(Attribute::Reset))?;
        }
        if lines.len() < height.into() {
            queue!(out, MoveTo(0, lines.len() as u16), Clear(ClearType::FromCursorDown))?;
        }
        queue!(out, EndSynchronizedUpdate)?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nobody to tell if the terminal is gone.
        drop(execute!(io::stdout(), Show, LeaveAlternateScreen));
        drop(disable_raw_mode());
    }
}

/// Shows what is measured, until somebody ends it.
#[tokio::main(flavor = "current_thread")]
pub(super) async fn run(mut measured: Receiver<Result<Rates>>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let _screen = Screen::take()?;
    let mut events = EventStream::new();
    let line = |text: &str| Line { is_heading: false, text: text.into() };
    let mut lines = vec![line(HELP), line("Measuring …")];
    loop {
        Screen::show(&lines).context("writing to the terminal")?;
        tokio::select! {
            rates = measured.recv() => {
                let Some(rates) = rates else { break };
                lines = iter::once(line(HELP)).chain(view::lines(&rates?, usize::MAX)).collect();
            }
            event = events.next() => match event {
                Some(Ok(event)) if is_end(&event) => break,
                // Another size is one more reason to show it anew.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("reading the keyboard"),
                None => break,
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => break,
        }
    }
    Ok(())
}

/// q, Escape, Ctrl-C.
fn is_end(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press
        && match key.code {
            KeyCode::Char('c') => is_control,
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
            _ => false,
        }
}
