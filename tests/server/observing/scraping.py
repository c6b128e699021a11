"""What Prometheus would see of a server, and what its log says."""

import time
import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from adjudge_server.serve import Server

Series = tuple[str, frozenset[tuple[str, str]]]


def scrape(server: Server) -> dict[Series, float]:
    """Every sample by its name and labels, read through the port as Prometheus reads it."""
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=20) as response:
        text = response.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Scraped:
    """Samples of one moment, by name and some of their labels."""

    def __init__(self, samples: Mapping[Series, float]) -> None:
        self.samples = samples

    @classmethod
    def of(cls, server: Server) -> "Scraped":
        return cls(scrape(server))

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all that have these labels; 0 if there are none."""
        wanted = set(labels.items())
        return sum(
            value for (n, found), value in self.samples.items() if n == name and wanted <= found
        )

    def has(self, name: str) -> bool:
        return any(n == name for n, _ in self.samples)


def scraped_when(server: Server, name: str, value: float, **labels: str) -> Scraped:
    """Once a sample has a value: a failed call is counted after its caller knows of it."""
    for _ in range(400):
        if (seen := Scraped.of(server))(name, **labels) == value:
            return seen
        time.sleep(0.05)
    raise AssertionError(f"{name} {labels} is {seen(name, **labels)}, not {value}")
