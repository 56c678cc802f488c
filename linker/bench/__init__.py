"""Measure this machine. Figures of one run compare; those of two do not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from linker.bench.common import Figures
from linker.bench.counted import flops
from linker.bench.curation import curation
from linker.bench.gpu import gpu
from linker.bench.processes import batch, startup
from linker.bench.timed import caches, engine, frames
from linker.bench.workflow import beginning, launch, overhead, running
from linker.errors import SettingsError
from linker.records import write_json

BENCHMARKS: dict[str, Callable[[], Figures]] = {
    "flops": flops,
    "engine": engine,
    "batch": batch,
    "gpu": gpu,
    "startup": startup,
    "frames": frames,
    "caches": caches,
    "overhead": overhead,
    "launch": launch,
    "curation": curation,
}
LONG: dict[str, Callable[[], Figures]] = {  # only by name
    "overhead_1000": partial(running, 1000),
    "overhead_first_100_of_10000": beginning,
}


def main(names: list[str], target: Path | None) -> None:
    """Run the named benchmarks (without names, all but the long ones), print a table, and write one JSON object a name
    to `target`, each as soon as it is there."""
    known = BENCHMARKS | LONG
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise SettingsError(f"bench {unknown[0]}: found no such benchmark; there are {', '.join(known)}")
    results: dict[str, Figures] = {}
    for name in names or list(BENCHMARKS):
        results[name] = known[name]()
        for figure, value in results[name].items():
            print(f"{name:10} {figure:36} {value:>10}", flush=True)
        if target:
            write_json(target, results)
