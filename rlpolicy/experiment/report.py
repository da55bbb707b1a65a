"""One HTML page about one run or many, with pictures inside: nothing is fetched when it is looked at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlpolicy.experiment.summary import (
    Group,
    Series,
    learning_curve,
    phase_seconds,
    read_groups,
    update_names,
)
from rlpolicy.utils.folder import write_file

LARGE, SMALL = (640, 340), (360, 220)
"""Width and height of pictures, in units of which a letter is 17 high."""
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 46
COLOURS = ("#1f6feb", "#c2410c", "#15803d", "#9333ea", "#b91c7c", "#0e7490", "#854d0e", "#475569")
"""Of lines, on a light background."""
N_COLOURS = len(COLOURS)
MAX_POINTS = 400
"""Points of a line at most; more cannot be told apart."""
STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --text: #1b1f24; --faint: #6b7280; --line: #d9dde3;
  COLOURS }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --text: #e6e9ed; --faint: #9aa4b0; --line: #353b43;
  --c0: #6ea8fe; --c1: #fb923c; --c2: #4ade80; --c3: #c084fc; --c4: #f472b6; --c5: #22d3ee; --c6: #facc15;
  --c7: #94a3b8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 960px; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; } p.note { color: var(--faint); font-size: .9rem; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--faint); font-size: 17px; }
.axis { stroke: var(--line); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th, td { overflow-wrap: normal; }
.many { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); }
figure { margin: 0; max-width: 400px; } figcaption { font-size: .9rem; color: var(--faint); }
.key { white-space: nowrap; margin-right: 1rem; }
.key i { display: inline-block; width: 1em; height: .6em; margin-right: .4em; }
""".replace("COLOURS", " ".join(f"--c{place}: {colour};" for place, colour in enumerate(COLOURS)))


