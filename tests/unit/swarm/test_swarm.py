"""Swarm specifications of services, their differences in words, and how running services are judged."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vcore.base.errors import VcoreError
from vcore.services import templates
from vcore.services.catalogue import Service
from vcore.swarm import specification

GOLDEN = Path(__file__).parent / "golden" / "swarm"
PILLAR = {"network": {"name": "virtual_core"}, "registry": "registry.vcore.test:5000"}
IMAGE = f"registry.vcore.test:5000/demo:0123456789ab@sha256:{'0' * 64}"


def service(name="demo", node="head", **more):
    definition = {
        "title": "Demo",
        "image": {"name": "demo"},
        "ports": {"web": {"number": 443, "target": 8443, "audience": "site"}},
        "volumes": {"data": {"path": "/data"}},
        "certificates": {"tls": {"certificate": "/tls/crt", "key": "/tls/key"}},
        "capabilities": ["SYS_NICE", "SYS_ADMIN"],
        "memory": {"limit": "1G", "reservation": "512M"},
    }
    resolved = Service.model_validate(definition | more).model_dump(mode="json")
    for volume in resolved["volumes"].values():
        volume["source"] = "/srv/data"
    return resolved | {"name": name, "node": node, "settings": {}}


def file(item, data=b"content\n", *, secret=False, path="/etc/file", mode="0440", name="demo"):
    fingerprint = specification.UNKNOWN if data is None else specification.config_fingerprint(name, item, data)
    return specification.File(
        name, item, secret, path, owner=911, group=912, mode=mode, fingerprint=fingerprint, data=data
    )


def spec(*files, image=IMAGE, **more):
    return specification.service_spec(
        service(**more),
        pillar=PILLAR,
        image=image,
        configs=[entry for entry in files if not entry.secret],
        secrets=[entry for entry in files if entry.secret],
    )


def contents(*files):
    return {entry.name: entry.data for entry in files if not entry.secret}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("replicated", {}),
        ("global", {"mode": "global", "placement": "compute", "node": None, "update": "start-first", "ports": {}}),
    ],
)
def test_the_specification_of_a_service(name, more, golden):
    made = spec(file("b.conf"), file("a.conf", b"other\n"), file("token", b"value", secret=True, mode="0400"), **more)
    assert json.loads(made["Labels"].pop("vcore.spec")) == made
    golden(GOLDEN / f"{name}.json", json.dumps(made, indent=2) + "\n")


def test_no_value_of_a_secret_is_in_a_specification_or_a_file_s_text():
    secret = file("token", b"very-secret-value", secret=True)
    assert "very-secret-value" not in json.dumps(spec(secret))
    assert "very-secret-value" not in repr(secret)


def test_ids_stand_beside_names_and_leave_the_specification_alone():
    config, secret = file("a.conf"), file("token", b"value", secret=True)
    made = spec(config, secret)
    before = copy.deepcopy(made)
    container = specification.with_ids(made, {config.name: "c1"}, {secret.name: "s1"})["TaskTemplate"]["ContainerSpec"]
    assert container["Configs"][0]["ConfigID"] == "c1"
    assert container["Secrets"][0]["SecretID"] == "s1"
    assert made == before
    assert specification.referenced(made) == {config.name, secret.name}


def test_names_of_equal_items_of_two_services_stay_apart():
    # a-b/c and a/b-c would get the same name if the hash covered only the content.
    first, second = file("c", name="a-b"), file("b-c", name="a")
    assert first.name != second.name
    assert specification.item_of("a", second.name) == "b-c"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (file("x" * 30, name="y" * 31), "64 characters"),
        (file("empty", b""), "has 0 bytes"),
        (file("large", b"x" * 500_001), "has 500001 bytes"),
    ],
)
def test_what_docker_would_refuse_is_told_before(entry, message):
    with pytest.raises(VcoreError, match=message):
        specification.check_files([entry])


def test_everything_of_a_new_service_is_new():
    files = [file("a.conf"), file("token", b"v", secret=True), file("tls_crt"), file("tls_key", b"k", secret=True)]
    assert specification.diff(None, spec(*files), {}, contents(*files)) == {
        "image": {"old": None, "new": "demo:0123456789ab"},
        "placement": {"old": None, "new": "vcore.node==head"},
        "ports": {"old": None, "new": ["443/tcp to 8443"]},
        "volumes": {"old": None, "new": ["/srv/data at /data"]},
        "memory": {"old": None, "new": "limit 1G, reservation 512M"},
        "configs": {"a.conf": "new"},
        "secrets": {"token": "new"},
        "certificates": {"tls": "new"},
    }


@pytest.mark.parametrize("known", [True, False], ids=["apply", "plan"])
def test_a_plan_that_does_not_know_the_content_says_what_apply_says(known):
    old = [file("token", b"v1", secret=True), file("tls_crt", b"c1"), file("tls_key", b"k1", secret=True)]
    new = [
        file("token", b"v2" if known else None, secret=True),
        file("tls_crt", b"c2" if known else None),
        file("tls_key", b"k2" if known else None, secret=True),
    ]
    digest = f"@sha256:{'1' * 64}" if known else ""
    image = f"registry.vcore.test:5000/demo:ba9876543210{digest}"
    assert specification.diff(spec(*old), spec(*new, image=image), contents(*old), contents(*new)) == {
        "image": {"old": "demo:0123456789ab", "new": "demo:ba9876543210"},
        "secrets": {"token": "changed"},
        "certificates": {"tls": "changed"},
    }
    fresh = specification.diff(None, spec(*new, image=image), {}, contents(*new))
    assert fresh["secrets"] == {"token": "new"}
    assert fresh["certificates"] == {"tls": "new"}


def test_changes_are_in_words():
    old = [file("a.conf", b"one\ntwo\n"), file("gone"), file("binary", b"\xff")]
    new = [file("a.conf", b"one\n2\n"), file("moved"), file("binary", b"\xfe")]
    changes = specification.diff(
        spec(*old),
        spec(
            *new,
            image=IMAGE.replace("0" * 64, "1" * 64),
            node="other",
            memory={"limit": "2G"},
            health={"retries": 5},
            stop_grace=30,
            capabilities=[],
            sysctls={"net.ipv4.ip_unprivileged_port_start": "1024"},
            ports={"web": {"number": 443, "audience": "site"}},
        ),
        contents(*old),
        contents(*new),
    )
    assert changes == {
        "image": {"old": "demo:0123456789ab", "new": "demo:0123456789ab (built again)"},
        "placement": {"old": "vcore.node==head", "new": "vcore.node==other"},
        "ports": {"old": ["443/tcp to 8443"], "new": ["443/tcp"]},
        "memory": {"old": "limit 1G, reservation 512M", "new": "limit 2G"},
        "health": {
            "old": "every 10 s, timeout 10 s, 3 retries, start period 60 s",
            "new": "every 10 s, timeout 10 s, 5 retries, start period 60 s",
        },
        "stop_grace": {"old": "20 s", "new": "30 s"},
        "capabilities": {"old": ["CAP_SYS_ADMIN", "CAP_SYS_NICE"], "new": []},
        "sysctls": {"old": None, "new": {"net.ipv4.ip_unprivileged_port_start": "1024"}},
        "configs": {
            "a.conf": "--- a.conf\n+++ a.conf\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n",
            "binary": "changed",
            "gone": "removed",
            "moved": "new",
        },
    }


def test_a_file_that_only_moves_shows_its_rights():
    old, new = file("a.conf"), file("a.conf", path="/etc/other", mode="0444")
    assert specification.diff(spec(old), spec(new), contents(old), contents(new)) == {
        "files": {"a.conf": {"old": "/etc/file 911:912 0440", "new": "/etc/other 911:912 0444"}}
    }


def test_a_damaged_label_makes_everything_change():
    assert specification.recorded_spec(None) is None
    for labels in ({}, {"vcore.spec": "{"}, {"vcore.spec": "[]"}):
        assert specification.recorded_spec({"Spec": {"Labels": labels}}) == {}
    assert specification.diff({}, spec(), {}, {})["image"] == {"old": None, "new": "demo:0123456789ab"}


def daemon(made, *, engine):
    """Return a specification as a daemon keeps it: fields added, empty ones left out, names replaced by ids."""
    kept = json.loads(json.dumps(made))
    task = kept["TaskTemplate"]
    container = task["ContainerSpec"]
    container |= {"Isolation": "default", "DNSConfig": {}}
    task |= {"ForceUpdate": 0, "Runtime": "container"}
    task["Placement"]["Platforms"] = [{"Architecture": "amd64", "OS": "linux"}]
    task["Resources"].setdefault("Reservations", {})
    task["Networks"][0]["Target"] = "u3kdnh3d2hd0"
    for kind, key in (("Configs", "ConfigID"), ("Secrets", "SecretID")):
        for reference in container[kind]:
            reference[key] = "k2"
        if not container[kind]:
            del container[kind]
    for key in ("Mounts", "CapabilityAdd"):
        if not container[key]:
            del container[key]
    if not kept["EndpointSpec"]["Ports"]:
        del kept["EndpointSpec"]["Ports"]
    # Docker shows these only where a service has one of them, but then it shows all.
    for key in ("CredentialSpec", "SELinuxContext") if "Privileges" in container else ():
        container["Privileges"][key] = None
    if engine < 25:
        del container["Healthcheck"]["StartInterval"]
        container.get("Privileges", {}).pop("AppArmor", None)
    elif "Privileges" in container:
        container["Privileges"]["NoNewPrivileges"] = False
    return {"ID": "s1", "Spec": kept}


@pytest.mark.parametrize("engine", [20, 26])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"volumes": {}, "ports": {}, "capabilities": [], "memory": {"limit": "1G"}},
        {"mode": "global", "placement": "compute", "node": None, "ports": {}},
        {"sysctls": {"net.ipv4.ip_unprivileged_port_start": "1024"}},
        {"apparmor": False},
    ],
)
def test_what_the_daemon_fills_in_is_no_change(engine, more):
    for files in ((), (file("a.conf"), file("token", b"v", secret=True))):
        made = spec(*files, **more)
        live = specification.live_spec(daemon(made, engine=engine))
        assert specification.diff(live, made, contents(*files), contents(*files)) == {}


def test_docker_that_has_become_newer_is_told_of_apparmor():
    made = spec(apparmor=False)
    service = daemon(made, engine=20)
    assert not specification.is_unconfined(service)
    service["Spec"]["TaskTemplate"]["ContainerSpec"]["Privileges"]["NoNewPrivileges"] = False
    assert specification.diff(specification.live_spec(service), made, {}, {}) == {
        "apparmor": {"old": None, "new": "disabled"}
    }
    assert specification.is_unconfined(daemon(made, engine=26))
    assert not specification.is_unconfined(daemon(spec(), engine=26))


def test_what_is_taken_away_by_hand_shows():
    config = file("a.conf")
    made = spec(config, sysctls={"net.ipv4.ip_unprivileged_port_start": "1024"})
    service = daemon(made, engine=26)
    container = service["Spec"]["TaskTemplate"]["ContainerSpec"]
    for key in ("Mounts", "Configs", "CapabilityAdd", "Sysctls", "Env", "Healthcheck"):
        del container[key]
    service["Spec"]["TaskTemplate"]["Resources"] = {}
    service["Spec"]["Mode"] = {"Replicated": {"Replicas": 3}}
    changes = specification.diff(specification.live_spec(service), made, {}, contents(config))
    assert changes["mode"] == {"old": "replicated, 3 tasks", "new": "replicated"}
    assert changes["volumes"] == {"old": [], "new": ["/srv/data at /data"]}
    assert changes["configs"] == {"a.conf": "new"}
    assert {"memory", "capabilities", "sysctls", "environment", "health"} <= changes.keys()


values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("AB"), inner, max_size=2),
    max_leaves=4,
)


@given(st.data())
def test_every_difference_shows_and_nothing_else(data):
    """Replacing any one value of a specification makes a change, unless the new value means the same."""
    old = spec(file("a.conf"), file("token", b"v", secret=True))
    del old["Labels"]["vcore.spec"]
    new = copy.deepcopy(old)
    place, steps = new, 0
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
        deeper = place[key]
        in_files = key in ("Configs", "Secrets", "Name", "Labels")
        if in_files or not (isinstance(deeper, dict | list) and deeper) or (steps and data.draw(st.booleans())):
            break
        place, steps = deeper, steps + 1
    if not in_files:
        place[key] = data.draw(values)
    changes = specification.diff(old, new, {}, {})
    assert bool(changes) == (_significant(old) != _significant(new))
    assert specification.diff(old, old, {}, {}) == {}


def _significant(value):
    """Return a specification without empty mappings outside of lists, which mean nothing in the Docker API."""
    if not isinstance(value, dict):
        return value
    inner = {key: _significant(entry) for key, entry in value.items()}
    return {key: entry for key, entry in inner.items() if entry != {}}


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_a_changed_config_always_shows(old, new):
    left, right = file("a.conf", old), file("a.conf", new)
    changes = specification.diff(spec(left), spec(right), contents(left), contents(right))
    assert bool(changes) == (old != new)


# --- what runs ---------------------------------------------------------------------------------------------------


def running_service(update=None):
    made = spec()
    return {"ID": "s1", "Spec": made} | ({"UpdateStatus": {"State": update}} if update else {})


def task(number, state, desired="running", error="", made=None):
    template = (made or spec())["TaskTemplate"]
    return {
        "ID": f"t{number}",
        "CreatedAt": f"2025-01-01T00:00:{number:02}Z",
        "DesiredState": desired,
        "Status": {"State": state, "Err": error, "Message": "started"},
        "Spec": {key: value for key, value in template.items() if key != "Placement"},
    }


NEW = spec()["TaskTemplate"]
ATTEMPT = spec(image="registry.vcore.test:5000/demo:newer")
OLD = spec(image="registry.vcore.test:5000/demo:older")


@pytest.mark.parametrize(
    ("update", "tasks", "arguments", "state", "message"),
    [
        (None, [], {}, "waiting", "0 of 1 running"),
        (None, [task(1, "running")], {}, "settled", "1 of 1 running"),
        (None, [task(1, "preparing")], {}, "waiting", "preparing: started"),
        (None, [task(1, "pending", error="no suitable node")], {}, "waiting", "no suitable node"),
        (None, [task(1, "running", made=OLD)], {}, "waiting", "running: started"),
        (None, [task(1, "failed", "shutdown", "exit 1"), task(2, "running")], {}, "settled", "1 of 1 running"),
        (None, [task(n, "failed", "shutdown", "exit 1", made=OLD) for n in (1, 2, 3)], {}, "waiting", "0 of 1 running"),
        (None, [task(n, "failed", "shutdown", f"exit {n}") for n in (1, 2)], {}, "waiting", "0 of 1 running"),
        (None, [task(n, "failed", "shutdown", f"exit {n}") for n in (1, 2, 3)], {}, "failed", "exit 3"),
        (None, [task(n, "failed", "shutdown") for n in (1, 2, 3)], {"seen": {"t1"}}, "waiting", "0 of 1 running"),
        ("updating", [task(1, "running")], {"attempt": NEW}, "waiting", "running: started"),
        ("completed", [task(1, "running")], {"attempt": NEW}, "settled", "1 of 1 running"),
        ("rollback_started", [task(1, "running")], {"attempt": NEW}, "waiting", "goes back"),
        (
            "rollback_completed",
            [task(1, "failed", "shutdown", "unhealthy", made=ATTEMPT), task(2, "running")],
            {"attempt": ATTEMPT["TaskTemplate"]},
            "failed",
            "unhealthy",
        ),
        (
            "rollback_completed",
            [task(1, "failed", "shutdown", "unhealthy", made=ATTEMPT), task(2, "assigned")],
            {"attempt": ATTEMPT["TaskTemplate"]},
            "waiting",
            "goes back",
        ),
        (
            "rollback_completed",
            [task(n, "failed", "shutdown", f"exit {n}") for n in (1, 2, 3)],
            {"attempt": ATTEMPT["TaskTemplate"]},
            "failed",
            "rollback_completed",
        ),
        ("rollback_completed", [task(2, "running")], {}, "settled", "1 of 1 running"),
        ("rollback_paused", [], {"attempt": NEW}, "failed", "rollback_paused"),
    ],
)
def test_judging_a_service(update, tasks, arguments, state, message):
    verdict = specification.verdict(running_service(update), tasks, 1, **arguments)
    assert verdict.state == state
    assert message in verdict.message


def test_how_many_tasks_a_global_service_should_have():
    def node(state="ready", availability="active", **labels):
        return {"Status": {"State": state}, "Spec": {"Availability": availability, "Labels": labels}}

    compute = {"vcore.role.compute": "true"}
    nodes = [node(**compute), node(), node("down", **compute), node(availability="drain", **compute), node(**compute)]
    made = spec(mode="global", placement="compute", node=None)
    assert specification.expected_tasks(made, nodes) == 2
    assert specification.expected_tasks(spec(), nodes) == 1


# --- templates ---------------------------------------------------------------------------------------------------


def render(tmp_path, text):
    (tmp_path / "demo.j2").write_text(text)
    pillar = {"site": {"domain": "vcore.test"}, "network": {}, "node": {}, "services": {}}
    names = templates.context(service() | {"settings": {"colour": "red"}}, pillar, "PEM\n")
    return templates.render(tmp_path, "demo.j2", names).decode()


def test_a_template_sees_the_resolved_pillar(tmp_path):
    text = "{% if settings.colour == 'red' %}\n{{ service.name }} {{ site.domain }}\n{% endif %}\n"
    text += "{{ authority.certificate }}\n"
    assert render(tmp_path, text) == "demo vcore.test\nPEM\n\n"


def test_a_template_sees_the_part_of_any_area_and_no_secret():
    pillar = {"queue": {"length": 3}, "settings": "a part of this name", "secrets": {"ldap": {"password": "x"}}}
    names = templates.context(service() | {"settings": {}}, pillar, "PEM\n")
    assert names["queue"] == {"length": 3}
    assert names["settings"] == {}
    assert "secrets" not in names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one\n{{ settings.shape }}\n", r"demo.j2, line 2: 'dict object' has no attribute 'shape'"),
        ("{% if %}", r"demo.j2, line 1: Expected an expression"),
        ("\n\n{{ 1 / 0 }}", r"demo.j2, line 3: division by zero"),
        ("{% include 'other.j2' %}", r"other.j2 does not exist"),
    ],
)
def test_a_wrong_template_is_told_with_its_line(tmp_path, text, message):
    with pytest.raises(VcoreError, match=message):
        render(tmp_path, text)
