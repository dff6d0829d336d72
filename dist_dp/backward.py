"""Sweeps over the tape: gradients backward from outputs, tangents forward from inputs.

One pass finds what is reachable and counts the uses of every node (`reach`); sorting by the clock gives the order. No
recursion anywhere: a graph 200,000 operations deep is as good as a flat one. First-order gradients run the rules on
plain arrays; with `create_graph=True` the same rules run on tensors and are recorded themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from .compact import Compact, Part, total
from .ops.core import Op, append, apply, identity, one_output, output
from .tape import OFF, RECORD, Hook, Leaf, Node, mode, writes
from .tensor import Tensor

if TYPE_CHECKING:
    from .batching.block import Block

Target = Node | Leaf
_seq = attrgetter("seq")

SMALL = 1024  # elements up to which it takes longer to ask whether an array is new than to make another
MOST_COMPACT = 512  # compact gradients of one leaf that wait to be added: a bound on memory


def reach(roots: Iterable[Target], ends: Container[Target] = ()) -> dict[Target, int]:
    """All nodes and leaves behind `roots`, each with the number of recorded uses it has there (0 for a root).

    Nothing is looked for behind `ends`.
    """
    uses: dict[Target, int] = dict.fromkeys(roots, 0)
    stack = [node for node in uses if node not in ends]
    while stack:
        for parent in stack.pop().parents:
            if parent is not None:
                if parent in uses:
                    uses[parent] += 1
                else:
                    uses[parent] = 1
                    if parent not in ends:
                        stack.append(parent)
    return uses


def unbroadcast(g: Any, shape: tuple[int, ...]) -> Any:
    """Sum `g` over the axes that broadcasting added to, or stretched from, `shape`."""
    given = g.shape
    extra = len(given) - len(shape)
    axes = tuple(range(extra))
    for i, n in enumerate(shape, extra):
        if n == 1 and given[i] != 1:
            axes = (*axes, i)
    if axes:
        # For arrays what np.sum calls, at half the time where they are small.
        reduce = np.add.reduce if type(g) is np.ndarray else np.sum
        g = reduce(g, axis=axes, keepdims=True)
    return g if g.shape == shape else g.reshape(shape)


def backward(
    roots: Sequence[tuple[Target, Any]],
    *,
    targets: Sequence[Target] | None = None,
    retain_graph: bool = False,
    create_graph: bool = False,
    on_reach: Callable[[Container[Target]], None] | None = None,
    on_ready: Callable[[Leaf], None] | None = None,
) -> list[Any]:
    """Propagate gradients from `roots` to the leaves, or to `targets` alone.

    Args:
        roots: pairs of a node and the gradient of the loss with respect to its output: arrays, or Tensors if
            `create_graph`.
        targets: when given, leaves are left alone and the gradients of these nodes are returned, None where no path
            leads to one; the sweep ends there, so of two targets one behind the other, what reaches the further one
            through the nearer is not counted. When None, every leaf reached accumulates into its `grad`.
        retain_graph: keep what the nodes saved, for another sweep.
        create_graph: record the sweep itself, for derivatives of higher order.
        on_reach: called first, with the nodes and leaves that are reached: no other leaf will receive anything.
        on_ready: called with each leaf at the moment its last contribution has landed (also when every path to it
            turned out to carry none): the event on which a reducer may start sending.

    Raises:
        RuntimeError: the graph was already freed, or an array that a rule needs was overwritten after it was saved.
    """
    uses = reach([node for node, _ in roots], set(targets or ()))
    if on_reach is not None:
        on_reach(uses)
    wanted = None if targets is None else _leading_to(uses, targets)
    found: dict[Target, Any] = dict.fromkeys(targets or ())
    grads: dict[Target, Any] = {}
    for node, g in roots:
        grads[node] = grads[node] + g if node in grads else g
    if wanted is None:
        for leaf in [n for n in grads if isinstance(n, Leaf)]:  # a leaf that is its own root: dx/dx
            _deposit(leaf, grads.pop(leaf), create_graph)
            if uses[leaf] == 0 and on_ready is not None:
                on_ready(leaf)
    with _sweeping(create_graph):
        _sweep(uses, grads, wanted, found, retain_graph or create_graph, create_graph, on_ready)
    return [grads[t] if isinstance(t, Leaf) and t in grads else found[t] for t in targets or ()]


class _sweeping:
    """The mode of a sweep. Rules may divide by zero where no gradient flows; `debug.anomaly()` looks for NaN.

    A class, for a generator takes as long again as a small operation's rules.
    """

    __slots__ = ("before", "quiet", "state")

    def __init__(self, recorded: bool) -> None:
        self.state = RECORD if recorded else OFF
        self.quiet = np.errstate(all="ignore")

    def __enter__(self) -> None:
        self.before = mode.state
        self.quiet.__enter__()
        mode.state = self.state

    def __exit__(self, *error: Any) -> None:
        mode.state = self.before
        self.quiet.__exit__(*error)


def _leading_to(uses: Mapping[Target, int], targets: Sequence[Target]) -> set[Target]:
    """The nodes from which some target can be reached: all that a sweep for `targets` has to visit."""
    wanted = set(targets)
    for node in sorted(uses, key=_seq):
        if any(p in wanted for p in node.parents):
            wanted.add(node)
    return wanted


def _sweep(
    uses: dict[Target, int],
    grads: dict[Target, Any],
    wanted: set[Target] | None,
    found: dict[Target, Any],
    retain: bool,
    recorded: bool,
    on_ready: Callable[[Leaf], None] | None,
) -> None:
    inspect = mode.inspect
    watch = mode.watch and mode.watch()
    owned: set[Target] = set()  # gradients in an array of our own, which may be added to in place
    compact: dict[Target, list[Compact]] = {}  # those of leaves that are not written out yet
    touched: dict[Any, Any] = {}  # of the gradients of blocks and of batches: which rows have anything to say
    order: list[Any] = sorted([n for n in uses if n.op is not None], key=_seq)
    node: Any = None
    try:
        while order:
            node = order.pop()
            g = grads.pop(node, None)
            if watch is not None:
                watch(node, g)
            if wanted is not None:
                if node in found:
                    found[node] = g
                    continue
                if node not in wanted:
                    continue
            op = node.op
            if g is not None and node.hooks is not None:
                g = _run_hooks(node.hooks, g)
            if op is output:
                _into_slot(node, g, grads)
                continue
            if op is append:
                _shared_out(node, g, grads, owned, touched)
                continue
            if node.saved is None:
                raise RuntimeError(
                    f"the graph was already freed at {_describe(node)}: backward went through it once; "
                    "pass retain_graph=True to the first backward to go through it again"
                )
            if writes.newest > node.seq:
                _check_unchanged(node)
            parents, saved = node.parents, node.saved
            gradients: Sequence[Any] | None = None
            if g is None:
                gradients = (None,) * len(parents)
            elif recorded:
                gradients = recorded_vjp(node, g)
            elif op.joint is not None:
                gradients = op.joint(_filled(node, g), [p is not None for p in parents], *saved[0])
            for i, parent in enumerate(parents):
                if parent is None or (wanted is not None and parent not in wanted):
                    continue
                d = op.rules[i](g, *saved[i]) if gradients is None else gradients[i]
                if parent.op is append and d is not None:
                    _touch(parent, node, touched)
                if isinstance(d, Compact):
                    if inspect is None and parent.op is None and wanted is None and parent.hooks is None:
                        waiting = compact.setdefault(parent, [])
                        waiting.append(d)
                        if len(waiting) == MOST_COMPACT:
                            _accumulate(parent, compact.pop(parent))
                        d = None
                    elif inspect is None and parent in owned and isinstance(d, Part):
                        d.add_to(grads[parent])
                        d = None
                    else:
                        d = d.dense()
                        if parent not in grads:
                            owned.add(parent)
                if d is not None and d.shape != parent.shape:
                    d = unbroadcast(d, parent.shape)
                if inspect is not None:
                    inspect(node, i, g, d)
                if parent.op is None and wanted is None:
                    if d is None:
                        pass
                    elif recorded or parent.hooks is not None:  # deposited once, when complete
                        grads[parent] = grads[parent] + d if parent in grads else d
                    else:
                        first = parent.grad is None
                        parent.accumulate(d, first and d.size > SMALL and is_new(d, g, op, gradients))
                    uses[parent] -= 1
                    if uses[parent] == 0:
                        if parent in compact:
                            _accumulate(parent, compact.pop(parent))
                        if parent in grads:
                            _deposit(parent, grads.pop(parent), recorded)
                        if on_ready is not None:
                            on_ready(parent)
                elif d is not None:
                    if parent not in grads:
                        grads[parent] = d  # by reference: most nodes are used once
                    elif parent in owned:
                        np.add(grads[parent], d, grads[parent])
                    elif d.size > SMALL and is_new(d, g, op, gradients):
                        grads[parent] = np.add(grads[parent], d, d)
                        owned.add(parent)
                    else:
                        grads[parent] = grads[parent] + d
                        # Neither a recorded tensor nor a 0-d sum, which is an immutable scalar.
                        if type(grads[parent]) is np.ndarray:
                            owned.add(parent)
            if not retain:
                node.saved = saved = None  # the arrays go now, not when the next node replaces them
    except Exception as error:
        if node is not None:
            error.add_note(f"in the backward pass of {_describe(node)}")
        raise
    finally:
        if watch is not None:
            watch(None, None)


def is_new(d: Any, g: Any, op: Op, gradients: Sequence[Any] | None) -> bool:
    """Whether `d`, which a rule of `op` made of `g`, is an array that nobody else has: it may be kept and written to.

    Rules return what they have made, what they were given (g), a view, or in a joint rule one array for several inputs;
    nothing that a node saved and nothing that they keep, to which the laws of the table hold them. That is not known of
    rules that call functions of the user's: those are among the operations of several outputs.
    """
    if type(d) is not np.ndarray or d.base is not None or d is g or op.outputs > 1 or op.variadic:
        return False
    if mode.inspect is not None:  # was shown it
        return False
    return gradients is None or sum(o is d or getattr(o, "base", None) is d for o in gradients) < 2


def _accumulate(leaf: Leaf, gradients: Sequence[Compact]) -> None:
    """Add compact gradients to those of a leaf; if they are the first, they are computed where they are to be."""
    first = leaf.grad is None and leaf.sink is not None and leaf.sink.flags.c_contiguous
    whole = total(gradients, leaf.sink if first else None)
    if whole is leaf.sink:
        leaf.grad = whole
    else:
        leaf.accumulate(whole, new=True)


def _deposit(leaf: Leaf, g: Any, recorded: bool) -> None:
    if leaf.hooks is not None:
        g = _run_hooks(leaf.hooks, g)
    if recorded:
        leaf.accumulate_recorded(g)
    else:
        leaf.accumulate(g)


def _run_hooks(hooks: Sequence[Hook], g: Any) -> Any:
    """Show a finished gradient to the hooks, each of which may return another in its place."""
    for hook in tuple(hooks):  # a hook may remove itself
        changed = hook(g if isinstance(g, Tensor) else Tensor._of(np.asarray(g), None))
        if changed is not None:
            g = changed if isinstance(g, Tensor) else np.asarray(changed.data, dtype=g.dtype)
    return g


def _into_slot(node: Node, g: Any, grads: dict[Target, Any]) -> None:
    """Put the gradient of one output among those of its operation, where the joint rule finds them together."""
    if g is not None:  # a sweep that is itself differentiated has read the output under a node of its own
        (common,) = node.parents
        slots = grads.setdefault(common, [None] * len(common.shape))
        i = node.params[0]
        slots[i] = g if slots[i] is None else slots[i] + g


def _touch(block: Node, gather: Node, touched: dict[Any, Any]) -> None:
    """Note the rows of a block that a gather took for rows that have a gradient: the others have none through it."""
    assert gather.saved is not None
    places = gather.params[0] if gather.op.name == "part" else gather.saved[0][0]
    if block not in touched:
        touched[block] = np.zeros(block.shape[0], np.bool_)
    active = touched.get(gather.params[1]) if len(gather.params) > 1 else None
    if active is None or active.all():
        touched[block][places] = True
    elif isinstance(places, slice):
        touched[block][places] |= active
    else:
        touched[block][places[active]] = True


def _shared_out(
    node: Node, g: Any, grads: dict[Target, Any], owned: set[Target], touched: dict[Any, Any]
) -> None:
    """Hand the gradient of a block on: its beginning to the block as it was, its end to the rows appended.

    Both are parts of one array, and nobody else reads it any more: so gathers before the append add to it in place,
    and a block of N rows costs one array of N rows, however many appends it is made of. Rows that nobody took have no
    gradient, not a zero one: what was only computed beside the loss is not reached.
    """
    rows = touched.pop(node, None)
    if g is None or rows is None:
        return
    start, batch = node.params
    before, new = node.parents
    if before is not None and (
        node in owned or rows[:start].any()
    ):  # our array: earlier gathers go on adding to it
        _hand(before, g[:start], node, grads, owned)
        touched[before] = rows[:start]
    if new is not None and rows[start:].any():
        _hand(new, g[start:], node, grads, owned)
        touched[batch] = rows[start:] | touched[batch] if batch in touched else rows[start:]


def _hand(parent: Target, part: Any, node: Node, grads: dict[Target, Any], owned: set[Target]) -> None:
    if parent in grads:
        grads[parent] = grads[parent] + part
        owned.discard(parent)
    else:
        grads[parent] = part
        if node in owned:
            owned.add(parent)


def _filled(node: Node, g: Any) -> Any:
    """Zeros for the outputs nobody used, so that joint rules see an array for every output."""
    if node.op.outputs == 1:
        return g
    return tuple(np.zeros(*like) if gi is None else gi for gi, like in zip(g, node.shape, strict=True))


def rebuilt(node: Node, names: Sequence[str], values: Sequence[Any]) -> list[Any]:
    """What a rule reads, with inputs and outputs as tensors that stand at their old places in the graph."""
    op, out = node.op, []
    for name, value in zip(names, values, strict=True):
        if name in op.inputs and op.variadic:
            value = tuple(_as_input(a, p) for a, p in zip(value, node.parents, strict=True))
        elif name in op.inputs:
            value = _as_input(value, node.parents[op.inputs.index(name)])
        elif name == "out":
            value = (
                Tensor._of(value, node)
                if op.outputs == 1
                else tuple(one_output(node, i, a) for i, a in enumerate(value))
            )
        out.append(value)
    return out


def _as_input(value: Any, parent: Target | None) -> Any:
    return Tensor._of(value, parent) if isinstance(value, np.ndarray) and parent is not None else value


def recorded_vjp(node: Node, g: Any) -> Sequence[Any]:
    """The gradients of one node's inputs as recorded tensors, for sweeps that are differentiated again."""
    op, saved = node.op, node.saved
    assert saved is not None
    need = [p is not None for p in node.parents]
    if op.composed is not None:
        return _through_composition(node, g, need)
    if op.joint is not None:
        return op.joint(_filled(node, g), need, *rebuilt(node, op.names[0], saved[0]))  # type: ignore[no-any-return]
    return [
        rule(g, *rebuilt(node, names, kept)) if kept is not None and rule is not None else None
        for rule, names, kept in zip(op.rules or (), op.names, saved, strict=True)
    ]


