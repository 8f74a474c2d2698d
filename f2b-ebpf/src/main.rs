//! The kernel half: looks up every frame's source address among the bans, and drops the frame if a ban that still holds
//! covers its port. Everything else passes.
//!
//! Three programs, one decision: XDP for frames in several buffers, XDP for older kernels, and tc.

#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key},
    helpers::generated::{bpf_ktime_get_coarse_ns, bpf_xdp_get_buff_len},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use f2b_ebpf::{
    ALL_PORTS, AllowEntry, BanEntry, BanKey, COUNTED_INTERFACES, Counters, DropEvent, EVENTS_BYTES,
    EventLimit, KEY_BITS, MAX_ALLOWED, MAX_BANS, MAX_PREFIXES, MAX_SCOPES, PORT_COUNT, PortScopes, Scope,
    ScopeCounters, Settings, counters_of,
    packet::{self, Frame, Packet, TCP, Target, UDP},
};

/// Preallocated, never LRU: an LRU map loses bans silently when it is full.
#[btf_map(name = "bans")]
static BANS: HashMap<BanKey, BanEntry, { MAX_BANS as usize }> = HashMap::new();

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
    // SAFETY: a helper that reads the length of this program's own frame.
    xdp_verdict(&ctx, || unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as u32)
}

#[xdp]
fn f2b_linear(ctx: XdpContext) -> u32 {
    xdp_verdict(&ctx, || (ctx.data_end() - ctx.data()) as u32)
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
    let frame = unsafe { packet::read(ctx.data(), ctx.data_end()) };
    let verdict = judge(frame, ifindex, || length);
    if verdict == Verdict::Dropped { TC_SHOT } else { TC_NEXT }
}

#[inline(always)]
fn xdp_verdict(ctx: &XdpContext, length: impl FnOnce() -> u32) -> u32 {
    let ifindex = ctx.ingress_ifindex() as u32;
    // SAFETY: the kernel gives the program a frame that is readable from `data` to `data_end`.
    let frame = unsafe { packet::read(ctx.data(), ctx.data_end()) };
    let verdict = judge(frame, ifindex, length);
    if verdict == Verdict::Dropped { XDP_DROP } else { XDP_PASS }
}

/// Decides about a frame and counts it: the one exit.
#[inline(always)]
fn judge(frame: Frame<'_>, ifindex: u32, length: impl FnOnce() -> u32) -> Verdict {
    let verdict = match frame {
        Frame::Ip(packet) => judge_packet(&packet, ifindex, length),
        Frame::NotIp => Verdict::NotIp,
        Frame::Malformed => Verdict::Malformed,
    };
    count(verdict, ifindex);
    verdict
}

#[inline(always)]
fn judge_packet(packet: &Packet<'_>, ifindex: u32, length: impl FnOnce() -> u32) -> Verdict {
    // The one entry is always there; the verifier wants to be sure.
    let Some(settings) = SETTINGS.get(0) else {
        return Verdict::Passed;
    };
    let host = BANS.get_ptr_mut(packet.source);
    if host.is_none() && settings.prefixes == 0 {
        return Verdict::Passed;
    }
    judge_banned(packet, settings, host, ifindex, length)
}

/// The rest of the way, for a source that may be banned.
#[inline(always)]
fn judge_banned(
    packet: &Packet<'_>,
    settings: &Settings,
    host: Option<*mut BanEntry>,
    ifindex: u32,
    length: impl FnOnce() -> u32,
) -> Verdict {
    // SAFETY: a helper without arguments that reads the clock.
    let now_ns = unsafe { bpf_ktime_get_coarse_ns() };
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
    // Null pointers, not `Option`s: kernels before 6.8 do not see that a discriminant and its pointer belong together.
    let null = core::ptr::null_mut;
    let ban = if by_host & hit != 0 { host.unwrap_or_else(null) } else { prefix.unwrap_or_else(null) };
    if !ban.is_null() {
        note_drop(ban, now_ns);
    }
    let arrival = Arrival { ifindex, bytes: length() };
    let scope = hit.trailing_zeros();
    count_scope(scope, arrival);
    if settings.events_per_second != 0 && may_report(settings, now_ns) {
        report(packet.source, arrival, scope, protocol, port, now_ns);
    }
    Verdict::Dropped
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
