"""Tokens and proofs: only proofs that the head's tokens made, for this id and key and in time, are accepted."""

import gzip
import io
import subprocess
import sys
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from salt.utils.crypt import pem_finger
from vcore.base.errors import Refused, VcoreError
from vcore.enrolment import __main__, bundle
from vcore.enrolment import tokens as enrolment_tokens
from vcore.nodes import code

KEY, OTHER = b"k" * 32, b"o" * 32
PUB = "-----BEGIN PUBLIC KEY-----\nMIIBIjAN\nBgkqhkiG\nIDAQAB\n-----END PUBLIC KEY-----\n"
PUB2 = PUB.replace("MIIBIjAN", "MIIBIjAO")
NOW = 1_764_150_000
ANY = enrolment_tokens.make_token(KEY, "role=compute", NOW + 60)
FACTS = {"master_finger": "aa:bb", "subnet": "172.18.0.0/24"}
HEAD = {"head": {"name": "head"}, "nodes": {"head": {"roles": ["head"]}}, "services": {}}


def proof(token=ANY, minion="compute-1", pub=PUB):
    return enrolment_tokens.prove(token, minion, pub)


def verify(text, minion="compute-1", pub=PUB, key=KEY, now=NOW):
    return enrolment_tokens.verify(key, text, minion, pub, now=now)


def test_a_good_proof_holds_until_its_end():
    assert verify(proof()).scope == "role=compute"
    assert verify(proof(), now=NOW + 59.9)
    with pytest.raises(Refused, match=r"its token expired at 2025-11-26 09:41:00 UTC"):
        verify(proof(), now=NOW + 60)


def test_a_proof_that_has_ended_is_still_a_genuine_one():
    """The proof is read all the same, so that the administrator is told why it no longer counts."""
    assert enrolment_tokens.genuine(KEY, proof(), "compute-1", PUB)
    assert not enrolment_tokens.genuine(KEY, proof(), "compute-1", "no key")
    assert not enrolment_tokens.genuine(KEY, None, "compute-1", PUB)


def test_line_endings_of_the_key_do_not_matter():
    assert verify(proof(), pub=PUB.strip().replace("\n", "\r\n"))


@pytest.mark.parametrize(
    ("text", "how"),
    [
        (proof(enrolment_tokens.make_token(OTHER, "role=compute", NOW + 60)), {}),
        (proof(minion="compute-2"), {}),
        (proof(pub=PUB2), {}),
        (proof(), {"minion": "compute-2"}),
        (proof(), {"pub": PUB2}),
        (proof(), {"key": OTHER}),
        (ANY, {}),
    ],
    ids=["foreign token", "other id", "other key", "replayed as another", "replayed with another key", "key renewed",
         "the token itself"],
)  # fmt: skip
def test_what_is_not_of_this_core_id_and_key_is_refused(text, how):
    with pytest.raises(Refused, match="not made with a token of this core, or is for another id or key"):
        verify(text, **how)
    claimed = {"minion": "compute-1", "pub": PUB, "key": KEY, **how}
    assert not enrolment_tokens.genuine(claimed["key"], text, claimed["minion"], claimed["pub"])


def test_a_token_for_one_name_is_for_that_name():
    token = enrolment_tokens.make_token(KEY, "node=gpu-1", NOW + 60)
    assert verify(proof(token, "gpu-1"), "gpu-1").scope == "node=gpu-1"
    with pytest.raises(Refused, match="its token is for gpu-1"):
        verify(proof(token, "gpu-2"), "gpu-2")


@given(st.integers(min_value=0, max_value=len(proof()) - 1), st.characters(codec="utf-8"))
def test_no_character_of_a_proof_can_be_changed(place, character):
    good = proof()
    changed = good[:place] + character + good[place + 1 :]
    if changed != good:
        with pytest.raises(Refused):
            verify(changed)


WIDER = ["role=head", "role=compute,head", "node=*", "node=a,b", "node=", "node=x\nrole=head"]


@pytest.mark.parametrize("scope", WIDER)
def test_a_scope_that_no_token_has_is_refused_even_with_the_right_key(scope):
    text = f"vc1.{scope}.{NOW + 60}.{'0' * 16}."
    mac = enrolment_tokens._token_mac(KEY, enrolment_tokens.Claim(scope, NOW + 60, "0" * 16))
    with pytest.raises(Refused):
        verify(text + mac.hex())


