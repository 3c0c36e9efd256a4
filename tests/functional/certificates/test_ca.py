"""The certificate authority as openssl, Salt's states and a killed run see it."""

from __future__ import annotations

import copy
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import salt.config
from saltfactories.utils.functional import Loaders
from support.cost import least_seconds

CHECKOUT = Path(__file__).resolve().parents[3]
BRAIN = CHECKOUT / "salt" / "_utils"
sys.path.insert(0, str(BRAIN))

from vcore.base.paths import Paths  # noqa: E402
from vcore.certificates import authority, trust, x509  # noqa: E402

REGISTRY = "registry.virtual-core.invalid:5000"
NAMES = ["ldap", "ldap.vcore.test", "head", "head.vcore.test", "localhost"]


CERTIFICATE = {
    "names": NAMES,
    "addresses": ["10.0.0.1", "127.0.0.1"],
    "lifetime": 397,
    "key_type": "ec-p256",
    "client": False,
    "supplied": None,
}
PILLAR = {
    "node": {"name": "head", "roles": ["head"], "address": "10.0.0.1"},
    "site": {"name": "vcore", "domain": "vcore.test", "organization": "Virtual Core"},
    "certificate_authority": {"certificate": None, "key": None, "lifetime": 3650, "renew_before": 30},
    "registry": REGISTRY,
    "services": {
        "ldap": {"certificates": {"tls": CERTIFICATE}},
        "web": {"certificates": {"tls": CERTIFICATE | {"names": ["web", "web.vcore.test"]}}},
    },
}


@pytest.fixture(scope="session", autouse=True)
def _openssl():
    if not shutil.which("openssl"):
        pytest.fail("openssl is missing: apt-get install openssl")


def openssl(*arguments, succeeds=True, **options) -> str:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60, **options
    )
    assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
    return done.stdout + done.stderr


