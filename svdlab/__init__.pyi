"""The public names and where they live: read by `lazy_loader` at run time, and by type checkers."""

from .generation.chain import chain as chain
from .generation.clip import Clip as Clip
from .generation.clip import read as read
from .generation.generate import generate as generate
from .interface import plots as plots
from .interface.clip_grid import save_wall as save_wall
from .interface.clip_grid import wall as wall
from .interface.doctor import doctor as doctor
from .interface.panel.panel import panel as panel
from .interface.report import report as report
from .interface.review import review as review
from .machine import Machine as Machine
from .media.show import show as show
from .pipelines.load import load as load
from .prediction.estimate import estimate as estimate
from .prediction.fitting import fitting_setup as fitting_setup
from .profiling.profile import measure as measure
from .profiling.profile import profile as profile
from .quality.assess import assess as assess
from .quality.diagnose import diagnose as diagnose
from .request import Request as Request
from .request import conditioning as conditioning
from .rows.row import Row as Row
from .setup import Setup as Setup
from .sweeps import study as study
from .sweeps.grid import Trial as Trial
from .sweeps.grid import grid as grid
from .sweeps.grid import ladder as ladder
from .sweeps.plan import plan as plan
from .sweeps.run import run as run
from .variants import VARIANTS as VARIANTS
from .variants import Variant as Variant

__version__: str
