"""What ``analyze.py`` does: one room a study; what the rooms share stands here."""
