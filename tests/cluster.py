"""A real SLURM on this machine's loopback for tests: munge, a controller, two nodes with two counted GPUs each.

No systemd, no cgroups; root is not needed. The commands that tests use lie in `bin`, and know their cluster; its sbatch
can be told to refuse. Without accounting its sacct answers nothing; with it, MariaDB and slurmdbd keep the records, and
squeue tells nothing of jobs that have ended, as some minutes later everywhere: sacct alone knows.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "scontrol")
COMMANDS = ("srun", "sbatch", "scancel", "squeue", "scontrol", "sinfo")
ACCOUNTING = ("slurmdbd", "sacctmgr", "sacct", "mariadbd", "mariadb-install-db")
NODES, GPUS = ("g1", "g2"), 2
BOOT_S = 30

CONF = """
ClusterName=loopback
SlurmctldHost={host}({address})
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
{communication}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SchedulerParameters=bf_interval=2,sched_min_interval=0,batch_sched_delay=0
PreemptMode=REQUEUE
PreemptType=preempt/partition_prio
SlurmctldParameters=preempt_send_user_signal
JobRequeue=0
ReturnToService=2
KillWait=30
MinJobAge=300
SlurmdTimeout=10
MessageTimeout=10
TCPTimeout=2
{accounting}
{nodes}
PartitionName=gpu Nodes={names} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes={names} MaxTime=INFINITE State=UP PriorityTier=10
"""
KEEPING = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={address}
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.sock
AccountingStorageTRES=gres/gpu"""
KEEPER = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
DbdHost={host}
DbdAddr={address}
DbdPort={port}
SlurmUser={user}
{communication}
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=slurm_acct_db
"""
WRAPPER = """#!/bin/sh
export SLURM_CONF={folder}/slurm.conf
{first}
exec {command} "$@"
"""
REFUSE = """left=$(cat {folder}/refusals 2>/dev/null || echo 0)
if [ "$left" -gt 0 ]; then
    echo $((left - 1)) > {folder}/refusals
    {command} "$@" >/dev/null # accepted all the same
    echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2
    exit 1
fi
echo x >> {folder}/accepted"""
FORGET = 'case "$*" in *"-t all"*) exit 0;; esac'  # MinJobAge has passed: what has ended is known to accounting alone


def missing(accounting: bool = False) -> str:
    """What a real SLURM lacks here, or its accounting; '' when it is all there."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    lacking = [name for name in (ACCOUNTING if accounting else DAEMONS) if not shutil.which(name)]
    packages = "slurmdbd mariadb-server-core mariadb-client-core" if accounting else "slurm-wlm munge"
    return f"{', '.join(lacking)} not installed (Debian: {packages})" if lacking else ""


