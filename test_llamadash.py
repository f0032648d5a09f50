#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = [
#   "python-socketio>=5.16.2,<6",
#   "aiohttp>=3.14.1,<4",
#   "psutil>=5.9,<8",
#   "pytest>=8",
#   "hypothesis>=6",
#   "playwright>=1.50",
#   "xllamacpp",
# ]
# ///
"""The whole test suite of llamadash: `python3 test_llamadash.py [pytest options]`.

It installs what it needs into data/venv, and uses real parts: the server as a child process,
python-socketio's and npm's clients, the real llama-server and the embedded engine, real models, Chromium.
What this machine cannot give is skipped, loudly; with LLAMADASH_TEST_NO_SKIP=1 that is a failure.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path

import llamadash

if __name__ == "__main__":
    llamadash.bootstrap(Path(__file__).resolve())

import asyncio
import base64
import collections
import contextlib
import functools
import gzip
import inspect
import json
import random
import re
import resource
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import time
import typing
import uuid
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

import aiohttp
import psutil
import pytest
import socketio
import yarl
from playwright import async_api as playwright

Json = dict[str, Any]
HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamadash-tests"
DEADLINE = 20.0  # seconds for what normally takes milliseconds; only a failure waits so long
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


# -- Helpers -------------------------------------------------------------------------------------

async def eventually(check: Callable[[], Any], what: str = "", seconds: float = DEADLINE) -> Any:
    """Wait until `check()` is true (it may be a coroutine function) and return what it gave."""
    ends = time.monotonic() + seconds
    while True:
        result = check()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        assert time.monotonic() < ends, f"not within {seconds} s: {what or inspect.getsource(check).strip()}"
        await asyncio.sleep(0.02)


def locked_once(path: Path, make: Callable[[Path], None]) -> Path:
    """The folder `path`, made by `make` where an earlier run has not made it already."""
    if not path.exists():
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        make(partial)
        partial.rename(path)
    return path


class Server:
    """llamadash as its users run it: a child process with a data folder of its own."""

    def __init__(self, folder: Path, *options: str, environment: Json | None = None, program: str = "") -> None:
        self.folder = folder
        self.data = folder / "data"
        self.models = folder / "models"
        self.models.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("LLAMADASH_", "HF_"))},
            "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), **(environment or {})}
        self.program = program
        self.process: subprocess.Popen[str] | None = None
        self.url = self.key = ""

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs llamadash on this server's data folder."""
        return [sys.executable, str(HERE / "llamadash.py"), "--data-dir", str(self.data), *arguments]

    def start(self) -> Server:
        """Start it and wait for its one line."""
        program = ["--llama-server", self.program] if self.program else []
        self.errors = open(self.folder / "stderr", "a+")  # noqa: SIM115
        self.process = subprocess.Popen(
            self.command("--port", self.url.rsplit(":", 1)[-1] or "0", "--models-dir", str(self.models), "--engine-port",
                         str(unused_port()), *program, *self.options),
            env=self.environment, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line.startswith("llamadash "), f"it did not start: {line} {self.output()}"
        self.url, _, self.key = line.split()[-1].partition("/#key=")
        self.url = self.url.rstrip("/")
        return self

    def output(self) -> str:
        """What it wrote to standard error so far."""
        return (self.folder / "stderr").read_text()

    def stop(self, sign: int = signal.SIGTERM) -> int:
        """End it and return its exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            return self.process.wait(DEADLINE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self.process.stdout and self.process.stdout.close()
            self.errors.close()
            self.process = None

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run one of its commands to the end."""
        return subprocess.run(self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=60,
                              **options)


class Dashboard:
    """One connected Socket.IO client (python-socketio's) and everything it was sent."""

    def __init__(self) -> None:
        self.sio = socketio.AsyncClient(reconnection=False)
        self.seen: list[tuple[str, Json]] = []
        self.sio.on("*", lambda event, data=None: self.seen.append((event, data)))

    async def connect(self, server: Server, auth: Json | None = None, **headers: str) -> Dashboard:
        """Connect with the server's key, or with `auth`."""
        await self.sio.connect(server.url, socketio_path="/llamaproxws", transports=["websocket"],
                               auth={"token": server.key} if auth is None else auth, headers=headers, wait_timeout=DEADLINE)
        await self.wait("connection:established")
        return self

    async def envelope(self, event: str, **data: Any) -> Json:
        """Make one request and return the whole answer."""
        fields = {key.rstrip("_"): value for key, value in data.items()}
        answer = await self.sio.call(event, {"requestId": uuid.uuid4().hex, "data": fields, "timestamp": llamadash.now_ms()},
                                     timeout=60)
        assert isinstance(answer, dict)
        return answer

    async def request(self, event: str, **data: Any) -> Json:
        """Make one request that succeeds and return its data."""
        answer = await self.envelope(event, **data)
        assert answer["success"], answer
        return typing.cast(Json, answer["data"])

    async def refused(self, event: str, **data: Any) -> Json:
        """Make one request that fails and return its error."""
        answer = await self.envelope(event, **data)
        assert not answer["success"], answer
        return typing.cast(Json, answer["error"])

    def events(self, name: str) -> list[Json]:
        """The data of every `name` broadcast so far."""
        return [message["data"] for event, message in self.seen if event == name]

    async def wait(self, name: str, check: Callable[[Json], Any] = lambda data: True, seconds: float = DEADLINE) -> Json:
        """The data of the first `name` broadcast that passes `check`."""
        found = await eventually(lambda: [data for data in self.events(name) if check(data)], f"broadcast {name}", seconds)
        return typing.cast(Json, found[0])

    async def close(self) -> None:
        """Leave."""
        await self.sio.disconnect()


def unused_port() -> int:
    """A port that nobody listens on right now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def run_async(test: Callable[..., Any]) -> Callable[..., Any]:
    """Let pytest run a coroutine function."""
    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*arguments, **fixtures), 300))
    return run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers that end with the test; without an engine unless `program` names one."""
    servers: list[Server] = []

    def make(*options: str, **more: Any) -> Server:
        more.setdefault("program", "/nonexistent/llama-server")
        server = Server(tmp_path / f"server-{len(servers)}", *options, **more)
        servers.append(server)
        return server.start()
    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def fresh_db(tmp_path: Path) -> Iterator[llamadash.Database]:
    """An empty database in a file of its own."""
    database = llamadash.Database(tmp_path / "test.db")
    yield database
    database.close()


# -- Bootstrap -----------------------------------------------------------------------------------

def test_dependencies_are_read_from_the_script_block() -> None:
    """The PEP 723 block is the one list of dependencies: three packages, each with a lowest safe version."""
    found = llamadash.script_dependencies(HERE / "llamadash.py")
    assert [item.split(">")[0] for item in found] == ["python-socketio", "aiohttp", "psutil"]
    assert all(">=" in item for item in found)


def test_missing_dependencies_are_named_in_one_line() -> None:
    """Without its dependencies, and told not to install them, it names the pip command in one line."""
    result = subprocess.run([sys.executable, "-S", "-E", str(HERE / "llamadash.py")], capture_output=True, text=True,
                            env={"PATH": os.environ["PATH"], "LLAMADASH_NO_BOOTSTRAP": "1"})
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "pip install 'python-socketio" in result.stderr


def test_first_run_installs_what_is_missing(tmp_path: Path) -> None:
    """A copy of the program on a Python without packages makes data/venv and goes on from there."""
    copy = tmp_path / "llamadash.py"
    shutil.copy(HERE / "llamadash.py", copy)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LLAMADASH_")}
    bare = subprocess.run([sys.executable, "-c", "import sys; print(sys._base_executable)"], capture_output=True, text=True)
    command = [bare.stdout.strip(), "-S", str(copy), "--version"]
    environment["LLAMADASH_LLAMA_SERVER"] = "/nonexistent/llama-server"  # no embedded engine wanted here
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert (result.returncode, result.stdout) == (0, f"llamadash {llamadash.__version__}\n"), result.stderr
    assert "installing" in result.stderr
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (again.returncode, again.stderr) == (0, "")


# -- Request fields ------------------------------------------------------------------------------

@pytest.mark.parametrize(("value", "kind", "good"), [
    ("a", str, True), (1, str, False), ("\ud800", str, False), ("a\0", str, False), ("x" * 5000, str, False),
    (1, int, True), (True, int, False), (1.0, int, False), (2**63, int, False), ("1", int, False),
    (1, float, True), (1.5, float, True), (float("nan"), float, False), (float("inf"), float, False), (10**400, float, False),
    (True, bool, True), (1, bool, False), ({}, dict[str, Any], True), ([], dict[str, Any], False),
    (["a"], list[str], True), (["a", 1], list[str], False), ("a", list[str], False),
    (None, str | None, True), ("a", str | None, True), (1, str | None, False),
    ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False), (True, Literal[1], False),
    (5, Annotated[int, llamadash.Range(1, 5)], True), (6, Annotated[int, llamadash.Range(1, 5)], False),
    ("ab", Annotated[str, llamadash.Length(1, 2)], True), ("", Annotated[str, llamadash.Length(1, 2)], False),
    ("x" * 5000, Annotated[str, llamadash.Length(1, 9000)], True),
])
def test_fields_are_checked(value: Any, kind: Any, good: bool) -> None:
    """A value is taken as it is or refused naming its field; nothing is converted silently."""
    if good:
        assert llamadash.checked(value, kind, "thing") == value
        return
    with pytest.raises(llamadash.InvalidRequest) as refused:
        llamadash.checked(value, kind, "thing")
    assert str(refused.value.field).startswith("thing")


