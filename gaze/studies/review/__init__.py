"""What experts say of a run's gaze: a page on this machine, and a file of their answers."""
