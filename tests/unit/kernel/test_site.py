"""The site file: what is refused, in which words, and that nothing an administrator writes causes a traceback."""

import re
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support import sites
from vcore.host.network import Route
from vcore.kernel import areas, documents, resolve, site
from vcore.services import settings

CHECKOUT = Path(__file__).parents[3]
PATHS = sites.Elsewhere(checkout=CHECKOUT)
ROUTES = [Route(IPv4Network("10.5.0.0/16"), "eth0"), Route(IPv4Network("172.18.1.0/24"), "docker_gwbridge")]


@pytest.fixture
def load(tmp_path):
    """Load a site text with the real catalogue, the test's own flavors, and known host routes."""

    def load(text, flavors=None):
        folder = tmp_path / "flavors"
        folder.mkdir(exist_ok=True)
        for name, content in (flavors or {}).items():
            (folder / f"{name}.sls").write_text(content)
        return sites.load(tmp_path, text, flavors=folder, routes=ROUTES)

    return load


def problems(load, text, flavors=None):
    with pytest.raises(site.SiteError) as caught:
        load(text, flavors)
    return [str(problem) for problem in caught.value.problems]


HEAD = "vcore:\n  nodes: {head: {roles: [head]}}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vcore: [1\n", "site.sls:2: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("vcore: {}\nvcore: {}\n", "site.sls:2: not valid YAML: the key vcore occurs twice"),
        ("a: &a [*a]\n", "site.sls:1: not valid YAML: an alias contains itself"),
        ("", "site.sls: the file has to be a mapping with the key vcore"),
        ("vcor: {}\n", "site.sls:1: vcor: unknown key; did you mean vcore?"),
        ("vcore: 3\n", "site.sls:1: vcore: has to be a mapping"),
        ("vcore: {}\n", "site.sls: vcore.nodes: is required"),
        (HEAD + "  netwrok: {}\n", "site.sls:3: vcore.netwrok: unknown key; did you mean network?"),
        (HEAD + "  network: {subnte: 1}\n", "site.sls:3: vcore.network.subnte: unknown key; did you mean subnet?"),
        (HEAD + "  site: {domain: 3}\n", "site.sls:3: vcore.site.domain: has to be text (put it in quotes), not 3"),
        (
            "vcore:\n  nodes: {head: {roles: [haed]}}\n",
            "site.sls:2: vcore.nodes.head.roles.0: has to be 'head' or 'compute', not 'haed'",
        ),
        (
            "vcore:\n  nodes:\n    a: {roles: [head]}\n    b: {roles: [head]}\n",
            "site.sls:2: vcore.nodes: exactly one node has the role head, not 2: a, b",
        ),
        (
            "vcore:\n  nodes: {a: {roles: [compute]}}\n",
            "site.sls:2: vcore.nodes: exactly one node has the role head, not 0",
        ),
        (
            "vcore:\n  nodes: {a: {roles: [head], address: 1.2.3}}\n",
            "site.sls:2: vcore.nodes.a.address: has to be an IPv4 address, not '1.2.3'",
        ),
        (
            HEAD + "  network: {subnet: 10.5.3.0/24}\n",
            "site.sls:3: vcore.network.subnet: 10.5.3.0/24 overlaps 10.5.0.0/16, which this host reaches by eth0",
        ),
        (
            HEAD + "  network: {bridge_subnet: 172.18.0.0/22}\n",
            "site.sls:3: vcore.network.bridge_subnet: 172.18.0.0/22 overlaps subnet, which is 172.18.0.0/24",
        ),
        (
            HEAD + "  network: {subnet: 10.9.0.0/30}\n",
            "site.sls:3: vcore.network.subnet: 10.9.0.0/30 is too small; use a /28 or larger",
        ),
        (HEAD + "  services: {ldpa: {}}\n", "site.sls:3: vcore.services.ldpa: unknown service; did you mean ldap?"),
        (
            HEAD + "  services:\n    registry: {enabled: false}\n",
            "site.sls:4: vcore.services.registry.enabled: "
            "the services directory-web, file-router, ldap require registry; switch registry on, or them off",
        ),
        (
            HEAD + "  services: {ldap: {settings: {sufix: x}}}\n",
            "site.sls:3: vcore.services.ldap.settings.sufix: unknown key; did you mean suffix?",
        ),
        (
            HEAD + "  services: {ldap: {node: nowhere}}\n",
            "site.sls:3: vcore.services.ldap.node: no node nowhere below vcore.nodes",
        ),
        (
            HEAD + "  services: {ldap: {memory: {limit: lots}}}\n",
            "site.sls:3: vcore.services.ldap.memory.limit: "
            "a size is a whole number with K, M, G or T behind it, such as 512M, not 'lots'",
        ),
        (
            HEAD + "  base_directory: /home/\n",
            "site.sls:3: vcore.base_directory: has to be a folder of its own, such as /srv/virtual-core/data",
        ),
        (
            HEAD + "  build: {mirror: 'http://me:secret@mirror.test/debian'}\n",
            "site.sls:3: vcore.build.mirror: has to be an http:// or https:// address, without a user or password",
        ),
        (
            HEAD + "  build: {ca_bundle: /nowhere.pem}\n",
            "site.sls:3: vcore.build.ca_bundle: /nowhere.pem does not exist",
        ),
        ("vcore:\n  nodes: {a: {roles: [head, head]}}\n", "site.sls:2: vcore.nodes.a.roles: names a role twice"),
        (
            "vcore:\n  nodes: {a: {roles: [head]}, b: {roles: [compute]}}\n  services: {ldap: {node: b}}\n",
            "site.sls:2: vcore.nodes.b.address: is required, since the service ldap runs there",
        ),
        (
            "vcore:\n  nodes: {a: {roles: [head]}, b: {roles: [compute], address: 10.0.0.2}}\n"
            "  services: {registry: {node: b}}\n",
            "site.sls:3: vcore.services.registry.node: registry runs on the head only: its image is in no registry",
        ),
        (HEAD + "  flavors: [bio]\n", "site.sls:3: vcore.flavors.0: no flavor 'bio'; there are: none"),
        (
            HEAD + "  services: {ldap: {certificates: {tls: {certificate: /nowhere/a.pem, key: /nowhere/a.key}}}}\n",
            "site.sls:3: vcore.services.ldap.certificates.tls: /nowhere/a.pem does not exist",
        ),
        (
            HEAD + "  certificate_authority: {certificate: /a.pem}\n",
            "site.sls:3: vcore.certificate_authority: certificate and key go together; key is missing",
        ),
        (
            HEAD + "  authorized_keys: [hello]\n",
            "site.sls:3: vcore.authorized_keys.0: has to be a public ssh key, such as 'ssh-ed25519 AAAA... name'",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(load, text, expected):
    found = problems(load, text)
    assert len([line for line in found if line.startswith(expected)]) == 1, found
    assert all("\n" not in line and "secret" not in line for line in found)


@pytest.mark.parametrize("keys", [{"[key]": None}, {"site": {"[key]": 1}}, {"nodes": {"[key]": 1}}])
def test_a_key_that_looks_like_a_mark_of_the_library_is_only_a_key(load, keys):
    assert all("[key]" in line or "required" in line for line in problems(load, yaml.safe_dump({"vcore": keys})))


def test_every_mistake_is_reported_at_once(load):
    text = HEAD + "  netwrok: {}\n  site: {domain: 3}\n"
    assert len(problems(load, text)) == 2


def test_a_missing_site_file_says_what_to_do(tmp_path):
    with pytest.raises(site.SiteError, match=r"site\.sls: does not exist; copy site\.sls\.example to it"):
        site.load(PATHS, site_file=tmp_path / "site.sls", routes=[])


def test_the_example_is_valid(load):
    configuration = load((CHECKOUT / "pillar" / "site.sls.example").read_text())
    assert configuration.head == "head"
    assert settings.enabled(configuration)["ldap"]


def uncommented(*, services):
    """Return the example with its commented settings in force: those of ``services:``, or all others."""
    lines = (CHECKOUT / "pillar" / "site.sls.example").read_text().splitlines()
    section = None
    for number, line in enumerate(lines):
        found = re.fullmatch(r"( +)# (([a-z_]+):.*|  .*)", line)
        section = found and (found[3] or section)
        if found and (section == "services") == services:
            lines[number] = found[1] + found[2]
    return "\n".join(lines)


def test_each_commented_setting_of_the_example_is_valid(load):
    bioinformatics = {"bioinformatics": (CHECKOUT / "pillar" / "flavors" / "bioinformatics.sls").read_text()}
    configuration = load(uncommented(services=False), bioinformatics)
    sections = {"groups", "people", "shares", "instruments", "routes", "flavors", "network", "authorized_keys"}
    assert sections <= configuration.site.model_fields_set
    assert configuration.site.nodes["head"].logins.groups == ["sequencing"]


def test_services_that_the_example_switches_off_are_off(load):
    running = settings.enabled(load(uncommented(services=True)))
    assert [name for name, on in running.items() if on] == ["ldap", "registry"]


def test_the_site_wins_over_flavors_and_later_flavors_over_earlier(load):
    flavors = {
        "one": "vcore: {site: {organization: One, name: one}, services: {ldap: {memory: {limit: 1G}}}}",
        "two": "vcore: {site: {organization: Two, domain: two.test}}",
    }
    configuration = load(HEAD + "  flavors: [one, two]\n  site: {domain: site.test}\n", flavors)
    assert configuration.site.site.name == "one"
    assert configuration.site.site.organization == "Two"
    assert configuration.site.site.domain == "site.test"
    assert configuration.site.services["ldap"].memory.limit == 1024**3


def test_a_mistake_in_a_flavor_names_the_flavor(load):
    found = problems(load, HEAD + "  flavors: [one]\n", {"one": "vcore: {sitee: {}}"})
    assert found == ["flavors/one.sls:1: vcore.sitee: unknown key; did you mean site?"]


# --- merging -----------------------------------------------------------------------------------------------------

leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
mappings = st.recursive(
    st.dictionaries(st.text(max_size=3), leaves, max_size=4),
    lambda inner: st.dictionaries(st.text(max_size=3), leaves | inner, max_size=4),
    max_leaves=12,
)


@given(mappings, mappings)
def test_merging_keeps_what_is_above_and_fills_in_from_below(below, above):
    merged = documents.merge(below, above)
    for key, value in above.items():
        if not isinstance(value, dict):
            assert merged[key] == value
    assert set(merged) == set(below) | set(above)
    assert documents.merge(merged, above) == merged


@given(mappings)
def test_merging_with_nothing_changes_nothing(mapping):
    assert documents.merge(mapping, {}) == mapping
    assert documents.merge({}, mapping) == mapping


# --- no traceback, whatever is written ---------------------------------------------------------------------------


def survives(text, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    try:
        document = documents.parse(text, "site.sls")
        configuration = site.validate(document, replace(PATHS, flavors=folder, configuration=folder))
        asked = areas.asked(site.HostProblems).values()
        if not any(area.host_problems(configuration, ROUTES) for area in asked):
            resolve.resolve(replace(configuration, address="10.0.0.1"))
    except site.SiteError as error:
        assert error.problems
        assert all("\n" not in str(problem) for problem in error.problems)


@given(st.text(max_size=200))
def test_any_text_is_accepted_or_refused_in_words(tmp_path_factory, text):
    survives(text, tmp_path_factory)


keys = st.sampled_from(sorted(site.model().model_fields)) | st.text(max_size=8)
values = st.recursive(
    leaves
    | st.floats(allow_nan=True)
    | st.sampled_from(["10.0.0.0/8", "head", "ldap", "512M", "/etc/passwd", "1.2.3.4"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["ldap", "registry", "settings", "roles", "head", "tls"]) | st.text(max_size=5),
            inner,
            max_size=3,
        )
    ),
    max_leaves=15,
)


@given(st.dictionaries(keys, values, max_size=6))
def test_any_site_is_accepted_or_refused_in_words(tmp_path_factory, data):
    survives(yaml.safe_dump({"vcore": data}), tmp_path_factory)


@given(st.sampled_from(sorted(site.model().model_fields)), values)
def test_any_value_of_a_known_key_is_accepted_or_refused_in_words(tmp_path_factory, key, value):
    survives(yaml.safe_dump({"vcore": {"nodes": {"head": {"roles": ["head"]}}, key: value}}), tmp_path_factory)


def places(value, path=()):
    """Yield every place of a document: the keys that lead there."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def replaced(value, path, new):
    """Return a document with another value at one place."""
    if not path:
        return new
    key, rest = path[0], path[1:]
    if isinstance(value, dict):
        return value | {key: replaced(value[key], rest, new)}
    return [*value[:key], replaced(value[key], rest, new), *value[key + 1 :]]


EXAMPLE = yaml.safe_load(uncommented(services=False))
EXAMPLE["vcore"]["flavors"] = []
PLACES = [path for path in places(EXAMPLE["vcore"]) if path]


@given(st.sampled_from(PLACES), values)
def test_a_good_site_with_any_value_at_any_place_is_accepted_or_refused_in_words(tmp_path_factory, path, value):
    """Everything else is right here, so that the checks which come last are reached, too."""
    survives(yaml.safe_dump({"vcore": replaced(EXAMPLE["vcore"], path, value)}), tmp_path_factory)


def test_aliases_of_aliases_do_not_explode():
    text = "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    for below, above in zip("abcdefgh", "bcdefghi", strict=True):
        text += f"{above}: &{above} [{','.join([f'*{below}'] * 10)}]\n"
    with pytest.raises(site.SiteError, match="the file is too large"):
        documents.parse(text, "site.sls")
