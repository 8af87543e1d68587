"""Retention against what Dagster, and the Delta library alone, say before and after it."""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage
from deltalake import DeltaTable, write_deltalake
from sqlalchemy import create_engine, text

from tests.object_storage import ObjectStorage
from trading_dagster.resources.retention import (
    PASSING,
    RetentionError,
    RunsCleared,
    apply_retention,
    as_dict,
    as_text,
    clear_runs,
    days_to_keep,
)
from trading_dagster.resources.tables import Tables

from .rows import allocation_rows, bar_rows
from .workers import racing_processes, write_or_tidy

DAYS = ["2024-07-01", "2024-07-02", "2024-07-03"]
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
SPOKEN = "a line of the step's own"


@dg.asset(
    partitions_def=dg.DailyPartitionsDefinition("2024-07-01"),
    check_specs=[dg.AssetCheckSpec("sane", asset="prices")],
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def prices(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    context.log.info(SPOKEN)
    print(SPOKEN)
    return dg.MaterializeResult(
        metadata={"rows": 3},
        check_results=[dg.AssetCheckResult(passed=True, check_name="sane")],
        data_version=dg.DataVersion("v1"),
    )


@dg.asset(
    partitions_def=dg.DailyPartitionsDefinition("2024-07-01"),
    check_specs=[dg.AssetCheckSpec("never", asset="broken")],
)
def broken(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    context.log.info(SPOKEN)
    raise dg.Failure("it broke", allow_retries=False)


@dg.asset
def seen(context: dg.AssetExecutionContext) -> None:
    context.log_event(dg.AssetObservation("elsewhere", metadata={"n": 1}))


@pytest.fixture(params=["sqlite", "postgresql"])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Dagster with storage of each kind: a file a run, or one table for all."""
    home = tmp_path / "dagster"
    home.mkdir()
    config: dict[str, Any] = {"telemetry": {"enabled": False}}
    with ExitStack() as stack:
        if request.param == "postgresql":
            model: str = request.getfixturevalue("dagster_database")
            url = stack.enter_context(request.getfixturevalue("postgres").database(like=model))
            config["storage"] = {"postgres": {"postgres_url": url}}
        (home / "dagster.yaml").write_text(yaml.dump(config), encoding="utf-8")
        yield stack.enter_context(dg.DagsterInstance.from_config(str(home)))


def run(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, partition: str | None = None, to: str = "") -> str:
    """Materialise in a job with captured output, one partition or a range, and return the run's identity."""
    tags = {"dagster/asset_partition_range_start": partition or "", "dagster/asset_partition_range_end": to}
    job = dg.Definitions(
        [asset], jobs=[dg.define_asset_job("one", [asset], executor_def=dg.in_process_executor)]
    ).resolve_job_def("one")
    return job.execute_in_process(
        instance=instance,
        partition_key=None if to else partition,
        tags=tags if to else {},
        raise_on_error=False,
        run_config=QUIET,
    ).run_id


def told(instance: dg.DagsterInstance, runs: list[str]) -> dict[str, Any]:
    """Everything that must be told for ever, as Dagster's own interface tells it."""
    key = dg.AssetKey("prices")
    checks = [dg.AssetCheckKey(key, "sane"), dg.AssetCheckKey(dg.AssetKey("broken"), "never")]
    storage = instance.event_log_storage
    attempts = "get_latest_asset_partition_materialization_attempts_without_materializations"
    kinds = [
        dg.DagsterEventType.ASSET_CHECK_EVALUATION, dg.DagsterEventType.STEP_FAILURE,
        dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.ASSET_OBSERVATION,
    ]  # fmt: skip
    return {
        "partitions": instance.get_materialized_partitions(key),
        "materialisations": instance.fetch_materializations(key, limit=100).records,
        "observations": instance.fetch_observations(dg.AssetKey("elsewhere"), limit=100).records,
        "latest": instance.get_latest_materialization_event(key),
        "tags": instance.event_log_storage.get_event_tags_for_asset(key),
        "checks": [
            (record.run_id, record.status, record.event and record.event.to_json(), record.create_timestamp)
            for each in checks
            for record in storage.get_asset_check_execution_history(each, limit=100)
            if record.status.value != "PLANNED" or each.name == "never"
        ],
        "records": [instance.get_run_record_by_id(each) for each in runs],
        "ends": [instance.get_run_stats(each).end_time for each in runs],
        "began": [instance.get_run_stats(each).start_time for each in runs],
        "events": [[e.to_json() for e in instance.all_logs(each, of_type=kind)] for each in runs for kind in kinds],
        "failed": getattr(instance.event_log_storage, attempts)(dg.AssetKey("broken")),
        "changes": instance.fetch_run_status_changes(dg.DagsterEventType.RUN_SUCCESS, limit=100).records,
    }


def kinds(instance: dg.DagsterInstance, run_id: str) -> Counter[str]:
    """How many lines of each kind a run has, log lines under an empty name."""
    return Counter(
        "" if entry.dagster_event is None else entry.dagster_event.event_type_value
        for entry in instance.all_logs(run_id)
    )


def planned_checks(instance: dg.DagsterInstance, asset: str, check: str) -> int:
    """Rows of Dagster's table of checks that only say that one was planned."""
    key = dg.AssetCheckKey(dg.AssetKey(asset), check)
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=100)
    return sum(record.status.value == "PLANNED" for record in history)


def logs_of(instance: dg.DagsterInstance, run_id: str) -> list[Path]:
    folder = Path(instance.storage_directory()) / run_id
    return [path for path in folder.rglob("*") if path.is_file() and "compute_logs" in path.parts]


def test_what_has_a_meaning_is_kept_and_the_rest_goes(instance: dg.DagsterInstance) -> None:
    old = [run(instance, prices, DAYS[0]), run(instance, prices, DAYS[1]), run(instance, broken, DAYS[0])]
    old += [run(instance, seen), run(instance, prices, DAYS[0], DAYS[1])]
    time.sleep(0.05)
    between = datetime.now(UTC)
    time.sleep(0.05)
    young = run(instance, prices, DAYS[2])
    everything = [*old, young]
    before, lines_before = told(instance, everything), {each: kinds(instance, each) for each in everything}
    # the sample must have something to lose and something to keep
    assert before["partitions"] == set(DAYS)
    assert before["failed"].keys() == {DAYS[0]}
    assert sorted(status.value for _, status, *_ in before["checks"]) == ["PLANNED", *["SUCCEEDED"] * 4]
    plans, plans_of_the_young = planned_checks(instance, "prices", "sane"), 1
    assert plans >= 2 + plans_of_the_young
    assert all(len(before[name]) > 0 for name in ("materialisations", "observations", "changes"))
    assert lines_before[old[0]][""] >= 1
    assert lines_before[old[0]]["STEP_START"] == 1
    assert any(SPOKEN in path.read_text() for path in logs_of(instance, old[0]))
    files = sum(len(logs_of(instance, each)) for each in old)

    cleared = clear_runs(instance, between)

    assert told(instance, everything) == before
    assert kinds(instance, young) == lines_before[young]
    assert logs_of(instance, young)
    gone = {"", *(kind.value for kind in PASSING)}
    for each in old:
        wanted = {kind: count for kind, count in lines_before[each].items() if kind not in gone}
        assert dict(kinds(instance, each)) == wanted
        assert "STEP_SUCCESS" not in wanted
        assert logs_of(instance, each) == []
    assert {"ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION", "PIPELINE_START", "PIPELINE_SUCCESS"} <= set(
        kinds(instance, old[0])
    )
    removed = sum(sum(lines_before[each].values()) - sum(kinds(instance, each).values()) for each in old)
    if isinstance(instance.event_log_storage, SqliteEventLogStorage):
        removed += sum(lines_before[each]["ASSET_CHECK_EVALUATION_PLANNED"] for each in old)  # mirrored
    # what was planned and came to nothing is all that is known of it, and stays: it is among those told above
    assert planned_checks(instance, "prices", "sane") == plans_of_the_young
    removed += plans - plans_of_the_young
    assert (cleared.runs, cleared.events, cleared.step_logs) == (5, removed, files)
    assert cleared.event_bytes > 100 * removed
    assert cleared.step_log_bytes > len(SPOKEN)


def test_runs_are_dealt_with_once_and_the_next_ones_later(instance: dg.DagsterInstance) -> None:
    first = run(instance, prices, DAYS[0])
    between = datetime.now(UTC)
    second = run(instance, prices, DAYS[1])
    assert clear_runs(instance, between).runs == 1
    # a longer retention than before brings nothing back, and must not forget how far it has come
    assert clear_runs(instance, between - timedelta(days=1)) == RunsCleared()
    assert clear_runs(instance, between) == RunsCleared()
    assert kinds(instance, first)["STEP_START"] == 0
    later = clear_runs(instance, datetime.now(UTC))
    assert (later.runs, kinds(instance, second)["STEP_START"]) == (1, 0)


def test_run_that_has_not_ended_keeps_everything(instance: dg.DagsterInstance) -> None:
    job = dg.Definitions([prices], jobs=[dg.define_asset_job("one", [prices])]).resolve_job_def("one")
    started = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    instance.report_engine_event("it goes on", started)
    assert clear_runs(instance, datetime.now(UTC) + timedelta(days=1)) == RunsCleared()
    assert kinds(instance, started.run_id)["ENGINE_EVENT"] == 1


def test_run_that_was_cancelled_while_it_waited_counts_by_its_last_change(instance: dg.DagsterInstance) -> None:
    job = dg.Definitions([prices], jobs=[dg.define_asset_job("one", [prices])]).resolve_job_def("one")
    waiting = instance.create_run_for_job(job)
    instance.report_engine_event("it waits", waiting)
    instance.report_run_canceled(waiting)
    assert clear_runs(instance, datetime.now(UTC) - timedelta(hours=1)).runs == 0
    assert clear_runs(instance, datetime.now(UTC) + timedelta(seconds=1)).runs == 1
    assert kinds(instance, waiting.run_id)["ENGINE_EVENT"] == 0


def test_more_lines_than_a_batch_go(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trading_dagster.resources.retention.BATCH", 3)
    monkeypatch.setattr("trading_dagster.resources.retention.PAGE", 1)
    runs = [run(instance, prices, day) for day in DAYS]
    lines = [kinds(instance, each) for each in runs]
    passing = sum(count for each in lines for kind, count in each.items() if kind in {"", *(k.value for k in PASSING)})
    assert clear_runs(instance, datetime.now(UTC)).events >= passing > 9
    assert sum(sum(kinds(instance, each).values()) for each in runs) == sum(sum(n.values()) for n in lines) - passing


def test_files_of_sqlite_shrink(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        each = run(instance, prices, DAYS[0])
        started = instance.get_run_by_id(each)
        assert started is not None
        for _ in range(20):
            instance.report_engine_event("x" * 10_000, started)
        shard = Path(instance.event_log_storage.path_for_shard(each))  # type: ignore[attr-defined]
        size = shard.stat().st_size
        cleared = clear_runs(instance, datetime.now(UTC))
        assert cleared.event_bytes > 200_000
        assert size - shard.stat().st_size > 0.8 * cleared.event_bytes


def test_run_without_a_file_gets_none(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        shard = Path(instance.event_log_storage.path_for_shard(run(instance, prices, DAYS[0])))  # type: ignore[attr-defined]
        for path in shard.parent.glob(f"{shard.name}*"):
            path.unlink()
        assert clear_runs(instance, datetime.now(UTC)).runs == 1
        assert not shard.exists()


# -- tables -----------------------------------------------------------------------------------------------------------


MOMENTS = {"remove": "deletionTimestamp", "add": "modificationTime", "commitInfo": "timestamp"}
"""Where a table's log says when something happened."""


def session(number: int) -> date:
    return date(2020, 1, 1) + timedelta(days=number)


def append_days(tables: Tables, first: int, last: int) -> None:
    for number in range(first, last):
        tables.replace("allocation", allocation_rows([session(number)], 0.1), session(number), session(number))


@pytest.fixture(scope="module")
def forty_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of forty small files, to be copied."""
    folder = tmp_path_factory.mktemp("forty") / "tables"
    append_days(Tables(str(folder)), 0, 40)
    return folder


@pytest.fixture
def many_files(forty_days: Path, tables: Tables) -> Tables:
    shutil.copytree(forty_days, tables.uri)
    return tables


def make_older(tables: Tables, name: str, days: int) -> None:
    """Let everything that a table has on disk be so many days older, its log's own times included."""
    folder = Path(tables.uri) / name
    # a checkpoint repeats the log's times; the log is whole without it
    for path in [*folder.rglob("*.checkpoint.parquet"), *folder.rglob("_last_checkpoint")]:
        path.unlink()
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".json":
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            for line in lines:
                for action, moment in (
                    ("remove", "deletionTimestamp"),
                    ("add", "modificationTime"),
                    ("commitInfo", "timestamp"),
                ):
                    if moment in (line.get(action) or {}):
                        line[action][moment] -= days * 86_400_000
            kept = path.stat()
            path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
            os.utime(path, (kept.st_atime, kept.st_mtime))
        if path.is_file():
            moment = path.stat().st_mtime - days * 86_400
            os.utime(path, (moment, moment))


def files_of(tables: Tables, name: str) -> set[str]:
    return {path.name for path in (Path(tables.uri) / name).glob("*.parquet")}


WEEK = timedelta(days=7)


def test_small_files_are_merged_and_no_row_changes(many_files: Tables) -> None:
    tables = many_files
    before, version = tables.read("allocation"), tables.version("allocation")
    assert len(DeltaTable(f"{tables.uri}/allocation").file_uris()) == 40
    tidied = tables.tidy("allocation", WEEK)
    assert (tidied.merged, tidied.files) == (40, 1)
    assert len(DeltaTable(f"{tables.uri}/allocation").file_uris()) == 1
    after = tables.read("allocation")
    assert after.equals(before)
    # nothing is old: every file and every version is still there
    assert (tidied.removed, tidied.log_entries, tidied.bytes) == (0, 0, 0)
    assert len(files_of(tables, "allocation")) == 41
    assert len(DeltaTable(f"{tables.uri}/allocation", version=version).to_pyarrow_table()) == 40
    assert tables.last_partition("allocation") == after["session"].max()


def test_few_small_files_are_left_alone(tables: Tables) -> None:
    append_days(tables, 0, 5)
    tables.tidy("allocation", WEEK)
    version, files = tables.version("allocation"), files_of(tables, "allocation")
    assert tables.tidy("allocation", WEEK).merged == 0
    # a tidying that finds nothing writes nothing
    assert (tables.version("allocation"), files_of(tables, "allocation")) == (version, files)


def test_only_what_is_older_than_the_retention_goes(tables: Tables) -> None:
    append_days(tables, 0, 3)
    tables.replace("allocation", allocation_rows([session(0)], 0.9), session(0), session(0))
    long_replaced = tables.version("allocation")
    tables.tidy("allocation", WEEK, many=2)
    ancient = files_of(tables, "allocation")
    make_older(tables, "allocation", 30)
    append_days(tables, 3, 6)
    tables.tidy("allocation", timedelta(days=60), many=2)
    make_older(tables, "allocation", 3)
    append_days(tables, 6, 8)
    recent = tables.version("allocation")
    before, as_it_was = tables.read("allocation"), DeltaTable(f"{tables.uri}/allocation", version=recent - 1)
    rows_then = as_it_was.to_pyarrow_table().sort_by("session")
    folder = Path(tables.uri) / "allocation"
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.parquet")}

    tidied = tables.tidy("allocation", WEEK, many=1000)

    left = files_of(tables, "allocation")
    gone = set(sizes) - left
    # merged away 33 days ago, but for the file that was the newest then, and was merged 3 days ago
    assert gone
    assert gone < ancient
    assert len(ancient - gone) == 1
    assert tidied.removed == len(gone)
    assert tidied.bytes >= sum(sizes[name] for name in gone)
    assert tables.read("allocation").equals(before)
    assert DeltaTable(str(folder), version=recent - 1).to_pyarrow_table().sort_by("session").equals(rows_then)
    with pytest.raises(Exception, match=r"(?i)not found|no such file|object at location"):
        DeltaTable(str(folder), version=long_replaced).to_pyarrow_table()


def test_old_log_entries_go_and_versions_inside_the_retention_stay(tables: Tables) -> None:
    append_days(tables, 0, 4)
    make_older(tables, "allocation", 30)
    tables.tidy("allocation", WEEK, many=1000)
    for path in (Path(tables.uri) / "allocation" / "_delta_log").iterdir():
        moment = path.stat().st_mtime - 8 * 86_400
        os.utime(path, (moment, moment))
    tables.replace("allocation", allocation_rows([session(4)], 0.5), session(4), session(4))
    inside = tables.version("allocation")
    tidied = tables.tidy("allocation", WEEK, many=1000)
    log = Path(tables.uri) / "allocation" / "_delta_log"
    assert tidied.log_entries > 0
    assert not (log / f"{1:020d}.json").exists()
    assert len(DeltaTable(f"{tables.uri}/allocation", version=inside).to_pyarrow_table()) == 5
    append_days(tables, 5, 6)
    assert len(tables.read("allocation")) == 6


def test_without_a_tidying_no_log_entry_ever_goes(tables: Tables) -> None:
    # Delta's own default removes them after 30 days, at each hundredth version, up to the last old checkpoint
    append_days(tables, 0, 1)
    delta = DeltaTable(f"{tables.uri}/allocation")
    log = Path(tables.uri) / "allocation" / "_delta_log"
    for number in range(210):
        if number == 110:
            assert list(log.glob("*.checkpoint.parquet"))
            for path in log.iterdir():
                os.utime(path, (0, 0))
        delta.update(updates={"weight": f"{number}.0"})
    assert len(list(log.glob("*.checkpoint.parquet"))) == 2
    assert len(list(log.glob("*.json"))) == delta.version() + 1


def test_files_of_a_writer_that_was_killed_go(tables: Tables) -> None:
    append_days(tables, 0, 2)
    orphan = Path(tables.uri) / "allocation" / "part-00000-0b5b1d0f-0000-4000-8000-000000000000-c000.snappy.parquet"
    young = orphan.with_name(orphan.name.replace("0b5b1d0f", "0b5b1d10"))
    for path in (orphan, young):
        path.write_bytes(b"half a file")
    old = time.time() - 30 * 86_400
    os.utime(orphan, (old, old))
    tidied = tables.tidy("allocation", WEEK)
    assert (orphan.exists(), young.exists()) == (False, True)
    assert (tidied.removed, tidied.bytes) == (1, len(b"half a file"))


@pytest.mark.e2e
def test_writers_beside_a_tidying_lose_nothing(tables: Tables) -> None:
    rounds = 12
    days = [date(2020, 1, 2) + timedelta(days=number) for number in range(rounds)]
    tables.replace("allocation", allocation_rows(days, 0.1), days[0], days[-1])
    tables.tidy("allocation", WEEK)
    for day in days:
        tables.add_revisions("bars", bar_rows(day, {"AAA": 10.0, "BBB": 20.0}, datetime(2020, 1, 30, tzinfo=UTC)))
    make_older(tables, "bars", 30)
    # merged away long ago: to be removed under the writers' hands
    tables.tidy("bars", timedelta(days=60), many=2)
    make_older(tables, "bars", 30)
    ancient = files_of(tables, "bars")
    with racing_processes() as race:
        assert race(write_or_tidy, tables.uri, rounds) == [[], [], []]
    assert len(ancient - files_of(tables, "bars")) == rounds
    weights = tables.read("allocation")
    assert list(weights["session"].dt.date) == days
    assert set(weights["weight"]) == {0.5}
    bars = tables.read("bars", every_revision=True)
    counted = Counter(zip(bars["session"].dt.date, bars["symbol"], bars["close"], strict=True))
    expected = [(day, symbol, close) for day in days for symbol, close in (("AAA", 10), ("AAA", 11), ("BBB", 20))]
    assert counted == Counter(expected)
    # the tidying did something while they wrote
    operations = [entry["operation"] for entry in DeltaTable(f"{tables.uri}/bars").history()]
    assert "OPTIMIZE" in operations[: operations.index("VACUUM END")]


def test_a_table_that_is_not_there_stays_so(tables: Tables) -> None:
    assert tables.tidy("allocation", WEEK).files == 0
    assert not Path(tables.uri).exists()


def test_looking_at_tables_makes_no_folder(tables: Tables) -> None:
    assert tables.storage("bars") is None
    assert tables.last_partition("bars") is None
    assert len(tables.read("bars")) == 0
    assert not Path(tables.uri).exists()


def test_storage_is_what_the_delta_library_says(tables: Tables) -> None:
    append_days(tables, 0, 3)
    found = tables.storage("allocation")
    assert found is not None
    paths = [Path(uri.removeprefix("file://")) for uri in DeltaTable(f"{tables.uri}/allocation").file_uris()]
    assert (found.files, found.bytes) == (3, sum(path.stat().st_size for path in paths))
    assert found.newest is not None
    assert found.newest.date() == session(2)


def test_table_of_another_program_without_the_property_is_tidied(tables: Tables) -> None:
    append_days(tables, 0, 1)
    arrow = DeltaTable(f"{tables.uri}/allocation").to_pyarrow_table()
    Path(f"{tables.uri}/allocation").rename(f"{tables.uri}/moved")
    write_deltalake(f"{tables.uri}/allocation", arrow)
    tables.tidy("allocation", timedelta(days=90))
    configuration = DeltaTable(f"{tables.uri}/allocation").metadata().configuration
    assert configuration["delta.logRetentionDuration"] == "interval 2160 hours"
    assert configuration["delta.deletedFileRetentionDuration"] == "interval 2160 hours"
    assert len(tables.read("allocation")) == 1


@pytest.fixture
def bucket(object_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in object_storage.variables.items():
        monkeypatch.setenv(name, value)
    return object_storage.bucket()


@pytest.mark.e2e
def test_tables_in_a_bucket_are_tidied(bucket: str) -> None:
    tables = Tables(bucket)
    append_days(tables, 0, 4)
    before, version = tables.read("allocation"), tables.version("allocation")
    first = tables.tidy("allocation", WEEK, many=2)
    assert (first.merged, first.files, first.removed) == (4, 1, 0)
    assert tables.read("allocation").equals(before)
    assert len(DeltaTable(f"{bucket}/allocation", version=version).to_pyarrow_table()) == 4
    # nothing can be made older in a bucket: with no retention at all, what was merged is old at once
    last = tables.tidy("allocation", timedelta(0), many=2)
    assert last.removed == 4
    assert last.bytes > 4 * 400
    found = tables.storage("allocation")
    assert found is not None
    assert found.files == 1
    assert tables.read("allocation").equals(before)


# -- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "setting", "days"), [(None, 90, 90), (30, 90, 30), (7, None, 7)])
def test_days_that_are_asked_for_come_before_the_setting(asked: int | None, setting: int | None, days: int) -> None:
    assert days_to_keep(asked, setting) == days


@pytest.mark.parametrize(
    ("asked", "message"),
    [(None, "TRADING_RETENTION_DAYS is not set, so nothing is ever removed"), (6, "6 days are too few: 7 or more")],
)
def test_without_days_or_with_too_few_nothing_is_done(asked: int | None, message: str) -> None:
    with pytest.raises(RetentionError, match=message):
        days_to_keep(asked, None)


def test_all_is_done_and_told(many_files: Tables, tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        run(instance, prices, DAYS[0])
        done = apply_retention(many_files, instance, 30, datetime.now(UTC) + timedelta(days=31))
        plain = as_dict(done)
        assert json.loads(json.dumps(plain)) == plain
        assert plain["runs"]["runs"] == 1
        assert plain["tables"] == {"allocation": {"files": 1, "merged": 40, "removed": 0, "log_entries": 0, "bytes": 0}}
        assert plain["problems"] == []
        shown = as_text(done)
        assert f"event log      {plain['runs']['events']} lines of 1 runs" in shown
        assert "allocation     40 files merged, 0 removed, 0 log entries, 0 bytes; 1 left" in shown


def test_what_fails_is_told_and_the_rest_is_done(many_files: Tables, tmp_path: Path) -> None:
    tables = many_files
    (Path(tables.uri) / "bars" / "_delta_log").mkdir(parents=True)
    (Path(tables.uri) / "bars" / "_delta_log" / f"{0:020d}.json").write_text("no JSON", encoding="utf-8")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        engine = create_engine(f"sqlite:///{tmp_path}/history/runs.db")
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE runs RENAME TO elsewhere"))
        engine.dispose()
        done = apply_retention(tables, instance, 30)
    assert done.runs is None
    assert done.tables["allocation"].merged == 40
    assert [problem.split(":")[0] for problem in done.problems] == ["runs", "table bars"]
    assert done.problems[0] == "runs: NoSuchTableError: runs"
    assert "NOT DONE       runs" in as_text(done)
