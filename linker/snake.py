"""Snakemake's own command line, as this project runs it: without its limit of jobs a second, with a SIGTERM that ends.

To keep that limit, Snakemake looks for work again a second later, once more for every job that has ended while others
waited: after some hundreds of them it does nothing else. Cores, and `jobs` on a cluster, are limit enough.
Its handler of SIGTERM takes a lock that the thread it interrupts may hold, and then waits forever: here a thread of its
own takes it.
What a failed job was to bring up to date is restored, dated now and without a note of what it was made from, and would
pass for new ever after. Here it is dated as old as can be: the next run makes it again.
The parameters of a rule's functions are looked up anew for every job: here once.
An output older than an input fails its job, as clocks may differ: here not where the input is flagged `ancient`.
While the graph grows, all of it is searched for unreachable cycles again and again: here seldom (a sixth of planning).
"""

from __future__ import annotations

import gc
import os
import sys
from functools import cache
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

from snakemake import common, rules
from snakemake.cli import args_to_api, parse_args
from snakemake.dag import DAG
from snakemake.exceptions import print_exception
from snakemake.persistence import FileBackupMixin
from snakemake.scheduling.job_scheduler import JobScheduler

_exit_gracefully = JobScheduler.exit_gracefully
_restore_output = FileBackupMixin.restore_output
_check_dates = DAG.check_output_mtime
LONG_AGO = (1, 1)  # times of access and change, seconds
SELDOM = (50_000, 20, 100)  # new objects, and searches among these and among younger ones, between two searches


def _exit_from_a_thread(scheduler: Any, *signal: object) -> None:
    Thread(target=_exit_gracefully, args=(scheduler,)).start()


def _restore_as_old(persistence: Any, path: Path) -> bool:
    is_restored = bool(_restore_output(persistence, path))
    if is_restored:
        os.utime(path, LONG_AGO)
    return is_restored


async def _check_other_dates(dag: Any, job: Any, outputs: list[Any]) -> None:
    dated = SimpleNamespace(rule=job.rule, input=[path for path in job.input if not path.is_ancient])
    await _check_dates(dag, dated, outputs)


def main(words: list[str]) -> int:
    """Run Snakemake; its exit code."""
    try:
        parser, options = parse_args(words)
        options.max_jobs_per_timespan = None
        gc.set_threshold(*SELDOM)
        JobScheduler.exit_gracefully = _exit_from_a_thread
        FileBackupMixin.restore_output = _restore_as_old
        DAG.check_output_mtime = _check_other_dates
        common.get_function_params = rules.get_function_params = cache(common.get_function_params)
        return 0 if args_to_api(options, parser) else 1
    except Exception as error:
        print_exception(error)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
