//! AMX for machines with AVX-512 that lack it, so that the kernels' own instructions run everywhere: for tests, and far too
//! slow for anything else.
//!
//! Where there is no AMX, a tile instruction traps as invalid, and Linux sends SIGILL. The handler here decodes the
//! instruction, carries it out on tiles that each thread keeps in memory, and goes on behind it. What a processor with
//! AMX would refuse (tiles that are not configured, shapes that do not fit) ends the process with a message. All
//! other instructions run on the processor itself.

mod decode;
mod tiles;

use decode::Instruction;
use std::cell::UnsafeCell;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tiles::{Fault, Tiles};

/// How many products of tiles the emulator has carried out in this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TileProducts {
    /// `tdpbssd`
    pub int8: u64,
    /// `tdpbf16ps`
    pub bf16: u64,
}

static INT8: AtomicU64 = AtomicU64::new(0);
static BF16: AtomicU64 = AtomicU64::new(0);

/// Proof that products ran on tiles. `None` where the emulator is not in use, for the machine has AMX or nobody asked.
pub fn emulated_tile_products() -> Option<TileProducts> {
    let products = TileProducts { int8: INT8.load(Ordering::Relaxed), bf16: BF16.load(Ordering::Relaxed) };
    PREVIOUS.get().map(|_| products)
}

thread_local! {
    // It is made before the thread runs and has nothing to drop, so a signal handler may use it.
    static TILES: UnsafeCell<Tiles> = const { UnsafeCell::new(Tiles::INITIAL) };
}

/// What SIGILL did before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// From now on tile instructions work. False if the system refuses the handler.
pub(super) fn install() -> bool {
    // SAFETY: zeros are a valid `sigaction`. The handler has the signature that SA_SIGINFO asks for, and does only what is
    // safe in one: it takes no lock and no memory.
    unsafe {
        let mut previous = std::mem::zeroed();
        // Asked for first, as the handler may be needed as soon as it is in place.
        if libc::sigaction(libc::SIGILL, null(), &raw mut previous) != 0 {
            return false;
        }
        PREVIOUS.get_or_init(|| previous);
        let mut ours: libc::sigaction = std::mem::zeroed();
        ours.sa_sigaction = on_invalid_instruction as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGILL, &raw const ours, null_mut()) == 0
    }
}

/// The number in a signal's context of each general register, by its number of encoding.
const GENERAL_REGISTERS: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

