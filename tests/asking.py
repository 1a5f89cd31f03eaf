"""Asks an ASGI application, without a server or a network between."""

import asyncio
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def text(self):
        return self.body.decode()


def ask(app, path, method="GET", body=b"", chunks=None, **headers):
    """Send one request; `headers` have underscores for hyphens, and are left out if None."""
    given = {"host": "127.0.0.1:8321", **{k.replace("_", "-"): v for k, v in headers.items()}}
    path, _, query = path.partition("?")
    parts = list(chunks if chunks is not None else [body])
    sent = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (name.encode(), each.encode("latin-1"))
            for name, value in given.items()
            if value is not None
            for each in ([value] if isinstance(value, str) else value)
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8321),
    }

    async def receive():
        if parts:
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    [start] = [message for message in sent if message["type"] == "http.response.start"]
    return Answer(
        start["status"],
        {name.decode(): value.decode() for name, value in start["headers"]},
        b"".join(message.get("body", b"") for message in sent),
    )
