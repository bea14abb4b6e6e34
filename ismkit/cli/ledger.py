"""Show what came out of every claim, measure a notebook's claims again, or confirm them on fresh seeds."""

from __future__ import annotations

from typing import Annotated

import tyro

EXAMPLES = (
    "ismkit ledger",
    "ismkit ledger 03 04 --seeds 5    # into book/ledger/",
    "ismkit ledger 03 --seeds 2 --fresh    # two seeds that no bound has seen, beside the rows",
)


def command(
    notebooks: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NN ...")] = (),
    seeds: int = 5,
    fresh: bool = False,
) -> int:
    """Show, measure or confirm.

    Args:
        notebooks: numbers of the notebooks to run again; none only shows.
        seeds: how many seeds: 0 .. K - 1, or the next K that were never used.
        fresh: confirm the rows on seeds from 1000 on; what fails there is written down, not raised.
    """
    from ismkit.lessons import ledger
    from ismkit.lessons.notebooks import NOTEBOOKS, find, measure, number
    from ismkit.utils.checks import check_count
    from ismkit.utils.files import out_dir

    check_count("seeds", seeds)
    if seeds > ledger.FRESH:
        raise ValueError(f"seeds must be at most {ledger.FRESH}: those from there on are fresh, got {seeds}")
    if fresh and not notebooks:
        raise ValueError("--fresh must have the numbers of notebooks to confirm, such as 03, got none")
    sources = [find(name) for name in notebooks]
    if others := [source for source in sources if source.parent != NOTEBOOKS]:
        raise ValueError(f"notebooks must be numbers of the kit's, whose rows the ledger keeps, got {others[0]}")
    paths = [NOTEBOOKS.parent / "book" / "ledger" / f"{number(source)}.json" for source in sources]
    if missing := [path for path in paths if fresh and not path.is_file()]:
        raise ValueError(f"--fresh confirms rows that are there, {missing[0]} is not: measure them first")
    for source, path in zip(sources, paths, strict=True):
        before = ledger.read(path) if path.is_file() else []
        if fresh:
            again = measure(source, ledger.fresh_seeds(before, seeds), out_dir() / "measured", record=True)
            rows = ledger.confirmed(before, again)
            told = [f"{row.claim}: {ledger.on_fresh_seeds(row)}" for row in rows if ledger.on_fresh_seeds(row)]
            print("\n".join(told))
        else:
            rows = ledger.remeasured(measure(source, range(seeds), out_dir() / "measured"), before)
        if wrong := [fault for row in rows for fault in ledger.faults(row)]:
            raise ValueError(f"{path} was left as it is: {'; '.join(wrong)}")
        print(f"ledger: {ledger.write(rows, path)}")
    print(ledger.as_text(ledger.table(ledger.book_entries())))
    return 0
