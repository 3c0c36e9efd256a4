"""Fixtures for modules and states in Salt's real loader, on a head with folders of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import salt.config
from saltfactories.utils.functional import Loaders, StateResult
from support import sites
from vcore.base.paths import Paths

SITE = "vcore:\n  nodes: {head: {roles: [head], address: 10.0.0.1}}\n"


@pytest.fixture
def virtual_core(checkout: Path, tmp_path: Path) -> Paths:
    """The folders of a core for this test, around the checkout."""
    paths = Paths(checkout=checkout, configuration=tmp_path / "configuration", state=tmp_path / "state")
    paths.configuration.mkdir(mode=0o700)
    paths.state.mkdir(mode=0o755)
    return paths


@pytest.fixture
def pillar(tmp_path: Path) -> dict[str, Any]:
    """Return ``__pillar__["vcore"]`` of the head of a site without settings; test modules may override it."""
    return sites.pillar(tmp_path, SITE)


@pytest.fixture
def minion_opts(checkout: Path, virtual_core: Paths, pillar: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Return options of a minion that loads everything straight from the checkout."""
    root, pillar_root = tmp_path / "salt", tmp_path / "pillar"
    root.mkdir()
    pillar_root.mkdir()
    (pillar_root / "top.sls").write_text("base: {'*': [vcore]}\n")
    (pillar_root / "vcore.sls").write_text("#!json\n" + json.dumps({"vcore": pillar}))
    opts = salt.config.minion_config(None)
    opts.update(
        id="head",
        file_client="local",
        root_dir=str(root),
        cachedir=str(root / "cache"),
        pki_dir=str(root / "pki"),
        extension_modules=str(root / "extension_modules"),
        file_roots={"base": [str(checkout / "salt" / "states"), str(checkout / "salt")]},
        pillar_roots={"base": [str(pillar_root)]},
        module_dirs=[str(checkout / "salt")],
        states_dirs=[str(checkout / "salt" / "_states")],
        utils_dirs=[str(checkout / "salt" / "_utils")],
        enable_fqdns_grains=False,
        enable_gpu_grains=False,
        virtual_core={
            "checkout": str(virtual_core.checkout),
            "configuration": str(virtual_core.configuration),
            "state": str(virtual_core.state),
        },
    )
    return opts


@pytest.fixture
def loaders(minion_opts: dict[str, Any]) -> Loaders:
    """Return Salt's loaders: ``loaders.modules``, ``loaders.states``."""
    return Loaders(minion_opts)


@pytest.fixture
def plan_and_apply(loaders: Loaders) -> Callable[..., StateResult]:
    """Apply a state as ``plan_and_apply("vcore_secret.present", name="ldap/admin-password")``; return its result.

    The state has to keep its promise: a plan announces changes, applying makes exactly those changes, and applying
    again changes nothing.
    """

    def apply(function: str, **arguments: Any) -> StateResult:
        state = loaders.states[function]
        plan = state(test=True, **arguments)
        assert plan.result is None, f"{function} plans nothing: {plan.comment}"
        assert plan.changes, f"{function} plans changes and names none"
        done = state(**arguments)
        assert done.result is True, done.comment
        assert done.changes == plan.changes
        again = state(**arguments)
        assert again.result is True, again.comment
        assert again.changes == {}, f"{function} changes something the second time"
        planned_again = state(test=True, **arguments)
        assert planned_again.result is True, planned_again.comment
        assert planned_again.changes == {}
        return done

    return apply
