"""A real Prometheus (Debian's package `prometheus`) that scrapes a service as often as a test needs."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.postgres import free_port

SCRAPE = "250ms"
MINUTE = 500  # milliseconds for each minute of the rules


def installed() -> bool:
    return shutil.which("prometheus") is not None and shutil.which("promtool") is not None


def hurried(rules: str) -> str:
    """The same rules with shorter times."""
    rules = re.sub(r"for: (\d+)m\b", lambda match: f"for: {int(match[1]) * MINUTE}ms", rules)
    # Add two scrapes: a range as short as this would not always have two to compare.
    return re.sub(r"\[(\d+)m\]", lambda match: f"[{int(match[1]) * MINUTE + 500}ms]", rules)


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    async def get(self, path: str, **query: Any) -> Any:
        async with httpx.AsyncClient(base_url=self.url) as client:
            answer = (await client.get(f"/api/v1/{path}", params=query)).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def firing(self) -> set[str]:
        alerts = (await self.get("alerts"))["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


@asynccontextmanager
async def scraping(directory: Path, rules: str, *targets: str) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes these addresses and judges by these rules."""
    (directory / "alerts.yml").write_text(hurried(rules))
    hosts = ", ".join(f'"{target.removeprefix("http://")}"' for target in targets)
    (directory / "prometheus.yml").write_text(
        f"global: {{scrape_interval: {SCRAPE}, scrape_timeout: {SCRAPE}, evaluation_interval: {SCRAPE}}}\n"
        "rule_files: [alerts.yml]\n"
        f"scrape_configs: [{{job_name: chatapi, static_configs: [{{targets: [{hosts}]}}]}}]\n"
    )
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        await ready(url)
        yield Prometheus(url)
    finally:
        process.terminate()
        await process.wait()


async def ready(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        for _ in range(600):
            try:
                if (await client.get("/-/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
    raise AssertionError("Prometheus did not start")
