//! The kernel half: looks up every frame's source address in the map of bans, and drops the frame if the ban still
//! holds. Everything else passes.

#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    btf_maps::{HashMap, PerCpuArray},
    helpers::generated::bpf_ktime_get_coarse_ns,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use aya_log_ebpf::info;
use f2b_ebpf::{
    BanEntry, BanKey, Counters, MAX_BANS,
    packet::{self, Source},
};

/// Preallocated, never LRU: an LRU map loses bans silently when it is full.
#[btf_map(name = "bans")]
static BANS: HashMap<BanKey, BanEntry, { MAX_BANS as usize }> = HashMap::new();

#[btf_map(name = "counters")]
static COUNTERS: PerCpuArray<Counters, 1> = PerCpuArray::new();

/// What happens to a frame, and why: the names of the [`Counters`].
#[derive(Clone, Copy, Eq, PartialEq)]
enum Verdict {
    Passed,
    Dropped,
    Lapsed,
    NotIp,
    Malformed,
}

#[xdp]
fn f2b(ctx: XdpContext) -> u32 {
    let verdict = judge(&ctx);
    count(verdict);
    if verdict == Verdict::Dropped { XDP_DROP } else { XDP_PASS }
}

#[inline(always)]
fn judge(ctx: &XdpContext) -> Verdict {
    // SAFETY: the kernel gives the program a frame that is readable from `data` to `data_end`.
    let key = match unsafe { packet::source(ctx.data(), ctx.data_end()) } {
        Source::Address(key) => key,
        Source::NotIp => return Verdict::NotIp,
        Source::Malformed => return Verdict::Malformed,
    };
    let Some(entry) = BANS.get_ptr_mut(key) else {
        return Verdict::Passed;
    };
    // SAFETY: a pointer that the map returned stays valid while the program runs; the end is written whole.
    let ends_ns = unsafe { (*entry).ends_ns };
    // SAFETY: a helper without arguments that reads the clock.
    let now_ns = unsafe { bpf_ktime_get_coarse_ns() };
    if now_ns >= ends_ns {
        return Verdict::Lapsed;
    }
    // SAFETY: valid as above and aligned to eight bytes, as map values are.
    let packets = unsafe { &raw mut (*entry).packets };
    // SAFETY: as above.
    unsafe { increment(packets) };
    // Compiled in, but the verifier removes it as dead code unless the agent loads the program with logging on.
    info!(ctx, "dropped a packet from {:i}", key.addr);
    Verdict::Dropped
}

/// Adds one to a number that other CPUs add to at the same time.
///
/// The BPF target has no compare-and-swap, so Rust offers no `fetch_add` there; the instruction itself exists.
///
/// # Safety
/// `number` must be valid and aligned.
#[inline(always)]
unsafe fn increment(number: *mut u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: one atomic addition to a place that the caller vouches for.
    unsafe {
        core::arch::asm!("lock *(u64 *)({number} + 0) += {one}", number = in(reg) number, one = in(reg) 1u64);
    }
    // Never runs: only for the linter, which checks this program on the host.
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        *number += 1;
    }
}

/// The one exit where a verdict is counted, so the counters always add up to the frames seen.
#[inline(always)]
fn count(verdict: Verdict) {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own copy, and XDP programs do not preempt each other on a CPU.
    let counters = unsafe { &mut *counters };
    match verdict {
        Verdict::Passed => counters.passed += 1,
        Verdict::Dropped => counters.dropped += 1,
        Verdict::Lapsed => counters.lapsed += 1,
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
