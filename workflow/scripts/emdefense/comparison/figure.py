"""The studies' rates with their intervals in one picture: a row an arm, a mark a study."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emdefense.comparison.pairs import Comparison, Row
from emdefense.comparison.tables import estimate, titled
from emdefense.metrics import JUDGED, Metric
from emdefense.report.figures.style import PAGE, LineStyle, legend_above, line_styles

STEP, LEAST = 0.085, 0.17  # inches: between two studies' marks, and of a row
AROUND, SIZE = 0.9, 3.6  # inches around the panels; points of a mark


def draw_rates(comparison: Comparison, rows: list[Row]) -> Figure:
    """Return the figure of ``rows``: a panel a metric, tasks below each other between lines."""
    styles = line_styles(len(comparison.studies))
    height = max(LEAST, STEP * (len(styles) + 1))
    figure = Figure(figsize=(PAGE, AROUND + height * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(JUDGED), sharey=True)
    for axes, metric in zip(panels, JUDGED, strict=True):
        _draw(axes, comparison, rows, metric, styles)
    panels[0].set_yticks(range(len(rows)), _names(comparison, rows))
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    marks = [Line2D([], [], **{**style.marked(SIZE), "linestyle": ""}) for style in styles]
    legend_above(figure, marks, [one.label for one in comparison.studies])
    return figure


def _names(comparison: Comparison, rows: list[Row]) -> list[str]:
    """Return each row's arm, after its task, and after its model where there are several."""
    several = len({row.place for row in rows}) > 1
    found = []
    for row in rows:
        task = next(one.study.tasks[row.task].title for one in comparison.studies if row.task in one.study.tasks)
        found.append(": ".join([*([row.place.title] if several else []), task, titled(comparison, row)]))
    return found


def _draw(axes: Axes, comparison: Comparison, rows: list[Row], metric: Metric, styles: list[LineStyle]) -> None:
    axes.set_title(f"{metric.title} (%)", fontsize=7)
    axes.tick_params(left=False)
    axes.grid(axis="x")
    axes.grid(axis="y", visible=False)
    share = 0.8 / len(styles)
    for n, row in enumerate(rows):
        if n and (row.place, row.task) != (rows[n - 1].place, rows[n - 1].task):
            axes.axhline(n - 0.5, color="0.75", linewidth=0.5)
        for k, style in enumerate(styles):
            found = estimate(comparison, row, k, metric)
            if found is None:
                continue
            y = n + share * (k - (len(styles) - 1) / 2)
            if found.cluster is not None:
                axes.plot(found.cluster, [y, y], color=style.color, linewidth=0.9, solid_capstyle="butt", zorder=2)
            axes.plot(found.value, y, **{**style.marked(SIZE), "linestyle": ""})
    axes.set_xlim(left=0)
