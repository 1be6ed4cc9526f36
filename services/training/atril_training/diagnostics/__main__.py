"""Writes the picture of lecture 5.3 into a file, and its numbers as a table.

python -m atril_training.diagnostics gradient-through-time.png
"""

import argparse
import sys
from pathlib import Path

from atril_training.diagnostics.gradient_norms import compare_recurrences, draw_gradient_norms

_SHOWN = (1, 10, 50, 100)


def main() -> None:
    """Compare the recurrences."""
    parser = argparse.ArgumentParser(prog="python -m atril_training.diagnostics")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    picture: Path = parser.parse_args().picture
    norms = compare_recurrences(steps=max(_SHOWN))
    picture.write_bytes(draw_gradient_norms(norms))
    width = max(map(len, norms))
    heads = " ".join(f"{f't = {t}':>10}" for t in _SHOWN)
    sys.stdout.write(f"{'':{width}} {heads} growth a step\n")
    for name, one in norms.items():
        values = " ".join(f"{one.norms[t - 1]:10.3g}" for t in _SHOWN)
        sys.stdout.write(f"{name:{width}} {values} {one.growth:13.3f}\n")


if __name__ == "__main__":
    main()
