"""What SLURM says of jobs: the queue first, accounting only for last words, as it may be absent, late or empty."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

TIMEOUT_S = 60  # of one question
LAST_WORDS_S = 10  # of one to accounting: its database may hang for minutes, and a lost row waits meanwhile
NOT_THE_ROWS_FAULT = ("CANCELLED", "NODE_FAIL", "PREEMPTED", "TIMEOUT", "BOOT_FAIL", "REVOKED")
PERMANENT = re.compile(
    r"invalid|not available|not permitted|denied|unrecognized|no such|required|command not found|cannot be satisfied",
    re.IGNORECASE,
)  # what sbatch says when trying again is of no use
GONE = re.compile(r"Invalid job id|already completing or completed")  # what scancel says of jobs that have ended


@dataclass(frozen=True)
class Told:
    """One job as the queue shows it: state without a user's number behind it, node (or ''), reason."""

    state: str
    node: str = ""
    reason: str = ""

    def __str__(self) -> str:
        because = f" ({self.reason})" if self.reason not in ("", "None") else ""
        return f"{self.state}{because}{f' on {self.node}' if self.node else ''}"


def queued(job_ids: list[str]) -> dict[str, Told] | None:
    """Those of the jobs that are waiting or running, array tasks apart; None when the controller does not answer."""
    if not job_ids:
        return {}
    done = _asked(["squeue", "-h", "-r", "-j", ",".join(job_ids), "-o", "%i|%T|%N|%r"])
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    return dict(_lines(done.stdout))


def endings(job_ids: list[str]) -> dict[str, Told]:
    """How jobs that left the queue ended, as far as anybody remembers."""
    if not job_ids:
        return {}
    asked = ",".join(job_ids)
    found = dict(_lines(_asked(["squeue", "-h", "-r", "-t", "all", "-j", asked, "-o", "%i|%T|%N|%r"]).stdout))
    if not found.keys() >= set(job_ids):
        words = ["sacct", "-n", "-X", "-P", "-j", asked, "-o", "JobID,State,NodeList,ExitCode"]
        found = {**dict(_lines(_asked(words, LAST_WORDS_S).stdout)), **found}
    return {job_id: found.get(job_id, Told("UNKNOWN")) for job_id in job_ids}


def cancel(*words: str) -> bool:
    """scancel jobs by id, or by `--name=...`; True when SLURM took it, or knows none of them any more."""
    done = _asked(["scancel", *words])
    told = done.stderr.splitlines()
    return done.returncode == 0 or (bool(told) and all(GONE.search(line) for line in told))


def _lines(text: str) -> list[tuple[str, Told]]:
    """'12_0|CANCELLED by 1000|n1|0:0' -> ('12_0', Told('CANCELLED', 'n1', 'by 1000'))."""
    found = []
    for line in text.splitlines():
        job_id, state, node, reason = [*line.strip().split("|"), "", "", ""][:4]
        word, _, who = state.partition(" ")
        found.append((job_id, Told(word, "" if node == "None assigned" else node, who or reason)))
    return found


def _asked(words: list[str], timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 1, "", str(error))
