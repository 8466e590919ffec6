//! Who receives a request's events.

use crate::request::{Event, Flow};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Receives the events of one request on the engine's thread; it must not block. One that panics is dropped, and its
/// request with it.
pub type Sink = Box<dyn FnMut(Event) -> Flow + Send>;

/// A sink whose panics, and those of what it owns, stay its request's own.
pub(crate) struct GuardedSink(Option<Sink>);

impl GuardedSink {
    pub(crate) fn new(sink: Sink) -> Self {
        Self(Some(sink))
    }

    /// Tells the sink. One that has panicked is told nothing more and wants nothing more.
    pub(crate) fn send(&mut self, event: Event) -> Flow {
        let Some(sink) = &mut self.0 else { return Flow::Cancel };
        catch_unwind(AssertUnwindSafe(|| sink(event))).unwrap_or_else(|_| {
            self.close();
            Flow::Cancel
        })
    }

    fn close(&mut self) {
        let sink = self.0.take();
        // The panic has been printed; there is nobody left to tell.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(sink)));
    }
}

impl Drop for GuardedSink {
    fn drop(&mut self) {
        self.close();
    }
}
