//! The kernel half: looks up every frame's source address among the bans, and drops the frame if a ban that still holds
//! covers its port. Everything else passes.
//!
//! Three programs, one decision: XDP for frames in several buffers, XDP for older kernels, and tc.

#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

use aya_ebpf::{
    bindings::{
        BPF_F_MMAPABLE,
        xdp_action::{XDP_DROP, XDP_PASS},
    },
    btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use f2b_ebpf::{
    ALL_PORTS, AllowEntry, BanEntry, BanKey, COUNTED_INTERFACES, Clock, Counters, DropEvent, EVENTS_BYTES,
    EventLimit, KEY_BITS, LINE_BANS, Line, LineBan, LineTerms, MAX_ALLOWED, MAX_BANS, MAX_PREFIXES,
    MAX_SCOPES, PORT_COUNT, PortScopes, Scope, ScopeCounters, Settings, counters_of, halves, line_of,
    packet::{self, Frame, Packet, TCP, Target, UDP},
};

/// Preallocated, never LRU: an LRU map loses bans silently when it is full.
#[btf_map(name = "bans")]
static BANS: HashMap<BanKey, BanEntry, { MAX_BANS as usize }> = HashMap::new();

/// The agent writes it through its own mapping of this memory.
#[btf_map(name = "lines")]
static LINES: Array<Line, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The agent sets it before it loads the programs.
#[unsafe(no_mangle)]
static LINES_MASK: u32 = 0;

#[btf_map(name = "prefixes")]
static PREFIXES: LpmTrie<BanKey, BanEntry, { MAX_PREFIXES as usize }> = LpmTrie::new();

#[btf_map(name = "allowed")]
static ALLOWED: LpmTrie<BanKey, AllowEntry, { MAX_ALLOWED as usize }> = LpmTrie::new();

#[btf_map(name = "ports")]
static PORTS: Array<PortScopes, { PORT_COUNT as usize }> = Array::new();

/// Not read here: it is in the object so that the agent gets it with its type.
#[btf_map(name = "scopes")]
static SCOPES: Array<Scope, { MAX_SCOPES as usize }> = Array::new();

#[btf_map(name = "scope_counters")]
static SCOPE_COUNTERS: PerCpuArray<ScopeCounters, { MAX_SCOPES as usize }> = PerCpuArray::new();

#[btf_map(name = "counters")]
static COUNTERS: PerCpuArray<Counters, { COUNTED_INTERFACES as usize }> = PerCpuArray::new();

#[btf_map(name = "settings")]
static SETTINGS: Array<Settings, 1> = Array::new();

/// Of [`DropEvent`]s: the type is not in the definition, because libbpf reads a value's size out of it, and a ring
/// buffer has none.
#[btf_map(name = "events")]
static EVENTS: RingBuf<(), { EVENTS_BYTES as usize }> = RingBuf::new();

#[btf_map(name = "event_limit")]
static EVENT_LIMIT: PerCpuArray<EventLimit, 1> = PerCpuArray::new();

#[btf_map(name = "clock")]
static CLOCK: PerCpuArray<Clock, 1> = PerCpuArray::new();

/// The begin of a frame that does not lie where the programs can read it.
#[btf_map(name = "headers")]
static HEADERS: PerCpuArray<[u8; HEADERS_BYTES as usize], 1> = PerCpuArray::new();

/// Ethernet, two VLAN tags, the longest IPv4 header or IPv6, and ports.
const HEADERS_BYTES: u32 = 128;
/// What Ethernet pads every frame to.
const SHORTEST_FRAME: u32 = 60;
/// Ethernet and IPv4: where there is less, the frame may be elsewhere.
const LEAST_BYTES: u32 = 34;

/// tc: leave the packet to the next filter.
const TC_NEXT: i32 = -1;
/// tc: drop it.
const TC_SHOT: i32 = 2;
/// How much of a packet must lie in one piece for tc: all headers that are ever looked at, and some.
const TC_HEADERS: u32 = 256;

const ALL_PORTS_MASK: u64 = 1 << ALL_PORTS;
const SECOND_NS: u64 = 1_000_000_000;

/// What happens to a frame, and why: the names of the [`Counters`].
#[derive(Clone, Copy, Eq, PartialEq)]
enum Verdict {
    Passed,
    Dropped,
    Lapsed,
    OtherPorts,
    Allowed,
    NotIp,
    Malformed,
}

/// Where a frame was seen.
#[derive(Clone, Copy)]
struct Arrival {
    ifindex: u32,
    /// The whole frame's length.
    bytes: u32,
}

#[xdp(frags)]
fn f2b(ctx: XdpContext) -> u32 {
    let (mut start, mut end, mut is_copy) = (ctx.data(), ctx.data_end(), false);
    // Some drivers leave the whole frame in the other buffers (mlx5, when its frames are large).
    if start + LEAST_BYTES as usize > end
        && let Some((headers, length)) = gather(&ctx)
    {
        (start, end, is_copy) = (headers, headers + length, true);
    }
    // Of nearly every frame it is known what the kernel would say.
    let length = |packet: &Packet<'_>| match packet.is_in_sight() {
        true => (end - start) as u32,
        // SAFETY: a helper that reads the length of this program's own frame.
        false => unsafe { bpf_xdp_get_buff_len(ctx.ctx) as u32 },
    };
    xdp_verdict(&ctx, start, end, is_copy, length)
}

