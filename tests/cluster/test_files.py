"""Every file under cluster/: what reads it takes it, and would not take it with a mistake in it."""

import copy
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster import kuberay
from dist_dp.cli import main

TOP = Path(__file__).parents[2] / "cluster"
SCRIPTS = sorted([*TOP.rglob("*.sh"), *TOP.rglob("*.sbatch")])
KUBERAY = {path.name: yaml.safe_load(path.read_text()) for path in sorted((TOP / "kuberay").glob("*.yaml"))}


def test_every_file_is_named_in_the_readme():
    readme = (TOP / "README.md").read_text()
    missing = [
        path.relative_to(TOP).as_posix()
        for path in TOP.rglob("*")
        if path.is_file() and path.name != "README.md" and "__pycache__" not in path.parts
    ]
    assert [name for name in missing if f"({name})" not in readme] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_well_formed_and_stop_at_errors(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert "set -euo pipefail" in script.read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_without_arguments_tell_their_usage(script):
    told = subprocess.run(["bash", script], capture_output=True, text=True)
    assert told.returncode == 2
    assert script.name in told.stderr


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_takes_the_file(name):
    kuberay.check(KUBERAY[name])


def _keys(value, path=()):
    """The paths of all keys of mappings whose keys are fields."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield (*path, key)
            if key not in ("limits", "requests"):  # names of resources: any
                yield from _keys(entry, (*path, key))
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _keys(entry, (*path, number))


@given(
    st.sampled_from(sorted(KUBERAY)).flatmap(
        lambda n: st.tuples(st.just(n), st.sampled_from(list(_keys(KUBERAY[n]))))
    )
)
def test_kuberay_does_not_take_a_misspelt_field(chosen):
    name, (*path, key) = chosen
    document = copy.deepcopy(KUBERAY[name])
    place = document
    for step in path:
        place = place[step]
    place[f"{key}x"] = place.pop(key)
    with pytest.raises(Exception, match=f"{key}|{path[-1] if path else key}"):
        kuberay.check(document)


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_clusters_grow_and_want_a_token(name):
    spec = KUBERAY[name]["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert all(group["minReplicas"] < group["maxReplicas"] for group in cluster["workerGroupSpecs"])


def test_the_cluster_launcher_takes_its_file():
    config = yaml.safe_load((TOP / "ray" / "aws.yaml").read_text())
    validate_config(prepare_config(config))
    assert config["available_node_types"]["worker"]["min_workers"] < config["max_workers"]
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    misspelt = {**config, "max_worker": 4}
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(misspelt))


def _commands():
    """Every `dist-dp ...` command in the files."""
    for path in sorted(TOP.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            text = path.read_text().replace("\\\n", " ")
            for found in re.finditer(r"(?:dist-dp|-m dist_dp\.cli) ((?:run|submit) [^\n`#&']*)", text):
                if "[" not in found[1] and "$@" not in found[1]:
                    yield pytest.param(found[1], id=f"{path.name}: {found[1]}"[:70])


@pytest.mark.parametrize("command", list(_commands()))
def test_commands_in_the_files_are_commands(command):
    name, *words = shlex.split(command)
    subcommand = main.commands[name]
    with subcommand.make_context(name, list(words), resilient_parsing=True) as context:
        given, _, _ = subcommand.make_parser(context).parse_args(words)
        for option in subcommand.params:  # the values too
            if option.name in given and option.name not in ("script", "arguments"):
                option.process_value(context, given[option.name])
    assert given["script"].endswith(".py")


def test_the_image_copies_what_there_is():
    for line in (TOP / "container" / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            *sources, _ = [word for word in line.split()[1:] if not word.startswith("--")]
            assert all((TOP.parent / source).exists() for source in sources)
