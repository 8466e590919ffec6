//! The tile instructions' encodings: Intel's Software Developer's Manual, volume 2, chapter 2.3 for the prefix, and the
//! pages of the instructions.

/// An instruction that the kernels use. Tiles are numbered from 0 to 7.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Instruction {
    /// `ldtilecfg`
    LoadConfiguration(Memory),
    /// `tilerelease`
    Release,
    /// `tilezero`
    Zero(u8),
    /// `tileloadd`
    Load(u8, Memory),
    /// `tilestored`
    Store(u8, Memory),
    /// `tdpbssd`
    DotInt8(Dot),
    /// `tdpbf16ps`
    DotBf16(Dot),
}

/// The tiles of a product, which is added to `sums`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Dot {
    pub(super) sums: u8,
    pub(super) left: u8,
    pub(super) right: u8,
}

/// An operand in memory. General registers have their numbers of encoding: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to
/// r15.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Memory {
    pub(super) base: u8,
    pub(super) index: Option<u8>,
    /// The index is shifted left by this many bits.
    pub(super) shift: u8,
    pub(super) displacement: i32,
}

/// The fields of a three-byte VEX prefix, those that are kept inverted put right.
struct Vex {
    /// What the bits R, X and B add to the register numbers in ModRM and SIB: 0 or 8.
    reg: u8,
    index: u8,
    base: u8,
    register: u8,
    prefix: Prefix,
}

/// The prefix that VEX stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefix {
    None,
    X66,
    Xf3,
    Xf2,
}

/// The instruction that begins with these bytes, if it is one of the kernels' and they encode it as the manual says: what
/// else they might encode is another's to judge. No byte is taken that is not the instruction's own.
pub(super) fn decode(bytes: &mut impl Iterator<Item = u8>) -> Option<Instruction> {
    let vex = vex(bytes)?;
    let opcode = bytes.next()?;
    let modrm = bytes.next()?;
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    let in_memory = mode != 3;
    // Tiles beyond the eighth do not exist.
    let tile = |number: u8| (number < 8).then_some(number);
    // All but the products leave the prefix's register unused.
    let unused = vex.register == 0;
    match (opcode, vex.prefix, in_memory) {
        (0x49, Prefix::None, true) if unused && reg + vex.reg == 0 => {
            Some(Instruction::LoadConfiguration(memory(bytes, &vex, mode, rm)?))
        }
        (0x49, Prefix::None, false) if unused && modrm == 0xc0 && vex.reg + vex.base == 0 => Some(Instruction::Release),
        (0x49, Prefix::Xf2, false) if unused && rm + vex.base == 0 => Some(Instruction::Zero(tile(reg + vex.reg)?)),
        // These have a SIB byte always, for the index is the stride.
        (0x4b, Prefix::Xf2, true) if unused && rm == 4 => {
            Some(Instruction::Load(tile(reg + vex.reg)?, memory(bytes, &vex, mode, rm)?))
        }
        (0x4b, Prefix::Xf3, true) if unused && rm == 4 => {
            Some(Instruction::Store(tile(reg + vex.reg)?, memory(bytes, &vex, mode, rm)?))
        }
        (0x5e, Prefix::Xf2, false) | (0x5c, Prefix::Xf3, false) => {
            let dot = Dot { sums: tile(reg + vex.reg)?, left: tile(rm + vex.base)?, right: tile(vex.register)? };
            Some(if opcode == 0x5e { Instruction::DotInt8(dot) } else { Instruction::DotBf16(dot) })
        }
        _ => None,
    }
}

