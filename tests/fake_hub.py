"""A hub on this machine: serves one repository, may break off a download once, and may lie about what it has."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves the files below ``folder`` as ``repository``; ``break_off`` ends the first answer for it halfway.

    ``lies`` replace what it says: "sha" (the commit of a revision), "headers" of a file, "tree" (a listing, as JSON
    text), "link" (another page of every listing), "endless" (a listing that does not end).
    """

    def __init__(self, folder: Path, repository: str, break_off: str = "") -> None:
        self.folder, self.repository, self.break_off = folder, repository, break_off
        self.lies: dict[str, Any] = {}
        self.commit = COMMIT
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *rest: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, body: bool) -> None:
                path = self.path.split("?")[0].lstrip("/")
                if (
                    path.startswith(f"api/models/{outer.repository}/revision/")
                    or path == f"api/models/{outer.repository}"
                ):
                    sha = outer.lies.get("sha", outer.commit)
                    return self._json(json.dumps({"id": outer.repository, "sha": sha, "siblings": []}), body)
                if path.startswith(f"api/models/{outer.repository}/tree/"):
                    return self._json(outer.lies.get("tree") or json.dumps(outer.tree()), body)
                if path.startswith(f"{outer.repository}/resolve/"):
                    return self._file(path.split("/", 4)[4], body)
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None

            def _json(self, text: str, body: bool) -> None:
                content = text.encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                if "link" in outer.lies:
                    self.send_header("Link", f'<{outer.endpoint}{self.path}>; rel="next"')
                if "endless" not in outer.lies:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with suppress(OSError):
                    if body:
                        self.wfile.write(content)
                    while body and "endless" in outer.lies:
                        self.wfile.write(b" " * 1_000_000)

            def _file(self, name: str, body: bool) -> None:
                content = (outer.folder / name).read_bytes()
                total, start = len(content), 0
                if "Range" in self.headers:
                    start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
                self.send_response(206 if start else 200)
                own = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": outer.commit}
                for header, value in {**own, **outer.lies.get("headers", {})}.items():
                    self.send_header(header, value)
                self.send_header("Accept-Ranges", "bytes")
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
                self.send_header("Content-Length", str(total - start))
                self.end_headers()
                if not body:
                    return
                if name == outer.break_off:
                    outer.break_off = ""
                    self.wfile.write(content[: total // 2])
                    self.wfile.flush()
                    self.connection.close()
                else:
                    self.wfile.write(content[start:])

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def tree(self) -> list[dict[str, object]]:
        """The files as the hub lists them, all large."""
        listed = []
        for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            content = file.read_bytes()
            oid = hashlib.sha256(content).hexdigest()
            lfs = {"oid": oid, "size": len(content), "pointerSize": 130}
            name = file.relative_to(self.folder).as_posix()
            listed.append({"type": "file", "path": name, "size": len(content), "oid": oid[:40], "lfs": lfs})
        return listed

    def close(self) -> None:
        """Ends the server."""
        self.server.shutdown()
        self.server.server_close()
