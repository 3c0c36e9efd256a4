"""Salt's modules as people call them, read without importing them."""

from __future__ import annotations

import ast


def name(stem: str, tree: ast.Module) -> str:
    """Return the name that Salt knows a module by: its ``__virtualname__``, or that of its file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__virtualname__"]:
            return str(ast.literal_eval(node.value))
    return stem


def functions(stem: str, text: str) -> dict[str, ast.FunctionDef]:
    """Return the public functions of a module by their whole names, such as ``vcore_ca.list``."""
    tree = ast.parse(text)
    return {
        f"{name(stem, tree)}.{node.name.rstrip('_')}": node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
