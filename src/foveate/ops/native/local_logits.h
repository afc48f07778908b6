/* Local attention, the part that forward and backward both do: logits of a block of query rows. */
#ifndef FOVEATE_LOCAL_LOGITS_H
#define FOVEATE_LOCAL_LOGITS_H

#include "local_map.h"

/* ROWS or fewer neighbouring rows of queries and the key rows that their windows reach. */
typedef struct {
  int y, rows;
  int key_begin, key_end;
  int start[ROWS]; /* each row's first key row */
} fv_block;

FV_INLINE fv_block block_at(const fv_map *m, int y, int end) {
  fv_block b = {.y = y, .rows = end - y < ROWS ? end - y : ROWS};
  for (int r = 0; r < b.rows; ++r) b.start[r] = row_start(m, y + r);
  b.key_begin = b.start[0];
  b.key_end = b.start[b.rows - 1] + m->kernel_h;
  return b;
}

/* The rows [begin, end) of the block whose windows hold this key row. */
FV_INLINE fv_range rows_seeing(const fv_block *b, int kernel_h, int key_row) {
  fv_range rows = {0, b->rows};
  while (b->start[rows.begin] + kernel_h <= key_row) ++rows.begin;
  while (b->start[rows.end - 1] > key_row) --rows.end;
  return rows;
}

/* Logits and weights of a block and tile lie [row][key row - key_begin][tap][lane]. */
FV_INLINE ptrdiff_t logits_row(const fv_map *m) {
  return (ptrdiff_t)(m->kernel_h + ROWS - 1) * m->kernel_w * L;
}

/* Products of queries with packed keys (or of gradients with packed values) of one tile; rows and
 * channels of the queries lie q_row and q_step apart.
 */
static void dot_block(const fv_map *m, const fv_block *b, const float *q, ptrdiff_t q_row,
                      ptrdiff_t q_step, int dim, const fv_pack *keys, int tile, float *logits) {
  const int plain = tile_is_plain(m, tile), kernel_w = m->kernel_w, chunk = chunk_of(kernel_w);
  const int k_step = tile_columns(kernel_w);
  const fv_i lanes = tile_lanes(m, tile);
  const ptrdiff_t row = logits_row(m);
  for (int key_row = b->key_begin; key_row < b->key_end; ++key_row) {
    const fv_range rows = rows_seeing(b, m->kernel_h, key_row);
    const float *k = packed_tile(keys, key_row, tile);
    float *to = logits + rows.begin * row + (ptrdiff_t)(key_row - b->key_begin) * kernel_w * L;
    for (int t = 0; t < kernel_w; t += chunk) {
      const int taps = kernel_w - t < chunk ? kernel_w - t : chunk;
      dot_table[!plain][rows.end - rows.begin - 1][taps - 1](
          lanes, q + rows.begin * q_row, q_row, q_step, k + t, k_step, dim, to + t * L, row);
    }
  }
}

/* out[row][channel] += sum over window of weights * packed values; rows outside the map are 0. */
static void weigh_block(const fv_map *m, const fv_block *b, const float *weights,
                        const fv_pack *values, int dim, int tile, float *out) {
  const int plain = tile_is_plain(m, tile), kernel_w = m->kernel_w, chunk = chunk_of(kernel_w);
  const int v_step = tile_columns(kernel_w);
  const fv_i lanes = tile_lanes(m, tile);
  const ptrdiff_t row = logits_row(m), out_row = (ptrdiff_t)dim * L;
  for (int key_row = b->key_begin; key_row < b->key_end; ++key_row) {
    if (key_row < 0 || key_row >= m->key_height) continue;
    const fv_range rows = rows_seeing(b, m->kernel_h, key_row);
    const float *v = packed_tile(values, key_row, tile);
    const float *from =
        weights + rows.begin * row + (ptrdiff_t)(key_row - b->key_begin) * kernel_w * L;
    for (int t = 0; t < kernel_w; t += chunk) {
      const int taps = kernel_w - t < chunk ? kernel_w - t : chunk;
      weigh_table[!plain][rows.end - rows.begin - 1][taps - 1](
          lanes, from + t * L, row, L, v + t, v_step, dim, out + rows.begin * out_row, out_row);
    }
  }
}

