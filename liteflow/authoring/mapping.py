"""What a task or a group is mapped over, and which item each instance gets.

A *source* is a tree: at its leaves lists that are written in the dag (`Literal`) or handed on by a task (`Items`),
above them `.map`, `.zip` and `.concat`. How many items there are and which of them an instance needs follows from the
lengths of the leaves alone, so that whoever drives the run looks into no value; the worker gets the items that its
instance needs, and these functions put them together there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

NO_FILL = "liteflow: no fillvalue"
"""In place of the fill value of a zip that stops at the shortest; a text, so that it is the same in every process."""


STRICT, LOOSE = "", "*"
"""In place of a parameter's name: each item is a dict of arguments, which may not, or may, hold what is given."""


class Items(NamedTuple):
    """The list that a task hands on under a key; of a mapped task, the values of its instances that succeeded."""

    task_id: str
    key: str


class Literal(NamedTuple):
    """A list that is written in the dag: `number` says which of the expand input's."""

    number: int


class Mapped(NamedTuple):
    """Each item given to a function."""

    source: Any
    function: Callable[[Any], Any]


class Zipped(NamedTuple):
    """Tuples of items that stand at the same place; as long as the shortest or, with a fill value, the longest."""

    sources: tuple[Any, ...]
    fillvalue: Any


class Joined(NamedTuple):
    """One list after the other."""

    sources: tuple[Any, ...]


Leaf = Items | Literal
Source = Items | Literal | Mapped | Zipped | Joined
Lengths = Mapping[Leaf, int]
Values = Mapping[tuple[Leaf, int], Any]


