"""A local server that speaks the Kaggle endpoints which a submission uses, with faults on demand."""

import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USER, TOKEN = "tester", "KGAT-secret-0123456789"


class KaggleServer:
    """State of the pretended site. `faults[call]` is a list of what the next calls of that name do instead:

    ("refuse", code, message) · ("drop",) nothing happens, the connection breaks · ("drop_after",) it happens, the
    answer is lost · for "PUT": ("cut", n) takes n bytes of the body, then the connection breaks · ("gone",).
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.dataset = "guie-submission"  # the slug of the one that may be made
        self.faults: dict[str, list[tuple]] = defaultdict(list)
        self.blobs: dict[str, dict[str, Any]] = {}  # token → {"size", "data", "sent"}
        self.versions: list[dict[str, Any]] = []  # of the one dataset
        self.kernels: list[dict[str, Any]] = []
        self.submissions: list[dict[str, Any]] = []
        self.polls: dict[str, int] = defaultdict(int)
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
                call = self.path.rpartition("/")[2]
                server.calls.append(call)
                fault = server.faults[call].pop(0) if server.faults[call] else ("none",)
                if fault[0] == "drop":
                    return self.hang_up()
                if call != "IntrospectToken" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    return self.answer(401, {"code": 401, "message": f"bad token {self.headers.get('Authorization')}"})
                if fault[0] == "refuse":
                    return self.answer(fault[1], {"code": fault[1], "message": fault[2]})
                code, answer = getattr(server, call)(body)
                if fault[0] == "drop_after":
                    return self.hang_up()
                self.answer(code, answer)

            def do_PUT(self) -> None:
                server.calls.append("PUT")
                blob = server.blobs[self.path.rpartition("/")[2]]
                length, span = int(self.headers["Content-Length"]), self.headers.get("Content-Range", "")
                if span.startswith("bytes */"):  # how much is there?
                    if blob.get("gone"):
                        return self.answer(404, {})
                    if len(blob["data"]) == blob["size"]:
                        return self.answer(200, {})
                    headers = {"Range": f"bytes=0-{len(blob['data']) - 1}"} if blob["data"] else {}
                    return self.answer(308, {}, headers)
                fault = server.faults["PUT"].pop(0) if server.faults["PUT"] else ("none",)
                if fault[0] == "gone":
                    blob["gone"] = True
                    return self.hang_up()
                start = int(span.split()[1].split("-")[0]) if span else 0
                assert start == len(blob["data"]), f"sent from {start}, expected {len(blob['data'])}"
                wanted = min(fault[1], length) if fault[0] == "cut" else length
                data = self.rfile.read(wanted)
                blob["data"] += data
                blob["sent"] += len(data)
                if fault[0] == "cut":
                    return self.hang_up()
                self.answer(200, {})

            def hang_up(self) -> None:
                self.close_connection = True
                self.connection.close()

            def answer(self, code: int, value: Any, headers: dict[str, str] | None = None) -> None:
                content = json.dumps(value).encode()
                self.send_response(code)
                for name, text in (headers or {}).items():
                    self.send_header(name, text)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]  # broken connections are the point
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    # One method a call, named as the client names it: request → (code, answer)

    def IntrospectToken(self, request: dict) -> tuple[int, dict]:
        known = request.get("token") == TOKEN
        return 200, {"active": known, "username": USER if known else ""}

    def GetDataset(self, request: dict) -> tuple[int, dict]:
        if not self.versions:
            return 403, {"code": 403, "message": "Permission 'datasets.get' was denied"}
        return 200, {"currentVersionNumber": len(self.versions), "ref": "x"}

    def StartBlobUpload(self, request: dict) -> tuple[int, dict]:
        token = f"blob-{len(self.blobs)}"
        self.blobs[token] = {"name": request["name"], "size": request["contentLength"], "data": b"", "sent": 0}
        return 200, {"token": token, "createUrl": f"{self.url}/upload/{token}"}

    def CreateDataset(self, request: dict) -> tuple[int, dict]:
        assert not self.versions, "a second dataset of the same name"
        assert request["isPrivate"] and request["slug"] == self.dataset, request
        return self._version(request["files"])

    def CreateDatasetVersion(self, request: dict) -> tuple[int, dict]:
        assert self.versions and request["datasetSlug"] == self.dataset, request
        return self._version(request["body"]["files"])

    def _version(self, files: list[dict]) -> tuple[int, dict]:
        version = {}
        for file in files:
            blob = self.blobs.pop(file["token"])  # a blob goes into one version
            assert len(blob["data"]) == blob["size"], f"{blob['name']} is not whole"
            version[blob["name"]] = blob["data"]
        self.versions.append(version)
        return 200, {"ref": "tester/guie-submission", "status": "ok"}

    def GetDatasetStatus(self, request: dict) -> tuple[int, dict]:
        self.polls["dataset"] += 1
        return 200, {"status": "READY" if self.polls["dataset"] % 2 == 0 else "BLOBS_RECEIVED"}

    def GetKernel(self, request: dict) -> tuple[int, dict]:
        if not self.kernels:
            return 404, {"code": 404, "message": "Not found"}
        metadata = {"ref": "x", "currentVersionNumber": len(self.kernels), "lastRunTime": "2022-10-01T00:00:00.000Z"}
        return 200, {"metadata": metadata, "blob": {}}

    def SaveKernel(self, request: dict) -> tuple[int, dict]:
        self.kernels.append(request)
        return 200, {"ref": "x", "url": "x", "versionNumber": len(self.kernels)}

    def GetKernelSessionStatus(self, request: dict) -> tuple[int, dict]:
        self.polls["kernel"] += 1
        return 200, {"status": "COMPLETE" if self.polls["kernel"] % 3 == 0 else "RUNNING"}

    def ListSubmissions(self, request: dict) -> tuple[int, dict]:
        for entry in self.submissions:
            entry["asked"] += 1
            if entry["asked"] >= 2 and entry["status"] == "PENDING":
                entry.update(status="COMPLETE", publicScore="0.65", privateScore="0.66")
        return 200, {"submissions": [dict(entry) for entry in reversed(self.submissions)]}  # newest first

    def CreateCodeSubmission(self, request: dict) -> tuple[int, dict]:
        entry = {"ref": 1, "description": request["submissionDescription"], "status": "PENDING", "asked": 0}
        self.submissions.append({**entry, "date": "2022-10-01T00:00:00.000Z", "request": request})
        return 200, {"message": "Successfully submitted", "ref": 1}
