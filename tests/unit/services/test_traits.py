"""Traits: what services are given by naming it in ``uses``."""

import pytest
import yaml
from support import sites
from vcore.base.errors import VcoreError
from vcore.services import catalogue, templates
from vcore.services.catalogue import Trait

LIBRARY = {
    "base": Trait(
        configs={"base.conf": {"template": "base.j2", "path": "/etc/base.conf", "area": "people"}},
        volumes={"home": {"path": "/home", "shared": "home"}},
    ),
    "more": Trait(
        uses=("base",),
        configs={"more.conf": {"template": "more.j2", "path": "/etc/more.conf", "area": "people"}},
        secrets={"token": {"kind": "token", "path": "/run/secrets/token"}},
    ),
    "this": Trait(uses=("that",)),
    "that": Trait(uses=("this",)),
    "broken": Trait(uses=("nothing",)),
}


@pytest.fixture
def load(tmp_path):
    def load(**keys):
        folder = tmp_path / "demo"
        folder.mkdir(exist_ok=True)
        entry = {"title": "Demo", "image": {"name": "demo"}, "memory": {"limit": "64M"}, **keys}
        (folder / "service.yaml").write_text(yaml.safe_dump(entry))
        return catalogue.load(tmp_path)["demo"]

    return load


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setattr(catalogue, "traits", lambda: LIBRARY)


def test_a_service_has_the_entries_of_its_traits_and_of_those_that_they_use(load, library):
    service = load(uses=["more"], configs={"own.conf": {"template": "own.j2", "path": "/etc/own.conf"}})
    assert {name: config.area for name, config in service.configs.items()} == {
        "base.conf": "people", "more.conf": "people", "own.conf": None,
    }  # fmt: skip
    assert service.secrets["token"].kind == "token"
    # Keys that other areas add are known, too.
    assert service.model_dump()["volumes"]["home"]["shared"] == "home"


def test_a_service_without_traits_has_its_own_entries_only(load, library):
    service = load()
    assert (service.configs, service.secrets, service.volumes) == ({}, {}, {})


def test_its_own_entry_wins(load, library):
    service = load(uses=["base"], configs={"base.conf": {"template": "mine.j2", "path": "/etc/mine.conf"}})
    config = service.configs["base.conf"]
    assert (config.template, config.path, config.area) == ("mine.j2", "/etc/mine.conf", None)
    assert "home" in service.volumes


def test_traits_that_use_each_other_are_all_there(load, library):
    assert load(uses=["this"]).uses == ["this"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"uses": ["peple"]}, "uses: there is no trait peple; there are: base, broken, more, that, this"),
        ({"uses": ["broken"]}, "uses: there is no trait nothing; there are: base, broken, more, that, this"),
        ({"uses": "more"}, "uses: Input should be a valid list"),
        ({"uses": ["more"], "configs": 5}, "configs: Input should be a valid dictionary"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_key(load, library, keys, message):
    with pytest.raises(VcoreError) as raised:
        load(**keys)
    assert str(raised.value) == f"demo/service.yaml: {message}"


def test_a_template_of_an_area_that_does_not_exist_is_told(load):
    config = {"template": "x.j2", "path": "/x", "area": "peple"}
    message = r"^demo/service.yaml: configs.x.area: there is no area peple; there are: .*people"
    with pytest.raises(VcoreError, match=message):
        load(configs={"x": config})


def test_what_a_trait_takes_of_another_service_that_service_comes_first(load):
    with pytest.raises(VcoreError, match=r"secrets\.readonly-password\.service: ldap is not among `requires`"):
        load(uses=["people"])


@pytest.mark.parametrize("name", sorted(catalogue.traits()))
def test_a_trait_is_valid_and_its_templates_are_there(load, name):
    trait = catalogue.traits()[name]
    for key in catalogue.TRAIT_KEYS:
        for item, entry in getattr(trait, key).items():
            kind = catalogue.model().model_fields[key].annotation.__args__[1]
            read = kind.model_validate(entry).model_dump()
            if key == "configs":
                assert (templates.folder("demo", read, sites.OURS) / read["template"]).is_file(), item
    for other, second in catalogue.traits().items():
        for key in catalogue.TRAIT_KEYS:
            assert other == name or getattr(trait, key).keys().isdisjoint(getattr(second, key)), (name, other)
