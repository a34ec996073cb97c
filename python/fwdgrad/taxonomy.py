"""Distances between classes, by which some mistakes are smaller than others."""

from __future__ import annotations

import graphlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fwdgrad.checks import check_integer
from fwdgrad.names import ClassNames, check_labels

Row = NDArray[np.float64]


class Taxonomy:
    """Distances between classes: from a graph, from a matrix, or of ImageNet's classes.

    Made by ``from_hypernyms``, ``from_distances`` or ``imagenet``. A class is given by its number,
    or by a name in any case. Distances from a class are computed when they are first used.

    Attributes:
        labels: for each class its names, separated by commas.

    Example:
        >>> imagenet = Taxonomy.imagenet()
        >>> imagenet.distance("tabby", "tiger cat"), imagenet.distance("tabby", "golden retriever")
        (2.0, 7.0)

    Source: *Is forward gradient an effective tool for explaining black-box models?*, section 3.4.
    """

    def __init__(
        self, row: Callable[[int], Row], labels: Sequence[str], keys: Sequence[str] = ()
    ) -> None:
        """For the constructors: a function from a target to its row, and the classes' names."""
        self.labels = tuple(labels)
        self._names = ClassNames(self.labels, keys)
        self._row = row
        self._rows: dict[int, Row] = {}

    @classmethod
    def from_hypernyms(
        cls,
        hypernyms: Mapping[str, Iterable[str]],
        classes: Sequence[str],
        labels: Sequence[str] | None = None,
    ) -> Taxonomy:
        """Path distances in a graph of hypernyms.

        The distance of two nodes is the least number of edges up from the one to a hypernym of
        both (which may be one of them) and down to the other: WordNet's usual path distance,
        NLTK's ``shortest_path_distance``. A path that goes down first, through a common hyponym,
        does not count, so only nodes above the classes matter. In a tree this is a metric; where
        nodes have several parents the triangle inequality may fail.

        Args:
            hypernyms: each node's direct parents. A node without parents need not be a key.
            classes: the node of each class, in the order of the classes.
            labels: for each class its names, separated by commas; default: its node.

        Raises:
            TypeError, ValueError: a class is no node; above the classes there is a cycle, or more
                than one root.

        Example:
            >>> graph = {"cat": ["animal"], "animal": ["thing"], "car": ["thing"]}
            >>> Taxonomy.from_hypernyms(graph, ["cat", "car", "animal"]).distances("cat")
            array([0., 3., 1.])
        """
        parents = {node: tuple(above) for node, above in hypernyms.items()}
        for node, above in hypernyms.items():
            if isinstance(above, str):  # a tuple of its letters by now
                raise TypeError(f"hypernyms of {node!r} must be a list of nodes, got {above!r}")
        nodes = check_labels("classes", classes)
        labels = nodes if labels is None else check_labels("labels", labels, len(nodes))
        known = {*parents, *(parent for above in parents.values() for parent in above)}
        for node in nodes:
            if node not in known:
                hint = ClassNames(sorted(known)).hint(node)
                raise ValueError(f"class {node!r} is no node of the hypernyms{hint}")
        order = _parents_first(parents, nodes)

        def row(target: int) -> Row:
            # Paths up from the target; then any node is at most a step further than its parents,
            # by a last step down.
            steps = _steps_up(parents, [nodes[target]])
            for node in order:
                for parent in parents.get(node, ()):
                    down = steps[parent] + 1
                    steps[node] = min(down, steps.get(node, down))
            return np.array([steps[node] for node in nodes], dtype=np.float64)

        return cls(row, labels, nodes)

    @classmethod
    def from_distances(cls, distances: Any, labels: Sequence[str] | None = None) -> Taxonomy:
        """Distances from a matrix.

        Args:
            distances: (classes, classes), a tensor or what NumPy takes: finite, symmetric, not
                negative, zeros on the diagonal. It is copied.
            labels: for each class its names, separated by commas; default: its number.

        Raises:
            TypeError, ValueError: it is not; the message says in what, and where.

        Example:
            >>> Taxonomy.from_distances([[0, 1], [1, 0]], ["cat", "dog"]).distance("cat", "dog")
            1.0
        """
        if isinstance(distances, Tensor):
            distances = distances.detach().cpu().double().numpy()
        try:
            matrix = np.array(distances, dtype=np.float64)
        except (TypeError, ValueError):
            shown = " ".join(repr(distances).split())
            raise TypeError(f"distances must be a matrix of numbers, got {shown:.60}") from None
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
            raise ValueError(f"distances must be a square matrix, got shape {matrix.shape}")
        apart = ~np.eye(len(matrix), dtype=bool)
        for good, rule in (
            (np.isfinite(matrix), "finite"),
            (matrix >= 0, ">= 0"),
            ((matrix == 0) | apart, "0 from a class to itself"),
            (matrix == matrix.T, "symmetric"),
        ):
            if not good.all():
                i, j = map(int, np.argwhere(~good)[0])
                other = f" and {matrix[j, i]} at ({j}, {i})" * (rule == "symmetric")
                raise ValueError(
                    f"distances must be {rule}, got {matrix[i, j]} at ({i}, {j}){other}"
                )
        if labels is None:
            labels = [str(number) for number in range(len(matrix))]
        labels = check_labels("labels", labels, len(matrix))
        return cls(lambda target: matrix[target].copy(), labels)

    @classmethod
    def imagenet(cls) -> Taxonomy:
        """ImageNet's 1,000 classes in WordNet 3.0's hierarchy of nouns, in their usual order.

        A class's names are the words of its synset ("tiger cat") and its identifier ("n02123159").

        >>> Taxonomy.imagenet().find("n02123159")
        282
        """
        classes = dict(line.split("\t") for line in _lines("imagenet_classes.txt"))
        table = (line.split() for line in _lines("imagenet_hypernyms.txt"))
        hypernyms = {node: above for node, *above in table}
        return cls.from_hypernyms(hypernyms, tuple(classes), tuple(classes.values()))

    def __len__(self) -> int:
        """How many classes there are."""
        return len(self.labels)

    def find(self, label: int | str, argument: str = "label") -> int:
        """The number of a class.

        Args:
            label: its number or one of its names.
            argument: its name in an error.

        Raises:
            TypeError, ValueError: there is no such class, or several have the name.

        Example:
            >>> Taxonomy.from_distances([[0, 1], [1, 0]], ["cat", "dog"]).find("dgo")
            Traceback (most recent call last):
            fwdgrad.errors.ArgumentError: label 'dgo' is no class of the taxonomy; perhaps dog (1)
        """
        if isinstance(label, str):
            return self._names.find(label, argument, "the taxonomy")
        if isinstance(label, (Tensor, np.ndarray)) and len(label.reshape(-1)) == 1:
            label = label.item()  # as argmax returns it
        if isinstance(label, (bool, np.bool_)) or not isinstance(label, (int, np.integer)):
            raise TypeError(f"{argument} must be a class's number or name, got {label!r}")
        return check_integer(argument, label, 0, len(self) - 1)

    def distances(self, target: int | str) -> Row:
        """The distances from one class to all classes, itself included.

        Returns:
            (classes,), float64; not to be written to.
        """
        number = self.find(target, "target")
        if number not in self._rows:
            row = self._row(number)
            row.flags.writeable = False
            self._rows[number] = row
        return self._rows[number]

    def distance(self, first: int | str, second: int | str) -> float:
        """The distance between two classes."""
        return float(self.distances(self.find(first, "first"))[self.find(second, "second")])

    def largest(self, target: int | str | None = None) -> float:
        """The largest distance from a class; None: between any two, which takes every row."""
        if target is None:
            return max(self.largest(number) for number in range(len(self)))
        return float(self.distances(target).max())

    def nearest(self, target: int | str, label: int | str) -> float:
        """The distance to a label, to the nearest class where several have the name.

        Raises:
            TypeError, ValueError: there is no such class.

        Example:
            >>> imagenet = Taxonomy.imagenet()  # a bird, or a machine
            >>> imagenet.nearest(134, "crane"), imagenet.nearest(517, "crane")
            (0.0, 0.0)
        """
        classes = self._names.classes(label) if isinstance(label, str) else ()
        classes = classes or (self.find(label),)
        return float(self.distances(target)[list(classes)].min())


