"""Settings: the contract's variables and defaults, and errors that say what to write instead."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest

from trading_dagster.quant.features import PHASE_CYCLES
from trading_dagster.settings import FORECAST_CYCLES, SettingsError, known_variables, load_settings

SAMPLE = {
    "AAPL", "AMD", "BAC", "BBY", "CVX", "GE", "HD", "JNJ", "JPM", "KO",
    "LLY", "MRK", "MSFT", "PEP", "PFE", "PG", "RRC", "UNH", "WMT", "XOM",
}  # fmt: skip


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the person who runs the tests, and no ``.env`` file of theirs."""
    for name in list(os.environ):
        if name.startswith("TRADING_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults_of_the_contract(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.data_dir == Path(".trading")
    assert settings.resolved_tables_uri == str(tmp_path / ".trading" / "tables")
    assert settings.resolved_ledger_url == f"sqlite:///{tmp_path}/.trading/ledger.db"
    assert (settings.source, settings.broker) == ("sample", "simulated")
    assert (settings.policy, settings.calendar) == ("abort", "XNYS")
    assert settings.dry_run is True
    assert settings.files_dir is None
    assert settings.initial_cash == Decimal(100_000)
    assert set(settings.universe) == SAMPLE
    assert len(settings.universe) == 20


@pytest.mark.parametrize(
    "name",
    [
        "TRADING_DATA_DIR",
        "TRADING_TABLES_URI",
        "TRADING_LEDGER_URL",
        "TRADING_SOURCE",
        "TRADING_FILES_DIR",
        "TRADING_BROKER",
        "TRADING_UNIVERSE",
        "TRADING_POLICY",
        "TRADING_DRY_RUN",
        "TRADING_CALENDAR",
        "TRADING_INITIAL_CASH",
    ],
)
def test_variable_of_the_contract_is_read(name: str) -> None:
    assert name in known_variables()


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("TRADING_DATA_DIR", "/var/trading", "resolved_ledger_url", "sqlite:////var/trading/ledger.db"),
        ("TRADING_DATA_DIR", "/var/trading", "resolved_tables_uri", "/var/trading/tables"),
        ("TRADING_TABLES_URI", "s3://bucket/tables", "resolved_tables_uri", "s3://bucket/tables"),
        ("TRADING_LEDGER_URL", "postgresql://db/ledger", "resolved_ledger_url", "postgresql://db/ledger"),
        ("TRADING_POLICY", "exclude", "policy", "exclude"),
        ("TRADING_DRY_RUN", "false", "dry_run", False),
        ("TRADING_CALENDAR", "XTKS", "calendar", "XTKS"),
        ("TRADING_INITIAL_CASH", "2500.50", "initial_cash", Decimal("2500.50")),
        ("TRADING_MAX_WEIGHT", "0.2", "max_weight", 0.2),
        ("TRADING_STRATEGY", "second_1", "strategy", "second_1"),
    ],
)
def test_variable_sets_its_field(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, field: str, expected: object
) -> None:
    monkeypatch.setenv(variable, value)
    assert getattr(load_settings(), field) == expected


def test_dot_env_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TRADING_POLICY=exclude\nTRADING_INITIAL_CASH=5\nOTHER=1\n")
    monkeypatch.setenv("TRADING_INITIAL_CASH", "7")
    settings = load_settings()
    assert (settings.policy, settings.initial_cash) == ("exclude", Decimal(7))


# -- the universe -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "symbols"),
    [
        pytest.param("KO", ("KO",), id="one"),
        pytest.param("xom, ko,,JNJ ,KO", ("XOM", "KO", "JNJ"), id="spaces_case_repeats"),
        pytest.param("BRK.B", ("BRK.B",), id="share_class_alone"),
        pytest.param("KO,BRK.B", ("KO", "BRK.B"), id="share_class_last"),
        pytest.param("BRK.B,KO", ("BRK.B", "KO"), id="share_class_first"),
    ],
)
def test_universe_from_a_list(monkeypatch: pytest.MonkeyPatch, value: str, symbols: tuple[str, ...]) -> None:
    monkeypatch.setenv("TRADING_UNIVERSE", value)
    assert load_settings().universe == symbols


