#!/bin/busybox sh
# PID 1 of the emulated machine: makes it one with an eth0, then obeys the test, line by line, on the second serial port.
/bin/busybox --install -s /bin
mkdir -p /dev /proc /sys /tmp /run /var/lib
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmp /tmp
for module in /modules/*; do
    insmod "$module"
done
ip link set lo up
ip link set eth0 up
ip address add 192.0.2.1/24 dev eth0

stty -F /dev/ttyS1 raw -echo
exec </dev/ttyS1 >/dev/ttyS1 2>&1
echo "@ready $(uname -r)"
while read -r line; do
    eval "$line" </dev/null
    echo "@end $?"
done
poweroff -f
