"""A Slurm whose nodes are all this machine: Debian's munged, slurmctld and slurmd with ports and files of their own."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.system.servers import Server, free_port

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=1,sched_interval=2
KillWait=60
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Daemon(Server):
    """One of Slurm's programs in the foreground."""

    def __init__(self, folder: Path, name: str, command: list[str], answers: list[str] | None = None) -> None:
        self.name, self.command, self.answers = name, command, answers
        super().__init__(folder)

    def ready(self) -> bool:
        """Whether its question is answered; without one, whether it still runs after a moment."""
        if self.answers is None:
            time.sleep(0.5)
            return self.running
        return subprocess.run(self.answers, capture_output=True, timeout=60).returncode == 0

    def _launch(self, log: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder)


class Slurm:
    """Use as a context manager. Needs root, as slurmd starts jobs as their users.

    Args:
        nodes: how many, with one CPU each; this machine plays them all.

    Attributes:
        folder: configuration and logs; in the system's temporary folder, since a socket's path may not be long.
        environment: what `sbatch` and its like need.
    """

    def __init__(self, nodes: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sweeps-slurm-"))
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        (self.folder / "state").mkdir()
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        host = socket.gethostname().partition(".")[0]
        conf = CONF.format(host=host, controller=free_port(), folder=self.folder)
        names = [f"n{number}" for number in range(1, nodes + 1)]
        for name in names:
            conf += f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=1 State=UNKNOWN\n"
        (self.folder / "slurm.conf").write_text(conf)
        files = [
            f"--{what}={self.folder}/munge.{what.removesuffix('-file')}" for what in ("socket", "key-file", "log-file")
        ]
        files += [f"--{what}={self.folder}/munge.{what.removesuffix('-file')}" for what in ("pid-file", "seed-file")]
        conf_flag = ["-f", str(self.folder / "slurm.conf")]
        ask = ["env", f"SLURM_CONF={self.folder / 'slurm.conf'}", "scontrol", "ping"]
        self.daemons = [
            Daemon(self.folder, "munged", ["/usr/sbin/munged", "--foreground", *files]),
            Daemon(self.folder, "slurmctld", ["/usr/sbin/slurmctld", "-D", *conf_flag], ask),
            *(Daemon(self.folder, f"slurmd-{n}", ["/usr/sbin/slurmd", "-D", "-N", n, *conf_flag]) for n in names),
        ]

    def __enter__(self) -> Self:
        for daemon in self.daemons:
            daemon.start()
        end = time.monotonic() + 120
        while self.ask("sinfo", "--noheader", "--Node", "--format=%T").split() != ["idle"] * (len(self.daemons) - 2):
            assert time.monotonic() < end, self.logs()
            time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        self.ask("scancel", "--user=root")
        end = time.monotonic() + 90
        while self.ask("squeue", "--noheader") and time.monotonic() < end:
            time.sleep(0.5)
        for daemon in reversed(self.daemons):
            daemon.stop()
            daemon.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120).stdout

    def logs(self) -> str:
        """Ends of the daemons' logs."""
        return "\n".join(f"{d.name}:\n{d.log.read_text(errors='replace')[-2000:]}" for d in self.daemons)

    def job(self, number: str) -> dict[str, str]:
        """Slurm's record of a job."""
        words = self.ask("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.partition("=")[::2] for word in words if "=" in word)
