"""Figures of a sweep and of a measured ladder, with matplotlib.

A notebook shows the figure that a cell ends with; `figure.savefig("name.png", dpi=300)` writes it, `figure.alt` says in
words what it shows. Within `with plots.style(width=3.4, dark=True):` figures are narrow, or for a dark page.

Of a sweep: `plots.curves(rows_table(rows), "motion_bucket_id")`. Of the rows of `profile`: `plots.waterfall(rows)`,
`plots.pareto(rows)`, `plots.predicted(rows)`, `plots.stages(rows)` and `plots.timeline(row)`.
All raise a `ValueError` where there is nothing to draw. matplotlib comes with `pip install "svdlab[notebooks]"`.
"""

from svdlab.interface.plots.figure_style import style
from svdlab.interface.plots.knob_curves import curves
from svdlab.interface.plots.ladder_plots import pareto, predicted, stages, timeline, waterfall

__all__ = ["curves", "pareto", "predicted", "stages", "style", "timeline", "waterfall"]