WORDS = ["*", "a,b", "x\nNodeName=evil", "x', foo: [{{ 7*7 }}]", "", "Compute-1", "compute-1\n", "../x", "é"]
HOSTILE = [*WORDS, None, 7, []]


@pytest.mark.parametrize("minion", HOSTILE)
def test_an_id_that_no_node_can_have_is_refused_before_all_else(minion):
    assert not enrolment_tokens.well_formed(minion, PUB, proof())
    with pytest.raises(Refused, match="its id is no name"):
        verify(proof(), minion)


ANYTHING = st.one_of(st.text(), st.none(), st.integers(), st.binary(), st.lists(st.text()))


@given(st.one_of(ANYTHING, st.just(ANY[:-1]), st.just(ANY + "0")))
def test_no_input_breaks_the_parser(text):
    assert not enrolment_tokens.well_formed("compute-1", PUB, text)
    with pytest.raises(Refused, match="this is not an enrolment token"):
        enrolment_tokens.parse(text)


@given(st.one_of(st.text(), st.text("-BEGIND \nAb9+/="), st.none(), st.binary()), st.one_of(st.text(), st.none()))
def test_no_key_and_no_id_break_the_check(pub, minion):
    with pytest.raises(Refused):
        verify(proof(), minion, pub)


def test_a_well_formed_proof_is_looked_at_and_an_endless_key_is_not():
    assert enrolment_tokens.well_formed("compute-1", PUB, proof())
    assert not enrolment_tokens.well_formed("compute-1", "A" * 5000, proof())
    assert not enrolment_tokens.well_formed("compute-1", None, proof())


def test_tokens_differ_and_carry_nothing_of_the_key():
    tokens = {enrolment_tokens.make_token(KEY, "role=compute", NOW) for _ in range(50)}
    assert len(tokens) == 50
    assert not any(KEY.hex() in token for token in tokens)


@pytest.mark.parametrize(("word", "length"), [("30m", 1800), ("1h", 3600), ("2d", 172800), ("7d", 604800), ("90s", 90)])
def test_words_for_a_time(word, length):
    assert enrolment_tokens.seconds(word) == length


NO_TIMES = ["8d", "0h", "h", "1", 3600, "-1h", "1h1m", "1 h", "", None, "1w", "٣h", "9999999d", "1h\n"]


@pytest.mark.parametrize("word", NO_TIMES)
def test_other_words_are_refused_in_a_sentence(word):
    with pytest.raises(VcoreError, match=r"^ttl=.* at most 7d$"):
        enrolment_tokens.seconds(word)


def test_the_scope_of_a_token():
    assert enrolment_tokens.scope_of() == "role=compute"
    assert enrolment_tokens.scope_of(role="compute") == "role=compute"
    assert enrolment_tokens.scope_of(node="gpu-1") == "node=gpu-1"
    for wrong in ({"node": "gpu-1", "role": "compute"}, {"role": "head"}, {"node": "*"}, {"node": "a\n"}, {"node": 7}):
        with pytest.raises(VcoreError):
            enrolment_tokens.scope_of(**wrong)


def test_the_fingerprint_is_the_one_that_salt_pins(tmp_path):
    (tmp_path / "key.pub").write_text(PUB)
    assert enrolment_tokens.fingerprint(PUB) == pem_finger(str(tmp_path / "key.pub"))


# --- what a proof that holds may have -----------------------------------------------------------------------------


def granted(minion="compute-1", scope="role=compute", entry=None, **resolved):
    return enrolment_tokens.granted({**HEAD, **resolved}, entry, enrolment_tokens.Claim(scope, 0, ""), minion)


def test_a_new_node_gets_the_role_that_the_token_grants():
    assert granted() == ["compute"]
    assert granted(scope="node=compute-1") == ["compute"]


def test_a_node_of_the_site_has_the_roles_of_the_site():
    nodes = {"compute-1": {"roles": ["compute"]}}
    assert granted(nodes=nodes) == []
    assert granted(nodes=nodes, entry={"roles": ["compute"]}) == ["compute"], "it was enrolled by token before"


