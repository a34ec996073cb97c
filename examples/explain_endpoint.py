"""Which measurements make a model behind HTTP call a tumour benign? Forward calls are requests.

    python examples/explain_endpoint.py                      # starts a server of its own
    python examples/explain_endpoint.py --url http://...     # one that speaks the same JSON

The server is a forest of scikit-learn: it takes ``{"rows": [[...], ...]}`` and returns
``{"scores": [[...], ...]}``. It asks for a key, answers late, and fails one request in ten; the map
is the same as without all that. A measurement that is out takes its mean. Everything runs offline
with these packages:

    pip install 'fwdgrad-kernels[arrays,http]'
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

import fwdgrad
from fwdgrad.adapters.http import HttpModel


def main() -> None:
    """Prints the measurements that matter most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="of a server; default: one of its own")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--concurrency", type=int, default=4, help="requests at a time; default: 4")
    arguments = parser.parse_args()
    data = load_breast_cancer()
    if arguments.url is None:
        os.environ["ENDPOINT_KEY"] = "only-for-this-example"
    model = HttpModel(
        arguments.url or serve(data, os.environ["ENDPOINT_KEY"]),
        encode=lambda batch: {"rows": batch.tolist()},
        decode=lambda found: found["scores"],
        labels=list(data.target_names),
        batch_size=32,
        concurrency=arguments.concurrency,
        headers_from={"Authorization": "Bearer $ENDPOINT_KEY"},
    )
    baseline = torch.tensor(data.data.mean(0))
    result = fwdgrad.explain(
        model,
        torch.tensor(data.data[0]),
        "benign",
        method=fwdgrad.Regions(baseline),
        n_samples=arguments.samples,
        batch_size=32,
    )
    print(f"P(benign) = {result.score:.2f}; {result.n_samples} samples, {result.seconds:.1f} s, "
          f"reliability {result.reliability:.2f}, left out {dict(model.failures)}")  # fmt: skip
    print("what each measurement adds, compared with its mean:")
    for i in result.attribution.abs().argsort(descending=True)[:8].tolist():
        value, error = result.attribution[i], result.standard_error[i]
        print(f"  {data.feature_names[i]:24} {value:+.3f} +- {error:.3f}")


def serve(data, key: str) -> str:
    """Starts the server in a thread of its own and returns its URL."""
    forest = RandomForestClassifier(20, random_state=0).fit(data.data[1:], data.target[1:])
    lock, numbers = threading.Lock(), iter(range(10**9))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Answers a request."""
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(0.1)
            with lock:
                number = next(numbers)
            if self.headers["Authorization"] != f"Bearer {key}":
                self.send_error(401)
            elif number % 10 == 5:
                self.send_error(503)
            else:
                content = json.dumps({"scores": forest.predict_proba(body["rows"]).tolist()})
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content.encode())

        def log_message(self, *_: object) -> None:
            """Keeps quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/scores"


if __name__ == "__main__":
    main()
