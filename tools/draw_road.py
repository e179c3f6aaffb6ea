"""Draw the road of the course for README.md: python tools/draw_road.py writes docs/road.svg."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from helpers.display.diagrams import road_svg  # noqa: E402

if __name__ == "__main__":
    (ROOT / "docs" / "road.svg").write_text(road_svg(), encoding="utf-8", newline="\n")
