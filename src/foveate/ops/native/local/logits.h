/* Local attention, the part that forward and backward both do: logits of a block of query rows. */
#ifndef FOVEATE_LOCAL_LOGITS_H
#define FOVEATE_LOCAL_LOGITS_H

#include "../common/dropout.h"
#include "pack.h"

/* One of the kernel_h passes over the windows of a block: every row takes the key row of its window
 * that is the pass's number modulo kernel_h, so mostly all take the same one, and the order in
 * which a row takes them does not depend on its block. The rows before `split` share their key row,
 * and so do those from it on.
 */
typedef struct {
  int split;
  int key_row[ROWS]; /* counted from the window's first */
  int packed[ROWS];  /* the same, where it lies in the rings of packed rows */
} fv_pass;

/* ROWS or fewer neighbouring rows of queries and the key rows that their windows reach. */
typedef struct {
  int y, rows;
  int key_begin, key_end;
  int start[ROWS]; /* each row's first key row */
  const fv_pass *passes;
} fv_block;

FV_INLINE fv_pass *take_passes(fv_arena *arena, const fv_arguments *a) {
  return fv_take_bytes(arena, a->kernel_h * (ptrdiff_t)sizeof(fv_pass));
}

/* No more rows than that two different key rows suffice for each pass over the windows. */
FV_INLINE fv_block block_at(const fv_map *m, int y, int end, const fv_pack *keys, fv_pass *passes) {
  const int most = m->kernel_h < ROWS - 1 ? m->kernel_h + 1 : ROWS;
  fv_block b = {.y = y, .rows = end - y < most ? end - y : most, .passes = passes};
  for (int r = 0; r < b.rows; ++r) b.start[r] = row_start(m, y + r);
  b.key_begin = b.start[0];
  b.key_end = b.start[b.rows - 1] + m->kernel_h;
  for (int pass = 0; pass < m->kernel_h; ++pass) {
    fv_pass *p = passes + pass;
    p->split = 0;
    for (int r = 0; r < b.rows; ++r) {
      p->key_row[r] = (pass - b.start[r]) % m->kernel_h;
      if (p->key_row[r] < 0) p->key_row[r] += m->kernel_h;
      p->packed[r] = packed_place(keys, b.start[r] + p->key_row[r]);
      if (r && p->packed[r] != p->packed[r - 1]) p->split = r;
    }
  }
  return b;
}

/* Where a tile's queries of a block have `count` numbers each in a contiguous tensor. */
FV_INLINE void add_queries_ahead(fv_ahead *ahead, const fv_arguments *a, const fv_map *m,
                                 const void *to, const fv_block *b, int tile, int count,
                                 int storage) {
  const int bytes = count * fv_bytes(storage);
  const ptrdiff_t position = a->heads * bytes;
  fv_add_ahead(ahead, (fv_patch){(const char *)to + query_place(a, m, b->y, tile * L) * bytes,
                                 a->dilation_h * a->width * position, a->dilation_w * position,
                                 b->rows, lanes_of(m, tile), bytes});
}

/* A window's vectors, logits or weights, lie [key row][tap][lane]; those of a block's rows follow
 * each other.
 */
FV_INLINE ptrdiff_t window_floats(const fv_map *m) {
  return (ptrdiff_t)m->kernel_h * m->kernel_w * L;
}

/* Logits of a block and tile: products of rows of queries, whose channels lie q_step apart, with
 * packed keys (or of gradients with packed values).
 */
static void dot_block(const fv_map *m, const fv_block *b, const float *const *queries,
                      ptrdiff_t q_step, int dim, const fv_pack *keys, int tile,
                      const fv_ahead *ahead, float *logits) {
  const int kernel_w = m->kernel_w, chunk = chunk_of(kernel_w), shifted = !tile_is_plain(m, tile);
  const float *first = packed_tile(keys, 0, tile);
  float *to[ROWS];
  fv_columns columns;
  columns.step = keys->line;
  columns.lanes = tile_lanes(m, tile);
  for (int i = 0; i < m->kernel_h; ++i) {
    const fv_pass *pass = b->passes + i;
    for (int r = 0; r < b->rows; ++r) {
      columns.row[r] = first + pass->packed[r] * keys->row_size;
      to[r] = logits + r * window_floats(m) + (ptrdiff_t)pass->key_row[r] * kernel_w * L;
    }
    fv_prefetch_share(ahead, i, m->kernel_h);
    for (int t = 0; t < kernel_w; t += chunk) {
      const int taps = kernel_w - t < chunk ? kernel_w - t : chunk;
      dot_table[shifted][b->rows - 1][pass->split][taps - 1](queries, q_step, &columns, t, dim, to);
    }
  }
}

