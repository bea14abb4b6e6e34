"""``python -m ismkit`` is ``ismkit``: for ``accelerate launch -m ismkit ...``."""

import sys

from ismkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
