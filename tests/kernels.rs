//! Older kernels: the same object and the same agent on those of Debian 12 and Ubuntu 22.04, in an emulated machine with a
//! virtio network card, as most rented servers have one; and what of newer kernels the object asks for at all.

#[path = "machine/mod.rs"]
mod machine;

use std::{
    collections::BTreeSet,
    env,
    io::{self, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use aya::{Ebpf, EbpfLoader, programs::Program, util::KernelVersion};
use f2b::xdp::{Lines, OBJECT};
use f2b_ebpf::MAX_BANS;
use machine::{Kernel, Machine};
use object::{Object as _, ObjectSection as _, SectionKind};

const F2B: &str = env!("CARGO_BIN_EXE_f2b");
const BANNED: u8 = 7;
const FREE: u8 = 8;

#[test]
fn debians_kernel_drops_in_the_driver_of_a_virtio_card() {
    drops_everywhere(Kernel::Debian);
}

/// The oldest kernel to support.
#[test]
#[ignore = "it comes from Ubuntu's servers: cargo xtask soak --only ubuntu"]
fn ubuntus_kernel_drops_in_the_driver_of_a_virtio_card() {
    drops_everywhere(Kernel::Ubuntu);
}

/// Bans and drops in every mode, with an agent and without.
fn drops_everywhere(kernel: Kernel) {
    let this = env::current_exe().expect("Linux knows it");
    let mut machine = Machine::boot(kernel, &[Path::new(F2B), &this]);
    let name = this.file_name().expect("it has one").to_string_lossy().into_owned();
    let report = machine.run(&format!("{name} --exact the_programs_load --nocapture 2>&1"));
    say(&format!("Linux {} (emulated)\n{}", machine.release, measured(&report)));

    for host in [BANNED, FREE] {
        machine.run(&format!("arp -s 192.0.2.{host} 02:00:00:00:00:{host:02x}"));
    }
    for mode in ["native", "generic", "tc"] {
        let log = start(&mut machine, mode);
        assert!(log.contains(&format!("mode={mode}")), "{log}");
        // Links hold XDP. In tc there are none before Linux 6.6: a filter of clsact has the program.
        let pins = machine.run("ls -d /sys/fs/bpf/f2b/*/eth0");
        let place = if mode == "tc" { "clsact" } else { "links" };
        assert_eq!(pins.trim(), format!("/sys/fs/bpf/f2b/{place}/eth0"));
        assert_eq!(answered(&machine, &[BANNED, FREE]), [BANNED, FREE], "{mode}: nobody is banned yet");

        machine.run(&format!("f2b ban sshd 192.0.2.{BANNED}"));
        assert_eq!(answered(&machine, &[BANNED, FREE]), [FREE], "{mode}: banned");
        let banned = machine.run("f2b banned --json");
        assert!(banned.contains(r#""packets":1"#) || banned.contains(r#""packets": 1"#), "{mode}: {banned}");

        machine.run("kill -9 $(cat /tmp/pid); sleep 0.2");
        assert_eq!(answered(&machine, &[BANNED, FREE]), [FREE], "{mode}: banned, and nobody runs");
        start(&mut machine, mode);
        assert_eq!(answered(&machine, &[BANNED, FREE]), [FREE], "{mode}: the next agent has it");
        machine.run("kill $(cat /tmp/pid); while [ -d /proc/$(cat /tmp/pid) ]; do sleep 0.1; done");
        machine.run("f2b detach");
        assert_eq!(answered(&machine, &[BANNED, FREE]), [BANNED, FREE], "{mode}: detached");
        machine.run("rm -rf /var/lib/f2b");
        say(&format!("Linux {}, virtio-net, {mode}: dropped with and without the agent", machine.release));
    }
}

/// Starts an agent in the machine, and waits until it is ready; its log.
#[track_caller]
fn start(machine: &mut Machine, mode: &str) -> String {
    machine.run(&format!("f2b run -i eth0 --mode {mode} >/tmp/log 2>&1 & echo $! >/tmp/pid"));
    machine.run("for i in $(seq 1200); do grep -q Ready /tmp/log && break; sleep 0.1; done");
    let log = machine.run("cat /tmp/log");
    assert!(log.contains(" Ready"), "{log}");
    log
}

/// Also runs inside the emulated machine.
#[test]
fn the_programs_load() {
    const MULTI_BUFFER: &str = "f2b";
    let kernel = KernelVersion::current().expect("Linux tells");
    let mask = Lines::mask(MAX_BANS);
    let mut loader = EbpfLoader::new();
    Lines::size(&mut loader, &mask);
    let mut ebpf = loader.load(OBJECT).expect("the kernel takes the maps");
    for (name, program) in ebpf.programs_mut() {
        // For frames in several buffers, which older kernels do not have.
        if name == MULTI_BUFFER && kernel < KernelVersion::new(5, 18, 0) {
            continue;
        }
        let start = Instant::now();
        match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => panic!("{name} is for XDP or tc"),
        }
        .expect("the verifier takes it");
        let time = start.elapsed();
        let info = program.info().expect("a loaded program has it");
        let bytes = info.size_translated().expect("root may see it");
        // From Linux 5.16 on.
        let verified = info.verified_instruction_count();
        let verified = verified.map_or_else(|| "unknown".to_owned(), |steps| steps.to_string());
        say(&format!(
            "  {name}: {} instructions, {verified} steps of the verifier (of 1,000,000), loaded in {:.1} ms",
            bytes / 8,
            time.as_secs_f64() * 1000.0
        ));
    }
}

/// The oldest kernel to support is 5.15. There is none in Debian 12 to try every time, so this reads the object: what a
/// kernel refuses it for are helpers, kinds of maps and instructions that it does not know.
#[test]
fn the_object_asks_for_nothing_newer_than_linux_5_15() {
    /// `bpf_task_pt_regs`, the last one of 5.15.
    const LAST_HELPER: i32 = 175;
    /// `BPF_MAP_TYPE_TASK_STORAGE`, the last one of 5.15.
    const LAST_MAP: u32 = 29;

    let object = object::File::parse(OBJECT).expect("the object is ELF");
    let mut read = 0;
    for section in object.sections().filter(|section| section.kind() == SectionKind::Text) {
        let name = section.name().expect("sections have names");
        // This one is only loaded where frames in several buffers are known, from 5.18 on.
        if name == "xdp.frags" || section.size() == 0 {
            continue;
        }
        let helpers = helpers(section.data().expect("it has instructions"));
        assert!(helpers.iter().all(|helper| *helper <= LAST_HELPER), "{name} calls {helpers:?}");
        read += 1;
        say(&format!("{name}: helpers {helpers:?}, none newer than Linux 5.15"));
    }
    assert!(read >= 2, "the programs for XDP and for tc");
    let ebpf = Ebpf::load(OBJECT).expect("the kernel takes the maps");
    for (name, map) in ebpf.maps() {
        let kind = map_kind(map);
        assert!(kind <= LAST_MAP, "{name} is of kind {kind}");
    }
}

/// The helpers that these instructions call; panics at an instruction that Linux 5.15 does not know.
fn helpers(code: &[u8]) -> BTreeSet<i32> {
    const CALL: u8 = 0x85;
    const KERNEL_FUNCTION: u8 = 2;
    let mut helpers = BTreeSet::new();
    let mut instructions = code.chunks_exact(8);
    while let Some(instruction) = instructions.next() {
        let (code, source) = (instruction[0], instruction[1] >> 4);
        let offset = i16::from_le_bytes([instruction[2], instruction[3]]);
        let immediate = i32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]]);
        let (class, mode) = (code & 0x07, code & 0xe0);
        match class {
            // Loads; with sign extension (mode 0x80) since 6.6.
            0..=3 => assert_ne!(mode, 0x80, "a load with sign extension: {instruction:02x?}"),
            // Arithmetic: signed division and sign-extending moves say so in the offset; byte swaps of class 7, 6.6.
            4 | 7 => {
                assert_eq!(offset, 0, "signed arithmetic: {instruction:02x?}");
                assert!(
                    !(class == 7 && code & 0xf0 == 0xd0),
                    "an unconditional byte swap: {instruction:02x?}"
                );
            }
            // Long jumps, 6.6.
            6 => assert_ne!(code, 0x06, "a long jump: {instruction:02x?}"),
            _ => {}
        }
        if code == CALL {
            assert_ne!(source, KERNEL_FUNCTION, "a kernel function");
            if source == 0 {
                helpers.insert(immediate);
            }
        }
        if code == 0x18 {
            // Its second half is no instruction.
            instructions.next();
        }
    }
    helpers
}

