"""Peak memory of one row by its length, with the embedded weights: two figures that should differ by less than 5 %.

PYTHONPATH=. python tests/memory.py [--seconds 10 600]          (20 minutes of one core)
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from linker.bench.processes import measured, prepare, started
from linker.config import GenerateSettings


def peak_mb(seconds: float) -> float:
    """Of a process that makes one row from so much speech."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), seconds)
        return measured([started(Path(folder), "s", [0], GenerateSettings())])["peak_mb"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", nargs=2, type=float, default=(10, 600), help="of speech, a short and a long row")
    short_s, long_s = parser.parse_args().seconds
    short, long = peak_mb(short_s), peak_mb(long_s)
    print(f"{short_s:g} s: {short:.0f} MB\n{long_s:g} s: {long:.0f} MB\ndifference: {100 * (long / short - 1):+.1f} %")


if __name__ == "__main__":
    main()
