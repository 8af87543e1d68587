"""The exporter: what Prometheus reads of an installation, collected when it asks.

Belongs here: names and meanings of the metrics, and how a source that fails shows as one that is down. Does not belong
here: where the figures come from (`exporter_sources`), what is drawn and what raises an alarm (`deploy/monitoring`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds that a scrape waits for its sources; Prometheus itself gives up after 10."""

KEPT = 10.0
"""Seconds for which figures that were read are given again."""


@dataclass(frozen=True)
class Described:
    """A metric: what it means, and the labels that tell its values apart; one that ends in ``_total`` only rises."""

    meaning: str
    labels: tuple[str, ...] = ()


METRICS: Mapping[str, Described] = {
    "trading_build_info": Described("Always 1; what runs here.", ("version", "strategy", "broker", "source")),
    "trading_source_up": Described("1 where a source of figures could be read, 0 where it could not.", ("source",)),
    "trading_source_read_seconds": Described("Time that the last reading of a source took.", ("source",)),
    # ledger
    "trading_halt_state": Described("1 for the state that the strategy is in; 0 for the others.", ("state",)),
    "trading_halt_since_timestamp_seconds": Described("When the strategy came to its state."),
    "trading_account_equity": Described("Equity at the newest session's close, currency."),
    "trading_account_cash": Described("Cash at the newest session's close, currency."),
    "trading_account_session_timestamp_seconds": Described("Newest session whose account is on record, midnight UTC."),
    "trading_daily_return_ratio": Described("Return of the newest session against the one before."),
    "trading_drawdown_ratio": Described("Loss against the highest equity, positive."),
    "trading_open_orders": Described("Orders of any session that have not ended.", ("state",)),
    "trading_session_orders": Described("Orders that were decided at the newest session.", ("state",)),
    "trading_session_refusals": Described("What gates held back at the newest session.", ("gate",)),
    "trading_lease_held": Described("1 while somebody trades the strategy."),
    "trading_broker_errors": Described("Failures of the broker in a row."),
    "trading_policy_violations_total": Described("Uses of data that the policy forbade, since the ledger began."),
    # tables
    "trading_table_newest_session_timestamp_seconds": Described(
        "Newest partition of a table, midnight UTC; of models the month.", ("table",)
    ),
    "trading_table_files": Described("Files that hold a table's rows.", ("table",)),
    "trading_table_bytes": Described("Size of the files that hold a table's rows.", ("table",)),
    "trading_sessions_behind": Described("Sessions of the exchange that are due and not in a table.", ("table",)),
    "trading_quarantined_bars": Described("Bars that were not believed and wait for a person."),
    # Dagster
    "trading_dagster_runs": Described("Runs under way, and those that ended in the last 24 hours.", ("job", "status")),
    "trading_dagster_queued_runs": Described("Runs that wait to be started."),
    "trading_dagster_job_last_success_timestamp_seconds": Described("When a run of a job last succeeded.", ("job",)),
    "trading_dagster_daemon_heartbeat_timestamp_seconds": Described("When a daemon last gave a sign.", ("daemon",)),
    # backups
    "trading_backups": Described("Backups that are kept."),
    "trading_backup_newest_timestamp_seconds": Described("When the newest backup was made."),
}
"""Every metric of the exporter."""


@dataclass
class Figures:
    """Values of metrics, as one source gives them."""

    values: list[tuple[str, tuple[str, ...], float]] = field(default_factory=list)

    def add(self, name: str, value: float, **labels: str) -> None:
        """Add a value; its labels must be those of the metric."""
        wanted = METRICS[name].labels
        if set(labels) != set(wanted):
            raise ValueError(f"{name} has the labels {', '.join(wanted) or 'none'}, and {sorted(labels)} were given")
        self.values.append((name, tuple(labels[label] for label in wanted), float(value)))


Read = Callable[[], Figures]


class Source:
    """A source of figures, read at most once at a time, and no more often than need be.

    A reading that takes too long goes on beside the scrapes, which tell that the source is down until it ends.
    """

    def __init__(self, name: str, read: Read, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.seconds = 0.0
        self._read, self._clock = read, clock
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._running = False
        self._read_at: float | None = None
        self._figures: Figures | None = None
        self._problem = ""

    def start(self) -> None:
        """Begin to read, unless that is under way, or was done just now."""
        with self._lock:
            if self._running or (self._read_at is not None and self._clock() - self._read_at < KEPT):
                return
            self._running = True
            self._done.clear()
        threading.Thread(target=self._work, name=f"read {self.name}", daemon=True).start()

    def figures(self, until: float) -> Figures | None:
        """Figures of the last reading, waiting for one that is under way; None where the source is down."""
        if not self._done.wait(max(until - self._clock(), 0.0)):
            self._tell(f"it gave no answer within {PATIENCE:g} s")
            return None
        return self._figures

    def _work(self) -> None:
        began = self._clock()
        found, problem = None, ""
        try:
            found = self._read()
        except Exception as error:  # noqa: BLE001  # whatever it is: one source must not take the others along
            told = getattr(error, "orig", None) or error
            problem = " ".join(f"{type(told).__name__}: {told}".split())
        with self._lock:
            self._figures, self._read_at, self._running = found, self._clock(), False
            self.seconds = self._read_at - began
        self._tell(problem)
        self._done.set()

    def _tell(self, problem: str) -> None:
        """Log what is wrong, once; and once that it is over."""
        if problem and problem != self._problem:
            log.error("the source %s cannot be read: %s", self.name, problem)
        elif self._problem and not problem:
            log.warning("the source %s can be read again", self.name)
        self._problem = problem


class TradingCollector(Collector):
    """Collects the figures of all sources when it is asked for them.

    Parameters
    ----------
    sources : mapping of str to callable
        Each gives figures, or raises.
    info : mapping of str to str
        Labels of ``trading_build_info``.
    clock : callable
    """

    def __init__(
        self, sources: Mapping[str, Read], info: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sources = [Source(name, read, clock) for name, read in sources.items()]
        self._info = dict(info)
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Nothing: or a scrape would be made at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read all sources side by side, and give what they say."""
        until = self._clock() + PATIENCE
        for source in self._sources:
            source.start()
        page = Figures()
        page.add("trading_build_info", 1, **self._info)
        for source in self._sources:
            found = source.figures(until)
            page.add("trading_source_up", found is not None, source=source.name)
            page.add("trading_source_read_seconds", source.seconds, source=source.name)
            page.values += [] if found is None else found.values
        return families(page)


def families(page: Figures) -> Iterator[Metric]:
    """Metrics as the client library writes them, in the order of `METRICS`; those without a value are left out."""
    for name, described in METRICS.items():
        values = [(labels, value) for found, labels, value in page.values if found == name]
        if values:
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            metric = family(name, described.meaning, labels=described.labels)
            for labels, value in values:
                metric.add_metric(labels, value)
            yield metric


def serve(collector: Collector, host: str, port: int) -> threading.Thread:
    """Answer at ``http://host:port/metrics`` in a thread, which is returned.

    Raises
    ------
    OSError
        If the address cannot be used.
    """
    from prometheus_client import start_http_server

    registry = CollectorRegistry()
    registry.register(collector)
    _, thread = start_http_server(port, addr=host, registry=registry)
    return thread
