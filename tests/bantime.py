"""Asks the real fail2ban how long it bans.

Run with PYTHONPATH pointing to the unpacked package.
    python3 bantime.py formulas COUNT   formulas made by chance, and what Python makes of them
    python3 bantime.py failures         from stdin: {"options": {…}, "failures": [[time, jail, ip], …]}; prints the bans
                                        that changed at each failure, a line each: {"jail ip": end or null, …}
"""

import json
import math
import random
import sys

from fail2ban.server.database import Fail2BanDb
from fail2ban.server.ipdns import IPAddr
from fail2ban.server.jail import Jail
from fail2ban.server.mytime import MyTime
from fail2ban.server.observer import ObserverThread, Observers
from fail2ban.server.ticket import BanTicket


class Ban:
    Time, Count = 600, 3


def formulas(count):
    dice = random.Random(1)
    for _ in range(count):
        text = conditional(dice, 4)
        try:
            result = eval(text, {"math": math, "random": random}, {"ban": Ban, "banFactor": 1.5})
        except (ArithmeticError, ValueError, TypeError, SyntaxError) as error:
            result = error
        kind = "float" if isinstance(result, float) else type(result).__name__
        print(json.dumps({"formula": text, "kind": kind, "result": str(result)}))


def conditional(dice, depth):
    if depth > 0 and dice.random() < 0.1:
        parts = [conditional(dice, depth - 1) for _ in range(3)]
        return "%s if %s else %s" % tuple("(%s)" % part if " if " in part else part for part in parts)
    return operand(dice, depth)


def operand(dice, depth):
    kind = dice.random()
    if depth == 0 or kind < 0.2:
        return dice.choice([
            "ban.Time", "ban.Count", "banFactor", "0", "1", "2", "3", "7", "20", "-1", "0.5", "2.5", "1e3", "True", "False",
            "math.pi", "0x1f", "1_000", "10", ".25", "3.", "math.e", "(2)", "5e-1", "00", "12345678901234567890",
        ])
    sub = lambda: operand(dice, depth - 1)
    if kind < 0.6:
        operator = dice.choice(["+", "-", "*", "/", "//", "%", "&", "|", "^", "+", "*", "-"])
        return sub() + dice.choice(["", " ", "  "]) + operator + dice.choice(["", " "]) + sub()
    if kind < 0.65:
        return "%s %s %s" % (sub(), dice.choice(["<<", ">>"]), dice.choice(["1", "3", "ban.Count", "0", "20", "70"]))
    if kind < 0.7:
        # No roots of negative numbers: ours has no complex ones, and no ban lasts so long.
        base = dice.choice(["2", "ban.Count", "1.5", "-2", "(-3)", "10", "0"])
        exponents = ["2", "3", "-1", "ban.Count", "-2", "0", "20", "2 ** 2"] + ["0.5"] * (base != "(-3)")
        return "%s ** %s" % (base, dice.choice(exponents))
    if kind < 0.78:
        return "%s %s %s" % (sub(), dice.choice(["<", "<=", "==", "!=", ">", ">=", "and", "or"]), sub())
    if kind < 0.8:
        return "(%s) < (%s) <= (%s)" % (sub(), sub(), sub())
    if kind < 0.86:
        return dice.choice(["-", "+", "~", "not ", "- -"]) + sub()
    if kind < 0.9:
        return "(%s)" % conditional(dice, depth - 1)
    one = ["abs", "int", "float", "round", "bool", "math.exp", "math.sqrt", "math.log", "math.log10", "math.floor",
           "math.ceil", "math.sin", "math.atan", "math.log2", "math.fabs", "math.trunc", "math.log1p", "math.tanh"]
    two = ["max", "min", "math.pow", "math.fmod", "math.hypot", "math.atan2", "round", "math.copysign", "math.log"]
    if dice.random() < 0.6:
        return "%s(%s)" % (dice.choice(one), conditional(dice, depth - 1))
    function = dice.choice(two)
    second = dice.choice(["0", "1", "2", "-1", "-2"]) if function == "round" else conditional(dice, depth - 1)
    return "%s(%s, %s)" % (function, conditional(dice, depth - 1), second)


class Observer(ObserverThread):
    """Does at once what the real one does in a thread of its own."""

    def add(self, event, *args):
        getattr(self, event)(*args)

    def add_timer(self, *args):
        pass


def failures():
    Observers.Main = Observer()
    for line in sys.stdin:
        case = json.loads(line)
        db = Fail2BanDb(":memory:")
        jails = {}
        for name in sorted({jail for _, jail, _ in case["failures"]}):
            jail = jails[name] = Jail(name, "polling", db)
            db.addJail(jail)
            jail.isAlive = lambda: True
            for option, value in case["options"].items():
                if option.startswith("bantime."):
                    jail.setBanTimeExtra(option[len("bantime."):], value)
            jail.filter.setMaxRetry(int(case["options"]["maxretry"]))
            jail.filter.setFindTime(case["options"]["findtime"])
            jail.actions.setBanTime(case["options"]["bantime"])
            jail.filter.ignoreSelf = False
        known = {}
        for time, name, ip in case["failures"]:
            MyTime.setTime(time)
            for jail in jails.values():
                jail.actions._Actions__checkUnBan(1000000)
                jail.filter.performSvc(force=True)
            jail = jails[name]
            jail.filter.processLine = lambda line, date: [(None, IPAddr(ip), time, {"matches": [line]})]
            jail.filter.processLineAndAdd("%s failed" % ip, time)
            jail.actions._Actions__checkBan()
            bans = {}
            for other, jail in jails.items():
                for ticket in jail.actions.banManager:
                    end = ticket.getEndOfBanTime(jail.actions.getBanTime())
                    bans["%s %s" % (other, ticket.getID())] = None if end == BanTicket.MAX_TIME else end
            changed = {key: end for key, end in bans.items() if known.get(key, 0) != end}
            changed.update((key, 0) for key in known if key not in bans)
            known = bans
            print(json.dumps(changed, sort_keys=True))


if sys.argv[1] == "formulas":
    formulas(int(sys.argv[2]))
else:
    failures()
