"""Modules, layers, losses and initialisers, under torch's names and with torch's `state_dict` keys."""

from . import functional as functional
from . import init as init
from .activation import *  # noqa: F403
from .attention import *  # noqa: F403
from .buffers import *  # noqa: F403
from .container import *  # noqa: F403
from .conv import *  # noqa: F403
from .dropout import *  # noqa: F403
from .embedding import *  # noqa: F403
from .linear import *  # noqa: F403
from .loss import *  # noqa: F403
from .module import *  # noqa: F403
from .norm import *  # noqa: F403
from .recurrent import *  # noqa: F403
from .storage import *  # noqa: F403
from .tree import *  # noqa: F403
