#!/usr/bin/env python3
"""A day's life of llamadash in two minutes: does anything grow that nobody uses?

    data/venv/bin/python .ci/soak.py [--seconds 120] [--rounds 5] [--hours 24]

The real server, with a real llama-server and two tiny models of which one fits at a time, serves everybody at once:
browsers that come, go and come back, API clients that are answered, cut off or refused, downloads from a hub on this
machine that break and go on, strangers who send nonsense. What it does every few minutes it does every second, and
on its clock, which tells days and ages and when a schedule is due, as many hours pass as `--hours` says.
After each round all of them leave, everything is unloaded, and what is left is measured. It fails where the last
measurement is above the second one by more than LIMITS. Everything happens on 127.0.0.1 and in a temporary folder.
It uses the helpers of the tests, and so needs their Python: the one that `python3 test_llamadash.py` made.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import py_compile
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["LLAMADASH_NO_BOOTSTRAP"] = "1"
import aiohttp
import psutil

import test_llamadash as tests

OFTEN = {"PRUNE_DELAY": 1.0, "PRUNE_INTERVAL": 2.0, "HEALTH_INTERVAL": 1.0,
         "RETRY_PAUSE": (0.1, 1), "UPSTREAM_REFRESH": (1.0, 2.0), "REFRESH_PAUSE": 0.1,
         "REFUSAL_REPORT": 1.0, "GPU_RETRY": (1.0, 2.0), "RECOVERY_TIME": 10.0}
# Starts the server with these constants and with a clock that runs so many times as fast, both the one of the day and
# the one that is compared with it (what is waited for goes by another one, and is not hurried); and tells what only it
# can know.
SCRIPT = """
import asyncio, collections, contextlib, ctypes, gc, sqlite3, sys, time
sys.path[0] = {root!r}
def hurried(clock):
    first = {{}}
    def now(*which):
        real = clock(*which)
        return real + int((real - first.setdefault(which, real)) * ({speed} - 1))
    return now
time.time_ns, time.monotonic_ns, time.clock_gettime_ns = map(
    hurried, (time.time_ns, time.monotonic_ns, time.clock_gettime_ns))
time.time = lambda: time.time_ns() / 1e9
time.strftime = lambda form, moment=None, told=time.strftime: told(form, moment or time.localtime(time.time()))
import llamadash
for name, value in {often!r}.items():
    assert hasattr(llamadash, name), name
    setattr(llamadash, name, value)
@llamadash.on("soak:tell", error="TELL_FAILED")
async def tell(dash):
    gc.collect()
    for thing in gc.get_objects():
        if isinstance(thing, sqlite3.Connection):  # whose caches grow with the database, up to 2 MB each
            with contextlib.suppress(sqlite3.Error):
                thing.execute("PRAGMA shrink_memory")
    if hasattr(ctypes.CDLL(None), "malloc_trim"):  # glibc: what is free goes back, so that only what is held counts
        ctypes.CDLL(None).malloc_trim(0)
    kinds = collections.Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())
    return {{"blocks": sys.getallocatedblocks(), "tasks": kinds.total(), "kinds": kinds, "now": llamadash.now_ms()}}