class ExpandInput(NamedTuple):
    """What a unit is mapped over."""

    sources: tuple[tuple[str, Source], ...]
    """Parameter names and their sources, whose product is taken; for `expand_kwargs` one named `STRICT` or `LOOSE`."""
    literals: tuple[Sequence[Any], ...]
    """The lists that `Literal` leaves name, with placeholders in place of values that are not there yet."""

    @property
    def is_kwargs(self) -> bool:
        """Whether each item is a dict of arguments."""
        return bool(self.sources) and self.sources[0][0] in (STRICT, LOOSE)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that it gives, where they are known before the values are."""
        return () if self.is_kwargs else tuple(name for name, _ in self.sources)


def leaves_of(source: Source) -> Iterator[Leaf]:
    """The leaves of a tree, from left to right."""
    if isinstance(source, Mapped):
        yield from leaves_of(source.source)
    elif isinstance(source, Zipped | Joined):
        for one in source.sources:
            yield from leaves_of(one)
    else:
        yield source


def all_leaves(expand: ExpandInput) -> list[Leaf]:
    """The leaves of all sources, each once."""
    alone = _alone(expand)
    if alone is not None:
        return [alone]
    return list(dict.fromkeys(leaf for _, source in expand.sources for leaf in leaves_of(source)))


def literal_lengths(expand: ExpandInput) -> dict[Leaf, int]:
    """The lengths that the dag itself tells."""
    return {Literal(number): len(items) for number, items in enumerate(expand.literals)}


def length_of(source: Source, lengths: Lengths) -> int:
    """How many items a source has."""
    if isinstance(source, Mapped):
        return length_of(source.source, lengths)
    if isinstance(source, Joined):
        return sum(length_of(one, lengths) for one in source.sources)
    if isinstance(source, Zipped):
        pick = min if isinstance(source.fillvalue, str) and source.fillvalue == NO_FILL else max
        return pick((length_of(one, lengths) for one in source.sources), default=0)
    return lengths[source]


def count_of(expand: ExpandInput, lengths: Lengths) -> int:
    """How many instances there are: the product of the lengths."""
    return prod(length_of(source, lengths) for _, source in expand.sources)


def positions(expand: ExpandInput, map_index: int, lengths: Lengths) -> list[int]:
    """Which item of each source the instance gets. The last source runs fastest, as in Airflow."""
    found: list[int] = []
    for _, source in reversed(expand.sources):
        map_index, place = divmod(map_index, length_of(source, lengths))
        found.append(place)
    return found[::-1]


def _alone(expand: ExpandInput) -> Leaf | None:
    """The only source if it is a leaf, as it mostly is: then the map index is the place in it."""
    if len(expand.sources) != 1:
        return None
    source = expand.sources[0][1]
    return source if isinstance(source, Items | Literal) else None


def needed_items(expand: ExpandInput, map_index: int, lengths: Lengths) -> list[tuple[Leaf, int]]:
    """Which items of which leaves the instance needs, each once."""
    alone = _alone(expand)
    if alone is not None and map_index < lengths[alone]:
        return [(alone, map_index)]
    places = positions(expand, map_index, lengths)
    pairs = (
        pair
        for (_, source), place in zip(expand.sources, places, strict=True)
        for pair in _items_at(source, place, lengths)
    )
    return list(dict.fromkeys(pairs))


def _items_at(source: Source, place: int, lengths: Lengths) -> Iterator[tuple[Leaf, int]]:
    if isinstance(source, Mapped):
        yield from _items_at(source.source, place, lengths)
    elif isinstance(source, Zipped):
        for one in source.sources:
            if place < length_of(one, lengths):
                yield from _items_at(one, place, lengths)
    elif isinstance(source, Joined):
        yield from _items_at(*_within(source, place, lengths), lengths)
    else:
        yield source, place


def _within(joined: Joined, place: int, lengths: Lengths) -> tuple[Source, int]:
    """Which of the lists that were joined has the item, and where."""
    for one in joined.sources:
        length = length_of(one, lengths)
        if place < length:
            return one, place
        place -= length
    raise IndexError(place)


def mapped_kwargs(expand: ExpandInput, map_index: int, lengths: Lengths, values: Values) -> dict[str, Any]:
    """The arguments that the instance gets. `values` holds at least what `needed_items` names.

    What a function of `.map` raises comes out as it is. An item of `expand_kwargs` that is no dict raises TypeError.
    """
    alone = _alone(expand)
    if alone is not None and not expand.is_kwargs and map_index < lengths[alone]:
        return {expand.sources[0][0]: values[alone, map_index]}
    places = positions(expand, map_index, lengths)
    found = [
        (name, item_of(source, place, lengths, values))
        for (name, source), place in zip(expand.sources, places, strict=True)
    ]
    if not expand.is_kwargs:
        return dict(found)
    kwargs = found[0][1]
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise TypeError(f"expand_kwargs() needs a dict of arguments for each instance, not {kwargs!r:.200}")
    return dict(kwargs)


def mapped_over(
    sources: Sequence[tuple[str, Source]], given: Mapping[str, Any], mapped: Mapping[str, Any]
) -> Mapping[str, Any]:
    """`mapped`, once it is seen that it may be laid over what is `given`; TypeError for a strict `expand_kwargs`."""
    twice = given.keys() & mapped.keys()
    if twice and sources[0][0] == STRICT:
        raise TypeError(f"{sorted(twice)[0]!r} is given twice, by partial() and by expand_kwargs()")
    return mapped


def item_of(source: Source, place: int, lengths: Lengths, values: Values) -> Any:
    """One item of a source."""
    if isinstance(source, Mapped):
        return source.function(item_of(source.source, place, lengths, values))
    if isinstance(source, Zipped):
        return tuple(
            item_of(one, place, lengths, values) if place < length_of(one, lengths) else source.fillvalue
            for one in source.sources
        )
    if isinstance(source, Joined):
        return item_of(*_within(source, place, lengths), lengths, values)
    return values[source, place]


def whole_list(source: Source, lists: Mapping[Leaf, Sequence[Any]]) -> list[Any]:
    """All items of a source, where it is an ordinary argument and not mapped over."""
    lengths = {leaf: len(items) for leaf, items in lists.items()}
    values = _WholeLists(lists)
    return [item_of(source, place, lengths, values) for place in range(length_of(source, lengths))]


class _WholeLists(Mapping[tuple[Leaf, int], Any]):
    """Items by leaf and place, out of whole lists."""

    def __init__(self, lists: Mapping[Leaf, Sequence[Any]]) -> None:
        self._lists = lists

    def __getitem__(self, pair: tuple[Leaf, int]) -> Any:
        leaf, place = pair
        return self._lists[leaf][place]

    def __iter__(self) -> Iterator[tuple[Leaf, int]]:
        return ((leaf, place) for leaf, items in self._lists.items() for place in range(len(items)))

    def __len__(self) -> int:
        return sum(map(len, self._lists.values()))
