"""Container images: what each one is made of, whether it exists, and building those that do not.

An image is the folder ``images/<name>/``. Its tag is the hash of everything that decides what is in it, so an image
that exists under its tag is never built again, and only a change of the input updates a service.

What goes into the hash: every file of the folder (path, executable or not, content), the versions of versions.yaml
that its Dockerfile names, and the hash of the image below it. At the bottom lies bare Debian, hashed over its source
(mmdebstrap's options and suite, or the reference that is pulled) and the site's ``build.refresh``.

What does not: the mirror, the proxy and the CA bundle. They are the way to the packages, not the packages; they are
often picked up from the host or from the environment of whoever runs Salt, and a proxy that comes and goes must not
restart a cluster. The base image carries them as a label of its own; when something has to be built and they have
changed, the base is built again first, under its old tag.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import functools
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import textwrap
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import docker
import requests
import yaml

from ..base.errors import CommandFailed, NotFound, Refused, Unreachable, VcoreError
from ..base.files import write_atomic
from ..base.messages import tr
from ..base.names import SERVICE_LABEL
from ..base.paths import Paths
from ..base.progress import report
from ..host import docker_client
from ..host.docker_client import connect, docker_errors
from . import downloads, registry

#: Labels of every image that is built here: its name, its input hash, and (on the base) how it reached its packages.
LABEL_NAME, LABEL_HASH, LABEL_DOWNLOADS = "vcore.image", "vcore.hash", "vcore.downloads"
#: The lowest image that has a Dockerfile, and the bare system below it.
BASE, DEBIAN = "base", "debian"
#: Files of an image's folder that are for people and editors.
IGNORED = ("__pycache__", "*.pyc", "*~", ".*.sw?", "README.md")
#: Lines of a failed build that its error carries.
LAST_LINES = 20
#: Seconds that a step of a build may stay silent, compiling for instance.
SILENCE = 1800

#: What containers have no use for. mmdebstrap could leave it out by itself, but takes twice as long to do so.
UNWANTED = ("/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/doc/*/changelog*")
MMDEBSTRAP = (
    "--mode=root",
    "--variant=minbase",
    "--format=tar",
    # Downloads over https work from the first package on.
    "--include=ca-certificates",
    '--aptopt=APT::Install-Recommends "false"',
    '--aptopt=Acquire::Languages "none"',
    "--dpkgopt=force-unsafe-io",
    # For the packages that images add later, and for those that are there.
    "--customize-hook=printf 'path-exclude=%s\\n' "
    + " ".join(f"'{pattern}'" for pattern in UNWANTED)
    + ' > "$1/etc/dpkg/dpkg.cfg.d/virtual-core"',
    '--customize-hook=cd "$1" && rm -rf ' + " ".join(f".{pattern}" for pattern in UNWANTED),
)

# ---------------------------------------------------------------------------------------------------------------
# What is wanted
# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One file of an image's folder; ``content`` of a symbolic link is what it points to."""

    kind: Literal["file", "executable", "link"]
    content: bytes


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is in an image."""

    name: str
    tag: str
    parent: str
    files: Mapping[str, Entry]
    arguments: Mapping[str, str]


def read_folder(folder: Path) -> dict[str, Entry]:
    """Return the files of an image's folder by their path in it, with as much of their modes as git keeps.

    A relative link that leads out of the folder stands for the file that it leads to, elsewhere in the checkout. So an
    image takes the files of the brain that it needs, and only these are part of its hash.

    Raises:
        VcoreError: such a link does not lead to a file; of a folder, for instance, nothing would be in the image.
    """
    entries: dict[str, Entry] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(fnmatch.fnmatch(part, pattern) for part in relative.parts for pattern in IGNORED):
            continue
        if path.is_symlink() and not _leads_out(path, folder):
            entries[str(relative)] = Entry("link", os.fsencode(path.readlink()))
        elif path.is_file():
            kind: Literal["file", "executable"] = "executable" if path.stat().st_mode & 0o100 else "file"
            entries[str(relative)] = Entry(kind, path.read_bytes())
        elif path.is_symlink():
            why = tr("a folder; link its files one by one") if path.is_dir() else tr("which does not exist")
            raise VcoreError(tr("{path} leads to {readlink}, {why}", path=path, readlink=path.readlink(), why=why))
    return entries


def _leads_out(link: Path, folder: Path) -> bool:
    target = link.readlink()
    return not target.is_absolute() and not (link.parent / target).resolve().is_relative_to(folder.resolve())


def input_hash(files: Mapping[str, Entry], *, parent: str, arguments: Mapping[str, str]) -> str:
    """Return an image's hash: twelve hexadecimal digits over its files, the versions that it names and its parent's."""
    digest = hashlib.sha256()
    listing = [(path, entry.kind, hashlib.sha256(entry.content).hexdigest()) for path, entry in sorted(files.items())]
    digest.update(json.dumps([listing, parent, sorted(arguments.items())]).encode())
    return digest.hexdigest()[:12]


def parent_name(dockerfile: str) -> str:
    """Return the image that a Dockerfile builds on: the default of its first ``ARG BASE``, ``base`` where it has none.

    Raises:
        VcoreError: it does not start with ``ARG BASE`` and ``FROM ${BASE}``.
    """
    instructions = [line.strip() for line in dockerfile.splitlines() if line.strip() and not line.startswith("#")]
    matched = re.fullmatch(r"ARG BASE(?:=([a-z][a-z0-9-]*))?", instructions[0]) if instructions else None
    if not matched or not re.match(r"FROM \$\{BASE\}(\s|$)", [*instructions, ""][1]):
        raise VcoreError(tr("the Dockerfile has to start with ARG BASE and FROM ${BASE}"))
    return matched[1] or BASE


def version_arguments(dockerfile: str, versions: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the build arguments that a Dockerfile takes from versions.yaml: ``ARG PYTHON_UV`` is ``uv`` of ``python``.

    Raises:
        VcoreError: an ARG has no default and is not in versions.yaml.
    """
    known = {
        re.sub(r"[^A-Z0-9]", "_", f"{section}_{name}".upper()): str(version)
        for section, names in versions.items()
        for name, version in names.items()
    }
    arguments: dict[str, str] = {}
    for name in re.findall(r"^ARG ([A-Za-z0-9_]+)\s*$", dockerfile, flags=re.MULTILINE):
        if name in known:
            arguments[name] = known[name]
        elif name != "BASE":
            raise VcoreError(
                tr("ARG {name} of the Dockerfile has neither a default nor a version in versions.yaml", name=name)
            )
    return arguments


