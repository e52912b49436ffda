"""What does an augmentation do to the gaze? (Dorneles et al., 2025)"""
