//! Instructions of extended BPF (RFC 9669), one method each, and labels for what they jump to.

/// An instruction as the kernel reads it: `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register(u8);

/// What a call returns, and the program at its end.
pub(crate) const R0: Register = Register(0);
/// Arguments of a call, lost by it.
pub(crate) const R1: Register = Register(1);
pub(crate) const R2: Register = Register(2);
pub(crate) const R3: Register = Register(3);
pub(crate) const R4: Register = Register(4);
/// Kept by calls.
pub(crate) const R6: Register = Register(6);
pub(crate) const R7: Register = Register(7);
pub(crate) const R8: Register = Register(8);
pub(crate) const R9: Register = Register(9);
/// The end of the stack, which grows down and has 512 bytes.
pub(crate) const FRAME: Register = Register(10);

/// The second operand of arithmetic and of a comparison.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operand {
    Register(Register),
    Immediate(i32),
}

impl From<Register> for Operand {
    fn from(register: Register) -> Self {
        Operand::Register(register)
    }
}

impl From<i32> for Operand {
    fn from(number: i32) -> Self {
        Operand::Immediate(number)
    }
}

/// 64-bit arithmetic, without signs.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Arithmetic {
    Add = 0x00,
    Sub = 0x10,
    Mul = 0x20,
    And = 0x50,
    ShiftLeft = 0x60,
    Modulo = 0x90,
    Move = 0xb0,
}

/// 64-bit comparisons, without signs.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Comparison {
    Equal = 0x10,
    AtLeast = 0x30,
    NotEqual = 0x50,
    Below = 0xa0,
}

/// Functions of the kernel (`enum bpf_func_id`).
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(crate) enum Helper {
    MapLookup = 1,
    RandomU32 = 7,
    ProcessorId = 8,
    SelectReuseport = 82,
}

/// A place in the program, known once it was [`Assembler::place`]d.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label(usize);

const ALU64: u8 = 0x07;
const JUMP: u8 = 0x05;
/// The operand is a register, not a number.
const BY_REGISTER: u8 = 0x08;
const CALL: u8 = JUMP | 0x80;
const EXIT: u8 = JUMP | 0x90;
const LOAD_U32: u8 = 0x61;
const LOAD_U64: u8 = 0x79;
const STORE_U32: u8 = 0x63;
const STORE_U64: u8 = 0x7b;
/// A number of 64 bits in two instructions.
const LOAD_WIDE: u8 = 0x18;
/// The wide number is the descriptor of a map; the kernel puts its address there.
const OF_MAP: Register = Register(1);

/// A program in the making.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    code: Vec<Instruction>,
    /// Where every label is.
    places: Vec<Option<usize>>,
    /// Jumps and what they jump to.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    /// A label to be placed later.
    pub(crate) fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// The label means the next instruction.
    pub(crate) fn place(&mut self, label: Label) {
        self.places[label.0] = Some(self.code.len());
    }

    pub(crate) fn compute(&mut self, what: Arithmetic, to: Register, by: impl Into<Operand>) {
        self.with_operand(ALU64 | what as u8, to, by.into(), 0);
    }

    pub(crate) fn set(&mut self, to: Register, value: impl Into<Operand>) {
        self.compute(Arithmetic::Move, to, value);
    }

    /// Reads 32 bits at an address, the upper ones become zero.
    pub(crate) fn load_u32(&mut self, to: Register, address: Register, offset: i16) {
        self.push(LOAD_U32, to, address, offset, 0);
    }

    pub(crate) fn load_u64(&mut self, to: Register, address: Register, offset: i16) {
        self.push(LOAD_U64, to, address, offset, 0);
    }

    pub(crate) fn store_u32(&mut self, address: Register, offset: i16, value: Register) {
        self.push(STORE_U32, address, value, offset, 0);
    }

    pub(crate) fn store_u64(&mut self, address: Register, offset: i16, value: Register) {
        self.push(STORE_U64, address, value, offset, 0);
    }

    /// A map, by its descriptor, which has to be open when the program is loaded.
    pub(crate) fn load_map(&mut self, to: Register, descriptor: i32) {
        self.push(LOAD_WIDE, to, OF_MAP, 0, descriptor);
        self.push(0, R0, R0, 0, 0);
    }

    pub(crate) fn call(&mut self, helper: Helper) {
        self.push(CALL, R0, R0, 0, helper as i32);
    }

    pub(crate) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(JUMP, R0, R0, 0, 0);
    }

    pub(crate) fn jump_if(&mut self, a: Register, is: Comparison, b: impl Into<Operand>, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.with_operand(JUMP | is as u8, a, b.into(), 0);
    }

    pub(crate) fn exit(&mut self) {
        self.push(EXIT, R0, R0, 0, 0);
    }

    /// The program, with every jump leading to its label.
    pub(crate) fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in self.jumps {
            let place = self.places[label.0].expect("every label is placed");
            // Counted from the instruction behind the jump.
            let distance = place as i64 - at as i64 - 1;
            self.code[at].offset = i16::try_from(distance).expect("programs are short");
        }
        self.code
    }

    fn with_operand(&mut self, code: u8, to: Register, operand: Operand, offset: i16) {
        match operand {
            Operand::Register(register) => self.push(code | BY_REGISTER, to, register, offset, 0),
            Operand::Immediate(number) => self.push(code, to, R0, offset, number),
        }
    }

    fn push(&mut self, code: u8, to: Register, from: Register, offset: i16, immediate: i32) {
        // Two fields of four bits, in the order of the machine's bytes.
        let registers = if cfg!(target_endian = "little") { from.0 << 4 | to.0 } else { to.0 << 4 | from.0 };
        self.code.push(Instruction { code, registers, offset, immediate });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_lead_to_their_labels_forwards_and_backwards() {
        let mut program = Assembler::default();
        let (start, end) = (program.label(), program.label());
        program.place(start);
        program.set(R7, 5);
        program.jump_if(R7, Comparison::AtLeast, R8, end);
        program.jump(start);
        program.place(end);
        program.exit();
        let offsets: Vec<i16> = program.finish().iter().map(|instruction| instruction.offset).collect();
        assert_eq!(offsets, [0, 1, -3, 0]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn instructions_are_those_of_the_kernel() {
        let mut program = Assembler::default();
        program.set(R6, R1);
        program.compute(Arithmetic::Modulo, R9, 3);
        program.store_u32(FRAME, -4, R0);
        program.load_map(R1, 7);
        program.call(Helper::SelectReuseport);
        let bytes: Vec<[u8; 8]> = program
            .finish()
            .iter()
            .map(|&Instruction { code, registers, offset, immediate }| {
                let (offset, immediate) = (offset.to_le_bytes(), immediate.to_le_bytes());
                [
                    code,
                    registers,
                    offset[0],
                    offset[1],
                    immediate[0],
                    immediate[1],
                    immediate[2],
                    immediate[3],
                ]
            })
            .collect();
        // As clang and llvm-objdump have them.
        let want = [
            [0xbf, 0x16, 0, 0, 0, 0, 0, 0],
            [0x97, 0x09, 0, 0, 3, 0, 0, 0],
            [0x63, 0x0a, 0xfc, 0xff, 0, 0, 0, 0],
            [0x18, 0x11, 0, 0, 7, 0, 0, 0],
            [0x00, 0x00, 0, 0, 0, 0, 0, 0],
            [0x85, 0x00, 0, 0, 82, 0, 0, 0],
        ];
        assert_eq!(bytes, want);
    }
}
