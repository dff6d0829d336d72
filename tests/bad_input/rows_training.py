"""Wrong calls on what trains: optimizers, data, randomness, transforms, the loop, the runtime: rows of the table in
`test_bad_input.py`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from bad_input.rows_arrays import P, Row, V, zeros

import dist_dp as dp
from dist_dp import data, nn, ops, optim, random
from runtime import checkpoint, events, fingerprint, fold


# fmt: off
def weights() -> list[dp.Tensor]:
    return [*nn.Linear(2, 1).parameters()]


OPTIMIZERS: list[Row] = [
    ("no such option", lambda: optim.SGD(nn.Linear(2, 1).parameters(), lrr=0.1),
     TypeError, "SGD: unknown option 'lrr'; did you mean 'lr'"),
    ("a model", lambda: optim.SGD(nn.Linear(2, 1), lr=0.1),
     TypeError, r"params.*a model \(Linear\); pass model.param"),
    ("nothing", lambda: optim.Adam([]), ValueError, "params is empty"),
    ("a number", lambda: optim.Adam(3), TypeError, "params must be a list of parameters.*got int"),
    ("negative lr", lambda: optim.Adam(weights(), lr=-1), ValueError, "lr must be a number >= 0, got -1"),
    ("NaN lr", lambda: optim.Adam(weights(), lr=math.nan), ValueError, "lr must be a number >= 0, got nan"),
    ("string lr", lambda: optim.Adam(weights(), lr="1e-3"),
     TypeError, "lr must be a number >= 0, got '1e-3'"),
    ("clip_norm", lambda: optim.Adam(weights(), clip_norm=-1),
     ValueError, "clip_norm must be a number > 0, got -1"),
    ("state", lambda: optim.Adam(weights()).load_state_dict({"state": 3, "param_groups": [3]}),
     TypeError, "state_dict must be what.*got {"),
    ("Cosine", lambda: optim.Cosine(-1.0), ValueError, r"lr must be a number >= 0, got -1\.0"),
    ("warm-up", lambda: optim.Cosine(1.0, warmup=1.5), TypeError, r"warmup must be an int >= 0, got 1\.5"),
    ("no length", lambda: optim.Cosine(1.0).at(0),
     ValueError, "Cosine must know how long the run is.*total="),
    ("no schedule", lambda: optim.Warmup(0.1, 5), TypeError, r"schedule must be a Schedule.*got 0\.1"),
    ("Plateau", lambda: optim.Plateau(1.0).observe("a"), TypeError, "metric must be a number, got 'a'"),
    ("clip a model", lambda: optim.clip_grad_norm_(nn.Linear(2, 1), 1.0),
     TypeError, r"parameters.*got Linear; pass model.parameters\(\)"),
    ("clip to -1", lambda: optim.clip_grad_norm_(weights(), -1),
     ValueError, "max_norm must be a number >= 0, got -1"),
]


class Broken:
    """A data set whose item 3 is lost."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        if index == 3:
            raise OSError("the disk is gone")
        return zeros(2)


def take(source: Any, *indices: Any) -> Any:
    return data.as_source(source).take(np.array(indices))


DATA: list[Row] = [
    ("a string", lambda: data.as_source("abc"), TypeError, "data must be an ndarray.*got a str"),
    ("a stream", lambda: data.as_source(iter([1])),
     TypeError, "data must be.*got a list_iterator.*read into a list"),
    ("nothing", lambda: data.as_source([]), ValueError, "data must hold at least one example.*length 0"),
    ("lengths", lambda: data.as_source((zeros(3), zeros(4))), ValueError, "equally long, got lengths.*3.*4"),
    ("list as field", lambda: data.as_source({"x": [1, 2]}),
     TypeError, "made of ndarrays.*field 'x' is a list"),
    ("collate", lambda: data.as_source([1], collate=3), TypeError, "collate must be a function.*got int"),
    ("index", lambda: take(zeros(3), 3), IndexError, r"indices must lie in 0, \.\.\., 2, got 3"),
    ("float index", lambda: take(zeros(3), 0.5), TypeError, r"indices must be.*ints, got.*0\.5"),
    ("lost item", lambda: take(Broken(), 1, 3),
     data.DataError, "example 3 of a Broken failed.*the disk is gone"),
    ("ragged items", lambda: take([zeros(2), zeros(3)], 0, 1),
     ValueError, r"different shapes.*\(2,\) and \(3,\).*collate="),
    ("mixed items", lambda: take([zeros(2), "a"], 0, 1),
     ValueError, "mixture of arrays and objects.*collate="),
    ("batch_size 0", lambda: data.Batches(9, 0, 1, 0), ValueError, "batch_size must be at least 1, got 0"),
    ("batch_size True", lambda: data.Batches(9, True, 1, 0),
     TypeError, "batch_size must be an int, got True"),
    ("drop_last", lambda: data.Batches(3, 4, 1, 0, drop_last=True),
     ValueError, "drop_last=True leaves.* 3 .* 4"),
    ("step", lambda: data.Batches(9, 4, 1, 0).indices(9, 0), IndexError, r"step must lie in.* 2, got 9"),
    ("prefetch", lambda: data.prefetch(print, [1], -1), ValueError, "depth must be at least 0, got -1"),
    ("prefetch by 3", lambda: data.prefetch(3, [1]), TypeError, "fn must be callable, got int"),
    ("order", lambda: data.Permutation(3, 0), TypeError, "key must be a dist_dp.random.Key, got int"),
]

