"""Decides whether the page may sign in by itself: only for a browser on this machine that has come here directly."""

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from litestar import Request

# Headers that proxies add. One of them is enough to know that the caller may be anybody.
FORWARDING = {"forwarded", "via", "true-client-ip", "cdn-loop", "x-cluster-client-ip", "x-client-ip"}
FORWARDING_PREFIXES = (
    "x-forwarded",
    "x-real-",
    "x-original-",
    "x-envoy-",
    "x-amzn-",
    "cf-",
    "fly-",
    "fastly-",
)


def came_directly(request: Request[Any, Any, Any]) -> bool:
    """Whether a page of ours, in a browser on this machine, has sent the request, with nothing in between.

    The Host header must name this machine, so that another site's name which leads here (DNS rebinding) gets nothing, and
    Origin must be the same, which browsers send with every POST, so that pages of other sites get nothing.
    """
    headers = request.headers
    if any(name in FORWARDING or name.startswith(FORWARDING_PREFIXES) for name in headers):
        return False
    host = headers.get("host", "")
    client = request.client.host if request.client else ""
    return is_loopback(client) and names_loopback(host) and headers.get("origin") == f"http://{host}"


def is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def names_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or is_loopback(name)