/// The prefix of an instruction of map 0F38 with W = 0 and 128 bits, as all of AMX are.
fn vex(bytes: &mut impl Iterator<Item = u8>) -> Option<Vex> {
    if bytes.next()? != 0xc4 {
        return None;
    }
    let first = bytes.next()?;
    if first & 0x1f != 2 {
        return None;
    }
    let second = bytes.next()?;
    if second & 0x84 != 0 {
        return None;
    }
    Some(Vex {
        reg: !first >> 4 & 8,
        index: !first >> 3 & 8,
        base: !first >> 2 & 8,
        register: !second >> 3 & 15,
        prefix: [Prefix::None, Prefix::X66, Prefix::Xf3, Prefix::Xf2][usize::from(second & 3)],
    })
}

/// The memory that ModRM's `mode` and `rm` name, with the bytes that follow it. `None` for an address without a base
/// register: the kernels have none.
fn memory(bytes: &mut impl Iterator<Item = u8>, vex: &Vex, mode: u8, rm: u8) -> Option<Memory> {
    let (mut base, mut index, mut shift) = (rm, None, 0);
    if rm == 4 {
        let sib = bytes.next()?;
        base = sib & 7;
        shift = sib >> 6;
        // Four means none, but with X it is r12.
        index = Some((sib >> 3 & 7) + vex.index).filter(|&index| index != 4);
    }
    if mode == 0 && base == 5 {
        return None;
    }
    let displacement = match mode {
        0 => 0,
        1 => i32::from(bytes.next()? as i8),
        _ => i32::from_le_bytes([bytes.next()?, bytes.next()?, bytes.next()?, bytes.next()?]),
    };
    Some(Memory { base: base + vex.base, index, shift, displacement })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that the compiler's assembler makes of an instruction.
    macro_rules! assembled {
        ($text:literal) => {{
            #[unsafe(naked)]
            extern "C" fn code() {
                std::arch::naked_asm!($text, ".skip 15");
            }
            // SAFETY: code may be read, and there are fifteen bytes of it.
            unsafe { *(code as *const [u8; 15]) }
        }};
    }

    fn memory(base: u8, index: Option<u8>, shift: u8, displacement: i32) -> Memory {
        Memory { base, index, shift, displacement }
    }

    #[test]
    fn what_the_assembler_wrote_is_read() {
        use Instruction::{DotBf16, DotInt8, Load, LoadConfiguration, Release, Store, Zero};
        let dot = |sums, left, right| Dot { sums, left, right };
        // With the length that the assembler's listing has.
        let cases = [
            (assembled!("ldtilecfg [rax]"), LoadConfiguration(memory(0, None, 0, 0)), 5),
            (assembled!("ldtilecfg [rsp]"), LoadConfiguration(memory(4, None, 0, 0)), 6),
            (assembled!("ldtilecfg [r12 + 64]"), LoadConfiguration(memory(12, None, 0, 64)), 7),
            (assembled!("ldtilecfg [rbp]"), LoadConfiguration(memory(5, None, 0, 0)), 6),
            (assembled!("ldtilecfg [r13]"), LoadConfiguration(memory(13, None, 0, 0)), 6),
            (assembled!("ldtilecfg [r9 + 4*r10 - 192]"), LoadConfiguration(memory(9, Some(10), 2, -192)), 10),
            (assembled!("tilerelease"), Release, 5),
            (assembled!("tilezero tmm0"), Zero(0), 5),
            (assembled!("tilezero tmm7"), Zero(7), 5),
            (assembled!("tileloadd tmm1, [rdi + 1*rsi]"), Load(1, memory(7, Some(6), 0, 0)), 6),
            (assembled!("tileloadd tmm6, [r8 + 8*r12]"), Load(6, memory(8, Some(12), 3, 0)), 6),
            (assembled!("tileloadd tmm2, [r13 + 1*r15]"), Load(2, memory(13, Some(15), 0, 0)), 7),
            (assembled!("tileloadd tmm3, [rbx + 2*rcx - 128]"), Load(3, memory(3, Some(1), 1, -128)), 7),
            (assembled!("tileloadd tmm3, [rbx + 2*rcx + 128]"), Load(3, memory(3, Some(1), 1, 128)), 10),
            (assembled!("tileloadd tmm4, [rdx]"), Load(4, memory(2, None, 0, 0)), 6),
            (assembled!("tilestored [r11 + 1*rax], tmm0"), Store(0, memory(11, Some(0), 0, 0)), 6),
            (assembled!("tilestored [rsp + 1*r14 + 4096], tmm5"), Store(5, memory(4, Some(14), 0, 4096)), 10),
            (assembled!("tdpbssd tmm0, tmm1, tmm2"), DotInt8(dot(0, 1, 2)), 5),
            (assembled!("tdpbssd tmm7, tmm3, tmm5"), DotInt8(dot(7, 3, 5)), 5),
            (assembled!("tdpbf16ps tmm0, tmm1, tmm2"), DotBf16(dot(0, 1, 2)), 5),
            (assembled!("tdpbf16ps tmm4, tmm7, tmm6"), DotBf16(dot(4, 7, 6)), 5),
        ];
        for (code, expected, length) in cases {
            let mut bytes = code.into_iter();
            assert_eq!(decode(&mut bytes), Some(expected), "{code:02x?}");
            assert_eq!(15 - bytes.len(), length, "{code:02x?}");
            for length in 0..length {
                assert_eq!(decode(&mut code.into_iter().take(length)), None, "{code:02x?}, {length} bytes of it");
            }
        }
    }

    #[test]
    fn what_is_no_instruction_of_the_kernels_is_left_alone() {
        let foreign = [
            assembled!("ud2"),
            assembled!("vpaddd zmm0, zmm1, zmm2"),
            assembled!("vpaddd ymm8, ymm1, ymm2"),
            assembled!("vpshufb xmm0, xmm1, xmm2"),
            assembled!("sttilecfg [rax]"),
            assembled!("tileloaddt1 tmm1, [rdi + 1*rsi]"),
            assembled!("tdpbsud tmm0, tmm1, tmm2"),
            assembled!("tdpbusd tmm0, tmm1, tmm2"),
            assembled!("tdpbuud tmm0, tmm1, tmm2"),
            assembled!("tdpfp16ps tmm0, tmm1, tmm2"),
            assembled!("ldtilecfg [rip + 64]"),
            assembled!("tileloadd tmm1, [1*rsi + 64]"),
        ];
        for code in foreign {
            assert_eq!(decode(&mut code.into_iter()), None, "{code:02x?}");
        }
    }

    #[test]
    fn a_bit_that_the_manual_does_not_allow_makes_it_another_instruction() {
        // The bits of the prefix and of ModRM that may not change, byte by byte: R, B, map; W, vvvv, L; mode and register.
        let cases = [
            (assembled!("ldtilecfg [rax]"), [0x9f, 0xfc, 0x38]),
            (assembled!("tilerelease"), [0xbf, 0xfc, 0x3f]),
            (assembled!("tilezero tmm2"), [0xbf, 0xfc, 0xc7]),
            (assembled!("tileloadd tmm1, [rdi + 1*rsi]"), [0x9f, 0xfc, 0x07]),
            (assembled!("tilestored [rdi + 1*rsi], tmm1"), [0x9f, 0xfc, 0x07]),
            (assembled!("tdpbssd tmm0, tmm1, tmm2"), [0xbf, 0xc4, 0xc0]),
            (assembled!("tdpbf16ps tmm0, tmm1, tmm2"), [0xbf, 0xc4, 0xc0]),
        ];
        for (code, fixed) in cases {
            for (byte, fixed) in [1, 2, 4].into_iter().zip(fixed) {
                for bit in (0..8).map(|bit| 1 << bit).filter(|bit| fixed & bit != 0) {
                    let mut changed = code;
                    changed[byte] ^= bit;
                    assert_eq!(decode(&mut changed.into_iter()), None, "{code:02x?}, byte {byte}, bit {bit:#x}");
                }
            }
        }
    }
}