RANDOM: list[Row] = [
    ("seed", lambda: dp.seed(1.5), TypeError, r"n must be an int, got 1\.5"),
    ("std", lambda: random.normal(2, std=-1), ValueError, "std must not be negative, got -1"),
    ("shape", lambda: random.normal((-1,)), ValueError, "shape must be at least 0, got -1"),
    ("dtype", lambda: random.normal(2, "int32"), TypeError, "dtype must be float32 or float64, got int32"),
    ("range", lambda: random.integers(3, 3), ValueError, "low must be below high.*low=3, high=3"),
    ("probability", lambda: random.bernoulli(1.5), ValueError, r"p must be.*between 0 and 1, got 1\.5"),
    ("choice", lambda: random.choice(3, 4, replace=False), ValueError, r"shape \(4,\).*n=3"),
    ("key", lambda: random.Key(0, 1.5), TypeError, r"folded into a Key must be an int or a str, got 1\.5"),
    ("scope", lambda: random.scope(3), TypeError, "key must be a dist_dp.random.Key, got 3"),
]

TRANSFORMS: list[Row] = [
    *(
        (
            f"{transform.__name__}(3)",
            lambda transform=transform: transform(3),
            TypeError,
            "fun must be a function, got 3",
        )
        for transform in (
            dp.grad,
            dp.vjp,
            dp.linearize,
            dp.jacobian,
            dp.hessian,
            dp.vmap,
            dp.checkpoint,
            dp.custom_vjp,
        )
    ),
    ("argnums", lambda: dp.grad(ops.sin, argnums=2)(1.0),
     ValueError, "argnums=2 is out of range.* 1 positional"),
    ("argnums '0'", lambda: dp.grad(ops.sin, argnums="0"), TypeError, "argnums must be an int.*got '0'"),
    ("grad at an int", lambda: dp.grad(ops.sin)(1), TypeError, "argument 0 must be floating, got int"),
    ("grad of a vector", lambda: dp.grad(ops.sin)(V),
     TypeError, r"fun must return .*shape \(\).*got float32 \(3,\)"),
    ("grad of a float", lambda: dp.grad(lambda x: x.item())(1.0),
     TypeError, "fun must return Tensors, got float"),
    ("cotangent shape", lambda: dp.vjp(ops.sin, V)[1](zeros(1)),
     ValueError, r"cotangents .*\(3,\), got \(1,\)"),
    ("cotangent dtype", lambda: dp.vjp(ops.sin, V)[1](np.ones(3)),
     TypeError, "cotangents .*float32, got float64"),
    ("primals", lambda: dp.jvp(ops.sin, V, V), TypeError, "primals must be a tuple.*got Tensor"),
    ("tangents", lambda: dp.jvp(ops.sin, (V,), (zeros(1),)),
     ValueError, r"tangents\[0\] .*\(3,\), got \(1,\)"),
    ("hvp", lambda: dp.hvp(lambda x: x.sum(), V, V), TypeError, "primals must be a tuple.*got Tensor"),
    ("numbers of examples", lambda: dp.vmap(ops.add)(V, zeros(2)),
     ValueError, r"same number of examples, got \[2, 3\]"),
    ("in_axes", lambda: dp.vmap(ops.sin, in_axes=4)(V), ValueError, r"in_axes: axis 4 .*shape \(3,\)"),
    ("example's value", lambda: dp.vmap(lambda x: x.item())(V), TypeError, r"item\(\) cannot depend on one"),
    ("no rule", lambda: dp.custom_vjp(ops.sin)(P), RuntimeError, r"has no rule yet: call defvjp\(fwd, bwd\)"),
    ("rule", lambda: dp.custom_vjp(ops.sin).defvjp(3, 3), TypeError, "fwd must be a function, got 3"),
    ("gradcheck", lambda: dp.debug.gradcheck(3, V), TypeError, "fn must be a function, got 3"),
]


