"""Is the gaze of one run faithful?"""
