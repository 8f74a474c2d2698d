#!/usr/bin/env python3
"""Writes the journals in corpus/journal: small ones, in the ways that journald has or had, without its table of all
fields (which only writers and look-ups need), and with lists in more pieces than it would make. Needs zstd.

    fuzz/journals.py fuzz/corpus/journal
"""

import lzma
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

HEADER = 208
BEGIN = 1_700_000_000_000_000
JOURNALS = {
    "regular": {},
    "compact": {"compact": True},
    "zstd": {"compression": "zstd", "compact": True},
    "lz4": {"compression": "lz4"},
    "xz": {"compression": "xz", "compact": True},
    "chain": {"pieces": 4, "count": 12},
    "archived": {"count": 2, "state": 2},
    "long": {"count": 40, "pieces": 3, "compact": True},
}
INCOMPATIBLE = {None: 0, "xz": 1, "lz4": 2, "zstd": 8}
DATA, FIELD, ENTRY, FIELD_HASH_TABLE, ENTRY_ARRAY = 1, 2, 3, 5, 6


def compressed(text, compression):
    """An object's flag, and its text."""
    if compression == "xz":
        return 1, lzma.compress(text, check=lzma.CHECK_NONE)
    if compression == "lz4":
        # As it is, in one piece: 15 and more in bytes of up to 255.
        lengths, rest = bytearray([0xF0]), len(text) - 15
        while rest >= 255:
            lengths.append(255)
            rest -= 255
        lengths.append(rest)
        return 2, struct.pack("<Q", len(text)) + bytes(lengths) + text
    with tempfile.NamedTemporaryFile() as plain:
        # Of a file, unlike a pipe, zstd notes the length, which journalctl asks for.
        plain.write(text)
        plain.flush()
        made = subprocess.run(["zstd", "-qc", "--no-check", plain.name], stdout=subprocess.PIPE, check=True)
        return 4, made.stdout


class Journal:
    def __init__(self, compact, compression):
        self.compact, self.compression = compact, compression
        self.bytes = bytearray(HEADER)
        self.fields, self.data = {}, {}
        self.table = self.add(FIELD_HASH_TABLE, bytes(2 * 16)) + 16

    def add(self, kind, body, flags=0):
        self.bytes.extend(bytes(-len(self.bytes) % 8))
        at = len(self.bytes)
        self.bytes.extend(struct.pack("<BB6xQ", kind, flags, 16 + len(body)) + body)
        return at

    def get(self, at):
        return struct.unpack_from("<Q", self.bytes, at)[0]

    def set(self, at, number):
        struct.pack_into("<Q", self.bytes, at, number)

    def field(self, name):
        if name not in self.fields:
            at = self.add(FIELD, bytes(24) + name)
            last = self.table + 16 * (len(self.fields) % 2)
            while self.get(last):
                last = self.get(last) + 24
            self.set(last, at)
            self.fields[name] = at
        return self.fields[name]

    def value(self, text):
        if text not in self.data:
            flags, stored = compressed(text, self.compression) if self.compression and len(text) > 60 else (0, text)
            field = self.field(text.split(b"=")[0])
            head = struct.pack("<QQQQQQ", 0, 0, self.get(field + 32), 0, 0, 0) + bytes(8 if self.compact else 0)
            self.data[text] = self.add(DATA, head + stored, flags)
            self.set(field + 32, self.data[text])
        return self.data[text]

    def arrays(self, offsets, length):
        first = before = 0
        for begin in range(0, len(offsets), length):
            part = offsets[begin : begin + length]
            # The last one has room for more.
            part = part + [0] if begin + length >= len(offsets) else part
            at = self.add(ENTRY_ARRAY, bytes(8) + b"".join(map(self.offset, part)))
            if before:
                self.set(before + 16, at)
            first, before = first or at, at
        return first

    def offset(self, number):
        return struct.pack("<I" if self.compact else "<Q", number)


def journal(compact=False, compression=None, pieces=1, count=6, state=1):
    file = Journal(compact, compression)
    entries, lists = [], {}
    for number in range(count):
        unit = b"ssh.service" if number % 3 == 0 else b"cron.service"
        message = b"Failed password for root from 192.0.2.%d port 7 ssh2" % number
        message += b" and so on and on and on" if number % 2 else b""
        texts = [b"_SYSTEMD_UNIT=" + unit, b"_COMM=sshd", b"_PID=%d" % (7 + number), b"_HOSTNAME=h", b"MESSAGE=" + message]
        values = [file.value(text) for text in texts]
        items = b"".join(file.offset(value) + bytes(0 if compact else 8) for value in values)
        head = struct.pack("<QQQ", number + 1, BEGIN + number * 1000, 1000 + number) + b"\x07" * 16
        entries.append(file.add(ENTRY, head + struct.pack("<Q", number) + items))
        for value in values:
            lists.setdefault(value, []).append(entries[-1])
    for value, offsets in lists.items():
        file.set(value + 40, offsets[0])
        file.set(value + 48, file.arrays(offsets[1:], max(1, len(offsets) // pieces)))
        file.set(value + 56, len(offsets))
    array = file.arrays(entries, max(1, count // pieces))
    flags = (16 if compact else 0) | INCOMPATIBLE[compression]
    header = b"LPKSHHRH" + struct.pack("<II", 0, flags) + bytes([state]) + bytes(7)
    header += b"\x01" * 16 + b"\x02" * 16 + b"\x07" * 16 + b"\x03" * 16
    header += struct.pack("<QQQQQQ", HEADER, len(file.bytes) - HEADER, 0, 0, file.table, 32)
    header += struct.pack("<QQQQQQ", array, 0, count, count, 1, array)
    header += struct.pack("<QQQ", BEGIN, BEGIN + count * 1000, 1000 + count)
    file.bytes[: len(header)] = header
    return bytes(file.bytes)


for name, ways in JOURNALS.items():
    (Path(sys.argv[1]) / name).write_bytes(journal(**ways))