/// The number that the kernel has for this kind of map.
fn map_kind(map: &aya::maps::Map) -> u32 {
    use aya::maps::Map;
    match map {
        Map::HashMap(_) => 1,
        Map::Array(_) => 2,
        Map::PerCpuHashMap(_) => 5,
        Map::PerCpuArray(_) => 6,
        Map::LpmTrie(_) => 11,
        Map::RingBuf(_) => 27,
        _ => u32::MAX,
    }
}

/// Knocks at the machine's port 22 from these hosts, the last of which must get its answer; who got one.
#[track_caller]
fn answered(machine: &Machine, hosts: &[u8]) -> Vec<u8> {
    const RESET: u8 = 0x04;
    let last = *hosts.last().expect("somebody");
    let mut answered = Vec::new();
    machine.wire.set_read_timeout(Some(Duration::from_secs(10))).expect("it is not zero");
    for host in hosts {
        machine.wire.send(&knock(*host)).expect("the machine is on");
    }
    // The wire keeps the order: what has not come before the last answer does not come.
    while !answered.contains(&last) {
        let mut frame = [0; 2048];
        let length = machine.wire.recv(&mut frame).expect("the machine answers the last one");
        // IPv4, TCP, a reset: nobody listens there, but the knock has been heard.
        if length >= 54 && frame[12..14] == [8, 0] && frame[23] == 6 && frame[47] & RESET != 0 {
            answered.push(frame[33]);
        }
    }
    answered
}

/// The first packet of a TCP connection from 192.0.2.`host` to the machine's port 22.
fn knock(host: u8) -> Vec<u8> {
    const SYN: u8 = 0x02;
    let (from, to) = ([192, 0, 2, host], [192, 0, 2, 1]);
    let mut ip = [0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[12..16].copy_from_slice(&from);
    ip[16..20].copy_from_slice(&to);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    let mut tcp = [0x9c, 0x40, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 4, 0, 0, 0, 0, 0];
    // TCP's sum goes over the addresses, the protocol and the length too.
    let sum = checksum(&[&from[..], &to, &[0, 6, 0, 20], &tcp].concat());
    tcp[16..18].copy_from_slice(&sum);
    let hardware = [machine::HARDWARE_ADDRESS, [2, 0, 0, 0, 0, host]].concat();
    [&hardware[..], &[0x08, 0x00], &ip, &tcp].concat()
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be_bytes()
}

/// The lines of [`the_programs_load`] among those of the test harness.
fn measured(output: &str) -> String {
    let lines = output.lines().filter(|line| line.contains(" instructions, "));
    // The harness leaves its own line open.
    lines.map(|line| line.rsplit(" ... ").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// Past the test harness, which keeps what passing tests print to itself.
fn say(text: &str) {
    writeln!(io::stderr(), "{text}").expect("stderr is there");
}
