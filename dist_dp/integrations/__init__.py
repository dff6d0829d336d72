"""dist_dp inside other libraries. Each module needs the one that it is named after; nothing imports them unasked."""
