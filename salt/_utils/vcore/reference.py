"""Generates the reference of everything that can be configured: ``python -m vcore.reference [--check]``.

``docs/settings.md`` documents pillar/site.sls for administrators, ``docs/service-yaml.md`` service.yaml for developers.
Both follow from the JSON Schema of the models, so they say exactly what validation checks.

``locale/vcore.pot`` lists the messages for people, for translators (see :mod:`vcore.base.messages`).
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from .base.errors import VcoreError
from .base.files import write_atomic
from .base.paths import Paths
from .kernel import site
from .kernel.models import DomainName, DownloadAddress, ItemName, Mode, NodeName, ServiceName
from .services import catalogue as services_catalogue
from .services.catalogue import Catalogue, Service

Schema = Mapping[str, Any]

NOTE = "<!-- Written by python -m vcore.reference from the models. Change those, not this file. -->\n"

SETTINGS_INTRODUCTION = """
# Settings

Every key that is allowed below `vcore:` in `pillar/site.sls` and in a flavor. [configuring.md](configuring.md) explains
how to use them. Every key that is not marked as required can be left out. A size is a number of bytes, or a number
followed by K, M, G or T, such as 512M.

`salt-run vcore.schema --out json` prints the same as JSON Schema.
"""

SERVICES_INTRODUCTION = """
## The services and their settings
"""

SERVICE_INTRODUCTION = """
# service.yaml