def debian_hash(source: str, *, suite: str, refresh: str) -> str:
    """Return the hash of the bare system that the base image builds on."""
    made_of = [*MMDEBSTRAP, suite] if source == "mmdebstrap" else [source]
    return hashlib.sha256(json.dumps([made_of, refresh]).encode()).hexdigest()[:12]


def read_versions(paths: Paths) -> dict[str, dict[str, str]]:
    """Return the pinned versions, by section and name."""
    return _parse_versions(paths.versions.read_text())


@functools.lru_cache(maxsize=4)
def _parse_versions(text: str) -> dict[str, dict[str, str]]:
    # Kept, because reading YAML takes longer than everything else that an unchanged image costs.
    return {section: dict(names) for section, names in yaml.safe_load(text).items()}


def recipe(name: str, pillar: Mapping[str, Any], paths: Paths, _above: tuple[str, ...] = ()) -> Recipe:
    """Return what the image ``name`` is made of now; ``pillar`` is the resolved one (``__pillar__["vcore"]``).

    Raises:
        NotFound: there is no such image.
        VcoreError: its Dockerfile breaks the rules, or images build on each other in a circle.
    """
    if name in _above:
        raise VcoreError(tr("images build on each other in a circle: {value}", value=" → ".join((*_above, name))))
    files = read_folder(paths.images / name)
    if "Dockerfile" not in files:
        raise NotFound(
            tr(
                "there is no image {name}: {images} does not exist",
                name=name,
                images=paths.images / name / "Dockerfile",
            )
        )
    dockerfile = files["Dockerfile"].content.decode()
    versions = read_versions(paths)
    try:
        arguments = version_arguments(dockerfile, versions)
        parent = DEBIAN if name == BASE else parent_name(dockerfile)
    except VcoreError as error:
        raise VcoreError(f"images/{name}: {error}") from None
    if parent == DEBIAN:
        build = pillar["build"]
        below = debian_hash(build["source"], suite=versions["base"]["suite"], refresh=build["refresh"])
    else:
        below = recipe(parent, pillar, paths, (*_above, name)).tag
    return Recipe(name, input_hash(files, parent=below, arguments=arguments), parent, files, arguments)