# -- Database ------------------------------------------------------------------------------------

def a_model(id: str = "tiny", **more: Any) -> Json:
    """The least that a model row needs."""
    return {"id": id, "name": id, "path": f"/models/{id}.gguf", "source": "folder", **more}


def test_models_keep_what_was_saved(fresh_db: llamadash.Database) -> None:
    """A model comes back with its parameters, lists and flags, and with revision 1."""
    fresh_db.insert_model(a_model(parameters={"ctx-size": 4096}, shards=["/a", "/b"], favorite=True))
    model = fresh_db.get_model("tiny")
    assert (model["parameters"], model["shards"], model["favorite"], model["missing"], model["revision"]) == (
        {"ctx-size": 4096}, ["/a", "/b"], True, False, 1)


def test_a_stale_revision_changes_nothing(fresh_db: llamadash.Database) -> None:
    """Of two saves of one revision the second is refused with the row as it is now."""
    fresh_db.insert_model(a_model())
    fresh_db.update_model("tiny", 1, {"name": "First"})
    with pytest.raises(llamadash.Conflict) as refused:
        fresh_db.update_model("tiny", 1, {"name": "Second"})
    assert refused.value.details["current"]["name"] == "First"
    assert fresh_db.get_model("tiny")["revision"] == 2


def test_a_failed_transaction_leaves_nothing(fresh_db: llamadash.Database) -> None:
    """Whatever is raised inside a transaction undoes all of it."""
    with pytest.raises(KeyboardInterrupt), fresh_db.transaction() as db:
        db.execute("INSERT INTO metadata VALUES ('a', '1')")
        raise KeyboardInterrupt
    assert fresh_db.get_meta("a") is None


def test_a_second_model_of_one_path_is_refused(fresh_db: llamadash.Database) -> None:
    """Ids and paths are unique."""
    fresh_db.insert_model(a_model())
    with pytest.raises(llamadash.Conflict):
        fresh_db.insert_model(a_model("other", path="/models/tiny.gguf"))


def test_history_averages_and_keeps_the_peaks(fresh_db: llamadash.Database) -> None:
    """Ten minutes at 10 s come back in ten buckets with their averages and maxima."""
    now = llamadash.now_ms() // 60_000 * 60_000
    for at in range(60):
        fresh_db.add_metrics({"cpu_usage": float(at % 6)}, now - 600_000 + at * 10_000)
    found = fresh_db.metrics_history(now - 600_000, now, 11, ["cpu_usage"])
    assert found["bucket"] == 60_000
    assert found["series"]["cpu_usage"] == {"avg": [2.5] * 10, "max": [5.0] * 10}


