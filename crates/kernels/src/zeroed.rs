//! Memory that begins as zeros on a cache line, and that the system maps only when it is touched.

use std::alloc::{Layout, alloc_zeroed};

/// Zeros that begin on a cache line, so that no vector straddles two, and that the system maps only when touched.
pub(crate) struct Zeroed<T> {
    data: Vec<T>,
    start: usize,
    length: usize,
}

impl<T> Default for Zeroed<T> {
    fn default() -> Self {
        Self { data: Vec::new(), start: 0, length: 0 }
    }
}

impl<T: Zeroable> Zeroed<T> {
    const LINE_BYTES: usize = 64;

    /// `None` where the system does not give the memory.
    pub(crate) fn new(length: usize) -> Option<Self> {
        let data: Vec<T> = zeroed(length.checked_add(Self::LINE_BYTES / size_of::<T>())?)?;
        // The vector never grows, so its memory stays where it is.
        let start = data.as_ptr().align_offset(Self::LINE_BYTES);
        Some(Self { data, start, length })
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        &self.data[self.start..self.start + self.length]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.length]
    }
}

/// Numbers whose bytes may all be zero.
///
/// # Safety
/// A value whose bytes are all zero is valid, and the type has a size and nothing to drop.
pub(crate) unsafe trait Zeroable: Copy {}

// SAFETY: zero bytes are +0.
unsafe impl Zeroable for f32 {}
// SAFETY: zero bytes are 0.
unsafe impl Zeroable for u16 {}
// SAFETY: zero bytes are 0.
unsafe impl Zeroable for i8 {}

/// `vec![0; length]`, but for an answer where the system has no memory: `vec!` ends the process, and what the standard
/// library can reserve without that it does not ask for as zeros, so that filling it would touch all of it. A stricter
/// alignment than the type's would have it filled as well.
fn zeroed<T: Zeroable>(length: usize) -> Option<Vec<T>> {
    let layout = Layout::array::<T>(length).ok().filter(|layout| layout.size() > 0)?;
    // SAFETY: the layout has a size.
    let data = unsafe { alloc_zeroed(layout) }.cast::<T>();
    // SAFETY: the memory comes from the global allocator with the layout of a vector of this capacity, and its zero
    // bytes are valid values.
    (!data.is_null()).then(|| unsafe { Vec::from_raw_parts(data, length, length) })
}