/* out[row][channel] += sum over window of weights * packed values. */
static void weigh_block(const fv_map *m, const fv_block *b, const float *weights,
                        const fv_pack *values, int dim, int tile, const fv_ahead *ahead,
                        float *out) {
  const int kernel_w = m->kernel_w, chunk = chunk_of(kernel_w), shifted = !tile_is_plain(m, tile);
  const float *first = packed_tile(values, 0, tile), *from[ROWS];
  float *to[ROWS];
  fv_columns columns;
  columns.step = values->line;
  columns.lanes = tile_lanes(m, tile);
  for (int r = 0; r < b->rows; ++r) to[r] = out + (ptrdiff_t)r * dim * L;
  for (int i = 0; i < m->kernel_h; ++i) {
    const fv_pass *pass = b->passes + i;
    for (int r = 0; r < b->rows; ++r) {
      columns.row[r] = first + pass->packed[r] * values->row_size;
      from[r] = weights + r * window_floats(m) + (ptrdiff_t)pass->key_row[r] * kernel_w * L;
    }
    fv_prefetch_share(ahead, i, m->kernel_h);
    for (int t = 0; t < kernel_w; t += chunk) {
      const int taps = kernel_w - t < chunk ? kernel_w - t : chunk;
      weigh_table[shifted][b->rows - 1][pass->split][taps - 1](from, L, &columns, t, dim, to);
    }
  }
}

/* ---- what is added to the logits --------------------------------------------------------- */

/* Index into a relative table's axis: the first tap of the window of `position`, which begins at
 * `start`.
 */
FV_INLINE int table_index(const fv_map *m, int position, int start, int kernel) {
  return start - position + kernel - 1 - (m->border == BORDER_REFLECT ? kernel / 2 : 0);
}

/* The head's relative table as vectors [row of the table][tap][lane] of one tile, times factor. */
static void table_vectors(const fv_arguments *a, const fv_map *m, int tile, float factor,
                          float *to) {
  const int rows = 2 * m->kernel_h - 1, columns = 2 * m->kernel_w - 1;
  const float *table = (const float *)a->bias.data + (ptrdiff_t)m->head * rows * columns;
  for (int i = 0; i < L; ++i) {
    int x = tile * L + i;
    if (x >= m->width && m->border == BORDER_SHIFT) x = m->width - 1;
    const int first = table_index(m, x, column_start(m, x), m->kernel_w);
    for (int r = 0; r < rows; ++r)
      for (int t = 0; t < m->kernel_w; ++t)
        to[((ptrdiff_t)r * m->kernel_w + t) * L + i] = factor * table[r * columns + first + t];
  }
}

/* Numbers per query and tap as vectors [tap][lane] of row y and one tile, times factor. */
static void each_vectors(const fv_arguments *a, const fv_map *m, int y, int tile, float factor,
                         float *to) {
  const fv_plane numbers = plane_of(a, m, &a->bias, a->bias_storage);
  const char *lanes[L];
  lanes_at(&numbers, y, tile * L, m->width, lanes);
  fv_gather(numbers.storage, lanes, to, L, m->kernel_h * m->kernel_w, factor);
}

/* Add biases and masks to the logits of row r of the block: log2 units, like the logits.
 * `table` holds table_vectors of this tile, `each` room for each_vectors.
 */
static void add_to_logits(const fv_arguments *a, const fv_map *m, const fv_block *b, int r,
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
  const ptrdiff_t mask_at = keys->dim * keys->line;
  const fv_i lanes = tile_lanes(m, tile);
  for (int i = 0; i < m->kernel_h; ++i) {
    const int key_row = b->start[r] + i;
    const float *mask = NULL;
    if (!row_outside(m, key_row))
      mask = packed_tile(keys, packed_place(keys, key_row), tile) + mask_at;
    float *at = logits + (ptrdiff_t)i * kernel_w * L;
    for (int t = 0; t < kernel_w; ++t)
      fv_store(at + t * L,
               fv_load(at + t * L) + (mask ? fv_pick(mask + t, lanes) : fv_set(keys->outside)));
  }
}

/* The dropout hash's share of the queries of a tile. */
static fv_u dropout_words(const fv_arguments *a, const fv_map *m, const fv_dropout *d, int y,
                          int tile) {
  fv_u number;
  for (int i = 0; i < L; ++i) number[i] = (uint32_t)query_place(a, m, y, tile * L + i);
  return fv_dropout_query(d, number);
}

/* ---- the table of all tiles ---------------------------------------------------------------- */

FV_INLINE ptrdiff_t table_size(const fv_arguments *a) {
  return (2 * (ptrdiff_t)a->kernel_h - 1) * a->kernel_w * L;
}

/* table_vectors of a strip's tiles: plain ones share the first place, others follow. */
static void tables_of_strip(const fv_arguments *a, const fv_map *m, int *place, float *vectors) {
  int places = 1, shared = 0;
  for (int tile = m->tile_begin; tile < m->tile_end; ++tile) {
    const int plain = tile_is_plain(m, tile), at = plain ? 0 : places++;
    place[tile - m->tile_begin] = at;
    if (plain && shared) continue;
    shared |= plain;
    table_vectors(a, m, tile, FV_LOG2E, vectors + at * table_size(a));
  }
}

#endif