@pytest.mark.parametrize(("days", "resolution"), [(1, 0), (10, 60_000), (300, 600_000)])
def test_history_reaches_back_as_long_as_it_is_kept(fresh_db: llamadash.Database, days: int, resolution: int) -> None:
    """Samples of any age are found, from single ones or from the averages kept for that long."""
    day = llamadash.DAY
    moment = llamadash.now_ms() - days * day
    fresh_db.add_metrics({"cpu_usage": 40.0}, moment)
    fresh_db.prune(llamadash.SETTING_DEFAULTS)
    kept = {row["resolution"] for row in fresh_db.rows("SELECT resolution FROM metrics")}
    assert resolution in kept and min(kept) == resolution
    found = fresh_db.metrics_history(moment - day, llamadash.now_ms(), 500, ["cpu_usage"])
    assert [value for value in found["series"]["cpu_usage"]["avg"] if value is not None] == [40.0]
    assert len(found["timestamps"]) <= 500


def test_history_shows_a_gap_as_null(fresh_db: llamadash.Database) -> None:
    """Time without samples is not drawn as a line between its ends."""
    now = llamadash.now_ms()
    for age in (900_000, 890_000, 20_000, 10_000):
        fresh_db.add_metrics({"cpu_usage": 1.0}, now - age)
    assert None in fresh_db.metrics_history(now - 900_000, now, 100, ["cpu_usage"])["series"]["cpu_usage"]["avg"]


@pytest.mark.parametrize(("search", "found"), [("100%", ["100% done"]), ("_", ["a_b"]), ("DONE", ["100% done"]), ("nothing", [])])
def test_log_search_takes_text_literally(fresh_db: llamadash.Database, search: str, found: list[str]) -> None:
    """% and _ in a search mean themselves, and case does not matter."""
    fresh_db.add_logs([{"id": at, "timestamp": at, "level": "info", "source": "engine", "message": message}
                       for at, message in enumerate(["100% done", "a_b", "plain"], 1)])
    logs, more = fresh_db.logs(search=search)
    assert [row["message"] for row in logs] == found
    assert not more


def test_logs_are_paged_by_id(fresh_db: llamadash.Database) -> None:
    """`before` continues where the last page ended, and the last page says so."""
    fresh_db.add_logs([{"id": at, "timestamp": at, "level": "info", "source": "engine", "message": str(at)} for at in range(1, 8)])
    first, more = fresh_db.logs(limit=5)
    second, end = fresh_db.logs(limit=5, before=first[-1]["id"])
    assert [row["id"] for row in first + second] == [7, 6, 5, 4, 3, 2, 1]
    assert (more, end) == (True, False)


def test_pruning_keeps_what_the_settings_say(fresh_db: llamadash.Database) -> None:
    """Old logs, and more than were asked for, are deleted; the rest stays."""
    now = llamadash.now_ms()
    rows = [{"id": at, "timestamp": now - (8 if at <= 10 else 0) * llamadash.DAY, "level": "info", "source": "engine",
             "message": "x"} for at in range(1, 2001)]
    fresh_db.add_logs(rows)
    fresh_db.prune({**llamadash.SETTING_DEFAULTS, "logs_max_rows": 1000})
    assert fresh_db.rows("SELECT COUNT(*) AS n, MIN(id) AS low FROM logs") == [{"n": 1000, "low": 1001}]


def test_a_damaged_database_is_replaced_by_its_backup(tmp_path: Path) -> None:
    """A file that SQLite cannot read is moved aside, the newest good backup restored, and that is said."""
    path = tmp_path / "llama.db"
    database = llamadash.Database(path)
    database.insert_model(a_model())
    database.daily_backup()
    database.close()
    path.write_bytes(b"\0" * 4096 + os.urandom(8192))
    again = llamadash.Database(path)
    assert [row["id"] for row in again.models()] == ["tiny"]
    assert again.notice and "was restored" in again.notice
    assert list(tmp_path.glob("llama.db.damaged-*"))
    again.close()


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    """A database of a later version is refused, and not one byte of it changes."""
    path = tmp_path / "llama.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 999")
    before = path.read_bytes()
    with pytest.raises(llamadash.DatabaseTooNew, match="newer"):
        llamadash.Database(path)
    assert path.read_bytes() == before


def test_a_migration_that_fails_leaves_the_old_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a migration is no migration: the tables and the version stay as they were, and a backup exists."""
    path = tmp_path / "llama.db"
    database = llamadash.Database(path)
    database.insert_model(a_model())
    database.close()

    def m_broken(db: sqlite3.Connection) -> None:
        db.execute("DROP TABLE models")
        raise ZeroDivisionError
    monkeypatch.setattr(llamadash, "MIGRATIONS", [*llamadash.MIGRATIONS, m_broken])
    with pytest.raises(ZeroDivisionError):
        llamadash.Database(path, len(llamadash.MIGRATIONS))
    monkeypatch.undo()
    again = llamadash.Database(path)
    assert again.get_model("tiny")
    assert [backup.name for backup in again.backups()] == ["before-migration-2.db"]
    again.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_files_are_for_their_owner_only(fresh_db: llamadash.Database) -> None:
    """The database and its backups can be read by nobody else."""
    fresh_db.daily_backup()
    for path in [fresh_db.path, *fresh_db.backups()]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


# -- Configuration and access ---------------------------------------------------------------------

@pytest.mark.parametrize("option", [option for action in llamadash.command_line()._actions for option in action.option_strings
                                    if option.startswith("--") and option not in ("--help", "--version")])
def test_every_option_is_documented_and_has_its_variable(option: str) -> None:
    """The README names every option, and every option can be given by its variable."""
    assert f"`{option}" in (HERE / "README.md").read_text("utf-8")
    assert llamadash.variable_of(option) == "LLAMADASH_" + option[2:].upper().replace("-", "_")


def test_an_option_beats_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Option before environment, and each is named as what fixed the value."""
    monkeypatch.setenv("LLAMADASH_ENGINE_PORT", "9001")
    monkeypatch.setenv("LLAMADASH_ENGINE_HOST", "0.0.0.0")
    options, fixed = llamadash.parsed(llamadash.command_line(), ["--engine-port", "9002"])
    config = llamadash.configured(options, fixed)
    assert (config.engine_port, config.engine_host) == (9002, "0.0.0.0")
    assert config.locked() == {"engine_port": "--engine-port", "engine_host": "LLAMADASH_ENGINE_HOST"}


