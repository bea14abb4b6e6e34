"""Say what this machine lacks, and what to do about it."""

from __future__ import annotations

EXAMPLES = ("ismkit doctor",)


def command() -> int:
    """Print the findings; 1 if something has to be repaired."""
    from ismkit.doctor import checks, report

    found = checks()
    print(report(found))
    return int(any(check.status == "fail" for check in found))