/// Copies the begin of a frame in several buffers; where to, and how much.
#[inline(always)]
fn gather(ctx: &XdpContext) -> Option<(usize, usize)> {
    let headers = HEADERS.get_ptr_mut(0)?;
    // Lengths that the verifier knows, because it loses sight of bounds.
    for length in [HEADERS_BYTES, SHORTEST_FRAME] {
        // SAFETY: a helper that writes so many bytes, if there are as many, to a place that has room for them.
        if unsafe { bpf_xdp_load_bytes(ctx.ctx, 0, headers.cast(), length) } == 0 {
            return Some((headers.addr(), length as usize));
        }
    }
    None
}

#[xdp]
fn f2b_linear(ctx: XdpContext) -> u32 {
    let (start, end) = (ctx.data(), ctx.data_end());
    xdp_verdict(&ctx, start, end, false, |_| (end - start) as u32)
}

#[classifier]
fn f2b_tc(ctx: TcContext) -> i32 {
    let length = ctx.len();
    // Headers may lie apart from each other here. Ours to gather: a frame that cannot be read passes.
    if ctx.data() + TC_HEADERS as usize > ctx.data_end() && ctx.data() + length as usize > ctx.data_end() {
        let wanted = if length < TC_HEADERS { length } else { TC_HEADERS };
        // If memory is short, the frame is judged by what there is of it.
        let _pulled = ctx.pull_data(wanted);
    }
    // SAFETY: the kernel gives the program a context that is valid while it runs.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: the kernel gives the program a frame that is readable from `data` to `data_end`.
    let frame = unsafe { packet::read(ctx.data(), ctx.data_end(), false) };
    let verdict = judge(frame, ifindex, |_| length);
    if verdict == Verdict::Dropped { TC_SHOT } else { TC_NEXT }
}

#[inline(always)]
fn xdp_verdict(
    ctx: &XdpContext,
    start: usize,
    end: usize,
    is_copy: bool,
    length: impl Fn(&Packet<'_>) -> u32,
) -> u32 {
    let ifindex = ctx.ingress_ifindex() as u32;
    // SAFETY: the kernel gives the program a frame that is readable from `data` to `data_end`; a copy is as long as is said.
    let frame = unsafe { packet::read(start, end, is_copy) };
    let verdict = judge(frame, ifindex, length);
    if verdict == Verdict::Dropped { XDP_DROP } else { XDP_PASS }
}

/// Decides about a frame and counts it: the one exit.
#[inline(always)]
fn judge(frame: Frame<'_>, ifindex: u32, length: impl Fn(&Packet<'_>) -> u32) -> Verdict {
    let verdict = match frame {
        Frame::Ip(packet) => judge_packet(&packet, ifindex, length),
        Frame::NotIp => Verdict::NotIp,
        Frame::Malformed => Verdict::Malformed,
    };
    count(verdict, ifindex);
    verdict
}

