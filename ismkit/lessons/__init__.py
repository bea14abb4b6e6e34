"""What the notebooks teach with: claims and their ledger, exercises, figures, closed forms, diagnostics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
