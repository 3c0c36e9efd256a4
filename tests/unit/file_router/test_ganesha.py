"""ganesha.conf as it follows from a site, and the numbers of exports."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_samba import GOLDEN, SETTINGS, pillar
from vcore.base.errors import VcoreError
from vcore.file_router import ganesha

NAMES = st.lists(st.from_regex(r"\A[a-z][a-z0-9_-]{0,8}\Z"), unique=True, max_size=40)


@pytest.mark.parametrize("case", SETTINGS)
def test_ganesha_conf(tmp_path, case, golden):
    golden(GOLDEN / f"{case}.ganesha.conf", ganesha.ganesha_conf(pillar(tmp_path, SETTINGS[case]), {}))


def test_only_shares_with_clients_are_exported(tmp_path):
    core = pillar(tmp_path)
    assert list(ganesha.exported(core)) == ["machines", "runs", "software"]
    assert set(ganesha.numbers_in(ganesha.ganesha_conf(core, {}))) == {"machines", "runs", "software"}


def test_the_narrowest_network_comes_first(tmp_path):
    text = ganesha.ganesha_conf(pillar(tmp_path), {})
    assert [line.split()[-1] for line in text.splitlines() if "Clients =" in line] == [
        "172.16.0.0/12;",
        "10.1.2.3;",
        "10.1.0.0/16;",
        "10.0.0.0/8;",
        "*;",  # 0.0.0.0/0, which Ganesha would take for the name of a file
    ]


@pytest.mark.parametrize("value", ["a;b", "a}", "a b", "../a", "a/../b", "a\n", 'a"', "a#"])
def test_what_would_break_out_is_refused(tmp_path, value):
    core = pillar(tmp_path)
    broken = copy.deepcopy(core)
    broken["shares"]["runs"]["path"] = value
    with pytest.raises(VcoreError, match=r"is not allowed in ganesha\.conf"):
        ganesha.ganesha_conf(broken, {})
    broken = copy.deepcopy(core)
    broken["shares"][value] = broken["shares"].pop("runs")
    with pytest.raises(VcoreError, match=r"is not allowed in ganesha\.conf"):
        ganesha.ganesha_conf(broken, {})


@given(NAMES, NAMES)
def test_no_change_moves_another_export(first, second):
    before = ganesha.numbers(first, {})
    after = ganesha.numbers(second, before)
    assert {name: after[name] for name in set(first) & set(second)} == {
        name: before[name] for name in set(first) & set(second)
    }
    assert len(set(after.values())) == len(after)
    assert all(1 <= number <= ganesha.LARGEST_EXPORT for number in after.values())
    assert set(after) == set(second)


def test_two_names_that_meet_get_two_numbers(monkeypatch):
    monkeypatch.setattr(ganesha, "LARGEST_EXPORT", 3)
    assert sorted(ganesha.numbers(["a", "b", "c"], {}).values()) == [1, 2, 3]


@pytest.mark.parametrize("previous", [{"a": 0}, {"a": 65536}, {"a": 5, "b": 5}])
def test_numbers_that_cannot_be_are_not_kept(previous):
    found = ganesha.numbers(["a", "b"], previous)
    assert found == ganesha.numbers(["a", "b"], {})


def test_numbers_stay_as_they_are(tmp_path):
    # Clients hold these numbers in their file handles: no version of the code may compute others.
    assert ganesha.numbers(["machines", "software", "runs"], {}) == {
        "machines": 29020,
        "runs": 333,
        "software": 64164,
    }
    text = ganesha.ganesha_conf(pillar(tmp_path), {"runs": 7})
    assert ganesha.numbers_in(text)["runs"] == 7