/* ---- what is added to the logits --------------------------------------------------------- */

/* Index into a relative table's axis: slot 0 of the window of `position`, which starts at `start`.
 */
FV_INLINE int table_index(const fv_map *m, int position, int start, int kernel) {
  return start - position + kernel - 1 - (m->border == BORDER_PADDED ? kernel / 2 : 0);
}

/* The head's relative table as vectors [row of the table][tap][lane] of one tile, times factor. */
static void table_vectors(const fv_local *a, const fv_map *m, int tile, float factor, float *to) {
  const int rows = 2 * m->kernel_h - 1, columns = 2 * m->kernel_w - 1;
  const float *table = (const float *)(intptr_t)a->bias + (ptrdiff_t)m->head * rows * columns;
  for (int i = 0; i < L; ++i) {
    int x = tile * L + i;
    if (x >= m->width && m->border == BORDER_SHIFT) x = m->width - 1;
    const int first = table_index(m, x, column_start(m, x), m->kernel_w);
    for (int r = 0; r < rows; ++r)
      for (int t = 0; t < m->kernel_w; ++t)
        to[((ptrdiff_t)r * m->kernel_w + t) * L + i] = factor * table[r * columns + first + t];
  }
}

/* The tensor's coordinates of a query of this map. */
FV_INLINE int64_t image_row(const fv_local *a, const fv_map *m, int y) {
  return m->class_y + (int64_t)y * a->dilation_h;
}

FV_INLINE int64_t image_column(const fv_local *a, const fv_map *m, int x) {
  return m->class_x + (int64_t)(x < m->width ? x : m->width - 1) * a->dilation_w;
}

/* The first query of a tile's row: its place in a contiguous (B, H, W, heads). */
FV_INLINE int64_t query_place(const fv_local *a, const fv_map *m, int y, int tile) {
  return ((m->image * a->height + image_row(a, m, y)) * a->width + image_column(a, m, tile * L)) *
             a->heads +
         m->head;
}

/* Numbers per query and slot as vectors [slot][lane] of row y and one tile, times factor. */
static void each_vectors(const fv_local *a, const fv_map *m, int y, int tile, float factor,
                         float *to) {
  const float *lanes[L];
  for (int i = 0; i < L; ++i)
    lanes[i] = (const float *)(intptr_t)a->bias + m->image * a->bias_stride[0] +
               image_row(a, m, y) * a->bias_stride[1] +
               image_column(a, m, tile * L + i) * a->bias_stride[2] + m->head * a->bias_stride[3];
  pack_lanes(lanes, to, L, m->kernel_h * m->kernel_w, factor);
}

/* Add biases and masks to the logits of row r of the block: log2 units, like the logits.
 * `table` holds table_vectors of this tile, `each` room for each_vectors.
 */
static void add_to_logits(const fv_local *a, const fv_map *m, const fv_block *b, int r,
                          const fv_pack *keys, int tile, const float *table, float *each,
                          float *logits) {
  const int kernel_w = m->kernel_w;
  const ptrdiff_t window = (ptrdiff_t)m->kernel_h * kernel_w * L;
  const float *added = NULL;
  if (a->bias_kind == BIAS_TABLE) {
    added = table + (ptrdiff_t)table_index(m, b->y + r, b->start[r], m->kernel_h) * kernel_w * L;
  } else if (a->bias_kind == BIAS_EACH) {
    each_vectors(a, m, b->y + r, tile, FV_LOG2E, each);
    added = each;
  }
  if (added)
    for (ptrdiff_t i = 0; i < window; i += L)
      fv_store(logits + i, fv_load(logits + i) + fv_load(added + i));
  if (keys->channels == keys->dim) return;
  const ptrdiff_t mask_at = (ptrdiff_t)keys->dim * tile_columns(kernel_w);
  const fv_i lanes = tile_lanes(m, tile);
  for (int i = 0; i < m->kernel_h; ++i) {
    const int key_row = b->start[r] + i;
    const int outside = key_row < 0 || key_row >= m->key_height;
    const float *mask = packed_tile(keys, key_row, tile) + mask_at;
    float *at = logits + (ptrdiff_t)i * kernel_w * L;
    for (int t = 0; t < kernel_w; ++t)
      fv_store(at + t * L, fv_load(at + t * L) +
                               (outside ? fv_set(keys->outside) : fv_pick(mask + t, lanes)));
  }
}

