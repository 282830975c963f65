"""The page at `/`: what a load of it takes of the service and of the reader's time, in a real Chromium."""

import asyncio
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from playwright.async_api import Browser

from benchmarks.measuring import KIB, Row
from chatapi.playground.built import assets, page
from tests.support import browser
from tests.support.postgres import Postgres
from tests.support.serving import Process

LOADS = 20
REST = 5  # seconds for which the service at rest is measured
FIRST_PAINT = """new Promise((found) => new PerformanceObserver((list) =>
  list.getEntriesByName("first-contentful-paint").forEach(({ startTime }) => found(startTime))
).observe({ type: "paint", buffered: true }))"""


def page_load(_: Postgres) -> list[Row]:
    """Size, first paint, and CPU of the service for a load by somebody who was never here before."""
    size = (len(page()) + sum(len(asset.compressed) for asset in assets().values())) / KIB
    rows = [Row("the page, compressed", f"{size:.0f} KiB", "≤ 250", size <= 250)]
    if why := browser.missing():
        return [*rows, Row("loads of the page", why)]
    paint, cpu = asyncio.run(loads())
    return [
        *rows,
        Row("the page, first paint", f"{paint:.0f} ms", "≤ 1000", paint <= 1_000),
        Row("the page, CPU of the service a load", f"{cpu:.1f} ms", "≤ 5", cpu <= 5),
    ]


async def loads() -> tuple[float, float]:
    """Milliseconds until something is seen, and of the service's CPU, less what it takes at rest.

    Each load is one of a new browser context.
    """
    with TemporaryDirectory() as directory:
        async with Process(Path(directory)) as service, browser.chromium() as chromium:
            url = await service.ready()
            await load(chromium, url)
            before = cpu_of(service.pid)
            await asyncio.sleep(REST)
            at_rest = (cpu_of(service.pid) - before) / REST
            before, began = cpu_of(service.pid), time.monotonic()
            paints = [await load(chromium, url) for _ in range(LOADS)]
            used = cpu_of(service.pid) - before - at_rest * (time.monotonic() - began)
            return median(paints), used * 1_000 / LOADS


async def load(chromium: Browser, url: str) -> float:
    async with browser.opened(chromium, url) as shown:
        await shown.get_by_label("Message", exact=True).wait_for()
        paint: float = await shown.evaluate(FIRST_PAINT)
        return paint


def cpu_of(pid: int) -> float:
    """Seconds that all threads of the process have run; `/proc/…/stat` counts in ticks, of which a load takes less than one."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in threads) / 1e9
