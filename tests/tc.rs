//! What only tc has to cope with: packets whose headers lie apart from each other, and some of which are shorter than what
//! it wants in one piece. The verdict must be that of XDP, frame by frame.

#[path = "common/mod.rs"]
mod common;
mod lab;
mod packets;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
    time::Duration,
};

use common::{PATIENCE, sh};
use f2b::xdp::OBJECT;
use f2b_ebpf::Counters;
use lab::{Host, Lab, wait_until};
use nix::net::if_::if_nametoindex;
use object::{Object as _, ObjectSection as _};
use packets::{
    Filter, Frame, Place, all_ports, combine,
    frame::{
        DESTINATION, ESP, FRAGMENT, HOP_BY_HOP, ICMPV6, ROUTING, SERVICE_VLAN, TCP, UDP, VLAN, ports, tcp,
        udp,
    },
    monotonic, slot, sum,
};

const FREE: [IpAddr; 2] = [v4(1), v6(1)];
const BANNED: [IpAddr; 2] = [v4(2), v6(2)];
/// Banned on TCP port 22.
const SSH: [IpAddr; 2] = [v4(3), v6(3)];
const HOUR: Duration = Duration::from_secs(3600);

const fn v4(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))
}

const fn v6(n: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n))
}

fn with_bans(mut filter: Filter) -> Filter {
    filter.define_tcp(1, 22);
    let end = monotonic() + HOUR;
    for (banned, ssh) in BANNED.into_iter().zip(SSH) {
        filter.ban(banned, &all_ports(end));
        filter.ban(ssh, &[slot(end, 1 << 1)]);
    }
    filter
}

/// Frames of all kinds, each a few dozen bytes long.
fn frames() -> Vec<Frame> {
    let mut frames = vec![Frame::new().ethertype(0x0806).append(&[0; 28]), Frame::new().ethertype(0x88cc)];
    for source in [FREE, BANNED, SSH].concat() {
        frames.extend([tcp(source, 22), tcp(source, 23), udp(source), Frame::new().ip(source).version(7)]);
        frames.push(Frame::new().tag(VLAN).ip(source).carrying(TCP, &ports(22, 20)));
        frames.push(Frame::new().tag(SERVICE_VLAN).tag(VLAN).ip(source).carrying(TCP, &ports(22, 20)));
        frames.push(Frame::new().ip(source).carrying(ESP, &[0; 40]));
        if source.is_ipv4() {
            for options in [4, 20, 40] {
                let frame = Frame::new().ipv4_with_options(source, &ports(22, options));
                frames.extend([22, 80].map(|port| frame.clone().carrying(TCP, &ports(port, 20))));
            }
            frames.extend([0x2000, 8].map(|field| tcp(source, 80).ipv4_fragment(field)));
            frames.push(tcp(source, 22).header_words(15));
        } else {
            for headers in
                [&[HOP_BY_HOP][..], &[HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION], &[DESTINATION; 8]]
            {
                let frame = Frame::new().ip(source);
                frames.extend([22, 80].map(|port| frame.clone().extended(headers, TCP, &ports(port, 20))));
            }
            frames.push(Frame::new().ip(source).extended(&[DESTINATION; 9], UDP, &ports(80, 8)));
            frames.push(Frame::new().ip(source).extended(&[ROUTING], ICMPV6, &[0; 8]));
        }
    }
    frames
}

#[test]
fn a_frame_that_ends_anywhere_gets_the_verdict_of_xdp() {
    let [xdp, linear, tc] = Place::ALL.map(|place| with_bans(Filter::load(place)));
    let mut judged = 0;
    for frame in frames() {
        // Up to and over what tc wants in one piece: 256 bytes.
        let mut longest = frame.clone();
        longest.0.resize(270, 0);
        // The kernel's test-run takes no skb that ends within the header that its Ethertype announces: those go over a
        // wire, below.
        let shortest = match longest.0[12..14] {
            [0x08, 0x00] => 34,
            [0x86, 0xdd] => 54,
            _ => 14,
        };
        for length in shortest..=longest.0.len() {
            let cut = longest.clone().cut(length);
            let verdict = xdp.judge(&cut);
            assert_eq!(linear.judge(&cut), verdict, "{length} bytes of {:02x?}", longest.0);
            assert_eq!(tc.judge(&cut), verdict, "{length} bytes of {:02x?}", longest.0);
            judged += 1;
        }
    }
    assert!(judged > 10_000);
}

