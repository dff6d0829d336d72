"""Builds the compiled kernels into the wheel if there is a C compiler; else it has none, and works all the same."""

from __future__ import annotations

import runpy
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        build = runpy.run_path(str(Path(self.root, "dist_dp", "kernels", "build.py")))
        try:
            build["build"]()
        except build["NotCompiled"] as reason:
            self.app.display_warning(f"dist_dp is built without its compiled kernels: {reason}")
            build["OUTPUT"].unlink(missing_ok=True)  # of an earlier build
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"cp{sys.version_info.major}{sys.version_info.minor}-abi3-{platform}"