def lineage(name: str, pillar: Mapping[str, Any], paths: Paths) -> dict[str, str]:
    """Return the wanted tags of an image and of all images below it, by name."""
    tags: dict[str, str] = {}
    while name != DEBIAN:
        wanted = recipe(name, pillar, paths)
        tags[name], name = wanted.tag, wanted.parent
    suite = read_versions(paths)["base"]["suite"]
    tags[DEBIAN] = debian_hash(pillar["build"]["source"], suite=suite, refresh=pillar["build"]["refresh"])
    return tags


def is_pushed(name: str, pillar: Mapping[str, Any]) -> bool:
    """Return whether an image goes through the registry: a service runs it, and does not say ``push: false``."""
    users = [service["image"] for service in pillar["services"].values() if service["image"]["name"] == name]
    return any(image["push"] for image in users)


def reference(name: str, pillar: Mapping[str, Any], paths: Paths, *, built: bool = False) -> str:
    """Return what a service of the image ``name`` is to run: ``host:port/name:tag@sha256:…``.

    There is no digest if the image is not pushed, or as long as the wanted image is not built. With ``built`` it is the
    image that was built last, which has to exist.

    Raises:
        NotFound: there is no such image, or with ``built`` it is not built, or not in the registry.
    """
    pushed, record = is_pushed(name, pillar), read_records(paths).get(name, {})
    tag, digest = record.get("tag"), record.get("digest") if pushed else None
    if built and (not tag or (pushed and not digest)):
        raise NotFound(
            tr("the image {name} is not built and in the registry yet; apply the states on the head", name=name)
        )
    if not built and tag != (wanted := recipe(name, pillar, paths).tag):
        tag, digest = wanted, None
    return f"{pillar['registry']}/{name}:{tag}" + (f"@{digest}" if digest else "")


# ---------------------------------------------------------------------------------------------------------------
# What is there, and how it differs
# ---------------------------------------------------------------------------------------------------------------


