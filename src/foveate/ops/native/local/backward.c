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
 * gather is a diagonal of vectors: [key row][offset][margin + query column]. Away from a "shift"
 * border an offset is a tap.
 */
#include "logits.h"

typedef struct {
  fv_arena arena;
  fv_pack keys, values;
  float *queries, *grads;   /* rings of query rows, [channel][margin + column] */
  float *weights, *dlogits; /* rings of P and dS */
  float *logits, *products, *out, *grad_keys, *grad_values;
  float *table, *each, *table_sums, *head_table;
  int *place;
  fv_pass *passes;
  fv_range *seen; /* offsets under which each tile's keys are seen */
  int rows;       /* of the rings */
  int width;      /* of the map the rings last held */
  ptrdiff_t margin, line, query_row, grad_row, weights_row;
  size_t rings, rings_size;  /* where they lie in the arena */
  int first_offset, offsets; /* offsets that exist: [first, first + offsets) */
} fv_workspace;

/* Offsets beyond the taps, on either side, that shifted windows reach. */
FV_INLINE int offsets_before(const fv_arguments *a) {
  return a->border == BORDER_SHIFT ? (int)a->kernel_w - 1 - (int)a->kernel_w / 2 : 0;
}

FV_INLINE int offsets_after(const fv_arguments *a) {
  return a->border == BORDER_SHIFT ? (int)a->kernel_w / 2 : 0;
}

FV_INLINE int most_key_tiles(const fv_arguments *a) {
  return tiles_of(class_length(a->key_width, a->dilation_w, 0));
}

static void plan(fv_workspace *w, const fv_arguments *a) {
  const int dim = (int)a->dim, value_dim = (int)a->value_dim, kernel_h = (int)a->kernel_h;
  const int most = dim > value_dim ? dim : value_dim;
  const int64_t height = class_length(a->height, a->dilation_h, 0);
  const int tiles = most_tiles(a), most_rows = kernel_h + kernel_h / 2 + 2 * ROWS;
  const ptrdiff_t window = (ptrdiff_t)kernel_h * a->kernel_w * L;
  w->keys = plan_pack(&w->arena, a, dim, is_masked(a), tiles);
  w->values = plan_pack(&w->arena, a, value_dim, 0, tiles);
  /* A map of two windows' height may need all its rows at once, a high one these. */
  w->rows = height <= 2 * kernel_h + ROWS || height < most_rows ? (int)height : most_rows;
  w->first_offset = -offsets_before(a);
  w->offsets = offsets_before(a) + (int)a->kernel_w + offsets_after(a);
  w->margin = (2 * a->kernel_w + L - 1) / L * L;
  w->line = 2 * w->margin + ((ptrdiff_t)tiles + 1) * L;
  w->query_row = dim * w->line;
  w->grad_row = value_dim * w->line;
  w->weights_row = (ptrdiff_t)kernel_h * w->offsets * w->line;
  w->rings = w->arena.used;
  w->queries = fv_take(&w->arena, w->rows * w->query_row);
  w->grads = fv_take(&w->arena, w->rows * w->grad_row);
  w->weights = fv_take(&w->arena, w->rows * w->weights_row);
  w->dlogits = fv_take(&w->arena, w->rows * w->weights_row);
  w->rings_size = w->arena.used - w->rings;
  w->logits = fv_take(&w->arena, ROWS * window);
  w->products = fv_take(&w->arena, ROWS * window);
  w->out = fv_take(&w->arena, (ptrdiff_t)ROWS * most * L);
  w->grad_keys = fv_take(&w->arena, (ptrdiff_t)ROWS * dim * L);
  w->grad_values = fv_take(&w->arena, (ptrdiff_t)ROWS * value_dim * L);
  w->table = fv_take(&w->arena, a->bias_kind == BIAS_TABLE ? (tiles + 1) * table_size(a) : 0);
  w->table_sums = fv_take(&w->arena, a->bias_kind == BIAS_TABLE ? (tiles + 1) * table_size(a) : 0);
  w->each = fv_take(&w->arena, a->bias_kind == BIAS_EACH ? window : 0);
  w->place = fv_take_bytes(&w->arena, tiles * (ptrdiff_t)sizeof(int));
  w->passes = take_passes(&w->arena, a);
  w->seen = fv_take_bytes(&w->arena, most_key_tiles(a) * (ptrdiff_t)sizeof(fv_range));
}

/* ---- a block of query rows --------------------------------------------------------------- */

