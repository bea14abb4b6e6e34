"""Progress bars: shown where someone looks, silent under CI, text on request."""

import pytest

from ismkit.utils.progress import progress_bar


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("ISMKIT_PROGRESS", raising=False)


@pytest.mark.parametrize("kind", ["", "text"])
def test_counts_what_it_passes_on_and_writes_the_label(kind, monkeypatch, capsys):
    monkeypatch.setenv("ISMKIT_PROGRESS", kind)
    assert list(progress_bar(range(7), desc="sevens", unit="thing")) == list(range(7))
    written = capsys.readouterr().err
    assert "sevens" in written
    assert "7/7" in written


def test_ci_is_silent_unless_asked(monkeypatch, capsys):
    monkeypatch.setenv("CI", "true")
    assert list(progress_bar(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert list(progress_bar(range(3), show=True)) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err


def test_show_false_is_silent_and_the_bar_still_counts(capsys):
    with progress_bar(show=False, total=5) as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_text_bar_is_no_widget_and_slow_to_repeat_itself(monkeypatch):
    import tqdm.std

    monkeypatch.setenv("ISMKIT_PROGRESS", "text")
    with progress_bar(total=5, show=True) as bar:
        assert type(bar) is tqdm.std.tqdm
        assert bar.mininterval >= 5