def read_records(paths: Paths) -> dict[str, dict[str, Any]]:
    """Return what was built last: ``{name: {"tag": "…", "digest": "sha256:…" or None, "previous": tag or None}}``.

    A file that is missing or damaged counts as empty: everything in it can be found out again.
    """
    try:
        records = json.loads((paths.state / "images.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return records if isinstance(records, dict) else {}


def write_records(paths: Paths, records: Mapping[str, Any]) -> None:
    """Replace the records."""
    paths.state.mkdir(parents=True, exist_ok=True)
    write_atomic(paths.state / "images.json", json.dumps(records, indent=2, sort_keys=True).encode())


@dataclass(frozen=True)
class Plan:
    """What has to be done so that an image is there; nothing if ``changes`` is empty."""

    name: str
    tag: str
    build: bool
    push: bool
    changes: dict[str, Any]


def plan(
    name: str,
    tag: str,
    record: Mapping[str, Any],
    *,
    present: bool,
    pushed: bool,
    published: str | Literal["unknown"] | None,
) -> Plan:
    """Compare what is wanted with what is there.

    ``present`` is whether the local Docker has the image; ``published`` the digest that the registry has under the
    tag, None if it has none, ``unknown`` while the registry does not answer. If the registry has the image, that is
    enough, since nodes pull from it; if it does not answer, the record is believed.
    """
    known = record.get("digest") if record.get("tag") == tag else None
    if published == "unknown":
        published = known
    push = pushed and not published
    build = not present and (push or not pushed)
    changes: dict[str, Any] = {}
    if record.get("tag") != tag:
        changes["tag"] = {"old": record.get("tag"), "new": tag}
    elif pushed and published and published != known:
        changes["digest"] = {"old": known, "new": published}
    if build:
        changes["image"] = "built"
    if push:
        changes["registry"] = "pushed"
    return Plan(name, tag, build, push, changes)


def kept_tags(records: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the tags of each wanted image that are kept: the wanted one, and the one that was built before it.

    The answer is the same before and after the wanted tag is built, so a plan shows what applying it will remove.
    """
    kept: dict[str, set[str]] = {}
    for name, tag in wanted.items():
        record = records.get(name, {})
        before = record.get("previous") if record.get("tag") == tag else record.get("tag")
        kept[name] = {tag} | ({before} if before else set())
    return kept


def superseded(found: Iterable[tuple[str, str]], kept: Mapping[str, set[str]]) -> list[str]:
    """Return those of the images found (pairs of name and tag) that may be removed, as sorted ``name:tag``."""
    return sorted({f"{name}:{tag}" for name, tag in found if tag not in kept.get(name, ())})


# ---------------------------------------------------------------------------------------------------------------
# Carrying it out
# ---------------------------------------------------------------------------------------------------------------


def context(files: Mapping[str, Entry]) -> io.BytesIO:
    """Return a build context: a tar of the files, with the same owner, times and modes on every machine."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, entry in sorted(files.items()):
            member = tarfile.TarInfo(path)
            member.mode = 0o644 if entry.kind == "file" else 0o755
            if entry.kind == "link":
                member.type, member.linkname = tarfile.SYMTYPE, os.fsdecode(entry.content)
                archive.addfile(member)
            else:
                member.size = len(entry.content)
                archive.addfile(member, io.BytesIO(entry.content))
    stream.seek(0)
    return stream


class Builder:
    """Builds and pushes the images of one resolved pillar, with this host's Docker."""

    def __init__(self, pillar: Mapping[str, Any], paths: Paths, api: Any | None = None) -> None:
        self.pillar = pillar
        self.paths = paths
        self.api = api or connect()
        self.registry = registry.Client(pillar, paths)

    def full(self, name: str, tag: str) -> str:
        """Return the reference that an image has in the local Docker and in the registry."""
        return f"{self.pillar['registry']}/{name}:{tag}"

    # -- looking

    def local(self) -> dict[str, dict[str, Any]]:
        """Return all images that were built here, by reference; one call of Docker's API."""
        found = self.api.images(filters={"label": LABEL_NAME})
        return {tag: image for image in found for tag in image.get("RepoTags") or ()}

    def _adopt(self, wanted: Recipe, local: Mapping[str, dict[str, Any]], **labels: str) -> bool:
        """Tag an image of the same input, even one built for another registry's name; return whether there is one."""
        labels = {LABEL_NAME: wanted.name, LABEL_HASH: wanted.tag, **labels}
        for candidate, image in local.items():
            if candidate.endswith(f"/{wanted.name}:{wanted.tag}") and labels.items() <= (image["Labels"] or {}).items():
                self._tag(candidate, wanted.name, wanted.tag)
                return True
        return False

    @docker_errors()
    def plan(self, name: str) -> Plan:
        """Return what has to be done so that the image ``name`` is there."""
        return self._plan(recipe(name, self.pillar, self.paths), self.local())

    def _plan(self, wanted: Recipe, local: Mapping[str, dict[str, Any]]) -> Plan:
        published: str | None = None
        pushed = is_pushed(wanted.name, self.pillar)
        if pushed:
            try:
                published = self.registry.digest(wanted.name, wanted.tag)
            except (Unreachable, Refused):
                published = "unknown"
        return plan(
            wanted.name,
            wanted.tag,
            read_records(self.paths).get(wanted.name, {}),
            present=self.full(wanted.name, wanted.tag) in local,
            pushed=pushed,
            published=published,
        )

    @docker_errors()
    def listing(self) -> dict[str, dict[str, Any]]:
        """Return the images of services that are on, and those below: ``size`` in bytes, ``built`` in Unix seconds."""
        local, records = self.local(), read_records(self.paths)
        entries: dict[str, dict[str, Any]] = {}
        for name, tag in self._wanted().items():
            record = records.get(name, {})
            image = local.get(self.full(name, record.get("tag", tag)), {})
            entries[name] = {
                "tag": record.get("tag"),
                "wanted": tag,
                "digest": record.get("digest"),
                "size": image.get("Size"),
                "built": image.get("Created"),
            }
        return entries

    def _wanted(self) -> dict[str, str]:
        tags: dict[str, str] = {}
        for name in sorted({service["image"]["name"] for service in self.pillar["services"].values()}):
            tags |= lineage(name, self.pillar, self.paths)
        return tags

    # -- building

    @docker_errors()
    def ensure(self, name: str) -> Plan:
        """Build and push the image ``name`` as far as that is needed; return what was done.

        One build runs at a time. After an interruption at any point, the next call goes on with what is there.

        Raises:
            CommandFailed: a build or push failed; the message has its last lines. Running services are not affected.
            VcoreError: it cannot be built here; the message says why.
        """
        with self._lock():
            wanted = recipe(name, self.pillar, self.paths)
            local = self.local()
            todo = self._plan(wanted, local)
            if todo.changes:
                if todo.build and not self._adopt(wanted, local):
                    suite = read_versions(self.paths)["base"]["suite"]
                    self._build(wanted, local, downloads.Way.find(self.pillar["build"], suite))
                if todo.push:
                    digest: str | None = self._push(name, wanted.tag)
                else:
                    digest = self.registry.digest(name, wanted.tag) if is_pushed(name, self.pillar) else None
                self._record(name, wanted.tag, digest)
            return todo

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the lock that allows one build, push or prune at a time on this host.

        Children inherit the open file, and with it the lock: if this process is killed, the next one waits until a
        package installation that is still running has ended.
        """
        self.paths.state.mkdir(parents=True, exist_ok=True)
        with (self.paths.state / "images.lock").open("w") as stream:
            os.set_inheritable(stream.fileno(), True)
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(self.paths, "images", tr("waits for another build to end"))
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _record(self, name: str, tag: str, digest: str | None) -> None:
        records = read_records(self.paths)
        before = records.get(name, {})
        previous = before.get("previous") if before.get("tag") == tag else before.get("tag")
        write_records(self.paths, {**records, name: {"tag": tag, "digest": digest, "previous": previous}})

    def _tag(self, source: str, name: str, tag: str) -> None:
        self.api.tag(source, f"{self.pillar['registry']}/{name}", tag)

    def _build(self, wanted: Recipe, local: Mapping[str, dict[str, Any]], way: downloads.Way) -> None:
        """Build one image and, before it, those below it that are missing or reach their packages in another way."""
        files, labels = dict(wanted.files), {LABEL_NAME: wanted.name, LABEL_HASH: wanted.tag}
        if wanted.parent == DEBIAN:
            below = self._debian(way)
            files |= {f"build/{path}": Entry("file", content) for path, content in way.files.items()}
            labels[LABEL_DOWNLOADS] = way.fingerprint
        else:
            parent = recipe(wanted.parent, self.pillar, self.paths)
            if not self._adopt(parent, local, **{LABEL_DOWNLOADS: way.fingerprint}):
                self._build(parent, local, way)
            if not is_pushed(parent.name, self.pillar):  # One that is has a state and a record of its own.
                self._record(parent.name, parent.tag, None)
            below = self.full(parent.name, parent.tag)
        self._run(
            wanted.name,
            lambda: self.api.build(
                fileobj=context(files),
                custom_context=True,
                tag=self.full(wanted.name, wanted.tag),
                buildargs={"BASE": below, **wanted.arguments, **way.environment},
                labels=labels,
                network_mode="host" if way.on_this_host else None,
                rm=True,
                forcerm=True,
                decode=True,
                timeout=SILENCE,
            ),
        )

    def _run(self, name: str, start: Callable[[], Iterable[dict[str, Any]]]) -> dict[str, Any]:
        """Follow a build, pull or push and report its steps; return its auxiliary data. Errors carry its last lines."""
        lines: deque[str] = deque(maxlen=LAST_LINES)
        auxiliary: dict[str, Any] = {}
        step = f"image {name}"
        try:
            for message in start():
                if "error" in message:
                    raise CommandFailed(
                        docker_client.without_credentials(_failure(step, message["error"].strip(), lines))
                    )
                auxiliary |= message.get("aux") or {}
                for line in message.get("stream", "").splitlines():
                    # Docker's own lines between those of the programs.
                    if not line.strip() or line.startswith((" ---> ", "Removing intermediate container")):
                        continue
                    lines.append(line)
                    if matched := re.match(r"Step (\d+)/(\d+) : (.*)", line):
                        instruction = textwrap.shorten(matched[3], 100, placeholder=" …")
                        report(
                            self.paths,
                            step,
                            tr(
                                "step {matched} of {matched_2}: {instruction}",
                                matched=matched[1],
                                matched_2=matched[2],
                                instruction=instruction,
                            ),
                        )
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise CommandFailed(docker_client.without_credentials(_failure(step, str(error), lines))) from None
        return auxiliary

    def _debian(self, way: downloads.Way) -> str:
        """Return the reference of the bare system below the base image, which is made once and kept in Docker."""
        source = self.pillar["build"]["source"]
        tag = lineage(BASE, self.pillar, self.paths)[DEBIAN]
        wanted = self.full(DEBIAN, tag)
        if not self.api.images(wanted, quiet=True):
            if source == "mmdebstrap":
                tarball = self._tarball(tag, way)
                report(self.paths, f"image {DEBIAN}", tr("is imported into Docker"))
                answer = self.api.import_image(
                    str(tarball),
                    repository=wanted.rpartition(":")[0],
                    tag=tag,
                    changes=[f"LABEL {LABEL_NAME}={DEBIAN}"],
                )
                if '"error"' in answer:
                    raise CommandFailed(
                        tr("Docker does not import {tarball}: {answer}", tarball=tarball, answer=answer[-500:])
                    )
            else:
                report(self.paths, f"image {DEBIAN}", tr("{source} is pulled", source=source))
                self._run(DEBIAN, lambda: self.api.pull(source, stream=True, decode=True))
                self._tag(source, DEBIAN, tag)
        self._record(DEBIAN, tag, None)
        return wanted

    def _tarball(self, tag: str, way: downloads.Way) -> Path:
        """Make the bare system's tarball with mmdebstrap, unless an earlier run did; return its path."""
        cache = self.paths.state / "cache"
        tarball, work = cache / f"debian-{tag}.tar", cache / "mmdebstrap"
        if tarball.is_file():
            return tarball
        if not shutil.which("mmdebstrap"):
            raise VcoreError(tr("mmdebstrap is missing on this host: apt-get install mmdebstrap"))
        # Left by an earlier run that was killed. Its mounts ended with its own mount namespace.
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, mode=0o700)
        unfinished = work / "debian.tar"
        suite = read_versions(self.paths)["base"]["suite"]
        command = ["unshare", "--mount", "mmdebstrap", *MMDEBSTRAP, suite, str(unfinished), *way.lines]
        environment = {**os.environ, **way.environment, "TMPDIR": str(work)}
        lines: deque[str] = deque(maxlen=LAST_LINES)
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            close_fds=False,
        ) as process:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                if line.startswith("I: ") and "hook" not in line:
                    report(self.paths, f"image {DEBIAN}", line[3:].strip())
        if process.returncode != 0:
            message = _failure(f"image {DEBIAN}", f"mmdebstrap ended with exit code {process.returncode}", lines)
            raise CommandFailed(docker_client.without_credentials(message))
        for old in cache.glob("debian-*.tar"):
            old.unlink()
        unfinished.replace(tarball)
        shutil.rmtree(work, ignore_errors=True)
        return tarball

    def _push(self, name: str, tag: str) -> str:
        report(self.paths, f"image {name}", tr("is pushed to the registry"))
        credentials = registry.credentials(self.paths, "push", self.pillar["registry"])
        repository = f"{self.pillar['registry']}/{name}"
        answer = self._run(
            name, lambda: self.api.push(repository, tag, stream=True, decode=True, auth_config=credentials)
        )
        if "Digest" not in answer:
            raise CommandFailed(
                tr("image {name}: Docker pushed it and did not say under which digest; run this again", name=name)
            )
        return str(answer["Digest"])

    # -- clearing away

    @docker_errors()
    def prune_plan(self, updated: Collection[str] = (), *, ask_registry: bool = True) -> dict[str, list[str]]:
        """Return the images that no service uses, ``{"registry": ["name:tag", …], "docker": […]}``; no list is empty.

        Of each image that a service which is on uses, the wanted tag and the one before it are kept. So are the images
        that a swarm service runs and can be rolled back to, unless the site no longer wants that service: a plan counts
        it as gone, since it will be when this is applied. For the same reason a plan has to name the services that will
        be ``updated`` before this is applied: these can then be rolled back to what they run now.
        A registry that does not answer, or is not to be asked, keeps what it has until the next time.
        """
        kept = kept_tags(read_records(self.paths), self._wanted())
        prefix = f"{self.pillar['registry']}/"
        for running in self._running(updated):
            name, _, tag = running.removeprefix(prefix).partition("@")[0].partition(":")
            kept.setdefault(name, set()).add(tag)
        tags = [image for entry in self.api.images() for image in entry.get("RepoTags") or ()]
        local = [tag.removeprefix(prefix).partition(":")[::2] for tag in tags if tag.startswith(prefix)]
        try:
            remote = self.registry.content() if ask_registry else []
        except (Unreachable, Refused):
            remote = []
        found = {"registry": superseded(remote, kept), "docker": superseded(local, kept)}
        if self._uncollected.exists():
            found["garbage"] = ["left by a collection that did not end"]
        return {place: images for place, images in found.items() if images}

    @property
    def _uncollected(self) -> Path:
        """Exists from the first deletion in the registry until its garbage is collected."""
        return self.paths.state / "registry-garbage"

    def _running(self, updated: Collection[str]) -> list[str]:
        """Return the images that swarm services, of the site and of others, run and can be rolled back to."""
        try:
            services = self.api.services()
        except docker.errors.APIError:
            return []  # Not a swarm manager, or not yet.
        specs = []
        for service in services:
            name = (service["Spec"].get("Labels") or {}).get(SERVICE_LABEL)
            if name is None or name in self.pillar["services"]:
                specs.append(service["Spec"])
                if name not in updated and service.get("PreviousSpec"):
                    specs.append(service["PreviousSpec"])
        return [spec["TaskTemplate"]["ContainerSpec"]["Image"] for spec in specs]

    @docker_errors()
    def prune(self, *, ask_registry: bool = True) -> tuple[dict[str, list[str]], int]:
        """Remove what :meth:`prune_plan` lists; return that, and how many bytes the registry freed.

        The registry's garbage is collected while nothing is built or pushed: the collection would take the layers of a
        half-pushed image for garbage. Only this class pushes, under the same lock; pulls do no harm.

        Raises:
            VcoreError: the registry refuses a deletion, or its container does not run here.
        """
        with self._lock():
            found = self.prune_plan(ask_registry=ask_registry)
            for image in found.get("docker", ()):
                # Forced, because swarm keeps the stopped containers of earlier tasks for a while.
                with contextlib.suppress(docker.errors.ImageNotFound):
                    self.api.remove_image(f"{self.pillar['registry']}/{image}", force=True)
            # Left by interrupted builds; but not the layers of a build that somebody is running by hand.
            self.api.prune_images(filters={"dangling": True, "until": "24h", "label": LABEL_NAME})
            freed = 0
            if "registry" in found or "garbage" in found:
                self._uncollected.touch()
                for image in found.get("registry", ()):
                    report(self.paths, "registry", tr("{image} is removed", image=image))
                    self.registry.delete(*image.split(":"))
                report(self.paths, "registry", tr("its garbage is collected"))
                freed = registry.collect_garbage(self.api)
                self._uncollected.unlink()
            wanted = self._wanted()
            records = read_records(self.paths)
            if not set(records) <= set(wanted):
                write_records(self.paths, {name: record for name, record in records.items() if name in wanted})
            return found, freed


def _failure(step: str, message: str, lines: Collection[str]) -> str:
    heading = f"{step}: {message}" + ("; the last lines:" if lines else "")
    return "\n".join([heading, *(f"  {line}" for line in lines)])
