"""Where the two commands begin: the imports of ``gaze.cli`` too are within reach of Ctrl-C."""

from gaze.errors import clear_errors


def train() -> None:
    """``gaze-train``: train one run, or with ``-m`` a grid."""
    with clear_errors():
        from gaze import cli

        cli.train()


def analyze() -> None:
    """``gaze-analyze``: sum up runs, check one, or explain images with it."""
    with clear_errors():
        from gaze import cli

        cli.analyze()