@pytest.mark.parametrize("name", ["symbols.txt", "symbols", "folder/symbols.txt"])
def test_universe_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"ko\r\nXOM\n\nbrk.b\n")
    for value in (name, str(path)):
        monkeypatch.setenv("TRADING_UNIVERSE", value)
        assert load_settings().universe == ("KO", "XOM", "BRK.B")


@pytest.mark.parametrize("name", ["missing.txt", "folder/missing"])
def test_universe_file_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TRADING_UNIVERSE", name)
    with pytest.raises(SettingsError, match=rf"TRADING_UNIVERSE names the file '{name}', which does not exist"):
        load_settings()


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TRADING_POLCY", "TRADING_POLICY"),
        ("TRADING_UNIVERS", "TRADING_UNIVERSE"),
        ("TRADING_LEDGER_URI", "TRADING_LEDGER_URL"),
    ],
)
def test_unknown_variable_names_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(SettingsError, match=rf"^{name} is not a setting of this version; did you mean {meant}\?$"):
        load_settings()


def test_variable_like_no_other_lists_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADING_QQQQQQQQQQQQQQQQ", "x")
    with pytest.raises(SettingsError, match=r"known are ALPACA_API_KEY, .*TRADING_BROKER, .*TRADING_UNIVERSE"):
        load_settings()


def test_unknown_variable_in_the_dot_env_file_is_refused_too(tmp_path: Path) -> None:
    # the file is where most people write their settings, so most typing errors are there
    (tmp_path / ".env").write_text("TRADING_POLCY=exclude\n")
    with pytest.raises(SettingsError, match="did you mean TRADING_POLICY"):
        load_settings()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("TRADING_POLICY", "ignore", "'abort' or 'exclude'.*found 'ignore'"),
        ("TRADING_SOURCE", "bloomberg", "'sample'.*found 'bloomberg'"),
        ("TRADING_BROKER", "real_money", "found 'real_money'"),
        ("TRADING_INITIAL_CASH", "0", "greater than 0"),
        ("TRADING_INITIAL_CASH", "100.001", "2 decimal places"),
        ("TRADING_INITIAL_CASH", "plenty", "found 'plenty'"),
        ("TRADING_MAX_WEIGHT", "1.5", "less than or equal to 1"),
        ("TRADING_MAX_GROSS", "2", "less than or equal to 1"),
        ("TRADING_NO_TRADE_BAND", "-0.1", "greater than or equal to 0"),
        ("TRADING_VOLATILITY_TARGET", "nan", "TRADING_VOLATILITY_TARGET"),
        ("TRADING_COMMISSION_RATE", "0.5", "less than 0.1"),
        ("TRADING_DRY_RUN", "perhaps", "found 'perhaps'"),
        ("TRADING_STRATEGY", "Main Strategy", "found 'Main Strategy'"),
        ("TRADING_UNIVERSE", " , ", "TRADING_UNIVERSE is empty"),
        ("TRADING_UNIVERSE", "KO,market", "TRADING_UNIVERSE holds 'MARKET'"),
        ("TRADING_SOURCE", "files", "TRADING_SOURCE=files needs TRADING_FILES_DIR"),
    ],
)
def test_bad_value_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=rf"(?s)settings that cannot be used:.*{variable}.*") as caught:
        load_settings()
    assert caught.match(message)


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADING_POLICY", "ignore")
    monkeypatch.setenv("TRADING_MAX_GROSS", "7")
    with pytest.raises(SettingsError, match=r"(?s)TRADING_POLICY.*TRADING_MAX_GROSS|TRADING_MAX_GROSS.*POLICY"):
        load_settings()


def test_ledger_url_is_not_shown() -> None:
    # it may carry a password
    from trading_dagster.settings import Settings

    assert "hunter2" not in repr(Settings(ledger_url="postgresql://user:hunter2@db/ledger"))


