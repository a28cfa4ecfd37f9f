"""`opt` and `quantize`: passes from the shell."""

from __future__ import annotations


