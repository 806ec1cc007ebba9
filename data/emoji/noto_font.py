"""Rewrites Noto Color Emoji without the one operation that resvg lacks.

An emoji in a COLRv1 font is a tree of paints. In three hundred emoji, including all flags, a paint is composed by
"source in backdrop" (`SRC_IN`), which resvg renders as "source over backdrop": a flag on a grey box, a lizard in the
dark. It occurs in two forms, and both can be written with paints that resvg supports:

    source in a solid color of alpha a    ->  the source with every alpha multiplied by a
    gradient in a drawing                 ->  the glyphs of the drawing, filled with the gradient

The table and its formats: https://learn.microsoft.com/typography/opentype/spec/colr
"""

import struct
from collections.abc import Iterator

_LAYERS, _SOLID, _GLYPH, _COLR_GLYPH, _TRANSFORM, _TRANSLATE, _COMPOSITE = 1, 2, 10, 11, 12, 14, 32
_SRC_OVER, _SRC_IN = 3, 5
_GRADIENTS = {4: 16, 6: 16, 8: 12}
"""Linear, radial and sweep gradients: bytes of the paint. It begins with its format and the offset of its color
line."""
_MOVES = {12: 7, 14: 8, 16: 8, 18: 12, 20: 6, 22: 10, 24: 6, 26: 10, 28: 8, 30: 12}
"""Transform, translate, scale, rotate and skew: bytes of the paint. It begins with its format and its child's
offset."""


def without_src_in(font: bytes) -> bytes:
    """The font with each `SRC_IN` replaced as described above. Nothing else changes."""
    tables = struct.unpack_from(">H", font, 4)[0]
    entry = next(12 + 16 * i for i in range(tables) if font[12 + 16 * i : 16 + 16 * i] == b"COLR")
    start, length = struct.unpack_from(">II", font, entry + 8)
    colr = _Colr(font[start : start + length])
    colr.replace_all()
    patched = bytearray(font) + bytes(-len(font) % 4)
    struct.pack_into(">II", patched, entry + 8, len(patched), len(colr.data))
    return bytes(patched + colr.data)


class _Colr:
    """A COLR table that can grow at its end. A paint is identified by its offset in the table."""

    def __init__(self, table: bytes) -> None:
        self.data = bytearray(table)
        glyphs, layers = struct.unpack_from(">II", table, 14)
        self.layers = [layers + offset for offset in struct.unpack_from(f">{self._int(layers)}I", table, layers + 4)]
        records = struct.iter_unpack(">HI", table[glyphs + 4 : glyphs + 4 + 6 * self._int(glyphs)])
        self.glyphs = {glyph: glyphs + offset for glyph, offset in records}

    def replace_all(self) -> None:
        """Overwrites every `SRC_IN` by a translation by zero of its replacement, which has the same size."""
        found = [paint for paint in self._reachable() if self._is_src_in(paint)]
        for paint in found:
            new = self._without_src_in(paint)
            self.data[paint : paint + 8] = bytes([_TRANSLATE, *bytes(7)])
            self._point(paint, 1, new)

    def _without_src_in(self, paint: int, opacity: float = 1, fill: int | None = None) -> int:
        source, backdrop = self._child(paint, 1), self._child(paint, 5)
        if self.data[backdrop] == _SOLID:
            return self._copy(source, opacity * self._alpha(backdrop + 3), fill)
        return self._copy(backdrop, opacity, fill or source)

    def _copy(self, paint: int, opacity: float = 1, fill: int | None = None) -> int:
        """Appends a copy of a paint and its children: every alpha multiplied by `opacity`, every glyph filled with
        `fill`."""
        kind = self.data[paint]
        if kind == _LAYERS:
            return self._stack(self._layers_of(paint), opacity, fill)
        if kind == _COLR_GLYPH:
            return self._copy(self.glyphs[struct.unpack_from(">H", self.data, paint + 1)[0]], opacity, fill)
        if self._is_src_in(paint):
            return self._without_src_in(paint, opacity, fill)
        if kind == _SOLID:
            return self._append(self.data[paint : paint + 3] + self._scaled(paint + 3, opacity))
        if kind in _GRADIENTS:
            new = self._append(self.data[paint : paint + _GRADIENTS[kind]])
            self._point(new, 1, self._copy_color_line(self._child(paint, 1), opacity))
        elif kind == _GLYPH:
            new = self._append(self.data[paint : paint + 6])
            self._point(new, 1, self._copy(fill or self._child(paint, 1), opacity))
        elif kind in _MOVES:
            new = self._append(self.data[paint : paint + _MOVES[kind]])
            self._point(new, 1, self._copy(self._child(paint, 1), opacity, fill))
            if kind == _TRANSFORM:
                matrix = self._child(paint, 4)
                self._point(new, 4, self._append(self.data[matrix : matrix + 24]))
        else:
            raise ValueError(f"paint format {kind}: this is not the font that the emoji corpus is made of")
        return new

    def _stack(self, paints: list[int], opacity: float, fill: int | None) -> int:
        """Copies of paints, the last on top, as a tree of composites. The list of layers cannot grow."""
        if len(paints) == 1:
            return self._copy(paints[0], opacity, fill)
        half = len(paints) // 2
        new = self._append(bytes([_COMPOSITE, 0, 0, 0, _SRC_OVER, 0, 0, 0]))
        self._point(new, 1, self._stack(paints[half:], opacity, fill))
        self._point(new, 5, self._stack(paints[:half], opacity, fill))
        return new

    def _copy_color_line(self, line: int, opacity: float) -> int:
        stops = struct.unpack_from(">H", self.data, line + 1)[0]
        copied = self.data[line : line + 3]
        for stop in range(line + 3, line + 3 + 6 * stops, 6):
            copied += self.data[stop : stop + 4] + self._scaled(stop + 4, opacity)
        return self._append(copied)

    def _reachable(self) -> Iterator[int]:
        waiting, seen = list(self.glyphs.values()), set[int]()
        while waiting:
            paint = waiting.pop()
            if paint not in seen:
                seen.add(paint)
                waiting += self._children(paint)
                yield paint

    def _children(self, paint: int) -> list[int]:
        kind = self.data[paint]
        if kind == _LAYERS:
            return self._layers_of(paint)
        if kind == _COMPOSITE:
            return [self._child(paint, 1), self._child(paint, 5)]
        return [self._child(paint, 1)] if kind == _GLYPH or kind in _MOVES else []

    def _layers_of(self, paint: int) -> list[int]:
        first = self._int(paint + 2)
        return self.layers[first : first + self.data[paint + 1]]

    def _is_src_in(self, paint: int) -> bool:
        return self.data[paint] == _COMPOSITE and self.data[paint + 4] == _SRC_IN

    def _append(self, paint: bytes | bytearray) -> int:
        self.data += paint
        return len(self.data) - len(paint)

    def _point(self, paint: int, field: int, target: int) -> None:
        self.data[paint + field : paint + field + 3] = (target - paint).to_bytes(3)

    def _child(self, paint: int, field: int) -> int:
        return paint + int.from_bytes(self.data[paint + field : paint + field + 3])

    def _int(self, at: int) -> int:
        return int.from_bytes(self.data[at : at + 4])

    def _alpha(self, at: int) -> float:
        return float(struct.unpack_from(">h", self.data, at)[0] / 2**14)

    def _scaled(self, at: int, opacity: float) -> bytes:
        return struct.pack(">h", round(self._alpha(at) * opacity * 2**14))
