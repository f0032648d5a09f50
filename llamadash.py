#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = [
#   "python-socketio>=5.16.2,<5.19",
#   "python-engineio>=4.13,<4.16",
#   "aiohttp>=3.14.1,<4",
#   "psutil>=5.9,<8",
# ]
# ///
"""llamadash: the async proxy and dashboard for llama.cpp on your own box.

It finds GGUF models, starts an engine process for each one that is asked for, is the one address for every client,
decides what is in memory, and shows what the machine and every request are doing, live and over weeks.

    python3 llamadash.py            start, and print the link to open
    python3 llamadash.py doctor     check this machine and say what to do
    python3 llamadash.py update     put the newest version in place of this file
    python3 llamadash.py --help     every option

This file is the whole server; web/, or what a release carries at its end, is the client; data/ is what it remembers.
"""
# Where to find what:
# Bootstrap ................... Python's packages: which are missing, data/venv, starting again from there
# Errors, fields and events ... what fails as expected; the checks of a request's fields; the table of events
# Configuration and access .... options and saved values; the access key, passwords and sessions
# Database .................... the one SQLite file: migrations, backups, and its verbs by domain
# GGUF files .................. a bounded reader of model files: headers, tensors, vocabularies, shards
# Memory estimate ............. what a model needs on which device, and the longest context that fits
# Machine and GPUs ............ readings of processor, memory, disks and GPUs, live and over weeks
# Library ..................... the model folders: scans, entries and their variants, files that go
# Parameters and presets ...... what may be set of a model, with types and ranges; models.ini in and out
# Builds ...................... the engine programs of this machine, and the command lines that they understand
# Instances ................... one engine process per loaded model: its start, states, log lines and end
# Residency ................... who is in memory: a pure state machine, and the pool of processes that obeys it
# Gateway and keys ............ the models' API for every client: requests, live and as rows; API keys
# Upstreams ................... servers elsewhere, whose models are offered here as NAME/MODEL
# Embedded engine ............. xllamacpp as a child that speaks llama-server's protocol
# Chats ....................... conversations, their attachments, and answers as they are written
# Benchmarks .................. how fast a model reads and writes
# Downloads ................... GGUF files from Hugging Face: in parts, resumed, verified
# Official builds ............. llama.cpp's releases: chosen, downloaded, checked, unpacked, proven, kept
# Journal and logs ............ our records and the engines' lines, kept and streamed in batches
# Alerts ...................... what the owner is told of: in the pages, and by ntfy, webhook or e-mail
# Hub ......................... every open browser: its socket, requests with one answer each, broadcasts
# Web ......................... the pages' files, Host and Origin, limits of connections
# Service and doctor .......... what this machine lacks, a systemd unit for it, newer versions of this file
# Dash ........................ the one state object, what runs in the background, export and import
# Command line ................ options, commands, exit codes

from __future__ import annotations

import importlib.util
import os
import sys

if sys.version_info < (3, 10):  # noqa: UP036  (all of this file can be read by 3.8, to say so)
    sys.exit(f"llamadash needs Python 3.10 or newer, and this is {sys.version.split()[0]}: try uv run llamadash.py")


def start_as_module(python: str) -> None:
    """Start this file again as a module of `python`, from its compiled cache, if there is one or can be."""
    # Python keeps 25 MB of what compiling takes. Before all other imports, for what is imported here is imported twice.
    path = os.path.realpath(__file__)
    here, name = os.path.split(path)
    if os.name != "posix" or name != "llamadash.py" or not os.access(here, os.W_OK):
        return
    cache = importlib.util.cache_from_source(path)
    if not (os.path.exists(cache) and os.path.getmtime(cache) >= os.path.getmtime(path)):
        import py_compile  # not at the top: needed once for each version
        py_compile.compile(path)
    code = f"import sys; sys.path[0] = {here!r}; sys.dont_write_bytecode = False; " \
           f"import llamadash; sys.exit(llamadash.main())  # {here}/llamadash.py"
    os.execv(python, [python, "-c", code, *sys.argv[1:]])


if __name__ == "__main__" and sys.orig_argv[1:] == sys.argv:  # not with options of Python's own, or by another program
    start_as_module(sys.executable)

import re
import shlex
import shutil
import subprocess
from pathlib import Path

__version__ = "1.0.0"
RELEASE_URL = ""  # where `update` finds newer versions, as .ci/release --url writes it here


# -- Bootstrap ------------------------------------------------------------------------------------

IMPORT_NAMES = {"python-socketio": "socketio", "python-engineio": "engineio"}  # where it is not the package's own name
SCRIPT = Path(__file__).resolve()
HERE = SCRIPT.parent


def script_dependencies(script: Path) -> list[str]:
    """The requirements in the PEP 723 block that `script` begins with; none where it lies in an archive."""
    text = script.read_bytes()[:4096].decode(errors="replace") if script.is_file() else ""
    listed = re.search(r"(?sm)^# /// script\n.*?^# dependencies = \[(.*?)\]", text)
    return re.findall(r'"([^"]+)"', listed[1]) if listed else []


def missing_dependencies(requirements: list[str]) -> list[str]:
    """Those of `requirements` whose module cannot be found."""
    names = {item: re.split(r"[<>=!~\[; ]", item, maxsplit=1)[0] for item in requirements}
    return [item for item, name in names.items()
            if importlib.util.find_spec(IMPORT_NAMES.get(name, name.replace("-", "_"))) is None]


VENV = HERE / "data" / "venv"
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
EMBEDDED_PACKAGE = "xllamacpp"  # llama.cpp's own server inside Python: the engine where there is no other
EMBEDDED_REQUIREMENT = f"{EMBEDDED_PACKAGE}>=2026.10"  # from then on it tells how far a load has come


def venv_commands(requirements: list[str]) -> list[list[str]]:
    """The commands that make data/venv and install `requirements` into it."""
    return [[sys.executable, "-m", "venv", "--clear", str(VENV)],
            [str(VENV_PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]]


def make_venv(requirements: list[str], optional: list[str]) -> None:
    """Make data/venv with `requirements`, and with `optional` where that can be had; SystemExit in one line."""
    try:
        os.makedirs(VENV.parent, mode=0o700, exist_ok=True)
        for command in venv_commands(requirements):
            subprocess.run(command, check=True, stdout=sys.stderr)
        for package in optional:
            if subprocess.run(venv_commands([package])[1], stdout=sys.stderr).returncode:
                print(f"llamadash: going on without {package}", file=sys.stderr)
        (VENV / ".complete").write_text("\n".join(requirements))
    except (OSError, subprocess.CalledProcessError) as problem:
        hint = "is there a network?" if importlib.util.find_spec("ensurepip") else "on Debian: apt install python3-venv"
        told = problem if isinstance(problem, OSError) else f"{problem.cmd[2]} failed, as it says above ({hint})"
        sys.exit(f"llamadash: cannot make {VENV}: {told}; or by hand: pip install {shlex.join(requirements)}")


def bootstrap(script: Path) -> None:
    """Install what `script` needs into data/venv and start it again from there; return if all is there, else exit."""
    requirements = script_dependencies(script)
    if not (missing := missing_dependencies(requirements)):
        return
    if os.environ.get("LLAMADASH_NO_BOOTSTRAP") == "1":
        sys.exit(f"llamadash: missing {', '.join(missing)}: pip install {shlex.join(requirements)}")
    tries = int(os.environ.get("LLAMADASH_BOOTSTRAPPED", "0"))
    if tries > 1:
        sys.exit(f"llamadash: {VENV} still lacks {', '.join(missing)}: delete it and try again")
    complete = VENV / ".complete"
    installed = complete.read_text().split("\n") if complete.is_file() else []
    if tries or not VENV_PYTHON.exists() or not set(requirements) <= set(installed):
        print(f"llamadash: installing {', '.join(missing)} into {VENV} (once)", file=sys.stderr)
        has_engine = (os.environ.get("LLAMADASH_LLAMA_SERVER") or shutil.which("llama-server") or shutil.which("llama")
                      or any(word.startswith("--llama-server") for word in sys.argv))
        has_nvidia = os.path.exists("/proc/driver/nvidia") or shutil.which("nvidia-smi")
        make_venv([*requirements, *(item for item in installed if item and item not in requirements)],
                  [*([] if has_engine else [EMBEDDED_REQUIREMENT]), *(["nvidia-ml-py"] if has_nvidia else [])])
    os.environ["LLAMADASH_BOOTSTRAPPED"] = str(tries + 1)
    command = [str(VENV_PYTHON), str(script), *sys.argv[1:]]
    if os.name == "nt":
        sys.exit(subprocess.run(command).returncode)
    if script == SCRIPT:
        start_as_module(str(VENV_PYTHON))
    os.execv(VENV_PYTHON, command)


started_script = Path(getattr(sys.modules["__main__"], "__file__", None) or __file__).resolve()  # this, or the tests
if missing_dependencies(script_dependencies(Path(__file__))) and started_script.parent == HERE:
    bootstrap(started_script)

import argparse
import asyncio
import base64
import binascii
import bisect
import calendar
import collections
import concurrent.futures
import contextlib
import dataclasses
import email.utils
import errno
import functools
import gc
import getpass
import gzip
import hashlib
import hmac
import inspect
import io
import ipaddress
import itertools
import json
import logging
import math
import mmap
import ntpath
import platform
import posixpath
import secrets
import select
import signal
import socket
import sqlite3
import ssl
import stat
import struct
import tempfile
import threading
import time
import types
import typing
import unicodedata
import urllib.parse
import urllib.request
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

certificates = {name: os.environ[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if name in os.environ}
# Without them: aiohttp reads those of all authorities as it is imported, which takes as long as half of the rest.
os.environ |= {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
import aiohttp

del os.environ["SSL_CERT_FILE"], os.environ["SSL_CERT_DIR"]
os.environ |= certificates
import psutil
import socketio
import yarl
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

Json = dict[str, Any]
Result = TypeVar("Result")
log = logging.getLogger("llamadash")
# What https to other machines needs: reading it takes 0.1 s, so it is read when it is first needed.
trusted_certificates = functools.cache(ssl.create_default_context)


# -- Errors, fields and events --------------------------------------------------------------------

class DashError(Exception):
    """An expected failure: `code` goes to the client, and the message is written for the user."""
    code = "INTERNAL_ERROR"

    def __init__(self, message: str, *, code: str | None = None, field: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.code = code or self.code
        self.field = field
        self.details = details

    def as_json(self) -> Json:
        """`{code, message, field?, …}`, the `error` of a response."""
        field = {} if self.field is None else {"field": self.field}
        return {"code": self.code, "message": str(self), **field, **self.details}


class InvalidRequest(DashError):
    """A value of the request is not acceptable; `field` says which."""
    code = "INVALID_REQUEST"


class NotFound(DashError):
    """What the request names does not exist."""
    code = "NOT_FOUND"


class Conflict(DashError):
    """Somebody else changed it first; `current` carries the row as it is now."""
    code = "CONFLICT"


class RateLimited(DashError):
    """Too many requests."""
    code = "RATE_LIMITED"


class Unauthenticated(DashError):
    """No valid access key, session token or password was given."""
    code = "UNAUTHENTICATED"


class EngineUnavailable(DashError):
    """There is no running engine to do this."""
    code = "ENGINE_UNAVAILABLE"


class Unreachable(EngineUnavailable):
    """A folder is not there, cannot be read or does not answer."""


class EngineFailed(DashError):
    """The engine tried and could not."""
    code = "ENGINE_FAILED"


class StorageFull(DashError):
    """The disk is full: nothing can be saved."""
    code = "STORAGE_FULL"


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def steady_ms() -> int:
    """Milliseconds of a clock that nobody sets and that goes on while the machine sleeps, where the system has one."""
    clock = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return (time.monotonic_ns() if clock is None else time.clock_gettime_ns(clock)) // 1_000_000


DAY = 86_400_000  # milliseconds
MAX_TEXT = 4096  # characters; longer fields say so with Length
MAX_DEPTH = 32  # levels of nesting in a request; every real one has fewer than 8
LOG_LINES_PER_SECOND = 300  # of one source into the journal; the rest is counted and said


class LogLimiter:
    """Keeps a flood out of the log: so many lines of each source in a period, a failure that repeats once a minute."""

    def __init__(self, limit: int = LOG_LINES_PER_SECOND, period: float = 1.0) -> None:
        self.limit, self.period = limit, period  # seconds
        self.begun = 0
        self.passed, self.held = collections.Counter[str](), collections.Counter[str]()
        self.failures: dict[str, tuple[str, float]] = {}

    def allows(self, source: str, now: float, size: int = 0) -> bool:
        """Whether one more line of `source`, of `size` bytes, may pass at `now` (s)."""
        if int(now / self.period) != self.begun:
            self.begun = int(now / self.period)
            self.passed.clear()
        self.passed[source] += 1 + size // 256  # a longer line counts for several
        if self.passed[source] > self.limit:
            self.held[source] += 1
        return self.passed[source] <= self.limit

    def suppressed(self) -> dict[str, int]:
        """How many lines of each source were held back since this was last asked."""
        counts, self.held = self.held, collections.Counter()
        return counts

    def is_new(self, what: str, problem: object = None, pause: float = 60.0) -> bool:
        """Whether `what` fails otherwise than the last time, or that is `pause` seconds ago."""
        last, moment = self.failures.get(what, ("", -math.inf))
        if last == repr(problem) and time.monotonic() - moment < pause:
            return False
        self.failures[what] = repr(problem), time.monotonic()
        return True


class Range(NamedTuple):
    """Bounds of a number, both included."""
    low: float
    high: float


class Length(Range):
    """Bounds of a text's characters or a list's items, both included."""


Timestamp = Annotated[int, Range(0, 2**53)]
ModelId = Annotated[str, Length(1, 96)]


def checked(value: Any, kind: Any, field: str, longest: float = MAX_TEXT) -> Any:
    """`value` if it is of the annotated type `kind`, else InvalidRequest naming `field`; a text may be `longest`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        bounds, sized = arguments[1], isinstance(arguments[1], Length)
        if callable(bounds):  # a check of its own
            return bounds(value, field)
        value = checked(value, arguments[0], field, bounds.high if sized else MAX_TEXT)
        if not bounds.low <= (len(value) if sized else value) <= bounds.high:
            problem = f"be from {bounds.low:.15g} to {bounds.high:.15g}"
            if sized:
                unit = "characters" if isinstance(value, str) else "items"
                problem = f"have {bounds.low:,.15g} to {bounds.high:,.15g} {unit}"
            raise InvalidRequest(f"{field} must {problem}", field=field)
        return value
    if origin in (types.UnionType, typing.Union):  # with None, which stands last
        return None if value is None else checked(value, arguments[0], field)
    if origin is Literal:
        if value in arguments and type(value) in {type(item) for item in arguments}:
            return value
        raise InvalidRequest(f"{field} must be one of: {', '.join(map(str, arguments))}", field=field)
    value = checked_plain(value, origin or kind, field, longest)
    if origin is list:
        return [checked(item, arguments[0], f"{field}.{at}") for at, item in enumerate(value)]
    if origin is dict and arguments[1] is not Any:
        return {key: checked(item, arguments[1], f"{field}.{key[:64]}") for key, item in value.items()}
    return value


def checked_changes(changes: Json, fields: dict[str, Any], locked: Json, field: str = "changes") -> Json:
    """`changes` if every key is known, free and of the right type; else InvalidRequest naming it."""
    for key in changes:
        if key not in fields:
            raise InvalidRequest(f"unknown field: {key[:64]}", field=f"{field}.{key[:64]}")
        if key in locked:
            raise InvalidRequest(f"{key} is fixed by {locked[key]}", field=f"{field}.{key}")
    return {key: checked(value, fields[key], f"{field}.{key}") for key, value in changes.items()}


TYPE_NAMES: dict[Any, str] = {str: "a text", int: "a whole number", float: "a number", bool: "true or false",
                              dict: "an object", list: "a list"}


def checked_plain(value: Any, expected: Any, field: str, longest: float) -> Any:
    """checked() for a kind that is a class: one of TYPE_NAMES."""
    if expected is float and type(value) is int:
        value = float(value) if abs(value) < 2**63 else math.inf
    if type(value) is not expected:
        raise InvalidRequest(f"{field} must be {TYPE_NAMES.get(expected, expected)}", field=field)
    if expected is str and len(value) > longest:
        raise InvalidRequest(f"{field} may have at most {longest:,.15g} characters", field=field)
    if expected is str and not encodable(value):
        raise InvalidRequest(f"{field} holds characters that no text has", field=field)
    if (expected is int and abs(value) >= 2**63) or (expected is float and not math.isfinite(value)):
        raise InvalidRequest(f"{field} is out of range", field=field)
    return value


def encodable(text: str) -> bool:
    """Whether `text` can be sent and stored: no lone surrogate, no NUL."""
    return "\0" not in text and (text.isascii() or text.encode(errors="ignore").decode() == text)


Handler = Callable[..., Awaitable[Json] | Json]
AnyHandler = TypeVar("AnyHandler", bound=Handler)


# Here and below: nobody compares or prints these, and making the methods for it would take 10 ms of every start.
@dataclass(eq=False, repr=False)
class Event:
    """One request that clients may make: its handler, its fields and its unexpected-error code."""
    handler: Handler  # which returns the response's data or raises a DashError
    error: str  # the code that the client sees of anything else, which is logged
    cost: int  # for how many requests it counts in the rate limit

    @functools.cached_property
    def fields(self) -> dict[str, inspect.Parameter]:
        """The request's fields: the handler's typed keyword-only parameters; `from_` is the field `from`."""
        hints = typing.get_type_hints(self.handler, {**globals(), "Dash": Any, "Client": Any}, include_extras=True)
        return {item.name.rstrip("_"): item.replace(annotation=hints[item.name])
                for item in inspect.signature(self.handler).parameters.values() if item.kind is item.KEYWORD_ONLY}

    def arguments(self, data: Json) -> Json:
        """`data` checked against the handler's keyword arguments; InvalidRequest names the wrong field."""
        for name in data:
            if name not in self.fields:
                raise InvalidRequest(f"unknown field: {name[:64]}", field=name[:64])
        arguments = {self.fields[name].name: checked(value, self.fields[name].annotation, name)
                     for name, value in data.items()}
        for name, parameter in self.fields.items():
            if name not in data and parameter.default is inspect.Parameter.empty:
                raise InvalidRequest(f"missing field: {name}", field=name)
        return arguments


EVENTS: dict[str, Event] = {}


def on(name: str, *, error: str = "INTERNAL_ERROR", cost: int = 1) -> Callable[[AnyHandler], AnyHandler]:
    """Register the decorated function, `handler(dash[, client], *, fields…)`, as the handler of event `name`."""
    def register(handler: AnyHandler) -> AnyHandler:
        EVENTS[name] = Event(handler, error, cost)
        return handler
    return register


# -- Configuration and access ---------------------------------------------------------------------

LogLevel = Literal["debug", "info", "warning", "error"]
LOG_LEVELS = typing.get_args(LogLevel)
Days = Annotated[int, Range(1, 3650)]
SCHEDULE_FIELDS: dict[str, Any] = {
    "action": Literal["load", "unload", "pin", "unpin", "free"], "model": Annotated[str, Length(0, 96)], "at": str,
    "days": Annotated[list[Annotated[int, Range(0, 6)]], Length(1, 7)]}


def checked_schedule(item: Any, field: str) -> Json:
    """`item` if it is a schedule; else InvalidRequest naming what of it is wrong, in `field`."""
    schedule = checked_changes(checked(item, dict, field), SCHEDULE_FIELDS, {}, field)
    if schedule.keys() != SCHEDULE_FIELDS.keys() or not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", schedule["at"]):
        raise InvalidRequest("A schedule has an action, a model, days (0 is Monday) and a time like 07:30.",
                             field=f"{field}.at")
    return schedule


AlertKind = Literal["crashed", "failed", "unserved", "temperature", "throttled", "disk", "memory", "backup", "download",
                    "build"]
Amounts = dict[str, Annotated[int, Range(0, 2**50)]]  # bytes by device
# What the user may change, by name: the default, and what else it may be.
CONFIG: dict[str, tuple[Any, Any]] = {
    "models_dirs": ([], Annotated[list[str], Length(0, 64)]), "api_host": ("127.0.0.1", Annotated[str, Length(1, 253)]),
    "api_port": (8080, Annotated[int, Range(1, 65535)]), "models_max": (0, Annotated[int, Range(0, 64)]),
    "idle_seconds": (0, Annotated[int, Range(0, 31_536_000)]), "min_residency": (10, Annotated[int, Range(0, 3600)]),
    "max_wait": (600, Annotated[int, Range(1, 86_400)]), "default_model": ("", Annotated[str, Length(0, 128)]),
    "budget": ({}, Amounts), "yields": ({}, Amounts), "build": ("", Annotated[str, Length(0, 96)]),
    "schedules": ([], Annotated[list[Annotated[Any, checked_schedule]], Length(0, 64)]), "autostart": (True, bool),
    "check_releases": (True, bool), "check_models": (True, bool), "defaults": ({}, dict[str, Any]),
}
SETTINGS: dict[str, tuple[Any, Any]] = {
    "theme": ("system", Literal["system", "light", "dark"]), "metrics_interval": (10, Annotated[int, Range(1, 60)]),
    "metrics_retention_days": (30, Days), "metrics_history_days": (730, Days), "logs_retention_days": (7, Days),
    "logs_max_rows": (200_000, Annotated[int, Range(1000, 5_000_000)]), "log_level": ("info", LogLevel),
    "energy_price": (None, Annotated[float, Range(0, 1000)] | None), "currency": ("€", Annotated[str, Length(1, 8)]),
    "alerts_off": ([], Annotated[list[AlertKind], Length(0, 32)]), "alert_disk": (95, Annotated[int, Range(1, 100)]),
    "alert_memory": (98, Annotated[int, Range(1, 100)]), "alert_temperature": (87, Annotated[int, Range(1, 150)]),
    "chat_presets": ([], Annotated[list[dict[str, Any]], Length(0, 50)]),
}
ENGINE_DEFAULTS, CONFIG_FIELDS = ({key: item[at] for key, item in CONFIG.items()} for at in (0, 1))
SETTING_DEFAULTS, SETTING_FIELDS = ({key: item[at] for key, item in SETTINGS.items()} for at in (0, 1))
# What version 1.0.0 called otherwise or had besides, in its documents and in a database that was not migrated yet.
OLD_CONFIG = {"engine_host": "api_host", "engine_port": "api_port", "sleep_idle_seconds": "idle_seconds",
              "models_autoload": ""}
EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (what reaches a server on all addresses)


@dataclass(frozen=True)
class Config:
    """What was fixed at the start, by the command line or the environment; None: not fixed."""
    host: str = "127.0.0.1"
    port: int = 3000
    data_dir: Path = HERE / "data"
    models_dirs: tuple[Path, ...] | None = None
    llama_server: str | None = None
    api_host: str | None = None
    api_port: int | None = None
    upstreams: tuple[tuple[str, str], ...] = ()  # names and addresses
    auth: bool = True
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()  # addresses and networks
    base_paths: tuple[str, ...] = ()
    alerts: tuple[tuple[str, str], ...] = ()  # names and addresses
    prometheus: tuple[str, int] | None = None  # host and port of its listener
    tls_cert: Path | None = None
    tls_key: Path | None = None
    log_level: str | None = None
    sockets_per_address: int = 32  # a household behind one router, with tabs to spare
    request_rate: int = 50  # a second and client; a page that is opened makes about ten
    fixed: dict[str, str] = field(default_factory=dict)  # by value: the option or the variable that fixes it

    @property
    def scheme(self) -> str:
        """What a browser puts before the address."""
        return "https" if self.tls_cert else "http"

    def url(self, port: int | None = None) -> str:
        """The address to open in a browser on this machine."""
        host = EVERY_ADDRESS.get(self.host, self.host)
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"{self.scheme}://{host}:{port or self.port}"

    def locked(self) -> Json:
        """The engine's values that cannot be changed from a client, and what fixes each."""
        return {key: self.fixed[key] for key in (*ENGINE_DEFAULTS, "llama_server", "log_level") if key in self.fixed}


def renamed_config(config: Json) -> Json:
    """A saved configuration with the names that it has today."""
    renamed = {OLD_CONFIG.get(key, key): value for key, value in config.items()}
    renamed.pop("", None)
    return {**renamed, "idle_seconds": 0} if renamed.get("idle_seconds") == -1 else renamed


def expanded(path: str) -> Path:
    """`path` with `~` replaced, where there is such a user."""
    return Path(os.path.expanduser(path))  # Path.expanduser raises where there is none


def good_values(saved: Json, fields: dict[str, Any], owner: str = "") -> Json:
    """What of the `saved` values of an owner can be used; the rest is logged, and its defaults hold."""
    good = {}
    for key in filter(fields.__contains__, saved.keys()):
        try:
            good[key] = checked(saved[key], fields[key], key)
        except InvalidRequest as problem:
            log.warning("%s%s is not used as it is saved: %s", key, owner, problem)
            kind, *_ = typing.get_args(fields[key]) if typing.get_origin(fields[key]) is Annotated else [fields[key]]
            if typing.get_origin(kind) is dict and isinstance(saved[key], dict):  # which costs only what is bad
                good[key] = good_values(saved[key], dict.fromkeys(saved[key], typing.get_args(kind)[1]))
            elif typing.get_origin(kind) is list and isinstance(saved[key], list):
                items = {f"{key}.{at}": item for at, item in enumerate(saved[key])}
                kept = good_values(items, dict.fromkeys(items, typing.get_args(kind)[0]))
                good |= {key: [*kept.values()]} if 0 < len(kept) < len(items) else {}
    return good


def good_config(saved: Json) -> Json:
    """What of the `saved` configuration of the engine can be used."""
    good = good_values(saved, CONFIG_FIELDS)
    return good | {key: good_values(good[key], PARAMETER_KINDS) for key in good.keys() & {"defaults"}}


def engine_values(config: Config, saved: Json) -> Json:
    """The engine's configuration in force: option before environment before what was `saved` before default."""
    fixed = {key: item for key in ("api_host", "api_port", "models_dirs") if (item := getattr(config, key)) is not None}
    values = {**ENGINE_DEFAULTS, "models_dirs": default_model_folders(), **good_config(saved), **fixed}
    return {**values, "models_dirs": list(map(str, values["models_dirs"]))}


def model_folders(config: Config, values: Json) -> list[Path]:
    """The model folders of these engine_values(), whether or not they exist, the one for downloads included."""
    return list(dict.fromkeys([*map(expanded, values["models_dirs"]), config.data_dir / "models"]))


def default_model_folders() -> list[Path]:
    """Where models usually are on a machine, whether or not these folders exist."""
    home = expanded("~")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or cache / "huggingface") / "hub")
    llama = Path(os.environ.get("LLAMA_CACHE") or
                 (home / "Library/Caches/llama.cpp" if sys.platform == "darwin" else cache / "llama.cpp"))
    folders = [home / "models", llama, hub, home / ".lmstudio/models", home / ".cache/lm-studio/models"]
    return [path for path in folders if path.parts[:1] != ("~",)]  # as it stays where the user has no home


def user_name() -> str:
    """Who runs this, or the number of a user whom the system does not know."""
    return readable(getpass.getuser) or str(os.getuid())


KEY_BYTES = 32  # 256 bits: beyond guessing
MIN_PASSWORD, MAX_PASSWORD = 8, 1024  # characters
SCRYPT = {"n": 2**15, "r": 8, "p": 1, "maxmem": 64 * 2**20}  # 32 MiB and about 200 ms a guess
FAILURES_ALLOWED = 5  # wrong keys or passwords from one address before it has to wait
FAILURE_PAUSE = 60.0  # seconds until an address may try again


class Access:
    """Who may connect: the access key of the data folder, a password, the sessions it opened."""

    def __init__(self, dash: Dash) -> None:
        self.dash = dash
        self.failures = Failures()
        self.hashing = asyncio.Lock()
        self.waiting: list[tuple[bool, int, float]] = []  # for it, in the order of their turns
        self.last_key = ""
        self.sessions_void = False  # whether those in the database have ended, but could not be deleted yet

    async def admit(self, credentials: Json, address: str) -> Json:
        """{session_id, session?} for good credentials; Unauthenticated or RateLimited for others."""
        if not self.dash.config.auth:
            return {"session_id": None}
        token, password = credentials.get("token"), credentials.get("password")
        if isinstance(token, str) and 0 < len(token) <= MAX_PASSWORD and encodable(token):
            if secrets.compare_digest(token.encode(), (await self.key()).encode()):  # also where one has to wait
                return {"session_id": "key"}
            if not self.sessions_void and (session_id := self.dash.db.find_session(token_hash(token))):
                return {"session_id": session_id}
        if not token and not password:
            raise Unauthenticated("Sign in with the access key or a password.")  # nothing was guessed
        if await self.guess(password, address):
            session = secrets.token_urlsafe(KEY_BYTES)
            return {"session_id": self.dash.db.add_session(token_hash(session), address, lifetime=30 * DAY),
                    "session": session}
        raise Unauthenticated("The access key, session or password is not valid.")

    async def guess(self, password: Any, address: str) -> bool:
        """Whether `password` is the right one; RateLimited where `address` has been wrong too often."""
        counted = counted_address(address)
        if wait := self.failures.wait(counted):
            raise RateLimited(f"Too many failed attempts: try again in {wait} seconds.", retryAfter=wait)
        self.failures.count(counted)
        if not isinstance(password, str) or not 0 < len(password) <= MAX_PASSWORD or not encodable(password):
            return False
        stored = self.dash.db.get_meta("password", {})
        good = await self.in_turn(counted, password_matches, password, stored)
        if not good or stored != self.dash.db.get_meta("password", {}):  # changed while this one waited
            return False
        self.failures.moments.pop(counted, None)
        return True

    async def in_turn(self, address: str, function: Callable[..., Result], *arguments: Any) -> Result:
        """What `function` returns, which hashes a password: one at a time, for each takes 32 MiB and 0.2 s.

        Where somebody has signed in from before goes first, then who has tried least often, of these who came last:
        neither many guesses of one address nor those of many addresses hold up whoever comes anew.
        """
        known = any(counted_address(row["address"]) == address for row in self.dash.db.sessions())
        place = not known, len(self.failures.moments.get(address, ())), -time.monotonic()
        bisect.insort(self.waiting, place)
        try:
            while True:
                async with self.hashing:
                    if self.waiting[0] == place:  # whoever gets the lock before their turn goes to its end
                        return await asyncio.to_thread(function, *arguments)
        finally:
            self.waiting.remove(place)

    async def key(self) -> str:
        """The access key as the file has it now: another process may have replaced it. One taken away is put back."""
        try:
            self.last_key = await self.dash.library.probes.call("access-key", functools.partial(
                access_key, self.dash.config.data_dir, known=self.last_key), FOLDER_LIMIT)
        except (OSError, Unreachable) as problem:
            if not self.last_key:
                raise
            if self.dash.log_limiter.is_new("access key", problem):
                log.warning("the access key cannot be read: %s", problem)
        return self.last_key


class Failures:
    """Which addresses have guessed wrong keys or passwords, and how long they have to wait for it."""

    def __init__(self) -> None:
        self.moments: dict[str, list[float]] = {}  # the last of each address, which failed longest ago first

    def wait(self, address: str) -> int:
        """Seconds until `address` may try again; 0 where it may."""
        moments = self.moments.get(address, [])
        return max(0, math.ceil(moments[0] + FAILURE_PAUSE - time.monotonic())) if moments[FAILURES_ALLOWED - 1:] else 0

    def count(self, address: str) -> None:
        """Remember that `address` failed just now."""
        self.moments[address] = [*self.moments.pop(address, []), time.monotonic()][-FAILURES_ALLOWED:]
        if len(self.moments) > 10_000:  # whose failures are remembered
            del self.moments[next(iter(self.moments))]


def without_waiting(path: str, flags: int) -> int:
    """An opener for open() that never waits for the writer of a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


def file_behind(path: str, flags: int) -> int:
    """An opener for open(): the file, also one that a link leads to, but no pipe or device, which may never answer."""
    descriptor = without_waiting(path, flags)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or (flags & (os.O_WRONLY | os.O_RDWR) and status.st_nlink > 1):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no file of its own", path)
    return descriptor


def plain_file(path: str, flags: int) -> int:
    """An opener for open(): the file itself, never what a link of any kind leads to, nor a pipe or a device."""
    if os.path.islink(path):  # where the system has no O_NOFOLLOW; elsewhere it says so in plainer words
        raise OSError(errno.ELOOP, "it is a link", path)
    return file_behind(path, flags | getattr(os, "O_NOFOLLOW", 0))


def write_privately(target: Path, content: str, like: os.stat_result | None = None) -> None:
    """Replace `target` by `content` in one step, readable by its owner only, or as the file that is `like` tells."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")  # 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if like:
            os.chmod(name, stat.S_IMODE(like.st_mode))
            give_to_owner(Path(name), like)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def give_to_owner(path: Path, like: os.stat_result) -> None:
    """Give a file that root made to the owner of what is `like` it: a service of theirs must be able to use it."""
    if hasattr(os, "chown") and os.geteuid() == 0:
        os.chown(path, like.st_uid, like.st_gid)


def access_key(data_dir: Path, *, new: bool = False, known: str = "") -> str:
    """The access key in `data_dir`; where there is none, or a `new` one is wanted, one is made if none is `known`."""
    path, key = data_dir / "access-key", ""
    with contextlib.suppress(FileNotFoundError), open(path, "rb", buffering=0, opener=without_waiting) as file:
        key = (file.read(MAX_TEXT) or b"").decode("ascii", "replace").strip()
    if new or len(key) < KEY_BYTES:
        key = known or secrets.token_urlsafe(KEY_BYTES)
        write_privately(path, f"{key}\n")
    return key


def token_hash(token: str) -> bytes:
    """What is stored of a session token, which is random enough to need no salt."""
    return hashlib.sha256(token.encode()).digest()


def hashed_password(password: str) -> Json:
    """{salt, hash} of a password, to be stored."""
    salt = secrets.token_bytes(16)
    return {"salt": salt.hex(), "hash": hashlib.scrypt(password.encode(), salt=salt, **SCRYPT).hex()}


def password_matches(password: str, stored: Json) -> bool:
    """Whether `password` is the stored one; takes as long where none is stored, or nobody can read it."""
    salt, kept = b"\0" * 16, b""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        salt, kept = bytes.fromhex(stored["salt"]), bytes.fromhex(stored["hash"])
    return secrets.compare_digest(hashlib.scrypt(password.encode(), salt=salt, **SCRYPT), kept)


@on("config:get", error="GET_CONFIG_FAILED")
async def config_get(dash: Dash) -> Json:
    """The engine's configuration with all that the page about it shows."""
    config = dash.engine_config
    roots = {path: dash.library.root(path) for path in model_folders(dash.config, config)}
    folders = [{"path": str(path), "exists": root not in dash.library.lost, "usual": path in default_model_folders(),
                "problem": dash.library.problem(root, inside=True)} for path, root in roots.items()]
    return {"config": config, "locked": dash.config.locked(),
            "restartRequired": not dash.gateway.applied.items() <= config.items(),
            "ini": render_presets(dash.db.models(), config["defaults"]),
            "parameters": [item.schema() for item in PARAMETERS.values()],
            "folders": folders, "skipped": dash.library.skipped,
            "llama_server": {"value": dash.config.llama_server, "fixed": "llama_server" in dash.config.fixed}}


@on("config:update", error="UPDATE_CONFIG_FAILED", cost=5)
async def config_update(dash: Dash, *, revision: int, changes: dict[str, Any]) -> Json:
    """Change the engine's configuration."""
    known = "|".join(map(re.escape, map(repr, dash.engine_config["models_dirs"])))  # which may be away
    changes = await dash.library.patiently(re.sub(known, "", str(changes)), checked_config, dash, changes, "changes")
    return await apply_config(dash, revision, changes)


@on("config:reset", error="RESET_CONFIG_FAILED", cost=5)
async def config_reset(dash: Dash, *, revision: int | None = None) -> Json:
    """Go back to the defaults."""
    return await apply_config(dash, revision, {}, reset=True)


def checked_config(dash: Dash, changes: Json, field: str) -> Json:
    """`changes` of the engine's configuration if all are acceptable; InvalidRequest names what is not, in `field`."""
    changes = checked_changes(changes, CONFIG_FIELDS, dash.config.locked(), field)
    if "models_dirs" in changes:
        for at, path in enumerate(changes["models_dirs"]):
            known = path in dash.engine_config["models_dirs"]  # which may be away for the moment
            if not (known or (expanded(path).is_absolute() and os.path.isdir(expanded(path)))):
                raise InvalidRequest(f"{path} is not the full path of a folder on this machine",
                                     field=f"{field}.models_dirs.{at}")
        changes["models_dirs"] = [str(expanded(path)) for path in changes["models_dirs"]]
    if not re.fullmatch(r"[A-Za-z0-9:][A-Za-z0-9.:_-]*", changes.get("api_host", "localhost")):
        raise InvalidRequest("api_host must be a host name or an address", field=f"{field}.api_host")
    if (name := changes.get("default_model")) and not dash.entry_of(name):
        raise InvalidRequest(f"There is no model {name}.", field=f"{field}.default_model")
    if (build := changes.get("build")) and build not in dash.builds.builds:
        raise InvalidRequest(f"There is no engine build {build}.", field=f"{field}.build")
    if "defaults" in changes:
        changes["defaults"] = validated_parameters(changes["defaults"], dash.folders(), f"{field}.defaults")
    return changes


async def apply_config(dash: Dash, revision: int | None, changes: Json, *, reset: bool = False) -> Json:
    """Save changes of the configuration, of this revision or the newest, let everything follow, and tell everybody."""
    before = dash.engine_config
    dash.db.save_config(before["revision"] if revision is None else revision, changes, before, reset=reset)
    dash.load_engine_config()
    dash.pool.sync()
    changed = sorted(key for key in before.keys() - {"revision"} if before[key] != dash.engine_config[key])
    if changed == ["build"] and dash.engine_config["build"]:
        dash.event("build", reason=f"{dash.engine_config['build']} is used")
    elif changed:
        dash.event("configuration", reason=", ".join(changed))
    if dash.engine_config["models_dirs"] != before["models_dirs"]:
        dash.spawn(dash.library.scan(), "scan")
    await dash.broadcast("config:updated", {"config": dash.engine_config})
    return await config_get(dash)


@on("settings:get", error="GET_SETTINGS_FAILED")
def settings_get(dash: Dash) -> Json:
    """What the user chose in Settings."""
    return {"settings": dash.settings}


@on("settings:update", error="UPDATE_SETTINGS_FAILED", cost=2)
async def settings_update(dash: Dash, *, changes: dict[str, Any]) -> Json:
    """Save settings, let everything follow them, and tell everybody."""
    changes = checked_changes(changes, SETTING_FIELDS, dash.config.locked())
    dash.db.set_meta("settings", {**dash.db.get_meta("settings", {}), **changes})
    before = dash.settings
    dash.load_settings()
    if changed := sorted(key for key in changes if before[key] != dash.settings[key]):
        dash.event("configuration", reason=", ".join(changed))
    log.setLevel(dash.settings["log_level"].upper())
    dash.sampler.changed.set()
    await dash.broadcast("settings:updated", {"settings": dash.settings})
    return {"settings": dash.settings}


@on("sessions:list", error="LIST_SESSIONS_FAILED")
async def sessions_list(dash: Dash, client: Client) -> Json:
    """Whether there is a password, and the browsers that are signed in with it; `current` is the one that asks."""
    return {"password": dash.features()["password"],
            "sessions": [{**row, "current": row["id"] == client.session_id} for row in dash.db.sessions()]}


@on("sessions:revoke", error="REVOKE_SESSION_FAILED", cost=5)
async def sessions_revoke(dash: Dash, *, id: Annotated[str, Length(1, 64)]) -> Json:
    """End one session; its sockets are closed with the next heartbeat."""
    if not dash.db.delete_sessions(id):
        raise NotFound("There is no such session.", field="id")
    dash.event("key", reason="A session was ended")
    return {"id": id}


@on("password:set", error="SET_PASSWORD_FAILED", cost=20)
async def password_set(dash: Dash, client: Client, *, password: Annotated[str, Length(0, MAX_PASSWORD)],
                       current: Annotated[str, Length(0, MAX_PASSWORD)] | None = None) -> Json:
    """Set the password, or take it away with an empty one; all other sessions end."""
    if 0 < len(password) < MIN_PASSWORD:
        raise InvalidRequest(f"password must have at least {MIN_PASSWORD} characters", field="password")
    needed = dash.db.get_meta("password", {}) and client.session_id not in (None, "key")  # which serves instead
    if needed and not await dash.access.guess(current, client.address):
        raise InvalidRequest("The current password is not right.", field="current")
    address = counted_address(client.address)
    dash.db.set_meta("password", await dash.access.in_turn(address, hashed_password, password) if password else None)
    dash.event("key", reason="The password was set" if password else "The password was removed")
    dash.db.delete_sessions(but=client.session_id)
    return {"password": bool(password)}


# -- Database -------------------------------------------------------------------------------------

DATABASE_NAME = "llama-dashboard.db"
BACKUPS_KEPT = 7  # daily backups: one week to notice that something went wrong; and as many that were asked for
BUSY_TIMEOUT = 5.0  # seconds to wait for another connection's lock, as a backup tool's
SCAN_ROWS = 200  # models written in one go: as long as that takes, whoever reads on the loop waits
PRUNE_ROWS = 5000  # rows deleted in one go: more would stall the writers
MAX_ROWS = {"requests": 1_000_000, "events": 2_000_000, "usage": 500_000, "benchmarks": 10_000}
MAX_SESSIONS = 1000  # of browsers, the newest
SORTED_ROWS = 50_000  # the newest requests, among which another order is looked for: more takes longer than one waits
LOGS_COUNTED, MAX_LOG_COUNTS = 200_000, 10_000  # of the newest log entries, for the same reason; in one answer
SPEED_STEP, SPEED_LEAST, SPEED_MOST = 1.03, 0.1, 1e6  # how exactly speeds are counted, and which ones (tokens/s)
RAW_KEPT = 2 * DAY  # how long every single sample is kept
CLOCK_JUMP = 60_000  # ms by which the clock may be set without being doubted; what is dated later than that is "future"
CLOCK_GAP = 3_600_000  # ms from one run to the next in which the clock need not be doubted
ROLL_UPS = (60_000, 600_000, 3_600_000)  # widths in ms of the averages kept for longer
MAX_GPUS = 8  # as many as have history columns
GPU_SERIES = ("utilization", "memory_used", "memory_total", "temperature", "power")
SERIES = (
    "cpu_usage", "memory_usage", "swap_usage", "disk_usage", "load_average", "memory_used",
    "network_received", "network_sent", "prompt_tokens_per_second", "generated_tokens_per_second",
    "requests_processing", "requests_deferred", "active_models", "process_cpu", "process_memory",
    *(f"gpu{index}_{name}" for index in range(MAX_GPUS) for name in GPU_SERIES),
)
CAPTURES_KEPT, MAX_CAPTURED = 1000, 2**20  # requests; bytes of what each sent, and as many of what it got
CAPTURE_HOURS = 72  # for which a model's requests are captured at most
TOKEN_KINDS = ("prompt", "cached", "generated")
TOKEN_COLUMNS = tuple(f"{kind}_tokens" for kind in TOKEN_KINDS)
RequestSort = Literal["timestamp", "duration", "waited", "first_token", "prompt_tokens", "generated_tokens",
                      "prompt_per_second", "generated_per_second"]
REQUEST_COLUMNS = (
    "id", "timestamp", "model", "build", "key", "client", "endpoint", "stream", "status", "code", "error", "waited",
    "loading", "first_token", "duration", "prompt_tokens", "cached_tokens", "generated_tokens", "drafted", "accepted",
    "prompt_per_second", "generated_per_second", "slot", "energy", "details",
)
USAGE_GROUPS = {"model": "model", "key": "key", "day": "day", "build": "model, build",
                "parameters": "model, build, parameters"}
USAGE_COLUMNS = (  # numbers of requests and tokens; tokens with a known speed, and their seconds; ms of work; J
    "requests", "prompt_tokens", "cached_tokens", "generated_tokens", "prompt_timed", "prompt_time",
    "generated_timed", "generated_time", "busy", "energy", "metered")  # metered: generated tokens whose energy is known
SPEED_COLUMNS = {"prompt_speeds": "prompt_per_second", "generated_speeds": "generated_per_second"}  # see speed_count
# SQL for what contains a text, whose % and _ mean themselves; and for what lists are filtered by, see where_all.
CONTAINS = "LIKE '%' || REPLACE(REPLACE(REPLACE(?, '!', '!!'), '%', '!%'), '_', '!_') || '%' ESCAPE '!'"
FILTERS = {**{name: f"{name} = ?" for name in ("model", "key", "status", "kind", "level", "source")},
           "from_ms": "timestamp >= ?", "to_ms": "timestamp < ?", "search": f"message {CONTAINS}"}
# What models come and leave by, as the index events_lives has it; pins are configuration, and an end is that of all.
LIVES = ("kind IN ('loading', 'loaded', 'unloaded', 'failed', 'crashed', 'waiting', 'unwanted', 'started', 'stopped', "
         "'configuration')")
PINS = "kind = 'configuration' AND details LIKE '%\"pinned\":%'"  # as the index events_pins has them
RARE = "kind IN ('cut', 'spilled', 'memory', 'build', 'backup', 'alert', 'download', 'key', 'schedule')"
EVENT_COLUMNS = ("id", "timestamp", "kind", "model", "reason", "details")
CLOCK_FIELDS: dict[str, Any] = {"sure": Timestamp, "since": Timestamp, "held": int, "doubt": str | None}
# Characters and messages of one conversation, which is sent in one piece; conversations, and characters of all.
CONVERSATION_LIMITS = (3_000_000, 2000, 10_000, 1_000_000_000)
# Every column of models: the default, and what else it may be.
MODEL_COLUMNS: dict[str, tuple[Any, Any]] = {
    **dict.fromkeys(("id", "name", "path", "source", "architecture", "size_label", "quantization", "license",
                     "tokenizer", "projector", "build"), (None, str | None)),
    **dict.fromkeys(("parameter_count", "file_size", "file_mtime", "context_length", "embedding_length", "block_count",
                     "head_count", "head_count_kv", "vocabulary_size", "expert_count", "expert_used_count",
                     "sliding_window", "key_length", "value_length", "projector_size", "created_at", "updated_at",
                     "idle", "last_used_at"), (None, Annotated[int, Range(0, 2**63)] | None)),
    **dict.fromkeys(("favorite", "missing", "chat_template", "pinned", "preferred"), (False, Timestamp | None)),
    "revision": (1, Timestamp), "last_speed": (None, float | None), "parameters": ({}, dict[str, Any]),
    "modalities": (["text"], list[str]), **dict.fromkeys(("shards", "aliases", "tags"), ([], list[str])),
    "hub": (None, dict[str, Any] | None),
    # Bytes: `gpu`, more than told; estimated, taken; the `ledger` has both of the last loads, and when each was.
    "memory_correction": (None, dict[str, Any] | None),
}
MODEL_DEFAULTS, MODEL_KINDS = ({name: item[at] for name, item in MODEL_COLUMNS.items()} for at in (0, 1))
JSON_COLUMNS = ("parameters", "modalities", "shards", "aliases", "tags", "hub", "memory_correction")


class DatabaseRefused(DashError):
    """The database was written by another llamadash, or cannot be brought to this version."""


class DatabaseDamaged(DashError):
    """The database holds what neither SQLite nor llamadash wrote."""
    code = "DATABASE_DAMAGED"


class DatabaseUnavailable(DashError):
    """The database cannot be read or written now, and nothing is known to be wrong with it."""
    code = "DATABASE_UNAVAILABLE"


class TrustedClock:
    """The least that the time must be, whatever the machine's clock says: what is deleted by age goes by this."""

    def __init__(self, saved: Json, newest: int) -> None:
        saved, self.wall, self.steady = good_values(saved, CLOCK_FIELDS), now_ms(), steady_ms()
        self.lock = threading.Lock()
        self.sure: int = min(self.wall, saved.get("sure", newest))  # goes on with `steady` until `wall` is believed
        if self.wall - self.sure < CLOCK_GAP:
            self.sure = self.wall
        self.since, self.held = saved.get("since", self.wall), saved.get("held", 0)  # when it was set, and how long it
        self.doubt: str | None = saved.get("doubt")                                  # has run since; the last jump
        if self.since > self.wall + CLOCK_JUMP:
            self.distrust(self.wall - self.since)

    def distrust(self, jump: int) -> None:
        """The machine's clock has jumped by so many ms."""
        self.since, self.held = self.wall, 0
        self.doubt = (f"This machine's clock jumped {'ahead' if jump > 0 else 'back'} by {abs(jump) / DAY:,.1f} days. "
                      "Nothing is deleted for its age until the clock has run evenly for a day.")
        log.warning("%s", self.doubt)

    def now(self) -> int:
        """The trusted time in ms, after a look at both clocks."""
        with self.lock:
            wall, steady = now_ms(), steady_ms()
            passed = steady - self.steady
            jump = wall - self.wall - passed
            self.wall, self.steady, self.sure = wall, steady, min(self.sure + passed, wall)
            self.since, self.held = self.since + passed, self.held + passed
            if abs(jump) > CLOCK_JUMP:
                self.distrust(jump)
            elif self.held > DAY:  # it has run without a jump for so long
                self.sure, self.since, self.held, self.doubt = max(self.sure, self.since), wall, 0, None
            return self.sure

    def saved(self) -> Json:
        """What the next start must know."""
        return {name: vars(self)[name] for name in CLOCK_FIELDS}


def run_script(db: sqlite3.Connection, script: str) -> None:
    """Execute several statements inside the present transaction, which `executescript` would end."""
    for statement in script.split(";"):
        db.execute(statement)


def m003_initial(db: sqlite3.Connection) -> None:
    """The tables of version 1.0.0."""
    series = ["cpu_usage", "memory_usage", "swap_usage", "disk_usage", "load_average", "memory_used",
              "network_received", "network_sent", "prompt_tokens_per_second", "generated_tokens_per_second",
              "requests_processing", "requests_deferred", "active_models", "process_cpu", "process_memory"]
    series += [f"gpu{gpu}_{name}" for gpu in range(8)
               for name in ("utilization", "memory_used", "memory_total", "temperature", "power")]
    run_script(db, """
        CREATE TABLE models (id TEXT PRIMARY KEY, name TEXT NOT NULL, path TEXT NOT NULL UNIQUE, source TEXT NOT NULL,
            favorite INTEGER NOT NULL, parameters TEXT NOT NULL, revision INTEGER NOT NULL, architecture TEXT,
            size_label TEXT, parameter_count INTEGER, quantization TEXT, file_size INTEGER, file_mtime INTEGER,
            context_length INTEGER, embedding_length INTEGER, block_count INTEGER, head_count INTEGER,
            head_count_kv INTEGER, vocabulary_size INTEGER, expert_count INTEGER, expert_used_count INTEGER,
            sliding_window INTEGER, key_length INTEGER, value_length INTEGER, license TEXT, tokenizer TEXT,
            chat_template INTEGER, modalities TEXT, shards TEXT, projector TEXT, projector_size INTEGER,
            missing INTEGER NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL);
        CREATE TABLE metrics (resolution INTEGER NOT NULL, timestamp INTEGER NOT NULL, samples INTEGER NOT NULL,
            SERIES, counts TEXT, PRIMARY KEY (resolution, timestamp));
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
        CREATE TABLE sessions (id TEXT PRIMARY KEY, token_hash BLOB NOT NULL UNIQUE, address TEXT,
            created_at INTEGER NOT NULL, used_at INTEGER NOT NULL, expires_at INTEGER NOT NULL)""".replace(
        "SERIES", ", ".join(f"{name} REAL, {name}_max REAL" for name in series)))


def m006_router(db: sqlite3.Connection) -> None:
    """What llamadash needs as the router; averages that are not complete will be made from their samples."""
    for table, columns in (
            ("models", "aliases TEXT NOT NULL DEFAULT '[]', build TEXT, pinned INTEGER NOT NULL DEFAULT 0, "
                       "preferred INTEGER NOT NULL DEFAULT 0, idle INTEGER, tags TEXT NOT NULL DEFAULT '[]', "
                       "last_used_at INTEGER, memory_correction TEXT, hub TEXT, last_speed REAL"),
            ("requests", "build TEXT, key TEXT, client TEXT, endpoint TEXT, stream INTEGER, "
                         "status TEXT NOT NULL DEFAULT 'ok', code, error TEXT, waited REAL, loading REAL, "
                         "first_token REAL, drafted INTEGER, accepted INTEGER, slot INTEGER, energy REAL, "
                         "details TEXT")):
        for column in columns.split(", "):
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    [models] = db.execute("SELECT sql FROM sqlite_master WHERE name = 'models'").fetchone()
    run_script(db, f"""
        CREATE TEMP TABLE old_models AS SELECT * FROM models;
        DROP TABLE models;
        {models.replace("UNIQUE", "")};
        INSERT INTO models SELECT * FROM old_models;
        DROP TABLE old_models;
        UPDATE models SET last_speed = (SELECT generated_per_second FROM requests
            WHERE model = models.id AND generated_per_second > 0 ORDER BY timestamp DESC LIMIT 1);
        DROP INDEX requests_model;
        CREATE INDEX requests_timestamp ON requests (timestamp);
        CREATE INDEX requests_model ON requests (model, timestamp);
        CREATE INDEX requests_key ON requests (key, timestamp);
        CREATE INDEX requests_status ON requests (status, timestamp);
        CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp INTEGER NOT NULL, kind TEXT NOT NULL,
            model TEXT, reason TEXT, details TEXT NOT NULL);
        CREATE INDEX events_timestamp ON events (timestamp);
        CREATE INDEX events_model ON events (model, timestamp);
        CREATE INDEX events_kind ON events (kind, timestamp);
        CREATE TABLE usage (day TEXT NOT NULL, model TEXT NOT NULL, build TEXT NOT NULL DEFAULT '',
            key TEXT NOT NULL DEFAULT '', status TEXT NOT NULL DEFAULT 'ok', requests INTEGER NOT NULL DEFAULT 0,
            prompt_tokens INTEGER NOT NULL DEFAULT 0, cached_tokens INTEGER NOT NULL DEFAULT 0,
            generated_tokens INTEGER NOT NULL DEFAULT 0, busy REAL NOT NULL DEFAULT 0, prompt_timed INTEGER,
            prompt_time REAL, generated_timed INTEGER, generated_time REAL, energy REAL, metered INTEGER,
            prompt_speeds BLOB, generated_speeds BLOB, PRIMARY KEY (day, model, build, key, status));
        INSERT INTO usage (day, model, requests, prompt_tokens, cached_tokens, generated_tokens)
            SELECT strftime('%Y-%m-%d', timestamp / 1000, 'unixepoch', 'localtime') AS date, model, COUNT(*),
            TOTAL(prompt_tokens), TOTAL(cached_tokens), TOTAL(generated_tokens) FROM requests GROUP BY date, model
            HAVING date IS NOT NULL;
        CREATE TABLE api_keys (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, hash BLOB NOT NULL UNIQUE,
            start TEXT NOT NULL, models TEXT, requests_per_minute INTEGER, created_at INTEGER NOT NULL,
            used_at INTEGER, revoked_at INTEGER);
        CREATE TABLE captures (id INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, model TEXT NOT NULL, client TEXT,
            endpoint TEXT, status TEXT, request TEXT NOT NULL, answer TEXT NOT NULL, prompt TEXT);
        CREATE TABLE conversations (id TEXT PRIMARY KEY, title TEXT NOT NULL DEFAULT '', head TEXT, deleted_at INTEGER,
            folder TEXT NOT NULL DEFAULT '', size INTEGER NOT NULL DEFAULT 0, details TEXT NOT NULL,
            created_at INTEGER NOT NULL DEFAULT (strftime('%s', 'now') * 1000), updated_at INTEGER NOT NULL);
        CREATE INDEX conversations_updated ON conversations (updated_at);
        CREATE TABLE messages (id TEXT PRIMARY KEY, conversation TEXT NOT NULL, parent TEXT, details TEXT NOT NULL,
            role TEXT NOT NULL DEFAULT 'user', status TEXT NOT NULL DEFAULT 'done', content TEXT NOT NULL DEFAULT '');
        CREATE INDEX messages_conversation ON messages (conversation);
        UPDATE server_config SET key = 'api_host' WHERE key = 'engine_host';
        UPDATE server_config SET key = 'api_port' WHERE key = 'engine_port';
        UPDATE server_config SET key = 'idle_seconds' WHERE key = 'sleep_idle_seconds';
        UPDATE server_config SET value = '0' WHERE key = 'idle_seconds' AND CAST(value AS INTEGER) < 0;
        DELETE FROM server_config WHERE key = 'models_autoload';
        DELETE FROM metrics WHERE resolution > 0 AND timestamp + resolution >
            (SELECT MAX(timestamp) FROM metrics WHERE resolution = 0)""")
    for id, text in db.execute("SELECT id, parameters FROM models").fetchall():
        db.execute("UPDATE models SET parameters = ?, pinned = ?, idle = ? WHERE id = ?", (*m006_parameters(text), id))
    for (text,) in db.execute("SELECT value FROM server_config WHERE key = 'defaults'").fetchall():
        parameters, _, idle = m006_parameters(text)
        db.execute("UPDATE server_config SET value = ? WHERE key = 'defaults'", (parameters,))
        if idle:
            db.execute("INSERT OR IGNORE INTO server_config (key, value) VALUES ('idle_seconds', ?)", (str(idle),))


def m006_parameters(text: str) -> tuple[str, bool, int | None]:
    """Saved parameters without the two that became fields, and those: (parameters, pinned, idle)."""
    try:
        parameters = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):  # it is not as we save it
        return text, False, None
    pinned, idle = parameters.pop("load-on-startup", False), parameters.pop("sleep-idle-seconds", None)
    return json.dumps(parameters), pinned is True, idle if type(idle) is int and idle > 0 else None


def m007_lives(db: sqlite3.Connection) -> None:
    """What models come and leave by is found at once, that of each model as well; so is what seldom happens."""
    lives = ("kind IN ('loading', 'loaded', 'unloaded', 'failed', 'crashed', 'waiting', 'unwanted', 'started', "
             "'stopped', 'configuration')")
    run_script(db, f"""
        DROP INDEX IF EXISTS events_lives;
        CREATE INDEX events_lives ON events (timestamp) WHERE {lives};
        CREATE INDEX events_model_lives ON events (model, timestamp) WHERE {lives}""")


def m008_parameters(db: sqlite3.Connection) -> None:
    """Usage is counted by what its model's process was started with as well; captures have HTTP's part of both."""
    [usage] = db.execute("SELECT sql FROM sqlite_master WHERE name = 'usage'").fetchone()
    key = "PRIMARY KEY (day, model, build, key, status"
    run_script(db, f"""
        ALTER TABLE usage RENAME TO old_usage;
        {usage.replace(key, f"parameters TEXT NOT NULL DEFAULT '', {key}, parameters")};
        INSERT INTO usage SELECT *, '' FROM old_usage;
        DROP TABLE old_usage;
        ALTER TABLE captures ADD COLUMN head TEXT;
        CREATE INDEX events_pins ON events (model, timestamp)
            WHERE kind = 'configuration' AND details LIKE '%"pinned":%';
        UPDATE models SET modalities = REPLACE(modalities, '"vision"', '"image"')""")


# A migration runs once, in a transaction of its own, and makes the format of its number; others were never released.
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {
    3: m003_initial, 6: m006_router, 7: m007_lives, 8: m008_parameters}
# SQLite's result codes for what the system refuses or the file is, by its words for them: Python 3.10 has only these.
SQLITE_TEXTS = {"permission denied": 3, "is locked": 5, "readonly": 8, "disk I/O error": 10, "malformed": 11,
                "is full": 13, "unable to open": 14, "locking protocol": 15, "large file support": 22,
                "authorization": 23, "not a database": 26}
SQLITE_BUSY, SQLITE_FULL, SQLITE_DAMAGE = (5, 6), 13, (11, 26)
DATABASE_FILES = ("", "-wal", "-shm", "-journal")  # endings of their names
LENIENT_TEXT = functools.partial(str, encoding="utf-8", errors="replace")  # one bad character costs no whole list
NO_LOCKS = (errno.ENOLCK, "No file locks, as on some network shares")
UNLOCKABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # what a file system says that has none
NO_MEMORY_MAPS = (errno.ENODEV, "No shared memory maps, as on some network shares")
FULL = {getattr(errno, "EDQUOT", -1): "the quota of disk space is used up", errno.ENOSPC: "the disk is full",
        errno.EFBIG: "a file would become larger than the disk or a limit (ulimit -f) allows"}
CHOOSE_LOCAL = "Check the disk or the share, or choose a local folder with --data-dir."
ADVICE = {errno.EMFILE: "Raise the limit of open files (ulimit -n).",
          errno.EACCES: "Change its owner, or run as another user.", errno.ENOENT: "", errno.EEXIST: ""}


def sqlite_code(problem: Exception) -> int:
    """SQLite's primary result code of an error, if it is one of SQLITE_TEXTS; else 0."""
    code = getattr(problem, "sqlite_errorcode", 0) & 0xFF
    texts = (number for text, number in SQLITE_TEXTS.items() if text in str(problem))
    return code if code in (*SQLITE_TEXTS.values(), *SQLITE_BUSY) else 0 if code else next(texts, 0)


def database_error(problem: Exception, what: str, path: Path) -> Exception:
    """What the user is told of a failure with the database at `path`, with its cause; `problem` where it is a bug."""
    if (code := sqlite_code(problem)) in SQLITE_DAMAGE:
        return DatabaseDamaged(str(problem))
    if not code and not isinstance(problem, OSError):
        return problem
    cause = problem if isinstance(problem, OSError) else storage_problem(path) or OSError(
        0, f"SQLite says: {problem} ({getattr(problem, 'sqlite_errorname', f'code {code}')})")
    if code == SQLITE_FULL or cause.errno in FULL:
        return StorageFull(f"{what}: {FULL.get(cause.errno or 0, FULL[errno.ENOSPC])}. Make room, and try again.")
    if code in SQLITE_BUSY and not cause.errno:
        return DashError(f"{what}: another program holds the database. Try again in a moment.", code="DATABASE_BUSY")
    place = str(cause.filename or path.parent)
    told = f"{what}: {cause.strerror}{'' if place in what else f' ({place})'}."
    kind = DatabaseRefused if (cause.errno, cause.strerror) in (NO_LOCKS, NO_MEMORY_MAPS) else DatabaseUnavailable
    return kind(f"{told} {ADVICE.get(cause.errno or 0, CHOOSE_LOCAL)}".rstrip())


def storage_problem(path: Path) -> OSError | None:
    """What fails in the folder of `path` of what SQLite does there, which has one word for many causes."""
    folder, means = str(path.parent), None
    try:
        with contextlib.ExitStack() as files:
            numbers = [files.enter_context(tempfile.TemporaryFile(dir=folder)).fileno() for _ in range(12)]  # at once
            os.ftruncate(numbers[0], files_size(Path(f"{path}-wal")) + 65_536)  # as its log grows
            os.write(numbers[0], bytes(4096))
            os.fsync(numbers[0])
            means = NO_LOCKS
            if hasattr(os, "lockf"):
                os.lockf(numbers[0], os.F_TLOCK, 1)
            means = NO_MEMORY_MAPS
            mmap.mmap(numbers[0], 4096).close()
    except OSError as problem:
        return OSError(*(means or (problem.errno, problem.strerror)), folder)
    for file in files_of(path):
        if not (os.path.isfile(file) and os.access(file, os.R_OK | os.W_OK)):
            return OSError(errno.EACCES, "Not a file that this user may read and write", file)
    return None


def files_of(path: Path) -> list[str]:
    """What is there of all that SQLite opens for the database at `path`."""
    return [file for suffix in DATABASE_FILES if os.path.lexists(file := f"{path}{suffix}")]


def files_at(path: Path) -> list[tuple[int, int] | None]:
    """Which files of a database are at `path` now, each by the numbers of its disk and of itself."""
    found = list[tuple[int, int] | None]()
    for suffix in DATABASE_FILES:
        try:
            status = os.stat(f"{path}{suffix}")
            found.append((status.st_dev, status.st_ino))
        except (FileNotFoundError, NotADirectoryError):  # what cannot be looked at now is not gone
            found.append(None)
    return found


def require_files(path: Path) -> None:
    """SQLite's error where any of a database's files is a pipe or a device, which SQLite would wait for."""
    if not all(map(os.path.isfile, files_of(path))):
        raise sqlite3.OperationalError("unable to open database file")


def stored(row: Json) -> Json:
    """A row as SQLite takes it: lists and objects are JSON."""
    return {name: json.dumps(value) if isinstance(value, dict | list) else value for name, value in row.items()}


def insert(db: sqlite3.Connection, table: str, row: Json, *, replace: bool = False) -> int:
    """Add a row, or put it in the place of the one with its key; its id."""
    return db.execute(f"INSERT {'OR REPLACE ' if replace else ''}INTO {table} ({', '.join(row)}) "
                      f"VALUES ({', '.join('?' * len(row))})", [*stored(row).values()]).lastrowid or 0


class Statements:
    """Transactions on one SQLite file by one connection, under a lock, and queries, also by one of each thread."""
    connection: sqlite3.Connection
    stay_in_place: Callable[[], None]  # sees that what was saved is found at `path`

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.notice: str | None = None  # what the user should know of the file
        self.model_rows: dict[str, Json] | None = None
        self.threads = threading.local()
        self.files: list[tuple[int, int] | None] = []  # those that are open, see files_at; none before all is good
        self.lost = ""  # why nothing may be saved any more
        self.marks = set[str]()  # one of which is in the file, since the first checkpoint

    @contextlib.contextmanager
    def explained(self, what: str = "The change was not saved", path: Path | None = None) -> Iterator[None]:
        """Let what SQLite and the system say be raised as a DashError with its cause; `what` says what failed."""
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as problem:
            error = database_error(problem, what, path or self.path)
            if error is problem:
                raise
            if self.files and isinstance(error, DatabaseDamaged):
                error = self.found_damaged(problem, what)
            raise error from problem

    def found_damaged(self, problem: Exception | str, what: str) -> Exception:
        """What to raise of a file that was good when it was opened; `notice` and the log tell of damage, once."""
        text = "The database is damaged. Restart llamadash: it restores the newest good backup."
        if self.notice != text:
            with self.explained(what):
                if is_good_database(self.path):  # SQLite calls it damaged after errors of the disk as well
                    return DatabaseUnavailable(f"{what}: SQLite says: {problem}. {CHOOSE_LOCAL}")
            self.notice = text
            log.error("%s (%s)", text, problem)
        return DatabaseDamaged(text)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The writing connection inside a transaction that any exception rolls back; see explained, stay_in_place."""
        if self.lost:
            raise DatabaseUnavailable(self.lost)
        with self.explained(), self.begun():
            try:
                yield self.connection
                self.connection.execute("COMMIT")
                self.stay_in_place()  # before anybody is told that it is saved
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                self.model_rows = None
                raise

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """Hold our lock and the file's. A thread that finds the file's taken lets others read while it tries again."""
        patient = threading.current_thread() is not threading.main_thread()
        ends = time.monotonic() + (BUSY_TIMEOUT if patient else 0)
        while True:
            with self.lock:
                try:
                    self.connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as problem:
                    if sqlite_code(problem) not in SQLITE_BUSY or time.monotonic() > ends:
                        raise
                else:
                    yield
                    return
            time.sleep(0.05)  # the event loop has its turn

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Json]:
        """The rows of a short query."""
        with self.lock, self.explained("The database cannot be read"):
            return [dict(row) for row in self.connection.execute(query, values)]

    def read(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows of a query that may take long, by a connection of the thread that asks."""
        with self.explained("The database cannot be read"):
            if not hasattr(self.threads, "connection"):
                self.threads.connection = read_only(self.path)
            return typing.cast(list[sqlite3.Row], self.threads.connection.execute(query, values).fetchall())

    def newest(self, table: str, columns: Sequence[str], wanted: Json, limit: int,
               after: tuple[int, int | str] | None = None) -> list[Json]:
        """The newest rows that meet `wanted`, after a row (timestamp, id); those from the future last; for threads."""
        late, until = now_ms() + CLOCK_JUMP, wanted.pop("to_ms", None) or 2**62
        ahead = after is not None and after[0] > late
        past = {"timestamp <= ?": min(late, until - 1, after[0] if after else late), "(timestamp, id) < (?, ?)": after}
        future = {"timestamp > ?": late, "(timestamp, id) < (?, ?)": after if ahead else None}
        found = list[Json]()
        for part in ([] if ahead else [past]) + ([future] if until > late - 2 * CLOCK_JUMP else []):
            where, values = where_all(wanted | part)
            found += map(dated, self.read(f"SELECT {', '.join(columns)} FROM {table} {where} ORDER BY timestamp DESC, "
                                          "rowid DESC LIMIT ?", [*values, limit - len(found)]))
        return found

    def get_meta(self, key: str, default: Any = None) -> Any:
        """A value of the metadata table, or `default` where it is absent or of another type than that."""
        rows = self.rows("SELECT key, value FROM metadata WHERE key = ?", (key,))
        return decoded(rows[0], "value", default) if rows else default

    def set_meta(self, key: str, value: Any) -> None:
        """Set a value of the metadata table; None deletes it."""
        with self.transaction() as db:
            db.execute("DELETE FROM metadata WHERE key = ?", (key,))
            if value is not None:
                insert(db, "metadata", {"key": key, "value": json.dumps(value)})

    def last_id(self, table: str) -> int:
        """The largest id that any row of a table ever had."""
        rows = self.rows("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))
        return rows[0]["seq"] if rows else 0


class DatabaseFile(Statements):
    """One SQLite file that is backed up, kept where it is and, by who holds its folder's lock, made and `repair`ed."""

    def __init__(self, path: Path | str, *, repair: bool = True) -> None:
        super().__init__(Path(path))
        self.backing_up = threading.RLock()
        with self.explained(f"{self.path} cannot be opened"):
            try:
                self.connection = self.connect(as_is=not repair)
            except DatabaseDamaged as problem:
                if not repair:
                    raise DatabaseDamaged(f"{self.path} is damaged or of another version: restart llamadash, "
                                          f"which sees to that ({problem})") from problem
                self.restore(problem)
                self.connection = self.connect()
            if repair:
                self.migrate()
                for left in self.backups(".part", ".part-journal"):  # by a kill during a backup
                    left.unlink(missing_ok=True)
            [row] = self.rows("SELECT MAX(timestamp) AS last FROM metrics WHERE resolution = 0 AND timestamp < ?",
                              (now_ms(),))
            self.ran_until: int = row["last"] or now_ms()
            self.clock = TrustedClock(self.get_meta("clock", {}), self.ran_until)
            self.files = files_at(self.path)

    def connect(self, *, as_is: bool = False) -> sqlite3.Connection:
        """A connection for one writer and many readers to the file, which may be new or old unless used `as_is`."""
        with contextlib.ExitStack() as failed, self.explained(f"{self.path} cannot be opened"):
            require_files(self.path)
            if not os.path.lexists(self.path) or not self.path.stat().st_size:
                if as_is or self.good_backup():  # else this is the first start
                    raise DatabaseDamaged("it is missing or empty")
                self.path.touch(mode=0o600)
            os.chmod(self.path, 0o600)
            connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
            failed.callback(connection.close)
            connection.row_factory, connection.text_factory = sqlite3.Row, LENIENT_TEXT
            connection.create_function("ADDED", 2, added, deterministic=True)
            self.check(connection, as_is)  # a file that is not ours may not change by one byte
            if not user_version(connection):
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table, or never
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA secure_delete = ON")  # nothing stays in backups that was deleted
            connection.execute("PRAGMA busy_timeout = 200")  # ms, in which the event loop and so everybody waits
            user_version(connection)  # the first look through the log: not every folder can have one
            failed.pop_all()
            return connection

    def check(self, connection: sqlite3.Connection, as_is: bool) -> None:
        """DatabaseDamaged where SQLite says so, it is empty or of another version; DatabaseRefused of none of ours."""
        if (found := user_version(connection)) > 0 and found not in MIGRATIONS:
            raise DatabaseRefused(f"{self.path} was written by a newer llamadash or an unreleased one (format {found}, "
                                 f"this one knows {max(MIGRATIONS)}): update llamadash, or use another --data-dir")
        damage = database_damage(connection)
        if not damage and (problem := database_problem(connection)):
            with contextlib.closing(read_only(self.path)) as last:  # whoever closes last, and may write, folds a log in
                user_version(last)
                connection.close()
            raise DatabaseRefused(f"{self.path} is left as it is: {problem}. Put one of llamadash's backups in its "
                                  "place, or use another --data-dir.")
        if not damage and not found and self.good_backup():
            damage = "there is nothing in it"
        if damage or (as_is and found != max(MIGRATIONS)):
            raise DatabaseDamaged(damage or "it is of another version")

    def migrate(self) -> None:
        """Run the migrations that this file has not seen, each in its own transaction after a backup."""
        found = user_version(self.connection)
        for number in [number for number in MIGRATIONS if number > found]:
            if found:
                self.backup(self.path.parent / f"backups/before-migration-{number}.db")
            try:
                with self.transaction() as db:
                    MIGRATIONS[number](db)
                    db.execute(f"PRAGMA user_version = {number}")
            except (sqlite3.Error, DatabaseDamaged) as problem:
                self.connection.close()
                raise DatabaseRefused(f"Migration {number} of {self.path} failed ({problem}): nothing was changed. "
                                      "Go back to the llamadash that you had, and report this.") from problem

    def backups(self, *endings: str) -> list[Path]:
        """The backups, newest first; those dated in the future last, for nobody knows when they were made."""
        folder, found = self.path.parent / "backups", list[Path]()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = [folder / name for name in os.listdir(folder) if name.endswith(endings or ".db")]
        dates = {path: round(1000 * path.stat().st_mtime) for path in found if path.is_file()}
        return sorted(dates, key=lambda path: (dates[path] <= now_ms() + CLOCK_JUMP, dates[path], path), reverse=True)

    def good_backup(self) -> Path | None:
        """The newest backup that can be restored; where there is none, what keeps one from being read is raised."""
        unread: Exception | None = None
        for path in self.backups():
            try:
                if is_good_database(path):
                    return path
            except sqlite3.Error as problem:
                unread = database_error(problem, f"{path} cannot be read", path)
        if unread:
            raise unread
        return None

    def backup(self, target: Path) -> int:
        """Write a consistent copy to `target`, if it is a good one, and return its size; safe while others write."""
        if os.path.realpath(target) in [os.path.realpath(f"{self.path}{suffix}") for suffix in DATABASE_FILES]:
            raise DashError(f"{target} is the database itself: choose another name.", code="BACKUP_FAILED")
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        what = f"The backup {target} could not be written"
        try:
            with self.explained(what, target):
                if target.parent == self.path.parent / "backups":
                    target.parent.mkdir(mode=0o700, exist_ok=True)
                partial.touch(mode=0o600, exist_ok=False)
                with self.backing_up, contextlib.closing(sqlite3.connect(self.path)) as source, \
                        contextlib.closing(sqlite3.connect(partial)) as copy:
                    source.backup(copy)
                    if ("captures", "id") in columns_of(copy) and copy.execute("SELECT id FROM captures").fetchone():
                        copy.executescript("DELETE FROM captures; VACUUM")
                    copy.execute("PRAGMA journal_mode = DELETE")
                if not is_good_database(partial):
                    raise self.found_damaged("a copy of it is damaged", what)
                os.replace(partial, target)
                return target.stat().st_size
        finally:
            for suffix in ("", "-journal"):
                with contextlib.suppress(OSError):
                    os.unlink(f"{partial}{suffix}")

    def daily_backup(self) -> Path | None:
        """Make today's backup if there is none yet; its path where it was made now."""
        name = f"daily-{time.strftime('%Y-%m-%d')}"
        return None if (self.path.parent / f"backups/{name}.db").exists() else self.kept_backup(name)[0]

    def manual_backup(self) -> tuple[Path, int]:
        """Make a backup with a name of its own: where it is, and its size."""
        return self.kept_backup(f"manual-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}")

    def kept_backup(self, name: str) -> tuple[Path, int]:
        """Make a backup, and only then delete all but the newest few of its kind, the name's first word."""
        with self.backing_up:
            target = self.path.parent / f"backups/{name}.db"
            size, kind = self.backup(target), f"{name.partition('-')[0]}-"
            certain = self.clock.now() > now_ms() - CLOCK_GAP and not self.clock.doubt  # which ones are the newest
            others = [path for path in self.backups() if path.name.startswith(kind)]
            for old in others[BACKUPS_KEPT if certain else 2 * BACKUPS_KEPT:]:
                old.unlink(missing_ok=True)
            return target, size

    def restore(self, problem: DatabaseDamaged) -> None:
        """Move a damaged file aside and put the newest good backup in its place; a start after a kill goes on."""
        good, copy = self.good_backup(), self.path.with_name(f".{self.path.name}.restored")
        if good:  # first of all: there may be no room for it
            copy.unlink(missing_ok=True)  # where it is a link, what that leads to stays as it is
            copy.touch(mode=0o600, exist_ok=False)
            shutil.copyfile(good, copy)
        aside = self.name_aside("damaged")
        for suffix in DATABASE_FILES:
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}{suffix}", f"{aside}{suffix}")
        if good:
            os.replace(copy, self.path)
        self.notice = f"The database was damaged ({problem})." + (
            f" It was moved to {aside.name}." if os.path.lexists(aside) else "") + (
            f" The backup {good.name} was restored." if good else " A new one was started: there was no good backup.")
        log.warning("%s", self.notice)

    def name_aside(self, why: str) -> Path:
        """A free name beside the database, which says why a file gets it."""
        return self.path.with_name(f"{self.path.name}.{why}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}")

    def stay_in_place(self) -> None:
        """Where the open files were taken away or replaced, write all that is known back to `path`, and say so."""
        with self.lock, self.explained(f"{self.path} was taken away and cannot be written again"):
            if not self.files:
                return
            if (found := files_at(self.path)) == self.files:
                self.require_log()
                return
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.files[0] and self.path.parent.stat().st_dev != self.files[0][0]:
                raise DatabaseUnavailable(f"{self.path.parent} is on another disk than when llamadash started.")
            copy = self.path.with_name(f".{self.path.name}.restored")
            copy.unlink(missing_ok=True)
            copy.touch(mode=0o600, exist_ok=False)
            with contextlib.closing(sqlite3.connect(copy)) as target:
                self.connection.backup(target)
                target.execute("PRAGMA journal_mode = DELETE")
            aside = self.name_aside("replaced")
            for suffix, ours, there in zip(DATABASE_FILES, self.files, found, strict=True):
                if there not in (None, ours):
                    os.replace(f"{self.path}{suffix}", f"{aside}{suffix}")
            os.replace(copy, self.path)
            for suffix in DATABASE_FILES[1:]:
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            self.connection.close()
            self.connection, self.threads = self.connect(), threading.local()
            self.files = files_at(self.path)
            self.notice = f"{self.path} was removed or replaced while llamadash was running: it was written again" + (
                f", and what lay there is now {aside.name}." if os.path.lexists(aside) else ".")
            log.error("%s", self.notice)

    def require_log(self) -> None:
        """End all saving where the write-ahead log was emptied in its place: what is appended to that nobody reads."""
        with open(f"{self.path}-wal", "rb", buffering=0, opener=without_waiting) as file:
            if file.read(4) == bytes(4):  # SQLite begins it with a number of its own
                self.lost = self.notice = (f"{self.path}-wal was emptied while llamadash ran: nothing is saved any "
                                           "more. Restart llamadash: it goes on with what is left.")
                log.error("%s", self.notice)
                raise DatabaseUnavailable(self.lost)

    def checkpoint(self) -> None:
        """Fold what is in the write-ahead log into the file, so that the log may be lost; holds nobody up."""
        mark = secrets.token_hex(8)
        self.marks |= {mark} if self.marks else set()  # before the first one is there, none need be
        self.set_meta("mark", mark)
        with self.explained(), contextlib.closing(sqlite3.connect(self.path)) as db:
            _, pages, folded = db.execute("PRAGMA wal_checkpoint").fetchone()  # both -1 where another one is under way
        if 0 < pages == folded:  # the file alone has all of it, and so this mark
            self.marks = {mark}

    def see_own_content(self) -> None:
        """End all saving where the file has other content than ours: what it held cannot be written again."""
        written = None
        while written != (now := os.stat(self.path).st_mtime_ns):  # by another program's checkpoint, or a copy, maybe
            with self.lock, self.explained(), not_ours(), contextlib.closing(
                    read_only(self.path, "&immutable=1")) as db:
                rows = db.execute("SELECT value FROM metadata WHERE key = 'mark'")
                if any(row["value"] == json.dumps(mark) for row in rows for mark in self.marks):
                    return
            written = now
            time.sleep(0.5)
        self.lost = self.notice = (f"{self.path} was overwritten while llamadash ran: nothing is saved any more. "
                                   "Restart llamadash: it goes on with what is there now.")
        log.error("%s", self.notice)
        log_file = f"{self.path}-wal"  # what it holds are parts of the file as it was
        with contextlib.suppress(OSError):
            shutil.copy(log_file, f"{self.name_aside('overwritten')}-wal")
        os.truncate(log_file, 0)

    def close(self) -> None:
        """Close the writing connection, folding the write-ahead log back into the file."""
        with self.lock:
            self.connection.close()


class ModelRows(DatabaseFile):
    """The models and their benchmarks."""

    def models(self) -> list[Json]:
        """Every model in the order of their names, whose case matters only beyond ASCII."""
        return sorted(map(dict, self.all_models().values()), key=lambda row: (row["name"].encode().lower(), row["id"]))

    def all_models(self) -> dict[str, Json]:
        """Every model by id, as they are kept in memory; read once, and again after a change that failed."""
        with self.lock:
            if self.model_rows is None:
                rows = self.rows(f"SELECT {', '.join(MODEL_COLUMNS)} FROM models")
                self.model_rows = {row["id"]: row for row in map(decoded_model, rows) if row["id"] and row["path"]}
            return self.model_rows

    def get_model(self, id: str) -> Json:
        """One model; NotFound where there is none."""
        if row := (self.model_rows or self.all_models()).get(id):
            return dict(row)
        raise NotFound(f"There is no model {id}.", field="id")

    def present_model(self, id: str) -> Json:
        """The model of this id, or NotFound; that says so, too, where its file is gone."""
        model = self.get_model(id)
        if model["missing"]:
            raise NotFound(f"The file of {id} is gone: {model['path']}")
        return model

    def write_models(self, new: Sequence[Json], changed: Sequence[Json], *, revised: bool = True) -> None:
        """Insert rows, and write the columns that each of `changed` has beside its id, `revised` by a person or not."""
        with self.transaction() as db:
            known, now = self.all_models(), now_ms()
            rows = [{**MODEL_DEFAULTS, "created_at": now, "updated_at": now, **row} for row in new]
            for row in rows:
                insert(db, "models", row)
            for row in changed:
                if old := known.get(row["id"]):
                    row = {**row, "updated_at": now, "revision": old["revision"] + 1} if revised else row
                    db.execute(f"UPDATE models SET {', '.join(f'{name} = ?' for name in row)} WHERE id = ?",
                               [*stored(row).values(), row["id"]])
                    rows.append({**old, **row})
            self.model_rows = known | {row["id"]: row for row in rows}

    def update_model(self, id: str, revision: int, changes: Json) -> Json:
        """Change a model; Conflict with the current row where `revision` is not the newest."""
        with self.lock:
            current = self.get_model(id)
            if current["revision"] != revision:
                raise Conflict(f"{current['name']} was changed by somebody else.", current=current)
            self.write_models([], [{**changes, "id": id}])
            return self.get_model(id)

    def note_of_models(self, column: str, values: Json) -> None:
        """Save a column that nobody edits, {id: value}: no revision is counted up."""
        self.write_models([], [{"id": id, column: value} for id, value in values.items()], revised=False)

    def delete_model(self, id: str) -> None:
        """Forget a model; NotFound where there is none."""
        self.get_model(id)
        with self.transaction() as db:
            db.execute("DELETE FROM models WHERE id = ?", (id,))
            self.model_rows = {other: row for other, row in self.all_models().items() if other != id}

    def apply_scan(self, new: list[Json], changed: list[Json], missing: list[str]) -> None:
        """Add, change and mark models as a scan found them, some hundred in one transaction: others want the lock."""
        changed = [*changed, *({"id": id, "missing": True} for id in missing)]
        for at in range(0, max(len(new), len(changed)), SCAN_ROWS):
            self.write_models(new[at:at + SCAN_ROWS], changed[at:at + SCAN_ROWS])

    def add_benchmark(self, benchmark: Json) -> Json:
        """Save one benchmark's result and return it with its id."""
        benchmark = {"timestamp": now_ms(), **benchmark}
        with self.transaction() as db:
            return {**benchmark, "id": insert(db, "benchmarks", {
                "timestamp": benchmark["timestamp"], "model": benchmark["model"], "result": benchmark})}

    def benchmarks(self, model: str) -> list[Json]:
        """The benchmarks of one model, newest first."""
        rows = self.rows("SELECT id, result FROM benchmarks WHERE model = ? ORDER BY id DESC LIMIT 50", (model,))
        return [{**result, "id": row["id"]} for row in rows if (result := decoded(row, "result", {}))]


class MetricRows(DatabaseFile):
    """Samples of the machine, and the averages of them that are kept for longer."""

    last_minute = -1  # of which a sample was saved

    def add_metrics(self, metrics: Json, timestamp: int | None = None) -> None:
        """Save one sample; the first one of a minute makes the averages that are complete by then."""
        values, timestamp = series_of(metrics), now_ms() if timestamp is None else timestamp
        with self.transaction() as db:
            insert(db, "metrics", {"resolution": 0, "timestamp": timestamp, "samples": 1, **values,
                                   **{f"{name}_max": value for name, value in values.items()}}, replace=True)
        self.series_seen.update(values)
        self.clock.now()  # a jump is noticed at the next sample
        if timestamp // ROLL_UPS[0] != self.last_minute:
            self.roll_up(timestamp)
            self.last_minute = timestamp // ROLL_UPS[0]

    def roll_up(self, until: int) -> None:
        """Make those averages of each width that are complete at `until` and not there yet, from the single samples."""
        until = min(until, self.clock.now()) if self.clock.doubt else until
        seen = [name for name in SERIES if name in self.series_seen]
        columns = "".join(f", {name}, {name}_max" for name in seen)
        averages = "".join(f", AVG({name}), MAX({name}_max)" for name in seen)
        with self.transaction() as db:
            for width in ROLL_UPS:
                end = until - until % width
                db.execute(f"INSERT OR IGNORE INTO metrics (resolution, timestamp, samples{columns}) "
                           f"SELECT ?, timestamp - timestamp % ? AS bucket, COUNT(*){averages} FROM metrics "
                           "WHERE resolution = 0 AND timestamp >= ? AND timestamp < ? GROUP BY bucket",
                           (width, width, self.rolled_up(width, end), end))

    def rolled_up(self, width: int, before: int) -> int:
        """The end of the last average of `width` ms that begins before `before`; later ones are yet to be made."""
        [row] = self.rows("SELECT COALESCE(MAX(timestamp) + ?, 0) AS end FROM metrics "
                          "WHERE resolution = ? AND timestamp < ?", (width, width, before))
        return int(row["end"])

    @functools.cached_property
    def series_seen(self) -> set[str]:
        """The series that ever had a value: few machines have MAX_GPUS, and an empty column costs time as well."""
        [row] = self.rows(f"SELECT {', '.join(f'COUNT({name}) AS {name}' for name in SERIES)} FROM metrics "
                          "WHERE resolution = ? OR (resolution = 0 AND timestamp >= ?)",
                          (ROLL_UPS[-1], self.rolled_up(ROLL_UPS[-1], now_ms())))
        return {name for name, count in row.items() if count}

    def metrics_history(self, from_ms: int, to_ms: int, points: int, series: Sequence[str] | None = None,
                        *, interval: float = 10.0, minutes_kept: int = 30 * DAY) -> Json:
        """{from, to, bucket (ms), timestamps: [ms], series: {name: {avg: [], max: []}}}, null in gaps; for threads.

        There are at most `points` buckets, none narrower than `interval`, the seconds between samples.
        """
        wanted = [name for name in SERIES if name in (self.series_seen if series is None else series)]
        ideal = max((to_ms - from_ms) / max(points - 1, 1), interval * 1000)
        age = now_ms() - from_ms
        finest = 0 if age <= min(RAW_KEPT, minutes_kept) else ROLL_UPS[0] if age <= minutes_kept else ROLL_UPS[1]
        width = max(finest, *(width for width in (0, *ROLL_UPS) if width <= ideal))  # of the averages; 0: samples
        bucket = math.ceil(ideal / (width or 1000)) * (width or 1000)
        rows = self.buckets(wanted, width, bucket, from_ms - from_ms % bucket, to_ms)[-points:]
        times, *lists = map(list, zip(*rows, strict=True)) if rows else [[] for _ in range(1 + 2 * len(wanted))]
        found = {name: {"avg": lists[2 * at], "max": lists[2 * at + 1]} for at, name in enumerate(wanted)
                 if series is not None or any(value is not None for value in lists[2 * at])}
        return {"from": from_ms, "to": to_ms, "bucket": bucket, "timestamps": times, "series": found}

    def buckets(self, series: list[str], width: int, bucket: int, from_ms: int, to_ms: int) -> list[tuple[Any, ...]]:
        """(start, average, maximum, …) of each bucket: from averages of `width`, then the samples since."""
        columns = "".join(f", {name}, {name}_max" for name in series)
        averages = "".join(f", SUM({name} * samples) / SUM(CASE WHEN {name} IS NOT NULL THEN samples END), "
                           f"MAX({name}_max)" for name in series)
        part = (f"SELECT timestamp, samples{columns} FROM metrics "
                "WHERE resolution = ? AND timestamp >= ? AND timestamp < ?")
        samples = max(from_ms, self.rolled_up(width, to_ms)) if width else from_ms
        rows = list[tuple[Any, ...]]()
        for row in self.read(f"SELECT timestamp - timestamp % ? AS bucket{averages} FROM ({part} UNION ALL {part}) "
                             "GROUP BY bucket ORDER BY bucket",
                             (bucket, width, from_ms, min(samples, to_ms), 0, samples, to_ms)):
            if rows and row[0] - rows[-1][0] > 3 * bucket:  # a gap
                rows.append((rows[-1][0] + bucket, *[None] * (len(row) - 1)))
            rows.append(tuple(row))
        return rows


class RequestRows(DatabaseFile):
    """The finished requests, what they add up to, and the events of models."""

    def add_requests(self, rows: list[Json]) -> None:
        """Save finished requests, each with the id that it was given, and count them in `usage`."""
        rows = [stored({**dict.fromkeys(REQUEST_COLUMNS), "status": "ok", **row}) for row in rows]
        speeds = [{**row, **{name: speed_count(row[column]) for name, column in SPEED_COLUMNS.items()},
                   "status": "speeds", **place} for row in rows for place in (
                      {"key": None}, {"counted_as": "", "build": None, "parameters": None})
                  if row["prompt_per_second"] or row["generated_per_second"]]
        with self.transaction() as db:
            db.executemany(f"INSERT INTO requests ({', '.join(REQUEST_COLUMNS)}) "
                           f"VALUES ({', '.join(f':{name}' for name in REQUEST_COLUMNS)})", rows)
            self.count_usage(db, usage_values(":"), rows)
            self.count_usage(db, {name: f":{name}" for name in SPEED_COLUMNS}, speeds)

    @staticmethod
    def count_usage(db: sqlite3.Connection, values: dict[str, str], rows: list[Json]) -> None:
        """Add `values`, expressions by column, of each of `rows` to `usage`."""
        rows = [{"counted_as": row["model"], **dict.fromkeys(("build", "parameters", "key")), **row,
                 "day": day_of(row["timestamp"])} for row in rows]
        sums = (f"{name} = ADDED({name}, excluded.{name})" for name in values)
        db.executemany(
            f"INSERT INTO usage (day, model, build, parameters, key, status, {', '.join(values)}) VALUES (:day, "
            ":counted_as, COALESCE(:build, ''), COALESCE(:parameters, ''), COALESCE(:key, ''), :status, "
            f"{', '.join(values.values())}) "
            f"ON CONFLICT DO UPDATE SET {', '.join(sums)}", rows)

    def add_energy(self, rows: list[Json]) -> None:
        """Count energy (J) that has become known, of finished requests, or with the status `idle` of a model in memory.

        A row is as for add_requests, with `energy` and with `metered`, the tokens that had no energy before.
        """
        with self.transaction() as db:
            db.executemany("UPDATE requests SET energy = COALESCE(energy, 0) + :energy WHERE id = :id",
                           [row for row in rows if "id" in row])
            self.count_usage(db, {"energy": ":energy", "metered": ":metered"}, rows)

    def requests(self, *, sort: RequestSort = "timestamp", before: int | None = None, limit: int = 50,
                 **filters: Any) -> list[Json]:
        """Finished requests that meet some FILTERS, the largest `sort` first, after the row `before`; for threads.

        Those with an unknown value come last, and by time those from the future, which have `future`.
        """
        last = next((row[0] for row in self.read(f"SELECT {sort} FROM requests WHERE id = ?", (before,))), None)
        if sort == "timestamp":
            after = None if before is None else (last or 0, before)
            if filters.get("status") == "ok":  # as most are: others' indexes leave fewer
                filters["+status = ?"] = filters.pop("status")
            rows = self.newest("requests", REQUEST_COLUMNS, filters, limit, after)
        else:
            filters = {f"+{FILTERS[name]}": value for name, value in filters.items()}  # +: by no index but that of ids
            filters["id > ?"] = self.last_id("requests") - SORTED_ROWS
            if before is not None:
                filters |= ({f"{sort} IS NULL AND id < ?": before} if last is None else
                            {f"(({sort}, id) < (?, ?) OR {sort} IS NULL)": (last, before)})
            (where, values), order = where_all(filters), f"ORDER BY {sort} DESC, id DESC"
            ids = f"SELECT id FROM requests {where} {order} LIMIT ?"
            rows = [dated(row) for row in self.read(f"SELECT {', '.join(REQUEST_COLUMNS)} FROM requests "
                                                    f"WHERE id IN ({ids}) {order}", [*values, limit])]
        return [{**row, "stream": None if row["stream"] is None else bool(row["stream"]),
                 "details": row["details"] and decoded(row, "details", {})} for row in rows]

    def request_summary(self, *, from_ms: int | None = None, to_ms: int | None = None, **filters: Any) -> Json:
        """{count, ok, failed, cancelled, …_tokens, …_per_second, throughput} of those that meet the filters.

        Speeds are tokens over busy time, without cached ones; `throughput` is those generated in a second of all time.
        """
        since, until = from_ms or 0, min(now_ms() + CLOCK_JUMP, 2**62 if to_ms is None else to_ms)
        days = next_midnight(since), next_midnight(until if until > now_ms() else until - DAY)  # whole ones: in usage
        spans = [(since, days[0]), (days[1], until)] if days[0] < days[1] else [(since, until)]
        parts: list[tuple[str, dict[str, str], Json]] = [
            ("requests", usage_values(), {"from_ms": begin, "to_ms": end}) for begin, end in spans]
        if len(spans) > 1:
            parts.append(("usage", dict(zip(USAGE_COLUMNS, USAGE_COLUMNS, strict=True)),
                          {"day >= ?": day_of(days[0]), "day < ?": day_of(days[1])}))
        found = list[sqlite3.Row]()
        for table, made, conditions in parts:
            where, values = where_all(conditions | filters)
            sums = ", ".join(f"SUM({made[name]}) AS {name}" for name in USAGE_COLUMNS[:8])  # all but work and energy
            found += self.read(f"SELECT status, {sums} FROM {table} {where} GROUP BY status", values)
        total: dict[str, Any] = {name: sum(row[name] or 0 for row in found) for name in USAGE_COLUMNS[:8]}
        span = min(until, now_ms()) - from_ms if total["requests"] and from_ms is not None else 0
        return {"count": total["requests"], **{name: total[name] for name in TOKEN_COLUMNS},
                **{status: sum(row["requests"] for row in found if row["status"] == status)
                   for status in ("ok", "failed", "cancelled")},
                **{f"{kind}_per_second": total[f"{kind}_timed"] / (total[f"{kind}_time"] or math.inf) or None
                   for kind in ("prompt", "generated")},
                "throughput": 1000 * total["generated_tokens"] / span if span > 0 else None}

    def usage(self, from_ms: int, to_ms: int, by: str) -> tuple[list[Json], Json]:
        """What was used on the days between two times, by one of USAGE_GROUPS, and in all; in a thread, too.

        A row is {model|key|day, build?, parameters?, requests, errors, …_tokens, busy (ms), …_speeds ([median, 95th
        percentile]), energy, idle_energy (while there were no requests), energy_per_1000 (J)}; days come in their
        order, else those with the most generated tokens first.
        """
        group, days = USAGE_GROUPS[by], (day_of(from_ms), day_of(to_ms))
        names, part = group.split(", "), "FROM usage WHERE day BETWEEN ? AND ? AND status"
        counts = {**{name: f"SUM({name})" for name in ("requests", *TOKEN_COLUMNS, "busy")},
                  "errors": "SUM(requests * (status = 'failed'))"}
        joules = {"energy": "SUM(energy) FILTER (WHERE status != 'idle')", "metered": "SUM(metered)",
                  "idle_energy": "SUM(energy) FILTER (WHERE status = 'idle')"}
        sums = ", ".join(f"{value} AS {name}" for name, value in (counts | joules).items())
        found = {tuple(row)[:len(names)]: {**dict(row), **dict.fromkeys(SPEED_COLUMNS, 0)} for row in self.read(
            f"SELECT {group}, {sums} {part} != 'speeds' GROUP BY {group} "
            f"ORDER BY {'day' if by == 'day' else 'SUM(generated_tokens) DESC'}", days)}
        for *place, prompt, generated in self.read(f"SELECT {group}, {', '.join(SPEED_COLUMNS)} {part} = 'speeds' AND "
                                                   f"model {'=' if by == 'key' else '!='} ''", days):
            if row := found.get(tuple(place)):
                row["prompt_speeds"] += int.from_bytes(prompt or b"", "little")
                row["generated_speeds"] += int.from_bytes(generated or b"", "little")
        total = {name: functools.reduce(added, [row[name] for row in found.values()], None if name in joules else 0)
                 for name in (*counts, *joules, *SPEED_COLUMNS)}
        rows = [usage_row({**row, **{name: row[name] or None for name in names}}) for row in found.values()]
        if by == "key":  # models that are idle are so for nobody
            rows = [{**row, "idle_energy": None} for row in rows if row["requests"]]
        return rows, usage_row(total)

    def add_events(self, rows: list[Json]) -> list[Json]:
        """Save events {timestamp, kind, model?, reason?, details?} and return them with their ids."""
        rows = [{"model": None, "reason": None, **row, "details": row.get("details") or {}} for row in rows]
        with self.transaction() as db:
            return [{**row, "id": insert(db, "events", row)} for row in rows]

    def events(self, from_ms: int, to_ms: int, model: str | None = None, limit: int = 1000,
               kind: str | None = None, *, lives: bool = False, rare: bool = False) -> list[Json]:
        """The newest events between two times, up to now those from the future as well, last; for threads."""
        wanted = {"from_ms": from_ms, "to_ms": to_ms, "model": model, "kind": kind, LIVES: () if lives else None,
                  RARE: () if rare else None}
        index = "model_lives" if lives and model else "lives" if lives else "kind" if rare else ""
        index = f" INDEXED BY events_{index}" if index else ""
        rows = self.newest(f"events{index}", EVENT_COLUMNS, wanted, limit)
        return [{**row, "details": decoded(row, "details", {})} for row in rows]

    def events_around(self, from_ms: int, to_ms: int) -> list[Json]:
        """What each model was last before a time and is first from another one on, and its pin so; for threads."""
        lives = f"events INDEXED BY events_model_lives WHERE {LIVES}"
        kinds = f"{lives} AND kind != 'configuration'", f"events WHERE {PINS}"
        nearest = " UNION ALL ".join(f"""
            SELECT (SELECT id FROM {part} AND model IS names.model
                    AND timestamp {side} ? ORDER BY timestamp {order}, id {order} LIMIT 1) FROM names"""
                                 for part in kinds for side, order in (("<", "DESC"), (">=", "ASC")))
        rows = self.read(f"""
            WITH RECURSIVE names (model) AS (SELECT MIN(model) FROM {lives} UNION ALL
                SELECT (SELECT MIN(model) FROM {lives} AND model > names.model) FROM names
                WHERE names.model IS NOT NULL)
            SELECT {', '.join(EVENT_COLUMNS)} FROM events WHERE id IN ({nearest})""", (from_ms, to_ms) * 2)
        return [{**dict(row), "details": decoded(dict(row), "details", {})} for row in rows]

    def add_capture(self, row: Json) -> None:
        """Save what a client sent and got; the oldest, beyond CAPTURES_KEPT, go."""
        with self.transaction() as db:
            insert(db, "captures", row, replace=True)
            db.execute("DELETE FROM captures WHERE id <= (SELECT id FROM captures ORDER BY id DESC "
                       "LIMIT 1 OFFSET ?)", (CAPTURES_KEPT,))

    def captures(self, limit: int) -> list[Json]:
        """The newest captures without their texts, but with their lengths; may be called from a thread."""
        lengths = ", ".join(f"LENGTH({name}) AS {name}" for name in ("request", "answer", "prompt", "head"))
        return list(map(dated, self.read(f"SELECT id, timestamp, model, client, endpoint, status, {lengths} "
                                         "FROM captures ORDER BY id DESC LIMIT ?", (limit,))))


class AccessRows(DatabaseFile):
    """The sessions of browsers and the keys of clients; of both only hashes are kept."""

    def sessions(self) -> list[Json]:
        """The sessions that have not expired by the trusted time, newest first, without their tokens' hashes."""
        return self.rows("SELECT id, address, created_at, used_at, expires_at FROM sessions "
                         "WHERE expires_at > ? ORDER BY created_at DESC", (self.clock.now(),))

    def add_session(self, token_hash: bytes, address: str, lifetime: int) -> str:
        """Save a session of `lifetime` ms and return its id."""
        id, now = secrets.token_hex(8), self.clock.now()
        with self.transaction() as db:
            insert(db, "sessions", {"id": id, "token_hash": token_hash, "address": address, "created_at": now,
                                    "used_at": now, "expires_at": now + lifetime})
            db.execute("DELETE FROM sessions WHERE rowid <= (SELECT MAX(rowid) FROM sessions) - ?", (MAX_SESSIONS,))
        return id

    def find_session(self, token_hash: bytes) -> str | None:
        """The id of the live session whose token has this hash, marked as used now."""
        now = self.clock.now()
        rows = self.rows("SELECT id FROM sessions WHERE token_hash = ? AND expires_at > ?", (token_hash, now))
        for row in rows:
            with contextlib.suppress(DashError), self.transaction() as db:  # a full disk must not lock anybody out
                db.execute("UPDATE sessions SET used_at = ? WHERE id = ?", (now, row["id"]))
        return rows[0]["id"] if rows else None

    def delete_sessions(self, id: str | None = None, *, but: str | None = None) -> int:
        """End one session, or all `but` one, and return how many there were."""
        with self.transaction() as db:
            return db.execute("DELETE FROM sessions WHERE id = COALESCE(?, id) AND id IS NOT ?", (id, but)).rowcount

    def api_keys(self, condition: str = "1", values: Sequence[Any] = ()) -> list[Json]:
        """The keys, newest first, also those revoked: {id, name, start, models, requests_per_minute, …_at}."""
        rows = self.rows("SELECT id, name, start, models, requests_per_minute, created_at, used_at, revoked_at "
                         f"FROM api_keys WHERE {condition} ORDER BY id DESC", values)
        return [{**row, "models": None if row["models"] is None else decoded(row, "models", []),
                 "requests_per_minute": int(limit) if is_amount(limit) else None}
                for row in rows for limit in [row["requests_per_minute"]]]

    def find_api_key(self, hash: bytes) -> Json | None:
        """The key that has this hash and is not revoked."""
        return next(iter(self.api_keys("hash = ? AND revoked_at IS NULL", (hash,))), None)

    def add_api_key(self, name: str, hash: bytes, start: str, models: list[str] | None = None,
                    requests_per_minute: int | None = None) -> Json:
        """Save a key by its hash and the first characters of its text."""
        with self.transaction() as db:
            id = insert(db, "api_keys", {"name": name, "hash": hash, "start": start, "models": models,
                                         "requests_per_minute": requests_per_minute, "created_at": now_ms()})
        return self.api_keys("id = ?", (id,))[0]

    def revoke_api_key(self, id: int) -> Json:
        """Let a key be valid no longer; NotFound where there is none."""
        with self.transaction() as db:
            db.execute("UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ?", (now_ms(), id))
        if found := self.api_keys("id = ?", (id,)):
            return found[0]
        raise NotFound(f"There is no key {id}.", field="id")

    def touch_api_keys(self, used: dict[int, int]) -> None:
        """Save when keys were last used, {id: ms}."""
        with self.transaction() as db:
            db.executemany("UPDATE api_keys SET used_at = ? WHERE id = ?", [(at, id) for id, at in used.items()])


class ConversationRows(DatabaseFile):
    """Conversations and their messages."""

    def conversations(self, search: str, before: int | None, limit: int, folder: str | None = None) -> list[Json]:
        """Summaries, the last changed first, in which each word of `search` is found; may be called from a thread."""
        where, values = "deleted_at IS NULL", list[str]()
        for word in search.split()[:8]:  # beyond ASCII, LIKE knows no case
            spellings = [word] if word.isascii() else [word, word.lower(), word.upper(), word.title()]
            title, content = (" OR ".join([f"{name} {CONTAINS}"] * len(spellings)) for name in ("title", "content"))
            where += f" AND ({title} OR id IN (SELECT conversation FROM messages WHERE {content}))"
            values += 2 * spellings
        columns = ("id", "title", "folder", "size", "created_at", "updated_at", "updated_at AS timestamp")
        wanted = {where: (*values,), "folder = ?": folder}
        return self.newest("conversations", columns, wanted, limit, (before, "") if before else None)

    def folders(self) -> list[str]:
        """Those that conversations are in; may be called from a thread."""
        return [row[0] for row in self.read("SELECT DISTINCT folder FROM conversations WHERE deleted_at IS NULL "
                                            "ORDER BY folder", ()) if row[0]]

    def conversation(self, id: str) -> Json:
        """One conversation with its messages, the oldest first, also where it was deleted of late; else NotFound."""
        messages = self.rows("SELECT * FROM messages WHERE conversation = ? ORDER BY rowid", (id,))
        for row in self.rows("SELECT * FROM conversations WHERE id = ?", (id,)):
            return {**with_details(row), "messages": list(map(with_details, messages))}
        raise NotFound("This conversation no longer exists.", field="id")

    def save_conversation(self, id: str, changes: Json, messages: Iterable[Json], *, limited: bool = True) -> None:
        """Make or change a conversation and messages of it; StorageFull beyond CONVERSATION_LIMITS."""
        with self.transaction() as db:
            write_details(db, "conversations", {"updated_at": now_ms(), **changes, "id": id})
            for message in messages:
                write_details(db, "messages", {**message, "conversation": id})
            own = db.execute("SELECT TOTAL(LENGTH(content) + LENGTH(details)), COUNT(*) FROM messages "
                             "WHERE conversation = ?", (id,)).fetchone()
            db.execute("UPDATE conversations SET size = ? WHERE id = ?", (own[0], id))
            every = db.execute("SELECT COUNT(*), SUM(size) FROM conversations").fetchone()
            if limited and any(has > may for has, may in zip((*own, *every), CONVERSATION_LIMITS, strict=True)):
                raise StorageFull("There is no room for this. Start a new conversation, or delete old ones.")

    def votes(self, model: str) -> Json:
        """Of how many comparisons with a vote an answer of `model` was part, and in how many it was the best one."""
        rows = self.read("SELECT id, details FROM messages WHERE details LIKE '%\"compare\"%'", ())
        answers = [decoded(dict(row), "details", {}) for row in rows]
        voted = {answer.get("compare"): answer.get("model") for answer in answers if answer.get("vote")}
        part = {answer.get("compare") for answer in answers if answer.get("model") == model} & voted.keys()
        return {"best": sum(voted[compare] == model for compare in part), "of": len(part)}

    def attachments(self) -> set[str]:
        """The hashes that messages name; may be called from a thread."""
        rows = self.read("SELECT id, details FROM messages WHERE details LIKE '%\"attachments\"%'", ())
        return {str(item.get("hash")) for row in rows for item in decoded(dict(row), "details", {})["attachments"]}


def with_details(row: Json) -> Json:
    """A row with what has no column of its own, which its column `details` holds."""
    return {**decoded(row, "details", {}), **{key: row[key] for key in row if key != "details"}}


def write_details(db: sqlite3.Connection, table: str, row: Json) -> None:
    """Make the row of this id, or change what is given of it; what has no column of its own is kept in `details`."""
    found = db.execute(f"SELECT * FROM {table} WHERE id = ?", (row["id"],))
    new = {**(with_details(dict(old)) if (old := found.fetchone()) else {}), **row}
    own = {key: new.pop(key) for key, *_ in found.description if key in new} | {"details": json.dumps(new)}
    db.execute(f"INSERT INTO {table} ({', '.join(own)}) VALUES ({', '.join('?' * len(own))}) ON CONFLICT (id) DO "
               f"UPDATE SET {', '.join(f'{key} = excluded.{key}' for key in own)}", [*own.values()])


class Database(ModelRows, MetricRows, RequestRows, AccessRows, ConversationRows):
    """Everything that llamadash remembers."""

    # logs

    def add_logs(self, entries: list[Json]) -> None:
        """Save log entries {id, timestamp, level, source, message} in one transaction."""
        with self.transaction() as db:
            db.executemany("INSERT INTO logs (id, timestamp, level, source, message) "
                           "VALUES (:id, :timestamp, :level, :source, :message)", entries)

    def logs(self, *, level: str | None = None, before: int | None = None, after: int | None = None, limit: int = 100,
             **filters: Any) -> tuple[list[Json], bool]:
        """The newest entries of a level and above, or the first `after` an id, newest first; more? For threads."""
        rows, order = list[sqlite3.Row](), "DESC" if after is None else "ASC"
        for one in LOG_LEVELS[LOG_LEVELS.index(level):] if level else [None]:  # each by its index
            where, values = where_all({"level": one, "id < ?": before, "id > ?": after, **filters})
            rows += self.read(f"SELECT id, timestamp, level, source, message FROM logs {where} "
                              f"ORDER BY id {order} LIMIT ?", [*values, limit + 1])
        rows.sort(key=lambda row: row["id"], reverse=after is None)
        return sorted(map(dated, rows[:limit]), key=lambda row: row["id"], reverse=True), len(rows) > limit

    def log_counts(self, parts: int, **filters: Any) -> Json:
        """{from, bucket (ms), counts: [[at, level, source, count, first id]]} of the newest entries; for threads."""
        where, values = where_all({**filters, "id > ?": self.last_id("logs") - LOGS_COUNTED,
                                   "timestamp <= ?": now_ms() + CLOCK_JUMP})
        (first, last), = self.read(f"SELECT MIN(timestamp), MAX(timestamp) FROM logs {where}", values)
        width = max(1, math.ceil(((last or 0) - (first or 0) + 1) / parts))
        rows = self.read(f"SELECT (timestamp - ?) / ? AS bucket, level, source, COUNT(*), MIN(id) FROM logs {where} "
                         f"GROUP BY 1, 2, 3 LIMIT {MAX_LOG_COUNTS}", [first, width, *values])
        return {"from": first, "bucket": width, "counts": [list(row) for row in rows]}

    def clear_logs(self) -> int:
        """Delete every log entry and return how many there were."""
        with self.transaction() as db:
            return db.execute("DELETE FROM logs").rowcount

    # configuration

    def config(self) -> Json:
        """What the user saved of the engine's configuration, and its `revision`."""
        saved = {row["key"]: value for row in self.rows("SELECT key, value FROM server_config")
                 if (value := decoded(row, "value")) is not None}
        return {**saved, "revision": saved["revision"] if type(saved.get("revision")) is int else 1}

    def save_config(self, revision: int, changes: Json, current: Json | None = None, *, reset: bool = False) -> None:
        """Save configuration values; Conflict with `current` where `revision` is not the newest."""
        with self.transaction() as db:
            if self.config()["revision"] != revision:
                raise Conflict("The configuration was changed by somebody else.", current=current)
            if reset:
                db.execute("DELETE FROM server_config")
            for key, value in {**changes, "revision": revision + 1}.items():
                insert(db, "server_config", {"key": key, "value": json.dumps(value)}, replace=True)

    # pruning

    def prune(self, settings: Json) -> None:
        """Delete what is older, by the trusted time, or more than `settings` allow, in small steps; in a thread."""
        now = self.clock.now()
        self.roll_up(now_ms())  # before the samples go
        detail, logs = settings["metrics_retention_days"] * DAY, settings["logs_retention_days"] * DAY
        history = max(detail, settings["metrics_history_days"] * DAY)
        kept = {0: min(RAW_KEPT, detail), ROLL_UPS[0]: detail, **dict.fromkeys(ROLL_UPS[1:], history)}
        ages = {"requests": detail, "events": history, "logs": logs, "captures": logs}
        for table, condition, *values in (
                *(("metrics", "resolution = ? AND timestamp < ?", width, now - age) for width, age in kept.items()),
                *((table, "timestamp < ?", now - age) for table, age in ages.items()),
                ("usage", "day < ?", day_of(now - history)), ("sessions", "expires_at < ?", now),
                ("conversations", "deleted_at < ?", now - 7 * DAY),
                ("messages", "conversation NOT IN (SELECT id FROM conversations)"),
                *((table, f"rowid <= (SELECT MAX(rowid) FROM {table}) - ?", most)
                  for table, most in {"logs": settings["logs_max_rows"], **MAX_ROWS}.items())):
            find = f"SELECT rowid FROM {table} WHERE {condition} LIMIT {PRUNE_ROWS}"
            while old := self.read(find, values):  # which locks nothing
                with self.transaction() as db:
                    db.executemany(f"DELETE FROM {table} WHERE rowid = ?", map(tuple, old))
        self.set_meta("clock", self.clock.saved())
        vars(self.threads).pop("connection").close()  # the thread's own, which may not read while the file shrinks
        with self.lock, self.explained():
            self.connection.executescript("PRAGMA incremental_vacuum(500)")


def read_only(path: Path, options: str = "") -> sqlite3.Connection:
    """A connection that changes nothing; with `&immutable=1` it sees the file alone, without its log."""
    require_files(path)
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{options}", uri=True, timeout=BUSY_TIMEOUT)
    connection.row_factory, connection.text_factory = sqlite3.Row, LENIENT_TEXT
    return connection


@contextlib.contextmanager
def not_ours() -> Iterator[None]:
    """Let pass what SQLite says of a file that is damaged or none of ours, but not what keeps it from reading one."""
    try:
        yield
    except sqlite3.Error as problem:
        if sqlite_code(problem) not in (0, *SQLITE_DAMAGE):
            raise


def is_good_database(path: Path) -> bool:
    """Whether SQLite can read all of the file at `path`, and it is one of ours; its error where it may not read it."""
    with not_ours(), contextlib.closing(read_only(path)) as db:
        return user_version(db) in MIGRATIONS and not database_damage(db) and not database_problem(db)
    return False


def database_damage(db: sqlite3.Connection) -> str | None:
    """What SQLite's own look at all of a database finds wrong with it, if anything."""
    result = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    return None if result == "ok" else result.splitlines()[-1]  # the first line only says "in database main"


def database_problem(db: sqlite3.Connection) -> str | None:
    """What of a database is not as our migrations make it; None of a good or an empty one."""
    version, columns = user_version(db), columns_of(db)
    if version < 0 or (version == 0 and columns):
        return "it is not llamadash's"
    with contextlib.closing(sqlite3.connect(":memory:")) as example:
        for number in [number for number in MIGRATIONS if number <= version]:
            MIGRATIONS[number](example)
        missing = columns_of(example) - columns
    return "it lacks {}.{}".format(*min(missing)) if missing else None


def user_version(db: sqlite3.Connection) -> int:
    """The number of the last migration that a database has seen."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def columns_of(db: sqlite3.Connection) -> set[tuple[str, str]]:
    """The tables of a database, each with each of its columns."""
    return {(table, column) for table, column in db.execute(
        "SELECT m.name, p.name FROM sqlite_master AS m, pragma_table_info(m.name) AS p WHERE m.type = 'table'")}


def decoded(row: Json, column: str, default: Any = None) -> Any:
    """The JSON value in a column; `default`, and a line in the log, where it is none or of another type than that."""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        value = json.loads(row[column])
        if default is None or type(value) is type(default):
            return value
    log.warning("%s of %s is not used as it is saved", column, row.get("key", row.get("id")))
    return default


def texts(values: list[Any]) -> list[str]:
    """What of a saved list of texts is one."""
    return [value for value in values if isinstance(value, str)]


def decoded_model(row: Json) -> Json:
    """A model as clients see it, from its row; a value that llamadash cannot have written is its column's default."""
    parsed = {name: row[name] and decoded(row, name, MODEL_DEFAULTS[name]) for name in JSON_COLUMNS}
    good = {**MODEL_DEFAULTS, **good_values({**row, **parsed}, MODEL_KINDS, f" of the model {row['id']}")}
    flags = {name: bool(good[name]) for name, default in MODEL_DEFAULTS.items() if type(default) is bool}
    return {**good, **flags, "name": good["name"] or str(good["id"]),
            "parameters": good_values(good["parameters"], PARAMETER_KINDS)}


def dated(row: sqlite3.Row) -> Json:
    """A row with `future` where its timestamp can only have come from a clock that was ahead."""
    known = isinstance(row["timestamp"], int) and row["timestamp"] <= now_ms() + CLOCK_JUMP
    return dict(row) if known else {**dict(row), "future": True}


def where_all(wanted: Json) -> tuple[str, list[Any]]:
    """The WHERE of those FILTERS and conditions that have a value (a tuple: several), and the values for it."""
    given = {FILTERS.get(name, name): value for name, value in wanted.items() if value is not None}
    values = [item for value in given.values() for item in (value if isinstance(value, tuple) else (value,))]
    return f"WHERE {' AND '.join(given)}" if given else "", values


def day_of(timestamp: int) -> str:
    """The day of a time in ms, as this machine's clock shows it: YYYY-MM-DD."""
    return time.strftime("%Y-%m-%d", time.localtime(timestamp / 1000))


def next_midnight(timestamp: int) -> int:
    """When the day after that of a time in ms begins, in ms."""
    day = time.localtime(timestamp / 1000)
    return int(time.mktime((day.tm_year, day.tm_mon, day.tm_mday + 1, 0, 0, 0, 0, 0, -1))) * 1000


def usage_values(at: str = "") -> dict[str, str]:
    """What of a request is counted, by USAGE_COLUMNS: expressions of its columns, or with ":" of its values."""
    made, timed = f"{at}generated_tokens", []
    for kind, tokens in (("prompt", f"({at}prompt_tokens - COALESCE({at}cached_tokens, 0))"), ("generated", made)):
        speed = f"{at}{kind}_per_second"
        timed += [f"CASE WHEN {speed} > 0 THEN {tokens} END", f"CASE WHEN {speed} > 0 THEN {tokens} / {speed} END"]
    return dict(zip(USAGE_COLUMNS, [
        "1", *(f"COALESCE({at}{name}, 0)" for name in TOKEN_COLUMNS), *timed,
        f"MAX(0, COALESCE({at}duration, 0) - COALESCE({at}waited, 0) - COALESCE({at}loading, 0))",
        f"{at}energy", f"CASE WHEN {at}energy IS NOT NULL THEN {made} END"], strict=True))


def usage_row(row: Json) -> Json:
    """Usage as clients see it, from its sums and from how many requests had which speed."""
    metered = row.pop("metered")
    return {**row, **{name: percentiles(row[name]) for name in SPEED_COLUMNS},
            "energy_per_1000": 1000 * row["energy"] / metered if metered and row["energy"] else None}


def speed_count(speed: float | None) -> bytes | None:
    """That one request had a speed: a number of 32 bits for each step, which add up as one long number."""
    if not speed:
        return None
    step = round(math.log(min(max(speed, SPEED_LEAST), SPEED_MOST) / SPEED_LEAST, SPEED_STEP))
    return bytes(4 * step) + b"\1\0\0\0"


def added(one: Any, other: Any) -> Any:
    """The sum of two numbers, or of two counts of speeds; None is nothing."""
    if one is None or other is None:
        return other if one is None else one
    if not isinstance(one, bytes):
        return one + other
    total = int.from_bytes(one, "little") + int.from_bytes(other, "little")
    return total.to_bytes(max(len(one), len(other)), "little")


def percentiles(counts: int) -> list[float] | None:
    """The median and the 95th percentile of counted speeds."""
    known = counts.to_bytes(counts.bit_length() // 32 * 4 + 4, "little")
    sums = list(itertools.accumulate(value for (value,) in struct.iter_unpack("<I", known)))
    return [round(SPEED_LEAST * SPEED_STEP ** bisect.bisect_left(sums, part * sums[-1]), 2)
            for part in (0.5, 0.95)] if counts else None


def flat_metrics(metrics: Json) -> Json:
    """The values of one sample by name, those of llamadash and its engine among those of the machine."""
    return {**metrics, **{f"process_{name}": value for name, value in (metrics.get("process") or {}).items()},
            **(metrics.get("engine") or {}), "load_average": (metrics.get("load_average") or [None])[0]}


def series_of(metrics: Json) -> dict[str, float]:
    """The values of one sample that have history, by series name."""
    flat = flat_metrics(metrics)
    for gpu in metrics.get("gpus") or []:
        flat.update({f"gpu{gpu.get('index')}_{name}": gpu.get(name) for name in GPU_SERIES})
    return {name: flat[name] for name in SERIES if flat.get(name) is not None and math.isfinite(flat[name])}


@on("system:backup", error="BACKUP_SYSTEM_FAILED", cost=20)
async def system_backup(dash: Dash) -> Json:
    """Write a backup of the database into the data folder."""
    target, size = await asyncio.to_thread(dash.db.manual_backup)
    dash.event("backup", reason=target.name)
    return {"path": str(target), "bytes": size}


# -- GGUF files -----------------------------------------------------------------------------------

GGUF_WINDOW = 65536  # bytes of a file in memory at a time
MAX_HEADER = 64 << 20  # bytes before the weights; the largest known vocabulary makes 16 MB
MAX_ARRAY_TEXTS = 1 << 20  # texts in all arrays together; the largest known vocabulary has 777,058
MAX_KEPT_TEXT = 256  # bytes kept of a text: keys, names and licences are shorter, templates only need to exist
MAX_KEPT_ITEMS = 512  # numbers kept of an array: one for each layer
MAX_TENSOR_NAME = 256  # bytes; llama.cpp allows 64
MAX_DIMENSIONS = 4
NEXT_KEY = rb"(?s)(.)\0{7}(tokenizer\.[\w.]{1,99})[\0-\x0c]\0{3}"  # what usually follows one: another entry of its kind
KEY_ROOM = 128  # bytes of that at most
JSON_SAFE = 2**53  # integers from here on lose digits in a browser

NUMBER_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
GGUF_TEXT, GGUF_ARRAY = 8, 9

# Type number of a tensor: its name, the weights in a block, the bytes of a block.
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1),
    25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}
# general.file_type, as llama.h numbers it; 4 to 6 and 33 to 35 are of files that it no longer reads.
FILE_TYPES = dict(enumerate((
    "F32", "F16", "Q4_0", "Q4_1", "Q4_1_SOME_F16", "Q4_2", "Q4_3", "Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M",
    "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS",
    "IQ1_S", "IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16", "Q4_0_4_4", "Q4_0_4_8",
    "Q4_0_8_8", "TQ1_0", "TQ2_0", "MXFP4_MOE", "NVFP4", "Q1_0", "Q2_0")))
# How files begin that are named like a model.
OTHER_CONTENTS = {b"version https://git-lfs": "a Git LFS pointer", b"<": "a web page", b"PK\3\4": "a ZIP archive",
                  b"tjgg": "a GGML file", b"lmgg": "a GGML file", bytes(24): "an unfinished download"}
FILE_TYPE_GUESSED = 1024  # the bit that llama.cpp sets where it guessed
NO_MODELS = {"adapter": "a LoRA adapter", "imatrix": "an importance matrix", "vocab": "a vocabulary",
             "controlvector": "a control vector"}  # by general.type or general.architecture
GGUF_NUMBERS = ("context_length", "embedding_length", "block_count", "expert_count", "expert_used_count")


class GGUFError(Exception):
    """The file is not a usable GGUF; the message says why, for the user."""


@dataclass(eq=False, repr=False)
class GGUFHeader:
    """What stands before the weights of a GGUF file."""
    metadata: Json = field(default_factory=dict)  # numbers, texts cut to MAX_KEPT_TEXT, short arrays of numbers
    lengths: dict[str, int] = field(default_factory=dict)  # items of every array
    tensor_types: collections.Counter[str] = field(default_factory=collections.Counter)  # parameters of each type
    tensor_sizes: dict[str, int] = field(default_factory=dict)  # bytes of each tensor, where they were asked for
    projections: dict[str, tuple[int, ...]] = field(default_factory=dict)  # shapes of those that lead into a model
    native: bool = True  # whether its byte order is that of this machine
    needed: int = 0  # bytes that the whole file must have
    beside: dict[str, list[GGUFHeader]] = field(default_factory=dict)  # files that the parameter of this name loads too

    @functools.cached_property
    def architecture(self) -> str | None:
        """`general.architecture`, as `llama`."""
        return self.text("general.architecture")

    def text(self, key: str) -> str | None:
        """The text at `key`, printable and not empty, or None."""
        value = self.metadata.get(key)
        return clean_text(value) or None if isinstance(value, str) else None

    def number(self, key: str) -> int | None:
        """The whole number at `key`, or the largest of a list there, if a browser can hold it, or None."""
        value = self.metadata.get(key)
        if isinstance(value, list):
            value = max((item for item in value if type(item) is int), default=None)
        return value if type(value) is int and 0 <= value < JSON_SAFE else None

    @property
    def part(self) -> tuple[int, int] | None:
        """Which shard it is, from 0 on, and of how many; None where it does not say."""
        count = self.number("split.count")
        return None if count is None else (self.number("split.no") or 0, count)

    @functools.cached_property
    def names(self) -> set[str]:
        """What it calls its model and those that this was made from: names that tell something, and addresses."""
        said = [self.text(key) or "" for key in self.metadata
                if re.fullmatch(r"general\.(?:base_model\.\d+\.)?(?:name|repo_url)", key)]
        return {name.lower() for name in said if not is_dull(name)}

    def of_model(self, key: str) -> Any:
        """The value at `key` of this architecture: a number, a text, a list of numbers, or None."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def largest(self, key: str) -> int | None:
        """The whole number at `key` of this architecture, or the largest of a per-layer array."""
        return self.number(f"{self.architecture}.{key}")


def clean_text(text: str) -> str:
    """`text` on one line, without anything that cannot be shown."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def shortened(text: str, limit: int) -> str:
    """The first `limit` bytes of `text`, and how many more there are."""
    more = len(encoded := text.encode("utf-8", "replace")) - limit
    return encoded.decode() if more <= 0 else f"{encoded[:limit].decode('utf-8', 'ignore')} … ({more} more bytes)"


class GGUFReader:
    """Reads a GGUF header through a small window; every count in the file is bounded before it is believed."""

    def __init__(self, file: Any, size: int, *, search: bool = True, named: bool = False) -> None:
        self.file, self.size, self.named = file, size, named
        self.search = search  # for the end of a vocabulary, instead of looking at each of its texts
        self.window, self.start = b"", 0  # a part of the file, and where it begins
        self.at = 0  # of the next byte, in the file
        self.order = "<"
        self.texts = self.kept = 0  # texts in arrays, and numbers kept of arrays, so far

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        begin = self.at - self.start
        if begin + count > len(self.window):
            if self.at > MAX_HEADER:
                raise GGUFError(f"its header is larger than {MAX_HEADER >> 20} MiB")
            self.file.seek(self.at)
            self.window, self.start, begin = self.file.read(max(GGUF_WINDOW, count)), self.at, 0
            if len(self.window) < count:
                raise GGUFError("it ends within its header: an incomplete download?")
        self.at += count
        return self.window[begin:begin + count]

    def numbers(self, codes: str) -> tuple[Any, ...]:
        """The next numbers, of these struct codes."""
        return struct.unpack(self.order + codes, self.take(struct.calcsize(self.order + codes)))

    def text(self, length: int) -> str:
        """The first MAX_KEPT_TEXT bytes of the next `length`."""
        kept = min(length, MAX_KEPT_TEXT)
        text = self.take(kept).decode("utf-8", "replace" if kept == length else "ignore")
        self.at += length - kept
        return text

    def skip_texts(self, count: int) -> None:
        """Step over `count` texts."""
        self.texts += count
        if self.texts > MAX_ARRAY_TEXTS:
            raise GGUFError("its vocabulary is larger than any real one")
        if self.search and count >= 4096 and self.find_next_key(count):  # which takes a 50th of walking over them
            return
        length_of = struct.Struct(self.order + "Q").unpack_from
        for _ in range(count):  # take() for each would be five times as slow
            if self.at - self.start + 8 > len(self.window):
                self.take(8)
                self.at -= 8
            self.at += 8 + length_of(self.window, self.at - self.start)[0]

    def find_next_key(self, count: int) -> bool:
        """Step over a vocabulary of `count` texts to the entry that usually follows; False, in place, without one."""
        begin, end = self.at + 10 * count, self.at + 48 * count  # most texts take 13 to 20 bytes
        for start in range(begin, min(end, self.size, MAX_HEADER), GGUF_WINDOW - KEY_ROOM):
            self.file.seek(start)
            window = self.file.read(GGUF_WINDOW)
            found = window.find(b"\0\0\0tokenizer.ggml.", 5, GGUF_WINDOW - KEY_ROOM + 22) - 5  # a later one is next
            if found >= 0:
                key = re.compile(NEXT_KEY).match(window, found)
                if key and len(key[2]) == key[1][0]:
                    self.window, self.start, self.at = window, start, start + found
                    return True
                break
        return False

    def value(self, key: str, header: GGUFHeader) -> Any:
        """The next value: a number, a text, a short array of numbers; None for all else."""
        (kind,) = self.numbers("I")
        if kind == GGUF_TEXT:
            return self.text(*self.numbers("Q"))
        if kind in NUMBER_FORMATS:
            return finite_or_none(self.numbers(NUMBER_FORMATS[kind])[0])
        if kind != GGUF_ARRAY:
            raise GGUFError(f"metadata of unknown type {kind}")
        kind, count = self.numbers("IQ")
        header.lengths[key] = count
        if kind != GGUF_TEXT and kind not in NUMBER_FORMATS:
            raise GGUFError("an array of arrays" if kind == GGUF_ARRAY else f"an array of unknown type {kind}")
        if kind == GGUF_TEXT:
            self.skip_texts(count)
        elif count > MAX_KEPT_ITEMS or self.kept + count > 64 * MAX_KEPT_ITEMS:  # of all arrays together
            self.at += count * struct.calcsize("=" + NUMBER_FORMATS[kind])
        else:
            self.kept += count
            return [finite_or_none(value) for value in self.numbers(f"{count}{NUMBER_FORMATS[kind]}")]
        return None

    def tensors(self, count: int, header: GGUFHeader) -> int:
        """Read the table of `count` tensors into `header`; where their data ends, counted from its start."""
        if not count:
            return 0
        number, lowest = struct.Struct(self.order + "Q").unpack_from, 0 if self.order == "<" else 3
        table = self.take(min(count * (24 + MAX_TENSOR_NAME + 8 * MAX_DIMENSIONS), max(self.size - self.at, 1)))
        layouts, names, offset, next_at = list[bytes](), list[bytes](), 0, 0
        try:
            for _ in range(count):  # models have hundreds, most of them alike
                (length,) = number(table, next_at)
                if length > MAX_TENSOR_NAME:
                    raise GGUFError(f"a tensor's name of {length} bytes")
                at = next_at + 8 + length
                names.append(table[at - length:at])
                end = at + 8 + 8 * table[at + lowest]  # of its shape and type
                layouts.append(table[at:end])
                (offset,) = number(table, end)
                next_at = end + 8
        except (struct.error, IndexError) as problem:
            raise GGUFError("it ends within its header: an incomplete download?") from problem
        self.at += next_at - len(table)
        for layout, times in collections.Counter(layouts).items():
            name, parameters, _ = self.tensor(layout)
            header.tensor_types[name] += times * parameters
        for tensor, layout in zip(names if self.named else [], layouts, strict=False):
            header.tensor_sizes[(name := tensor.decode("utf-8", "replace"))] = self.tensor(layout)[2]
            if name.startswith(("mm.", "resampler.proj.")):
                header.projections[name] = struct.unpack_from(f"{self.order}4x{len(layout) // 8 - 1}Q", layout)
        return offset + self.tensor(layouts[-1])[2]  # they lie one after the other

    def tensor(self, layout: bytes) -> tuple[str, int, int]:
        """Type, parameters and bytes of a tensor, from the part of its entry that gives its shape and its type."""
        (dimensions,) = struct.unpack_from(self.order + "I", layout)
        if dimensions > MAX_DIMENSIONS:
            raise GGUFError(f"a tensor of {dimensions} dimensions")
        *shape, kind = struct.unpack(f"{self.order}4x{dimensions}QI", layout)
        name, block, size = TENSOR_TYPES.get(kind, (f"type {kind}", 1, 0))
        parameters = math.prod(shape)
        return name, parameters, parameters // block * size

    def header(self) -> GGUFHeader:
        """The whole header."""
        tensors, pairs = self.beginning()
        header = GGUFHeader(native=(self.order == ">") == (sys.byteorder == "big"))
        for _ in range(pairs):
            (length,) = self.numbers("Q")
            if length > MAX_KEPT_TEXT:
                raise GGUFError(f"a metadata key of {length} bytes")
            if (key := self.text(length)) in header.metadata:
                raise GGUFError("a metadata key that comes twice")
            header.metadata[key] = self.value(key, header)
        end = self.tensors(tensors, header)
        alignment = header.number("general.alignment") or 32
        if alignment & (alignment - 1) or alignment > MAX_HEADER:
            raise GGUFError(f"an alignment of {alignment} bytes")
        header.needed = self.at + -self.at % alignment + end if tensors else self.at
        if max(header.tensor_types.total(), header.needed) >= JSON_SAFE:
            raise GGUFError("tensors larger than any real one")
        return header

    def beginning(self) -> tuple[int, int]:
        """The counts of tensors and of metadata entries; finds out the byte order."""
        if not self.size:
            raise GGUFError("the file is empty")
        if self.take(min(self.size, 4)) != b"GGUF":
            kind = next((kind for start, kind in OTHER_CONTENTS.items() if self.window.startswith(start)), None)
            raise GGUFError(f"{kind}, not the model itself" if kind else "not a GGUF file")
        (version,) = self.numbers("I")
        if not version & 0xFFFF:
            self.order = ">"
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise GGUFError(f"GGUF version {version} is not supported")
        tensors, pairs = self.numbers("QQ")
        if tensors > 8192 or pairs > 2048:  # models have up to 3,000 and 100
            raise GGUFError(f"{tensors} tensors and {pairs} metadata entries, more than any real model has")
        return tensors, pairs


def finite_or_none(value: Any) -> Any:
    """`value`, or None if it is no number that JSON knows."""
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def gguf_read(path: str | Path, *, named: bool = False) -> GGUFHeader:
    """The header of the GGUF file at `path`, with the sizes of the `named` tensors; GGUFError says what is wrong."""
    try:
        with open(path, "rb", buffering=0, opener=without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise GGUFError("not a regular file")
            with contextlib.suppress(GGUFError):
                return GGUFReader(file, status.st_size, named=named).header()
            return GGUFReader(file, status.st_size, search=False, named=named).header()
    except OSError as problem:
        raise GGUFError(f"cannot be read: {problem.strerror}") from problem


def gguf_read_all(paths: Iterable[str], parameters: Json | None = None) -> GGUFHeader:
    """The header of the first of a model's files, with the tensors of all, and what `parameters` load beside them."""
    first, *rest = [gguf_read(path, named=True) for path in paths]
    for shard in rest:
        first.tensor_sizes |= shard.tensor_sizes
    for key in {"model-draft", "lora", "mmproj"}.intersection(parameters or ()):
        with contextlib.suppress(GGUFError):  # the engine says what is wrong with it
            first.beside[key] = [gguf_read(path, named=True) for path in (parameters or {})[key].split(",")]
    return first


def gguf_size_label(parameters: int) -> str | None:
    """A count of parameters as people write it: 135M, 1.7B, 70B."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= unit * 0.9995:
            value = parameters / unit
            return f"{value:.1f}".removesuffix(".0") + name if value < 9.95 else f"{value:.0f}{name}"
    return None


def gguf_facts(headers: list[GGUFHeader]) -> Json:
    """The columns of a model's row that the headers of its shards tell."""
    first = headers[0]
    types = sum((header.tensor_types for header in headers), collections.Counter[str]())
    parameters = min(types.total(), JSON_SAFE)
    numbers = {key: first.largest(key) for key in GGUF_NUMBERS}
    heads, embedding = first.largest("attention.head_count"), numbers["embedding_length"]
    head_size = embedding // heads if embedding and heads else None
    said, commonest = first.number("general.file_type"), max(types, key=types.__getitem__, default=None)
    return {
        "architecture": first.architecture, "license": first.text("general.license"),
        "size_label": first.text("general.size_label") or gguf_size_label(parameters),
        "quantization": commonest if said is None else FILE_TYPES.get(said & ~FILE_TYPE_GUESSED),
        **numbers, "parameter_count": parameters or None, "head_count": heads,
        "head_count_kv": first.largest("attention.head_count_kv") or heads,
        "vocabulary_size": first.lengths.get("tokenizer.ggml.tokens") or first.largest("vocab_size"),
        "sliding_window": first.largest("attention.sliding_window") or None,
        "key_length": first.largest("attention.key_length") or head_size,
        "value_length": first.largest("attention.value_length") or head_size,
        "tokenizer": first.text("tokenizer.ggml.model"),
        "chat_template": any(first.text(key) for key in first.metadata if key.startswith("tokenizer.chat_template")),
    }


def gguf_lengths(header: GGUFHeader) -> set[int]:
    """The embedding lengths of the models that a projector can serve; none where its header does not tell."""
    said = {length for kind in ("vision", "audio") if (length := header.number(f"clip.{kind}.projection_dim"))}
    if not header.projections or (said and header.text("general.type")):  # in old files it is a number of CLIP's own
        return said
    last = max(header.projections, key=lambda name: list(map(int, re.findall(r"\d+", name))))
    ends = header.projections.values() if not re.search(r"\d", last) else [header.projections[last][-1:]]
    return said.union(*ends)


def gguf_unusable(headers: list[GGUFHeader]) -> str | None:
    """Why the file with these shards is not a model that can be loaded, or None if it is one."""
    header = headers[0]
    kind = "adapter" if "adapter.type" in header.metadata else header.text("general.type") or header.architecture
    if kind in NO_MODELS:
        return f"{NO_MODELS[kind]}, not a model"
    if not header.architecture:
        return "it does not say which architecture it is of"
    return None if any(shard.tensor_types for shard in headers) else "only a vocabulary, without weights"


def gguf_flaw(header: GGUFHeader, size: int) -> str | None:
    """Why a file of `size` bytes cannot be loaded though its header can be read, or None."""
    if header.needed > size:
        return f"incomplete, {size:,} of {header.needed:,} bytes"
    unknown = [kind for kind in header.tensor_types if kind.startswith("type ")]
    return None if header.native and not unknown else f"tensors of a kind that is not known ({unknown[0]})" if unknown \
        else "made for processors of the other byte order (big-endian)"


# -- Memory estimate ------------------------------------------------------------------------------

CONTEXT_STEP = 256  # llama.cpp rounds every context up to a multiple of it
DEFAULT_SLOTS = 4  # what `parallel` means where it is not set, with one KV cache for all of them
# Bytes that a process takes on each GPU beyond model, cache and compute: CUDA's as measured on an H100 (0.57 to 0.60
# GiB), the others' assumed; what a model really took corrects them.
GPU_OVERHEAD = {"CUDA": 632 << 20, "ROCm": 512 << 20, "SYCL": 384 << 20, "Vulkan": 192 << 20, "MTL": 64 << 20}
INPUT_TENSORS = re.compile(r"(?:per_layer_)?token_embd|token_types|position_embd")  # which stay in main memory
EXPERT_TENSORS = re.compile(r"\.ffn_(?:up|down|gate|gate_up)_(?:ch|)exps")  # which cpu-moe keeps there
FIT_MARGIN = "1024"  # MiB that the engine leaves free on each device when it chooses by itself: fit-target
PIPELINED = 4  # batches that are under way at once where a whole model is split over several GPUs
FIT_MIN_CONTEXT = 4096  # the engine shrinks a context that nobody asked for no further, unless fit-ctx differs
LARGEST_CONTEXT = 1 << 24  # tokens; no model was trained for more
CPU_PARAMETERS = frozenset(("n-gpu-layers", "cpu-moe", "n-cpu-moe", "override-tensor"))  # by which weights are moved
CACHE_BYTES = {name.lower(): size / block for name, block, size in TENSOR_TYPES.values()}  # for each number of it
RECURRENT = frozenset(("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7", "falcon-h1"))
WITHOUT_CACHE = frozenset((
    "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3", "eurobert",
    "gemma-embedding", "wavtokenizer-dec", "dream", "llada", "llada-moe", "rnd1", "clef"))
# Architectures that use a sliding window: of so many layers one sees everything, the first or the last of them;
# and the window where the file does not say it. Those that list the layers in the file need no entry.
SLIDING = {
    "gemma2": (2, "last", 4096), "gemma3": (6, "last", 0), "gemma3n": (5, "last", 0), "gpt-oss": (2, "last", 0),
    "cohere2": (4, "last", 0), "cohere2moe": (4, "first", 0), "llama4": (4, "last", 8192), "olmo2": (4, "last", 0),
    "exaone4": (4, "last", 0), "exaone-moe": (4, "last", 128), "plamo3": (8, "last", 0), "afmoe": (4, "last", 0),
    "laguna": (4, "first", 0), "smallthinker": (4, "first", 4096), "mellum": (4, "last", 0),
    "muse-glimmer": (4, "last", 0)}


@dataclass(eq=False, repr=False)
class Layer:
    """What one layer, or the output, costs: bytes of weights, and the numbers that it remembers."""
    plain: int = 0  # bytes that lie where the layer is computed
    experts: int = 0  # bytes that cpu-moe keeps in main memory
    keys: int = 0  # for each token of the context, or of the window where it is sliding
    values: int = 0
    sliding: bool = False
    state: int = 0  # for each request


def tensor_rules(text: str) -> list[tuple[re.Pattern[str], str]]:
    """The patterns of override-tensor with the device of each; those that could take long to match are left out."""
    rules = []
    for rule in text.split(","):
        pattern, _, device = rule.rpartition("=")
        allowed = (r"\)[*+{]", 0), (r"[*+{]", 2), (r"[?(]", 5)  # more of these, and matching may take for ever
        with contextlib.suppress(re.error, OverflowError):
            if pattern and all(len(re.findall(part, pattern)) <= most for part, most in allowed):
                rules.append((re.compile(pattern), device))
    return rules


def batch_work(model: Json, header: GGUFHeader, state: int) -> tuple[int, int, float]:
    """How many numbers the engine works with, as measured or more: for each token of a batch; or, where layers have
    a `state`, for each token and besides for each request."""
    embedding, used = model["embedding_length"] or 0, model["expert_used_count"] or 0
    width, wide, dense, latent, inner, groups, size = (header.largest(key) or 0 for key in (
        "expert_feed_forward_length", "feed_forward_length", "leading_dense_block_count", "attention.key_length_mla",
        "ssm.inner_size", "ssm.group_count", "ssm.state_size"))
    work = 5 * embedding + 2 * (model["head_count"] or 0) * (latent + (model["key_length"] or 0)) * bool(latent)
    if dense or not width:
        work = max(work, 5 * embedding + 3 * (wide or 4 * embedding))
    # What narrow experts made does not fit into the place of what they were given, so there are both.
    narrow = 2 * width < embedding
    work = max(work, 2 * used * (embedding + width) if narrow else 5 * embedding + 3 * used * width)
    if (header.architecture or "").startswith("qwen"):  # gated delta nets
        return work, 4 * embedding + 5 * inner + 2 * groups * size, 2.6 * state
    return work, 5 * embedding + 6 * inner + 11 * groups * size, 0


def sliding_layers(model: Json, header: GGUFHeader) -> tuple[int, list[bool]]:
    """How many tokens sliding layers see, and which these are; 0 where no layer slides."""
    layers = min(model["block_count"] or 0, MAX_KEPT_ITEMS)
    architecture, pattern = model["architecture"] or "", header.of_model("attention.sliding_window_pattern")
    period, full, window = SLIDING.get(architecture, (1, "last", 0))
    window = model["sliding_window"] or window
    unlisted = architecture not in SLIDING and pattern is None
    if unlisted or not window or (architecture == "exaone4" and model["block_count"] != 64):  # only the 32B slides
        return 0, [False] * layers
    if isinstance(pattern, list):
        return window, [bool(item) for item in per_layer(pattern, layers, 0)]
    period = pattern if type(pattern) is int and pattern > 0 else period
    return window, [at % period != (0 if full == "first" else period - 1) for at in range(layers)]


def remembering_layers(model: Json, header: GGUFHeader, slides: list[bool]) -> list[Layer]:
    """The layers with what each remembers, those that are in `slides` of the window only."""
    architecture, layers = model["architecture"] or "", len(slides)
    heads = per_layer(header.of_model("attention.head_count_kv"), layers, model["head_count_kv"] or 0)
    keys, values = model["key_length"] or 0, model["value_length"] or 0
    if header.largest("attention.key_length_mla"):
        values = 0  # multi-head latent attention keeps one vector for both
    sizes = {False: (keys, values), True: (header.largest("attention.key_length_swa") or keys,
                                           header.largest("attention.value_length_swa") or values)}
    recurrent = recurrent_layers(architecture, header, layers, heads)
    state = recurrent_state(model, header)
    caching = 0 if architecture in WITHOUT_CACHE else layers - (header.largest("nextn_predict_layers") or 0)
    own = 20 if architecture == "gemma3n" else caching - (header.largest("attention.shared_kv_layers") or 0)
    result = []
    for at, sliding in enumerate(slides):
        attends = not recurrent[at] or architecture == "falcon-h1"  # whose layers do both
        count = heads[at] if attends and at < min(own, caching) else 0
        result.append(Layer(keys=count * sizes[sliding][0], values=count * sizes[sliding][1], sliding=sliding,
                            state=state if recurrent[at] and at < caching else 0))
    return result


def per_layer(value: Any, layers: int, default: Any) -> list[Any]:
    """`value` for each layer: itself if it is long enough a list, else the same for all."""
    if isinstance(value, list) and len(value) >= layers:
        return [item or 0 for item in value[:layers]]
    return [value if type(value) is int else default] * layers


def recurrent_layers(architecture: str, header: GGUFHeader, layers: int, heads: list[int]) -> list[bool]:
    """Which layers keep a state of fixed size in place of the context."""
    if architecture in RECURRENT:
        return [True] * layers
    if isinstance(listed := header.of_model("attention.recurrent_layers"), list):
        return [bool(item) for item in per_layer(listed, layers, 0)]
    unsaid = 4 if architecture == "qwen3next" else 0  # in its older files
    if interval := header.largest("full_attention_interval") or unsaid:
        return [(at + 1) % interval != 0 for at in range(layers)]
    wide = per_layer(header.of_model("feed_forward_length"), layers, 1)
    dense = isinstance(header.of_model("feed_forward_length"), list) and architecture.startswith("nemotron")
    return [not heads[at] and not (dense and wide[at]) for at in range(layers)]


def recurrent_state(model: Json, header: GGUFHeader) -> int:
    """Numbers that a recurrent layer keeps for each request."""
    embedding, heads = model["embedding_length"] or 0, model["head_count"] or 0
    if head := header.largest("wkv.head_size"):
        return embedding * (head + (header.largest("token_shift_count") or 2))
    if cells := header.largest("shortconv.l_cache"):
        return embedding * (cells - 1)
    inner, size, groups, kernel = (header.largest(f"ssm.{key}") or 0 for key in (
        "inner_size", "state_size", "group_count", "conv_kernel"))
    if head := header.largest("kda.head_dim"):
        return head * heads * (head + 3 * max(kernel - 1, 0))
    return inner * size + max(kernel - 1, 0) * (inner + 2 * groups * size)


def rounded_up(value: int) -> int:
    """The next multiple of CONTEXT_STEP."""
    return max(-(-value // CONTEXT_STEP), 1) * CONTEXT_STEP


class Placement:
    """What a model needs that is run with `parameters`, and where it goes: bytes on every device, for one context."""

    def __init__(self, model: Json, parameters: Json, devices: list[Json], header: GGUFHeader, *,
                 drafts: bool = False) -> None:
        self.model, self.parameters, self.devices, self.drafts = model, parameters, devices, drafts
        self.window, slides = sliding_layers(model, header)
        self.layers = [*remembering_layers(model, header, slides), Layer()]  # and, last, the output
        self.work, self.mixing, self.copies = batch_work(model, header, max([layer.state for layer in self.layers]))
        self.input = 0  # bytes of weights that are never on a GPU
        self.elsewhere = collections.Counter[str]()  # bytes of weights that override-tensor puts on a device
        self.weigh(header.tensor_sizes)
        slots = parameters.get("parallel", -1)
        self.slots = slots if slots > 0 else DEFAULT_SLOTS
        self.streams = 1 if slots < 1 or parameters.get("kv-unified") is True else slots  # caches that are kept apart
        self.ubatch = min(parameters.get("ubatch-size", 512), parameters.get("batch-size", 2048))
        self.key_bytes, self.value_bytes = (
            CACHE_BYTES.get(parameters.get(f"cache-type-{kind}", "f16"), 2.0) for kind in "kv")
        self.flash = parameters.get("flash-attn") != "off"
        self.host = next((at for at, device in enumerate(devices) if device["kind"] == "cpu"), 0)
        self.wasteful = bool(devices[self.host].get("wasteful"))  # so are older builds
        gpus = [at for at, device in enumerate(devices) if device["kind"] == "gpu"]
        self.gpus = [at for at in gpus if not devices[at].get("spare")] or gpus  # for layers, in order
        if named := parameters.get("device"):
            self.gpus = [at for name in named.split(",") for at in gpus if devices[at]["name"] == name]
        if parameters.get("split-mode") == "none" and self.gpus:
            self.gpus = [self.gpus[min(parameters.get("main-gpu", 0), len(self.gpus) - 1)]]
        said = [int(float(size)) << 20 for size in str(parameters.get("fit-target", FIT_MARGIN)).split(",")]
        rest = said[-1] if len(said) == 1 else int(FIT_MARGIN) << 20
        self.margins = dict(itertools.zip_longest(self.gpus or [self.host], said[:len(self.gpus) or 1], fillvalue=rest))
        moved = any(parameters.get(key) for key in ("cpu-moe", "n-cpu-moe", "override-tensor"))
        self.pipelined = len(self.gpus) > 1 and not moved and parameters.get("kv-offload") is not False and \
            parameters.get("split-mode", "layer") == "layer"
        self.draft: Placement | None = None  # the model that drafts for it: as a whole, in the same context
        self.weigh_beside(header.beside)
        self.projector_at = self.gpus[0] if self.gpus and parameters.get("mmproj-offload") is not False else self.host

    def weigh_beside(self, beside: dict[str, list[GGUFHeader]]) -> None:
        """Add what is loaded with the model: a projector, adapters, and a model that drafts for it."""
        parameters, sizes = self.parameters, {
            key: sum([sum(file.tensor_sizes.values()) for file in files]) for key, files in beside.items()}
        found = self.model["projector_size"] if parameters.get("mmproj-auto") is not False else 0
        self.projector = sizes.get("mmproj", found or 0)
        self.adapters = sizes.get("lora", 0)  # each of whose tensors is beside the one that it changes
        for layer in self.layers[:-1]:
            layer.plain += self.adapters // (len(self.layers) - 1)
        for header in beside.get("model-draft", ()):
            row = {**gguf_facts([header]), "file_size": sizes["model-draft"], "projector_size": None}
            own = {key.removesuffix("-draft"): value for key, value in parameters.items() if key.endswith("-draft")}
            shared = {key: value for key, value in parameters.items() if key not in CPU_PARAMETERS}
            plain = {"cache-type-k": "f16", "cache-type-v": "f16", "fit": False}
            self.draft = Placement(row, {**shared, **plain, **own}, self.devices, header, drafts=True)

    def weigh(self, tensors: Mapping[str, int]) -> None:
        """Add up the weights of each layer; where not all tensors are known, all layers are alike."""
        last, total = len(self.layers) - 1, self.model["file_size"] or 0
        each = total // (last + 1)
        if sum(tensors.values()) < 0.9 * total or not tensors:  # some are of unknown types
            tensors = {"output.weight": total - each * last, **{f"blk.{at}.": each for at in range(last)}}
        rules = tensor_rules(str(self.parameters.get("override-tensor", "")))
        for name, size in tensors.items():
            block = re.match(r"blk\.(\d{1,4})\.", name)
            layer = self.layers[min(int(block[1]), last) if block else last]
            if place := next((device for pattern, device in rules if pattern.search(name)), None):  # the first counts
                self.elsewhere[place] += size
            elif INPUT_TENSORS.match(name):
                self.input += size
            elif EXPERT_TENSORS.search(name):
                layer.experts += size
            else:
                layer.plain += size
        # Without an output of its own, that of the input is on the output's GPU as well.
        self.headless = "bert" in (self.model["architecture"] or "")
        self.tied = 0 if "output.weight" in tensors or self.headless else tensors.get("token_embd.weight", 0)
        self.largest_tensor = max((size for name, size in tensors.items() if name.startswith("blk.")), default=0)

    def cells(self, context: int) -> tuple[int, int]:
        """Cells of all KV caches, in layers that see everything and in layers that slide."""
        one = rounded_up(rounded_up(context) // self.streams)
        window = rounded_up(self.window * self.slots // self.streams + self.ubatch)
        slides = self.window and self.parameters.get("swa-full") is not True
        return one * self.streams, (min(one, window) if slides else one) * self.streams

    def cache(self, context: int) -> list[int]:
        """Bytes of each layer's KV cache or recurrent state."""
        cells, sliding = self.cells(context)
        return [round((sliding if layer.sliding else cells) * (
            layer.keys * self.key_bytes + layer.values * self.value_bytes)) + layer.state * 4 * self.slots
            for layer in self.layers]

    def compute(self, context: int) -> tuple[int, int]:
        """Bytes of scratch memory for one batch, and of what goes in and comes out alone."""
        tokens = min(self.ubatch, rounded_up(context))
        one, sliding = (cells // self.streams for cells in self.cells(context))
        masks = (4 if self.wasteful or not self.flash else 2) * (one + (sliding if self.window else 0))
        heads, vocabulary, width = ((self.model[key] or 0) for key in (
            "head_count", "vocabulary_size", "embedding_length"))
        answer, width, wasted = 4 * vocabulary * (not self.headless), 4 * width, masks // 2 if self.wasteful else 0
        # Without flash attention there is a matrix for every head
        attention = masks + (wasted if self.flash else 4 * one * heads + (5 if self.wasteful else 1) * width)
        work = max(tokens * self.work, tokens * self.mixing + round(self.copies * self.slots))
        size = tokens * (attention + 128) + 4 * work + answer * self.slots  # 128: positions and the like
        embeds = any(map(self.parameters.get, ("embeddings", "reranking")))
        if embeds or self.wasteful:  # then there is an answer to every token, where the attention was before
            size = max(size, tokens * (answer + 6 * width + masks * embeds))
        often = 7 if any(layer.state for layer in self.layers) else 5 + (not self.flash)  # as measured or more
        return size, tokens * (masks + often * width) + answer * self.slots

    def layer_bytes(self, context: int) -> list[tuple[int, int]]:
        """For each layer and, last, the output: what a GPU takes of it, and what stays in main memory all the same."""
        kept = len(self.layers) if self.parameters.get("cpu-moe") else self.parameters.get("n-cpu-moe", 0)
        offload = self.parameters.get("kv-offload") is not False
        result = []
        for at, (layer, held) in enumerate(zip(self.layers, self.cache(context), strict=True)):
            stays = (layer.experts if at < kept else 0) + (0 if offload else held)
            result.append((layer.plain + layer.experts + held - stays, stays))
        result[-1] = result[-1][0] + self.tied, result[-1][1]
        return result

    def overhead(self, gpu: int, context: int, *, mixed: bool) -> int:
        """Bytes on a GPU beside weights, cache and compute, `mixed` where the other memory holds weights as well."""
        backend = re.sub(r"\d+$", "", self.devices[gpu]["name"])
        copied = self.largest_tensor if mixed else 0  # for long prompts, weights are brought to the GPU
        if self.parameters.get("kv-offload") is False:
            copied += max(self.cache(context))
        if self.flash and backend in ("CUDA", "ROCm") and {self.key_bytes, self.value_bytes} != {2.0}:
            widest = max(layer.keys + layer.values for layer in self.layers)  # whose cache is decompressed
            copied += 2 * self.cells(context)[0] * widest
        process = GPU_OVERHEAD.get(backend, 256 << 20)
        return copied + (process // 8 if self.drafts else process)  # most of it is the same for both models

    def shares(self) -> list[float]:
        """Which part of the layers each GPU gets: as the user says, else by free memory."""
        said = re.findall(r"\d{1,9}(?:\.\d{1,9})?", str(self.parameters.get("tensor-split", "")))
        parts = [*map(float, said), *([0.0] * len(self.gpus))][:len(self.gpus)]
        if not any(parts):
            parts = [float(self.devices[at]["free"] or 1) for at in self.gpus]
        return [part / sum(parts) for part in parts]

    def offloaded(self, sizes: list[tuple[int, int]], each: int, beside: list[int], whole: bool) -> int:
        """How many layers go to the GPUs, from the output on; each GPU needs `each` bytes and those `beside`, too."""
        if not self.gpus:
            return 0
        if (wanted := self.parameters.get("n-gpu-layers", -1)) >= 0:
            return int(min(wanted, len(sizes)))
        if whole or self.parameters.get("fit") is False:
            return len(sizes)
        taken, count = [*itertools.accumulate(on_gpu for on_gpu, _ in reversed(sizes))], 0
        rooms = [(self.devices[at]["free"] or 0) - self.margins[at] - beside[at] - each for at in self.gpus]
        for copied in (0, self.largest_tensor):  # which is brought to the GPU where not all fit
            free = sum(max(room - copied, 0) for room in rooms)
            if (count := sum(total <= free for total in taken)) == len(sizes):
                break
        return count  # by itself the engine takes what fits

    def split(self, context: int, *, whole: bool = False) -> tuple[list[int], int]:
        """Bytes needed on every device, how many of them in main memory only as GPUs are full; as a `whole`, none."""
        (compute, given), sizes, gpus = self.compute(context), self.layer_bytes(context), self.gpus
        extra = max((self.overhead(at, context, mixed=False) for at in gpus), default=0)
        used = self.draft.split(context)[0] if self.draft else [0] * len(self.devices)
        used[self.projector_at] += self.projector
        for copies in (PIPELINED, 1)[not self.pipelined:]:  # of what goes in
            count = self.offloaded(sizes, extra + compute + (copies - 1) * given, used, whole)
            if count == len(sizes):
                break
        used[self.host] += self.input
        places = {device["name"]: at for at, device in enumerate(self.devices)}
        for name, size in self.elsewhere.items():
            used[places.get(name, self.host)] += size
        left = sum([on_gpu for on_gpu, _ in sizes[:len(sizes) - count]]) - (0 if count else self.tied)
        stays = left + sum([kept for _, kept in sizes])
        used[self.host] += stays
        mixed = stays > 0 or any(name not in places for name in self.elsewhere)
        bounds = [count * share for share in itertools.accumulate(self.shares())]
        for at, (on_gpu, _) in enumerate(sizes[len(sizes) - count:]):
            used[next((gpus[place] for place, bound in enumerate(bounds) if at < bound - 1e-9), gpus[-1])] += on_gpu
        busy = [at for at, device in enumerate(self.devices) if device["kind"] == "gpu" and used[at]]
        correction = (self.model.get("memory_correction") or {}).get("gpu", 0)
        for at in busy:
            besides = compute + (copies - 1) * given + self.overhead(at, context, mixed=mixed) + correction // len(busy)
            used[at] = max(0, used[at] + besides)
        used[self.host] += compute if mixed or not count else copies * given
        if not self.drafts:  # of which this is part
            used[self.host] += sum([max(0, used[at] - device.get("own", 0)) for at, device in enumerate(self.devices)
                                    if device.get("unified")])
        return used, left if gpus and self.parameters.get("n-gpu-layers", -1) < 0 else 0

    def fits(self, context: int, *, whole: bool = False) -> bool:
        """Whether every device has room; as a `whole`, as the engine sees it, which leaves something free."""
        room = "total" if whole and not self.gpus else "free"  # it counts on all of main memory
        return all(not need or self.devices[at][room] is None or
                   need + self.margins.get(at, 0) * whole <= self.devices[at][room]
                   for at, need in enumerate(self.split(context, whole=whole)[0]))

    def largest(self, limit: int, *, whole: bool = False) -> int:
        """The largest context up to `limit` that fits, a multiple of CONTEXT_STEP, or 0."""
        contexts = range(CONTEXT_STEP, limit + 1, CONTEXT_STEP)
        return CONTEXT_STEP * bisect.bisect_left(contexts, True, key=lambda size: not self.fits(size, whole=whole))


def estimate_memory(model: Json, parameters: Json, devices: list[Json], header: GGUFHeader | None = None) -> Json:
    """What a model will need in memory, before it is loaded, in bytes.

    `devices` are as Memory.devices() tells them. `used` of each has what a process takes beside the parts, `spills` is
    what goes to main memory only because the GPUs are full.
    """
    placement = Placement(model, parameters, devices, header or GGUFHeader())
    full = rounded_up(min(model["context_length"] or FIT_MIN_CONTEXT, LARGEST_CONTEXT)) * placement.streams
    context = min(parameters.get("ctx-size", 0), LARGEST_CONTEXT)
    if context <= 0:
        context = full
        if "ctx-size" not in parameters and parameters.get("fit") is not False:
            # The engine shrinks the context before a layer stays in main memory.
            least = min(full, rounded_up(parameters.get("fit-ctx", FIT_MIN_CONTEXT)) * placement.streams)
            context = max(placement.largest(full, whole=True), least)
    used, spills = placement.split(context)
    parts = {"weights": model["file_size"] or 0, "kvCache": sum(placement.cache(context)),
             "compute": placement.compute(context)[0]}
    more = {"projector": placement.projector, "adapters": placement.adapters,
            "draft": sum(placement.draft.split(context)[0]) if placement.draft else 0}
    parts |= {name: size for name, size in more.items() if size}
    return {
        **parts, "total": sum(parts.values()), "context": context,
        "devices": [{**device, "used": need} for device, need in zip(devices, used, strict=True)],
        "fits": placement.fits(context), "spills": spills, "maxContext": placement.largest(full),
    }


# -- Machine and GPUs -----------------------------------------------------------------------------

PROBE_LIMIT = 1.0  # s; what has not answered by then (a hung network mount) is left out
# What may be wrong with a folder, beside an error's own words.
NOT_THERE, NOT_MOUNTED, NO_ANSWER = "is not there", "is empty: what is usually mounted there is not", "does not answer"
MIN_SPAN = 0.2  # s; a rate over less than this says nothing
GPU_WAIT = 0.8  # s that a sample waits for nvidia-smi; what comes later is in the next sample
GPU_PATIENCE = 3.0  # s that a load, or an estimate, waits for it, and for an engine of whose devices no driver tells
GPU_LIMIT = 10.0  # s after which nvidia-smi is ended; without a persistent driver it needs seconds
GPU_DUTY = 0.05  # of the time may be spent in nvidia-smi, so a slow one is asked less often
GPU_RETRY = 60.0  # s to the next look where nothing could be read
SHORT_OUTPUT = 65_536  # bytes read from nvidia-smi; 100 GPUs need less
NVIDIA_FIELDS = "gpu=utilization.gpu,memory.used,memory.total,temperature.gpu,power.draw,name,uuid"
NVIDIA_MORE = ",pci.bus_id,clocks.sm,clocks_throttle_reasons.active,memory.free"  # not known to every driver
# By a GPU that does not answer. Energy is a counter, in J; the clock is in MHz; what slows it down is a list of words.
UNTOLD = dict.fromkeys(("utilization", "memory_used", "temperature", "power", "energy", "clock", "throttled"))
THROTTLING = {"power": 0x84, "heat": 0x60, "hardware": 0x08}  # bits of NVIDIA's reasons; the others are none
PCI_IDS = ("/usr/share/hwdata/pci.ids", "/usr/share/misc/pci.ids")
GPU_MAKERS = {"0x1002": ("amd", "AMD"), "0x8086": ("intel", "Intel")}  # those that Linux shows in its files
# What the drivers amdgpu, xe and i915 tell: its scale, and the files that have it. Intel's two tell nothing about use.
SYSFS_READINGS: dict[str, tuple[Any, ...]] = {
    "utilization": (1, "gpu_busy_percent"),
    "memory_used": (1, "mem_info_vram_used"),
    "memory_total": (1, "mem_info_vram_total", "tile0/physical_vram_size_bytes"),
    "temperature": (1e-3, "hwmon/hwmon*/temp1_input", "hwmon/hwmon*/temp2_input"),
    "power": (1e-6, "hwmon/hwmon*/power1_average", "hwmon/hwmon*/power1_input"),
    "energy": (1e-6, "hwmon/hwmon*/energy1_input"),
    "clock": (1e-6, "hwmon/hwmon*/freq1_input"),
    "shared_used": (1, "mem_info_gtt_used"),  # main memory that a GPU maps
    "shared_total": (1, "mem_info_gtt_total"),
}
# What amdgpu, xe and i915 call a process's share of a GPU's memory, the first that is told, and of main memory.
DRM_MEMORY = ("drm-memory-vram", "drm-resident-vram0", "drm-total-vram0", "drm-total-vram", "drm-resident-local0")
DRM_SHARED = ("drm-memory-gtt", "drm-resident-gtt", "drm-total-gtt")
DRM_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
# By the backend of an engine's device: the maker of its GPUs, and the variables that choose and order them.
BACKEND_GPUS: dict[str, tuple[str, ...]] = {
    "CUDA": ("nvidia", "CUDA_VISIBLE_DEVICES"), "SYCL": ("intel",), "MTL": ("apple",),
    "ROCm": ("amd", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
    "Vulkan": ("", "GGML_VK_VISIBLE_DEVICES")}
# What passes through these passes through a real interface as well, or never leaves the machine.
INNER_INTERFACE = r"lo\d*|Loopback.*|veth.*|br-.*|docker\d+|virbr.*"


def reading(text: str | None, scale: float = 1, kind: type[float] = float) -> Any:
    """`text` times `scale`, as a number of this `kind`; None for what is none: "[N/A]", "[Not Supported]", "nan"."""
    value = readable(lambda: float((text or "").replace(",", ".")) * scale)
    return kind(value) if value is not None and math.isfinite(value) else None


def readable(read: Callable[[], Result]) -> Result | None:
    """What `read` returns; None where this system does not tell: what cannot be read costs only itself."""
    with contextlib.suppress(OSError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError,
                             AttributeError, psutil.Error):  # all of which psutil raises
        return read()
    return None


def file_text(path: Path) -> str | None:
    """The stripped first 4 kB of a small file, or None where it cannot be read."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace", opener=without_waiting) as file:
        return file.read(4096).strip()
    return None


class Probes:
    """Calls that may hang, each in a thread of its own: given up on after a limit, and few at a time for each place."""

    def __init__(self, at_once: int = 1) -> None:
        self.at_once = at_once
        self.running: dict[str, set[asyncio.Future[Any]]] = {}  # by place
        self.hung: set[str] = set()  # places that a call was given up on, until one comes back
        self.limiter = LogLimiter()

    async def call(self, place: str, job: Callable[[], Result], limit: float = PROBE_LIMIT,
                   alive: Callable[[], float] = lambda: -math.inf) -> Result:
        """What `job` returns or raises; Unreachable where it takes more than `limit` s since it was last `alive`."""
        began, running = time.monotonic(), self.running.setdefault(place, set())
        while len(running) >= self.at_once:
            left = began + limit - time.monotonic()
            if place in self.hung or left <= 0:
                raise Unreachable(f"{place} {NO_ANSWER}.")
            await asyncio.wait(running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        answer, began = asyncio.wrap_future(in_own_thread(job)), time.monotonic()
        running.add(answer)
        answer.add_done_callback(functools.partial(self.ended, place))
        while not answer.done() and (left := max(began, alive()) + limit - time.monotonic()) > 0:
            await asyncio.wait([answer], timeout=left)
        if not answer.done():
            self.hung.add(place)
            if self.limiter.is_new(place):
                log.warning("%s %s", place, NO_ANSWER)
            raise Unreachable(f"{place} {NO_ANSWER}.")
        return answer.result()

    def ended(self, place: str, answer: asyncio.Future[Any]) -> None:
        """A call came back, be it too late for anybody to look at what it brings."""
        self.running[place].discard(answer)
        self.hung.discard(place)
        answer.exception()

    async def read(self, place: str, job: Callable[[], Result]) -> Result | None:
        """What `job` returns; None where it fails or hangs."""
        with contextlib.suppress(Unreachable):
            return await self.call(place, lambda: readable(job))
        return None


def in_own_thread(job: Callable[[], Result]) -> concurrent.futures.Future[Result]:
    """What `job` will return; not in a thread of the executor, where a few that hang would hold up all others."""
    answer = concurrent.futures.Future[Result]()
    answer.set_running_or_notify_cancel()  # nobody can cancel it: whoever no longer waits leaves it alone

    def work() -> None:
        try:
            answer.set_result(job())
        except BaseException as problem:
            answer.set_exception(problem)
    threading.Thread(target=work, name="probe", daemon=True).start()
    return answer


def disk(path: str) -> Json:
    """`{path, used, free, total, usage, device}` of the file system that holds `path`; free is what users may take."""
    usage = psutil.disk_usage(path)
    values = {"used": usage.used, "free": usage.free, "total": usage.total, "usage": float(usage.percent)}
    return {"path": path, **(values if usage.total else dict.fromkeys(values)), "device": os.stat(path).st_dev}


async def program_output(*command: str, limit: float, size: int, environment: Mapping[str, str] | None = None,
                         ) -> tuple[str, int | None]:
    """What a short-lived program writes, `size` bytes at most, and its status; TimeoutError after `limit` s."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
        start_new_session=True)
    assert process.stdout
    try:
        written = await asyncio.wait_for(process.stdout.readexactly(size), limit)
    except asyncio.IncompleteReadError as end:
        written = end.partial
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), 1)
    finally:
        status = process.returncode
        kill_group(process.pid)  # with what it may have started; usually nothing is left
        with contextlib.suppress(asyncio.TimeoutError):  # one that hangs in the driver cannot be ended
            await asyncio.wait_for(process.communicate(), 1)  # its pipe is read to the end, or it would stay open
    wide = "utf-16" if written[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-16-le"  # as redirections of Windows write
    return written.decode(wide if b"\0" in written[:4] else "utf-8-sig", "replace"), status


def nvidia_lines(text: str, query: str) -> list[list[str]]:
    """The fields of each line that answers a query to nvidia-smi; a message, as of a card that is lost, has fewer."""
    lines = ([field.strip() for field in re.split(r",(?!\d)", line)] for line in text.splitlines())
    return [line for line in lines if len(line) > min(query.count(","), 5)]  # an old driver leaves out the last ones


def parse_nvidia(text: str) -> dict[str, Json]:
    """GPUs without their index, from what nvidia-smi prints for NVIDIA_FIELDS, by UUID or, untold, their number."""
    gpus, lost = dict[str, Json](), re.findall(r"GPU ?(\d\d?):", text)
    numbers = (number for number in itertools.count() if str(number) not in lost)
    for line in nvidia_lines(text, NVIDIA_FIELDS):
        utilization, used, total, temperature, power, name, uuid, address, clock, slowed, free = [*line, *[""] * 5][:11]
        taken, size, left = (reading(text, 2**20, int) for text in (used, total, free))
        gpus[uuid if uuid.startswith("GPU-") else f"nvidia-{next(numbers)}"] = nvidia_gpu(
            name, address, None, utilization=reading(utilization), temperature=reading(temperature),
            # What the driver keeps for itself is in no process's use, but not free either
            memory_used=taken if None in (size, left) else size - left, memory_total=size,
            power=reading(power), clock=reading(clock), throttled=readable(functools.partial(int, slowed, 16)))
    return gpus


def nvidia_gpu(name: str | None, address: Any, capability: float | None, *, throttled: int | None,
               **values: Any) -> Json:
    """One GPU, from what either of NVIDIA's two interfaces tells of it; `throttled` are its bits."""
    place = re.search(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.\d", str(address).lower())  # some write a longer domain
    slowed = None if throttled is None else [word for word, bits in THROTTLING.items() if throttled & bits]
    name = name if re.match(r"(?!ERR!)[^[]", name or "") else "NVIDIA GPU"
    return {"name": name, "vendor": "nvidia", **UNTOLD, **values, "throttled": slowed,
            "address": place and place[0], "capability": capability}


class NvidiaLibrary:
    """NVIDIA's own library by way of nvidia-ml-py: what nvidia-smi tells, faster, and the energy counter.

    It is opened for each reading: a card in use, if only by us, does not sleep. None of this runs on the loop.
    """

    def __init__(self) -> None:
        self.nvml: Any = importlib.import_module("pynvml")

    def ask(self, what: str, *given: Any) -> Any:
        """What the library's nvmlDeviceGet… returns; None where the library, the driver or the card has no answer."""
        with contextlib.suppress(self.nvml.NVMLError, AttributeError):
            answer = getattr(self.nvml, f"nvmlDeviceGet{what}")(*given)
            return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
        return None

    @contextlib.contextmanager
    def cards(self, awake: list[str] | None) -> Iterator[list[tuple[Any, Any]]]:
        """All cards or those `awake` with their handles, None of one that is lost; then the parts of each (MIG)."""
        try:
            self.nvml.nvmlInitWithFlags(0 if awake is None else self.nvml.NVML_INIT_FLAG_NO_ATTACH)
        except self.nvml.NVMLError as problem:
            raise OSError(str(problem)) from None
        try:
            cards = [(place, self.ask(f"HandleBy{'Index' if awake is None else 'PciBusId'}", place))
                     for place in (range(self.ask("Count") or 0) if awake is None else awake)]
            parts = [(place, self.ask("MigDeviceHandleByIndex", card, at)) for place, card in cards if card is not None
                     for at in range(self.ask("MaxMigDeviceCount", card) or 0)]
            yield [*cards, *(item for item in parts if item[1] is not None)]
        finally:
            self.nvml.nvmlShutdown()

    def read(self, awake: list[str] | None) -> tuple[dict[str, Json], list[str]]:
        """The GPUs and their parts by UUID, and what is wrong with others."""
        with self.cards(awake) as cards:
            return ({self.ask("UUID", card) or f"nvidia-{place}": self.card(card)
                     for place, card in cards if card is not None},
                    [f"GPU {place} does not answer" for place, card in cards if card is None])

    def card(self, card: Any) -> Json:
        """What one card tells."""
        use, memory, address, power, energy, capability = (self.ask(what, card) for what in (
            "UtilizationRates", "MemoryInfo", "PciInfo", "PowerUsage", "TotalEnergyConsumption",
            "CudaComputeCapability"))
        return nvidia_gpu(
            self.ask("Name", card), address and address.busId, capability and float(".".join(map(str, capability))),
            utilization=use and float(use.gpu), memory_used=memory and memory.used, power=power and power / 1000,
            memory_total=memory and memory.total, temperature=self.ask("Temperature", card, 0),
            energy=energy and energy / 1000, clock=self.ask("ClockInfo", card, 1),
            throttled=self.ask("CurrentClocksThrottleReasons", card))

    def memory_of(self, awake: list[str] | None, pid: int) -> dict[str, int]:
        """Bytes that a process takes on each GPU, by its UUID, be it for computing or, with Vulkan, for graphics."""
        with self.cards(awake) as cards:
            used = {self.ask("UUID", card): [
                process.usedGpuMemory for kind in ("Compute", "Graphics") for process in
                self.ask(f"{kind}RunningProcesses", card) or () if process.pid == pid and process.usedGpuMemory]
                for _, card in cards if card is not None}
        return {uuid: max(sizes) for uuid, sizes in used.items() if sizes}


class NvidiaGpus:
    """NVIDIA GPUs, through NVIDIA's library or one short call of nvidia-smi at a time: 30 ms with a loaded driver."""

    def __init__(self, program: str | None = None, pci: Path = Path("/sys/bus/pci/devices"),
                 board: Path = Path("/proc/device-tree/model")) -> None:
        self.program, self.pci, self.board = program, pci, board
        self.library = NvidiaLibrary() if not program and importlib.util.find_spec("pynvml") else None
        self.query = NVIDIA_FIELDS + NVIDIA_MORE
        self.patience = Probes()
        self.limiter = LogLimiter()
        self.gpus: dict[str, Json] = {}
        self.error: str | None = None
        self.next_at = -math.inf
        self.task: asyncio.Task[None] | None = None

    async def read(self, *, fresh: bool = False) -> dict[str, Json]:
        """The GPUs as last read, or, due or `fresh`, as read from now on unless that is slow; nulls after a failure."""
        limit = GPU_PATIENCE if fresh else GPU_WAIT
        if fresh and self.task:
            await asyncio.wait([self.task], timeout=limit)
        if self.task is None and (time.monotonic() >= self.next_at or (fresh and self.error is None and self.gpus)):
            self.task = asyncio.create_task(self.ask())
        if self.task:
            await asyncio.wait([self.task], timeout=limit)
        return self.gpus

    async def ask(self) -> None:
        """Read all that are awake once, and decide when to do so again."""
        began, least = time.monotonic(), GPU_RETRY
        untold = {id: {**gpu, **UNTOLD} for id, gpu in self.gpus.items()}
        try:
            awake = await self.awake()
            found, problems = ({}, []) if awake == [] else await self.readings(awake)
            asleep = {id: {**gpu, "asleep": True} for id, gpu in untold.items()
                      if awake is not None and gpu["address"] not in awake}
            self.gpus, self.error = {**asleep, **found}, None
            least = 0.0 if found or awake == [] else GPU_RETRY
        except OSError as problem:
            self.gpus, self.error, problems = untold, str(problem), [str(problem)]
        finally:
            now = time.monotonic()
            self.task, self.next_at = None, now + max(least, (now - began) / GPU_DUTY)
        for line in problems:
            if self.limiter.is_new(line, pause=DAY / 1000):
                log.warning("GPU readings: %s", line)

    def cards(self) -> dict[str, str | None]:
        """NVIDIA's cards on the PCI bus: the address of each with its state; reads files."""
        return {card.name: file_text(card / "power/runtime_status") for card in self.pci.glob("*")
                if file_text(card / "vendor") == "0x10de" and (file_text(card / "class") or "")[:4] == "0x03"}

    async def awake(self) -> list[str] | None:
        """The addresses of the cards that do not sleep, as those of laptops do; None where none does."""
        found = await asyncio.wrap_future(in_own_thread(self.cards))
        return [name for name in found if found[name] != "suspended"] if "suspended" in found.values() else None

    async def readings(self, awake: list[str] | None) -> Any:
        """The GPUs and what is wrong with some; none without NVIDIA's programs, OSError where these do not answer."""
        if found := await self.told("read", awake):
            return found
        text = await self.output(self.query, awake)
        if "is not a valid field" in text:
            self.query = NVIDIA_FIELDS
            text = await self.output(self.query, awake)
        if not text and (board := file_text(self.board) or "").startswith("NVIDIA"):  # such as a Jetson
            return {"board": nvidia_gpu(board.strip("\0"), None, None, throttled=None, memory_total=None)}, []
        return parse_nvidia(text), [line for line in text.splitlines() if not parse_nvidia(line)]

    async def told(self, method: str, *given: Any) -> Any:
        """What NVIDIA's library tells; None where it cannot be used, and nvidia-smi is to be asked."""
        if self.library:
            with contextlib.suppress(OSError, Unreachable):
                job = functools.partial(getattr(self.library, method), *given)
                return await self.patience.call("NVIDIA's driver", job, GPU_LIMIT)
        return None

    async def output(self, query: str = "", awake: list[str] | None = None) -> str:
        """What nvidia-smi prints, for a query or of itself; nothing without it, OSError where it fails."""
        program = self.program or await asyncio.wrap_future(in_own_thread(
            lambda: shutil.which("nvidia-smi") or shutil.which("/usr/lib/wsl/lib/nvidia-smi")))
        if not program:
            return ""
        options = [f"--query-{query}", "--format=csv,noheader,nounits"] if query else []
        options += [f"--id={','.join(awake)}"] if awake else []
        try:
            text, status = await program_output(program, *options, limit=GPU_LIMIT, size=SHORT_OUTPUT)
        except asyncio.TimeoutError:
            raise OSError(f"{program} did not end within {GPU_LIMIT:g} s") from None
        if status is None:
            raise OSError(f"{program} prints without end")
        if status and not nvidia_lines(text, query) and "is not a valid field" not in text:
            if "No devices were found" in text and not self.cards():
                return ""
            raise OSError(f"{program} failed ({status}): {' '.join(text.split())[:200]}")
        return text

    async def cuda(self) -> int | None:
        """The major version of CUDA that the driver runs."""
        with contextlib.suppress(OSError):
            found = re.search(r"CUDA(?: UMD)? Version *: *(\d{1,3})\.", await self.output())
            return int(found[1]) if found else None
        return None

    async def memory_of(self, pid: int) -> dict[str, int]:
        """Bytes that a process takes on each GPU, by its UUID."""
        awake, query = await self.awake(), "compute-apps=gpu_uuid,pid,used_memory"
        if (taken := await self.told("memory_of", awake, pid)) is not None:
            return dict(taken)
        with contextlib.suppress(OSError):
            apps = nvidia_lines(await self.output(query, awake), query) if awake != [] else []
            return {uuid: taken for uuid, owner, used in apps
                    if owner == str(pid) and (taken := reading(used, 2**20, int)) is not None}
        return {}

    async def close(self) -> None:
        """End a call that is under way."""
        if self.task:
            self.task.cancel()
            await asyncio.wait([self.task])


def system_gpus(root: Path = Path("/sys/class/drm")) -> dict[str, Json]:
    """The GPUs that the system itself shows: Apple's, and under Linux AMD's and Intel's by their PCI address."""
    found = {}
    if sys.platform == "darwin" and platform.machine() == "arm64":  # whose GPU has the machine's memory
        total, free = main_memory()
        found["apple"] = {"name": f"{processor_name()} GPU", "vendor": "apple", **UNTOLD,
                          "memory_used": total - free, "memory_total": total, "unified": True}
    cards = {int(card.name[4:]): card / "device" for card in root.glob("card*") if card.name[4:].isdigit()}
    for _, device in sorted(cards.items()):
        if gpu := sysfs_gpu(device):
            address = os.path.basename(os.path.realpath(device)) if device.is_symlink() else device.parent.name
            found[address] = {**gpu, "address": address}
    return found


def sysfs_gpu(device: Path) -> Json | None:
    """One card, of which is null what it does not tell; None if it is of another maker or tells nothing."""
    maker = file_text(device / "vendor") or ""
    if maker not in GPU_MAKERS:
        return None
    asleep = file_text(device / "power/runtime_status") == "suspended"
    values: Json = {**dict.fromkeys(SYSFS_READINGS), **UNTOLD}
    for name, (scale, *patterns) in {} if asleep else SYSFS_READINGS.items():
        found = (reading(file_text(path), scale, int if scale == 1 else float)
                 for item in patterns for path in sorted(device.glob(item)))
        values[name] = next((value for value in found if value is not None), None)
    if maker == "0x8086" and set(values.values()) == {None}:
        return None  # a processor's own graphics, which shows nothing and computes nothing
    used, total = values.pop("shared_used"), values.pop("shared_total")
    own_used, own = values["memory_used"] or 0, values["memory_total"] or 0
    unified = 0 < own < USEFUL_GPU or any(file_text(path) == "vddnb" for path in device.glob("hwmon/hwmon*/in1_label"))
    if unified and total:  # of an APU: this is a carve-out of main memory, of which it has more
        values |= {"memory_used": own_used + (used or 0), "memory_total": own + total, "own": [own_used, own]}
    vendor, brand = GPU_MAKERS[maker]
    maker, model = maker[2:], (file_text(device / "device") or "")[2:]
    own = file_text(device / "product_name") or file_text(device / "marketing_name")
    name = own or pci_name(maker, model) or f"{brand} GPU {maker}:{model}".rstrip(":")
    return {"name": name, "vendor": vendor, **values, "unified": unified, **({"asleep": True} if asleep else {})}


def drm_memory(pid: int, unified: Iterable[str] = ()) -> collections.Counter[str]:
    """Bytes that a process takes on each GPU by its address on the PCI bus, as AMD's and Intel's drivers tell."""
    clients: dict[tuple[str, str], int] = {}  # a process has several files of one client
    for path in Path(f"/proc/{pid}/fdinfo").glob("*"):
        facts = dict(re.findall(r"(?m)^(drm-[\w-]+):[ \t]*(.*\S)", file_text(path) or ""))
        address, sizes = facts.get("drm-pdev", ""), []
        for kind in (DRM_MEMORY, DRM_SHARED) if address in unified else (DRM_MEMORY,):
            amount, _, unit = next((facts[key] for key in kind if key in facts), "").partition(" ")
            sizes.append(reading(amount, DRM_UNITS.get(unit, 1), int))
        if address and any(size is not None for size in sizes):
            clients[address, facts.get("drm-client-id", path.name)] = sum(filter(None, sizes))
    taken = collections.Counter[str]()
    for (address, _), amount in clients.items():
        taken[address] += amount
    return taken


@functools.cache
def pci_name(maker: str, model: str) -> str | None:
    """The name of a PCI device, from the list that distributions carry."""
    for path in map(Path, PCI_IDS):
        text = readable(functools.partial(path.read_text, "utf-8", "replace")) or ""
        if line := re.search(rf"(?m)^{maker}  .*\n(?:[\t#].*\n)*?\t{model}  (?:.*?\[(.+)\].*|(.*))$", text):
            return line[1] or line[2]
    return None


def engine_order(backend: str, gpus: Mapping[str, Json], environment: Mapping[str, str]) -> list[str]:
    """The ids of the GPUs that a backend can use, in the order in which it most likely numbers them."""
    vendor, *variables = BACKEND_GPUS.get(backend, ("",))
    ids = sorted((id for id, gpu in gpus.items() if vendor in ("", gpu["vendor"]) and not gpu.get("lost")),
                 key=lambda id: gpus[id].get("address") or "")
    if backend == "CUDA" and environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":  # then the fastest comes first
        ids.sort(key=lambda id: (-(gpus[id].get("capability") or 0), -(gpus[id]["memory_total"] or 0)))
    for variable in variables:
        listed = [part.strip() for part in environment.get(variable, "").split(",") if part.strip()]
        shown = [id for part in listed for at, id in enumerate(ids)
                 if (at == int(part) if re.fullmatch(r"\d{1,3}", part) else id.startswith(part))]
        ids = list(dict.fromkeys([*shown, *ids]))  # the others last: what is told of a device decides
    return ids


def gpu_places(places: list[str], present: Iterable[str]) -> list[str]:
    """`places` with those of `present` that are new there: each in the place of one that is gone, or at the end."""
    places, present = list(places), list(present)
    for id in present:
        if id not in places:
            at = next((at for at, other in enumerate(places) if other not in present), len(places))
            places[at:at + 1] = [id]
    return places


class Machine:
    """CPU, memory, network and this process; what is a rate counts from the sample before."""

    def __init__(self) -> None:
        self.process: Any = readable(psutil.Process)
        self.measured_at = -math.inf
        self.counters: dict[str, tuple[int, int]] = {}  # of the network's interfaces
        self.sample(0)  # which rates count from

    def network(self, span: float) -> Iterable[float | None]:
        """Bytes per second received and sent in the `span` s since the last call; None without interfaces."""
        read = readable(lambda: psutil.net_io_counters(pernic=True, nowrap=False)) or {}
        before, self.counters = self.counters, {name: (item.bytes_recv, item.bytes_sent) for name, item in read.items()
                                                if not re.fullmatch(INNER_INTERFACE, name)}
        known = [(values, before[name]) for name, values in self.counters.items() if name in before]
        return (sum(new[way] - old[way] if new[way] >= old[way] else new[way] for new, old in known) / span
                if known else None for way in (0, 1))

    def sample(self, lag: float) -> Json:
        """Their part of a sample, in well under a millisecond; `lag` is the loop's, in seconds."""
        now = time.monotonic()
        measured = now - self.measured_at >= MIN_SPAN
        received, sent = self.network(now - self.measured_at) if measured else (None, None)
        self.measured_at = now if measured else self.measured_at
        memory, swap = readable(psutil.virtual_memory), readable(psutil.swap_memory)
        counted = sum(readable(psutil.cpu_times) or ()) > 0  # by a system that counts
        return {
            "cpu_usage": readable(lambda: float(psutil.cpu_percent())) if measured and counted else None,
            "memory_usage": float(memory.percent) if memory else None,
            "swap_usage": float(swap.percent) if swap and swap.total else None,
            "memory_used": memory and memory.total - memory.available, "memory_total": memory and memory.total,
            "load_average": readable(lambda: list(os.getloadavg())),
            "uptime": readable(lambda: int(time.time() - psutil.boot_time())),
            "network_received": received, "network_sent": sent,
            "process": {"cpu": readable(lambda: float(self.process.cpu_percent())) if measured else None,
                        "memory": readable(lambda: int(self.process.memory_info().rss)), "lag": round(lag * 1000, 1)}}


def main_memory(cgroups: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Bytes of main memory, and of those that are free, within the limit of a container or a unit."""
    if memory := readable(psutil.virtual_memory):
        total, free = int(memory.total), int(memory.available)
    else:  # /proc is closed
        page, pages, unused = (os.sysconf(f"SC_{name}") for name in ("PAGE_SIZE", "PHYS_PAGES", "AVPHYS_PAGES"))
        total, free = page * pages, page * unused
    own = re.search(r"(?m)^0::(/.*)$", file_text(Path("/proc/self/cgroup")) or "")
    inner, size = cgroups / (own[1] if own else "").lstrip("/"), total
    for folder, limit, used in (*((place, "memory.max", "memory.current") for place in (inner, *inner.parents)),
                                (cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")):
        if (most := reading(file_text(folder / limit), 1, int)) and most < size:
            cached = re.search(r"(?m)^inactive_file (\d+)$", file_text(folder / "memory.stat") or "")
            taken = (reading(file_text(folder / used), 1, int) or 0) - int(cached[1] if cached else 0)
            total, free = min(total, most), max(0, min(free, most - taken))
    return total, free


class Sampler:
    """Reads the machine once per interval, for everybody: saved, and broadcast as metrics:update."""

    def __init__(self, dash: Dash) -> None:
        self.dash = dash
        self.latest: Json | None = None
        self.probes = Probes()
        self.nvidia = NvidiaGpus()
        self.system_gpus: Callable[[], dict[str, Json]] = system_gpus
        self.gpus: dict[str, Json] = {}  # those seen so far, as last read, by a sample or between two
        self.addresses: dict[str, str] = {}  # on the PCI bus, of the engine's devices, as engines tell them
        self.gpu_places = [*map(str, dash.db.get_meta("gpus", []))]  # by index, so that one that is lost moves no other
        self.changed = asyncio.Event()  # of the interval
        self.one_at_a_time = asyncio.Lock()  # the rates are differences between two samples
        self.machine = Machine()

    async def run(self) -> None:
        """Sample, save and broadcast every `metrics_interval` seconds until cancelled."""
        last, soon = time.monotonic(), 1.0  # s; CPU use needs some time to be measured over
        try:
            while True:
                while (left := last + min(soon, self.dash.settings["metrics_interval"]) - time.monotonic()) > 0:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self.changed.wait(), left)
                    self.changed.clear()
                last, soon = time.monotonic(), math.inf
                await self.tick()
        finally:
            await self.nvidia.close()

    async def tick(self) -> None:
        """Take one sample, save it and send it to everybody."""
        metrics = await self.sample()
        await self.dash.chore("metrics", self.dash.db.add_metrics, metrics, metrics["timestamp"])
        await self.dash.broadcast("metrics:update", {"metrics": metrics})
        await self.dash.alerts.look(metrics)
        await self.dash.pool.memory.watch_others()
        await self.dash.energy.count()

    async def sample(self) -> Json:
        """One sample, in the Metrics shape; it becomes `latest`."""
        async with self.one_at_a_time:
            paths = dict.fromkeys(map(str, [self.dash.config.data_dir, *self.dash.folders()]))
            jobs = [self.probes.read(path, functools.partial(disk, path)) for path in paths]
            read, gpus = await asyncio.gather(asyncio.gather(*jobs), self.read_gpus())
            disks: dict[Any, Json] = {}  # once for each file system, and nulls for one that does not answer
            for path, answer in zip(paths, read, strict=True):
                entry = answer or {"path": path, **dict.fromkeys(("used", "free", "total", "usage"))}
                disks.setdefault(entry.pop("device", path), entry)
            first, *_ = disks.values()
            self.latest = {
                "timestamp": now_ms(), **self.machine.sample(self.dash.lag), "disks": [*disks.values()],
                **{f"disk_{key}": first[key] for key in ("usage", "used", "free", "total")},
                "gpus": gpus, "engine": self.dash.requests.counters()}
            return self.latest

    async def read_gpus(self, *, fresh: bool = False) -> list[Json]:
        """All GPUs as they are now, NVIDIA's and the others; each keeps the index it once had."""
        sensors, nvidia = await asyncio.gather(
            self.probes.read("GPU sensors", self.system_gpus), self.nvidia.read(fresh=fresh))
        if sensors is None:  # they are late, and no GPU is lost
            sensors = {id: {**gpu, **UNTOLD} for id, gpu in self.gpus.items()
                       if gpu["vendor"] != "nvidia" and not gpu.get("lost")}
        found = {**nvidia, **sensors}
        if found.keys() - self.gpus.keys():
            self.dash.pool.changed.set()  # whether a build can use them
        places = gpu_places(self.gpu_places, found)
        known = {**self.gpus, **found}  # in the drivers' order, which is the engine's
        for id, gpu in self.gpus.items():
            if bool(gpu.get("lost")) == (id in found):
                self.dash.event("gpu", reason=f"GPU {gpu.get('index', 0)} ({gpu['name']}) "
                                              f"{'answers again' if id in found else 'does not answer'}")
        self.gpus = {id: {**(found.get(id) or {**gpu, **UNTOLD, "lost": True}), "index": places.index(id)}
                     for id, gpu in known.items() if id in places}
        if places != self.gpu_places and not self.nvidia.task:  # which will tell of further ones
            self.gpu_places = places
            await self.dash.chore("order of GPUs", self.dash.db.set_meta, "gpus", places)
        return sorted(self.gpus.values(), key=lambda gpu: int(gpu["index"]))

    def readings(self, devices: Iterable[Json]) -> list[tuple[Json, str | None]]:
        """Each of the engine's devices with the id of its GPU: by the address that an engine told, else by likeness."""
        devices = list(devices)
        found, taken = dict[str, str | None](), set[tuple[str, str | None]]()
        for device in sorted(devices, key=lambda device: device["name"] not in self.addresses):
            backend = re.sub(r"\d+$", "", device["name"])
            rest = {id: self.likeness(device, self.gpus[id]) for id in engine_order(backend, self.gpus, os.environ)
                    if (backend, id) not in taken}
            found[device["name"]] = max(filter(rest.get, rest), key=rest.__getitem__, default=None)
            taken.add((backend, found[device["name"]]))
        return [(device, found[device["name"]]) for device in devices]

    def likeness(self, device: Json, gpu: Json) -> tuple[bool, ...]:
        """How much speaks for a GPU being a device, as a key; empty where it cannot be."""
        told, total = self.addresses.get(device["name"]), gpu["memory_total"]
        close = total is not None and abs(total - device["total"]) < device["total"] / 8
        possible = close or total is None or bool(gpu.get("unified"))
        if told and gpu.get("address"):
            return (True,) if told == gpu["address"] and possible else ()  # a part of a card has the card's address
        names = [name.lower() for name in (device["description"], gpu["name"])]
        named = bool(names[0]) and (names[0] in names[1] or names[1] in names[0])
        return (False, close, named) if possible else ()

    def memories(self, engine_devices: list[Json]) -> list[Json]:
        """The engine's devices and main memory: [{name, kind, total, free, unified: with it but for its own, told: by a
        driver, integrated, gpu: its index}]."""
        (main_total, main_free), memories = main_memory(), []
        for device, id in self.readings(engine_devices):
            gpu, total, free = self.gpus.get(id or "", Json()), device["total"], device["free"]
            whole = gpu.get("vendor") == "apple"  # models may have a part of the machine's memory
            used, size = (gpu.get(key) if not whole else None for key in ("memory_used", "memory_total"))
            integrated = bool(device.get("unified") or gpu.get("unified") or (
                gpu.get("vendor") == "nvidia" and size is None and total > 0.9 * main_total))
            own_used, own = gpu.get("own") or (0, 0)
            unified = integrated and total > 1.125 * own  # else that is all that this build takes of it
            if unified:
                total = max(total, size or 0)
                free = min(total - (used or 0), own - own_used + main_free)
            elif integrated:
                total, free = own, own - own_used
            elif used is not None and size is not None:
                total, free = size, size - used
            told = bool(gpu) and (integrated or used is not None or "asleep" in gpu)
            memories.append({**device, "kind": "gpu", "total": total, "free": free, "unified": unified, "told": told,
                             "own": own, "integrated": integrated, "gpu": gpu.get("index")})
        return [*memories, {"name": "Main memory", "kind": "cpu", "total": main_total, "free": main_free}]

    async def gpu_memory_of(self, pid: int, devices: Sequence[Json]) -> dict[str, int]:
        """Bytes that a process takes on each of the `devices` of its build, as far as the drivers tell."""
        if not devices:
            return {}
        unified = {id for id, gpu in self.gpus.items() if gpu.get("unified")}
        taken, drm = await asyncio.gather(self.nvidia.memory_of(pid), asyncio.to_thread(drm_memory, pid, unified))
        taken |= drm
        return {device["name"]: taken[id] for device, id in self.readings(devices) if id in taken}


@functools.cache
def processor_name() -> str | None:
    """The processor's model as its maker calls it."""
    told = readable(lambda: Path("/proc/cpuinfo").read_text("utf-8", "replace")) or ""
    if found := re.search(r"(?m)^(?:model name|Hardware|Model)\s*:\s*(.+)$", told):
        return found[1].strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, timeout=2).stdout.strip() or None
    return platform.processor() or platform.machine() or None


def files_size(*paths: Path) -> int:
    """Bytes of those of `paths` that exist."""
    return sum(readable(functools.partial(os.path.getsize, path)) or 0 for path in paths)


@on("metrics:get", error="GET_METRICS_FAILED")
async def metrics_get(dash: Dash) -> Json:
    """The latest sample."""
    return {"metrics": dash.sampler.latest or await dash.sampler.sample()}


@on("metrics:history", error="GET_METRICS_HISTORY_FAILED")
async def metrics_history(dash: Dash, *, from_: Timestamp, to: Timestamp,
                          points: Annotated[int, Range(1, 1000)] = 500,
                          series: Annotated[list[str], Length(1, 100)] | None = None) -> Json:
    """Averages and maxima of each series between two times, in `points` equal buckets at most."""
    if to <= from_:
        raise InvalidRequest("to must be later than from", field="to")
    interval, kept = float(dash.settings["metrics_interval"]), dash.settings["metrics_retention_days"] * DAY
    return await asyncio.to_thread(
        dash.db.metrics_history, from_, to, points, series, interval=interval, minutes_kept=kept)


# -- Library --------------------------------------------------------------------------------------

FOLDER_LIMIT = 10.0  # s without a step forward after which a folder is given up on; a disk that wakes up needs as long
FOLDER_THREADS = 4  # that may hang in one folder at the same time
FOLDER_PAUSE = (2.0, 15.0)  # s between two looks at a folder: after a change, and at most
FOLDER_DUTY = 0.01  # of the time may be spent in looking at one
WATCHED = 0x3C8  # inotify's numbers of what changes a folder: written and closed, moved from and to, created, deleted
SCAN_BROADCAST = 0.2  # seconds between two messages about a scan's progress
MAX_FOLDER_DEPTH = 12  # levels; the deepest usual layout, the Hugging Face cache, has 4
MAX_FOLDER_ENTRIES = 200_000  # names looked at in one scan
MAX_MODEL_FILES = 20_000  # GGUF files in one scan
MAX_SKIPPED = 2000  # skipped files told to a client
MAX_MODEL_SHARDS = 9999
MAX_NAME = 200  # characters of a model's name
MAX_ID = 96
SHARD = r"(?is)(.+)-(\d{5})-of-(\d{5})\.gguf"
# A piece of a file that was cut up to be sent: x.gguf.part1of2, x.gguf-split-a, x.gguf.001 or x.part2of3.gguf.
PIECE_NAME = re.compile(r"(?is)(.+\.gguf)(?:[-._ ]*(?:split|part)[-._ ]*|\.(?=\d\d|a[a-z]$))(?:\d{1,4}|[a-z]{1,2})"
                        r"(?:[-._ ]*of[-._ ]*(\d{1,4}))?|(.+)[-._ ]part\d{1,4}of(\d{1,4})(\.gguf)")
# What others name a copy of x.gguf: x.gguf.1, x.gguf(1), x.gguf~, x.gguf.bak or, where endings are hidden, x.gguf.txt.
COPY_NAME = re.compile(r"(?is)(.+\.gguf)(?:\.\d| ?\(\d{1,3}\)|~|\.(?:bak|backup|old|orig|txt))")
# Other files that a model may be in, by the ends of their names, and what helps.
OTHER_FILES = tuple((re.compile(f"(?i)(?:{pattern})$"), advice) for pattern, advice in (
    (r"\.gguf\.(?:(?:file)?part|partial|tmp|(?:op)?download|!qb|!ut)|\.incomplete|\.crdownload",
     "an incomplete download"),
    (r"\.gguf\.aria2", "an incomplete download: aria2 has not finished the file beside it, which cannot be loaded yet"),
    (r"\.(?:zip|7z|rar|tar|tgz|gz|bz2|xz|zst)(?:\.\d{3})?", "an archive: unpack it here"),
    (r"\.(?:safetensors|nemo|pth?|ckpt|onnx|h5|npz|tflite|task|litertlm)|pytorch_model.*\.bin",
     "weights for other programs: download them as GGUF, or make that with llama.cpp's convert_hf_to_gguf.py"),
    (r"^sha256-[0-9a-f]{64}", "of Ollama: `ollama show --modelfile MODEL` says which is one; link it as NAME.gguf"),
    (r"\.llamafile", "a llamafile, with a model inside: unpack it here with unzip"),
    (r"\.gguf-\d{5}-of-\d{5}", "parts of a model: the engine wants them named NAME-00001-of-00002.gguf and so on"),
    (r"ggml.*\.bin|\.ggml", "a GGML file, which llama.cpp no longer reads: download the model as GGUF")))
QUANTIZATION_WORD = r"i?q\d+|tq\d+|[kmsl01]|x+[sl]|(b?f|fp)\d+|(mx|nv)fp4|ud|mmproj|model|moe|gguf"
NEUTRAL_WORD = r"[\d.]+[bmkx]?|[ae]\d+b|instruct|chat|it|base|vl|v\d+"  # which models of different families share
DRAFT_WORDS = {"draft", "drafter", "eagle", "eagle3", "dflash", "dspark", "mtp"}  # of models that only guess ahead
QUANTIZATION_FOLDER = r"(?i)(?:.*[-._ ])?(?:i?q\d\w*|tq\d_\d|b?f(?:p)?\d\d|(?:mx|nv)fp4\w*)"
LETTERS = dict(re.findall(r"(\S)(\S*)", (  # which read otherwise than their names in Unicode say
    "гg еe ёyo йy лl мm нn рr сs фf хkh ъ ь юyu яya іi їyi єye ґg ћc џdz ßss ðd þth "
    "ාaa ැae ෑae ිi ීii ුu ූu ෙe ේe ෛai ොo ෝo ෞau ෘr")))
LETTER_NAME = (r"(\w+).* (?:LETTER|LIGATURE|SYLLABLE|SYLLABICS|CHARACTER|VOWEL SIGN) (?:(?:SMALL|CAPITAL|FINAL|SHORT|"
               r"OPEN|TURNED|REVERSED|DOTLESS|FARSI|SARA|CANDRA|GLOTTAL|PHARYNGEAL|[A-Z]+-CREE|DANTAJA|MUURDHAJA|"
               r"TAALUJA|(?:ALPA|MAHAA)PRAANA) )*([A-Z]+?)(?:YANNA)?(?![A-Z]).*")
CONSONANTS = "ADLAM|ARABIC|ARMENIAN|COPTIC|CYRILLIC|GEORGIAN|GREEK|HEBREW|LAO|SYRIAC|THAANA|THAI"
# The readings of the common ideographs in GB 2312's order, which is that of the readings: how many have each final.
PINYIN = (initial + final for initial, finals in re.findall(r"([a-z]*):(\w+)", (
    ":a2ai13an9ang3ao9 b:a18ai8an15ang12ao17ei15en4eng6i24ian12iao4ie4in6ing9o19u11 c:a1ai11an7ang5ao5e5eng2 ch:a11ai3a"
    "n10ang13ao9e6en10eng15i16ong5ou12u16uai1uan7uang6ui5un7uo2 c:i12ong6ou1u4uan3ui8un3uo6 d:a6ai12an15ang5ao12e3eng7i"
    "19ian16iao9ie7ing9iu1ong10ou8u14uan6ui4un9uo12 :e13en1er8 f:a8an17ang11ei12en15eng15o1ou1u45 g:a2ai6an11ang9ao10e1"
    "7ei1en2eng7ong15ou9u18ua6uai3uan11uang3ui16un3uo6 h:a1ai7an19ang3ao9e18ei2en4eng5ong9ou7u18ua9uai5uan14uang14ui21u"
    "n6uo10 j:i53ia17ian40iang13iao28ie27in20ing25iong2iu17u25uan7ue10un11 k:a4ai5an6ang7ao4e15en4eng2ong4ou4u7ua5uai4u"
    "an2uang8ui11un4uo4 l:a7ai3an15ang7ao9e2ei11eng3i34ia1ian14iang11iao13ie5in12ing14iu11ong9ou6u34uan6ue2un7uo12 m:a9"
    "ai6an9ang6ao12e1ei16en3eng8i14ian9iao8ie2in6ing6iu1o17ou3u15 n:a7ai5an3ang1ao5e1ei2en1eng1i11ian7iang2iao2ie7in1in"
    "g6iu4ong4u4uan1ue2uo4 :o1ou7 p:a6ai6an8ang5ao7ei9en2eng14i17ian4iao4ie2in5ing9o8ou1u15 q:i36ia3ian22iang8iao15ie5i"
    "n11ing13iong2iu8u13uan11ue8un2 r:an4ang5ao3e2en10eng2i1ong10ou3u10uan2ui3un2uo2 s:a3ai4an4ang3ao4e3en1eng1 sh:a9ai"
    "2an16ang8ao11e12en16eng11i47ou10u33ua2uai4uan2uang3ui4un4uo4 s:i16ong8ou4u12uan3ui11un3uo8 t:a9ai9an18ang13ao11e1e"
    "ng4i15ian8iao5ie3ing10ong13ou4u11uan2ui6un3uo11 w:a7ai2an17ang10ei33en10eng3o9u29 x:i35ia13ian26iang20iao18ie21in1"
    "0ing15iong7iu9u19uan10ue6un14 y:a16an33ang17ao15e15i53in16ing18o1ong15ou20u45uan20ue10un12 z:a3ai7an4ang3ao14e4ei1"
    "en1eng4 zh:a14ai6an17ang15ao10e10en16eng15i43ong11ou14u26ua2uai1uan6uang7ui6un2uo11 z:i15ong7ou4u8uan2ui4un2uo8"))
    for final, count in re.findall(r"(\D+)(\d+)", finals) for _ in range(int(count)))
LETTERS |= zip(bytes(half for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF) for half in (row, cell)).decode(
    "gb2312", "ignore"), PINYIN, strict=False)
TRADITIONAL = (  # forms of common ideographs, each before the one that is read there
    "愛爱罷罢備备貝贝筆笔畢毕邊边變变標标錶表別别並并補补佈布財财參参倉仓層层產产長长嘗尝場场廠厂車车徹彻塵尘陳陈稱称遲迟齒齿衝冲蟲虫處处觸触傳传創创純纯詞词從从聰聪錯错達达帶带單单擔担當当黨党導导島岛燈灯鄧邓敵敌遞递點点電电調调"
    "釘钉訂订東东動动凍冻獨独讀读斷断對对隊队頓顿奪夺額额惡恶兒儿爾尔發发髮发罰罚閥阀煩烦範范飯饭訪访飛飞費费廢废紛纷憤愤風风豐丰鳳凤復复複复負负婦妇該该蓋盖趕赶剛刚綱纲鋼钢個个給给鞏巩溝沟構构購购夠够顧顾關关觀观館馆慣惯廣广規规"
    "歸归貴贵國国過过漢汉號号後后護护戶户華华畫画話话劃划壞坏歡欢環环還还換换黃黄會会匯汇彙汇繪绘獲获貨货禍祸機机積积極极級级幾几際际濟济繼继記记計计紀纪夾夹價价駕驾堅坚間间監监艱艰檢检減减簡简見见鑑鉴鍵键將将獎奖講讲醬酱膠胶腳脚"
    "較较階阶節节結结潔洁緊紧僅仅進进盡尽勁劲經经驚惊競竞靜静鏡镜糾纠舊旧舉举據据劇剧絕绝覺觉軍军開开課课顆颗塊块礦矿況况虧亏擴扩闊阔來来賴赖蘭兰攔拦藍蓝樂乐類类淚泪離离裡里裏里禮礼歷历曆历麗丽勵励厲厉聯联連连練练戀恋糧粮兩两輛辆"
    "諒谅遼辽療疗獵猎臨临靈灵領领劉刘龍龙樓楼爐炉錄录陸陆驢驴綠绿慮虑亂乱論论輪轮羅罗邏逻馬马買买賣卖麥麦滿满貓猫沒没門门們们夢梦彌弥麵面滅灭謀谋畝亩納纳難难腦脑鬧闹內内擬拟鳥鸟寧宁農农濃浓諾诺歐欧盤盘賠赔噴喷鵬鹏騙骗貧贫頻频憑凭"
    "蘋苹評评撲扑樸朴齊齐啟启氣气棄弃牽牵錢钱遷迁簽签謙谦牆墙強强搶抢橋桥親亲輕轻傾倾請请慶庆窮穷區区驅驱權权勸劝確确讓让擾扰熱热認认榮荣軟软銳锐潤润灑洒賽赛傘伞喪丧掃扫殺杀紗纱曬晒閃闪傷伤賞赏燒烧紹绍設设攝摄審审聲声繩绳勝胜師师"
    "濕湿詩诗時时識识實实蝕蚀駛驶勢势適适釋释視视試试書书術术樹树屬属數数雙双誰谁順顺說说碩硕絲丝飼饲鬆松訟讼頌颂蘇苏訴诉肅肃雖虽隨随歲岁孫孙損损縮缩鎖锁態态臺台颱台談谈歎叹湯汤濤涛討讨騰腾題题體体條条貼贴鐵铁聽听廳厅頭头圖图塗涂"
    "團团託托彎弯灣湾萬万網网圍围為为違违維维偉伟偽伪緯纬衛卫謂谓溫温聞闻穩稳問问烏乌無无務务霧雾誤误犧牺習习襲袭係系繫系細细戲戏蝦虾嚇吓鮮鲜閒闲賢贤顯显險险現现獻献縣县憲宪線线鄉乡詳详響响項项蕭萧銷销曉晓協协脅胁寫写謝谢興兴選选"
    "學学尋寻訓训訊讯遜逊壓压鴨鸭亞亚煙烟嚴严鹽盐顏颜驗验揚扬陽阳養养樣样藥药爺爷葉叶頁页業业醫医遺遗儀仪義义億亿憶忆藝艺議议異异譯译陰阴銀银飲饮隱隐應应營营贏赢擁拥優优憂忧郵邮遊游猶犹魚鱼漁渔輿舆與与語语預预園园員员圓圆緣缘遠远"
    "願愿約约閱阅躍跃雲云運运雜杂災灾載载暫暂讚赞臟脏髒脏鑿凿棗枣則则責责擇择澤泽賊贼贈赠戰战張张漲涨賬账帳帐趙赵這这針针診诊陣阵爭争鄭郑證证執执職职織织紙纸誌志製制質质鐘钟種种眾众豬猪諸诸燭烛囑嘱築筑專专轉转賺赚裝装莊庄壯壮狀状"
    "準准濁浊資资總总縱纵鄒邹組组鑽钻喬乔寶宝龐庞檔档週周峽峡蔣蒋吳吴楊杨許许馮冯韓韩賀贺盧卢譚谭龔龚錦锦鈴铃韻韵譜谱遙遥瑩莹鷹鹰鶴鹤鯨鲸獅狮龜龟雞鸡貢贡報报於于麼么兇凶幫帮辦办寬宽貫贯嗎吗媽妈瑪玛碼码罵骂鄰邻鏈链編编輯辑輸输緒绪"
    "續续腫肿臉脸驕骄嬌娇獄狱筍笋頂顶鋪铺鑰钥闖闯閉闭闆板閣阁鬥斗鬚须須须頸颈顛颠飄飘餅饼餓饿餘余騎骑鬍胡鮑鲍黴霉齡龄")
LETTERS |= {old: LETTERS[new] for old, new in zip(TRADITIONAL[::2], TRADITIONAL[1::2], strict=True)}


class FoundFile(NamedTuple):
    """A GGUF file in a model folder."""
    path: str
    real: str  # where `path` leads to
    size: int
    mtime: int  # ns


class FolderWatch:
    """The system's word that a folder has changed (inotify, on Linux); it does not know of other machines."""

    def __init__(self) -> None:
        self.places: dict[int, str] = {}  # the folders that are watched, by inotify's number for each
        self.descriptor = -1

    def open(self) -> None:
        """Watch what is added from now on, where the system can and its limits allow it."""
        with contextlib.suppress(ImportError, AttributeError, OSError, TypeError):
            import ctypes  # not at the top: a Python may lack it
            self.system = ctypes.CDLL(None)
            self.descriptor = self.system.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        """Watch nothing any more."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def add(self, place: str) -> None:
        """Watch a folder itself, not those in it; from a thread, as that may hang."""
        if self.descriptor >= 0:
            number = self.system.inotify_add_watch(self.descriptor, os.fsencode(place), WATCHED)
            self.places |= {number: place} if number >= 0 else {}

    def changed(self) -> set[str]:
        """The folders in which something came, went or was written since the last call."""
        found, at, events = set[str](), 0, b""
        with contextlib.suppress(OSError):  # nothing happened, or nothing is watched
            events = os.read(self.descriptor, 65_536)
        while at < len(events):
            number, _, _, length = struct.unpack_from("iIII", events, at)
            found.add(self.places.get(number, ""))
            at += 16 + length
        return found


Report = Callable[[int, int], object]  # told with each step how many of how many files are done; may raise to end it


@dataclass(eq=False, repr=False)
class Walk:
    """A walk through a folder: the GGUF files in it, and what cannot be used. No link to a folder is followed."""
    root: str  # the folder, without links
    inside: Iterable[str] = ()  # where links may lead beside it
    mounts: Iterable[str] = ()  # folders that are left out
    depth: int = MAX_FOLDER_DEPTH
    watch: Callable[[str], object] = lambda place: None  # told of each folder before it is read
    lost: dict[str, str] = field(default_factory=dict)  # what may be there, and why nobody can know
    files: list[FoundFile] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)  # why a path is of no use
    sets: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # the same by folder and advice
    leaving: list[str] = field(default_factory=list)  # links that seem to lead elsewhere, where they could hang

    def run(self, report: Report = lambda done, total: None) -> Walk:
        """Find what is there; `leaving` is left to follow()."""
        pending, count = [self.root], 0
        mounts = [place for place in self.mounts if place != self.root and within(place, self.root)]
        for folder in pending:  # which grows while it is walked
            report(0, len(self.files))
            self.watch(folder)
            try:
                entries = sorted((item.path, item.is_symlink(), item.is_dir(follow_symlinks=False))
                                 for item in os.scandir(folder) if item.path not in mounts)
            except NotADirectoryError:  # a file that is mounted by itself
                self.take(folder, False)
                continue
            except OSError as problem:
                self.unreadable(problem)
                continue
            count += len(entries)
            for path, link, is_folder in entries:
                if count > MAX_FOLDER_ENTRIES or len(self.files) + len(self.leaving) >= MAX_MODEL_FILES:
                    self.reasons[folder] = (f"more than {MAX_MODEL_FILES} models or {MAX_FOLDER_ENTRIES} files: "
                                            "the rest was not looked at")
                    return self
                target = path if not link else readable(functools.partial(os.readlink, path)) or path
                target = os.path.normpath(os.path.join(folder, target))
                if not within(target, self.root) or any(within(target, place) for place in mounts):
                    self.leaving.append(path)
                elif not is_folder:
                    self.take(path, link)
                elif folder.count(os.sep) - self.root.count(os.sep) < self.depth:
                    pending.append(path)
        return self

    def follow(self, report: Report = lambda done, total: None) -> Walk:
        """Look where the links lead that seem to lead elsewhere."""
        for path in self.leaving:
            os.path.realpath(path)  # what hangs hangs here, and is ended by the report
            report(0, len(self.files))
            self.take(path, True)
        return self

    def take(self, path: str, link: bool) -> None:
        """Note a GGUF file, or why a file or a link is of no use."""
        folder, name = os.path.split(path)
        real = os.path.realpath(path) if link else path
        inside = any(within(real, place) for place in (self.root, *self.inside))
        if link and os.path.isdir(path):
            if not inside:
                self.reasons[path] = "links to a folder outside the model folders: add that folder"
        elif piece := PIECE_NAME.fullmatch(name):
            self.sets.setdefault((folder, piece[1] or piece[3] + piece[5]), []).append(path)
        elif copy := COPY_NAME.fullmatch(name):
            if not os.path.lexists(os.path.join(folder, copy[1])):  # which is listed in its stead
                self.reasons[path] = f"named like a copy: rename it to {copy[1]} if it is a model"
        elif advice := next((advice for kind, advice in OTHER_FILES if kind.search(name)), None):
            self.sets.setdefault((folder, advice), []).append(path)
        elif name.lower().endswith(".gguf"):
            try:
                status = os.stat(path)
            except OSError as problem:
                self.unreadable(problem, link)
                return
            if not stat.S_ISREG(status.st_mode):
                self.reasons[path] = "not a regular file"
            elif not encodable(path):
                self.reasons[path] = "its name is not valid UTF-8"
            elif not inside:
                self.reasons[path] = "links to a file outside the model folders: add its folder"
            else:
                self.files.append(FoundFile(path, real, status.st_size, min(max(status.st_mtime_ns, 0), 1 << 62)))

    def unreadable(self, problem: OSError, link: bool = False) -> None:
        """Note a folder or a file that cannot be read; one that has just gone is none."""
        path, gone = problem.filename, isinstance(problem, FileNotFoundError | NotADirectoryError)
        if link:
            self.reasons[path] = "a link that leads nowhere"
        elif path == self.root or not gone:
            self.lost[path] = self.reasons[path] = NOT_THERE if gone else f"cannot be read: {problem.strerror}"


class Scan:
    """What the files that `walks` found are; those that a row of `known` still describes are not opened again."""

    def __init__(self, walks: list[Walk], known: Iterable[Json], report: Report = lambda done, total: None) -> None:
        self.files = {file.path: file for walk in walks for file in walk.files}
        self.roots = {root for walk in walks for root in walk.inside or [walk.root]}
        self.reasons = {path: reason for walk in walks for path, reason in walk.reasons.items()}
        self.sets = {place: list(paths) for walk in walks for place, paths in walk.sets.items()}
        self.rows = {row["path"]: row for row in known}
        self.projectors = {row["projector"]: row["projector_size"] for row in self.rows.values() if row["projector"]}
        self.report = report
        self.total = 0  # models, or what may be one
        self.offers: dict[str, list[str]] = {}  # by model, the projectors that may belong to it
        self.models: list[Json] = []  # the rows of what was found, without what the user chose (id, name, …)
        self.skipped: list[Json] = []  # {path, reason} of `reasons`

    def run(self) -> Scan:
        """Read what is found, pair the projectors, and make the rows; takes its time, so call it in a thread."""
        groups, projectors = self.groups(), list[FoundFile]()
        self.total = len(groups)
        for at, (files, stem) in enumerate(groups.items()):
            self.report(at, self.total)
            found = self.read(files, stem)
            if isinstance(found, FoundFile):
                projectors.append(found)
            elif found:
                self.models.append(found)
        self.pair(projectors)
        self.tell_sets()
        self.skipped = [{"path": os.fsencode(path).decode("utf-8", "replace"), "reason": self.reasons[path]}
                        for path in sorted(self.reasons)]
        return self

    def tell_sets(self) -> None:
        """Tell of files that cannot be used as they are, once for all that belong together, and what helps."""
        for (folder, what), paths in self.sets.items():
            paths.sort(key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)])
            names, reason = [os.path.basename(path) for path in paths], what
            if piece := PIECE_NAME.fullmatch(names[0]):
                total = int(piece[2] or piece[4] or len(paths))
                reason = f"{len(paths)} of the {total} pieces of {what}: get the others too" if len(paths) < total \
                    else f"pieces of one file: join them with  cat {shlex.join(names)} > {shlex.quote(what)}"
            several = f" ({len(paths)} files)" if len(paths) > 1 else ""
            self.reasons[folder if several and reason.startswith("weights") else paths[0]] = reason + several

    def groups(self) -> dict[tuple[FoundFile, ...], str]:
        """The files of each model, or all its shards, in the order of their paths, and the stem of their names."""
        groups, shards = dict[tuple[FoundFile, ...], str](), dict[tuple[str, str, int], dict[int, FoundFile]]()
        for file in self.files.values():
            match = re.fullmatch(SHARD, os.path.basename(file.path))
            part = (int(match[2]) - 1, int(match[3])) if match else (0, 1)
            if match and 1 < part[1] <= MAX_MODEL_SHARDS and known_header(file).part in (None, part):
                shards.setdefault((os.path.dirname(file.path), match[1], part[1]), {})[part[0]] = file
            else:
                groups[(file,)] = match[1] if match else Path(file.path).stem
        for (folder, stem, total), found in shards.items():
            if missing := [at for at in range(total) if at not in found]:
                shard = f"{stem}-{missing[0] + 1:05}-of-{total:05}.gguf"
                self.reasons[min(found.values()).path] = f"shard {shard} is missing in {folder}"
            else:
                groups[tuple(found[at] for at in range(total))] = stem
        best: dict[tuple[str, ...], tuple[FoundFile, ...]] = {}  # of links to one model the known one, or the model
        for files in sorted(groups, key=lambda item: (
                item[0].path not in self.rows, item[0].path != item[0].real, item)):
            best.setdefault(tuple(file.real for file in files), files)
        return {files: groups[files] for files in sorted(best.values())}

    def read(self, files: tuple[FoundFile, ...], stem: str) -> Json | FoundFile | None:
        """The row of a model, without what is the user's, or the file of a projector; None where it is neither."""
        path, size = files[0].path, min(sum(item.size for item in files), JSON_SAFE)
        model: Json = {"path": path, "stem": stem, "file_size": size, "file_mtime": files[0].mtime,
                       "shards": [item.path for item in files] if len(files) > 1 else [], "missing": False,
                       "projector": None, "projector_size": None, "modalities": ["text"]}
        row = self.rows.get(path, {})
        if all(row.get(name) == model[name] for name in ("file_size", "file_mtime", "shards")):
            return {**model, **{name: row[name] for name in FACTS}}
        if self.projectors.get(path) == size:
            return files[0]
        headers: list[GGUFHeader] = []
        try:
            for item in files:
                headers.append(gguf_read(item.path))
        except GGUFError as problem:
            self.reasons[path] = f"{os.path.basename(item.path)}: {problem}" if headers else str(problem)
            return None
        if (count := headers[0].number("split.count") or 1) > len(files):
            advice = f"a part of a model that was renamed: the engine wants NAME-00001-of-{count:05}.gguf and so on"
            self.sets.setdefault((os.path.dirname(path), advice), []).append(path)
            return None
        unusable = gguf_unusable(headers)
        flaws = [f"{os.path.basename(item.path) + ': ' if headers[1:] else ''}{flaw}: listed, but it cannot be loaded"
                 for header, item in zip(headers, files, strict=True) if (flaw := gguf_flaw(header, item.size))]
        if unusable or flaws:
            self.reasons[path] = unusable or flaws[0]
        if unusable or headers[0].architecture == "clip" or headers[0].text("general.type") == "mmproj":
            return None if unusable or flaws else files[0]
        return {**model, **gguf_facts(headers), "name": file_name(headers[0], stem)}

    def pair(self, projectors: list[FoundFile]) -> None:
        """Match the models and the projectors of each folder, and those that only share a repository."""
        places: dict[str, tuple[list[Json], list[FoundFile]]] = {}
        for file in projectors:
            places.setdefault(meeting_place(file.path), ([], []))[1].append(file)
        for model in self.models:
            own = meeting_place(model["path"])
            place = next((place for place in repository_folders(own, self.roots) if place in places), own)
            places.setdefault(place, ([], []))[0].append(model)
        wider: dict[str, tuple[list[Json], list[FoundFile]]] = {}
        for place in [place for place, (beside, _) in places.items() if not beside]:
            for level in repository_folders(place, self.roots):
                near = [model for other, (beside, found) in places.items() if not found and within(other, level)
                        for model in beside]
                if near and repository_depth(level, self.roots) >= -1:
                    wider.setdefault(level, (near, []))[1].extend(places.pop(place)[1])
                    break
        for level, (beside, found) in {**places, **wider}.items():
            here = level in map(meeting_place, (*[item["path"] for item in beside], *[item.path for item in found]))
            self.match(beside, found, certain=here or repository_depth(level, self.roots) >= 0)

    def match(self, models: list[Json], projectors: list[FoundFile], *, certain: bool = True) -> None:
        """Give each model the projector that certainly belongs to it, and offer those that may."""
        main = [model for model in models
                if not DRAFT_WORDS & {*name_words(model["stem"]), model["architecture"]}] or models
        ranks: dict[str, dict[str, int]] = {model["path"]: {} for model in models}  # how surely each projector fits
        for file in projectors:
            fits = {model["path"]: projector_fit(model, known_header(self.files[model["path"]]), file)
                    for model in models}
            families = {frozenset(name_words(model["stem"])) for model in main if fits[model["path"]] > 1}
            own = {model["path"] for model in main if certain and len(families) == 1}
            for path, fit in fits.items():
                ranks[path][file.path] = 1 if fit == 2 and path not in own else fit
            lengths = " or ".join(map(str, sorted(gguf_lengths(known_header(file)))))
            if not (best := max([ranks[path][file.path] for path in fits], default=0)):
                self.reasons[file.path] = (
                    f"a projector for the embedding length {lengths}, which no model beside it has"
                    if models and lengths else "a projector, and no model beside it that it belongs to")
            elif best == 1 and all(row["parameters"].get("mmproj") != file.path for row in self.rows.values()):
                self.reasons[file.path] = ("a projector, and neither its header nor its name says for certain whose: "
                                           "choose it in the parameters of its model")
        for model in models:
            fits = ranks[model["path"]]
            self.offers[model["path"]] = [path for path, fit in fits.items() if fit]
            if sure := [file for file in projectors if fits[file.path] > 1]:
                file = min(sure, key=lambda file: (-fits[file.path], -len(name_words(Path(file.path).stem)),
                                                   projector_preference(file.path), file.path))
                said = known_header(file).metadata
                ears = bool(said.get("clip.has_audio_encoder"))
                eyes = bool(said.get("clip.has_vision_encoder", not ears))  # old ones do not say
                model |= {"projector": file.path, "projector_size": file.size,
                          "modalities": ["text", *["image"] * eyes, *["audio"] * ears]}


FACTS = ("name", *gguf_facts([GGUFHeader()]))  # what a file tells
FILE_COLUMNS = (*FACTS[1:], "path", "file_size", "file_mtime", "shards", "projector", "projector_size", "modalities",
                "missing")  # what a scan may change in a row that is there already


def within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or below it; both absolute."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def file_name(header: GGUFHeader, stem: str) -> str:
    """What a model is called at first: the name in its file if that says something, else the file's."""
    name = header.text("general.name") or ""
    words, own = set(name_words(name)), set(name_words(stem))
    plainer = own & words and len(own & words) * 2 < len(words)  # the file's, as of "SmolLM2 8k Lc100K Mix1 Ep2"
    return clean_text(stem)[:MAX_NAME] if is_dull(name) or plainer else name[:MAX_NAME]


def is_dull(name: str) -> bool:
    """Whether a name that a file's header gives tells nothing."""
    return not name_words(name) or name.lower() in ("llama", "unknown", "none", "hf", "merged")


def name_words(stem: str) -> list[str]:
    """The words of a file's name that name the model, not its quantization."""
    words = re.split(r"[-._ /:]+", stem.lower())
    return [word for word in words if word and not re.fullmatch(QUANTIZATION_WORD, word)]


@functools.lru_cache(4096)
def known_header(file: FoundFile) -> GGUFHeader:
    """What the header of `file` says of its model; nothing where it cannot be read."""
    header = GGUFHeader()
    with contextlib.suppress(GGUFError):
        header = gguf_read(file.path, named=True)
    header.metadata = {key: value for key, value in header.metadata.items() if re.match("general|clip|split", key)}
    header.tensor_sizes.clear()
    return header


def repository_depth(place: str, roots: Iterable[str]) -> int:
    """How many folders `place` is below its repository: models--NAME in a cache, USER/NAME below a model folder."""
    if cached := re.search(r"(?s)[/\\]models--[^/\\]+(?:[/\\]snapshots[/\\][^/\\]+)?(.*)", place):
        return len(re.findall(r"[/\\]+", cached[1]))
    root = max((root for root in roots if within(place, root)), key=len, default=place)
    return len(Path(os.path.relpath(place, root)).parts) - 2


def repository_folders(place: str, roots: Iterable[str], least: int = -1) -> Iterator[str]:
    """`place` and the folders above it in which something of its repository may be, `least` below that at most."""
    yield place
    depth = repository_depth(place, roots)
    while depth > (0 if "models--" in place else least) or re.fullmatch(QUANTIZATION_FOLDER, os.path.basename(place)):
        place, depth = os.path.dirname(place), depth - 1
        yield place


def meeting_place(path: str) -> str:
    """The folder in which a file meets what belongs to it: all revisions of a repository in a cache are one."""
    return re.sub(r"(?s)([/\\]models--[^/\\]+)[/\\]snapshots[/\\][^/\\]+", r"\1", os.path.dirname(path))


def projector_fit(model: Json, own: GGUFHeader, file: FoundFile) -> int:
    """How surely a projector belongs to a model: 4 by their headers, 3 by its name, 2 if to any, 1 maybe, 0 not."""
    its, named = known_header(file), set(name_words(Path(file.path).stem))
    if (lengths := gguf_lengths(its)) and model["embedding_length"] not in (None, *lengths):
        return 0
    if its.names & own.names:
        return 4
    words = {*name_words(model["stem"]), *name_words(" ".join(own.names))}
    claims = set(name_words(its.text("general.name") or "")) if its.text("general.type") else set()
    family = {word for word in claims if not re.fullmatch(NEUTRAL_WORD, word)}
    if named - {"vision", "audio", "projector", "clip", "encoder"}:
        sure = named <= words or (lengths and claims and claims <= words)
        return 3 if sure and (not family or family & words) else 1
    return 2 if claims <= words else 1


def projector_preference(file: str) -> int:
    """Of several projectors of one model that with the least is taken."""
    order = ["F16", "BF16", "Q8_0", "F32", download_quantization(os.path.basename(file))]
    return order.index(order[-1])


# What a scan means for the rows

def slug(stem: str) -> str:
    """An id made of a file's name as it is read: letters, digits, `.`, `_` and `-`."""
    words = ""
    for char in unicodedata.normalize("NFC", stem):
        name = unicodedata.name(char, "")
        if re.search("VOWEL SIGN|VIRAMA|COENG|ASAT$|AL-LAKUNA", name):
            words = words.removesuffix("a")  # which the letter before has only where nothing else is said
        words += char if char.isascii() else letter_reading(char, name)
    return re.sub(r"-?[^A-Za-z0-9._-]+-?", "-", words).strip("-.")[:MAX_ID].rstrip("-.") or "model"


def letter_reading(char: str, name: str) -> str:
    """How a character is read: by the tables, by the letter that it is made of, or by its `name` in Unicode."""
    plain = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
    reading, named, kind = LETTERS.get(char.lower(), plain), re.fullmatch(LETTER_NAME, name), unicodedata.category(char)
    if named and not reading and char.lower() not in LETTERS:  # the name of a letter begins with its sound
        reading = re.findall("[^aeiou]+|." if re.fullmatch(CONSONANTS, named[1]) else ".+", named[2].lower())[0]
    elif re.search("ANUSVARA|BINDU|BINDI|TIPPI", name):
        reading = "n"
    other = {"So": f" {name.lower()} ", "Lo": f" u{ord(char):x} "}.get(kind, " " * (kind[0] in "PZ"))
    return reading.capitalize() if char.isupper() else reading or other


def free_id(stem: str, taken: dict[str, int]) -> str:
    """An id for `stem` that is not in `taken` yet: ids in lower case, with the last number tried for each."""
    wanted = slug("default-model" if stem.lower() == "default" else stem)  # a name that has a meaning of its own
    id = wanted
    while id.lower() in taken:
        number = taken[wanted.lower()] = taken[wanted.lower()] + 1
        id = f"{wanted[:MAX_ID - len(str(number)) - 1]}-{number}"
    taken[id.lower()] = 1
    return id


def moved_rows(rows: dict[str, list[Json]], found: list[Json]) -> dict[str, list[Json]]:
    """For paths that are new the rows of the file that was there before: same name, same size, no doubt."""
    def once(items: Iterable[Json]) -> dict[tuple[str, int], str]:
        paths = [((os.path.basename(item["path"]), item["file_size"]), item["path"]) for item in items]
        counts = collections.Counter(file for file, _ in paths)
        return {file: path for file, path in paths if counts[file] == 1}

    there = {model["path"] for model in found}
    gone = once(variants[0] for path, variants in rows.items() if path not in there)
    come = once(model for model in found if model["path"] not in rows)
    return {come[file]: rows[gone[file]] for file in come.keys() & gone.keys()}


def merge_scan(rows: list[Json], found: list[Json],
               lost: Callable[[str], str | None] = lambda path: None) -> tuple[list[Json], list[Json], list[str]]:
    """What a scan changes: new rows, changed columns of rows (with their id), and ids missing, of paths not `lost`."""
    known: dict[str, list[Json]] = {}
    for row in rows:
        known.setdefault(row["path"], []).append(row)
    known |= moved_rows({path: variants for path, variants in known.items() if not lost(path)}, found)
    taken = dict.fromkeys(entry_names(rows), 1)
    new, changed, seen = [], [], set()
    for model in found:
        if model["path"] not in known:
            new.append(new_entry(free_id(model["stem"], taken), model["name"], model))
        for row in known.get(model["path"], ()):
            seen.add(row["id"])
            if changes := {name: model[name] for name in FILE_COLUMNS if model[name] != row[name]}:
                changed.append({"id": row["id"], **changes})
    gone = [row for row in rows if row["id"] not in seen and not row["missing"]]
    return new, changed, [row["id"] for row in gone if not lost(row["path"])]


def new_entry(id: str, name: str, model: Json) -> Json:
    """The row of a new entry for the file that `model`, a row or what a scan found, describes."""
    return {"id": id, "name": name, "source": "folder", "favorite": False, "parameters": {}, "aliases": [],
            **{column: model[column] for column in FILE_COLUMNS}}


def entry_names(rows: list[Json]) -> dict[str, Json]:
    """The rows by every name that clients may use for them, in lower case: ids and aliases."""
    return {name.lower(): row for row in rows for name in (row["id"], *row["aliases"])}


def check_entry_names(names: Iterable[str], rows: list[Json], field: str, own: str | None = None) -> None:
    """Conflict where one of `names` is the id or an alias of an entry other than `own`."""
    known = entry_names(rows)
    for name in names:
        if (other := known.get(name.lower())) and other["id"] != own:
            raise Conflict(f"{name} already names {other['name']} ({other['id']}).", field=field, current=other)


class Folders:
    """The model folders, which come, go, change and hang, each on its own."""

    def __init__(self, dash: Dash) -> None:
        self.dash = dash
        saved = dash.db.get_meta("scan_warnings")
        self.flawed = {*texts([*saved])} if isinstance(saved, list | dict) else None  # listed files that do not load
        self.lost: dict[str, str] = {}  # folders and files that cannot be used now, and why
        self.mounts: set[str] = set(texts(dash.db.get_meta("mounts", [])))  # where something is usually mounted
        self.mounted: set[str] | None = None  # where something was when that was last known
        self.known: dict[Path, Walk] = {}  # each folder as it was at the last scan
        self.looks: dict[Path, Walk] = {}  # and as last looked at
        self.due: dict[Path, tuple[float, float]] = {}  # when to look again, and how long that pause is
        self.rest: dict[Path, float] = {}  # when to look again at the earliest, where something has changed
        self.watch = FolderWatch()
        self.stirred: set[Path] = set()  # folders in which something has, as it says, since the last look
        self.changed = False  # whether a folder has, since the last scan
        self.probes = Probes(FOLDER_THREADS)
        self.links = Probes()

    def folders(self) -> list[Path]:
        """The model folders, and the usual mounts in them, each of which may hang on its own."""
        folders = model_folders(self.dash.config, self.dash.engine_config)
        below = [Path(place) for place in sorted(self.mounts) if any(within(place, self.root(it)) for it in folders)]
        return list(dict.fromkeys([*folders, *below]))

    async def look_at(self, folder: Path) -> None:
        """Look whether a folder changed since the last scan, soon again if so; a file counts once it is written."""
        began, before, pause = time.monotonic(), self.looks.get(folder), self.due.get(folder, FOLDER_PAUSE)[1]
        self.due[folder], self.rest[folder] = (began + 10 * FOLDER_LIMIT, pause), math.inf  # unless this look says else
        self.stirred.discard(folder)
        inside, mounts, root = [self.root(other) for other in self.folders()], self.mounts, self.root(folder)
        look = Walk(root, lost={root: NO_ANSWER})
        try:
            look = await self.stepwise(self.probes, str(folder), lambda report: Walk(
                os.path.realpath(folder), inside, mounts, watch=self.watch.add).run(report))
            if look.leaving:
                await self.stepwise(self.links, f"what a link in {folder} leads to", look.follow)
        except Unreachable:
            began = time.monotonic()
            look.lost |= dict.fromkeys(look.leaving, "leads to another place, and one of them does not answer")
        self.looks[folder], known = look, self.known.get(folder, look)
        come = {*look.files} & {*before.files} - {*known.files} if before else ()
        gone = {file.path for file in known.files} - {file.path for file in look.files}
        self.changed = self.changed or bool(come or gone or look.lost != known.lost)
        same = before and (look.files, look.lost) == (before.files, before.lost)
        pause = min(pause * 1.5, FOLDER_PAUSE[1]) if same else FOLDER_PAUSE[0]
        ended = time.monotonic()
        self.rest[folder] = ended + max(FOLDER_PAUSE[0], (ended - began) / FOLDER_DUTY)
        self.due[folder] = max(ended + pause, self.rest[folder]), pause

    async def stepwise(self, probes: Probes, place: str, work: Callable[[Report], Result],
                       report: Report = lambda done, total: None) -> Result:
        """What `work` returns, in a thread, which calls `report`; Unreachable where it did not for FOLDER_LIMIT s."""
        alive, given_up = time.monotonic(), False

        def step(done: int, total: int) -> None:
            nonlocal alive
            alive = time.monotonic()
            if given_up:
                raise asyncio.CancelledError
            report(done, total)
        try:
            return await probes.call(place, functools.partial(work, step), FOLDER_LIMIT, lambda: alive)
        finally:
            given_up = True

    def root(self, folder: Path) -> str:
        """Where a folder really is, as far as that is known."""
        return self.looks[folder].root if folder in self.looks else str(folder)

    def problem(self, path: str, *, inside: bool = False) -> str | None:
        """What keeps anybody from using what is at `path`, or something `inside`; None where nothing is known of."""
        return next((f"{place} {why}" for place, why in self.lost.items()
                     if within(path, place) or (inside and within(place, path))), None)

    async def patiently(self, named: Any, function: Callable[..., Result], *arguments: Any) -> Result:
        """What `function` returns, which uses files that are `named`; Unreachable where they cannot be, or it hangs."""
        for place, why in self.lost.items():
            if why != NOT_THERE and re.search(rf"{re.escape(place)}(?![\w.-])", str(named)):
                raise Unreachable(f"{place} {why}.")
        place = next((look.root for look in self.looks.values() if within(str(named), look.root)), "one of the files")
        return await self.probes.call(place, functools.partial(function, *arguments), FOLDER_LIMIT)

    async def find(self, rows: list[Json]) -> Scan:
        """What is in the folders, as they were last seen where they take their time; `lost` says what is wrong."""
        found = await self.links.read("The list of what is mounted",  # psutil 5 looks at each place, and one may hang
                                      lambda: {item.mountpoint for item in psutil.disk_partitions(all=True)})
        self.mounted = self.mounted if found is None else found - {os.sep}
        mounted = self.mounts if self.mounted is None else self.mounted  # of what is not known nothing is away
        before, self.mounts = self.mounts, self.mounts | mounted
        folders = self.folders()
        looks = [self.dash.spawn(self.look_at(folder), f"look at {folder}") for folder in folders]
        await asyncio.wait(looks, timeout=PROBE_LIMIT)
        self.known = {folder: self.looks.get(folder) or Walk(str(folder), lost={str(folder): NO_ANSWER})
                      for folder in folders}
        self.changed, loop, said = False, asyncio.get_running_loop(), time.monotonic()

        def report(done: int, total: int) -> None:
            nonlocal said
            if time.monotonic() - said > SCAN_BROADCAST:
                said, told = time.monotonic(), {"done": done, "total": total}
                asyncio.run_coroutine_threadsafe(self.dash.broadcast("models:scan", told), loop)
        walks = list(self.known.values())
        rows = [{**row, "file_mtime": -1} if self.flawed is None or row["path"] in self.flawed else row for row in rows]
        scan = await self.stepwise(self.probes, "a model file", lambda step: Scan(walks, rows, step).run(), report)
        await self.dash.broadcast("models:scan", {"done": scan.total, "total": scan.total})
        away = [str(folder) for folder in folders if str(folder) in self.mounts - mounted
                and not any(within(path, str(folder)) for path in scan.files)]
        self.lost = dict.fromkeys(away, NOT_MOUNTED)
        for walk in walks:
            self.lost |= walk.lost
        self.mounts = {str(folder) for folder in folders} & self.mounts
        if self.mounts != before:
            self.dash.db.set_meta("mounts", sorted(self.mounts))
        return scan


class Library(Folders):
    """The models on this machine: finds them, and keeps the database in step with the folders."""

    def __init__(self, dash: Dash) -> None:
        super().__init__(dash)
        self.skipped: list[Json] = []  # of the last scan
        self.projectors: dict[str, list[str]] = {}  # by path of a model, those that may belong to it
        self.waiting: asyncio.Task[Json] | None = None  # the scan that has not yet begun
        self.changing = asyncio.Lock()  # scans, imports and deletions change the same rows

    async def run(self) -> None:
        """Look at every folder now and then, and soon at one that changed; scan them where something came or went."""
        self.changed = True
        with contextlib.closing(self.watch):
            self.watch.open()
            while True:
                if self.changed:
                    await self.scan()
                await self.dash.beat.wait()
                places, now = self.watch.changed(), time.monotonic()
                for folder in self.folders():
                    if any(within(place, self.root(folder)) for place in places):
                        self.stirred.add(folder)
                    soon = self.rest.get(folder, 0.0) if folder in self.stirred else math.inf
                    if now > min(soon, self.due.get(folder, FOLDER_PAUSE)[0]):
                        self.dash.spawn(self.look_at(folder), f"look at {folder}")

    async def scan(self) -> Json:
        """Scan all folders, after a scan that runs: {added, updated, missing, skipped: [{path, reason}], total}."""
        if self.waiting is None or self.waiting.done():
            self.waiting = self.dash.spawn(self.scan_once(), "scan")
        return await asyncio.shield(self.waiting)

    async def scan_once(self) -> Json:
        """Scan, save what changed and tell everybody."""
        async with self.changing:
            self.waiting = None
            started, before, rows = time.monotonic(), self.lost, self.dash.db.models()
            scan = await self.find(rows)
            roots = [walk.root for walk in self.known.values()]
            ignored = [path for path in self.ignored() if path in scan.files or self.problem(path)
                       or not any(within(path, root) for root in roots)]
            if ignored != self.ignored():  # one is gone from its folder: what comes there next is another
                self.dash.db.set_meta("ignored_paths", ignored)
            models = [model for model in scan.models if model["path"] not in ignored]
            new, changed, missing = await asyncio.to_thread(merge_scan, rows, models, self.problem)
            if new or changed or missing:
                await asyncio.to_thread(self.dash.db.apply_scan, new, changed, missing)
            self.skipped, self.projectors = scan.skipped, scan.offers
            if (more := len(scan.skipped) - MAX_SKIPPED + 1) > 1:
                self.skipped = [*scan.skipped[:-more], {"path": "…", "reason": f"{more:,} more"}]
            if (flawed := {row["path"] for row in models} & scan.reasons.keys()) != self.flawed:
                self.flawed = flawed
                self.dash.db.set_meta("scan_warnings", sorted(flawed))
        log.info("scan: %d models, %d new, %d changed, %d missing, %d files skipped, %.2f s", len(models), len(new),
                 len(changed), len(missing), len(scan.skipped), time.monotonic() - started)
        await self.tell_list()
        if new or changed or missing or self.lost != before:
            self.dash.pool.sync()
        if self.lost != before:
            await self.dash.broadcast("config:updated", {"config": self.dash.engine_config})
        return {"added": len(new), "updated": len(changed), "missing": len(missing),
                "skipped": self.skipped, "total": len(models)}

    async def tell_list(self) -> None:
        """Broadcast the list, and after it what has changed while it was made, which was told too early."""
        listed = await models_list(self.dash)
        await self.dash.broadcast("models:list", listed)
        before, after = ({model["id"]: model for model in models}
                         for models in (listed["models"], (await models_list(self.dash))["models"]))
        for id in before | after:
            if id not in after:
                await self.dash.broadcast("models:deleted", {"id": id})
            elif before.get(id) != after[id]:
                await self.dash.broadcast("models:updated" if id in before else "models:created", {"model": after[id]})

    def ignored(self) -> list[str]:
        """Files that are there and shall not be listed."""
        return texts(self.dash.db.get_meta("ignored_paths", []))

    def ignore(self, path: str, yes: bool) -> None:
        """Take the file at `path` off the list for good, or no longer."""
        others = [item for item in self.ignored() if item != path]
        self.dash.db.set_meta("ignored_paths", [*others, path][-MAX_MODEL_FILES:] if yes else others)

    async def add(self, path: str, *, id: str | None = None, name: str | None = None, source: str = "import",
                  **chosen: Any) -> Json:
        """Add an entry for the model at `path`, a variant where it is listed; Conflict names whose its names are."""
        async with self.changing:
            rows = self.dash.db.models()
            there = [row for row in rows if not self.problem(row["path"])]
            found, entries = await self.patiently(path, find_model, path, self.dash.folders(), there)
            if same := next((row for row in entries if name in (None, row["name"])), None):
                raise Conflict(f"{path} is in the list already, as {same['id']}", field="model.name", current=same)
            check_entry_names([id] if id else [], rows, "model.id")
            check_entry_names(chosen.get("aliases", ()), rows, "model.aliases")
            new, changed, _ = merge_scan(rows, [*(row for row in rows if not row["missing"]), found])
            if entries or (id and changed):
                free = free_id(name or found["stem"], dict.fromkeys(entry_names(rows), 1))
                new = [new_entry(free, name or found["name"], entries[0] if entries else found)]
            added = (new or changed)[0]
            added |= {"source": source, **chosen, **({"name": name} if name else {}), **({"id": id} if id else {})}
            self.ignore(found["path"], False)
            self.dash.db.apply_scan(new, changed, [])
        model: Json = self.dash.model(added["id"])
        await self.dash.broadcast("models:created", {"model": model})
        self.dash.pool.sync()
        return model

    async def remove(self, id: str, delete_file: bool) -> int:
        """Take the model off the list, with its files if wanted; the bytes that the disk got back."""
        async with self.changing:
            row = self.dash.db.get_model(id)
            others = [other for other in self.dash.db.models() if other["id"] != id]
            variants = [other["name"] for other in others if other["path"] == row["path"]]
            if delete_file and variants:
                raise InvalidRequest(f"Its file is also used by {', '.join(variants)}. Delete those first, or keep "
                                     "the file.", field="deleteFile")
            if self.dash.model(id)["status"] in ("waiting", "loading", "loaded"):
                await self.dash.pool.unload(id, "deleted")
            freed = 0
            if delete_file:
                there = [other for other in others if not self.problem(other["path"])]
                freed = await self.patiently(row["path"], delete_files, row, there, self.dash.folders())
            elif not variants and (self.problem(row["path"]) or
                                   await self.patiently(row["path"], os.path.exists, row["path"])):
                self.ignore(row["path"], True)
            self.dash.db.delete_model(id)
            if not variants:
                self.dash.downloads.forget(row["path"])
        return freed

    async def header(self, row: Json, parameters: Json) -> GGUFHeader | None:
        """The header of what this row loads with `parameters`; None where a file of it cannot be read any more."""
        try:
            return await self.patiently(row["path"], gguf_read_all, row["shards"] or [row["path"]], parameters)
        except GGUFError:
            return None


def find_model(path: str, folders: list[Path], rows: list[Json]) -> tuple[Json, list[Json]]:
    """The scan's row of the model at `path` in `folders`, else InvalidRequest, and the entries that list it already."""
    absolute = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    roots, here = [*map(os.path.realpath, folders)], os.path.dirname(absolute)
    if not any(within(absolute, item) for item in roots):
        raise InvalidRequest(f"{path} is in no model folder: add its folder in Configuration", field="model.path")
    if not os.path.isabs(path) or not absolute.lower().endswith(".gguf") or not os.path.lexists(absolute):
        raise InvalidRequest(f"There is no GGUF file at {path}", field="model.path")
    *_, folder = repository_folders(here, roots, 0)  # its projector may lie elsewhere in it
    depth = here.count(os.sep) - folder.count(os.sep) or int(repository_depth(folder, roots) == 0)
    walk = Walk(folder, roots, depth=depth).run().follow()
    scan = Scan([walk], [row for row in rows if row["path"] != absolute]).run()
    for model in scan.models:
        if absolute == model["path"] or absolute in model["shards"]:
            real = os.path.realpath(model["path"])
            return model, [row for row in rows if not row["missing"] and os.path.realpath(row["path"]) == real]
    reason = next((item["reason"] for item in scan.skipped if item["path"] == absolute), "not a model")
    raise InvalidRequest(f"{path}: {reason}", field="model.path")


def delete_files(row: Json, others: list[Json], folders: list[Path]) -> int:
    """Delete the files of `row` that no other row needs; the bytes freed. InvalidRequest, before, for any elsewhere."""
    needed, doomed = set[str](), dict[str, int]()
    for other in others:
        for path in filter(None, (other["path"], other["projector"], *other["shards"])):
            needed |= {path, os.path.realpath(path)}
    for path in filter(None, (row["path"], row["projector"], *row["shards"])):
        if path not in needed and os.path.isfile(path):
            if not is_file_inside(Path(path), folders):
                raise InvalidRequest(f"{path} is not inside a model folder: delete it yourself", field="deleteFile")
            doomed[path], real = 0, os.path.realpath(path)
            if real not in needed:
                doomed[real] = os.stat(real).st_size
    for path in doomed:
        try:
            Path(path).unlink(missing_ok=True)
        except OSError as problem:
            raise InvalidRequest(f"{path} cannot be deleted: {problem.strerror}", field="deleteFile") from problem
    return sum(doomed.values())


MODEL_CHANGES: dict[str, Any] = {
    "name": Annotated[str, Length(1, MAX_NAME)], "favorite": bool, "parameters": dict[str, Any],
    "aliases": Annotated[list[str], Length(0, 32)], "build": Annotated[str, Length(1, 128)] | None, "pinned": bool,
    "preferred": bool, "idle": Annotated[int, Range(0, 31_536_000)] | None,
    "tags": Annotated[list[Annotated[str, Length(1, 64)]], Length(0, 32)]}
IMPORT_FIELDS: dict[str, Any] = {**MODEL_CHANGES, "path": Annotated[str, Length(1, MAX_TEXT)], "id": ModelId}
ALIAS = r"[A-Za-z0-9._:/@+-]{1,128}"


def checked_fields(values: Json, kinds: dict[str, Any], field: str, folders: list[Path]) -> Json:
    """`values`, each of its type in `kinds`, else InvalidRequest names the field; files are those in `folders`."""
    result = checked_changes(values, kinds, {}, field)
    for name, value in values.items():
        at = f"{field}.{name}"
        if name == "parameters":
            result[name] = validated_parameters(value, folders, at)
        elif name == "id" and not re.fullmatch(r"[A-Za-z0-9._-]{1,96}", value):
            raise InvalidRequest(f"{at} may have letters, digits, dots, dashes and underscores only", field=at)
        elif name == "aliases" and not all(re.fullmatch(ALIAS, item) for item in value):
            raise InvalidRequest(f"{at} may have letters, digits and . _ : / @ + - only, 128 in each", field=at)
        elif name in ("name", "tags") and any(clean_text(item) != item for item in ([value], value)[name == "tags"]):
            raise InvalidRequest(f"{at} must be one line without blanks around it", field=at)
        if name in ("aliases", "tags"):
            result[name] = list({item.lower(): item for item in value}.values())
    return result


@on("models:list", error="LIST_MODELS_FAILED")
async def models_list(dash: Dash) -> Json:
    """Every model."""
    async with dash.long_work:
        return {"models": await in_turns(dash.with_state, dash.db.models())}


@on("models:get", error="GET_MODEL_FAILED")
async def models_get(dash: Dash, *, id: ModelId, votes: bool = False) -> Json:
    """One model: its benchmarks, newest first, one that is under way, how it would be started; `votes` where asked."""
    model = dash.model(id)
    return {"model": model, "benchmarks": dash.db.benchmarks(id), "benchmarking": dash.benchmarks.get(id),
            "votes": await asyncio.to_thread(dash.db.votes, id) if votes else None,
            "projectors": dash.library.projectors.get(model["path"], []), "command": dash.pool.entries.command(id)}


@on("models:scan", error="SCAN_MODELS_FAILED")
async def models_scan(dash: Dash) -> Json:
    """Look through the model folders for new, changed and missing files."""
    return await dash.library.scan()


@on("models:create", error="CREATE_MODEL_FAILED")
async def models_create(dash: Dash, *, model: dict[str, Any]) -> Json:
    """Add a GGUF file that lies in a model folder, or a variant of one: {name, path, id?, parameters?, aliases?, …}."""
    model = {"name": None, "path": None, **model}  # which it must have
    wanted = await dash.library.patiently(model, checked_fields, model, IMPORT_FIELDS, "model", dash.folders())
    added = await dash.library.add(**wanted)
    dash.event("configuration", added["id"], "added by hand")
    return {"model": added}


@on("models:update", error="UPDATE_MODEL_FAILED")
async def models_update(dash: Dash, *, id: ModelId, revision: int, changes: dict[str, Any]) -> Json:
    """Change what is the user's of a model: its names, parameters, build, tags, and when it is in memory."""
    changes = await dash.library.patiently(changes, checked_fields, changes, MODEL_CHANGES, "changes", dash.folders())
    check_entry_names(changes.get("aliases", ()), dash.db.models(), "changes.aliases", own=id)
    await dash.change_models({id: changes}, revision)
    return {"model": dash.model(id)}


@on("models:delete", error="DELETE_MODEL_FAILED")
async def models_delete(dash: Dash, *, id: ModelId, deleteFile: bool = False) -> Json:  # noqa: N803  (on the wire)
    """Take a model off the list and, if wanted, its files off the disk."""
    freed = await dash.library.remove(id, deleteFile)
    dash.event("configuration", id, "deleted")
    await dash.broadcast("models:deleted", {"id": id})
    dash.pool.sync()
    return {"id": id, "freed": freed}


@on("models:estimate", error="ESTIMATE_MODEL_FAILED")
async def models_estimate(dash: Dash, *, id: ModelId, parameters: dict[str, Any] | None = None) -> Json:
    """What a model would need in memory where it would go, with these parameters, its own unless given."""
    row = dash.db.get_model(id)
    own = row["parameters"] if parameters is None else \
        await dash.library.patiently(parameters, validated_parameters, parameters, dash.folders())
    parameters = {**dash.engine_config["defaults"], **own}
    header = await dash.library.header(row, parameters)
    await dash.pool.memory.read()
    memories = dash.pool.memory.devices(dash.pool.entries.build(row))
    plans, *_ = await asyncio.to_thread(placement_plans, row, parameters, memories, header)
    rooms = {item["name"]: max(1, item["free"] - item.get("held", 0)) for item in memories}
    best = min(plans, key=lambda plan: max([need / rooms[name] for name, need in plan.need.items()], default=0))
    placed = {**parameters, "device": ",".join(best.devices)} if best.devices else parameters
    return {**estimate_memory(row, placed, memories, header),
            "last": {key: (row["memory_correction"] or {}).get(key) for key in ("estimated", "taken", "ledger")}}


# -- Parameters and presets -----------------------------------------------------------------------

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
SPECULATION = "(?:none|draft-(?:simple|eagle3|mtp|dflash|dspark)|ngram-(?:simple|map-k|map-k4v|mod|cache))"
PORT = r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
HOST_PORT = r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):" + PORT
DEVICES = r"[A-Za-z0-9_.-]{1,64}(?:,[A-Za-z0-9_.-]{1,64}){0,31}"
NUMBERS = r"[0-9]{1,6}(?:\.[0-9]{1,6})?(?:,[0-9]{1,6}(?:\.[0-9]{1,6})?){0,31}"
ONE_LINE = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029;#]{0,2000}"
BOOLEANS = dict.fromkeys(("on", "enabled", "true", "1"), True) | dict.fromkeys(("off", "disabled", "false", "0"), False)


class FileNotHere(InvalidRequest):
    """A parameter names a file that is in no model folder of this machine."""


class Parameter(NamedTuple):
    """One option of llama-server that a model may set: how it is checked and how the form shows it."""
    key: str
    label: str
    help: str
    kind: str  # int | float | bool | choice | text | path
    aliases: tuple[str, ...]
    low: float = 0  # of a number
    high: float = 0
    choices: tuple[str, ...] = ()
    pattern: str = ONE_LINE
    default: int | float | bool | str | None = None
    several: bool = False  # a path parameter that takes a list, separated by commas
    group: str = ""

    @property
    def type(self) -> Any:
        """What its values are checked against."""
        bounds = Range(self.low, self.high)
        return {"int": Annotated[int, bounds], "float": Annotated[float, bounds], "bool": bool,
                "choice": Literal[self.choices]}.get(self.kind, str)

    def checked(self, value: Any, at: str, folders: list[Path] | None = None) -> Any:
        """`value` if it is acceptable here, its files in `folders`; InvalidRequest names the field `at`."""
        try:
            value = checked(value, self.type, self.label)
        except InvalidRequest as problem:
            raise InvalidRequest(str(problem), field=at) from None
        if self.key == "parallel" and value == 0:
            raise InvalidRequest("Slots must be -1 or more than 0", field=at)
        if self.kind == "text" and not re.fullmatch(self.pattern, value):
            raise InvalidRequest(f"{self.label} is not in the expected form", field=at)
        names = [] if self.kind != "path" else value.split(",") if self.several else [value]
        for path in map(Path, names):
            if not path.is_absolute() or path.suffix.lower() != ".gguf":
                raise InvalidRequest(f"{self.label} must be the full path of a .gguf file", field=at)
            if folders is not None and not is_file_inside(path, folders):
                raise FileNotHere(f"{self.label} must be a file in a model folder", field=at)
        with contextlib.suppress(ValueError, RecursionError):
            parsed = json.loads(value) if self.key == "chat-template-kwargs" else {}
            if isinstance(parsed, dict) and all(type(item) not in (dict, list) and finite_or_none(item) is item
                                                for item in parsed.values()):
                return value
        raise InvalidRequest(f"{self.label} must be a JSON object of plain values", field=at)

    def from_text(self, text: str) -> int | float | bool | str:
        """The value that `text`, from a preset file, stands for; ValueError where it is none."""
        if self.kind == "bool":
            return preset_switch(text)
        if "on" in self.choices and text.lower() in BOOLEANS:
            return "on" if BOOLEANS[text.lower()] else "off"
        if self.key in ("n-gpu-layers", "n-gpu-layers-draft") and text in ("auto", "all"):
            return -1 if text == "auto" else 9999
        if self.kind == "choice":
            return text.lower() if text.lower() in self.choices else text
        if self.kind == "int" and (thousands := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([kKmM])i?", text)):
            return int(float(thousands[1]) * (1024 if thousands[2] in "kK" else 1024**2))  # as in -c 32k
        return int(text) if self.kind == "int" else float(text) if self.kind == "float" else text

    def schema(self) -> Json:
        """What a form needs to know about this parameter."""
        known: Json = {name: getattr(self, name) for name in ("key", "label", "group", "kind", "help")}
        known |= {"min": self.low, "max": self.high} if self.kind in ("int", "float") else {}
        known |= {"choices": list(self.choices)} if self.choices else {}
        return known if self.default is None else {**known, "default": self.default}


def is_file_inside(path: Path, folders: list[Path]) -> bool:
    """Whether `path` is a file in one of `folders`, and a link there leads to a file in one of them as well."""
    roots = [os.path.realpath(folder) for folder in folders]
    places = (os.path.join(os.path.realpath(path.parent), path.name), os.path.realpath(path))
    return os.path.isfile(path) and all(any(within(place, root) for root in roots) for place in places)


# What a line of the table says after its names (the first is the key), label and help: of each kind of parameter.
PARAMETER_FIELDS = {"int": ("low", "high", "default"), "float": ("low", "high", "default"), "bool": ("default",),
                    "choice": ("choices", "default"), "text": ("pattern", "default"), "path": ("several",)}
# What opens a port, writes a file, runs a tool or loads code is left out on purpose: what is not here is refused.
PARAMETER_GROUPS: dict[str, list[tuple[Any, ...]]] = {
    "Context and memory": [
        ("int", "ctx-size c", "Context size", "Tokens of prompts and answers; 0 is as trained.", 0, 16_777_216, 0),
        ("int", "parallel np", "Slots", "Requests answered at the same time; -1 lets the engine choose.", -1, 64, -1),
        ("bool", "kv-unified kvu", "Shared KV cache", "One cache for all slots: one long request can use all of it."),
        ("choice", "flash-attn fa", "Flash attention", "Faster, with less memory.", ("auto", "on", "off"), "auto"),
        ("choice", "cache-type-k ctk", "KV cache type, keys", "Smaller costs some quality.", CACHE_TYPES, "f16"),
        ("choice", "cache-type-v ctv", "KV cache type, values", "Others need flash attention.", CACHE_TYPES, "f16"),
        ("bool", "kv-offload", "KV cache on the GPU", "Keep the KV cache in GPU memory.", True),
        ("bool", "swa-full", "Full sliding-window cache", "Takes more memory, reuses prompts better.", False),
        ("bool", "context-shift", "Context shift", "Drop the oldest tokens of a full context and go on.", False),
        ("int", "keep", "Tokens kept", "Of the first prompt, by a context shift; -1 keeps all.", -1, 16_777_216, 0),
        ("bool", "cache-prompt", "Reuse prompts", "Do not compute again what a slot already holds.", True),
        ("int", "cache-reuse", "Smallest reused chunk", "Of moved tokens; 0 turns it off.", 0, 1_000_000, 0),
        ("int", "cache-ram cram", "Prompt cache, MiB", "Main memory; 0: none, -1: no limit.", -1, 1_048_576, 8192),
        ("int", "ctx-checkpoints ctxcp swa-checkpoints", "Context checkpoints", "Restore points per slot.", 0, 1024),
        ("choice", "load-mode lm", "How the file is read", "mlock keeps it in memory, dio bypasses the cache.",
         ("auto", "none", "mmap", "mlock", "mmap+mlock", "dio"), "auto"),
        ("bool", "repack", "Repack weights", "Rearrange the weights for this CPU while loading.", True),
        ("bool", "check-tensors", "Check tensors", "Look for invalid values while loading.", False),
        ("bool", "warmup", "Warm up", "Run once empty after loading, so that the first answer is not slow.", True),
    ], "GPU offload": [
        ("int", "n-gpu-layers ngl gpu-layers", "Layers on the GPU", "-1: the engine chooses, 9999: all.", -1, 9999, -1),
        ("choice", "split-mode sm", "Split across GPUs", "Of one model.", ("none", "layer", "row", "tensor"), "layer"),
        ("text", "tensor-split ts", "Share per GPU", "Proportions such as 3,1.", NUMBERS),
        ("int", "main-gpu mg", "Main GPU", "The GPU used when the model is not split.", 0, 63, 0),
        ("text", "device dev", "Devices", "Names such as CUDA0,CUDA1; none keeps everything on the CPU.", DEVICES),
        ("bool", "fit", "Fit into memory", "Shrink what is not set here until the model fits.", True),
        ("text", "fit-target fitt", "Memory left free, MiB", "Per device, such as 1024.", NUMBERS, "1024"),
        ("int", "fit-ctx fitc", "Smallest fitted context", "Fitting does not go below it.", 0, 16_777_216, 4096),
        ("bool", "cpu-moe cmoe", "All experts on the CPU", "Keep the weights of all experts in main memory.", False),
        ("int", "n-cpu-moe ncmoe", "Layers with experts on the CPU", "The first ones, in main memory.", 0, 4095),
        ("text", "override-tensor ot", "Placement of tensors", "Such as exps=CPU.", r"[^\x00-\x1f;#\s]{1,500}"),
        ("bool", "op-offload", "Offload large operations", "The GPU computes with weights in main memory.", True),
        ("text", "rpc", "RPC workers", "host:port,… of workers that share the model. They have no password.",
         HOST_PORT + "(?:," + HOST_PORT + "){0,31}"),
    ], "Batching and threads": [
        ("int", "batch-size b", "Batch", "Most tokens of a prompt handed over at once.", 1, 1_048_576, 2048),
        ("int", "ubatch-size ub", "Physical batch", "Computed at once: faster, takes memory.", 1, 1_048_576, 512),
        ("bool", "cont-batching cb", "Continuous batching", "Let requests join a running batch.", True),
        ("int", "threads t", "Threads", "CPU threads for generating; -1 lets the engine choose.", -1, 1024, -1),
        ("int", "threads-batch tb", "Threads for prompts", "CPU threads; -1 is the same as Threads.", -1, 1024, -1),
        ("int", "prio", "Priority", "Of the engine's threads: -1 low, 0 normal, 1 medium, 2 high.", -1, 2, 0),
        ("int", "poll", "Polling", "How eagerly threads wait for work; 0 saves power.", 0, 100, 50),
        ("choice", "numa", "NUMA", "For machines with several memory nodes.", ("distribute", "isolate", "numactl")),
        ("int", "timeout to", "Timeout, s", "Longest silence on a connection.", 1, 86_400, 3600),
    ], "Sampling": [
        ("float", "temp temperature", "Temperature", "0 takes the likeliest token; higher is more varied.", 0, 5, 0.8),
        ("int", "top-k", "Top k", "Choose among the k likeliest tokens; 0 is off.", 0, 100_000, 40),
        ("float", "top-p", "Top p", "Choose among the likeliest tokens that reach this sum; 1 is off.", 0, 1, 0.95),
        ("float", "min-p", "Min p", "Drop tokens less likely than this share of the likeliest; 0 is off.", 0, 1, 0.05),
        ("float", "typical-p typical", "Typical p", "Locally typical sampling; 1 is off.", 0, 1, 1.0),
        ("int", "repeat-last-n", "Repetition window", "In tokens; 0 is off, -1 the whole context.", -1, 16_777_216, 64),
        ("float", "repeat-penalty", "Repetition penalty", "1 is off.", 0.01, 10, 1.0),
        ("float", "presence-penalty", "Presence penalty", "0 is off.", -10, 10, 0.0),
        ("float", "frequency-penalty", "Frequency penalty", "0 is off.", -10, 10, 0.0),
        ("float", "dry-multiplier", "DRY multiplier", "Penalty on repeated sequences; 0 is off.", 0, 10, 0.0),
        ("float", "xtc-probability", "XTC probability", "How often likely tokens are left out; 0 is off.", 0, 1, 0.0),
        ("float", "xtc-threshold", "XTC threshold", "Tokens above this may be left out.", 0, 1, 0.1),
        ("choice", "mirostat", "Mirostat", "0 is off; replaces the other samplers.", ("0", "1", "2"), "0"),
        ("int", "seed s", "Seed", "-1 draws a new one for each request.", -1, 2**32 - 1, -1),
        ("int", "predict n n-predict", "Longest answer", "In tokens; -1: no limit.", -1, 16_777_216, -1),
        ("text", "sampling-seq sampler-seq", "Sampler order", "One letter for each sampler.", r"[a-z]{1,20}"),
    ], "Chat": [
        ("bool", "jinja", "Jinja templates", "Use the model's own chat template in full.", True),
        ("text", "chat-template", "Built-in template", "Of llama.cpp's own, such as chatml.", r"[A-Za-z0-9._-]{1,64}"),
        ("text", "chat-template-kwargs", "Template values", "A JSON object handed to the chat template.", ONE_LINE),
        ("choice", "reasoning rea", "Thinking", "Before the model answers.", ("auto", "on", "off"), "auto"),
        ("choice", "reasoning-format", "Thinking text", "Whether thoughts come apart from the answer.",
         ("auto", "none", "deepseek", "deepseek-legacy"), "auto"),
        ("choice", "reasoning-effort", "Effort", "For templates that know it.",
         ("default", "minimal", "low", "medium", "high", "xhigh", "max"), "default"),
        ("int", "reasoning-budget", "Thinking budget", "Most tokens of thought; -1: no limit.", -1, 1_000_000, -1),
        ("bool", "prefill-assistant", "Continue answers", "A last message of the assistant is continued.", True),
    ], "Long context": [
        ("choice", "rope-scaling", "RoPE scaling", "Of positions beyond the training.", ("none", "linear", "yarn")),
        ("float", "rope-scale", "RoPE scale", "Factor by which the context grows.", 0.001, 1024),
        ("float", "rope-freq-base", "RoPE base frequency", "0 takes the model's.", 0, 1e12),
        ("float", "rope-freq-scale", "RoPE frequency scale", "0 takes the model's.", 0, 1024),
        ("int", "yarn-orig-ctx", "YaRN: original context", "0 takes the model's.", 0, 16_777_216, 0),
        ("float", "yarn-ext-factor", "YaRN: extrapolation", "-1 takes the model's.", -1, 1, -1.0),
        ("float", "yarn-attn-factor", "YaRN: attention factor", "-1 takes the model's.", -1, 100, -1.0),
        ("float", "yarn-beta-slow", "YaRN: slow beta", "-1 takes the model's.", -1, 1000, -1.0),
        ("float", "yarn-beta-fast", "YaRN: fast beta", "-1 takes the model's.", -1, 1000, -1.0),
    ], "Speculative decoding": [
        ("path", "model-draft md spec-draft-model", "Draft model", "Small, of the same vocabulary; guesses ahead."),
        ("text", "spec-type", "Kinds of speculation", "Such as draft-simple or ngram-mod, separated by commas.",
         f"{SPECULATION}(?:,{SPECULATION}){{0,9}}"),
        ("int", "spec-draft-n-max draft-max draft draft-n", "Most drafted tokens", "Guessed at once.", 0, 1024, 3),
        ("int", "spec-draft-n-min draft-min draft-n-min", "Fewest drafted tokens", "Else dropped.", 0, 1024, 0),
        ("float", "spec-draft-p-min draft-p-min", "Smallest probability", "Guessing stops below it.", 0, 1, 0.0),
        ("int", "n-gpu-layers-draft ngld gpu-layers-draft spec-draft-ngl", "Draft layers on the GPU",
         "-1 lets the engine choose.", -1, 9999, -1),
        ("text", "device-draft devd spec-draft-device", "Draft devices", "Where the draft model runs.", DEVICES),
        ("choice", "cache-type-k-draft ctkd spec-draft-type-k", "Draft cache, keys", "As above.", CACHE_TYPES, "f16"),
        ("choice", "cache-type-v-draft ctvd spec-draft-type-v", "Draft cache, values", "As above.", CACHE_TYPES, "f16"),
    ], "Adapters and images": [
        ("path", "lora", "LoRA adapters", "GGUF files, separated by commas.", True),
        ("path", "mmproj mm", "Projector", "For images and sound; detected next to the model."),
        ("bool", "mmproj-auto", "Use the projector", "Off saves its memory; the model then reads text only.", True),
        ("bool", "mmproj-offload", "Projector on the GPU", "Off keeps it in main memory.", True),
        ("int", "image-min-tokens", "Fewest tokens an image", "For models with a dynamic resolution.", 0, 100_000),
        ("int", "image-max-tokens", "Most tokens an image", "For models with a dynamic resolution.", 0, 100_000),
    ], "Embeddings and reranking": [
        ("bool", "embeddings embedding", "Embeddings only", "For models that are made for embeddings.", False),
        ("bool", "reranking rerank", "Reranking", "For models that order documents by a query.", False),
        ("choice", "pooling", "Pooling", "How one vector is made of many.", ("none", "mean", "cls", "last", "rank")),
    ], "Process": [
        ("int", "stop-timeout", "Time to finish, s", "For its answers when a model is unloaded.", 1, 600, 10),
    ],
}
PARAMETERS = {
    key: Parameter(key, label, help, kind, tuple(aliases), group=group,
                   **dict(zip(PARAMETER_FIELDS[kind], values, strict=False)))
    for group, lines in PARAMETER_GROUPS.items() for kind, names, label, help, *values in lines
    for key, *aliases in [names.split()]}
# For what is saved: a newer version may have more, and a file may be away.
PARAMETER_KINDS = {key: Annotated[Any, parameter.checked] for key, parameter in PARAMETERS.items()}
ALIASES = {alias: item.key for item in PARAMETERS.values() for alias in (item.key, *item.aliases)}


def validated_parameters(parameters: Json, folders: list[Path] | None, field: str = "parameters") -> Json:
    """`parameters` if all are known and acceptable, without null; InvalidRequest names the `field.key` that is not."""
    if unknown := sorted(parameters.keys() - PARAMETERS.keys()):
        raise InvalidRequest("There is no such parameter", field=f"{field}.{unknown[0][:64]}")
    return {key: PARAMETERS[key].checked(value, f"{field}.{key}", folders)
            for key, value in parameters.items() if value is not None}


SHARED_SECTIONS = ("", "default", "*")  # what they say holds for every model
FILE_KEYS = ("model", "m", "hf-repo", "hfr", "hf", "model-url", "mu")
MAX_SECTIONS = 1000  # of a preset file; people have some dozens
# What the engine also takes: short negations, names of variables that are not the option's, and what is out of use.
PRESET_SPELLINGS = {
    "n-parallel": "parallel", "batch": "batch-size", "ubatch": "ubatch-size", "kvo": "kv-offload",
    "nkvo": "no-kv-offload", "nr": "no-repack", "nocb": "no-cont-batching", "no-mmproj": "no-mmproj-auto", "a": "alias",
    "rope-scaling-type": "rope-scaling", "think": "reasoning-format", "think-budget": "reasoning-budget",
    "spec-draft-cache-type-k": "cache-type-k-draft", "spec-draft-cache-type-v": "cache-type-v-draft",
    "LLAMA_CHAT_TEMPLATE_KWARGS": "chat-template-kwargs", "dio": "direct-io", "ndio": "no-direct-io"}
ASSIGNMENT = r"(?s)(?:-e|--env=|\$env:)?([A-Z][A-Z0-9_]{3,63})=(.*)"
# The program in a command line, or the image of a container that has it
PROGRAM = r"(?i)(?:.*[\\/])?(?:llama-[a-z-]+|llama|server|main)(?:\.exe)?|\S*llama[-.](?:cpp|server)\S*:\S+"
# A unit's or a supervisor's variables and command
UNIT_LINE = r"(?m)^(?:(?:ExecStart|Exec|command) *= *(?:[+!:@]|-(?=/))*|Environment=(?=\S))((?:.*\\\n)*.*)$"
NAMED_BEFORE = r"-[vhwelup]|--(?:volume|mount|name|hostname|network|entrypoint|workdir|env|label)"  # by what is before
QUOTES = " \n\"'"
YAML_FIELD = (  # at whatever indentation, with all that is further in: the key, and what it leads to
    r"(?m)^( *)(?:\"([^\"\n]+)\"|'([^'\n]+)'|([^\s#\"'-][^:\n]*)):(?=\s|$)(?: +[|>][+-]?)?"
    r"(.*(?:\n(?:\1 +.*|\1- .*| *(?=\n)))*)")
# Indentation and quotes, which llama-server refuses or takes as they are, mean here what was meant.
# No two neighbours in these may match the same letters: a line comes from outside, and may be long.
SECTION_LINE = r"\[[ \t]*([^\] \t\r\n][^\]\r\n]*)\][ \t]*(?:[;#].*)?"
VALUE_LINE = r"-{0,2}([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*(?:\"([^\"]*)\"|'([^']*)'|([^;#]*))[ \t]*(?:[;#].*)?"


def preset_value(value: Any) -> str:
    """`value` as it stands in a preset file."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def preset_section(model: Json) -> Json:
    """The keys and values of one model's section, its file first."""
    parameters = model.get("parameters") or {}
    found = {"mmproj": model["projector"]} if model.get("projector") and parameters.get("mmproj-auto", True) else {}
    return {"model": model["path"], **found, **parameters}


def render_presets(models: list[Json], defaults: Json) -> str:
    """A preset file for llama-server, without models that are missing or whose path such a file cannot hold."""
    sections = {"*": defaults}
    for model in sorted(models, key=lambda item: str(item["id"])):
        if not model["missing"] and re.fullmatch(ONE_LINE, f"{model['path']}{model['projector']}"):
            entry = {"alias": ",".join(model["aliases"]), "load-on-startup": model["pinned"],
                     "sleep-idle-seconds": model["idle"] and str(model["idle"])}
            sections[model["id"]] = preset_section(model) | {key: value for key, value in entry.items() if value}
    return "\n".join("".join([f"[{name}]\n", *(f"{key} = {preset_value(value)}\n" for key, value in values.items())])
                     for name, values in sections.items())


def parse_presets(text: str) -> dict[str, dict[str, str]]:
    """The sections of a preset file, or what a pasted command line says; InvalidRequest names a senseless line."""
    if "\0" in text or not encodable(text):
        raise InvalidRequest("This is not text", field="ini")
    text = text.lstrip("\ufeff").replace("\r\n", "\n")
    lines = sorted(re.finditer(UNIT_LINE, text), key=lambda line: not line[0].startswith("Env"))  # wherever that stands
    text = "\n".join(line[1] for line in lines) or text
    if re.search(r"(?m)^(?:models|services):\s*$", text):
        return parse_services(text)
    stripped = [line.strip(" \t") for line in re.split(r"[\r\n]", text)]
    if re.search(r"(?im)llama|^[ \t]*-", text) and not any(line.startswith("[") for line in stripped) and (
            commands := parse_commands(text)):
        return commands
    sections, current = dict[str, dict[str, str]](), ""
    for at, line in enumerate(stripped, 1):
        if found := re.fullmatch(SECTION_LINE, line):
            current = found[1]
            sections[current] = {}  # a second section of one name replaces the first
        elif found := re.fullmatch(VALUE_LINE, line):
            key = found[1].replace("_", "-") if found[1].islower() else found[1]
            sections.setdefault(current, {})[key] = found[found.lastindex or 0].rstrip(" \t")
        elif line and line[0] not in ";#":
            raise InvalidRequest(f"line {at} is no section, key = value, comment or llama-server command", field="ini")
    return sections


def yaml_fields(text: str) -> dict[str, str]:
    """What each key of the outermost object in YAML leads to."""
    return {"".join(keys).strip(): inner for _, *keys, inner in re.findall(YAML_FIELD, text)}


def yaml_words(text: str) -> list[str]:
    """The texts of a list in YAML, KEY=VALUE for each of an object, or a single text."""
    text = re.sub(r"(?m)(?:^|\s)#.*", "", text)
    pairs = [f"{key}={inner.strip(QUOTES)}" for key, inner in yaml_fields(text).items()]
    items = re.findall(r"(?m)^ *- +(.*)", text) or pairs or [text.strip()]
    items = items[0][1:].partition("]")[0].split(",") if items[0].startswith("[") else items
    return [item.strip(QUOTES) for item in items if item.strip()]


def parse_services(text: str) -> dict[str, dict[str, str]]:
    """The models of llama-swap's configuration, or the services of a compose file that run llama.cpp, as sections."""
    whole, renamed = yaml_fields(text.expandtabs()), {"ttl": "sleep-idle-seconds", "aliases": "alias"}
    macros, models, services = (yaml_fields(whole.pop(kind, "")) for kind in ("macros", "models", "services"))
    sections = {"": dict.fromkeys(whole, "")}
    for name, inner in (*models.items(), *services.items()):
        own = yaml_fields(inner)
        variables, image, command = (yaml_words(own.pop(one, own.pop(other, ""))) for one, other in (
            ("env", "environment"), ("image", ""), ("cmd", "command")))
        text = command[0] if len(command) == 1 else shlex.join(command)
        for _ in range(2):  # a macro may name others
            text = re.sub(r"\$\{([\w.-]+)\}", lambda found: "".join(yaml_words(macros.get(found[1], found[1]))), text)
        text = " ".join([*map(shlex.quote, variables + image), text])
        more = {renamed.get(key, key): ",".join(yaml_words(value)) for key, value in own.items()}
        for title, options in parse_commands(text).items() if "llama" in text else ():
            sections[name if name in models else title] = {**options, **more}
    return sections


def shell_commands(text: str) -> list[list[str]]:
    """The words of each command in `text`, as shells split them: continued lines are joined, comments left out."""
    text = re.sub(r"(?m)^[ \t]*#.*$|(?<=[ \t])#[ \t].*$", "", text.replace("\r\n", "\n"))
    text = re.sub(r"[\\^`][ \t]*\n|(?<=[ \t])[\\^`](?=[ \t])", " ", text)  # also where a browser joined the lines
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    if re.search(r"(?:^|[\s\"'=])[A-Za-z]:\\", text):  # paths of Windows
        lexer.escape = ""
    try:
        words = list(lexer)
    except ValueError:  # a quote without its end
        words = re.findall(r"\n|[^\s]+", text)
    groups = itertools.groupby(words, lambda word: bool(re.fullmatch(r"[;&|<>\n]+", word)))
    return [list(command) for separator, command in groups if not separator]


def parse_commands(text: str) -> dict[str, dict[str, str]]:
    """What the llama-server commands in `text` say, as sections of a preset file; {} where there are none."""
    commands: list[list[str]] = []
    for words in shell_commands(text):
        if commands and words[0].startswith("-"):  # a line of options goes on where the last one ended
            commands[-1] += words
        elif words[1:2] != ["="]:
            commands.append(words)
    sections, exported = dict[str, dict[str, str]](), dict[str, str]()
    for words in commands:
        at = next((at for at, (before, word) in enumerate(zip(["", *words], words, strict=False))
                   if re.fullmatch(PROGRAM, word) and not re.fullmatch(NAMED_BEFORE, before)), None)
        unused = [word.partition("=")[0] for word in words[:at or 0] if re.match("-(?!e$|-env|-$)", word)]
        settings = {found[1]: found[2] for word in words[:at] if (found := re.fullmatch(ASSIGNMENT, word))}
        if at is None and not words[0].startswith("-") and {"-m", "-hf", "--model"}.isdisjoint(words):
            exported |= settings
            continue
        options = {**exported, **settings, **command_options(words[at or 0:]), **dict.fromkeys(unused, "")}
        if not (file := preset_file("", options)):
            raise InvalidRequest("A command names no model: add -m FILE or -hf user/repo to it", field="ini")
        stem = ntpath.basename(file.partition("?")[0]).removesuffix(".gguf")
        name = options.get("alias", options.get("a", "")).split(",")[0].strip() or (
            file if re.fullmatch(f"{REPO}(:.+)?", file) else stem)
        sections[f"{name} ({len(sections) + 1})" if name in sections else name] = options
    return sections


def command_options(words: list[str]) -> dict[str, str]:
    """The options among the words of a command, by their names without dashes; a switch is "on"."""
    options: dict[str, str] = {}
    for word, after in zip(words, [*words[1:], "--"], strict=False):
        if not (found := re.fullmatch(r"--?([A-Za-z][\w.-]*)(?:=(.*))?", word, re.S)):
            continue
        key, text = found[1].replace("_", "-"), found[2] if found[2] is not None else after
        known = PARAMETERS.get(ALIASES.get(key, ""))
        switch = known and (known.kind == "bool" or "on" in known.choices)
        if found[2] is None and (re.match(r"--?(?:[A-Za-z]|$)", after) or (
                known and switch and after.lower() not in (*BOOLEANS, *known.choices))):
            text = "on"
        several = known.key if known and known.key in ("override-tensor", "lora") else "-"  # may be given several times
        before = next((other for other in options if ALIASES.get(other) == several), None)
        options[before or key] = f"{options[before]},{text}" if before else text
    return options


def preset_switch(text: str) -> bool:
    """On or off, as llama-server reads it; ValueError for anything else."""
    if text.lower() not in BOOLEANS:
        raise ValueError(f"{text} is neither on nor off")
    return BOOLEANS[text.lower()]


# What a section can say of an entry besides its parameters: the field, and how its text is read.
PRESET_FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "load-on-startup": ("pinned", preset_switch), "sleep-idle-seconds": ("idle", lambda text: max(int(text), 0)),
    **{key: (field, lambda text: [name.strip() for name in text.split(",") if name.strip()])
       for key, field in (("alias", "aliases"), ("tags", "tags"))}}


def preset_values(values: dict[str, str]) -> dict[str, str]:
    """`values` with the long options of today in place of variables, and of what is out of use."""
    named = {key[10:].lower().replace("_", "-") if key.startswith("LLAMA_ARG_") else key: text
             for key, text in values.items()}
    named = {PRESET_SPELLINGS.get(key, key): text for key, text in named.items()}
    on = {key: BOOLEANS.get(named.pop(key).lower())
          for key in ("mmap", "no-mmap", "mlock", "direct-io", "no-direct-io") if key in named}
    mapped = on.get("mmap") is not False and not on.get("no-mmap")
    mode = "+".join(name for name, wanted in (("mmap", mapped), ("mlock", on.get("mlock"))) if wanted) or "none"
    modes = {"load-mode": "dio" if on.get("direct-io") else mode} if on.keys() - {"no-direct-io"} else {}
    return {**modes, **named}


def imported_section(values: dict[str, str], folders: list[Path],
                     files: Mapping[str, list[Json]] | None = None) -> tuple[Json, Json, list[str]]:
    """The parameters and fields that a section's `values` stand for, files found by name, and sentences on the rest."""
    parameters, fields, refused = Json(), Json(), list[str]()
    for key, text in preset_values(values).items():
        negated = key.startswith("no-") and ALIASES.get(key[3:])
        name = negated or ALIASES.get(key)
        try:
            if key in PRESET_FIELDS:
                field, read = PRESET_FIELDS[key]
                fields |= checked_fields({field: read(text)}, MODEL_CHANGES, "changes", folders)
            elif name:
                if PARAMETERS[name].kind == "path":
                    same = [(files or {}).get(ntpath.basename(path).lower()) for path in text.split(",")]
                    text = ",".join(rows[0]["path"] for rows in same if rows) if all(same) else text
                value = PARAMETERS[name].from_text(text)
                parameters |= validated_parameters({name: not value if negated else value}, folders)
            elif key not in (*FILE_KEYS, "hf-file", "hff", "version"):
                refused.append(f"{key} is not a parameter that may be set here")
        except InvalidRequest as problem:
            refused.append(f"{key}: {problem}")
        except ValueError:
            refused.append(f"{key} cannot be {text}")
    return parameters, fields, refused


def preset_entries(text: str, models: list[Json], files: Mapping[str, list[Json]]) -> list[Json]:
    """The entries whose file `text` means: by its path, a link to it, its name, or user/repo:QUANT of the hub."""
    named = files.get(ntpath.basename(text.partition("?")[0]).lower(), [])
    found = [model for model in named if f"/{model['path']}".endswith(f"/{text}")] or \
        files.get(os.path.realpath(text), []) or named
    if not found and (source := preset_source(text)):
        place = preset_place(source.repo.partition("@")[0])
        words = name_words(place.rpartition("/")[2])
        there = [{"file": file, "shards": [], "path": model["path"], "quantization": download_quantization(file)}
                 for model in models if (file := os.path.basename(model["path"]))]
        of_repo = [item for item in there if f"/{place}/" in preset_place(item["path"])]
        alike = [item for item in there if name_words(re.sub(SHARD, r"\1", item["file"])) == words]
        found = list(filter(None, [download_choice(of_repo or alike, source._replace(file=None))]))
    return [model for model in models if found and model["path"] == found[0]["path"]]


def preset_place(text: str) -> str:
    """`text` with what separates user, repository and file in the caches of llama.cpp and of Hugging Face alike."""
    return re.sub(r"[/\\]|_|--", "/", text.lower())


def preset_source(text: str) -> Source | None:
    """What `text` names at the hub, where it is no file of a folder."""
    with contextlib.suppress(InvalidRequest):
        return download_source(text) if "://" in text or not text.lower().endswith(".gguf") or ":" in text else None
    return None


@on("presets:export", error="EXPORT_PRESETS_FAILED")
async def presets_export(dash: Dash) -> Json:
    """All models and their parameters as a preset file for llama-server --models-preset."""
    return {"ini": render_presets(dash.db.models(), dash.engine_config["defaults"])}


@on("presets:import", error="IMPORT_PRESETS_FAILED", cost=10)
async def presets_import(dash: Dash, *, ini: Annotated[str, Length(0, 262_144)],
                         dryRun: bool = False) -> Json:  # noqa: N803
    """Take over what a preset file or a command line says of the models it names, or only say what would change."""
    changes, warnings, downloads = await dash.library.patiently(
        ini, preset_changes, dash.db.models(), ini, dash.folders(), dash.engine_config["defaults"])
    wanted = dict[str, Json]()
    for change in [] if dryRun else changes:
        new, fields = ({key: value for key, (_, value) in change[part].items()} for part in ("parameters", "fields"))
        if change.get("created"):
            await dash.library.add(change["path"], id=change["id"], name=change["name"], parameters=new, **fields)
        else:
            wanted[change["id"]] = {"parameters": {**dash.db.get_model(change["id"])["parameters"], **new}, **fields}
    await dash.change_models(wanted)
    return {"changes": changes, "warnings": warnings, "downloads": downloads}


def preset_targets(sections: dict[str, dict[str, str]], models: list[Json],
                   files: Mapping[str, list[Json]]) -> dict[str, Json]:
    """The entry that each section is about: the one of its name, else one of its file, else a new one for that file."""
    known, targets = entry_names(models), dict[str, Json]()
    claimed = {known[name.lower()]["id"] for name in sections if name.lower() in known}
    for name, texts in sections.items():
        of_file = preset_entries(preset_file(name, texts), models, files)
        free = (entry for entry in of_file if entry["id"] not in claimed)
        entry = known.get(name.lower()) or next(free, None)
        if not entry and of_file:
            entry = {**of_file[0], "id": free_id(name, dict.fromkeys(known, 1)), "name": clean_text(name),
                     "parameters": {}, "aliases": [], "pinned": False, "idle": None, "created": True}
        if entry:
            targets[name] = known[entry["id"].lower()] = entry
            claimed.add(entry["id"])
    return targets


def preset_file(name: str, texts: dict[str, str]) -> str:
    """What a section calls its file; that may be the section's name."""
    texts = {key.removeprefix("LLAMA_ARG_").lower().replace("_", "-"): text for key, text in texts.items()}
    file = next((texts[key] for key in FILE_KEYS if key in texts), name)
    exact = texts.get("hf-file") or texts.get("hff")
    return f"{file.partition(':')[0]}:{exact}" if exact else file


def preset_changes(models: list[Json], text: str, folders: list[Path],
                   defaults: Json) -> tuple[list[Json], list[str], list[str]]:
    """What importing `text` changes, a sentence for each thing that is left out, and what may be downloaded for it.

    A change is {id, name, parameters: {key: [old, new]}, fields: {key: [old, new]}}, and {path, created} of a new one.
    """
    sections, files = parse_presets(text), collections.defaultdict[str, list[Json]](list)
    for model in models:
        for place in {os.path.basename(model["path"]).lower(), os.path.realpath(model["path"])}:
            files[place].append(model)
    if len(sections) > MAX_SECTIONS:
        raise InvalidRequest(f"more than {MAX_SECTIONS} models at once", field="ini")
    named = {name: texts for name, texts in sections.items() if name not in SHARED_SECTIONS}
    shared, general, warnings = imported_section(
        {key: text for name in SHARED_SECTIONS for key, text in sections.get(name, {}).items()}, folders, files)
    shared = {key: value for key, value in shared.items() if defaults.get(key) != value}
    changes, targets, names = [], preset_targets(named, models, files), entry_names(models)
    for name, old in targets.items():
        parameters, fields, refused = imported_section(named[name], folders, files)
        warnings += [f"[{name}] {problem}" for problem in refused]
        wanted = dict.fromkeys([*old["aliases"], *fields.get("aliases", ()), name])
        fields["aliases"] = [alias for alias in wanted if re.fullmatch(ALIAS, alias) and alias != old["id"]
                             and names.setdefault(alias.lower(), old)["id"] == old["id"]]
        changed = {key: [old["parameters"].get(key), value] for key, value in {**shared, **parameters}.items()
                   if old["parameters"].get(key) != value and not (key == "mmproj" and value == old["projector"])}
        fields = {key: [old[key], value] for key, value in {**general, **fields}.items() if old[key] != value}
        if changed or fields or "created" in old:
            changes.append({"id": old["id"], "name": old["name"], "parameters": changed, "fields": fields,
                            **({"path": old["path"], "created": True} if "created" in old else {})})
    absent = {name: preset_file(name, texts) for name, texts in named.items() if name not in targets}
    warnings += [f"[{name}]: there is no such model in the library; download it, or add its folder" for name in absent]
    return changes, warnings, [file for file in dict.fromkeys(absent.values()) if preset_source(file)]


# -- Builds ---------------------------------------------------------------------------------------

ENGINE_PAUSE = 2.0  # s between two looks for a program, while there is none
PROBE_TIMEOUT = 15.0  # s for each question to a program; the first start after a boot reads 50 MB of libraries
EXECUTABLE = ".exe" if os.name == "nt" else ""
PROTOCOL = b"cmd_child_to_router"  # in every llama-server since January 2026, or in a library of it
NO_ENGINE = "No llama-server was found on this machine."
ENGINE_HINT = {"text": "Install llama.cpp, or unpack a release from https://github.com/ggml-org/llama.cpp/releases "
                       "and start llamadash with --llama-server /path/to/llama-server.",
               "commands": ["winget install llama.cpp" if os.name == "nt" else "brew install llama.cpp"]}
SAFE_BUILD = 8941  # of llama.cpp; before it a request could write outside of memory (CVE-2026-21869)
LEAN_BUILD = 9464  # from then on the mask and the probabilities of a batch are kept once, and only as many as are asked
USEFUL_GPU = 2 * 2**30  # bytes of memory; a GPU with less is a display adapter
WITHHELD = r"LLAMA_(?:ARG_|API_KEY$|SERVER_)|LLAMADASH_|NOTIFY_SOCKET$|WATCHDOG_"
OPTION_LINE = r"(?m)^(-[\w-]+(?:, +-[\w-]+)*)(?: (\S.*?))?(?: {2,}|$)"
DEVICE_LINE = r"(?m)^ +([^\s:]{1,64}): ([^\n]{0,200}?) \((\d{1,9}) MiB, (\d{1,9}) MiB free\)"
PROCESSOR_DEVICES = ("BLAS", "AMX", "ZenDNN")  # listed beside GPUs, but libraries that compute on the processor
LEFT_TO_ENGINE = frozenset(("n-gpu-layers", "n-gpu-layers-draft", "parallel"))  # -1 has meant other things before
WHOLE_CONTEXT = 131_072  # tokens looked at for repetitions where neither they nor the context are bounded
# load-mode as builds before July 2026 spell it
LOAD_MODES = {"auto": [], "none": ["no-mmap"], "mmap": ["mmap"], "mlock": ["no-mmap", "mlock"],
              "mmap+mlock": ["mmap", "mlock"], "dio": ["direct-io"]}


@dataclass(frozen=True, eq=False)
class Build:
    """An engine program of this machine and what it says about itself."""
    id: str
    kind: str  # llama-server | embedded
    command: tuple[str, ...]
    path: str
    version: str | None = None
    options: Mapping[str, str] | None = None  # --help's, each with its value's hint ("": a switch); None: embedded
    protocol: str = "none"  # or "state", or "ready" (before summer 2026)
    devices: tuple[Json, ...] = ()  # {name, description, total, free} in bytes
    problem: str | None = None  # why it cannot be used
    size: int | None = None  # bytes of its program, or of all that was installed with it

    @property
    def number(self) -> int | None:
        """The number of llama.cpp's build, where the program tells it."""
        found = re.search(r"\bbuild (\d{3,6})\b|^(\d{3,6})\b", self.version or "")
        return int(found[1] or found[2]) if found else None

    @property
    def warning(self) -> str | None:
        """What its owner should know of it."""
        if self.number is not None and self.number < SAFE_BUILD:
            return f"Builds before {SAFE_BUILD} have a known hole that a request can use (CVE-2026-21869): update it."
        return None

    def as_json(self) -> Json:
        """What clients see of it."""
        backends = [re.sub(r"^MTL$", "Metal", re.sub(r"\d+$", "", device["name"])) for device in self.devices]
        return {"id": self.id, "kind": self.kind, "path": self.path, "version": self.version, "warning": self.warning,
                "backends": list(dict.fromkeys([*backends, "CPU"])), "devices": list(self.devices),
                "problem": self.problem, "size": self.size}


class Builds:
    """The engine programs of this machine, in the order in which they are preferred."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.builds: dict[str, Build] = {}
        self.probes: dict[tuple[str, int, int], Build] = {}  # by path, time of change (ns) and size
        self.patience = Probes()
        self.refreshing = asyncio.Lock()
        self.rehearsals: dict[str, Json] = {}  # what came of trying each build, or comes of it

    async def refresh(self, *, again: bool = True) -> None:
        """Look for programs again, and ask those that are new or have changed; `again` those of no use so far, too."""
        async with self.refreshing:
            try:
                found = await self.patience.call("a folder of programs", functools.partial(find_builds, self.config),
                                                 PROBE_TIMEOUT)
            except Unreachable:
                return  # what is known of them holds
            self.builds = {build.id: build for build in await asyncio.gather(
                *(self.probed(build, again) for build in found))}
            self.rehearsals = {id: item for id, item in self.rehearsals.items()  # of programs that are as they were
                               if id in self.builds and self.builds[id].version == item.get("version")}

    async def probed(self, build: Build, again: bool) -> Build:
        """`build` with what its program says about itself, which is asked once."""
        if build.problem:
            return build
        try:
            status = await self.patience.call(build.path, functools.partial(os.stat, build.path))
        except (OSError, Unreachable) as problem:
            return dataclasses.replace(build, problem=f"{build.path} cannot be read: {problem}")
        key = (build.path, status.st_mtime_ns, status.st_size)
        if key not in self.probes or (again and self.probes[key].problem):  # it may be over: a slow disk, a library
            self.probes[key] = await probe(build, self.config.data_dir)
        size = build.size or (None if build.kind == "embedded" else status.st_size)  # else that of Python alone
        return dataclasses.replace(self.probes[key], id=build.id, size=size)

    async def measure(self, names: set[str]) -> None:
        """Ask the programs that see one of these devices again how much is free of all that they see."""
        for build in [*self.builds.values()]:
            if names.intersection(device["name"] for device in build.devices):
                with contextlib.suppress(OSError, asyncio.TimeoutError):  # then what it said last holds
                    now = await listed_devices(build, self.config.data_dir, GPU_PATIENCE)
                    for device in build.devices:  # one that was unplugged has room for nothing
                        device |= next((one for one in now if one["name"] == device["name"]), {"total": 0, "free": 0})

    def get(self, id: str) -> Build:
        """The build with this id; NotFound where there is none."""
        if id not in self.builds:
            raise NotFound(f"There is no engine build {id}.")
        return self.builds[id]

    def default(self, config: Json) -> Build | None:
        """The build for models that choose none: the one fixed from outside, that of `config`, or the recommended."""
        return self.builds.get("given") or self.builds.get(config.get("build") or "") or self.best

    @property
    def devices(self) -> list[Json]:
        """Every device that some build can use, {name, description, total, free}."""
        return list({item["name"]: item for build in self.builds.values() for item in build.devices}.values())

    @property
    def best(self) -> Build | None:
        """The recommended one that is of use: the first for its GPUs' own system, else that sees one, or any."""
        usable = [build for build in self.builds.values() if not build.problem]
        return min(usable, default=None, key=lambda build: (not build.devices, any(
            item["name"].startswith("Vulkan") for item in build.devices)))

    def installed(self) -> list[Build]:
        """Those in data/engines, where llamadash installs them."""
        own = (self.config.data_dir / "engines").absolute()
        return [build for build in self.builds.values() if Path(build.path).is_relative_to(own / build.id)]

    def unused_gpu(self, gpus: Iterable[Json]) -> str | None:
        """The name of a GPU of this machine, where no usable build sees any."""
        if (best := self.best) and best.devices:
            return None
        return next((gpu["name"] for gpu in gpus if gpu["vendor"] in ("nvidia", "apple")
                     or (gpu["memory_total"] or 0) >= USEFUL_GPU), None)

    def as_json(self, config: Json, models: list[Json]) -> Json:
        """All builds as clients see them, with the models that choose each, and the recommended one."""
        default, own = self.default(config), self.installed()
        builds = [{**build.as_json(), "used_by": [
                       model["id"] for model in models if self.builds.get(model["build"] or "", default) is build],
                   "default": build is default, "removable": build in own, "rehearsal": self.rehearsals.get(build.id)}
                  for build in self.builds.values()]
        return {"builds": builds, "recommended": self.best and self.best.id}


def find_builds(config: Config) -> list[Build]:
    """The programs that there are, not yet asked; reads folders."""
    found: list[Build] = []
    given = config.llama_server
    if given and not re.match(r"https?://", given):
        program = shutil.which(os.path.expanduser(given))
        found.append(build_of("given", os.path.abspath(program) if program else given,
                              None if program else f"{given} is not a program"))
    installed = [(folder.stat().st_mtime_ns, numbers_of(folder.name), folder)
                 for folder in (config.data_dir / "engines").glob("[!.]*") if folder.is_dir()]
    for *_, folder in sorted(installed, reverse=True):  # the latest first
        if program := program_below(folder):
            id = re.sub("^(given|llama-server|embedded)$", r"installed-\1", folder.name)
            size = sum(path.lstat().st_size for path in folder.rglob("*"))
            found.append(dataclasses.replace(build_of(re.sub(r"[^A-Za-z0-9._-]+", "-", id)[:96], program), size=size))
    program = shutil.which("llama-server") or shutil.which("llama")
    if program and os.path.realpath(program) not in {os.path.realpath(build.path) for build in found}:
        found.append(build_of("llama-server", os.path.abspath(program)))
    if python := embedded_python():
        found.append(Build("embedded", "embedded", (python, str(Path(__file__).resolve()), "embedded-engine"), python))
    return found


def embedded_python() -> str | None:
    """The Python that has the embedded engine: this one, or the one in data/venv."""
    if importlib.util.find_spec(EMBEDDED_PACKAGE):
        return sys.executable
    return str(VENV_PYTHON) if any(VENV.glob(f"lib/python*/site-packages/{EMBEDDED_PACKAGE}/__init__.py")) else None


def build_of(id: str, program: str, problem: str | None = None) -> Build:
    """A build of llama-server that was not asked yet; `llama` is the same server with a word before the options."""
    unified = os.path.basename(program).removesuffix(EXECUTABLE) == "llama"
    return Build(id, "llama-server", (program, "serve") if unified else (program,), program, problem=problem)


def program_below(folder: Path) -> str | None:
    """The program llama-server, else llama, in `folder` or below."""
    return next((os.path.abspath(path) for name in ("llama-server", "llama") for path in folder.rglob(name + EXECUTABLE)
                 if path.is_file() and os.access(path, os.X_OK)), None)


async def probe(build: Build, data_dir: Path) -> Build:
    """`build` with what its program says of itself, or with why it is of no use."""
    if build.kind == "embedded":
        import importlib.metadata  # not at the top: slow to import, and seldom needed
        places = [*sys.path, *map(str, VENV.glob("lib/python*/site-packages"))]  # here, or in data/venv
        version = await asyncio.to_thread(lambda: next((f"{EMBEDDED_PACKAGE} {item.version}" for item in (
            importlib.metadata.Distribution.discover(name=EMBEDDED_PACKAGE, path=places))), None))
        return dataclasses.replace(build, version=version, protocol="state")
    try:
        said, usage = [await build_output(build, option, data_dir) for option in ("--version", "--help")]
        options = {name: hint for names, hint in re.findall(OPTION_LINE, usage)
                   for name in re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)", names)}
        if not {"model", "host", "port"} <= set(options):
            last = clean_text(((usage or said).strip() or "it writes nothing").splitlines()[-1])
            return dataclasses.replace(build, problem=f"{build.path} cannot be used: {shortened(last, 500)}")
        devices = await listed_devices(build, data_dir)
    except (OSError, asyncio.TimeoutError) as problem:
        return dataclasses.replace(build, problem=f"{build.path} cannot be run: {str(problem) or 'it does not answer'}")
    found = re.search(r"version: *([^\n]{1,100})", said)
    return dataclasses.replace(
        build, version=clean_line(found[1].encode()) if found else None, options=options, devices=devices,
        protocol=await asyncio.to_thread(protocol_of, build.path))


async def build_output(build: Build, option: str, data_dir: Path, limit: float = PROBE_TIMEOUT) -> str:
    """What a build's program prints for one option, of its devices with which have no memory of their own."""
    talk = dict.fromkeys(("LLAMA_LOG_VERBOSITY", "LLAMA_ARG_LOG_VERBOSITY") if option == "--list-devices" else (), "5")
    text, status = await program_output(*build.command, option, limit=limit, size=2**20,
                                        environment={**engine_environment("", None, data_dir), **talk})
    killed = status is not None and -status in signal.valid_signals()
    return f"{text}\nit was killed: {signal.strsignal(-(status or 0))}" if killed else text


async def listed_devices(build: Build, data_dir: Path, limit: float = PROBE_TIMEOUT) -> tuple[Json, ...]:
    """The devices that a build sees now, and how much is free of each."""
    said = await build_output(build, "--list-devices", data_dir, limit)
    unified = {f"Vulkan{at}" for at in re.findall(r"ggml_vulkan: (\d{1,3}) = .*\| uma: 1 ", said)}
    return tuple({"name": name, "description": description, "total": int(total) * 2**20, "free": int(free) * 2**20,
                  **({"unified": True} if name in unified else {})}
                 for name, description, total, free in re.findall(DEVICE_LINE, said) if name not in PROCESSOR_DEVICES)


def protocol_of(program: str) -> str:
    """How `program`, or a library beside it, reports to the one that started it: "state", "ready" or "none"."""
    folder = Path(os.path.realpath(program)).parent
    libraries = [path for pattern in ("lib*.so*", "lib*.dylib", "*.dll") for place in (folder, folder.parent / "lib")
                 for path in place.glob(pattern) if re.search("llama|server", path.name)]
    for path in (Path(program), *libraries):
        with contextlib.suppress(OSError, ValueError), open(path, "rb", opener=file_behind) as file, \
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if (at := content.find(PROTOCOL)) >= 0:
                return "state" if content.find(PROTOCOL + b":state", at) >= 0 else "ready"
    return "none"


def engine_environment(key: str, build: Build | None, data_dir: Path) -> dict[str, str]:
    """An engine's environment: ours, but for what would override its options, and with its API key."""
    passed = {name: value for name, value in os.environ.items() if not re.match(WITHHELD, name)}
    if os.environ.get("LLAMADASH_KEEP_ENGINE_CONFIG") != "1":  # an API key in llama.cpp/config.ini would lock us out
        passed["XDG_CONFIG_HOME"] = str((data_dir / "engine-config").absolute())
    if key:
        passed["LLAMA_API_KEY"] = key
    if build and build.protocol != "none":
        passed["LLAMA_SERVER_ROUTER_PORT"] = "0"  # that it is set is all that counts
    return passed


def engine_arguments(build: Build, model: Json, parameters: Json, port: int, alias: str,
                     devices: Iterable[str] | None = None) -> tuple[list[str], list[str]]:
    """The command line that serves `model` with `parameters`, and the parameters that the build does not know."""
    values = {key: value for key, value in preset_section({**model, "parameters": parameters}).items()
              if key not in {"model", *OWN_PARAMETERS} and not (key in LEFT_TO_ENGINE and value == -1)}
    if devices := list(devices or ()):
        values.setdefault("device", ",".join(devices))  # where the parameters name none
    if values.get("repeat-last-n", 0) < 0:  # which newer builds refuse
        values["repeat-last-n"] = values.get("ctx-size") or WHOLE_CONTEXT
    served = ["--model", model["path"], "--host", "127.0.0.1", "--port", str(port), "--alias", alias]
    if build.options is None:
        fixed = ["--metrics", "on", "--slots", "on"]
    else:
        page = "no-ui" if "no-ui" in build.options else "no-webui"
        fixed = [f"--{name}" for name in ("metrics", "slots", page, "log-jsonl") if name in build.options]
        fixed += ["--log-colors", "off"] if build.options.get("log-colors") else []
    rendered = {key: option_words(build.options, key, value) for key, value in values.items()}
    words = [word for option in rendered.values() for word in option or ()]
    return [*build.command, *served, *fixed, *words], [key for key, option in rendered.items() if option is None]


def option_words(options: Mapping[str, str] | None, key: str, value: Any) -> list[str] | None:
    """The words for one parameter as a build spells it; None where it knows neither it nor such a value."""
    text, parameter = preset_value(value), PARAMETERS[key]
    if options is None:
        return [f"--{key}", text] if key in EMBEDDED_OPTIONS else None
    names = (key, *parameter.aliases)
    name = next((name for name in names if name in options), None)
    takes = options.get(name or "", "")
    if isinstance(value, bool) and not takes:
        negations = (f"no-{name.removesuffix(end)}" for name in names for end in ("", "-auto"))  # --no-mmproj
        off = next((name for name in negations if name in options), None)
        word = name if value else off
        return [f"--{word}"] if word else [] if name or off else None
    if name is None:
        modes = LOAD_MODES[text] if key == "load-mode" else ["-"]
        return [f"--{mode}" for mode in modes] if set(modes) <= set(options) else None
    listed = re.findall(r"[\w.+-]+", takes) if re.search("[|,]", takes) else []
    if listed and (parameter.kind == "choice" or key == "spec-type") and not set(text.split(",")) <= set(listed):
        return None
    if not takes:  # a switch then, such as flash-attn until August 2025
        return [f"--{name}"] if text == "on" else []
    return [f"--{name}", text]


def kill_group(group: int) -> None:
    """Kill a process group that we made; on Windows the process and its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
        if os.name != "nt":
            os.killpg(group, signal.SIGKILL)
            return
        leader = psutil.Process(group)
        for process in [*leader.children(recursive=True), leader]:
            process.kill()


def port_problem(host: str, port: int) -> str | None:
    """Why no server could listen there now; None where one could."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as problem:
        taken = problem.errno == errno.EADDRINUSE
        return f"is taken by {port_holder(port)}" if taken else f"cannot be used now: {problem.strerror}"
    return None


def free_port(host: str) -> int:
    """A port that nobody listens on."""
    with socket.create_server((host, 0)) as listener:
        return int(listener.getsockname()[1])


@on("engines:list", error="LIST_ENGINES_FAILED", cost=5)
async def engines_list(dash: Dash) -> Json:
    """The engine programs of this machine, looked for again."""
    await dash.builds.refresh()
    dash.pool.changed.set()  # whether there is an engine
    return {**dash.builds.as_json(dash.engine_config, dash.db.models()), "installing": dash.installer.report,
            "newer": dash.installer.newer}


@on("engines:use", error="USE_ENGINE_FAILED", cost=5)
async def engines_use(dash: Dash, *, id: Annotated[str, Length(1, 96)]) -> Json:
    """Run the models that choose no build with this one, from their next load on."""
    if problem := dash.builds.get(id).problem:
        raise InvalidRequest(problem, field="id")
    if id != "given" and "given" in dash.builds.builds:
        raise Conflict("The engine is fixed by --llama-server.")
    await apply_config(dash, None, {"build": id})
    dash.gateway.warn("build", None)
    return await announce_build(dash, id)


async def wait_for_engine(dash: Dash) -> None:
    """Look for programs again, often where none is of use: a disk may be mounted late, or one installed beside us."""
    for turn in itertools.count(1):
        await asyncio.sleep(ENGINE_PAUSE)
        default, now_and_then = dash.builds.default(dash.engine_config), turn % 30 == 0
        useless = default is None or default.problem is not None
        if useless or now_and_then:
            before = {id: build.problem for id, build in dash.builds.builds.items()}
            await dash.builds.refresh(again=useless and now_and_then)
            for id, build in dash.builds.builds.items():
                if not build.problem and before.get(id, "") is not None:
                    log.info("the engine %s is there", build.path)
                    await announce_build(dash, id)


async def announce_build(dash: Dash, id: str) -> Json:
    """Tell everybody of a build that is new or chosen."""
    builds = dash.builds.as_json(dash.engine_config, dash.db.models())["builds"]
    result = {"build": next(build for build in builds if build["id"] == id)}
    dash.pool.changed.set()  # whether there is an engine
    await dash.broadcast("engines:update", result)
    return result


# -- Instances -----------------------------------------------------------------------------------
#
# One engine process per loaded model, on a loopback port of its own, with a key that only llamadash knows.

MAX_LOG_LINE = 8000  # bytes; of a longer line only how much more there was
LOG_BLOCK = 65536  # bytes read from a pipe at once
LAST_LINES = 80  # of a process's output, kept to explain why it ended
HEALTH_INTERVAL = 10.0  # s between two looks at whether a process that answers is alive
HEALTH_TIMEOUT = 5.0  # s
LOAD_SILENCE = 120.0  # s in which a load neither writes, reads nor computes, after which it hangs
LOAD_STANDSTILL = 300.0  # s in which a load gets no further, however much it computes: nothing read, no memory taken
HUNG_AFTER = 45.0  # s without an answer, a log line and any work before a process is killed
HUNG_BUSY = 180.0  # s without an answer before one that computes is killed all the same
IDLE_CPU = 0.2  # s of processor time between two looks; less is no work
# All times to stop. Whoever waits for the end of something waits longer than that may take.
STOP_LOADING = 1.0  # s from SIGTERM to SIGKILL of a process that loads: it has nothing to finish
STOP_TERM = 3.0  # s from SIGTERM to SIGKILL of any other
STOP_TIMEOUT = 10  # s from the request to exit until SIGTERM, unless the model's `stop-timeout` (1 to 600 s) differs
STOP_ALL_TIME = 9.0  # s for all processes together, whatever is left to them, when the engine or the program stops
STOP_TASKS = 1.5  # s that background tasks have for ending after that; a page waits 30 s for the stop of the engine
STOP_DEADLINE = 13.0  # s from the signal to end until the program leaves, whatever still runs
SAY_TIME = 0.2  # s in which whoever reads what is printed has to make room for it
STOP_HURRY = 1.0  # s that are left to it after a second signal
STOP_SECONDS = 45  # until systemd kills the program
USED_DEVICE = re.compile(r"using device (\S{1,64}) \(.{0,200}\) \((?:([0-9a-f:]{10}\.\d)|.{0,64})\)"
                         r"(?: - (\d{1,9}) MiB free)?")
# An allocation that failed: how large and on which device, as far as that is told
WANTED = re.compile(r"(?i)alloc(?:ate|ating|ation)(?: (?P<device>(?-i:[A-Z])\S{1,99}) buffer|(?: [a-z]+)? buffer)?"
                    r"(?:(?:,? (?:of )?size)?(?: of| =)? +(?P<size>\d{1,18}(?:\.\d\d)?)(?P<unit> Mi?B)?)?"
                    r"(?: on device (?P<index>\d{1,3}))?|current device: (?P<current>\d{1,3}), in function alloc")
SLOT_LINE = re.compile(r"(?:id +(\d{1,4}) \| task +-?\d{1,10} \| )?selected slot by (?:LRU, t_last = (-?\d{1,19})|"
                       r"LCP similarity, (?:f_)?sim_best = (\d\.\d{3}) .{1,40}f_keep = (\d{1,6}\.\d{3}))")
OFFLOADED = re.compile(r"offloaded (\d{1,4})/(\d{1,4}) layers to GPU")
PARTS = ("model", "context", "compute")  # of a memory that a process takes, as the engine accounts it
MAX_ACCOUNTED = 64  # of what an engine says of its memory while it fits a model into it
SPEED_LINE = re.compile(r"n_(?:gen|decoded) = +\d{1,9}, tg = +[\d.]{1,20} t/s, tg_3s = +(\d{1,9}(?:\.\d{1,9})?) t/s")
CHILD_EXIT = b"cmd_router_to_child:exit\n"
CONTROL = (r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])|"  # codes of terminals
           r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
LEVEL_PREFIX = re.compile(r"(?:\d+\.\d\d\.\d{3}\.\d{3} )?([IWED]) (.*)")
LEVELS = {"i": "info", "w": "warning", "e": "error", "d": "debug"}  # by the first letter
ALARMING = re.compile(r"(?i)\b(?:error|failed|failure|assert|abort|fatal|out of memory|cannot open)\b|GGML_ASSERT")
ORIGIN = r"^(?:\w+ +)?[\w~]+ ?(?:\(\))?: +"  # the function that llama.cpp names before a message
VAGUE = (r"(?i)failed to load (?:the )?model(?:,? '.*)?$|unable to load model|exiting due to|trying to fit params|"
         r"failed to init|failed to create[ _]?context|multimodal model")
HARMLESS = re.compile(r"http client error: Connection handling canceled")  # logged as an error when a client leaves
# The engine goes on without it: memory that is pinned, locked or read ahead, a cache, a library of other GPUs
DISPENSABLE = re.compile(r"pinned memory|failed to (?:m|mun|Virtual|VirtualUn)[Ll]ock |posix_[mf]advise\(|"
                         r"munmap failed|memory for prompt cache|load_backend: failed")
RETRIED = "retrying without pipeline parallelism"  # what failed before it needs less memory then
NOISE = re.compile(r"^srv +(?:load:   |update_slots|log_ser)|^slot (?:get_availabl|launch_slot_|print_timing|release)")
# Why a process ended, by what it wrote: the first of these that is found says it, in the reader's words.
CAUSES = (
    (r"unknown (model architecture|(?:pre-tokenizer|projector) type): '?([^']{1,64})",
     "This build does not know the {} {}: use a newer one"),
    (r"(?:invalid ggml|unknown tensor|unknown ggml) type (-?\d{1,10})",
     "This build does not know the tensor type {}: use a newer one, or another file of the model"),
    (r"host and model endian", "The file is for processors of the other byte order: get another file of the model"),
    (r"V cache (?:quantization )?requires flash|quantized V cache",
     "A quantized KV cache of values needs flash attention: switch it on, or choose f16 for the values"),
    (r"(?i)failed to load CLIP", "The projector is damaged, or is none: choose another, or switch it off"),
    (r"(?:invalid|illegal) split|failed to load GGUF split|in GGUF split",
     "A part of the model is missing, renamed or of another model"),
    (r'error while handling argument "(-{0,2}[\w-]{1,64})": (.{1,200})',
     "This build does not take this value of {} ({}): choose another, or a newer build"),
    (r"^(?:error: ){0,2}(?:invalid|unknown) argument: (\S{1,99})", "This build has no option {}: choose a newer one"),
    (r"ddress already in use|couldn't bind HTTP", "The engine's port was taken: load the model again"),
    (r"mmap failed: (?!Cannot allocate)(.{1,99})",
     "The file cannot be mapped from its disk ({}): choose none for “How the file is read”"),
    (r"(?:^|[ '])(/[^:']{1,300}?)['\"]?(?: read-write)?:? \(?Permission denied",
     "This user may not use {}: change its rights, or the groups of the user"),
    (r"ailed to connect to (?:RPC server at )?[\w.:\[\]-]{1,99}:\d{1,5}$|Remote RPC server crashed|RPC .{1,20}mismatch",
     "An RPC worker does not answer, or is of another version: start it, with the same build as here"),
    (r"(?i)vocabs? .{0,40}(?:must match|not compatible|not match)",
     "The draft model has another vocabulary: choose one of the same family, or none"),
    (r"within the file bounds|tensors expected but|invalid magic characters|unexpectedly reached end of file",
     "The model's file is incomplete or damaged: download it again"),
    (r"mismatch between text model \(n_embd = (\d{1,9})\) and mmproj \(n_embd = (\d{1,9})\)",
     "The projector is for models of another embedding length ({1}, not {0}): choose another, or switch it off"),
    (r"(?i)(?:cuda|hip|rocm|musa|vulkan|metal|sycl|cann).{0,80}out of memory|Malloc failed|cuMemCreate|ALLOC_FAILED|"
     r"out_?of_?(?:device_?memory|resources)|ErrorOutOfMemory|object_allocation_failure|kIOGPU\w{0,64}OutOfMemory|"
     r"Insufficient Memory \(0|[Mm]emory allocation of size|exceeds device mem|metal.{0,80}failed to allocate|"
     r"of memory on device|to allocate [\d.]+ MiB \(err|"
     r"(?:failed|unable) to allocate (?!CPU|\w{0,32}host)(?-i:[A-Z])[^\s:]{0,64}(?::\d+\])? buffer(?: of|$)",
     "The GPU ran out of memory{shortage}: use a smaller context, a q8_0 KV cache or fewer layers on the "
     "GPU{holders}"),
    (r"(?i)Device_?Lost|device lost|Memory access fault|HW Exception by GPU|GPU Hang|Caused GPU|fallen off|\bXid\b|"
     r"error: (?:an illegal|unspecified|misaligned|uncorrectable)|IllegalAddress|kIOGPU\w{0,64}(?:Hang|Timeout|Victim)",
     "The GPU was lost: its driver reset it, or it failed"),
    (r"(?i)(?:failed|unable) to allocate (?:\w{0,32}(?:CPU|host)\w{0,32} |output )?buffer|std::bad_alloc|mmap failed|"
     r"cannot allocate memory|out_?of_?host_?memory|of memory on host|\(attempted to allocate|to allocate +[\d.]+ MB",
     "Main memory ran out{shortage}: use a smaller context, a q8_0 KV cache or a smaller model{holders}"),
    (r"failed to (?:apply|load) (lora adapter|draft model)",
     "The {} is damaged, or for another model: choose another, or none"),
    (r"(?i)chat template (?:parsing error|is not supported)|failed to initialize chat template",
     "The chat template cannot be used: choose a built-in one, or switch Jinja templates off"),
    (r"driver version is insufficient|PTX was compiled with an unsupported",
     "The GPU's driver is too old for this build: update the driver, or choose a build for an older one"),
    (r"no kernel image|invalid device function|NoBinaryForGpu|Unable to find code object|TensileLibrary|"
     r"compiled without support for the current GPU|not compiled with any CUDA arch",
     "This build has no code for this GPU: choose one that has, or one for Vulkan"),
    (r"(?:loading shared libraries: |loading shared library |Library not loaded: )([^\s:]{1,200})",
     "This build needs the library {}, which is not here: install it, or choose another build"),
    (r"(GLIBC\w{0,9}_[\d.]{1,9})' not found", "This build needs a newer system, with {}: choose another build"),
    (r"(?:undefined symbol|Symbol not found): (\w{1,200})", "Libraries of several builds are mixed: {} is missing"),
    (r"(?i)exec format error|cannot execute binary|bad CPU type", "This build is for another kind of processor"),
    (r"(?i)^illegal instruction", "This build uses instructions that this processor lacks: choose another build"),
    (r"^Bus error", "The model's file could not be read while it was in use: it became shorter, or its disk failed"),
    (r"([\w.-]{1,64}:\d{1,6}): GGML_ASSERT\((.{1,300}?)\) failed",
     "The engine aborted at {}, where {} did not hold: this is a fault of the build"),
    (r"((?:CUDA|ROCm|HIP|MUSA|\w{2,3}BLAS|SYCL) error: .{1,200})", "The GPU's driver or this build failed: {}"),
    (r"^(?:[^\s:]{1,99}: )?(?:[^\s:]{0,300}[/\\])?([\w-]{1,64}\.\w{1,3}:\d{1,6}): (.{1,300})",
     "The engine aborted at {}: {}"),
    (r"^(?:  what\(\): +|libc\+\+abi: terminating .{1,200}?: )(.{1,300})", "The engine aborted: {}"),
)
# Of the reasons for which a process ended those that are its build's, and neither memory's nor the file's.
BUILD_FAULT = re.compile(r"(?i)\bbuilds?\b|the engine aborted|cannot be (?:started|run)|illegal instruction|it hung")
# What reading answers of wrong types, or of numbers that nobody can compute with, may raise.
MALFORMED = (AttributeError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError)
# Becomes the engine, beside a shell in its group that ends both when the pipe is closed: by our end, whatever it is.
GUARD = '[ -e "/dev/fd/$0" ] && (read -r end < "/dev/fd/$0"; kill -KILL "-$$") > /dev/null 2>&1 & exec "$@"'
SHELL = shutil.which("sh") if os.name == "posix" else None


class LineSplitter:
    """Cuts a byte stream into lines of bounded length; what exceeds `limit` is dropped."""

    def __init__(self, limit: int = MAX_LOG_LINE) -> None:
        self.limit = limit
        self.partial = b""

    def feed(self, block: bytes) -> list[bytes]:
        """The lines that `block` completes, without their line ends."""
        *lines, last = block.split(b"\n")
        if lines:
            lines[0] = self.partial + lines[0]
            self.partial = b""
        self.partial += last[:self.limit - len(self.partial)]
        return [line[:self.limit] for line in lines]


class LogLine(NamedTuple):
    """One line of an engine's output."""
    level: str
    text: str


def clean_line(line: bytes) -> str:
    """`line` as text without terminal codes, overwritten parts and control characters."""
    text = line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]
    return re.sub(CONTROL, "", text.replace("\t", "    "))


def parse_line(line: bytes) -> LogLine:
    """One line of llama-server's output, plain or JSON."""
    text = clean_line(line)
    if not text.startswith('{"type":'):
        if found := LEVEL_PREFIX.match(text):
            return LogLine(LEVELS[found[1].lower()], found[2])
        return LogLine("error" if ALARMING.search(text) else "info", text)
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return LogLine("info", text)
    message = re.sub(f"{CONTROL}|\n", " ", str(parsed.get("msg", ""))).rstrip()
    return LogLine(LEVELS.get(str(parsed.get("level"))[:1], "info"), message)


def explanation(lines: Iterable[LogLine], free: dict[str, int], taken: dict[str, dict[str, int]]) -> str | None:
    """Why a process ended: a known cause, with what was `free` and is `taken` of memory, else its last clear error."""
    lines = [*lines]
    retried = max((at for at, line in enumerate(lines) if RETRIED in line.text), default=-1)
    lines = [line for before, line in itertools.pairwise([LogLine("", ""), *lines[retried + 1:]])
             if not (HARMLESS.search(line.text) or DISPENSABLE.search(line.text)
                     or before.text.endswith("allocate pinned memory."))]
    for pattern, cause in CAUSES:
        for line in lines:
            if found := re.search(pattern, line.text):
                short = shortage(lines, free, taken, main=cause.startswith("Main")) if "{shortage}" in cause else {}
                return cause.format(*found.groups(), **short)
    errors = [re.sub(ORIGIN, "", line.text).strip() for line in lines if line.level == "error"]
    telling = [item for item in errors if item and not re.search(VAGUE, item)]
    return telling[-1] if telling else errors[-1] if errors else None


def shortage(lines: list[LogLine], free: dict[str, int], taken: dict[str, dict[str, int]], *,
             main: bool) -> dict[str, str]:
    """How much memory an allocation that failed wanted, and where, and which models have some of it, in words."""
    gpus, wanted = [item for item in free if item != "Main memory"], ""
    name = "Main memory" if main else gpus[0] if len(gpus) == 1 else ""
    for found in filter(None, (WANTED.search(line.text) for line in lines)):
        if found["size"]:
            size = float(found["size"]) * (2**20 if found["unit"] else 1)
            wanted = f": {size / 2**30:.2f} GiB more were needed"
        if not main:
            numbered = "[A-Za-z]+" + (found["index"] or found["current"] or "-")
            name = found["device"] or next((gpu for gpu in gpus if re.fullmatch(numbered, gpu)), name)
    place = f" on {name}" if name and not main else ""
    left = f" ({free[name] / 2**30:.2f} GiB were free when the load began)" if name in free else ""
    holders = [model for model, held in taken.items()
               if any(held[item] for item in held if (item == "Main memory") == main and name in (item, ""))]
    return {"shortage": wanted + place + left, "holders": f", or unload {' or '.join(holders[:3])}" if holders else ""}


def memory_breakdown(line: bytes) -> dict[str, Json]:
    """What the engine accounts of each memory, from a fit_memory_breakdown line; {} where it is not understood."""
    with contextlib.suppress(*MALFORMED):
        memories = {"Main memory" if row["kind"] == "host" else str(row["name"])[:64]:
                    {part: int(row[part]) * 2**20 for part in PARTS} for row in json.loads(line)["data"]["rows"]}
        return memories if all(is_amount(amount) for row in memories.values() for amount in row.values()) else {}
    return {}


def is_amount(value: Any) -> bool:
    """Whether `value`, from an engine, is a number of something, that can be stored and sent."""
    return type(value) in (int, float) and 0 <= value < JSON_SAFE


def finite_rate(value: Any) -> float | None:
    """`value` as a rate with two decimals, or None where it is no such number, or 0 as of a single token."""
    return round(float(value), 2) or None if is_amount(value) else None


class EngineOutput:
    """What an engine process tells: its states, and its log, which goes on to the journal."""

    def __init__(self, name: str, journal: Journal, changed: Callable[[], None]) -> None:
        self.name, self.journal, self.changed = name, journal, changed
        self.lines = deque[bytes](maxlen=LAST_LINES)
        self.limiter = LogLimiter()
        self.heard_at = self.advanced_at = time.monotonic()
        self.said_ready = asyncio.Event()  # by the child protocol: a moment before it answers
        self.progress: float | None = 0.0
        self.stage: str | None = None
        self.meta: Json = {}
        self.addresses: dict[str, str] = {}  # of its devices on the PCI bus, by name
        self.free: dict[str, int] = {}  # bytes of each memory as it began
        self.accounted: list[dict[str, Json]] = []  # what the engine says of its memory, by device, at each look of it
        self.offloaded: tuple[int, int] | None = None  # layers on the GPUs, of how many, where it says that
        self.speed: float | None = None  # the last one known, tokens/s while answering
        self.slots = deque[tuple[float, re.Match[str]]](maxlen=64)  # how each was chosen, and when, a moment ago

    async def read(self, stream: asyncio.StreamReader) -> None:
        """Read one of the process's pipes in blocks until it ends."""
        lines = LineSplitter(2**20)  # a state describes the model
        while block := await stream.read(LOG_BLOCK):
            self.heard_at = time.monotonic()
            for at, line in enumerate(lines.feed(block), 1):
                self.take_line(line)
                if at % 128 == 0:  # at most 2 ms
                    await asyncio.sleep(0)  # a flood must not hold up everyone else
        if lines.partial:
            self.take_line(lines.partial)

    def take_line(self, line: bytes) -> None:
        """Learn from one line; of a flood, all but the states and the memory is only kept for the last words."""
        if line.startswith(b"cmd_child_to_router:"):
            with contextlib.suppress(*MALFORMED):
                self.take_state(line)
        elif line.startswith(b'{"type":"fit_memory_breakdown"'):
            self.accounted = [*self.accounted[:MAX_ACCOUNTED], memory_breakdown(line)]
        elif line and not line.startswith(b"[New LWP "):  # of a debugger, one for each thread
            if len(line) > MAX_LOG_LINE:
                line = shortened(line.decode("utf-8", "replace"), MAX_LOG_LINE).encode()
            if not re.match(rb"#\d+ ", line):  # nor the many calls that led to the end
                self.lines.append(line)
            if self.limiter.allows(self.name, self.heard_at, len(line)):
                self.take_log(parse_line(line))

    def take_state(self, line: bytes) -> None:
        """Take in a state: how far a load has come, or that it is ready and what it has loaded."""
        state, _, text = line.strip().decode().partition(":")[2].partition(":")
        told = json.loads(text or "{}")
        if state == "state":
            state, told = told.get("state"), told.get("payload") or {}
        if state == "loading":
            stages, current = told.get("stages") or [], told.get("current")
            before = stages.index(current) if current in stages else 0
            done = (before + min(1.0, float(told["value"]))) / max(1, len(stages))
            if done > (self.progress or 0.0):
                self.progress, self.advanced_at = done, time.monotonic()
            self.stage = "warming up" if done >= 1 else clean_text(str(current))[:64]  # which follows
            self.changed()
        elif state in ("ready", "info"):
            if state == "ready":
                self.said_ready.set()
            meta = told.get("meta") or {}
            self.meta |= {key: meta[key] for key in ("n_ctx", "n_ctx_train", "size") if is_amount(meta.get(key))}

    def take_log(self, line: LogLine) -> None:
        """Learn the speed from one line of the log, and pass it on to the journal."""
        if found := SPEED_LINE.search(line.text):
            self.speed = float(found[1])
        if found := SLOT_LINE.search(line.text):
            self.slots.append((self.heard_at, found))
        if found := USED_DEVICE.search(line.text):
            self.addresses |= {found[1]: found[2]} if found[2] else {}
            self.free |= {found[1]: int(found[3]) * 2**20} if found[3] else {}
        if (found := OFFLOADED.search(line.text)) and not self.offloaded:  # a draft model's come later
            self.offloaded = int(found[1]), int(found[2])
        noise = HARMLESS.search(line.text) or (line.level == "info" and NOISE.search(line.text))
        if line.text:
            self.journal.add("debug" if noise else line.level, self.name, line.text)

    def tell_suppressed(self) -> None:
        """Say how many lines were held back."""
        for source, count in self.limiter.suppressed().items():
            self.journal.add("warning", source, f"{count} lines suppressed")


async def body_of(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body of a response, of one with more than `limit` bytes only the beginning, which is longer than that."""
    try:
        return await response.content.readexactly(limit + 1)
    except asyncio.IncompleteReadError as complete:
        return complete.partial


class Instance:
    """One engine process, from its start to its end. `changed` is called whenever there is something new to show."""

    def __init__(self, dash: Dash, name: str, build: Build, arguments: list[str], *, stop_timeout: int = STOP_TIMEOUT,
                 changed: Callable[[], None] = lambda: None) -> None:
        self.dash, self.name, self.build = dash, name, build
        self.arguments, self.stop_timeout, self.changed = arguments, stop_timeout, changed
        self.held: Mapping[str, int] = {}  # bytes that were reserved for it on each device
        self.answered = 0.0  # s of its finished requests together
        self.group = Group({}, {})  # the entries that it serves, as they were when it started
        self.spilled = 0  # bytes that it would take of the GPUs, beside what it does, had these room for them
        self.placement: list[str] = []  # the devices that it was told to use
        self.left_out: list[str] = []  # parameters that the build does not know
        self.port = int(arguments[arguments.index("--port") + 1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = secrets.token_urlsafe(24)
        self.authorization = {"Authorization": f"Bearer {self.key}"}  # the header that it wants of every request
        self.process: asyncio.subprocess.Process | None = None
        self.output = EngineOutput(name, dash.journal, changed)
        self.output.free = {item["name"]: item["free"] for item in dash.sampler.memories(dash.builds.devices)}
        self.ready = asyncio.Event()
        self.started = time.monotonic()
        self.ready_at: float | None = None
        self.gone = asyncio.Event()  # it has ended, and everybody knows
        self.stopping = False
        self.killed_for: str | None = None
        self.slots: int | None = None
        self.devices: list[Json] = []  # what it really takes
        self.taken: dict[str, int] = {}  # of that, what is not free for others: mapped weights are file cache
        self.energy: float | None = None  # J that it has taken without requests, as far as a meter tells

    async def run(self) -> str | None:
        """Start the process and wait for its end. Returns why it ended, None where it was told to."""
        with contextlib.ExitStack() as pipe:
            try:
                lifeline, _ = [pipe.enter_context(os.fdopen(end, mode))
                               for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True)]
                guarded = [SHELL, "-c", GUARD, str(lifeline.fileno())] if SHELL else []
                self.process = process = await asyncio.create_subprocess_exec(
                    *guarded, *self.arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE, limit=LOG_BLOCK, start_new_session=True,
                    pass_fds=[lifeline.fileno()] if SHELL else [],
                    env=engine_environment(self.key, self.build, self.dash.config.data_dir))
            except OSError as problem:
                return f"{self.build.path} cannot be started: {problem.strerror or problem}"
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None
            works = {f"output of {self.name}": functools.partial(self.output.read, process.stdout),
                     f"errors of {self.name}": functools.partial(self.output.read, process.stderr),
                     f"health of {self.name}": functools.partial(self.follow, process)}
            *readers, follower = (asyncio.ensure_future(self.dash.run_forever(*item)) for item in works.items())
            try:
                if self.stopping:
                    kill_group(process.pid)
                status = await process.wait()
                await asyncio.wait(readers, timeout=0.5)  # its last words
            finally:
                kill_group(process.pid)
                await cancelled([follower, *readers])
                process.stdin.close()
                self.output.tell_suppressed()
        return None if self.stopping and not self.killed_for else self.failure(status)

    async def stop(self, within: float = math.inf) -> None:
        """Ask the process to end, then make it, `within` so many s where it is loaded; run() returns when it has."""
        if self.stopping:
            return
        self.stopping = True
        process, loaded = self.process, self.ready.is_set()
        if process is None or process.returncode is not None:
            return
        steps: list[tuple[Callable[[], None], float]] = [(process.terminate, STOP_TERM if loaded else STOP_LOADING)]
        if loaded and self.build.protocol != "none" and process.stdin is not None:
            steps.insert(0, (functools.partial(process.stdin.write, CHILD_EXIT),
                             min(self.stop_timeout, within - STOP_TERM)))
        for ask, seconds in steps:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                ask()
                await asyncio.wait_for(process.wait(), seconds)
                return
        if loaded:
            log.warning("%s did not end when it was asked to, and was killed", self.name)
        kill_group(process.pid)

    def kill(self, reason: str) -> None:
        """End a process that is of no use; run() returns the reason."""
        self.killed_for = reason
        if self.process is not None:
            kill_group(self.process.pid)

    def failure(self, status: int) -> str:
        """Why the process ended by itself."""
        if self.killed_for:
            return self.killed_for
        number = -status if status < 0 else status - 128 if 128 < status < 160 else 0  # as a shell tells of a signal
        named = signal.strsignal(number) if number in signal.valid_signals() else None
        others = {item.name: item.taken for item in self.dash.pool.instances.values() if item is not self}
        lines = [*map(parse_line, self.output.lines), LogLine("info", named or "")]
        said = explanation(lines, self.output.free, others)
        ended = f"killed by signal {number}" if named else f"ended with status {status}"
        if said:
            return f"{said} ({ended})"
        usual = {-9: ", often out of memory", -11: ", a fault of the build or of a driver",  # Windows has no SIGKILL
                 127: f": {self.build.path} cannot be started"}  # as a shell tells it
        return f"The engine {'was ' if named else ''}{ended}{usual.get(-number or status, '')}"

    async def follow(self, process: asyncio.subprocess.Process) -> None:
        """Wait until the process answers, then see that it goes on doing so; kill one that hangs."""
        watch, course = Vitality(process.pid), Vitality(process.pid, computing=False)
        said_ready = self.output.said_ready
        if self.build.protocol == "none":
            said_ready.set()  # /health alone tells
        while not (said_ready.is_set() and (await self.get("/health"))[0] == 200):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for((self.ready if said_ready.is_set() else said_ready).wait(), 0.1)
            if watch.silence(self.output.heard_at) > LOAD_SILENCE:
                return self.kill(f"It hung while it loaded: nothing happened for {LOAD_SILENCE:.0f} s")
            if course.silence(self.output.advanced_at) > LOAD_STANDSTILL:
                return self.kill(f"Loading made no progress for {LOAD_STANDSTILL:.0f} s, though it was busy: "
                                 "is there a pattern in “Placement of tensors” that takes long to match?")
        await self.ask_properties()
        if self.killed_for:
            return None
        self.ready_at = time.monotonic()
        self.output.progress = self.output.stage = None
        self.ready.set()
        self.changed()
        while True:
            await asyncio.sleep(HEALTH_INTERVAL)
            self.output.tell_suppressed()
            if (await self.get("/health"))[0] == 200:
                self.output.heard_at = time.monotonic()
                continue
            silent = time.monotonic() - self.output.heard_at
            if silent > HUNG_BUSY or watch.silence(self.output.heard_at) > HUNG_AFTER:
                return self.kill(f"It hung: no answer for {silent:.0f} s")

    async def get(self, path: str) -> tuple[int, bytes]:
        """The status and the body of what the process answers; 0 where it gives no answer."""
        with contextlib.suppress(aiohttp.ClientError, OSError, asyncio.TimeoutError):
            async with self.dash.pool.session.get(self.url + path, headers=self.authorization,
                                                  timeout=aiohttp.ClientTimeout(total=HEALTH_TIMEOUT)) as response:
                return response.status, await body_of(response, 2**20)
        return 0, b""

    async def ask_properties(self) -> None:
        """Learn the context and the slots; kill a process that does not take our key."""
        status, body = await self.get("/props")
        if status == 401:
            self.kill("The engine does not take the key that llamadash gave it: "
                      "is there an api-key in /etc/llama.cpp/config.ini?")
        with contextlib.suppress(*MALFORMED):
            properties = json.loads(body)
            slots = properties["total_slots"]
            self.slots = slots if type(slots) is int and 0 < slots < 4096 else None
            if is_amount(context := properties["default_generation_settings"]["n_ctx"]):
                self.output.meta.setdefault("n_ctx", context)

    def contexts(self) -> tuple[int, int, int, int]:
        """Tokens that a request can have, that all have together, that were asked for them, and the least that fit."""
        parameters, row = self.group.parameters, next(iter(self.group.rows.values()), Json())
        has, options = self.output.meta.get("n_ctx") or 0, self.build.options or {}
        shared = parameters.get("parallel", -1) < 1 or parameters.get("kv-unified") is True
        streams = 1 if shared and self.build.options != {} else self.slots or 1
        # without a wish, builds that fit a model into memory take all that it was trained for, if they can
        trained = ("fit" in options) * (row.get("context_length") or 0) * streams
        least = parameters.get("fit-ctx", FIT_MIN_CONTEXT) * streams
        return has, has * streams, parameters.get("ctx-size", 0) or trained, least

    def parts(self, name: str, used: int) -> Json:
        """What of a memory is for what, between the engine's accounts of the longest and the shortest context tried."""
        looks = [look[name] for look in self.output.accounted if name in look] or [dict.fromkeys(PARTS, 0)]
        looks = [look for look in looks if look["model"] == looks[0]["model"]]
        least, most = (choose(looks, key=lambda look: look["context"]) for choose in (min, max))
        _, has, asked, shortest = self.contexts()
        share = min(max((has - shortest) / (asked - shortest), 0.0), 1.0) if asked > shortest else 1.0
        parts = {part: round(least[part] + share * (most[part] - least[part])) for part in PARTS}
        known = sum(parts.values())
        true = 0 < known <= used <= 1.5 * known + 2**30
        return {**parts, "other": used - known} if true else dict.fromkeys((*PARTS, "other"))

    async def measure(self) -> None:
        """Find out what the process takes of each memory."""
        if self.process is not None:
            taken, own = await asyncio.to_thread(main_memory_of, self.process.pid)
            self.dash.sampler.addresses |= self.output.addresses
            gpus = await self.dash.sampler.gpu_memory_of(self.process.pid, self.build.devices)
            self.devices = [{"name": name, "kind": "gpu" if name in gpus else "cpu", "used": used,
                             **self.parts(name, used)} for name, used in {**gpus, "Main memory": taken}.items()]
            self.taken = {**(gpus or self.held), "Main memory": own}  # where no driver tells, what was reserved counts
            self.changed()


class Vitality:
    """Notices when a process neither reads nor computes or, where computing does not count, takes no memory either."""

    def __init__(self, pid: int, *, computing: bool = True) -> None:
        self.pid, self.computing = pid, computing
        self.alive, self.used, self.looked = time.monotonic(), 0.0, -math.inf

    def silence(self, sign_of_life: float) -> float:
        """Seconds since the process did something, `sign_of_life` being when it was last heard of."""
        if time.monotonic() - self.looked > 2:
            self.looked, used = time.monotonic(), work_of(self.pid, self.computing)
            if abs(used - self.used) > IDLE_CPU:
                self.alive, self.used = self.looked, used
        return time.monotonic() - max(self.alive, sign_of_life)


def work_of(pid: int, computing: bool = True) -> float:
    """Seconds of processor time that a process and its children have used, or their memory, and 10 MB count as one."""
    total = 0.0
    with contextlib.suppress(psutil.Error):
        leader = psutil.Process(pid)
        for process in [leader, *leader.children(recursive=True)]:
            with contextlib.suppress(psutil.Error, AttributeError):
                times = process.cpu_times()
                total += times.user + times.system if computing else process.memory_info().rss / 1e7
                done = process.io_counters()
                total += max(done.read_bytes, getattr(done, "read_chars", 0)) / 1e7
    return total


def main_memory_of(pid: int) -> tuple[int, int]:
    """Bytes of main memory that a process takes, shared pages by their share, and those that are not file cache."""
    with contextlib.suppress(OSError, KeyError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        sizes = {name: int(size) * 1024 for name, size in re.findall(r"(?m)^(\w+): +(\d+) kB", text)}
        return sizes["Pss"], sizes.get("Anonymous", sizes["Pss"])
    with contextlib.suppress(psutil.Error):
        memory = psutil.Process(pid).memory_info()
        return int(memory.rss), int(memory.rss - getattr(memory, "shared", 0))
    return 0, 0


async def cancelled(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel `tasks` and wait until they are over."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def is_loopback(address: str) -> bool:
    """Whether an IP address is one that only this machine has for itself; a name, however it looks, is none."""
    plain = plain_address(address)
    return plain is not None and ipaddress.ip_address(plain).is_loopback


def lan_address(default: str) -> str:
    """This machine's own address in its network, or `default`."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: the system only chooses the way to others
        default = probe.getsockname()[0]
    return default


# -- Residency -----------------------------------------------------------------------------------
#
# Who is in memory, who waits and who has to go. Residency is a pure state machine: events come in as method calls
# with the time, actions go out as a list, and nothing in it waits, reads or writes. The Pool carries the actions out.

RETURN_AFTER = 60.0  # s that a model must have been idle before what it pushed out comes back by itself
STABLE_AFTER = 30.0  # s; a process that was ready for longer did not die of its start
CRASH_LIMIT = 3  # crashes or failed loads in a row, after which a model is not tried again by itself
CRASH_PAUSE = 300.0  # s after which a request may try such a model once more
MAX_WAITING = 1000  # requests that may wait at the same time
MAX_PLANNED = 10  # models that wait for which room is looked for and kept; those behind them wait for them
MAX_COMPARED = 8  # models among which the smallest group that makes room is looked for


class Plan(NamedTuple):
    """One way to place a model: the bytes that it needs on each device, and the devices that it is told to use."""
    need: Mapping[str, int]
    devices: tuple[str, ...] | None = None  # None: its parameters decide
    elastic: bool = False  # the engine makes do with what a device has, where that is less than `need`


class Ticket(NamedTuple):
    """One request that wants a model, from its arrival to its end."""
    id: int
    unit: str
    model: str  # the entry that was named
    client: str
    since: float
    reply: Any = None  # by which whoever asks is told what came of it


class Action(NamedTuple):
    """What becomes of a unit: an event of the timeline, and what has to be done for it.

    `loading`: start its process. `refused`: tell a ticket's request why, if it is one's. Only done, and no event:
    `stopping`: end its process; `admitted`: pass the ticket's request on to it.
    """
    kind: str  # loading | restart | loaded | unloaded | failed | crashed | waiting | unwanted | refused | …
    unit: Unit
    reason: str = ""
    details: Mapping[str, Any] = {}  # of a request refused with a `code`: crowded | waited | failed | unloaded
    ticket: Ticket | None = None


@dataclass(eq=False, repr=False)
class Unit:
    """One process that can be in memory, with the requests that wait for it and those that it answers."""
    id: str
    name: str  # the entry that it is known by
    pinned: bool = False
    preferred: bool = False
    idle: float = 0.0  # s without a request until it leaves; 0: never
    grace: float = 10.0  # s that its answers may go on when it is unloaded by hand
    plans: Sequence[Sequence[Plan]] = ()  # the best ones first, those in a group equally good; none: not known yet
    plan: Plan | None = None  # of these, the one that it was last started with
    status: str = "unloaded"  # unloaded | loading | loaded | stopping
    waiting: dict[int, Ticket] = field(default_factory=dict)
    active: set[int] = field(default_factory=set)
    held: Mapping[str, int] = field(default_factory=dict)  # bytes of each device, from the decision to start it on
    wish: tuple[float, str] | None = None  # since when and why it is to be in memory without a request
    asked: tuple[float, str] = (-math.inf, "")  # the last wish of a loaded one, whose end may not be known yet
    loaded_for: str = ""  # why it was loaded
    dismissed: bool = False  # a pinned one that was unloaded by hand stays away until somebody asks for it
    outdated: bool = False  # its parameters have changed: it leaves after its answers
    forgotten: bool = False  # no entry needs it any more: it is not known any longer once it has left
    unloading: tuple[float, str] | None = None  # until when it may answer, and why it was told to leave
    yields_to: Unit | None = None  # it takes no new requests, for this one waits for its memory
    pushed_out_by: Unit | None = None
    gave_way: float | None = None  # when it, or its return, last had to make way for other programs
    came_from: str | None = None  # why it had left memory before it was loaded; None: it had not been there
    started_at: float = -math.inf
    loaded_at: float = math.inf
    used_at: float = 0.0
    failures: int = 0  # in a row
    failed_at: float = -math.inf
    error: str | None = None
    reason: str | None = None  # why it last left memory
    waits: str | None = None  # why it is not loaded yet

    @property
    def resident(self) -> bool:
        """Whether its process holds memory."""
        return self.status != "unloaded"

    @property
    def wanted(self) -> bool:
        """Whether it is to be loaded."""
        return self.status == "unloaded" and bool(self.waiting or self.wish)

    @property
    def wished_for(self) -> str:
        """Why it is to be loaded."""
        requests = [f"request of {ticket.client}" for ticket in self.waiting.values()]
        alone = "preferred" if self.gave_way is None else "other programs gave back the memory"
        return self.wish[1] if self.wish else requests[0] if requests else alone

    @property
    def leaving(self) -> tuple[float, str] | None:
        """Until when it may answer, and why it leaves; None where it stays."""
        return self.unloading or ((math.inf, "configuration changed") if self.outdated else None)

    @property
    def open(self) -> bool:
        """Whether it takes requests."""
        return self.status == "loaded" and not (self.leaving or self.yields_to)

    def idle_for(self, now: float) -> float:
        """Seconds since it had something to do; negative while it has."""
        return -1.0 if self.status != "loaded" or self.active or self.waiting else now - self.used_at

    def waiting_reason(self) -> str:
        """Why its requests wait."""
        if self.status == "loading":
            return "until it is loaded"
        if self.leaving:
            return f"until it is unloaded ({self.leaving[1]})"
        if self.yields_to:
            return f"until {self.yields_to.name}, which asked first, is loaded"
        return self.waits or ""

    def upcoming(self) -> tuple[str, float | None, str] | None:
        """What will happen to it next, when (s) and why; None where nothing is due."""
        if self.status == "loaded" and self.leaving:
            return "leaves", *self.leaving
        if self.yields_to:
            return "leaves", None, f"{self.yields_to.name} waits for its memory"
        if self.status == "loaded" and self.idle and not (self.pinned or self.active):
            return "unloads", self.used_at + self.idle, "idle"
        if self.status in ("unloaded", "stopping") and (self.waiting or self.wish):
            return "loads", None, self.wished_for
        if self.status == "unloaded" and self.gave_way is not None:
            return "returns", None, "when other programs give back the memory"
        if self.status == "unloaded" and self.preferred and (other := self.pushed_out_by):
            idle = other.status == "loaded" and not other.active
            return ("returns", other.used_at + RETURN_AFTER if idle else None,
                    f"when {other.name} is idle" if other.resident else "when there is room")
        return None


Choice = tuple[Plan, Sequence[Unit]]  # where a unit can go, and who has to leave beside those that leave anyway


class Planner:
    """Where a unit can go, and who has to leave for it: one look at the memory, from the first in line to the last."""

    def __init__(self, residents: list[Unit], limits: Residency, now: float) -> None:
        self.residents, self.limits, self.rooms, self.now = residents, limits, limits.rooms, now
        self.yields: dict[Unit, Unit] = {}  # who leaves as soon as it can, for whom
        self.claims: list[Unit] = []  # who waits; what they need counts as taken, for those who came later
        self.taken = sum([collections.Counter(unit.held) for unit in residents], collections.Counter[str]())

    def look(self, unit: Unit) -> tuple[Choice | None, str]:
        """The best plan for a unit, where there is one now, and why it waits unless that fits."""
        if len(self.claims) >= MAX_PLANNED:
            return None, self.turn()
        if choice := self.best(unit):
            return choice, "" if self.fits(choice[0]) else self.waiting_reason(choice[1])
        unclaimed = Planner(self.residents, self.limits, self.now)
        unclaimed.yields = self.yields
        if not self.claims or not (choice := unclaimed.best(unit)):
            return None, self.shortage(unit)
        reason = self.turn()
        self.claim(unit, choice[0])
        return None, reason

    def best(self, unit: Unit, *, gentle: bool = False) -> Choice | None:
        """The plan that pushes out least, and whom; None where even then there is not enough room."""
        def rank(choice: Choice) -> tuple[Any, ...]:
            plan, victims = choice
            full = [(need + self.taken[name]) / max(self.rooms.get(name, need), 1)
                    for name, need in self.need(plan).items()]
            return (any(map(self.must_wait, victims)), len(victims), not self.fits(plan),
                    any(victim.yields_to is not unit for victim in victims),
                    max([victim.used_at for victim in victims], default=0.0), max(full, default=0.0))
        for group in unit.plans:
            choices = [(plan, victims) for plan in group if (victims := self.victims(unit, plan, gentle)) is not None]
            if choices:
                return min(choices, key=rank)
        return None

    def victims(self, unit: Unit, plan: Plan, gentle: bool) -> Sequence[Unit] | None:
        """Whom `plan` pushes out: the fewest, of several the least recently used; a `gentle` one only who is idle."""
        leaving = [item for item in self.residents if item.leaving or item in self.yields]
        if self.fits(plan, leaving):
            return ()
        able = [item for item in self.residents if not item.pinned and item not in leaving]
        able.sort(key=lambda item: (item.yields_to is not unit, self.must_wait(item), item.used_at))
        settled = [item for item in able if self.settled(item)]
        groups = [[item for item in settled if not item.active], settled, able]
        if gentle:
            groups = [[item for item in settled if item.idle_for(self.now) >= RETURN_AFTER and not item.preferred]]
        for group in groups:
            if self.fits(plan, [*leaving, *group]):
                return self.fewest(group, lambda gone: self.fits(plan, [*leaving, *gone]))
        return None

    @staticmethod
    def fewest(units: list[Unit], enough: Callable[[Sequence[Unit]], bool]) -> Sequence[Unit]:
        """The smallest part of `units` that is enough, as all of them are; of several the one that comes first."""
        if len(units) <= MAX_COMPARED:
            return next(part for size in range(1, len(units) + 1)
                        for part in itertools.combinations(units, size) if enough(part))
        chosen = list(units)
        for unit in units[::-1]:  # leave out, the last first, who is not needed
            if enough([item for item in chosen if item is not unit]):
                chosen.remove(unit)
        return chosen

    def fits(self, plan: Plan, without: Sequence[Unit] = ()) -> bool:
        """Whether there is room for `plan` beside what is held and claimed, once the units `without` are gone."""
        if self.limits.models_max and len(self.residents) - len(without) + len(self.claims) >= self.limits.models_max:
            return False
        return all(self.taken[name] - sum([unit.held.get(name, 0) for unit in without]) + need <= self.rooms[name]
                   for name, need in self.need(plan).items() if need > 0 and name in self.rooms)

    def claim(self, unit: Unit, plan: Plan) -> None:
        """Keep what `plan` needs for a unit that waits."""
        self.claims.append(unit)
        self.taken.update(self.need(plan))

    def need(self, plan: Plan) -> Mapping[str, int]:
        """What `plan` takes of each device."""
        if not plan.elastic:
            return plan.need
        return {name: min(need, self.rooms.get(name, need)) for name, need in plan.need.items()}

    def settled(self, unit: Unit) -> bool:
        """Whether a unit has been in memory for as long as each may be."""
        return self.now - unit.loaded_at >= self.limits.min_residency

    def must_wait(self, victim: Unit) -> bool:
        """Whether a unit cannot be stopped yet: it answers, or has just come, or is on its way."""
        return bool(victim.active) or not self.settled(victim)

    def waiting_reason(self, victims: Sequence[Unit]) -> str:
        """Why a unit is not loaded yet for which there is a plan."""
        late = [victim for victim in victims if self.must_wait(victim)]
        if busy := [victim.name for victim in late if victim.active]:
            return f"until {', '.join(busy)} {'has' if len(busy) == 1 else 'have'} answered"
        if late and not self.limits.min_residency:
            return f"until {late[0].name} is loaded"
        if late:
            return f"until {late[0].name} has been in memory for {self.limits.min_residency:.0f} s"
        gone = [item.name for item in self.residents if item in victims or item.leaving]
        return f"until {', '.join(gone)} {'is' if len(gone) == 1 else 'are'} unloaded" if gone else self.turn()

    def turn(self) -> str:
        """The reason of who waits only for those before."""
        first, others = self.claims[0].name, len(self.claims) - 1
        more, verb = (f" and {others} more", "are") if others else ("", "is")
        return f"until {first}{more}, which asked first, {verb} loaded"

    def shortage(self, unit: Unit) -> str:
        """What is missing for a unit that cannot be loaded, whoever leaves."""
        if not unit.plans:
            return "until it is known how much memory it needs"
        pinned = [item.name for item in self.residents if item.pinned]
        keep = f"which {', '.join(pinned)} {'keeps' if len(pinned) == 1 else 'keep'}"
        if pinned and 0 < self.limits.models_max <= len(pinned):
            return f"for one of the {self.limits.models_max} places, {keep}"
        sizes = ", ".join(f"{need / 2**30:.1f} GiB of {self.rooms[name] / 2**30:.1f} on {name}"
                          for name, need in self.need(unit.plans[-1][0]).items() if name in self.rooms)
        return f"for memory, {keep if pinned else 'which other programs keep'} ({sizes})"


class Residency:
    """Decides which units are in memory. Every method that takes `now` (s) returns what is to be done."""

    def __init__(self) -> None:
        self.models_max, self.min_residency, self.max_wait = 0, 10.0, 600.0
        self.rooms: Mapping[str, int] = {}  # what all may hold on each device; nobody has to go where it is lowered
        self.yielding: Iterable[str] = ()  # the devices on which idle models make way for other programs
        self.took: dict[str, float] = {}  # since when another one has memory there that it had not before
        self.units: dict[str, Unit] = {}
        self.actions: list[Action] = []

    # events

    def request(self, ticket: Ticket, plans: Sequence[Sequence[Plan]], now: float) -> list[Action]:
        """A request wants a unit."""
        unit = self.units.get(ticket.unit)
        if unit is None or unit.forgotten:
            self.refuse([ticket], "unloaded", f"{ticket.model} has changed or was deleted: ask again")
        elif unit.failures >= CRASH_LIMIT and unit.status == "unloaded" and now - unit.failed_at < CRASH_PAUSE:
            self.refuse([ticket], "failed", f"{unit.name} failed {unit.failures} times in a row (it is tried again in "
                        f"{CRASH_PAUSE - now + unit.failed_at:.0f} s): {unit.error}")
        elif not unit.open and sum([len(item.waiting) for item in self.units.values()]) >= MAX_WAITING:
            self.refuse([ticket], "crowded", "too many requests are waiting")
        else:
            unit.waiting[ticket.id] = ticket
            unit.plans = plans or unit.plans
        return self.settle(now)

    def finished(self, ticket_id: int, now: float) -> list[Action]:
        """A request ended, whether it was answered, failed or its client left; also one that still waited."""
        for unit in self.units.values():
            unit.waiting.pop(ticket_id, None)
            if ticket_id in unit.active:
                unit.active.discard(ticket_id)
                unit.used_at = now
        return self.settle(now)

    def load(self, unit_id: str, reason: str, plans: Sequence[Sequence[Plan]], now: float) -> list[Action]:
        """A unit is to be in memory though nobody sent a request; one that still answers its last ones stays."""
        unit = self.units[unit_id]
        unit.plans = plans or unit.plans
        unit.failures, unit.dismissed = 0, False
        if unit.status == "loaded":
            unit.unloading, unit.used_at, unit.asked = None, now, (now, reason)
        unit.wish = unit.wish or (now, reason)
        return self.settle(now)

    def unload(self, unit_id: str, reason: str, now: float) -> list[Action]:
        """A unit is to leave memory: at once while it loads, else when it has answered or its grace is over."""
        unit = self.units[unit_id]
        unit.wish, unit.dismissed, unit.pushed_out_by, unit.gave_way = None, True, None, None
        self.refuse(unit.waiting.values(), "unloaded", f"{unit.name} was unloaded: {reason}")
        if unit.status in ("loading", "loaded") and not unit.unloading:
            unit.unloading = now + unit.grace, reason
        return self.settle(now)

    def loaded(self, unit_id: str, now: float) -> list[Action]:
        """A unit's process is ready."""
        unit = self.units[unit_id]
        if unit.status == "loading":
            unit.status, unit.loaded_at, unit.used_at, unit.pushed_out_by = "loaded", now, now, None
            details = {"seconds": round(now - unit.started_at, 1), "after": unit.came_from}
            self.actions.append(Action("loaded", unit, unit.loaded_for, details))
        return self.settle(now)

    def exited(self, unit_id: str, error: str | None, now: float) -> list[Action]:
        """A unit's process ended; `error` says why, where it was not told to. Who waits has it loaded again."""
        unit = self.units[unit_id]
        crashed = unit.status == "loaded"
        if now - unit.loaded_at > STABLE_AFTER:
            unit.failures = 0
        if unit.status == "stopping" or error is None:
            kind, reason = "unloaded", unit.leaving[1] if unit.leaving else "stopped"
            unit.reason, unit.error = reason, None
        else:
            kind, reason = "crashed" if crashed else "failed", error
            unit.reason, unit.error = "crashed" if crashed else "failed to load", error
            unit.failures, unit.failed_at = unit.failures + 1, now
            if crashed and now - unit.asked[0] <= STABLE_AFTER:  # its end may take long to be known
                unit.wish = unit.asked
        unit.active.clear()
        unit.status, unit.held, unit.loaded_at = "unloaded", {}, math.inf
        unit.unloading, unit.yields_to, unit.outdated = None, None, False
        self.actions.append(Action(kind, unit, reason, {"failures": unit.failures} if unit.error else {}))
        if kind == "failed" or (kind == "crashed" and unit.failures >= CRASH_LIMIT):
            unit.wish = None
            self.refuse(unit.waiting.values(), "failed", f"{unit.name} could not be loaded: {reason}")
        if unit.forgotten:
            del self.units[unit_id]
        return self.settle(now)

    def define(self, unit: Unit, now: float) -> list[Action]:
        """A unit exists, or what its entries ask of it has changed: pinned, preferred, idle, grace and name."""
        known = self.units.setdefault(unit.id, unit)
        if unit.pinned and not known.pinned:
            known.dismissed = False
        elif not unit.pinned and known.wish and known.wish[1] == "pinned":
            known.wish = None
        for name in ("name", "pinned", "preferred", "idle", "grace"):
            setattr(known, name, getattr(unit, name))
        known.outdated, known.forgotten = unit.outdated and known.resident, False
        return self.settle(now)

    def forget(self, unit_id: str, now: float) -> list[Action]:
        """No entry needs this unit any more: it leaves after its answers, and nothing waits for it."""
        if unit := self.units.get(unit_id):
            unit.outdated = unit.forgotten = True
            unit.pinned, unit.preferred, unit.wish = False, False, None
            self.refuse(unit.waiting.values(), "unloaded", f"{unit.name} has changed or was deleted: ask again")
            if unit.waits:
                self.end_wait(unit)
            if not unit.resident:
                del self.units[unit_id]
        return self.settle(now)

    # what others ask

    def queue(self) -> list[tuple[Ticket, str]]:
        """The requests that wait, in the order of their arrival, and why."""
        waiting = [(ticket, unit.waiting_reason()) for unit in self.units.values() for ticket in unit.waiting.values()]
        return sorted(waiting, key=lambda item: item[0].since)

    def wanted(self) -> list[Unit]:
        """The units that are to be loaded and are not, in the order of their arrival."""
        return sorted([unit for unit in self.units.values() if unit.wanted], key=lambda unit: min(
            [*(ticket.since for ticket in unit.waiting.values()), unit.wish[0] if unit.wish else math.inf]))

    # decisions

    def settle(self, now: float) -> list[Action]:
        """Do everything that is due now, because time has passed, or a limit or what units hold has changed."""
        for unit in self.units.values():
            if unit.resident or unit.waiting or unit.wish or unit.pinned:
                leaving = unit.leaving if unit.status in ("loading", "loaded") else None
                if leaving and (not unit.active or now >= leaving[0]):
                    self.stop(unit, leaving[1])
                elif unit.idle and not unit.pinned and unit.idle_for(now) >= unit.idle:
                    self.stop(unit, "idle")
                self.admit(unit, now)  # before others look for room: what was loaded for somebody serves him
                self.refuse_overdue(unit, now)
                absent = unit.pinned and not (unit.resident or unit.wish or unit.dismissed)
                if absent and unit.failures < CRASH_LIMIT:
                    unit.wish = now, "pinned"
            if unit.waits and not unit.wanted:
                self.end_wait(unit)
        for device in self.yielding:
            self.give_way(device, now)
        self.make_room(now)
        actions, self.actions = self.actions, []
        return actions

    def give_way(self, device: str, now: float) -> None:
        """Let idle models go that were there when others took memory, and more until there is room for these."""
        units = [unit for unit in self.units.values() if unit.held.get(device) and not unit.leaving]
        over = sum([unit.held[device] for unit in units]) - self.rooms.get(device, math.inf)
        for unit in sorted(units, key=lambda unit: unit.used_at):  # the least recently used first
            settled = now - unit.loaded_at >= STABLE_AFTER
            needed = over > 0 or unit.loaded_at < self.took.get(device, -math.inf)
            if needed and settled and not unit.pinned and unit.idle_for(now) >= 0:
                over, unit.gave_way = over - unit.held[device], now
                self.stop(unit, f"other programs need the memory of {device}")

    def refuse_overdue(self, unit: Unit, now: float) -> None:
        """End the wait of those who have waited for as long as anybody may; a load that is under way ends by itself."""
        if unit.status == "loading":
            return
        reason = f"not loaded within {self.max_wait:.0f} s: it waited {unit.waiting_reason() or 'in line'}"
        overdue = [ticket for ticket in unit.waiting.values() if now - ticket.since >= self.max_wait]
        self.refuse(overdue, "waited", f"{unit.name} was {reason}")
        if unit.wish and not unit.pinned and not unit.waiting and now - unit.wish[0] >= self.max_wait:
            unit.wish, unit.error = None, f"It was {reason}"
            self.actions.append(Action("refused", unit, unit.error))

    def make_room(self, now: float) -> None:
        """Start who is wanted, first come, first served, and let others go for it; a look later it may be others."""
        planner = Planner([unit for unit in self.units.values() if unit.resident], self, now)
        for unit in self.wanted():
            choice, reason = planner.look(unit)
            if choice:
                self.place(unit, *choice, planner)
            if unit.wanted:  # the timeline has the first reason, the queue each as it is
                if unit.waits is None:
                    self.actions.append(Action("waiting", unit, reason))
                unit.waits = reason
        for unit in self.units.values() if not planner.claims else ():  # preferred ones come back when nobody waits
            away = unit.gave_way is not None or (unit.preferred and unit.pushed_out_by)
            if not away or unit.resident or unit.wanted or unit.failures >= CRASH_LIMIT:
                continue
            choice = planner.best(unit, gentle=True)
            taken = choice and not self.took.keys().isdisjoint(choice[0].need)
            if unit.gave_way is not None and (taken or not (choice and planner.fits(choice[0]))):
                unit.gave_way = now
            elif choice and now - (unit.gave_way or 0) >= RETURN_AFTER:
                self.place(unit, *choice, planner)
        for unit in planner.residents:
            unit.yields_to = planner.yields.get(unit)
            self.admit(unit, now)

    def place(self, unit: Unit, plan: Plan, victims: Sequence[Unit], planner: Planner) -> None:
        """Start a unit, or let others go for it, all at once; until they can, they take no new requests."""
        if not planner.fits(plan):
            planner.claim(unit, plan)
            wait = any(map(planner.must_wait, victims))
            for victim in victims:
                if not wait:
                    victim.pushed_out_by = unit
                    self.stop(victim, f"evicted for {unit.name}")
                elif planner.settled(victim):
                    planner.yields[victim] = unit
            return
        unit.status, unit.plan, unit.held, unit.used_at = "loading", plan, planner.need(plan), planner.now
        unit.loaded_for, unit.dismissed = unit.wished_for, False
        unit.came_from, unit.started_at = unit.reason, planner.now
        unit.reason = unit.error = unit.waits = unit.gave_way = None
        planner.residents.append(unit)
        planner.taken.update(unit.held)
        details = {"need": dict(unit.held), "devices": plan.devices, "after": unit.came_from}
        self.actions.append(Action("loading", unit, unit.loaded_for, details))
        if unit.came_from == "crashed":
            self.actions.append(Action("restart", unit, unit.loaded_for, {"failures": unit.failures}))

    # changes

    def stop(self, unit: Unit, reason: str) -> None:
        """End the unit's process; whoever asks for it from now on waits until it has ended."""
        unit.status, unit.unloading, unit.yields_to = "stopping", (0.0, reason), None
        self.actions.append(Action("stopping", unit, reason))

    def admit(self, unit: Unit, now: float) -> None:
        """Pass on the requests whose unit is ready."""
        if unit.open:
            unit.wish = None
            for ticket in unit.waiting.values():
                unit.active.add(ticket.id)
                unit.used_at = now
                self.actions.append(Action("admitted", unit, ticket=ticket))
            unit.waiting.clear()

    def end_wait(self, unit: Unit) -> None:
        """Nobody waits for a unit any more: who did was refused, or has left."""
        unit.waits = None
        self.actions.append(Action("unwanted", unit, "nobody waits for it any more"))

    def refuse(self, tickets: Iterable[Ticket], code: str, message: str) -> None:
        """End requests that wait."""
        for ticket in list(tickets):
            unit = self.units.get(ticket.unit) or Unit(ticket.unit, ticket.model)
            unit.waiting.pop(ticket.id, None)
            self.actions.append(Action("refused", unit, message, {"client": ticket.client, "code": code}, ticket))


# the thin layer around it

PUBLISH_INTERVAL = 0.1  # s between two broadcasts of the same thing
HOST_MARGIN = 512 * 2**20  # bytes of main memory that stay free
OTHERS_STEP = (512 * 2**20, 0.02)  # bytes, and part of a GPU's memory, that other programs take before that is told
MAX_CORRECTION = 2**30  # bytes by which one load may correct the next estimate
LEDGER = 10  # loads of a model of which is known what was estimated and taken
GONE_TIME = 2.0  # s in which the end of a process is known after its connections broke
# What a request can carry as well: entries that differ only in these share one process.
REQUEST_PARAMETERS = {
    **{key: key.replace("-", "_") for key in (
        "top-k", "top-p", "min-p", "typical-p", "repeat-last-n", "repeat-penalty", "presence-penalty",
        "frequency-penalty", "dry-multiplier", "xtc-probability", "xtc-threshold", "mirostat", "seed",
        "chat-template-kwargs", "reasoning-effort", "reasoning-format")},
    "temp": "temperature", "predict": "n_predict", "sampling-seq": "samplers", "reasoning": "enable_thinking",
    "reasoning-budget": "reasoning_budget_tokens"}
SPILL_TOLERANCE, SPILL_LEAST = 0.1, 512 * 2**20  # of the weights, and bytes: by less an estimate may be wrong
OWN_PARAMETERS = ("stop-timeout",)  # which the engine never sees
PLACING_PARAMETERS = frozenset(("device", "split-mode", "tensor-split", "main-gpu", "rpc"))
UNTOUCHED: Json = {"status": "unloaded", "progress": None, "stage": None, "reason": None, "error": None, "next": None,
                   "runtime": {}}  # the state of an entry that was never asked for


@dataclass(eq=False, repr=False)
class Group:
    """The entries that share a process, and what it is started with."""
    rows: dict[str, Json]  # by entry
    parameters: Json  # those that a request can carry only where all the entries agree

    def text(self) -> str:
        """What a process is started with, as one line, by which its usage is counted."""
        return ", ".join(f"{key} {preset_value(value)}" for key, value in sorted(self.parameters.items())
                         if key not in {*REQUEST_PARAMETERS, *OWN_PARAMETERS}) or "defaults"


class Entries:
    """Which entries share a process, by what names they are known, and the state of each."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.dash = pool, pool.dash
        self.groups: dict[str, Group] = {}  # by unit
        self.unit_of: dict[str, str] = {}  # by entry
        self.names: dict[str, str] = {}  # entries by every name that a client may use, in small letters

    def follow(self) -> None:
        """Take over the rows and the configuration as they are now."""
        rows, units, self.groups, self.unit_of = self.dash.db.models(), self.pool.residency.units, {}, {}
        for row in rows:
            own = {**self.dash.engine_config["defaults"], **row["parameters"]}
            lasting = {key: value for key, value in own.items() if key not in REQUEST_PARAMETERS}
            build = self.build(row)
            shared = json.dumps([row["path"], row["projector"], build.id if build else "", lasting], sort_keys=True)
            key = self.unit_of[row["id"]] = hashlib.sha256(shared.encode()).hexdigest()[:16]
            group = self.groups.setdefault(key, Group({}, own))
            group.rows[row["id"]] = row
            group.parameters = {key: value for key, value in group.parameters.items() if own.get(key) == value}
        self.names = {name: row["id"] for name, row in entry_names(rows).items()}
        for key, group in self.groups.items():
            if key in units or any(row["pinned"] or row["preferred"] for row in group.rows.values()):
                self.define(key)
        for key in units.keys() - self.groups.keys():
            self.pool.do(self.pool.residency.forget(key, time.monotonic()))

    def build(self, row: Json) -> Build | None:
        """The build that an entry is run with, or would be where its own one is gone; it may have a problem."""
        builds = self.dash.builds
        return builds.builds.get(row["build"] or "") or builds.default(self.dash.engine_config)

    def define(self, key: str, name: str = "") -> Unit:
        """Tell Residency what the entries of a unit ask of it; the unit."""
        units, group, instance = self.pool.residency.units, self.groups[key], self.pool.instances.get(key)
        started = instance.group.parameters if instance else {}
        name = units[key].name if key in units else name
        idle_seconds = self.dash.engine_config["idle_seconds"]
        idles = [idle_seconds if row["idle"] is None else row["idle"] for row in group.rows.values()]
        rows = [row for row in group.rows.values() if not row["missing"]]
        asked = [{**self.dash.engine_config["defaults"], **row["parameters"]} for row in group.rows.values()]
        unit = Unit(key, name if name in group.rows else next(iter(group.rows)),
                    idle=0.0 if 0 in idles else float(max(idles)), preferred=any(row["preferred"] for row in rows),
                    pinned=any(row["pinned"] for row in rows) and not self.pool.stopping,
                    grace=float(group.parameters.get("stop-timeout", STOP_TIMEOUT)),
                    outdated=any(all(own.get(key) != value for own in asked) or any(key not in own for own in asked)
                                 for key, value in started.items()))  # a request can carry a value, but not none
        self.pool.do(self.pool.residency.define(unit, time.monotonic()))
        return units[key]

    def unit(self, entry: str) -> Unit:
        """The unit of an entry, made known to Residency where it is not."""
        key = self.unit_of[entry]
        return self.pool.residency.units.get(key) or self.define(key, entry)

    def missing_values(self, entry: str, path: str) -> Json:
        """What of an entry's parameters its process was not started with, for the request to carry."""
        own = {**self.dash.engine_config["defaults"], **self.dash.db.get_model(entry)["parameters"]}
        instance = self.pool.instances.get(self.unit_of[entry])
        started = instance.group.parameters if instance else {}
        return request_values({key: value for key, value in own.items()
                               if key in REQUEST_PARAMETERS and started.get(key) != value}, path)

    def command(self, entry: str) -> list[str]:
        """The words that would start an entry's process; empty where there is no build for it."""
        row = self.dash.db.get_model(entry)
        build = self.build(row)
        if build is None or build.problem:
            return []
        return engine_arguments(build, row, self.groups[self.unit_of[entry]].parameters, 0, entry)[0]

    def state(self, row: Json) -> Json:
        """What is to be known of an entry beside its row: its status, what comes next, and its process."""
        units = self.pool.residency.units
        unit = units.get(self.unit_of.get(row["id"], "")) or Unit("", row["id"])
        if not unit.resident:  # a process of its former parameters may still run
            unit = next((item for item in units.values() if item.forgotten and item.name == row["id"]), unit)
        status = "waiting" if unit.wanted else "failed" if unit.error and not unit.resident else unit.status
        upcoming, instance = unit.upcoming(), self.pool.instances.get(unit.id)
        loads = instance if unit.status == "loading" else None
        problem = None if unit.resident else self.dash.library.problem(row["path"])
        return {"status": "missing" if problem or (row["missing"] and not unit.resident) else status,
                "progress": loads and loads.output.progress, "stage": loads and loads.output.stage,
                "reason": unit.waits if unit.wanted else unit.reason, "error": problem or unit.error,
                "next": upcoming and {"what": upcoming[0], "at": unix_ms(upcoming[1]), "reason": upcoming[2]},
                "runtime": self.runtime(row, unit, instance) if instance and unit.resident else {}}

    def runtime(self, row: Json, unit: Unit, instance: Instance) -> Json:
        """The `runtime` of an entry whose process runs."""
        group, best = self.groups.get(unit.id), self.dash.builds.best
        short = less_than_asked(instance) if unit.status == "loaded" else None
        return {**instance.output.meta, "pid": instance.process.pid if instance.process else None,
                "build": instance.build.id, "slots": instance.slots, "devices": instance.devices,
                "memory": sum(item["used"] for item in instance.devices) if instance.devices else None,
                "loaded_at": unix_ms(instance.ready_at), "requests": len(unit.active), "waiting": len(unit.waiting),
                "tokens_per_second": self.dash.requests.live_speed(unit.id, instance),
                "placement": instance.placement, "left_out": instance.left_out, "context": instance.contexts()[1],
                "shared_with": [id for id in group.rows if id != row["id"]] if group else [],
                "shortfall": short and short[0], "better_build": best.id if best and best.devices else None,
                "warning": "Its file is gone: it cannot be loaded again." if row["missing"] else short and short[1]}


class Memory:
    """What memory there is for models, and where a model can go."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.dash = pool, pool.dash
        self.one_at_a_time, self.due = asyncio.Lock(), -math.inf  # from when on to look again without being asked
        self.waiting: asyncio.Task[None] | None = None  # the look that has not yet begun
        self.outside: dict[str, int] = {}  # bytes of each memory that others use
        self.others_told: dict[str, int] = {}  # bytes of each GPU that others used when that was last told
        self.others_moved: set[str] = set()  # GPUs of which the last sample differed from that
        self.usual: dict[str, int] = {}  # bytes of each GPU that others used before they took what they have now

    def devices(self, *builds: Build | None) -> list[Json]:
        """Every memory that these builds, or any, can use: total, free for all models, unused, budget, held (bytes)."""
        units, budget, result = self.pool.residency.units.values(), self.dash.engine_config["budget"], []
        names = {item["name"] for build in builds if build for item in build.devices}
        for item in self.dash.sampler.memories(self.dash.builds.devices):
            if builds and item["kind"] == "gpu" and item["name"] not in names:
                continue
            others = self.outside.get(item["name"], 0) + (HOST_MARGIN if item["kind"] == "cpu" else 0)
            others += self.dash.engine_config["yields"].get(item["name"], 0)
            allowed = min(budget.get(item["name"], item["total"]), item["total"])
            result.append({**item, "unused": item["free"], "budget": allowed,
                           "free": max(0, min(item["total"] - others, allowed)),
                           "held": sum([unit.held.get(item["name"], 0) for unit in units])})
        result[-1]["wasteful"] = any(  # since August 2026 versions have dots
            build.number < LEAN_BUILD if build.number else bool(re.match(r"\d+[^.\d]", build.version or ""))
            for build in builds if build)
        own, seen = [item["name"] for item in result if not item.get("integrated")], set[Any]()
        for item in result:  # an engine uses no GPU by two names, and integrated ones only where there are no others
            item["spare"] = item.get("gpu") in seen - {None} or (len(own) > 1 and item["name"] not in own)
            seen.add(item.get("gpu"))
        return result

    def others(self) -> dict[str, int]:
        """Bytes of each memory that others use; of main memory not more by way of a GPU that has none of its own."""
        ours, memories = self.taken(), self.dash.sampler.memories(self.dash.builds.devices)
        shared = [item for item in memories if item.get("unified")]
        ours["Main memory"] += sum([max(0, ours[item["name"]] - item["own"]) for item in shared])
        used = {item["name"]: max(0, item["total"] - item["free"] - ours[item["name"]]) for item in memories}
        return used | {item["name"]: min(used[item["name"]], used["Main memory"] + item["own"]) for item in shared}

    async def read(self) -> None:
        """Look at the memories as they are now; whoever asks before that begins shares it."""
        if self.waiting is None or self.waiting.done():
            self.waiting = self.dash.spawn(self.look(), "look at the memories")
        await asyncio.shield(self.waiting)

    async def look(self) -> None:
        """Look at the memories. What others use is learnt while no load is under way."""
        async with self.one_at_a_time:
            self.waiting, began = None, time.monotonic()
            await self.dash.sampler.read_gpus(fresh=True)
            listed = self.dash.sampler.memories(self.dash.builds.devices)
            await self.dash.builds.measure({item["name"] for item in listed if item.get("told") is False})
            self.due = began + max(2.0, (time.monotonic() - began) / GPU_DUTY)
            if not self.moving() or not self.outside:
                self.outside = self.others()
            self.pool.residency.rooms = {item["name"]: item["free"] for item in self.devices()}
            self.pool.do(self.pool.residency.settle(time.monotonic()))

    def moving(self) -> bool:
        """Whether it is not known what our processes take, as one comes or goes."""
        return (any(unit.status in ("loading", "stopping") for unit in self.pool.residency.units.values())
                or not all(instance.taken for instance in self.pool.instances.values()))

    def taken(self) -> collections.Counter[str]:
        """Bytes of each memory that our processes take."""
        taken = [collections.Counter(instance.taken) for instance in self.pool.instances.values()]
        return sum(taken, collections.Counter[str]())

    async def watch_others(self) -> None:
        """Tell that another program took or gave back memory of a GPU, once two samples show it."""
        instances, before = self.pool.instances.values(), self.others_moved
        if self.moving() or any(item.get("status") == "running" for item in self.dash.builds.rehearsals.values()):
            return
        ours, gpus = self.taken(), self.dash.sampler.gpus
        names = {id: device["name"] for device, id in self.dash.sampler.readings(self.dash.builds.devices)}
        used = {id: max(0, gpu["memory_used"] - ours[names.get(id, "")]) for id, gpu in gpus.items()  # by others
                if gpu["memory_used"] is not None and gpu["memory_total"] and gpu["vendor"] != "apple"}
        changes = {id: amount - self.others_told.setdefault(id, amount) for id, amount in used.items()}
        steps = {id: max(OTHERS_STEP[0], OTHERS_STEP[1] * gpus[id]["memory_total"]) for id in used}
        self.others_moved = {id for id, change in changes.items() if abs(change) >= steps[id]}
        if self.others_moved - before:  # what our own take may have grown, or an old reading
            await asyncio.gather(self.dash.sampler.read_gpus(fresh=True), *[item.measure() for item in instances])
        for id in self.others_moved & before:
            self.others_told[id], verb, device = used[id], "took" if changes[id] > 0 else "gave back", names.get(id, "")
            usual = self.usual.setdefault(id, used[id] - changes[id])
            if changes[id] > 0:
                self.pool.residency.took[device] = time.monotonic()
            elif used[id] < usual + steps[id]:
                self.pool.residency.took.pop(device, None)
                del self.usual[id]
            self.dash.event("memory", None, f"another program {verb} {abs(changes[id]) / 2**30:.1f} GiB of GPU "
                            f"{gpus[id]['index']}", {"gpu": gpus[id]["index"], "bytes": changes[id]})

    async def plans(self, entry: str) -> list[list[Plan]]:
        """The ways in which a model may be placed, the best ones first, after a look at the memories."""
        await self.read()
        row = self.dash.db.get_model(entry)
        parameters = self.pool.entries.groups[self.pool.entries.unit_of[entry]].parameters
        header = await self.dash.library.header(row, parameters)
        memories = self.devices(self.pool.entries.build(row))
        return await asyncio.to_thread(placement_plans, row, parameters, memories, header)

    async def spilled(self, instance: Instance) -> int:
        """The bytes that a process would take of the GPUs if it was there as a whole, beyond what it takes."""
        gpus = {item["name"]: int(item["used"]) for item in instance.devices if item["kind"] == "gpu"}
        row = {**next(iter(instance.group.rows.values())), "memory_correction": None}
        whole = {**instance.group.parameters, "n-gpu-layers": 9999, "ctx-size": instance.contexts()[1]}
        memories = [item for item in self.devices(instance.build) if item["kind"] == "cpu" or item["name"] in gpus]
        found = estimate_memory(row, whole, memories, await self.dash.library.header(row, whole))
        return sum([int(item["used"]) for item in found["devices"] if item["name"] in gpus]) - sum(gpus.values())

    def learn(self, unit: Unit, instance: Instance) -> None:
        """Correct what is reserved, and the next estimate, by what a process really takes of the GPUs."""
        gpus = {item["name"]: item["used"] for item in instance.devices if item["kind"] == "gpu"}
        group = self.pool.entries.groups.get(unit.id)
        reserved = [need for name, need in unit.held.items() if name in gpus]
        short = less_than_asked(instance)
        if reserved and group and not (short and (short[0] == "spilled" or "ctx-size" in group.parameters)):
            error = max(-MAX_CORRECTION, min(sum(gpus.values()) - sum(reserved), MAX_CORRECTION))
            known = {id: self.dash.db.get_model(id)["memory_correction"] or {} for id in group.rows}
            pair = {"estimated": sum(reserved), "taken": sum(gpus.values())}
            loads = {id: [*before.get("ledger", ()), {"at": now_ms(), **pair}] for id, before in known.items()}
            self.dash.db.note_of_models("memory_correction", {
                id: {**pair, "gpu": known[id].get("gpu", 0) + error, "ledger": loads[id][-LEDGER:]} for id in known})
        if unit.status == "loaded":
            unit.held = {**unit.held, **gpus}
            self.pool.do(self.pool.residency.settle(time.monotonic()))


def answering_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket for an answer, of which little is taken at once: a flood of tiny pieces or heads holds up nobody."""
    opened = socket.socket(*address[:3])
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)  # bytes that may come in one turn of the loop
    return opened


class Pool:
    """The instances: carries out what Residency decides, and tells it what became of them."""

    def __init__(self, dash: Dash) -> None:
        self.dash = dash
        self.residency = Residency()
        self.entries = Entries(self)
        self.memory = Memory(self)
        self.instances: dict[str, Instance] = {}  # by unit
        self.changed = asyncio.Event()  # something is to be published
        self.dirty: set[str] = set()  # entries whose state may have changed
        self.published: dict[str, Json] = {}  # the states that everybody knows
        self.last_used: dict[str, int] = {}
        self.last_speeds: dict[str, float] = {}
        self.restore: list[str] = []  # entries to load at the next start
        self.stopping = True  # nothing is loaded before start()

    @functools.cached_property
    def session(self) -> aiohttp.ClientSession:
        """What engines and upstreams are talked to with: a fresh connection each time, and nothing is unpacked."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=answering_socket),
            auto_decompress=False, trust_env=False, skip_auto_headers=AUTOMATIC_HEADERS, read_bufsize=2**18,
            cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None, sock_connect=30))

    def sync(self) -> None:
        """Follow the models' rows and the configuration."""
        for name in ("models_max", "min_residency", "max_wait"):
            setattr(self.residency, name, self.dash.engine_config[name])
        self.residency.yielding = self.dash.engine_config["yields"]
        self.entries.follow()
        self.do(self.residency.settle(time.monotonic()))
        self.mark(*self.entries.unit_of)

    # requests

    async def admission(self, call: Call) -> Instance:
        """The instance of the model of `call` once it takes it, or a DashError; release() must follow in any case."""
        unit = self.entries.unit(call.model)
        known = unit.open or unit.status == "loading" or (unit.plans and unit.waiting)
        plans = () if known else await self.memory.plans(call.model)
        unit = self.entries.unit(call.model)  # it may have become another one meanwhile
        future = asyncio.get_running_loop().create_future()
        since = call.since if call.admitted_at is None else time.monotonic()  # asked once more, it waits anew
        ticket = Ticket(call.id, unit.id, call.model, call.client, since, future)
        self.do(self.residency.request(ticket, plans, time.monotonic()))
        if not future.done() and unit.waiting_reason():
            call.waits_for(unit.waiting_reason())
        instance: Instance = await future
        call.admitted(instance)
        call.others = self.dash.requests.occupied(instance)
        call.anatomy = {"after": unit.came_from} if call.loading and unit.came_from else {}
        if instance.name != call.model:
            call.anatomy["process"] = instance.name  # by this name it is in the log
        self.last_used[call.model] = now_ms()
        return instance

    def release(self, call: Call) -> None:
        """A request is over, or is not waited for any more."""
        self.do(self.residency.finished(call.id, time.monotonic()))

    async def load(self, entry: str, reason: str = "by hand") -> None:
        """Load a model without a request; returns as soon as that is under way."""
        self.dash.db.present_model(entry)
        self.ready_build(entry)
        plans = await self.memory.plans(entry)
        self.do(self.residency.load(self.entries.unit(entry).id, reason, plans, time.monotonic()))

    async def unload(self, entry: str, reason: str = "by hand") -> None:
        """Take a model out of memory, also while it loads or waits; returns as soon as that is under way."""
        if (key := self.entries.unit_of.get(entry, "")) in self.residency.units:
            self.do(self.residency.unload(key, reason, time.monotonic()))

    def free(self, reason: str = "memory freed by hand") -> list[str]:
        """Take every model out of memory, each when it has answered, and keep away who would come next; their names."""
        units = [unit for unit in self.residency.units.values() if unit.resident or unit.upcoming()]
        for unit in sorted(units, key=lambda unit: unit.resident):  # who would take their memory: first
            self.do(self.residency.unload(unit.id, reason, time.monotonic()))
        return [unit.name for unit in units if unit.resident]

    def ready_build(self, entry: str) -> Build:
        """The build that runs an entry; EngineUnavailable where there is none that can."""
        if self.stopping:
            raise EngineUnavailable("The engine is stopped.")
        row = self.dash.db.get_model(entry)
        build = self.entries.build(row)
        if row["build"] and not (build and build.id == row["build"]):
            raise EngineUnavailable(f"The engine build {row['build']}, which this model uses, is gone.")
        if build is None or build.problem:
            raise EngineUnavailable((build and build.problem) or NO_ENGINE)
        return build

    def loaded_instance(self, entry: str) -> Instance | None:
        """The process of a model that is in memory."""
        unit = self.residency.units.get(self.entries.unit_of.get(entry, ""))
        return self.instances.get(unit.id) if unit is not None and unit.status == "loaded" else None

    # carrying out

    def do(self, actions: list[Action]) -> None:
        """Carry out what Residency decided."""
        for kind, unit, reason, details, ticket in actions:
            instance, group = self.instances.get(unit.id), self.entries.groups.get(unit.id)
            reply = ticket.reply if ticket and not ticket.reply.done() else None
            if kind == "loading":
                self.dash.spawn(self.live(unit), f"instance of {unit.name}")
            elif kind == "stopping" and instance:
                self.dash.spawn(instance.stop(), f"stopping {instance.name}")
            elif kind == "admitted" and instance and reply:
                reply.set_result(instance)
            elif kind == "refused" and reply:
                error = EngineFailed if details["code"] == "failed" else EngineUnavailable
                reply.set_exception(error(reason, reason=details["code"]))
            if kind not in ("stopping", "admitted"):
                shared = [entry for entry in (group.rows if group else ()) if entry != unit.name]
                self.dash.event(kind, unit.name, reason, {**details, **({"shared": shared} if shared else {})})
                level = logging.WARNING if kind in ("failed", "crashed", "refused") else logging.INFO
                log.log(level, "%s: %s (%s)", unit.name, kind, reason)
            self.mark(unit.name, *(group.rows if group else ()))

    async def live(self, unit: Unit) -> None:
        """The life of one instance: Residency hears when it is ready and when it ended, whatever happens."""
        instance: Instance | None = None
        error: str | None = "it could not be started"
        try:
            if unit.status == "loading":  # it may have been told to end before it began
                instance = self.prepared(unit)
                watcher = self.dash.spawn(self.watch(unit, instance), f"readiness of {instance.name}")
                try:
                    error = await instance.run()  # None: it was told to end
                finally:
                    await cancelled([watcher])
        except DashError as problem:
            error = str(problem)
        finally:
            if ended := self.instances.pop(unit.id, None):
                self.dash.energy.ended.append(Consumer(ended, ended.started, time.monotonic(), ended.held, idle=True))
            self.do(self.residency.exited(unit.id, error, time.monotonic()))
            if instance is not None:
                instance.gone.set()
                if error and not instance.ready.is_set() and BUILD_FAULT.search(error):
                    with contextlib.suppress(DashError):
                        await take_build_back(self.dash, unit.name, instance.build)

    def prepared(self, unit: Unit) -> Instance:
        """The instance that a unit's plan asks for, not started yet."""
        row, build = self.dash.db.present_model(unit.name), self.ready_build(unit.name)
        group, devices = self.entries.groups[unit.id], unit.plan and unit.plan.devices
        arguments, left_out = engine_arguments(build, row, group.parameters, free_port("127.0.0.1"), unit.name, devices)
        instance = Instance(self.dash, unit.name, build, arguments, stop_timeout=int(unit.grace),
                            changed=lambda: self.mark(*group.rows))
        instance.placement, instance.left_out, instance.group = list(devices or ()), left_out, group
        instance.held, self.instances[unit.id] = unit.held, instance
        return instance

    async def watch(self, unit: Unit, instance: Instance) -> None:
        """Tell Residency when an instance is ready, and what it takes once it has settled."""
        await instance.ready.wait()
        if not instance.stopping:
            log.info("%s is loaded after %.1f s", instance.name, time.monotonic() - instance.started)
            self.do(self.residency.loaded(unit.id, time.monotonic()))
            await asyncio.sleep(1.0)
            await instance.measure()
            instance.spilled = await self.memory.spilled(instance)
            self.memory.learn(unit, instance)
            if short := less_than_asked(instance):
                self.dash.event(short[0] if short[0] in ("spilled", "unused") else "cut", unit.name, short[1])
            proven = self.dash.db.get_meta("proven_builds", {})
            if proven.get(unit.name) != instance.build.id:
                proven = {**proven, unit.name: instance.build.id}
                await self.dash.chore("proven builds", self.dash.db.set_meta, "proven_builds", proven)

    def mark(self, *entries: str) -> None:
        """Note that entries changed, and are to be published."""
        self.dirty.update(entries)
        self.changed.set()

    # running

    async def run(self) -> None:
        """Let time pass for Residency, look at the memories while somebody waits, and save when what was used."""
        while True:
            await self.dash.beat.wait()
            wanted = self.residency.wanted()
            if (wanted or self.residency.yielding) and time.monotonic() >= self.memory.due:
                await self.memory.read()
            for unit in wanted:
                if not unit.plans:  # its file may be gone, its folder hang, or there may be no build for it
                    with contextlib.suppress(DashError, asyncio.TimeoutError):
                        await asyncio.wait_for(self.load(unit.name, "pinned"), 2.0)  # all others wait
            self.do(self.residency.settle(time.monotonic()))
            for column, values in (("last_used_at", self.last_used), ("last_speed", self.last_speeds)):
                if values:
                    await self.dash.chore("last use of models", self.dash.db.note_of_models, column, values.copy())
                    values.clear()
            await self.dash.gateway.keys.save_used()

    async def publish(self) -> None:
        """Broadcast what changed, at most ten times a second."""
        while True:
            await self.changed.wait()
            self.changed.clear()
            for id in sorted(self.dirty):  # one that fails leaves the others for the next try
                self.dirty.discard(id)
                if id in self.entries.unit_of and self.published.get(id, UNTOUCHED) != (
                        state := self.entries.state(self.dash.db.get_model(id))):
                    self.published[id] = state
                    await self.dash.broadcast("models:status", {"id": id, **state})
            await self.dash.publish_events()
            await self.dash.gateway.publish()
            await asyncio.sleep(PUBLISH_INTERVAL)

    async def start(self) -> None:
        """Let models be loaded from now on: the pinned ones, and those that were there before a restart."""
        self.stopping = False
        self.sync()
        restored, self.restore = self.restore, []
        for entry in restored:
            with contextlib.suppress(DashError):
                await self.load(entry, "loaded before the restart")

    async def stop(self, reason: str, *, restore: bool = False) -> None:
        """End every process, and everything that waits for one."""
        self.stopping = True
        self.restore = [unit.name for unit in self.residency.units.values() if unit.resident] if restore else []
        self.sync()
        for key in list(self.residency.units):
            self.do(self.residency.unload(key, reason, time.monotonic()))
        instances = list(self.instances.values())
        for instance in instances:
            self.dash.spawn(instance.stop(STOP_ALL_TIME - 1), f"stopping {instance.name}")
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*[instance.gone.wait() for instance in instances]), STOP_ALL_TIME)
        for instance in instances:
            if instance.process and not instance.gone.is_set():
                kill_group(instance.process.pid)


async def take_build_back(dash: Dash, entry: str, build: Build) -> None:
    """Return to the build that a model last ran with, where the one that took its place cannot start it."""
    builds, own = dash.builds, dash.db.get_model(entry)["build"]
    good = builds.builds.get(str(dash.db.get_meta("proven_builds", {}).get(entry)))
    if good is None or good.problem or good.id == build.id or "given" in (good.id, build.id) or dash.pool.stopping:
        return
    if own == build.id:
        await dash.change_models({entry: {"build": good.id}})
    elif builds.default(dash.engine_config) is build:
        await apply_config(dash, None, {"build": good.id})
    else:  # another one was chosen meanwhile
        return
    dash.gateway.warn("build", f"{build.id} could not start {entry}, which {good.id} had run: {good.id} is used again.")
    await dash.pool.load(entry, f"{build.id} could not start it")


async def keep_schedules(dash: Dash) -> None:
    """Do what is due at times of day; after a sleep, or when the program has not run, that of the last day."""
    since = dash.db.ran_until / 1000
    while True:
        await asyncio.sleep(5.0)
        before, since = since, time.time()
        for item in due_schedules(dash.engine_config["schedules"], max(before, since - DAY / 1000), since):
            await do_scheduled(dash, item["action"], item["model"])


async def do_scheduled(dash: Dash, action: str, model: str) -> None:
    """Do one thing that a schedule asks for; what keeps it from that is in the timeline."""
    try:
        if action == "free":
            dash.pool.free("schedule")
        elif action in ("pin", "unpin"):
            await dash.change_models({model: {"pinned": action == "pin"}})
        else:
            await (dash.pool.load if action == "load" else dash.pool.unload)(model, "schedule")
    except DashError as problem:
        dash.event("schedule", model or None, f"{action} by schedule: {problem}")


def due_schedules(schedules: list[Json], since: float, until: float) -> list[Json]:
    """Those due after `since` until `until` (Unix s, at most a day), in order; once a day also where clocks change."""
    days = {time.localtime(moment)[:3] for moment in (since, until)}
    due = [(time.mktime((*day, *map(int, item["at"].split(":")), 0, 0, 0, -1)), item)  # type: ignore[arg-type]
           for day in days for item in schedules]
    return [item for moment, item in sorted(due, key=lambda pair: pair[0])
            if since < moment <= until and time.localtime(moment).tm_wday in item["days"]]


def unix_ms(moment: float | None) -> int | None:
    """The Unix time (ms) of a moment of the monotonic clock (s); None where there is none, or where it never comes."""
    return None if moment is None or moment == math.inf else now_ms() + round(1000 * (moment - time.monotonic()))


def less_than_asked(instance: Instance) -> tuple[str, str] | None:
    """Whether a process came up with less context, or less of it on the GPUs, than asked: the kind, and in words."""
    parameters, row = instance.group.parameters, next(iter(instance.group.rows.values()), Json())
    each, has, asked, _ = instance.contexts()
    if not instance.build.devices and parameters.get("device") != "none" and parameters.get("n-gpu-layers") != 0:
        builds, gpus = instance.dash.builds, instance.dash.sampler.gpus.values()
        if gpu := next((device["description"] for device in builds.devices), builds.unused_gpu(gpus)):
            return "unused", f"The GPU ({gpu}) is not used: the build {instance.build.id} sees none."
    if each and has < asked - CONTEXT_STEP * has // each:
        if each == row.get("context_length"):
            return "trained", f"The context is {each:,} tokens: the model was trained for no more."
        return "cut", f"The context was cut to {has:,} of {asked:,} tokens, to fit into memory."
    (on_gpu, layers), what = instance.output.offloaded or (0, 0), ""
    if on_gpu < layers:
        what = f"{layers - on_gpu} of {layers} layers"
    elif instance.spilled > max(SPILL_TOLERANCE * (row.get("file_size") or 0), SPILL_LEAST):
        what = f"{instance.spilled / 2**30:.1f} GiB of its {'experts' if row['expert_count'] else 'weights'}"
    moved = not what or CPU_PARAMETERS & parameters.keys()  # as it was told
    return None if moved else ("spilled", f"{what} are in main memory, which is slow: the GPU had no room.")


def request_values(parameters: Json, path: str) -> Json:
    """What a request must carry to have the effect of `parameters`, by the names of llama-server's API."""
    values = {REQUEST_PARAMETERS[key]: value for key, value in parameters.items()}
    template: Json = json.loads(values.pop("chat_template_kwargs", "{}"))
    if (thinking := values.pop("enable_thinking", "auto")) in ("on", "off"):
        template["enable_thinking"] = thinking == "on"
    if values.get("reasoning_effort") == "default":
        del values["reasoning_effort"]
    if "mirostat" in values:
        values["mirostat"] = int(values["mirostat"])
    if values.get("repeat_last_n", 0) < 0:  # which newer builds refuse
        values["repeat_last_n"] = WHOLE_CONTEXT
    if is_anthropic(path) and "reasoning_effort" in values:  # whose translation knows few names
        template["reasoning_effort"] = values.pop("reasoning_effort")
    return {**values, **({"chat_template_kwargs": template} if template else {})}


def placement_plans(row: Json, parameters: Json, memories: list[Json], header: GGUFHeader | None) -> list[list[Plan]]:
    """The ways to place a model on `memories` ([{name, kind, total, free}]): on one GPU, on few, as the engine does."""
    def need(parameters: Json, part: list[Json]) -> dict[str, int]:
        devices = estimate_memory(row, parameters, part, header)["devices"]
        return {item["name"]: item["used"] for item in devices if item["used"]}
    fitted = parameters.get("fit") is not False and "n-gpu-layers" not in parameters  # by the engine, with a margin
    rooms = {item["name"]: item["free"] - (int(FIT_MARGIN) << 20) * (fitted and item["kind"] == "gpu")
             for item in memories}
    gpus, host = ([item for item in memories if item["kind"] == kind and not item.get("spare")]
                  for kind in ("gpu", "cpu"))
    anywhere = [Plan(need(parameters, memories), elastic=True)]
    if len(gpus) < 2 or PLACING_PARAMETERS & parameters.keys() or parameters.get("n-gpu-layers") == 0:
        return [anywhere]
    whole = {"n-gpu-layers": 9999, **parameters}
    for count in range(1, len(gpus)):
        plans = [Plan(need(whole, [*part, *host]), tuple(item["name"] for item in part))
                 for part in itertools.combinations(gpus, count)]
        fitting = [plan for plan in plans if all(amount <= rooms[name] for name, amount in plan.need.items())]
        if fitting:
            return [fitting, anywhere]
    return [anywhere]


# handlers

@on("models:load", error="LOAD_MODEL_FAILED")
async def models_load(dash: Dash, *, id: ModelId) -> Json:
    """Load a model; returns when that is under way."""
    await dash.pool.load(id)
    return {"model": dash.model(id)}


@on("models:unload", error="UNLOAD_MODEL_FAILED")
async def models_unload(dash: Dash, *, id: ModelId) -> Json:
    """Take a model out of memory, or cancel its loading; returns when that is under way."""
    dash.db.get_model(id)
    await dash.pool.unload(id)
    return {"model": dash.model(id)}


@on("models:free", error="FREE_MEMORY_FAILED", cost=5)
async def models_free(dash: Dash) -> Json:
    """Take every model out of memory: idle ones at once, the others when they have answered."""
    return {"unloaded": dash.pool.free()}


@on("timeline:list", error="LIST_TIMELINE_FAILED")
async def timeline_list(dash: Dash, *, from_: Timestamp, to: Timestamp, model: str | None = None,
                        kind: str | None = None, lives: bool = False, rare: bool = False,
                        limit: Annotated[int, Range(1, 2000)] = 200) -> Json:
    """What happened between two times, the newest first; of one `kind`, or `lives`: what models come and leave by.

    With these come `since`, from when on they are there where they are too many, and `around`: what each model was
    before and is after.
    """
    events = await asyncio.to_thread(dash.db.events, from_, to, model, limit, kind, lives=lives, rare=rare)
    if not lives:
        return {"events": events}
    since = min(event["timestamp"] for event in events) if len(events) == limit else None
    around = await asyncio.to_thread(dash.db.events_around, since or from_, to)
    return {"events": events, "since": since, "around": around}


# -- Gateway and keys ----------------------------------------------------------------------------
#
# Bodies and answers are passed on as they are: only the model's name and the numbers at the end are looked at.

MAX_BODY = 64 * 2**20  # bytes of one request: images and audio are in it
MAX_BODIES = 256 * 2**20  # bytes of all requests that are being read or wait
BODY_SILENCE = 60.0  # s without a byte of a body that is still to come
BODY_TIME = 600.0  # s in which all of it has to be there
BODY_START = 2**18  # bytes of one that comes in chunks, with their heads, until some of it was read
CHUNK_SHARE = 4  # bytes of such a body that go on with each that was read: chunks are not smaller than their heads
BODY_BLOCK = 2**16  # bytes of a body that are looked through, and passed on, at once
PARSED_AT_ONCE, MANY_MARKS = 2**15, 3000  # bytes, and quotes and brackets, of a body that need no thread to look at
MAX_READ_FIELD = 2**16  # bytes of a field of the body that the gateway reads
KEPT_HEAD, KEPT_TAIL = 4096, 8192  # bytes of an answer in which its numbers are; some say of the prompt at once
COMMENT_AFTER = 10.0  # s until a stream that waits gets a sign of life, and from one to the next
UNREAD_LIMIT = 120.0  # s that a client may leave an answer unread before it is cut off
MAX_ACTIVE_TOLD = 200  # requests under way in one broadcast
MAX_KEYS = 1000
STRONG_KEY = 20  # characters of a key that nobody guesses; shorter ones are refused to addresses that guess
LOOKS = ("GET", "HEAD")  # methods that load no model
JSON_BODY = [("Content-Type", "application/json")]
NO_KEY: Json = {"id": None, "name": None, "models": None, "requests_per_minute": None}
ENVIRONMENT_KEY: Json = {**NO_KEY, "id": 0, "name": "environment"}
MAX_REFUSED = 60  # rows a minute of requests of one owner that were refused at once
FAILURE_MEMORY = 300.0  # s after the last failed request in which nobody counts as served
NO_MODEL = "(unknown)"  # under which those are counted that name none of ours
MAX_MODEL_NAME = 256  # characters; ours have at most 96, those of an upstream some more
API_CONNECTIONS = 2000  # at a time, and half as many from one address; the dashboard needs descriptors as well
# Where a stream's event has some text, by all the APIs.
PIECE = re.compile(rb'"(?:content|reasoning_content|text|delta|thinking|arguments|partial_json)": ?"(?!")')
PRIVATE_WORDS = "key|token|secret|auth|cookie|passw|signature"  # in the name of what lets somebody in
# Headers that belong to one connection, that each side here sets by itself, or that are private.
OWN_HEADERS = frozenset({
    "connection", "keep-alive", "transfer-encoding", "content-length", "upgrade", "te", "trailer", "expect", "host",
    "server", "date", "proxy-authorization", "proxy-connection", "proxy-authenticate", "authorization", "x-api-key",
    "cookie", "set-cookie", "origin", "referer"})
AUTOMATIC_HEADERS = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")  # aiohttp's, where a client sends none
OUTER_MARK, INNER_MARK = re.compile(rb'["{}\[\],:]'), re.compile(rb'["{}\[\]]')  # what counts in JSON, by its depth
STRING_REST = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.S)
MODEL_PART = re.compile(rb'(?i)content-disposition:[^\r\n]*;[ \t]*name="?model"?[ \t]*(?:;|\r|$)')
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 408: "timeout_error",
               413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 502: "api_error",
               503: "overloaded_error"}  # of others: invalid_request_error
# What clients call the same thing that a parameter does: where one of these is given, nothing is filled in.
ALSO_NAMED = {"n_predict": ("max_tokens", "max_completion_tokens", "max_output_tokens"),
              "reasoning_effort": ("reasoning",), "reasoning_budget_tokens": ("thinking", "thinking_budget_tokens")}
READ_FIELDS = frozenset({"model", "stream", "messages", "prompt", "input_prefix", *REQUEST_PARAMETERS.values(),
                         *itertools.chain.from_iterable(ALSO_NAMED.values())})


class GatewayError(DashError):
    """A request of a client that ends with an HTTP `status`, in the error shape of its own API."""

    def __init__(self, status: int, message: str, *, code: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.reason = status, code
        self.headers = {"Retry-After": str(retry_after)} if retry_after else {}

    def body(self, path: str) -> Json:
        """The error as OpenAI's clients expect it, or Anthropic's on their paths."""
        kind = ERROR_TYPES.get(self.status, "invalid_request_error")
        if is_anthropic(path):
            return {"type": "error", "error": {"type": kind, "message": str(self)}}
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.reason or self.status}}


def is_anthropic(path: str) -> bool:
    """Whether a path is of Anthropic's API."""
    return "/v1/messages" in path.partition("?")[0]


# requests under way and finished

@dataclass(eq=False, repr=False)
class Call:
    """One request of a client for a model, from its arrival to its end, and what is learnt of it meanwhile."""
    id: int
    model: str  # the id of an entry, or an upstream's NAME/MODEL
    client: str
    endpoint: str
    stream: bool = False
    owner: str = ""  # whose it is where many are too many: a key's, or an address's
    key_id: int | None = None
    key: str | None = None
    build: str | None = None
    instance: Instance | None = None  # that answers it
    unit: str | None = None
    timestamp: int = field(default_factory=now_ms)
    since: float = field(default_factory=time.monotonic)
    status: str = "waiting"
    code: str | None = None
    error: str | None = None
    waited: float | None = None  # ms
    loading: float | None = None
    energy: float | None = None  # J
    slot: int | None = None  # by the engine's log; an answer tells seldom
    waits: list[tuple[str, float]] = field(default_factory=list)  # why it waits, and since when
    others: float = 0.0  # s of requests that its process had had when it came
    # what else its time went by: `after` (why its model had left memory, where that had to be loaded), `beside` (how
    # many ran at the same time, on average), `cache` (why no more of its prompt came from there)
    anatomy: Json = field(default_factory=dict)
    admitted_at: float | None = None
    first_at: float | None = None
    ended_at: float | None = None
    head: bytes = b""
    tail: bytearray = field(default_factory=bytearray)
    pieces: int = 0  # texts of the stream so far: about as many as tokens
    writing: float | None = None  # since when the client has been given something that it has not taken
    task: asyncio.Task[Any] | None = None
    cancelled_for: tuple[str, str, str | None] | None = None  # how it ends: status, cause and code
    captured: Json | None = None  # where that is wanted: {sent: its Body, head: HTTP's lines of both, answer}

    def admitted(self, instance: Instance) -> None:
        """The model is in memory; the time until now was spent waiting, and with the load of that process."""
        self.admitted_at, self.status = time.monotonic(), "running"
        begun = max(instance.started, self.since)
        loading = max(0.0, (instance.ready_at or begun) - begun)
        self.loading, self.build, self.instance = round(loading * 1000, 1), instance.build.id, instance
        self.waited = round((self.admitted_at - self.since - loading) * 1000, 1)

    def waits_for(self, reason: str) -> None:
        """Note why it waits, where that is new."""
        if not self.waits or self.waits[-1][0] != reason:
            self.waits = [*self.waits[:19], (reason, time.monotonic())]

    def feed(self, block: bytes) -> None:
        """Take in a piece of the answer."""
        if self.first_at is None and (b"prompt_progress" not in block or PIECE.search(block) or b"[DONE]" in block):
            self.first_at = time.monotonic()
        if len(self.head) < KEPT_HEAD:
            self.head += block[:KEPT_HEAD]
        if self.captured is not None:
            self.captured["answer"] += block[:MAX_CAPTURED - len(self.captured["answer"])]
        self.tail += block
        if len(self.tail) > 2 * KEPT_TAIL:
            del self.tail[:-KEPT_TAIL]
        if self.stream:
            self.pieces += len(PIECE.findall(block))

    def end(self, status: str, error: str | None = None, code: Any = None) -> None:
        """Note how it ended, unless that is known."""
        if self.ended_at is None:
            self.ended_at, self.status = time.monotonic(), status
            self.error, self.code = error and error[:1000], None if code is None else str(code)[:64]

    def row(self) -> Json:
        """What is stored of it, and shown; `details` is {waits: [[reason, ms]], after?, beside?, cache?}."""
        end = self.ended_at or time.monotonic()
        first = None if self.first_at is None else round((self.first_at - (self.admitted_at or self.since)) * 1000, 1)
        duration = round((end - self.since) * 1000, 1)
        slot = re.search(rb'"id_slot":(\d{1,4})\b', self.head)
        moments = [since for _, since in self.waits[1:]] + [self.admitted_at or end]
        waits = [[reason, round(1000 * (until - since), 1)]
                 for (reason, since), until in zip(self.waits, moments, strict=False)]
        return {**{name: getattr(self, name) for name in REQUEST_COLUMNS if hasattr(self, name)}, **self.numbers(),
                "waited": self.waited if self.admitted_at else duration, "duration": duration,
                "first_token": first if self.stream else None, "slot": int(slot[1]) if slot else self.slot,
                "details": {**({"waits": waits} if waits else {}), **self.anatomy} or None}

    def numbers(self) -> Json:
        """Tokens and speeds, from the answer's own `timings` and `usage`; while it runs, from what has come."""
        numbers = answer_numbers({})  # none are known
        if self.first_at is None:
            return numbers
        if timings := json_object(self.tail, b'"timings":'):  # while it runs those so far, where every piece has them
            return answer_numbers(timings)
        span = (self.ended_at or time.monotonic()) - self.first_at
        if self.ended_at is None:
            return {**numbers, "generated_tokens": self.pieces or None,
                    "generated_per_second": finite_rate(self.pieces / max(span, 0.1))}
        numbers = answer_numbers(json_object(self.head, b'"usage":', last=False))
        numbers |= {key: value for key, value in answer_numbers(json_object(self.tail, b'"usage":')).items() if value}
        if self.stream and self.instance:  # what the client has got of one that was cut off
            numbers["generated_tokens"] = numbers["generated_tokens"] or self.pieces or None
        if numbers["generated_tokens"] and self.stream:
            numbers["generated_per_second"] = finite_rate((numbers["generated_tokens"] - 1) / max(span, 0.001))
        return numbers


def json_object(text: bytes | bytearray, name: bytes, *, last: bool = True) -> Json:
    """The last or the first JSON object in `text` that stands behind `name`; empty where there is none."""
    places = [found.end() for found in re.finditer(re.escape(name), text)]
    for at in reversed(places) if last else places:
        with contextlib.suppress(ValueError, RecursionError):
            found = JSON_DECODER.raw_decode(text[at:].decode("utf-8", "replace").lstrip())[0]
            if isinstance(found, dict):
                return found
    return {}


# What llama.cpp's `timings`, and the `usage` of OpenAI's and Anthropic's APIs, call the numbers of an answer.
ANSWER_NUMBERS = {
    "prompt_tokens": ("prompt_n", "prompt_tokens", "input_tokens"),
    "cached_tokens": ("cache_n", "cache_read_input_tokens", "cached_tokens"),
    "generated_tokens": ("predicted_n", "completion_tokens", "output_tokens"),
    "drafted": ("draft_n",), "accepted": ("draft_n_accepted",)}


def answer_numbers(given: Json) -> Json:
    """Tokens and speeds, from what an answer gives as its `timings` or `usage`."""
    details = given.get("prompt_tokens_details") or given.get("input_tokens_details")
    given = {**(details if isinstance(details, dict) else {}), **given}
    numbers = {name: next((int(given[key]) for key in keys if is_amount(given.get(key))), None)
               for name, keys in ANSWER_NUMBERS.items()}
    if numbers["prompt_tokens"] is not None and (given.get("cache_n") or given.get("cache_read_input_tokens")):
        numbers["prompt_tokens"] += numbers["cached_tokens"] or 0  # which are counted apart
    return {**numbers, "prompt_per_second": finite_rate(given.get("prompt_per_second")),
            "generated_per_second": finite_rate(given.get("predicted_per_second"))}


class Requests:
    """Every request, while it runs and when it ended: shown live, saved, and counted."""

    def __init__(self, dash: Dash) -> None:
        self.dash = dash
        self.active: dict[int, Call] = {}
        self.finished: list[Json] = []
        self.last_id = dash.db.last_id("requests")
        self.published_at = -math.inf
        self.shown: tuple[Any, ...] = ()
        self.waiting: list[Json] = []
        self.totals = collections.Counter[tuple[str, str, str]]()  # since the start, by metric, model and kind
        self.made = {"prompt": 0, "generated": 0}  # tokens of the finished requests
        self.sampled = time.monotonic(), self.made  # when the throughput was last asked for, and what was made then
        self.served_at = -math.inf
        self.failing: tuple[float, float] | None = None  # the first and the last failure since one was served
        self.refusals = LogLimiter(MAX_REFUSED, 60.0)
        self.saving = asyncio.Lock()

    def refuse(self, call: Call, problem: GatewayError) -> None:
        """A request ended before it was one for a model, or as one too many: a row, of each owner so many a minute."""
        if self.refusals.allows(call.owner, time.monotonic()):
            self.last_id = call.id = self.last_id + 1
            entry, call.model = self.dash.entry_of(call.model), clean_text(call.model) or NO_MODEL
            call.end("failed", str(problem), problem.reason or problem.status)
            self.dash.event("refused", entry, str(problem), {"client": call.client, "code": call.code})
            counted = entry or NO_MODEL  # a client may make up any number of names
            self.totals["requests_total", counted, "failed"] += 1
            self.finished.append({**call.row(), "counted_as": counted})
            self.dash.pool.changed.set()

    @contextlib.contextmanager
    def account(self, call: Call) -> Iterator[None]:
        """A request is under way meanwhile, and how it ends is noted; GatewayError where too many of its owner wait."""
        if sum(other.owner == call.owner and other.status == "waiting" for other in self.active.values()) \
                >= MAX_WAITING // 2:
            problem = GatewayError(503, "Too many of your requests are waiting.", code="crowded", retry_after=10)
            self.refuse(call, problem)
            raise problem
        self.last_id = call.id = self.last_id + 1
        call.unit, call.task = self.dash.pool.entries.unit_of.get(call.model), asyncio.current_task()
        self.active[call.id] = call
        self.dash.pool.changed.set()
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            call.end(*(call.cancelled_for or ("cancelled", "The client left.")))
            raise
        except Exception as problem:
            failure = gateway_error(problem)
            call.end("failed", str(failure), failure.reason or failure.status)
            raise
        finally:
            self.end(call)

    def end(self, call: Call) -> None:
        """A request is over; how is noted in it."""
        del self.active[call.id]
        call.end("ok")
        if call.captured:
            self.dash.spawn(self.dash.captures.save(call, **call.captured), "capture")
        if call.admitted_at is not None and call.instance:
            self.took_part(call, call.instance, call.admitted_at)
        row = {**call.row(), "parameters": call.instance and call.instance.group.text()}
        self.made = {"prompt": self.made["prompt"] + max(0, (row["prompt_tokens"] or 0) - (row["cached_tokens"] or 0)),
                     "generated": self.made["generated"] + (row["generated_tokens"] or call.pieces)}
        found = self.dash.upstreams.find(call.model)
        if found and found[1] not in found[0].models:
            row["counted_as"] = f"{found[0].name}/…"  # a client may make up any number of names
        model = row.get("counted_as", call.model)
        self.totals["requests_total", model, row["status"]] += 1
        for kind in TOKEN_KINDS:
            self.totals["tokens_total", model, kind] += row[f"{kind}_tokens"] or 0
        self.finished.append(row)
        if call.admitted_at is not None and call.instance:
            self.dash.energy.ended.append(Consumer(row, call.admitted_at, time.monotonic(), call.instance.held))
        if call.status == "ok":
            self.served_at, self.failing = time.monotonic(), None
        elif call.status == "failed" and not re.fullmatch(r"4\d\d|key_revoked|unread", call.code or ""):  # not theirs
            now = time.monotonic()
            self.failing = self.failing[0] if self.failing else now, now
        if row["generated_per_second"]:
            self.dash.pool.last_speeds[call.model] = row["generated_per_second"]
        self.dash.pool.mark(call.model)

    def took_part(self, call: Call, instance: Instance, admitted_at: float) -> None:
        """Note in a request that has ended beside how many it ran, and why no more of its prompt was cached."""
        own = time.monotonic() - admitted_at
        call.anatomy["beside"] = round(max(0.0, self.occupied(instance) - call.others) / max(own, 0.001), 1)
        instance.answered += own
        until = call.first_at or call.ended_at or math.inf
        slots = [found for at, found in instance.output.slots if admitted_at - 0.01 <= at <= until]
        numbers = call.numbers()
        if len(slots) == 1 and slots[0][1] and numbers["prompt_tokens"]:  # else it may be another's
            call.slot = int(slots[0][1])
        if miss := cache_miss(numbers, slots):
            call.anatomy["cache"] = miss

    def unserved_for(self) -> float:
        """Seconds in which requests waited or failed and none was answered; what nobody asks for any more is over."""
        now, calls = time.monotonic(), self.active.values()
        if self.failing and now - self.failing[1] < FAILURE_MEMORY and not any(call.first_at for call in calls):
            return (now if calls else self.failing[1]) - self.failing[0]
        none = not calls or any(call.status != "waiting" for call in calls)
        return 0.0 if none else now - max(min(call.since for call in calls), self.served_at)

    def occupied(self, instance: Instance) -> float:
        """Seconds that all requests of a process have taken together until now, those that run included."""
        return instance.answered + sum(time.monotonic() - call.admitted_at for call in self.active.values()
                                       if call.instance is instance and call.admitted_at is not None)

    def cancel(self, call: Call, cause: str, *, status: str = "cancelled", code: str | None = None) -> None:
        """End a request that is under way."""
        call.cancelled_for = status, cause, code
        if call.task is not None:
            call.task.cancel()

    def live_speed(self, unit: str, instance: Instance) -> float | None:
        """Tokens per second that a unit generates for all its requests while it answers; the last one known."""
        speeds = [call.pieces / max(time.monotonic() - call.first_at, 0.1) for call in self.active.values()
                  if call.unit == unit and call.first_at is not None and call.pieces]
        if speeds:
            instance.output.speed = round(sum(speeds), 2)
        return instance.output.speed

    def counters(self) -> Json:
        """What the sampler saves: requests under way and waiting, and the throughput since the last sample."""
        waiting = sum(call.status == "waiting" for call in self.active.values())
        made = {**self.made, "generated": self.made["generated"] + sum(call.pieces for call in self.active.values())}
        (sampled, before), self.sampled = self.sampled, (time.monotonic(), made)
        span = max(self.sampled[0] - sampled, 0.001)
        return {"requests_processing": len(self.active) - waiting, "requests_deferred": waiting,
                **{f"{kind}_tokens_per_second": round(max(0, made[kind] - before[kind]) / span, 2) for kind in made},
                "active_models": sum(unit.status == "loaded" for unit in self.dash.pool.residency.units.values())}

    def under_way(self) -> list[Json]:
        """The rows of the requests under way, the oldest first, each with why it waits."""
        reasons = {item["id"]: item["reason"] for item in self.queue()}
        return [{**call.row(), "reason": reasons.get(call.id)} for call in list(self.active.values())[:MAX_ACTIVE_TOLD]]

    def queue(self) -> list[Json]:
        """Who waits for which model, since when and why; the requests note it as well."""
        waiting = [(self.active[ticket.id], reason or "in line")
                   for ticket, reason in self.dash.pool.residency.queue() if ticket.id in self.active]
        for call, reason in waiting:
            call.waits_for(reason)
        return [{"id": call.id, "model": call.model, "client": call.client, "since": call.timestamp, "reason": reason}
                for call, reason in waiting[:MAX_ACTIVE_TOLD]]

    async def publish(self) -> None:
        """Save and broadcast what ended; broadcast what is under way and who waits, at most twice a second."""
        now = time.monotonic()
        for call in self.active.values():
            if call.writing is not None and now - call.writing > UNREAD_LIMIT:
                self.cancel(call, "The client did not read the answer.", status="failed", code="unread")
        self.refusals.suppressed()
        async with self.saving:  # who is about to read the rows waits for those that are on their way
            finished, self.finished = self.finished, []
            if finished:
                await self.dash.chore("requests", self.dash.db.add_requests, finished)  # they are worth no more trouble
            for row in finished[-20:]:  # clients fetch older ones when they need them
                told = {name: row[name] for name in REQUEST_COLUMNS}
                await self.dash.broadcast("requests:finished", {"request": told})
        if self.active or self.shown:
            self.dash.pool.changed.set()  # there is more to tell, in a moment
        if now - self.published_at < 0.5:
            return
        shown = tuple((call.id, call.status, call.pieces) for call in self.active.values())
        if shown != self.shown:
            self.published_at, self.shown = now, shown
            await self.dash.broadcast("requests:active", {"requests": self.under_way()})
        if (waiting := self.queue()) != self.waiting:
            self.waiting = waiting
            await self.dash.broadcast("queue:update", {"waiting": waiting})


def cache_miss(row: Json, chosen: list[re.Match[str]]) -> Json | None:
    """Why a prompt was not cached further: {kind, token?}; `chosen` is what its engine told of slots meanwhile.

    The kind is `new` (the first in its slot), `taken` (no slot had such a beginning), `changed` (at a token), `lost`
    (a slot had more of it, but not its state) or `longer` (the rest is new).
    """
    prompt, cached = row["prompt_tokens"], row["cached_tokens"] or 0
    if not prompt or len(chosen) != 1 or cached >= prompt - 1:
        return None
    _, last_used, shared, kept = chosen[0].groups()
    if last_used is not None:
        return None if cached else {"kind": "new" if last_used == "-1" else "taken"}
    common = round(float(shared) * prompt)
    if cached < 0.9 * common - 8:
        return {"kind": "lost", "token": common}
    return {"kind": "changed" if float(kept) < 0.99 else "longer", "token": cached}


class Meter(NamedTuple):
    """A reading of an energy meter: joules since some start, from 0 again beyond `range`, and watts; None: not told."""
    energy: float | None
    power: float | None = None
    range: float = math.inf

    def since(self, before: Meter, seconds: float) -> float | None:
        """Joules since the reading before; from the watts where the counter does not tell, None where nothing does."""
        if self.energy is not None and before.energy is not None:
            spent = self.energy - before.energy
            if spent >= 0 or self.range < math.inf:
                return spent % self.range
        powers = [meter.power for meter in (before, self) if meter.power is not None]
        return sum(powers) / len(powers) * seconds if powers else None


def processor_meters(root: Path = Path("/sys/class/powercap")) -> dict[str, Meter]:
    """The energy meters of the processor's packages, where this user may read them; psys holds the packages again."""
    packages = [(path.name, [reading(file_text(path / f"{name}_uj"), 1e-6) for name in ("energy", "max_energy_range")])
                for path in root.glob("*-rapl:?") if file_text(path / "name") != "psys"]
    return {name: Meter(energy, None, most or math.inf) for name, (energy, most) in packages if energy is not None}


@dataclass(eq=False, repr=False)
class Consumer:
    """What took energy between two readings of the meters: a request, the row of one that has ended, or a process."""
    what: Call | Json | Instance
    begin: float
    end: float
    devices: Iterable[str] = ()  # that its process is on, as builds call them
    idle: bool = False  # it takes what is spent while there are no requests
    energy: float | None = None  # J; None: no meter tells


class EnergyLedger:
    """Splits what a GPU took over the requests in flight on it, or else the models there; the processor's over all."""

    def __init__(self, dash: Dash) -> None:
        self.dash = dash
        self.meters: dict[str, Meter] = {}  # as last read
        self.at = time.monotonic()
        self.idle_power: dict[str, float] = {}  # W of each meter, when there was no request last
        self.ended: list[Consumer] = []  # requests that are over since the meters were read

    async def count(self) -> None:
        """Read the meters, and put what was spent since the last time to the account of whom it was for."""
        read = await self.dash.sampler.probes.read("energy meters", processor_meters) or {}
        now, begin, before, consumers = time.monotonic(), self.at, self.meters, self.ended
        self.meters = {**read, **{f"GPU {gpu['index']}": Meter(gpu.get("energy"), gpu["power"])
                                  for gpu in self.dash.sampler.gpus.values()}}
        self.at, self.ended = now, []
        consumers += [Consumer(call, call.admitted_at, now, call.instance.held)
                      for call in self.dash.requests.active.values() if call.instance and call.admitted_at is not None]
        consumers += [Consumer(instance, instance.started, now, instance.held, idle=True)
                      for instance in self.dash.pool.instances.values()]
        nobody = Consumer({"timestamp": now_ms(), "model": "", "status": "idle", "energy": 0}, begin, now, idle=True)
        cards = {device["name"]: f"GPU {self.dash.sampler.gpus[id]['index']}"
                 for device, id in self.dash.sampler.readings(self.dash.builds.devices) if id}
        for name, meter in self.meters.items():
            spent = meter.since(before[name], now - begin) if name in before and now > begin else None
            users = [item for item in consumers if name in read or name in map(cards.get, item.devices)]
            if spent is not None and (users or name in read):
                self.split(name, spent, users or [nobody], begin, now)
        await self.save([*consumers, nobody])

    def split(self, name: str, joules: float, users: list[Consumer], begin: float, now: float) -> None:
        """Split what one meter counted: idle power over the processes, by their time there, the rest over requests."""
        for item in users:
            item.begin = min(max(begin, item.begin), item.end)
        processes, requests = ([item for item in users if item.idle is idle] for idle in (True, False))
        unused, reached, power = 0.0, begin, joules / (now - begin)  # unused: s without a request
        for item in sorted(requests, key=lambda item: item.begin):
            unused, reached = unused + max(0.0, item.begin - reached), max(reached, item.end)
        if not requests:
            self.idle_power[name] = power
        idle = min(power, self.idle_power.get(name, power)) * (unused + now - reached) if processes else 0.0
        for part, amount in ((processes, idle), (requests, joules - idle)):
            spans = [item.end - item.begin for item in part]
            for item, span in zip(part, spans, strict=True):
                item.energy = (item.energy or 0.0) + amount * span / (sum(spans) or math.inf)

    async def save(self, consumers: list[Consumer]) -> None:
        """Save what each took: in a request's row, or as that of a model in memory."""
        rows = list[Json]()
        for what, energy in [(item.what, item.energy) for item in consumers if item.energy is not None]:
            if isinstance(what, dict):
                tokens = what.get("generated_tokens") if what["energy"] is None else None
                rows.append({**what, "energy": energy, "metered": tokens})
                if "id" in what:  # nobody is no request
                    await self.dash.chats.metered(what["id"], (what["energy"] or 0.0) + energy)
                continue
            what.energy = (what.energy or 0.0) + energy
            if isinstance(what, Instance):
                rows.append({"timestamp": now_ms(), "model": what.name, "build": what.build.id, "status": "idle",
                             "parameters": what.group.text(), "energy": energy, "metered": None})
        if rows:
            await self.dash.requests.publish()  # the rows must be there
            await self.dash.chore("energy", self.dash.db.add_energy, rows)

    def residencies(self) -> Json:
        """What it costs to keep each model: {model: {since (ms), energy (J), loading (s that a load takes)}}."""
        pool = self.dash.pool
        return {unit.name: {"since": unix_ms(unit.loaded_at), "energy": pool.instances[unit.id].energy,
                            "loading": round(unit.loaded_at - unit.started_at, 1)}
                for unit in pool.residency.units.values() if unit.status == "loaded"}


# what is read of a body

class BodyBytes(bytearray):
    """What a request's body is, which is counted for as long as anybody has it."""


class Body(NamedTuple):
    """A request's body, and where in it the fields are that the gateway must know: {name: [(start, end)]}."""
    data: bytearray
    fields: Mapping[str, Sequence[tuple[int, int]]] = {}  # never changed; the last of several counts, as for llama.cpp
    begins: int | None = None  # where the first field of the JSON object may stand; None for other bodies
    empty: bool = False  # an object without fields
    edits: tuple[tuple[int, int, bytes], ...] = ()  # what is sent instead of which part

    @property
    def size(self) -> int:
        """Bytes that are sent."""
        return len(self.data) + sum(len(new) - (end - start) for start, end, new in self.edits)

    def blocks(self) -> Iterator[bytes]:
        """What is sent, in parts, without another copy of the whole."""
        at = 0
        for start, end, new in (*sorted(self.edits), (len(self.data), 0, b"")):
            for part in range(at, start, BODY_BLOCK):
                yield bytes(self.data[part:min(part + BODY_BLOCK, start)])
            yield new
            at = end

    def value(self, name: str) -> Any:
        """The value of a field that was looked for, of a long one the beginning as text; None: absent or no JSON."""
        start, end = self.fields.get(name, [(0, 0)])[-1]
        raw = bytes(self.data[start:min(end, start + MAX_READ_FIELD)])
        if (raw and self.begins is None) or end - start > MAX_READ_FIELD:
            return raw.decode("utf-8", "replace")
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(raw)
        return None

    def edited(self, name: str, value: Any) -> Body:
        """The body with another value of one field, wherever it has it, or with that field as its first one."""
        if self.begins is None:
            places, new = self.fields.get(name, ()), str(value).encode()
        elif name in self.fields:
            places, new = self.fields[name], encoded(value)
        else:
            places, new = [(self.begins, self.begins)], encoded({name: value})[1:-1] + (b"" if self.empty else b",")
        return self._replace(edits=(*self.edits, *((*place, new) for place in places)))

    def with_values(self, values: Json) -> Body:
        """The body with `values` that the client left out; of an object it may leave out parts."""
        body = self
        for name, value in values.items():
            given = self.value(name) if isinstance(value, dict) else None
            if isinstance(given, dict):
                body = body.edited(name, {**value, **given})
            elif not any(other in self.fields for other in (name, *ALSO_NAMED.get(name, ()))):
                body = body.edited(name, value)
        return body


def string_end(data: bytearray, at: int) -> int:
    """Where the JSON string is over that begins at `at`; the end of the data where it does not end. In steps."""
    at += 1
    while (found := STRING_REST.match(data, at, at + BODY_BLOCK)) and found.end() < len(data) - 1:
        at = found.end()
        if data[at] == 0x22:
            return at + 1
    return len(data)


def scanned_json(data: bytearray) -> Body:
    """Where the fields of a JSON object are that the gateway must know; GatewayError where it is no object."""
    depth, at, begins, name, value = 0, 0, 0, "", 0  # name and value: of the field that is being read
    fields: dict[str, list[tuple[int, int]]] = {}
    while at < len(data):
        found = (OUTER_MARK if depth < 2 else INNER_MARK).search(data, at, at + BODY_BLOCK)  # in steps: others want to
        if not found:  # run meanwhile
            at += BODY_BLOCK
            continue
        at, mark = found.start(), found[0]
        if depth == 0 and (mark != b"{" or data[:at].strip()):
            break
        if mark == b'"':
            end = string_end(data, at)
            if depth == 1 and not value and end - at <= 128:
                raw = data[at:end]
                with contextlib.suppress(ValueError):
                    name = str(json.loads(raw)) if b"\\" in raw else raw[1:-1].decode()
            at = end
            continue
        if mark in b"{[":
            depth += 1
            begins = begins or at + 1
        elif mark == b":":
            value = value or at + 1
        elif depth == 1:  # a comma, or the end
            if name in READ_FIELDS and value:
                fields.setdefault(name, []).append((value, at))
                if len(fields[name]) > 8:
                    raise GatewayError(400, f"The body has {name} too often.")
            if mark != b",":
                return Body(data, fields, begins, not value)
            name, value = "", 0
        elif mark != b",":
            depth -= 1
        at += 1
    raise GatewayError(400, "The body is not a JSON object.")


def scanned_form(data: bytearray, boundary: str) -> Body:
    """Where the field `model` of a multipart upload is; GatewayError where there are several."""
    mark, fields = b"--" + boundary.encode(), dict[str, list[tuple[int, int]]]()
    at = data.find(mark)
    for _ in range(100):  # more parts are not looked at
        begin = data.find(b"\r\n\r\n", at, at + 4096) + 4  # the end of its headers
        end = data.find(b"\r\n" + mark, begin)
        if at < 0 or begin < 4 or end < 0:
            break
        if MODEL_PART.search(data, at, begin):
            if fields:
                raise GatewayError(400, "The upload names two models.")
            fields["model"] = [(begin, end)]
        at = end + 2
    return Body(data, fields)


# one request to a model

@dataclass(repr=False)
class ModelRequest:
    """One request to a model, a client's or our own: waits until the model is in memory, and asks it."""
    dash: Dash
    call: Call
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: Body | None

    async def ask(self, stack: contextlib.AsyncExitStack) -> aiohttp.ClientResponse:
        """The answer, once its headers are there."""
        kept = None
        if self.body is not None and self.call.model in self.dash.captures.wanted():
            kept = self.call.captured = {"sent": self.body, "answer": bytearray(),
                                         "head": http_head(f"{self.method} {self.call.endpoint}", self.headers)}
        answer = await (self.dash.upstreams.ask(self, stack) if "/" in self.call.model else self.ask_here(stack))
        if kept:
            kept["head"] += http_head(f"\n\nHTTP {answer.status} {answer.reason}", answer.headers.items())
        return answer

    async def ask_here(self, stack: contextlib.AsyncExitStack) -> aiohttp.ClientResponse:
        """The answer of a process of ours. Where that dies before its headers are there, it is asked once more."""
        pool, model = self.dash.pool, self.call.model
        if self.method in LOOKS:  # who only looks at a model neither loads it nor keeps it awake
            instance = pool.loaded_instance(model)
            if instance is None:
                raise GatewayError(400, f"{model} is not loaded, and this request does not load it.")
            return await self.ask_instance(instance, stack)
        pool.ready_build(model)
        stack.callback(pool.release, self.call)
        instance = await pool.admission(self.call)
        try:
            return await self.ask_instance(instance, stack)
        except (aiohttp.ClientError, OSError):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(instance.gone.wait(), GONE_TIME)
            if not instance.gone.is_set():
                raise
        pool.release(self.call)
        self.call.status = "waiting"
        return await self.ask_instance(await pool.admission(self.call), stack)

    async def ask_instance(self, instance: Instance, stack: contextlib.AsyncExitStack) -> aiohttp.ClientResponse:
        """Send the request to a process, with what of its entry's parameters the process was not started with."""
        body = self.body
        if body is not None and (self.path.partition("?")[0].endswith("/responses")
                                 or not body.fields.keys().isdisjoint(("messages", "prompt", "input_prefix"))):
            body = body.with_values(self.dash.pool.entries.missing_values(self.call.model, self.path))
        return await sent(self.dash.pool.session, self.method, instance.url + self.path,
                          [*self.headers, *instance.authorization.items()], body, stack)


async def sent(session: aiohttp.ClientSession, method: str, url: str, headers: list[tuple[str, str]], body: Body | None,
               stack: contextlib.AsyncExitStack, **options: Any) -> aiohttp.ClientResponse:
    """The response to a request. With `stack` its connection is closed at once, which frees the engine's slot."""
    async def blocks(body: Body) -> AsyncIterator[bytes]:
        for block in body.blocks():
            yield block

    data = None
    if body is not None:
        headers = [*headers, ("Content-Length", str(body.size))]
        data = blocks(body) if body.size > BODY_BLOCK else b"".join(body.blocks()) or None
    response = await session.request(method, yarl.URL(url, encoded=True), headers=headers, data=data,
                                     allow_redirects=False, **options)
    stack.callback(response.close)
    return response


def http_head(first: str, headers: Iterable[tuple[str, str]]) -> str:
    """The first line of a request or an answer and its headers, without what lets anybody in."""
    return "\n".join([first, *(f"{name}: {'…' if re.search(PRIVATE_WORDS, name.lower()) else value}"
                               for name, value in headers)])


def chat_messages(sent: Json) -> Json:
    """What chat completions call a request of Anthropic's or the Responses API; one of MALFORMED for others.

    With tools, or with more than text, the engine's prompt is not that of these messages alone.
    """
    if sent.get("tools"):
        raise ValueError("with tools")
    turns: Any = sent["input"] if "input" in sent else sent["messages"]
    turns = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
    if system := sent.get("system", sent.get("instructions")):
        turns = [{"role": "system", "content": system}, *turns]
    return {"messages": [{"role": turn["role"], "content": turn["content"] if isinstance(turn["content"], str) else [
        {"type": "text", "text": part["text"]} for part in turn["content"]]} for turn in turns]}


class Captures:
    """What clients send and get, of the models of which somebody wants to see it, for some hours."""

    def __init__(self, dash: Dash) -> None:
        self.dash, self.until = dash, dict[str, int](dash.db.get_meta("captures", {}))

    def wanted(self) -> dict[str, int]:
        """The models whose requests are captured, and until when (Unix ms)."""
        return {model: until for model, until in self.until.items()  # not for years, where the clock was set back
                if type(until) is int and 0 < until - now_ms() <= CAPTURE_HOURS * 3_600_000}

    async def change(self, model: str, until: int) -> Json:
        """Capture a model's requests until then, and let every page say so."""
        self.until = {**self.wanted(), model: until}
        self.dash.db.set_meta("captures", self.wanted())
        await self.dash.broadcast("captures:updated", {"captures": self.wanted()})
        return {"captures": self.wanted()}

    async def save(self, call: Call, sent: Body, head: str, answer: bytes) -> None:
        """Save what was captured, with the prompt that the engine makes of the messages, where it tells."""
        prompt, instance = None, self.dash.pool.loaded_instance(call.model)
        other = is_anthropic(call.endpoint) or call.endpoint.endswith("/responses")
        if instance and (other or "messages" in sent.fields) and sent.size <= MAX_CAPTURED:
            with contextlib.suppress(DashError, aiohttp.ClientError, asyncio.TimeoutError, OSError, *MALFORMED):
                body = scanned_json(bytearray(encoded(chat_messages(json.loads(sent.data))))) if other else sent
                template = ModelRequest(self.dash, call, "POST", "/apply-template", JSON_BODY, body)
                async with contextlib.AsyncExitStack() as stack:
                    made = await asyncio.wait_for(template.ask_instance(instance, stack), GONE_TIME)
                    text = await asyncio.wait_for(made.read(), GONE_TIME)
                prompt = str(json.loads(text)["prompt"])[:MAX_CAPTURED]
        row = {name: getattr(call, name) for name in ("id", "timestamp", "model", "client", "endpoint", "status")}
        texts = {name: text[:MAX_CAPTURED].decode("utf-8", "replace")
                 for name, text in (("request", sent.data), ("answer", answer))}
        head = "\n\n".join(filter(None, (head, call.error)))
        await self.dash.chore("capture", self.dash.db.add_capture, {**row, **texts, "prompt": prompt, "head": head})


def error_text(body: bytes | bytearray, status: int) -> str:
    """What an engine or an upstream gave as its reason for an error status."""
    try:
        error = json.loads(body).get("error")
        message = error["message"] if isinstance(error, dict) else error
    except MALFORMED:
        message = None
    return shortened(clean_line(str(message or f"it answered with status {status}").encode("utf-8", "replace")), 1000)


async def answer_objects(response: aiohttp.ClientResponse, call: Call) -> AsyncIterator[Json]:
    """The JSON objects of an answer that is a stream of events, until its end."""
    if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
        raise EngineFailed("The engine's answer is not understood: is this a llama-server?")
    lines = LineSplitter(2**20)  # of which an event is one
    async for block in response.content.iter_any():
        call.feed(block)
        for line in lines.feed(block):
            kind, _, data = line.partition(b":")
            if kind in (b"data", b"error"):
                with contextlib.suppress(ValueError, RecursionError):  # [DONE] is no JSON
                    if isinstance(event := json.loads(data), dict):
                        yield {"error": event.get("error", event)} if kind == b"error" else event


@dataclass(repr=False)
class Exchange(ModelRequest):
    """One request of a client: streams the model's answer back to it, and says what goes wrong."""
    request: web.BaseRequest
    response: web.StreamResponse | None = None  # once something was sent to the client

    async def run(self) -> web.StreamResponse:
        """The answer; a GatewayError where nothing of it was sent yet."""
        call = self.call
        try:
            async with contextlib.AsyncExitStack() as stack:
                with contextlib.ExitStack() as signs:  # a stream that waits for long gets comments meanwhile
                    if call.stream:
                        signs.callback(asyncio.ensure_future(self.signs_of_life()).cancel)
                    answer = await self.ask(stack)
                self.body = None  # it is not needed again, and may be large
                return await self.stream(answer)
        except (DashError, aiohttp.ClientError, OSError) as problem:
            if self.request.transport is None or self.request.transport.is_closing():
                call.end("cancelled", "The client left.")
            return await self.failed(gateway_error(problem))
        except asyncio.CancelledError:
            if call.cancelled_for is None:
                raise
            call.end(*call.cancelled_for)
            if hasattr(task := asyncio.current_task(), "uncancel"):
                task.uncancel()  # type: ignore[union-attr]
            return await self.failed(GatewayError(401 if call.code == "key_revoked" else 503, str(call.error)))
        finally:
            self.body = None  # what failed may be remembered for longer

    async def failed(self, problem: GatewayError) -> web.StreamResponse:
        """Tell the client: with a status, or where its stream has only just begun with an event in it."""
        if self.response is None:
            raise problem
        self.call.end("failed", str(problem), problem.reason or problem.status)
        if self.response.content_type == "text/event-stream" and not self.call.head:
            kind = b"event: error\n" if is_anthropic(self.request.path) else b""
            with contextlib.suppress(OSError, aiohttp.ClientError):
                await self.response.write(kind + b"data: " + encoded(problem.body(self.request.path)) + b"\n\n")
                await self.response.write_eof()
        elif self.request.transport is not None:  # the client is to see that the answer is not complete
            self.request.transport.abort()
        return self.response

    async def signs_of_life(self) -> None:
        """Send comments now and then, for as long as the client is there; where it has left, run() is cancelled."""
        with contextlib.suppress(OSError, aiohttp.ClientError):
            while True:
                await asyncio.sleep(COMMENT_AFTER)
                response = self.response or await self.begin(200, [("Content-Type", "text/event-stream")])
                instance = self.dash.pool.instances.get(self.call.unit or "")
                loaded = instance.output.progress if instance else None
                state = "waiting" if loaded is None else f"loading {loaded * 100:.0f} %"
                state = "processing the prompt" if self.call.status == "running" else state
                await response.write(f": {state}\n\n".encode())

    async def begin(self, status: int, headers: list[tuple[str, str]]) -> web.StreamResponse:
        """Send the status and the headers to the client."""
        response = self.response = web.StreamResponse(status=status)
        response.headers.extend(headers)
        if response.headers.get("Content-Type", "").startswith("text/event-stream"):
            response.headers.update({"X-Accel-Buffering": "no", "Cache-Control": "no-cache"})
        add_cors_headers(self.request, response)
        await response.prepare(self.request)
        return response

    async def stream(self, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        """Pass the answer on, piece by piece as it comes."""
        call, response = self.call, self.response
        if response is not None and answer.status >= 400:
            raise GatewayError(answer.status, error_text(await body_of(answer, KEPT_TAIL), answer.status))
        if response is None:
            length = [(name, value) for name, value in answer.headers.items() if name.lower() == "content-length"]
            response = await self.begin(answer.status, [*passed_headers(answer.headers), *length])
        async for block in answer.content.iter_any():
            call.feed(block)
            call.writing = time.monotonic()
            await response.write(block)  # returns when there is room for more
            call.writing = None
        if answer.status >= 400:
            call.end("failed", error_text(call.tail, answer.status), answer.status)
        call.writing = time.monotonic()
        await response.write_eof()
        return response


def gateway_error(problem: Exception) -> GatewayError:
    """What a client is told of a failure here, or of the connection to the model."""
    if isinstance(problem, GatewayError):
        return problem
    if isinstance(problem, aiohttp.ClientError | OSError):
        text = f"The connection to the model was lost: {problem}".removesuffix(": ")
        return GatewayError(502, f"{text}.", code="connection_lost")
    if not isinstance(problem, DashError):
        return GatewayError(500, "llamadash has failed; its log says how.")
    code = problem.details.get("reason") or problem.code.lower()
    wait = {"crowded": 10, "waited": 60}.get(code)
    return GatewayError(404 if isinstance(problem, NotFound) else 503, str(problem), code=code, retry_after=wait)


def add_cors_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Let the page that asks read the answer, which is an error where its site may not ask."""
    if "Origin" in request.headers and not response.prepared:
        response.headers.extend({"Access-Control-Allow-Origin": request.headers["Origin"], "Vary": "Origin",
                                 "Access-Control-Expose-Headers": "*"})


def passed_headers(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """The headers that go on to the other side."""
    return [(name, value) for name, value in headers.items()
            if (lower := name.lower()) not in OWN_HEADERS and not lower.startswith("access-control-")]


# the listener

class Gateway:
    """The address for the models' API: opens and closes it, and is what the dashboard knows of the engine."""

    def __init__(self, dash: Dash) -> None:
        self.dash = dash
        self.status = "stopped"  # | running | stopping
        self.url: str | None = None
        self.base_url: str | None = None  # by which other machines reach it
        self.started_at: float | None = None
        self.warnings: dict[str, str] = {}
        self.published: Json = {}
        self.applied: Json = {}  # the configuration that the port was opened with
        self.server: asyncio.Server | None = None
        self.closing = contextlib.AsyncExitStack()  # what ends with it
        self.keys = Keys(dash)
        self.routing = Routing(dash, self.keys)
        self.switching = asyncio.Lock()
        self.id = secrets.token_hex(6)  # by which a request that has come round in a circle is recognised

    async def start(self) -> None:
        """Listen for clients, let models be loaded, and load those that are pinned."""
        async with self.switching:
            if self.status == "running" and not self.missing:
                return
            await self.dash.builds.refresh()
            if self.server is None:
                await self.listen()
            self.status, self.started_at = "running", time.monotonic()
            await self.dash.pool.start()
            self.dash.pool.changed.set()
        if self.missing:
            raise EngineUnavailable(NO_ENGINE)

    @property
    def missing(self) -> bool:
        """Whether there is neither an engine nor a server elsewhere."""
        return not self.dash.upstreams.all and self.dash.builds.default(self.dash.engine_config) is None

    async def listen(self) -> None:
        """Open the port, or another one where it is taken, which is said."""
        config = self.dash.engine_config
        host, port = bare_host(config["api_host"]) or config["api_host"], int(config["api_port"])
        total = min(API_CONNECTIONS, self.dash.web.limits.total / 4)  # each may need two descriptors
        limits = ConnectionLimits(self.dash.hub.refused, API_CONNECTIONS // 2, self.dash.config.trusted_proxies, total)
        async with contextlib.AsyncExitStack() as stack:
            self.keys.exposed = True  # until it is known what `host` stands for
            serve = functools.partial(listen, stack, self.routing.handle, limits, host, option="--api-port", grace=1.0,
                                      auto_decompress=False, max_line_size=16384, lingering_time=10.0)
            try:
                server, taken = await serve(port), None
            except DashError as problem:
                if problem.details["exit_code"] != EXIT_PORT:
                    self.warn("port", f"The API's port cannot be opened: {problem}.")
                    raise EngineUnavailable(self.warnings["port"]) from None
                server, taken = await serve(0), str(problem)
            addresses = [listener.getsockname()[0] for listener in server.sockets]
            await asyncio.to_thread(self.keys.set_exposed, not all(map(is_loopback, addresses)))
            self.server, self.closing = server, stack.pop_all()
        self.warn("port", taken and f"The API is at port {limits.port}, for {taken}.")
        local = EVERY_ADDRESS.get(addresses[0], host)
        local = f"[{local}]" if ":" in local else local
        self.url = f"http://{local}:{limits.port}"
        local = lan_address(self.dash.web.name) if addresses[0] in EVERY_ADDRESS else local
        self.base_url = f"http://{local}:{limits.port}/v1"
        self.applied = {key: config[key] for key in ("api_host", "api_port")}
        log.info("the API is at %s/v1", self.url)

    async def stop(self, *, restore: bool = False) -> None:
        """End every request and every model, and close the port."""
        async with self.switching:
            if self.status in ("stopped", "stopping"):
                return
            self.status = "stopping"
            self.dash.pool.changed.set()
            for call in list(self.dash.requests.active.values()):
                self.dash.requests.cancel(call, "llamadash stopped.")
            await self.dash.pool.stop("stopped", restore=restore)
            await self.closing.aclose()
            self.server = self.url = self.base_url = self.started_at = None
            self.applied = {}
            self.status = "stopped"
            self.dash.pool.changed.set()

    async def restart(self) -> None:
        """Stop and start with the present configuration; loaded models are loaded again."""
        await self.stop(restore=True)
        await self.start()

    async def close(self) -> None:
        """Stop, and close every connection; a start that is under way comes to nothing."""
        holding = ("opening the API", "engine:start", "engine:restart")  # what may hold up a stop
        await cancelled(task for task in self.dash.tasks if task.get_name() in holding)
        await self.stop()
        await self.keys.save_used()
        await self.dash.requests.publish()
        await self.dash.publish_events()
        await self.dash.pool.session.close()

    @contextlib.asynccontextmanager
    async def asked(self, call: Call, body: Json) -> AsyncIterator[AsyncIterator[Json]]:
        """The events of a model's answer to llamadash itself, listed and counted; EngineUnavailable, EngineFailed."""
        call.model = await self.routing.target(call.model)
        asking = ModelRequest(self.dash, call, "POST", call.endpoint, JSON_BODY, scanned_json(bytearray(encoded(body))))
        try:
            async with contextlib.AsyncExitStack() as stack:
                stack.enter_context(self.dash.requests.account(call))
                answer = await asking.ask(stack)
                if answer.status != 200:
                    raise EngineFailed(error_text(await body_of(answer, KEPT_TAIL), answer.status))
                yield answer_objects(answer, call)
        except (aiohttp.ClientError, OSError):
            raise EngineUnavailable("The engine ended while it answered.") from None

    def warn(self, about: str, message: str | None) -> None:
        """Set the warning on a subject, or clear it; a new one is logged."""
        before = self.warnings.pop(about, None)
        if message:
            self.warnings[about] = message
            if message != before:
                log.warning("%s", message)

    def snapshot(self) -> Json:
        """The engine's record, as clients see it."""
        config = self.dash.engine_config
        build = self.dash.builds.default(config)
        missing = self.status == "running" and self.missing
        shown = build and {key: getattr(build, key) for key in ("id", "kind", "version", "path")}
        return {"status": "missing" if missing else self.status, "build": shown,
                "error": NO_ENGINE if missing else build and build.problem, "hint": ENGINE_HINT if missing else None,
                "installation": self.dash.installer.embedded, "warnings": list(self.warnings.values()),
                "unused_gpu": self.dash.builds.unused_gpu(self.dash.sampler.gpus.values()), "url": self.url,
                "base_url": self.base_url, "uptime": self.started_at and round(time.monotonic() - self.started_at),
                "models_max": config["models_max"], "api_key_required": self.keys.required(),
                "waiting": len(self.dash.requests.waiting), "devices": self.dash.pool.memory.devices(
                    build, *(instance.build for instance in self.dash.pool.instances.values())),
                "upstreams": self.dash.upstreams.as_json()}

    async def publish(self) -> None:
        """Broadcast the requests and the engine's record, where they have changed."""
        await self.dash.requests.publish()
        engine = self.snapshot()
        compared = {**engine, "uptime": None, "devices": [
            {**item, "unused": None, "free": item["free"] >> 28} for item in engine["devices"]]}
        if compared != self.published:
            self.published = compared
            await self.dash.broadcast("engine:status", {"engine": engine})


class Routing:
    """What becomes of each request to the API: who asks, for which model, and what it is."""

    def __init__(self, dash: Dash, keys: Keys) -> None:
        self.dash, self.keys = dash, keys
        self.listing = asyncio.Lock()
        self.scans = asyncio.Semaphore(2)  # threads that look through bodies: more of them hold up the loop
        self.bodies = weakref.WeakValueDictionary[int, BodyBytes]()  # all that are in memory

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request; whatever goes wrong has the error shape of the client's own API."""
        LimitedProtocol.expect(request, min(request.content_length or BODY_START, MAX_BODY))
        request = below_base(request, self.dash.config.base_paths)
        try:
            response = await self.routed(request)
        except Exception as problem:
            if not isinstance(problem, DashError):
                log.exception("a request for %s failed", request.path[:100])
            told = gateway_error(problem.with_traceback(None))  # its frames would keep the body in memory
            response = web.json_response(told.body(request.path), status=told.status, headers=told.headers)
        if request.content.is_eof():
            LimitedProtocol.expect(request)
        else:
            response.force_close()  # what is left of the body is no request
        add_cors_headers(request, response)
        return response

    async def routed(self, request: web.BaseRequest) -> web.StreamResponse:
        """Check who asks, and find out what for."""
        if problem := self.dash.web.host_problem(request):
            raise GatewayError(421, self.dash.hub.explain("foreign hosts", problem))
        looks = request.method in LOOKS
        if looks and request.path in ("/health", "/v1/health"):
            return web.json_response({"status": "ok"})
        key = self.keys.admitted(request)
        if request.method == "OPTIONS":  # a browser asks whether a page may ask as it wants to
            wanted = re.sub(r"[^A-Za-z0-9_, -]", "", request.headers.get("Access-Control-Request-Headers", ""))
            return web.Response(status=204, headers={
                "Access-Control-Max-Age": "600", "Access-Control-Allow-Headers": wanted,
                "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS"})
        if looks and (match := re.fullmatch(r"(?:/v1)?/models(?:/(.{1,256}))?", request.path)):
            self.keys.spend(key)
            self.dash.upstreams.via(*request.headers.getall("Via", []))  # an upstream that is ourselves lists nothing
            listed = await encoded_by_parts(await self.listed(match[1], key["models"]))
            return web.Response(body=listed, content_type="application/json")
        path, named = split_upstream_path(request)
        if named is None and request.method != "POST" and not looks:
            raise GatewayError(400, "There is nothing here for this method.")
        return await self.passed_on(request, key, path, named)

    async def passed_on(self, request: web.BaseRequest, key: Json, path: str, named: Any) -> web.StreamResponse:
        """Pass a request on to the model that its path, its body or its query names."""
        content, queried = None, named or request.query.get("model")
        address = client_address(request, self.dash.config.trusted_proxies)
        agent = request.headers.get("User-Agent", "").split(" ")[0]
        client = key["name"] or clean_text(f"{address} {agent}".strip())[:120]
        call = Call(0, str(queried or "")[:MAX_MODEL_NAME], client,
                    clean_text(path.partition("?")[0][:200]), key=key["name"], key_id=key["id"],
                    owner=key["name"] or counted_address(address))
        try:
            self.keys.spend(key)
            if request.method not in LOOKS:
                content = await self.read_body(request, queried is not None)
                named, call.stream = named or content.value("model"), content.value("stream") is True
                call.model = str(named or queried or "")[:MAX_MODEL_NAME]
            call.model = await self.target(named or queried, key["models"])
        except GatewayError as problem:
            if request.method not in LOOKS:
                self.dash.requests.refuse(call, problem)
            raise
        exchange = Exchange(self.dash, call, request.method, path, passed_headers(request.headers), content, request)
        with contextlib.nullcontext() if content is None else self.dash.requests.account(call):
            del content  # the exchange drops it as soon as it can
            return await exchange.run()

    async def target(self, named: Any, allowed: list[str] | None = None) -> str:
        """The entry or the upstream's NAME/MODEL that a client means, of those its key allows; else GatewayError."""
        if named is not None and not (isinstance(named, str) and len(named) <= MAX_MODEL_NAME and named.isprintable()):
            raise GatewayError(400, "model must be the name of a model.", code="invalid_model")
        if named:
            found = self.dash.entry_of(named) or (named if self.dash.upstreams.find(named) else None)
        else:
            loaded = [unit.name for unit in self.dash.pool.residency.units.values() if unit.status == "loaded"]
            found = loaded[0] if len(loaded) == 1 else self.dash.entry_of(self.dash.engine_config["default_model"])
        if found and (allowed is None or found in allowed):
            return found
        known = {*self.dash.pool.entries.names.values(), *(item["id"] for item in self.dash.upstreams.listed())}
        names = sorted(known if allowed is None else allowed)[:2000]
        if not named:
            raise GatewayError(400, f"Name a model: {', '.join(names[:50]) or 'there is none yet'}.",
                               code="model_missing")
        if found:
            raise GatewayError(403, f"This key may not use {named}.", code="model_not_allowed")
        import difflib  # not at the top: seldom needed
        close = await asyncio.to_thread(difflib.get_close_matches, named, names, 1, 0.3)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise GatewayError(404, f"There is no model {named}.{hint}", code="model_not_found")

    async def listed(self, named: str | None, allowed: list[str] | None) -> Json:
        """The answer to /v1/models, or to /v1/models/NAME."""
        name = await self.target(named, allowed) if named else None
        async with self.listing:
            models = await in_turns(self.listed_entry, [row for row in self.dash.db.models()
                                                        if row["id"] == name or not (name or row["missing"])])
        models += [item for item in self.dash.upstreams.listed() if name in (None, item["id"])]
        models = [item for item in models if allowed is None or item["id"] in allowed]
        if name and not models:
            raise GatewayError(404, f"There is no model {name}.", code="model_not_found")
        return models[0] if name else {
            "object": "list", "data": models, "has_more": False, "first_id": models[0]["id"] if models else None,
            "last_id": models[-1]["id"] if models else None}

    def listed_entry(self, row: Json) -> Json:
        """One entry in OpenAI's form, with llama-server's own fields, and those of Anthropic's."""
        state = self.dash.pool.entries.state(row)
        value = {"waiting": "loading", "loading": "loading", "loaded": "loaded"}.get(state["status"], "unloaded")
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row["created_at"] / 1000))
        return {"id": row["id"], "object": "model", "created": row["created_at"] // 1000, "owned_by": "llamadash",
                "type": "model", "display_name": row["name"], "created_at": created, "aliases": row["aliases"],
                "tags": row["tags"], "status": {"value": value, **({"failed": True} if state["error"] else {}),
                                                **({"progress": state["progress"]} if state["progress"] else {})},
                "architecture": {"input_modalities": row["modalities"] or ["text"], "output_modalities": ["text"]},
                "meta": {"n_ctx": state["runtime"].get("n_ctx"), "n_ctx_train": row["context_length"],
                         "n_params": row["parameter_count"], "size": row["file_size"],
                         "n_embd": row["embedding_length"], "n_vocab": row["vocabulary_size"]}}

    async def read_body(self, request: web.BaseRequest, named: bool) -> Body:
        """The whole body, and what must be known of it."""
        data, ends, announced = BodyBytes(), time.monotonic() + BODY_TIME, request.content_length or 0
        self.bodies[id(data)] = data
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport and announced <= MAX_BODY:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            while True:
                if max(announced, len(data)) > MAX_BODY:
                    raise GatewayError(413, f"Requests are limited to {MAX_BODY // 2**20} MB.")
                if sum(map(len, self.bodies.values())) > MAX_BODIES:
                    raise GatewayError(503, "Too many large requests are waiting.", code="crowded", retry_after=5)
                if request.content.at_eof():
                    break
                block = request.content.read_nowait() or await asyncio.wait_for(  # most are here, and it takes turns
                    request.content.readany(), min(BODY_SILENCE, ends - time.monotonic()))
                LimitedProtocol.expect(request, CHUNK_SHARE * len(block), again=True)
                data += block
        except asyncio.TimeoutError:
            raise GatewayError(408, "The rest of the request did not come.") from None
        except (OSError, aiohttp.ClientError, web.RequestPayloadError, ValueError) as problem:
            raise GatewayError(400, "The request is malformed.") from problem
        try:
            return await self.scanned(request, data)
        except GatewayError:
            if named:  # whatever it is, it is for that model
                return Body(data)
            raise

    async def scanned(self, request: web.BaseRequest, data: bytearray) -> Body:
        """What must be known of a body; large ones are looked through in a thread."""
        if not data or request.content_type.startswith("audio/") or "Content-Encoding" in request.headers:
            return Body(data)
        scan: Callable[[bytearray], Body] = scanned_json
        if request.content_type.startswith("multipart/"):
            found = re.search(r'boundary="?([^";, ]{1,200})', request.headers["Content-Type"])
            scan = functools.partial(scanned_form, boundary=found[1] if found else "?")
        if len(data) <= PARSED_AT_ONCE and sum(map(data.count, b'"{[')) <= MANY_MARKS:
            return scan(data)
        async with self.scans:
            return await asyncio.to_thread(scan, data)


def split_upstream_path(request: web.BaseRequest) -> tuple[str, str | None]:
    """The path for the model's server with its query, and the model that /upstream/MODEL/… names."""
    raw, mark, query = request.raw_path.partition("?")
    if is_hostile_path(raw.replace("%2F", "/").replace("%2f", "/")):
        raise GatewayError(400, "This path leads nowhere.")
    if not raw.startswith("/upstream/"):
        return raw + mark + query, None
    name, _, rest = raw.removeprefix("/upstream/").partition("/")
    return f"/{rest}{mark}{query}", urllib.parse.unquote(name) or "?"


class Keys:
    """The API keys: who may ask the gateway, for which models and how often."""

    def __init__(self, dash: Dash) -> None:
        self.dash = dash
        self.given: set[bytes] = set()  # hashes of those in the environment
        self.any = False  # whether there is any valid key
        self.spent: dict[int, deque[float]] = {}
        self.used: dict[int, int] = {}
        self.failures = Failures()
        self.exposed = False  # whether others than this machine can reach the port
        self.load()

    def load(self) -> None:
        """Look again whether there are keys, after they were changed."""
        self.given = {token_hash(text) for text in given_api_keys()}
        self.any = bool(self.given) or any(not row["revoked_at"] for row in self.dash.db.api_keys())

    def required(self) -> bool:
        """Whether a request needs a key: it does where there is one, or where others can reach the port."""
        return self.any or self.exposed

    def set_exposed(self, exposed: bool) -> None:
        """Make a key where the port can be reached by others and there is none; its text lies in the data folder."""
        self.exposed = exposed
        if not exposed:
            return
        file = self.dash.config.data_dir / "engine-key"
        if (text := file_text(file)) and not self.dash.db.api_keys("hash = ?", (token_hash(text),)):
            self.add("engine-key", text)  # of version 1
        if not self.any:
            text = f"sk-{secrets.token_urlsafe(KEY_BYTES)}"
            write_privately(file, f"{text}\n")
            self.add("engine-key", text)
            log.warning("the API can be reached by others, so it needs a key: one was made, in %s", file)

    def add(self, name: str, text: str, *limits: Any) -> Json:
        """Save a key: its record with its text, which nobody can read again; people know it by its first characters."""
        row = self.dash.db.add_api_key(name, token_hash(text), text[:10], *limits)
        self.load()
        return {**row, "text": text}

    def admitted(self, request: web.BaseRequest) -> Json:
        """The key that a request comes with, NO_KEY where it needs none; GatewayError where it may not ask."""
        asks_first = request.method == "OPTIONS"  # a browser asks without the key whether it may send one
        key = None if asks_first else self.valid_key(request)
        if key is None and not (asks_first and self.any) and (problem := self.dash.web.origin_problem(request)):
            raise GatewayError(403, self.dash.hub.explain("foreign origins", f"{problem} So does an API key."))
        if key is None:
            return NO_KEY
        self.used[key["id"]] = now_ms()
        return key

    def spend(self, key: Json) -> None:
        """Count one request of a key; GatewayError where it has made as many in a minute as it may."""
        if limit := key["requests_per_minute"]:
            now, spent = time.monotonic(), self.spent.setdefault(key["id"], deque(maxlen=limit))
            if len(spent) == limit and (wait := math.ceil(60 - (now - spent[0]))) > 0:
                allowed = f"{limit} request{'s' if limit > 1 else ''}"
                raise GatewayError(429, f"This key allows {allowed} a minute.", retry_after=wait)
            spent.append(now)

    def valid_key(self, request: web.BaseRequest) -> Json | None:
        """The valid key of a request; GatewayError where it needs one and has none. Who guesses has to wait."""
        authorization = request.headers.get("Authorization", "")
        text = request.headers.get("x-api-key") or (authorization[7:] if authorization[:7].lower() == "bearer " else "")
        text, key = text.strip(), None
        if text and encodable(text):
            hashed = token_hash(text)
            key = ENVIRONMENT_KEY if hashed in self.given else self.dash.db.find_api_key(hashed)
        proxies = self.dash.config.trusted_proxies  # by which somebody may come from elsewhere
        needed = self.required() or (proxies and not is_loopback(client_address(request, proxies)))
        if not needed or (key and len(text) >= STRONG_KEY):
            return key
        if not text:
            raise GatewayError(401, "This API needs a key: make one in llamadash under Settings.",
                               code="missing_api_key")
        address = counted_address(client_address(request, proxies))
        if wait := self.failures.wait(address):
            raise GatewayError(429, f"Too many wrong keys: try again in {wait} seconds.", retry_after=wait)
        if key is None:
            self.failures.count(address)
            raise GatewayError(401, "This API key is not valid.", code="invalid_api_key")
        return key

    async def save_used(self) -> None:
        """Save when each key was last used."""
        if self.used:
            used, self.used = self.used, {}
            await self.dash.chore("last use of API keys", self.dash.db.touch_api_keys, used)


def given_api_keys() -> list[str]:
    """The API keys that the environment holds, as ours or under the engine's own name."""
    given = os.environ.get("LLAMADASH_ENGINE_API_KEY") or os.environ.get("LLAMA_API_KEY") or ""
    return [key.strip() for key in given.split(",") if key.strip()]


# handlers

@on("engine:status", error="GET_ENGINE_FAILED")
async def engine_status(dash: Dash) -> Json:
    """The engine's record."""
    return {"engine": dash.gateway.snapshot()}


def engine_handler(verb: str, work: Callable[[Gateway], Awaitable[None]]) -> None:
    """Let clients ask for `work` on the gateway, as the event engine:`verb`; it answers when that is done."""
    async def handler(dash: Dash) -> Json:
        await work(dash.gateway)
        return {"engine": dash.gateway.snapshot()}
    on(f"engine:{verb}", error=f"{verb.upper()}_ENGINE_FAILED")(handler)


engine_handler("start", Gateway.start)
engine_handler("stop", Gateway.stop)
engine_handler("restart", Gateway.restart)


@on("requests:list", error="LIST_REQUESTS_FAILED")
async def requests_list(dash: Dash, *, model: str | None = None, key: str | None = None,
                        status: Literal["ok", "cancelled", "failed"] | None = None, from_: Timestamp | None = None,
                        to: Timestamp | None = None, sort: RequestSort = "timestamp", before: int | None = None,
                        limit: Annotated[int, Range(1, 500)] = 50) -> Json:
    """Finished requests that match, sorted, the sums over all that match, and those that are under way."""
    wanted: Json = {"model": model, "key": key, "status": status, "from_ms": from_, "to_ms": to}
    await dash.requests.publish()
    rows = await asyncio.to_thread(dash.db.requests, **wanted, sort=sort, before=before, limit=limit)
    summary = await asyncio.to_thread(dash.db.request_summary, **wanted)
    return {"requests": rows, "summary": summary, "active": dash.requests.under_way()}


@on("requests:cancel", error="CANCEL_REQUEST_FAILED")
async def requests_cancel(dash: Dash, *, id: int) -> Json:
    """End a request that is under way."""
    if (call := dash.requests.active.get(id)) is None:
        raise NotFound("This request is over.", field="id")
    dash.requests.cancel(call, "Stopped in llamadash.")
    return {"id": id}


@on("queue:get", error="GET_QUEUE_FAILED")
async def queue_get(dash: Dash) -> Json:
    """Who waits for which model, since when and why."""
    return {"waiting": dash.requests.queue()}


@on("captures:start", error="START_CAPTURE_FAILED")
async def captures_start(dash: Dash, *, id: str, hours: Annotated[int, Range(1, CAPTURE_HOURS)] = 1) -> Json:
    """Keep what clients send to a model and get from it, for some hours."""
    if not dash.upstreams.find(id):
        dash.db.get_model(id)
    return await dash.captures.change(id, now_ms() + hours * 3_600_000)


@on("captures:stop", error="STOP_CAPTURE_FAILED")
async def captures_stop(dash: Dash, *, id: str) -> Json:
    """Capture no further requests of a model; what was captured stays."""
    return await dash.captures.change(id, 0)


@on("captures:list", error="LIST_CAPTURES_FAILED")
async def captures_list(dash: Dash, *, limit: Annotated[int, Range(1, CAPTURES_KEPT)] = 100) -> Json:
    """The newest captures, with how long their texts are."""
    return {"captures": await asyncio.to_thread(dash.db.captures, limit)}


@on("captures:get", error="GET_CAPTURE_FAILED", cost=5)
async def captures_get(dash: Dash, *, id: Timestamp, part: Literal["request", "answer", "prompt", "head"]) -> Json:
    """One text of a capture."""
    rows = await asyncio.to_thread(dash.db.read, f"SELECT {part} FROM captures WHERE id = ?", (id,))
    if not rows:
        raise NotFound("This request was not captured.", field="id")
    return {"text": rows[0][0]}


@on("usage:get", error="GET_USAGE_FAILED")
async def usage_get(dash: Dash, *, from_: Timestamp, to: Timestamp,
                    by: Literal["model", "key", "day", "build", "parameters"]) -> Json:
    """Requests, tokens, speeds, energy and cost, by one of USAGE_GROUPS, and in all; and what is in memory."""
    await dash.requests.publish()
    rows, total = await asyncio.to_thread(dash.db.usage, from_, to, by)
    price = dash.settings["energy_price"]
    for row in (*rows, total):
        spent = [joules for joules in (row["energy"], row["idle_energy"]) if joules is not None]
        row["cost"] = sum(spent) / 3.6e6 * price if spent and price is not None else None
    return {"rows": rows, "total": total, "resident": dash.energy.residencies(), "meters": sorted(dash.energy.meters)}


@on("keys:list", error="LIST_KEYS_FAILED")
async def keys_list(dash: Dash) -> Json:
    """The API keys, without their texts, and whether one is needed."""
    return {"keys": dash.db.api_keys(), "required": dash.gateway.keys.required()}


@on("keys:create", error="CREATE_KEY_FAILED", cost=5)
async def keys_create(dash: Dash, *, name: Annotated[str, Length(1, 100)],
                      models: Annotated[list[str], Length(1, 1000)] | None = None,
                      requestsPerMinute: Annotated[int, Range(1, 100_000)] | None = None) -> Json:  # noqa: N803
    """Make an API key; its text is in this answer, and never again."""
    if clean_text(name) != name:
        raise InvalidRequest("name must be one line without blanks around it", field="name")
    if len(rows := dash.db.api_keys()) >= MAX_KEYS:
        raise Conflict(f"There can be {MAX_KEYS} keys.")
    if any(row["name"] == name and not row["revoked_at"] for row in rows):
        raise Conflict(f"There is a key named {name} already.", field="name")
    key = dash.gateway.keys.add(name, f"sk-{secrets.token_urlsafe(KEY_BYTES)}", models, requestsPerMinute)
    dash.event("key", reason=f"{name} was created")
    await dash.broadcast("keys:updated", {"keys": dash.db.api_keys()})
    return {"key": key}


@on("keys:revoke", error="REVOKE_KEY_FAILED", cost=5)
async def keys_revoke(dash: Dash, *, id: int) -> Json:
    """End an API key; the requests that came with it end as well."""
    key = dash.db.revoke_api_key(id)
    dash.gateway.keys.load()
    for call in list(dash.requests.active.values()):
        if call.key_id == id:
            dash.requests.cancel(call, "The key was revoked.", status="failed", code="key_revoked")
    dash.event("key", reason=f"{key['name']} was revoked")
    await dash.broadcast("keys:updated", {"keys": dash.db.api_keys()})
    return {"key": key}


# -- Upstreams -----------------------------------------------------------------------------------
#
# Servers elsewhere whose models are offered here as NAME/MODEL: another llamadash, a llama-server, any OpenAI API.

UPSTREAM_REFRESH = (15.0, 120.0)  # s between two looks at an upstream's models; at most where it does not answer
UPSTREAM_TIMEOUT = 10.0  # s for its list of models
UPSTREAM_SILENCE = 900.0  # s without a byte of an answer: it may have to load the model
MAX_UPSTREAM_MODELS, MAX_UPSTREAM_LIST = 1000, 2**21  # and bytes of an answer that lists them
UPSTREAM_NAME = r"[A-Za-z0-9._-]{1,64}"
ADDRESS = (r"(?i)(?:(https?|wss?|tcp)(?::/*|//)|//)?((?:[^/?#@\s]+@)?(?:[a-z0-9._-]+|\[[0-9a-f:.%]+\])(?::[0-9]{1,5})?"
           r"(?:/[^?#]*)?)(?:[?#].*)?")
# An address, where a program may be meant as well
SERVER_ADDRESS = (r"(?i)[a-z]{2,5}:/|//|(?:localhost|\[[0-9a-f:.%]+\]|[0-9.]{7,15})(?:[:/]|$)"
                  r"|(?:[^/?#@\s]+@)?[a-z0-9._-]+:[0-9]{1,5}(?:/|$)|https?//|[a-z0-9-]+(?:\.[a-z0-9-]+)+/v1(?:/|$)")
# What people copy along with an address: the paths of OpenAI's API, of ollama's, of pages and of llama-server itself
ADDRESS_TAIL = (r"(?i)/+(?:v1(?:/.*)?|(?:chat/)?completions?|models|health|props|slots|metrics|ui(?:/.*)?|running"
                r"|logs(?:/.*)?|upstream(?:/.*)?|unload|rerank|infill|tokenize|index\.html"
                r"|api/(?:v0(?:/.*)?|chat|generate|tags|version|ps|show|embed\w*))?/*$|(?<=:11434)/api/*$")
# Programs that tell which models they have in memory: where, under which key, and by which name and state
UPSTREAM_KINDS = {"llama-swap": ("/running", "running", "model", "state"), "ollama": ("/api/ps", "models", "name", ""),
                  "LM Studio": ("/api/v0/models", "data", "id", "state")}
UPSTREAM_STATES = {"": "loaded", "ready": "loaded", "starting": "loading", "not-loaded": "unloaded"}


class Upstream:
    """One server elsewhere, and the models that it says it has."""

    def __init__(self, name: str, url: str) -> None:
        self.name, self.url = name, upstream_url(url)
        self.kind: str | None = None  # the program that it is, where it tells
        self.variable = f"LLAMADASH_UPSTREAM_{re.sub('[^A-Za-z0-9]', '_', name).upper()}_KEY"
        key = os.environ.get(self.variable, "").strip()
        self.headers = [("Authorization", f"Bearer {key}")] if key else []  # that it wants of every request
        self.status = "unreachable"
        self.error: str | None = None
        self.models: dict[str, Json] = {}  # their {status, modalities}, where it tells
        self.pause = UPSTREAM_REFRESH[0]
        self.due = -math.inf

    def options(self, **timeouts: float) -> Json:
        """What a request to it needs that one to an engine does not."""
        return {"timeout": aiohttp.ClientTimeout(**timeouts), "max_field_size": 16384,
                "ssl": trusted_certificates() if self.url.startswith("https:") else True}

    def took(self, document: Any, states: Mapping[str, str] | None = None) -> None:
        """Take over its list of models; `states` are of those in memory, where it tells by a list of its own."""
        models: dict[str, Json] = {}
        for item in upstream_items(document, "data"):
            name = item.get("id")
            if isinstance(name, str) and 0 < len(name) <= MAX_MODEL_NAME and clean_text(name) == name \
                    and "upstream" not in item:  # one that it only passes on: two may name each other
                status, kinds = (item[key] if isinstance(item.get(key), dict) else {}
                                 for key in ("status", "architecture"))
                value = status.get("value", states and states.get(name, "unloaded"))
                takes = [kind for kind in ("text", "image", "audio") if kind in str(kinds.get("input_modalities"))]
                models[name] = {"status": value[:32] if isinstance(value, str) else None, "modalities": takes or None}
        self.models, self.status, self.error, self.pause = models, "connected", None, UPSTREAM_REFRESH[0]

    async def look(self, session: aiohttp.ClientSession, *headers: tuple[str, str]) -> None:
        """Ask it for its models; its `error` says what kept it from telling them."""
        status, wait, get = 0, 0.0, functools.partial(self.get, session, headers)
        try:
            status, body, wait = await get("/v1/models")
            if status in (401, 403):
                raise EngineUnavailable(f"It wants a key: set the variable {self.variable}.")
            states = await self.states(get)
            if status != 200 and self.kind:
                raise EngineUnavailable(f"This is {self.kind}, and it has no OpenAI API: update it.")
            if status != 200:
                asks = f" It asks to wait {math.ceil(wait)} s." if wait else ""
                raise EngineUnavailable(error_text(body, status) + asks)
            if body.lstrip().startswith(b"<"):
                raise EngineUnavailable("It answers with a web page: this is not the address of its API.")
            self.took(await json_in_thread(body, at_most(MAX_UPSTREAM_MODELS, "id")), states)
        except (DashError, aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError, RecursionError) as problem:
            told = getattr(problem, "strerror", None) or str(problem)  # the system's words, where it has some
            self.error = shortened(clean_text(told), 300) or "It does not answer."
            if not isinstance(problem, DashError) and not urllib.parse.urlsplit(self.url).port:
                self.error += " Does its address lack the port?"
            # Its models are still listed, for it may be back when one is asked for.
            self.status = "refused" if status in (401, 403) else "unreachable"
            self.pause = min(self.pause * 2, UPSTREAM_REFRESH[1])
        finally:
            self.due = time.monotonic() + max(self.pause, wait)

    async def get(self, session: aiohttp.ClientSession, headers: Iterable[tuple[str, str]], path: str,
                  ) -> tuple[int, bytes, float]:
        """Its answer: the status, the body, and for how long (s) it wants no further request."""
        async with session.get(self.url + path, headers=[*self.headers, *headers], allow_redirects=False,
                               **self.options(total=UPSTREAM_TIMEOUT)) as response:
            if len(body := await body_of(response, MAX_UPSTREAM_LIST)) > MAX_UPSTREAM_LIST:
                raise ValueError("its answer is too long")
            return response.status, body, min(retry_after(response.headers), MAX_RETRY_AFTER)

    async def states(self, get: Callable[[str], Awaitable[tuple[int, bytes, float]]]) -> dict[str, str] | None:
        """The states of its models where it is a program that tells them elsewhere; what it is becomes known so."""
        known = self.status == "connected"
        self.kind = self.kind if known else None
        for kind, (path, key, name, state) in UPSTREAM_KINDS.items():
            if self.kind == kind or not known:
                document = None
                with contextlib.suppress(ValueError, RecursionError):
                    _, body, _ = await get(path)
                    document = await json_in_thread(body, at_most(MAX_UPSTREAM_MODELS, name))
                if (items := upstream_items(document, key)) or document == {key: []}:
                    self.kind = kind
                    told = {str(item.get(name))[:MAX_MODEL_NAME]: str(item.get(state, ""))[:32] for item in items}
                    return {model: UPSTREAM_STATES.get(value, value) for model, value in told.items()}
        return None


def upstream_items(document: Any, key: str) -> list[Json]:
    """The objects in a list of an upstream's answer."""
    listed = document.get(key) if isinstance(document, dict) else None
    return [item for item in listed[:MAX_UPSTREAM_MODELS] if isinstance(item, dict)] if isinstance(listed, list) else []


def upstream_url(text: str) -> str:
    """The address of a server, without the parts that people copy along with it; "" where `text` is none."""
    if not (found := re.fullmatch(ADDRESS, text.strip(" \t\"'<>"))):
        return ""
    scheme = "https" if (found[1] or "").lower() in ("https", "wss") else "http"
    url = f"{scheme}://" + re.sub(ADDRESS_TAIL, "", found[2])
    with contextlib.suppress(ValueError):  # a port or an address that there cannot be
        return url if urllib.parse.urlsplit(url).port != 0 else ""
    return ""


def upstream_named(text: str) -> tuple[str, str] | None:
    """The name and the address that NAME=URL, or an address alone, gives to a server; None where it is neither."""
    name, _, url = text.partition("=")
    if re.fullmatch(UPSTREAM_NAME, name) and upstream_url(url):
        return name, url
    host = urllib.parse.urlsplit(upstream_url(text)).hostname if re.match(SERVER_ADDRESS, text) else None
    return (host.replace(":", "-"), text) if host else None


class Upstreams:
    """All servers elsewhere: looks after their models, and passes requests on to them."""

    def __init__(self, dash: Dash) -> None:
        self.dash = dash
        self.all = {name: Upstream(name, url) for name, url in dash.config.upstreams}

    def find(self, name: str) -> tuple[Upstream, str] | None:
        """What NAME/MODEL means, and is called there; a model that is not listed may have come since the last look."""
        first, _, rest = name.partition("/")
        return (self.all[first], rest) if first in self.all and rest else None

    def listed(self) -> list[Json]:
        """Their models, for /v1/models."""
        return [{"id": f"{item.name}/{model}", "object": "model", "created": 0, "owned_by": item.name, "type": "model",
                 "display_name": f"{item.name}/{model}", "created_at": "1970-01-01T00:00:00Z", "upstream": item.name,
                 "aliases": [], **({"status": {"value": its["status"]}} if its["status"] else {}),
                 **({"architecture": {"input_modalities": its["modalities"]}} if its["modalities"] else {})}
                for item in self.all.values() for model, its in item.models.items()]

    def as_json(self) -> list[Json]:
        """The upstreams as clients see them."""
        return [{"name": item.name, "url": re.sub("//[^/@]*@", "//", item.url), "kind": item.kind,
                 "status": item.status, "error": item.error,
                 "models": [{"id": f"{item.name}/{model}", **its} for model, its in item.models.items()]}
                for item in self.all.values()]

    async def run(self) -> None:
        """Ask each for its models, now and then."""
        await asyncio.to_thread(lambda: any(item.url[:6] == "https:" for item in self.all.values())
                                and trusted_certificates())  # which requests need, and would read themselves
        while True:
            for upstream in self.all.values():
                if time.monotonic() >= upstream.due:
                    upstream.due = math.inf
                    self.dash.spawn(self.refresh(upstream), f"models of {upstream.name}")
            await self.dash.beat.wait()

    async def refresh(self, upstream: Upstream) -> None:
        """Ask one upstream for its models, and tell where that has become another matter."""
        before = upstream.error
        try:
            await upstream.look(self.dash.pool.session, self.via())
        finally:
            self.dash.pool.changed.set()
        if bool(upstream.error) != bool(before):
            self.dash.event("upstream", reason=f"{upstream.name} is back" if before else
                            f"{upstream.name} cannot be used: {upstream.error}")
        if upstream.error and upstream.error != before:
            log.warning("upstream %s: %s", upstream.name, upstream.error)

    def via(self, *before: str) -> tuple[str, str]:
        """The header by which a request is recognised that comes round in a circle; GatewayError where one has."""
        if any(f"llamadash-{self.dash.gateway.id}" in value for value in before):
            raise GatewayError(508, "This request has come round in a circle of upstreams.", code="upstream_loop")
        return "Via", ", ".join([*before, f"1.1 llamadash-{self.dash.gateway.id}"])

    async def ask(self, request: ModelRequest, stack: contextlib.AsyncExitStack) -> aiohttp.ClientResponse:
        """The response of an upstream, which knows the model by another name."""
        name, _, model = request.call.model.partition("/")
        upstream = self.all[name]
        before = [value for name, value in request.headers if name.lower() == "via"]
        headers = [(name, value) for name, value in request.headers if name.lower() not in ("via", "accept-encoding")]
        headers += [self.via(*before), *upstream.headers]
        named = urllib.parse.quote(model, safe="")
        path = re.sub(r"(?<=[?&]model=)[^&#]*", lambda _: named, request.path)
        request.call.status, request.call.admitted_at = "running", time.monotonic()
        return await sent(self.dash.pool.session, request.method, upstream.url + path, headers,
                          request.body and request.body.edited("model", model), stack,
                          **upstream.options(sock_connect=UPSTREAM_TIMEOUT, sock_read=UPSTREAM_SILENCE))


# -- Embedded engine ------------------------------------------------------------------------------

# `llamadash.py embedded-engine` serves one model with xllamacpp, which is llama-server's own code inside Python: it
# takes the options that engine_arguments renders, each with a value, and reports as llama-server's children do.


SAMPLERS = {"d": "dry", "k": "top_k", "y": "typ_p", "p": "top_p", "s": "top_n_sigma", "m": "min_p", "t": "temperature",
            "x": "xtc", "i": "infill", "e": "penalties", "a": "adaptive_p"}
# A parameter, or an option that every model gets, and where CommonParams has it, if not by the same name; the first two
# become others.
EMBEDDED_OPTIONS = {name: prefix + (attribute or name.replace("-", "_")) for prefix, listed in (
    ("", """
        reranking reasoning-effort port warmup load-mode check-tensors image-min-tokens image-max-tokens kv-unified
        cont-batching swa-full numa cache-type-k cache-type-v rope-freq-base rope-freq-scale yarn-orig-ctx
        yarn-ext-factor yarn-attn-factor yarn-beta-slow yarn-beta-fast n-gpu-layers split-mode tensor-split main-gpu
        chat-template prefill-assistant cache-prompt reasoning-format model=model.path alias=model_alias host=hostnames
        timeout=timeout_read metrics=endpoint_metrics slots=endpoint_slots lora=lora_adapters pooling=pooling_type
        embeddings=embedding mmproj=mmproj.path mmproj-auto=no_mmproj mmproj-offload=mmproj_use_gpu ctx-size=n_ctx
        predict=n_predict batch-size=n_batch ubatch-size=n_ubatch keep=n_keep parallel=n_parallel
        context-shift=ctx_shift ctx-checkpoints=n_ctx_checkpoints cache-ram=cache_ram_mib cache-reuse=n_cache_reuse
        rope-scaling=rope_scaling_type rope-scale=rope_freq_scale threads=cpuparams.n_threads
        threads-batch=cpuparams_batch.n_threads prio=cpuparams.priority poll=cpuparams.poll kv-offload=no_kv_offload
        op-offload=no_op_offload repack=no_extra_bufts override-tensor=tensor_buft_overrides flash-attn=flash_attn_type
        fit=fit_params fit-target=fit_params_target fit-ctx=fit_params_min_ctx jinja=use_jinja
        chat-template-kwargs=default_template_kwargs reasoning=enable_reasoning spec-type=speculative.types"""),
    ("sampling.", """
        seed temp top-k top-p min-p xtc-probability xtc-threshold dry-multiplier mirostat
        reasoning-budget=reasoning_budget_tokens sampling-seq=samplers typical-p=typ_p repeat-last-n=penalty_last_n
        repeat-penalty=penalty_repeat presence-penalty=penalty_present frequency-penalty=penalty_freq"""),
    ("speculative.draft.", """
        model-draft=mparams.path spec-draft-n-max=n_max spec-draft-n-min=n_min spec-draft-p-min=p_min
        n-gpu-layers-draft=n_gpu_layers cache-type-k-draft=cache_type_k cache-type-v-draft=cache_type_v"""),
) for name, attribute in re.findall(r"([\w-]+)=?(\S*)", listed)}
MEMBER_NAMES = {"on": "enabled", "off": "disabled", "dio": "direct_io"}  # of enumerations, where they differ
# How the text of an option is read that is not as what its attribute is.
OPTION_READERS: dict[str, Callable[[str], Any]] = {
    "alias": lambda text: set(text.split(",")), "seed": lambda text: int(text) % 2**32,
    "lora": lambda text: [importlib.import_module(EMBEDDED_PACKAGE).CommonAdapterLoraInfo(path, 1.0)
                          for path in text.split(",")],
    "fit-target": lambda text: [int(float(size) * 2**20) for size in text.split(",")],
    "rope-scale": lambda text: 1 / float(text), "reasoning": {"auto": -1, "on": 1, "off": 0}.__getitem__,
    "chat-template-kwargs": lambda text: {key: json.dumps(value) for key, value in json.loads(text).items()},
    "sampling-seq": lambda text: ";".join(SAMPLERS[letter] for letter in text),
}


def option_value(text: str, present: Any) -> Any:
    """`text` as a value of the kind that an attribute is at `present`."""
    kind = type(present)
    if kind is bool:
        return preset_switch(text)
    if kind is list:  # of a fixed length, or with one item
        values = [option_value(item, present[0]) for item in text.split(",")]
        return values + present[len(values):]
    if kind in (int, float, str):
        return kind(text)
    if re.fullmatch(r"-?\d+", text):
        return kind(int(text))
    return kind[re.sub("[-+]", "_", f"{kind.__name__}_{MEMBER_NAMES.get(text, text)}".upper())]


def embedded_parameters(argv: list[str]) -> Any:
    """xllamacpp's CommonParams for options that each have a value; ValueError as llama-server would say it."""
    import xllamacpp
    parameters = xllamacpp.CommonParams()
    parameters.ui = False
    parameters.cors_origins = "http://127.0.0.1"  # no page of a browser is to reach it
    options = {name.removeprefix("--"): text for name, text in zip(argv[::2], argv[1::2], strict=True)}
    own = {key: text for key, text in options.items() if re.fullmatch("chat-template-kwargs|reasoning(-effort)?", key)}
    options.pop("reasoning-effort", None)
    if template := request_values(own, "/v1/messages").get("chat_template_kwargs"):  # where all three are part of it
        options["chat-template-kwargs"] = json.dumps(template)
    if preset_switch(options.pop("reranking", "off")):
        options = {**options, "embeddings": "on", "pooling": "rank"}
    if options.get("parallel", "-1") == "-1":
        options = {"kv-unified": "on", **options, "parallel": str(DEFAULT_SLOTS)}
    for name, text in options.items():
        if name not in EMBEDDED_OPTIONS:
            raise ValueError(f"error: invalid argument: --{name}")
        *owners, attribute = EMBEDDED_OPTIONS[name].split(".")
        owner = functools.reduce(getattr, owners, parameters)
        try:
            read = OPTION_READERS.get(name) or functools.partial(option_value, present=getattr(owner, attribute))
            setattr(owner, attribute, not read(text) if attribute.startswith("no_") else read(text))
        except (ValueError, TypeError, KeyError, OverflowError, AssertionError, AttributeError, OSError) as problem:
            reason = f"unknown value '{text}'" if isinstance(problem, KeyError) else problem
            raise ValueError(f"error while handling argument \"--{name}\": {reason}") from problem
        # A value of the user's own goes before what the model's file recommends.
        flag = f"COMMON_PARAMS_SAMPLING_CONFIG_{attribute.upper()}"
        parameters.sampling.user_sampling_config |= int(getattr(xllamacpp.common_params_sampling_config, flag, 0))
    if keys := os.environ.get("LLAMA_API_KEY"):
        parameters.api_keys = keys.split(",")
    return parameters


def embedded_engine(argv: list[str]) -> int:
    """Serve one model until standard input says so (0), or is closed (1).

    While it loads nothing of ours runs: a signal has to end the process by itself. llama.cpp's own code would end it
    at the end of standard input and leave the server no time: it gets a pipe of ours in its place.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group: llamadash decides
    os.environ.setdefault("LLAMA_SERVER_ROUTER_PORT", "0")  # makes xllamacpp report its states
    try:
        import xllamacpp
        parameters = embedded_parameters(argv)
    except (ImportError, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 1
    commands = os.fdopen(os.dup(0), "rb")
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError as problem:
        print(f"error: failed to load the model: {problem}", file=sys.stderr, flush=True)
        time.sleep(0.3)  # in which the thread that writes llama.cpp's log says why
        os._exit(1)  # threads of the server may still hold its memory
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if not any(line == CHILD_EXIT for line in commands):
        os._exit(1)
    os.write(writing, CHILD_EXIT)
    del server
    return 0


# -- Chats ----------------------------------------------------------------------------------------

MAX_CHATS = 8  # at the same time, of each client, and in all conversations
MAX_CHAT_TEXT = 900_000  # characters of all messages together; a request has at most 1 MB
MAX_TOOLS = 16  # that a model may be told of, and that it may call at once
MAX_UNMETERED = 100  # answers that have ended, whose energy may still come to be known
SAVE_INTERVAL = 2.0  # s; so much of an answer is lost at most where the machine stops
IMAGE = r"data:image/(?:png|jpeg|webp|gif|bmp);base64,(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}(?:==|[A-Za-z0-9+/]=))?"
SENT_FIELDS: dict[str, Any] = {
    "role": Literal["system", "user", "assistant", "tool"], "content": Annotated[str, Length(0, MAX_CHAT_TEXT)],
    "tool_calls": Annotated[list[dict[str, Any]], Length(1, MAX_TOOLS)], "tool_call_id": str}
CHAT_FIELDS: dict[str, Any] = {
    **{name: PARAMETERS[key].type for key, name in REQUEST_PARAMETERS.items()
       if PARAMETERS[key].group == "Sampling" and PARAMETERS[key].kind in ("int", "float")},
    "max_tokens": Annotated[int, Range(1, 16_777_216)], "thinking": bool,
    "stop": Annotated[list[Annotated[str, Length(1, 100)]], Length(0, 8)],
    "tools": Annotated[list[dict[str, Any]], Length(0, MAX_TOOLS)]}


def validated_messages(messages: list[Json]) -> list[Json]:
    """`messages` if each has a known role and a text, or known parts; InvalidRequest names the wrong one."""
    for at, message in enumerate(messages):
        parts = message["content"] if isinstance(message.get("content"), list) else []
        fields = SENT_FIELDS | ({"content": Annotated[list[dict[str, Any]], Length(1, 32)]} if parts else {})
        checked_changes({"role": None, "content": None, **message}, fields, {}, f"messages.{at}")
        for part in parts:  # an address of an image would make the engine fetch it
            image = part.get("image_url", {"url": "data:image/png;base64,"})
            known = part.get("type") in ("text", "image_url", "attachment") and isinstance(image, dict)
            if not known or part.keys() - {"type", "text", "image_url", "hash", "mime"} or not (
                    re.fullmatch(IMAGE, str(image.get("url")))):
                raise InvalidRequest("a part is a text, an image as data:image/…;base64,…, or an attachment",
                                     field=f"messages.{at}.content")
    return messages


def validated_sampling(parameters: Json) -> Json:
    """The parameters of a chat as the engine takes them; InvalidRequest names the one that is not acceptable."""
    given = {key: value for key, value in parameters.items() if value is not None}
    accepted = checked_changes(given, CHAT_FIELDS, {}, "parameters")
    thinking = accepted.pop("thinking", None)
    return accepted if thinking is None else {**accepted, "chat_template_kwargs": {"enable_thinking": thinking}}


@dataclass(eq=False, repr=False)
class Chat:
    """One answer under way, and what has come of it so far."""
    id: str
    client: str  # none in a conversation: there it is everybody's
    call: Call
    message: Json = field(default_factory=dict)  # of the conversation that it is in, as it is saved
    calls: dict[int, Json] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)  # content and reasoning that are not yet sent
    progress: Json = field(default_factory=dict)  # on the way to the first token
    first: float | None = None  # when the first token came
    saved: float = 0.0
    finish_reason: str | None = None
    task: asyncio.Task[Any] | None = None

    def outcome(self) -> Json:
        """What `chat:done` says."""
        row = self.call.row()
        return {"finish_reason": self.finish_reason or "stop", "time_to_first_token": row["first_token"],
                **{name: row[name] for name in ("prompt_tokens", "cached_tokens", "generated_tokens",
                                                "prompt_per_second", "generated_per_second")}}

    def take(self, event: Json) -> None:
        """Take in one piece of the answer."""
        if "error" in event:
            raise EngineFailed(error_text(json.dumps(event).encode(), 500))
        read = event.get("prompt_progress")
        if isinstance(read, dict) and read.get("total"):
            self.progress = {"stage": "prompt", "progress": min(1.0, read.get("processed", 0) / read["total"])}
        for item in event.get("choices") or []:
            self.finish_reason = str(item.get("finish_reason") or self.finish_reason or "")[:64] or None
            delta = item.get("delta") or {}
            for name, kind in (("content", "content"), ("reasoning_content", "reasoning")):
                if text := delta.get(name):
                    self.text[kind] = self.text.get(kind, "") + text  # fails here where it is no text
            for piece in delta.get("tool_calls") or []:
                at, new = int(piece.get("index", 0)), {"name": "", "arguments": ""}
                call = self.calls.setdefault(at, {"id": piece.get("id", str(at)), "type": "function", "function": new})
                for key, made in call["function"].items():
                    call["function"][key] = (made + ((piece.get("function") or {}).get(key) or ""))[:MAX_CHAT_TEXT]
        if sum(len(self.message.get(name, "")) for name in ("content", "reasoning")) + len(self.calls) > MAX_CHAT_TEXT:
            raise EngineFailed("The answer was ended: it is too long to keep.")
        if self.first is None and "content" in self.text:  # newer builds first say what they go on with
            self.text["content"] = self.text["content"].removeprefix(self.message.get("content", ""))
        if self.text or self.calls:
            self.first = self.first or time.monotonic()
            if "content" in self.text and self.message.get("reasoning") and "thinking" not in self.message:
                self.message["thinking"] = round((time.monotonic() - self.first) * 1000)


class Chats:
    """The answers under way. Each ends with the client that asked; those in conversations are saved, and go on."""

    def __init__(self, dash: Dash) -> None:
        self.dash = dash
        self.all: dict[str, Chat] = {}
        self.unmetered: dict[str, tuple[int, str, Json]] = {}  # request, conversation and stats of what has ended
        self.followers: dict[str, str] = {}  # the conversation that a client has open
        self.attachments = Attachments(dash.config.data_dir / "attachments")

    def start(self, client: str, model: str, messages: list[Json], parameters: Json, answer: Json | None = None) -> str:
        """Begin an answer, or go on with the message that `answer` {conversation, id, parent} names; returns its id."""
        body = {**validated_sampling(parameters), "model": model, "messages": validated_messages(messages),
                "stream": True, "timings_per_token": True, "return_progress": True}
        chat = Chat(answer["id"] if answer else secrets.token_urlsafe(12), "" if answer else client,
                    Call(0, model, "llamadash chat", "/v1/chat/completions", stream=True))
        if sum(other.client == chat.client for other in self.all.values()) >= MAX_CHATS:
            raise RateLimited(f"At most {MAX_CHATS} answers at a time. Wait for one, or stop it.")
        if answer:
            known = {item["id"]: item for item in self.conversation(answer["conversation"])["messages"]}
            if chat.id in self.all or answer["parent"] not in known:
                raise Conflict("This is being answered already, or its question is gone.")
            chat.message = {"content": "", **known.get(chat.id, {}), **answer, "role": "assistant", "model": model,
                            "status": "answering", "error": None}
            self.dash.db.save_conversation(answer["conversation"], {"head": chat.id}, [chat.message])
            self.unmetered.pop(chat.id, None)
        self.all[chat.id] = chat
        chat.task = self.dash.spawn(self.run(chat, body), f"chat {chat.id}")
        chat.task.add_done_callback(lambda _: self.all.get(chat.id) is chat and self.all.pop(chat.id))
        return chat.id

    def cancel(self, client: str, chat_id: str, cause: str = "Stopped in the chat.") -> bool:
        """Stop an answer of this client; whether there was one."""
        chat = self.all.get(chat_id)
        if chat is None or chat.client not in ("", client) or chat.task is None:
            return False
        chat.call.cancelled_for = "cancelled", cause, None
        chat.task.cancel()  # closes the connection, which frees the slot
        return True

    def client_gone(self, client: str) -> None:
        """Stop every answer of a client that is no longer there."""
        self.followers.pop(client, None)
        self.attachments.parts.pop(client, None)
        for chat in [chat for chat in self.all.values() if chat.client == client]:
            self.cancel(client, chat.id, "The client left.")

    async def run(self, chat: Chat, body: Json) -> None:
        """One answer, from the request to chat:done or chat:error."""
        error: DashError | None = None
        if chat.message:
            await self.dash.broadcast("conversations:updated", {"id": chat.message["conversation"]})
        teller = asyncio.ensure_future(self.tell(chat))
        try:
            await asyncio.to_thread(self.attachments.fill, body["messages"])
            async with self.dash.gateway.asked(chat.call, body) as events:
                async for event in events:
                    try:
                        chat.take(event)
                    except MALFORMED as problem:
                        raise EngineFailed("The engine's answer is not understood.") from problem
                if not chat.finish_reason:
                    raise EngineFailed("The engine ended the answer before it was complete.")
        except asyncio.CancelledError:  # which is told, and then this task is over
            chat.finish_reason = "cancelled"
        except DashError as problem:
            error = problem
        finally:
            teller.cancel()
        await self.flush(chat)
        if chat.message:
            self.all.pop(chat.id, None)
            context = (self.dash.state_of_entry(chat.call.model).get("runtime") or {}).get("n_ctx")
            by_hand = chat.call.cancelled_for and self.dash.gateway.status != "stopping"
            ended = "done" if chat.finish_reason != "cancelled" else "stopped" if by_hand else "cut"
            chat.message |= {"status": "failed" if error else ended, "tool_calls": [*chat.calls.values()],
                             "error": error and error.as_json(),
                             "stats": {**chat.outcome(), "context": context, "energy": None, "cost": None}}
            if chat.call.id:  # it came as far as to be a request
                self.unmetered[chat.id] = chat.call.id, chat.message["conversation"], chat.message["stats"]
            for id in [*self.unmetered][:-MAX_UNMETERED]:
                del self.unmetered[id]
            error = self.save(chat) or error
            await self.dash.broadcast("conversations:updated", {"id": chat.message["conversation"]})
        await self.send(chat, "chat:error" if error else "chat:done", **(error.as_json() if error else chat.outcome()))

    async def tell(self, chat: Chat) -> None:
        """Send what an answer waits for, how far its prompt is read, and its text, not token by token."""
        told = Json()
        while True:
            if chat.call.status == "waiting" and (
                    state := self.dash.state_of_entry(chat.call.model))["status"] in ("waiting", "loading"):
                chat.progress = {"stage": state["status"], "progress": state["progress"], "reason": state["reason"]}
            if chat.progress != told:
                told = chat.progress
                await self.send(chat, "chat:progress", **told)
            await self.flush(chat)
            await asyncio.sleep(0.04)

    async def flush(self, chat: Chat) -> None:
        """Send the text that has come since the last time."""
        if delta := dict(chat.text):
            chat.text.clear()
            if chat.message:
                chat.message |= {name: chat.message.get(name, "") + text for name, text in delta.items()}
                if time.monotonic() - chat.saved > SAVE_INTERVAL:
                    self.save(chat)
            await self.send(chat, "chat:delta", **delta)

    def save(self, chat: Chat) -> DashError | None:
        """Save what has come of an answer in a conversation; returns what keeps it from that, which ends no answer."""
        chat.saved = time.monotonic()
        try:
            self.dash.db.save_conversation(chat.message["conversation"], {}, [chat.message], limited=False)
        except DashError as problem:
            return problem
        return None

    async def metered(self, request: int, energy: float) -> None:
        """Keep with the answer of a request what energy (J) it took, and what that cost."""
        for id, (known, conversation, stats) in [*self.unmetered.items()]:
            if known == request:
                del self.unmetered[id]
                price = self.dash.settings["energy_price"]
                stats = {**stats, "energy": energy, "cost": price and energy / 3.6e6 * price}
                with contextlib.suppress(DashError):
                    self.dash.db.save_conversation(conversation, {}, [{"id": id, "stats": stats}], limited=False)
                    await self.dash.broadcast("conversations:updated", {"id": conversation})

    async def send(self, chat: Chat, event: str, **data: Any) -> None:
        """Send one event to the client that asked, or to all who have the conversation open."""
        followers = [client for client, id in self.followers.items() if id == chat.message.get("conversation")]
        for client in followers if chat.message else [chat.client]:
            await self.dash.send(client, event, {"chatId": chat.id, **data})

    def conversation(self, id: str) -> Json:
        """A conversation with its messages, and what has come of its answers until now."""
        found = self.dash.db.conversation(id)
        return {**found, "messages": [
            self.all[row["id"]].message if row["id"] in self.all else
            {**row, "status": "cut"} if row["status"] == "answering" else row for row in found["messages"]]}


ConversationId = Annotated[str, Length(1, 64)]
CONVERSATION_FIELDS: dict[str, Any] = {
    "title": Annotated[str, Length(1, 200)], "folder": Annotated[str, Length(0, 60)], "head": ConversationId | None,
    "model": Annotated[str, Length(0, 256)], "system": Annotated[str, Length(0, 100_000)], "tools": bool,
    "parameters": dict[str, Any], "created_at": Timestamp, "updated_at": Timestamp, "deleted_at": Literal[None]}
MESSAGE_FIELDS: dict[str, Any] = {
    "id": ConversationId, "conversation": ConversationId, "parent": ConversationId | None, "thinking": float | None,
    "role": Literal["user", "assistant", "tool"], "status": Literal["done", "stopped", "cut", "failed"],
    "content": Annotated[str, Length(0, MAX_CHAT_TEXT)], "compare": str, "vote": bool, "label": str,
    "reasoning": Annotated[str, Length(0, MAX_CHAT_TEXT)], "model": CONVERSATION_FIELDS["model"],
    "error": dict[str, Any] | None, "attachments": Annotated[list[dict[str, Any]], Length(0, 16)],
    "stats": dict[str, Any], "tool_calls": list[dict[str, Any]], "tool_call_id": str}


@on("chat:send", error="SEND_CHAT_FAILED")
async def chat_send(dash: Dash, client: Client, *, model: Annotated[str, Length(1, 256)],
                    messages: Annotated[list[dict[str, Any]], Length(1, 1000)],
                    parameters: Json = {}, answer: Json = {}) -> Json:  # noqa: B006  (not changed)
    """Begin an answer, in a conversation where `answer` says so; it arrives as chat:* events."""
    if dash.upstreams.find(model) is None:
        dash.db.present_model(model)
    if answer:
        checked_changes({"conversation": "", "id": "", "parent": "", **answer}, MESSAGE_FIELDS, {}, "answer")
    return {"chatId": dash.chats.start(client.id, model, messages, parameters, answer)}


@on("chat:cancel", error="CANCEL_CHAT_FAILED")
async def chat_cancel(dash: Dash, client: Client, *, chatId: Annotated[str, Length(1, 64)]) -> Json:  # noqa: N803
    """Stop an answer, which frees its slot; one in a conversation may be stopped by everybody."""
    return {"chatId": chatId, "cancelled": dash.chats.cancel(client.id, chatId)}


@on("conversations:list", error="LIST_CONVERSATIONS_FAILED")
async def conversations_list(dash: Dash, *, search: Annotated[str, Length(0, 200)] = "",
                             folder: Annotated[str, Length(0, 60)] | None = None, before: Timestamp | None = None,
                             limit: Annotated[int, Range(1, 1000)] = 200) -> Json:
    """Conversations, the last changed first, and all folders; `search` is for words in titles and messages."""
    rows = await asyncio.to_thread(dash.db.conversations, search, before, limit + 1, folder)
    answering = {chat.message.get("conversation") for chat in dash.chats.all.values()}
    return {"conversations": [{**row, "answering": row["id"] in answering} for row in rows[:limit]],
            "folders": await asyncio.to_thread(dash.db.folders), "hasMore": len(rows) > limit}


@on("conversations:get", error="GET_CONVERSATION_FAILED")
def conversations_get(dash: Dash, client: Client, *, id: ConversationId) -> Json:
    """One conversation, of whose answers this client is sent what comes from now on, and no more of another's."""
    dash.chats.followers[client.id] = id
    return {"conversation": dash.chats.conversation(id)}


@on("conversations:save", error="SAVE_CONVERSATION_FAILED", cost=2)
async def conversations_save(dash: Dash, *, id: ConversationId, changes: Json = {},  # noqa: B006  (not changed)
                             messages: Annotated[list[dict[str, Any]], Length(0, 200)] = []) -> Json:  # noqa: B006
    """Make or change a conversation, and messages of it; null for `deleted_at` undoes its deletion."""
    changes = checked_changes(changes, CONVERSATION_FIELDS, {})
    validated_sampling(changes.get("parameters", {}))
    accepted = [checked_changes({"id": None, **item}, MESSAGE_FIELDS, {}, f"messages.{at}")
                for at, item in enumerate(messages)]
    dash.db.save_conversation(id, changes, accepted)
    await dash.broadcast("conversations:updated", {"id": id})
    return {"id": id}


@on("conversations:delete", error="DELETE_CONVERSATION_FAILED")
async def conversations_delete(dash: Dash, *, id: ConversationId) -> Json:
    """Delete a conversation, which can be had back for a week, and stop its answers."""
    dash.db.conversation(id)
    for chat in [chat for chat in dash.chats.all.values() if chat.message.get("conversation") == id]:
        dash.chats.cancel("", chat.id)
    dash.db.save_conversation(id, {"deleted_at": dash.db.clock.now()}, (), limited=False)
    await dash.broadcast("conversations:updated", {"id": id, "deleted": True})
    return {"id": id}


PART_SIZE = 524_288  # characters of base64 of a part of an attachment
MAX_PARTS = 64  # of an attachment: 24 MB
AttachmentType = Literal["image/jpeg", "image/png", "image/webp", "image/gif", "audio/wav", "audio/mpeg"]


class Attachments:
    """Files that messages name, each called by the SHA-256 of what is in it. What touches them runs in threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: dict[str, int] = {}  # how many have come of a client's file

    def receive(self, client: str, part: int, of: int, content: bytes) -> Json | None:
        """Take one part of a client's file; what is told of it once it is complete."""
        partial = self.folder / f"{client}.part"
        if part == 0:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            partial.unlink(missing_ok=True)
            partial.touch(mode=0o600, exist_ok=False)
            if files_size(*self.folder.iterdir()) > 4_000_000_000:
                raise StorageFull("There is no room for more files. Delete old conversations.")
        elif part != self.parts.pop(client, None):
            raise Conflict("The parts of this file did not come in order. Send it again.")
        with open(partial, "ab", opener=plain_file) as file:
            file.write(content)
        self.parts[client] = part + 1
        if part + 1 < of:
            return None
        content = partial.read_bytes()
        hash = hashlib.sha256(content).hexdigest()
        os.replace(partial, self.folder / hash)
        return {"hash": hash, "size": len(content)}

    def read(self, hash: str) -> bytes:
        """What is in a file; NotFound where there is none."""
        if re.fullmatch("[0-9a-f]{64}", hash):
            with contextlib.suppress(FileNotFoundError):
                return (self.folder / hash).read_bytes()
        raise NotFound("This file is no longer available.", field="hash")

    def fill(self, messages: list[Json]) -> None:
        """Put the files into the messages that name them."""
        size, parts = 0, [part for message in messages if isinstance(message["content"], list)
                          for part in message["content"] if part["type"] == "attachment"]
        for part in parts:
            content, kind = self.read(str(part.pop("hash", ""))), str(part.pop("mime", ""))
            size += len(content)
            if size > 32_000_000:
                raise InvalidRequest("The files of this conversation are too large together.")
            data, sound = base64.b64encode(content).decode(), kind[6:].replace("mpeg", "mp3")
            part |= {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}} if "image" in kind else {
                "type": "input_audio", "input_audio": {"data": data, "format": sound}}

    def delete_unnamed(self, named: set[str], clock: TrustedClock) -> None:
        """Delete what no message names, but not before a day in which one may come to name it."""
        until = clock.now() - DAY  # which may put the clock in doubt
        for path in self.folder.iterdir() if self.folder.is_dir() and not clock.doubt else ():
            if path.name not in named and path.stat().st_mtime * 1000 < until:
                path.unlink(missing_ok=True)


@on("conversations:attach", error="ATTACH_FILE_FAILED")
async def conversations_attach(dash: Dash, client: Client, *, name: Annotated[str, Length(1, 255)],
                               type: AttachmentType, part: Annotated[int, Range(0, MAX_PARTS - 1)],
                               of: Annotated[int, Range(1, MAX_PARTS)],
                               data: Annotated[str, Length(0, PART_SIZE)]) -> Json:
    """Take one part of a file, in base64; with the last one it is an attachment that a message may name."""
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error:
        raise InvalidRequest("data must be base64", field="data") from None
    with dash.db.explained("The file was not saved", dash.chats.attachments.folder):
        kept = await asyncio.to_thread(dash.chats.attachments.receive, client.id, part, of, content)
    return {"attachment": kept and {**kept, "name": name, "type": type}}


@on("conversations:attachment", error="GET_ATTACHMENT_FAILED")
async def conversations_attachment(dash: Dash, *, hash: str, part: Annotated[int, Range(0, MAX_PARTS - 1)] = 0) -> Json:
    """One part of an attachment, in base64, and how many there are."""
    content, step = await asyncio.to_thread(dash.chats.attachments.read, hash), PART_SIZE // 4 * 3
    return {"data": base64.b64encode(content[part * step:(part + 1) * step]).decode(),
            "of": max(1, math.ceil(len(content) / step))}


# -- Benchmarks -----------------------------------------------------------------------------------

async def tell_benchmark(dash: Dash, id: str, done: int, total: int, **outcome: Any) -> None:
    """Broadcast how far a benchmark is, and keep that for pages that are opened meanwhile."""
    dash.benchmarks[id] = {"id": id, "done": done, "total": total, **outcome}
    await dash.broadcast("models:benchmark", dash.benchmarks[id])


async def run_benchmark(dash: Dash, id: str, prompt_tokens: int, generate_tokens: int, repetitions: int,
                        concurrency: int) -> Json:
    """Measure a model `repetitions` times and store the result; progress is broadcast after each time."""
    import statistics  # not at the top: slow to import, and seldom needed
    runs, power = list[list[float]](), list[float]()
    while len(runs) <= repetitions:
        await tell_benchmark(dash, id, max(len(runs) - 1, 0), repetitions)
        asked = asyncio.gather(*[benchmark_timings(dash, id, prompt_tokens, generate_tokens)
                                 for _ in range(concurrency if runs else 1)])
        while not asked.done():
            drawn = sum(gpu["power"] or 0 for gpu in await dash.sampler.read_gpus(fresh=True))
            power += [drawn] if runs else []
            await asyncio.wait([asked], timeout=0.5)
        answers = await asked
        runs.append([1000 * sum(answer[f"{kind}_n"] for answer in answers)
                     / max(answer[f"{kind}_ms"] or 1e-3 for answer in answers) for kind in ("prompt", "predicted")])
        instance = dash.pool.loaded_instance(id)
        if instance and concurrency > (instance.slots or concurrency):
            raise InvalidRequest(f"{id} answers {instance.slots} requests at once.", field="concurrency")
    if instance:
        await instance.measure()
    row = {"model": id, "prompt_tokens": int(answers[0]["prompt_n"]), "generate_tokens": int(answers[0]["predicted_n"]),
           "repetitions": repetitions, "concurrency": concurrency, "timestamp": now_ms(),
           "parameters": {**dash.engine_config["defaults"], **dash.model(id)["parameters"]},
           "build": instance and instance.build.id, "version": instance and instance.build.version,
           "devices": [item["name"] for item in instance.devices] if instance else None,
           "power": statistics.median(power or [0.0]) or None}
    for name, speeds in zip(("prompt", "generated"), zip(*runs[1:], strict=True), strict=True):  # the first warms up
        row |= {f"{name}_per_second": finite_rate(statistics.median(speeds)),
                f"{name}_deviation": round(statistics.stdev(speeds), 2) if len(speeds) > 1 else None}
    benchmark: Json = dash.db.add_benchmark(row)
    await tell_benchmark(dash, id, repetitions, repetitions, benchmark=benchmark)
    return benchmark


async def benchmark_timings(dash: Dash, id: str, prompt_tokens: int, generate_tokens: int) -> Json:
    """What an engine tells of the time that an answer to random tokens took."""
    draw, size = secrets.SystemRandom(), min(1000, dash.db.get_model(id)["vocabulary_size"] or 1000)  # all plain ones
    for rest in (3, 2, 1, 0):
        body = {"model": id, "prompt": [draw.randrange(100, size) for _ in range(prompt_tokens)], "stream": True,
                "n_predict": generate_tokens, "ignore_eos": True, "cache_prompt": False, "temperature": 0}
        try:
            async with dash.gateway.asked(Call(0, id, "llamadash benchmark", "/completion"), body) as answers:
                return timings_of(([{}] + [item async for item in answers])[-1])
        except EngineFailed:  # older builds cannot put into words what they make of some random tokens
            if not rest:
                raise
    return {}


def timings_of(answer: Json) -> Json:
    """The timings in an answer of an engine; EngineFailed where there are none."""
    timings = answer.get("timings")
    names = [f"{kind}_{what}" for kind in ("prompt", "predicted") for what in ("n", "ms", "per_second")]
    if not isinstance(timings, dict) or not all(map(is_amount, map(timings.get, names))):
        raise EngineFailed("The engine does not say how long it took.")
    return timings


@on("models:benchmark", error="BENCHMARK_MODEL_FAILED")
async def models_benchmark(dash: Dash, *, id: ModelId,
                           promptTokens: Annotated[int, Range(1, 131_072)] = 512,  # noqa: N803
                           generateTokens: Annotated[int, Range(1, 8192)] = 128,  # noqa: N803
                           repetitions: Annotated[int, Range(1, 20)] = 3,
                           concurrency: Annotated[int, Range(1, 64)] = 1) -> Json:
    """Measure the speed of a model, which is loaded if need be, for so many requests at once."""
    dash.db.present_model(id)
    if id in dash.benchmarks:
        raise Conflict("A benchmark of this model is under way already.")
    try:
        return {"benchmark": await run_benchmark(dash, id, promptTokens, generateTokens, repetitions, concurrency)}
    except DashError as problem:
        await tell_benchmark(dash, id, repetitions, repetitions, error=str(problem))
        raise
    finally:
        dash.benchmarks.pop(id, None)


# rehearsals

REHEARSAL = "Count from one to a hundred in words: one, two, three, four, five, six, seven, eight, "  # some 24 tokens
REHEARSAL_WAIT = 600  # s until nobody asks a model that has to leave memory for the rehearsal


@dataclass(eq=False, repr=False)
class Rehearsal:
    """Tries a build on a loaded model, beside the one that runs it or, for want of memory, in its place for a while."""
    dash: Dash
    build: Build
    model: str
    running: Instance
    unit: Unit

    async def tell(self, status: str, **outcome: Any) -> Json:
        """Tell everybody how it goes, as part of the build; what came of it is kept."""
        self.dash.builds.rehearsals[self.build.id] = {
            "model": self.model, "status": status, "version": self.build.version, "old": None, "new": None,
            "problem": None, **outcome}
        if status != "running":
            await self.dash.chore("rehearsals", self.dash.db.set_meta, "rehearsals", self.dash.builds.rehearsals.copy())
        return await announce_build(self.dash, self.build.id)

    async def run(self) -> None:
        """Try both, the new one in the old one's place where there is no room beside it, and tell what came of it."""
        old, pool, waited = None, self.dash.pool, 0
        try:
            old = await self.trial(self.running)
            async with contextlib.AsyncExitStack() as stack:
                memory, row = pool.memory, self.dash.db.get_model(self.model)
                await memory.read()
                parameters = self.running.group.parameters
                beside = [{**item, "free": max(0, item["free"] - item["held"])} for item in memory.devices(self.build)]
                estimate = estimate_memory(row, parameters, beside, await self.dash.library.header(row, parameters))
                if not estimate["fits"] or estimate["spills"]:
                    while self.unit.active or self.unit.waiting:
                        if (waited := waited + 1) > REHEARSAL_WAIT:
                            raise Conflict("There is no room for both builds, and the model was never idle.")
                        await asyncio.sleep(1)
                    await pool.unload(self.model, f"{self.build.id} is tried")
                    await self.running.gone.wait()
                    stack.push_async_callback(pool.load, self.model, f"{self.build.id} was tried")
                new = await self.beside()
            await self.tell("done", old=old, new=new)
        except (DashError, aiohttp.ClientError, OSError, *MALFORMED) as problem:
            log.warning("%s was tried with %s: %s", self.build.id, self.model, problem)
            await self.tell("failed", old=old, problem=str(problem) or "The engine did not answer.")

    async def beside(self) -> Json:
        """Start the new build, try it and end it."""
        placed = set(self.running.placement) <= {item["name"] for item in self.build.devices} and self.running.placement
        arguments, _ = engine_arguments(self.build, self.dash.db.present_model(self.model),
                                        self.running.group.parameters, free_port("127.0.0.1"), self.model, placed or ())
        instance = Instance(self.dash, f"{self.model} ({self.build.id})", self.build, arguments)
        life = self.dash.spawn(instance.run(), f"rehearsal of {self.build.id}")
        trial = asyncio.ensure_future(self.trial(instance))
        try:
            await asyncio.wait([life, trial], return_when=asyncio.FIRST_COMPLETED)
            if not trial.done():
                raise EngineFailed(life.result() or "It ended.")
            return await trial
        finally:
            await cancelled([trial])
            await instance.stop()
            await life

    async def trial(self, instance: Instance) -> Json:
        """How a process answers a fixed question, once it is loaded: the answer, both speeds, and its memory."""
        await instance.ready.wait()
        context, said = instance.output.meta.get("n_ctx"), b""
        for length in (1, max(1, min(12, int(context or 512) // 200))):  # the first pays for what a process does once
            body = {"prompt": REHEARSAL * length, "n_predict": 32, "temperature": 0, "seed": 1, "cache_prompt": False}
            async with self.dash.pool.session.post(f"{instance.url}/completion", json=body,
                                                   headers=instance.authorization) as response:
                said = await body_of(response, 2**20)
            if response.status != 200:
                raise EngineFailed(error_text(said, response.status))
        await instance.measure()
        timings = timings_of(answer := json.loads(said))
        seen = await listed_devices(instance.build, self.dash.config.data_dir)
        return {"build": instance.build.id, "context": context, "answer": answer.get("content"),
                "sees": [device["description"] or device["name"] for device in seen],
                "loading": round((instance.ready_at or 0) - instance.started, 2),
                "devices": {item["name"]: item["used"] for item in instance.devices},
                "prompt_per_second": finite_rate(timings["prompt_per_second"]),
                "generated_per_second": finite_rate(timings["predicted_per_second"])}


@on("engines:rehearse", error="REHEARSE_ENGINE_FAILED", cost=20)
async def engines_rehearse(dash: Dash, *, id: Annotated[str, Length(1, 96)], model: ModelId) -> Json:
    """Try a build on a loaded model beside the one that runs it; `engines:update` tells how they compare."""
    build = dash.builds.get(id)
    if build.problem:
        raise InvalidRequest(build.problem, field="id")
    if any(item.get("status") == "running" for item in dash.builds.rehearsals.values()):
        raise Conflict("A build is being tried already.")
    if (running := dash.pool.loaded_instance(model)) is None:
        raise Conflict("Load the model first: a build is compared with the one that runs it.")
    if running.build.id == id:
        raise Conflict(f"{id} runs this model already.")
    rehearsal = Rehearsal(dash, build, model, running, dash.pool.entries.unit(model))
    result = await rehearsal.tell("running")
    dash.spawn(rehearsal.run(), f"comparison with {id}")
    return result


# -- Downloads ------------------------------------------------------------------------------------

HUB = "https://huggingface.co"
HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co", "hf-mirror.com")  # what people paste
DISK_RESERVE = 2**30  # bytes left free: the database, the logs and the system need some
DOWNLOAD_BLOCK = 2**20  # bytes written and hashed in one go in a thread
RETRIES = 8  # attempts in a row that bring nothing, until a download fails
RETRY_PAUSE = (1.0, 30.0)  # s before the second attempt, doubling up to this
STALL_LIMIT = 30.0  # s without a byte, after which a connection counts as cut
WRITE_LIMIT = 60.0  # s for a block to be written, or SYNC_SIZE to be on the disk: a slow one lets us wait
SYNC_SIZE = 2**26  # bytes that the system may keep back: at the end there is never much left to be put on the disk
MAX_LISTING = 8 * 2**20  # bytes of a repository's description; the largest have some 5 MB
LISTING_LIMIT = 60.0  # s for that
ANSWER_LIMIT = 60.0  # s until a file begins to come
MAX_FOUND = 50  # repositories that a search tells
MAX_REPO_FILES = 2000  # models of a repository that are looked at; the largest have some hundred
MAX_QUEUED = 200  # downloads that are not at their end
MAX_FILE_SIZE = 10**15  # bytes; a hub that tells more does not tell the truth
MAX_RETRY_AFTER = 3600.0  # s that a server may make us wait before the next attempt
ACTIVE = ("queued", "running", "verifying")
UNFINISHED_DOWNLOADS = (*ACTIVE, "paused", "failed")
REPO = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
REVISION = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,95}"
HUB_ADDRESS = rf"(?i)\w+://|(?:{'|'.join(map(re.escape, HUB_HOSTS))})/"
# How other programs name a repository or a file of it: with two arguments or fields, or by a scheme of their own.
NAMED_SOURCE = (
    r"(?:\brepo_id\s*=\s*[\"']|lmstudio://open_from_hf\?model=)([^\"'&\s]+)"
    r"(?:[\"'&][^)]{0,300}?\bfile(?:name)?\s*=\s*[\"']?([^\"'&\s]+))?")
OTHER_SCHEME = (r"(?i)(?<![\w/])(?:jan://models/huggingface/|huggingface://|hf:(?!/)"
              r"|(?:ssh://)?git@(?:hf\.co|huggingface\.co)[:/])")
HUB_PATH = (  # user/repo, and where in it: a page, a revision, and a file or a folder
    r"(?:api/(?:resolve-cache/)?models/)?"
    r"((?!(?:datasets|spaces|collections|papers|docs|blog|posts|models)/)[^/]+/[^/]+)"
    r"(?:/(resolve|blob|raw|blame|tree|commits?)/(refs/[^/]+/[^/]+|[^/]+))?(?:/(.*))?")
SHA256 = r"[0-9a-f]{64}"
QUANTIZATION = (
    r"(?i)(?<![A-Za-z0-9])((?:UD-)?(?:I?Q[1-8]_(?:[01]|K|NL|XXS|XS|S|M)(?:_(?:XXL|XL|XS|L|M|S|P|NL))?(?:_[48]_[48])?"
    r"|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32))(?![A-Za-z0-9])")
ANY_FILE = "GGUF file"  # what a download is called for which only the repository was named, until its files are known
PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_0", "MXFP4", "IQ4_XS", "Q5_K_M", "Q8_0")  # small enough, and still good


class HubUnavailable(DashError):
    """The hub cannot be reached, or does not answer as it should."""
    code = "HUB_UNAVAILABLE"


class HubBusy(HubUnavailable):
    """The hub wants rest, for `retryAfter` seconds."""


class WrongContent(DashError):
    """What came is not what was announced."""


@dataclass(eq=False, repr=False)
class Part:
    """One file of a download: its name in the repository, and what the hub announces of it."""
    name: str
    size: int
    sha256: str | None = None
    address: str | None = None  # of its own
    tag: str = field(default_factory=lambda: secrets.token_hex(3))  # in the name of what came so far: only ours has it
    here: int = 0  # bytes that are on the disk


@dataclass(eq=False, repr=False)
class Download:
    """A model on its way: one file, or shards and projector, into `place`, a folder of its own as in the repository."""
    repo: str
    file: str
    place: str
    parts: list[Part]  # none until the hub could be asked for them
    status: str = "new"
    projector: bool = True  # whether one is wanted
    error: str | None = None
    retry_at: int | None = None  # Unix ms of the next attempt, while one is due
    speed: float = 0.0  # bytes/s
    path: str | None = None  # of the model, once it is there
    former: str | None = None  # the place that version 1.0.0 gave it, until what came there is moved

    @property
    def key(self) -> tuple[str, str]:
        """What it is listed under."""
        return self.repo, self.file

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    @property
    def done(self) -> int:
        """Bytes of them that are on the disk."""
        return sum(part.here for part in self.parts)

    @property
    def folder(self) -> Path:
        """The model folder that it is in, under the names of its user and its repository."""
        return Path(self.place).parents[1]

    def target(self, part: Part) -> Path:
        """Where `part` will be when all is complete."""
        return Path(self.place) / part.name

    def partial(self, part: Part) -> Path:
        """Where `part` is until then."""
        target = self.target(part)
        return target.with_name(f"{target.name}.{part.tag}.part")

    def count(self) -> None:
        """Look how much of each part is on the disk; what version 1.0.0 has fetched is moved first."""
        for part in self.parts if self.former else ():
            with contextlib.suppress(OSError):
                if (begun := Path(f"{self.former}/{part.name.rpartition('/')[2]}.part")).is_file():
                    self.target(part).parent.mkdir(parents=True, exist_ok=True)
                    os.rename(begun, self.partial(part))
        self.former = None
        for part in self.parts:
            part.here = files_size(self.partial(part)) or files_size(self.target(part))

    def finish(self) -> None:
        """Give all parts their final names; Conflict where another file has one meanwhile."""
        for part in self.parts:
            if (partial := self.partial(part)).exists():
                if os.path.lexists(target := self.target(part)):
                    raise Conflict(f"{target} is another file of the same name")
                os.rename(partial, target)

    def discard(self) -> None:
        """Remove what came so far, and the folders made for it if nothing else is in them."""
        for part in self.parts:
            place = self.partial(part)
            place.unlink(missing_ok=True)
            part.here = 0
            with contextlib.suppress(OSError):
                while (place := place.parent) != self.folder:
                    place.rmdir()

    def as_json(self) -> Json:
        """What clients see: {repo, file, done, total, bytesPerSecond, status, error?, retryAt?, …}."""
        error = {"error": self.error, **({"retryAt": self.retry_at} if self.retry_at else {})} if self.error else {}
        return {"repo": self.repo, "file": self.file, "files": [part.name for part in self.parts],
                "folder": self.place, "done": self.done, "total": self.total, "status": self.status,
                "bytesPerSecond": round(self.speed) if self.status == "running" else 0, **error}


def download_quantization(file: str) -> str | None:
    """The quantization that a file's name tells, as Q4_K_M or UD-IQ2_XXS."""
    found = re.findall(QUANTIZATION, file)
    return re.sub(r"^FP(?=16|32)", "F", found[-1].upper()) if found else None


def download_file(file: str) -> str:
    """`file` if it is a safe path of a GGUF file inside a repository, else InvalidRequest."""
    pieces = file.split("/")
    bad = any(not piece or piece.startswith(".") or re.search(r'[\x00-\x1f\x7f\\:*?"<>|]', piece) for piece in pieces)
    name = pieces[-1]
    if bad or not encodable(file) or name != name.strip() or len(name.encode()) > 200:  # of 255, for more is added
        raise InvalidRequest("This is not an acceptable file name", field="file")
    if not file.lower().endswith(".gguf"):
        raise InvalidRequest("The file's name must end in .gguf", field="file")
    return file


class Source(NamedTuple):
    """What somebody asked for: a repository ("user/repo", or "user/repo@revision"), a file or quantization of it."""
    repo: str
    file: str | None = None
    quantization: str | None = None


def download_source(text: str, endpoint: str = HUB) -> Source:
    """The source that `text` names: "user/repo:QUANT", an address on the hub, or a command that downloads from it."""
    linked = re.search(r"\]\(\s*<?([^\s)>]+)", text)  # Markdown
    text = (linked[1] if linked else text).strip(" \t\r\n<>`,;.")
    if fields := re.search(NAMED_SOURCE, text):
        text = " ".join(filter(None, map(urllib.parse.unquote, fields.groups(""))))
    text = re.sub(OTHER_SCHEME, "hf://", text)
    if pair := re.fullmatch(rf"({REPO})\s+(\S+\.gguf)", text):
        text = f"hf download {pair[1]} --include {shlex.quote(pair[2])}"
    if not re.search(r"\s", text):
        return download_word(text.strip("\"'"), endpoint)
    words = list(itertools.chain(*shell_commands(text)))
    options = command_options(words)
    places = [word for before, word in zip(["-", *words], words, strict=False) if re.match(HUB_ADDRESS, word)
              or (re.fullmatch(f"{REPO}([:@].+)?", word) and not before.startswith("-"))]
    named = [options[key] for key in FILE_KEYS[2:] if key in options]
    source = download_word([*named, *places, *words[-1:], ""][0], endpoint)
    if "revision" in options:
        source = source._replace(repo=download_word(f"{source.repo}@{options['revision']}", endpoint).repo)
    files = [word for word in words if word.lower().endswith(".gguf") and word not in places]
    file = next(iter(filter(None, [options.get("include"), *files])), "")
    if not file or source.file or source.quantization:
        return source
    if "*" in file:  # hf download user/repo --include "*Q4_K_M*"
        return source._replace(quantization=re.sub(r"(?i)\.gguf", "", file).strip("*/-_.") or None)
    return source._replace(file=download_file(file))


def download_word(text: str, endpoint: str = HUB) -> Source:
    """The source that one word names; InvalidRequest where it is none."""
    file, own = "", urllib.parse.urlsplit(endpoint)
    at_hub = re.match(HUB_ADDRESS, text) or text.partition("/")[0] == own.netloc
    if not at_hub and re.fullmatch(rf"(?i){REPO}(@[^/]+)?/[^?#]+\.gguf", text):  # user/repo/file.gguf
        text = f"hf://{text}"
    if at_hub or text.startswith("hf://"):
        try:
            text = text.replace("hf://", "//huggingface.co/") if "://" in text else f"//{text}"
            address = urllib.parse.urlsplit(text)
        except ValueError:
            raise InvalidRequest("This is not an address", field="repo") from None
        if address.hostname not in (*HUB_HOSTS, own.hostname):
            raise InvalidRequest(f"Models are downloaded from {own.hostname} only", field="repo")
        found = re.fullmatch(HUB_PATH, address.path.removeprefix(own.path.rstrip("/")).strip("/"))
        repo, page, revision, path = map(urllib.parse.unquote, found.groups("") if found else [""] * 4)
        file = urllib.parse.parse_qs(address.query).get("show_file_info", [path])[0]
        quantization = download_quantization(path) if page == "tree" else None
        text = repo + (f"@{revision}" if revision else "") + (f":{quantization}" if quantization else "")
    repo, _, quantization = text.partition(":")
    repo, _, revision = repo.removesuffix(".git").partition("@")
    if re.fullmatch(QUANTIZATION, revision):  # as LM Studio has it
        quantization, revision = revision, ""
    if not re.fullmatch(REPO, repo) or ".." in text or not re.fullmatch(REVISION, revision or "main"):
        raise InvalidRequest("A repository is named user/repo", field="repo")
    return Source(repo if revision in ("", "main") else f"{repo}@{revision}",
                  download_file(file) if file.lower().endswith(".gguf") else None, quantization or None)


def download_models(files: dict[str, Part]) -> list[Json]:
    """The models among a repository's `files`: {file, size, quantization, shards, projector?}, smallest first."""
    shards: dict[tuple[str, int], list[str]] = {}
    projectors, models = list[str](), list[Json]()
    for name in sorted(files):
        base = name.rpartition("/")[2].lower()
        if "mmproj" in base:
            projectors.append(name)
        elif "imatrix" not in base:  # statistics for quantizing, no model
            found = re.fullmatch(SHARD, name)
            shards.setdefault((found[1], int(found[3])) if found else (name, 1), []).append(name)
    for (_, count), names in shards.items():
        if len(names) == count:  # else incomplete: an upload under way
            models.append({"file": names[0], "size": sum(files[name].size for name in names),
                           "quantization": download_quantization(names[0]), "shards": names if count > 1 else []})
    for model in models if projectors else ():
        best = min(projectors, key=lambda name: (  # its own folder's first, and F16 before others
            name.rpartition("/")[0] != model["file"].rpartition("/")[0], projector_preference(name), name))
        model["projector"] = {"file": best, "size": files[best].size, "quantization": download_quantization(best)}
    return sorted(models, key=lambda model: (model["size"], model["file"]))


def download_choice(models: list[Json], source: Source) -> Json | None:
    """The model of a repository that `source` asks for, or else the one that most people want."""
    asked = (source.quantization or "").upper()
    order = (asked, f"UD-{asked}") if asked else PREFERRED
    if source.file:
        return next((model for model in models if source.file in (model["file"], *model["shards"])), None)
    if asked:
        models = [model for model in models if model["quantization"] == asked or asked in model["file"].upper()]
    return min(models, key=lambda model: (*order, model["quantization"]).index(model["quantization"]), default=None)


class ModelHub:
    """Hugging Face, or what HF_ENDPOINT names in its place; or another `endpoint`, which gets no token."""

    def __init__(self, endpoint: str = "", own_ports: Callable[[], set[int]] = set) -> None:
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or HUB).strip().rstrip("/")
        self.name = re.sub(r"^\w+://(.*@)?", "", self.endpoint)  # for messages: without a password
        token = "" if endpoint else (os.environ.get("HF_TOKEN") or "").strip()
        self.token = token if re.fullmatch(r"[!-~]+", token) else None
        self.reach: int | None = None  # address_reach() of where it is itself
        self.own_ports = own_ports  # nothing is fetched from ourselves

    def open_socket(self, address: Any) -> socket.socket:
        """A socket for a connection: to the hub first, and where that redirects to, never further inside than it is."""
        family, kind, protocol, _, (host, port, *_) = address
        reach = address_reach(host)
        if self.reach is not None and (reach < max(self.reach, 1) or (reach == 1 and port in self.own_ports())):
            raise OSError(errno.EACCES, "it was redirected to an address that is not safe")
        self.reach = reach if self.reach is None else self.reach
        return socket.socket(family, kind, protocol)

    @contextlib.asynccontextmanager
    async def session(self, total: float | None = None) -> AsyncIterator[aiohttp.ClientSession]:
        """A client without cookies; it does not follow redirects by itself. `total`: seconds for each answer."""
        limits = aiohttp.ClientTimeout(total=total, sock_connect=15, sock_read=STALL_LIMIT)
        headers = {"User-Agent": f"llamadash/{__version__}", "Accept-Encoding": "identity"}
        connector = aiohttp.TCPConnector(ssl=await asyncio.to_thread(trusted_certificates),
                                         socket_factory=self.open_socket)
        async with aiohttp.ClientSession(timeout=limits, headers=headers, connector=connector,
                                         cookie_jar=aiohttp.DummyCookieJar()) as session:
            yield session

    @contextlib.asynccontextmanager
    async def get(self, session: aiohttp.ClientSession, path: str, what: str, headers: dict[str, str] | None = None,
                  ) -> AsyncIterator[tuple[aiohttp.ClientResponse, Part]]:
        """The answer for `path` after its redirects, and what the hub announces; NotFound where it has no `what`."""
        try:
            hub = yarl.URL(self.endpoint).origin()
        except ValueError:
            raise HubUnavailable("a hub's address must begin with http:// or https://") from None
        url = yarl.URL(path if "://" in path else f"{self.endpoint}/{path}", encoded=True)
        announced = Part(path, 0)
        for _ in range(6):
            at_hub = url.origin() == hub
            token = {"Authorization": f"Bearer {self.token}"} if self.token and at_hub else {}  # no other host sees it
            proxies = {} if urllib.request.proxy_bypass(url.host or "") else urllib.request.getproxies()
            try:
                asked = session.get(url, headers={**(headers or {}), **token}, allow_redirects=False,
                                    proxy=proxies.get(url.scheme))
                async with await asyncio.wait_for(asked, ANSWER_LIMIT) as response:
                    if at_hub:
                        download_announced(announced, response.headers)
                    location = response.headers.get("Location")
                    if response.status in (200, 206):
                        yield response, announced
                        return
                    if response.status not in (301, 302, 303, 307, 308) or not location:
                        raise self.refusal(response, what, url.host if not at_hub else None)
            except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError, UnicodeError) as problem:  # as of x..y
                raise HubUnavailable(f"{url.host}: {download_problem(problem)}") from problem
            with contextlib.suppress(ValueError):
                url = url.join(yarl.URL(location, encoded=True))
                literal = re.fullmatch(r"[0-9.]+|.*:.*", url.host or "")  # open_socket() sees none behind a proxy
                safe = not literal or address_reach(url.host or "") >= (self.reach or 1)
                if url.origin().scheme in ("https", hub.scheme) and url.host and safe:
                    continue
            raise HubUnavailable(f"{self.name} redirects to an address that is not safe")
        raise HubUnavailable(f"{self.name} redirects too often")

    async def whole(self, path: str, limit: int, what: str | None = None) -> bytes:
        """The whole answer for `path`, of `limit` bytes at most."""
        async with self.session(LISTING_LIMIT) as session, self.get(session, path, what or path) as (response, _):
            text = await body_of(response, limit)
        if len(text) > limit:
            raise HubUnavailable(f"the answer of {self.name} is too long")
        return text

    async def listing(self, repo: str) -> tuple[dict[str, Part], Json]:
        """A repository's GGUF files, and its description; NotFound where there is none that we may see."""
        name, _, revision = repo.partition("@")
        revision = f"/revision/{urllib.parse.quote(revision, safe='')}" if revision else ""
        return await self.json(f"api/models/{name}{revision}?blobs=true", repo,
                               lambda info: (download_listed(info["siblings"]), info),
                               at_most(MAX_REPO_FILES, "rfilename", ".gguf"))

    async def parts(self, source: Source, projector: bool) -> list[Part]:
        """The files that make up the model that `source` asks for; NotFound where there is none."""
        files, _ = await self.listing(source.repo)
        if source.file in files and "mmproj" in source.file.lower():
            return [files[source.file]]
        model = download_choice(await asyncio.to_thread(download_models, files), source)
        if not model:
            wanted = source.file or source.quantization or ANY_FILE
            raise NotFound(f"{source.repo} has no {wanted}", field="file" if source.file else "repo")
        seen = [model["projector"]["file"]] if projector and "projector" in model else []
        return [files[name] for name in (*(model["shards"] or [model["file"]]), *seen)]

    async def json(self, path: str, what: str, made: Callable[[Any], Result],
                   kept: Callable[[Json], Any] | None = None) -> Result:
        """What is `made` of the JSON at `path`, its objects as `kept` makes them; NotFound where it has no `what`."""
        text = await self.whole(path, MAX_LISTING, what)
        try:
            return await asyncio.to_thread(made, await json_in_thread(text, kept))
        except MALFORMED:
            raise HubUnavailable(f"{self.name} does not answer as it should") from None

    def refusal(self, response: aiohttp.ClientResponse, what: str, elsewhere: str | None) -> DashError:
        """The error that says what a refused request means to the user; `elsewhere` is the host that is not the hub."""
        status, wait = response.status, retry_after(response.headers)
        if status in (401, 403) and not (elsewhere or wait):
            hint = "HF_TOKEN may not read it" if self.token else "start llamadash with HF_TOKEN set"
            return NotFound(f"{what} does not exist, is private, or its terms must be accepted at "
                            f"{self.name} first ({hint})")
        if status in (404, 410) and not elsewhere:
            return NotFound(f"{what} does not exist at {self.name}")
        wait = math.ceil(min(wait or 60.0 * (status == 429), MAX_RETRY_AFTER))
        until = time.strftime("%H:%M", time.localtime(time.time() + wait))
        asks = f" and asks to wait {wait} s (until {until})" if wait else ""
        answered = f"{elsewhere or self.name} answered with status {status}{asks}"
        return HubBusy(answered, retryAfter=wait) if wait else HubUnavailable(answered)


def retry_after(headers: Mapping[str, str]) -> float:
    """For how many seconds a server wants no further request: a number or a date, or what is said of its limit."""
    text, limit = headers.get("Retry-After", ""), re.search(r";r=0;t=([0-9]{1,6})", headers.get("RateLimit", ""))
    if re.fullmatch(r"\s*[0-9]{1,9}(?:\.[0-9]{0,9})?\s*", text):
        return float(text)
    with contextlib.suppress(ValueError, TypeError, OverflowError, IndexError):
        until, now = (email.utils.parsedate_to_datetime(date).timestamp()  # by its own clock, where it tells the time
                      for date in (text, headers.get("Date") or email.utils.formatdate(usegmt=True)))
        return max(until - now, 0.0)
    if headers.get("X-RateLimit-Remaining") == "0":  # as GitHub has it; Hugging Face has the other
        reset = re.fullmatch(r"[0-9]{9,11}", headers.get("X-RateLimit-Reset", ""))
        return max(int(reset[0]) - time.time(), 1.0) if reset else 0.0
    return float(limit[1]) if limit else 0.0


async def json_in_thread(text: bytes, kept: Callable[[Json], Any] | None = None) -> Any:
    """The value of `text`, its objects as `kept` makes them: a call for each, so that nobody else has to wait."""
    return await asyncio.to_thread(json.loads, text, object_hook=kept or (lambda item: item))


def at_most(limit: int, key: str, ending: str = "") -> Callable[[Json], Any]:
    """For json_in_thread(): of the objects with `key` the first whose value ends so, and None for the others."""
    seen = itertools.count()
    return lambda item: item if key not in item or (
        str(item[key]).lower().endswith(ending) and next(seen) < limit) else None


def address_reach(host: str) -> int:
    """How far an address is: 3 public, 2 in a network of one's own, 1 this machine, 0 what nothing is fetched from."""
    address: Any = ipaddress.ip_address(host.partition("%")[0])
    if address.version == 6 and (inner := address.ipv4_mapped or address.sixtofour or (
            ipaddress.IPv4Address(address.packed[12:]) if address in ipaddress.IPv6Network("64:ff9b::/96") else None)):
        address = inner
    if address.is_loopback:
        return 1
    if address.is_link_local or address.is_unspecified or address.is_multicast:
        return 0
    return 3 if address.is_global else 2


def download_announced(announced: Part, headers: Mapping[str, str]) -> None:
    """Take the size and the SHA-256 that the hub tells in its headers."""
    tag = (headers.get("X-Linked-ETag") or headers.get("ETag") or "").removeprefix("W/").strip('"').lower()
    size = headers.get("X-Linked-Size", "")
    announced.sha256 = tag if re.fullmatch(SHA256, tag) else announced.sha256
    announced.size = int(size) if re.fullmatch(r"[0-9]{1,15}", size) else announced.size


def download_listed(listing: list[Any]) -> dict[str, Part]:
    """The GGUF files in a listing of the hub's API; entries that make no sense are left out."""
    files = {}
    for entry in listing:
        name = entry.get("rfilename") if isinstance(entry, dict) else None
        if isinstance(name, str) and name.lower().endswith(".gguf"):
            stored = entry["lfs"] if isinstance(entry.get("lfs"), dict) else {}
            sha256, size = str(stored.get("sha256")), stored.get("size") or entry.get("size")
            with contextlib.suppress(InvalidRequest):
                if type(size) is int and 0 < size < MAX_FILE_SIZE:
                    files[name] = Part(download_file(name), size, sha256 if re.fullmatch(SHA256, sha256) else None)
    return files


def download_repo(info: Json) -> Json:
    """What the hub says of a repository: {repo, downloads, likes, license, gated, updated (Unix ms), parameters}."""
    card, tags, gguf = (info[name] if isinstance(info.get(name), kind) else kind()
                        for name, kind in (("cardData", dict), ("tags", list), ("gguf", dict)))
    amounts = {"downloads": info.get("downloads"), "likes": info.get("likes"), "parameters": gguf.get("total")}
    license = [card.get("license"), *(tag[8:] for tag in tags if str(tag).startswith("license:")), None]
    updated = None
    with contextlib.suppress(ValueError, OverflowError):
        updated = calendar.timegm(time.strptime(str(info.get("lastModified"))[:19], "%Y-%m-%dT%H:%M:%S")) * 1000
    return {"repo": str(info.get("id") or info.get("modelId")), "gated": bool(info.get("gated")), "updated": updated,
            "license": next((text[:64] for text in license if isinstance(text, str)), None),
            **{name: value if is_amount(value) else None for name, value in amounts.items()}}


def download_problem(problem: BaseException) -> str:
    """A network problem in a few words: never an address, which may hold a signature."""
    if isinstance(problem, asyncio.TimeoutError):
        return "no answer in time"
    if isinstance(problem, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError | ConnectionError):
        return "the connection was cut"
    if isinstance(problem, aiohttp.ClientSSLError):
        return "its certificate is not trusted"
    return (isinstance(problem, OSError) and problem.strerror) or type(problem).__name__


def download_place(folder: Path, repo: str) -> Path:
    """The place of `repo` in a model folder: one of its own for each user, repository and revision."""
    return folder / "/".join(urllib.parse.quote(word, safe="@ ") for word in repo.split("/", 1))


SAVED_DOWNLOAD = {"repo": str, "file": str, "place": str, "status": str, "projector": bool, "error": str | None,
                  "retry_at": Timestamp | None, "former": str | None}
SAVED_PART = {"name": str, "size": int, "sha256": str | None, "tag": str}


def download_restored(row: Any) -> Download | None:
    """What a run of whatever version saved of a download, not yet counted; None where that is not enough."""
    try:
        parts = [Part(**{"size": 0, **good_values(part, SAVED_PART)}) for part in row["parts"]]
        download = Download(**{**good_values(row, SAVED_DOWNLOAD), "parts": parts})
        for part in parts:
            download_file(part.name)
        old = Path(download.place) if parts and not row["parts"][0].get("tag") else None
    except (AttributeError, LookupError, TypeError, InvalidRequest) as problem:
        log.warning("A download cannot be taken up again, for it is not as llamadash saves it: %s", problem)
        return None
    if old:  # as version 1.0.0 had it: files of one name shared a place, and what came of them
        folder = old.parent if old.name == download.repo.rpartition("/")[2] else old
        download.place, download.former = str(download_place(folder, download.repo)), str(old)
    download.status = {**dict.fromkeys(ACTIVE, "queued"), "failed": "failed"}.get(download.status, "paused")
    return download


# Where a model came from: each file's SHA-256, or its size; when the hub was asked last (Unix ms); the newer revision
HUB_FIELDS = {"repo": str, "file": str, "files": dict[str, Any], "checked": int, "newer": str | None}


class PartFile:
    """The file that one part is written to, or is in already: hashed block by block, each in a thread."""

    def __init__(self, part: Part, path: Path, existing: bool, folder: Path) -> None:
        """Open the file at its start, an `existing` model to be read; Conflict where a link leads out of `folder`."""
        place = Path(os.path.realpath(folder), path.relative_to(folder)).parent
        if os.path.normcase(os.path.realpath(path.parent)) != os.path.normcase(place):
            raise Conflict(f"{path.parent} is a link to another place: move it away")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = io.FileIO(path, "r" if existing else "a+", opener=plain_file)
        self.file.seek(0)
        self.hash, self.part, part.here = hashlib.sha256(), part, 0
        self.unsaved = 0  # bytes that the system has not yet put on the disk, or may have not

    def adopt(self) -> bool:
        """Hash one more block of what is there already; False at its end."""
        block = self.file.read(DOWNLOAD_BLOCK) or b""
        self.hash.update(block)
        self.part.here += len(block)
        return bool(block)

    def write(self, block: bytes) -> None:
        """Append and hash `block`."""
        rest = memoryview(block)
        while rest:
            rest = rest[self.file.write(rest):]
        self.hash.update(block)
        self.unsaved += len(block)
        if self.unsaved >= SYNC_SIZE:
            os.fsync(self.file.fileno())
            self.unsaved = 0

    def restart(self) -> None:
        """Forget everything that came so far."""
        self.file.truncate(0)
        self.hash, self.part.here = hashlib.sha256(), 0

    def close(self) -> None:
        """Put what was written on the disk and close the file."""
        with self.file:
            if self.file.writable():
                os.fsync(self.file.fileno())


class Downloads:
    """The queue of downloads: one after the other, remembered over a restart, resumed where they were cut."""

    def __init__(self, dash: Dash) -> None:
        self.dash = dash
        self.hub = ModelHub(own_ports=dash.own_ports)
        self.items: dict[tuple[str, str], Download] = {}
        self.tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.probes = Probes()
        self.asked_again = 0  # not before is the hub asked for what is newer, by steady_ms()

    async def run(self) -> None:
        """Go on with what a former run of llamadash left unfinished."""
        folders: dict[Path, list[Download]] = {}
        for download in filter(None, map(download_restored, self.dash.db.get_meta("downloads", []))):
            if self.items.setdefault(download.key, download) is download:
                folders.setdefault(download.folder, []).append(download)
        self.pump()
        await asyncio.gather(*map(self.count, folders.values()))

    async def count(self, downloads: list[Download]) -> None:
        """Look how much of each of `downloads`, which share a folder, is on the disk, unless it hangs."""
        for download in downloads:
            with contextlib.suppress(Unreachable):
                await self.use(download, lambda item: item.key in self.tasks or item.count(), download)
                await self.show(download)

    async def use(self, download: Download, function: Callable[..., Result], *arguments: Any,
                  limit: float = FOLDER_LIMIT) -> Result:
        """What `function` returns, alone in the folder of `download`; Unreachable where that hangs."""
        return await self.probes.call(str(download.folder), functools.partial(function, *arguments), limit)

    def pump(self) -> None:
        """Start the next queued download where none runs: two would share one line, and both come later."""
        download = next((item for item in self.items.values() if item.status == "queued"), None)
        if download and not self.tasks:
            self.tasks[download.key] = self.dash.spawn(self.work(download), f"download of {download.file}")

    async def add(self, repo: str, file: str | None, folder: str | None, projector: bool) -> Download:
        """Queue a model, for our own model folder or another one; one that is listed already goes on."""
        source = download_source(repo, self.hub.endpoint)
        source = source if file is None else Source(source.repo, download_file(file))
        parts, error, retry_at = list[Part](), None, None
        try:
            parts = await self.hub.parts(source, projector)
        except HubBusy as problem:
            error, retry_at = str(problem), now_ms() + 1000 * problem.details["retryAfter"]
        own = self.dash.config.data_dir / "models"
        place = own if folder is None else Path(folder)
        if place not in [*self.dash.folders(), own]:
            raise InvalidRequest("This is not a model folder.", field="folder")
        name = parts[0].name if parts else source.file or source.quantization or ANY_FILE
        download = Download(source.repo, name, str(download_place(place, source.repo)), parts, projector=projector,
                            error=error, retry_at=retry_at)
        known = self.items.get(download.key)
        if known and known.status in UNFINISHED_DOWNLOADS:
            await self.resume(known)
            return known
        if sum(item.status in UNFINISHED_DOWNLOADS for item in self.items.values()) >= MAX_QUEUED:
            raise Conflict(f"{MAX_QUEUED} downloads wait already. Cancel some first.")
        needed = sum(max(item.total - item.done, 0) for item in self.items.values() if item.status in ACTIVE)
        await self.use(download, download_check_space, download, needed)
        await self.resume(download)
        return download

    async def stop(self, download: Download, status: str) -> None:
        """End the work on a download: "paused" keeps what came so far, "cancelled" removes it."""
        if download.status == "done":
            raise Conflict(f"{download.file} is complete already")
        if status == "paused" and download.status not in ACTIVE:
            return
        download.status = status
        while (task := self.tasks.get(download.key)) and not task.done():
            task.cancel()  # more than once: before Python 3.12 one can get lost as an answer comes
            await asyncio.wait([task], timeout=1)
        self.tasks.pop(download.key, None)
        try:
            if status == "cancelled":
                await self.use(download, download.discard)
                download.error = None
            if download.status == status:  # nobody resumed it meanwhile
                await self.tell(download, status)
        except Unreachable as problem:  # what came is still there
            download.error = str(problem)
            await self.tell(download, "failed")
            raise
        finally:
            self.pump()

    def forget(self, path: str) -> None:
        """Let go of the finished download of the model at `path`, which was taken off the list: it can be had again."""
        self.items = {key: item for key, item in self.items.items() if item.path != path}

    async def resume(self, download: Download) -> None:
        """Put a download into the queue; StorageFull where that cannot be remembered, which leaves it as it was."""
        if download.status not in ("new", "paused", "failed"):
            return
        before = (self.items, download.status, download.error)
        others = {key: item for key, item in self.items.items() if key != download.key or item is download}
        self.items = {**others, download.key: download}  # a new one comes last
        download.status, download.error = "queued", download.error if download.retry_at else None
        try:
            self.remember()
        except DashError:
            self.items, download.status, download.error = before
            raise
        await self.show(download)
        self.pump()

    async def tell(self, download: Download, status: str) -> None:
        """Set the status, remember it and tell everybody; where it cannot be saved, the former one is remembered."""
        download.status = status
        with contextlib.suppress(DashError):
            self.remember()
        await self.show(download)

    async def show(self, download: Download) -> None:
        """Tell everybody how far a download is."""
        await self.dash.broadcast("models:download", download.as_json())

    def remember(self) -> None:
        """Save what is unfinished, and let go of what finished long ago."""
        for key in [key for key, item in self.items.items() if item.status not in UNFINISHED_DOWNLOADS][:-20]:
            del self.items[key]
        self.dash.db.set_meta("downloads", [dataclasses.asdict(item) for item in self.items.values()
                                            if item.status in UNFINISHED_DOWNLOADS])

    async def came(self, download: Download) -> None:
        """List the model that came, and note where from: who asked for a revision by its number has the newest."""
        download.path = path = str(await self.use(download, os.path.realpath, download.target(download.parts[0])))
        with contextlib.suppress(Conflict):  # a scan was faster
            await self.dash.library.add(path, source="download")
        hub = {"repo": re.sub(r"@[0-9a-f]{40}$", "", download.repo), "file": download.parts[0].name, "newer": None,
               "files": {part.name: part.sha256 or part.size for part in download.parts}, "checked": now_ms()}
        self.dash.db.note_of_models("hub", {row["id"]: hub for row in self.dash.db.models() if row["path"] == path})

    async def work(self, download: Download) -> None:
        """Fetch one download to its end, good or bad, and start the next one."""
        try:
            await Transfer(self.hub, download, self.show, self.use).run()
            await self.came(download)
            status = "done"
            log.info("downloaded %s from %s", download.file, download.repo)
        except Exception as problem:  # a bug, too, for it must not hold up the queue
            told = database_error(problem, f"{download.file} cannot be written", Path(download.place)) \
                if isinstance(problem, OSError) else problem
            status, download.error = "failed", str(failure_of("a download", told))
            log.warning("download of %s from %s failed: %s", download.file, download.repo, download.error)
        finally:
            self.tasks.pop(download.key, None)
        with contextlib.suppress(Unreachable):
            await self.use(download, download.count)
        await self.tell(download, status)
        self.pump()
        self.dash.event("download", reason=f"{download.file} failed: {download.error}" if download.error else
                        f"{download.file} is complete", details={"alert": "download"})

    async def look_for_newer(self) -> None:
        """Ask the hub once a day whether what came from it has newer files there, where the owner does not mind."""
        due = {hub["repo"] for hub in self.hubs().values() if abs(now_ms() - hub["checked"]) > DAY}
        for repo in sorted(due) if self.dash.engine_config["check_models"] else ():
            if steady_ms() >= self.asked_again:  # else the others are asked about another time
                await self.look_up(repo)

    def hubs(self) -> dict[str, Json]:
        """Where the models that are here came from, by id."""
        saved = {row["id"]: good_values(row["hub"], HUB_FIELDS) for row in self.dash.db.models() if row["hub"]}
        return {id: hub for id, hub in saved.items() if len(hub) == len(HUB_FIELDS)}

    async def look_up(self, repo: str) -> None:
        """Note of the models of a repository which revision has newer files of them."""
        try:
            files, info = await self.hub.listing(repo)
        except DashError as problem:
            log.info("%s was not asked for newer files: %s", repo, problem)
            if isinstance(problem, HubBusy):
                self.asked_again = steady_ms() + 1000 * problem.details["retryAfter"]
                return
            files, info = {}, {}
        changed = {}
        for id, hub in self.hubs().items():
            if hub["repo"] == repo:
                here = [(files[name], known) for name, known in hub["files"].items() if name in files]
                differ = any(known not in (part.sha256, part.size) and (part.sha256 or type(known) is int)
                             for part, known in here)
                newer = str(info.get("sha") or "main") if differ else None
                changed[id] = {**hub, "checked": now_ms(), "newer": newer if files else hub["newer"]}
        self.dash.db.note_of_models("hub", changed)
        for id in changed:
            await self.dash.broadcast("models:updated", {"model": self.dash.model(id)})


class Transfer:
    """Brings all parts of one download here, over as many connections as it takes, and checks them."""

    def __init__(self, hub: ModelHub, download: Download, tell: Callable[[Download], Awaitable[None]],
                 use: Callable[..., Awaitable[Any]]) -> None:
        self.hub, self.download, self.tell = hub, download, tell
        self.use = functools.partial(use, download)  # what touches its folder
        self.told = collections.deque[tuple[float, int]]([], 20)  # when, and how much had come; for the speed

    async def run(self) -> None:
        """Bring all parts here, then give them their names at once: half a model is never in the folder."""
        await self.use(self.download.count)
        await self.report("running")
        if wait := max((self.download.retry_at or 0) - now_ms(), 0) / 1000:
            await self.rest(self.download.error or "", min(wait, MAX_RETRY_AFTER))
        if not self.download.parts:
            named = self.download.file if self.download.file.lower().endswith(".gguf") else None
            wanted = None if named or self.download.file == ANY_FILE else self.download.file
            source = Source(self.download.repo, named, wanted)
            self.download.parts = await self.patiently(self.hub.parts, source, self.download.projector)
        async with self.hub.session() as self.session:
            for part in self.download.parts:
                await self.fetch(part)
        await self.use(self.download.finish)

    async def report(self, status: str | None = None) -> None:
        """Tell of a new `status`, or else how far the download is: four times a second at most."""
        download, now = self.download, time.monotonic()
        if status:
            download.status, download.speed = status, 0.0
            self.told.clear()
        elif now - self.told[-1][0] < 0.25:
            return
        elif now > (before := self.told[0])[0]:
            download.speed = max(download.done - before[1], 0) / (now - before[0])
        self.told.append((now, download.done))
        await self.tell(download)

    async def fetch(self, part: Part) -> None:
        """Fetch the rest of one file, and check it; Conflict where another file has its name already."""
        target, partial = self.download.target(part), self.download.partial(part)
        existing = bool(await self.use(files_size, target))
        begun = existing or part.here > 0
        file = await self.use(PartFile, part, target if existing else partial, existing, self.download.folder)
        try:
            if begun:
                await self.report("verifying")
                while await self.use(file.adopt):
                    await self.report()
                await self.report("running")
            if part.here > part.size and not existing:
                await self.use(file.restart)
            while part.here < part.size and not existing:  # over a new connection whenever one is cut
                await self.patiently(self.transfer, part, file)
            if part.here != part.size:
                raise WrongContent(f"{part.name} has {part.here} bytes instead of the {part.size} announced")
            if part.sha256 and file.hash.hexdigest() != part.sha256:
                raise WrongContent(f"{part.name} is damaged: its checksum is not the one announced")
        except WrongContent:
            if existing:
                raise Conflict(f"{target} is another file of the same name") from None
            await self.use(file.restart)
            await self.use(partial.unlink, True)
            raise
        finally:
            await self.use(file.close, limit=WRITE_LIMIT)
        if existing:
            await self.use(partial.unlink, True)

    async def patiently(self, step: Callable[..., Awaitable[Result]], *arguments: Any) -> Result:
        """Take a `step`, again where the hub fails: HubUnavailable after RETRIES in a row that bring nothing."""
        failures, download = 0, self.download
        while True:
            before = download.done
            try:
                return await step(*arguments)
            except HubUnavailable as problem:
                failures = 1 if download.done > before else failures + 1
                if failures > RETRIES:
                    raise HubUnavailable(f"gave up after {failures} attempts: {problem}") from problem
                log.info("download of %s: %s; trying again", download.file, problem)
                pause = min(RETRY_PAUSE[0] * 2 ** (failures - 1), RETRY_PAUSE[1])
                await self.rest(str(problem), max(pause, problem.details.get("retryAfter", 0)))

    async def rest(self, problem: str, pause: float) -> None:
        """Wait for the next attempt, visibly."""
        try:
            self.download.error, self.download.retry_at = problem, now_ms() + round(pause * 1000)
            await self.report("running")
            await asyncio.sleep(pause)
        finally:
            self.download.error = self.download.retry_at = None
        await self.report("running")

    async def transfer(self, part: Part, file: PartFile) -> None:
        """Bring what one connection gives."""
        if not part.sha256:  # nothing would tell whether it has changed at the hub since the last connection
            await self.use(file.restart)
        headers = {"Range": f"bytes={part.here}-"} if part.here else {}
        repo, _, revision = self.download.repo.partition("@")
        place = part.address or \
            f"{repo}/resolve/{urllib.parse.quote(revision or 'main', safe='')}/{urllib.parse.quote(part.name)}"
        await self.use(download_check_space, self.download, 0)
        async with self.hub.get(self.session, place, part.name, headers) as (response, announced):
            if announced.sha256 not in (None, part.sha256) or announced.size not in (0, part.size):
                part.size, part.sha256 = announced.size or part.size, announced.sha256
                await self.use(file.restart)
                if response.status == 206:
                    raise HubUnavailable("the file has changed at the hub")  # and this is the end of the new one
            if response.status == 206:
                if not response.headers.get("Content-Range", "").startswith(f"bytes {part.here}-"):
                    raise HubUnavailable("another range came than was asked for")
            elif response.content_length not in (None, part.size):
                problem = f"{part.name} has {response.content_length} bytes instead of the {part.size} announced"
                raise HubUnavailable(problem) if part.here else WrongContent(problem)  # what came before may be good
            elif part.here:  # it gives all or nothing
                await self.use(file.restart)
            await self.receive(response, part, file)
        if part.here < part.size:
            raise HubUnavailable("the connection was cut")

    async def receive(self, response: aiohttp.ClientResponse, part: Part, file: PartFile) -> None:
        """Write what comes, in large blocks; of a connection that is cut, all that was read is kept."""
        block = bytearray()
        try:
            async for chunk in response.content.iter_any():
                block += chunk
                part.here += len(chunk)
                if part.here > part.size:
                    raise WrongContent(f"{part.name} is longer than announced")
                if len(block) >= DOWNLOAD_BLOCK:
                    full, block = bytes(block), bytearray()
                    await self.use(file.write, full, limit=WRITE_LIMIT)
                await self.report()
        finally:
            await self.use(file.write, bytes(block), limit=WRITE_LIMIT)


def download_check_space(download: Download, others: int) -> None:
    """StorageFull unless the disk has room for the rest of `download` and `others` bytes more."""
    places = [Path(download.place), *Path(download.place).parents]
    place = next((place for place in places if place.exists()), places[-1])
    download.count()
    missing = max(download.total - download.done, 0)
    free, needed = shutil.disk_usage(place).free, missing + others + DISK_RESERVE
    if missing and needed > free:
        raise StorageFull(f"{place} has {free / 2**30:.1f} GiB free; {download.file} needs {needed / 2**30:.1f} GiB "
                          "with the reserve for the system")


# Public, not gated, free to use, and run by every llama.cpp of the last year. Sizes as published; the real one is
# asked for before the download. Memory: weights, 4096 tokens of context and the compute buffers.
RECOMMENDED = tuple({"name": name, "repo": repo, "file": file, "size": size, "memory": memory, "license": "apache-2.0",
                     "quantization": download_quantization(file), "text": text}
                    for name, repo, file, size, memory, text in (
    ("SmolLM2 135M Instruct", "bartowski/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct-Q4_K_M.gguf",
     105_454_432, 400_000_000, "Tiny: shows within seconds that everything works."),
    ("Qwen3 0.6B", "Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf",
     639_446_688, 1_500_000_000, "Small and quick, thinks before it answers; for machines with little memory."),
    ("SmolLM2 1.7B Instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF", "smollm2-1.7b-instruct-q4_k_m.gguf",
     1_055_609_536, 2_300_000_000, "Good English answers on any modern CPU."),
    ("Qwen3 4B", "Qwen/Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf",
     2_497_280_256, 4_000_000_000, "Many languages, code and reasoning; a GPU or some patience helps."),
    ("Qwen3 8B", "Qwen/Qwen3-8B-GGUF", "Qwen3-8B-Q4_K_M.gguf",
     5_030_000_000, 6_900_000_000, "A good all-rounder for a GPU of 8 GB."),
    ("gpt-oss 20B", "ggml-org/gpt-oss-20b-GGUF", "gpt-oss-20b-mxfp4.gguf",
     12_110_000_000, 13_800_000_000, "Reasons and calls tools; fast, as few of its weights work at a time."),
    ("Qwen3 30B A3B", "Qwen/Qwen3-30B-A3B-GGUF", "Qwen3-30B-A3B-Q4_K_M.gguf",
     18_560_000_000, 20_500_000_000, "A mixture of experts: much knowledge at the speed of a small model; for 24 GB."),
    ("gpt-oss 120B", "ggml-org/gpt-oss-120b-GGUF", "gpt-oss-120b-mxfp4-00001-of-00003.gguf",
     63_370_000_000, 66_000_000_000, "The largest here; for 80 GB, or a machine whose GPU shares its memory."),
))
RepoText = Annotated[str, Length(3, 1024)]
FileText = Annotated[str, Length(1, 512)]


@on("models:repo", error="LIST_REPO_FAILED")
async def models_repo(dash: Dash, *, repo: RepoText) -> Json:
    """The GGUF models of a repository on the hub, and which of them `repo` asks for, or most people want."""
    hub = dash.downloads.hub
    source = download_source(repo, hub.endpoint)
    files, info = await hub.listing(source.repo)
    models = await asyncio.to_thread(download_models, files)
    return {**download_repo(info), "repo": source.repo, "files": models, "more": len(files) >= MAX_REPO_FILES,
            "selected": (download_choice(models, source) or {}).get("file")}


@on("models:search", error="SEARCH_MODELS_FAILED", cost=5)
async def models_search(dash: Dash, *, query: Annotated[str, Length(1, 200)]) -> Json:
    """The repositories on the hub that have GGUF files and the words of `query`, the most downloaded ones first."""
    wanted = {"search": query, "filter": "gguf", "sort": "downloads", "direction": "-1", "limit": MAX_FOUND,
              "expand[]": ("downloads", "likes", "gated", "lastModified", "tags", "gguf")}
    repos = await dash.downloads.hub.json(
        f"api/models?{urllib.parse.urlencode(wanted, doseq=True)}", "the list of models",
        lambda found: [download_repo(item) for item in found if isinstance(item, dict)] if type(found) is list else [])
    return {"repos": [item for item in repos if re.fullmatch(REPO, item["repo"])][:MAX_FOUND]}


@on("models:download", error="DOWNLOAD_MODEL_FAILED")
async def models_download(dash: Dash, *, repo: RepoText, file: FileText | None = None, projector: bool = True,
                          folder: Annotated[str, Length(1, 4096)] | None = None) -> Json:
    """Queue the download of a model, with its shards and its projector."""
    return {"download": (await dash.downloads.add(repo, file, folder, projector)).as_json()}


def download_handler(verb: str, done: str, work: Callable[[Downloads, Download], Awaitable[None]]) -> None:
    """Let clients ask for `work` on a download, as models:download:`verb`; the timeline says that it was `done`."""
    async def handler(dash: Dash, *, repo: RepoText, file: FileText) -> Json:
        if not (download := dash.downloads.items.get((repo, file))):
            raise NotFound(f"There is no download of {file} from {repo}")
        before = download.status
        await work(dash.downloads, download)
        if download.status != before:
            dash.event("download", reason=f"{file} was {done}")
        return {"download": download.as_json()}
    on(f"models:download:{verb}", error=f"{verb.upper()}_DOWNLOAD_FAILED")(handler)


download_handler("cancel", "cancelled", lambda downloads, item: downloads.stop(item, "cancelled"))
download_handler("pause", "paused", lambda downloads, item: downloads.stop(item, "paused"))
download_handler("resume", "resumed", Downloads.resume)


@on("models:downloads", error="LIST_DOWNLOADS_FAILED")
async def models_downloads(dash: Dash) -> Json:
    """All downloads, oldest first, and the models that are good to begin with."""
    return {"downloads": [item.as_json() for item in dash.downloads.items.values()], "recommended": list(RECOMMENDED)}


# -- Official builds ------------------------------------------------------------------------------

ENGINE_REPO = "ggml-org/llama.cpp"
ENGINE_ASSET = re.compile(r"(cudart-)?llama-(?:[\w.-]+-)?bin-(ubuntu|macos|win)-(?:([\w.-]+)-)?(x64|arm64)"
                          r"\.(?:tar\.gz|zip)")
ENGINE_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
MAX_ENGINE_ARCHIVE = 4 * 2**30  # bytes; the largest, with CUDA's libraries, has 1
MAX_ENGINE_SIZE = 8 * 2**30  # bytes unpacked, of all archives of a build
MAX_ENGINE_FILES = 2000  # and folders
INSTALL_LIMIT = 900.0  # s for the embedded engine, where a slow line needs minutes for the 20 MB, or to unpack a build


def engine_assets(answer: Any) -> tuple[str, list[Part]]:
    """Tag and files of a release in GitHub's API; those without a digest are left out: they could not be checked."""
    assets = []
    for item in answer["assets"]:
        digest = re.fullmatch(r"sha256:([0-9a-f]{64})", str(item.get("digest")))
        if digest and type(item["size"]) is int and 0 < item["size"] <= MAX_ENGINE_ARCHIVE:
            assets.append(Part(str(item["name"]), item["size"], digest[1], tag=digest[1][:6],
                               address=str(item["browser_download_url"])))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", answer["tag_name"]):
        raise ValueError(answer["tag_name"])
    return answer["tag_name"], assets


def engine_offers(assets: list[Part], vendors: set[str], cuda: int | None, *, rocm: bool) -> dict[str, list[Part]]:
    """The archives of builds for this machine among a release's files, by kind such as cuda-13.4, the best first."""
    ours = ({"linux": "ubuntu", "darwin": "macos", "win32": "win"}.get(sys.platform),
            ENGINE_MACHINES.get(platform.machine().lower()))
    builds, runtimes = dict[str, Part](), dict[str, Part]()
    for asset in assets:
        found = ENGINE_ASSET.fullmatch(asset.name)
        if found and (found[2], found[4]) == ours:
            (runtimes if found[1] else builds)[found[3] or "cpu"] = asset
    versions = {kind: tuple(map(int, kind[5:].split("."))) for kind in builds
                if re.fullmatch(r"cuda-\d{1,3}(\.\d{1,3}){0,2}", kind)}
    lowest = min(versions.values(), default=(0,))[0]  # where it is not known which the driver runs
    kinds = [kind for kind in sorted(versions, key=versions.__getitem__, reverse=True)
             if "nvidia" in vendors and versions[kind][0] <= (cuda or lowest)]
    kinds += [kind for kind in builds if re.match(r"rocm|hip", kind) and "amd" in vendors and rocm]
    kinds += ["vulkan"] if vendors & {"nvidia", "amd", "intel"} else []
    return {kind: [part[kind] for part in (builds, runtimes) if kind in part]
            for kind in [*kinds, "cpu"] if kind in builds}


class BoundedGzip(gzip.GzipFile):
    """A compressed file of which nobody reads more at once than memory holds."""

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes; OSError for too many of them."""
        if size is None or not 0 <= size <= 64 * 2**20:
            raise OSError("a header of it is longer than any real one")
        return super().read(size)


INSTALLED_MARK = ".installed-by-llamadash"  # the file in a build that was not unpacked by its owner


def unpack_engine(archives: Iterable[Path], folder: Path) -> None:
    """Unpack the archives of a build: plain files, and links to files beside them; WrongContent for anything else."""
    import tarfile  # not at the top: seldom needed
    import zipfile
    import zlib
    room, files = MAX_ENGINE_SIZE, MAX_ENGINE_FILES
    try:
        for name, size, runs, link, content in itertools.chain.from_iterable(map(archive_members, archives)):
            room, files = room - size, files - 1
            if room < 0 or files < 0:
                raise WrongContent("the archive holds more than any release of llama.cpp")
            if link == ".":
                continue
            place = archive_place(folder, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            if content:
                with content, place.open("xb") as target:
                    shutil.copyfileobj(content, target, DOWNLOAD_BLOCK)
                place.chmod(0o755 if runs else 0o644)
            elif re.fullmatch(r"[^/\\]+", link) and link != "..":
                place.symlink_to(link)
            else:
                raise WrongContent(f"the archive holds {shortened(clean_text(name), 200)!r}, no plain file")
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("The disk is full.") from None
        raise WrongContent(f"the archive cannot be unpacked: {error}") from error


def archive_members(path: Path) -> Iterator[tuple[str, int, bool, str, typing.IO[bytes] | None]]:
    """What is in an archive: name, size, whether it can be run, what it links to, "." for a folder, and its content."""
    import tarfile
    import zipfile
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path) as zipped:
            for info in zipped.infolist():
                folder = info.is_dir()
                yield info.filename, info.file_size, True, "." * folder, None if folder else zipped.open(info)
        return
    with BoundedGzip(path) as plain, tarfile.open(fileobj=plain, mode="r:") as tar:
        for member in tar:
            link = "." if member.isdir() else member.linkname if member.issym() else ""
            content = tar.extractfile(member) if member.isreg() else None
            yield member.name, member.size, bool(member.mode & 0o100), link, content


def archive_place(folder: Path, name: str) -> Path:
    """Where a member of an archive goes: below the folder, without the one that a release is packed in."""
    pieces = [piece for piece in name.split("/") if piece not in ("", ".")]
    if name.startswith("/") or ".." in pieces or re.search(r"[\\:\x00-\x1f\x7f]", name):
        raise WrongContent(f"the archive names {shortened(clean_text(name), 200)!r}, which is outside of it")
    packed = len(pieces) > 1 and re.match(r"(cudart-)?llama-|bin$|build$", pieces[0])
    return folder.joinpath(*pieces[bool(packed):])


class Installer:
    """Installs the first official build of llama.cpp that starts here, or the embedded engine, and says how it goes."""

    def __init__(self, dash: Dash) -> None:
        releases = (os.environ.get("LLAMADASH_ENGINE_RELEASES") or "").strip()
        self.dash, self.hub = dash, ModelHub(releases or "https://api.github.com", dash.own_ports)
        self.folder = dash.config.data_dir / "engines"
        self.tasks: dict[bool, asyncio.Task[None]] = {}  # one for the embedded engine (True), one for official builds
        self.report: Json | None = None  # of the official build under way, or of the last one
        self.embedded: Json | None = None  # of the embedded engine: {line, done, success}
        self.newest: str | None = None
        self.due = 0  # when the newest is to be asked for, by steady_ms()

    async def begin(self) -> Json:
        """Begin to install the newest release, or to wait until the hub tells of it: the build that is to come."""
        try:
            tag, offers = await self.offers()
        except HubBusy as problem:
            return await self.start("llama.cpp", "llama.cpp", functools.partial(self.install_later, problem))
        return await self.start(f"llama.cpp {tag}", f"{tag}-{next(iter(offers))}",
                                functools.partial(self.install, tag, offers))

    async def install_later(self, problem: HubBusy) -> tuple[str, str]:
        """Install the newest release as soon as the hub, which had this `problem`, tells of it."""
        waiting = Download(ENGINE_REPO, "llama.cpp", str(self.folder), [])
        transfer = Transfer(self.hub, waiting, self.tell, self.dash.downloads.use)
        await transfer.rest(str(problem), problem.details["retryAfter"])
        return await self.install(*await transfer.patiently(self.offers))

    async def offers(self) -> tuple[str, dict[str, list[Part]]]:
        """The newest release, and its builds for this machine."""
        import ctypes.util  # not at the top: seldom needed
        tag, assets = await self.latest()
        sampler = self.dash.sampler
        vendors = {gpu["vendor"] for gpu in sampler.gpus.values() or await sampler.read_gpus()}
        rocm = await asyncio.to_thread(lambda: os.path.exists("/opt/rocm") or ctypes.util.find_library("amdhip64"))
        cuda = await sampler.nvidia.cuda() if "nvidia" in vendors else None
        if not (offers := engine_offers(assets, vendors, cuda, rocm=bool(rocm))):
            raise NotFound(f"llama.cpp {tag} has no build for this machine ({sys.platform}, {platform.machine()}).")
        return tag, offers

    async def start(self, what: str, id: str, work: Callable[[], Awaitable[tuple[str, str]]]) -> Json:
        """Begin with `work`, which installs a build and returns its id and what to say: the build that is to come."""
        if (task := self.tasks.get(id == "embedded")) and not task.done():
            raise Conflict(f"{what} is being installed already.")
        self.tasks[id == "embedded"] = self.dash.spawn(self.see_to(what, id, work), f"installation of {what}")
        return await self.say(id, "installing", f"{what} is being installed.")

    async def see_to(self, what: str, id: str, work: Callable[[], Awaitable[tuple[str, str]]]) -> None:
        """Do the `work` of an installation, and say how it went."""
        status, line = "failed", f"{what} was not installed: llamadash's log says why."
        try:
            id, line = await work()
            status = "installed"
        except asyncio.TimeoutError:
            line = f"{what} was not installed: it took more than {INSTALL_LIMIT / 60:.0f} minutes."
        except DashError as problem:
            line = f"{what} was not installed: {problem}"
        except OSError as problem:
            line = str(database_error(problem, f"{what} was not installed", self.folder))
        finally:
            log.log(logging.INFO if status == "installed" else logging.ERROR, "%s", line)
            await self.say(id, status, line)
        self.dash.event("build", reason=line, details={} if status == "installed" else {"alert": "build"})
        if status == "installed":
            await announce_build(self.dash, id)

    async def latest(self) -> tuple[str, list[Part]]:
        """Tag and files of the newest release."""
        for path in (f"repos/{ENGINE_REPO}/releases/latest", "releases/latest", "latest"):  # a mirror may be flat
            with contextlib.suppress(NotFound):
                return await self.hub.json(path, "llama.cpp's list of releases", engine_assets)
        raise NotFound(f"{self.hub.name} lists no releases of llama.cpp.")

    async def say(self, id: str, status: str, line: str, done: int = 0, total: int = 0) -> Json:
        """Tell every browser how far the installation is: the build."""
        build = {"id": id, "status": status, "problem": line if status == "failed" else None}
        if id == "embedded":
            ended = status != "installing"
            self.embedded = {"line": line, "done": ended, "success": status == "installed" if ended else None}
            await self.dash.broadcast("engine:install", self.embedded)
        else:
            self.report = {"build": build, "line": line, "done": done, "total": total}
            await self.dash.broadcast("engines:update", self.report)
        return build

    async def tell(self, download: Download) -> None:
        """Tell every browser how far the archives are."""
        step = f"{'Checking' if download.status == 'verifying' else 'Downloading'} {download.file}"
        await self.say(download.file, "installing", download.error or step, download.done, download.total)

    async def install(self, tag: str, offers: dict[str, list[Part]]) -> tuple[str, str]:
        """Install the first of `offers` that starts here."""
        reasons = []
        for kind, archives in offers.items():
            id = f"{tag}-{kind}"
            try:
                await self.fetch(id, kind, archives)
                break
            except (NotFound, EngineFailed) as problem:
                reasons.append(f"{kind}: {problem}")
                log.warning("the build %s is of no use here: %s", id, problem)
        else:
            raise EngineFailed("No build of it starts on this machine. " + " ".join(reasons))
        before = self.dash.builds.default(self.dash.engine_config)
        await self.dash.builds.refresh()
        await self.keep(before, self.dash.builds.get(id))
        return id, f"llama.cpp {tag} ({kind}) is installed." + "".join(f" Not {text}" for text in reasons)

    async def install_embedded(self) -> tuple[str, str]:
        """Install the embedded engine where this Python finds it, or else into data/venv."""
        own = sys.prefix != sys.base_prefix  # a virtual environment may be added to, the system's Python may not
        pip = ["-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
        commands = [[sys.executable, *pip, EMBEDDED_REQUIREMENT]] if own else [
            venv_commands([])[0], [str(VENV_PYTHON), *pip, *script_dependencies(SCRIPT), EMBEDDED_REQUIREMENT]]
        for command in [] if await asyncio.to_thread(embedded_python) else commands:
            await asyncio.wait_for(self.execute(command), INSTALL_LIMIT)
        importlib.invalidate_caches()
        await self.dash.builds.refresh()
        if "embedded" not in self.dash.builds.builds:
            raise EngineFailed("Python does not find it.")
        return "embedded", "The embedded engine is installed."

    async def execute(self, command: list[str]) -> None:
        """Run `command` and tell everybody what it writes; EngineFailed with its last error."""
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True)
        assert process.stdout is not None
        last = "it said nothing"
        try:
            async for line in process.stdout:
                if text := re.sub(CONTROL, "", line.decode("utf-8", "replace")).strip():
                    await self.say("embedded", "installing", shortened(text, MAX_LINE))
                    last = shortened(text, 500) if "error" in text.lower() or "error" not in last.lower() else last
            if status := await process.wait():
                raise EngineFailed(f"{Path(command[0]).name} ended with status {status}: {last}.")
        finally:
            if process.returncode is None:
                kill_group(process.pid)  # with what it has started

    async def fetch(self, id: str, kind: str, parts: list[Part]) -> None:
        """Download, unpack and try one build; EngineFailed where it does not start, or sees none of the GPUs."""
        archives, fresh = self.folder / ".downloads", self.folder / f".{id}"
        download = Download(ENGINE_REPO, id, str(download_place(archives, ENGINE_REPO)), parts)
        await Transfer(self.hub, download, self.tell, self.dash.downloads.use).run()
        await self.say(id, "installing", f"Unpacking {id}", download.total, download.total)
        use = functools.partial(self.dash.downloads.use, download, limit=INSTALL_LIMIT)
        try:
            await use(shutil.rmtree, fresh, True)
            await use(unpack_engine, map(download.target, parts), fresh)
            program = program_below(fresh)
            if program is None:
                raise WrongContent(f"{parts[0].name} holds no llama-server.")
            build = await probe(build_of(id, program), self.dash.config.data_dir)
            if build.problem:
                raise EngineFailed(build.problem)
            if kind != "cpu" and not build.devices:
                raise EngineFailed("It sees no GPU.")
            await use((fresh / INSTALLED_MARK).touch)
            await use(replace_build, self.folder / id, fresh)
        finally:
            for folder in (fresh, archives):
                await use(shutil.rmtree, folder, True)  # once nothing is written there any more

    async def keep(self, before: Build | None, build: Build) -> None:
        """Let a new build wait for its owner where the one before does as much; and remove what is too old."""
        config = self.dash.engine_config
        equal = before and before.kind == build.kind and len(before.devices) >= len(build.devices)
        if before and equal and before.id != "given" and not config["build"]:
            await apply_config(self.dash, None, {"build": before.id})
        self.dash.pool.sync()
        used = {build.id, *(item.build.id for item in self.dash.pool.instances.values()),
                self.dash.engine_config["build"], *(model["build"] for model in self.dash.db.models())}
        spare = [item.id for item in self.dash.builds.installed()
                 if item.id not in used and (self.folder / item.id / INSTALLED_MARK).exists()]  # others are the owner's
        for id in spare[2:]:  # with the new one, three are kept
            await asyncio.to_thread(replace_build, self.folder / id)
        await self.dash.builds.refresh()

    async def look_for_newer(self) -> None:
        """Look for a newer release once a day, where there is a build of llama.cpp and the owner does not mind."""
        known = any(build.kind == "llama-server" for build in self.dash.builds.builds.values())
        if not (known and self.dash.engine_config["check_releases"]) or steady_ms() < self.due:
            return
        self.due = steady_ms() + DAY
        with contextlib.suppress(DashError):
            self.newest, _ = await self.latest()
            if self.newer and self.newer != self.dash.db.get_meta("told_build"):
                self.dash.event("build", reason=f"llama.cpp {self.newer} is available.", details={"alert": "build"})
                self.dash.db.set_meta("told_build", self.newer)
        await self.dash.gateway.publish()

    @property
    def newer(self) -> str | None:
        """The tag of a release that is newer than every build here, whoever installed it, as far as these tell."""
        newest, builds = numbers_of(self.newest or ""), self.dash.builds  # of b11434, or of 0.6.0
        old = {have < newest for build in builds.builds.values()
               for have in ((build.number or 0,), numbers_of((build.version or "").partition(" ")[0]))
               if any(have) and len(have) == len(newest)}
        old |= {not build.id.startswith(f"{self.newest}-") for build in builds.installed()}
        return self.newest if True in old and False not in old else None


def replace_build(folder: Path, new: Path | None = None) -> None:
    """Remove a build, which is none any more as soon as that begins, and let a `new` one take its place."""
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent, ignore_cleanup_errors=True) as doomed:
        if folder.exists():
            os.replace(folder, f"{doomed}/old")
        if new:
            os.replace(new, folder)


@on("engine:install", error="INSTALL_ENGINE_FAILED", cost=20)
async def engine_install(dash: Dash) -> Json:
    """Begin to install the embedded engine; `engine:install` tells how that goes, and the engine's record too."""
    await dash.installer.start("The embedded engine", "embedded", dash.installer.install_embedded)
    return {"engine": dash.gateway.snapshot()}


@on("engines:install", error="INSTALL_ENGINE_FAILED", cost=20)
async def engines_install(dash: Dash) -> Json:
    """Install llama.cpp's newest official build for this machine; `engines:update` tells how far it is."""
    return {"build": await dash.installer.begin()}


@on("engines:remove", error="REMOVE_ENGINE_FAILED", cost=5)
async def engines_remove(dash: Dash, *, id: Annotated[str, Length(1, 96)]) -> Json:
    """Remove a build that was installed here and that nobody uses."""
    build = dash.builds.get(id)
    if build not in dash.builds.installed():
        raise InvalidRequest("Only builds below data/engines can be removed here.", field="id")
    if any(instance.build.id == id for instance in dash.pool.instances.values()):
        raise Conflict("This build runs a model. Unload it first.")
    if users := [model["name"] for model in dash.db.models() if model["build"] == id]:
        raise Conflict(f"This build is chosen by {', '.join(users[:3])}.")
    await asyncio.to_thread(replace_build, dash.installer.folder / id)
    await dash.builds.refresh()
    dash.pool.sync()
    dash.event("build", reason=f"{id} was removed")
    await dash.broadcast("engines:update", {"build": {**build.as_json(), "status": "removed"}})
    return {"build": build.as_json()}


# -- Journal and logs -----------------------------------------------------------------------------

JOURNAL_PENDING = 20_000  # entries waiting to be written; beyond, the oldest are dropped and counted
JOURNAL_BROADCAST = 500  # entries of one batch that go to the clients; the rest is counted as dropped
MAX_LINE = 8192  # bytes of one message; an engine's longest line fits with what is said of its rest
LOG_RECORDS, LOG_PERIOD = 120, 60.0  # lines of one place in the code, and seconds; more are counted and said


class Journal:
    """Our own records and the engine's lines: kept in SQLite, streamed to the clients in batches."""

    def __init__(self, dash: Dash) -> None:
        self.dash = dash
        self.pending: collections.deque[Json] = collections.deque(maxlen=JOURNAL_PENDING)
        self.dropped = 0
        self.filled = asyncio.Event()
        self.last_id = dash.db.last_id("logs")
        self.writing = asyncio.Lock()

    def add(self, level: str, source: str, message: str) -> None:
        """Add one entry, cleaned and cut; never blocks. Call it on the loop."""
        if LOG_LEVELS.index(level) < LOG_LEVELS.index(self.dash.settings["log_level"]):
            return
        message = shortened(re.sub(CONTROL, "", message.replace("\t", "    ")).rstrip(), MAX_LINE)
        if not message:
            return
        self.dropped += len(self.pending) == JOURNAL_PENDING
        self.last_id += 1
        self.pending.append({"id": self.last_id, "timestamp": now_ms(), "level": level, "source": source,
                             "message": message})
        self.filled.set()

    async def run(self) -> None:
        """Write and broadcast what has come in, in batches, for as long as the program runs."""
        while True:
            await self.filled.wait()
            await self.flush()
            await asyncio.sleep(0.1)  # ten batches a second are as live as eyes can tell

    async def flush(self) -> None:
        """Write and broadcast everything that is pending."""
        async with self.writing:
            self.filled.clear()
            entries, dropped, self.dropped = list(self.pending), self.dropped, 0
            self.pending.clear()
            if not entries:
                return
            with contextlib.suppress(DashError):  # streaming goes on when the disk is full
                await asyncio.to_thread(self.dash.db.add_logs, entries)
            shown = entries[-JOURNAL_BROADCAST:]
            dropped += len(entries) - len(shown)
            await self.dash.broadcast("logs:entries", {"entries": shown, "dropped": dropped})


class JournalHandler(logging.Handler):
    """Hands the records of Python's logging to the journal, from whichever thread they come."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.journal = journal
        self.loop = asyncio.get_running_loop()
        self.limiter = LogLimiter(LOG_RECORDS, LOG_PERIOD)

    def emit(self, record: logging.LogRecord) -> None:
        """Add one record, on the loop; of a flood only the beginning, and how much more there was."""
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | web.RequestPayloadError):
            self.journal.dash.hub.refused["malformed HTTP requests"] += 1  # no fault of ours
            return
        try:
            text = self.format(record)
        except Exception:  # of whoever logs: it must not fail where that is called
            text = f"a message that cannot be shown: {record.msg!r}"
        # What a library has to say, others choose.
        text = shortened(text, MAX_LINE) if record.name == log.name else shortened(f"{record.name}: {text}", 500)
        if not self.limiter.allows(f"{record.name} (line {record.lineno})", time.monotonic(), len(text.encode())):
            return
        level = record.levelname.lower() if record.levelname.lower() in LOG_LEVELS else "error"
        entries = [("warning", f"{count} more messages of {name} were left out")
                   for name, count in self.limiter.suppressed().items()]
        for entry in (*entries, (level, text)):
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self.loop.call_soon_threadsafe(self.journal.add, entry[0], "llamadash", entry[1])


@on("logs:list", error="LIST_LOGS_FAILED")
async def logs_list(dash: Dash, *, level: LogLevel | None = None, source: Annotated[str, Length(1, 96)] | None = None,
                    search: Annotated[str, Length(0, 256)] | None = None, from_: Timestamp | None = None,
                    to: Timestamp | None = None, before: Timestamp | None = None, after: Timestamp | None = None,
                    limit: Annotated[int, Range(1, 500)] = 100,
                    parts: Annotated[int, Range(1, 200)] | None = None) -> Json:
    """The newest log entries of a level and above that match, or the first ones after an id; with `parts` how many."""
    await dash.journal.flush()
    wanted: Json = {"source": source, "search": search, "from_ms": from_, "to_ms": to}
    if parts:
        return await asyncio.to_thread(dash.db.log_counts, parts, **wanted)
    logs, more = await asyncio.to_thread(dash.db.logs, **wanted, level=level, before=before, after=after, limit=limit)
    return {"logs": logs, "hasMore": more}


@on("logs:clear", error="CLEAR_LOGS_FAILED", cost=10)
async def logs_clear(dash: Dash) -> Json:
    """Delete every log entry."""
    await dash.journal.flush()
    cleared = await asyncio.to_thread(dash.db.clear_logs)
    await dash.broadcast("logs:cleared", {})
    return {"cleared": cleared}


# -- Alerts ---------------------------------------------------------------------------------------

ALERT_HOLD, ALERT_PAUSE = 10.0, 600.0  # s that a condition must last to be told or over; until the same is sent again
ALERT_GATHER, ALERT_GATHER_MOST = 2.0, 15.0  # s without a new alert until they become one message; at most
ALERT_SPACING = 30.0  # s from one message to the next
ALERT_RETRIES = (5.0, 30.0, 120.0, 600.0, 3600.0)  # s between two tries of a message
ALERT_TIME, ALERT_LINES, ALERT_KEPT = 20.0, 50, 1000  # s of one try; alerts told in one message, and that wait for it
UNSERVED = 60.0  # s in which nobody who asked was served
ALERT_ADDRESS = r"(?:ntfy\+)?https?://[^/\s]+/\S*|smtps?://[^/\s]+/?\?\S*\bto=\S+"
ALERT_EXAMPLES = "NAME=ntfy+https://ntfy.sh/TOPIC, NAME=https://… (a webhook) or NAME=smtp://USER@HOST:587/?to=ADDRESS"


class AlertTarget:
    """One place that alerts are sent to: a topic of ntfy, a webhook or a mailbox; a slow one delays no other."""

    def __init__(self, name: str, address: str, secret: str) -> None:
        self.name, self.secret, self.url = name, secret, urllib.parse.urlsplit(address.removeprefix("ntfy+"))
        self.kind = {"n": "ntfy", "s": "e-mail"}.get(address[0], "webhook")
        self.error: str | None = None
        self.wait = 0.0  # s for which it wants no further message
        self.pending: list[Json] = []
        self.filled = asyncio.Event()

    def add(self, alert: Json) -> None:
        """Send an alert in a moment."""
        self.pending = [*self.pending, alert][-ALERT_KEPT:]
        self.filled.set()

    async def run(self) -> None:
        """Send what was added, one message for all that came meanwhile, and again where that fails."""
        while True:
            await self.filled.wait()
            latest = time.monotonic() + ALERT_GATHER_MOST
            while self.filled.is_set() and time.monotonic() < latest:
                self.filled.clear()
                await asyncio.sleep(ALERT_GATHER)
            for pause in (*ALERT_RETRIES, 0):
                self.filled.clear()
                alerts, self.wait = self.pending, 0.0
                if await self.send(alerts):
                    break
                await asyncio.sleep(max(pause, self.wait))
            self.pending = [alert for alert in self.pending if alert not in alerts]
            await asyncio.sleep(ALERT_SPACING)

    async def send(self, alerts: Sequence[Json]) -> bool:
        """Send these alerts as one message; whether that succeeded."""
        texts, more = [str(alert["message"]) for alert in alerts[:ALERT_LINES]], len(alerts) - ALERT_LINES
        what = texts[0][:100] if len(texts) == 1 else f"{len(alerts)} alerts"
        title = f"llamadash on {socket.gethostname()}: {what}"
        text = "\n".join([*texts, f"… and {more} more"] if more > 0 else texts)
        try:
            await asyncio.wait_for(
                asyncio.wrap_future(in_own_thread(functools.partial(send_mail, self.url, self.secret, title, text)))
                if self.kind == "e-mail" else self.post(title, text, alerts[:ALERT_LINES]), ALERT_TIME)
            self.error = None
        except (DashError, aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as problem:  # and smtplib's
            told = str(problem.message if isinstance(problem, aiohttp.ClientResponseError) else problem)
            told = re.sub(r"\((\d{3}), b(['\"])(.*?)\2\)", r"\1 \3", told)  # as smtplib has what a server said
            for secret in filter(None, (self.url.query, self.url.path.strip("/"), self.url.password, self.secret)):
                told = told.replace(secret, "…")  # whoever has a topic or a webhook's path may send there
            self.error = shortened(clean_text(told), 300) or f"no answer within {ALERT_TIME:.0f} s"
            log.warning("%d alerts were not sent to %s: %s", len(alerts), self.name, self.error)
        return self.error is None

    async def post(self, title: str, text: str, alerts: Sequence[Json]) -> None:
        """Send a message to ntfy, or to a webhook, signed with the secret; redirects are not followed."""
        body = encoded({"title": title, "text": text, "alerts": alerts})
        headers = {"Content-Type": "application/json"}
        if self.kind == "ntfy":
            body, headers = text.encode(), {"Title": "".join(filter(str.isprintable, title))}
            headers |= {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        elif self.secret:
            digest = hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
            headers["X-Llamadash-Signature"] = f"sha256={digest}"
        async with aiohttp.ClientSession(trust_env=False) as session, session.post(
                yarl.URL(self.url.geturl(), encoded=True), data=body, headers=headers, allow_redirects=False) as answer:
            if answer.status >= 300:
                self.wait = min(retry_after(answer.headers), MAX_RETRY_AFTER)
                raise DashError(f"it answered with status {answer.status}")


def send_mail(url: urllib.parse.SplitResult, secret: str, subject: str, text: str) -> None:
    """Send an e-mail by the server, the user and the addresses that `url` names; in a thread."""
    import smtplib  # not at the top: few send any
    from email.message import EmailMessage

    query, user = dict(urllib.parse.parse_qsl(url.query)), urllib.parse.unquote(url.username or "")
    host, message, context = str(url.hostname), EmailMessage(), ssl.create_default_context()
    message["To"], message["From"] = query["to"], query.get("from") or user or query["to"].partition(",")[0]
    message["Subject"], message["Date"] = " ".join(subject.split()), email.utils.formatdate(localtime=True)
    message.set_content(text)
    with smtplib.SMTP_SSL(host, url.port or 465, timeout=ALERT_TIME, context=context) if url.scheme == "smtps" else \
            smtplib.SMTP(host, url.port or 587, timeout=ALERT_TIME) as server:
        server.ehlo()
        if server.has_extn("starttls"):
            server.starttls(context=context)
        elif user and url.scheme == "smtp" and host != "localhost" and not is_loopback(host):
            raise DashError("the server offers no encryption, and so it is not told the password")
        if user:
            server.login(user, urllib.parse.unquote(url.password or secret))
        server.send_message(message)


def alert_named(text: str) -> tuple[str, str] | None:
    """The name and the address of NAME=URL; None where that is no place to send alerts to."""
    name, _, address = text.partition("=")
    return (name, address) if re.fullmatch(UPSTREAM_NAME, name) and re.fullmatch(ALERT_ADDRESS, address) else None


def alert_targets(config: Config) -> Iterator[AlertTarget]:
    """The places that the options and data/alerts.ini name: a section each, with `url` and `secret`."""
    import configparser  # not at the top: few have the file

    path, parser = config.data_dir / "alerts.ini", configparser.ConfigParser(interpolation=None)
    parser.read_dict({name: {"url": address} for name, address in config.alerts})
    try:
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", opener=file_behind) as file:
            parser.read_file(file)
            os.chmod(path, 0o600)
    except (configparser.Error, OSError, ValueError) as problem:  # whose message may hold a secret
        log.warning("%s is not used: %s", path, getattr(problem, "strerror", type(problem).__name__))
    for name in parser.sections():
        address, variable = parser[name].get("url", ""), re.sub("[^A-Za-z0-9]", "_", name).upper()
        secret = os.environ.get(f"LLAMADASH_ALERT_{variable}_SECRET", parser[name].get("secret", ""))
        if alert_named(f"{name}={address}"):
            yield AlertTarget(name, address, secret.strip())
        else:
            log.warning("No alerts are sent to %s: its url is not as in %s", name, ALERT_EXAMPLES)


class Alerts:
    """What the owner is told of: events that matter, and conditions that last."""

    def __init__(self, dash: Dash) -> None:
        self.dash, self.targets = dash, [*alert_targets(dash.config)]
        self.active: dict[str, Json] = {}  # what lasts, by its message
        self.since: dict[str, float] = {}  # when those began that are about to turn
        self.sent = LogLimiter()  # knows what was sent of late

    def tell(self, kind: str, message: str, model: str | None = None) -> None:
        """Put an alert into the history and send it, unless the same was sent a short while ago."""
        if kind in self.dash.settings["alerts_off"]:
            return
        self.dash.event("alert", model, message, {"kind": kind})
        if self.sent.is_new(f"{kind} {model or message}", pause=ALERT_PAUSE):
            for target in self.targets:
                target.add({"timestamp": now_ms(), "kind": kind, "model": model, "message": message})

    async def look(self, metrics: Json) -> None:
        """Tell of what lasts, and when it is well below its limit again: heat, full disks and memory, nobody served."""
        limits, before, requests = self.dash.settings, dict(self.active), self.dash.requests
        values: list[tuple[AlertKind, float | None, float, float, str]] = [  # and the limit, and the way back from it
            ("unserved", requests.unserved_for(), UNSERVED, UNSERVED, "No request was answered for a minute.")]
        values += [("disk", disk["usage"], limits["alert_disk"], 2, f"The disk of {disk['path']} is nearly full.")
                   for disk in metrics["disks"]]
        for gpu in metrics["gpus"]:
            name, used, slowed = f"GPU {gpu['index']} ({gpu['name']})", gpu["memory_used"], gpu.get("throttled")
            share = used and gpu["memory_total"] and 100 * used / gpu["memory_total"]
            throttled = None if slowed is None else float(bool({*slowed} - {"power"}))  # a limit that its owner chose
            values += [("temperature", gpu["temperature"], limits["alert_temperature"], 5, f"{name} is too hot."),
                       ("throttled", throttled, 1, 1, f"{name} is slowed down by heat or by its power supply."),
                       ("memory", share, limits["alert_memory"], 2, f"The memory of {name} is nearly full.")]
        for kind, value, limit, margin, message in values:
            over, now = message in self.active, time.monotonic()
            if value is None or (value > limit - margin if over else value < limit):  # what is unknown stays as it is
                self.since.pop(message, None)
            elif now - self.since.setdefault(message, now) >= ALERT_HOLD:
                del self.since[message]
                if not self.active.pop(message, None):
                    self.active[message] = {"kind": kind, "message": message, "value": value, "since": now_ms()}
                self.tell(kind, f"Over: {message}" if over else message)
        known = {message for kind, *_, message in values if kind not in limits["alerts_off"]}
        self.active = {message: alert for message, alert in self.active.items() if message in known}
        if self.active != before:
            await self.dash.broadcast("alerts:updated", {"active": [*self.active.values()]})


@on("alerts:test", error="TEST_ALERTS_FAILED", cost=20)
async def alerts_test(dash: Dash) -> Json:
    """Send a test message to every place at once, and say what went wrong with which."""
    alert = {"timestamp": now_ms(), "kind": "test", "model": None, "message": "This is a test."}
    await asyncio.gather(*[target.send([alert]) for target in dash.alerts.targets])
    return {"targets": [{"name": target.name, "error": target.error} for target in dash.alerts.targets]}


# -- Hub ------------------------------------------------------------------------------------------

SOCKET_PATH = "/llamaproxws"
PING_INTERVAL, PING_TIMEOUT = 25, 60  # seconds, as every Socket.IO client is told on connecting
MAX_MESSAGE = 1_000_000  # bytes of one incoming message: a pasted book chapter fits, a memory bomb does not
MAX_CONNECT = 8192  # characters of the one that authenticates
MAX_UNSENT = 4_000_000  # bytes waiting for one client: more, and it is not reading
LONG_MESSAGE = 250_000  # bytes of a message that may wait longer than others, and until which no request is taken
MAX_LONG_UNSENT = 16_000_000  # bytes of such messages: a list of thousands of models is as large, for a slow line
UNREAD_TIME = 30.0  # s in which a client reads something of what waits for it
MANY_ITEMS = 200  # of a list, that are written as JSON at once, in some milliseconds
AUTH_DEADLINE = 10.0  # seconds in which a new socket must authenticate
CLOSE_GRACE = 1.0  # seconds between a refusal, or a close, and the end of the TCP connection
RECOVERY_TIME, RECOVERY_BYTES = 120.0, 4_000_000  # s for which missed broadcasts are kept, and bytes of them
REQUEST_SIZE = 20_000  # characters of a message that count as one more request, for parsing takes time as well
MAX_IDLE = 32  # messages from one ping of ours to the next that ask for nothing: pongs, pings, acknowledgements
MAX_RUNNING = 64  # requests of one client that may be under way at the same time
REFUSAL_REPORT = 10.0  # seconds between two log lines about refused connections and messages
EVENT_NAME = re.compile(r'\["([^"\\]{1,128})"')
REQUEST_ID = re.compile(r'"requestId": ?"([^"\\]{1,128})"')
EVENT_MESSAGE = re.compile(r"42(\d{0,10})(?=\[)")  # an event, with the number of the acknowledgement it asks for
JSON_DECODER = json.JSONDecoder()
# json.dumps makes a new encoder for each call that is not all defaults.
STRICT_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False,
                               default=lambda value: bytes.decode(value, errors="replace"))  # from a damaged row
MAX_BRACKETS = 50_000  # lists and objects in one message: pasted source has fewer, and each takes a microsecond


def encoded(value: Any) -> bytes:
    """`value` as JSON that every client can read: no NaN, no infinity, no lone surrogate."""
    try:
        return STRICT_JSON.encode(value).encode()
    except ValueError:  # UnicodeEncodeError is one as well
        text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        return STRICT_JSON.encode(json.loads(text, parse_constant=lambda _: None)).encode()


async def in_turns(work: Callable[[Any], Result], rows: list[Any]) -> list[Result]:
    """What `work` makes of each of `rows`, which may be thousands: the others get their turn in between."""
    done = list[Result]()
    for at in range(0, len(rows), MANY_ITEMS):
        done += map(work, rows[at:at + MANY_ITEMS])
        await asyncio.sleep(0)
    return done


async def encoded_by_parts(value: Json) -> bytes:
    """encoded() of an object: where it holds long lists, the others get their turn in between."""
    if not any(isinstance(item, list) and len(item) > MANY_ITEMS for item in value.values()):
        return encoded(value)
    parts = [b"%b:[%b]" % (encoded(key), b",".join(await in_turns(encoded, item)))
             if isinstance(item, list) and len(item) > MANY_ITEMS else encoded({key: item})[1:-1]
             for key, item in value.items()]
    return b"{%b}" % b",".join(parts)


def text_frame(payload: bytes) -> bytes:
    """One complete, unmasked WebSocket text frame (RFC 6455, section 5.2)."""
    size = len(payload)
    long = b"\x7e" + size.to_bytes(2, "big") if size < 1 << 16 else b"\x7f" + size.to_bytes(8, "big")
    return b"\x81" + (bytes([size]) if size < 126 else long) + payload


def too_deep(value: Any) -> bool:
    """Whether parsed JSON is nested deeper than any request of ours."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for parent in level for item in (parent.values() if type(parent) is dict else parent)
                 if type(item) in (dict, list)]
        if not level:
            return False
    return True


class Client:
    """One browser or program, from its WebSocket's upgrade to its end; what it sends is measured before it is parsed.

    It stands for a session of python-socketio, whose version is bounded for what is used undocumented: the dicts
    `handlers` and `sockets` of its Engine.IO server, and that it calls `send` of those unless they are `closed`.
    """
    closed = False

    def __init__(self, hub: Hub, request: web.BaseRequest, transport: asyncio.Transport, address: str) -> None:
        self.hub, self.request, self.transport, self.address = hub, request, transport, address
        self.id = secrets.token_hex(16)
        self.waits = transport.get_write_buffer_size  # the bytes that are there for the other side to read
        self.session_id: str | None = None
        self.established: Json | None = None  # what it is told once it has authenticated
        self.running, self.allowance, self.measured = 0, math.inf, 0.0  # its requests
        self.asked = False  # whether it has sent its CONNECT
        self.deadline = time.monotonic() + AUTH_DEADLINE  # by when it must have authenticated
        self.next_ping = time.monotonic() + PING_INTERVAL
        self.idle = 0  # messages that ask for nothing, since it was last pinged
        self.written = self.read = self.long = 0  # bytes: all, what the other side took of them, long ones that wait
        self.heard_at = self.read_at = time.monotonic()
        self.messages = web.WebSocketResponse(  # which refuses what has just that size, too
            max_msg_size=MAX_MESSAGE + 1, compress=False, timeout=CLOSE_GRACE, autoping=False)

    async def run(self) -> web.StreamResponse:
        """Serve this socket until one side ends it."""
        server, hub = self.hub.sio.eio, self.hub
        hub.connections.add(self)
        server.sockets[self.id] = self
        try:
            await self.messages.prepare(self.request)
            self.write(text_frame(b"0" + encoded({
                "sid": self.id, "upgrades": [], "pingInterval": PING_INTERVAL * 1000,
                "pingTimeout": PING_TIMEOUT * 1000, "maxPayload": MAX_MESSAGE})))
            await server.handlers["connect"](self.id, {"llamadash.client": self})
            if fault := await self.receive():
                hub.refused[fault] += 1
                self.transport.pause_reading()  # a flood waits: its next connection would cost more than this one
                asyncio.get_running_loop().call_later(CLOSE_GRACE * (self.idle > MAX_IDLE), self.transport.abort)
                await asyncio.sleep(2 * CLOSE_GRACE)  # which ends with the connection; aiohttp has nothing to say to it
        except (OSError, web.HTTPException):
            hub.refused["failed upgrades"] += 1
            return web.Response(status=400, text="This is a WebSocket.\n")
        finally:
            self.closed = True
            hub.connections.remove(self)
            if hub.clients.pop(self.id, None):
                hub.dash.chats.client_gone(self.id)
            del server.sockets[self.id]
            asyncio.get_running_loop().call_later(CLOSE_GRACE, self.transport.abort)  # keeps nothing but that
            await server.handlers["disconnect"](self.id, "transport close")
        return self.messages

    async def receive(self) -> str | None:
        """Take messages until the socket ends; what the other side did where it does not keep to the protocol."""
        async for message in self.messages:
            text, kind, self.heard_at = message.data, message.type, time.monotonic()
            if self.transport.is_closing():
                break
            if kind is web.WSMsgType.TEXT and self.established and text.startswith("42"):
                if not self.hub.receive(self, text):
                    return "malformed messages"
                await asyncio.sleep(0)  # whatever else has come, the others get their turn
                while self.waits() > LONG_MESSAGE:  # noqa: ASYNC110  (aiohttp has the event of it)
                    await asyncio.sleep(0.02)  # who asks on gets the answers that are on their way first
                continue
            self.idle += 1
            if self.idle > MAX_IDLE:
                return "messages that ask for nothing"
            if kind is web.WSMsgType.PING:
                await self.messages.pong(text)
            elif kind not in (web.WSMsgType.TEXT, web.WSMsgType.PONG):
                return "binary or oversized messages"
            elif text in ("1", "41"):
                break
            # pongs and acknowledgements need nothing, and what else may come is one CONNECT
            elif not (kind is web.WSMsgType.PONG or text == "3" or text.startswith("43") or await self.connect(text)):
                return "malformed messages"
        return None

    async def connect(self, text: str) -> bool:
        """Let the library answer a CONNECT, which starts or ends everything else; False where it is none, or again."""
        auth = None
        with contextlib.suppress(ValueError, RecursionError):
            if text.startswith("40") and len(text) <= MAX_CONNECT and not self.asked:
                auth = json.loads(text[2:] or "{}")
        if not isinstance(auth, dict) or too_deep(auth):
            return False
        self.asked = True
        await self.hub.sio.eio.handlers["message"](self.id, text[1:])
        if self.established:
            self.hub.welcome(self, self.established, auth)
        else:
            asyncio.get_running_loop().call_later(CLOSE_GRACE / 2, self.transport.abort)
        return True

    async def send(self, packet: Any) -> None:
        """Send what the library has to say."""
        self.write(text_frame(packet.encode().encode()))

    def may_request(self, cost: float) -> bool:
        """Take `cost` requests out of this client's allowance, if there are that many."""
        now, rate = time.monotonic(), self.hub.dash.config.request_rate
        there = min(2 * rate, self.allowance + (now - self.measured) * rate)  # at once, those of two seconds at most
        self.measured, self.allowance = now, there - cost if there >= cost else there
        return there >= cost

    def write(self, frame: bytes) -> None:
        """Write one ready-made frame, or end a client that does not read what it was sent."""
        if self.transport.is_closing():
            return
        unsent = self.waits()
        self.long = min(self.long, unsent)
        if unsent - self.long > MAX_UNSENT:
            self.end_unread()
            return
        self.transport.write(frame)
        self.written += len(frame)
        if len(frame) > LONG_MESSAGE:
            self.long = min(self.long + len(frame), max(MAX_LONG_UNSENT, len(frame)))

    def end_unread(self) -> None:
        """End a connection whose other side does not read."""
        self.hub.refused["clients that did not read"] += 1
        self.transport.abort()

    def look_whether_alive(self, now: float) -> None:
        """End it where nothing comes, not even a pong, or nothing is read of what waits; to read slowly is a life."""
        unsent = self.waits()
        if self.written - unsent != self.read or not unsent:
            self.heard_at = now if unsent else self.heard_at
            self.read, self.read_at = self.written - unsent, now
        elif now - self.read_at > UNREAD_TIME:
            self.end_unread()
        if now - self.heard_at > PING_INTERVAL + PING_TIMEOUT:
            self.transport.abort()


class Hub:
    """Every open browser: authenticates, answers requests with one envelope each, broadcasts frames made once."""

    def __init__(self, dash: Dash) -> None:
        self.dash, self.epoch, self.seq = dash, secrets.token_hex(8), 0
        self.history, self.history_bytes = deque[tuple[int, float, bytes]](), 0
        self.clients: dict[str, Client] = {}
        self.connections: set[Client] = set()  # also those that have not authenticated yet
        self.refused: collections.Counter[str] = collections.Counter()
        self.explained = ""  # why the last one was refused that somebody may want to let in
        self.known_key = ""
        quiet = logging.getLogger("llamadash.socketio")
        quiet.setLevel(logging.CRITICAL)
        self.sio = socketio.AsyncServer(async_mode="aiohttp", logger=quiet, engineio_logger=quiet)
        self.sio.on("connect", self.connect)

    # connections

    async def connect(self, sid: str, environ: Json, auth: Any = None) -> None:
        """Admit a client whose credentials are good; refuse it with a code otherwise."""
        client = environ["llamadash.client"]
        try:
            admitted = await self.dash.access.admit(auth or {}, client.address)
            await self.dash.web.refresh()  # whose version it is told
            admitted["features"] = self.dash.features()
        except Exception as problem:
            self.refused[f"failed logins from {client.address}"] += 1
            told = failure_of("connect", problem)
            raise socketio.exceptions.ConnectionRefusedError(str(told), {"code": told.code, **told.details}) from None
        client.session_id, client.established = admitted.pop("session_id"), admitted
        LimitedProtocol.expect(client.request, math.inf)

    def welcome(self, client: Client, established: Json, auth: Json) -> None:
        """Let a client take part in broadcasts, and give it those that it missed by its `auth`, if all are known."""
        self.forget()
        self.clients[client.id] = client
        last: Any = auth.get("seq")
        oldest = self.history[0][0] if self.history else self.seq + 1
        recovered = auth.get("epoch") == self.epoch and type(last) is int and oldest - 1 <= last <= self.seq
        told = {"epoch": self.epoch, "seq": self.seq, "recovered": recovered, "version": __version__}
        self.send(client, "connection:established", told | established)
        for frame in [frame for seq, _, frame in self.history if recovered and seq > last]:
            client.write(frame)

    def forget(self) -> None:
        """Drop the broadcasts that are too old, or too many, to be asked for again."""
        limit = time.monotonic() - RECOVERY_TIME
        while self.history and (self.history[0][1] < limit or self.history_bytes > RECOVERY_BYTES):
            self.history_bytes -= len(self.history.popleft()[2])

    def end_sessions(self, alive: set[str | None]) -> None:
        """Close the sockets of the clients whose session is not one of those that are `alive`."""
        for client in [client for client in self.clients.values() if client.session_id not in alive]:
            client.write(text_frame(b"41"))  # Socket.IO's DISCONNECT
            client.transport.abort()

    async def close(self) -> None:
        """End every socket: a tab left open must not delay the stop."""
        for connection in self.connections:
            connection.transport.abort()

    async def run(self) -> None:
        """Ping sockets, end those whose time or session is over, and report refusals, while the program runs."""
        while True:
            await self.dash.beat.wait()
            now = time.monotonic()
            for connection in self.connections:
                connection.look_whether_alive(now)
                if not connection.established and now > connection.deadline:
                    connection.transport.abort()
                elif now > connection.next_ping:
                    connection.next_ping, connection.idle = now + PING_INTERVAL, 0
                    connection.write(text_frame(b"2"))
            self.report_refusals()
            try:
                await self.look_at_key()
            finally:  # also where it cannot be read
                if any(client.session_id not in (None, "key") for client in self.clients.values()):
                    self.end_sessions({None, "key", *(row["id"] for row in self.dash.db.sessions())})

    async def look_at_key(self) -> None:
        """End every session where the access key is a new one: at once, and in the database as soon as that can be."""
        if (key := await self.dash.access.key()) != self.known_key:
            self.known_key = key
            self.dash.access.sessions_void = True
            self.dash.event("key", reason="The access key was replaced")
            self.end_sessions(set())
        if self.dash.access.sessions_void:
            self.dash.db.delete_sessions()
            self.dash.access.sessions_void = False

    def report_refusals(self) -> None:
        """Log now and then how much was refused, and why."""
        if self.refused and self.dash.log_limiter.is_new("refusals", pause=REFUSAL_REPORT):
            listed = ", ".join(f"{count} {what}" for what, count in self.refused.most_common(8))
            log.warning("refused: %s%s", listed, self.explained and f"; the last: {self.explained}")
            self.refused.clear()
            self.explained = ""

    def explain(self, what: str, why: str) -> str:
        """Count and log that a request was refused, and return what whoever sent it is told."""
        self.refused[what] += 1
        self.explained = why
        return f"{why}\n"

    # messages

    def send(self, client: Client, event: str, data: Json) -> None:
        """Send one event to one client, outside the sequence of broadcasts."""
        envelope = {"type": "broadcast", "event": event, "data": data, "timestamp": now_ms()}
        client.write(text_frame(b"42" + encoded([event, envelope])))

    def broadcast(self, event: str, data: bytes) -> None:
        """Send one event, `data` as JSON, to every client, and keep it for those that are away for a moment."""
        self.seq += 1
        envelope = encoded({"type": "broadcast", "event": event, "seq": self.seq, "timestamp": now_ms()})
        frame = text_frame(b'42[%b,%b,"data":%b}]' % (encoded(event), envelope[:-1], data))
        self.history.append((self.seq, time.monotonic(), frame))
        self.history_bytes += len(frame)
        self.forget()
        for client in self.clients.values():
            client.write(frame)

    def receive(self, client: Client, text: str) -> bool:
        """Take one event message apart and handle it; False where it is malformed."""
        if not (match := EVENT_MESSAGE.match(text)):
            return False
        if len(text) > REQUEST_SIZE and (problem := too_much(client, text)):
            known, id = EVENT_NAME.match(text, match.end()), REQUEST_ID.search(text, 0, REQUEST_SIZE)
            if known:
                self.answer(client, known[1], match[1], id and id[1], problem)
            return bool(known)
        try:
            name, *more = json.loads(text[match.end():])
        except (ValueError, RecursionError):
            return False
        if not isinstance(name, str) or len(more) > 1:
            return False
        request, name = more[0] if more else {}, name[:128] if encodable(name) else "?"
        reply = functools.partial(self.answer, client, name, match[1], request_id(request))
        result = self.handled(client, name, request)
        if isinstance(result, dict | DashError):  # at once, for a task would cost as much as all the rest
            reply(result)
        else:
            self.dash.spawn(self.answer_later(client, name, result, reply), name)
        return True

    def handled(self, client: Client, name: str, request: Any) -> Json | DashError | Awaitable[Json]:
        """What the handler of one request returns, or why it does not."""
        try:
            if not (event := EVENTS.get(name)):
                raise DashError(f"There is no event {name[:64]}.", code="UNKNOWN_EVENT")
            if client.running >= MAX_RUNNING or not client.may_request(event.cost):
                raise RateLimited("Too many requests: slow down.", retryAfter=1)
            arguments = event.arguments(request_data(request))
            asker = (client,) if "client" in event.handler.__annotations__ else ()
            return event.handler(self.dash, *asker, **arguments)
        except Exception as problem:
            return failure_of(name, problem)

    async def answer_later(self, client: Client, event: str, result: Awaitable[Json],
                           reply: Callable[[DashError | bytes], None]) -> None:
        """Answer a request once its handler is done."""
        client.running += 1
        try:
            data = await result
            async with self.dash.long_work:
                body = await encoded_by_parts(data)
            waits = min(client.long, client.waits())
            if len(body) > LONG_MESSAGE and waits and waits + len(body) > MAX_LONG_UNSENT:
                raise RateLimited("Too many long answers: read those before.", retryAfter=1)
            reply(body)
        except Exception as problem:
            reply(failure_of(event, problem))
        finally:
            client.running -= 1

    def answer(self, client: Client, event: str, ack: str, id: str | int | None,
               result: Json | DashError | bytes) -> None:
        """Send the response envelope, and the acknowledgement if the client wants one; bytes are data as JSON."""
        if isinstance(result, DashError):
            kind, part = b"error", encoded(result.as_json())
        else:
            kind, part = b"data", result if isinstance(result, bytes) else encoded(result)
        envelope = encoded({"type": "response", "event": event, "success": kind == b"data",
                            "requestId": secrets.token_hex(8) if id is None else id, "timestamp": now_ms()})
        body = b'%b,"%b":%b}' % (envelope[:-1], kind, part)
        client.write(text_frame(b"42[%b,%b]" % (encoded(f"{event}:result"), body)))
        if ack:
            client.write(text_frame(b"43%b[%b]" % (ack.encode(), body)))


def too_much(client: Client, text: str) -> DashError | None:
    """Why a large message is not even parsed; None where it is."""
    if not client.may_request(len(text) // REQUEST_SIZE):
        return RateLimited("Too much data: slow down.", retryAfter=1)
    if text.count("[") + text.count("{") > MAX_BRACKETS:
        return InvalidRequest("data holds too many lists and objects", field="data")
    return None


def request_id(request: Any) -> str | int | None:
    """The id that a client gave its request, for the answer; None where there is no good one."""
    given = request.get("requestId") if isinstance(request, dict) else None
    good = type(given) is int or (isinstance(given, str) and len(given) <= 128 and encodable(given))
    return given if good else None


def failure_of(name: str, problem: Exception) -> DashError:
    """What a client is told of a failure. The only place where a bug in a handler ends up: it is logged here."""
    if isinstance(problem, DashError):
        return problem
    log.exception("%s failed", name)
    code = EVENTS[name].error if name in EVENTS else None
    return DashError("Something went wrong in llamadash; its log says what.", code=code)


def request_data(request: Any) -> Json:
    """The `data` of a request's envelope; InvalidRequest where the envelope is none."""
    if not isinstance(request, dict):
        raise InvalidRequest("A request is an object {requestId, data, timestamp}.", field="data")
    for name in request.keys() - {"requestId", "data", "timestamp"}:
        raise InvalidRequest(f"unknown field: {name[:64]}", field=name[:64])
    if request.get("requestId") is not None and request_id(request) is None:
        raise InvalidRequest("requestId must be a text of at most 128 characters", field="requestId")
    if type(request.get("timestamp", 0)) not in (int, float):
        raise InvalidRequest("timestamp must be a number", field="timestamp")
    data: Json = checked(request.get("data", {}), dict[str, Any], "data")
    if too_deep(data):
        raise InvalidRequest("data is nested too deep", field="data")
    return data


def client_address(request: web.BaseRequest, trusted_proxies: tuple[str, ...]) -> str:
    """The address of the other side: the peer's, or the nearest one that no trusted proxy has, as those say."""
    address = plain_address(request.remote or "?") or "?"
    hops = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")
    while hops and is_trusted(address, trusted_proxies) and (hop := plain_address(hops.pop().strip())):
        address = hop
    return address


def bare_address(text: str) -> str:
    """The one spelling of an IP address; ValueError where it is none."""
    address = ipaddress.ip_address(text)
    return str(getattr(address, "ipv4_mapped", None) or address)


@functools.lru_cache(1024)
def plain_address(text: str) -> str | None:
    """The one spelling of the IP address `text`, which may have a port; None where it is none."""
    match = re.fullmatch(r"\[([^\]]+)\](?::\d{1,5})?|([\d.]+):\d{1,5}", text)
    with contextlib.suppress(ValueError):
        return bare_address((match[1] or match[2] if match else text).partition("%")[0])
    return None


@functools.lru_cache(1024)
def is_trusted(address: str, proxies: tuple[str, ...]) -> bool:
    """Whether `address`, in whatever spelling, is one of the `proxies` or in a network of theirs."""
    plain = plain_address(address)
    return plain is not None and any(ipaddress.ip_address(plain) in ipaddress.ip_network(proxy) for proxy in proxies)


@functools.lru_cache(1024)
def counted_address(address: str) -> str:
    """What counts as one address in limits: every client with IPv6 has a whole /64 of them."""
    with contextlib.suppress(ValueError):  # it is what somebody wrote into a row of the database
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return address


# -- Web ------------------------------------------------------------------------------------------

WEB = HERE / "web"
CONTENT_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
                 ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml", ".png": "image/png",
                 ".webmanifest": "application/manifest+json"}
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin", "Server": "llamadash"}
DOCUMENT_HEADERS = {  # of what a browser shows as a page of its own: on other files they would only cost bytes
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
                               "media-src data:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
                               "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
                               "trusted-types 'none'",
    "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(self), geolocation=()"}
DOCUMENTS = {"text/html", "image/svg+xml"}  # what can hold scripts
REFRESH_PAUSE = 2.0  # seconds between two looks at whether a file was changed
REQUEST_DEADLINE = 10.0  # seconds in which a new connection must have sent a whole request
KEEPALIVE_TIME = 75.0  # seconds that a connection may stay open between two requests, as long as browsers keep it
CONNECTIONS_PER_SOCKET = 4  # connections of one address for each socket it may have: a browser loads over six
MAX_HANDSHAKES = 32  # of https that one address may have under way: each takes 300 kB
OPEN_FILES = 65_536  # descriptors that are asked for; more would only cost the system memory
READ_AT_ONCE = 2**10, 2**14  # bytes of one connection, of chunks or messages and of others, until all have their turn
MAX_HEAD = 2**16  # bytes of a request's head, and of all that a socket sends before it has authenticated
CONNECTION_REFUSED = (b"HTTP/1.1 503 Service Unavailable\r\n"
                      b"Retry-After: 10\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
FORWARDED = ("X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port")  # what proxies say of the address they have
DEFAULT_PORTS = {"http": "80", "https": "443"}
NO_WEBSOCKET = ("This page may connect, but what arrives is no WebSocket: a proxy in between must pass on the headers "
                "Upgrade and Connection (nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
                "proxy_set_header Connection \"upgrade\";).")


class WebFile:
    """One file of the client, ready to be sent."""

    def __init__(self, name: str, body: bytes) -> None:
        self.body, self.etag = body, f'"{hashlib.sha256(body).hexdigest()[:20]}"'
        self.headers = {"ETag": self.etag, "Vary": "Accept-Encoding", "Content-Type":
                        CONTENT_TYPES.get(posixpath.splitext(name)[1], "application/octet-stream")}

    @functools.cached_property
    def gzipped(self) -> bytes | None:
        """The body compressed, once and when it is first asked for; None where that does not pay."""
        return gzip.compress(self.body, 9, mtime=0) if len(self.body) >= 200 else None


class WebFiles:
    """The client's files, read and compressed once, and again when one of them has changed."""

    def __init__(self) -> None:
        self.looked = -math.inf
        self.files: dict[str, WebFile] = {}
        self.page: str | None = None  # index.html
        self.version = ""  # made from the content of all; under `/~VERSION/` they may be cached for ever, and none mix

    def refresh(self) -> None:
        """Read the files again if one of them has changed."""
        self.looked = time.monotonic()
        contents = self.contents()
        version = hashlib.sha256(repr(sorted(contents.items())).encode()).hexdigest()[:12]
        if version != self.version:
            self.version = version
            page = contents.get("index.html", b"").decode()
            for names in re.findall(r'href="/css/([^"]+\+[^"]+)\.css"', page):  # several in one answer
                contents[f"css/{names}.css"] = b"\n".join(
                    contents.get(f"css/{name}.css", b"") for name in names.split("+"))
            self.page = re.sub(r'(src|href)="/(?=[^"/][^"]*\.(?:js|css|svg)")', rf'\1="/~{version}/', page) or None
            self.files = {name: WebFile(name, body) for name, body in contents.items()}

    def contents(self) -> dict[str, bytes]:
        """The files by name: those that this file carries, which are of its own version, else those in the folder."""
        if CARRIED_WEB:
            import bz2  # not at the top: only a release needs it
            carried = json.loads(bz2.decompress(base64.b85decode(CARRIED_WEB.replace("\n", ""))))
            return {name: text.encode(errors="surrogateescape") for name, text in carried.items()}
        return {path.relative_to(WEB).as_posix(): path.read_bytes() for path in WEB.rglob("*")
                if stat.S_ISREG(path.lstat().st_mode)}  # links are left out, for they could lead anywhere

    def find(self, path: str, theme: str) -> tuple[WebFile | None, bool]:
        """The file for a URL path, and whether it may be cached for ever; index.html for every page, in its colours."""
        up, path = "../" * (path.count("/") - 1) or "./", urllib.parse.unquote(path)
        name = path.lstrip("/")
        if path.startswith("/~"):
            version, _, name = path[2:].partition("/")
            return (self.files.get(name) if version == self.version else None), True
        if name == "index.html" or name.startswith("models/") or "." not in posixpath.basename(name):  # ids have dots
            return page_file(self.page, theme, up) if self.page else None, False
        return self.files.get(name), False


@functools.lru_cache(16)
def page_file(page: str, theme: str, up: str) -> WebFile:
    """index.html in the colours of `theme` from its first frame on; without one, the browser's own decide."""
    page = page.replace('="/', f'="{up}')  # files from where the page is: a proxy may have a path before ours
    if theme != "system":
        page = page.replace('<html lang="en"', f'<html lang="en" data-theme="{theme}"', 1).replace(
            'name="color-scheme" content="light dark"', f'name="color-scheme" content="{theme}"', 1)
    return WebFile("index.html", page.encode())


def is_hostile_path(raw: str) -> bool:
    """Whether a URL path, decoded or not, tries to walk or to hide something."""
    return bool(re.search(r"[\\%\x00-\x1f\x7f]|(^|/)\.\.?(/|$)", urllib.parse.unquote(raw)))


class Site(NamedTuple):
    """Where a page is from, as browsers say it in Origin; the port is empty where it is the scheme's own."""
    scheme: str
    name: str
    port: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name}{self.port and f':{self.port}'}"


def site_of(text: str) -> Site | None:
    """What an Origin header says; None where it names no site."""
    match = re.fullmatch(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^/?#@:*\[\]\s]{1,253})(?::(\d{1,5}))?", text.lower())
    if not match or int(match[3] or 0) > 65535:
        return None
    return Site(match[1], match[2].rstrip("."), "" if match[3] == DEFAULT_PORTS.get(match[1]) else match[3] or "")


def below_base(request: web.BaseRequest, bases: tuple[str, ...]) -> web.BaseRequest:
    """`request` with what its path has below one of the `bases`, where a proxy passes these on."""
    for base in bases:
        if request.raw_path.startswith(f"{base}/"):
            path, _, query = request.raw_path[len(base):].partition("?")
            return request.clone(rel_url=yarl.URL.build(path=path, query_string=query, encoded=True))
    return request


@dataclass(eq=False, repr=False)
class ConnectionLimits:
    """How many TCP connections a listener takes, in all and of one address, and how long one may ask for nothing."""
    refused: collections.Counter[str]
    per_address: int
    exempt: tuple[str, ...]
    total: float = math.inf
    port: int = 0
    tls: ssl.SSLContext | None = None  # for https; what is put here later serves new connections
    open: dict[str, set[LimitedProtocol]] = field(default_factory=dict)  # by address
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_AT_ONCE[1])))  # for one after another


class LimitedProtocol(asyncio.BufferedProtocol):
    """One TCP connection of a listener with limits: stands in front of the protocol of aiohttp's server."""

    def __init__(self, limits: ConnectionLimits, server: web.Server) -> None:
        self.limits, self.server = limits, server
        self.http: Any = asyncio.Protocol()  # does nothing, unless it is accepted
        self.deadline: asyncio.TimerHandle | None = None
        self.begun = False  # whether a request may come
        self.expected: float = MAX_HEAD  # bytes that may still come, until a request or a login changes that
        self.block = READ_AT_ONCE[0]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many already."""
        self.transport = typing.cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        address = plain_address(peer[0] if isinstance(peer, tuple) else "") or "?"
        self.address = counted_address(address)
        limits = self.limits
        theirs = limits.open.setdefault(self.address, set())
        theirs.add(self)
        shaking = sum(not other.begun for other in theirs) if limits.tls else 0
        if sum(map(len, limits.open.values())) > limits.total or (
                (len(theirs) > limits.per_address or shaking > MAX_HANDSHAKES)
                and not is_trusted(address, limits.exempt)):
            limits.refused["connections too many"] += 1
            self.transport.write(CONNECTION_REFUSED)
            self.transport.close()
            return
        self.deadline = asyncio.get_running_loop().call_later(REQUEST_DEADLINE, self.expire, "without a request")
        self.beginning = asyncio.ensure_future(self.begin())

    async def begin(self) -> None:
        """Let aiohttp's server answer, by https where that is wanted: it takes 256 kB, which no refused one costs."""
        early = list[bytes]()  # what comes with the last words of the handshake
        self.http = types.SimpleNamespace(data_received=early.append, connection_lost=lambda _: None)
        try:
            if self.limits.tls:
                self.transport = await asyncio.get_running_loop().start_tls(  # type: ignore[assignment]
                    self.transport, self, self.limits.tls, server_side=True)
        except OSError:
            self.connection_lost(None)  # which Python 3.10 does not tell
            return
        self.http = self.server()
        for name in ("eof_received", "pause_writing", "resume_writing"):
            setattr(self, name, getattr(self.http, name))
        self.http.connection_made(self.transport)
        self.begun = True
        for data in early:
            self.http.data_received(data)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self.limits.buffer[:self.block]

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what came."""
        self.expected -= nbytes
        if self.expected < 0:
            self.expire("that sent too much")
        else:
            self.http.data_received(bytes(self.limits.buffer[:nbytes]))

    def expire(self, what: str) -> None:
        """End a connection that asks for nothing in time, or sends what nobody asked for."""
        self.limits.refused[f"connections {what}"] += 1
        self.transport.abort()

    @staticmethod
    def expect(request: web.BaseRequest, more: float = 0, *, again: bool = False) -> None:
        """Let the connection of `request` live, and `more` bytes come beside another head, or `again` what was let."""
        if isinstance(connection := request.transport and request.transport.get_protocol(), LimitedProtocol):
            connection.expected = more + (connection.expected if again else MAX_HEAD)
            in_pieces = "Transfer-Encoding" in request.headers or "Upgrade" in request.headers  # each is work later
            connection.block = READ_AT_ONCE[not in_pieces]
            if connection.deadline:
                connection.deadline.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        theirs = self.limits.open.get(self.address, {self})
        theirs.discard(self)
        if not theirs:
            self.limits.open.pop(self.address, None)
        if self.deadline:
            self.deadline.cancel()
        self.http.connection_lost(exc)


# How a sample's values are called there, and those of each GPU; a ratio is a percentage here.
PROMETHEUS_MACHINE = {
    "cpu_usage": "cpu_usage_ratio", "load_average": "load1", "memory_used": "memory_used_bytes",
    "memory_total": "memory_size_bytes", "swap_usage": "swap_usage_ratio", "uptime": "uptime_seconds",
    "network_received": "network_received_bytes_per_second", "network_sent": "network_sent_bytes_per_second",
    "requests_processing": "requests_running", "requests_deferred": "requests_waiting",
    "active_models": "models_loaded", "prompt_tokens_per_second": "prompt_tokens_per_second",
    "generated_tokens_per_second": "generated_tokens_per_second", "process_cpu": "process_cpu_ratio",
    "process_memory": "process_memory_bytes"}
PROMETHEUS_GPU = {
    "utilization": "gpu_utilization_ratio", "memory_used": "gpu_memory_used_bytes", "power": "gpu_power_watts",
    "memory_total": "gpu_memory_size_bytes", "temperature": "gpu_temperature_celsius",
    "energy": "gpu_energy_joules_total"}


def prometheus_text(metrics: Json, totals: Mapping[tuple[str, str, str], int]) -> str:
    """A sample, and what was counted since the start, in Prometheus's format; what is unknown is left out."""
    last, lines = "", list[str]()
    gpus = [({"gpu": gpu["index"], "name": gpu["name"]}, gpu) for gpu in metrics.get("gpus") or ()]
    samples: list[tuple[str, Json, Any]] = [
        *((name, labels, values.get(key)) for table, places in (
            (PROMETHEUS_MACHINE, [(Json(), flat_metrics(metrics))]),
            ({"used": "disk_used_bytes", "total": "disk_size_bytes"},
             [({"path": disk["path"]}, disk) for disk in metrics.get("disks") or ()]),
            (PROMETHEUS_GPU, gpus)) for key, name in table.items() for labels, values in places),
        *(("gpu_throttled", {**labels, "reason": word}, int(word in gpu["throttled"]))
          for labels, gpu in gpus if gpu.get("throttled") is not None for word in THROTTLING),
        *((name, {"model": model, "kind": kind}, count) for (name, model, kind), count in sorted(totals.items()))]
    for name, labels, value in (sample for sample in samples if sample[2] is not None):
        if name != last:
            lines += [f"# HELP llamadash_{name} {name.replace('_', ' ').capitalize()} of llamadash's machine.",
                      f"# TYPE llamadash_{name} {'counter' if name.endswith('_total') else 'gauge'}"]
        last = name
        pairs = ",".join(f"{label}={json.dumps(clean_text(str(text)), ensure_ascii=False)}"  # escaped as JSON's texts
                         for label, text in labels.items())
        number = value / 100 if name.endswith("_ratio") else value
        lines.append(f"llamadash_{name}{pairs and f'{{{pairs}}}'} {number}")
    return "\n".join([*lines, ""])


class WebServer:
    """HTTP: the static client for everyone, the socket for those with a good Host and Origin."""

    def __init__(self, dash: Dash) -> None:
        self.dash = dash
        self.limits = ConnectionLimits(
            dash.hub.refused, CONNECTIONS_PER_SOCKET * dash.config.sockets_per_address, dash.config.trusted_proxies)
        self.files = WebFiles()
        self.looking = asyncio.Lock()
        self.name = socket.gethostname()
        own = self.name.lower()
        self.hosts = {"localhost", own, own.split(".")[0], f"{own.split('.')[0]}.local",
                      *(name.lower().rstrip(".") for name in dash.config.allow_hosts)}

    async def refresh(self) -> None:
        """Look at the client's files again, where that was not just done; at first when somebody wants one."""
        async with self.looking:
            if time.monotonic() - self.files.looked >= REFRESH_PAUSE and not (CARRIED_WEB and self.files.files):
                await asyncio.to_thread(self.files.refresh)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, with the security headers."""
        response = await self.answer(request)
        response.headers.update(SECURITY_HEADERS | (DOCUMENT_HEADERS if response.content_type in DOCUMENTS else {}))
        return response

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Refuse a foreign Host anywhere, and a foreign Origin or one socket too many at the socket."""
        LimitedProtocol.expect(request)
        if problem := self.host_problem(request):
            return web.Response(status=421, text=self.dash.hub.explain("foreign hosts", problem))
        if request.path in self.dash.config.base_paths:  # a page finds its files from below that alone
            query = request.rel_url.raw_query_string
            place = f"{posixpath.basename(request.path)}/{query and f'?{query}'}"
            return web.Response(status=308, headers={"Location": place})
        request = below_base(request, self.dash.config.base_paths)
        if request.path.rstrip("/") != SOCKET_PATH:
            return await self.static(request)
        if problem := self.origin_problem(request):
            return web.Response(status=403, text=self.dash.hub.explain("foreign origins", problem))
        if request.method != "GET":
            return web.Response(status=405, text=f"{NO_WEBSOCKET}\n")
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.Response(status=400, text=self.dash.hub.explain("failed upgrades", NO_WEBSOCKET))
        if (request.query.get("EIO"), request.query.get("transport")) != ("4", "websocket") or not request.transport:
            return web.Response(status=400, text="This is Socket.IO, version 4, over a WebSocket.\n")
        hub, address = self.dash.hub, client_address(request, self.dash.config.trusted_proxies)
        counted = [counted_address(other.address) for other in hub.connections]
        if counted.count(counted_address(address)) >= self.dash.config.sockets_per_address:
            hub.refused["sockets too many from one address"] += 1
            return web.Response(status=503, text="Too many connections from here.\n", headers={"Retry-After": "10"})
        return await Client(hub, request, request.transport, address).run()

    def host_problem(self, request: web.BaseRequest) -> str | None:
        """Why the name that a request names us by is refused; None where it is one of this machine, or allowed."""
        hosts = request.headers.getall("Host", [])
        site = site_of(f"http://{hosts[0]}") if len(hosts) == 1 else None
        if not request.raw_path.startswith("/"):
            return "The request is for another server."
        if site and self.is_ours(site.name):
            return None
        cure = f": if it is yours, start llamadash with --allow-host {clean_text(site.name)}" \
            if site and len(site.name) < 100 else ""
        return f"Host is “{clean_text(shortened(', '.join(hosts), 100))}”, which is not a name of this machine{cure}."

    def is_ours(self, name: str) -> bool:
        """Whether a Host header's name is one of this machine, an address, or one allowed."""
        return (name in self.hosts or name.endswith(".localhost")
                or plain_address(name.strip("[]")) is not None)  # to which no DNS answer can be rebound

    def origin_problem(self, request: web.BaseRequest) -> str | None:
        """Why the page that asks is refused, and what mends it; None where it came from here or is allowed to."""
        origins, allowed = request.headers.getall("Origin", []), self.dash.config.allow_origins
        if not origins or (len(origins) == 1 and ("*" in allowed or origins[0].lower() in allowed)):
            return None  # without one it is a script, which needs the key as everybody does
        trusted = is_trusted(request.remote or "?", self.dash.config.trusted_proxies)
        said = (request.headers.getall(name, [""])[-1].rpartition(",")[2].strip().lower() for name in FORWARDED)
        proto, *more = next(said).replace("ws", "http"), *said  # Traefik says wss of a socket
        forwarded, port = more if trusted else ("", "")
        scheme = proto if trusted and proto in DEFAULT_PORTS else self.dash.config.scheme
        page = site_of(origins[0]) if len(origins) == 1 else None
        for host in (request.headers["Host"], forwarded):
            ours = site_of(f"{scheme}://{host}")
            if page and ours and page[:2] == ours[:2] and self.is_ours(ours.name):
                portless = trusted and ours.name == host.lower()
                # a port that no header tells may be any: other servers of the same name are its owner's
                if page.port in (ours.port, port or page.port if portless else ours.port):
                    return None
        return self.foreign_origin(request, page, scheme, proto, trusted=trusted)

    def foreign_origin(self, request: web.BaseRequest, page: Site | None, scheme: str, proto: str, *,
                       trusted: bool) -> str:
        """What a page that is refused is told, and the log: which header has which value, and what mends it."""
        seen = ", ".join(f"{name} is “{clean_text(shortened(value, 100))}”" for name in ("Origin", "Host", *FORWARDED)
                         for value in request.headers.getall(name, [])[:2])
        if page is None:
            return f"This page may not connect: {seen}. Open llamadash by its own address."
        ours = site_of(f"{scheme}://{request.headers['Host']}")
        lines = ["proxy_set_header Host $http_host;"] if not ours or page[1:] != ours[1:] else []
        if page.scheme not in (scheme, proto):  # the last of several proxies tells how the one before it asked
            lines.append(f"proxy_set_header X-Forwarded-Proto ${'http_x_forwarded_proto' if proto else 'scheme'};")
        cures = [f"let it say what the browser asked for (nginx: {' '.join(lines)})"] if lines else []
        if not trusted and (page.scheme != scheme or any(map(request.headers.get, FORWARDED))):
            cures.append(f"start llamadash with --trusted-proxy {plain_address(request.remote or '')}")
        return (f"This page may not connect: {seen}. If a proxy is in between, {', and '.join(cures)}. "
                f"If that site is yours, --allow-origin {page} lets it in.")

    async def static(self, request: web.BaseRequest) -> web.Response:
        """A file of the client, or its page for every path that has no extension."""
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="Nothing here but the client.\n", headers={"Allow": "GET, HEAD"})
        raw = request.raw_path.split("?")[0]
        await self.refresh()
        file, immutable = (None, False) if is_hostile_path(raw) else self.files.find(raw, self.dash.settings["theme"])
        if file is None:
            return web.Response(status=404, text="There is no such file.\n")
        headers = {**file.headers, "Cache-Control": "public, max-age=31536000, immutable" if immutable else "no-cache"}
        if file.etag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        if file.gzipped and "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=file.gzipped, headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=file.body, headers=headers)

    async def metrics(self, request: web.BaseRequest) -> web.Response:
        """What Prometheus is told: the latest sample, which is taken anyway."""
        LimitedProtocol.expect(request)
        if problem := self.host_problem(request):
            return web.Response(status=421, text=f"{problem}\n")
        if request.path != "/metrics":
            return web.Response(status=404, text="There is nothing but /metrics.\n")
        text = prometheus_text(self.dash.sampler.latest or {}, self.dash.requests.totals)
        return web.Response(body=text.encode("utf-8", "replace"), headers={
            "Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


# -- Service and doctor ---------------------------------------------------------------------------

DOCTOR_TIMEOUT = 5.0  # s for the answer of the llamadash that runs
DOCTOR_WALK = 30.0  # s for a walk through a model folder
Findings = AsyncIterator[tuple[str, ...]]  # level (ok, warn or fail), what it is about, the text, and what to do


async def doctor(config: Config) -> int:
    """Check this machine in the order in which things are needed, a line per finding; 0 if nothing failed, else 1."""
    failed, values = 0, engine_values(config, saved_config(config))
    for check in (python_findings, data_findings, engine_findings, upstream_findings, model_findings, gpu_findings,
                  port_findings):
        try:
            async for level, *finding in check(config, values):
                print(f"{level:<4}  {': '.join(finding)}", flush=True)
                failed += level == "fail"
        except OSError as problem:  # costs no other check; where it is print's, it comes again
            print(f"fail  {problem.filename or 'system'}: {problem.strerror or problem}", flush=True)
            failed += 1
    print(f"{failed} of these must be fixed." if failed else "llamadash can run here.")
    return 1 if failed else 0


async def python_findings(_config: Config, _values: Json) -> Findings:
    """Python, the dependencies with their versions, and the client's files."""
    import importlib.metadata  # not at the top: slow to import, and seldom needed

    yield "ok", "Python", f"{platform.python_version()} ({sys.executable}), llamadash {__version__}"
    for requirement in script_dependencies(SCRIPT):
        name, *bounds = re.split(">=|,<", requirement)
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "a version that cannot be read"
        low, high, installed = map(numbers_of, (*bounds, version))
        if low <= installed < high:
            yield "ok", name, version
        else:
            level = "fail" if installed and installed < low else "warn"
            yield level, name, f"{version}, but {requirement} is needed", f"pip install '{requirement}'"
    if not CARRIED_WEB and not (WEB / "index.html").is_file():
        yield "fail", "web", f"{WEB} is missing", "copy the web folder beside llamadash.py"


async def data_findings(config: Config, _values: Json) -> Findings:
    """The data folder: there or possible, writable, private, with room; and its database: absent, or readable."""
    folder, path = config.data_dir, config.data_dir / DATABASE_NAME
    existing = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
    if problem := storage_problem(probe := existing / DATABASE_NAME):
        yield "fail", "data folder", str(database_error(problem, f"{folder} cannot be written", probe))
        return
    yield "ok", "data folder", str(folder) if existing == folder else f"{folder} will be made"
    for place in (folder, folder / "access-key", folder / "engine-key", path):
        shared = place.is_dir()  # which a folder may be, but not for whoever could put another key there
        if os.name != "nt" and place.exists() and place.stat().st_mode & (0o022 if shared else 0o077):
            yield ("warn", "data folder", f"others may {'write to' if shared else 'read'} {place}",
                   f"chmod {'go-w' if shared else '600'} {place}")
    if (free := shutil.disk_usage(existing).free) < 5 * 2**30:
        yield "warn", "disk", f"{free / 2**30:.1f} GiB free at {existing}", "make room for models"
    try:
        if not path.exists():
            yield "ok", "database", f"{path} will be made"
        elif is_good_database(path):
            backups = len(list(path.parent.glob("backups/*")))
            yield "ok", "database", f"{path}, {path.stat().st_size / 2**20:.1f} MiB, {backups} backups"
        else:
            yield ("fail", "database", f"{path} is damaged, or was written by a newer llamadash or an unreleased one",
                   "start llamadash: it says which, and puts the newest of up to "
                   f"{BACKUPS_KEPT} backups in the place of a damaged one")
    except sqlite3.Error as failure:
        yield "fail", "database", str(database_error(failure, f"{path} cannot be read", path))


async def engine_findings(config: Config, values: Json) -> Findings:
    """The builds of this machine, with their versions and GPUs."""
    builds, nvidia = Builds(config), NvidiaGpus()
    await asyncio.gather(builds.refresh(), nvidia.ask())
    default = builds.default(values)
    if builds.builds and (unused := builds.unused_gpu([*nvidia.gpus.values(), *system_gpus().values()])):
        yield "warn", "engine", f"no build can use the {unused}", "install one under Configuration, Engine"
    for build in builds.builds.values():
        name = "embedded CPU engine" if build.kind == "embedded" else build.path
        sees = ", ".join(item["description"] or item["name"] for item in build.devices) or "the CPU"
        text = f"{name}, {build.version or 'version unknown'}, for {sees}"
        if build.problem:
            yield "fail" if default in (None, build) else "warn", "engine", build.problem, "fix it or choose another"
        else:
            yield ("warn", "engine", text, build.warning) if build.warning else ("ok", "engine", text)
    if not builds.builds and not config.upstreams:
        yield ("warn", "engine", "no llama-server on PATH",
               f"{ENGINE_HINT['text']} For example: {ENGINE_HINT['commands'][0]}")


async def upstream_findings(config: Config, _values: Json) -> Findings:
    """Whether each server elsewhere answers, and how many models it has."""
    async with aiohttp.ClientSession() as session:
        for upstream in itertools.starmap(Upstream, config.upstreams):
            await upstream.look(session)
            about, url = f"upstream {upstream.name}", upstream.url
            if upstream.error:
                yield "fail", about, f"{url} cannot be used: {upstream.error}"
            else:
                yield "ok" if upstream.models else "warn", about, f"{url}, {len(upstream.models)} models"


def saved_config(config: Config) -> Json:
    """What the user saved of the engine's configuration, read without changing the database."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(read_only(config.data_dir / DATABASE_NAME)) as db:
        rows = db.execute("SELECT key, value FROM server_config")
        return renamed_config({key: decoded({"key": key, "value": value}, "value") for key, value in rows})
    return {}


async def model_findings(config: Config, values: Json) -> Findings:
    """The model folders and how many GGUF files a scan finds in them."""
    found, probes, folders = 0, Probes(), model_folders(config, values)
    roots = await asyncio.gather(*[probes.read(str(it), functools.partial(os.path.realpath, it)) for it in folders])
    for folder, place in zip(folders, roots, strict=True):
        walk = Walk(place or str(folder), [root for root in roots if root])
        try:
            for step in (walk.run, walk.follow):
                await probes.call(str(folder), step, DOCTOR_WALK)
            is_folder = await probes.call(str(folder), functools.partial(os.path.isdir, folder))
        except Unreachable as problem:
            yield "warn", "models", str(problem).rstrip("."), "look whether its disk or share is there"
            continue
        for place, why in walk.lost.items():
            if why != NOT_THERE:
                yield "warn", "models", f"{place} {why}", "change its permissions"
        if is_folder:
            sizes = [file.size for file in walk.files]
            found += len(sizes)
            yield "ok", "models", f"{folder}: {len(sizes)} GGUF files, {sum(sizes) / 2**30:.1f} GiB"
        elif folder in (config.models_dirs or ()):
            yield "fail", "models", f"{folder} is not a folder", "check --models-dir"
        elif folder not in (*default_model_folders(), config.data_dir / "models"):
            yield "warn", "models", f"{folder} is not there", "mount or make it, or remove it under Configuration"
    if not found:
        yield ("warn", "models", "none found",
               f"put GGUF files into {config.data_dir / 'models'}, or download one on the Models page")


async def gpu_findings(_config: Config, _values: Json) -> Findings:
    """The GPUs, and whether this user may use them."""
    nvidia = NvidiaGpus()
    await nvidia.ask()
    gpus = [*nvidia.gpus.values(), *system_gpus().values()]
    for gpu in gpus:
        yield "ok", "GPU", gpu["name"] + (f", {gpu['memory_total'] / 2**30:.0f} GiB" if gpu["memory_total"] else "")
    if nvidia.error:
        yield "warn", "GPU", nvidia.error, "fix the NVIDIA driver: `nvidia-smi` must work"
    elif not nvidia.gpus and nvidia.cards():
        yield "warn", "GPU", "there is an NVIDIA card, but no nvidia-smi", "install NVIDIA's driver"
    elif not gpus:
        yield "ok", "GPU", "none found that tells of itself"
    for pattern in ("kfd", "dri/renderD*", "nvidia[0-9]*", "nvidiactl"):
        for device in Path("/dev").glob(pattern):
            if not os.access(device, os.R_OK | os.W_OK):
                yield ("warn", "GPU", f"{user_name()} may not use {device}",
                       f'sudo usermod -aG "$(stat -c %G {device})" {user_name()}, then log in again')


async def port_findings(config: Config, values: Json) -> Findings:
    """The llamadash that runs already; else the ports of it and of the models' API, and who may reach them."""
    if running := running_instance(config.data_dir):
        pid, url = running
        if not url:
            yield "warn", "running", f"process {pid or '?'} is still starting", "ask again in a moment"
            return
        try:
            async with aiohttp.request("GET", url, timeout=aiohttp.ClientTimeout(DOCTOR_TIMEOUT), raise_for_status=True,
                                       ssl=False):  # its own certificate may be for another name
                yield "ok", "running", f"process {pid} at {url} answers"
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as failure:
            yield ("fail", "running", f"{url} does not answer as it should: {str(failure) or 'in time'}",
                   "restart llamadash, and read its log")
        return
    place = f"{config.host}:{config.port}"
    if problem := port_problem(config.host, config.port):
        yield "fail", "port", f"{place} {problem}", "stop that program, or choose another with --port or --host"
    else:
        yield "ok", "port", f"{place} is free"
    host, port = values["api_host"], values["api_port"]
    if port and (problem := port_problem(host, port)):
        yield "warn", "API port", f"{host}:{port} {problem}", "choose another with --api-port or --api-host"
    if not config.auth:
        yield "warn", "access", f"whoever reaches {place} controls llamadash", "leave out --no-auth"


# systemd

def service_unit(config: Config) -> str:
    """A systemd unit that runs this very script with this configuration, as this user."""
    folders = model_folders(config, engine_values(config, saved_config(config)))
    writable = [config.data_dir, *(folder for folder in folders  # whether it is there now or not
                                   if folder not in (config.data_dir, config.data_dir / "models"))]
    command = [os.path.abspath(sys.executable), str(SCRIPT), *service_options(config)]
    needed = [Path(path) for path in (*command[:2], config.llama_server, config.tls_cert, config.tls_key)
              if path and os.path.isabs(path)]
    hidden = any(str(path).startswith(("/tmp", "/var/tmp"))  # noqa: S108  (what PrivateTmp would hide)
                 for path in (*writable, HERE, Path(sys.executable)))
    low_port = "CAP_NET_BIND_SERVICE" if 0 < config.port < 1024 else ""
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # without capabilities root cannot read other users' files
    capabilities = f"{low_port} CAP_DAC_OVERRIDE".strip() if root else low_port
    rest_of_line = {"user": user_name(), "folder": str(HERE), "environment": str(config.data_dir / "environment")}
    return UNIT.format(
        **{name: text.replace("%", "%%") for name, text in rest_of_line.items()},
        command=" ".join(map(unit_word, command)), capabilities=capabilities, ambient=low_port,
        writable=" ".join(unit_word(f"-{path}", variables=False) for path in writable),
        cache=unit_word(f"CUDA_CACHE_PATH={config.data_dir / 'cuda-cache'}", variables=False),
        mounts="".join(f" {unit}" for unit in mount_units([config.data_dir, *folders, *needed])),
        private_tmp="no" if hidden else "yes", stop=STOP_SECONDS,
        lasting=f"{EXIT_USAGE} {EXIT_RUNNING} {EXIT_DATABASE}")


def mount_units(paths: Iterable[Path]) -> list[str]:
    """systemd's names of the mounts, now or in fstab, on which `paths` lie; to be waited for, but not insisted on."""
    tables = "\n".join(file_text(Path(table)) or "" for table in ("/proc/self/mounts", "/etc/fstab"))
    places = {place.replace(r"\040", " ") for place in re.findall(r"(?m)^[^#\s]\S*\s+(/\S+)", tables)}
    on = sorted(place for place in places if any(within(str(path), place) for path in paths))
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(["systemd-escape", "--path", "--suffix=mount", *on], capture_output=True, text=True,
                              check=True).stdout.split() if on else []
    return []


def print_service(config: Config) -> None:
    """Print the systemd unit; the data folder is made, as the service could not do that."""
    if sys.platform != "linux":
        raise DashError("systemd is on Linux only: let launchd (macOS) or the Task Scheduler (Windows) start "
                        f"{sys.executable} {SCRIPT}", exit_code=EXIT_USAGE)
    make_data_folder(config.data_dir)
    print(service_unit(config), end="")


def service_options(config: Config) -> list[str]:
    """The options that make `config` again."""
    words, default, program = list[str](), Config(), config.llama_server
    if program and (found := shutil.which(os.path.expanduser(program))):
        program = os.path.abspath(found)  # for the service has neither this shell's PATH nor its folder
    values = {**vars(config), "llama_server": program, "alerts": tuple(map("=".join, config.alerts)),
              "prometheus": config.prometheus and "[{}]:{}".format(*config.prometheus),
              "upstreams": tuple("=".join(item) for item in config.upstreams if item[1] != config.llama_server)}
    for action in config_options(command_line()):
        option, value = action.option_strings[0], values[action.dest]
        if value != getattr(default, action.dest):
            words += [option] if action.nargs == 0 else \
                [f"{option}={item}" for item in (value if isinstance(value, tuple) else (value,))]
    return words


def unit_word(text: str, *, variables: bool = True) -> str:
    """`text` as one word of a unit file; `variables` where $NAME would be replaced."""
    text = text.replace("%", "%%").replace("$", "$$" if variables else "$")
    if re.fullmatch(r"[\w@%+=:,./$-]+", text, re.A):
        return text
    return json.dumps(text, ensure_ascii=False)  # which is escaped as systemd wants it


async def notify(state: str) -> None:
    """Tell systemd, if it started us, how we are: "READY=1", "WATCHDOG=1", "STOPPING=1"."""
    if not (address := os.environ.get("NOTIFY_SOCKET")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.setblocking(False)
        sender.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)


# updates

CHECKSUMS = "SHA256SUMS"  # of a release's files, beside them
MAX_RELEASE = 4_000_000  # bytes of llamadash.py; it has less than a million


def update(config: Config, *, check: bool) -> None:
    """Put the newest release in the place of this file and say what is left to do; with `check` only name it."""
    if not RELEASE_URL:
        raise DashError("this copy does not know where newer ones are: put the new files in place of these, or use git")
    listed = asyncio.run(ModelHub(RELEASE_URL).whole(CHECKSUMS, MAX_RELEASE)).decode(errors="replace")
    checksum = re.search(r"(?m)^([0-9a-f]{64}) [ *]llamadash\.py$", listed)
    newest = re.search(r"(?m) [ *]llamadash-(\d+(?:\.\d+)*)\.tar\.gz$", listed)
    if not (checksum and newest):
        raise DashError(f"{RELEASE_URL}/{CHECKSUMS} does not list a release of llamadash")
    if numbers_of(newest[1]) < numbers_of(__version__):
        raise DashError(f"{RELEASE_URL} has {newest[1]}, which is older than this {__version__}: nothing was changed")
    if numbers_of(newest[1]) == numbers_of(__version__):
        print(f"llamadash {__version__} is the newest.")
    elif check:
        print(f"llamadash {newest[1]} is there; this is {__version__}. To install it: python3 {SCRIPT} update")
    elif not os.access(HERE, os.W_OK | os.X_OK) or not SCRIPT.stat().st_mode & stat.S_IWUSR:
        raise DashError(f"{SCRIPT} may not be replaced: make it and its folder writable, or run this as its owner")
    else:
        content = asyncio.run(ModelHub(RELEASE_URL).whole("llamadash.py", MAX_RELEASE))
        install_update(content, checksum[1], newest[1], config)
        print(f"llamadash {newest[1]} is in place.")


def numbers_of(version: str) -> tuple[int, ...]:
    """A version as it is compared."""
    return tuple(map(int, re.findall(r"\d+", version)))


def install_update(content: bytes, checksum: str, version: str, config: Config) -> None:
    """Put `content` in place if it is what was published and runs on this Python; the database is backed up before."""
    text = content.decode(errors="replace")
    python = re.search(r'requires-python = ">=([\d.]+)"', text)
    if hashlib.sha256(content).hexdigest() != checksum or f'\n__version__ = "{version}"\n' not in text:
        raise DashError("what arrived is not what was published (its checksum or version differs): nothing was changed")
    if python and sys.version_info < numbers_of(python[1]):
        raise DashError(f"llamadash {version} needs Python {python[1]}, and this is {platform.python_version()}: "
                        "nothing was changed")
    if (path := config.data_dir / DATABASE_NAME).exists():
        with contextlib.closing(open_database(config)) as database:
            backup, _ = database.kept_backup(f"update-{__version__}")
        for made in (backup.parent, backup):
            give_to_owner(made, path.stat())
        print(f"The database was backed up to {backup}.")
    kept = SCRIPT.with_name(f"{SCRIPT.name}.{__version__}")
    for target, script in ((kept, SCRIPT.read_text("utf-8")), (SCRIPT, text)):
        write_privately(target, script, SCRIPT.stat())
    print(f"The file before is {kept}.")
    if running := running_instance(config.data_dir):
        print(f"Restart the llamadash that runs: {restart_command(running[0])}")


def restart_command(pid: str) -> str:
    """How to restart the llamadash that is process `pid`: the unit's own command where systemd started it."""
    unit = re.search(r"(?m)^0::(/user\.slice/)?.*?([^/\n]+\.service)$", file_text(Path(f"/proc/{pid}/cgroup")) or "")
    with contextlib.suppress(psutil.Error, ValueError):
        parent = psutil.Process(int(pid)).parent()
        if unit and parent and parent.name() == "systemd":  # not a service around it, as cron is
            return f"{'systemctl --user' if unit[1] else 'sudo systemctl'} restart {unit[2]}"
    return f"stop process {pid} and start it again"


# PrivateDevices, DevicePolicy and ProtectClock (which implies a device policy) are left out, as they hide the GPUs;
# MemoryDenyWriteExecute too, as GPU drivers compile at run time.
UNIT = """\
# Install:  python3 llamadash.py service | sudo tee /etc/systemd/system/llamadash.service
#           sudo systemctl daemon-reload && sudo systemctl enable --now llamadash
# The link: python3 llamadash.py link
# Variables such as HF_TOKEN go into the EnvironmentFile below, one NAME=value a line.
# CUDA after a boot without a desktop: also `sudo systemctl enable --now nvidia-persistenced`.

[Unit]
Description=llamadash, the async proxy and dashboard for llama.cpp
After=network-online.target{mounts}
Wants=network-online.target{mounts}
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command}
User={user}
WorkingDirectory={folder}
EnvironmentFile=-{environment}
Environment={cache}
WatchdogSec=60
Restart=on-failure
RestartSec=3
RestartPreventExitStatus={lasting}
TimeoutStopSec={stop}
KillMode=mixed
LimitMEMLOCK=infinity
LimitNOFILE=65536
UMask=0077

NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writable}
PrivateTmp={private_tmp}
ProtectProc=invisible
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
KeyringMode=private
CapabilityBoundingSet={capabilities}
AmbientCapabilities={ambient}
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


# -- Dash -----------------------------------------------------------------------------------------

PRUNE_DELAY, PRUNE_INTERVAL = 60.0, 900.0  # s from the start until what is too old is deleted first, and then again
RESTART_PAUSE = 1.0  # s until a background task that has failed begins again
ADDRESS_PAUSE = 3.0  # s until the API's address is tried again that was not there
HEARTBEAT, STALL = 0.5, 0.25  # s between two signs of life of the loop, and of its silence that are worth a log line
MAX_UNSAVED = 1000  # events of the timeline that wait for a database that takes them


class Dash:
    """The one state object: what was configured, what is remembered and everything that runs."""

    def __init__(self, config: Config, lock: FolderLock | None = None) -> None:
        self.config, self.lock = config, lock
        self.tasks: set[asyncio.Task[Any]] = set()
        self.log_limiter, self.refusals, self.probes = LogLimiter(), LogLimiter(1, 60.0), Probes()
        self.long_work = asyncio.Lock()  # for what takes many turns of the loop: one at a time
        self.unsaved_events: list[Json] = []  # of the timeline, not saved yet
        self.lag = 0.0  # seconds by which the loop was late at worst, of late; halved in about 17 s
        self.beat = asyncio.Event()  # set for a moment at each heartbeat: what is done regularly wakes nobody by itself
        self.db = Database(config.data_dir / DATABASE_NAME)
        self.load_settings()
        self.load_engine_config()
        self.journal = Journal(self)
        self.access = Access(self)
        self.hub = Hub(self)
        self.library = Library(self)
        self.builds = Builds(config)
        self.builds.rehearsals = {id: item for id, item in self.db.get_meta("rehearsals", {}).items()
                                  if isinstance(item, dict)}
        self.pool = Pool(self)
        self.requests = Requests(self)
        self.captures = Captures(self)
        self.energy = EnergyLedger(self)
        self.upstreams = Upstreams(self)
        self.chats = Chats(self)
        self.sampler = Sampler(self)
        self.alerts = Alerts(self)
        self.downloads = Downloads(self)
        self.installer = Installer(self)
        self.benchmarks: dict[str, Json] = {}  # how far those under way are, by model
        self.web = WebServer(self)
        self.gateway = Gateway(self)
        self.pool.sync()

    # values

    def load_settings(self) -> None:
        """Read the settings again, after they were changed: what the user chose, or the defaults."""
        saved = good_values(self.db.get_meta("settings", {}), SETTING_FIELDS)
        fixed = {"log_level": self.config.log_level} if self.config.log_level else {}
        self.settings = {**SETTING_DEFAULTS, **saved, **fixed}

    def load_engine_config(self) -> None:
        """Read the engine's configuration again, after a change: option before environment, saved value and default."""
        saved = self.db.config()
        self.engine_config = {**engine_values(self.config, saved), "revision": saved["revision"]}

    def folders(self) -> list[Path]:
        """The model folders that can be used, as last looked at, the one for downloads included."""
        return [path for path in model_folders(self.config, self.engine_config)
                if self.library.root(path) not in self.library.lost]

    def own_ports(self) -> set[int]:
        """The ports that we and our engines listen on."""
        return {self.web.limits.port, yarl.URL(self.gateway.url or "").port or 0,
                *(item.port for item in self.pool.instances.values())}

    def model(self, id: str) -> Json:
        """One model with its state; NotFound where there is none."""
        return self.with_state(self.db.get_model(id))

    def with_state(self, row: Json) -> Json:
        """A model's row merged with what is known of its place in memory."""
        state = self.pool.entries.state(row)
        return {**row, **state, "missing": row["missing"] or state["status"] == "missing"}

    def state_of_entry(self, name: str) -> Json:
        """What is known of the entry `name`, or of an upstream's model, which is always ready."""
        return self.pool.entries.state(self.db.get_model(name)) if name in self.pool.entries.unit_of else {
            "status": "loaded", "progress": None, "reason": None}

    def entry_of(self, name: str) -> str | None:
        """The entry that a client means by a name: an id or an alias, in whatever case."""
        entries = self.pool.entries
        return name if name in entries.unit_of else entries.names.get(name.lower())

    async def change_models(self, wanted: dict[str, Json], revision: int | None = None) -> None:
        """Save, note and tell what a person wants of models, by id: of one of a revision, or of many, in turns."""
        for at, (id, changes) in enumerate(wanted.items()):
            if at:
                await asyncio.sleep(0)
            old = self.db.get_model(id)
            self.db.update_model(id, old["revision"] if revision is None else revision, changes)
            if changed := sorted(key for key in changes if old.get(key) != changes[key] and key != "favorite"):
                pins = {"pinned": changes["pinned"]} if "pinned" in changed else {}
                self.event("configuration", id, ", ".join(changed), pins)
        self.pool.sync()
        for id in wanted:
            await self.broadcast("models:updated", {"model": self.model(id)})
            await asyncio.sleep(0)

    def features(self) -> Json:
        """What a client must know of this server before it shows anything."""
        zone = os.environ.get("TZ", "").lstrip(":") or os.path.realpath("/etc/localtime").partition("zoneinfo/")[2]
        if not re.fullmatch(r"[A-Z]\w+/[\w/+-]+", zone):  # not by its IANA name: one as far ahead of UTC now
            zone = f"Etc/GMT{-time.localtime().tm_gmtoff // 3600:+}"
        return {"auth": self.config.auth, "password": self.db.get_meta("password", {}) != {},
                "web": self.web.files.version, "notice": self.db.notice, "timezone": zone,
                "alerts": [*self.alerts.active.values()], "captures": self.captures.wanted()}

    # messages

    async def broadcast(self, event: str, data: Json) -> None:
        """Send `data` to every client, in sequence; what is told while a long list is written comes before it."""
        self.hub.broadcast(event, await encoded_by_parts(data))

    def event(self, kind: str, model: str | None = None, reason: str | None = None,
              details: Json | None = None) -> None:
        """Put into the timeline what happened, now; of those refused for one reason only the first of a minute."""
        details = details or {}
        if kind == "refused" and not self.refusals.allows(f"{model} {details.get('code')}", time.monotonic()):
            return
        self.unsaved_events.append({"timestamp": now_ms(), "kind": kind, "model": model, "reason": reason,
                                    "details": details})
        self.pool.changed.set()
        if alert := kind if kind in ("crashed", "failed") else details.get("alert"):
            self.alerts.tell(alert, f"{model} {kind}: {reason}" if model else str(reason), model)

    async def publish_events(self) -> None:
        """Save and broadcast what happened since the last time; what cannot be saved waits for the next one."""
        events, self.unsaved_events = self.unsaved_events, []
        if events and (saved := await self.chore("timeline", self.db.add_events, events)):
            await self.broadcast("timeline:added", {"events": saved})
        else:
            self.unsaved_events = [*events, *self.unsaved_events][-MAX_UNSAVED:]

    async def send(self, client_id: str, event: str, data: Json) -> None:
        """Send `data` to one client, if it is still there."""
        if client := self.hub.clients.get(client_id):
            self.hub.send(client, event, data)

    # running

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `coroutine` in the background; its failure is logged, and it ends with the program."""
        task = asyncio.create_task(coroutine, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.ended)
        return task

    def ended(self, task: asyncio.Task[Any]) -> None:
        """Forget a background task, and log why it failed if it did."""
        self.tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()):
            log.error("%s failed", task.get_name(), exc_info=problem)

    async def run_forever(self, name: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Do `work`, and begin again where it fails: a disk that was full for a moment must not end it for good."""
        while True:
            try:
                await work()
                return
            except Exception as problem:
                if self.log_limiter.is_new(name, problem):
                    log.exception("%s failed and begins again", name)
                await asyncio.sleep(RESTART_PAUSE)

    async def run(self, stop: asyncio.Event, ready: Callable[[int], None], early: Sequence[Any] = ()) -> None:
        """Log what was said `early`, start everything in order, be `ready`, and undo it once `stop` is set."""
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.db.close)
            self.start_logging(stack)
            for record in early:
                log.handle(record)
            self.web.limits.total = 0.75 * allow_open_files(OPEN_FILES)  # database, engine and files need the rest
            self.web.limits.tls = await asyncio.to_thread(tls_context, self.config.tls_cert, self.config.tls_key)
            await listen(stack, self.web.handle, self.web.limits, self.config.host, self.config.port)
            if self.config.prometheus:
                limits = ConnectionLimits(self.hub.refused, per_address=16, exempt=())
                await listen(stack, self.web.metrics, limits, *self.config.prometheus, option="--prometheus")
            stack.push_async_callback(self.end_tasks)
            stack.push_async_callback(self.energy.count)  # what was spent until the end
            stack.push_async_callback(self.sampler.read_gpus, fresh=True)
            stack.push_async_callback(self.hub.close)
            stack.push_async_callback(self.gateway.close)
            self.hub.known_key = await self.access.key()
            gc.freeze()  # what was made until now stays: to look through all of it takes up to 0.05 s each time
            await asyncio.to_thread(ready, self.web.limits.port)
            self.event("started", reason=f"llamadash {__version__}")
            log.info("llamadash %s is listening on %s", __version__, self.config.url(self.web.limits.port))
            for name, work in self.background().items():
                self.spawn(self.run_forever(name, work), name)
            await stop.wait()
            log.info("stopping")
            self.event("stopped", reason=f"llamadash {__version__}")
            await notify("STOPPING=1")

    def start_logging(self, stack: contextlib.AsyncExitStack) -> None:
        """Let Python's logging go to the journal until the program ends."""
        handler = JournalHandler(self.journal)
        root = logging.getLogger()
        root.addHandler(handler)
        root.addHandler(logging.NullHandler())  # else Python writes to stderr what comes after the journal's end
        root.setLevel(logging.WARNING)
        log.setLevel(self.settings["log_level"].upper())
        stack.push_async_callback(self.journal.flush)
        stack.callback(root.removeHandler, handler)
        if not self.config.auth:
            log.warning("authentication is off: whoever reaches %s controls llamadash", self.config.url())

    def background(self) -> dict[str, Callable[[], Coroutine[Any, Any, Any]]]:
        """What runs for as long as the program does, by name."""
        return {"journal": self.journal.run, "connections": self.hub.run, "sampler": self.sampler.run,
                "opening the API": self.open_api, "model folders": self.library.run, "residency": self.pool.run,
                "engine events": self.pool.publish, "schedules": functools.partial(keep_schedules, self),
                "upstreams": self.upstreams.run, "downloads": self.downloads.run,
                "housekeeping": functools.partial(keep_house, self), "files": functools.partial(keep_files, self),
                "engines": functools.partial(wait_for_engine, self), "watchdog": functools.partial(watchdog, self),
                **{f"alerts to {target.name}": target.run for target in self.alerts.targets}}

    async def open_api(self) -> None:
        """Open the API, if the user wants that; again and again until its address is there."""
        while self.engine_config["autostart"] and self.gateway.server is None:
            with contextlib.suppress(EngineUnavailable, EngineFailed):  # the engine's state says why
                await self.gateway.start()
                return
            await asyncio.sleep(ADDRESS_PAUSE)

    async def chore(self, name: str, work: Callable[..., Result], *arguments: Any, place: str = "") -> Result | None:
        """Do a piece of housekeeping, in a thread; what keeps it from that is logged, as that `place` hangs."""
        job = functools.partial(work, *arguments)
        try:
            return await (self.probes.call(place, job) if place else asyncio.to_thread(job))
        except (DashError, OSError) as problem:
            if self.log_limiter.is_new(name, problem):
                log.warning("%s: %s", name, problem)
                if name == "backup":
                    self.event("backup", reason=f"The backup failed: {problem}", details={"alert": "backup"})
        return None

    async def end_tasks(self) -> None:
        """Cancel the background tasks, once each has begun, and wait for them, but not for ever."""
        await asyncio.wait([asyncio.ensure_future(cancelled(self.tasks))], timeout=STOP_TASKS)


async def listen(stack: contextlib.AsyncExitStack, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
                 limits: ConnectionLimits, host: str, port: int, *, option: str = "--port", grace: float = 0.1,
                 **options: Any) -> asyncio.Server:
    """Serve by `handler` until `stack` ends, and `grace` s longer; DashError with an `exit_code` where that fails."""
    # without an application, whose router takes a moment for each slash of a path
    http = web.Server(handler, logger=log, access_log=None, handler_cancellation=True,
                      keepalive_timeout=KEEPALIVE_TIME, **{"max_line_size": 2048, "lingering_time": 0, **options})
    runner = web.ServerRunner(http, shutdown_timeout=grace)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        server = await asyncio.get_running_loop().create_server(
            functools.partial(LimitedProtocol, limits, http), host, port, backlog=16)  # which are accepted at once
    except OSError as problem:
        if problem.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise DashError(f"{host} ({option.replace('port', 'host')}) is not an address of this machine now: "
                            f"{problem.strerror or problem}", exit_code=EXIT_LATER) from problem
        reason = "needs more rights" if problem.errno == errno.EACCES else \
            f"is taken by {await asyncio.to_thread(port_holder, port)}"
        raise DashError(f"port {port} {reason}: choose another with {option}", exit_code=EXIT_PORT) from problem
    stack.callback(server.close)
    for listener in server.sockets:
        with listener.dup() as same:
            same.listen(API_CONNECTIONS)  # may wait: asyncio takes one number for both, and a crowd holds up all others
    limits.port = int(server.sockets[0].getsockname()[1])
    return server


def allow_open_files(wanted: int) -> float:
    """Raise this process's limit of open files to `wanted`, as far as it may be, and return the limit."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return math.inf
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    best = max(soft, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))
    with contextlib.suppress(OSError, ValueError):  # macOS has a lower limit that it does not tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (best, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What https needs, or None for http; DashError naming the files that do not serve."""
    if certificate is None or key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        for path in (certificate, key):
            open(path, "rb", opener=file_behind).close()  # its error names the file
        context.load_cert_chain(certificate, key, password="")  # never asks for one
    except (ssl.SSLError, ValueError) as problem:
        renewing = "MISMATCH" in (getattr(problem, "reason", None) or "")  # one of two good files was replaced so far
        raise DashError(f"{certificate} and {key} are not a certificate and its private key (in PEM format, without "
                        "a passphrase)", exit_code=EXIT_LATER if renewing else EXIT_USAGE) from None
    except OSError as problem:
        raise DashError(f"{problem.filename or key} cannot be read: {problem.strerror}",
                        exit_code=EXIT_USAGE if is_lasting(problem) else EXIT_LATER) from problem
    return context


async def keep_house(dash: Dash) -> None:
    """Make daily backups and delete what is too old, now and then."""
    await asyncio.sleep(PRUNE_DELAY)
    while True:
        if made := await dash.chore("backup", dash.db.daily_backup):
            dash.event("backup", reason=made.name)
        await dash.chore("deletion of what is too old", dash.db.prune, dash.settings)
        # one that was renewed, where the pair fits, serves connections from now on
        dash.web.limits.tls = await dash.chore(
            "the certificate is not renewed", tls_context, dash.config.tls_cert, dash.config.tls_key,
            place=str(dash.config.tls_cert)) or dash.web.limits.tls
        await dash.chore("attachments", lambda: dash.chats.attachments.delete_unnamed(
            dash.db.attachments(), dash.db.clock))
        await dash.downloads.look_for_newer()
        await dash.installer.look_for_newer()
        await asyncio.sleep(PRUNE_INTERVAL)


async def keep_files(dash: Dash) -> None:
    """See every moment that the data folder has what is open, and tell every page what happened to it."""
    told = dash.db.notice
    for turn in itertools.count(1):
        await asyncio.sleep(2)
        await dash.chore("data folder", look_after_files, dash)
        if turn % 30 == 1 and not dash.db.lost:  # each minute what is saved gets into the database's file itself
            await dash.chore("write-ahead log", dash.db.checkpoint)
        await dash.publish_events()  # those that could not be saved, if any
        if told != dash.db.notice:
            told = dash.db.notice
            await dash.broadcast("system:notice", {"notice": told})


def look_after_files(dash: Dash) -> None:
    """Put back what was taken out of the data folder; another llamadash there ends all saving."""
    make_data_folder(dash.config.data_dir)
    try:
        if dash.lock:
            dash.lock.hold()
    except AlreadyRunning as problem:
        dash.db.lost = dash.db.notice = f"Nothing is saved any more: {problem} as well. Stop one of the two."
        raise
    dash.db.stay_in_place()
    if dash.db.marks and not dash.db.lost:
        dash.db.see_own_content()


async def watchdog(dash: Dash) -> None:
    """Be the heart of the program: measure how late the loop is, and tell systemd that it is alive."""
    pause = (reading(os.environ.get("WATCHDOG_USEC")) or 0) / 2e6  # twice as often as systemd asks for
    notified, beat, worked = -math.inf, time.monotonic(), time.thread_time()
    await notify("READY=1")
    while True:
        await asyncio.sleep(HEARTBEAT)
        late, work = time.monotonic() - beat - HEARTBEAT, time.thread_time() - worked
        beat, worked = time.monotonic(), time.thread_time()
        if late > STALL:  # without work the machine was busy otherwise, or asleep
            log.log(logging.WARNING if work > late / 2 else logging.DEBUG,
                    "the event loop stood still for %d ms (%d ms of work)", late * 1000, work * 1000)
        dash.lag = max(dash.lag * 0.98, late)
        dash.beat.set()
        dash.beat.clear()
        if pause and beat - notified > pause:
            notified = beat
            await notify("WATCHDOG=1")


@on("system:info", error="GET_SYSTEM_INFO_FAILED")
async def system_info(dash: Dash) -> Json:
    """What this machine and this installation are."""
    metrics = dash.sampler.latest or await dash.sampler.sample()
    database = [Path(f"{dash.db.path}{suffix}") for suffix in DATABASE_FILES]
    return {
        "version": __version__, "python": platform.python_version(),
        "os": await asyncio.to_thread(lambda: readable(lambda: platform.freedesktop_os_release()["PRETTY_NAME"]) or
                                      platform.platform(terse=True).replace("-", " ", 1)),
        "hostname": dash.web.name, "host": dash.config.host, "address": lan_address(dash.web.name),
        "uptime": metrics["uptime"],
        "cpu": {"model": await asyncio.to_thread(processor_name), "threads": readable(psutil.cpu_count)},
        "memory": {"total": metrics["memory_total"], "used": metrics["memory_used"]},
        "gpus": metrics["gpus"], "engine": dash.gateway.snapshot(), "process": metrics["process"],
        "database": {"path": str(dash.db.path), "size": await asyncio.to_thread(files_size, *database)},
        "paths": {"data": str(dash.config.data_dir), "script": str(SCRIPT),
                  "models": [str(folder) for folder in dash.folders()]},
        "alerts": [{"name": target.name, "kind": target.kind, "host": target.url.hostname, "error": target.error}
                   for target in dash.alerts.targets], "warnings": system_warnings(dash, metrics)}


def system_warnings(dash: Dash, metrics: Json) -> list[str]:
    """What the owner of this machine ought to know, one sentence each."""
    return [*(f"The disk that holds {disk['path']} is {disk['usage']:.0f} % full."
              for disk in metrics["disks"] if (disk["usage"] or 0) >= 95),
            *(f"{name} does not answer." for name in dash.sampler.probes.hung),
            *(f"GPU {gpu['index']} ({gpu['name']}) does not answer." for gpu in metrics["gpus"] if gpu.get("lost")),
            *filter(None, ("" if dash.config.auth else "Authentication is off: everyone who can reach this port can "
                           "use it.", dash.db.clock.doubt, dash.sampler.nvidia.error and
                           f"No GPU readings: {dash.sampler.nvidia.error}"))]


MAX_IMPORTED = 5000  # models in a document; checking them takes a tenth of a second
DOCUMENT_FIELDS: dict[str, Any] = {
    "format": str, "version": int, "exported_at": Timestamp, "settings": dict[str, Any], "config": dict[str, Any],
    "models": Annotated[list[dict[str, Any]], Length(0, MAX_IMPORTED)]}


@on("system:export", error="EXPORT_SYSTEM_FAILED", cost=5)
async def system_export(dash: Dash) -> Json:
    """Everything but history, as one document: settings, configuration and each model's parameters."""
    models = [{key: row[key] for key in IMPORT_FIELDS} for row in dash.db.models()]
    return {"document": {"format": "llamadash", "version": 1, "exported_at": now_ms(),
                         "settings": dash.settings, "config": good_config(dash.db.config()), "models": models}}


@on("system:import", error="IMPORT_SYSTEM_FAILED", cost=40)
async def system_import(dash: Dash, *, document: dict[str, Any], dryRun: bool = False) -> Json:  # noqa: N803
    """Take over a document that system:export made; with `dryRun` only say what would change."""
    if (document.get("format"), document.get("version")) != ("llamadash", 1):
        raise InvalidRequest("This file was not exported by llamadash.", field="document.format")
    plan = await dash.library.patiently(document, import_plan, dash, document, dash.db.models())
    if not dryRun:
        if plan["settings"]:
            await settings_update(dash, changes=plan["settings"])
        if plan["config"]:
            await apply_config(dash, None, plan["config"])
        if "models_dirs" in plan["config"]:  # in which the document's models may be
            await dash.library.scan()
            again = await dash.library.patiently(document, import_plan, dash, document, dash.db.models())
            plan |= {"models": again["models"], "warnings": again["warnings"]}
        await dash.change_models(plan["models"])
    changes = [{"kind": kind, "id": id, "changes": values} for kind, id, values in
               [("settings", None, plan["settings"]), ("config", None, plan["config"]),
                *(("model", id, values) for id, values in plan["models"].items())] if values]
    return {"changes": changes, "warnings": plan["warnings"], "dryRun": dryRun}


def import_plan(dash: Dash, document: Json, rows: list[Json]) -> Json:
    """{settings, config, models: {id: changes}, warnings}: what an import would change in `rows` and the rest."""
    document, locked = checked_changes(document, DOCUMENT_FIELDS, {}, "document"), dash.config.locked()
    parts = [document.get("settings", {}), renamed_config(document.get("config", {}))]
    warnings = [f"{key} is fixed by {locked[key]} and stays as it is"
                for part in parts for key in part if key in locked]
    settings, config = ({key: value for key, value in part.items() if key not in locked} for part in parts)
    settings = checked_changes(settings, SETTING_FIELDS, {}, "document.settings")
    if "models_dirs" in config:
        given = checked(config["models_dirs"], CONFIG_FIELDS["models_dirs"], "document.config.models_dirs")
        absent = [path for path in given if os.path.isabs(expanded(path)) and not os.path.isdir(expanded(path))]
        warnings += [f"{path} is not a folder on this machine and is left out" for path in absent]
        config["models_dirs"] = [path for path in given if path not in absent]
    if "defaults" in config:
        config["defaults"], fields = imported_parameters(config["defaults"], dash.folders(), "document.config.defaults",
                                                         warnings)
        if "idle" in fields:
            config.setdefault("idle_seconds", fields["idle"])
    config = checked_config(dash, config, "document.config")
    return {"settings": {key: value for key, value in settings.items() if value != dash.settings.get(key)},
            "config": {key: value for key, value in config.items() if value != dash.engine_config.get(key)},
            "models": imported_models(dash, document.get("models", []), rows, warnings),
            "warnings": list(dict.fromkeys(warnings))}


def imported_parameters(given: Any, folders: list[Path], at: str, warnings: list[str]) -> tuple[Json, Json]:
    """A document's parameters whose files are here, with `warnings` of others; two of 1.0.0 are fields today."""
    given, accepted = dict(checked(given, dict[str, Any], at)), Json()
    old = (("load-on-startup", "pinned"), ("sleep-idle-seconds", "idle"))
    fields = {name: given.pop(key) for key, name in old if key in given}
    if fields.get("idle") == -1:
        fields["idle"] = 0
    for key, value in given.items():
        try:
            accepted |= validated_parameters({key: value}, folders, at)
        except FileNotHere:
            warnings.append(f"{value} is in no model folder of this machine and is left out")
    return accepted, fields


def imported_models(dash: Dash, items: list[Json], rows: list[Json], warnings: list[str]) -> dict[str, Json]:
    """What a document's models change of those here, by id; `warnings` gets those that are not here."""
    by_id, names, by_path = {row["id"]: row for row in rows}, entry_names(rows), dict[str, list[Json]]()
    for known in rows:
        by_path.setdefault(known["path"], []).append(known)
    folders, models = dash.folders(), dict[str, Json]()
    for at, item in enumerate(items):
        id = checked(item.get("id"), ModelId, f"document.models.{at}.id")
        path = str(item.get("path", ""))
        variants = by_path.get(path, [by_id[id]] if id in by_id else [])
        # an id alone may be another's: they follow the order of discovery
        fitting = (row for row in variants if row["id"] == id or (len(variants) == 1 and row["id"] not in models))
        row = next(fitting, None)
        if not row or (path and os.path.basename(path) != os.path.basename(row["path"])):
            warnings.append(f"there is no model {id} here")
            continue
        if "parameters" in item:
            parameters, fields = imported_parameters(item["parameters"], folders, f"document.models.{at}.parameters",
                                                     warnings)
            item = {**fields, **item, "parameters": parameters}
        wanted = checked_fields(item, IMPORT_FIELDS, f"document.models.{at}", folders)
        taken = [alias for alias in wanted.get("aliases", ()) if names.get(alias.lower(), row)["id"] != row["id"]]
        if taken:
            warnings.append(f"{', '.join(taken)} names another model here and is left out")
            wanted["aliases"] = [alias for alias in wanted["aliases"] if alias not in taken]
        models[row["id"]] = {key: wanted[key] for key in MODEL_CHANGES if key in wanted and wanted[key] != row[key]}
    return {id: changes for id, changes in models.items() if changes}


# -- Command line ---------------------------------------------------------------------------------

EXIT_USAGE, EXIT_PORT, EXIT_RUNNING, EXIT_DATABASE = 2, 3, 4, 5  # UNIT tells systemd which of them a new start may mend
EXIT_LATER = 75  # what sysexits.h calls EX_TEMPFAIL: nobody did anything wrong, and a later start may succeed
# What no waiting mends: a path is none, or leads to something else than was meant.
LASTING = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")  # what a variable may say to an option without value
LOCK_WAIT, LOCK_PAUSE = 0.3, 0.01  # seconds: link and doctor hold the lock for an instant, to see who has it


def option_of(read: Callable[[str], Result | None], what: str) -> Callable[[str], Result]:
    """What checks a text from the command line: `read`, which has no answer to one that is not `what`."""
    def check(text: str) -> Result:
        with contextlib.suppress(OSError, ValueError):
            if (found := read(text)) is not None:
                return found
        raise argparse.ArgumentTypeError(f"{text} is not {what}")
    return check


def bare_host(text: str) -> str | None:
    """An address, or a name as DNS has it."""
    with contextlib.suppress(ValueError):
        return bare_address(text.strip("[]"))
    name = text.encode("idna").decode().lower()
    return name if re.fullmatch(r"[\w-]+(\.[\w-]+)*\.?", name) else None


def proxy_network(text: str) -> str | None:
    """An address or a network, but not that of everybody."""
    network = ipaddress.ip_network(text if "/" in text else bare_address(text.strip("[]")))
    return None if network.network_address.is_unspecified else str(network).removesuffix(f"/{network.max_prefixlen}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options, each with the name of what it sets in Config as its `dest`; what is not given is left out."""
    def number(low: int, high: int) -> Callable[[str], int]:
        return option_of(lambda text: int(text) if text.isdecimal() and low <= int(text) <= high else None,
                         f"a number from {low} to {high}")

    def site(text: str) -> str | None:
        scheme, mark, name = text.partition("://")
        found = site_of(f"{scheme}{mark}{name.encode('idna').decode()}")
        return text if text == "*" else str(found) if found else None

    def listener(text: str) -> tuple[str, int] | None:
        name, _, number = text.rpartition(":")
        return (host, port(number)) if name and (host := bare_host(name)) else None

    opt = functools.partial(parser.add_argument, default=argparse.SUPPRESS)
    each = functools.partial(opt, action="append")
    port = number(0, 65535)
    path = option_of(lambda text: expanded(text).absolute(), "below a folder that is still there")
    host = option_of(bare_host, "a name alone, like box.lan, or an address, like 192.168.1.5")
    opt("--host", type=host, metavar="ADDRESS", help="address to listen on (127.0.0.1)")
    opt("--port", type=port, metavar="PORT", help="port to listen on, 0 for a free one (3000)")
    opt("--data-dir", type=path, metavar="DIR", help="where the database and the keys are kept (data beside this)")
    each("--models-dir", dest="models_dirs", type=path, metavar="DIR", help="folder with GGUF models")
    opt("--llama-server", metavar="PROGRAM|URL", help="llama-server to run, or the address of a server elsewhere")
    opt("--api-host", "--engine-host", type=host, metavar="ADDRESS", help="address of the models' API (127.0.0.1)")
    opt("--api-port", "--engine-port", type=port, metavar="PORT", help="port of the models' API (8080)")
    each("--upstream", dest="upstreams", type=option_of(upstream_named, "NAME=URL"), metavar="NAME=URL",
         help="server elsewhere whose models are offered here as NAME/MODEL")
    opt("--no-auth", dest="auth", action="store_false", help="let anyone in who can connect")
    each("--allow-host", dest="allow_hosts", type=host, metavar="NAME", help="further name this machine is reached by")
    each("--allow-origin", dest="allow_origins", metavar="ORIGIN", type=option_of(
        site, "a site, like https://box.lan:8443 (scheme, name and port, without a path), or * for all"),
        help="further site that may connect, or *")
    each("--trusted-proxy", dest="trusted_proxies", metavar="ADDRESS", type=option_of(
        proxy_network, "the address of a proxy, like 127.0.0.1, or a network of proxies, like 172.16.0.0/12"),
        help="proxy, or network of proxies, whose X-Forwarded-* headers count")
    each("--base-path", dest="base_paths", metavar="PATH", type=option_of(
        lambda text: re.fullmatch(r"(/[\w-][\w.-]*)+/?", text, re.A) and text.rstrip("/"), "a path like /llama"),
        help="path before ours that a proxy leaves in what it passes on")
    each("--alert", dest="alerts", type=option_of(alert_named, ALERT_EXAMPLES), metavar="NAME=URL",
         help="where alerts are sent: ntfy+https://…, https://… (a webhook), smtp://USER@HOST/?to=ADDRESS")
    opt("--prometheus", type=option_of(listener, "ADDRESS:PORT"), metavar="ADDRESS:PORT",
        help="listen there for Prometheus (off)")
    opt("--tls-cert", type=path, metavar="FILE", help="certificate for https (with --tls-key)")
    opt("--tls-key", type=path, metavar="FILE", help="its private key")
    opt("--sockets-per-address", type=number(1, 10**9), metavar="N", help="connections allowed from one address (32)")
    opt("--request-rate", type=number(1, 10**9), metavar="N", help="requests a second allowed to one client (50)")
    opt("--log-level", choices=LOG_LEVELS, help="minimum level of log messages (info)")


def command_line() -> argparse.ArgumentParser:
    """Every option and command."""
    options = argparse.ArgumentParser(add_help=False)
    add_options(options)
    parser = argparse.ArgumentParser(
        prog="llamadash.py",
        description="The async proxy and dashboard for llama.cpp on your own box.",
        epilog="Options that name a folder, site, server or proxy may be repeated. "
               "Each option has an environment variable: --api-port is LLAMADASH_API_PORT.",
        parents=[options])
    parser.add_argument("--version", action="version", version=f"llamadash {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (_, help, own) in COMMANDS.items():
        command = commands.add_parser(name, help=help, description=help, parents=[options])
        for argument, details in own.items():
            command.add_argument(argument, **details)
    return parser


def config_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options that set something in Config."""
    return [action for action in parser._actions if action.dest in Config.__dataclass_fields__]


def variable_words(parser: argparse.ArgumentParser, action: argparse.Action, variable: str) -> list[str]:
    """The command-line arguments that a LLAMADASH_* variable stands for; lists are separated like PATH."""
    option, value = action.option_strings[0], os.environ[variable]
    if isinstance(action, argparse._AppendAction):
        separator = os.pathsep if action.dest == "models_dirs" else ","
        return [f"{option}={part}" for part in value.split(separator) if part]
    if action.nargs != 0:
        return [f"{option}={value}"]
    if value.lower() not in (*YES, *NO):
        parser.error(f"{variable} is {value}: neither on nor off")
    return [option] if value.lower() in YES else []


def parsed(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[Json, dict[str, str]]:
    """The options in force, and what fixed each: the option itself or its variable."""
    if any(word == "" or re.fullmatch(r"--[a-z-]+=", word) for word in argv):
        parser.error("an option or a file name is empty")
    options, fixed, words = vars(parser.parse_args(argv)), dict[str, str](), list[str]()
    for action in config_options(parser):
        names = ("LLAMADASH_" + name.removeprefix("--").replace("-", "_").upper() for name in action.option_strings)
        variable = next(filter(os.environ.get, names), "")
        if action.dest in options:
            fixed[action.dest] = action.option_strings[0]
        elif variable and (meant := variable_words(parser, action, variable)):
            words, fixed[action.dest] = [*words, *meant], variable
    return {**vars(parser.parse_args(words)), **options}, fixed


def configured(options: Json, fixed: dict[str, str]) -> Config:
    """The Config that the options make; DashError where they do not go together."""
    if ("tls_cert" in options) != ("tls_key" in options):
        raise DashError("--tls-cert and --tls-key go together", exit_code=EXIT_USAGE)
    if not all(key.isprintable() for key in given_api_keys()):
        raise DashError("an API key is one line of text", exit_code=EXIT_USAGE)
    values: Json = {key: tuple(options[key]) if isinstance(options[key], list) else options[key] for key in fixed}
    upstreams = dict(values.get("upstreams", ()))
    server = values.get("llama_server", "")
    if re.match(SERVER_ADDRESS, server) and not os.path.exists(server):
        if not (named := upstream_named(server)):
            raise DashError(f"{server} is not the address of a server", exit_code=EXIT_USAGE)
        upstreams[named[0]] = values["llama_server"] = upstream_url(server)
    return Config(**{**values, "upstreams": tuple(upstreams.items())}, fixed=fixed)


def say(text: str, stream: typing.TextIO | None) -> None:
    """Print one line; where that is closed or full, also a pipe for SAY_TIME, nobody reads it, and all else goes on."""
    ready = True
    with contextlib.suppress(OSError, ValueError):  # not every system, nor what a test puts there, can say it
        ready = not stream or bool(select.select([], [stream.fileno()], [], SAY_TIME)[1])
    try:
        if ready:
            print(text, file=stream, flush=True)
    except (OSError, ValueError):
        if stream:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or what is left would fail at the exit


class AlreadyRunning(DashError):
    """Another llamadash uses this data folder."""


def make_data_folder(folder: Path) -> None:
    """Make `folder` for this user alone; one that exists may be shared, and stays as it is."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as problem:  # which Python says of a link that leads nowhere, too
        if not os.path.lexists(target := os.path.realpath(problem.filename)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), target) from problem
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), problem.filename) from problem


class FolderLock:
    """The lock of a data folder, and in it who has it: the process, and its address once that is known."""

    def __init__(self, folder: Path) -> None:
        make_data_folder(folder)
        with contextlib.suppress(FileExistsError):  # as a link to a place that is not there yet
            (folder / "models").mkdir()
        self.path, self.text = folder / "lock", str(os.getpid())
        self.file: typing.TextIO | None = None
        self.hold()

    def hold(self) -> None:
        """Take it, or take it again where its file was taken away; AlreadyRunning where another process has it."""
        with contextlib.suppress(FileNotFoundError):
            if self.file and os.path.samestat(os.fstat(self.file.fileno()), self.path.lstat()):
                return
        file = open(self.path, "a+", encoding="utf-8", errors="replace", opener=plain_file)  # noqa: SIM115  (kept)
        os.chmod(self.path, 0o600)
        try:
            holder = lock_file(file, LOCK_WAIT)
        except OSError as problem:
            raise database_error(OSError(*NO_LOCKS), f"{self.path} cannot be used", self.path) from problem
        if holder is not None:
            pid = holder.partition(" ")[0] or "?"
            raise AlreadyRunning(f"another llamadash (process {pid}) uses {self.path.parent}")
        self.file = file
        self.tell(self.text)

    def tell(self, text: str) -> None:
        """Write into it who has it."""
        assert self.file
        self.text = text
        self.file.truncate(0)
        self.file.write(text)
        self.file.flush()

    def close(self) -> None:
        """Leave it to others."""
        if self.file:
            self.file.close()


def lock_file(file: typing.TextIO, patience: float = 0.0) -> str | None:
    """Lock `file` for this process until it ends; its text where another one has it for longer than `patience` (s)."""
    ends = time.monotonic() + patience
    while True:
        try:
            if os.name == "nt":
                import msvcrt
                os.lseek(file.fileno(), 2**30, os.SEEK_SET)  # behind what is written: nobody else can read this byte
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
            else:
                import fcntl
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except OSError as problem:
            if problem.errno in UNLOCKABLE:
                raise
        if time.monotonic() >= ends:
            file.seek(0)
            return file.read()
        time.sleep(LOCK_PAUSE)


def port_holder(port: int) -> str:
    """Who listens on `port`, as far as this user may know."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "another program"


def run_server(config: Config) -> int:
    """Run llamadash until it is told to stop, and return its exit code."""
    if not CARRIED_WEB and not (WEB / "index.html").is_file():
        raise DashError(f"the folder {WEB} is missing: copy it beside {SCRIPT.name} as well", exit_code=EXIT_USAGE)
    with contextlib.closing(FolderLock(config.data_dir)) as lock:
        return asyncio.run(serve_until_stopped(config, lock))


async def serve_until_stopped(config: Config, lock: FolderLock) -> int:
    """Run one Dash until SIGINT or SIGTERM."""
    stop, loop, running = asyncio.Event(), asyncio.get_running_loop(), list[Dash]()
    watch_signals(lambda: loop.call_soon_threadsafe(stop.set), lambda: leave(*running))
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(32))  # some ask for a name's address, for long
    early: Any = []  # what is said before there is a journal: none of it to stderr, which may be full
    log.addFilter(early.append)
    try:
        limiter, dash = LogLimiter(), await asyncio.to_thread(Dash, config, lock)  # which reads files
    finally:
        log.removeFilter(early.append)
    running.append(dash)

    def uncaught(_loop: asyncio.AbstractEventLoop, context: Json) -> None:
        problem, message = context.get("exception"), str(context.get("message"))
        gone = isinstance(problem, ConnectionError | TimeoutError | ssl.SSLError)  # a peer that has gone is no news
        late = stop.is_set() and isinstance(problem, AssertionError)  # asyncio's: one that came as its listener closed
        if not (gone or late) and limiter.is_new(message, problem):
            log.error("%s: %r", message, problem)

    def ready(port: int) -> None:
        lock.tell(f"{os.getpid()} {config.url(port)}")
        key = f"/#key={dash.hub.known_key}" if config.auth else "/"
        say(f"llamadash {__version__} listening on {config.url(port)}{key}", sys.stdout)
    loop.set_exception_handler(uncaught)
    await dash.run(stop, ready, early)
    leave()  # for threads that hang would keep the program from ending
    return 0


def watch_signals(stop: Callable[[], Any], leave: Callable[[], None]) -> None:
    """Call `stop` at the first signal to end, and `leave` STOP_DEADLINE s later, or soon after a second one."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    for number in (getattr(signal, name, signal.SIGTERM) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")):
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:  # as nohup left it
            signal.signal(number, lambda number, frame: None)

    def watch() -> None:  # in a thread, for whatever else there is may hang
        with ours, theirs:
            ours.recv(1)
            stop()
            for seconds in (STOP_DEADLINE, STOP_HURRY):
                ours.settimeout(seconds)
                try:
                    ours.recv(1)
                except TimeoutError:
                    break
            leave()
    threading.Thread(target=watch, name="signals", daemon=True).start()


def leave(*running: Dash) -> None:
    """End the program at once, with the engines of what is still `running`, after a try to save the rest."""
    def save() -> None:
        dash.db.add_requests(dash.requests.finished)
        dash.db.add_events(dash.unsaved_events)
        dash.db.add_logs(list(dash.journal.pending))
    for dash in running:
        for instance in list(dash.pool.instances.values()):
            instance.kill("llamadash ended")
        with contextlib.suppress(Exception):
            in_own_thread(save).result(1.0)
        say("llamadash: not everything ended in time, and the rest is given up", sys.stderr)
    os._exit(0)


def open_database(config: Config) -> Database:
    """The database for a command, made or repaired where it must be and no other process uses the data folder."""
    path = config.data_dir / DATABASE_NAME
    make_data_folder(config.data_dir)
    try:
        return Database(path, repair=False)  # as it nearly always is: a server that starts now need not wait
    except DatabaseDamaged:
        with contextlib.suppress(AlreadyRunning), contextlib.closing(FolderLock(config.data_dir)):
            return Database(path)
        raise


def print_link(config: Config, *, new: bool) -> None:
    """Print the link to open; with `new` replace the key first, which ends all sessions."""
    make_data_folder(config.data_dir)
    if new:
        with contextlib.closing(open_database(config)) as database:  # one that cannot be opened keeps the key as it is
            database.delete_sessions()
    running = running_instance(config.data_dir)  # which notices a new key
    print(f"{(running and running[1]) or config.url()}/#key={access_key(config.data_dir, new=new)}")


def running_instance(data_dir: Path) -> tuple[str, str] | None:
    """The process id and the address, empty while it starts, of the llamadash that uses this data folder, if any."""
    # Where it cannot be opened nobody was here yet, or it is another user's.
    with contextlib.suppress(OSError), \
            open(data_dir / "lock", "r+", encoding="utf-8", errors="replace", opener=plain_file) as file:
        if (holder := lock_file(file)) is not None:
            pid, _, url = holder.partition(" ")
            return pid, url
    return None


def ask_password(config: Config) -> None:
    """Ask for a new password, or read it from a pipe, and store its hash."""
    asks = sys.stdin is not None and sys.stdin.isatty()
    line = f'{getpass.getpass("New password (empty: none): ")}\n' if asks else (sys.stdin or io.StringIO()).readline()
    password = line.rstrip("\n")
    if not line or not encodable(password):
        raise DashError("a password is one line of text; an empty line takes it away", exit_code=EXIT_USAGE)
    if 0 < len(password) < MIN_PASSWORD or len(password) > MAX_PASSWORD:
        raise DashError(f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters", exit_code=EXIT_USAGE)
    with contextlib.closing(open_database(config)) as database:
        database.set_meta("password", hashed_password(password) if password else None)
        database.delete_sessions()
    print("The password is set." if password else "The password was removed; the link works as before.")


def write_backup(config: Config, *, file: Path) -> None:
    """Write a backup of the database to `file`, also while llamadash runs."""
    if not (config.data_dir / DATABASE_NAME).exists():
        raise DashError(f"there is no database in {config.data_dir}", exit_code=EXIT_USAGE)
    with contextlib.closing(open_database(config)) as database:
        print(f"{file} ({database.backup(file.absolute())} bytes)")


COMMANDS: dict[str, tuple[Callable[..., int | None], str, dict[str, Json]]] = {  # and help, and arguments
    "link": (print_link, "print the link to open",
             {"--new": {"action": "store_true", "help": "replace the access key and end all sessions"}}),
    "password": (ask_password, "set the password", {}),
    "backup": (write_backup, "write a backup of the database", {"file": {"type": Path, "help": "where to write it"}}),
    "service": (print_service, "print a systemd unit", {}),
    "doctor": (lambda config: asyncio.run(doctor(config)), "check this machine and say what to do", {}),
    "update": (update, "put the newest version in place of this file",
               {"--check": {"action": "store_true", "help": "only say whether there is a newer one"}}),
}
EXIT_CODES = {AlreadyRunning: EXIT_RUNNING, DatabaseRefused: EXIT_DATABASE, StorageFull: EXIT_LATER,
              DatabaseUnavailable: EXIT_LATER}


def is_lasting(problem: OSError) -> bool:
    """Whether somebody has to change something; a file that is not there, or not for us, may be mounted later."""
    refused = isinstance(problem, PermissionError) and problem.filename and os.path.lexists(problem.filename)
    return problem.errno in LASTING or bool(refused)


def open_standard_streams() -> None:
    """Keep 0 to 2 from becoming a file of ours where they are closed, and print what the terminal's letters lack."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    open_standard_streams()
    if argv[:1] == ["embedded-engine"]:
        return embedded_engine(argv[1:])
    options, fixed = parsed(command_line(), argv)
    try:
        config = configured(options, fixed)
        run, _, own = COMMANDS.get(options["command"], (run_server, "", {}))
        return run(config, **{name: options[name] for name in (argument.lstrip("-") for argument in own)}) or 0
    except DashError as problem:
        say(f"llamadash: {problem}", sys.stderr)
        return problem.details.get("exit_code") or EXIT_CODES.get(type(problem), 1)
    except OSError as problem:
        path, message = problem.filename, str(problem)
        if isinstance(problem, PermissionError):
            message = (f"{path or 'a file'} cannot be used by this user ({problem.strerror}): change its owner, "
                       "or run as another user")
        elif path or problem.errno == errno.ENOSPC:  # which is not told with a path where it is met while writing
            full = config.data_dir if storage_problem(config.data_dir / DATABASE_NAME) else "standard output"
            message = str(database_error(problem, f"{path or full} cannot be used", config.data_dir))
        say(f"llamadash: {message}", sys.stderr)
        return EXIT_USAGE if is_lasting(problem) else EXIT_LATER
    except KeyboardInterrupt:
        return 0


CARRIED_WEB = ""  # the pages, where .ci/release made this file: JSON of their texts, in bzip2, in base85

if __name__ == "__main__":
    sys.exit(main())