#[test]
fn a_frame_with_its_headers_apart_gets_the_verdict_of_xdp() {
    let lab = Lab::network_only();
    // A wire on which nothing speaks by itself.
    sh(&lab, "ip link add veth7 type veth peer name veth8");
    for end in ["veth7", "veth8"] {
        sh(&lab, &format!("ip link set {end} addrgenmode none; ip link set {end} up"));
    }
    let (wire, index) = lab
        .inside(Host::Server, || (Apart::open("veth8"), if_nametoindex("veth7").expect("it was just made")));
    let xdp = with_bans(Filter::load(Place::Xdp));
    let mut tc = with_bans(Filter::load(Place::Tc));
    lab.inside(Host::Server, || tc.attach("veth7"));
    let on_the_wire = |filter: &Filter, frame: &Frame| {
        let before = filter.counters_at(index);
        wire.send(&frame.0);
        wait_until(PATIENCE, "it arrives", || filter.counters_at(index) != before);
        combine(filter.counters_at(index), before, u64::wrapping_sub)
    };
    for frame in frames() {
        // Cut anywhere behind what the kernel itself looks into, whole, and longer than what tc wants in one piece.
        let lengths = (20..frame.0.len()).step_by(7).chain([frame.0.len(), 60, 255, 256, 257, 1514]);
        for length in lengths {
            let mut frame = frame.clone();
            frame.0.resize(length, 0);
            let (_, verdict) = xdp.judge(&frame);
            assert_eq!(on_the_wire(&tc, &frame), verdict, "{:02x?}", frame.0);
        }
    }
    assert!(sum(tc.counters_at(index)) > 500);
    drop(tc);

    // They did come apart: without what tc does about it, nothing behind Ethernet is to be seen.
    let mut blind = with_bans(Filter::load_object(&without_gathering(), Place::Tc));
    lab.inside(Host::Server, || blind.attach("veth7"));
    let malformed = Counters { malformed: 1, ..Counters::default() };
    for source in [FREE, BANNED, SSH].concat() {
        assert_eq!(on_the_wire(&blind, &tcp(source, 22)), malformed);
    }
}

/// Our object with a program for tc that takes frames as they come.
fn without_gathering() -> Vec<u8> {
    /// `call bpf_skb_pull_data`, and `r0 = 0`.
    const PULL: [u8; 8] = [0x85, 0, 0, 0, 39, 0, 0, 0];
    const NOTHING: [u8; 8] = [0xb7, 0, 0, 0, 0, 0, 0, 0];
    let file = object::File::parse(OBJECT).expect("the object is ELF");
    let section = file.section_by_name("classifier").expect("it has a program for tc");
    let (start, length) = section.file_range().expect("it is in the file");
    let mut object = OBJECT.to_vec();
    let code = &mut object[start as usize..(start + length) as usize];
    let pulls: Vec<_> = code.chunks_exact_mut(8).filter(|instruction| **instruction == PULL).collect();
    assert_eq!(pulls.len(), 1);
    pulls.into_iter().for_each(|pull| pull.copy_from_slice(&NOTHING));
    object
}

/// Puts frames on a wire out of memory that the kernel shares with us: it copies Ethernet's header, and everything else
/// stays where it is, outside of the packet's linear part.
struct Apart {
    socket: OwnedFd,
    ring: *mut u8,
}

impl Apart {
    /// One frame at a time.
    const SIZE: u32 = 16 * 1024;
    /// Where its bytes begin: behind `struct tpacket2_hdr`.
    const FRAME: usize = 32;

    fn open(interface: &str) -> Self {
        let index = if_nametoindex(interface).expect("it is there");
        // SAFETY: a call without pointers.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(socket >= 0, "root may open it");
        // SAFETY: it is a new one, and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let set = |option, value: *const libc::c_void, size: usize| {
            let fd = socket.as_raw_fd();
            // SAFETY: the kernel reads `size` bytes of a value that lives longer than the call.
            let set = unsafe { libc::setsockopt(fd, libc::SOL_PACKET, option, value, size as u32) };
            assert_eq!(set, 0, "option {option}");
        };
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        set(libc::PACKET_VERSION, ptr::from_ref(&version).cast(), size_of_val(&version));
        let ring = libc::tpacket_req {
            tp_block_size: Self::SIZE,
            tp_block_nr: 1,
            tp_frame_size: Self::SIZE,
            tp_frame_nr: 1,
        };
        set(libc::PACKET_TX_RING, ptr::from_ref(&ring).cast(), size_of_val(&ring));
        // SAFETY: zeros are a valid `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        (address.sll_family, address.sll_ifindex) = (libc::AF_PACKET as u16, index as i32);
        let size = size_of_val(&address) as u32;
        // SAFETY: the kernel reads the address, as long as it is said to be.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), ptr::from_ref(&address).cast(), size) };
        assert_eq!(bound, 0, "the interface is up");
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let (length, fd) = (Self::SIZE as usize, socket.as_raw_fd());
        // SAFETY: new memory, wherever the kernel puts it.
        let ring = unsafe { libc::mmap(ptr::null_mut(), length, access, libc::MAP_SHARED, fd, 0) };
        assert_ne!(ring, libc::MAP_FAILED, "it is as long as the ring");
        Self { socket, ring: ring.cast() }
    }

    fn send(&self, frame: &[u8]) {
        assert!(frame.len() < Self::SIZE as usize - Self::FRAME);
        // SAFETY: within the ring.
        let place = unsafe { self.ring.add(Self::FRAME) };
        // SAFETY: there is room for it, and the kernel has done with the frame before: a call sends until it has.
        unsafe { place.copy_from_nonoverlapping(frame.as_ptr(), frame.len()) };
        // SAFETY: the ring begins with the header of its one frame, page-aligned, which is ours between two calls.
        let header = unsafe { &mut *self.ring.cast::<libc::tpacket2_hdr>() };
        header.tp_len = frame.len() as u32;
        header.tp_status = libc::TP_STATUS_SEND_REQUEST;
        // SAFETY: no bytes are passed.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), ptr::null(), 0, 0) };
        assert_eq!(sent, frame.len() as isize, "the kernel sends it");
    }
}

// SAFETY: whoever has it has its ring alone.
unsafe impl Send for Apart {}