def recorded_jvp(node: Node, ts: Sequence[Any]) -> Any:
    """The tangent of one node's output (a tuple of them with several outputs) as recorded tensors."""
    op, saved = node.op, node.saved
    assert saved is not None
    if op.composed is not None:
        inputs, outs = _replay(node)
        seeds = {x.node: t for x, t in zip(inputs, ts, strict=True) if t is not None}
        results = forward(seeds, [o.node for o in _as_tuple(outs)], create_graph=True)
        return tuple(results) if op.outputs > 1 else results[0]
    if op.jvp is None:
        return _transposed(node, ts)
    if callable(op.jvp):
        return op.jvp(ts, *rebuilt(node, op.names[0], saved[0]))
    return _sum_of(
        rule(t, *rebuilt(node, names, kept))
        for rule, t, names, kept in zip(op.jvp, ts, op.names, saved, strict=True)
        if t is not None and rule is not None
    )


def _through_composition(node: Node, g: Any, need: Sequence[bool]) -> Sequence[Any]:
    """A fused op differentiates again through the elementary operations that it stands for."""
    inputs, outs = _replay(node)
    pairs = [(o.node, gi) for o, gi in zip(_as_tuple(outs), _as_slots(g), strict=True) if gi is not None]
    chosen = [x.node for x, wanted in zip(inputs, need, strict=True) if wanted]
    results = iter(backward(pairs, targets=chosen, create_graph=True))
    return [next(results) if wanted else None for wanted in need]


