"""Lightning's progress bar, and what a log gets in its place."""

import sys
from typing import Any

from lightning.pytorch.callbacks import TQDMProgressBar

from cgfe.progress import Bar


def progress_bar() -> TQDMProgressBar:
    """Return Lightning's bar, or `LogProgressBar` where the output is no terminal."""
    return (TQDMProgressBar if sys.stdout.isatty() else LogProgressBar)(refresh_rate=10)


class LogProgressBar(TQDMProgressBar):
    """A line every half minute, and one when training, validation alone, or a test ends."""

    def init_sanity_tqdm(self) -> Any:
        """Return the bar of the validation before training."""
        return self._bar(self.sanity_check_description, leave=False)

    def init_train_tqdm(self) -> Any:
        """Return the bar of all epochs."""
        return self._bar(self.train_description)

    def init_validation_tqdm(self) -> Any:
        """Return the bar of a validation, which within a fit is one of many."""
        return self._bar(self.validation_description, leave=self.trainer.state.fn == "validate")

    def init_test_tqdm(self) -> Any:
        """Return the bar of a test."""
        return self._bar(self.test_description)

    def init_predict_tqdm(self) -> Any:
        """Return the bar of predictions."""
        return self._bar(self.predict_description)

    def _bar(self, description: str, leave: bool = True) -> Bar:
        return Bar(
            desc=description,
            disable=self.is_disabled,
            leave=leave,
            file=sys.stdout,
            bar_format=self.BAR_FORMAT,
        )
