"""Runs to tables, figures and a report: ``python analyze.py``; ``check=RUN`` and ``explain=RUN`` look at one run."""

from gaze.start import analyze

if __name__ == "__main__":
    analyze()
