/* Local attention, backward, from the saved log-sum-exp: no weights are kept by the forward.
 *
 * Query rows go by in blocks. A block recomputes its weights P and the gradients of its logits
 * dS = P * (dP - sum P dP), and from them dQ. Both stay in a ring of query rows until every query
 * that sees a key row has gone by; then that row's dK = sum dS q and dV = sum P dO are gathered.
 * Nothing is scattered, so threads never meet: each owns rows of queries and of keys, and
 * recomputes what it needs of the rows beside its own. The order of every sum is fixed by the map
 * alone, except that of the bias table, which is summed thread by thread.
 *
 * In the ring a weight lies under its key's offset from the query's unshifted window, so that a
 * gather is a diagonal of vectors: [slot row][offset][margin + query column]. Away from a "shift"
 * border an offset is a tap.
 */
#include "local_logits.h"

typedef struct {
  fv_arena arena;
  fv_pack keys, values;
  float *queries, *grads; /* rings of query rows, [channel][margin + column] */
  float *weights, *slopes; /* rings of P and dS */
  float *logits, *products, *out, *grad_keys, *grad_values;
  float *table, *each, *table_sums, *head_table;
  int *place;
  int rows; /* of the rings */
  int width; /* of the map the rings last held */
  ptrdiff_t margin, line, query_row, grad_row, weights_row;
  size_t rings, rings_size; /* where they lie in the arena */
  int first_offset, offsets; /* offsets that exist: [first, first + offsets) */
} fv_backward;

/* Offsets beyond the taps, on either side, that shifted windows reach. */
FV_INLINE int offsets_before(const fv_local *a) {
  return a->border == BORDER_SHIFT ? (int)a->kernel_w - 1 - (int)a->kernel_w / 2 : 0;
}

FV_INLINE int offsets_after(const fv_local *a) {
  return a->border == BORDER_SHIFT ? (int)a->kernel_w / 2 : 0;
}

static void plan(fv_backward *w, const fv_local *a) {
  const int dim = (int)a->dim, value_dim = (int)a->value_dim, kernel_h = (int)a->kernel_h;
  const int most = dim > value_dim ? dim : value_dim;
  const int64_t height = class_length(a->height, a->dilation_h, 0);
  const ptrdiff_t row = (ptrdiff_t)(kernel_h + ROWS - 1) * a->kernel_w * L;
  plan_pack(&w->keys, &w->arena, a, dim, is_masked(a));
  plan_pack(&w->values, &w->arena, a, value_dim, 0);
  w->rows = (int)(height < 2 * kernel_h ? height : 2 * kernel_h) + 2 * ROWS;
  w->first_offset = -offsets_before(a);
  w->offsets = offsets_before(a) + (int)a->kernel_w + offsets_after(a);
  w->margin = (2 * a->kernel_w + L - 1) / L * L;
  w->line = 2 * w->margin + ((ptrdiff_t)most_tiles(a) + 1) * L;
  w->query_row = dim * w->line;
  w->grad_row = value_dim * w->line;
  w->weights_row = (ptrdiff_t)kernel_h * w->offsets * w->line;
  w->rings = w->arena.used;
  w->queries = take(&w->arena, w->rows * w->query_row);
  w->grads = take(&w->arena, w->rows * w->grad_row);
  w->weights = take(&w->arena, w->rows * w->weights_row);
  w->slopes = take(&w->arena, w->rows * w->weights_row);
  w->rings_size = w->arena.used - w->rings;
  w->logits = take(&w->arena, ROWS * row);
  w->products = take(&w->arena, ROWS * row);
  w->out = take(&w->arena, (ptrdiff_t)ROWS * most * L);
  w->grad_keys = take(&w->arena, (ptrdiff_t)ROWS * dim * L);
  w->grad_values = take(&w->arena, (ptrdiff_t)ROWS * value_dim * L);
  w->table = take(&w->arena, a->bias_kind == BIAS_TABLE ? table_floats(a) : 0);
  w->table_sums = take(&w->arena, a->bias_kind == BIAS_TABLE ? table_floats(a) : 0);
  w->each = take(&w->arena, a->bias_kind == BIAS_EACH ? a->kernel_h * a->kernel_w * L : 0);
  w->place = (int *)take(&w->arena, most_tiles(a));
}

