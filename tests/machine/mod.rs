//! A machine with another kernel, emulated, with f2b and its libraries as all there is on its disk.
//!
//! The test is its other end of the wire, frame by frame, and its only user, line by line.
//!
//! Without hardware virtualisation (`-accel tcg`), so it runs anywhere; it boots in a few seconds all the same.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use tempfile::TempDir;

/// Debian's kernel for virtual machines: a metapackage that depends on the newest one.
const DEBIANS: &str = "linux-image-cloud-amd64";
/// Ubuntu's packages with the kernel that 22.04 came with, and their SHA-256: apt has no key of Ubuntu's here.
const UBUNTUS: [(&str, &str); 2] = [
    (
        "linux-signed/linux-image-5.15.0-25-generic_5.15.0-25.25_amd64.deb",
        "ad56f8c442a54d4f5ff2dff010d00321d53e32b543f3a92f3ba4e042d20a71da",
    ),
    (
        "linux/linux-modules-5.15.0-25-generic_5.15.0-25.25_amd64.deb",
        "d0ba4087d9e1d497925b3481d3531fba6c2a852855f8019d73b0b1385aa4da1f",
    ),
];
const UBUNTUS_POOL: &str = "http://archive.ubuntu.com/ubuntu/pool/main/l";
/// What the kernel has as modules, each behind those it needs. A kernel that has one built in lacks the file.
const MODULES: [&str; 10] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "sch_ingress",
    "cls_bpf",
];
/// Of the machine's `eth0`.
pub(crate) const HARDWARE_ADDRESS: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
/// Emulation on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(180);

/// Whose kernel it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kernel {
    /// The newest one of Debian 12: 6.1.
    Debian,
    /// That of Ubuntu 22.04: 5.15, the oldest that f2b supports.
    Ubuntu,
}

/// A running machine. Dropping it switches it off.
pub(crate) struct Machine {
    qemu: Child,
    console: ChildStdin,
    lines: Receiver<String>,
    /// The machine's `eth0`.
    pub(crate) wire: UnixDatagram,
    /// As `uname -r` says it.
    pub(crate) release: String,
    dir: TempDir,
}

impl Machine {
    /// Boots it with these `programs` (and their libraries) in `/bin`.
    pub(crate) fn boot(kernel: Kernel, programs: &[&Path]) -> Self {
        let packages = packages(kernel);
        let kernel = only_file(&packages.join("boot"), "vmlinuz-");
        let dir = tempfile::tempdir().expect("a directory can be made");
        let disk = disk(dir.path(), &packages, programs);
        let (host, guest) = (dir.path().join("host"), dir.path().join("guest"));
        let wire = UnixDatagram::bind(&host).expect("the path is free");
        let netdev = format!(
            "dgram,id=wire,local.type=unix,local.path={},remote.type=unix,remote.path={}",
            guest.display(),
            host.display()
        );
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-m", "768", "-nodefaults", "-no-reboot", "-display", "none"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(disk)
            .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"])
            .args(["-netdev", &netdev, "-device", "virtio-net-pci,netdev=wire,mac=52:54:00:00:00:01"])
            .arg("-serial")
            .arg(format!("file:{}", dir.path().join("boot.log").display()))
            .args(["-serial", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-system-x86_64 is installed: cargo xtask setup --tests");
        let console = qemu.stdin.take().expect("stdin is piped");
        let stdout = BufReader::new(qemu.stdout.take().expect("stdout is piped"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line.trim_end().to_owned()).is_err() {
                    break;
                }
            }
        });
        wire.connect(&guest)
            .or_else(|_| {
                thread::sleep(Duration::from_secs(1));
                wire.connect(&guest)
            })
            .expect("the machine has its end of the wire");
        let mut machine = Self { qemu, console, lines, wire, release: String::new(), dir };
        let ready = machine.read_until("@ready ");
        machine.release = ready.1;
        machine
    }

    /// Runs a line of shell in the machine, which must succeed; what it printed.
    #[track_caller]
    pub(crate) fn run(&mut self, line: &str) -> String {
        let (output, status) = self.attempt(line);
        assert_eq!(status, "0", "{line}: {output}");
        output
    }

    /// Runs a line of shell in the machine: what it printed, and its exit status.
    #[track_caller]
    pub(crate) fn attempt(&mut self, line: &str) -> (String, String) {
        writeln!(self.console, "{line}").expect("the machine is on");
        self.read_until("@end ")
    }