def test_passwords_are_salted_and_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hashes of one password differ, and only the right password matches."""
    first, second = llamadash.hashed_password("correct horse"), llamadash.hashed_password("correct horse")
    assert first != second
    assert llamadash.password_matches("correct horse", first)
    assert not llamadash.password_matches("wrong horse", first)
    assert not llamadash.password_matches("", None)


# -- Hub -----------------------------------------------------------------------------------------

def test_what_json_cannot_say_is_sent_as_null() -> None:
    """NaN and infinity become null, lone surrogates become a question mark."""
    sent = json.loads(llamadash.encoded({"a": float("nan"), "b": [float("inf"), 1.5], "c": "x\ud800y"}))
    assert sent == {"a": None, "b": [None, 1.5], "c": "x?y"}


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_frames_say_how_long_they_are(size: int) -> None:
    """Each of the three length forms of RFC 6455 is used where it belongs."""
    frame = llamadash.text_frame(b"x" * size)
    assert frame[0] == 0x81
    assert len(frame) == size + (2 if size < 126 else 4 if size < 65536 else 10)


@run_async
async def test_every_request_has_exactly_one_answer(start: Callable[..., Server]) -> None:
    """An acknowledgement and an `:result` event carry the same envelope, with the request's id."""
    client = await Dashboard().connect(start())
    answer = await client.sio.call("models:list", {"requestId": "mine", "data": {}, "timestamp": 1})
    assert answer == {"type": "response", "event": "models:list", "success": True, "data": {"models": []},
                      "requestId": "mine", "timestamp": answer["timestamp"]}
    await eventually(lambda: any(event == "models:list:result" for event, _ in client.seen))
    assert [message for event, message in client.seen if event == "models:list:result"] == [answer]
    await client.close()


BAD_REQUESTS: list[tuple[str, Any, str, str | None]] = [
    ("no:such", {"data": {}}, "UNKNOWN_EVENT", None),
    ("connect", {"data": {}}, "UNKNOWN_EVENT", None),
    ("disconnect", {"data": {}}, "UNKNOWN_EVENT", None),
    ("models:list", "text", "INVALID_REQUEST", "data"),
    ("models:list", [1], "INVALID_REQUEST", "data"),
    ("models:list", {"data": []}, "INVALID_REQUEST", "data"),
    ("models:list", {"data": {}, "more": 1}, "INVALID_REQUEST", "more"),
    ("models:list", {"data": {}, "requestId": {}}, "INVALID_REQUEST", "requestId"),
    ("models:list", {"data": {}, "timestamp": "now"}, "INVALID_REQUEST", "timestamp"),
    ("models:list", {"data": {"surprise": 1}}, "INVALID_REQUEST", "surprise"),
    ("models:get", {"data": {}}, "INVALID_REQUEST", "id"),
    ("models:get", {"data": {"id": 1}}, "INVALID_REQUEST", "id"),
    ("models:get", {"data": {"id": "x" * 10_000}}, "INVALID_REQUEST", "id"),
    ("models:get", {"data": {"id": "nobody"}}, "NOT_FOUND", "id"),
    ("logs:list", {"data": {"limit": 501}}, "INVALID_REQUEST", "limit"),
    ("logs:list", {"data": {"before": 2**63}}, "INVALID_REQUEST", "before"),
    ("metrics:history", {"data": {"from": 0, "to": 1, "points": 1001}}, "INVALID_REQUEST", "points"),
    ("settings:update", {"data": {"changes": {"metrics_interval": 0}}}, "INVALID_REQUEST", "changes.metrics_interval"),
    ("settings:update", {"data": {"changes": {"nope": 0}}}, "INVALID_REQUEST", "changes.nope"),
    ("config:update", {"data": {"revision": 1, "changes": {"engine_port": 0}}}, "INVALID_REQUEST", "changes.engine_port"),
    ("config:update", {"data": {"revision": 1, "changes": {"llama_server": "/bin/sh"}}}, "INVALID_REQUEST", "changes.llama_server"),
    ("models:load", {"data": {"id": "x"}}, "NOT_FOUND", "id"),
]


@run_async
async def test_bad_requests_are_refused_naming_the_field(start: Callable[..., Server]) -> None:
    """A wrong, unknown or missing field gives one error envelope that names it, and the client stays connected."""
    client = await Dashboard().connect(start())
    for event, request, code, field in BAD_REQUESTS:
        if event in ("connect", "disconnect"):
            client.sio.reserved_events = []
        answer = await client.sio.call(event, request, timeout=DEADLINE)
        assert (answer["success"], answer["error"]["code"], answer["error"].get("field")) == (False, code, field), answer
    assert (await client.envelope("models:list"))["success"]
    await client.close()


@pytest.mark.parametrize("event", sorted(llamadash.EVENTS))
def test_every_event_refuses_what_it_does_not_know(event: str) -> None:
    """No handler runs with a field that is not its own, or with one of the wrong type."""
    with pytest.raises(llamadash.InvalidRequest) as refused:
        llamadash.EVENTS[event].arguments({"nobody-knows-this": 1})
    assert refused.value.field == "nobody-knows-this"
    for name in llamadash.EVENTS[event].fields:
        with pytest.raises(llamadash.InvalidRequest) as refused:
            llamadash.EVENTS[event].arguments({name: object()})
        assert str(refused.value.field).startswith(name)


@run_async
async def test_missed_broadcasts_come_back_in_order(start: Callable[..., Server]) -> None:
    """A client that returns with its epoch and seq gets what it missed, once each; one with another epoch is told so."""
    server = start()
    first = await Dashboard().connect(server)
    established = first.events("connection:established")[0]
    for theme in ("dark", "light", "system"):
        await first.request("settings:update", changes={"theme": theme})
    second = await Dashboard().connect(server, {"token": server.key, "epoch": established["epoch"], "seq": established["seq"]})
    await second.wait("settings:updated", lambda data: data["settings"]["theme"] == "system")
    assert second.events("connection:established")[0]["recovered"] is True
    seqs = [message["seq"] for _, message in second.seen if isinstance(message, dict) and "seq" in message]
    assert seqs == sorted(set(seqs)) and seqs[0] == established["seq"] + 1
    assert [data["settings"]["theme"] for data in second.events("settings:updated")] == ["dark", "light", "system"]
    third = await Dashboard().connect(server, {"token": server.key, "epoch": "another", "seq": established["seq"]})
    assert third.events("connection:established")[0]["recovered"] is False
    for client in (first, second, third):
        await client.close()


