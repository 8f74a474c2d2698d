//! Everything a user would pick to drop packets, set up in a lab each as its manual says or as fail2ban does it.
//!
//! Rivals get the benefit of the doubt: sets are given their size, and rules DROP where fail2ban's default, REJECT,
//! would also answer every packet.

use std::{fmt::Write as _, fs, net::Ipv4Addr};

use aya::{
    Ebpf, EbpfLoader,
    maps::HashMap,
    programs::{SchedClassifier, TcAttachType, Xdp, XdpMode},
};
use f2b::xdp::{Lines, OBJECT};
use f2b_ebpf::{ALL_PORTS, BANS, BanEntry, BanKey, FOREVER, LINES, Slot};

use super::{
    flood::{FIRST_BANNED, Sources},
    frame::SERVER_PORT,
    programs::{self, DROP, Frags},
};
use crate::lab::{Host, Lab};

/// Who drops the packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// No firewall: every packet goes up to the service.
    Nothing,
    BareDrop,
    F2bNative,
    F2bGeneric,
    F2bTc,
    XdpFilter,
    NftIngress,
    NftPrerouting,
    /// The chain and the set of fail2ban's `nftables-multiport`.
    NftInput,
    /// The rule and the set of fail2ban's `iptables-ipset-proto6`.
    Ipset,
    /// A rule for each ban, in a chain of the jail's, as fail2ban's `iptables-multiport` does it with Debian's
    /// `iptables`, which hands them to nftables.
    Iptables,
    /// The same with the `iptables` of old.
    IptablesLegacy,
}

/// A contender, holding so many bans.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    pub(crate) bans: u32,
}

/// What lets go of the kernel when it is dropped.
pub(crate) type Hold = Option<Ebpf>;

impl Contender {
    /// Everyone who takes part.
    pub(crate) fn all() -> Vec<Self> {
        const SETS: &[u32] = &[1_000, 100_000, 1_000_000];
        let parts: &[(Kind, &[u32])] = &[
            (Kind::BareDrop, &[0]),
            (Kind::F2bNative, SETS),
            (Kind::F2bGeneric, SETS),
            (Kind::F2bTc, SETS),
            // Its map has room for ten thousand.
            (Kind::XdpFilter, &[1_000]),
            (Kind::NftIngress, SETS),
            (Kind::NftPrerouting, SETS),
            (Kind::NftInput, SETS),
            (Kind::Ipset, SETS),
            (Kind::Iptables, &[100, 1_000, 8_000]),
            (Kind::IptablesLegacy, &[8_000]),
            (Kind::Nothing, &[0]),
        ];
        let all = parts.iter().flat_map(|(kind, bans)| bans.iter().map(|&bans| Self { kind: *kind, bans }));
        all.collect()
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Nothing => "no firewall",
            Kind::BareDrop => "bare XDP_DROP",
            Kind::F2bNative => "f2b native",
            Kind::F2bGeneric => "f2b generic",
            Kind::F2bTc => "f2b tc",
            Kind::XdpFilter => "xdp-filter",
            Kind::NftIngress => "nft set, ingress",
            Kind::NftPrerouting => "nft set, prerouting",
            Kind::NftInput => "nft set, as fail2ban",
            Kind::Ipset => "ipset, as fail2ban",
            Kind::Iptables => "iptables, as fail2ban",
            Kind::IptablesLegacy => "iptables-legacy, the same",
        }
    }

    /// One banned source: of rules in a row, the one in the middle.
    pub(crate) fn hot(&self) -> Sources {
        let first = u32::from(FIRST_BANNED) + self.bans / 2;
        Sources { first: first.into(), count: 1 }
    }

    /// All banned sources, in random order.
    pub(crate) fn cold(&self) -> Sources {
        Sources { first: FIRST_BANNED, count: self.bans.max(1) }
    }

    /// Whether packets of the banned are kept out.
    pub(crate) fn protects(&self) -> bool {
        self.kind != Kind::Nothing
    }

    /// Puts it in front of the server, with its bans.
    pub(crate) fn set_up(&self, lab: &Lab) -> Hold {
        // Without XDP in its driver a veth has no receive path of its own to measure, unless GRO is on.
        let gro = lab.server("ethtool").args(["-K", "eth0", "gro", "on"]).output();
        assert!(gro.status.success(), "ethtool: {}", String::from_utf8_lossy(&gro.stderr));
        match self.kind {
            Kind::Nothing => None,
            Kind::BareDrop => {
                let mut ebpf = programs::load(DROP, Frags::No);
                attach(lab, programs::program(&mut ebpf), XdpMode::Driver);
                Some(ebpf)
            }
            Kind::F2bNative => Some(self.f2b(lab, XdpMode::Driver)),
            Kind::F2bGeneric => Some(self.f2b(lab, XdpMode::Skb)),
            Kind::F2bTc => Some(self.f2b_tc(lab)),
            Kind::XdpFilter => {
                run(lab, "xdp-filter load --mode native --features ipv4 eth0");
                let addresses: Vec<_> = self.addresses().map(|address| address.to_string()).collect();
                run(lab, &format!("for a in {}; do xdp-filter ip -m src $a; done", addresses.join(" ")));
                None
            }
            Kind::NftIngress => {
                self.nft(
                    lab,
                    "netdev",
                    "type filter hook ingress device eth0 priority 0",
                    &self.set_size(),
                    "",
                );
                None
            }
            Kind::NftPrerouting => {
                self.nft(lab, "ip", "type filter hook prerouting priority raw", &self.set_size(), "");
                None
            }
            Kind::NftInput => {
                let ports = format!("udp dport {{ {SERVER_PORT} }}");
                self.nft(lab, "inet", "type filter hook input priority -1", "", &ports);
                None
            }
            Kind::Ipset => {
                self.ipset(lab);
                None
            }
            Kind::Iptables => {
                self.iptables(lab, "iptables");
                None
            }
            Kind::IptablesLegacy => {
                self.iptables(lab, "iptables-legacy");
                None
            }
        }
    }

    fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        let first = u32::from(FIRST_BANNED);
        (first..first + self.bans).map(Ipv4Addr::from)
    }

    fn f2b(&self, lab: &Lab, mode: XdpMode) -> Ebpf {
        let mut ebpf = load_f2b(self.bans);
        let program: &mut Xdp =
            ebpf.program_mut(f2b_ebpf::PROGRAM).expect("it has it").try_into().expect("XDP");
        attach(lab, program, mode);
        ebpf
    }

    fn f2b_tc(&self, lab: &Lab) -> Ebpf {
        let mut ebpf = load_f2b(self.bans);
        let program = ebpf.program_mut(f2b_ebpf::PROGRAM_TC).expect("it has it");
        let program: &mut SchedClassifier = program.try_into().expect("it is for tc");
        program.load().expect("the verifier takes the program");
        lab.inside(Host::Server, || {
            program.attach("eth0", TcAttachType::Ingress).expect("Linux 6.6 or newer has tcx");
        });
        ebpf
    }

    fn set_size(&self) -> String {
        format!("size {};", 2 * self.bans)
    }

    /// A table with a set and the chain that drops whoever is in it.
    fn nft(&self, lab: &Lab, family: &str, hook: &str, size: &str, ports: &str) {
        let mut commands = format!(
            "table {family} f2b {{\n set banned {{ type ipv4_addr; {size} }}\n chain f2b {{ {hook};\n {ports} ip saddr @banned drop\n }}\n}}\n",
        );
        // In pieces: a netlink message with a million elements is too long.
        let addresses: Vec<_> = self.addresses().collect();
        for some in addresses.chunks(10_000) {
            let some: Vec<_> = some.iter().map(Ipv4Addr::to_string).collect();
            writeln!(commands, "add element {family} f2b banned {{ {} }}", some.join(", "))
                .expect("a String");
        }
        let file = lab.dir().join("rules.nft");
        fs::write(&file, commands).expect("the lab's directory is writable");
        run(lab, &format!("nft -f {}", file.display()));
    }

    fn ipset(&self, lab: &Lab) {
        let mut commands = format!("create f2b hash:ip hashsize {0} maxelem {0}\n", 2 * self.bans);
        for address in self.addresses() {
            writeln!(commands, "add f2b {address}").expect("a String");
        }
        let file = lab.dir().join("sets");
        fs::write(&file, commands).expect("the lab's directory is writable");
        run(lab, &format!("ipset restore <{}", file.display()));
        run(
            lab,
            &format!(
                "iptables -I INPUT -p udp -m multiport --dports {SERVER_PORT} -m set --match-set f2b src -j DROP"
            ),
        );
    }

    fn iptables(&self, lab: &Lab, command: &str) {
        let mut rules =
            format!("*filter\n:f2b - [0:0]\n-I INPUT -p udp -m multiport --dports {SERVER_PORT} -j f2b\n");
        for address in self.addresses() {
            writeln!(rules, "-A f2b -s {address} -j DROP").expect("a String");
        }
        rules.push_str("-A f2b -j RETURN\nCOMMIT\n");
        let file = lab.dir().join("rules.iptables");
        fs::write(&file, rules).expect("the lab's directory is writable");
        run(lab, &format!("{command}-restore <{}", file.display()));
    }
}

