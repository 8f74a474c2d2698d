"""Runs the real fail2ban-regex many times in one go.

Run with PYTHONPATH pointing to the unpacked package:  python3 regex.py NOW
The clock stands at NOW. Reads one JSON list of arguments per line from stdin; prints one
JSON object per line: the exit status, and what it printed. Each run is a process of its own, forked after the import.
"""

import json
import logging  # noqa: F401  before the clock is replaced: it keeps the function by which it dates lines
import os
import sys
import tempfile
import time

NOW = float(sys.argv[1])
local_time = time.localtime
time.time = lambda: NOW
time.localtime = lambda seconds=None: local_time(NOW if seconds is None else seconds)

from fail2ban.client import fail2banregex  # noqa: E402
from fail2ban.server.mytime import MyTime  # noqa: E402

MyTime.setTime(NOW)


def run(arguments):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdout = open(1, "w", encoding="UTF-8", closefd=False)
            sys.stderr = open(2, "w", encoding="UTF-8", closefd=False)
            sys.argv = ["fail2ban-regex", *arguments]
            status = 0
            try:
                fail2banregex.exec_command_line()
            except SystemExit as end:
                status = end.code or 0
            except BaseException as error:
                print("Traceback: %r" % error, file=sys.stderr)
                status = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        err.seek(0)
        return {"status": status, "out": out.read().decode("UTF-8", "replace"),
                "err": err.read().decode("UTF-8", "replace")}


for line in sys.stdin:
    print(json.dumps(run(json.loads(line))), flush=True)