async def connect_error(server: Server, auth: Any) -> Json:
    """What the server says to a client that it refuses."""
    refused: list[Any] = []
    client = Dashboard()
    client.sio.on("connect_error", refused.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(server, auth)
    return typing.cast(Json, refused[0])


@run_async
async def test_wrong_keys_are_refused_and_then_slowed_down(start: Callable[..., Server]) -> None:
    """UNAUTHENTICATED at first, RATE_LIMITED by the sixth try; the right key still works."""
    server = start()
    codes = [(await connect_error(server, {"token": f"wrong-{at}"}))["data"]["code"] for at in range(6)]
    assert codes == ["UNAUTHENTICATED"] * 5 + ["RATE_LIMITED"]
    assert (await connect_error(server, {"password": "x"}))["data"]["retryAfter"] > 0
    await (await Dashboard().connect(server)).close()


@run_async
async def test_a_password_opens_a_session_that_can_be_revoked(start: Callable[..., Server]) -> None:
    """A login gives a token; revoking it closes its sockets within a second and refuses the token."""
    server = start()
    owner = await Dashboard().connect(server)
    await owner.request("password:set", password="correct horse")
    browser = await Dashboard().connect(server, {"password": "correct horse"})
    session = browser.events("connection:established")[0]["session"]
    again = await Dashboard().connect(server, {"token": session})
    listed = (await again.request("sessions:list"))["sessions"]
    assert [item["current"] for item in listed] == [True]
    await owner.request("sessions:revoke", id=listed[0]["id"])
    await eventually(lambda: not browser.sio.connected and not again.sio.connected, seconds=1)
    assert (await connect_error(server, {"token": session}))["data"]["code"] == "UNAUTHENTICATED"
    await owner.close()


@run_async
async def test_a_new_link_ends_all_sessions(start: Callable[..., Server]) -> None:
    """`link --new` closes every socket within a second, and the old key is worthless."""
    server = start()
    client = await Dashboard().connect(server)
    result = server.run("link", "--new")
    assert result.returncode == 0 and "/#key=" in result.stdout
    await eventually(lambda: not client.sio.connected, seconds=2)
    assert (await connect_error(server, {"token": server.key}))["data"]["code"] == "UNAUTHENTICATED"
    await (await Dashboard().connect(server, {"token": result.stdout.strip().split("#key=")[1]})).close()


@run_async
async def test_a_second_browser_sees_every_change(start: Callable[..., Server]) -> None:
    """What one client changes, every client is told, the asker included."""
    server = start()
    first, second = await Dashboard().connect(server), await Dashboard().connect(server)
    await first.request("settings:update", changes={"theme": "dark"})
    for client in (first, second):
        assert (await client.wait("settings:updated"))["settings"]["theme"] == "dark"
        await client.close()


# -- Web -----------------------------------------------------------------------------------------

async def fetch(server: Server, path: str, *, method: str = "GET", **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    """One HTTP request: status, headers, body. The path goes out as it is."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        url = yarl.URL(server.url + path, encoded=True)
        async with session.request(method, url, headers=headers, allow_redirects=False) as response:
            return response.status, response.headers, await response.read()


@run_async
async def test_pages_files_and_nothing_else(start: Callable[..., Server]) -> None:
    """Every path without an extension is the page; a file is itself; what does not exist is 404."""
    server = start()
    pages = [await fetch(server, path) for path in ("/", "/models", "/models/some-id", "/no/such/page")]
    assert {(status, headers["Content-Type"], body) for status, headers, body in pages} == {
        (200, "text/html; charset=utf-8", pages[0][2])}
    assert (await fetch(server, "/app.js"))[1]["Content-Type"].startswith("text/javascript")
    assert (await fetch(server, "/nothing.js"))[0] == 404
    assert (await fetch(server, "/", method="POST"))[0] == 405


@pytest.mark.parametrize("path", ["/../llamadash.py", "/%2e%2e/llamadash.py", "/..%5cllamadash.py", "/core/%2e%2e/%2e%2e/llamadash.py",
                                  "/core/..%2f..%2fllamadash.py", "/app.js%00.html", "/%252e%252e/llamadash.py", "/~x/app.js",
                                  "//etc/passwd.txt", "/data/access-key.txt"])
@run_async
async def test_hostile_paths_are_not_found(start: Callable[..., Server], path: str) -> None:
    """No spelling of a path leaves the web folder."""
    assert (await fetch(start(), path))[0] == 404


@run_async
async def test_files_are_compressed_and_validated(start: Callable[..., Server]) -> None:
    """gzip for who takes it, 304 for who has it, and versioned files for ever."""
    server = start()
    status, headers, body = await fetch(server, "/app.js", **{"Accept-Encoding": "gzip"})
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert gzip.decompress(body) == (HERE / "web/app.js").read_bytes()
    assert (await fetch(server, "/app.js", **{"If-None-Match": headers["ETag"]}))[0] == 304
    page = (await fetch(server, "/", **{"Accept-Encoding": "identity"}))[2].decode()
    versioned = re.search(r'src="(/~[0-9a-f]+/app\.js)"', page)
    assert versioned
    assert "immutable" in (await fetch(server, versioned[1]))[1]["Cache-Control"]


@run_async
async def test_security_headers_are_everywhere(start: Callable[..., Server]) -> None:
    """Pages, files and errors carry the same strict headers."""
    server = start()
    for path in ("/", "/app.js", "/nothing.js"):
        headers = (await fetch(server, path))[1]
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "require-trusted-types-for 'script'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"


SOCKET = "/llamaproxws/?EIO=4&transport=websocket"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
           "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode()}


@pytest.mark.parametrize(("host", "status"), [
    ("localhost", 200), ("127.0.0.1", 200), ("[::1]", 200), ("192.168.1.20", 200), (socket.gethostname(), 200),
    ("evil.example", 421), ("localhost.evil.example", 421), ("127.0.0.1.evil.example", 421), ("", 421), ("friend.example", 200),
])
@run_async
async def test_a_foreign_host_is_refused_everywhere(start: Callable[..., Server], host: str, status: int) -> None:
    """DNS rebinding: a name that is not this machine's gets 421 on pages, files and the socket."""
    server = start("--allow-host", "friend.example")
    for path in ("/", "/app.js"):
        assert (await fetch(server, path, Host=host))[0] == status
    if status == 421:
        assert (await fetch(server, SOCKET, Host=host, **UPGRADE))[0] == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://{host}.evil.example", "https://{host}", "http://127.0.0.1:1", ""])
@run_async
async def test_a_foreign_origin_is_refused_before_the_upgrade(start: Callable[..., Server], origin: str) -> None:
    """Another site, port or scheme, and `null`, get 403."""
    server = start()
    headers = {**UPGRADE, "Origin": origin.format(host=server.url.split("//")[1])}
    assert (await fetch(server, SOCKET, **headers))[0] == 403


@run_async
async def test_our_own_and_allowed_origins_may_connect(start: Callable[..., Server]) -> None:
    """The page's own origin, and one that was allowed, get through."""
    server = start("--allow-origin", "https://friend.example")
    for origin in (server.url, "https://friend.example"):
        await (await Dashboard().connect(server, Origin=origin)).close()


# -- Command line --------------------------------------------------------------------------------

@run_async
async def test_it_stops_quickly_with_a_tab_open(start: Callable[..., Server]) -> None:
    """SIGTERM and SIGINT end it with code 0 in under 2 s although a client is connected."""
    for sign in (signal.SIGTERM, signal.SIGINT):
        server = start()
        client = await Dashboard().connect(server)
        began = time.monotonic()
        assert await asyncio.to_thread(server.stop, sign) == 0
        assert time.monotonic() - began < 2
        assert "Traceback" not in server.output()
        await client.close()


def test_a_second_instance_on_one_data_folder_exits_4(start: Callable[..., Server]) -> None:
    """The first keeps running; the second says who has the folder."""
    server = start()
    result = server.run("--port", "0")
    assert (result.returncode, len(result.stderr.strip().splitlines())) == (4, 1)
    assert str(server.process and server.process.pid) in result.stderr


def test_a_port_in_use_exits_3_naming_the_holder(start: Callable[..., Server], tmp_path: Path) -> None:
    """A taken port is said in one line with the process that has it."""
    server = start()
    other = Server(tmp_path / "other", program="/nonexistent/llama-server")
    result = other.run("--port", server.url.rsplit(":", 1)[1])
    assert result.returncode == 3
    assert f"process {server.process and server.process.pid}" in result.stderr


def test_a_newer_database_exits_5(tmp_path: Path) -> None:
    """The error names the file."""
    server = Server(tmp_path)
    server.data.mkdir()
    with contextlib.closing(sqlite3.connect(server.data / llamadash.DATABASE_NAME)) as db:
        db.execute("PRAGMA user_version = 999")
    result = server.run("--port", "0")
    assert result.returncode == 5
    assert llamadash.DATABASE_NAME in result.stderr


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["--port", "x"], ["--port", "70000"], ["no-such-command"], ["--tls-cert", "x"]])
def test_bad_usage_exits_2(tmp_path: Path, arguments: list[str]) -> None:
    """What the command line does not know is said on standard error."""
    result = Server(tmp_path).run(*arguments)
    assert result.returncode == 2, result.stderr
    assert result.stderr


