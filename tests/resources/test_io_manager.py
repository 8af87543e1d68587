"""The IO manager as Dagster calls it: tiny assets over real tables."""

import warnings
from datetime import UTC, date, datetime

import dagster as dg
import pandas as pd
import pytest

from trading_dagster.resources.io_manager import MissingInputError, TableIOManager, read_versions

from .rows import allocation_rows, bar_rows, stored

DAYS = ["2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07"]


@pytest.fixture(scope="module")
def sessions(calendar):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="DatetimeIndex.weekday is deprecated")
        return calendar.session_partitions()


@pytest.fixture
def manager(tables, calendar):
    return TableIOManager(tables, calendar)


@pytest.fixture
def read(manager, sessions):
    """Read a table as a partition, or a range of them, of the asset of its name."""

    def load(name: str, first: str, last: str | None = None, partitions: dg.PartitionsDefinition = sessions):
        context = dg.build_input_context(
            asset_key=dg.AssetKey(name),
            asset_partitions_def=partitions,
            asset_partition_key_range=dg.PartitionKeyRange(first, last or first),
        )
        return manager.load_input(context)

    return load


def days(frame: pd.DataFrame) -> list[str]:
    return [f"{stamp:%Y-%m-%d}" for stamp in frame["session"]]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def single_run(**arguments):
    """An asset of sessions whose ranges are one run, as all stages are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Parameter `backfill_policy`", category=dg.BetaWarning)
        return dg.asset(backfill_policy=dg.BackfillPolicy.single_run(), **arguments)


def materialize(assets, manager, first: str, last: str, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        assets,
        resources={"io_manager": manager},
        instance=instance,
        tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
        raise_on_error=False,
    )


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


# -- through real assets --------------------------------------------------------------------------------------


@pytest.fixture
def pipeline(sessions):
    """Assets `allocation` and `signals`; what the second one read is in the list."""
    seen: list[pd.DataFrame] = []

    @single_run(partitions_def=sessions)
    def allocation(context: dg.AssetExecutionContext) -> pd.DataFrame:
        return allocation_rows([date.fromisoformat(key) for key in context.partition_keys], symbols=["AAA", "BBB"])

    @single_run(partitions_def=sessions)
    def signals(context: dg.AssetExecutionContext, allocation: pd.DataFrame) -> pd.DataFrame:
        seen.append(allocation)
        rows = allocation[["session", "symbol"]].assign(target_weight=allocation["weight"], action="BUY")
        return rows.assign(current_weight=0.0, confidence=0.5, reason="test")

    return [allocation, signals], seen


def test_a_range_is_written_and_read_as_its_own_partitions(manager, tables, pipeline, instance):
    assets, seen = pipeline
    assert materialize(assets, manager, DAYS[0], DAYS[2], instance).success
    assert days(seen[0]) == sorted(DAYS[:3] * 2)
    assert days(tables.read("signals")) == sorted(DAYS[:3] * 2)
    assert materialize(assets, manager, DAYS[1], DAYS[1], instance).success
    assert days(seen[1]) == [DAYS[1]] * 2


def test_materialisations_say_how_many_rows_changed_and_the_version(manager, pipeline, instance):
    assets, _ = pipeline
    for expected in ((6, 1), (0, 1)):
        result = materialize(assets[:1], manager, DAYS[0], DAYS[2], instance)
        metadata = result.asset_materializations_for_node("allocation")[0].metadata
        assert (metadata["rows_changed"].value, metadata["delta_version"].value) == expected


def test_an_input_that_is_missing_fails_the_step_with_the_command(manager, tables, pipeline, instance):
    assets, seen = pipeline
    assert materialize(assets[:1], manager, DAYS[0], DAYS[1], instance).success
    result = dg.materialize(
        assets,
        selection=[assets[1]],
        resources={"io_manager": manager},
        instance=instance,
        tags={"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[3]},
        raise_on_error=False,
    )
    assert not result.success
    assert seen == []
    error = str(result.failure_data_for_node("signals").error.to_string())
    assert "allocation is missing for 2020-01-06, 2020-01-07; materialise it first" in error
    assert "dagster asset materialize --select allocation --partition 2020-01-06" in error
    assert len(tables.read("signals")) == 0


# -- history --------------------------------------------------------------------------------------------------


def _add_bars(tables, day: str, close: float, known_at: str) -> None:
    tables.add_revisions("bars", bar_rows(date.fromisoformat(day), {"AAA": close}, utc(known_at)))


def test_bars_are_read_from_the_start_up_to_the_last_partition(tables, read):
    for day in DAYS:
        _add_bars(tables, day, 10.0, f"{day} 21:00")
    assert days(read("bars", DAYS[2])) == DAYS[:3]
    assert days(read("bars", DAYS[1], DAYS[3])) == DAYS
    assert days(read("bars", DAYS[0])) == DAYS[:1]


def test_a_revision_counts_once_it_was_known_before_the_next_open(tables, read):
    """XNYS opens at 9:30 in New York, 14:30 UTC in January; 2020-01-03 is a Friday."""
    _add_bars(tables, "2020-01-02", 10.0, "2020-01-02 21:00")
    _add_bars(tables, "2020-01-03", 20.0, "2020-01-03 21:00")
    _add_bars(tables, "2020-01-02", 11.0, "2020-01-03 14:30")
    _add_bars(tables, "2020-01-03", 21.0, "2020-01-06 14:29")
    _add_bars(tables, "2020-01-02", 12.0, "2020-01-06 14:31")
    assert read("bars", "2020-01-02")["close"].tolist() == [10.0, 11.0]
    assert read("bars", "2020-01-03")["close"].tolist() == [10.0, 11.0, 20.0, 21.0]
    assert read("bars", "2020-01-06")["close"].tolist() == [10.0, 11.0, 12.0, 20.0, 21.0]


def test_a_range_reads_what_its_last_session_may_know(tables, read):
    """What of it each session may know is told apart by the reader, to whom every revision is given."""
    _add_bars(tables, "2020-01-02", 10.0, "2020-01-02 21:00")
    _add_bars(tables, "2020-01-02", 11.0, "2020-01-06 14:00")
    _add_bars(tables, "2020-01-02", 12.0, "2020-01-07 15:00")
    rows = read("bars", "2020-01-02", "2020-01-06")
    assert rows["close"].tolist() == [10.0, 11.0]
    assert rows["known_at"].is_monotonic_increasing


def test_history_may_be_empty_and_a_table_that_is_not_there_is(read):
    assert len(read("corporate_actions", DAYS[0])) == 0
    assert len(read("bars", DAYS[0])) == 0


def test_histories_are_added_to_and_never_replaced(manager, tables, sessions):
    for keys, close in ((DAYS[:2], 10.0), (DAYS[1:], 10.0)):
        context = dg.build_output_context(
            asset_key=dg.AssetKey("bars"),
            asset_partitions_def=sessions,
            asset_partition_key_range=dg.PartitionKeyRange(keys[0], keys[-1]),
        )
        rows = [bar_rows(date.fromisoformat(key), {"AAA": close}, utc(f"{key} 21:00")) for key in keys]
        manager.handle_output(context, pd.concat(rows))
    assert context.get_logged_metadata()["rows_changed"].value == 2
    assert days(tables.read("bars")) == DAYS


def test_a_correction_is_known_from_when_it_was_written(manager, tables, sessions):
    """The convention that a bar is known at its close holds for the first load only."""
    before = datetime.now(UTC)
    for close in (10.0, 11.0):
        context = dg.build_output_context(
            asset_key=dg.AssetKey("bars"),
            asset_partitions_def=sessions,
            asset_partition_key_range=dg.PartitionKeyRange(DAYS[0], DAYS[0]),
        )
        manager.handle_output(context, bar_rows(date(2020, 1, 2), {"AAA": close}, utc("2020-01-02 21:00")))
    after = datetime.now(UTC)
    first, second = stored(tables, "bars").sort_by("known_at").to_pylist()
    assert (first["close"], first["known_at"]) == (10.0, utc("2020-01-02 21:00"))
    assert second["close"] == 11.0
    assert before <= second["known_at"] <= after


# -- own partitions -------------------------------------------------------------------------------------------


def test_many_missing_partitions_are_not_all_listed(tables, read):
    tables.replace("allocation", allocation_rows([date(2020, 1, 2)]), date(2020, 1, 2), date(2020, 1, 2))
    with pytest.raises(MissingInputError) as caught:
        read("allocation", "2020-01-02", "2020-01-14")
    assert "2020-01-03, 2020-01-06, 2020-01-07, 2020-01-08, 2020-01-09 and 3 more" in str(caught.value)
    assert str(caught.value).endswith("--partition 2020-01-03")


def test_a_session_without_orders_is_an_answer(tables, read):
    assert len(read("orders", DAYS[0], DAYS[3])) == 0


# -- the model of the month -----------------------------------------------------------------------------------


def _model(month: str) -> pd.DataFrame:
    row = {"month": pd.Timestamp(month), "fitted_to": pd.Timestamp(month), "parameters": "{}", "artifact": b"tree"}
    return pd.DataFrame([row | {"training_rows": 1, "metrics": "{}"}])


@pytest.fixture
def monthly_pipeline(calendar, sessions):
    """Assets `forecast_model`, by month, and `forecast`, by session; what the second one read is in the list."""
    seen: list[pd.DataFrame] = []

    @single_run(partitions_def=calendar.month_partitions())
    def forecast_model(context: dg.AssetExecutionContext) -> pd.DataFrame:
        return pd.concat([_model(key) for key in context.partition_keys])

    @single_run(
        partitions_def=sessions,
        ins={"forecast_model": dg.AssetIn(partition_mapping=dg.TimeWindowPartitionMapping())},
    )
    def forecast(context: dg.AssetExecutionContext, forecast_model: pd.DataFrame) -> pd.DataFrame:
        seen.append(forecast_model)
        rows = pd.DataFrame({"session": pd.to_datetime(list(context.partition_keys)), "symbol": "AAA"})
        numbers = dict.fromkeys(["expected_return", "lower", "upper", "p_up", "confidence"], 0.1)
        return rows.assign(horizon=5, model="month", **numbers)

    return [forecast_model, forecast], seen


def test_sessions_read_the_models_of_their_months(manager, monthly_pipeline, instance):
    (model, forecast), seen = monthly_pipeline
    assert materialize([model], manager, "2020-01-01", "2020-03-01", instance).success
    for first, last, months in (
        ("2020-02-14", "2020-02-14", ["2020-02-01"]),
        ("2020-01-31", "2020-02-03", ["2020-01-01", "2020-02-01"]),
    ):
        result = dg.materialize(
            [model, forecast],
            selection=[forecast],
            resources={"io_manager": manager},
            instance=instance,
            tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
        )
        assert result.success
        assert [f"{month:%Y-%m-%d}" for month in seen[-1]["month"]] == months
        assert set(seen[-1]["artifact"]) == {b"tree"}


def test_a_missing_model_names_the_month_and_its_command(manager, tables, read, calendar):
    tables.replace("forecast_model", _model("2020-01-01"), date(2020, 1, 1), date(2020, 1, 1))
    months = calendar.month_partitions()
    assert read("forecast_model", "2020-01-01", partitions=months)["month"].item() == pd.Timestamp("2020-01-01")
    with pytest.raises(MissingInputError) as caught:
        read("forecast_model", "2020-01-01", "2020-02-01", partitions=months)
    assert "forecast_model is missing for 2020-02-01" in str(caught.value)
    assert "dagster asset materialize --select forecast_model --partition 2020-02-01" in str(caught.value)


# -- versions -------------------------------------------------------------------------------------------------


def test_versions_of_inputs_are_those_they_were_read_at(tables, read):
    days_of_january = [date(2020, 1, 2)]
    for weight in (0.1, 0.2, 0.3):
        tables.replace("allocation", allocation_rows(days_of_january, weight), *days_of_january * 2)
    _add_bars(tables, DAYS[0], 10.0, "2020-01-02 21:00")
    frames = {name: read(name, DAYS[0]) for name in ("allocation", "bars", "orders")}
    assert read_versions(**frames) == {"allocation": 3, "bars": 1}
