"""The rules of the house, read from imports and strings: who stands on whom, and who knows whom by name.

docs/architecture.md says why there are such rules. What is excepted is named here, in the words of the house:

- *Front doors* (FRONT_DOORS) stand above all areas: where the brain meets Salt, bootstrap.sh, a terminal and the
  reference. They may use what they open.
- A pillar is a node's. So the kernel, which makes pillars, has the section ``nodes`` itself (KERNEL_WORDS), with the
  roles and addresses; what becomes of nodes is the area's of that name.
"""

import ast
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest
from vcore.kernel import areas, site

CHECKOUT = Path(__file__).parents[2]
BRAIN = CHECKOUT / "salt" / "_utils" / "vcore"
FRONT_DOORS = {"adapter", "bootstrap", "reference", "terminal"}
KERNEL_WORDS = {"nodes"}
#: Libraries that a floor may use beside the standard library; docker raises errors of requests.
LIBRARIES = {"base": set(), "host": {"docker", "requests"}, "kernel": {"pydantic", "yaml"}}
BELOW = {"base": set(), "host": {"base"}, "kernel": {"base", "host"}}
AREAS = sorted(areas.names())
#: By the name of a face: the modules that ask for it.
FACES: dict[str, list[str]] = {}
for _path in sorted(BRAIN.rglob("*.py")):
    for _node in ast.walk(ast.parse(_path.read_text())):
        if isinstance(_node, ast.Call) and ast.unparse(_node.func) == "areas.face" and _path.stem != "areas":
            _name = "vcore." + ".".join(_path.relative_to(BRAIN).with_suffix("").parts)
            FACES.setdefault(_node.args[0].value, []).append(_name)


class Import:
    """One import of the brain: where it stands, what it is of, whether it is for type checkers, or late."""

    def __init__(self, path, node, target, typing, late):
        self.path, self.line, self.target = path, node.lineno, target
        self.typing, self.late = typing, late
        parts = path.relative_to(BRAIN).with_suffix("").parts
        self.area = parts[0] if len(parts) > 1 else None
        self.module = ".".join(parts)
        self.to_area = target[0] if len(target) > 1 and (BRAIN / target[0]).is_dir() else None
        if len(target) == 1 and (BRAIN / target[0]).is_dir():
            self.to_area = target[0]

    def __str__(self):
        return f"{self.path.relative_to(CHECKOUT)}:{self.line} imports {'.'.join(self.target)}"


