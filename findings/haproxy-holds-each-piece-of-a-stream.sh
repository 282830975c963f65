#!/usr/bin/env bash
# HAProxy holds each small piece of a streamed response for 0.2 s, from a back end that has sent it already.
#
# Seen 2026-11-29: HAProxy 2.6.12 (Debian 12's package, which apt unpacks here); 3.2.0 and 3.5-dev5 did the same.
# A chunked response over HTTP/1 whose back end sends the next piece as soon as the client has the one before: twenty
# pieces of 5 bytes take 4 s. With `option http-no-delay` they take milliseconds. HTTP/2 to the client is not held.
# One would think that a proxy which buffers nothing passes on what it has.
# Here: deploy/haproxy.cfg sets it.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

chmod 755 . # for the user that apt fetches as
apt-get download --quiet=2 "haproxy=2.6.12-*" liblua5.3-0 libopentracing-c-wrapper0 libopentracing1 2>/dev/null
for package in *.deb; do dpkg-deb --extract "$package" root; done
cat >seen.py <<'PY'
import os
import socket
import subprocess
import threading
import time

PIECES = 20
HELD = PIECES * 0.1  # seconds: half of what was seen, and far from the milliseconds of the other


def serve(listener: socket.socket, read: threading.Event) -> None:
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(PIECES):
        read.clear()
        connection.sendall(b"5\r\nword \r\n")
        read.wait()
    connection.sendall(b"0\r\n\r\n")
    connection.close()


def seconds(option: str) -> float:
    listener = socket.create_server(("127.0.0.1", 0))
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    with open("haproxy.cfg", "w") as file:
        file.write(f"""
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  {option}
listen all
  bind 127.0.0.1:{port}
  server back 127.0.0.1:{listener.getsockname()[1]}
""")
    libraries = os.path.abspath("root/usr/lib/x86_64-linux-gnu")
    command = ["root/usr/sbin/haproxy", "-q", "-db", "-f", "haproxy.cfg"]
    proxy = subprocess.Popen(command, env={"LD_LIBRARY_PATH": libraries}, stderr=subprocess.DEVNULL)
    read = threading.Event()
    threading.Thread(target=serve, args=(listener, read), daemon=True).start()
    while True:
        try:
            client = socket.create_connection(("127.0.0.1", port))
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    began = time.monotonic()
    words = 0
    while words < PIECES:
        if got := client.recv(65536).count(b"word "):
            words += got
            read.set()
    proxy.kill()
    proxy.wait()
    return time.monotonic() - began


for option in ("", "option http-no-delay"):
    print(f"{option or 'as it comes'}: {'held' if seconds(option) > HELD else 'at once'}")
PY
diff - <(python3 seen.py) <<'SEEN'
as it comes: held
option http-no-delay: at once
SEEN
