"""What `cgfe fit --help` says."""

import re

import pytest

from cgfe.cli import main

OURS = "run_dir|data|model|free_energy|checkpoint|seed"
KEY = re.compile(rf"^  (--(?:{OURS})\S*)(.*\n(?: {{6,}}.*\n)*)", re.MULTILINE)
NO_WORDS = re.compile(
    r"(?: (?:\{[^}]*\}|[A-Z_.\[\]]+))?(?:, --\S+ \S+)?\s*(?:\((?:type|required|default)|$)"
)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The help of `cgfe fit`, as `python -m cgfe` prints it."""
    monkeypatch.setattr("sys.argv", ["/somewhere/cgfe/__main__.py", "fit", "--help"])
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    return capsys.readouterr().out


def test_every_key_of_ours_has_words(printed: str) -> None:
    found = KEY.findall(printed)
    assert len(found) > 50
    assert not [key for key, rest in found if NO_WORDS.match(" " + " ".join(rest.split()))]


def test_the_program_is_called_by_its_name(printed: str) -> None:
    assert printed.startswith("usage: cgfe ")
    assert "__main__" not in printed


def test_the_keys_of_the_losses_are_named(printed: str) -> None:
    text = " ".join(printed.split())
    for words in ("{energy_weight: 0.0, force_weight", "{weight: 1.0, gauge: fixed, weighted"):
        assert words in text
