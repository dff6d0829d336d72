"""The operations, a table per family; each row holds value, derivative rules and batch rule side by side."""

from .comparison import *  # noqa: F403
from .core import Op, apply, as_array, binary, table, unary
from .elementwise import *  # noqa: F403
from .products import *  # noqa: F403
