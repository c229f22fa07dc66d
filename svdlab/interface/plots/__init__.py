"""Figures of a sweep and of a measured ladder, with matplotlib.

A notebook shows the figure that a cell ends with; `figure.savefig("name.png", dpi=300)` writes it, `figure.alt` says in
words what it shows. Within `with plots.style(width=3.4, dark=True):` figures are narrow, or for a dark page.
"""

from svdlab.interface.plots.figure_style import style as style
from svdlab.interface.plots.knob_curves import curves as curves
from svdlab.interface.plots.ladder_plots import pareto as pareto
from svdlab.interface.plots.ladder_plots import predicted as predicted
from svdlab.interface.plots.ladder_plots import stages as stages
from svdlab.interface.plots.ladder_plots import timeline as timeline
from svdlab.interface.plots.ladder_plots import waterfall as waterfall
