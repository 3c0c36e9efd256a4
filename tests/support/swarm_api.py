"""A stand-in for the Docker daemons of many hosts in one swarm: the part of the Engine API that the reconciler uses.

Each host has a socket of its own. The system tests use real nodes; thirty real daemons are too much for one machine.
"""

from __future__ import annotations

import hashlib
import json
import re
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

VERSION = "1.41"


class SwarmApi:
    """The daemons of a manager and its workers."""

    def __init__(self, folder: Path, manager: str) -> None:
        self.folder, self.manager = folder, manager
        self.nodes: dict[str, dict[str, Any]] = {}
        self.servers: list[socketserver.BaseServer] = []
        #: Every request that changed something, as "<host> <method> <path>".
        self.log: list[str] = []
        #: Hosts whose daemon says that it is in no swarm.
        self.outside: set[str] = set()
        self.add(manager, "10.1.0.1")

    def add(self, name: str, address: str) -> str:
        """Add a host to the swarm, and return its DOCKER_HOST."""
        identity = hashlib.sha256(name.encode()).hexdigest()[:25]
        self.nodes[name] = {
            "ID": identity,
            "Version": {"Index": 1},
            "CreatedAt": "2026-01-01T00:00:00Z",
            "Spec": {"Labels": {}, "Role": "manager" if name == self.manager else "worker", "Availability": "active"},
            "Description": {"Hostname": name, "Engine": {"EngineVersion": "26.1"}},
            "Status": {"State": "ready", "Addr": address},
        }
        place = self.folder / f"{name}.sock"
        server = _Server(str(place), _handler(self, name))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.servers.append(server)
        return f"unix://{place}"

    def host(self, name: str) -> str:
        """Return the DOCKER_HOST of a host."""
        return f"unix://{self.folder / f'{name}.sock'}"

    def labels(self) -> dict[str, dict[str, str]]:
        """Return the labels of the nodes, by name."""
        return {name: dict(node["Spec"]["Labels"]) for name, node in self.nodes.items()}

    def close(self) -> None:
        """End all daemons."""
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def answer(self, host: str, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Return the answer of a host's daemon to a request."""
        own = self.nodes.get(host)
        manages = host == self.manager
        if path == "/version":
            return 200, {"ApiVersion": VERSION, "MinAPIVersion": "1.12", "Version": "26.1"}
        if path == "/info":
            if own is None or host in self.outside:
                return 200, {"Swarm": {"LocalNodeState": "inactive", "ControlAvailable": False, "NodeID": ""}}
            return 200, {
                "Swarm": {"LocalNodeState": "active", "ControlAvailable": manages, "NodeID": own["ID"], "Error": ""}
            }
        if not manages:
            return 503, {"message": "This node is not a swarm manager."}
        if method != "GET":
            self.log.append(f"{method} {path}")
        if path == "/services":
            return 200, [{"ID": "controller", "Spec": {"Name": "slurm-controller", "Labels": {}}}]
        if path in ("/tasks", "/configs", "/secrets", "/containers/json"):
            return 200, []
        if path == "/nodes":
            return 200, list(self.nodes.values())
        if matched := re.fullmatch(r"/nodes/([a-z0-9]+)(/update)?", path):
            name = next((name for name, node in self.nodes.items() if node["ID"] == matched[1]), None)
            if name is None:
                return 404, {"message": f"node {matched[1]} not found"}
            if method == "DELETE":
                del self.nodes[name]
            elif matched[2]:
                self.nodes[name]["Spec"] = body
                self.nodes[name]["Version"]["Index"] += 1
            return 200, {}
        return 404, {"message": f"no {path} here"}


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


def _handler(api: SwarmApi, host: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            path = re.sub(r"^/v[0-9.]+", "", self.path.split("?")[0])
            code, data = api.answer(host, self.command, path, body)
            content = json.dumps(data).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _serve

        def address_string(self) -> str:
            return host

        def log_message(self, *_: Any) -> None:
            """Log nothing, because nobody reads it."""

    return Handler
