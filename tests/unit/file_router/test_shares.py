"""Which shares, routes and instruments a site file may have, and which are refused."""

import pytest
from support import sites
from vcore.file_router import service, settings
from vcore.kernel import site

HEAD = "vcore:\n  nodes: {head: {roles: [head], address: 10.0.0.1}}\n  services: {file-router: {enabled: true}}\n"


def load(folder, text):
    return sites.load(folder, HEAD + text).site


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("  shares: {Runs: {}}", "shares.Runs"),
        ("  shares: {homes: {}}", "a name that Samba reserves for itself"),
        ("  shares: {a: {path: ../b}}", "shares.a.path"),
        ("  shares: {a: {path: /b}}", "shares.a.path"),
        ("  shares: {a: {path: b/../c}}", "shares.a.path"),
        ("  shares: {a: {path: .hidden}}", "shares.a.path"),
        ('  shares: {a: {path: "b\\nc"}}', "shares.a.path"),
        ('  shares: {a: {write: ["ada bob"]}}', "shares.a.write"),
        ("  shares: {a: {write: [root]}}", "root is a name that the system uses"),
        ('  shares: {a: {write: ["@@people"]}}', "shares.a.write"),
        ('  shares: {a: {mode: "4755"}}', "shares.a.mode"),
        ('  shares: {a: {description: "x\\ny"}}', "text on one line"),
        ("  shares: {a: {nfs: [{hosts: example.org}]}}", "IPv4 address or network"),
        ("  shares: {a: {nfs: [{hosts: 10.0.0.1/8}]}}", "has host bits set"),
        ("  shares: {a: {nfs: [{hosts: 10.0.0.0/8}, {hosts: 10.0.0.0/8}]}}", "10.0.0.0/8 stands twice"),
        ("  shares: {a: {path: x}, b: {path: x}}", "overlaps that of share a"),
        ("  shares: {a: {path: x}, b: {path: x/y}}", "overlaps that of share a"),
        ("  shares: {a: {path: x/y/z}, b: {path: x/y}}", "overlaps that of share a"),
        ("  shares: {archive: {}}", "shares.archive: homes of removed people are archived in its folder"),
        (
            "  accounts: {archive: /srv/virtual-core/data/file-router/data/a/homes}\n  shares: {b: {path: a}}",
            "homes of removed people are archived in its folder",
        ),
        (
            "  routes: {r: {protocol: nfs, kind: mount, server: nas, source: /x, path: archive/nas}}",
            "homes of removed people are archived in its folder",
        ),
        (
            "  shares: {a: {nfs: [{hosts: 10.0.0.0/8}]}}\n"
            "  routes: {b: {kind: mount, protocol: nfs, server: nas, source: /x, path: a/b}}",
            "NFS cannot offer the files of the route b again",
        ),
        ("  instruments: {sequencer: {share: runs}}", "no share runs below vcore.shares"),
        ("  shares: {runs: {smb: false}}\n  instruments: {sequencer: {share: runs}}", "not offered by SMB"),
        ("  shares: {runs: {}}\n  people: {ada: {}}\n  instruments: {ada: {share: runs}}", "ada is a person already"),
        ("  shares: {runs: {}}\n  instruments: {root: {share: runs}}", "root is a name that the system uses"),
    ],
)
def test_what_is_refused(tmp_path, text, says):
    with pytest.raises(site.SiteError) as error:
        load(tmp_path, text)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_another_folder_for_archives_frees_the_name(tmp_path):
    assert "archive" in load(tmp_path, "  accounts: {archive: /backup/homes}\n  shares: {archive: {}}\n").shares


def test_neighbours_are_not_in_one_another(tmp_path):
    loaded = load(tmp_path, "  shares: {a: {path: x/y}, b: {path: x/yz}, x-y: {}}\n")
    assert set(loaded.shares) == {"a", "b", "x-y"}


def test_they_want_the_service(tmp_path):
    text = HEAD.replace("enabled: true", "enabled: false") + "  shares: {a: {}}\n"
    with pytest.raises(site.SiteError, match="needs the service file-router"):
        sites.load(tmp_path, text)


def test_secrets_follow_from_routes_and_instruments():
    route = {"server": "nas", "source": "runs"}
    found = service.secrets(
        {
            "pulled": settings.Route(kind="sync", user="reader", **route),
            "mounted": settings.Route(kind="mount", user="reader", **route),
            "nfs": settings.Route(kind="mount", protocol="nfs", server="nas", source="/runs"),
        },
        {"sequencer": settings.Instrument(share="runs")},
    )
    assert set(found) == {"route-pulled", "route-mounted", "instrument-sequencer"}
    # Only the secrets that the container uses itself are mounted in it.
    assert {name for name, secret in found.items() if secret.path} == {"route-pulled"}
    assert found["instrument-sequencer"].kind == "password"