def pieces() -> tuple[nn.Linear, optim.Optimizer]:
    model = nn.Linear(2, 1)
    return model, optim.SGD(model.parameters(), lr=0.1)


def mean(model: Any, batch: Any) -> Any:
    return model(batch).mean()


def fit(loss: Any = mean, examples: Any = None, **options: Any) -> Any:
    """Training as it should be, but for what is given."""
    model, optimizer = pieces()
    model, optimizer = options.pop("model", model), options.pop("optimizer", optimizer)
    examples = np.ones((8, 2), np.float32) if examples is None else examples
    return dp.fit(model, loss, optimizer, examples, **{"batch_size": 4, "progress": False, **options})


def shard() -> dp.Shard:
    return dp.Shard(zeros(4, 2), np.arange(4), step=0, epoch=0, index=0, rng=random.Stream(random.Key(0)))


FITS: list[Row] = [
    ("model", lambda: fit(model=3), TypeError, "model must be a dist_dp.nn.Module, got int"),
    ("optimizer", lambda: fit(optimizer=0.1),
     TypeError, "optimizer must be a dist_dp.optim optimizer, got float"),
    ("another's optimizer", lambda: fit(optimizer=pieces()[1]),
     ValueError, r"optimizer .*no parameters of the model.*\(1, 2\)"),
    ("loss", lambda: fit("mse"), TypeError, "loss must be a function.*got str"),
    ("data", lambda: fit(examples=3), TypeError, "data must be an ndarray.*got an int"),
    ("batch_size 0", lambda: fit(batch_size=0), ValueError, "batch_size must be at least 1, got 0"),
    ("batch_size True", lambda: fit(batch_size=True), TypeError, "batch_size must be an int, got True"),
    ("batch_size 2.5", lambda: fit(batch_size=2.5), TypeError, r"batch_size must be an int, got 2\.5"),
    ("shards", lambda: fit(shards=0), ValueError, "shards must be at least 1, got 0"),
    ("shard=", lambda: fit(shard=4), TypeError, "unknown option 'shard'; did you mean 'shards'"),
    ("foo=", lambda: fit(foo=4), TypeError, "unknown option 'foo'; known are .*'shards'"),
    ("epochs", lambda: fit(epochs=0), ValueError, "epochs must be at least 1, got 0"),
    ("seed", lambda: fit(seed="a"), TypeError, "seed must be an int, got 'a'"),
    ("shuffle", lambda: fit(shuffle="no"), TypeError, "shuffle must be True or False, got 'no'"),
    ("max_steps", lambda: fit(max_steps=0), ValueError, "max_steps must be an int >= 1, got 0"),
    ("checkpoint_every", lambda: fit(checkpoint_every=-1),
     ValueError, "checkpoint_every must be an int >= 0, got -1"),
    ("keep_last", lambda: fit(keep_last=0), ValueError, "keep_last must be an int >= 1, got 0"),
    ("prefetch", lambda: fit(prefetch=1.5), ValueError, r"prefetch must be an int >= 0, got 1\.5"),
    ("progress", lambda: fit(progress="yes"), TypeError, "progress must be True, False or None, got 'yes'"),
    ("sinks", lambda: fit(sinks=[3]), TypeError, r"sinks must be a list of sinks.*got \[3\]"),
    ("collate", lambda: fit(collate=3), TypeError, "collate must be a function.*got int"),
    ("validation", lambda: fit(validation=3), TypeError, "data must be an ndarray.*got an int"),
    ("run=3", lambda: fit(run=3), TypeError, "run must be the path or URL of a directory, got 3"),
    ("run=''", lambda: fit(run=""), ValueError, "run must be the path or URL of a directory, got ''"),
    ("run is a file", lambda: fit(run=__file__),
     NotADirectoryError, "run must name a directory.*rows_training.py is a file"),
    ("run below a file", lambda: fit(run=f"{__file__}/a"),
     NotADirectoryError, "run must name.*rows_training.py is a file"),
    ("validation of steps", lambda: dp.steps(*pieces(), zeros(8, 2), batch_size=4, validation=3),
     TypeError, "validation is an option of fit.*dist_dp.evaluate"),
    ("loss: a float", lambda: fit(lambda m, b: 1.0), TypeError, "loss must return a Tensor first, got float"),
    ("loss: a vector", lambda: fit(lambda m, b: m(b)),
     ValueError, r"loss must be a scalar.*got shape \(4, 1\).*mean"),
    ("loss: NaN", lambda: fit(lambda m, b: m(b).mean() * math.nan),
     dp.NonFiniteLoss, r"loss is nan at step 0, shard 0, examples \["),
    ("loss: four", lambda: fit(lambda m, b: (m(b).mean(), 1, {}, 3)),
     ValueError, "loss must return.*got a tuple of 4"),
    ("loss: detached", lambda: fit(lambda m, b: m(b).mean().detach()),
     ValueError, "loss carries no gradient"),
    ("weight 0", lambda: fit(lambda m, b: (m(b).mean(), 0)),
     ValueError, r"weight must be a finite number above 0, got 0"),
    ("metrics: a list", lambda: fit(lambda m, b: (m(b).mean(), 1, [3])),
     TypeError, r"metrics must be a dict.*got \[3\] \(list\)"),
    ("metrics: a string", lambda: fit(lambda m, b: (m(b).mean(), 1, {"a": "b"})),
     TypeError, "metric 'a' must be one number, got str"),
    ("lost item", lambda: fit(examples=Broken()),
     data.DataError, "example 3 of a Broken failed to load: OSError"),
    ("ragged items", lambda: fit(examples=[zeros(2), zeros(3)]),
     ValueError, "different shapes.*pass collate="),
    ("backward(1.0)", lambda: shard().backward(1.0), TypeError, "loss must be a Tensor, got float"),
    ("backward(vector)", lambda: shard().backward(P * 2),
     ValueError, r"loss must be a scalar.*got shape \(3,\)"),
    ("backward(_, -1)", lambda: shard().backward((P * 2).sum(), -1),
     ValueError, "weight must be a finite number above 0, got -1"),
    ("log(string)", lambda: shard().log(accuracy="a"),
     TypeError, "metric 'accuracy' must be one number, got str"),
    ("log(3)", lambda: shard().log(3), TypeError, "metrics must be a dict from names to numbers, got 3"),
    ("evaluate(3)", lambda: dp.evaluate(3, mean, zeros(4, 2), batch_size=2),
     TypeError, "model must be a.*Module, got int"),
    ("evaluate loss", lambda: dp.evaluate(pieces()[0], 3, zeros(4, 2), batch_size=2),
     TypeError, "loss must be a function.*got int"),
    ("evaluate by 0", lambda: dp.evaluate(pieces()[0], mean, zeros(4, 2), batch_size=0),
     ValueError, "batch_size must be an int >= 1, got 0"),
]

