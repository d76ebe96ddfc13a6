"""The regression suite: bad cases that people confirmed, on which every later model is judged for good."""