/* ---- a block of query rows --------------------------------------------------------------- */

/* The lanes of a tile that are columns of the map: 1 there, 0 beyond. */
FV_INLINE fv_f lanes_inside(const fv_map *m, int tile) {
  fv_f inside;
  for (int i = 0; i < L; ++i) inside[i] = tile * L + i < m->width ? 1.f : 0.f;
  return inside;
}

/* Row y of a plane into its ring, zero beyond the map. */
static void line_row(const fv_backward *w, const fv_map *m, const fv_plane *p, int y, int dim,
                     float factor, float *ring, ptrdiff_t ring_row) {
  float *to = ring + (y % w->rows) * ring_row + w->margin;
  for (int tile = 0; tile < m->tiles; ++tile) {
    const float *lanes[L];
    const int inside = m->width - tile * L;
    for (int i = 0; i < L; ++i)
      lanes[i] = p->data + y * p->row + (tile * L + (i < inside ? i : inside - 1)) * p->column;
    pack_lanes(lanes, to + tile * L, w->line, dim, factor);
    for (int i = inside; i < L; ++i)
      for (int d = 0; d < dim; ++d) to[d * w->line + tile * L + i] = 0.f;
  }
}

static fv_f gather_queries(const fv_local *a, const fv_map *m, const float *from, int y, int tile) {
  fv_f values;
  for (int i = 0; i < L; ++i)
    values[i] = from[((m->image * a->height + image_row(a, m, y)) * a->width +
                      image_column(a, m, tile * L + i)) *
                         a->heads +
                     m->head];
  return values;
}

/* logits -> dS and products dP -> P (after dropout) of one row of a tile. */
static void slopes_of_row(const fv_local *a, const fv_map *m, int y, int tile, float *logits,
                          float *products) {
  const int slots = m->kernel_h * m->kernel_w;
  fv_f log_sum = gather_queries(a, m, (const float *)(intptr_t)a->lse, y, tile) * FV_LOG2E;
  const fv_f inside = lanes_inside(m, tile);
  fv_f total = {0};
  log_sum = fv_select(log_sum == -INFINITY, (fv_f){0}, log_sum);
  if (a->grad_lse)
    total = -inside * gather_queries(a, m, (const float *)(intptr_t)a->grad_lse, y, tile);
  const fv_dropout dropout = dropout_of(a);
  const fv_u words = a->threshold ? dropout_words(a, m, &dropout, y, tile) : (fv_u){0};
  for (int i = 0; i < slots; ++i) {
    fv_f weight = fv_exp2(fv_load(logits + i * L) - log_sum) * inside;
    fv_f product = fv_load(products + i * L);
    if (a->threshold) {
      const fv_i kept = fv_dropout_kept(&dropout, words, (fv_u){0} + (uint32_t)i);
      product = fv_select(kept, product * dropout.scale, (fv_f){0});
      fv_store(products + i * L, product);
    }
    total += weight * product;
    fv_store(logits + i * L, weight);
  }
  for (int i = 0; i < slots; ++i) {
    fv_f weight = fv_load(logits + i * L);
    fv_f slope = weight * (fv_load(products + i * L) - total);
    if (a->threshold) {
      const fv_i kept = fv_dropout_kept(&dropout, words, (fv_u){0} + (uint32_t)i);
      weight = fv_select(kept, weight * dropout.scale, (fv_f){0});
    }
    fv_store(products + i * L, weight);
    fv_store(logits + i * L, slope);
  }
}

