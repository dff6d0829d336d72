"""The operations, a table per family; each row holds value, derivative rules and batch rule side by side."""

import sys as _sys

from ..methods import bind as _bind
from ..tensor import Tensor as _Tensor  # noqa: F401  # first: tensors and operations import each other
from . import linalg  # noqa: F401  # a namespace of its own, as in NumPy
from .activation import *  # noqa: F403
from .affine import *  # noqa: F403
from .along import *  # noqa: F403
from .attention import *  # noqa: F403
from .comparison import *  # noqa: F403
from .contraction import *  # noqa: F403
from .conv import *  # noqa: F403
from .core import Op, apply, as_array, binary, table, unary  # noqa: F401
from .create import *  # noqa: F403
from .elementwise import *  # noqa: F403
from .extrema import *  # noqa: F403
from .gated import *  # noqa: F403
from .index import *  # noqa: F403
from .joining import *  # noqa: F403
from .loss import *  # noqa: F403
from .lstm_cell import *  # noqa: F403
from .mask import *  # noqa: F403
from .normalise import *  # noqa: F403
from .norms import *  # noqa: F403
from .order import *  # noqa: F403
from .pooling import *  # noqa: F403
from .products import *  # noqa: F403
from .recurrent import *  # noqa: F403
from .reduce import *  # noqa: F403
from .scan import *  # noqa: F403
from .shape import *  # noqa: F403
from .tree import *  # noqa: F403
from .views import *  # noqa: F403

_bind(_sys.modules[__name__])  # the methods of a tensor are these operations
