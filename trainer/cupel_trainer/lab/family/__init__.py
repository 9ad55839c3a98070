"""The lab's problems: an easy part, where fast and right is within reach, and a hard part.

Every problem reads one number n. A *slow* program does what the statement says, n times. A *fast*
one has a formula. On easy problems all that the formula needs stands in the statement. On hard ones
it needs a constant that has to be derived (an inverse, a common divisor, the length of a cycle):
a tiny model can only guess it among a few, so that most of its fast attempts are wrong, while the
slow program needs no such constant.
"""