/// f2b's program and its maps, with the first `bans` addresses banned for ever.
pub(crate) fn load_f2b(bans: u32) -> Ebpf {
    let room = (2 * bans).max(f2b_ebpf::MAX_BANS);
    let mask = Lines::mask(room);
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(BANS, room);
    Lines::size(&mut loader, &mask);
    let mut ebpf = loader.load(OBJECT).expect("the kernel takes the maps");
    let mut lines = Lines::new(ebpf.map(LINES).expect("it has it")).expect("the kernel shows its memory");
    let program: &mut Xdp = ebpf.program_mut(f2b_ebpf::PROGRAM).expect("it has it").try_into().expect("XDP");
    program.load().expect("the verifier takes the program");
    let map = ebpf.map_mut(BANS).expect("it has it");
    let mut map = HashMap::<_, BanKey, BanEntry>::try_from(map).expect("bans are a hash map");
    for address in (Contender { kind: Kind::F2bNative, bans }).addresses() {
        let mut entry = BanEntry::default();
        entry.slots[0] = Slot { ends_ns: FOREVER, scopes: 1 << ALL_PORTS };
        let key = BanKey::from_v4(address.octets());
        map.insert(key, entry, 0).expect("there is room");
        lines.set(key, &entry, false);
    }
    ebpf
}

fn attach(lab: &Lab, program: &mut Xdp, mode: XdpMode) {
    lab.inside(Host::Server, || {
        program.attach("eth0", mode).expect("a veth takes XDP in both modes");
    });
}

/// Runs a line of shell on the server.
fn run(lab: &Lab, line: &str) {
    let output = lab.server("sh").args(["-ec", line]).output();
    let complaint = String::from_utf8_lossy(&output.stderr);
    let start: String = line.chars().take(200).collect();
    assert!(output.status.success(), "{start}: {}: {complaint}", output.status);
}