#[inline(always)]
fn judge_packet(packet: &Packet<'_>, ifindex: u32, length: impl Fn(&Packet<'_>) -> u32) -> Verdict {
    // The one entry is always there; the verifier wants to be sure.
    let Some(settings) = SETTINGS.get(0) else {
        return Verdict::Passed;
    };
    let ask = match look_in_line(packet, settings) {
        Known::Banned { ban, scope, now_ns } => {
            if let Some(verdict) = judge_by_line(packet, settings, ban, scope, now_ns, ifindex, &length) {
                return verdict;
            }
            true
        }
        Known::Maybe => true,
        Known::Free => false,
    };
    let host = if ask { BANS.get_ptr_mut(packet.source) } else { None };
    if host.is_none() && settings.prefixes == 0 {
        return Verdict::Passed;
    }
    judge_banned(packet, settings, host, ifindex, length)
}

/// What a line says of a source.
enum Known {
    Banned {
        ban: *mut LineBan,
        scope: u32,
        now_ns: u64,
    },
    /// The hash table must be asked.
    Maybe,
    /// No ban of this address.
    Free,
}

#[inline(always)]
fn look_in_line(packet: &Packet<'_>, settings: &Settings) -> Known {
    // SAFETY: a constant of the program. Volatile, because the compiler must not take what is written here for it.
    let mask = unsafe { (&raw const LINES_MASK).read_volatile() };
    if mask == 0 || settings.by_hand != 0 {
        return Known::Maybe;
    }
    let Some(addr) = packet.v4() else {
        return Known::Maybe;
    };
    let Some(line) = LINES.get_ptr_mut(line_of(addr, mask)) else {
        return Known::Maybe;
    };
    let bans = line.cast::<LineBan>();
    // Without jumps, or the verifier would look at all that follows once for each place.
    let (mut found, mut place, mut own, mut all) = (0, 0, 0, 0);
    for number in 0..LINE_BANS {
        // SAFETY: a line has so many bans.
        let ban = unsafe { bans.add(number) };
        // SAFETY: a ban begins with an aligned word, which the agent writes whole. Volatile, because it writes meanwhile.
        let word = unsafe { ban.cast::<u64>().read_volatile() };
        let (this, terms) = halves(word);
        let is_it = one_if_zero(this ^ addr);
        found |= is_it;
        place |= number as u64 * is_it;
        own |= u64::from(terms) * is_it;
        all |= terms;
    }
    if found == 0 {
        return if LineTerms::from_bits(all).spills { Known::Maybe } else { Known::Free };
    }
    let LineTerms { ends, scope, .. } = LineTerms::from_bits(own as u32);
    let now_ns = clock_ns();
    if now_ns >> LineTerms::SHIFT >= u64::from(ends) {
        // It is over, or will be soon; or a line cannot say it.
        return Known::Maybe;
    }
    // SAFETY: one of those looked at.
    let ban = unsafe { bans.add(place as usize % LINE_BANS) };
    Known::Banned { ban, scope, now_ns }
}

/// The rest of the way by the line alone, apart from [`judge_banned`], so that the verifier has no IPv6 header to walk here;
/// `None` if another ban may cover the packet, or cover it before this one. Lines have no bans of what is allowed.
#[inline(always)]
fn judge_by_line(
    packet: &Packet<'_>,
    settings: &Settings,
    ban: *mut LineBan,
    scope: u32,
    now_ns: u64,
    ifindex: u32,
    length: impl Fn(&Packet<'_>) -> u32,
) -> Option<Verdict> {
    if scope != ALL_PORTS && settings.prefixes != 0 {
        return None;
    }
    let (hit, protocol, port) = covered(packet, 1 << scope);
    if hit == 0 {
        return None;
    }
    // SAFETY: a place in a map's value, valid while the program runs and aligned to eight bytes.
    let packets = unsafe { &raw mut (*ban).packets };
    // SAFETY: as above.
    unsafe { increment(packets, 1) };
    let arrival = Arrival { ifindex, bytes: length(packet) };
    tell(packet, settings, arrival, scope, protocol, port, now_ns);
    Some(Verdict::Dropped)
}

/// 1 for 0, else 0. A mask of all ones or none would do as well, but newer verifiers look at both of its cases apart.
#[inline(always)]
fn one_if_zero(number: u32) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut one = u64::from(number);
        // SAFETY: arithmetic on a register. In Rust it would be compiled into a jump.
        unsafe {
            core::arch::asm!("{one} += -1", "{one} >>= 63", one = inout(reg) one, options(pure, nomem, nostack));
        }
        one
    }
    // Never runs: only for the linter, which checks this program on the host.
    #[cfg(not(target_arch = "bpf"))]
    u64::from(number == 0)
}

