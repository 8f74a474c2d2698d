"""The real fail2ban's side of the filter benchmark: answers requests on stdin, so that both sides take turns.

Run with PYTHONPATH pointing to the unpacked package:  python3 filter.py CONFIG_DIR
Request:  FILTER LOGTYPE FILE    (one line per log line in FILE; `journal`: the time is known, `file`: it is searched for)
Answer:   SECONDS FAILURES
"""

import sys
import time

from fail2ban.client.filterreader import FilterReader
from fail2ban.server.filter import Filter

NOW = "2026-11-24T06:00:00"


def resolve(config, name, logtype):
    reader = FilterReader(name, "jail", {"logtype": logtype}, basedir=config)
    reader.read()
    reader.getOptions({})
    judge = Filter(None)
    judge.returnRawHost = True
    judge.checkFindTime = False
    judge.active = True
    for entry in reader.convert():
        option, values = entry[2], entry[3] if entry[0] == "multi-set" else [entry[3]]
        for value in values:
            if option == "prefregex":
                judge.prefRegex = value
            elif option == "addfailregex":
                judge.addFailRegex(value)
            elif option == "addignoreregex":
                judge.addIgnoreRegex(value)
            elif option == "maxlines":
                judge.setMaxLines(value)
            elif option == "datepattern":
                judge.setDatePattern(value)
    return judge


def main():
    for request in sys.stdin:
        name, logtype, path = request.split()
        judge = resolve(sys.argv[1], name, logtype)
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")[:-1]
        failures = 0
        start = time.perf_counter()
        if logtype == "journal":
            for line in lines:
                failures += len(judge.processLine(("", NOW, line), 1795500000.0))
        else:
            for line in lines:
                failures += len(judge.processLine(line))
        print(time.perf_counter() - start, failures, flush=True)


main()
