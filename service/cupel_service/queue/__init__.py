"""Where admitted submissions wait and are judged: one contract, in this process or over Redis."""
