"""Prints, as `f2b config show --json` does, the jails that the real fail2ban sets up from a configuration directory.

Usage: jails.py DIR. fail2ban's own client reads the directory; here only its stream of commands is played back.
Exit status 1: fail2ban refuses the configuration.
"""

import json
import logging
import sys

from fail2ban.client.configurator import Configurator
from fail2ban.server.mytime import MyTime

logging.disable(logging.CRITICAL)
TIMES = ("findtime", "bantime")


def commands(directory):
    configurator = Configurator()
    configurator.Reload()
    configurator.setBaseDir(directory)
    configurator.readAll()
    if not configurator.getOptions(None, {}):
        sys.exit("no jail is left")
    configurator.convertToProtocol(allow_no_files=True)
    return configurator.getConfigStream()


def play(stream):
    jails = {}
    for command in stream:
        if command[0] == "add":
            jails[command[1]] = {"backend": command[2], "options": {}, "actions": {}}
            for option in ("failregex", "ignoreregex", "journalmatch", "logpath", "ignoreip"):
                jails[command[1]][option] = []
        elif command[0] in ("set", "multi-set") and command[1] in jails:
            apply(jails[command[1]], command[2], command[3:], command[0] == "multi-set")
    return jails


def apply(jail, option, words, multi):
    if option in ("addfailregex", "addignoreregex"):
        jail[option[3:]] += words[0] if multi else [words[0]]
    elif option == "addjournalmatch":
        jail["journalmatch"].append(" ".join(words))
    elif option == "addlogpath":
        jail["logpath"].append(words[0] if words[1] == "head" else " ".join(words))
    elif option == "addignoreip":
        jail["ignoreip"] += words
    elif option == "addaction":
        action = jail["actions"][words[0]] = {}
        if len(words) > 1:
            action["python"] = words[1]
            action.update(json.loads(words[2]))
    elif option == "action":
        properties = words[1] if multi else [words[1:]]
        jail["actions"][words[0]].update((key, value) for key, value in properties if value is not None)
    elif words[0] is not None:
        jail["options"][option] = MyTime.str2seconds(words[0]) if option in TIMES else words[0]


print(json.dumps(play(commands(sys.argv[1]))))
