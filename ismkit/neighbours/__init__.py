"""Neighbouring few-step methods as recipes: rules, terms and distances of other papers, trained by the same step."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