sys.exit(llamadash.main())
"""
BEGAN = time.time_ns()  # about what the server's clock says as it starts
LIMITS = {  # how much more there may be at the end than after the second round
    "memory": 8 * 2**20, "blocks": 10_000, "descriptors": 4, "threads": 2, "tasks": 2, "children": 0, "stderr": 65_536}
EXPECTED = (OSError, aiohttp.ClientError, asyncio.TimeoutError, AssertionError,
            tests.socketio.exceptions.SocketIOError)
QUIET = 60.0  # s for everything to end after a round
Work = Callable[["Soak"], Awaitable[None]]


class Soak:
    """The server, where its users find it, and what they did."""

    def __init__(self, server: tests.Server, hub: tests.FakeHub) -> None:
        self.server, self.hub = server, hub
        self.chance = random.Random(14)  # noqa: S311  (to be repeatable)
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.ends = 0.0
        self.api = ""

    @property
    def process(self) -> psutil.Process:
        """The server's."""
        assert self.server.process
        return psutil.Process(self.server.process.pid)

    async def again(self, work: Work) -> None:
        """Do `work` until the round ends; what fails as its user expects is counted."""
        while time.monotonic() < self.ends:
            try:
                await asyncio.wait_for(work(self), max(1.0, self.ends + 5 - time.monotonic()))
                self.done[work.__name__] += 1
            except EXPECTED as problem:
                self.failed[f"{work.__name__}: {type(problem).__name__} {str(problem)[:300]}"] += 1
            await asyncio.sleep(self.chance.uniform(0, 0.2))

    async def round(self, seconds: float) -> None:
        """Let everybody work for a while."""
        self.ends = time.monotonic() + seconds
        users = [browse] * 8 + [ask] * 6 + [download] * 2 + [stranger] * 2 + [keep_house]
        await asyncio.gather(*map(self.again, users))

    async def measure(self) -> dict[str, int]:
        """What the server holds once everybody has left and everything was unloaded."""
        owner = await tests.Dashboard().connect(self.server)
        for id in ("one", "two"):
            await owner.envelope("models:unload", id=id)
        for item in (await owner.request("models:downloads"))["downloads"]:
            await owner.envelope("models:download:cancel", repo=item["repo"], file=item["file"])
        await tests.eventually(lambda: not self.process.children(recursive=True), "the engines ended", QUIET)
        await asyncio.sleep(3)
        resident = self.process.memory_info().rss
        inside = await owner.request("soak:tell")
        hours = inside["now"] / 3.6e6 - BEGAN / 3.6e12
        await owner.close()
        with contextlib.closing(sqlite3.connect(self.server.data / tests.llamadash.DATABASE_NAME)) as db:
            rows = {table: db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("logs", "requests")}
        backups = len(list((self.server.data / "backups").glob("daily-*")))
        assert hours < 24 or backups > 1, "no daily backup was made on the second day"
        return {"hours": round(hours, 1), "daily backups": backups, "resident": resident,
                "memory": self.process.memory_info().rss, "blocks": inside["blocks"],
                "tasks": inside["tasks"], "descriptors": self.process.num_fds(), "threads": self.process.num_threads(),
                "children": len(self.process.children(recursive=True)), "stderr": len(self.server.output()),
                "log rows": rows["logs"], "request rows": rows["requests"], "kinds": inside["kinds"]}


async def browse(soak: Soak) -> None:
    """A browser: looks at every page, loses its connection, comes back for what it missed, is closed or vanishes."""
    page = await tests.Dashboard().connect(soak.server)
    hello = page.events("connection:established")[-1]
    now = tests.llamadash.now_ms()
    for event, data in [("models:list", {}), ("system:info", {}), ("logs:list", {"limit": 200}), ("config:get", {}),
                        ("requests:list", {"limit": 50}), ("engines:list", {}), ("models:downloads", {}),
                        ("usage:get", {"from_": 0, "to": now, "by": "model"}), ("nonsense", {"x": 1}),
                        ("timeline:list", {"from_": 0, "to": 2 * now}),
                        ("metrics:history", {"from_": now - 900_000, "to": now + 2 * tests.llamadash.DAY})]:
        await page.envelope(event, **data)
    await page.close()
    again = await tests.Dashboard().connect(
        soak.server, {"token": soak.server.key, "epoch": hello["epoch"], "seq": hello["seq"]})
    await again.envelope("models:load", id=soak.chance.choice(["one", "two", "absent"]))
    await asyncio.sleep(soak.chance.uniform(0, 1))
    if soak.chance.random() < 0.5:
        await again.close()
    else:  # the lid of the laptop
        again.sio.eio.ws._response.connection.transport.abort()
        with contextlib.suppress(Exception):
            await again.close()


async def ask(soak: Soak) -> None:
    """A client of the models' API: answered whole or streamed, gone in the middle, or asking for what is not there."""
    kind = soak.chance.choice(["whole", "stream", "leave", "absent", "bad"])
    body = {"model": "absent" if kind == "absent" else soak.chance.choice(["one", "two"]), "max_tokens": 40,
            "stream": kind in ("stream", "leave"),
            "messages": [{"role": "user", "content": "word " * soak.chance.randrange(1, 20)}]}
    data = b'{"model": "one", ' if kind == "bad" else json.dumps(body).encode()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http, http.post(
            f"{soak.api}/v1/chat/completions", data=data, headers={"Content-Type": "application/json"}) as answer:
        if kind == "leave":
            await answer.content.read(20)
            return
        text = await answer.text()
        expected = {"absent": (404, 401), "bad": (400, 401)}.get(kind, (200, 503, 401))  # 401: while there is a key
        assert answer.status in expected, (kind, answer.status, text)


async def download(soak: Soak) -> None:
    """Somebody fetches a model over a line that breaks, and deletes it again; or gives up."""
    page = await tests.Dashboard().connect(soak.server)
    file = soak.chance.choice(sorted(soak.hub.files))
    soak.hub.cuts[:] = [soak.chance.randrange(1, 400_000) for _ in range(soak.chance.randrange(3))]
    await page.envelope("models:repo", repo="user/repo")
    await page.envelope("models:download", repo="user/repo", file=file)
    if soak.chance.random() < 0.3:
        await page.envelope("models:download:pause", repo="user/repo", file=file)
        await page.envelope("models:download:cancel", repo="user/repo", file=file)
    else:
        with contextlib.suppress(AssertionError):
            await page.wait("models:download", lambda data: data["file"] == file and data["status"] in (
                "done", "failed", "cancelled"), seconds=10)
    for row in (await page.request("models:list"))["models"]:
        if row["id"] not in ("one", "two"):
            await page.envelope("models:delete", id=row["id"], deleteFile=True)
    await page.close()


