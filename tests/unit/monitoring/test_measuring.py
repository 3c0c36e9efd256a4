"""When a measured value is bad, what an area may say of what it measures, and how that looks to people."""

import importlib.util
import inspect
import typing
from pathlib import Path

import pytest
from vcore.base.errors import VcoreError
from vcore.base.paths import Paths
from vcore.directory import monitoring as directory
from vcore.kernel import areas
from vcore.monitoring import measuring

CHECKOUT = Path(__file__).parents[3]
PROBLEM = "it is nearly full: make room"


def measurement(value, key="store.used", **more):
    one = {"key": key, "service": "store", "title": "Store used", "value": value, "unit": "%"}
    return {**one, **({"error": "it does not answer"} if value is None else {}), **more}


def limited(value, **more):
    return measurement(value, warning={"above": 80}, severe={"above": 90}, problem=PROBLEM, **more)


@pytest.mark.parametrize(
    ("value", "limits", "level"),
    [
        (80, {"warning": {"above": 80}, "severe": {"above": 90}}, "ok"),
        (80.1, {"warning": {"above": 80}, "severe": {"above": 90}}, "warning"),
        (90.1, {"warning": {"above": 80}, "severe": {"above": 90}}, "severe"),
        (7, {"warning": {"below": 30}, "severe": {"below": 7}}, "warning"),
        (6, {"warning": {"below": 30}, "severe": {"below": 7}}, "severe"),
        (0, {"severe": {"below": 1}}, "severe"),
        (99, {"warning": {"above": 80}}, "warning"),
        (99, {}, "ok"),
        ("2.6.10", {}, "ok"),
        (None, {"severe": {"below": 1}}, "unknown"),
    ],
)
def test_a_value_is_bad_beyond_its_limit(value, limits, level):
    assert measuring.level(measurement(value, **limits)) == level


@pytest.mark.parametrize(
    ("values", "ok", "level"),
    [
        ([1, 2], True, "ok"),
        ([1, None], False, "unknown"),
        ([85, None], False, "warning"),
        ([85, None, 95], False, "severe"),
        ([], True, "ok"),
    ],
)
def test_the_whole_is_as_its_worst_part(values, ok, level):
    judged = measuring.judged([limited(value) for value in values])
    assert (judged["ok"], judged["level"]) == (ok, level)
    assert [one["ok"] for one in judged["measurements"]] == [one["level"] == "ok" for one in judged["measurements"]]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (measurement(1, key="Store.used"), "a key is words"),
        (measurement(1, key="other.used"), "the first is store"),
        (measurement(1, key="store"), "a key is words"),
        (measurement(1, warning={"above": 1}), "come together"),
        (measurement(1, problem=PROBLEM), "come together"),
        (measurement(1, warning={"above": 1, "below": 0}, problem=PROBLEM), "one of above and below"),
        (measurement(1, warning={"over": 1}, problem=PROBLEM), "one of above and below"),
        (limited(1, counter=True), "have no limits"),
        (limited("much"), "have no limits"),
        (measurement(1, error="no"), "either a value, or an error"),
        ({**measurement(1), "value": None}, "either a value, or an error"),
    ],
)
def test_what_an_area_says_wrongly_is_its_mistake(wrong, says):
    (found,) = measuring.mistakes("store", [wrong])
    assert says in found


def test_a_key_stands_for_one_thing():
    assert measuring.mistakes("store", [measurement(1), limited(1)]) == [
        "store.used: there are two measurements of this key"
    ]
    assert measuring.mistakes("store", [measurement(1), limited(None, key="store.free")]) == []


def test_an_area_that_describes_something_wrongly_is_told_so(monkeypatch):
    class Area:
        @staticmethod
        def measurements(pillar, paths):
            return [measurement(1, key="else.where")]

    monkeypatch.setattr(areas, "asked", lambda protocol: {"store": Area})
    with pytest.raises(VcoreError, match=r"else\.where: a key is words"):
        measuring.collect({}, Paths())


def test_every_area_that_measures_takes_what_it_is_handed():
    for area in areas.asked(measuring.Measured).values():
        assert list(inspect.signature(area.measurements).parameters) == ["pillar", "paths"]


def counters(**values):
    return directory.Counters({name: float(values.get(name, 1)) for name in directory.SOURCES})


def by_key(measurements):
    return {one["key"]: one for one in measuring.judged(measurements)["measurements"]}


@pytest.mark.parametrize(
    ("used", "free", "percent", "level"),
    [(32, 18, 1.4, "ok"), (800, 0, 80.0, "ok"), (1000, 150, 85.0, "warning"), (920, 0, 92.0, "severe")],
)
def test_pages_that_are_free_again_count_as_room(used, free, percent, level):
    values = counters(pages_max=1000, pages_used=used, pages_free=free)
    one = by_key(directory.described(values, bind=0.05, version="slapd", error=""))["directory.database.used"]
    assert (one["value"], one["level"]) == (percent, level)


def test_a_directory_that_does_not_answer_is_one_severe_thing_and_the_same_keys():
    well = directory.described(counters(), bind=0.05, version="slapd", error="")
    nothing = directory.Counters(dict.fromkeys(directory.SOURCES))
    silent = directory.described(nothing, bind=None, version=None, error="the directory does not answer")
    assert measuring.mistakes("directory", well) == measuring.mistakes("directory", silent) == []
    assert [one["key"] for one in well] == [one["key"] for one in silent]
    levels = {key: one["level"] for key, one in by_key(silent).items()}
    assert levels.pop("directory.answers") == "severe"
    assert set(levels.values()) == {"unknown"}
    assert {one.get("error") for one in silent} == {None, "the directory does not answer"}


def test_a_counter_that_slapd_does_not_know_is_missed_and_nothing_else():
    values = counters(pages_max=1000)
    values["write_waiters"] = None
    found = directory.described(values, bind=0.05, version="slapd", error="")
    assert [one["key"] for one in found if one["value"] is None] == ["directory.waiters.write"]
    assert measuring.mistakes("directory", found) == []


def test_a_core_without_a_directory_has_nothing_of_it_to_measure():
    assert directory.measurements({"services": {}}, Paths()) == []


def test_limits_fit_what_they_are_declared_as():
    assert set(measuring.COMPARED) == set(typing.get_type_hints(measuring.Limit))
    assert set(measuring.LEVELS) == set(typing.get_args(measuring.Level))


@pytest.fixture
def output():
    spec = importlib.util.spec_from_file_location("vcore_output", CHECKOUT / "salt" / "_output" / "vcore.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__opts__ = {"color": False}
    return lambda data: module.output({"local": data})


def test_measurements_as_a_table(output):
    found = [limited(85.25), measurement(None, key="store.free", title="Store free"), measurement(3, key="store.x")]
    lines = [line.rstrip() for line in output(measuring.judged(found)).splitlines()]
    assert lines[0].split() == ["SERVICE", "WHAT", "VALUE", "UNIT", "BAD"]
    assert lines[1].split() == [
        "warning", "store", "Store", "used", "85.2", "%", "warning", "above", "80,", "severe", "above", "90",
    ]  # fmt: skip
    assert lines[2].split() == ["unknown", "store", "Store", "free", "-", "%", "-"]
    assert lines[-3:] == [
        "3 measurements, 2 not well:",
        f"  - Store used: {PROBLEM}",
        "  - Store free: it does not answer",
    ]


def test_measurements_that_are_all_well_say_so(output):
    assert output(measuring.judged([limited(1)])).splitlines()[-1].strip() == "1 measurement, all well."
