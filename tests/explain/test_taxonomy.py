"""Distances between classes: counted by hand, by brute force, and by the laws they must obey."""

import itertools
import random
from importlib.resources import files

import numpy as np
import pytest
import torch

from fwdgrad import Taxonomy
from fwdgrad.adapters.make_imagenet_hypernyms import hypernym_table, main, read_hypernyms

IMAGENET = Taxonomy.imagenet()

# cub and kit have a hypernym in common at 3 + 3 steps, though they have a common hyponym, too.
DIAMOND = {
    "toy": ["cub", "kit"],
    "cub": ["bear"],
    "bear": ["wild"],
    "wild": ["animal"],
    "kit": ["fox"],
    "fox": ["tame"],
    "tame": ["animal"],
}


def random_graph(seed, parents):
    """Twenty nodes, each with up to so many parents among those before it."""
    chance = random.Random(seed)
    return {
        f"n{i}": [f"n{j}" for j in chance.sample(range(i), min(i, chance.randint(1, parents)))]
        for i in range(20)
    }


def ways_up(graph, node):
    """Every way up from a node, as (where it ends, its length): the definition, word for word."""
    yield node, 0
    for parent in graph.get(node, []):
        for end, length in ways_up(graph, parent):
            yield end, length + 1


def brute_force(graph, one, other):
    return min(
        up + down
        for end, up in ways_up(graph, one)
        for same, down in ways_up(graph, other)
        if end == same
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("parents", [1, 2, 3])
def test_path_distance_is_the_definition(seed, parents):
    graph = random_graph(seed, parents)
    nodes = list(graph)
    taxonomy = Taxonomy.from_hypernyms(graph, nodes)
    expected = [[brute_force(graph, one, other) for other in nodes] for one in nodes]
    assert [taxonomy.distances(node).tolist() for node in nodes] == expected
    assert taxonomy.largest() == np.max(expected)
    assert taxonomy.largest("n3") == max(expected[3])


@pytest.mark.parametrize("seed", range(3))
def test_in_a_tree_it_is_a_metric(seed):
    graph = random_graph(seed, 1)
    taxonomy = Taxonomy.from_hypernyms(graph, list(graph))
    matrix = np.array([taxonomy.distances(i) for i in range(20)])
    assert (matrix[:, None, :] <= matrix[:, :, None] + matrix[None, :, :]).all()
    assert ((matrix == 0) == np.eye(20, dtype=bool)).all()


def test_a_common_hyponym_is_no_way():
    taxonomy = Taxonomy.from_hypernyms(DIAMOND, ["cub", "kit", "toy", "animal"])
    assert taxonomy.distances("cub").tolist() == [0, 6, 1, 3]  # not 2, through toy
    # What is not above the classes makes no difference, not even a second root or a cycle.
    more = {**DIAMOND, "toy": ["cub", "kit", "thing"], "loop": ["loop"]}
    fewer = Taxonomy.from_hypernyms(more, ["cub", "kit"])
    assert fewer.distances("cub").tolist() == [0, 6]


# Counted in WordNet 3.0's data.noun, up the pointers @ of both:
#   tabby > domestic cat > domestic animal > animal > organism > living thing > whole
#   tabby > domestic cat > cat > feline > carnivore
#   golden retriever > retriever > sporting dog > hunting dog > dog > domestic animal
#   golden retriever > retriever > sporting dog > hunting dog > dog > canine > carnivore
#   sports car > car > motor vehicle > self-propelled vehicle > wheeled vehicle > container
#       > instrumentality > artifact > whole
#   crane > wading bird > aquatic bird > bird > vertebrate > chordate > animal
#   crane > lifting device > device > instrumentality > artifact > whole
#   swing > plaything > artifact > whole
#   swing > mechanical device < hook
#   hook > mechanical device > mechanism > device > instrumentality > artifact > whole
@pytest.mark.parametrize(
    ("one", "other", "steps"),
    [
        ("tench", "goldfish", 1 + 1),  # cyprinid
        ("tabby", "tiger cat", 1 + 1),  # domestic cat
        ("tabby", "golden retriever", 2 + 5),  # domestic animal; by way of carnivore 4 + 6
        ("tabby", "sports car", 6 + 8),  # whole
        (134, 517, 9 + 5),  # the bird and the machine: whole
        ("tabby", "swing", 6 + 3),  # whole
        ("swing", "hook", 1 + 1),  # mechanical device
        ("tabby", "hook", 6 + 6),  # whole: more than by way of swing, so that this is no metric
    ],
)
def test_known_distances_of_imagenet(one, other, steps):
    assert IMAGENET.distance(one, other) == steps
    assert IMAGENET.distance(other, one) == steps


def test_distances_of_imagenet_obey_the_laws():
    some = range(0, 1000, 37)
    matrix = np.array([IMAGENET.distances(i)[list(some)] for i in some])
    assert (matrix == matrix.T).all()
    assert ((matrix == 0) == np.eye(len(some), dtype=bool)).all()
    # No class of ImageNet is above another, so that any two are 2 steps apart or more.
    assert matrix[matrix > 0].min() >= 2
    assert IMAGENET.largest() == 26
    assert IMAGENET.largest("tabby") == IMAGENET.distances("tabby").max() == 18


def test_the_table_of_imagenet():
    folder = files("fwdgrad.adapters")
    lines = folder.joinpath("imagenet_hypernyms.txt").read_text(encoding="utf-8").splitlines()
    table = {node: parents for node, *parents in map(str.split, lines)}
    assert len(table) == len(lines) == 1860
    assert lines == sorted(lines)
    assert {parent for parents in table.values() for parent in parents} <= set(table)
    assert [node for node, parents in table.items() if not parents] == ["n00001740"]  # entity
    classes = folder.joinpath("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    assert {line.split("\t")[0] for line in classes} <= set(table)
    assert table["n02121808"] == ["n02121620", "n01317541"]  # domestic cat: cat, domestic animal


# Real lines of data.noun, shortened: a word count in hexadecimal (0b), pointers of other kinds,
# an instance with a pointer @i, and the licence above.
DATA_NOUN = """\
  1 This software and database is being provided to you, the LICENSEE, by
00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | that which is perceived | or known
00007846 03 n 06 person 0 individual 0 someone 0 somebody 0 mortal 0 soul 0 003 @ 00001740 n 0000 \
#m 07942152 n 0000 ~i 11022817 n 0000 | a human being; "there was too much for one person to do"
00020090 03 n 0b a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 @ 0 001 @ 00001740 n 0000 | eleven words
10428004 18 n 01 physicist 0 002 @ 00007846 n 0000 @ 00020090 n 0000 | a scientist
10954498 18 n 02 Einstein 0 Albert_Einstein 0 002 @i 10428004 n 0000 + 02934807 a 0101 | physicist
99999999 18 n 01 unwanted 0 001 @ 00001740 n 0000 | above no class
"""


def test_the_table_is_made_of_a_data_noun(tmp_path, capsys):
    nouns, synsets = tmp_path / "data.noun", tmp_path / "synsets.txt"
    nouns.write_text(DATA_NOUN)
    synsets.write_text("n10954498\nn00020090\n")
    main(str(nouns), str(synsets))
    table = capsys.readouterr().out
    assert table == (
        "n00001740\n"
        "n00007846 n00001740\n"
        "n00020090 n00001740\n"
        "n10428004 n00007846 n00020090\n"
        "n10954498 n10428004\n"
    )
    with pytest.raises(ValueError, match=r"'n12345678' is not in data\.noun; is it WordNet 3\.0's"):
        hypernym_table(read_hypernyms(DATA_NOUN.splitlines()), ["n12345678"])
    for damaged in ("00001740 03 n 01 entity 0 002 @ 00001930 n", "no noun at all", "<html>"):
        with pytest.raises(ValueError, match=r"line 1 is not of a data\.noun: "):
            read_hypernyms([damaged])


@pytest.mark.parametrize(
    "name",
    [
        282,
        np.int64(282),
        torch.tensor([282]),
        np.array(282),
        "tiger cat",
        " Tiger CAT ",
        "n02123159",
    ],
)
def test_a_class_by_number_or_name(name):
    assert IMAGENET.find(name) == 282


def test_a_class_by_all_its_names_at_once():
    assert IMAGENET.find("tench, Tinca tinca") == IMAGENET.find("Tinca tinca") == 0


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("tiger cta", ValueError, r"'tiger cta' is no class of the taxonomy; perhaps tiger cat \("),
        ("zzzzz", ValueError, r"'zzzzz' is no class of the taxonomy$"),
        ("crane", ValueError, "'crane' is the name of classes 134, 517; give the number"),
        (1000, ValueError, r"must lie in 0 \.\. 999, got 1000"),
        (-1, ValueError, r"must lie in 0 \.\. 999, got -1"),
        (True, TypeError, "must be a class's number or name, got True"),
        (2.0, TypeError, "must be a class's number or name, got 2.0"),
        (None, TypeError, "must be a class's number or name, got None"),
    ],
)
def test_an_unknown_class(name, kind, message):
    with pytest.raises(kind, match="target " + message):
        IMAGENET.distances(name)
    with pytest.raises(kind, match="second " + message):
        IMAGENET.distance(0, name)