class Head:
    """A head in a folder: its pillar, its authority, and Salt's own loader for them."""

    def __init__(self, folder: Path, pillar: dict | None = None) -> None:
        self.folder = folder
        self.pillar = pillar or copy.deepcopy(PILLAR)
        root = folder / "salt"
        configuration = {
            "id": "head",
            "root_dir": str(root),
            **{key: str(root / key) for key in ("cachedir", "pki_dir", "sock_dir", "extension_modules")},
            "log_file": str(root / "log"),
            "file_client": "local",
            "pillar_roots": {"base": [str(folder / "pillar")]},
            "module_dirs": [str(CHECKOUT / "salt")],
            "enable_fqdns_grains": False,
            "enable_gpu_grains": False,
            # Named explicitly, too: otherwise the loader takes the SLS folder states below module_dirs for state
            # modules.
            "states_dirs": [str(CHECKOUT / "salt" / "_states")],
            "virtual_core": {key: str(folder / key) for key in ("checkout", "configuration", "state")},
        }
        root.mkdir(parents=True)
        (root / "minion").write_text(json.dumps(configuration))
        (folder / "pillar").mkdir()
        (folder / "pillar" / "top.sls").write_text("base: {'*': [site]}\n")
        self.write_pillar()
        self.opts = salt.config.minion_config(str(root / "minion"))
        self.authority = Paths.from_opts(self.opts).authority
        self.loaders, self.loaded = Loaders(self.opts), json.dumps(self.pillar)

    def write_pillar(self) -> None:
        (self.folder / "pillar" / "site.sls").write_text("#!json\n" + json.dumps({"vcore": self.pillar}))

    @property
    def certificate(self) -> dict:
        return self.pillar["services"]["ldap"]["certificates"]["tls"]

    def everything(self) -> dict[str, tuple]:
        """Return every file, folder and link of the store, with its content and mode."""
        return {
            str(path): (
                stat.S_IMODE(path.lstat().st_mode),
                str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None,
            )
            for path in sorted(self.authority.rglob("*"))
        }

    @property
    def modules(self):
        """Return the execution module, loaded anew if the pillar has changed; states read the pillar at each call."""
        if self.loaded != json.dumps(self.pillar):
            self.write_pillar()
            self.loaders.reload_all()
            self.loaded = json.dumps(self.pillar)
        return self.loaders.modules.vcore_ca

    def apply(self, state: str, name: str = "A sentence", *, succeeds: bool = True, **arguments):
        """Plan, apply, compare, apply again; return the applied state's result."""
        self.write_pillar()
        function = self.loaders.states[f"vcore_ca.{state}"]
        before = self.everything()
        plan = function(name, test=True, **arguments)
        assert self.everything() == before, "a plan changed something"
        result = function(name, **arguments)
        assert result.result is succeeds, result.comment
        assert "PRIVATE" not in json.dumps([plan.full_return, result.full_return])
        if not succeeds:
            assert (plan.result, plan.comment, plan.changes) == (False, result.comment, {})
            assert result.changes == {}
            assert self.everything() == before, "a failed state changed something"
            return result
        assert plan.changes == result.changes
        assert plan.result is (None if result.changes else True)
        for again in (function(name, test=True, **arguments), function(name, **arguments)):
            assert (again.result, again.changes) == (True, {})
        return result

    def converge(self) -> dict:
        """Apply both states as the head's SLS has them; both are planned before either is applied."""
        self.write_pillar()
        names = [f"{name}/tls" for name in self.pillar["services"]]
        states = [("root_present", {}), ("issued", {"certificates": names})]
        plan, done = {}, {}
        for changes, options in ((plan, {"test": True}), (done, {})):
            for state, arguments in states:
                result = self.loaders.states[f"vcore_ca.{state}"]("A sentence", **arguments, **options)
                assert result.result is not False, result.comment
                changes.update(result.changes)
        assert plan == done
        return done

    def leaf(self, name: str = "ldap", suffix: str = "crt") -> Path:
        return self.authority / "issued" / name / f"tls.{suffix}"

    def verify(self, *more, name: str = "ldap", succeeds: bool = True) -> str:
        trusted = self.folder / "root.pem"
        trusted.write_bytes(trust.root_of((self.authority / "ca.crt").read_bytes()))
        arguments = ["-x509_strict", "-CAfile", trusted, "-untrusted", self.leaf(name), *more, self.leaf(name)]
        return openssl("verify", *arguments, succeeds=succeeds)

    def earlier(self, days: int) -> authority.Authority:
        """Return the authority as a run ``days`` ago would have used it."""
        now = datetime.now(UTC) - timedelta(days=days)
        return authority.Authority(self.authority, x509.policy(self.pillar), now)


@pytest.fixture(scope="module")
def _loaded(tmp_path_factory):
    return Head(tmp_path_factory.mktemp("head"))


@pytest.fixture
def head(_loaded):
    """Return a head without an authority. Loading Salt takes seconds, so all tests share one, which is reset before
    each.
    """
    shutil.rmtree(_loaded.authority, ignore_errors=True)
    _loaded.pillar = copy.deepcopy(PILLAR)
    return _loaded


@pytest.fixture
def core(head):
    """Return a head whose authority has issued all that is wanted."""
    head.converge()
    return head


def serial(path: Path) -> str:
    return openssl("x509", "-in", path, "-noout", "-serial")


def test_root_and_leaf(head):
    assert head.apply("root_present").changes == {
        "authority": {"old": None, "new": "made"},
        "crl": {"old": None, "new": "signed"},
    }
    assert head.apply("issued", "ldap/tls").changes == {"ldap/tls": {"old": None, "new": "issued"}}
    assert head.apply("issued", certificates=["ldap/tls", "web/tls"]).changes == {
        "web/tls": {"old": None, "new": "issued"}
    }
    for purpose in ("-verify_hostname ldap.vcore.test", "-verify_ip 10.0.0.1", "-purpose sslserver"):
        head.verify(*purpose.split())
    for wrong in ("-verify_hostname web.vcore.test", "-verify_ip 10.0.0.2", "-purpose sslclient"):
        head.verify(*wrong.split(), succeeds=False)
    openssl("verify", "-x509_strict", "-CAfile", head.authority / "ca.crt", head.authority / "ca.crt")