def _steps_up(parents: Mapping[str, tuple[str, ...]], start: Iterable[str]) -> dict[str, int]:
    """All nodes above some, themselves included, and the number of steps to each."""
    steps = dict.fromkeys(start, 0)
    waiting = deque(steps)
    while waiting:
        node = waiting.popleft()
        for parent in parents.get(node, ()):
            if parent not in steps:
                steps[parent] = steps[node] + 1
                waiting.append(parent)
    return steps


def _parents_first(
    parents: Mapping[str, tuple[str, ...]], classes: tuple[str, ...]
) -> tuple[str, ...]:
    """The classes and all nodes above them, parents first; raises unless there is one root."""
    above = {node: parents.get(node, ()) for node in _steps_up(parents, classes)}
    try:
        order = tuple(graphlib.TopologicalSorter(above).static_order())
    except graphlib.CycleError as error:
        cycle = " -> ".join(map(repr, reversed(error.args[1])))
        raise ValueError(f"hypernyms must have no cycle, got {cycle}") from None
    roots = [node for node in order if not above[node]]
    if len(roots) > 1:
        raise ValueError(
            "hypernyms must have one root, so that any two classes have a hypernym in common, got "
            f"{len(roots)}: {', '.join(map(repr, roots[:5]))}{', ...' * (len(roots) > 5)}"
        )
    return order


def _lines(name: str) -> list[str]:
    return files("fwdgrad.adapters").joinpath(name).read_text(encoding="utf-8").splitlines()
