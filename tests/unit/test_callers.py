"""Every function and method of the brain has a caller in what is installed; what only tests call is dead.

A function is looked up as Python does it: by the scopes of its own file, and through imports from others. A method is
told by its name alone, since nobody knows of which class an object is.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
BRAIN = CHECKOUT / "salt/_utils/vcore"
#: Decorators by which pydantic finds a method.
VALIDATORS = {"field_validator", "model_validator", "field_serializer", "model_serializer"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (*FUNCTIONS, ast.Lambda, ast.ClassDef, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def module_name(path: Path) -> str:
    parts = path.relative_to(BRAIN.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): ast.parse(path.read_text()) for path in sorted(BRAIN.rglob("*.py"))}


def installed() -> Iterator[Path]:
    """The files outside of the brain that call it, and are no tests; a link in an image is a file of the brain."""
    yield from (CHECKOUT / "bootstrap.sh", CHECKOUT / "lab")
    for folder in ("salt", "images", "reactor", "tests/lab"):
        for path in sorted((CHECKOUT / folder).rglob("*")):
            if path.is_file() and not path.is_symlink() and not path.is_relative_to(BRAIN):
                yield path


def as_python(path: Path, text: str) -> ast.Module | None:
    """The tree of a Python file, by its name or its first line (``#!py`` is Salt's renderer)."""
    first = text.partition("\n")[0]
    if path.suffix == ".py" or (first.startswith("#!") and re.search(r"\bpy(thon3?)?\b", first)):
        return ast.parse(text)
    return None


class References(ast.NodeVisitor):
    """What a file refers to: functions of the brain by their full name, and attributes of anything else.

    What a function says of itself, as when it calls itself, is none.
    """

    def __init__(self, module: str, package: str, tree: ast.Module) -> None:
        self.package = package
        self.functions: set[str] = set()
        self.attributes: set[str] = set()
        self.within: list[str] = []
        #: From a name to the full name of what it stands for, or None where that is nothing of the brain.
        self.scopes: list[dict[str, str | None]] = []
        #: Modules whose names are data here: what is called of a module that was looked up by name is theirs.
        texts = {f"vcore.{node.value}" for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        self.named = {name for name in texts & set(MODULES) if name.count(".") > 1}
        self.scopes.append(self.bindings(tree.body, module))
        for node in tree.body:
            self.visit(node)

    def bindings(self, body: list[ast.AST], prefix: str | None = None) -> dict[str, str | None]:
        """The names that a scope binds, without those of the scopes within it; ``prefix`` is that of a module."""
        bound: dict[str, str | None] = {}
        todo = list(body)
        while todo:
            node = todo.pop()
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    bound[alias.asname or alias.name] = self.imported(node, alias.name)
            elif isinstance(node, ast.Import):
                bound |= {alias.asname or alias.name.partition(".")[0]: None for alias in node.names}
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                bound.setdefault(node.id, None)
            elif isinstance(node, ast.ExceptHandler) and node.name:
                bound.setdefault(node.name, None)
            elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                bound[node.name] = f"{prefix}.{node.name}" if prefix else None
            elif isinstance(node, ast.arg):
                bound[node.arg] = None
            if not isinstance(node, SCOPES):
                todo.extend(ast.iter_child_nodes(node))
        return bound

    def imported(self, node: ast.ImportFrom, name: str) -> str | None:
        parts = self.package.split(".")
        base = parts[: len(parts) - node.level + 1] if node.level else []
        full = ".".join([*base, *([node.module] if node.module else []), name])
        return full if full.startswith("vcore.") else None

    def resolve(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return next((scope[node.id] for scope in reversed(self.scopes) if node.id in scope), None)
        if isinstance(node, ast.Attribute) and (owner := self.resolve(node.value)) in MODULES:
            return f"{owner}.{node.attr}"
        return None

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and (found := self.resolve(node)):
            self.refer(found)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if found := self.resolve(node):
            self.refer(found)
        elif not (ast.unparse(node.value) == "self" and self.within[-1:] == [node.attr]):
            self.attributes.add(node.attr)
            self.functions |= {f"{module}.{node.attr}" for module in self.named}
        self.visit(node.value)

    def refer(self, full: str) -> None:
        if full not in self.within:
            self.functions.add(full)

    def generic_visit(self, node: ast.AST) -> None:
        if not isinstance(node, SCOPES):
            super().generic_visit(node)
            return
        if isinstance(node, FUNCTIONS):
            for outside in (*node.decorator_list, node.args, *filter(None, [node.returns])):
                self.visit(outside)
            inside, body = [node.args, *node.body], node.body
        elif isinstance(node, ast.Lambda):
            inside, body = [node.args, node.body], [node.args, node.body]
        elif isinstance(node, ast.ClassDef):
            for outside in (*node.decorator_list, *node.bases, *node.keywords):
                self.visit(outside)
            inside, body = [], node.body  # a method does not see the names of its class
        else:
            inside = body = list(ast.iter_child_nodes(node))
        name = getattr(node, "name", "")
        self.within.append((len(self.scopes) == 1 and self.scopes[0].get(name)) or name)
        self.scopes.append(self.bindings(inside))
        for child in body:
            self.visit(child)
        self.within.pop()
        self.scopes.pop()


def references() -> tuple[set[str], set[str]]:
    """Functions of the brain that something refers to, and attributes."""
    functions: set[str] = set()
    attributes: set[str] = set()
    trees = []
    for name, tree in MODULES.items():
        is_package = (BRAIN.parent / name.replace(".", "/")).is_dir()
        trees.append(References(name, name if is_package else name.rpartition(".")[0], tree))
    for path in installed():
        text = path.read_text(errors="replace")
        if tree := as_python(path, text):
            trees.append(References("", "", tree))
        elif path.suffix in (".sls", ".jinja", ".j2"):
            attributes |= set(re.findall(r"\.([a-z_]\w*)", text))
    for found in trees:
        functions |= found.functions
        attributes |= found.attributes
    return functions, attributes


def decorators(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    calls = [one.func if isinstance(one, ast.Call) else one for one in node.decorator_list]
    return {one.attr if isinstance(one, ast.Attribute) else one.id for one in calls}


def is_asked_for_by_its_base(module: str, owner: ast.ClassDef, name: str) -> bool:
    """Whether a method replaces one of a library's class, or belongs to a protocol."""
    if any(ast.unparse(base).startswith("Protocol") for base in owner.bases):
        return True
    bases = getattr(importlib.import_module(module), owner.name).__mro__[1:]
    return any(name in vars(base) for base in bases if not base.__module__.startswith("vcore."))


def asked_for() -> set[str]:
    """What areas offer in the files of faces, and somebody asks every area for (``areas.asked``)."""
    faces: dict[str, set[str]] = {}
    for tree in MODULES.values():
        for node in tree.body:
            for decorator in getattr(node, "decorator_list", []):
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "areas.face":
                    names = {inner.name for inner in node.body if isinstance(inner, FUNCTIONS)}
                    faces.setdefault(decorator.args[0].value, set()).update(names)
    return {
        f"{module}.{name}"
        for module in MODULES
        for name in faces.get(module.rpartition(".")[2], ())
        if module.count(".") == 2
    }


def dead() -> set[str]:
    """The full names of what nobody calls."""
    functions, attributes = references()
    functions |= asked_for()
    found = set()
    for module, tree in MODULES.items():
        for node in tree.body:
            if isinstance(node, FUNCTIONS) and f"{module}.{node.name}" not in functions:
                found.add(f"{module}.{node.name}")
            for method in (one for one in getattr(node, "body", ()) if isinstance(one, FUNCTIONS)):
                if not isinstance(node, ast.ClassDef) or method.name in attributes or method.name.startswith("__"):
                    continue
                if not decorators(method) & VALIDATORS and not is_asked_for_by_its_base(module, node, method.name):
                    found.add(f"{module}.{node.name}.{method.name}")
    return found


def test_everything_has_a_caller():
    assert dead() == set(), "nobody calls these but tests: remove them"


def test_what_has_no_caller_is_noticed():
    program = """
from vcore.slurm import health
from vcore.base.files import write_atomic as write

def facts(health):
    return health.facts()

def recursion():
    return recursion()

def used(paths):
    return [write(path) for path in paths] and health.check

used(recursion_of_another)
"""
    found = References("vcore.tried", "vcore", ast.parse(program))
    assert found.functions == {
        "vcore.base.files.write_atomic",
        "vcore.slurm.health",
        "vcore.slurm.health.check",
        "vcore.tried.used",
    }
    assert found.attributes == {"facts"}