def test_the_plan_of_a_bare_head_is_the_whole_plan(head):
    assert set(head.converge()) == {"authority", "crl", "ldap/tls", "web/tls"}
    assert head.converge() == {}


def test_only_root_can_read(core):
    core.modules.revoke("web/tls")
    core.converge()
    for path in (core.authority, *core.authority.rglob("*")):
        status = path.lstat()
        assert status.st_uid == os.geteuid()
        if not path.is_symlink():
            assert stat.S_IMODE(status.st_mode) == (0o700 if path.is_dir() else 0o600), path
    for path in (core.authority / "ca.key", core.leaf(suffix="key")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_opened_permissions_are_closed(core):
    key = core.leaf(suffix="key").resolve()
    key.chmod(0o644)
    core.authority.chmod(0o755)
    changes = core.apply("root_present").changes
    assert changes == {"permissions": {"old": [str(core.authority), str(key)], "new": "root only"}}
    assert stat.S_IMODE(core.authority.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"names": ["lpad", *NAMES[1:]]}, "lacks lpad; has obsolete ldap"),
        ({"addresses": ["10.0.0.7"]}, "lacks 10.0.0.7; has obsolete 10.0.0.1, 127.0.0.1"),
        ({"lifetime": 90}, "lifetime of 397 days"),
        ({"key_type": "rsa-3072"}, "key type ec-p256"),
        ({"client": True}, "not for clients"),
    ],
)
def test_what_the_site_changes_is_issued_anew(core, change, reason):
    key = core.leaf(suffix="key").read_bytes()
    core.certificate.update(change)
    assert core.apply("issued", "ldap/tls").changes == {"ldap/tls": {"old": reason, "new": "issued"}}
    assert core.leaf(suffix="key").read_bytes() != key
    core.verify()


def test_a_corrected_typo_makes_root_and_leaves_anew(core):
    core.pillar["site"]["organization"] = "Virtual Core at Last"
    assert core.converge() == {
        "authority": {"old": "subject O=Virtual Core, CN=vcore root CA", "new": "made"},
        "crl": {"old": "of another authority", "new": "signed"},
        "ldap/tls": {"old": "issued by another authority", "new": "issued"},
        "web/tls": {"old": "issued by another authority", "new": "issued"},
    }
    core.verify("-crl_check", "-CRLfile", core.authority / "crl.pem")
    assert core.converge() == {}


def test_renewal(head):
    before = head.earlier(300)
    before.ensure()
    before.issue(x509.wanted(head.pillar, "ldap/tls"))
    first = serial(head.leaf())
    list_ended = before.now + x509.REVOCATION_LIST_LIFETIME
    assert head.apply("root_present").changes == {"crl": {"old": f"ends on {list_ended:%Y-%m-%d}", "new": "signed"}}
    leaf_ends = before.now + timedelta(days=397)
    assert head.apply("issued", "ldap/tls").changes == {
        "ldap/tls": {"old": f"ends on {leaf_ends:%Y-%m-%d}", "new": "issued"}
    }
    assert serial(head.leaf()) != first
    head.verify()


def test_a_renewed_root_and_the_old_one_both_check_what_either_issued(head):
    before = head.earlier(3000)
    before.ensure()
    old_root = head.folder / "old.pem"
    old_root.write_bytes((head.authority / "ca.crt").read_bytes())
    head.earlier(10).issue(x509.wanted(head.pillar, "web/tls"))
    changes = head.converge()
    assert changes["authority"] == {
        "old": f"ends on {before.now + timedelta(days=3650):%Y-%m-%d}",
        "new": "renewed",
    }
    assert "web/tls" not in changes
    assert serial(old_root) != serial(head.authority / "ca.crt")
    for name in ("ldap", "web"):
        head.verify(name=name)
        openssl("verify", "-x509_strict", "-CAfile", old_root, head.leaf(name))