/* One row of a tile, by slot, into a ring, by offset. */
static void keep_row(const fv_backward *w, const fv_map *m, int y, int tile, const float *from,
                     float *ring) {
  float *to = ring + (y % w->rows) * w->weights_row + w->margin + tile * L;
  const int kernel_w = m->kernel_w;
  if (tile_is_plain(m, tile)) {
    const int shift = column_start(m, tile * L) - (tile * L - m->before_w) - w->first_offset;
    for (int i = 0; i < m->kernel_h; ++i)
      for (int t = 0; t < kernel_w; ++t)
        fv_store(to + ((ptrdiff_t)i * w->offsets + t + shift) * w->line,
                 fv_load(from + (i * kernel_w + t) * L));
    return;
  }
  int shift[L];
  for (int l = 0; l < L; ++l)
    shift[l] = column_start(m, tile * L + l) - (tile * L + l - m->before_w) - w->first_offset;
  for (int i = 0; i < m->kernel_h; ++i) {
    float *row = to + (ptrdiff_t)i * w->offsets * w->line;
    for (int e = 0; e < w->offsets; ++e) fv_store(row + e * w->line, (fv_f){0});
    for (int t = 0; t < kernel_w; ++t)
      for (int l = 0; l < L && tile * L + l < m->width; ++l)
        row[(t + shift[l]) * w->line + l] = from[(i * kernel_w + t) * L + l];
  }
}

static void tile_queries(const fv_local *a, fv_backward *w, const fv_map *m, const fv_block *b,
                         int tile, int owned) {
  const int dim = (int)a->dim, value_dim = (int)a->value_dim;
  const ptrdiff_t row = logits_row(m), kernel_row = (ptrdiff_t)m->kernel_w * L;
  const ptrdiff_t table_at =
      a->bias_kind == BIAS_TABLE ? w->place[tile] * (2 * m->kernel_h - 1) * kernel_row : 0;
  const int lanes = lanes_of(m, tile);
  /* Rows of a block may wrap around the ring: each is then computed from its own place. */
  for (int r = 0; r < b->rows;) {
    const int at = (b->y + r) % w->rows;
    const int together = b->rows - r < w->rows - at ? b->rows - r : w->rows - at;
    fv_block part = {.y = b->y + r, .rows = together};
    for (int i = 0; i < together; ++i) part.start[i] = b->start[r + i];
    part.key_begin = part.start[0];
    part.key_end = part.start[together - 1] + m->kernel_h;
    const ptrdiff_t to = r * row + (part.key_begin - b->key_begin) * kernel_row;
    dot_block(m, &part, w->queries + at * w->query_row + w->margin + tile * L, w->query_row,
              w->line, dim, &w->keys, tile, w->logits + to);
    dot_block(m, &part, w->grads + at * w->grad_row + w->margin + tile * L, w->grad_row, w->line,
              value_dim, &w->values, tile, w->products + to);
    r += together;
  }
  for (int r = 0; r < b->rows; ++r) {
    const ptrdiff_t at = r * row + (b->start[r] - b->key_begin) * kernel_row;
    add_to_logits(a, m, b, r, &w->keys, tile, w->table + table_at, w->each, w->logits + at);
    if (owned)
      prefetch_lanes((const float *)(intptr_t)a->dq + query_place(a, m, b->y + r, tile) * dim,
                     a->dilation_w * a->heads * dim, dim, lanes);
    slopes_of_row(a, m, b->y + r, tile, w->logits + at, w->products + at);
    keep_row(w, m, b->y + r, tile, w->products + at, w->weights);
    keep_row(w, m, b->y + r, tile, w->logits + at, w->slopes);
    if (!owned || !a->d_bias) continue;
    if (a->bias_kind == BIAS_TABLE) {
      float *sums = w->table_sums + table_at +
                    table_index(m, b->y + r, b->start[r], m->kernel_h) * kernel_row;
      for (ptrdiff_t i = 0; i < m->kernel_h * kernel_row; i += L)
        fv_store(sums + i, fv_load(sums + i) + fv_load(w->logits + at + i));
    } else {
      const int slots = m->kernel_h * m->kernel_w;
      const int64_t query = query_place(a, m, b->y + r, tile);
      unpack_lanes(w->logits + at, (float *)(intptr_t)a->d_bias + query * slots,
                   a->dilation_w * a->heads * slots, slots, lanes);
    }
  }
  if (!owned) return;
  memset(w->out, 0, (size_t)(b->rows * dim * L) * sizeof(float));
  weigh_block(m, b, w->logits, &w->keys, dim, tile, w->out);
  for (int r = 0; r < b->rows; ++r) {
    float *out = w->out + (ptrdiff_t)r * dim * L;
    for (int d = 0; d < dim; ++d) fv_store(out + d * L, fv_load(out + d * L) * (float)a->scale);
    const int64_t query = query_place(a, m, b->y + r, tile);
    unpack_lanes(out, (float *)(intptr_t)a->dq + query * dim, a->dilation_w * a->heads * dim, dim,
                 lanes);
  }
}