The keys of `salt/states/services/<service>/service.yaml`. [adding-an-area.md](adding-an-area.md#what-runs) shows how
one is written. What has a default, or none, can be left out. A mode is an octal string in quotes, such as `"0640"`; a
size is a number of bytes, or a number with K, M, G or T behind it, such as 512M. A file that breaks these rules fails
every state run with one line that names file and key.

These keys are for later parts of the project and have no effect yet: `ports.<port>.audience`,
`volumes.<volume>.backup`, `wizard`, `settings.<setting>.advanced`.
"""


def _pattern(alias: Any) -> str:
    return str(pydantic.TypeAdapter(alias).json_schema().get("pattern"))


#: Patterns in plain words; any other pattern is shown as it is.
PATTERNS = {
    _pattern(NodeName): "name (a-z, 0-9, -; a letter first; at most 63 characters)",
    _pattern(ServiceName): "name (a-z, 0-9, -; a letter first; at most 31 characters)",
    _pattern(ItemName): "name (a-z, 0-9, - and .; a letter first; at most 30 characters)",
    _pattern(DomainName): "DNS domain in lower case",
    _pattern(Mode): "mode, in quotes",
    r"^/[^\x00]*$": "absolute path",
    _pattern(DownloadAddress): "http or https address without a password",
    r"^[^\x00-\x1f]+$": "text on one line",
}


# ---------------------------------------------------------------------------------------------------------------
# Reading a schema
# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One key of a model."""

    name: str
    schema: Schema
    required: bool


@dataclass(frozen=True)
class Section:
    """One model, and the key path to it; the path of the root may be empty."""

    path: str
    description: str
    entries: tuple[Entry, ...]


def sections(root: Schema, path: str = "") -> Iterator[Section]:
    """Yield a model and all models below it, each where it is used, parents first."""
    yield from _sections(root, path, root.get("$defs", {}))


def _sections(model: Schema, path: str, definitions: Schema) -> Iterator[Section]:
    required = set(model.get("required", ()))
    entries = tuple(
        # pydantic omits a description that is the same as that of the model below.
        Entry(
            name, {"description": _definition(schema, definitions).get("description", ""), **schema}, name in required
        )
        for name, schema in model.get("properties", {}).items()
    )
    yield Section(path, model.get("description", ""), entries)
    for entry in entries:
        below = _below(entry)
        if below is not None:
            ending, inner = below
            yield from _sections(_definition(inner, definitions), join(path, entry.name + ending), definitions)


def _definition(schema: Schema, definitions: Schema) -> Schema:
    """Return the model that a schema refers to; empty where it refers to none."""
    found: Schema = definitions[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else {}
    return found


def _singular(name: str) -> str:
    return name if name == "qos" else name.removesuffix("s")


def _below(entry: Entry) -> tuple[str, Schema] | None:
    """Return the rest of the path to the model below a key, and the schema that refers to it; None for plain values."""
    schema = entry.schema
    members = [member for member in schema.get("anyOf", ()) if member.get("type") != "null"]
    if len(members) == 1:
        (schema,) = members  # it may be left out, and has keys where it is not
    values = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
    placeholder = f".<{_singular(entry.name)}>"
    for ending, inner in (("", schema), ("[]", schema.get("items")), *((placeholder, value) for value in values)):
        if isinstance(inner, Mapping) and "$ref" in inner:
            return ending, inner
    return None


def join(path: str, name: str) -> str:
    """Return a key path with one more key."""
    return f"{path}.{name}" if path else name


# ---------------------------------------------------------------------------------------------------------------
# Words
# ---------------------------------------------------------------------------------------------------------------


def kind(schema: Schema) -> str:
    """Return the type and the allowed values of a schema in plain words."""
    unit = schema.get("unit")
    if [member.get("type") for member in schema.get("anyOf", ())] == ["integer", "string"]:
        least = schema["ge"] if schema.get("ge", 1) > 1 else None
        words = "size" + _bounds(least, schema.get("le"), size)
    elif "const" in schema:
        words = code(schema["const"])
    elif "enum" in schema:
        words = "one of " + ", ".join(code(value) for value in schema["enum"])
    elif "anyOf" in schema:
        members = [member for member in schema["anyOf"] if member.get("type") != "null"]
        words = " or ".join(dict.fromkeys(kind(member) for member in members))
    elif schema.get("type") == "string":
        words = _text(schema)
    elif schema.get("type") == "integer":
        words = "whole number" + _bounds(schema.get("minimum"), schema.get("maximum"), str)
        words += f" ({unit})" if unit else ""
    elif schema.get("type") == "boolean":
        words = "true or false"
    elif schema.get("type") == "array":
        words = f"list; each: {kind(schema['items'])}" + ("; at least one" if schema.get("minItems") else "")
    elif schema.get("type") == "object" or "$ref" in schema:
        words = "mapping"
    else:
        words = "any value"
    return words


def _text(schema: Schema) -> str:
    pattern = schema.get("pattern")
    words = "text" if pattern is None else PATTERNS.get(pattern, f"text that matches {code(pattern)}")
    return words + (f", at most {schema['maxLength']} characters" if "maxLength" in schema else "")


def _bounds(least: int | None, most: int | None, show: Any) -> str:
    if least is not None and most is not None:
        return f", {show(least)} to {show(most)}"
    if least is not None:
        return f", at least {show(least)}"
    return f", at most {show(most)}" if most is not None else ""


def size(value: int) -> str:
    """Return a number of bytes as a site file writes it: 512M, 2G."""
    for letter, factor in (("T", 1024**4), ("G", 1024**3), ("M", 1024**2), ("K", 1024)):
        if value % factor == 0:
            return f"{value // factor}{letter}"
    return str(value)


def code(value: Any) -> str:
    """Return a value in YAML notation, as code in a table cell."""
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return f"`{text}`".replace("|", "\\|")


def default(entry: Entry) -> str:
    """Return the default of a key as a table cell: ``required`` if it has none, empty if the default is null."""
    if entry.required:
        return "required"
    value = entry.schema.get("default", [] if entry.schema.get("type") == "array" else None)
    return "" if value is None else code(value)


# ---------------------------------------------------------------------------------------------------------------
# Markdown
# ---------------------------------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """Return the fragment identifier that GitHub and others give a heading."""
    kept = "".join(letter for letter in heading.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def table(section: Section, defaults: Mapping[str, str] | None = None) -> str:
    """Return the table of a model's keys; ``defaults`` replaces the schema's defaults, by key."""
    lines = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for entry in section.entries:
        below = _below(entry)
        words = kind(entry.schema)
        if below is not None:
            path = join(section.path, entry.name + below[0])
            words = f"{'list' if below[0] == '[]' else 'mapping'}: [`{path}`](#{anchor(path)})"
        meaning = entry.schema.get("description", "").replace("``", "`")
        meaning = meaning.replace("<", "\\<").replace("|", "\\|")
        example = entry.schema.get("example")
        if example is not None:
            meaning += f" Example: {code(example)}"
        value = (defaults or {}).get(entry.name, default(entry) if below is None or entry.required else "")
        lines.append(f"| `{entry.name}` | {words} | {value} | {meaning} |")
    return "\n".join(lines) + "\n"


def _models(root: Schema, path: str) -> Iterator[str]:
    for section in sections(root, path):
        if section.path:
            yield f"\n## `{section.path}`\n"
        yield f"\n{section.description.replace('``', '`')}\n\n{table(section)}"


def settings(catalogue: Catalogue) -> str:
    """Return the text of docs/settings.md."""
    services = (_service(name, service) for name, service in catalogue.items())
    models = _models(site.model().model_json_schema(), "vcore")
    return "".join([NOTE, SETTINGS_INTRODUCTION, *models, SERVICES_INTRODUCTION, *services])


def _when(service: Service) -> str:
    if service.when:
        modes = [f"`{section}.mode` is {' or '.join(modes)}" for section, modes in service.when.items()]
        return f"On where {' and '.join(modes)}, unless it is switched off"
    return "On unless it is switched off" if service.enabled else "Off unless it is switched on"


def _service(name: str, service: Service) -> str:
    facts = [
        _when(service),
        f"memory limit {size(service.memory.limit)}" if service.memory.limit else "no memory limit",
    ]
    if service.requires:
        facts.append(f"requires {', '.join(service.requires)}")
    if service.ports:
        facts.append("ports " + ", ".join(f"{port.number}/{port.protocol}" for port in service.ports.values()))
    if service.certificates:
        facts.append("certificates " + ", ".join(code(certificate) for certificate in service.certificates))
    supplied = [secret for secret, definition in service.secrets.items() if definition.kind == "supplied"]
    if supplied:
        facts.append("secrets that a person supplies " + ", ".join(code(f"{name}/{secret}") for secret in supplied))
    text = f"\n### {name}: {service.title}\n\n{service.description}\n\n{'; '.join(facts)}.\n\n"
    if not service.settings:
        return text + "It has no settings.\n"
    section = next(sections(service.settings_model().model_json_schema()))
    derived = {
        key: services_catalogue.derived()[setting.derived][1]
        for key, setting in service.settings.items()
        if setting.derived
    }
    return f"{text}Below `vcore.services.{name}.settings`:\n\n{table(section, derived)}"


def service_file() -> str:
    """Return the text of docs/service-yaml.md."""
    return "".join([NOTE, SERVICE_INTRODUCTION, *_models(services_catalogue.model().model_json_schema(), "")])


# ---------------------------------------------------------------------------------------------------------------
# Messages
# ---------------------------------------------------------------------------------------------------------------

#: Where messages are, below salt/.
SOURCES = ("_utils/vcore", "_modules", "_states", "_runners", "_output", "_engines", "_pillar", "_returners")


def messages(checkout: Path) -> str:
    """Return the template of the catalogue of messages, in the format of gettext(1): each once, with its files."""
    found: dict[str, list[str]] = {}
    for folder in SOURCES:
        for path in sorted((checkout / "salt" / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tr":
                    message = ast.literal_eval(node.args[0])
                    files = found.setdefault(message, [])
                    name = str(path.relative_to(checkout))
                    files += [name] if name not in files else []
    entries = [
        "".join(f"#: {name}\n" for name in files)
        + ("#, python-brace-format\n" if "{" in message else "")
        + f'msgid {_quoted(message)}\nmsgstr ""\n'
        for message, files in sorted(found.items())
    ]
    header = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n"Content-Transfer-Encoding: 8bit\\n"\n'
    return "\n".join(
        ["# Written by python -m vcore.reference from the code. Change that, not this file.\n" + header, *entries]
    )


def _quoted(message: str) -> str:
    return json.dumps(message, ensure_ascii=False)


# ---------------------------------------------------------------------------------------------------------------
# Command
# ---------------------------------------------------------------------------------------------------------------


def documents(paths: Paths) -> dict[Path, str]:
    """Return the generated files of a checkout with the text that they should have."""
    folder = paths.checkout / "docs"
    return {
        folder / "settings.md": settings(services_catalogue.load(paths.services)),
        folder / "service-yaml.md": service_file(),
        paths.checkout / "salt/_utils/vcore/locale/vcore.pot": messages(paths.checkout),
    }


def stale(paths: Paths) -> str:
    """Return a unified diff from the generated files to what the models say; empty if they are up to date."""
    return "".join(
        line
        for path, text in documents(paths).items()
        for line in difflib.unified_diff(
            path.read_text().splitlines(keepends=True) if path.exists() else [],
            text.splitlines(keepends=True),
            str(path.relative_to(paths.checkout)),
            "from the models",
        )
    )


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or with ``--check`` report whether they are up to date; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vcore.reference", description="Write the reference in docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail with a diff if a file is stale")
    parser.add_argument("--checkout", type=Path, default=Path(__file__).resolve().parents[3])
    chosen = parser.parse_args(arguments)
    paths = Paths(checkout=chosen.checkout)
    try:
        difference = stale(paths)
        if not chosen.check:
            for path, text in documents(paths).items():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, text.encode(), mode=0o644)
    except VcoreError as error:
        print(error, file=sys.stderr)
        return 1
    if chosen.check and difference:
        print(difference, end="")
        print("The reference is stale; write it with: python -m vcore.reference", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
