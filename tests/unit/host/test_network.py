"""What the core writes on every host (/etc/hosts and folders), and how it reads the routing table."""

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vcore.base.errors import VcoreError
from vcore.host import network

HOSTS = "127.0.0.1 localhost\n10.0.0.9 printer\n"
NAMES = {"10.0.0.1": ["registry.vcore.test", "ldap.vcore.test"]}


def test_the_block_is_added_replaced_and_taken_away():
    once = network.hosts_with(HOSTS, NAMES)
    assert once.startswith(HOSTS)
    assert "10.0.0.1\tregistry.vcore.test ldap.vcore.test\n" in once
    assert network.hosts_with(once, NAMES) == once
    assert network.hosts_with(once, {"10.0.0.2": ["ldap.vcore.test"]}).count("\n") == once.count("\n")
    assert network.hosts_with(once, {}) == HOSTS


def test_a_block_without_an_end_is_not_guessed_at():
    broken = network.hosts_with(HOSTS, NAMES).replace(f"{network.END}\n", "10.0.0.7 mine\n")
    with pytest.raises(VcoreError, match="has no line '# Virtual Core: end' below it"):
        network.hosts_with(broken, NAMES)


lines = st.lists(st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp")), max_size=20), max_size=6)


@given(lines)
def test_foreign_lines_are_never_touched(foreign):
    text = "".join(f"{line}\n" for line in foreign if not line.startswith("# Virtual Core"))
    assert network.hosts_with(network.hosts_with(text, NAMES), {}) == text


def test_the_plan_names_the_lines(tmp_path):
    path = tmp_path / "hosts"
    path.write_text(HOSTS)
    planned = network.hosts_difference(NAMES, path)
    assert "+ 10.0.0.1\tregistry.vcore.test ldap.vcore.test" in planned
    network.write_hosts(NAMES, path)
    assert network.hosts_difference(NAMES, path) == []
    assert network.hosts_difference({}, path) == [line.replace("+", "-", 1) for line in planned]


def test_routes_are_read_from_the_kernel_table(tmp_path):
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t0000000A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    )
    assert network.read_routes(table) == [
        network.Route(IPv4Network("10.0.0.0/16"), "eth0"),
        network.Route(IPv4Network("172.17.0.0/16"), "docker0"),
    ]


def test_folders_get_owner_group_and_mode_and_keep_their_content(tmp_path):
    path = tmp_path / "a" / "b"
    wanted = {"owner": 911, "group": 912, "mode": "0750"}
    assert network.directory_difference(path, wanted) == {"directory": {"old": None, "new": "911:912 0750"}}
    network.make_directory(path, wanted)
    (path / "file").write_text("kept")
    assert network.directory_difference(path, wanted) == {}
    path.chmod(0o777)
    assert network.directory_difference(path, wanted) == {"mode": {"old": "0777", "new": "0750"}}
    network.make_directory(path, wanted)
    assert network.directory_difference(path, wanted) == {}
    assert (path / "file").read_text() == "kept"
