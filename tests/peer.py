"""The real fail2ban reads a corpus, tick by tick, under a clock that the corpus sets.

Run with PYTHONPATH pointing to the unpacked package:  python3 peer.py DIR CORPUS
DIR is a configuration directory whose jails read files in it; their names are also given in CORPUS, whose first line is
{"jails": [[jail, file], …]}, the last of them recidive, which reads what the others ban. Every other line is a tick, see
tests/peer/corpus.rs. Prints a line for each tick: [[kind, jail, ip, end of the ban or null], …].

The jails, filters, ban managers, the database and the observer are the real ones, set up by the real client from DIR;
only their threads do not run: each line is followed at once by what the threads would do a moment later.

In four points it is made to do what f2b promises, and what it does not; without them it would have other bans, for these
reasons and no others:
- FAILURES: it forgets the failures it has counted when it stops. f2b goes on from them.
- PROLONGED: it does not store that a ban was prolonged, and a restart ends the ban early; and also if it has been
  prolonged beyond bantime.maxtime.
- LIVE: after a start, it takes the next lines of a file for late ones, though it has been read to its end.
- EXACT: its database has whole seconds, and a restart moves the end of a ban by up to half a second.
"""

import json
import logging
import os
import sys
import time

from fail2ban.client.configurator import Configurator
from fail2ban.server.mytime import MyTime
from fail2ban.server.observer import ObserverThread, Observers
from fail2ban.server.server import Server
from fail2ban.server.ticket import BanTicket
from fail2ban.server.transmitter import Transmitter


class Fatal(logging.Handler):
    """An error that it only logs would make it another fail2ban."""

    def emit(self, record):
        sys.stderr.write(self.format(record) + "\n")
        os._exit(1)


class Observer(ObserverThread):
    """Does at once what the real one does in a thread of its own."""

    def add(self, event, *args):
        getattr(self, event)(*args)

    def add_timer(self, *args):
        pass


class Recorder:
    """Stands where an action would."""

    _prolongable = False
    banEpoch = 0

    def __init__(self, peer, jail):
        self.peer, self.jail = peer, jail

    def ban(self, info):
        if not self.peer.is_restoring:
            self.peer.tell("ban", self.jail, info["fid"])

    def unban(self, info):
        self.peer.tell("unban", self.jail, info["fid"])


