"""The noise contract's integers once more, in Python's unbounded integers."""

MASK = 2**32 - 1


def philox(counter, key):
    """Philox4x32-10: four counter words and two key words to four random words."""
    c0, c1, c2, c3 = counter
    for r in range(10):
        k0, k1 = (key[0] + r * 0x9E3779B9) & MASK, (key[1] + r * 0xBB67AE85) & MASK
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & MASK, p0 >> 32 ^ c3 ^ k1, p0 & MASK
    return c0, c1, c2, c3


def words(group, stream, sample, seed):
    """The words of a group of draws of a sample."""
    return philox((group, stream, sample & MASK, sample >> 32), (seed & MASK, seed >> 32))


def place(word, positions):
    """Uniform over 0 .. positions - 1."""
    return word * positions >> 32
