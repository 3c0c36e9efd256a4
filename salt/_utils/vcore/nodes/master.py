"""Where the brain meets Salt's master: jobs of minions, and their keys. For the head's own processes only."""

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

#: What a node is asked to run: function, arguments, named arguments.
Call = tuple[str, Sequence[Any], Mapping[str, Any]]
#: What each function of a job has returned, by its name.
Answer = Mapping[str, Any]
#: Where the master keeps keys: accepted ones, those that wait, and others that came under a name that is taken.
KEPT = ("minions", "minions_pre", "minions_denied")
#: Seconds between two looks at the clock while nobody answers.
TICK = 0.25


class Line:
    """A connection on which minions are given jobs and answer to them."""

    def __init__(self, client: salt.client.LocalClient) -> None:
        self.client = client
        self.jobs: dict[str, tuple[set[str], Any]] = {}

    def give(self, jid: str, names: Collection[str], calls: Sequence[Call]) -> None:
        """Give these minions a job.

        Raises:
            VcoreError: the master did not take it.
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
            raise VcoreError(f"the Salt master did not take a job: {error}") from None

    def hear(self) -> tuple[str | None, Answer | None]:
        """The next answer to any job given here, (name, answer); (None, None) now and then while there is none.

        (name, None) says that a minion has started: it has not heard of its job, or lost it.
        """
        raw = self.client.event.get_event(wait=TICK, tag="salt/", full=True, auto_reconnect=True)
        data = raw["data"] if raw and isinstance(raw["data"], dict) else {}
        # The id is the one of the key, put there by the master; a tag may be anything.
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
        """The ids of all minions whose keys are accepted."""
        return set(salt.key.get_key(self.opts).list_status("accepted")["minions"])

    def key_states(self) -> dict[str, str]:
        """Each minion's key: accepted, pending, rejected or denied."""
        kinds = {
            "minions_denied": "denied",
            "minions_rejected": "rejected",
            "minions_pre": "pending",
            "minions": "accepted",
        }
        found = salt.key.get_key(self.opts).list_status("all")
        return {name: state for kind, state in kinds.items() for name in found.get(kind, [])}

    def delete_keys(self, names: Collection[str]) -> None:
        """Delete minions' keys, whatever their state; the master changes its session key: they are out."""
        salt.key.get_key(self.opts).delete_key(match_dict={state: [*names] for state in KEPT})

    def new_job(self) -> str:
        """An id for a job."""
        return str(salt.utils.jid.gen_jid(self.opts))

    def forget_files(self) -> None:
        """Have the master list its files anew, which it does every 20 seconds only: a sync would miss new ones.

        See https://github.com/saltstack/salt/issues/32128.
        """
        salt.fileserver.Fileserver(self.opts).clear_file_list_cache({})

    @contextmanager
    def listen(self) -> Iterator[Line]:
        """Give minions jobs and hear what they answer, from now on; nothing that is said meanwhile is missed."""
        with salt.client.LocalClient(mopts=self.opts) as client:
            yield Line(client)

    def gather(
        self, names: Collection[str], calls: Sequence[Call], *, wait: float, gap: float | None = None
    ) -> dict[str, Answer]:
        """Give these minions a job; what those answer that do so within ``wait`` seconds.

        With ``gap``, nobody waits longer than that after somebody's answer.
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
        """What minions have answered to a job, from the master's cache of jobs."""
        with salt.client.LocalClient(mopts=self.opts) as client:
            try:
                load = client.returners[f"{client.opts['master_job_cache']}.get_load"](jid)
                returned = client.get_cache_returns(jid)
            except SaltException:
                return {}
        return {name: _answer(entry["ret"], load.get("fun")) for name, entry in returned.items()}

    def busy(self, jid: str, names: Collection[str], *, wait: float, gap: float) -> dict[str, bool]:
        """Which of these minions still run a job; one that does not answer is missing. Waits as ``gather`` does."""
        asked = self.gather(names, [("saltutil.find_job", [jid], {})], wait=wait, gap=gap)
        return {name: bool(answer.get("saltutil.find_job")) for name, answer in asked.items()}


def _answer(value: Any, functions: Any) -> Answer:
    """What a minion returned for a job of one function, or of several; of these, one that could not run them at all
    returns words.
    """
    if isinstance(functions, str):
        return {functions: value}
    return value if isinstance(value, dict) else {"": value}
