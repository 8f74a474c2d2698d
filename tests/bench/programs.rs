//! Small XDP programs that measuring needs, in BPF assembler, and how they are loaded.
//!
//! aya loads ELF objects only, so each program is wrapped into the smallest one that it takes.

use aya::{Ebpf, maps::ProgramArray, programs::Xdp};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationEncoding, RelocationFlags, RelocationKind, SectionKind,
    SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Relocation, Symbol, SymbolId, SymbolSection},
};

use super::{
    flood::Sources,
    frame::{IP, UDP_FRAME},
};

/// The name of the program in each object.
pub(crate) const PROGRAM: &str = "bench";
/// The map of [`judged`] that holds the program under test, at index 0.
const NEXT: &str = "next";

/// Drops every frame without a look at it: nothing that drops can be cheaper.
pub(crate) const DROP: &str = "mov r0, 1\nexit";
/// Passes every frame without a look at it: nothing that passes can be cheaper.
pub(crate) const PASS: &str = "mov r0, 2\nexit";

/// Sends every frame out of the interface that it came in by.
pub(crate) const SEND: &str = "mov r0, 3\nexit";

/// Gives the frame a random one of the `sources`, then `ending` (with the context in r6) decides what becomes of it.
fn from_random_source(sources: &Sources, ending: &str) -> String {
    let Sources { first, count } = sources;
    let first = u32::from(*first);
    let fixed = header_sum_without_source();
    let (source, checksum) = (IP + 12, IP + 10);
    let after = IP + 20;
    format!(
        "mov r6, r1
         call 7                  ; bpf_get_prandom_u32
         mod32 r0, {count}
         add32 r0, {first}
         be32 r0
         ldxw r2, [r6+0]         ; the frame's begin and end
         ldxw r3, [r6+4]
         mov r4, r2
         add r4, {after}
         jle r4, r3, +2
         mov r0, 0
         exit
         stxw [r2+{source}], r0
         mov r5, r0              ; the header's checksum: words added up, carries too, complement
         rsh r5, 16
         and r0, 0xffff
         add r5, r0
         add r5, {fixed}
         mov r4, r5
         rsh r4, 16
         and r5, 0xffff
         add r5, r4
         mov r4, r5
         rsh r4, 16
         add r5, r4
         xor r5, 0xffff
         stxh [r2+{checksum}], r5
         {ending}"
    )
}

/// Gives every frame a random one of the `sources`, then does `verdict` to it. The frame of a single source stays as it
/// is.
pub(crate) fn sender(sources: &Sources, verdict: &str) -> String {
    if sources.count == 1 { verdict.to_owned() } else { from_random_source(sources, verdict) }
}

/// Hands every frame, from a random one of the `sources`, to the program in [`NEXT`].
fn judged(sources: &Sources) -> String {
    // `lddw` is where the loader writes the map's file descriptor.
    from_random_source(sources, "mov r1, r6\nlddw r2, 0\nmov r3, 0\ncall 12\nmov r0, 0\nexit")
}

/// The words of the template's IP header but for source and checksum, as the CPU reads them.
fn header_sum_without_source() -> u32 {
    let header = &UDP_FRAME[IP..IP + 20];
    let words = header.chunks_exact(2).map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]])));
    let except = [5, 6, 7];
    words.enumerate().filter(|(at, _)| !except.contains(at)).map(|(_, word)| word).sum()
}

/// Loads a program into the kernel.
pub(crate) fn load(assembler: &str, frags: Frags) -> Ebpf {
    loaded(&elf(assembler, frags))
}

/// Loads a program which gives each frame a random one of the `sources` and hands it to `next`,
/// which must be one for frames in several buffers.
pub(crate) fn load_in_front_of(next: &Xdp, sources: &Sources) -> Ebpf {
    let mut ebpf = load(&judged(sources), Frags::Yes);
    let map = ebpf.map_mut(NEXT).expect("it is in the object");
    let mut array = ProgramArray::try_from(map).expect("it is an array of programs");
    array.set(0, next.fd().expect("it is loaded"), 0).expect("programs of one kind may call each other");
    ebpf
}

/// Whether a program takes frames of several buffers. The kernel lets only those of one kind call each other.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Frags {
    Yes,
    No,
}

/// The program of an object made here.
pub(crate) fn program(ebpf: &mut Ebpf) -> &mut Xdp {
    ebpf.program_mut(PROGRAM).expect("it is in the object").try_into().expect("it is for XDP")
}

fn loaded(elf: &[u8]) -> Ebpf {
    let mut ebpf = Ebpf::load(elf).expect("an object of ours is well formed");
    program(&mut ebpf).load().expect("the verifier takes it");
    ebpf
}

/// The object file of a program, with the map [`NEXT`] if the program loads a map.
fn elf(assembler: &str, frags: Frags) -> Vec<u8> {
    let without_comments: Vec<_> =
        assembler.lines().map(|line| line.split(';').next().unwrap_or_default()).collect();
    let code = rbpf::assembler::assemble(&without_comments.join("\n")).expect("it is BPF assembler");
    let map_load = code.chunks_exact(8).position(|instruction| instruction[0] == 0x18);

    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let license = object.add_section(vec![], b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"GPL\0", 1);
    let name: &[u8] = if frags == Frags::Yes { b"xdp.frags" } else { b"xdp" };
    let section = object.add_section(vec![], name.to_vec(), SectionKind::Text);
    object.append_section_data(section, &code, 8);
    add_symbol(&mut object, PROGRAM, SymbolKind::Text, code.len(), section);
    if let Some(instruction) = map_load {
        /// `BPF_MAP_TYPE_PROG_ARRAY`, four bytes of key, four of value, one entry.
        const DEFINITION: [u32; 5] = [3, 4, 4, 1, 0];
        let maps = object.add_section(vec![], b"maps".to_vec(), SectionKind::Data);
        let bytes = DEFINITION.map(u32::to_ne_bytes).concat();
        object.append_section_data(maps, &bytes, 4);
        let symbol = add_symbol(&mut object, NEXT, SymbolKind::Data, bytes.len(), maps);
        let flags = RelocationFlags::Generic {
            kind: RelocationKind::Absolute,
            encoding: RelocationEncoding::Generic,
            size: 64,
        };
        let offset = instruction as u64 * 8;
        object
            .add_relocation(section, Relocation { offset, symbol, addend: 0, flags })
            .expect("BPF has this relocation");
    }
    object.write().expect("it fits into memory")
}

fn add_symbol(
    object: &mut Object<'_>,
    name: &str,
    kind: SymbolKind,
    size: usize,
    section: object::write::SectionId,
) -> SymbolId {
    object.add_symbol(Symbol {
        name: name.as_bytes().to_vec(),
        value: 0,
        size: size as u64,
        kind,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    })
}
