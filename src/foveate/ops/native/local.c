/* Local attention, forward: see local_map.h for how the keys lie.
 *
 * For a block of query rows and one tile: logits (dot_block), softmax over the window of each
 * lane, weighted values (weigh_block). Threads share all rows of all maps in contiguous parts.
 */
#include "local_logits.h"

typedef struct {
  fv_arena arena;
  fv_pack keys, values;
  float *q, *logits, *out, *table, *each;
  int *place;
} fv_forward;

static void plan(fv_forward *w, const fv_local *a) {
  const int dim = (int)a->dim, value_dim = (int)a->value_dim;
  const ptrdiff_t window = (ptrdiff_t)a->kernel_h * a->kernel_w * L;
  plan_pack(&w->keys, &w->arena, a, dim, is_masked(a));
  plan_pack(&w->values, &w->arena, a, value_dim, 0);
  w->q = take(&w->arena, (ptrdiff_t)ROWS * dim * L);
  w->out = take(&w->arena, (ptrdiff_t)ROWS * value_dim * L);
  w->logits = take(&w->arena, ROWS * (window + (ptrdiff_t)(ROWS - 1) * a->kernel_w * L));
  w->table = take(&w->arena, a->bias_kind == BIAS_TABLE ? table_floats(a) : 0);
  w->each = take(&w->arena, a->bias_kind == BIAS_EACH ? window : 0);
  w->place = (int *)take(&w->arena, most_tiles(a));
}

/* Tile `tile` of row y of a plane of queries, [channel][lane]; lanes beyond the row repeat it. */
static void pack_queries(const fv_map *m, const fv_plane *p, int y, int tile, int dim, float factor,
                         float *to) {
  const float *lanes[L];
  for (int i = 0; i < L; ++i) {
    int x = tile * L + i;
    lanes[i] = p->data + y * p->row + (x < m->width ? x : m->width - 1) * p->column;
  }
  pack_lanes(lanes, to, L, dim, factor);
}

/* The weights of one row of a tile, not yet divided by their sum; returns sum and log2-sum-exp. */
static fv_f soften(float *logits, int slots, fv_f *log_sum) {
  fv_f top = fv_load(logits);
  for (int i = 1; i < slots; ++i) top = fv_max(fv_load(logits + i * L), top);
  top = fv_select(top == -INFINITY, (fv_f){0}, top);
  fv_f sum = {0}, more = {0};
  int i = 0;
  for (; i + 2 <= slots; i += 2) {
    fv_f one = fv_exp2(fv_load(logits + i * L) - top);
    fv_f two = fv_exp2(fv_load(logits + (i + 1) * L) - top);
    sum += one;
    more += two;
    fv_store(logits + i * L, one);
    fv_store(logits + (i + 1) * L, two);
  }
  if (i < slots) {
    fv_f one = fv_exp2(fv_load(logits + i * L) - top);
    sum += one;
    fv_store(logits + i * L, one);
  }
  sum += more;
  *log_sum = fv_select(sum == 0.f, fv_set(-INFINITY), top + fv_log2(sum));
  return sum;
}

static void drop(const fv_local *a, const fv_map *m, int y, int tile, float *weights) {
  const fv_dropout dropout = dropout_of(a);
  const fv_u words = dropout_words(a, m, &dropout, y, tile);
  for (int slot = 0; slot < m->kernel_h * m->kernel_w; ++slot) {
    const fv_i kept = fv_dropout_kept(&dropout, words, (fv_u){0} + (uint32_t)slot);
    float *at = weights + slot * L;
    fv_store(at, fv_select(kept, fv_load(at) * dropout.scale, (fv_f){0}));
  }
}

static void finish(const fv_local *a, const fv_map *m, int y, int tile, float *out, fv_f sum,
                   fv_f log_sum) {
  const int value_dim = (int)a->value_dim;
  const int lanes = lanes_of(m, tile);
  const fv_f inverse = 1.f / fv_select(sum == 0.f, fv_set(1.f), sum);
  for (int d = 0; d < value_dim; ++d) fv_store(out + d * L, fv_load(out + d * L) * inverse);
  const int64_t query = query_place(a, m, y, tile);
  const ptrdiff_t next = a->dilation_w * a->heads;
  unpack_lanes(out, (float *)(intptr_t)a->out + query * value_dim, next * value_dim, value_dim,
               lanes);
  float *lse = (float *)(intptr_t)a->lse + query;
  for (int i = 0; i < lanes; ++i) lse[i * next] = log_sum[i] * FV_LN2;
}

