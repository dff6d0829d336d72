"""Who starts the workers and keeps their membership: each module provides the members of a run (`runtime.member`)."""