def test_a_leaf_never_outlives_its_authority(head):
    head.pillar["certificate_authority"]["lifetime"] = 200
    head.converge()
    assert head.converge() == {}
    listed = head.modules.list()
    assert listed["ldap/tls"]["days_left"] in (199, 200)
    head.verify()


def test_revocation(core):
    lists = ["-crl_check", "-CRLfile", core.authority / "crl.pem"]
    core.verify(*lists)
    first = core.leaf().read_bytes()
    shown = core.modules.revoke("ldap/tls", reason="keyCompromise")
    assert [(entry["name"], entry["reason"]) for entry in shown["revoked"].values()] == [("ldap/tls", "keyCompromise")]
    assert "certificate revoked" in core.verify(*lists, succeeds=False)
    core.verify(*lists, name="web")
    modules = core.modules
    assert modules.list()["ldap/tls"]["status"] == "revoked"
    assert "certificate revoked" in modules.verify()["ldap/tls"]
    assert modules.verify()["web/tls"] == "valid"
    assert core.converge() == {"ldap/tls": {"old": "revoked", "new": "issued"}}
    core.verify(*lists)
    # By serial number, any other certificate ever issued can be revoked; earlier revocations stay.
    modules.renew("web/tls")
    (entry,) = [key for key, value in core.earlier(0)._index()["certificates"].items() if value["name"] == "web/tls"][
        :1
    ]
    assert len(modules.revoke(entry)["revoked"]) == 2
    (core.folder / "first.pem").write_bytes(first)
    refused = openssl("verify", "-CAfile", core.authority / "ca.crt", *lists, core.folder / "first.pem", succeeds=False)
    assert "certificate revoked" in refused
    text = openssl("crl", "-in", core.authority / "crl.pem", "-noout", "-text", "-CAfile", core.authority / "ca.crt")
    assert "verify OK" in text
    assert "Key Compromise" in text


@pytest.mark.parametrize("name", ["ldap/none", "deadbeef", "../../etc/passwd", ""])
def test_revoking_the_unknown(core, name):
    before = core.everything()
    with pytest.raises(Exception, match="has issued no certificate"):
        core.modules.revoke(name)
    with pytest.raises(Exception, match="unknown reason"):
        core.modules.revoke("ldap/tls", reason="dislike")
    assert core.everything() == before


def test_a_lost_revocation_list_is_signed_again(core):
    (core.authority / "crl.pem").unlink()
    assert core.apply("root_present").changes == {"crl": {"old": None, "new": "signed"}}
    (core.authority / "crl.pem").write_text("damaged")
    assert core.apply("root_present").changes == {"crl": {"old": "unknown content", "new": "signed"}}


def test_renew_on_request(core):
    first = serial(core.leaf())
    changes = core.modules.renew("ldap/tls")
    assert changes == {"ldap/tls": {"old": "renewal asked for", "new": "issued"}}
    assert serial(core.leaf()) != first
    core.verify()
    assert core.converge() == {}


@pytest.mark.parametrize(("file", "content"), [("crt", b""), ("key", b"x"), ("key", None)])
def test_a_damaged_leaf_is_issued_anew(core, file, content):
    path = core.leaf(suffix=file)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert core.apply("issued", "ldap/tls").changes == {"ldap/tls": {"old": None, "new": "issued"}}
    core.verify()


@pytest.mark.parametrize("damage", [b"", None])
def test_a_damaged_authority_is_a_persons_decision(core, damage):
    key = core.authority / "ca.key"
    if damage is None:
        key.unlink()
    else:
        key.write_bytes(damage)
    assert "restore both from a backup" in core.apply("root_present", succeeds=False).comment
    assert "is damaged" in core.apply("issued", "ldap/tls", succeeds=False).comment


def test_a_damaged_index(core):
    (core.authority / "index.json").write_text("{")
    assert "index.json is damaged" in core.apply("root_present", succeeds=False).comment


