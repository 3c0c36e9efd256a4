"""The reference in docs/ is up to date and complete: every key is described, and every example is accepted."""

import shutil
from pathlib import Path

import pydantic
import pytest
from vcore import reference
from vcore.base.paths import Paths
from vcore.kernel import site
from vcore.kernel.models import Model
from vcore.services import catalogue

CHECKOUT = Path(__file__).parents[2]
PATHS = Paths(checkout=CHECKOUT)
CATALOGUE = catalogue.load(PATHS.services)
ROOTS = {"vcore": site.model(), "service.yaml": catalogue.model()} | {
    name: service.settings_model() for name, service in CATALOGUE.items() if service.settings
}


def keys():
    """Yield every key of every model and service: its path, its entry, and whether other keys are below it."""
    for root, model in ROOTS.items():
        found = list(reference.sections(model.model_json_schema(), root))
        parents = {section.path for section in found}
        for section in found:
            for entry in section.entries:
                path = reference.join(section.path, entry.name)
                yield pytest.param(entry, any(other.startswith(path) for other in parents), id=path)


def models(model):
    """Yield a model and the models that its fields hold."""
    yield model
    for field in model.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, Model):
                yield from models(kind)


def test_the_files_are_up_to_date():
    assert not reference.stale(PATHS), "write them with: python -m vcore.reference"


@pytest.mark.parametrize(("entry", "parent"), keys())
def test_a_key_is_described(entry, parent):
    assert entry.schema["description"].strip()
    if not parent and entry.name != "settings":
        assert entry.schema.get("example") is not None, "it has no example"


def test_every_example_is_valid():
    tried = 0
    for root in ROOTS.values():
        for model in models(root):
            for name, field in model.model_fields.items():
                example = (field.json_schema_extra or {}).get("example")
                if example is not None:
                    one = pydantic.create_model("One", __base__=Model, **{name: (field.annotation, field)})
                    one.model_validate({name: example})
                    tried += 1
    assert tried > 70


def test_every_key_stands_in_the_file():
    text = reference.settings(CATALOGUE) + reference.service_file()
    for root, model in ROOTS.items():
        for section in reference.sections(model.model_json_schema(), "vcore" if root == "vcore" else ""):
            assert reference.table(section).splitlines()[-1].split("|")[1] in text
            for entry in section.entries:
                assert f"\n| `{entry.name}` |" in text
    links = {line.split("(#", 1)[1].split(")")[0] for line in text.splitlines() if "](#" in line}
    headings = {reference.anchor(line.lstrip("# ")) for line in text.splitlines() if line.startswith("#")}
    assert links and links <= headings


def test_what_a_value_may_be_in_words():
    found = {
        f"{section.path}.{entry.name}": reference.kind(entry.schema)
        for root in (site.model(), catalogue.model())
        for section in reference.sections(root.model_json_schema(), root.__name__)
        for entry in section.entries
    }
    assert found["Site.certificate_authority.lifetime"] == "whole number, 365 to 7300 (days)"
    assert found["Site.services.<service>.memory.limit"] == "size"
    assert found["Site.nodes.<node>.roles"] == "list; each: one of `head`, `compute`; at least one"
    assert found["Site.services.<service>.enabled"] == "true or false"
    assert found["Site.nodes.<node>.logins.groups"].startswith("list"), "keys of what may be left out are missing"
    assert found["Service.volumes.<volume>.mode"] == "mode, in quotes"
    ldap = next(reference.sections(CATALOGUE["ldap"].settings_model().model_json_schema()))
    assert reference.kind(next(e for e in ldap.entries if e.name == "database_maximum_size").schema).startswith(
        "size, at"
    )


@pytest.fixture
def copy(tmp_path):
    """Make a checkout that has what the reference is made from, and no docs yet."""
    shutil.copytree(PATHS.services, Paths(checkout=tmp_path).services)
    (tmp_path / "docs").mkdir()
    return tmp_path


def test_the_command_writes_then_checks(copy, capsys):
    command = ["--checkout", str(copy)]
    assert reference.main([*command, "--check"]) == 1
    assert "+# Settings" in capsys.readouterr().out
    assert not list((copy / "docs").iterdir()), "checking wrote something"
    assert reference.main(command) == 0
    assert reference.main([*command, "--check"]) == 0
    service = Paths(checkout=copy).services / "ldap" / "service.yaml"
    service.write_text(service.read_text().replace("default: 10\n", "default: 11\n"))
    assert reference.main([*command, "--check"]) == 1
    assert "password_minimum_length" in capsys.readouterr().out


def test_a_broken_catalogue_is_one_line(copy, capsys):
    (Paths(checkout=copy).services / "ldap" / "service.yaml").write_text("title: 1\n")
    assert reference.main(["--checkout", str(copy)]) == 1
    assert capsys.readouterr().err.startswith("ldap/service.yaml: title:")
