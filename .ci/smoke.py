#!/usr/bin/env python3
"""Start llamadash as a newcomer does, from a copy in an empty folder, and look at its pages.

    PYTHON .ci/smoke.py FILE   FILE: a llamadash.py that carries its pages, or one with web/ beside it

The Python that runs this runs llamadash too: without its packages it installs them first, as on a bare machine.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

PATIENCE = 600  # s for a first start, which installs packages


def fetched(url: str) -> str:
    """A page's text."""
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  (our own address)
        return answer.read().decode()


def look(line: str) -> None:
    """Check the start line, and that the page that it names has its script and its styles."""
    url = re.fullmatch(r"llamadash \S+ listening on (http://\S+)/#key=\S+\n", line)
    if not url:
        sys.exit(f"It did not start: {line!r}")
    page = fetched(url[1] + "/")
    names = re.findall(r'(?:src|href)="\.(/~[^"]+\.(?:js|css))"', page)
    sizes = [len(fetched(url[1] + name)) for name in names]
    if not names or not all(sizes):
        sys.exit(f"The page lacks its files: {page[:500]}")
    print(f"{line.split(' listening')[0]} on Python {sys.version.split()[0]}, {sys.platform}: {len(names)} files")


def main() -> None:
    """Start it, look at it, end it."""
    source, folder = Path(sys.argv[1]).resolve(), Path(tempfile.mkdtemp())
    shutil.copy(source, folder / "llamadash.py")
    if (source.parent / "web").is_dir() and b'\nCARRIED_WEB = ""' in source.read_bytes():
        shutil.copytree(source.parent / "web", folder / "web")
    environment = {**os.environ, "LLAMADASH_LLAMA_SERVER": "none"}  # no engine is wanted here
    process = subprocess.Popen([sys.executable, "llamadash.py", "--port", "0", "--api-port", "0"], cwd=folder,
                               env=environment, stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    try:
        look(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(30)
        timer.cancel()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
