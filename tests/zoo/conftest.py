"""The zoo lies in benchmarks; behind everything on the path, so that an installed skd stays the one that is tested."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.append(str(Path(__file__).resolve().parents[2]))
