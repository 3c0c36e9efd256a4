"""
The reconciler on the master: it brings nodes that join, or come back, to work
==============================================================================

Configured by ``engines: [vcore_reconcile: {}]``. It hears of nodes in two ways: a file
``<state>/reconcile/dirty/<name>`` that enrolment leaves, and a minion's start event. It relies upon neither: every five
minutes, and at its own start, it looks at all nodes.
"""

import datetime
import logging
import time

import salt.utils.event
from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.errors import Busy, VcoreError
    from vcore.base.paths import Paths
    from vcore.nodes import decisions, rounds
    from vcore.nodes.master import Master

log = logging.getLogger(__name__)

#: Seconds between two looks at the marks; after an error that nobody thought of; after a configuration with a mistake.
TICK, PAUSE, AGAIN = 0.5, 5.0, 30.0
#: Seconds after the master's start until the first look at all nodes.
SETTLE = 5.0


def start(quiet=2.0, most=15.0, every=300.0):
    """
    Run for ever.

    quiet
        Seconds without news of another node after which a round begins.

    most
        Seconds that a round waits for that at most.

    every
        Seconds between rounds that nothing asked for.
    """
    engine = _Engine(decisions.Bell(float(quiet), float(most), float(every)))
    while True:
        try:
            with salt.utils.event.get_event("master", opts=__opts__, listen=True) as bus:
                while True:
                    engine.hear(bus.get_event(wait=TICK, full=True, auto_reconnect=True))
                    engine.turn()
        except Exception:
            log.exception("The reconciler goes on after an error")
            time.sleep(PAUSE)


class _Engine:
    def __init__(self, bell):
        # A master that starts waits for its minions to find it again.
        self.bell = bell
        self.bell.looked = time.monotonic() - self.bell.every + SETTLE
        self.paths = Paths.from_opts(__opts__)
        self.seen = {}
        self.state = decisions.load(self.paths)
        self.again = None

    def hear(self, event):
        """Note what an event says: a minion has started, or has answered to a job of an earlier round."""
        if not event:
            return
        name = event["data"].get("id") if isinstance(event["data"], dict) else None
        if not isinstance(name, str):
            return
        # The master has put the id there, the one of the key; the tag may be anything that a minion likes.
        if event["tag"] == f"salt/minion/{name}/start" and decisions.is_news(self.state, name, _when(event["data"])):
            decisions.mark(self.paths, [name])
        flight = self.state.flights.get(name)
        if flight and event["tag"] == f"salt/job/{flight.jid}/ret/{name}":
            self.bell.heard(time.monotonic())

    def turn(self):
        """Begin a round when it is time for one."""
        now = time.monotonic()
        marks = decisions.marks(self.paths)
        if any(self.seen.get(name) != stamp for name, stamp in marks.items()):
            self.bell.heard(now)
        self.seen = marks
        due = decisions.next_due(self.state)
        due = self.again if due is None else now + due - time.time()
        if not self.bell.rings(now, due):
            return
        full = self.bell.looks(now) or self.again is not None
        self.again = None
        try:
            result = rounds.run(self.paths, Master(__opts__), full=full)
            log.log(
                logging.WARNING if rounds.is_news(result) else logging.INFO, "Reconciler: %s", rounds.summary(result)
            )
        except Busy:
            self.bell.heard(time.monotonic())
            return
        except VcoreError as error:
            log.error("Reconciler: %s", error)
            self.again = time.monotonic() + AGAIN
        finally:
            self.state = decisions.load(self.paths)
        self.bell.rang(time.monotonic(), full=full)


def _when(data):
    """The time of an event in seconds since 1970; Salt writes it in UTC."""
    try:
        return datetime.datetime.fromisoformat(data["_stamp"]).replace(tzinfo=datetime.UTC).timestamp()
    except (KeyError, TypeError, ValueError):
        return time.time()
