"""Functions of `nn` without state (`nn.functional`, by custom `F`), with torch's names, arguments and values."""

from .activation import *  # noqa: F403
from .layer import *  # noqa: F403
from .loss import *  # noqa: F403
