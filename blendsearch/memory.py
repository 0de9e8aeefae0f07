"""Memory of this machine that is still available."""

from pathlib import Path

MEMINFO, CGROUP_LIMIT = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")


def get_available_bytes() -> int | None:
    """Return the bytes that new data may take: within the machine's memory and the container's. None if unknown."""
    found = [count for count in (_read_meminfo(), _read_cgroup_limit()) if count is not None]
    return min(found) if found else None


def format_bytes(count: int) -> str:
    """Return `count` for a reader, such as ``3.2 GiB``."""
    size, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:,.1f} {unit}" if unit != "bytes" else f"{count} bytes"


def _read_meminfo() -> int | None:
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _read_cgroup_limit() -> int | None:
    try:
        return int(CGROUP_LIMIT.read_text(encoding="ascii"))
    except (OSError, ValueError):  # another system, or the word max
        return None
