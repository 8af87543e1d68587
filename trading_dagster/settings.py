"""Every environment variable of the project, typed, in one place.

Nothing else in the package reads the environment.
"""

from __future__ import annotations

import difflib
import os
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from trading_dagster.endpoints import PAPER_ENDPOINT, check_ledger_url, paper_endpoint
from trading_dagster.policy import PolicyMode

SAMPLE_SYMBOLS = (
    "AAPL", "AMD", "BAC", "BBY", "CVX", "GE", "HD", "JNJ", "JPM", "KO",
    "LLY", "MRK", "MSFT", "PEP", "PFE", "PG", "RRC", "UNH", "WMT", "XOM",
)  # fmt: skip
"""The 20 symbols of the embedded sample, which are the default universe."""

FORECAST_CYCLES = (20, 40, 80)
"""Nominal cycles that are features of the forecast; a test holds them against the features."""

SHORTEST_CYCLE, LONGEST_CYCLE = 8, 230

MARKET_SYMBOL = "MARKET"
"""Row name of the equal-weight market; no exchange lists a six-letter ticker."""


SECRET = {
    "ALPACA_API_KEY", "ALPACA_SECRET_KEY", "ALPACA_ENDPOINT", "ALPACA_DATA_ENDPOINT", "YAHOO_ENDPOINT",
    "TRADING_LEDGER_URL", "TRADING_TABLES_URI", "TRADING_CELERY_BROKER",
}  # fmt: skip
"""Variables whose values may hold keys or passwords, and are not repeated in messages."""


class SettingsError(ValueError):
    """An environment variable that is not known, or whose value cannot be used."""


def _variable(name: str) -> AliasChoices:
    return AliasChoices(name)


