import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for suite.py, which is also a command
