"""Show what came out of every claim, or measure a notebook's claims again over several seeds."""

from __future__ import annotations

from typing import Annotated

import tyro

EXAMPLES = ("ismkit ledger", "ismkit ledger 03 04 --seeds 5    # into book/ledger/")


def command(
    notebooks: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NN ...")] = (), seeds: int = 5
) -> int:
    """Show or measure.

    Args:
        notebooks: numbers of the notebooks to run again; none only shows.
        seeds: seeds 0 .. K - 1.
    """
    from ismkit.lessons.ledger import as_text, book_entries, table, write
    from ismkit.lessons.notebooks import NOTEBOOKS, find, measure, number
    from ismkit.utils.checks import check_count
    from ismkit.utils.files import out_dir

    check_count("seeds", seeds)
    for source in [find(name) for name in notebooks]:
        rows = measure(source, range(seeds), out_dir() / "measured")
        print(f"ledger: {write(rows, NOTEBOOKS.parent / 'book' / 'ledger' / f'{number(source)}.json')}")
    print(as_text(table(book_entries())))
    return 0
