"""Portraits and speech that this project draws itself: training data whose truth is known exactly."""
