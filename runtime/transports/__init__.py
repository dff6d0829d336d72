"""Ways for the workers of one generation to exchange: each module provides a `runtime.group.Group`."""
