"""The subcommands of `dist-dp`, one in each file; `dist_dp.cli` puts them together."""