@run_async
async def test_settings_and_history_survive_a_restart(start: Callable[..., Server]) -> None:
    """After a stop and a start, what was set and measured is still there."""
    server = start()
    client = await Dashboard().connect(server)
    await client.request("settings:update", changes={"metrics_interval": 1, "theme": "dark"})
    await client.wait("metrics:update")
    await client.close()
    server.stop()
    server.start()
    again = await Dashboard().connect(server)
    assert (await again.request("settings:get"))["settings"]["theme"] == "dark"
    now = llamadash.now_ms()
    history = await again.request("metrics:history", from_=now - 900_000, to=now, points=100, series=["cpu_usage"])
    assert any(value is not None for value in history["series"]["cpu_usage"]["avg"])
    await again.close()


@run_async
async def test_an_acknowledged_change_survives_a_hard_kill(start: Callable[..., Server]) -> None:
    """kill -9 right after an answer loses nothing of what was answered."""
    server = start()
    for interval in range(2, 7):
        client = await Dashboard().connect(server)
        await client.request("settings:update", changes={"metrics_interval": interval})
        server.stop(signal.SIGKILL)
        server.start()
        again = await Dashboard().connect(server)
        assert (await again.request("settings:get"))["settings"]["metrics_interval"] == interval
        await again.close()
        await client.close()


# -- Security and faults --------------------------------------------------------------------------

class RawSocket:
    """A WebSocket without a Socket.IO library: it can say what no library would."""

    def __init__(self) -> None:
        self.session = aiohttp.ClientSession()

    async def open(self, server: Server, auth: Json | None = None, **options: Any) -> RawSocket:
        """Connect, and authenticate if `auth` is given."""
        self.ws = await self.session.ws_connect(server.url + SOCKET, max_msg_size=0, **options)
        assert (await self.ws.receive_str()).startswith("0{")
        if auth is not None:
            await self.ws.send_str("40" + json.dumps(auth))
            assert (await self.ws.receive_str()).startswith("40{")
        return self

    async def closed(self, seconds: float = 2) -> bool:
        """Whether the server ends the connection within `seconds`, whatever it sends before."""
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio_timeout(seconds):
                while not self.ws.closed:
                    if (await self.ws.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED,
                                                          aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.ERROR):
                        return True
        return self.ws.closed

    async def close(self) -> None:
        """Leave."""
        await self.ws.close()
        await self.session.close()


@contextlib.asynccontextmanager
async def asyncio_timeout(seconds: float) -> AsyncIterator[None]:
    """asyncio.timeout, which Python 3.10 lacks."""
    task = asyncio.current_task()
    assert task
    handle = asyncio.get_running_loop().call_later(seconds, task.cancel)
    try:
        yield
    except asyncio.CancelledError:
        raise asyncio.TimeoutError from None
    finally:
        handle.cancel()


def resident(server: Server) -> int:
    """Bytes of memory that the server's process uses."""
    assert server.process
    return int(psutil.Process(server.process.pid).memory_info().rss)


def descriptors(server: Server) -> int:
    """Open files and sockets of the server's process."""
    assert server.process
    return int(psutil.Process(server.process.pid).num_fds())


@run_async
async def test_a_socket_that_never_authenticates_is_closed(start: Callable[..., Server]) -> None:
    """Ten seconds after its upgrade a silent socket is gone."""
    raw = await RawSocket().open(start())
    assert not await raw.closed(8)
    assert await raw.closed(4)
    await raw.close()


