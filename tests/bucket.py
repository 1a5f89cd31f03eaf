"""An S3-compatible server on this machine, whose requests are counted and can be made to fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

# No metadata service is asked for credentials, and no file of this machine has any.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open, as at a real server

    def log(self, *args: Any) -> None:
        pass


class Server:
    """moto's server, with what happens to it in between.

    Attributes
    ----------
    requests : list of str
        What was asked for, as in ``"GET /photos/cats/001.png"``, with the query.
    answers : dict of str to str
        Statuses to answer with instead, by what a request contains.
    delay : float
        Seconds that every request takes longer.
    most_at_once : int
        The most requests that were under way at the same time.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.answers: dict[str, str] = {}
        self.delay = 0.0
        self.most_at_once = 0
        self._under_way = 0
        self._lock = threading.Lock()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet
        )
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.client = boto3.client(
            "s3",
            endpoint_url=self.address,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        query = f"?{environ['QUERY_STRING']}" if environ["QUERY_STRING"] else ""
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}{query}"
        with self._lock:
            self.requests.append(request)
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        time.sleep(self.delay)
        try:
            for part, status in self.answers.items():
                if part in request:
                    body = _error(status.partition(" ")[2]) if " " in status else b""
                    length = ("Content-Length", str(len(body)))
                    start_response(status, [("Content-Type", "application/xml"), length])
                    return [body]
            return self._moto(environ, start_response)
        finally:
            with self._lock:
                self._under_way -= 1

    @contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.client.close()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def put_folder(self, bucket: str, prefix: str, folder: Path) -> None:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.put(bucket, f"{prefix}/{file.relative_to(folder)}", file.read_bytes())
        self.requests.clear()

    def empty(self, bucket: str) -> None:
        """Delete a bucket with all that is in it."""
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for one in page.get("Contents", ()):
                self.client.delete_object(Bucket=bucket, Key=one["Key"])
        self.client.delete_bucket(Bucket=bucket)

    def asked(self, method: str) -> list[str]:
        return [one.partition(" ")[2] for one in self.requests if one.startswith(f"{method} ")]


def _error(code: str) -> bytes:
    return (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    )
