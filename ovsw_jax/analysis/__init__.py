"""What a run left behind: its metrics, silent-weight statistics, figures."""

from ovsw_jax.analysis.checkpoints import LayerWeights as LayerWeights
from ovsw_jax.analysis.checkpoints import checkpoint_steps as checkpoint_steps
from ovsw_jax.analysis.checkpoints import read_weights as read_weights
from ovsw_jax.analysis.figure import flip_figure as flip_figure
from ovsw_jax.analysis.figure import save_flip_figure as save_flip_figure
from ovsw_jax.analysis.metrics import read_metrics as read_metrics
from ovsw_jax.analysis.report import report as report
from ovsw_jax.analysis.run import Run as Run
from ovsw_jax.analysis.run import read_run as read_run
from ovsw_jax.analysis.silence import never_flipped as never_flipped
from ovsw_jax.analysis.silence import silent as silent
from ovsw_jax.analysis.statistics import LayerStatistics as LayerStatistics
from ovsw_jax.analysis.statistics import layer_statistics as layer_statistics
from ovsw_jax.analysis.statistics import total_statistics as total_statistics