def test_unknown_certificate(core):
    comment = core.apply("issued", "ldap/other", succeeds=False).comment
    assert comment == "no service that is switched on has the certificate ldap/other; there are: ldap/tls, web/tls"


# What the site supplies.


@pytest.fixture(scope="module")
def supplied(tmp_path_factory):
    """Make a site's own root, intermediate and server certificate with openssl, as an administrator would."""
    folder = tmp_path_factory.mktemp("site")
    ca = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
    (folder / "ca.ext").write_text(ca + "authorityKeyIdentifier=keyid\n")
    (folder / "leaf.ext").write_text(
        "basicConstraints=critical,CA:FALSE\nsubjectAltName=DNS:*.vcore.test\nextendedKeyUsage=serverAuth\n"
    )

    def make(name, issuer, extensions, *more):
        openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", f"/O=University/CN={name}", cwd=folder)  # fmt: skip
        sign = ["-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key"] if issuer else ["-signkey", f"{name}.key"]
        openssl("x509", "-req", "-in", f"{name}.csr", *sign, "-set_serial", str(time.time_ns()), "-days", "800",
                "-extfile", extensions, "-out", f"{name}.crt", *more, cwd=folder)  # fmt: skip

    make("root", None, "ca.ext")
    make("intermediate", "root", "ca.ext")
    make("server", "intermediate", "leaf.ext")
    for name, parts in (("chain", ("intermediate", "root")), ("bundle", ("server", "intermediate"))):
        (folder / f"{name}.crt").write_text("".join((folder / f"{part}.crt").read_text() for part in parts))
    return folder


@pytest.mark.parametrize(("certificate", "key"), [("root.crt", "root.key"), ("chain.crt", "intermediate.key")])
def test_an_authority_of_the_site(core, supplied, certificate, key):
    settings = core.pillar["certificate_authority"]
    settings.update(certificate=str(supplied / certificate), key=str(supplied / key))
    assert core.converge() == {
        "authority": {"old": "O=Virtual Core, CN=vcore root CA", "new": "supplied by the site"},
        "crl": {"old": "of another authority", "new": "signed"},
        "ldap/tls": {"old": "issued by another authority", "new": "issued"},
        "web/tls": {"old": "issued by another authority", "new": "issued"},
    }
    assert core.converge() == {}
    core.verify("-crl_check", "-CRLfile", core.authority / "crl.pem")
    assert (core.folder / "root.pem").read_text() == (supplied / "root.crt").read_text()
    information = core.modules.root()
    assert (information["source"], information["root"]) == ("supplied by the site", "O=University, CN=root")
    handshake(core)
    # Removed from the site file again, the head makes its own.
    settings.update(certificate=None, key=None)
    assert core.converge()["authority"]["new"] == "made"
    assert core.converge() == {}


@pytest.mark.parametrize(
    ("certificate", "key", "problem"),
    [
        ("server.crt", "server.key", "is not the certificate of an authority"),
        ("root.crt", "server.key", "is not the key of the first certificate"),
        ("intermediate.crt", "intermediate.key", "the chain has to go up to the root"),
        ("none.crt", "root.key", "none.crt does not exist"),
    ],
)
def test_an_authority_of_the_site_that_cannot_be_used(core, supplied, certificate, key, problem):
    core.pillar["certificate_authority"].update(certificate=str(supplied / certificate), key=str(supplied / key))
    assert problem in core.apply("root_present", succeeds=False).comment


