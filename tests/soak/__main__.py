"""`python -m tests.soak [--minutes 30] [--pictures 10000] [--json FILE]`

A server with the embedded critic under everything that a cluster does to it: honest clients, bad
input, killed and leaving clients, slow readers, overload, and a second server that is killed.
Exits with 1 if an answer was wrong, or the server grew, leaked or complained.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

from tests.soak.questions import NUM_PICTURES
from tests.soak.report import as_json, as_text, bars
from tests.soak.run import soak


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument(
        "--pictures",
        type=int,
        help=f"different ones to judge (default: {NUM_PICTURES}, fewer in less than 30 minutes)",
    )
    parser.add_argument(
        "--known", type=int, default=200, help="of which the truth is found before (default: 200)"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    number = options.pictures or int(NUM_PICTURES * min(1.0, options.minutes / 30.0))
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)

    found = asyncio.run(soak(60.0 * options.minutes, number, options.known, say))
    met = bars(found, number)
    print(as_text(found, met))
    if options.json:
        options.json.write_text(json.dumps(as_json(found, met), indent=1), encoding="utf-8")
    return int(not all(bar.is_met for bar in met))


if __name__ == "__main__":
    sys.exit(main())
