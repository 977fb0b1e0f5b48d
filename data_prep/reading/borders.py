"""Where a stream of text can be cut: ends of lines, of paragraphs, of pages."""

import re

from data_prep.reading.unpacking import MIB

LARGEST_GAP = 1024 * MIB  # bytes without a border between documents, after which the file is not what it seems
LINE_END, BLANK_LINE = re.compile(rb"\n"), re.compile(rb"\n[ \t\r]*\n")
PAGE_END = re.compile(rb"</page>")


class Borders:
    """Where slices begin: at the first end of a record at least `step` bytes after the last one.

    With `lines`, slices begin only where the number of lines before them is a multiple of it.
    """

    def __init__(self, separator: re.Pattern[bytes], step: int, lines: int = 1) -> None:
        self.found = [(0, 1)]  # (offset, number of the line that begins there)
        self.position = 0
        self._separator = separator
        self._step = step
        self._multiple = lines
        self._lines = 0  # ends of lines before `position`
        self._open = b""  # what the last chunk ends with and a separator may begin with
        self._blank_from = 0  # of the end of a line that blanks alone follow: its place

    def feed(self, chunk: bytes) -> bool:
        """The next bytes; False where no record has ended for too long."""
        if self._separator is BLANK_LINE and self._blank_from < self.found[-1][0] + self._step:
            self._open = b""  # it stands before the place where a border is looked for
        text = self._open + chunk
        base = self.position - len(self._open)
        wanted = 0
        while True:
            wanted = max(wanted, self.found[-1][0] + self._step - base)
            match = self._separator.search(text, wanted) if wanted < len(text) else None
            if match is None:
                break
            line = self._lines + chunk.count(b"\n", 0, match.end() - len(self._open)) + 1
            wanted = match.end()
            if (line - 1) % self._multiple == 0:
                self.found.append((base + match.end(), line))
        self._lines += chunk.count(b"\n")
        self.position += len(chunk)
        if self._separator is BLANK_LINE:
            kept = chunk.rstrip(b" \t\r")
            if kept:  # else its blanks only prolong those before, which are not kept
                self._open = b"\n" if kept.endswith(b"\n") else b""
                self._blank_from = self.position - len(chunk) + len(kept) - 1
        elif self._separator is PAGE_END:
            self._open = text[-len(b"</page") :]
        return self.position - self.found[-1][0] <= self._step + LARGEST_GAP
