"""Which cards a build of torch has programs for, decided without torch."""


def has_programs(capability: tuple[int, ...], built_for: tuple[str, ...]) -> bool:
    """Whether a torch built for architectures such as `sm_86` and `compute_120` has programs for a card of compute
    `capability` (8, 6).

    A program for an architecture runs on every later one of the same generation (8.6 on 8.9); an intermediate one
    (`compute_...`) on every later one.
    """
    for entry in built_for:
        kind, _, number = entry.partition("_")
        digits = number.rstrip("af")
        if not digits.isdigit():
            continue
        version = (int(digits[:-1]), int(digits[-1]))
        same_generation = version[0] == capability[0] and number == digits
        if version <= capability and (kind == "compute" or same_generation):
            return True
    return False


__all__ = ["has_programs"]