/* ---- rows of keys ------------------------------------------------------------------------ */

/* Offsets under which the keys of columns [x, x + L) are seen by any query. */
static fv_range offsets_of_tile(const fv_backward *w, const fv_map *m, int x) {
  fv_range range = {m->kernel_w, 0};
  for (int e = w->first_offset; e < w->first_offset + w->offsets; ++e)
    for (int i = 0; i < L && x + i < m->key_width; ++i) {
      const int query = x + i + m->before_w - e;
      if (query < 0 || query >= m->width) continue;
      const int tap = x + i - column_start(m, query);
      if (tap < 0 || tap >= m->kernel_w) continue;
      if (e < range.begin) range.begin = e;
      if (e + 1 > range.end) range.end = e + 1;
    }
  return range;
}

/* out[r][channel] += sum of weights * rows of queries over all queries that see key rows. */
static void gather_block(const fv_backward *w, const fv_map *m, int key_begin, int key_end,
                         int first_query, int last_query, int x, fv_range offsets,
                         const float *weights, const float *lines, ptrdiff_t line_row_size, int dim,
                         float *out) {
  const int taps = (int)(offsets.end - offsets.begin), chunk = chunk_of(taps > 0 ? taps : 1);
  const ptrdiff_t slot_row = w->offsets * w->line;
  for (int y = first_query; y < last_query; ++y) {
    const int start = row_start(m, y);
    const int begin = start > key_begin ? start : key_begin;
    const int end = start + m->kernel_h < key_end ? start + m->kernel_h : key_end;
    if (begin >= end) continue;
    const float *row = weights + (y % w->rows) * w->weights_row + (begin - start) * slot_row;
    const float *line = lines + (y % w->rows) * line_row_size + w->margin + x + m->before_w;
    for (int t = 0; t < taps; t += chunk) {
      const int some = taps - t < chunk ? taps - t : chunk;
      const int e = (int)offsets.end - 1 - t; /* the largest offset: the query furthest back */
      weigh_table[0][end - begin - 1][some - 1](
          (fv_i){0}, row + (e - w->first_offset) * w->line + w->margin + x + m->before_w - e,
          slot_row, 1 - w->line, line - e, w->line, dim,
          out + (ptrdiff_t)(begin - key_begin) * dim * L, (ptrdiff_t)dim * L);
    }
  }
}

/* A key's place in a contiguous (B, key_height, key_width, heads). */
FV_INLINE int64_t key_place(const fv_local *a, const fv_map *m, int key_row, int x) {
  return ((m->image * a->key_height + m->class_y + key_row * a->dilation_h) * a->key_width +
          m->class_x + x * a->dilation_w) *
             a->heads +
         m->head;
}