class Settings(BaseSettings):
    """What the environment says; the field's alias is the variable's name."""

    model_config = SettingsConfigDict(
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
        # Compose passes on every variable, and those that nobody set as empty ones
        env_ignore_empty=True,
    )

    data_dir: Path = Field(Path(".trading"), validation_alias=_variable("TRADING_DATA_DIR"))
    tables_uri: str = Field("", validation_alias=_variable("TRADING_TABLES_URI"), repr=False)
    ledger_url: str = Field("", validation_alias=_variable("TRADING_LEDGER_URL"), repr=False)
    calendar: str = Field("XNYS", validation_alias=_variable("TRADING_CALENDAR"))

    source: Literal["sample", "files", "yahoo", "alpaca"] = Field(
        "sample", validation_alias=_variable("TRADING_SOURCE")
    )
    files_dir: Path | None = Field(None, validation_alias=_variable("TRADING_FILES_DIR"))
    universe: Annotated[tuple[str, ...], NoDecode] = Field(
        SAMPLE_SYMBOLS, validation_alias=_variable("TRADING_UNIVERSE")
    )
    fetch_seconds: float = Field(
        1800.0, gt=0, validation_alias=_variable("TRADING_FETCH_SECONDS"), description="Time budget of one fetch."
    )
    fetch_concurrency: int = Field(
        4, ge=1, le=32, validation_alias=_variable("TRADING_FETCH_CONCURRENCY"), description="Requests at once."
    )
    alpaca_api_key: SecretStr | None = Field(None, validation_alias=_variable("ALPACA_API_KEY"))
    alpaca_secret_key: SecretStr | None = Field(None, validation_alias=_variable("ALPACA_SECRET_KEY"))
    alpaca_data_endpoint: str = Field(
        "https://data.alpaca.markets", validation_alias=_variable("ALPACA_DATA_ENDPOINT"), repr=False
    )
    alpaca_feed: Literal["iex", "sip"] = Field(
        "sip", validation_alias=_variable("TRADING_ALPACA_FEED"), description="All exchanges, or IEX alone."
    )
    yahoo_endpoint: str = Field("", validation_alias=_variable("YAHOO_ENDPOINT"), repr=False)
    policy: PolicyMode = Field("abort", validation_alias=_variable("TRADING_POLICY"))

    cycles: Annotated[tuple[int, ...], NoDecode] = Field(
        (20, 40, 80, 160), validation_alias=_variable("TRADING_CYCLES"), description="Nominal cycles, bars."
    )
    regime_model: Literal["jump", "hmm"] = Field(
        "jump",
        validation_alias=_variable("TRADING_REGIME_MODEL"),
        description="Statistical jump model, or hidden Markov model; fit the month's models again after a change.",
    )

    broker: Literal["simulated", "alpaca"] = Field("simulated", validation_alias=_variable("TRADING_BROKER"))
    alpaca_endpoint: str = Field(
        PAPER_ENDPOINT,
        validation_alias=_variable("ALPACA_ENDPOINT"),
        description="Where orders go: paper, or loopback.",
    )
    dry_run: bool = Field(
        True,
        validation_alias=_variable("TRADING_DRY_RUN"),
        description="Concerns real brokers only; the simulated one risks nothing and always trades.",
    )
    strategy: str = Field("main", pattern=r"^[a-z0-9_]{1,24}$", validation_alias=_variable("TRADING_STRATEGY"))
    initial_cash: Decimal = Field(
        Decimal(100_000), gt=0, decimal_places=2, validation_alias=_variable("TRADING_INITIAL_CASH")
    )
    commission_rate: Decimal = Field(
        Decimal("0.0001"), ge=0, lt=Decimal("0.1"), validation_alias=_variable("TRADING_COMMISSION_RATE")
    )
    slippage_rate: Decimal = Field(
        Decimal("0.0005"), ge=0, lt=Decimal("0.1"), validation_alias=_variable("TRADING_SLIPPAGE_RATE")
    )

    manual_trades: Literal["quarantine", "adopt"] = Field(
        "quarantine",
        validation_alias=_variable("TRADING_MANUAL_TRADES"),
        description="Whether shares traded by hand are left alone, or become the strategy's.",
    )
    buy_limit_offset: Decimal = Field(
        Decimal("0.02"), gt=0, le=Decimal("0.5"), validation_alias=_variable("TRADING_BUY_LIMIT_OFFSET")
    )
    lease_seconds: float = Field(120.0, ge=1, validation_alias=_variable("TRADING_LEASE_SECONDS"))
    broker_seconds: float = Field(
        60.0, gt=0, validation_alias=_variable("TRADING_BROKER_SECONDS"), description="Time for one order or reading."
    )
    broker_errors: int = Field(3, ge=1, validation_alias=_variable("TRADING_BROKER_ERRORS"))
    cash_tolerance: Decimal = Field(Decimal("0.01"), ge=0, validation_alias=_variable("TRADING_CASH_TOLERANCE"))

    limit_position_weight: Decimal | None = Field(
        None, gt=0, le=1, validation_alias=_variable("TRADING_LIMIT_POSITION_WEIGHT"),
        description="Unset: half as much again as TRADING_MAX_WEIGHT, since prices move what is held.",
    )  # fmt: skip
    limit_gross: Decimal = Field(Decimal(1), gt=0, le=1, validation_alias=_variable("TRADING_LIMIT_GROSS"))
    limit_order_notional: Decimal = Field(
        Decimal(100_000), gt=0, validation_alias=_variable("TRADING_LIMIT_ORDER_NOTIONAL")
    )
    limit_daily_loss: Decimal = Field(
        Decimal("0.03"), gt=0, le=1, validation_alias=_variable("TRADING_LIMIT_DAILY_LOSS")
    )
    limit_drawdown: Decimal = Field(Decimal("0.15"), gt=0, le=1, validation_alias=_variable("TRADING_LIMIT_DRAWDOWN"))
    limit_price_collar: Decimal = Field(Decimal("0.10"), gt=0, validation_alias=_variable("TRADING_LIMIT_PRICE_COLLAR"))
    limit_volume_share: Decimal = Field(
        Decimal("0.05"), gt=0, le=1, validation_alias=_variable("TRADING_LIMIT_VOLUME_SHARE")
    )

    max_weight: float = Field(0.10, gt=0, le=1, validation_alias=_variable("TRADING_MAX_WEIGHT"))
    max_gross: float = Field(0.98, gt=0, le=1, validation_alias=_variable("TRADING_MAX_GROSS"))
    volatility_target: float = Field(0.12, gt=0, le=1, validation_alias=_variable("TRADING_VOLATILITY_TARGET"))
    risk_aversion: float = Field(3.0, gt=0, validation_alias=_variable("TRADING_RISK_AVERSION"))
    no_trade_band: float = Field(0.01, ge=0, lt=1, validation_alias=_variable("TRADING_NO_TRADE_BAND"))

    executor: Literal["in_process", "multiprocess", "docker", "celery"] = Field(
        "in_process",
        validation_alias=_variable("TRADING_EXECUTOR"),
        description="Where the steps of the research jobs run; the daily job's always run in its own process.",
    )
    celery_broker: str = Field("", validation_alias=_variable("TRADING_CELERY_BROKER"), repr=False)

    backup_dir: Path | None = Field(None, validation_alias=_variable("TRADING_BACKUP_DIR"))
    backups_kept: int = Field(14, ge=1, validation_alias=_variable("TRADING_BACKUPS_KEPT"))
    retention_days: int | None = Field(
        None, ge=7, validation_alias=_variable("TRADING_RETENTION_DAYS"), description="Unset: nothing is ever removed."
    )

    @field_validator("universe", mode="before")
    @classmethod
    def _read_universe(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        path = Path(value)
        # a symbol may hold a dot, as BRK.B does; a long list of them is no name that a file system could look up
        if "," not in value and (path.is_file() or "/" in value or path.suffix in (".txt", ".csv")):
            if not path.is_file():
                raise ValueError(f"TRADING_UNIVERSE names the file {value!r}, which does not exist")
            value = path.read_text(encoding="utf-8").replace("\n", ",")
        return tuple(dict.fromkeys(part.strip().upper() for part in value.split(",") if part.strip()))

    @field_validator("cycles", mode="before")
    @classmethod
    def _read_cycles(cls, value: object) -> object:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
            if not all(part.isdigit() for part in value):
                raise ValueError("TRADING_CYCLES is a list of whole numbers of bars, such as 20,40,80,160")
        return sorted({int(part) for part in value}) if isinstance(value, list | tuple) else value

    @field_validator("cycles")
    @classmethod
    def _usable_cycles(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        missing = set(FORECAST_CYCLES) - set(value)
        if missing:
            raise ValueError(
                f"TRADING_CYCLES lacks {', '.join(map(str, sorted(missing)))}, which the forecast's features use; "
                f"{', '.join(map(str, FORECAST_CYCLES))} must be among them"
            )
        outside = [cycle for cycle in value if not SHORTEST_CYCLE <= cycle <= LONGEST_CYCLE]
        if outside:
            raise ValueError(
                f"TRADING_CYCLES holds {outside[0]}; a cycle has {SHORTEST_CYCLE} to {LONGEST_CYCLE} bars, so that its "
                "window fits into the 1,500 bars that the data policy guarantees"
            )
        return value

    @field_validator("alpaca_endpoint")
    @classmethod
    def _on_paper_only(cls, value: str) -> str:
        return paper_endpoint(value)

    @field_validator("ledger_url")
    @classmethod
    def _readable_ledger_url(cls, value: str) -> str:
        if value:
            check_ledger_url(value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if not self.universe:
            raise ValueError("TRADING_UNIVERSE is empty; name at least one symbol, or unset it for the sample's 20")
        if MARKET_SYMBOL in self.universe:
            raise ValueError(
                f"TRADING_UNIVERSE holds {MARKET_SYMBOL!r}, the name kept for the equal-weight market; leave it out"
            )
        if self.source == "files" and self.files_dir is None:
            raise ValueError("TRADING_SOURCE=files needs TRADING_FILES_DIR, the folder of SYMBOL.csv or .parquet files")
        if self.source == "alpaca" and (self.alpaca_api_key is None or self.alpaca_secret_key is None):
            raise ValueError("TRADING_SOURCE=alpaca needs ALPACA_API_KEY and ALPACA_SECRET_KEY, the keys of an account")
        if self.broker == "alpaca" and (self.alpaca_api_key is None or self.alpaca_secret_key is None):
            raise ValueError("TRADING_BROKER=alpaca needs ALPACA_API_KEY and ALPACA_SECRET_KEY of a paper account")
        if self.resolved_limit_position_weight < Decimal(str(self.max_weight)):
            raise ValueError(
                f"TRADING_LIMIT_POSITION_WEIGHT is {self.limit_position_weight}, below TRADING_MAX_WEIGHT of "
                f"{self.max_weight}: what is allocated would be refused; raise the one, or lower the other"
            )
        if self.limit_gross < Decimal(str(self.max_gross)):
            raise ValueError(
                f"TRADING_LIMIT_GROSS is {self.limit_gross}, below TRADING_MAX_GROSS of {self.max_gross}: what is "
                "allocated would be refused; raise the one, or lower the other"
            )
        if self.executor == "celery" and not self.celery_broker:
            raise ValueError(
                "TRADING_EXECUTOR=celery needs TRADING_CELERY_BROKER, the queue's URL, such as redis://redis:6379/0"
            )
        if self.broker == "alpaca" and self.calendar != "XNYS":
            raise ValueError(
                f"TRADING_BROKER=alpaca trades at XNYS, and TRADING_CALENDAR is {self.calendar!r}; unset it"
            )
        return self

    @property
    def resolved_limit_position_weight(self) -> Decimal:
        """Largest weight of a position that an order may lead to."""
        if self.limit_position_weight is not None:
            return self.limit_position_weight
        return min(Decimal(str(self.max_weight)) * Decimal("1.5"), Decimal(1))

    @property
    def resolved_tables_uri(self) -> str:
        """Where the Delta tables are."""
        return self.tables_uri or str(self.data_dir.absolute() / "tables")

    @property
    def resolved_ledger_url(self) -> str:
        """SQLAlchemy URL of the ledger."""
        return self.ledger_url or f"sqlite:///{self.data_dir.absolute() / 'ledger.db'}"


def known_variables() -> list[str]:
    """Names of all variables that `Settings` reads."""
    names: list[str] = []
    for field in Settings.model_fields.values():
        assert isinstance(field.validation_alias, AliasChoices)
        names += [str(choice) for choice in field.validation_alias.choices]
    return names


def load_settings() -> Settings:
    """Read the environment and, where there is one, the file ``.env`` in the current folder.

    Raises
    ------
    SettingsError
        If a ``TRADING_`` variable is unknown (a typing error would else go unnoticed) or a value is not
        acceptable.
    """
    known = known_variables()
    for name in (*os.environ, *dotenv_values(".env")):
        if name.startswith("TRADING_") and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"
            raise SettingsError(f"{name} is not a setting of this version{hint}")
    try:
        return Settings(_env_file=".env")  # type: ignore[call-arg]  # pydantic-settings adds it at run time
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'settings'}: {problem['msg']}"
            + (f" (found {problem['input']!r})" if problem["loc"] and problem["loc"][0] not in SECRET else "")
            for problem in error.errors()
        ]
        raise SettingsError(
            "settings that cannot be used:\n  " + "\n  ".join(lines)
        ) from None  # pydantic's own error repeats the values, keys among them
