/* Rows of keys or values, packed channel by channel, in a ring of as many as a block needs.
 *
 * A packed row is [channel][column], from the first key that the strip's first query sees to the
 * last that its last one sees, zero outside the map. So the keys of a plain tile at tap t are one
 * vector, a load at offset t. In the other tiles the products permute the lanes of what they load,
 * which costs less than packing each tap apart. Where something is masked, one more channel holds
 * what is added to the logits: 0 or -inf.
 */
#ifndef FOVEATE_LOCAL_PACK_H
#define FOVEATE_LOCAL_PACK_H

#include "map.h"

typedef struct {
  const fv_map *map;
  fv_planes planes;
  int dim, channels; /* channels: dim, and one more for a mask */
  const uint8_t *key_mask;
  ptrdiff_t mask_row, mask_column;
  float outside;            /* the mask channel's value outside the map */
  float *ring;              /* one more row than `rows`: zeros */
  int rows, packed;         /* of the ring; the first row not yet packed */
  ptrdiff_t line, row_size; /* floats from a channel to the next, from a row to the next */
  int origin;               /* the column that a line starts with */
  int begin, end;           /* the line's part inside the map; the rest of the ring is zero there */
} fv_pack;

/* Floats of a channel of a packed row: an odd number of vectors, so that the channels of one
 * column do not meet in few sets of the cache.
 */
FV_INLINE ptrdiff_t line_floats(int tiles, int64_t kernel_w) {
  return (((ptrdiff_t)tiles * L + kernel_w - 1 + L - 1) / L | 1) * L;
}

FV_INLINE int ring_rows(const fv_arguments *a) { return (int)a->kernel_h + ROWS - 1; }

FV_INLINE void pack_start(fv_pack *p, const fv_map *m, fv_planes planes) {
  const int last = column_start(m, m->tile_end * L - 1) + m->kernel_w;
  p->map = m;
  p->planes = planes;
  p->packed = -m->kernel_h;
  p->origin = column_start(m, m->tile_begin * L);
  const int begin = p->origin < 0 ? -p->origin : 0;
  const int end = (last < m->key_width ? last : m->key_width) - p->origin;
  if (begin == p->begin && end == p->end) return;
  memset(p->ring, 0, (size_t)((p->rows + 1) * p->row_size) * sizeof(float));
  p->begin = begin;
  p->end = end;
}

static void pack_mask(const fv_pack *p, int row, float *to) {
  for (ptrdiff_t i = 0; i < p->line; ++i) to[i] = p->outside;
  for (int i = p->begin; i < p->end; ++i)
    to[i] = !p->key_mask || p->key_mask[row * p->mask_row + (p->origin + i) * p->mask_column]
                ? 0.f
                : -INFINITY;
}

/* What a masked key holds must not matter, not even a NaN: it is zero. */
static void clear_masked(const fv_pack *p, int row, float *to) {
  for (int i = p->begin; i < p->end; ++i)
    if (!p->key_mask[row * p->mask_row + (p->origin + i) * p->mask_column])
      for (int c = 0; c < p->dim; ++c) to[c * p->line + i] = 0.f;
}

/* Columns narrower than a vector: it reaches beyond them, where there must be zeros. */
static void clear_beyond(const fv_pack *p, float *to) {
  for (int c = 0; c < p->dim; ++c)
    for (int i = p->end; i < p->begin + L; ++i) to[c * p->line + i] = 0.f;
}

static void pack_row(const fv_pack *p, int row) {
  const fv_plane *plane = &p->planes.here;
  const char *from = plane->data + row * plane->row;
  float *to = p->ring + (row % p->rows) * p->row_size;
  for (int begin = p->begin; begin < p->end; begin += L) {
    /* The last columns overlap those before, if there are enough for a vector at all. */
    int i = begin + L <= p->end ? begin : p->end - L;
    if (i < p->begin) i = p->begin;
    const char *lanes[L];
    for (int j = 0; j < L; ++j) {
      const int column = i + j < p->end ? i + j : p->end - 1;
      lanes[j] = from + (p->origin + column) * plane->column;
    }
    fv_gather(plane->storage, lanes, to + i, p->line, p->dim, 1.f);
  }
  if (p->end - p->begin < L) clear_beyond(p, to);
  if (p->key_mask) clear_masked(p, row, to);
  if (p->channels > p->dim) pack_mask(p, row, to + p->dim * p->line);
}

/* Have the rows [begin, end) packed; calls go forward through the map. */
static void pack_rows(fv_pack *p, int begin, int end) {
  if (begin < 0) begin = 0;
  if (end > p->map->key_height) end = p->map->key_height;
  if (p->packed < begin) p->packed = begin;
  for (; p->packed < end; ++p->packed) pack_row(p, p->packed);
}

FV_INLINE bool row_outside(const fv_map *m, int key_row) {
  return key_row < 0 || key_row >= m->key_height;
}

/* Which row of the ring holds a key row; its last one, zeros, stands for those outside. */
FV_INLINE int packed_place(const fv_pack *p, int row) {
  return row_outside(p->map, row) ? p->rows : row % p->rows;
}

/* The keys of a row of the ring from a tile's first on. */
FV_INLINE const float *packed_tile(const fv_pack *p, int place, int tile) {
  return p->ring + place * p->row_size + column_start(p->map, tile * L) - p->origin;
}

/* Of a tile's columns, and what its strip sees beside it, the rows that are packed next, where
 * `row` is the first: ROWS of them, or in two halves all that the next map begins with, when the
 * queries from `query` on are the last.
 */
FV_INLINE void add_rows_ahead(fv_ahead *ahead, const fv_pack *p, int row, int query, int tile) {
  const fv_map *m = p->map;
  int end = row + ROWS;
  if (row >= m->key_height) {
    const int half = p->rows / 2, last = query >= m->height;
    row = m->key_height + (last ? half : 0);
    end = m->key_height + (last ? p->rows : half);
  }
  const int x = tile == m->tile_begin ? p->origin + p->begin : tile * L;
  const int beyond = tile == m->tile_end - 1 ? p->origin + p->end : tile * L + L;
  add_part_ahead(ahead, &p->planes, row, end, m->key_height, x, beyond - x, p->dim);
}

/* ---- working memory ---------------------------------------------------------------------- */

FV_INLINE bool is_masked(const fv_arguments *a) {
  return a->key_mask.data || a->border == BORDER_MASK;
}

FV_INLINE fv_pack plan_pack(fv_arena *arena, const fv_arguments *a, int dim, bool masked,
                            int tiles) {
  fv_pack p = {.dim = dim, .channels = dim + masked, .rows = ring_rows(a)};
  p.outside = a->border == BORDER_MASK ? -INFINITY : 0.f;
  p.line = line_floats(tiles, a->kernel_w);
  p.row_size = p.channels * p.line;
  p.ring = fv_take(arena, (p.rows + 1) * p.row_size);
  return p;
}

FV_INLINE void mask_keys(fv_pack *p, const fv_arguments *a, const fv_map *m) {
  if (!a->key_mask.data) return;
  p->key_mask = (const uint8_t *)a->key_mask.data + m->image * a->key_mask.image +
                m->class_y * a->key_mask.row + m->class_x * a->key_mask.column;
  p->mask_row = a->key_mask.row * a->dilation_h;
  p->mask_column = a->key_mask.column * a->dilation_w;
}

#endif
