"""Compute nodes have Salt, docker and the standard library: the code of their states imports nothing else."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SALT = Path(__file__).parents[2] / "salt"
STATES = SALT / "states"
#: Libraries that only the head has in addition.
HEAD_ONLY = ("M2Crypto", "hostlist", "ldap", "psycopg2", "pydantic", "rich")
#: Modules of the brain that are imported late, because they load docker, which takes a while.
LATE = ("swarm.membership",)
LOAD = """
import importlib.util, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is not installed on nodes")

sys.meta_path.insert(0, Refuse())
for name in {late!r}:
    importlib.import_module(f"vcore.{{name}}")
for path in {files!r}:
    spec = importlib.util.spec_from_file_location("loaded", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    virtual = module.__virtual__() if hasattr(module, "__virtual__") else True
    if virtual is not True:
        sys.exit(f"{{path}}: {{virtual[1]}}")
"""


def modules():
    """Return the modules that nodes need: of the states of their roles, areas and services, the returners, and what the
    head calls.
    """
    texts = [path.read_text() for role in ("node", "compute") for path in (STATES / "roles" / role).glob("*.sls")]
    texts += [path.read_text() for folder in ("areas", "services") for path in (STATES / folder).glob("*/node.sls")]
    names = {name for text in texts for name in re.findall(r"^\s+(vcore_\w+)\.\w+:", text, re.MULTILINE)}
    assert {"vcore_host", "vcore_storage"} <= names
    states = [SALT / "_states" / f"{name}.py" for name in names]
    return sorted(map(str, [*states, *(SALT / "_returners").glob("*.py"), SALT / "_modules" / "vcore_node.py"]))


def load(files, late=LATE, blocked=HEAD_ONLY):
    program = LOAD.format(blocked=blocked, late=late, files=files)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", modules(), ids=lambda path: Path(path).stem)
def test_a_module_for_nodes_loads_with_what_nodes_have(path):
    done = load([path])
    assert done.returncode == 0, done.stderr


def test_what_only_the_head_has_would_be_noticed():
    done = load([str(SALT / "_states" / "vcore_directory.py")])
    assert done.returncode != 0
    assert "is not installed on nodes" in done.stderr