def imports(path):
    """Every import of the brain in a file, as :class:`Import`, and the other libraries that it imports."""
    tree = ast.parse(path.read_text())
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    here = path.relative_to(BRAIN).parts[:-1]
    ours, others = [], []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            others += [(node.lineno, alias.name.partition(".")[0], id(node) in late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            others.append((node.lineno, node.module.partition(".")[0], id(node) in late))
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] + tuple((node.module or "").split(".") if node.module else ())
            for alias in node.names:
                inner = (*base, alias.name)
                is_module = (BRAIN.joinpath(*inner)).with_suffix(".py").is_file() or BRAIN.joinpath(*inner).is_dir()
                target = inner if is_module else base
                ours.append(Import(path, node, target, id(node) in typing, id(node) in late))
    return ours, others


FILES = sorted(BRAIN.rglob("*.py"))
OURS = {path: imports(path)[0] for path in FILES}
OTHERS = {path: imports(path)[1] for path in FILES}


def in_area(name):
    return [path for path in FILES if path.relative_to(BRAIN).parts[0] == name]


def broken(found):
    return "\n" + "\n".join(found)


@pytest.mark.parametrize("area", AREAS)
def test_an_areas_first_file_says_whom_it_uses_and_imports_nothing(area):
    tree = ast.parse((BRAIN / area / "__init__.py").read_text())
    assert ast.get_docstring(tree), "it has no docstring"
    kinds = [type(node).__name__ for node in tree.body]
    assert kinds == ["Expr", "Assign"], f"{area}/__init__.py has more than a docstring and USES = (...)"


@pytest.mark.parametrize("floor", sorted(BELOW))
def test_a_floor_stands_on_those_below_it_only(floor):
    found = [
        f"{one}: {floor} stands on {', '.join(sorted(BELOW[floor])) or 'nothing'}; move what needs "
        f"{one.to_area or one.target[0]} there, or ask for it by a face"
        for path in in_area(floor)
        for one in OURS[path]
        if one.to_area != floor and one.to_area not in BELOW[floor]
    ]
    found += [
        f"{path.relative_to(CHECKOUT)}:{line} imports {library}: {floor} has the standard library"
        + (f" and {', '.join(sorted(LIBRARIES[floor]))}" if LIBRARIES[floor] else "")
        for path in in_area(floor)
        for line, library, _ in OTHERS[path]
        if library not in sys.stdlib_module_names | LIBRARIES[floor] | {"__future__"}
    ]
    assert not found, broken(found)


def test_the_kernel_knows_no_area_section_or_service_by_name():
    services = {path.parent.name for path in (CHECKOUT / "salt/states/services").glob("*/service.yaml")}
    sections = set(site.model().model_fields) - set(site.Site.model_fields)
    names = {*AREAS, *sections, *services} - KERNEL_WORDS
    found = []
    for path in in_area("kernel"):
        for node in ast.walk(ast.parse(path.read_text())):
            words = [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
            if isinstance(node, ast.Attribute):
                words.append(node.attr)
            found += [
                f"{path.relative_to(CHECKOUT)}:{node.lineno} names {word}: move this to the area, and ask by a face"
                for word in words
                if word in names
            ]
    # A face may be called as an area is (``service``); what it is asked by is no knowledge of the area.
    assert not found, broken(found)


@pytest.mark.parametrize("area", AREAS)
def test_an_area_imports_the_floors_and_whom_it_uses(area):
    uses = set(import_module(f"vcore.{area}").USES)
    seen, found = set(), []
    for path in in_area(area):
        for one in OURS[path]:
            if one.to_area in (area, *areas.FLOORS):
                continue
            if one.to_area is None:
                if one.target[0] not in FRONT_DOORS:
                    found.append(f"{one}: there is no such floor, area or front door")
            elif one.typing:
                continue  # what a face is handed has a type of whoever asks
            elif one.to_area not in uses:
                found.append(f"{one}: add {one.to_area} to USES of {area}, or have {one.to_area} offer a face")
            else:
                seen.add(one.to_area)
    found += [f"{area}/__init__.py: USES names {name} in vain" for name in sorted(uses - seen)]
    assert not found, broken(found)


def test_areas_use_each_other_in_no_circle_and_modules_import_each_other_in_none():
    assert areas.names()
    graph = {}
    for path in FILES:
        name = ".".join(path.relative_to(BRAIN).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = {".".join(one.target) for one in OURS[path] if not one.typing and not one.late}
    assert tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def faces():
    """Every file of an area that has the name of a face, and is not itself who asks for it."""
    return [
        path
        for path in FILES
        if path.stem in FACES
        and path.parent.name in AREAS
        and f"vcore.{path.parent.name}.{path.stem}" not in FACES[path.stem]
    ]


def protocols(face):
    """What is asked of a face, by all who do."""
    asking = [vars(import_module(module)).values() for module in FACES[face]]
    return [one for names in asking for one in names if isinstance(one, type) and vars(one).get("__face__") == face]


@pytest.mark.parametrize("path", faces(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_face_offers_what_somebody_asks_for(path):
    """A name that nobody asks for, such as a slip of the pen, would be an area that is passed over in silence."""
    module = import_module(f"vcore.{path.parent.name}.{path.stem}")
    declared = protocols(path.stem)
    offered = [protocol for protocol in declared if areas.members(protocol) <= vars(module).keys()]
    assert offered, f"it offers nothing that is asked of {path.stem}: " + "; ".join(
        f"{protocol.__name__} has {', '.join(sorted(areas.members(protocol)))}"
        for protocol in areas.declared(path.stem)
    )


def test_faces_are_reached_by_asking_only():
    """But for the own package, and the sections and types in ``settings`` of an area that is used."""
    found = [
        f"{one}: ask for it (areas.asked), or move what is wanted to another file of {one.to_area}"
        for path in FILES
        for one in OURS[path]
        if one.to_area in AREAS
        and one.to_area != one.area
        and len(one.target) > 1
        and one.target[1] in FACES.keys() - {"settings"}
        and not one.typing
        and f"vcore.{'.'.join(one.target)}" not in FACES[one.target[1]]
    ]
    assert not found, broken(found)


def bases(image):
    """An image and those that it is built from."""
    found = [image]
    for line in (CHECKOUT / "images" / image / "Dockerfile").read_text().splitlines():
        if line.startswith("ARG BASE="):
            found += bases(line.partition("=")[2])
    return found


def images():
    """The images that have files of the brain."""
    return sorted(path.parts[-6] for path in (CHECKOUT / "images").glob("*/rootfs/usr/lib/virtual-core/vcore"))


@pytest.mark.parametrize("image", images())
def test_what_an_image_links_imports_what_it_links_or_its_bases_do(image):
    there = set()
    for name in bases(image):
        folder = CHECKOUT / "images" / name / "rootfs/usr/lib/virtual-core/vcore"
        there |= {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")} if folder.is_dir() else set()
    folder, found = CHECKOUT / "images" / image / "rootfs/usr/lib/virtual-core/vcore", []
    for link in folder.rglob("*.py"):
        for one in OURS[link.resolve()]:
            name = "/".join(one.target)
            if not one.typing and not {f"{name}.py", f"{name}/__init__.py"} & there:
                found.append(f"{one}: the image {image} has it; link {name}.py beside it, or import it nowhere there")
    assert not found, broken(found)
