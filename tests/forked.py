"""A process that has loaded torch, diffusers and the trainer, and forks another one for each job. POSIX only.

Loading these takes some eight seconds of computing; a forked process has them at once.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RUNNING = 1000
"""In place of an exit status."""


class Forks:
    """Runs modules of Python, each in a process that is forked from one where the libraries are loaded."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        pipe: Any = subprocess.PIPE
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.forked"], cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True
        )

    def start(
        self,
        module: str,
        *arguments: str,
        output: Path | None = None,
        errors: Path | None = None,
        **environment: str,
    ) -> int:
        """Run ``python -m module arguments`` with these variables. Returns the process id.

        Args:
            output: file for stdout; None drops it.
            errors: file for stderr; None: the same one.
        """
        files = str(output or os.devnull), str(errors or output or os.devnull)
        return self._ask(module=module, arguments=arguments, files=files, environment=environment)

    def wait(self, process: int, seconds: float = 300) -> int:
        """Wait for a process; one that is late is killed. Returns its exit status, -9 if it was killed."""
        return self._ask(process=process, seconds=seconds)

    def popen(self, module: str, *arguments: str, **how: Any) -> ForkedProcess:
        """``start``, as an object like a ``subprocess.Popen``."""
        return ForkedProcess(self, self.start(module, *arguments, **how))

    def _ask(self, **request: Any) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(60)


class ForkedProcess:
    """A process of ``Forks`` with the methods of ``subprocess.Popen``."""

    def __init__(self, forks: Forks, pid: int) -> None:
        self._forks, self.pid = forks, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            status = self._forks._ask(process=self.pid, seconds=None)
            self.returncode = None if status == RUNNING else status
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit status.

        Raises:
            TimeoutExpired: it still runs.
        """
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.02)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:  # else the number may be another process's by now
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def serve() -> None:
    """Load the libraries, then answer requests, one JSON object a line."""
    import torch

    import engine.training.trainer  # noqa: F401  (what takes long to load)

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # the pages stay shared with the children
    for line in sys.stdin:
        request = json.loads(line)
        if "process" in request:
            print(_wait(request["process"], request["seconds"]), flush=True)
            continue
        process = os.fork()
        if process == 0:
            _run(**request)
        print(process, flush=True)


def _wait(process: int, seconds: float | None) -> int:
    """The exit status of a process, which is killed after some seconds. None: RUNNING instead of waiting."""
    if seconds is None:
        ended, status = os.waitpid(process, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if ended else RUNNING
    end = time.monotonic() + seconds
    while True:
        late = time.monotonic() > end
        if late:
            os.kill(process, signal.SIGKILL)
        ended, status = os.waitpid(process, 0 if late else os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)


def _run(module: str, arguments: list[str], files: list[str], environment: dict[str, str]) -> None:
    """In the forked process: run the module as a program, and end."""
    for stream, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    code: Any = 1
    try:
        runpy.run_module(module, run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    serve()