static void store_keys(const fv_local *a, const fv_map *m, int64_t to, int key_row, int x, int dim,
                       float factor, float *from) {
  const int lanes = m->key_width - x < L ? m->key_width - x : L;
  const int64_t key = key_place(a, m, key_row, x);
  for (int d = 0; d < dim; ++d) fv_store(from + d * L, fv_load(from + d * L) * factor);
  unpack_lanes(from, (float *)(intptr_t)to + key * dim, a->dilation_w * a->heads * dim, dim, lanes);
}

/* The gradients of key rows [begin, end), at most ROWS, whose queries [first, last) are known. */
static void rows_of_keys(const fv_local *a, const fv_backward *w, const fv_map *m, int begin,
                         int end, int first, int last) {
  const int dim = (int)a->dim, value_dim = (int)a->value_dim;
  for (int x = 0; x < m->key_width; x += L) {
    const fv_range offsets = offsets_of_tile(w, m, x);
    const int lanes = m->key_width - x < L ? m->key_width - x : L;
    const ptrdiff_t next = a->dilation_w * a->heads;
    for (int r = begin; r < end; ++r) {
      const int64_t key = key_place(a, m, r, x);
      prefetch_lanes((const float *)(intptr_t)a->dk + key * dim, next * dim, dim, lanes);
      prefetch_lanes((const float *)(intptr_t)a->dv + key * value_dim, next * value_dim, value_dim,
                     lanes);
    }
    memset(w->grad_keys, 0, (size_t)((end - begin) * dim * L) * sizeof(float));
    memset(w->grad_values, 0, (size_t)((end - begin) * value_dim * L) * sizeof(float));
    gather_block(w, m, begin, end, first, last, x, offsets, w->slopes, w->queries, w->query_row,
                 dim, w->grad_keys);
    gather_block(w, m, begin, end, first, last, x, offsets, w->weights, w->grads, w->grad_row,
                 value_dim, w->grad_values);
    for (int r = begin; r < end; ++r) {
      store_keys(a, m, a->dk, r, x, dim, FV_LN2, w->grad_keys + (ptrdiff_t)(r - begin) * dim * L);
      store_keys(a, m, a->dv, r, x, value_dim, 1.f,
                 w->grad_values + (ptrdiff_t)(r - begin) * value_dim * L);
    }
  }
}

/* ---- a map ------------------------------------------------------------------------------- */

/* Add the sums of a map's tiles to its head's table. */
static void add_table(const fv_backward *w, const fv_map *m) {
  const int rows = 2 * m->kernel_h - 1, columns = 2 * m->kernel_w - 1;
  const ptrdiff_t size = (ptrdiff_t)rows * m->kernel_w * L;
  float *table = w->head_table + (ptrdiff_t)m->head * rows * columns;
  int shared = 0;
  for (int tile = 0; tile < m->tiles; ++tile) {
    if (!w->place[tile] && shared) continue;
    shared |= !w->place[tile];
    const float *sums = w->table_sums + w->place[tile] * size;
    for (int i = 0; i < L && tile * L + i < m->width; ++i) {
      const int x = tile * L + i, first = table_index(m, x, column_start(m, x), m->kernel_w);
      for (int r = 0; r < rows; ++r)
        for (int t = 0; t < m->kernel_w; ++t)
          table[r * columns + first + t] += sums[((ptrdiff_t)r * m->kernel_w + t) * L + i];
    }
  }
}

