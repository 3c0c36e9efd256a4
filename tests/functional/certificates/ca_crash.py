"""Kill -9 at every step: test_ca.py runs this as a program, because it forks, which must not happen among Salt's
threads.

For one scenario it forks children, of which the first is killed before its first change of the file system, the second
before its second, and so on until one survives. After each death the store has to be consistent, and the next run has
to complete it. It prints the number of deaths.
"""

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cryptography.x509  # noqa: F401  before the forks, for their sake
from vcore.certificates import x509
from vcore.certificates.authority import Authority

POLICY = x509.Policy(organization="Virtual Core", common_name="vcore root CA", lifetime=3650, renew_before=30)
LEAF = x509.Leaf("ldap/tls", ("ldap", "ldap.vcore.test"), ("10.0.0.1",), "Virtual Core", 397)
EVENTS = {"os.rename", "os.mkdir", "os.symlink", "os.chmod", "os.chown", "os.remove", "os.rmdir"}
EARLIER = datetime.now(UTC) - timedelta(days=300)


def authority(folder, policy=POLICY, now=None):
    return Authority(folder, policy, now)


def made(folder, now=None):
    store = authority(folder, now=now)
    store.ensure()
    store.issue(LEAF)


def plain(folder):
    """Make a store as restored from a backup that followed links, due for renewal."""
    made(folder, EARLIER)
    for base in (folder / "ca", folder / "issued" / "ldap" / "tls"):
        for suffix in (".crt", ".key"):
            path = base.with_suffix(suffix)
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)
            path.chmod(0o600)


def converge(folder, policy=POLICY):
    store = authority(folder, policy)
    store.ensure()
    store.issue(LEAF)


OTHER = replace(POLICY, common_name="another root CA")
#: For each scenario: what is there before, what the killed run does, and the authority that is wanted.
SCENARIOS = {
    "first": (lambda folder: None, converge, POLICY),
    "renewal": (lambda folder: made(folder, EARLIER), converge, POLICY),
    "plain-files": (plain, converge, POLICY),
    "new-root": (made, lambda folder: converge(folder, OTHER), OTHER),
    "revocation": (made, lambda folder: authority(folder).revoke("ldap/tls", "keyCompromise"), POLICY),
}


def killed(folder, action, point):
    """Fork a child that dies before its change number ``point``; return whether it died."""
    child = os.fork()
    if not child:
        seen = 0

        def count(event, arguments):
            nonlocal seen
            writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in EVENTS or writes:
                seen += 1
                if seen == point:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            action(folder)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed"
    return os.WIFSIGNALED(status)


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=True)
    return done.stdout


def matches(base):
    """Return whether certificate and key are a pair, according to openssl."""
    public = openssl("x509", "-in", base.with_suffix(".crt"), "-noout", "-pubkey")
    return public == openssl("pkey", "-in", base.with_suffix(".key"), "-pubout")


def consistent(folder, existed):
    for base in (folder / "ca", folder / "issued" / "ldap" / "tls"):
        present = [base.with_suffix(suffix).exists() for suffix in (".crt", ".key")]
        assert all(present) or not existed, f"{base.name} is gone"
        if all(present):
            assert matches(base), f"{base.name}: key and certificate do not match"
    store = authority(folder)
    leaf = store.leaf("ldap/tls")
    if leaf:
        assert leaf.facts.serial in store._index()["certificates"], "issued and not noted"


def complete(folder, policy):
    converge(folder, policy)
    store = authority(folder, policy)
    assert store.plan() == {} == store.plan_leaves([LEAF])
    assert store.verify(LEAF) == []
    pairs = [path for path in folder.glob("**/.pairs/*/*") if path.name != "current"]
    assert len(pairs) == 2, f"left over: {pairs}"
    assert not list(folder.glob(".*.json.*")) + list(folder.glob(".crl*"))


def main(name):
    before, action, policy = SCENARIOS[name]
    deaths = 0
    while True:
        with tempfile.TemporaryDirectory(prefix="virtual-core-") as temporary:
            folder = Path(temporary) / "authority"
            before(folder)
            existed = folder.exists()
            died = killed(folder, action, deaths + 1)
            consistent(folder, existed)
            complete(folder, policy)
            if not died:
                break
            deaths += 1
    print(deaths)


if __name__ == "__main__":
    main(sys.argv[1])
