"""A stranger's text, made safe to store and to show."""


def has_control(text: str) -> bool:
    """Whether it has characters that are none to be seen, such as those that move a cursor."""
    return any(ord(character) < 32 or ord(character) == 127 for character in text)


def shown(text: str, chars: int) -> str:
    """Cut to so many characters; what databases and terminals cannot hold becomes �."""
    # Halves of UTF-16's pairs are no text on their own.
    whole = text[:chars].encode("utf-8", "replace").decode()
    return "".join("�" if has_control(c) and c not in "\n\t" else c for c in whole)
