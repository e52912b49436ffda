"""Which remedy mends a network that learned a marker, and does its gaze tell? One report of runs with a marker."""
