"""What a result was measured on, and how much memory a process holds."""

import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "spacy",
    "thinc",
    "torch",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "spacy-transformers",
    "openvino",
    "onnxruntime",
    "onnx",
    "numpy",
)
# Names that say which arithmetic a core has
TELLING_FLAGS = ("avx", "amx", "fma", "f16c", "asimd", "bf16", "i8mm", "sve")


def describe() -> dict[str, Any]:
    """Describe this machine.

    RETURNS (dict): Processor, its flags for arithmetic, cores this process may use, memory, system.
    """
    model, flags = platform.processor() or platform.machine(), []
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().split("\n\n")[0].splitlines()
        pairs = (line.partition(":") for line in lines)
        facts = {name.strip(): value.strip() for name, _, value in pairs}
        model = facts.get("model name", model)
        flags = facts.get("flags", facts.get("Features", "")).split()
        if "cpu family" in facts:
            model += f" (family {facts['cpu family']}, model {facts['model']})"
    return {
        "cpu": model,
        "flags": sorted(flag for flag in flags if any(name in flag for name in TELLING_FLAGS)),
        "cores": cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
    }


def cores() -> int:
    """RETURNS (int): The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """RETURNS (dict[str, str]): Python's and the packages'; "missing" where one is not there."""
    found = {"python": platform.python_version(), "spacy-albert": _version("spacy-albert")}
    return found | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def resident_mb() -> float:
    """RETURNS (float): Resident memory of this process now, in MB (of 2^20 bytes)."""
    return _status("VmRSS")


def peak_mb() -> float:
    """RETURNS (float): The most resident memory this process has had, in MB."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Let the peak begin again at what is resident now, where the system can do that (Linux)."""
    references = Path("/proc/self/clear_refs")
    if references.exists():
        references.write_text("5")


def _status(field: str) -> float:
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines[field].split()[0]) / 1024
    # Elsewhere only the peak is known; macOS counts in bytes, others in KB
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
