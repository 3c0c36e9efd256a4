"""Use Salt's master: give jobs to minions, and manage their keys. For processes on the head only."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import salt.client
import salt.fileserver
import salt.key
import salt.utils.event
import salt.utils.jid
from salt.exceptions import SaltException

from ..base.errors import VcoreError
from ..base.messages import tr
from .jobs import Answer, Call

#: The master's names for accepted keys, pending keys, and keys refused because their minion's name has another key.
KEPT = ("minions", "minions_pre", "minions_denied")
#: Seconds to wait for an event before giving callers a chance to check their deadline.
TICK = 0.25


class Line:
    """A connection that gives jobs to minions and hears their answers."""

    def __init__(self, client: salt.client.LocalClient) -> None:
        self.client = client
        self.jobs: dict[str, tuple[set[str], Any]] = {}

    def give(self, jid: str, names: Collection[str], calls: Sequence[Call]) -> None:
        """Give these minions a job, which they run as ``calls`` in order.

        Raises:
            VcoreError: the master did not accept the job.
        """
        functions: Any = [function for function, _, _ in calls]
        arguments: list[Any] = [
            [*positional, *([{**named, "__kwarg__": True}] if named else [])] for _, positional, named in calls
        ]
        if len(calls) == 1:
            functions, arguments = functions[0], arguments[0]
        self.jobs[jid] = set(names), functions
        try:
            self.client.run_job(sorted(names), functions, arguments, "list", jid=jid, listen=True)
        except SaltException as error:
            raise VcoreError(tr("the Salt master did not take a job: {error}", error=error)) from None

    def hear(self) -> tuple[str | None, Answer | None]:
        """Return the next answer to any job given here as (name, answer); (None, None) after ``TICK`` without one.

        (name, None) means that a minion has just started, so it has not received its job or has lost it.
        """
        raw = self.client.event.get_event(wait=TICK, tag="salt/", full=True, auto_reconnect=True)
        data = raw["data"] if raw and isinstance(raw["data"], dict) else {}
        # The master sets the id, from the minion's key; the tag may be anything.
        name = data.get("id")
        for jid, (names, functions) in self.jobs.items():
            if name in names and raw["tag"] == f"salt/job/{jid}/ret/{name}" and "return" in data:
                return name, _answer(data["return"], functions)
            if name in names and raw["tag"] == f"salt/minion/{name}/start":
                return name, None
        return None, None


class Master:
    """The master of this host, from its ``__opts__``."""

    def __init__(self, opts: Mapping[str, Any]) -> None:
        self.opts = dict(opts)

    def accepted(self) -> set[str]:
        """Return the ids of all minions whose keys are accepted."""
        return set(salt.key.get_key(self.opts).list_status("accepted")["minions"])

    def key_states(self) -> dict[str, str]:
        """Return the state of each minion's key, by id: accepted, pending, rejected or denied."""
        kinds = {
            "minions_denied": "denied",
            "minions_rejected": "rejected",
            "minions_pre": "pending",
            "minions": "accepted",
        }
        found = salt.key.get_key(self.opts).list_status("all")
        return {name: state for kind, state in kinds.items() for name in found.get(kind, [])}

    def delete_keys(self, names: Collection[str]) -> None:
        """Delete minions' keys, except rejected ones; the master then changes its session key, which shuts them out."""
        salt.key.get_key(self.opts).delete_key(match_dict={state: [*names] for state in KEPT})

    def new_job(self) -> str:
        """Return an id for a new job."""
        return str(salt.utils.jid.gen_jid(self.opts))

    def forget_files(self) -> None:
        """Make the master list its files anew: it does so every 20 seconds only, and a sync would miss new files.

        See https://github.com/saltstack/salt/issues/32128.
        """
        salt.fileserver.Fileserver(self.opts).clear_file_list_cache({})

    @contextmanager
    def listen(self) -> Iterator[Line]:
        """Open a :class:`Line`, on which no answer from now on is missed."""
        with salt.client.LocalClient(mopts=self.opts) as client:
            yield Line(client)

    def gather(
        self, names: Collection[str], calls: Sequence[Call], *, wait: float, gap: float | None = None
    ) -> dict[str, Answer]:
        """Give these minions a job and return the answers that come within ``wait`` seconds, by minion.

        With ``gap``, it also returns when that many seconds have passed since the last answer.

        Raises:
            VcoreError: the master did not accept the job.
        """
        answers: dict[str, Answer] = {}
        if not names:
            return answers
        end = time.monotonic() + wait
        with self.listen() as line:
            line.give(self.new_job(), names, calls)
            while len(answers) < len(names) and time.monotonic() < end:
                name, answer = line.hear()
                if name and answer is not None:
                    answers[name] = answer
                    end = min(end, time.monotonic() + gap) if gap is not None else end
        return answers

    def returned(self, jid: str) -> dict[str, Answer]:
        """Return what minions have answered to a job, by minion, from the master's job cache."""
        with salt.client.LocalClient(mopts=self.opts) as client:
            try:
                load = client.returners[f"{client.opts['master_job_cache']}.get_load"](jid)
                returned = client.get_cache_returns(jid)
            except SaltException:
                return {}
        return {name: _answer(entry["ret"], load.get("fun")) for name, entry in returned.items()}

    def busy(self, jid: str, names: Collection[str], *, wait: float, gap: float) -> dict[str, bool]:
        """Return whether each of these minions still runs a job; those that do not answer are missing.

        ``wait`` and ``gap`` are those of :meth:`gather`.
        """
        asked = self.gather(names, [("saltutil.find_job", [jid], {})], wait=wait, gap=gap)
        return {name: bool(answer.get("saltutil.find_job")) for name, answer in asked.items()}


def _answer(value: Any, functions: Any) -> Answer:
    """Return a minion's answer to a job by function; under ``""`` its words, if it could not run several functions."""
    if isinstance(functions, str):
        return {functions: value}
    return value if isinstance(value, dict) else {"": value}
