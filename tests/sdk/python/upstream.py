"""A provider that says what a test tells it to, and remembers what it was asked. Standard library only."""

import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# How long a test waits for something that must happen; nothing is asserted about the time that it takes.
PATIENCE = 20.0


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class Reply:
    """One answer. `pieces` are sent one by one as chunks; a reply that is `cut` ends in the middle."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    pieces: Iterable[bytes] | None = None
    cut: bool = False
    hangs: bool = False


def answer(body, status=200, **headers) -> Reply:
    """A whole answer: an object becomes JSON, bytes stay as they are."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if not isinstance(body, bytes):
        headers.setdefault("content-type", "application/json")
        body = json.dumps(body, ensure_ascii=False).encode()
    return Reply(status=status, headers=headers, body=body)


def events(*chunks, done=True, cut=False, named=False) -> Reply:
    """An event stream with one event for each object; `named` adds `event:` lines from their `type`."""

    def frame(chunk) -> bytes:
        name = f"event: {chunk['type']}\n" if named else ""
        return f"{name}data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()

    pieces = [frame(chunk) for chunk in chunks]
    if done and not cut:
        pieces.append(b"data: [DONE]\n\n")
    return Reply(headers={"content-type": "text/event-stream"}, pieces=pieces, cut=cut)


def failure(status, message="It failed.", code=None, kind="server_error", **headers) -> Reply:
    """An error as OpenAI words it."""
    return answer({"error": {"message": message, "type": kind, "param": None, "code": code}}, status, **headers)


HANGS = Reply(hangs=True)


class Upstream:
    """The provider. `says` sets its next answers; `asked` is what came."""

    def __init__(self):
        self.asked: list[Asked] = []
        self.caller_left = threading.Event()
        self.release = threading.Event()
        self._answers: deque[Reply | Callable[[Asked], Reply]] = deque()
        self._lock = threading.Lock()
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            timeout = PATIENCE * 3

            def handle_any(self):
                upstream._serve(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

            def handle_error(self, *_):
                pass  # A caller that went away is part of some tests.

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def says(self, *replies: Reply | Callable[[Asked], Reply]) -> None:
        """Queues answers. A function makes its answer from the request."""
        with self._lock:
            self._answers.extend(replies)

    def reset(self) -> list:
        """Forgets everything and lets hanging answers go; gives the answers that nobody asked for."""
        with self._lock:
            left = list(self._answers)
            self._answers.clear()
            self.asked = []
            self.caller_left = threading.Event()
            self.release.set()
            self.release = threading.Event()
        return left

    def close(self) -> None:
        self.reset()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(handler.command, handler.path, headers, _read_body(handler, headers))
        with self._lock:
            if (asked.method, asked.path) == ("GET", "/v1/models"):
                # The gateway's own question, at a time of its choosing; no part of any test.
                reply = failure(404)
            else:
                self.asked.append(asked)
                reply = self._answers.popleft() if self._answers else failure(599, "The test scripted no answer.")
            release, caller_left = self.release, self.caller_left
        if callable(reply):
            reply = reply(asked)
        try:
            _write(handler, reply, release)
        except OSError:
            caller_left.set()
            handler.close_connection = True


def _read_body(handler, headers) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return handler.rfile.read(int(headers.get("content-length", "0")))
    body = b""
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body


def _write(handler, reply: Reply, release: threading.Event) -> None:
    if reply.hangs:
        release.wait(PATIENCE)
        handler.close_connection = True
        return
    handler.send_response(reply.status)
    for name, value in reply.headers.items():
        handler.send_header(name, value)
    if reply.pieces is None:
        handler.send_header("content-length", str(len(reply.body or b"")))
        handler.end_headers()
        handler.wfile.write(reply.body or b"")
        return
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    for piece in reply.pieces:
        handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        handler.wfile.flush()
    if reply.cut:
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)
    else:
        handler.wfile.write(b"0\r\n\r\n")