def _replay(node: Node) -> tuple[list[Any], Any]:
    """Run the composition of a fused op again on its saved inputs; returns (inputs under new nodes, outputs)."""
    op: Op = node.op
    assert node.saved is not None and op.composed is not None
    kept: dict[str, Any] = {}
    for names, values in zip(op.names, node.saved, strict=True):
        if values is not None:
            kept.update(zip(names, rebuilt(node, names, values), strict=True))
    inputs = kept[op.inputs[0]] if op.variadic else [kept[name] for name in op.inputs]
    inputs = [
        apply(identity, (x,)) if p is not None else x for x, p in zip(inputs, node.parents, strict=True)
    ]
    return inputs, op.composed(*inputs, *node.params)


def _as_tuple(outs: Any) -> tuple[Any, ...]:
    return outs if isinstance(outs, tuple) else (outs,)


def _as_slots(g: Any) -> Sequence[Any]:
    return g if isinstance(g, list) else (g,)


def _describe(node: Node) -> str:
    where = f", recorded at {node.site}" if node.site else ""
    return f"{node.op.name} (seq {node.seq}{where})"


def _check_unchanged(node: Node) -> None:
    """Raise if an array that `node` saved was written to after it was saved."""
    assert node.saved is not None
    for names, values in zip(node.op.names, node.saved, strict=True):
        for name, value in zip(names, values or (), strict=values is not None):
            for array in value if isinstance(value, tuple) else (value,):
                by = writes.since(array, node.seq) if isinstance(array, np.ndarray) else None
                if by is not None:
                    what = "its output" if name == "out" else f"its input {name!r}"
                    raise RuntimeError(
                        "a tensor needed for the gradient was modified by an in-place operation: "
                        f"{_describe(node)} saved {what}, {array.dtype} {array.shape}, which {by} overwrote later; "
                        "call backward before writing, or write into a copy"
                    )