@run_async
async def test_a_refused_socket_is_closed_within_a_second(start: Callable[..., Server]) -> None:
    """It is told UNAUTHENTICATED and has no second try on the same connection."""
    raw = await RawSocket().open(start())
    await raw.ws.send_str('40{"token":"wrong"}')
    answer = await raw.ws.receive_str()
    assert answer.startswith("44") and json.loads(answer[2:])["data"]["code"] == "UNAUTHENTICATED"
    assert await raw.closed(1)
    await raw.close()


BAD_FRAMES = ["40{}", "40/other,", "42", "42{}", "42[", "42[1]", '42["a",{},{}]', "4", "2probe", "5", "x", "", "45[1]",
              '451-["models:list",{"_placeholder":true,"num":0}]', "42" + "[" * 100_000, "42999999999999999[]", "x" * 300_000,
              b"\x00\x01", b"x" * 2_000_000, "4" * 1_500_000]


@pytest.mark.parametrize("frame", BAD_FRAMES, ids=lambda frame: repr(frame)[:24])
@run_async
async def test_a_malformed_frame_closes_only_its_socket(start: Callable[..., Server], frame: str | bytes) -> None:
    """Before and after authenticating: the sender is cut off, nobody else notices, nothing is left behind."""
    server = start()
    witness = await Dashboard().connect(server)
    before = descriptors(server)
    for auth in (None, {"token": server.key}):
        raw = await RawSocket().open(server, auth)
        with contextlib.suppress(ConnectionError):
            await (raw.ws.send_str(frame) if isinstance(frame, str) else raw.ws.send_bytes(frame))
        allowed = auth is None and frame == "40{}"  # authenticates with nothing, and is refused
        assert await raw.closed(), allowed
        await raw.close()
    assert (await witness.envelope("models:list"))["success"]
    await eventually(lambda: descriptors(server) <= before)
    assert "Traceback" not in server.output()
    await witness.close()


@run_async
async def test_deep_json_is_refused_without_harm(start: Callable[..., Server]) -> None:
    """900 levels give one error envelope that names the field, and a short log."""
    server = start()
    raw = await RawSocket().open(server, {"token": server.key})
    await raw.ws.send_str('427["models:get",{"data":{"id":' + '{"a":' * 900 + "1" + "}" * 900 + "}}]")
    while not (answer := await raw.ws.receive_str()).startswith("437"):
        pass
    error = json.loads(answer[3:])[0]["error"]
    assert (error["code"], error["field"]) == ("INVALID_REQUEST", "data")
    await raw.close()
    assert len(server.output()) < 64_000


@run_async
async def test_no_compression_is_negotiated(start: Callable[..., Server]) -> None:
    """A client that offers permessage-deflate does not get it: no compressed bomb can come in."""
    raw = await RawSocket().open(start(), compress=15)
    assert raw.ws.compress == 0
    await raw.close()


@run_async
async def test_a_thousand_malformed_frames_leave_nothing(start: Callable[..., Server]) -> None:
    """Sockets, memory and log stay as they were."""
    server = start("--sockets-per-address", "2000")

    async def volley() -> None:
        sockets = await asyncio.gather(*(RawSocket().open(server) for _ in range(100)))
        for raw in sockets:
            await raw.ws.send_str("42[garbage")
        assert all(await asyncio.gather(*(raw.closed() for raw in sockets)))
        await asyncio.gather(*(raw.close() for raw in sockets))
    await volley()  # what the first ones leave in caches is no leak
    await asyncio.sleep(0.5)
    memory, files = resident(server), descriptors(server)
    for _ in range(10):
        await volley()
    await eventually(lambda: descriptors(server) <= files, seconds=2)
    assert resident(server) - memory < 10_000_000
    assert len(server.output()) < 64_000


@run_async
async def test_one_address_has_only_so_many_sockets(start: Callable[..., Server]) -> None:
    """Of 100 sockets 32 are accepted, the rest get 503; a closed one makes room."""
    server = start()

    async def attempt() -> RawSocket | int:
        raw = RawSocket()
        try:
            return await raw.open(server)
        except aiohttp.WSServerHandshakeError as refused:
            await raw.session.close()
            return refused.status
    results = await asyncio.gather(*(attempt() for _ in range(100)))
    accepted = [item for item in results if isinstance(item, RawSocket)]
    assert len(accepted) == 32
    assert {item for item in results if isinstance(item, int)} == {503}
    await accepted.pop().close()
    await eventually(lambda: asyncio.ensure_future(attempt()), "room for one more")
    for raw in accepted:
        await raw.close()


@run_async
async def test_a_client_that_asks_too_much_is_slowed_down(start: Callable[..., Server]) -> None:
    """Several hundred requests at once: some RATE_LIMITED, all answered, and another client is served quickly."""
    server = start()
    greedy, other = await Dashboard().connect(server), await Dashboard().connect(server)
    answers = asyncio.gather(*(greedy.envelope("settings:get") for _ in range(400)))
    took = []
    for _ in range(20):
        began = time.monotonic()
        await other.request("settings:get")
        took.append(time.monotonic() - began)
    codes = collections.Counter(answer.get("error", {}).get("code", "ok") for answer in await answers)
    assert set(codes) == {"ok", "RATE_LIMITED"} and sum(codes.values()) == 400
    assert sorted(took)[-2] < 0.5
    for client in (greedy, other):
        await client.close()


@run_async
async def test_a_client_that_does_not_read_is_cut_off(start: Callable[..., Server]) -> None:
    """It is dropped at the queue's bound, memory stays flat, and the others get every broadcast."""
    server = start("--request-rate", "1000000")
    reader, actor = await Dashboard().connect(server), await Dashboard().connect(server)
    stalled = await RawSocket().open(server, {"token": server.key})
    stalled.ws._conn.transport.pause_reading()  # type: ignore[union-attr]
    files, memory = descriptors(server), resident(server)
    for number in range(6000):
        await actor.sio.emit("settings:update", {"data": {"changes": {"logs_max_rows": 1000 + number}}, "requestId": "x" * 64})
    await reader.wait("settings:updated", lambda data: data["settings"]["logs_max_rows"] == 6999, 60)
    rows = [data["settings"]["logs_max_rows"] for data in reader.events("settings:updated")]
    assert rows == list(range(1000, 7000))
    assert resident(server) - memory < 30_000_000
    assert descriptors(server) <= files
    stalled.ws._conn.transport.abort()  # type: ignore[union-attr]
    await stalled.session.close()
    for client in (reader, actor):
        await client.close()


