import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for op_samples.py and onnx_peers.py
