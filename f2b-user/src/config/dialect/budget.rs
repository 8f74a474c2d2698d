//! How much work one configuration may make. Values that refer to each other grow by products: without a bound, a few
//! lines could keep a computer busy for ever.

use std::{cell::Cell, rc::Rc};

use anyhow::{Result, bail};

/// The bytes that all values together may go through while they are put together: the stock tree with all of its jails
/// takes less than a hundredth of it.
const MAX_WORK: usize = 1 << 30;

/// What is left. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Rc<Cell<usize>>);

impl Default for Budget {
    fn default() -> Self {
        Self(Rc::new(Cell::new(MAX_WORK)))
    }
}

impl Budget {
    pub(crate) fn spend(&self, bytes: usize) -> Result<()> {
        // Also what is empty has to be looked at.
        let Some(left) = self.0.get().checked_sub(bytes + 32) else {
            bail!("the values of this configuration refer to each other too often; write some of them out");
        };
        self.0.set(left);
        Ok(())
    }
}
