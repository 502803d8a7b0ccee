//! Ctrl-C stops the run early and cleans up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::TERM_SIGNALS;
use signal_hook::flag;

/// What a shell expects from a program that Ctrl-C has ended.
pub const EXIT_CODE: u8 = 130;

/// Whether the user has asked to stop.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the first signal raises the flag, and a second one ends the process at once,
    /// without cleaning up.
    pub fn install() -> io::Result<Interrupt> {
        let raised = Arc::new(AtomicBool::new(false));
        for signal in signals() {
            // In this order, or the first signal would already find the flag raised.
            flag::register_conditional_shutdown(signal, EXIT_CODE.into(), Arc::clone(&raised))?;
            flag::register(signal, Arc::clone(&raised))?;
        }
        Ok(Interrupt(raised))
    }

    pub fn raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

fn signals() -> impl Iterator<Item = i32> {
    // Also clean up when the terminal is closed.
    #[cfg(unix)]
    let hang_up = Some(signal_hook::consts::SIGHUP);
    #[cfg(not(unix))]
    let hang_up = None;
    TERM_SIGNALS.iter().copied().chain(hang_up)
}