@dataclass
class Line:
    """A line of a picture, with a band around it if wanted."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    colour: int
    band: NDArray[np.float64] | None = None
    """Lower and upper end, (T, 2)."""


def write_report(paths: Sequence[str], target: Path) -> None:
    """Write a page about the runs in these folders.

    :raises ValueError: one of them is none, or has nothing to report yet.
    """
    page = make_page(read_groups(paths))
    write_file(target, page.encode())


def make_page(groups: list[Group]) -> str:
    """The page, as HTML."""
    parts = [
        _section("Learning curves", _learning_curves(groups)),
        _section("Runs", _runs_table(groups)),
        _section("Health", _health(groups)),
        _section("Updates", _updates(groups)),
        _section("Time", _timing(groups)),
        _section("Settings", _settings(groups)),
    ]
    title = " and ".join(group.label for group in groups[:3]) + (" and more" if len(groups) > 3 else "")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{''.join(parts)}</body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>\n" if content else ""


def _key(groups: list[Group]) -> str:
    labels = (
        f'<span class="key"><i style="background: var(--c{place % N_COLOURS})"></i>{escape(group.label)}</span>'
        for place, group in enumerate(groups)
    )
    return f"<p>{''.join(labels)}</p>\n"


# -- sections ----------------------------------------------------------------------------------------------------------


def _learning_curves(groups: list[Group]) -> str:
    lines, rows = [], []
    for place, group in enumerate(groups):
        curve = learning_curve(group)
        middle, band = curve.middle, curve.interval
        lines.append(Line(curve.steps, middle, place, band))
        shown = "one seed" if band is None else f"{band[-1, 0]:.5g} to {band[-1, 1]:.5g}"
        steps = f"{curve.steps[-1]:,.0f}"
        rows.append([group.label, curve.seeds, steps, f"{middle[-1]:.5g}", shown, f"{middle.max():.5g}"])
    head = ["", "seeds", "steps", "return at the end", "95 % interval", "highest"]
    note = (
        "Mean return of the tests over environment steps: interquartile mean over seeds, and where there are several "
        "its 95 % bootstrap interval. A run that has ended counts on with its last test."
    )
    return _key(groups) + _picture(lines, "environment steps") + f'<p class="note">{note}</p>\n' + _table(head, rows)


def _runs_table(groups: list[Group]) -> str:
    rows = []
    for run in (run for group in groups for run in group.runs):
        info = run.info
        seconds = info.get("timing", {}).get("total_time")
        rows.append([
            str(run.folder.path),
            run.config.seed,
            _number(info.get("best_reward")),
            _number(info.get("train_step"), ",.0f"),
            "" if seconds is None else f"{seconds:,.0f} s",
            info.get("stop_reason") if run.is_over else "has not ended",
            _number(info.get("skipped_updates"), ",.0f"),
        ])  # fmt: skip
    return _table(["folder", "seed", "best reward", "steps", "time", "ended", "skipped updates"], rows)


def _health(groups: list[Group]) -> str:
    """What was not well, in words."""
    rows = [
        [str(run.folder.path), f"{warning['env_step']:,}", warning["figure"], warning["text"]]
        for group in groups
        for run in group.runs
        for warning in run.warnings
    ]
    return _table(["folder", "step", "figure", "what was not well"], rows) if rows else ""


def _updates(groups: list[Group]) -> str:
    figures = []
    for name in update_names(groups):
        lines = [
            Line(*run.updates[name], place)
            for place, group in enumerate(groups)
            for run in group.runs
            if name in run.updates
        ]
        picture = _picture(lines, "gradient steps", SMALL)
        figures.append(f"<figure><figcaption>{escape(name)}</figcaption>{picture}</figure>")
    if not figures:
        return ""
    note = '<p class="note">What the updates reported, a line per run.</p>\n'
    return f'{_key(groups)}{note}<div class="many">{"".join(figures)}</div>\n'


def _timing(groups: list[Group]) -> str:
    """Seconds per phase, mean over the runs of a group."""
    means = phase_seconds(groups)
    if not means:
        return ""
    largest = max(max(row) for row in means.values()) or 1.0
    rows = []
    for place, group in enumerate(groups):
        for name, row in means.items():
            seconds = row[place]
            bar = f'<rect width="{200 * seconds / largest:.1f}" height="12" fill="var(--c{place % N_COLOURS})"/>'
            drawing = f'<svg viewBox="0 0 200 12" style="width: 200px" aria-hidden="true">{bar}</svg>'
            rows.append([group.label, name, f"{seconds:.1f} s", Raw(drawing)])
    return _table(["", "phase", "mean of a run", ""], rows)


def _settings(groups: list[Group]) -> str:
    """The fields in which groups differ; and all fields, folded."""
    first = groups[0].config
    differing = list(dict.fromkeys(key for group in groups[1:] for key in first.difference(group.config)))
    differing = [key for key in differing if key not in ("seed", "name", "logdir")]
    text = ""
    if differing:
        values = [group.config.to_dict() for group in groups]
        rows = [[key, *(_setting(value, key) for value in values)] for key in differing]
        text = _table(["differs", *(group.label for group in groups)], rows)
    for group in groups:
        table = _table(["field", "value"], group.config.to_dict().items())
        text += f"<details><summary>All of {escape(group.label)}</summary>{table}</details>\n"
    return text


def _setting(values: dict[str, Any], key: str) -> str:
    return str(values[key]) if key in values else "(no such field)"


# -- parts of the page -------------------------------------------------------------------------------------------------


class Raw(str):
    """HTML that goes into a table as it is."""


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    first = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>\n" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{first}</tr></thead>\n<tbody>{body}</tbody></table></div>\n'


def _cell(value: Any) -> str:
    return value if isinstance(value, Raw) else escape(str(value))


def _number(value: Any, form: str = ".5g") -> str:
    return "" if value is None else format(value, form)


def _picture(lines: list[Line], x_label: str, size: tuple[int, int] = LARGE) -> str:
    """Lines over axes with round numbers, as SVG."""
    full_width, full_height = size
    lines = [_thinned(line) for line in lines]
    x_ticks = _ticks(min(line.x.min() for line in lines), max(line.x.max() for line in lines))
    ends = [part for line in lines for part in (line.y, line.band) if part is not None]
    y_ticks = _ticks(min(part.min() for part in ends), max(part.max() for part in ends))
    x_span, y_span = x_ticks[-1] - x_ticks[0], y_ticks[-1] - y_ticks[0]

    def x_of(x: Any) -> Any:
        return LEFT + (x - x_ticks[0]) / x_span * (full_width - LEFT - RIGHT)

    def y_of(y: Any) -> Any:
        return full_height - BOTTOM - (y - y_ticks[0]) / y_span * (full_height - TOP - BOTTOM)

    svg = []
    for tick in y_ticks:
        y = y_of(tick)
        svg.append(f'<line class="axis" x1="{LEFT}" x2="{full_width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        svg.append(f'<text x="{LEFT - 6}" y="{y + 5:.1f}" text-anchor="end">{_short(tick)}</text>')
    for place, tick in enumerate(x_ticks):
        anchor = "end" if place == len(x_ticks) - 1 else "middle"
        svg.append(f'<text x="{x_of(tick):.1f}" y="{full_height - 24}" text-anchor="{anchor}">{_short(tick)}</text>')
    svg.append(f'<text x="{full_width / 2:.0f}" y="{full_height - 5}" text-anchor="middle">{escape(x_label)}</text>')
    for line in lines:
        colour = f"var(--c{line.colour % N_COLOURS})"
        if line.band is not None:
            edge = np.concatenate([np.c_[line.x, line.band[:, 1]], np.c_[line.x, line.band[:, 0]][::-1]])
            points = _points(x_of(edge[:, 0]), y_of(edge[:, 1]))
            svg.append(f'<polygon points="{points}" fill="{colour}" opacity=".2"/>')
        width = 1.5 if size == SMALL else 2.5
        drawn = f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"'
        svg.append(f'<polyline points="{_points(x_of(line.x), y_of(line.y))}" {drawn}/>')
    about = f'viewBox="0 0 {full_width} {full_height}" role="img" aria-label="over {escape(x_label)}"'
    return f"<svg {about}>{''.join(svg)}</svg>\n"


def _thinned(line: Line) -> Line:
    keep = np.unique(np.linspace(0, len(line.x) - 1, MAX_POINTS).round().astype(int))
    return Line(line.x[keep], line.y[keep], line.colour, None if line.band is None else line.band[keep])


def _points(x: Series | Any, y: Any) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _ticks(low: float, high: float) -> NDArray[np.float64]:
    """Two to nine round numbers that enclose both."""
    size = max(abs(low), abs(high))
    span = high - low if high - low > 1e-6 * size else size  # a flat line has a scale of its own size
    span = span if span > 1e-30 else 1.0
    raw = span / 5
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * next(nice for nice in (1, 2, 5, 10) if power * nice >= raw * 0.999)
    return np.asarray(np.arange(np.floor(low / step), max(np.ceil(high / step), np.floor(low / step) + 1) + 1) * step)


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
