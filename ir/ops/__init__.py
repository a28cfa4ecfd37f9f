"""Every op, one declaration each. Importing this package registers them all.

Axis signatures (`Op.axes`), as in `x[n,i,...] weight[o,i/group,...] bias[o] -> y[n,o,...]`: axes of
one letter have one size and move together; `i/group` is that size divided by an attribute; `...`
stands for axes that broadcast (element-wise ops) or that the op treats as space; `[]` is a scalar.
Operands that are left out (shapes, zero points) do not bear on any axis. An op whose axes one line
cannot say (reshape, concat, transpose) has an empty signature.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
