#!/usr/bin/env bash
# Litestar asks copies of the guards and the middleware of a router, and the objects that they were given never hear of a request.
#
# Seen 2026-11-30: litestar 2.25.0, Python 3.11.
# `register` makes a deep copy of each router, once for every router around it, with its operations, guards and middleware. So a guard that is
# an object and counts, or a middleware that holds a cache, a pool or a set of keys, is there twice or more; the one that its author holds
# stays as it was made. What cannot be copied, a lock say, stops the start. On the app itself the same objects are asked, and not copies.
# One would think that an object which is registered is the one that is asked.
# Here: src/chatapi/routing.py.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check litestar==2.25.0
cat >seen.py <<'PY'
import logging
import threading

from litestar import Litestar, Router, get
from litestar.middleware import ASGIMiddleware
from litestar.testing import TestClient

logging.disable()


class CountingMiddleware(ASGIMiddleware):
    def __init__(self):
        self.requests = 0

    async def handle(self, scope, receive, send, next_app):
        self.requests += 1
        await next_app(scope, receive, send)


class CountingGuard:
    def __init__(self):
        self.requests = 0

    def __call__(self, connection, handler):
        self.requests += 1


@get("/")
async def hello() -> str:
    return "Hello"


def counted(register):
    middleware, guard = CountingMiddleware(), CountingGuard()
    with TestClient(register(middleware=[middleware], guards=[guard])) as client:
        for _ in range(3):
            assert client.get("/").status_code == 200
    return f"{middleware.requests} seen by the middleware, {guard.requests} by the guard"


def on_the_app(**asked):
    return Litestar([hello], **asked)


def on_a_router(**asked):
    return Litestar([Router("/", route_handlers=[hello], **asked)])


def with_a_lock():
    guard = CountingGuard()
    guard.lock = threading.Lock()
    try:
        on_a_router(guards=[guard])
    except TypeError as error:
        return str(error)


print(f"3 requests, on the app: {counted(on_the_app)}")
print(f"3 requests, on a router: {counted(on_a_router)}")
print(f"a guard with a lock, on a router: {with_a_lock()}")
PY
diff - <(venv/bin/python seen.py) <<'SEEN'
3 requests, on the app: 3 seen by the middleware, 3 by the guard
3 requests, on a router: 0 seen by the middleware, 0 by the guard
a guard with a lock, on a router: cannot pickle '_thread.lock' object
SEEN
