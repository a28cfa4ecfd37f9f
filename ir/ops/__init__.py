"""Every op, one declaration each. Importing this package registers them all.

Each says what its results depend on: by an axis signature (`Op.axes`; `signature` has the grammar)
where one line can say it, else by a method `dependence`, with what `relate` offers.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
