"""Say what this machine lacks, and what to do about it."""

from __future__ import annotations

EXAMPLES = ("ismkit doctor", "ismkit doctor --deep")


def command(deep: bool = False) -> int:
    """Print the findings; 1 if something has to be repaired.

    Args:
        deep: import torch too, to see what it can use, and verify the data set: seconds.
    """
    from ismkit.doctor import checks, report

    found = checks(deep)
    print(report(found))
    return int(any(check.status == "fail" for check in found))