FV_INLINE fv_dropout dropout_of(const fv_local *a) {
  return (fv_dropout){(uint32_t)a->seed_low, (uint32_t)a->seed_high, (uint32_t)a->threshold,
                      (float)a->kept_scale};
}

/* The dropout hash's share of the queries of a tile. */
static fv_u dropout_words(const fv_local *a, const fv_map *m, const fv_dropout *d, int y,
                          int tile) {
  fv_u number;
  for (int i = 0; i < L; ++i)
    number[i] = (uint32_t)(((m->image * a->height + image_row(a, m, y)) * a->width +
                            image_column(a, m, tile * L + i)) *
                               a->heads +
                           m->head);
  return fv_dropout_query(d, number);
}

/* ---- working memory ---------------------------------------------------------------------- */

/* Hands out pieces of one allocation; with no memory yet it only counts. */
typedef struct {
  float *memory;
  size_t used;
} fv_arena;

FV_INLINE float *take(fv_arena *arena, ptrdiff_t floats) {
  float *piece = arena->memory ? arena->memory + arena->used : NULL;
  arena->used += ((size_t)floats + 15) / 16 * 16;
  return piece;
}

static void plan_pack(fv_pack *p, fv_arena *arena, const fv_local *a, int dim, int masked) {
  const int64_t width = class_length(a->key_width, a->dilation_w, 0);
  p->dim = dim;
  p->channels = dim + masked;
  p->key_mask = NULL;
  p->outside = a->border == BORDER_MASK ? -INFINITY : 0.f;
  p->rows = (int)a->kernel_h + ROWS - 1;
  p->margin = ((ptrdiff_t)a->kernel_w + L - 1) / L * L;
  p->line_size = line_floats(width, a->kernel_w);
  p->line = take(arena, p->channels * p->line_size);
  p->ring = take(arena, p->rows * packed_row_floats(a, p->channels));
  p->zero = take(arena, packed_row_floats(a, p->channels));
}

FV_INLINE int is_masked(const fv_local *a) { return a->key_mask || a->border == BORDER_MASK; }

FV_INLINE void mask_keys(fv_pack *p, const fv_local *a, const fv_map *m) {
  if (!a->key_mask) return;
  p->key_mask = (const uint8_t *)(intptr_t)a->key_mask + m->image * a->mask_stride[0] +
                m->class_y * a->mask_stride[1] + m->class_x * a->mask_stride[2];
  p->mask_row = a->mask_stride[1] * a->dilation_h;
  p->mask_column = a->mask_stride[2] * a->dilation_w;
}

/* table_vectors of all tiles: plain ones share the first place, others follow. */
static void table_of_tiles(const fv_local *a, const fv_map *m, float *vectors, int *place) {
  const ptrdiff_t size = (2 * (ptrdiff_t)m->kernel_h - 1) * m->kernel_w * L;
  int places = 1, shared = 0;
  for (int tile = 0; tile < m->tiles; ++tile) {
    const int plain = tile_is_plain(m, tile);
    place[tile] = plain ? 0 : places++;
    if (plain && shared) continue;
    shared |= plain;
    table_vectors(a, m, tile, FV_LOG2E, vectors + place[tile] * size);
  }
}

FV_INLINE ptrdiff_t table_floats(const fv_local *a) {
  return (most_tiles(a) + 1) * (2 * (ptrdiff_t)a->kernel_h - 1) * a->kernel_w * L;
}

#endif