def test_a_certificate_of_the_site(core, supplied):
    core.certificate["supplied"] = {"certificate": str(supplied / "bundle.crt"), "key": str(supplied / "server.key")}
    change = {"old": "issued by O=Virtual Core, CN=vcore root CA", "new": "supplied by the site"}
    assert core.apply("issued", "ldap/tls").changes == {"ldap/tls": change}
    assert core.leaf().read_text() == (supplied / "bundle.crt").read_text()
    openssl("verify", "-CAfile", supplied / "root.crt", "-untrusted", core.leaf(), core.leaf())
    assert stat.S_IMODE(core.leaf(suffix="key").stat().st_mode) == 0o600
    modules = core.modules
    assert modules.list()["ldap/tls"]["status"] == "supplied"
    assert modules.verify("ldap/tls") == {"ldap/tls": "valid"}
    with pytest.raises(Exception, match="is supplied by the site: put the new one at"):
        modules.renew("ldap/tls")
    core.certificate["supplied"] = None
    assert core.apply("issued", "ldap/tls").changes == {
        "ldap/tls": {"old": "issued by another authority", "new": "issued"}
    }


def test_a_certificate_of_the_site_that_cannot_be_used(core, supplied):
    core.certificate["supplied"] = {"certificate": str(supplied / "root.crt"), "key": str(supplied / "server.key")}
    comment = core.apply("issued", "ldap/tls", succeeds=False).comment
    for part in ("certificate ldap/tls: ", "is not the key of", "is not for ldap.vcore.test", "for TLS servers"):
        assert part in comment
    assert "\n" not in comment


# In use.


