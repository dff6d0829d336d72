"""The program of the fault tests on a store, with less patience: a lock is free after 4 s of silence."""

import sys

from faults.program import main

from runtime import store_lock, stored_events

store_lock.EVERY, store_lock.PATIENCE = 0.5, 4.0
stored_events.EVERY = 0.3

if __name__ == "__main__":
    main(*sys.argv[1:])