def forward(seeds: Mapping[Target, Any], roots: Sequence[Target | None], *, create_graph: bool) -> list[Any]:
    """Push tangents from `seeds` forward to `roots` over the recorded graph: forward mode, on the same tape.

    Args:
        seeds: tangent of each input's node, of its shape and dtype: arrays, or Tensors if `create_graph`.
        roots: nodes whose tangents are returned; None where no seed leads to one.
        create_graph: record the sweep, so that tangents can be differentiated.
    """
    uses = reach([r for r in roots if r is not None], seeds)
    tangents: dict[Target, Any] = dict(seeds)
    blocks: dict[Target, Block] = {}
    node: Any = None
    try:
        with _sweeping(create_graph):
            for node in sorted(uses, key=_seq):
                if node in tangents or not any(p in tangents for p in node.parents):
                    continue
                if node.op is output:
                    tangents[node] = tangents[node.parents[0]][node.params[0]]
                    continue
                if node.op is append:
                    t = _grown(node, tangents.get(node.parents[1]), blocks)
                    tangents[node] = t if create_graph else t.data
                    continue
                ts = [tangents.get(p) if p is not None else None for p in node.parents]
                t = recorded_jvp(node, ts) if create_graph else _jvp(node, ts)
                if node.op.outputs == 1 and t.shape != node.shape:
                    t = np.broadcast_to(t, node.shape)
                tangents[node] = t
    except Exception as error:
        if node is not None:
            error.add_note(f"in the forward-mode pass of {_describe(node)}")
        raise
    return [None if r is None else tangents.get(r) for r in roots]


