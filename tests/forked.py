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


class Forks:
    """Runs modules of Python, each in a process that is forked from one where the libraries are loaded."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        pipe: Any = subprocess.PIPE
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.forked"], cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True
        )

    def start(self, module: str, *arguments: str, output: Path | None = None, **environment: str) -> int:
        """Run ``python -m module arguments`` with these variables. Returns the process id.

        Args:
            output: file for stdout and stderr; None drops them.
        """
        return self._ask(module=module, arguments=arguments, output=str(output or os.devnull), environment=environment)

    def wait(self, process: int, seconds: float = 300) -> int:
        """Wait for a process; one that is late is killed. Returns its exit status, -9 if it was killed."""
        return self._ask(process=process, seconds=seconds)

    def _ask(self, **request: Any) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(60)


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


def _wait(process: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while True:
        late = time.monotonic() > end
        if late:
            os.kill(process, signal.SIGKILL)
        ended, status = os.waitpid(process, 0 if late else os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)


def _run(module: str, arguments: list[str], output: str, environment: dict[str, str]) -> None:
    """In the forked process: run the module as a program, and end."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
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
