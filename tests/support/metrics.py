"""The samples of `/metrics`."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.serving import anybody


class Samples:
    """One scrape: values by name and labels."""

    def __init__(self, exposition: str) -> None:
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.labels: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(exposition):
            for sample in family.samples:
                self.values[sample.name, frozenset(sample.labels.items())] = sample.value
                self.labels.setdefault(sample.name, set()).update(sample.labels)

    def get(self, name: str, **labels: Any) -> float:
        """The value, or 0 if there is none yet."""
        wanted = frozenset((label, str(value)) for label, value in labels.items())
        return self.values.get((f"chatapi_{name}", wanted), 0.0)


async def scrape(url: str, **options: Any) -> Samples:
    async with anybody(url) as prometheus:
        response = await prometheus.get("/metrics", **options)
    assert response.status_code == 200, response.text
    return Samples(response.text)
