"""Values that every client must bring back as they were."""

import random


def noise(seed, size):
    """Bytes that do not compress, CR, LF and NUL among them."""
    return random.Random(seed).randbytes(size)


SIZES = [0, 1, 100, 4096, 65535, 65536, 65537, 200_000, 1_000_000]

# What the clients pickle or convert by themselves.
OBJECTS = {
    "text": "Käse, сыр, チーズ",
    "number": 2**40,
    "list": [1, "two", None, 3.5, {"four": (5, 6)}],
    "dictionary": {str(i): list(range(i)) for i in range(200)},
    "true": True,
}