/* The lanes of a tile that are columns of the map: 1 there, 0 beyond. */
FV_INLINE fv_f lanes_inside(const fv_map *m, int tile) {
  fv_f inside;
  for (int i = 0; i < L; ++i) inside[i] = tile * L + i < m->width ? 1.f : 0.f;
  return inside;
}

/* Row y of a plane into its ring, zero beyond the map. */
static void line_row(const fv_workspace *w, const fv_map *m, const fv_plane *p, int y, int dim,
                     float factor, float *ring, ptrdiff_t ring_row) {
  float *to = ring + (y % w->rows) * ring_row + w->margin;
  for (int x = 0; x < m->width; x += L) {
    const char *lanes[L];
    lanes_at(p, y, x, m->width, lanes);
    fv_gather(p->storage, lanes, to + x, w->line, dim, factor);
    for (int i = m->width - x; i < L; ++i)
      for (int d = 0; d < dim; ++d) to[d * w->line + x + i] = 0.f;
  }
}

/* A number for each of a tile's queries, from a contiguous float32 (B, H, W, heads). */
static fv_f numbers_of_tile(const fv_arguments *a, const fv_map *m, const float *from, int y,
                            int tile) {
  const char *first = (const char *)from + query_place(a, m, y, tile * L) * 4;
  const ptrdiff_t next = a->dilation_w * a->heads * 4;
  const int lanes = lanes_of(m, tile);
  fv_f values;
  for (int i = 0; i < L; ++i)
    values[i] = fv_read_one(first + (i < lanes ? i : lanes - 1) * next, STORAGE_FLOAT32);
  return values;
}

/* Where vectors [key row][tap] go: so far apart are key rows and taps. */
typedef struct {
  float *to;
  ptrdiff_t row, tap;
} fv_taps;

/* The place of a tile's row in a ring, where tap 0 of a plain tile lies; offset 0 of others. */
FV_INLINE fv_taps taps_in_ring(const fv_workspace *w, const fv_map *m, int y, int tile,
                               float *ring) {
  fv_taps s = {.row = w->offsets * w->line, .tap = w->line};
  s.to = ring + (y % w->rows) * w->weights_row + w->margin + tile * L;
  if (tile_is_plain(m, tile))
    s.to += (column_start(m, tile * L) - (tile * L - m->before_w) - w->first_offset) * s.tap;
  return s;
}

/* logits -> dS, and into `dlogits` too; products dP -> P (after dropout) into `weights`. */
static void dlogits_of_row(const fv_arguments *a, const fv_map *m, int y, int tile, float *logits,
                           float *products, fv_taps weights, fv_taps dlogits) {
  const int taps = m->kernel_h * m->kernel_w;
  fv_f log_sum = numbers_of_tile(a, m, a->lse, y, tile) * FV_LOG2E;
  const fv_f inside = lanes_inside(m, tile);
  fv_f total = {0};
  log_sum = fv_select(log_sum == -INFINITY, (fv_f){0}, log_sum);
  if (a->grad_lse) total = -inside * numbers_of_tile(a, m, a->grad_lse, y, tile);
  const fv_dropout dropout = fv_dropout_of(&a->run);
  const fv_u words = a->run.threshold ? dropout_words(a, m, &dropout, y, tile) : (fv_u){0};
  for (int i = 0; i < taps; ++i) {
    fv_f weight = fv_exp2(fv_load(logits + i * L) - log_sum) * inside;
    fv_f product = fv_load(products + i * L);
    if (a->run.threshold) {
      const fv_i kept = fv_dropout_kept(&dropout, words, (uint32_t)i);
      product = fv_select(kept, product * dropout.scale, (fv_f){0});
      fv_store(products + i * L, product);
    }
    total += weight * product;
    fv_store(logits + i * L, weight);
  }
  for (int i = 0; i < m->kernel_h; ++i)
    for (int t = 0; t < m->kernel_w; ++t) {
      const int tap = i * m->kernel_w + t;
      fv_f weight = fv_load(logits + tap * L);
      fv_f dlogit = weight * (fv_load(products + tap * L) - total);
      if (a->run.threshold) {
        const fv_i kept = fv_dropout_kept(&dropout, words, (uint32_t)tap);
        weight = fv_select(kept, weight * dropout.scale, (fv_f){0});
      }
      fv_store(weights.to + i * weights.row + t * weights.tap, weight);
      fv_store(dlogits.to + i * dlogits.row + t * dlogits.tap, dlogit);
      fv_store(logits + tap * L, dlogit);
    }
}

