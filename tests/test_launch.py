"""Jobs as processes of this machine: errors as values, ids stored before waiting, what SLURM is asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from linker import heartbeat, launch, slurm
from linker.collect import collect
from linker.config import GenerateSettings, LaunchSettings
from linker.crew import launch_job
from linker.errors import Diverged, EnvironmentError, RowsFailed
from linker.keys import key_of
from linker.launch import Job, Spread, Vain, Work, executor
from linker.process import resolved, start_time, visible_gpus
from linker.records import Refusal, Row, read_json, write_json
from linker.shards import row_token

ROOT = Path(__file__).resolve().parent.parent
LOCAL = LaunchSettings(cluster="local")
GENERATION = row_token(Row("good", Path("/p.png"), Path("/a.wav"), 2), GenerateSettings())


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger for `collect`, which serves as a task that works or fails."""
    path = tmp_path / "shards" / "s000" / "ledger.json"
    refusal = Refusal("no_face", "found no face", "crop_face").to_json()
    key = key_of(tmp_path, GENERATION)
    write_json(path, {"rows": {"good": {"video": "good.mkv", "key": key}, "bad": {"refusal": refusal, "key": key}}})
    (tmp_path / "good.mkv").write_bytes(b"frames")
    return path


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_task_is_done_in_a_process_of_its_own(ledger: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"
    launch_job(
        partial(collect, ledger=ledger, clip="good", generated=target, generation=GENERATION), LOCAL, tmp_path / "jobs"
    )
    assert target.read_bytes() == b"frames"
    assert not (tmp_path / "jobs" / "job.json").exists()


def test_an_expected_error_comes_back_as_itself(ledger: Path, tmp_path: Path) -> None:
    with pytest.raises(RowsFailed, match=r"^bad: crop_face: no_face: found no face$"):
        launch_job(
            partial(collect, ledger=ledger, clip="bad", generated=tmp_path / "x", generation=GENERATION),
            LOCAL,
            tmp_path / "jobs",
        )


def test_a_divergence_comes_back_as_itself(tmp_path: Path) -> None:
    task = partial(exec, "from linker.errors import Diverged; raise Diverged('diverged: loss is nan')")
    with pytest.raises(Diverged, match=r"^diverged: loss is nan$"):
        launch_job(task, LOCAL, tmp_path / "jobs")


def test_a_bug_in_a_worker_names_where_to_look(tmp_path: Path) -> None:
    broken = tmp_path / "shards" / "s000" / "ledger.json"
    write_json(broken, {"no": "rows"})
    with pytest.raises(EnvironmentError, match=r"failed: KeyError.*; see .*\.err"):
        launch_job(
            partial(collect, ledger=broken, clip="a", generated=tmp_path / "x", generation=GENERATION),
            LOCAL,
            tmp_path / "jobs",
        )


def test_a_worker_that_dies_without_progress_is_started_three_times(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linker.crew.GRACE_S", 0.5)
    monkeypatch.setattr("linker.crew.ASK_S", 0.5)
    with pytest.raises(EnvironmentError, match=r"3 starts made no progress.*ended without a result"):
        launch_job(partial(os.abort), LOCAL, tmp_path / "jobs")
    assert capfd.readouterr().err.count("submitted local job") == 3


HEAD = """
import subprocess
from functools import partial
from pathlib import Path
from linker.config import LaunchSettings
from linker.crew import launch_job

def shell(words):
    subprocess.run(["sh", "-c", words], check=True)

if __name__ == "__main__":
    import head
    launch_job(partial(head.shell, words="sleep 4; echo x >> trace"), LaunchSettings(cluster="local"), Path("jobs"))
"""


def test_a_living_job_is_attached_to_and_not_done_twice(tmp_path: Path) -> None:
    """The head is killed after it submitted; the next start finds the job by its stored id."""
    (tmp_path / "head.py").write_text(HEAD)
    stored = tmp_path / "jobs" / "job.json"
    words, environment = [sys.executable, "head.py"], {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as head:
        end = time.monotonic() + 30
        while not (stored.exists() and read_json(stored)["jobs"]):
            assert time.monotonic() < end
            time.sleep(0.05)
        head.kill()
    (job,) = read_json(stored)["jobs"]
    assert start_time(int(job["job_id"])) == job["start"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "attached to local job" in done.stderr
    assert (tmp_path / "trace").read_text() == "x\n"


def test_slurm_is_asked_what_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LaunchSettings(
        cluster="slurm", partition="gpu", account="me", qos="long", constraint="a100", exclude="n7", gpus=2, cpus=3,
        memory_gb=7, time_min=8, prologue=["module load cuda"], python="apptainer exec image.sif python3",
    )  # fmt: skip
    monkeypatch.setattr(launch.submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    made = executor(settings, tmp_path, "name")._executor
    text = made._make_submission_file_text(made._submitit_command_str, "id")
    for line in (
        "--partition=gpu", "--account=me", "--qos=long", "--constraint=a100", "--exclude=n7", "--gpus-per-node=2",
        "--cpus-per-task=3", "--mem=7GB", "--time=8", "--requeue", "--signal=USR2@90", "--job-name=name",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    assert "\nmodule load cuda\n" in text
    assert "apptainer exec image.sif python3 -u -m submitit.core._submit" in text
    with_gres = executor(settings.model_copy(update={"gres": "gpu:a100:1"}), tmp_path, "name")._executor
    text = with_gres._make_submission_file_text("", "id")
    assert "#SBATCH --gres=gpu:a100:1\n" in text
    assert "gpus-per-node" not in text


def test_a_training_stage_is_one_job_with_a_process_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    settings = LaunchSettings(cluster="slurm", gpus=4, nodes=3, memory_gb=7)
    made = executor(settings, tmp_path, "name", Spread.over_gpus(settings))._executor
    text = made._make_submission_file_text("", "id")
    for line in ("--nodes=3", "--ntasks-per-node=4", "--gpus-per-node=4", "--mem=28GB"):
        assert f"#SBATCH {line}\n" in text
    assert "--kill-on-bad-exit=1" in text
    assert Spread.over_gpus(settings.model_copy(update={"gres": "gpu:a100:8"})) == Spread(3, 8)
    assert Spread.over_gpus(LaunchSettings(cluster="local", gpus=1, workers=4)) == Spread(1, 4)
    assert Spread.over_gpus(LaunchSettings(cluster="local")) == Spread(1, 1)


def test_without_sbatch_the_work_runs_here_one_worker_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linker.process.shutil.which", lambda name: None)
    slurm_profile = LaunchSettings(cluster="slurm", gpus=2, workers=8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,GPU-abc,3")
    assert visible_gpus() == ["0", "2", "GPU-abc", "3"]
    found = resolved(slurm_profile)
    assert (found.cluster, found.gpus, found.workers) == ("local", 2, 2)
    assert launch._shares(found, 2) == ["0,2", "GPU-abc,3"]
    assert resolved(LaunchSettings()).workers == 4
    assert resolved(LaunchSettings(workers=3)).workers == 3
    assert resolved(slurm_profile.model_copy(update={"gpus": 1, "workers": 2})).workers == 4  # that is an array's size
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = resolved(slurm_profile)
    assert (found.cluster, found.gpus, found.workers) == ("debug", 0, 1)
    monkeypatch.setattr("linker.process.shutil.which", lambda name: "/usr/bin/sbatch")
    assert resolved(slurm_profile) is slurm_profile


def test_a_state_is_read_without_the_user_behind_it() -> None:
    assert dict(slurm._lines("12_0|CANCELLED by 1000|n1|0:0\n")) == {"12_0": slurm.Told("CANCELLED", "n1", "by 1000")}
    assert str(slurm.Told("CANCELLED", "n1", "by 1000")) == "CANCELLED (by 1000) on n1"
    assert dict(slurm._lines("7|PENDING||Resources\n"))["7"].reason == "Resources"


def test_requeued_without_end_while_something_is_kept_and_not_after_three_starts_in_vain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = Work(os.abort, None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # these tests go on to hear SIGTERM
    monkeypatch.setattr(heartbeat, "_advances", 1)
    for _ in range(50):
        assert work.checkpoint().function is work
    monkeypatch.setattr(heartbeat, "_advances", 0)
    assert [work.checkpoint().function is work for _ in range(2)] == [True, True]
    with pytest.raises(Vain):
        work.checkpoint()


def test_a_job_that_cannot_be_queued_again_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a container without scontrol: what it holds is given back, and the line is found behind srun's."""
    given: list[str] = []
    monkeypatch.setattr(heartbeat, "AT_CHECKPOINT", [lambda: given.append("rows")])
    with pytest.raises(SystemExit, match=r"^error: scontrol is not found .*slurm/README.md") as left:
        launch._leave_unqueued(signal.SIGUSR2, None)
    assert given == ["rows"]
    (tmp_path / "7_0_log.err").write_text(f"{left.value}\nsrun: error: g1: task 0: Exited with exit code 1\n")
    assert Job("slurm", tmp_path, "7", "").last_words().startswith("error: scontrol is not found")


def test_only_the_newest_start_of_a_job_keeps_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_holder", None)
    heartbeat.take_over(tmp_path / "start")
    heartbeat.advance()
    (tmp_path / "start").write_text("a newer one")
    assert heartbeat.is_replaced()
    with pytest.raises(heartbeat.Replaced):
        heartbeat.advance()


def test_sigterm_leaves_a_moment_to_checkpoint(tmp_path: Path) -> None:
    code = "from linker.heartbeat import end_softly; import time; end_softly(); print(flush=True); time.sleep(30)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        began = time.monotonic()
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 143
        assert time.monotonic() - began > 1


REQUEUED = """
import signal, subprocess, sys
from linker.heartbeat import end_softly
from linker.launch import Work

end_softly()
signal.raise_signal(signal.SIGTERM)  # a preemption is announced, then comes the signal to checkpoint
Work(print, None).checkpoint()
scontrol = "import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(4); print('accepted')"
print(subprocess.run([sys.executable, "-c", scontrol], capture_output=True, text=True).stdout)
"""


def test_a_job_that_is_queued_again_is_not_ended_by_it_in_mid_answer() -> None:
    """SLURM sends SIGTERM to all of such a job, to the scontrol that asked for it, too."""
    done = subprocess.run([sys.executable, "-c", REQUEUED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "accepted"), done.stderr
