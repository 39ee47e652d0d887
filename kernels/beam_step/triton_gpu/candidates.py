"""The Triton kernels that find each beam's candidates and score them.

A *row* is one beam of one user; a program takes `HEIGHT` of the `ROWS` there are. A *candidate* is
a child of a row's node; its *edge* is its place in its table (see `kernels.trie.tables`), its *key*
its score as an integer (see `triton_gpu_select`).

Blocks are `[HEIGHT, TILE]`, and what there is one of a row `[HEIGHT]`. Offsets into arrays of the
size of the logits or of a mask are 64 bits wide.
"""

# Triton's language only looks like Python; to a type checker its blocks are what they are not.
# pyrefly: ignore-errors

import triton
import triton.language as tl

from kernels.beam_step.triton_gpu.select import DEAD_NODE, INFINITY, NO_KEY, key_of, places_of_best

_LINE = tl.constexpr(128)  # Of `kernels.trie.layout`.
_BLOCK = tl.constexpr(2048)


@triton.jit
def partial_sums(
    values_ptr,
    sums_ptr,
    ROWS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """Writes the log-sum-exp of each part of each row; one program some rows and a part.

    Args:
        values_ptr: float `[ROWS, WIDTH]`.
        sums_ptr: out, float32 `[ROWS, parts]`.
        ROWS: rows in all.
        HEIGHT: rows a program.
        WIDTH: values a row.
        TILE: values a part.
    """
    row, part = _rows(HEIGHT), tl.program_id(1)
    place = part * TILE + tl.arange(0, TILE)[None, :]
    values = _load(values_ptr, row, place, (row < ROWS)[:, None] & (place < WIDTH), WIDTH)
    tl.store(sums_ptr + row * tl.num_programs(1) + part, _log_sum_exp(values), mask=row < ROWS)


@triton.jit
def mask_partial_sums(
    values_ptr,
    node_ptr,
    mask_ptr,
    sums_ptr,
    ROWS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    BY_TOKEN: tl.constexpr,
    FIRST_TOKEN: tl.constexpr,
    COLUMNS: tl.constexpr,
    NODES: tl.constexpr,
    LINES: tl.constexpr,
    TILE: tl.constexpr,
):
    """Writes the log-sum-exp of the children in each part of a mask; one program rows and a part.

    Args:
        values_ptr: float `[ROWS, WIDTH]`.
        node_ptr: int32 `[ROWS]`.
        mask_ptr: int32 `[NODES * LINES, 128]`.
        sums_ptr: out, float32 `[ROWS, parts]`.
        ROWS: rows in all.
        HEIGHT: rows a program.
        WIDTH: values a row.
        BY_TOKEN: whether a row has a value a token, or one a column.
        FIRST_TOKEN: token of column 0.
        COLUMNS: columns that may hold a child.
        NODES: nodes of the table.
        LINES: lines a node.
        TILE: columns a part.
    """
    row, part = _rows(HEIGHT), tl.program_id(1)
    node = tl.load(node_ptr + row, mask=row < ROWS, other=DEAD_NODE)
    column = part * TILE + tl.arange(0, TILE)[None, :]
    is_child = _mask_bits(mask_ptr, node, column, COLUMNS, NODES, LINES) != 0
    token = FIRST_TOKEN + column
    values = _load_children(values_ptr, row, column, token, is_child, BY_TOKEN, WIDTH)
    tl.store(sums_ptr + row * tl.num_programs(1) + part, _log_sum_exp(values), mask=row < ROWS)


@triton.jit
def row_table_candidates(
    values_ptr,
    row_sums_ptr,
    child_sums_ptr,
    normalizer_ptr,
    live_ptr,
    score_ptr,
    node_ptr,
    words_ptr,
    key_ptr,
    token_ptr,
    edge_ptr,
    ROWS: tl.constexpr,
    HEIGHT: tl.constexpr,
    NORMALIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    WHOLE: tl.constexpr,
    PARTS: tl.constexpr,
    SPAN: tl.constexpr,
    EDGES: tl.constexpr,
    DIFFERENCE_BITS: tl.constexpr,
    PLACE: tl.constexpr,
    SHIFT: tl.constexpr,
    CODE_BITS: tl.constexpr,
    TILE: tl.constexpr,
    KEPT: tl.constexpr,
):
    """Writes the candidates of rows whose nodes are in a row table; one program some rows.

    Args:
        values_ptr: float `[ROWS, WIDTH]`: logits; log-probabilities of the children with
            `NORMALIZE="none"`.
        row_sums_ptr: float32 `[ROWS, PARTS]`: the log-sum-exp of each part of a row; None where
            the row is one part.
        child_sums_ptr: see `_keys`, as all down to `score_ptr`; None.
        normalizer_ptr: as there.
        live_ptr: as there.
        score_ptr: as there.
        node_ptr: int32 `[ROWS]`.
        words_ptr: int32 `[EDGES]`: the word that holds the level.
        key_ptr: see `_store`, as the other two outputs.
        token_ptr: as there.
        edge_ptr: as there.
        ROWS: rows in all.
        HEIGHT: rows a program.
        NORMALIZE: see `_keys`.
        WIDTH: values a row.
        WHOLE: the power of two that holds `WIDTH`, or `PARTS` where there are several.
        PARTS: parts of a row.
        SPAN: see `_keys`; the most rows of the table below a node.
        EDGES: rows of the table.
        DIFFERENCE_BITS: of the level's `kernels.trie.layout.Field`, as the next three.
        PLACE: as there.
        SHIFT: as there.
        CODE_BITS: as there, `bits`.
        TILE: the power of two that holds `SPAN`.
        KEPT: see `_store`.
    """
    row = _rows(HEIGHT)
    # Loads first, so that the wait for the table hides behind the wait for the logits.
    node = tl.load(node_ptr + row, mask=row < ROWS, other=DEAD_NODE)
    whole = _load_whole(values_ptr, row_sums_ptr, row, ROWS, NORMALIZE, WIDTH, WHOLE, PARTS)
    column = tl.arange(0, TILE)[None, :]
    edge = node[:, None] + column
    known = (node >= 0) & (node < EDGES)
    inside = known[:, None] & (column < SPAN) & (edge < EDGES)
    # The rows of one node are neighbours, so that this load is one run of memory a beam.
    word = tl.load(words_ptr + edge, mask=inside, other=0)

    # A node's rows end before the next that differs from its predecessor at the node's own levels.
    difference = word & ((1 << DIFFERENCE_BITS) - 1)
    # `difference` is PLACE + 1 where a row first differs at this level, less where at one before
    # it: there another node begins. Column 0 is the node's own first row.
    ends = (difference <= PLACE) & (column > 0)
    end = tl.min(tl.where(ends, column, TILE), axis=1)
    is_child = inside & (column < end[:, None]) & ((column == 0) | (difference == PLACE + 1))
    token = (word >> SHIFT) & ((1 << CODE_BITS) - 1)
    by_token: tl.constexpr = NORMALIZE != "none"
    value = _load_children(values_ptr, row, column, token, is_child, by_token, WIDTH)
    key = _keys(
        row,
        column,
        value,
        whole,
        child_sums_ptr,
        normalizer_ptr,
        live_ptr,
        score_ptr,
        ROWS,
        NORMALIZE,
        SPAN,
        1,
    )
    _store(row, column, key, token, edge, key_ptr, token_ptr, edge_ptr, ROWS, KEPT, TILE)


@triton.jit
def mask_table_candidates(
    values_ptr,
    row_sums_ptr,
    child_sums_ptr,
    normalizer_ptr,
    live_ptr,
    score_ptr,
    node_ptr,
    mask_ptr,
    key_ptr,
    token_ptr,
    edge_ptr,
    ROWS: tl.constexpr,
    HEIGHT: tl.constexpr,
    NORMALIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    WHOLE: tl.constexpr,
    PARTS: tl.constexpr,
    SPAN: tl.constexpr,
    FIRST_TOKEN: tl.constexpr,
    COLUMNS: tl.constexpr,
    NODES: tl.constexpr,
    LINES: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    KEPT: tl.constexpr,
):
    """Writes the candidates of rows whose nodes are in a mask table; one program rows and a tile.

    Args:
        values_ptr: float `[ROWS, WIDTH]`: logits; log-probabilities of the children with
            `NORMALIZE="none"`.
        row_sums_ptr: float32 `[ROWS, PARTS]`: the log-sum-exp of each part of a row; None where
            the row is one part.
        child_sums_ptr: see `_keys`, as all down to `score_ptr`.
        normalizer_ptr: as there.
        live_ptr: as there.
        score_ptr: as there.
        node_ptr: int32 `[ROWS]`.
        mask_ptr: int32 `[NODES * LINES, 128]`.
        key_ptr: see `_store`, as the other two outputs.
        token_ptr: as there.
        edge_ptr: as there.
        ROWS: rows in all.
        HEIGHT: rows a program.
        NORMALIZE: see `_keys`.
        WIDTH: values a row.
        WHOLE: the power of two that holds `WIDTH`, or `PARTS` where there are several.
        PARTS: parts of a row.
        SPAN: see `_keys`.
        FIRST_TOKEN: token of column 0.
        COLUMNS: columns that may hold a child with a value; at most `SPAN`.
        NODES: nodes of the table.
        LINES: lines a node.
        TILE: columns a program; a multiple of 2048 where there are several tiles.
        TILES: tiles a row.
        KEPT: see `_store`.
    """
    row, tile = _rows(HEIGHT), tl.program_id(1)
    node = tl.load(node_ptr + row, mask=row < ROWS, other=DEAD_NODE)
    whole = _load_whole(values_ptr, row_sums_ptr, row, ROWS, NORMALIZE, WIDTH, WHOLE, PARTS)
    in_tile = tl.arange(0, TILE)[None, :]
    column = tile * TILE + in_tile
    bit = _mask_bits(mask_ptr, node, column, COLUMNS, NODES, LINES)

    token = FIRST_TOKEN + column
    is_child = bit != 0
    by_token: tl.constexpr = NORMALIZE != "none"
    # The row is in registers already, column for column: no second look into memory.
    at_hand: tl.constexpr = by_token and PARTS == 1 and WHOLE == TILE and FIRST_TOKEN == 0
    if at_hand:
        value = tl.where(is_child, whole, -INFINITY)
    else:
        value = _load_children(values_ptr, row, column, token, is_child, by_token, WIDTH)
    key = _keys(
        row,
        column,
        value,
        whole,
        child_sums_ptr,
        normalizer_ptr,
        live_ptr,
        score_ptr,
        ROWS,
        NORMALIZE,
        SPAN,
        TILES,
    )

    # A node's children are numbered one after the other, so their order in the tile says the rest.
    known = (node >= 0) & (node < NODES)
    # A tile starts where a line does: there is one, or it is a multiple of a line's tokens. For a
    # dead beam's node nothing is read.
    line = node.to(tl.int64) * LINES + tile * TILE // _BLOCK
    low = tl.load(mask_ptr + line * _LINE, mask=known, other=0)
    high = tl.load(mask_ptr + line * _LINE + 1, mask=known, other=0)
    # The upper halves of the first two words of a line: the edge of its first child. The shift is
    # arithmetic, so the lower half's sign is masked off; the upper half's is shifted out.
    base = ((low >> 16) & 0xFFFF) + ((high >> 16) << 16)
    edge = base[:, None] + tl.cumsum(bit, axis=1) - bit

    # The tiles of a row are written as rows of their own.
    out_row = row * TILES + tile
    out_rows: tl.constexpr = ROWS * TILES
    _store(out_row, in_tile, key, token, edge, key_ptr, token_ptr, edge_ptr, out_rows, KEPT, TILE)


@triton.jit
def _rows(HEIGHT: tl.constexpr):
    """Returns the rows of a program."""
    return tl.program_id(0) * HEIGHT + tl.arange(0, HEIGHT)


@triton.jit
def _load(values_ptr, row, place, mask, WIDTH: tl.constexpr):
    """Returns values of rows in float32; -inf, which adds nothing to a sum, where masked."""
    values_ptr += row.to(tl.int64)[:, None] * WIDTH
    return tl.load(values_ptr + place, mask=mask, other=-INFINITY).to(tl.float32)


@triton.jit
def _load_children(
    values_ptr,
    row,
    column,
    token,
    is_child,
    BY_TOKEN: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Returns the values of the rows' children; -inf where there is no child, or no value of it.

    A row has a value a token, or, without `BY_TOKEN`, one a column.
    """
    # A token past the row's end has no logit.
    place = token if BY_TOKEN else column
    return _load(values_ptr, row, place, is_child & (place < WIDTH), WIDTH)


@triton.jit
def _load_whole(
    values_ptr,
    row_sums_ptr,
    row,
    ROWS: tl.constexpr,
    NORMALIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    WHOLE: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Returns `WHOLE` values a row whose log-sum-exp is the row's: logits, or its parts' sums.

    With `NORMALIZE="none"` there is no such thing, and nobody looks at it.
    """
    place = tl.arange(0, WHOLE)[None, :]
    there = (row < ROWS)[:, None]
    if NORMALIZE == "none":
        return row
    elif row_sums_ptr is not None:
        return _load(row_sums_ptr, row, place, there & (place < PARTS), PARTS)
    else:
        return _load(values_ptr, row, place, there & (place < WIDTH), WIDTH)


@triton.jit
def _mask_bits(
    mask_ptr,
    node,
    column,
    COLUMNS: tl.constexpr,
    NODES: tl.constexpr,
    LINES: tl.constexpr,
):
    """Returns which columns of each node hold a child: int32, 0 or 1."""
    mask_ptr += node.to(tl.int64)[:, None] * (LINES * _LINE)
    # Token first + 2048 b + 128 c + lane is bit c of word `lane` of line b (see `MaskTable`):
    # neighbouring tokens are neighbouring words, and 128 of them share a bit's place.
    place = column // _BLOCK * _LINE + column % _LINE
    known = ((node >= 0) & (node < NODES))[:, None] & (column < COLUMNS)
    word = tl.load(mask_ptr + place, mask=known, other=0)
    return (word >> (column % _BLOCK // _LINE)) & 1


@triton.jit
def _log_sum_exp(values):
    """Returns the log-sum-exp of each row.

    Finite if and only if the row holds a finite value, and neither NaN nor `+inf`: so it also says
    whether a row is sound. Of nothing but `-inf` it is `-inf`.
    """
    largest = tl.max(values, axis=1)
    # -inf - -inf would be NaN where a row holds nothing else. NaN and +inf are not subtracted but
    # summed, and so come out, whatever a maximum makes of NaN.
    shift = tl.where(tl.abs(largest) < INFINITY, largest, 0.0)
    return shift + tl.log(tl.sum(tl.exp(values - shift[:, None]), axis=1))


@triton.jit
def _keys(
    row,
    column,
    value,
    whole,
    child_sums_ptr,
    normalizer_ptr,
    live_ptr,
    score_ptr,
    ROWS: tl.constexpr,
    NORMALIZE: tl.constexpr,
    SPAN: tl.constexpr,
    TILES: tl.constexpr,
):
    """Returns the keys of a tile of the rows' children; `NO_KEY` for what is not a candidate.

    Args:
        row: int32 `[HEIGHT]`.
        column: int32 `[1, TILE]`: columns of the rows' children.
        value: float32 `[HEIGHT, TILE]`: logits or log-probabilities of the children, -inf where
            there is no child.
        whole: from `_load_whole`.
        child_sums_ptr: float32 `[ROWS, TILES]`, the log-sum-exp of each tile's children; None
            where there is one tile, or where no sum over the children is needed.
        normalizer_ptr: float32 `[ROWS]`, for `NORMALIZE="given"`; else None.
        live_ptr: bool `[ROWS, SPAN]`; None where all are live.
        score_ptr: float32 `[ROWS]`: the parents' scores.
        ROWS: rows in all.
        NORMALIZE: `"vocab"`, `"children"`, `"given"`; or `"none"`: the values are
            log-probabilities.
        SPAN: columns of a row's children.
        TILES: tiles a row.
    """
    there = row < ROWS
    parent_score = tl.load(score_ptr + row, mask=there, other=-INFINITY)

    if NORMALIZE == "children" or NORMALIZE == "none":
        if child_sums_ptr is not None:
            parts: tl.constexpr = triton.next_power_of_2(TILES)
            part = tl.arange(0, parts)[None, :]
            mask = there[:, None] & (part < TILES)
            children = _log_sum_exp(_load(child_sums_ptr, row, part, mask, TILES))
        else:
            children = _log_sum_exp(value)
    if NORMALIZE == "none":
        # NaN or +inf among the children's values breaks the beam; -inf, of a node without children,
        # does as well, and there is nothing to lose.
        checked = children
        log_prob = value
    else:
        # Whatever normalises, a broken row kills its beam: this is how it shows.
        checked = _log_sum_exp(whole)
        if NORMALIZE == "vocab":
            normalizer = checked
        elif NORMALIZE == "children":
            normalizer = children
        else:
            normalizer = tl.load(normalizer_ptr + row, mask=there, other=0.0)
        # Then parent + (logit - normaliser), in the order that the public function promises; no
        # fused operation may change the rounding (see `triton_launch`).
        log_prob = value - normalizer[:, None]

    # A parent or a normaliser that is not finite makes no score finite, so one test covers all.
    parent_score = tl.where(tl.abs(checked) < INFINITY, parent_score, -INFINITY)
    score = parent_score[:, None] + log_prob
    # False for NaN, too.
    candidate = tl.abs(score) < INFINITY
    if live_ptr is not None:
        live_ptr += row.to(tl.int64)[:, None] * SPAN
        candidate = candidate & (tl.load(live_ptr + column, mask=candidate, other=0) != 0)
    return tl.where(candidate, key_of(score), NO_KEY)


@triton.jit
def _store(
    row,
    column,
    key,
    token,
    edge,
    key_ptr,
    token_ptr,
    edge_ptr,
    ROWS: tl.constexpr,
    KEPT: tl.constexpr,
    TILE: tl.constexpr,
):
    """Writes a tile's candidates: all columns, or, where they are more than `KEPT`, the best.

    Either way they lie in the order of their tokens.

    Args:
        row: int32 `[HEIGHT]`.
        column: int32 `[1, TILE]`: `0 … TILE-1`.
        key: int32 `[HEIGHT, TILE]`.
        token: int32 `[HEIGHT or 1, TILE]`.
        edge: int32 `[HEIGHT, TILE]`.
        key_ptr: out, int32 `[ROWS, KEPT]`, `NO_KEY` where there are fewer.
        token_ptr: out, int32 `[ROWS, KEPT]`; anything where there are fewer.
        edge_ptr: out, int32 `[ROWS, KEPT]`; anything where there are fewer.
        ROWS: rows in all.
        KEPT: candidates written.
        TILE: candidates given; all of them are written if this is `KEPT` rounded up.
    """
    there = (row < ROWS)[:, None]
    start = row.to(tl.int64)[:, None] * KEPT
    key_ptr += start
    token_ptr += start
    edge_ptr += start
    # Few columns are written as they are: finding the best would take longer than passing the
    # others on.
    everything: tl.constexpr = triton.next_power_of_2(KEPT) == TILE
    if everything:
        place = column
    else:
        place, number = places_of_best(key, KEPT)
        left: tl.constexpr = triton.next_power_of_2(KEPT)
        behind = tl.arange(0, left)[None, :]
        nothing = tl.full([1, left], NO_KEY, tl.int32)
        mask = there & (behind >= number[:, None]) & (behind < KEPT)
        tl.store(key_ptr + behind, nothing, mask=mask)
    mask = there & (place < KEPT)
    tl.store(key_ptr + place, key, mask=mask)
    tl.store(token_ptr + place, token, mask=mask)
    tl.store(edge_ptr + place, edge, mask=mask)
