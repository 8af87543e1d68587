"""Where orders may go: the paper host and this machine, however an address is spelled.

Belongs here: the endpoint of orders, through the settings and at the start of Dagster. Does not belong here: other
settings (`test_settings`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import urllib3.util
from hypothesis import example, given
from hypothesis import strategies as st

from trading_dagster.endpoints import PAPER_ENDPOINT, paper_endpoint
from trading_dagster.resources.alpaca_broker import AlpacaBroker
from trading_dagster.settings import Settings, SettingsError, load_settings

ROOT = Path(__file__).parents[1]
ALLOWED = {"paper-api.alpaca.markets", "127.0.0.1", "localhost", "::1"}

REFUSED = [
    # live, in any dress
    "https://api.alpaca.markets",
    "https://api.alpaca.markets/",
    "https://API.ALPACA.MARKETS",
    "https://api.alpaca.markets.",
    "https://api.alpaca.markets:443",
    "https://api.alpaca.markets/v2",
    "http://api.alpaca.markets",
    "https://broker-api.alpaca.markets",
    "https://data.alpaca.markets",
    "api.alpaca.markets",
    "//api.alpaca.markets",
    "https:api.alpaca.markets",
    "https:/api.alpaca.markets",
    "https:///api.alpaca.markets",
    # live, behind what looks like paper or like this machine
    "https://paper-api.alpaca.markets@api.alpaca.markets",
    "https://paper-api.alpaca.markets:secret-word@api.alpaca.markets",
    "https://paper-api.alpaca.markets%40api.alpaca.markets",
    "https://paper-api.alpaca.markets#@api.alpaca.markets",
    "https://paper-api.alpaca.markets?@api.alpaca.markets",
    "https://paper-api.alpaca.markets\\@api.alpaca.markets",
    "https://api.alpaca.markets\\@paper-api.alpaca.markets",
    "https://api.alpaca.markets#paper-api.alpaca.markets",
    "https://api.alpaca.markets/https://paper-api.alpaca.markets",
    "http://127.0.0.1@api.alpaca.markets",
    "http://127.0.0.1:80@api.alpaca.markets",
    "http://localhost:1@api.alpaca.markets",
    "http://localhost\\@api.alpaca.markets",
    "http://[::1]@api.alpaca.markets",
    "http://127.0.0.1:80\\@api.alpaca.markets",
    # another host
    "https://paper-api.alpaca.markets.evil.com",
    "https://evil.com/paper-api.alpaca.markets",
    "https://evil.com?https://paper-api.alpaca.markets",
    "https://evil-paper-api.alpaca.markets",
    "https://paper-apixalpaca.markets",
    "https://paper-api-alpaca.markets",
    "https://paper-api.alpaca.marketsx",
    "https://user@paper-api.alpaca.markets",
    "http://127.0.0.1.evil.com",
    "http://localhost.evil",
    "http://localhost.",
    "http://localhostx",
    "http://127.0.0.1x",
    # paper, not as it is written
    "http://paper-api.alpaca.markets",
    "HTTPS://paper-api.alpaca.markets",
    "https://PAPER-API.alpaca.markets",
    "https://paper-api.alpaca.markets.",
    "https://paper-api.alpaca.markets:443",
    "https://paper-api.alpaca.markets:8443",
    "https://paper-api.alpaca.markets/v2",
    "https://paper-api.alpaca.markets//",
    "https://paper-api.alpaca.markets/..",
    "https://paper-api.alpaca.markets?",
    "https://paper-api.alpaca.markets#",
    "https://%70aper-api.alpaca.markets",
    "https://paper-api%2Ealpaca.markets",
    "https://paper-api.alpaca.markets%00.evil.com",
    "paper-api.alpaca.markets",
    "//paper-api.alpaca.markets",
    "ftp://paper-api.alpaca.markets",
    "wss://paper-api.alpaca.markets",
    "file:///etc/passwd",
    "javascript:alert(1)",
    # white space and control characters
    " https://paper-api.alpaca.markets",
    "https://paper-api.alpaca.markets ",
    "https://paper-api.alpaca.markets\n",
    "https://paper-api.alpaca.markets/\n",
    "https://paper-api.alpaca.markets\r\n",
    "https://paper-api.alpaca.markets\t",
    "https://paper-api.\nalpaca.markets",
    "https://paper-api.alpaca.\tmarkets",
    "\thttps://paper-api.alpaca.markets",
    "http://127.0.0.1:8000\n",
    "http://127.0.0.1\n.evil.com",
    "https://paper-api.alpaca.markets\u00a0",
    "https://paper-api.alpaca.markets\u200b",
    "\ufeffhttps://paper-api.alpaca.markets",
    "https:\\\\paper-api.alpaca.markets",
    "https://paper-api.alpaca.markets\\",
    # other letters that look alike, or are normalised to these
    "https://paper-api\u3002alpaca\u3002markets",
    "https://paper-api\uff0ealpaca\uff0emarkets",
    "https://paper-api\uff61alpaca\uff61markets",
    "https://\uff50aper-api.alpaca.markets",
    "https://p\u0430per-api.alpaca.markets",
    "https://paper-\u0430pi.alpaca.markets",
    "https://paper\u2010api.alpaca.markets",
    "https://paper-ap\u0131.alpaca.markets",
    "https://paper-api.alpaca.mar\u212aets",
    "https://xn--pper-api-2fg.alpaca.markets",
    "http\u017f://paper-api.alpaca.markets",
    "https\uff1a//paper-api.alpaca.markets",
    "https:\uff0f\uff0fpaper-api.alpaca.markets",
    "http://127.0.0.1:\u0661\u0662",
    "http://127.0.0.1:\uff18\uff10",
    "http://\uff11\uff12\uff17.0.0.1",
    "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3",
    # this machine, not as it is written
    "http://0.0.0.0",
    "http://0.0.0.0:8000",
    "http://0",
    "http://2130706433",
    "http://0x7f000001",
    "http://0177.0.0.1",
    "http://127.1",
    "http://127.0.0.2",
    "http://127.0.0.1.",
    "http://LOCALHOST",
    "http://[::]",
    "http://[::ffff:127.0.0.1]",
    "http://[0:0:0:0:0:0:0:1]",
    "http://[::1%25eth0]",
    "http://[::1].evil.com",
    "http://::1",
    "http://[2606:4700::1111]",
    "http://10.0.0.1",
    "http://169.254.169.254",
    "http://127.0.0.1:",
    "http://127.0.0.1:123456",
    "http://127.0.0.1:65536",
    "http://127.0.0.1:-1",
    "http://127.0.0.1:80:80",
    "http://127.0.0.1:8000/v2",
    "http://127.0.0.1:8000?x",
    "http://user:secret-word@127.0.0.1:8000",
    "127.0.0.1:8000",
    "localhost",
    # nothing
    " ",
    "/",
    "https://",
    "http://",
    "http:///",
]

ACCEPTED = [
    "https://paper-api.alpaca.markets",
    "https://paper-api.alpaca.markets/",
    "http://127.0.0.1",
    "http://127.0.0.1:8000",
    "http://127.0.0.1:8000/",
    "https://127.0.0.1:8443",
    "http://localhost",
    "http://localhost:1",
    "https://localhost:65535/",
    "http://[::1]",
    "http://[::1]:9000",
]


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No variable of the person who runs the tests, and no ``.env`` file of theirs."""
    for name in [each for each in os.environ if each.startswith(("TRADING_", "ALPACA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.mark.parametrize("endpoint", REFUSED, ids=ascii)
def test_other_addresses_are_refused(clean: pytest.MonkeyPatch, endpoint: str) -> None:
    clean.setenv("ALPACA_ENDPOINT", endpoint)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert "ALPACA_ENDPOINT" in message
    assert "on paper only" in message
    # the value may hold a password; what the message itself names is no repetition
    own = message.replace(PAPER_ENDPOINT, "").replace("http://127.0.0.1, http://localhost or http://[::1]", "")
    assert not endpoint.strip("/ ") or endpoint not in own
    for part in ("secret-word", "evil", "api.alpaca.markets", "@"):
        assert part not in own
    assert caught.value.__cause__ is None
    # and not only where the environment is read
    with pytest.raises(ValueError, match="on paper only"):
        AlpacaBroker("key", "secret", endpoint)


@pytest.mark.parametrize("endpoint", ACCEPTED)
def test_paper_and_this_machine_are_accepted(clean: pytest.MonkeyPatch, endpoint: str) -> None:
    clean.setenv("ALPACA_ENDPOINT", endpoint)
    assert load_settings().alpaca_endpoint == endpoint.rstrip("/")
    assert endpoint.rstrip("/") in repr(AlpacaBroker("key", "secret", endpoint))


def test_default_is_the_paper_host(clean: pytest.MonkeyPatch) -> None:
    assert load_settings().alpaca_endpoint == PAPER_ENDPOINT == "https://paper-api.alpaca.markets"


def test_an_empty_one_is_the_paper_host_and_nothing_else(clean: pytest.MonkeyPatch) -> None:
    # Compose passes on a variable that nobody set as an empty one
    clean.setenv("ALPACA_ENDPOINT", "")
    assert load_settings().alpaca_endpoint == PAPER_ENDPOINT
    with pytest.raises(ValueError, match="on paper only"):
        AlpacaBroker("key", "secret", "")


def test_it_is_refused_whatever_the_broker_is(clean: pytest.MonkeyPatch) -> None:
    # or a later change of TRADING_BROKER would find a wrong one waiting
    clean.setenv("TRADING_BROKER", "simulated")
    clean.setenv("ALPACA_ENDPOINT", "https://api.alpaca.markets")
    with pytest.raises(SettingsError):
        load_settings()


@pytest.mark.parametrize(
    "endpoint", ["https://api.alpaca.markets", "https://paper-api.alpaca.markets:secret-word@api.alpaca.markets"]
)
def test_dagster_does_not_start(clean: pytest.MonkeyPatch, endpoint: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import trading_dagster.definitions"],
        env={**os.environ, "ALPACA_ENDPOINT": endpoint, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "on paper only" in done.stderr
    assert endpoint not in done.stdout + done.stderr
    assert "secret-word" not in done.stdout + done.stderr


PIECES = st.sampled_from(
    [
        "https", "http", "://", ":", "/", "//", "@", "\\", "#", "?", "%", "[", "]", ".", "\n", "\t", " ", "\0",
        "paper-api.alpaca.markets", "api.alpaca.markets", "127.0.0.1", "localhost", "[::1]", "::1", "evil.com", "v2",
        "80", "99999", "\u3002", "\uff0e", "\u0661", "\u017f", "\u212a", "PAPER-API", "%2e", "user", "secret",
    ]
)  # fmt: skip


@st.composite
def near_accepted(draw: st.DrawFn) -> str:
    """An accepted address with something put in, taken out, or put in place of a character."""
    text = draw(st.sampled_from(ACCEPTED))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.one_of(PIECES, st.characters())) + text[at + draw(st.integers(0, 1)) :]
    return text


@given(st.one_of(near_accepted(), st.lists(PIECES, max_size=8).map("".join), st.text()))
@example("http://127.0.0.1:99999")
def test_whatever_is_accepted_leads_there_for_every_reader(text: str) -> None:
    try:
        accepted = paper_endpoint(text)
    except ValueError:
        return
    for url in (accepted, f"{accepted}/v2/orders", text):
        assert urlsplit(url).hostname in ALLOWED
        found = urllib3.util.parse_url(url)
        assert str(found.host).strip("[]") in ALLOWED
        assert found.auth is None
        assert found.scheme == "https" or found.host != "paper-api.alpaca.markets"


@given(st.one_of(near_accepted(), st.text()))
def test_settings_and_broker_agree(text: str) -> None:
    def accepts(build: object, *values: str, **named: str) -> bool:
        try:
            build(*values, **named)
        except ValueError:
            return False
        return True

    assert accepts(Settings, alpaca_endpoint=text) == accepts(AlpacaBroker, "key", "secret", text)