/// The rest of the way, for a source that may be banned.
#[inline(always)]
fn judge_banned(
    packet: &Packet<'_>,
    settings: &Settings,
    host: Option<*mut BanEntry>,
    ifindex: u32,
    length: impl Fn(&Packet<'_>) -> u32,
) -> Verdict {
    let now_ns = clock_ns();
    let host_ban = known(host);
    let by_host = scopes_at(host, now_ns);
    // A ban of everything needs no second one.
    let prefix = if settings.prefixes == 0 || by_host & ALL_PORTS_MASK != 0 {
        None
    } else {
        let prefix = PREFIXES.get(&Key::new(KEY_BITS, packet.source));
        prefix.map(|entry| core::ptr::from_ref(entry).cast_mut())
    };
    if host.is_none() && prefix.is_none() {
        return Verdict::Passed;
    }
    let prefix_ban = known(prefix);
    let by_prefix = scopes_at(prefix, now_ns);
    let banned = by_host | by_prefix;
    if banned == 0 {
        return Verdict::Lapsed;
    }
    let (hit, protocol, port) = covered(packet, banned);
    if hit == 0 {
        return Verdict::OtherPorts;
    }
    if settings.allowed != 0 && is_allowed(packet.source) {
        return Verdict::Allowed;
    }
    let ban = if by_host & hit != 0 { host_ban } else { prefix_ban };
    if !ban.is_null() {
        note_drop(ban, now_ns);
    }
    let arrival = Arrival { ifindex, bytes: length(packet) };
    tell(packet, settings, arrival, hit.trailing_zeros(), protocol, port, now_ns);
    Verdict::Dropped
}

/// The pointer, or null: kernels before 6.8 do not see that a discriminant and its pointer belong together, and those
/// before 6.3 refuse to read what was never written, as the pointer of a `None` is.
#[inline(always)]
fn known(entry: Option<*mut BanEntry>) -> *mut BanEntry {
    let pointer = entry.unwrap_or_else(core::ptr::null_mut);
    #[cfg(target_arch = "bpf")]
    let pointer = {
        let mut pointer = pointer;
        // SAFETY: it moves a register to itself, so that the compiler writes the pointer here, not where it is used.
        unsafe {
            core::arch::asm!("{pointer} = {pointer}", pointer = inout(reg) pointer, options(nomem, nostack));
        }
        pointer
    };
    pointer
}

/// Counts a dropped packet in its scope, and reports it if that is asked for.
#[inline(always)]
fn tell(
    packet: &Packet<'_>,
    settings: &Settings,
    arrival: Arrival,
    scope: u32,
    protocol: u8,
    port: u16,
    now_ns: u64,
) {
    count_scope(scope, arrival);
    if settings.events_per_second != 0 && may_report(settings, now_ns) {
        report(packet.source, arrival, scope, protocol, port, now_ns);
    }
}

/// The kernel's coarse clock, as of this CPU's last timer tick.
#[inline(always)]
fn clock_ns() -> u64 {
    // SAFETY: a helper without arguments that reads a number.
    let tick = unsafe { bpf_jiffies64() };
    let Some(clock) = CLOCK.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own copy, and programs on one hook do not preempt each other on a CPU.
    let clock = unsafe { &mut *clock };
    if clock.tick != tick {
        // SAFETY: a helper without arguments that reads the clock.
        *clock = Clock { tick, ns: unsafe { bpf_ktime_get_coarse_ns() } };
    }
    clock.ns
}

/// What `ban` bans now.
#[inline(always)]
fn scopes_at(ban: Option<*mut BanEntry>, now_ns: u64) -> u64 {
    match ban {
        // SAFETY: a pointer that the map returned stays valid while the program runs; slots are only read, and each of
        // their fields is written whole.
        Some(ban) => unsafe { &*ban }.scopes_at(now_ns),
        None => 0,
    }
}

/// Which of the `banned` scopes have this packet; and its protocol and port, if they were looked at.
#[inline(always)]
fn covered(packet: &Packet<'_>, banned: u64) -> (u64, u8, u16) {
    if banned & ALL_PORTS_MASK != 0 {
        return (ALL_PORTS_MASK, 0, 0);
    }
    let (protocol, port) = match packet.target() {
        Target::Tcp(port) => (TCP, port),
        Target::Udp(port) => (UDP, port),
        Target::Portless => return (0, 0, 0),
        Target::Hidden => return (banned, 0, 0),
    };
    let Some(scopes) = PORTS.get(u32::from(port)) else {
        return (0, protocol, port);
    };
    let scopes = if protocol == TCP { scopes.tcp } else { scopes.udp };
    (banned & scopes, protocol, port)
}

/// Whether the allow list has `source`; counted there if it has.
#[inline(always)]
fn is_allowed(source: BanKey) -> bool {
    let Some(entry) = ALLOWED.get(&Key::new(KEY_BITS, source)) else {
        return false;
    };
    let packets = (&raw const entry.packets).cast_mut();
    // SAFETY: a place in a map's value, which the kernel lets programs write, aligned to eight bytes.
    unsafe { increment(packets, 1) };
    true
}

/// Counts a dropped packet in its ban.
#[inline(always)]
fn note_drop(ban: *mut BanEntry, now_ns: u64) {
    // SAFETY: valid while the program runs and aligned to eight bytes, as map values are.
    let packets = unsafe { &raw mut (*ban).packets };
    // SAFETY: as above.
    unsafe { increment(packets, 1) };
    // SAFETY: as above; CPUs that write at once write the same moment.
    unsafe { (*ban).last_ns = now_ns };
}

#[inline(always)]
fn count_scope(scope: u32, arrival: Arrival) {
    if let Some(counters) = SCOPE_COUNTERS.get_ptr_mut(scope) {
        // SAFETY: this CPU's own copy, and programs on one hook do not preempt each other on a CPU.
        let counters = unsafe { &mut *counters };
        counters.packets += 1;
        counters.bytes += u64::from(arrival.bytes);
    }
}

/// Whether this CPU may report one more drop this second.
#[inline(always)]
fn may_report(settings: &Settings, now_ns: u64) -> bool {
    let Some(limit) = EVENT_LIMIT.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own copy, as above.
    let limit = unsafe { &mut *limit };
    if now_ns - limit.since_ns >= SECOND_NS {
        *limit = EventLimit { since_ns: now_ns, events: 0 };
    }
    limit.events += 1;
    limit.events <= u64::from(settings.events_per_second)
}

#[inline(always)]
fn report(source: BanKey, arrival: Arrival, scope: u32, protocol: u8, port: u16, time_ns: u64) {
    // A full buffer has no room: then nobody reads, and nothing is lost but a sample.
    let Some(mut event) = EVENTS.reserve_untyped::<DropEvent>(0) else {
        return;
    };
    let Arrival { ifindex, bytes } = arrival;
    event.write(DropEvent { time_ns, addr: source.addr, ifindex, bytes, scope, port, protocol, reserved: 0 });
    event.submit(0);
}

/// Adds to a number that other CPUs add to at the same time.
///
/// The BPF target has no compare-and-swap, so Rust offers no `fetch_add` there; the instruction itself exists.
///
/// # Safety
/// `number` must be valid and aligned.
#[inline(always)]
unsafe fn increment(number: *mut u64, by: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: one atomic addition to a place that the caller vouches for.
    unsafe {
        core::arch::asm!("lock *(u64 *)({number} + 0) += {by}", number = in(reg) number, by = in(reg) by);
    }
    // Never runs: only for the linter, which checks this program on the host.
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        *number += by;
    }
}

/// Counts a verdict, so that the counters always add up to the frames seen.
#[inline(always)]
fn count(verdict: Verdict, ifindex: u32) {
    let Some(counters) = COUNTERS.get_ptr_mut(counters_of(ifindex)) else {
        return;
    };
    // SAFETY: this CPU's own copy, and programs on one hook do not preempt each other on a CPU.
    let counters = unsafe { &mut *counters };
    match verdict {
        Verdict::Passed => counters.passed += 1,
        Verdict::Dropped => counters.dropped += 1,
        Verdict::Lapsed => counters.lapsed += 1,
        Verdict::OtherPorts => counters.other_ports += 1,
        Verdict::Allowed => counters.allowed += 1,
        Verdict::NotIp => counters.not_ip += 1,
        Verdict::Malformed => counters.malformed += 1,
    }
}

/// The kernel lets only GPL-compatible programs call some helpers; "Dual MIT/GPL" is one it knows.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
