"""Numbers for people."""

from __future__ import annotations


def readable_size(size: float) -> str:
    """Bytes in decimal units: 9.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def readable_count(count: int) -> str:
    """A count with three digits: 11.7 M."""
    if count < 10_000:
        return str(count)
    if count < 1_000_000:
        return f"{count / 1e3:.3g} k"
    return f"{count / 1e6:.3g} M" if count < 1e9 else f"{count / 1e9:.3g} G"
