"""Asks the real fail2ban what its filters find in its own samples.

Run with PYTHONPATH pointing to the unpacked package:  python3 filters.py CONFIG_DIR [SEED | --given]
With a seed, the lines of each case are shuffled, doubled, cut and spoiled first, and nothing is expected of them.
With --given, the cases come from stdin, one JSON object a line: "filter" with options as in a jail, "now", and "lines"
of "place", "text" and "logged", the time if the line comes from a journal.
Prints one JSON object per filter and option set: what the options resolve to, the sample lines in order, and for each
line what fail2ban's server finds in it ("real") and what the sample says that it should find ("expected").
"""

import json
import os
import random
import re
import sys

import fail2ban.tests as tests
from fail2ban.client.filterreader import FilterReader
from fail2ban.helpers import extractOptions
from fail2ban.server.filter import FileContainer, Filter
from fail2ban.server.mytime import MyTime
from fail2ban.tests.utils import TEST_NOW, setUpMyTime

DIRECTIVE = re.compile(r"^#+ ?(failJSON|fileOptions|filterOptions|addFILE):(.+)$")
SAMPLES = os.path.join(os.path.dirname(tests.__file__), "files", "logs")
OWN_CONFIG = os.path.join(os.path.dirname(tests.__file__), "config")


class Case:
    """One filter with one set of options, in the real fail2ban and as it resolves."""

    def __init__(self, name, basedir, options):
        self.options = options
        plain = {k: v for k, v in options.items() if not k.startswith("test.")}
        reader = FilterReader(name, "jail", dict(plain), basedir=basedir)
        reader.read()
        reader.getOptions({})
        self.real = Filter(None)
        self.real.returnRawHost = True
        self.real.checkFindTime = False
        self.real.active = True
        self.out = {
            "filter": name, "options": plain, "prefregex": "", "failregex": [], "ignoreregex": [],
            "maxlines": "", "datepattern": "", "lines": [],
        }
        for entry in reader.convert():
            option, values = entry[2], entry[3] if entry[0] == "multi-set" else [entry[3]]
            for value in values:
                self.set(option, value)

    def set(self, option, value):
        if option == "prefregex":
            self.real.prefRegex = value
            self.out["prefregex"] = value
        elif option == "addfailregex":
            self.real.addFailRegex(value)
            self.out["failregex"].append(value)
        elif option == "addignoreregex":
            self.real.addIgnoreRegex(value)
            self.out["ignoreregex"].append(value)
        elif option == "maxlines":
            self.real.setMaxLines(value)
            self.out["maxlines"] = str(value)
        elif option == "datepattern":
            self.real.setDatePattern(value)
            self.out["datepattern"] = value

    def line(self, place, line, expected, logged=None):
        if self.options.get("logtype") == "journal":
            logged = TEST_NOW
        journal = logged is not None
        try:
            found = self.real.processLine(("", "2005-08-14T10:00:00", line), logged) if journal \
                else self.real.processLine(line)
        except Exception as error:  # the server logs it and goes on with the next line
            found, place = [], "%s (%r)" % (place, error)
        self.out["lines"].append({
            "place": place, "text": line, "journal": journal, "expected": expected,
            "real": [answer(*failure) for failure in found if failure[1] is not None],
        })


def answer(_, fid, time, data):
    ip = data.get("ip", fid)
    user = data.get("user")
    return {"fid": str(fid), "ip": str(ip), "time": time, "user": user if user is None else str(user),
            "nofail": bool(data.get("nofail"))}


def samples(name, basedir):
    """The cases of one filter, in the order in which fail2ban's own test feeds them."""
    cases, current, common = {}, None, {}
    files, ignored = [name], False
    for file in files:
        log = FileContainer(os.path.join(SAMPLES, file), "UTF-8", doOpen=True)
        log.waitForLineEnd = False
        number = 0
        lines = iter(log)
        ignored = False
        for line in lines:
            number += 1
            directive = DIRECTIVE.match(line)
            expected = None
            if directive:
                kind, value = directive.group(1), json.loads(directive.group(2))
                if kind == "fileOptions":
                    common = value
                    continue
                if kind == "addFILE":
                    files.append(value)
                    continue
                if kind == "filterOptions":
                    current, ignored = [], False
                    for options in value if isinstance(value, list) else [value]:
                        options = {**common, **options}
                        if options.get("test.condition"):
                            ignored = not eval(options["test.condition"])
                        if not ignored:
                            plain = {k: v for k, v in options.items() if not k.startswith("test.")}
                            key = options.get("test.filter-name") or json.dumps(plain, sort_keys=True)
                            if key not in cases:
                                cases[key] = Case(name, basedir, options)
                            current.append((cases[key], options))
                    continue
                expected = value
                line = next(lines)
                number += 1
            elif ignored or line.startswith("#") or not line.strip():
                continue
            if ignored:
                continue
            if not current:
                cases.setdefault("", Case(name, basedir, {}))
                current = [(cases[""], {})]
            line = line.rstrip("\r\n")
            for case, opts in current:
                if expected and expected.get("constraint") and not eval(expected["constraint"]):
                    continue
                if opts.get("logtype") == "journal" and opts.get("test.prefix-line"):
                    line = opts["test.prefix-line"] + line
                case.options = opts
                case.line("%s:%d" % (file, number), line, expected)
    return cases.values()


HOSTILE = ["\t", "\x1c", "[", "]", "<", "%", "'", "\"", "\\", " from 203.0.113.9", " port 22", "é", "\u2028", "٣", "K", "  ",
           "2005-08-14 10:00:00 ", "192.030.0.6", "::ffff:203.0.113.9", "A" * 300, ": ", " [preauth]"]


def spoiled(case, name, basedir, seed):
    """The case anew, with other lines made of its own."""
    dice = random.Random("%s %s %s" % (seed, name, case.out["options"]))
    lines = case.out["lines"] * 3
    dice.shuffle(lines)
    options = {**case.options, **case.out["options"]}
    other = Case(name, basedir, options)
    for line in lines:
        text = line["text"]
        at, to = sorted((dice.randint(0, len(text)), dice.randint(0, len(text))))
        change = dice.randrange(6)
        if change == 1:
            text = text[:at] + text[to:]
        elif change == 2:
            text = text[:at] + dice.choice(HOSTILE) + text[at:]
        elif change == 3:
            text = text + dice.choice(HOSTILE)
        elif change == 4:
            text = text[:to]
        elif change == 5:
            text = text[:at] + text[at:to] * 2 + text[to:]
        other.line("%s, spoiled" % line["place"], text, None)
    return other


def given(basedir):
    for text in sys.stdin:
        wanted = json.loads(text)
        MyTime.setTime(wanted["now"])
        name, options = extractOptions(wanted["filter"])
        case = Case(name, basedir, options or {})
        for line in wanted["lines"]:
            case.line(line["place"], line["text"], None, line["logged"])
        yield case


def main():
    setUpMyTime()
    config = sys.argv[1]
    seed = sys.argv[2] if len(sys.argv) > 2 else None
    if seed == "--given":
        for case in given(config):
            print(json.dumps(case.out))
        return
    for basedir, wanted in ((config, lambda name: not name.endswith("common")),
                            (OWN_CONFIG, lambda name: name.startswith("zzz-"))):
        names = (name[:-5] for name in os.listdir(os.path.join(basedir, "filter.d")) if name.endswith(".conf"))
        for name in sorted(filter(wanted, names)):
            if not os.path.exists(os.path.join(SAMPLES, name)):
                continue
            for case in samples(name, basedir):
                print(json.dumps(spoiled(case, name, basedir, seed).out if seed else case.out))


main()
