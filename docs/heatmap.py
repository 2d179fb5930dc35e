"""Draws the README's picture: scores between words of five categories through one head.

python docs/heatmap.py --model planted --head L1H5 docs/heatmap.svg
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import click
import numpy as np

from qkatlas.jobs.full_vocab.job import FullVocabJob
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.resolve import resolve

GROUPS = (
    ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
    ("red", "blue", "green", "silver", "white", "yellow"),
    ("1918", "1920", "1930", "1943", "1998", "2000"),
    ("Italy", "Iceland", "Austria", "Mexico", "Spain", "France"),
    ("dog", "cat", "horse", "bird", "fish", "mouse"),
)
CELL, LABEL, LEGEND = 15, 84, 46
LOW, MIDDLE, HIGH = np.array([33, 102, 172]), np.array([247, 247, 247]), np.array([178, 88, 6])


def colour(value: float, limit: float) -> str:
    """Blue for negative, white for zero, orange for positive scores; told apart by every kind of colour vision."""
    share = min(abs(value) / limit, 1.0)
    red, green, blue = (MIDDLE + (HIGH if value > 0 else LOW) * share - MIDDLE * share).round().astype(int)
    return f"#{red:02x}{green:02x}{blue:02x}"


@click.command()
@click.option("--model", default="planted", show_default=True)
@click.option("--head", default="L1H5", show_default=True)
@click.argument("target", type=click.Path(path_type=Path))
def main(model: str, head: str, target: Path) -> None:
    """Score the words against each other and draw them."""
    opened = Model.open(model, resolve(model, click.echo))
    words = [word for group in GROUPS for word in group]
    ids = [token for word in words if (token := opened.vocabulary.find(f" {word}")) is not None]
    inputs = FullVocabJob(FullVocab(head=head), opened).inputs(2)
    scores = inputs.queries_VH[ids].astype(np.float64) @ inputs.keys_VH[ids].T.astype(np.float64) * inputs.scale
    limit = float(np.abs(scores).max())
    side = LABEL + CELL * len(ids)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side + LEGEND + 8} {side + 8}" font-size="10" '
        'font-family="sans-serif" fill="#808080">',
        f"<title>Scores of {escape(head)} of {escape(model)} in nats: query words down, key words across</title>",
    ]
    for place, token in enumerate(ids):
        text = escape(opened.vocabulary.text(token).strip())
        middle = LABEL + CELL * place + CELL * 0.75
        lines.append(f'<text x="{LABEL - 4}" y="{middle}" text-anchor="end">{text}</text>')
        lines.append(f'<text transform="translate({middle} {LABEL - 4}) rotate(-90)">{text}</text>')
        lines.extend(
            f'<rect x="{LABEL + CELL * key}" y="{LABEL + CELL * place}" width="{CELL}" height="{CELL}" '
            f'fill="{colour(score, limit)}"/>'
            for key, score in enumerate(scores[place])
        )
    for step in range(21):
        value = limit * (1 - step / 10)
        y = LABEL + step * 8
        lines.append(f'<rect x="{side + 8}" y="{y}" width="12" height="8" fill="{colour(value, limit)}"/>')
        if step % 10 == 0:
            lines.append(f'<text x="{side + 23}" y="{y + 8}">{value:+.0f}</text>')
    target.write_text("\n".join([*lines, "</svg>\n"]), encoding="utf-8")


if __name__ == "__main__":
    main()
