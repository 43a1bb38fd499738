"""The figure, looked at as matplotlib's objects."""

from matplotlib.figure import Figure

from sim.plots import speedup_by_framework


def row(speedup, bound, interval=None):
    return {"speedup": speedup, "speedup_ci95": interval, "bound": bound, "workflows": 2}


def figure(**frameworks):
    policies = {"sequential": {name: row(1, 1) for name in frameworks}, "async": frameworks}
    axes = speedup_by_framework(Figure().subplots(), policies, "sequential", "bound when alone: work / span")
    axes.figure.draw_without_rendering()
    return axes


def legend(axes):
    return axes.get_legend_handles_labels()[1]


def test_the_legend_says_what_the_line_and_the_interval_are():
    assert sorted(legend(figure(A=row(1.5, 2.0)))) == [
        "95 % interval over workflows (their bounds differ)",
        "async",
        "bound when alone: work / span",
    ]


def test_without_a_bound_none_is_drawn():
    axes = figure(A=row(1.5, None))
    assert sorted(legend(axes)) == ["95 % interval over workflows", "async"]
    assert not any("bound" in text.get_text() for text in axes.texts)


def test_no_number_stands_on_the_mark_of_a_bound():
    bounds = {"near": 2.05, "equal": 2.0, "inside": 2.2, "far": 3.0}
    axes = figure(**{name: row(2.0, bound, (1.8, 2.3 if name == "inside" else 2.0)) for name, bound in bounds.items()})
    numbers = [text for text in axes.texts if text.get_text() == "2.00"]
    for number, bound in zip(numbers, bounds.values(), strict=True):
        box = number.get_window_extent().transformed(axes.transData.inverted())
        assert not box.x0 <= bound <= box.x1


def test_a_dollar_is_a_dollar():
    assert figure(**{"$\\no$": row(1.0, 1.0)}).get_yticklabels()[0].get_text() == "\\$\\no\\$\n2 workflows"
