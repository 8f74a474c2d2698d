"""Prints what the real fail2ban's actions would have the shell execute.

Usage: commands.py DIR TICKETS. fail2ban's own client reads the directory; its server's own classes get the properties of
every action, and the tickets in the file TICKETS (JSON); only the execution is replaced by a record.
"""

import json
import logging
import sys

from fail2ban.client.configurator import Configurator
from fail2ban.server.action import CommandAction
from fail2ban.server.ipdns import IPAddr
from fail2ban.server.jail import Jail
from fail2ban.server.mytime import MyTime
from fail2ban.server.ticket import BanTicket

logging.disable(logging.CRITICAL)
NOW = 1700000000.25


def stream(directory):
    configurator = Configurator()
    configurator.Reload()
    configurator.setBaseDir(directory)
    configurator.readAll()
    configurator.getOptions(None, {})
    configurator.convertToProtocol(allow_no_files=True)
    return configurator.getConfigStream()


def actions(directory):
    jail, found = None, {}
    for command in stream(directory):
        if command[0] == "add":
            jail = Jail(command[1], "polling", None)
        elif command[0] in ("set", "multi-set") and command[2] == "bantime":
            jail.actions.setBanTime(command[3])
        elif command[0] in ("set", "multi-set") and command[2] == "addaction" and len(command) == 4:
            found[command[3]] = CommandAction(jail, command[3])
        elif command[0] in ("set", "multi-set") and command[2] == "action":
            pairs = command[4] if command[0] == "multi-set" else [command[4:]]
            for key, value in pairs:
                setattr(found[command[3]], key, value)
    return jail, found


def ticket(written):
    data = dict(written["fields"], failures=written["failures"])
    if written["ip"] != written["fid"]:
        data["ip"] = IPAddr(written["ip"])
    made = BanTicket(written["fid"], written["time"], matches=written["matches"], data=data)
    made.setBanTime(written["bantime"])
    made.setBanCount(written["bancount"])
    made.restored = written["restored"]
    return made


def play(jail, action, tickets):
    steps = []

    def record(command, timeout=60, **_):
        # An empty one is not executed.
        if command:
            steps[-1].append([timeout] + (command if isinstance(command, list) else [command]))
        return True

    CommandAction.executeCmd = staticmethod(record)

    def step(name, run, *args):
        steps.append([name])
        run(*args)

    step("start", action.start)
    for one in tickets:
        info = jail.actions._getActionInfo(one)
        step("ban", action.ban, info)
        if action._prolongable:
            step("prolong", action.prolong, info)
        else:
            steps.append(["prolong"])
        step("reban", action.reban, info)
        step("unban", action.unban, info)
    step("reload", action.reload)
    step("flush", action.flush)
    step("stop", action.stop)
    return steps


MyTime.setTime(NOW)
jail, found = actions(sys.argv[1])
with open(sys.argv[2], encoding="utf-8") as file:
    tickets = [ticket(written) for written in json.load(file)]
print(json.dumps({name: play(jail, action, tickets) for name, action in found.items()}))
