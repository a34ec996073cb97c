"""A server on the loopback that answers as a test says."""

import contextlib
import dataclasses
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclasses.dataclass
class Request:
    number: int
    method: str
    path: str
    headers: dict
    body: bytes
    time: float

    @property
    def json(self):
        return json.loads(self.body)


@dataclasses.dataclass
class Answer:
    content: object = None  # JSON, or bytes
    status: int = 200
    headers: dict = dataclasses.field(default_factory=dict)
    late: float = 0.0
    closes: bool = False  # the connection, in the middle of the answer


class Server:
    """Answers each request by a function of it; keeps the requests and how many came at once."""

    def __init__(self, answer, context=None):
        self.requests, self.at_once, self.most_at_once = [], 0, 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with lock:
                    number = len(server.requests)
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    request = Request(
                        number, self.command, self.path, headers, body, time.monotonic()
                    )
                    server.requests.append(request)
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                try:
                    found = answer(request)
                except Exception as error:  # of a test's own assertions, say
                    found = Answer({"error": repr(error)}, 400)
                time.sleep(found.late)
                with lock:
                    server.at_once -= 1
                content = found.content
                if not isinstance(content, bytes):
                    content = json.dumps(content).encode()
                head = f"HTTP/1.1 {found.status} {self.responses.get(found.status, ('?',))[0]}\r\n"
                lines = {"Content-Length": len(content), **found.headers}
                head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
                if found.closes:
                    content, self.close_connection = content[: len(content) // 2], True
                self.wfile.write(head.encode() + b"\r\n" + content)

            do_GET = do_POST

            def log_message(self, *_):
                pass

        class Threads(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, *_):  # a client that gave up
                pass

        self._server = Threads(("127.0.0.1", 0), Handler)
        self.scheme = "http"
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.scheme = "https"
        quickly = (0.01,)  # seconds between two looks at whether to end
        threading.Thread(target=self._server.serve_forever, args=quickly, daemon=True).start()

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self._server.server_port}"

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def serving(answer, context=None):
    server = Server(answer, context)
    try:
        yield server
    finally:
        server.stop()
