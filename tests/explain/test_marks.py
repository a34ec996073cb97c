"""Marks on a picture: borders that do not cross themselves, and numbers beside their places."""

import numpy as np
import pytest
import torch

from fwdgrad.marks import draw_numbers, draw_outline

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.path import Path


def axes(side=4.0, shape=(224, 224)):
    figure = Figure(figsize=(side, side), dpi=100)
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(np.full((*shape, 3), 128, np.uint8))
    return ax


def borders(part, line):
    ax = axes(shape=part.shape)
    draw_outline(ax, part, line)
    return [path.vertices for path in ax.collections[-1].get_paths()]


def holds(lines, x, y):
    """Whether a point is inside, by the even-odd rule."""
    return sum(Path(one).contains_point((x, y)) for one in lines) % 2 == 1


def crosses_itself(line):
    """Whether any two pieces of a closed line do."""
    start, way = line[:-1], np.diff(line, axis=0)

    def side(at):  # of each point, of each piece
        return np.sign(way[:, None, 0] * (at[None, :, 1] - start[:, None, 1])
                       - way[:, None, 1] * (at[None, :, 0] - start[:, None, 0]))  # fmt: skip

    apart = side(start) * side(start + way) < 0
    return bool((apart & apart.T).any())


CORNERS = torch.zeros(224, 224, dtype=torch.bool)
CORNERS[80:89, 80:89] = CORNERS[89:98, 89:98] = CORNERS[80:89, 98:107] = True


@pytest.mark.parametrize(("line", "pieces"), [("-", 1), ("--", 3)])
def test_cells_that_touch_at_corners(line, pieces):
    found = borders(CORNERS, line)
    assert len(found) == pieces
    assert not any(crosses_itself(one) for one in found)
    for row, column in ((84, 84), (93, 93), (84, 102)):
        assert holds(found, column, row)
    for row, column in ((84, 93), (93, 84), (93, 102), (75, 84)):  # between them and beside
        assert not holds(found, column, row)
    assert holds(found, 88.5, 88.5) == (line == "-")  # the corner itself


def test_a_solid_line_lies_outside_and_a_dashed_one_inside():
    square = torch.zeros(224, 224, dtype=torch.bool)
    square[60:160, 60:160] = True
    for line, low, high in (("-", 57, 59.3), ("--", 59.7, 62)):
        (found,) = borders(square, line)
        assert low < found[:, 0].min() < high  # the border is at 59.5
        assert 219 - high < found[:, 0].max() < 219 - low


@pytest.mark.parametrize("line", ["-", "--"])
@pytest.mark.parametrize("shape", [(224, 224), (28, 28), (4, 6), (500, 700)])
def test_no_piece_is_lost(line, shape):
    part = torch.zeros(shape, dtype=torch.bool)
    part[1, 2] = True  # a pixel
    part[-3:, -3:] = True  # in the corner
    found = borders(part, line)
    assert holds(found, 2, 1)
    assert holds(found, shape[1] - 2, shape[0] - 2)
    at = np.concatenate(found)
    assert (at >= -0.5).all()
    assert (at <= (shape[1] - 0.5, shape[0] - 0.5)).all()


def test_a_slit_is_closed_and_a_hole_is_not():
    part = torch.zeros(224, 224, dtype=torch.bool)
    part[50:150, 50:150] = True
    part[50:120, 99:102] = False  # three pixels wide
    part[120:140, 60:80] = False
    found = borders(part, "-")
    assert len(found) == 2
    assert not holds(found, 70, 130)


def numbered(places, strength, size=9.0, side=4.0):
    ax = axes(side, strength.shape)
    draw_numbers(ax, places, strength, size=size)
    ax.figure.canvas.draw()
    dots = [ax.transData.transform(at[:2]) for at in places]
    # Of the words alone, not of the line to the dot, too.
    boxes = [text.get_bbox_patch().get_window_extent() for text in ax.texts]
    return ax, dots, boxes


@pytest.mark.parametrize("side", [1.6, 4.0])
def test_no_number_covers_a_place_or_another_number(side):
    places = [(0, 0, "1: +0.1"), (223, 223, "2: −0.2"), (112, 100, "3: +0.3"), (120, 104, "4: −1")]
    ax, dots, boxes = numbered(places, torch.rand(224, 224), side=side)
    for i, box in enumerate(boxes):
        assert not any(box.contains(*dot) for dot in dots)
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert ax.bbox.x0 <= box.x0 < box.x1 <= ax.bbox.x1
        assert ax.bbox.y0 <= box.y0 < box.y1 <= ax.bbox.y1
    assert [text.arrowprops["arrowstyle"] for text in ax.texts] == ["-"] * 4


def test_a_number_stands_where_little_is_drawn():
    strength = torch.zeros(224, 224)
    strength[:, 100:] = -1.0  # all to the right, where a number would stand else
    _, (dot,), (box,) = numbered([(104, 112, "1: −0.5")], strength)
    assert box.x1 < dot[0]
    _, (dot,), (box,) = numbered([(104, 112, "1: −0.5")], torch.zeros(224, 224))
    assert box.x0 > dot[0]