extern "C" fn on_invalid_instruction(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: this is the context of the thread that trapped, to which the system returns.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let mut is_ours = false;
    loop {
        let start = registers[libc::REG_RIP as usize] as *const u8;
        let mut length = 0;
        let instruction = decode::decode(&mut std::iter::from_fn(|| {
            // SAFETY: the program is at this instruction, and the decoder takes no byte behind it.
            let byte = unsafe { start.add(length).read() };
            length += 1;
            Some(byte)
        }));
        let Some(instruction) = instruction else { break };
        let register = |number: u8| registers[GENERAL_REGISTERS[usize::from(number)] as usize] as usize;
        // SAFETY: the memory is the program's to read or write, as its own instruction says; no other reference to this
        // thread's tiles exists, for SIGILL is blocked while it is handled.
        let done = TILES.with(|tiles| unsafe { (*tiles.get()).execute(instruction, register) });
        if let Err(fault) = done {
            end(fault);
        }
        match instruction {
            Instruction::DotInt8(_) => INT8.fetch_add(1, Ordering::Relaxed),
            Instruction::DotBf16(_) => BF16.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        // What follows would trap next where it is a tile instruction too, and a trap costs more than it does.
        registers[libc::REG_RIP as usize] += length as i64;
        is_ours = true;
    }
    if !is_ours {
        // Back where it was, the previous handler gets the instruction when the thread runs it again.
        // SAFETY: the action is one that the system gave.
        unsafe { libc::sigaction(libc::SIGILL, PREVIOUS.get().map_or(null(), |previous| previous), null_mut()) };
    }
}

/// Ends the process as an exception of the processor would.
fn end(fault: Fault) -> ! {
    for text in ["AMX as emulated: ", fault, "\n"] {
        // SAFETY: the text is that long.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    }
    // SAFETY: it may be called in a signal handler.
    unsafe { libc::abort() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ActivationKind, Activations, Compute, Isa, Matrix, Product};
    use freehold_base::Dtype;
    use std::arch::asm;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, Output};

    const IS_ALONE: &str = "FREEHOLD_TEST_IS_ALONE";

    /// Whether this is the process that [`alone`] started, with AMX emulated. Where the machine has AMX there is nothing
    /// to be seen.
    fn is_alone() -> bool {
        assert!(Isa::Amx.is_available() || !Isa::Avx512.is_available(), "AMX cannot be emulated");
        std::env::var_os(IS_ALONE).is_some()
    }

    /// Runs one test in a process of its own.
    fn alone(test: &str) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--nocapture", "--test-threads=1"]).arg(format!("amx::emulator::tests::{test}"));
        command.env(IS_ALONE, "1").output().unwrap()
    }

    fn is_emulated() -> bool {
        Isa::Amx.is_available() && emulated_tile_products().is_some()
    }

    #[test]
    fn the_kernels_products_run_on_tiles() {
        if is_alone() {
            let compute = Compute::new(Isa::Amx, 2).unwrap();
            let mut before = emulated_tile_products().unwrap();
            // Steps along K, sixteens of rows, planes of the weights: as the kernels say. Products of integers leave rows
            // that fill no tile to AVX-512.
            for (dtype, cols, rows, int8, bf16) in [
                (Dtype::Q4_0, 64, 37, 2 * 2, 0),
                (Dtype::Q8_0, 32, 160, 10, 0),
                (Dtype::Q4_K, 512, 16, 2 * 4 * 2, 0),
                (Dtype::Q4_0, 64, 15, 0, 0),
                (Dtype::BF16, 96, 37, 0, 3 * 3),
                (Dtype::BF16, 96, 1, 0, 3),
                (Dtype::F32, 96, 37, 0, 0),
            ] {
                let (length, size) = dtype.block();
                let bytes = vec![0; 16 * cols / length * size];
                let matrix = Matrix::pack(dtype, 16, cols, &bytes, &compute).unwrap();
                let mut activations = Activations::new();
                compute.prepare(ActivationKind::of(dtype), &vec![1.0; rows * cols], cols, &mut activations);
                let mut out = vec![f32::NAN; rows * 16];
                compute.matmul(&activations, &mut [Product { matrix: &matrix, bias: None, out: &mut out }]);
                assert!(out.iter().all(|&y| y == 0.0), "{dtype}");
                let after = emulated_tile_products().unwrap();
                assert_eq!((after.int8 - before.int8, after.bf16 - before.bf16), (int8, bf16), "{dtype}, {rows} rows");
                before = after;
            }
        } else if is_emulated() {
            let output = alone("the_kernels_products_run_on_tiles");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }

    #[test]
    fn a_fault_ends_the_process() {
        if is_alone() {
            // SAFETY: no tile is configured, so nothing comes after this.
            unsafe { asm!("tilezero tmm0", out("tmm0") _) };
        } else if is_emulated() {
            let output = alone("a_fault_ends_the_process");
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{message}");
            assert!(message.contains("AMX as emulated: a tile that is not configured\n"), "{message}");
        }
    }

    #[test]
    fn other_invalid_instructions_end_the_process_as_ever() {
        if is_alone() {
            // SAFETY: nothing comes after this.
            unsafe { asm!("ud2") };
        } else if is_emulated() {
            let output = alone("other_invalid_instructions_end_the_process_as_ever");
            assert_eq!(output.status.signal(), Some(libc::SIGILL), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