def _grown(node: Node, new: Any, blocks: dict[Target, Block]) -> Any:
    """The tangent of a block that grew by rows of tangent `new`, which is None for zeros.

    It is a growing block itself: `blocks` has those of all blocks by their last append, unless all of it is zero.
    """
    from .batching.block import Block  # made of operations, which stand above the sweeps

    start, shape = node.params[0], node.shape
    block = blocks.pop(node.parents[0], None)
    if block is None:
        block = Block(None, shape[1:], new.dtype)  # type: ignore[arg-type]  # nobody asks whose it is
        block.append(Tensor._of(np.zeros((start, *shape[1:]), new.dtype), None), object())
    if new is None:
        new = np.zeros((shape[0] - start, *shape[1:]), block.rows.dtype)
    block.append(new if isinstance(new, Tensor) else Tensor._of(new, None), object())
    blocks[node] = block
    return block.rows


def _jvp(node: Node, ts: Sequence[Any]) -> Any:
    op, saved = node.op, node.saved
    assert saved is not None
    if op.jvp is None or op.composed is not None:
        with _sweeping(True):
            out = recorded_jvp(node, [None if t is None else Tensor._of(np.asarray(t), None) for t in ts])
        return tuple(o.data for o in out) if isinstance(out, tuple) else out.data
    if callable(op.jvp):
        return op.jvp(ts, *saved[0])
    rows = zip(op.jvp, ts, saved, strict=True)
    return _sum_of(rule(t, *kept) for rule, t, kept in rows if t is not None and rule is not None)


def _sum_of(parts: Iterable[Any]) -> Any:
    first, *rest = parts
    for part in rest:
        first = first + part
    return first


def _transposed(node: Node, ts: Sequence[Any]) -> Any:
    """The jvp of an op without a jvp rule: the vjp is linear in g, so differentiating <vjp(g), t> by g gives it."""
    likes = node.shape if node.op.outputs > 1 else ((node.shape, next(t.dtype for t in ts if t is not None)),)
    gs = [Tensor._of(np.zeros(*like), Leaf(*like)) for like in likes]
    gradients = recorded_vjp(node, gs if node.op.outputs > 1 else gs[0])
    roots = [
        (unbroadcast(d, p.shape).node, t)
        for d, p, t in zip(gradients, node.parents, ts, strict=True)
        if t is not None and d is not None
    ]
    results = backward(
        [(n, t) for n, t in roots if n is not None], targets=[g.node for g in gs], create_graph=True
    )
    outs = [g if r is None else r for r, g in zip(results, [g.detach() for g in gs], strict=True)]
    return tuple(outs) if node.op.outputs > 1 else outs[0]
