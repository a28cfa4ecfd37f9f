"""`python -m taut` is the `taut` command."""

import sys

from taut.cli import main

sys.exit(main())