/* Rows [begin, end) of one map, queries and keys. */
static void rows_backward(const fv_local *a, fv_backward *w, int64_t number, int begin, int end) {
  const fv_map map = map_of(a, number);
  const fv_map *m = &map;
  const fv_plane queries = plane_of(a, m, a->q, a->q_stride);
  const fv_plane grads = plane_of(a, m, a->grad_out, a->grad_stride);
  if (end > m->height) end = m->height;
  if (begin >= end) return;
  const int last_key = end == m->height ? m->key_height : end;
  int key = begin, first = 0, last = m->height;
  if (w->width != m->width) /* the rings hold zeros wherever a map of this width writes nothing */
    memset(w->arena.memory + w->rings, 0, w->rings_size * sizeof(float));
  w->width = m->width;
  while (first < begin && row_start(m, first) + m->kernel_h <= key) ++first;
  while (last > end && row_start(m, last - 1) >= last_key) --last;
  pack_start(&w->keys, m, plane_of(a, m, a->k, a->k_stride));
  pack_start(&w->values, m, plane_of(a, m, a->v, a->v_stride));
  pack_margins(&w->keys);
  pack_margins(&w->values);
  mask_keys(&w->keys, a, m);
  if (a->bias_kind == BIAS_TABLE) {
    table_of_tiles(a, m, w->table, w->place);
    if (a->d_bias) memset(w->table_sums, 0, (size_t)table_floats(a) * sizeof(float));
  }
  for (int y = first; y < last;) {
    const int owned = y >= begin && y < end;
    const fv_block block = block_at(m, y, y < begin ? begin : y < end ? end : last);
    pack_rows(&w->keys, block.key_begin, block.key_end);
    pack_rows(&w->values, block.key_begin, block.key_end);
    for (int r = 0; r < block.rows; ++r) {
      line_row(w, m, &queries, y + r, (int)a->dim, (float)a->scale * FV_LOG2E, w->queries,
               w->query_row);
      line_row(w, m, &grads, y + r, (int)a->value_dim, 1.f, w->grads, w->grad_row);
    }
    for (int tile = 0; tile < m->tiles; ++tile) {
      const int x = tile * L, next = y + ROWS;
      prefetch_next(m, &w->keys, &w->values, block.key_end, tile);
      prefetch_tile(&queries, next, next + ROWS, m->height, x, m->width, (int)a->dim);
      prefetch_tile(&grads, next, next + ROWS, m->height, x, m->width, (int)a->value_dim);
      tile_queries(a, w, m, &block, tile, owned);
    }
    y += block.rows;
    const int known = y == last ? last_key : row_start(m, y);
    while (key < last_key && (key + ROWS <= known || (y == last && key < known))) {
      const int stop = key + ROWS < last_key ? key + ROWS : last_key;
      while (row_start(m, first) + m->kernel_h <= key && first + 1 < y) ++first;
      rows_of_keys(a, w, m, key, stop, first, y);
      key = stop;
    }
  }
  if (a->bias_kind == BIAS_TABLE && a->d_bias) add_table(w, m);
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(local_backward)(const fv_local *a) {
  const int64_t height = class_length(a->height, a->dilation_h, 0);
  const int64_t rows = map_count(a) * height;
  const int64_t table = a->bias_kind == BIAS_TABLE && a->d_bias
                            ? a->heads * (2 * a->kernel_h - 1) * (2 * a->kernel_w - 1)
                            : 0;
  float *tables = fv_alloc((size_t)(table * a->threads));
  int failed = !tables, threads = 1;
  if (failed) return failed;
  memset(tables, 0, (size_t)(table * a->threads) * sizeof(float));
#pragma omp parallel num_threads((int)a->threads) reduction(| : failed)
  {
    fv_backward w = {0};
    if (!fv_thread()) threads = fv_threads();
    plan(&w, a);
    float *memory = fv_alloc(w.arena.used);
    if (memory) {
      w.arena = (fv_arena){memory, 0};
      plan(&w, a);
      w.head_table = tables + table * fv_thread();
      fv_range mine = fv_split(rows, fv_threads(), fv_thread());
      while (mine.begin < mine.end) {
        const int64_t number = mine.begin / height, first = number * height;
        const int64_t end = first + height < mine.end ? first + height : mine.end;
        rows_backward(a, &w, number, (int)(mine.begin - first), (int)(end - first));
        mine.begin = end;
      }
      fv_free(memory);
    } else {
      failed = 1;
    }
  }
  for (int t = 0; t < threads && table; ++t)
    for (int64_t i = 0; i < table; ++i) ((float *)(intptr_t)a->d_bias)[i] += tables[t * table + i];
  fv_free(tables);
  return failed;
}
