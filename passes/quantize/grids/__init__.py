"""The grids, a scheme or a few alike in each file; all are found here (`schemes`)."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