RUNTIME: list[Row] = [
    ("shards", lambda: fold.Fold(0, min), ValueError, "shards must be at least 1, got 0"),
    ("shards 2.5", lambda: fold.subtrees(0, 1, 2.5), TypeError, r"shards must be an int, got 2\.5"),
    ("add", lambda: fold.Fold(4, 3), TypeError, "add must be a function of two values, got 3"),
    ("range", lambda: fold.Fold(4, min, 3, 9), ValueError, r"must lie inside \[0, 4\), got \[3, 9\)"),
    ("early root", lambda: fold.Fold(4, min).root, ValueError, "misses its leaves from 0 on"),
    ("partials", lambda: fold.combine({(0, 3): 1}, 4, min),
     ValueError, r"partials: \[0, 3\) is no subtree.* 4 shards"),
    ("workers", lambda: fold.balanced_ranges(4, 0), ValueError, "workers must be at least 1, got 0"),
    ("kind", lambda: events.Event(3, 1), TypeError, "kind must be a string, got 3"),
    ("step", lambda: events.Event("a", -1), ValueError, "step must not be negative, got -1"),
    ("values", lambda: events.Event("a", 1, 3), TypeError, "values must be a mapping.*got 3"),
    ("an array", lambda: events.Event("a", 1, {"x": zeros(2)}), TypeError, r"values\['x'\].*got ndarray"),
    ("threads", lambda: fingerprint.pin_blas_threads(0), ValueError, "n must be at least 1, got 0"),
    ("threads 'a'", lambda: fingerprint.pin_blas_threads("a"), TypeError, "n must be an int, got 'a'"),
    ("no checkpoint", lambda: checkpoint.load("/nowhere"),
     checkpoint.CheckpointDamaged, "/nowhere: cannot be read"),
]

# fmt: on
TRAINING = {
    "optimizer": OPTIMIZERS,
    "data": DATA,
    "random": RANDOM,
    "transform": TRANSFORMS,
    "fit": FITS,
    "runtime": RUNTIME,
}
