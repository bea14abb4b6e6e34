"""``book/build.py`` as a module, for tests of what it makes of a page."""

import importlib.util
import sys
from functools import cache
from types import ModuleType

from tests.conftest import ROOT


@cache
def builder() -> ModuleType:
    """The script, imported once; it imports what lies beside it."""
    spec = importlib.util.spec_from_file_location("book_build", ROOT / "book" / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "book"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "book"))
    return module
