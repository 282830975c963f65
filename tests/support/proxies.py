"""Real reverse proxies before replicas, with as little configuration as possible: nothing is sticky or buffered."""

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.postgres import free_port

# Each answer names its replica. The long time-out of checks keeps replicas of a slow machine up; a replica that is gone
# refuses a check at once. 60 s are nginx's own default.
HAPROXY = """
defaults
  mode http
  timeout connect 2s
  timeout check 30s
  timeout client 60s
  timeout server 60s
frontend clients
  bind 127.0.0.1:{port}
  default_backend replicas
backend replicas
  balance roundrobin
  option httpchk GET /health/ready
  option redispatch 1
  retries 3
  retry-on conn-failure
  http-response set-header X-Replica %s
  {servers}
"""
NGINX = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  upstream replicas {{
    {servers}
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://replicas;
      proxy_http_version 1.1;
      proxy_pass_header X-Accel-Buffering;
      add_header X-Replica $upstream_addr always;
    }}
  }}
}}
"""
KINDS = ("haproxy", "nginx")


def program(kind: str) -> str | None:
    return shutil.which(kind) or shutil.which(kind, path="/usr/sbin")


def missing(kind: str) -> str | None:
    """The reason why this proxy cannot run here; None if it can."""
    return None if program(kind) else f"left out: it needs {kind} (Debian's package)"


@contextmanager
def proxied(kind: str, directory: Path, replicas: Sequence[int]) -> Iterator[str]:
    """The base URL of a proxy before replicas on these loopback ports."""
    command = program(kind)
    assert command
    port = free_port()
    if kind == "haproxy":
        servers = [
            f"server r{index} 127.0.0.1:{replica} check inter 200ms fall 1 rise 1"
            for index, replica in enumerate(replicas)
        ]
    else:
        servers = [f"server 127.0.0.1:{replica} max_fails=0;" for replica in replicas]
    template = {"haproxy": HAPROXY, "nginx": NGINX}[kind]
    file = directory / f"{kind}.cfg"
    file.write_text(template.format(port=port, directory=directory, servers="\n  ".join(servers)))
    options = ["-q", "-db", "-f", str(file)] if kind == "haproxy" else ["-e", "stderr", "-c", str(file)]
    process = subprocess.Popen([command, *options], stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while not answers(url):
            assert process.poll() is None, f"{kind} ended"
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready").is_success
    except httpx.TransportError:
        return False
