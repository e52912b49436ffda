"""Train one run, or with ``-m`` a grid: ``python train.py -m model=level1,level2 lambda=0,50``."""

from gaze.start import train

if __name__ == "__main__":
    train()