async def stranger(soak: Soak) -> None:
    """Somebody without a key, at both doors."""
    port = int(soak.chance.choice([soak.server.url, soak.api]).rsplit(":", 1)[1])
    request = soak.chance.choice([
        b"", b"GET", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
        b"GET /llamaproxws/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"GET /~x/app.js HTTP/1.1\r\nHost: localhost\r\n\r\n"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
        await asyncio.wait_for(reader.read(65536), soak.chance.uniform(0, 2))
    writer.transport.abort()


async def keep_house(soak: Soak) -> None:
    """The owner: settings, variants of a model, keys, backups, scans."""
    page = await tests.Dashboard().connect(soak.server)
    await page.envelope("settings:update", changes={"metrics_interval": soak.chance.choice([1, 2])})
    row = (await page.request("models:get", id="one"))["model"]
    await page.envelope("models:create", model={"name": "variant", "id": "variant", "path": row["path"]})
    await page.envelope("models:update", id="one", revision=row["revision"], changes={"favorite": not row["favorite"]})
    await page.envelope("models:scan")
    await page.envelope("models:delete", id="variant")
    key = await page.envelope("keys:create", name="soak")
    if key["success"]:
        await page.envelope("keys:revoke", id=key["data"]["key"]["id"])
    await page.envelope("system:export")
    await page.envelope("system:backup")
    await page.close()


async def soaked(folder: Path, seconds: float, rounds: int, speed: float) -> list[dict[str, Any]]:
    """Run the rounds with a clock that runs `speed` times as fast: what was measured after each."""
    async with tests.FakeHub().running() as hub:
        for seed in range(4):
            file = tests.write_tiny_model(folder / "hub" / f"hub-{seed}-F32.gguf", seed=seed + 9)
            hub.files[file.name] = file.read_bytes()
        script = SCRIPT.format(root=str(ROOT), often=OFTEN, speed=speed)
        server = tests.ScriptedServer(folder, script, "--request-rate", "1000", "--sockets-per-address", "200")
        server.program = tests.llama_server()
        server.environment["HF_ENDPOINT"] = hub.endpoint
        for name in ("one", "two"):
            tests.write_tiny_model(server.models / f"{name}.gguf", seed=len(name), name=name)
        py_compile.compile(str(ROOT / "llamadash.py"))  # which would take 25 MB inside the server
        server.start()
        soak, found = Soak(server, hub), []
        try:
            page = await tests.Dashboard().connect(server)
            config = await page.request("config:get")
            await page.request("config:update", revision=config["config"]["revision"], changes={
                "models_max": 1, "min_residency": 0, "schedules": [
                    {"action": action, "model": "" if action == "free" else "one", "at": f"{hour:02}:00",
                     "days": [*range(7)]} for hour in range(0, 24, 2) for action in ("load", "unload", "free")]})
            engine = await page.wait("engine:status", lambda data: data["engine"]["url"]) if not (
                await page.request("engine:status"))["engine"]["url"] else await page.request("engine:status")
            soak.api = engine["engine"]["url"]
            await page.close()
            for number in range(rounds):
                await soak.round(seconds / rounds)
                found.append(await soak.measure())
                print(f"after round {number + 1}: " + ", ".join(
                    f"{key} {value:,}" for key, value in found[-1].items() if key != "kinds"), flush=True)
            print("done:", dict(soak.done))
            for what, count in soak.failed.most_common(10):
                print(f"failed {count} times: {what}")
        finally:
            code = server.stop()
            print(f"stopped with {code}")
            print(server.output() and "stderr: " + (folder / "stderr").read_text()[-2000:])
        return found


def main() -> int:
    """Soak, and say what grew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hours", type=float, default=24.0, help="that pass on the server's clock meanwhile")
    options = parser.parse_args()
    logging.disable()  # the hub's, of connections that llamadash ended
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(soaked(Path(folder), options.seconds, options.rounds,
                                   max(1.0, options.hours * 3600 / options.seconds)))
    first, last = found[min(1, len(found) - 1)], found[-1]
    grown = {name: last[name] - first[name] for name, limit in LIMITS.items() if last[name] - first[name] > limit}
    for name, more in grown.items():
        print(f"{name} grew by {more:,}, and {LIMITS[name]:,} are allowed")
    if "tasks" in grown:
        print("tasks:", {name: count for name, count in last["kinds"].items() if count != first["kinds"].get(name)})
    print("Something grows." if grown else "Nothing grows.")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