class Peer:
    def __init__(self, directory, jails):
        self.dir, self.jails = directory, jails
        self.events, self.tickets, self.failures, self.exact = [], {}, {}, {}
        configurator = Configurator()
        configurator.Reload()
        configurator.setBaseDir(directory)
        configurator.readAll()
        assert configurator.getOptions(None, {})
        configurator.convertToProtocol(allow_no_files=True)
        self.stream = configurator.getConfigStream()
        self.start()

    def start(self):
        self.server = Server(daemon=False)
        transmitter = Transmitter(self.server)
        for command in self.stream:
            database = command[0] == "set" and command[1].startswith("db")
            jail = command[0] in ("add", "set", "multi-set") and any(command[1] == name for name, _ in self.jails)
            action = len(command) > 2 and command[2] in ("addaction", "action")
            if (database or jail) and not action:
                status, answer = transmitter.proceed(command)
                assert status == 0, (command, answer)
        self.is_restoring = True
        for name, _ in self.jails:
            self.begin(name, self.server._Server__jails[name])
        self.is_restoring = False

    def jail(self, name):
        return self.server._Server__jails[name]

    def begin(self, name, jail):
        jail.isAlive = lambda: True
        jail.filter.active = True
        jail.actions._actions["record"] = Recorder(self, name)
        process, add = jail.filter.processLineAndAdd, jail.actions.banManager.addBanTicket

        def process_and_ban(line, date=None):
            process(line, date)
            jail.actions._Actions__checkBan()

        def add_ticket(ticket, reason={}):
            added = add(ticket, reason=reason)
            known = reason.get("ticket") or ticket
            if not reason.get("expired"):
                self.tickets[name, str(known.getID())] = known
            if reason.get("prolong"):
                self.tell("prolong", name, known.getID())
                # PROLONGED
                begin, length = known.getTime(), known.getBanTime(jail.actions.getBanTime())
                if not jail.getBanTimeExtra("increment"):
                    # At a start, no ban is longer than the jail's.
                    begin, length = begin + length - jail.actions.getBanTime(), jail.actions.getBanTime()
                change = "UPDATE bips SET timeofban = ?, bantime = ? WHERE jail = ? AND ip = ?"
                jail.database._db.execute(change, (int(round(begin)), length, name, str(known.getID())))
                jail.database._db.commit()
            return added

        jail.filter.processLineAndAdd, jail.actions.banManager.addBanTicket = process_and_ban, add_ticket
        # FAILURES
        jail.filter.failManager._FailManager__failList = self.failures.get(name, {})
        # PROLONGED
        jail.restoreCurrentBans(correctBanTime=False)
        # It takes ten at a time.
        while jail.hasFailTickets:
            jail.actions._Actions__checkBan()
        for ticket in jail.actions.banManager:
            # EXACT
            time, bantime = self.exact[name, str(ticket.getID())]
            ticket.setTime(time)
            ticket.setBanTime(bantime)

    def stop(self):
        self.exact = {(name, str(ticket.getID())): (ticket.getTime(), ticket.getBanTime())
                      for name, _ in self.jails for ticket in self.jail(name).actions.banManager}
        for name, _ in self.jails:
            jail = self.jail(name)
            self.failures[name] = jail.filter.failManager._FailManager__failList
            jail.filter.onStop()
        self.jail(self.jails[0][0]).database.close()

    def tell(self, kind, jail, ip):
        ticket, end = self.tickets.get((jail, str(ip))), None
        if kind != "unban":
            end = ticket.getEndOfBanTime(self.jail(jail).actions.getBanTime())
            end = None if end == BanTicket.MAX_TIME else end
        self.events.append([kind, jail, str(ip), end])

    def write(self, file, lines):
        with open(os.path.join(self.dir, file), "a") as log:
            log.write("".join(line + "\n" for line in lines))

    def read(self, name, file):
        jail, path = self.jail(name), os.path.join(self.dir, file)
        jail.filter.getFailures(path)
        # LIVE
        jail.filter.getLog(path).inOperation = True

    def rotate(self, file, by_rename):
        path = os.path.join(self.dir, file)
        if by_rename:
            os.rename(path, path + ".1")
            open(path, "w").close()
        else:
            with open(path) as log, open(path + ".1", "w") as copy:
                copy.write(log.read())
            os.truncate(path, 0)

    def tick(self, tick):
        self.events = []
        MyTime.setTime(tick["now"])
        for number, (_, file) in enumerate(self.jails):
            lines = [line for at, line in tick["lines"] if at == number]
            if lines:
                self.write(file, lines)
        if tick["kind"] == "Down":
            return
        if tick["kind"] == "Start":
            self.stop()
            self.start()
        for name, _ in self.jails:
            jail = self.jail(name)
            jail.actions._Actions__checkUnBan(1 << 30)
            jail.filter.performSvc(force=True)
        if tick["purge"]:
            jail.database.purge()
        for name, file in self.jails[:-1]:
            self.read(name, file)
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(tick["now"]))
        bans = ["%s,000 fail2ban.actions        [1]: NOTICE  [%s] Ban %s" % (date, jail, ip)
                for kind, jail, ip, _ in self.events if kind == "ban"]
        name, file = self.jails[-1]
        self.write(file, bans)
        self.read(name, file)
        if tick["kind"] == "Start":
            for name, _ in self.jails:
                for ticket in self.jail(name).actions.banManager:
                    self.tell("held", name, ticket.getID())
        for number, by_rename in tick["rotate"]:
            self.rotate(self.jails[number][1], by_rename)
            self.read(*self.jails[number])


def main():
    directory, corpus = sys.argv[1:]
    logging.getLogger("fail2ban").addHandler(Fatal(logging.ERROR))
    logging.getLogger("fail2ban").setLevel(logging.ERROR)
    Observers.Main = Observer()
    with open(corpus) as ticks:
        first = json.loads(next(ticks))
        MyTime.setTime(first["now"])
        peer = Peer(directory, first["jails"])
        for name, file in first["jails"]:
            peer.read(name, file)
        for line in ticks:
            peer.tick(json.loads(line))
            print(json.dumps(peer.events))


main()