/* One row of a tile that is not plain, by tap, into a ring, by offset. */
static void keep_row(const fv_workspace *w, const fv_map *m, int tile, const float *from,
                     fv_taps ring) {
  const int kernel_w = m->kernel_w;
  int shift[L], shifts = 0; /* by which the offset exceeds the tap, neighbours' often the same */
  fv_i lanes[L];
  for (int l = 0; l < lanes_of(m, tile); ++l) {
    const int x = tile * L + l, by = column_start(m, x) - (x - m->before_w) - w->first_offset;
    if (!shifts || shift[shifts - 1] != by) {
      shift[shifts] = by;
      lanes[shifts++] = (fv_i){0};
    }
    lanes[shifts - 1][l] = -1;
  }
  for (int i = 0; i < m->kernel_h; ++i)
    for (int e = shift[shifts - 1]; e < shift[0] + kernel_w; ++e) {
      fv_f x = {0};
      for (int n = 0; n < shifts; ++n) {
        const int t = e - shift[n];
        if (t >= 0 && t < kernel_w)
          x = fv_select(lanes[n], fv_load(from + (i * kernel_w + t) * L), x);
      }
      fv_store(ring.to + i * ring.row + e * ring.tap, x);
    }
}

/* Numbers of a tile's queries, `count` a query, to a contiguous tensor. */
static void store_queries(const fv_arguments *a, const fv_map *m, void *to, int y, int tile,
                          int count, float factor, const float *from, int64_t storage) {
  const ptrdiff_t bytes = (ptrdiff_t)count * fv_bytes((int)storage);
  fv_scatter((int)storage, from, (char *)to + query_place(a, m, y, tile * L) * bytes,
             a->dilation_w * a->heads * bytes, count, lanes_of(m, tile), fv_set(factor));
}

static void tile_queries(const fv_arguments *a, fv_workspace *w, const fv_map *m, const fv_block *b,
                         const fv_planes *query_planes, const fv_planes *grad_planes, int tile,
                         bool owned) {
  const int dim = (int)a->dim, value_dim = (int)a->value_dim;
  const int x = tile * L, lanes = lanes_of(m, tile), next = b->y + b->rows;
  fv_ahead first = {0}, second = {0}, third = {0};
  const ptrdiff_t window = window_floats(m);
  const ptrdiff_t table_at = a->bias_kind == BIAS_TABLE ? w->place[tile] * table_size(a) : 0;
  const float *queries[ROWS], *grads[ROWS];
  for (int r = 0; r < b->rows; ++r) {
    const ptrdiff_t row = (b->y + r) % w->rows, column = w->margin + tile * L;
    queries[r] = w->queries + row * w->query_row + column;
    grads[r] = w->grads + row * w->grad_row + column;
  }
  add_queries_ahead(&first, a, m, a->lse, b, tile, 1, STORAGE_FLOAT32);
  add_rows_ahead(&first, &w->keys, b->key_end, next, tile);
  add_part_ahead(&first, query_planes, next, next + ROWS, m->height, x, lanes, dim);
  dot_block(m, b, queries, w->line, dim, &w->keys, tile, &first, w->logits);
  add_rows_ahead(&second, &w->values, b->key_end, next, tile);
  add_part_ahead(&second, grad_planes, next, next + ROWS, m->height, x, lanes, value_dim);
  if (owned) add_queries_ahead(&third, a, m, a->dq, b, tile, dim, (int)a->storage);
  dot_block(m, b, grads, w->line, value_dim, &w->values, tile, &second, w->products);
  for (int r = 0; r < b->rows; ++r) {
    float *logits = w->logits + r * window, *products = w->products + r * window;
    add_to_logits(a, m, b, r, &w->keys, tile, w->table + table_at, w->each, logits);
    const fv_taps weights = taps_in_ring(w, m, b->y + r, tile, w->weights);
    const fv_taps dlogits = taps_in_ring(w, m, b->y + r, tile, w->dlogits);
    if (tile_is_plain(m, tile)) {
      dlogits_of_row(a, m, b->y + r, tile, logits, products, weights, dlogits);
    } else {
      const ptrdiff_t row = (ptrdiff_t)m->kernel_w * L;
      dlogits_of_row(a, m, b->y + r, tile, logits, products, (fv_taps){products, row, L},
                     (fv_taps){logits, row, L});
      keep_row(w, m, tile, products, weights);
      keep_row(w, m, tile, logits, dlogits);
    }
    if (!owned || !a->d_bias) continue;
    if (a->bias_kind == BIAS_TABLE) {
      float *sums = w->table_sums + table_at +
                    table_index(m, b->y + r, b->start[r], m->kernel_h) * m->kernel_w * L;
      for (ptrdiff_t i = 0; i < window; i += L)
        fv_store(sums + i, fv_load(sums + i) + fv_load(logits + i));
    } else {
      store_queries(a, m, a->d_bias, b->y + r, tile, m->kernel_h * m->kernel_w, 1.f, logits,
                    a->bias_storage);
    }
  }
  if (!owned) return;
  memset(w->out, 0, (size_t)(b->rows * dim * L) * sizeof(float));
  weigh_block(m, b, w->logits, &w->keys, dim, tile, &third, w->out);
  for (int r = 0; r < b->rows; ++r)
    store_queries(a, m, a->dq, b->y + r, tile, dim, (float)a->run.scale,
                  w->out + (ptrdiff_t)r * dim * L, a->storage);
}

