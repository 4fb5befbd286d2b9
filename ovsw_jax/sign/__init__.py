"""Sign estimators: a sign whose derivative is chosen.

The sign function has no useful derivative, so binary networks are trained with
an *estimator*: the forward pass takes the sign, the backward pass multiplies
the incoming gradient by a factor of one's choice. `sign_estimator` builds them
all; the members below differ in that factor alone.

=======================  ================================================
estimator                factor on the gradient
=======================  ================================================
`ste`                    1
`clipped_ste`            1 where ``|x| < 1``, else 0
`clipped_ste_closed`     1 where ``|x| <= 1``, else 0
`approx`                 ``max(0, 2 - 2|x|)``
`magnitude_gated()`      1 where ``|w| < mean|w|`` of its filter, else 0
`ede(k, t)`              ``k t (1 - tanh(t x)^2)``
`rbnn(k, t)`             ``max(0, k (sqrt(2) t - t^2 |x|))``
`swish(beta)`            the derivative of SignSwish
=======================  ================================================

`k`, `t` and `beta` may be traced: a schedule of them costs no recompilation.
`annealing` is the schedule of `k` and `t` that the published methods share.

A bit has two values, so **sign(0) = +1**, for -0.0 too. NaN maps to -1.
"""

from ovsw_jax.sign._annealed import annealing as annealing
from ovsw_jax.sign._annealed import ede as ede
from ovsw_jax.sign._annealed import rbnn as rbnn
from ovsw_jax.sign._annealed import swish as swish
from ovsw_jax.sign._estimators import Estimator as Estimator
from ovsw_jax.sign._estimators import approx as approx
from ovsw_jax.sign._estimators import clipped_ste as clipped_ste
from ovsw_jax.sign._estimators import (
  clipped_ste_closed as clipped_ste_closed,
)
from ovsw_jax.sign._estimators import hard_sign as hard_sign
from ovsw_jax.sign._estimators import magnitude_gated as magnitude_gated
from ovsw_jax.sign._estimators import sign_estimator as sign_estimator
from ovsw_jax.sign._estimators import ste as ste
