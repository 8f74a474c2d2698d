"""Asks the real fail2ban what its filters find in its own samples.

Run with PYTHONPATH pointing to the unpacked package:  python3 filters.py CONFIG_DIR [SEED… | expressions COUNT | --given]
With seeds, the lines of each case are shuffled, doubled, cut and spoiled first, and nothing is expected of them.
With "expressions", the filters have expressions made by chance, and so are the lines.
With --given, the cases come from stdin, one JSON object a line: "filter" with options as in a jail, "now", and "lines"
of "place", "text" and "logged", the time if the line comes from a journal.
Prints one JSON object per filter and option set: what the options resolve to, the sample lines in order, and for each
line what fail2ban's server finds in it ("real") and what the sample says that it should find ("expected").
"""

import json
import logging
import os
import random
import re
import signal
import sys
import warnings

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
        self.real = Filter(None)
        self.real.returnRawHost = True
        self.real.checkFindTime = False
        self.real.active = True
        self.out = {
            "filter": name, "options": plain, "prefregex": "", "failregex": [], "ignoreregex": [],
            "maxlines": "", "datepattern": "", "lines": [],
        }
        if name is None:
            return
        reader = FilterReader(name, "jail", dict(plain), basedir=basedir)
        reader.read()
        reader.getOptions({})
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
            "place": place, "text": line, "journal": journal, "expected": expected, "undecided": "TooLong" in place or "SystemError" in place,
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


WORDS = ["\t", "\x1c", "\0", "\ufffd", "\u2028", "[", "]", "<", "%", "'", "\"", "\\", ": ", "  ", "é", "٣", "K", "ſ", "😀", "ﬁ",
         " from 203.0.113.9", " port 22", " [preauth]", "user=", "A" * 300, "x " * 700, "(" * 200, "-1", "\r"]
ADDRESSES = ["192.030.0.6", "::ffff:203.0.113.9", "[2001:db8::7]", "2001:DB8:0:0::7", "fe80::1%eth0", "203.0.113.0/24", "2001:db8::/32",
             "203.0.113.9:22", "::1", "::", "1.2.3", "256.1.1.1", "host.example.org", "_dmarc.example.org", "xn--bcher-kva.example",
             "é.example.org", "localhost", "0x7f000001", "203.0.113.9.", "2001:db8::7:22", "::203.0.113.9"]
DATES = ["2005-08-14 10:00:00 ", "Aug 14 10:00:00 ", "14/Aug/2005:10:00:00 +0200 ", "1124013600 ", "[1124013600.123] ",
         "Sun Aug 14 10:00:00 2005 ", "2005-08-14T10:00:00.123Z ", "10:00:00 ", "Feb 30 10:00:00 ", "@4000000042ff1b2f00000000 "]
ADDRESS = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9a-fA-F]{1,4}:){2,7}[0-9a-fA-F:]*|\S+\.example\.\w+")
# How long the real one may take for a line: its expressions have no bounds.
SECONDS = 2
# Ours cuts longer lines; the real one does not.
LONGEST = 8000