def handshake(core, *more, succeeds=True, server=()):
    """Make a real TLS handshake with the stored pair; the client checks chain and name with the options of ``more``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = core.folder / "root.pem"
    root.write_bytes(trust.root_of((core.authority / "ca.crt").read_bytes()))
    serving = subprocess.Popen(
        ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-quiet", "-cert", core.leaf(), "-cert_chain",
         core.leaf(), "-key", core.leaf(suffix="key"), *server],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "s_server does not listen"
                time.sleep(0.05)
        return openssl(
            "s_client", "-connect", f"127.0.0.1:{port}", "-brief", "-x509_strict", "-CAfile", root,
            "-verify_return_error", *(more or ("-verify_hostname", "ldap.vcore.test")),
            succeeds=succeeds, input="",
        )  # fmt: skip
    finally:
        serving.terminate()
        serving.wait(10)


def test_handshake(core):
    assert "Verification: OK" in handshake(core)
    assert "hostname mismatch" in handshake(core, "-verify_hostname", "web.vcore.test", succeeds=False).lower()


def test_client_certificates(core):
    core.certificate["client"] = True
    core.converge()
    mutual = ["-Verify", "1", "-verify_return_error", "-CAfile", core.authority / "ca.crt"]
    own = ["-cert", core.leaf(), "-key", core.leaf(suffix="key")]
    # TLS 1.2, in which the client learns of a refusal before its handshake ends.
    assert "Verification: OK" in handshake(core, "-tls1_2", *own, server=mutual)
    web = ["-cert", core.leaf("web"), "-key", core.leaf("web", "key")]
    handshake(core, "-tls1_2", *web, server=mutual, succeeds=False)
    handshake(core, "-tls1_2", server=mutual, succeeds=False)


def test_root_is_shown(core):
    information = core.modules.root()
    fingerprint = openssl("x509", "-in", core.authority / "ca.crt", "-noout", "-fingerprint", "-sha256")
    assert fingerprint.strip().split("=")[1].replace(":", "").lower() == information["sha256"]
    assert information["key_type"] == "ec-p384"
    assert information["days_left"] in (3649, 3650)
    assert information["source"] == "made here"


def test_list_for_programs(core):
    """The command itself prints JSON for programs on standard output, and nothing else."""
    core.pillar["services"].pop("web")
    core.write_pillar()
    done = subprocess.run(
        [Path(sys.executable).parent / "salt-call", "-c", core.folder / "salt", "--local", "--out", "json",
         "vcore_ca.list"],
        capture_output=True, text=True, check=True, timeout=120, env=os.environ | {"PYTHONPATH": str(BRAIN)},
    )  # fmt: skip
    listed = json.loads(done.stdout)["local"]
    assert {name: entry["status"] for name, entry in listed.items()} == {"ldap/tls": "valid", "web/tls": "unused"}
    assert listed["ldap/tls"]["names"] == sorted(NAMES)
    assert listed["ldap/tls"]["days_left"] in (396, 397)


def test_looking_costs_milliseconds(core):
    """Twenty leaves, all as wanted. The bound is wide, for slow machines; a leaf takes some 1.5 ms on a fast one."""
    for number in range(18):
        core.pillar["services"][f"service-{number}"] = {"certificates": {"tls": core.certificate}}
    leaves = x509.wanted_all(core.pillar)
    store = core.earlier(0)
    for leaf in leaves:
        store.issue(leaf)
    assert least_seconds(lambda: store.plan_leaves(leaves) == {}, times=3) < 0.01 * len(leaves)


# Two at once, and killed.

PARALLEL = """
import json, sys
from pathlib import Path
from vcore.certificates import x509
from vcore.certificates.authority import Authority
pillar = json.loads(sys.stdin.read())
store = Authority(Path(sys.argv[1]), x509.policy(pillar))
print(json.dumps([store.ensure(), store.issue(x509.wanted(pillar, "ldap/tls"))]))
"""


def test_two_runs_do_not_issue_at_once(head):
    head.write_pillar()
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PARALLEL, head.authority],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(BRAIN)},
        )
        for _ in range(4)
    ]  # fmt: skip
    for process in running:
        process.stdin.write(json.dumps(head.pillar))
        process.stdin.close()
    results = [json.loads(process.stdout.read()) for process in running]
    assert [process.wait(60) for process in running] == [0] * 4
    assert sorted(bool(root) for root, _ in results) == [False, False, False, True]
    assert sorted(bool(leaf) for _, leaf in results) == [False, False, False, True]
    assert len(head.earlier(0)._index()["certificates"]) == 1
    head.verify()


def test_a_lock_that_is_held_is_one_clear_sentence(core, monkeypatch):
    monkeypatch.setattr(authority, "LOCK_TIMEOUT", 0.2)
    with (
        core.earlier(0)._locked(),
        pytest.raises(x509.VcoreError, match=r"another run has held .*authority/\.lock for 0\.2 seconds"),
    ):
        core.earlier(0).ensure()


@pytest.mark.parametrize("scenario", ["first", "renewal", "plain-files", "new-root", "revocation"])
def test_killed_anywhere_the_next_run_completes(scenario):
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "ca_crash.py", scenario],
        capture_output=True, text=True, check=False, timeout=300, env=os.environ | {"PYTHONPATH": str(BRAIN)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5, "the run was hardly killed at all"


# Trust.


@pytest.fixture
def trust_store(head):
    """Yield this machine's own trust store, which is restored afterwards."""
    family = head.loaders.grains["os_family"]
    store, files = trust.trust_files(family, REGISTRY)
    if not shutil.which(store.command[0]):
        pytest.fail(f"{store.command[0]} is missing: apt-get install ca-certificates")
    before = {path: path.read_bytes() if path.is_file() else None for path in files}
    for path in files:
        path.unlink(missing_ok=True)
    yield store, files
    for path, content in before.items():
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)
    if files[1].parent.is_dir() and not any(files[1].parent.iterdir()):
        files[1].parent.rmdir()
    subprocess.run(store.command, check=True, capture_output=True)


def test_trust_on_the_head(core, trust_store):
    store, files = trust_store
    expected = {
        **{str(path): {"old": None, "new": "installed"} for path in files},
        str(store.bundle): {"old": "without the root", "new": "with the root"},
    }
    openssl("verify", "-CAfile", store.bundle, core.leaf(), succeeds=False)
    assert core.apply("trusted").changes == expected
    openssl("verify", "-CAfile", store.bundle, core.leaf())
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o644, 0o644]
    # The plan of a run that also replaces the root says so, although the new root is not made yet.
    core.pillar["site"]["organization"] = "Another"
    core.pillar["authority_certificate"] = (core.authority / "ca.crt").read_text()
    core.write_pillar()
    plan = core.loaders.states.vcore_ca.trusted("A sentence", test=True)
    core.converge()
    result = core.loaders.states.vcore_ca.trusted("A sentence")
    assert plan.changes == result.changes
    assert result.changes[str(files[0])] == {"old": "another certificate", "new": "installed"}
    openssl("verify", "-CAfile", store.bundle, core.leaf())