def test_the_name_of_the_head_is_not_to_be_had():
    for scope in ("role=compute", "node=head"):
        with pytest.raises(Refused, match="its id is the head's"):
            granted("head", scope)


def test_a_node_that_is_to_have_more_than_its_role_needs_a_token_of_its_own():
    nodes, services = {"files": {"roles": ["compute"]}}, {"file-router": {"node": "files"}}
    with pytest.raises(Refused, match=r"the site gives files the service file-router; make a token .* node=files"):
        granted("files", nodes=nodes, services=services)
    assert granted("files", "node=files", nodes=nodes, services=services) == []


def test_a_node_that_is_being_taken_out_does_not_come_back_meanwhile():
    with pytest.raises(Refused, match="being retired"):
        granted(nodes={"compute-1": {"roles": ["compute"], "retiring": True}})


# --- the bundle and the line --------------------------------------------------------------------------------------


def test_the_bundle_is_the_same_from_the_same_files(checkout):
    one, other = bundle.bundle(checkout, FACTS), bundle.bundle(checkout, FACTS)
    assert one == other
    assert len(one) < 500_000
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(one))) as tar:
        entries = tar.getmembers()
    files = {name for name in bundle.CONTENTS if name != "etc"}
    assert {entry.name for entry in entries} >= {
        *files,
        "etc/node.conf",
        "etc/core.yaml",
        "salt/_modules/vcore_node.py",
    }
    assert not [entry.name for entry in entries if "__pycache__" in entry.name or ".egg-info" in entry.name]
    assert all(entry.isfile() and (entry.uid, entry.mtime) == (0, 0) for entry in entries)
    assert next(entry for entry in entries if entry.name == "bootstrap.sh").mode == 0o755


def test_the_bundle_holds_nothing_of_the_site(checkout):
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(bundle.bundle(checkout, FACTS)))) as tar:
        assert not [name for name in tar.getnames() if name.startswith(("pillar", "/", ".."))]


def test_what_the_bundle_brings_is_enough_to_prove_oneself(checkout, tmp_path):
    with tarfile.open(fileobj=io.BytesIO(bundle.bundle(checkout, FACTS))) as tar:
        tar.extractall(tmp_path, filter="data")
    (tmp_path / "minion.pub").write_text(PUB)
    # With -I and a plain path, the test's environment cannot help.
    program = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    program += "runpy.run_module('vcore.enrolment', run_name='__main__')"
    command = [sys.executable, "-IS", "-c", program, tmp_path / "salt/_utils", "prove", "compute-1"]
    command.append(tmp_path / "minion.pub")
    done = subprocess.run(command, input=f"{ANY}\n", capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert verify(done.stdout.strip())
    wrong = subprocess.run(command, input="x\n", capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout, wrong.stderr) == (1, "", "this is not an enrolment token\n")


def test_a_machine_says_which_code_it_has(checkout, tmp_path, capsys):
    """The modules in the bundle, laid out as bootstrap.sh does it, have the hash of the head's own."""
    with tarfile.open(fileobj=io.BytesIO(bundle.bundle(checkout, FACTS))) as tar:
        tar.extractall(tmp_path, filter="data")
    for kind in code.KINDS:
        (tmp_path / "salt" / f"_{kind}").rename(tmp_path / kind)
    head = code.code(checkout / "salt")
    assert __main__.main(["code", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{head}\n"
    module = tmp_path / "modules" / "vcore_node.py"
    (tmp_path / "elsewhere.py").write_text("")
    (module.parent / "notes.txt").write_text("")
    assert code.code(tmp_path, "") == head
    (module.parent / "more.py").write_text("")
    assert code.code(tmp_path, "") != head


def test_every_kind_of_module_is_the_nodes_or_the_heads(checkout):
    kinds = {path.name.removeprefix("_") for path in (checkout / "salt").glob("_*")}
    assert kinds - {"engines", "pillar", "runners"} == set(code.KINDS)


def test_the_line_is_one_that_a_shell_takes_whole():
    line = bundle.command(ANY, "10.0.0.1", 4507, b"the certificate")
    assert "\n" not in line
    assert line.count("'") == 2, "the script is one word in single quotes"
    script = line.split("'")[1]
    assert ANY not in script
    done = subprocess.run(["sh", "-n", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""
