"""Measure each thing in a process of its own.

So nobody's memory, threads or imports are mixed up with anybody else's. The processes stay alive
between rounds, idle but for the one that is being measured. The protocol: one line of JSON asks,
one line answers.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
SETTINGS = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}


class ProcessError(Exception):
    """What went wrong in a process."""


class Process:
    """A Python process that holds the result of one call, and calls its methods when asked."""

    def __init__(self, target: str, *, threads: int, log: Path, **kwargs: Any):
        """Start a process.

        target (str): "module:name" of a function or class in this package.
        threads (int): Threads for every library that computes.
        log (Path): Where its messages go.
        **kwargs: Arguments of the target, fit for JSON.
        RAISES (ProcessError): If the call fails.
        """
        self.log = log
        limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
        with log.open("w") as messages:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, target],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
                env=os.environ | dict.fromkeys(limits, str(threads)) | SETTINGS,
            )
        try:
            self.value = self._ask(kwargs)
        except ProcessError:
            self.close()
            raise

    def call(self, method: str, **kwargs: Any) -> Any:
        """Call a method of what the process holds.

        method (str): The name of the method.
        **kwargs: Its arguments, fit for JSON.
        RETURNS (Any): What it returned, as it comes out of JSON.
        RAISES (ProcessError): If it raised, or the process died.
        """
        return self._ask({"method": method, "kwargs": kwargs})

    def _ask(self, message: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            reply = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, ValueError):
            code = self._process.wait()
            last = self.log.read_text(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise ProcessError(f"died (exit status {code}): {last[0]}") from None
        if "error" in reply:
            raise ProcessError(reply["error"])
        return reply["value"]

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


def once(target: str, *, threads: int, log: Path, **kwargs: Any) -> Any:
    """Call a function in a process of its own.

    target (str): "module:name" of a function in this package.
    threads (int): Threads for every library that computes.
    log (Path): Where its messages go.
    **kwargs: Its arguments, fit for JSON.
    RETURNS (Any): What it returned, as it comes out of JSON.
    RAISES (ProcessError): If it raised, or the process died.
    """
    process = Process(target, threads=threads, log=log, **kwargs)
    process.close()
    return process.value


def _serve(target: str, requests: IO[str], replies: IO[str]) -> None:
    """Be the other end: make the target, then answer calls until there are no more."""
    held: Any = None
    for line in requests:
        message = json.loads(line)
        try:
            if held is None:
                module, _, name = target.partition(":")
                call: Callable = getattr(import_module(f"{__package__}.{module}"), name)
                held = value = call(**message)
            else:
                value = getattr(held, message["method"])(**message["kwargs"])
            reply = {"value": value if _is_json(value) else None}
        except ModuleNotFoundError as error:
            reply = {"error": f"missing: {error.name}"}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _is_json(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | list | dict)


if __name__ == "__main__":
    # Libraries print to standard output when they like; it is the protocol's here
    protocol = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _serve(sys.argv[1], sys.stdin, protocol)
