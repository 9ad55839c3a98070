"""The service: queue, judge, checkers, problem store and rewards behind an HTTP API."""
