"""`opt` and `quantize`: passes from the shell."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from . import common
from .app import app
from .common import AsJson, Batch, DataFile, Dims, Model, Output, Pipeline, RandomCount, Seed
