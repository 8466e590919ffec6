//! Faults on purpose: each change that the store makes to the disk refused, out of room, or the last one before the
//! process or the machine stops.

mod power;
mod scenarios;

use crate::disk::Change;
use power::Durable;
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write as _};

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// One change is refused, and of a write half is done.
    Refused,
    /// From there on nothing finds room; the first write fills the disk with its first half.
    DiskFull,
    /// Nothing happens any more; a write stops in its middle.
    Stop,
}

/// The fault to come on this thread.
struct Plan {
    fault: Fault,
    changes_left: usize,
    happened: bool,
    durable: Durable,
}

thread_local! {
    static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
}

/// Makes a change as [`crate::disk`] does, unless the plan says otherwise.
pub(crate) fn change<T>(change: &Change<'_>, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    PLAN.with_borrow_mut(|plan| match plan {
        Some(plan) => plan.change(change, make),
        None => make(),
    })
}

impl Plan {
    fn change<T>(&mut self, change: &Change<'_>, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let is_turn = !self.happened && self.changes_left == 0;
        self.changes_left = self.changes_left.saturating_sub(1);
        match self.fault {
            Fault::Refused | Fault::Stop if is_turn => self.fail(change, io::ErrorKind::Other.into()),
            Fault::Stop if self.happened => Err(io::ErrorKind::Other.into()),
            Fault::DiskFull if is_turn || self.happened => match change {
                Change::Create(_) | Change::Write(..) if self.happened => Err(io::ErrorKind::StorageFull.into()),
                Change::Create(_) | Change::Write(..) => self.fail(change, io::ErrorKind::StorageFull.into()),
                // Its turn is over when something needs room.
                Change::Sync(_) | Change::Other => self.durable.change(change, make),
            },
            _ => self.durable.change(change, make),
        }
    }

    fn fail<T>(&mut self, change: &Change<'_>, error: io::Error) -> io::Result<T> {
        self.happened = true;
        if let Change::Write(file, bytes) = change {
            let mut file: &File = file;
            file.write_all(&bytes[..bytes.len() / 2])?;
        }
        Err(error)
    }
}

/// Runs `act` with a fault after so many changes. Gives what became of it, what is durable, and whether the fault happened.
fn run<T>(durable: Durable, fault: Fault, changes: usize, act: impl FnOnce() -> T) -> (T, Durable, bool) {
    PLAN.set(Some(Plan { fault, changes_left: changes, happened: false, durable }));
    let result = act();
    let plan = PLAN.take().expect("it was set above, and nothing else takes it");
    (result, plan.durable, plan.happened)
}