def spoil(dice, text, others):
    """Another line, made of this one and of those of all filters."""
    at, to = sorted((dice.randint(0, len(text)), dice.randint(0, len(text))))
    change = dice.randrange(14)
    if change == 1:
        text = text[:at] + text[to:]
    elif change == 2:
        text = text[:at] + dice.choice(WORDS) + text[at:]
    elif change == 3:
        text += dice.choice(WORDS)
    elif change == 4:
        text = text[:to]
    elif change == 5:
        text = text[:at] + text[at:to] * 2 + text[to:]
    elif change == 6:
        text = text[:at] + dice.choice(DATES) + text[at:]
    elif change == 7:
        text = dice.choice(DATES) + text
    elif change == 8:
        text = ADDRESS.sub(lambda match: dice.choice(ADDRESSES) if dice.random() < 0.7 else match.group(), text)
    elif change == 9:
        text = dice.choice(others)
    elif change == 10:
        text += " " + dice.choice(others)
    elif change == 11:
        text = text.replace(" ", "\t", dice.randint(1, 9))
    elif change == 12:
        text = text[:at] + text[at:to].swapcase() + text[to:]
    elif change == 13:
        text = text[:at] + text[at:to][::-1] + text[to:]
    while len(text.encode()) > LONGEST:
        text = text[:len(text) // 2]
    # What a file with bytes that are no UTF-8 looks like, and a line end ends the line.
    return text.replace("\n", " ")


class TooLong(Exception):
    pass


def too_long(*_):
    raise TooLong


def spoiled(case, name, basedir, seed, others):
    """The case anew, with other lines made of its own."""
    dice = random.Random("%s %s %s" % (seed, name, case.out["options"]))
    lines = case.out["lines"] * 3
    dice.shuffle(lines)
    options = {**case.options, **case.out["options"]}
    other = Case(name, basedir, options)
    signal.signal(signal.SIGALRM, too_long)
    for line in lines:
        text = spoil(dice, line["text"], others)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        other.line("%s, spoiled" % line["place"], text, None)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return other


class Maker:
    """Expressions made by chance, of all that Python's syntax has."""

    CHARS = "aAbB1_ -.éÉ٣ßK\tſ"

    def __init__(self, seed):
        self.dice = random.Random("expression %s" % seed)

    def expression(self):
        # The first one is the user's.
        self.groups = 1
        self.closed = []
        return self.alternation(2)

    def alternation(self, depth):
        return "|".join(self.sequence(depth) for _ in range(self.dice.choice([1, 1, 1, 2])))

    def sequence(self, depth):
        return "".join(self.repeated(depth) for _ in range(self.dice.randint(0 if depth < 2 else 1, 3)))

    def repeated(self, depth):
        if self.dice.random() < 0.1:
            return self.dice.choice(["^", "$", r"\b", r"\B", r"\A", r"\Z", "(?m:^)", "(?m:$)", "(?#x)"]) \
                + self.dice.choice([""] * 20 + ["*", "?"])
        count = self.dice.choice([""] * 10 + ["*", "+", "?", "*", "+", "?", "{2}", "{1,3}", "{,2}", "{2,}", "{"])
        atom = self.atom(depth)
        # Python before 3.11.5 goes wrong where a group is repeated possessively (its issue 106052).
        kinds = ["", "", "?"] if atom.endswith(")") else ["", "", "?", "+"]
        return atom + count + (self.dice.choice(kinds) if count else "")

    def atom(self, depth):
        kind = self.dice.randrange(10 if depth else 4)
        if kind < 2:
            return re.escape(self.char()) if self.dice.random() < 0.8 else self.char()
        if kind == 2:
            return self.dice.choice([".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", r"\x41", r"\u00e9", r"\101", r"\t"])
        if kind == 3:
            return self.set()
        if kind == 4:
            self.groups += 1
            number = self.groups
            name = "?P<g%d>" % number if self.dice.random() < 0.5 else ""
            group = "(%s%s)" % (name, self.alternation(depth - 1))
            self.closed.append(number)
            return group
        if kind == 5 and self.closed:
            # Of a condition inside of its own group, Python forgets to undo what it tried.
            way = self.dice.choice([r"(?:\%d)", "(?P=g%d)", r"(?i:\%d)", "(?(%%d)%s|%s)" % (self.char().strip(".-"), "b")])
            return way % self.dice.choice(self.closed)
        start = self.dice.choice(["(?:"] * 4 + ["(?i:", "(?s:", "(?-i:", "(?x:", "(?>", "(?=", "(?!", "(?<=", "(?<!"])
        inner = self.atom(0) + self.atom(0) if start.startswith("(?<") else self.alternation(depth - 1)
        return start + inner + ")"

    def set(self):
        items = [self.dice.choice([self.char(), "a-b", "A-é", r"\d", r"\w", r"\S", r"\W", "]", "[", "^", r"\]", r"\b", "0-9"])
                 for _ in range(self.dice.randint(1, 3))]
        return "[%s%s]" % (self.dice.choice(["", "", "^"]), "".join(items))

    def char(self):
        return self.dice.choice(self.CHARS)

    def line(self):
        return "".join(self.char() for _ in range(self.dice.randint(0, 10))) + "!"


def made(seed):
    """A filter with an expression made by chance, or that it is refused; and what it finds."""
    maker = Maker(seed)
    case = Case(None, None, {"logtype": "journal"})
    case.out.update(filter="made", seed=seed, failregex=["<F-USER>%s</F-USER>.*<F-ID>!</F-ID>" % maker.expression()])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.real.addFailRegex(case.out["failregex"][0])
    except Exception as error:
        return {**case.out, "refused": str(error)}
    signal.signal(signal.SIGALRM, too_long)
    for number in range(30):
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        case.line(str(number), maker.line(), None)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return case.out


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
    logging.disable(logging.CRITICAL)
    setUpMyTime()
    config = sys.argv[1]
    seeds = sys.argv[2:]
    if seeds[:1] == ["--given"]:
        for case in given(config):
            print(json.dumps(case.out))
        return
    if seeds[:1] == ["expressions"]:
        for number in range(int(seeds[1])):
            print(json.dumps(made(str(number))))
        return
    cases = []
    for basedir, wanted in ((config, lambda name: not name.endswith("common")),
                            (OWN_CONFIG, lambda name: name.startswith("zzz-"))):
        names = (name[:-5] for name in os.listdir(os.path.join(basedir, "filter.d")) if name.endswith(".conf"))
        for name in sorted(filter(wanted, names)):
            if os.path.exists(os.path.join(SAMPLES, name)):
                cases += ((case, name, basedir) for case in samples(name, basedir))
    others = [line["text"] for case, _, _ in cases for line in case.out["lines"]]
    if not seeds:
        for case, _, _ in cases:
            print(json.dumps(case.out))
    for seed in seeds:
        for case, name, basedir in cases:
            print(json.dumps({**spoiled(case, name, basedir, seed, others).out, "seed": seed}))


main()
