"""One job at a time in an output folder."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from .errors import JobError
from .plan import LOCK
from .storage import Folder

#: How often a job says that it runs, and how long to wait for that before it is taken for dead.
BEAT_SECONDS, PATIENCE_SECONDS = 10, 30


class Claim:
    """A file in the output folder that says who writes there, renewed as long as he does.

    Two jobs would do no harm to the rows, as each file appears whole and has one content; but they
    would do the work twice and clear away each other's temporary files.

    output (Folder): The output folder.
    say (Callable[[str], Any]): Told why the job waits.
    """

    def __init__(self, output: Folder, say: Callable[[str], Any]) -> None:
        self.output, self.say = output, say
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Claim":
        return self

    def take(self) -> None:
        """Take the folder.

        RAISES (JobError): If another job is at work there, or nobody may write there.
        """
        self.output.refuse_unwritable()
        before = self._read()
        if before and not is_dead(before):
            who = f"process {before.get('pid')} on {before.get('host')}"
            self.say(f"Waiting to see whether {who} still works in {self.output.path} ...")
            end = time.monotonic() + PATIENCE_SECONDS
            while time.monotonic() < end:
                time.sleep(1)
                now = self._read()
                if now and now != before:
                    raise JobError(
                        f"Another job is at work in {self.output.path}: {who}. Wait for it, stop "
                        "it, or name another folder."
                    )
                if not now:
                    break
        self._write(0)
        self.thread.start()

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if self.thread.is_alive():
            self.ended.set()
            self.thread.join()
            with contextlib.suppress(OSError):
                self.output.delete([LOCK])

    def _renew(self) -> None:
        beat = 0
        while not self.ended.wait(BEAT_SECONDS):
            beat += 1
            with contextlib.suppress(OSError):  # what is wrong will show where it matters
                self._write(beat)

    def _read(self) -> dict[str, Any] | None:
        try:
            return json.loads(self.output.read(LOCK))
        except (OSError, ValueError):
            return None

    def _write(self, beat: int) -> None:
        me = {"host": socket.gethostname(), "pid": os.getpid(), "beat": beat}
        self.output.write(LOCK, json.dumps(me).encode())


def is_dead(claim: dict[str, Any]) -> bool:
    """Whether who made a claim was a process of this machine that is no more, or is this one.

    claim (dict[str, Any]): The claim.
    RETURNS (bool): Whether that is known.
    """
    if claim.get("host") != socket.gethostname():
        return False
    if claim.get("pid") == os.getpid():
        return True
    try:
        os.kill(claim["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, KeyError, TypeError):
        return False
    return False