static void tile_forward(const fv_local *a, fv_forward *w, const fv_map *m, const fv_block *b,
                         const fv_plane *queries, int tile) {
  const int dim = (int)a->dim, value_dim = (int)a->value_dim;
  const ptrdiff_t row = logits_row(m), kernel_row = (ptrdiff_t)m->kernel_w * L;
  const float *table = w->table;
  fv_f sum[ROWS], log_sum[ROWS];
  for (int r = 0; r < b->rows; ++r)
    pack_queries(m, queries, b->y + r, tile, dim, (float)a->scale * FV_LOG2E,
                 w->q + (ptrdiff_t)r * dim * L);
  dot_block(m, b, w->q, (ptrdiff_t)dim * L, L, dim, &w->keys, tile, w->logits);
  if (a->bias_kind == BIAS_TABLE) table += w->place[tile] * (2 * m->kernel_h - 1) * kernel_row;
  for (int r = 0; r < b->rows; ++r) {
    float *logits = w->logits + r * row + (b->start[r] - b->key_begin) * kernel_row;
    add_to_logits(a, m, b, r, &w->keys, tile, table, w->each, logits);
    prefetch_lanes((const float *)(intptr_t)a->out + query_place(a, m, b->y + r, tile) * value_dim,
                   a->dilation_w * a->heads * value_dim, value_dim, lanes_of(m, tile));
    sum[r] = soften(logits, m->kernel_h * m->kernel_w, &log_sum[r]);
    if (a->threshold) drop(a, m, b->y + r, tile, logits);
  }
  memset(w->out, 0, (size_t)(b->rows * value_dim * L) * sizeof(float));
  weigh_block(m, b, w->logits, &w->values, value_dim, tile, w->out);
  for (int r = 0; r < b->rows; ++r)
    finish(a, m, b->y + r, tile, w->out + (ptrdiff_t)r * value_dim * L, sum[r], log_sum[r]);
}

/* Rows [begin, end) of one map. */
static void rows_forward(const fv_local *a, fv_forward *w, int64_t number, int begin, int end) {
  const fv_map map = map_of(a, number);
  const fv_map *m = &map;
  const fv_plane queries = plane_of(a, m, a->q, a->q_stride);
  if (end > m->height) end = m->height;
  pack_start(&w->keys, m, plane_of(a, m, a->k, a->k_stride));
  pack_start(&w->values, m, plane_of(a, m, a->v, a->v_stride));
  pack_margins(&w->keys);
  pack_margins(&w->values);
  mask_keys(&w->keys, a, m);
  if (a->bias_kind == BIAS_TABLE) table_of_tiles(a, m, w->table, w->place);
  for (int y = begin; y < end; y += ROWS) {
    const fv_block block = block_at(m, y, end);
    pack_rows(&w->keys, block.key_begin, block.key_end);
    pack_rows(&w->values, block.key_begin, block.key_end);
    for (int tile = 0; tile < m->tiles; ++tile) {
      prefetch_next(m, &w->keys, &w->values, block.key_end, tile);
      prefetch_tile(&queries, y + ROWS, y + 2 * ROWS, m->height, tile * L, m->width, (int)a->dim);
      tile_forward(a, w, m, &block, &queries, tile);
    }
  }
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(local_forward)(const fv_local *a) {
  const int64_t height = class_length(a->height, a->dilation_h, 0);
  const int64_t rows = map_count(a) * height;
  int failed = 0;
#pragma omp parallel num_threads((int)a->threads) reduction(| : failed)
  {
    fv_forward w = {0};
    plan(&w, a);
    float *memory = fv_alloc(w.arena.used);
    if (memory) {
      w.arena = (fv_arena){memory, 0};
      plan(&w, a);
      fv_range mine = fv_split(rows, fv_threads(), fv_thread());
      while (mine.begin < mine.end) {
        const int64_t number = mine.begin / height, first = number * height;
        const int64_t end = first + height < mine.end ? first + height : mine.end;
        rows_forward(a, &w, number, (int)(mine.begin - first), (int)(end - first));
        mine.begin = end;
      }
      fv_free(memory);
    } else {
      failed = 1;
    }
  }
  return failed;
}