def test_nearest_of_several_classes_of_a_name():
    assert IMAGENET.nearest(134, "crane") == IMAGENET.nearest(517, "crane") == 0
    heron = IMAGENET.find("little blue heron")
    assert IMAGENET.nearest(heron, "crane") == IMAGENET.distance(heron, 134)
    assert IMAGENET.distance(heron, 517) > IMAGENET.distance(heron, 134)
    with pytest.raises(ValueError, match="label 'tbby' is no class of the taxonomy; perhaps tabby"):
        IMAGENET.nearest(0, "tbby")


def test_a_row_is_made_once_and_kept():
    row = IMAGENET.distances("tabby")
    assert row is IMAGENET.distances(281)
    with pytest.raises(ValueError, match="read-only"):
        row[0] = 0


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list])
def test_a_matrix_is_copied(kind):
    matrix = kind([[0, 1, 2], [1, 0, 4.5], [2, 4.5, 0]])
    taxonomy = Taxonomy.from_distances(matrix, ["cat, puss", "dog", "car"])
    matrix[1][2] = matrix[2][1] = 100
    assert taxonomy.distances("dog").tolist() == [1, 0, 4.5]
    assert (taxonomy.largest(), taxonomy.largest("puss"), len(taxonomy)) == (4.5, 2, 3)
    assert Taxonomy.from_distances(matrix).find("2") == 2


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0, 1, 2], [1, 0, 3]], r"square matrix, got shape \(2, 3\)"),
        ([0, 1], r"square matrix, got shape \(2,\)"),
        (np.zeros((0, 0)), r"square matrix, got shape \(0, 0\)"),
        ([[0, np.nan], [np.nan, 0]], r"finite, got nan at \(0, 1\)"),
        ([[0, 1], [np.inf, 0]], r"finite, got inf at \(1, 0\)"),
        ([[0, -1], [-1, 0]], r">= 0, got -1.0 at \(0, 1\)"),
        ([[0, 1], [1, 0.5]], r"0 from a class to itself, got 0.5 at \(1, 1\)"),
        ([[0, 1], [2, 0]], r"symmetric, got 1.0 at \(0, 1\) and 2.0 at \(1, 0\)"),
        ([[0, 1], [1]], r"matrix of numbers, got \[\[0, 1\], \[1\]\]"),
        ("tabby", "matrix of numbers, got 'tabby'"),
    ],
)
def test_a_matrix_that_is_none_of_distances(matrix, message):
    with pytest.raises((TypeError, ValueError), match="distances must be (a )?" + message):
        Taxonomy.from_distances(matrix)


