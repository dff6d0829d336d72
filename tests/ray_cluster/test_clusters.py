"""The clusters that these tests run on: they start, are used, lose a node, and leave nothing behind."""

import subprocess
import sys
import time

import ray
from ray.job_submission import JobSubmissionClient
from ray_cluster import clusters


def test_local_cluster(local_cluster):
    @ray.remote
    def square(x):
        return x * x

    assert ray.get([square.remote(i) for i in range(3)], timeout=60) == [0, 1, 4]


def test_nodes_are_separate_and_one_can_be_killed():
    program = """
import ray, time, sys
ray.init()
def alive():
    return sum(node["Alive"] for node in ray.nodes())
assert alive() == 2, ray.nodes()
@ray.remote(resources={"far": 1})
def node():
    return ray.get_runtime_context().get_node_id()
assert ray.get(node.remote(), timeout=60) != ray.get_runtime_context().get_node_id()
print("there", flush=True)
sys.stdin.readline()
until = time.monotonic() + 20
while alive() > 1:
    assert time.monotonic() < until
    time.sleep(0.05)
"""
    with clusters.Nodes(quick=True) as nodes:
        far = nodes.add(resources={"far": 1})
        driver = subprocess.Popen(
            [sys.executable, "-c", program],
            env=nodes.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with driver:
            assert driver.stdout.readline() == "there\n"
            killed = nodes.kill(far)
            assert killed >= 5  # `ray start`, the raylet, its two agents, a worker
            assert not far.pids()
            driver.communicate("\n", timeout=60)
        assert driver.returncode == 0
        directories = [node.directory for node in nodes.nodes]
    assert not any(node.pids() for node in nodes.nodes)
    assert not any(directory.exists() for directory in directories)


def test_a_job_is_taken():
    with clusters.Nodes(dashboard=True) as nodes:
        client = JobSubmissionClient(nodes.dashboard)
        job = client.submit_job(entrypoint="echo hello from the job")
        until = time.monotonic() + 60
        while not client.get_job_status(job).is_terminal():
            assert time.monotonic() < until
            time.sleep(0.1)
        assert "hello from the job" in client.get_job_logs(job)