NODE = """
import json, sys
for name in ("M2Crypto", "pydantic", "cryptography"):
    sys.modules[name] = None
import salt.config
from saltfactories.utils.functional import Loaders
loaders = Loaders(salt.config.minion_config(sys.argv[1]))
loaders.refresh_pillar()
state = loaders.states["vcore_ca." + sys.argv[2]]
results = [state("A sentence", test=True), state("A sentence"), state("A sentence")]
results += [loaders.states.vcore_ca.root_present("A sentence"), loaders.states.vcore_ca.issued("ldap/tls")]
print(json.dumps([[result.result, result.changes, result.comment] for result in results]))
"""


def on_a_node(core, state):
    """Plan, apply and apply again on a node without M2Crypto; return what the head's states say there."""
    done = subprocess.run(
        [sys.executable, "-c", NODE, core.folder / "salt" / "minion", state],
        capture_output=True, text=True, check=False, timeout=120, env=os.environ | {"PYTHONPATH": str(BRAIN)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_trust_on_a_node_without_m2crypto(core, trust_store, tmp_path):
    store, files = trust_store
    chain = (core.authority / "ca.crt").read_text()
    node = {"name": "compute-1", "roles": ["compute"], "address": "10.0.0.2"}
    core.pillar = {"node": node, "registry": REGISTRY, "authority_certificate": chain}
    core.write_pillar()
    elsewhere = shutil.move(core.authority, tmp_path / "elsewhere")
    plan, applied, again, root, leaf = on_a_node(core, "trusted")
    assert plan[0] is None
    assert applied[:2] == [True, plan[1]]
    assert set(plan[1]) == {str(path) for path in (*files, store.bundle)}
    assert again[:2] == [True, {}]
    assert root == leaf == [False, {}, "this works on the head of a core only; run it there"]
    openssl("verify", "-CAfile", store.bundle, elsewhere / "issued" / "ldap" / "tls.crt")
    plan, applied, again, *_ = on_a_node(core, "untrusted")
    assert plan[0] is None
    assert applied[:2] == [True, plan[1]]
    assert set(plan[1]) == {str(path) for path in (*files, store.bundle)}
    assert again[:2] == [True, {}]
    openssl("verify", "-CAfile", store.bundle, elsewhere / "issued" / "ldap" / "tls.crt", succeeds=False)


def test_a_node_trusts_no_more(core, trust_store):
    store, (anchor, docker) = trust_store
    assert core.apply("untrusted").changes == {}
    core.apply("trusted")
    gone = {
        **{str(path): {"old": "installed", "new": None} for path in (anchor, docker)},
        str(store.bundle): {"old": "with the root", "new": "without the root"},
    }
    assert core.apply("untrusted").changes == gone
    assert not anchor.exists()
    assert anchor.parent.is_dir()
    assert not docker.parent.exists()
    openssl("verify", "-CAfile", store.bundle, core.leaf(), succeeds=False)
    # Files that others put beside Docker's stay; the run works after one that was killed before it refreshed the trust
    # store, and without a pillar.
    core.apply("trusted")
    core.pillar = {}
    other = docker.with_name("client.cert")
    other.touch()
    anchor.unlink()
    try:
        del gone[str(anchor)]
        assert core.apply("untrusted", registry=REGISTRY).changes == gone
        assert list(docker.parent.iterdir()) == [other]
    finally:
        other.unlink()
    openssl("verify", "-CAfile", store.bundle, core.leaf(), succeeds=False)


def test_trust_without_a_certificate(tmp_path):
    node = Head(tmp_path, {"registry": REGISTRY})
    assert "apply the head's states" in node.apply("trusted", succeeds=False).comment
