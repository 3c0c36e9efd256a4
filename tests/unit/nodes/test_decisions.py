"""What the reconciler decides: when a round begins, for which nodes, and what it believes of a node's words."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cost import least_seconds
from vcore.base.errors import NotFound, VcoreError
from vcore.base.paths import Paths
from vcore.nodes import decisions, overview
from vcore.nodes.decisions import Bell, Facts, Flight, Record, State


@pytest.fixture
def paths(tmp_path):
    return Paths(tmp_path / "checkout", tmp_path / "configuration", tmp_path / "state")


# --- back-off -------------------------------------------------------------------------------------------------------


def test_tries_come_after_5_seconds_doubling_to_5_minutes():
    assert [decisions.back_off(attempt) for attempt in range(1, 9)] == [5, 10, 20, 40, 80, 160, 300, 300]


@given(st.integers(min_value=0, max_value=10**9))
def test_a_back_off_never_shrinks_and_stays_in_its_bounds(attempts):
    assert 5 <= decisions.back_off(attempts) <= decisions.back_off(attempts + 1) <= 300


@given(st.lists(st.booleans(), max_size=30))
def test_a_record_counts_failures_since_the_last_success(outcomes):
    record, now = Record(), 1000.0
    for well in outcomes:
        now += 1
        record = record.went_well(now) if well else record.failed("no", now)
    failures = len(outcomes) - 1 - outcomes[::-1].index(True) if True in outcomes else -1
    since = len(outcomes) - 1 - failures
    assert record.attempts == since
    assert (record.next is None) == (since == 0)
    assert (record.error is None) == (since == 0)


# --- when -----------------------------------------------------------------------------------------------------------


def rounds(times, until, bell, step=0.1):
    """Return the times at which a bell rings, for news at these times."""
    bell.looked = bell.ran = 0.0
    news, rung, now = sorted(times), [], 0.0
    while now < until:
        now = round(now + step, 6)
        while news and news[0] <= now:
            news.pop(0)
            bell.heard(now)
        if bell.rings(now):
            rung.append(now)
            bell.rang(now, full=False)
    return rung


def test_a_burst_of_news_is_one_round_two_seconds_after_its_end():
    assert rounds([1 + n / 20 for n in range(30)], 20, Bell()) == [4.5]


def test_news_without_an_end_waits_fifteen_seconds_at_most():
    assert rounds([n / 2 for n in range(2, 80)], 40, Bell())[:2] == pytest.approx([16, 31.5], abs=0.6)


@given(st.lists(st.floats(min_value=0.1, max_value=100), max_size=60))
def test_no_news_is_lost_or_waits_longer_than_it_may(times):
    rung = rounds(times, 130, Bell(every=10_000))
    for heard in times:
        assert any(heard < ring <= heard + decisions.MOST + 0.3 for ring in rung), (heard, rung)
    assert all(later - earlier >= decisions.QUIET - 0.2 for earlier, later in pairwise(rung))
    assert len(rung) <= len(times)


def test_without_news_there_is_a_round_every_five_minutes_and_when_something_is_due():
    bell = Bell(looked=0.0, ran=0.0)
    assert not bell.rings(299)
    assert bell.rings(300)
    assert bell.rings(20, due=20.0)
    assert not bell.rings(19, due=20.0)
    bell.rang(30, full=False)
    assert not bell.rings(31, due=20.0)  # what is overdue is tried no more often than for news
    assert bell.looks(300)


# --- which ----------------------------------------------------------------------------------------------------------

NODES = {
    "head": {"roles": ["head"], "address": "10.0.0.1"},
    "c1": {"roles": ["compute"], "address": None},
    "c2": {"roles": ["compute"], "address": "10.0.0.3"},
    "c3": {"roles": ["compute"], "address": None},
}


def test_compute_nodes_with_an_accepted_key_take_part_unless_they_leave():
    registry = {"c1": {"retiring": True}, "c2": {"retiring": False}}
    assert decisions.wanted(NODES, registry, {"c1", "c2", "head", "stranger"}) == ["c2"]


@pytest.mark.parametrize(
    ("record", "flight", "marked", "forced", "is_due"),
    [
        (Record(), False, False, False, True),  # not tried yet
        (Record(tried=1, succeeded=1), False, False, False, False),
        (Record(tried=1, succeeded=1), False, True, False, True),
        (Record(tried=1, succeeded=1), False, False, True, True),
        (Record(tried=1, succeeded=1), True, True, True, False),  # it still runs its job
        (Record(attempts=2, tried=1, next=99), False, False, False, True),
        (Record(attempts=2, tried=1, next=101), False, False, False, False),
        (Record(attempts=2, tried=1, next=101), False, True, False, True),  # a start is no reason to wait
    ],
)
def test_which_nodes_are_due(record, flight, marked, forced, is_due):
    state = State({"c1": record}, {"c1": Flight("1", "converge", 0)} if flight else {})
    marks, asked = (["c1"] if marked else []), (["c1"] if forced else [])
    assert decisions.due(["c1"], state, marked=marks, forced=asked, now=100) == (["c1"] if is_due else [])


def test_the_next_time_is_the_earliest_of_what_is_to_be_tried_and_asked():
    state = State({"a": Record(next=50), "b": Record(next=30)}, {"b": Flight("1", "sync", 25)}, Record(next=70))
    assert decisions.next_due(state) == 25 + decisions.ASK_AFTER
    assert decisions.next_due(State()) is None


def test_who_is_asked_whether_it_is_at_it_still():
    flights = {"a": Flight("1", "converge", 0), "b": Flight("1", "converge", 0, asked=90), "c": Flight("2", "sync", 95)}
    assert decisions.to_ask(State(flights=flights), 100) == {"1": ["a"]}
    # The longer it takes, the rarer.
    assert decisions.to_ask(State(flights=flights), 120) == {"1": ["a"], "2": ["c"]}
    assert decisions.to_ask(State(flights=flights), 180) == {"1": ["a", "b"], "2": ["c"]}


def test_a_start_is_news_only_after_what_the_node_was_given_since():
    state = State({"a": Record(since=50)}, {"b": Flight("1", "sync", 50)})
    assert [decisions.is_news(state, name, when) for name, when in [("a", 49), ("a", 51), ("b", 49), ("c", 1)]] == [
        False, True, False, True,
    ]  # fmt: skip


WAITS = {"started": 0.0, "waiting": {"slow"}, "doubtful": set()}


@pytest.mark.parametrize(
    ("now", "more", "expected"),
    [
        (0.1, {"waiting": set(), "last": 0.1}, True),
        (4.0, {"last": 2.0}, False),
        (5.0, {"last": 2.0}, True),  # three seconds after the others
        (14.0, {"last": 10.0}, False),  # where all nodes are slow, the last one may be slow, too
        (15.0, {"last": 10.0}, True),
        (9.0, {"last": None}, False),
        (10.0, {"last": None}, True),
        (3.0, {"last": None, "doubtful": {"slow"}}, True),  # it failed before, so nobody waits for it
        (60.0, {"last": 59.9}, True),
    ],
)
def test_a_round_waits_for_nodes_that_answer_together_and_for_no_others(now, more, expected):
    assert decisions.goes_on(now, **{**WAITS, **more}) is expected


# --- what is remembered ---------------------------------------------------------------------------------------------


def test_what_is_remembered_comes_back_and_damage_is_nothing_remembered(paths):
    state = State({"a": Record(1, "no", 5.0, 10.0)}, {"b": Flight("2", "sync", 3.0, "c")}, Record(), {"began": 1.0})
    decisions.save(paths, state)
    assert decisions.load(paths) == state
    file = paths.state / "reconcile" / "state.json"
    assert file.stat().st_mode & 0o777 == 0o600
    for damage in ("{", "[]", '{"nodes": {"a": {"unknown": 1}}}', file.read_text()[:-20]):
        file.write_text(damage)
        assert decisions.load(paths) == State()


STRANGE = ["*", "a,b", "x\nNodeName=evil", "../../etc/passwd", "x', foo: [{{ 7*7 }}]", "", None, 1]


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_name_of_a_node_leaves_no_mark(paths, name):
    assert decisions.mark(paths, [name, "c1"]) == ["c1"]
    assert list(decisions.marks(paths)) == ["c1"]
    assert [path.name for path in (paths.state / "reconcile" / "dirty").iterdir()] == ["c1"]
    decisions.unmark(paths, [str(name), "c1", "never-marked"])
    assert decisions.marks(paths) == {}


# --- what nodes say -------------------------------------------------------------------------------------------------

A, B, MANAGER = "a" * 25, "b" * 25, "m" * 25
GOOD = {"swarm_id": A, "hardware": {"cpus": 2}, "storage": {"home": True}, "boot": "x 1", "problem": None}


def test_good_facts():
    assert decisions.facts(GOOD) == Facts(A, {"cpus": 2}, "x 1", {"home": True})


@pytest.mark.parametrize(
    "lie",
    [
        None, "facts", [], {}, {**GOOD, "swarm_id": "*"}, {**GOOD, "swarm_id": A + "\n"}, {**GOOD, "swarm_id": 1},
        {**GOOD, "boot": 1}, {**GOOD, "boot": "x" * 101}, {**GOOD, "storage": "all"},
        {**GOOD, "storage": {"home": "x"}},
        {**GOOD, "hardware": "x" * 70_000}, {**GOOD, "problem": "no docker"}, {**GOOD, "more": b"bytes"},
    ],
)  # fmt: skip
def test_strange_facts_are_refused(lie):
    with pytest.raises(VcoreError):
        decisions.facts(lie)


PLAIN = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(PLAIN, lambda more: st.lists(more) | st.dictionaries(st.text(), more)))
def test_whatever_a_node_says_is_facts_or_an_error(value):
    try:
        assert isinstance(decisions.facts(value), Facts)
    except VcoreError as error:
        assert str(error).isprintable()


def member(hostname, address):
    return {"Description": {"Hostname": hostname}, "Status": {"Addr": address}}


MEMBERS = {A: member("c1", "10.0.0.2"), B: member("c2.site", "10.0.0.3"), MANAGER: member("head", "10.0.0.1")}


def verified(name, said, members=MEMBERS, **taken):
    entries = {other: {"swarm_id": None, "address": None, **entry} for other, entry in taken.items()}
    return decisions.Swarm(members, MANAGER, NODES, entries).verify(name, Facts(said, None))


def test_a_node_is_where_the_swarm_sees_it():
    assert verified("c1", A) == {"swarm_id": A, "address": "10.0.0.2"}
    assert verified("c2", B) == {"swarm_id": B, "address": "10.0.0.3"}


@pytest.mark.parametrize(
    ("version", "knows"), [("26.1.5+dfsg1", True), ("25.0.0", True), ("20.10.24+dfsg1", False), ("dev", False)]
)
def test_docker_knows_of_apparmor_from_its_25th_version_on(version, knows):
    one = member("c1", "10.0.0.2")
    one["Description"]["Engine"] = {"EngineVersion": version}
    assert decisions.Swarm({A: one}, MANAGER, NODES, {}, unconfined=True).opens(Facts(A, None)) is knows
    assert not decisions.Swarm({A: one}, MANAGER, NODES, {}).opens(Facts(A, None))
    assert not decisions.Swarm(MEMBERS, MANAGER, NODES, {}, unconfined=True).opens(Facts(A, None))


@pytest.mark.parametrize(
    ("name", "said", "more", "why"),
    [
        ("c1", "z" * 25, {}, "the swarm, which has no such node"),
        ("c1", MANAGER, {}, "it says that it is the head of the swarm"),
        ("c1", B, {}, f"it says that it is {B} of the swarm, whose host name is c2"),
        ("c3", A, {"c1": {"swarm_id": A}}, f"it says that it is {A} of the swarm, which is c1"),
        ("c1", A, {"members": {A: member("c1", "10.0.0.3")}}, "at 10.0.0.3, which is the address of c2"),
        ("c1", A, {"members": {A: member("c1", "10.0.0.1")}}, "at 10.0.0.1, which is the address of head"),
        ("c1", A, {"members": {A: member("c1", "10.0.0.9")}, "c3": {"address": "10.0.0.9"}}, "the address of c3"),
        ("c1", A, {"members": {A: member("c1", "fe80::1")}}, "which is no IPv4 address"),
        ("c1", A, {"members": {A: member("c1", "127.0.0.1")}}, "which is no address of a host"),
        ("c1", A, {"members": {A: member("c1", "0.0.0.0")}}, "which is no address of a host"),
    ],
)
def test_a_node_cannot_be_another_one(name, said, more, why):
    with pytest.raises(VcoreError, match=why):
        verified(name, said, **more)


def test_a_place_that_the_swarm_does_not_know_is_told_from_a_lie():
    with pytest.raises(NotFound):
        verified("c1", "z" * 25)
    with pytest.raises(VcoreError) as lie:
        verified("c1", MANAGER)
    assert not isinstance(lie.value, NotFound)


def test_nobody_is_known_while_the_manager_does_not_answer():
    swarm = decisions.Swarm({}, "", NODES, {}, problem="the Docker daemon does not answer")
    with pytest.raises(VcoreError, match="does not answer") as why:
        swarm.verify("c1", Facts(A, None))
    assert not isinstance(why.value, NotFound)


def test_two_new_nodes_cannot_be_the_same_one():
    swarm = decisions.Swarm({A: member("odd", "10.0.0.9")}, MANAGER, NODES, {})
    assert swarm.verify("c1", Facts(A, None))["swarm_id"] == A
    with pytest.raises(VcoreError, match="which is c1"):
        swarm.verify("c3", Facts(A, None))


def test_the_head_is_the_manager_under_its_own_address():
    assert verified("head", MANAGER) == {"swarm_id": MANAGER, "address": "10.0.0.1"}
    with pytest.raises(VcoreError, match="it is not the swarm's manager"):
        verified("head", A)


def test_two_nodes_whose_addresses_the_network_has_exchanged_are_no_conflict():
    members = {A: member("c1", "10.0.0.20"), B: member("c3", "10.0.0.10")}
    taken = {"c1": {"swarm_id": A, "address": "10.0.0.10"}, "c3": {"swarm_id": B, "address": "10.0.0.20"}}
    assert verified("c1", A, members, **taken)["address"] == "10.0.0.20"
    assert verified("c3", B, members, **taken)["address"] == "10.0.0.10"


@pytest.mark.parametrize(
    ("states", "why"),
    [
        ({"a": {"result": True}}, None),
        ({"a": {"result": True}, "b": {"result": False, "__id__": "A", "comment": "is full"}}, "A: is full"),
        (
            {
                "a": {"result": False, "__id__": "x", "comment": "One or more requisite failed: y"},
                "b": {"result": False, "__id__": "y", "comment": "no\nway\x1b[2J"},
            },
            "y: no way\N{REPLACEMENT CHARACTER}[2J (and 1 more)",
        ),
        (["No matching sls found"], "No matching sls found"),
        ([], "it says nothing"),
        ("Traceback (most recent call last):\n  File\nKeyError: 'x'\n", "KeyError: 'x'"),
        (["Rendering failed: no\nTraceback (most recent call last):\n File"], "Rendering failed: no"),
        (None, "it says nothing"),
        ({}, "it says nothing"),
        ({"a": "x" * 1000}, "x" * 297 + "..."),
        ({"a": {"result": None, "__id__": "p", "comment": "a plan"}}, "p: a plan"),
    ],
)
def test_why_a_convergence_failed_in_a_line(states, why):
    assert decisions.failed_states(states) == why


# --- how it grows ---------------------------------------------------------------------------------------------------


def test_deciding_costs_no_more_for_each_node_however_many_there_are():
    def seconds(number):
        names = [f"c{n}" for n in range(number)]
        nodes = {name: {"roles": ["compute"], "address": None} for name in names}
        ids = {name: hashlib.sha256(name.encode()).hexdigest()[:25] for name in names}
        members = {ids[name]: member(name, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n, name in enumerate(names, 1)}

        def decides_about_all():
            wanted = decisions.wanted(nodes, {}, set(names))
            due = decisions.due(wanted, State(), marked=(), forced=(), now=1)
            swarm = decisions.Swarm(members, MANAGER, nodes, {})
            return len({swarm.verify(name, Facts(ids[name], None))["address"] for name in due}) == number

        return least_seconds(decides_about_all, times=3)

    small, large = seconds(1_000), seconds(10_000)
    assert large < 5
    assert large < 30 * small  # ten times the nodes; quadratic growth would cost a hundred times as much


# --- what is told ---------------------------------------------------------------------------------------------------


def test_rounds_are_told_as_one_with_what_others_found():
    first = {"converged": ["a"], "failed": {"b": "no"}, "waiting": ["c", "d"], "problems": [], "labelled": ["a"],
             "resumed": [], "began": 1.0, "ended": 2.0}  # fmt: skip
    last = {**first, "converged": ["b"], "failed": {}, "waiting": ["d"], "labelled": []}
    # Another process's round took c's answer.
    records = {"c": Record(tried=1.5, succeeded=1.5)}
    told = overview.told([first, last], records)
    results = {name: node["result"] for name, node in told["reconciled"].items()}
    assert results == {"a": "converged", "b": "converged", "c": "converged", "d": "still at it"}
    assert (told["ok"], told["rounds"], told["seconds"], told["labelled"]) == (False, 2, 2.0, ["a"])
    assert overview.told([first, last], records, "a")["ok"]  # d was not asked for
    failed = overview.told([first, last], {"c": Record().failed("broken", 1.0)}, "c")
    assert failed["reconciled"] == {"c": {"result": "failed", "error": "broken"}}
