# PID 1 of a lab. When its stdin ends it ends, and with it, by the kernel's hand, every process, mount, pin and
# interface of the lab. $1: the lab's directory, $2: its cgroup; both only passed on to the test.
set -eu

# This /proc is still the machine's, so the number is the one by which the test knows us.
read -r pid _ </proc/self/stat
mount -t proc proc /proc

# The kernel's file systems: our interfaces, our cgroups (`0::/system.slice/ssh.service`), our pins.
umount -l /sys
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf

# Nothing a service writes reaches the machine, and nothing of the machine's journal is seen.
for place in /run /dev /var/log /var/lib /etc/systemd; do
    mount -t tmpfs -o mode=755 lab $place
done
mkdir -p /run/systemd/journal /run/netns /run/sshd /dev/pts /dev/shm /etc/systemd/journald.conf.d

mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/zero c 1 5
mknod -m 666 /dev/full c 1 7
mknod -m 666 /dev/random c 1 8
mknod -m 666 /dev/urandom c 1 9
mknod -m 666 /dev/tty c 5 0
mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
ln -s pts/ptmx /dev/ptmx
ln -s /proc/self/fd /dev/fd
ln -s /run/systemd/journal/dev-log /dev/log

cat >/etc/systemd/journald.conf.d/zz-lab.conf <<END
[Journal]
Storage=volatile
RateLimitIntervalSec=0
RateLimitBurst=0
ForwardToSyslog=no
ForwardToKMsg=no
ForwardToConsole=no
ForwardToWall=no
ReadKMsg=no
END

# Root has no password but is not locked, whatever the machine says.
(umask 077 && echo 'root:*:19000:0:99999:7:::' >/run/shadow)
mount --bind /run/shadow /etc/shadow

# Two hosts on one wire: ours is the server, the other one is all the attackers.
quiet='
    echo 0 >/proc/sys/net/ipv4/icmp_ratelimit
    echo 0 >/proc/sys/net/ipv6/icmp/ratelimit
    echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
    ip link set lo up
'
ip netns add attackers
sh -euc "$quiet"
nsenter --net=/run/netns/attackers sh -euc "$quiet"

ip link add eth0 type veth peer name peer0 netns attackers
ip -batch - <<END
link set eth0 up
address add 198.51.100.1/24 dev eth0
address add 2001:db8:51::1/64 dev eth0 nodad
END
{
    # Up first: an IPv6 address added to an interface that is down does not always hear its neighbours' questions.
    echo 'link set peer0 up'
    for n in $(seq 2 254); do
        echo "address add 198.51.100.$n/24 dev peer0"
        printf 'address add 2001:db8:51::%x/64 dev peer0 nodad\n' "$n"
    done
} | ip -n attackers -batch -
ip route add default via 198.51.100.254
ip route add default via 2001:db8:51::fe

echo "$pid $1 $2"
# Waits for the end of stdin, while the kernel reaps the orphans.
exec env --ignore-signal=CHLD cat >/dev/null