@pytest.mark.parametrize(
    ("graph", "classes", "message"),
    [
        ({"a": ["b"], "b": ["a"]}, ["a"], r"no cycle, got '[ab]' -> '[ab]' -> '[ab]'"),
        ({"a": ["a"]}, ["a"], "no cycle, got 'a' -> 'a'"),
        ({"a": ["x"], "b": ["y"]}, ["a", "b"], "one root, .*, got 2: 'x', 'y'"),
        ({"cat": ["animal"]}, ["cat", "animl"], "'animl' is no node .*; perhaps animal"),
        ({"cat": "animal"}, ["cat"], "hypernyms of 'cat' must be a list of nodes, got 'animal'"),
        ({"cat": []}, "cat", "classes must be a list of strings, got 'cat'"),
        ({"cat": []}, ["cat", 1], "classes must be a list of strings, got 1 at place 1"),
        ({"cat": []}, [], "classes must have at least one entry, got none"),
    ],
)
def test_a_graph_that_is_none_of_hypernyms(graph, classes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Taxonomy.from_hypernyms(graph, classes)


def test_labels_must_fit():
    for make in (
        lambda labels: Taxonomy.from_hypernyms({"cat": ["dog"]}, ["cat", "dog"], labels),
        lambda labels: Taxonomy.from_distances([[0, 1], [1, 0]], labels),
    ):
        assert make(["a", "b"]).find("b") == 1
        with pytest.raises(ValueError, match="labels must be 2, one for each class, got 1"):
            make(["a"])
        with pytest.raises(TypeError, match="labels must be a list of strings, got 'ab'"):
            make("ab")


def test_every_pair_of_a_graph_and_its_matrix_agree():
    graph = random_graph(7, 3)
    by_graph = Taxonomy.from_hypernyms(graph, list(graph))
    by_matrix = Taxonomy.from_distances([by_graph.distances(i) for i in range(20)], list(graph))
    for one, other in itertools.product(graph, repeat=2):
        assert by_graph.distance(one, other) == by_matrix.distance(one, other)