@run_async
async def test_secrets_are_nowhere_to_be_seen(start: Callable[..., Server]) -> None:
    """Key, password, engine key and hub token are in no envelope, no log, no command line and no database page."""
    canaries = {"LLAMADASH_ENGINE_API_KEY": "canary-engine-0f3a", "HF_TOKEN": "hf_canary0a9b8c7d"}
    server = start(environment=canaries)
    client = await Dashboard().connect(server)
    await client.request("password:set", password="canary-password-77")
    second = await Dashboard().connect(server, {"password": "canary-password-77"})
    await connect_error(server, {"token": "canary-wrong-token"})
    for event in ("system:info", "system:export", "config:get", "engine:status", "settings:get", "sessions:list", "models:list"):
        await client.request(event)
    await client.request("logs:list", limit=500)
    everything = json.dumps([client.seen, second.seen[1:]]) + server.output()
    assert server.process
    everything += " ".join(part for process in [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(True)]
                           for part in process.cmdline())
    await client.close()
    await second.close()
    server.stop()
    pages = b"".join(path.read_bytes() for path in server.data.glob("llama-dashboard.db*"))
    for secret in (*canaries.values(), "canary-password-77", "canary-wrong-token", server.key):
        assert secret not in everything
        assert secret.encode() not in pages


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_the_data_folder_is_private(start: Callable[..., Server]) -> None:
    """Another user of the machine can read nothing of it."""
    server = start()
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    for path in server.data.rglob("*"):
        if path.is_file() and path.name not in ("lock",):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@run_async
async def test_a_hundred_hard_kills_lose_nothing_acknowledged(start: Callable[..., Server]) -> None:
    """Whatever was answered before kill -9 is there after the next start, a hundred times."""
    server = start()
    for number in range(1000, 1100):
        raw = await RawSocket().open(server, {"token": server.key})
        await raw.ws.send_str("421" + json.dumps(["settings:update", {"data": {"changes": {"logs_max_rows": number}}}]))
        while not (await raw.ws.receive_str()).startswith("431"):
            pass
        await asyncio.to_thread(server.stop, signal.SIGKILL)
        await raw.close()
        with contextlib.closing(sqlite3.connect(server.data / llamadash.DATABASE_NAME)) as db:
            saved = json.loads(db.execute("SELECT value FROM metadata WHERE key = 'settings'").fetchone()[0])
        assert saved["logs_max_rows"] == number
        await asyncio.to_thread(server.start)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
@run_async
async def test_a_full_disk_is_said_and_streaming_goes_on(start: Callable[..., Server], tmp_path: Path) -> None:
    """A change that cannot be saved fails with STORAGE_FULL; metrics and reads go on."""
    server = start()
    client = await Dashboard().connect(server)
    await client.request("settings:update", changes={"metrics_interval": 1})
    assert server.process
    size = sum(path.stat().st_size for path in server.data.glob("llama-dashboard.db-wal"))
    psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_FSIZE, (size + 1, resource.RLIM_INFINITY))
    error = await eventually_refused(client)
    assert error["code"] == "STORAGE_FULL"
    seen = len(client.events("metrics:update"))
    await eventually(lambda: len(client.events("metrics:update")) > seen + 1)
    await client.request("settings:get")
    psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await client.request("settings:update", changes={"theme": "dark"})
    await client.close()


async def eventually_refused(client: Dashboard) -> Json:
    """The error of the first change that cannot be saved."""
    for number in range(200):
        answer = await client.envelope("settings:update", changes={"logs_max_rows": 1000 + number})
        if not answer["success"]:
            return typing.cast(Json, answer["error"])
    raise AssertionError("every change was saved")


def damage(path: Path, how: str) -> None:
    """Break a closed database file in one of the ways that disks and people do."""
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[:len(content) // 2]
    elif how == "zeroed":
        content = bytearray(len(content))
    elif how == "random page":
        content[4096:8192] = random.Random(7).randbytes(4096)
    elif how == "text":
        content = bytearray(b"this is no database\n" * 500)
    elif how == "empty":
        content = bytearray()
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "zeroed", "random page", "text", "empty"])
@run_async
async def test_a_damaged_database_is_restored_and_said(start: Callable[..., Server], how: str) -> None:
    """It is moved aside, the backup is restored, and the log tells."""
    server = start()
    client = await Dashboard().connect(server)
    await client.request("settings:update", changes={"theme": "dark"})
    await client.request("system:backup")
    await client.close()
    server.stop()
    damage(server.data / llamadash.DATABASE_NAME, how)
    for suffix in ("-wal", "-shm"):
        (server.data / f"{llamadash.DATABASE_NAME}{suffix}").unlink(missing_ok=True)
    server.start()
    again = await Dashboard().connect(server)
    assert (await again.request("settings:get"))["settings"]["theme"] == "dark"
    assert "restored" in again.events("connection:established")[0]["features"]["notice"]
    await again.close()


@run_async
async def test_a_thousand_clients_come_back_after_a_restart(start: Callable[..., Server]) -> None:
    """All of them are let in again, and the server answers meanwhile."""
    server = start("--sockets-per-address", "2000")
    first = await asyncio.gather(*(RawSocket().open(server, {"token": server.key}) for _ in range(500)))
    await asyncio.to_thread(server.stop)
    await asyncio.gather(*(raw.close() for raw in first))
    server.start()
    again: list[RawSocket] = []
    for _ in range(10):
        again += await asyncio.gather(*(RawSocket().open(server, {"token": server.key}) for _ in range(100)))
    client = await Dashboard().connect(server)
    await client.request("models:list")
    await client.close()
    await asyncio.gather(*(raw.close() for raw in again))


# -- Running --------------------------------------------------------------------------------------

class Loudly:
    """Says at the end, where nobody can miss it, what was not tested, and fails for it where told to."""

    def __init__(self) -> None:
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note every test that was skipped, and why."""
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.skipped.append(f"{report.nodeid}: {reason}")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """List what was skipped."""
        for line in self.skipped:
            terminalreporter.write_line(f"NOT TESTED: {line}", red=True)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn skipped tests into a failure under LLAMADASH_TEST_NO_SKIP=1."""
        if self.skipped and os.environ.get("LLAMADASH_TEST_NO_SKIP") == "1":
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[Loudly()]))
