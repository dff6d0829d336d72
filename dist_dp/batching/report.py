"""What a batched program computed, and in which groups."""

from __future__ import annotations

from collections import Counter


class Report:
    """How the calls of one `dp.batched` were computed.

    Attributes:
        flushes: how often calls were computed: once, and once more for every time that all examples waited for a value.
        batches: for every cell and operation the sizes of its batches, in order.
        kinds: how many signatures its calls had.
        looped: the operations inside batches that ran example by example, since they have no batch rule, and how often.
    """

    def __init__(self) -> None:
        self.flushes = 0
        self.batches: dict[str, list[int]] = {}
        self.kinds: Counter[str] = Counter()
        self.looped: Counter[str] = Counter()

    def add(self, name: str, size: int) -> None:
        self.batches.setdefault(name, []).append(size)

    def __add__(self, other: Report) -> Report:
        """What both computed, one after the other."""
        both = Report()
        both.flushes = self.flushes + other.flushes
        for report in (self, other):
            for name, sizes in report.batches.items():
                both.batches.setdefault(name, []).extend(sizes)
        both.looped = self.looped + other.looped
        both.kinds = self.kinds | other.kinds
        return both

    @property
    def calls(self) -> int:
        """How many calls were computed."""
        return sum(map(sum, self.batches.values()))

    def __repr__(self) -> str:
        asked = "once" if self.flushes == 1 else f"{self.flushes} times"
        batches = sum(map(len, self.batches.values()))
        lines = [
            f"{self.calls} calls in {_plural(batches, 'batch', 'batches')}; values were asked for {asked}"
        ]
        width = max(map(len, self.batches), default=0)
        for name, sizes in sorted(self.batches.items(), key=lambda item: -sum(item[1])):
            total = sum(sizes)
            kinds = _plural(self.kinds[name], "kind", "kinds")
            lines.append(
                f"  {name:<{width}}  {total:>7} calls of {kinds:<8} in {_plural(len(sizes), 'batch', 'batches'):>13}, "
                f"{total / len(sizes):>8.1f} on average, {max(sizes):>6} at most"
            )
        for name, times in sorted(self.looped.items()):
            lines.append(f"  {name} ran one by one {times} times: it has no batch rule for these inputs")
        return "\n".join(lines)


def _plural(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"