class Cluster:
    """A running cluster; its folder is short, as the names of sockets must be."""

    def __init__(self, accounting: bool = False) -> None:
        self.accounting = accounting
        self.folder = Path(tempfile.mkdtemp(prefix="slurm."))
        self.folder.chmod(0o755)  # munge wants its socket in reach of everybody
        self.bin = self.folder / "bin"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.port = self._free_ports()

    def start(self) -> None:
        (self.folder / "state").mkdir()
        (self.folder / "munge.key").write_bytes(os.urandom(256))
        (self.folder / "munge.key").chmod(0o400)
        self._configure()
        munge = ["--foreground", f"--key-file={self.folder}/munge.key", f"--socket={self.folder}/munge.sock"]
        munge += [f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log"]
        self._daemon("munged", "munged", *munge, f"--seed-file={self.folder}/munge.seed")
        self._wait(lambda: (self.folder / "munge.sock").exists(), "munged")
        if self.accounting:
            self._start_database()
            self._start_accounting()
            subprocess.run([self.bin / "sacctmgr", "-i", "add", "cluster", "loopback"], capture_output=True, check=True)
        self._daemon("slurmctld", "slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        self._wait(self._is_idle, "slurmd")

    def _start_database(self) -> None:
        """MariaDB in this folder, on a unix socket alone."""
        kept = ["--no-defaults", f"--datadir={self.folder}/database", f"--user={getpass.getuser()}"]
        subprocess.run(
            ["mariadb-install-db", *kept, "--auth-root-authentication-method=normal", "--skip-test-db"],
            capture_output=True, check=True,
        )  # fmt: skip
        small = ["--skip-grant-tables", "--skip-log-bin", "--performance-schema=off", "--innodb-buffer-pool-size=64M"]
        small += ["--innodb-flush-log-at-trx-commit=0", f"--pid-file={self.folder}/mariadbd.pid"]
        self._daemon("mariadbd", "mariadbd", *kept, *small, "--skip-networking", f"--socket={self.folder}/mysql.sock")
        self._wait(lambda: (self.folder / "mysql.sock").exists(), "mariadbd")

    def _start_accounting(self) -> None:
        self._daemon("slurmdbd", "slurmdbd", "-D")
        asked = [self.bin / "sacctmgr", "-n", "list", "cluster"]
        self._wait(lambda: subprocess.run(asked, capture_output=True, check=False).returncode == 0, "slurmdbd")

    def _is_idle(self) -> bool:
        return self.ask("sinfo", "-h", "-N", "-p", "gpu", "-o", "%T").split() == ["idle"] * len(NODES)

    def _configure(self) -> None:
        host, address = socket.gethostname(), socket.gethostbyname(socket.gethostname())
        told = {"folder": self.folder, "host": host, "address": address, "port": self.port, "user": getpass.getuser()}
        told["communication"] = "" if address == "127.0.1.1" else "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny"
        told["names"] = ",".join(NODES)
        told["nodes"] = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr={address} Port={self.port + 1 + index} CPUs=8"
            f" RealMemory=64000 Gres=gpu:{GPUS} State=UNKNOWN"
            for index, name in enumerate(NODES)
        )
        told["accounting"] = "AccountingStorageType=accounting_storage/none"
        if self.accounting:
            accounting = {**told, "port": self.port + 1 + len(NODES)}
            told["accounting"] = KEEPING.format(**accounting)
            (self.folder / "slurmdbd.conf").write_text(KEEPER.format(**accounting))
            (self.folder / "slurmdbd.conf").chmod(0o600)
        (self.folder / "slurm.conf").write_text(CONF.format(**told))
        (self.folder / "cgroup.conf").write_text(f"CgroupPlugin={self._no_cgroups()}\n")
        devices = []
        for name in NODES:
            (self.folder / name).mkdir()
            for number in range(GPUS):  # slurmd wants devices
                (self.folder / name / f"nvidia{number}").symlink_to("/dev/null")  # slurmd wants a device
            devices.append(f"NodeName={name} Name=gpu File={self.folder}/{name}/nvidia[0-{GPUS - 1}]")
        (self.folder / "gres.conf").write_text("\n".join(devices) + "\n")
        self._write_commands()

    @staticmethod
    def _no_cgroups() -> str:
        """The plugin that touches none: `disabled` exists since 24.05."""
        version = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=True).stdout.split()[-1]
        return "cgroup/v1" if version < "24.05" else "disabled"

    def _write_commands(self) -> None:
        self.bin.mkdir()
        first_words = {"sbatch": REFUSE, "squeue": FORGET if self.accounting else ""}
        for name in (*COMMANDS, *(("sacct", "sacctmgr") if self.accounting else ())):
            first = first_words.get(name, "").format(folder=self.folder, command=shutil.which(name))
            text = WRAPPER.format(folder=self.folder, first=first, command=shutil.which(name))
            (self.bin / name).write_text(text)
        if not self.accounting:
            (self.bin / "sacct").write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
        for path in self.bin.iterdir():
            path.chmod(0o755)

    def _daemon(self, name: str, *words: str) -> None:
        environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "LOOPBACK_DAEMON": name}
        environment["MYSQL_UNIX_PORT"] = str(self.folder / "mysql.sock")  # where slurmdbd finds the database
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True
            )

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + BOOT_S
        while not condition():
            for name, daemon in self.daemons.items():
                if daemon.poll() is not None:
                    raise RuntimeError(f"{name} died: {(self.folder / f'{name}.out').read_text()[-800:]}")
            if time.monotonic() > end:
                raise RuntimeError(f"{what} is not ready after {BOOT_S} s; see {self.folder}")
            time.sleep(0.05)

    @staticmethod
    def _free_ports() -> int:
        """A port with some free ones behind it, below those that are given out by chance; processes that look at the
        same time look in different places."""
        for first in range(21_000 + os.getpid() % 900 * 10, 32_000, 10):
            try:
                for port in range(first, first + 2 + len(NODES)):
                    with socket.socket() as probe:
                        probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
        raise RuntimeError("found no free ports")

    def environment(self) -> dict[str, str]:
        """What makes a command use this cluster."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SUBMITIT_"))}
        return {**kept, "PATH": f"{self.bin}:{os.environ['PATH']}", "SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *words: str) -> str:
        """The output of one of the commands; '' when it fails."""
        done = subprocess.run([self.bin / words[0], *words[1:]], capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else ""

    def queue(self) -> list[str]:
        """'12_0 RUNNING g1' of every job that waits or runs."""
        return self.ask("squeue", "-h", "-r", "-o", "%i %T %N").splitlines()

    def refuse(self, times: int) -> None:
        """Let sbatch take a job and tell a timeout, so often, as a busy controller's does."""
        (self.folder / "refusals").write_text(str(times))

    def preempt(self, seconds: float) -> None:
        """Another job takes all GPUs of all nodes for a while, by a partition that goes before the others."""
        words = ["--partition=urgent", f"--nodes={len(NODES)}", f"--gres=gpu:{GPUS}", "--output=/dev/null"]
        assert self.ask("sbatch", *words, f"--wrap=sleep {seconds}")

    def submissions(self) -> int:
        """How often sbatch was accepted so far."""
        path = self.folder / "accepted"
        return len(path.read_text().split()) if path.exists() else 0

    def start_node(self, node: str) -> None:
        self._daemon(node, "slurmd", "-D", "-N", node)

    def cut_off(self, node: str) -> None:
        """Kill a node's slurmd alone: its jobs live on, and SLURM loses sight of them."""
        self.daemons[node].kill()
        self.daemons[node].wait()

    def processes(self, node: str = "") -> list[int]:
        """Job processes of a node (of all nodes)."""
        found, conf = [], f"SLURM_CONF={self.folder}/slurm.conf".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            named = [word for word in words if word.startswith(b"SLURMD_NODENAME=")]
            if conf in words and named and named[0].endswith(node.encode()):
                found.append(int(path.parent.name))
        return found

    def workers(self, node: str = "") -> list[int]:
        """Processes in which submitit runs work."""
        return [
            pid for pid in self.processes(node) if b"submitit.core._submit" in _command(pid).replace(b"\0", b" ")[:200]
        ]

    def clear(self) -> None:
        """No jobs, nodes up: as each test wants to find it."""
        for name in ("refusals", "accepted"):
            (self.folder / name).unlink(missing_ok=True)
        self.ask("scancel", "--user", getpass.getuser())
        for pid in self.processes():
            _kill(pid)
        for node in NODES:
            if self.daemons[node].poll() is not None:
                self.start_node(node)
        self.ask("scontrol", "update", f"nodename={','.join(NODES)}", "state=resume")
        self._wait(lambda: not self.queue(), "an empty queue")
        self._wait(self._is_idle, "slurmd")

    def stop(self) -> None:
        """End all that was started here, by its process id, and delete the folder."""
        self.ask("scancel", "--user", getpass.getuser())
        for pid in self.processes():
            _kill(pid)
        for name in reversed(self.daemons):
            self.daemons[name].terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in self.processes():
            _kill(pid)
        shutil.rmtree(self.folder, ignore_errors=True)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