def test_keys_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPACA_API_KEY", "hunter2")
    monkeypatch.setenv("ALPACA_SECRET_KEY", "hunter3")
    settings = load_settings()
    assert settings.alpaca_api_key is not None
    assert settings.alpaca_api_key.get_secret_value() == "hunter2"
    assert "hunter" not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize("given", [[], ["ALPACA_API_KEY"], ["ALPACA_SECRET_KEY"]], ids=["none", "key", "secret"])
def test_alpaca_needs_both_keys(monkeypatch: pytest.MonkeyPatch, given: list[str]) -> None:
    monkeypatch.setenv("TRADING_SOURCE", "alpaca")
    for name in ("ALPACA_API_KEY", "ALPACA_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in given:
        monkeypatch.setenv(name, "x")
    with pytest.raises(SettingsError, match="TRADING_SOURCE=alpaca needs ALPACA_API_KEY and ALPACA_SECRET_KEY"):
        load_settings()


# -- trading at a broker ----------------------------------------------------------------------------------------


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The variables that a paper account needs."""
    for name in [each for each in os.environ if each.startswith("ALPACA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRADING_BROKER", "alpaca")
    monkeypatch.setenv("ALPACA_API_KEY", "some-key")
    monkeypatch.setenv("ALPACA_SECRET_KEY", "some-secret")
    return monkeypatch


def test_a_real_broker_is_dry_and_on_paper_by_default(paper: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    assert settings.dry_run is True
    assert settings.alpaca_endpoint == "https://paper-api.alpaca.markets"
    assert settings.manual_trades == "quarantine"
    limits = {name: getattr(settings, f"limit_{name}") for name in ("gross", "daily_loss", "drawdown", "price_collar")}
    assert limits == {
        "gross": 1, "daily_loss": Decimal("0.03"), "drawdown": Decimal("0.15"), "price_collar": Decimal("0.1"),
    }  # fmt: skip
    assert (settings.limit_order_notional, settings.limit_volume_share) == (100_000, Decimal("0.05"))


@pytest.mark.parametrize("missing", ["ALPACA_API_KEY", "ALPACA_SECRET_KEY"])
def test_a_real_broker_needs_both_keys(paper: pytest.MonkeyPatch, missing: str) -> None:
    paper.delenv(missing)
    with pytest.raises(
        SettingsError, match="TRADING_BROKER=alpaca needs ALPACA_API_KEY and ALPACA_SECRET_KEY"
    ) as caught:
        load_settings()
    assert "some-" not in str(caught.value)


def test_a_real_broker_trades_at_its_own_exchange(paper: pytest.MonkeyPatch) -> None:
    paper.setenv("TRADING_CALENDAR", "XTKS")
    with pytest.raises(SettingsError, match="TRADING_BROKER=alpaca trades at XNYS, and TRADING_CALENDAR is 'XTKS'"):
        load_settings()


@pytest.mark.parametrize(
    ("maximum", "limit", "resolved"),
    [
        pytest.param("0.1", None, "0.15", id="half_as_much_again"),
        pytest.param("0.3", None, "0.45", id="of_another_weight"),
        pytest.param("0.9", None, "1", id="never_above_all"),
        pytest.param("0.1", "0.1", "0.1", id="given"),
    ],
)
def test_limit_of_a_position_follows_the_weights(
    monkeypatch: pytest.MonkeyPatch, maximum: str, limit: str | None, resolved: str
) -> None:
    monkeypatch.setenv("TRADING_MAX_WEIGHT", maximum)
    if limit is not None:
        monkeypatch.setenv("TRADING_LIMIT_POSITION_WEIGHT", limit)
    assert load_settings().resolved_limit_position_weight == Decimal(resolved)


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("TRADING_LIMIT_POSITION_WEIGHT", "0.09", "below TRADING_MAX_WEIGHT of 0.1"),
        ("TRADING_LIMIT_GROSS", "0.9", "below TRADING_MAX_GROSS of 0.98"),
    ],
)
def test_limit_below_what_is_allocated_is_refused(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: str, message: str
) -> None:
    monkeypatch.setenv(limit, value)
    with pytest.raises(SettingsError, match=rf"{limit} is {value}, {message}: what is allocated would be refused"):
        load_settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TRADING_LIMIT_DAILY_LOSS", "0"),
        ("TRADING_LIMIT_DAILY_LOSS", "1.1"),
        ("TRADING_LIMIT_DRAWDOWN", "-0.1"),
        ("TRADING_LIMIT_GROSS", "1.5"),
        ("TRADING_LIMIT_ORDER_NOTIONAL", "0"),
        ("TRADING_LIMIT_PRICE_COLLAR", "nan"),
        ("TRADING_LIMIT_VOLUME_SHARE", "2"),
        ("TRADING_BUY_LIMIT_OFFSET", "0.6"),
        ("TRADING_LEASE_SECONDS", "0.5"),
        ("TRADING_BROKER_SECONDS", "0"),
        ("TRADING_BROKER_ERRORS", "0"),
        ("TRADING_CASH_TOLERANCE", "-1"),
        ("TRADING_MANUAL_TRADES", "ignore"),
    ],
)
def test_limit_that_limits_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=rf"{variable}.*found '{value}'"):
        load_settings()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://user:hunter2@db/ledger", "its scheme is 'mysql'"),
        ("postgres://user:hunter2@db/ledger", "its scheme is 'postgres'"),
        ("/var/ledger.db", "its scheme is ''"),
        ("sqlite:ledger.db", "its scheme is 'sqlite'"),
        ("postgresql://user:hunter2@db:port/ledger", "it cannot be read as a URL"),
        ("postgresql://user:hun/ter2@db/ledger", "it cannot be read as a URL"),
        ("postgresql://user:hunter2@[db/ledger", "it cannot be read as a URL"),
    ],
)
def test_ledger_url_that_cannot_be_read_is_told_without_it(
    monkeypatch: pytest.MonkeyPatch, url: str, says: str
) -> None:
    monkeypatch.setenv("TRADING_LEDGER_URL", url)
    with pytest.raises(
        SettingsError, match=r"(?s)TRADING_LEDGER_URL.*write sqlite:///PATH, or postgresql://"
    ) as caught:
        load_settings()
    assert says in str(caught.value)
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////var/ledger.db",
        "postgresql://db/ledger",
        "postgresql+psycopg2://user:hun%40ter%2F2@db:5432/ledger?sslmode=require",
    ],
)
def test_ledger_url_that_can_be_read_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TRADING_LEDGER_URL", url)
    assert load_settings().resolved_ledger_url == url


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in known_variables():
        monkeypatch.setenv(name, "")
    settings = load_settings()
    assert settings.limit_position_weight is None
    assert settings.retention_days is None
    assert set(settings.universe) == SAMPLE


def test_celery_needs_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADING_EXECUTOR", "celery")
    with pytest.raises(SettingsError, match="TRADING_CELERY_BROKER"):
        load_settings()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        pytest.param("20,40", "lacks 80, which the forecast's features use", id="one-missing"),
        pytest.param("4,20,40,80", "holds 4; a cycle has 8 to 230 bars", id="too-short"),
        pytest.param("20,40,80,320", "holds 320; a cycle has 8 to 230 bars", id="too-long"),
        pytest.param("20,40,eighty", "a list of whole numbers of bars", id="no-number"),
    ],
)
def test_cycles_that_cannot_be_fitted_are_refused(monkeypatch: pytest.MonkeyPatch, value: str, told: str) -> None:
    monkeypatch.setenv("TRADING_CYCLES", value)
    with pytest.raises(SettingsError, match=told):
        load_settings()


def test_cycles_are_sorted_and_the_forecasts_are_among_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().cycles == (20, 40, 80, 160)
    monkeypatch.setenv("TRADING_CYCLES", "80, 20,40,10")
    assert load_settings().cycles == (10, 20, 40, 80)
    assert FORECAST_CYCLES == PHASE_CYCLES


def test_regime_model_is_one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().regime_model == "jump"
    monkeypatch.setenv("TRADING_REGIME_MODEL", "guess")
    with pytest.raises(SettingsError, match="'jump' or 'hmm'"):
        load_settings()