    /// The lines up to the one that begins with `mark`, and the rest of that one.
    #[track_caller]
    fn read_until(&mut self, mark: &str) -> (String, String) {
        let mut output = String::new();
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                let log = fs::read_to_string(self.dir.path().join("boot.log")).unwrap_or_default();
                panic!("the machine has gone silent; it said\n{output}\nand its kernel\n{log}");
            };
            // A program may have left its last line open.
            if let Some((before, rest)) = line.split_once(mark) {
                output.push_str(before);
                return (output, rest.to_owned());
            }
            output.push_str(&line);
            output.push('\n');
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.qemu.kill().expect("it is a child of ours");
        self.qemu.wait().expect("it is a child of ours");
    }
}

/// The unpacked packages of the kernel and of busybox, fetched once.
fn packages(kernel: Kernel) -> PathBuf {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name = match kernel {
        Kernel::Debian => dependency(DEBIANS),
        Kernel::Ubuntu => "ubuntu-5.15".to_owned(),
    };
    let root = scratch.join(&name);
    if !root.exists() {
        let work = tempfile::tempdir_in(scratch).expect("target/ is writable");
        let mut download = Command::new("apt-get");
        download.args(["download", "busybox-static"]).current_dir(work.path());
        match kernel {
            Kernel::Debian => drop(download.arg(&name)),
            Kernel::Ubuntu => UBUNTUS.iter().for_each(|(path, sum)| fetch(work.path(), path, sum)),
        }
        succeed(&mut download);
        let unpacked = work.path().join("root");
        for entry in
            fs::read_dir(work.path()).expect("it is there").map(|entry| entry.expect("readable").path())
        {
            succeed(Command::new("dpkg").arg("-x").arg(entry).arg(&unpacked));
        }
        if let Err(error) = fs::rename(&unpacked, &root) {
            assert!(root.exists(), "{} cannot be moved: {error}", unpacked.display());
        }
    }
    root
}

/// Fetches one of Ubuntu's packages into `dir`.
fn fetch(dir: &Path, path: &str, sum: &str) {
    let mut fetch = Command::new("/usr/lib/apt/apt-helper");
    fetch
        .args(["download-file", &format!("{UBUNTUS_POOL}/{path}")])
        .arg(dir.join(sum))
        .arg(format!("SHA256:{sum}"));
    succeed(&mut fetch);
}

/// The first package that this one depends on.
fn dependency(package: &str) -> String {
    let output = succeed(Command::new("apt-cache").args(["depends", "--important", package]));
    let name = output.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    name.unwrap_or_else(|| panic!("apt knows no {package}; run: apt-get update")).to_owned()
}

/// The machine's disk: an archive that its kernel unpacks into memory.
fn disk(dir: &Path, packages: &Path, programs: &[&Path]) -> PathBuf {
    let root = dir.join("root");
    let (bin, modules) = (root.join("bin"), root.join("modules"));
    for directory in [&bin, &modules] {
        fs::create_dir_all(directory).expect("the directory is ours");
    }
    let busybox = packages.join("bin/busybox");
    fs::copy(&busybox, bin.join("busybox")).expect("it is in the package");
    fs::write(root.join("init"), include_str!("init.sh")).expect("the directory is ours");
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).expect("it is ours");

    let found = succeed(Command::new("find").arg(packages.join("lib/modules")).args(["-name", "*.ko"]));
    for (number, name) in MODULES.iter().enumerate() {
        let file = format!("{name}.ko");
        if let Some(path) = found.lines().map(Path::new).find(|path| path.ends_with(&file)) {
            fs::copy(path, modules.join(format!("{number:02}-{file}"))).expect("the directory is ours");
        }
    }
    for program in programs {
        let name = program.file_name().expect("a program has a name");
        // Without its debug information it is a tenth as large.
        succeed(Command::new("strip").arg("-o").arg(bin.join(name)).arg(program));
        for library in libraries(program) {
            let place = root.join(library.strip_prefix("/").expect("ldd prints absolute paths"));
            fs::create_dir_all(place.parent().expect("it is in a directory")).expect("the directory is ours");
            fs::copy(&library, place).expect("ldd has found it");
        }
    }
    let archive = dir.join("disk");
    let pack = format!(
        "cd {} && find . | {} cpio -o -H newc >{}",
        root.display(),
        busybox.display(),
        archive.display()
    );
    succeed(Command::new("sh").args(["-ec", &pack]));
    archive
}

/// What the dynamic linker loads for a program, itself included.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = succeed(Command::new("ldd").arg(program));
    let words = output.split_whitespace();
    words.filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn only_file(directory: &Path, begin: &str) -> PathBuf {
    let mut entries = fs::read_dir(directory).expect("the package has it").flatten();
    let entry = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(begin));
    entry.expect("the package has it").path()
}

/// Runs a command, which must succeed; what it printed.
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