/* ---- rows of keys ------------------------------------------------------------------------ */

/* Offsets under which the keys of columns [x, x + L) are seen by any query. */
static fv_range offsets_of_tile(const fv_workspace *w, const fv_map *m, int x) {
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

/* out[r][channel] += sum of weights * rows of queries over all queries that see key rows; each row
 * of queries prefetches its share of what is ahead.
 */
static void gather_block(const fv_workspace *w, const fv_map *m, int key_begin, int key_end,
                         int first_query, int last_query, int x, fv_range offsets,
                         const float *weights, const float *lines, ptrdiff_t line_row_size, int dim,
                         const fv_ahead *ahead, float *out) {
  const int taps = (int)(offsets.end - offsets.begin), chunk = chunk_of(taps > 0 ? taps : 1);
  const ptrdiff_t window_row = w->offsets * w->line, column = w->margin + x + m->before_w;
  for (int y = first_query; y < last_query; ++y) {
    const int start = row_start(m, y);
    const int begin = start > key_begin ? start : key_begin;
    const int end = start + m->kernel_h < key_end ? start + m->kernel_h : key_end;
    fv_prefetch_share(ahead, y - first_query, last_query - first_query);
    if (begin >= end) continue;
    const float *row = weights + (y % w->rows) * w->weights_row + (begin - start) * window_row;
    const float *line = lines + (y % w->rows) * line_row_size + column;
    for (int t = 0; t < taps; t += chunk) {
      const int some = taps - t < chunk ? taps - t : chunk;
      const int e = (int)offsets.end - 1 - t; /* the largest offset: the query furthest back */
      const float *from[ROWS];
      float *to[ROWS];
      fv_columns columns;
      columns.step = w->line;
      columns.lanes = (fv_i){0};
      for (int r = 0; r < end - begin; ++r) {
        from[r] = row + r * window_row + (e - w->first_offset) * w->line + column - e;
        to[r] = out + (ptrdiff_t)(begin - key_begin + r) * dim * L;
        columns.row[r] = line - e;
      }
      weigh_table[0][end - begin - 1][0][some - 1](from, 1 - w->line, &columns, 0, dim, to);
    }
  }
}

/* Where the gradients of a tile of keys go in a contiguous (B, key_height, key_width, heads, dim),
 * and the bytes from one key's to the next's.
 */
FV_INLINE char *keys_at(const fv_arguments *a, const fv_map *m, void *to, int key_row, int x,
                        int dim, ptrdiff_t *next) {
  const int64_t row = m->image * a->key_height + m->class_y + key_row * a->dilation_h;
  const int64_t key = (row * a->key_width + m->class_x + x * a->dilation_w) * a->heads + m->head;
  const ptrdiff_t bytes = (ptrdiff_t)dim * fv_bytes((int)a->storage);
  *next = a->dilation_w * a->heads * bytes;
  return (char *)to + key * bytes;
}

FV_INLINE int key_lanes(const fv_map *m, int x) {
  return m->key_width - x < L ? m->key_width - x : L;
}

static void store_keys(const fv_arguments *a, const fv_map *m, void *to, int key_row, int x,
                       int dim, float factor, const float *from) {
  ptrdiff_t next;
  char *at = keys_at(a, m, to, key_row, x, dim, &next);
  fv_scatter((int)a->storage, from, at, next, dim, key_lanes(m, x), fv_set(factor));
}

FV_INLINE void add_keys_ahead(fv_ahead *ahead, const fv_arguments *a, const fv_map *m, void *to,
                              int begin, int end, int x, int dim) {
  const int bytes = dim * fv_bytes((int)a->storage);
  ptrdiff_t next;
  const char *at = keys_at(a, m, to, begin, x, dim, &next);
  fv_add_ahead(ahead, (fv_patch){at, a->dilation_h * a->key_width * a->heads * bytes, next,
                                 end - begin, key_lanes(m, x), bytes});
}

/* The gradients of key rows [begin, end), at most ROWS, whose queries [first, last) are known. */
static void rows_of_keys(const fv_arguments *a, const fv_workspace *w, const fv_map *m, int begin,
                         int end, int first, int last) {
  const int dim = (int)a->dim, value_dim = (int)a->value_dim;
  for (int x = 0; x < m->key_width; x += L) {
    const fv_range offsets = w->seen[x / L];
    fv_ahead dk = {0}, dv = {0};
    add_keys_ahead(&dk, a, m, a->dk, begin, end, x, dim);
    add_keys_ahead(&dv, a, m, a->dv, begin, end, x, value_dim);
    memset(w->grad_keys, 0, (size_t)((end - begin) * dim * L) * sizeof(float));
    memset(w->grad_values, 0, (size_t)((end - begin) * value_dim * L) * sizeof(float));
    gather_block(w, m, begin, end, first, last, x, offsets, w->dlogits, w->queries, w->query_row,
                 dim, &dk, w->grad_keys);
    gather_block(w, m, begin, end, first, last, x, offsets, w->weights, w->grads, w->grad_row,
                 value_dim, &dv, w->grad_values);
    for (int r = begin; r < end; ++r) {
      store_keys(a, m, a->dk, r, x, dim, FV_LN2, w->grad_keys + (ptrdiff_t)(r - begin) * dim * L);
      store_keys(a, m, a->dv, r, x, value_dim, 1.f,
                 w->grad_values + (ptrdiff_t)(r - begin) * value_dim * L);
    }
  }
}

/* ---- a map ------------------------------------------------------------------------------- */

/* Add the sums of a map's tiles to its head's table. */
static void add_table(const fv_workspace *w, const fv_map *m) {
  const int rows = 2 * m->kernel_h - 1, columns = 2 * m->kernel_w - 1;
  const ptrdiff_t size = (ptrdiff_t)rows * m->kernel_w * L;
  float *table = w->head_table + (ptrdiff_t)m->head * rows * columns;
  int shared = 0;
  for (int tile = m->tile_begin; tile < m->tile_end; ++tile) {
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

/* Make the workspace ready for a map: rings of zeros where nothing will be written, the offsets
 * under which its keys are seen, its tables.
 */
static void start_map(const fv_arguments *a, fv_workspace *w, const fv_map *m,
                      const fv_map *after) {
  if (w->width != m->width) /* the rings hold zeros wherever a map of this width writes nothing */
    memset(w->arena.memory + w->rings, 0, w->rings_size * sizeof(float));
  w->width = m->width;
  for (int x = 0; x < m->key_width; x += L) w->seen[x / L] = offsets_of_tile(w, m, x);
  pack_start(&w->keys, m, planes_of(a, m, after, &a->k, a->storage));
  pack_start(&w->values, m, planes_of(a, m, after, &a->v, a->storage));
  mask_keys(&w->keys, a, m);
  mask_keys(&w->values, a, m);
  if (a->bias_kind != BIAS_TABLE) return;
  tables_of_strip(a, m, w->place, w->table);
  if (a->d_bias)
    memset(w->table_sums, 0, (size_t)((most_tiles(a) + 1) * table_size(a)) * sizeof(float));
}

/* Rows [begin, end) of one map, queries and keys; `after` is the next map or NULL.
 *
 * Blocks of query rows go down the map; key rows follow as soon as all their queries have gone by.
 * Here a thread has rows 4 to 8, the kernel 3 rows (query row y sees key rows y - 1 to y + 1), and
 * the blocks have just done query row 8:
 *
 *     row              2   3   4   5   6   7   8   9   10
 *     key rows                 s   s   g   g   .
 *                              begin   key     stop = complete
 *                                                  end_key
 *     query rows           -   -   r   r   r   r   .
 *                                  first           y   last
 *
 *     s  gradients stored     g  being gathered     -  gone by, no longer needed
 *     r  in the rings, needed by g or later         .  to come
 *
 * Query rows 3 and 9 are another thread's, but they see key rows 4 and 8: both compute them.
 *
 *     key       the first key row whose gradients are not stored yet
 *     complete  no query row from y on sees a key row before it
 *     stop      gradients are gathered for [key, stop), ROWS rows as long as queries are to come
 *     first     the first query row that sees key row `key` or one after it
 *     y, last   the next query row, and the end of those that see a key row before end_key
 *
 * None of them ever decreases; key < stop <= complete and first < y whenever rows are gathered.
 */
static void rows_backward(const fv_arguments *a, fv_workspace *w, const fv_map *m,
                          const fv_map *after, int begin, int end) {
  const fv_planes queries = planes_of(a, m, after, &a->q, a->storage);
  const fv_planes grads = planes_of(a, m, after, &a->grad_out, a->storage);
  if (end > m->height) end = m->height;
  if (begin >= end) return;
  const int end_key = end == m->height ? m->key_height : end;
  int key = begin, first = 0, last = m->height;
  while (first < begin && row_start(m, first) + m->kernel_h <= key) ++first;
  while (last > end && row_start(m, last - 1) >= end_key) --last;
  start_map(a, w, m, after);
  for (int y = first; y < last;) {
    const bool owned = y >= begin && y < end;
    const fv_block block = block_at(m, y, y < begin ? begin : y < end ? end : last, &w->keys,
                                    w->passes);
    pack_rows(&w->keys, block.key_begin, block.key_end);
    pack_rows(&w->values, block.key_begin, block.key_end);
    for (int r = 0; r < block.rows; ++r) {
      line_row(w, m, &queries.here, y + r, (int)a->dim, (float)a->run.scale * FV_LOG2E, w->queries,
               w->query_row);
      line_row(w, m, &grads.here, y + r, (int)a->value_dim, 1.f, w->grads, w->grad_row);
    }
    for (int tile = m->tile_begin; tile < m->tile_end; ++tile)
      tile_queries(a, w, m, &block, &queries, &grads, tile, owned);
    y += block.rows;
    const int complete = y == last ? end_key : row_start(m, y);
    while (key < end_key && (key + ROWS <= complete || (y == last && key < complete))) {
      const int stop = key + ROWS < end_key ? key + ROWS : end_key;
      while (row_start(m, first) + m->kernel_h <= key && first + 1 < y) ++first;
      rows_of_keys(a, w, m, key, stop, first, y);
      key = stop;
    }
  }
  if (a->bias_kind == BIAS_TABLE && a->d_bias) add_table(w, m);
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(local_backward)(const fv_arguments *a) {
  check_arguments(a);
  if (a->batch) fv_check_view(&a->grad_out, a->storage, a->value_dim, true);
  assert(!a->batch || (a->lse && a->dq && a->dk && a->dv && (!a->d_bias || a->bias.data)));
  const int64_t height = class_length(a->height, a->dilation_h, 0);
  const int64_t rows = item_count(a, 1) * height;
  const int64_t table = a->bias_kind == BIAS_TABLE && a->d_bias
                            ? a->heads * (2 * a->kernel_h - 1) * (2 * a->kernel_w - 1)
                            : 0;
  float *tables = fv_alloc((size_t)(table * a->run.threads));
  int failed = !tables, threads = 1;
  if (failed) return failed;
  memset(tables, 0, (size_t)(table * a->run.threads) * sizeof(float));
  expect_writes(a, a->dq, a->height, a->width, a->dim);
  expect_writes(a, a->dk, a->key_height, a->key_width, a->dim);
  expect_writes(a, a->dv, a->key_height, a->key_width, a->value_dim);
#pragma omp parallel num_threads((int)a->run.threads) reduction(| : failed)
  {
    fv_workspace w = {0};
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
        const fv_map map = map_of(a, 1, number), after = map_of(a, 1, number + 1);
        rows_backward(a, &w, &map, end < mine.end ? &after : NULL, (int)(mine.begin - first),
                      (int)(end - first));
        mine.begin = end;
      }
      fv_free(memory);
    } else {
      failed = 1;
    }
  }
  for (int t = 0; t < threads && table; ++t)
    for (int64_t i = 0; i < table; ++i) ((float *)a->d_bias)[i] += tables[t * table + i];
  fv_free(tables);
  return failed;
}
